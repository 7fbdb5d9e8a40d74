"""Two workers, processes of their own, on this machine; one of them is killed."""

import os
import signal
import threading
import time

import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster

from fastrecur import forget_mult, forget_mult_vjp
from fastrecur.smoothing import ewm_mean


@pytest.fixture(scope="module")
def client():
    with LocalCluster(2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster:
        with Client(cluster) as client:
            yield client


def slowly(block):
    time.sleep(0.1)
    return block


@pytest.mark.exhaustive
def test_two_workers(client, rng):
    x, f = rng.standard_normal((40, 6)), rng.random((40, 6))
    lazy = da.from_array(x, (8, 3)), da.from_array(f, (8, 3))
    h = forget_mult(f, x)
    np.testing.assert_allclose(forget_mult(lazy[1], lazy[0]).compute(), h, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(ewm_mean(lazy[0], alpha=0.1).compute(), ewm_mean(x, alpha=0.1), rtol=1e-12, atol=1e-13)
    for one, other in zip(
        forget_mult_vjp(lazy[0], lazy[1], lazy[0], h)[:2], forget_mult_vjp(x, f, x, h)[:2], strict=True
    ):
        np.testing.assert_allclose(one.compute(), other, rtol=1e-12, atol=1e-13)


@pytest.mark.exhaustive
def test_a_worker_that_is_killed(client, rng):
    x = rng.standard_normal((60, 4))
    lazy = da.from_array(x, (2, 2)).map_blocks(slowly, dtype=x.dtype, meta=np.empty((0, 0)))
    workers = client.run(os.getpid)
    future = client.compute(forget_mult(0.1, lazy))
    timer = threading.Timer(1.0, os.kill, (next(iter(workers.values())), signal.SIGKILL))
    timer.start()
    np.testing.assert_allclose(future.result(timeout=120), forget_mult(0.1, x), rtol=1e-12, atol=1e-13)
    timer.join()
    client.wait_for_workers(2, timeout=60)
    assert set(client.run(os.getpid).values()) != set(workers.values())

"""Kernels on tensors run on torch's own threads."""

import os
import subprocess
import sys

import pytest
import torch

import fastrecur
from fastrecur._cpu.machine import threads as _threads, workers
from fastrecur.torch._operator import team

HAS_OPENMP = team._openmp() is not None

FORKED = """
import multiprocessing, torch, fastrecur
x = torch.ones(300, 4096)
def check(_):
    return bool((fastrecur.forget_mult(0.5, x, 1.0).numpy() == 1).all())  # torch's own threads do not survive a fork
assert check(0)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(check, range(4)) == [True] * 4
print("done")
"""


def large():
    torch.manual_seed(0)
    return torch.rand(300, 4097), torch.randn(300, 4097)


@pytest.mark.skipif(sys.platform != "linux", reason="torch's OpenMP is looked for on Linux")
def test_the_team_of_torch_is_found():
    assert HAS_OPENMP == torch.backends.openmp.is_available()


@pytest.mark.skipif(not HAS_OPENMP, reason="this torch has no OpenMP team")
def test_large_tensors_take_the_team_and_no_other_threads(monkeypatch):
    f, x = large()
    expected = fastrecur.forget_mult(f.numpy(), x.numpy())

    def refuse(*_):
        raise RuntimeError("the pool was asked")

    monkeypatch.setattr(_threads, "run", refuse)
    tables = []
    entry = workers.team_entry
    monkeypatch.setattr(workers, "team_entry", lambda table: tables.append(1) or entry(table))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert torch.equal(fastrecur.forget_mult(f, x), torch.from_numpy(expected))
    assert tables


def test_without_openmp_the_pool_is_taken(monkeypatch):
    f, x = large()
    expected = fastrecur.forget_mult(f, x)
    monkeypatch.setattr(team, "_openmp", lambda: None)
    assert torch.equal(fastrecur.forget_mult(f, x), expected)


def test_more_calls_than_threads_and_threads_than_calls(set_torch_threads):
    f, x = large()
    f, x, results = f.requires_grad_(), x.sum(0, keepdim=True), []
    for threads in (1, 2, 5):
        set_torch_threads(threads)
        h = fastrecur.forget_mult(f, x)
        results.append((h.detach(), *torch.autograd.grad(h.sum(), f)))
    for other in results[1:]:
        assert all(torch.equal(one, same) for one, same in zip(results[0], other, strict=True))


@pytest.mark.exhaustive
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_takes_threads_of_its_own():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "done\n", done.stderr

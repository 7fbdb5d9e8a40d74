"""Several devices: replicas of nn.DataParallel, and processes."""

import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.parallel import replicate

from fastrecur.torch import QRNN, WeightDrop

X = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def replicas(monkeypatch):
    """Return nn.DataParallel's own way of making two replicas, with copies in CPU memory for those on two cards."""

    def copies(tensors, devices, detach=False):
        return [[(t.detach() if detach else t).clone() for t in tensors] for _ in devices]

    monkeypatch.setattr(sys.modules["torch.nn.parallel.replicate"], "_broadcast_coalesced_reshape", copies)
    return lambda network: replicate(network, [0, 1])


@pytest.mark.parametrize("drop", [False, True])
def test_replicas(replicas, drop):
    model = QRNN(3, 8, 2, bidirectional=True, window=2, dropout=0.1, zoneout=0.1).eval()
    if drop:
        for layer in model.layers:
            layer.linear = WeightDrop(layer.linear, ["weight"], 0.5).eval()
    h0 = torch.randn(4, 4, 8)
    output, h_n = model(X, h0)
    expected = torch.autograd.grad(output.square().sum() + h_n.sum(), list(model.parameters()))
    results, failures = [None, None], []

    def work(k, replica):
        try:
            part = slice(2 * k, 2 * k + 2)
            results[k] = replica(X[:, part], h0[:, part])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=item) for item in enumerate(replicas(model))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    together = [torch.cat(parts, 1) for parts in zip(*results, strict=True)]
    torch.testing.assert_close(together, [output, h_n])
    gradients = torch.autograd.grad(together[0].square().sum() + together[1].sum(), list(model.parameters()))
    torch.testing.assert_close(gradients, expected)


def test_replicas_cannot_save_inputs(replicas):
    """What a replica keeps is lost with it, so pieces of a stream would be silently wrong."""
    model = QRNN(3, 8, window=2, save_prev_x=True)
    for replica in replicas(model):
        with pytest.raises(RuntimeError, match=r"`save_prev_x` must be off under nn\.DataParallel"):
            replica(X)
    one = QRNN(3, 8, window=1, save_prev_x=True)
    torch.testing.assert_close(replicas(one)[0](X), one(X))


def test_data_parallel_without_a_card():
    model = QRNN(3, 8, 2)
    torch.testing.assert_close(nn.DataParallel(model, dim=1)(X), model(X))


@pytest.mark.exhaustive
def test_two_processes(run_python):
    output = run_python((Path(__file__).parent / "two_processes.py").read_text(), CUDA_VISIBLE_DEVICES="")
    shards = ["fully_shard", "fully_shard of WeightDrop", "fully_shard in bfloat16"]
    if torch.__version__.startswith("2.6"):
        shards = []  # its fully_shard asks the CPU for a stream, and fails
    assert output.split("\n") == ["DistributedDataParallel", "DistributedDataParallel of WeightDrop", *shards, ""]

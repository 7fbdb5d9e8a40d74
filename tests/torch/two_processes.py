"""Two processes of gloo train a network as one does: run by test_qrnn_devices.py, as a script of its own."""

import os
import sys
import tempfile

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pack_sequence

from fastrecur.torch import QRNN, WeightDrop

X = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(1))
LENGTHS = 6, 2, 4, 6
SHARDS = not torch.__version__.startswith("2.6")  # its fully_shard asks the CPU for a stream, and fails


def model():
    torch.manual_seed(0)
    return QRNN(3, 8, 2, bidirectional=True, window=2, zoneout=0.3).eval()  # zoneout by its mean: the same for all


def dropping(network):
    for layer in network.layers:
        layer.linear = WeightDrop(layer.linear, ["weight"], 0.5).eval()
    return network


def train(network, inputs, rate):
    """Return the parameters after steps down the sum of the squares, of each of the inputs in turn."""
    optimiser = torch.optim.SGD(network.parameters(), lr=rate)
    for x in inputs * 2:
        output, h_n = network(x)
        optimiser.zero_grad()
        (rows(output).square().sum() + h_n.square().sum()).backward()
        optimiser.step()
    return [full(p) for p in network.parameters()]


def rows(output):
    return output if isinstance(output, torch.Tensor) else output.data


def full(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.detach().clone()


def lanes(first, last):
    """A part of the batch, padded and packed."""
    sequences = [X[: LENGTHS[b], b] for b in range(first, last)]
    return [X[:, first:last], pack_sequence(sequences, enforce_sorted=False)]


def sharded(network, **options):
    for layer in network.layers:
        fully_shard(layer, **options)
    return fully_shard(network, **options)


def work(rank, place):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    expected = train(model(), lanes(0, 4), 0.05)
    own = lanes(2 * rank, 2 * rank + 2)
    networks = {
        "DistributedDataParallel": DistributedDataParallel(model()),
        "DistributedDataParallel of WeightDrop": DistributedDataParallel(dropping(model())),
    }
    if SHARDS:
        networks["fully_shard"] = sharded(model(), mesh=mesh)
        networks["fully_shard of WeightDrop"] = sharded(dropping(model()), mesh=mesh)
    for name, network in networks.items():
        actual = train(network, own, 0.1)  # gradients are averaged over the processes
        for p in actual:
            (same,) = [q for q in expected if q.shape == p.shape and torch.allclose(p, q, rtol=1e-4, atol=1e-5)]
        if rank == 0:
            print(name)
    if SHARDS:
        in_bfloat16(rank, mesh, own)
    dist.barrier()  # who is done first would close what the other still reads from
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # torch's threads have once aborted a process that was at its end


def in_bfloat16(rank, mesh, own):
    network = sharded(model(), mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    for x in [own[0], own[1].to(torch.bfloat16)]:  # it casts tensors, and leaves packed ones as they are
        output, h_n = network(x)
        assert h_n.dtype == torch.bfloat16
        rows(output).float().sum().backward()
        with torch.no_grad():
            assert network(x)[1].dtype == torch.bfloat16
    assert all(full(p.grad).abs().sum() > 0 for p in network.parameters())
    if rank == 0:
        print("fully_shard in bfloat16")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        spawn(work, (place,), nprocs=2)

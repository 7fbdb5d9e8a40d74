"""A series in shards on several ranks, in processes of their own."""

import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastrecur.torch import QRNN, distributed
from fastrecur.torch._operator import shards

HERE = Path(__file__).parent


def ranks(script, *arguments, timeout=280):
    """Run a script of processes; return its output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(HERE / script), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(HERE.parents[1]), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


ALL = [
    "values_and_derivatives",
    "broadcast_operands",
    "ragged_lanes",
    "segments",
    "offsets_of_other_kinds",
    "numbers_that_are_not_finite_stop_at_a_border",
    "complex_numbers",
    "short_dtypes",
    "one_long_series",
    "shards_that_forget",
    "exact_at_the_ends",
    "what_cannot_be_composed",
    "some_gradients_wanted",
    "cotangents_of_other_strides",
    "traffic",
    "compiled",
    "transforms_raise",
    "placed_tensors",
    "tensors_placed_along_other_axes",
    "quasi_recurrent_networks",
    "networks_in_float32",
    "streams_of_networks",
    "second_derivatives_of_networks",
    "data_and_sequence_parallel",
    "ranks_that_differ",
    "ranks_that_differ_later",
]
# What more ranks could change: states that cross whole shards, and meshes of two dimensions.
OF_FOUR = [
    "values_and_derivatives",
    "ragged_lanes",
    "segments",
    "numbers_that_are_not_finite_stop_at_a_border",
    "shards_that_forget",
    "what_cannot_be_composed",
    "placed_tensors",
    "tensors_placed_along_other_axes",
    "quasi_recurrent_networks",
    "streams_of_networks",
    "data_and_sequence_parallel",
    "ranks_that_differ",
]


@pytest.mark.exhaustive
def test_ranks():
    """Four find the kernels that two have compiled."""
    assert ranks("shards.py", 2) == ALL
    assert ranks("shards.py", 4, "quietly", *OF_FOUR) == OF_FOUR


FAULTS = """
import sys, time
from datetime import timedelta
import torch, torch.distributed as dist
from fastrecur.torch import distributed
fault, rank, place = sys.argv[1], int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + place, rank=rank, world_size=2)
group = dist.new_group(timeout=timedelta(seconds=3))
x = torch.ones(4, 3)
distributed.forget_mult(0.5, x)
print("ready", flush=True)
if fault == "lanes" and rank:
    x = torch.ones(4, 5)
if rank and fault in ("death", "silence"):
    time.sleep(1000)
try:
    distributed.forget_mult(0.5, x, group=group)
except RuntimeError as error:
    print(error, flush=True)
"""


ENDED = "collective mismatch|op.preamble.length <= op.nbytes"  # in gloo's words, of today and of torch 2.6


def messages(fault, place):
    """Run two ranks, one of them with a fault; return what those said that were to hear of it."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", FAULTS, fault, str(rank), str(place)],
            env=os.environ | {"PYTHONPATH": str(HERE.parents[1]), "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        if fault == "death":
            workers[1].send_signal(signal.SIGKILL)
        said = []
        for worker in workers if fault == "lanes" else workers[:1]:
            worker.wait(timeout=240)  # of the group's 3 seconds, and whatever the machine is busy with
            said.append(worker.stdout.read())
            # A packet that is longer than expected is where gloo ends a process.
            assert said[-1] or (fault == "lanes" and re.search(ENDED, worker.stderr.read()))
        return said
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


@pytest.mark.exhaustive
@pytest.mark.parametrize(("fault", "tries"), [("death", 1), ("silence", 1), ("lanes", 5)])
def test_faults(fault, tries, tmp_path):
    """A rank that is killed, that does not come, or that has other lanes: the others hear of it within the timeout."""
    # On a busy machine gloo may end both of two that differ before either is told.
    told = (
        any("with the other ranks of `group` failed" in message for message in messages(fault, tmp_path / f"store{k}"))
        for k in range(tries)
    )
    assert any(told)


@pytest.fixture
def alone():
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_without_processes():
    with pytest.raises(RuntimeError, match=r"call torch\.distributed\.init_process_group"):
        distributed.forget_mult(0.5, torch.ones(3))


def test_arguments(alone):
    x = torch.ones(4, 3)
    with pytest.raises(TypeError, match="`group` must be a process group"):
        distributed.forget_mult(0.5, x, group=3)
    with pytest.raises(ValueError, match="`h0`"):
        distributed.forget_mult(0.5, x, torch.ones(2))
    with pytest.raises(ValueError, match="axis"):
        distributed.linear_recurrence(0.5, x, axis=2)
    with pytest.raises(TypeError, match="complex"):
        distributed.forget_mult(0.5j, x)
    with pytest.raises(TypeError, match="`module` must be a QRNN or a QRNNLayer, got torch.nn"):
        distributed.SequenceParallel(torch.nn.GRU(2, 2))
    network = distributed.SequenceParallel(QRNN(3, 4))
    with pytest.raises(TypeError, match="PackedSequence"):
        network(torch.nn.utils.rnn.pack_sequence([torch.ones(4, 3)]))


@pytest.mark.exhaustive
def test_import_by_name():
    code = "import sys, fastrecur.torch; print('fastrecur.torch.distributed' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE.parents[1], check=True)
    assert done.stdout == "False\n"


@pytest.mark.sample(family=["forget"], back=[False])
@pytest.mark.parametrize("family", ["forget", "linear"])
@pytest.mark.parametrize("back", [False, True])
def test_torch_s_operators_reduce_a_shard_as_the_kernels_do(family, back):
    """Devices without kernels have these alone. What is in the padding reaches nothing."""
    a, b, start = torch.rand(9, 3), torch.randn(9, 3), torch.randn(3, dtype=torch.float64)
    for reverse, lengths in itertools.product((False, True), (None, torch.tensor([9, 0, 4]))):
        own = b if lengths is None else torch.where(torch.arange(9).unsqueeze(1) < lengths, b, torch.nan)
        arguments = family, a, own, start, lengths, 0, reverse, torch.float32, back
        torch.testing.assert_close(shards._composed_summary(*arguments), shards.summary(*arguments))

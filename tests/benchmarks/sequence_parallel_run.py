"""Measure a series that processes hold in stretches against one process that holds it whole, a thread each.

Measures the checkout that this file lies in. Results and gradients of every rank are compared with the whole's in the
same run. Times are medians of interleaved repeats, a repeat's time that of its slowest rank.
"""

import argparse
import gc
import statistics
import sys
import tempfile
import time

import report
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm
from turns import keep_memory

from fastrecur import forget_mult
from fastrecur.torch import distributed

SHAPE = 200000, 64


def operands(first, last):
    """Return steps of the gate, the series and the cotangent, without making all of them."""
    generator = torch.Generator().manual_seed(0)
    f, x, g = (torch.empty(last - first, SHAPE[1]) for _ in range(3))
    for begin in range(0, SHAPE[0], 1000):
        steps = [torch.rand(1000, SHAPE[1], generator=generator) for _ in range(3)]
        low, high = max(first, begin), min(last, begin + 1000)
        if low < high:
            for whole, part in zip((f, x, g), steps, strict=True):
                whole[low - first : high - first] = part[low - begin : high - begin]
    return f.requires_grad_(), x.requires_grad_(), g


def timed(function, takes_part):
    """Return the slowest process's seconds; those that take no part wait, which costs nothing.

    Processes leave a barrier milliseconds apart, so they agree on a moment (their clock is the machine's) to begin.
    """
    gc.collect()
    dist.barrier()
    start = torch.tensor(time.perf_counter() + 0.01, dtype=torch.float64)
    dist.broadcast(start, 0)
    while takes_part and time.perf_counter() < start.item():
        pass
    result = function() if takes_part else None
    seconds = torch.tensor(time.perf_counter() - start.item(), dtype=torch.float64)
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    return seconds.item(), result


def check(rank, cuts, results):
    """Raise unless every rank's results are those of the process that has the whole."""
    for result in results:
        for k, (first, last) in enumerate(cuts):
            part = torch.empty(last - first, SHAPE[1])
            if rank == len(cuts):
                part.copy_(result.detach()[first:last])
            dist.broadcast(part, len(cuts))
            if k == rank:
                torch.testing.assert_close(result.detach(), part, rtol=1e-6, atol=1e-6)


def work(rank, ranks, repeats, fresh, place, table):
    """Be one of the ranks, or behind them the one process that has the whole: each has a heap of its own."""
    torch.set_num_threads(1)
    if not fresh:
        keep_memory()
    dist.init_process_group("gloo", init_method=f"file://{place}/store", rank=rank, world_size=ranks + 1)
    group = dist.new_group(list(range(ranks)))
    cuts = [(SHAPE[0] * k // ranks, SHAPE[0] * (k + 1) // ranks) for k in range(ranks)]
    is_whole = rank == ranks
    f, x, g = operands(*([(0, SHAPE[0])] if is_whole else cuts[rank : rank + 1])[0])

    def step():
        began = time.perf_counter()
        h = forget_mult(f, x) if is_whole else distributed.forget_mult(f, x, group=group)
        forward = time.perf_counter() - began
        return forward, h, *torch.autograd.grad(h, (f, x), g)

    times = {True: [], False: []}
    for repeat in tqdm(range(repeats + 1), file=sys.stderr, disable=rank > 0):
        kept = []
        for alone in (True, False):
            both, results = timed(step, alone == is_whole)
            forward = torch.tensor(results[0] if results else 0.0, dtype=torch.float64)
            dist.all_reduce(forward, dist.ReduceOp.MAX)
            times[alone].append((forward.item(), both - forward.item(), both))
            kept = results or kept
            del results
        if repeat == 0:
            check(rank, cuts, kept[1:])
            times = {True: [], False: []}
        del kept
    if rank == 0:
        table.put([[statistics.median(t[k] for t in times[alone]) for alone in (False, True)] for k in range(3)])
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="results in memory that the system has to provide")
    given, began = parser.parse_args(), time.perf_counter()
    table = torch.multiprocessing.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as place:
        spawn(work, (given.ranks, 7 if given.quick else 30, given.fresh, place, table), nprocs=given.ranks + 1)
    seconds = time.perf_counter() - began
    print(report.title(report.about(__file__, sys.argv[1:], 1, seconds, report.TENSORS)))
    print(
        f"{SHAPE} float32, gloo, {given.ranks} ranks, one thread each, results in "
        f"{'fresh memory' if given.fresh else 'memory that was used before'}"
    )
    names = "forward", "backward", "forward and backward"
    for name, (ours, alone) in zip(names, table.get(), strict=True):
        print(f"  {name}: {ours / alone:.2f} of one process's time ({ours * 1e3:.1f} ms against {alone * 1e3:.1f} ms)")


if __name__ == "__main__":
    main()

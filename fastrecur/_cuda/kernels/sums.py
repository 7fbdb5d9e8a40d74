"""The kernel that adds up gradients over what was broadcast, in a fixed order, never by atomics.

A block has ``across`` threads side by side for neighbouring results and shares the summands of each among the rest; the
grid's second axis cuts the summands of a result into slices, which a second pass adds up. Sums keep what their rounding
leaves over. With one summand a result this copies and converts.
"""

from . import device as gpu
from .operands import offset, split_index
from .summaries import add_exactly, settled

THREADS = 256


def sums(cuda, zero):
    """Return the kernel; strides of results are ``kept``, of summands ``summed``."""
    kind = type(zero)

    def kernel(source, target, sizes):
        totals, rests = cuda.shared.array(THREADS, kind), cuda.shared.array(THREADS, kind)
        column = gpu.thread() & (sizes.across - 1)
        row = gpu.divide(gpu.narrow(gpu.thread()), sizes.across)
        rows = gpu.divide(gpu.narrow(gpu.block_threads()), sizes.across)
        result = gpu.narrow(gpu.block() * sizes.across + column)
        total, rest = zero, zero
        index = split_index(min(result, sizes.results - 1), sizes.middles, sizes.inners)
        if result < sizes.results:
            place, summand = offset(source.kept, index), gpu.block_row() * sizes.slice_size + row
            end = min(sizes.summands, (gpu.block_row() + 1) * sizes.slice_size)
            while summand < end:
                each = split_index(gpu.narrow(summand), sizes.summed_middles, sizes.summed_inners)
                value = gpu.load(source.at, place + offset(source.summed, each), zero)
                total, rest = add_exactly(total, rest, value)
                summand += rows
        totals[gpu.thread()], rests[gpu.thread()] = total, rest
        gpu.barrier()
        rows = gpu.divide(gpu.narrow(rows), gpu.narrow(2))
        while rows > 0:
            if row < rows:
                other = gpu.thread() + rows * sizes.across
                total, rest = add_exactly(totals[gpu.thread()], rests[gpu.thread()] + rests[other], totals[other])
                totals[gpu.thread()], rests[gpu.thread()] = total, rest
            gpu.barrier()
            rows = gpu.divide(gpu.narrow(rows), gpu.narrow(2))
        if row == 0 and result < sizes.results:
            total = settled(totals[gpu.thread()], rests[gpu.thread()])
            gpu.store(target.at, gpu.block_row() * target.slice + offset(target.kept, index), total)

    return kernel

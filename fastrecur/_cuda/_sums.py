"""The kernel that adds up gradients over what was broadcast, in a fixed order, never by atomics.

A block has ``across`` threads side by side for neighbouring results and shares the summands of each among the rest; the
grid's second axis cuts the summands of a result into slices, which a second pass adds up. Sums keep what their rounding
leaves over. With one summand a result this copies and converts.
"""

from ._device import barrier, block, block_row, block_threads, divide, load, narrow, store, thread
from ._lanes import add_exactly, lane_offset, settled, split_lane

THREADS = 256


def sums(cuda, zero, size):
    """Return the kernel; sizes and strides of results are ``kept``, of summands ``summed``."""
    kind = type(zero)

    def kernel(
        source, target, results, middles, inners, summands, summed_middles, summed_inners, slice_size, across,
        source_kept, source_summed, target_kept, target_slice,
    ):  # fmt: skip
        totals, rests = cuda.shared.array(THREADS, kind), cuda.shared.array(THREADS, kind)
        column = thread() & (across - 1)
        row, rows = divide(narrow(thread()), across), divide(narrow(block_threads()), across)
        result = narrow(block() * across + column)
        total, rest = zero, zero
        outer, middle, inner = split_lane(min(result, results - 1), middles, inners)
        if result < results:
            place = lane_offset(source_kept, outer, middle, inner)
            summand = block_row() * slice_size + row
            end = min(summands, (block_row() + 1) * slice_size)
            while summand < end:
                far, half, near = split_lane(narrow(summand), summed_middles, summed_inners)
                value = load(source, place + lane_offset(source_summed, far, half, near), zero)
                total, rest = add_exactly(total, rest, value)
                summand += rows
        totals[thread()], rests[thread()] = total, rest
        barrier()
        rows = divide(narrow(rows), narrow(2))
        while rows > 0:
            if row < rows:
                other = thread() + rows * across
                total, rest = add_exactly(totals[thread()], rests[thread()] + rests[other], totals[other])
                totals[thread()], rests[thread()] = total, rest
            barrier()
            rows = divide(narrow(rows), narrow(2))
        if row == 0 and result < results:
            total = settled(totals[thread()], rests[thread()])
            store(target, block_row() * target_slice + lane_offset(target_kept, outer, middle, inner), total)

    return kernel

"""The kernel that adds up gradients over what was broadcast, in a fixed order, never by atomics.

A block has ``across`` threads side by side for neighbouring results and shares the summands of each among the rest; the
grid's second axis cuts the summands of a result into slices, which a second pass adds up. Sums keep what their rounding
leaves over. With one summand a result this copies and converts.
"""

from ._device import barrier, block, block_row, block_threads, divide, load, narrow, store, thread
from ._operands import offset, split_index
from ._summaries import add_exactly, settled

THREADS = 256


def sums(cuda, zero):
    """Return the kernel; strides of results are ``kept``, of summands ``summed``."""
    kind = type(zero)

    def kernel(source, target, sizes):
        totals, rests = cuda.shared.array(THREADS, kind), cuda.shared.array(THREADS, kind)
        column = thread() & (sizes.across - 1)
        row, rows = divide(narrow(thread()), sizes.across), divide(narrow(block_threads()), sizes.across)
        result = narrow(block() * sizes.across + column)
        total, rest = zero, zero
        index = split_index(min(result, sizes.results - 1), sizes.middles, sizes.inners)
        if result < sizes.results:
            place, summand = offset(source.kept, index), block_row() * sizes.slice_size + row
            end = min(sizes.summands, (block_row() + 1) * sizes.slice_size)
            while summand < end:
                each = split_index(narrow(summand), sizes.summed_middles, sizes.summed_inners)
                value = load(source.at, place + offset(source.summed, each), zero)
                total, rest = add_exactly(total, rest, value)
                summand += rows
        totals[thread()], rests[thread()] = total, rest
        barrier()
        rows = divide(narrow(rows), narrow(2))
        while rows > 0:
            if row < rows:
                other = thread() + rows * sizes.across
                total, rest = add_exactly(totals[thread()], rests[thread()] + rests[other], totals[other])
                totals[thread()], rests[thread()] = total, rest
            barrier()
            rows = divide(narrow(rows), narrow(2))
        if row == 0 and result < sizes.results:
            total = settled(totals[thread()], rests[thread()])
            store(target.at, block_row() * target.slice + offset(target.kept, index), total)

    return kernel

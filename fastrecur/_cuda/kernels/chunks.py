"""How a thread reads and writes its ``count`` neighbouring steps of a chunk: 16 bytes at once where time is contiguous.

``pack`` is how many of an operand's elements stand in 16 bytes, 0 if it is not to be read so. Where chunks begin
depends on shapes and strides alone: so that, for operands that start at a multiple of 16 bytes, each thread's steps do
too. What is made once is compiled once, however many kernels call it.
"""

import functools

from ..._steps.recurrence import select
from . import device as gpu
from .operands import later, offset


@functools.cache
def picker(pack):
    """Return a function that returns a pack of values, from ``first`` on or, unless ``ahead``, from ``last`` back."""
    half = pack // 2
    pick_half = picker(half) if half else None

    def pick_one(values, first, last, ahead):
        return (select(ahead, values[first], values[last]),)

    def pick(values, first, last, ahead):
        return pick_half(values, first, last, ahead) + pick_half(values, first + half, last - half, ahead)

    return gpu.helper(pick if half else pick_one)


@gpu.helper
def lowest(x, pack):
    """Return how many bytes from an operand's address the lowest of ``pack`` steps stands."""
    return select(x.time > 0, x.time - x.time, (pack - 1) * x.time)


@gpu.helper
def steps_before(a, b, by_a, pack, index, steps):
    """Return by how many steps before the first a series' chunks begin so that packs of a's or b's are aligned.

    That is, if the lowest address of that operand is.
    """
    at, time, before = offset(b.series, index), b.time, gpu.narrow(0)
    if by_a:
        at, time = offset(a.series, index), a.time
    if pack != 0:
        misplaced = gpu.narrow((at if time > 0 else at + steps * abs(time)) & 15)
        before = gpu.divide(misplaced, gpu.narrow(abs(time)))
        before = gpu.narrow(before if time > 0 else (pack - before) & (pack - 1))
    return before


@functools.cache
def alignment(pack):
    """Return a function that says whether a thread's steps may be read ``pack`` at a time, if that is not 0.

    They begin, or against the order of memory end, at a multiple of 16 bytes then.
    """
    if not pack:
        return gpu.helper(lambda x: True)
    return gpu.helper(lambda x: gpu.misalignment(gpu.shift(x.at, lowest(x, pack))) == 0)


@functools.cache
def whole_or_each(is_whole, fetch_whole, fetch_each):
    """Return the device function that reads operands' steps: all, if they are there and aligned."""

    @gpu.helper
    def fetch(x, low, high, into, fill):
        if is_whole(x, low, high):
            fetch_whole(x, into)
        else:
            fetch_each(x, low, high, into, fill)

    return fetch


@functools.cache
def fetcher(kind, count, pack):
    """Return the device functions that read a thread's steps of an operand.

    The first says whether all are there, and aligned; the second reads all, without a condition, so that all loads are
    on their way at once; the third reads those from ``low`` to ``high``, and fills in what is missing.
    """
    zero, is_aligned = kind(0), alignment(pack)

    @gpu.helper
    def is_whole(x, low, high):
        return low <= 0 and high >= count and is_aligned(x)

    def fetch_wide(x, into):
        first = lowest(x, pack)
        for q in range(count // pack):
            numbers = gpu.load_wide(x.at, first + q * pack * x.time, zero)
            for j in range(pack):
                into[q * pack + j] = select(x.time > 0, numbers[j], numbers[pack - 1 - j])

    def fetch_singly(x, into):
        for j in range(count):
            into[j] = gpu.load(x.at, j * x.time, zero)

    fetch_whole = gpu.helper(fetch_wide if pack else fetch_singly)

    @gpu.helper
    def fetch_some(x, low, high, into, fill):
        for j in range(count):
            into[j] = fill
            if j >= low and j < high:
                into[j] = gpu.load(x.at, j * x.time, zero)

    return is_whole, fetch_whole, whole_or_each(is_whole, fetch_whole, fetch_some)


@functools.cache
def together(one, other):
    """Return what does for two operands, or for two pairs of them, what `fetcher`'s functions do for one."""
    (is_whole_p, whole_p, each_p), (is_whole_q, whole_q, each_q) = one, other

    @gpu.helper
    def is_whole(xs, lows, high):
        return is_whole_p(xs[0], lows[0], high) and is_whole_q(xs[1], lows[1], high)

    @gpu.helper
    def fetch_whole(xs, intos):
        whole_p(xs[0], intos[0])
        whole_q(xs[1], intos[1])

    @gpu.helper
    def fetch_each(xs, lows, high, intos, fills):
        each_p(xs[0], lows[0], high, intos[0], fills[0])
        each_q(xs[1], lows[1], high, intos[1], fills[1])

    return is_whole, fetch_whole, fetch_each


def fetcher_of_two(kind, count, packs):
    """Return the device function that reads the steps of a recurrence's operands."""
    return whole_or_each(*together(*(fetcher(kind, count, packs[name]) for name in "ab")))


@functools.cache
def back_fetcher(kind, count, packs, closed, in_time):
    """Return the device function that reads a gradient's steps; ``in_time``: threads side by side share a series."""
    zero, ago, (g, a, b, h) = kind(0), 0 if in_time else 1, (fetcher(kind, count, pack) for pack in packs)
    fetch = whole_or_each(*together(together(g, a), together(b, h)))

    @gpu.helper
    def fetch_back(reads, valid, mine, rank, origin, arriving, gates, values, before):
        """Read this thread's steps, from ``mine`` on, and the states before them."""
        low, high = gpu.narrow(valid.start - mine), gpu.narrow(valid.stop - mine)
        g, a, b, h = reads
        operands = (later(g, mine), later(a, mine)), (later(b, mine), later(h, mine - ago))
        lows, fills = ((low, low), (low, gpu.narrow(low + ago))), ((-zero, closed), (zero, zero))
        fetch(operands, lows, high, ((arriving, gates), (values, before)), fills)
        if in_time:
            # The state before each step: its neighbour's, the thread's before, or one from before the group's steps.
            lane_id = gpu.narrow(gpu.thread() & 31)
            edge = gpu.shuffle(before[count - 1], lane_id - 1 if rank > 0 else lane_id)
            if rank == 0 and low < 0 and high > 0:
                edge = gpu.load(later(h, mine).at, -h.time, zero)
            for j in range(count - 1, 0, -1):
                before[j] = before[j - 1]
            before[0] = edge
        if low >= 0 and low < count:
            for j in range(count):
                before[j] = select(j == low, origin, before[j])

    return fetch_back


@functools.cache
def writer(count, pack):
    """Return a function that writes a thread's steps from ``low`` to ``high``."""
    is_aligned, pick = alignment(pack), picker(pack)

    def write_wide(x, values):
        first = lowest(x, pack)
        for q in range(count // pack):
            numbers = pick(values, q * pack, q * pack + pack - 1, x.time > 0)
            gpu.store_wide(x.at, first + q * pack * x.time, numbers)

    def write_singly(x, values):
        for j in range(count):
            gpu.store(x.at, j * x.time, values[j])

    write_whole = gpu.helper(write_wide if pack else write_singly)

    @gpu.helper
    def write(x, low, high, values):
        if low <= 0 and high >= count and is_aligned(x):
            write_whole(x, values)
        else:
            for j in range(count):
                if j >= low and j < high:
                    gpu.store(x.at, j * x.time, values[j])

    return write

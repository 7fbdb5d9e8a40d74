"""How a thread reads and writes its ``count`` neighbouring steps of a chunk: 16 bytes at once where time is contiguous.

``pack`` is how many of an operand's elements stand in 16 bytes, 0 if it is not to be read so. Where chunks begin
depends on shapes and strides alone: so that, for operands that start at a multiple of 16 bytes, each thread's steps do
too. What is made once is compiled once, however many kernels call it.
"""

import functools

from .._steps import select
from . import _device as gpu
from ._operands import later, offset


@gpu.helper
def two(values, at, ahead):
    return (
        select(ahead, values[at], values[at + 1]),
        select(ahead, values[at + 1], values[at]),
    )


@gpu.helper
def four(values, at, ahead):
    return (
        select(ahead, values[at], values[at + 3]),
        select(ahead, values[at + 1], values[at + 2]),
        select(ahead, values[at + 2], values[at + 1]),
        select(ahead, values[at + 3], values[at]),
    )


@gpu.helper
def eight(values, at, ahead):
    return (
        select(ahead, values[at], values[at + 7]),
        select(ahead, values[at + 1], values[at + 6]),
        select(ahead, values[at + 2], values[at + 5]),
        select(ahead, values[at + 3], values[at + 4]),
        select(ahead, values[at + 4], values[at + 3]),
        select(ahead, values[at + 5], values[at + 2]),
        select(ahead, values[at + 6], values[at + 1]),
        select(ahead, values[at + 7], values[at]),
    )


PACKED = {0: None, 2: two, 4: four, 8: eight}


@gpu.helper
def steps_before(x, index, steps, pack):
    """Return by how many steps before the first a series' chunks begin so that packs of an operand's are aligned.

    That is, if its lowest address is.
    """
    at, itemsize = offset(x.series, index), abs(x.time)
    misplaced = gpu.narrow((at if x.time > 0 else at + steps * itemsize) & 15)
    before = gpu.divide(misplaced, gpu.narrow(itemsize))
    return before if x.time > 0 else (pack - before) & (pack - 1)


@functools.cache
def aligner(guide):
    """Return a function that says by how many steps before the first a series' chunks begin.

    ``guide`` is the operand, a or b, that they are aligned by, and its pack.
    """
    name, pack = guide
    if not pack:
        return gpu.helper(lambda a, b, index, steps: gpu.narrow(0))
    if name == "a":
        return gpu.helper(lambda a, b, index, steps: gpu.narrow(steps_before(a, index, steps, pack)))
    return gpu.helper(lambda a, b, index, steps: gpu.narrow(steps_before(b, index, steps, pack)))


@functools.cache
def alignment(pack):
    """Return a function that says whether a thread's steps may be read ``pack`` at a time, if that is not 0.

    They begin, or against the order of memory end, at a multiple of 16 bytes then.
    """

    def is_aligned(x):
        return gpu.misalignment(gpu.shift(x.at, select(x.time > 0, x.time - x.time, (pack - 1) * x.time))) == 0

    return gpu.helper(is_aligned if pack else lambda x: True)


@functools.cache
def whole_fetcher(kind, count, pack):
    """Return a function that reads all of a thread's steps: without a condition, all loads are on their way at once."""
    zero = kind(0)

    def fetch_wide(x, into):
        first = select(x.time > 0, x.time - x.time, (pack - 1) * x.time)
        for q in range(count // pack):
            numbers = gpu.load_wide(x.at, first + q * pack * x.time, zero)
            for j in range(pack):
                into[q * pack + j] = select(x.time > 0, numbers[j], numbers[pack - 1 - j])

    def fetch_singly(x, into):
        for j in range(count):
            into[j] = gpu.load(x.at, j * x.time, zero)

    return gpu.helper(fetch_wide if pack else fetch_singly)


@functools.cache
def fetcher(kind, count, pack):
    """Return a function that reads a thread's steps from ``low`` to ``high``, and fills in what is missing."""
    zero = kind(0)
    is_aligned, fetch_whole = alignment(pack), whole_fetcher(kind, count, pack)

    @gpu.helper
    def fetch(x, low, high, into, fill):
        if low <= 0 and high >= count and is_aligned(x):
            fetch_whole(x, into)
        else:
            for j in range(count):
                into[j] = fill
                if j >= low and j < high:
                    into[j] = gpu.load(x.at, j * x.time, zero)

    return fetch


@functools.cache
def fetcher_of_two(kind, count, pack_p, pack_q):
    """Return a function that does for two operands what `fetcher`'s does for one."""
    fetch_p, fetch_q = fetcher(kind, count, pack_p), fetcher(kind, count, pack_q)
    whole_p, whole_q = whole_fetcher(kind, count, pack_p), whole_fetcher(kind, count, pack_q)
    p_is_aligned, q_is_aligned = alignment(pack_p), alignment(pack_q)

    @gpu.helper
    def fetch(p, q, low, high, into_p, into_q, fill_p, fill_q):
        if low <= 0 and high >= count and p_is_aligned(p) and q_is_aligned(q):
            whole_p(p, into_p)
            whole_q(q, into_q)
        else:
            fetch_p(p, low, high, into_p, fill_p)
            fetch_q(q, low, high, into_q, fill_q)

    return fetch


@functools.cache
def fetcher_of_four(kind, count, packs, closed):
    """Return a function that does so for the operands of a gradient; ``low_h`` is the first step that states have."""
    zero = kind(0)
    fetch_g_a, fetch_b = fetcher_of_two(kind, count, packs[0], packs[1]), fetcher(kind, count, packs[2])
    fetch_h = fetcher(kind, count, packs[3])
    whole_g, whole_a, whole_b, whole_h = (whole_fetcher(kind, count, pack) for pack in packs)
    g_is_aligned, a_is_aligned, b_is_aligned, h_is_aligned = map(alignment, packs)

    @gpu.helper
    def fetch(g, a, b, h, low, low_h, high, arriving, gates, values, before):
        is_whole = low <= 0 and low_h <= 0 and high >= count
        if is_whole and g_is_aligned(g) and a_is_aligned(a) and b_is_aligned(b) and h_is_aligned(h):
            whole_g(g, arriving)
            whole_a(a, gates)
            whole_b(b, values)
            whole_h(h, before)
        else:
            fetch_g_a(g, a, low, high, arriving, gates, zero, closed)
            fetch_b(b, low, high, values, zero)
            fetch_h(h, low_h, high, before, zero)

    return fetch


@functools.cache
def back_fetcher(kind, count, packs, closed):
    """Return a function that reads a gradient's steps where neighbouring threads have neighbouring ones."""
    zero, fetch = kind(0), fetcher_of_four(kind, count, packs, closed)

    @gpu.helper
    def fetch_back(g, a, b, h, valid, mine, rank, origin, arriving, gates, values, before):
        """Read this thread's steps, from ``mine`` on, and the states before them."""
        lane_id = gpu.narrow(gpu.thread() & 31)
        low, high = gpu.narrow(valid.start - mine), gpu.narrow(valid.stop - mine)
        g, a, b, h = later(g, mine), later(a, mine), later(b, mine), later(h, mine)
        fetch(g, a, b, h, low, low, high, arriving, gates, values, before)
        # The state before each step: its neighbour's, the thread's before, or one from before the group's steps.
        edge = gpu.shuffle(before[count - 1], lane_id - 1 if rank > 0 else lane_id)
        if rank == 0 and low < 0 and high > 0:
            edge = gpu.load(h.at, -h.time, zero)
        for ago in range(count - 1):
            before[count - 1 - ago] = before[count - 2 - ago]
        before[0] = edge
        for j in range(count):
            before[j] = select(j == low, origin, before[j])

    return fetch_back


@functools.cache
def writer(count, pack):
    """Return a function that writes a thread's steps from ``low`` to ``high``."""
    packed = PACKED[pack]

    def write_packs(x, low, high, values):
        first = select(x.time > 0, x.time - x.time, (pack - 1) * x.time)
        if low <= 0 and high >= count and gpu.misalignment(gpu.shift(x.at, first)) == 0:
            for q in range(count // pack):
                gpu.store_wide(x.at, first + q * pack * x.time, packed(values, q * pack, x.time > 0))
        else:
            for j in range(count):
                if j >= low and j < high:
                    gpu.store(x.at, j * x.time, values[j])

    def write_singly(x, low, high, values):
        for j in range(count):
            if j >= low and j < high:
                gpu.store(x.at, j * x.time, values[j])

    return gpu.helper(write_packs if pack else write_singly)

"""Kernels for series whose steps are neighbours in memory: 8 series by 8 steps at a time, in registers.

A block is loaded series by series and transposed, so that each of its steps is a vector; the steps are taken, their
results transposed back and stored. Scan order is the same through memory in all operands, up or down; a's value may be
one for all steps. All series have the same steps, 8 at least. Where these are no multiple of 8, one more block overlaps
the last whole one and takes the steps that are left.

``geometry`` is that of `_packing`.
"""

from collections import namedtuple

from .. import _layout
from .._layout import A_MODE, B_MODE, FLAGS, HEAD, N_STEPS, STORE, STREAMING, SUMS_A, TO_A, TO_B, A, B, G, H, Marks
from . import _transposes
from ._numba import INLINE, helper, inlined
from ._operands import NO, write_zeros
from ._packing import strides_of
from ._rules import a_is_time_invariant, adjoint, choice, enter, is_descending, leave, step
from ._scalars import fence, itemsize, load, load_int, minimum, misalignment, prefetch, shift, stack, stack_ints, store
from ._transposes import collect_octet, flags_of_step, has_flags, load_octet, stack_lines, store_octet, stream_lines
from ._types import LINE, OCTET, WIDTH
from ._vectors import load_half_vector, store_vector

AHEAD = 256  # bytes: prefetch distance along a series: more streams than the hardware prefetcher follows
LONG = 2048  # steps of a series from which what goes before its first whole line does not matter
NEXT_BLOCK = 64 << 10  # bytes of 8 series up to which those behind them are prefetched in memory's order
NONE = (NO,) * OCTET  # of a block's steps begin anew
ROWS = 8 * (OCTET + 1)  # numbers in a block's steps, and one step more
ROWS_FORWARD, ROWS_BACK = 3 * ROWS, 6 * ROWS  # of all operands and results

# Of 8 series: a pointer, offsets in bytes of each series, and bytes from a step, or a series, to the next.
Operand = namedtuple("Operand", "at offsets time lane")
# The same, what becomes of it, and the lines that wait to be written by non-temporal stores, if it is ``streaming``.
Result = namedtuple("Result", "at offsets time mode lines streaming")
# Steps of a block that is not taken whole; a's value for all steps; the states, those before the first step, and the
# sum of a's gradient.
Scratch = namedtuple("Scratch", "rows gate state first total")


@inlined
def in_scan_order(rule, rows):
    """Return a block's steps in scan order, for those in the order of memory; or the other way about."""
    if is_descending(rule):
        return rows[7], rows[6], rows[5], rows[4], rows[3], rows[2], rows[1], rows[0]
    return rows


@inlined
def lowest(rule, x, t):
    """Return where in memory the block begins whose first step in scan order is t."""
    return shift(x.at, (t + OCTET - 1) * x.time if is_descending(rule) else t * x.time)


@inlined
def load8(rule, x, t, carry):
    """Return 8 steps of 8 series from step t on."""
    return in_scan_order(rule, load_octet(lowest(rule, x, t), x.offsets, carry))


@inlined
def store8(rule, x, t, rows):
    """Write 8 steps of 8 series from step t on."""
    store_octet(lowest(rule, x, t), x.offsets, in_scan_order(rule, rows))


@inlined
def begins_line(x, t):
    """Return whether a block at step t is the first of those that a cache line holds, wherever it begins."""
    return t // OCTET * OCTET * itemsize(x.at) % LINE == 0


@inlined
def prefetch_next(x, direction, t, steps, by_block):
    """Prefetch what comes later: along the series; or where 8 are a block of memory, as much of the next block.

    So memory is read in its order, and series that stand a power of two apart do not evict each other from a cache set:
    a quarter to a third less time for gradients of (30000, 64) and (8192, 256) float32.
    """
    length = steps * abs(x.time)
    if by_block and x.lane == length and OCTET * length <= NEXT_BLOCK:
        next_ = shift(x.at, load_int(x.offsets, 0) + OCTET * length + minimum(0, (steps - 1) * x.time))
        for j in range(OCTET * t, OCTET * (t + OCTET), WIDTH):
            prefetch(next_, j, 0)
    elif begins_line(x, t):
        later = direction * (AHEAD // itemsize(x.at))
        inside = 0 <= t + later < steps
        distance = later * x.time if inside else (later - direction * steps) * x.time + OCTET * x.lane
        _transposes.prefetch_octet(shift(x.at, t * x.time), x.offsets, distance)


@inlined
def store_one_of_many(rule, x, direction, t, rows, streaming):
    """Write a block that others follow, by non-temporal stores of whole lines or with its lines prefetched."""
    if streaming:
        place = lowest(rule, x, t)
        offset = misalignment(shift(place, load_int(x.offsets, 0)))
        collect_octet(x.lines, offset, in_scan_order(rule, rows))
        if offset == (LINE - OCTET * itemsize(x.at) if direction * x.time > 0 else 0):
            stream_lines(x.lines, shift(place, -offset), x.offsets)
    else:
        if begins_line(x, t):
            distance = direction * (AHEAD // itemsize(x.at)) * x.time
            _transposes.prefetch_octet_for_write(shift(x.at, t * x.time), x.offsets, distance)
        store8(rule, x, t, rows)


@helper
def put_rows(place, rows):
    """Write a block's steps to scratch memory."""
    for k in range(OCTET):
        store_vector(place, OCTET * k, rows[k])


@inlined
def row(place, k):
    """Return one step from there."""
    return load_half_vector(place, OCTET * k, place)


@helper
def all_rows(at):
    """Return a block's steps from there."""
    return row(at, 0), row(at, 1), row(at, 2), row(at, 3), row(at, 4), row(at, 5), row(at, 6), row(at, 7)


@helper
def may_stream(is_large, to_line, steps):
    """Return whether non-temporal stores are used: results fill lines, but for the first and last of a long series."""
    return is_large and (to_line == 0 or (to_line > 0 and steps >= LONG))


@helper
def end_of_lines(target, first, steps):
    """Return up to which step whole lines go that begin with the first."""
    in_line = LINE // itemsize(target)
    return first + (steps - first) // in_line * in_line


@helper
def load_gates(gate, a):
    """Write each series' value of a for all steps to scratch memory."""
    for j in range(OCTET):
        store(gate, j, load(shift(a.at, load_int(a.offsets, j)), 0, gate))


@helper
def find_places(places, geometry, first, last):
    """Note each of 8 series' place in the three dimensions of series; the last one is repeated to make up 8."""
    middle, inner = load_int(geometry, HEAD), load_int(geometry, HEAD + 1)
    rest = first // inner
    i, j, k = rest // middle, rest % middle, first % inner
    for n in range(OCTET):
        store(places, 3 * n, i)
        store(places, 3 * n + 1, j)
        store(places, 3 * n + 2, k)
        if first + n < last - 1:
            k += 1
            if k == inner:
                j, k = j + 1, 0
                if j == middle:
                    i, j = i + 1, 0


@helper
def of_8_series(pointer, geometry, k, offsets, places):
    """Return the k-th operand of 8 series that stand at ``places``; ``offsets`` has room for all operands'."""
    strides, own = strides_of(geometry, k), shift(offsets, 8 * OCTET * k)
    outer, middle, inner = load_int(strides, 1), load_int(strides, 2), load_int(strides, 3)
    for n in range(OCTET):
        i, j, last = load_int(places, 3 * n), load_int(places, 3 * n + 1), load_int(places, 3 * n + 2)
        store(own, n, outer * i + middle * j + inner * last)
    return Operand(pointer, own, load_int(strides, 0), inner)


@inlined
def _flags_of_8_series(rule, carry, marks, geometry, offsets, places):
    return of_8_series(marks.flags, geometry, FLAGS, offsets, places)


@inlined
def _no_flags(rule, carry, marks, geometry, offsets, places):
    return ()


flags_of = choice("flagged", _flags_of_8_series, _no_flags, options=INLINE)


@helper
def line_distance(x):
    """Return how many steps to take until every series' next result begins a cache line; -1 if they never do.

    It begins one at its end where the walk goes down through memory.
    """
    size, begin = itemsize(x.at), load_int(x.offsets, 0)
    off = misalignment(shift(x.at, begin))
    for j in range(1, OCTET):
        if (load_int(x.offsets, j) - begin) % LINE != 0:
            return -1
    if off % size != 0:
        return -1
    return (LINE - off) % LINE // size if x.time > 0 else (off + size) % LINE // size


@helper
def load_states(states, carry, first, last):
    """Take 8 series' states from all series'."""
    for j in range(OCTET):
        store(states, j, load(carry, minimum(first + j, last - 1), carry))


@helper
def store_states(carry, states, first, count):
    """Give them back."""
    for j in range(count):
        store(carry, first + j, load(states, j, states))


@inlined
def _fresh_at(rule, carry, flags, t):
    return flags_of_step(shift(flags.at, t * flags.time), flags.offsets, carry)


@inlined
def _none(rule, carry, flags, t):
    return NO


@inlined
def _fresh8(rule, carry, flags, t):
    return in_scan_order(rule, _transposes.flags_of_octet(lowest(rule, flags, t), flags.offsets, carry))


@inlined
def _none8(rule, carry, flags, t):
    return NONE


# In which of 8 series step t begins anew; and, on the way back, each of 8 steps from there on.
fresh_at = choice("flagged", _fresh_at, _none, options=INLINE)
fresh8 = choice("flagged", _fresh8, _none8, options=INLINE)


@inlined
def advance(rule, fresh, before, gate, value):
    """Return the state after a step."""
    before, gate = enter(rule, before, fresh, before, gate)
    return step(rule, before, gate, value)


@inlined
def retreat(rule, fresh, arrived, gate, value, before):
    """Return a step's gradients, and what flows on from it."""
    before, gate = enter(rule, arrived, fresh, before, gate)
    grad_a, grad_b, r = adjoint(rule, arrived, gate, value, before)
    grad_a, r = leave(rule, arrived, fresh, grad_a, r)
    return grad_a, grad_b, r


@inlined
def _advance8(rule, h, fresh, gates, values):
    h0 = advance(rule, fresh[0], h, gates[0], values[0])
    h1 = advance(rule, fresh[1], h0, gates[1], values[1])
    h2 = advance(rule, fresh[2], h1, gates[2], values[2])
    h3 = advance(rule, fresh[3], h2, gates[3], values[3])
    h4 = advance(rule, fresh[4], h3, gates[4], values[4])
    h5 = advance(rule, fresh[5], h4, gates[5], values[5])
    h6 = advance(rule, fresh[6], h5, gates[6], values[6])
    return h0, h1, h2, h3, h4, h5, h6, advance(rule, fresh[7], h6, gates[7], values[7])


@inlined
def _advance8_plain(rule, h, carry, flags, t, steps, by_block, gates, values):
    return _advance8(rule, h, NONE, gates, values)


@inlined
def _advance8_flagged(rule, h, carry, flags, t, steps, by_block, gates, values):
    prefetch_next(flags, 1, t, steps, by_block)
    if has_flags(lowest(rule, flags, t), flags.offsets):
        return _advance8(rule, h, _fresh8(rule, carry, flags, t), gates, values)
    return _advance8(rule, h, NONE, gates, values)


# Take a block's steps. Where no flag is set none is asked for, and flags are prefetched: that took longer on the way
# back, where registers are few.
advance8 = choice("flagged", _advance8_flagged, _advance8_plain, options=INLINE)


@helper
def forward_some(rule, a, b, h, flags, scratch, t, low, high):
    """Take steps ``low`` to ``high`` of the block at step t; results in place of its other steps stay."""
    kept = scratch.rows
    a_rows, b_rows, h_rows = kept, shift(kept, ROWS * itemsize(kept)), shift(kept, 2 * ROWS * itemsize(kept))
    if not a_is_time_invariant(rule):
        put_rows(a_rows, load8(rule, a, t, kept))
    put_rows(b_rows, load8(rule, b, t, kept))
    put_rows(h_rows, load8(rule, h, t, kept))
    now, gate = row(scratch.state, 0), row(scratch.gate, 0)
    for k in range(low, high):
        gate_now = gate if a_is_time_invariant(rule) else row(a_rows, k)
        now = advance(rule, fresh_at(rule, kept, flags, t + k), now, gate_now, row(b_rows, k))
        store_vector(h_rows, OCTET * k, now)
    store_vector(scratch.state, 0, now)
    store8(rule, h, t, all_rows(h_rows))


@helper
def forward_8_series(rule, a, b, h, flags, scratch, steps, first, by_block):
    """Take all steps of 8 series; whole lines begin with step ``first``."""
    last = end_of_lines(h.at, first, steps)
    if first % OCTET != 0:
        forward_some(rule, a, b, h, flags, scratch, 0, 0, first % OCTET)
    gate = row(scratch.gate, 0)
    gates = gate, gate, gate, gate, gate, gate, gate, gate
    state = row(scratch.state, 0)
    for t in range(first % OCTET, steps - OCTET + 1, OCTET):
        if not a_is_time_invariant(rule):
            prefetch_next(a, 1, t, steps, by_block)
            gates = load8(rule, a, t, scratch.rows)
        prefetch_next(b, 1, t, steps, by_block)
        values = load8(rule, b, t, scratch.rows)
        states = advance8(rule, state, scratch.rows, flags, t, steps, by_block, gates, values)
        state = states[7]
        streaming = h.streaming and first <= t < last
        store_one_of_many(rule, h, 1, t, states, streaming)
    store_vector(scratch.state, 0, state)
    left = (steps - first) % OCTET
    if left != 0:
        forward_some(rule, a, b, h, flags, scratch, steps - OCTET, OCTET - left, OCTET)


def forward(rule, a, b, h, carry, marks: Marks, geometry, first, last):
    """Take all steps of series ``first`` to ``last``; ``carry`` holds the first states, then the last."""
    steps = load_int(geometry, N_STEPS)
    is_large = load_int(geometry, STREAMING) != 0  # what is streamed comes from memory, not from a cache, too
    offsets, places = stack_ints(88), stack_ints(24)
    state, gate, rows, lines = stack(carry, 8), stack(carry, 8), stack(carry, ROWS_FORWARD), stack_lines(h)
    for lane in range(first, last, OCTET):
        find_places(places, geometry, lane, last)
        a_here, b_here = of_8_series(a, geometry, A, offsets, places), of_8_series(b, geometry, B, offsets, places)
        to, flags = of_8_series(h, geometry, H, offsets, places), flags_of(rule, h, marks, geometry, offsets, places)
        load_states(state, carry, lane, last)
        to_line = line_distance(to)
        # A series that is repeated to make up 8 would be sent off again and again.
        streaming = may_stream(is_large, to_line, steps) and lane + OCTET <= last
        result = Result(h, to.offsets, to.time, STORE, lines, streaming)
        scratch = Scratch(rows, gate, state, gate, gate)
        load_gates(gate, a_here)
        forward_8_series(rule, a_here, b_here, result, flags, scratch, steps, to_line if streaming else 0, is_large)
        store_states(carry, state, lane, minimum(OCTET, last - lane))
    if is_large:
        fence()


@helper
def vjp_some(rule, g, a, b, h, to_a, to_b, flags, scratch, t, low, high):
    """Take 8 series back by steps ``high`` to ``low`` of the block at step t; other steps' gradients stay."""
    kept = scratch.rows
    size = ROWS * itemsize(kept)
    g_rows, a_rows, b_rows, h_rows = kept, shift(kept, size), shift(kept, 2 * size), shift(kept, 3 * size)
    to_a_rows, to_b_rows = shift(kept, 4 * size), shift(kept, 5 * size)
    put_rows(g_rows, load8(rule, g, t, kept))
    if not a_is_time_invariant(rule):
        put_rows(a_rows, load8(rule, a, t, kept))
    put_rows(b_rows, load8(rule, b, t, kept))
    if t == 0:
        store_vector(h_rows, 0, row(scratch.first, 0))
        put_rows(shift(h_rows, OCTET * itemsize(kept)), load8(rule, h, 0, kept))
    else:
        put_rows(h_rows, load8(rule, h, t - 1, kept))
    if to_a.mode == STORE:
        put_rows(to_a_rows, load8(rule, to_a, t, kept))
    if to_b.mode == STORE:
        put_rows(to_b_rows, load8(rule, to_b, t, kept))
    r, gate, total = row(scratch.state, 0), row(scratch.gate, 0), row(scratch.total, 0)
    for ago in range(low, high):
        k = low + high - 1 - ago
        gate_now = gate if a_is_time_invariant(rule) else row(a_rows, k)
        fresh = fresh_at(rule, kept, flags, t + k)
        grad_a, grad_b, r = retreat(rule, fresh, row(g_rows, k) + r, gate_now, row(b_rows, k), row(h_rows, k))
        store_vector(to_a_rows, OCTET * k, grad_a)
        store_vector(to_b_rows, OCTET * k, grad_b)
        total = total + grad_a
    store_vector(scratch.state, 0, r)
    store_vector(scratch.total, 0, total)
    if to_a.mode == STORE:
        store8(rule, to_a, t, all_rows(to_a_rows))
    if to_b.mode == STORE:
        store8(rule, to_b, t, all_rows(to_b_rows))


@helper
def vjp_8_series(rule, g, a, b, h, to_a, to_b, flags, scratch, steps, first, by_block):
    """Take 8 series back by all steps; whole lines begin with step ``first``, which is not 0."""
    last_a, last_b = end_of_lines(to_a.at, first, steps), end_of_lines(to_b.at, first, steps)
    left = (steps - first) % OCTET
    if left != 0:
        vjp_some(rule, g, a, b, h, to_a, to_b, flags, scratch, steps - OCTET, OCTET - left, OCTET)
    gate = row(scratch.gate, 0)
    gates = gate, gate, gate, gate, gate, gate, gate, gate
    r0, total = row(scratch.state, 0), row(scratch.total, 0)
    # Before the first block there is no result: it goes by steps.
    t = steps - left - OCTET
    while t > 0:
        prefetch_next(g, -1, t, steps, by_block)
        grads = load8(rule, g, t, scratch.rows)
        if not a_is_time_invariant(rule):
            prefetch_next(a, -1, t, steps, by_block)
            gates = load8(rule, a, t, scratch.rows)
        prefetch_next(b, -1, t, steps, by_block)
        values = load8(rule, b, t, scratch.rows)
        prefetch_next(h, -1, t, steps, by_block)
        before = load8(rule, h, t - 1, scratch.rows)
        fresh = fresh8(rule, scratch.rows, flags, t)
        a7, b7, r7 = retreat(rule, fresh[7], grads[7] + r0, gates[7], values[7], before[7])
        a6, b6, r6 = retreat(rule, fresh[6], grads[6] + r7, gates[6], values[6], before[6])
        a5, b5, r5 = retreat(rule, fresh[5], grads[5] + r6, gates[5], values[5], before[5])
        a4, b4, r4 = retreat(rule, fresh[4], grads[4] + r5, gates[4], values[4], before[4])
        a3, b3, r3 = retreat(rule, fresh[3], grads[3] + r4, gates[3], values[3], before[3])
        a2, b2, r2 = retreat(rule, fresh[2], grads[2] + r3, gates[2], values[2], before[2])
        a1, b1, r1 = retreat(rule, fresh[1], grads[1] + r2, gates[1], values[1], before[1])
        a0, b0, r0 = retreat(rule, fresh[0], grads[0] + r1, gates[0], values[0], before[0])
        if to_a.mode == STORE:
            streaming = to_a.streaming and first <= t < last_a
            store_one_of_many(rule, to_a, -1, t, (a0, a1, a2, a3, a4, a5, a6, a7), streaming)
        else:  # one after another: the sum is the same wherever blocks begin
            total = total + a7 + a6 + a5 + a4 + a3 + a2 + a1 + a0
        if to_b.mode == STORE:
            streaming = to_b.streaming and first <= t < last_b
            store_one_of_many(rule, to_b, -1, t, (b0, b1, b2, b3, b4, b5, b6, b7), streaming)
        t -= OCTET
    store_vector(scratch.state, 0, r0)
    store_vector(scratch.total, 0, total)
    vjp_some(rule, g, a, b, h, to_a, to_b, flags, scratch, 0, 0, t + OCTET)


@helper
def add_total(sums, total, lanes):
    """Add each series' sum to where it belongs."""
    for j in range(lanes):
        place = shift(sums.at, load_int(sums.offsets, j))
        store(place, 0, load(place, 0, total) + load(total, j, total))


@inlined
def with_streaming(a, b, is_large, steps):
    """Return both gradients, written past the cache if that pays and where lines begin alike; and where these begin."""
    line_a, line_b = line_distance(a), line_distance(b)
    line = line_b if b.mode == STORE else line_a
    streaming, start = may_stream(is_large, line, steps), OCTET
    if streaming:
        start = line if line > 0 else LINE // minimum(itemsize(a.at), itemsize(b.at))  # a line of both
    a_streaming, b_streaming = streaming and a.mode == STORE and line_a == line, streaming and b.mode == STORE
    return (
        Result(a.at, a.offsets, a.time, a.mode, a.lines, a_streaming),
        Result(b.at, b.offsets, b.time, b.mode, b.lines, b_streaming),
        start,
    )


def vjp(rule, given: _layout.Given, results: _layout.Results, marks: Marks, geometry, first, last):
    """Take series back; ``carry`` holds the last states' cotangents, then the first states'."""
    g, a, b, h, h0 = given
    carry, to_a, to_b, sums_a, sums_b = results
    steps, a_mode, b_mode = load_int(geometry, N_STEPS), load_int(geometry, A_MODE), load_int(geometry, B_MODE)
    is_large = load_int(geometry, STREAMING) != 0
    offsets, places = stack_ints(88), stack_ints(24)
    state, states, gate, total = stack(carry, 8), stack(carry, 8), stack(carry, 8), stack(carry, 8)
    rows, lines_a, lines_b = stack(carry, ROWS_BACK), stack_lines(to_a), stack_lines(to_b)
    for lane in range(first, last, OCTET):
        count = minimum(OCTET, last - lane)
        find_places(places, geometry, lane, last)
        g_here, a_here = of_8_series(g, geometry, G, offsets, places), of_8_series(a, geometry, A, offsets, places)
        b_here, h_here = of_8_series(b, geometry, B, offsets, places), of_8_series(h, geometry, H, offsets, places)
        place_a = of_8_series(to_a, geometry, TO_A, offsets, places)
        place_b = of_8_series(to_b, geometry, TO_B, offsets, places)
        flags = flags_of(rule, h, marks, geometry, offsets, places)
        load_states(state, carry, lane, last)
        load_states(states, h0, lane, last)
        result_a = Result(to_a, place_a.offsets, place_a.time, a_mode, lines_a, False)
        result_b = Result(to_b, place_b.offsets, place_b.time, b_mode, lines_b, False)
        result_a, result_b, start = with_streaming(result_a, result_b, is_large and count == OCTET, steps)
        load_gates(gate, a_here)
        write_zeros(total, carry, OCTET)
        scratch = Scratch(rows, gate, state, states, total)
        vjp_8_series(rule, g_here, a_here, b_here, h_here, result_a, result_b, flags, scratch, steps, start, is_large)
        if a_mode == _layout.ACCUMULATE:
            add_total(of_8_series(sums_a, geometry, SUMS_A, offsets, places), total, count)
        store_states(carry, state, lane, count)
    if is_large:
        fence()

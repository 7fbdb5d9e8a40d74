"""Kernels for series whose steps are neighbours in memory: 8 series by 8 steps at a time, in registers.

A block is loaded series by series and transposed, so that each of its steps is a vector; the steps are taken, their
results transposed back and stored. Scan order is the same through memory in all operands, up or down; a's value may be
one for all steps. What steps fill no block are taken one by one, series by series. What they compute is `rows.plain`.

``geometry`` is that of `packing`.
"""

from collections import namedtuple

from ..._plan import layout
from ..._plan.layout import (
    A_MODE,
    B_MODE,
    FLAGS,
    HEAD,
    N_STEPS,
    STORE,
    STREAMING,
    SUMS_A,
    TO_A,
    TO_B,
    A,
    B,
    G,
    H,
    Marks,
)
from ..._steps.recurrence import constant
from ..compiler.numba_internals import INLINE, helper, inlined
from ..vectors import transposes
from ..vectors.scalars import (
    fence,
    itemsize,
    load,
    load_int,
    minimum,
    misalignment,
    prefetch,
    shift,
    stack,
    stack_ints,
    store,
)
from ..vectors.transposes import collect_octet, has_flags, load_octet, stack_lines, store_octet, stream_lines
from ..vectors.types import LINE, OCTET
from ..vectors.vectors import load_half_vector, store_vector
from . import rules
from .operands import NO, ONE, ZERO, segment_of, states_of, takes_states, write_zeros
from .packing import load_states, store_states, strides_of
from .rules import a_is_time_invariant, advance, choice, flag_step, flags_are_late, is_descending, retreat, step

AHEAD = 256  # bytes: prefetch distance along a series: more streams than the hardware prefetcher follows
LONG = 2048  # steps of a series from which what goes before its first whole line does not matter
NONE = (NO,) * OCTET  # of a block's steps begin anew

# Of 8 series: a pointer, offsets in bytes of each series, and bytes from a step, or a series, to the next.
Operand = namedtuple("Operand", "at offsets time lane")
# The same, what becomes of it, and the lines that wait to be written by non-temporal stores, if it is ``streaming``.
Result = namedtuple("Result", "at offsets time mode lines streaming")
# Of 8 series: a's value for all steps; the states, those before the first step, and the sum of a's gradient.
Scratch = namedtuple("Scratch", "gate state first total")
# Of 8 series: offsets, states of segments, where the number of the segment stands that the walk is in, and room for 8
# states; the first series and how many there are.
Cursor = namedtuple("Cursor", "offsets states geometry place room lane count")


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
def begins_line(x, t):
    """Return whether a block at step t is the first of those that a cache line holds, wherever it begins."""
    return t // OCTET * OCTET * itemsize(x.at) % LINE == 0


@inlined
def prefetch_next(x, direction, t, steps):
    """Prefetch what comes later along the series; at their end, of the next ones."""
    if begins_line(x, t):
        later = direction * (AHEAD // itemsize(x.at))
        inside = 0 <= t + later < steps
        distance = later * x.time if inside else (later - direction * steps) * x.time + OCTET * x.lane
        transposes.prefetch_octet(shift(x.at, t * x.time), x.offsets, distance)


@inlined
def store_one_of_many(rule, x, direction, t, rows, streaming):
    """Write a block that others follow, by non-temporal stores of whole lines or with its lines prefetched."""
    place, ordered = lowest(rule, x, t), in_scan_order(rule, rows)
    if streaming:
        offset = misalignment(shift(place, load_int(x.offsets, 0)))
        collect_octet(x.lines, offset, ordered)
        if offset == (LINE - OCTET * itemsize(x.at) if direction * x.time > 0 else 0):
            stream_lines(x.lines, shift(place, -offset), x.offsets)
    else:
        if begins_line(x, t):
            distance = direction * (AHEAD // itemsize(x.at)) * x.time
            transposes.prefetch_octet_for_write(shift(x.at, t * x.time), x.offsets, distance)
        store_octet(place, x.offsets, ordered)


@inlined
def row(place, k):
    """Return one step from there."""
    return load_half_vector(place, OCTET * k, place)


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
    """Note the places of 8 series in their three dimensions; the last one is repeated to make up 8."""
    middle, inner = load_int(geometry, HEAD), load_int(geometry, HEAD + 1)
    rest = first // inner
    i, j, k = rest // middle, rest % middle, first % inner
    for n in range(OCTET):
        for m, value in enumerate((i, j, k)):
            store(places, 3 * n + m, value)
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
    time, inner = load_int(strides, 0), load_int(strides, 3)
    outer, middle = load_int(strides, 1), load_int(strides, 2)
    for n in range(OCTET):
        i, j, last = load_int(places, 3 * n), load_int(places, 3 * n + 1), load_int(places, 3 * n + 2)
        store(own, n, outer * i + middle * j + inner * last)
    return Operand(pointer, own, time, inner)


@inlined
def number_at(x, n, t, carry):
    """Return what the n-th of 8 series has at a step."""
    return load(shift(x.at, load_int(x.offsets, n) + t * x.time), 0, carry)


@inlined
def is_fresh(rule, flags, n, t, carry):
    """Return whether the n-th of 8 series begins anew with a step."""
    is_set = number_at(flags, n, flag_step(rule, t), carry) != constant(0.0, load(carry, n, carry))
    return is_set and not (flags_are_late(rule) and t == 0)


@helper
def segment_with(cursor, t):
    """Return which segment has step t, and go there."""
    n = segment_of(cursor.offsets, load_int(cursor.place, 0), t)
    store(cursor.place, 0, n)
    return n


@helper
def has_border(cursor, t):
    """Return whether a segment begins or ends with one of 8 steps."""
    n = segment_with(cursor, t + OCTET - 1)
    return load_int(cursor.offsets, n) >= t or load_int(cursor.offsets, n + 1) == t + OCTET


@inlined
def take_states(cursor, n, way, which):
    """Bring the n-th segment's states to the room, of which there are several kinds; prefetch what comes next."""
    places = shift(cursor.states, which * load_int(cursor.geometry, layout.STATE_BYTES))
    prefetch(states_of(places, cursor.geometry, n + way), cursor.lane, ZERO)
    own = states_of(places, cursor.geometry, n)
    if cursor.count == OCTET:
        store_vector(cursor.room, 0, load_half_vector(own, cursor.lane, cursor.room))
    else:
        load_states(cursor.room, own, cursor.lane, cursor.count, OCTET)


@helper
def enter(cursor, t, way):
    """If a segment begins with step t, bring its first states to the room; return whether it does."""
    n = segment_with(cursor, t)
    begins = load_int(cursor.offsets, n) == t
    if begins:
        take_states(cursor, n, way, ZERO)
    return begins


@helper
def enter_back(cursor, t):
    """If a segment ends with step t, bring the cotangents of its last states to the room; return whether it does."""
    n = segment_with(cursor, t)
    ends = load_int(cursor.offsets, n + 1) == t + 1
    if ends:
        take_states(cursor, n, -ONE, ONE)
    return ends


@helper
def leave(cursor, t):
    """If a segment begins with step t, take the cotangents of its first states from the room."""
    n = segment_with(cursor, t)
    if load_int(cursor.offsets, n) == t and takes_states(cursor.geometry):
        place = shift(states_of(cursor.states, cursor.geometry, n), 2 * load_int(cursor.geometry, layout.STATE_BYTES))
        store_states(place, cursor.room, cursor.lane, cursor.count)


@inlined
def _from_start(rule, now, cursor, n, t):
    return load(cursor.room, n, cursor.room) if enter(cursor, t, ONE) else now


@inlined
def _from_before(rule, now, cursor, n, t):
    return now


from_start = choice("offsets", _from_start, _from_before, options=INLINE)  # a series' state before a step


@inlined
def _from_start8(rule, now, is_crossed, cursor, t):
    return row(cursor.room, 0) if is_crossed and enter(cursor, t, ONE) else now


from_start8 = choice("offsets", _from_start8, _from_before, options=INLINE)  # those of 8, if `has_border`


@inlined
def put_number(x, n, t, value):
    store(shift(x.at, load_int(x.offsets, n) + t * x.time), 0, value)


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


@inlined
def _fresh8(rule, carry, flags, t):
    place, missing = lowest(rule, flags, flag_step(rule, t)), ONE if flags_are_late(rule) and t == 0 else ZERO
    return in_scan_order(rule, transposes.flags_of_octet(place, flags.offsets, missing, carry))


@inlined
def _none8(rule, carry, flags, t):
    return NONE


# In which of 8 series each of 8 steps from t on begins anew.
fresh8 = choice("flagged", _fresh8, _none8, options=INLINE)


@inlined
def _advance8_segments(rule, h, carry, flags, cursor, t, steps, gates, values):
    crossed = has_border(cursor, t)
    h0 = step(rule, from_start8(rule, h, crossed, cursor, t), gates[0], values[0])
    h1 = step(rule, from_start8(rule, h0, crossed, cursor, t + 1), gates[1], values[1])
    h2 = step(rule, from_start8(rule, h1, crossed, cursor, t + 2), gates[2], values[2])
    h3 = step(rule, from_start8(rule, h2, crossed, cursor, t + 3), gates[3], values[3])
    h4 = step(rule, from_start8(rule, h3, crossed, cursor, t + 4), gates[4], values[4])
    h5 = step(rule, from_start8(rule, h4, crossed, cursor, t + 5), gates[5], values[5])
    h6 = step(rule, from_start8(rule, h5, crossed, cursor, t + 6), gates[6], values[6])
    return h0, h1, h2, h3, h4, h5, h6, step(rule, from_start8(rule, h6, crossed, cursor, t + 7), gates[7], values[7])


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
def _advance8_plain(rule, h, carry, flags, cursor, t, steps, gates, values):
    return _advance8(rule, h, NONE, gates, values)


@inlined
def _advance8_flagged(rule, h, carry, flags, cursor, t, steps, gates, values):
    is_shared, place = rules.flag_is_broadcast(rule), lowest(rule, flags, flag_step(rule, t))
    if not is_shared:
        prefetch_next(flags, 1, t, steps)
    if not is_shared or has_flags(shift(place, load_int(flags.offsets, 0))):
        return _advance8(rule, h, _fresh8(rule, carry, flags, t), gates, values)
    return _advance8(rule, h, NONE, gates, values)


# Take a block's steps. Where all series share their flags and none is set, none is asked for: that took longer on the
# way back, where registers are few.
advance8 = choice("offsets", _advance8_segments, choice("flagged", _advance8_flagged, _advance8_plain), options=INLINE)


@helper
def advance_one(rule, a, b, h, flags, cursor, states, n, first, stop):
    """Take the n-th of 8 series through steps that fill no block."""
    state = load(states, n, states)
    for t in range(first, stop):
        fresh, state = is_fresh(rule, flags, n, t, states), from_start(rule, state, cursor, n, t)
        state = advance(rule, fresh, state, number_at(a, n, t, states), number_at(b, n, t, states))
        put_number(h, n, t, state)
    store(states, n, state)


@helper
def forward_8_series(rule, a_all, b_all, h_all, flags_all, geometry, offsets, places, lines, scratch, cursor):
    """Take 8 series from their first states to their last ones; if they are less, the last is repeated."""
    is_large, states, steps = load_int(geometry, STREAMING) != 0, scratch.state, load_int(geometry, N_STEPS)
    a, b = of_8_series(a_all, geometry, A, offsets, places), of_8_series(b_all, geometry, B, offsets, places)
    to = of_8_series(h_all, geometry, H, offsets, places)
    flags, line = of_8_series(flags_all, geometry, FLAGS, offsets, places), line_distance(to)
    # A series that is repeated to make up 8 would be sent off again and again.
    streaming = cursor.count == OCTET and may_stream(is_large, line, steps)
    first = line if streaming else ZERO
    h = Result(h_all, to.offsets, to.time, STORE, lines, streaming)
    last, begin = end_of_lines(h_all, first, steps), first % OCTET
    load_gates(scratch.gate, a)
    if begin > 0:
        for n in range(OCTET):
            advance_one(rule, a, b, h, flags, cursor, states, n, ZERO, begin)
    gate = row(scratch.gate, 0)
    gates = gate, gate, gate, gate, gate, gate, gate, gate
    state = row(states, 0)
    for t in range(begin, steps - OCTET + 1, OCTET):
        if not a_is_time_invariant(rule):
            prefetch_next(a, 1, t, steps)
            gates = load8(rule, a, t, states)
        prefetch_next(b, 1, t, steps)
        values = load8(rule, b, t, states)
        results = advance8(rule, state, states, flags, cursor, t, steps, gates, values)
        state = results[7]
        store_one_of_many(rule, h, 1, t, results, h.streaming and first <= t < last)
    store_vector(states, 0, state)
    done = begin + (steps - begin) // OCTET * OCTET
    for n in range(cursor.count):  # a repeated one would read what stands there now, if results are in place
        advance_one(rule, a, b, h, flags, cursor, states, n, done, steps)


def forward(rule, a, b, h, carry, marks: Marks, geometry, first, last):
    """Take all steps of series ``first`` to ``last``; ``carry`` holds the first states, then the last."""
    offsets, places, place = stack_ints(88), stack_ints(24), stack_ints(1)
    state, gate, room, lines = stack(carry, 8), stack(carry, 8), stack(carry, 8), stack_lines(h)
    store(place, 0, ZERO)
    for lane in range(first, last, OCTET):
        count, scratch = minimum(OCTET, last - lane), Scratch(gate, state, gate, gate)
        find_places(places, geometry, lane, last)
        load_states(state, carry, lane, count, OCTET)
        cursor = Cursor(marks.offsets, marks.segment_states, geometry, place, room, lane, count)
        forward_8_series(rule, a, b, h, marks.flags, geometry, offsets, places, lines, scratch, cursor)
        store_states(carry, state, lane, count)
    if load_int(geometry, STREAMING) != 0:
        fence()


@inlined
def _from_end(rule, now, cursor, n, t):
    return load(cursor.room, n, cursor.room) if enter_back(cursor, t) else now


from_end = choice("offsets", _from_end, _from_before, options=INLINE)  # what reaches a series' state after a step


@helper
def _to_start(rule, r, cursor, n, t):
    k = segment_with(cursor, t)
    if load_int(cursor.offsets, k) == t and n < cursor.count and takes_states(cursor.geometry):
        place = shift(states_of(cursor.states, cursor.geometry, k), 2 * load_int(cursor.geometry, layout.STATE_BYTES))
        store(place, cursor.lane + n, r)


@inlined
def _nowhere(rule, r, cursor, n, t):
    return


to_start = choice("offsets", _to_start, _nowhere, options=INLINE)  # what reaches a segment's first state


@inlined
def _crosses8(rule, cursor, t):
    return has_border(cursor, t)


@inlined
def _never8(rule, cursor, t):
    return NO


crosses8 = choice("offsets", _crosses8, _never8, options=INLINE)


@inlined
def _retreat_in_segments(rule, fresh, crossed, cursor, t, g, r, gate, value, before):
    if crossed:
        r = row(cursor.room, 0) if enter_back(cursor, t) else r
        before = row(cursor.room, 0) if enter(cursor, t, -ONE) else before
    grad_a, grad_b, r = retreat(rule, fresh, g + r, gate, value, before)
    if crossed:
        store_vector(cursor.room, 0, r)
        leave(cursor, t)
    return grad_a, grad_b, r


@inlined
def _retreat_plain(rule, fresh, crossed, cursor, t, g, r, gate, value, before):
    return retreat(rule, fresh, g + r, gate, value, before)


retreat8 = choice("offsets", _retreat_in_segments, _retreat_plain, options=INLINE)  # one of a block's steps


@helper
def retreat_one(rule, g, a, b, h, to_a, to_b, flags, scratch, cursor, n, first, stop):
    """Take the n-th of 8 series back through such steps."""
    states = scratch.state
    r, total = load(states, n, states), load(scratch.total, n, states)
    for ago in range(stop - first):
        t = stop - 1 - ago
        before = number_at(h, n, t - 1, states) if t > 0 else load(scratch.first, n, states)
        r, before = from_end(rule, r, cursor, n, t), from_start(rule, before, cursor, n, t)
        fresh, arrived = is_fresh(rule, flags, n, t, states), number_at(g, n, t, states) + r
        gate, value = number_at(a, n, t, states), number_at(b, n, t, states)
        grad_a, grad_b, r = retreat(rule, fresh, arrived, gate, value, before)
        to_start(rule, r, cursor, n, t)
        if to_a.mode == STORE:
            put_number(to_a, n, t, grad_a)
        if to_b.mode == STORE:
            put_number(to_b, n, t, grad_b)
        total = total + grad_a
    store(states, n, r)
    store(scratch.total, n, total)


@inlined
def before8(rule, h, t, scratch):
    """Return the results before each of 8 steps from t on."""
    if t > 0:
        return load8(rule, h, t - 1, scratch.state)
    h0, h1, h2, h3, h4, h5, h6, _ = load8(rule, h, t, scratch.state)
    return row(scratch.first, 0), h0, h1, h2, h3, h4, h5, h6


@helper
def walk_8_series_back(rule, g, a, b, h, to_a, to_b, flags, scratch, cursor, steps, first):
    """Take 8 series back by whole blocks, as many as there are where one begins with step ``first``."""
    last_a, last_b = end_of_lines(to_a.at, first, steps), end_of_lines(to_b.at, first, steps)
    gate = row(scratch.gate, 0)
    gates = gate, gate, gate, gate, gate, gate, gate, gate
    r0, total = row(scratch.state, 0), row(scratch.total, 0)
    t = steps - (steps - first) % OCTET - OCTET
    while t >= 0:
        prefetch_next(g, -1, t, steps)
        grads = load8(rule, g, t, scratch.state)
        if not a_is_time_invariant(rule):
            prefetch_next(a, -1, t, steps)
            gates = load8(rule, a, t, scratch.state)
        prefetch_next(b, -1, t, steps)
        values = load8(rule, b, t, scratch.state)
        prefetch_next(h, -1, t, steps)
        if rules.is_flagged(rule) and not rules.flag_is_broadcast(rule):
            prefetch_next(flags, -1, t, steps)
        before, fresh = before8(rule, h, t, scratch), fresh8(rule, scratch.state, flags, t)
        crossed = crosses8(rule, cursor, t)
        a7, b7, r7 = retreat8(rule, fresh[7], crossed, cursor, t + 7, grads[7], r0, gates[7], values[7], before[7])
        a6, b6, r6 = retreat8(rule, fresh[6], crossed, cursor, t + 6, grads[6], r7, gates[6], values[6], before[6])
        a5, b5, r5 = retreat8(rule, fresh[5], crossed, cursor, t + 5, grads[5], r6, gates[5], values[5], before[5])
        a4, b4, r4 = retreat8(rule, fresh[4], crossed, cursor, t + 4, grads[4], r5, gates[4], values[4], before[4])
        a3, b3, r3 = retreat8(rule, fresh[3], crossed, cursor, t + 3, grads[3], r4, gates[3], values[3], before[3])
        a2, b2, r2 = retreat8(rule, fresh[2], crossed, cursor, t + 2, grads[2], r3, gates[2], values[2], before[2])
        a1, b1, r1 = retreat8(rule, fresh[1], crossed, cursor, t + 1, grads[1], r2, gates[1], values[1], before[1])
        a0, b0, r0 = retreat8(rule, fresh[0], crossed, cursor, t + 0, grads[0], r1, gates[0], values[0], before[0])
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


@inlined
def with_streaming(a, b, is_large, steps):
    """Return both gradients, written past the cache if that pays and where lines begin alike; and where these begin."""
    line_a, line_b = line_distance(a), line_distance(b)
    line = line_b if b.mode == STORE else line_a
    streaming = may_stream(is_large, line, steps)
    return (
        Result(a.at, a.offsets, a.time, a.mode, a.lines, streaming and a.mode == STORE and line_a == line),
        Result(b.at, b.offsets, b.time, b.mode, b.lines, streaming and b.mode == STORE),
        line if streaming else ZERO,
    )


@helper
def vjp_8_series(rule, given, results, flags_all, geometry, offsets, places, lines_a, lines_b, scratch, cursor):
    """Take 8 series back, from their last cotangents to their first states'; if they are less, the last is repeated."""
    is_large, steps = load_int(geometry, STREAMING) != 0, load_int(geometry, N_STEPS)
    g, a = of_8_series(given.g, geometry, G, offsets, places), of_8_series(given.a, geometry, A, offsets, places)
    b, h = of_8_series(given.b, geometry, B, offsets, places), of_8_series(given.h, geometry, H, offsets, places)
    place_a = of_8_series(results.to_a, geometry, TO_A, offsets, places)
    place_b = of_8_series(results.to_b, geometry, TO_B, offsets, places)
    flags = of_8_series(flags_all, geometry, FLAGS, offsets, places)
    to_a = Result(results.to_a, place_a.offsets, place_a.time, load_int(geometry, A_MODE), lines_a, False)
    to_b = Result(results.to_b, place_b.offsets, place_b.time, load_int(geometry, B_MODE), lines_b, False)
    to_a, to_b, first = with_streaming(to_a, to_b, is_large and cursor.count == OCTET, steps)
    load_gates(scratch.gate, a)
    write_zeros(scratch.total, scratch.state, OCTET)
    begin, done = first % OCTET, steps - (steps - first) % OCTET
    for n in range(OCTET):
        retreat_one(rule, g, a, b, h, to_a, to_b, flags, scratch, cursor, n, done, steps)
    walk_8_series_back(rule, g, a, b, h, to_a, to_b, flags, scratch, cursor, steps, first)
    if begin > 0:
        for n in range(OCTET):
            retreat_one(rule, g, a, b, h, to_a, to_b, flags, scratch, cursor, n, ZERO, begin)
    if to_a.mode == layout.ACCUMULATE:
        sums = of_8_series(results.sums_a, geometry, SUMS_A, offsets, places)
        for n in range(cursor.count):
            put_number(sums, n, ZERO, number_at(sums, n, ZERO, scratch.total) + load(scratch.total, n, scratch.total))


def vjp(rule, given: layout.Given, results: layout.Results, marks: Marks, geometry, first, last):
    """Take series back; ``carry`` holds the last states' cotangents, then the first states'."""
    carry, offsets, places, place = results.carry, stack_ints(88), stack_ints(24), stack_ints(1)
    room = stack(carry, 8)
    store(place, 0, ZERO)
    scratch = Scratch(stack(carry, 8), stack(carry, 8), stack(carry, 8), stack(carry, 8))
    lines_a, lines_b = stack_lines(results.to_a), stack_lines(results.to_b)
    for lane in range(first, last, OCTET):
        count = minimum(OCTET, last - lane)
        find_places(places, geometry, lane, last)
        load_states(scratch.state, carry, lane, count, OCTET)
        load_states(scratch.first, given.h0, lane, count, OCTET)
        cursor = Cursor(marks.offsets, marks.segment_states, geometry, place, room, lane, count)
        vjp_8_series(rule, given, results, marks.flags, geometry, offsets, places, lines_a, lines_b, scratch, cursor)
        store_states(carry, scratch.state, lane, count)
    if load_int(geometry, STREAMING) != 0:
        fence()

"""Kernels for series whose steps are neighbours in memory: 8 series by 8 steps at a time, in registers.

A block is loaded series by series and transposed, so that each of its steps is a vector; the steps are taken, their
results transposed back and stored. Scan order is the same through memory in all operands, up or down; a's value may be
one for all steps. What steps fill no block are taken one by one, series by series. What they compute is `rows.plain`.

``geometry`` is that of `packing`.
"""

from collections import namedtuple

from ..._plan import layout
from ..._plan.layout import FLAGS, HEAD, N_STEPS, STORE, STREAMING, A, B, H, Marks
from ..._plan.widths import LINE, OCTET
from ..._steps.recurrence import constant
from ..compiler.numba_internals import INLINE, helper, inlined
from ..vectors import scalars, transposes
from ..vectors.scalars import fence, itemsize, load_int, minimum, misalignment, prefetch, shift, stack, store
from ..vectors.transposes import collect_octet, has_flags, load_octet, stack_lines, store_octet, stream_lines
from ..vectors.vectors import load_half_vector, store_vector
from . import rules
from .operands import NO, ONE, YES, ZERO, segment_of, states_of
from .packing import load_states, store_states, strides_of
from .rules import a_is_time_invariant, advance, choice, flag_step, flags_are_late, is_descending, step

AHEAD = 256  # bytes: prefetch distance along a series: more streams than the hardware prefetcher follows
LONG = 2048  # steps of a series from which what goes before its first whole line does not matter
NONE = (NO,) * OCTET  # of a block's steps begin anew

# Of 8 series: a pointer, offsets in bytes of each series, and bytes from a step, or a series, to the next.
Operand = namedtuple("Operand", "at offsets step lane")
# The same, what becomes of it, and the lines that wait to be written by non-temporal stores, if it is ``streaming``.
Result = namedtuple("Result", "at offsets step mode lines streaming")
# Of 8 series: offsets, states of segments, where the number of the segment stands that the scan is in; ``room``, memory
# for one state of each series, through which the states of a segment reach a step and leave it: series are registers'
# lanes in a block, and lie apart in arrays of states; the first series and how many there are.
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
    return shift(x.at, (t + OCTET - 1) * x.step if is_descending(rule) else t * x.step)


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
        distance = later * x.step if inside else (later - direction * steps) * x.step + OCTET * x.lane
        transposes.prefetch_octet(shift(x.at, t * x.step), x.offsets, distance)


@inlined
def store_one_of_many(rule, x, direction, t, rows, streaming):
    """Write a block that others follow, by non-temporal stores of whole lines or with its lines prefetched."""
    place, ordered = lowest(rule, x, t), in_scan_order(rule, rows)
    if streaming:
        offset = misalignment(shift(place, load_int(x.offsets, 0)))
        collect_octet(x.lines, offset, ordered)
        if offset == (LINE - OCTET * itemsize(x.at) if direction * x.step > 0 else 0):
            stream_lines(x.lines, shift(place, -offset), x.offsets)
    else:
        if begins_line(x, t):
            distance = direction * (AHEAD // itemsize(x.at)) * x.step
            transposes.prefetch_octet_for_write(shift(x.at, t * x.step), x.offsets, distance)
        store_octet(place, x.offsets, ordered)


@inlined
def row(place):
    """Return one step from there."""
    return load_half_vector(place, 0, place)


@inlined
def row_at(x, t, carry):
    """Return a step of 8 series."""
    return transposes.load_across(shift(x.at, t * x.step), x.offsets, carry)


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
    """Copy the n-th segment's states of a kind to ``cursor.room``; prefetch what comes next."""
    places = shift(cursor.states, which * load_int(cursor.geometry, layout.STATE_BYTES))
    prefetch(states_of(places, cursor.geometry, n + way), cursor.lane, ZERO)
    own = states_of(places, cursor.geometry, n)
    if cursor.count == OCTET:
        store_vector(cursor.room, 0, load_half_vector(own, cursor.lane, cursor.room))
    else:
        load_states(cursor.room, own, cursor.lane, cursor.count, OCTET)


@helper
def enter(cursor, t, way):
    """If a segment begins with step t, copy its first states to ``cursor.room``; return whether it does."""
    n = segment_with(cursor, t)
    begins = load_int(cursor.offsets, n) == t
    if begins:
        take_states(cursor, n, way, ZERO)
    return begins


# The states of 8 series before a step, if `has_border`.
from_start8 = choice(
    "offsets",
    lambda rule, now, is_crossed, cursor, t: row(cursor.room) if is_crossed and enter(cursor, t, ONE) else now,
    lambda rule, now, is_crossed, cursor, t: now,
    options=INLINE,
)


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
    return (LINE - off) % LINE // size if x.step > 0 else (off + size) % LINE // size


@inlined
def _fresh8(rule, carry, flags, t):
    place, missing = lowest(rule, flags, flag_step(rule, t)), ONE if flags_are_late(rule) and t == 0 else ZERO
    return in_scan_order(rule, transposes.flags_of_octet(place, flags.offsets, missing, carry))


@inlined
def _fresh_row(rule, flags, t, carry):
    own = row_at(flags, flag_step(rule, t), carry)
    zero = constant(0.0, own)
    return zero < (zero if flags_are_late(rule) and t == 0 else own)


# In which of 8 series each of 8 steps from t on begins anew; or one step does.
fresh8 = choice("flagged", _fresh8, lambda rule, carry, flags, t: NONE, options=INLINE)
fresh_row = choice("flagged", _fresh_row, lambda rule, flags, t, carry: NO, options=INLINE)


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
def advance_rows(rule, a, b, h, flags, cursor, states, first, stop):
    """Take 8 series through steps that fill no block, one by one."""
    state = row(states)
    for t in range(first, stop):
        fresh, before = fresh_row(rule, flags, t, states), from_start8(rule, state, YES, cursor, t)
        state = advance(rule, fresh, before, row_at(a, t, states), row_at(b, t, states))
        transposes.store_across(shift(h.at, t * h.step), h.offsets, state)
    store_vector(states, 0, state)


@helper
def forward_8_series(rule, a_all, b_all, h_all, flags_all, geometry, offsets, places, lines, states, cursor):
    """Take 8 series from their first states to their last ones; if they are less, the last is repeated."""
    is_large, steps = load_int(geometry, STREAMING) != 0, load_int(geometry, N_STEPS)
    a, b = of_8_series(a_all, geometry, A, offsets, places), of_8_series(b_all, geometry, B, offsets, places)
    to = of_8_series(h_all, geometry, H, offsets, places)
    flags, line = of_8_series(flags_all, geometry, FLAGS, offsets, places), line_distance(to)
    # A series that is repeated to make up 8 would be sent off again and again.
    streaming = cursor.count == OCTET and may_stream(is_large, line, steps)
    first = line if streaming else ZERO
    h = Result(h_all, to.offsets, to.step, STORE, lines, streaming)
    last, begin = end_of_lines(h_all, first, steps), first % OCTET
    if begin > 0:
        advance_rows(rule, a, b, h, flags, cursor, states, ZERO, begin)
    gate = row_at(a, ZERO, states)
    gates = gate, gate, gate, gate, gate, gate, gate, gate
    state = row(states)
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
    advance_rows(rule, a, b, h, flags, cursor, states, done, steps)


def forward(rule, a, b, h, carry, marks: Marks, geometry, first, last):
    """Take all steps of series ``first`` to ``last``; ``carry`` holds the first states, then the last."""
    offsets, places, place = scalars.stack_ints(88), scalars.stack_ints(24), scalars.stack_ints(1)
    state, room, lines = stack(carry, 8), stack(carry, 8), stack_lines(h)
    store(place, 0, ZERO)
    for lane in range(first, last, OCTET):
        count = minimum(OCTET, last - lane)
        find_places(places, geometry, lane, last)
        load_states(state, carry, lane, count, OCTET)
        cursor = Cursor(marks.offsets, marks.segment_states, geometry, place, room, lane, count)
        forward_8_series(rule, a, b, h, marks.flags, geometry, offsets, places, lines, state, cursor)
        store_states(carry, state, lane, count)
    if load_int(geometry, STREAMING) != 0:
        fence()

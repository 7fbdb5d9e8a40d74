"""Take series whose steps are neighbours in memory back, 8 by 8 steps as `transpose8` does: `rows.plain_vjp`."""

from collections import namedtuple

from ..._plan import layout
from ..._plan.layout import A_MODE, B_MODE, FLAGS, N_STEPS, STORE, STREAMING, SUMS_A, TO_A, TO_B, A, B, G, H, Marks
from ..._plan.widths import OCTET
from ..compiler.numba_internals import INLINE, helper, inlined
from ..vectors import scalars
from ..vectors.scalars import fence, load, load_int, minimum, shift, stack, store
from ..vectors.transposes import stack_lines, store_across
from ..vectors.vectors import store_vector
from . import rules, transpose8
from .operands import NO, ONE, YES, ZERO, Inputs, states_of, takes_states, write_zeros
from .packing import load_states, store_states
from .rules import a_is_time_invariant, choice, retreat
from .transpose8 import enter, fresh8, fresh_row, load8, of_8_series, prefetch_next, row, row_at

# Of 8 series: the states, those before the first step, and the sum of a's gradient.
Scratch = namedtuple("Scratch", "state first total")


@helper
def enter_back(cursor, t):
    """If a segment ends with step t, copy its last states' cotangents to ``cursor.room``; return whether it does.

    The room is memory for one state of each of 8 series (`transpose8.Cursor`): the gradients of states pass through it,
    too, as the borders of segments are crossed step by step.
    """
    n = transpose8.segment_with(cursor, t)
    ends = load_int(cursor.offsets, n + 1) == t + 1
    if ends:
        transpose8.take_states(cursor, n, -ONE, ONE)
    return ends


@helper
def leave(cursor, t):
    """If a segment begins with step t, copy the cotangents of its first states from ``cursor.room`` to their array."""
    n = transpose8.segment_with(cursor, t)
    if load_int(cursor.offsets, n) == t and takes_states(cursor.geometry):
        place = shift(states_of(cursor.states, cursor.geometry, n), 2 * load_int(cursor.geometry, layout.STATE_BYTES))
        store_states(place, cursor.room, cursor.lane, cursor.count)


crosses8 = choice(
    "offsets",
    lambda rule, cursor, t: transpose8.has_border(cursor, t),
    lambda rule, cursor, t: NO,
    options=INLINE,
)


@inlined
def _retreat_in_segments(rule, fresh, crossed, cursor, t, g, r, gate, value, before):
    if crossed:
        r = row(cursor.room) if enter_back(cursor, t) else r
        before = row(cursor.room) if enter(cursor, t, -ONE) else before
    grad_a, grad_b, r = retreat(rule, fresh, g + r, gate, value, before)
    if crossed:
        store_vector(cursor.room, 0, r)
        leave(cursor, t)
    return grad_a, grad_b, r


# One of a block's steps.
retreat8 = choice(
    "offsets",
    _retreat_in_segments,
    lambda rule, fresh, crossed, cursor, t, g, r, gate, value, before: retreat(rule, fresh, g + r, gate, value, before),
    options=INLINE,
)


@inlined
def before8(rule, h, t, scratch):
    """Return the results before each of 8 steps from t on."""
    if t > 0:
        return load8(rule, h, t - 1, scratch.state)
    h0, h1, h2, h3, h4, h5, h6, _ = load8(rule, h, t, scratch.state)
    return row(scratch.first), h0, h1, h2, h3, h4, h5, h6


@helper
def retreat_rows(rule, x, to_a, to_b, flags, scratch, cursor, first, stop):
    """Take 8 series back through steps that fill no block, one by one."""
    states = scratch.state
    r, total = row(states), row(scratch.total)
    for ago in range(stop - first):
        t = stop - 1 - ago
        before = row_at(x.h, t - 1, states) if t > 0 else row(scratch.first)
        g, gate, value = row_at(x.g, t, states), row_at(x.a, t, states), row_at(x.b, t, states)
        fresh = fresh_row(rule, flags, t, states)
        grad_a, grad_b, r = retreat8(rule, fresh, YES, cursor, t, g, r, gate, value, before)
        if to_a.mode == STORE:
            store_across(shift(to_a.at, t * to_a.step), to_a.offsets, grad_a)
        if to_b.mode == STORE:
            store_across(shift(to_b.at, t * to_b.step), to_b.offsets, grad_b)
        total = total + grad_a
    store_vector(states, 0, r)
    store_vector(scratch.total, 0, total)


@helper
def walk_8_series_back(rule, x, to_a, to_b, flags, scratch, cursor, steps, first):
    """Take 8 series back by whole blocks, as many as there are where one begins with step ``first``."""
    g, a, b, h, _ = x
    last_a, last_b = transpose8.end_of_lines(to_a.at, first, steps), transpose8.end_of_lines(to_b.at, first, steps)
    gate = row_at(a, ZERO, scratch.state)
    gates = gate, gate, gate, gate, gate, gate, gate, gate
    r0, total = row(scratch.state), row(scratch.total)
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
            transpose8.store_one_of_many(rule, to_a, -1, t, (a0, a1, a2, a3, a4, a5, a6, a7), streaming)
        else:  # one after another: the sum is the same wherever blocks begin
            total = total + a7 + a6 + a5 + a4 + a3 + a2 + a1 + a0
        if to_b.mode == STORE:
            streaming = to_b.streaming and first <= t < last_b
            transpose8.store_one_of_many(rule, to_b, -1, t, (b0, b1, b2, b3, b4, b5, b6, b7), streaming)
        t -= OCTET
    store_vector(scratch.state, 0, r0)
    store_vector(scratch.total, 0, total)


@inlined
def with_streaming(a, b, is_large, steps):
    """Return both gradients, written past the cache if that pays and where lines begin alike; and where these begin."""
    line_a, line_b = transpose8.line_distance(a), transpose8.line_distance(b)
    line = line_b if b.mode == STORE else line_a
    streaming = transpose8.may_stream(is_large, line, steps)
    return (
        transpose8.Result(a.at, a.offsets, a.step, a.mode, a.lines, streaming and a.mode == STORE and line_a == line),
        transpose8.Result(b.at, b.offsets, b.step, b.mode, b.lines, streaming and b.mode == STORE),
        line if streaming else ZERO,
    )


@helper
def vjp_8_series(rule, given, results, flags_all, geometry, offsets, places, lines_a, lines_b, scratch, cursor):
    """Take 8 series back, from their last cotangents to their first states'; if they are less, the last is repeated."""
    is_large, steps = load_int(geometry, STREAMING) != 0, load_int(geometry, N_STEPS)
    x = Inputs(
        of_8_series(given.g, geometry, G, offsets, places), of_8_series(given.a, geometry, A, offsets, places),
        of_8_series(given.b, geometry, B, offsets, places), of_8_series(given.h, geometry, H, offsets, places),
        scratch.first,
    )  # fmt: skip
    place_a = of_8_series(results.to_a, geometry, TO_A, offsets, places)
    place_b = of_8_series(results.to_b, geometry, TO_B, offsets, places)
    flags = of_8_series(flags_all, geometry, FLAGS, offsets, places)
    to_a = transpose8.Result(results.to_a, place_a.offsets, place_a.step, load_int(geometry, A_MODE), lines_a, False)
    to_b = transpose8.Result(results.to_b, place_b.offsets, place_b.step, load_int(geometry, B_MODE), lines_b, False)
    to_a, to_b, first = with_streaming(to_a, to_b, is_large and cursor.count == OCTET, steps)
    write_zeros(scratch.total, scratch.state, OCTET)
    begin, done = first % OCTET, steps - (steps - first) % OCTET
    retreat_rows(rule, x, to_a, to_b, flags, scratch, cursor, done, steps)
    walk_8_series_back(rule, x, to_a, to_b, flags, scratch, cursor, steps, first)
    if begin > 0:
        retreat_rows(rule, x, to_a, to_b, flags, scratch, cursor, ZERO, begin)
    if to_a.mode == layout.ACCUMULATE:
        sums = of_8_series(results.sums_a, geometry, SUMS_A, offsets, places)
        for n in range(cursor.count):
            place = shift(sums.at, load_int(sums.offsets, n))
            store(place, 0, load(place, 0, scratch.total) + load(scratch.total, n, scratch.total))


def vjp(rule, given: layout.Given, results: layout.Results, marks: Marks, geometry, first, last):
    """Take series back; ``carry`` holds the last states' cotangents, then the first states'."""
    carry, offsets, places, place = results.carry, scalars.stack_ints(88), scalars.stack_ints(24), scalars.stack_ints(1)
    room = stack(carry, 8)
    store(place, 0, ZERO)
    scratch = Scratch(stack(carry, 8), stack(carry, 8), stack(carry, 8))
    lines_a, lines_b = stack_lines(results.to_a), stack_lines(results.to_b)
    for lane in range(first, last, OCTET):
        count = minimum(OCTET, last - lane)
        transpose8.find_places(places, geometry, lane, last)
        load_states(scratch.state, carry, lane, count, OCTET)
        load_states(scratch.first, given.h0, lane, count, OCTET)
        cursor = transpose8.Cursor(marks.offsets, marks.segment_states, geometry, place, room, lane, count)
        vjp_8_series(rule, given, results, marks.flags, geometry, offsets, places, lines_a, lines_b, scratch, cursor)
        store_states(carry, scratch.state, lane, count)
    if load_int(geometry, STREAMING) != 0:
        fence()

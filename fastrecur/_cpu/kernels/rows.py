"""Kernels for series that are neighbours in memory: at each step a row of them, which `wide` or `narrow` takes.

A step may have several rows, of which each takes four steps before the next one does, and around time stands one more
loop, over ``outer``. The last arguments of a kernel say which part of the series to take.
"""

from collections import namedtuple

from ..._plan import layout
from ..._plan.layout import REDUCE, STORE, Given, Marks, Part, Results
from ..compiler.numba_internals import INLINE, inlined
from ..vectors.scalars import fence, itemsize, maximum, minimum, shift
from . import narrow, operands, rules, wide
from .operands import FOUR, NO, ONE, ZERO, Distance, Gradient, Inputs, at_place, find, operand, read_head, segment_at
from .rules import a_is_broadcast, b_is_broadcast, choice, flag_is_broadcast, flags_are_late, g_is_broadcast, is_narrow


def plain(rule, a, b, h, states):
    """Compute what `forward` does, of arrays (steps, series); ``states`` are the first ones, then the last.

    The kernels of `transpose8`, `packed` and `scan` do the same, each for another layout or number of series.
    """
    step = rules.RULES[rule][rules.STEP]
    for t in range(len(h)):
        for j in range(len(states)):
            h[t, j] = states[j] = step(states[j], a[t, j], b[t, j])


def plain_vjp(rule, g, a, b, h, first, r, to_a, to_b):
    """Compute what `vjp` and those of the others do; ``r`` are the cotangents of the last states, then of the first."""
    adjoint = rules.RULES[rule][rules.ADJOINT]
    for t in range(len(g) - 1, -1, -1):
        for j in range(len(r)):
            before = h[t - 1, j] if t > 0 else first[j]
            to_a[t, j], to_b[t, j], r[j] = adjoint(g[t, j] + r[j], a[t, j], b[t, j], before)


MOST_AHEAD = 32  # rows that are prefetched at most
ENDS_AHEAD = 8  # rows before which a line is prefetched that a row fills in part: non-temporal stores wait for it
NARROW_AHEAD, NARROW_STEPS = 64, 512  # steps that are prefetched; whose gradients are summed before all sums are
NARROW_CHUNK = 32  # steps of a narrow row before the next one: to go on to that takes as long as ten steps

# How rows are taken: how many series; steps for which states stay in registers; whether results go by non-temporal
# stores; 1, or -1 from the last series to the first; what is prefetched, and which lines that a row fills in part;
# where flags of the first step stand that is taken, and whether a series' first step has none.
Scan = namedtuple("Scan", "lanes unroll streaming row_way far ends flags begins")


# Of steps from t to ``end``.
valid_part = choice(
    "offsets",
    lambda rule, lengths, row, outer, head, own, t, end: (t, end, ONE if t == own.first else ZERO),
    lambda rule, lengths, row, outer, head, own, t, end: operands.valid_part(lengths, row, outer, head, t, end),
    options=INLINE,
)
forward_row = choice("narrow", narrow.forward_row, wide.forward_row, options=INLINE)
vjp_row = choice("narrow", narrow.vjp_row, wide.vjp_row, options=INLINE)


@inlined
def distance(rule, room, count, k, rows, steps, way, row_way):
    """Return how far from the k-th of some rows, of so many steps each, stands what is prefetched.

    It is ``count`` rows later, for which there is room; behind the last row that is among the next steps'. Or it is in
    the same row.
    """
    later_steps, later_rows, bytes_ahead = ZERO, ZERO, ZERO
    if is_narrow(rule):
        later_steps = NARROW_AHEAD * way if rows == 1 else ZERO
    elif room <= 0:
        bytes_ahead = -room * row_way
    elif rows == 1:
        later_steps = count * steps * way
    elif k + count < rows:
        later_rows = count * row_way
    else:
        later_steps, later_rows = steps * way, (minimum(count, rows) - rows) * row_way
    return Distance(later_steps, later_rows, bytes_ahead)


def forward(rule, a, b, h, carry, marks: Marks, geometry, part: Part):
    """Take steps in scan order; ``carry`` holds the first states, then the last."""
    outer_first, outer_last, row_first, row_last, lane_first, lane_last = part
    head, rows, lanes = read_head(geometry), row_last - row_first, lane_last - lane_first
    all_a, all_b = operand(a, geometry, layout.A), operand(b, geometry, layout.B)
    all_h, states = operand(h, geometry, layout.H), operand(carry, geometry, layout.CARRY)
    all_lengths = operand(marks.lengths, geometry, layout.LENGTHS)
    all_flags = operand(marks.flags, geometry, layout.FLAGS)
    flag_lane, late = ZERO if flag_is_broadcast(rule) else lane_first, ONE if flags_are_late(rule) else ZERO
    a_lane, b_lane = ZERO if a_is_broadcast(rule) else lane_first, ZERO if b_is_broadcast(rule) else lane_first
    # Down through memory all the way, rows from their end: the processor's prefetcher follows that too.
    row_way = -ONE if all_h.step < 0 else ONE
    unroll = wide.forward_unroll(rule, carry, all_h, lanes, head)
    chunk, at_once = NARROW_CHUNK if is_narrow(rule) else FOUR, unroll if rows == 1 else FOUR
    if rows == 1:
        chunk = head.steps
    count = minimum(MOST_AHEAD, maximum(1, head.prefetch // maximum(1, lanes * itemsize(h) * at_once)))
    ends = Distance(ENDS_AHEAD, ZERO, ZERO) if rows == 1 else Distance(ZERO, ENDS_AHEAD * row_way, ZERO)
    for outer in range(outer_first, outer_last):
        t, own = ZERO, segment_at(rule, marks.offsets, ZERO, geometry, ZERO)
        while t < head.steps:
            if t == own.stop:
                own = segment_at(rule, marks.offsets, own.number, geometry, t)
            end = minimum(t + chunk, own.stop)
            starts = operand(operands.states_of(marks.segment_states, geometry, own.number), geometry, layout.CARRY)
            for k in range(rows):
                row = row_first + k if row_way > 0 else row_last - 1 - k
                start, stop, has_first = valid_part(rule, all_lengths, row, outer, head, own, t, end)
                some_h = find(all_h, ZERO, row, outer, lane_first)
                operands.clear_beside(some_h, carry, lanes, t, start, stop, end)
                some_a, some_b = find(all_a, start, row, outer, a_lane), find(all_b, start, row, outer, b_lane)
                far = distance(rule, head.prefetch, count, k, rows, at_once, ONE, row_way)
                some_flags = find(all_flags, start - late, row, outer, flag_lane)
                begins = has_first != 0 and (own.begins or head.first == 0)
                how = Scan(lanes, unroll, head.streaming, row_way, far, ends, some_flags, begins)
                here = at_place(states, ZERO, row, outer, lane_first)
                if own.begins and t == own.first:
                    operands.copy_states(here, at_place(starts, ZERO, row, outer, lane_first), lanes)
                forward_row(rule, here, some_a, some_b, operands.later(some_h, start), stop - start, how)
            t = end
    if head.streaming:
        fence()


@inlined
def find_gradient(x, row, outer, lane, part):
    """Return a gradient of a row; its sums are ``part`` bytes behind the first ones."""
    sums = find(x.sums, ZERO, row, outer, ZERO if x.mode == REDUCE else lane)
    sums = operands.Operand(shift(sums.at, part), sums.step, sums.row, sums.outer)
    return Gradient(find(x.to, ZERO, row, outer, lane), sums, x.mode, x.streaming)


@inlined
def find_inputs(rule, x, t, row, outer, lane):
    """Return a gradient's operands at a step, and the results before it."""
    g, a = ZERO if g_is_broadcast(rule) else lane, ZERO if a_is_broadcast(rule) else lane
    b, h = ZERO if b_is_broadcast(rule) else lane, ZERO if rules.h_is_broadcast(rule) else lane
    before, first = find(x.h, t - 1, row, outer, h), at_place(x.first, ZERO, row, outer, lane)
    return Inputs(find(x.g, t, row, outer, g), find(x.a, t, row, outer, a), find(x.b, t, row, outer, b), before, first)


@inlined
def prepare_row(x, carry, lanes, t, start, stop, end):
    """Write zeros to a gradient of steps that are not valid, if it is stored; return it at the last valid one."""
    if x.mode == STORE:
        operands.clear_beside(x.to, carry, lanes, t, start, stop, end)
    return operands.gradient_later(x, stop - 1)


def vjp(rule, given: Given, results: Results, marks: Marks, geometry, part: Part):
    """Take steps against scan order; ``carry`` holds the last states' cotangents, then the first states'."""
    g, a, b, h, h0 = given
    carry, to_a, to_b, sums_a, sums_b = results
    outer_first, outer_last, row_first, row_last, lane_first, lane_last = part
    head, rows, lanes = read_head(geometry), row_last - row_first, lane_last - lane_first
    all_g, all_a = operand(g, geometry, layout.G), operand(a, geometry, layout.A)
    all_b, all_h = operand(b, geometry, layout.B), operand(h, geometry, layout.H)
    states = operand(carry, geometry, layout.CARRY)
    all_lengths = operand(marks.lengths, geometry, layout.LENGTHS)
    all_flags = operand(marks.flags, geometry, layout.FLAGS)
    flag_lane, late = ZERO if flag_is_broadcast(rule) else lane_first, ONE if flags_are_late(rule) else ZERO
    all_to_a, all_sums_a = operand(to_a, geometry, layout.TO_A), operand(sums_a, geometry, layout.SUMS_A)
    all_to_b, all_sums_b = operand(to_b, geometry, layout.TO_B), operand(sums_b, geometry, layout.SUMS_B)
    gradient_a = Gradient(all_to_a, all_sums_a, head.a_mode, NO)
    gradient_b = Gradient(all_to_b, all_sums_b, head.b_mode, NO)
    row_way = -ONE if all_h.step > 0 else ONE
    chunk, at_once = NARROW_CHUNK if is_narrow(rule) else FOUR, ONE if rows == 1 else FOUR
    if rows == 1:
        chunk = NARROW_STEPS if is_narrow(rule) else head.steps
    count = minimum(MOST_AHEAD, maximum(1, head.prefetch // maximum(1, lanes * itemsize(h) * at_once)))
    ends = Distance(-ENDS_AHEAD, ZERO, ZERO) if rows == 1 else Distance(ZERO, ENDS_AHEAD * row_way, ZERO)
    for outer in range(outer_first, outer_last):
        ago, own = ZERO, segment_at(rule, marks.offsets, ZERO, geometry, head.steps - 1)
        while ago < head.steps:
            if head.steps - ago == own.first:
                own = segment_at(rule, marks.offsets, own.number, geometry, own.first - 1)
            span, part = minimum(chunk, head.steps - ago - own.first), ZERO
            if head.sum_steps > 0:
                span = minimum(span, head.sum_steps - ago % head.sum_steps)
                part = ago // head.sum_steps * head.sum_bytes
            t, end = head.steps - ago - span, head.steps - ago
            starts = operands.states_of(marks.segment_states, geometry, own.number)
            ends_from = operand(shift(starts, head.state_bytes), geometry, layout.CARRY)
            starts_to = operand(shift(starts, 2 * head.state_bytes), geometry, layout.CARRY)
            firsts = operand(starts if own.begins else h0, geometry, layout.CARRY)
            inputs = Inputs(all_g, all_a, all_b, all_h, firsts)
            for k in range(rows):
                row = row_first + k if row_way > 0 else row_last - 1 - k
                start, stop, has_first = valid_part(rule, all_lengths, row, outer, head, own, t, end)
                some_a = find_gradient(gradient_a, row, outer, lane_first, part)
                some_b = find_gradient(gradient_b, row, outer, lane_first, ZERO)
                some_a = prepare_row(some_a, carry, lanes, t, start, stop, end)
                some_b = prepare_row(some_b, carry, lanes, t, start, stop, end)
                here = find_inputs(rule, inputs, stop - 1, row, outer, lane_first)
                far = distance(rule, head.prefetch, count, k, rows, at_once, -ONE, row_way)
                some_flags = find(all_flags, stop - 1 - late, row, outer, flag_lane)
                how = Scan(lanes, ONE, head.streaming, row_way, far, ends, some_flags, own.begins or head.first == 0)
                state = at_place(states, ZERO, row, outer, lane_first)
                if own.ends and end == own.stop:
                    operands.copy_states(state, at_place(ends_from, ZERO, row, outer, lane_first), lanes)
                vjp_row(rule, state, here, some_a, some_b, stop - start, has_first, how)
                if own.begins and t == own.first and operands.takes_states(geometry):
                    operands.copy_states(at_place(starts_to, ZERO, row, outer, lane_first), state, lanes)
            ago += span
    if head.streaming:
        fence()

"""Scan the cotangents of few long series, against the direction of `scan` and as it does: `rows.plain_vjp`."""

from collections import namedtuple

import numpy as np

from ..._plan import layout
from ..._plan.fields import scan as fields
from ..._plan.fields.scan import BLOCK, SUMMARY
from ..._plan.layout import A_MODE, ACCUMULATE, B_MODE, N_STEPS, STORE, SUMS_A, SUMS_B, TO_A, TO_B, A, B, G, H
from ..._steps.recurrence import constant, everywhere, fma, is_finite, magnitude, select
from ..compiler.numba_internals import INLINE, helper, inlined
from ..vectors import scalars, vectors
from ..vectors.scalars import itemsize, load, load_int, maximum, minimum, prefetch, shift, stack, stack_of, store, width
from ..vectors.vectors import (
    broadcast,
    broadcast_lane,
    earlier,
    lane_of,
    later,
    load_mask,
    load_vector,
    store_vector,
    total,
)
from . import blocks, series as _series
from .blocks import DECAY, OFFSET, PEAK, operand, warm_up
from .operands import NO, ONE, YES, ZERO
from .packing import strides_of
from .rules import a_is_time_invariant, adjoint, begins_anew, by_borders, choice, kept, retreat
from .series import NO_STEPS, PREFETCH, higher, lower, packed, packed_flags

# A gradient: where it is stored, its partial sums if it is accumulated, bytes from one to the next, and output mode.
Gradient = namedtuple("Gradient", "to sums sum_bytes mode in_place")
# A series: operands, gradients, the first state, the number of steps, the summaries of its blocks and the thread's own,
# how many partial sums there are and the number of blocks that they share.
Series = namedtuple("Series", "g a b h flags clean to_a to_b first steps summaries own sums blocks states borders")
# Where a block's operands and gradients are contiguous, the state before it, borders, and buffers for clean operands.
Rows = namedtuple("Rows", "g a b h flags to_a to_b before borders clean")
Clean = namedtuple("Clean", "g a ends")
# Of steps with which segments begin: the states before them, the cotangents of the last states of the segments before,
# and what flows on to the former.
Borders = namedtuple("Borders", "starts ends to_starts")
NO_STEP, NOT_FINITE, EVERY = np.arange(3)  # which gradients `step_back` writes


@helper
def _borders_at(rule, series, carry, t, steps):
    x, states = series.flags, series.states
    n = _series.clear_flags(x, t, steps)
    while load_int(x.at, n) < t + steps:
        k = load_int(x.at, n) - t
        store(x.rows, k, ONE)
        place = shift(states.at, n * states.between)
        store(series.borders.starts, k, load(place, 0, carry))
        if n == 0 or load_int(x.at, n - 1) - t < k:  # others are behind segments without steps
            before = shift(place, states.kind - states.between)
            store(series.borders.ends, k, constant(0.0, load(place, 0, carry)) if n == 0 else load(before, 0, carry))
        n += 1
    store(x.ahead, 0, n)
    return x.rows, n


@helper
def _deliver_borders(rule, series, carry, t, steps):
    x, states = series.flags, series.states
    n = _series.next_border(x, t)
    while states.between != 0 and load_int(x.at, n) < t + steps:
        k = load_int(x.at, n) - t
        if load_int(x.at, n + 1) - t > k:
            store(shift(states.at, n * states.between + 2 * states.kind), 0, load(series.borders.to_starts, k, carry))
        n += 1


@inlined
def _to_segments(rule, borders, k, fresh, arrived, gate, value, before):
    before = load(borders.starts, k, borders.starts) if fresh else before
    grad_a, grad_b, r = adjoint(rule, arrived, gate, value, before)
    if fresh:
        store(borders.to_starts, k, r)
        r = load(borders.ends, k, borders.ends)
    return grad_a, grad_b, r


@inlined
def _to_no_state(rule, borders, k, fresh, arrived, gate, value, before):
    zero = constant(0.0, arrived)
    grad_a, grad_b, r = adjoint(rule, arrived, gate, value, select(fresh, zero, before))
    return grad_a, grad_b, select(fresh, zero, r)


@inlined
def _vectors_to_segments(rule, summary, borders, t, fresh, arrived, gate, value, before):
    starts = load_vector(borders.starts, t, summary)
    grad_a, grad_b, r = adjoint(rule, arrived, gate, value, select(fresh, starts, before))
    store_vector(borders.to_starts, t, r)
    return grad_a, grad_b, r


@inlined
def _vectors_to_none(rule, summary, borders, t, fresh, arrived, gate, value, before):
    return of_steps(rule, borders, t, fresh, arrived, gate, value, before)


# Return flags of a block's steps, and note what is at segments' borders; bring what flows on to segments' first states
# where it belongs; a step's gradients, and a vector of such; what steps add to what flows on.
borders_at = by_borders(
    _borders_at,
    blocks.flags_of_offsets,
    lambda rule, series, carry, t, steps: (packed_flags(rule, series.flags, t, steps), ZERO),
)
deliver_borders = choice("segment_states", _deliver_borders, lambda rule, series, carry, t, steps: None)
of_steps = choice(
    "offsets",
    _to_no_state,
    lambda rule, borders, k, fresh, arrived, gate, value, before: retreat(rule, fresh, arrived, gate, value, before),
    options=INLINE,
)
retreat_at = choice("segment_states", _to_segments, of_steps, options=INLINE)
retreat_vectors = choice("segment_states", _vectors_to_segments, _vectors_to_none, options=INLINE)
added = choice(
    "segment_states",
    lambda rule, summary, borders, t, fresh, given: select(fresh, load_vector(borders.ends, t, summary), given),
    lambda rule, summary, borders, t, fresh, given: given,
    options=INLINE,
)


@helper
def step_back(rule, rows, carry, first, stop, r, which):
    """Take cotangents through steps of a block one by one; return what flows on, and write gradients of ``which``."""
    for ago in range(stop - first):
        k = stop - 1 - ago
        gate, value = load(rows.a, k, carry), load(rows.b, k, carry)
        before = load(rows.h, k - 1, carry) if k > 0 else rows.before
        fresh, arrived = begins_anew(rows.flags, k, carry), load(rows.g, k, carry) + r
        grad_a, grad_b, r = retreat_at(rule, rows.borders, k, fresh, arrived, gate, value, before)
        if which == EVERY or (which == NOT_FINITE and not (is_finite(arrived) and is_finite(grad_b))):
            store(rows.to_a, k, grad_a)
            store(rows.to_b, k, grad_b)
    return r


@helper
def walk_vectors_back(rule, rows, summary, steps, r, keeps):
    """Take cotangents through whole vectors of a block, and summarise them, from what flows on from the step after.

    Where only the summary is wanted, ``keeps`` is false.
    """
    lanes = width(summary)
    zero, one = constant(0.0, r), constant(1.0, r)
    most, peak = broadcast(zero), broadcast(zero)
    # Of these only the first lane counts.
    product, end, after = broadcast(one), broadcast(zero), broadcast(r)
    gate = load_vector(rows.a, 0, summary)
    for ago in range(0, steps, lanes):
        t = steps - lanes - ago
        prefetch(rows.g, t, -PREFETCH)
        g = load_vector(rows.g, t, summary)
        if not a_is_time_invariant(rule):
            prefetch(rows.a, t, -PREFETCH)
            gate = load_vector(rows.a, t, summary)
        fresh = load_mask(rows.flags, t, summary)
        left = kept(rule, fresh, gate)
        own = added(rule, summary, rows.borders, t, fresh, left * g)
        most, peak = higher(most, magnitude(left)), higher(higher(peak, magnitude(g)), magnitude(own))
        products, ends = _series.compose_steps(
            rule, later, vectors.any_later, rows.flags, t, NO, fresh, gate, own, broadcast(zero)
        )
        onward = fma(products, after, ends)
        if keeps:
            prefetch(rows.b, t, -PREFETCH)
            prefetch(rows.h, t, -PREFETCH)
            scalars.prefetch_for_write(rows.to_a, t, -PREFETCH)
            scalars.prefetch_for_write(rows.to_b, t, -PREFETCH)
            value = load_vector(rows.b, t, summary)
            if t > 0:
                before = load_vector(rows.h, t - 1, summary)
            else:
                before = earlier(load_vector(rows.h, 0, summary), broadcast(rows.before), 1)
            arrived = g + later(onward, after, 1)
            grad_a, grad_b, _ = retreat_vectors(rule, summary, rows.borders, t, fresh, arrived, gate, value, before)
            store_vector(rows.to_a, t, grad_a)
            store_vector(rows.to_b, t, grad_b)
        end, product, after = fma(products, end, ends), products * product, broadcast_lane(onward, 0)
    inside, bound = everywhere(lower(broadcast(one), most) == most), total(peak)
    store(summary, DECAY, lane_of(product, 0) if inside else constant(blocks.NOT_A_NUMBER, r))
    store(summary, OFFSET, lane_of(end, 0))
    store(summary, PEAK, bound)
    sound = inside and is_finite(lane_of(after, 0)) and blocks.stays_finite(r, bound)
    if keeps and r == r and not sound:
        step_back(rule, rows, summary, NO_STEPS, steps, r, EVERY)


@helper
def walk_flagged(rule, rows, summary, steps, r, keeps):
    """Take cotangents through vectors as `scan`'s function walks these."""
    clean, clean_r = rows, r
    for turn in range(2):
        walk_vectors_back(rule, clean, summary, steps, clean_r, keeps)
        if turn == 0:
            if is_finite(r) and is_finite(load(summary, OFFSET, summary)):
                return
            to, own, clean_r = rows.clean, rows.borders, select(is_finite(r), r, constant(0.0, r))
            _series.clean(to.g, rows.g, summary, steps)
            _series.clean(to.a, rows.a, summary, steps)
            blocks.clean_entries(rule, to.ends, own.ends, summary, steps)
            own = Borders(own.starts, to.ends, own.to_starts)
            clean = Rows(to.g, to.a, rows.b, rows.h, rows.flags, rows.to_a, rows.to_b, rows.before, own, to)
    if not is_finite(step_back(rule, rows, summary, NO_STEPS, steps, r, NOT_FINITE if keeps else NO_STEP)):
        store(summary, DECAY, constant(blocks.NOT_A_NUMBER, r))


walk_whole = choice("flagged", walk_flagged, walk_vectors_back)


@inlined
def rows_at(rule, series, t, steps, b, h, to_a, to_b, before):
    """Return a block's steps, packed as far as they are to be read."""
    g, a = packed(series.g, t, steps), packed(series.a, t, steps)
    flags, _ = borders_at(rule, series, series.own, t, steps)
    return Rows(g, a, b, h, flags, to_a, to_b, before, series.borders, series.clean)


@inlined
def rows_of_gates(rule, series, t, steps, zero):
    """Return a block's steps for who writes no gradient: neither ``b`` nor ``h`` matter then."""
    to_a, to_b = series.to_a.to.rows, series.to_b.to.rows
    return rows_at(rule, series, t, steps, series.b.rows, series.h.rows, to_a, to_b, zero)


@helper
def reduce_block(rule, series, summary, block, steps):
    """Summarise a block."""
    zero = constant(0.0, load(summary, 0, summary))
    walk_whole(rule, rows_of_gates(rule, series, block * BLOCK, steps, zero), summary, steps, zero, NO)


@helper
def composed(rule, summary, r):
    """Return what leaves a block at its start from what reaches its end, and whether it may be used."""
    product = load(summary, DECAY, summary)
    new = fma(product, r, load(summary, OFFSET, summary))
    sound = magnitude(product * r) <= constant(fields.CANCELLED, r) * magnitude(new)
    return new, sound and is_finite(new) and blocks.stays_finite(r, load(summary, PEAK, summary))


@inlined
def walk_alone(rule, series, flags, carry, first, steps, r):
    """Return what flows on from some steps, of which no gradient is kept."""
    rows = rows_of_gates(rule, series, first, steps, constant(0.0, r))
    return step_back(rule, rows, carry, NO_STEPS, steps, r, NO_STEP)


@inlined
def scan_carry(rule, series, summary, block, steps, r):
    return blocks.carry_on(composed, borders_at, walk_alone, rule, series, summary, block, steps, r)


@helper
def deliver(x, t, steps, piece):
    """Store a block of a gradient, or add it to a partial sum."""
    rows, sums = x.to.rows, shift(x.sums.at, t * x.sums.step + piece * x.sum_bytes)
    if x.mode == STORE and not x.in_place:
        _series.unpack(x.to, t, steps)
    elif x.mode == ACCUMULATE and x.sums.step == 0:
        whole = steps - steps % width(sums)
        column = broadcast(constant(0.0, load(sums, 0, sums)))
        for k in range(0, whole, width(sums)):
            column = column + load_vector(rows, k, sums)
        value = total(column)
        for k in range(whole, steps):
            value = value + load(rows, k, sums)
        store(sums, 0, load(sums, 0, sums) + value)
    elif x.mode == ACCUMULATE:
        for k in range(steps):
            place = shift(sums, k * x.sums.step)
            store(place, 0, load(place, 0, sums) + load(rows, k, sums))


@inlined
def walk_block(rule, series, summary, block, steps, r):
    """Take cotangents through a block; return what flows on from it."""
    t, whole, h = block * BLOCK, steps - steps % width(summary), series.h
    b, h_rows, to_a, to_b = packed(series.b, t, steps), packed(h, t, steps), series.to_a, series.to_b
    before = series.first if t == 0 else load(shift(h.at, (t - 1) * h.step), 0, summary)
    to_a_rows, to_b_rows = blocks.rows_of(to_a.to, t, to_a.in_place), blocks.rows_of(to_b.to, t, to_b.in_place)
    rows = rows_at(rule, series, t, steps, b, h_rows, to_a_rows, to_b_rows, before)
    r = step_back(rule, rows, summary, whole, steps, r, EVERY)
    if whole > 0:
        walk_whole(rule, rows, summary, whole, r, YES)
        r = scan_carry(rule, series, summary, block, whole, r)
    # What is behind the whole blocks belongs to the last partial sum.
    piece = series.sums - 1
    if piece > 0 and (block + 1) * BLOCK <= series.steps:
        piece = ((block + 1) * series.sums - 1) // maximum(1, series.blocks)
    deliver_borders(rule, series, summary, t, steps)
    deliver(to_a, t, steps, piece)
    deliver(to_b, t, steps, piece)
    return r


@inlined
def gradient(to, rows, sums, geometry, to_field, sums_field, mode_field, bytes_field, lane, start):
    """Return where a series' gradient goes, from its first valid step on."""
    stored = operand(to, rows, geometry, to_field, lane, start, -1)
    summed = operand(sums, sums, geometry, sums_field, lane, start, -1)
    mode = load_int(geometry, mode_field)
    return Gradient(stored, summed, load_int(geometry, bytes_field), mode, mode == STORE and blocks.may_stand(stored))


def vjp(
    rule, given: layout.Given, results: layout.Results, marks: layout.Marks, geometry, summaries, first, last
):  # fmt: skip
    """Scan series ``first`` to ``last`` back; ``carry`` holds the last states' cotangents, then the first states'.

    Partial sums are of consecutive blocks each, one after the other in memory. Of a sum over series there are 0: it is
    whole.
    """
    g, a, b, h, h0 = given
    carry, to_a, to_b, sums_a, sums_b = results
    g_rows, a_rows = stack_of(g, carry, BLOCK), stack_of(a, carry, BLOCK)
    b_rows, h_rows = stack_of(b, carry, BLOCK), stack_of(h, carry, BLOCK)
    to_a_rows, to_b_rows = stack_of(to_a, carry, BLOCK), stack_of(to_b, carry, BLOCK)
    own, flags, place = stack(carry, SUMMARY), scalars.stack_flags(BLOCK), scalars.stack_ints(1)
    clean = Clean(stack_of(g, carry, BLOCK), stack_of(a, carry, BLOCK), stack(carry, BLOCK))
    borders = Borders(stack(carry, BLOCK), stack(carry, BLOCK), stack(carry, BLOCK))
    all_steps, phase = load_int(geometry, N_STEPS), load_int(geometry, layout.PHASE)
    n_blocks = all_steps // BLOCK
    first_block, last_block = load_int(geometry, layout.FIRST_BLOCK), load_int(geometry, layout.LAST_BLOCK)
    is_down = load_int(strides_of(geometry, H), 0) > 0
    if phase == fields.WARM_UP:
        store(carry, 2 * last, constant(1.0, load(carry, 0, carry)))
    for turn in range(last - first):
        lane = last - 1 - turn if is_down else first + turn  # in the order of memory
        start, steps = blocks.valid_steps(geometry, marks.lengths, lane)
        series = Series(
            operand(g, g_rows, geometry, G, lane, start, -1), operand(a, a_rows, geometry, A, lane, start, -1),
            operand(b, b_rows, geometry, B, lane, start, -1), operand(h, h_rows, geometry, H, lane, start, -1),
            blocks.borders_of(rule, marks, flags, place, geometry, lane, start), clean,
            gradient(to_a, to_a_rows, sums_a, geometry, TO_A, SUMS_A, A_MODE, fields.SUMS + 1, lane, start),
            gradient(to_b, to_b_rows, sums_b, geometry, TO_B, SUMS_B, B_MODE, fields.SUMS + 2, lane, start),
            load(h0, lane, carry), steps, shift(summaries, lane * n_blocks * SUMMARY * itemsize(carry)), own,
            maximum(1, load_int(geometry, fields.SUMS)), n_blocks,
            blocks.states_of_segments(marks.segment_states, geometry, lane), borders,
        )  # fmt: skip
        _series.fill_constant(series.g)
        _series.fill_constant(series.a)
        _series.fill_constant(series.b)
        _series.fill_constant(series.h)
        top = minimum(last_block, steps // BLOCK)
        r = load(carry, lane, carry)
        if phase == fields.WARM_UP:
            others, count, zero = maximum(0, steps // BLOCK - last_block), last_block - first_block, constant(0.0, r)
            r, is_known = warm_up(reduce_block, scan_carry, rule, series, last_block, -1, others, count, zero)
            if not is_known:
                store(carry, 2 * last, zero)
                break
            store(carry, last + lane, r)
        low, rest = minimum(first_block, top), 0
        if last_block == n_blocks and (phase == fields.ALL or phase == blocks.SCAN_CARRIES):
            rest = steps - top * BLOCK
            if series.to_a.mode == STORE:
                _series.clear_outside(series.to_a.to, start, steps, all_steps)
            if series.to_b.mode == STORE:
                _series.clear_outside(series.to_b.to, start, steps, all_steps)
        r = blocks.each_block(reduce_block, scan_carry, walk_block, rule, series, low, top, rest, -1, phase, r)
        if phase != blocks.REDUCE and phase != blocks.DOWNSWEEP:
            store(carry, lane, r)

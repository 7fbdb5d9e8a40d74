"""Kernels for few lanes and long time: split each series into segments and walk the segments as lanes.

A block is ``width`` segments of SEGMENT steps. Each is first *summarised*, in deviations from an origin: ``decay``, the
product of what its steps multiply the state by; ``rise``, where the walk of ``x - origin`` arrives from 0; ``weight``,
where that of a series of ones does. In order, a segment's first state then follows from the one before it, from the
nearer end as in `_steps.forget_same`: ``h + (rise + weight*(origin - h))`` or ``origin + (rise + decay*(h - origin))``.
From their first states all segments of a block are *replayed* by the true step, so that within a segment nothing is
approximated.

An average's origin is one of the segment's own values, so that a constant series composes to itself; the smallest, so
that nothing larger than what is in play takes part. A linear recurrence's is 0. Where a composed state is not finite,
or a linear recurrence's cancels, the segment is walked step by step instead. At a segment's edge a closed gate repeats
the last result to the bit.

Blocks depend on each other only through that fold. So threads may summarise them all, one fold, and threads replay
them, or one thread may do everything block by block (``phase`` says which): the same arithmetic, hence the same bits.
"""

from numba import njit

from .._steps import constant, fma, magnitude, select
from ._memory import (
    HELPER,
    itemsize,
    load,
    load_int,
    load_vector,
    shift,
    stack,
    stack_ints,
    stack_like,
    store,
    store_int,
    store_vector,
    width,
)
from ._rows import STORE, settle_lane, valid_range
from ._rules import adjoint, decay, deviation_step, is_average, step
from ._tiles import (
    LENGTHS,
    SUMS_A,
    SUMS_B,
    TO_A,
    TO_B,
    A,
    B,
    G,
    H,
    bring,
    deliver,
    lane_offset,
    put,
    row_bytes,
    walk,
    walk_back,
)

ALL, SUMMARISE, FOLD, REPLAY, FINISH = range(5)  # phases
SEGMENT = 64  # steps
BUFFER = 16 * SEGMENT
SUMMARY = 96  # numbers in a block's summary: width x (decay, rise, origin, then first state, weight, peaks of both)
CANCELLED = 16.0  # a linear recurrence's composed state must not be so many times smaller than its summands


@njit(**HELPER)
def segment_offsets(offsets, time, carry):
    for j in range(width(carry)):
        store_int(offsets, j, j * SEGMENT * time)


@njit(**HELPER)
def zero_steps(target, time, first, last, carry):
    zero = constant(0.0, load(carry, 0, carry))
    for t in range(first, last):
        store(shift(target, t * time), 0, zero)


@njit(**HELPER)
def smallest(b_rows, summary):
    """Return each segment's value nearest to zero."""
    row = row_bytes(b_rows)
    least = load_vector(b_rows, 0, summary)
    for k in range(1, SEGMENT):
        value = load_vector(shift(b_rows, k * row), 0, summary)
        least = select(magnitude(value) < magnitude(least), value, least)
    return least


@njit(**HELPER)
def higher(peak, value):
    return select(peak < magnitude(value), magnitude(value), peak)


@njit(**HELPER)
def stays_finite(summary, s, h):
    """Return whether no state within a segment can overflow, where the one after it may look sound again."""
    lanes = width(summary)
    bound = fma(load(summary, 4 * lanes + s, summary), magnitude(h), load(summary, 5 * lanes + s, summary))
    return bound - bound == constant(0.0, h)


@njit(**HELPER)
def summarise(rule, a_rows, b_rows, summary):
    lanes, a_row, b_row = width(summary), row_bytes(a_rows), row_bytes(b_rows)
    zero = constant(0.0, load_vector(a_rows, 0, summary))
    one = constant(1.0, zero)
    origin = smallest(b_rows, summary) if is_average(rule) else zero
    product, rise, weight, decay_peak, rise_peak = one, zero, zero, one, zero
    for k in range(SEGMENT):
        gate, value = (
            load_vector(shift(a_rows, k * a_row), 0, summary),
            load_vector(shift(b_rows, k * b_row), 0, summary),
        )
        product = product * decay(rule, gate)
        rise = deviation_step(rule, rise, gate, value - origin)
        if is_average(rule):
            weight = deviation_step(rule, weight, gate, one)
        decay_peak, rise_peak = higher(decay_peak, product), higher(rise_peak, rise)
    store_vector(summary, 4 * lanes, decay_peak)
    store_vector(summary, 5 * lanes, rise_peak)
    store_vector(summary, 0, product)
    store_vector(summary, lanes, rise)
    store_vector(summary, 2 * lanes, origin)
    store_vector(summary, 3 * lanes, weight)


@njit(**HELPER)
def composed(is_average, product, rise, origin, weight, h):
    """Return the state after a segment from the one before, and whether it may be used."""
    zero = constant(0.0, h)
    if not is_average:
        new = fma(product, h, rise)
        return new, new - new == zero and magnitude(product * h) <= constant(CANCELLED, h) * magnitude(new)
    if product > constant(0.5, h):
        new = h + fma(weight, origin - h, rise)
    else:
        new = origin + fma(product, h - origin, rise)
    return new, new - new == zero


@njit(**HELPER)
def walk_segment(rule, a, b, a_time, b_time, h, carry):
    for k in range(SEGMENT):
        h = step(rule, h, load(shift(a, k * a_time), 0, carry), load(shift(b, k * b_time), 0, carry))
    return h


@njit(**HELPER)
def fold_block(rule, a, b, a_time, b_time, summary, h):
    """Replace the origins in a block's summary by its segments' first states; return the state after it."""
    lanes = width(summary)
    for s in range(lanes):
        product, rise = load(summary, s, summary), load(summary, lanes + s, summary)
        origin, weight = load(summary, 2 * lanes + s, summary), load(summary, 3 * lanes + s, summary)
        store(summary, 2 * lanes + s, h)
        if h == h:
            new, sound = composed(is_average(rule), product, rise, origin, weight, h)
            if not (sound and stays_finite(summary, s, h - origin)):
                t = s * SEGMENT
                new = walk_segment(rule, shift(a, t * a_time), shift(b, t * b_time), a_time, b_time, h, summary)
            h = new
    return h


@njit(**HELPER)
def hold(rule, a, b, h, a_time, b_time, h_time, steps, carry):
    """Repeat the result before ``h`` while an average's gate is closed to a finite value; return for how many steps."""
    k = 0
    if is_average(rule):
        last = load(shift(h, -h_time), 0, carry)
        zero = constant(0.0, last)
        while k < steps and load(shift(a, k * a_time), 0, carry) == zero:
            value = load(shift(b, k * b_time), 0, carry)
            if value - value != zero:
                break
            store(shift(h, k * h_time), 0, last)
            k += 1
    return k


@njit(**HELPER)
def hold_edges(rule, a_rows, b_rows, h, h_time, first, carry):
    """`hold` at the edges of a block's segments, its gates in ``a_rows``, its values in ``b_rows``."""
    a_row, b_row = row_bytes(a_rows), row_bytes(b_rows)
    for s in range(first, width(carry)):
        gates, values = shift(a_rows, s * itemsize(a_rows)), shift(b_rows, s * itemsize(b_rows))
        hold(rule, gates, values, shift(h, s * SEGMENT * h_time), a_row, b_row, h_time, SEGMENT, carry)


@njit(**HELPER)
def finish(rule, a, b, h, a_time, b_time, h_time, done, steps, carry, lane):
    """Walk what is left after ``done`` steps of whole blocks; leave the last result in ``carry``."""
    value = load(carry, lane, carry)
    held = 0
    if 0 < done < steps:
        a_now, b_now, h_now = shift(a, done * a_time), shift(b, done * b_time), shift(h, done * h_time)
        held = hold(rule, a_now, b_now, h_now, a_time, b_time, h_time, steps - done, carry)
    for t in range(done + held, steps):
        value = step(rule, value, load(shift(a, t * a_time), 0, carry), load(shift(b, t * b_time), 0, carry))
        store(shift(h, t * h_time), 0, value)
    if steps > 0:
        store(carry, lane, load(shift(h, (steps - 1) * h_time), 0, carry))


def forward(rule, a, b, h, carry, lengths, geometry, summaries, first, last, first_block, last_block, blocks, phase):
    """Walk blocks of lanes; ``carry`` holds the first states, then the last."""
    steps, reverse = load_int(geometry, 0), load_int(geometry, 1)
    a_time, b_time, h_time = (
        load_int(shift(geometry, A), 0),
        load_int(shift(geometry, B), 0),
        load_int(shift(geometry, H), 0),
    )
    a_rows, b_rows, h_rows = stack_like(a, carry, BUFFER), stack_like(b, carry, BUFFER), stack_like(h, carry, BUFFER)
    state = stack(carry, 16)
    a_at, b_at, h_at = stack_ints(16), stack_ints(16), stack_ints(16)
    segment_offsets(a_at, a_time, carry)
    segment_offsets(b_at, b_time, carry)
    segment_offsets(h_at, h_time, carry)
    size = width(carry) * SEGMENT
    for block in range(first_block, last_block):
        for lane in range(first, last):
            start, stop = valid_range(
                shift(lengths, lane_offset(geometry, shift(geometry, LENGTHS), lane)), steps, reverse
            )
            t = start + block * size
            if t + size > stop:
                continue
            a_now = shift(a, lane_offset(geometry, shift(geometry, A), lane) + t * a_time)
            b_now = shift(b, lane_offset(geometry, shift(geometry, B), lane) + t * b_time)
            h_now = shift(h, lane_offset(geometry, shift(geometry, H), lane) + t * h_time)
            summary = shift(summaries, (lane * blocks + block) * SUMMARY * itemsize(carry))
            if phase == ALL:
                summary = shift(summaries, 0)
            if phase != FOLD and phase != FINISH:
                bring(a_rows, a_now, a_at, a_time, SEGMENT, size * a_time)
                bring(b_rows, b_now, b_at, b_time, SEGMENT, size * b_time)
            if phase == ALL or phase == SUMMARISE:
                summarise(rule, a_rows, b_rows, summary)
            if phase == ALL or phase == FOLD:
                after = fold_block(rule, a_now, b_now, a_time, b_time, summary, load(carry, lane, carry))
                store(carry, lane, after)
            if phase == ALL or phase == REPLAY:
                store_vector(state, 0, load_vector(summary, 2 * width(carry), carry))
                walk(rule, a_rows, b_rows, h_rows, state, SEGMENT)
                put(h_now, h_at, h_time, h_rows, SEGMENT, width(carry), size * h_time, False)
                hold_edges(rule, a_rows, b_rows, h_now, h_time, 0 if phase == ALL and block > 0 else 1, carry)
            if phase == FINISH and block > 0:
                hold(rule, a_now, b_now, h_now, a_time, b_time, h_time, stop - t, carry)
    if phase == FINISH or (phase == ALL and last_block == blocks):
        for lane in range(first, last):
            start, stop = valid_range(
                shift(lengths, lane_offset(geometry, shift(geometry, LENGTHS), lane)), steps, reverse
            )
            h_now = shift(h, lane_offset(geometry, shift(geometry, H), lane))
            zero_steps(h_now, h_time, 0, start, carry)
            zero_steps(h_now, h_time, stop, steps, carry)
            a_now = shift(a, lane_offset(geometry, shift(geometry, A), lane) + start * a_time)
            b_now = shift(b, lane_offset(geometry, shift(geometry, B), lane) + start * b_time)
            done = (stop - start) // size * size
            finish(
                rule,
                a_now,
                b_now,
                shift(h_now, start * h_time),
                a_time,
                b_time,
                h_time,
                done,
                stop - start,
                carry,
                lane,
            )


@njit(**HELPER)
def back(rule, g, a, r):
    """Return what flows on from a step: neither its gradients nor ``b`` nor ``h`` matter to it."""
    zero = constant(0.0, r)
    return adjoint(rule, g + r, a, zero, zero)[2]


@njit(**HELPER)
def summarise_back(rule, g_rows, a_rows, summary):
    g_row, a_row = row_bytes(g_rows), row_bytes(a_rows)
    product = constant(1.0, load_vector(a_rows, 0, summary))
    end = constant(0.0, product)
    decay_peak, rise_peak = product, end
    for ago in range(SEGMENT):
        k = SEGMENT - 1 - ago
        gate = load_vector(shift(a_rows, k * a_row), 0, summary)
        product = product * decay(rule, gate)
        end = back(rule, load_vector(shift(g_rows, k * g_row), 0, summary), gate, end)
        decay_peak, rise_peak = higher(decay_peak, product), higher(rise_peak, end)
    store_vector(summary, 4 * width(summary), decay_peak)
    store_vector(summary, 5 * width(summary), rise_peak)
    store_vector(summary, 0, product)
    store_vector(summary, width(summary), end)


@njit(**HELPER)
def fold_block_back(rule, g, a, g_time, a_time, summary, r):
    """Note what reaches each segment's end; return what leaves the block at its start."""
    lanes = width(summary)
    for ago in range(lanes):
        s = lanes - 1 - ago
        store(summary, 2 * lanes + s, r)
        if r != r:
            continue
        zero = constant(0.0, r)
        new, sound = composed(False, load(summary, s, summary), load(summary, lanes + s, summary), zero, zero, r)
        if not (sound and stays_finite(summary, s, r)):
            new = r
            for before in range(SEGMENT):
                t = s * SEGMENT + SEGMENT - 1 - before
                gate = load(shift(a, t * a_time), 0, summary)
                new = back(rule, load(shift(g, t * g_time), 0, summary), gate, new)
        r = new
    return r


@njit(**HELPER)
def vjp_steps(
    rule, g, a, b, h, h0, carry, to_a, to_b, sums_a, sums_b, start, first, stop, lane, g_time, a_time, b_time, h_time,
    to_a_time, to_b_time, sums_a_time, sums_b_time, a_fate, b_fate,
):  # fmt: skip
    """Take one lane back from step ``stop`` to step ``first``, of the valid steps from ``start``."""
    r = load(carry, lane, carry)
    for ago in range(stop - first):
        t = stop - 1 - ago
        before = load(h0, lane, carry) if t == start else load(shift(h, (t - 1) * h_time), 0, carry)
        gate, other = load(shift(a, t * a_time), 0, carry), load(shift(b, t * b_time), 0, carry)
        grad_a, grad_b, r = adjoint(rule, load(shift(g, t * g_time), 0, carry) + r, gate, other, before)
        settle_lane(shift(to_a, t * to_a_time), shift(sums_a, t * sums_a_time), 0, grad_a, a_fate)
        settle_lane(shift(to_b, t * to_b_time), shift(sums_b, t * sums_b_time), 0, grad_b, b_fate)
    store(carry, lane, r)


def vjp(
    rule, g, a, b, h, h0, carry, to_a, to_b, sums_a, sums_b, lengths, geometry, summaries, first, last, first_block,
    last_block, blocks, phase,
):  # fmt: skip
    """Walk blocks of lanes back; ``carry`` holds the last states' cotangents, then the first states'."""
    steps, reverse, a_fate, b_fate = (
        load_int(geometry, 0), load_int(geometry, 1), load_int(geometry, 4), load_int(geometry, 5),
    )  # fmt: skip
    a_time, b_time = load_int(shift(geometry, A), 0), load_int(shift(geometry, B), 0)
    h_time, g_time = load_int(shift(geometry, H), 0), load_int(shift(geometry, G), 0)
    to_a_time, to_b_time = load_int(shift(geometry, TO_A), 0), load_int(shift(geometry, TO_B), 0)
    sums_a_time, sums_b_time = load_int(shift(geometry, SUMS_A), 0), load_int(shift(geometry, SUMS_B), 0)
    g_rows, a_rows = stack_like(g, carry, BUFFER), stack_like(a, carry, BUFFER)
    b_rows, h_rows = stack_like(b, carry, BUFFER), stack(carry, BUFFER)  # h0 is as wide as the carry
    to_a_rows, to_b_rows = stack_like(to_a, carry, BUFFER), stack_like(to_b, carry, BUFFER)
    state = stack(carry, 16)
    g_at, a_at, b_at, h_at = stack_ints(16), stack_ints(16), stack_ints(16), stack_ints(16)
    to_a_at, to_b_at, sums_a_at, sums_b_at = stack_ints(16), stack_ints(16), stack_ints(16), stack_ints(16)
    segment_offsets(g_at, g_time, carry)
    segment_offsets(a_at, a_time, carry)
    segment_offsets(b_at, b_time, carry)
    segment_offsets(h_at, h_time, carry)
    segment_offsets(to_a_at, to_a_time, carry)
    segment_offsets(to_b_at, to_b_time, carry)
    segment_offsets(sums_a_at, sums_a_time, carry)
    segment_offsets(sums_b_at, sums_b_time, carry)
    size = width(carry) * SEGMENT
    for turn in range(first_block, last_block + 1):
        block = last_block + first_block - turn  # the last one stands for what is left after whole blocks
        for lane in range(first, last):
            start, stop = valid_range(
                shift(lengths, lane_offset(geometry, shift(geometry, LENGTHS), lane)), steps, reverse
            )
            t = start + block * size
            a_now = shift(a, lane_offset(geometry, shift(geometry, A), lane))
            b_now = shift(b, lane_offset(geometry, shift(geometry, B), lane))
            h_now = shift(h, lane_offset(geometry, shift(geometry, H), lane))
            g_now = shift(g, lane_offset(geometry, shift(geometry, G), lane))
            to_a_now, to_b_now = (
                shift(to_a, lane_offset(geometry, shift(geometry, TO_A), lane)),
                shift(to_b, lane_offset(geometry, shift(geometry, TO_B), lane)),
            )
            sums_a_now = shift(sums_a, lane_offset(geometry, shift(geometry, SUMS_A), lane))
            sums_b_now = shift(sums_b, lane_offset(geometry, shift(geometry, SUMS_B), lane))
            if block == last_block:
                if last_block == blocks and (phase == ALL or phase == FOLD):
                    if a_fate == STORE:
                        zero_steps(to_a_now, to_a_time, 0, start, carry)
                        zero_steps(to_a_now, to_a_time, stop, steps, carry)
                    if b_fate == STORE:
                        zero_steps(to_b_now, to_b_time, 0, start, carry)
                        zero_steps(to_b_now, to_b_time, stop, steps, carry)
                    vjp_steps(
                        rule, g_now, a_now, b_now, h_now, h0, carry, to_a_now, to_b_now, sums_a_now, sums_b_now, start,
                        start + (stop - start) // size * size, stop, lane, g_time, a_time, b_time, h_time, to_a_time,
                        to_b_time, sums_a_time, sums_b_time, a_fate, b_fate,
                    )  # fmt: skip
                continue
            if t + size > stop:
                continue
            summary = shift(summaries, (lane * blocks + block) * SUMMARY * itemsize(carry))
            if phase == ALL:
                summary = shift(summaries, 0)
            if phase != FOLD:
                bring(g_rows, shift(g_now, t * g_time), g_at, g_time, SEGMENT, -size * g_time)
                bring(a_rows, shift(a_now, t * a_time), a_at, a_time, SEGMENT, -size * a_time)
            if phase == ALL or phase == SUMMARISE:
                summarise_back(rule, g_rows, a_rows, summary)
            if phase == ALL or phase == FOLD:
                onward = fold_block_back(
                    rule, shift(g_now, t * g_time), shift(a_now, t * a_time), g_time, a_time, summary,
                    load(carry, lane, carry),
                )  # fmt: skip
                store(carry, lane, onward)
            if phase == ALL or phase == REPLAY:
                bring(b_rows, shift(b_now, t * b_time), b_at, b_time, SEGMENT, -size * b_time)
                if block > 0:
                    bring(h_rows, shift(h_now, (t - 1) * h_time), h_at, h_time, SEGMENT, -size * h_time)
                else:
                    second = shift(h_rows, row_bytes(h_rows))
                    bring(second, shift(h_now, t * h_time), h_at, h_time, SEGMENT - 1, 0)
                    store(h_rows, 0, load(h0, lane, carry))
                    for s in range(1, width(carry)):
                        store(h_rows, s, load(shift(h_now, (t + s * SEGMENT - 1) * h_time), 0, carry))
                store_vector(state, 0, load_vector(summary, 2 * width(carry), carry))
                walk_back(rule, g_rows, a_rows, b_rows, h_rows, to_a_rows, to_b_rows, state, SEGMENT)
                deliver(
                    to_a_now,
                    to_a_at,
                    to_a_time,
                    sums_a_now,
                    sums_a_at,
                    sums_a_time,
                    a_fate,
                    to_a_rows,
                    t,
                    SEGMENT,
                    width(carry),
                    -size * to_a_time,
                    False,
                )
                deliver(
                    to_b_now,
                    to_b_at,
                    to_b_time,
                    sums_b_now,
                    sums_b_at,
                    sums_b_time,
                    b_fate,
                    to_b_rows,
                    t,
                    SEGMENT,
                    width(carry),
                    -size * to_b_time,
                    False,
                )

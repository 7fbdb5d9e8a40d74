"""Summaries of some steps, and sums that keep what rounding leaves over: what threads tell each other.

A summary of an average is the map ``h -> origin + (rise + decay*(h - origin))``, or from the other end ``h + (rise +
weight*(origin - h))``: ``decay`` is the product of what the steps multiply the state by, ``rise`` where a scan of
``x - origin`` arrives from 0, ``weight`` where that of a series of ones does. The origin is one of the values, the
smallest: a constant series composes to itself, and nothing larger than what is in play takes part. A linear
recurrence's origin is 0. Two summaries compose about the smaller origin.
"""

import functools
from collections import namedtuple

from .._steps import constant, fma, is_finite, magnitude, select
from . import _device as gpu

Summary = namedtuple("Summary", "decay rise weight origin")


@gpu.helper
def agree(state, assumed):
    """Return whether a state may stand for one that was assumed: both finite, or the same."""
    return (is_finite(state) and is_finite(assumed)) or state == assumed or (state != state and assumed != assumed)


@gpu.helper
def compose(is_average, first, second):
    """Return the summary of some steps and those after them."""
    if not is_average:
        rise = fma(second.decay, first.rise, second.rise)
        return Summary(first.decay * second.decay, rise, first.weight, first.origin)
    zero = constant(0.0, first.rise)
    from_second = first.weight == zero or (second.weight != zero and magnitude(second.origin) < magnitude(first.origin))
    origin = select(from_second, second.origin, first.origin)
    rise_1 = fma(first.weight, first.origin - origin, first.rise)
    rise_2 = fma(second.weight, second.origin - origin, second.rise)
    return Summary(
        first.decay * second.decay, fma(second.decay, rise_1, rise_2),
        fma(second.decay, first.weight, second.weight), origin,
    )  # fmt: skip


@gpu.helper
def advanced(is_average, summary, h):
    """Return the state after some steps from the one before."""
    if not is_average:
        return fma(summary.decay, h, summary.rise)
    from_h = h + fma(summary.weight, summary.origin - h, summary.rise)
    from_origin = summary.origin + fma(summary.decay, h - summary.origin, summary.rise)
    return select(summary.decay > constant(0.5, h), from_h, from_origin)


@gpu.helper
def shuffle_summary(is_average, summary, lane_id):
    """Return what a summary is in another thread of this warp."""
    decay, rise = gpu.shuffle(summary.decay, lane_id), gpu.shuffle(summary.rise, lane_id)
    if not is_average:
        return Summary(decay, rise, summary.weight, summary.origin)
    return Summary(decay, rise, gpu.shuffle(summary.weight, lane_id), gpu.shuffle(summary.origin, lane_id))


@gpu.helper
def compose_group(is_average, summary, rank, width, ahead):
    """Return the summary of a group's threads before this one in the direction of the scan, and of all up to it."""
    lane_id = gpu.thread() & 31
    turn = rank if ahead else width - 1 - rank
    distance = 1
    while distance < width:
        other = lane_id
        if turn >= distance:
            other = lane_id - distance if ahead else lane_id + distance
        before = shuffle_summary(is_average, summary, other)
        if turn >= distance:
            summary = compose(is_average, before, summary)
        distance *= 2
    other = lane_id
    if turn > 0:
        other = lane_id - 1 if ahead else lane_id + 1
    before = shuffle_summary(is_average, summary, other)
    if turn == 0:
        zero = constant(0.0, summary.rise)
        before = Summary(constant(1.0, summary.rise), zero, zero, zero)
    return before, summary


# ---- Made once for all kernels that call it -------------------------------------------------------------------------


@functools.cache
def summariser(rule, kind, count):
    """Return the function that summarises a thread's ``count`` steps, those that are missing being closed."""
    decay_of, deviation, is_average = rule.decay, rule.deviation, rule.is_average
    zero, one, closed, infinity = kind(0), kind(1), kind(rule.closed), kind(float("inf"))

    @gpu.helper
    def summarise(gates, values):
        decay, rise, weight, origin, least = one, zero, zero, zero, infinity
        if is_average:
            for j in range(count):
                smaller = gates[j] != closed and magnitude(values[j]) < least
                origin = select(smaller, values[j], origin)
                least = select(smaller, magnitude(values[j]), least)
        for j in range(count):
            decay = decay * decay_of(gates[j])
            rise = deviation(rise, gates[j], values[j] - origin)
            if is_average:
                weight = deviation(weight, gates[j], one)
        return Summary(decay, rise, weight, origin)

    return summarise


@functools.cache
def back_summariser(rule, kind, count):
    """Return the function that summarises what a thread's steps do to a cotangent."""
    adjoint, decay_of, zero, one = rule.adjoint, rule.decay, kind(0), kind(1)

    @gpu.helper
    def summarise_back(arriving, gates, low, high):
        decay, rise = one, zero
        for ago in range(count):
            j = count - 1 - ago
            valid = j >= low and j < high
            _, _, onward = adjoint(arriving[j] + rise, gates[j], zero, zero)
            decay = select(valid, decay * decay_of(gates[j]), decay)
            rise = select(valid, onward, rise)
        return Summary(decay, rise, zero, zero)

    return summarise_back


# ---- Sums -----------------------------------------------------------------------------------------------------------


@gpu.helper
def add_exactly(total, rest, value):
    """Return a sum, and what its rounding has left over so far."""
    new = total + value
    part = new - total
    return new, rest + ((total - (new - part)) + (value - part))


@gpu.helper
def settled(total, rest):
    """Return a sum with what was left over, which is NaN where the sum is not finite."""
    return select(rest == rest, total + rest, total)


@gpu.helper
def add_group(total, rest, rank, width):
    """Return the sum of all threads' totals in a group, and what is left over."""
    first, distance = (gpu.thread() & 31) - rank, 1
    while distance < width:
        other = first + ((rank + distance) & (width - 1))
        one, left = gpu.shuffle(total, other), gpu.shuffle(rest, other)
        total, rest = add_exactly(total, rest + left, one)
        distance *= 2
    return total, rest

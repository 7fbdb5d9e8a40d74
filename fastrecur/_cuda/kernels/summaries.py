"""Summaries of some steps, and sums that keep what rounding leaves over: what threads tell each other.

A summary of an average is the map ``h -> origin + (rise + decay*(h - origin))``, or from the other end ``h + (rise +
weight*(origin - h))``: ``decay`` is the product of what the steps multiply the state by, ``rise`` where a scan of
``x - origin`` arrives from 0, ``weight`` where that of a series of ones does. The origin is one of the values, the
smallest: a constant series composes to itself, and nothing larger than what is in play takes part. A linear
recurrence's origin is 0. Two summaries compose about the smaller origin.

Steps with a flag arrive at the same state whatever was before, which takes no part. A mark in the place of their decay
says so: the least negative number, in the place of which others have 0.
"""

import functools
from collections import namedtuple

import numpy as np

from ..._steps.recurrence import constant, fma, is_finite, magnitude, select
from . import device as gpu
from .borders import flag_of

Summary = namedtuple("Summary", "decay rise weight origin")
# What a kernel's summaries are of: averages or not, steps that may have a flag or not, and its mark.
Form = namedtuple("Form", "is_average has_resets mark")


def form_of(is_average, kind, cuts):
    """Return the form of a kernel's summaries."""
    return Form(is_average, "resets" in cuts, -np.finfo(kind).smallest_subnormal)


@gpu.helper
def agree(state, assumed):
    """Return whether a state may stand for one that was assumed: both finite, or the same."""
    return (is_finite(state) and is_finite(assumed)) or state == assumed or (state != state and assumed != assumed)


@gpu.helper
def is_anew(form, decay):
    """Return whether steps of this decay have a flag."""
    return form.has_resets and decay == form.mark


@gpu.helper
def without_flag(form, decay):
    """Return the decay of steps that have none."""
    return select(is_anew(form, decay), constant(0.0, decay), decay)


@gpu.helper
def compose(form, first, second):
    """Return the summary of some steps and those after them."""
    decay = select(is_anew(form, first.decay), first.decay, without_flag(form, first.decay * second.decay))
    rise, weight, origin = fma(second.decay, first.rise, second.rise), first.weight, first.origin
    if form.is_average:
        zero = constant(0.0, first.rise)
        is_smaller = second.weight != zero and magnitude(second.origin) < magnitude(first.origin)
        origin = select(first.weight == zero or is_smaller, second.origin, first.origin)
        rise_1 = fma(first.weight, first.origin - origin, first.rise)
        rise_2 = fma(second.weight, second.origin - origin, second.rise)
        rise, weight = fma(second.decay, rise_1, rise_2), fma(second.decay, first.weight, second.weight)
    composed = Summary(decay, rise, weight, origin)
    return second if is_anew(form, second.decay) else composed


@gpu.helper
def advanced(form, summary, h):
    """Return the state after some steps from the one before."""
    after = fma(summary.decay, h, summary.rise)
    if form.is_average:
        from_h = h + fma(summary.weight, summary.origin - h, summary.rise)
        from_origin = summary.origin + fma(summary.decay, h - summary.origin, summary.rise)
        after = select(summary.decay > constant(0.5, h), from_h, from_origin)
    return select(is_anew(form, summary.decay), summary.origin + summary.rise, after)


@gpu.helper
def shuffle_summary(form, summary, lane_id):
    """Return what a summary is in another thread of this warp."""
    decay, rise = gpu.shuffle(summary.decay, lane_id), gpu.shuffle(summary.rise, lane_id)
    if not form.is_average:
        return Summary(decay, rise, summary.weight, summary.origin)
    return Summary(decay, rise, gpu.shuffle(summary.weight, lane_id), gpu.shuffle(summary.origin, lane_id))


@gpu.helper
def compose_group(form, summary, rank, width, ahead):
    """Return the summary of a group's threads before this one in the direction of the scan, and of all up to it."""
    lane_id = gpu.thread() & 31
    turn = rank if ahead else width - 1 - rank
    distance = 1
    while distance < width:
        other = lane_id
        if turn >= distance:
            other = lane_id - distance if ahead else lane_id + distance
        before = shuffle_summary(form, summary, other)
        if turn >= distance:
            summary = compose(form, before, summary)
        distance *= 2
    other = lane_id
    if turn > 0:
        other = lane_id - 1 if ahead else lane_id + 1
    before = shuffle_summary(form, summary, other)
    if turn == 0:
        zero = constant(0.0, summary.rise)
        before = Summary(constant(1.0, summary.rise), zero, zero, zero)
    return before, summary


# ---- Made once for all kernels that call it -------------------------------------------------------------------------


@functools.cache
def summariser(rule, kind, count, form):
    """Return the function that summarises a thread's ``count`` steps, those that are missing being closed."""
    decay_of, deviation, is_average = rule.decay, rule.deviation, form.is_average
    zero, one, closed, infinity = kind(0), kind(1), kind(rule.closed), kind(float("inf"))

    @gpu.helper
    def summarise(gates, values, flags):
        decay, rise, weight, origin, least = one, zero, zero, zero, infinity
        if is_average:
            for j in range(count):
                smaller = gates[j] != closed and magnitude(values[j]) < least
                origin = select(smaller, values[j], origin)
                least = select(smaller, magnitude(values[j]), least)
            origin = select(flags != 0, zero, origin)  # from which a series begins anew
        for j in range(count):
            gate, begins = gates[j], flag_of(flags, j) != 0
            rise, weight = select(begins, zero, rise), select(begins, one, weight)
            gate = select(begins and not is_average, zero, gate)
            decay = decay * decay_of(gate)
            rise = deviation(rise, gate, values[j] - origin)
            if is_average:
                weight = deviation(weight, gate, one)
        return Summary(select(flags != 0, form.mark, without_flag(form, decay)), rise, weight, origin)

    return summarise


@functools.cache
def closed_counter(count, closed):
    """Return the function that says how many of a thread's steps are before the first that changes the state."""

    @gpu.helper
    def leading_closed(gates, values, flags, low, high):
        leading, is_open = gpu.narrow(0), False
        for j in range(count):
            stays = gates[j] == closed and is_finite(values[j]) and flag_of(flags, j) == 0  # 0 times infinity is NaN
            is_open = is_open or (j >= low and j < high and not stays)
            leading = select(is_open, leading, gpu.narrow(j + 1))
        return leading

    return leading_closed


@functools.cache
def back_summariser(rule, kind, count, form):
    """Return the function that summarises what a thread's steps do to a cotangent."""
    adjoint, decay_of, zero, one = rule.adjoint, rule.decay, kind(0), kind(1)

    @gpu.helper
    def summarise_back(arriving, gates, flags, low, high):
        decay, rise = one, zero
        for ago in range(count):
            j = count - 1 - ago
            valid = j >= low and j < high
            _, _, onward = adjoint(arriving[j] + rise, gates[j], zero, zero)
            decay = select(valid, decay * decay_of(gates[j]), decay)
            rise = select(valid, select(flag_of(flags, j) != 0, zero, onward), rise)
        return Summary(select(flags != 0, form.mark, without_flag(form, decay)), rise, zero, zero)

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

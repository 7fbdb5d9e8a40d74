"""Summaries of some steps, and sums that keep what rounding leaves over: what threads tell each other.

A summary is the map ``h -> origin + (decay*(h - origin) + rise)``: ``decay`` is the product of what the steps multiply
the state by, ``rise`` where a scan of ``x - origin`` arrives from 0. An average's origin is one for a group of threads
that share a series, one of the values that they take, near 0: with it a constant series has a rise of 0, hence stays
constant, and nothing larger than what is in play takes part. A linear recurrence's origin is 0.

A summary's ``factor`` is its decay, of an average above a half the *loss*, which is the decay less 1: small gates have
digits there that a product of 1 - f has not. The lowest bit tags a loss.

Steps with a flag arrive at the same state whatever was before, which takes no part. A mark in the place of their factor
says so: a loss of more than all; where there are none, the least negative number. Others' decays are no nearer to 0
than twice that, but where a step's own is 0: so what becomes of an infinite state is known, too.
"""

import functools
from collections import namedtuple

import numpy as np

from ..._steps.recurrence import constant, fma, is_finite, magnitude, select
from . import device as gpu
from .borders import flag_of

Summary = namedtuple("Summary", "factor rise origin")
# What a kernel's summaries are of: averages or not, steps that may have a flag or not; their mark, the factor of closed
# steps, and the least decay.
Form = namedtuple("Form", "is_average has_resets mark closed least")


def form_of(is_average, kind, cuts):
    """Return the form of a kernel's summaries."""
    smallest, has_resets = np.finfo(kind).smallest_subnormal, "resets" in cuts
    if is_average:  # tagged: -1 and -0
        return Form(True, has_resets, np.nextafter(kind(-1), kind(-2)), -smallest, 2 * smallest)
    return Form(False, has_resets, -smallest, kind(1), 2 * smallest)


@gpu.helper
def agree(state, assumed):
    """Return whether a state may stand for one that was assumed: both finite, or the same."""
    return (is_finite(state) and is_finite(assumed)) or state == assumed or (state != state and assumed != assumed)


@gpu.helper
def is_anew(form, factor):
    """Return whether steps of this factor have a flag."""
    return form.has_resets and factor == form.mark


@gpu.helper
def opened(form, factor):
    """Return whether a factor is a loss, and the decay."""
    is_loss = form.is_average and gpu.is_tagged(factor)
    return is_loss, select(is_loss, factor + constant(1.0, factor), factor)


@gpu.helper
def tagged(is_loss, loss, decay):
    """Return the factor of an average: the loss, if it is one, or the decay."""
    return select(is_loss, gpu.tagged(loss, True), gpu.tagged(decay, False))


@gpu.helper
def compose(form, first, second):
    """Return the summary of some steps and those after them, about the same origin."""
    zero = constant(0.0, first.rise)
    (is_loss_1, decay_1), (is_loss_2, decay_2) = opened(form, first.factor), opened(form, second.factor)
    factor = fma(decay_1, decay_2, select(decay_1 == zero or decay_2 == zero, zero, form.least))  # no underflow to 0
    rise = fma(decay_2, first.rise, second.rise)
    if form.is_average:
        loss = fma(second.factor, decay_1, gpu.tagged(first.factor, False))
        factor = tagged(is_loss_1 and is_loss_2 and loss > constant(-0.5, loss), loss, factor)
        from_end = is_loss_2 and is_finite(first.rise)
        factor_2 = select(from_end, second.factor, decay_2)
        rise = select(from_end, first.rise, zero) + fma(factor_2, first.rise, second.rise)
    factor = select(is_anew(form, first.factor), first.factor, select(is_anew(form, factor), zero, factor))
    return second if is_anew(form, second.factor) else Summary(factor, rise, second.origin)


@gpu.helper
def nearer(one, other):
    """Return of two origins that which is nearer to 0."""
    return select(magnitude(other) < magnitude(one), other, one)


@gpu.helper
def about(form, summary, origin):
    """Return a summary about another origin; steps that leave the state as it is have none."""
    if not form.is_average:
        return summary
    is_loss, decay = opened(form, summary.factor)
    loss = select(is_loss, summary.factor, decay - constant(1.0, decay))
    moved = fma(loss, origin - summary.origin, summary.rise)
    return Summary(summary.factor, select(summary.factor == form.closed, summary.rise, moved), origin)


@gpu.helper
def advanced(form, summary, h):
    """Return the state after some steps from the one before."""
    is_loss, decay = opened(form, summary.factor)
    after, anew = fma(decay, h, summary.rise), summary.rise
    if form.is_average:
        origin = select(is_finite(summary.origin), summary.origin, constant(0.0, h))
        # From the nearer end. Without the tag: steps that leave the state as it is repeat it.
        from_end = select(is_loss, h, origin) + fma(gpu.tagged(summary.factor, False), h - origin, summary.rise)
        after, anew = select(is_finite(h), from_end, after), origin + summary.rise
    return select(is_anew(form, summary.factor), anew, after)


@gpu.helper
def shuffle_summary(summary, lane_id):
    """Return what a summary is in another thread of this warp, about the same origin."""
    return Summary(gpu.shuffle(summary.factor, lane_id), gpu.shuffle(summary.rise, lane_id), summary.origin)


@gpu.helper
def shared_origin(origin, rank, width):
    """Return the origin of a group of threads, each of which has one to offer."""
    lane_id, distance = gpu.thread() & 31, 1
    while distance < width:
        origin = nearer(origin, gpu.shuffle(origin, lane_id ^ distance))
        distance *= 2
    return gpu.shuffle(origin, lane_id - rank)  # of two that are as near the same for all


@gpu.helper
def compose_group(form, summary, rank, width, ahead):
    """Return the summary of a group's threads before this one in the direction of the scan, and of all up to it."""
    lane_id = gpu.thread() & 31
    turn = rank if ahead else width - 1 - rank
    distance = 1
    while distance < width:
        before = shuffle_summary(summary, (lane_id - distance if ahead else lane_id + distance) & 31)
        if turn >= distance:
            summary = compose(form, before, summary)
        distance *= 2
    before = shuffle_summary(summary, (lane_id - 1 if ahead else lane_id + 1) & 31)
    if turn == 0:
        before = Summary(form.closed, constant(0.0, summary.rise), summary.origin)
    return before, summary


# ---- Made once for all kernels that call it -------------------------------------------------------------------------


@functools.cache
def offered_origin(rule, kind, count, form):
    """Return the function that says which origin a thread offers: the nearest to 0 of its values that count.

    Infinity is none at all. A thread with a flag offers 0, from which its series begins anew.
    """
    zero, closed, infinity = kind(0), kind(rule.closed), kind(float("inf"))

    @gpu.helper
    def offer(gates, values, flags):
        origin = zero
        if form.is_average:
            origin = infinity
            for j in range(count):
                origin = select(gates[j] != closed, nearer(origin, values[j]), origin)
        return select(flags != 0, zero, origin)

    return offer


@functools.cache
def whole_decay(rule, kind, count, form):
    """Return the function that makes a product of decays not 0 unless one of them is."""
    decay_of, zero = rule.decay, kind(0)

    @gpu.helper
    def settle(gates, decay):
        if magnitude(decay) < form.least:
            decay = form.least
            for j in range(count):
                decay = select(decay_of(gates[j]) == zero, zero, decay)
        return decay

    return settle


@functools.cache
def summariser(rule, kind, count, form):
    """Return the function that summarises a thread's ``count`` steps, those that are missing being closed.

    A scan of ones, the loss with another sign, has the digits that a product of decays near 1 loses.
    """
    decay_of, deviation, is_average = rule.decay, rule.deviation, form.is_average
    zero, one, half, settle = kind(0), kind(1), kind(0.5), whole_decay(rule, kind, count, form)

    @gpu.helper
    def summarise(gates, values, flags, origin):
        decay, rise, lost = one, zero, zero
        start = select(is_finite(origin), origin, zero)
        for j in range(count):
            gate, begins = gates[j], flag_of(flags, j) != 0
            rise = select(begins, zero, rise)
            gate = select(begins and not is_average, zero, gate)
            decay = decay * decay_of(gate)
            rise = deviation(rise, gate, values[j] - start if is_average else values[j])
            if is_average:
                lost = deviation(lost, gate, one)
        factor = settle(gates, decay)
        if is_average:
            factor = tagged(lost < half, -lost, factor)
        return Summary(select(flags != 0, form.mark, factor), rise, origin)

    return summarise


@functools.cache
def back_summariser(rule, kind, count, form):
    """Return the function that summarises what a thread's steps, closed where missing, do to a cotangent."""
    adjoint, decay_of, zero, one = rule.adjoint, rule.decay, kind(0), kind(1)
    settle = whole_decay(rule, kind, count, form)

    @gpu.helper
    def summarise_back(arriving, gates, flags):
        decay, rise = one, zero
        for ago in range(count):
            j = count - 1 - ago
            _, _, onward = adjoint(arriving[j] + rise, gates[j], zero, zero)
            decay, rise = decay * decay_of(gates[j]), select(flag_of(flags, j) != 0, zero, onward)
        return Summary(select(flags != 0, form.mark, settle(gates, decay)), rise, zero)

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

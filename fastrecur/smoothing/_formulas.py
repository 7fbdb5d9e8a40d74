"""The statistics, written with the two recurrences: for the arrays of every library, and differentiable.

Weights first. Where they add up (``adjust``), ``W[t] = d[t]*W[t-1] + 1`` at each sample, a linear recurrence, and the
sample's share is ``1/W``. Else the samples so far weigh 1 again after each, and decay in a gap. A share is the gate of
a weighted average, and 0 at a missing value. Where a series begins anew, so does each of the recurrences.
"""

import functools
import operator
from collections import namedtuple

import numpy as np

from .._arguments.arrays import at, join
from ..recurrence import forget_mult, linear_recurrence

# What a statistic is continued from, for each lane: the kernel's planes. A sum stands in the mean's place. Covariances
# have the fields from the origin on too: their means are deviations from the origins.
State = namedtuple(
    "State", "weight count mean origin origin_y mean_y covariance room", defaults=(None, None, None, None, None)
)
NO_STATE = State(None, None, None)

# What samples weigh: ``seen`` says where one is, ``share`` is its own part, ``kept`` that of the past. Where no sample
# is missing, ``seen`` is None, and series of one gate share what they weigh: axes of length 1. ``resets`` as given.
Shares = namedtuple("Shares", "seen share kept decay valid weight count resets")

# How far each value is from the mean before it; what means are counted from, and the last one.
Deviations = namedtuple("Deviations", "values origin mean")


def shares(xp, seen, gate, kind, ignore_na, least, axis, state, resets):
    """Return what each sample weighs; ``gate`` is a decay, or alpha where ``kind`` is "fixed"."""
    how = {"axis": axis, "resets": resets, "return_state": True}
    one = xp.ones_like(gate)
    zero = one - one
    samples = _if_seen(xp, seen, one)
    decay = one - gate if kind == "fixed" else gate
    if ignore_na:
        decay = _if_seen(xp, seen, decay, one)
    forgets = decay if kind == "adjust" else _if_seen(xp, seen, zero, decay)
    weight, last = linear_recurrence(forgets, samples, state.weight, **how)
    before = decay * _before(xp, weight, state.weight, axis, resets)
    if kind == "adjust":
        total = _if_seen(xp, seen, weight, one)
        share = samples / total
    else:
        total = one if kind == "timed" else _if_seen(xp, seen, before + gate, one)
        share = _if_seen(xp, seen, one - before if kind == "timed" else gate / total)
    kept = _if_seen(xp, seen, before / total, one)
    count, last_count = linear_recurrence(1.0, samples, state.count, **how)
    return Shares(seen, share, kept, decay, count >= max(1, least), last, last_count, resets)


def _if_seen(xp, seen, there, missing=None):
    """Return one value where a sample is there, another, or 0, where it is missing."""
    return there if seen is None else xp.where(seen, there, xp.zeros_like(there) if missing is None else missing)


def _before(xp, values, initial, axis, resets):
    """Return what stands before each step, 0 where a series begins."""
    steps = values.shape[axis]
    if steps == 0:
        return values
    first = at(values, axis, slice(1))
    first = first - first if initial is None else xp.reshape(initial, first.shape)
    earlier = join(xp, [first, at(values, axis, slice(steps - 1))], axis)
    return earlier if resets is None else xp.where(resets, xp.zeros_like(earlier), earlier)


def _deviations(xp, w, values, axis, count, origin0, mean0):
    values = _if_seen(xp, w.seen, values)
    # From the first value of the series' own: data far from 0 lose nothing.
    if w.seen is None:
        origin = first = at(values, axis, slice(1))
        if count is not None:
            origin = xp.where(xp.reshape(count, first.shape) > 0, xp.reshape(origin0, first.shape), first)
        last_origin = xp.sum(origin, axis=axis)  # of one step, or of none
    else:  # a series begins where nothing is kept of the past
        origin0 = None if count is None else xp.where(count > 0, origin0, xp.zeros_like(origin0))
        begins = xp.where(w.kept == 0, xp.ones_like(values), xp.zeros_like(values))
        origin, last_origin = forget_mult(begins, values, origin0, axis=axis, return_state=True)
    values = values - origin
    mean, last = forget_mult(w.share, values, mean0, axis=axis, resets=w.resets, return_state=True)
    values = _if_seen(xp, w.seen, values - _before(xp, mean, mean0, axis, w.resets))
    return Deviations(values, last_origin, last)


def compute(statistic, xp, x, y, w, axis, bias, states):
    """Return a statistic of what weighs so much, and for each state that it goes on from that after it."""
    how = {"axis": axis, "resets": w.resets, "return_state": True}
    if y is None:
        recur, gate = (linear_recurrence, w.decay) if statistic == "sum" else (forget_mult, w.share)
        result, last = recur(gate, _if_seen(xp, w.seen, x), states[0].mean, **how)
        weight, count = (xp.broadcast_to(v, last.shape) for v in (w.weight, w.count))
        return masked(xp, w.valid, result), (State(weight, count, last),)
    had = states[0]
    one = other = _deviations(xp, w, x, axis, had.count, had.origin, had.mean)
    if y is not x:
        other = _deviations(xp, w, y, axis, had.count, had.origin_y, had.mean_y)
    room, last_room = linear_recurrence(w.kept * w.kept, 2 * w.kept * w.share, had.room, **how)
    found, after = [], []  # a correlation's are a covariance and both variances
    for (a, b), state in zip(((one, other), (one, one), (other, other)), states, strict=False):
        rises = w.kept * w.share * (a.values * b.values)
        covariance, last = linear_recurrence(w.kept, rises, state.covariance, **how)
        planes = State(w.weight, w.count, a.mean, a.origin, b.origin, b.mean, last, last_room)
        found.append(covariance)
        after.append(State(*(xp.broadcast_to(plane, last.shape) for plane in planes)))
    result, *variances = found
    divisors = variances or [room] * (not bias)
    valid = functools.reduce(operator.and_, [divisor > 0 for divisor in divisors], w.valid)
    divisors = [xp.where(valid, divisor, xp.ones_like(divisor)) for divisor in divisors]
    if variances:
        result = result / (xp.sqrt(divisors[0]) * xp.sqrt(divisors[1]))
    elif divisors:
        result = result / divisors[0]
    return masked(xp, valid, result), tuple(after)


def masked(xp, valid, values):
    return xp.where(valid, values, np.nan if xp is np else xp.full_like(values, np.nan))

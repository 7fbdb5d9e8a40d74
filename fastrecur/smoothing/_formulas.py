"""The statistics, written with the two recurrences: for the arrays of every library, and differentiable.

Weights first. Where they add up (``adjust``), ``W[t] = d[t]*W[t-1] + 1`` at each sample, a linear recurrence, and the
sample's share is ``1/W``. Else the samples so far weigh 1 again after each, and decay in a gap. A share is the gate of
a weighted average, and 0 at a missing value.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

from ..recurrence import forget_mult, linear_recurrence
from ._arrays import at, join

# What a statistic is continued from, for each lane: the kernel's planes. A sum stands in the mean's place. Covariances
# have the fields from the origin on too: their means are deviations from the origins.
State = namedtuple(
    "State", "weight count mean origin origin_y mean_y covariance room", defaults=(None, None, None, None, None)
)

# What samples weigh: ``seen`` says where one is, ``share`` is its own part, ``kept`` that of the past. Where no sample
# is missing, ``seen`` is None, and series of one gate share what they weigh: axes of length 1.
Shares = namedtuple("Shares", "seen share kept decay valid weight count")

# How far each value is from the mean before it; what means are counted from, and the last one.
Deviations = namedtuple("Deviations", "values origin mean")


def shares(xp: Any, seen: Any, gate: Any, kind: str, ignore_na: bool, least: int, axis: int, state: Any) -> Shares:
    """Return what each sample weighs; ``gate`` is a decay, or alpha where ``kind`` is "fixed"."""
    one = xp.ones_like(gate)
    zero = one - one
    samples = _if_seen(xp, seen, one, zero)
    decay = one - gate if kind == "fixed" else gate
    if ignore_na:
        decay = _if_seen(xp, seen, decay, one)
    weight0, count0 = (None, None) if state is None else (state.weight, state.count)
    if kind == "adjust":
        weight, last = linear_recurrence(decay, samples, weight0, axis=axis, return_state=True)
        total = _if_seen(xp, seen, weight, one)
        share = samples / total
        kept = _if_seen(xp, seen, _before(xp, decay, weight, weight0, axis) / total, one)
    else:
        forgets = _if_seen(xp, seen, zero, decay)
        weight, last = linear_recurrence(forgets, samples, weight0, axis=axis, return_state=True)
        before = _before(xp, decay, weight, weight0, axis)
        total = one if kind == "timed" else _if_seen(xp, seen, before + gate, one)
        share = _if_seen(xp, seen, one - before if kind == "timed" else gate / total, zero)
        kept = _if_seen(xp, seen, before / total, one)
    count, last_count = linear_recurrence(1.0, samples, count0, axis=axis, return_state=True)
    return Shares(seen, share, kept, decay, count >= max(1, least), last, last_count)


def _if_seen(xp: Any, seen: Any, there: Any, missing: Any) -> Any:
    """Return one value where a sample is there, another where it is missing."""
    return there if seen is None else xp.where(seen, there, missing)


def _before(xp: Any, decay: Any, weight: Any, weight0: Any, axis: int) -> Any:
    """Return the weight of the samples before each step, decayed up to it."""
    steps = weight.shape[axis]
    if steps == 0:
        return weight
    first = at(weight, axis, slice(1))
    first = first - first if weight0 is None else xp.reshape(weight0, first.shape)
    earlier = join(xp, [first, at(weight, axis, slice(steps - 1))], axis)
    return earlier if decay is None else decay * earlier


def mean(xp: Any, w: Shares, x: Any, axis: int, state: Any, is_sum: bool) -> tuple[Any, Any]:
    """Return the mean at each step (0 before the first sample), or the sum, and that after the last."""
    recur, gate = (linear_recurrence, w.decay) if is_sum else (forget_mult, w.share)
    before = None if state is None else state.mean
    result: tuple[Any, Any] = recur(gate, _numbers(xp, w, x), before, axis=axis, return_state=True)
    return result


def _numbers(xp: Any, w: Shares, values: Any) -> Any:
    """Return values, 0 where one is missing."""
    return values if w.seen is None else xp.where(w.seen, values, xp.zeros_like(values))


def _deviations(xp: Any, w: Shares, values: Any, axis: int, count: Any, origin0: Any, mean0: Any) -> Deviations:
    values = _numbers(xp, w, values)
    # From a value of the series' own: data far from 0 lose nothing.
    origin = first = at(values, axis, slice(1))
    if count is not None:
        origin = xp.where(xp.reshape(count, first.shape) > 0, xp.reshape(origin0, first.shape), first)
    values = values - origin
    mean, last = forget_mult(w.share, values, mean0, axis=axis, return_state=True)
    values = _if_seen(xp, w.seen, values - _before(xp, None, mean, mean0, axis), xp.zeros_like(w.share))
    return Deviations(values, xp.sum(origin, axis=axis), last)  # of one step, or of none


def covariances(
    xp: Any, w: Shares, x: Any, y: Any, axis: int, states: tuple[Any, ...]
) -> tuple[list[Any], Any, tuple[State, ...]]:
    """Return the biased covariance of x and y, and with three states those of x and of y with themselves too."""
    # And what they are to be divided by to be unbiased, and the states after the last step.
    had = states[0] or State(*[None] * len(State._fields))
    one = other = _deviations(xp, w, x, axis, had.count, had.origin, had.mean)
    if y is not x:
        other = _deviations(xp, w, y, axis, had.count, had.origin_y, had.mean_y)
    room, last_room = linear_recurrence(w.kept * w.kept, 2 * w.kept * w.share, had.room, axis=axis, return_state=True)
    found, after = [], []
    for (a, b), state in zip(((one, other), (one, one), (other, other)), states, strict=False):
        rises, before = w.kept * w.share * (a.values * b.values), None if state is None else state.covariance
        covariance, last = linear_recurrence(w.kept, rises, before, axis=axis, return_state=True)
        planes = State(w.weight, w.count, a.mean, a.origin, b.origin, b.mean, last, last_room)
        found.append(covariance)
        after.append(State(*(xp.broadcast_to(plane, last.shape) for plane in planes)))
    return found, room, tuple(after)


def masked(xp: Any, valid: Any, values: Any) -> Any:
    """Return values, NaN where they are not valid."""
    return xp.where(valid, values, np.nan if xp is np else xp.full_like(values, np.nan))

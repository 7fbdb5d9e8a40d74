"""The statistics, written with the two recurrences: for the arrays of every library, and differentiable.

Weights first. Where they add up (``adjust``), ``W[t] = d[t]*W[t-1] + 1`` at each sample, a linear recurrence, and the
sample's share is ``1/W``. Else the samples so far weigh 1 again after each, and decay in a gap. A share is the gate of
a weighted average, and 0 at a missing value.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..recurrence import forget_mult, linear_recurrence


class State(NamedTuple):
    """What a mean is continued from, for each lane."""

    weight: Any
    count: Any
    mean: Any


class Shares(NamedTuple):
    """What samples weigh: ``seen`` says where one is, ``share`` is its own part, ``kept`` that of the past."""

    seen: Any
    share: Any
    kept: Any
    decay: Any
    valid: Any
    weight: Any
    count: Any


def shares(xp: Any, seen: Any, gate: Any, kind: str, ignore_na: bool, least: int, axis: int, state: Any) -> Shares:
    """Return what each sample weighs; ``gate`` is a decay, or alpha where ``kind`` is "fixed"."""
    one = xp.ones_like(gate)
    zero = one - one
    samples = xp.where(seen, one, zero)
    decay = one - gate if kind == "fixed" else gate
    if ignore_na:
        decay = xp.where(seen, decay, one)
    weight0, count0 = (None, None) if state is None else (state.weight, state.count)
    if kind == "adjust":
        weight, last = linear_recurrence(decay, samples, weight0, axis=axis, return_state=True)
        total = xp.where(seen, weight, one)
        share = samples / total
        kept = xp.where(seen, _before(xp, decay, weight, weight0, axis) / total, one)
    else:
        weight, last = linear_recurrence(xp.where(seen, zero, decay), samples, weight0, axis=axis, return_state=True)
        before = _before(xp, decay, weight, weight0, axis)
        total = one if kind == "timed" else xp.where(seen, before + gate, one)
        share = xp.where(seen, one - before if kind == "timed" else gate / total, zero)
        kept = xp.where(seen, before / total, one)
    count, last_count = linear_recurrence(1.0, samples, count0, axis=axis, return_state=True)
    return Shares(seen, share, kept, decay, count >= max(1, least), last, last_count)


def _before(xp: Any, decay: Any, weight: Any, weight0: Any, axis: int) -> Any:
    """Return the weight of the samples before each step, decayed up to it."""
    steps = weight.shape[axis]
    if steps == 0:
        return weight
    lead = (slice(None),) * axis
    first = weight[(*lead, slice(0, 1), ...)]
    first = first - first if weight0 is None else xp.reshape(weight0, first.shape)
    join = xp.concat if hasattr(xp, "concat") else xp.concatenate
    return decay * join([first, weight[(*lead, slice(0, steps - 1), ...)]], axis=axis)


def mean(xp: Any, w: Shares, x: Any, axis: int, state: Any = None) -> tuple[Any, Any]:
    """Return the mean at each step (0 before the first sample), and after the last."""
    x = xp.where(w.seen, x, xp.zeros_like(x))
    result: tuple[Any, Any] = forget_mult(
        w.share, x, None if state is None else state.mean, axis=axis, return_state=True
    )
    return result


def total(xp: Any, w: Shares, x: Any, axis: int) -> Any:
    """Return the sum at each step."""
    return linear_recurrence(w.decay, xp.where(w.seen, x, xp.zeros_like(x)), axis=axis)


def covariance(xp: Any, w: Shares, x: Any, y: Any, axis: int) -> tuple[Any, Any]:
    """Return the biased covariance, and what it is to be divided by to be unbiased."""
    zero = xp.zeros_like(w.share)
    differences = []
    for values in (x, y):
        values = xp.where(w.seen, values, xp.zeros_like(values))
        # Deviations from a value of the series' own: data far from 0 lose nothing.
        values = values - values[(*(slice(None),) * axis, slice(0, 1), ...)]
        before = _shifted(xp, mean(xp, w, values, axis)[0], axis)
        differences.append(xp.where(w.seen, values - before, zero))
    product = differences[0] * differences[1]
    covariance = linear_recurrence(w.kept, w.kept * w.share * product, axis=axis)
    room = linear_recurrence(w.kept * w.kept, 2 * w.kept * w.share, axis=axis)
    return covariance, room


def _shifted(xp: Any, values: Any, axis: int) -> Any:
    one = xp.ones_like(values)
    return _before(xp, one, values, None, axis)


def masked(xp: Any, valid: Any, values: Any) -> Any:
    """Return values, NaN where they are not valid."""
    return xp.where(valid, values, xp.full_like(values, float("nan")))

"""The definition: one series, one step after the other, in Python's floats. What is masked is left out beforehand."""

import math

import numpy as np


def series_of(kind, rewards, gamma, ends, cuts, *, values=None, lam=None, next_values=None, log_rhos=None, last=0.0,
              limits=(1.0, 1.0, 1.0)):  # fmt: skip
    """Return ``(sums or targets, advantages)`` of a series without masked steps.

    ``last`` is the return after the last step, of "returns", else the value of the state after it.
    """
    steps = len(rewards)
    values = np.zeros(steps) if values is None else values
    results, advantages = np.zeros(steps), np.zeros(steps)
    later, later_target = (last, None) if kind == "returns" else (0.0, None)
    for t in reversed(range(steps)):
        if kind == "returns":
            value = 0.0
        elif next_values is not None:
            value = next_values[t]
        else:
            value = values[t + 1] if t + 1 < steps else last
        done = max(ends[t], cuts[t])
        ratio = 1.0 if log_rhos is None else math.exp(log_rhos[t])
        rho, c, pg_rho = (min(limit, ratio) for limit in limits) if kind == "vtrace" else (1.0, 1.0, 1.0)
        error = rho * (rewards[t] + _weighed(gamma[t], 1 - ends[t], value) - values[t])
        decay = gamma[t] if lam is None else gamma[t] * lam[t] * c
        target = value
        if later_target is not None:
            target = _weighed(1.0, done, value) + _weighed(1.0, 1 - done, later_target)
        later = error + _weighed(decay, 1 - done, later)
        advantages[t] = pg_rho * (rewards[t] + _weighed(gamma[t], 1 - ends[t], target) - values[t])
        later_target = later + values[t]
        results[t] = later_target if kind in ("targets", "vtrace") else later
    return results, advantages


def _weighed(factor, share, value):
    """A share of nothing is nothing, of NaN too."""
    return factor * share * value if share else 0.0


def expected(kind, rewards, gamma, ends, cuts=0.0, *, values=None, lam=None, next_values=None, log_rhos=None,
             bootstrap=0.0, mask=True, axis=0, limits=(1.0, 1.0, 1.0)):  # fmt: skip
    """Return the same of arrays that broadcast to the rewards', with a mask: masked steps are cut out and put back."""
    shape, steps = rewards.shape, rewards.shape[axis]

    def rows(array):
        full = np.broadcast_to(np.asarray(array, np.float64), shape)
        return np.moveaxis(full, axis, 0).reshape(steps, -1).T

    read = rows(mask) != 0
    last = np.broadcast_to(bootstrap, rewards.sum(axis).shape)
    if values is not None and next_values is None:
        last = np.take(values, steps, axis)
        values = np.take(values, range(steps), axis)
    optional = {"values": values, "lam": lam, "next_values": next_values, "log_rhos": log_rhos}
    optional = {name: rows(array) for name, array in optional.items() if array is not None}
    results = np.zeros((2, len(read), steps))
    for k, there in enumerate(read):
        plain = [rows(array)[k][there] for array in (rewards, gamma, ends, cuts)]
        named = {name: array[k][there] for name, array in optional.items()}
        results[:, k, there] = series_of(kind, *plain, **named, last=float(last.reshape(-1)[k]), limits=limits)
    moved = np.moveaxis(rewards, axis, 0).shape
    return [np.moveaxis(part.T.reshape(moved), 0, axis) for part in results]

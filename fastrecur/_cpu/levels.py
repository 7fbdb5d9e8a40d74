"""Levels that follow signals in memory: Holt's level and trend, their gradient, and envelopes."""

import functools

import numpy as np

from .._plan.fields.levels import ALPHA, ATTACK, BETA, LEFT, LEVEL, PHI, PLANES, RELEASE, TO_LEVEL, TO_PHI, TREND
from .._plan.fields.tiles import Y
from .filter_run import example, run_of
from .machine import allocate, threads as _threads
from .prepared import MOST_KEPT

_NOTHING = np.zeros(0)
_RESULTS = {"holt": ("level", "trend"), "follow": ("y",)}
_GATES = {"holt": (), "follow": ("attack", "release")}  # of which numbers are in the carry


@functools.lru_cache(MOST_KEPT)
def _prepared(name, dtype, shape, strides, axis, threads):
    """Return what runs a kernel of a few numbers on a signal of a kind; None of what must be looked at."""
    known, results = example(dtype, shape, strides, axis), _RESULTS[name]
    if known is None or shape[axis] < len(results):
        return None
    x, y, axis = known
    run = run_of({"x": x, "y": y}, axis, results=(Y,) * len(results))
    arrays = {"x": x} | dict.fromkeys(results, y) | dict.fromkeys(_GATES[name], _NOTHING) | {"carry": x}
    call = run.prepared(f"levels.walk_{name}", arrays, ("x", *results, "carry"))
    new, lanes, back, room = allocate.maker(shape, dtype, y.strides), run.lanes, run.back, (PLANES, len(run.fill))
    to_front, two = (axis, *(k for k in range(x.ndim) if k != axis)), (*(slice(None),) * axis, slice(2))
    one = *shape[:axis], 1, *shape[axis + 1 :]

    def follow(x, attack, release, wants_state):
        y, carry = new(), np.zeros(room)
        carry[ATTACK], carry[RELEASE] = attack, release
        call(x, y, carry)
        return y, np.array(back(carry[:TREND])).reshape(one) if wants_state else None

    def holt(x, alpha, beta, phi):
        carry = np.zeros(room)
        states = carry[:ALPHA] = lanes(x[two].transpose(to_front))
        if not np.isfinite(states).all():
            return None
        carry[TREND] -= carry[LEVEL]
        carry[ALPHA], carry[BETA], carry[PHI] = alpha, beta, phi
        level, trend = new(), new()
        call(x, level, trend, carry)
        return level, trend

    return holt if name == "holt" else follow


def quick(name, x, axis, *given):
    """Return what a kernel makes of an array and numbers: levels and trends, or an envelope and its last; or None."""
    call = _prepared(name, x.dtype, x.shape, x.strides, axis, _threads.team().size)
    return None if call is None else call(x, *given)


def holt(x, k, waits, axis, level, trend):
    """Write the levels and the trends, which have the same strides; return the last ones and how long each waits still.

    ``k`` are each series' level and trend before all steps, alpha, beta and phi, (5, *series); ``waits`` is how many
    steps it waits for, which are NaN.
    """
    carry = _planes(k, waits)
    if x.size:
        run = run_of({"x": x, "y": level}, axis, results=(Y, Y))
        own = run.lanes(carry, is_own=True)
        run.run("levels.walk_holt", {"x": x, "level": level, "trend": trend, "carry": own})
        carry = run.back(own)
    return carry[[LEVEL, TREND, LEFT]]


def holt_vjp(g_level, g_trend, x, level, trend, k, waits, axis, to_x):
    """Write the gradient of the values; return that of ``k``. Levels and trends have the same strides."""
    if not x.size:
        return np.zeros_like(k)
    operands = {"x": x, "y": to_x, "g": g_level, "coefficients": level, "grads": g_trend}
    run = run_of(operands, axis)
    carry = run.lanes(_planes(k, np.subtract(waits, x.shape[axis] - 1)), is_own=True)
    arrays = {"x": x, "to_x": to_x, "g_level": g_level, "level": level, "trend": trend, "g_trend": g_trend}
    run.run("levels.walk_holt_back", {**arrays, "carry": carry})
    return run.back(carry[TO_LEVEL:])


def _planes(k, left):
    carry = np.zeros((PLANES, *k.shape[1:]))
    carry[:LEFT], carry[LEFT] = k, left
    return carry


def follow(x, attack, release, first, axis, y):
    """Write envelopes, of gates that broadcast to the signal; return the last ones, without time."""
    if not x.size:
        return np.array(first)
    gates, varies = (attack, release), is_varying(x, axis, attack, release)
    carry = np.zeros((PLANES, *first.shape))
    carry[LEVEL] = first
    if varies:
        gates = [np.broadcast_to(gate, x.shape) for gate in gates]
    else:
        carry[ATTACK], carry[RELEASE] = (_of_series(gate, x, axis) for gate in gates)
        gates = [carry[:0]] * 2
    operands = {"x": x, "y": y, **({"g": gates[0], "grads": gates[1]} if varies else {})}
    run = run_of(operands, axis, words=("varying",) * varies)
    carry = run.lanes(carry, is_own=True)
    run.run("levels.walk_follow", {"x": x, "y": y, "attack": gates[0], "release": gates[1], "carry": carry})
    return run.back(carry[LEVEL : LEVEL + 1])[0]


def follow_vjp(g, g_last, x, attack, release, first, y, axis, to_x):
    """Write the signal's gradient; return those of each series' first envelope and gates, which do not vary in time."""
    if not x.size:
        return g_last + 0 * first, 0 * first, 0 * first
    carry = np.zeros((PLANES, *first.shape))
    carry[LEVEL], carry[TO_LEVEL], carry[LEFT] = first, g_last, 1 - x.shape[axis]
    carry[ATTACK], carry[RELEASE] = (_of_series(gate, x, axis) for gate in (attack, release))
    run = run_of({"x": x, "y": to_x, "g": g, "coefficients": y}, axis)
    carry = run.lanes(carry, is_own=True)
    run.run("levels.walk_follow_back", {"x": x, "to_x": to_x, "g": g, "y": y, "carry": carry})
    to_first, _, to_attack, to_release = run.back(carry[TO_LEVEL:TO_PHI])
    return to_first, to_attack, to_release


def is_varying(x, axis, *gates):
    """Return whether a gate varies in time."""
    return any(gate.ndim >= x.ndim - axis and gate.shape[axis - x.ndim] != 1 for gate in gates)


def _of_series(gate, x, axis):
    return np.broadcast_to(gate, (*x.shape[:axis], 1, *x.shape[axis + 1 :])).squeeze(axis)

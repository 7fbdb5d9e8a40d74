"""Levels that follow signals in memory: Holt's level and trend, their gradient, and envelopes."""

from types import SimpleNamespace

import numpy as np

from .filters import Run
from .kernels import levels
from .kernels.levels import LEFT, LEVEL, PLANES, TO_LEVEL

# What a run of a filter asks of its coefficients: one section, none that are read.
_NONE = SimpleNamespace(sections=1, order=2, kind="", blocks=None)


def holt(x, k, waits, axis, level, trend):
    """Write the levels and the trends, which have the same strides.

    ``k`` are each series' level and trend before all steps, alpha, beta and phi, (5, *series); ``waits`` is how many
    steps it waits for, which are NaN.
    """
    if x.size:
        run = Run({"x": x, "y": level}, _NONE, axis, False, None)
        run.run(levels.walk_holt, {"x": x, "level": level, "trend": trend, "carry": run.lanes(_planes(k, waits))})


def holt_vjp(g_level, g_trend, x, level, trend, k, waits, axis, to_x):
    """Write the gradient of the values; return that of ``k``. Levels and trends have the same strides."""
    if not x.size:
        return np.zeros_like(k)
    operands = {"x": x, "y": to_x, "g": g_level, "coefficients": level, "grads": g_trend}
    run = Run(operands, _NONE, axis, False, None)
    carry = run.lanes(_planes(k, np.subtract(waits, x.shape[axis] - 1)))
    arrays = {"x": x, "to_x": to_x, "g_level": g_level, "level": level, "trend": trend, "g_trend": g_trend}
    run.run(levels.walk_holt_back, {**arrays, "carry": carry})
    return run.back(carry[TO_LEVEL:])


def _planes(k, left):
    carry = np.zeros((PLANES, *k.shape[1:]))
    carry[:LEFT], carry[LEFT] = k, left
    return carry


def follow(x, attack, release, first, axis, y):
    """Write envelopes, of gates that broadcast to the signal; return the last ones, without time."""
    if not x.size:
        return np.array(first)
    gates, one = (attack, release), (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    varies = any(gate.ndim >= x.ndim - axis and gate.shape[axis - x.ndim] > 1 for gate in gates)
    wide = [np.broadcast_to(gate, x.shape if varies else one) for gate in gates]
    carry = np.zeros((PLANES, *first.shape))
    carry[LEVEL] = first
    if not varies:
        carry[levels.ATTACK], carry[levels.RELEASE] = (gate.squeeze(axis) for gate in wide)
        wide = [carry[:0]] * 2
    run = Run({"x": x, "y": y, **({"g": wide[0], "grads": wide[1]} if varies else {})}, _NONE, axis, False, None)
    run.rule += " varying" * varies
    carry = run.lanes(carry)
    run.run(levels.walk_follow, {"x": x, "y": y, "attack": wide[0], "release": wide[1], "carry": carry})
    return run.back(carry[LEVEL : LEVEL + 1])[0]

"""The arithmetic of levels that follow a signal: Holt's level and trend with its adjoint, and an envelope."""

from collections import namedtuple

from .recurrence import constant, fma, forget_adjoint, is_finite, select

# What a step of Holt's moves by, and what it multiplies the trend by.
Holt = namedtuple("Holt", "alpha beta phi")


def holt_error(x, level, trend, k):
    """Return how far a value is from what was predicted, 0 for a missing one, and by how much the level drifts."""
    drift = k.phi * trend
    return select(is_finite(x), x - (level + drift), constant(0.0, x)), drift


def holt(x, level, trend, k):
    """Return the level and the trend after a step: what was predicted, corrected by its error.

    This is ``alpha*x + (1 - alpha)*(level + phi*trend)`` and ``beta*(new level - level) + (1 - beta)*phi*trend``.
    """
    error, drift = holt_error(x, level, trend, k)
    return fma(k.alpha, error, level + drift), fma(k.alpha * k.beta, error, drift)


def holt_adjoint(g_level, g_trend, x, level, trend, k):
    """Return the cotangents of the value, of the level and trend before a step, and of alpha, beta and phi.

    ``g_level, g_trend`` are those that have reached the level and the trend after it.
    """
    error, _ = holt_error(x, level, trend, k)
    both = fma(k.beta, g_trend, g_level)
    to_x = select(is_finite(x), k.alpha * both, constant(0.0, x))
    to_level = g_level - to_x
    to_drift = to_level + g_trend
    return to_x, to_level, k.phi * to_drift, error * both, k.alpha * error * g_trend, trend * to_drift


def follow(x, y, attack, release):
    """Return an envelope after a step: it rises to the signal by one gate, and falls to it by the other.

    Both are computed, so that neither waits for which one it is.
    """
    d = x - y
    return select(constant(0.0, d) < d, toward(x, y, d, attack), toward(x, y, d, release))


def toward(x, y, d, gate):
    """Return ``y`` moved by a gate to ``x``, which is ``d`` away, from the nearer end: both ends are exact."""
    from_y = gate < constant(0.5, gate)
    return fma(select(from_y, gate, gate - constant(1.0, gate)), d, select(from_y, y, x))


def follow_adjoint(g, x, y, attack, release):
    """Return the cotangents of the signal, of the envelope ``y`` before a step, and of both gates."""
    rises, zero = y < x, constant(0.0, y)
    to_gate, to_x, to_y = forget_adjoint(g, select(rises, attack, release), x, y)
    return to_x, to_y, select(rises, to_gate, zero), select(rises, zero, to_gate)

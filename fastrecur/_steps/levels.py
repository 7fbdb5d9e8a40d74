"""The arithmetic of levels that follow a signal, and adjoints: Holt's, with seasons or without, and envelopes."""

from collections import namedtuple

from .recurrence import constant, fma, forget_adjoint, is_finite, select

# What a step of Holt's moves by, and what it multiplies the trend by.
Holt = namedtuple("Holt", "alpha beta phi")
Seasons = namedtuple("Seasons", "alpha beta phi gamma")


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


def seasons(x, level, trend, season, k, multiply):
    """Return the forecast of a step, and the level, the trend and the season after it.

    The season is added to what Holt's method predicts, or else multiplies it. A missing value has no error.
    """
    drift = k.phi * trend
    base = level + drift
    forecast = base * season if multiply else base + season
    seen, error, zero = is_finite(x), x - forecast, constant(0.0, x)
    of_level = select(seen, error / season if multiply else error, zero)
    of_season = select(seen, error / base if multiply else error, zero)
    return (
        forecast, fma(k.alpha, of_level, base), fma(k.alpha * k.beta, of_level, drift), fma(k.gamma, of_season, season)
    )  # fmt: skip


def seasons_adjoint(g, g_level, g_trend, g_season, x, level, trend, season, k, multiply):
    """Return the cotangents of the value, of the level, trend and season before a step, and of the constants.

    ``g`` is the forecast's, the others have reached what is after the step; constants are alpha, beta, phi and gamma.
    """
    zero, drift = constant(0.0, x), k.phi * trend
    base = level + drift
    forecast = base * season if multiply else base + season
    seen, error = is_finite(x), x - forecast
    of_level = select(seen, error / season if multiply else error, zero)
    of_season = select(seen, error / base if multiply else error, zero)
    both = fma(k.beta, g_trend, g_level)
    to_alpha, to_beta, to_gamma = of_level * both, k.alpha * of_level * g_trend, of_season * g_season
    in_level, in_season = k.alpha * both, k.gamma * g_season
    in_level = select(seen, in_level / season if multiply else in_level, zero)
    in_season = select(seen, in_season / base if multiply else in_season, zero)
    to_x = in_level + in_season
    to_forecast = g - to_x
    if multiply:
        to_base = fma(to_forecast, season, g_level) - in_season * of_season
        to_season = fma(to_forecast, base, g_season) - in_level * of_level
    else:
        to_base, to_season = g_level + to_forecast, g_season + to_forecast
    to_drift = to_base + g_trend
    return to_x, to_base, k.phi * to_drift, to_season, to_alpha, to_beta, trend * to_drift, to_gamma


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

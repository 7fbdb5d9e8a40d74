"""Levels with seasons in memory, Holt and Winters' method, and their gradient."""

import numpy as np

from .._plan.fields.levels import ALPHA, LEVEL, SEASONS, TO_ALPHA, TO_GAMMA, TO_LEVEL, TO_TREND, TREND
from .._plan.fields.tiles import G, Y
from .filter_run import run_of

CONSTANTS = 4  # alpha, beta, phi and gamma


class _Form:
    """What a run is told in place of coefficients: how many steps a period has, and how seasons enter."""

    def __init__(self, period, multiply):
        self.period, self.words = period, ("multiplies",) * multiply

    def form(self):
        return 1, self.period, 0, 0, self.words, False


def holt_winters(x, first, constants, multiply, axis, forecast, level, trend, season):
    """Write results, of which the last three have the same strides; return the state after all steps.

    A state is a level, a trend and a period's seasons, of the next step first: (2 + period, *series); ``constants`` are
    alpha, beta, phi and gamma, (4, *series).
    """
    period, steps = len(first) - 2, x.shape[axis]
    if not x.size:
        return first.copy()
    run = run_of({"x": x, "y": forecast, "g": level}, axis, c=_Form(period, multiply), results=(Y, G, G, G))
    carry = run.lanes(_planes(first, constants), is_own=True)
    arrays = {"x": x, "forecast": forecast, "level": level, "trend": trend, "season": season, "carry": carry}
    run.run("seasons.walk", arrays)
    return run.back(carry)[[LEVEL, TREND, *(SEASONS + (np.arange(period) + steps) % period)]]


def holt_winters_vjp(grads, g_last, x, first, constants, before, multiply, axis, to_x):
    """Write the gradient of the values; return those of the first state and of the constants.

    ``grads`` are cotangents of all results, ``g_last`` of the last state; ``before`` are levels, trends and seasons
    before each step. Those of forecasts apart, all of a kind have the same strides.
    """
    period, steps = len(first) - 2, x.shape[axis]
    if not x.size:
        return g_last + 0 * first, 0 * constants
    g, *grads = grads
    names = "x", "y", "g", "coefficients", "grads"
    run = run_of(dict(zip(names, (x, to_x, g, before[0], grads[0]), strict=True)), axis, c=_Form(period, multiply))
    carry = _planes(first, constants)
    carry[[TO_LEVEL, TO_TREND]], carry[SEASONS:] = g_last[:2], np.roll(g_last[2:], steps, 0)
    carry[TO_ALPHA : TO_GAMMA + 1] = 0.0
    carry = run.lanes(carry, is_own=True)
    named = zip(("level", "trend", "season", "g_level", "g_trend", "g_season"), (*before, *grads), strict=True)
    run.run("seasons.walk_back", {"x": x, "to_x": to_x, "g": g, **dict(named), "carry": carry})
    carry = run.back(carry)
    return carry[[TO_LEVEL, TO_TREND, *range(SEASONS, SEASONS + period)]], carry[[*range(TO_ALPHA, TO_GAMMA + 1)]]


def _planes(first, constants):
    """Return carries; what gradients add to is not set."""
    carry = np.empty((SEASONS + len(first) - 2, *first.shape[1:]))
    carry[[LEVEL, TREND]], carry[SEASONS:], carry[ALPHA : ALPHA + CONSTANTS] = first[:2], first[2:], constants
    return carry

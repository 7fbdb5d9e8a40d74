"""The kernels of levels with seasons, Holt and Winters' method, and of their gradient: a season of each of its steps.

They take tiles of steps of a vector of series, as those of `levels` do.
"""

import numpy as np

from ..._plan.fields.levels import (
    ALPHA,
    BETA,
    GAMMA,
    LEVEL,
    PHI,
    SEASONS,
    TO_ALPHA,
    TO_BETA,
    TO_GAMMA,
    TO_LEVEL,
    TO_PHI,
    TO_TREND,
    TREND,
)
from ..._plan.fields.tiles import CHUNK, COEFFICIENTS, GRADS, ORDER, PADDED, STEPS, G, X, Y
from ..._steps import levels
from ..compiler.numba_internals import helper, inlined
from ..vectors.scalars import fence, itemsize, load_int, maximum, minimum, shift, width
from ..vectors.vectors import load_vector, store_vector
from .levels import room
from .operands import ZERO
from .rules import trait
from .tiles import counts_at, drain, fill, operand

multiplies = trait("multiplies")
seasons, seasons_adjoint = inlined(levels.seasons), inlined(levels.seasons_adjoint)


def plain(x, alpha, beta, phi, gamma, level, trend, season, multiply):
    """Compute what `walk` does, of arrays (steps, series), in the component form; ``season`` is of a period's steps."""
    found, season = [], [*season]
    for row in x:
        base, own = level + phi * trend, season.pop(0)
        forecast = base * own if multiply else base + own
        row = np.where(np.isfinite(row), row, forecast)
        before = level
        level = alpha * (row / own if multiply else row - own) + (1 - alpha) * base
        trend = beta * (level - before) + (1 - beta) * phi * trend
        season.append(gamma * (row / base if multiply else row - base) + (1 - gamma) * own)
        found.append((forecast, level, trend, season[-1]))
    return np.array(found).swapaxes(0, 1), (level, trend, np.array(season))


@inlined
def constants_of(here, padded, tile):
    return levels.Seasons(
        load_vector(here, ALPHA * padded, tile), load_vector(here, BETA * padded, tile),
        load_vector(here, PHI * padded, tile), load_vector(here, GAMMA * padded, tile),
    )  # fmt: skip


@helper
def tile_forward(rule, tile, level_tile, trend_tile, season_tile, here, padded, period, t, steps):
    """Take a tile of values, from step ``t`` on, to forecasts; write levels, trends and seasons to others."""
    lanes, k, place = width(tile), constants_of(here, padded, tile), t % period
    level, trend = load_vector(here, LEVEL, tile), load_vector(here, TREND * padded, tile)
    for n in range(steps):
        at, slot = n * lanes, (SEASONS + place) * padded
        forecast, level, trend, season = seasons(
            load_vector(tile, at, tile), level, trend, load_vector(here, slot, tile), k, multiplies(rule)
        )
        store_vector(here, slot, season)
        store_vector(tile, at, forecast)
        store_vector(level_tile, at, level)
        store_vector(trend_tile, at, trend)
        store_vector(season_tile, at, season)
        place += 1
        if place == period:
            place = ZERO
    store_vector(here, LEVEL, level)
    store_vector(here, TREND * padded, trend)


def walk(rule, x, forecast, level, trend, season, carry, geometry, first, last):
    """Write what was forecast, levels, trends and seasons of series ``first`` to ``last``, a multiple of the width."""
    tile, level_tile = room(rule, carry), room(rule, carry)
    trend_tile, season_tile = room(rule, carry), room(rule, carry)
    lanes, padded, chunk = width(tile), load_int(geometry, PADDED), load_int(geometry, CHUNK)
    steps, period = load_int(counts_at(geometry, first), 0), load_int(geometry, ORDER)
    for begin in range(0, steps, chunk):
        for lane in range(first, last, lanes):
            xs, ys = operand(x, geometry, X, lane, lanes), operand(forecast, geometry, Y, lane, lanes)
            own, slopes = operand(level, geometry, G, lane, lanes), operand(trend, geometry, G, lane, lanes)
            waves, here = operand(season, geometry, G, lane, lanes), shift(carry, lane * itemsize(carry))
            end = minimum(begin + chunk, steps)
            for t in range(begin, end, STEPS):
                count = minimum(STEPS, end - t)
                fill(tile, xs, t, count, STEPS)
                tile_forward(rule, tile, level_tile, trend_tile, season_tile, here, padded, period, t, count)
                drain(ys, tile, t, count)
                drain(own, level_tile, t, count)
                drain(slopes, trend_tile, t, count)
                drain(waves, season_tile, t, count)
    fence()


@helper
def add_to(here, place, value):
    store_vector(here, place, load_vector(here, place, value) + value)


@helper
def tile_back(rule, tile, before, cotangents, here, padded, period, t, steps):
    """Take cotangents, and what is before each step, to those of the values, in their place.

    ``before`` has a tile of levels, of trends and of seasons, ``cotangents`` of forecasts, levels, trends and seasons.
    """
    level, trend, season = before
    g, g_level, g_trend, g_season = cotangents
    row, k, place = width(tile), constants_of(here, padded, tile), (t + steps - 1) % period
    r_level, r_trend = load_vector(here, TO_LEVEL * padded, tile), load_vector(here, TO_TREND * padded, tile)
    in_alpha, in_beta = load_vector(here, TO_ALPHA * padded, tile), load_vector(here, TO_BETA * padded, tile)
    in_phi, in_gamma = load_vector(here, TO_PHI * padded, tile), load_vector(here, TO_GAMMA * padded, tile)
    for n in range(steps - 1, -1, -1):
        at, slot = n * row, (SEASONS + place) * padded
        to_x, r_level, r_trend, r_season, to_alpha, to_beta, to_phi, to_gamma = seasons_adjoint(
            load_vector(g, at, tile), r_level + load_vector(g_level, at, tile),
            r_trend + load_vector(g_trend, at, tile), load_vector(here, slot, tile) + load_vector(g_season, at, tile),
            load_vector(tile, at, tile), load_vector(level, at, tile), load_vector(trend, at, tile),
            load_vector(season, at, tile), k, multiplies(rule),
        )  # fmt: skip
        store_vector(here, slot, r_season)
        store_vector(tile, at, to_x)
        in_alpha, in_beta, in_phi = in_alpha + to_alpha, in_beta + to_beta, in_phi + to_phi
        in_gamma = in_gamma + to_gamma
        place -= 1
        if place < 0:
            place = period - 1
    store_vector(here, TO_LEVEL * padded, r_level)
    store_vector(here, TO_TREND * padded, r_trend)
    store_vector(here, TO_ALPHA * padded, in_alpha)
    store_vector(here, TO_BETA * padded, in_beta)
    store_vector(here, TO_PHI * padded, in_phi)
    store_vector(here, TO_GAMMA * padded, in_gamma)


def walk_back(rule, x, to_x, g, level, trend, season, g_level, g_trend, g_season, carry, geometry, first, last):
    """Write the gradients of values, against time; those of constants and of the first state are left in ``carry``.

    ``level, trend, season`` are those before each step.
    """
    tile = room(rule, carry)
    before = room(rule, carry), room(rule, carry), room(rule, carry)
    cotangents = room(rule, carry), room(rule, carry), room(rule, carry), room(rule, carry)
    lanes, padded, chunk = width(tile), load_int(geometry, PADDED), load_int(geometry, CHUNK)
    steps, period = load_int(counts_at(geometry, first), 0), load_int(geometry, ORDER)
    for end in range(steps, 0, -chunk):
        for lane in range(first, last, lanes):
            xs, to = operand(x, geometry, X, lane, lanes), operand(to_x, geometry, Y, lane, lanes)
            here, low = shift(carry, lane * itemsize(carry)), maximum(end - chunk, ZERO)
            for t in range(low + (end - low - 1) // STEPS * STEPS, low - 1, -STEPS):
                count = minimum(STEPS, end - t)
                fill(tile, xs, t, count, -STEPS)
                fill(before[0], operand(level, geometry, COEFFICIENTS, lane, lanes), t, count, -STEPS)
                fill(before[1], operand(trend, geometry, COEFFICIENTS, lane, lanes), t, count, -STEPS)
                fill(before[2], operand(season, geometry, COEFFICIENTS, lane, lanes), t, count, -STEPS)
                fill(cotangents[0], operand(g, geometry, G, lane, lanes), t, count, -STEPS)
                fill(cotangents[1], operand(g_level, geometry, GRADS, lane, lanes), t, count, -STEPS)
                fill(cotangents[2], operand(g_trend, geometry, GRADS, lane, lanes), t, count, -STEPS)
                fill(cotangents[3], operand(g_season, geometry, GRADS, lane, lanes), t, count, -STEPS)
                tile_back(rule, tile, before, cotangents, here, padded, period, t, count)
                drain(to, tile, t, count)
    fence()

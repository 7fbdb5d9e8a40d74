"""The kernels of levels that follow a signal: Holt's level and trend, their gradient, and an envelope.

They take tiles of steps of a vector of series, as those of filters do.
"""

import math

import numpy as np
from numba.extending import register_jitable

from ..._plan.fields.levels import (
    ALPHA,
    ATTACK,
    BETA,
    LEFT,
    LEVEL,
    PHI,
    RELEASE,
    TO_ALPHA,
    TO_ATTACK,
    TO_BETA,
    TO_LEVEL,
    TO_PHI,
    TO_RELEASE,
    TO_TREND,
    TREND,
)
from ..._plan.fields.tiles import CHUNK, COEFFICIENTS, GRADS, PADDED, STEPS, G, X, Y
from ..._steps import levels
from ..._steps.recurrence import constant, select
from ..compiler.numba_internals import INLINE, helper, inlined
from ..vectors.scalars import fence, itemsize, load_int, maximum, minimum, shift, stack, width
from ..vectors.vectors import load_vector, store_vector
from .operands import ZERO
from .sections import sized
from .tiles import TILE, counts_at, drain, fill, operand, varies


def plain_holt(x, level, trend, alpha, beta, phi):
    """Compute what `walk_holt` does, of arrays (steps, series) that become the levels and the trends."""
    before, slope = level[0].copy(), trend[0].copy()
    for t in range(len(x)):
        predicted = before + phi * slope
        level[t] = np.where(np.isfinite(x[t]), alpha * x[t] + (1 - alpha) * predicted, predicted)
        trend[t] = beta * (level[t] - before) + (1 - beta) * phi * slope
        before, slope = level[t], trend[t]


for _part in levels.holt_error, levels.toward:
    register_jitable(**INLINE)(_part)
holt, holt_adjoint = inlined(levels.holt), inlined(levels.holt_adjoint)
follow, follow_adjoint = inlined(levels.follow), inlined(levels.follow_adjoint)


@inlined
def room(rule, carry):
    """Return memory for a tile."""
    return sized(rule, stack(carry, TILE))


@inlined
def constants_of(here, padded, tile):
    return levels.Holt(
        load_vector(here, ALPHA * padded, tile), load_vector(here, BETA * padded, tile),
        load_vector(here, PHI * padded, tile),
    )  # fmt: skip


@helper
def holt_tile(tile, trends, here, padded, steps):
    """Take a tile of values to levels; write the trends to another."""
    lanes, k = width(tile), constants_of(here, padded, tile)
    level, trend = load_vector(here, LEVEL, tile), load_vector(here, TREND * padded, tile)
    left = load_vector(here, LEFT * padded, tile)
    zero, one, nothing = constant(0.0, left), constant(1.0, left), constant(math.nan, left)
    for n in range(steps):
        waits = zero < left
        new_level, new_trend = holt(load_vector(tile, n * lanes, tile), level, trend, k)
        level, trend, left = select(waits, level, new_level), select(waits, trend, new_trend), left - one
        store_vector(tile, n * lanes, select(waits, nothing, level))
        store_vector(trends, n * lanes, select(waits, nothing, trend))
    store_vector(here, LEVEL, level)
    store_vector(here, TREND * padded, trend)
    store_vector(here, LEFT * padded, left)


def walk_holt(rule, x, level, trend, carry, geometry, first, last):
    """Write the levels and the trends of series ``first`` to ``last``, a multiple of the width apart."""
    tile, trends = room(rule, carry), room(rule, carry)
    lanes, padded, chunk = width(tile), load_int(geometry, PADDED), load_int(geometry, CHUNK)
    steps = load_int(counts_at(geometry, first), 0)
    for begin in range(0, steps, chunk):
        for lane in range(first, last, lanes):
            xs, here = operand(x, geometry, X, lane, lanes), shift(carry, lane * itemsize(carry))
            ys, slopes = operand(level, geometry, Y, lane, lanes), operand(trend, geometry, Y, lane, lanes)
            end = minimum(begin + chunk, steps)
            for t in range(begin, end, STEPS):
                count = minimum(STEPS, end - t)
                fill(tile, xs, t, count, STEPS)
                holt_tile(tile, trends, here, padded, count)
                drain(ys, tile, t, count)
                drain(slopes, trends, t, count)
    fence()


@helper
def fill_before(tile, y, t, steps):
    """Bring what there was before each of some steps, before the first one anything."""
    if t > 0:
        fill(tile, y, t - 1, steps, -STEPS)
    else:
        fill(shift(tile, width(tile) * itemsize(tile)), y, ZERO, steps - 1, -STEPS)


@helper
def back_tile(tile, level, trend, g_level, g_trend, here, padded, steps):
    """Take cotangents of levels and trends, and the state before each step, to those of the values, in their place."""
    row, k = width(tile), constants_of(here, padded, tile)
    first_level, first_trend = load_vector(here, LEVEL, tile), load_vector(here, TREND * padded, tile)
    r_level, r_trend = load_vector(here, TO_LEVEL * padded, tile), load_vector(here, TO_TREND * padded, tile)
    in_alpha, in_beta = load_vector(here, TO_ALPHA * padded, tile), load_vector(here, TO_BETA * padded, tile)
    in_phi, left = load_vector(here, TO_PHI * padded, tile), load_vector(here, LEFT * padded, tile)
    zero, one = constant(0.0, left), constant(1.0, left)
    for n in range(steps - 1, -1, -1):
        at, waits, begins = n * row, zero < left, left == zero
        before = select(begins, first_level, load_vector(level, at, tile))
        slope = select(begins, first_trend, load_vector(trend, at, tile))
        to_x, to_level, to_trend, to_alpha, to_beta, to_phi = holt_adjoint(
            r_level + load_vector(g_level, at, tile), r_trend + load_vector(g_trend, at, tile),
            load_vector(tile, at, tile), before, slope, k,
        )  # fmt: skip
        store_vector(tile, at, select(waits, zero, to_x))
        r_level, r_trend = select(waits, r_level, to_level), select(waits, r_trend, to_trend)
        in_alpha, in_beta = in_alpha + select(waits, zero, to_alpha), in_beta + select(waits, zero, to_beta)
        in_phi, left = in_phi + select(waits, zero, to_phi), left + one
    store_vector(here, TO_LEVEL * padded, r_level)
    store_vector(here, TO_TREND * padded, r_trend)
    store_vector(here, TO_ALPHA * padded, in_alpha)
    store_vector(here, TO_BETA * padded, in_beta)
    store_vector(here, TO_PHI * padded, in_phi)
    store_vector(here, LEFT * padded, left)


def walk_holt_back(rule, x, to_x, g_level, level, trend, g_trend, carry, geometry, first, last):
    """Write the gradients of values, against time; those of constants and of the first state are left in ``carry``."""
    tile, of_level, of_trend = room(rule, carry), room(rule, carry), room(rule, carry)
    before, slopes = room(rule, carry), room(rule, carry)
    lanes, padded, chunk = width(tile), load_int(geometry, PADDED), load_int(geometry, CHUNK)
    steps = load_int(counts_at(geometry, first), 0)
    for end in range(steps, 0, -chunk):
        for lane in range(first, last, lanes):
            xs, to = operand(x, geometry, X, lane, lanes), operand(to_x, geometry, Y, lane, lanes)
            gs, hs = operand(g_level, geometry, G, lane, lanes), operand(g_trend, geometry, GRADS, lane, lanes)
            ys = operand(level, geometry, COEFFICIENTS, lane, lanes)
            zs = operand(trend, geometry, COEFFICIENTS, lane, lanes)
            here, low = shift(carry, lane * itemsize(carry)), maximum(end - chunk, ZERO)
            for t in range(low + (end - low - 1) // STEPS * STEPS, low - 1, -STEPS):
                count = minimum(STEPS, end - t)
                fill(tile, xs, t, count, -STEPS)
                fill_before(before, ys, t, count)
                fill_before(slopes, zs, t, count)
                fill(of_level, gs, t, count, -STEPS)
                fill(of_trend, hs, t, count, -STEPS)
                back_tile(tile, before, slopes, of_level, of_trend, here, padded, count)
                drain(to, tile, t, count)
    fence()


def plain_follow(x, y, attack, release, first):
    """Compute what `walk_follow` does, of arrays (steps, series); ``first`` are the envelopes before all steps."""
    for t in range(len(x)):
        gate = np.where(x[t] > first, attack[t], release[t])
        y[t] = first = gate * x[t] + (1 - gate) * first


@helper
def follow_tile(rule, tile, attacks, releases, here, padded, steps):
    """Take a tile of a signal to its envelope."""
    lanes, y = width(tile), load_vector(here, LEVEL, tile)
    rise, fall = load_vector(here, ATTACK * padded, tile), load_vector(here, RELEASE * padded, tile)
    for n in range(steps):
        if varies(rule):
            rise, fall = load_vector(attacks, n * lanes, tile), load_vector(releases, n * lanes, tile)
        y = follow(load_vector(tile, n * lanes, tile), y, rise, fall)
        store_vector(tile, n * lanes, y)
    store_vector(here, LEVEL, y)


def walk_follow(rule, x, y, attack, release, carry, geometry, first, last):
    """Write the envelopes of series ``first`` to ``last``, a multiple of the width apart.

    Gates that do not vary in time are in ``carry``, others arrays.
    """
    tile, attacks, releases = room(rule, carry), room(rule, carry), room(rule, carry)
    lanes, padded, chunk = width(tile), load_int(geometry, PADDED), load_int(geometry, CHUNK)
    steps = load_int(counts_at(geometry, first), 0)
    for begin in range(0, steps, chunk):
        for lane in range(first, last, lanes):
            xs, ys = operand(x, geometry, X, lane, lanes), operand(y, geometry, Y, lane, lanes)
            rises, falls = operand(attack, geometry, G, lane, lanes), operand(release, geometry, GRADS, lane, lanes)
            end = minimum(begin + chunk, steps)
            for t in range(begin, end, STEPS):
                count = minimum(STEPS, end - t)
                fill(tile, xs, t, count, STEPS)
                if varies(rule):
                    fill(attacks, rises, t, count, STEPS)
                    fill(releases, falls, t, count, STEPS)
                follow_tile(rule, tile, attacks, releases, shift(carry, lane * itemsize(carry)), padded, count)
                drain(ys, tile, t, count)
    fence()


@helper
def follow_back_tile(tile, y, g, here, padded, steps):
    """Take cotangents of envelopes, and the envelope before each step, to those of the signal, in its place."""
    row, left, first = width(tile), load_vector(here, LEFT * padded, tile), load_vector(here, LEVEL, tile)
    attack, release = load_vector(here, ATTACK * padded, tile), load_vector(here, RELEASE * padded, tile)
    in_attack, in_release = load_vector(here, TO_ATTACK * padded, tile), load_vector(here, TO_RELEASE * padded, tile)
    r, zero, one = load_vector(here, TO_LEVEL * padded, tile), constant(0.0, left), constant(1.0, left)
    for n in range(steps - 1, -1, -1):
        at = n * row
        before = select(left == zero, first, load_vector(y, at, tile))
        arrived = r + load_vector(g, at, tile)
        to_x, r, to_attack, to_release = follow_adjoint(arrived, load_vector(tile, at, tile), before, attack, release)
        store_vector(tile, at, to_x)
        in_attack, in_release, left = in_attack + to_attack, in_release + to_release, left + one
    store_vector(here, TO_LEVEL * padded, r)
    store_vector(here, TO_ATTACK * padded, in_attack)
    store_vector(here, TO_RELEASE * padded, in_release)
    store_vector(here, LEFT * padded, left)


def walk_follow_back(rule, x, to_x, g, y, carry, geometry, first, last):
    """Write the gradients of signals, against time, where gates do not vary; those of gates are left in ``carry``."""
    tile, before, of_y = room(rule, carry), room(rule, carry), room(rule, carry)
    lanes, padded, chunk = width(tile), load_int(geometry, PADDED), load_int(geometry, CHUNK)
    steps = load_int(counts_at(geometry, first), 0)
    for end in range(steps, 0, -chunk):
        for lane in range(first, last, lanes):
            xs, to = operand(x, geometry, X, lane, lanes), operand(to_x, geometry, Y, lane, lanes)
            gs, ys = operand(g, geometry, G, lane, lanes), operand(y, geometry, COEFFICIENTS, lane, lanes)
            low = maximum(end - chunk, ZERO)
            for t in range(low + (end - low - 1) // STEPS * STEPS, low - 1, -STEPS):
                count = minimum(STEPS, end - t)
                fill(tile, xs, t, count, -STEPS)
                fill_before(before, ys, t, count)
                fill(of_y, gs, t, count, -STEPS)
                follow_back_tile(tile, before, of_y, shift(carry, lane * itemsize(carry)), padded, count)
                drain(to, tile, t, count)
    fence()

"""Poles alone: the state is the last outputs, and coefficients that vary in time are read where they stand.

Two poles go in difference form, as sections do: see `_steps.sections`. The gradient needs no input and no scan forward:
its state is what the cotangents of outputs add to those of earlier ones.
"""

import numpy as np

from ..._plan.fields.tiles import GRADS, ORDER, PADDED, STEPS, G, X, Y
from ..._steps import sections
from ..._steps.recurrence import constant, fma
from ..compiler.numba_internals import helper, inlined
from ..vectors.scalars import itemsize, load_int, maximum, minimum, shift, width
from ..vectors.vectors import load_vector, store_vector
from .operands import TWO, ZERO
from .rules import choice
from .tiles import (
    MOST,
    any_coefficient,
    bring,
    counts_at,
    drain,
    fill,
    form,
    operand,
    rows_in,
    section,
    series_at,
    steady_of,
    take_away,
    varies,
)

AHEAD = 2 * STEPS  # from where coefficients are prefetched
two_poles = inlined(sections.two_poles)


def plain(x, a, past, y):
    """Compute what `sections.walk` does of poles, of arrays (steps, series) and ``a`` (steps, order, series).

    ``past`` (order, series) are the outputs before all steps, the newest first; then the last ones.
    """
    for t in range(len(x)):
        y[t] = x[t] - (a[t] * past).sum(0)
        past[1:], past[0] = past[:-1].copy(), y[t]


def plain_vjp(g, a, y, past, adjoint, grad_x, grad_a):
    """Compute what `sections_back.walk` does of poles: ``adjoint`` are cotangents of the last outputs, then of past."""
    order, outputs = len(past), np.concatenate([past[::-1], y])
    for t in range(len(y) - 1, -1, -1):
        grad_x[t] = g[t] + adjoint[0]
        grad_a[t] = -grad_x[t] * outputs[t : t + order][::-1]
        adjoint[:-1], adjoint[-1] = adjoint[1:].copy(), 0
        adjoint -= a[t] * grad_x[t]


@inlined
def pole(rule, rows, here, k, n, order, padded, tile):
    """Return the coefficient of the output n steps back, at the k-th step of those that were brought."""
    return any_coefficient(rule, here, shift(rows.at, k * rows.step), n - 1, order + 1 + n, padded, tile)


@inlined
def two_at(rule, rows, k, steady, tile):
    """Return two poles in difference form, at the k-th step of those that were brought."""
    if varies(rule):
        at, one, none = shift(rows.at, k * rows.step), constant(1.0, steady.sign), constant(0.0, steady.sign)
        first, second = load_vector(at, 0, tile), load_vector(at, width(tile), tile)
        return form(one, none, none, first, second, steady.sign)
    return steady


# ---- Forward --------------------------------------------------------------------------------------------------------


@helper
def run_two(rule, tile, outputs, fields, here, geometry, t, steps):
    """Take a tile through two poles."""
    lanes, padded = width(tile), load_int(geometry, PADDED)
    steady = steady_of(rule, here, ZERO, padded, tile)
    bring(rule, fields, here.coefficients, geometry, ZERO, TWO, t, steps, AHEAD)
    rows = rows_in(fields, geometry, TWO, ZERO, steps)
    p, q = load_vector(here.carry, here.lane, tile), load_vector(here.carry, padded + here.lane, tile)
    for k in range(steps):
        v = load_vector(tile, k * lanes, tile)
        y, p, q = two_poles(v, p, q, two_at(rule, rows, k, steady, tile))
        store_vector(tile, k * lanes, y)
    store_vector(here.carry, here.lane, p)
    store_vector(here.carry, padded + here.lane, q)


@helper
def run_any(rule, tile, outputs, fields, here, geometry, t, steps):
    """Take a tile through poles of any number."""
    lanes, padded, order = width(tile), load_int(geometry, PADDED), load_int(geometry, ORDER)
    past, most = shift(here.carry, here.lane * itemsize(tile)), maximum(1, MOST // order)
    for first in range(0, steps, most):
        last = minimum(first + most, steps)
        bring(rule, fields, here.coefficients, geometry, ZERO, order, t + first, last - first, AHEAD)
        rows = rows_in(fields, geometry, order, ZERO, last - first)
        for k in range(first, last):
            y = load_vector(tile, k * lanes, tile)
            for n in range(order, 0, -1):
                a = pole(rule, rows, here, k - first, n, order, padded, tile)
                before = (
                    load_vector(tile, (k - n) * lanes, tile)
                    if n <= k
                    else load_vector(past, (n - k - 1) * padded, tile)
                )
                y = fma(-a, before, y)
            store_vector(tile, k * lanes, y)
    for n in range(order - 1, -1, -1):
        last = steps - 1 - n
        own = load_vector(tile, last * lanes, tile) if last >= 0 else load_vector(past, (n - steps) * padded, tile)
        store_vector(past, n * padded, own)


run_poles = choice("any_order", run_any, run_two)


# ---- Back -----------------------------------------------------------------------------------------------------------


@helper
def bring_outputs(rows, y, here, geometry, t, steps):
    """Bring outputs to a buffer, behind as many before them as there are poles."""
    lanes, padded, order = width(rows), load_int(geometry, PADDED), load_int(geometry, ORDER)
    before = minimum(order, t)
    for n in range(order - before):
        own = load_vector(here.carry, (order - before - n - 1) * padded + here.lane, rows)
        store_vector(rows, n * lanes, own)
    fill(shift(rows, (order - before) * lanes * itemsize(rows)), y, t - before, before + steps, -STEPS)


@helper
def back_two(rule, outputs, g, rows, here, adjoint, sums, geometry, steps):
    """Take a tile of cotangents back; coefficients in ``rows`` become their gradients."""
    lanes, padded = width(g), load_int(geometry, PADDED)
    steady = steady_of(rule, here, ZERO, padded, g)
    p, q = load_vector(adjoint, 0, g), load_vector(adjoint, padded, g)
    first, second = load_vector(sums, 0, g), load_vector(sums, padded, g)
    for k in range(steps - 1, -1, -1):
        e, p, q = section(load_vector(g, k * lanes, g), p, q, two_at(rule, rows, k, steady, g))
        store_vector(g, k * lanes, e)
        newer, older = load_vector(outputs, (k + 1) * lanes, g), load_vector(outputs, k * lanes, g)
        if varies(rule):
            at = shift(rows.at, k * rows.step)
            store_vector(at, 0, -(e * newer))
            store_vector(at, lanes, -(e * older))
        else:
            first, second = fma(-e, newer, first), fma(-e, older, second)
    store_vector(adjoint, 0, p)
    store_vector(adjoint, padded, q)
    store_vector(sums, 0, first)
    store_vector(sums, padded, second)


@helper
def back_any(rule, outputs, g, rows, here, adjoint, sums, geometry, steps):
    """Do what `back_two` does, of poles of any number."""
    lanes, padded, order = width(g), load_int(geometry, PADDED), load_int(geometry, ORDER)
    for k in range(steps - 1, -1, -1):
        e = load_vector(g, k * lanes, g) + load_vector(adjoint, 0, g)
        store_vector(g, k * lanes, e)
        for n in range(1, order + 1):
            a, y = pole(rule, rows, here, k, n, order, padded, g), load_vector(outputs, (order + k - n) * lanes, g)
            later = load_vector(adjoint, n * padded, g) if n < order else constant(0.0, e)
            store_vector(adjoint, (n - 1) * padded, fma(-a, e, later))
            if varies(rule):
                store_vector(shift(rows.at, k * rows.step), (n - 1) * lanes, -(e * y))
            else:
                store_vector(sums, (n - 1) * padded, fma(-e, y, load_vector(sums, (n - 1) * padded, g)))


back_tile = choice("any_order", back_any, back_two)


@helper
def back_poles(rule, kept, fields, at, geometry, lane):
    """Take a vector of series, or one, back; ``at.x`` are outputs."""
    row, size, order = width(kept), itemsize(kept), load_int(geometry, ORDER)
    xs, ys = operand(at.x, geometry, X, lane, row), operand(at.y, geometry, Y, lane, row)
    gs, to = operand(at.g, geometry, G, lane, row), operand(at.grads, geometry, GRADS, lane, row)
    here = series_at(at.coefficients, at.signs, at.carry, geometry, lane, row)
    adjoint, sums = shift(at.adjoint, lane * size), shift(at.sums, lane * size)
    tile = shift(kept, (order + STEPS) * row * size)
    buffer, steps = shift(tile, STEPS * row * size), load_int(counts_at(geometry, lane), 0)
    for n in range((steps + STEPS - 1) // STEPS - 1, -1, -1):
        t, count = n * STEPS, minimum(STEPS, steps - n * STEPS)
        bring_outputs(kept, xs, here, geometry, t, count)
        fill(tile, gs, t, count, -STEPS)
        bring(rule, buffer, here.coefficients, geometry, ZERO, order, t, count, -STEPS)
        rows = rows_in(buffer, geometry, order, ZERO, count)
        back_tile(rule, kept, tile, rows, here, adjoint, sums, geometry, count)
        drain(ys, tile, t, count)
        take_away(rule, to, buffer, geometry, ZERO, order, t, count)

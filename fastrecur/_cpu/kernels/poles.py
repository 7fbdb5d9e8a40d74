"""Poles alone: the state is the last outputs, and coefficients that vary in time are read where they stand.

Two poles go in difference form, as sections do: see `_steps.sections`. The gradient needs no input and no scan forward:
its state is what the cotangents of outputs add to those of earlier ones.
"""

import numpy as np

from ..._steps import sections
from ..._steps.recurrence import constant, fma
from ..compiler.numba_internals import helper, inlined
from ..vectors.scalars import itemsize, load, load_int, maximum, minimum, shift, store, width
from ..vectors.vectors import load_vector, store_vector
from .operands import ZERO
from .rules import choice
from .tiles import (
    ALL_FIELDS,
    APART,
    BLOCKS,
    GRADS,
    ORDER,
    PADDED,
    ROWS,
    SINGLE,
    STEPS,
    TILE,
    G,
    Operand,
    X,
    Y,
    any_coefficient,
    counts_at,
    drain,
    fill,
    form,
    operand,
    section,
    series_at,
    steady_of,
    varies,
)  # fmt: skip

MOST = ALL_FIELDS // TILE * STEPS  # rows of the forward walk's buffer of coefficients
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


# ---- Coefficients of steps: rows (steps, order) of a buffer ---------------------------------------------------------


@inlined
def as_signal(x, geometry, lanes):
    """Return whether steps follow each other as their coefficients do, and an operand that all these are steps of."""
    apart = load_int(geometry, APART)
    is_one = x.step == apart * load_int(geometry, ORDER) and apart == itemsize(x.at)
    return is_one, Operand(x.at, x.offsets, apart, BLOCKS if lanes > 1 else SINGLE)


@helper
def bring(rows, x, geometry, t, steps, ahead):
    """Bring the coefficients of some steps to a buffer."""
    lanes, order, apart = width(rows), load_int(geometry, ORDER), load_int(geometry, APART)
    is_one, signal = as_signal(x, geometry, lanes)
    if is_one:
        fill(rows, signal, t * order, steps * order, ahead * order)
        return
    for k in range(steps):
        for n in range(order):
            row, to = shift(x.at, (t + k) * x.step + n * apart), (k * order + n) * lanes
            if x.way == ROWS:
                store_vector(rows, to, load_vector(shift(row, load_int(x.offsets, 0)), 0, rows))
            else:
                for j in range(lanes):
                    store(rows, to + j, load(shift(row, load_int(x.offsets, j)), 0, rows))


@helper
def take_away(x, rows, geometry, t, steps):
    """Write the gradients of coefficients, which `bring` would bring."""
    lanes, order, apart = width(rows), load_int(geometry, ORDER), itemsize(x.at)
    is_one, signal = x.step == order * apart, Operand(x.at, x.offsets, apart, BLOCKS if lanes > 1 else SINGLE)
    if is_one:
        drain(signal, rows, t * order, steps * order)
        return
    for k in range(steps):
        for n in range(order):
            row, own = shift(x.at, (t + k) * x.step + n * apart), (k * order + n) * lanes
            for j in range(lanes):
                store(shift(row, load_int(x.offsets, j)), 0, load(rows, own + j, rows))


@inlined
def pole(rule, rows, here, k, n, order, padded, tile):
    """Return the coefficient of the output n steps back, at the k-th step of those in a buffer."""
    if varies(rule):
        return load_vector(rows, (k * order + n - 1) * width(tile), tile)
    return any_coefficient(rule, here, tile, 0, order + 1 + n, order, padded)


@inlined
def two_at(rule, rows, k, steady, tile):
    """Return two poles in difference form, at the k-th step of those in a buffer."""
    if varies(rule):
        row, one, none = width(tile), constant(1.0, steady.sign), constant(0.0, steady.sign)
        first, second = load_vector(rows, 2 * k * row, tile), load_vector(rows, (2 * k + 1) * row, tile)
        return form(one, none, none, first, second, steady.sign)
    return steady


# ---- Forward --------------------------------------------------------------------------------------------------------


@helper
def run_two(rule, tile, outputs, fields, here, geometry, t, steps):
    """Take a tile through two poles."""
    lanes, padded = width(tile), load_int(geometry, PADDED)
    steady = steady_of(rule, here, ZERO, padded, tile)
    if varies(rule):
        bring(fields, here.coefficients, geometry, t, steps, STEPS)
    p, q = load_vector(here.carry, here.lane, tile), load_vector(here.carry, padded + here.lane, tile)
    for k in range(steps):
        v = load_vector(tile, k * lanes, tile)
        y, p, q = two_poles(v, p, q, two_at(rule, fields, k, steady, tile))
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
        if varies(rule):
            bring(fields, here.coefficients, geometry, t + first, last - first, STEPS)
        for k in range(first, last):
            y = load_vector(tile, k * lanes, tile)
            for n in range(order, 0, -1):
                a = pole(rule, fields, here, k - first, n, order, padded, tile)
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
            store_vector(rows, 2 * k * lanes, -(e * newer))
            store_vector(rows, (2 * k + 1) * lanes, -(e * older))
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
                store_vector(rows, (k * order + n - 1) * lanes, -(e * y))
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
    rows, steps = shift(tile, STEPS * row * size), load_int(counts_at(geometry, lane), 0)
    for n in range((steps + STEPS - 1) // STEPS - 1, -1, -1):
        t, count = n * STEPS, minimum(STEPS, steps - n * STEPS)
        bring_outputs(kept, xs, here, geometry, t, count)
        fill(tile, gs, t, count, -STEPS)
        if varies(rule):
            bring(rows, here.coefficients, geometry, t, count, -STEPS)
        back_tile(rule, kept, tile, rows, here, adjoint, sums, geometry, count)
        drain(ys, tile, t, count)
        if varies(rule):
            take_away(to, rows, geometry, t, count)

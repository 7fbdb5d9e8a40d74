"""The kernels of filters whose sections are of second order: a cascade of these, and its gradient.

A vector of series is taken a tile of steps at a time: the tile is filled from where the samples stand (rows of
neighbours, blocks of 8 series by 8 steps, or one by one), each section goes through it in turn with its state in
registers, and it is written where the results belong. Series that end earlier than others go on one by one.
"""

from collections import namedtuple

import numpy as np

from ..._steps import sections
from ..._steps.recurrence import all_finite, constant, fma
from ..compiler.numba_internals import helper, inlined
from ..vectors.scalars import (
    alone,
    itemsize,
    load,
    load_int,
    maximum,
    minimum,
    octet,
    prefetch,
    prefetch_for_write,
    shift,
    stack,
    store,
    width,
)  # fmt: skip
from ..vectors.transposes import load_octet, store_octet
from ..vectors.types import OCTET, WIDTH
from ..vectors.vectors import load_half_vector, load_vector, store_vector, total
from .operands import ONE, ZERO
from .rules import choice, trait

# Fields of ``geometry``: how many sections, how many series, and how many with those that fill the last vector; steps
# that all series go before the next; numbers of a section's state; bytes from step to step, by operand (X_STEP and what
# follows). Then tables: where each operand's series begin, in bytes; how many steps each series has; and how each
# operand is read, by vector.
N_SECTIONS, N_SERIES, PADDED, CHUNK, ORDER, X_STEP = np.arange(6, dtype=np.int64)
X, Y, G, COEFFICIENTS, GRADS, COUNTS, WAYS = np.arange(7, dtype=np.int64)
OPERANDS = 5
HEAD, TABLES = 5 + OPERANDS, 2 * OPERANDS + 1
STEPS = 32  # of a tile
FIELDS = 6  # of a section: of `sections.Section`, or SciPy's where they vary in time
GRADIENTS = 5  # that have one: all but the sign, and SciPy's a0
TILE = STEPS * WIDTH
ALL_FIELDS = FIELDS * TILE
BLOCK = (4 + OCTET) * OCTET + 4  # numbers that tell what 8 steps at once come to

# An operand of a vector of series: a pointer, where each series begins, bytes from step to step, how it is read.
Operand = namedtuple("Operand", "at offsets step way")
# Of a vector of series: the coefficients, the signs of the difference form, the states, and the first of the series.
Series = namedtuple("Series", "coefficients signs carry lane")
ROWS, BLOCKS, BLOCKS_BACK, SINGLE = np.arange(4, dtype=np.int64)


def plain(x, sos, z, y):
    """Compute what `walk` does, of arrays (steps, series): SciPy's form, with its state ``z`` (sections, 2, series)."""
    for t in range(len(x)):
        v = x[t]
        for (b0, b1, b2, _, a1, a2), s in zip(sos, z, strict=True):
            w = b0 * v + s[0]
            s[0], s[1], v = b1 * v - a1 * w + s[1], b2 * v - a2 * w, w
        y[t] = v


section, section_adjoint = inlined(sections.section), inlined(sections.section_adjoint)
varies, has_own = trait("varying"), trait("own")  # coefficients in time; or from series to series


# ---- Tiles: (steps, series of a vector) -----------------------------------------------------------------------------


@inlined
def operand(pointer, geometry, k, lane, lanes):
    """Return the k-th operand of a vector of series, or of one."""
    padded = load_int(geometry, PADDED)
    offsets = shift(geometry, 8 * (HEAD + k * padded + lane))
    way = SINGLE if lanes == 1 else load_int(geometry, HEAD + (WAYS + k) * padded + lane)
    return Operand(pointer, offsets, load_int(geometry, X_STEP + k), way)


@inlined
def put_rows(tile, k, j, way, rows):
    """Store 8 rows of 8 series, from the k-th on or back from there."""
    row = width(tile) * way
    at = k * width(tile) + j
    store_vector(tile, at, rows[0])
    store_vector(tile, at + row, rows[1])
    store_vector(tile, at + 2 * row, rows[2])
    store_vector(tile, at + 3 * row, rows[3])
    store_vector(tile, at + 4 * row, rows[4])
    store_vector(tile, at + 5 * row, rows[5])
    store_vector(tile, at + 6 * row, rows[6])
    store_vector(tile, at + 7 * row, rows[7])


@helper
def fill_blocks(tile, x, t, steps):
    """Fill whole blocks of a tile; return how many steps these are."""
    lanes, whole = width(tile), steps // OCTET * OCTET
    for j in range(0, lanes, OCTET):
        offsets = shift(x.offsets, 8 * j)
        for k in range(0, whole, OCTET):
            if x.way == BLOCKS:
                put_rows(tile, k, j, ONE, load_octet(shift(x.at, (t + k) * x.step), offsets, tile))
            else:
                last = k + OCTET - 1
                put_rows(tile, last, j, -ONE, load_octet(shift(x.at, (t + last) * x.step), offsets, tile))
    return whole


@helper
def fill(tile, x, t, steps):
    """Bring some steps of a vector of series to a tile."""
    lanes, done = width(tile), ZERO
    if x.way == ROWS:
        row = shift(x.at, load_int(x.offsets, 0) + t * x.step)
        for k in range(steps):
            prefetch(row, 0, (k + STEPS) * x.step)
            store_vector(tile, k * lanes, load_vector(shift(row, k * x.step), 0, tile))
        return
    if x.way != SINGLE:
        done = fill_blocks(tile, x, t, steps)
    for j in range(lanes):
        series = shift(x.at, load_int(x.offsets, j) + t * x.step)
        for k in range(done, steps):
            store(tile, k * lanes + j, load(shift(series, k * x.step), 0, tile))


@inlined
def rows_of(tile, k, j, way):
    """Return what `put_rows` stores."""
    row = width(tile) * way
    at = k * width(tile) + j
    return (
        load_half_vector(tile, at, tile), load_half_vector(tile, at + row, tile),
        load_half_vector(tile, at + 2 * row, tile), load_half_vector(tile, at + 3 * row, tile),
        load_half_vector(tile, at + 4 * row, tile), load_half_vector(tile, at + 5 * row, tile),
        load_half_vector(tile, at + 6 * row, tile), load_half_vector(tile, at + 7 * row, tile),
    )  # fmt: skip


@helper
def drain_blocks(y, tile, t, steps):
    """Write whole blocks of a tile; return how many steps these are."""
    whole = steps // OCTET * OCTET
    for j in range(0, width(tile), OCTET):
        offsets = shift(y.offsets, 8 * j)
        for k in range(0, whole, OCTET):
            if y.way == BLOCKS:
                store_octet(shift(y.at, (t + k) * y.step), offsets, rows_of(tile, k, j, ONE))
            else:
                last = k + OCTET - 1
                store_octet(shift(y.at, (t + last) * y.step), offsets, rows_of(tile, last, j, -ONE))
    return whole


@helper
def drain(y, tile, t, steps):
    """Write a tile."""
    lanes, done = width(tile), ZERO
    if y.way == ROWS:
        row = shift(y.at, load_int(y.offsets, 0) + t * y.step)
        for k in range(steps):
            prefetch_for_write(row, 0, (k + STEPS) * y.step)
            store_vector(shift(row, k * y.step), 0, load_vector(tile, k * lanes, tile))
        return
    if y.way != SINGLE:
        done = drain_blocks(y, tile, t, steps)
    for j in range(lanes):
        series = shift(y.at, load_int(y.offsets, j) + t * y.step)
        for k in range(done, steps):
            store(shift(series, k * y.step), 0, load(tile, k * lanes + j, tile))


# ---- Coefficients ---------------------------------------------------------------------------------------------------


@inlined
def coefficient(rule, at, place, padded, lane, tile):
    if has_own(rule):
        return load_vector(at, place * padded + lane, tile)
    return constant(load(at, place, tile), load_vector(tile, 0, tile))


@inlined
def section_of(rule, here, s, padded, tile):
    """Return a section's coefficients, of those that do not vary in time."""
    at, n, lane = here.coefficients.at, s * FIELDS, here.lane
    return sections.Section(
        coefficient(rule, at, n + 0, padded, lane, tile), coefficient(rule, at, n + 1, padded, lane, tile),
        coefficient(rule, at, n + 2, padded, lane, tile), coefficient(rule, at, n + 3, padded, lane, tile),
        coefficient(rule, at, n + 4, padded, lane, tile), coefficient(rule, at, n + 5, padded, lane, tile),
    )  # fmt: skip


@helper
def fill_fields(fields, here, s, t, steps):
    """Bring the coefficients of a section and some steps, which vary in time, to a buffer (steps, fields, series)."""
    lanes, x = width(fields), here.coefficients
    for j in range(lanes):
        series = shift(x.at, load_int(x.offsets, j) + t * x.step + s * FIELDS * itemsize(x.at))
        for k in range(steps):
            for field in range(FIELDS):
                store(fields, (k * FIELDS + field) * lanes + j, load(shift(series, k * x.step), field, fields))


@inlined
def section_at(rule, fields, k, steady, tile):
    """Return a section's coefficients at a step of a tile."""
    if not varies(rule):
        return steady
    row, sign = width(tile), steady.sign
    at = shift(fields, k * FIELDS * row * itemsize(fields))
    b0, b1, b2 = load_vector(at, 0, tile), load_vector(at, row, tile), load_vector(at, 2 * row, tile)
    a1, a2 = load_vector(at, 4 * row, tile), load_vector(at, 5 * row, tile)
    return form(b0, b1, b2, a1, a2, sign)


@inlined
def steady_of(rule, here, s, padded, tile):
    """Return what does not vary in time: all of a section, or its sign."""
    if varies(rule):
        sign = load_vector(here.signs, s * padded + here.lane, tile)
        return sections.Section(sign, sign, sign, sign, sign, sign)
    return section_of(rule, here, s, padded, tile)


form = inlined(sections.form)


# ---- Forward --------------------------------------------------------------------------------------------------------


@helper
def run_block(tile, k, at, p, q):
    """Take 8 steps of one series through a section at once; return the state after them. See `filters._blocks`."""
    wide = octet(tile)
    v = load_vector(tile, k, wide)
    r, s = total(load_vector(at, 2 * OCTET, wide) * v), total(load_vector(at, 3 * OCTET, wide) * v)
    y = fma(load_vector(at, 0, wide), constant(p, v), load_vector(at, OCTET, wide) * constant(q, v))
    for j in range(OCTET):
        y = fma(load_vector(at, (4 + j) * OCTET, wide), constant(load(tile, k + j, tile), v), y)
    store_vector(tile, k, y)
    powers = shift(at, (4 + OCTET) * OCTET * itemsize(at))
    return (
        fma(load(powers, 0, tile), p, fma(load(powers, 1, tile), q, r)),
        fma(load(powers, 2, tile), p, fma(load(powers, 3, tile), q, s)),
    )


@helper
def run_blocks(rule, tile, outputs, fields, here, geometry, t, steps):
    """Take one series' tile through all sections, 8 steps at once where their inputs are finite."""
    count, padded, carry = load_int(geometry, N_SECTIONS), load_int(geometry, PADDED), here.carry
    for n in range(count):
        at = shift(here.coefficients.at, n * FIELDS * itemsize(tile))
        blocks = shift(here.coefficients.at, (count * FIELDS + n * BLOCK) * itemsize(tile))
        b0, e, d, f = load(at, 0, tile), load(at, 1, tile), load(at, 2, tile), load(at, 3, tile)
        k = sections.Section(b0, e, d, f, load(at, 4, tile), load(at, 5, tile))
        p_at, q_at = 2 * n * padded + here.lane, (2 * n + 1) * padded + here.lane
        p, q = load(carry, p_at, tile), load(carry, q_at, tile)
        for first in range(0, steps, OCTET):
            if first + OCTET <= steps and all_finite(load_vector(tile, first, octet(tile))):
                p, q = run_block(tile, first, blocks, p, q)
            else:
                for i in range(first, minimum(first + OCTET, steps)):
                    y, p, q = section(load(tile, i, tile), p, q, k)
                    store(tile, i, y)
        store(carry, p_at, p)
        store(carry, q_at, q)


@helper
def run_steps(rule, tile, outputs, fields, here, geometry, t, steps):
    """Take a tile through all sections; each one's outputs go to the next tile of ``outputs``, which may be one."""
    lanes, padded, inputs = width(tile), load_int(geometry, PADDED), tile
    for s in range(load_int(geometry, N_SECTIONS)):
        steady = steady_of(rule, here, s, padded, tile)
        if varies(rule):
            fill_fields(fields, here, s, t, steps)
        p_at, q_at = 2 * s * padded + here.lane, (2 * s + 1) * padded + here.lane
        p, q = load_vector(here.carry, p_at, tile), load_vector(here.carry, q_at, tile)
        to = shift(tile, (s + 1) * outputs)
        for k in range(steps):
            v = load_vector(inputs, k * lanes, tile)
            y, p, q = section(v, p, q, section_at(rule, fields, k, steady, tile))
            store_vector(to, k * lanes, y)
        store_vector(here.carry, p_at, p)
        store_vector(here.carry, q_at, q)
        inputs = to


@inlined
def any_coefficient(rule, here, fields, s, n, order, padded):
    """Return a coefficient of a section of any order: of b0, ..., a0, ..., the n-th; see `bring`."""
    if varies(rule):
        return load_vector(fields, n * width(fields), fields)
    return coefficient(rule, here.coefficients.at, s * 2 * (order + 1) + n, padded, here.lane, fields)


@helper
def bring(rule, fields, here, s, order, t):
    """Bring a section's coefficients at a step to a buffer (fields, series), if they vary in time."""
    if varies(rule):
        lanes, x, count = width(fields), here.coefficients, 2 * (order + 1)
        for j in range(lanes):
            step = shift(x.at, load_int(x.offsets, j) + t * x.step)
            for n in range(count):
                store(fields, n * lanes + j, load(step, s * count + n, fields))


@helper
def run_any(rule, tile, outputs, fields, here, geometry, t, steps):
    """Take a tile through sections of any order, in the transposed direct form."""
    lanes, padded, order, inputs = width(tile), load_int(geometry, PADDED), load_int(geometry, ORDER), tile
    for s in range(load_int(geometry, N_SECTIONS)):
        z, to = shift(here.carry, (s * order * padded + here.lane) * itemsize(tile)), shift(tile, (s + 1) * outputs)
        for k in range(steps):
            bring(rule, fields, here, s, order, t + k)
            v = load_vector(inputs, k * lanes, tile)
            y = fma(any_coefficient(rule, here, fields, s, 0, order, padded), v, load_vector(z, 0, tile))
            for n in range(1, order + 1):
                b = any_coefficient(rule, here, fields, s, n, order, padded)
                a = any_coefficient(rule, here, fields, s, order + 1 + n, order, padded)
                after = load_vector(z, n * padded, tile) if n < order else constant(0.0, v)
                store_vector(z, (n - 1) * padded, fma(b, v, fma(-a, y, after)))
            store_vector(to, k * lanes, y)
        inputs = to


run_tile = choice("any_order", run_any, choice("blocks", run_blocks, run_steps))
run_all = choice("any_order", run_any, run_steps)  # with each section's outputs kept


@helper
def walk_steps(rule, tile, fields, x, y, here, geometry, first, last):
    """Take some steps of a vector of series through the filter."""
    for t in range(first, last, STEPS):
        steps = minimum(STEPS, last - t)
        fill(tile, x, t, steps)
        run_tile(rule, tile, ZERO, fields, here, geometry, t, steps)
        drain(y, tile, t, steps)


@inlined
def counts_at(geometry, lane):
    return shift(geometry, 8 * (HEAD + COUNTS * load_int(geometry, PADDED) + lane))


@helper
def least_of(counts, lanes):
    least = load_int(counts, 0)
    for j in range(1, lanes):
        least = minimum(least, load_int(counts, j))
    return least


@inlined
def series_at(coefficients, signs, carry, geometry, lane, lanes):
    own = operand(coefficients, geometry, COEFFICIENTS, lane, lanes)
    return Series(own, signs, carry, lane)


@helper
def walk_vector(rule, tile, fields, x, y, coefficients, signs, carry, geometry, lane, first, last):
    """Take some steps of a vector of series, or of one, through the filter."""
    lanes = width(tile)
    xs, ys = operand(x, geometry, X, lane, lanes), operand(y, geometry, Y, lane, lanes)
    here = series_at(coefficients, signs, carry, geometry, lane, lanes)
    walk_steps(rule, tile, fields, xs, ys, here, geometry, first, last)


@inlined
def as_one(rule, carry):
    return alone(carry)


@inlined
def as_octet(rule, carry):
    return octet(carry)


@inlined
def as_vector(rule, carry):
    return carry


sized = choice("alone", as_one, choice("octet", as_octet, as_vector))  # a buffer with rows of so many series


def walk(rule, x, y, coefficients, signs, carry, geometry, first, last):
    """Filter series ``first`` to ``last``, a multiple of the width apart.

    A vector of series goes as far as the first of them ends; then each goes to its end.
    """
    tile, fields = sized(rule, stack(carry, TILE)), sized(rule, stack(carry, ALL_FIELDS))
    lanes, steps, chunk = width(tile), ZERO, load_int(geometry, CHUNK)
    for lane in range(first, last, lanes):
        steps = maximum(steps, least_of(counts_at(geometry, lane), lanes))
    for begin in range(0, steps, chunk):
        for lane in range(first, last, lanes):
            end = minimum(begin + chunk, least_of(counts_at(geometry, lane), lanes))
            if begin < end:
                walk_vector(rule, tile, fields, x, y, coefficients, signs, carry, geometry, lane, begin, end)
    for lane in range(first, minimum(last, load_int(geometry, N_SERIES))):
        least, end = least_of(counts_at(geometry, lane - lane % lanes), lanes), load_int(counts_at(geometry, lane), 0)
        if least < end:
            one, own = alone(tile), alone(fields)
            walk_vector(rule, one, own, x, y, coefficients, signs, carry, geometry, lane, least, end)

"""The kernels of filters: of a cascade of sections, or of poles alone.

A vector of series is taken a tile of steps at a time: each section goes through it in turn with its state in registers.
Series that end earlier than others go on one by one.
"""

from ..._steps import sections
from ..._steps.recurrence import all_finite, constant, fma
from ..compiler.numba_internals import helper, inlined
from ..vectors.scalars import (
    alone,
    fence,
    itemsize,
    load,
    load_int,
    maximum,
    minimum,
    octet,
    shift,
    stack,
    store,
    width,
)  # fmt: skip
from ..vectors.types import OCTET
from ..vectors.vectors import load_vector, store_vector, total
from .operands import ZERO
from .poles import run_poles
from .rules import choice
from .tiles import (
    ALL_FIELDS,
    BLOCK,
    CHUNK,
    FIELDS,
    N_SECTIONS,
    N_SERIES,
    ORDER,
    PADDED,
    STEPS,
    TILE,
    X,
    Y,
    any_coefficient,
    counts_at,
    drain,
    fill,
    fill_fields,
    least_of,
    operand,
    section,
    section_at,
    series_at,
    steady_of,
    varies,
)  # fmt: skip


def plain(x, sos, z, y):
    """Compute what `walk` does, of arrays (steps, series): SciPy's form, with its state ``z`` (sections, 2, series)."""
    for t in range(len(x)):
        v = x[t]
        for (b0, b1, b2, _, a1, a2), s in zip(sos, z, strict=True):
            w = b0 * v + s[0]
            s[0], s[1], v = b1 * v - a1 * w + s[1], b2 * v - a2 * w, w
        y[t] = v


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
        fma(load(powers, 4, tile), q, fma(load(powers, 2, tile), p, fma(load(powers, 3, tile), q, s))),
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


run_tile = choice("poles", run_poles, choice("any_order", run_any, choice("blocks", run_blocks, run_steps)))
run_all = choice("any_order", run_any, run_steps)  # with each section's outputs kept


@helper
def walk_steps(rule, tile, fields, x, y, here, geometry, first, last):
    """Take some steps of a vector of series through the filter."""
    for t in range(first, last, STEPS):
        steps = minimum(STEPS, last - t)
        fill(tile, x, t, steps, STEPS)
        run_tile(rule, tile, ZERO, fields, here, geometry, t, steps)
        drain(y, tile, t, steps)


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
    fence()

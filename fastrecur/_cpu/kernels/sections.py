"""The kernels of filters: of a cascade of sections, or of poles alone.

A vector of series is taken a tile of steps at a time: each section goes through it in turn with its state in registers.
Series that end earlier than others go on one by one.
"""

from ..._plan.fields.tiles import CHUNK, FIELDS, N_SECTIONS, N_SERIES, ORDER, OWN, PADDED, STEPS, X, Y
from ..._plan.widths import OCTET
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
from ..vectors.vectors import load_vector, store_vector, total
from .operands import ZERO
from .poles import run_poles
from .rules import choice
from .tiles import (
    ALL_FIELDS,
    BLOCK,
    TILE,
    any_coefficient,
    bring,
    counts_at,
    drain,
    fill,
    least_of,
    operand,
    rows_in,
    section,
    section_at,
    series_at,
    steady_of,
    together,
)


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
def run_second(rule, inputs, to, rows, here, geometry, s, steps):
    """Take some steps through a section of second order."""
    lanes, padded = width(inputs), load_int(geometry, PADDED)
    steady = steady_of(rule, here, s, padded, inputs)
    p_at, q_at = 2 * s * padded + here.lane, (2 * s + 1) * padded + here.lane
    p, q = load_vector(here.carry, p_at, inputs), load_vector(here.carry, q_at, inputs)
    for k in range(steps):
        y, p, q = section(load_vector(inputs, k * lanes, inputs), p, q, section_at(rule, rows, k, steady, inputs))
        store_vector(to, k * lanes, y)
    store_vector(here.carry, p_at, p)
    store_vector(here.carry, q_at, q)


@helper
def run_any(rule, inputs, to, rows, here, geometry, s, steps):
    """Take some steps through a section of any order, in the transposed direct form."""
    lanes, padded, order = width(inputs), load_int(geometry, PADDED), load_int(geometry, ORDER)
    z, place = shift(here.carry, (s * order * padded + here.lane) * itemsize(inputs)), s * 2 * (order + 1)
    for k in range(steps):
        at, v = shift(rows.at, k * rows.step), load_vector(inputs, k * lanes, inputs)
        y = fma(any_coefficient(rule, here, at, ZERO, place, padded, inputs), v, load_vector(z, 0, inputs))
        for n in range(1, order + 1):
            b = any_coefficient(rule, here, at, n, place + n, padded, inputs)
            a = any_coefficient(rule, here, at, order + 1 + n, place + order + 1 + n, padded, inputs)
            after = load_vector(z, n * padded, inputs) if n < order else constant(0.0, v)
            store_vector(z, (n - 1) * padded, fma(b, v, fma(-a, y, after)))
        store_vector(to, k * lanes, y)


run_section = choice("any_order", run_any, run_second)


@helper
def run_all(rule, tile, outputs, fields, here, geometry, t, steps):
    """Take a tile through all sections; each one's outputs go to the next tile of ``outputs``, which may be one."""
    own, row = load_int(geometry, OWN), width(tile) * itemsize(tile)
    count, most = together(rule, geometry)
    for begin in range(0, load_int(geometry, N_SECTIONS), count):
        for k in range(0, steps, most):
            some = minimum(most, steps - k)
            bring(rule, fields, here.coefficients, geometry, begin * own, count * own, t + k, some, STEPS)
            for s in range(begin, begin + count):
                rows = rows_in(fields, geometry, count * own, (s - begin) * own, some)
                inputs = shift(tile, s * outputs + k * row)
                run_section(rule, inputs, shift(inputs, outputs), rows, here, geometry, s, some)


run_tile = choice("poles", run_poles, choice("blocks", run_blocks, run_all))


@helper
def walk_vector(rule, tile, fields, x, y, coefficients, signs, carry, geometry, lane, first, last):
    """Take some steps of a vector of series, or of one, through the filter."""
    lanes = width(tile)
    xs, ys = operand(x, geometry, X, lane, lanes), operand(y, geometry, Y, lane, lanes)
    here = series_at(coefficients, signs, carry, geometry, lane, lanes)
    for t in range(first, last, STEPS):
        steps = minimum(STEPS, last - t)
        fill(tile, xs, t, steps, STEPS)
        run_tile(rule, tile, ZERO, fields, here, geometry, t, steps)
        drain(ys, tile, t, steps)


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

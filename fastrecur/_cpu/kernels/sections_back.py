"""The gradient of a cascade: against time, of the signals between sections, which are computed again tile by tile.

A first scan keeps the states before each tile. Then the tiles are taken from the last one to the first: forward through
all sections with each one's output kept, and back through them.
"""

from collections import namedtuple

from ..._plan.fields.tiles import GRADIENTS, GRADS, N_SECTIONS, N_SERIES, ORDER, OWN, PADDED, STEPS, G, X, Y
from ..._steps import sections
from ..._steps.recurrence import constant, fma, select
from ..compiler.numba_internals import helper, inlined
from ..vectors.scalars import alone, fence, itemsize, load_int, maximum, minimum, shift, stack, width
from ..vectors.vectors import load_vector, store_vector
from .operands import ZERO
from .poles import back_poles
from .rules import choice
from .sections import run_all, sized
from .tiles import (
    ALL_FIELDS,
    any_coefficient,
    bring,
    counts_at,
    drain,
    fill,
    least_of,
    operand,
    rows_in,
    section_at,
    series_at,
    steady_of,
    take_away,
    together,
    varies,
)

section_adjoint = inlined(sections.section_adjoint)

# Pointers: the input and its cotangents, the output's, gradients of coefficients that vary in time; these, and the
# signs; states before all steps, and cotangents of those after them, which become those of the former; sums of a
# section's gradients; room for states before tiles, and for tiles.
Operands = namedtuple("Operands", "x y g grads coefficients signs carry adjoint sums kept")


def plain(g, x, z, sos, adjoint, grad_x, sums):
    """Compute what `walk` does for one section, of arrays (steps, series), in SciPy's form.

    ``z`` is the state (2, series) before all steps, ``adjoint`` its cotangent, at first that after all steps; ``sums``
    are the gradients of b0, b1, b2, a1 and a2.
    """
    b0, b1, b2, _, a1, a2 = sos
    y = x * 0
    for t in range(len(x)):
        y[t] = b0 * x[t] + z[0]
        z[0], z[1] = b1 * x[t] - a1 * y[t] + z[1], b2 * x[t] - a2 * y[t]
    for t in range(len(x) - 1, -1, -1):
        first, second = adjoint.copy()
        now = g[t] - a1 * first - a2 * second
        grad_x[t] = b0 * now + b1 * first + b2 * second
        for k, product in enumerate((now * x[t], first * x[t], second * x[t], -first * y[t], -second * y[t])):
            sums[k] += product
        adjoint[0], adjoint[1] = now, first


@helper
def move_states(to, row_to, source, row, count):
    """Copy rows of states of a vector of series."""
    for n in range(count):
        store_vector(to, n * row_to, load_vector(source, n * row, to))


@inlined
def nothing(like):
    return select(like < like, like, constant(0.0, like))


@inlined
def add_to(rule, at, n, sums, place, value):
    """Write a coefficient's gradient in its place where coefficients vary in time, or add to its sum."""
    if varies(rule):
        store_vector(at, n * width(at), value)
    else:
        store_vector(sums, place, load_vector(sums, place, at) + value)


@helper
def back_any(rule, inputs, outputs, g, rows, sums, adjoint, here, geometry, s, steps):
    """Do what `back_second` does for a section of any order, whose form is the transposed one."""
    row, padded, order = width(g), load_int(geometry, PADDED), load_int(geometry, ORDER)
    first, middle = s * 2 * (order + 1), order + 1
    later, own_sums = (
        shift(adjoint, (s * order * padded + here.lane) * itemsize(g)),
        shift(sums, here.lane * itemsize(g)),
    )
    for k in range(steps - 1, -1, -1):
        at, v, y = shift(rows.at, k * rows.step), load_vector(inputs, k * row, g), load_vector(outputs, k * row, g)
        now = load_vector(g, k * row, g)
        for n in range(1, order + 1):
            a = any_coefficient(rule, here, at, middle + n, first + middle + n, padded, g)
            now = fma(-a, load_vector(later, (n - 1) * padded, g), now)
        to_v, before = any_coefficient(rule, here, at, ZERO, first, padded, g) * now, now
        add_to(rule, at, ZERO, own_sums, first * padded, now * v)
        add_to(rule, at, middle, own_sums, (first + middle) * padded, nothing(v))
        for n in range(1, order + 1):
            own = load_vector(later, (n - 1) * padded, g)
            to_v = fma(any_coefficient(rule, here, at, n, first + n, padded, g), own, to_v)
            add_to(rule, at, n, own_sums, (first + n) * padded, own * v)
            add_to(rule, at, middle + n, own_sums, (first + middle + n) * padded, -(own * y))
            store_vector(later, (n - 1) * padded, before)
            before = own
        store_vector(g, k * row, to_v)


@helper
def back_second(rule, inputs, outputs, g, rows, sums, adjoint, here, geometry, s, steps):
    """Take cotangents of a section's outputs at some steps back to those of its inputs; ``rows`` become gradients."""
    row, padded, lane = width(g), load_int(geometry, PADDED), here.lane
    steady = steady_of(rule, here, s, padded, g)
    p_at, q_at = 2 * s * padded + lane, (2 * s + 1) * padded + lane
    p, q = load_vector(adjoint, p_at, g), load_vector(adjoint, q_at, g)
    own = shift(sums, (s * GRADIENTS * padded + lane) * itemsize(sums))
    in_b0, in_e, in_d = load_vector(own, 0, g), load_vector(own, padded, g), load_vector(own, 2 * padded, g)
    in_f, in_c = load_vector(own, 3 * padded, g), load_vector(own, 4 * padded, g)
    for k in range(steps - 1, -1, -1):
        v, y = load_vector(inputs, k * row, g), load_vector(outputs, k * row, g)
        form = section_at(rule, rows, k, steady, g)
        now, to_v, p_before, q_before = section_adjoint(load_vector(g, k * row, g), p, q, form)
        if varies(rule):
            at, first = shift(rows.at, k * rows.step), p + form.sign * q
            store_vector(at, 0, (now + form.sign * first) * v)
            store_vector(at, row, first * v)
            store_vector(at, 2 * row, q * v)
            store_vector(at, 3 * row, nothing(v))
            store_vector(at, 4 * row, -(first * y))
            store_vector(at, 5 * row, -(q * y))
        else:
            in_b0, in_e, in_d = fma(now, v, in_b0), fma(p, v, in_e), fma(q, v, in_d)
            in_f, in_c = fma(p, y, in_f), fma(q, y, in_c)
        store_vector(g, k * row, to_v)
        p, q = p_before, q_before
    store_vector(adjoint, p_at, p)
    store_vector(adjoint, q_at, q)
    store_vector(own, 0, in_b0)
    store_vector(own, padded, in_e)
    store_vector(own, 2 * padded, in_d)
    store_vector(own, 3 * padded, in_f)
    store_vector(own, 4 * padded, in_c)


back_section = choice("any_order", back_any, back_second)


@helper
def back_all(rule, inputs, outputs, tile, fields, at, here, grads, geometry, t, steps):
    """Take a tile of cotangents back through all sections, of which ``inputs`` are followed by all outputs."""
    own, row = load_int(geometry, OWN), width(tile) * itemsize(tile)
    count, most = together(rule, geometry)
    for begin in range(load_int(geometry, N_SECTIONS) - count, -1, -count):
        for k in range((steps - 1) // most * most, -1, -most):
            some, first, numbers = minimum(most, steps - k), begin * own, count * own
            bring(rule, fields, here.coefficients, geometry, first, numbers, t + k, some, -STEPS)
            for s in range(begin + count - 1, begin - 1, -1):
                before, g = shift(inputs, s * outputs + k * row), shift(tile, k * row)
                rows, after = rows_in(fields, geometry, numbers, (s - begin) * own, some), shift(before, outputs)
                back_section(rule, before, after, g, rows, at.sums, at.adjoint, here, geometry, s, some)
            take_away(rule, grads, fields, geometry, first, numbers, t + k, some)


@helper
def back_cascade(rule, kept, fields, at, geometry, lane):
    """Take a vector of series, or one, forward and back."""
    row, padded, count = width(kept), load_int(geometry, PADDED), load_int(geometry, N_SECTIONS)
    xs, ys = operand(at.x, geometry, X, lane, row), operand(at.y, geometry, Y, lane, row)
    gs, to = operand(at.g, geometry, G, lane, row), operand(at.grads, geometry, GRADS, lane, row)
    here = series_at(at.coefficients, at.signs, at.carry, geometry, lane, row)
    planes = count * load_int(geometry, ORDER)
    steps, states = load_int(counts_at(geometry, lane), 0), shift(at.carry, lane * itemsize(at.carry))
    tiles, size = (steps + STEPS - 1) // STEPS, itemsize(kept)
    inputs = shift(kept, tiles * planes * row * size)
    outputs = STEPS * row * size
    tile = shift(inputs, (count + 1) * outputs)
    for n in range(tiles):
        move_states(shift(kept, n * planes * row * size), row, states, padded, planes)
        if n + 1 < tiles:
            fill(inputs, xs, n * STEPS, STEPS, STEPS)
            run_all(rule, inputs, ZERO, fields, here, geometry, n * STEPS, STEPS)
    for n in range(tiles - 1, -1, -1):
        t, last = n * STEPS, minimum(STEPS, steps - n * STEPS)
        for s in range(planes):
            before = load_vector(kept, (n * planes + s) * row, kept)
            store_vector(states, s * padded, before)
        fill(inputs, xs, t, last, -STEPS)
        run_all(rule, inputs, outputs, fields, here, geometry, t, last)
        fill(tile, gs, t, last, -STEPS)
        back_all(rule, inputs, outputs, tile, fields, at, here, to, geometry, t, last)
        drain(ys, tile, t, last)


back_vector = choice("poles", back_poles, back_cascade)


def walk(rule, at: Operands, geometry, first, last):
    """Take series ``first`` to ``last``, a multiple of the width apart, forward and back.

    Series of one vector that end unevenly go one by one.
    """
    own, fields = sized(rule, at.kept), sized(rule, stack(at.carry, ALL_FIELDS))
    lanes = width(own)
    for lane in range(first, last, lanes):
        counts = counts_at(geometry, lane)
        least, most = least_of(counts, lanes), ZERO
        for j in range(lanes):
            most = maximum(most, load_int(counts, j))
        if least == most:
            back_vector(rule, own, fields, at, geometry, lane)
        else:
            for j in range(lane, minimum(lane + lanes, load_int(geometry, N_SERIES))):
                back_vector(rule, alone(own), alone(fields), at, geometry, j)
    fence()

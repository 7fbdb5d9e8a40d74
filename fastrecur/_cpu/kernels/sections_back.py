"""The gradient of a cascade: against time, of the signals between sections, which are computed again tile by tile.

A first scan keeps the states before each tile. Then the tiles are taken from the last one to the first: forward through
all sections with each one's output kept, and back through them.
"""

from collections import namedtuple

from ..._steps import sections
from ..._steps.recurrence import fma
from ..compiler.numba_internals import helper, inlined
from ..vectors.scalars import alone, fence, itemsize, load, load_int, maximum, minimum, shift, stack, store, width
from ..vectors.types import WIDTH
from ..vectors.vectors import load_vector, store_vector
from .operands import ZERO
from .poles import back_poles
from .rules import choice
from .sections import bring, run_all, sized
from .tiles import (
    ALL_FIELDS,
    FIELDS,
    GRADIENTS,
    GRADS,
    N_SECTIONS,
    N_SERIES,
    ORDER,
    PADDED,
    STEPS,
    G,
    X,
    Y,
    any_coefficient,
    counts_at,
    drain,
    fill,
    fill_fields,
    least_of,
    operand,
    section_at,
    series_at,
    steady_of,
    varies,
)  # fmt: skip

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


@helper
def write_fields(grads, lanes, t, s, field, value, room):
    """Write the gradients of a field of a section at a step, one for each series."""
    store_vector(room, 0, value)
    for j in range(lanes):
        place = shift(grads.at, load_int(grads.offsets, j) + t * grads.step)
        store(place, s * FIELDS + field, load(room, j, room))


@helper
def add_to(rule, grads, sums, lanes, place, t, value, room, padded, lane):
    """Add to a coefficient's gradient, or write it where coefficients vary in time."""
    if varies(rule):
        store_vector(room, 0, value)
        for j in range(lanes):
            store(shift(grads.at, load_int(grads.offsets, j) + t * grads.step), place, load(room, j, room))
    else:
        store_vector(sums, place * padded + lane, load_vector(sums, place * padded + lane, room) + value)


@helper
def back_any(rule, inputs, g, fields, sums, adjoint, here, grads, geometry, s, t, steps):
    """Do what `back_section` does for a section of any order, whose form is the transposed one."""
    row, padded, order = width(g), load_int(geometry, PADDED), load_int(geometry, ORDER)
    outputs, lane, first = shift(inputs, STEPS * row * itemsize(inputs)), here.lane, s * 2 * (order + 1)
    later, room = shift(adjoint, (s * order * padded + lane) * itemsize(g)), stack(g, WIDTH)
    for k in range(steps - 1, -1, -1):
        bring(rule, fields, here, s, order, t + k)
        v, y, now = load_vector(inputs, k * row, g), load_vector(outputs, k * row, g), load_vector(g, k * row, g)
        for n in range(1, order + 1):
            a = any_coefficient(rule, here, fields, s, order + 1 + n, order, padded)
            now = fma(-a, load_vector(later, (n - 1) * padded, g), now)
        to_v = any_coefficient(rule, here, fields, s, 0, order, padded) * now
        add_to(rule, grads, sums, row, first, t + k, now * v, room, padded, lane)
        before = now
        for n in range(1, order + 1):
            own = load_vector(later, (n - 1) * padded, g)
            to_v = fma(any_coefficient(rule, here, fields, s, n, order, padded), own, to_v)
            add_to(rule, grads, sums, row, first + n, t + k, own * v, room, padded, lane)
            add_to(rule, grads, sums, row, first + order + 1 + n, t + k, -(own * y), room, padded, lane)
            store_vector(later, (n - 1) * padded, before)
            before = own
        store_vector(g, k * row, to_v)


@helper
def back_second(rule, inputs, g, fields, sums, adjoint, here, grads, geometry, s, t, steps):
    """Take cotangents of a section's outputs, a tile, back to those of its inputs; its outputs follow the inputs."""
    row, padded = width(g), load_int(geometry, PADDED)
    outputs, lane, room = shift(inputs, STEPS * row * itemsize(inputs)), here.lane, stack(here.carry, 16)
    steady = steady_of(rule, here, s, padded, g)
    if varies(rule):
        fill_fields(fields, here, s, t, steps)
    p_at, q_at = 2 * s * padded + lane, (2 * s + 1) * padded + lane
    p, q = load_vector(adjoint, p_at, g), load_vector(adjoint, q_at, g)
    own = shift(sums, (s * GRADIENTS * padded + lane) * itemsize(sums))
    in_b0, in_e, in_d = load_vector(own, 0, g), load_vector(own, padded, g), load_vector(own, 2 * padded, g)
    in_f, in_c = load_vector(own, 3 * padded, g), load_vector(own, 4 * padded, g)
    for k in range(steps - 1, -1, -1):
        v, y = load_vector(inputs, k * row, g), load_vector(outputs, k * row, g)
        form = section_at(rule, fields, k, steady, g)
        now, to_v, p_before, q_before = section_adjoint(load_vector(g, k * row, g), p, q, form)
        if varies(rule):
            first = p + form.sign * q
            write_fields(grads, row, t + k, s, 0, (now + form.sign * first) * v, room)
            write_fields(grads, row, t + k, s, 1, first * v, room)
            write_fields(grads, row, t + k, s, 2, q * v, room)
            write_fields(grads, row, t + k, s, 4, -(first * y), room)
            write_fields(grads, row, t + k, s, 5, -(q * y), room)
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
        for s in range(count - 1, -1, -1):
            before = shift(inputs, s * outputs)
            back_section(rule, before, tile, fields, at.sums, at.adjoint, here, to, geometry, s, t, last)
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

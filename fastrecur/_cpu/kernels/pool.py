"""Kernels of the QRNN's pooling: activations, forget-mult and output gate in one pass over a layer's product.

A row of the product is one step of one sequence: WIDTH candidates Z, as many forget gates F, and output gates O if
there are any, before a bias is added and before their activations. With ``f = keep * sigmoid(F)``

    c[t] = f[t] * tanh(Z[t]) + (1 - f[t]) * c[t-1],    h[t] = sigmoid(O[t]) * c[t].

``starts`` holds for each step where its first row stands, then for each step the first sequence that has it, then for
each step the one past the last. Step t of sequence b stands ``starts[t]`` times an operand's step stride plus b times
its sequence stride. So padded batches, packed ones, and sequences one after the other are walked alike. The last
arguments say which sequences to walk, or which channels of all sequences.

``flags`` has a row of one byte: where it is not 0, no state passes between a step and the one before it in time.

Bradbury, Merity, Xiong, Socher: Quasi-Recurrent Neural Networks (arXiv 1611.01576), equations 3 and 4, with f and 1 - f
exchanged.
"""

from collections import namedtuple

import numpy as np

from ..._plan.fields.pool import (
    BATCH,
    BY_CHANNELS,
    FLAGS,
    GATED,
    HAS_FLAGS,
    HAS_G,
    KEEP,
    MASKED,
    N_STEPS,
    PREFETCH,
    PRODUCT,
    REVERSE,
    SAVES,
    STATES,
    TO_PRODUCT,
    WIDTH,
    G,
    H,
)
from ..._steps.pooling import pool, pool_adjoint, put_out, put_out_adjoint
from ..._steps.recurrence import constant
from ..compiler.numba_internals import helper, inlined
from ..vectors.scalars import itemsize, load, load_int, maximum, minimum, prefetch, shift, store, width
from ..vectors.vectors import broadcast, load_vector, store_vector
from .operands import ZERO, write_zeros


def plain(product, bias, keep, h, carry):
    """Compute what `forward` does with output gates, of arrays (steps, sequences, channels)."""
    for t, b, j in np.ndindex(h.shape):
        z, f, o = (product[t, b] + bias).reshape(3, -1)[:, j]
        carry[b, j] = pool(carry[b, j], z, f, keep)
        h[t, b, j] = put_out(carry[b, j], o)


def plain_vjp(g, product, keep, states, first, carry, to_product):
    """Compute what `vjp` does with output gates; ``carry`` are the last states' cotangents, then the first ones'."""
    for ago, b, j in np.ndindex(g.shape):
        t = len(g) - 1 - ago
        z, f, o = product[t, b].reshape(3, -1)[:, j]
        before = states[t - 1, b, j] if t > 0 else first[b, j]
        arrived, grad_o = put_out_adjoint(g[t, b, j], states[t, b, j], o)
        grad_z, grad_f, carry[b, j] = pool_adjoint(arrived + carry[b, j], z, f, keep, before)
        to_product[t, b].reshape(3, -1)[:, j] = grad_z, grad_f, grad_o


# What is to be walked: steps, sequences, channels.
Part = namedtuple("Part", "steps row_first row_last first channels size")
# A row of each operand, how many channels lie between blocks of the product, and flags.
Row = namedtuple("Row", "product bias keep h states carry size gated masked saves")
RowBack = namedtuple("RowBack", "g product keep now before carry to size gated masked has_g")


@inlined
def part_of(geometry, low, high):
    size = load_int(geometry, WIDTH)
    by_channels = load_int(geometry, BY_CHANNELS)
    rows = (0, load_int(geometry, BATCH)) if by_channels else (low, high)
    channels = (low, high) if by_channels else (0, size)
    return Part(load_int(geometry, N_STEPS), rows[0], rows[1], channels[0], channels[1] - channels[0], size)


@helper
def row_of(pointer, geometry, operand, start, b, channel):
    offset = start * load_int(geometry, operand) + b * load_int(geometry, operand + 1)
    return shift(pointer, offset + channel * itemsize(pointer))


@inlined
def sequences_of(starts, steps, t, part):
    """Return the sequences of a part that have a step, from the first to the one past the last."""
    first, stop = load_int(starts, steps + t), load_int(starts, 2 * steps + t)
    return maximum(part.row_first, first), minimum(part.row_last, stop)


@inlined
def begins_anew(flags, geometry, start, b, carry):
    """Return whether no state passes between a step and the one before it in time."""
    if not load_int(geometry, HAS_FLAGS):
        return False
    return constant(0.0, load(carry, ZERO, carry)) < load(row_of(flags, geometry, FLAGS, start, b, ZERO), ZERO, carry)


@inlined
def advance(get, put, row, j, factor):
    """Advance one channel or a vector of them: ``get`` loads, ``put`` stores. The factor is `keep`, if that is one."""
    product, bias, carry, f_at, o_at = row.product, row.bias, row.carry, j + row.size, j + 2 * row.size
    if row.masked:
        factor = get(row.keep, j, carry)
    z, f = get(product, j, carry) + get(bias, j, carry), get(product, f_at, carry) + get(bias, f_at, carry)
    new = pool(get(carry, j, carry), z, f, factor)
    put(carry, j, new)
    if row.saves:
        put(row.states, j, new)
    if row.gated:
        new = put_out(new, get(product, o_at, carry) + get(bias, o_at, carry))
    put(row.h, j, new)


@helper
def walk_row(step, row, channels, ahead):
    """Take a row to the next step, or to the one before: whole vectors, then channels one by one."""
    lanes, factor = width(row.carry), load(row.keep, 0, row.carry)
    stop = channels - channels % lanes
    for j in range(0, stop, lanes):
        for block in range(3 if row.gated else 2):
            prefetch(row.product, j + block * row.size, ahead)
        step(load_vector, store_vector, row, j, broadcast(factor))
    for j in range(stop, channels):
        step(load, store, row, j, factor)


def forward(product, bias, keep, h, states, flags, carry, starts, geometry, low, high):
    """Walk in scan order; ``carry`` holds the first states, then the last."""
    part, reverse = part_of(geometry, low, high), load_int(geometry, REVERSE)
    gated, masked, saves = load_int(geometry, GATED), load_int(geometry, MASKED), load_int(geometry, SAVES)
    first, steps, size = part.first, part.steps, part.size
    for k in range(steps):
        t = steps - 1 - k if reverse else k
        start = load_int(starts, t)
        row_low, row_high = sequences_of(starts, steps, t, part)
        for b in range(row_low, row_high):
            carry_row = shift(carry, (b * size + first) * itemsize(carry))
            begins = begins_anew(flags, geometry, start, b, carry)
            if begins and not reverse:
                write_zeros(carry_row, carry, part.channels)
            row = Row(
                row_of(product, geometry, PRODUCT, start, b, first), shift(bias, first * itemsize(bias)),
                row_of(keep, geometry, KEEP, start, b, first if masked else 0),
                row_of(h, geometry, H, start, b, first), row_of(states, geometry, STATES, start, b, first), carry_row,
                size, gated, masked, saves,
            )  # fmt: skip
            walk_row(advance, row, part.channels, load_int(geometry, PREFETCH))
            if begins and reverse:
                write_zeros(carry_row, carry, part.channels)


@inlined
def advance_back(get, put, row, j, factor):
    """Take one channel or a vector of them to the step before."""
    product, carry, f_at, o_at = row.product, row.carry, j + row.size, j + 2 * row.size
    cotangent = get(row.g, j, carry) if row.has_g else constant(0.0, factor)
    if row.masked:
        factor = get(row.keep, j, carry)
    if row.gated:
        cotangent, grad_o = put_out_adjoint(cotangent, get(row.now, j, carry), get(product, o_at, carry))
        put(row.to, o_at, grad_o)
    z, f = get(product, j, carry), get(product, f_at, carry)
    cotangent = cotangent + get(carry, j, carry)
    grad_z, grad_f, onward = pool_adjoint(cotangent, z, f, factor, get(row.before, j, carry))
    put(carry, j, onward)
    put(row.to, j, grad_z)
    put(row.to, f_at, grad_f)


def vjp(g, product, keep, states, first, flags, carry, to_product, starts, geometry, low, high):
    """Walk against scan order; ``carry`` holds the last states' cotangents, then the first states'.

    With flags ``first`` has a row of zeros behind the last.
    """
    part, reverse = part_of(geometry, low, high), load_int(geometry, REVERSE)
    gated, masked, has_g = load_int(geometry, GATED), load_int(geometry, MASKED), load_int(geometry, HAS_G)
    channel, steps, size = part.first, part.steps, part.size
    for k in range(steps):
        t = k if reverse else steps - 1 - k
        earlier = t + 1 if reverse else t - 1
        is_first = earlier < 0 or earlier >= steps
        start, earlier_start = load_int(starts, t), load_int(starts, t if is_first else earlier)
        earlier_low, earlier_high = sequences_of(starts, steps, t if is_first else earlier, part)
        row_low, row_high = sequences_of(starts, steps, t, part)
        for b in range(row_low, row_high):
            carry_row = shift(carry, (b * size + channel) * itemsize(carry))
            begins = begins_anew(flags, geometry, start, b, carry)
            if begins and reverse:
                write_zeros(carry_row, carry, part.channels)
            before, is_cut = row_of(states, geometry, STATES, earlier_start, b, channel), begins
            is_origin = is_first or b < earlier_low or b >= earlier_high
            if is_origin:
                before = shift(first, (b * size + channel) * itemsize(first))
            if reverse:
                is_cut = not is_origin and begins_anew(flags, geometry, earlier_start, b, carry)
            if is_cut:
                before = shift(first, (load_int(geometry, BATCH) * size + channel) * itemsize(first))
            row = RowBack(
                row_of(g, geometry, G, start, b, channel), row_of(product, geometry, PRODUCT, start, b, channel),
                row_of(keep, geometry, KEEP, start, b, channel if masked else 0),
                row_of(states, geometry, STATES, start, b, channel), before, carry_row,
                row_of(to_product, geometry, TO_PRODUCT, start, b, channel), size, gated, masked, has_g,
            )  # fmt: skip
            walk_row(advance_back, row, part.channels, load_int(geometry, PREFETCH))
            if begins and not reverse:
                write_zeros(carry_row, carry, part.channels)

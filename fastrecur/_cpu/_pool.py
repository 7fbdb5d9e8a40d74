"""Kernels of the QRNN's pooling: activations, forget-mult and output gate in one walk over a layer's product.

A row of the product is one step of one sequence: ``width`` candidates Z, as many forget gates F, and output gates O if
there are any, before a bias is added and before their activations. With ``f = keep * sigmoid(F)``

    c[t] = f[t] * tanh(Z[t]) + (1 - f[t]) * c[t-1],    h[t] = sigmoid(O[t]) * c[t].

Step t of sequence b stands ``starts[t]`` times an operand's first stride plus b times its second. So padded batches
and packed ones, where step t has only the first ``counts[t]`` sequences, are walked alike. The last arguments say which
sequences and which lanes of their rows to walk.

Bradbury, Merity, Xiong, Socher: Quasi-Recurrent Neural Networks (arXiv 1611.01576), equations 3 and 4, with f and 1 - f
exchanged.
"""

from .._pooling import pool, pool_adjoint, put_out, put_out_adjoint
from .._steps import constant
from ._memory import (
    broadcast,
    itemsize,
    load,
    load_int,
    load_vector,
    minimum,
    prefetch,
    shift,
    store,
    store_vector,
    width,
)
from ._numba import helper
from ._operands import write_zeros

# The head of `geometry`. `width`: lanes in a row; `gated`: there are output gates; `masked`: `keep` differs from lane
# to lane, else it is one number; `saves`: states are written too; `ahead`: how many bytes before its turn the
# product is asked for, since the prefetcher of the machine starts anew with each of a row's pieces. Then two strides in
# bytes for each operand, of a step and of a sequence.
GEOMETRY = ("steps", "reverse", "width", "gated", "masked", "saves", "ahead")
HEAD = len(GEOMETRY)
PRODUCT, KEEP, H, STATES, G, TO_PRODUCT = range(6)


@helper
def row_of(pointer, geometry, operand, start, b, lane):
    """Return where a row of an operand stands."""
    at = HEAD + 2 * operand
    offset = start * load_int(geometry, at) + b * load_int(geometry, at + 1)
    return shift(pointer, offset + lane * itemsize(pointer))


@helper
def forward_row(row, bias, size, keep, h, states, carry, lanes, gated, masked, saves, ahead):
    """Advance a row: whole vectors, then lanes one by one. Blocks of the product are ``size`` elements apart."""
    stop = lanes - lanes % width(carry)
    factor = broadcast(load(keep, 0, carry))
    for j in range(0, stop, width(carry)):
        if masked:
            factor = load_vector(keep, j, carry)
        for part in range(3 if gated else 2):
            prefetch(row, j + part * size, ahead)
        z = load_vector(row, j, carry) + load_vector(bias, j, carry)
        f = load_vector(row, j + size, carry) + load_vector(bias, j + size, carry)
        new = pool(load_vector(carry, j, carry), z, f, factor)
        store_vector(carry, j, new)
        if saves:
            store_vector(states, j, new)
        if gated:
            new = put_out(new, load_vector(row, j + 2 * size, carry) + load_vector(bias, j + 2 * size, carry))
        store_vector(h, j, new)
    for j in range(stop, lanes):
        lane_factor = load(keep, j if masked else 0, carry)
        lane_z = load(row, j, carry) + load(bias, j, carry)
        lane_f = load(row, j + size, carry) + load(bias, j + size, carry)
        lane = pool(load(carry, j, carry), lane_z, lane_f, lane_factor)
        store(carry, j, lane)
        if saves:
            store(states, j, lane)
        if gated:
            lane = put_out(lane, load(row, j + 2 * size, carry) + load(bias, j + 2 * size, carry))
        store(h, j, lane)


def forward(
    product, bias, keep, h, states, carry, starts, counts, lengths, geometry, row_first, row_last, lane_first, lane_last
):
    """Walk in the direction of travel; ``carry`` holds the first states, then the last."""
    steps, reverse, size = load_int(geometry, 0), load_int(geometry, 1), load_int(geometry, 2)
    gated, masked, saves = load_int(geometry, 3), load_int(geometry, 4), load_int(geometry, 5)
    ahead = load_int(geometry, 6)
    lanes = lane_last - lane_first
    bias_now = shift(bias, lane_first * itemsize(bias))
    for k in range(steps):
        t = steps - 1 - k if reverse else k
        start = load_int(starts, t)
        for b in range(row_first, minimum(row_last, load_int(counts, t))):
            h_now = row_of(h, geometry, H, start, b, lane_first)
            states_now = row_of(states, geometry, STATES, start, b, lane_first)
            if t >= load_int(lengths, b):
                write_zeros(h_now, carry, lanes)
                continue
            row = row_of(product, geometry, PRODUCT, start, b, lane_first)
            keep_now = row_of(keep, geometry, KEEP, start, b, lane_first if masked else 0)
            carry_now = shift(carry, (b * size + lane_first) * itemsize(carry))
            forward_row(row, bias_now, size, keep_now, h_now, states_now, carry_now, lanes, gated, masked, saves, ahead)


@helper
def vjp_row(g, row, size, keep, now, before, carry, to_row, lanes, gated, masked, has_g, ahead):
    """Take a row to the step before it."""
    stop = lanes - lanes % width(carry)
    factor = broadcast(load(keep, 0, carry))
    arrived = broadcast(constant(0.0, load(carry, 0, carry)))
    for j in range(0, stop, width(carry)):
        for part in range(3 if gated else 2):
            prefetch(row, j + part * size, ahead)
        if has_g:
            arrived = load_vector(g, j, carry)
        if masked:
            factor = load_vector(keep, j, carry)
        at_state = arrived
        if gated:
            at_state, grad_o = put_out_adjoint(
                arrived, load_vector(now, j, carry), load_vector(row, j + 2 * size, carry)
            )
            store_vector(to_row, j + 2 * size, grad_o)
        z, f = load_vector(row, j, carry), load_vector(row, j + size, carry)
        at_state = at_state + load_vector(carry, j, carry)
        grad_z, grad_f, onward = pool_adjoint(at_state, z, f, factor, load_vector(before, j, carry))
        store_vector(carry, j, onward)
        store_vector(to_row, j, grad_z)
        store_vector(to_row, j + size, grad_f)
    for j in range(stop, lanes):
        lane_arrived = load(g, j, carry) if has_g else constant(0.0, load(carry, j, carry))
        lane_factor = load(keep, j if masked else 0, carry)
        at_lane = lane_arrived
        if gated:
            at_lane, lane_o = put_out_adjoint(lane_arrived, load(now, j, carry), load(row, j + 2 * size, carry))
            store(to_row, j + 2 * size, lane_o)
        lane_z, lane_f = load(row, j, carry), load(row, j + size, carry)
        at_lane = at_lane + load(carry, j, carry)
        to_z, to_f, lane_onward = pool_adjoint(at_lane, lane_z, lane_f, lane_factor, load(before, j, carry))
        store(carry, j, lane_onward)
        store(to_row, j, to_z)
        store(to_row, j + size, to_f)


def vjp(
    g, product, keep, states, first, carry, to_product, starts, counts, lengths, geometry, has_g, row_first, row_last,
    lane_first, lane_last,
):  # fmt: skip
    """Walk against the direction of travel; ``carry`` holds the last states' cotangents, then the first states'."""
    steps, reverse, size = load_int(geometry, 0), load_int(geometry, 1), load_int(geometry, 2)
    gated, masked, ahead = load_int(geometry, 3), load_int(geometry, 4), load_int(geometry, 6)
    lanes = lane_last - lane_first
    for k in range(steps):
        t = k if reverse else steps - 1 - k
        earlier = t + 1 if reverse else t - 1
        is_first = earlier < 0 or earlier >= steps
        start, earlier_start = load_int(starts, t), load_int(starts, t if is_first else earlier)
        earlier_count = 0 if is_first else load_int(counts, earlier)
        for b in range(row_first, minimum(row_last, load_int(counts, t))):
            to_row = row_of(to_product, geometry, TO_PRODUCT, start, b, lane_first)
            length = load_int(lengths, b)
            if t >= length:
                for part in range(3 if gated else 2):
                    write_zeros(shift(to_row, part * size * itemsize(to_row)), carry, lanes)
                continue
            before = row_of(states, geometry, STATES, earlier_start, b, lane_first)
            if b >= earlier_count or earlier >= length:
                before = shift(first, (b * size + lane_first) * itemsize(first))
            vjp_row(
                row_of(g, geometry, G, start, b, lane_first), row_of(product, geometry, PRODUCT, start, b, lane_first),
                size, row_of(keep, geometry, KEEP, start, b, lane_first if masked else 0),
                row_of(states, geometry, STATES, start, b, lane_first), before,
                shift(carry, (b * size + lane_first) * itemsize(carry)), to_row, lanes, gated, masked, has_g, ahead,
            )  # fmt: skip

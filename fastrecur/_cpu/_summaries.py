"""Kernels that keep of a stretch of time only what it does to a state: ``h -> product*h + carry``.

``carry`` holds the states that the stretch starts from, then those it ends with; ``products`` what its steps multiply a
state by. Operands are read once, and nothing is written for a step. A stretch is summarised in the direction of travel,
or `back` from cotangents of its states; ``geometry`` is then that of the other direction.
"""

from .. import _layout
from .._layout import A_IS_BROADCAST, HEAD, N_STEPS, REVERSE
from .._steps import constant
from . import _rows
from ._memory import (
    broadcast,
    load,
    load_int,
    load_vector,
    maximum,
    minimum,
    prefetch,
    shift,
    stack,
    stack_ints,
    stack_like,
    store,
    store_vector,
    width,
)
from ._rows import place, valid_range
from ._rules import decay, is_one_b, neutral, step
from ._scan_back import back
from ._target import helper
from ._tiles import (
    LENGTHS,
    STEPS,
    TILE,
    A,
    B,
    bring,
    give_lanes,
    lane_offsets,
    lane_places,
    mask,
    row_bytes,
    soon,
    take_lanes,
    valid_steps,
)


@helper
def onward(rule, is_back, state, a, b):
    """Return the state after a step; going back, the cotangent that flows on from it."""
    return back(rule, b, a, state) if is_back else step(rule, state, a, b)


@helper
def summarise_lanes(rule, is_back, a, b, carry, products, first, last, a_constant, steps, a_time, b_time):
    for j in range(first, last):
        state, product = load(carry, j, carry), load(products, j, carry)
        for k in range(steps):
            gate = load(shift(a, k * a_time), 0 if a_constant else j, carry)
            product = product * decay(rule, gate)
            value = load(shift(b, k * b_time), 0 if is_one_b(rule) else j, carry)
            state = onward(rule, is_back, state, gate, value)
        store(products, j, product)
        store(carry, j, state)


@helper
def summarise_vector(rule, is_back, a, b, carry, products, j, a_constant, steps, a_time, b_time):
    """Take a vector of lanes, in registers, some steps on."""
    state, product = load_vector(carry, j, carry), load_vector(products, j, carry)
    for k in range(steps):
        a_now, b_now = shift(a, k * a_time), shift(b, k * b_time)
        if is_one_b(rule):
            value = broadcast(load(b_now, 0, carry))
        else:
            prefetch(b_now, j, steps * b_time)
            value = load_vector(b_now, j, carry)
        if a_constant:
            gate = broadcast(load(a_now, 0, carry))
        else:
            prefetch(a_now, j, steps * a_time)
            gate = load_vector(a_now, j, carry)
        product = product * decay(rule, gate)
        state = onward(rule, is_back, state, gate, value)
    store_vector(products, j, product)
    store_vector(carry, j, state)


@helper
def walk_rows(
    rule, is_back, a, b, carry, products, lengths, geometry, outer_first, outer_last, row_first, row_last, lane_first,
    lane_last,
):  # fmt: skip
    all_steps, reverse = load_int(geometry, N_STEPS), load_int(geometry, REVERSE)
    a_constant = load_int(geometry, A_IS_BROADCAST)
    a_time, b_time = load_int(geometry, HEAD + 3 * _layout.A), load_int(geometry, HEAD + 3 * _layout.B)
    lanes = lane_last - lane_first
    whole = lanes - lanes % width(carry)
    for outer in range(outer_first, outer_last):
        for t in range(0, all_steps, STEPS):
            for row in range(row_first, row_last):
                start, stop = valid_range(place(lengths, geometry, _rows.LENGTHS, 0, row, outer, 0), all_steps, reverse)
                first = maximum(t, start)
                steps = minimum(t + STEPS, stop) - first
                a_now = place(a, geometry, _rows.A, first, row, outer, 0 if a_constant else lane_first)
                b_now = place(b, geometry, _rows.B, first, row, outer, 0 if is_one_b(rule) else lane_first)
                carry_now = place(carry, geometry, _rows.CARRY, 0, row, outer, lane_first)
                products_now = place(products, geometry, _rows.CARRY, 0, row, outer, lane_first)
                for j in range(0, whole, width(carry)):
                    summarise_vector(
                        rule, is_back, a_now, b_now, carry_now, products_now, j, a_constant, steps, a_time, b_time
                    )
                summarise_lanes(
                    rule, is_back, a_now, b_now, carry_now, products_now, whole, lanes, a_constant, steps, a_time,
                    b_time,
                )  # fmt: skip


@helper
def walk_tiles(rule, is_back, a, b, carry, products, lengths, geometry, first, last):
    # It opens as `_tiles.forward` does: a function for both makes other machine code of that one.
    steps, reverse = load_int(geometry, N_STEPS), load_int(geometry, REVERSE)
    a_time, b_time = load_int(shift(geometry, A), 0), load_int(shift(geometry, B), 0)
    a_rows, b_rows = stack_like(a, carry, TILE), stack_like(b, carry, TILE)
    state, product = stack(carry, 16), stack(carry, 16)
    a_at, b_at, lengths_at = stack_ints(16), stack_ints(16), stack_ints(16)
    starts, stops, places = stack_ints(16), stack_ints(16), stack_ints(48)
    zero = constant(0.0, load(carry, 0, carry))
    keep_a, _ = neutral(rule, zero)
    for lane in range(first, last, width(carry)):
        end = minimum(last, lane + width(carry))
        lane_places(places, geometry, lane, end, carry)
        lane_offsets(a_at, shift(geometry, A), places, carry)
        lane_offsets(b_at, shift(geometry, B), places, carry)
        lane_offsets(lengths_at, shift(geometry, LENGTHS), places, carry)
        ragged = valid_steps(starts, stops, lengths, lengths_at, steps, reverse, carry)
        take_lanes(state, carry, lane, end)
        take_lanes(product, products, lane, end)
        for t in range(0, steps, STEPS):
            n = minimum(STEPS, steps - t)
            bring(a_rows, shift(a, t * a_time), a_at, a_time, n, soon(a, a_time))
            bring(b_rows, shift(b, t * b_time), b_at, b_time, n, soon(b, b_time))
            if ragged:
                mask(a_rows, keep_a, starts, stops, t, n)
                mask(b_rows, zero, starts, stops, t, n)
            summarise_tile(rule, is_back, a_rows, b_rows, state, product, n)
        give_lanes(carry, state, lane, end)
        give_lanes(products, product, lane, end)


@helper
def summarise_tile(rule, is_back, a_rows, b_rows, state, product, steps):
    a_row, b_row = row_bytes(a_rows), row_bytes(b_rows)
    h, p = load_vector(state, 0, state), load_vector(product, 0, state)
    for k in range(steps):
        gate, value = load_vector(shift(a_rows, k * a_row), 0, state), load_vector(shift(b_rows, k * b_row), 0, state)
        p = p * decay(rule, gate)
        h = onward(rule, is_back, h, gate, value)
    store_vector(state, 0, h)
    store_vector(product, 0, p)


def rows(
    rule, a, b, carry, products, lengths, geometry, outer_first, outer_last, row_first, row_last, lane_first, lane_last
):
    """Summarise lanes that are neighbours in memory."""
    walk_rows(
        rule, False, a, b, carry, products, lengths, geometry, outer_first, outer_last, row_first, row_last, lane_first,
        lane_last,
    )  # fmt: skip


def rows_back(
    rule, a, b, carry, products, lengths, geometry, outer_first, outer_last, row_first, row_last, lane_first, lane_last
):
    """Summarise cotangents of lanes that are neighbours in memory."""
    walk_rows(
        rule, True, a, b, carry, products, lengths, geometry, outer_first, outer_last, row_first, row_last, lane_first,
        lane_last,
    )  # fmt: skip


def tiles(rule, a, b, carry, products, lengths, geometry, first, last):
    """Summarise lanes in any layout."""
    walk_tiles(rule, False, a, b, carry, products, lengths, geometry, first, last)


def tiles_back(rule, a, b, carry, products, lengths, geometry, first, last):
    """Summarise cotangents of lanes in any layout."""
    walk_tiles(rule, True, a, b, carry, products, lengths, geometry, first, last)

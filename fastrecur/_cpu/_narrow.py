"""Kernels for rows of few lanes: as `_rows`, whose geometry and calls they have.

How many lanes there are is known when a kernel is compiled: a row's step is one operation, and where there is one row
its states stay in registers from step to step. What bounds that is the chain of operations from one state to the next,
so that a step of eight lanes takes as long as one of two.
"""

from .._layout import (
    A_MODE,
    ACCUMULATE,
    B_MODE,
    CARRY,
    HEAD,
    LENGTHS,
    N_STEPS,
    REDUCE,
    REVERSE,
    STORE,
    SUM_BYTES,
    SUM_STEPS,
    SUMS_A,
    SUMS_B,
    TO_A,
    TO_B,
    A,
    B,
    G,
    H,
)
from .._steps import constant
from ._memory import (
    load,
    load_int,
    load_row,
    maximum,
    prefetch,
    prefetch_to_write,
    row_total,
    shift,
    spread_row,
    store,
    store_row,
)
from ._numba import helper, inlined
from ._rows import place, valid_range
from ._rules import adjoint, is_one_a, is_one_b, is_one_g, is_one_h, step

AHEAD = 64  # steps before whose turn their lines are asked for
PART = 512  # steps whose gradients are added up before the sum of all is


@inlined
def row_of(rule, is_one, pointer, carry):
    """Return a row's lanes; or what is there for all of them."""
    return spread_row(rule, load(pointer, 0, carry)) if is_one else load_row(rule, pointer, carry)


@inlined
def time_of(geometry, operand):
    """Return how far from a step of an operand the next one stands."""
    return load_int(geometry, HEAD + 3 * operand)


@inlined
def at(pointer, geometry, operand, t):
    """Return where a step of an operand stands."""
    return shift(pointer, t * time_of(geometry, operand))


@helper
def clear(rule, target, time, carry, first, last):
    """Write zeros to some steps of a result."""
    zero = spread_row(rule, constant(0.0, load(carry, 0, carry)))
    for t in range(first, last):
        store_row(rule, shift(target, t * time), zero)


@inlined
def advance(rule, now, a, b, h, carry):
    """Advance a row by a step, write it and return it."""
    new = step(rule, now, row_of(rule, is_one_a(rule), a, carry), row_of(rule, is_one_b(rule), b, carry))
    store_row(rule, h, new)
    return new


@helper
def forward_one(rule, a, b, h, carry, lengths, geometry, outer_first, outer_last):
    """Walk one row of each step, all the way."""
    steps, reverse = load_int(geometry, N_STEPS), load_int(geometry, REVERSE)
    a_time, b_time, h_time = time_of(geometry, A), time_of(geometry, B), time_of(geometry, H)
    for outer in range(outer_first, outer_last):
        start, stop = valid_range(place(lengths, geometry, LENGTHS, 0, 0, outer, 0), steps, reverse)
        a_row, b_row = place(a, geometry, A, 0, 0, outer, 0), place(b, geometry, B, 0, 0, outer, 0)
        h_row, states = place(h, geometry, H, 0, 0, outer, 0), place(carry, geometry, CARRY, 0, 0, outer, 0)
        clear(rule, h_row, h_time, carry, 0, start)
        clear(rule, h_row, h_time, carry, stop, steps)
        now = load_row(rule, states, carry)
        for t in range(start, stop):
            a_now, b_now, h_now = shift(a_row, t * a_time), shift(b_row, t * b_time), shift(h_row, t * h_time)
            prefetch(a_now, 0, AHEAD * a_time)
            prefetch(b_now, 0, AHEAD * b_time)
            prefetch_to_write(h_now, 0, AHEAD * h_time)
            now = advance(rule, now, a_now, b_now, h_now, carry)
        store_row(rule, states, now)


@inlined
def apart_of(geometry, operand):
    """Return how far from a row of an operand the next one stands."""
    return load_int(geometry, HEAD + 3 * operand + 1)


@helper
def forward_many(rule, a, b, h, carry, lengths, geometry, outer, row_first, row_last):
    """Walk rows of each step, then those of the next."""
    steps, reverse = load_int(geometry, N_STEPS), load_int(geometry, REVERSE)
    a_apart, b_apart, h_apart = apart_of(geometry, A), apart_of(geometry, B), apart_of(geometry, H)
    lengths_apart, states_apart = apart_of(geometry, LENGTHS), apart_of(geometry, CARRY)
    ends, states = (
        place(lengths, geometry, LENGTHS, 0, row_first, outer, 0), place(carry, geometry, CARRY, 0, row_first, outer, 0)
    )  # fmt: skip
    start, stop = valid_range(ends, steps, reverse)
    for t in range(steps):
        a_row, b_row = place(a, geometry, A, t, row_first, outer, 0), place(b, geometry, B, t, row_first, outer, 0)
        h_row = place(h, geometry, H, t, row_first, outer, 0)
        for row in range(row_last - row_first):
            if lengths_apart != 0:
                start, stop = valid_range(shift(ends, row * lengths_apart), steps, reverse)
            h_now = shift(h_row, row * h_apart)
            if start <= t < stop:
                a_now, b_now, state = (
                    shift(a_row, row * a_apart), shift(b_row, row * b_apart), shift(states, row * states_apart)
                )  # fmt: skip
                store_row(rule, state, advance(rule, load_row(rule, state, carry), a_now, b_now, h_now, carry))
            else:
                clear(rule, h_now, 0, carry, 0, 1)


def forward(
    rule, a, b, h, carry, lengths, geometry, outer_first, outer_last, row_first, row_last, lane_first, lane_last
):
    """Walk in the direction of travel; ``carry`` holds the first states, then the last."""
    if row_last - row_first == 1 and row_first == 0:
        forward_one(rule, a, b, h, carry, lengths, geometry, outer_first, outer_last)
    else:
        for outer in range(outer_first, outer_last):
            forward_many(rule, a, b, h, carry, lengths, geometry, outer, row_first, row_last)


@inlined
def settle(rule, target, sums, value, mode):
    """Bring a row of a gradient where it belongs."""
    if mode == STORE:
        store_row(rule, target, value)
    elif mode == ACCUMULATE:
        store_row(rule, sums, load_row(rule, sums, sums) + value)
    elif mode == REDUCE:
        store(sums, 0, load(sums, 0, sums) + row_total(rule, value))


@inlined
def row_back(rule, r, g, a, b, before, carry):
    """Take a row to the step before; return its gradients and what flows on."""
    gate, value = row_of(rule, is_one_a(rule), a, carry), row_of(rule, is_one_b(rule), b, carry)
    return adjoint(rule, row_of(rule, is_one_g(rule), g, carry) + r, gate, value, before)


@inlined
def walk_back(
    a_mode, b_mode, held_a, held_b, rule, r, g, a, b, h, to_a, to_b, sums_a, sums_b, carry, geometry, first, stop
):  # fmt: skip
    """Take a row from step ``stop`` to ``first``; what is ``held`` is added up on the way, not at each step.

    Results are looked up a step before, the other operands where they stand.
    """
    g_time, a_time, b_time, h_time = (
        time_of(geometry, G), time_of(geometry, A), time_of(geometry, B), time_of(geometry, H),
    )  # fmt: skip
    to_a_time, to_b_time = time_of(geometry, TO_A), time_of(geometry, TO_B)
    sums_a_time, sums_b_time = time_of(geometry, SUMS_A), time_of(geometry, SUMS_B)
    zero = spread_row(rule, constant(0.0, load(carry, 0, carry)))
    so_far_a, so_far_b = zero, zero
    for ago in range(stop - first):
        t = stop - 1 - ago
        g_now, a_now, b_now = shift(g, t * g_time), shift(a, t * a_time), shift(b, t * b_time)
        h_now = shift(h, (t - 1) * h_time)
        to_a_now, to_b_now = shift(to_a, t * to_a_time), shift(to_b, t * to_b_time)
        prefetch(g_now, 0, -AHEAD * g_time)
        prefetch(a_now, 0, -AHEAD * a_time)
        prefetch(b_now, 0, -AHEAD * b_time)
        prefetch(h_now, 0, -AHEAD * h_time)
        prefetch_to_write(to_a_now, 0, -AHEAD * to_a_time)
        prefetch_to_write(to_b_now, 0, -AHEAD * to_b_time)
        before = row_of(rule, is_one_h(rule), h_now, carry)
        grad_a, grad_b, r = row_back(rule, r, g_now, a_now, b_now, before, carry)
        if held_a:
            so_far_a = so_far_a + grad_a
        else:
            settle(rule, to_a_now, shift(sums_a, t * sums_a_time), grad_a, a_mode)
        if held_b:
            so_far_b = so_far_b + grad_b
        else:
            settle(rule, to_b_now, shift(sums_b, t * sums_b_time), grad_b, b_mode)
    if held_a:
        settle(rule, to_a, sums_a, so_far_a, a_mode)
    if held_b:
        settle(rule, to_b, sums_b, so_far_b, b_mode)
    return r


@helper
def vjp_one(
    rule, g, a, b, h, h0, carry, to_a, to_b, sums_a, sums_b, lengths, geometry, outer_first, outer_last
):  # fmt: skip
    """Walk one row of each step back, all the way."""
    steps, reverse = load_int(geometry, N_STEPS), load_int(geometry, REVERSE)
    a_mode, b_mode = load_int(geometry, A_MODE), load_int(geometry, B_MODE)
    stretch, pitch = load_int(geometry, SUM_STEPS), load_int(geometry, SUM_BYTES)
    to_a_time, to_b_time = time_of(geometry, TO_A), time_of(geometry, TO_B)
    held_a = (a_mode == ACCUMULATE or a_mode == REDUCE) and time_of(geometry, SUMS_A) == 0
    held_b = (b_mode == ACCUMULATE or b_mode == REDUCE) and time_of(geometry, SUMS_B) == 0
    for outer in range(outer_first, outer_last):
        first, stop = valid_range(place(lengths, geometry, LENGTHS, 0, 0, outer, 0), steps, reverse)
        g_row, a_row = place(g, geometry, G, 0, 0, outer, 0), place(a, geometry, A, 0, 0, outer, 0)
        b_row, h_row = place(b, geometry, B, 0, 0, outer, 0), place(h, geometry, H, 0, 0, outer, 0)
        to_a_row, to_b_row = place(to_a, geometry, TO_A, 0, 0, outer, 0), place(to_b, geometry, TO_B, 0, 0, outer, 0)
        sums_b_row = place(sums_b, geometry, SUMS_B, 0, 0, outer, 0)
        states, h0_row = place(carry, geometry, CARRY, 0, 0, outer, 0), place(h0, geometry, CARRY, 0, 0, outer, 0)
        if a_mode == STORE:
            clear(rule, to_a_row, to_a_time, carry, 0, first)
            clear(rule, to_a_row, to_a_time, carry, stop, steps)
        if b_mode == STORE:
            clear(rule, to_b_row, to_b_time, carry, 0, first)
            clear(rule, to_b_row, to_b_time, carry, stop, steps)
        r = load_row(rule, states, carry)
        end = stop
        while end > first:
            part = (steps - end) // stretch if stretch > 0 else 0
            begin = maximum(first, maximum(end - PART, steps - (part + 1) * stretch if stretch > 0 else 0))
            low = begin + 1 if begin == first else begin
            sums_a_row = place(shift(sums_a, part * pitch), geometry, SUMS_A, 0, 0, outer, 0)
            row = (
                rule, r, g_row, a_row, b_row, h_row, to_a_row, to_b_row, sums_a_row, sums_b_row, carry, geometry,
            )  # fmt: skip
            if a_mode == STORE and b_mode == STORE:
                r = walk_back(STORE, STORE, False, False, *row, low, end)
            elif held_a and b_mode == STORE:
                r = walk_back(a_mode, STORE, True, False, *row, low, end)
            else:
                r = walk_back(a_mode, b_mode, held_a, held_b, *row, low, end)
            if begin == first:  # before the first step there is no result
                g_now, a_now = at(g_row, geometry, G, first), at(a_row, geometry, A, first)
                b_now, before = at(b_row, geometry, B, first), load_row(rule, h0_row, carry)
                grad_a, grad_b, r = row_back(rule, r, g_now, a_now, b_now, before, carry)
                to_a_now, sums_a_now = at(to_a_row, geometry, TO_A, first), at(sums_a_row, geometry, SUMS_A, first)
                to_b_now, sums_b_now = at(to_b_row, geometry, TO_B, first), at(sums_b_row, geometry, SUMS_B, first)
                settle(rule, to_a_now, sums_a_now, grad_a, a_mode)
                settle(rule, to_b_now, sums_b_now, grad_b, b_mode)
            end = begin
        store_row(rule, states, r)


@helper
def vjp_many(
    rule, g, a, b, h, h0, carry, to_a, to_b, sums_a, sums_b, lengths, geometry, outer, row_first, row_last
):  # fmt: skip
    """Walk rows of each step back, then those of the step before."""
    steps, reverse = load_int(geometry, N_STEPS), load_int(geometry, REVERSE)
    a_mode, b_mode = load_int(geometry, A_MODE), load_int(geometry, B_MODE)
    g_apart, a_apart, b_apart, h_apart = (
        apart_of(geometry, G), apart_of(geometry, A), apart_of(geometry, B), apart_of(geometry, H),
    )  # fmt: skip
    to_a_apart, to_b_apart = apart_of(geometry, TO_A), apart_of(geometry, TO_B)
    sums_a_apart, sums_b_apart = apart_of(geometry, SUMS_A), apart_of(geometry, SUMS_B)
    lengths_apart, states_apart = apart_of(geometry, LENGTHS), apart_of(geometry, CARRY)
    ends, states = (
        place(lengths, geometry, LENGTHS, 0, row_first, outer, 0), place(carry, geometry, CARRY, 0, row_first, outer, 0)
    )  # fmt: skip
    h0_row = place(h0, geometry, CARRY, 0, row_first, outer, 0)
    first, stop = valid_range(ends, steps, reverse)
    for ago in range(steps):
        t = steps - 1 - ago
        g_row, a_row = place(g, geometry, G, t, row_first, outer, 0), place(a, geometry, A, t, row_first, outer, 0)
        b_row, h_row = place(b, geometry, B, t, row_first, outer, 0), place(h, geometry, H, t - 1, row_first, outer, 0)
        to_a_row, to_b_row = (
            place(to_a, geometry, TO_A, t, row_first, outer, 0), place(to_b, geometry, TO_B, t, row_first, outer, 0)
        )  # fmt: skip
        sums_a_row, sums_b_row = (
            place(sums_a, geometry, SUMS_A, t, row_first, outer, 0),
            place(sums_b, geometry, SUMS_B, t, row_first, outer, 0),
        )  # fmt: skip
        for row in range(row_last - row_first):
            if lengths_apart != 0:
                first, stop = valid_range(shift(ends, row * lengths_apart), steps, reverse)
            to_a_now, to_b_now = shift(to_a_row, row * to_a_apart), shift(to_b_row, row * to_b_apart)
            if first <= t < stop:
                g_now, a_now = shift(g_row, row * g_apart), shift(a_row, row * a_apart)
                b_now, state = shift(b_row, row * b_apart), shift(states, row * states_apart)
                if t == first:
                    before = load_row(rule, shift(h0_row, row * states_apart), carry)
                else:
                    before = row_of(rule, is_one_h(rule), shift(h_row, row * h_apart), carry)
                grad_a, grad_b, r = row_back(rule, load_row(rule, state, carry), g_now, a_now, b_now, before, carry)
                store_row(rule, state, r)
                settle(rule, to_a_now, shift(sums_a_row, row * sums_a_apart), grad_a, a_mode)
                settle(rule, to_b_now, shift(sums_b_row, row * sums_b_apart), grad_b, b_mode)
            else:
                if a_mode == STORE:
                    clear(rule, to_a_now, 0, carry, 0, 1)
                if b_mode == STORE:
                    clear(rule, to_b_now, 0, carry, 0, 1)


def vjp(
    rule, g, a, b, h, h0, carry, to_a, to_b, sums_a, sums_b, lengths, geometry, outer_first, outer_last, row_first,
    row_last, lane_first, lane_last,
):  # fmt: skip
    """Walk against the direction of travel; ``carry`` holds the last states' cotangents, then the first states'."""
    operands = rule, g, a, b, h, h0, carry, to_a, to_b, sums_a, sums_b, lengths, geometry
    if row_last - row_first == 1 and row_first == 0:
        vjp_one(*operands, outer_first, outer_last)
    else:
        for outer in range(outer_first, outer_last):
            vjp_many(*operands, outer, row_first, row_last)

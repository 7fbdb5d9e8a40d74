"""Series that begin anew inside the axis of time, where steps are neighbours in memory: `_transpose8` with ``flags``.

Where a step has a flag, the state before it is zero. A few long series are cut at flags into *pieces*, for which steps
are taken 8 pieces at a time, so that one long series is many at once. ``starts`` is how many states there are and, of
each piece, its series, its first step and the one behind its last. The number of pieces is a multiple of 8; those
without steps begin at 0. Behind all states that are given stand those that come out.
"""

from .. import _layout
from .._layout import A_MODE, ACCUMULATE, B_MODE, FLAGS, N_STEPS, STORE, STREAMING, SUMS_A, TO_A, TO_B, A, B, G, H
from .._steps import constant
from . import _transpose8
from ._numba import helper, inlined
from ._operands import ONE, TWO, ZERO, write_zeros
from ._packing import lane_offset, strides_of
from ._scalars import fence, load, load_int, minimum, shift, stack, stack_ints, store
from ._transpose8 import ROWS_BACK, ROWS_FORWARD, Operand, Result, Scratch, add_total, advance, load_gates, retreat
from ._transposes import stack_lines
from ._types import OCTET


@inlined
def field(pieces, n, which):
    """Return the n-th piece's series (0), its first step (1) or the one behind its last (2)."""
    return load_int(pieces, 3 * n + which)


@inlined
def steps_of(pieces, n):
    return field(pieces, n, TWO) - field(pieces, n, ONE)


@helper
def common_steps(pieces):
    """Return how many steps all of 8 pieces have, as far as that is enough for an octet."""
    steps = steps_of(pieces, ZERO)
    for n in range(1, OCTET):
        steps = minimum(steps, steps_of(pieces, n))
    return steps if steps >= OCTET else ZERO


@helper
def of_8_pieces(pointer, geometry, k, offsets, pieces):
    """Return the k-th operand of 8 pieces; ``offsets`` has room for all operands'."""
    strides, own = strides_of(geometry, k), shift(offsets, 8 * OCTET * k)
    time = load_int(strides, 0)
    for n in range(OCTET):
        place = lane_offset(geometry, strides, field(pieces, n, ZERO)) + field(pieces, n, ONE) * time
        store(own, n, place)
    return Operand(pointer, own, time, load_int(strides, 3))


@helper
def take_states(states, carry, pieces, end, step):
    """Take the states of those pieces that begin or end (1, 2) with a step of the whole series; zeros for others."""
    for n in range(OCTET):
        given, zero = load(carry, field(pieces, n, ZERO), carry), constant(0.0, load(carry, 0, carry))
        store(states, n, given if field(pieces, n, end) == step else zero)


@helper
def give_states(carry, starts, states, pieces, end, step):
    """Give back the states of pieces that end or begin so."""
    for n in range(OCTET):
        if field(pieces, n, end) == step and steps_of(pieces, n) > 0:
            store(carry, load_int(starts, 0) + field(pieces, n, ZERO), load(states, n, states))


@inlined
def of_piece(x, n, t):
    """Return where the n-th of 8 pieces has a step."""
    return shift(x.at, load_int(x.offsets, n) + t * x.time)


@inlined
def number_at(x, n, t, carry):
    return load(of_piece(x, n, t), 0, carry)


@helper
def advance_piece(rule, a, b, h, flags, states, n, first, stop):
    """Take the n-th of 8 pieces through steps that not all have."""
    state = load(states, n, states)
    for t in range(first, stop):
        fresh = number_at(flags, n, t, states) != constant(0.0, state)
        state = advance(rule, fresh, state, number_at(a, n, t, states), number_at(b, n, t, states))
        store(of_piece(h, n, t), 0, state)
    store(states, n, state)


@helper
def retreat_piece(rule, g, a, b, h, to_a, to_b, flags, scratch, n, first, stop):
    """Take the n-th of 8 pieces back through such steps."""
    states = scratch.state
    r, total = load(states, n, states), load(scratch.total, n, states)
    for ago in range(stop - first):
        t = stop - 1 - ago
        before = number_at(h, n, t - 1, states) if t > 0 else load(scratch.first, n, states)
        fresh, arrived = number_at(flags, n, t, states) != constant(0.0, r), number_at(g, n, t, states) + r
        gate, value = number_at(a, n, t, states), number_at(b, n, t, states)
        grad_a, grad_b, r = retreat(rule, fresh, arrived, gate, value, before)
        if to_a.mode == STORE:
            store(of_piece(to_a, n, t), 0, grad_a)
        if to_b.mode == STORE:
            store(of_piece(to_b, n, t), 0, grad_b)
        total = total + grad_a
    store(states, n, r)
    store(scratch.total, n, total)


def forward_pieces(rule, a, b, h, carry, flags, starts, geometry, first, last):
    """Take pieces ``first`` to ``last``."""
    is_large = load_int(geometry, STREAMING) != 0
    offsets = stack_ints(88)
    state, gate, rows, lines = stack(carry, 8), stack(carry, 8), stack(carry, ROWS_FORWARD), stack_lines(h)
    for piece in range(first, last, OCTET):
        pieces = shift(starts, 8 + 24 * piece)
        a_here, b_here = of_8_pieces(a, geometry, A, offsets, pieces), of_8_pieces(b, geometry, B, offsets, pieces)
        to, marks = of_8_pieces(h, geometry, H, offsets, pieces), of_8_pieces(flags, geometry, FLAGS, offsets, pieces)
        take_states(state, carry, pieces, ONE, ZERO)
        load_gates(gate, a_here)
        steps, to_line = common_steps(pieces), _transpose8.line_distance(to)
        streaming = _transpose8.may_stream(is_large, to_line, steps)
        result, scratch = (
            Result(h, to.offsets, to.time, STORE, lines, streaming),
            Scratch(rows, gate, state, gate, gate),
        )
        if steps > 0:
            line = to_line if streaming else ZERO
            _transpose8.forward_8_series(rule, a_here, b_here, result, marks, scratch, steps, line, is_large)
        for n in range(OCTET):
            advance_piece(rule, a_here, b_here, to, marks, state, n, steps, steps_of(pieces, n))
        give_states(carry, starts, state, pieces, TWO, load_int(geometry, N_STEPS))
    if is_large:
        fence()


def vjp_pieces(rule, given: _layout.Given, results: _layout.Results, flags, starts, geometry, first, last):
    """Take pieces back."""
    g, a, b, h, h0 = given
    carry, to_a, to_b, sums_a, sums_b = results
    a_mode, b_mode, is_large = (
        load_int(geometry, A_MODE),
        load_int(geometry, B_MODE),
        load_int(geometry, STREAMING) != 0,
    )
    offsets = stack_ints(88)
    state, before, gate, total = stack(carry, 8), stack(carry, 8), stack(carry, 8), stack(carry, 8)
    rows, lines_a, lines_b = stack(carry, ROWS_BACK), stack_lines(to_a), stack_lines(to_b)
    for piece in range(first, last, OCTET):
        pieces = shift(starts, 8 + 24 * piece)
        g_here, a_here = of_8_pieces(g, geometry, G, offsets, pieces), of_8_pieces(a, geometry, A, offsets, pieces)
        b_here, h_here = of_8_pieces(b, geometry, B, offsets, pieces), of_8_pieces(h, geometry, H, offsets, pieces)
        place_a = of_8_pieces(to_a, geometry, TO_A, offsets, pieces)
        place_b = of_8_pieces(to_b, geometry, TO_B, offsets, pieces)
        marks = of_8_pieces(flags, geometry, FLAGS, offsets, pieces)
        take_states(state, carry, pieces, TWO, load_int(geometry, N_STEPS))
        take_states(before, h0, pieces, ONE, ZERO)
        load_gates(gate, a_here)
        write_zeros(total, carry, OCTET)
        steps = common_steps(pieces)
        result_a = Result(to_a, place_a.offsets, place_a.time, a_mode, lines_a, False)
        result_b = Result(to_b, place_b.offsets, place_b.time, b_mode, lines_b, False)
        result_a, result_b, start = _transpose8.with_streaming(result_a, result_b, is_large, steps)
        scratch = Scratch(rows, gate, state, before, total)
        for n in range(OCTET):
            own = steps_of(pieces, n)
            retreat_piece(rule, g_here, a_here, b_here, h_here, result_a, result_b, marks, scratch, n, steps, own)
        if steps > 0:
            _transpose8.vjp_8_series(
                rule, g_here, a_here, b_here, h_here, result_a, result_b, marks, scratch, steps, start, is_large
            )
        if a_mode == ACCUMULATE:
            add_total(of_8_pieces(sums_a, geometry, SUMS_A, offsets, pieces), total, OCTET)
        give_states(carry, starts, state, pieces, ONE, ZERO)
    if is_large:
        fence()

"""Series that begin anew inside the axis of time, where steps are neighbours in memory: `_transpose8` with ``flags``.

Where a step has a flag, the state before it is zero. A few long series are cut at flags into *pieces*, for which steps
are taken 8 pieces at a time, so that one long series is many at once. ``starts`` is how many states there are and, of
each piece, its series, its first step and the one behind its last. The number of pieces is a multiple of 8; those
without steps begin at 0. Behind all states that are given stand those that come out.
"""

from .. import _layout
from .._layout import HEAD, N_STEPS, STREAMING
from .._steps import constant
from ._numba import helper
from ._operands import ONE, TWO, ZERO
from ._scalars import fence, load, load_int, shift, stack, stack_ints, store
from ._transpose8 import Scratch, forward_8_series, note_place, steps_of, vjp_8_series
from ._transposes import stack_lines
from ._types import OCTET


@helper
def find_pieces(places, geometry, pieces):
    """Note the places of 8 pieces."""
    middle, inner = load_int(geometry, HEAD), load_int(geometry, HEAD + 1)
    for n in range(OCTET):
        series, start, stop = load_int(pieces, 3 * n), load_int(pieces, 3 * n + 1), load_int(pieces, 3 * n + 2)
        rest = series // inner
        note_place(places, n, rest // middle, rest % middle, series % inner, start, stop)


@helper
def take_states(states, carry, pieces, end, step):
    """Take the states of those pieces that begin or end (1, 2) with a step of the whole series; zeros for others."""
    for n in range(OCTET):
        given, zero = load(carry, load_int(pieces, 3 * n), carry), constant(0.0, load(carry, 0, carry))
        store(states, n, given if load_int(pieces, 3 * n + end) == step else zero)


@helper
def give_states(carry, starts, states, places, pieces, end, step):
    """Give back the states of pieces that end or begin so."""
    for n in range(OCTET):
        if load_int(pieces, 3 * n + end) == step and steps_of(places, n) > 0:
            store(carry, load_int(starts, 0) + load_int(pieces, 3 * n), load(states, n, states))


def forward_pieces(rule, a, b, h, carry, flags, starts, geometry, first, last):
    """Take pieces ``first`` to ``last``."""
    offsets, places = stack_ints(88), stack_ints(40)
    state, gate, lines = stack(carry, 8), stack(carry, 8), stack_lines(h)
    for piece in range(first, last, OCTET):
        pieces, scratch = shift(starts, 8 + 24 * piece), Scratch(gate, state, gate, gate)
        find_pieces(places, geometry, pieces)
        take_states(state, carry, pieces, ONE, ZERO)
        forward_8_series(rule, a, b, h, flags, geometry, offsets, places, lines, scratch, OCTET)
        give_states(carry, starts, state, places, pieces, TWO, load_int(geometry, N_STEPS))
    if load_int(geometry, STREAMING) != 0:
        fence()


def vjp_pieces(rule, given: _layout.Given, results: _layout.Results, flags, starts, geometry, first, last):
    """Take pieces back."""
    carry, steps = results.carry, load_int(geometry, N_STEPS)
    offsets, places = stack_ints(88), stack_ints(40)
    scratch = Scratch(stack(carry, 8), stack(carry, 8), stack(carry, 8), stack(carry, 8))
    lines_a, lines_b = stack_lines(results.to_a), stack_lines(results.to_b)
    for piece in range(first, last, OCTET):
        pieces = shift(starts, 8 + 24 * piece)
        find_pieces(places, geometry, pieces)
        take_states(scratch.state, carry, pieces, TWO, steps)
        take_states(scratch.first, given.h0, pieces, ONE, ZERO)
        vjp_8_series(rule, given, results, flags, geometry, offsets, places, lines_a, lines_b, scratch, OCTET)
        give_states(carry, starts, scratch.state, places, pieces, ONE, ZERO)
    if load_int(geometry, STREAMING) != 0:
        fence()

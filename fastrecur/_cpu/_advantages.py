"""The kernel of generalised advantage estimation: one walk against time, where the formula would be eight passes."""

from .. import _steps
from .._steps import constant
from ._memory import (
    broadcast,
    itemsize,
    load,
    load_int,
    load_vector,
    maximum,
    prefetch,
    prefetch_to_write,
    shift,
    store,
    store_vector,
    width,
)
from ._numba import helper, inlined

advantage = inlined(_steps.advantage)

AHEAD = 4096  # bytes of an operand that are asked for before their turn


@helper
def at(pointer, element):
    return shift(pointer, element * itemsize(pointer))


def walk(rule, rewards, values, successors, ends, cuts, h, carry, h0, geometry, first, last, low, high):
    """Walk lanes ``low`` to ``high`` of blocks ``(time, lanes)`` in C order, from ``first`` to ``last``.

    ``carry`` is as long as a row; ``h0`` holds the discount, and what an advantage is multiplied by before the next.
    """
    steps, lanes = load_int(geometry, 0), load_int(geometry, 1)
    gamma, decay = load(h0, 0, carry), load(h0, 1, carry)
    many_gamma, many_decay = broadcast(gamma), broadcast(decay)
    whole = (high - low) // width(carry) * width(carry)
    ahead = -maximum(1, AHEAD // (lanes * itemsize(h))) * lanes * itemsize(h)
    for block in range(first, last):
        for j in range(high - low):
            store(carry, low + j, constant(0.0, gamma))
        for ago in range(steps):
            place = (block * steps + steps - 1 - ago) * lanes + low
            r, v, s, e, c, to = (
                at(rewards, place), at(values, place), at(successors, place), at(ends, place), at(cuts, place),
                at(h, place),
            )  # fmt: skip
            for j in range(0, whole, width(carry)):
                prefetch(r, j, ahead)
                prefetch(v, j, ahead)
                prefetch_to_write(to, j, ahead)
                new = advantage(
                    load_vector(carry, low + j, carry), load_vector(r, j, carry), load_vector(v, j, carry),
                    load_vector(s, j, carry), load_vector(e, j, carry), load_vector(c, j, carry), many_gamma,
                    many_decay,
                )  # fmt: skip
                store_vector(carry, low + j, new)
                store_vector(to, j, new)
            for j in range(whole, high - low):
                new = advantage(
                    load(carry, low + j, carry), load(r, j, carry), load(v, j, carry), load(s, j, carry),
                    load(e, j, carry), load(c, j, carry), gamma, decay,
                )  # fmt: skip
                store(carry, low + j, new)
                store(to, j, new)

"""The kernel of generalised advantage estimation: one pass against time, where the formula would be eight."""

from collections import namedtuple

import numpy as np

from .. import _steps
from .._steps import constant
from ._numba import helper, inlined
from ._scalars import itemsize, load, load_int, maximum, prefetch, prefetch_for_write, shift, store, width
from ._vectors import broadcast, load_vector, store_vector

advantage = inlined(_steps.advantage)

PREFETCH = 4096  # bytes: prefetch distance, in whole rows
N_STEPS, N_LANES = np.arange(2, dtype=np.int64)  # fields of ``geometry``

Row = namedtuple("Row", "rewards values successors ends cuts h carry")  # of one step


@helper
def at(pointer, element):
    return shift(pointer, element * itemsize(pointer))


@inlined
def advance(get, put, row, j, gamma, decay):
    """Take one lane or a vector of them to the step before: ``get`` loads, ``put`` stores."""
    carry = row.carry
    new = advantage(
        get(carry, j, carry), get(row.rewards, j, carry), get(row.values, j, carry), get(row.successors, j, carry),
        get(row.ends, j, carry), get(row.cuts, j, carry), gamma, decay,
    )  # fmt: skip
    put(carry, j, new)
    put(row.h, j, new)


def walk(rewards, values, successors, ends, cuts, h, carry, geometry, first, last, low, high):
    """Walk lanes ``low`` to ``high`` of blocks ``(time, lanes)`` in C order, from ``first`` to ``last``.

    ``carry`` holds a row of states, then the discount, and what an advantage is multiplied by before the next.
    """
    steps, lanes = load_int(geometry, N_STEPS), load_int(geometry, N_LANES)
    gamma, decay = load(carry, lanes, carry), load(carry, lanes + 1, carry)
    whole = (high - low) // width(carry) * width(carry)
    ahead = -maximum(1, PREFETCH // (lanes * itemsize(h))) * lanes * itemsize(h)
    for block in range(first, last):
        for j in range(low, high):
            store(carry, j, constant(0.0, gamma))
        for ago in range(steps):
            place = (block * steps + steps - 1 - ago) * lanes + low
            row = Row(
                at(rewards, place), at(values, place), at(successors, place), at(ends, place), at(cuts, place),
                at(h, place), at(carry, low),
            )  # fmt: skip
            for j in range(0, whole, width(carry)):
                prefetch(row.rewards, j, ahead)
                prefetch(row.values, j, ahead)
                prefetch_for_write(row.h, j, ahead)
                advance(load_vector, store_vector, row, j, broadcast(gamma), broadcast(decay))
            for j in range(whole, high - low):
                advance(load, store, row, j, gamma, decay)

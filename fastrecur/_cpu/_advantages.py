"""The kernel of returns: one scan against time, of series side by side or of one after the other."""

from collections import namedtuple

import numpy as np
from numba.extending import register_jitable

from .. import _steps
from .._steps import constant, select
from ._numba import INLINE, helper, inlined
from ._operands import ZERO, Operand, at_place, operand
from ._rules import trait
from ._scalars import itemsize, load, maximum, prefetch, prefetch_for_write, shift, stack, store
from ._types import WIDTH
from ._vectors import broadcast, load_vector, store_vector

REWARDS, VALUES, SUCCESSORS, MASK, GAMMA, LAM, ENDS, CUTS, RHOS, H, CARRY = np.arange(11, dtype=np.int64)
FIELDS = "rewards values successors mask gamma lam ends cuts rhos h carry".split()
Operands = namedtuple("Operands", FIELDS)  # pointers; or these with their strides
PLANES = 7
Step = namedtuple("Step", FIELDS[:9])  # what is read of them at a step
# How many steps; which series; how many of them are walked side by side, whether by vectors; bytes between planes of
# ``carry``, and between results. The planes: a sum; the value and the target of the next step that is read, whether
# there is one; the greatest weights of `_steps.vtrace`.
Walk = namedtuple("Walk", "steps low high chunk by_vectors plane result")

# Whether one number serves a vector.
one_reward, one_value, one_successor, one_mask, one_gamma, one_lam, one_end, one_cut, one_rho = map(trait, FIELDS[:9])
# Whether there are weights of actions, values of the states after each step (else the next step's are taken), and
# episodes that are cut off; whether a step's own value is added to a sum.
TRAITS = "off_policy has_successors has_cuts adds_values".split()
is_off_policy, has_successors, has_cuts, adds_values = map(trait, TRAITS)
advantage, vtrace = inlined(_steps.advantage), inlined(_steps.vtrace)
for part in _steps.guarded, _steps.at_most, _steps.end_of, _steps.error_of:
    register_jitable(**INLINE)(part)


@inlined
def get(is_one, x, t, j, like):
    return load(at_place(x, t, j, ZERO, ZERO), 0, like)


@inlined
def get_vector(is_one, x, t, j, like):
    place = at_place(x, t, j, ZERO, ZERO)
    return broadcast(load(place, 0, like)) if is_one else load_vector(place, 0, like)


@inlined
def read(rule, get, at, t, j):
    """Return what a step reads, of one series or, by ``get_vector``, of a vector of them."""
    like = at.carry.at
    ends = get(one_end(rule), at.ends, t, j, like)
    return Step(
        get(one_reward(rule), at.rewards, t, j, like), get(one_value(rule), at.values, t, j, like),
        get(one_successor(rule), at.successors, t, j, like), get(one_mask(rule), at.mask, t, j, like),
        get(one_gamma(rule), at.gamma, t, j, like), get(one_lam(rule), at.lam, t, j, like),
        ends, get(one_cut(rule), at.cuts, t, j, like) if has_cuts(rule) else ends,
        get(one_rho(rule), at.rhos, t, j, like),
    )  # fmt: skip


@inlined
def advance(rule, get, load, store, at, how, states, plane, t, j):
    """Take a series, or a vector of neighboring ones, to the step before."""
    x, h = read(rule, get, at, t, j), at_place(at.h, t, j, ZERO, ZERO)
    carry = at_place(states, ZERO, j, ZERO, ZERO)
    later, value = load(carry, 0, carry), load(shift(carry, plane), 0, carry)
    zero, successor = constant(0.0, x.mask), x.successors if has_successors(rule) else value
    is_read = zero < x.mask
    if is_off_policy(rule):
        to_target, to_known = shift(carry, 2 * plane), shift(carry, 3 * plane)
        target, is_known = load(to_target, 0, carry), load(to_known, 0, carry)
        rho, c = load(shift(carry, 4 * plane), 0, carry), load(shift(carry, 5 * plane), 0, carry)
        next_target, pg_rho = select(zero < is_known, target, successor), load(shift(carry, 6 * plane), 0, carry)
        now, better = vtrace(x, successor, later, next_target, rho, c, pg_rho)
        store(shift(h, how.result), 0, select(is_read, better, zero))
        store(to_target, 0, select(is_read, now + x.values, target))
        store(to_known, 0, select(is_read, constant(1.0, zero), is_known))
    else:
        now = advantage(x, successor, later)
    store(h, 0, select(is_read, now + x.values if adds_values(rule) else now, zero))
    store(carry, 0, select(is_read, now, later))
    store(shift(carry, plane), 0, select(is_read, x.values, value))


@helper
def walk_rows(rule, at, how, first, whole, end):
    """Walk neighboring series side by side, up to ``whole`` by vectors."""
    for t in range(how.steps - 1, -1, -1):
        for j in range(first, whole, WIDTH):
            # What is read two steps before, and where results go.
            prefetch(at.rewards.at, j, (t - 2) * at.rewards.step)
            prefetch(at.values.at, j, (t - 2) * at.values.step)
            prefetch_for_write(at.h.at, j, (t - 2) * at.h.step)
            advance(rule, get_vector, load_vector, store_vector, at, how, at.carry, how.plane, t, j)
        for j in range(whole, end):
            advance(rule, get, load, store, at, how, at.carry, how.plane, t, j)


def walk(rule, at: Operands, geometry, how: Walk):
    """Walk series against time."""
    state = stack(at.carry, PLANES)  # of one series, which the compiler keeps in registers
    at = Operands(
        operand(at.rewards, geometry, REWARDS), operand(at.values, geometry, VALUES),
        operand(at.successors, geometry, SUCCESSORS), operand(at.mask, geometry, MASK),
        operand(at.gamma, geometry, GAMMA), operand(at.lam, geometry, LAM), operand(at.ends, geometry, ENDS),
        operand(at.cuts, geometry, CUTS), operand(at.rhos, geometry, RHOS), operand(at.h, geometry, H),
        operand(at.carry, geometry, CARRY),
    )  # fmt: skip
    end = how.high
    # From the last series to the first, so that who walks along time walks down through memory all the way.
    while end > how.low:
        first = maximum(how.low, end - how.chunk)
        if end - first == 1:
            carry, own = at_place(at.carry, ZERO, first, ZERO, ZERO), Operand(state, ZERO, ZERO, ZERO)
            for k in range(PLANES):
                store(state, k, load(shift(carry, k * how.plane), 0, state))
            for t in range(how.steps - 1, -1, -1):
                advance(rule, get, load, store, at, how, own, itemsize(state), t, first)
            for k in range(PLANES):
                store(shift(carry, k * how.plane), 0, load(state, k, state))
        else:
            walk_rows(rule, at, how, first, first + (end - first) // WIDTH * WIDTH * how.by_vectors, end)
        end = first

"""The kernel of returns: one scan against time, of series side by side or of one after the other."""

from collections import namedtuple

import numpy as np
from numba.extending import register_jitable

from .. import _steps
from .._steps import constant, select
from ._numba import INLINE, helper, inlined
from ._operands import NO, ZERO, at_place, operand
from ._rules import choice, trait
from ._scalars import load, maximum, prefetch, prefetch_for_write, shift, store
from ._types import WIDTH
from ._vectors import broadcast, broadcast_row, load_row, load_vector, store_row, store_vector

REWARDS, VALUES, SUCCESSORS, MASK, GAMMA, LAM, ENDS, CUTS, RHOS, H, CARRY = np.arange(11, dtype=np.int64)
FIELDS = "rewards values successors mask gamma lam ends cuts rhos h carry".split()
Operands = namedtuple("Operands", FIELDS)  # pointers; or these with their strides
PLANES = 7
Step = namedtuple("Step", FIELDS[:9])  # what is read of them at a step
# How many steps; which series; how many of them are walked side by side, whether by vectors; bytes between planes of
# ``carry``, and between results. The planes are the fields of the next two.
Walk = namedtuple("Walk", "steps low high chunk by_vectors plane result")
# What a step goes on from: a sum; the value and the target of the next step that is read, whether there is one.
State = namedtuple("State", "later value target is_known")
Limits = namedtuple("Limits", "rho c pg_rho")  # the greatest weights of `_steps.vtrace`

# Whether one number serves a vector.
one_reward, one_value, one_successor, one_mask, one_gamma, one_lam, one_end, one_cut, one_rho = map(trait, FIELDS[:9])
# Whether there are weights of actions, values of the states after each step (else the next step's are taken), episodes
# that are cut off, and steps that are masked; whether a step's own value is added to a sum.
TRAITS = "off_policy has_successors has_cuts masked adds_values".split()
is_off_policy, has_successors, has_cuts, is_masked, adds_values = map(trait, TRAITS)
advantage, vtrace = inlined(_steps.advantage), inlined(_steps.vtrace)
for part in _steps.guarded, _steps.at_most, _steps.end_of, _steps.error_of:
    register_jitable(**INLINE)(part)


# A series, a vector of neighboring ones, or all of a row: what there is of these at a place, or one number for them.
@inlined
def get(rule, is_one, place, like):
    return load(place, 0, like)


@inlined
def get_vector(rule, is_one, place, like):
    return broadcast(load(place, 0, like)) if is_one else load_vector(place, 0, like)


@inlined
def get_row(rule, is_one, place, like):
    return broadcast_row(rule, load(place, 0, like)) if is_one else load_row(rule, place, like)


@inlined
def put(rule, place, value):
    store(place, 0, value)


@inlined
def put_vector(rule, place, value):
    store_vector(place, 0, value)


@inlined
def read(rule, get, at, t, j):
    """Return what a step reads; of fields that it has no use for, another one."""
    like = at.carry.at
    reward = get(rule, one_reward(rule), at_place(at.rewards, t, j, ZERO, ZERO), like)
    ends = get(rule, one_end(rule), at_place(at.ends, t, j, ZERO, ZERO), like)
    return Step(
        reward,
        get(rule, one_value(rule), at_place(at.values, t, j, ZERO, ZERO), like),
        get(rule, one_successor(rule), at_place(at.successors, t, j, ZERO, ZERO), like)
        if has_successors(rule) else reward,
        get(rule, one_mask(rule), at_place(at.mask, t, j, ZERO, ZERO), like) if is_masked(rule) else reward,
        get(rule, one_gamma(rule), at_place(at.gamma, t, j, ZERO, ZERO), like),
        get(rule, one_lam(rule), at_place(at.lam, t, j, ZERO, ZERO), like),
        ends,
        get(rule, one_cut(rule), at_place(at.cuts, t, j, ZERO, ZERO), like) if has_cuts(rule) else ends,
        get(rule, one_rho(rule), at_place(at.rhos, t, j, ZERO, ZERO), like) if is_off_policy(rule) else reward,
    )  # fmt: skip


@inlined
def plane(rule, get, carry, how, k):
    return get(rule, NO, shift(carry, k * how.plane), carry)


@inlined
def read_state(rule, get, carry, how):
    later, value = plane(rule, get, carry, how, 0), plane(rule, get, carry, how, 1)
    if is_off_policy(rule):
        return State(later, value, plane(rule, get, carry, how, 2), plane(rule, get, carry, how, 3))
    return State(later, value, value, value)


@inlined
def read_limits(rule, get, carry, how):
    if is_off_policy(rule):
        planes = plane(rule, get, carry, how, 4), plane(rule, get, carry, how, 5), plane(rule, get, carry, how, 6)
        return Limits(planes[0], planes[1], planes[2])
    one = plane(rule, get, carry, how, 0)
    return Limits(one, one, one)


@inlined
def write_state(rule, put, carry, how, state):
    put(rule, carry, state.later)
    put(rule, shift(carry, how.plane), state.value)
    if is_off_policy(rule):
        put(rule, shift(carry, 2 * how.plane), state.target)
        put(rule, shift(carry, 3 * how.plane), state.is_known)


@inlined
def advance(rule, get, put, at, how, state, limits, t, j):
    """Write the result of a step; return the state before it."""
    x, h = read(rule, get, at, t, j), at_place(at.h, t, j, ZERO, ZERO)
    zero, successor = constant(0.0, x.rewards), x.successors if has_successors(rule) else state.value
    is_read = zero < x.mask
    if is_off_policy(rule):
        next_target = select(zero < state.is_known, state.target, successor)
        now, better = vtrace(x, successor, state.later, next_target, limits.rho, limits.c, limits.pg_rho)
        put(rule, shift(h, how.result), select(is_read, better, zero) if is_masked(rule) else better)
        after = State(now, x.values, now + x.values, constant(1.0, zero))
    else:
        now = advantage(x, successor, state.later)
        after = State(now, x.values, state.target, state.is_known)
    result = now + x.values if adds_values(rule) else now
    put(rule, h, select(is_read, result, zero) if is_masked(rule) else result)
    if not is_masked(rule):
        return after
    return State(
        select(is_read, after.later, state.later), select(is_read, after.value, state.value),
        select(is_read, after.target, state.target), select(is_read, after.is_known, state.is_known),
    )  # fmt: skip


@inlined
def walk_alone(rule, get, put, at, how, j):
    """Walk a series, or all of a row, whose state stays in registers."""
    carry = at_place(at.carry, ZERO, j, ZERO, ZERO)
    state, limits = read_state(rule, get, carry, how), read_limits(rule, get, carry, how)
    for t in range(how.steps - 1, -1, -1):
        state = advance(rule, get, put, at, how, state, limits, t, j)
    write_state(rule, put, carry, how, state)


@inlined
def step_in_memory(rule, get, put, at, how, t, j):
    carry = at_place(at.carry, ZERO, j, ZERO, ZERO)
    state, limits = read_state(rule, get, carry, how), read_limits(rule, get, carry, how)
    write_state(rule, put, carry, how, advance(rule, get, put, at, how, state, limits, t, j))


@helper
def walk_rows(rule, at, how, first, whole, end):
    """Walk neighboring series side by side, up to ``whole`` by vectors."""
    for t in range(how.steps - 1, -1, -1):
        for j in range(first, whole, WIDTH):
            # What is read two steps before, and where results go.
            prefetch(at.rewards.at, j, (t - 2) * at.rewards.step)
            prefetch(at.values.at, j, (t - 2) * at.values.step)
            prefetch_for_write(at.h.at, j, (t - 2) * at.h.step)
            step_in_memory(rule, get_vector, put_vector, at, how, t, j)
        for j in range(whole, end):
            step_in_memory(rule, get, put, at, how, t, j)


@helper
def walk_series(rule, at, how):
    """Walk series side by side, or one after the other."""
    end = how.high
    # From the last series to the first, so that who walks along time walks down through memory all the way.
    while end > how.low:
        first = maximum(how.low, end - how.chunk)
        if end - first == 1:
            walk_alone(rule, get, put, at, how, first)
        else:
            walk_rows(rule, at, how, first, first + (end - first) // WIDTH * WIDTH * how.by_vectors, end)
        end = first


@helper
def walk_row(rule, at, how):
    """Walk the few series of a row, whose number is known, all at once."""
    walk_alone(rule, get_row, store_row, at, how, ZERO)


walk_all = choice("narrow", walk_row, walk_series)


def walk(rule, at: Operands, geometry, how: Walk):
    """Walk series against time."""
    at = Operands(
        operand(at.rewards, geometry, REWARDS), operand(at.values, geometry, VALUES),
        operand(at.successors, geometry, SUCCESSORS), operand(at.mask, geometry, MASK),
        operand(at.gamma, geometry, GAMMA), operand(at.lam, geometry, LAM), operand(at.ends, geometry, ENDS),
        operand(at.cuts, geometry, CUTS), operand(at.rhos, geometry, RHOS), operand(at.h, geometry, H),
        operand(at.carry, geometry, CARRY),
    )  # fmt: skip
    walk_all(rule, at, how)

"""The kernel of returns: one scan against time, of series side by side or of one after the other."""

from collections import namedtuple

from numba.extending import register_jitable

from ..._plan.fields.advantages import (
    CARRY,
    CUTS,
    ENDS,
    FIELDS,
    GAMMA,
    LAM,
    MASK,
    REWARDS,
    RHOS,
    SUCCESSORS,
    TRAITS,
    VALUES,
    H,
    State,
)
from ..._plan.widths import WIDTH
from ..._steps import recurrence
from ..._steps.recurrence import constant, select
from ..compiler.numba_internals import INLINE, helper, inlined
from ..vectors.scalars import load, maximum, prefetch, prefetch_for_write, shift, store
from ..vectors.vectors import broadcast, broadcast_row, load_row, load_vector, store_row, store_vector
from .operands import NO, ZERO, at_place, operand
from .rules import choice, trait

Operands = namedtuple("Operands", FIELDS)  # pointers; or these with their strides
Step = namedtuple("Step", FIELDS[:9])  # what is read of them at a step
# How many steps; which series; how many of them are walked side by side, whether by vectors; bytes between planes of
# ``carry``, and between results.
Walk = namedtuple("Walk", "steps low high chunk by_vectors plane result")


def plain(x, successors, h):
    """Compute what `walk` does without weights of actions, of a `Step` of arrays (steps, series)."""
    for j in range(h.shape[1]):
        later = constant(0.0, h)
        for t in range(len(h) - 1, -1, -1):
            now = Step(*(field[t, j] for field in x))
            h[t, j] = later = recurrence.advantage(now, successors[t, j], later)


# Whether one number serves a vector.
one_reward, one_value, one_successor, one_mask, one_gamma, one_lam, one_end, one_cut, one_rho = map(trait, FIELDS[:9])
is_off_policy, has_successors, has_cuts, is_masked, adds_values = map(trait, TRAITS)
advantage, vtrace = inlined(recurrence.advantage), inlined(recurrence.vtrace)
for part in recurrence.guarded, recurrence.at_most, recurrence.end_of, recurrence.error_of:
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
def read_state(rule, get, carry, how):
    later, value = get(rule, NO, carry, carry), get(rule, NO, shift(carry, how.plane), carry)
    if not is_off_policy(rule):
        return State(later, value, value, value, value, value, value)
    return State(
        later, value, get(rule, NO, shift(carry, 2 * how.plane), carry),
        get(rule, NO, shift(carry, 3 * how.plane), carry), get(rule, NO, shift(carry, 4 * how.plane), carry),
        get(rule, NO, shift(carry, 5 * how.plane), carry), get(rule, NO, shift(carry, 6 * how.plane), carry),
    )  # fmt: skip


@inlined
def write_state(rule, put, carry, how, state):
    put(rule, carry, state.later)
    put(rule, shift(carry, how.plane), state.value)
    if is_off_policy(rule):
        put(rule, shift(carry, 2 * how.plane), state.target)
        put(rule, shift(carry, 3 * how.plane), state.is_known)


@inlined
def advance(rule, get, put, at, how, state, t, j):
    """Write the result of a step; return the state before it."""
    x, h = read(rule, get, at, t, j), at_place(at.h, t, j, ZERO, ZERO)
    zero, successor = constant(0.0, x.rewards), x.successors if has_successors(rule) else state.value
    is_read, target, is_known = zero < x.mask, state.target, state.is_known
    if is_off_policy(rule):
        next_target = select(zero < is_known, target, successor)
        now, better = vtrace(x, successor, state.later, next_target, state.rho, state.c, state.pg_rho)
        put(rule, shift(h, how.result), select(is_read, better, zero) if is_masked(rule) else better)
        one = constant(1.0, zero)
        target, is_known = now + x.values, select(zero < x.rewards, one, one)  # of each series, as Python too
    else:
        now = advantage(x, successor, state.later)
    result, value = now + x.values if adds_values(rule) else now, x.values
    if is_masked(rule):
        result, now = select(is_read, result, zero), select(is_read, now, state.later)
        value = select(is_read, value, state.value)
        target, is_known = select(is_read, target, state.target), select(is_read, is_known, state.is_known)
    put(rule, h, result)
    return State(now, value, target, is_known, state.rho, state.c, state.pg_rho)


@inlined
def walk_alone(rule, get, put, at, how, j):
    """Walk a series, or all of a row, whose state stays in registers."""
    carry = at_place(at.carry, ZERO, j, ZERO, ZERO)
    state = read_state(rule, get, carry, how)
    for t in range(how.steps - 1, -1, -1):
        state = advance(rule, get, put, at, how, state, t, j)
    write_state(rule, put, carry, how, state)


@helper
def walk_row(rule, at, how):
    """Walk the few series of a row, whose number is known, all at once."""
    walk_alone(rule, get_row, store_row, at, how, ZERO)


# From the last series to the first, so that who walks along time walks down through memory all the way.
@helper
def walk_each(rule, at, how):
    """Walk series one after the other."""
    for j in range(how.high - 1, how.low - 1, -1):
        walk_alone(rule, get, put, at, how, j)


@helper
def walk_rows(rule, at, how):
    """Walk neighboring series side by side, so many at once, by vectors if they are neighbors in memory."""
    end = how.high
    while end > how.low:
        first = maximum(how.low, end - how.chunk)
        whole = first + (end - first) // WIDTH * WIDTH * how.by_vectors
        for t in range(how.steps - 1, -1, -1):
            for j in range(first, whole, WIDTH):
                # What is read two steps before, and where results go.
                prefetch(at.rewards.at, j, (t - 2) * at.rewards.step)
                prefetch(at.values.at, j, (t - 2) * at.values.step)
                prefetch_for_write(at.h.at, j, (t - 2) * at.h.step)
                carry = at_place(at.carry, ZERO, j, ZERO, ZERO)
                state = advance(rule, get_vector, put_vector, at, how, read_state(rule, get_vector, carry, how), t, j)
                write_state(rule, put_vector, carry, how, state)
            for j in range(whole, end):
                place = at_place(at.carry, ZERO, j, ZERO, ZERO)
                now = advance(rule, get, put, at, how, read_state(rule, get, place, how), t, j)
                write_state(rule, put, place, how, now)
        end = first


walk_all = choice("narrow", walk_row, choice("rows", walk_rows, walk_each))


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

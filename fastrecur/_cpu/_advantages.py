"""The kernel of returns: one scan against time, of series side by side or of one after the other."""

from collections import namedtuple

from numba.extending import register_jitable

from .. import _steps
from .._steps import constant, select
from ._numba import INLINE, helper, inlined
from ._rules import trait
from ._scalars import load, load_int, minimum, prefetch, prefetch_for_write, shift, store
from ._types import WIDTH
from ._vectors import broadcast, load_vector, store_vector

# Words of ``geometry``: the number of steps; which series; how many of them are walked side by side, whether by
# vectors; whether a step's own value is added to a sum; bytes between the planes of ``carry`` and of ``h``. Then the
# operands' strides of time, and of neighboring series.
N_STEPS, LOW, HIGH, CHUNK, BY_VECTORS, ADDS_VALUES, PLANE, RESULT = range(8)
FIELDS = "rewards values successors mask gamma lam ends cuts rhos h carry".split()
TIME, INNER = 8, 8 + len(FIELDS)

Operands = namedtuple("Operands", FIELDS)  # of a step, or their strides
Step = namedtuple("Step", FIELDS[:9])  # what is read of them
# Planes of ``carry``: what is known of the next step that is read, and the greatest weights.
State = namedtuple("State", "later value target is_known rho c pg_rho")
Walk = namedtuple("Walk", "steps plane result adds_values time inner")

# Whether one number serves a vector.
one_reward, one_value, one_successor, one_mask, one_gamma, one_lam, one_end, one_cut, one_rho = map(trait, FIELDS[:9])
# Whether there are weights of actions, values of the states after each step (else the next step's are taken), and
# episodes that are cut off.
is_off_policy, has_successors, has_cuts = map(trait, ("off_policy", "has_successors", "has_cuts"))
advantage, vtrace = inlined(_steps.advantage), inlined(_steps.vtrace)
for part in _steps.guarded, _steps.at_most, _steps.end_of, _steps.error_of:
    register_jitable(**INLINE)(part)


@inlined
def get(is_one, pointer, j, stride, carry):
    return load(shift(pointer, j * stride), 0, carry)


@inlined
def get_vector(is_one, pointer, j, stride, carry):
    return broadcast(load(pointer, 0, carry)) if is_one else load_vector(pointer, j, carry)


@inlined
def strides(g, field):
    return Operands(
        load_int(g, field), load_int(g, field + 1), load_int(g, field + 2), load_int(g, field + 3),
        load_int(g, field + 4), load_int(g, field + 5), load_int(g, field + 6), load_int(g, field + 7),
        load_int(g, field + 8), load_int(g, field + 9), load_int(g, field + 10),
    )  # fmt: skip


@inlined
def moved(at, by, n):
    """Return where the operands stand so many series, or steps, on."""
    return Operands(
        shift(at.rewards, n * by.rewards), shift(at.values, n * by.values), shift(at.successors, n * by.successors),
        shift(at.mask, n * by.mask), shift(at.gamma, n * by.gamma), shift(at.lam, n * by.lam),
        shift(at.ends, n * by.ends), shift(at.cuts, n * by.cuts), shift(at.rhos, n * by.rhos), shift(at.h, n * by.h),
        shift(at.carry, n * by.carry),
    )  # fmt: skip


@inlined
def read(rule, get, at, by, j):
    """Return what a step reads, of one series or, by ``get_vector``, of a vector of them."""
    like = at.carry
    ends = get(one_end(rule), at.ends, j, by.ends, like)
    return Step(
        get(one_reward(rule), at.rewards, j, by.rewards, like), get(one_value(rule), at.values, j, by.values, like),
        get(one_successor(rule), at.successors, j, by.successors, like), get(one_mask(rule), at.mask, j, by.mask, like),
        get(one_gamma(rule), at.gamma, j, by.gamma, like), get(one_lam(rule), at.lam, j, by.lam, like),
        ends, get(one_cut(rule), at.cuts, j, by.cuts, like) if has_cuts(rule) else ends,
        get(one_rho(rule), at.rhos, j, by.rhos, like),
    )  # fmt: skip


@inlined
def load_state(load, carry, plane):
    return State(
        load(carry, 0, carry), load(shift(carry, plane), 0, carry), load(shift(carry, 2 * plane), 0, carry),
        load(shift(carry, 3 * plane), 0, carry), load(shift(carry, 4 * plane), 0, carry),
        load(shift(carry, 5 * plane), 0, carry), load(shift(carry, 6 * plane), 0, carry),
    )  # fmt: skip


@inlined
def store_state(rule, store, carry, plane, state):
    store(carry, 0, state.later)
    store(shift(carry, plane), 0, state.value)
    if is_off_policy(rule):
        store(shift(carry, 2 * plane), 0, state.target)
        store(shift(carry, 3 * plane), 0, state.is_known)


@inlined
def step_back(rule, store, at, walk, j, x, state):
    """Take a series, or a vector of neighboring ones, to the step before: write its results, return its state."""
    zero, h = constant(0.0, x.mask), shift(at.h, j * walk.inner.h)
    is_read = zero < x.mask
    successor = x.successors if has_successors(rule) else state.value
    target = state.target
    if is_off_policy(rule):
        next_target = select(zero < state.is_known, target, successor)
        now, better = vtrace(x, successor, state.later, next_target, state)
        store(shift(h, walk.result), 0, select(is_read, better, zero))
        target = select(is_read, now + x.values, target)
    else:
        now = advantage(x, successor, state.later)
    store(h, 0, select(is_read, now + x.values if walk.adds_values != 0 else now, zero))
    return State(
        select(is_read, now, state.later), select(is_read, x.values, state.value), target,
        select(is_read, constant(1.0, x.mask), state.is_known), state.rho, state.c, state.pg_rho,
    )  # fmt: skip


@inlined
def advance(rule, get, load, store, at, walk, j):
    """Take series whose states are in memory to the step before."""
    carry, x = shift(at.carry, j * walk.inner.carry), read(rule, get, at, walk.inner, j)
    state = load_state(load, carry, walk.plane)
    store_state(rule, store, carry, walk.plane, step_back(rule, store, at, walk, j, x, state))


@helper
def walk_rows(rule, at, walk, whole, count):
    """Walk so many neighboring series side by side, ``whole`` of them by vectors."""
    at = moved(at, walk.time, walk.steps - 1)
    for _ in range(walk.steps):
        for j in range(0, whole, WIDTH):
            prefetch(at.rewards, j, -2 * walk.time.rewards)  # what is read two steps before, and where results go
            prefetch(at.values, j, -2 * walk.time.values)
            prefetch_for_write(at.h, j, -2 * walk.time.h)
            advance(rule, get_vector, load_vector, store_vector, at, walk, j)
        for j in range(whole, count):
            advance(rule, get, load, store, at, walk, j)
        at = moved(at, walk.time, -1)


@helper
def walk_series(rule, at, walk):
    """Walk one series, with its state in registers."""
    carry = at.carry
    state, at = load_state(load, carry, walk.plane), moved(at, walk.time, walk.steps - 1)
    for _ in range(walk.steps):
        x = read(rule, get, at, walk.inner, 0)
        state = step_back(rule, store, at, walk, 0, x, state)
        at = moved(at, walk.time, -1)
    store_state(rule, store, carry, walk.plane, state)


def walk(rule, at: Operands, geometry):
    """Walk series against time."""
    walk = Walk(
        load_int(geometry, N_STEPS), load_int(geometry, PLANE), load_int(geometry, RESULT),
        load_int(geometry, ADDS_VALUES), strides(geometry, TIME), strides(geometry, INNER),
    )  # fmt: skip
    low, lane, chunk = load_int(geometry, LOW), load_int(geometry, HIGH), load_int(geometry, CHUNK)
    # From the last series to the first, so that who walks along time walks down through memory all the way.
    while lane > low:
        count = minimum(chunk, lane - low)
        lane -= count
        here = moved(at, walk.inner, lane)
        if count == 1:
            walk_series(rule, here, walk)
        else:
            walk_rows(rule, here, walk, count // WIDTH * WIDTH * load_int(geometry, BY_VECTORS), count)

"""The kernel of returns: one scan against time, of rows of neighboring series, or of a series' steps by vectors."""

from collections import namedtuple

from numba.extending import register_jitable

from .. import _steps
from .._steps import constant, everywhere, is_finite, select
from ._numba import INLINE, helper, inlined
from ._rules import choice, trait
from ._scalars import load, load_int, minimum, prefetch, prefetch_for_write, shift, stack, store
from ._types import WIDTH
from ._vectors import broadcast, lane_of, later, load_vector, store_vector

# Words of ``geometry``: the number of steps; which series; how many of them are walked side by side, whether by
# vectors, or steps by vectors; whether values of the states after each step come with it, and whether its own value is
# added to a sum; bytes between the planes of ``carry``. Then the operands' strides from series to series of other
# dimensions, of time, and of neighboring series.
N_STEPS, FIRST, LAST, LOW, HIGH, CHUNK, BY_VECTORS, HAS_SUCCESSORS, ADDS_VALUES, PLANE = range(10)
FIELDS = "rewards values successors mask gamma lam ends cuts h carry".split()
OUTER, TIME, INNER = (10 + k * len(FIELDS) for k in range(3))
AHEAD = 512  # steps: prefetch distance along time
BLOCK = 128  # steps

Operands = namedtuple("Operands", FIELDS)  # of a step, or their strides
Step = namedtuple("Step", FIELDS[:8])  # what is read of them
Rows = namedtuple("Rows", "following mask added decay added_by_two decay_of_two sums")  # buffers for a block of steps
Walk = namedtuple("Walk", "steps plane has_successors adds_values time inner")

# Whether one number serves a vector.
one_reward, one_value, one_successor, one_mask, one_gamma, one_lam, one_end, one_cut = map(trait, FIELDS[:8])
add_later, terms = inlined(_steps.add_later), inlined(_steps.advantage_terms)
register_jitable(**INLINE)(_steps.guarded)


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
        load_int(g, field + 8), load_int(g, field + 9),
    )  # fmt: skip


@inlined
def moved(at, by, n):
    """Return where the operands stand so many series, or steps, on."""
    return Operands(
        shift(at.rewards, n * by.rewards), shift(at.values, n * by.values), shift(at.successors, n * by.successors),
        shift(at.mask, n * by.mask), shift(at.gamma, n * by.gamma), shift(at.lam, n * by.lam),
        shift(at.ends, n * by.ends), shift(at.cuts, n * by.cuts), shift(at.h, n * by.h),
        shift(at.carry, n * by.carry),
    )  # fmt: skip


@inlined
def read(rule, get, at, by, j):
    """Return what a step reads, of one series or, by ``get_vector``, of a vector of series or steps."""
    like = at.carry
    return Step(
        get(one_reward(rule), at.rewards, j, by.rewards, like), get(one_value(rule), at.values, j, by.values, like),
        get(one_successor(rule), at.successors, j, by.successors, like), get(one_mask(rule), at.mask, j, by.mask, like),
        get(one_gamma(rule), at.gamma, j, by.gamma, like), get(one_lam(rule), at.lam, j, by.lam, like),
        get(one_end(rule), at.ends, j, by.ends, like), get(one_cut(rule), at.cuts, j, by.cuts, like),
    )  # fmt: skip


@inlined
def prefetch_all(rule, at, j, n, by):
    """Prefetch what is read so many steps from here, and where their results go."""
    prefetch(at.rewards, j, n * by.rewards)
    prefetch(at.values, j, n * by.values)
    prefetch_for_write(at.h, j, n * by.h)
    if not one_gamma(rule):
        prefetch(at.gamma, j, n * by.gamma)
    if not one_lam(rule):
        prefetch(at.lam, j, n * by.lam)


@inlined
def result_of(walk, x, now):
    """Return what is written of the sum at a step."""
    zero = constant(0.0, now)
    return select(zero < x.mask, now + x.values if walk.adds_values != 0 else now, zero)


@inlined
def advance(rule, get, load, store, at, walk, j):
    """Take a series, or a vector of neighboring ones, to the step before."""
    carry, x = shift(at.carry, j * walk.inner.carry), read(rule, get, at, walk.inner, j)
    values = shift(carry, walk.plane)
    value = load(values, 0, carry)
    added, decay = terms(x, x.successors if walk.has_successors != 0 else value, True)
    now = add_later(load(carry, 0, carry), added, decay, True)
    store(carry, 0, now)
    store(values, 0, select(constant(0.0, now) < x.mask, x.values, value))
    store(shift(at.h, j * walk.inner.h), 0, result_of(walk, x, now))


@helper
def walk_rows(rule, at, walk, whole, count):
    """Walk so many neighboring series side by side, ``whole`` of them by vectors."""
    at = moved(at, walk.time, walk.steps - 1)
    for _ in range(walk.steps):
        for j in range(0, whole, WIDTH):
            prefetch_all(rule, at, j, -2, walk.time)
            advance(rule, get_vector, load_vector, store_vector, at, walk, j)
        for j in range(whole, count):
            advance(rule, get, load, store, at, walk, j)
        at = moved(at, walk.time, -1)


@inlined
def look_ahead(rule, at, walk, rows, steps, value):
    """Note the value of the next step that is read for each of so many steps; return that for the one before them."""
    carry, none = rows.following, constant(0.0, value)
    for t in range(steps - WIDTH, -1, -WIDTH):
        x = read(rule, get_vector, moved(at, walk.time, t), walk.time, 0)
        if everywhere(constant(0.0, x.mask) < x.mask):
            store_vector(rows.following, t, later(x.values, broadcast(value), 1))
            value = lane_of(x.values, 0)
        else:
            store_vector(rows.following, t, x.values)
            store_vector(rows.mask, 0, x.mask)
            for k in range(WIDTH - 1, -1, -1):
                own, is_read = load(carry, t + k, carry), none < load(rows.mask, k, carry)
                store(rows.following, t + k, value)
                value = select(is_read, own, value)
    return value


@inlined
def add_up(rows, steps, now, guards):
    """Note the sum at each of so many steps; return the first."""
    carry = rows.sums
    for t in range(steps - 2, -1, -2):
        # Two steps at a time: what waits for the sum after them is half as long.
        store(carry, t + 1, add_later(now, load(rows.added, t + 1, carry), load(rows.decay, t + 1, carry), guards))
        now = add_later(now, load(rows.added_by_two, t, carry), load(rows.decay_of_two, t, carry), guards)
        store(carry, t, now)
    return now


@inlined
def walk_block(rule, at, walk, rows, steps, now, guards):
    """Walk whole vectors of steps from the sum after them; return the first one's."""
    for t in range(0, steps, WIDTH):
        here = moved(at, walk.time, t)
        prefetch_all(rule, here, 0, -AHEAD, walk.time)
        x = read(rule, get_vector, here, walk.time, 0)
        following = load_vector(rows.following, t, rows.following)
        added, decay = terms(x, x.successors if walk.has_successors != 0 else following, guards)
        store_vector(rows.added, t, added)
        store_vector(rows.decay, t, decay)
        store_vector(rows.added_by_two, t, add_later(later(added, added, 1), added, decay, guards))
        store_vector(rows.decay_of_two, t, add_later(later(decay, decay, 1), constant(0.0, decay), decay, guards))
    now = add_up(rows, steps, now, guards)
    for t in range(0, steps, WIDTH):
        here = moved(at, walk.time, t)
        x = read(rule, get_vector, here, walk.time, 0)
        store_vector(here.h, 0, result_of(walk, x, load_vector(rows.sums, t, rows.sums)))
    return now


@helper
def walk_series(rule, at, walk, whole, count):
    """Walk one series whose steps are neighbors."""
    carry, values = at.carry, shift(at.carry, walk.plane)
    rows = Rows(
        stack(carry, BLOCK), stack(carry, WIDTH), stack(carry, BLOCK), stack(carry, BLOCK), stack(carry, BLOCK),
        stack(carry, BLOCK), stack(carry, BLOCK),
    )  # fmt: skip
    t = walk.steps
    while t % WIDTH != 0:
        t -= 1
        advance(rule, get, load, store, moved(at, walk.time, t), walk, 0)
    now, value = load(carry, 0, carry), load(values, 0, carry)
    while t > 0:
        steps = minimum(BLOCK, t)
        t -= steps
        here = moved(at, walk.time, t)
        if walk.has_successors == 0:
            value = look_ahead(rule, here, walk, rows, steps, value)
        new = walk_block(rule, here, walk, rows, steps, now, False)
        # What is not finite once stays so up to the first step, unless weights of 0 are guarded.
        now = new if is_finite(new) else walk_block(rule, here, walk, rows, steps, now, True)
    store(carry, 0, now)
    store(values, 0, value)


walk_part = choice("by_steps", walk_series, walk_rows)


def walk(rule, rewards, values, successors, mask, gamma, lam, ends, cuts, h, carry, geometry):
    """Walk series against time; ``carry`` has a plane of sums, and one of values of the next steps that are read."""
    at = Operands(rewards, values, successors, mask, gamma, lam, ends, cuts, h, carry)
    walk = Walk(
        load_int(geometry, N_STEPS), load_int(geometry, PLANE), load_int(geometry, HAS_SUCCESSORS),
        load_int(geometry, ADDS_VALUES), strides(geometry, TIME), strides(geometry, INNER),
    )  # fmt: skip
    low, high, chunk = load_int(geometry, LOW), load_int(geometry, HIGH), load_int(geometry, CHUNK)
    # From the last series to the first, so that who walks along time walks down through memory all the way.
    for block in range(load_int(geometry, LAST) - 1, load_int(geometry, FIRST) - 1, -1):
        row = moved(at, strides(geometry, OUTER), block)
        lane = high
        while lane > low:
            count = minimum(chunk, lane - low)
            lane -= count
            whole = count // WIDTH * WIDTH * load_int(geometry, BY_VECTORS)
            walk_part(rule, moved(row, walk.inner, lane), walk, whole, count)

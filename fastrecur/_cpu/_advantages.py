"""The kernel of returns: one scan against time, of rows of neighbouring series, or of a series' steps by vectors."""

from collections import namedtuple

from .. import _steps
from .._steps import constant, everywhere, select
from ._numba import helper, inlined
from ._scalars import load, load_int, minimum, prefetch, shift, stack, store
from ._types import WIDTH
from ._vectors import broadcast, lane_of, later, load_vector, store_vector

# Words of ``geometry``: the number of steps; which series; how many of them are walked side by side, whether by
# vectors, or steps by vectors; whether values of the states after each step come with it, and whether its own value is
# added to a sum; bytes between the planes of ``carry``. Then the strides of each operand.
N_STEPS, FIRST, LAST, LOW, HIGH, CHUNK, BY_SERIES, BY_STEPS, HAS_SUCCESSORS, ADDS_VALUES, PLANE, HEAD = range(12)
OUTER, TIME, INNER = range(3)
PREFETCH = 4096  # bytes: prefetch distance, in whole rows

Operands = namedtuple("Operands", "rewards values successors mask gamma lam ends cuts h carry")  # of a step
Rows = namedtuple("Rows", "values mask added decay sums")  # of a vector of steps
Step = namedtuple("Step", Operands._fields[:8])  # what is read of them
REWARDS, VALUES, SUCCESSORS, MASK, GAMMA, LAM, ENDS, CUTS, H, CARRY = range(HEAD, HEAD + 30, 3)

add_later, terms = inlined(_steps.add_later), inlined(_steps.advantage_terms)


@inlined
def get(pointer, j, stride, carry):
    return load(shift(pointer, j * stride), 0, carry)


@inlined
def get_vector(pointer, j, stride, carry):
    return broadcast(load(pointer, 0, carry)) if stride == 0 else load_vector(shift(pointer, j * stride), 0, carry)


@inlined
def moved(at, geometry, field, n):
    """Return where the operands stand so many series, or steps, on."""
    g = geometry
    return Operands(
        shift(at.rewards, n * load_int(g, REWARDS + field)), shift(at.values, n * load_int(g, VALUES + field)),
        shift(at.successors, n * load_int(g, SUCCESSORS + field)), shift(at.mask, n * load_int(g, MASK + field)),
        shift(at.gamma, n * load_int(g, GAMMA + field)), shift(at.lam, n * load_int(g, LAM + field)),
        shift(at.ends, n * load_int(g, ENDS + field)), shift(at.cuts, n * load_int(g, CUTS + field)),
        shift(at.h, n * load_int(g, H + field)), shift(at.carry, n * load_int(g, CARRY + field)),
    )  # fmt: skip


@inlined
def read(get, at, geometry, field, j):
    """Return what a step reads, of one series or, by ``get_vector``, of a vector of series or steps."""
    g, like = geometry, at.carry
    return Step(
        get(at.rewards, j, load_int(g, REWARDS + field), like), get(at.values, j, load_int(g, VALUES + field), like),
        get(at.successors, j, load_int(g, SUCCESSORS + field), like), get(at.mask, j, load_int(g, MASK + field), like),
        get(at.gamma, j, load_int(g, GAMMA + field), like), get(at.lam, j, load_int(g, LAM + field), like),
        get(at.ends, j, load_int(g, ENDS + field), like), get(at.cuts, j, load_int(g, CUTS + field), like),
    )  # fmt: skip


@inlined
def terms_of(geometry, x, value):
    """Return what a step adds, and its decay; ``value`` is that of the next step that is read."""
    return terms(x, x.successors if load_int(geometry, HAS_SUCCESSORS) != 0 else value)


@inlined
def result_of(geometry, x, now):
    """Return what is written of the sum at a step."""
    zero = constant(0.0, now)
    return select(zero < x.mask, now + x.values if load_int(geometry, ADDS_VALUES) != 0 else now, zero)


@inlined
def advance(get, load, store, at, geometry, j):
    """Take a series, or a vector of neighbouring ones, to the step before."""
    carry, values = at.carry, shift(at.carry, load_int(geometry, PLANE))
    value, x = load(values, j, carry), read(get, at, geometry, INNER, j)
    added, decay = terms_of(geometry, x, value)
    now = add_later(load(carry, j, carry), added, decay)
    store(carry, j, now)
    store(values, j, select(constant(0.0, now) < x.mask, x.values, value))
    store(shift(at.h, j * load_int(geometry, H + INNER)), 0, result_of(geometry, x, now))


@helper
def walk_rows(at, geometry, count):
    """Walk so many neighbouring series side by side."""
    steps = load_int(geometry, N_STEPS)
    whole = count // WIDTH * WIDTH * load_int(geometry, BY_SERIES)
    at = moved(at, geometry, TIME, steps - 1)
    for _ in range(steps):
        for j in range(0, whole, WIDTH):
            prefetch(at.rewards, j, -PREFETCH)
            advance(get_vector, load_vector, store_vector, at, geometry, j)
        for j in range(whole, count):
            advance(get, load, store, at, geometry, j)
        at = moved(at, geometry, TIME, -1)


@inlined
def next_values(x, value, rows):
    """Return, for each step of a vector and for the one before it, the value of the next step that is read."""
    carry, none = rows.values, constant(0.0, value)
    if everywhere(constant(0.0, x.mask) < x.mask):
        return later(x.values, broadcast(value), 1), lane_of(x.values, 0)
    store_vector(rows.values, 0, x.values)
    store_vector(rows.mask, 0, x.mask)
    for ago in range(1, WIDTH + 1):
        own = load(rows.values, WIDTH - ago, carry)
        store(rows.values, WIDTH - ago, value)
        value = select(none < load(rows.mask, WIDTH - ago, carry), own, value)
    return load_vector(rows.values, 0, carry), value


@helper
def walk_series(at, geometry):
    """Walk one series whose steps are neighbours."""
    steps, carry, values = load_int(geometry, N_STEPS), at.carry, shift(at.carry, load_int(geometry, PLANE))
    rows = Rows(stack(carry, WIDTH), stack(carry, WIDTH), stack(carry, WIDTH), stack(carry, WIDTH), stack(carry, WIDTH))
    whole = steps - steps % WIDTH
    for ago in range(1, steps - whole + 1):
        advance(get, load, store, moved(at, geometry, TIME, steps - ago), geometry, 0)
    now, value = load(carry, 0, carry), load(values, 0, carry)
    for ago in range(WIDTH, whole + 1, WIDTH):
        here = moved(at, geometry, TIME, whole - ago)
        x = read(get_vector, here, geometry, TIME, 0)
        following, value = next_values(x, value, rows)
        added, decay = terms_of(geometry, x, following)
        store_vector(rows.added, 0, added)
        store_vector(rows.decay, 0, decay)
        for k in range(1, WIDTH + 1):
            now = add_later(now, load(rows.added, WIDTH - k, carry), load(rows.decay, WIDTH - k, carry))
            store(rows.sums, WIDTH - k, now)
        store_vector(here.h, 0, result_of(geometry, x, load_vector(rows.sums, 0, carry)))
    store(carry, 0, now)
    store(values, 0, value)


def walk(rewards, values, successors, mask, gamma, lam, ends, cuts, h, carry, geometry):
    """Walk series against time; ``carry`` has a plane of sums, and one of values of the next steps that are read."""
    at = Operands(rewards, values, successors, mask, gamma, lam, ends, cuts, h, carry)
    low, high, chunk = load_int(geometry, LOW), load_int(geometry, HIGH), load_int(geometry, CHUNK)
    for block in range(load_int(geometry, FIRST), load_int(geometry, LAST)):
        row = moved(at, geometry, OUTER, block)
        for lane in range(low, high, chunk):
            here = moved(row, geometry, INNER, lane)
            if load_int(geometry, BY_STEPS) != 0:
                walk_series(here, geometry)
            else:
                walk_rows(here, geometry, minimum(chunk, high - lane))

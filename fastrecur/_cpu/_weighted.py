"""Kernels for exponentially weighted statistics: each sample is read once, whatever its layout.

As in `_tiles`, a tile of lanes is brought into a buffer, walked, and put back; how a sample takes part is written in
`_steps`. Where lanes are neighbours, all of them go a tile's steps before the next (``chunk``), so that memory is walked
from one end to the other. A long series is cut into segments, which are lanes then: see `_weighted_run`.

``carry`` holds the lanes' states, one row of `lanes` numbers for each of `PLANES`. ``geometry`` holds `GEOMETRY`, then
for each operand where each lane begins, in bytes.
"""

from numba import njit

from .. import _steps
from .._steps import constant, select
from ._memory import (
    HELPER,
    INLINE,
    broadcast,
    itemsize,
    load,
    load_int,
    load_vector,
    shift,
    stack,
    stack_like,
    store_vector,
    width,
)
from ._tiles import are_spaced, bring, put, row_bytes

GEOMETRY = (
    "steps", "chunk", "lanes", "padded", "x_time", "y_time", "h_time", "gate_time", "adjust", "is_decay", "ignore_na",
    "min_periods", "is_sum", "summarise", "bias",
)  # fmt: skip
HEAD = len(GEOMETRY)
# The rows of ``carry``. DECAY: what a segment multiplies the state before it by.
WEIGHT, COUNT, DECAY, MEAN, MEAN_Y, COVARIANCE, ROOM = range(7)
PLANES = 7
STATE = 16 * PLANES
NAN = float("nan")
STEPS = 32
TILE = 16 * STEPS

is_seen, weigh, covary, forget_same = (
    njit(**INLINE)(step) for step in (_steps.is_seen, _steps.weigh, _steps.covary, _steps.forget_same)
)


@njit(**HELPER)
def bring_gates(rows, gate, offsets, time, steps):
    """Bring gates as `_tiles.bring` does; one row where they are constant in time, and quickly where lanes share them."""
    if time != 0 and are_spaced(offsets, 0, width(rows)):
        base = shift(gate, load_int(offsets, 0))
        for k in range(steps):
            store_vector(shift(rows, k * row_bytes(rows)), 0, broadcast(load(shift(base, k * time), 0, rows)))
    else:
        bring(rows, gate, offsets, time, 1 if time == 0 else steps, STEPS)


@njit(**HELPER)
def walk_average(x_rows, gate_rows, gate_row, h_rows, state, steps, flags):
    """Advance the means, or sums, of a tile's lanes."""
    adjust, is_decay, ignore_na = load_int(flags, 8), load_int(flags, 9), load_int(flags, 10)
    is_sum, summarise = load_int(flags, 12), load_int(flags, 13)
    plane = width(state)
    weight, mean = load_vector(state, WEIGHT * plane, state), load_vector(state, MEAN * plane, state)
    count, product = load_vector(state, COUNT * plane, state), load_vector(state, DECAY * plane, state)
    zero = constant(0.0, weight)
    one, nan = constant(1.0, zero), constant(NAN, zero)
    enough = broadcast(constant(float(load_int(flags, 11)), load(state, 0, state)))
    for k in range(steps):
        x = load_vector(shift(x_rows, k * row_bytes(x_rows)), 0, state)
        gate = load_vector(shift(gate_rows, k * gate_row), 0, state)
        seen = is_seen(x)
        share, kept, weight, decay = weigh(weight, gate, seen, adjust, is_decay, ignore_na)
        if is_sum:
            mean = select(seen, decay * mean + x, decay * mean)
        else:
            mean = forget_same(mean, share, select(seen, x, mean))
        if summarise:
            product = product * (decay if adjust else select(seen, kept, one))
        count = count + select(seen, one, zero)
        store_vector(shift(h_rows, k * row_bytes(h_rows)), 0, select(count < enough, nan, mean))
    store_vector(state, WEIGHT * plane, weight)
    store_vector(state, MEAN * plane, mean)
    store_vector(state, COUNT * plane, count)
    store_vector(state, DECAY * plane, product)


@njit(**HELPER)
def walk_covariance(x_rows, y_rows, gate_rows, gate_row, h_rows, state, steps, flags):
    """Advance the covariances of a tile's lanes."""
    adjust, is_decay, ignore_na = load_int(flags, 8), load_int(flags, 9), load_int(flags, 10)
    summarise, bias = load_int(flags, 13), load_int(flags, 14)
    plane = width(state)
    weight, count = load_vector(state, WEIGHT * plane, state), load_vector(state, COUNT * plane, state)
    mean_x, mean_y = load_vector(state, MEAN * plane, state), load_vector(state, MEAN_Y * plane, state)
    covariance, room = load_vector(state, COVARIANCE * plane, state), load_vector(state, ROOM * plane, state)
    product = load_vector(state, DECAY * plane, state)
    zero = constant(0.0, weight)
    one, nan = constant(1.0, zero), constant(NAN, zero)
    enough = broadcast(constant(float(load_int(flags, 11)), load(state, 0, state)))
    for k in range(steps):
        x = load_vector(shift(x_rows, k * row_bytes(x_rows)), 0, state)
        y = load_vector(shift(y_rows, k * row_bytes(y_rows)), 0, state)
        gate = load_vector(shift(gate_rows, k * gate_row), 0, state)
        seen = is_seen(x + y)
        share, kept, weight, decay = weigh(weight, gate, seen, adjust, is_decay, ignore_na)
        x, y = select(seen, x, mean_x), select(seen, y, mean_y)
        moved, roomier = covary(covariance, room, share, kept, x - mean_x, y - mean_y)
        covariance, room = select(seen, moved, covariance), select(seen, roomier, room)
        mean_x, mean_y = forget_same(mean_x, share, x), forget_same(mean_y, share, y)
        if summarise:
            product = product * (decay if adjust else select(seen, kept, one))
        count = count + select(seen, one, zero)
        result = covariance if bias else select(zero < room, covariance / room, nan)
        store_vector(shift(h_rows, k * row_bytes(h_rows)), 0, select(count < enough, nan, result))
    store_vector(state, WEIGHT * plane, weight)
    store_vector(state, COUNT * plane, count)
    store_vector(state, DECAY * plane, product)
    store_vector(state, MEAN * plane, mean_x)
    store_vector(state, MEAN_Y * plane, mean_y)
    store_vector(state, COVARIANCE * plane, covariance)
    store_vector(state, ROOM * plane, room)


@njit(**HELPER)
def copy_planes(target, to_row, source, from_row, lane, at):
    """Copy the states of a tile's lanes."""
    for plane in range(PLANES):
        store_vector(target, plane * to_row + at, load_vector(source, plane * from_row + lane, target))


def average(rule, x, h, gate, carry, geometry, first, last):
    """Walk the means or sums of lanes ``first`` to ``last``, a multiple of the width apart."""
    steps, chunk, lanes, padded = (
        load_int(geometry, 0), load_int(geometry, 1), load_int(geometry, 2), load_int(geometry, 3),
    )  # fmt: skip
    x_time, h_time, gate_time = load_int(geometry, 4), load_int(geometry, 6), load_int(geometry, 7)
    x_rows, gate_rows, h_rows = stack_like(x, carry, TILE), stack_like(gate, carry, TILE), stack_like(h, carry, TILE)
    gate_row = 0 if gate_time == 0 else row_bytes(gate_rows)
    state = stack(carry, STATE)
    for begin in range(0, steps, chunk):
        end = min(steps, begin + chunk)
        for lane in range(first, last, width(carry)):
            x_at = shift(geometry, 8 * (HEAD + lane))
            h_at, gate_at = shift(x_at, 16 * padded), shift(x_at, 24 * padded)
            copy_planes(state, width(carry), carry, padded, lane, 0)
            for t in range(begin, end, STEPS):
                n = min(STEPS, end - t)
                bring(x_rows, shift(x, t * x_time), x_at, x_time, n, STEPS)
                if gate_time != 0 or t == begin:
                    bring_gates(gate_rows, shift(gate, t * gate_time), gate_at, gate_time, n)
                walk_average(x_rows, gate_rows, gate_row, h_rows, state, n, geometry)
                if not load_int(geometry, 13):
                    count = min(width(carry), lanes - lane)
                    put(shift(h, t * h_time), h_at, h_time, h_rows, n, count, STEPS, False)
            copy_planes(carry, padded, state, width(carry), 0, lane)


def covariance(rule, x, y, h, gate, carry, geometry, first, last):
    """Walk the covariances of lanes ``first`` to ``last``, a multiple of the width apart."""
    steps, chunk, lanes, padded = (
        load_int(geometry, 0), load_int(geometry, 1), load_int(geometry, 2), load_int(geometry, 3),
    )  # fmt: skip
    x_time, y_time, h_time = load_int(geometry, 4), load_int(geometry, 5), load_int(geometry, 6)
    gate_time = load_int(geometry, 7)
    x_rows, y_rows = stack_like(x, carry, TILE), stack_like(y, carry, TILE)
    gate_rows, h_rows = stack_like(gate, carry, TILE), stack_like(h, carry, TILE)
    gate_row = 0 if gate_time == 0 else row_bytes(gate_rows)
    state = stack(carry, STATE)
    for begin in range(0, steps, chunk):
        end = min(steps, begin + chunk)
        for lane in range(first, last, width(carry)):
            x_at = shift(geometry, 8 * (HEAD + lane))
            y_at, h_at, gate_at = shift(x_at, 8 * padded), shift(x_at, 16 * padded), shift(x_at, 24 * padded)
            copy_planes(state, width(carry), carry, padded, lane, 0)
            for t in range(begin, end, STEPS):
                n = min(STEPS, end - t)
                bring(x_rows, shift(x, t * x_time), x_at, x_time, n, STEPS)
                bring(y_rows, shift(y, t * y_time), y_at, y_time, n, STEPS)
                if gate_time != 0 or t == begin:
                    bring_gates(gate_rows, shift(gate, t * gate_time), gate_at, gate_time, n)
                walk_covariance(x_rows, y_rows, gate_rows, gate_row, h_rows, state, n, geometry)
                if not load_int(geometry, 13):
                    count = min(width(carry), lanes - lane)
                    put(shift(h, t * h_time), h_at, h_time, h_rows, n, count, STEPS, False)
            copy_planes(carry, padded, state, width(carry), 0, lane)

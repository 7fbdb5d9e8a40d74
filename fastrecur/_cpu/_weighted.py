"""Kernels for exponentially weighted statistics: each sample is read once, whatever its layout.

As in `_tiles`, a tile of lanes is brought into a buffer, walked, and put back; how a sample takes part is written in
`_steps`. Where lanes are neighbours, all of them go a tile's steps before the next (``chunk``), so that memory is
walked from one end to the other. A few long lanes whose samples are neighbours go through `_weighted_series` instead.

Where a tile's lanes have one weight, it is walked as if no sample were missing, with a number for it; if one was, it is
walked again, with a weight for each lane.

``carry`` holds the lanes' states, one row of numbers for each of `PLANES`. ``geometry`` holds `GEOMETRY`, then for each
operand where each lane begins, in bytes. A rule names the traits below that hold.
"""

from .. import _steps
from .._steps import constant, everywhere, select
from ._memory import (
    broadcast,
    fence,
    itemsize,
    load,
    load_int,
    load_vector,
    minimum,
    misalignment,
    prefetch,
    shift,
    stack,
    stack_like,
    store,
    store_vector,
    stream_vector,
    width,
)
from ._numba import helper, inlined
from ._rules import trait
from ._tiles import NEAR, are_spaced, bring, put, row_bytes, soon, steps_to_line

GEOMETRY = (
    "steps", "chunk", "lanes", "padded", "x_time", "y_time", "h_time", "gate_time", "min_periods", "bias", "bypass",
)  # fmt: skip
HEAD = len(GEOMETRY)
# The rows of ``carry``. Means of what covaries are deviations from the ORIGIN, a value of the series: data far from 0
# lose nothing.
WEIGHT, COUNT, MEAN, ORIGIN, ORIGIN_Y, MEAN_Y, COVARIANCE, ROOM = range(8)
PLANES = 8
AVERAGE_PLANES = MEAN + 1
STATE = 16 * PLANES
STEPS = 32
TILE = 16 * STEPS
ROWS_AHEAD = 16  # at which rows in memory are asked for, where those of the next chunk are too far
NAN = float("nan")

is_seen, weigh, approach, covary = (
    inlined(step) for step in (_steps.is_seen, _steps.weigh, _steps.approach, _steps.covary)
)


adjust, timed, ignore_na, is_sum = map(trait, ("adjust", "timed", "ignore_na", "sum"))
variance = trait("variance")  # both series are one


@inlined
def are_seen(x, y):
    """Return whether both samples are there; their sum might overflow."""
    return (x - x) + (y - y) == constant(0.0, x)


@helper
def bring_gates(rows, gate, offsets, time, steps, shared):
    """Bring gates as `_tiles.bring` does; one row where they are constant, and quickly where lanes share them."""
    if time != 0 and shared:
        base = shift(gate, load_int(offsets, 0))
        for k in range(steps):
            store_vector(shift(rows, k * row_bytes(rows)), 0, broadcast(load(shift(base, k * time), 0, rows)))
    else:
        bring(rows, gate, offsets, time, 1 if time == 0 else steps, soon(gate, time))


@helper
def put_results(h, offsets, time, rows, steps, lanes, bypass):
    """Write results as `_tiles.put` does; whole lines of rows past the cache."""
    base = shift(h, load_int(offsets, 0))
    whole = lanes == width(rows) and are_spaced(offsets, itemsize(h), lanes)
    if bypass and whole and misalignment(base) == 0 and time % 64 == 0:
        for k in range(steps):
            stream_vector(shift(base, k * time), 0, load_vector(shift(rows, k * row_bytes(rows)), 0, rows))
    else:
        bypass = bypass and steps_to_line(h, offsets, time, rows) == 0
        put(h, offsets, time, rows, steps, lanes, soon(h, time), bypass)


@helper
def is_level(state, plane, shared, least):
    """Return whether all lanes have one weight now, the same gates, and as many samples as a result needs."""
    weight, count = (
        load_vector(shift(state, WEIGHT * plane), 0, state),
        load_vector(shift(state, COUNT * plane), 0, state),
    )
    enough = broadcast(constant(float(least) - 0.5, load(state, 0, state)))
    return shared and everywhere(weight == broadcast(load(state, WEIGHT * 16, state))) and everywhere(enough < count)


@helper
def walk_level_average(
    rule, x_rows, x_row, gate_rows, gate_row, h_rows, h_row, state, plane, steps, ahead, bypass
):  # fmt: skip
    """Walk as if no sample were missing; return whether that was so: if not, nothing but ``h_rows`` has changed.

    What is missing makes the mean NaN, and it stays so. Rows are a buffer's, or those in memory, which are asked for
    ``ahead`` bytes before their turn, and may be written past the cache.
    """
    number = load(state, WEIGHT * 16, state)
    # Numbers first, in memory: a loop that broadcasts what it has just worked out would wait for it to be stored.
    shares, rest = stack(state, STEPS), stack(state, STEPS)
    for k in range(steps):
        gate = load(shift(gate_rows, k * gate_row), 0, state)
        share, kept, number, decay = weigh(number, gate, True, adjust(rule), timed(rule), ignore_na(rule))
        store(shares, k, decay if is_sum(rule) else share)
        store(rest, k, kept)
    mean = load_vector(shift(state, MEAN * plane), 0, state)
    one = constant(1.0, mean)
    for k in range(steps):
        if ahead != 0:
            prefetch(x_rows, 0, k * x_row + ahead)
        x = load_vector(shift(x_rows, k * x_row), 0, state)
        share = broadcast(load(shares, k, state))
        if is_sum(rule):
            mean = share * mean + x
        else:
            mean = approach(mean, share, broadcast(load(rest, k, state)), x)
        if bypass:
            stream_vector(shift(h_rows, k * h_row), 0, mean)
        else:
            store_vector(shift(h_rows, k * h_row), 0, mean)
    if not everywhere(is_seen(mean)):
        return False
    count = load_vector(shift(state, COUNT * plane), 0, state) + broadcast(constant(float(steps), number))
    store_vector(shift(state, WEIGHT * plane), 0, broadcast(number) * one)
    store_vector(shift(state, MEAN * plane), 0, mean)
    store_vector(shift(state, COUNT * plane), 0, count)
    return True


@helper
def walk_average(rule, x_rows, gate_rows, gate_row, shared, h_rows, state, steps, least, is_tried):
    """Advance the means, or sums, of a tile's lanes; ``is_tried`` says that it is known not to be complete."""
    plane = width(state) * itemsize(state)
    if not is_tried and is_level(state, plane, shared, least):
        x_row, h_row = row_bytes(x_rows), row_bytes(h_rows)
        if walk_level_average(
            rule, x_rows, x_row, gate_rows, gate_row, h_rows, h_row, state, plane, steps, 0, False
        ):  # fmt: skip
            return
    mean, count = load_vector(shift(state, MEAN * plane), 0, state), load_vector(shift(state, COUNT * plane), 0, state)
    weight = load_vector(shift(state, WEIGHT * plane), 0, state)
    zero = constant(0.0, mean)
    one, nan = constant(1.0, zero), constant(NAN, zero)
    enough = broadcast(constant(float(least), load(state, 0, state)))
    for k in range(steps):
        x = load_vector(shift(x_rows, k * row_bytes(x_rows)), 0, state)
        gates = load_vector(shift(gate_rows, k * gate_row), 0, state)
        seen = is_seen(x)
        shares, rest, weight, decays = weigh(weight, gates, seen, adjust(rule), timed(rule), ignore_na(rule))
        if is_sum(rule):
            mean = select(seen, decays * mean + x, decays * mean)
        else:
            mean = select(seen, approach(mean, shares, rest, x), mean)
        count = count + select(seen, one, zero)
        store_vector(shift(h_rows, k * row_bytes(h_rows)), 0, select(count < enough, nan, mean))
    store_vector(shift(state, WEIGHT * plane), 0, weight)
    store_vector(shift(state, MEAN * plane), 0, mean)
    store_vector(shift(state, COUNT * plane), 0, count)


@helper
def walk_covariance(rule, x_rows, y_rows, gate_rows, gate_row, h_rows, state, steps, least, bias):
    """Advance the covariances of a tile's lanes."""
    plane = width(state) * itemsize(state)
    weight, count = (
        load_vector(shift(state, WEIGHT * plane), 0, state),
        load_vector(shift(state, COUNT * plane), 0, state),
    )
    mean_x, mean_y = (
        load_vector(shift(state, MEAN * plane), 0, state),
        load_vector(shift(state, MEAN_Y * plane), 0, state),
    )
    covariance = load_vector(shift(state, COVARIANCE * plane), 0, state)
    room = load_vector(shift(state, ROOM * plane), 0, state)
    origin_x = load_vector(shift(state, ORIGIN * plane), 0, state)
    origin_y = load_vector(shift(state, ORIGIN_Y * plane), 0, state)
    zero = constant(0.0, weight)
    one, nan = constant(1.0, zero), constant(NAN, zero)
    enough = broadcast(constant(float(least), load(state, 0, state)))
    for k in range(steps):
        x = load_vector(shift(x_rows, k * row_bytes(x_rows)), 0, state) - origin_x
        y = x if variance(rule) else load_vector(shift(y_rows, k * row_bytes(y_rows)), 0, state) - origin_y
        gate = load_vector(shift(gate_rows, k * gate_row), 0, state)
        seen = is_seen(x) if variance(rule) else are_seen(x, y)
        share, kept, weight, _ = weigh(weight, gate, seen, adjust(rule), timed(rule), ignore_na(rule))
        moved, roomier = covary(covariance, room, share, kept, x - mean_x, y - mean_y)
        covariance, room = select(seen, moved, covariance), select(seen, roomier, room)
        mean_x = select(seen, approach(mean_x, share, kept, x), mean_x)
        mean_y = mean_x if variance(rule) else select(seen, approach(mean_y, share, kept, y), mean_y)
        count = count + select(seen, one, zero)
        result = covariance
        if not bias:
            result = select(zero < room, covariance / room, nan)
        store_vector(shift(h_rows, k * row_bytes(h_rows)), 0, select(count < enough, nan, result))
    store_vector(shift(state, WEIGHT * plane), 0, weight)
    store_vector(shift(state, COUNT * plane), 0, count)
    store_vector(shift(state, MEAN * plane), 0, mean_x)
    store_vector(shift(state, MEAN_Y * plane), 0, mean_y)
    store_vector(shift(state, COVARIANCE * plane), 0, covariance)
    store_vector(shift(state, ROOM * plane), 0, room)


@helper
def copy_planes(target, to_row, source, from_row, lane, at, planes):
    """Copy the states of a tile's lanes."""
    for plane in range(planes):
        store_vector(target, plane * to_row + at, load_vector(source, plane * from_row + lane, target))


def average(rule, x, h, gate, carry, geometry, first, last):
    """Walk the means or sums of lanes ``first`` to ``last``, a multiple of the width apart."""
    steps, chunk, lanes, padded = (
        load_int(geometry, 0), load_int(geometry, 1), load_int(geometry, 2), load_int(geometry, 3),
    )  # fmt: skip
    x_time, h_time, gate_time = load_int(geometry, 4), load_int(geometry, 6), load_int(geometry, 7)
    least, bypass = load_int(geometry, 8), load_int(geometry, 10)
    x_rows, gate_rows, h_rows = stack_like(x, carry, TILE), stack_like(gate, carry, TILE), stack_like(h, carry, TILE)
    gate_row = 0 if gate_time == 0 else row_bytes(gate_rows)
    state, plane = stack(carry, STATE), width(carry) * itemsize(carry)
    for begin in range(0, steps, chunk):
        end = minimum(steps, begin + chunk)
        for lane in range(first, last, width(carry)):
            x_at = shift(geometry, 8 * (HEAD + lane))
            h_at, gate_at = shift(x_at, 16 * padded), shift(x_at, 24 * padded)
            shared = are_spaced(gate_at, 0, width(carry))
            # Complete lanes that are neighbours are walked where they stand.
            in_place = lane + width(carry) <= lanes and are_spaced(x_at, itemsize(x), width(carry))
            in_place = in_place and are_spaced(h_at, itemsize(h), width(carry))
            h_base = shift(h, load_int(h_at, 0))
            past = bypass and misalignment(h_base) == 0 and h_time % 64 == 0
            ahead = soon(x, x_time) if abs(soon(x, x_time)) <= NEAR else ROWS_AHEAD * x_time
            copy_planes(state, width(carry), carry, padded, lane, 0, AVERAGE_PLANES)
            for t in range(begin, end, STEPS):
                n = minimum(STEPS, end - t)
                if gate_time != 0 or t == begin:
                    bring_gates(gate_rows, shift(gate, t * gate_time), gate_at, gate_time, n, shared)
                is_tried = in_place and is_level(state, plane, shared, least)
                if is_tried:
                    if walk_level_average(
                        rule, shift(x, load_int(x_at, 0) + t * x_time), x_time, gate_rows, gate_row,
                        shift(h_base, t * h_time), h_time, state, plane, n, ahead, past,
                    ):  # fmt: skip
                        continue
                bring(x_rows, shift(x, t * x_time), x_at, x_time, n, soon(x, x_time))
                walk_average(rule, x_rows, gate_rows, gate_row, shared, h_rows, state, n, least, is_tried)
                put_results(shift(h, t * h_time), h_at, h_time, h_rows, n, minimum(width(carry), lanes - lane), bypass)
            copy_planes(carry, padded, state, width(carry), 0, lane, AVERAGE_PLANES)
    fence()


def covariance(rule, x, y, h, gate, carry, geometry, first, last):
    """Walk the covariances of lanes ``first`` to ``last``, a multiple of the width apart."""
    steps, chunk, lanes, padded = (
        load_int(geometry, 0), load_int(geometry, 1), load_int(geometry, 2), load_int(geometry, 3),
    )  # fmt: skip
    x_time, y_time, h_time = load_int(geometry, 4), load_int(geometry, 5), load_int(geometry, 6)
    gate_time, least, bias, bypass = (
        load_int(geometry, 7), load_int(geometry, 8), load_int(geometry, 9), load_int(geometry, 10),
    )  # fmt: skip
    x_rows, y_rows = stack_like(x, carry, TILE), stack_like(y, carry, TILE)
    gate_rows, h_rows = stack_like(gate, carry, TILE), stack_like(h, carry, TILE)
    gate_row = 0 if gate_time == 0 else row_bytes(gate_rows)
    state = stack(carry, STATE)
    for begin in range(0, steps, chunk):
        end = minimum(steps, begin + chunk)
        for lane in range(first, last, width(carry)):
            x_at = shift(geometry, 8 * (HEAD + lane))
            y_at, h_at, gate_at = shift(x_at, 8 * padded), shift(x_at, 16 * padded), shift(x_at, 24 * padded)
            shared = are_spaced(gate_at, 0, width(carry))
            copy_planes(state, width(carry), carry, padded, lane, 0, PLANES)
            for t in range(begin, end, STEPS):
                n = minimum(STEPS, end - t)
                bring(x_rows, shift(x, t * x_time), x_at, x_time, n, soon(x, x_time))
                if not variance(rule):
                    bring(y_rows, shift(y, t * y_time), y_at, y_time, n, soon(y, y_time))
                if gate_time != 0 or t == begin:
                    bring_gates(gate_rows, shift(gate, t * gate_time), gate_at, gate_time, n, shared)
                walk_covariance(rule, x_rows, y_rows, gate_rows, gate_row, h_rows, state, n, least, bias)
                put_results(shift(h, t * h_time), h_at, h_time, h_rows, n, minimum(width(carry), lanes - lane), bypass)
            copy_planes(carry, padded, state, width(carry), 0, lane, PLANES)
    fence()

"""Kernels for exponentially weighted statistics: each sample is read once, whatever its layout.

As in `_tiles`, a tile of series is packed, walked, and unpacked; how a sample takes part is written in `_steps`. Where
series are neighbours, all of them go a tile's steps before the next (CHUNK), so that memory is walked from one end to
the other. A few long series whose samples are neighbours go through `_weighted_scan` instead.

Where a tile's series have one weight, it is walked as if no sample were missing, with a number for it; if one was, it
is walked again, with a weight for each series.

``carry`` holds the series' states, one row of numbers for each of `PLANES`. ``geometry`` holds the fields below, then
for each operand where each series begins, in bytes. A rule names the traits below that hold.
"""

from collections import namedtuple

import numpy as np

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
from ._rules import choice, trait
from ._tiles import NEAR, are_spaced, bring, put, row_bytes, soon, steps_to_line

# Fields of ``geometry``; strides are bytes from step to step.
(
    N_STEPS, CHUNK, N_SERIES, PADDED, X_STRIDE, Y_STRIDE, H_STRIDE, GATE_STRIDE, MIN_PERIODS, BIAS, STREAMING,
) = np.arange(11, dtype=np.int64)  # fmt: skip
HEAD = 11
# The rows of ``carry``. Means of what covaries are deviations from the ORIGIN, a value of the series: data far from 0
# lose nothing.
WEIGHT, COUNT, MEAN, ORIGIN, ORIGIN_Y, MEAN_Y, COVARIANCE, ROOM = range(8)
PLANES = 8
AVERAGE_PLANES = MEAN + 1
STATE = 16 * PLANES
STEPS = 32
TILE = 16 * STEPS
ROWS_AHEAD = 16  # prefetch distance in rows of memory, where those of the next chunk are too far
NAN = float("nan")

# An operand of a vector of series: its pointer, the table of where each series begins, bytes from step to step, and a
# buffer for a tile.
Operand = namedtuple("Operand", "at offsets stride rows")
# Samples, gates and results of some steps, bytes from one step's to the next one's, the state and bytes from one plane
# of it to the next, how many steps there are, how many samples a result needs, and whether it may be biased.
Tile = namedtuple("Tile", "x y gate h x_row y_row gate_row h_row state plane steps least bias")

is_seen, approach, covary = map(inlined, (_steps.is_seen, _steps.approach, _steps.covary))
_weigh = inlined(_steps.weigh)
adjust, timed, ignore_na, is_sum = map(trait, ("adjust", "timed", "ignore_na", "sum"))
covaries, one_series = trait("covariance"), trait("one_series")  # in which both series are one


@inlined
def weigh(rule, weight, gate, seen):
    """Return the share of a sample in the new average, that of the old one, the weight after it and the decay."""
    return _weigh(weight, gate, seen, adjust(rule), timed(rule), ignore_na(rule))


@inlined
def are_seen(x, y):
    """Return whether both samples are there; their sum might overflow."""
    return (x - x) + (y - y) == constant(0.0, x)


# ---- Step by step, one series or a vector of them: ``get`` loads a number or a vector, ``put`` stores it -------------


@helper
def walk_average(rule, get, put, tile):
    """Advance means, or sums."""
    state, plane = tile.state, tile.plane
    weight, count = get(shift(state, WEIGHT * plane), 0, state), get(shift(state, COUNT * plane), 0, state)
    mean = get(shift(state, MEAN * plane), 0, state)
    zero, one, nan = constant(0.0, mean), constant(1.0, mean), constant(NAN, mean)
    enough = constant(float(tile.least), mean)
    for k in range(tile.steps):
        x, gate = get(shift(tile.x, k * tile.x_row), 0, state), get(shift(tile.gate, k * tile.gate_row), 0, state)
        seen = is_seen(x)
        share, kept, weight, decay = weigh(rule, weight, gate, seen)
        if is_sum(rule):
            mean = select(seen, decay * mean + x, decay * mean)
        else:
            mean = select(seen, approach(mean, share, kept, x), mean)
        count = count + select(seen, one, zero)
        put(shift(tile.h, k * tile.h_row), 0, select(count < enough, nan, mean))
    put(shift(state, WEIGHT * plane), 0, weight)
    put(shift(state, COUNT * plane), 0, count)
    put(shift(state, MEAN * plane), 0, mean)


@helper
def walk_covariance(rule, get, put, tile):
    """Advance covariances."""
    state, plane = tile.state, tile.plane
    weight, count = get(shift(state, WEIGHT * plane), 0, state), get(shift(state, COUNT * plane), 0, state)
    mean_x, mean_y = get(shift(state, MEAN * plane), 0, state), get(shift(state, MEAN_Y * plane), 0, state)
    covariance, room = get(shift(state, COVARIANCE * plane), 0, state), get(shift(state, ROOM * plane), 0, state)
    origin_x, origin_y = get(shift(state, ORIGIN * plane), 0, state), get(shift(state, ORIGIN_Y * plane), 0, state)
    zero, one, nan = constant(0.0, weight), constant(1.0, weight), constant(NAN, weight)
    enough = constant(float(tile.least), weight)
    for k in range(tile.steps):
        x = get(shift(tile.x, k * tile.x_row), 0, state) - origin_x
        y = x if one_series(rule) else get(shift(tile.y, k * tile.y_row), 0, state) - origin_y
        gate = get(shift(tile.gate, k * tile.gate_row), 0, state)
        seen = is_seen(x) if one_series(rule) else are_seen(x, y)
        share, kept, weight, _ = weigh(rule, weight, gate, seen)
        moved, roomier = covary(covariance, room, share, kept, x - mean_x, y - mean_y)
        covariance, room = select(seen, moved, covariance), select(seen, roomier, room)
        mean_x = select(seen, approach(mean_x, share, kept, x), mean_x)
        mean_y = mean_x if one_series(rule) else select(seen, approach(mean_y, share, kept, y), mean_y)
        count = count + select(seen, one, zero)
        result = covariance if tile.bias else select(zero < room, covariance / room, nan)
        put(shift(tile.h, k * tile.h_row), 0, select(count < enough, nan, result))
    put(shift(state, WEIGHT * plane), 0, weight)
    put(shift(state, COUNT * plane), 0, count)
    put(shift(state, MEAN * plane), 0, mean_x)
    put(shift(state, MEAN_Y * plane), 0, mean_y)
    put(shift(state, COVARIANCE * plane), 0, covariance)
    put(shift(state, ROOM * plane), 0, room)


# ---- A vector of series ---------------------------------------------------------------------------------------------


@inlined
def is_uniform(state, plane, least):
    """Return whether all series have one weight now, and as many samples as a result needs."""
    weight = load_vector(shift(state, WEIGHT * plane), 0, state)
    count = load_vector(shift(state, COUNT * plane), 0, state)
    enough = constant(float(least) - 0.5, count)
    return everywhere(weight == broadcast(load(state, WEIGHT * 16, state))) and everywhere(enough < count)


@helper
def walk_uniform_average(rule, tile, ahead, streams):
    """Walk as if no sample were missing; return whether that was so: if not, nothing but results has changed.

    What is missing makes the mean NaN, and it stays so. Samples in memory are prefetched ``ahead`` bytes before their
    turn, and results may be streamed.
    """
    state, plane = tile.state, tile.plane
    number = load(state, WEIGHT * 16, state)
    # Numbers first, in memory: a loop that broadcasts what it has just worked out would wait for it to be stored.
    shares, rest = stack(state, STEPS), stack(state, STEPS)
    for k in range(tile.steps):
        gate = load(shift(tile.gate, k * tile.gate_row), 0, state)
        share, kept, number, decay = weigh(rule, number, gate, True)
        store(shares, k, decay if is_sum(rule) else share)
        store(rest, k, kept)
    mean = load_vector(shift(state, MEAN * plane), 0, state)
    for k in range(tile.steps):
        if ahead != 0:
            prefetch(tile.x, 0, k * tile.x_row + ahead)
        x = load_vector(shift(tile.x, k * tile.x_row), 0, state)
        share = broadcast(load(shares, k, state))
        if is_sum(rule):
            mean = share * mean + x
        else:
            mean = approach(mean, share, broadcast(load(rest, k, state)), x)
        if streams:
            stream_vector(shift(tile.h, k * tile.h_row), 0, mean)
        else:
            store_vector(shift(tile.h, k * tile.h_row), 0, mean)
    if not everywhere(is_seen(mean)):
        return False
    count = load_vector(shift(state, COUNT * plane), 0, state) + broadcast(constant(float(tile.steps), number))
    store_vector(shift(state, WEIGHT * plane), 0, broadcast(number) * constant(1.0, mean))
    store_vector(shift(state, MEAN * plane), 0, mean)
    store_vector(shift(state, COUNT * plane), 0, count)
    return True


@helper
def pack_samples(x, t, steps):
    bring(x.rows, shift(x.at, t * x.stride), x.offsets, x.stride, steps, soon(x.at, x.stride))


@helper
def pack_gates(gate, t, steps):
    """Pack gates; one row where they are constant, and quickly where series share them."""
    source, rows = shift(gate.at, t * gate.stride), gate.rows
    if gate.stride != 0 and are_spaced(gate.offsets, 0, width(rows)):
        base = shift(source, load_int(gate.offsets, 0))
        for k in range(steps):
            store_vector(shift(rows, k * row_bytes(rows)), 0, broadcast(load(shift(base, k * gate.stride), 0, rows)))
    else:
        steps = 1 if gate.stride == 0 else steps
        bring(rows, source, gate.offsets, gate.stride, steps, soon(gate.at, gate.stride))


@helper
def unpack_results(h, t, steps, count, streams):
    """Write results of ``count`` series; whole lines of rows with non-temporal stores."""
    target, rows = shift(h.at, t * h.stride), h.rows
    base = shift(target, load_int(h.offsets, 0))
    whole = count == width(rows) and are_spaced(h.offsets, itemsize(target), count)
    if streams and whole and misalignment(base) == 0 and h.stride % 64 == 0:
        for k in range(steps):
            stream_vector(shift(base, k * h.stride), 0, load_vector(shift(rows, k * row_bytes(rows)), 0, rows))
    else:
        streams = streams and steps_to_line(target, h.offsets, h.stride, rows) == 0
        put(target, h.offsets, h.stride, rows, steps, count, soon(target, h.stride), streams)


@inlined
def tile_of(x, y, gate, h, state, geometry, steps):
    """Return the tile that stands in the operands' buffers."""
    gate_row = 0 if gate.stride == 0 else row_bytes(gate.rows)
    rows = row_bytes(x.rows), row_bytes(y.rows), row_bytes(h.rows)
    plane, least, bias = width(state) * itemsize(state), load_int(geometry, MIN_PERIODS), load_int(geometry, BIAS)
    return Tile(
        x.rows, y.rows, gate.rows, h.rows, rows[0], rows[1], gate_row, rows[2], state, plane, steps, least, bias
    )  # fmt: skip


@helper
def average_tiles(rule, x, y, gate, h, state, geometry, begin, end, count):
    """Walk the means or sums of a vector of series, of which ``count`` are not repeated."""
    plane, streams = width(state) * itemsize(state), load_int(geometry, STREAMING)
    shared = are_spaced(gate.offsets, 0, width(state))
    # Complete series that are neighbours are walked in place.
    neighbours = count == width(state) and are_spaced(x.offsets, itemsize(x.at), width(state))
    neighbours = neighbours and are_spaced(h.offsets, itemsize(h.at), width(state))
    x_base, h_base = shift(x.at, load_int(x.offsets, 0)), shift(h.at, load_int(h.offsets, 0))
    streams_rows = streams and misalignment(h_base) == 0 and h.stride % 64 == 0
    ahead = soon(x.at, x.stride) if abs(soon(x.at, x.stride)) <= NEAR else ROWS_AHEAD * x.stride
    for t in range(begin, end, STEPS):
        steps = minimum(STEPS, end - t)
        if gate.stride != 0 or t == begin:
            pack_gates(gate, t, steps)
        tile = tile_of(x, y, gate, h, state, geometry, steps)
        uniform = shared and is_uniform(state, plane, tile.least)
        if uniform and neighbours:
            there = Tile(
                shift(x_base, t * x.stride), shift(x_base, t * x.stride), gate.rows, shift(h_base, t * h.stride),
                x.stride, x.stride, tile.gate_row, h.stride, state, plane, steps, tile.least, tile.bias,
            )  # fmt: skip
            if walk_uniform_average(rule, there, ahead, streams_rows):
                continue
        pack_samples(x, t, steps)
        if not (uniform and not neighbours and walk_uniform_average(rule, tile, 0, False)):
            walk_average(rule, load_vector, store_vector, tile)
        unpack_results(h, t, steps, count, streams)


@helper
def covariance_tiles(rule, x, y, gate, h, state, geometry, begin, end, count):
    """Walk the covariances of a vector of series, of which ``count`` are not repeated."""
    for t in range(begin, end, STEPS):
        steps = minimum(STEPS, end - t)
        pack_samples(x, t, steps)
        if not one_series(rule):
            pack_samples(y, t, steps)
        if gate.stride != 0 or t == begin:
            pack_gates(gate, t, steps)
        walk_covariance(rule, load_vector, store_vector, tile_of(x, y, gate, h, state, geometry, steps))
        unpack_results(h, t, steps, count, load_int(geometry, STREAMING))


walk_tiles = choice("covariance", covariance_tiles, average_tiles)


@helper
def copy_planes(target, to_row, source, from_row, lane, at, planes):
    """Copy the states of a tile's series."""
    for plane in range(planes):
        store_vector(target, plane * to_row + at, load_vector(source, plane * from_row + lane, target))


def walk(rule, x, y, h, gate, carry, geometry, first, last):
    """Walk series ``first`` to ``last``, a multiple of the width apart; but for covariances, ``y`` is ``x``."""
    steps, padded, lanes = load_int(geometry, N_STEPS), load_int(geometry, PADDED), width(carry)
    chunk, count = load_int(geometry, CHUNK), load_int(geometry, N_SERIES)
    planes = PLANES if covaries(rule) else AVERAGE_PLANES
    x_rows, y_rows = stack_like(x, carry, TILE), stack_like(y, carry, TILE)
    gate_rows, h_rows = stack_like(gate, carry, TILE), stack_like(h, carry, TILE)
    state = stack(carry, STATE)
    for begin in range(0, steps, chunk):
        end = minimum(steps, begin + chunk)
        for lane in range(first, last, lanes):
            at = shift(geometry, 8 * (HEAD + lane))
            copy_planes(state, lanes, carry, padded, lane, 0, planes)
            walk_tiles(
                rule, Operand(x, at, load_int(geometry, X_STRIDE), x_rows),
                Operand(y, shift(at, 8 * padded), load_int(geometry, Y_STRIDE), y_rows),
                Operand(gate, shift(at, 24 * padded), load_int(geometry, GATE_STRIDE), gate_rows),
                Operand(h, shift(at, 16 * padded), load_int(geometry, H_STRIDE), h_rows), state, geometry, begin, end,
                minimum(lanes, count - lane),
            )  # fmt: skip
            copy_planes(carry, padded, state, lanes, 0, lane, planes)
    fence()

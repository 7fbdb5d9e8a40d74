"""Kernels for exponentially weighted statistics: each sample is read once, whatever its layout.

A tile of series is walked where it stands in memory, or else packed, walked, and unpacked as in `_packing`. How a
sample takes part is written in `_steps`. Where series are neighbours, all of them go a tile's steps before the next
(CHUNK), so that memory is walked from one end to the other. A few long series come as many: in chunks.
"""

from collections import namedtuple

import numpy as np

from .. import _steps
from .._steps import constant, is_finite, select
from ._numba import helper, inlined
from ._operands import NO, YES, ZERO
from ._packing import View, column, copy, stream_transposed
from ._rules import flag_is_broadcast, trait
from ._scalars import alone, fence, itemsize, load_int, minimum, misalignment, prefetch, shift, stack, width
from ._types import LINE, WIDTH
from ._vectors import load_mask, load_one_mask, load_vector, store_vector, stream_vector

# Fields of ``geometry``, before each operand's table of where each series begins, in bytes; strides are such, too.
(
    N_STEPS, CHUNK, N_SERIES, PADDED, X_STRIDE, Y_STRIDE, H_STRIDE, GATE_STRIDE, BORDERS_STRIDE, MIN_PERIODS, BIAS,
    STREAMING,
) = np.arange(12, dtype=np.int64)  # fmt: skip
HEAD = 12
# The rows of ``carry``. Means of what covaries are deviations from the ORIGIN, the first sample since the series began:
# data far from 0 lose nothing.
WEIGHT, COUNT, MEAN, ORIGIN, ORIGIN_Y, MEAN_Y, COVARIANCE, ROOM = range(8)
PLANES = 8
AVERAGE_PLANES = MEAN + 1
STEPS = 64
ROW = WIDTH  # numbers from one plane of a walked state to the next
STATE, TILE = ROW * PLANES, WIDTH * STEPS
AHEAD = 256  # bytes: prefetch distance along a series,
NEAR = 1 << 14  # if no more than this is between its rows: what is farther would not stay in the first level
ROWS_AHEAD = 16  # else in rows of memory
NAN = float("nan")

# An operand of a vector of series: a pointer, the table of where each series begins, bytes from step to step, a buffer
# for a tile; up to which series all stand as far apart as the first two, and how far.
Operand = namedtuple("Operand", "at offsets stride rows end apart")
# Samples, gates, flags and results of some steps, each as where they stand and bytes from one step's to the next one's;
# the state, how many steps there are, how many samples a result needs, whether it may be biased; and the prefetch
# distance of samples in bytes.
Tile = namedtuple("Tile", "x y gate flags h state steps least bias ahead")

approach, covary, weigh = inlined(_steps.approach), inlined(_steps.covary), inlined(_steps.weigh)
adjust, timed, ignore_na, is_sum = map(trait, ("adjust", "timed", "ignore_na", "sum"))
covaries, one_series = trait("covariance"), trait("one_series")  # in which both series are one
flagged = trait("flagged")


@inlined
def sample(tile, rows, k):
    """Return what stands at the k-th step of samples or gates."""
    return load_vector(shift(rows[0], k * rows[1]), 0, tile.state)


@inlined
def finish(tile, k, count, result):
    """Write a result, if there were enough samples."""
    enough = constant(float(tile.least), count)
    store_vector(shift(tile.h[0], k * tile.h[1]), 0, select(count < enough, constant(NAN, count), result))
    if tile.ahead != 0:
        prefetch(tile.x[0], 0, k * tile.x[1] + tile.ahead)


@helper
def walk_steps(rule, tile):
    state, row = tile.state, width(tile.state)
    weight, count = load_vector(state, row * WEIGHT, state), load_vector(state, row * COUNT, state)
    mean, mean_y = load_vector(state, row * MEAN, state), load_vector(state, row * MEAN_Y, state)
    covariance, room = load_vector(state, row * COVARIANCE, state), load_vector(state, row * ROOM, state)
    origin_x, origin_y = load_vector(state, row * ORIGIN, state), load_vector(state, row * ORIGIN_Y, state)
    zero, one, nan = constant(0.0, weight), constant(1.0, weight), constant(NAN, weight)
    for k in range(tile.steps):
        if flagged(rule):
            place = shift(tile.flags[0], k * tile.flags[1])
            begins = load_one_mask(place, state) if flag_is_broadcast(rule) else load_mask(place, 0, state)
            prefetch(place, 0, ROWS_AHEAD * tile.flags[1])
            weight, count = select(begins, zero, weight), select(begins, zero, count)
            mean, covariance = select(begins, zero, mean), select(begins, zero, covariance)  # which may be infinite
        x, gate = sample(tile, tile.x, k), sample(tile, tile.gate, k)
        y = x if one_series(rule) else sample(tile, tile.y, k)
        from_x, from_y = origin_x, origin_y
        if covaries(rule):
            from_x, from_y = select(count == zero, x, origin_x), select(count == zero, y, origin_y)
            x, y = x - from_x, y - from_y
        seen = is_finite(x) if one_series(rule) else (x - x) + (y - y) == zero  # x + y might overflow
        origin_x, origin_y = select(seen, from_x, origin_x), select(seen, from_y, origin_y)
        share, kept, weight, decay = weigh(weight, gate, seen, adjust(rule), timed(rule), ignore_na(rule))
        if covaries(rule):
            moved, roomier = covary(covariance, room, share, kept, x - mean, y - mean_y)
            covariance, room = select(seen, moved, covariance), select(seen, roomier, room)
        if is_sum(rule):
            mean = select(seen, decay * mean + x, decay * mean)
        else:
            mean = select(seen, approach(mean, share, kept, x), mean)
        mean_y = mean if one_series(rule) else select(seen, approach(mean_y, share, kept, y), mean_y)
        count = count + select(seen, one, zero)
        if covaries(rule):
            finish(tile, k, count, covariance if tile.bias else select(zero < room, covariance / room, nan))
        else:
            finish(tile, k, count, mean)
    store_vector(state, row * WEIGHT, weight)
    store_vector(state, row * COUNT, count)
    store_vector(state, row * MEAN, mean)
    if covaries(rule):
        store_vector(state, row * ORIGIN, origin_x)
        store_vector(state, row * ORIGIN_Y, origin_y)
        store_vector(state, row * MEAN_Y, mean_y)
        store_vector(state, row * COVARIANCE, covariance)
        store_vector(state, row * ROOM, room)


@helper
def copy_state(rule, target, to_row, source, from_row):
    for plane in range(PLANES if covaries(rule) else AVERAGE_PLANES):
        store_vector(target, plane * to_row, load_vector(source, plane * from_row, target))


@helper
def run_from(offsets, first):
    """Return up to which series of a tile all stand as far apart as the first two from there on, and how far."""
    if first >= WIDTH - 1:
        return WIDTH, ZERO
    begin, apart = load_int(offsets, first), load_int(offsets, first + 1) - load_int(offsets, first)
    end = first + 2
    while end < WIDTH and load_int(offsets, end) == begin + (end - first) * apart:
        end += 1
    return end, apart


@inlined
def operand(pointer, geometry, field, k, lane, rows):
    """Return the k-th operand of a vector of series."""
    offsets = shift(geometry, 8 * (HEAD + k * load_int(geometry, PADDED) + lane))
    end, apart = run_from(offsets, ZERO)
    return Operand(pointer, offsets, load_int(geometry, field), rows, end, apart)


@inlined
def place_in(pointer, geometry, field, k, lane, t):
    """Return where a step of a series stands in the k-th operand; there is no next one."""
    begin = load_int(geometry, HEAD + k * load_int(geometry, PADDED) + lane)
    return shift(pointer, begin + t * load_int(geometry, field)), 0


@inlined
def is_row(x):
    """Return whether a tile's series are neighbours."""
    return x.end == WIDTH and x.apart == itemsize(x.at)


@inlined
def place_of(x, t):
    """Return where a tile's step stands in memory if its series are neighbours or one, and bytes to the next step."""
    return shift(x.at, load_int(x.offsets, 0) + t * x.stride), x.stride


@helper
def copy_runs(x, t, steps, count, unpacks, streams):
    """Copy some steps of ``count`` series to a tile, or from there; then by non-temporal stores where these fill lines.

    What stands beside them in a tile is of an earlier one.
    """
    first, end, apart, size = 0, x.end, x.apart, itemsize(x.at)
    while first < count:
        end = minimum(end, count)
        there = View(shift(x.at, load_int(x.offsets, first) + t * x.stride), x.stride, apart)
        own, done = View(shift(x.rows, first * size), WIDTH * size, size), 0
        if unpacks:
            if streams:
                done = stream_transposed(there, own, end - first, steps)
            copy(column(there, done), column(own, done), end - first - done, steps, ZERO)
        else:
            copy(own, there, end - first, steps, AHEAD // size)
        first = end
        end, apart = run_from(x.offsets, first)


@helper
def pack(x, t, steps, count):
    """Return where a tile's samples or gates stand, and bytes from step to step; bring them there if they do not."""
    if is_row(x):
        return place_of(x, t)
    copy_runs(x, t, steps if x.stride != 0 else 1, count, NO, NO)
    return x.rows, WIDTH * itemsize(x.at) if x.stride != 0 else 0


@helper
def walk_tile(rule, x, y, gate, flags, h, state, geometry, t, steps, count, is_first):
    """Walk some steps of a vector of series, of which ``count`` are not repeated."""
    streams, filled = load_int(geometry, STREAMING) != 0, WIDTH if is_first else count
    x_here = pack(x, t, steps, filled)
    y_here = place_of(y, t) if one_series(rule) else pack(y, t, steps, filled)  # where there is one, nothing reads it
    in_lines = misalignment(shift(h.at, load_int(h.offsets, 0))) == 0 and h.stride % LINE == 0
    streams_rows = streams and is_row(h) and in_lines
    in_place = is_row(h) and not streams_rows
    h_here = place_of(h, t) if in_place else (h.rows, WIDTH * itemsize(h.at))
    ahead = 0
    if is_row(x):
        ahead = AHEAD // itemsize(x.at) * x.stride
        if abs(ahead) > NEAR:
            ahead = ROWS_AHEAD * x.stride
    gates, least, bias = pack(gate, t, steps, WIDTH), load_int(geometry, MIN_PERIODS), load_int(geometry, BIAS)
    is_packed = flagged(rule) and not flag_is_broadcast(rule)
    marks = pack(flags, t, steps, WIDTH) if is_packed else place_of(flags, t)
    walk_steps(rule, Tile(x_here, y_here, gates, marks, h_here, state, steps, least, bias, ahead))
    if streams_rows:
        for k in range(steps):
            stream_vector(place_of(h, t + k)[0], 0, load_vector(shift(h.rows, k * h_here[1]), 0, state))
    elif not in_place:
        copy_runs(h, t, steps, count, YES, streams)


def walk(rule, x, y, h, gate, borders, carry, geometry, first, last):
    """Walk series ``first`` to ``last``, a multiple of the width apart; but for covariances, ``y`` is ``x``.

    ``borders`` is read if the rule is "flagged": where a flag is set, a series begins anew.
    """
    steps, padded = load_int(geometry, N_STEPS), load_int(geometry, PADDED)
    chunk, count = load_int(geometry, CHUNK), load_int(geometry, N_SERIES)
    x_rows, y_rows, gate_rows, h_rows = stack(x, TILE), stack(y, TILE), stack(gate, TILE), stack(h, TILE)
    state, flag_rows = stack(carry, STATE), stack(borders, TILE)
    for begin in range(0, steps, chunk):
        end = minimum(steps, begin + chunk)
        for lane in range(first, last, WIDTH):
            xs = operand(x, geometry, X_STRIDE, 0, lane, x_rows)
            ys = operand(y, geometry, Y_STRIDE, 1, lane, y_rows)
            hs = operand(h, geometry, H_STRIDE, 2, lane, h_rows)
            gates = operand(gate, geometry, GATE_STRIDE, 3, lane, gate_rows)
            marks = operand(borders, geometry, BORDERS_STRIDE, 4, lane, flag_rows)
            states = shift(carry, lane * itemsize(carry))
            copy_state(rule, state, ROW, states, padded)
            for t in range(begin, end, STEPS):
                n, whole = minimum(STEPS, end - t), minimum(WIDTH, count - lane)
                walk_tile(rule, xs, ys, gates, marks, hs, state, geometry, t, n, whole, t == begin)
            copy_state(rule, states, padded, state, ROW)
    fence()


def walk_groups(rule, x, y, h, gate, borders, carry, geometry, first, last):
    """Walk series ``first`` to ``last``, each step from the state of its group, whose number is in ``borders``."""
    lanes, least, bias = load_int(geometry, N_SERIES), load_int(geometry, MIN_PERIODS), load_int(geometry, BIAS)
    for t in range(load_int(geometry, N_STEPS)):
        states = load_int(borders, t) * lanes
        for lane in range(first, last):
            state = alone(shift(carry, (states + lane) * PLANES * itemsize(carry)))
            xs, ys = place_in(x, geometry, X_STRIDE, 0, lane, t), place_in(y, geometry, Y_STRIDE, 1, lane, t)
            gates, hs = place_in(gate, geometry, GATE_STRIDE, 3, lane, t), place_in(h, geometry, H_STRIDE, 2, lane, t)
            walk_steps(rule, Tile(xs, ys, gates, gates, hs, state, 1, least, bias, 0))
    fence()

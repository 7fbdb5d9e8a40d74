"""Kernels for exponentially weighted statistics: each sample is read once, whatever its layout.

A tile of series is walked where it stands in memory, or else packed, walked, and unpacked as in `_packing`. How a
sample takes part is written in `_steps`. Where series are neighbours, all of them go a tile's steps before the next
(CHUNK), so that memory is walked from one end to the other. A few long series whose samples are neighbours go through
`_weighted_scan` instead.

Where a tile's series have one weight, it is walked as if no sample were missing, with a number for it; if one was, it
is walked again, with a weight for each series.

``carry`` holds the series' states, one row of numbers for each of `PLANES`. ``geometry`` holds the fields below, then
for each operand where each series begins, in bytes. A rule names the traits below that hold.
"""

from collections import namedtuple

import numpy as np

from .. import _steps
from .._steps import constant, everywhere, select
from ._numba import helper, inlined
from ._operands import ZERO
from ._packing import View, column, copy, stream_transposed
from ._rules import choice, trait
from ._scalars import fence, itemsize, load, load_int, minimum, misalignment, prefetch, shift, stack, store, width
from ._types import LINE, WIDTH
from ._vectors import broadcast, load_vector, store_vector, stream_vector

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
STEPS = 64
TILE = 16 * STEPS
AHEAD = 256  # bytes: prefetch distance along a series,
NEAR = 1 << 14  # if no more than this is between its rows: what is farther would not stay in the first level
ROWS_AHEAD = 16  # else in rows of memory
NAN = float("nan")

# An operand of a vector of series: a pointer, the table of where each series begins, bytes from step to step, a buffer
# for a tile; up to which series all stand as far apart as the first two, and how far.
Operand = namedtuple("Operand", "at offsets stride rows end apart")
# Samples, gates and results of some steps, bytes from one step's to the next one's, the state and bytes from one plane
# of it to the next, how many steps there are, how many samples a result needs, and whether it may be biased; and the
# prefetch distance of samples in bytes.
Tile = namedtuple("Tile", "x y gate h x_row y_row gate_row h_row state plane steps least bias ahead")

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
        prefetch(tile.x, 0, k * tile.x_row + tile.ahead)
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
        prefetch(tile.x, 0, k * tile.x_row + tile.ahead)
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
def walk_uniform_average(rule, tile, streams):
    """Walk as if no sample were missing; return whether that was so: if not, nothing but results has changed.

    What is missing makes the mean NaN, and it stays so. Results may be streamed.
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
        if tile.ahead != 0:
            prefetch(tile.x, 0, k * tile.x_row + tile.ahead)
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
def is_row(x):
    """Return whether a tile's series are neighbours."""
    return x.end == WIDTH and x.apart == itemsize(x.at)


@inlined
def is_in_lines(x):
    """Return whether a tile's series are neighbours whose every step fills cache lines."""
    return is_row(x) and misalignment(shift(x.at, load_int(x.offsets, 0))) == 0 and x.stride % LINE == 0


@inlined
def panel(x):
    """Return an operand's buffer."""
    return View(x.rows, WIDTH * itemsize(x.at), itemsize(x.at))


@inlined
def run_view(x, first, apart, t):
    """Return an operand from a series and a step on."""
    return View(shift(x.at, load_int(x.offsets, first) + t * x.stride), x.stride, apart)


@helper
def pack(x, t, steps, count):
    """Return where a tile's samples or gates stand, and bytes from step to step; bring them there if they do not.

    Of ``count`` series: what stands beside them is of an earlier tile.
    """
    if is_row(x):
        return shift(x.at, load_int(x.offsets, 0) + t * x.stride), x.stride
    first, end, apart, steps = 0, x.end, x.apart, steps if x.stride != 0 else 1
    while first < count:
        end = minimum(end, count)
        copy(column(panel(x), first), run_view(x, first, apart, t), end - first, steps, AHEAD // itemsize(x.at))
        first = end
        end, apart = run_from(x.offsets, first)
    return x.rows, WIDTH * itemsize(x.at) if x.stride != 0 else 0


@helper
def pack_gates(gate, t, steps, shared, state):
    """Do the same, quickly where series share gates that vary."""
    if gate.stride == 0 or not shared:
        return pack(gate, t, steps, WIDTH)
    row = WIDTH * itemsize(gate.at)
    for k in range(steps):
        place = shift(gate.at, load_int(gate.offsets, 0) + (t + k) * gate.stride)
        store_vector(shift(gate.rows, k * row), 0, broadcast(load(place, 0, state)))
    return gate.rows, row


@helper
def unpack(x, t, steps, count, streams, state):
    """Write results of ``count`` series; whole lines by non-temporal stores."""
    first, end, apart = 0, x.end, x.apart
    while first < count:
        end = minimum(end, count)
        to, own, done = run_view(x, first, apart, t), column(panel(x), first), 0
        if streams and is_in_lines(x):
            for k in range(steps):
                row = load_vector(shift(own.pointer, k * own.time), 0, state)
                stream_vector(shift(to.pointer, k * to.time), 0, row)
            return
        if streams:
            done = stream_transposed(to, own, end - first, steps)
        copy(column(to, done), column(own, done), end - first - done, steps, ZERO)
        first = end
        end, apart = run_from(x.offsets, first)


@inlined
def same(rule, pack, here, *place):
    return here


@helper
def packed_other(rule, pack, here, *place):
    return pack(*place)


# Where the other series' samples stand: those of the one where there is but one. The two may be of two dtypes.
others_of = choice("one_series", same, packed_other)
walk_steps = choice("covariance", walk_covariance, walk_average)


@inlined
def tile_of(x, y, gate, h, state, plane, geometry, steps, ahead):
    """Return a tile of operands, of each of which it is known where they stand, and bytes from step to step."""
    least, bias = load_int(geometry, MIN_PERIODS), load_int(geometry, BIAS)
    return Tile(x[0], y[0], gate[0], h[0], x[1], y[1], gate[1], h[1], state, plane, steps, least, bias, ahead)


@helper
def walk_tile(rule, x, y, gate, h, state, geometry, t, steps, count, is_first):
    """Walk some steps of a vector of series, of which ``count`` are not repeated."""
    plane, streams = width(state) * itemsize(state), load_int(geometry, STREAMING) != 0
    shared = gate.end == WIDTH and gate.apart == 0
    uniform = shared and not covaries(rule) and is_uniform(state, plane, load_int(geometry, MIN_PERIODS))
    filled = WIDTH if is_first else count
    x_here = pack(x, t, steps, filled)
    y_here = others_of(rule, pack, x_here, y, t, steps, filled)
    # Where lines of results are streamed, only a uniform walk writes them itself.
    streams_rows = streams and is_in_lines(h)
    in_place = is_row(h) and (uniform or not streams_rows)
    h_here = (h.rows, WIDTH * itemsize(h.at))
    if in_place:
        h_here = (shift(h.at, load_int(h.offsets, 0) + t * h.stride), h.stride)
    ahead = 0
    if is_row(x):
        ahead = AHEAD // itemsize(x.at) * x.stride
        if abs(ahead) > NEAR:
            ahead = ROWS_AHEAD * x.stride
    one_gate = (shift(gate.at, load_int(gate.offsets, 0) + t * gate.stride), gate.stride)
    done = uniform and walk_uniform_average(
        rule, tile_of(x_here, y_here, one_gate, h_here, state, plane, geometry, steps, ahead), streams_rows
    )
    if not done:
        gates = pack_gates(gate, t, steps, shared, state)
        tile = tile_of(x_here, y_here, gates, h_here, state, plane, geometry, steps, ahead)
        walk_steps(rule, load_vector, store_vector, tile)
    if not in_place:
        unpack(h, t, steps, count, streams, state)


@helper
def copy_planes(get, put, target, to_row, source, from_row, planes):
    """Copy the states of a series, or of a vector of them."""
    for plane in range(planes):
        put(target, plane * to_row, get(source, plane * from_row, target))


def walk(rule, x, y, h, gate, carry, geometry, first, last):
    """Walk series ``first`` to ``last``, a multiple of the width apart; but for covariances, ``y`` is ``x``."""
    steps, padded, lanes = load_int(geometry, N_STEPS), load_int(geometry, PADDED), width(carry)
    chunk, count = load_int(geometry, CHUNK), load_int(geometry, N_SERIES)
    planes = PLANES if covaries(rule) else AVERAGE_PLANES
    x_rows, y_rows, gate_rows, h_rows = stack(x, TILE), stack(y, TILE), stack(gate, TILE), stack(h, TILE)
    state = stack(carry, STATE)
    for begin in range(0, steps, chunk):
        end = minimum(steps, begin + chunk)
        for lane in range(first, last, lanes):
            xs = operand(x, geometry, X_STRIDE, 0, lane, x_rows)
            ys = operand(y, geometry, Y_STRIDE, 1, lane, y_rows)
            hs = operand(h, geometry, H_STRIDE, 2, lane, h_rows)
            gates = operand(gate, geometry, GATE_STRIDE, 3, lane, gate_rows)
            states = shift(carry, lane * itemsize(carry))
            copy_planes(load_vector, store_vector, state, lanes, states, padded, planes)
            for t in range(begin, end, STEPS):
                n, whole = minimum(STEPS, end - t), minimum(lanes, count - lane)
                walk_tile(rule, xs, ys, gates, hs, state, geometry, t, n, whole, t == begin)
            copy_planes(load_vector, store_vector, states, padded, state, lanes, planes)
    fence()

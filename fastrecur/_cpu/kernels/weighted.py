"""Kernels for exponentially weighted statistics: each sample is read once, whatever its layout.

A tile of series is walked where it stands in memory, or else packed, walked, and unpacked as in `packing`. How a
sample takes part is written in `_steps`. Where series are neighbours, all of them go a tile's steps before the next
(CHUNK), so that memory is walked from one end to the other. A few long series come as many: in chunks.
"""

from collections import namedtuple

from numba.extending import overload

from ..._plan.fields.weighted import (
    ALIKE,
    AVERAGE_PLANES,
    BIAS,
    BORDERS_STRIDE,
    CHUNK,
    COUNT,
    COVARIANCE,
    GATE_STRIDE,
    H_STRIDE,
    HEAD,
    MEAN,
    MEAN_Y,
    MIN_PERIODS,
    N_SERIES,
    N_STEPS,
    ORIGIN,
    ORIGIN_Y,
    PADDED,
    PLANES,
    ROOM,
    STEPS,
    STREAMING,
    WEIGHT,
    X_STRIDE,
    Y_STRIDE,
)
from ..._plan.widths import LINE, WIDTH
from ..._steps import recurrence
from ..._steps.recurrence import constant, everywhere, is_finite, select
from ..compiler.numba_internals import INLINE, function_of, helper, inlined
from ..vectors.scalars import (
    alone,
    fence,
    itemsize,
    load,
    load_int,
    minimum,
    misalignment,
    prefetch,
    shift,
    stack,
    store,
    width,
)
from ..vectors.vectors import load_mask, load_one_mask, load_vector, store_vector, stream_vector
from .operands import NO, YES, ZERO
from .packing import View, column, copy, stream_transposed
from .rules import flag_is_broadcast, trait

ROW = WIDTH  # numbers from one plane of a walked state to the next
STATE_SIZE, TILE = ROW * PLANES, WIDTH * STEPS
AHEAD = 256  # bytes: prefetch distance along a series,
NEAR = 1 << 14  # if no more than this is between its rows: what is farther would not stay in the first level
ROWS_AHEAD = 16  # else in rows of memory
NAN = float("nan")


# An operand of a vector of series: a pointer, the table of where each series begins, bytes from step to step, a buffer
# for a tile; up to which series all stand as far apart as the first two, and how far.
Operand = namedtuple("Operand", "at offsets step rows end apart")
# Samples, gates, flags and results of some steps, each as where they stand and bytes from one step's to the next one's;
# the state, how many steps there are, how many samples a result needs, whether it may be biased; and the prefetch
# distance of samples in bytes.
Tile = namedtuple("Tile", "x y gate flags h state steps least bias ahead")

# The rows of a state, and what a step has for it.
State = namedtuple("State", "weight count mean origin origin_y mean_y covariance room")
Sample = namedtuple("Sample", "x y from_x from_y gate")


def plain(rule, x, gate, means, variances, least):
    """Compute what `walk` does of one operand, of arrays (steps, series): its average, and its variance."""
    for j in range(x.shape[1]):
        weight = mean = variance = room = zero = constant(0.0, x)
        count = 0
        for t in range(len(x)):
            seen = is_finite(x[t, j])
            share, kept, weight, _ = recurrence.weigh(weight, gate, seen, adjust(rule), timed(rule), ignore_na(rule))
            if seen:
                apart, count = x[t, j] - mean, count + 1
                variance, room = recurrence.covary(variance, room, share, kept, apart, apart)
                mean = recurrence.approach(mean, share, kept, x[t, j])
            means[t, j] = mean if count >= least else NAN
            variances[t, j] = variance / room if count >= least and zero < room else NAN


approach, covary, weigh = inlined(recurrence.approach), inlined(recurrence.covary), inlined(recurrence.weigh)
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


@inlined
def advance_where(rule, now, sample, seen):
    """Return the state after a step; ``seen`` says where a sample is there."""
    x, y, one, zero = sample.x, sample.y, constant(1.0, sample.gate), constant(0.0, sample.gate)
    covariance, room = now.covariance, now.room
    share, kept, weight, decay = weigh(now.weight, sample.gate, seen, adjust(rule), timed(rule), ignore_na(rule))
    if covaries(rule):
        from_mean = x - now.mean
        from_mean_y = from_mean if one_series(rule) else y - now.mean_y
        moved, roomier = covary(covariance, room, share, kept, from_mean, from_mean_y)
        covariance, room = select(seen, moved, covariance), select(seen, roomier, room)
    if is_sum(rule):
        mean = select(seen, decay * now.mean + x, decay * now.mean)
    else:
        mean = select(seen, approach(now.mean, share, kept, x), now.mean)
    mean_y = mean if one_series(rule) else select(seen, approach(now.mean_y, share, kept, y), now.mean_y)
    origin = select(seen, sample.from_x, now.origin)
    origin_y = origin if one_series(rule) else select(seen, sample.from_y, now.origin_y)
    return State(weight, now.count + select(seen, one, zero), mean, origin, origin_y, mean_y, covariance, room)


@inlined
def advance_one(rule, now, sample, seen):
    """Do the same for one series by a branch, which is foreseen: each step would wait for the choices."""
    one = constant(1.0, sample.gate)
    if everywhere(seen):
        return advance_where(rule, now, sample, one == one)
    return advance_where(rule, now, sample, one < one)


def advance(rule, now, sample, seen):
    return advance_where(rule, now, sample, seen)


@overload(advance, jit_options=INLINE, strict=False)
def _advance(rule, now, sample, seen):
    return function_of(advance_one if seen.count == 1 else advance_where)


@helper
def walk_steps(rule, tile):
    state, row = tile.state, width(tile.state)
    now = State(
        load_vector(state, row * WEIGHT, state), load_vector(state, row * COUNT, state),
        load_vector(state, row * MEAN, state), load_vector(state, row * ORIGIN, state),
        load_vector(state, row * ORIGIN_Y, state), load_vector(state, row * MEAN_Y, state),
        load_vector(state, row * COVARIANCE, state), load_vector(state, row * ROOM, state),
    )  # fmt: skip
    zero, nan = constant(0.0, now.weight), constant(NAN, now.weight)
    for k in range(tile.steps):
        if flagged(rule):
            place = shift(tile.flags[0], k * tile.flags[1])
            begins = load_one_mask(place, state) if flag_is_broadcast(rule) else load_mask(place, 0, state)
            prefetch(place, 0, ROWS_AHEAD * tile.flags[1])
            weight, count = select(begins, zero, now.weight), select(begins, zero, now.count)
            mean, covariance = select(begins, zero, now.mean), select(begins, zero, now.covariance)  # maybe infinite
            now = State(weight, count, mean, now.origin, now.origin_y, now.mean_y, covariance, now.room)
        x, gate = sample(tile, tile.x, k), sample(tile, tile.gate, k)
        y = x if one_series(rule) else sample(tile, tile.y, k)
        from_x, from_y = now.origin, now.origin_y
        if covaries(rule):
            from_x = select(now.count == zero, x, from_x)
            from_y = from_x if one_series(rule) else select(now.count == zero, y, from_y)
            x, y = x - from_x, y - from_y
        seen = is_finite(x) if one_series(rule) else (x - x) + (y - y) == zero  # x + y might overflow
        now = advance(rule, now, Sample(x, y, from_x, from_y, gate), seen)
        if covaries(rule):
            covariance, room = now.covariance, now.room
            finish(tile, k, now.count, covariance if tile.bias else select(zero < room, covariance / room, nan))
        else:
            finish(tile, k, now.count, now.mean)
    store_vector(state, row * WEIGHT, now.weight)
    store_vector(state, row * COUNT, now.count)
    store_vector(state, row * MEAN, now.mean)
    if covaries(rule):
        store_vector(state, row * ORIGIN, now.origin)
        store_vector(state, row * ORIGIN_Y, now.origin_y)
        store_vector(state, row * MEAN_Y, now.mean_y)
        store_vector(state, row * COVARIANCE, now.covariance)
        store_vector(state, row * ROOM, now.room)


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
    """Return where a step of a series stands in the k-th operand, and bytes to the next one."""
    begin, stride = load_int(geometry, HEAD + k * load_int(geometry, PADDED) + lane), load_int(geometry, field)
    return shift(pointer, begin + t * stride), stride


@inlined
def is_row(x):
    """Return whether a tile's series are neighbours."""
    return x.end == WIDTH and x.apart == itemsize(x.at)


@inlined
def place_of(x, t):
    """Return where a tile's step stands in memory if its series are neighbours or one, and bytes to the next step."""
    return shift(x.at, load_int(x.offsets, 0) + t * x.step), x.step


@helper
def copy_runs(x, t, steps, count, unpacks, streams):
    """Copy some steps of ``count`` series to a tile, or from there; then by non-temporal stores where these fill lines.

    What stands beside them in a tile is of an earlier one.
    """
    first, end, apart, size = 0, x.end, x.apart, itemsize(x.at)
    while first < count:
        end = minimum(end, count)
        there = View(shift(x.at, load_int(x.offsets, first) + t * x.step), x.step, apart)
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
    copy_runs(x, t, steps if x.step != 0 else 1, count, NO, NO)
    return x.rows, WIDTH * itemsize(x.at) if x.step != 0 else 0


@helper
def walk_tile(rule, x, y, gate, flags, h, state, geometry, t, steps, count, is_first):
    """Walk some steps of a vector of series, of which ``count`` are not repeated."""
    streams, filled = load_int(geometry, STREAMING) != 0, WIDTH if is_first else count
    x_here = pack(x, t, steps, filled)
    y_here = place_of(y, t) if one_series(rule) else pack(y, t, steps, filled)  # where there is one, nothing reads it
    in_lines = misalignment(shift(h.at, load_int(h.offsets, 0))) == 0 and h.step % LINE == 0
    streams_rows = streams and is_row(h) and in_lines
    in_place = is_row(h) and not streams_rows
    h_here = place_of(h, t) if in_place else (h.rows, WIDTH * itemsize(h.at))
    ahead = 0
    if is_row(x):
        ahead = AHEAD // itemsize(x.at) * x.step
        if abs(ahead) > NEAR:
            ahead = ROWS_AHEAD * x.step
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
    state, flag_rows = stack(carry, STATE_SIZE), stack(borders, TILE)
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


@inlined
def some_of(x, y, h, gate, borders, state, geometry, lane, t, steps):
    """Return some steps of one series, and the state before them."""
    least, bias = load_int(geometry, MIN_PERIODS), load_int(geometry, BIAS)
    xs, ys = place_in(x, geometry, X_STRIDE, 0, lane, t), place_in(y, geometry, Y_STRIDE, 1, lane, t)
    hs, gates = place_in(h, geometry, H_STRIDE, 2, lane, t), place_in(gate, geometry, GATE_STRIDE, 3, lane, t)
    marks = place_in(borders, geometry, BORDERS_STRIDE, 4, lane, t)
    return Tile(xs, ys, gates, marks, hs, state, steps, least, bias, 0)


def walk_alone(rule, x, y, h, gate, borders, carry, geometry, first, last):
    """Walk series ``first`` to ``last``, one after the other: of very few, vectors would be empty but for these."""
    steps = load_int(geometry, N_STEPS)
    for lane in range(first, last):
        state = alone(shift(carry, lane * PLANES * itemsize(carry)))
        walk_steps(rule, some_of(x, y, h, gate, borders, state, geometry, lane, 0, steps))
    fence()


@helper
def walk_chunks(rule, x, y, gate, h, state, geometry, steps, writes):
    """Walk some steps of as many chunks of a series as a vector has lanes, from the state before each."""
    least, bias = load_int(geometry, MIN_PERIODS), load_int(geometry, BIAS)
    for t in range(0, steps, STEPS):
        n = minimum(STEPS, steps - t)
        x_here = pack(x, t, n, WIDTH)
        y_here = x_here if one_series(rule) else pack(y, t, n, WIDTH)
        h_here, gates = (h.rows, WIDTH * itemsize(h.at)), pack(gate, t, n, WIDTH)
        walk_steps(rule, Tile(x_here, y_here, gates, gates, h_here, state, n, least, bias, 0))
        if writes:
            copy_runs(h, t, n, WIDTH, YES, NO)


@inlined
def chunks_of(pointer, geometry, field, k, first, length, rows):
    """Return the k-th operand of chunks of a series that begin as many steps apart, after the ``first`` ones."""
    stride, offsets = load_int(geometry, field), shift(geometry, 8 * (HEAD + k))
    return Operand(shift(pointer, first * stride), offsets, stride, rows, WIDTH, length * stride)


@inlined
def is_near(value, true):
    return abs(value - true) <= ALIKE * abs(true) or value == true


@helper
def is_alike(rule, states, c, true, least):
    """Return whether a chunk's first state gives the same results as the true one but for roundings."""
    if not is_near(load(states, ROW * WEIGHT + c, true), load(true, WEIGHT, true)) or load(true, COUNT, true) < least:
        return False
    if not covaries(rule):
        return is_near(load(states, ROW * MEAN + c, true), load(true, MEAN, true))
    for mean, origin in ((MEAN, ORIGIN), (MEAN_Y, ORIGIN_Y)):
        apart = load(states, ROW * origin + c, true) - load(true, origin, true)
        if not is_near(load(states, ROW * mean + c, true) + apart, load(true, mean, true)):
            return False
    for plane in (COVARIANCE, ROOM):
        if not is_near(load(states, ROW * plane + c, true), load(true, plane, true)):
            return False
    return True


@helper
def begin_chunks(rule, states, true):
    """Write the states from which chunks warm up: nothing but the origin of a series that has begun."""
    has_origin = load(true, COUNT, true) > 0.0
    for plane in range(PLANES):
        is_known = has_origin and (plane == ORIGIN or plane == ORIGIN_Y)
        value = load(true, plane, true) if is_known else 1.0 if has_origin and plane == COUNT else 0.0
        for c in range(WIDTH):
            store(states, ROW * plane + c, value)


@helper
def hand_on(rule, states, starts, true, least):
    """Make each chunk's state that before the next one, which is to have all samples that a result needs."""
    for plane in range(PLANES):
        store(starts, ROW * plane, load(true, plane, true))
        for c in range(1, WIDTH):
            store(starts, ROW * plane + c, least if plane == COUNT else load(states, ROW * plane + c - 1, true))
    copy_state(rule, states, ROW, starts, ROW)


def walk_cut(rule, x, y, h, gate, borders, carry, geometry, first, window):
    """Walk one series: the ``first`` steps alone, and the rest in chunks side by side.

    What stands before a chunk is found by a warm-up over so many steps before it, the ``window``. A chunk before which
    another one comes to another state is walked again from that: results are those of one walk but for roundings,
    whatever gaps and outliers do.
    """
    steps, least = load_int(geometry, N_STEPS) - first, float(load_int(geometry, MIN_PERIODS))
    length, own = steps // WIDTH, alone(carry)
    x_rows, y_rows, gate_rows, h_rows = stack(x, TILE), stack(y, TILE), stack(gate, TILE), stack(h, TILE)
    states, starts = stack(carry, STATE_SIZE), stack(carry, STATE_SIZE)
    walk_steps(rule, some_of(x, y, h, gate, gate, own, geometry, 0, 0, first))
    begin_chunks(rule, states, carry)
    for writes in range(0 if length > 0 else 2, 2):
        begin, n = (first, length) if writes else (first + length - window, window)
        xs = chunks_of(x, geometry, X_STRIDE, 0, begin, length, x_rows)
        ys = chunks_of(y, geometry, Y_STRIDE, 1, begin, length, y_rows)
        hs = chunks_of(h, geometry, H_STRIDE, 2, begin, length, h_rows)
        gates = chunks_of(gate, geometry, GATE_STRIDE, 3, begin, length, gate_rows)
        walk_chunks(rule, xs, ys, gates, hs, states, geometry, n, writes != 0)
        if not writes:
            hand_on(rule, states, starts, carry, least)
    for c in range(WIDTH if length > 0 else 0):
        if c == 0 or is_alike(rule, starts, c, carry, least):
            seen = load(states, ROW * COUNT + c, carry) - load(starts, ROW * COUNT + c, carry)
            count = load(carry, COUNT, carry) + seen
            for plane in range(PLANES):
                store(carry, plane, load(states, ROW * plane + c, carry))
            store(carry, COUNT, count)
        else:
            walk_steps(rule, some_of(x, y, h, gate, gate, own, geometry, 0, first + c * length, length))
    done = WIDTH * length
    walk_steps(rule, some_of(x, y, h, gate, gate, own, geometry, 0, first + done, steps - done))
    fence()


def walk_groups(rule, x, y, h, gate, borders, carry, geometry, first, last):
    """Walk series ``first`` to ``last``, each step from the state of its group, whose number is in ``borders``."""
    lanes = load_int(geometry, N_SERIES)
    for t in range(load_int(geometry, N_STEPS)):
        states = load_int(borders, t) * lanes
        for lane in range(first, last):
            state = alone(shift(carry, (states + lane) * PLANES * itemsize(carry)))
            walk_steps(rule, some_of(x, y, h, gate, gate, state, geometry, lane, t, 1))
    fence()

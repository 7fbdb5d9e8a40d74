"""Kernels for lanes in any layout: bring a tile into a buffer, walk it, and put the results where they belong.

A tile is ``width`` lanes (a vector) by at most STEPS steps. In the buffers a step's lanes
are neighbours and numbers have the carry type, so the walk is the same whatever stood in memory. Bringing in and
putting back know three layouts: lanes that are neighbours, time that is contiguous (8 x 8 blocks are transposed in
registers), and the rest, number by number.

Lanes are counted through up to three dimensions. ``geometry`` begins as for rows; then come the sizes of the two inner
dimensions of lanes, then for every operand its strides in bytes along time and along lanes, outermost first.
"""

import numpy as np

from .._layout import A_MODE, ACCUMULATE, B_MODE, HEAD, N_STEPS, REVERSE, STORE, STREAMING
from .._steps import constant
from ._memory import (
    broadcast,
    fence,
    itemsize,
    load,
    load_blocks,
    load_int,
    load_vector,
    maximum,
    minimum,
    misalignment,
    prefetch,
    shift,
    stack,
    stack_ints,
    stack_like,
    store,
    store_blocks,
    store_int,
    store_vector,
    stream_blocks,
    total,
    turns,
    width,
)
from ._numba import helper
from ._operands import ONE, ZERO, valid_range
from ._rules import adjoint, neutral, step

STEPS = 32
AHEAD = 256  # bytes of a lane that are asked for before their turn: more streams than the machine's prefetcher follows
NEAR = 1 << 14  # bytes within which rows are asked for too: what is farther would not stay in the first level
LONG = 2048  # steps of a lane from which a first tile of less than a line does not matter
# Where in `geometry` each operand's four strides begin, in bytes.
A, B, H, CARRY, LENGTHS, G, TO_A, TO_B, SUMS_A, SUMS_B = 8 * (HEAD + 2 + 4 * np.arange(10, dtype=np.int64))
MOST = STEPS + 8  # the last tile also takes what would be less than a block of 8
TILE = 16 * MOST


@helper
def lane_offset(geometry, strides, lane):
    """Return where a lane stands; ``strides`` is the operand's part of ``geometry``."""
    middle, inner = load_int(geometry, HEAD), load_int(geometry, HEAD + 1)
    rest = lane // inner
    return (
        load_int(strides, 1) * (rest // middle)
        + load_int(strides, 2) * (rest % middle)
        + load_int(strides, 3) * (lane % inner)
    )


@helper
def lane_places(places, geometry, first, last, carry):
    """Note each lane's place in the three dimensions of lanes; a short tile repeats its last lane."""
    middle, inner = load_int(geometry, HEAD), load_int(geometry, HEAD + 1)
    rest = first // inner
    i, j, k = rest // middle, rest % middle, first % inner
    for lane in range(width(carry)):
        store_int(places, lane, i)
        store_int(places, 16 + lane, j)
        store_int(places, 32 + lane, k)
        if first + lane < last - 1:
            k += 1
            if k == inner:
                j, k = j + 1, 0
                if j == middle:
                    i, j = i + 1, 0


@helper
def lane_offsets(offsets, strides, places, carry):
    """Note where each lane of a tile stands; ``strides`` is the operand's part of ``geometry``."""
    outer, middle, inner = load_int(strides, 1), load_int(strides, 2), load_int(strides, 3)
    for lane in range(width(carry)):
        i, j, k = load_int(places, lane), load_int(places, 16 + lane), load_int(places, 32 + lane)
        store_int(offsets, lane, outer * i + middle * j + inner * k)


@helper
def jump(geometry, operand, carry):
    """Return how far from a tile's lanes the next tile's stand, but where an inner dimension of lanes ends."""
    return width(carry) * load_int(shift(geometry, operand), 3)


@helper
def are_spaced(offsets, size, count):
    """Return whether consecutive lanes are ``size`` bytes apart."""
    for j in range(1, count):
        if load_int(offsets, j) != load_int(offsets, 0) + j * size:
            return False
    return True


@helper
def row_bytes(rows):
    return width(rows) * itemsize(rows)


@helper
def whole_blocks(steps):
    """Return how many steps go by blocks of 8: all, one more block overlapping its neighbour, if there is one."""
    return steps if steps >= 8 else 0


@helper
def soon(operand, time):
    """Return how far away stands what will be a lane's turn AHEAD bytes later."""
    return AHEAD // itemsize(operand) * time


@helper
def bytes_ahead(operand, way, t, steps, time, jump):
    """Return how far from step t stands what will be its turn AHEAD bytes of a lane later, going one ``way`` or back.

    Past a lane's end that is in a later tile's lanes; ``jump`` is how far from one's to the next one's.
    """
    later = t + way * (AHEAD // itemsize(operand))
    tiles = later // steps
    return abs(tiles) * jump + (later - tiles * steps - t) * time


@helper
def bring(buffer, source, offsets, time, steps, ahead):
    """Fill the first ``steps`` rows of a buffer from ``source``, which stands at their first step.

    ``ahead`` is how many bytes from there stands what will be asked for soon.
    """
    lanes, size, row = width(buffer), itemsize(source), row_bytes(buffer)
    done = 0
    if are_spaced(offsets, size, lanes):
        base = shift(source, load_int(offsets, 0))
        near = abs(ahead) <= NEAR
        for k in range(steps):
            if near:
                prefetch(base, 0, k * time + ahead)
            store_vector(shift(buffer, k * row), 0, load_vector(shift(base, k * time), 0, buffer))
        done = steps
    elif time == 0:
        for j in range(lanes):
            store(buffer, j, load(shift(source, load_int(offsets, j)), 0, buffer))
        value = load_vector(buffer, 0, buffer)
        for k in range(1, steps):
            store_vector(shift(buffer, k * row), 0, value)
        done = steps
    elif abs(time) == size:
        done = whole_blocks(steps)
        for octet in range(0, lanes, 8):
            these, there = shift(offsets, octet * 8), shift(buffer, octet * itemsize(buffer))
            k, count = 0, done // 8
            while count > 0:
                if time > 0:
                    from_, to = shift(source, k * size), shift(there, k * row)
                    load_blocks(from_, these, to, row, count, 8 * size, 8 * row, ahead)
                else:
                    from_, to = shift(source, -(k + 7) * size), shift(there, (k + 7) * row)
                    load_blocks(from_, these, to, -row, count, -8 * size, 8 * row, ahead)
                k, count = done - 8, minimum(done % 8, 1) if k == 0 else 0
    for k in range(done, steps):
        for j in range(lanes):
            value = load(shift(source, load_int(offsets, j) + k * time), 0, buffer)
            store(shift(buffer, k * row), j, value)


@helper
def put(target, offsets, time, buffer, steps, lanes, ahead, bypass):
    """Write the first ``steps`` rows of a buffer; ``target`` stands at their first step."""
    size, row = itemsize(target), row_bytes(buffer)
    done = 0
    if lanes == width(buffer) and are_spaced(offsets, size, lanes):
        base = shift(target, load_int(offsets, 0))
        for k in range(steps):
            store_vector(shift(base, k * time), 0, load_vector(shift(buffer, k * row), 0, buffer))
        done = steps
    elif abs(time) == size:
        done = whole_blocks(steps)
        for octet in range(0, lanes, 8):
            these, there = shift(offsets, octet * 8), shift(buffer, octet * itemsize(buffer))
            k, count = 0, done // 8
            whole = octet + 8 <= lanes  # else the last lane is repeated, whose lines would be sent off again and again
            while count > 0:
                if bypass and whole and k == 0:
                    stream_blocks(there, row, target, these, count, 8 * size, 8 * row, ahead)
                elif time > 0:
                    from_, to = shift(there, k * row), shift(target, k * size)
                    store_blocks(from_, row, to, these, count, 8 * size, 8 * row, ahead)
                else:
                    from_, to = shift(there, (k + 7) * row), shift(target, -(k + 7) * size)
                    store_blocks(from_, -row, to, these, count, -8 * size, 8 * row, ahead)
                k, count = done - 8, minimum(done % 8, 1) if k == 0 else 0
    for k in range(done, steps):
        for j in range(lanes):
            value = load(shift(buffer, k * row), j, buffer)
            store(shift(target, load_int(offsets, j) + k * time), 0, value)


@helper
def line_distance(target, offsets, time, lanes):
    """Return how many steps to take until every lane's next result begins a cache line; -1 if they never do.

    It begins one at its end where the walk goes down through memory.
    """
    size = itemsize(target)
    off = misalignment(shift(target, load_int(offsets, 0)))
    for j in range(1, lanes):
        if (load_int(offsets, j) - load_int(offsets, 0)) % 64 != 0:
            return -1
    if off % size != 0:
        return -1
    return (64 - off) % 64 // size if time > 0 else (off + size) % 64 // size


@helper
def steps_to_line(target, offsets, time, carry):
    """Return the same of a tile whose steps are neighbours; -1 if they are not, or are met down through memory."""
    return line_distance(target, offsets, time, width(carry)) if time == itemsize(target) else -1


@helper
def fill(buffer, value, j, first, last):
    """Set lane j of some rows."""
    for k in range(first, last):
        store(buffer, k * width(buffer) + j, value)


@helper
def add(sums, offsets, time, buffer, steps, lanes):
    """Add a tile of a gradient to the sums of an operand that was broadcast."""
    row = row_bytes(buffer)
    if time == 0:  # over the steps first, so that the sums are touched once a tile
        column = load_vector(buffer, 0, buffer)
        for k in range(1, steps):
            column = column + load_vector(shift(buffer, k * row), 0, buffer)
        store_vector(buffer, 0, column)
        steps = 1
    if are_spaced(offsets, ZERO, lanes):
        for j in range(lanes, turns(width(buffer))):
            fill(buffer, constant(0.0, load(buffer, 0, buffer)), j, ZERO, steps)
        for k in range(steps):
            place = shift(sums, load_int(offsets, 0) + k * time)
            value = total(load_vector(buffer, k * width(buffer), sums))
            store(place, 0, load(place, 0, sums) + value)
    else:
        for j in range(lanes):  # lane by lane: where their steps are neighbours, lanes may collide in the cache
            for k in range(steps):
                place = shift(sums, load_int(offsets, j) + k * time)
                store(place, 0, load(place, 0, sums) + load(buffer, k * width(buffer) + j, sums))


@helper
def valid_steps(starts, stops, lengths, offsets, steps, reverse, carry):
    """Note each lane's valid steps; return whether some lane has fewer than all."""
    ragged = False
    for j in range(turns(width(carry))):
        start, stop = valid_range(shift(lengths, load_int(offsets, j)), steps, reverse)
        store_int(starts, j, start)
        store_int(stops, j, stop)
        ragged = ragged or stop - start < steps
    return ragged


@helper
def mask(rows, value, starts, stops, t, steps):
    """Set what is outside the lanes' valid steps."""
    for j in range(turns(width(rows))):
        start, stop = load_int(starts, j), load_int(stops, j)
        fill(rows, value, j, ZERO, minimum(steps, maximum(0, start - t)))
        fill(rows, value, j, minimum(steps, maximum(0, stop - t)), steps)


@helper
def take_lanes(state, carry, first, last):
    for j in range(turns(width(carry))):
        store(state, j, load(carry, minimum(first + j, last - 1), carry))


@helper
def give_lanes(carry, state, first, last):
    for j in range(last - first):
        store(carry, first + j, load(state, j, state))


@helper
def walk(rule, a_rows, b_rows, h_rows, state, steps):
    """Advance a tile's lanes."""
    a_row, b_row, h_row = row_bytes(a_rows), row_bytes(b_rows), row_bytes(h_rows)
    h = load_vector(state, 0, state)
    for k in range(steps):
        gate, value = load_vector(shift(a_rows, k * a_row), 0, state), load_vector(shift(b_rows, k * b_row), 0, state)
        h = step(rule, h, gate, value)
        store_vector(shift(h_rows, k * h_row), 0, h)
    store_vector(state, 0, h)


def forward(rule, a, b, h, carry, lengths, geometry, first, last):
    """Walk lanes ``first`` to ``last``; ``carry`` holds the first states, then the last."""
    steps, reverse = load_int(geometry, N_STEPS), load_int(geometry, REVERSE)
    a_time, b_time, h_time = (
        load_int(shift(geometry, A), 0),
        load_int(shift(geometry, B), 0),
        load_int(shift(geometry, H), 0),
    )
    a_rows, b_rows, h_rows = stack_like(a, carry, TILE), stack_like(b, carry, TILE), stack_like(h, carry, TILE)
    state = stack(carry, 16)
    a_at, b_at, h_at, lengths_at = stack_ints(16), stack_ints(16), stack_ints(16), stack_ints(16)
    starts, stops, places = stack_ints(16), stack_ints(16), stack_ints(48)
    a_jump = jump(geometry, A, carry)
    b_jump = jump(geometry, B, carry)
    h_jump = jump(geometry, H, carry)
    zero = constant(0.0, load(carry, 0, carry))
    keep_a, keep_b = neutral(rule, zero)
    for lane in range(first, last, width(carry)):
        end = minimum(last, lane + width(carry))
        lane_places(places, geometry, lane, end, carry)
        lane_offsets(a_at, shift(geometry, A), places, carry)
        lane_offsets(b_at, shift(geometry, B), places, carry)
        lane_offsets(h_at, shift(geometry, H), places, carry)
        lane_offsets(lengths_at, shift(geometry, LENGTHS), places, carry)
        ragged = valid_steps(starts, stops, lengths, lengths_at, steps, reverse, carry)
        take_lanes(state, carry, lane, end)
        # Past the cache go results whose lines all lanes have at the same steps, and tiles end with them. Long lanes'
        # tiles also end with an operand's lines, each of which is brought once then; its first steps cost little there.
        head = maximum(0, steps_to_line(b, b_at, b_time, carry)) if steps >= LONG else 0
        bypass = load_int(geometry, STREAMING) != 0 and steps_to_line(h, h_at, h_time, carry) == head
        t = 0
        while t < steps:
            n = head if t < head else STEPS if steps - t >= STEPS + 8 else steps - t
            if a_time != 0 or t == 0 or ragged:
                ahead = bytes_ahead(a, 1, t, steps, a_time, a_jump)
                bring(a_rows, shift(a, t * a_time), a_at, a_time, MOST if a_time == 0 else n, ahead)
            bring(b_rows, shift(b, t * b_time), b_at, b_time, n, bytes_ahead(b, 1, t, steps, b_time, b_jump))
            if ragged:
                mask(a_rows, keep_a, starts, stops, t, n)
                mask(b_rows, keep_b, starts, stops, t, n)
            walk(rule, a_rows, b_rows, h_rows, state, n)
            if ragged:
                mask(h_rows, zero, starts, stops, t, n)
            ahead = bytes_ahead(h, 1, t, steps, h_time, h_jump)
            put(shift(h, t * h_time), h_at, h_time, h_rows, n, end - lane, ahead, bypass and t >= head)
            t += n
        give_lanes(carry, state, lane, end)
    if load_int(geometry, STREAMING):
        fence()


@helper
def walk_back(rule, g_rows, a_rows, b_rows, h_rows, to_a_rows, to_b_rows, state, steps):
    """Take a tile's cotangents to the step before."""
    g_row, a_row, b_row, h_row = row_bytes(g_rows), row_bytes(a_rows), row_bytes(b_rows), row_bytes(h_rows)
    to_a_row, to_b_row = row_bytes(to_a_rows), row_bytes(to_b_rows)
    r = load_vector(state, 0, state)
    for ago in range(steps):
        k = steps - 1 - ago
        arrived = load_vector(shift(g_rows, k * g_row), 0, state) + r
        gate, value = load_vector(shift(a_rows, k * a_row), 0, state), load_vector(shift(b_rows, k * b_row), 0, state)
        grad_a, grad_b, r = adjoint(rule, arrived, gate, value, load_vector(shift(h_rows, k * h_row), 0, state))
        store_vector(shift(to_a_rows, k * to_a_row), 0, grad_a)
        store_vector(shift(to_b_rows, k * to_b_row), 0, grad_b)
    store_vector(state, 0, r)


@helper
def bring_before(h_rows, h, h_at, h_time, h0_lanes, starts, t, steps, ahead):
    """Bring the states before steps t to t + steps: at a lane's first valid step its h0, else the stored one."""
    if t > 0:
        bring(h_rows, shift(h, (t - 1) * h_time), h_at, h_time, steps, ahead)
    else:
        fill_row(h_rows, h0_lanes)
        bring(shift(h_rows, row_bytes(h_rows)), h, h_at, h_time, steps - 1, ZERO)
    for j in range(width(h_rows)):
        k = load_int(starts, j) - t
        if 0 <= k < steps:
            store(h_rows, k * width(h_rows) + j, load(h0_lanes, j, h_rows))


@helper
def fill_row(rows, lanes):
    for j in range(width(rows)):
        store(rows, j, load(lanes, j, rows))


@helper
def deliver(target, target_at, target_time, sums, sums_at, sums_time, mode, rows, t, steps, lanes, ahead, bypass):
    """Bring a tile of a gradient where it belongs."""
    if mode == STORE:
        put(shift(target, t * target_time), target_at, target_time, rows, steps, lanes, ahead, bypass)
    elif mode == ACCUMULATE:
        add(shift(sums, t * sums_time), sums_at, sums_time, rows, steps, lanes)


@helper
def gather(total, rows, steps):
    """Add a tile of a gradient to its lanes' totals, step by step: tiles that begin elsewhere give the same bits."""
    row = row_bytes(rows)
    column = load_vector(total, 0, total)
    for ago in range(steps):
        column = column + load_vector(shift(rows, (steps - 1 - ago) * row), 0, total)
    store_vector(total, 0, column)


def vjp(rule, g, a, b, h, h0, carry, to_a, to_b, sums_a, sums_b, lengths, geometry, first, last):
    """Walk lanes back; ``carry`` holds the last states' cotangents, then the first states'."""
    steps, reverse = load_int(geometry, N_STEPS), load_int(geometry, REVERSE)
    a_mode, b_mode = load_int(geometry, A_MODE), load_int(geometry, B_MODE)
    a_time, b_time = load_int(shift(geometry, A), 0), load_int(shift(geometry, B), 0)
    h_time, g_time = load_int(shift(geometry, H), 0), load_int(shift(geometry, G), 0)
    to_a_time, to_b_time = load_int(shift(geometry, TO_A), 0), load_int(shift(geometry, TO_B), 0)
    sums_a_time, sums_b_time = load_int(shift(geometry, SUMS_A), 0), load_int(shift(geometry, SUMS_B), 0)
    g_rows, a_rows = stack_like(g, carry, TILE), stack_like(a, carry, TILE)
    b_rows, h_rows = stack_like(b, carry, TILE), stack(carry, TILE)  # h0 is as wide as the carry
    to_a_rows, to_b_rows = stack_like(to_a, carry, TILE), stack_like(to_b, carry, TILE)
    state, h0_lanes, total_a, total_b = stack(carry, 16), stack(carry, 16), stack(carry, 16), stack(carry, 16)
    gather_a, gather_b = a_mode == ACCUMULATE and sums_a_time == 0, b_mode == ACCUMULATE and sums_b_time == 0
    g_at, a_at, b_at, h_at, lengths_at = stack_ints(16), stack_ints(16), stack_ints(16), stack_ints(16), stack_ints(16)
    to_a_at, to_b_at, sums_a_at, sums_b_at = stack_ints(16), stack_ints(16), stack_ints(16), stack_ints(16)
    starts, stops, places = stack_ints(16), stack_ints(16), stack_ints(48)
    g_jump, a_jump = jump(geometry, G, carry), jump(geometry, A, carry)
    b_jump, h_jump = jump(geometry, B, carry), jump(geometry, H, carry)
    to_a_jump = jump(geometry, TO_A, carry)
    to_b_jump = jump(geometry, TO_B, carry)
    zero = constant(0.0, load(carry, 0, carry))
    keep_a, keep_b = neutral(rule, zero)
    for lane in range(first, last, width(carry)):
        end = minimum(last, lane + width(carry))
        lane_places(places, geometry, lane, end, carry)
        lane_offsets(a_at, shift(geometry, A), places, carry)
        lane_offsets(b_at, shift(geometry, B), places, carry)
        lane_offsets(h_at, shift(geometry, H), places, carry)
        lane_offsets(lengths_at, shift(geometry, LENGTHS), places, carry)
        lane_offsets(g_at, shift(geometry, G), places, carry)
        lane_offsets(to_a_at, shift(geometry, TO_A), places, carry)
        lane_offsets(to_b_at, shift(geometry, TO_B), places, carry)
        lane_offsets(sums_a_at, shift(geometry, SUMS_A), places, carry)
        lane_offsets(sums_b_at, shift(geometry, SUMS_B), places, carry)
        ragged = valid_steps(starts, stops, lengths, lengths_at, steps, reverse, carry)
        take_lanes(state, carry, lane, end)
        take_lanes(h0_lanes, h0, lane, end)
        # As in `forward`.
        head = maximum(0, steps_to_line(b, b_at, b_time, carry)) if steps >= LONG else 0
        bypass = load_int(geometry, STREAMING) != 0
        bypass_a = bypass and a_mode == STORE and steps_to_line(to_a, to_a_at, to_a_time, carry) == head
        bypass_b = bypass and b_mode == STORE and steps_to_line(to_b, to_b_at, to_b_time, carry) == head
        store_vector(total_a, 0, broadcast(zero))
        store_vector(total_b, 0, broadcast(zero))
        first = 1 if head > 0 else 0  # a tile of its own
        tiles = first + maximum(1, (steps - head + STEPS - 8) // STEPS)
        for back in range(tiles):
            t = maximum(0, head + (tiles - 1 - back - first) * STEPS)
            n = steps - t if back == 0 else head if t < head else STEPS
            ahead = bytes_ahead(g, -1, t, steps, g_time, g_jump)
            bring(g_rows, shift(g, t * g_time), g_at, g_time, n, ahead)
            ahead = bytes_ahead(a, -1, t, steps, a_time, a_jump)
            bring(a_rows, shift(a, t * a_time), a_at, a_time, n, ahead)
            ahead = bytes_ahead(b, -1, t, steps, b_time, b_jump)
            bring(b_rows, shift(b, t * b_time), b_at, b_time, n, ahead)
            ahead = bytes_ahead(h, -1, t, steps, h_time, h_jump)
            bring_before(h_rows, h, h_at, h_time, h0_lanes, starts, t, n, ahead)
            if ragged:
                mask(g_rows, zero, starts, stops, t, n)
                mask(a_rows, keep_a, starts, stops, t, n)
                mask(b_rows, keep_b, starts, stops, t, n)
            walk_back(rule, g_rows, a_rows, b_rows, h_rows, to_a_rows, to_b_rows, state, n)
            if ragged:
                mask(to_a_rows, zero, starts, stops, t, n)
                mask(to_b_rows, zero, starts, stops, t, n)
            if gather_a:
                gather(total_a, to_a_rows, n)
            else:
                deliver(
                    to_a, to_a_at, to_a_time, sums_a, sums_a_at, sums_a_time, a_mode, to_a_rows, t, n, end - lane,
                    bytes_ahead(to_a, -1, t, steps, to_a_time, to_a_jump), bypass_a and t >= head,
                )  # fmt: skip
            if gather_b:
                gather(total_b, to_b_rows, n)
            else:
                deliver(
                    to_b, to_b_at, to_b_time, sums_b, sums_b_at, sums_b_time, b_mode, to_b_rows, t, n, end - lane,
                    bytes_ahead(to_b, -1, t, steps, to_b_time, to_b_jump), bypass_b and t >= head,
                )  # fmt: skip
        if gather_a:
            add(sums_a, sums_a_at, ZERO, total_a, ONE, end - lane)
        if gather_b:
            add(sums_b, sums_b_at, ZERO, total_b, ONE, end - lane)
        give_lanes(carry, state, lane, end)
    if load_int(geometry, STREAMING):
        fence()

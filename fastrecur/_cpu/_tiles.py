"""What other traversals still take of tiles: a vector of lanes by some steps, brought into a buffer of the carry type.

``geometry`` is that of `_packing`.
"""

import numpy as np

from .._layout import HEAD, STRIDES
from ._memory import (
    itemsize,
    load,
    load_blocks,
    load_int,
    load_vector,
    minimum,
    misalignment,
    prefetch,
    shift,
    store,
    store_blocks,
    store_int,
    store_vector,
    stream_blocks,
    turns,
    width,
)
from ._numba import helper
from ._packing import lane_offset  # noqa: F401

AHEAD = 256  # bytes of a lane that are asked for before their turn: more streams than the machine's prefetcher follows
NEAR = 1 << 14  # bytes within which rows are asked for too: what is farther would not stay in the first level
LONG = 2048  # steps of a lane from which a first tile of less than a line does not matter
# Where in `geometry` each operand's four strides begin, in bytes.
A, B, H, CARRY, LENGTHS, G, TO_A, TO_B, SUMS_A, SUMS_B = 8 * (STRIDES + 4 * np.arange(10, dtype=np.int64))


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
def take_lanes(state, carry, first, last):
    for j in range(turns(width(carry))):
        store(state, j, load(carry, minimum(first + j, last - 1), carry))


@helper
def give_lanes(carry, state, first, last):
    for j in range(last - first):
        store(carry, first + j, load(state, j, state))

"""Decoupled look-back: how the block of a tile finds the state before it from what earlier tiles have published.

Same input, same bits, whoever comes first: the state before a tile is that before the tile before it, advanced by its
one summary. All begin at the first state, in one order; a state that was published is only a later place to begin. So
what is known already decides how much is computed, never what comes out.

Nobody waits for ever. A block takes the next ticket when it starts, so the tiles before its own have started; what it
waits for is their summaries, and these wait for nothing.
"""

import functools
from collections import namedtuple

import numpy as np

from ..._steps.recurrence import select
from . import device as gpu
from .descriptors import FACTOR, ORIGIN, RISE, STATE, locate, pause
from .summaries import Summary, about, advanced, compose, compose_group, nearer

WARPS = 8
THREADS = 32 * WARPS

# A thread's work: which tile in the direction of the scan, which series; its lane and its warp, counted in that
# direction; which column of a tile and which row, of as many steps as a thread takes, in the order of time.
Work = namedtuple("Work", "tile series lane_id turn column row")


@gpu.helper
def looks(across):
    """Return how many tiles a thread looks at."""
    return 2 if across > 1 else 1


@gpu.helper
def window(across):
    """Return how many tiles a block looks at at once."""
    return looks(across) * THREADS // across


@functools.cache
def opener(cuda, across, is_forward):
    """Return the device function that takes a ticket and says what this thread's work is."""

    @gpu.helper
    def open_tile(descriptors, geometry):
        ticket = cuda.shared.array(1, np.int32)
        if gpu.thread() == 0:
            ticket[0] = gpu.take_ticket(descriptors)
        gpu.barrier()
        number, side = gpu.narrow(ticket[0]), gpu.divide(geometry.lanes + (across - 1), across)
        thread = gpu.thread() & (THREADS - 1)  # so that the compiler knows that no index made of it is negative
        lane_id, warp = gpu.narrow(thread & 31), gpu.narrow(thread >> 5)
        tile = gpu.divide(number, side)
        column = lane_id if across > 1 else gpu.narrow(0)
        row = warp if across > 1 else gpu.narrow(thread)
        turn = warp if is_forward else gpu.narrow(WARPS - 1 - warp)
        return Work(tile, gpu.narrow(across * (number - tile * side) + column), lane_id, turn, column, row)

    return open_tile


@gpu.helper
def nearest_state(descriptors, geometry, me, back, near, held, across, size, zero):
    """Look at the states before ``back`` tiles; note the nearest that is known for each warp and column."""
    distance, state, most = gpu.narrow(window(across)), zero, window(across)
    for ago in range(looks(across)):
        far = gpu.narrow(looks(across) * (me.row + 1) - 1 - ago)
        if far < back:
            at, _ = locate(geometry, me.series, back - far, across, size)
            is_known, number = gpu.load_status(descriptors, at, zero)
            distance, state = select(is_known, far, distance), select(is_known, number, state)
    if across == 1:
        known = gpu.ballot(distance < most)
        first = gpu.highest(known & -known)
        first = first if first >= 0 else gpu.narrow(0)
        distance, state = gpu.shuffle(distance, first), gpu.shuffle(state, first)
    if across > 1 or me.lane_id == 0:
        at = gpu.narrow(gpu.thread() >> 5) * across + me.column
        near[at], held[at] = distance, state


def collector(cuda, form, kind, across):
    """Return the device function that waits for summaries."""
    zero, each, size = kind(0), looks(across), kind(0).itemsize
    part = window(across) * across

    @gpu.helper
    def await_summaries(descriptors, geometry, me, first, found):
        """Put the summaries of the tiles from ``first`` to this one, as many as are looked at at once, to ``found``."""
        # Loops of their own: what is asked for in one is on its way at once.
        missing = cuda.local.array(each, np.int32)
        factors, rises = cuda.local.array(each, kind), cuda.local.array(each, kind)
        origins = cuda.local.array(each, kind)
        for k in range(each):
            missing[k] = 1 if first + each * me.row + k < me.tile else 0
            factors[k], rises[k], origins[k] = zero, zero, zero
        waits, naps = True, 0
        while waits:
            waits = False
            for k in range(each):
                if missing[k] != 0:
                    at, further = locate(geometry, me.series, first + each * me.row + k, across, size)
                    has_factor, factors[k] = gpu.load_status(descriptors, at + FACTOR * further, zero)
                    has_rise, rises[k] = gpu.load_status(descriptors, at + RISE * further, zero)
                    is_there = has_factor and has_rise
                    if form.is_average:
                        has_origin, origins[k] = gpu.load_status(descriptors, at + ORIGIN * further, zero)
                        is_there = is_there and has_origin
                    missing[k] = 0 if is_there else 1
            for k in range(each):
                waits = waits or missing[k] != 0
            if waits:
                naps = pause(naps)
        for k in range(each):
            at = gpu.narrow((each * me.row + k) * across + me.column)
            found[at], found[part + at] = factors[k], rises[k]
            if form.is_average:
                found[2 * part + at] = origins[k]

    return await_summaries


def looker(cuda, form, kind, across):
    """Return the device function that finds the state before a tile, in the first warp."""
    zero, most, slots = kind(0), window(across), WARPS * across
    part = most * across
    numbers = part * (3 if form.is_average else 2)
    size, await_summaries = kind(0).itemsize, collector(cuda, form, kind, across)

    @gpu.helper
    def look_back(descriptors, geometry, me, state):
        """Return the state before a tile, that before the first tile being ``state``."""
        near, held = cuda.shared.array(slots, np.int32), cuda.shared.array(slots, kind)
        found, earliest = cuda.shared.array(numbers, kind), cuda.shared.array(1, np.int32)
        begin, first, back = gpu.narrow(-1), gpu.narrow(-1), me.tile  # from where is folded, not yet known
        while first < 0:
            nearest_state(descriptors, geometry, me, back, near, held, across, size, zero)
            gpu.barrier()
            if gpu.thread() < 32:
                for k in range(gpu.narrow(gpu.block_threads() >> 5)):  # `WARPS`: see `starter`
                    at = k * across + me.column
                    if begin < 0 and near[at] < most:
                        begin, state = gpu.narrow(back - near[at]), held[at]
                if begin < 0 and back <= most:
                    begin = gpu.narrow(0)
                first, earlier = me.tile, gpu.ballot(begin < me.tile)
                while earlier != 0:
                    first = gpu.shuffle(begin, gpu.highest(earlier))
                    earlier = gpu.ballot(begin < first)
                if me.lane_id == 0:
                    earliest[0] = first
            back = gpu.narrow(back - most)
            gpu.barrier()
            first = gpu.narrow(earliest[0])
        while first < me.tile:
            await_summaries(descriptors, geometry, me, first, found)
            gpu.barrier()
            if gpu.thread() < 32:
                for k in range(min(gpu.narrow(most), me.tile - first)):
                    at = k * across + me.column
                    origin = found[2 * part + at] if form.is_average else zero
                    after = advanced(form, Summary(found[at], found[part + at], origin), state)
                    state = select(first + k >= begin, after, state)
            first = gpu.narrow(first + most)
            gpu.barrier()
        return state

    return look_back


@gpu.helper
def tell(sums, me, summary, form, across, is_forward):
    """Put the summaries of warps, or of their lanes, to ``sums``; return that of the warp before this lane."""
    before, slots, at, tells = summary, WARPS * across, me.turn * across + me.column, True
    if across == 1:
        before, summary = compose_group(form, summary, me.lane_id, gpu.narrow(32), is_forward)
        tells = me.lane_id == (31 if is_forward else 0)
    if tells:
        sums[at], sums[slots + at], sums[2 * slots + at] = summary.factor, summary.rise, summary.origin
    return before


@gpu.helper
def told(sums, at, across):
    slots = WARPS * across
    at = at & (slots - 1)  # which is the same, and not negative
    return Summary(sums[at], sums[slots + at], sums[2 * slots + at])


@gpu.helper
def own_state(me, before, states, form, across, is_forward):
    """Return the state that a thread starts from, and the one from which the next thread does."""
    at = me.turn * across + me.column
    state, after = states[at], states[at + across]
    if across == 1:
        rank = me.lane_id if is_forward else 31 - me.lane_id
        if rank > 0:
            state = advanced(form, before, state)
        beside = me.lane_id
        if rank < 31:
            beside = me.lane_id + 1 if is_forward else me.lane_id - 1
        beside = gpu.shuffle(state, beside)
        after = select(rank < 31, beside, after)
    return state, after


@functools.cache
def starter(cuda, form, kind, across):
    """Return the device function that finds the states from which a tile's warps start, and publishes what it knows."""
    zero, infinity, slots = kind(0), kind(float("inf")), WARPS * across
    look_back, size = looker(cuda, form, kind, across), kind(0).itemsize

    @gpu.helper
    def start(descriptors, geometry, me, first, sums, states):
        """Publish the tile's summary and the next tile's state; put the states before warps to ``states``."""
        warps = gpu.narrow(gpu.block_threads() >> 5)  # `WARPS`, which the compiler must not know: it would unroll by it
        origin, writes = infinity if form.is_average else zero, across > 1 or me.lane_id == 0
        if gpu.thread() < 32 and form.is_average:
            for k in range(warps):
                origin = nearer(origin, told(sums, k * across + me.column, across).origin)
        total = Summary(form.closed, zero, origin)
        if gpu.thread() < 32:
            for k in range(warps):
                total = compose(form, total, about(form, told(sums, k * across + me.column, across), origin))
            if writes:
                at, further = locate(geometry, me.series, me.tile, across, size)
                gpu.store_status(descriptors, at + FACTOR * further, total.factor)
                gpu.store_status(descriptors, at + RISE * further, total.rise)
                if form.is_average:
                    gpu.store_status(descriptors, at + ORIGIN * further, total.origin)
        state = look_back(descriptors, geometry, me, first)
        if gpu.thread() < 32 and writes:
            onward = advanced(form, total, state)
            if me.tile + 1 < geometry.tiles:
                at, further = locate(geometry, me.series, me.tile + 1, across, size)
                gpu.store_status(descriptors, at + STATE * further, onward)
            states[slots + me.column] = onward
            for k in range(warps):
                at = (k * across + me.column) & (slots - 1)
                states[at] = state
                state = advanced(form, told(sums, at, across), state)

    return start

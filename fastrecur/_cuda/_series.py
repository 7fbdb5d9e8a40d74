"""Kernels for lanes whose time is contiguous: neighbouring threads of a warp share a lane's time.

A group of ``width`` threads walks one lane (or one piece of its time) in chunks of ``width * count`` steps, ``count``
to a thread, read 16 bytes at a time. Each thread first *summarises* its steps; the summaries, composed across the group
by shuffles, give it the state it starts from; then it *replays* its steps by the true step. Every operand is read once.

A summary of an average is the map ``h -> origin + (rise + decay*(h - origin))``, or from the other end ``h + (rise +
weight*(origin - h))``: ``decay`` is the product of what the steps multiply the state by, ``rise`` where the walk of
``x - origin`` arrives from 0, ``weight`` where that of a series of ones does. The origin is one of the values, the
smallest: a constant series composes to itself, and nothing larger than what is in play takes part. A linear
recurrence's origin is 0. Two summaries compose about the smaller origin.

The start of a thread's steps is composed, hence near the last result of the thread before but not it. So closed gates
at the start of an average's steps repeat that result, to the bit; and where a state is not finite, the chunk is walked
thread after thread instead, which is the sequential answer.

Where chunks begin depends on shapes and strides alone: so that, for operands that start at a multiple of 16 bytes,
each thread's steps do too.
"""

import functools

from .._steps import constant, fma, is_finite, magnitude, select
from ._device import (
    ballot,
    block,
    block_row,
    block_threads,
    divide,
    helper,
    highest,
    is_null,
    load,
    load_wide,
    misalignment,
    narrow,
    shift,
    shuffle,
    store,
    store_wide,
    thread,
)
from ._lanes import add_exactly, first_state, lane_offset, settled, split_lane, valid_steps


@helper
def agree(state, assumed):
    """Return whether a state may stand for one that was assumed: both finite, or the same."""
    return (is_finite(state) and is_finite(assumed)) or state == assumed or (state != state and assumed != assumed)


@helper
def compose(is_average, decay, rise, weight, origin, decay_2, rise_2, weight_2, origin_2):
    """Return the summary of one stretch and then another."""
    if not is_average:
        return decay * decay_2, fma(decay_2, rise, rise_2), weight, origin
    zero = constant(0.0, rise)
    from_second = weight == zero or (weight_2 != zero and magnitude(origin_2) < magnitude(origin))
    common = select(from_second, origin_2, origin)
    rise = fma(weight, origin - common, rise)
    rise_2 = fma(weight_2, origin_2 - common, rise_2)
    return decay * decay_2, fma(decay_2, rise, rise_2), fma(decay_2, weight, weight_2), common


@helper
def advanced(is_average, decay, rise, weight, origin, h):
    """Return the state after a stretch from the one before."""
    if not is_average:
        return fma(decay, h, rise)
    from_h = h + fma(weight, origin - h, rise)
    from_origin = origin + fma(decay, h - origin, rise)
    return select(decay > constant(0.5, h), from_h, from_origin)


@helper
def chunk_shift(lane_bytes, time, pack, steps):
    """Return by how many steps before the first a lane's chunks begin, so that packs of steps are aligned.

    That is, if the lowest address of the first lane is.
    """
    itemsize = abs(time)
    misplaced = narrow((lane_bytes if time > 0 else lane_bytes + steps * itemsize) & 15)
    steps = divide(misplaced, narrow(itemsize))
    return steps if time > 0 else (pack - steps) & (pack - 1)


@helper
def two(values, at, ahead):
    return (
        select(ahead, values[at], values[at + 1]),
        select(ahead, values[at + 1], values[at]),
    )


@helper
def four(values, at, ahead):
    return (
        select(ahead, values[at], values[at + 3]),
        select(ahead, values[at + 1], values[at + 2]),
        select(ahead, values[at + 2], values[at + 1]),
        select(ahead, values[at + 3], values[at]),
    )


@helper
def eight(values, at, ahead):
    return (
        select(ahead, values[at], values[at + 7]),
        select(ahead, values[at + 1], values[at + 6]),
        select(ahead, values[at + 2], values[at + 5]),
        select(ahead, values[at + 3], values[at + 4]),
        select(ahead, values[at + 4], values[at + 3]),
        select(ahead, values[at + 5], values[at + 2]),
        select(ahead, values[at + 6], values[at + 1]),
        select(ahead, values[at + 7], values[at]),
    )


PACKED = {0: None, 2: two, 4: four, 8: eight}


# ---- What the kernels of one kind share: device functions for `count` steps a thread --------------------------------
# ``pack`` is how many of an operand's elements stand in 16 bytes, 0 if it is not to be read so. What is made once is
# compiled once, however many kernels call it.


@functools.cache
def alignment(pack):
    """Return a function that says whether a thread's steps may be read ``pack`` at a time, if that is not 0.

    They begin, or against the order of memory end, at a multiple of 16 bytes then.
    """

    def is_aligned(pointer, time):
        return misalignment(shift(pointer, select(time > 0, time - time, (pack - 1) * time))) == 0

    return helper(is_aligned if pack else lambda pointer, time: True)


@functools.cache
def whole_fetcher(kind, count, pack):
    """Return a function that reads all of a thread's steps: without a condition, all loads are on their way at once."""
    zero = kind(0)

    def fetch_wide(pointer, time, into):
        first = select(time > 0, time - time, (pack - 1) * time)
        for q in range(count // pack):
            numbers = load_wide(pointer, first + q * pack * time, zero)
            for j in range(pack):
                into[q * pack + j] = select(time > 0, numbers[j], numbers[pack - 1 - j])

    def fetch_singly(pointer, time, into):
        for j in range(count):
            into[j] = load(pointer, j * time, zero)

    return helper(fetch_wide if pack else fetch_singly)


@functools.cache
def fetcher(kind, count, pack):
    """Return a function that reads a thread's steps from ``low`` to ``high``, and fills in what is missing."""
    zero = kind(0)
    is_aligned, fetch_whole = alignment(pack), whole_fetcher(kind, count, pack)

    @helper
    def fetch(pointer, time, low, high, into, fill):
        if low <= 0 and high >= count and is_aligned(pointer, time):
            fetch_whole(pointer, time, into)
        else:
            for j in range(count):
                into[j] = fill
                if j >= low and j < high:
                    into[j] = load(pointer, j * time, zero)

    return fetch


@functools.cache
def fetcher_of_two(kind, count, pack_p, pack_q):
    """Return a function that does for two operands what `fetcher`'s does for one."""
    fetch_p, fetch_q = fetcher(kind, count, pack_p), fetcher(kind, count, pack_q)
    whole_p, whole_q = whole_fetcher(kind, count, pack_p), whole_fetcher(kind, count, pack_q)
    p_is_aligned, q_is_aligned = alignment(pack_p), alignment(pack_q)

    @helper
    def fetch(p, q, p_time, q_time, low, high, into_p, into_q, fill_p, fill_q):
        if low <= 0 and high >= count and p_is_aligned(p, p_time) and q_is_aligned(q, q_time):
            whole_p(p, p_time, into_p)
            whole_q(q, q_time, into_q)
        else:
            fetch_p(p, p_time, low, high, into_p, fill_p)
            fetch_q(q, q_time, low, high, into_q, fill_q)

    return fetch


@functools.cache
def fetcher_of_four(kind, count, pack_g, pack_a, pack_b, pack_h, closed):
    """Return a function that does so for the four operands of a gradient."""
    zero = kind(0)
    fetch_g_a, fetch_b_h = fetcher_of_two(kind, count, pack_g, pack_a), fetcher_of_two(kind, count, pack_b, pack_h)
    whole_g, whole_a = whole_fetcher(kind, count, pack_g), whole_fetcher(kind, count, pack_a)
    whole_b, whole_h = whole_fetcher(kind, count, pack_b), whole_fetcher(kind, count, pack_h)
    g_is_aligned, a_is_aligned, b_is_aligned, h_is_aligned = map(alignment, (pack_g, pack_a, pack_b, pack_h))

    @helper
    def fetch(g, a, b, h, g_time, a_time, b_time, h_time, low, high, arriving, gates, values, before):
        if (
            low <= 0 and high >= count and g_is_aligned(g, g_time) and a_is_aligned(a, a_time)
            and b_is_aligned(b, b_time) and h_is_aligned(h, h_time)
        ):  # fmt: skip
            whole_g(g, g_time, arriving)
            whole_a(a, a_time, gates)
            whole_b(b, b_time, values)
            whole_h(h, h_time, before)
        else:
            fetch_g_a(g, a, g_time, a_time, low, high, arriving, gates, zero, closed)
            fetch_b_h(b, h, b_time, h_time, low, high, values, before, zero, zero)

    return fetch


@functools.cache
def deliverer(count, pack):
    """Return a function that writes a thread's steps from ``low`` to ``high``."""
    packed = PACKED[pack]

    def deliver(pointer, time, low, high, values):
        first = select(time > 0, time - time, (pack - 1) * time)
        if low <= 0 and high >= count and misalignment(shift(pointer, first)) == 0:
            for q in range(count // pack):
                store_wide(pointer, first + q * pack * time, packed(values, q * pack, time > 0))
        else:
            for j in range(count):
                if j >= low and j < high:
                    store(pointer, j * time, values[j])

    def deliver_singly(pointer, time, low, high, values):
        for j in range(count):
            if j >= low and j < high:
                store(pointer, j * time, values[j])

    return helper(deliver if pack else deliver_singly)


@functools.cache
def summariser(rule, kind, count):
    """Return the function that summarises a thread's steps, those that are missing being closed."""
    decay_of, deviation, is_average = rule.decay, rule.deviation, rule.is_average
    zero, one, closed, infinity = kind(0), kind(1), kind(rule.closed), kind(float("inf"))

    @helper
    def summarise(gates, values):
        decay, rise, weight, origin, least = one, zero, zero, zero, infinity
        if is_average:
            for j in range(count):
                smaller = gates[j] != closed and magnitude(values[j]) < least
                origin = select(smaller, values[j], origin)
                least = select(smaller, magnitude(values[j]), least)
        for j in range(count):
            decay = decay * decay_of(gates[j])
            rise = deviation(rise, gates[j], values[j] - origin)
            if is_average:
                weight = deviation(weight, gates[j], one)
        return decay, rise, weight, origin

    return summarise


@functools.cache
def slow_summariser(rule, kind):
    """Return the function that does the same, to the bit, reading as it goes: slow, and in few registers."""
    decay_of, deviation, is_average = rule.decay, rule.deviation, rule.is_average
    zero, one, closed, infinity = kind(0), kind(1), kind(rule.closed), kind(float("inf"))

    @helper
    def summarise_slowly(a, b, a_time, b_time, low, high, count):
        decay, rise, weight, origin, least = one, zero, zero, zero, infinity
        if is_average:
            for j in range(max(low, 0), min(high, count)):
                value = load(b, j * b_time, zero)
                smaller = load(a, j * a_time, zero) != closed and magnitude(value) < least
                origin = select(smaller, value, origin)
                least = select(smaller, magnitude(value), least)
        for j in range(count):
            gate, value = closed, zero
            if j >= low and j < high:
                gate, value = load(a, j * a_time, zero), load(b, j * b_time, zero)
            decay = decay * decay_of(gate)
            rise = deviation(rise, gate, value - origin)
            if is_average:
                weight = deviation(weight, gate, one)
        return decay, rise, weight, origin

    return summarise_slowly


@functools.cache
def composer(is_average, kind):
    """Return the function that composes summaries across a group of threads."""
    zero, one = kind(0), kind(1)

    @helper
    def compose_group(decay, rise, weight, origin, place, width, ahead):
        """Return the summary of all threads before this one in the direction of travel, and of all up to it."""
        lane = thread() & 31
        rank = place if ahead else width - 1 - place
        distance = 1
        while distance < width:
            other = lane
            if rank >= distance:
                other = lane - distance if ahead else lane + distance
            decay_1, rise_1 = shuffle(decay, other), shuffle(rise, other)
            weight_1, origin_1 = (shuffle(weight, other), shuffle(origin, other)) if is_average else (weight, origin)
            if rank >= distance:
                decay, rise, weight, origin = compose(
                    is_average, decay_1, rise_1, weight_1, origin_1, decay, rise, weight, origin
                )
            distance *= 2
        other = lane
        if rank > 0:
            other = lane - 1 if ahead else lane + 1
        decay_1, rise_1 = shuffle(decay, other), shuffle(rise, other)
        weight_1, origin_1 = (shuffle(weight, other), shuffle(origin, other)) if is_average else (weight, origin)
        if rank == 0:
            decay_1, rise_1, weight_1, origin_1 = one, zero, zero, zero
        return decay_1, rise_1, weight_1, origin_1, decay, rise, weight, origin

    return compose_group


@helper
def series_lane(width):
    """Return which lane this thread's group walks: where 31 bits count lanes, threads may be more than 32 can."""
    by = highest(width)
    return narrow(block() * narrow(block_threads() >> by) + (thread() >> by))


@helper
def group_members(lane, place, width):
    """Return the bits of the lanes that share this thread's series."""
    members = 0xFFFFFFFF
    if width < 32:
        members = ((1 << width) - 1) << (lane - place)
    return members


def chunk_walker(cuda, rule, kind, count, packs):
    """Return the device functions that read and sum up a chunk, and that walk it from the state before it."""
    step, is_average = rule.step, rule.is_average
    zero, closed = kind(0), kind(rule.closed)
    fetch = fetcher_of_two(kind, count, packs["a"], packs["b"])
    deliver = deliverer(count, packs["h"])
    summarise, compose_group = summariser(rule, kind, count), composer(is_average, kind)

    @helper
    def replay(gates, values, low, high, state, results):
        for j in range(count):
            valid = j >= low and j < high
            state = select(valid, step(state, gates[j], values[j]), state)
            results[j] = select(valid, state, zero)
        return state

    @helper
    def hold(gates, results, low, high, before, end, lane, members):
        """Let closed gates at the start of a thread's steps repeat the result before them; return its last state."""
        leading, is_open = 0, False
        for j in range(count):
            is_open = is_open or (j >= low and j < high and gates[j] != closed)
            leading += 0 if is_open else 1
        source = highest(ballot(is_open) & members & ((1 << lane) - 1))
        last = shuffle(end, source if source >= 0 else lane)
        last = select(source >= 0, last, before)
        for j in range(count):
            results[j] = select(j < leading and j >= low and j < high, last, results[j])
        return select(is_open or not is_finite(end), end, last)  # 0 times what is not finite is NaN

    @helper
    def sum_up(a, b, a_time, b_time, start, stop, mine, place, width, gates, values):
        """Read this thread's steps, from ``mine`` on; return the summaries of those before them, and up to them."""
        low, high = narrow(start - mine), narrow(stop - mine)
        a, b = shift(a, mine * a_time), shift(b, mine * b_time)
        fetch(a, b, a_time, b_time, low, high, gates, values, closed, zero)
        decay, rise, weight, origin = summarise(gates, values)
        return compose_group(decay, rise, weight, origin, place, width, True)

    @helper
    def write(h, h_time, start, stop, steps, mine, gates, values, results, state, began, place, width):
        """Walk this thread's steps from ``began``, the chunk's from ``state``; return the state after the chunk."""
        lane = thread() & 31
        members = group_members(lane, place, width)
        low, high = narrow(start - mine), narrow(stop - mine)
        end = replay(gates, values, low, high, began, results)
        if is_average:
            end = hold(gates, results, low, high, state, end, lane, members)
        suspect = ballot(not is_finite(end) and state == state)
        if suspect != 0:
            # One thread after the other; a group that does not need it keeps what it has.
            concerned = suspect & members != 0
            walked = state
            for s in range(width):
                if concerned and s == place:
                    walked = replay(gates, values, low, high, walked, results)
                    end = walked
                walked = shuffle(walked, lane - place + s)
        deliver(shift(h, mine * h_time), h_time, narrow(-mine), narrow(steps - mine), results)
        return shuffle(end, lane - place + width - 1)

    return sum_up, write


def walker(cuda, rule, kind, count, packs):
    """Return the device function that walks chunks in the direction of travel."""
    is_average = rule.is_average
    sum_up, write = chunk_walker(cuda, rule, kind, count, packs)

    @helper
    def walk(a, b, h, a_time, b_time, h_time, start, stop, steps, t, chunks, state, place, width):
        """Walk chunks from step t on, writing those of 0..steps; return the state after them."""
        gates, values, results = (
            cuda.local.array(count, kind), cuda.local.array(count, kind), cuda.local.array(count, kind)
        )  # fmt: skip
        mine = t + place * count
        for _ in range(chunks):
            decay, rise, weight, origin, _, _, _, _ = sum_up(
                a, b, a_time, b_time, start, stop, mine, place, width, gates, values
            )
            began = select(place == 0, state, advanced(is_average, decay, rise, weight, origin, state))
            state = write(h, h_time, start, stop, steps, mine, gates, values, results, state, began, place, width)
            mine += width * count
        return state

    return walk


def forward(cuda, rule, zero, size, count, packs, guide):
    """Return the kernel that walks in the direction of travel.

    ``count`` is how many steps of a chunk a thread takes; ``guide`` names the operand that chunks are aligned to, and
    how many of its elements are a pack.
    """
    kind, closed, is_average = type(zero), type(zero)(rule.closed), rule.is_average
    walk = walker(cuda, rule, kind, count, packs)
    by_a, pack = guide[0] == "a", guide[1]

    def kernel(
        a, b, h, h0, last, lengths, starts, ends, leads, steps, reverse, piece_steps, pieces, lanes, middles, inners,
        width, a_time, b_time, h_time, a_lane, b_lane, h_lane, h0_lane, last_lane, lengths_lane,
    ):  # fmt: skip
        lane, place, piece = series_lane(width), thread() & (width - 1), block_row()
        is_alive = lane < lanes
        lane = lane if is_alive else 0
        outer, middle, inner = split_lane(lane, middles, inners)
        start, stop = valid_steps(lengths, lane_offset(lengths_lane, outer, middle, inner), steps, reverse)
        limit = steps
        if not is_alive:
            start, stop, limit = 0, 0, 0
        a_at, b_at = lane_offset(a_lane, outer, middle, inner), lane_offset(b_lane, outer, middle, inner)
        t = piece * piece_steps
        if pack > 0:
            t -= chunk_shift(a_at if by_a else b_at, a_time if by_a else b_time, pack, steps)
        at_piece = (lane * pieces + piece) * size
        if pieces > 1:
            state = load(starts, at_piece, zero)
        else:
            state = first_state(h0, lane_offset(h0_lane, outer, middle, inner), zero)
        a_now, b_now = shift(a, a_at), shift(b, b_at)
        chunks = divide(narrow(piece_steps), narrow(width * count))
        h_now = shift(h, lane_offset(h_lane, outer, middle, inner))
        lead = zero
        if is_average and pieces > 1:
            begin = max(start, t)
            if begin < min(stop, t + piece_steps) and load(a_now, begin * a_time, zero) == closed:
                lead = constant(1.0, zero)
        stop, limit = min(stop, t + piece_steps), min(limit, t + piece_steps)
        state = walk(a_now, b_now, h_now, a_time, b_time, h_time, start, stop, limit, t, chunks, state, place, width)
        if is_alive and place == 0:
            if pieces > 1:
                store(ends, at_piece, state)
                store(leads, at_piece, lead)
            elif not is_null(last):
                store(last, lane_offset(last_lane, outer, middle, inner), state)

    return kernel


def back_chunk_walker(cuda, rule, kind, count, packs, a_is_total, b_is_total):
    """Return what `chunk_walker` does, against the direction of travel."""
    adjoint, zero = rule.adjoint, kind(0)
    fetch = fetcher_of_four(kind, count, *(packs[n] for n in "gabh"), kind(rule.closed))
    deliver_a, deliver_b = deliverer(count, packs["to_a"]), deliverer(count, packs["to_b"])
    summarise_back, compose_group = back_summariser(rule, kind, count), composer(False, kind)

    @helper
    def replay_back(arriving, gates, values, before, low, high, r, to_a, to_b):
        for ago in range(count):
            j = count - 1 - ago
            valid = j >= low and j < high
            grad_a, grad_b, onward = adjoint(arriving[j] + r, gates[j], values[j], before[j])
            r = select(valid, onward, r)
            to_a[j], to_b[j] = select(valid, grad_a, zero), select(valid, grad_b, zero)
        return r

    @helper
    def sum_up_back(
        g, a, b, h, g_time, a_time, b_time, h_time, start, stop, mine, first, place, width, arriving, gates, values,
        before,
    ):  # fmt: skip
        """Read this thread's steps, from ``mine`` on; return the summaries of those after them, and down to them."""
        lane = thread() & 31
        low, high = narrow(start - mine), narrow(stop - mine)
        fetch(
            shift(g, mine * g_time), shift(a, mine * a_time), shift(b, mine * b_time), shift(h, mine * h_time), g_time,
            a_time, b_time, h_time, low, high, arriving, gates, values, before,
        )  # fmt: skip
        # The state before each step: its neighbour's, the thread's before, or one from before the chunk.
        edge = shuffle(before[count - 1], lane - 1 if place > 0 else lane)
        if place == 0 and low < 0 and high > 0:
            edge = load(h, (mine - 1) * h_time, zero)
        for ago in range(count - 1):
            before[count - 1 - ago] = before[count - 2 - ago]
        before[0] = edge
        for j in range(count):
            before[j] = select(j == low, first, before[j])
        decay, rise = summarise_back(arriving, gates, low, high)
        return compose_group(decay, rise, zero, zero, place, width, False)

    @helper
    def write_back(
        to_a, to_b, to_a_time, to_b_time, start, stop, steps, mine, arriving, gates, values, before, grads_a, grads_b,
        r, began, place, width, totals,
    ):  # fmt: skip
        """Walk this thread's steps back from ``began``, the chunk's from ``r``; return what flows on before it."""
        lane = thread() & 31
        members = group_members(lane, place, width)
        low, high = narrow(start - mine), narrow(stop - mine)
        end = replay_back(arriving, gates, values, before, low, high, began, grads_a, grads_b)
        suspect = ballot(not is_finite(end) and r == r)
        if suspect != 0:
            concerned = suspect & members != 0
            walked = r
            for ago in range(width):
                s = width - 1 - ago
                if concerned and s == place:
                    walked = replay_back(arriving, gates, values, before, low, high, walked, grads_a, grads_b)
                    end = walked
                walked = shuffle(walked, lane - place + s)
        if a_is_total:
            for j in range(count):
                totals[0], totals[1] = add_exactly(totals[0], totals[1], grads_a[j])
        else:
            deliver_a(shift(to_a, mine * to_a_time), to_a_time, narrow(-mine), narrow(steps - mine), grads_a)
        if b_is_total:
            for j in range(count):
                totals[2], totals[3] = add_exactly(totals[2], totals[3], grads_b[j])
        else:
            deliver_b(shift(to_b, mine * to_b_time), to_b_time, narrow(-mine), narrow(steps - mine), grads_b)
        return shuffle(end, lane - place)

    return sum_up_back, write_back


def back_walker(cuda, rule, kind, count, packs, a_is_total, b_is_total):
    """Return the device function that walks chunks against the direction of travel."""
    sum_up_back, write_back = back_chunk_walker(cuda, rule, kind, count, packs, a_is_total, b_is_total)

    @helper
    def walk_back(
        g, a, b, h, to_a, to_b, g_time, a_time, b_time, h_time, to_a_time, to_b_time, start, stop, steps, t, chunks, r,
        first, place, width, totals,
    ):  # fmt: skip
        """Walk chunks from step t on, the last one first; return what flows on to the state before them."""
        arriving, gates = cuda.local.array(count, kind), cuda.local.array(count, kind)
        values, before = cuda.local.array(count, kind), cuda.local.array(count, kind)
        grads_a, grads_b = cuda.local.array(count, kind), cuda.local.array(count, kind)
        mine = t + place * count + (chunks - 1) * width * count
        for _ in range(chunks):
            decay, rise, _, _, _, _, _, _ = sum_up_back(
                g, a, b, h, g_time, a_time, b_time, h_time, start, stop, mine, first, place, width, arriving, gates,
                values, before,
            )  # fmt: skip
            began = select(place == width - 1, r, fma(decay, r, rise))
            r = write_back(
                to_a, to_b, to_a_time, to_b_time, start, stop, steps, mine, arriving, gates, values, before, grads_a,
                grads_b, r, began, place, width, totals,
            )  # fmt: skip
            mine -= width * count
        return r

    return walk_back


@functools.cache
def back_summariser(rule, kind, count):
    """Return the function that summarises what a thread's steps do to a cotangent."""
    adjoint, decay_of, zero, one = rule.adjoint, rule.decay, kind(0), kind(1)

    @helper
    def summarise_back(arriving, gates, low, high):
        decay, rise = one, zero
        for ago in range(count):
            j = count - 1 - ago
            valid = j >= low and j < high
            _, _, onward = adjoint(arriving[j] + rise, gates[j], zero, zero)
            decay = select(valid, decay * decay_of(gates[j]), decay)
            rise = select(valid, onward, rise)
        return decay, rise

    return summarise_back


@functools.cache
def slow_back_summariser(rule, kind):
    """Return the function that does the same, to the bit, reading as it goes: slow, and in few registers."""
    adjoint, decay_of, zero, one = rule.adjoint, rule.decay, kind(0), kind(1)

    @helper
    def summarise_back_slowly(g, a, g_time, a_time, low, high, count):
        decay, rise = one, zero
        for ago in range(count):
            j = count - 1 - ago
            if j >= low and j < high:
                gate = load(a, j * a_time, zero)
                _, _, rise = adjoint(load(g, j * g_time, zero) + rise, gate, zero, zero)
                decay = decay * decay_of(gate)
        return decay, rise

    return summarise_back_slowly


@helper
def group_total(total, rest, lane, place, width):
    """Return the sum of all threads' totals in a group."""
    distance = 1
    while distance < width:
        other = (lane - place) + ((place + distance) & (width - 1))
        one, left = shuffle(total, other), shuffle(rest, other)
        total, rest = add_exactly(total, rest + left, one)
        distance *= 2
    return settled(total, rest)


def vjp(cuda, rule, zero, size, count, packs, guide, a_is_total, b_is_total):
    """Return the kernel that walks against the direction of travel; totals are as in `_lanes`."""
    kind = type(zero)
    walk_back = back_walker(cuda, rule, kind, count, packs, a_is_total, b_is_total)
    by_a, pack = guide[0] == "a", guide[1]

    def kernel(
        g, a, b, h, h0, last, first, to_a, to_b, lengths, starts, ends, steps, reverse, piece_steps, pieces, lanes,
        middles, inners, width, g_time, a_time, b_time, h_time, to_a_time, to_b_time, g_lane, a_lane, b_lane, h_lane,
        h0_lane, last_lane, first_lane, to_a_lane, to_b_lane, lengths_lane,
    ):  # fmt: skip
        lane, place, piece = series_lane(width), thread() & (width - 1), block_row()
        is_alive = lane < lanes
        lane = lane if is_alive else 0
        outer, middle, inner = split_lane(lane, middles, inners)
        start, stop = valid_steps(lengths, lane_offset(lengths_lane, outer, middle, inner), steps, reverse)
        limit = steps
        if not is_alive:
            start, stop, limit = 0, 0, 0
        a_at, b_at = lane_offset(a_lane, outer, middle, inner), lane_offset(b_lane, outer, middle, inner)
        t = piece * piece_steps
        if pack > 0:
            t -= chunk_shift(a_at if by_a else b_at, a_time if by_a else b_time, pack, steps)
        at_piece = (lane * pieces + piece) * size
        if pieces > 1:
            r = load(starts, at_piece, zero)
        else:
            r = first_state(last, lane_offset(last_lane, outer, middle, inner), zero)
        totals = cuda.local.array(4, kind)
        for k in range(4):
            totals[k] = zero
        chunks = divide(narrow(piece_steps), narrow(width * count))
        stop, limit = min(stop, t + piece_steps), min(limit, t + piece_steps)
        r = walk_back(
            shift(g, lane_offset(g_lane, outer, middle, inner)), shift(a, a_at), shift(b, b_at),
            shift(h, lane_offset(h_lane, outer, middle, inner)),
            shift(to_a, lane_offset(to_a_lane, outer, middle, inner)),
            shift(to_b, lane_offset(to_b_lane, outer, middle, inner)), g_time, a_time, b_time, h_time, to_a_time,
            to_b_time, start, stop, limit, t, chunks, r,
            first_state(h0, lane_offset(h0_lane, outer, middle, inner), zero), place, width, totals,
        )  # fmt: skip
        if a_is_total:
            total = group_total(totals[0], totals[1], thread() & 31, place, width)
            if is_alive and place == 0:
                store(to_a, (piece * lanes + lane) * size, total)
        if b_is_total:
            total = group_total(totals[2], totals[3], thread() & 31, place, width)
            if is_alive and place == 0:
                store(to_b, (piece * lanes + lane) * size, total)
        if is_alive and place == 0:
            if pieces > 1:
                store(ends, at_piece, r)
            elif not is_null(first):
                store(first, lane_offset(first_lane, outer, middle, inner), r)

    return kernel

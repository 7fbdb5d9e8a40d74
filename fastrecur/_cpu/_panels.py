"""Kernels for lanes that follow each other, but are not neighbours in all operands; or that end apart.

Some steps of many lanes are walked, then the next ones. Operands and results whose lanes are neighbours stay where they
are. Of the others a panel of as many steps is packed into a buffer, as it stands in memory, or written from there, in
the order of memory; so are lanes that fill no vector.

``geometry`` and calls are those of `_tiles`.
"""

from .._layout import A_MODE, ACCUMULATE, B_MODE, HEAD, N_STEPS, REVERSE, STORE, STREAMING
from .._steps import constant, select
from ._memory import (
    OCTET,
    WIDTH,
    broadcast,
    copy_every,
    copy_number,
    copy_turned,
    fence,
    is_same,
    itemsize,
    load,
    load_int,
    load_vector,
    maximum,
    minimum,
    misalignment,
    prefetch,
    shift,
    stack,
    store,
    store_vector,
    stream_vector,
    total,
)
from ._numba import helper, inlined
from ._operands import valid_range
from ._rules import adjoint, step
from ._tiles import LENGTHS, SUMS_A, SUMS_B, TO_A, TO_B, A, B, G, H, lane_offset

LANES, STEPS = 512, 8  # of a panel,
FEW_LANES, MANY_STEPS = 64, 64  # or, where rows are short or an operand's steps stand nearer than its lanes do
PITCH = LANES + WIDTH
PANEL = max(PITCH * STEPS, (FEW_LANES + WIDTH) * MANY_STEPS)
ROW = HEAD + 1  # where in `geometry` it says how many lanes follow each other
TOGETHER, TOGETHER_BACK = 4, 2  # steps that a vector takes before its states are put down
AHEAD = 16  # steps before whose turn they are asked for, where results go past the cache
LANES_AHEAD = 32  # before whose turn their lines are asked for, where steps are neighbours


@helper
def time_of(geometry, operand):
    """Return how far from a step of an operand the next one stands."""
    return load_int(shift(geometry, operand), 0)


@helper
def apart_of(geometry, operand):
    """Return how far from a lane of an operand the next one stands."""
    return load_int(shift(geometry, operand), 3)


@helper
def at(pointer, geometry, operand, lane):
    """Return where a lane's first step stands."""
    return shift(pointer, lane_offset(geometry, shift(geometry, operand), lane))


@inlined
def round_up(lanes):
    """Return how many lanes so many vectors have."""
    return -(-lanes // WIDTH) * WIDTH


@inlined
def row_bytes(panel, lanes):
    """Return how far from a step of a panel the next one stands: a power of two's rows would collide in the cache."""
    return (round_up(lanes) + WIDTH) * itemsize(panel)


@helper
def is_along(geometry, operand):
    """Return whether an operand's steps stand nearer than its lanes do."""
    return 0 < abs(time_of(geometry, operand)) < abs(apart_of(geometry, operand))


@helper
def shape_of(geometry, along):
    """Return how many lanes and steps a panel has at most."""
    if load_int(geometry, ROW) <= FEW_LANES or (along and load_int(geometry, N_STEPS) > STEPS):
        return FEW_LANES, MANY_STEPS
    return LANES, STEPS


@inlined
def vector_at(place, lanes):
    """Return with which lane the vector of a place begins: the last one ends with the last lane.

    Lanes that it has in common with the one before are worked out twice, each time from a state of its own.
    """
    return maximum(0, minimum(place, lanes - WIDTH))


@inlined
def lane_at(place, lanes):
    """Return which lane a place among the states has; if there are less than a vector, the last one fills it."""
    return minimum(vector_at(place // WIDTH * WIDTH, lanes) + place % WIDTH, lanes - 1)


@helper
def pack(panel, source, row, time, apart, lanes, steps, back, ahead):
    """Pack lanes that stand ``apart`` as steps do ``time``; last steps first if going ``back``.

    What stands so many bytes ``ahead`` is asked for meanwhile.
    """
    size, done, places = itemsize(source), 0, round_up(lanes)
    if (abs(time) == size or abs(time) == 2 * size) and abs(time) < abs(apart) and steps >= OCTET and lanes >= WIDTH:
        done = steps - steps % OCTET
        way, turn = (1, 0) if time > 0 else (-1, OCTET - 1)
        for place in range(0, places, OCTET):
            j = lane_at(place, lanes)
            for k in range(0, done, OCTET):
                from_, to = shift(source, j * apart + (k + turn) * time), shift(panel, j * size + (k + turn) * row)
                for i in range(OCTET):
                    prefetch(from_, 0, (i + LANES_AHEAD) * apart)
                if abs(time) == size:
                    copy_turned(to, way * row, from_, apart, 1)
                else:
                    copy_turned(to, way * row, from_, apart, 2)
    elif 0 < abs(time) < abs(apart) and steps > STEPS:
        done = steps
        for j in range(lanes):
            from_ = shift(source, j * apart)
            for k in range(done):
                prefetch(from_, 0, k * time + ahead)
                copy_number(shift(panel, k * row), j, shift(from_, k * time), 0)
    for ago in range(steps - done):
        k = steps - 1 - ago if back else done + ago
        step_, to = shift(source, k * time), shift(panel, k * row)
        for place in range(0, places, WIDTH):
            j = vector_at(place, lanes)
            from_ = shift(step_, j * apart)
            prefetch(from_, 0, ahead)
            every = apart // size if lanes >= WIDTH and apart % size == 0 else 0
            if every == 1:
                copy_every(to, j, from_, 1)
            elif every == -1:
                copy_every(to, j, from_, -1)
            elif every == 2:
                prefetch(from_, WIDTH, ahead)
                copy_every(to, j, from_, 2)
            elif every == 3:
                copy_every(to, j, from_, 3)
            elif every == 4:
                copy_every(to, j, from_, 4)
            else:  # not by the compiler's vectors: where a processor can gather them, that is slow
                for i in range(minimum(WIDTH, lanes)):
                    prefetch(from_, 0, i * apart + ahead)
                    copy_number(to, j + i, shift(from_, i * apart), 0)


@helper
def unpack(target, row, time, apart, panel, lanes, steps, back):
    """Write lanes where they belong: as `pack`."""
    size, done, places = itemsize(target), 0, round_up(lanes)
    if abs(time) == size < abs(apart) and steps >= OCTET and lanes >= WIDTH:
        done = steps - steps % OCTET
        way, turn = (1, 0) if time > 0 else (-1, OCTET - 1)
        for place in range(0, places, OCTET):
            j = lane_at(place, lanes)
            for k in range(0, done, OCTET):
                to = shift(target, j * apart + (k + turn) * time)
                copy_turned(to, apart, shift(panel, j * size + (k + turn) * row), way * row, 1)
    elif 0 < abs(time) < abs(apart) and steps > STEPS:
        done = steps
        for j in range(lanes):
            to = shift(target, j * apart)
            for k in range(done):
                copy_number(shift(to, k * time), 0, shift(panel, k * row), j)
    for ago in range(steps - done):
        k = steps - 1 - ago if back else done + ago
        to, from_ = shift(target, k * time), shift(panel, k * row)
        for j in range(lanes):
            copy_number(shift(to, j * apart), 0, from_, j)


@helper
def fill(panel, source, row, lanes, steps):
    """Fill a panel's only vector, of which lanes are less, with some number: what stands there may be slow to take."""
    if lanes < WIDTH:
        for k in range(steps):
            for j in range(lanes, WIDTH):
                copy_number(shift(panel, k * row), j, source, 0)


@helper
def take(states, carry, lane, lanes):
    """Take a carry's lanes to their places."""
    for j in range(0, lanes - lanes % WIDTH, WIDTH):
        store_vector(states, j, load_vector(carry, lane + j, states))
    for j in range(lanes - lanes % WIDTH, round_up(lanes)):
        store(states, j, load(carry, lane + lane_at(j, lanes), states))


@helper
def give(carry, states, lane, lanes):
    """Give lanes back to the carry."""
    slip = round_up(lanes) - lanes if lanes >= WIDTH else 0  # of the last vector's
    for j in range(0, lanes - lanes % WIDTH, WIDTH):
        store_vector(carry, lane + j, load_vector(states, j, states))
    for j in range(lanes - lanes % WIDTH, lanes):
        store(carry, lane + j, load(states, j + slip, states))


@helper
def note_valid(begins, ends, lengths, apart, lanes, steps, reverse):
    """Note each lane's valid steps, in the carry type; return from and up to which step all lanes have some."""
    latest, earliest, like = 0, steps, load(begins, 0, begins)
    if apart == 0:
        latest, earliest = valid_range(lengths, steps, reverse)
        begin, end = broadcast(constant(float(latest), like)), broadcast(constant(float(earliest), like))
        for j in range(0, lanes, WIDTH):
            store_vector(begins, j, begin)
            store_vector(ends, j, end)
        return latest, earliest
    for j in range(round_up(lanes)):
        start, stop = valid_range(shift(lengths, lane_at(j, lanes) * apart), steps, reverse)
        store(begins, j, constant(float(start), like))
        store(ends, j, constant(float(stop), like))
        latest, earliest = maximum(latest, start), minimum(earliest, stop)
    return latest, earliest


@inlined
def where_valid(t, begins, ends, place, yes, no):
    """Return a vector of ``yes`` in the lanes of which step t is valid, else of ``no``."""
    now = broadcast(constant(float(t), load(begins, 0, begins)))
    return select(now < load_vector(begins, place, begins), no, select(now < load_vector(ends, place, begins), yes, no))


@inlined
def walk_some(
    ragged, large, past, rule, a, b, h, a_time, b_time, h_time, states, begins, ends, lanes, t, k, count
):  # fmt: skip
    """Advance vectors of lanes by so many steps from the k-th on; the first one is step t."""
    zero = broadcast(constant(0.0, load(states, 0, states)))
    for place in range(0, lanes, WIDTH):
        j = vector_at(place, lanes)
        now = load_vector(states, place, states)
        for i in range(k, k + count):
            a_now, b_now, h_now = shift(a, i * a_time), shift(b, i * b_time), shift(h, i * h_time)
            if large:
                prefetch(a_now, j, AHEAD * a_time)
                prefetch(b_now, j, AHEAD * b_time)
            new = step(rule, now, load_vector(a_now, j, states), load_vector(b_now, j, states))
            result = new
            if ragged:
                result = where_valid(t + i, begins, ends, place, new, zero)
                new = where_valid(t + i, begins, ends, place, new, now)
            if past:
                stream_vector(h_now, j, result)
            else:
                store_vector(h_now, j, result)
            now = new
        store_vector(states, place, now)


@helper
def walk(
    rule, ragged, large, past, a, b, h, a_time, b_time, h_time, states, begins, ends, lanes, t, steps
):  # fmt: skip
    """Advance vectors of lanes by some steps from step t on."""
    row = rule, a, b, h, a_time, b_time, h_time, states, begins, ends, lanes, t
    for k in range(0, steps, TOGETHER):
        count = minimum(TOGETHER, steps - k)
        if ragged:
            walk_some(True, True, past, *row, k, count)
        elif large:
            walk_some(False, True, past, *row, k, count)
        else:
            walk_some(False, False, False, *row, k, count)


@helper
def stays(pointer, apart, lanes):
    """Return whether an operand is walked where it is: lanes that are neighbours, and fill a vector."""
    return apart == itemsize(pointer) and lanes >= WIDTH


@helper
def goes_past(target, time, lanes):
    """Return whether what is written where it belongs may go past the cache: in whole lines."""
    return lanes % WIDTH == 0 and time % 64 == 0 and misalignment(target) == 0


def forward(rule, a, b, h, carry, lengths, geometry, first, last):
    """Walk lanes ``first`` to ``last``; ``carry`` holds the first states, then the last."""
    steps, reverse, bypass = (
        load_int(geometry, N_STEPS),
        load_int(geometry, REVERSE),
        load_int(geometry, STREAMING) != 0,
    )
    ahead = AHEAD if bypass else 0
    a_time, b_time, h_time = time_of(geometry, A), time_of(geometry, B), time_of(geometry, H)
    a_apart, b_apart, h_apart = apart_of(geometry, A), apart_of(geometry, B), apart_of(geometry, H)
    a_panel, b_panel, h_panel = stack(a, PANEL), stack(b, PANEL), stack(h, PANEL)
    states, begins, ends = stack(carry, PITCH), stack(carry, PITCH), stack(carry, PITCH)
    along = is_along(geometry, A) or is_along(geometry, B) or is_along(geometry, H)
    most, span = shape_of(geometry, along)
    lane = first
    while lane < last:
        lanes = minimum(minimum(most, last - lane), load_int(geometry, ROW) - lane % load_int(geometry, ROW))
        a_lanes, b_lanes, h_lanes = at(a, geometry, A, lane), at(b, geometry, B, lane), at(h, geometry, H, lane)
        a_row, b_row, h_row = row_bytes(a, lanes), row_bytes(b, lanes), row_bytes(h, lanes)
        # Results that stand where an operand does must not be written before lanes are worked out once more.
        a_stays = stays(a, a_apart, lanes) and (lanes % WIDTH == 0 or not is_same(a_lanes, h_lanes))
        b_stays = stays(b, b_apart, lanes) and (lanes % WIDTH == 0 or not is_same(b_lanes, h_lanes))
        h_stays = stays(h, h_apart, lanes)
        past = bypass and h_stays and goes_past(h_lanes, h_time, lanes)
        latest, earliest = note_valid(
            begins, ends, at(lengths, geometry, LENGTHS, lane), apart_of(geometry, LENGTHS), lanes, steps, reverse
        )
        take(states, carry, lane, lanes)
        fill(a_panel, a_lanes, a_row, lanes, minimum(span, steps))
        fill(b_panel, b_lanes, b_row, lanes, minimum(span, steps))
        for t in range(0, steps, span):
            n = minimum(span, steps - t)
            a_now, b_now, h_now = shift(a_lanes, t * a_time), shift(b_lanes, t * b_time), shift(h_lanes, t * h_time)
            if not a_stays and (t == 0 or a_time != 0):
                pack(a_panel, a_now, a_row, a_time, a_apart, lanes, n, False, ahead * a_time)
            if not b_stays and (t == 0 or b_time != 0):
                pack(b_panel, b_now, b_row, b_time, b_apart, lanes, n, False, ahead * b_time)
            walk(
                rule, t < latest or t + n > earliest, bypass, past, a_now if a_stays else a_panel,
                b_now if b_stays else b_panel, h_now if h_stays else h_panel, a_time if a_stays else a_row,
                b_time if b_stays else b_row, h_time if h_stays else h_row, states, begins, ends, lanes, t, n,
            )  # fmt: skip
            if not h_stays:
                unpack(h_now, h_row, h_time, h_apart, h_panel, lanes, n, False)
        give(carry, states, lane, lanes)
        lane += lanes
    if bypass:
        fence()


@inlined
def walk_back_some(
    ragged, large, past, rule, g, a, b, h, to_a, to_b, g_time, a_time, b_time, h_time, to_a_time, to_b_time, states,
    firsts, begins, ends, lanes, t, k, count,
):  # fmt: skip
    """Take vectors of lanes back by so many steps from the k-th on; the first one is step t."""
    zero = broadcast(constant(0.0, load(states, 0, states)))
    for place in range(0, lanes, WIDTH):
        j = vector_at(place, lanes)
        r = load_vector(states, place, states)
        for ago in range(count):
            i = k - ago
            g_now, a_now, b_now, h_now = (
                shift(g, i * g_time), shift(a, i * a_time), shift(b, i * b_time), shift(h, i * h_time),
            )  # fmt: skip
            to_a_now, to_b_now = shift(to_a, i * to_a_time), shift(to_b, i * to_b_time)
            if large:
                prefetch(g_now, j, -AHEAD * g_time)
                prefetch(a_now, j, -AHEAD * a_time)
                prefetch(b_now, j, -AHEAD * b_time)
                prefetch(h_now, j, -AHEAD * h_time)
            arrived, before = load_vector(g_now, j, states), load_vector(h_now, j, states)
            if ragged:
                now = broadcast(constant(float(t + i), load(states, 0, states)))
                before = select(load_vector(begins, place, states) == now, load_vector(firsts, place, states), before)
            gate, value = load_vector(a_now, j, states), load_vector(b_now, j, states)
            grad_a, grad_b, onward = adjoint(rule, arrived + r, gate, value, before)
            if ragged:
                grad_a = where_valid(t + i, begins, ends, place, grad_a, zero)
                grad_b = where_valid(t + i, begins, ends, place, grad_b, zero)
                onward = where_valid(t + i, begins, ends, place, onward, r)
            if past:
                stream_vector(to_a_now, j, grad_a)
                stream_vector(to_b_now, j, grad_b)
            else:
                store_vector(to_a_now, j, grad_a)
                store_vector(to_b_now, j, grad_b)
            r = onward
        store_vector(states, place, r)


@helper
def walk_back(
    rule, ragged, large, past, g, a, b, h, to_a, to_b, g_time, a_time, b_time, h_time, to_a_time, to_b_time, states,
    firsts, begins, ends, lanes, t, steps,
):  # fmt: skip
    """Take vectors of lanes back by some steps from step t on; ``h`` are the results before."""
    results = to_a, to_b, g_time, a_time, b_time, h_time, to_a_time, to_b_time
    lane = states, firsts, begins, ends, lanes
    k = steps - 1
    while k >= 0:
        # Before the first step there is no result: what stands at it is read, but all lanes take their first states.
        at_start = t + k == 0
        count = minimum(minimum(TOGETHER_BACK, k + 1), maximum(1, t + k))
        before = shift(h, h_time) if at_start else h
        if ragged or at_start:
            walk_back_some(True, True, past, rule, g, a, b, before, *results, *lane, t, k, count)
        elif large:
            walk_back_some(False, True, past, rule, g, a, b, before, *results, *lane, t, k, count)
        else:
            walk_back_some(False, False, False, rule, g, a, b, before, *results, *lane, t, k, count)
        k -= count


@helper
def add(sums, time, apart, panel, row, lanes, steps):
    """Add a panel of a gradient to the sums of an operand that was broadcast."""
    whole = lanes - lanes % WIDTH
    if time == 0:  # over the steps first, so that sums are touched once a panel
        for k in range(1, steps):
            for j in range(0, lanes, WIDTH):
                store_vector(panel, j, load_vector(panel, j, sums) + load_vector(shift(panel, k * row), j, sums))
        steps = 1
    for k in range(steps):
        from_, to = shift(panel, k * row), shift(sums, k * time)
        if apart == 0:
            so_far = broadcast(constant(0.0, load(sums, 0, sums)))
            for j in range(0, whole, WIDTH):
                so_far = so_far + load_vector(from_, j, sums)
            value = total(so_far)
            for j in range(whole, lanes):
                value = value + load(from_, j, sums)
            store(to, 0, load(to, 0, sums) + value)
        else:
            for j in range(lanes):
                place = shift(to, j * apart)
                store(place, 0, load(place, 0, sums) + load(from_, j, sums))


@helper
def deliver(target, time, apart, sums, sums_time, sums_apart, mode, panel, row, t, lanes, steps):
    """Bring a panel of a gradient where it belongs."""
    if mode == STORE:
        unpack(shift(target, t * time), row, time, apart, panel, lanes, steps, True)
    elif mode == ACCUMULATE:
        add(shift(sums, t * sums_time), sums_time, sums_apart, panel, row, lanes, steps)


def vjp(rule, g, a, b, h, h0, carry, to_a, to_b, sums_a, sums_b, lengths, geometry, first, last):
    """Walk lanes back; ``carry`` holds the last states' cotangents, then the first states'."""
    steps, reverse, bypass = (
        load_int(geometry, N_STEPS),
        load_int(geometry, REVERSE),
        load_int(geometry, STREAMING) != 0,
    )
    ahead = AHEAD if bypass else 0
    a_mode, b_mode = load_int(geometry, A_MODE), load_int(geometry, B_MODE)
    g_panel, a_panel, b_panel = stack(g, PANEL), stack(a, PANEL), stack(b, PANEL)
    h_panel, to_a_panel, to_b_panel = stack(h, PANEL), stack(to_a, PANEL), stack(to_b, PANEL)
    states, firsts = stack(carry, PITCH), stack(carry, PITCH)
    begins, ends = stack(carry, PITCH), stack(carry, PITCH)
    g_time, a_time, b_time, h_time = (
        time_of(geometry, G), time_of(geometry, A), time_of(geometry, B), time_of(geometry, H),
    )  # fmt: skip
    g_apart, a_apart, b_apart, h_apart = (
        apart_of(geometry, G), apart_of(geometry, A), apart_of(geometry, B), apart_of(geometry, H),
    )  # fmt: skip
    to_a_time, to_a_apart = time_of(geometry, TO_A), apart_of(geometry, TO_A)
    to_b_time, to_b_apart = time_of(geometry, TO_B), apart_of(geometry, TO_B)
    sums_a_time, sums_a_apart = time_of(geometry, SUMS_A), apart_of(geometry, SUMS_A)
    sums_b_time, sums_b_apart = time_of(geometry, SUMS_B), apart_of(geometry, SUMS_B)
    along = is_along(geometry, A) or is_along(geometry, B) or is_along(geometry, H) or is_along(geometry, G)
    most, span = shape_of(geometry, along or is_along(geometry, TO_A) or is_along(geometry, TO_B))
    lane = first
    while lane < last:
        lanes = minimum(minimum(most, last - lane), load_int(geometry, ROW) - lane % load_int(geometry, ROW))
        g_stays, a_stays = stays(g, g_apart, lanes), stays(a, a_apart, lanes)
        b_stays, h_stays = stays(b, b_apart, lanes), stays(h, h_apart, lanes)
        to_a_stays = a_mode == STORE and stays(to_a, to_a_apart, lanes)
        to_b_stays = b_mode == STORE and stays(to_b, to_b_apart, lanes)
        g_lanes, a_lanes, b_lanes = at(g, geometry, G, lane), at(a, geometry, A, lane), at(b, geometry, B, lane)
        h_lanes, to_a_lanes = at(h, geometry, H, lane), at(to_a, geometry, TO_A, lane)
        to_b_lanes, sums_a_lanes = at(to_b, geometry, TO_B, lane), at(sums_a, geometry, SUMS_A, lane)
        sums_b_lanes, lengths_now = at(sums_b, geometry, SUMS_B, lane), at(lengths, geometry, LENGTHS, lane)
        g_row, a_row, b_row, h_row = row_bytes(g, lanes), row_bytes(a, lanes), row_bytes(b, lanes), row_bytes(h, lanes)
        to_a_row, to_b_row = row_bytes(to_a, lanes), row_bytes(to_b, lanes)
        past = bypass and to_a_stays and to_b_stays
        past = past and goes_past(to_a_lanes, to_a_time, lanes) and goes_past(to_b_lanes, to_b_time, lanes)
        latest, earliest = note_valid(begins, ends, lengths_now, apart_of(geometry, LENGTHS), lanes, steps, reverse)
        take(states, carry, lane, lanes)
        take(firsts, h0, lane, lanes)
        fill(g_panel, g_lanes, g_row, lanes, minimum(span, steps))
        fill(a_panel, a_lanes, a_row, lanes, minimum(span, steps))
        fill(b_panel, b_lanes, b_row, lanes, minimum(span, steps))
        fill(h_panel, h_lanes, h_row, lanes, minimum(span, steps))
        end = steps
        while end > 0:
            t = (end - 1) // span * span
            n = end - t
            g_now, a_now, b_now = shift(g_lanes, t * g_time), shift(a_lanes, t * a_time), shift(b_lanes, t * b_time)
            h_now = shift(h_lanes, (t - 1) * h_time)
            to_a_now, to_b_now = shift(to_a_lanes, t * to_a_time), shift(to_b_lanes, t * to_b_time)
            if not g_stays and (end == steps or g_time != 0):
                count = n if g_time != 0 else span  # the first of these panels is the shortest
                pack(g_panel, g_now, g_row, g_time, g_apart, lanes, count, True, -ahead * g_time)
            if not a_stays and (end == steps or a_time != 0):
                count = n if a_time != 0 else span
                pack(a_panel, a_now, a_row, a_time, a_apart, lanes, count, True, -ahead * a_time)
            if not b_stays and (end == steps or b_time != 0):
                count = n if b_time != 0 else span
                pack(b_panel, b_now, b_row, b_time, b_apart, lanes, count, True, -ahead * b_time)
            if not h_stays and t > 0:
                pack(h_panel, h_now, h_row, h_time, h_apart, lanes, n, True, -ahead * h_time)
            elif not h_stays:  # before the first step there is none
                pack(shift(h_panel, h_row), h_lanes, h_row, h_time, h_apart, lanes, n - 1, True, 0)
            walk_back(
                rule, 0 < latest >= t or t + n > earliest, bypass, past, g_now if g_stays else g_panel,
                a_now if a_stays else a_panel, b_now if b_stays else b_panel, h_now if h_stays else h_panel,
                to_a_now if to_a_stays else to_a_panel, to_b_now if to_b_stays else to_b_panel,
                g_time if g_stays else g_row, a_time if a_stays else a_row, b_time if b_stays else b_row,
                h_time if h_stays else h_row, to_a_time if to_a_stays else to_a_row,
                to_b_time if to_b_stays else to_b_row, states, firsts, begins, ends, lanes, t, n,
            )  # fmt: skip
            if not to_a_stays:
                deliver(
                    to_a_lanes, to_a_time, to_a_apart, sums_a_lanes, sums_a_time, sums_a_apart, a_mode, to_a_panel,
                    to_a_row, t, lanes, n,
                )  # fmt: skip
            if not to_b_stays:
                deliver(
                    to_b_lanes, to_b_time, to_b_apart, sums_b_lanes, sums_b_time, sums_b_apart, b_mode, to_b_panel,
                    to_b_row, t, lanes, n,
                )  # fmt: skip
            end = t
        give(carry, states, lane, lanes)
        lane += lanes
    if bypass:
        fence()

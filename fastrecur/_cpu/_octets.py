"""Kernels for lanes whose steps are neighbours in memory: 8 lanes by 8 steps at a time, all in registers.

An octet is loaded lane by lane and transposed, so that each of its steps is a vector of lanes; the steps are walked,
their results transposed back and stored. All operands are met the same way through memory, up or ``down``; the gate
may be one for all steps (``level``); lanes all have the same steps, 8 at least. Where these are no multiple of 8, one
more octet lies across the last whole one and takes the steps that are left.

``geometry`` is that of tiles.
"""

from .._layout import A_MODE, ACCUMULATE, B_MODE, N_STEPS, STORE, STREAMING
from .._steps import constant
from ._memory import (
    OCTET,
    WIDTH,
    collect_octet,
    fence,
    itemsize,
    load,
    load_half_vector,
    load_int,
    load_octet,
    minimum,
    misalignment,
    prefetch,
    prefetch_octet,
    prefetch_octet_to_write,
    shift,
    stack,
    stack_ints,
    stack_lines,
    store,
    store_octet,
    store_vector,
    stream_lines,
    width,
)
from ._numba import helper, inlined
from ._rules import adjoint, is_down, is_level, step
from ._tiles import (
    AHEAD,
    LONG,
    SUMS_A,
    TO_A,
    TO_B,
    A,
    B,
    G,
    H,
    give_lanes,
    lane_offsets,
    lane_places,
    line_distance,
    take_lanes,
)

BLOCK = 64 << 10  # bytes of 8 lanes that may be asked for while those before them are walked
ROWS = 8 * (OCTET + 1)  # numbers in an octet's steps, and one more
ROWS_ON, ROWS_BACK = 3 * ROWS, 6 * ROWS  # of all operands and results


@inlined
def as_met(rule, rows):
    """Return an octet's steps in the order of travel, for those in the order of memory; or the other way about."""
    if is_down(rule):
        return rows[7], rows[6], rows[5], rows[4], rows[3], rows[2], rows[1], rows[0]
    return rows


@inlined
def lowest(rule, operand, time):
    """Return where in memory an octet begins, of which an operand's next step is the first to be met."""
    return shift(operand, (OCTET - 1) * time) if is_down(rule) else operand


@inlined
def take(rule, operand, offsets, time, t, carry):
    """Return 8 steps of 8 lanes from step t on."""
    return as_met(rule, load_octet(lowest(rule, shift(operand, t * time), time), offsets, carry))


@inlined
def give(rule, target, offsets, time, t, rows):
    """Write 8 steps of 8 lanes from step t on."""
    store_octet(lowest(rule, shift(target, t * time), time), offsets, as_met(rule, rows))


@inlined
def begins_line(operand, t):
    """Return whether octets from step t on are the first of so many as a line holds, wherever it begins."""
    return t // OCTET * OCTET * itemsize(operand) % 64 == 0


@inlined
def prefetch_next(operand, offsets, time, way, t, steps, jump, by_block):
    """Ask for what comes later: along the lanes; or where 8 are a block of memory, for as much of the next block.

    So memory is read in its order, and lanes that stand a power of two apart do not drive each other from the cache.
    """
    length = steps * abs(time)
    if by_block and jump == length and OCTET * length <= BLOCK:
        next_ = shift(operand, load_int(offsets, 0) + OCTET * length + minimum(0, (steps - 1) * time))
        for j in range(OCTET * t, OCTET * (t + OCTET), WIDTH):
            prefetch(next_, j, 0)
    else:
        prefetch_along(operand, offsets, time, way, t, steps, jump)


@inlined
def prefetch_along(operand, offsets, time, way, t, steps, jump):
    """Ask for what comes AHEAD bytes of a lane later, going one ``way`` or back; at its end, for the next lanes'."""
    if begins_line(operand, t):
        later = way * (AHEAD // itemsize(operand))
        inside = 0 <= t + later < steps
        ahead = later * time if inside else (later - way * steps) * time + OCTET * jump
        prefetch_octet(shift(operand, t * time), offsets, ahead)


@inlined
def give_on(rule, target, offsets, time, way, t, rows, lines, past):
    """Write 8 steps that are followed by others one ``way`` or back, ``past`` the cache or with its lines asked for."""
    if past:
        place = lowest(rule, shift(target, t * time), time)
        offset = misalignment(shift(place, load_int(offsets, 0)))
        collect_octet(lines, offset, as_met(rule, rows))
        if offset == (64 - OCTET * itemsize(target) if way * time > 0 else 0):
            stream_lines(lines, shift(place, -offset), offsets)
    else:
        if begins_line(target, t):
            prefetch_octet_to_write(shift(target, t * time), offsets, way * (AHEAD // itemsize(target)) * time)
        give(rule, target, offsets, time, t, rows)


@helper
def put_down(kept, rows):
    """Note an octet's steps in memory."""
    store_vector(kept, 0, rows[0])
    store_vector(kept, 8, rows[1])
    store_vector(kept, 16, rows[2])
    store_vector(kept, 24, rows[3])
    store_vector(kept, 32, rows[4])
    store_vector(kept, 40, rows[5])
    store_vector(kept, 48, rows[6])
    store_vector(kept, 56, rows[7])


@helper
def pick_up(kept):
    return (
        load_half_vector(kept, 0, kept), load_half_vector(kept, 8, kept), load_half_vector(kept, 16, kept),
        load_half_vector(kept, 24, kept), load_half_vector(kept, 32, kept), load_half_vector(kept, 40, kept),
        load_half_vector(kept, 48, kept), load_half_vector(kept, 56, kept),
    )  # fmt: skip


@helper
def goes_past(is_large, to_line, steps):
    """Return whether results go past the cache: they fill lines, but for the first and last of a long lane."""
    return is_large and (to_line == 0 or (to_line > 0 and steps >= LONG))


@helper
def end_of_lines(target, first, steps):
    """Return up to which step whole lines go that begin with the first."""
    in_line = 64 // itemsize(target)
    return first + (steps - first) // in_line * in_line


@helper
def take_level(gate, a, offsets, carry):
    """Note each lane's gate for all steps."""
    for j in range(OCTET):
        store(gate, j, load(shift(a, load_int(offsets, j)), 0, carry))


@helper
def forward_some(rule, a, b, h, a_at, b_at, h_at, a_time, b_time, h_time, gate, kept, state, t, low, high):
    """Advance 8 lanes by some steps of the octet that begins with step t; what stands in place of the others stays."""
    a_rows, b_rows, h_rows = kept, shift(kept, ROWS * itemsize(kept)), shift(kept, 2 * ROWS * itemsize(kept))
    if not is_level(rule):
        put_down(a_rows, take(rule, a, a_at, a_time, t, kept))
    put_down(b_rows, take(rule, b, b_at, b_time, t, kept))
    put_down(h_rows, take(rule, h, h_at, h_time, t, kept))
    now = load_half_vector(state, 0, kept)
    level = load_half_vector(gate, 0, kept)
    for k in range(8 * low, 8 * high, 8):
        gate_now = level if is_level(rule) else load_half_vector(a_rows, k, kept)
        now = step(rule, now, gate_now, load_half_vector(b_rows, k, kept))
        store_vector(h_rows, k, now)
    store_vector(state, 0, now)
    give(rule, h, h_at, h_time, t, pick_up(h_rows))


@helper
def forward_octets(
    rule, a, b, h, a_at, b_at, h_at, a_time, b_time, h_time, a_jump, b_jump, gate, kept, lines, state, steps, first,
    bypass, by_block,
):  # fmt: skip
    """Advance 8 lanes; past the cache go whole lines, the first of which begins with step ``first``."""
    last = end_of_lines(h, first, steps)
    if first % OCTET != 0:
        forward_some(rule, a, b, h, a_at, b_at, h_at, a_time, b_time, h_time, gate, kept, state, 0, 0, first % OCTET)
    level = load_half_vector(gate, 0, kept)
    gates = level, level, level, level, level, level, level, level
    h7 = load_half_vector(state, 0, kept)
    for t in range(first % OCTET, steps - OCTET + 1, OCTET):
        if not is_level(rule):
            prefetch_next(a, a_at, a_time, 1, t, steps, a_jump, by_block)
            gates = take(rule, a, a_at, a_time, t, kept)
        prefetch_next(b, b_at, b_time, 1, t, steps, b_jump, by_block)
        values = take(rule, b, b_at, b_time, t, kept)
        h0 = step(rule, h7, gates[0], values[0])
        h1 = step(rule, h0, gates[1], values[1])
        h2 = step(rule, h1, gates[2], values[2])
        h3 = step(rule, h2, gates[3], values[3])
        h4 = step(rule, h3, gates[4], values[4])
        h5 = step(rule, h4, gates[5], values[5])
        h6 = step(rule, h5, gates[6], values[6])
        h7 = step(rule, h6, gates[7], values[7])
        give_on(rule, h, h_at, h_time, 1, t, (h0, h1, h2, h3, h4, h5, h6, h7), lines, bypass and first <= t < last)
    store_vector(state, 0, h7)
    left = (steps - first) % OCTET
    if left != 0:
        forward_some(
            rule, a, b, h, a_at, b_at, h_at, a_time, b_time, h_time, gate, kept, state, steps - OCTET, OCTET - left,
            OCTET,
        )  # fmt: skip


def forward(rule, a, b, h, carry, lengths, geometry, first, last):
    """Walk lanes ``first`` to ``last``; ``carry`` holds the first states, then the last."""
    steps, is_large = (
        load_int(geometry, N_STEPS),
        load_int(geometry, STREAMING) != 0,
    )  # what goes past the cache comes from afar too
    a_strides, b_strides, h_strides = shift(geometry, A), shift(geometry, B), shift(geometry, H)
    a_time, b_time, h_time = load_int(a_strides, 0), load_int(b_strides, 0), load_int(h_strides, 0)
    a_at, b_at, h_at, places = stack_ints(16), stack_ints(16), stack_ints(16), stack_ints(48)
    state, gate, kept, lines = stack(carry, 16), stack(carry, 8), stack(carry, ROWS_ON), stack_lines(h)
    for lane in range(first, last, width(carry)):
        end = minimum(last, lane + width(carry))
        lane_places(places, geometry, lane, end, carry)
        lane_offsets(a_at, a_strides, places, carry)
        lane_offsets(b_at, b_strides, places, carry)
        lane_offsets(h_at, h_strides, places, carry)
        take_lanes(state, carry, lane, end)
        for k in range(0, end - lane, OCTET):
            here_a, here_b, here_h = shift(a_at, 8 * k), shift(b_at, 8 * k), shift(h_at, 8 * k)
            to_line = line_distance(h, here_h, h_time, OCTET)
            # A lane that is repeated to make up 8 would be sent off again and again.
            bypass = goes_past(is_large, to_line, steps) and lane + k + OCTET <= end
            take_level(gate, a, here_a, carry)
            forward_octets(
                rule, a, b, h, here_a, here_b, here_h, a_time, b_time, h_time, load_int(a_strides, 3),
                load_int(b_strides, 3), gate, kept, lines, shift(state, k * itemsize(state)), steps,
                to_line if bypass else 0, bypass, is_large,
            )  # fmt: skip
        give_lanes(carry, state, lane, end)
    if is_large:
        fence()


@inlined
def take_back(rule, r, g, a, b, h):
    """Return a step's gradients and what flows on to the state before."""
    return adjoint(rule, g + r, a, b, h)


@helper
def vjp_some(
    rule, g, a, b, h, to_a, to_b, g_at, a_at, b_at, h_at, to_a_at, to_b_at, g_time, a_time, b_time, h_time, to_a_time,
    to_b_time, gate, kept, h0, state, total_a, a_mode, b_mode, t, low, high,
):  # fmt: skip
    """Take 8 lanes back by some steps of the octet that begins with step t; other steps' gradients stay."""
    row = ROWS * itemsize(kept)
    g_rows, a_rows, b_rows, h_rows = kept, shift(kept, row), shift(kept, 2 * row), shift(kept, 3 * row)
    to_a_rows, to_b_rows = shift(kept, 4 * row), shift(kept, 5 * row)
    put_down(g_rows, take(rule, g, g_at, g_time, t, kept))
    if not is_level(rule):
        put_down(a_rows, take(rule, a, a_at, a_time, t, kept))
    put_down(b_rows, take(rule, b, b_at, b_time, t, kept))
    if t == 0:
        store_vector(h_rows, 0, load_half_vector(h0, 0, kept))
        put_down(shift(h_rows, OCTET * itemsize(kept)), take(rule, h, h_at, h_time, 0, kept))
    else:
        put_down(h_rows, take(rule, h, h_at, h_time, t - 1, kept))
    if a_mode == STORE:
        put_down(to_a_rows, take(rule, to_a, to_a_at, to_a_time, t, kept))
    if b_mode == STORE:
        put_down(to_b_rows, take(rule, to_b, to_b_at, to_b_time, t, kept))
    r, level = load_half_vector(state, 0, kept), load_half_vector(gate, 0, kept)
    sum_a = load_half_vector(total_a, 0, kept)
    for ago in range(low, high):
        k = 8 * (low + high - 1 - ago)
        gate_now = level if is_level(rule) else load_half_vector(a_rows, k, kept)
        grad_a, grad_b, r = take_back(
            rule, r, load_half_vector(g_rows, k, kept), gate_now, load_half_vector(b_rows, k, kept),
            load_half_vector(h_rows, k, kept),
        )  # fmt: skip
        store_vector(to_a_rows, k, grad_a)
        store_vector(to_b_rows, k, grad_b)
        sum_a = sum_a + grad_a
    store_vector(state, 0, r)
    store_vector(total_a, 0, sum_a)
    if a_mode == STORE:
        give(rule, to_a, to_a_at, to_a_time, t, pick_up(to_a_rows))
    if b_mode == STORE:
        give(rule, to_b, to_b_at, to_b_time, t, pick_up(to_b_rows))


@helper
def vjp_octets(
    rule, g, a, b, h, to_a, to_b, g_at, a_at, b_at, h_at, to_a_at, to_b_at, g_time, a_time, b_time, h_time, to_a_time,
    to_b_time, g_jump, a_jump, b_jump, h_jump, gate, kept, lines_a, lines_b, h0, state, total_a, a_mode, b_mode, steps,
    first, bypass_a, bypass_b, by_block,
):  # fmt: skip
    """Take 8 lanes back; past the cache go whole lines, the first of which begins with step ``first``, not 0."""
    last_a, last_b = end_of_lines(to_a, first, steps), end_of_lines(to_b, first, steps)
    left = (steps - first) % OCTET
    if left != 0:
        vjp_some(
            rule, g, a, b, h, to_a, to_b, g_at, a_at, b_at, h_at, to_a_at, to_b_at, g_time, a_time, b_time, h_time,
            to_a_time, to_b_time, gate, kept, h0, state, total_a, a_mode, b_mode, steps - OCTET, OCTET - left, OCTET,
        )  # fmt: skip
    level = load_half_vector(gate, 0, kept)
    gates = level, level, level, level, level, level, level, level
    r0, sum_a = load_half_vector(state, 0, kept), load_half_vector(total_a, 0, kept)
    # Before the first octet there is no result: it goes by steps.
    t = steps - left - OCTET
    while t > 0:
        prefetch_next(g, g_at, g_time, -1, t, steps, g_jump, by_block)
        grads = take(rule, g, g_at, g_time, t, kept)
        if not is_level(rule):
            prefetch_next(a, a_at, a_time, -1, t, steps, a_jump, by_block)
            gates = take(rule, a, a_at, a_time, t, kept)
        prefetch_next(b, b_at, b_time, -1, t, steps, b_jump, by_block)
        values = take(rule, b, b_at, b_time, t, kept)
        prefetch_next(h, h_at, h_time, -1, t, steps, h_jump, by_block)
        before = take(rule, h, h_at, h_time, t - 1, kept)
        a7, b7, r7 = take_back(rule, r0, grads[7], gates[7], values[7], before[7])
        a6, b6, r6 = take_back(rule, r7, grads[6], gates[6], values[6], before[6])
        a5, b5, r5 = take_back(rule, r6, grads[5], gates[5], values[5], before[5])
        a4, b4, r4 = take_back(rule, r5, grads[4], gates[4], values[4], before[4])
        a3, b3, r3 = take_back(rule, r4, grads[3], gates[3], values[3], before[3])
        a2, b2, r2 = take_back(rule, r3, grads[2], gates[2], values[2], before[2])
        a1, b1, r1 = take_back(rule, r2, grads[1], gates[1], values[1], before[1])
        a0, b0, r0 = take_back(rule, r1, grads[0], gates[0], values[0], before[0])
        if a_mode == STORE:
            past = bypass_a and first <= t < last_a
            give_on(rule, to_a, to_a_at, to_a_time, -1, t, (a0, a1, a2, a3, a4, a5, a6, a7), lines_a, past)
        else:  # one after another, so that octets that begin elsewhere add up to the same
            sum_a = sum_a + a7 + a6 + a5 + a4 + a3 + a2 + a1 + a0
        if b_mode == STORE:
            past = bypass_b and first <= t < last_b
            give_on(rule, to_b, to_b_at, to_b_time, -1, t, (b0, b1, b2, b3, b4, b5, b6, b7), lines_b, past)
        t -= OCTET
    store_vector(state, 0, r0)
    store_vector(total_a, 0, sum_a)
    vjp_some(
        rule, g, a, b, h, to_a, to_b, g_at, a_at, b_at, h_at, to_a_at, to_b_at, g_time, a_time, b_time, h_time,
        to_a_time, to_b_time, gate, kept, h0, state, total_a, a_mode, b_mode, 0, 0, t + OCTET,
    )  # fmt: skip


def vjp(rule, g, a, b, h, h0, carry, to_a, to_b, sums_a, sums_b, lengths, geometry, first, last):
    """Walk lanes back; ``carry`` holds the last states' cotangents, then the first states'."""
    steps, a_mode, b_mode = load_int(geometry, N_STEPS), load_int(geometry, A_MODE), load_int(geometry, B_MODE)
    g_strides, a_strides, b_strides = shift(geometry, G), shift(geometry, A), shift(geometry, B)
    h_strides, to_a_strides, to_b_strides = shift(geometry, H), shift(geometry, TO_A), shift(geometry, TO_B)
    sums_a_strides = shift(geometry, SUMS_A)
    g_time, a_time, b_time, h_time = (
        load_int(g_strides, 0), load_int(a_strides, 0), load_int(b_strides, 0), load_int(h_strides, 0),
    )  # fmt: skip
    to_a_time, to_b_time = load_int(to_a_strides, 0), load_int(to_b_strides, 0)
    g_jump, a_jump, b_jump, h_jump = (
        load_int(g_strides, 3), load_int(a_strides, 3), load_int(b_strides, 3), load_int(h_strides, 3),
    )  # fmt: skip
    is_large = load_int(geometry, STREAMING) != 0
    g_at, a_at, b_at, h_at, sums_at = stack_ints(16), stack_ints(16), stack_ints(16), stack_ints(16), stack_ints(16)
    to_a_at, to_b_at, places = stack_ints(16), stack_ints(16), stack_ints(48)
    state, states, gate, total = stack(carry, 16), stack(carry, 16), stack(carry, 8), stack(carry, 8)
    kept, lines_a, lines_b = stack(carry, ROWS_BACK), stack_lines(to_a), stack_lines(to_b)
    zero = constant(0.0, load(carry, 0, carry))
    for lane in range(first, last, width(carry)):
        end = minimum(last, lane + width(carry))
        lane_places(places, geometry, lane, end, carry)
        lane_offsets(g_at, g_strides, places, carry)
        lane_offsets(a_at, a_strides, places, carry)
        lane_offsets(b_at, b_strides, places, carry)
        lane_offsets(h_at, h_strides, places, carry)
        lane_offsets(to_a_at, to_a_strides, places, carry)
        lane_offsets(to_b_at, to_b_strides, places, carry)
        lane_offsets(sums_at, sums_a_strides, places, carry)
        take_lanes(state, carry, lane, end)
        take_lanes(states, h0, lane, end)
        for k in range(0, end - lane, OCTET):
            at, own, lanes = 8 * k, k * itemsize(carry), minimum(OCTET, end - lane - k)
            here_a, here_to_a, here_to_b = shift(a_at, at), shift(to_a_at, at), shift(to_b_at, at)
            line_a = line_distance(to_a, here_to_a, to_a_time, OCTET)
            line_b = line_distance(to_b, here_to_b, to_b_time, OCTET)
            line = line_b if b_mode == STORE else line_a
            bypass = goes_past(is_large, line, steps) and lanes == OCTET
            bypass_a, bypass_b = bypass and a_mode == STORE and line_a == line, bypass and b_mode == STORE
            begin = OCTET
            if bypass:
                begin = line if line > 0 else 64 // minimum(itemsize(to_a), itemsize(to_b))  # a line of both
            take_level(gate, a, here_a, carry)
            for j in range(OCTET):
                store(total, j, zero)
            vjp_octets(
                rule, g, a, b, h, to_a, to_b, shift(g_at, at), here_a, shift(b_at, at), shift(h_at, at), here_to_a,
                here_to_b, g_time, a_time, b_time, h_time, to_a_time, to_b_time, g_jump, a_jump, b_jump, h_jump, gate,
                kept, lines_a, lines_b, shift(states, own), shift(state, own), total, a_mode, b_mode, steps, begin,
                bypass_a, bypass_b, is_large,
            )  # fmt: skip
            if a_mode == ACCUMULATE:
                for j in range(lanes):
                    place = shift(sums_a, load_int(sums_at, k + j))
                    store(place, 0, load(place, 0, carry) + load(total, j, carry))
        give_lanes(carry, state, lane, end)
    if is_large:
        fence()

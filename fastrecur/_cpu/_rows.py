"""Kernels for lanes that are neighbours in memory: walk time, and at each step a row of lanes.

The states of all lanes stand in a buffer of the carry type. Every step advances that buffer and writes it out, vector
by vector, so each operand is read once, each result written once, and the buffer stays in the cache. Where rows allow,
a vector takes four steps before its states are put down, two of a gradient: wide rows' do not fit the first level of
the cache, with narrow ones each step would wait for what the last one put down, and results wait behind all that is put
down before them.

Each step has rows of lanes that are neighbours; around time stands one more loop, over ``outer``. ``geometry`` holds
the sizes, then for each operand its strides in bytes along time, rows and outer, in the direction of travel: see
`GEOMETRY`. The last arguments say which part of the lanes to walk.
"""

import numpy as np

from .._layout import (
    A_IS_BROADCAST,
    A_MODE,
    ACCUMULATE,
    B_MODE,
    CARRY,
    HEAD,
    LENGTHS,
    N_STEPS,
    PREFAULT_THREAD,
    PREFAULT_THREADS,
    PREFETCH,
    REDUCE,
    REVERSE,
    STORE,
    STREAMING,
    SUM_BYTES,
    SUM_STEPS,
    SUMS_A,
    SUMS_B,
    TO_A,
    TO_B,
    A,
    B,
    G,
    H,
)
from .._steps import constant, everywhere, forget_finite, is_finite
from ._memory import (
    broadcast,
    fence,
    itemsize,
    load,
    load_int,
    load_vector,
    maximum,
    minimum,
    misalignment,
    own_page,
    prefetch,
    prefetch_to_write,
    shift,
    stack_ints,
    store,
    store_int,
    store_vector,
    stream_vector,
    total,
    width,
)
from ._numba import helper, inlined
from ._rules import adjoint, choice, is_one_b, is_one_g, is_one_h, is_sum_b, step

HUGE_PAGE = 2 << 20
PAGES_AHEAD = 2
MOST_AHEAD = 32  # rows
TOGETHER, TOGETHER_BACK = 4, 2  # steps that a vector takes before its states are put down
NEAR = 16 << 10  # bytes of states that stay in the first level of the cache
SHORT, LONG_LEVEL = 32, 128  # lanes of a row from which no step waits for the last; with one gate that is soon
ENDS_AHEAD = 8  # rows before its turn a line is asked for that a row fills in part: all stores wait for it
# Of a type: Numba compiles a function anew for each plain number that it is called with.
ZERO, ONE = np.arange(2, dtype=np.int64)


@helper
def write_zeros(target, carry, n):
    zero = constant(0.0, load(carry, 0, carry))
    for j in range(n):
        store(target, j, zero)


@inlined
def row_at(pointer, apart, operand, k):
    """Return where the k-th row stands from one on."""
    return shift(pointer, k * load_int(apart, operand))


@helper
def clear_rows(target, later, apart, operand, carry, lanes, rows, first, stop, steps):
    """Write zeros to rows of steps before ``first`` and from ``stop`` on."""
    for n in range(steps):
        for k in range(rows if n < first or n >= stop else 0):
            write_zeros(row_at(row_at(target, later, operand, n), apart, operand, k), carry, lanes)


@helper
def valid_range(lengths, steps, reverse):
    length = load_int(lengths, 0)
    start = steps - length if reverse else 0
    return start, start + length


@helper
def valid_steps(start, stop, t, steps):
    """Return which of some steps from ``t`` on are valid: (0, 0) if none is."""
    begin, end = maximum(start - t, 0), minimum(stop - t, steps)
    if begin < end:
        return begin, end
    return 0, 0


@inlined
def lanes_to_line(target, n):
    """Return how many of n lanes stand before the next cache line starts."""
    return minimum(n, ((64 - misalignment(target)) % 64) // itemsize(target))


@inlined
def whole_vectors(target, carry, n, bypass):
    """Return how many vectors there are in n lanes; past the cache, only such as fill their lines."""
    count = n // width(carry)
    if bypass:
        per_line = maximum(1, 64 // (width(carry) * itemsize(target)))
        count -= count % per_line
    return count


@helper
def measure(apart, geometry, along, way):
    """Note how far each operand's next step (``along`` 0) or row (1) stands from one."""
    for operand in range(SUMS_B + 1):
        store_int(apart, operand, way * load_int(geometry, HEAD + 3 * operand + along))


@helper
def end_lane(k, head, tail):
    """Return the k-th of the lanes before ``head`` and from ``tail`` on, which are walked one by one."""
    return k if k < head else tail + k - head


@helper
def prefetch_ends(target, next_, operand, head, tail, lanes):
    """Ask for the lines that a later row of results fills in part."""
    if head > 0:
        prefetch_to_write(target, 0, ENDS_AHEAD * load_int(next_, operand))
    if tail < lanes:
        prefetch_to_write(target, lanes - 1, ENDS_AHEAD * load_int(next_, operand))


@helper
def forward_lanes(rule, a, b, h, carry, head, tail, lanes, a_constant):
    """Advance lanes that fill no vector."""
    for k in range(head + lanes - tail):
        j = end_lane(k, head, tail)
        gate, value = load(a, 0 if a_constant else j, carry), load(b, 0 if is_one_b(rule) else j, carry)
        new = step(rule, load(carry, j, carry), gate, value)
        store(carry, j, new)
        store(h, j, new)


@inlined
def put(h, j, value, bypass):
    """Write a vector of results, past the cache or to it."""
    if bypass:
        stream_vector(h, j, value)
    else:
        store_vector(h, j, value)


@inlined
def level_of(a, carry):
    """Return what an operand has for a row, if it is one number for all lanes."""
    return broadcast(load(a, 0, carry))


@inlined
def request_unless(is_one, operand, j, ahead):
    """Ask for a vector of an operand's row in time, unless it is one number for all lanes."""
    if not is_one:
        prefetch(operand, j, ahead)


@inlined
def claim_unless(bypass, target, j, ahead):
    """Ask for the lines that a later vector of results goes to, unless it goes past the cache: stores wait in turn."""
    if not bypass:
        prefetch_to_write(target, j, ahead)


@inlined
def numbers(is_one, one, operand, j, carry):
    """Return a vector of an operand's row; or the ``one`` that it has for all lanes."""
    return one if is_one else load_vector(operand, j, carry)


@inlined
def operands(rule, carry, j, a_constant, row):
    """Return a vector of each operand of a row: where they and the result stand, and what there is for all lanes."""
    a, b, _, level, value = row
    return numbers(a_constant, level, a, j, carry), numbers(is_one_b(rule), value, b, j, carry)


@inlined
def advance(rule, now, carry, j, a_constant, bypass, row):
    """Advance a vector of lanes by a step, write it and return it."""
    gate, value = operands(rule, carry, j, a_constant, row)
    new = step(rule, now, gate, value)
    put(row[2], j, new, bypass)
    return new


@inlined
def forward_row(a_constant, bypass, rule, a, b, h, carry, begin, way, vectors, ahead_a, ahead_b, ahead_h):
    """Advance a row's vectors by a step."""
    level, value = level_of(a, carry), level_of(b, carry)
    for vector in range(vectors):
        j = begin + vector * way
        request_unless(is_one_b(rule), b, j, ahead_b)
        request_unless(a_constant, a, j, ahead_a)
        claim_unless(bypass, h, j, ahead_h)
        now = load_vector(carry, j, carry)
        store_vector(carry, j, advance(rule, now, carry, j, a_constant, bypass, (a, b, h, level, value)))


@inlined
def advance_in_turn(rule, carry, j, a_constant, bypass, row, row1, row2, row3):
    """Advance a vector of lanes by four steps, of which each has a row, and write each."""
    now = load_vector(carry, j, carry)
    now = advance(rule, now, carry, j, a_constant, bypass, row)
    now = advance(rule, now, carry, j, a_constant, bypass, row1)
    now = advance(rule, now, carry, j, a_constant, bypass, row2)
    now = advance(rule, now, carry, j, a_constant, bypass, row3)
    store_vector(carry, j, now)


@inlined
def advance_at_once(rule, carry, j, a_constant, bypass, row, row1, row2, row3):
    """Advance a vector of lanes by four steps, of which the last tells whether all are finite; then write all."""
    first = load_vector(carry, j, carry)
    gate, new = operands(rule, carry, j, a_constant, row)
    gate1, new1 = operands(rule, carry, j, a_constant, row1)
    gate2, new2 = operands(rule, carry, j, a_constant, row2)
    gate3, new3 = operands(rule, carry, j, a_constant, row3)
    now = forget_finite(first, gate, new)
    now1 = forget_finite(now, gate1, new1)
    now2 = forget_finite(now1, gate2, new2)
    now3 = forget_finite(now2, gate3, new3)
    if not everywhere(is_finite(now3)):
        now = step(rule, first, gate, new)
        now1 = step(rule, now, gate1, new1)
        now2 = step(rule, now1, gate2, new2)
        now3 = step(rule, now2, gate3, new3)
    put(row[2], j, now, bypass)
    put(row1[2], j, now1, bypass)
    put(row2[2], j, now2, bypass)
    put(row3[2], j, now3, bypass)
    store_vector(carry, j, now3)


# Of float32 alone: of float64, whose vectors take twice the registers, it brought nothing.
advance_four = choice("forget_same", advance_at_once, advance_in_turn, of_float32=True)


@inlined
def forward_four(a_constant, bypass, later, rule, a, b, h, carry, begin, way, vectors, ahead_a, ahead_b, ahead_h):
    """Advance a row's vectors by four steps, which stand ``later``."""
    a1, a2, a3 = row_at(a, later, A, ONE), row_at(a, later, A, 2), row_at(a, later, A, 3)
    b1, b2, b3 = row_at(b, later, B, ONE), row_at(b, later, B, 2), row_at(b, later, B, 3)
    h1, h2, h3 = row_at(h, later, H, ONE), row_at(h, later, H, 2), row_at(h, later, H, 3)
    level, level1 = level_of(a, carry), level_of(a1, carry)
    level2, level3 = level_of(a2, carry), level_of(a3, carry)
    value, value1 = level_of(b, carry), level_of(b1, carry)
    value2, value3 = level_of(b2, carry), level_of(b3, carry)
    for vector in range(vectors):
        j = begin + vector * way
        request_unless(is_one_b(rule), b, j, ahead_b)
        request_unless(is_one_b(rule), b1, j, ahead_b)
        request_unless(is_one_b(rule), b2, j, ahead_b)
        request_unless(is_one_b(rule), b3, j, ahead_b)
        request_unless(a_constant, a, j, ahead_a)
        request_unless(a_constant, a1, j, ahead_a)
        request_unless(a_constant, a2, j, ahead_a)
        request_unless(a_constant, a3, j, ahead_a)
        claim_unless(bypass, h, j, ahead_h)
        claim_unless(bypass, h1, j, ahead_h)
        claim_unless(bypass, h2, j, ahead_h)
        claim_unless(bypass, h3, j, ahead_h)
        advance_four(
            rule, carry, j, a_constant, bypass, (a, b, h, level, value), (a1, b1, h1, level1, value1),
            (a2, b2, h2, level2, value2), (a3, b3, h3, level3, value3),
        )  # fmt: skip


@helper
def forward_rows(
    rule, a, b, h, carry, lanes, count, apart, later, next_, together, a_constant, bypass, down, near, ahead
):  # fmt: skip
    """Advance rows of lanes, which stand ``apart``, by one step or by four ``together``, each ``later`` than the last.

    Lanes of a row are walked from the last to the first if ``down``. What comes next is another step or another row.
    """
    way = -width(carry) if down else width(carry)
    for k in range(count):
        a_now, b_now, h_now = row_at(a, apart, A, k), row_at(b, apart, B, k), row_at(h, apart, H, k)
        carry_now = row_at(carry, apart, CARRY, k)
        here = ahead if k < near else shift(ahead, 16 * 8)
        ahead_a, ahead_b, ahead_h = load_int(here, A), load_int(here, B), load_int(here, H)
        head = lanes_to_line(h_now, lanes) if bypass else 0  # steps that are taken together have the same
        vectors = whole_vectors(h_now, carry, lanes - head, bypass)
        tail = head + vectors * width(carry)
        if head > 0 or tail < lanes:
            for n in range(together):
                h_then = row_at(h_now, later, H, n)
                if bypass:
                    prefetch_ends(h_then, next_, H, head, tail, lanes)
                forward_lanes(
                    rule, row_at(a_now, later, A, n), row_at(b_now, later, B, n), h_then, carry_now, head, tail, lanes,
                    a_constant,
                )  # fmt: skip
        begin = tail - width(carry) if down else head
        row = rule, a_now, b_now, h_now, carry_now, begin, way, vectors, ahead_a, ahead_b, ahead_h
        # Known to the compiler: a loop that asks at each vector, and each step of it, has up to twice the instructions.
        if together == 1 and a_constant:
            forward_row(True, bypass, *row)
        elif together == 1:
            forward_row(False, bypass, *row)
        elif a_constant and bypass:
            forward_four(True, True, later, *row)
        elif a_constant:
            forward_four(True, False, later, *row)
        elif bypass:
            forward_four(False, True, later, *row)
        else:
            forward_four(False, False, later, *row)


@helper
def place(pointer, geometry, operand, t, row, outer, lane):
    """Return where an operand's row stands."""
    at = HEAD + 3 * operand
    offset = t * load_int(geometry, at) + row * load_int(geometry, at + 1) + outer * load_int(geometry, at + 2)
    return shift(pointer, offset + lane * itemsize(pointer))


@helper
def rows_at_once(geometry, rows):
    """Return how many rows of one step are walked at once: all, unless their lengths differ."""
    return rows if load_int(geometry, HEAD + 3 * LENGTHS + 1) == 0 else 1


@helper
def measure_ahead(ahead, geometry, rows, row_bytes, together, backwards, down):
    """Note how far from a piece of each operand's row stands what to ask for meanwhile; return for how many rows.

    It is among the same steps' rows; for the others, whose distances stand 16 further on, among the next steps'. What
    is asked for comes to the first level of the cache, which holds few rows of all operands.
    """
    room = load_int(geometry, PREFETCH)
    count = minimum(MOST_AHEAD, maximum(1, room // maximum(1, row_bytes * together)))
    near = minimum(count, rows)
    steps = count * together if rows == 1 else together
    for operand in range(SUMS_B + 1):
        at = HEAD + 3 * operand
        to_step = load_int(geometry, at) * (-steps if backwards else steps)
        to_row = load_int(geometry, at + 1) * (-1 if down else 1)
        if room > 0:
            store_int(ahead, operand, to_step if rows == 1 else count * to_row)
        else:
            store_int(ahead, operand, room if down else -room)
        store_int(ahead, 16 + operand, to_step + (near - rows) * to_row)
    if rows == 1:
        return load_int(geometry, N_STEPS)
    return rows - near if room > 0 else rows


@helper
def provide_pages(target, geometry, operand, t, span, steps, backwards):
    """Have the system provide the large pages that a walk will reach soon: one thread each, or every one would wait."""
    sharers, mine = load_int(geometry, PREFAULT_THREADS), load_int(geometry, PREFAULT_THREAD)
    stride = load_int(geometry, HEAD + 3 * operand)
    length = abs(stride)
    way = -1 if (stride < 0) != backwards else 1
    # Going up, all rows stand from the target on; going down, one does, and below it all others.
    reach = steps * length if way > 0 else (steps - 1) * length + 1
    first = PAGES_AHEAD + (t * length) // HUGE_PAGE if t > 0 else 0
    for page in range(first, PAGES_AHEAD + ((t + span) * length) // HUGE_PAGE):
        if page % sharers == mine and page * HUGE_PAGE < reach:
            own_page(target, way * page * HUGE_PAGE)


def forward(
    rule, a, b, h, carry, lengths, geometry, outer_first, outer_last, row_first, row_last, lane_first, lane_last
):
    """Walk in the direction of travel; ``carry`` holds the first states, then the last."""
    steps, reverse, a_constant = (
        load_int(geometry, N_STEPS),
        load_int(geometry, REVERSE),
        load_int(geometry, A_IS_BROADCAST) != 0,
    )
    bypass = load_int(geometry, STREAMING) != 0
    lanes = lane_last - lane_first
    # Through memory backwards, all the way: the prefetcher follows that too.
    down = load_int(geometry, HEAD + 3 * H) < 0
    rows = row_last - row_first
    fresh = load_int(geometry, PREFAULT_THREADS) != 0
    # All steps of a row one after the other, where there is one, and no pages to be seen to on the way.
    over_time = rows == 1 and not fresh
    stride, run = steps if over_time else TOGETHER, rows_at_once(geometry, rows)
    together = TOGETHER
    # Past the cache go whole lines: of steps that are taken together, these have to be the same lanes.
    if bypass and load_int(geometry, HEAD + 3 * H) % 64 != 0:
        together = 1
    # Where states stay near, those that are no wider than the data cost little, and a walk through memory that has no
    # gaps is as quick as the processor's prefetcher, which takes longer to follow more rows. Short rows would wait.
    if lanes * itemsize(carry) <= NEAR:
        streams = bypass or load_int(geometry, PREFETCH) != 0
        gapless = streams and abs(load_int(geometry, HEAD + 3 * H)) == lanes * itemsize(h)
        if itemsize(carry) == itemsize(h) or (gapless and lanes >= (LONG_LEVEL if a_constant else SHORT)):
            together = 1
    later, apart, far, ahead = stack_ints(16), stack_ints(16), stack_ints(16), stack_ints(32)
    near = measure_ahead(ahead, geometry, rows, lanes * itemsize(h), together, False, down)
    measure(later, geometry, ZERO, ONE)
    measure(apart, geometry, 0 if over_time else 1, -1 if down and not over_time else 1)
    measure(far, geometry, 0 if over_time else 1, TOGETHER if over_time else -1 if down else 1)
    next_ = later if rows == 1 else apart
    for outer in range(outer_first, outer_last):
        for t in range(0, steps, stride):
            span = minimum(stride, steps - t)
            if fresh:
                provide_pages(h, geometry, H, t, span, steps, False)
            for turn in range(0, rows, run):
                row = row_last - 1 - turn if down else row_first + turn
                start, stop = valid_range(place(lengths, geometry, LENGTHS, ZERO, row, outer, ZERO), steps, reverse)
                start, stop = valid_steps(start, stop, t, span)
                h_now = place(h, geometry, H, t, row, outer, lane_first)
                clear_rows(h_now, later, apart, H, carry, lanes, run, start, stop, span)
                while start < stop:
                    deep = together == TOGETHER and stop - start >= TOGETHER
                    at_once = TOGETHER if deep else 1
                    count = (stop - start) // at_once if over_time else run
                    forward_rows(
                        rule,
                        place(a, geometry, A, t + start, row, outer, ZERO if a_constant else lane_first),
                        place(b, geometry, B, t + start, row, outer, ZERO if is_one_b(rule) else lane_first),
                        place(h, geometry, H, t + start, row, outer, lane_first),
                        place(carry, geometry, CARRY, ZERO, row, outer, lane_first),
                        lanes, count, far if deep else apart, later, next_, at_once, a_constant, bypass, down, near,
                        ahead,
                    )  # fmt: skip
                    start += at_once * count if over_time else at_once
    if bypass:
        fence()


@inlined
def settle(target, sums, j, value, mode, bypass):
    """Bring a vector, or a lane, of a gradient where it belongs; row totals are the caller's."""
    if mode == STORE and bypass:
        stream_vector(target, j, value)
    elif mode == STORE:
        store_vector(target, j, value)
    elif mode == ACCUMULATE:
        store_vector(sums, j, load_vector(sums, j, sums) + value)


@helper
def settle_lane(target, sums, j, value, mode):
    if mode == STORE:
        store(target, j, value)
    elif mode == ACCUMULATE:
        store(sums, j, load(sums, j, sums) + value)
    elif mode == REDUCE:
        store(sums, 0, load(sums, 0, sums) + value)


@helper
def vjp_lanes(
    rule, g, a, b, h, h0, carry, to_a, to_b, sums_a, sums_b, head, tail, lanes, a_constant, a_mode, b_mode, at_h0
):  # fmt: skip
    """Take lanes that fill no vector to the step before."""
    for k in range(head + lanes - tail):
        j = end_lane(k, head, tail)
        before = load(h0, j, carry) if at_h0 else load(h, 0 if is_one_h(rule) else j, carry)
        arrived = load(g, 0 if is_one_g(rule) else j, carry) + load(carry, j, carry)
        gate, value = load(a, 0 if a_constant else j, carry), load(b, 0 if is_one_b(rule) else j, carry)
        grad_a, grad_b, onward = adjoint(rule, arrived, gate, value, before)
        store(carry, j, onward)
        settle_lane(to_a, sums_a, j, grad_a, a_mode)
        settle_lane(to_b, sums_b, j, grad_b, b_mode)


@inlined
def settle_or_sum(so_far, target, sums, j, value, mode, bypass):
    """Bring a vector of a gradient where it belongs; return what those of one number for all lanes add up to."""
    if mode == REDUCE:
        return so_far + value
    settle(target, sums, j, value, mode, bypass)
    return so_far


@inlined
def vjp_row(
    deep, a_constant, a_mode, b_mode, at_h0, bypass_a, bypass_b, rule, g, a, b, h, h0, carry, to_a, to_b, sums_a,
    sums_b, later, here, begin, way, vectors, so_far, so_far1, so_far_b,
):  # fmt: skip
    """Take a row's vectors back by a step, or ``deep`` by two; return what gradients of one number for all add up to.

    Of a gate those of each step by itself; of the other operand there is but one step.
    """
    g1, a1, b1, h1 = (
        row_at(g, later, G, ONE),
        row_at(a, later, A, ONE),
        row_at(b, later, B, ONE),
        row_at(h, later, H, ONE),
    )
    to_a1, to_b1 = row_at(to_a, later, TO_A, ONE), row_at(to_b, later, TO_B, ONE)
    one_a, one_g, one_b = level_of(a, carry), level_of(g, carry), level_of(b, carry)
    one_a1, one_g1, one_b1, one_h, one_h1 = one_a, one_g, one_b, one_b, one_b
    if is_one_h(rule) and not at_h0:
        one_h = level_of(h, carry)
    if deep:
        one_a1, one_g1, one_b1, one_h1 = level_of(a1, carry), level_of(g1, carry), level_of(b1, carry), one_h
        if is_one_h(rule):
            one_h1 = level_of(h1, carry)
    ahead_g, ahead_a = load_int(here, G), load_int(here, A)
    ahead_b, ahead_h = load_int(here, B), load_int(here, H)
    ahead_to_a, ahead_to_b = load_int(here, TO_A), load_int(here, TO_B)
    past_a, past_b = bypass_a or a_mode != STORE, bypass_b or b_mode != STORE  # nothing goes through the cache
    for vector in range(vectors):
        j = begin + vector * way
        request_unless(is_one_g(rule), g, j, ahead_g)
        request_unless(is_one_b(rule), b, j, ahead_b)
        request_unless(is_one_h(rule), h, j, ahead_h)
        request_unless(a_constant, a, j, ahead_a)
        claim_unless(past_a, to_a, j, ahead_to_a)
        claim_unless(past_b, to_b, j, ahead_to_b)
        if deep:
            claim_unless(past_a, to_a1, j, ahead_to_a)
            claim_unless(past_b, to_b1, j, ahead_to_b)
        before = load_vector(h0, j, carry) if at_h0 else numbers(is_one_h(rule), one_h, h, j, carry)
        arrived = numbers(is_one_g(rule), one_g, g, j, carry) + load_vector(carry, j, carry)
        gate = numbers(a_constant, one_a, a, j, carry)
        grad_a, grad_b, onward = adjoint(rule, arrived, gate, numbers(is_one_b(rule), one_b, b, j, carry), before)
        if deep:
            settle(to_b, sums_b, j, grad_b, b_mode, bypass_b)
            so_far = settle_or_sum(so_far, to_a, sums_a, j, grad_a, a_mode, bypass_a)
            request_unless(is_one_g(rule), g1, j, ahead_g)
            request_unless(is_one_b(rule), b1, j, ahead_b)
            request_unless(is_one_h(rule), h1, j, ahead_h)
            request_unless(a_constant, a1, j, ahead_a)
            before = numbers(is_one_h(rule), one_h1, h1, j, carry)
            arrived = numbers(is_one_g(rule), one_g1, g1, j, carry) + onward
            gate = numbers(a_constant, one_a1, a1, j, carry)
            grad_a, grad_b, onward = adjoint(rule, arrived, gate, numbers(is_one_b(rule), one_b1, b1, j, carry), before)
        store_vector(carry, j, onward)
        if deep:
            settle(to_b1, sums_b, j, grad_b, b_mode, bypass_b)
            so_far1 = settle_or_sum(so_far1, to_a1, sums_a, j, grad_a, a_mode, bypass_a)
        else:
            so_far_b = settle_or_sum(so_far_b, to_b, sums_b, j, grad_b, b_mode, bypass_b)
            so_far = settle_or_sum(so_far, to_a, sums_a, j, grad_a, a_mode, bypass_a)
    return so_far, so_far1, so_far_b


@helper
def add_up(sums, so_far):
    """Add what was summed of a row to where it belongs."""
    store(sums, 0, load(sums, 0, sums) + total(so_far))


@helper
def vjp_rows(
    rule, g, a, b, h, h0, carry, to_a, to_b, sums_a, sums_b, lanes, count, count_h, apart, later, next_, together,
    a_constant, a_mode, b_mode, down, bypass, near, ahead,
):  # fmt: skip
    """Take rows of lanes back by a step, or by two ``together``: as `forward_rows`.

    What stands at ``h`` are the results before, of ``count_h`` rows; before the others, there are the first states.
    """
    bypass_b = bypass and b_mode == STORE
    way = -width(carry) if down else width(carry)
    zero = broadcast(constant(0.0, load(carry, 0, carry)))
    so_far, so_far1, so_far_b = zero, zero, zero
    b_usual = REDUCE if is_sum_b(rule) else STORE
    is_one_sum = load_int(later, SUMS_A) == 0
    is_wider = itemsize(carry) > itemsize(h)  # else together is 1: nothing need be compiled for it
    for k in range(count):
        g_now, a_now, b_now = row_at(g, apart, G, k), row_at(a, apart, A, k), row_at(b, apart, B, k)
        h_now, h0_now, carry_now = row_at(h, apart, H, k), row_at(h0, apart, CARRY, k), row_at(carry, apart, CARRY, k)
        to_a_now, to_b_now = row_at(to_a, apart, TO_A, k), row_at(to_b, apart, TO_B, k)
        sums_a_now, sums_b_now = row_at(sums_a, apart, SUMS_A, k), row_at(sums_b, apart, SUMS_B, k)
        at_h0, head = k >= count_h, 0
        here = ahead if k < near else shift(ahead, 16 * 8)
        if bypass_b:
            head = lanes_to_line(to_b_now, lanes)
        elif bypass and a_mode == STORE:
            head = lanes_to_line(to_a_now, lanes)
        bypass_a = bypass and a_mode == STORE and (misalignment(to_a_now) + head * itemsize(to_a)) % 64 == 0
        vectors = minimum(
            whole_vectors(to_a, carry, lanes - head, bypass_a), whole_vectors(to_b, carry, lanes - head, bypass_b)
        )
        tail = head + vectors * width(carry)
        if head > 0 or tail < lanes:
            for n in range(together):
                to_a_then, to_b_then = row_at(to_a_now, later, TO_A, n), row_at(to_b_now, later, TO_B, n)
                if bypass_a:
                    prefetch_ends(to_a_then, next_, TO_A, head, tail, lanes)
                if bypass_b:
                    prefetch_ends(to_b_then, next_, TO_B, head, tail, lanes)
                vjp_lanes(
                    rule, row_at(g_now, later, G, n), row_at(a_now, later, A, n), row_at(b_now, later, B, n),
                    row_at(h_now, later, H, n), h0_now, carry_now, to_a_then, to_b_then,
                    row_at(sums_a_now, later, SUMS_A, n), row_at(sums_b_now, later, SUMS_B, n), head, tail, lanes,
                    a_constant, a_mode, b_mode, at_h0,
                )  # fmt: skip
        begin = tail - width(carry) if down else head
        row = (
            rule, g_now, a_now, b_now, h_now, h0_now, carry_now, to_a_now, to_b_now, sums_a_now, sums_b_now, later,
            here, begin, way, vectors, so_far, so_far1, so_far_b,
        )  # fmt: skip
        # What most gradients are is known to the compiler: a loop that asks at each vector has twice the instructions.
        is_usual = b_mode == b_usual and not at_h0
        if is_wider and together > 1 and a_constant:
            so_far, so_far1, so_far_b = vjp_row(True, True, REDUCE, STORE, False, False, bypass_b, *row)
        elif is_wider and together > 1:
            so_far, so_far1, so_far_b = vjp_row(True, False, STORE, STORE, False, bypass_a, bypass_b, *row)
        elif is_usual and a_constant and a_mode == REDUCE:
            so_far, so_far1, so_far_b = vjp_row(False, True, REDUCE, b_usual, False, False, bypass_b, *row)
        elif is_usual and not a_constant and a_mode == STORE:
            so_far, so_far1, so_far_b = vjp_row(False, False, STORE, b_usual, False, bypass_a, bypass_b, *row)
        elif is_usual and not a_constant and a_mode == ACCUMULATE:
            so_far, so_far1, so_far_b = vjp_row(False, False, ACCUMULATE, b_usual, False, False, bypass_b, *row)
        elif is_usual and a_mode == ACCUMULATE:
            so_far, so_far1, so_far_b = vjp_row(False, True, ACCUMULATE, b_usual, False, False, bypass_b, *row)
        else:
            so_far, so_far1, so_far_b = vjp_row(False, a_constant, a_mode, b_mode, at_h0, bypass_a, bypass_b, *row)
        if a_mode == REDUCE and (
            k == count - 1 or load_int(apart, SUMS_A) != 0
        ):  # rows of one sum are added up at once
            if is_one_sum:
                so_far = so_far + so_far1
            elif together > 1:
                add_up(row_at(sums_a_now, later, SUMS_A, ONE), so_far1)
            add_up(sums_a_now, so_far)
            so_far, so_far1 = zero, zero
        if b_mode == REDUCE and (k == count - 1 or load_int(apart, SUMS_B) != 0):
            add_up(sums_b_now, so_far_b)
            so_far_b = zero


def vjp(
    rule, g, a, b, h, h0, carry, to_a, to_b, sums_a, sums_b, lengths, geometry, outer_first, outer_last, row_first,
    row_last, lane_first, lane_last,
):  # fmt: skip
    """Walk against the direction of travel; ``carry`` holds the last states' cotangents, then the first states'."""
    steps, reverse, a_constant = (
        load_int(geometry, N_STEPS),
        load_int(geometry, REVERSE),
        load_int(geometry, A_IS_BROADCAST) != 0,
    )
    bypass, a_mode, b_mode = load_int(geometry, STREAMING) != 0, load_int(geometry, A_MODE), load_int(geometry, B_MODE)
    lanes = lane_last - lane_first
    stretch, pitch = load_int(geometry, SUM_STEPS), load_int(geometry, SUM_BYTES)
    a_lane, sums_lane = 0 if a_constant else lane_first, lane_first if a_mode == ACCUMULATE or not a_constant else 0
    g_lane, h_lane = 0 if is_one_g(rule) else lane_first, 0 if is_one_h(rule) else lane_first
    b_lane, sums_b_lane = 0 if is_one_b(rule) else lane_first, 0 if b_mode == REDUCE else lane_first
    down = load_int(geometry, HEAD + 3 * H) > 0
    fresh = load_int(geometry, PREFAULT_THREADS) != 0
    rows = row_last - row_first
    over_time = rows == 1 and not fresh  # as in `forward`
    together = 1
    # States that are wider than the data are as much to put down as all results. Where results go past the cache that
    # shows, unless one thread walks it all, as quickly as memory gives; and short rows would wait for each other.
    if itemsize(carry) > itemsize(h) and b_mode == STORE and a_mode == (REDUCE if a_constant else STORE):
        gapless = abs(load_int(geometry, HEAD + 3 * TO_B)) == lanes * itemsize(to_b)
        together = TOGETHER_BACK if lanes < SHORT or (bypass and not gapless) else 1
    # Past the cache go whole lines: of steps that are taken together, these have to be the same lanes.
    if bypass and load_int(geometry, HEAD + 3 * TO_B) % 64 != 0:
        together = 1
    if bypass and a_mode == STORE and load_int(geometry, HEAD + 3 * TO_A) % 64 != 0:
        together = 1
    stride, run = steps if over_time else together, rows_at_once(geometry, rows)
    if over_time and stretch > 0:
        stride = stretch
    later, apart, far, ahead = stack_ints(16), stack_ints(16), stack_ints(16), stack_ints(32)
    near = measure_ahead(ahead, geometry, rows, lanes * itemsize(h), together, True, down)
    measure(later, geometry, ZERO, -ONE)
    measure(apart, geometry, 0 if over_time else 1, -1 if down or over_time else 1)
    measure(far, geometry, 0 if over_time else 1, -TOGETHER_BACK if over_time else -1 if down else 1)
    next_ = later if rows == 1 else apart
    for outer in range(outer_first, outer_last):
        for ago in range(0, steps, stride):
            span = minimum(stride, steps - ago)
            t = steps - span - ago
            sums_now = shift(sums_a, ago // stretch * pitch if stretch > 0 else 0)
            if fresh and a_mode == STORE:
                top = place(to_a, geometry, TO_A, steps - 1, ZERO, outer, ZERO)
                provide_pages(top, geometry, TO_A, ago, span, steps, True)
            if fresh and b_mode == STORE:
                top = place(to_b, geometry, TO_B, steps - 1, ZERO, outer, ZERO)
                provide_pages(top, geometry, TO_B, ago, span, steps, True)
            for turn in range(0, rows, run):
                row = row_last - 1 - turn if down else row_first + turn
                first, stop = valid_range(place(lengths, geometry, LENGTHS, ZERO, row, outer, ZERO), steps, reverse)
                begin, end = valid_steps(first, stop, t, span)
                to_a_now = place(to_a, geometry, TO_A, t + span - 1, row, outer, lane_first)
                to_b_now = place(to_b, geometry, TO_B, t + span - 1, row, outer, lane_first)
                low, high = span - end, span - begin
                if a_mode == STORE:
                    clear_rows(to_a_now, later, apart, TO_A, carry, lanes, run, low, high, span)
                if b_mode == STORE:
                    clear_rows(to_b_now, later, apart, TO_B, carry, lanes, run, low, high, span)
                alone = 1 if t + begin == first else 0  # before the first step there is no result
                while begin < end:
                    deep = together > 1 and end - begin - alone >= together
                    at_once = together if deep else 1
                    count = (end - begin - (alone if deep else 0)) // at_once if over_time else run
                    known = count  # rows before which there are results, else the first states
                    if not deep and over_time:
                        known = count - alone
                    elif not deep and alone == 1 and end - begin == 1:
                        known = 0
                    last = t + end - 1
                    vjp_rows(
                        rule,
                        place(g, geometry, G, last, row, outer, g_lane),
                        place(a, geometry, A, last, row, outer, a_lane),
                        place(b, geometry, B, last, row, outer, b_lane),
                        place(h, geometry, H, last - 1, row, outer, h_lane),
                        place(h0, geometry, CARRY, ZERO, row, outer, lane_first),
                        place(carry, geometry, CARRY, ZERO, row, outer, lane_first),
                        place(to_a, geometry, TO_A, last, row, outer, lane_first),
                        place(to_b, geometry, TO_B, last, row, outer, lane_first),
                        place(sums_now, geometry, SUMS_A, last, row, outer, sums_lane),
                        place(sums_b, geometry, SUMS_B, last, row, outer, sums_b_lane),
                        lanes, count, known, far if deep else apart, later, next_, at_once, a_constant, a_mode, b_mode,
                        down, bypass, near, ahead,
                    )  # fmt: skip
                    end -= at_once * count if over_time else at_once
    if bypass:
        fence()

"""Kernels for series that are neighbours in memory: at each step a row of them, vector by vector.

The states of a row stand in a buffer of the carry type, which every step advances and writes out: each operand is read
once, each result written once, and the buffer stays in the cache.

A step may have several rows, which are taken four steps each, and around time stands one more loop, over ``outer``. The
last arguments of a kernel say which part of the series to take. Rows of few series are taken by `_narrow`.
"""

from collections import namedtuple

from .._layout import (
    A_MODE,
    ACCUMULATE,
    B_MODE,
    CARRY,
    LENGTHS,
    N_STEPS,
    PREFAULT_THREAD,
    PREFAULT_THREADS,
    PREFETCH,
    REDUCE,
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
from . import _narrow
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
    store,
    store_vector,
    stream_vector,
    total,
    width,
)
from ._operands import (
    FOUR,
    LINE,
    NO,
    ONE,
    THREE,
    TWO,
    YES,
    ZERO,
    Distance,
    Gradient,
    Inputs,
    Operand,
    at_place,
    bytes_of,
    clear_steps,
    end_lane,
    find,
    gradient_later,
    inputs_later,
    lanes_to_line,
    later,
    operand,
    settle_lane,
    valid_part,
    whole_vectors,
    with_mode,
)
from ._rules import (
    a_is_broadcast,
    adjoint,
    b_is_broadcast,
    b_is_reduced,
    choice,
    g_is_broadcast,
    h_is_broadcast,
    is_narrow,
    step,
)
from ._target import helper, inlined

HUGE_PAGE = 2 << 20
PAGES_AHEAD = 2
MOST_AHEAD = 32  # rows
ENDS_AHEAD = 8  # rows before which a line is prefetched that a row fills in part: non-temporal stores wait for it
NARROW_AHEAD, NARROW_STEPS = 64, 512  # steps that are prefetched; whose gradients are summed before all sums are
L1_BYTES = 16 << 10  # of states that stay in the first level of the cache beside the operands
SHORT, SHORT_BROADCAST = 32, 128  # series of a row below which a step waits for the states that the last one stored

# How rows are taken: how many series; steps for which states stay in registers; whether results go by non-temporal
# stores; 1, or -1 from the last series to the first; what is prefetched, and which lines that a row fills in part.
Scan = namedtuple("Scan", "lanes unroll streaming row_way far ends")
Vectors = namedtuple("Vectors", "begin stride count")  # of a row, in elements
Step = namedtuple("Step", "a b h one_a one_b")  # operands; a vector of what is one value for the row


@inlined
def rows_ahead(geometry, row_bytes, steps):
    """Return how many rows, of so many steps each, are prefetched: as many as the first level of the cache holds."""
    return minimum(MOST_AHEAD, maximum(1, load_int(geometry, PREFETCH) // maximum(1, row_bytes * steps)))


@inlined
def distance(rule, geometry, count, k, rows, steps, way, row_way):
    """Return how far from the k-th of some rows, of so many steps each, stands what is prefetched.

    It is ``count`` rows later; behind the last row that is among the next steps'. Or it is in the same row.
    """
    room = load_int(geometry, PREFETCH)
    if is_narrow(rule):
        return Distance(NARROW_AHEAD * way if rows == 1 else ZERO, ZERO, ZERO)
    if room <= 0:
        return Distance(ZERO, ZERO, -room * row_way)
    if rows == 1:
        return Distance(count * steps * way, ZERO, ZERO)
    if k + count < rows:
        return Distance(ZERO, count * row_way, ZERO)
    return Distance(steps * way, (minimum(count, rows) - rows) * row_way, ZERO)


@inlined
def ends_distance(rows, way, row_way):
    """Return how far from a row stands the one whose first and last lines are prefetched."""
    return Distance(ENDS_AHEAD * way, ZERO, ZERO) if rows == 1 else Distance(ZERO, ENDS_AHEAD * row_way, ZERO)


@inlined
def prefetch_ends(x, scan, head, tail):
    """Prefetch the lines that a later row of results fills in part: up to half the time for slices of rows."""
    if head > 0:
        prefetch_to_write(x.at, 0, bytes_of(x, scan.ends))
    if tail < scan.lanes:
        prefetch_to_write(x.at, scan.lanes - 1, bytes_of(x, scan.ends))


@inlined
def vectors_of(head, count, scan, carry):
    """Return the vectors of a row behind its first ``head`` elements, in the order of memory in which all is met."""
    if scan.row_way < 0:
        return Vectors(head + (count - 1) * width(carry), -width(carry), count)
    return Vectors(head, width(carry), count)


@helper
def prefault(x, geometry, done, span, steps, way):
    """Touch the large pages that will be reached soon, behind the first ``done`` steps: one thread each.

    The system clears a page when it is touched, and all threads that touch it wait.
    """
    threads, mine = load_int(geometry, PREFAULT_THREADS), load_int(geometry, PREFAULT_THREAD)
    length, way = abs(x.step), -1 if x.step * way < 0 else 1
    # Going up, all rows stand from the first on; going down, one does, and below it all others.
    reach = steps * length if way > 0 else (steps - 1) * length + 1
    first = PAGES_AHEAD + (done * length) // HUGE_PAGE if done > 0 else 0
    for page in range(first, PAGES_AHEAD + ((done + span) * length) // HUGE_PAGE):
        if page % threads == mine and page * HUGE_PAGE < reach:
            own_page(x.at, way * page * HUGE_PAGE)


@inlined
def one_value(x, carry):
    """Return a vector of what an operand has for a row, if it is one value."""
    return broadcast(load(x.at, 0, carry))


@inlined
def vector(is_broadcast, one, x, j, carry, far):
    """Return a vector of an operand's row, and prefetch a later one; or the ``one`` value that there is for the row."""
    if is_broadcast:
        return one
    prefetch(x.at, j, bytes_of(x, far))
    return load_vector(x.at, j, carry)


@inlined
def put(x, j, value, streaming, far):
    """Write a vector; if it stays in the cache, prefetch where a later one goes: a store that misses stalls all."""
    if streaming:
        stream_vector(x.at, j, value)
    else:
        prefetch_to_write(x.at, j, bytes_of(x, far))
        store_vector(x.at, j, value)


# ---- Forward --------------------------------------------------------------------------------------------------------


@inlined
def step_at(a, b, h, n, carry):
    """Return operands and result n steps later."""
    a_now, b_now = later(a, n), later(b, n)
    return Step(a_now, b_now, later(h, n), one_value(a_now, carry), one_value(b_now, carry))


@inlined
def operands(rule, now, j, carry, far):
    """Return a vector of each operand of a step."""
    gate = vector(a_is_broadcast(rule), now.one_a, now.a, j, carry, far)
    return gate, vector(b_is_broadcast(rule), now.one_b, now.b, j, carry, far)


@inlined
def advance(rule, state, carry, j, streaming, far, now):
    """Take a vector by a step, write it and return it."""
    new = step(rule, state, *operands(rule, now, j, carry, far))
    put(now.h, j, new, streaming, far)
    return new


@inlined
def advance_in_turn(rule, carry, j, streaming, far, s0, s1, s2, s3):
    """Take a vector by four steps."""
    state = advance(rule, load_vector(carry, j, carry), carry, j, streaming, far, s0)
    state = advance(rule, state, carry, j, streaming, far, s1)
    state = advance(rule, state, carry, j, streaming, far, s2)
    state = advance(rule, state, carry, j, streaming, far, s3)
    store_vector(carry, j, state)


@inlined
def advance_at_once(rule, carry, j, streaming, far, s0, s1, s2, s3):
    """Take a vector by four steps, of which the last tells whether all are finite.

    float16 and bfloat16 with a number as gate, in the cache, take a sixth less time so.
    """
    first = load_vector(carry, j, carry)
    x0, x1 = operands(rule, s0, j, carry, far), operands(rule, s1, j, carry, far)
    x2, x3 = operands(rule, s2, j, carry, far), operands(rule, s3, j, carry, far)
    h0 = forget_finite(first, *x0)
    h1 = forget_finite(h0, *x1)
    h2 = forget_finite(h1, *x2)
    h3 = forget_finite(h2, *x3)
    if not everywhere(is_finite(h3)):
        h0 = step(rule, first, *x0)
        h1 = step(rule, h0, *x1)
        h2 = step(rule, h1, *x2)
        h3 = step(rule, h2, *x3)
    put(s0.h, j, h0, streaming, far)
    put(s1.h, j, h1, streaming, far)
    put(s2.h, j, h2, streaming, far)
    put(s3.h, j, h3, streaming, far)
    store_vector(carry, j, h3)


# Of float32 states alone: of float64, whose vectors take twice the registers, it brought nothing.
advance_four = choice("forget_same", advance_at_once, advance_in_turn, of_float32=True)


@inlined
def forward_vectors(rule, n, a, b, h, carry, streaming, vectors, far):
    """Take a row's vectors by a step; or by four, for which states stay in registers.

    Else short rows wait for the store of each state (store forwarding), and the states of long ones do not fit the
    first level of the cache: four take half to two thirds of the time for (400, 64) and (200000, 32) float32.
    """
    s0 = step_at(a, b, h, ZERO, carry)
    s1, s2, s3 = s0, s0, s0
    if n == FOUR:
        s1, s2, s3 = step_at(a, b, h, ONE, carry), step_at(a, b, h, TWO, carry), step_at(a, b, h, THREE, carry)
    for k in range(vectors.count):
        j = vectors.begin + k * vectors.stride
        if n == FOUR:
            advance_four(rule, carry, j, streaming, far, s0, s1, s2, s3)
        else:
            store_vector(carry, j, advance(rule, load_vector(carry, j, carry), carry, j, streaming, far, s0))


@helper
def forward_ends(rule, a, b, h, carry, head, tail, lanes):
    """Take series that fill no vector by a step."""
    for k in range(head + lanes - tail):
        j = end_lane(k, head, tail)
        gate = load(a.at, 0 if a_is_broadcast(rule) else j, carry)
        value = load(b.at, 0 if b_is_broadcast(rule) else j, carry)
        new = step(rule, load(carry, j, carry), gate, value)
        store(carry, j, new)
        store(h.at, j, new)


@inlined
def forward_wide(rule, carry, a, b, h, steps, scan):
    """Take a row by some steps."""
    t = ZERO
    while t < steps:
        n = FOUR if scan.unroll == FOUR and steps - t >= FOUR else ONE
        a_now, b_now, h_now = later(a, t), later(b, t), later(h, t)
        head = lanes_to_line(h_now.at, scan.lanes) if scan.streaming else ZERO  # the same for steps taken at once
        count = whole_vectors(h_now.at, carry, scan.lanes - head, scan.streaming)
        tail = head + count * width(carry)
        if head > 0 or tail < scan.lanes:
            for k in range(n):
                to = later(h_now, k)
                if scan.streaming:
                    prefetch_ends(to, scan, head, tail)
                forward_ends(rule, later(a_now, k), later(b_now, k), to, carry, head, tail, scan.lanes)
        vectors = vectors_of(head, count, scan, carry)
        # Known to the compiler: a loop that asks for each vector and step has up to twice the instructions.
        if n == ONE:
            forward_vectors(rule, ONE, a_now, b_now, h_now, carry, scan.streaming, vectors, scan.far)
        elif scan.streaming:
            forward_vectors(rule, FOUR, a_now, b_now, h_now, carry, YES, vectors, scan.far)
        else:
            forward_vectors(rule, FOUR, a_now, b_now, h_now, carry, NO, vectors, scan.far)
        t += n


forward_row = choice("narrow", _narrow.forward_row, forward_wide)


@inlined
def forward_unroll(rule, carry, h, lanes, geometry):
    """Return for how many steps states stay in registers, four or one."""
    streaming = load_int(geometry, STREAMING) != 0
    if streaming and h.step % LINE != 0:  # the four steps' whole lines are to be of the same series
        return ONE
    if lanes * itemsize(carry) > L1_BYTES:
        return FOUR
    # States that stay in the first level of the cache and are no wider than the data cost little.
    if itemsize(carry) == itemsize(h.at):
        return ONE
    # Rows that follow each other in memory come as fast as the processor's own prefetcher, which follows one best.
    is_far = streaming or load_int(geometry, PREFETCH) != 0
    is_long = lanes >= (SHORT_BROADCAST if a_is_broadcast(rule) else SHORT)
    return ONE if is_far and is_long and abs(h.step) == lanes * itemsize(h.at) else FOUR


def forward(
    rule, a, b, h, carry, lengths, geometry, outer_first, outer_last, row_first, row_last, lane_first, lane_last
):
    """Take steps in scan order; ``carry`` holds the first states, then the last."""
    steps, streaming = load_int(geometry, N_STEPS), load_int(geometry, STREAMING) != 0
    rows, lanes, must_prefault = row_last - row_first, lane_last - lane_first, load_int(geometry, PREFAULT_THREADS) != 0
    all_a, all_b, all_h = operand(a, geometry, A), operand(b, geometry, B), operand(h, geometry, H)
    all_lengths, states = operand(lengths, geometry, LENGTHS), operand(carry, geometry, CARRY)
    a_lane, b_lane = ZERO if a_is_broadcast(rule) else lane_first, ZERO if b_is_broadcast(rule) else lane_first
    # Down through memory all the way, rows from their end: the processor's prefetcher follows that too.
    row_way = -ONE if all_h.step < 0 else ONE
    unroll = forward_unroll(rule, carry, all_h, lanes, geometry)
    chunk, at_once = steps if rows == 1 and not must_prefault else FOUR, unroll if rows == 1 else FOUR
    count = rows_ahead(geometry, lanes * itemsize(h), at_once)
    for outer in range(outer_first, outer_last):
        for t in range(0, steps, chunk):
            end = minimum(t + chunk, steps)
            if must_prefault:
                prefault(find(all_h, ZERO, ZERO, outer, ZERO), geometry, t, end - t, steps, ONE)
            for k in range(rows):
                row = row_first + k if row_way > 0 else row_last - 1 - k
                start, stop, _ = valid_part(all_lengths, row, outer, geometry, t, end)
                some_h = find(all_h, ZERO, row, outer, lane_first)
                clear_steps(some_h, carry, lanes, t, start)
                clear_steps(some_h, carry, lanes, stop, end)
                some_a, some_b = find(all_a, start, row, outer, a_lane), find(all_b, start, row, outer, b_lane)
                far = distance(rule, geometry, count, k, rows, at_once, ONE, row_way)
                scan = Scan(lanes, unroll, streaming, row_way, far, ends_distance(rows, ONE, row_way))
                here = at_place(states, ZERO, row, outer, lane_first)
                forward_row(rule, here, some_a, some_b, later(some_h, start), stop - start, scan)
    if streaming:
        fence()


# ---- Gradients ------------------------------------------------------------------------------------------------------


@inlined
def settle(x, j, value, total, far):
    """Store a vector of a gradient or add it to sums along time; return ``total``, with it if rows are reduced."""
    if x.mode == STORE:
        put(x.to, j, value, x.streaming, far)
    elif x.mode == ACCUMULATE:
        store_vector(x.sums.at, j, load_vector(x.sums.at, j, x.sums.at) + value)
    elif x.mode == REDUCE:
        return total + value
    return total


@helper
def vjp_ends(rule, x, carry, to_a, to_b, is_first, head, tail, lanes):
    """Take series that fill no vector back by a step."""
    for k in range(head + lanes - tail):
        j = end_lane(k, head, tail)
        before = load(x.first, j, carry) if is_first else load(x.h.at, 0 if h_is_broadcast(rule) else j, carry)
        arrived = load(x.g.at, 0 if g_is_broadcast(rule) else j, carry) + load(carry, j, carry)
        gate = load(x.a.at, 0 if a_is_broadcast(rule) else j, carry)
        value = load(x.b.at, 0 if b_is_broadcast(rule) else j, carry)
        grad_a, grad_b, onward = adjoint(rule, arrived, gate, value, before)
        store(carry, j, onward)
        settle_lane(to_a.to.at, to_a.sums.at, j, grad_a, to_a.mode)
        settle_lane(to_b.to.at, to_b.sums.at, j, grad_b, to_b.mode)


@inlined
def one_values(rule, x, carry, is_first):
    """Return vectors of what operands have for a row, if it is one value."""
    g, a, b = one_value(x.g, carry), one_value(x.a, carry), one_value(x.b, carry)
    h = g
    if h_is_broadcast(rule) and not is_first:
        h = one_value(x.h, carry)
    return Inputs(g, a, b, h, g)


@inlined
def take_back(rule, x, one, r, j, to_a, to_b, is_first, totals, far):
    """Take a vector ``r`` of cotangents back by a step; return it and what is reduced over rows."""
    if is_first:
        before = load_vector(x.first, j, x.first)
    else:
        before = vector(h_is_broadcast(rule), one.h, x.h, j, x.first, far)
    arrived = vector(g_is_broadcast(rule), one.g, x.g, j, x.first, far) + r
    gate = vector(a_is_broadcast(rule), one.a, x.a, j, x.first, far)
    value = vector(b_is_broadcast(rule), one.b, x.b, j, x.first, far)
    grad_a, grad_b, r = adjoint(rule, arrived, gate, value, before)
    return r, (settle(to_a, j, grad_a, totals[0], far), settle(to_b, j, grad_b, totals[1], far))


@inlined
def vjp_vectors(rule, n, x, carry, to_a, to_b, is_first, vectors, far, totals):
    """Take a row's vectors back by n steps, one or two; return what is reduced over rows, added to ``totals``."""
    x1, a1, b1 = inputs_later(x, -ONE), gradient_later(to_a, -ONE), gradient_later(to_b, -ONE)
    one = one_values(rule, x, carry, is_first)
    one1 = one
    if n == TWO:
        one1 = one_values(rule, x1, carry, NO)
    for k in range(vectors.count):
        j = vectors.begin + k * vectors.stride
        r, totals = take_back(rule, x, one, load_vector(carry, j, carry), j, to_a, to_b, is_first, totals, far)
        if n == TWO:
            r, totals = take_back(rule, x1, one1, r, j, a1, b1, NO, totals, far)
        store_vector(carry, j, r)
    return totals


@inlined
def usual_modes(rule):
    """Return the output modes of most gradients of a rule."""
    return REDUCE if a_is_broadcast(rule) else STORE, REDUCE if b_is_reduced(rule) else STORE


@inlined
def vjp_step(rule, x, carry, to_a, to_b, n, is_first, scan, totals):
    """Take a row back by n steps, one or two; return what is reduced over rows, added to ``totals``."""
    head, b_streaming = ZERO, scan.streaming and to_b.mode == STORE
    if b_streaming:
        head = lanes_to_line(to_b.to.at, scan.lanes)
    elif scan.streaming and to_a.mode == STORE:
        head = lanes_to_line(to_a.to.at, scan.lanes)
    in_line = (misalignment(to_a.to.at) + head * itemsize(to_a.to.at)) % LINE
    a_streaming = scan.streaming and to_a.mode == STORE and in_line == 0
    count_a = whole_vectors(to_a.to.at, carry, scan.lanes - head, a_streaming)
    count = minimum(count_a, whole_vectors(to_b.to.at, carry, scan.lanes - head, b_streaming))
    tail = head + count * width(carry)
    if head > 0 or tail < scan.lanes:
        for k in range(n):
            a_now, b_now = gradient_later(to_a, -k), gradient_later(to_b, -k)
            if a_streaming:
                prefetch_ends(a_now.to, scan, head, tail)
            if b_streaming:
                prefetch_ends(b_now.to, scan, head, tail)
            vjp_ends(rule, inputs_later(x, -k), carry, a_now, b_now, is_first, head, tail, scan.lanes)
    vectors = vectors_of(head, count, scan, carry)
    # What most gradients are is known to the compiler: a loop that asks for each vector has twice the instructions, and
    # takes up to a fifth longer in the cache.
    a_usual, b_usual = usual_modes(rule)
    to_b = with_mode(to_b, to_b.mode, b_streaming)
    a_known, b_known = with_mode(to_a, a_usual, a_streaming), with_mode(to_b, b_usual, b_streaming)
    is_usual = to_b.mode == b_usual and not is_first
    if itemsize(carry) > itemsize(x.h.at) and n == TWO:
        return vjp_vectors(rule, TWO, x, carry, a_known, b_known, NO, vectors, scan.far, totals)
    if is_usual and to_a.mode == a_usual:
        return vjp_vectors(rule, ONE, x, carry, a_known, b_known, NO, vectors, scan.far, totals)
    if is_usual and to_a.mode == ACCUMULATE:
        a_known = with_mode(to_a, ACCUMULATE, NO)
        return vjp_vectors(rule, ONE, x, carry, a_known, b_known, NO, vectors, scan.far, totals)
    a_any = with_mode(to_a, to_a.mode, a_streaming)
    return vjp_vectors(rule, ONE, x, carry, a_any, to_b, is_first, vectors, scan.far, totals)


@helper
def add_total(sums, value):
    """Add what was summed of rows to where it belongs."""
    store(sums, 0, load(sums, 0, sums) + total(value))


@inlined
def vjp_wide(rule, carry, x, to_a, to_b, steps, has_first, scan):
    """Take a row back by some steps, the last of which has the first states before it, or (0) not."""
    zero = broadcast(constant(0.0, load(carry, 0, carry)))
    total_a, total_b = zero, zero
    ago = ZERO
    while ago < steps:
        n = TWO if scan.unroll == TWO and steps - ago - has_first >= TWO else ONE
        is_last = ago + n == steps
        now, a_now, b_now = inputs_later(x, -ago), gradient_later(to_a, -ago), gradient_later(to_b, -ago)
        is_first = is_last and has_first != 0
        total_a, total_b = vjp_step(rule, now, carry, a_now, b_now, n, is_first, scan, (total_a, total_b))
        if to_a.mode == REDUCE and (is_last or to_a.sums.step != 0):
            add_total(a_now.sums.at, total_a)
            total_a = zero
        if to_b.mode == REDUCE and (is_last or to_b.sums.step != 0):
            add_total(b_now.sums.at, total_b)
            total_b = zero
        ago += n


vjp_row = choice("narrow", _narrow.vjp_row, vjp_wide)


@inlined
def vjp_unroll(rule, carry, lanes, streaming, to_a, to_b):
    """Return for how many steps states stay in registers: two, where they are wider than results, of rows with gaps.

    Then as much is stored of states as of results: a quarter less time for slices of (105, 40, 1920) and (64, 65536)
    float32 on one thread. With results that stay in the cache, or rows that follow each other, it brought nothing.
    """
    to, modes = to_b.to, usual_modes(rule)
    is_usual = to_a.mode == modes[0] and to_b.mode == STORE and (to_a.mode == STORE or to_a.sums.step == 0)
    same_lines = to.step % LINE == 0 and (to_a.mode != STORE or to_a.to.step % LINE == 0)
    has_gaps = abs(to.step) != lanes * itemsize(to.at)
    return TWO if itemsize(carry) > itemsize(to.at) and streaming and is_usual and same_lines and has_gaps else ONE


@inlined
def find_gradient(x, row, outer, lane, part):
    """Return a gradient of a row; its sums are ``part`` bytes behind the first ones."""
    sums = find(x.sums, ZERO, row, outer, ZERO if x.mode == REDUCE else lane)
    sums = Operand(shift(sums.at, part), sums.step, sums.row, sums.outer)
    return Gradient(find(x.to, ZERO, row, outer, lane), sums, x.mode, x.streaming)


@inlined
def find_inputs(rule, x, t, row, outer, lane):
    """Return a gradient's operands at a step, and the results before it."""
    g, a = ZERO if g_is_broadcast(rule) else lane, ZERO if a_is_broadcast(rule) else lane
    b, h = ZERO if b_is_broadcast(rule) else lane, ZERO if h_is_broadcast(rule) else lane
    before, first = find(x.h, t - 1, row, outer, h), at_place(x.first, ZERO, row, outer, lane)
    return Inputs(find(x.g, t, row, outer, g), find(x.a, t, row, outer, a), find(x.b, t, row, outer, b), before, first)


@inlined
def prepare_row(x, carry, lanes, t, start, stop, end):
    """Write zeros to a gradient of steps that are not valid, if it is stored; return it at the last valid one."""
    if x.mode == STORE:
        clear_steps(x.to, carry, lanes, t, start)
        clear_steps(x.to, carry, lanes, stop, end)
    return gradient_later(x, stop - 1)


@inlined
def prefault_gradient(x, geometry, outer, done, span):
    """Touch the large pages of a gradient that will be reached soon, if it is stored."""
    steps = load_int(geometry, N_STEPS)
    if x.mode == STORE:
        prefault(find(x.to, steps - 1, ZERO, outer, ZERO), geometry, done, span, steps, -ONE)


def vjp(
    rule, g, a, b, h, h0, carry, to_a, to_b, sums_a, sums_b, lengths, geometry, outer_first, outer_last, row_first,
    row_last, lane_first, lane_last,
):  # fmt: skip
    """Take steps against scan order; ``carry`` holds the last states' cotangents, then the first states'."""
    steps, streaming, sum_steps = (
        load_int(geometry, N_STEPS),
        load_int(geometry, STREAMING) != 0,
        load_int(geometry, SUM_STEPS),
    )
    rows, lanes = row_last - row_first, lane_last - lane_first
    all_g, all_a, all_b = operand(g, geometry, G), operand(a, geometry, A), operand(b, geometry, B)
    inputs = Inputs(all_g, all_a, all_b, operand(h, geometry, H), operand(h0, geometry, CARRY))
    all_lengths, states = operand(lengths, geometry, LENGTHS), operand(carry, geometry, CARRY)
    a_mode, b_mode = load_int(geometry, A_MODE), load_int(geometry, B_MODE)
    gradient_a = Gradient(operand(to_a, geometry, TO_A), operand(sums_a, geometry, SUMS_A), a_mode, NO)
    gradient_b = Gradient(operand(to_b, geometry, TO_B), operand(sums_b, geometry, SUMS_B), b_mode, NO)
    # Who touches pages goes by few steps, which a sum over rows must not depend on.
    must_prefault = load_int(geometry, PREFAULT_THREADS) != 0 and b_mode != REDUCE
    row_way = -ONE if inputs.h.step > 0 else ONE
    unroll = vjp_unroll(rule, carry, lanes, streaming, gradient_a, gradient_b)
    chunk, at_once = FOUR, unroll if rows == 1 else FOUR
    if rows == 1 and not must_prefault:
        chunk = NARROW_STEPS if is_narrow(rule) else steps
    count = rows_ahead(geometry, lanes * itemsize(h), at_once)
    for outer in range(outer_first, outer_last):
        ago = ZERO
        while ago < steps:
            span, part = minimum(chunk, steps - ago), ZERO
            if sum_steps > 0:
                span = minimum(span, sum_steps - ago % sum_steps)
                part = ago // sum_steps * load_int(geometry, SUM_BYTES)
            t, end = steps - ago - span, steps - ago
            if must_prefault:
                prefault_gradient(gradient_a, geometry, outer, ago, span)
                prefault_gradient(gradient_b, geometry, outer, ago, span)
            for k in range(rows):
                row = row_first + k if row_way > 0 else row_last - 1 - k
                start, stop, has_first = valid_part(all_lengths, row, outer, geometry, t, end)
                some_a = find_gradient(gradient_a, row, outer, lane_first, part)
                some_b = find_gradient(gradient_b, row, outer, lane_first, ZERO)
                some_a = prepare_row(some_a, carry, lanes, t, start, stop, end)
                some_b = prepare_row(some_b, carry, lanes, t, start, stop, end)
                here = find_inputs(rule, inputs, stop - 1, row, outer, lane_first)
                far = distance(rule, geometry, count, k, rows, at_once, -ONE, row_way)
                scan = Scan(lanes, unroll, streaming, row_way, far, ends_distance(rows, -ONE, row_way))
                state = at_place(states, ZERO, row, outer, lane_first)
                vjp_row(rule, state, here, some_a, some_b, stop - start, has_first, scan)
            ago += span
    if streaming:
        fence()

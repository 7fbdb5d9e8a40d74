"""Rows of many series, vector by vector.

The states of a row stand in a buffer of the carry type, which every step advances and writes out: each operand is read
once, each result written once, and the buffer stays in the cache. Where rows allow, states stay in registers for some
steps. What fills no vector, and by non-temporal stores what fills no line, is taken one by one.
What they compute is `rows.plain`.
"""

from collections import namedtuple

from ..._plan.layout import ACCUMULATE, REDUCE, STORE
from ..._plan.widths import LINE
from ..._steps.recurrence import constant, select
from ..compiler.numba_internals import helper, inlined
from ..vectors.scalars import itemsize, load, maximum, minimum, misalignment, prefetch, prefetch_for_write, store, width
from ..vectors.vectors import broadcast, load_mask, load_one_mask, load_vector, store_vector, stream_vector, total
from . import operands, rules
from .operands import FOUR, NO, ONE, THREE, TWO, YES, ZERO, Gradient, bytes_of, gradient_later, inputs_later, later
from .rules import a_is_broadcast, b_is_broadcast, begins_anew, g_is_broadcast, h_is_broadcast, retreat

L1_BYTES = 16 << 10  # of states that stay in the first level of the cache beside the operands
SHORT, SHORT_BROADCAST = 32, 128  # series of a row below which a step waits for the states that the last one stored

Vectors = namedtuple("Vectors", "begin stride count")  # of a row, in elements
Step = namedtuple("Step", "a b h flags one_a one_b one_flag")  # operands; a vector of what is one value for the row
Flags = namedtuple("Flags", "row none")  # of a step: where they stand; whether it has none, whatever stands there


@inlined
def lanes_to_line(target, n):
    """Return how many of n elements stand before the next cache line starts."""
    return minimum(n, ((LINE - misalignment(target)) % LINE) // itemsize(target))


@inlined
def whole_vectors(target, carry, n, streaming):
    """Return how many vectors there are in n elements; by non-temporal stores, only such as fill their lines."""
    count = n // width(carry)
    if streaming:
        count -= count % maximum(1, LINE // (width(carry) * itemsize(target)))
    return count


@inlined
def end_lane(k, head, tail):
    """Return the k-th of the series before ``head`` and from ``tail`` on, which are taken one by one."""
    return k if k < head else tail + k - head


@helper
def settle_lane(target, sums, j, value, mode):
    """Store one series' number or add it to a sum."""
    if mode == STORE:
        store(target, j, value)
    elif mode == ACCUMULATE:
        store(sums, j, load(sums, j, sums) + value)
    elif mode == REDUCE:
        store(sums, 0, load(sums, 0, sums) + value)


@inlined
def prefetch_ends(x, scan, head, tail):
    """Prefetch the lines that a later row of results fills in part: up to half the time for slices of rows."""
    if head > 0:
        prefetch_for_write(x.at, 0, bytes_of(x, scan.ends))
    if tail < scan.lanes:
        prefetch_for_write(x.at, scan.lanes - 1, bytes_of(x, scan.ends))


@inlined
def vectors_of(head, count, scan, carry):
    """Return the vectors of a row behind its first ``head`` elements, in the order of memory in which all is met."""
    if scan.row_way < 0:
        return Vectors(head + (count - 1) * width(carry), -width(carry), count)
    return Vectors(head, width(carry), count)


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
        prefetch_for_write(x.at, j, bytes_of(x, far))
        store_vector(x.at, j, value)


@inlined
def flags_of(rule, scan, t, is_first):
    """Return the flags of step t of those that are taken: of a series' ``first`` one perhaps none."""
    none = rules.flags_are_late(rule) and is_first and scan.begins
    return Flags(later(scan.flags, t + ONE if none else t), none)


@inlined
def step_at(rule, a, b, h, t, n, carry, scan):
    a_now, b_now, flags = later(a, n), later(b, n), flags_of(rule, scan, t + n, t + n == 0)
    one_a, one_b, one_flag = one_value(a_now, carry), one_value(b_now, carry), load_one_mask(flags.row.at, carry)
    return Step(a_now, b_now, later(h, n), flags, one_a, one_b, one_flag)


@inlined
def fresh_at(rule, one, flags, j, carry, like):
    """Return in which lanes of a vector a step begins anew; ``one`` is the flag of the row, if there is one for it.

    Without flags nobody looks at that, and nothing is left of it in compiled code.
    """
    fresh = one if rules.flag_is_broadcast(rule) else load_mask(flags.row.at, j, carry)
    return select(flags.none, like < like, fresh) if rules.flags_are_late(rule) else fresh


@inlined
def advance(rule, state, carry, j, streaming, far, now):
    """Take a vector by a step, write it and return it."""
    gate = vector(a_is_broadcast(rule), now.one_a, now.a, j, carry, far)
    value = vector(b_is_broadcast(rule), now.one_b, now.b, j, carry, far)
    new = rules.advance(rule, fresh_at(rule, now.one_flag, now.flags, j, carry, state), state, gate, value)
    put(now.h, j, new, streaming, far)
    return new


@inlined
def forward_vectors(rule, n, a, b, h, t, carry, streaming, vectors, scan):
    """Take a row's vectors by step t; or by four, for which states stay in registers."""
    s0, far = step_at(rule, a, b, h, t, ZERO, carry, scan), scan.far
    s1, s2, s3 = s0, s0, s0
    if n == FOUR:
        s1, s2 = step_at(rule, a, b, h, t, ONE, carry, scan), step_at(rule, a, b, h, t, TWO, carry, scan)
        s3 = step_at(rule, a, b, h, t, THREE, carry, scan)
    for k in range(vectors.count):
        j = vectors.begin + k * vectors.stride
        state = advance(rule, load_vector(carry, j, carry), carry, j, streaming, far, s0)
        if n == FOUR:
            state = advance(rule, state, carry, j, streaming, far, s1)
            state = advance(rule, state, carry, j, streaming, far, s2)
            state = advance(rule, state, carry, j, streaming, far, s3)
        store_vector(carry, j, state)


@helper
def forward_ends(rule, carry, a, b, h, flags, head, tail, lanes):
    """Take series that fill no vector by a step."""
    for k in range(head + lanes - tail):
        j = end_lane(k, head, tail)
        gate = load(a.at, 0 if a_is_broadcast(rule) else j, carry)
        value = load(b.at, 0 if b_is_broadcast(rule) else j, carry)
        fresh = begins_anew(flags.row.at, 0 if rules.flag_is_broadcast(rule) else j, carry) and not flags.none
        new = rules.advance(rule, fresh, load(carry, j, carry), gate, value)
        store(carry, j, new)
        store(h.at, j, new)


@inlined
def forward_row(rule, carry, a, b, h, steps, scan):
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
                a_k, b_k, flags_k = later(a_now, k), later(b_now, k), flags_of(rule, scan, t + k, t + k == 0)
                forward_ends(rule, carry, a_k, b_k, to, flags_k, head, tail, scan.lanes)
        vectors = vectors_of(head, count, scan, carry)
        # Known to the compiler: a loop that asks for each vector and step has up to twice the instructions.
        if n == ONE:
            forward_vectors(rule, ONE, a_now, b_now, h_now, t, carry, scan.streaming, vectors, scan)
        elif scan.streaming:
            forward_vectors(rule, FOUR, a_now, b_now, h_now, t, carry, YES, vectors, scan)
        else:
            forward_vectors(rule, FOUR, a_now, b_now, h_now, t, carry, NO, vectors, scan)
        t += n


@inlined
def forward_unroll(rule, carry, h, lanes, head):
    """Return for how many steps states stay in registers, four or one."""
    if head.streaming and h.step % LINE != 0:  # the four steps' whole lines are to be of the same series
        return ONE
    if lanes * itemsize(carry) > L1_BYTES:
        return FOUR
    # States that stay in the first level of the cache and are no wider than the data cost little.
    if itemsize(carry) == itemsize(h.at):
        return ONE
    # Rows that follow each other in memory come as fast as the processor's own prefetcher, which follows one best.
    is_far = head.streaming or head.prefetch != 0
    is_long = lanes >= (SHORT_BROADCAST if a_is_broadcast(rule) else SHORT)
    return ONE if is_far and is_long and abs(h.step) == lanes * itemsize(h.at) else FOUR


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
def vjp_ends(rule, carry, x, flags, to_a, to_b, is_first, head, tail, lanes):
    """Take series that fill no vector back by a step."""
    for k in range(head + lanes - tail):
        j = end_lane(k, head, tail)
        before = load(x.first, j, carry) if is_first else load(x.h.at, 0 if h_is_broadcast(rule) else j, carry)
        arrived = load(x.g.at, 0 if g_is_broadcast(rule) else j, carry) + load(carry, j, carry)
        gate = load(x.a.at, 0 if a_is_broadcast(rule) else j, carry)
        value = load(x.b.at, 0 if b_is_broadcast(rule) else j, carry)
        fresh = begins_anew(flags.row.at, 0 if rules.flag_is_broadcast(rule) else j, carry) and not flags.none
        grad_a, grad_b, onward = retreat(rule, fresh, arrived, gate, value, before)
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
    return operands.Inputs(g, a, b, h, g)


@inlined
def take_back(rule, x, flags, one, r, j, to_a, to_b, is_first, totals, far):
    """Take a vector ``r`` of cotangents back by a step; return it and what is reduced over rows."""
    if is_first:
        before = load_vector(x.first, j, x.first)
    else:
        before = vector(h_is_broadcast(rule), one.h, x.h, j, x.first, far)
    arrived = vector(g_is_broadcast(rule), one.g, x.g, j, x.first, far) + r
    gate = vector(a_is_broadcast(rule), one.a, x.a, j, x.first, far)
    value = vector(b_is_broadcast(rule), one.b, x.b, j, x.first, far)
    fresh = fresh_at(rule, load_one_mask(flags.row.at, x.first), flags, j, x.first, r)
    grad_a, grad_b, r = retreat(rule, fresh, arrived, gate, value, before)
    return r, (settle(to_a, j, grad_a, totals[0], far), settle(to_b, j, grad_b, totals[1], far))


@inlined
def vjp_vectors(rule, x, flags, carry, to_a, to_b, is_first, vectors, far, totals):
    """Take a row's vectors back by a step; return what is reduced over rows, added to ``totals``."""
    one = one_values(rule, x, carry, is_first)
    for k in range(vectors.count):
        j = vectors.begin + k * vectors.stride
        r, totals = take_back(rule, x, flags, one, load_vector(carry, j, carry), j, to_a, to_b, is_first, totals, far)
        store_vector(carry, j, r)
    return totals


@inlined
def usual_modes(rule):
    """Return the output modes of most gradients of a rule."""
    return REDUCE if a_is_broadcast(rule) else STORE, REDUCE if rules.b_is_reduced(rule) else STORE


@inlined
def vjp_step(rule, x, flags, carry, to_a, to_b, is_first, scan, totals):
    """Take a row back by a step; return what is reduced over rows, added to ``totals``."""
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
        if a_streaming:
            prefetch_ends(to_a.to, scan, head, tail)
        if b_streaming:
            prefetch_ends(to_b.to, scan, head, tail)
        vjp_ends(rule, carry, x, flags, to_a, to_b, is_first, head, tail, scan.lanes)
    vectors = vectors_of(head, count, scan, carry)
    # What most gradients are is known to the compiler: a loop that asks for each vector has twice the instructions, and
    # takes up to a fifth longer in the cache.
    a_usual, b_usual = usual_modes(rule)
    to_b = Gradient(to_b.to, to_b.sums, to_b.mode, b_streaming)
    a_known = Gradient(to_a.to, to_a.sums, a_usual, a_streaming)
    b_known = Gradient(to_b.to, to_b.sums, b_usual, b_streaming)
    is_usual = to_b.mode == b_usual and not is_first
    if is_usual and to_a.mode == a_usual:
        return vjp_vectors(rule, x, flags, carry, a_known, b_known, NO, vectors, scan.far, totals)
    if is_usual and to_a.mode == ACCUMULATE:
        a_known = Gradient(to_a.to, to_a.sums, ACCUMULATE, NO)
        return vjp_vectors(rule, x, flags, carry, a_known, b_known, NO, vectors, scan.far, totals)
    a_any = Gradient(to_a.to, to_a.sums, to_a.mode, a_streaming)
    return vjp_vectors(rule, x, flags, carry, a_any, to_b, is_first, vectors, scan.far, totals)


@inlined
def vjp_row(rule, carry, x, to_a, to_b, steps, has_first, scan):
    """Take a row back by some steps, the last of which has the first states before it, or (0) not."""
    zero = broadcast(constant(0.0, load(carry, 0, carry)))
    total_a, total_b = zero, zero
    for ago in range(steps):
        is_last = ago + 1 == steps
        now, a_now, b_now = inputs_later(x, -ago), gradient_later(to_a, -ago), gradient_later(to_b, -ago)
        is_first = is_last and has_first != 0
        flags = flags_of(rule, scan, -ago, is_first)
        total_a, total_b = vjp_step(rule, now, flags, carry, a_now, b_now, is_first, scan, (total_a, total_b))
        if to_a.mode == REDUCE and (is_last or to_a.sums.step != 0):
            settle_lane(a_now.to.at, a_now.sums.at, ZERO, total(total_a), REDUCE)
            total_a = zero
        if to_b.mode == REDUCE and (is_last or to_b.sums.step != 0):
            settle_lane(b_now.to.at, b_now.sums.at, ZERO, total(total_b), REDUCE)
            total_b = zero

"""Kernels for series in any layout, and of any length: those that the other traversals do not take.

A block of some steps of some series is walked, then the series' next steps. Operands and results whose series are
neighbours stay where they are; of the others blocks are packed, see `_packing`. Arithmetic is by vectors of series.
"""

from .. import _layout
from .._layout import A_MODE, ACCUMULATE, B_MODE, N_STEPS, STORE, STREAMING
from .._steps import constant, select
from ._numba import INLINE, helper, inlined
from ._packing import (
    MANY_SERIES,
    PANEL,
    add,
    is_along,
    is_in_place,
    load_states,
    load_valid,
    next_block,
    operand_of,
    pack,
    pad,
    panel_view,
    shape_of,
    store_states,
    unpack,
    view_in,
    with_steps,
)
from ._rules import adjoint, choice, decay, flags_of, lengths_of, step, uses_factor
from ._scalars import fence, load, load_int, maximum, minimum, misalignment, prefetch, shift, stack, width
from ._vectors import broadcast, load_vector, store_vector, stream_vector

A, B, H, G, LENGTHS, FLAGS = _layout.A, _layout.B, _layout.H, _layout.G, _layout.LENGTHS, _layout.FLAGS
STATES = MANY_SERIES
TOGETHER = 4  # steps that a vector takes at once: rows may stand in a page each (a fifth, where 64 steps are walked)
AHEAD = 16  # steps before whose turn numbers that are walked in place are prefetched, where results are streamed


@inlined
def where_valid(now, begin, end, yes, no):
    """Return a vector of ``yes`` in the series of which this step is valid, else of ``no``."""
    return select(now < begin, no, select(now < end, yes, no))


@inlined
def number(t, states):
    """Return a number of steps in a vector of the carry type."""
    return broadcast(constant(float(t), load(states, 0, states)))


@inlined
def store_step(streams, view, k, j, value):
    """Write a vector of results."""
    if streams:
        stream_vector(shift(view.pointer, k * view.time), j, value)
    else:
        store_vector(shift(view.pointer, k * view.time), j, value)


@inlined
def load_step(view, k, j, carry):
    """Return a vector of a step's numbers."""
    return load_vector(shift(view.pointer, k * view.time), j, carry)


@inlined
def fresh_at(flags, k, j, states):
    """Return in which series a step begins anew."""
    return broadcast(constant(0.0, load(states, 0, states))) < load_step(flags, k, j, states)


@inlined
def _cleared(rule, states, flags, k, j, value):
    return select(fresh_at(flags, k, j, states), broadcast(constant(0.0, load(states, 0, states))), value)


@inlined
def _cleared_factor(rule, states, flags, k, j, value):
    return value if uses_factor(rule) else _cleared(rule, states, flags, k, j, value)


@inlined
def _kept(rule, states, flags, k, j, value):
    return value


# A vector, zero where a step begins anew: a state, or what flows on to it; and a linear recurrence's coefficient, or
# its gradient.
cleared = choice("flagged", _cleared, _kept, options=INLINE)
cleared_factor = choice("flagged", _cleared_factor, _kept, options=INLINE)


@inlined
def _with_flags(rule, series, panel, marks, geometry, block):
    return *series, pack(panel, operand_of(marks.flags, geometry, FLAGS), geometry, block)


@inlined
def _without(rule, series, *others):
    return series


@inlined
def _last_of(rule, series, other):
    return series[-1]


@inlined
def _other(rule, series, other):
    return other


# A block's series, with their flags behind all else, if flags are read; and these flags, or something else.
with_flags = choice("flagged", _with_flags, _without, options=INLINE)
flags_in = choice("flagged", _last_of, _other, options=INLINE)


@inlined
def walk_vectors(rule, is_ragged, streams, a, b, h, series, block):
    """Advance a block's series; ``series`` are their states and valid steps."""
    states, begins, ends, flags = series[0], series[1], series[2], flags_in(rule, series, h)
    zero = broadcast(constant(0.0, load(states, 0, states)))
    for from_ in range(0, block.steps, TOGETHER):
        to = minimum(block.steps, from_ + TOGETHER)
        for j in range(0, block.count, width(states)):
            begin, end = load_vector(begins, j, states), load_vector(ends, j, states)
            state = load_vector(states, j, states)
            for k in range(from_, to):
                if streams:
                    prefetch(a.pointer, j, (k + AHEAD) * a.time)
                    prefetch(b.pointer, j, (k + AHEAD) * b.time)
                gate = cleared_factor(rule, states, flags, k, j, load_step(a, k, j, states))
                new = step(rule, cleared(rule, states, flags, k, j, state), gate, load_step(b, k, j, states))
                result = new
                if is_ragged:
                    now = number(block.t - block.epoch + k, states)
                    result, new = where_valid(now, begin, end, new, zero), where_valid(now, begin, end, new, state)
                store_step(streams, h, k, j, result)
                state = new
            store_vector(states, j, state)


@helper
def walk(rule, is_ragged, streams, a, b, h, series, block):
    """Advance a block's series."""
    if is_ragged:
        walk_vectors(rule, True, False, a, b, h, series, block)
    elif streams:
        walk_vectors(rule, False, True, a, b, h, series, block)
    else:
        walk_vectors(rule, False, False, a, b, h, series, block)


@helper
def walk_flagged(rule, is_ragged, streams, a, b, h, series, block):
    walk_vectors(rule, True, False, a, b, h, series, block)


# Where flags are read, one way for all blocks: to compile three takes three times as long.
walk_any = choice("flagged", walk_flagged, walk, options=INLINE)


@inlined
def may_stream(operand, view, block):
    """Return whether what is written in place fills whole lines."""
    return is_in_place(operand, block) and view.time % 64 == 0 and misalignment(view.pointer) == 0


def forward(rule, a, b, h, carry, lengths, geometry, first, last):
    """Walk series ``first`` to ``last``; ``carry`` holds the first states, then the last."""
    steps, streams = load_int(geometry, N_STEPS), load_int(geometry, STREAMING) != 0
    a_all, b_all, h_all = operand_of(a, geometry, A), operand_of(b, geometry, B), operand_of(h, geometry, H)
    lengths_all = operand_of(lengths_of(rule, lengths), geometry, LENGTHS)
    a_panel, b_panel, h_panel, flags_panel = (
        stack(a, PANEL),
        stack(b, PANEL),
        stack(h, PANEL),
        stack(flags_of(rule, lengths, h), PANEL),
    )
    series = states, begins, ends = stack(carry, STATES), stack(carry, STATES), stack(carry, STATES)
    most, span = shape_of(geometry, is_along(a_all) or is_along(b_all) or is_along(h_all))
    ahead = span if streams else 0
    while first < last:
        block = next_block(geometry, first, last, most, carry)
        load_states(states, carry, block)
        pad(a_panel, a_all, geometry, block, minimum(span, steps))
        pad(b_panel, b_all, geometry, block, minimum(span, steps))
        latest, earliest, epoch = 0, steps, -1
        for t in range(0, steps, span):
            block = with_steps(block, t, minimum(span, steps - t), ahead)
            if block.epoch != epoch:
                latest, earliest = load_valid(begins, ends, lengths_all, geometry, block)
                epoch = block.epoch
            a_now, b_now = pack(a_panel, a_all, geometry, block), pack(b_panel, b_all, geometry, block)
            h_now = view_in(h_panel, h_all, geometry, block)
            series_now = with_flags(rule, series, flags_panel, lengths, geometry, block)
            is_ragged = t < latest or t + block.steps > earliest
            may = streams and may_stream(h_all, h_now, block)
            walk_any(rule, is_ragged, may, a_now, b_now, h_now, series_now, block)
            unpack(h_all, h_now, geometry, block, streams)
        store_states(carry, states, block)
        first += block.count
    if streams:
        fence()


@inlined
def walk_vectors_back(rule, is_ragged, streams, g, a, b, h, to_a, to_b, series, block):
    """Take a block's cotangents to the step before its first one."""
    states, firsts, begins, ends, flags = series[0], series[1], series[2], series[3], flags_in(rule, series, h)
    zero = broadcast(constant(0.0, load(states, 0, states)))
    for from_ in range(0, block.steps, TOGETHER):
        most, least = block.steps - 1 - from_, maximum(block.steps - TOGETHER - from_, 0)
        for j in range(0, block.count, width(states)):
            begin, end = load_vector(begins, j, states), load_vector(ends, j, states)
            first, r = load_vector(firsts, j, states), load_vector(states, j, states)
            for k in range(most, least - 1, -1):
                if streams:
                    prefetch(g.pointer, j, (k - AHEAD) * g.time)
                    prefetch(a.pointer, j, (k - AHEAD) * a.time)
                    prefetch(b.pointer, j, (k - AHEAD) * b.time)
                    prefetch(h.pointer, j, (k - AHEAD) * h.time)
                before, now = load_step(h, k, j, states), number(block.t - block.epoch + k, states)
                if is_ragged:
                    before = select(begin == now, first, before)
                arrived = load_step(g, k, j, states) + r
                before = cleared(rule, states, flags, k, j, before)
                gate = cleared_factor(rule, states, flags, k, j, load_step(a, k, j, states))
                grad_a, grad_b, r_new = adjoint(rule, arrived, gate, load_step(b, k, j, states), before)
                grad_a = cleared_factor(rule, states, flags, k, j, grad_a)
                r_new = cleared(rule, states, flags, k, j, r_new)
                if is_ragged:
                    grad_a = where_valid(now, begin, end, grad_a, zero)
                    grad_b = where_valid(now, begin, end, grad_b, zero)
                    r_new = where_valid(now, begin, end, r_new, r)
                store_step(streams, to_a, k, j, grad_a)
                store_step(streams, to_b, k, j, grad_b)
                r = r_new
            store_vector(states, j, r)


@helper
def walk_back(rule, is_ragged, streams, g, a, b, h, to_a, to_b, series, block):
    """Take a block's cotangents back; ``h`` are the states before."""
    if is_ragged:
        walk_vectors_back(rule, True, False, g, a, b, h, to_a, to_b, series, block)
    elif streams:
        walk_vectors_back(rule, False, True, g, a, b, h, to_a, to_b, series, block)
    else:
        walk_vectors_back(rule, False, False, g, a, b, h, to_a, to_b, series, block)


@helper
def walk_flagged_back(rule, is_ragged, streams, g, a, b, h, to_a, to_b, series, block):
    walk_vectors_back(rule, True, False, g, a, b, h, to_a, to_b, series, block)


walk_any_back = choice("flagged", walk_flagged_back, walk_back, options=INLINE)


@inlined
def view_to(panel, operand, mode, geometry, block):
    """Return where a gradient is walked: what is not stored as it is, in a panel."""
    if mode == STORE:
        return view_in(panel, operand, geometry, block)
    return panel_view(panel, block)


@helper
def store_gradient(operand, sums, mode, view, geometry, block, streams):
    """Bring a gradient where it belongs."""
    if mode == STORE:
        unpack(operand, view, geometry, block, streams)
    elif mode == ACCUMULATE:
        add(sums, view, geometry, block)


def vjp(rule, g, a, b, h, h0, carry, to_a, to_b, sums_a, sums_b, lengths, geometry, first, last):
    """Walk series back; ``carry`` holds the last states' cotangents, then the first states'."""
    steps, streams = load_int(geometry, N_STEPS), load_int(geometry, STREAMING) != 0
    a_mode, b_mode = load_int(geometry, A_MODE), load_int(geometry, B_MODE)
    g_all, a_all = operand_of(g, geometry, G), operand_of(a, geometry, A)
    b_all, h_all = operand_of(b, geometry, B), operand_of(h, geometry, H)
    to_a_all, to_b_all = operand_of(to_a, geometry, _layout.TO_A), operand_of(to_b, geometry, _layout.TO_B)
    sums_a_all, sums_b_all = operand_of(sums_a, geometry, _layout.SUMS_A), operand_of(sums_b, geometry, _layout.SUMS_B)
    lengths_all = operand_of(lengths_of(rule, lengths), geometry, LENGTHS)
    g_panel, a_panel, b_panel, h_panel = stack(g, PANEL), stack(a, PANEL), stack(b, PANEL), stack(h, PANEL)
    to_a_panel, to_b_panel, flags_panel = (
        stack(to_a, PANEL),
        stack(to_b, PANEL),
        stack(flags_of(rule, lengths, h), PANEL),
    )
    states, firsts, begins, ends = (
        stack(carry, STATES),
        stack(carry, STATES),
        stack(carry, STATES),
        stack(carry, STATES),
    )
    series = states, firsts, begins, ends
    along = is_along(g_all) or is_along(a_all) or is_along(b_all) or is_along(h_all)
    most, span = shape_of(geometry, along or is_along(to_a_all) or is_along(to_b_all))
    ahead = span if streams else 0
    while first < last:
        block = next_block(geometry, first, last, most, carry)
        load_states(states, carry, block)
        load_states(firsts, h0, block)
        rows = minimum(span, steps)
        pad(g_panel, g_all, geometry, block, rows)
        pad(a_panel, a_all, geometry, block, rows)
        pad(b_panel, b_all, geometry, block, rows)
        pad(h_panel, h_all, geometry, block, rows)
        latest, earliest, epoch, end = 0, steps, -1, steps
        while end > 0:
            # The first step, before which there is no result, is a block of its own: its result is read in vain.
            t = maximum((end - 1) // span * span, 1 if end > 1 else 0)
            block = with_steps(block, t, end - t, -ahead)
            if block.epoch != epoch:
                latest, earliest = load_valid(begins, ends, lengths_all, geometry, block)
                epoch = block.epoch
            g_now, a_now = pack(g_panel, g_all, geometry, block), pack(a_panel, a_all, geometry, block)
            b_now = pack(b_panel, b_all, geometry, block)
            h_now = pack(h_panel, h_all, geometry, with_steps(block, maximum(t - 1, 0), end - t, -ahead))
            to_a_now = view_to(to_a_panel, to_a_all, a_mode, geometry, block)
            to_b_now = view_to(to_b_panel, to_b_all, b_mode, geometry, block)
            series_now = with_flags(rule, series, flags_panel, lengths, geometry, block)
            walk_any_back(
                rule, t <= latest or end > earliest,
                streams and may_stream(to_a_all, to_a_now, block) and may_stream(to_b_all, to_b_now, block),
                g_now, a_now, b_now, h_now, to_a_now, to_b_now, series_now, block,
            )  # fmt: skip
            store_gradient(to_a_all, sums_a_all, a_mode, to_a_now, geometry, block, streams)
            store_gradient(to_b_all, sums_b_all, b_mode, to_b_now, geometry, block, streams)
            end = t
        store_states(carry, states, block)
        first += block.count
    if streams:
        fence()


@inlined
def onward(rule, is_back, state, a, b):
    """Return the state after a step; going back, the cotangent that flows on from it: ``h`` and ``b`` do not matter."""
    return adjoint(rule, b + state, a, b, state)[2] if is_back else step(rule, state, a, b)


@helper
def sum_up(rule, is_back, is_ragged, a, b, series, block):
    """Advance a block's states, and multiply its products by what that multiplies a state by."""
    states, products, begins, ends = series
    for j in range(0, block.count, width(states)):
        begin, end = load_vector(begins, j, states), load_vector(ends, j, states)
        state, product = load_vector(states, j, states), load_vector(products, j, states)
        for k in range(block.steps):
            gate = load_step(a, k, j, states)
            now, new = product * decay(rule, gate), onward(rule, is_back, state, gate, load_step(b, k, j, states))
            if is_ragged:
                at = number(block.t - block.epoch + k, states)
                now, new = where_valid(at, begin, end, now, product), where_valid(at, begin, end, new, state)
            state, product = new, now
        store_vector(states, j, state)
        store_vector(products, j, product)


@helper
def summarise(rule, is_back, a, b, carry, products, lengths, geometry, first, last):
    """Walk series and keep nothing for a step."""
    steps = load_int(geometry, N_STEPS)
    a_all, b_all = operand_of(a, geometry, A), operand_of(b, geometry, B)
    lengths_all = operand_of(lengths, geometry, LENGTHS)
    a_panel, b_panel = stack(a, PANEL), stack(b, PANEL)
    states, own = stack(carry, STATES), stack(carry, STATES)
    begins, ends = stack(carry, STATES), stack(carry, STATES)
    most, span = shape_of(geometry, is_along(a_all) or is_along(b_all))
    while first < last:
        block = next_block(geometry, first, last, most, carry)
        load_states(states, carry, block)
        load_states(own, products, block)
        pad(a_panel, a_all, geometry, block, minimum(span, steps))
        pad(b_panel, b_all, geometry, block, minimum(span, steps))
        latest, earliest, epoch = 0, steps, -1
        for t in range(0, steps, span):
            block = with_steps(block, t, minimum(span, steps - t), span)
            if block.epoch != epoch:
                latest, earliest = load_valid(begins, ends, lengths_all, geometry, block)
                epoch = block.epoch
            a_now, b_now = pack(a_panel, a_all, geometry, block), pack(b_panel, b_all, geometry, block)
            is_ragged = t < latest or t + block.steps > earliest
            sum_up(rule, is_back, is_ragged, a_now, b_now, (states, own, begins, ends), block)
        store_states(carry, states, block)
        store_states(products, own, block)
        first += block.count


def summary(rule, a, b, carry, products, lengths, geometry, first, last):
    """Bring states and products from before a stretch of time to behind it: ``h -> product*h + carry``."""
    summarise(rule, False, a, b, carry, products, lengths, geometry, first, last)


def summary_back(rule, a, b, carry, products, lengths, geometry, first, last):
    """Do so with cotangents of states, in ``b``; ``geometry`` is that of the other direction."""
    summarise(rule, True, a, b, carry, products, lengths, geometry, first, last)

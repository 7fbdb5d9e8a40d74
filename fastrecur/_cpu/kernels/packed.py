"""Kernels for series in any layout, and of any length: those that the other traversals do not take.

A block of some steps of some series is walked, then the series' next steps. Operands and results whose series are
neighbours stay where they are; of the others blocks are packed, see `packing`. Arithmetic is by vectors of series.
What they compute is `rows.plain`.
"""

from ..._plan import layout
from ..._plan.layout import A_MODE, ACCUMULATE, B_MODE, N_STEPS, STORE, STREAMING, Given, Marks, Results
from ..._steps.recurrence import constant, select
from ..compiler.numba_internals import INLINE, helper, inlined
from ..vectors.scalars import fence, load, load_int, maximum, minimum, misalignment, prefetch, shift, stack, width
from ..vectors.vectors import broadcast, load_vector, store_vector, stream_vector
from . import operands, packing
from .operands import NO, YES, ZERO, segment_at, states_of
from .packing import is_along, load_states, operand_of, pack, pad, panel, store_states, unpack, view_in, with_steps
from .rules import adjoint, advance, choice, decay, flag_step, flags_are_late, is_flagged, retreat, step, trait

A, B, H, G, LENGTHS, FLAGS = layout.A, layout.B, layout.H, layout.G, layout.LENGTHS, layout.FLAGS
STATES = packing.MANY_SERIES
TOGETHER = 4  # steps that a vector takes at once: rows may stand in a page each (a fifth, where 64 steps are walked)
AHEAD = 16  # steps before whose turn numbers that are walked in place are prefetched, where results are streamed

is_summary, is_back = map(trait, ("summary", "back"))


@inlined
def load_block(states, carry, block):
    """Take the states of a block's series; the last one is repeated to fill vectors."""
    load_states(states, carry, block.first, block.count, packing.round_up(block.count, states))


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
    if streams:
        stream_vector(shift(view.at, k * view.step), j, value)
    else:
        store_vector(shift(view.at, k * view.step), j, value)


@inlined
def load_step(view, k, j, carry):
    return load_vector(shift(view.at, k * view.step), j, carry)


@inlined
def fresh_at(rule, flags, k, j, states, begin, now):
    """Return in which series a step begins anew; nothing is left of that in compiled code where no flags are read.

    A series' first valid step has no late flag.
    """
    zero = broadcast(constant(0.0, load(states, 0, states)))
    flag = load_step(flags, k, j, states)
    return zero < (select(begin < now, flag, zero) if flags_are_late(rule) else flag)


@inlined
def pack_flags(rule, panel, operand, geometry, block):
    """Return a block's flags, if they are read; late ones of a series' first step in vain."""
    block = with_steps(block, flag_step(rule, block.t), block.steps, block.ahead)
    return pack(panel, operand, geometry, block) if is_flagged(rule) else packing.panel_view(panel, block)


@inlined
def _valid_in_segment(rule, begins, ends, lengths, geometry, own, block):
    """Do as `packing.load_valid` for series of which a segment's steps are valid."""
    first = number(own.first - block.epoch, begins)
    for j in range(0, block.count, width(begins)):
        store_vector(begins, j, first)
        store_vector(ends, j, number(own.stop - block.epoch, begins))
    return own.first, own.stop


@inlined
def _valid_in_all(rule, begins, ends, lengths, geometry, own, block):
    return packing.load_valid(begins, ends, lengths, geometry, block)


load_valid = choice("offsets", _valid_in_segment, _valid_in_all, options=INLINE)


@inlined
def walk_vectors(rule, is_ragged, streams, a, b, h, flags, series, block):
    """Advance a block's series; ``series`` are their states, (products,) and valid steps."""
    states, _, begins, ends = series
    zero = broadcast(constant(0.0, load(states, 0, states)))
    for from_ in range(0, block.steps, TOGETHER):
        to = minimum(block.steps, from_ + TOGETHER)
        for j in range(0, block.count, width(states)):
            begin, end = load_vector(begins, j, states), load_vector(ends, j, states)
            state = load_vector(states, j, states)
            for k in range(from_, to):
                if streams:
                    prefetch(a.at, j, (k + AHEAD) * a.step)
                    prefetch(b.at, j, (k + AHEAD) * b.step)
                now, gate = number(block.t - block.epoch + k, states), load_step(a, k, j, states)
                fresh = fresh_at(rule, flags, k, j, states, begin, now)
                new = advance(rule, fresh, state, gate, load_step(b, k, j, states))
                result = new
                if is_ragged:
                    result, new = where_valid(now, begin, end, new, zero), where_valid(now, begin, end, new, state)
                store_step(streams, h, k, j, result)
                state = new
            store_vector(states, j, state)


@helper
def walk(rule, is_ragged, streams, a, b, h, flags, series, block):
    """Advance a block's series; where flags are read one way for all blocks, as three take three times as long."""
    if is_ragged or is_flagged(rule):
        walk_vectors(rule, YES, NO, a, b, h, flags, series, block)
    elif streams:
        walk_vectors(rule, NO, YES, a, b, h, flags, series, block)
    else:
        walk_vectors(rule, NO, NO, a, b, h, flags, series, block)


@inlined
def may_stream(operand, view, block):
    """Return whether what is written in place fills whole lines."""
    return packing.is_in_place(operand, block) and view.step % 64 == 0 and misalignment(view.at) == 0


@helper
def sum_up(rule, is_ragged, streams, a, b, h, flags, series, block):
    """Advance a block's states, and multiply its products by what that multiplies a state by."""
    states, products, begins, ends = series
    for j in range(0, block.count, width(states)):
        begin, end = load_vector(begins, j, states), load_vector(ends, j, states)
        state, product = load_vector(states, j, states), load_vector(products, j, states)
        for k in range(block.steps):
            gate = load_step(a, k, j, states)
            now, x = product * decay(rule, gate), load_step(b, k, j, states)
            # Going back, x is a cotangent; neither a value nor the result before matters to what flows on.
            new = adjoint(rule, x + state, gate, x, state)[2] if is_back(rule) else step(rule, state, gate, x)
            if is_ragged:
                at = number(block.t - block.epoch + k, states)
                now, new = where_valid(at, begin, end, now, product), where_valid(at, begin, end, new, state)
            state, product = new, now
        store_vector(states, j, state)
        store_vector(products, j, product)


take = choice("summary", sum_up, walk)


def forward(rule, a, b, h, carry, marks: Marks, geometry, first, last):
    """Walk series ``first`` to ``last``; ``carry`` holds the first states, then the last.

    For a summary ``h`` has no results, but products: these and states are brought from before a stretch of time to
    behind it, ``h -> product*h + carry``. If it goes back, these are cotangents, in ``b`` too; ``geometry`` is that of
    the other direction.
    """
    keeps = not is_summary(rule)
    steps, streams = load_int(geometry, N_STEPS), load_int(geometry, STREAMING) != 0
    a_all, b_all, h_all = operand_of(a, geometry, A), operand_of(b, geometry, B), operand_of(h, geometry, H)
    lengths_all, flags_all = operand_of(marks.lengths, geometry, LENGTHS), operand_of(marks.flags, geometry, FLAGS)
    a_panel, b_panel, h_panel = panel(a, carry), panel(b, carry), panel(h, carry)
    flags_panel = panel(flags_all.at, carry)
    states, others = stack(carry, STATES), stack(carry, STATES)
    begins, ends = stack(carry, STATES), stack(carry, STATES)
    along = is_along(a_all) or is_along(b_all) or (keeps and is_along(h_all))
    most, span = packing.shape_of(geometry, along, carry)
    ahead = span if streams or not keeps else 0
    while first < last:
        block = packing.next_block(geometry, first, last, most, carry)
        load_block(states, carry, block)
        if not keeps:
            load_block(others, h, block)
        pad(a_panel, a_all, geometry, block, minimum(span, steps))
        pad(b_panel, b_all, geometry, block, minimum(span, steps))
        latest, earliest, epoch = 0, steps, -1
        t, own = 0, segment_at(rule, marks.offsets, ZERO, geometry, ZERO)
        while t < steps:
            if t == own.stop:
                own, epoch = segment_at(rule, marks.offsets, own.number, geometry, t), -1
            if own.begins and t == own.first:
                starts = states_of(marks.segment_states, geometry, own.number)
                load_block(states, starts, block)
            # With late flags the first step is a block of its own: that of the step before it is read in vain.
            is_first = flags_are_late(rule) and t == own.first
            block = with_steps(block, t, 1 if is_first else minimum(span, own.stop - t), ahead)
            if block.epoch != epoch:
                latest, earliest = load_valid(rule, begins, ends, lengths_all, geometry, own, block)
                epoch = block.epoch
            a_now, b_now = pack(a_panel, a_all, geometry, block), pack(b_panel, b_all, geometry, block)
            h_now = view_in(h_panel, h_all, geometry, block)
            flags_now = pack_flags(rule, flags_panel, flags_all, geometry, block)
            is_ragged = t < latest or t + block.steps > earliest
            may = streams and may_stream(h_all, h_now, block)
            take(rule, is_ragged, may, a_now, b_now, h_now, flags_now, (states, others, begins, ends), block)
            if keeps:
                unpack(h_all, h_now, geometry, block, streams)
            t += block.steps
        store_states(carry, states, block.first, block.count)
        if not keeps:
            store_states(h, others, block.first, block.count)
        first += block.count
    if streams:
        fence()


@inlined
def walk_vectors_back(rule, is_ragged, streams, g, a, b, h, flags, to_a, to_b, series, block):
    """Take a block's cotangents to the step before its first one."""
    states, firsts, begins, ends = series
    zero = broadcast(constant(0.0, load(states, 0, states)))
    for from_ in range(0, block.steps, TOGETHER):
        most, least = block.steps - 1 - from_, maximum(block.steps - TOGETHER - from_, 0)
        for j in range(0, block.count, width(states)):
            begin, end = load_vector(begins, j, states), load_vector(ends, j, states)
            first, r = load_vector(firsts, j, states), load_vector(states, j, states)
            for k in range(most, least - 1, -1):
                if streams:
                    prefetch(g.at, j, (k - AHEAD) * g.step)
                    prefetch(a.at, j, (k - AHEAD) * a.step)
                    prefetch(b.at, j, (k - AHEAD) * b.step)
                    prefetch(h.at, j, (k - AHEAD) * h.step)
                before, now = load_step(h, k, j, states), number(block.t - block.epoch + k, states)
                if is_ragged:
                    before = select(begin == now, first, before)
                arrived = load_step(g, k, j, states) + r
                fresh = fresh_at(rule, flags, k, j, states, begin, now)
                gate, value = load_step(a, k, j, states), load_step(b, k, j, states)
                grad_a, grad_b, r_new = retreat(rule, fresh, arrived, gate, value, before)
                if is_ragged:
                    grad_a = where_valid(now, begin, end, grad_a, zero)
                    grad_b = where_valid(now, begin, end, grad_b, zero)
                    r_new = where_valid(now, begin, end, r_new, r)
                store_step(streams, to_a, k, j, grad_a)
                store_step(streams, to_b, k, j, grad_b)
                r = r_new
            store_vector(states, j, r)


@helper
def walk_back(rule, is_ragged, streams, g, a, b, h, flags, to_a, to_b, series, block):
    """Take a block's cotangents back; ``h`` are the states before."""
    if is_ragged or is_flagged(rule):
        walk_vectors_back(rule, YES, NO, g, a, b, h, flags, to_a, to_b, series, block)
    elif streams:
        walk_vectors_back(rule, NO, YES, g, a, b, h, flags, to_a, to_b, series, block)
    else:
        walk_vectors_back(rule, NO, NO, g, a, b, h, flags, to_a, to_b, series, block)


@inlined
def view_to(panel, operand, mode, geometry, block):
    """Return where a gradient is walked: what is not stored as it is, in a panel."""
    if mode == STORE:
        return view_in(panel, operand, geometry, block)
    return packing.panel_view(panel, block)


@helper
def store_gradient(operand, sums, mode, view, geometry, block, streams):
    """Bring a gradient where it belongs."""
    if mode == STORE:
        unpack(operand, view, geometry, block, streams)
    elif mode == ACCUMULATE:
        packing.add(sums, view, geometry, block)


def vjp(rule, given: Given, results: Results, marks: Marks, geometry, first, last):
    """Walk series back; ``carry`` holds the last states' cotangents, then the first states'."""
    g, a, b, h, h0 = given
    carry, to_a, to_b, sums_a, sums_b = results
    steps, streams = load_int(geometry, N_STEPS), load_int(geometry, STREAMING) != 0
    a_mode, b_mode = load_int(geometry, A_MODE), load_int(geometry, B_MODE)
    state_bytes = load_int(geometry, layout.STATE_BYTES)
    g_all, a_all = operand_of(g, geometry, G), operand_of(a, geometry, A)
    b_all, h_all = operand_of(b, geometry, B), operand_of(h, geometry, H)
    to_a_all, to_b_all = operand_of(to_a, geometry, layout.TO_A), operand_of(to_b, geometry, layout.TO_B)
    sums_a_all, sums_b_all = operand_of(sums_a, geometry, layout.SUMS_A), operand_of(sums_b, geometry, layout.SUMS_B)
    lengths_all, flags_all = operand_of(marks.lengths, geometry, LENGTHS), operand_of(marks.flags, geometry, FLAGS)
    g_panel, a_panel, b_panel, h_panel = panel(g, carry), panel(a, carry), panel(b, carry), panel(h, carry)
    to_a_panel, to_b_panel, flags_panel = panel(to_a, carry), panel(to_b, carry), panel(flags_all.at, carry)
    states, firsts = stack(carry, STATES), stack(carry, STATES)
    begins, ends = stack(carry, STATES), stack(carry, STATES)
    series = states, firsts, begins, ends
    along = is_along(g_all) or is_along(a_all) or is_along(b_all) or is_along(h_all)
    most, span = packing.shape_of(geometry, along or is_along(to_a_all) or is_along(to_b_all), carry)
    ahead = span if streams else 0
    while first < last:
        block = packing.next_block(geometry, first, last, most, carry)
        load_block(states, carry, block)
        load_block(firsts, h0, block)
        pad(g_panel, g_all, geometry, block, minimum(span, steps))
        pad(a_panel, a_all, geometry, block, minimum(span, steps))
        pad(b_panel, b_all, geometry, block, minimum(span, steps))
        pad(h_panel, h_all, geometry, block, minimum(span, steps))
        latest, earliest, epoch, end = 0, steps, -1, steps
        own = segment_at(rule, marks.offsets, ZERO, geometry, steps - 1)
        while end > 0:
            if end == own.first:
                own, epoch = segment_at(rule, marks.offsets, own.number, geometry, end - 1), -1
            starts = states_of(marks.segment_states, geometry, own.number)
            if own.ends and end == own.stop:
                load_block(states, shift(starts, state_bytes), block)
                load_block(firsts, starts, block)
            # The first step, before which there is no result, is a block of its own: its result is read in vain.
            t = maximum((end - 1) // span * span, own.first + (1 if end > own.first + 1 else 0))
            block = with_steps(block, t, end - t, -ahead)
            if block.epoch != epoch:
                latest, earliest = load_valid(rule, begins, ends, lengths_all, geometry, own, block)
                epoch = block.epoch
            g_now, a_now = pack(g_panel, g_all, geometry, block), pack(a_panel, a_all, geometry, block)
            b_now = pack(b_panel, b_all, geometry, block)
            h_now = pack(h_panel, h_all, geometry, with_steps(block, maximum(t - 1, 0), end - t, -ahead))
            to_a_now = view_to(to_a_panel, to_a_all, a_mode, geometry, block)
            to_b_now = view_to(to_b_panel, to_b_all, b_mode, geometry, block)
            flags_now = pack_flags(rule, flags_panel, flags_all, geometry, block)
            is_ragged = t <= latest or end > earliest
            may = streams and may_stream(to_a_all, to_a_now, block) and may_stream(to_b_all, to_b_now, block)
            walk_back(rule, is_ragged, may, g_now, a_now, b_now, h_now, flags_now, to_a_now, to_b_now, series, block)
            store_gradient(to_a_all, sums_a_all, a_mode, to_a_now, geometry, block, streams)
            store_gradient(to_b_all, sums_b_all, b_mode, to_b_now, geometry, block, streams)
            if own.begins and t == own.first and operands.takes_states(geometry):
                store_states(shift(starts, 2 * state_bytes), states, block.first, block.count)
            end = t
        store_states(carry, states, block.first, block.count)
        first += block.count
    if streams:
        fence()

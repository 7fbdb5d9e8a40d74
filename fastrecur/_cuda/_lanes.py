"""Kernels that give each lane, or each piece of a lane's time, to a thread, which walks it in batches of loads.

Right for any layout; fast where neighbouring threads read neighbouring elements. A batch asks for `ahead` steps of
every operand before it uses the first, since a step alone would wait for memory every time. The ragged end of a lane is
one more batch, whose missing steps are neither read nor written: loads never move above stores, so a loop of its own
would wait at every step.

Pieces of a lane start from states that `fold` of `_split` has found; see there for what is mended afterwards.
"""

from .._steps import constant, select
from ._device import (
    block,
    block_row,
    block_threads,
    divide,
    helper,
    is_null,
    load,
    load_int,
    load_raw,
    narrow,
    shift,
    store,
    thread,
    unpack,
)


@helper
def lane_offset(strides, outer, middle, inner):
    """Return how many bytes from its operand's first lane a lane stands."""
    return outer * strides[0] + middle * strides[1] + inner * strides[2]


@helper
def split_lane(lane, middles, inners):
    """Return a lane's indices: outer, middle, inner."""
    row = divide(lane, inners)
    outer = divide(row, middles)
    return outer, row - outer * middles, lane - row * inners


@helper
def valid_steps(lengths, offset, steps, reverse):
    """Return the first valid step of a lane in the direction of travel, and the one past the last.

    Lengths on a device are not looked at beforehand, for that would stall the host: here they are kept in range.
    """
    start, stop = 0, steps
    if not is_null(lengths):
        length = min(max(load_int(lengths, offset), 0), steps)
        if reverse:
            start = steps - length
        else:
            stop = length
    return start, stop


@helper
def first_state(h0, offset, zero):
    """Return the state that a lane starts from."""
    state = zero
    if not is_null(h0):
        state = load(h0, offset, zero)
    return state


@helper
def add_exactly(total, rest, value):
    """Return a sum, and what its rounding has left over so far."""
    new = total + value
    part = new - total
    return new, rest + ((total - (new - part)) + (value - part))


@helper
def settled(total, rest):
    """Return a sum with what was left over, which is NaN where the sum is not finite."""
    return select(rest == rest, total + rest, total)


def forward(cuda, rule, zero, size, ahead, raws):
    """Return the kernel that walks in the direction of travel; ``size`` is that of a carry in bytes."""
    step, is_average, closed = rule.step, rule.is_average, type(zero)(rule.closed)
    a_raw, b_raw = raws["a"], raws["b"]

    def kernel(
        a, b, h, h0, last, lengths, starts, ends, leads, steps, reverse, piece_steps, pieces, lanes, middles, inners,
        a_time, b_time, h_time, a_lane, b_lane, h_lane, h0_lane, last_lane, lengths_lane,
    ):  # fmt: skip
        lane = narrow(block() * block_threads() + thread())
        if lane >= lanes:
            return
        piece = block_row()
        outer, middle, inner = split_lane(lane, middles, inners)
        start, stop = valid_steps(lengths, lane_offset(lengths_lane, outer, middle, inner), steps, reverse)
        t, end = piece * piece_steps, min(steps, (piece + 1) * piece_steps)
        at_piece = (lane * pieces + piece) * size
        if pieces > 1:
            state = load(starts, at_piece, zero)
        else:
            state = first_state(h0, lane_offset(h0_lane, outer, middle, inner), zero)
        a_now = shift(a, lane_offset(a_lane, outer, middle, inner) + t * a_time)
        b_now = shift(b, lane_offset(b_lane, outer, middle, inner) + t * b_time)
        h_now = shift(h, lane_offset(h_lane, outer, middle, inner) + t * h_time)
        gates, values = cuda.local.array(ahead, a_raw), cuda.local.array(ahead, b_raw)
        if pieces > 1:
            begin, lead = max(start, t), zero
            if is_average and begin < min(stop, end) and load(a_now, (begin - t) * a_time, zero) == closed:
                lead = constant(1.0, zero)
            store(leads, at_piece, lead)
        while t < end:
            low, high, here = narrow(start - t), narrow(min(stop, end) - t), narrow(end - t)
            for u in range(ahead):
                values[u] = b_raw(0)
                if u >= low and u < high:
                    values[u] = load_raw(b_now, u * b_time, zero)
            # Gates come last, since a step needs its gate first: what is needed first would be waited for first.
            for u in range(ahead):
                gates[u] = a_raw(0)
                if u >= low and u < high:
                    gates[u] = load_raw(a_now, u * a_time, zero)
            for u in range(ahead):
                valid = u >= low and u < high
                gate, value = unpack(a, gates[u], zero), unpack(b, values[u], zero)
                state = select(valid, step(state, gate, value), state)
                if u < here:
                    store(h_now, u * h_time, select(valid, state, zero))
            t += ahead
            a_now = shift(a_now, ahead * a_time)
            b_now = shift(b_now, ahead * b_time)
            h_now = shift(h_now, ahead * h_time)
        if pieces > 1:
            store(ends, at_piece, state)
        elif not is_null(last):
            store(last, lane_offset(last_lane, outer, middle, inner), state)

    return kernel


def vjp(cuda, rule, zero, size, ahead, a_is_total, b_is_total, raws):
    """Return the kernel that walks against the direction of travel.

    A gradient that is a total over time is written once for each piece, in the carry's type, at ``piece * lanes +
    lane``: then ``to_a`` and ``to_b`` are dense.
    """
    adjoint = rule.adjoint
    g_raw, a_raw, b_raw, h_raw = raws["g"], raws["a"], raws["b"], raws["h"]

    def kernel(
        g, a, b, h, h0, last, first, to_a, to_b, lengths, starts, ends, steps, reverse, piece_steps, pieces, lanes,
        middles, inners, g_time, a_time, b_time, h_time, to_a_time, to_b_time, g_lane, a_lane, b_lane, h_lane, h0_lane,
        last_lane, first_lane, to_a_lane, to_b_lane, lengths_lane,
    ):  # fmt: skip
        lane = narrow(block() * block_threads() + thread())
        if lane >= lanes:
            return
        piece = block_row()
        outer, middle, inner = split_lane(lane, middles, inners)
        start, stop = valid_steps(lengths, lane_offset(lengths_lane, outer, middle, inner), steps, reverse)
        begin, t = piece * piece_steps, min(steps, (piece + 1) * piece_steps)
        at_piece = (lane * pieces + piece) * size
        if pieces > 1:
            r = load(starts, at_piece, zero)
        else:
            r = first_state(last, lane_offset(last_lane, outer, middle, inner), zero)
        origin = first_state(h0, lane_offset(h0_lane, outer, middle, inner), zero)
        g_now = shift(g, lane_offset(g_lane, outer, middle, inner) + (t - 1) * g_time)
        a_now = shift(a, lane_offset(a_lane, outer, middle, inner) + (t - 1) * a_time)
        b_now = shift(b, lane_offset(b_lane, outer, middle, inner) + (t - 1) * b_time)
        h_now = shift(h, lane_offset(h_lane, outer, middle, inner) + (t - 2) * h_time)
        to_a_now = shift(to_a, lane_offset(to_a_lane, outer, middle, inner) + (t - 1) * to_a_time)
        to_b_now = shift(to_b, lane_offset(to_b_lane, outer, middle, inner) + (t - 1) * to_b_time)
        arriving, gates = cuda.local.array(ahead, g_raw), cuda.local.array(ahead, a_raw)
        values, before = cuda.local.array(ahead, b_raw), cuda.local.array(ahead, h_raw)
        a_total, a_rest, b_total, b_rest = zero, zero, zero, zero
        while t > begin:
            # Step t - 1 - u is in the batch; it is valid if low <= u < high.
            low, high, here = narrow(t - stop), narrow(t - max(start, begin)), narrow(t - begin)
            at_start = narrow(t - start) - 1
            for u in range(ahead):
                arriving[u], gates[u], values[u], before[u] = g_raw(0), a_raw(0), b_raw(0), h_raw(0)
                if u >= low and u < high:
                    arriving[u] = load_raw(g_now, -u * g_time, zero)
                    gates[u] = load_raw(a_now, -u * a_time, zero)
                    values[u] = load_raw(b_now, -u * b_time, zero)
                    if u != at_start:
                        before[u] = load_raw(h_now, -u * h_time, zero)
            for u in range(ahead):
                valid = u >= low and u < high
                arrived = unpack(g, arriving[u], zero) + r
                gate, value = unpack(a, gates[u], zero), unpack(b, values[u], zero)
                state = select(u == at_start, origin, unpack(h, before[u], zero))
                grad_a, grad_b, onward = adjoint(arrived, gate, value, state)
                r = select(valid, onward, r)
                grad_a, grad_b = select(valid, grad_a, zero), select(valid, grad_b, zero)
                if a_is_total:
                    a_total, a_rest = add_exactly(a_total, a_rest, grad_a)
                elif u < here:
                    store(to_a_now, -u * to_a_time, grad_a)
                if b_is_total:
                    b_total, b_rest = add_exactly(b_total, b_rest, grad_b)
                elif u < here:
                    store(to_b_now, -u * to_b_time, grad_b)
            t -= ahead
            g_now = shift(g_now, -ahead * g_time)
            a_now = shift(a_now, -ahead * a_time)
            b_now = shift(b_now, -ahead * b_time)
            h_now = shift(h_now, -ahead * h_time)
            to_a_now = shift(to_a_now, -ahead * to_a_time)
            to_b_now = shift(to_b_now, -ahead * to_b_time)
        if a_is_total:
            store(to_a, (piece * lanes + lane) * size, settled(a_total, a_rest))
        if b_is_total:
            store(to_b, (piece * lanes + lane) * size, settled(b_total, b_rest))
        if pieces > 1:
            store(ends, at_piece, r)
        elif not is_null(first):
            store(first, lane_offset(first_lane, outer, middle, inner), r)

    return kernel

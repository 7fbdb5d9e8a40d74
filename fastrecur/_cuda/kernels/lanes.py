"""Kernels that give each series to a thread, which scans it in batches of loads.

Right for any layout; fast where neighbouring threads read neighbouring elements. A batch asks for `ahead` steps of
every operand before it uses the first, since a step alone would wait for memory every time. The ragged end of a series
is one more batch, whose missing steps are neither read nor written: loads never move above stores, so a loop of its own
would wait at every step.

``cuts`` are those of offsets and resets that a kernel is made for. With offsets, which these kernels alone know, each
segment of a series has a thread, which reads and writes no other step.
"""

import numpy as np

from ..._steps.recurrence import select
from . import device as gpu
from .borders import Flags, borders
from .operands import finder, later, load_state, of_series, offset
from .summaries import add_exactly, settled


@gpu.helper
def thread_in_grid():
    """Return this thread's number in the launch."""
    return gpu.narrow(gpu.block() * gpu.block_threads() + gpu.thread())


def forward(cuda, rule, zero, ahead, cuts, raws):
    """Return the kernel that scans forward."""
    a_raw, b_raw, find = raws["a"], raws["b"], finder("offsets" in cuts)
    load_flags, _, advance, _, behind = borders(cuda, rule, zero, ahead, cuts)

    def kernel(a, b, h, h0, last, lengths, geometry, cuts):
        series = thread_in_grid()
        if series >= geometry.lanes:
            return
        index, valid, t, steps, h0, last, _ = find(series, lengths, cuts, geometry, h0, last, last)
        state, own = load_state(h0, index, zero), Flags(cuts, index, geometry.reverse)
        a_now, b_now, h_now = of_series(a, index, t), of_series(b, index, t), of_series(h, index, t)
        gates, values = cuda.local.array(ahead, a_raw), cuda.local.array(ahead, b_raw)
        flags = cuda.local.array(ahead, np.int32)
        while t < steps:
            low, high, here = gpu.narrow(valid.start - t), gpu.narrow(valid.stop - t), gpu.narrow(steps - t)
            for u in range(ahead):
                values[u] = b_raw(0)
                if u >= low and u < high:
                    values[u] = gpu.load_raw(b_now.at, u * b.time, zero)
            load_flags(own, t - geometry.reverse, 1, low + geometry.reverse, high, flags)
            # Gates come last, since a step needs its gate first: what is needed first would be waited for first.
            for u in range(ahead):
                gates[u] = a_raw(0)
                if u >= low and u < high:
                    gates[u] = gpu.load_raw(a_now.at, u * a.time, zero)
            for u in range(ahead):
                is_valid = u >= low and u < high
                gate, value = gpu.unpack(a.at, gates[u], zero), gpu.unpack(b.at, values[u], zero)
                state = select(is_valid, advance(flags[u], state, gate, value), state)
                if u < here:
                    gpu.store(h_now.at, u * h.time, select(is_valid, state, zero))
            t += ahead
            a_now, b_now, h_now = later(a_now, ahead), later(b_now, ahead), later(h_now, ahead)
        if not gpu.is_null(last.at):
            gpu.store(last.at, offset(last.series, index), behind(state, own, valid))

    return kernel


def vjp(cuda, rule, zero, size, ahead, a_is_total, b_is_total, cuts, raws):
    """Return the kernel that scans backward.

    A gradient that is a total over time is written once, in the carry's type: then ``to_a`` and ``to_b`` are dense.
    """
    g_raw, a_raw, b_raw, h_raw = raws["g"], raws["a"], raws["b"], raws["h"]
    find = finder("offsets" in cuts)
    load_flags, _, _, retreat, behind = borders(cuda, rule, zero, ahead, cuts)

    def kernel(g, a, b, h, h0, last, first, to_a, to_b, lengths, geometry, cuts):
        series = thread_in_grid()
        if series >= geometry.lanes:
            return
        index, valid, begin, t, h0, last, first = find(series, lengths, cuts, geometry, h0, last, first)
        own, origin = Flags(cuts, index, geometry.reverse), load_state(h0, index, zero)
        r = behind(load_state(last, index, zero), own, valid)
        g_now, a_now, b_now = of_series(g, index, t - 1), of_series(a, index, t - 1), of_series(b, index, t - 1)
        h_now = of_series(h, index, t - 2)
        to_a_now, to_b_now = of_series(to_a, index, t - 1), of_series(to_b, index, t - 1)
        arriving, gates = cuda.local.array(ahead, g_raw), cuda.local.array(ahead, a_raw)
        values, before = cuda.local.array(ahead, b_raw), cuda.local.array(ahead, h_raw)
        flags = cuda.local.array(ahead, np.int32)
        a_total, a_rest, b_total, b_rest = zero, zero, zero, zero
        while t > begin:
            # Step t - 1 - u is in the batch; it is valid if low <= u < high.
            low, high, here = gpu.narrow(t - valid.stop), gpu.narrow(t - valid.start), gpu.narrow(t - begin)
            at_start = high - 1
            load_flags(own, t - 1 - geometry.reverse, -1, low, high - geometry.reverse, flags)
            for u in range(ahead):
                arriving[u], gates[u], values[u], before[u] = g_raw(0), a_raw(0), b_raw(0), h_raw(0)
                if u >= low and u < high:
                    arriving[u] = gpu.load_raw(g_now.at, -u * g.time, zero)
                    gates[u] = gpu.load_raw(a_now.at, -u * a.time, zero)
                    values[u] = gpu.load_raw(b_now.at, -u * b.time, zero)
                    if u != at_start:
                        before[u] = gpu.load_raw(h_now.at, -u * h.time, zero)
            for u in range(ahead):
                is_valid = u >= low and u < high
                arrived = gpu.unpack(g.at, arriving[u], zero) + r
                gate, value = gpu.unpack(a.at, gates[u], zero), gpu.unpack(b.at, values[u], zero)
                state = select(u == at_start, origin, gpu.unpack(h.at, before[u], zero))
                grad_a, grad_b, onward = retreat(flags[u], arrived, gate, value, state)
                r = select(is_valid, onward, r)
                grad_a, grad_b = select(is_valid, grad_a, zero), select(is_valid, grad_b, zero)
                if a_is_total:
                    a_total, a_rest = add_exactly(a_total, a_rest, grad_a)
                elif u < here:
                    gpu.store(to_a_now.at, -u * to_a.time, grad_a)
                if b_is_total:
                    b_total, b_rest = add_exactly(b_total, b_rest, grad_b)
                elif u < here:
                    gpu.store(to_b_now.at, -u * to_b.time, grad_b)
            t -= ahead
            g_now, a_now = later(g_now, -ahead), later(a_now, -ahead)
            b_now, h_now = later(b_now, -ahead), later(h_now, -ahead)
            to_a_now, to_b_now = later(to_a_now, -ahead), later(to_b_now, -ahead)
        if a_is_total:
            gpu.store(to_a.at, series * size, settled(a_total, a_rest))
        if b_is_total:
            gpu.store(to_b.at, series * size, settled(b_total, b_rest))
        if not gpu.is_null(first.at):
            gpu.store(first.at, offset(first.series, index), r)

    return kernel

"""Kernels of the QRNN's pooling: a thread for each lane, as in `lanes`; the arithmetic is `pooling`'s.

A lane's candidates, forget gates and output gates stand ``product.series[0]`` bytes apart. Step t of the direction of
travel is in row t, or in ``rows[t]`` where sequences are packed: there a lane is walked from its first valid step to
its last, and nothing else is touched; with offsets, where its steps follow each other, likewise. ``carry`` holds what
a lane starts from, then what it ends with.
"""

import numpy as np

from ..._steps.pooling import pool, pool_adjoint, put_out, put_out_adjoint
from ..._steps.recurrence import select
from . import device as gpu
from .borders import Flags, flags_of
from .lanes import thread_in_grid
from .operands import finder, load_state, of_series

ROW_BYTES = 8  # of an entry of `rows`


def forward(cuda, zero, size, ahead, gated, packed, cuts, raws):
    """Return the kernel that pools; ``states`` may be null."""
    raw, keep_raw, kind = raws["product"], raws["keep"], type(zero)
    find, (load_flags, _, behind, passed) = finder("offsets" in cuts), flags_of(cuda, zero, ahead, cuts)

    def kernel(product, keep, h, states, carry, rows, lengths, geometry, cuts):
        lane = thread_in_grid()
        if lane >= geometry.lanes:
            return
        index, valid, begin, end, _, _, _ = find(lane, lengths, cuts, geometry, product, product, product)
        t, end = (valid.start, valid.stop) if packed else (begin, end)
        own, flags = Flags(cuts, index, geometry.reverse), cuda.local.array(ahead, np.int32)
        product_here, keep_here = of_series(product, index, 0).at, of_series(keep, index, 0).at
        h_here, states_here = of_series(h, index, 0).at, of_series(states, index, 0).at
        part, saves = product.series[0], not gpu.is_null(states.at)
        places = cuda.local.array(ahead, np.int64)
        candidates, gates = cuda.local.array(ahead, raw), cuda.local.array(ahead, raw)
        outs, keeps = cuda.local.array(ahead, raw), cuda.local.array(ahead, keep_raw)
        results = cuda.local.array(ahead, kind)
        state = gpu.load(carry, lane * size, zero)
        while t < end:
            low, high, here = gpu.narrow(valid.start - t), gpu.narrow(valid.stop - t), gpu.narrow(end - t)
            load_flags(own, t - geometry.reverse, 1, low + geometry.reverse, high, flags)
            for u in range(ahead):
                places[u] = gpu.load_int(rows, (t + u) * ROW_BYTES) if packed and u < here else t + u
            for u in range(ahead):
                candidates[u], gates[u], outs[u], keeps[u] = raw(0), raw(0), raw(0), keep_raw(0)
                if u >= low and u < high:
                    at = places[u] * product.time
                    if gated:
                        outs[u] = gpu.load_raw(product_here, at + 2 * part, zero)
                    candidates[u] = gpu.load_raw(product_here, at, zero)
                    gates[u] = gpu.load_raw(product_here, at + part, zero)
                    keeps[u] = gpu.load_raw(keep_here, places[u] * keep.time, zero)
            for u in range(ahead):
                is_valid = u >= low and u < high
                z, f = gpu.unpack(product.at, candidates[u], zero), gpu.unpack(product.at, gates[u], zero)
                new = pool(passed(flags[u], state), z, f, gpu.unpack(keep.at, keeps[u], zero))
                state = select(is_valid, new, state)
                results[u] = select(is_valid, state, zero)
                if saves and u < here:
                    gpu.store(states_here, places[u] * states.time, results[u])
            # A loop of its own: the compiler unrolls no body with three activations in float64.
            for u in range(ahead):
                if gated:
                    results[u] = put_out(results[u], gpu.unpack(product.at, outs[u], zero))
                if u < here:
                    gpu.store(h_here, places[u] * h.time, results[u])
            t += ahead
        gpu.store(carry, lane * size, behind(state, own, valid))

    return kernel


def vjp(cuda, zero, size, ahead, gated, packed, cuts, raws):
    """Return the kernel that goes against the direction of travel; ``first`` holds the first states."""
    raw, keep_raw, g_raw, states_raw = raws["product"], raws["keep"], raws["g"], raws["states"]
    and_before = ahead + 1
    find, (load_flags, _, behind, passed) = finder("offsets" in cuts), flags_of(cuda, zero, ahead, cuts)

    def kernel(g, product, keep, states, first, carry, to_product, rows, lengths, geometry, cuts):
        lane = thread_in_grid()
        if lane >= geometry.lanes:
            return
        index, valid, begin, t, _, _, first = find(lane, lengths, cuts, geometry, first, first, first)
        begin, t = (valid.start, valid.stop) if packed else (begin, t)
        own, flags = Flags(cuts, index, geometry.reverse), cuda.local.array(ahead, np.int32)
        g_here, product_here = of_series(g, index, 0).at, of_series(product, index, 0).at
        keep_here, states_here = of_series(keep, index, 0).at, of_series(states, index, 0).at
        to_product_here = of_series(to_product, index, 0).at
        part, to_part = product.series[0], to_product.series[0]
        places = cuda.local.array(and_before, np.int64)
        candidates, gates = cuda.local.array(ahead, raw), cuda.local.array(ahead, raw)
        outs, keeps = cuda.local.array(ahead, raw), cuda.local.array(ahead, keep_raw)
        arriving, befores = cuda.local.array(ahead, g_raw), cuda.local.array(ahead, states_raw)
        r, origin = behind(gpu.load(carry, lane * size, zero), own, valid), load_state(first, index, zero)
        now = zero  # the state after a step, which is the one before the step that was seen last
        if gated and valid.start < valid.stop:
            row = gpu.load_int(rows, (valid.stop - 1) * ROW_BYTES) if packed else valid.stop - 1
            now = gpu.load(states_here, row * states.time, zero)
        while t > begin:
            # Step t - 1 - u is in the batch; it is valid if low <= u < high, and has one before it unless at_start.
            low, high, here = gpu.narrow(t - valid.stop), gpu.narrow(t - valid.start), gpu.narrow(t - begin)
            at_start = high - 1
            load_flags(own, t - 1 - geometry.reverse, -1, low, high - geometry.reverse, flags)
            for u in range(and_before):
                places[u] = gpu.load_int(rows, (t - 1 - u) * ROW_BYTES) if packed and u < here else t - 1 - u
            for u in range(ahead):
                candidates[u], gates[u], outs[u], keeps[u] = raw(0), raw(0), raw(0), keep_raw(0)
                arriving[u], befores[u] = g_raw(0), states_raw(0)
                if u >= low and u < high:
                    at = places[u] * product.time
                    if u != at_start:
                        befores[u] = gpu.load_raw(states_here, places[u + 1] * states.time, zero)
                    candidates[u] = gpu.load_raw(product_here, at, zero)
                    gates[u] = gpu.load_raw(product_here, at + part, zero)
                    keeps[u] = gpu.load_raw(keep_here, places[u] * keep.time, zero)
                    if gated:
                        outs[u] = gpu.load_raw(product_here, at + 2 * part, zero)
                    arriving[u] = gpu.load_raw(g_here, places[u] * g.time, zero)
            for u in range(ahead):
                is_valid = u >= low and u < high
                at = places[u] * to_product.time
                arrived = gpu.unpack(g.at, arriving[u], zero)
                if gated:
                    arrived, grad_o = put_out_adjoint(arrived, now, gpu.unpack(product.at, outs[u], zero))
                    if u < here:
                        gpu.store(to_product_here, at + 2 * to_part, select(is_valid, grad_o, zero))
                z, f = gpu.unpack(product.at, candidates[u], zero), gpu.unpack(product.at, gates[u], zero)
                before = select(u == at_start, origin, gpu.unpack(states.at, befores[u], zero))
                factor, state = gpu.unpack(keep.at, keeps[u], zero), passed(flags[u], before)
                grad_z, grad_f, onward = pool_adjoint(arrived + r, z, f, factor, state)
                r, now = select(is_valid, passed(flags[u], onward), r), select(is_valid, before, now)
                if u < here:
                    gpu.store(to_product_here, at, select(is_valid, grad_z, zero))
                    gpu.store(to_product_here, at + to_part, select(is_valid, grad_f, zero))
            t -= ahead
        gpu.store(carry, lane * size, r)

    return kernel

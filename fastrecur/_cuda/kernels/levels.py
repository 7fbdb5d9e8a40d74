"""The kernels of levels that follow a signal, envelopes and Holt's: a thread for each series, in chunks as filters."""

import math

import numpy as np

from ..._steps import levels
from ..._steps.recurrence import constant, is_finite, select
from . import device as gpu
from .filters import CHUNK, THREADS, TILE, WIDTH, begin_in, chunks_of, copiers, valid_in
from .operands import offset


@gpu.helper
def state_of(x, index, missing, zero):
    """Return a number that each series has, or what is there instead."""
    return missing if gpu.is_null(x.at) else gpu.load(x.at, offset(x.series, index), zero)


@gpu.helper
def constants_of(alpha, beta, phi, index, zero):
    return levels.Holt(
        state_of(alpha, index, zero, zero), state_of(beta, index, zero, zero), state_of(phi, index, zero, zero)
    )


def follow(cuda, zero, varies, by_time, raws):
    """Return the kernel of envelopes; ``varies`` says whether gates do in time."""
    kind = type(zero)
    fill, drain = copiers(cuda, zero, by_time, raws["x"])

    def kernel(x, attack, release, h0, y, last, lengths, geometry):
        tile, places = cuda.shared.array(TILE, kind), cuda.shared.array(THREADS, np.int64)
        targets, stops = cuda.shared.array(THREADS, np.int64), cuda.shared.array(THREADS, np.int32)
        me = gpu.thread()
        is_there, index, stop, _ = begin_in(x, y, places, targets, stops, lengths, geometry)
        rises, falls = offset(attack.series, index), offset(release.series, index)
        state = state_of(h0, index, zero, zero)
        rise, fall = zero, zero
        if not varies:
            rise, fall = gpu.load(attack.at, rises, zero), gpu.load(release.at, falls, zero)
        gpu.barrier()
        chunks = chunks_of(geometry)
        for n in range(chunks):
            t = gpu.narrow(n * CHUNK)
            fill(tile, x, places, stops, t, geometry.reverse)
            gpu.barrier()
            for k in range(valid_in(t, stop)):
                if varies:
                    rise = gpu.load(attack.at, rises + (t + k) * attack.time, zero)
                    fall = gpu.load(release.at, falls + (t + k) * release.time, zero)
                state = levels.follow(tile[k * WIDTH + me], state, rise, fall)
                tile[k * WIDTH + me] = state
            gpu.barrier()
            drain(y, tile, targets, stops, stops, t, geometry.reverse)
        if is_there:
            gpu.store(last.at, offset(last.series, index), state)

    return kernel


def beginner(zero):
    """Return the device function that looks where a series begins: its first two values that are not missing."""

    @gpu.helper
    def begins(x, place, steps):
        """Return the first value, by how much the next one differs, a step, and how many are missing before."""
        found, t, first, second, one = 0, 0, zero, zero, constant(1.0, zero)
        missing, between = zero, one
        while t < steps and found < 2:
            value = gpu.load(x.at, place + t * x.time, zero)
            if is_finite(value):
                first, second, found = select(found == 0, value, first), value, found + 1
            missing, between = select(found == 0, missing + one, missing), select(found == 1, between + one, between)
            t += 1
        return first, select(found == 2, (second - first) / (between - one), zero), missing

    return begins


def holt(cuda, zero, by_time, raws):
    """Return the kernel of Holt's levels and trends, which have the same strides."""
    kind, begins = type(zero), beginner(zero)
    fill, drain = copiers(cuda, zero, by_time, raws["x"])

    def kernel(x, level0, trend0, alpha, beta, phi, waits, y, slope, lengths, geometry):
        tile, slopes = cuda.shared.array(TILE, kind), cuda.shared.array(TILE, kind)
        places, targets = cuda.shared.array(THREADS, np.int64), cuda.shared.array(THREADS, np.int64)
        stops, me = cuda.shared.array(THREADS, np.int32), gpu.thread()
        _, index, stop, _ = begin_in(x, y, places, targets, stops, lengths, geometry)
        level, trend = state_of(level0, index, zero, zero), state_of(trend0, index, zero, zero)
        left, one, nothing = state_of(waits, index, zero, zero), constant(1.0, zero), constant(math.nan, zero)
        if gpu.is_null(level0.at) or gpu.is_null(trend0.at):
            first, rise, missing = begins(x, offset(x.series, index), stop)
            trend = rise if gpu.is_null(trend0.at) else trend
            if gpu.is_null(level0.at):
                level, left = first, missing
        k = constants_of(alpha, beta, phi, index, zero)
        gpu.barrier()
        chunks = chunks_of(geometry)
        for n in range(chunks):
            t = gpu.narrow(n * CHUNK)
            fill(tile, x, places, stops, t, geometry.reverse)
            gpu.barrier()
            for i in range(valid_in(t, stop)):
                at, is_waiting = i * WIDTH + me, zero < left
                new_level, new_trend = levels.holt(tile[at], level, trend, k)
                level, trend = select(is_waiting, level, new_level), select(is_waiting, trend, new_trend)
                tile[at], slopes[at] = select(is_waiting, nothing, level), select(is_waiting, nothing, trend)
                left = left - one
            gpu.barrier()
            drain(y, tile, targets, stops, stops, t, geometry.reverse)
            drain(slope, slopes, targets, stops, stops, t, geometry.reverse)

    return kernel


def holt_vjp(cuda, zero, by_time, raws):
    """Return the kernel of the gradients of values, and of each series' start and constants, which are sums.

    Cotangents, levels and trends are read step by step: in shared memory there is no room for them.
    """
    kind = type(zero)
    fill, drain = copiers(cuda, zero, by_time, raws["x"])

    @gpu.helper
    def at_step(x, place, t):
        return zero if gpu.is_null(x.at) else gpu.load(x.at, place + t * x.time, zero)

    def kernel(x, level0, trend0, alpha, beta, phi, waits, y, slope, g, g_slope, to_x, to_k, lengths, geometry):
        tile, places = cuda.shared.array(TILE, kind), cuda.shared.array(THREADS, np.int64)
        targets, stops = cuda.shared.array(THREADS, np.int64), cuda.shared.array(THREADS, np.int32)
        me = gpu.thread()
        is_there, index, stop, _ = begin_in(x, to_x, places, targets, stops, lengths, geometry)
        first_level, first_trend = state_of(level0, index, zero, zero), state_of(trend0, index, zero, zero)
        left, ys, trends = state_of(waits, index, zero, zero), offset(y.series, index), offset(slope.series, index)
        of_level, of_trend = offset(g.series, index), offset(g_slope.series, index)
        k = constants_of(alpha, beta, phi, index, zero)
        r_level, r_trend, in_alpha, in_beta, in_phi = zero, zero, zero, zero, zero
        gpu.barrier()
        chunks = chunks_of(geometry)
        for n in range(chunks):
            t = gpu.narrow((chunks - 1 - n) * CHUNK)
            fill(tile, x, places, stops, t, geometry.reverse)
            gpu.barrier()
            high = valid_in(t, stop)
            for i in range(high):
                step = gpu.narrow(t + high - 1 - i)
                at, is_waiting, is_first = (high - 1 - i) * WIDTH + me, step < left, step == left
                before = select(is_first, first_level, at_step(y, ys, max(step - 1, 0)))
                rise = select(is_first, first_trend, at_step(slope, trends, max(step - 1, 0)))
                to_value, to_level, to_trend, to_alpha, to_beta, to_phi = levels.holt_adjoint(
                    r_level + at_step(g, of_level, step), r_trend + at_step(g_slope, of_trend, step),
                    tile[at], before, rise, k,
                )  # fmt: skip
                tile[at] = select(is_waiting, zero, to_value)
                r_level, r_trend = select(is_waiting, r_level, to_level), select(is_waiting, r_trend, to_trend)
                in_alpha = in_alpha + select(is_waiting, zero, to_alpha)
                in_beta = in_beta + select(is_waiting, zero, to_beta)
                in_phi = in_phi + select(is_waiting, zero, to_phi)
            gpu.barrier()
            drain(to_x, tile, targets, stops, stops, t, geometry.reverse)
        if is_there:
            own = offset(to_k.series, index)
            gpu.store(to_k.at, own, r_level)
            gpu.store(to_k.at, own + to_k.time, r_trend)
            gpu.store(to_k.at, own + 2 * to_k.time, in_alpha)
            gpu.store(to_k.at, own + 3 * to_k.time, in_beta)
            gpu.store(to_k.at, own + 4 * to_k.time, in_phi)

    return kernel

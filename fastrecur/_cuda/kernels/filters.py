"""The kernels of filters: a thread for each series, and chunks of steps that go through all sections.

A block is a warp, with as many series. Each chunk of the signal is read as it stands in memory, neighbours by
neighbouring threads, and turned round in shared memory, where one section after the other goes through it, as on a CPU.
Between chunks the states, in difference form, are where they are returned. Time is not cut.
"""

import numpy as np

from ..._steps.recurrence import constant, fma, magnitude, select
from ..._steps.sections import NEAR, form, section, two_poles
from . import device as gpu
from .operands import find_series, offset
from .selective import finder

THREADS = CHUNK = 32
AHEAD = 16  # loads of a thread before it uses the first
LOOKED_AT = 8  # steps, for the sign of a section that varies in time
WIDTH = THREADS + 1  # of a row of steps in shared memory: its columns are in different banks
TILE = CHUNK * WIDTH


@gpu.helper
def step_at(t, stop, reverse):
    """Return which step of a series comes after t others; of what is behind its valid ones, the same."""
    return gpu.narrow(stop - 1 - t if reverse != 0 and t < stop else t)


@gpu.helper
def begin(lengths, geometry):
    """Return whether this thread has a series, which one, and how many steps of it are valid, and are written."""
    series = gpu.narrow(gpu.block() * THREADS + gpu.thread())
    is_there, index, valid, steps = find_series(series, lengths, geometry)
    return is_there, index, gpu.narrow(valid.stop - valid.start), gpu.narrow(steps)


@gpu.helper
def begin_in(x, y, places, targets, stops, lengths, geometry):
    """Begin, and tell the block where this thread's series and its results are, and how many steps are valid."""
    found, me = begin(lengths, geometry), gpu.thread()
    places[me], targets[me], stops[me] = offset(x.series, found[1]), offset(y.series, found[1]), found[2]
    return found


@gpu.helper
def chunks_of(geometry):
    """Return how many chunks there are."""
    return gpu.divide(gpu.narrow(geometry.steps + CHUNK - 1), CHUNK)


@gpu.helper
def valid_in(t, stop):
    """Return how many steps of the chunk at t are valid."""
    return gpu.narrow(min(max(stop - t, 0), CHUNK))


def copiers(cuda, zero, by_time, raw):
    """Return the device functions that bring chunks to shared memory and away."""
    find = finder(by_time, CHUNK, THREADS)

    @gpu.helper
    def fill(tile, x, places, stops, t, reverse):
        raws = cuda.local.array(AHEAD, raw)
        for first in range(0, CHUNK, AHEAD):
            for e in range(AHEAD):
                step, other = find(gpu.narrow(gpu.thread() + (first + e) * THREADS))
                raws[e] = raw(0)
                if t + step < stops[other]:
                    at = places[other] + step_at(gpu.narrow(t + step), stops[other], reverse) * x.time
                    raws[e] = gpu.load_raw(x.at, at, zero)
            for e in range(AHEAD):
                step, other = find(gpu.narrow(gpu.thread() + (first + e) * THREADS))
                tile[step * WIDTH + other] = gpu.unpack(x.at, raws[e], zero)

    @gpu.helper
    def drain(y, tile, places, stops, ends, t, reverse):
        """Write a chunk, zeros behind a series' valid steps; a thread reads the places of the tile that it fills."""
        for e in range(CHUNK):
            step, other = find(gpu.narrow(gpu.thread() + e * THREADS))
            if t + step < ends[other]:
                at = places[other] + step_at(gpu.narrow(t + step), stops[other], reverse) * y.time
                gpu.store(y.at, at, select(t + step < stops[other], tile[step * WIDTH + other], zero))

    return fill, drain


def fields(zero, order, poles):
    """Return the device functions that give a section's b and a of a number; those above its order are 0."""

    @gpu.helper
    def b_of(sos, at, k, cascade):
        if poles:
            return constant(1.0 if k == 0 else 0.0, zero)
        return gpu.load(sos.at, at + k * cascade.field, zero) if k <= order else zero

    @gpu.helper
    def a_of(sos, at, k, cascade):
        first = -1 if poles else order + 1
        return gpu.load(sos.at, at + (first + k) * cascade.field, zero) if k <= order else zero

    return b_of, a_of


def pairs(zero, order, poles, varies, direct):
    """Return the device function that takes a chunk through a section of second order, or less, in difference form."""
    b_of, a_of = fields(zero, order, poles)

    @gpu.helper
    def read(sos, at, sign, cascade):
        b0, b1, b2 = b_of(sos, at, 0, cascade), b_of(sos, at, 1, cascade), b_of(sos, at, 2, cascade)
        return form(b0, b1, b2, a_of(sos, at, 1, cascade), a_of(sos, at, 2, cascade), sign)

    @gpu.helper
    def sign_of(sos, at, steps, cascade):
        """Return the sign of a section's form; it stays for all steps, so that a state means the same at all."""
        one, looks = constant(1.0, zero), gpu.narrow(min(LOOKED_AT, steps) if varies else 1)
        total, least = zero, constant(2.0, zero)
        for n in range(looks):
            here = at + gpu.divide(gpu.narrow(n * gpu.narrow(steps)), looks) * sos.time
            a1, a2 = a_of(sos, here, 1, cascade), a_of(sos, here, 2, cascade)
            total, least = total + a1, min(least, a2 - magnitude(a1))
        return select(one + least < constant(NEAR, zero), select(total <= zero, one, -one), zero)

    @gpu.helper
    def advance(tile, sos, at, states, first, last, t, high, stop, geometry, cascade):
        sign, me, width = sign_of(sos, at, geometry.steps, cascade), gpu.thread(), cascade.last_number
        p = gpu.load(states, first, zero) if order > 0 else zero
        q = gpu.load(states, first + width, zero) if order > 1 else zero
        if t == 0 or order < 2:  # SciPy's states become those of the difference form; without a second, it is 0
            if direct:
                p = fma(-sign, q, p)
            else:
                q = fma(sign, p, q)
        steady = read(sos, at, sign, cascade)
        for k in range(high):
            if varies:
                here = at + step_at(gpu.narrow(t + k), stop, geometry.reverse) * sos.time
                steady = read(sos, here, sign, cascade)
            v = tile[k * WIDTH + me]
            if direct:
                y, p, q = two_poles(v, p, q, steady)
            else:
                y, p, q = section(v, p, q, steady)
            tile[k * WIDTH + me] = y
        if last or order < 2:
            if direct:
                p = fma(sign, q, p)
            else:
                q = fma(-sign, p, q)
        if order > 0:
            gpu.store(states, first, p)
        if order > 1:
            gpu.store(states, first + width, q)

    return advance


def any_order(cuda, zero, order, poles, varies, direct):
    """Return the device function that takes a chunk through a section of any order, in SciPy's form."""
    kind = type(zero)
    b_of, a_of = fields(zero, order, poles)

    @gpu.helper
    def advance(tile, sos, at, states, first, last, t, high, stop, geometry, cascade):
        z, me, here = cuda.local.array(order, kind), gpu.thread(), at
        for k in range(order):
            z[k] = gpu.load(states, first + k * cascade.last_number, zero)
        for i in range(high):
            if varies:
                here = at + step_at(gpu.narrow(t + i), stop, geometry.reverse) * sos.time
            v = tile[i * WIDTH + me]
            if direct:
                y = v
                for k in range(order):
                    y = fma(-a_of(sos, here, order - k, cascade), z[order - 1 - k], y)
                for k in range(order - 1):
                    z[order - 1 - k] = z[order - 2 - k]
                z[0] = y
            else:
                y = fma(b_of(sos, here, 0, cascade), v, z[0])
                for k in range(1, order + 1):
                    after = z[k] if k < order else zero
                    after = fma(-a_of(sos, here, k, cascade), y, after)
                    z[k - 1] = fma(b_of(sos, here, k, cascade), v, after)
            tile[i * WIDTH + me] = y
        for k in range(order):
            gpu.store(states, first + k * cascade.last_number, z[k])

    return advance


def starter(zero, order, poles, scaled):
    """Return the device function that writes a series' first states where the last ones will stand."""
    b_of, a_of = fields(zero, order, poles)

    @gpu.helper
    def settled(sos, at, cascade):
        """Return the output of a section of second order, and its states, after 1 for ever."""
        b1, b2, one = b_of(sos, at, 1, cascade), b_of(sos, at, 2, cascade), constant(1.0, zero)
        a1, a2 = a_of(sos, at, 1, cascade), a_of(sos, at, 2, cascade)
        gain = (b_of(sos, at, 0, cascade) + b1 + b2) / (one + a1 + a2)
        second = b2 - a2 * gain
        return gain, b1 - a1 * gain + second, second

    @gpu.helper
    def start(level, sos, own, h0, given, last, state, cascade):
        for s in range(cascade.count):
            to = state + s * cascade.last
            if scaled and gpu.is_null(h0.at):
                gain, first, second = settled(sos, own + s * cascade.section, cascade)
                gpu.store(last.at, to, level * first)
                gpu.store(last.at, to + cascade.last_number, level * second)
                level = level * gain
            else:
                for k in range(order):
                    value = zero
                    if not gpu.is_null(h0.at):
                        value = gpu.load(h0.at, given + s * cascade.h0 + k * cascade.h0_number, zero)
                    gpu.store(last.at, to + k * cascade.last_number, level * value if scaled else value)

    return start


def cascade(cuda, zero, order, poles, varies, direct, scaled, by_time, raws):
    """Return the kernel of sections of an order, or of poles alone; ``varies`` says whether coefficients do in time.

    States are SciPy's or, if ``direct``, the last outputs. Poles with SciPy's states are the adjoint of direct ones.
    If ``scaled``, first states are those of a signal that begins with 1; without any, of one that was its first value
    for ever.
    """
    kind, start = type(zero), starter(zero, order, poles, scaled)
    fill, drain = copiers(cuda, zero, by_time, raws["x"])
    kinds = zero, order, poles, varies, direct
    advance = pairs(*kinds) if order <= 2 else any_order(cuda, *kinds)

    def kernel(x, sos, h0, y, last, lengths, geometry, cascade):
        tile, places = cuda.shared.array(TILE, kind), cuda.shared.array(THREADS, np.int64)
        targets, stops = cuda.shared.array(THREADS, np.int64), cuda.shared.array(THREADS, np.int32)
        ends, me = cuda.shared.array(THREADS, np.int32), gpu.thread()
        is_there, index, stop, end = begin_in(x, y, places, targets, stops, lengths, geometry)
        ends[me] = end
        own, state = offset(sos.series, index), offset(last.series, index)
        if is_there:
            level = zero
            if scaled and stop > 0:
                at = places[me] + step_at(gpu.narrow(0), stop, geometry.reverse) * x.time
                level = gpu.load(x.at, at, zero)
            start(level, sos, own, h0, offset(h0.series, index), last, state, cascade)
        gpu.barrier()
        chunks = chunks_of(geometry)
        for n in range(chunks):
            t = gpu.narrow(n * CHUNK)
            fill(tile, x, places, stops, t, geometry.reverse)
            gpu.barrier()
            if is_there:
                high = valid_in(t, stop)
                for s in range(cascade.count):
                    at, first = own + s * cascade.section, state + s * cascade.last
                    advance(tile, sos, at, last.at, first, n == chunks - 1, t, high, stop, geometry, cascade)
            gpu.barrier()
            drain(y, tile, targets, stops, ends, t, geometry.reverse)

    return kernel


def lags(cuda, zero, size, order, poles, varies):
    """Return the kernel of gradients by coefficients: sums of products with what was up to ``order`` steps before.

    Of poles, ``x`` are outputs and ``y`` the cotangents of all that comes of each. Of a section, ``x`` are the latter
    in their scan's direction, ``y`` outputs and ``g`` inputs, whose cotangents are found here.
    """
    kind, numbers = type(zero), order + 1
    count, before_a = (order, -1) if poles else (2 * numbers, order + 1)
    b_of, _ = fields(zero, order, poles)

    def kernel(x, sos, h0, y, g, to_x, to_k, lengths, geometry, cascade):
        past, sums = cuda.local.array(numbers, kind), cuda.local.array(count, kind)
        is_there, index, stop, end = begin(lengths, geometry)
        xs, ys, gs = offset(x.series, index), offset(y.series, index), offset(g.series, index)
        own, to, grads = offset(sos.series, index), offset(to_x.series, index), offset(to_k.series, index)
        for k in range(count):
            sums[k] = zero
        for k in range(order):
            past[k + 1] = zero
            if not gpu.is_null(h0.at):
                past[k + 1] = gpu.load(h0.at, offset(h0.series, index) + k * cascade.h0_number, zero)
        for t in range(end):
            step, out = step_at(gpu.narrow(t), stop, geometry.reverse), zero
            if varies:
                for k in range(count):
                    sums[k] = zero
            if t < stop:
                past[0], other = gpu.load(x.at, xs + step * x.time, zero), gpu.load(y.at, ys + step * y.time, zero)
                if poles:
                    out = other
                else:
                    v = gpu.load(g.at, gs + step * g.time, zero)
                    for k in range(numbers):
                        out = fma(b_of(sos, own + step * sos.time, k, cascade), past[k], out)
                        sums[k] = fma(v, past[k], sums[k])
                for k in range(order, 0, -1):
                    sums[before_a + k] = fma(-other, past[k], sums[before_a + k])
                    past[k] = past[k - 1]
            gpu.store(to_x.at, to + step * to_x.time, out)
            if varies:
                for k in range(count):
                    gpu.store(to_k.at, grads + step * to_k.time + k * size, sums[k])
        if is_there and not varies:
            for k in range(count):
                gpu.store(to_k.at, grads + k * size, sums[k])

    return kernel


def quotient(cuda, zero):
    """Return the kernel that divides polynomials by ``a[0]`` and puts b and a side by side, filled up with zeros."""

    @gpu.helper
    def divide(y, to, x, own, count, most, first):
        for k in range(most):
            value = gpu.load(x.at, own + k * x.time, zero) / first if k < count else zero
            gpu.store(y.at, to + k * y.time, value)

    def kernel(b, a, y, lengths, geometry, counts):
        is_there, index, _, _ = begin(lengths, geometry)
        most = max(counts.b, counts.a)
        if is_there:
            own, to = offset(a.series, index), offset(y.series, index)
            first = gpu.load(a.at, own, zero)
            divide(y, to, b, offset(b.series, index), counts.b, most, first)
            divide(y, to + most * y.time, a, own, counts.a, most, first)

    return kernel

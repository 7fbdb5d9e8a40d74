"""The kernel of the selective scan: some lanes of a warp for each channel of a row, and some states for each lane.

Rows are sequences, or segments. A block has ``THREADS // lanes`` channels of one row that share B and C, and walks
along time in chunks. Each chunk of the operands is read as it stands in memory, neighbours by neighbouring threads, and
turned round in shared memory, so that no layout is copied: first step sizes, inputs, B and C, then, when the chunk has
been scanned, gates. A step is taken through softplus once, where it is read. States stay in registers; what they give
is added up over lanes in a fixed order.

Time is not cut: few channels of one sequence leave most of a card without work. For few, ``lanes`` is larger.
"""

import numpy as np

from ..._steps.recurrence import constant, fma, select
from ..._steps.selective import LOG2_E, advance, bounded, power, silu, softplus
from . import device as gpu

THREADS = 128
MOST_STATES = 256
_SHARED = 32 << 10  # bytes of shared memory for a block: some of these fit each multiprocessor
_LANES = 32  # of a warp


def lanes_of(states, channels, wanted):
    """Return how many lanes a channel gets: for so many threads in all, if there are states enough, four else."""
    lanes = 1
    while lanes < min(states, _LANES) and (4 * lanes < states or channels * lanes < wanted):
        lanes *= 2
    return lanes


def chunk_of(states, lanes, size):
    """Return how many steps a chunk has, of numbers of so many bytes."""
    # Of a chunk a thread reads four numbers at most: more, with softplus, are not unrolled and end in local memory.
    chunk = min(32, 4 * lanes)
    while chunk > 1 and chunk * size * (3 * (THREADS // lanes + 1) + 2 * (states + 1)) > _SHARED:
        chunk //= 2
    return chunk


def row_finder(channels, cuts):
    """Return the device functions that find a block's channels, and the steps of its row."""

    @gpu.helper
    def find(geometry):
        """Return a block's row, its first channel, how many of its channels there are, and their group."""
        unit = gpu.narrow(gpu.block())
        pair = gpu.divide(unit, geometry.inners)
        row = gpu.divide(pair, geometry.middles)
        group, first = pair - row * geometry.middles, (unit - pair * geometry.inners) * channels
        here = min(channels, geometry.width - first)
        return gpu.narrow(row), gpu.narrow(group * geometry.width + first), gpu.narrow(here), gpu.narrow(group)

    @gpu.helper
    def steps_of(row, lengths, cuts, geometry):
        """Return a row's batch, its first step, the one past its last valid one, and the one past those it writes."""
        if "offsets" in cuts_made:
            begin = min(max(gpu.load_int(cuts.at, row * cuts.next), 0), geometry.steps)
            end = min(max(gpu.load_int(cuts.at, (row + 1) * cuts.next), begin), geometry.steps)
            return gpu.narrow(0), gpu.narrow(begin), gpu.narrow(end), gpu.narrow(end)
        end = gpu.narrow(geometry.steps)
        if not gpu.is_null(lengths.at):
            length = gpu.load_int(lengths.at, row * lengths.series[0])
            end = gpu.narrow(min(max(length, 0), geometry.steps))
        return gpu.narrow(row), gpu.narrow(0), end, gpu.narrow(geometry.steps)

    cuts_made = cuts
    return find, steps_of


def finder(by_time, chunk, others):
    """Return the device function that gives the step, and the channel or state, of a number of a chunk's.

    Neighbouring numbers are of neighbouring steps if these stand side by side in memory.
    """

    @gpu.helper
    def find(index):
        if by_time:
            other = gpu.divide(index, chunk)
            return gpu.narrow(index - other * chunk), gpu.narrow(other)
        step = gpu.divide(index, others)
        return gpu.narrow(step), gpu.narrow(index - step * others)

    return find


def map_loader(cuda, zero, states, chunk, by_time, is_constant, raw):
    """Return the device function that reads a chunk of B or C, zeros past its end."""
    count, find, pad = -(-chunk * states // THREADS), finder(by_time, chunk, states), states | 1

    @gpu.helper
    def load_map(x, place, t, high, tile):
        if not is_constant:
            raws = cuda.local.array(count, raw)
            for e in range(count):
                step, state = find(gpu.narrow(gpu.thread() + e * THREADS))
                raws[e] = raw(0)
                if step < high and state < states:
                    raws[e] = gpu.load_raw(x.at, place + (t + step) * x.time + state * x.series[2], zero)
            for e in range(count):
                step, state = find(gpu.narrow(gpu.thread() + e * THREADS))
                if step < chunk and state < states:
                    tile[step * pad + state] = gpu.unpack(x.at, raws[e], zero)

    return load_map


def forward(cuda, zero, states, lanes, chunk, soft, by_time, constants, cuts, raws):
    """Return the kernel; ``by_time`` says of what steps stand side by side, ``constants`` which maps have no time."""
    kind, per, channels = type(zero), -(-states // lanes), THREADS // lanes
    width, pad, rounds = channels + 1, states | 1, lanes.bit_length() - 1
    count, ragged, has_resets = -(-chunk * channels // THREADS), per * lanes != states, "resets" in cuts
    b_constant, c_constant = "b" in constants, "c" in constants
    u_raw, delta_raw, z_raw = raws["u"], raws["delta"], raws["z"]
    find_row, steps_of = row_finder(channels, cuts)
    find = finder("u" in by_time, chunk, channels)
    load_b = map_loader(cuda, zero, states, chunk, "b" in by_time, b_constant, raws["b"])
    load_c = map_loader(cuda, zero, states, chunk, "c" in by_time, c_constant, raws["c"])
    tile = chunk * width
    b_size, c_size = 1 if b_constant else chunk * pad, 1 if c_constant else chunk * pad

    @gpu.helper
    def load_steps(u, delta, u_at, delta_at, t, here, high, biases, sizes, inputs):
        """Read a chunk of inputs and step sizes; of what is not there, zeros."""
        u_raws, delta_raws = cuda.local.array(count, u_raw), cuda.local.array(count, delta_raw)
        for e in range(count):
            step, channel = find(gpu.narrow(gpu.thread() + e * THREADS))
            u_raws[e], delta_raws[e] = u_raw(0), delta_raw(0)
            if step < high and channel < here:
                at = t + step
                u_raws[e] = gpu.load_raw(u.at, u_at + at * u.time + channel * u.series[1], zero)
                delta_raws[e] = gpu.load_raw(delta.at, delta_at + at * delta.time + channel * delta.series[1], zero)
        for e in range(count):
            step, channel = find(gpu.narrow(gpu.thread() + e * THREADS))
            if step < chunk and channel < channels:
                size = gpu.unpack(delta.at, delta_raws[e], zero) + biases[channel]
                if soft:
                    size, _ = softplus(size)
                sizes[step * width + channel] = size
                inputs[step * width + channel] = gpu.unpack(u.at, u_raws[e], zero)

    @gpu.helper
    def store_outputs(y, z, y_at, z_at, t, here, high, stop, skips, inputs, outs):
        """Write a chunk of outputs, zeros past the last valid step."""
        z_raws, has_gate = cuda.local.array(count, z_raw), not gpu.is_null(z.at)
        for e in range(count):
            step, channel = find(gpu.narrow(gpu.thread() + e * THREADS))
            z_raws[e] = z_raw(0)
            if has_gate and step < high and channel < here:
                z_raws[e] = gpu.load_raw(z.at, z_at + (t + step) * z.time + channel * z.series[1], zero)
        for e in range(count):
            step, channel = find(gpu.narrow(gpu.thread() + e * THREADS))
            if step < stop and channel < here:
                value = zero
                if step < high:
                    place = step * width + channel
                    value = fma(skips[channel], inputs[place], outs[place])
                    if has_gate:
                        gate, _ = silu(gpu.unpack(z.at, z_raws[e], zero))
                        value = value * gate
                gpu.store(y.at, y_at + (t + step) * y.time + channel * y.series[1], value)

    def kernel(u, delta, a, b, c, skip, z, bias, h0, y, last, lengths, geometry, cuts):
        sizes, inputs = cuda.shared.array(tile, kind), cuda.shared.array(tile, kind)
        outs, flags = cuda.shared.array(tile, kind), cuda.shared.array(chunk, np.int32)
        b_tile, c_tile = cuda.shared.array(b_size, kind), cuda.shared.array(c_size, kind)
        skips, biases = cuda.shared.array(channels, kind), cuda.shared.array(channels, kind)
        me = gpu.narrow(gpu.thread())
        mine = gpu.divide(me, lanes)
        lane, in_warp = gpu.narrow(me - mine * lanes), gpu.narrow(me & 31)
        row, base, here, group = find_row(geometry)
        batch, begin, end, stop = steps_of(row, lengths, cuts, geometry)
        if me < channels:
            skips[me], biases[me] = zero, zero
            if me < here and not gpu.is_null(skip.at):
                skips[me] = gpu.load(skip.at, (base + me) * skip.series[0], zero)
            if me < here and not gpu.is_null(bias.at):
                biases[me] = gpu.load(bias.at, (base + me) * bias.series[0], zero)
        # What a lane has of states; of a channel or a state that is not there, another one's, which nothing takes.
        channel, has_h0 = base + min(mine, here - 1), not gpu.is_null(h0.at)
        rates, h = cuda.local.array(per, kind), cuda.local.array(per, kind)
        into, out_of = cuda.local.array(per, kind), cuda.local.array(per, kind)
        for k in range(per):
            n = min(lane + lanes * k, states - 1)
            rates[k] = bounded(gpu.load(a.at, channel * a.series[1] + n * a.series[2], zero) * constant(LOG2_E, zero))
            h[k], into[k], out_of[k] = zero, zero, zero
            if has_h0:
                h[k] = gpu.load(h0.at, row * h0.series[0] + channel * h0.series[1] + n * h0.series[2], zero)
            if b_constant:
                into[k] = gpu.load(b.at, channel * b.series[1] + n * b.series[2], zero)
            if c_constant:
                out_of[k] = gpu.load(c.at, channel * c.series[1] + n * c.series[2], zero)
        u_at = batch * u.series[0] + base * u.series[1]
        delta_at = batch * delta.series[0] + base * delta.series[1]
        z_at, y_at = batch * z.series[0] + base * z.series[1], batch * y.series[0] + base * y.series[1]
        b_at = batch * b.series[0] + group * b.series[1]
        c_at = batch * c.series[0] + group * c.series[1]
        gpu.barrier()
        chunks = gpu.divide(gpu.narrow(stop - begin + chunk - 1), chunk)
        for passed in range(chunks):
            t = gpu.narrow(begin + (chunks - 1 - passed if geometry.reverse else passed) * chunk)
            high = gpu.narrow(min(max(end - t, 0), chunk))
            load_steps(u, delta, u_at, delta_at, t, here, high, biases, sizes, inputs)
            load_b(b, b_at, t, high, b_tile)
            load_c(c, c_at, t, high, c_tile)
            if has_resets:
                if me < chunk:
                    flags[me] = 0
                    if me < high:
                        at = batch * cuts.series[0] + (t + me) * cuts.time
                        flags[me] = gpu.narrow(gpu.load_int(cuts.resets, at))
            gpu.barrier()
            for walked in range(high):
                i = gpu.narrow(high - 1 - walked if geometry.reverse else walked)
                place, maps = i * width + mine, i * pad
                if has_resets:
                    if flags[i] != 0 and not geometry.reverse:
                        for k in range(per):
                            h[k] = zero
                size = sizes[place]
                added, factor, total = size * inputs[place], bounded(size), zero
                for k in range(per):
                    n = gpu.narrow(lane + lanes * k)
                    if ragged:
                        n = gpu.narrow(min(n, states - 1))
                    if not b_constant:
                        into[k] = b_tile[maps + n]
                    if not c_constant:
                        out_of[k] = c_tile[maps + n]
                    h[k] = advance(h[k], power(factor * rates[k]), added, into[k])
                    more = fma(h[k], out_of[k], total)
                    total = select(lane + lanes * k < states, more, total) if ragged else more
                for r in range(rounds):
                    total = total + gpu.shuffle(total, in_warp ^ (1 << r))
                if lane == 0:
                    outs[place] = total
                if has_resets:
                    if flags[i] != 0 and geometry.reverse:
                        for k in range(per):
                            h[k] = zero
            gpu.barrier()
            left = gpu.narrow(min(stop - t, chunk))
            store_outputs(y, z, y_at, z_at, t, here, high, left, skips, inputs, outs)
        for k in range(per):
            n = lane + lanes * k
            if mine < here and n < states:
                at = row * last.series[0] + channel * last.series[1] + n * last.series[2]
                gpu.store(last.at, at, h[k])

    return kernel

"""Kernels of the selective scan: some lanes of a warp for each channel of a row, and some states for each lane.

Rows are sequences, or segments. A block has ``THREADS // lanes`` channels of one row that share B and C, and walks
along time in chunks. Each chunk of the operands is read as it stands in memory, neighbours by neighbouring threads, and
turned round in shared memory, so that no layout is copied. A step is taken through softplus once, where it is read, and
so is a gate. States stay in registers; what they give is added up over lanes in a fixed order. For a gradient the same
kernel keeps the states before each chunk, and writes nothing else.

Time is not cut: few channels of one sequence leave most of a card without work. For few, ``lanes`` is larger.
"""

from collections import namedtuple

import numpy as np

from ..._steps.recurrence import constant, fma, select
from ..._steps.selective import LOG2_E, advance, bounded, power, silu, softplus
from . import device as gpu

THREADS = 128
MOST_STATES = 256
_SHARED = 32 << 10, 40 << 10  # bytes of shared memory for a block, and in a gradient: some fit each multiprocessor
_LANES = 32  # of a warp

# Where a thread works: a row and its sequence, a group of channels, which block of the group's and of the row's; the
# block's first channel, and how many it has; its number, which of the channels it has, as which lane; the row's first
# step, the one past its last valid one, and the one past those that it writes.
Place = namedtuple("Place", "row batch group block unit base here me mine lane begin end stop")
# A chunk in shared memory. Of each step and channel: steps, inputs, what outputs are multiplied by; in a gradient
# slopes of softplus, cotangents of outputs, those of inputs. Of each step B, C, and whether it begins anew. Then states
# before and after all steps in the direction of the scan, of which the latter give way to their cotangents.
Tiles = namedtuple("Tiles", "sizes inputs gates slopes arriving leaving b c flags past")
# What a thread has of each of its states.
Own = namedtuple("Own", "rates h b c")
# What a kernel is made for: how many states, lanes of a channel, steps of a chunk; how many states a lane has, how many
# channels a block, and the numbers of a step in tiles of channels and of states; which operands' steps stand side by
# side in memory, which maps have no time, how rows are cut.
Form = namedtuple("Form", "states lanes chunk per channels width pad by_time constants cuts")


def lanes_of(states, channels, wanted):
    """Return how many lanes a channel gets: for so many threads in all, if there are states enough, four else."""
    lanes = 1
    while lanes < min(states, _LANES) and (4 * lanes < states or channels * lanes < wanted):
        lanes *= 2
    return lanes


def chunk_of(states, lanes, size, back=False):
    """Return how many steps a chunk has, of numbers of so many bytes."""
    # Of a chunk a thread reads four numbers of each operand at most, which are in registers.
    chunk = min(32, 4 * lanes)
    while chunk > 1:
        form = form_of(states, lanes, chunk)
        numbers = chunk * ((6 if back else 3) * form.width + 2 * form.pad)
        if (numbers + back * (chunk + 1) * form.per * THREADS) * size <= _SHARED[back]:
            break
        chunk //= 2
    return chunk


def form_of(states, lanes, chunk, by_time=(), constants=(), cuts=()):
    per, channels = -(-states // lanes), THREADS // lanes
    return Form(states, lanes, chunk, per, channels, channels + 1, states | 1, by_time, constants, cuts)


# ---- Rows -----------------------------------------------------------------------------------------------------------


def row_finder(form):
    """Return the device functions that find a thread's place, and look at the end of its row."""
    channels, lanes, rounds = form.channels, form.lanes, form.lanes.bit_length() - 1
    has_offsets, has_resets = "offsets" in form.cuts, "resets" in form.cuts

    @gpu.helper
    def steps_of(row, lengths, cuts, geometry):
        """Return a row's sequence, its first step, the one past its last valid one, and the one past its last."""
        if has_offsets:
            begin = min(max(gpu.load_int(cuts.at, row * cuts.next), 0), geometry.steps)
            end = min(max(gpu.load_int(cuts.at, (row + 1) * cuts.next), begin), geometry.steps)
            return gpu.narrow(0), gpu.narrow(begin), gpu.narrow(end), gpu.narrow(end)
        end = gpu.narrow(geometry.steps)
        if not gpu.is_null(lengths.at):
            length = gpu.load_int(lengths.at, row * lengths.series[0])
            end = gpu.narrow(min(max(length, 0), geometry.steps))
        return gpu.narrow(row), gpu.narrow(0), end, gpu.narrow(geometry.steps)

    @gpu.helper
    def find(lengths, cuts, geometry):
        unit, me = gpu.narrow(gpu.block()), gpu.narrow(gpu.thread())
        pair = gpu.divide(unit, geometry.inners)
        row = gpu.divide(pair, geometry.middles)
        group, block = gpu.narrow(pair - row * geometry.middles), gpu.narrow(unit - pair * geometry.inners)
        first, of_row = block * channels, gpu.narrow(unit - row * geometry.middles * geometry.inners)
        base, here = gpu.narrow(group * geometry.width + first), gpu.narrow(min(channels, geometry.width - first))
        mine, lane = gpu.narrow(me >> rounds), gpu.narrow(me & (lanes - 1))
        batch, begin, end, stop = steps_of(row, lengths, cuts, geometry)
        return Place(gpu.narrow(row), batch, group, block, of_row, base, here, me, mine, lane, begin, end, stop)

    @gpu.helper
    def hands_on(cuts, place, reverse):
        """Return whether a row hands its last states on: not where the last step, against time, begins anew."""
        is_open = True
        if has_resets:
            if reverse and place.begin < place.end:
                at = place.batch * cuts.series[0] + place.begin * cuts.time
                is_open = gpu.load_int(cuts.resets, at) == 0
        return is_open

    return find, hands_on


def row_loader(zero, form):
    """Return the device functions that read what a thread has for all steps, and read and write numbers of states."""
    per, states, lanes, channels = form.per, form.states, form.lanes, form.channels
    b_constant, c_constant = "b" in form.constants, "c" in form.constants

    @gpu.helper
    def start(weights, place, biases, own):
        """Read the biases of a block's channels, what a thread has of its states, and D, which is returned."""
        skip, mine = zero, place.base + min(place.mine, place.here - 1)
        if place.me < channels:
            biases[place.me] = zero
            if place.me < place.here and not gpu.is_null(weights.bias.at):
                biases[place.me] = gpu.load(weights.bias.at, (place.base + place.me) * weights.bias.series[0], zero)
        if not gpu.is_null(weights.skip.at):
            skip = gpu.load(weights.skip.at, mine * weights.skip.series[0], zero)
        load_row(weights.a, place, own.rates)
        for k in range(per):
            own.rates[k] = bounded(own.rates[k] * constant(LOG2_E, zero))
            own.b[k], own.c[k] = zero, zero
        if b_constant:
            load_row(weights.b, place, own.b)
        if c_constant:
            load_row(weights.c, place, own.c)
        return skip

    @gpu.helper
    def load_row(x, place, numbers):
        """Read numbers, zeros where there are none; of a channel or state that is not there, another one's."""
        channel, is_there = place.base + min(place.mine, place.here - 1), not gpu.is_null(x.at)
        for k in range(per):
            n = min(place.lane + lanes * k, states - 1)
            numbers[k] = zero
            if is_there:
                at = place.row * x.series[0] + channel * x.series[1] + n * x.series[2]
                numbers[k] = gpu.load(x.at, at, zero)

    @gpu.helper
    def store_row(x, place, numbers):
        for k in range(per):
            n = place.lane + lanes * k
            if place.mine < place.here and n < states:
                at = place.row * x.series[0] + (place.base + place.mine) * x.series[1] + n * x.series[2]
                gpu.store(x.at, at, numbers[k])

    return start, load_row, store_row


def keeper(zero, size, form):
    """Return the device functions that keep a thread's states before a chunk, and that read them."""
    per, chunk = form.per, form.chunk

    @gpu.helper
    def place_of(kept, place, number):
        # Segments need no more chunks than whole ones, and one each.
        number = gpu.divide(place.begin, chunk) + number
        return place.row * kept.series[0] + number * kept.series[1] + place.unit * kept.series[2] + place.me * size

    @gpu.helper
    def keep(kept, place, number, h):
        at = place_of(kept, place, number)
        for k in range(per):
            gpu.store(kept.at, at + k * (THREADS * size), h[k])

    @gpu.helper
    def recall(kept, place, number, h, past):
        at = place_of(kept, place, number)
        for k in range(per):
            h[k] = gpu.load(kept.at, at + k * (THREADS * size), zero)
            past[k * THREADS + place.me] = h[k]

    return keep, recall


# ---- Chunks ---------------------------------------------------------------------------------------------------------


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


@gpu.helper
def anew(place):
    """Return a place for a chunk: of addresses that are made of it the compiler keeps none for the next."""
    return Place(
        gpu.anew(place.row), gpu.anew(place.batch), gpu.anew(place.group), gpu.anew(place.block),
        gpu.anew(place.unit), gpu.anew(place.base), gpu.anew(place.here), gpu.anew(place.me), place.mine, place.lane,
        place.begin, place.end, place.stop,
    )  # fmt: skip


@gpu.helper
def offset_of(x, place, t, channel):
    """Return where an operand has a step of a block's channel."""
    return place.batch * x.series[0] + (place.base + channel) * x.series[1] + t * x.time


def tile_loader(cuda, zero, form, soft, back, gated, raws):
    """Return the device function that reads a chunk of what has a number for each step, zeros for what is not there."""
    channels, chunk, width, one = form.channels, form.chunk, form.width, zero + 1
    count, find = -(-chunk * channels // THREADS), finder("u" in form.by_time, chunk, channels)
    u_raw, delta_raw, z_raw, y_raw = (raws[name] for name in ("u", "delta", "z", "y"))

    @gpu.helper
    def activate(place, has_gate, tiles):
        # A loop of its own, without arrays in registers: the compiler does not always unroll one with activations.
        for e in range(count):
            step, channel = find(gpu.narrow(place.me + e * THREADS))
            if step < chunk and channel < channels:
                k = step * width + channel
                slope, gate, gate_slope = one, one, zero
                if soft:
                    tiles.sizes[k], slope = softplus(tiles.sizes[k])
                if has_gate:
                    gate, gate_slope = silu(tiles.gates[k])
                if back:
                    tiles.slopes[k], tiles.gates[k] = slope, gate_slope * tiles.arriving[k]
                    tiles.arriving[k] = gate * tiles.arriving[k]
                else:
                    tiles.gates[k] = gate

    @gpu.helper
    def load_tiles(timed, place, t, high, biases, tiles):
        us, deltas = cuda.local.array(count, u_raw), cuda.local.array(count, delta_raw)
        zs, ys = cuda.local.array(count, z_raw), cuda.local.array(count, y_raw)
        has_gate = gated and not gpu.is_null(timed.z.at)
        for e in range(count):
            step, channel = find(gpu.narrow(place.me + e * THREADS))
            us[e], deltas[e], zs[e], ys[e] = u_raw(0), delta_raw(0), z_raw(0), y_raw(0)
            if step < high and channel < place.here:
                us[e] = gpu.load_raw(timed.u.at, offset_of(timed.u, place, t + step, channel), zero)
                deltas[e] = gpu.load_raw(timed.delta.at, offset_of(timed.delta, place, t + step, channel), zero)
                if has_gate:
                    zs[e] = gpu.load_raw(timed.z.at, offset_of(timed.z, place, t + step, channel), zero)
                if back:
                    ys[e] = gpu.load_raw(timed.y.at, offset_of(timed.y, place, t + step, channel), zero)
        for e in range(count):
            step, channel = find(gpu.narrow(place.me + e * THREADS))
            if step < chunk and channel < channels:
                k = step * width + channel
                tiles.inputs[k] = gpu.unpack(timed.u.at, us[e], zero)
                tiles.sizes[k] = gpu.unpack(timed.delta.at, deltas[e], zero) + biases[channel]
                tiles.gates[k] = gpu.unpack(timed.z.at, zs[e], zero)
                if back:
                    tiles.arriving[k] = gpu.unpack(timed.y.at, ys[e], zero)
        activate(place, has_gate, tiles)

    return load_tiles


def map_loader(cuda, zero, form, name, raw):
    """Return the device function that reads a chunk of B or C, zeros past its end, if these change with time."""
    chunk, states, pad, is_constant = form.chunk, form.states, form.pad, name in form.constants
    count, find = -(-chunk * states // THREADS), finder(name in form.by_time, chunk, states)

    @gpu.helper
    def load_map(x, place, t, high, tile):
        if not is_constant:
            raws, start = cuda.local.array(count, raw), place.batch * x.series[0] + place.group * x.series[1]
            for e in range(count):
                step, state = find(gpu.narrow(place.me + e * THREADS))
                raws[e] = raw(0)
                if step < high and state < states:
                    raws[e] = gpu.load_raw(x.at, start + (t + step) * x.time + state * x.series[2], zero)
            for e in range(count):
                step, state = find(gpu.narrow(place.me + e * THREADS))
                if step < chunk and state < states:
                    tile[step * pad + state] = gpu.unpack(x.at, raws[e], zero)

    return load_map


def chunk_loader(cuda, zero, form, soft, raws, back=False, outputs=True):
    """Return the device function that reads a chunk, what there is for ``outputs`` only if these are wanted."""
    chunk, has_resets = form.chunk, "resets" in form.cuts
    load_tiles = tile_loader(cuda, zero, form, soft, back, outputs, raws)
    load_b, load_c = (map_loader(cuda, zero, form, name, raws[name]) for name in "bc")

    @gpu.helper
    def load_chunk(timed, weights, cuts, place, number, reverse, biases, tiles):
        """Return its first step, and how many valid ones it has."""
        t = gpu.narrow(place.begin + number * chunk)
        high = gpu.narrow(min(max(place.end - t, 0), chunk))
        load_tiles(timed, place, t, high, biases, tiles)
        load_b(weights.b, place, t, high, tiles.b)
        if outputs:
            load_c(weights.c, place, t, high, tiles.c)
        if has_resets:
            # A step begins anew in the direction of the scan: against time, if the one after it in time does.
            if place.me < chunk:
                tiles.flags[place.me], at = 0, t + place.me + reverse
                if place.me < high and at < place.end:
                    place_of_flag = place.batch * cuts.series[0] + at * cuts.time
                    tiles.flags[place.me] = gpu.narrow(gpu.load_int(cuts.resets, place_of_flag))
        return t, high

    return load_chunk


def tile_storer(zero, form):
    """Return the device function that writes a chunk, zeros past the last valid step."""
    channels, chunk, width = form.channels, form.chunk, form.width
    count, find = -(-chunk * channels // THREADS), finder("u" in form.by_time, chunk, channels)

    @gpu.helper
    def store_tile(x, place, t, high, tile):
        for e in range(count):
            step, channel = find(gpu.narrow(place.me + e * THREADS))
            if step < min(place.stop - t, chunk) and channel < place.here:
                value = tile[step * width + channel] if step < high else zero
                gpu.store(x.at, offset_of(x, place, t + step, channel), value)

    return store_tile


def scanner(zero, form, back=False, outputs=True):
    """Return the device function that scans a chunk, whose outputs multiply the gates."""
    states, lanes, _, per, _, width, pad, *_ = form
    b_constant, c_constant, has_resets = "b" in form.constants, "c" in form.constants, "resets" in form.cuts
    ragged, rounds = per * lanes != states, lanes.bit_length() - 1

    @gpu.helper
    def scan(tiles, own, place, high, reverse, skip, has_outputs):
        for j in range(high):
            i = gpu.narrow(high - 1 - j if reverse else j)
            k_in, maps = i * width + place.mine, i * pad
            if has_resets:
                if tiles.flags[i] != 0:
                    for k in range(per):
                        own.h[k] = zero
            size, u, total = tiles.sizes[k_in], tiles.inputs[k_in], zero
            added, factor = size * u, bounded(size)
            for k in range(per):
                n = gpu.narrow(place.lane + lanes * k)
                if ragged:
                    n = gpu.narrow(min(n, states - 1))
                if not b_constant:
                    own.b[k] = tiles.b[maps + n]
                own.h[k] = advance(own.h[k], power(factor * own.rates[k]), added, own.b[k])
                if back:
                    tiles.past[((j + 1) * per + k) * THREADS + place.me] = own.h[k]
                if outputs:
                    if not c_constant:
                        own.c[k] = tiles.c[maps + n]
                    more = fma(own.h[k], own.c[k], total)
                    total = select(place.lane + lanes * k < states, more, total) if ragged else more
            if outputs and has_outputs:
                for r in range(rounds):
                    total = total + gpu.shuffle(total, (place.me & 31) ^ (1 << r))
                if place.lane == 0:
                    tiles.gates[k_in] = fma(skip, u, total) * tiles.gates[k_in]

    return scan


def forward(cuda, zero, size, states, lanes, chunk, soft, by_time, constants, cuts, keeps, raws):
    """Return the kernel of the scan, which writes outputs, or keeps the states before each chunk."""
    kind, form = type(zero), form_of(states, lanes, chunk, by_time, constants, cuts)
    (find, hands_on), (start, load_row, store_row) = row_finder(form), row_loader(zero, form)
    load_chunk = chunk_loader(cuda, zero, form, soft, raws, outputs=not keeps)
    scan, store_tile = scanner(zero, form, outputs=not keeps), tile_storer(zero, form)
    keep, _ = keeper(zero, size, form)
    tile, per, channels = chunk * form.width, form.per, form.channels
    b_size = 1 if "b" in constants else chunk * form.pad
    c_size = 1 if "c" in constants or keeps else chunk * form.pad

    def kernel(timed, weights, h0, last, kept, lengths, geometry, cuts):
        sizes, inputs = cuda.shared.array(tile, kind), cuda.shared.array(tile, kind)
        gates, flags = cuda.shared.array(tile, kind), cuda.shared.array(chunk, np.int32)
        b_tile, c_tile = cuda.shared.array(b_size, kind), cuda.shared.array(c_size, kind)
        tiles = Tiles(sizes, inputs, gates, gates, gates, gates, b_tile, c_tile, flags, gates)
        biases, reverse = cuda.shared.array(channels, kind), geometry.reverse
        rates, h = cuda.local.array(per, kind), cuda.local.array(per, kind)
        own = Own(rates, h, cuda.local.array(per, kind), cuda.local.array(per, kind))
        always = find(lengths, cuts, geometry)
        skip = start(weights, always, biases, own)
        load_row(h0, always, own.h)
        gpu.barrier()
        chunks = gpu.divide(gpu.narrow(always.stop - always.begin + chunk - 1), chunk)
        for passed in range(chunks):
            number, place = gpu.narrow(chunks - 1 - passed if reverse else passed), anew(always)
            t, high = load_chunk(timed, weights, cuts, place, number, reverse, biases, tiles)
            if keeps:
                keep(kept, place, number, own.h)
            gpu.barrier()
            scan(tiles, own, place, high, reverse, skip, True)
            gpu.barrier()
            if not keeps:
                store_tile(timed.y, place, t, high, tiles.gates)
        if not keeps:
            if not hands_on(cuts, always, reverse):
                for k in range(per):
                    own.h[k] = zero
            store_row(last, always, own.h)

    return kernel

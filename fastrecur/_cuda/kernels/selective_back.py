"""The kernel of the selective scan's gradient, which goes against time.

`selective` has kept the states before each chunk. From these on a chunk is scanned again, with all its states in shared
memory, and then taken against time, where their cotangents take their places. Gradients of what all rows or all
channels have are sums: each block writes its share, of the sum over its channels in a fixed order, and `sums` adds
these up. Those over time are sums of chunks.
"""

from collections import namedtuple

import numpy as np

from ..._steps.recurrence import constant, fma, select
from ..._steps.selective import LN_2, bounded, power, retreat
from . import device as gpu
from .selective import (
    THREADS,
    Own,
    Tiles,
    anew,
    chunk_loader,
    finder,
    form_of,
    keeper,
    row_finder,
    row_loader,
    scanner,
    tile_storer,
)

# What a thread has of each of its states: cotangents, and sums for A, B and C.
Back = namedtuple("Back", "g a b c")


def retreater(zero, form):
    """Return the device function that takes a chunk, which `scanner`'s has gone through, against time.

    Cotangents of inputs and of steps stand then where they are written from, and those of states where these were.
    """
    states, lanes, _, per, _, width, pad, *_ = form
    b_constant, c_constant, has_resets = "b" in form.constants, "c" in form.constants, "resets" in form.cuts
    ragged, rounds = per * lanes != states, lanes.bit_length() - 1

    @gpu.helper
    def retreat_chunk(tiles, own, back, place, high, reverse, skip):
        """Return sums of the cotangents of D and of the bias."""
        skip_sum, bias_sum = zero, zero
        for ago in range(high):
            j = gpu.narrow(high - 1 - ago)
            i = gpu.narrow(ago if reverse else j)
            at, maps, starts_anew = i * width + place.mine, i * pad, False
            if has_resets:
                starts_anew = tiles.flags[i] != 0
            size, u, out = tiles.sizes[at], tiles.inputs[at], tiles.arriving[at]
            x, factor, added, exponents = size * u, bounded(size), zero, zero
            for k in range(per):
                n, past = gpu.narrow(place.lane + lanes * k), (j * per + k) * THREADS + place.me
                is_state = n < states
                if ragged:
                    n = gpu.narrow(min(n, states - 1))
                if not b_constant:
                    own.b[k] = tiles.b[maps + n]
                if not c_constant:
                    own.c[k] = tiles.c[maps + n]
                before = select(starts_anew, zero, tiles.past[past])
                g = fma(out, own.c[k], back.g[k])
                if c_constant:
                    back.c[k] = fma(out, tiles.past[past + per * THREADS], back.c[k])
                if b_constant:
                    back.b[k] = fma(g, x, back.b[k])
                else:
                    tiles.past[past + per * THREADS] = g
                onward, exponent = retreat(g, power(factor * own.rates[k]), before)
                back.g[k] = select(starts_anew, zero, onward)
                back.a[k] = fma(exponent, factor, back.a[k])
                if ragged:
                    g, exponent = select(is_state, g, zero), select(is_state, exponent, zero)
                added, exponents = fma(g, own.b[k], added), fma(exponent, own.rates[k], exponents)
            for r in range(rounds):
                other = (place.me & 31) ^ (1 << r)
                added, exponents = added + gpu.shuffle(added, other), exponents + gpu.shuffle(exponents, other)
            if place.lane == 0:
                to_size = fma(added, u, constant(LN_2, zero) * exponents) * tiles.slopes[at]
                tiles.slopes[at], tiles.leaving[at] = to_size, fma(added, factor, skip * out)
                skip_sum, bias_sum = fma(out, u, skip_sum), bias_sum + to_size
        return skip_sum, bias_sum

    return retreat_chunk


def channel_summer(zero, form, name):
    """Return the device function that writes a block's share of the gradient of B or C: sums over its channels."""
    states, lanes, chunk, per, channels, width, *_ = form
    by_time, is_constant, of_b = name in form.by_time, name in form.constants, name == "b"
    find, rounds = finder(by_time, chunk, states), lanes.bit_length() - 1

    @gpu.helper
    def sum_channels(x, place, t, high, reverse, tiles):
        """Take a chunk of states for C, of their cotangents for B."""
        if not is_constant:
            at = place.block * x.next + place.batch * x.series[0] + place.group * x.series[1]
            for e in range(-(-chunk * states // THREADS)):
                i, n = find(gpu.narrow(place.me + e * THREADS))
                if i < min(place.stop - t, chunk) and n < states:
                    total = zero
                    if i < high:
                        j = high - i if reverse else i + 1
                        past = (j * per + (n >> rounds)) * THREADS + (n & (lanes - 1))
                        # Each thread begins with another channel, in another bank.
                        turn = place.me if by_time else place.me >> rounds
                        for c in range(channels):
                            channel = (c + turn) & (channels - 1)
                            k = i * width + channel
                            factor = tiles.sizes[k] * tiles.inputs[k] if of_b else tiles.arriving[k]
                            state = select(channel < place.here, tiles.past[past + channel * lanes], zero)
                            total = fma(state, factor, total)
                    gpu.store(x.at, at + n * x.series[2] + (t + i) * x.time, total)

    return sum_channels


def totals_of(zero, form, store_row):
    """Return the device functions that add sums of a chunk to those of all, and that write these."""
    per, b_constant, c_constant = form.per, "b" in form.constants, "c" in form.constants

    @gpu.helper
    def add_up(totals, back):
        for k in range(per):
            totals.a[k], back.a[k] = totals.a[k] + back.a[k], zero
            if b_constant:
                totals.b[k], back.b[k] = totals.b[k] + back.b[k], zero
            if c_constant:
                totals.c[k], back.c[k] = totals.c[k] + back.c[k], zero

    @gpu.helper
    def store_sums(sums, place, totals, skip_total, bias_total):
        store_row(sums.sum_a, place, totals.a)
        if b_constant:
            store_row(sums.sum_b, place, totals.b)
        if c_constant:
            store_row(sums.sum_c, place, totals.c)
        if place.lane == 0 and place.mine < place.here:
            channel, skips, biases = place.base + place.mine, sums.sum_skip, sums.sum_bias
            gpu.store(skips.at, place.row * skips.series[0] + channel * skips.series[1], skip_total)
            gpu.store(biases.at, place.row * biases.series[0] + channel * biases.series[1], bias_total)

    return add_up, store_sums


def vjp(cuda, zero, size, states, lanes, chunk, soft, by_time, constants, cuts, raws):
    """Return the kernel; ``last`` and ``first`` hold cotangents of states, ``kept`` states."""
    kind, form = type(zero), form_of(states, lanes, chunk, by_time, constants, cuts)
    (find, hands_on), (start, load_row, store_row) = row_finder(form), row_loader(zero, form)
    load_chunk, (_, recall) = chunk_loader(cuda, zero, form, soft, raws, back=True), keeper(zero, size, form)
    scan, retreat_chunk, store_tile = scanner(zero, form, back=True), retreater(zero, form), tile_storer(zero, form)
    sum_b, sum_c = (channel_summer(zero, form, name) for name in "bc")
    add_up, store_sums = totals_of(zero, form, store_row)
    tile, per, channels, past = chunk * form.width, form.per, form.channels, (chunk + 1) * form.per * THREADS
    b_size, c_size = (1 if name in constants else chunk * form.pad for name in "bc")

    def kernel(timed, weights, last, first, kept, grads, sums, lengths, geometry, cuts):
        tiles = Tiles(
            cuda.shared.array(tile, kind), cuda.shared.array(tile, kind), cuda.shared.array(tile, kind),
            cuda.shared.array(tile, kind), cuda.shared.array(tile, kind), cuda.shared.array(tile, kind),
            cuda.shared.array(b_size, kind), cuda.shared.array(c_size, kind), cuda.shared.array(chunk, np.int32),
            cuda.shared.array(past, kind),
        )  # fmt: skip
        biases, b, c = cuda.shared.array(channels, kind), cuda.local.array(per, kind), cuda.local.array(per, kind)
        own, g = Own(cuda.local.array(per, kind), cuda.local.array(per, kind), b, c), cuda.local.array(per, kind)
        a_sums, b_sums, c_sums = cuda.local.array(per, kind), cuda.local.array(per, kind), cuda.local.array(per, kind)
        back = totals = Back(g, a_sums, b_sums, c_sums)  # in float64 sums of chunks would gain nothing
        if size == 4:
            totals = Back(g, cuda.local.array(per, kind), cuda.local.array(per, kind), cuda.local.array(per, kind))
        always, reverse, has_gate = find(lengths, cuts, geometry), geometry.reverse, not gpu.is_null(timed.z.at)
        skip, skip_total, bias_total = start(weights, always, biases, own), zero, zero
        load_row(last, always, g)
        is_open = hands_on(cuts, always, reverse)
        for k in range(per):
            g[k] = select(is_open, g[k], zero)
            back.a[k], back.b[k], back.c[k], totals.a[k], totals.b[k], totals.c[k] = zero, zero, zero, zero, zero, zero
        gpu.barrier()
        chunks = gpu.divide(gpu.narrow(always.stop - always.begin + chunk - 1), chunk)
        for passed in range(chunks):
            number, place = gpu.narrow(passed if reverse else chunks - 1 - passed), anew(always)
            t, high = load_chunk(timed, weights, cuts, place, number, reverse, biases, tiles)
            recall(kept, place, number, own.h, tiles.past)
            gpu.barrier()
            scan(tiles, own, place, high, reverse, skip, has_gate)
            gpu.barrier()
            sum_c(sums.sum_c, place, t, high, reverse, tiles)
            gpu.barrier()
            skip_sum, bias_sum = retreat_chunk(tiles, own, back, place, high, reverse, skip)
            skip_total, bias_total = skip_total + skip_sum, bias_total + bias_sum
            if size == 4:
                add_up(totals, back)
            gpu.barrier()
            sum_b(sums.sum_b, place, t, high, reverse, tiles)
            store_tile(grads.to_u, place, t, high, tiles.leaving)
            store_tile(grads.to_delta, place, t, high, tiles.slopes)
            if has_gate:
                store_tile(grads.to_z, place, t, high, tiles.gates)
            gpu.barrier()
        store_sums(sums, always, totals, skip_total, bias_total)
        if not gpu.is_null(first.at):
            store_row(first, always, g)

    return kernel

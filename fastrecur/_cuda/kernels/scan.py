"""The single-pass scan: a block reads a tile into registers once, and learns by look-back from where its steps start.

A tile is `THREADS` threads of ``count`` steps each. Where series stand side by side it has 32 of them, and its warps
share their time: each thread's steps are a row of one series. Where time is contiguous it has one series, and all
threads share its time; within a warp they scan by shuffles, as in `series`. Otherwise the two are the same: each
thread summarises its steps, the first warp composes the warps' summaries, publishes the tile's, looks back, and hands
each warp the state before it; then each thread replays its steps by the true step.

The start of a thread's steps is composed, hence near the last result of the thread before but not it. So closed gates
of an average repeat the last result before them, to the bit; the last one of a tile is published for that. And where
a thread's end and the next one's start are not both finite, nor the same, the series is marked dirty: what comes after
is not the sequential answer. A fix-up pass, the kernel of `series`, scans it once more.
"""

import numpy as np

from ..._steps.recurrence import select
from . import device as gpu
from .borders import Flags, borders, flag_of
from .chunks import back_fetcher, fetcher_of_two, steps_before, writer
from .descriptors import END, await_status, locate, mark_dirty
from .look_back import THREADS, WARPS, opener, own_state, starter, tell
from .operands import find_series, load_state, of_series, offset
from .summaries import add_exactly, add_group, agree, back_summariser, closed_counter, form_of, settled, summariser


def placer(count, across, guide):
    """Return the device function that says where a thread's steps are; tiles are counted in the order of time."""
    by_a, pack, rows = guide[0] == "a", guide[1], THREADS // across

    @gpu.helper
    def place(a, b, lengths, geometry, series, tile, row):
        """Return its series' index, valid steps and steps; where its tile and it begin; valid steps from there on."""
        _, index, valid, steps = find_series(series, lengths, geometry)
        here = tile * (rows * count) - steps_before(a, b, by_a, pack, index, geometry.steps)
        mine = here + row * count
        return index, valid, steps, here, mine, gpu.narrow(valid.start - mine), gpu.narrow(valid.stop - mine)

    return place


def holder(cuda, kind, count, across):
    """Return the device function by which closed gates hold on to the state."""
    slots, size = WARPS * across, kind(0).itemsize

    @gpu.helper
    def last_ends(me, is_open, end, ends, opens):
        """Put the last ends of warps to ``ends``; return whether one is before this lane in its warp, and it."""
        found, earlier, is_open_at_last, last = False, end, is_open, end
        if across == 1:
            bits = gpu.ballot(is_open)
            source, final = gpu.highest(bits & ((1 << me.lane_id) - 1)), gpu.highest(bits)
            found, is_open_at_last = source >= 0, final >= 0
            earlier = gpu.shuffle(end, source if found else me.lane_id)
            last = gpu.shuffle(end, final if is_open_at_last else me.lane_id)
        if across > 1 or me.lane_id == 0:
            at = me.turn * across + me.column
            ends[at], opens[at] = last, 1 if is_open_at_last else 0
        gpu.barrier()
        return found, earlier

    @gpu.helper
    def hold(descriptors, geometry, me, first, begins_here, leading, low, high, end, values):
        """Let closed gates repeat the result before them; return this thread's last state."""
        ends, opens = cuda.shared.array(slots, kind), cuda.shared.array(slots, np.int32)
        found, before = last_ends(me, leading < count, end, ends, opens)
        is_known, last = begins_here, first
        is_open, tile_end = False, end
        for k in range(gpu.narrow(gpu.block_threads() >> 5)):  # `WARPS`: see `starter`
            at = k * across + me.column
            if opens[at] != 0:
                is_open, tile_end = True, ends[at]
                if k < me.turn:
                    is_known, last = True, ends[at]
        if found:
            is_known, last = True, before
        at, further = locate(geometry, me.series, me.tile, across, size)
        # The tile's last thread tells its last state, if the next tile goes on from there.
        tells = me.turn == WARPS - 1 and (across > 1 or me.lane_id == 31) and high > count and low < count
        if tells and is_open:
            gpu.store_status(descriptors, at + END * further, tile_end)
        if not is_known and (max(low, 0) < min(high, leading) or (tells and not is_open)):
            previous, _ = locate(geometry, me.series, me.tile - 1, across, size)
            last = await_status(descriptors, previous + END * further, end)
        if tells and not is_open:
            gpu.store_status(descriptors, at + END * further, last)
        for j in range(count):
            values[j] = select(j < leading and j >= low and j < high, last, values[j])
        return select(leading < count, end, last)

    return hold


def forward(cuda, rule, zero, size, count, across, packs, guide, cuts):
    """Return the kernel that scans forward; ``across`` is how many series a tile has, 1 or 32."""
    kind, is_average, form = type(zero), rule.is_average, form_of(rule.is_average, type(zero), cuts)
    closed, four, all_states = kind(rule.closed), 4 * WARPS * across, (WARPS + 1) * across
    open_tile, place = opener(cuda, across, True), placer(count, across, guide)
    fetch, write = fetcher_of_two(kind, count, packs), writer(count, packs["h"])
    summarise = summariser(rule, kind, count, form)
    _, read_flags, advance, _, behind = borders(cuda, rule, zero, count, cuts)
    start = starter(cuda, form, kind, across)
    leading_closed, hold = closed_counter(count, closed), holder(cuda, kind, count, across)

    @gpu.helper
    def replay(gates, values, flags, low, high, state):
        # Anew: else what the summary makes of a gate would wait in registers for this.
        for j in range(count):
            valid = j >= low and j < high
            gate, value = gpu.anew(gates[j]), gpu.anew(values[j])
            state = select(valid, advance(flag_of(flags, j), state, gate, value), state)
            values[j] = select(valid, state, zero)
        return state

    def kernel(a, b, h, h0, last, lengths, descriptors, geometry, cuts):
        me = open_tile(descriptors, geometry)
        index, valid, _, here, mine, low, high = place(a, b, lengths, geometry, me.series, me.tile, me.row)
        gates, values = cuda.local.array(count, kind), cuda.local.array(count, kind)
        operands = of_series(a, index, mine), of_series(b, index, mine)
        fetch(operands, (low, low), high, (gates, values), (closed, zero))
        sums, states = cuda.shared.array(four, kind), cuda.shared.array(all_states, kind)
        flags = read_flags(Flags(cuts, index, geometry.reverse), mine, low, high)
        before = tell(sums, me, summarise(gates, values, flags), form, across, True)
        gpu.barrier()
        first, begins_here = load_state(h0, index, zero), valid.start >= here
        start(descriptors, geometry, me, first, sums, states)
        gpu.barrier()
        # Anew, so that it need not wait in registers while the block looks back.
        flags = gpu.anew(flags)
        index, valid, steps, _, mine, low, high = place(a, b, lengths, geometry, gpu.anew(me.series), me.tile, me.row)
        state, after = own_state(me, before, states, form, across, True)
        leading = leading_closed(gates, values, flags, low, high) if is_average else gpu.narrow(0)
        end = replay(gates, values, flags, low, high, state)
        if steps > 0 and not agree(end, after):
            mark_dirty(descriptors, me.series, size, zero)
        if is_average:
            end = hold(descriptors, geometry, me, first, begins_here, leading, low, high, end, values)
        write(of_series(h, index, mine), gpu.narrow(-mine), gpu.narrow(steps - mine), values)
        if steps > 0 and not gpu.is_null(last.at):
            if valid.start < valid.stop and low < count and high > 0 and high <= count:
                gpu.store(last.at, offset(last.series, index), behind(end, Flags(cuts, index, geometry.reverse), valid))
            elif valid.start >= valid.stop and me.tile == 0 and me.row == 0:
                gpu.store(last.at, offset(last.series, index), first)

    return kernel


@gpu.helper
def store_total(to, geometry, me, sums, total, rest, across, size):
    """Add up a tile's gradients over time, and store the sum."""
    if across == 1:
        total, rest = add_group(total, rest, me.lane_id, gpu.narrow(32))
    slots, at, tells = WARPS * across, me.turn * across + me.column, across > 1 or me.lane_id == 0
    if tells:
        sums[at], sums[slots + at] = total, rest
    gpu.barrier()
    if tells and me.turn == 0 and me.series < geometry.lanes:
        for k in range(1, WARPS):
            at = k * across + me.column
            total, rest = add_exactly(total, rest + sums[slots + at], sums[at])
        tile = geometry.tiles - 1 - me.tile
        gpu.store(to.at, (tile * geometry.lanes + me.series) * size, settled(total, rest))


def back_replayer(retreat, zero, count, a_is_total, b_is_total):
    """Return the device function that scans a thread's steps backward."""

    @gpu.helper
    def replay_back(arriving, gates, values, before, flags, low, high, r, totals):
        """Put gradients in the place of gates and values; add up which are totals."""
        for k in range(4):
            totals[k] = zero
        for ago in range(count):
            j = count - 1 - ago
            valid = j >= low and j < high
            arrived, gate = gpu.anew(arriving[j]) + r, gpu.anew(gates[j])
            grad_a, grad_b, onward = retreat(flag_of(flags, j), arrived, gate, values[j], before[j])
            r = select(valid, onward, r)
            gates[j], values[j] = select(valid, grad_a, zero), select(valid, grad_b, zero)
            if a_is_total:
                totals[0], totals[1] = add_exactly(totals[0], totals[1], gates[j])
            if b_is_total:
                totals[2], totals[3] = add_exactly(totals[2], totals[3], values[j])
        return r

    return replay_back


def vjp(cuda, rule, zero, size, count, across, packs, guide, cuts, a_is_total, b_is_total):
    """Return the kernel that scans backward; totals are as in `lanes`, one for each tile."""
    kind, form = type(zero), form_of(False, type(zero), cuts)
    closed, four, all_states = kind(rule.closed), 4 * WARPS * across, (WARPS + 1) * across
    open_tile, place = opener(cuda, across, False), placer(count, across, guide)
    fetch_back = back_fetcher(kind, count, tuple(packs[n] for n in "gabh"), closed, across == 1)
    write_a, write_b = writer(count, packs["to_a"]), writer(count, packs["to_b"])
    summarise_back = back_summariser(rule, kind, count, form)
    _, read_flags, _, retreat, behind = borders(cuda, rule, zero, count, cuts)
    start = starter(cuda, form, kind, across)
    replay_back = back_replayer(retreat, zero, count, a_is_total, b_is_total)

    def kernel(g, a, b, h, h0, last, first, to_a, to_b, lengths, descriptors, geometry, cuts):
        me = open_tile(descriptors, geometry)
        tile = geometry.tiles - 1 - me.tile
        index, valid, steps, _, mine, low, high = place(a, b, lengths, geometry, me.series, tile, me.row)
        arriving, gates = cuda.local.array(count, kind), cuda.local.array(count, kind)
        values, before = cuda.local.array(count, kind), cuda.local.array(count, kind)
        own, origin = Flags(cuts, index, geometry.reverse), load_state(h0, index, zero)
        from_end = behind(load_state(last, index, zero), own, valid)
        reads = of_series(g, index, 0), of_series(a, index, 0), of_series(b, index, 0), of_series(h, index, 0)
        fetch_back(reads, valid, mine, me.lane_id, origin, arriving, gates, values, before)
        sums, states = cuda.shared.array(four, kind), cuda.shared.array(all_states, kind)
        flags = read_flags(own, mine, low, high)
        after = tell(sums, me, summarise_back(arriving, gates, flags, low, high), form, across, False)
        gpu.barrier()
        start(descriptors, geometry, me, from_end, sums, states)
        gpu.barrier()
        if form.has_resets:  # anew, as there: flags take the registers
            index, valid, steps, _, mine, low, high = place(a, b, lengths, geometry, gpu.anew(me.series), tile, me.row)
        r, onward = own_state(me, after, states, form, across, False)
        totals = cuda.local.array(4, kind)
        end = replay_back(arriving, gates, values, before, flags, low, high, r, totals)
        if steps > 0 and not agree(end, onward):
            mark_dirty(descriptors, me.series, size, zero)
        # Never both: one of the operands has time.
        if a_is_total:
            store_total(to_a, geometry, me, sums, totals[0], totals[1], across, size)
        else:
            write_a(of_series(to_a, index, mine), gpu.narrow(-mine), gpu.narrow(steps - mine), gates)
        if b_is_total:
            store_total(to_b, geometry, me, sums, totals[2], totals[3], across, size)
        else:
            write_b(of_series(to_b, index, mine), gpu.narrow(-mine), gpu.narrow(steps - mine), values)
        if steps > 0 and not gpu.is_null(first.at):
            if valid.start < valid.stop and low >= 0 and low < count:
                gpu.store(first.at, offset(first.series, index), end)
            elif valid.start >= valid.stop and me.tile == 0 and me.row == 0:
                gpu.store(first.at, offset(first.series, index), from_end)

    return kernel

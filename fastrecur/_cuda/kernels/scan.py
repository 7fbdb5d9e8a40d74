"""The single-pass scan: a block reads a tile into registers once, and learns by look-back from where its steps start.

A tile is `THREADS` threads of ``count`` steps each. Where series stand side by side it has 32 of them, and its warps
share their time: each thread's steps are a row of one series. Where time is contiguous it has one series, and all
threads share its time; within a warp they scan by shuffles, as in `series`. Otherwise the two are the same: each
thread summarises its steps, the first warp composes the warps' summaries, publishes the tile's, looks back, and hands
each warp the state before it; then each thread replays its steps by the true step.

The start of a thread's steps is composed, hence within rounding of the last result of the thread before but not it; a
closed gate repeats it within an ulp. Where a thread's end and the next one's start are not both finite, nor the same,
the series is marked dirty: what comes after is not the sequential answer. A fix-up pass, the kernel of `series`, scans
it once more.
"""

from ..._steps.recurrence import select
from . import device as gpu
from .borders import Flags, borders, flag_of
from .chunks import back_fetcher, fetcher_of_two, steps_before, writer
from .descriptors import mark_dirty
from .look_back import THREADS, WARPS, opener, own_state, starter, tell
from .operands import find_series, load_state, of_series, offset
from .summaries import (
    add_exactly,
    add_group,
    agree,
    back_summariser,
    form_of,
    offered_origin,
    settled,
    shared_origin,
    summariser,
)


def placer(count, across, guide):
    """Return the device function that says where a thread's steps are; tiles are counted in the order of time."""
    by_a, pack, rows = guide[0] == "a", guide[1], THREADS // across

    @gpu.helper
    def place(a, b, lengths, geometry, series, tile, row):
        """Return its series' index, valid steps and steps; where it begins; valid steps from there on."""
        _, index, valid, steps = find_series(series, lengths, geometry)
        mine = (tile * rows + row) * count - steps_before(a, b, by_a, pack, index, geometry.steps)
        return index, valid, steps, mine, gpu.narrow(valid.start - mine), gpu.narrow(valid.stop - mine)

    return place


def forward(cuda, rule, zero, size, count, across, packs, guide, cuts):
    """Return the kernel that scans forward; ``across`` is how many series a tile has, 1 or 32."""
    kind, is_average, form = type(zero), rule.is_average, form_of(rule.is_average, type(zero), cuts)
    closed, three, all_states = kind(rule.closed), 3 * WARPS * across, (WARPS + 1) * across
    open_tile, place = opener(cuda, across, True), placer(count, across, guide)
    fetch, write = fetcher_of_two(kind, count, packs), writer(count, packs["h"])
    offer, summarise = offered_origin(rule, kind, count, form), summariser(rule, kind, count, form)
    _, read_flags, advance, _, behind = borders(cuda, rule, zero, count, cuts)
    start = starter(cuda, form, kind, across)

    @gpu.helper
    def replay(gates, values, flags, low, high, state):
        # Anew: else what the summary makes of a gate would wait in registers for this.
        # Missing steps are closed, which leaves the state as it is.
        for j in range(count):
            state = advance(flag_of(flags, j), state, gpu.anew(gates[j]), gpu.anew(values[j]))
            values[j] = state
        if low > 0 or high < count:
            for j in range(count):
                values[j] = select(j >= low and j < high, values[j], zero)
        return state

    def kernel(a, b, h, h0, last, lengths, descriptors, geometry, cuts):
        me = open_tile(descriptors, geometry)
        index, valid, _, mine, low, high = place(a, b, lengths, geometry, me.series, me.tile, me.row)
        gates, values = cuda.local.array(count, kind), cuda.local.array(count, kind)
        operands = of_series(a, index, mine), of_series(b, index, mine)
        fetch(operands, (low, low), high, (gates, values), (closed, -zero))
        sums, states = cuda.shared.array(three, kind), cuda.shared.array(all_states, kind)
        flags = read_flags(Flags(cuts, index, geometry.reverse), mine, low, high)
        origin = offer(gates, values, flags)
        if is_average and across == 1:
            origin = shared_origin(origin, me.lane_id, gpu.narrow(32))
        before = tell(sums, me, summarise(gates, values, flags, origin), form, across, True)
        gpu.barrier()
        start(descriptors, geometry, me, load_state(h0, index, zero), sums, states)
        gpu.barrier()
        # Anew, so that it need not wait in registers while the block looks back.
        flags, series, tile = gpu.anew(flags), gpu.anew(me.series), gpu.anew(me.tile)
        index, valid, steps, mine, low, high = place(a, b, lengths, geometry, series, tile, me.row)
        state, after = own_state(me, before, states, form, across, True)
        end = replay(gates, values, flags, low, high, state)
        if steps > 0 and not agree(end, after):
            mark_dirty(descriptors, series, size, zero)
        write(of_series(h, index, mine), gpu.narrow(-mine), gpu.narrow(steps - mine), values)
        if steps > 0 and not gpu.is_null(last.at):
            if valid.start < valid.stop and low < count and high > 0 and high <= count:
                gpu.store(last.at, offset(last.series, index), behind(end, Flags(cuts, index, geometry.reverse), valid))
            elif valid.start >= valid.stop and mine <= 0:
                gpu.store(last.at, offset(last.series, index), load_state(h0, index, zero))

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
            arrived, gate = gpu.anew(arriving[j]) + r, gpu.anew(gates[j])
            gates[j], values[j], r = retreat(flag_of(flags, j), arrived, gate, values[j], before[j])
        # What flows goes through missing steps, which are closed, as it is.
        if low > 0 or high < count:
            for j in range(count):
                valid = j >= low and j < high
                gates[j], values[j] = select(valid, gates[j], zero), select(valid, values[j], zero)
        for ago in range(count):
            j = count - 1 - ago
            if a_is_total:
                totals[0], totals[1] = add_exactly(totals[0], totals[1], gates[j])
            if b_is_total:
                totals[2], totals[3] = add_exactly(totals[2], totals[3], values[j])
        return r

    return replay_back


def vjp(cuda, rule, zero, size, count, across, packs, guide, cuts, a_is_total, b_is_total):
    """Return the kernel that scans backward; totals are as in `lanes`, one for each tile."""
    kind, form = type(zero), form_of(False, type(zero), cuts)
    closed, three, all_states = kind(rule.closed), 3 * WARPS * across, (WARPS + 1) * across
    open_tile, place = opener(cuda, across, False), placer(count, across, guide)
    fetch_back = back_fetcher(kind, count, tuple(packs[n] for n in "gabh"), closed, across == 1)
    write_a, write_b = writer(count, packs["to_a"]), writer(count, packs["to_b"])
    summarise_back = back_summariser(rule, kind, count, form)
    _, read_flags, _, retreat, behind = borders(cuda, rule, zero, count, cuts)
    start = starter(cuda, form, kind, across)
    replay_back = back_replayer(retreat, zero, count, a_is_total, b_is_total)

    def kernel(g, a, b, h, h0, last, first, to_a, to_b, lengths, descriptors, geometry, cuts):
        me = open_tile(descriptors, geometry)
        tile = gpu.narrow(geometry.tiles - 1 - me.tile)
        index, valid, steps, mine, low, high = place(a, b, lengths, geometry, me.series, tile, me.row)
        arriving, gates = cuda.local.array(count, kind), cuda.local.array(count, kind)
        values, before = cuda.local.array(count, kind), cuda.local.array(count, kind)
        own, origin = Flags(cuts, index, geometry.reverse), load_state(h0, index, zero)
        from_end = behind(load_state(last, index, zero), own, valid)
        reads = of_series(g, index, 0), of_series(a, index, 0), of_series(b, index, 0), of_series(h, index, 0)
        fetch_back(reads, valid, mine, me.lane_id, origin, arriving, gates, values, before)
        sums, states = cuda.shared.array(three, kind), cuda.shared.array(all_states, kind)
        flags = read_flags(own, mine, low, high)
        after = tell(sums, me, summarise_back(arriving, gates, flags), form, across, False)
        gpu.barrier()
        start(descriptors, geometry, me, from_end, sums, states)
        gpu.barrier()
        series = me.series
        if form.has_resets or (across > 1 and size == 8):  # anew, as there: else there are not registers enough
            flags, series, tile = gpu.anew(flags), gpu.anew(me.series), gpu.anew(tile)
            index, valid, steps, mine, low, high = place(a, b, lengths, geometry, series, tile, me.row)
        r, onward = own_state(me, after, states, form, across, False)
        totals = cuda.local.array(4, kind)
        end = replay_back(arriving, gates, values, before, flags, low, high, r, totals)
        if steps > 0 and not agree(end, onward):
            mark_dirty(descriptors, series, size, zero)
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
            elif valid.start >= valid.stop and tile == geometry.tiles - 1 and me.row == 0:
                gpu.store(first.at, offset(first.series, index), behind(load_state(last, index, zero), own, valid))

    return kernel

"""Kernels for series whose time is contiguous: neighbouring threads of a warp share a series' time.

A group of ``width`` threads scans one series in chunks of ``width * count`` steps, ``count`` to a thread. Each thread
first *summarises* its steps; the summaries, composed across the group by shuffles, give it the state it starts from;
then it *replays* its steps by the true step. Every operand is read once.

The start of a thread's steps is composed, hence near the last result of the thread before but not it. So closed gates
at the start of an average's steps repeat that result, to the bit; and where a thread's end and the next one's start are
not both finite, nor the same, the chunk is scanned thread after thread instead, which is the sequential answer.

That makes these kernels the fix-up pass of the single-pass scan, too: with ``is_fix_up`` a warp looks at its series'
dirty flag, and scans it once more, whatever its layout, if that is set.
"""

from ..._steps.recurrence import is_finite, select
from . import device as gpu, summaries
from .borders import Flags, borders, flag_of
from .chunks import back_fetcher, fetcher_of_two, steps_before, writer
from .descriptors import is_dirty
from .operands import find_series, later, load_state, of_series, offset
from .summaries import add_exactly, add_group, advanced, agree, compose_group, form_of, settled, shared_origin


@gpu.helper
def group_in_grid(width):
    """Return this group's number: where 31 bits count series, threads may be more than 32 can."""
    by = gpu.highest(width)
    return gpu.narrow(gpu.block() * gpu.narrow(gpu.block_threads() >> by) + (gpu.thread() >> by))


@gpu.helper
def group_members(lane_id, rank, width):
    """Return the bits of the threads that share this thread's series."""
    members = 0xFFFFFFFF
    if width < 32:
        members = ((1 << width) - 1) << (lane_id - rank)
    return members


@gpu.helper
def chunks_of(steps, chunk):
    return gpu.divide(gpu.narrow(steps + chunk - 1), gpu.narrow(chunk))


def closed_counter(count, closed):
    """Return the device function that says how many of a thread's steps are before the first that changes the state."""

    @gpu.helper
    def leading_closed(gates, values, flags, low, high):
        leading, is_open = gpu.narrow(0), False
        for j in range(count):
            stays = gates[j] == closed and is_finite(values[j]) and flag_of(flags, j) == 0  # 0 times infinity is NaN
            is_open = is_open or (j >= low and j < high and not stays)
            leading = select(is_open, leading, gpu.narrow(j + 1))
        return leading

    return leading_closed


def chunk_scanner(cuda, rule, kind, count, packs, cuts):
    """Return the device function that scans one chunk, each thread its steps from ``mine`` on."""
    is_average, zero, closed = rule.is_average, kind(0), kind(rule.closed)
    form = form_of(is_average, kind, cuts)
    fetch, write = fetcher_of_two(kind, count, packs), writer(count, packs["h"])
    offer, leading_closed = summaries.offered_origin(rule, kind, count, form), closed_counter(count, closed)
    summarise = summaries.summariser(rule, kind, count, form)
    _, read_flags, advance, _, behind = borders(cuda, rule, zero, count, cuts)

    @gpu.helper
    def replay(gates, values, flags, low, high, state, results):
        for j in range(count):
            state = advance(flag_of(flags, j), state, gates[j], values[j])  # where missing, a closed gate
            results[j] = select(j >= low and j < high, state, zero)
        return state

    @gpu.helper
    def hold(leading, results, low, high, before, end, lane_id, members):
        """Let closed gates at the start of a thread's steps repeat the result before them; return its last state."""
        source = gpu.highest(gpu.ballot(leading < count) & members & ((1 << lane_id) - 1))
        last = gpu.shuffle(end, source if source >= 0 else lane_id)
        last = select(source >= 0, last, before)
        for j in range(count):
            results[j] = select(j < leading and j >= low and j < high, last, results[j])
        return select(leading < count, end, last)

    @gpu.helper
    def scan_chunk(a, b, h, own, valid, steps, mine, rank, width, state):
        """Write results, from the state before the chunk; return the state after it."""
        lane_id = gpu.narrow(gpu.thread() & 31)
        members = group_members(lane_id, rank, width)
        low, high = gpu.narrow(valid.start - mine), gpu.narrow(valid.stop - mine)
        gates, values = cuda.local.array(count, kind), cuda.local.array(count, kind)
        results = cuda.local.array(count, kind)
        fetch((later(a, mine), later(b, mine)), (low, low), high, (gates, values), (closed, -zero))
        flags = read_flags(own, mine, low, high)
        origin = offer(gates, values, flags)
        if is_average:
            origin = shared_origin(origin, rank, width)
        before, _ = compose_group(form, summarise(gates, values, flags, origin), rank, width, True)
        began = select(rank == 0, state, advanced(form, before, state))
        end = replay(gates, values, flags, low, high, began, results)
        if is_average:
            end = hold(
                leading_closed(gates, values, flags, low, high), results, low, high, state, end, lane_id, members
            )
        after = gpu.shuffle(began, lane_id + 1 if rank < width - 1 else lane_id)
        suspect = gpu.ballot(rank < width - 1 and not agree(end, after))
        if suspect != 0:
            # One thread after the other; a group that does not need it keeps what it has.
            concerned = suspect & members != 0
            scanned = state
            for s in range(width):
                if concerned and s == rank:
                    scanned = replay(gates, values, flags, low, high, scanned, results)
                    end = scanned
                scanned = gpu.shuffle(scanned, lane_id - rank + s)
        write(later(h, mine), gpu.narrow(-mine), gpu.narrow(steps - mine), results)
        return gpu.shuffle(end, lane_id - rank + width - 1)

    return scan_chunk, behind


def forward(cuda, rule, zero, size, count, packs, guide, cuts, is_fix_up):
    """Return the kernel that scans forward.

    ``count`` is how many steps of a chunk a thread takes; ``guide`` names the operand that chunks are aligned to, and
    how many of its elements are a pack.
    """
    by_a, pack = guide[0] == "a", guide[1]
    scan_chunk, behind = chunk_scanner(cuda, rule, type(zero), count, packs, cuts)

    def kernel(a, b, h, h0, last, lengths, descriptors, geometry, cuts):
        width = gpu.narrow(32) if is_fix_up else geometry.width
        series, rank = group_in_grid(width), gpu.narrow(gpu.thread() & (width - 1))
        if is_fix_up and (series >= geometry.lanes or not is_dirty(descriptors, series, size, zero)):
            return
        is_there, index, valid, steps = find_series(series, lengths, geometry)
        state, shifted = load_state(h0, index, zero), steps_before(a, b, by_a, pack, index, geometry.steps)
        own = Flags(cuts, index, geometry.reverse)
        a_here, b_here, h_here = of_series(a, index, 0), of_series(b, index, 0), of_series(h, index, 0)
        mine = rank * count - shifted
        for _ in range(chunks_of(geometry.steps + pack, width * count)):
            state = scan_chunk(a_here, b_here, h_here, own, valid, steps, mine, rank, width, state)
            mine += width * count
        if is_there and rank == 0 and not gpu.is_null(last.at):
            gpu.store(last.at, offset(last.series, index), behind(state, own, valid))

    return kernel


def gradient_writer(count, pack, is_total, at):
    """Return the device function that writes a thread's gradients of an operand, or adds them to two totals."""
    write = writer(count, pack)

    @gpu.helper
    def write_gradients(to, steps, mine, grads, totals):
        if is_total:
            for j in range(count):
                totals[at], totals[at + 1] = add_exactly(totals[at], totals[at + 1], grads[j])
        else:
            write(later(to, mine), gpu.narrow(-mine), gpu.narrow(steps - mine), grads)

    return write_gradients


def back_chunk_scanner(cuda, rule, kind, count, packs, cuts, a_is_total, b_is_total):
    """Return what `chunk_scanner` does, in the other direction."""
    zero, form = kind(0), form_of(False, kind, cuts)
    fetch_back = back_fetcher(kind, count, tuple(packs[n] for n in "gabh"), kind(rule.closed), True)
    write_a = gradient_writer(count, packs["to_a"], a_is_total, 0)
    write_b = gradient_writer(count, packs["to_b"], b_is_total, 2)
    summarise_back = summaries.back_summariser(rule, kind, count, form)
    _, read_flags, _, retreat, behind = borders(cuda, rule, zero, count, cuts)

    @gpu.helper
    def replay_back(arriving, gates, values, before, flags, low, high, r, grads_a, grads_b):
        for ago in range(count):
            j = count - 1 - ago
            valid = j >= low and j < high
            grad_a, grad_b, onward = retreat(flag_of(flags, j), arriving[j] + r, gates[j], values[j], before[j])
            r = select(valid, onward, r)
            grads_a[j], grads_b[j] = select(valid, grad_a, zero), select(valid, grad_b, zero)
        return r

    @gpu.helper
    def scan_chunk_back(reads, writes, own, valid, steps, mine, rank, width, origin, r, totals):
        """Write gradients, from what flows to the chunk's last state; return what flows on before the first."""
        lane_id = gpu.narrow(gpu.thread() & 31)
        members = group_members(lane_id, rank, width)
        low, high = gpu.narrow(valid.start - mine), gpu.narrow(valid.stop - mine)
        arriving, gates = cuda.local.array(count, kind), cuda.local.array(count, kind)
        values, before = cuda.local.array(count, kind), cuda.local.array(count, kind)
        grads_a, grads_b = cuda.local.array(count, kind), cuda.local.array(count, kind)
        fetch_back(reads, valid, mine, rank, origin, arriving, gates, values, before)
        flags = read_flags(own, mine, low, high)
        after, _ = compose_group(form, summarise_back(arriving, gates, flags), rank, width, False)
        began = select(rank == width - 1, r, advanced(form, after, r))
        end = replay_back(arriving, gates, values, before, flags, low, high, began, grads_a, grads_b)
        onward = gpu.shuffle(began, lane_id - 1 if rank > 0 else lane_id)
        suspect = gpu.ballot(rank > 0 and not agree(end, onward))
        if suspect != 0:
            concerned = suspect & members != 0
            scanned = r
            for ago in range(width):
                s = width - 1 - ago
                if concerned and s == rank:
                    scanned = replay_back(arriving, gates, values, before, flags, low, high, scanned, grads_a, grads_b)
                    end = scanned
                scanned = gpu.shuffle(scanned, lane_id - rank + s)
        write_a(writes[0], steps, mine, grads_a, totals)
        write_b(writes[1], steps, mine, grads_b, totals)
        return gpu.shuffle(end, lane_id - rank)

    return scan_chunk_back, behind


def vjp(cuda, rule, zero, size, count, packs, guide, cuts, a_is_total, b_is_total, is_fix_up):
    """Return the kernel that scans backward; totals are as in `lanes`."""
    kind, by_a, pack = type(zero), guide[0] == "a", guide[1]
    scan_chunk_back, behind = back_chunk_scanner(cuda, rule, kind, count, packs, cuts, a_is_total, b_is_total)

    @gpu.helper
    def store_total(to, geometry, series, rank, width, total, rest):
        """Write a group's total; in the fix-up pass, zeros over those of other tiles."""
        total, rest = add_group(total, rest, rank, width)
        if series < geometry.lanes and rank == 0:
            gpu.store(to.at, series * size, settled(total, rest))
        if is_fix_up:
            for tile in range(1 + rank, geometry.tiles, width):
                gpu.store(to.at, (tile * geometry.lanes + series) * size, zero)

    def kernel(g, a, b, h, h0, last, first, to_a, to_b, lengths, descriptors, geometry, cuts):
        width = gpu.narrow(32) if is_fix_up else geometry.width
        series, rank = group_in_grid(width), gpu.narrow(gpu.thread() & (width - 1))
        if is_fix_up and (series >= geometry.lanes or not is_dirty(descriptors, series, size, zero)):
            return
        is_there, index, valid, steps = find_series(series, lengths, geometry)
        own, origin = Flags(cuts, index, geometry.reverse), load_state(h0, index, zero)
        r = behind(load_state(last, index, zero), own, valid)
        shifted = steps_before(a, b, by_a, pack, index, geometry.steps)
        reads = of_series(g, index, 0), of_series(a, index, 0), of_series(b, index, 0), of_series(h, index, 0)
        writes = of_series(to_a, index, 0), of_series(to_b, index, 0)
        totals = cuda.local.array(4, kind)
        for k in range(4):
            totals[k] = zero
        chunks = chunks_of(geometry.steps + pack, width * count)
        mine = rank * count - shifted + (chunks - 1) * (width * count)
        for _ in range(chunks):
            r = scan_chunk_back(reads, writes, own, valid, steps, mine, rank, width, origin, r, totals)
            mine -= width * count
        if a_is_total:
            store_total(to_a, geometry, series, rank, width, totals[0], totals[1])
        if b_is_total:
            store_total(to_b, geometry, series, rank, width, totals[2], totals[3])
        if is_there and rank == 0 and not gpu.is_null(first.at):
            gpu.store(first.at, offset(first.series, index), r)

    return kernel

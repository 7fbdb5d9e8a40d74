"""What it takes to walk pieces of a lane's time at once: summaries, the fold over them, and what is mended afterwards.

1. `summarise`: each piece becomes the few numbers of `_series`, whichever way its threads are laid out.
2. `fold`: a warp for each lane composes them, and notes the state from which every piece starts.
3. The walk itself, by the kernels of `_lanes` or `_series`, which also note where every piece ended.
4. `mend`: a warp for each lane compares. A piece that starts with closed gates repeats the end of the one before it, to
   the bit; one that was to start from a state that is not finite, or after one, is walked again from where the one
   before it did end, so that the outcome is the sequential one. Where nothing is to be mended this reads three numbers
   a piece.

Where `_lookback` walks, it takes the place of 1 to 3, and `mend` looks only at lanes of which a piece has asked for it.

Gradients go the same way against the direction of travel; there are no closed gates to look after.
"""

from ._device import (
    ballot,
    block,
    block_row,
    block_threads,
    divide,
    helper,
    is_null,
    load,
    narrow,
    peek,
    shift,
    shuffle,
    store,
    thread,
)
from ._lanes import first_state, lane_offset, split_lane, valid_steps
from ._series import (
    advanced,
    agree,
    back_summariser,
    back_walker,
    chunk_shift,
    compose,
    composer,
    fetcher_of_two,
    group_total,
    is_finite,
    series_lane,
    summariser,
    walker,
)

# ---- 1. Summaries: decay, rise, weight and origin of every piece ----------------------------------------------------


@helper
def keep_summary(summaries, at, size, decay, rise, weight, origin):
    store(summaries, at, decay)
    store(summaries, at + size, rise)
    store(summaries, at + 2 * size, weight)
    store(summaries, at + 3 * size, origin)


def summarise_lanes(cuda, rule, zero, size, ahead):
    """Return the kernel that summarises pieces, each by a thread of its own."""
    kind, closed, is_average = type(zero), type(zero)(rule.closed), rule.is_average
    summarise = summariser(rule, kind, ahead)
    fetch = fetcher_of_two(kind, ahead, 0, 0)
    one = kind(1)

    def kernel(
        a, b, lengths, summaries, steps, reverse, piece_steps, pieces, lanes, middles, inners, a_time, b_time,
        a_lane, b_lane, lengths_lane,
    ):  # fmt: skip
        lane = narrow(block() * block_threads() + thread())
        if lane >= lanes:
            return
        piece = block_row()
        outer, middle, inner = split_lane(lane, middles, inners)
        start, stop = valid_steps(lengths, lane_offset(lengths_lane, outer, middle, inner), steps, reverse)
        t, end = piece * piece_steps, min(steps, (piece + 1) * piece_steps)
        a_now = shift(a, lane_offset(a_lane, outer, middle, inner) + t * a_time)
        b_now = shift(b, lane_offset(b_lane, outer, middle, inner) + t * b_time)
        gates, values = cuda.local.array(ahead, kind), cuda.local.array(ahead, kind)
        decay, rise, weight, origin = one, zero, zero, zero
        while t < end:
            low, high = narrow(start - t), narrow(min(stop, end) - t)
            fetch(a_now, b_now, a_time, b_time, low, high, gates, values, closed, zero)
            decay_2, rise_2, weight_2, origin_2 = summarise(gates, values)
            decay, rise, weight, origin = compose(
                is_average, decay, rise, weight, origin, decay_2, rise_2, weight_2, origin_2
            )
            t += ahead
            a_now, b_now = shift(a_now, ahead * a_time), shift(b_now, ahead * b_time)
        keep_summary(summaries, 4 * (lane * pieces + piece) * size, size, decay, rise, weight, origin)

    return kernel


def summarise_lanes_back(cuda, rule, zero, size, ahead):
    """Return the kernel that summarises what pieces do to a cotangent, each by a thread of its own."""
    kind, closed = type(zero), type(zero)(rule.closed)
    summarise_back = back_summariser(rule, kind, ahead)
    fetch = fetcher_of_two(kind, ahead, 0, 0)
    one = kind(1)

    def kernel(
        g, a, lengths, summaries, steps, reverse, piece_steps, pieces, lanes, middles, inners, g_time, a_time,
        g_lane, a_lane, lengths_lane,
    ):  # fmt: skip
        lane = narrow(block() * block_threads() + thread())
        if lane >= lanes:
            return
        piece = block_row()
        outer, middle, inner = split_lane(lane, middles, inners)
        start, stop = valid_steps(lengths, lane_offset(lengths_lane, outer, middle, inner), steps, reverse)
        t, end = piece * piece_steps, min(steps, (piece + 1) * piece_steps)
        g_now = shift(g, lane_offset(g_lane, outer, middle, inner) + t * g_time)
        a_now = shift(a, lane_offset(a_lane, outer, middle, inner) + t * a_time)
        arriving, gates = cuda.local.array(ahead, kind), cuda.local.array(ahead, kind)
        decay, rise = one, zero
        while t < end:
            low, high = narrow(start - t), narrow(min(stop, end) - t)
            fetch(g_now, a_now, g_time, a_time, low, high, arriving, gates, zero, closed)
            decay_2, rise_2 = summarise_back(arriving, gates, low, high)
            # Later steps come first on the way back.
            decay, rise, _, _ = compose(False, decay_2, rise_2, zero, zero, decay, rise, zero, zero)
            t += ahead
            g_now, a_now = shift(g_now, ahead * g_time), shift(a_now, ahead * a_time)
        keep_summary(summaries, 4 * (lane * pieces + piece) * size, size, decay, rise, zero, zero)

    return kernel


def summarise_series(cuda, rule, zero, size, count, packs, guide):
    """Return the kernel that summarises pieces of contiguous time, each by a warp."""
    kind, closed, is_average = type(zero), type(zero)(rule.closed), rule.is_average
    fetch = fetcher_of_two(kind, count, packs["a"], packs["b"])
    summarise, compose_group = summariser(rule, kind, count), composer(is_average, kind)
    by_a, pack, one = guide[0] == "a", guide[1], kind(1)

    def kernel(
        a, b, lengths, summaries, steps, reverse, piece_steps, pieces, lanes, middles, inners, width, a_time, b_time,
        a_lane, b_lane, lengths_lane,
    ):  # fmt: skip
        lane, place, piece = series_lane(width), thread() & (width - 1), block_row()
        is_alive = lane < lanes
        lane = lane if is_alive else 0
        outer, middle, inner = split_lane(lane, middles, inners)
        start, stop = valid_steps(lengths, lane_offset(lengths_lane, outer, middle, inner), steps, reverse)
        if not is_alive:
            start, stop = 0, 0
        a_at, b_at = lane_offset(a_lane, outer, middle, inner), lane_offset(b_lane, outer, middle, inner)
        t = piece * piece_steps
        if pack > 0:
            t -= chunk_shift(a_at if by_a else b_at, a_time if by_a else b_time, pack, steps)
        a_now, b_now = shift(a, a_at), shift(b, b_at)
        gates, values = cuda.local.array(count, kind), cuda.local.array(count, kind)
        decay, rise, weight, origin = one, zero, zero, zero
        mine = t + place * count
        for _ in range(divide(narrow(piece_steps), narrow(width * count))):
            low, high = narrow(start - mine), narrow(stop - mine)
            a_here, b_here = shift(a_now, mine * a_time), shift(b_now, mine * b_time)
            fetch(a_here, b_here, a_time, b_time, low, high, gates, values, closed, zero)
            decay_2, rise_2, weight_2, origin_2 = summarise(gates, values)
            _, _, _, _, decay_2, rise_2, weight_2, origin_2 = compose_group(
                decay_2, rise_2, weight_2, origin_2, place, width, True
            )
            # Right in the group's last thread.
            decay, rise, weight, origin = compose(
                is_average, decay, rise, weight, origin, decay_2, rise_2, weight_2, origin_2
            )
            mine += width * count
        if is_alive and place == width - 1:
            keep_summary(summaries, 4 * (lane * pieces + piece) * size, size, decay, rise, weight, origin)

    return kernel


def summarise_series_back(cuda, rule, zero, size, count, packs, guide):
    """Return the kernel that summarises what pieces of contiguous time do to a cotangent, each by a warp."""
    kind, closed = type(zero), type(zero)(rule.closed)
    fetch = fetcher_of_two(kind, count, packs["g"], packs["a"])
    summarise_back, compose_group = back_summariser(rule, kind, count), composer(False, kind)
    by_a, pack, one = guide[0] == "a", guide[1], kind(1)

    def kernel(
        g, a, lengths, summaries, steps, reverse, piece_steps, pieces, lanes, middles, inners, width, g_time, a_time,
        b_time, g_lane, a_lane, b_lane, lengths_lane,
    ):  # fmt: skip
        lane, place, piece = series_lane(width), thread() & (width - 1), block_row()
        is_alive = lane < lanes
        lane = lane if is_alive else 0
        outer, middle, inner = split_lane(lane, middles, inners)
        start, stop = valid_steps(lengths, lane_offset(lengths_lane, outer, middle, inner), steps, reverse)
        if not is_alive:
            start, stop = 0, 0
        a_at, b_at = lane_offset(a_lane, outer, middle, inner), lane_offset(b_lane, outer, middle, inner)
        t = piece * piece_steps
        if pack > 0:
            t -= chunk_shift(a_at if by_a else b_at, a_time if by_a else b_time, pack, steps)
        g_now, a_now = shift(g, lane_offset(g_lane, outer, middle, inner)), shift(a, a_at)
        arriving, gates = cuda.local.array(count, kind), cuda.local.array(count, kind)
        decay, rise = one, zero
        mine = t + place * count
        for _ in range(divide(narrow(piece_steps), narrow(width * count))):
            low, high = narrow(start - mine), narrow(stop - mine)
            g_here, a_here = shift(g_now, mine * g_time), shift(a_now, mine * a_time)
            fetch(g_here, a_here, g_time, a_time, low, high, arriving, gates, zero, closed)
            decay_2, rise_2 = summarise_back(arriving, gates, low, high)
            _, _, _, _, decay_2, rise_2, _, _ = compose_group(decay_2, rise_2, zero, zero, place, width, False)
            # Right in the group's first thread.
            decay, rise, _, _ = compose(False, decay_2, rise_2, zero, zero, decay, rise, zero, zero)
            mine += width * count
        if is_alive and place == 0:
            keep_summary(summaries, 4 * (lane * pieces + piece) * size, size, decay, rise, zero, zero)

    return kernel


# ---- 2. The fold ----------------------------------------------------------------------------------------------------


def fold(cuda, rule, zero, size, back):
    """Return the kernel that finds the state, or against the direction of travel the cotangent, of every piece."""
    kind = type(zero)
    is_average, one = rule.is_average and not back, kind(1)
    compose_group = composer(is_average, kind)

    def kernel(h0, summaries, starts, pieces, lanes, middles, inners, h0_lane):
        lane, place = series_lane(32), thread() & 31
        if lane >= lanes:
            return
        outer, middle, inner = split_lane(lane, middles, inners)
        state = first_state(h0, lane_offset(h0_lane, outer, middle, inner), zero)
        base = 0
        while base < pieces:
            turn = base + place
            piece = pieces - 1 - turn if back else turn
            at = 4 * (lane * pieces + piece) * size
            decay, rise, weight, origin = one, zero, zero, zero
            if turn < pieces:
                decay, rise = load(summaries, at, zero), load(summaries, at + size, zero)
                weight, origin = load(summaries, at + 2 * size, zero), load(summaries, at + 3 * size, zero)
            decay_1, rise_1, weight_1, origin_1, decay, rise, weight, origin = compose_group(
                decay, rise, weight, origin, place, 32, True
            )
            first = state if place == 0 else advanced(is_average, decay_1, rise_1, weight_1, origin_1, state)
            if turn < pieces:
                store(starts, (lane * pieces + piece) * size, first)
            state = shuffle(advanced(is_average, decay, rise, weight, origin, state), 31)
            base += 32

    return kernel


# ---- 4. Mending -----------------------------------------------------------------------------------------------------


@helper
def note(lane):
    """Return where in `_lookback`'s words it is noted that a lane must be looked at."""
    return 8 + 8 * lane


@helper
def hold_on(a, h, a_time, h_time, t, stop, end, closed, place):
    """Write a state over the results of closed gates from step t on, until one is open; return whether none was."""
    is_open, beyond = 0, 0
    while is_open == 0 and beyond == 0:
        here = t + place
        is_closed = False
        if here < stop:
            # 0 times what is not finite is NaN, which the result is already, and stays.
            is_closed = load(a, here * a_time, closed) == closed and is_finite(load(h, here * h_time, closed))
        is_open, beyond = ballot(here < stop and not is_closed), ballot(here >= stop)
        if is_closed and is_open & ((1 << place) - 1) == 0:
            store(h, here * h_time, end)
        t += 32
    return is_open == 0


def mend(cuda, rule, zero, size, count, packs, guide):
    """Return the kernel that mends results of pieces, and writes the last state."""
    kind, closed, is_average = type(zero), type(zero)(rule.closed), rule.is_average
    walk = walker(cuda, rule, kind, count, packs)
    by_a, pack = guide[0] == "a", guide[1]

    def kernel(
        a, b, h, last, lengths, starts, ends, leads, words, steps, reverse, piece_steps, pieces, lanes, middles,
        inners, a_time, b_time, h_time, a_lane, b_lane, h_lane, last_lane, lengths_lane,
    ):  # fmt: skip
        lane, place = series_lane(32), thread() & 31
        if lane >= lanes:
            return
        outer, middle, inner = split_lane(lane, middles, inners)
        start, stop = valid_steps(lengths, lane_offset(lengths_lane, outer, middle, inner), steps, reverse)
        a_at, b_at = lane_offset(a_lane, outer, middle, inner), lane_offset(b_lane, outer, middle, inner)
        shifted = 0
        if pack > 0:
            shifted = chunk_shift(a_at if by_a else b_at, a_time if by_a else b_time, pack, steps)
        a_now, b_now = shift(a, a_at), shift(b, b_at)
        h_now = shift(h, lane_offset(h_lane, outer, middle, inner))
        at = lane * pieces * size
        end = load(ends, at, zero)
        base = 1
        if not is_null(words) and not peek(words, note(lane), zero)[0]:
            base = pieces
            end = load(ends, at + (pieces - 1) * size, zero)
        while base < pieces:
            piece = base + place
            before, assumed, lead = end, end, zero
            if piece < pieces:
                assumed, lead = load(starts, at + piece * size, zero), load(leads, at + piece * size, zero)
                if place > 0:
                    before = load(ends, at + (piece - 1) * size, zero)
            in_need = ballot(piece < pieces and (not agree(before, assumed) or lead != zero))
            if in_need == 0:
                end = load(ends, at + (min(base + 32, pieces) - 1) * size, zero)
            else:
                for k in range(32):
                    piece = base + k
                    if piece < pieces:
                        t = piece * piece_steps - shifted
                        until, limit = min(stop, t + piece_steps), min(steps, t + piece_steps)
                        lead, ended = load(leads, at + piece * size, zero), load(ends, at + piece * size, zero)
                        if not agree(end, load(starts, at + piece * size, zero)):
                            chunks = divide(narrow(piece_steps + 32 * count - 1), narrow(32 * count))
                            ended = walk(
                                a_now, b_now, h_now, a_time, b_time, h_time, start, until, limit, t, chunks, end,
                                place, 32,
                            )  # fmt: skip
                        elif is_average and lead != zero:
                            if hold_on(a_now, h_now, a_time, h_time, max(start, t), until, end, closed, place):
                                ended = end
                        end = ended
            base += 32
        if place == 0 and not is_null(last):
            store(last, lane_offset(last_lane, outer, middle, inner), end)

    return kernel


def mend_back(cuda, rule, zero, size, count, packs, guide, a_is_total, b_is_total):
    """Return the kernel that mends gradients of pieces, and writes the first state's."""
    kind = type(zero)
    walk_back = back_walker(cuda, rule, kind, count, packs, a_is_total, b_is_total)
    by_a, pack = guide[0] == "a", guide[1]

    def kernel(
        g, a, b, h, h0, first, to_a, to_b, lengths, starts, ends, words, steps, reverse, piece_steps, pieces, lanes,
        middles, inners, g_time, a_time, b_time, h_time, to_a_time, to_b_time, g_lane, a_lane, b_lane, h_lane, h0_lane,
        first_lane, to_a_lane, to_b_lane, lengths_lane,
    ):  # fmt: skip
        lane, place = series_lane(32), thread() & 31
        if lane >= lanes:
            return
        outer, middle, inner = split_lane(lane, middles, inners)
        start, stop = valid_steps(lengths, lane_offset(lengths_lane, outer, middle, inner), steps, reverse)
        a_at, b_at = lane_offset(a_lane, outer, middle, inner), lane_offset(b_lane, outer, middle, inner)
        shifted = 0
        if pack > 0:
            shifted = chunk_shift(a_at if by_a else b_at, a_time if by_a else b_time, pack, steps)
        g_now, a_now = shift(g, lane_offset(g_lane, outer, middle, inner)), shift(a, a_at)
        b_now, h_now = shift(b, b_at), shift(h, lane_offset(h_lane, outer, middle, inner))
        to_a_now = shift(to_a, lane_offset(to_a_lane, outer, middle, inner))
        to_b_now = shift(to_b, lane_offset(to_b_lane, outer, middle, inner))
        origin = first_state(h0, lane_offset(h0_lane, outer, middle, inner), zero)
        totals = cuda.local.array(4, kind)
        at = lane * pieces * size
        end = load(ends, at + (pieces - 1) * size, zero)
        base = pieces - 2
        if not is_null(words) and not peek(words, note(lane), zero)[0]:
            base = -1
            end = load(ends, at, zero)
        while base >= 0:
            piece = base - place
            before, assumed = end, end
            if piece >= 0:
                assumed = load(starts, at + piece * size, zero)
                if place > 0:
                    before = load(ends, at + (piece + 1) * size, zero)
            in_need = ballot(piece >= 0 and not agree(before, assumed))
            if in_need == 0:
                end = load(ends, at + max(base - 31, 0) * size, zero)
            else:
                for k in range(32):
                    piece = base - k
                    if piece >= 0:
                        ended = load(ends, at + piece * size, zero)
                        if not agree(end, load(starts, at + piece * size, zero)):
                            t = piece * piece_steps - shifted
                            until, limit = min(stop, t + piece_steps), min(steps, t + piece_steps)
                            chunks = divide(narrow(piece_steps + 32 * count - 1), narrow(32 * count))
                            for j in range(4):
                                totals[j] = zero
                            ended = walk_back(
                                g_now, a_now, b_now, h_now, to_a_now, to_b_now, g_time, a_time, b_time, h_time,
                                to_a_time, to_b_time, start, until, limit, t, chunks, end, origin, place, 32, totals,
                            )  # fmt: skip
                            if a_is_total:
                                total = group_total(totals[0], totals[1], place, place, 32)
                                if place == 0:
                                    store(to_a, (piece * lanes + lane) * size, total)
                            if b_is_total:
                                total = group_total(totals[2], totals[3], place, place, 32)
                                if place == 0:
                                    store(to_b, (piece * lanes + lane) * size, total)
                        end = ended
            base -= 32
        if place == 0 and not is_null(first):
            store(first, lane_offset(first_lane, outer, middle, inner), end)

    return kernel

"""Lanes side by side in one pass: each tile is read once, and tiles learn from each other where they start.

A tile is 32 neighbouring lanes over a piece of time; its block's `ROWS` warps share the time, a thread holding
``count`` steps of a lane. Each thread sums up its steps, as in `_series`; the first warp composes the rows' summaries,
publishes the tile's, and once the state before the tile is known, hands each row the state that it starts from. The
rows walk what they hold. What a piece of `_lookback` is over contiguous time, a tile is here: a warp alone would hold
too few steps of a lane for what it must tell others.

Same input, same bits, whoever comes first: the state before a turn is that before the turn before it, advanced by its
one summary. All begin at the first state, in one order; a state that was published is only a later place to begin.
The warps look together: at the states before 32 turns, then at the summaries from the nearest one on, a warp at four
turns. A summary that is not there after so many looks is computed once more, to the same bits; see `_lookback` for
why nobody waits for ever.

Within a tile, a lane one of whose rows starts with a closed gate, or behind the lane's last step, or comes to a state
that is not finite, is walked once more, row after row: that is the sequential answer. Between tiles `_split` mends.

In ``words``: the next turn and the lanes' notes, as in `_lookback`; then for each turn the state before it and its
summary, number by number, each for all lanes.
"""

import numpy as np

from .._steps import fma, select
from ._device import (
    anew,
    ballot,
    barrier,
    block_threads,
    divide,
    draw,
    helper,
    highest,
    narrow,
    peek,
    publish,
    shift,
    shuffle,
    store,
    thread,
)
from ._lanes import add_exactly, first_state, lane_offset, settled, split_lane, valid_steps
from ._series import (
    advanced,
    back_summariser,
    compose,
    fetcher,
    fetcher_of_two,
    is_finite,
    slow_back_summariser,
    slow_summariser,
    summariser,
    whole_fetcher,
)
from ._split import note

ROWS = 8
THREADS = 32 * ROWS
FOUR = 4 * THREADS
EACH = 2  # turns that a warp looks at
LOOKED = EACH * ROWS


def groups(lanes):
    """Return how many tiles stand side by side."""
    return -(-lanes // 32)


def words(lanes, turns, is_average):
    """Return how many bytes there are in ``words``."""
    return 32 * (1 + lanes // 4) + 8 * (5 if is_average else 3) * 32 * groups(lanes) * turns


@helper
def turn_words(lanes, count, place, turn):
    """Return where the words of a turn begin for a lane in this place, and how far from each to the next."""
    across = 8 * 32 * divide(lanes + 31, 32)
    return 32 * (1 + divide(lanes, 4)) + 8 * place + turn * (count * across), across


def tile_opener(cuda):
    """Return the device function that draws this block's number."""

    @helper
    def open_tile(words):
        drawn = cuda.shared.array(1, np.int32)
        if thread() == 0:
            drawn[0] = draw(words)
        barrier()
        return narrow(drawn[0])

    return open_tile


def looker(cuda, is_average, kind, spins, sum_up_again):
    """Return the device function by which a block finds the state before its turn.

    ``sum_up_again`` reads a lane's steps of another tile once more, and returns their summary.
    """
    zero, one = kind(0), kind(1)
    numbers, part = (5 if is_average else 3), 32 * LOOKED
    many = (numbers - 1) * part

    @helper
    def peek_summary(words, at, across):
        has_decay, decay = peek(words, at + across, zero)
        has_rise, rise = peek(words, at + 2 * across, zero)
        has_weight, weight, has_origin, origin = True, zero, True, zero
        if is_average:
            has_weight, weight = peek(words, at + 3 * across, zero)
            has_origin, origin = peek(words, at + 4 * across, zero)
        return has_decay and has_rise and has_weight and has_origin, decay, rise, weight, origin

    @helper
    def tell(found, at, decay, rise, weight, origin):
        found[at], found[part + at] = decay, rise
        if is_average:
            found[2 * part + at], found[3 * part + at] = weight, origin

    @helper
    def look_back(words, lanes, turn, lane, place, row, state, x, y, x_time, y_time, low, high, onward, each):
        """Return the state before a turn, in the first warp.

        The lane's first turn starts from ``state``, each next one ``onward`` steps further; x and y stand at the first
        of the ``each`` steps that this thread takes, of which those from ``low`` to ``high`` are valid.
        """
        known = cuda.shared.array(part, np.int32)
        found = cuda.shared.array(many, kind)
        # Loops of their own: what is asked for in one is on its way at once.
        there = cuda.local.array(EACH, np.int32)
        decays, rises = cuda.local.array(EACH, kind), cuda.local.array(EACH, kind)
        weights, origins = cuda.local.array(EACH, kind), cuda.local.array(EACH, kind)
        begin, back = -1, turn  # where this lane begins, not yet known
        while ballot(begin < 0) != 0:
            for k in range(EACH):
                nearer = narrow(EACH * row + k)
                there[k], rises[k] = 0, zero
                if nearer < back:
                    at, _ = turn_words(lanes, numbers, lane, back - nearer)
                    is_known, rises[k] = peek(words, at, zero)
                    there[k] = 1 if is_known else 0
            for k in range(EACH):
                at = narrow(32 * (EACH * row + k) + place)
                known[at], found[at] = there[k], rises[k]
            barrier()
            for k in range(narrow(EACH * (block_threads() >> 5))):  # `LOOKED`, which the compiler must not know
                if begin < 0 and known[32 * k + place] != 0:
                    begin, state = back - k, found[32 * k + place]
            back -= LOOKED
            if begin < 0 and back <= 0:
                begin = 0
            barrier()
        first = turn
        earlier = ballot(begin < first)
        while earlier != 0:
            first = shuffle(begin, highest(earlier))
            earlier = ballot(begin < first)
        while first < turn:
            for k in range(EACH):
                there[k] = 0 if first + EACH * row + k < turn else 1
                decays[k], rises[k], weights[k], origins[k] = one, zero, zero, zero
            missing, looks = 1, 0
            while missing != 0 and looks < spins:
                for k in range(EACH):
                    other = first + EACH * row + k
                    if there[k] == 0:
                        at, across = turn_words(lanes, numbers, lane, other)
                        is_there, decays[k], rises[k], weights[k], origins[k] = peek_summary(words, at, across)
                        there[k] = 1 if is_there else 0
                is_missing = False
                for k in range(EACH):
                    is_missing = is_missing or there[k] == 0
                missing = ballot(is_missing)
                looks += 1
            lacking = 0
            for k in range(EACH):
                lacking |= 0 if ballot(there[k] == 0) == 0 else 1 << k
                tell(found, narrow(32 * (EACH * row + k) + place), decays[k], rises[k], weights[k], origins[k])
            at, other = narrow(32 * EACH * row + place), first + EACH * row
            while lacking != 0:
                if lacking & 1 != 0:
                    decay, rise, weight, origin = sum_up_again(
                        x, y, x_time, y_time, low, high, (other - turn) * onward - row * each, each
                    )
                    tell(found, at, decay, rise, weight, origin)
                lacking >>= 1
                at += 32
                other += 1
            barrier()
            if row == 0:
                for k in range(narrow(min(LOOKED, turn - first))):
                    at = k * 32 + place
                    weight, origin = zero, zero
                    if is_average:
                        weight, origin = found[2 * part + at], found[3 * part + at]
                    after = advanced(is_average, found[at], found[part + at], weight, origin, state)
                    state = select(first + k >= begin, after, state)
            first += LOOKED
            barrier()
        return state

    return look_back


def forward(cuda, rule, zero, size, count, spins):
    """Return the kernel that walks in the direction of travel; the rest is as in `_lanes`."""
    kind, closed, is_average = type(zero), type(zero)(rule.closed), rule.is_average
    one, step, numbers, tile = kind(1), rule.step, 5 if is_average else 3, THREADS
    fetch, summarise = fetcher_of_two(kind, count, 0, 0), summariser(rule, kind, count)
    summarise_slowly, open_tile = slow_summariser(rule, kind), tile_opener(cuda)

    @helper
    def sum_up_again(a, b, a_time, b_time, low, high, t, each):
        decay, rise, weight, origin = one, zero, zero, zero
        for _ in range(narrow(block_threads() >> 5)):
            decay_2, rise_2, weight_2, origin_2 = summarise_slowly(
                shift(a, t * a_time), shift(b, t * b_time), a_time, b_time, narrow(low - t), narrow(high - t), each
            )
            t += each
            decay, rise, weight, origin = compose(
                is_average, decay, rise, weight, origin, decay_2, rise_2, weight_2, origin_2
            )
        return decay, rise, weight, origin

    look_back = looker(cuda, is_average, kind, spins, sum_up_again)

    @helper
    def walk(h, h_time, gates, values, low, high, here, state):
        # Anew: else what the first walk makes of a gate would wait in registers for the second.
        for j in range(count):
            valid = j >= low and j < high
            state = select(valid, step(state, anew(gates[j]), anew(values[j])), state)
            if j < here:
                store(h, j * h_time, select(valid, state, zero))
        return state

    def kernel(
        a, b, h, h0, lengths, words, starts, ends, leads, steps, reverse, piece_steps, pieces, lanes, middles, inners,
        a_time, b_time, h_time, a_lane, b_lane, h_lane, h0_lane, lengths_lane,
    ):  # fmt: skip
        number, place, row = open_tile(words), narrow(thread() & 31), narrow(thread() >> 5)
        rows = narrow(block_threads() >> 5)  # `ROWS`, which the compiler must not know: it would unroll by it
        across = divide(lanes + 31, 32)
        turn = divide(number, across)
        beside = narrow(32 * (number - turn * across) + place)
        is_alive = beside < lanes
        lane = beside if is_alive else 0
        outer, middle, inner = split_lane(lane, middles, inners)
        start, stop = valid_steps(lengths, lane_offset(lengths_lane, outer, middle, inner), steps, reverse)
        limit = steps
        if not is_alive:
            start, stop, limit = 0, 0, 0
        here = turn * piece_steps
        mine = here + row * count
        low, high, room = narrow(start - mine), narrow(stop - mine), narrow(limit - mine)
        a_at, b_at = lane_offset(a_lane, outer, middle, inner), lane_offset(b_lane, outer, middle, inner)
        gates, values = cuda.local.array(count, kind), cuda.local.array(count, kind)
        a_now, b_now = shift(a, a_at + mine * a_time), shift(b, b_at + mine * b_time)
        fetch(a_now, b_now, a_time, b_time, low, high, gates, values, closed, zero)
        sums = cuda.shared.array(FOUR, kind)
        at = narrow(thread())
        sums[at], sums[tile + at], sums[2 * tile + at], sums[3 * tile + at] = summarise(gates, values)
        barrier()
        all_decay, all_rise, all_weight, all_origin = one, zero, zero, zero
        if row == 0:
            for k in range(rows):
                other = 32 * k + place
                all_decay, all_rise, all_weight, all_origin = compose(
                    is_average, all_decay, all_rise, all_weight, all_origin, sums[other], sums[tile + other],
                    sums[2 * tile + other], sums[3 * tile + other],
                )  # fmt: skip
            word, further = turn_words(lanes, numbers, beside, turn)
            publish(words, word + further, all_decay)
            publish(words, word + 2 * further, all_rise)
            if is_average:
                publish(words, word + 3 * further, all_weight)
                publish(words, word + 4 * further, all_origin)
        state = look_back(
            words, lanes, turn, beside, place, row, first_state(h0, lane_offset(h0_lane, outer, middle, inner), zero),
            a_now, b_now, a_time, b_time, low, high, piece_steps, divide(narrow(piece_steps), ROWS),
        )  # fmt: skip
        at_piece = (lane * pieces + turn) * size
        if row == 0:
            if turn + 1 < pieces:
                word, _ = turn_words(lanes, numbers, beside, turn + 1)
                publish(words, word, advanced(is_average, all_decay, all_rise, all_weight, all_origin, state))
            if is_alive:
                store(starts, at_piece, state)
            for k in range(rows):
                other = 32 * k + place
                onward = advanced(
                    is_average, sums[other], sums[tile + other], sums[2 * tile + other], sums[3 * tile + other], state
                )
                sums[other] = state
                state = onward
        barrier()
        began = sums[at]
        h_now = shift(h, lane_offset(h_lane, outer, middle, inner) + mine * h_time)
        end = walk(h_now, h_time, gates, values, low, high, room, began)
        # A row that begins with a closed gate repeats the end of the one before it, which is not known before it is
        # walked; after a state that is not finite there is no other way.
        is_lead = is_average and low < 0 and high > 0 and gates[0] == closed
        # Rows behind a lane's last step bring its end to the last of them.
        is_behind = high <= 0 and high + count > 0
        is_odd = ((is_lead or is_behind) and row > 0) or (not is_finite(end) and sums[place] == sums[place])
        sums[tile + at], sums[2 * tile + at] = end, select(is_odd, one, zero)
        barrier()
        again = False
        for k in range(rows):
            again = again or sums[2 * tile + 32 * k + place] != zero
        if ballot(again) != 0:  # as in every warp of the block: they share their lanes
            for k in range(1, rows):
                if again and row == k:
                    end = walk(h_now, h_time, gates, values, low, high, room, sums[tile + at - 32])
                    sums[tile + at] = end
                barrier()
        if is_alive and row == 0:
            store(leads, at_piece, select(is_lead, one, zero))
            if is_lead or not is_finite(began):
                publish(words, note(lane), zero)
        if is_alive and row == ROWS - 1:
            store(ends, at_piece, end)
            if not is_finite(end):
                publish(words, note(lane), zero)

    return kernel


def vjp(cuda, rule, zero, size, count, spins, a_is_total, b_is_total):
    """Return the kernel that walks against the direction of travel; totals are as in `_lanes`."""
    kind, closed, adjoint = type(zero), type(zero)(rule.closed), rule.adjoint
    one, tile = kind(1), THREADS
    read, fetch, fetch_two = whole_fetcher(kind, count, 0), fetcher(kind, count, 0), fetcher_of_two(kind, count, 0, 0)
    summarise_back, open_tile = back_summariser(rule, kind, count), tile_opener(cuda)
    summarise_back_slowly = slow_back_summariser(rule, kind)

    @helper
    def sum_up_again(g, a, g_time, a_time, low, high, t, each):
        decay, rise = one, zero
        rows = narrow(block_threads() >> 5)
        t += rows * each
        for _ in range(rows):
            t -= each
            decay_2, rise_2 = summarise_back_slowly(
                shift(g, t * g_time), shift(a, t * a_time), g_time, a_time, narrow(low - t), narrow(high - t), each
            )
            decay, rise, _, _ = compose(False, decay, rise, zero, zero, decay_2, rise_2, zero, zero)
        return decay, rise, zero, zero

    look_back = looker(cuda, False, kind, spins, sum_up_again)

    @helper
    def walk_back(
        to_a, to_b, to_a_time, to_b_time, arriving, gates, values, before, low, high, here, r, totals
    ):  # fmt: skip
        for k in range(4):
            totals[k] = zero
        for ago in range(count):
            j = count - 1 - ago
            valid = j >= low and j < high
            grad_a, grad_b, onward = adjoint(arriving[j] + r, gates[j], values[j], before[j])
            r = select(valid, onward, r)
            grad_a, grad_b = select(valid, grad_a, zero), select(valid, grad_b, zero)
            if a_is_total:
                totals[0], totals[1] = add_exactly(totals[0], totals[1], grad_a)
            elif j < here:
                store(to_a, j * to_a_time, grad_a)
            if b_is_total:
                totals[2], totals[3] = add_exactly(totals[2], totals[3], grad_b)
            elif j < here:
                store(to_b, j * to_b_time, grad_b)
        return r

    @helper
    def total_of_rows(parts, place):
        total, rest = zero, zero
        for k in range(ROWS):
            total, rest = add_exactly(total, rest + parts[tile + 32 * k + place], parts[32 * k + place])
        return settled(total, rest)

    def kernel(
        g, a, b, h, h0, last, to_a, to_b, lengths, words, starts, ends, steps, reverse, piece_steps, pieces, lanes,
        middles, inners, g_time, a_time, b_time, h_time, to_a_time, to_b_time, g_lane, a_lane, b_lane, h_lane, h0_lane,
        last_lane, to_a_lane, to_b_lane, lengths_lane,
    ):  # fmt: skip
        number, place, row = open_tile(words), narrow(thread() & 31), narrow(thread() >> 5)
        rows = narrow(block_threads() >> 5)  # `ROWS`, which the compiler must not know: it would unroll by it
        across = divide(lanes + 31, 32)
        turn = divide(number, across)
        piece, beside = pieces - 1 - turn, narrow(32 * (number - turn * across) + place)
        is_alive = beside < lanes
        lane = beside if is_alive else 0
        outer, middle, inner = split_lane(lane, middles, inners)
        start, stop = valid_steps(lengths, lane_offset(lengths_lane, outer, middle, inner), steps, reverse)
        limit = steps
        if not is_alive:
            start, stop, limit = 0, 0, 0
        mine = piece * piece_steps + row * count
        low, high, room = narrow(start - mine), narrow(stop - mine), narrow(limit - mine)
        g_at, a_at = lane_offset(g_lane, outer, middle, inner), lane_offset(a_lane, outer, middle, inner)
        g_now, a_now = shift(g, g_at + mine * g_time), shift(a, a_at + mine * a_time)
        b_now = shift(b, lane_offset(b_lane, outer, middle, inner) + mine * b_time)
        h_before = shift(h, lane_offset(h_lane, outer, middle, inner) + (mine - 1) * h_time)
        arriving, gates = cuda.local.array(count, kind), cuda.local.array(count, kind)
        values, before = cuda.local.array(count, kind), cuda.local.array(count, kind)
        if low < 0 and high >= count:
            read(g_now, g_time, arriving)
            read(a_now, a_time, gates)
            read(b_now, b_time, values)
            read(h_before, h_time, before)
        else:
            fetch_two(g_now, a_now, g_time, a_time, low, high, arriving, gates, zero, closed)
            fetch(b_now, b_time, low, high, values, zero)
            fetch(h_before, h_time, low + 1, high, before, zero)
        origin = first_state(h0, lane_offset(h0_lane, outer, middle, inner), zero)
        for j in range(count):
            before[j] = select(j == low, origin, before[j])
        sums = cuda.shared.array(FOUR, kind)
        at = narrow(thread())
        sums[at], sums[tile + at] = summarise_back(arriving, gates, low, high)
        barrier()
        all_decay, all_rise = one, zero
        if row == 0:
            for ago in range(rows):
                other = 32 * (rows - 1 - ago) + place
                all_decay, all_rise, _, _ = compose(
                    False, all_decay, all_rise, zero, zero, sums[other], sums[tile + other], zero, zero
                )
            word, further = turn_words(lanes, 3, beside, turn)
            publish(words, word + further, all_decay)
            publish(words, word + 2 * further, all_rise)
        r = look_back(
            words, lanes, turn, beside, place, row,
            first_state(last, lane_offset(last_lane, outer, middle, inner), zero), g_now, a_now, g_time, a_time, low,
            high, -piece_steps, divide(narrow(piece_steps), ROWS),
        )  # fmt: skip
        at_piece = (lane * pieces + piece) * size
        if row == 0:
            if turn + 1 < pieces:
                word, _ = turn_words(lanes, 3, beside, turn + 1)
                publish(words, word, fma(all_decay, r, all_rise))
            if is_alive:
                store(starts, at_piece, r)
                if not is_finite(r):
                    publish(words, note(lane), zero)
            for ago in range(rows):
                other = 32 * (rows - 1 - ago) + place
                onward = fma(sums[other], r, sums[tile + other])
                sums[other] = r
                r = onward
        barrier()
        began = sums[at]
        to_a_now = shift(to_a, lane_offset(to_a_lane, outer, middle, inner) + mine * to_a_time)
        to_b_now = shift(to_b, lane_offset(to_b_lane, outer, middle, inner) + mine * to_b_time)
        totals = cuda.local.array(4, kind)
        end = walk_back(
            to_a_now, to_b_now, to_a_time, to_b_time, arriving, gates, values, before, low, high, room, began, totals
        )
        first = sums[32 * (ROWS - 1) + place]
        is_odd = not is_finite(end) and first == first
        sums[tile + at], sums[2 * tile + at] = end, select(is_odd, one, zero)
        barrier()
        again = False
        for k in range(rows):
            again = again or sums[2 * tile + 32 * k + place] != zero
        if ballot(again) != 0:
            for ago in range(1, rows):
                if again and row == rows - 1 - ago:
                    end = walk_back(
                        to_a_now, to_b_now, to_a_time, to_b_time, arriving, gates, values, before, low, high, room,
                        sums[tile + at + 32], totals,
                    )  # fmt: skip
                    sums[tile + at] = end
                barrier()
        if is_alive and row == 0:
            store(ends, at_piece, end)
            if not is_finite(end):
                publish(words, note(lane), zero)
        # Never both: one of the operands has time.
        if a_is_total:
            sums[at], sums[tile + at] = totals[0], totals[1]
            barrier()
            if is_alive and row == 0:
                store(to_a, (piece * lanes + lane) * size, total_of_rows(sums, place))
        if b_is_total:
            sums[at], sums[tile + at] = totals[2], totals[3]
            barrier()
            if is_alive and row == 0:
                store(to_b, (piece * lanes + lane) * size, total_of_rows(sums, place))

    return kernel

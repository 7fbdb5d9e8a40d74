"""Contiguous time in one pass: each piece is read once, and pieces learn from each other where they start.

A piece is one chunk of `_series`: a warp reads it into registers, sums it up, publishes the summary, looks back for the
state that it starts from, and walks what it holds. `_split` mends afterwards, as it does after `fold`; a lane of which
no piece asks for it is passed over.

Same input, same bits, whoever comes first. Turns, which are pieces in the direction of travel, stand in groups of 32.
The state before a group follows from the state before the group before it and that group's 32 summaries, composed in
the order of the one scan of `_series`; the state before a turn follows from the state before its group and the
summaries of the turns before it, by the same scan. These are the operations of `fold`, so what is known already decides
how much is computed, never what comes out: the states before groups that are published are only a shortcut.

Nobody waits for ever. A warp takes the next turn when it starts, so that the turns before it have started; what it
waits for is their summaries, and these wait for nothing. A summary that is not there after `SPINS` looks is computed
once more from the operands, with the same bits. So the result rests neither on the order in which blocks are started
nor on when memory shows what others write; only the time does.

In ``words``: the next turn; for each lane a note that it must be looked at by `_split`; for each turn of a lane its
summary, in 32 bytes, which memory moves together (each word of 8 is seen as one, the four are not); for each group of a
lane the state before it. A launch before clears them, in memory of the call's own: a count of calls in memory that
stays would save that launch, but that memory would be shared by streams, and not the caller's library's.
"""

from .._steps import fma, select
from ._device import (
    ballot,
    block,
    block_threads,
    divide,
    draw,
    helper,
    highest,
    load,
    narrow,
    peek,
    publish,
    shift,
    shuffle,
    store,
    store_wide,
    thread,
)
from ._lanes import first_state, lane_offset, split_lane, valid_steps
from ._series import (
    advanced,
    back_chunk_walker,
    chunk_shift,
    chunk_walker,
    composer,
    group_total,
    is_finite,
    slow_back_summariser,
    slow_summariser,
)
from ._split import note

SPINS = 1 << 8


def words(lanes, pieces):
    """Return how many bytes there are in ``words``."""
    return 32 * (1 + lanes // 4) + 32 * lanes * pieces + 8 * lanes * -(-pieces // 32)


def clear(cuda, zero):
    """Return the kernel that clears words, 16 bytes a thread."""

    def kernel(words, sixteens):
        at = narrow(block() * block_threads() + thread())
        if at < sixteens:
            store_wide(words, 16 * at, (zero, zero, zero, zero))

    return kernel


@helper
def lane_words(lanes, lane, pieces):
    """Return where the summaries of a lane's turns begin, 32 bytes each, and the states before its groups."""
    begin = 32 * (1 + divide(lanes, 4))
    return begin + 32 * (lane * pieces), begin + 32 * (lanes * pieces) + 8 * (lane * divide(pieces + 31, 32))


@helper
def next_turn(words):
    """Return this warp's number, in the order in which warps start."""
    number = narrow(0)
    if thread() & 31 == 0:
        number = draw(words)
    return shuffle(number, 0)


@helper
def publish_summary(is_average, words, at, decay, rise, weight, origin):
    publish(words, at, decay)
    publish(words, at + 8, rise)
    if is_average:
        publish(words, at + 16, weight)
        publish(words, at + 24, origin)


@helper
def peek_summary(is_average, words, at, zero):
    """Return whether all of a summary is there, and the summary."""
    has_decay, decay = peek(words, at, zero)
    has_rise, rise = peek(words, at + 8, zero)
    has_weight, weight, has_origin, origin = True, zero, True, zero
    if is_average:
        has_weight, weight = peek(words, at + 16, zero)
        has_origin, origin = peek(words, at + 24, zero)
    return has_decay and has_rise and has_weight and has_origin, decay, rise, weight, origin


def looker(is_average, kind, spins, sum_up_again, last):
    """Return the device function that finds the state before a turn.

    ``sum_up_again`` reads a chunk once more; its summary is that of the thread in place ``last``.
    """
    zero, one = kind(0), kind(1)
    compose_group = composer(is_average, kind)

    @helper
    def look_back(
        words, at, states_at, turn, turns, state, decay, rise, weight, origin, place, x, y, x_time, y_time, start, stop,
        t, each, onward,
    ):  # fmt: skip
        """Return the state before a turn, all threads of the warp having its summary.

        Its lane's first turn starts from ``state`` at step t, each next one ``onward`` steps further; a thread takes
        ``each``.
        """
        its_group = divide(turn, 32)
        group, back, seen = 0, its_group, 0
        while seen == 0 and back > 0:
            # Thread 31 asks for this group, the one before it for the group before.
            candidate, is_known, known = back - 31 + place, False, zero
            if candidate > 0:
                is_known, known = peek(words, states_at + 8 * candidate, zero)
            seen = ballot(is_known)
            if seen != 0:
                nearest = highest(seen)
                group, state = back - 31 + nearest, shuffle(known, nearest)
            back -= 32
        began = state
        while group <= its_group:
            first = 32 * group
            mine = first + place
            is_there, decay_2, rise_2, weight_2, origin_2 = True, one, zero, zero, zero
            if mine < turn:
                is_there = False
            elif mine == turn:
                decay_2, rise_2, weight_2, origin_2 = decay, rise, weight, origin
            missing, looks = ballot(not is_there), 0
            while missing != 0 and looks < spins:
                if not is_there:
                    is_there, decay_2, rise_2, weight_2, origin_2 = peek_summary(
                        is_average, words, at + 32 * mine, zero
                    )
                missing = ballot(not is_there)
                looks += 1
            while missing != 0:
                other = highest(missing)
                decay_1, rise_1, weight_1, origin_1 = sum_up_again(
                    x, y, x_time, y_time, start, stop, t + (first + other) * onward, each, place
                )
                decay_1, rise_1 = shuffle(decay_1, last), shuffle(rise_1, last)
                weight_1, origin_1 = shuffle(weight_1, last), shuffle(origin_1, last)
                if place == other:
                    is_there, decay_2, rise_2, weight_2, origin_2 = True, decay_1, rise_1, weight_1, origin_1
                missing = ballot(not is_there)
            decay_1, rise_1, weight_1, origin_1, decay_2, rise_2, weight_2, origin_2 = compose_group(
                decay_2, rise_2, weight_2, origin_2, place, 32, True
            )
            if group == its_group:
                began = state
                if place > 0:
                    began = advanced(is_average, decay_1, rise_1, weight_1, origin_1, state)
                began = shuffle(began, turn - first)
            state = shuffle(advanced(is_average, decay_2, rise_2, weight_2, origin_2, state), 31)
            if place == 0 and first + 31 <= turn and first + 32 < turns:
                publish(words, states_at + 8 * (group + 1), state)
            group += 1
        return began

    return look_back


def forward(cuda, rule, zero, size, count, packs, guide, spins):
    """Return the kernel that walks in the direction of travel; the rest is as in `_series`."""
    kind, closed, is_average = type(zero), type(zero)(rule.closed), rule.is_average
    sum_up, write = chunk_walker(cuda, rule, kind, count, packs)
    summarise_slowly, compose_group = slow_summariser(rule, kind), composer(is_average, kind)
    by_a, pack = guide[0] == "a", guide[1]

    @helper
    def sum_up_again(a, b, a_time, b_time, start, stop, t, each, place):
        mine = t + place * each
        low, high = narrow(start - mine), narrow(stop - mine)
        decay, rise, weight, origin = summarise_slowly(
            shift(a, mine * a_time), shift(b, mine * b_time), a_time, b_time, low, high, each
        )
        _, _, _, _, decay, rise, weight, origin = compose_group(decay, rise, weight, origin, place, 32, True)
        return decay, rise, weight, origin

    look_back = looker(is_average, kind, spins, sum_up_again, 31)

    def kernel(
        a, b, h, h0, lengths, words, starts, ends, leads, steps, reverse, piece_steps, pieces, lanes, middles, inners,
        a_time, b_time, h_time, a_lane, b_lane, h_lane, h0_lane, lengths_lane,
    ):  # fmt: skip
        place, number = thread() & 31, next_turn(words)
        each = divide(narrow(piece_steps), 32)  # ``count``, which the compiler must not know: it would unroll by it
        turn = divide(number, lanes)
        lane = number - turn * lanes
        if turn >= pieces:
            return
        outer, middle, inner = split_lane(lane, middles, inners)
        start, stop = valid_steps(lengths, lane_offset(lengths_lane, outer, middle, inner), steps, reverse)
        a_at, b_at = lane_offset(a_lane, outer, middle, inner), lane_offset(b_lane, outer, middle, inner)
        t = 0
        if pack > 0:
            t -= chunk_shift(a_at if by_a else b_at, a_time if by_a else b_time, pack, steps)
        a_now, b_now = shift(a, a_at), shift(b, b_at)
        gates, values, results = (
            cuda.local.array(count, kind), cuda.local.array(count, kind), cuda.local.array(count, kind)
        )  # fmt: skip
        here = t + turn * 32 * count
        mine = here + place * count
        decay, rise, weight, origin, all_decay, all_rise, all_weight, all_origin = sum_up(
            a_now, b_now, a_time, b_time, start, stop, mine, place, 32, gates, values
        )
        at, states_at = lane_words(lanes, lane, pieces)
        if place == 31:
            publish_summary(is_average, words, at + 32 * turn, all_decay, all_rise, all_weight, all_origin)
        all_decay, all_rise = shuffle(all_decay, 31), shuffle(all_rise, 31)
        all_weight, all_origin = shuffle(all_weight, 31), shuffle(all_origin, 31)
        state = look_back(
            words, at, states_at, turn, pieces, first_state(h0, lane_offset(h0_lane, outer, middle, inner), zero),
            all_decay, all_rise, all_weight, all_origin, place, a_now, b_now, a_time, b_time, start, stop, t, each,
            32 * each,
        )  # fmt: skip
        began = select(place == 0, state, advanced(is_average, decay, rise, weight, origin, state))
        end = write(
            shift(h, lane_offset(h_lane, outer, middle, inner)), h_time, start, stop, steps, mine, gates, values,
            results, state, began, place, 32,
        )  # fmt: skip
        if place == 0:
            at_piece, lead, begin = (lane * pieces + turn) * size, zero, max(start, here)
            if is_average and begin < min(stop, here + 32 * count) and load(a_now, begin * a_time, zero) == closed:
                lead = kind(1)
            store(starts, at_piece, state)
            store(ends, at_piece, end)
            store(leads, at_piece, lead)
            if lead != zero or not is_finite(state) or not is_finite(end):
                publish(words, note(lane), zero)

    return kernel


def vjp(cuda, rule, zero, size, count, packs, guide, spins, a_is_total, b_is_total):
    """Return the kernel that walks against the direction of travel; the rest is as in `_series`."""
    kind = type(zero)
    sum_up_back, write_back = back_chunk_walker(cuda, rule, kind, count, packs, a_is_total, b_is_total)
    summarise_back_slowly, compose_group = slow_back_summariser(rule, kind), composer(False, kind)
    by_a, pack = guide[0] == "a", guide[1]

    @helper
    def sum_up_again(g, a, g_time, a_time, start, stop, t, each, place):
        mine = t + place * each
        low, high = narrow(start - mine), narrow(stop - mine)
        decay, rise = summarise_back_slowly(
            shift(g, mine * g_time), shift(a, mine * a_time), g_time, a_time, low, high, each
        )
        _, _, _, _, decay, rise, _, _ = compose_group(decay, rise, zero, zero, place, 32, False)
        return decay, rise, zero, zero

    look_back = looker(False, kind, spins, sum_up_again, 0)

    def kernel(
        g, a, b, h, h0, last, to_a, to_b, lengths, words, starts, ends, steps, reverse, piece_steps, pieces, lanes,
        middles, inners, g_time, a_time, b_time, h_time, to_a_time, to_b_time, g_lane, a_lane, b_lane, h_lane, h0_lane,
        last_lane, to_a_lane, to_b_lane, lengths_lane,
    ):  # fmt: skip
        place, number = thread() & 31, next_turn(words)
        each = divide(narrow(piece_steps), 32)  # ``count``, which the compiler must not know: it would unroll by it
        turn = divide(number, lanes)
        lane, piece = number - turn * lanes, pieces - 1 - turn
        if turn >= pieces:
            return
        outer, middle, inner = split_lane(lane, middles, inners)
        start, stop = valid_steps(lengths, lane_offset(lengths_lane, outer, middle, inner), steps, reverse)
        a_at, b_at = lane_offset(a_lane, outer, middle, inner), lane_offset(b_lane, outer, middle, inner)
        t = 0
        if pack > 0:
            t -= chunk_shift(a_at if by_a else b_at, a_time if by_a else b_time, pack, steps)
        g_now, a_now = shift(g, lane_offset(g_lane, outer, middle, inner)), shift(a, a_at)
        origin = first_state(h0, lane_offset(h0_lane, outer, middle, inner), zero)
        arriving, gates = cuda.local.array(count, kind), cuda.local.array(count, kind)
        values, before = cuda.local.array(count, kind), cuda.local.array(count, kind)
        grads_a, grads_b = cuda.local.array(count, kind), cuda.local.array(count, kind)
        totals = cuda.local.array(4, kind)
        for k in range(4):
            totals[k] = zero
        mine = t + piece * 32 * count + place * count
        decay, rise, _, _, all_decay, all_rise, _, _ = sum_up_back(
            g_now, a_now, shift(b, b_at), shift(h, lane_offset(h_lane, outer, middle, inner)), g_time, a_time, b_time,
            h_time, start, stop, mine, origin, place, 32, arriving, gates, values, before,
        )  # fmt: skip
        at, states_at = lane_words(lanes, lane, pieces)
        if place == 0:
            publish_summary(False, words, at + 32 * turn, all_decay, all_rise, zero, zero)
        all_decay, all_rise = shuffle(all_decay, 0), shuffle(all_rise, 0)
        r = look_back(
            words, at, states_at, turn, pieces, first_state(last, lane_offset(last_lane, outer, middle, inner), zero),
            all_decay, all_rise, zero, zero, place, g_now, a_now, g_time, a_time, start, stop,
            t + (pieces - 1) * 32 * count, each, -32 * each,
        )  # fmt: skip
        began = select(place == 31, r, fma(decay, r, rise))
        end = write_back(
            shift(to_a, lane_offset(to_a_lane, outer, middle, inner)),
            shift(to_b, lane_offset(to_b_lane, outer, middle, inner)), to_a_time, to_b_time, start, stop, steps, mine,
            arriving, gates, values, before, grads_a, grads_b, r, began, place, 32, totals,
        )  # fmt: skip
        if a_is_total:
            total = group_total(totals[0], totals[1], place, place, 32)
            if place == 0:
                store(to_a, (piece * lanes + lane) * size, total)
        if b_is_total:
            total = group_total(totals[2], totals[3], place, place, 32)
            if place == 0:
                store(to_b, (piece * lanes + lane) * size, total)
        if place == 0:
            store(starts, (lane * pieces + piece) * size, r)
            store(ends, (lane * pieces + piece) * size, end)
            if not is_finite(r) or not is_finite(end):
                publish(words, note(lane), zero)

    return kernel

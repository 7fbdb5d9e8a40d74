"""Kernels for exponentially weighted statistics of lanes whose samples are neighbours: a vector of steps at a time.

Weights, means and covariances are recurrences, and each is composed within a vector as in `_series`: weights give
shares, shares the means, and these the covariances, a block of each before the next. From a vector to the next one only
the last lane counts. Means are taken from a centre, where the first samples of a block are near to each other: a series
that is constant stays so. Where all samples are there, and the weights no longer change, all shares are the same.

A block is walked step by step instead where a number overflows, or means lose digits against their centre.

Arguments and state are those of `_weighted`.
"""

from .._steps import constant, everywhere, fma, magnitude, select
from ._memory import (
    WIDTH,
    broadcast,
    earlier,
    in_place,
    is_own_kind,
    itemsize,
    lane_of,
    load,
    load_int,
    load_vector,
    minimum,
    prefetch,
    shift,
    spread_of,
    stack,
    stack_of,
    stack_wide,
    store,
    store_vector,
    total,
    width,
)
from ._numba import helper, inlined
from ._rules import choice
from ._series import AHEAD, BLOCK, LOST, compose_on, give_steps, higher, steps_of, take_steps
from ._weighted import (
    COUNT,
    COVARIANCE,
    HEAD,
    MEAN,
    MEAN_Y,
    NAN,
    ORIGIN,
    ORIGIN_Y,
    PLANES,
    ROOM,
    WEIGHT,
    adjust,
    approach,
    are_seen,
    covary,
    ignore_na,
    is_seen,
    is_sum,
    timed,
    variance,
    weigh,
)

MEANS = BLOCK + WIDTH  # of a block, behind the one before it
SETTLED = 2.0**-49  # how far the weights' sum may be from its limit, of that, where it counts as that


@helper
def copy_state(target, to_row, source, from_row):
    """Copy a lane's state."""
    for plane in range(PLANES):
        store(target, plane * to_row, load(source, plane * from_row, target))


@inlined
def decays_of(rule, gate, seen):
    """Return what the weights before a step are multiplied by."""
    one = constant(1.0, gate)
    decay = gate if adjust(rule) or timed(rule) else one - gate
    if ignore_na(rule):
        decay = select(seen, decay, one)
    return decay


@helper
def is_settled(rule, gate, weight):
    """Return whether all shares are the same as long as no sample is missing."""
    one = constant(1.0, gate)
    if adjust(rule):
        return magnitude(weight * (one - gate) - one) <= constant(SETTLED, gate)
    return weight == one


@helper
def are_all_seen(x_rows, y_rows, state, steps):
    """Return whether a block has all its samples."""
    for t in range(0, steps, width(state)):
        prefetch(x_rows, t, AHEAD)
        x, y = load_vector(x_rows, t, state), load_vector(y_rows, t, state)
        if not everywhere(are_seen(x, y)):
            return False
    return True


@helper
def take_shares(rule, x_rows, y_rows, gate_rows, gate_step, share_rows, kept_rows, state, steps):
    """Find each sample's share and what that leaves of the mean before it; count the samples."""
    zero, one = broadcast(constant(0.0, load(state, 0, state))), broadcast(constant(1.0, load(state, 0, state)))
    weight, counts = broadcast(load(state, WEIGHT, state)), zero
    for t in range(0, steps, width(state)):
        prefetch(x_rows, t, AHEAD)
        prefetch(y_rows, t, AHEAD)
        gate = load_vector(gate_rows, t * gate_step, state)
        seen = are_seen(load_vector(x_rows, t, state), load_vector(y_rows, t, state))
        decay = decays_of(rule, gate, seen)
        given = select(seen, one, zero)
        products, rises = compose_on(decay if adjust(rule) else select(seen, zero, decay), given)
        after = fma(products, weight, rises)
        share, kept, _, _ = weigh(earlier(after, weight, 1), gate, seen, adjust(rule), timed(rule), ignore_na(rule))
        store_vector(share_rows, t, select(seen, share, zero))
        store_vector(kept_rows, t, select(seen, kept, one))
        counts, weight = counts + given, spread_of(after, 15)
    store(state, WEIGHT, lane_of(weight, 0))
    store(state, COUNT, load(state, COUNT, state) + total(counts))


@helper
def take_level_shares(rule, gate_rows, share_rows, kept_rows, state, steps):
    """Do so where no sample is missing, and all have one share; count nothing."""
    weight, gate = broadcast(load(state, WEIGHT, state)), load_vector(gate_rows, 0, state)
    share, kept, _, _ = weigh(weight, gate, gate == gate, adjust(rule), timed(rule), ignore_na(rule))
    for t in range(0, steps, width(state)):
        store_vector(share_rows, t, share)
        store_vector(kept_rows, t, kept)


@helper
def centre_of(rows, base, steps, carry):
    """Return what a block's samples are all near to, as far as its first ones tell, else ``base``."""
    first = base
    for k in range(steps):
        value = load(rows, k, carry)
        if is_seen(value):
            first = value
            break
    values = load_vector(rows, 0, carry)
    zero, one = constant(0.0, values), constant(1.0, values)
    near = magnitude(values - broadcast(first)) < broadcast(magnitude(first - base) * constant(0.125, first))
    astray = select(is_seen(values), select(near, zero, one), zero)
    return first if everywhere(astray == zero) else base


@helper
def hide_early(rows, x_rows, y_rows, count, least, steps, carry):
    """Make results NaN for which there are too few samples."""
    for k in range(steps):
        if count >= least:
            break
        if is_seen(load(x_rows, k, carry)) and is_seen(load(y_rows, k, carry)):
            count += 1
        if count < least:
            store(rows, k, constant(NAN, load(carry, 0, carry)))


@helper
def walk_average(rule, x_rows, y_rows, gate_rows, gate_step, h_rows, state, steps, bias):
    """Walk a block step by step."""
    weight, mean = load(state, WEIGHT, state), load(state, MEAN, state)
    for k in range(steps):
        x, gate = load(x_rows, k, state), load(gate_rows, k * gate_step, state)
        seen = is_seen(x)
        share, kept, weight, decay = weigh(weight, gate, seen, adjust(rule), timed(rule), ignore_na(rule))
        if is_sum(rule):
            mean = decay * mean
            if seen:
                mean = mean + x
        elif seen:
            mean = approach(mean, share, kept, x)
        store(h_rows, k, mean)
    store(state, WEIGHT, weight)
    store(state, MEAN, mean)


@inlined
def approach_vectors(x_rows, share_rows, kept_rows, level, state, steps, mean, base, centre, result_rows, offset):
    """Advance a mean by whole vectors, from ``centre``; return the one after them, and whether all of them are sound.

    They are written as they stand from ``offset``, behind what stands there in ``result_rows``.
    """
    zero = broadcast(constant(0.0, mean))
    middle, far = broadcast(centre), broadcast(magnitude(centre - base) * constant(1.0 / LOST, mean))
    from_base, from_offset = broadcast(centre - base), broadcast(centre - offset)
    before, lost, broken = broadcast(mean - (centre - base)), zero, zero
    share, kept = load_vector(share_rows, 0, state), load_vector(kept_rows, 0, state)
    for t in range(0, steps, width(state)):
        prefetch(x_rows, t, AHEAD)
        x = load_vector(x_rows, t, state)
        if level:
            x = x - middle
        else:
            share, kept = load_vector(share_rows, t, state), load_vector(kept_rows, t, state)
            x = select(is_seen(x), x - middle, zero)
        products, rises = compose_on(kept, share * x)
        new = fma(products, before, rises)
        mean_now = new + from_base
        store_vector(result_rows, t, new + from_offset)
        lost, broken = higher(lost, far - magnitude(mean_now)), broken + (mean_now - mean_now)
        before = spread_of(new, 15)
    return lane_of(before, 0) + (centre - base), everywhere(lost == zero) and everywhere(broken == zero)


@helper
def approach_all(rule, x_rows, gate_rows, gate_step, share_rows, kept_rows, h_rows, state, steps, centre):
    """Advance a mean by whole vectors; return the one after them, and whether all of them are sound."""
    mean = load(state, MEAN, state)
    none = constant(0.0, mean)
    return approach_vectors(x_rows, share_rows, kept_rows, False, state, steps, mean, none, centre, h_rows, none)


@helper
def add_all(rule, x_rows, gate_rows, gate_step, share_rows, kept_rows, h_rows, state, steps, centre):
    """Advance a sum by whole vectors; return the one after them, and whether all of them are sound."""
    zero = broadcast(constant(0.0, load(state, 0, state)))
    before, broken = broadcast(load(state, MEAN, state)), zero
    for t in range(0, steps, width(state)):
        x = load_vector(x_rows, t, state)
        seen = is_seen(x)
        decay = decays_of(rule, load_vector(gate_rows, t * gate_step, state), seen)
        products, rises = compose_on(decay, select(seen, x, zero))
        new = fma(products, before, rises)
        store_vector(h_rows, t, new)
        broken, before = broken + (new - new), spread_of(new, 15)
    return lane_of(before, 0), everywhere(broken == zero)


advance = choice("sum", add_all, approach_all)


@helper
def average_block(
    rule, x_rows, y_rows, gate_rows, gate_step, share_rows, kept_rows, mean_x_rows, mean_y_rows, h_rows, state, steps,
    bias, expected,
):  # fmt: skip
    """Advance a mean, or a sum, by a block of whole vectors; return whether all samples are there and of one share.

    Where that is ``expected``, it is found out on the way.
    """
    weight, mean, count = load(state, WEIGHT, state), load(state, MEAN, state), load(state, COUNT, state)
    none = constant(0.0, mean)
    centre, sound = none, False
    level = not is_sum(rule) and gate_step == 0 and is_settled(rule, load(gate_rows, 0, state), weight)
    level = level and (expected or are_all_seen(x_rows, x_rows, state, steps))
    if not is_sum(rule):
        centre = centre_of(x_rows, none, steps, state)
    if level:
        take_level_shares(rule, gate_rows, share_rows, kept_rows, state, width(state))
        new, sound = approach_vectors(
            x_rows, share_rows, kept_rows, True, state, steps, mean, none, centre, h_rows, none
        )
        level = sound or are_all_seen(x_rows, x_rows, state, steps)
    if level:
        store(state, COUNT, count + constant(1.0, mean) * steps)
    else:
        take_shares(rule, x_rows, x_rows, gate_rows, gate_step, share_rows, kept_rows, state, steps)
        new, sound = advance(rule, x_rows, gate_rows, gate_step, share_rows, kept_rows, h_rows, state, steps, centre)
    if sound:
        store(state, MEAN, new)
    else:
        store(state, WEIGHT, weight)
        walk_average(rule, x_rows, x_rows, gate_rows, gate_step, h_rows, state, steps, bias)
    return level


@helper
def walk_covariance(rule, x_rows, y_rows, gate_rows, gate_step, h_rows, state, steps, bias):
    """Walk a block step by step."""
    weight, mean_x, mean_y = load(state, WEIGHT, state), load(state, MEAN, state), load(state, MEAN_Y, state)
    covariance, room = load(state, COVARIANCE, state), load(state, ROOM, state)
    base_x, base_y = load(state, ORIGIN, state), load(state, ORIGIN_Y, state)
    zero = constant(0.0, weight)
    for k in range(steps):
        x = load(x_rows, k, state) - base_x
        y = x if variance(rule) else load(y_rows, k, state) - base_y
        gate = load(gate_rows, k * gate_step, state)
        seen = is_seen(x) and is_seen(y)
        share, kept, weight, _ = weigh(weight, gate, seen, adjust(rule), timed(rule), ignore_na(rule))
        if seen:
            covariance, room = covary(covariance, room, share, kept, x - mean_x, y - mean_y)
            mean_x = approach(mean_x, share, kept, x)
            mean_y = mean_x if variance(rule) else approach(mean_y, share, kept, y)
        result = covariance
        if not bias:
            result = covariance / room if zero < room else constant(NAN, zero)
        store(h_rows, k, result)
    store(state, WEIGHT, weight)
    store(state, MEAN, mean_x)
    store(state, MEAN_Y, mean_y)
    store(state, COVARIANCE, covariance)
    store(state, ROOM, room)


@helper
def covary_vectors(
    rule, x_rows, y_rows, mean_x_rows, mean_y_rows, share_rows, kept_rows, h_rows, state, steps, centre_x, centre_y
):
    """Advance a covariance by whole vectors, given the means; return whether all is sound."""
    zero = broadcast(constant(0.0, centre_x))
    middle_x, middle_y = broadcast(centre_x), broadcast(centre_y)
    covariance, broken = broadcast(load(state, COVARIANCE, state)), zero
    for t in range(0, steps, width(state)):
        share, kept = load_vector(share_rows, t, state), load_vector(kept_rows, t, state)
        x = load_vector(x_rows, t, state)
        from_x = select(is_seen(x), x - middle_x, zero) - load_vector(mean_x_rows, t - 1, state)
        from_y = from_x
        if not variance(rule):
            y = load_vector(y_rows, t, state)
            from_y = select(is_seen(y), y - middle_y, zero) - load_vector(mean_y_rows, t - 1, state)
        products, rises = compose_on(kept, kept * (share * from_x) * from_y)
        new = fma(products, covariance, rises)
        store_vector(h_rows, t, new)
        broken, covariance = broken + (new - new), spread_of(new, 15)
    store(state, COVARIANCE, lane_of(covariance, 0))
    return everywhere(broken == zero)


@helper
def divide_by_room(share_rows, kept_rows, h_rows, state, steps, bias):
    """Advance the room by whole vectors, and make covariances unbiased by it, if they shall be."""
    zero, nan = broadcast(constant(0.0, load(state, 0, state))), broadcast(constant(NAN, load(state, 0, state)))
    room = broadcast(load(state, ROOM, state))
    for t in range(0, steps, width(state)):
        share, kept = load_vector(share_rows, t, state), load_vector(kept_rows, t, state)
        products, rises = compose_on(kept * kept, kept * (share + share))
        new = fma(products, room, rises)
        if not bias:
            store_vector(h_rows, t, select(zero < new, load_vector(h_rows, t, state) / new, nan))
        room = spread_of(new, 15)
    store(state, ROOM, lane_of(room, 0))


@helper
def covariance_block(
    rule, x_rows, y_rows, gate_rows, gate_step, share_rows, kept_rows, mean_x_rows, mean_y_rows, h_rows, state, steps,
    bias, expected,
):  # fmt: skip
    """Advance a covariance by a block of whole vectors."""
    old = stack(state, PLANES)
    copy_state(old, 1, state, 1)
    mean_x, mean_y = load(state, MEAN, state), load(state, MEAN_Y, state)
    base_x, base_y = load(state, ORIGIN, state), load(state, ORIGIN_Y, state)
    centre_x = centre_of(x_rows, base_x, steps, state)
    centre_y = centre_x if variance(rule) else centre_of(y_rows, base_y, steps, state)
    level = gate_step == 0 and is_settled(rule, load(gate_rows, 0, state), load(state, WEIGHT, state))
    if level and are_all_seen(x_rows, y_rows, state, steps):
        take_level_shares(rule, gate_rows, share_rows, kept_rows, state, steps)
        store(state, COUNT, load(state, COUNT, state) + constant(1.0, mean_x) * steps)
    else:
        take_shares(rule, x_rows, y_rows, gate_rows, gate_step, share_rows, kept_rows, state, steps)
    store(mean_x_rows, -1, mean_x - (centre_x - base_x))
    new_x, sound = approach_vectors(
        x_rows, share_rows, kept_rows, False, state, steps, mean_x, base_x, centre_x, mean_x_rows, centre_x
    )
    new_y = new_x
    if not variance(rule):
        store(mean_y_rows, -1, mean_y - (centre_y - base_y))
        new_y, as_sound = approach_vectors(
            y_rows, share_rows, kept_rows, False, state, steps, mean_y, base_y, centre_y, mean_y_rows, centre_y
        )
        sound = sound and as_sound
    sound = sound and covary_vectors(
        rule, x_rows, y_rows, mean_x_rows, mean_y_rows, share_rows, kept_rows, h_rows, state, steps, centre_x, centre_y
    )
    if sound:
        store(state, MEAN, new_x)
        store(state, MEAN_Y, new_y)
        divide_by_room(share_rows, kept_rows, h_rows, state, steps, bias)
    else:
        count = load(state, COUNT, state)
        copy_state(state, 1, old, 1)
        store(state, COUNT, count)
        walk_covariance(rule, x_rows, y_rows, gate_rows, gate_step, h_rows, state, steps, bias)
    return False


block_of = choice("covariance", covariance_block, average_block)
walk_steps = choice("covariance", walk_covariance, walk_average)


@helper
def count_seen(x_rows, y_rows, steps, state):
    """Count the samples of a few steps."""
    count = load(state, COUNT, state)
    for k in range(steps):
        if is_seen(load(x_rows, k, state)) and is_seen(load(y_rows, k, state)):
            count += constant(1.0, count)
    store(state, COUNT, count)


@helper
def take_few(rows, source, time, steps):
    """Bring fewer steps than a vector has into a buffer."""
    for k in range(steps):
        store(rows, k, load(shift(source, k * time), 0, rows))


@helper
def bring(rows, source, time, steps):
    """Return where samples stand one after the other, in place or brought into a buffer."""
    if steps % width(rows) != 0:
        take_few(rows, source, time, steps)
        return rows
    if time == 0:
        take_steps(rows, source, time, steps, 0)
        return rows
    return steps_of(rows, source, time, steps, BLOCK * time)


@inlined
def bring_other(rule, here, rows, source, time, steps):
    return bring(rows, source, time, steps)


@inlined
def keep_one(rule, here, rows, source, time, steps):
    return here


@inlined
def first_of(rule, first, second):
    return first


@inlined
def second_of(rule, first, second):
    return second


# Where the other series' samples stand: those of the one where there is but one. The two may be of two dtypes.
others_of = choice("covariance", choice("variance", keep_one, bring_other), keep_one)
# A result's buffer: of covariances in the kind they are computed in, as they are small after a gap until divided.
results_in = choice("covariance", second_of, first_of)


@helper
def give(target, time, rows, steps):
    """Write results from a buffer."""
    if steps % width(rows) == 0:
        give_steps(target, time, rows, steps, False, steps * time)
    else:
        for k in range(steps):
            store(shift(target, k * time), 0, load(rows, k, rows))


def walk(rule, x, y, h, gate, carry, geometry, first, last):
    """Walk the means, sums or covariances of lanes ``first`` to ``last``; but for covariances, ``y`` is ``x``."""
    steps, padded, x_time, y_time, h_time = (
        load_int(geometry, 0), load_int(geometry, 3), load_int(geometry, 4), load_int(geometry, 5),
        load_int(geometry, 6),
    )  # fmt: skip
    gate_time, least, bias = load_int(geometry, 7), load_int(geometry, 8), load_int(geometry, 9)
    x_rows, y_rows = stack_of(x, carry, BLOCK), stack_of(y, carry, BLOCK)
    gate_rows, h_rows = (
        stack_of(gate, carry, BLOCK), results_in(rule, stack_of(h, carry, BLOCK), stack_wide(h, carry, BLOCK)),
    )  # fmt: skip
    share_rows, kept_rows, state = stack(carry, BLOCK), stack(carry, BLOCK), stack(carry, PLANES)
    mean_x_rows, mean_y_rows = (
        shift(stack(carry, MEANS), width(carry) * itemsize(carry)),
        shift(stack(carry, MEANS), width(carry) * itemsize(carry)),
    )
    gate_step = 0 if gate_time == 0 else 1
    direct = is_own_kind(h_rows, h) and h_time == itemsize(h)
    whole = steps - steps % width(carry)
    for lane in range(first, last):
        x_lane, y_lane = shift(x, load_int(geometry, HEAD + lane)), shift(y, load_int(geometry, HEAD + padded + lane))
        h_lane = shift(h, load_int(geometry, HEAD + 2 * padded + lane))
        gate_lane = shift(gate, load_int(geometry, HEAD + 3 * padded + lane))
        now = shift(carry, lane * itemsize(carry))
        copy_state(state, 1, now, padded)
        if gate_time == 0:
            take_steps(gate_rows, gate_lane, 0, width(carry), 0)
        t, expected = 0, False
        while t < steps:
            n = minimum(BLOCK, whole - t) if t < whole else steps - whole
            x_now, y_now = shift(x_lane, t * x_time), shift(y_lane, t * y_time)
            gate_now, h_now = shift(gate_lane, t * gate_time), shift(h_lane, t * h_time)
            gate_here, h_here = gate_rows, h_rows
            if direct:
                h_here = in_place(h_rows, h_now)
            count = load(state, COUNT, state)
            x_here = bring(x_rows, x_now, x_time, n)
            y_here = others_of(rule, x_here, y_rows, y_now, y_time, n)
            if t < whole:
                if gate_time != 0:
                    gate_here = steps_of(gate_rows, gate_now, gate_time, n, BLOCK * gate_time)
                expected = block_of(
                    rule, x_here, y_here, gate_here, gate_step, share_rows, kept_rows, mean_x_rows, mean_y_rows, h_here,
                    state, n, bias, expected,
                )  # fmt: skip
            else:
                take_few(gate_rows, gate_now, gate_time, n)
                walk_steps(rule, x_here, y_here, gate_rows, 1, h_here, state, n, bias)
                count_seen(x_here, y_here, n, state)
            hide_early(h_here, x_here, y_here, count, float(least), n, carry)
            if not direct:
                give(h_now, h_time, h_rows, n)
            t += n
        copy_state(now, padded, state, 1)

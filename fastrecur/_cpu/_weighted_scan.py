"""Kernels for exponentially weighted statistics of series whose samples are neighbours: a vector of steps at a time.

Weights, means and covariances are recurrences, and each is composed within a vector as in `_series`: weights give
shares, shares the means, and these the covariances, a block of each before the next. Means are taken from a centre,
where the first samples of a block are near to each other: a series that is constant stays so. Where all samples are
there, and the weights no longer change, all shares are the same.

A block is walked step by step instead where a number overflows, or means lose digits against their centre.

Arguments and state are those of `_weighted`.
"""

from collections import namedtuple

from .._steps import constant, everywhere, fma, magnitude, select
from . import _weighted as w
from ._numba import helper, inlined
from ._rules import choice
from ._scalars import (
    in_place,
    is_same_kind,
    itemsize,
    load,
    load_int,
    minimum,
    prefetch,
    shift,
    stack,
    stack_of,
    stack_wide,
    store,
    width,
)
from ._scan import LOST
from ._series import BLOCK, PREFETCH, Operand, compose, fill_constant, higher, packed, unpack
from ._types import WIDTH
from ._vectors import broadcast, broadcast_lane, earlier, lane_of, load_vector, opaque_zero, store_vector, total
from ._weighted import PLANES

MEANS = BLOCK + WIDTH  # of a block, behind the one before it
SETTLED = 2.0**-49  # how far the weights' sum may be from its limit, of that, where it counts as that

# A block: its samples, gates and results, as a tile; whether gates are constant; and buffers of numbers in the kernel's
# precision: shares, what they leave of the mean before, and both means, each behind the one before the block.
Block = namedtuple("Block", "tile constant_gate shares kept means_x means_y")


@inlined
def copy_state(target, to_row, source, from_row):
    """Copy a series' state."""
    w.copy_planes(load, store, target, to_row, source, from_row, PLANES)


@inlined
def decays_of(rule, gate, seen):
    """Return what the weights before a step are multiplied by."""
    one = constant(1.0, gate)
    decay = gate if w.adjust(rule) or w.timed(rule) else one - gate
    if w.ignore_na(rule):
        decay = select(seen, decay, one)
    return decay


@helper
def is_settled(rule, gate, weight):
    """Return whether all shares are the same as long as no sample is missing."""
    one = constant(1.0, gate)
    if w.adjust(rule):
        return magnitude(weight * (one - gate) - one) <= constant(SETTLED, gate)
    return weight == one


@helper
def are_all_seen(tile):
    """Return whether a block has all its samples."""
    for t in range(0, tile.steps, width(tile.state)):
        prefetch(tile.x, t, PREFETCH)
        if not everywhere(w.are_seen(load_vector(tile.x, t, tile.state), load_vector(tile.y, t, tile.state))):
            return False
    return True


@helper
def find_shares(rule, block):
    """Find each sample's share and what that leaves of the mean before it; count the samples."""
    tile, state = block.tile, block.tile.state
    zero, one = broadcast(constant(0.0, load(state, 0, state))), broadcast(constant(1.0, load(state, 0, state)))
    weight, counts = broadcast(load(state, w.WEIGHT, state)), zero
    for t in range(0, tile.steps, width(state)):
        prefetch(tile.x, t, PREFETCH)
        prefetch(tile.y, t, PREFETCH)
        gate = load_vector(tile.gate, t, state)
        seen = w.are_seen(load_vector(tile.x, t, state), load_vector(tile.y, t, state))
        decay, given = decays_of(rule, gate, seen), select(seen, one, zero)
        kept = decay if w.adjust(rule) else select(seen, zero, decay)
        products, offsets = compose(earlier, kept, given, opaque_zero(zero))
        after = fma(products, weight, offsets)
        share, kept, _, _ = w.weigh(rule, earlier(after, weight, 1), gate, seen)
        store_vector(block.shares, t, select(seen, share, zero))
        store_vector(block.kept, t, select(seen, kept, one))
        counts, weight = counts + given, broadcast_lane(after, 15)
    store(state, w.WEIGHT, lane_of(weight, 0))
    store(state, w.COUNT, load(state, w.COUNT, state) + total(counts))


@helper
def repeat_share(rule, block, steps):
    """Write the one share of samples of which none is missing; count nothing."""
    state = block.tile.state
    weight, gate = broadcast(load(state, w.WEIGHT, state)), load_vector(block.tile.gate, 0, state)
    share, kept, _, _ = w.weigh(rule, weight, gate, gate == gate)
    for t in range(0, steps, width(state)):
        store_vector(block.shares, t, share)
        store_vector(block.kept, t, kept)


@helper
def count_all(tile, count):
    store(tile.state, w.COUNT, count + constant(1.0, count) * tile.steps)


@helper
def centre_of(rows, base, steps, carry):
    """Return what a block's samples are all near to, as far as its first ones tell, else ``base``."""
    first = base
    for k in range(steps):
        value = load(rows, k, carry)
        if w.is_seen(value):
            first = value
            break
    values = load_vector(rows, 0, carry)
    zero, one = constant(0.0, values), constant(1.0, values)
    near = magnitude(values - broadcast(first)) < broadcast(magnitude(first - base) * constant(0.125, first))
    astray = select(w.is_seen(values), select(near, zero, one), zero)
    return first if everywhere(astray == zero) else base


# ---- Means and sums -------------------------------------------------------------------------------------------------


@inlined
def approach_vectors(block, x_rows, repeated, mean, base, centre, results, offset):
    """Advance a mean by whole vectors, from ``centre``; return the one after them, and whether all of them are sound.

    They are written as they stand from ``offset``. ``repeated`` says that no sample is missing and all have one share.
    """
    state, zero = block.tile.state, broadcast(constant(0.0, mean))
    middle, far = broadcast(centre), broadcast(magnitude(centre - base) * constant(1.0 / LOST, mean))
    from_base, from_offset = broadcast(centre - base), broadcast(centre - offset)
    before, lost, broken = broadcast(mean - (centre - base)), zero, zero
    share, kept = load_vector(block.shares, 0, state), load_vector(block.kept, 0, state)
    for t in range(0, block.tile.steps, width(state)):
        prefetch(x_rows, t, PREFETCH)
        x = load_vector(x_rows, t, state)
        if repeated:
            x = x - middle
        else:
            share, kept = load_vector(block.shares, t, state), load_vector(block.kept, t, state)
            x = select(w.is_seen(x), x - middle, zero)
        products, offsets = compose(earlier, kept, share * x, opaque_zero(x))
        new = fma(products, before, offsets)
        mean_now = new + from_base
        store_vector(results, t, new + from_offset)
        lost, broken = higher(lost, far - magnitude(mean_now)), broken + (mean_now - mean_now)
        before = broadcast_lane(new, 15)
    return lane_of(before, 0) + (centre - base), everywhere(lost == zero) and everywhere(broken == zero)


@helper
def add_all(rule, block, total_before):
    """Advance a sum by whole vectors; return the one after them, and whether all of them are sound."""
    tile, state = block.tile, block.tile.state
    before, zero = broadcast(total_before), broadcast(constant(0.0, total_before))
    broken = zero
    for t in range(0, tile.steps, width(state)):
        x = load_vector(tile.x, t, state)
        seen = w.is_seen(x)
        decay = decays_of(rule, load_vector(tile.gate, t, state), seen)
        products, offsets = compose(earlier, decay, select(seen, x, zero), opaque_zero(x))
        new = fma(products, before, offsets)
        store_vector(tile.h, t, new)
        broken, before = broken + (new - new), broadcast_lane(new, 15)
    return lane_of(before, 0), everywhere(broken == zero)


@helper
def average_block(rule, block, expected):
    """Advance a mean, or a sum, by whole vectors; return whether all samples are there and of one share.

    Where that is ``expected``, it is found out on the way.
    """
    tile, state = block.tile, block.tile.state
    weight, mean, count = load(state, w.WEIGHT, state), load(state, w.MEAN, state), load(state, w.COUNT, state)
    none = constant(0.0, mean)
    centre, new, sound = none, none, False
    repeated = not w.is_sum(rule) and block.constant_gate and is_settled(rule, load(tile.gate, 0, state), weight)
    repeated = repeated and (expected or are_all_seen(tile))
    if not w.is_sum(rule):
        centre = centre_of(tile.x, none, tile.steps, state)
    if repeated:
        repeat_share(rule, block, width(state))
        new, sound = approach_vectors(block, tile.x, True, mean, none, centre, tile.h, none)
        repeated = sound or are_all_seen(tile)
    if repeated:
        count_all(tile, count)
    else:
        find_shares(rule, block)
        if w.is_sum(rule):
            new, sound = add_all(rule, block, mean)
        else:
            new, sound = approach_vectors(block, tile.x, False, mean, none, centre, tile.h, none)
    if sound:
        store(state, w.MEAN, new)
    else:
        store(state, w.WEIGHT, weight)
        store(state, w.COUNT, count)
        w.walk_steps(rule, load, store, tile)
    return repeated


# ---- Covariances ----------------------------------------------------------------------------------------------------


@helper
def covary_vectors(rule, block, centre_x, centre_y):
    """Advance a covariance by whole vectors, given the means; return whether all is sound."""
    tile, state, zero = block.tile, block.tile.state, broadcast(constant(0.0, centre_x))
    middle_x, middle_y = broadcast(centre_x), broadcast(centre_y)
    covariance, broken = broadcast(load(state, w.COVARIANCE, state)), zero
    for t in range(0, tile.steps, width(state)):
        share, kept = load_vector(block.shares, t, state), load_vector(block.kept, t, state)
        x = load_vector(tile.x, t, state)
        from_x = select(w.is_seen(x), x - middle_x, zero) - load_vector(block.means_x, t - 1, state)
        from_y = from_x
        if not w.one_series(rule):
            y = load_vector(tile.y, t, state)
            from_y = select(w.is_seen(y), y - middle_y, zero) - load_vector(block.means_y, t - 1, state)
        products, offsets = compose(earlier, kept, kept * (share * from_x) * from_y, opaque_zero(x))
        new = fma(products, covariance, offsets)
        store_vector(tile.h, t, new)
        broken, covariance = broken + (new - new), broadcast_lane(new, 15)
    store(state, w.COVARIANCE, lane_of(covariance, 0))
    return everywhere(broken == zero)


@helper
def divide_by_room(block):
    """Advance the room by whole vectors, and make covariances unbiased by it, if they shall be."""
    tile, state = block.tile, block.tile.state
    zero, nan = broadcast(constant(0.0, load(state, 0, state))), broadcast(constant(w.NAN, load(state, 0, state)))
    room = broadcast(load(state, w.ROOM, state))
    for t in range(0, tile.steps, width(state)):
        share, kept = load_vector(block.shares, t, state), load_vector(block.kept, t, state)
        products, offsets = compose(earlier, kept * kept, kept * (share + share), opaque_zero(zero))
        new = fma(products, room, offsets)
        if not tile.bias:
            store_vector(tile.h, t, select(zero < new, load_vector(tile.h, t, state) / new, nan))
        room = broadcast_lane(new, 15)
    store(state, w.ROOM, lane_of(room, 0))


@helper
def covariance_means(block, rows, means, mean, base, centre):
    """Advance a mean by whole vectors, behind the one before them; return the last one, and whether all are sound."""
    store(means, -1, mean - (centre - base))
    return approach_vectors(block, rows, False, mean, base, centre, means, centre)


@helper
def covariance_block(rule, block, expected):
    """Advance a covariance by whole vectors."""
    tile, state = block.tile, block.tile.state
    old = stack(state, PLANES)
    copy_state(old, 1, state, 1)
    mean_x, base_x, base_y = load(state, w.MEAN, state), load(state, w.ORIGIN, state), load(state, w.ORIGIN_Y, state)
    centre_x = centre_of(tile.x, base_x, tile.steps, state)
    centre_y = centre_x if w.one_series(rule) else centre_of(tile.y, base_y, tile.steps, state)
    repeated = block.constant_gate and is_settled(rule, load(tile.gate, 0, state), load(state, w.WEIGHT, state))
    if repeated and are_all_seen(tile):
        repeat_share(rule, block, tile.steps)
        count_all(tile, load(state, w.COUNT, state))
    else:
        find_shares(rule, block)
    new_x, sound = covariance_means(block, tile.x, block.means_x, mean_x, base_x, centre_x)
    new_y = new_x
    if not w.one_series(rule):
        mean_y = load(state, w.MEAN_Y, state)
        new_y, as_sound = covariance_means(block, tile.y, block.means_y, mean_y, base_y, centre_y)
        sound = sound and as_sound
    sound = sound and covary_vectors(rule, block, centre_x, centre_y)
    if sound:
        store(state, w.MEAN, new_x)
        store(state, w.MEAN_Y, new_y)
        divide_by_room(block)
    else:
        copy_state(state, 1, old, 1)
        w.walk_steps(rule, load, store, tile)
    return False


# ---- A series -------------------------------------------------------------------------------------------------------


block_of = choice("covariance", covariance_block, average_block)


@inlined
def operand(pointer, rows, geometry, field, padded, k, lane):
    """Return the k-th operand's series."""
    stride = load_int(geometry, field)
    return Operand(shift(pointer, load_int(geometry, w.HEAD + k * padded + lane)), stride, rows, BLOCK * stride)


def walk(rule, x, y, h, gate, carry, geometry, first, last):
    """Walk the means, sums or covariances of series ``first`` to ``last``; but for covariances, ``y`` is ``x``."""
    steps, padded = load_int(geometry, w.N_STEPS), load_int(geometry, w.PADDED)
    x_rows, y_rows, gate_rows = stack_of(x, carry, BLOCK), stack_of(y, carry, BLOCK), stack_of(gate, carry, BLOCK)
    h_rows = stack_wide(h, carry, BLOCK)  # as computed: covariances are small after a gap until they are divided
    shares, kept, state = stack(carry, BLOCK), stack(carry, BLOCK), stack(carry, PLANES)
    means_x, means_y = stack(carry, MEANS), stack(carry, MEANS)
    least, whole = load_int(geometry, w.MIN_PERIODS), steps - steps % WIDTH
    behind, size = WIDTH * itemsize(carry), itemsize(carry)
    for lane in range(first, last):
        xs, ys = (
            operand(x, x_rows, geometry, w.X_STRIDE, padded, 0, lane),
            operand(y, y_rows, geometry, w.Y_STRIDE, padded, 1, lane),
        )
        hs = operand(h, h_rows, geometry, w.H_STRIDE, padded, 2, lane)
        gates = operand(gate, gate_rows, geometry, w.GATE_STRIDE, padded, 3, lane)
        writes_in_place = is_same_kind(h_rows, h) and hs.stride == itemsize(h)
        fill_constant(xs)
        fill_constant(ys)
        fill_constant(gates)
        now = shift(carry, lane * size)
        copy_state(state, 1, now, padded)
        t, expected = 0, False
        while t < steps:
            # A block: but step by step where there may be too few samples for a result, and behind whole vectors.
            n = minimum(BLOCK, whole - t)
            by_steps = t >= whole or load(state, w.COUNT, state) < least
            if by_steps:
                n = minimum(WIDTH, steps - t)
            x_here = packed(xs, t, n)
            y_here, gate_here = w.others_of(rule, packed, x_here, ys, t, n), packed(gates, t, n)
            h_here = h_rows
            if writes_in_place:
                h_here = in_place(h_rows, shift(hs.at, t * hs.stride))
            tile = w.tile_of(
                (x_here, itemsize(x_here)), (y_here, itemsize(y_here)), (gate_here, itemsize(gate_here)),
                (h_here, itemsize(h_here)), state, size, geometry, n, 0,
            )  # fmt: skip
            if by_steps:
                w.walk_steps(rule, load, store, tile)
            else:
                means = shift(means_x, behind), shift(means_y, behind)
                block = Block(tile, gates.stride == 0, shares, kept, means[0], means[1])
                expected = block_of(rule, block, expected)
            if not writes_in_place:
                unpack(hs, t, n, False)
            t += n
        copy_state(now, padded, state, 1)

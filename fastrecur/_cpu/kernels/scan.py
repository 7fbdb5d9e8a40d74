"""Scan few long series: a vector of consecutive steps at a time, in blocks. What is computed is `rows.plain`.

Where products of decays are rounded as coarsely as values are, ``1 - f`` would not do: the weights would not sum to
one. There weights are composed, not decays, and values are taken as deviations from an origin, so that a series that
is constant for a BLOCK stays so to the bit: ``h + (weight*(origin - h) + offset)``.

Blocks are *reduced* as well, by the same composition from vector to vector, to a summary that gives the state after a
block from the one before it. So threads may share the time of a series, as `time_chunks` says, by the phases WARM_UP,
or REDUCE, SCAN_CARRIES and DOWNSWEEP. One thread does ALL block by block. The arithmetic is the same, hence the bits.

After a WARM_UP there stand in ``carry``, behind the states: as many predicted carries, which the caller compares with
what the thread before came to; 1, or 0 if nothing was predicted and nothing done; and 1 if the first gate is closed.

A block is walked step by step where composing is not safe: decays above one, whose products grow; states that are not
finite, or so much smaller than their summands that digits cancel. A closed gate repeats the result before it to the
bit, an open one the value. Where a series begins anew, a decay is 0.
"""

from collections import namedtuple

from ..._plan import layout
from ..._plan.fields import scan as fields
from ..._plan.fields.scan import BLOCK, SUMMARY
from ..._plan.layout import FIRST_BLOCK, LAST_BLOCK, N_STEPS, PHASE, STREAMING, A, B, H
from ..._plan.widths import OCTET
from ..._steps.recurrence import constant, everywhere, fma, is_finite, magnitude, select
from ..compiler.numba_internals import INLINE, helper, inlined
from ..vectors import scalars, vectors
from ..vectors.scalars import itemsize, load, load_int, minimum, prefetch, shift, stack, stack_of, store, width
from ..vectors.transposes import has_flags
from ..vectors.vectors import broadcast, broadcast_lane, earlier, lane_of, load_vector, opaque_zero, store_vector, total
from . import blocks, rules, series as _series
from .blocks import DECAY, OFFSET, ORIGIN, PEAK, WEIGHT, each_block, has_border, operand, stays_finite
from .operands import NO, ONE, YES, ZERO
from .packing import strides_of
from .rules import a_is_time_invariant, advance, begins_anew, decay, is_average, is_flagged, kept, step, step_input
from .series import NO_STEPS, PREFETCH, WHOLE_BLOCK, compose, higher, lower, packed, packed_flags

FEW_BORDERS = 8  # of a block's vectors, where the processor guesses well which ones have none
LOST = 64.0  # an average's composed state must not be so many times smaller than the origin

# A series: operands, results, flags, buffers for clean operands, its number of steps, the summaries of its blocks and
# the thread's own; whether results stand in place; the first block, which does not look at the result before it; the
# states of its segments, and a buffer for what their first steps come to.
Series = namedtuple("Series", "a b h flags clean steps summaries own in_place start states entries")
# Where a block's operands, results and flags are contiguous; what steps come to with which segments begin, and how many
# these are; and buffers for clean operands.
Rows = namedtuple("Rows", "a b h flags entries count clean")
Clean = namedtuple("Clean", "a b entries")


# Whether a series begins anew in a block; flags that were just written take long to read.
begins_in = rules.choice(
    "offsets", lambda rule, rows, steps: rows.count > 0, lambda rule, rows, steps: has_border(rule, rows.flags, steps)
)


@helper
def _entries_at(rule, series, carry, t, steps):
    a, b, x, states = series.a, series.b, series.flags, series.states
    n = first = _series.clear_flags(x, t, steps)
    while load_int(x.at, n) < t + steps:
        k = load_int(x.at, n)
        gate, value = load(shift(a.at, k * a.step), 0, carry), load(shift(b.at, k * b.step), 0, carry)
        store(x.rows, k - t, ONE)
        store(series.entries, k - t, step(rule, load(shift(states.at, n * states.between), 0, carry), gate, value))
        n += 1
    store(x.ahead, 0, n)
    count = n - first
    while load_int(x.at, n) < minimum(t + steps + BLOCK, series.steps):  # those of the next block: it would wait
        prefetch(shift(a.at, load_int(x.at, n) * a.step), 0, ZERO)
        prefetch(shift(b.at, load_int(x.at, n) * b.step), 0, ZERO)
        n += 1
    return x.rows, count


@inlined
def _from_entry(rule, entries, k, fresh, state, gate, value):
    return load(entries, k, entries) if fresh else step(rule, state, gate, value)


@inlined
def _from_no_state(rule, entries, k, fresh, state, gate, value):
    return step(rule, select(fresh, constant(0.0, state), state), gate, value)


@inlined
def _steps_of_zeros(rule, summary, entries, t, gate, value):
    zero = broadcast(constant(0.0, load(summary, 0, summary)))
    return step_input(rule, gate, value) if is_average(rule) else step(rule, zero, gate, value)


# Return flags of a block's steps, and note what those come to with which segments begin, and how many these are at
# most; the state after a step; what steps come to if a series begins anew with them.
borders_at = rules.by_borders(
    _entries_at,
    blocks.flags_of_offsets,
    lambda rule, series, carry, t, steps: (packed_flags(rule, series.flags, t, steps), WHOLE_BLOCK),
)
advance_at = rules.by_borders(
    _from_entry,
    _from_no_state,
    lambda rule, entries, k, fresh, state, gate, value: advance(rule, fresh, state, gate, value),
    options=INLINE,
)
entered = rules.by_borders(
    lambda rule, summary, entries, t, gate, value: load_vector(entries, t, summary),
    _steps_of_zeros,
    lambda rule, summary, entries, t, gate, value: step_input(rule, gate, value),
    options=INLINE,
)


@inlined
def added(rule, rows, summary, t, fresh, gate, value, centre):
    """Return what steps add to a state, as a deviation from a centre."""
    own = step_input(rule, gate, value - centre)
    return (
        select(fresh, entered(rule, summary, rows.entries, t, gate, value) - centre, own) if is_flagged(rule) else own
    )


@helper
def origin_of(rule, rows, steps, carry):
    """Return what a block's values are all near to, as far as its first ones tell, else 0.

    So too if a series begins anew with a result that is not near to it.
    """
    values = load_vector(rows.b, 0, carry)
    first = lane_of(values, 0)
    zero, bound = constant(0.0, first), broadcast(magnitude(first) * constant(0.125, first))
    if not everywhere(magnitude(values - broadcast(first)) < bound):
        return zero
    if begins_in(rule, rows, steps):
        for t in range(0, steps, OCTET):
            if has_flags(shift(rows.flags, t)):
                for k in range(t, t + OCTET):
                    gate, value = load(rows.a, k, carry), load(rows.b, k, carry)
                    if begins_anew(rows.flags, k, carry):
                        after = advance_at(rule, rows.entries, k, YES, zero, gate, value)
                        if not magnitude(after - first) < magnitude(first) * constant(0.125, first):
                            return zero
    return first


@helper
def walk_steps(rule, rows, carry, first, stop, h):
    """Walk steps of a block one by one; return the state after them."""
    for k in range(first, stop):
        fresh, gate, value = begins_anew(rows.flags, k, carry), load(rows.a, k, carry), load(rows.b, k, carry)
        h = advance_at(rule, rows.entries, k, fresh, h, gate, value)
        store(rows.h, k, h)
    return h


@inlined
def _weights_of_one(rule, flags, t, fresh, gate, none):
    one = constant(1.0, none)
    return select(vectors.any_earlier(flags, t, none, 16), one, compose(earlier, decay(rule, gate), gate, none)[1])


@inlined
def _weights_of_each(rule, flags, t, fresh, gate, none):
    share = select(fresh, constant(1.0, none), gate) if is_flagged(rule) else gate
    return compose(earlier, kept(rule, fresh, gate), share, none)[1]


# Of an average, the weight of a vector's steps against the state before them; the gates that are used.
_weights = rules.choice("flagged", _weights_of_one, _weights_of_each)
weights_of = rules.choice("time_invariant_a", _weights, _weights_of_each, options=INLINE)
used_gate = rules.choice(
    "time_invariant_a",
    lambda rule, fresh, gate: gate,
    lambda rule, fresh, gate: rules.enter(rule, fresh, gate, gate)[1],
    options=INLINE,
)


@helper
def walk_vectors(rule, rows, summary, steps, h, keeps):
    """Walk whole vectors of a block from state ``h``, and summarise them; return whether a gate is 0, 1 or beyond.

    Where only the summary is wanted, ``keeps`` is false.
    """
    lanes = width(summary)
    zero, one = constant(0.0, h), constant(1.0, h)
    centred = rules.is_rounded(rule, h)
    origin = origin_of(rule, rows, steps, summary) if centred else zero
    half, far = constant(0.5, h), broadcast(magnitude(origin) * constant(1.0 / LOST, h))
    least, lost, peak = broadcast(one), broadcast(zero), broadcast(zero)
    finite = broadcast(zero)  # until a state is not: then NaN
    # Of these only the last lane counts: the others' would take a shuffle each.
    product, end, weight, before = broadcast(one), broadcast(zero), broadcast(zero), broadcast(h)
    gate, are_few = load_vector(rows.a, 0, summary), rows.count <= FEW_BORDERS
    for t in range(0, steps, lanes):
        prefetch(rows.b, t, PREFETCH)
        value = load_vector(rows.b, t, summary)
        if not a_is_time_invariant(rule):
            prefetch(rows.a, t, PREFETCH)
            gate = load_vector(rows.a, t, summary)
        fresh, none = vectors.load_mask(rows.flags, t, summary), opaque_zero(gate)
        used = used_gate(rule, fresh, gate)
        # How far decays are from where products of them grow; of an average 0 where the gate is 0 or 1.
        least = lower(least, used * decay(rule, used) if is_average(rule) else broadcast(one) - magnitude(used))
        if centred:
            centre = broadcast(origin)
            own = added(rule, rows, summary, t, fresh, gate, value, centre)
            weights = weights_of(rule, rows.flags, t, fresh, gate, none)
            products, offsets = _series.compose_steps(
                rule, earlier, vectors.any_earlier, rows.flags, t, are_few, fresh, gate, own, none
            )
            # From the nearer end. A summary is the same of deviations: it has its centre at 0.
            from_start = weights < broadcast(half)
            share = select(from_start, weights, -products)
            new = fma(share, centre - before, offsets) + select(from_start, before, centre)
            end = fma(-share, end, offsets) + select(from_start, end, broadcast(zero))
            lost = higher(lost, fma(weights, far, -magnitude(new)))
            finite = fma(new, broadcast(zero), finite)
            weight = fma(weights, broadcast(one) - weight, weight)
        else:
            own = added(rule, rows, summary, t, fresh, gate, value, broadcast(zero))
            products, offsets = _series.compose_steps(
                rule, earlier, vectors.any_earlier, rows.flags, t, are_few, fresh, gate, own, none
            )
            new, end = fma(products, before, offsets), fma(products, end, offsets)
            if not is_average(rule):
                peak = higher(peak, magnitude(own))
        product, before = product * products, broadcast_lane(new, 15)
        if keeps:
            scalars.prefetch_for_write(rows.h, t, PREFETCH)
            store_vector(rows.h, t, new)
    inside, most = everywhere(least == magnitude(least)), total(peak)
    store(summary, DECAY, lane_of(product, 15) if inside else constant(blocks.NOT_A_NUMBER, h))
    store(summary, OFFSET, lane_of(end, 15))
    store(summary, WEIGHT, lane_of(weight, 15))
    store(summary, ORIGIN, origin)
    store(summary, PEAK, most)
    if keeps and h == h:
        sound = inside and is_finite(lane_of(before, 0)) and everywhere(lost == finite)
        if not (sound and stays_finite(h, most)):
            walk_steps(rule, rows, summary, NO_STEPS, steps, h)
    return not everywhere(broadcast(zero) < least)


@helper
def walk_flagged(rule, rows, summary, steps, h, keeps):
    """Walk vectors where what is not finite stops at borders, and changes no bit behind them.

    There all is composed as if such numbers were zeros; results that are not finite come step by step.
    """
    clean, clean_h, has_ends = rows, h, False
    for turn in range(2):  # so that the compiler has one call
        has_ends = walk_vectors(rule, clean, summary, steps, clean_h, keeps)
        if turn == 0:
            if is_finite(h) and is_finite(load(summary, OFFSET, summary)):
                return has_ends
            to = rows.clean
            _series.clean(to.a, rows.a, summary, steps)
            _series.clean(to.b, rows.b, summary, steps)
            blocks.clean_entries(rule, to.entries, rows.entries, summary, steps)
            clean = Rows(to.a, to.b, rows.h, rows.flags, to.entries, rows.count, to)
            clean_h = select(is_finite(h), h, constant(0.0, h))
    for k in range(steps):
        fresh, gate, value = begins_anew(rows.flags, k, summary), load(rows.a, k, summary), load(rows.b, k, summary)
        h = advance_at(rule, rows.entries, k, fresh, h, gate, value)
        if keeps and not is_finite(h):
            store(rows.h, k, h)
    if not is_finite(h):
        store(summary, DECAY, constant(blocks.NOT_A_NUMBER, h))
    return has_ends


walk_whole = rules.choice("flagged", walk_flagged, walk_vectors)


@helper
def composed(rule, summary, h):
    """Return the state after a block from the one before, and whether it may be used."""
    product, offset = load(summary, DECAY, summary), load(summary, OFFSET, summary)
    weight, origin = load(summary, WEIGHT, summary), load(summary, ORIGIN, summary)
    if rules.is_rounded(rule, h):
        # A product of hundreds of decays has their roundings; near 0 these do not matter, and the weight's would.
        left = constant(1.0, h) - weight if product > constant(1.0 / 256, h) else product
        if left > constant(0.5, h):
            new = h + fma(weight, origin - h, offset)
        else:
            new = origin + fma(left, h - origin, offset)
        sound = weight * magnitude(origin) <= constant(LOST, h) * magnitude(new)
    else:
        new = fma(product, h, offset)
        sound = is_average(rule) or magnitude(product * h) <= constant(fields.CANCELLED, h) * magnitude(new)
    return new, sound and is_finite(new) and stays_finite(h, load(summary, PEAK, summary))


@inlined
def rows_at(rule, series, t, steps, h_rows):
    """Return a block's steps, packed."""
    a, b = packed(series.a, t, steps), packed(series.b, t, steps)
    flags, count = borders_at(rule, series, series.own, t, steps)
    return Rows(a, b, h_rows, flags, series.entries, count, series.clean)


@helper
def reduce_block(rule, series, summary, block, steps):
    """Summarise a block."""
    rows = rows_at(rule, series, block * BLOCK, steps, series.h.rows)
    walk_whole(rule, rows, summary, steps, constant(0.0, load(summary, 0, summary)), NO)


@helper
def walk_alone(rule, series, flags, carry, first, steps, h):
    """Return the state after some steps, of which no result is kept."""
    a, b = series.a, series.b
    for k in range(steps):
        t = first + k
        gate, value = load(shift(a.at, t * a.step), 0, carry), load(shift(b.at, t * b.step), 0, carry)
        h = advance_at(rule, series.entries, k, begins_anew(flags, k, carry), h, gate, value)
    return h


@inlined
def scan_carry(rule, series, summary, block, steps, h):
    return blocks.carry_on(composed, borders_at, walk_alone, rule, series, summary, block, steps, h)


@helper
def settle_ends(rule, rows, carry, first, steps, last, follows):
    """Make the results of closed gates those before them, of open ones the values; ``last`` is what a block follows."""
    zero, one = constant(0.0, last), constant(1.0, last)
    for k in range(first, steps):
        if k > 0:
            last = load(rows.h, k - 1, carry)
        gate, value, result = load(rows.a, k, carry), load(rows.b, k, carry), load(rows.h, k, carry)
        fresh = is_flagged(rule) and begins_anew(rows.flags, k, carry)
        if gate == zero and (follows or k > 0 or fresh) and is_finite(value):
            store(rows.h, k, advance_at(rule, rows.entries, k, fresh, last, gate, value) if fresh else last)
        elif gate == one and is_finite(result):
            store(rows.h, k, value)


@inlined
def walk_block(rule, series, summary, block, steps, h):
    """Walk a block from the state before it; return the one after it."""
    t, whole, follows = block * BLOCK, steps - steps % width(summary), block > series.start
    rows, unsettled = rows_at(rule, series, t, steps, blocks.rows_of(series.h, t, series.in_place)), whole
    if whole > 0:
        if walk_whole(rule, rows, summary, whole, h, YES):
            unsettled = 0
        h = scan_carry(rule, series, summary, block, whole, h)
    h = walk_steps(rule, rows, summary, whole, steps, h)
    if is_average(rule):
        last = load(shift(series.h.at, (t - 1 if follows else t) * series.h.step), 0, summary)
        settle_ends(rule, rows, summary, unsettled, steps, last, follows)
    if not series.in_place:
        _series.unpack(series.h, t, steps)
    return h


@helper
def hold(rule, series, first, carry, state):
    """Repeat the result before step ``first`` as long as an average's gate is closed to a finite value."""
    a, b, h = series.a, series.b, series.h
    if first >= series.steps or not is_average(rule):
        return state
    last = load(shift(h.at, (first - 1) * h.step), 0, carry)
    for t in range(first, series.steps):
        is_closed = load(shift(a.at, t * a.step), 0, carry) == constant(0.0, last)
        if is_flagged(rule) and begins_anew(borders_at(rule, series, carry, t, ONE)[0], 0, carry):
            return state
        if not (is_closed and is_finite(load(shift(b.at, t * b.step), 0, carry))):
            return state
        store(shift(h.at, t * h.step), 0, last)
    return last


def forward(rule, a, b, h, carry, marks: layout.Marks, geometry, summaries, first, last):
    """Scan series ``first`` to ``last``; ``carry`` holds the first states, then the last."""
    a_rows, b_rows, h_rows = stack_of(a, carry, BLOCK), stack_of(b, carry, BLOCK), stack_of(h, carry, BLOCK)
    own, flags, place = stack(carry, SUMMARY), scalars.stack_flags(BLOCK), scalars.stack_ints(1)
    entries = stack(carry, BLOCK)
    clean = Clean(stack_of(a, carry, BLOCK), stack_of(b, carry, BLOCK), stack(carry, BLOCK))
    stands, all_steps = load_int(geometry, STREAMING) != 0, load_int(geometry, N_STEPS)
    n_blocks, phase = all_steps // BLOCK, load_int(geometry, PHASE)
    first_block, last_block = load_int(geometry, FIRST_BLOCK), load_int(geometry, LAST_BLOCK)
    is_down = load_int(strides_of(geometry, H), 0) < 0
    if phase == fields.WARM_UP:
        store(carry, 2 * last, constant(1.0, load(carry, 0, carry)))
    for turn in range(last - first):
        lane = last - 1 - turn if is_down else first + turn  # in the order of memory
        start, steps = blocks.valid_steps(geometry, marks.lengths, lane)
        to = operand(h, h_rows, geometry, H, lane, start, 1)
        series = Series(
            operand(a, a_rows, geometry, A, lane, start, 1), operand(b, b_rows, geometry, B, lane, start, 1), to,
            blocks.borders_of(rule, marks, flags, place, geometry, lane, start), clean, steps,
            shift(summaries, lane * n_blocks * SUMMARY * itemsize(carry)), own, stands and blocks.may_stand(to),
            0 if phase == fields.ALL else first_block, blocks.states_of_segments(marks.segment_states, geometry, lane),
            entries,
        )  # fmt: skip
        _series.fill_constant(series.a)
        _series.fill_constant(series.b)
        top = minimum(last_block, steps // BLOCK)
        low = minimum(first_block, top)
        state = load(carry, lane, carry)
        if phase == fields.WARM_UP and first_block > 0:
            zero, others = constant(0.0, state), first_block if first_block * BLOCK < steps else 0
            nearest, count = first_block - 1, last_block - first_block
            state, is_known = blocks.warm_up(reduce_block, scan_carry, rule, series, nearest, 1, others, count, zero)
            if not is_known:
                store(carry, 2 * last, zero)
                break
            store(carry, last + lane, state)
            if is_average(rule) and load(shift(series.a.at, first_block * BLOCK * series.a.step), 0, carry) == zero:
                store(carry, 2 * last + 1, constant(1.0, zero))
        ends = last_block == n_blocks and (phase == fields.ALL or phase == fields.WARM_UP)
        rest = steps - top * BLOCK if ends else 0
        if phase == fields.HOLD:
            state = hold(rule, series, first_block * BLOCK, carry, state)
        else:
            state = each_block(reduce_block, scan_carry, walk_block, rule, series, low, top, rest, 1, phase, state)
        if ends:
            _series.clear_outside(to, start, steps, all_steps)
            state = load(shift(to.at, (steps - 1) * to.step), 0, carry) if steps > 0 else state
        if phase != blocks.REDUCE and phase != blocks.DOWNSWEEP:
            store(carry, lane, state)

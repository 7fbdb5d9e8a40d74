"""Kernels for few lanes and long time: take a vector of consecutive steps at once.

A step is ``h -> decay*h + intake``, and steps compose: `earlier` lanes of a vector are folded onto later ones, 1, 2, 4
and 8 lanes apart, until each lane holds what all steps up to it do to the state before the vector. From a vector to the
next one only the last lane counts, so the chain of dependent operations is short.

Where products of decays are rounded as coarsely as values are, ``1 - f`` would not do: the weights would not sum to
one. There weights are composed, not decays, and values are taken as deviations from an origin, so that a series that
is constant for a BLOCK stays so to the bit: ``h + (weight*(origin - h) + rise)``.

Blocks are *summarised* as well, by the same composition from vector to vector, and the state before a block is folded
from that of the one before. So a thread may start in the middle from what a few blocks before tell, or threads may
summarise blocks, one thread fold, and threads walk them, or one thread may do it all at once (``phase`` says which):
the same arithmetic, hence the same bits.

Who is told where to start has, in its ``carry``, behind the states so many more: those that it was told, to be compared
with what the thread before it came to. Behind these stands 1, or 0 if it was not told, and did nothing; and behind that
1 where its first gate is closed, so that it has to look at what it follows.

A block is walked step by step instead where composing is not safe: decays above one, whose products grow; states that
are not finite, or so much smaller than what they are made of that digits are lost. A closed gate repeats the result
before it to the bit, an open one the value.
"""

from .._layout import A_MODE, ACCUMULATE, B_MODE, N_STEPS, REVERSE, STORE, STREAMING
from .._steps import constant, everywhere, fma, is_finite, magnitude, select
from ._memory import (
    broadcast,
    earlier,
    fence,
    hidden_zero,
    in_place,
    is_own_kind,
    itemsize,
    lane_of,
    later,
    load,
    load_int,
    load_vector,
    maximum,
    minimum,
    misalignment,
    prefetch,
    prefetch_to_write,
    shift,
    spread_of,
    stack,
    stack_of,
    store,
    store_vector,
    stream_vector,
    total,
    turned,
    width,
)
from ._numba import helper, inlined
from ._operands import ZERO, valid_range
from ._rules import a_is_time_invariant as is_level
from ._rules import adjoint, choice, decay, intake, is_average, is_rounded, step
from ._tiles import LENGTHS, SUMS_A, SUMS_B, TO_A, TO_B, A, B, G, H, lane_offset
from ._wide import end_lane, lanes_to_line, settle_lane, whole_vectors

# Phases. TELL and PART do not look at what they follow: HOLD does. PART leaves what is behind the whole blocks.
ALL, TELL, PART, SUMMARISE, FOLD, REPLAY, HOLD = range(7)
IN_PLACE, PAST = 1, 2  # how results are written, by `geometry`: where they belong, or past the cache; else by a buffer
BLOCK = 512  # steps
AHEAD = 1024  # bytes that are asked for before their turn
SUMS = 7  # where in a series' `geometry` stand how many sums over time there are of each kind, and the sizes of both
SUMMARY = 8  # numbers in a block's summary:
PRODUCT, RISE, WEIGHT, ORIGIN, PEAK, FIRST = range(6)  # the last one is the state before the block
RECALLED, SHARE = 64, 4  # blocks before a thread's own that may tell it where to start, one for so many of its own,
FORGOTTEN = 2.0**-80  # if no more than this is left of the state before them
CANCELLED = 16.0  # a linear recurrence's composed state must not be so many times smaller than its summands,
LOST = 64.0  # nor an average's than the origin
NOT_A_NUMBER = float("nan")


@helper
def zero_steps(target, time, first, last, carry):
    zero = constant(0.0, load(carry, 0, carry))
    for t in range(first, last):
        store(shift(target, t * time), 0, zero)


@helper
def is_unforeseen(time, onward):
    """Return whether steps that share lines are met one way and their blocks the other: no processor foresees these."""
    return abs(time) < 64 and time * onward < 0


@helper
def take_steps(rows, source, time, steps, onward):
    """Bring whole vectors of steps into a buffer, and ask for the block that comes so many bytes ``onward``."""
    lanes, size = width(rows), itemsize(source)
    if time == size:
        for t in range(0, steps, lanes):
            prefetch(source, t, onward)
            store_vector(rows, t, load_vector(source, t, rows))
    elif time == -size:
        for t in range(0, steps, lanes):
            prefetch(source, 1 - t - lanes, onward)
            store_vector(rows, t, turned(load_vector(source, 1 - t - lanes, rows)))
    elif time == 0:
        value = broadcast(load(source, 0, rows))
        for t in range(0, steps, lanes):
            store_vector(rows, t, value)
    else:
        asks = is_unforeseen(time, onward)
        for t in range(steps):
            here = shift(source, t * time)
            if asks:
                prefetch(here, 0, onward)
            store(rows, t, load(here, 0, rows))


@helper
def steps_of(rows, source, time, steps, onward):
    """Return where steps stand one after the other: in place, or brought into ``rows``."""
    if is_own_kind(rows, source) and time == itemsize(source):
        return in_place(rows, source)
    if time != 0:  # else brought once
        take_steps(rows, source, time, steps, onward)
    return rows


@inlined
def _take_one(rule, rows, source):
    store_vector(rows, 0, broadcast(load(source, 0, rows)))


@inlined
def _take_none(rule, rows, source):
    pass


@inlined
def _one_gate(rule, rows, source, time, steps, onward):
    return rows


@helper
def _each_gate(rule, rows, source, time, steps, onward):
    return steps_of(rows, source, time, steps, onward)


# What is not to be done to one gate for all steps, which may have an element of its own, is not compiled for it.
take_level = choice("time_invariant_a", _take_one, _take_none)  # one gate, a vector of it: what a block needs
gates_of = choice("time_invariant_a", _one_gate, _each_gate)


@helper
def give_lines(target, time, rows, steps):
    """Write neighbouring steps from a buffer past the cache, but for those in lines that they do not fill."""
    lanes, down = width(rows), time < 0
    lowest = shift(target, (steps - 1) * time) if down else target
    head = lanes_to_line(lowest, steps)
    tail = head + whole_vectors(target, rows, steps - head, True) * lanes
    for j in range(head, tail, lanes):
        if down:
            stream_vector(lowest, j, turned(load_vector(rows, steps - lanes - j, rows)))
        else:
            stream_vector(lowest, j, load_vector(rows, j, rows))
    for k in range(head + steps - tail):
        j = end_lane(k, head, tail)
        store(lowest, j, load(rows, steps - 1 - j if down else j, rows))


@helper
def give_steps(target, time, rows, steps, past, onward):
    """Write whole vectors of steps from a buffer, if possible past the cache; as `take_steps`."""
    lanes, size = width(rows), itemsize(target)
    if past and abs(time) == size and misalignment(target) % size == 0:
        give_lines(target, time, rows, steps)
    elif time == size:
        for t in range(0, steps, lanes):
            store_vector(target, t, load_vector(rows, t, rows))
    elif time == -size:
        for t in range(0, steps, lanes):
            store_vector(target, 1 - t - lanes, turned(load_vector(rows, t, rows)))
    else:
        asks = is_unforeseen(time, onward)
        for t in range(steps):
            there = shift(target, t * time)
            if asks:
                prefetch_to_write(there, 0, onward)
            store(there, 0, load(rows, t, rows))


@inlined
def lower(least, value):
    return select(value < least, value, least)


@inlined
def higher(most, value):
    return select(most < value, value, most)


@inlined
def compose_on(products, rises):
    """Fold every lane's step onto the lanes after it."""
    one, zero = constant(1.0, products), hidden_zero(products)
    rises = fma(products, earlier(rises, zero, 1), rises)
    products = products * earlier(products, one, 1)
    rises = fma(products, earlier(rises, zero, 2), rises)
    products = products * earlier(products, one, 2)
    rises = fma(products, earlier(rises, zero, 4), rises)
    products = products * earlier(products, one, 4)
    rises = fma(products, earlier(rises, zero, 8), rises)
    return products * earlier(products, one, 8), rises


@inlined
def compose_weights(products, weights):
    """Fold what the steps' own values weigh: 1 less the products, without that difference."""
    one, zero = constant(1.0, products), hidden_zero(products)
    weights = fma(products, earlier(weights, zero, 1), weights)
    products = products * earlier(products, one, 1)
    weights = fma(products, earlier(weights, zero, 2), weights)
    products = products * earlier(products, one, 2)
    weights = fma(products, earlier(weights, zero, 4), weights)
    products = products * earlier(products, one, 4)
    return fma(products, earlier(weights, zero, 8), weights)


@inlined
def compose_back(products, rises):
    """Fold every lane's step onto the lanes before it."""
    one, zero = constant(1.0, products), constant(0.0, products)
    rises = fma(products, later(rises, zero, 1), rises)
    products = products * later(products, one, 1)
    rises = fma(products, later(rises, zero, 2), rises)
    products = products * later(products, one, 2)
    rises = fma(products, later(rises, zero, 4), rises)
    products = products * later(products, one, 4)
    rises = fma(products, later(rises, zero, 8), rises)
    return products * later(products, one, 8), rises


@inlined
def room(rule, gate):
    """Return how far a decay is from where products of it would grow; of an average 0 where the gate is 0 or 1."""
    one = constant(1.0, gate)
    return gate * decay(rule, gate) if is_average(rule) else one - magnitude(gate)


@helper
def origin_of(b_rows, carry):
    """Return what a block's values are all near to, as far as its first ones tell, else 0."""
    values = load_vector(b_rows, 0, carry)
    first = lane_of(values, 0)
    near = magnitude(values - broadcast(first)) < broadcast(magnitude(first) * constant(0.125, first))
    return first if everywhere(near) else constant(0.0, first)


@inlined
def stays_finite(h, peak):
    """Return whether no state within a block can overflow, where the one after it may look sound again."""
    bound = fma(peak, constant(float(BLOCK), h), magnitude(h))
    return is_finite(bound)


@inlined
def gate_at(rule, a_rows, k, carry):
    """Return the gate of a block's step."""
    return load(a_rows, 0 if is_level(rule) else k, carry)


@helper
def walk(rule, a_rows, b_rows, h_rows, carry, steps, h):
    """Walk a block step by step."""
    for k in range(steps):
        h = step(rule, h, gate_at(rule, a_rows, k, carry), load(b_rows, k, carry))
        store(h_rows, k, h)


@helper
def walk_vectors(rule, a_rows, b_rows, h_rows, summary, steps, h, keeps):
    """Walk a block from state ``h``, and summarise it; return whether some gate is 0, 1 or beyond.

    Where only the summary is wanted, ``keeps`` is false.
    """
    lanes = width(summary)
    zero, one = constant(0.0, h), constant(1.0, h)
    centred = is_rounded(rule, h)
    origin = origin_of(b_rows, summary) if centred else zero
    half, far = constant(0.5, h), broadcast(magnitude(origin) * constant(1.0 / LOST, h))
    least, lost, peak = broadcast(one), broadcast(zero), broadcast(zero)
    finite = broadcast(zero)  # until a state is not: then NaN
    # Of these only the last lane counts: the others' would take a shuffle each.
    product, rise, weight, before = broadcast(one), broadcast(zero), broadcast(zero), broadcast(h)
    gate = load_vector(a_rows, 0, summary)
    for t in range(0, steps, lanes):
        prefetch(b_rows, t, AHEAD)
        value = load_vector(b_rows, t, summary)
        if not is_level(rule):
            prefetch(a_rows, t, AHEAD)
            gate = load_vector(a_rows, t, summary)
        least = lower(least, room(rule, gate))
        if centred:
            centre, kept = broadcast(origin), decay(rule, gate)
            weights = compose_weights(kept, gate)
            products, rises = compose_on(kept, intake(rule, gate, value - centre))
            # From the nearer end. A summary is the same of deviations: it has its centre at 0.
            from_start = weights < broadcast(half)
            share = select(from_start, weights, -products)
            new = fma(share, centre - before, rises) + select(from_start, before, centre)
            rise = fma(-share, rise, rises) + select(from_start, rise, broadcast(zero))
            lost = higher(lost, fma(weights, far, -magnitude(new)))
            finite = fma(new, broadcast(zero), finite)
            weight = fma(weights, broadcast(one) - weight, weight)
        else:
            products, rises = compose_on(decay(rule, gate), intake(rule, gate, value))
            new, rise = fma(products, before, rises), fma(products, rise, rises)
            if not is_average(rule):
                peak = higher(peak, magnitude(value))
        product = products * product
        before = spread_of(new, 15)
        if keeps:
            prefetch_to_write(h_rows, t, AHEAD)
            store_vector(h_rows, t, new)
    inside = everywhere(least == magnitude(least))
    most = total(peak)
    store(summary, PRODUCT, lane_of(product, 15) if inside else constant(NOT_A_NUMBER, h))
    store(summary, RISE, lane_of(rise, 15))
    store(summary, WEIGHT, lane_of(weight, 15))
    store(summary, ORIGIN, origin)
    store(summary, PEAK, most)
    if keeps and h == h:
        sound = inside and is_finite(lane_of(before, 0)) and everywhere(lost == finite)
        if not (sound and stays_finite(h, most)):
            walk(rule, a_rows, b_rows, h_rows, summary, steps, h)
    return not everywhere(broadcast(zero) < least)


@helper
def composed(rule, summary, h):
    """Return the state after a block from the one before, and whether it may be used."""
    product, rise = load(summary, PRODUCT, summary), load(summary, RISE, summary)
    weight, origin = load(summary, WEIGHT, summary), load(summary, ORIGIN, summary)
    if is_rounded(rule, h):
        # A product of hundreds of decays has their roundings; near 0 these do not matter, and the weight's would.
        left = constant(1.0, h) - weight if product > constant(1.0 / 256, h) else product
        if left > constant(0.5, h):
            new = h + fma(weight, origin - h, rise)
        else:
            new = origin + fma(left, h - origin, rise)
        sound = weight * magnitude(origin) <= constant(LOST, h) * magnitude(new)
    else:
        new = fma(product, h, rise)
        sound = is_average(rule) or magnitude(product * h) <= constant(CANCELLED, h) * magnitude(new)
    return new, sound and is_finite(new) and stays_finite(h, load(summary, PEAK, summary))


@helper
def fold(rule, a, b, a_time, b_time, summary, steps, h):
    """Note the state before a block in its summary; return the one after it."""
    store(summary, FIRST, h)
    if h != h:
        return h
    new, sound = composed(rule, summary, h)
    if not sound:
        new = h
        for k in range(steps):
            new = step(rule, new, load(shift(a, k * a_time), 0, summary), load(shift(b, k * b_time), 0, summary))
    return new


@helper
def hold(rule, a, b, h, a_time, b_time, h_time, steps, carry):
    """Repeat the result before ``h`` while an average's gate is closed to a finite value; return for how many steps."""
    k = 0
    if is_average(rule):
        last = load(shift(h, -h_time), 0, carry)
        zero = constant(0.0, last)
        while k < steps and load(shift(a, k * a_time), 0, carry) == zero:
            if not is_finite(load(shift(b, k * b_time), 0, carry)):
                break
            store(shift(h, k * h_time), 0, last)
            k += 1
    return k


@helper
def settle_ends(rule, a_rows, b_rows, h_rows, carry, steps, last, follows):
    """Make the results of closed gates those before them, of open ones the values; ``last`` is what a block follows."""
    zero, one = constant(0.0, last), constant(1.0, last)
    for k in range(steps):
        gate, value, result = gate_at(rule, a_rows, k, carry), load(b_rows, k, carry), load(h_rows, k, carry)
        if gate == zero and follows and is_finite(value):
            result = last
            store(h_rows, k, result)
        elif gate == one and is_finite(result):
            result = value
            store(h_rows, k, result)
        last, follows = result, True


@helper
def finish(rule, a, b, h, a_time, b_time, h_time, done, steps, carry, lane):
    """Walk what is left after ``done`` steps of whole vectors; leave the last result in ``carry``."""
    value = load(carry, lane, carry)
    held = 0
    if 0 < done < steps:
        a_now, b_now, h_now = shift(a, done * a_time), shift(b, done * b_time), shift(h, done * h_time)
        held = hold(rule, a_now, b_now, h_now, a_time, b_time, h_time, steps - done, carry)
    for t in range(done + held, steps):
        value = step(rule, value, load(shift(a, t * a_time), 0, carry), load(shift(b, t * b_time), 0, carry))
        store(shift(h, t * h_time), 0, value)
    if steps > 0:
        store(carry, lane, load(shift(h, (steps - 1) * h_time), 0, carry))


@inlined
def most_asked(first_block, last_block, others):
    """Return how many blocks, of so many others, are asked at most for the state that a thread's own start from."""
    return minimum(others, maximum(1, minimum(RECALLED, (last_block - first_block) // SHARE)))


@helper
def asked_next(left, asked, most):
    """Return how many blocks to ask, of which so many were and leave so much of a state; 0 for no more, as it is told.

    Negative if most blocks would not tell it, if each leaves what those leave that were asked.
    """
    limit = constant(FORGOTTEN, left)
    if asked > 0 and left < limit:
        return 0
    hope = left
    for _ in range(1, most // maximum(1, asked)):
        hope = hope * left
    if asked == most or (asked > 0 and not hope <= limit):
        return -1
    return minimum(most, maximum(2, 4 * asked))  # 2, 8, 32, ...


@helper
def product_of(summaries, first, last):
    """Return what some blocks leave of a state."""
    product = constant(1.0, load(summaries, 0, summaries))
    for block in range(first, last):
        product = product * magnitude(load(summaries, block * SUMMARY + PRODUCT, summaries))
    return product


def forward(rule, a, b, h, carry, lengths, geometry, summaries, first, last, first_block, last_block, blocks, phase):
    """Walk blocks of lanes; ``carry`` holds the first states, then the last."""
    all_steps, reverse = load_int(geometry, N_STEPS), load_int(geometry, REVERSE)
    a_time, b_time, h_time = (
        load_int(shift(geometry, A), 0),
        load_int(shift(geometry, B), 0),
        load_int(shift(geometry, H), 0),
    )
    a_rows, b_rows, h_rows = stack_of(a, carry, BLOCK), stack_of(b, carry, BLOCK), stack_of(h, carry, BLOCK)
    own = stack(carry, SUMMARY)
    direct = load_int(geometry, STREAMING) == IN_PLACE and is_own_kind(h_rows, h) and h_time == itemsize(h)
    past = load_int(geometry, STREAMING) == PAST
    ends = last_block == blocks and (phase == ALL or phase == TELL)
    whole = minimum(BLOCK, all_steps)  # Numba compiles a function anew for each plain number that it is called with
    if phase == TELL:
        store(carry, 2 * last, constant(1.0, load(carry, 0, carry)))
    for turn in range(last - first):
        lane = last - 1 - turn if h_time < 0 else first + turn  # as memory is walked
        start, stop = valid_range(
            shift(lengths, lane_offset(geometry, shift(geometry, LENGTHS), lane)), all_steps, reverse
        )
        a_lane = shift(a, lane_offset(geometry, shift(geometry, A), lane) + start * a_time)
        b_lane = shift(b, lane_offset(geometry, shift(geometry, B), lane) + start * b_time)
        h_lane = shift(h, lane_offset(geometry, shift(geometry, H), lane) + start * h_time)
        steps = stop - start
        top = minimum(last_block, steps // BLOCK)
        rest = (steps - top * BLOCK) // width(carry) * width(carry) if ends else 0
        state = load(carry, lane, carry)
        take_level(rule, a_rows, a_lane)
        if b_time == 0:
            take_steps(b_rows, b_lane, b_time, whole, b_time)
        # One loop over blocks for all that there is to do: those that are asked, the same again, and the thread's own.
        task, low, high = ALL if phase == PART or phase == TELL else phase, minimum(first_block, top), top + 1
        is_asking, asked, upto, left = phase == TELL and first_block > 0, ZERO, ZERO, constant(1.0, state)
        most = most_asked(first_block, last_block, first_block if first_block <= top else 0)
        task = SUMMARISE if is_asking else task
        while True:
            if is_asking and task == SUMMARISE:
                upto = asked_next(left, asked, most)
                low, high = first_block - upto, first_block - asked
                if upto < 0:
                    break
                if upto == 0:
                    task, low, high, state = FOLD, high, first_block, constant(0.0, state)
            elif is_asking:
                store(carry, last + lane, state)
                gate = load(shift(a_lane, first_block * BLOCK * a_time), 0, carry)
                if is_average(rule) and gate == constant(0.0, gate):
                    store(carry, 2 * last + 1, constant(1.0, gate))
                is_asking, task, low, high = False, ALL, first_block, top + 1
            for block in range(low, high):
                # What is left behind the whole blocks goes with the end, all at once.
                now, count = (task, BLOCK) if block < top else (ALL, rest)
                t = block * BLOCK
                a_now, b_now, h_now = shift(a_lane, t * a_time), shift(b_lane, t * b_time), shift(h_lane, t * h_time)
                summary = own if now == ALL else shift(summaries, (lane * blocks + block) * SUMMARY * itemsize(carry))
                if now == HOLD:
                    held = hold(rule, a_now, b_now, h_now, a_time, b_time, h_time, steps - t, carry)
                    if held == steps - t:
                        state = load(shift(h_lane, (steps - 1) * h_time), 0, carry)
                    continue
                if count == 0:
                    continue
                touched, a_here, b_here, h_here = False, a_rows, b_rows, h_rows
                if direct:
                    h_here = in_place(h_rows, h_now)
                if now != FOLD:
                    a_here = gates_of(rule, a_rows, a_now, a_time, count, BLOCK * a_time)
                    b_here = steps_of(b_rows, b_now, b_time, count, BLOCK * b_time)
                    begin = load(summary, FIRST, carry) if now == REPLAY else state
                    touched = walk_vectors(rule, a_here, b_here, h_here, summary, count, begin, now != SUMMARISE)
                if now == ALL or now == FOLD:
                    state = fold(rule, a_now, b_now, a_time, b_time, summary, count, state)
                if now == ALL or now == REPLAY:
                    if touched and is_average(rule):
                        follows = block > (0 if phase == ALL else first_block)
                        before = load(shift(h_now, -h_time if follows else 0), 0, carry)
                        settle_ends(rule, a_here, b_here, h_here, carry, count, before, follows)
                    if not direct:
                        give_steps(h_now, h_time, h_rows, count, past, BLOCK * h_time)
            if not is_asking:
                break
            if task == SUMMARISE:
                left, asked = left * product_of(summaries, lane * blocks + low, lane * blocks + high), upto
        if upto < 0:
            store(carry, 2 * last, constant(0.0, state))
            break
        if phase != SUMMARISE and phase != REPLAY:
            store(carry, lane, state)
        if ends:
            zero_steps(h_lane, h_time, -start, ZERO, carry)
            zero_steps(h_lane, h_time, steps, all_steps - start, carry)
            finish(
                rule, a_lane, b_lane, h_lane, a_time, b_time, h_time, top * BLOCK + rest, steps, carry, lane
            )  # fmt: skip
    if past:
        fence()


@helper
def back(rule, g, a, r):
    """Return what flows on from a step: neither its gradients nor ``b`` nor ``h`` matter to it."""
    zero = constant(0.0, r)
    return adjoint(rule, g + r, a, zero, zero)[2]


@helper
def walk_back(rule, g_rows, a_rows, b_rows, h_rows, first, to_a_rows, to_b_rows, carry, steps, r):
    """Take cotangents through a block step by step."""
    for ago in range(steps):
        k = steps - 1 - ago
        gate, value = gate_at(rule, a_rows, k, carry), load(b_rows, k, carry)
        before = load(h_rows, k - 1, carry) if k > 0 else first
        grad_a, grad_b, r = adjoint(rule, load(g_rows, k, carry) + r, gate, value, before)
        store(to_a_rows, k, grad_a)
        store(to_b_rows, k, grad_b)


@helper
def walk_vectors_back(rule, g_rows, a_rows, b_rows, h_rows, first, to_a_rows, to_b_rows, summary, steps, r, keeps):
    """Take cotangents through a block, and summarise it, from what flows on from the step after it.

    ``first`` is the state before the block. Where only the summary is wanted, ``keeps`` is false.
    """
    lanes = width(summary)
    zero, one = constant(0.0, r), constant(1.0, r)
    most, peak = broadcast(zero), broadcast(zero)
    # Of these only the first lane counts.
    product, end, after = broadcast(one), broadcast(zero), broadcast(r)
    gate = load_vector(a_rows, 0, summary)
    for ago in range(0, steps, lanes):
        t = steps - lanes - ago
        prefetch(g_rows, t, -AHEAD)
        g = load_vector(g_rows, t, summary)
        if not is_level(rule):
            prefetch(a_rows, t, -AHEAD)
            gate = load_vector(a_rows, t, summary)
        kept = decay(rule, gate)
        most, peak = higher(most, magnitude(kept)), higher(peak, magnitude(g))
        products, ends = compose_back(kept, kept * g)
        onward = fma(products, after, ends)
        if keeps:
            prefetch(b_rows, t, -AHEAD)
            prefetch(h_rows, t, -AHEAD)
            prefetch_to_write(to_a_rows, t, -AHEAD)
            prefetch_to_write(to_b_rows, t, -AHEAD)
            value = load_vector(b_rows, t, summary)
            if t > 0:
                before = load_vector(h_rows, t - 1, summary)
            else:
                before = earlier(load_vector(h_rows, 0, summary), broadcast(first), 1)
            grad_a, grad_b, _ = adjoint(rule, g + later(onward, after, 1), gate, value, before)
            store_vector(to_a_rows, t, grad_a)
            store_vector(to_b_rows, t, grad_b)
        end, product, after = fma(products, end, ends), products * product, spread_of(onward, 0)
    inside = everywhere(lower(broadcast(one), most) == most)
    bound = total(peak)
    store(summary, PRODUCT, lane_of(product, 0) if inside else constant(NOT_A_NUMBER, r))
    store(summary, RISE, lane_of(end, 0))
    store(summary, PEAK, bound)
    if keeps and r == r and not (inside and is_finite(lane_of(after, 0)) and stays_finite(r, bound)):
        walk_back(rule, g_rows, a_rows, b_rows, h_rows, first, to_a_rows, to_b_rows, summary, steps, r)


@helper
def fold_back(rule, g, a, g_time, a_time, summary, steps, r):
    """Note what reaches a block's end in its summary; return what leaves it at its start."""
    store(summary, FIRST, r)
    if r != r:
        return r
    product = load(summary, PRODUCT, summary)
    new = fma(product, r, load(summary, RISE, summary))
    sound = magnitude(product * r) <= constant(CANCELLED, r) * magnitude(new)
    if not (sound and is_finite(new) and stays_finite(r, load(summary, PEAK, summary))):
        new = r
        for ago in range(steps):
            k = steps - 1 - ago
            new = back(rule, load(shift(g, k * g_time), 0, summary), load(shift(a, k * a_time), 0, summary), new)
    return new


@helper
def add_steps(sums, time, mode, rows, steps):
    """Add a block of a gradient to sums."""
    if mode == ACCUMULATE and time == 0:
        column = load_vector(rows, 0, sums)
        for t in range(width(sums), steps, width(sums)):
            column = column + load_vector(rows, t, sums)
        store(sums, 0, load(sums, 0, sums) + total(column))
    elif mode == ACCUMULATE:
        for t in range(steps):
            place = shift(sums, t * time)
            store(place, 0, load(place, 0, sums) + load(rows, t, sums))


@helper
def deliver_steps(target, time, sums, sums_time, mode, rows, steps, past):
    """Bring a block of a gradient where it belongs."""
    if mode == STORE:
        give_steps(target, time, rows, steps, past, -BLOCK * time)
    else:
        add_steps(sums, sums_time, mode, rows, steps)


@helper
def _deliver_each(rule, target, time, sums, sums_time, mode, rows, steps, past):
    deliver_steps(target, time, sums, sums_time, mode, rows, steps, past)


@helper
def _deliver_level(rule, target, time, sums, sums_time, mode, rows, steps, past):
    if mode != STORE:
        add_steps(sums, sums_time, mode, rows, steps)
    elif time == itemsize(target):  # the gradient of one gate that was given as if it were many
        for t in range(0, steps, width(rows)):
            store_vector(target, t, load_vector(rows, t, rows))
    else:
        for t in range(steps):
            store(shift(target, t * time), 0, load(rows, t, rows))


deliver_gates = choice("time_invariant_a", _deliver_level, _deliver_each)


@helper
def vjp_steps(
    rule, g, a, b, h, h0, carry, to_a, to_b, sums_a, sums_b, first, stop, lane, g_time, a_time, b_time, h_time,
    to_a_time, to_b_time, sums_a_time, sums_b_time, a_mode, b_mode,
):  # fmt: skip
    """Take one lane back from step ``stop`` to step ``first``."""
    r = load(carry, lane, carry)
    for ago in range(stop - first):
        t = stop - 1 - ago
        before = load(h0, lane, carry) if t == 0 else load(shift(h, (t - 1) * h_time), 0, carry)
        gate, other = load(shift(a, t * a_time), 0, carry), load(shift(b, t * b_time), 0, carry)
        grad_a, grad_b, r = adjoint(rule, load(shift(g, t * g_time), 0, carry) + r, gate, other, before)
        settle_lane(shift(to_a, t * to_a_time), shift(sums_a, t * sums_a_time), 0, grad_a, a_mode)
        settle_lane(shift(to_b, t * to_b_time), shift(sums_b, t * sums_b_time), 0, grad_b, b_mode)
    store(carry, lane, r)


def vjp(
    rule, g, a, b, h, h0, carry, to_a, to_b, sums_a, sums_b, lengths, geometry, summaries, first, last, first_block,
    last_block, blocks, phase,
):  # fmt: skip
    """Walk blocks of lanes back; ``carry`` holds the last states' cotangents, then the first states'.

    Sums are made of so many ``pieces`` as `geometry` says, each of blocks that follow each other, with one after the
    other in memory; the last has what is behind the whole blocks. Of a sum over lanes 0: it is whole.
    """
    all_steps, reverse = load_int(geometry, N_STEPS), load_int(geometry, REVERSE)
    a_mode, b_mode = load_int(geometry, A_MODE), load_int(geometry, B_MODE)
    a_time, b_time = load_int(shift(geometry, A), 0), load_int(shift(geometry, B), 0)
    h_time, g_time = load_int(shift(geometry, H), 0), load_int(shift(geometry, G), 0)
    to_a_time, to_b_time = load_int(shift(geometry, TO_A), 0), load_int(shift(geometry, TO_B), 0)
    sums_a_time, sums_b_time = load_int(shift(geometry, SUMS_A), 0), load_int(shift(geometry, SUMS_B), 0)
    g_rows, a_rows = stack_of(g, carry, BLOCK), stack_of(a, carry, BLOCK)
    b_rows, h_rows = stack_of(b, carry, BLOCK), stack_of(h, carry, BLOCK)
    to_a_rows, to_b_rows = stack_of(to_a, carry, BLOCK), stack_of(to_b, carry, BLOCK)
    own = stack(carry, SUMMARY)
    past = load_int(geometry, STREAMING) == PAST
    a_direct = not past and a_mode == STORE and is_own_kind(to_a_rows, to_a) and to_a_time == itemsize(to_a)
    b_direct = not past and b_mode == STORE and is_own_kind(to_b_rows, to_b) and to_b_time == itemsize(to_b)
    ends = last_block == blocks and (phase == ALL or phase == FOLD)
    whole = minimum(BLOCK, all_steps)
    pieces = maximum(1, load_int(geometry, SUMS))
    a_piece, b_piece = load_int(geometry, SUMS + 1), load_int(geometry, SUMS + 2)
    if phase == TELL:
        store(carry, 2 * last, constant(1.0, load(carry, 0, carry)))
    for lane_turn in range(last - first):
        lane = last - 1 - lane_turn if h_time > 0 else first + lane_turn  # as memory is walked
        start, stop = valid_range(
            shift(lengths, lane_offset(geometry, shift(geometry, LENGTHS), lane)), all_steps, reverse
        )
        a_lane = shift(a, lane_offset(geometry, shift(geometry, A), lane) + start * a_time)
        b_lane = shift(b, lane_offset(geometry, shift(geometry, B), lane) + start * b_time)
        h_lane = shift(h, lane_offset(geometry, shift(geometry, H), lane) + start * h_time)
        g_lane = shift(g, lane_offset(geometry, shift(geometry, G), lane) + start * g_time)
        to_a_lane = shift(to_a, lane_offset(geometry, shift(geometry, TO_A), lane) + start * to_a_time)
        to_b_lane = shift(to_b, lane_offset(geometry, shift(geometry, TO_B), lane) + start * to_b_time)
        sums_a_lane = shift(sums_a, lane_offset(geometry, shift(geometry, SUMS_A), lane) + start * sums_a_time)
        sums_b_lane = shift(sums_b, lane_offset(geometry, shift(geometry, SUMS_B), lane) + start * sums_b_time)
        steps = stop - start
        top = minimum(last_block, steps // BLOCK)
        rest = 0
        if ends:
            rest = (steps - top * BLOCK) // width(carry) * width(carry)
            if a_mode == STORE:
                zero_steps(to_a_lane, to_a_time, -start, ZERO, carry)
                zero_steps(to_a_lane, to_a_time, steps, all_steps - start, carry)
            if b_mode == STORE:
                zero_steps(to_b_lane, to_b_time, -start, ZERO, carry)
                zero_steps(to_b_lane, to_b_time, steps, all_steps - start, carry)
            vjp_steps(
                rule, g_lane, a_lane, b_lane, h_lane, h0, carry, to_a_lane, to_b_lane,
                shift(sums_a_lane, (pieces - 1) * a_piece), shift(sums_b_lane, (pieces - 1) * b_piece),
                top * BLOCK + rest, steps, lane, g_time, a_time, b_time, h_time, to_a_time, to_b_time, sums_a_time,
                sums_b_time, a_mode, b_mode,
            )  # fmt: skip
        r = load(carry, lane, carry)
        take_level(rule, a_rows, a_lane)
        if b_time == 0:
            take_steps(b_rows, b_lane, b_time, whole, b_time)
        if g_time == 0:
            take_steps(g_rows, g_lane, g_time, whole, g_time)
        if h_time == 0:
            take_steps(h_rows, h_lane, h_time, whole, h_time)
        task, low, high = ALL if phase == PART or phase == TELL else phase, minimum(first_block, top), top + 1
        is_asking, asked, upto, left, piece = phase == TELL, 0, 0, constant(1.0, r), pieces - 1
        most = most_asked(first_block, last_block, maximum(0, steps // BLOCK - last_block))
        task = SUMMARISE if is_asking else task
        while True:
            if is_asking and task == SUMMARISE:
                upto = asked_next(left, asked, most)
                low, high = last_block + asked, last_block + upto
                if upto < 0:
                    break
                if upto == 0:
                    task, low, high, r = FOLD, last_block, low, constant(0.0, r)
            elif is_asking:
                store(carry, last + lane, r)
                is_asking, task, low, high = False, ALL, first_block, top + 1
            for ago in range(1, high - low + 1):
                block = high - ago
                # What is left behind the whole blocks goes with the end, all at once.
                now, count = (task, BLOCK) if block < top or is_asking else (ALL, rest)
                if count == 0:
                    continue
                while block < blocks * piece // pieces:
                    piece -= 1
                t = block * BLOCK
                g_now, a_now = shift(g_lane, t * g_time), shift(a_lane, t * a_time)
                summary = own if now == ALL else shift(summaries, (lane * blocks + block) * SUMMARY * itemsize(carry))
                to_a_now, to_b_now = shift(to_a_lane, t * to_a_time), shift(to_b_lane, t * to_b_time)
                to_a_here = in_place(to_a_rows, to_a_now) if a_direct else to_a_rows
                to_b_here = in_place(to_b_rows, to_b_now) if b_direct else to_b_rows
                if now != FOLD:
                    g_here = steps_of(g_rows, g_now, g_time, count, -BLOCK * g_time)
                    a_here = gates_of(rule, a_rows, a_now, a_time, count, -BLOCK * a_time)
                    b_here, h_here, before = b_rows, h_rows, r
                    keeps = now != SUMMARISE
                    if keeps:
                        b_here = steps_of(b_rows, shift(b_lane, t * b_time), b_time, count, -BLOCK * b_time)
                        h_here = steps_of(h_rows, shift(h_lane, t * h_time), h_time, count, -BLOCK * h_time)
                        before = load(h0, lane, carry) if t == 0 else load(shift(h_lane, (t - 1) * h_time), 0, carry)
                    begin = load(summary, FIRST, carry) if now == REPLAY else r
                    walk_vectors_back(
                        rule, g_here, a_here, b_here, h_here, before, to_a_here, to_b_here, summary, count, begin, keeps
                    )
                if now == ALL or now == FOLD:
                    r = fold_back(rule, g_now, a_now, g_time, a_time, summary, count, r)
                if now == ALL or now == REPLAY:
                    if not a_direct:
                        sums_a_now = shift(sums_a_lane, t * sums_a_time + piece * a_piece)
                        deliver_gates(
                            rule, to_a_now, to_a_time, sums_a_now, sums_a_time, a_mode, to_a_rows, count, past
                        )
                    if not b_direct:
                        sums_b_now = shift(sums_b_lane, t * sums_b_time + piece * b_piece)
                        deliver_steps(to_b_now, to_b_time, sums_b_now, sums_b_time, b_mode, to_b_rows, count, past)
            if not is_asking:
                break
            if task == SUMMARISE:
                left, asked = left * product_of(summaries, lane * blocks + low, lane * blocks + high), upto
        if upto < 0:
            store(carry, 2 * last, constant(0.0, r))
            break
        if phase != SUMMARISE and phase != REPLAY:
            store(carry, lane, r)
    if past:
        fence()

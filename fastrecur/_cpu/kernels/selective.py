"""Kernels of the selective scan: states are expanded, scanned and contracted in registers and the nearest cache.

A unit of the work (`_plan.selective`) takes its vectors of channels through a chunk of time one after the other. A tile
holds a chunk of a vector of channels in the carry's type, a row of WIDTH numbers for each step, whatever the layout and
dtype in memory; missing channels are zeros there. Where series begin and end, and the direction of time, stand in the
table of chunks.

A gradient scans each chunk again from the states before it, and then against time, one state after the other.
"""

from collections import namedtuple

import numpy as np

from ..._plan.selective import CHUNK, GROUP
from ..._steps import selective
from ..._steps.recurrence import constant, fma
from ..compiler.numba_internals import helper, inlined
from ..vectors.scalars import itemsize, load, load_int, maximum, minimum, shift, stack, stack_ints, store
from ..vectors.transposes import load_octet, store_octet
from ..vectors.types import OCTET, WIDTH
from ..vectors.vectors import broadcast, load_half_vector, load_vector, store_vector, total
from .rules import trait

TILE = CHUNK * WIDTH
HISTORY = (CHUNK + 1) * WIDTH  # of a state before and after all steps of a chunk
TILES, HISTORIES, DECAYS = 9 * TILE, 4 * HISTORY, 4 * TILE

# Fields of ``geometry``: sizes, of `_plan.selective.Units` too; whether steps go through softplus, there is a gate,
# checkpoints are kept, outputs are written; then strides in bytes: of what has a number for each step those of a
# sequence, a step and a channel; of B and C those of a sequence, a step, a group and a state, or a channel and a state.
(
    STATES, CHANNELS, BATCH, N_STEPS, PARTS, GROUPS, SUBS, PER_GROUP, VECTORS, ROWS, REVERSE, SOFTPLUS, GATED, KEEPS,
    WRITES,
) = np.arange(15, dtype=np.int64)  # fmt: skip
HEAD = 15
TIMED = "u", "delta", "z", "y", "g", "to_u", "to_delta", "to_z"
U, DELTA, Z, Y, G, TO_U, TO_DELTA, TO_Z = HEAD + 3 * np.arange(8, dtype=np.int64)
B, C = HEAD + 24 + 4 * np.arange(2, dtype=np.int64)
FIELDS = HEAD + 32

# What kernels take as one value: addresses. States, and what goes with them in a gradient, are (rows, channels,
# states); ``carry`` is scratch memory.
FORWARD = "u delta z b c y a skip bias states checkpoints rows chunks carry"
BACKWARD = (
    "g u delta z b c a skip bias states checkpoints rows chunks to_u to_delta to_z to_a to_b to_c to_skip to_bias carry"
)
Forward, Backward = namedtuple("Forward", FORWARD), namedtuple("Backward", BACKWARD)
# Of a unit: its first channel and how many it has, their group, and which of the group's units it is.
Unit = namedtuple("Unit", "part channel channels group sub")

b_is_constant, c_is_constant = trait("constant_b"), trait("constant_c")
keeps_past = trait("vjp")
power, bounded = inlined(selective.power), inlined(selective.bounded)
softplus, silu = inlined(selective.softplus), inlined(selective.silu)
advance, retreat = inlined(selective.advance), inlined(selective.retreat)


def plain(u, delta, A, B, C, D, z, state, y):
    """Compute what `forward` does of arrays (steps, channels), without a bias, with softplus; B, C (steps, states)."""
    rates = selective.bounded(A * A.dtype.type(selective.LOG2_E))
    for t, d in np.ndindex(u.shape):
        step, out = selective.softplus(delta[t, d])[0], D[d] * u[t, d]
        for n in range(A.shape[1]):
            decay = selective.power(selective.bounded(step) * rates[d, n])
            state[d, n] = selective.advance(state[d, n], decay, step * u[t, d], B[t, n])
            out += C[t, n] * state[d, n]
        y[t, d] = out * selective.silu(z[t, d])[0]


# ---- Tiles ----------------------------------------------------------------------------------------------------------


@helper
def fill(tile, count):
    """Write zeros."""
    zero = broadcast(constant(0.0, load(tile, 0, tile)))
    for k in range(0, count, WIDTH):
        store_vector(tile, k, zero)


@inlined
def lanes_from(table, lane, first):
    """Write the offsets of 8 lanes."""
    for k in range(OCTET):
        store(table, k, (first + k) * lane)


@inlined
def write_octet(tile, t, pitch, octet):
    store_vector(tile, t * pitch, octet[0])
    store_vector(tile, (t + 1) * pitch, octet[1])
    store_vector(tile, (t + 2) * pitch, octet[2])
    store_vector(tile, (t + 3) * pitch, octet[3])
    store_vector(tile, (t + 4) * pitch, octet[4])
    store_vector(tile, (t + 5) * pitch, octet[5])
    store_vector(tile, (t + 6) * pitch, octet[6])
    store_vector(tile, (t + 7) * pitch, octet[7])


@inlined
def half_row(tile, t, half):
    return load_half_vector(tile, t * WIDTH + half, tile)


@inlined
def octet_of(tile, t, half):
    return (
        half_row(tile, t, half), half_row(tile, t + 1, half), half_row(tile, t + 2, half), half_row(tile, t + 3, half),
        half_row(tile, t + 4, half), half_row(tile, t + 5, half), half_row(tile, t + 6, half),
        half_row(tile, t + 7, half),
    )  # fmt: skip


@helper
def read_tile(tile, pitch, place, time, lane, steps, lanes):
    """Read a chunk of up to WIDTH neighboring series; ``pitch`` numbers lie between a tile's steps."""
    size, whole = itemsize(place), 0
    if lanes == WIDTH and lane == size:
        whole = steps
        for t in range(steps):
            store_vector(tile, t * pitch, load_vector(shift(place, t * time), 0, tile))
    elif lanes == WIDTH and time == size:
        table, whole = stack_ints(8), steps // OCTET * OCTET
        for half in range(0, WIDTH, OCTET):
            lanes_from(table, lane, half)
            for t in range(0, whole, OCTET):
                write_octet(
                    shift(tile, half * itemsize(tile)), t, pitch, load_octet(shift(place, t * size), table, tile)
                )
    for t in range(whole, steps):
        if lanes < WIDTH:
            fill(shift(tile, t * pitch * itemsize(tile)), WIDTH)
        for k in range(lanes):
            store(tile, t * pitch + k, load(shift(place, t * time + k * lane), 0, tile))


@helper
def write_tile(place, time, lane, tile, steps, lanes):
    """Write what `read_tile` reads, of a tile whose steps follow each other."""
    size, whole = itemsize(place), 0
    if lanes == WIDTH and lane == size:
        whole = steps
        for t in range(steps):
            store_vector(shift(place, t * time), 0, load_vector(tile, t * WIDTH, tile))
    elif lanes == WIDTH and time == size:
        table, whole = stack_ints(8), steps // OCTET * OCTET
        for half in range(0, WIDTH, OCTET):
            lanes_from(table, lane, half)
            for t in range(0, whole, OCTET):
                store_octet(shift(place, t * size), table, octet_of(tile, t, half))
    for t in range(whole, steps):
        for k in range(lanes):
            store(shift(place, t * time + k * lane), 0, load(tile, t * WIDTH + k, tile))


# ---- Units ----------------------------------------------------------------------------------------------------------


# Scratch memory of a unit, from its parts' first numbers: for each vector of channels a number for each state, of
# rates, states, and B and C where they are constant; B and C of a chunk, with ``pitch`` numbers a step.
Scratch = namedtuple("Scratch", "rates states b c block pitch skip bias")
# The same of a gradient: of states', A's, and constant B's and C's; sums of B's and C's over the unit's channels.
ScratchBack = namedtuple("ScratchBack", "states a b c sums_b sums_c skip bias")


def scratch_numbers(states, back):
    """Return how much scratch memory a call needs, in numbers."""
    block, pitch = GROUP * WIDTH * states, -(-states // WIDTH) * WIDTH
    forward = 2 * block + 2 * max(block, CHUNK * pitch) + 2 * GROUP * WIDTH
    return forward + back * (4 * block + 2 * TILE * states + 2 * GROUP * WIDTH)


@inlined
def later(pointer, numbers):
    return shift(pointer, numbers * itemsize(pointer))


@inlined
def scratch_of(carry, states):
    block = states * WIDTH
    pitch = (states + WIDTH - 1) // WIDTH * WIDTH
    maps = maximum(GROUP * block, CHUNK * pitch)
    b = later(carry, 2 * GROUP * block)
    skip = later(b, 2 * maps)
    return Scratch(
        carry, later(carry, GROUP * block), b, later(b, maps), block, pitch, skip, later(skip, GROUP * WIDTH)
    )


@inlined
def scratch_back_of(scratch):
    block = GROUP * scratch.block
    states = later(scratch.bias, GROUP * WIDTH)
    sums = later(states, 4 * block)
    skip = later(sums, 2 * CHUNK * scratch.block)
    return ScratchBack(
        states, later(states, block), later(states, 2 * block), later(states, 3 * block), sums,
        later(sums, CHUNK * scratch.block), skip, later(skip, GROUP * WIDTH),
    )  # fmt: skip


@helper
def unit_of(geometry, k):
    groups, subs, per_group = load_int(geometry, GROUPS), load_int(geometry, SUBS), load_int(geometry, PER_GROUP)
    part, group, sub = k // (groups * subs), k // subs % groups, k % subs
    first = sub * GROUP * WIDTH
    return Unit(part, group * per_group + first, minimum(GROUP * WIDTH, per_group - first), group, sub)


@inlined
def rows_of(geometry, part):
    rows, parts = load_int(geometry, ROWS), load_int(geometry, PARTS)
    return rows * part // parts, rows * (part + 1) // parts


@inlined
def lanes_of(unit, j):
    """Return how many channels the j-th vector of a unit has."""
    return minimum(WIDTH, unit.channels - j * WIDTH)


@inlined
def vectors_of(unit):
    return (unit.channels + WIDTH - 1) // WIDTH


@inlined
def place_of(pointer, geometry, field, batch, t, channel):
    """Return where an operand has a step of a channel."""
    offset = batch * load_int(geometry, field) + t * load_int(geometry, field + 1)
    return shift(pointer, offset + channel * load_int(geometry, field + 2))


@helper
def read(tile, pointer, geometry, field, place, steps, lanes):
    """Read a tile; the place is a sequence, a step and a channel."""
    at = place_of(pointer, geometry, field, place[0], place[1], place[2])
    read_tile(tile, WIDTH, at, load_int(geometry, field + 1), load_int(geometry, field + 2), steps, lanes)


@helper
def write(pointer, geometry, field, place, tile, steps, lanes):
    at = place_of(pointer, geometry, field, place[0], place[1], place[2])
    write_tile(at, load_int(geometry, field + 1), load_int(geometry, field + 2), tile, steps, lanes)


@helper
def read_map(tile, pitch, place, time, state, steps, states):
    """Read a chunk of B or C."""
    for n in range(0, states, WIDTH):
        lanes = minimum(WIDTH, states - n)
        read_tile(later(tile, n), pitch, shift(place, n * state), time, state, steps, lanes)


@helper
def read_chunk_of_map(tile, pitch, pointer, geometry, field, place, steps, states):
    """Read a chunk of B or C; the place is a sequence, a step and a group."""
    at = place_of(pointer, geometry, field, place[0], place[1], place[2])
    read_map(tile, pitch, at, load_int(geometry, field + 1), load_int(geometry, field + 3), steps, states)


@helper
def read_states(tile, place, states, lanes):
    """Read what channels have of each state, in C order and the carry's type: as if states were steps."""
    read_tile(tile, WIDTH, place, itemsize(place), states * itemsize(place), states, lanes)


@helper
def write_states(place, tile, states, lanes):
    write_tile(place, itemsize(place), states * itemsize(place), tile, states, lanes)


@helper
def make_rates(a, numbers):
    for k in range(0, numbers, WIDTH):
        value = load_vector(a, k, a)
        store_vector(a, k, bounded(value * constant(selective.LOG2_E, value)))


@helper
def read_parameters(rule, at, geometry, unit, scratch):
    """Read what a unit's channels have for all steps."""
    states = load_int(geometry, STATES)
    for j in range(vectors_of(unit)):
        lanes, channel, numbers = lanes_of(unit, j), unit.channel + j * WIDTH, j * scratch.block
        rates = later(scratch.rates, numbers)
        read_states(rates, later(at.a, channel * states), states, lanes)
        make_rates(rates, scratch.block)
        read_states(later(scratch.skip, j * WIDTH), later(at.skip, channel), 1, lanes)
        read_states(later(scratch.bias, j * WIDTH), later(at.bias, channel), 1, lanes)
        if b_is_constant(rule):
            lane, state = load_int(geometry, B), load_int(geometry, B + 1)
            read_tile(later(scratch.b, numbers), WIDTH, shift(at.b, channel * lane), state, lane, states, lanes)
        if c_is_constant(rule):
            lane, state = load_int(geometry, C), load_int(geometry, C + 1)
            read_tile(later(scratch.c, numbers), WIDTH, shift(at.c, channel * lane), state, lane, states, lanes)


@helper
def read_maps(rule, at, geometry, unit, scratch, batch, t, steps):
    """Read a chunk of B and C, which is that of all channels of a unit."""
    states, place = load_int(geometry, STATES), (batch, t, unit.group)
    if not b_is_constant(rule):
        read_chunk_of_map(scratch.b, scratch.pitch, at.b, geometry, B, place, steps, states)
    if not c_is_constant(rule):
        read_chunk_of_map(scratch.c, scratch.pitch, at.c, geometry, C, place, steps, states)


@inlined
def b_of(rule, scratch, j, t, n, like):
    """Return B of the j-th vector of channels."""
    if b_is_constant(rule):
        return load_vector(scratch.b, j * scratch.block + n * WIDTH, like)
    return broadcast(load(scratch.b, t * scratch.pitch + n, like))


@inlined
def c_of(rule, scratch, j, t, n, like):
    if c_is_constant(rule):
        return load_vector(scratch.c, j * scratch.block + n * WIDTH, like)
    return broadcast(load(scratch.c, t * scratch.pitch + n, like))


@helper
def copy(to, source, numbers):
    for k in range(0, numbers, WIDTH):
        store_vector(to, k, load_vector(source, k, to))


@inlined
def checkpoint_of(at, geometry, unit, number, j, block):
    """Return where the states of a unit's j-th vector stand before a chunk."""
    group = number * load_int(geometry, GROUPS) + unit.group
    return later(at.checkpoints, (group * load_int(geometry, VECTORS) + unit.sub * GROUP + j) * block)


# ---- Forward --------------------------------------------------------------------------------------------------------


@helper
def soften(step, slope, bias, steps):
    """Take a tile of ``delta`` with its bias through softplus; write its slopes, too."""
    bias = load_vector(bias, 0, step)
    for k in range(0, steps * WIDTH, WIDTH):
        value, own = softplus(load_vector(step, k, step) + bias)
        store_vector(slope, k, own)
        store_vector(step, k, value)


@helper
def add_bias(step, bias, steps):
    bias = load_vector(bias, 0, step)
    for k in range(0, steps * WIDTH, WIDTH):
        store_vector(step, k, load_vector(step, k, step) + bias)


@helper
def prepare(x, step, out, skip, steps):
    """Take a tile of inputs to what they add, times the steps, and begin a tile of outputs."""
    skip = load_vector(skip, 0, x)
    for k in range(0, steps * WIDTH, WIDTH):
        u, raw = load_vector(x, k, x), load_vector(step, k, x)
        store_vector(step, k, bounded(raw))
        store_vector(x, k, u * raw)
        store_vector(out, k, u * skip)


# Of four states, after each step of a chunk in scan order: these, the first ones before, and their decays.
Past = namedtuple("Past", "states decays")


@inlined
def order(steps, reverse):
    """Return which step of a tile is the first in scan order, and how far in memory the next one is."""
    return reverse * (steps - 1), 1 - 2 * reverse


@inlined
def scan_step(rule, size, added, h, rate, scratch, j, t, n, past, k, q):
    """Return the next state; of a gradient, keep it and its decay as those of the q-th state after k steps."""
    decay = power(size * rate)
    h = advance(h, decay, added, b_of(rule, scratch, j, t, n, scratch.rates))
    if keeps_past(rule):
        store_vector(past.decays, q * TILE + k * WIDTH, decay)
        store_vector(past.states, q * HISTORY + (k + 1) * WIDTH, h)
    return h


@inlined
def first_state(rule, state, n, past, q):
    """Return a state before a chunk."""
    h = load_vector(state, n * WIDTH, state)
    if keeps_past(rule):
        store_vector(past.states, q * HISTORY, h)
    return h


@helper
def scan_four_states(rule, x, step, out, state, scratch, past, j, n, steps, reverse):
    """Scan a chunk of a vector of channels, which have four states in registers; outputs are added up."""
    rates, at = later(scratch.rates, j * scratch.block + n * WIDTH), later(state, n * WIDTH)
    a0, a1 = load_vector(rates, 0, x), load_vector(rates, WIDTH, x)
    a2, a3 = load_vector(rates, 2 * WIDTH, x), load_vector(rates, 3 * WIDTH, x)
    h0, h1 = first_state(rule, at, 0, past, 0), first_state(rule, at, 1, past, 1)
    h2, h3 = first_state(rule, at, 2, past, 2), first_state(rule, at, 3, past, 3)
    start, way = order(steps, reverse)
    for k in range(steps):
        t = start + way * k
        size, added, y = load_vector(step, t * WIDTH, x), load_vector(x, t * WIDTH, x), load_vector(out, t * WIDTH, x)
        h0 = scan_step(rule, size, added, h0, a0, scratch, j, t, n, past, k, 0)
        h1 = scan_step(rule, size, added, h1, a1, scratch, j, t, n + 1, past, k, 1)
        h2 = scan_step(rule, size, added, h2, a2, scratch, j, t, n + 2, past, k, 2)
        h3 = scan_step(rule, size, added, h3, a3, scratch, j, t, n + 3, past, k, 3)
        y = fma(h0, c_of(rule, scratch, j, t, n, x), y)
        y = fma(h1, c_of(rule, scratch, j, t, n + 1, x), y)
        y = fma(h2, c_of(rule, scratch, j, t, n + 2, x), y)
        y = fma(h3, c_of(rule, scratch, j, t, n + 3, x), y)
        store_vector(out, t * WIDTH, y)
    store_vector(at, 0, h0)
    store_vector(at, WIDTH, h1)
    store_vector(at, 2 * WIDTH, h2)
    store_vector(at, 3 * WIDTH, h3)


@helper
def scan_one_state(rule, x, step, out, state, scratch, past, j, n, steps, reverse):
    rate, h = load_vector(scratch.rates, j * scratch.block + n * WIDTH, x), first_state(rule, state, n, past, 0)
    start, way = order(steps, reverse)
    for k in range(steps):
        t = start + way * k
        size, added = load_vector(step, t * WIDTH, x), load_vector(x, t * WIDTH, x)
        h = scan_step(rule, size, added, h, rate, scratch, j, t, n, past, k, 0)
        store_vector(out, t * WIDTH, fma(h, c_of(rule, scratch, j, t, n, x), load_vector(out, t * WIDTH, x)))
    store_vector(state, n * WIDTH, h)


@helper
def scan_tile(rule, x, step, out, state, scratch, j, steps, states, reverse):
    """Scan a chunk of a vector of channels."""
    fours, past = states // 4 * 4, Past(out, out)
    for n in range(0, fours, 4):
        scan_four_states(rule, x, step, out, state, scratch, past, j, n, steps, reverse)
    for n in range(fours, states):
        scan_one_state(rule, x, step, out, state, scratch, past, j, n, steps, reverse)


@helper
def apply_gate(out, z, steps):
    for k in range(0, steps * WIDTH, WIDTH):
        store_vector(out, k, load_vector(out, k, out) * silu(load_vector(z, k, out))[0])


@helper
def scan_unit(rule, at, geometry, unit):
    """Scan all rows of a unit."""
    states, reverse = load_int(geometry, STATES), load_int(geometry, REVERSE)
    softens, gated = load_int(geometry, SOFTPLUS) != 0, load_int(geometry, GATED) != 0
    keeps, writes = load_int(geometry, KEEPS) != 0, load_int(geometry, WRITES) != 0
    scratch, vectors = scratch_of(at.carry, states), vectors_of(unit)
    x, step, out = stack(at.carry, TILE), stack(at.carry, TILE), stack(at.carry, TILE)
    read_parameters(rule, at, geometry, unit, scratch)
    first, stop = rows_of(geometry, unit.part)
    for row in range(first, stop):
        batch = load_int(at.rows, 3 * row)
        own = later(at.states, (row * load_int(geometry, CHANNELS) + unit.channel) * states)
        for j in range(vectors):
            to, place = later(scratch.states, j * scratch.block), later(own, j * WIDTH * states)
            read_states(to, place, states, lanes_of(unit, j))
        for chunk in range(load_int(at.rows, 3 * row + 1), load_int(at.rows, 3 * row + 2)):
            t, steps, number = (
                load_int(at.chunks, 3 * chunk), load_int(at.chunks, 3 * chunk + 1), load_int(at.chunks, 3 * chunk + 2)
            )  # fmt: skip
            read_maps(rule, at, geometry, unit, scratch, batch, t, steps)
            for j in range(vectors):
                state, lanes = later(scratch.states, j * scratch.block), lanes_of(unit, j)
                place = batch, t, unit.channel + j * WIDTH
                if number < 0:
                    fill(state, scratch.block)
                elif keeps:
                    copy(checkpoint_of(at, geometry, unit, number, j, scratch.block), state, scratch.block)
                read(x, at.u, geometry, U, place, steps, lanes)
                read(step, at.delta, geometry, DELTA, place, steps, lanes)
                if softens:
                    soften(step, out, later(scratch.bias, j * WIDTH), steps)
                else:
                    add_bias(step, later(scratch.bias, j * WIDTH), steps)
                prepare(x, step, out, later(scratch.skip, j * WIDTH), steps)
                scan_tile(rule, x, step, out, state, scratch, j, steps, states, reverse)
                if gated and writes:
                    read(x, at.z, geometry, Z, place, steps, lanes)
                    apply_gate(out, x, steps)
                if writes:
                    write(at.y, geometry, Y, place, out, steps, lanes)
        for j in range(vectors):
            source = later(scratch.states, j * scratch.block)
            write_states(later(own, j * WIDTH * states), source, states, lanes_of(unit, j))


def forward(rule, at: Forward, geometry, first, last):
    """Scan units, from states to states."""
    for k in range(first, last):
        scan_unit(rule, at, geometry, unit_of(geometry, k))


# ---- Gradient -------------------------------------------------------------------------------------------------------


# Tiles of a vector of channels: cotangents of outputs without a gate, inputs, steps, their products and the slopes of
# softplus; what a gate's cotangent is of outputs, and these; sums of what comes to the products and to the exponents.
Tiles = namedtuple("Tiles", "g u step x slope z out added exponents")


@helper
def open_gate(tiles, steps):
    """Take cotangents of gated outputs to those of outputs, and gates to what is multiplied by outputs for theirs."""
    for k in range(0, steps * WIDTH, WIDTH):
        g, (value, slope) = load_vector(tiles.g, k, tiles.g), silu(load_vector(tiles.z, k, tiles.g))
        store_vector(tiles.z, k, g * slope)
        store_vector(tiles.g, k, g * value)


@inlined
def add_to(pointer, index, a, b):
    store_vector(pointer, index, fma(a, b, load_vector(pointer, index, pointer)))


# Of a state against time: the cotangent that has come to it, sums of A's, B's and C's, and the sums of a step.
Back = namedtuple("Back", "g a b c added exponents")


@inlined
def retreat_state(rule, now, out, step, x, rate, states, decays, scratch, back, j, t, n, k):
    """Take a state from a step to the one before it; ``out`` is the cotangent of the outputs."""
    like, at = scratch.rates, t * scratch.block + n * WIDTH
    before, b_sum, c_sum = load_vector(states, k * WIDTH, like), now.b, now.c
    after, b = load_vector(states, (k + 1) * WIDTH, like), b_of(rule, scratch, j, t, n, like)
    g = fma(out, c_of(rule, scratch, j, t, n, like), now.g)
    if b_is_constant(rule):
        b_sum = fma(g, x, b_sum)
    else:
        add_to(back.sums_b, at, g, x)
    if c_is_constant(rule):
        c_sum = fma(out, after, c_sum)
    else:
        add_to(back.sums_c, at, out, after)
    onward, exponent = retreat(g, load_vector(decays, k * WIDTH, like), before)
    return Back(
        onward, fma(exponent, step, now.a), b_sum, c_sum, fma(g, b, now.added), fma(exponent, rate, now.exponents)
    )


@inlined
def begin_back(back, j, n, block):
    g = load_vector(back.states, j * block + n * WIDTH, back.states)
    zero = constant(0.0, g)
    return Back(g, zero, zero, zero, zero, zero)


@inlined
def passed_on(now, sums):
    return Back(now.g, now.a, now.b, now.c, sums.added, sums.exponents)


@inlined
def end_back(rule, back, j, n, block, now):
    """Keep what a chunk comes to: sums of A's, and of constant B's and C's, are those of chunks."""
    at = j * block + n * WIDTH
    store_vector(back.states, at, now.g)
    store_vector(back.a, at, load_vector(back.a, at, back.a) + now.a)
    if b_is_constant(rule):
        store_vector(back.b, at, load_vector(back.b, at, back.b) + now.b)
    if c_is_constant(rule):
        store_vector(back.c, at, load_vector(back.c, at, back.c) + now.c)


@inlined
def sums_at(tiles, t, now):
    like = tiles.x
    added, exponents = load_vector(tiles.added, t * WIDTH, like), load_vector(tiles.exponents, t * WIDTH, like)
    return Back(now.g, now.a, now.b, now.c, added, exponents)


@helper
def retreat_four_states(rule, tiles, states, decays, scratch, back, j, n, steps, reverse):
    """Take four states of a chunk against time."""
    rates, like, block = later(scratch.rates, j * scratch.block + n * WIDTH), tiles.x, scratch.block
    r0, r1 = load_vector(rates, 0, like), load_vector(rates, WIDTH, like)
    r2, r3 = load_vector(rates, 2 * WIDTH, like), load_vector(rates, 3 * WIDTH, like)
    s0, s1, s2, s3 = states, later(states, HISTORY), later(states, 2 * HISTORY), later(states, 3 * HISTORY)
    d0, d1, d2, d3 = decays, later(decays, TILE), later(decays, 2 * TILE), later(decays, 3 * TILE)
    q0, q1 = begin_back(back, j, n, block), begin_back(back, j, n + 1, block)
    q2, q3 = begin_back(back, j, n + 2, block), begin_back(back, j, n + 3, block)
    start, way = order(steps, reverse)
    for ago in range(steps):
        k = steps - 1 - ago
        t = start + way * k
        out, step = load_vector(tiles.g, t * WIDTH, like), load_vector(tiles.step, t * WIDTH, like)
        x = load_vector(tiles.x, t * WIDTH, like)
        q0 = retreat_state(rule, sums_at(tiles, t, q0), out, step, x, r0, s0, d0, scratch, back, j, t, n, k)
        q1 = retreat_state(rule, passed_on(q1, q0), out, step, x, r1, s1, d1, scratch, back, j, t, n + 1, k)
        q2 = retreat_state(rule, passed_on(q2, q1), out, step, x, r2, s2, d2, scratch, back, j, t, n + 2, k)
        q3 = retreat_state(rule, passed_on(q3, q2), out, step, x, r3, s3, d3, scratch, back, j, t, n + 3, k)
        store_vector(tiles.added, t * WIDTH, q3.added)
        store_vector(tiles.exponents, t * WIDTH, q3.exponents)
    end_back(rule, back, j, n, block, q0)
    end_back(rule, back, j, n + 1, block, q1)
    end_back(rule, back, j, n + 2, block, q2)
    end_back(rule, back, j, n + 3, block, q3)


@helper
def retreat_one_state(rule, tiles, states, decays, scratch, back, j, n, steps, reverse):
    like, now = tiles.x, begin_back(back, j, n, scratch.block)
    rate = load_vector(scratch.rates, j * scratch.block + n * WIDTH, like)
    start, way = order(steps, reverse)
    for ago in range(steps):
        k = steps - 1 - ago
        t = start + way * k
        out, step = load_vector(tiles.g, t * WIDTH, like), load_vector(tiles.step, t * WIDTH, like)
        x, now = load_vector(tiles.x, t * WIDTH, like), sums_at(tiles, t, now)
        now = retreat_state(rule, now, out, step, x, rate, states, decays, scratch, back, j, t, n, k)
        store_vector(tiles.added, t * WIDTH, now.added)
        store_vector(tiles.exponents, t * WIDTH, now.exponents)
    end_back(rule, back, j, n, scratch.block, now)


@helper
def retreat_tile(rule, tiles, state, scratch, back, j, steps, states, reverse):
    """Scan a chunk again, and take all its states against time."""
    history, decays, fours = stack(scratch.rates, HISTORIES), stack(scratch.rates, DECAYS), states // 4 * 4
    past, x, step, out = Past(history, decays), tiles.x, tiles.step, tiles.out
    for n in range(0, fours, 4):
        scan_four_states(rule, x, step, out, state, scratch, past, j, n, steps, reverse)
        retreat_four_states(rule, tiles, history, decays, scratch, back, j, n, steps, reverse)
    for n in range(fours, states):
        scan_one_state(rule, x, step, out, state, scratch, past, j, n, steps, reverse)
        retreat_one_state(rule, tiles, history, decays, scratch, back, j, n, steps, reverse)


@helper
def finish_back(tiles, skip, skip_sum, bias_sum, steps, softens, gated):
    """Take sums of all states to the cotangents of inputs, steps and gates, in the tiles of x, of steps and of z."""
    skip, total_skip = load_vector(skip, 0, skip), constant(0.0, load_vector(skip, 0, skip))
    total_bias, ln_2 = total_skip, constant(selective.LN_2, total_skip)
    for k in range(0, steps * WIDTH, WIDTH):
        u, added, g = (
            load_vector(tiles.u, k, tiles.u), load_vector(tiles.added, k, tiles.u), load_vector(tiles.g, k, tiles.u)
        )  # fmt: skip
        to_step = fma(added, u, ln_2 * load_vector(tiles.exponents, k, tiles.u))
        if softens:
            to_step = to_step * load_vector(tiles.slope, k, tiles.u)
        store_vector(tiles.x, k, fma(added, load_vector(tiles.step, k, tiles.u), skip * g))
        store_vector(tiles.step, k, to_step)
        total_skip, total_bias = fma(g, u, total_skip), total_bias + to_step
        if gated:
            store_vector(tiles.z, k, load_vector(tiles.z, k, tiles.u) * load_vector(tiles.out, k, tiles.u))
    store_vector(skip_sum, 0, load_vector(skip_sum, 0, skip_sum) + total_skip)
    store_vector(bias_sum, 0, load_vector(bias_sum, 0, bias_sum) + total_bias)


@helper
def write_sums(to, sums, geometry, unit, batch, t, steps, states):
    """Write a unit's share of the gradient of B or C for a chunk."""
    whole = (unit.sub * load_int(geometry, BATCH) + batch) * load_int(geometry, N_STEPS) + t
    groups = load_int(geometry, GROUPS)
    for k in range(steps):
        own = later(to, ((whole + k) * groups + unit.group) * states)
        for n in range(states):
            store(own, n, total(load_vector(sums, (k * states + n) * WIDTH, sums)))


@helper
def retreat_chunk(rule, at, geometry, unit, scratch, back, batch, chunk):
    """Take a unit through a chunk against time."""
    states, reverse = load_int(geometry, STATES), load_int(geometry, REVERSE)
    softens, gated = load_int(geometry, SOFTPLUS) != 0, load_int(geometry, GATED) != 0
    t, steps, number = (
        load_int(at.chunks, 3 * chunk), load_int(at.chunks, 3 * chunk + 1), load_int(at.chunks, 3 * chunk + 2)
    )  # fmt: skip
    tile = stack(at.carry, TILES)
    tiles = Tiles(
        tile, later(tile, TILE), later(tile, 2 * TILE), later(tile, 3 * TILE), later(tile, 4 * TILE),
        later(tile, 5 * TILE), later(tile, 6 * TILE), later(tile, 7 * TILE), later(tile, 8 * TILE),
    )  # fmt: skip
    read_maps(rule, at, geometry, unit, scratch, batch, t, steps)
    fill(back.sums_b, steps * scratch.block)
    fill(back.sums_c, steps * scratch.block)
    for j in range(vectors_of(unit)):
        place, lanes = (batch, t, unit.channel + j * WIDTH), lanes_of(unit, j)
        skip, bias = later(scratch.skip, j * WIDTH), later(scratch.bias, j * WIDTH)
        read(tiles.g, at.g, geometry, G, place, steps, lanes)
        read(tiles.u, at.u, geometry, U, place, steps, lanes)
        read(tiles.step, at.delta, geometry, DELTA, place, steps, lanes)
        if softens:
            soften(tiles.step, tiles.slope, bias, steps)
        else:
            add_bias(tiles.step, bias, steps)
        copy(tiles.x, tiles.u, steps * WIDTH)
        prepare(tiles.x, tiles.step, tiles.out, skip, steps)
        fill(tiles.added, 2 * TILE)
        if gated:
            read(tiles.z, at.z, geometry, Z, place, steps, lanes)
            open_gate(tiles, steps)
        state = later(scratch.states, j * scratch.block)
        if number < 0:
            fill(state, scratch.block)
        else:
            copy(state, checkpoint_of(at, geometry, unit, number, j, scratch.block), scratch.block)
        retreat_tile(rule, tiles, state, scratch, back, j, steps, states, reverse)
        if number < 0:
            fill(later(back.states, j * scratch.block), scratch.block)
        skip_sum, bias_sum = later(back.skip, j * WIDTH), later(back.bias, j * WIDTH)
        finish_back(tiles, skip, skip_sum, bias_sum, steps, softens, gated)
        write(at.to_u, geometry, TO_U, place, tiles.x, steps, lanes)
        write(at.to_delta, geometry, TO_DELTA, place, tiles.step, steps, lanes)
        if gated:
            write(at.to_z, geometry, TO_Z, place, tiles.z, steps, lanes)
    if not b_is_constant(rule):
        write_sums(at.to_b, back.sums_b, geometry, unit, batch, t, steps, states)
    if not c_is_constant(rule):
        write_sums(at.to_c, back.sums_c, geometry, unit, batch, t, steps, states)


@helper
def retreat_unit(rule, at, geometry, unit):
    """Take all rows of a unit against time, and write its share of the gradients of what all steps have."""
    states, channels = load_int(geometry, STATES), load_int(geometry, CHANNELS)
    scratch, vectors = scratch_of(at.carry, states), vectors_of(unit)
    back = scratch_back_of(scratch)
    read_parameters(rule, at, geometry, unit, scratch)
    fill(back.a, 3 * GROUP * scratch.block)
    fill(back.skip, 2 * GROUP * WIDTH)
    first, stop = rows_of(geometry, unit.part)
    for row in range(first, stop):
        own = later(at.states, (row * channels + unit.channel) * states)
        for j in range(vectors):
            to, place = later(back.states, j * scratch.block), later(own, j * WIDTH * states)
            read_states(to, place, states, lanes_of(unit, j))
        low, high = load_int(at.rows, 3 * row + 1), load_int(at.rows, 3 * row + 2)
        for ago in range(high - low):
            retreat_chunk(rule, at, geometry, unit, scratch, back, load_int(at.rows, 3 * row), high - 1 - ago)
        for j in range(vectors):
            source = later(back.states, j * scratch.block)
            write_states(later(own, j * WIDTH * states), source, states, lanes_of(unit, j))
    for j in range(vectors):
        lanes, channel, block = lanes_of(unit, j), unit.part * channels + unit.channel + j * WIDTH, j * scratch.block
        write_states(later(at.to_a, channel * states), later(back.a, block), states, lanes)
        if b_is_constant(rule):
            write_states(later(at.to_b, channel * states), later(back.b, block), states, lanes)
        if c_is_constant(rule):
            write_states(later(at.to_c, channel * states), later(back.c, block), states, lanes)
        write_states(later(at.to_skip, channel), later(back.skip, j * WIDTH), 1, lanes)
        write_states(later(at.to_bias, channel), later(back.bias, j * WIDTH), 1, lanes)


def vjp(rule, at: Backward, geometry, first, last):
    """Take units against time, from the last states' cotangents to the first ones'."""
    for k in range(first, last):
        retreat_unit(rule, at, geometry, unit_of(geometry, k))

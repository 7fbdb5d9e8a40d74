"""Kernels of the selective scan: states are expanded, scanned and contracted in registers and the nearest cache.

A unit of the work (`_plan.selective`) takes its vectors of channels through a chunk of time one after the other. A tile
holds a chunk of a vector of channels in the carry's type, a row of WIDTH numbers for each step, whatever the layout and
dtype in memory; missing channels are zeros there. Of each state there is such a row, too; a vector's are a block. Where
series begin and end, and the direction of time, stand in the table of chunks.

Four states at once are in a `fourfold` vector; those that are left over follow one after the other.
"""

from collections import namedtuple

import numpy as np

from ..._plan.fields.selective import (
    CHANNELS,
    DELTA,
    FORWARD,
    GATED,
    GROUPS,
    KEEPS,
    OF_UNIT,
    PARTS,
    PER_GROUP,
    REVERSE,
    ROWS,
    SOFTPLUS,
    STATES,
    SUBS,
    TILE,
    VECTORS,
    WRITES,
    B,
    C,
    U,
    Y,
    Z,
)
from ..._plan.selective import CHUNK, GROUP
from ..._plan.widths import OCTET, WIDTH
from ..._steps import selective
from ..._steps.recurrence import constant
from ..compiler.numba_internals import helper, inlined
from ..vectors.scalars import (
    fourfold,
    itemsize,
    load,
    load_int,
    maximum,
    minimum,
    shift,
    stack,
    stack_ints,
    store,
    width,
)
from ..vectors.transposes import load_octet, store_octet
from ..vectors.vectors import add_products, broadcast, copies, load_each, load_vector, store_vector
from .rules import trait
from .tiles import ONE, put_rows, rows_of

Forward = namedtuple("Forward", FORWARD)
# Of a unit: its first channel and how many it has, their group, which of the group's units it is, and its first vector.
Unit = namedtuple("Unit", "part channel channels group sub vector")

b_is_constant, c_is_constant = trait("constant_b"), trait("constant_c")
keeps_past = trait("vjp")
power, bounded = inlined(selective.power), inlined(selective.bounded)
softplus, silu = inlined(selective.softplus), inlined(selective.silu)
advance = inlined(selective.advance)


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


@inlined
def later(pointer, numbers):
    return shift(pointer, numbers * itemsize(pointer))


@helper
def fill(tile, count):
    """Write zeros."""
    zero = broadcast(constant(0.0, load(tile, 0, tile)))
    for k in range(0, count, WIDTH):
        store_vector(tile, k, zero)


@helper
def copy(to, source, count):
    for k in range(count):
        store(to, k, load(source, k, to))


@inlined
def lanes_from(table, lane, first):
    """Write the offsets of 8 lanes."""
    for k in range(OCTET):
        store(table, k, (first + k) * lane)


@helper
def read_tile(tile, place, time, lane, steps, lanes):
    """Read a chunk of up to WIDTH neighboring series."""
    size, whole = itemsize(place), 0
    if lanes == WIDTH and lane == size:
        whole = steps
        for t in range(steps):
            store_vector(tile, t * WIDTH, load_vector(shift(place, t * time), 0, tile))
    elif lanes == WIDTH and time == size:
        table, whole = stack_ints(8), steps // OCTET * OCTET
        for half in range(0, WIDTH, OCTET):
            lanes_from(table, lane, half)
            for t in range(0, whole, OCTET):
                put_rows(tile, t, half, ONE, load_octet(shift(place, t * size), table, tile))
    elif lanes < WIDTH:
        fill(tile, steps * WIDTH)
    for t in range(whole, steps):
        for k in range(lanes):
            store(tile, t * WIDTH + k, load(shift(place, t * time + k * lane), 0, tile))


@helper
def write_tile(place, time, lane, tile, steps, lanes):
    """Write what `read_tile` reads."""
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
                store_octet(shift(place, t * size), table, rows_of(tile, t, half, ONE))
    for t in range(whole, steps):
        for k in range(lanes):
            store(shift(place, t * time + k * lane), 0, load(tile, t * WIDTH + k, tile))


# ---- Units ----------------------------------------------------------------------------------------------------------


# Scratch memory of a unit, from its parts' first numbers: blocks of rates, of states, and of B and C where they are
# constant; else a chunk of these, WIDTH states after WIDTH states.
Scratch = namedtuple("Scratch", "rates states b c skip bias")


@inlined
def scratch_of(carry, states):
    blocks, row = GROUP * WIDTH * states, GROUP * WIDTH
    maps = maximum(blocks, (states + WIDTH - 1) // WIDTH * TILE)
    b = later(carry, 2 * blocks)
    skip = later(b, 2 * maps)
    return Scratch(carry, later(carry, blocks), b, later(b, maps), skip, later(skip, row))


@helper
def unit_of(geometry, k):
    """Return the k-th unit; those that share B and C, and then those of a part, follow each other."""
    groups, subs, per_group = load_int(geometry, GROUPS), load_int(geometry, SUBS), load_int(geometry, PER_GROUP)
    part, group, sub = k // (groups * subs), k // subs % groups, k % subs
    vectors = load_int(geometry, OF_UNIT)
    first = sub * vectors * WIDTH
    channels = minimum(vectors * WIDTH, per_group - first)
    return Unit(part, group * per_group + first, channels, group, sub, sub * vectors)


@inlined
def count_units(geometry):
    return load_int(geometry, PARTS) * load_int(geometry, GROUPS) * load_int(geometry, SUBS)


@inlined
def rows_of_part(geometry, part):
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
def chunk_of(at, chunk):
    """Return the first step of a chunk, how many it has, and the number of its checkpoint."""
    return load_int(at.chunks, 3 * chunk), load_int(at.chunks, 3 * chunk + 1), load_int(at.chunks, 3 * chunk + 2)


@inlined
def states_of(at, geometry, unit, row):
    """Return where a row's states of a unit's channels stand."""
    return later(at.states, (row * load_int(geometry, CHANNELS) + unit.channel) * load_int(geometry, STATES))


@inlined
def place_of(pointer, geometry, field, place):
    """Return where an operand has a sequence's step of a channel, or of a group."""
    offset = place[0] * load_int(geometry, field) + place[1] * load_int(geometry, field + 1)
    return shift(pointer, offset + place[2] * load_int(geometry, field + 2))


@helper
def read(tile, pointer, geometry, field, place, steps, lanes):
    """Read a tile; the place is a sequence, a step and a channel."""
    at = place_of(pointer, geometry, field, place)
    read_tile(tile, at, load_int(geometry, field + 1), load_int(geometry, field + 2), steps, lanes)


@helper
def write(pointer, geometry, field, place, tile, steps, lanes):
    at = place_of(pointer, geometry, field, place)
    write_tile(at, load_int(geometry, field + 1), load_int(geometry, field + 2), tile, steps, lanes)


@helper
def read_blocks(blocks, place, lane, state, states, unit):
    """Read what a unit's channels have of each state, as if states were steps."""
    for j in range(vectors_of(unit)):
        own = later(blocks, j * WIDTH * states)
        read_tile(own, shift(place, j * WIDTH * lane), state, lane, states, lanes_of(unit, j))


@helper
def write_blocks(place, blocks, states, unit):
    """Write blocks in C order."""
    size = itemsize(place)
    for j in range(vectors_of(unit)):
        own = later(blocks, j * WIDTH * states)
        write_tile(later(place, j * WIDTH * states), size, states * size, own, states, lanes_of(unit, j))


@helper
def read_states(blocks, place, states, unit):
    read_blocks(blocks, place, states * itemsize(place), itemsize(place), states, unit)


@helper
def read_parameters(rule, at, geometry, unit, scratch):
    """Read what a unit's channels have for all steps."""
    states = load_int(geometry, STATES)
    read_states(scratch.rates, later(at.a, unit.channel * states), states, unit)
    for k in range(0, vectors_of(unit) * WIDTH * states, WIDTH):
        rate = load_vector(scratch.rates, k, scratch.rates)
        store_vector(scratch.rates, k, bounded(rate * constant(selective.LOG2_E, rate)))
    fill(scratch.skip, 2 * GROUP * WIDTH)
    copy(scratch.skip, later(at.skip, unit.channel), unit.channels)
    copy(scratch.bias, later(at.bias, unit.channel), unit.channels)
    if b_is_constant(rule):
        lane, state = load_int(geometry, B), load_int(geometry, B + 1)
        read_blocks(scratch.b, shift(at.b, unit.channel * lane), lane, state, states, unit)
    if c_is_constant(rule):
        lane, state = load_int(geometry, C), load_int(geometry, C + 1)
        read_blocks(scratch.c, shift(at.c, unit.channel * lane), lane, state, states, unit)


@helper
def read_map(chunk, pointer, geometry, field, place, steps):
    """Read a chunk of B or C; the place is a sequence, a step and a group."""
    at, states = place_of(pointer, geometry, field, place), load_int(geometry, STATES)
    time, state = load_int(geometry, field + 1), load_int(geometry, field + 3)
    for n in range(0, states, WIDTH):
        read_tile(later(chunk, n * CHUNK), shift(at, n * state), time, state, steps, minimum(WIDTH, states - n))


@helper
def read_maps(rule, at, geometry, unit, scratch, batch, t, steps):
    """Read a chunk of B and C, which is that of all channels of a unit."""
    place = batch, t, unit.group
    if not b_is_constant(rule):
        read_map(scratch.b, at.b, geometry, B, place, steps)
    if not c_is_constant(rule):
        read_map(scratch.c, at.c, geometry, C, place, steps)


@inlined
def map_at(t, n):
    return n // WIDTH * TILE + t * WIDTH + n % WIDTH


@inlined
def b_of(rule, scratch, block, t, n, like):
    """Return B for states from the n-th on of a vector of channels."""
    if b_is_constant(rule):
        return load_vector(scratch.b, block + n * WIDTH, like)
    return load_each(scratch.b, map_at(t, n), like)


@inlined
def c_of(rule, scratch, block, t, n, like):
    if c_is_constant(rule):
        return load_vector(scratch.c, block + n * WIDTH, like)
    return load_each(scratch.c, map_at(t, n), like)


# ---- Forward --------------------------------------------------------------------------------------------------------


# Tiles of a vector of channels: inputs, steps, their products, outputs without a gate and gates; of a gradient the
# cotangents of these outputs, too, the slopes of softplus, and sums of what comes to the products and to the exponents.
Tiles = namedtuple("Tiles", "u step x out z g slope added exponents")
# Of a chunk's states after each step in scan order: these, the first ones before, and their decays.
Past = namedtuple("Past", "states decays")


@helper
def prepare(tiles, at, geometry, place, scratch, j, steps, lanes):
    """Read inputs and steps, take steps through softplus and the inputs times the steps, and begin outputs."""
    read(tiles.u, at.u, geometry, U, place, steps, lanes)
    read(tiles.step, at.delta, geometry, DELTA, place, steps, lanes)
    softens, like = load_int(geometry, SOFTPLUS) != 0, tiles.x
    skip, bias = load_vector(scratch.skip, j * WIDTH, like), load_vector(scratch.bias, j * WIDTH, like)
    for k in range(0, steps * WIDTH, WIDTH):
        u, step = load_vector(tiles.u, k, like), load_vector(tiles.step, k, like) + bias
        if softens:
            step, slope = softplus(step)
            store_vector(tiles.slope, k, slope)
        store_vector(tiles.step, k, bounded(step))
        store_vector(tiles.x, k, u * step)
        store_vector(tiles.out, k, u * skip)


@helper
def begin_chunk(at, geometry, unit, states, number, j, keeps):
    """Make the states of a unit's j-th vector those before a chunk, or keep them as these."""
    group, block = number * load_int(geometry, GROUPS) + unit.group, load_int(geometry, STATES) * WIDTH
    kept = later(at.checkpoints, (group * load_int(geometry, VECTORS) + unit.vector + j) * block)
    if number < 0:
        fill(states, block)
    elif keeps:
        copy(kept, states, block)
    else:
        copy(states, kept, block)


@inlined
def order(steps, reverse):
    """Return which step of a tile is the first in scan order, and how far in memory the next one is."""
    return reverse * (steps - 1), 1 - 2 * reverse


@helper
def scan_states(rule, like, tiles, scratch, past, block, n, steps, reverse):
    """Scan a chunk of as many states as a vector ``like`` has room for, from the n-th on; outputs are added up."""
    rate, h = load_vector(scratch.rates, block + n * WIDTH, like), load_vector(scratch.states, block + n * WIDTH, like)
    if keeps_past(rule):
        store_vector(past.states, 0, h)
    start, way = order(steps, reverse)
    for k in range(steps):
        t = start + way * k
        step, x = load_vector(tiles.step, t * WIDTH, tiles.x), load_vector(tiles.x, t * WIDTH, tiles.x)
        decay = power(copies(step, like) * rate)
        h = advance(h, decay, copies(x, like), b_of(rule, scratch, block, t, n, like))
        out = load_vector(tiles.out, t * WIDTH, tiles.x)
        store_vector(tiles.out, t * WIDTH, add_products(out, h, c_of(rule, scratch, block, t, n, like)))
        if keeps_past(rule):
            store_vector(past.decays, k * width(like), decay)
            store_vector(past.states, (k + 1) * width(like), h)
    store_vector(scratch.states, block + n * WIDTH, h)


@helper
def scan_tile(rule, tiles, scratch, block, steps, states, reverse):
    """Scan a chunk of a vector of channels."""
    past, fours = Past(tiles.x, tiles.x), states // 4 * 4
    for n in range(0, fours, 4):
        scan_states(rule, fourfold(tiles.x), tiles, scratch, past, block, n, steps, reverse)
    for n in range(fours, states):
        scan_states(rule, tiles.x, tiles, scratch, past, block, n, steps, reverse)


@helper
def apply_gate(out, z, steps):
    for k in range(0, steps * WIDTH, WIDTH):
        store_vector(out, k, load_vector(out, k, out) * silu(load_vector(z, k, out))[0])


@helper
def scan_chunk(rule, at, geometry, unit, scratch, batch, chunk):
    """Take a unit through a chunk."""
    states, reverse = load_int(geometry, STATES), load_int(geometry, REVERSE)
    keeps, writes = load_int(geometry, KEEPS) != 0, load_int(geometry, WRITES) != 0
    x, step, out = stack(at.carry, TILE), stack(at.carry, TILE), stack(at.carry, TILE)
    tiles = Tiles(x, step, x, out, x, out, out, out, out)
    t, steps, number = chunk_of(at, chunk)
    read_maps(rule, at, geometry, unit, scratch, batch, t, steps)
    for j in range(vectors_of(unit)):
        place, lanes, block = (batch, t, unit.channel + j * WIDTH), lanes_of(unit, j), j * WIDTH * states
        if number < 0 or keeps:
            begin_chunk(at, geometry, unit, later(scratch.states, block), number, j, keeps)
        prepare(tiles, at, geometry, place, scratch, j, steps, lanes)
        scan_tile(rule, tiles, scratch, block, steps, states, reverse)
        if writes:
            if load_int(geometry, GATED) != 0:
                read(tiles.z, at.z, geometry, Z, place, steps, lanes)
                apply_gate(out, tiles.z, steps)
            write(at.y, geometry, Y, place, out, steps, lanes)


@helper
def scan_unit(rule, at, geometry, unit):
    """Scan all rows of a unit."""
    states = load_int(geometry, STATES)
    scratch, (first, stop) = scratch_of(at.carry, states), rows_of_part(geometry, unit.part)
    read_parameters(rule, at, geometry, unit, scratch)
    for row in range(first, stop):
        read_states(scratch.states, states_of(at, geometry, unit, row), states, unit)
        for chunk in range(load_int(at.rows, 3 * row + 1), load_int(at.rows, 3 * row + 2)):
            scan_chunk(rule, at, geometry, unit, scratch, load_int(at.rows, 3 * row), chunk)
        write_blocks(states_of(at, geometry, unit, row), scratch.states, states, unit)


def forward(rule, at: Forward, geometry, first, every):
    """Scan every so many units, from states to states."""
    for k in range(first, count_units(geometry), every):
        scan_unit(rule, at, geometry, unit_of(geometry, k))

"""The selective scan's gradient: each chunk is scanned again from the states before it, and then against time."""

from collections import namedtuple

from ..._plan.fields.selective import (
    BACKWARD,
    BATCH,
    CHANNELS,
    GATED,
    GROUPS,
    N_STEPS,
    REVERSE,
    SOFTPLUS,
    STATES,
    TILE,
    TO_DELTA,
    TO_U,
    TO_Z,
    G,
    Z,
)
from ..._plan.widths import WIDTH
from ..._steps import selective
from ..._steps.recurrence import constant, fma
from ..compiler.numba_internals import helper, inlined
from ..vectors.scalars import fourfold, load_int, minimum, stack, width
from ..vectors.vectors import add_products, copies, load_vector, store_vector, totals
from .selective import (
    GROUP,
    Past,
    Tiles,
    b_is_constant,
    b_of,
    begin_chunk,
    c_is_constant,
    c_of,
    chunk_of,
    copy,
    count_units,
    fill,
    lanes_of,
    later,
    order,
    prepare,
    read,
    read_maps,
    read_parameters,
    read_states,
    rows_of_part,
    scan_states,
    scratch_of,
    silu,
    states_of,
    unit_of,
    vectors_of,
    write,
    write_blocks,
)

TILES = 9 * TILE
DECAYS, PAST = 4 * TILE, 4 * (TILE + WIDTH)  # of four states: after each step of a chunk, and before the first, too

Backward = namedtuple("Backward", BACKWARD)
# Scratch memory behind that of a forward scan: blocks of states', A's, and constant B's and C's; sums of B's and C's
# over a unit's channels.
ScratchBack = namedtuple("ScratchBack", "states a b c sums_b sums_c skip bias")

retreat = inlined(selective.retreat)


@inlined
def scratch_back_of(scratch, states):
    blocks, row = GROUP * WIDTH * states, GROUP * WIDTH
    own = later(scratch.bias, row)
    sums = later(own, 4 * blocks)
    skip = later(sums, 2 * TILE * states)
    return ScratchBack(
        own, later(own, blocks), later(own, 2 * blocks), later(own, 3 * blocks), sums, later(sums, TILE * states), skip,
        later(skip, row),
    )  # fmt: skip


@helper
def open_gate(tiles, steps):
    """Take cotangents of gated outputs to those of outputs, and gates to what is multiplied by outputs for theirs."""
    for k in range(0, steps * WIDTH, WIDTH):
        g, (value, slope) = load_vector(tiles.g, k, tiles.g), silu(load_vector(tiles.z, k, tiles.g))
        store_vector(tiles.z, k, g * slope)
        store_vector(tiles.g, k, g * value)


@inlined
def row_of(tile, t, like):
    """Return a step of a tile for all states of a vector."""
    return copies(load_vector(tile, t * WIDTH, tile), like)


@inlined
def add(sums, index, value, like):
    store_vector(sums, index, load_vector(sums, index, like) + value)


@inlined
def add_product(sums, index, a, b, like):
    store_vector(sums, index, fma(a, b, load_vector(sums, index, like)))


@inlined
def contract(sums, t, a, b):
    """Add products of all states of a vector to a step of a tile."""
    store_vector(sums, t * WIDTH, add_products(load_vector(sums, t * WIDTH, sums), a, b))


@helper
def retreat_states(rule, like, tiles, scratch, back, past, block, states, n, steps, reverse):
    """Take as many states as a vector ``like`` has room for, from the n-th on, through a chunk against time."""
    own, (start, way) = block + n * WIDTH, order(steps, reverse)
    rate, g = load_vector(scratch.rates, own, like), load_vector(back.states, own, like)
    a_sum = b_sum = c_sum = constant(0.0, g)
    for ago in range(steps):
        k = steps - 1 - ago
        t = start + way * k
        out, step, x = row_of(tiles.g, t, like), row_of(tiles.step, t, like), row_of(tiles.x, t, like)
        before = load_vector(past.states, k * width(like), like)
        after = load_vector(past.states, (k + 1) * width(like), like)
        at, b = (t * states + n) * WIDTH, b_of(rule, scratch, block, t, n, like)
        g = fma(out, c_of(rule, scratch, block, t, n, like), g)
        if b_is_constant(rule):
            b_sum = fma(g, x, b_sum)
        else:
            add_product(back.sums_b, at, g, x, like)
        if c_is_constant(rule):
            c_sum = fma(out, after, c_sum)
        else:
            add_product(back.sums_c, at, out, after, like)
        contract(tiles.added, t, g, b)
        g, exponent = retreat(g, load_vector(past.decays, k * width(like), like), before)
        a_sum = fma(exponent, step, a_sum)
        contract(tiles.exponents, t, exponent, rate)
    store_vector(back.states, own, g)
    add(back.a, own, a_sum, like)
    if b_is_constant(rule):
        add(back.b, own, b_sum, like)
    if c_is_constant(rule):
        add(back.c, own, c_sum, like)


@helper
def retreat_tile(rule, tiles, scratch, back, block, steps, states, reverse):
    """Scan a chunk of a vector of channels again, and take its states against time."""
    past, fours = Past(stack(tiles.x, PAST), stack(tiles.x, DECAYS)), states // 4 * 4
    for n in range(0, fours, 4):
        scan_states(rule, fourfold(tiles.x), tiles, scratch, past, block, n, steps, reverse)
        retreat_states(rule, fourfold(tiles.x), tiles, scratch, back, past, block, states, n, steps, reverse)
    for n in range(fours, states):
        scan_states(rule, tiles.x, tiles, scratch, past, block, n, steps, reverse)
        retreat_states(rule, tiles.x, tiles, scratch, back, past, block, states, n, steps, reverse)


@helper
def finish_back(tiles, scratch, back, j, steps, softens, gated):
    """Take sums of all states to the cotangents of inputs, steps and gates, in the tiles of x, of steps and of z."""
    skip = load_vector(scratch.skip, j * WIDTH, tiles.x)
    total_skip = total_bias = constant(0.0, skip)
    ln_2 = constant(selective.LN_2, skip)
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
    add(back.skip, j * WIDTH, total_skip, tiles.x)
    add(back.bias, j * WIDTH, total_bias, tiles.x)


@helper
def write_sums(to, sums, geometry, unit, batch, t, steps, states):
    """Write a unit's share of the gradient of B or C for a chunk."""
    whole = (unit.sub * load_int(geometry, BATCH) + batch) * load_int(geometry, N_STEPS) + t
    groups, row = load_int(geometry, GROUPS), stack(sums, WIDTH)
    for k in range(steps):
        own = later(to, ((whole + k) * groups + unit.group) * states)
        for n in range(0, states, WIDTH):  # behind the last one's sums there are other numbers
            store_vector(row, 0, totals(sums, (k * states + n) * WIDTH, sums))
            copy(later(own, n), row, minimum(WIDTH, states - n))


@helper
def retreat_chunk(rule, at, geometry, unit, scratch, back, batch, chunk):
    """Take a unit through a chunk against time."""
    states, reverse = load_int(geometry, STATES), load_int(geometry, REVERSE)
    softens, gated = load_int(geometry, SOFTPLUS) != 0, load_int(geometry, GATED) != 0
    t, steps, number = chunk_of(at, chunk)
    tile = stack(at.carry, TILES)
    tiles = Tiles(
        tile, later(tile, TILE), later(tile, 2 * TILE), later(tile, 3 * TILE), later(tile, 4 * TILE),
        later(tile, 5 * TILE), later(tile, 6 * TILE), later(tile, 7 * TILE), later(tile, 8 * TILE),
    )  # fmt: skip
    read_maps(rule, at, geometry, unit, scratch, batch, t, steps)
    fill(back.sums_b, steps * states * WIDTH)
    fill(back.sums_c, steps * states * WIDTH)
    for j in range(vectors_of(unit)):
        place, lanes, block = (batch, t, unit.channel + j * WIDTH), lanes_of(unit, j), j * WIDTH * states
        read(tiles.g, at.g, geometry, G, place, steps, lanes)
        prepare(tiles, at, geometry, place, scratch, j, steps, lanes)
        fill(tiles.added, 2 * TILE)
        if gated:
            read(tiles.z, at.z, geometry, Z, place, steps, lanes)
            open_gate(tiles, steps)
        begin_chunk(at, geometry, unit, later(scratch.states, block), number, j, False)
        retreat_tile(rule, tiles, scratch, back, block, steps, states, reverse)
        if number < 0:
            fill(later(back.states, block), WIDTH * states)
        finish_back(tiles, scratch, back, j, steps, softens, gated)
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
    states = load_int(geometry, STATES)
    scratch, (first, stop) = scratch_of(at.carry, states), rows_of_part(geometry, unit.part)
    back, channel = scratch_back_of(scratch, states), unit.part * load_int(geometry, CHANNELS) + unit.channel
    read_parameters(rule, at, geometry, unit, scratch)
    fill(back.a, 3 * GROUP * WIDTH * states)
    fill(back.skip, 2 * GROUP * WIDTH)
    for row in range(first, stop):
        read_states(back.states, states_of(at, geometry, unit, row), states, unit)
        low, high = load_int(at.rows, 3 * row + 1), load_int(at.rows, 3 * row + 2)
        for ago in range(high - low):
            retreat_chunk(rule, at, geometry, unit, scratch, back, load_int(at.rows, 3 * row), high - 1 - ago)
        write_blocks(states_of(at, geometry, unit, row), back.states, states, unit)
    write_blocks(later(at.to_a, channel * states), back.a, states, unit)
    if b_is_constant(rule):
        write_blocks(later(at.to_b, channel * states), back.b, states, unit)
    if c_is_constant(rule):
        write_blocks(later(at.to_c, channel * states), back.c, states, unit)
    copy(later(at.to_skip, channel), back.skip, unit.channels)
    copy(later(at.to_bias, channel), back.bias, unit.channels)


def vjp(rule, at: Backward, geometry, first, every):
    """Take every so many units against time, from the last states' cotangents to the first ones'."""
    for k in range(first, count_units(geometry), every):
        retreat_unit(rule, at, geometry, unit_of(geometry, k))

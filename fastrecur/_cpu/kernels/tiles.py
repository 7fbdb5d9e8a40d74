"""What the kernels of filters have in common: tiles (steps, series of a vector), and coefficients.

A tile is filled from where the samples stand (rows of neighbours, blocks of 8 series by 8 steps, or one by one), and
written where the results belong.
"""

from collections import namedtuple

from ..._plan.fields.tiles import (
    APART,
    BLOCKS,
    BLOCKS_BACK,
    COEFFICIENTS,
    COUNTS,
    FIELDS,
    HEAD,
    N_SECTIONS,
    OWN,
    PADDED,
    ROWS,
    SINGLE,
    STEPS,
    STREAMED,
    WAY,
    WAYS,
    X_STEP,
)
from ..._plan.widths import LINE, OCTET, WIDTH
from ..._steps import sections
from ..._steps.recurrence import constant
from ..compiler.numba_internals import helper, inlined
from ..vectors.scalars import (
    itemsize,
    load,
    load_int,
    maximum,
    minimum,
    misalignment,
    prefetch,
    prefetch_for_write,
    shift,
    store,
    width,
)  # fmt: skip
from ..vectors.transposes import collect_octet, load_octet, stack_lines, store_octet, stream_lines
from ..vectors.vectors import load_half_vector, load_vector, store_vector, stream_vector
from .operands import ONE, ZERO
from .rules import trait

TILE = STEPS * WIDTH
ALL_FIELDS = FIELDS * TILE
MOST = FIELDS * STEPS  # coefficients that vary in time, of all steps that are in a buffer
BLOCK = (4 + OCTET) * OCTET + 5  # numbers that tell what 8 steps at once come to

# An operand of a vector of series: a pointer, where each series begins, bytes from step to step, how it is read.
Operand = namedtuple("Operand", "at offsets step way")
# Coefficients of some steps, of a vector of series: where the first step's are, and bytes to those of the next.
Rows = namedtuple("Rows", "at step")
# Of a vector of series: the coefficients, the signs of the difference form, the states, and the first of the series.
Series = namedtuple("Series", "coefficients signs carry lane")
STREAMED_ROWS, STREAMED_BLOCKS = ROWS + STREAMED, BLOCKS + STREAMED

form, section = inlined(sections.form), inlined(sections.section)
varies, has_own = trait("varying"), trait("own")  # coefficients in time; or from series to series


# ---- Tiles: (steps, series of a vector) -----------------------------------------------------------------------------


@inlined
def operand(pointer, geometry, k, lane, lanes):
    """Return the k-th operand of a vector of series, or of one."""
    padded = load_int(geometry, PADDED)
    offsets = shift(geometry, 8 * (HEAD + k * padded + lane))
    way = SINGLE if lanes == 1 else load_int(geometry, HEAD + (WAYS + k) * padded + lane)
    return Operand(pointer, offsets, load_int(geometry, X_STEP + k), way)


@inlined
def put_rows(tile, k, j, way, rows):
    """Store 8 rows of 8 series, from the k-th on or back from there."""
    row = width(tile) * way
    at = k * width(tile) + j
    store_vector(tile, at, rows[0])
    store_vector(tile, at + row, rows[1])
    store_vector(tile, at + 2 * row, rows[2])
    store_vector(tile, at + 3 * row, rows[3])
    store_vector(tile, at + 4 * row, rows[4])
    store_vector(tile, at + 5 * row, rows[5])
    store_vector(tile, at + 6 * row, rows[6])
    store_vector(tile, at + 7 * row, rows[7])


@helper
def fill_blocks(tile, x, t, steps, ahead):
    """Fill whole blocks of a tile; return how many steps these are."""
    lanes, whole = width(tile), steps // OCTET * OCTET
    for j in range(0, lanes, OCTET):
        offsets = shift(x.offsets, 8 * j)
        for k in range(0, whole, 2 * OCTET):
            for i in range(OCTET):
                prefetch(shift(x.at, load_int(offsets, i) + (t + k + ahead) * x.step), 0, ZERO)
        for k in range(0, whole, OCTET):
            if x.way == BLOCKS:
                put_rows(tile, k, j, ONE, load_octet(shift(x.at, (t + k) * x.step), offsets, tile))
            else:
                last = k + OCTET - 1
                put_rows(tile, last, j, -ONE, load_octet(shift(x.at, (t + last) * x.step), offsets, tile))
    return whole


@helper
def fill(tile, x, t, steps, ahead):
    """Bring some steps of a vector of series to a tile, and those so many ahead to the cache."""
    lanes, done = width(tile), ZERO
    if x.way == ROWS:
        row = shift(x.at, load_int(x.offsets, 0) + t * x.step)
        for k in range(steps):
            prefetch(row, 0, (k + ahead) * x.step)
            store_vector(tile, k * lanes, load_vector(shift(row, k * x.step), 0, tile))
        return
    if x.way != SINGLE:
        done = fill_blocks(tile, x, t, steps, ahead)
    for j in range(lanes):
        series = shift(x.at, load_int(x.offsets, j) + t * x.step)
        for k in range(done, steps):
            store(tile, k * lanes + j, load(shift(series, k * x.step), 0, tile))


@inlined
def rows_of(tile, k, j, way):
    """Return what `put_rows` stores."""
    row = width(tile) * way
    at = k * width(tile) + j
    return (
        load_half_vector(tile, at, tile), load_half_vector(tile, at + row, tile),
        load_half_vector(tile, at + 2 * row, tile), load_half_vector(tile, at + 3 * row, tile),
        load_half_vector(tile, at + 4 * row, tile), load_half_vector(tile, at + 5 * row, tile),
        load_half_vector(tile, at + 6 * row, tile), load_half_vector(tile, at + 7 * row, tile),
    )  # fmt: skip


@helper
def drain_blocks(y, tile, t, steps):
    """Write whole blocks of a tile; return how many steps these are."""
    whole = steps // OCTET * OCTET
    for j in range(0, width(tile), OCTET):
        offsets = shift(y.offsets, 8 * j)
        for k in range(0, whole, OCTET):
            if y.way != BLOCKS_BACK:
                store_octet(shift(y.at, (t + k) * y.step), offsets, rows_of(tile, k, j, ONE))
            else:
                last = k + OCTET - 1
                store_octet(shift(y.at, (t + last) * y.step), offsets, rows_of(tile, last, j, -ONE))
    return whole


@helper
def stream_blocks(y, tile, t):
    """Write a whole tile past the cache, line by line."""
    lines, size = stack_lines(y.at), itemsize(y.at)
    for j in range(0, width(tile), OCTET):
        offsets = shift(y.offsets, 8 * j)
        for k in range(0, STEPS, OCTET):
            place, at = shift(y.at, (t + k) * size), k * size & (LINE - 1)
            collect_octet(lines, at, rows_of(tile, k, j, ONE))
            if at == LINE - OCTET * size:
                stream_lines(lines, shift(place, -at), offsets)


@helper
def begin_lines(y, t, lanes):
    """Return whether a step of all series begins a cache line."""
    rest = ZERO
    for j in range(lanes):
        rest = maximum(rest, misalignment(shift(y.at, load_int(y.offsets, j) + t * y.step)))
    return rest == 0


@helper
def drain(y, tile, t, steps):
    """Write a tile."""
    lanes, done = width(tile), ZERO
    if y.way == STREAMED_ROWS or y.way == ROWS:
        row = shift(y.at, load_int(y.offsets, 0) + t * y.step)
        if y.way == STREAMED_ROWS and misalignment(row) == 0:
            for k in range(steps):
                stream_vector(shift(row, k * y.step), 0, load_vector(tile, k * lanes, tile))
            return
        for k in range(steps):
            prefetch_for_write(row, 0, (k + STEPS) * y.step)
            store_vector(shift(row, k * y.step), 0, load_vector(tile, k * lanes, tile))
        return
    if y.way == STREAMED_BLOCKS and steps == STEPS and begin_lines(y, t, lanes):
        stream_blocks(y, tile, t)
        return
    if y.way != SINGLE:
        done = drain_blocks(y, tile, t, steps)
    for j in range(lanes):
        series = shift(y.at, load_int(y.offsets, j) + t * y.step)
        for k in range(done, steps):
            store(shift(series, k * y.step), 0, load(tile, k * lanes + j, tile))


# ---- Coefficients ---------------------------------------------------------------------------------------------------


@inlined
def coefficient(rule, at, place, padded, lane, tile):
    if has_own(rule):
        return load_vector(at, place * padded + lane, tile)
    return constant(load(at, place, tile), load_vector(tile, 0, tile))


@inlined
def section_of(rule, here, s, padded, tile):
    """Return a section's coefficients, of those that do not vary in time."""
    at, n, lane = here.coefficients.at, s * FIELDS, here.lane
    return sections.Section(
        coefficient(rule, at, n + 0, padded, lane, tile), coefficient(rule, at, n + 1, padded, lane, tile),
        coefficient(rule, at, n + 2, padded, lane, tile), coefficient(rule, at, n + 3, padded, lane, tile),
        coefficient(rule, at, n + 4, padded, lane, tile), coefficient(rule, at, n + 5, padded, lane, tile),
    )  # fmt: skip


@inlined
def together(rule, geometry):
    """Return how many sections' coefficients are brought at once, and of how many steps: of all if there is room."""
    count, own = load_int(geometry, N_SECTIONS), load_int(geometry, OWN)
    if not varies(rule):
        return count, STEPS
    count = count if count * own <= MOST else ONE
    return count, maximum(MOST // (count * own), 1)


@inlined
def rows_in(buffer, geometry, numbers, first, steps):
    """Return what `bring` leaves of so many numbers a step, from the ``first`` on: in the order of memory."""
    size = width(buffer) * itemsize(buffer)
    step = load_int(geometry, WAY) * numbers * size
    return Rows(shift(buffer, first * size - minimum((steps - 1) * step, ZERO)), step)


@inlined
def as_signal(x, lanes, geometry, apart, first, numbers, t, steps):
    """Return an operand whose steps are the coefficients of some steps, and whether these follow each other."""
    scan_way = load_int(geometry, WAY)  # the buffer begins with the last of these steps where it is -1
    begin = minimum(t * scan_way, (t + steps - 1) * scan_way) * scan_way * x.step
    way = BLOCKS if apart == itemsize(x.at) and lanes > 1 else SINGLE
    follow = x.step == scan_way * numbers * apart
    return Operand(shift(x.at, begin + first * apart), x.offsets, apart, way), follow


@helper
def bring(rule, buffer, x, geometry, first, numbers, t, steps, ahead):
    """Bring coefficients that vary in time to a buffer, so many of each step, and those so many steps ahead nearer."""
    if not varies(rule):
        return
    lanes, apart = width(buffer), load_int(geometry, APART)
    signal, follow = as_signal(x, lanes, geometry, apart, first, numbers, t, steps)
    if follow:
        fill(buffer, signal, ZERO, steps * numbers, ahead * x.step // apart)
        return
    rows = rows_in(buffer, geometry, numbers, ZERO, steps)
    for k in range(steps):
        row, to = shift(x.at, (t + k) * x.step + first * apart), shift(rows.at, k * rows.step)
        if x.way == ROWS:
            for n in range(numbers):
                own = load_vector(shift(row, load_int(x.offsets, 0) + n * apart), 0, buffer)
                store_vector(to, n * lanes, own)
        else:
            fill(to, Operand(row, x.offsets, apart, signal.way), ZERO, numbers, ahead * x.step // apart)


@helper
def take_away(rule, x, buffer, geometry, first, numbers, t, steps):
    """Write the gradients of coefficients that `bring` brought, which stand in their place."""
    if not varies(rule):
        return
    apart = itemsize(x.at)
    signal, follow = as_signal(x, width(buffer), geometry, apart, first, numbers, t, steps)
    if follow:
        drain(signal, buffer, ZERO, steps * numbers)
        return
    rows = rows_in(buffer, geometry, numbers, ZERO, steps)
    for k in range(steps):
        row = shift(x.at, (t + k) * x.step + first * apart)
        drain(Operand(row, x.offsets, apart, signal.way), shift(rows.at, k * rows.step), ZERO, numbers)


@inlined
def section_at(rule, rows, k, steady, tile):
    """Return a section's coefficients at a step of some that were brought."""
    if not varies(rule):
        return steady
    row, at = width(tile), shift(rows.at, k * rows.step)
    b0, b1, b2 = load_vector(at, 0, tile), load_vector(at, row, tile), load_vector(at, 2 * row, tile)
    a1, a2 = load_vector(at, 4 * row, tile), load_vector(at, 5 * row, tile)
    return form(b0, b1, b2, a1, a2, steady.sign)


@inlined
def steady_of(rule, here, s, padded, tile):
    """Return what does not vary in time: all of a section, or its sign."""
    if varies(rule):
        sign = load_vector(here.signs, s * padded + here.lane, tile)
        return sections.Section(sign, sign, sign, sign, sign, sign)
    return section_of(rule, here, s, padded, tile)


@inlined
def any_coefficient(rule, here, at, n, place, padded, tile):
    """Return the n-th of the coefficients at a step that were brought to ``at``, else that which is in its place."""
    if varies(rule):
        return load_vector(at, n * width(tile), tile)
    return coefficient(rule, here.coefficients.at, place, padded, here.lane, tile)


@inlined
def counts_at(geometry, lane):
    return shift(geometry, 8 * (HEAD + COUNTS * load_int(geometry, PADDED) + lane))


@helper
def least_of(counts, lanes):
    least = load_int(counts, 0)
    for j in range(1, lanes):
        least = minimum(least, load_int(counts, j))
    return least


@inlined
def series_at(coefficients, signs, carry, geometry, lane, lanes):
    own = operand(coefficients, geometry, COEFFICIENTS, lane, lanes)
    return Series(own, signs, carry, lane)

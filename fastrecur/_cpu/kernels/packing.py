"""Blocks of series by steps: packed, as they stand in memory, into a buffer whose rows are series, and unpacked.

The buffer of a block is a panel. ``geometry`` begins as for rows; then come the sizes of the two inner dimensions of
series, and of each operand the strides in bytes along time and along series, outermost first.
"""

from collections import namedtuple

from ..._plan.layout import HEAD, N_STEPS, REVERSE, STRIDES
from ..._plan.widths import LINE, OCTET, WIDTH
from ..._steps.recurrence import constant
from ..compiler.numba_internals import helper, inlined
from ..vectors import scalars
from ..vectors.scalars import copy_number, itemsize, load, load_int, maximum, minimum, prefetch, shift, store, width
from ..vectors.transposes import copy_transposed8, stack_lines, stream_lines
from ..vectors.types import first, primitive
from ..vectors.vectors import load_vector, store_vector, total
from .operands import ZERO, valid_range

MANY_SERIES, FEW_STEPS = 256, 8  # of a block (of complex numbers half as much): seven panels fit a stack of 192 KiB;
FEW_SERIES, MANY_STEPS = 32, 64  # or, where steps of an operand are nearer than series, or few series follow
PADDING = 16  # numbers between a panel's rows: those of a power of two would have one set of the cache
PANEL = max((MANY_SERIES + PADDING) * FEW_STEPS, (FEW_SERIES + PADDING) * MANY_STEPS)
EPOCH = 1 << 20  # steps from which valid steps are counted anew: exact in float32


# An operand or result as `geometry` describes it; where a block's first number stands, and bytes along time and series.
Operand = namedtuple("Operand", "at strides")
View = namedtuple("View", "at step apart")
# Some series and some steps of them. Of series: the first, how many, numbers from one of its steps in a panel to the
# next, whether all stand as far apart as the first two, and fill vectors. Of steps: the first, how many, the one from
# which valid steps are counted, how many there are to the next block's, if that is prefetched, else 0.
Block = namedtuple("Block", "first count pitch is_run t steps epoch ahead")


@inlined
def strides_of(geometry, operand):
    """Return where an operand's strides begin, given its number."""
    return shift(geometry, 8 * (STRIDES + 4 * operand))


@inlined
def operand_of(pointer, geometry, operand):
    return Operand(pointer, strides_of(geometry, operand))


@helper
def lane_offset(geometry, strides, series):
    """Return how many bytes a series stands from the first one."""
    middle, inner = load_int(geometry, HEAD), load_int(geometry, HEAD + 1)
    rest = series // inner
    return (
        load_int(strides, 1) * (rest // middle)
        + load_int(strides, 2) * (rest % middle)
        + load_int(strides, 3) * (series % inner)
    )


@inlined
def view_of(operand, geometry, first, t):
    """Return an operand from a series and a step on."""
    time = load_int(operand.strides, 0)
    place = shift(operand.at, lane_offset(geometry, operand.strides, first) + t * time)
    return View(place, time, load_int(operand.strides, 3))


@inlined
def round_up(count, carry):
    """Return how many lanes the vectors have that so many series fill."""
    return -(-count // width(carry)) * width(carry)


@inlined
def is_along(operand):
    """Return whether an operand's steps stand nearer than its series do."""
    return 0 < abs(load_int(operand.strides, 0)) < abs(load_int(operand.strides, 3))


def _room(emitter, *_):
    pointer, carry = emitter.kinds
    return scalars.stack_bytes(emitter.builder, pointer.size * PANEL * carry.vector.count // WIDTH)


@primitive(first, _room)
def panel(pointer, carry):
    """Return a buffer for a block of what stands behind a pointer: of complex numbers, for half of one."""
    return scalars.stack(pointer, PANEL * width(carry) // WIDTH)


@helper
def shape_of(geometry, along, carry):
    """Return how many series and steps a block has at most; ``along`` says if `is_along` holds of some operand."""
    if load_int(geometry, HEAD + 1) <= FEW_SERIES or (along and load_int(geometry, N_STEPS) > FEW_STEPS):
        return FEW_SERIES, MANY_STEPS * width(carry) // WIDTH
    return MANY_SERIES * width(carry) // WIDTH, FEW_STEPS


@helper
def next_block(geometry, first, last, most, carry):
    """Return the block of at most so many series that begins with the ``first`` one, without steps.

    Its series fill vectors, or else less than one.
    """
    inner, lanes, count = load_int(geometry, HEAD + 1), width(carry), minimum(most, last - first)
    if inner >= lanes:
        count = minimum(count, inner - first % inner)
    if count >= lanes:
        count -= count % lanes
    is_run, pitch = inner >= lanes and count >= lanes, round_up(count, carry) + PADDING
    return Block(first, count, pitch, is_run, ZERO, ZERO, ZERO, ZERO)


@inlined
def with_steps(block, t, steps, ahead):
    return Block(block.first, block.count, block.pitch, block.is_run, t, steps, t // EPOCH * EPOCH, ahead)


@helper
def copy_transposed(to, source, count, steps, ahead):
    """Copy 8 series by 8 steps at a time, whose steps are neighbours on one side; return how many series are done."""
    size = itemsize(to.at)
    packs, unpacks = abs(source.step) == size, abs(to.step) == size
    if size > 8 or steps < OCTET or not (packs or unpacks):
        return 0
    down = source.step < 0 or to.step < 0  # through memory: the last step stands first
    for j in range(0, count - count % OCTET, OCTET):
        for k in range(0, steps, OCTET):
            t = minimum(k, steps - OCTET) + (OCTET - 1 if down else 0)
            here = shift(source.at, j * source.apart + t * source.step)
            there = shift(to.at, j * to.apart + t * to.step)
            if ahead != 0:
                for i in range(OCTET):
                    prefetch(here, 0, i * source.apart + ahead * source.step)
            if packs:
                copy_transposed8(there, -to.step if down else to.step, here, source.apart)
            else:
                copy_transposed8(there, to.apart, here, -source.step if down else source.step)
    return count - count % OCTET


@helper
def stream_transposed(to, source, count, steps):
    """Write 8 series at a time with non-temporal stores, if they are whole lines; return how many series are done."""
    size = itemsize(to.at)
    if to.step != size or size > 8 or scalars.misalignment(to.at) or to.apart % LINE or steps * size % LINE:
        return 0
    lines, places = stack_lines(to.at), scalars.stack_ints(OCTET)
    for j in range(OCTET):
        store(places, j, j * to.apart)
    for j in range(0, count - count % OCTET, OCTET):
        for k in range(0, steps, LINE // size):
            for n in range(0, LINE // size, OCTET):
                here = shift(source.at, j * source.apart + (k + n) * source.step)
                copy_transposed8(shift(lines, n * size), LINE, here, source.step)
            stream_lines(lines, shift(to.at, j * to.apart + k * to.step), places)
    return count - count % OCTET


@helper
def copy(to, source, count, steps, ahead):
    """Copy so many series and steps, in the order of memory."""
    if abs(source.step) < abs(source.apart) or abs(to.step) < abs(to.apart):
        done = copy_transposed(to, source, count, steps, ahead)
        for j in range(done, count):
            here, there = shift(source.at, j * source.apart), shift(to.at, j * to.apart)
            for k in range(steps):
                copy_number(shift(there, k * to.step), 0, shift(here, k * source.step), 0)
        return
    for k in range(steps):
        here, there = shift(source.at, k * source.step), shift(to.at, k * to.step)
        if ahead != 0:
            for j in range(0, count, WIDTH):
                prefetch(here, 0, j * source.apart + ahead * source.step)
        for j in range(count):
            copy_number(shift(there, j * to.apart), 0, shift(here, j * source.apart), 0)


@inlined
def run_end(geometry, first, last):
    """Return up to which series all stand as far apart as the first two."""
    inner = load_int(geometry, HEAD + 1)
    return minimum(last, first + inner - first % inner)


@inlined
def column(view, j):
    return View(shift(view.at, j * view.apart), view.step, view.apart)


@inlined
def is_in_place(operand, block):
    """Return whether a block is walked where it stands: series that are neighbours, and fill vectors."""
    return block.is_run and load_int(operand.strides, 3) == itemsize(operand.at)


@inlined
def panel_view(panel, block):
    return View(panel, block.pitch * itemsize(panel), itemsize(panel))


@helper
def view_in(panel, operand, geometry, block):
    """Return where a block is walked: where it stands, or in a panel, which has one row if all steps are the same."""
    if is_in_place(operand, block):
        return view_of(operand, geometry, block.first, block.t)
    view = panel_view(panel, block)
    return View(panel, view.step if load_int(operand.strides, 0) != 0 else 0, view.apart)


@helper
def pack(panel, operand, geometry, block):
    """Return where a block is walked; bring it there unless it stands there."""
    view = view_in(panel, operand, geometry, block)
    if not is_in_place(operand, block):
        first, last, steps = block.first, block.first + block.count, block.steps if view.step != 0 else 1
        while first < last:
            end = run_end(geometry, first, last)
            source = view_of(operand, geometry, first, block.t)
            copy(column(view, first - block.first), source, end - first, steps, block.ahead)
            first = end
    return view


@helper
def unpack(operand, view, geometry, block, streams):
    """Write a block where it belongs, unless it was walked there."""
    if not is_in_place(operand, block):
        first, last = block.first, block.first + block.count
        while first < last:
            end = run_end(geometry, first, last)
            target = view_of(operand, geometry, first, block.t)
            own = column(view, first - block.first)
            done = stream_transposed(target, own, end - first, block.steps) if streams else 0
            copy(column(target, done), column(own, done), end - first - done, block.steps, ZERO)
            first = end


@helper
def pad(panel, operand, geometry, block, steps):
    """Fill a vector that a block's series leave open with some number: what stands there may be slow to take."""
    source = view_of(operand, geometry, block.first, ZERO).at
    for k in range(steps):
        for j in range(block.count, block.pitch - PADDING):
            copy_number(shift(panel, k * block.pitch * itemsize(panel)), j, source, 0)


@helper
def add(sums, view, geometry, block):
    """Add a block of a gradient, in a panel, to the sums of an operand that was broadcast."""
    steps, first, last, pointer = block.steps, block.first, block.first + block.count, sums.at
    if load_int(sums.strides, 0) == 0:  # over the steps first, so that sums are touched once a block
        for j in range(0, block.count, width(pointer)):
            so_far = load_vector(view.at, j, pointer)
            for k in range(1, steps):
                so_far = so_far + load_vector(shift(view.at, k * view.step), j, pointer)
            store_vector(view.at, j, so_far)
        steps = 1
    while first < last:
        end = run_end(geometry, first, last)
        add_run(view_of(sums, geometry, first, block.t), column(view, first - block.first), end - first, steps)
        first = end


@helper
def add_run(sums, panel, count, steps):
    """Add so many series and steps of a panel to where sums stand."""
    to, lanes = sums.at, width(sums.at)
    whole = count - count % lanes if sums.apart == 0 else 0
    for k in range(steps):
        row, there = shift(panel.at, k * panel.step), shift(to, k * sums.step)
        for j in range(0, whole, lanes):
            store(there, 0, load(there, 0, to) + total(load_vector(row, j, to)))
        for j in range(whole, count):
            place = shift(there, j * sums.apart)
            store(place, 0, load(place, 0, to) + load(row, j, to))


@helper
def load_states(states, carry, first, count, room):
    """Take ``count`` series' states from all series'; the last one is repeated to fill the room."""
    for j in range(room):
        store(states, j, load(carry, first + minimum(j, count - 1), states))


@helper
def store_states(carry, states, first, count):
    for j in range(count):
        store(carry, first + j, load(states, j, states))


@helper
def load_valid(begins, ends, lengths, geometry, block):
    """Take from and up to which step each series is valid, in the carry type, counted from the block's epoch.

    Return from and up to which step all series are.
    """
    steps, reverse, like = load_int(geometry, N_STEPS), load_int(geometry, REVERSE), load(begins, 0, begins)
    strides = lengths.strides
    varies = load_int(strides, 1) != 0 or load_int(strides, 2) != 0 or load_int(strides, 3) != 0
    latest, earliest = 0, steps
    for j in range(round_up(block.count, begins)):
        series = block.first + minimum(j, block.count - 1)
        place = lane_offset(geometry, strides, series) if varies else 0
        start, stop = valid_range(shift(lengths.at, place), steps, reverse)
        store(begins, j, constant(float(maximum(-1, minimum(start - block.epoch, 2 * EPOCH))), like))
        store(ends, j, constant(float(maximum(-1, minimum(stop - block.epoch, 2 * EPOCH))), like))
        latest, earliest = maximum(latest, start), minimum(earliest, stop)
    return latest, earliest

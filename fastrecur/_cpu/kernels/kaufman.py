"""The kernel of Kaufman's gates: how straight the way through a window was, for every window of so many steps.

A window's length is twice that of two others, or one step more. So it is made of few sums, of which none is taken away
again: a running sum would keep what has left it, as the rounding of a large number.
"""

from collections import namedtuple

import numpy as np

from ..._plan.widths import WIDTH
from ..._steps.recurrence import constant, magnitude, select
from ..compiler.numba_internals import helper, inlined
from ..vectors.scalars import itemsize, load, minimum, shift, store
from ..vectors.vectors import broadcast, load_vector, store_vector

# Which arrays of steps and neighboring series there are, and which of their steps; the length of a window; how many
# series there are, how many are taken side by side, and by how many steps; bytes between arrays and steps; and elements
# that a buffer has. A gate's first step is the first that has a whole window before it.
Walk = namedtuple("Walk", "low high first last period lanes row steps x_outer x_step to_outer to_step room")


def plain(x, gates, period, slow, rise):
    """Compute what `walk` does, of arrays (steps, series); the first gate has a whole window before it."""
    for k, j in np.ndindex(gates.shape):
        window = x[k : k + period + 1, j]
        path = sum(abs(window[n + 1] - window[n]) for n in range(period))
        straight = min(abs(window[-1] - window[0]) / path, 1.0) if path else 1.0
        gates[k, j] = (straight * rise + slow) ** 2


@inlined
def gate_of(moved, path, slow, rise):
    """Return the gate of a window: where nothing moved it is straight, and rounding makes none more than that."""
    zero, one = constant(0.0, path), constant(1.0, path)
    straight = select(path == zero, one, magnitude(moved) / path)
    gate = select(one < straight, one, straight) * rise + slow
    return gate * gate


@helper
def fill(strides, x, before, count):
    """Write how far each of neighboring elements is from that of the step ``before`` it."""
    whole = count // WIDTH * WIDTH
    for k in range(0, whole, WIDTH):
        store_vector(strides, k, magnitude(load_vector(x, k, strides) - load_vector(before, k, strides)))
    for k in range(whole, count):
        store(strides, k, magnitude(load(x, k, strides) - load(before, k, strides)))


@inlined
def joined(load, sums, strides, k, back, is_odd):
    both = load(sums, k, strides) + load(sums, k - back, strides)
    return both + load(strides, k - 2 * back, strides) if is_odd else both


@helper
def lengthen(to, sums, strides, first, end, back, is_odd):
    """Write sums of windows twice as long as others, which may stand there, or one stride longer; the last first."""
    whole = end - (end - first) // WIDTH * WIDTH
    for k in range(end - WIDTH, whole - 1, -WIDTH):
        store_vector(to, k, joined(load_vector, sums, strides, k, back, is_odd))
    for k in range(whole - 1, first - 1, -1):
        store(to, k, joined(load, sums, strides, k, back, is_odd))


@helper
def write_gates(to, x, before, paths, bounds, count):
    """Write gates of neighboring elements; ``bounds`` are that of no way at all, and how much a straight one adds."""
    whole = count // WIDTH * WIDTH
    slow, rise = load(bounds, 0, bounds), load(bounds, 1, bounds)
    slows, rises = broadcast(slow), broadcast(rise)
    for k in range(0, whole, WIDTH):
        moved = load_vector(x, k, paths) - load_vector(before, k, paths)
        store_vector(to, k, gate_of(moved, load_vector(paths, k, paths), slows, rises))
    for k in range(whole, count):
        moved = load(x, k, paths) - load(before, k, paths)
        store(to, k, gate_of(moved, load(paths, k, paths), slow, rise))


@helper
def write_block(to, x, bounds, strides, sums, row, steps, how):
    """Write the gates of some steps of so many series."""
    # Where all series are taken, steps follow each other in memory: they are one long row.
    rows, width = (1, row * steps) if row == how.lanes else (steps, row)
    early = (how.period - 1) * row
    rows_before, longer = (0, early + width) if row == how.lanes else (how.period - 1, width)
    first = shift(x, (1 - how.period) * how.x_step)
    for t in range(rows_before + rows):
        now = shift(first, t * how.x_step)
        fill(shift(strides, t * row * itemsize(strides)), now, shift(now, -how.x_step), longer)
    end, length, bit = early + row * steps, 1, 1
    while 2 * bit <= how.period:
        bit *= 2
    paths = strides
    while bit > 1:
        bit //= 2
        is_odd = how.period // bit % 2
        longer = 2 * length + is_odd
        lengthen(sums, paths, strides, (longer - 1) * row, end, length * row, is_odd != 0)
        paths, length = sums, longer
    paths = shift(paths, early * itemsize(paths))
    for t in range(rows):
        now = shift(x, t * how.x_step)
        own = shift(paths, t * row * itemsize(paths))
        write_gates(shift(to, t * how.to_step), now, shift(now, -how.period * how.x_step), own, bounds, width)


def walk(rule, x, gates, carry, how: Walk):
    """Write gates; ``carry`` holds two numbers, see `write_gates`, and behind them two buffers."""
    strides = shift(carry, WIDTH * itemsize(carry))
    sums = shift(strides, how.room * itemsize(carry))
    for outer in range(how.low, how.high):
        for lane in range(0, how.lanes, how.row):
            row = minimum(how.row, how.lanes - lane)
            for t in range(how.first, how.last, how.steps):
                steps = minimum(how.steps, how.last - t)
                now = shift(x, outer * how.x_outer + t * how.x_step + lane * itemsize(x))
                to = outer * how.to_outer + (t - how.period) * how.to_step + lane * itemsize(gates)
                write_block(shift(gates, to), now, carry, strides, sums, row, steps, how)

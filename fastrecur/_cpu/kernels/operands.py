"""Operands of kernels for rows: where they stand, where a later part of them does, and which steps are valid.

``geometry`` has each operand's strides in bytes along time, rows of a step, and ``outer``, in scan order.
"""

from collections import namedtuple

import numpy as np

from ..._plan import layout
from ..._plan.layout import HEAD
from ..._steps.recurrence import constant
from ..compiler.numba_internals import INLINE, helper, inlined
from ..vectors.scalars import itemsize, load, load_int, maximum, minimum, shift, store
from .rules import choice

# Of a type: Numba compiles a function anew for each plain number that it is called with.
ZERO, ONE, TWO, THREE, FOUR = np.arange(5, dtype=np.int64)
NO, YES = np.arange(2, dtype=bool)

Head = namedtuple("Head", "steps reverse streaming a_mode b_mode prefetch sum_steps sum_bytes first state_bytes")
Operand = namedtuple("Operand", "at step row outer")  # a pointer, and strides
Inputs = namedtuple("Inputs", "g a b h first")  # of a gradient; ``first`` are the states before all steps
# Where a gradient is stored, where it is summed, its output mode, and whether it goes by non-temporal stores.
Gradient = namedtuple("Gradient", "to sums mode streaming")
Distance = namedtuple("Distance", "steps rows bytes")  # to what is prefetched
# Of a chunk of time: which segment it is, its first step there and the one behind its last, and whether it begins and
# ends there.
Segment = namedtuple("Segment", "number first stop begins ends")


@inlined
def read_head(geometry):
    return Head(
        load_int(geometry, layout.N_STEPS),
        load_int(geometry, layout.REVERSE),
        load_int(geometry, layout.STREAMING) != 0,
        load_int(geometry, layout.A_MODE),
        load_int(geometry, layout.B_MODE),
        load_int(geometry, layout.PREFETCH),
        load_int(geometry, layout.SUM_STEPS),
        load_int(geometry, layout.SUM_BYTES),
        load_int(geometry, layout.FIRST_STEP),
        load_int(geometry, layout.STATE_BYTES),
    )


@inlined
def operand(pointer, geometry, k):
    at = HEAD + 3 * k
    return Operand(pointer, load_int(geometry, at), load_int(geometry, at + 1), load_int(geometry, at + 2))


@inlined
def at_place(x, t, row, outer, lane):
    """Return where an operand has a series' step."""
    return shift(x.at, t * x.step + row * x.row + outer * x.outer + lane * itemsize(x.at))


@inlined
def find(x, t, row, outer, lane):
    """Return an operand from there on."""
    return Operand(at_place(x, t, row, outer, lane), x.step, x.row, x.outer)


@inlined
def later(x, n):
    return Operand(shift(x.at, n * x.step), x.step, x.row, x.outer)


@inlined
def inputs_later(x, n):
    return Inputs(later(x.g, n), later(x.a, n), later(x.b, n), later(x.h, n), x.first)


@inlined
def gradient_later(x, n):
    return Gradient(later(x.to, n), later(x.sums, n), x.mode, x.streaming)


@inlined
def bytes_of(x, far):
    return far.steps * x.step + far.rows * x.row + far.bytes


@helper
def segment_of(offsets, n, t):
    """Return the segment that has step t; the search begins with the n-th."""
    while load_int(offsets, n + 1) <= t:
        n += 1
    while load_int(offsets, n) > t:
        n -= 1
    return n


@inlined
def _segment_at(rule, offsets, n, geometry, t):
    before, steps = load_int(geometry, layout.FIRST_STEP), load_int(geometry, layout.N_STEPS)
    n = segment_of(offsets, n, before + t)
    first, stop = load_int(offsets, n) - before, load_int(offsets, n + 1) - before
    return Segment(n, maximum(first, 0), minimum(stop, steps), first >= 0, stop <= steps)


# The one that has step t of a chunk.
segment_at = choice(
    "offsets",
    _segment_at,
    lambda rule, offsets, n, geometry, t: Segment(ZERO, ZERO, load_int(geometry, layout.N_STEPS), NO, NO),
    options=INLINE,
)


@inlined
def states_of(states, geometry, n):
    """Return where the n-th segment's states are."""
    return shift(states, n * load_int(geometry, layout.SEGMENT_BYTES))


@inlined
def takes_states(geometry):
    """Return whether the cotangents of segments' first states are wanted."""
    return load_int(geometry, layout.SEGMENT_BYTES) != 0


@helper
def copy_states(to, source, n):
    for j in range(n):
        store(to, j, load(source, j, to))


@helper
def valid_range(lengths, steps, reverse):
    """Return the first valid step of a series, and the one behind its last."""
    length = load_int(lengths, 0)
    start = steps - length if reverse else 0
    return start, start + length


@inlined
def valid_part(lengths, row, outer, head, t, end):
    """Return the same among steps t to ``end``, and whether (1 or 0) the first of all is one of them."""
    ends = at_place(lengths, ZERO, row, outer, ZERO)
    first, stop = valid_range(ends, head.steps, head.reverse)
    start, stop = minimum(maximum(first, t), end), minimum(maximum(stop, t), end)
    return start, stop, ONE if start == first and start < stop else ZERO


@helper
def write_zeros(target, carry, n):
    """Write n zeros; ``carry`` has the type that is converted."""
    zero = constant(0.0, load(carry, 0, carry))
    for j in range(n):
        store(target, j, zero)


@helper
def clear_steps(x, carry, lanes, first, last):
    """Write zeros to a row of some steps."""
    for t in range(first, last):
        write_zeros(later(x, t).at, carry, lanes)


@inlined
def clear_beside(x, carry, lanes, t, start, stop, end):
    """Write zeros to a row of steps from t to ``end`` that are not from ``start`` to ``stop``."""
    clear_steps(x, carry, lanes, t, start)
    clear_steps(x, carry, lanes, stop, end)

"""Operands of kernels for rows: where they stand, where a later part of them does, and which steps are valid.

``geometry`` has each operand's strides in bytes along time, rows of a step, and ``outer``, in scan order.
"""

from collections import namedtuple

import numpy as np

from .._layout import ACCUMULATE, HEAD, N_STEPS, REDUCE, REVERSE, STORE
from .._steps import constant
from ._memory import itemsize, load, load_int, maximum, minimum, misalignment, shift, store, width
from ._target import helper, inlined

LINE = 64  # bytes of a cache line
# Of a type: Numba compiles a function anew for each plain number that it is called with.
ZERO, ONE, TWO, THREE, FOUR = np.arange(5, dtype=np.int64)
NO, YES = np.arange(2, dtype=bool)

Operand = namedtuple("Operand", "at step row outer")  # a pointer, and strides
Inputs = namedtuple("Inputs", "g a b h first")  # of a gradient; ``first`` are the states before all steps
# Where a gradient is stored, where it is summed, its output mode, and whether it goes by non-temporal stores.
Gradient = namedtuple("Gradient", "to sums mode streaming")
Distance = namedtuple("Distance", "steps rows bytes")  # to what is prefetched


@inlined
def operand(pointer, geometry, k):
    """Return the k-th operand."""
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
    """Return an operand n steps later."""
    return Operand(shift(x.at, n * x.step), x.step, x.row, x.outer)


@inlined
def inputs_later(x, n):
    """Return a gradient's operands n steps later."""
    return Inputs(later(x.g, n), later(x.a, n), later(x.b, n), later(x.h, n), x.first)


@inlined
def gradient_later(x, n):
    """Return a gradient n steps later."""
    return Gradient(later(x.to, n), later(x.sums, n), x.mode, x.streaming)


@inlined
def with_mode(x, mode, streaming):
    """Return a gradient with a mode that the compiler knows."""
    return Gradient(x.to, x.sums, mode, streaming)


@inlined
def bytes_of(x, far):
    """Return a distance in bytes."""
    return far.steps * x.step + far.rows * x.row + far.bytes


@helper
def place(pointer, geometry, k, t, row, outer, lane):
    """Return where the k-th operand has a series' step."""
    return at_place(operand(pointer, geometry, k), t, row, outer, lane)


@helper
def valid_range(lengths, steps, reverse):
    """Return the first valid step of a series, and the one behind its last."""
    length = load_int(lengths, 0)
    start = steps - length if reverse else 0
    return start, start + length


@inlined
def valid_part(lengths, row, outer, geometry, t, end):
    """Return the same among steps t to ``end``, and whether (1 or 0) the first of all is one of them."""
    ends = at_place(lengths, ZERO, row, outer, ZERO)
    first, stop = valid_range(ends, load_int(geometry, N_STEPS), load_int(geometry, REVERSE))
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
def lanes_to_line(target, n):
    """Return how many of n elements stand before the next cache line starts."""
    return minimum(n, ((LINE - misalignment(target)) % LINE) // itemsize(target))


@inlined
def whole_vectors(target, carry, n, streaming):
    """Return how many vectors there are in n elements; by non-temporal stores, only such as fill their lines."""
    count = n // width(carry)
    if streaming:
        count -= count % maximum(1, LINE // (width(carry) * itemsize(target)))
    return count


@inlined
def end_lane(k, head, tail):
    """Return the k-th of the series before ``head`` and from ``tail`` on, which are taken one by one."""
    return k if k < head else tail + k - head


@helper
def settle_lane(target, sums, j, value, mode):
    """Store one series' number or add it to a sum."""
    if mode == STORE:
        store(target, j, value)
    elif mode == ACCUMULATE:
        store(sums, j, load(sums, j, sums) + value)
    elif mode == REDUCE:
        store(sums, 0, load(sums, 0, sums) + value)

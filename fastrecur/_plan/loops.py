"""What stands in memory, and the loops over it: time, and dimensions of series that are merged where they can be."""

import itertools
import math
from typing import NamedTuple

import numpy as np

from .._arguments.arrays import element
from .._arguments.shapes import c_strides, spread
from .layout import FLAGS, LENGTHS, OPERANDS, SUMS_A, SUMS_B, TO_A, TO_B, A, B, G, H

NAMES = {A: "a", B: "b", H: "h", G: "g", TO_A: "to_a", TO_B: "to_b"}  # of kernels' parameters


class Operands:
    """What stands in memory, by number of operand: element, itemsize, and strides in the result's axes.

    ``word`` counts the bytes that a step of a series moves.
    """

    def __init__(self, shape, wide, axis, lengths, flags=None):
        self.shape, self.wide, self.word = shape, wide, 0
        self.elements, self.itemsizes, self.strides = {}, [0] * OPERANDS, [None] * OPERANDS
        if lengths is not None:  # contiguous int64, of leading axes of the series
            own = spread(lengths, c_strides(lengths, 8), lengths) + (0,) * (len(shape) - 1 - len(lengths))
            self.strides[LENGTHS] = (*own[:axis], 0, *own[axis:])
        if flags:
            self.strides[FLAGS] = spread(*flags, shape)

    def read(self, k, signature):
        """Note an operand, a Python number in the carry's dtype; return its own shape and strides."""
        dtype, *own = signature if type(signature) is tuple else (self.wide, (), ())
        self.put(k, dtype, spread(*own, self.shape))
        return own

    def put(self, k, dtype, strides):
        """Note what has these strides."""
        self.elements[NAMES[k]], self.itemsizes[k], self.strides[k] = element(dtype), dtype.itemsize, strides
        self.word += dtype.itemsize if any(strides) else 0

    def leave(self, k):
        """Have a kernel given the cotangents instead of an operand that it does not read."""
        self.word -= self.itemsizes[k] if any(self.strides[k]) else 0
        self.elements[NAMES[k]] = self.elements[NAMES[G]]
        self.itemsizes[k], self.strides[k] = self.itemsizes[G], self.strides[G]

    @property
    def full(self):
        """Those that stand in memory."""
        return [k for k in (A, B, H, G, TO_A, TO_B) if self.itemsizes[k]]


def merge(dims):
    """Merge neighbouring lane dimensions ``(size, strides)`` that every operand walks as one."""
    merged = []
    for size, strides in dims:
        if merged and all(outer == stride * size for outer, stride in zip(merged[-1][1], strides, strict=True)):
            merged[-1] = (merged[-1][0] * size, strides)
        else:
            merged.append((size, strides))
    return merged


def in_memory_order(operands, axis):
    """Return the axes of series, outermost in memory first, and strides of states that are contiguous in that order."""
    shape, strides = operands.shape, operands.strides
    guide = next(strides[k] for k in (TO_B, TO_A, H, B) if strides[k] is not None)
    axes = [k for k in range(len(shape)) if k != axis and shape[k] != 1]
    order = tuple(sorted(axes, key=lambda k: (-abs(guide[k]), k)))
    states, reach = [0] * len(shape), operands.wide.itemsize
    for k in reversed(order):
        states[k] = reach
        reach *= shape[k]
    return order, tuple(states)


class Loops(NamedTuple):
    """Time and merged dimensions of series, each ``(size, strides of all operands)``, outermost first."""

    steps: int
    time: tuple  # strides in scan order
    offsets: tuple  # bytes from each operand's first element to the first in scan order
    dims: list
    inner: int  # series that follow each other,
    inner_strides: tuple  # and how far apart they stand
    inside: list  # dimensions that stand nearer than time in memory,
    outside: list  # and others, the longest first

    @property
    def lanes(self):
        return math.prod(size for size, _ in self.dims)


def find_loops(operands, axis, reverse, order):
    """Return the loops over operands."""
    shape, steps = operands.shape, operands.shape[axis]
    strides = [(0,) * len(shape) if s is None else s for s in operands.strides]
    time = [s[axis] if steps > 1 else 0 for s in strides]
    dims = merge([(shape[k], tuple(s[k] for s in strides)) for k in order])
    alone = [operands.itemsizes[k] if k in operands.full else 0 for k in range(OPERANDS)]
    if operands.wide.kind == "c":  # one complex series is a row: real ones are not
        alone[SUMS_A] = alone[SUMS_B] = operands.wide.itemsize
    inner, inner_strides = dims[-1] if dims else (1, tuple(alone))
    nearest = abs(strides[TO_B][axis] or strides[TO_A][axis] or strides[H][axis])
    inside = [d for d in dims if steps == 1 or abs(d[1][TO_B] or d[1][TO_A] or d[1][H]) < nearest]
    outside = sorted(dims[: len(dims) - len(inside)], key=lambda d: -d[0])
    offsets = tuple((steps - 1) * t if reverse else 0 for t in time)
    time = tuple(-t if reverse else t for t in time)
    return Loops(steps, time, offsets, dims, inner, tuple(inner_strides), inside, outside)


ONCE = 1, (0,) * OPERANDS  # a dimension of one


def row_loops(loops):
    """Return the three loops over rows beside time: outer, rows of a step, a row; and others, which are repeated."""
    outer, *beyond = loops.outside or [ONCE]
    middle = loops.inside[-2] if len(loops.inside) == 2 else ONCE
    strides = zip(loops.time, middle[1], outer[1], strict=True)
    return (outer[0], middle[0], loops.inner), list(itertools.chain.from_iterable(strides)), beyond


def lane_loops(loops):
    """Return the three loops over series that are taken one by one; and others, which are repeated."""
    padded = [ONCE] * (3 - len(loops.dims)) + loops.dims
    beyond, (outer, middle, last) = padded[:-3], padded[-3:]
    strides = zip(loops.time, outer[1], middle[1], last[1], strict=True)
    sizes = outer[0], middle[0], last[0]
    return sizes, [middle[0], last[0], *itertools.chain.from_iterable(strides)], beyond


def starts(sizes, strides):
    """Return where series begin, in bytes, given their dimensions, outermost first."""
    offsets = np.zeros(1, np.int64)
    for size, stride in zip(sizes, strides, strict=True):
        offsets = np.add.outer(offsets, np.arange(size) * stride).reshape(-1)
    return offsets


class Series:
    """The series along an axis of an array, in the order of memory: where they begin, and states of them."""

    def __init__(self, shape, strides, axis):
        self.order = sorted((k for k in range(len(shape)) if k != axis), key=lambda k: (-abs(strides[k]), k))
        self.shape, self.sizes = (*shape[:axis], *shape[axis + 1 :]), [shape[k] for k in self.order]
        self.count, axes = math.prod(self.shape), [k - (k > axis) for k in self.order]
        back = [axes.index(k) for k in range(len(axes))]
        # Of states with so many axes in front.
        self._ahead = [(*range(lead), *(lead + k for k in axes)) for lead in range(3)]
        self._back = [(*range(lead), *(lead + k for k in back)) for lead in range(3)]

    def starts(self, strides):
        """Return where series begin, in bytes, of an operand with such strides."""
        return starts(self.sizes, [strides[k] for k in self.order])

    def lanes(self, array):
        """Return (leading, *series), or what broadcasts to that, with the series in one axis."""
        lead = array.ndim - len(self.shape)
        if array.shape[lead:] != self.shape:
            array = np.broadcast_to(array, (*array.shape[:lead], *self.shape))
        return array.transpose(self._ahead[lead]).reshape(*array.shape[:lead], -1)

    def back(self, lanes):
        """Return what `lanes` makes, (leading, lanes), as (leading, *series)."""
        lead = lanes.shape[:-1]
        return lanes.reshape((*lead, *self.sizes)).transpose(self._back[len(lead)])


def repetitions(beyond):
    """Return each operand's offsets, for every time that the whole walk is repeated."""
    return tuple(
        tuple(sum(i * d[1][k] for i, d in zip(index, beyond, strict=True)) for k in range(OPERANDS))
        for index in itertools.product(*(range(d[0]) for d in beyond))
    )

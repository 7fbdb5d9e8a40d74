"""Runs of the kernels of filters: where series stand in memory, and how they are shared out among threads."""

import functools
import math

import numpy as np

from .._arguments.arrays import address, element
from .._plan.fields.tiles import BLOCKS, BLOCKS_BACK, HEAD, OPERANDS, ROWS, SINGLE, STEPS, STREAMED, TABLES, Y
from .._plan.loops import starts
from .._plan.widths import OCTET, WIDTH
from . import cost
from .compiler.compile import kernel
from .machine import allocate, threads as _threads
from .machine.memory_pool import LINE

SERIAL = 1 << 14  # samples, times sections, up to which one thread does it all
FEW_SERIES = 1  # that are taken one after the other, 8 steps at once
ALL_AT_ONCE = 1 << 62  # of a chunk of steps: series that are no rows go to their ends one after the other
ROWS_AT_ONCE = 2 * STEPS
_WIDE = np.dtype(np.float64)


class _Places:
    """Series in the order of memory, and what a geometry holds: all that depends on shapes and strides alone."""

    def __init__(self, forms, axis, reverse, chunks, window, counts):
        """Take each operand's shape, strides and itemsize: of x, y, g and coefficients, or None for what is none.

        ``counts`` are the series' steps.

        With a ``window``, series are so many steps before each chunk (the first one's are not used), and what comes of
        these goes to a row, of elements of so many bytes.
        """
        shape, strides, _ = forms[0]
        self.axes = sorted((k for k in range(len(shape)) if k != axis), key=lambda k: (-abs(strides[k]), k))
        steps, sizes = shape[axis], [shape[k] for k in self.axes]
        series = math.prod(sizes)
        counts = np.full(series, steps) if counts is None else counts
        first = np.zeros((series, chunks), np.int64)
        own = np.repeat(counts, chunks).reshape(series, chunks)
        if chunks > 1:
            length = steps // chunks
            first += np.arange(chunks) * length
            own[:] = length
            own[:, -1] = steps - (chunks - 1) * length
        if window:
            first, own[:] = np.maximum(first - window[0], 0), window[0]
        self.tables, self.steps, self.way = [], [], -1 if reverse else 1
        nothing = shape, (0,) * len(shape), 0
        self.forms = [form or nothing for form in (*forms, *[None] * (OPERANDS - len(forms)))]
        for _, apart, _ in self.forms:
            time = apart[axis]
            offsets = starts(sizes, [apart[k] for k in self.axes])
            if reverse:
                offsets, time = offsets + (counts - 1) * time, -time
            self.tables.append((offsets[:, None] + first * time).reshape(-1))
            self.steps.append(time)
        if window:
            self.tables[Y], self.steps[Y] = np.arange(series * chunks) * window[1], 0
        self.streams = not window and cost.is_streamed(math.prod(shape) * (self.forms[0][2] + self.forms[Y][2]))
        self.tables.append(own.reshape(-1))
        self.series = series * chunks

    def geometry(self, count, order, width, chunk, own, apart):
        """Return a geometry, and how many series there are with those that fill the last vector."""
        padded = -(-self.series // width) * width
        geometry = np.zeros(HEAD + TABLES * padded, np.int64)
        geometry[:HEAD] = count, self.series, padded, chunk, order, own, apart, self.way, *self.steps
        fill = np.minimum(np.arange(padded), self.series - 1)  # the last one fills a vector
        filled = [table[fill] for table in self.tables]
        ways = [*map(self._way, self.steps, self.forms, filled, [width] * OPERANDS)]
        if self.streams:
            size = self.forms[Y][2]
            in_lines = (width * size) % LINE == self.steps[Y] % LINE == 0
            whole = np.arange(padded) < self.series // width * width  # vectors, in which no series is written again
            ways[Y] += STREAMED * (whole & ((ways[Y] == BLOCKS) | (in_lines & (ways[Y] == ROWS))))
        geometry[HEAD:] = np.concatenate([*filled, *ways])
        return geometry, fill

    @staticmethod
    def _way(step, form, offsets, width):
        """Return how kernels read an operand, for each vector of series."""
        size = form[2]
        other = BLOCKS if step == size else BLOCKS_BACK if step == -size else SINGLE
        are_neighbors = (np.diff(offsets.reshape(-1, width)) == size).all(1)
        return np.repeat(np.where(are_neighbors, ROWS, other if width > 1 else SINGLE), width)


@functools.lru_cache(512)
def _known_places(*given):
    return _Places(*given, None)


@functools.lru_cache(512)
def _known_geometry(forms, axis, reverse, chunks, window, *kind):
    return _known_places(forms, axis, reverse, chunks, window).geometry(*kind)


def element_of(dtype):
    return "bf2" if dtype == np.uint16 else element(dtype)  # which signals are not, but tensors of bfloat16


def _form(array):
    return array.shape, array.strides, array.itemsize


def _spread(array, shape, axes):
    """Return what is (leading, *series or 1s) with the series in memory's order, in one axis."""
    lead = array.ndim - len(axes)
    array = np.broadcast_to(array, (*array.shape[:lead], *shape))
    return array.transpose(*range(lead), *(lead + k for k in axes)).reshape(*array.shape[:lead], -1)


class Run:
    """One walk of a kernel: which one, over which series."""

    def __init__(self, operands, axis, reverse=False, lengths=None, c=None, chunks=1, window=None):
        """Take operands by name; those that kernels have no use for are left out. ``c`` are `Coefficients`, or None."""
        x = operands["x"]
        count, order, *each, words, blocks = (1, 2, 0, 0, [], None) if c is None else c.form()
        self.shape, self.team = x.shape[:axis] + x.shape[axis + 1 :], _threads.team()
        lanes = math.prod(self.shape) * chunks
        self.threads = self.team.size if x.size * count > SERIAL else 1
        by_blocks = lanes <= FEW_SERIES and "g" not in operands and blocks is not None
        self.width = (
            1 if lanes == 1 or by_blocks else OCTET if lanes <= OCTET or lanes < WIDTH * self.threads else WIDTH
        )
        names = "x", "y", "g", "coefficients", "grads"
        forms = tuple([_form(operands[name]) if name in operands else None for name in names])
        nearest = min((abs(x.strides[k]) for k in range(x.ndim) if k != axis), default=0)
        self.by_rows, self.row_bytes = chunks == 1 and nearest < abs(x.strides[axis]), lanes * x.itemsize
        chunk = ROWS_AT_ONCE if self.by_rows else ALL_AT_ONCE
        kind = count, order, self.width, chunk, *each
        if lengths is None:
            self.places = _known_places(forms, axis, reverse, chunks, window)
            self.geometry, self.fill = _known_geometry(forms, axis, reverse, chunks, window, *kind)
        else:
            axes = [k - (k > axis) for k in _known_places(forms, axis, reverse, 1, None).axes]
            self.places = _Places(forms, axis, reverse, 1, None, _spread(lengths, self.shape, axes))
            self.geometry, self.fill = self.places.geometry(*kind)
        self.axes, self.chunks = [k - (k > axis) for k in self.places.axes], chunks
        words = words + {1: ["alone"], OCTET: ["octet"]}.get(self.width, []) + ["blocks"] * by_blocks
        self.rule = " ".join(words)

    def lanes(self, array):
        """Return an array (leading, *series) for each series of the kernel; one for all stays so."""
        return np.ascontiguousarray(_spread(array, self.shape, self.axes)[..., self.fill // self.chunks])

    def back(self, lanes):
        """Return what `lanes` makes, as (leading, *series), of the series' last chunks."""
        lead = lanes.shape[:-1]
        found = lanes[..., : self.places.series].reshape(*lead, -1, self.chunks)[..., -1]
        found = found.reshape(*lead, *(self.shape[k] for k in self.axes))
        order = [self.axes.index(k) for k in range(len(self.axes))]
        return found.transpose(*range(len(lead)), *(len(lead) + k for k in order))

    def parts(self):
        vectors = len(self.fill) // self.width
        most = cost.ITEMS_A_THREAD * self.threads
        if self.by_rows:  # each cut costs
            most = max(self.threads, min(most, self.row_bytes // cost.PART_BYTES))
        parts = _threads.ranges(vectors, 1 if self.threads == 1 else min(vectors, most))
        return [(low * self.width, high * self.width) for low, high in parts]

    def run(self, name, arrays, words=0):
        """Run a kernel of named arrays in its order; ``words`` float64 numbers are each part's own."""
        elements = {name: element_of(array.dtype) for name, array in arrays.items() if name != "carry"}
        if words:
            elements["kept"] = "f8"
        call, parts = kernel(name, self.rule, "f8", **elements), self.parts()
        places = [*map(address, arrays.values())]
        room = allocate.aligned((len(parts), -(-words // OCTET) * OCTET), _WIDE)
        rooms = [[address(own)] if words else [] for own in room]
        calls = [(call, None, *places, *r, address(self.geometry), *part) for r, part in zip(rooms, parts, strict=True)]
        self.team.run(calls, min(self.threads, len(calls)))

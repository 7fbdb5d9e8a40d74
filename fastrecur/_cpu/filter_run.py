"""Runs of the kernels of filters: where series stand in memory, and how they are shared out among threads."""

import functools
import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .._arguments import shapes
from .._arguments.arrays import address, element
from .._plan.fields.tiles import BLOCKS, BLOCKS_BACK, HEAD, OPERANDS, ROWS, SINGLE, STEPS, STREAMED, TABLES, X, Y
from .._plan.loops import Series
from .._plan.widths import OCTET, WIDTH
from . import cost
from .compiler.compile import kernel
from .machine import allocate, threads as _threads
from .machine.memory_pool import LINE
from .prepared import prepared

FEW_SERIES = 1  # that are taken one after the other, 8 steps at once
ALL_AT_ONCE = 1 << 62  # of a chunk of steps: series that are no rows go to their ends one after the other
ROWS_AT_ONCE = 2 * STEPS
_WIDE = np.dtype(np.float64)


class _Places:
    """Series in the order of memory, and what a geometry holds: all that depends on shapes and strides alone."""

    def __init__(self, forms, axis, reverse, chunks, window, lengths, results):
        """Take each operand's shape, strides and itemsize: of x, y, g and coefficients, or None for what is none.

        ``lengths`` are the series' own steps, if they have such. With a ``window``, series are so many steps before
        each chunk (the first one's are not used), and what comes of these goes to a row, of elements of so many bytes.
        ``results`` are for each result the place of the operand whose form it has.
        """
        shape, strides, _ = forms[0]
        steps, self.own = shape[axis], Series(shape, strides, axis)
        series = self.own.count
        counts = np.full(series, steps) if lengths is None else self.own.lanes(lengths)
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
            offsets = self.own.starts(apart)
            if reverse:
                offsets, time = offsets + (counts - 1) * time, -time
            self.tables.append((offsets[:, None] + first * time).reshape(-1))
            self.steps.append(time)
        if window:
            self.tables[Y], self.steps[Y] = np.arange(series * chunks) * window[1], 0
        self.streams, moved = (), sum(self.forms[k][2] for k in (X, *results))
        if not window and cost.is_streamed(math.prod(shape) * moved):
            self.streams = [k for k in {*results} if self.steps[k]]
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
        for k in self.streams:
            in_lines = (width * self.forms[k][2]) % LINE == self.steps[k] % LINE == 0
            whole = np.arange(padded) < self.series // width * width  # vectors, in which no series is written again
            ways[k] += STREAMED * (whole & ((ways[k] == BLOCKS) | (in_lines & (ways[k] == ROWS))))
        geometry[HEAD:] = np.concatenate([*filled, *ways])
        return geometry, fill

    @staticmethod
    def _way(step, form, offsets, width):
        """Return how kernels read an operand, for each vector of series."""
        size = form[2]
        other = BLOCKS if step == size else BLOCKS_BACK if step == -size else SINGLE
        are_neighbors = (np.diff(offsets.reshape(-1, width)) == size).all(1)
        return np.repeat(np.where(are_neighbors, ROWS, other if width > 1 else SINGLE), width)


def element_of(dtype):
    return "bf2" if dtype == np.uint16 else element(dtype)  # which signals are not, but tensors of bfloat16


def _form(array):
    return array.shape, array.strides, array.itemsize


def new_like(x):
    """Allocate a result in the form of a signal."""
    return allocate.empty(x.shape, x.dtype, shapes.like(x.shape, x.dtype, (x.shape, x.strides)))


def example(dtype, shape, strides, axis):
    """Return a signal of a kind, at no address, a result, and the axis, counted from the first; None of what is none.

    A walk of it may be prepared.
    """
    wide = dtype.kind == "f" and dtype.isnative and element_of(dtype)
    if not wide or not -len(shape) <= axis < len(shape) or 0 in shape:
        return None
    x = as_strided(np.ndarray(shape, dtype, np.empty(1, dtype), strides=[0] * len(shape)), shape, strides)
    return x, new_like(x), axis % len(shape)


class Run:
    """A walk of a kernel over series that stand so, and its prepared calls: all of it but numbers and addresses."""

    def __init__(self, forms, axis, reverse, form, chunks, window, results, most, lengths=None):
        """Take operands' forms, and that of coefficients; the rest is as for `run_of`, on ``most`` threads."""
        shape, strides, size = forms[0]
        count, order, *each, words, has_blocks = form
        self.places, self.chunks = _Places(forms, axis, reverse, chunks, window, lengths, results), chunks
        lanes = self.places.series
        self.threads = cost.threads("filters", 8 * math.prod(shape) * count, most)
        by_blocks = lanes <= FEW_SERIES and forms[2] is None and has_blocks
        few = lanes <= OCTET or lanes < WIDTH * self.threads
        self.width = 1 if lanes == 1 or by_blocks else OCTET if few else WIDTH
        self.rule = " ".join([*words, *{1: ["alone"], OCTET: ["octet"]}.get(self.width, []), *["blocks"] * by_blocks])
        nearest = min((abs(strides[k]) for k in range(len(shape)) if k != axis), default=0)
        by_rows = chunks == 1 and nearest < abs(strides[axis])
        chunk = ROWS_AT_ONCE if by_rows else ALL_AT_ONCE
        self.geometry, self.fill = self.places.geometry(count, order, self.width, chunk, *each)
        self._lanes, self._series = self.fill // chunks, self.places.own
        vectors, parts = len(self.fill) // self.width, cost.ITEMS_A_THREAD * self.threads
        if by_rows:  # each cut costs
            parts = max(self.threads, min(parts, lanes * size // cost.PART_BYTES))
        parts = _threads.ranges(vectors, 1 if self.threads == 1 else min(vectors, parts))
        self._parts = [(low * self.width, high * self.width) for low, high in parts]

    def lanes(self, array, is_own=False):
        """Return an array (leading, *series) for each series of the kernel, a new one if it is not the caller's own."""
        lanes = self._series.lanes(array)
        return lanes if is_own and len(self._lanes) == lanes.shape[-1] else lanes.take(self._lanes, -1)

    def back(self, lanes):
        """Return what `lanes` makes, as (leading, *series), of the series' last chunks."""
        return self._series.back(lanes[..., self.chunks - 1 : self.places.series : self.chunks])

    def _kernel(self, name, arrays):
        elements = {name: element_of(array.dtype) for name, array in arrays.items() if name != "carry"}
        return kernel(name, self.rule, "f8", **elements)

    def prepared(self, name, arrays, given):
        """Return what runs a kernel of named arrays in its order, those of some names ``given`` at each call."""
        names, start = [*arrays], [0 if name in given else address(array) for name, array in arrays.items()]
        rows, owners = [[0, *start, address(self.geometry), *part] for part in self._parts], (self, arrays)
        given = [1 + names.index(name) for name in given]
        return prepared(self._kernel(name, arrays), rows, given, owners, self.threads)

    def run(self, name, arrays, words=0):
        """Run a kernel of named arrays in its order; ``words`` float64 numbers are each part's own."""
        if words:
            arrays = arrays | {"kept": np.empty(0)}
        call, parts = self._kernel(name, arrays), self._parts
        places = [address(array) for name, array in arrays.items() if name != "kept"]
        room = allocate.aligned((len(parts), -(-words // OCTET) * OCTET), _WIDE)
        rooms = [[address(own)] if words else [] for own in room]
        calls = [(call, None, *places, *r, address(self.geometry), *part) for r, part in zip(rooms, parts, strict=True)]
        _threads.team().run(calls, min(self.threads, len(calls)))


_known = functools.lru_cache(512)(Run)


def run_of(operands, axis, reverse=False, lengths=None, c=None, chunks=1, window=None, words=(), results=(Y,)):
    """Return the `Run` over operands by name, of which those that kernels have no use for are left out.

    ``c`` are `Coefficients`, or None, ``words`` those of a kernel's rule, and ``results`` the operands whose forms
    results have.
    """
    names = "x", "y", "g", "coefficients", "grads"
    forms = tuple([_form(operands[name]) if name in operands else None for name in names])
    given = forms, axis, reverse, (1, 2, 0, 0, words, False) if c is None else c.form(), chunks, window, results
    most = _threads.team().size
    return _known(*given, most) if lengths is None else Run(*given, most, lengths)

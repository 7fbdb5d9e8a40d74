"""Filters of arrays in memory: lay out series, cut a few long ones into chunks, share the work out.

`forward` and `vjp` take states as SciPy has them. Below these a state is (sections, 2, *series).
"""

import functools
import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .._arguments import shapes
from .._arguments.arrays import address, element
from .._steps import sections as _steps
from .compiler.compile import kernel
from .kernels import sections, sections_back
from .kernels.tiles import BLOCKS, BLOCKS_BACK, FIELDS, GRADIENTS, HEAD, OPERANDS, ROWS, SINGLE, STEPS, TABLES, Y
from .machine import allocate, threads as _threads
from .vectors.types import OCTET, WIDTH

SERIAL = 1 << 14  # samples, times sections, up to which one thread does it all
CHUNKS = 2 * WIDTH  # series, with those that are cut, that keep two threads busy
FEW_SERIES = 1  # that are taken one after the other, 8 steps at once
LONG_SERIES = 1 << 15  # steps of a series that is cut
FORGOTTEN = 2.0**-80  # of a state, before a chunk that is warmed up
LONGEST = 1 << 24  # steps, of a warm-up that is looked for
LOOKED_AT = 64  # steps, for the sign of a section that varies in time
ALL_AT_ONCE = 1 << 62  # of a chunk of steps: series that are no rows go to their ends one after the other
ROWS_AT_ONCE = 2 * STEPS
_WIDE = np.dtype(np.float64)
_READABLE = frozenset((_WIDE, np.dtype(np.float32)))


class Coefficients:
    """A cascade's coefficients as kernels read them, and the signs of its difference form, (sections, *series or 1).

    ``kind`` is "" for one filter of all series, "own" for one a series, "varying" for one a step.
    """

    def __init__(self, sos, kind, axis=None, poles=False):
        """Take SciPy's array with its sections and fields last, and before them each series', or nothing.

        Where they vary in time, ``axis`` is that of time. Of ``poles`` alone there are as many fields, from a1 on.
        """
        self.kind, self.poles, varies = kind, poles, kind == "varying"
        if poles and not varies:
            sos = _as_section(sos)
        self.sections, self.given = sos.shape[-2], sos
        self.order = sos.shape[-1] if poles and varies else sos.shape[-1] // 2 - 1
        if self.order != 2:
            self.signs = np.zeros((self.sections, *(1,) * (sos.ndim - 2 - varies)))
        elif varies:  # the sign stays, so that a state means the same at all steps
            some = sos[(*(slice(None),) * axis, slice(None, None, max(1, sos.shape[axis] // LOOKED_AT)))]
            a1, a2 = np.moveaxis(some[..., -2:], (-1, -2), (0, 1)).astype(_WIDE)
            self.signs = _signs(a1.mean(axis + 1), (a2 - abs(a1)).min(axis + 1, initial=np.inf))
        if varies:
            self.given, self.table = sos if poles else np.ascontiguousarray(sos), self.signs
            return
        if self.order != 2:
            self.table = np.moveaxis(sos, (-2, -1), (0, 1)).astype(_WIDE, order="C")
            return
        b0, b1, b2, _, a1, a2 = np.moveaxis(sos, (-1, -2), (0, 1)).astype(np.longdouble)
        self._a2, self._least = a2, a2 - abs(a1)
        self.signs = _signs(a1, self._least)
        self._formed = np.stack(np.broadcast_arrays(*_steps.form(b0, b1, b2, a1, a2, self.signs)), 1)
        self.table = self._formed.astype(_WIDE)  # (sections, fields, *series)

    @functools.cached_property
    def divides(self):
        """Whether a0 of all sections is as it should be."""
        return bool((self.given[..., self.order + 1] == 1).all())

    @functools.cached_property
    def blocks(self):
        """Fields and what 8 steps at once come to, where one stable filter is that of all series; else None."""
        if (
            self.kind
            or self.poles
            or self.order != 2
            or not (1 + self._least >= 0).all()
            or not (abs(self._a2) <= 1).all()
        ):
            return None
        each = [_blocks(_steps.Section(*fields)) for fields in self._formed]
        return np.concatenate([self.table.reshape(-1), *each]).astype(_WIDE)

    @functools.cached_property
    def warm_up(self):
        """How many steps leave nothing of any state; more than there are, where that is not known."""
        if self.kind == "varying" or self.table[0, 0].size > CHUNKS:
            return LONGEST
        each = self.table.reshape(self.sections, 2 * (self.order + 1), -1)
        return max(_forgotten_after(each[..., k]) for k in range(each.shape[-1]))


def _signs(a1, least):
    """Return the signs of difference forms; ``least`` is ``a2 - abs(a1)``."""
    with np.errstate(invalid="ignore"):
        return np.where(1 + least < _steps.NEAR, np.where(a1 <= 0, 1.0, -1.0), 0.0)


def _blocks(k):
    """Return what makes the outputs and the state after 8 steps of a section: see `sections.run_block`.

    Rows of the outputs, by their step, from both numbers of the state; the same of these from the inputs; each input's
    outputs; and the powers of the section's matrix.
    """
    zero, one = np.zeros(1, np.longdouble), np.ones(1, np.longdouble)
    found = []
    for n in range(2 + OCTET):  # the responses to each number of the state, and to each input
        p, q, outputs = one * (n == 0), one * (n == 1), []
        for step in range(OCTET):
            y, p, q = _steps.section(one if step == n - 2 else zero, p, q, k)
            outputs.append(y)
        found.append((np.concatenate(outputs), p, q))
    (first, *after), (second, *also), *inputs = found
    from_inputs = [np.concatenate([v[n] for v in inputs]) for n in (1, 2)]
    kept = one * k.sign * k.sign  # of the second number, which near 1 and -1 changes little: the rest keeps its digits
    powers = after[0], also[0], after[1], also[1] - kept, kept
    return np.concatenate([first, second, *from_inputs, *(v[0] for v in inputs), *powers])


def _as_section(a):
    """Return poles, of the fields from a1 on, as a section."""
    one, zeros = np.ones_like(a[..., :1]), np.zeros_like(a)
    return np.concatenate([one, zeros, one, a], -1)


@functools.lru_cache(256)
def _shared(data, count, poles=False):
    return Coefficients(np.frombuffer(data).reshape(count, -1), "", None, poles)


def coefficients(sos, kind, axis, poles=False):
    """Return the `Coefficients` of an array, which are remembered where all series have one filter."""
    if kind == "":
        return _shared(sos.astype(_WIDE, copy=False).tobytes(), len(sos), poles)
    return Coefficients(sos, kind, axis, poles)


def _forgotten_after(table):
    """Return after how many steps nothing is left of a state, by powers of a cascade's matrix."""
    count, order = len(table), table.shape[1] // 2 - 1
    states = np.eye(order * count).reshape(count, order, -1)
    v, after = np.zeros(order * count), []
    for fields, state in zip(table, states, strict=True):
        if order == 2:
            v, *state = _steps.section(v, *state, _steps.Section(*fields))
        else:
            b, a = fields[: order + 1, None], fields[order + 1 :, None]
            y = b[0] * v + state[0]
            v, state = y, b[1:] * v - a[1:] * y + np.concatenate([state[1:], 0 * state[:1]])
        after += [*state]
    powers, steps = [np.array(after)], 1
    with np.errstate(all="ignore"):
        while not abs(powers[-1]).max() <= FORGOTTEN:
            if 2 * steps > LONGEST:
                return LONGEST
            powers, steps = [*powers, powers[-1] @ powers[-1]], 2 * steps
        if steps == 1:
            return 1
        power, steps = powers[-2], steps // 2
        for k in range(len(powers) - 3, max(-1, len(powers) - 7), -1):  # as near as a thirty-second
            longer = power @ powers[k]
            if not abs(longer).max() <= FORGOTTEN:
                power, steps = longer, steps + (1 << k)
            last = 1 << k
    return steps + (last if len(powers) > 2 else 1)


# ---- Where series stand ---------------------------------------------------------------------------------------------


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
        self.tables, self.steps = [], []
        nothing = shape, (0,) * len(shape), 0
        self.forms = [form or nothing for form in (*forms, *[None] * (OPERANDS - len(forms)))]
        for _, apart, _ in self.forms:
            time = apart[axis]
            offsets = np.zeros(1, np.int64)
            for k, size in zip(self.axes, sizes, strict=True):
                offsets = np.add.outer(offsets, np.arange(size) * apart[k]).reshape(-1)
            if reverse:
                offsets, time = offsets + (counts - 1) * time, -time
            self.tables.append((offsets[:, None] + first * time).reshape(-1))
            self.steps.append(time)
        if window:
            self.tables[Y], self.steps[Y] = np.arange(series * chunks) * window[1], 0
        self.tables.append(own.reshape(-1))
        self.series = series * chunks

    def geometry(self, count, order, width, chunk, apart):
        """Return a geometry, and how many series there are with those that fill the last vector."""
        padded = -(-self.series // width) * width
        geometry = np.zeros(HEAD + TABLES * padded, np.int64)
        geometry[:HEAD] = count, self.series, padded, chunk, order, apart, *self.steps
        fill = np.minimum(np.arange(padded), self.series - 1)  # the last one fills a vector
        filled = [table[fill] for table in self.tables]
        geometry[HEAD:] = np.concatenate([*filled, *map(self._way, self.steps, self.forms, filled, [width] * OPERANDS)])
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


def _element(dtype):
    return "bf2" if dtype == np.int16 else element(dtype)  # which signals are not, but tensors of bfloat16


def _form(array, rank):
    return array.shape[:rank], array.strides[:rank], array.itemsize if array.ndim == rank else 0


def _spread(array, shape, axes):
    """Return what is (leading, *series or 1s) with the series in memory's order, in one axis."""
    lead = array.ndim - len(axes)
    array = np.broadcast_to(array, (*array.shape[:lead], *shape))
    return array.transpose(*range(lead), *(lead + k for k in axes)).reshape(*array.shape[:lead], -1)


class Run:
    """One walk of a kernel: which one, over which series."""

    def __init__(self, operands, c, axis, reverse, lengths, chunks=1, window=None):
        """Take operands by name; those that kernels have no use for are left out."""
        x = operands["x"]
        self.c, self.shape = c, x.shape[:axis] + x.shape[axis + 1 :]
        team, lanes = _threads.team(), math.prod(self.shape) * chunks
        self.threads = team.size if x.size * c.sections > SERIAL else 1
        by_blocks = lanes <= FEW_SERIES and "g" not in operands and c.blocks is not None
        self.width = (
            1 if lanes == 1 or by_blocks else OCTET if lanes <= OCTET or lanes < WIDTH * self.threads else WIDTH
        )
        if c.kind == "varying":
            own = c.given[..., 0, 0] if c.poles else c.given
            operands = operands | {"coefficients": np.broadcast_to(own, x.shape + own.shape[x.ndim :])}
        names = "x", "y", "g", "coefficients", "grads"
        forms = tuple([_form(operands[name], x.ndim) if name in operands else None for name in names])
        nearest = min((abs(x.strides[k]) for k in range(x.ndim) if k != axis), default=0)
        chunk = ROWS_AT_ONCE if chunks == 1 and nearest < abs(x.strides[axis]) else ALL_AT_ONCE
        kind = c.sections, c.order, self.width, chunk, c.given.strides[-1]
        if lengths is None:
            self.places = _known_places(forms, axis, reverse, chunks, window)
            self.geometry, self.fill = _known_geometry(forms, axis, reverse, chunks, window, *kind)
        else:
            axes = [k - (k > axis) for k in _known_places(forms, axis, reverse, 1, None).axes]
            self.places = _Places(forms, axis, reverse, 1, None, _spread(lengths, self.shape, axes))
            self.geometry, self.fill = self.places.geometry(*kind)
        self.axes, self.chunks = [k - (k > axis) for k in self.places.axes], chunks
        words = [c.kind] * bool(c.kind) + {1: ["alone"], OCTET: ["octet"]}.get(self.width, []) + ["blocks"] * by_blocks
        words += ["any_order"] * (c.order != 2) + ["poles"] * c.poles
        self.rule, self.team = " ".join(words), team

    def lanes(self, array):
        """Return an array (leading, *series) for each series of the kernel; one for all stays so."""
        lead = array.ndim - len(self.shape)
        if self.chunks > 1:
            array = np.repeat(_spread(array, self.shape, self.axes)[..., None], self.chunks, -1)
            return np.ascontiguousarray(array.reshape(*array.shape[:lead], -1)[..., self.fill])
        return np.ascontiguousarray(_spread(array, self.shape, self.axes)[..., self.fill])

    def back(self, lanes):
        """Return what `lanes` makes, as (leading, *series), of the series' last chunks."""
        lead = lanes.shape[:-1]
        found = lanes[..., : self.places.series].reshape(*lead, -1, self.chunks)[..., -1]
        found = found.reshape(*lead, *(self.shape[k] for k in self.axes))
        order = [self.axes.index(k) for k in range(len(self.axes))]
        return found.transpose(*range(len(lead)), *(len(lead) + k for k in order))

    def tables(self):
        """Return coefficients and signs as the kernel takes them."""
        if self.c.kind == "":
            return self.c.table if self.c.blocks is None else self.c.blocks, self.c.signs
        signs = self.lanes(self.c.signs)
        return (self.c.given if self.c.kind == "varying" else self.lanes(self.c.table)), signs

    def parts(self):
        vectors = len(self.fill) // self.width
        parts = _threads.ranges(vectors, self.threads if self.threads == 1 else min(vectors, 4 * self.threads))
        return [(low * self.width, high * self.width) for low, high in parts]

    def run(self, function, arrays, words=0):
        """Run a kernel of named arrays in its order; ``words`` float64 numbers are each part's own."""
        elements = {name: _element(array.dtype) for name, array in arrays.items() if name != "carry"}
        if words:
            elements["kept"] = "f8"
        call, parts = kernel(function, self.rule, "f8", **elements), self.parts()
        places = [*map(address, arrays.values())]
        room = allocate.aligned((len(parts), -(-words // OCTET) * OCTET), _WIDE)
        rooms = [[address(own)] if words else [] for own in room]
        calls = [(call, None, *places, *r, address(self.geometry), *part) for r, part in zip(rooms, parts, strict=True)]
        self.team.run(calls, min(self.threads, len(calls)))


# ---- Calls seen before ----------------------------------------------------------------------------------------------


class _Short:
    """A call of one filter for all series that are not cut: all that is known of it but numbers and addresses."""

    def __init__(self, x, c, axis, reverse):
        run = Run({"x": x, "y": np.ndarray(x.shape, x.dtype, strides=_like(x))}, c, axis, reverse, None)
        table, signs = run.tables()
        elements = {"x": _element(x.dtype), "y": _element(x.dtype), "coefficients": "f8", "signs": "f8"}
        self.call, self.parts, self.threads = (
            kernel(sections.walk, run.rule, "f8", **elements),
            run.parts(),
            run.threads,
        )
        self.shape, self.dtype, self.strides, self.n, self.fill = (
            x.shape,
            x.dtype,
            _like(x),
            run.places.series,
            run.fill,
        )
        self.keep, self.tables = (run, table, signs), (address(table), address(signs))
        self.geometry, self.signs = address(run.geometry), signs.reshape(-1, 1)
        lanes = [k + 1 + (k >= axis) for k in run.axes]
        self.order = 0, axis + 1, *lanes
        self.back = [self.order.index(k) for k in range(len(self.order))]
        self.state = c.sections, 2, *(x.shape[k - 1] for k in lanes)
        self.zi = c.sections, *x.shape[:axis], 2, *x.shape[axis + 1 :]
        self.zeros = np.zeros((2 * c.sections, len(run.fill)))

    def run(self, x, zi, y, wants_state):
        """Write the output; return the states after all steps, if they are wanted."""
        if zi is None:
            carry = self.zeros.copy()
        else:
            carry = zi.transpose(self.order).reshape(-1, self.n).take(self.fill, 1).astype(_WIDE, copy=False)
            carry[1::2] += self.signs * carry[::2]
        head = None, address(x), address(y), *self.tables, address(carry), self.geometry
        if self.threads == 1:
            self.call(*head, 0, len(self.fill))
        else:
            _threads.team().run([(self.call, *head, *part) for part in self.parts], self.threads)
        if wants_state:
            carry[1::2] -= self.signs * carry[::2]
            return np.ascontiguousarray(carry[:, : self.n].reshape(self.state).transpose(self.back))
        return None


def _like(x):
    return shapes.like(x.shape, x.dtype, (x.shape, x.strides))


@functools.lru_cache(256)
def _short(dtype, shape, strides, axis, reverse, data, count, threads):
    """Return a `_Short` of such arguments; None of what is none."""
    c, wide = _shared(data, count), dtype.kind == "f" and dtype.isnative and element(dtype)
    if not wide or not shape or not -len(shape) <= axis < len(shape) or 0 in shape or not count or not c.divides:
        return None
    x, axis = np.ndarray(shape, dtype, np.empty(1, dtype), strides=[0] * len(shape)), axis % len(shape)
    if _chunks(c, math.prod(shape) // shape[axis], shape[axis], None) > 1:
        return None
    return _Short(as_strided(x, shape, strides), c, axis, reverse)


def quick(x, sos, zi, axis, reverse, wants_state):
    """Return the output of one filter and its last states, or None where a call must be looked at."""
    if sos.ndim != 2 or not len(sos) or sos.shape[1] != FIELDS or sos.dtype not in _READABLE:
        return None
    data = (sos if sos.dtype == _WIDE else sos.astype(_WIDE)).tobytes()
    short = _short(x.dtype, x.shape, x.strides, axis, reverse, data, len(sos), _threads.team().size)
    if short is None or not (zi is None or (type(zi) is np.ndarray and zi.shape == short.zi and zi.dtype in _READABLE)):
        return None
    y = allocate.empty(short.shape, short.dtype, short.strides)
    return y, short.run(x, zi, y, wants_state)


# ---- Calls ----------------------------------------------------------------------------------------------------------


def forward(x, sos, zi, axis, reverse, lengths, y, poles=False):
    """Write the output of a cascade, 0 in the padding; return the states after all steps, (sections, ..., 2, ...).

    ``lengths`` are one for each series, ``sos`` and ``zi`` broadcast; ``y`` may be ``x``. Of ``poles`` alone, ``sos``
    has one section, of the fields from a1 on, and states are the last outputs, the newest first.
    """
    if y.dtype.kind == "c":
        sos = sos if sos.ndim == 2 else np.expand_dims(sos, x.ndim - (sos.ndim == x.ndim + 1))
        given = None if zi is None else _pairs(zi), axis, reverse, _of_pairs(lengths)
        return _joined(forward(_pairs(x), sos, *given, _pairs(y), poles))
    zi = None if zi is None else np.moveaxis(zi, axis + 1, 1)
    zf = cascade(x, y, coefficients(sos, kind_of(sos, x), axis, poles), zi, axis, reverse, lengths)
    _clear_padding(y, axis, lengths)
    return np.moveaxis(zf, 1, axis + 1)


def vjp(g, x, sos, zi, grad_zf, axis, reverse, lengths, grad_x, poles=False):
    """Write the input's gradient; return those of the coefficients, in their shape, and of the first states.

    Of ``poles`` alone, ``x`` is the output.
    """
    if x.dtype.kind == "c" or g.dtype.kind == "c":
        dtype = np.result_type(x, g)
        wide = sos if sos.ndim == 2 else np.expand_dims(sos, x.ndim - (sos.ndim == x.ndim + 1))
        g, x, (zi, grad_zf) = g.astype(dtype), x.astype(dtype), (v if v is None else _pairs(v) for v in (zi, grad_zf))
        given = zi, grad_zf, axis, reverse, _of_pairs(lengths)
        grad_sos, grad_zi = vjp(_pairs(g), _pairs(x), wide, *given, _pairs(grad_x), poles)
        return grad_sos.reshape(sos.shape), _joined(grad_zi)
    kind = kind_of(sos, x)
    zi, grad_zf = (v if v is None else np.moveaxis(v, axis + 1, 1) for v in (zi, grad_zf))
    c = coefficients(sos, kind, axis, poles)
    grads, grad_zi = cascade_vjp(g, x, grad_x, c, zi, grad_zf, axis, reverse, lengths)
    _clear_padding(grad_x, axis, lengths)
    if kind != "varying":
        grads = np.moveaxis(grads, (0, 1), (-2, -1))
    return summed_to(grads, sos.shape), np.moveaxis(grad_zi, 1, axis + 1)


def kind_of(sos, x):
    """Return how coefficients of a shape that fits are read: see `Coefficients`."""
    return "" if sos.ndim == 2 else "varying" if sos.ndim == x.ndim + 2 else "own"


def summed_to(array, shape):
    """Return a gradient, added up over what its operand was broadcast to."""
    over = tuple(range(array.ndim - len(shape)))
    array = array.sum(axis=over) if over else array
    over = tuple(k for k, n in enumerate(shape) if n == 1 != array.shape[k])
    return array.sum(axis=over, keepdims=True) if over else array


def _pairs(array):
    """Return an array's real and imaginary parts, on one more axis at the end."""
    array = array if array.dtype.kind == "c" else array.astype(np.result_type(array, np.complex64))
    real = array.real
    return as_strided(real, (*real.shape, 2), (*real.strides, real.itemsize))


def _of_pairs(lengths):
    return None if lengths is None else np.stack([lengths, lengths], -1)


def _joined(pairs):
    return np.ascontiguousarray(pairs).view(np.complex128)[..., 0]


def _clear_padding(y, axis, lengths):
    if lengths is not None:
        steps = np.arange(y.shape[axis]).reshape(-1, *(1,) * (y.ndim - 1 - axis))
        y[steps >= np.expand_dims(lengths, axis)] = 0


def _inner(states, signs, adjoint=False):
    """Return SciPy's states in the difference form, (2, sections, ...); or the cotangents of such."""
    if states.shape[1] != 2:  # sections of other orders have SciPy's form
        return states
    first, second = states[:, 0], states[:, 1]
    both = (first - signs * second, second) if adjoint else (first, signs * first + second)
    return np.stack(both, 1)


def _outer(states, signs, adjoint=False):
    if states.shape[1] != 2:
        return states
    first, second = states[:, 0], states[:, 1]
    both = (first + signs * second, second) if adjoint else (first, second - signs * first)
    return np.stack(both, 1)


def _aligned_signs(c, dims):
    """Return signs with an axis for each of the series'."""
    return c.signs.reshape(*c.signs.shape[:1], *(1,) * (dims + 1 - c.signs.ndim), *c.signs.shape[1:])


def _chunks(c, lanes, steps, lengths):
    """Return how many chunks of time series are cut into, so that a warm-up tells how each begins."""
    if lengths is not None or not 0 < lanes < CHUNKS or steps < LONG_SERIES:
        return 1
    chunks = CHUNKS // lanes
    while chunks > 1 and c.warm_up > steps // chunks:
        chunks //= 2
    return chunks


def cascade(x, y, c, zi, axis, reverse, lengths):
    """Write the output of a cascade; return the states after all steps."""
    shape, steps = x.shape[:axis] + x.shape[axis + 1 :], x.shape[axis]
    signs, full = _aligned_signs(c, len(shape)), (c.sections, c.order, *shape)
    states = np.zeros(full) if zi is None else _inner(np.broadcast_to(zi, full), signs, c.poles)
    if x.size == 0:
        return _outer(states, signs, c.poles)
    chunks = _chunks(c, math.prod(shape), steps, lengths)
    run = Run({"x": x, "y": y}, c, axis, reverse, lengths, chunks)
    table, own_signs = run.tables()
    carry, given = run.lanes(states), {"coefficients": table, "signs": own_signs}
    if chunks > 1:
        carry = _warmed_up(x, c, axis, reverse, chunks, carry, given)
    run.run(sections.walk, {"x": x, "y": y, **given, "carry": carry})
    return _outer(run.back(carry), signs, c.poles)


def _warmed_up(x, c, axis, reverse, chunks, carry, given):
    """Return the states before all chunks, of which ``carry`` has those of the first ones."""
    run = Run({"x": x, "y": x}, c, axis, reverse, None, chunks, (c.warm_up, x.itemsize))
    states, nowhere = np.zeros_like(carry), np.empty(carry.shape[-1], x.dtype)
    run.run(sections.walk, {"x": x, "y": nowhere, **given, "carry": states})
    firsts = run.fill % chunks == 0
    states[..., firsts] = carry[..., firsts]
    return states


def _by_fields(sums, signs):
    """Return gradients (sections, 6, ...) of SciPy's fields, of sums of those of a section's; a0 is 1 and has none."""
    b0, e, d, f, c = np.moveaxis(sums, 1, 0)
    b1 = e + signs * d
    return np.stack([b0 + signs * b1, b1, d, np.zeros_like(d), -f - signs * c, -c], 1)


def _gradients_of(c, x, count, lengths):
    """Allocate gradients of coefficients that vary in time: of their dtype, unless they are summed."""
    shape, own = (*x.shape, c.sections, count), c.given.dtype
    dtype = own if own in _READABLE and c.given.shape == shape else _WIDE
    return allocate.empty(shape, dtype, None) if lengths is None and c.poles else np.zeros(shape, dtype)


def cascade_vjp(g, x, to_x, c, zi, grad_zf, axis, reverse, lengths):
    """Write the input's gradient; return those of the coefficients and of the states before all steps.

    The former are (sections, fields, *series), or, where they vary in time, (*shape of x, sections, fields).
    """
    shape, steps = x.shape[:axis] + x.shape[axis + 1 :], x.shape[axis]
    signs, full = _aligned_signs(c, len(shape)), (c.sections, c.order, *shape)
    states = np.zeros(full) if zi is None else np.broadcast_to(zi, full)
    states = states if c.poles else _inner(states, signs)  # of poles alone, no scan begins there
    adjoint = np.zeros(full) if grad_zf is None else _inner(np.broadcast_to(grad_zf, full), signs, not c.poles)
    varies, fields = c.kind == "varying", c.order if c.poles else 2 * (c.order + 1)
    each = GRADIENTS if c.order == 2 and not c.poles and not varies else fields  # gradients of a section
    grads = _gradients_of(c, x, each, lengths) if varies else np.zeros(1)
    if x.size == 0:
        adjoint = _outer(adjoint, signs, not c.poles)
        return (grads if varies else np.zeros((c.sections, fields, *shape))), adjoint
    operands = {"x": x, "y": to_x, "g": g} | ({"grads": grads} if varies else {})
    run = Run(operands, c, axis, reverse, lengths)
    table, own_signs = run.tables()
    carry, adjoint = run.lanes(states), run.lanes(adjoint)
    sums = np.zeros((c.sections, each, carry.shape[-1]))
    given = {"coefficients": table, "signs": own_signs, "carry": carry, "adjoint": adjoint, "sums": sums}
    words = (-(-steps // STEPS) * c.order * c.sections + (c.sections + 2) * STEPS) * run.width
    if c.poles:
        words = (c.order + (2 + c.order) * STEPS) * run.width
    run.run(sections_back.walk, {"x": x, "y": to_x, "g": g, "grads": grads, **given}, words)
    found = grads if varies else run.back(sums)
    if each != fields:
        found = _by_fields(found, signs)
    return found, _outer(run.back(adjoint), signs, not c.poles)

"""Filters of arrays in memory: lay out series, cut a few long ones into chunks, share the work out.

`forward` and `vjp` take states as SciPy has them. Below these a state is (sections, 2, *series).
"""

import functools
import math

import numpy as np

from .._arguments.arrays import pairs, quiet, summed_to
from .._plan.fields.tiles import FIELDS, GRADIENTS, STEPS
from .filter_coefficients import CHUNKS, coefficients, shared
from .filter_run import example, run_of
from .machine import allocate, threads as _threads
from .prepared import MOST_KEPT

LONG_SERIES = 1 << 15  # steps of a series that is cut
_WIDE = np.dtype(np.float64)
_READABLE = frozenset((_WIDE, np.dtype(np.float32)))
_STATES = type(None), np.ndarray  # types of states that a prepared call takes


# ---- Prepared calls -------------------------------------------------------------------------------------------------


@functools.lru_cache(MOST_KEPT)
def _prepared(dtype, shape, strides, axis, reverse, data, count, threads):
    """Return what makes the output and last states of a signal of a kind; None of what must be looked at."""
    known, c = example(dtype, shape, strides, axis), shared(data, count)
    if known is None or not count or not c.divides:
        return None
    x, y, axis = known
    if _chunks(c, math.prod(shape) // shape[axis], shape[axis], None) > 1:
        return None
    run = run_of({"x": x, "y": y}, axis, reverse, c=c)
    table, signs = c.tables(run)
    arrays = {"x": x, "y": y, "coefficients": table, "signs": signs, "carry": x}
    call, new = run.prepared("sections.walk", arrays, ("x", "y", "carry")), allocate.maker(shape, dtype, y.strides)
    lanes, back, zeros, signs = run.lanes, run.back, np.zeros((count, 2, len(run.fill))), signs.reshape(-1, 1)
    to_front = 0, axis + 1, *(k for k in range(1, x.ndim + 1) if k != axis + 1)
    to_place = 0, *range(2, axis + 2), 1, *range(axis + 2, x.ndim + 1)
    form = count, *shape[:axis], 2, *shape[axis + 1 :]

    def filtered(x, zi, wants_state):
        if zi is not None and (zi.shape != form or zi.dtype not in _READABLE):
            return None
        y = new()
        carry = zeros.copy() if zi is None else lanes(zi.transpose(to_front)).astype(_WIDE, copy=False)
        if not wants_state:
            call(x, y, carry)
            return y, None
        with quiet(np):  # what is not finite is handed on
            if zi is not None:
                carry[:, 1] += signs * carry[:, 0]
            call(x, y, carry)
            carry[:, 1] -= signs * carry[:, 0]
        return y, np.ascontiguousarray(back(carry).transpose(to_place))

    return filtered


def quick(x, sos, zi, axis, reverse, wants_state):
    """Return the output of one filter and its last states, or None where a call must be looked at."""
    if sos.ndim != 2 or not len(sos) or sos.shape[1] != FIELDS or sos.dtype not in _READABLE:
        return None
    data = (sos if sos.dtype == _WIDE else sos.astype(_WIDE)).tobytes()
    call = _prepared(x.dtype, x.shape, x.strides, axis, reverse, data, len(sos), _threads.team().size)
    return None if call is None or type(zi) not in _STATES else call(x, zi, wants_state)


# ---- Calls ----------------------------------------------------------------------------------------------------------


def forward(x, sos, zi, axis, reverse, lengths, y, poles=False):
    """Write the output of a cascade, 0 in the padding; return the states after all steps, (sections, ..., 2, ...).

    ``lengths`` are one for each series, ``sos`` and ``zi`` broadcast; ``y`` may be ``x``. Of ``poles`` alone, ``sos``
    has one section, of the fields from a1 on, and states are the last outputs, the newest first.
    """
    if y.dtype.kind == "c":
        sos = sos if sos.ndim == 2 else np.expand_dims(sos, x.ndim - (sos.ndim == x.ndim + 1))
        given = pairs(zi, np.complex128), axis, reverse, _of_pairs(lengths)
        return _joined(forward(pairs(x, y.dtype), sos, *given, pairs(y, y.dtype), poles))
    zi = None if zi is None else np.moveaxis(zi, axis + 1, 1)
    zf = cascade(x, y, coefficients(sos, x, axis, poles), zi, axis, reverse, lengths)
    _clear_padding(y, axis, lengths)
    return np.moveaxis(zf, 1, axis + 1)


def vjp(g, x, sos, zi, grad_zf, axis, reverse, lengths, grad_x, poles=False):
    """Write the input's gradient; return those of the coefficients, in their shape, and of the first states.

    Of ``poles`` alone, ``x`` is the output.
    """
    if any(v is not None and v.dtype.kind == "c" for v in (x, g, zi, grad_zf)):
        dtype = np.result_type(x, g, np.complex64)
        wide = sos if sos.ndim == 2 else np.expand_dims(sos, x.ndim - (sos.ndim == x.ndim + 1))
        g, x = (pairs(v.astype(dtype), dtype) for v in (g, x))
        given = *(pairs(v, np.complex128) for v in (zi, grad_zf)), axis, reverse, _of_pairs(lengths)
        grad_sos, grad_zi = vjp(g, x, wide, *given, pairs(grad_x, dtype), poles)
        return grad_sos.reshape(sos.shape), _joined(grad_zi)
    zi, grad_zf = (v if v is None else np.moveaxis(v, axis + 1, 1) for v in (zi, grad_zf))
    c = coefficients(sos, x, axis, poles)
    grads, grad_zi = cascade_vjp(g, x, grad_x, c, zi, grad_zf, axis, reverse, lengths)
    _clear_padding(grad_x, axis, lengths)
    if c.kind != "varying":
        grads = np.moveaxis(grads, (0, 1), (-2, -1))
    return summed_to(grads, sos.shape), np.moveaxis(grad_zi, 1, axis + 1)


def _of_pairs(lengths):
    return None if lengths is None else np.stack([lengths, lengths], -1)


def _joined(pairs):
    return np.ascontiguousarray(pairs).view(np.complex128)[..., 0]


def _clear_padding(y, axis, lengths):
    if lengths is not None:
        steps = np.arange(y.shape[axis]).reshape(-1, *(1,) * (y.ndim - 1 - axis))
        y[steps >= np.expand_dims(lengths, axis)] = 0


def _turned(states, signs, adjoint=False):
    """Return SciPy's states, or their cotangents, in the difference form, (sections, 2, ...); by ``-signs``, back."""
    if states.shape[1] != 2:  # sections of other orders have SciPy's form
        return states
    first, second = states[:, 0], states[:, 1]
    with quiet(np):  # of a filter that has diverged
        return np.stack((first - signs * second, second) if adjoint else (first, signs * first + second), 1)


def _wide(states, full):
    """Return states, or their cotangents, as kernels carry them, in a shape that they broadcast to; zeros of None."""
    return np.zeros(full) if states is None else np.broadcast_to(states.astype(_WIDE, copy=False), full)


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
    states = _turned(_wide(zi, full), signs, c.poles)
    if x.size == 0:
        return _turned(states, -signs, c.poles).copy()
    chunks = _chunks(c, math.prod(shape), steps, lengths)
    run = run_of({"x": x, "y": y, **c.places(x)}, axis, reverse, lengths, c, chunks)
    table, own_signs = c.tables(run)
    carry, given = run.lanes(states), {"coefficients": table, "signs": own_signs}
    if chunks > 1:
        carry = _warmed_up(x, c, axis, reverse, chunks, carry, given)
    run.run("sections.walk", {"x": x, "y": y, **given, "carry": carry})
    return _turned(run.back(carry), -signs, c.poles)


def _warmed_up(x, c, axis, reverse, chunks, carry, given):
    """Return the states before all chunks, of which ``carry`` has those of the first ones."""
    run = run_of({"x": x, "y": x}, axis, reverse, None, c, chunks, (c.warm_up, x.itemsize))
    states, nowhere = np.zeros_like(carry), np.empty(carry.shape[-1], x.dtype)
    run.run("sections.walk", {"x": x, "y": nowhere, **given, "carry": states})
    firsts = run.fill % chunks == 0
    states[..., firsts] = carry[..., firsts]
    return states


@quiet(np)
def _by_fields(sums, signs):
    """Return gradients (sections, 6, ...) of SciPy's fields, of sums of those of a section's; a0 is 1 and has none."""
    b0, e, d, f, c = np.moveaxis(sums, 1, 0)
    b1 = e + signs * d
    return np.stack([b0 + signs * b1, b1, d, np.zeros_like(d), -f - signs * c, -c], 1)


def _gradients_of(c, x, count, lengths):
    """Allocate gradients of coefficients that vary in time: of their dtype, unless they are summed."""
    shape, own = (*x.shape, c.sections, count), c.given.dtype
    dtype = own if own in _READABLE and c.given.shape == shape else _WIDE
    return allocate.empty(shape, dtype, None) if lengths is None else np.zeros(shape, dtype)


def cascade_vjp(g, x, to_x, c, zi, grad_zf, axis, reverse, lengths):
    """Write the input's gradient; return those of the coefficients and of the states before all steps.

    The former are (sections, fields, *series), or, where they vary in time, (*shape of x, sections, fields).
    """
    shape, steps = x.shape[:axis] + x.shape[axis + 1 :], x.shape[axis]
    signs, full = _aligned_signs(c, len(shape)), (c.sections, c.order, *shape)
    states = _wide(zi, full) if c.poles else _turned(_wide(zi, full), signs)  # of poles alone, no scan begins there
    adjoint = _turned(_wide(grad_zf, full), signs, not c.poles)
    varies, fields = c.kind == "varying", c.order if c.poles else 2 * (c.order + 1)
    each = GRADIENTS if c.order == 2 and not c.poles and not varies else fields  # gradients of a section
    grads = _gradients_of(c, x, each, lengths) if varies else np.zeros(1)
    if x.size == 0:
        adjoint = _turned(adjoint, -signs, not c.poles).copy()
        return (grads if varies else np.zeros((c.sections, fields, *shape))), adjoint
    operands = {"x": x, "y": to_x, "g": g, **c.places(x)} | ({"grads": grads[..., 0, 0]} if varies else {})
    run = run_of(operands, axis, reverse, lengths, c)
    table, own_signs = c.tables(run)
    carry, adjoint = run.lanes(states), run.lanes(adjoint)
    sums = np.zeros((c.sections, each, carry.shape[-1]))
    given = {"coefficients": table, "signs": own_signs, "carry": carry, "adjoint": adjoint, "sums": sums}
    words = (-(-steps // STEPS) * c.order * c.sections + (c.sections + 2) * STEPS) * run.width
    if c.poles:
        words = (c.order + (2 + c.order) * STEPS) * run.width
    run.run("sections_back.walk", {"x": x, "y": to_x, "g": g, "grads": grads, **given}, words)
    found = grads if varies else run.back(sums)
    if each != fields:
        found = _by_fields(found, signs)
    return found, _turned(run.back(adjoint), -signs, not c.poles)

"""Filters that are made of cascades: of polynomials, of poles alone, and in both directions."""

import functools
import sys

import numpy as np

from .. import _dispatch
from .._arguments import arrays as _arrays, checks, messages as say, shapes
from .._arguments.arrays import at, join
from .._arguments.records import FILTER
from .._plan import problem
from .._plan.filters import FIELDS, check_a0, check_order, check_polynomial, check_sections, check_settles, take
from . import _call

_LEAST = 2  # the order of a section: lower ones are filled up with zeros


def _namespace(*values):
    return sys.modules["torch"] if _arrays.any_tensor(*values) else np


def _floats(xp, name, value, like, halves=()):
    """Return coefficients or states as an array of numbers of the signal's library; ``halves`` as for `take`."""
    if xp is np:
        return take(name, value, halves)[0]
    if not isinstance(value, xp.Tensor):
        value = _dispatch.tensors("filters").tensor_of(name, value, like)
    if name in ("sos", "a", "b") and value.is_complex():
        raise TypeError(say.filter_real(name, value.dtype))
    kept = value.is_complex() or (value.is_floating_point() and (value.itemsize > 2 or FILTER[name].kind in halves))
    return value if kept else value.double()


def _signal(xp, x):
    """Return a signal as something with a shape."""
    return x if hasattr(x, "shape") else xp.asarray(x) if xp is np else xp.as_tensor(x)


def _cast(xp, x, dtype):
    return x.astype(dtype, copy=False) if xp is np else x.to(dtype)


def _polynomial(xp, name, value, x, axis, halves=()):
    """Return a filter's polynomial, (coefficients,), or with the shape of x, or of its series, in front."""
    value = _floats(xp, name, value, x, halves)
    value = value if value.ndim else value.reshape(1)  # SciPy's way to write a filter without poles
    check_polynomial(name, tuple(value.shape), tuple(x.shape), axis)
    return value


def _filled(xp, array, count, axis):
    """Return an array with zeros behind it along an axis, up to so many."""
    missing = count - array.shape[axis]
    if missing <= 0:
        return array
    axis = axis % array.ndim
    where = {} if xp is np else {"device": array.device}
    zeros = xp.zeros((*array.shape[:axis], missing, *array.shape[axis + 1 :]), dtype=array.dtype, **where)
    return join(xp, [array, zeros], axis)


def _rows(xp, polynomials, order, x):
    """Return polynomials of one order as sections of a cascade of one."""
    check_order(order, max(p.ndim for p in polynomials) > x.ndim)
    aligned = [_filled(xp, p, order + 1, -1) for p in polynomials]
    full = xp.broadcast_shapes(*(tuple(p.shape[:-1]) for p in aligned))
    aligned = [xp.broadcast_to(p, (*full, order + 1)) for p in aligned]
    return join(xp, aligned, len(full))[..., None, :]


def _quotient(xp, b, a, x, axis):
    """Return a filter as a cascade of one, divided by its first pole and of a section's order at least; its order."""
    b, a = (_cast(xp, _polynomial(xp, name, v, x, axis), xp.float64) for name, v in (("b", b), ("a", a)))
    if {b.ndim, a.ndim} == {x.ndim, x.ndim + 1} and x.ndim > 1:  # one for each series beside one for each step
        b, a = (p if p.ndim > x.ndim else p[(*(slice(None),) * axis, None)] for p in (b, a))
    if xp is np and not a[..., 0].all():
        raise ValueError(say.filter_lead())
    order, first = max(b.shape[-1], a.shape[-1]) - 1, a[..., :1]
    quotient = b / first, join(xp, [xp.ones_like(first), a[..., 1:] / first], a.ndim - 1)
    return _rows(xp, quotient, max(order, _LEAST), x), order


def lfilter(b, a, x, axis, zi, reverse, lengths, return_state, out):
    """Return the output of a filter of any order, and the states after it where they are wanted."""
    xp, wants_state = _namespace(b, a, x, zi), checks.flag("return_state", return_state) or zi is not None
    if xp is np and _arrays.any_on_device(b, a, x, zi, out):
        given = b, a, x, zi, axis, checks.flag("reverse", reverse)
        y, zf = _dispatch.on_device("filters").lfilter(*given, lengths, out)
        return (y, zf) if wants_state else y
    x = _signal(xp, x)
    axis = shapes.axis_of(axis, tuple(x.shape), ("x",))
    rows, order = _quotient(xp, b, a, x, axis)
    state = None if zi is None else _state(xp, "zi", zi, x, axis, order, rows.shape[-1] // 2 - 1)
    found = _call.sosfilt(x, rows, state, axis, reverse, lengths, wants_state, out, rows.shape[-1])
    return (found[0], at(found[1][0], axis, slice(order))) if wants_state else found


def _state(xp, name, zi, x, axis, order, filled):
    """Return states, or cotangents of such, as those of a cascade of one."""
    zi = zi if hasattr(zi, "chunks") else _floats(xp, name, zi, x)
    wanted = (*x.shape[:axis], order, *x.shape[axis + 1 :])
    if zi.ndim != len(wanted) or not problem.fits(tuple(zi.shape), wanted):
        raise ValueError(say.same_shape(name, tuple(zi.shape), wanted))
    return (zi if filled == order else _filled(xp, xp.broadcast_to(zi, wanted), filled, axis))[None]


# ---- Poles alone ----------------------------------------------------------------------------------------------------


def _poles(a, x, axis, zi, *others):
    """Return poles as a cascade of one, the signal, the axis of time, the order, and states of that cascade."""
    xp = _namespace(a, x, *zi.values(), *others)
    x = _signal(xp, x)
    axis = shapes.axis_of(axis, tuple(x.shape), ("x",))
    a = _polynomial(xp, "a", a, x, axis, halves=("polynomial",))
    order = a.shape[-1]
    check_order(order, a.ndim > x.ndim)
    states = (v if v is None else _state(xp, name, v, x, axis, order, order) for name, v in zi.items())
    return a[..., None, :], x, axis, order, *states


def allpole(a, x, axis, zi, reverse, lengths, return_state, out):
    """Return the output of poles alone, and its last values where they are wanted, the newest first."""
    wants_state = checks.flag("return_state", return_state) or zi is not None
    if _namespace(a, x, zi) is np and _arrays.any_on_device(a, x, zi, out):
        return _call.sosfilt(x, a, zi, axis, reverse, lengths, wants_state, out, poles=True)
    a, x, axis, order, zi = _poles(a, x, axis, {"zi": zi})
    found = _call.sosfilt(x, a, zi, axis, reverse, lengths, wants_state, out, order, poles=True)
    return (found[0], found[1][0]) if wants_state else found


def allpole_vjp(g, a, x, y, zi, axis, reverse, lengths, grad_zf):
    """Return the gradients of the coefficients, the input and the values before all steps."""
    if _namespace(g, a, x, y, zi, grad_zf) is np and _arrays.any_on_device(g, a, x, y, zi, grad_zf):
        return _call.sosfilt_vjp(g, a, x, y, zi, axis, reverse, lengths, grad_zf, poles=True)
    a, x, axis, order, past, grad_zf = _poles(a, x, axis, {"zi": zi, "grad_zf": grad_zf}, g, y)
    grads = _call.sosfilt_vjp(g, a, x, y, past, axis, reverse, lengths, grad_zf, order, poles=True)
    return grads[0][..., 0, :], grads[1], None if zi is None else grads[2][0]


# ---- In both directions ---------------------------------------------------------------------------------------------


def _settled(xp, sos):
    """Return SciPy's ``sosfilt_zi`` for each series: (sections, ..., 2), the states that 1 for ever leads to."""
    states, scale, sos = [], 1.0, _cast(xp, sos, xp.float64)
    with _arrays.quiet(xp):
        for s in range(sos.shape[-2]):
            b0, b1, b2, _, a1, a2 = (sos[..., s, k] for k in range(FIELDS))
            gain = (b0 + b1 + b2) / (1 + a1 + a2)
            second = b2 - a2 * gain
            states.append(xp.stack([scale * (b1 - a1 * gain + second), scale * second], -1))
            scale = scale * gain
    return xp.stack(states)


def _readable(sos, given):
    """Return coefficients whose numbers may be looked at; None where that would wait for a GPU, or there are none."""
    if getattr(sos, "is_cpu", True):
        return sos
    return None if hasattr(given, "is_cpu") else take("sos", given)[0]


def _padding(sos, form, shape, axis, padtype, padlen):
    """Return by how many steps a signal's ends are continued; raise unless coefficients of a form are for all steps.

    ``sos`` are their numbers, None where nobody may look at them.
    """
    check_sections(form, shape, axis)
    if len(form) == len(shape) + 2:
        raise ValueError(say.filter_constant())
    if padtype not in ("odd", "even", "constant", None):
        raise ValueError(say.filter_padtype(padtype))
    if padtype is not None and padlen is None:
        padlen = 3 * (2 * form[-2] + 1)
        if sos is None:
            raise ValueError(say.filter_padding(padlen))
        are_zero = (sos == 0).reshape(-1, *form[-2:]).all(0)  # in all series
        padlen -= 3 * min(int(are_zero[:, k].sum()) for k in (2, 5))
    padlen = 0 if padtype is None else checks.axis(padlen, "padlen")
    if not 0 <= padlen < max(shape[axis], 1):
        raise ValueError(say.filter_padlen(shape[axis], padlen))
    return padlen


def sosfiltfilt(sos, x, axis, padtype, padlen):
    """Return what a cascade makes of a signal forward and then in reverse."""
    xp = _namespace(sos, x)
    if xp is np and _arrays.any_on_device(sos, x):
        padding = functools.partial(_padding, padtype=padtype, padlen=padlen)
        return _dispatch.on_device("filters").sosfiltfilt(x, sos, axis, padtype, padding)
    if xp is np and _arrays.any_lazy(x):
        raise TypeError(say.filter_in_memory())
    to_tensor = xp is not np and _dispatch.tensors("filters").tensor_of
    x, owner = (to_tensor("x", _signal(xp, x), None), _arrays.NUMPY) if to_tensor else take("x", x)
    dtype, is_half = x.dtype, x.itemsize == 2
    if is_half:  # its range is too small to continue the ends in
        x = _cast(xp, x, xp.float32)
    axis = shapes.axis_of(axis, tuple(x.shape), ("x",))
    given, sos, steps = sos, _floats(xp, "sos", sos, x), x.shape[axis]
    padlen = _padding(_readable(sos, given), tuple(sos.shape), tuple(x.shape), axis, padtype, padlen)
    if xp is np:
        check_a0(sos)
        check_settles(sos)
    zi = _settled(xp, sos)
    zi = xp.moveaxis(zi.reshape(len(zi), *(1,) * (x.ndim - 1), 2) if zi.ndim == 2 else zi, -1, axis + 1)
    if padlen:
        head, tail = at(x, axis, slice(1, padlen + 1)), at(x, axis, slice(-padlen - 1, -1))
        first, last = at(x, axis, slice(0, 1)), at(x, axis, slice(-1, None))
        head, tail = (xp.flip(v, (axis,)) for v in (head, tail))
        if padtype == "odd":
            head, tail = 2 * first - head, 2 * last - tail
        elif padtype == "constant":
            head, tail = first + 0 * head, last + 0 * tail
        x = join(xp, [head, x, tail], axis)
    for reverse in (False, True):
        start = at(x, axis, slice(-1, None) if reverse else slice(0, 1))
        x, _ = _call.sosfilt(x, sos, zi * start if steps else None, axis, reverse, None, True, None)
    x = at(x, axis, slice(padlen, padlen + steps)) if padlen else x
    return owner.give(_cast(xp, x, dtype) if is_half else x)

"""A call of a filter: which library its arrays belong to, and what is checked of them whatever that is."""

import numpy as np

from .. import _dispatch
from .._arguments import arrays as _arrays, checks, messages as say, shapes
from .._cpu import filters
from .._cpu.machine import allocate
from .._plan.filters import FIELDS, check_cascade, lengths_of, take


def sosfilt(x, sos, zi, axis, reverse, lengths, return_state, out, fields=FIELDS, poles=False):
    """Return the output of a cascade, and the states after it where they are wanted; `poles` may be alone."""
    axis, reverse = checks.axis(axis), checks.flag("reverse", reverse)
    wants_state = checks.flag("return_state", return_state) or zi is not None
    if type(x) is np.ndarray and type(sos) is np.ndarray and lengths is None and out is None and not poles:
        known = filters.quick(x, sos, zi, axis, reverse, wants_state)
        if known is not None:
            return known if wants_state else known[0]
    library = _library(x, sos, zi, out)
    if library is not None:
        y, zf = library.sosfilt(x, sos, zi, axis, reverse, lengths, out, fields, poles)
        return (y, zf) if wants_state else y
    (x, owner), sos, zi = take("x", x), sos if poles else take("sos", sos)[0], take("zi", zi)[0]
    axis = shapes.axis_of(axis, x.shape, ("x",))
    check_cascade(sos, {"zi": zi}, x.shape, axis, fields, poles)
    lengths = lengths_of(lengths, x.shape, axis)
    dtype = x.dtype if zi is None or zi.dtype.kind != "c" else np.result_type(x.dtype, np.complex64)
    if out is None:
        y = allocate.empty(x.shape, dtype, shapes.like(x.shape, dtype, (x.shape, x.strides)))
    else:
        y = check_out(out, x, dtype, (("x", x), ("sos", sos), ("zi", zi)))
    zf = filters.forward(x, sos, zi, axis, reverse, lengths, y, poles)
    y = owner.give(y) if out is None else out
    return (y, owner.give(zf)) if wants_state else y


def sosfilt_vjp(g, sos, x, y, zi, axis, reverse, lengths, grad_zf, fields=FIELDS, poles=False):
    """Return the gradients of the coefficients, the input and the first states; the last None where there are none."""
    axis, reverse = checks.axis(axis), checks.flag("reverse", reverse)
    library = _library(g, sos, x, y, zi, grad_zf)
    if library is not None:
        return library.sosfilt_vjp(g, sos, x, y, zi, axis, reverse, lengths, grad_zf, poles)
    (x, owner), sos = take("x", x), sos if poles else take("sos", sos)[0]
    given = {"zi": zi, "grad_zf": grad_zf, "grad_y": g, "y": y}
    zi, grad_zf, g, y = (take(name, value)[0] for name, value in given.items())
    axis = shapes.axis_of(axis, x.shape, ("x",))
    check_cascade(sos, {"zi": zi, "grad_zf": grad_zf}, x.shape, axis, fields, poles)
    for name, value in (("grad_y", g), ("y", y)):
        shapes.check_exact(name, value.shape, x.shape)
    lengths = lengths_of(lengths, x.shape, axis)
    complex_ = any(v is not None and v.dtype.kind == "c" for v in (x, y, g, zi, grad_zf))
    dtype = np.result_type(x.dtype, np.complex64) if complex_ else x.dtype
    grad_x = allocate.empty(x.shape, dtype, shapes.like(x.shape, dtype, (x.shape, x.strides)))
    grad_sos, grad_zi = filters.vjp(g, y if poles else x, sos, zi, grad_zf, axis, reverse, lengths, grad_x, poles)
    if x.dtype.kind != "c" and complex_:
        grad_x = grad_x.real.astype(x.dtype, order="C")
    if zi is not None:
        grad_zi = grad_zi.real if zi.dtype.kind != "c" else grad_zi
        grad_zi = _arrays.summed_to(grad_zi, zi.shape).astype(zi.dtype)
    return (
        owner.give(grad_sos.astype(sos.dtype, copy=False)),
        owner.give(grad_x),
        None if zi is None else owner.give(grad_zi),
    )


def in_dtype_of(operand, gradient):
    """Return a gradient that was computed in a wide dtype in its operand's, if that is one of 16 bits."""
    if gradient is None or not (isinstance(operand, np.ndarray) or _arrays.any_tensor(operand)):
        return gradient
    dtype = operand.dtype
    if dtype.itemsize != 2 or str(dtype).rpartition(".")[2] not in ("float16", "bfloat16"):
        return gradient
    return gradient.astype(dtype) if isinstance(gradient, np.ndarray) else gradient.to(dtype)


def _library(*values):
    """Return the module for arrays that are no other's than one library's own; None for arrays in memory."""
    place = _dispatch.place(*values)
    if place == "lazy":
        from . import _lazy

        return _lazy
    return None if place == "memory" else (_dispatch.tensors if place == "tensors" else _dispatch.on_device)("filters")


def check_out(out, x, dtype, operands):
    """Return memory for the result; raise unless it may be written there."""
    array = _arrays.take("out", out)[0]
    if not isinstance(array, np.ndarray):
        raise TypeError(say.out_type(type(out)))
    checks.out_array(array, x.shape, dtype, operands[:1], operands[1:])
    return array

"""Shapes, strides and dtypes of results and gradients: a function each, of signatures alone."""

import itertools

import numpy as np

from . import checks, messages as say
from .arrays import BFLOAT16, element

_WIDE = {"f2": "f4", "bf2": "f4", "f4": "f8", "f8": "f8", "c8": "c16", "c16": "c16"}


def result_dtype(names, dtypes, weak_complex=False):
    """Return the dtype of a result: NumPy's promotion, integers alone to float64. None is what has no part in it."""
    found = [(name, dtype) for name, dtype in zip(names, dtypes, strict=True) if dtype is not None]
    if found and not weak_complex and all(dtype is BFLOAT16 for _, dtype in found):
        return BFLOAT16  # of tensors, which NumPy does not know
    try:
        dtype = np.result_type(*(dtype for _, dtype in found)) if found else np.dtype(np.float64)
    except TypeError:
        raise TypeError(say.promotion(found)) from None
    if dtype.kind in "biu":
        dtype = np.dtype(np.float64)
    if element(dtype) is None:
        raise TypeError(say.promotion(found))
    if weak_complex and dtype.kind != "c":
        dtype = np.result_type(np.complex64, dtype)
    return dtype


def own_dtypes(*signatures):
    """Return the dtype of each operand that is an array; None for numbers."""
    return [signature[0] if type(signature) is tuple else None for signature in signatures]


def wide_dtype(dtype):
    """Return the carry's dtype: one precision wider than the result's where there is one."""
    return np.dtype(_WIDE[element(dtype)])


def gradient_dtype(signature, dtype):
    """Return a gradient's dtype: its operand's own; the result's, real or complex as it is, for any other number."""
    if signature is complex:
        return dtype
    if type(signature) is not tuple or signature[0].kind in "biu":
        return np.empty(0, dtype).real.dtype if dtype.kind == "c" else dtype
    return signature[0]


def normalise_axis(axis, shape, names):
    """Return an axis, an int, counted from the front; raise unless the result has it."""
    if not shape:
        raise ValueError(say.no_axis([*names]))
    if not -len(shape) <= axis < len(shape):
        raise ValueError(say.axis_range(-len(shape), len(shape) - 1, shape, axis))
    return axis % len(shape)


def axis_of(axis, shape, names):
    """Return the axis that a caller gives, counted from the first."""
    return int(normalise_axis(checks.axis(axis), tuple(shape), names))


def check_exact(name, came, wanted):
    """Raise unless an argument has a shape."""
    if tuple(came) != tuple(wanted):
        raise ValueError(say.exact_shape(name, came, tuple(wanted)))


def broadcast_shape(names, shapes, axis=None):
    """Return the shape that operands broadcast to; ``axis`` is time's, for the error's sake."""
    most = max(map(len, shapes))  # NumPy's own function may take no more than 32 of the 64 that arrays may have
    sizes = [{*sizes} - {1} for sizes in zip(*((1,) * (most - len(s)) + tuple(s) for s in shapes), strict=True)]
    if any(len(size) > 1 for size in sizes):
        raise ValueError(say.broadcast(names, shapes, axis))
    return tuple(size.pop() if size else 1 for size in sizes)


def c_strides(shape, itemsize):
    """Return the strides in bytes of an array in C order."""
    strides, reach = [], itemsize
    for n in reversed(shape):
        strides.append(reach)
        reach *= n
    return tuple(reversed(strides))


def is_c_order(shape, strides):
    """Return whether dense strides are C order's."""
    order = [s for n, s in zip(shape, strides, strict=True) if n > 1]
    return all(outer > inner for outer, inner in itertools.pairwise(order))


def like(shape, dtype, *prototypes):
    """Return the strides of a fresh result: laid out as the first operand of its shape, else in C order.

    ``prototypes`` are ``(shape, strides)``.
    """
    for other_shape, other_strides in prototypes:
        if other_shape == shape and not any(n > 1 and s == 0 for n, s in zip(shape, other_strides, strict=True)):
            order = sorted(range(len(shape)), key=lambda k: (-abs(other_strides[k]), k))
            dense = c_strides([shape[k] for k in order], dtype.itemsize)
            return tuple(dense[order.index(k)] for k in range(len(shape)))
    return c_strides(shape, dtype.itemsize)


def spread(operand_shape, strides, shape):
    """Return an operand's strides in the result's axes, 0 where it is broadcast."""
    missing = len(shape) - len(operand_shape)
    own = [0 if n == 1 else s for n, s in zip(operand_shape, strides, strict=True)]
    return (0,) * missing + tuple(own)


def own_strides(operand_shape, shape, itemsize):
    """Return the strides, in the result's axes, of a C-contiguous array of an operand's own shape."""
    return spread(operand_shape, c_strides(operand_shape, itemsize), shape)

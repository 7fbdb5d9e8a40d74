"""From a public function's arguments to its result: take the arrays, check what a plan cannot see, run, hand back."""

import functools
from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import as_strided

from . import _arrays, _cache, _problem
from . import _messages as say

_ndarray = np.ndarray
_supported = _arrays.element

# Calls of kinds seen before, by everything that a plan depends on: what is left to do for them.
_shortcuts: dict[tuple, Callable] = {}
_MOST_SHORTCUTS = 1024
_LARGEST = 1 << 1023
_GATES = _ndarray, float


# Types of tensors and what takes them, once fastrecur.torch._call is imported: then most are seen early.
_TENSORS: tuple = ()
_forward_tensors: Callable | None = None
_vjp_tensors: Callable | None = None


def _for_tensors():
    """Return the module that takes calls with tensors among their arguments."""
    from .torch import _call

    return _call


@functools.cache
def _runner():
    """Return the module that runs plans; it and what defines kernels are imported when a call first needs them."""
    with _cache.making:
        from . import _run

    return _run


@functools.cache
def _device():
    """Return the module that runs calls on a GPU."""
    with _cache.making:
        from ._cuda import _call

    return _call


@functools.cache
def _graphs():
    """Return the module that takes calls with Dask arrays among their arguments."""
    from . import _dask

    return _dask


def forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out):
    """Run a recurrence; ``names`` are what the caller calls the operands."""
    key = None
    if (
        lengths is None and h0 is None and (out is None or type(out) is _ndarray)
        and type(b) is _ndarray and type(axis) is int and type(reverse) is bool
    ):  # fmt: skip
        to = None if out is None else (out.dtype, out.shape, out.strides)
        if type(a) is _ndarray:
            key = family, a.dtype, a.shape, a.strides, b.dtype, b.shape, b.strides, axis, reverse, to
        elif type(a) is float:
            key = family, b.dtype, b.shape, b.strides, axis, reverse, to
        shortcut = _shortcuts.get(key)
        if shortcut is not None:
            return_state = _flag("return_state", return_state)
            if out is not None:
                _check_out(out, names, a, b)
            result, carry = shortcut(a, b, out, return_state)
            return (result, _runner().narrowed(carry, result.dtype)) if return_state else result
    elif type(b) in _TENSORS:
        return _forward_tensors(family, names, a, b, h0, axis, reverse, lengths, return_state, out)
    owner, given = None, out
    if _arrays.any_lazy(lengths) or not (
        _is_plain(a) and _is_plain(b) and (h0 is None or _is_plain(h0)) and (out is None or type(out) is _ndarray)
    ):
        if _arrays.any_tensor(a, b, h0, lengths, out):
            return _for_tensors().forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out)
        if _arrays.any_on_device(a, b, h0, out):
            return _device().forward(
                family, names, a, b, h0, _axis(axis), _flag("reverse", reverse), lengths,
                _flag("return_state", return_state), out,
            )  # fmt: skip
        if _arrays.any_lazy(a, b, h0, lengths, out):
            return _graphs().forward(
                family, names, a, b, h0, _axis(axis), _flag("reverse", reverse), lengths,
                _flag("return_state", return_state), out,
            )  # fmt: skip
        a, b, h0, out, owner = _take((*names, "out"), a, b, h0, out)
        key = None
    reverse, axis = _flag("reverse", reverse), _axis(axis)
    return_state = _flag("return_state", return_state)
    if lengths is not None:
        lengths = _lengths(lengths)
    weak_complex = type(a) is complex or type(b) is complex or type(h0) is complex
    if weak_complex or _is_complex(a) or _is_complex(b) or _is_complex(h0):
        if _gate_is_real(family, names, a):
            out, last = _forward_pairs(family, names, a, b, h0, axis, reverse, lengths, out)
            return _give(owner, out, last, return_state, given)
    plan = _problem.forward(
        family, names, _signature(a), _signature(b), _state_signature(h0), _signature(out), axis, reverse,
        None if lengths is None else lengths.shape, weak_complex,
    )  # fmt: skip
    if lengths is not None:
        lengths = _check_range(lengths, plan.steps)
    if out is not None:
        if _arrays.overlaps_itself(out):
            raise ValueError(say.out_self_overlap())
        _check_out(out, names, a, b)
    if key is not None:
        _remember(key, _runner().known_forward(plan))
    out, carry = _runner().forward(plan, a, b, h0, lengths, out, return_state)
    if owner is None and not return_state:
        return out if given is None else given
    return _give(owner, out, _runner().narrowed(carry, plan.dtype) if return_state else None, return_state, given)


def vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state):
    """Run a recurrence's adjoint; ``names`` are what the caller calls ``g, a, b, h``."""
    key = None
    if (
        lengths is None and h0 is None and grad_state is None
        and type(b) is _ndarray and type(axis) is int and type(reverse) is bool
    ):  # fmt: skip
        if type(a) in _GATES and type(g) is _ndarray and type(h) is _ndarray:
            gate = (a.dtype, a.shape, a.strides) if type(a) is _ndarray else None
            key = (
                family, gate, b.dtype, b.shape, b.strides, g.dtype, g.shape, g.strides,
                h.dtype, h.shape, h.strides, axis, reverse,
            )  # fmt: skip
            shortcut = _shortcuts.get(key)
            if shortcut is not None:
                return shortcut(g, a, b, h)
    elif type(b) in _TENSORS:
        return _vjp_tensors(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state)
    owner = None
    if _arrays.any_lazy(lengths) or not (
        all(map(_is_plain, (g, a, b, h))) and all(v is None or _is_plain(v) for v in (h0, grad_state))
    ):
        if _arrays.any_tensor(g, a, b, h, h0, grad_state, lengths):
            return _for_tensors().vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state)
        if _arrays.any_on_device(g, a, b, h, h0, grad_state):
            return _device().vjp(
                family, names, g, a, b, h, h0, _axis(axis), _flag("reverse", reverse), lengths, grad_state
            )  # fmt: skip
        if _arrays.any_lazy(g, a, b, h, h0, lengths, grad_state):
            return _graphs().vjp(
                family, names, g, a, b, h, h0, _axis(axis), _flag("reverse", reverse), lengths, grad_state
            )  # fmt: skip
        g, a, b, h, h0, grad_state, owner = _take((*names, "h0", "grad_state"), g, a, b, h, h0, grad_state)
        key = None
    reverse, axis = _flag("reverse", reverse), _axis(axis)
    if lengths is not None:
        lengths = _lengths(lengths)
    values = (g, a, b, h, h0, grad_state)
    weak_complex = any(type(value) is complex for value in values)
    if weak_complex or any(map(_is_complex, values)):
        _problem.check_kind(names, *map(_signature, values))
        if _gate_is_real(family, names[1:3], a):
            return _give_all(owner, *_vjp_pairs(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state))
    plan = _problem.vjp(
        family, names, (*map(_signature, (g, a, b, h)), _state_signature(h0), _state_signature(grad_state)), axis,
        reverse, None if lengths is None else lengths.shape, weak_complex,
    )  # fmt: skip
    if lengths is not None:
        lengths = _check_range(lengths, plan.steps)
    if key is not None:
        _remember(key, _runner().known_vjp(plan))
    grad_a, grad_b, carry = _runner().vjp(plan, g, a, b, h, h0, grad_state, lengths)
    grad_h0 = None
    if h0 is not None:
        grad_h0 = _runner().summed_to(carry, np.shape(h0), plan.h0_dtype)
    return _give_all(owner, grad_a, grad_b, grad_h0)


def _remember(key, shortcut):
    if len(_shortcuts) >= _MOST_SHORTCUTS:
        _shortcuts.clear()
    _shortcuts[key] = shortcut


def _give(owner, result, last, return_state, given):
    """Return results in the caller's library; what was ``given`` to write to is returned itself."""
    if given is not None:
        result = given
    elif owner is not None:
        result = owner.give(result)
    if not return_state:
        return result
    return result, last if owner is None else owner.give(last)


def _give_all(owner, *results):
    return results if owner is None else tuple(None if r is None else owner.give(r) for r in results)


# ---- Taking arguments -----------------------------------------------------------------------------------------------


def _is_plain(value):
    """Return whether a value needs no look at all beyond its dtype."""
    kind = type(value)
    if kind is _ndarray:
        return _supported(value.dtype) is not None and value.dtype.isnative
    return kind is float or (kind is int and -_LARGEST < value < _LARGEST)


def _take(names, *values):
    found, arrays = [], []
    for name, value in zip(names, values, strict=True):
        if name == "out" and value is not None and not isinstance(value, _ndarray) and not hasattr(value, "__dlpack__"):
            raise TypeError(say.out_type(type(value)))
        array, owner = _arrays.take(name, value)
        if type(array) is _ndarray:
            native = _arrays.numbers(name, array)
            if name == "out" and native is not array:
                raise TypeError(say.dtype(name, array.dtype))
            array = native
        elif type(array) is int and not -_LARGEST < array < _LARGEST:
            raise ValueError(say.too_large(name))
        elif array is None and name not in ("h0", "out", "grad_state"):
            raise TypeError(say.not_an_array(name, type(None)))
        arrays.append(array)
        found.append((name, value, owner))
    return (*arrays, _arrays.common_owner(found))


def _flag(name, value):
    if value is False or value is True:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise TypeError(say.flag(name, type(value)))


def _axis(axis):
    if type(axis) is int:
        return axis
    # A plan is remembered by its arguments, and True or 1.0 would be taken for 1.
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise TypeError(say.axis_type(type(axis)))
    try:
        return axis.__index__()
    except TypeError:
        raise TypeError(say.axis_type(type(axis))) from None


def _signature(value):
    if type(value) is _ndarray:
        return value.dtype, value.shape, value.strides
    return complex if type(value) is complex else None


def _state_signature(value):
    if type(value) is _ndarray:
        return value.dtype, value.shape
    return complex if type(value) is complex else None


def _lengths(lengths):
    """Return lengths as an array of integers of the caller's shape and dtype; raise TypeError for what is none."""
    if type(lengths) is int:
        lengths = np.array(lengths, np.int64 if abs(lengths) < 2**63 else object)
    array = np.asarray(_arrays.take("lengths", lengths)[0])
    if array.dtype == object and array.ndim == 0 and isinstance(array[()], int):
        return array  # a number that is out of any range
    if array.dtype.kind not in "iu" and not (array.size == 0 and isinstance(lengths, (list, tuple))):
        raise TypeError(say.lengths_dtype(f"dtype {array.dtype}"))
    return array


def _check_range(lengths, steps):
    """Return lengths as contiguous int64; raise unless each is a number of steps."""
    if lengths.size:
        low, high = int(lengths.min()), int(lengths.max())
        if low < 0 or high > steps:
            raise ValueError(say.lengths_range(low, high, steps))
    return np.array(lengths, np.int64, order="C")


def _check_out(out, names, *operands):
    """Raise unless ``out`` may be written to, given its layout."""
    if not out.flags.writeable:
        raise ValueError(say.out_read_only())
    for name, operand in zip(names, operands, strict=False):
        if type(operand) is not _ndarray or operand is out:
            continue
        if _arrays.overlap(out, operand) and not _arrays.is_same_view(out, operand):
            raise ValueError(say.out_overlap(name))


# ---- A complex series whose gate is real is two real series ---------------------------------------------------------


def _is_complex(value):
    return type(value) is _ndarray and value.dtype.kind == "c"


def _gate_is_real(family, names, a):
    if not (type(a) is complex or _is_complex(a)):
        return True
    if family == _problem.FORGET:
        raise TypeError(say.complex_gate(names[0], a.dtype if type(a) is _ndarray else "complex"))
    return False


def _pair_problem(names, a, b, others, axis, lengths):
    """Return the complex dtype and shape, and what does not change in kind: gate, axis and lengths for pairs."""
    signatures = {name: _signature(value) for name, value in others.items()}
    dtypes = _problem.own_dtypes(_signature(a), _signature(b), *signatures.values())
    dtype = _problem.result_dtype((*names, *others), dtypes, True)
    shape = _problem.broadcast_shape(names, (np.shape(a), np.shape(b)), axis)
    axis = _problem.normalise_axis(axis, shape, names)
    lanes = shape[:axis] + shape[axis + 1 :]
    _problem.check_shapes(signatures, shape, lanes)
    if lengths is not None:
        _problem.check_lengths_shape(lengths.shape, lanes)
        if lengths.ndim == 0:
            lengths = np.full(2, lengths)
    return dtype, shape, a[..., np.newaxis] if type(a) is _ndarray else a, axis, lengths


def _pair(value, dtype):
    """Return a view with a last axis (real, imaginary); real numbers are made complex first."""
    if value is None:
        return None
    with np.errstate(all="ignore"):
        array = value if _is_complex(value) else np.array(value, dtype)
    part = array.real
    return as_strided(part, (*array.shape, 2), (*array.strides, part.itemsize), writeable=array.flags.writeable)


def _unpair(pairs, like):
    """Return a gradient on pairs as one in an operand's own shape and kind."""
    joined = np.ascontiguousarray(pairs)
    if type(like) is complex or _is_complex(like):
        return joined.view(np.result_type(joined.dtype, np.complex64))[..., 0]
    return joined[..., 0].astype(_problem.gradient_dtype(_signature(like), joined.dtype))


def _forward_pairs(family, names, a, b, h0, axis, reverse, lengths, out):
    dtype, shape, gate, axis, lengths = _pair_problem(names[:2], a, b, {"h0": h0}, axis, lengths)
    if out is None:
        strides = _problem.like(shape, dtype, *((v.shape, v.strides) for v in (b, a) if type(v) is _ndarray))
        out = _problem.empty(shape, dtype, strides)
    elif out.shape != shape:
        raise ValueError(say.out_shape(out.shape, shape))
    elif out.dtype != dtype:
        raise TypeError(say.out_dtype(out.dtype, dtype))
    pairs = _pair(b, dtype), _pair(h0, dtype)
    _, last = forward(family, names, gate, *pairs, axis, reverse, lengths, True, _pair(out, dtype))
    return out, np.ascontiguousarray(last).view(dtype)[..., 0]


def _vjp_pairs(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state):
    others = {names[0]: g, names[3]: h, "h0": h0, "grad_state": grad_state}
    dtype, _, gate, axis, lengths = _pair_problem(names[1:3], a, b, others, axis, lengths)
    g, pair_b, h, pair_h0, grad_state = (_pair(value, dtype) for value in (g, b, h, h0, grad_state))
    grad_a, grad_b, grad_h0 = vjp(family, names, g, gate, pair_b, h, pair_h0, axis, reverse, lengths, grad_state)
    grad_a = grad_a.reshape(np.shape(a))
    return grad_a, _unpair(grad_b, b), None if h0 is None else _unpair(grad_h0, h0)

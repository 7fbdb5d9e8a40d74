"""What every kind of call checks of its arguments, whatever library its operands belong to."""

from __future__ import annotations

import operator
from collections import namedtuple
from typing import Any

import numpy as np

from . import arrays, messages as say

# What a call takes in place of lengths where series begin anew inside the axis of time, as it was given.
Segments = namedtuple("Segments", "lengths offsets resets")


def split(lengths: Any, offsets: Any, resets: Any) -> Any:
    """Return what a call takes as lengths: these alone, or with what says where series begin anew."""
    if offsets is None and resets is None:
        return lengths
    if offsets is not None and lengths is not None:
        raise ValueError(say.offsets_and_lengths())
    return Segments(lengths, offsets, resets)


def parts(lengths: Any) -> Segments:
    """Return lengths, offsets and resets of what `split` has returned."""
    return lengths if type(lengths) is Segments else Segments(lengths, None, None)


def flag(name: str, value: Any) -> bool:
    """Return a flag as a bool."""
    if value is False or value is True:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise TypeError(say.flag(name, type(value)))


def axis(value: Any, name: str = "axis") -> int:
    """Return an axis, which may count from the end, or another integer as an int."""
    if type(value) is int:
        return value
    try:
        if isinstance(value, (bool, np.bool_)):  # a plan is remembered by its arguments: True would be taken for 1
            raise TypeError
        return operator.index(value)
    except TypeError:  # an array has the method, but not for several numbers
        raise TypeError(say.count_type(name, type(value))) from None


def count(name: str, value: Any) -> int:
    """Return an integer that is at least 1."""
    found = axis(value, name)
    if found < 1:
        raise ValueError(say.at_least(name, 1, found))
    return found


def is_number(value: Any) -> bool:
    # A timedelta64 is an integer to NumPy.
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, (bool, np.timedelta64))


def is_array(value: Any) -> bool:
    """Return whether a value is an array, a tensor, or has labels."""
    return hasattr(value, "shape") and not isinstance(value, np.generic)


def is_complex(dtype: Any) -> bool:
    """Return whether a dtype, of NumPy or of torch, is one of complex numbers."""
    return bool(dtype.is_complex if hasattr(dtype, "is_complex") else dtype.kind == "c")


def number(name: str, value: Any, rules: Any) -> float:
    """Return a real number as a float; raise if it is not in the domain that rules have for it."""
    if not is_number(value):
        raise TypeError(say.constant_type(name, type(value)))
    try:
        found = float(value)
    except OverflowError:
        raise ValueError(say.too_large(name, "float64", 1023)) from None
    if not rules[name][1](found):
        raise ValueError(say.constant_domain(name, rules[name][0], found))
    return found


def kind(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Raise for a dtype, and a shape, that lengths, offsets or resets cannot have."""
    is_integer = dtype.kind in "iu"
    if name == "lengths" and not is_integer:
        raise TypeError(say.lengths_dtype(f"dtype {dtype}"))
    if name == "offsets" and not (is_integer and len(shape) == 1 and shape[0]):
        raise (ValueError if is_integer else TypeError)(say.offsets_kind(dtype, shape))
    if name == "resets" and dtype != np.bool_:
        raise TypeError(say.resets_dtype(dtype))


def with_numbers(name: str, value: Any) -> Any:
    """Return an array; raise for a tensor of torch's device meta."""
    if getattr(value, "is_meta", False):
        raise ValueError(say.no_numbers(name))
    return value


def on_host(name: str, value: Any) -> np.ndarray:
    """Return lengths, offsets or resets as an array of the caller's shape and dtype; raise for what is none."""
    if arrays.any_tensor(value):
        value = with_numbers(name, value)
        try:  # within a transform of torch.func, `numpy` and `detach` would be the transform's
            value = np.from_dlpack(value if value.is_cpu and not value.requires_grad else value.detach().cpu())
        except (RuntimeError, NotImplementedError, BufferError):
            raise ValueError(say.untraced(name)) from None
    array = np.asarray(arrays.take(name, value)[0])
    if name == "lengths" and array.dtype == object and array.ndim == 0 and isinstance(array[()], int):
        return array  # a number that is out of any range
    if array.size or not isinstance(value, (list, tuple)) or name == "offsets":
        kind(name, array.dtype, array.shape)
    return array.astype(bool, copy=False) if name == "resets" else array


def offsets_in_range(offsets: np.ndarray, steps: int) -> np.ndarray:
    """Return offsets as int64; raise unless they go from 0 to the number of steps and never descend."""
    first, last = int(offsets[0]), int(offsets[-1])
    if first != 0 or last != steps:
        raise ValueError(say.offsets_ends(first, last, steps))
    if (offsets[1:] < offsets[:-1]).any():
        at = int(np.argmax(offsets[1:] < offsets[:-1]))
        raise ValueError(say.offsets_order(int(offsets[at]), int(offsets[at + 1])))
    return offsets.astype(np.int64, copy=False)


def resets_shape(came: tuple[int, ...], shape: tuple[int, ...], axis: int) -> None:
    """Raise unless a shape is that of leading axes of another, time among them; an axis of 1 is broadcast."""
    wanted = shape[: len(came)]
    if not axis < len(came) <= len(shape) or any(n not in (1, m) for n, m in zip(came, wanted, strict=True)):
        raise ValueError(say.resets_shape(came, shape, axis))


def lengths_in_range(lengths: np.ndarray, steps: int) -> np.ndarray:
    """Return lengths as contiguous int64; raise unless each is a number of steps."""
    try:
        own = np.array(lengths, np.int64, order="C")
        # One pass tells both: without a sign, what is below 0 is above all.
        is_beyond = own.size > 0 and np.maximum.reduce(own.view(np.uint64), axis=None) > steps
    except OverflowError:
        is_beyond = True
    if is_beyond:
        raise ValueError(say.lengths_range(int(lengths.min()), int(lengths.max()), steps))
    return own


def out_form(came_shape: Any, came_dtype: Any, shape: Any, dtype: Any) -> None:
    """Raise unless ``out``, of a shape and a dtype, has the result's."""
    if came_shape != shape:
        raise ValueError(say.out_shape(came_shape, shape))
    if came_dtype != dtype:
        raise TypeError(say.out_dtype(came_dtype, dtype))


def out_memory(out: Any, operands: Any, ends: Any = ()) -> None:
    """Raise unless ``out`` is an operand's own memory, or none of it, and none of that of lengths, offsets and resets.

    Operands and ends are pairs of a name and an array, or what has no memory.
    """
    for name, operand in operands:
        if type(operand) is not np.ndarray or operand is out:
            continue
        if arrays.overlap(out, operand) and not arrays.is_same_view(out, operand):
            raise ValueError(say.out_overlap(name))
    for name, end in ends:
        if type(end) is np.ndarray and arrays.overlap(out, end):
            raise ValueError(say.out_shared(name))


def out_array(out: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, operands: Any, ends: Any = ()) -> None:
    """Raise unless a result of a shape and a dtype may be written to an array; the rest as for `out_memory`."""
    out_form(out.shape, out.dtype, shape, dtype)
    if not out.flags.writeable:
        raise ValueError(say.out_read_only())
    if arrays.overlaps_itself(out):
        raise ValueError(say.out_self_overlap())
    out_memory(out, operands, ends)


# By the argument's name: such an array, checked against the number of steps.
IN_RANGE = {"lengths": lengths_in_range, "offsets": offsets_in_range}

"""What every kind of call checks of its arguments, whatever library its operands belong to."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from . import _arrays
from . import _messages as say


def flag(name: str, value: Any) -> bool:
    """Return a flag as a bool."""
    if value is False or value is True:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise TypeError(say.flag(name, type(value)))


def axis(axis: Any) -> int:
    """Return an axis as an int, which may count from the end."""
    if type(axis) is int:
        return axis
    # A plan is remembered by its arguments, and True or 1.0 would be taken for 1.
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise TypeError(say.axis_type(type(axis)))
    try:
        return operator.index(axis)
    except TypeError:
        raise TypeError(say.axis_type(type(axis))) from None


def lengths(lengths: Any) -> np.ndarray:
    """Return lengths as an array of integers of the caller's shape and dtype; raise TypeError for what is none."""
    if _arrays.any_tensor(lengths):
        lengths = lengths.detach().cpu().numpy()
    if type(lengths) is int:
        lengths = np.array(lengths, np.int64 if abs(lengths) < 2**63 else object)
    array = np.asarray(_arrays.take("lengths", lengths)[0])
    if array.dtype == object and array.ndim == 0 and isinstance(array[()], int):
        return array  # a number that is out of any range
    if array.dtype.kind not in "iu" and not (array.size == 0 and isinstance(lengths, (list, tuple))):
        raise TypeError(say.lengths_dtype(f"dtype {array.dtype}"))
    return array


def lengths_in_range(lengths: np.ndarray, steps: int) -> np.ndarray:
    """Return lengths as contiguous int64; raise unless each is a number of steps."""
    if lengths.size:
        low, high = int(lengths.min()), int(lengths.max())
        if low < 0 or high > steps:
            raise ValueError(say.lengths_range(low, high, steps))
    return np.array(lengths, np.int64, order="C")

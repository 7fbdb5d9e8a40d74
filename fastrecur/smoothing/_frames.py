"""Series, frames and labelled arrays of pandas, polars and xarray: their numbers, and results put back in their type.

None of these libraries is imported here. A value is told by the library that its type comes from; what is called is its
own methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _messages as say

Wrap = Callable[[Any], Any]


def _kind(value: Any) -> tuple[str, str]:
    kind = type(value)
    for base in kind.__mro__:
        root = (base.__module__ or "").partition(".")[0]
        if root in ("pandas", "polars", "xarray") and base.__name__ in ("Series", "DataFrame", "DataArray"):
            return root, base.__name__
    return "", ""


def is_labelled(value: Any) -> bool:
    """Return whether a value has its numbers within labels."""
    return bool(_kind(value)[0])


def unwrap(value: Any, axis: Any) -> tuple[Any, Any, Wrap]:
    """Return a value's numbers, the axis as an integer, and what puts a result in the value's own type."""
    library, name = _kind(value)
    if library == "pandas":
        numbers = value.to_numpy()
        if numbers.dtype == object:  # nullable columns: a missing value is NaN
            numbers = _as_floats(value)
        labels = {"name": value.name} if name == "Series" else {"columns": value.columns}
        return numbers, axis, lambda result: value._constructor(result, index=value.index, **labels)
    if library == "polars":
        numbers = value.to_numpy()
        if name == "Series":
            return numbers, axis, lambda result: type(value)(value.name, result)
        return numbers, axis, lambda result: type(value)(result, schema=value.columns)
    if library == "xarray":
        if isinstance(axis, str):
            if axis not in value.dims:
                raise ValueError(say.dimension(axis, value.dims))
            axis = value.dims.index(axis)
        return value.data, axis, lambda result: value.copy(data=result)
    return value, axis, lambda result: result


def _as_floats(value: Any) -> np.ndarray:
    try:
        return np.asarray(value.to_numpy(dtype=np.float64, na_value=np.nan))
    except (TypeError, ValueError):
        raise TypeError(say.frame_values(type(value))) from None


def unwrap_pair(x: Any, y: Any, axis: Any) -> tuple[Any, Any, Any, Wrap]:
    """Return the numbers of two values that belong together; the result has the first one's type."""
    library, _ = _kind(x)
    if library == "pandas" and _kind(y)[0] == "pandas" and not x.index.equals(y.index):
        raise ValueError(say.indexes())
    numbers_x, plain_axis, wrap = unwrap(x, axis)
    return numbers_x, unwrap(y, axis)[0], plain_axis, wrap

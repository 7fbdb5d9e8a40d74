"""What computes a statistic: at once, or, of Dask arrays, chunk by chunk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .. import _arrays, _shapes
from .. import _messages as say
from . import _run
from ._arrays import axis_of
from ._times import take_times


def compute(
    statistic: str, request: _run.Request, x: Any, y: Any, axis: Any, state: Any = None, last_time: Any = None
) -> tuple[Any, Any]:
    """Return a statistic of ``x`` (and ``y``), in their library, and its state (None: of Dask arrays)."""
    borders = request.borders
    arrays = request.constant.arrays.values()
    if (borders.exist or borders.groups is not None) and _arrays.any_lazy(x, y, *arrays):
        raise TypeError(say.groups_lazy("groups" if borders.groups is not None else "offsets` or `resets"))
    if borders.groups is not None:
        return _by_group(statistic, request, x, y, axis), None
    if _arrays.any_lazy(x, y, request.times, *arrays):
        from . import _lazy

        return _lazy.compute(statistic, request, x, y, axis), None
    return _run.compute(statistic, request, x, y, axis, state, last_time)


def _by_group(statistic: str, request: _run.Request, x: Any, y: Any, axis: Any) -> Any:
    """Return a statistic of each group by itself, in the order of the data."""
    given = {"x": x, "y": y, **request.constant.arrays}
    values = {name: v if hasattr(v, "shape") else np.asarray(v) for name, v in given.items() if v is not None}
    shape = _shapes.broadcast_shape(tuple(values), [tuple(v.shape) for v in values.values()])
    axis = axis_of(axis, shape, ("x",))
    order, lost, borders = request.borders.sorted_by_group(shape[axis])

    def sort(v: Any) -> Any:
        at = axis - len(shape) + len(v.shape)
        return v if at < 0 or v.shape[at] == 1 else v[(slice(None),) * at + (order,)]

    found = {name: sort(value) for name, value in values.items()}
    times, x_sorted = request.times, found.pop("x")
    y_sorted = x_sorted if y is x else found.get("y")
    found.pop("y", None)
    if times is not None:
        times = take_times(times, as_tensor=hasattr(times, "detach"))
        times = times[order] if times.ndim == 1 else sort(times)
    request = replace(request, constant=request.constant.replaced(**found), times=times, borders=borders)
    result, _ = _run.compute(statistic, request, x_sorted, y_sorted, axis)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    result = result[(slice(None),) * axis + (back,)]
    if lost.any():
        result[(slice(None),) * axis + (np.flatnonzero(lost),)] = float("nan")
    return result

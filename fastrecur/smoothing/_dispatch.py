"""What computes a statistic: at once, group by group, or, of Dask arrays, chunk by chunk."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np

from .. import _arrays, _shapes, _threads
from .. import _messages as say
from . import _run
from ._arrays import Data, axis_of, check_constant
from ._segments import Borders
from ._times import edge, in_units, steps, take_times


def compute(statistic: str, request: _run.Request, x: Any, y: Any, axis: Any) -> Any:
    """Return a statistic of ``x`` (and ``y``), in their library."""
    borders, constants = request.borders, request.constant.arrays.values()
    is_lazy = _arrays.any_lazy(x, y, *constants, request.times, borders.resets)
    if borders.groups is not None:
        if is_lazy:
            raise TypeError(say.groups_lazy())
        return _by_group(statistic, request, x, y, axis)
    if is_lazy:
        return _by_chunk(statistic, request, x, y, axis)
    return _run.compute(statistic, request, x, y, axis)[0]


def _by_group(statistic: str, request: _run.Request, x: Any, y: Any, axis: Any) -> Any:
    """Return a statistic of each group by itself, in the order of the data."""
    given = {"x": x} | ({} if y is None or y is x else {"y": y}) | request.constant.arrays
    values = {name: v if hasattr(v, "shape") else np.asarray(v) for name, v in given.items()}
    shape = _shapes.broadcast_shape(tuple(values), [tuple(v.shape) for v in values.values()])
    axis = axis_of(axis, shape, ("x",))
    order, lost, borders = request.borders.sorted_by_group(shape[axis])

    def sort(v: Any) -> Any:
        at = axis - len(shape) + len(v.shape)
        return v if at < 0 or v.shape[at] == 1 else v[(slice(None),) * at + (order,)]

    found = {name: sort(value) for name, value in values.items()}
    times, x_sorted = request.times, found.pop("x")
    y_sorted = x_sorted if y is x else found.pop("y", None)
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


def _by_chunk(statistic: str, request: _run.Request, x: Any, y: Any, axis: Any) -> Any:
    """Return a statistic of Dask arrays: a chunk after the other, which hand the state on along time."""
    from .. import _dask
    from .._dask import Operand

    is_variance, constants = y is x, request.constant.arrays
    given = {"x": x} | ({} if y is None or is_variance else {"y": y}) | constants
    values = {name: _dask.take(name, value) for name, value in given.items()}
    shape = _shapes.broadcast_shape(tuple(values), [np.shape(value) for value in values.values()])
    axis = axis_of(axis, shape, ("x",))
    operands = {name: Operand(value, _dask.last_axes(value, range(len(shape)))) for name, value in values.items()}
    for name in constants:
        if isinstance(values[name], np.ndarray) and values[name].dtype.kind != "m":
            data = Data((name,), (values[name],))
            check_constant(data, name, data.values[0])
    flags = request.borders.flags(shape, axis)
    if flags is not None:
        operands["resets"] = Operand(flags, _dask.last_axes(flags, range(len(shape))))
    if request.times is not None:
        operands["times"] = Operand(*_lazy_times(request, shape, axis, flags))
    bare = replace(
        request,
        constant=request.constant.replaced(**dict.fromkeys(constants)),
        times=None,
        borders=Borders(None, None, None),
    )
    step = functools.partial(
        _advance, statistic=statistic, request=bare, axis=axis, is_variance=is_variance, names=tuple(constants)
    )
    names = ("x", "y", "times", "resets", *constants)
    metas = {name: _dask.empty_like(operand.value) for name, operand in operands.items()}
    meta, _ = step(None, None, *map(metas.get, names))
    chunks, operands = _dask.align(operands, shape)
    blocks = [operands.get(name, Operand(None)) for name in names]
    return _dask.Walk(f"ewm_{statistic}", step, chunks, blocks, axis, False, Operand(None)).result("h", 0, meta)


def _lazy_times(request: _run.Request, shape: tuple[int, ...], axis: int, flags: Any) -> tuple[Any, tuple[int, ...]]:
    """Return times, which may be a Dask array, and in which axes of the data they stand."""
    from .._dask import take

    times = request.times
    if not _arrays.any_lazy(times):
        times = take_times(times)
        in_units(times, request.constant.halflife, request.constant.dates)
        if not _arrays.any_lazy(flags):
            steps(times, shape, axis, begins=flags)  # in memory, they are checked now
    times = take("times", times)
    if times.shape not in ((shape[axis],), shape):
        raise ValueError(say.times_shape(times.shape, shape[axis]))
    return times, (axis,) if times.ndim == 1 else tuple(range(len(shape)))


def _advance(
    before: Any, place: Any, x: Any, y: Any, times: Any, resets: Any, *constants: Any, statistic: str,
    request: _run.Request, axis: int, is_variance: bool, names: tuple[str, ...],
) -> Any:  # fmt: skip
    state, last_time = (None, None) if before is None else before
    constant = request.constant.replaced(**dict(zip(names, constants, strict=True)))
    times = None if times is None else take_times(times)
    request = replace(request, constant=constant, times=times, borders=Borders(None, resets, None))
    with _threads.alone():
        result, after = _run.compute(statistic, request, x, x if is_variance else y, axis, state, last_time)
    if times is not None and times.size:
        last_time = edge(times, axis, -1)
    return result, (after, last_time)

"""Statistics of Dask arrays: each chunk by the same kernels or formulas, the state handed on along time."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np

from .. import _arrays, _dask, _shapes, _threads
from .. import _messages as say
from .._dask import Operand, Walk
from . import _run
from ._arrays import Data, axis_of, check_constant
from ._times import edge, steps, take_times


def compute(statistic: str, request: _run.Request, x: Any, y: Any, axis: Any) -> Any:
    """Return a statistic of ``x`` (and ``y``) as a Dask array, as `_run.compute` does at once."""
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
    if request.times is not None:
        operands["times"] = _times(request, shape, axis)
    bare = replace(request, constant=request.constant.replaced(**dict.fromkeys(constants)), times=None)
    step = functools.partial(
        _advance, statistic=statistic, request=bare, axis=axis, is_variance=is_variance, names=tuple(constants)
    )
    blocks = ("x", "y", "times", *constants)
    metas = {name: _dask.empty_like(operand.value) for name, operand in operands.items()}
    meta, _ = step(None, None, *map(metas.get, blocks))
    chunks, operands = _dask.align(operands, shape)
    found = [operands.get(name, Operand(None)) for name in blocks]
    return Walk(f"ewm_{statistic}", step, chunks, found, axis, False, Operand(None)).result("h", 0, meta)


def _times(request: _run.Request, shape: tuple[int, ...], axis: int) -> Operand:
    times = request.times
    if not _arrays.any_lazy(times):
        times = take_times(times)
        steps(times, request.constant.dates, shape, axis)  # in memory, they are checked now
    times = _dask.take("times", times)
    if times.shape not in ((shape[axis],), shape):
        raise ValueError(say.times_shape(times.shape, shape[axis]))
    return Operand(times, (axis,) if times.ndim == 1 else tuple(range(len(shape))))


def _advance(
    before: Any, place: Any, x: Any, y: Any, times: Any, *constants: Any, statistic: str, request: _run.Request,
    axis: int, is_variance: bool, names: tuple[str, ...],
) -> Any:  # fmt: skip
    state, last_time = (None, None) if before is None else before
    constant = request.constant.replaced(**dict(zip(names, constants, strict=True)))
    request = replace(request, constant=constant, times=times)
    with _threads.alone():
        result, after = _run.compute(statistic, request, x, x if is_variance else y, axis, state, last_time)
    if place is None or place[1][axis] == 0:
        return result, before
    if times is not None:
        last_time = edge(times, axis, -1)
    return result, (after, last_time)

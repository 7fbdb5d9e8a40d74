"""Statistics of Dask arrays: each chunk by the same kernels or formulas, the state handed on along time."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np

from .. import _arrays, _dask, _shapes, _threads
from .. import _messages as say
from .._dask import Operand, Walk
from . import _run
from ._arguments import elapsed, take_times
from ._arrays import Data, axis_of, check_alpha


def compute(statistic: str, request: _run.Request, x: Any, y: Any, axis: Any) -> Any:
    """Return a statistic of ``x`` (and ``y``) as a Dask array, as `_run.compute` does at once."""
    names = ("x", "alpha") if y is None else ("x", "alpha", "y")
    is_variance = y is x
    values = [_dask.take(name, v) for name, v in zip(names, (x, request.constant.alpha, y), strict=False)]
    shape = _shapes.broadcast_shape(names, [np.shape(v) for v in values])
    axis = axis_of(axis, shape, ("x",))
    every = range(len(shape))
    operands = {name: Operand(v, _dask.last_axes(v, every)) for name, v in zip(names, values, strict=True)}
    alpha = values[1]
    if isinstance(alpha, np.ndarray):
        data = Data(("alpha",), (alpha,))
        check_alpha(data, data.values[0])
    if request.times is not None:
        operands["times"] = _times(request, shape, axis)
    metas = {name: _dask.empty_like(o.value) for name, o in operands.items()}
    bare = copy.copy(request)
    bare.constant, bare.times = copy.copy(request.constant), None
    bare.constant.alpha = None
    step = functools.partial(_advance, statistic=statistic, request=bare, axis=axis, is_variance=is_variance)
    blocks = ("x", "alpha", "y", "times")
    meta, _ = step(None, None, *(metas.get(name) for name in blocks))
    if is_variance:
        del operands["y"]
    chunks, operands = _dask.align(operands, shape)
    given = [operands.get(name, Operand(None)) for name in blocks]
    return Walk(f"ewm_{statistic}", step, chunks, given, axis, False, Operand(None)).result("h", 0, meta)


def _times(request: _run.Request, shape: tuple[int, ...], axis: int) -> Operand:
    times = request.times
    if not _arrays.any_lazy(times):
        times = take_times(times)
        elapsed(times, request.constant, shape, axis)  # in memory, they are checked now
    times = _dask.take("times", times)
    if times.shape not in ((shape[axis],), shape):
        raise ValueError(say.times_shape(times.shape, shape[axis]))
    return Operand(times, (axis,) if times.ndim == 1 else tuple(range(len(shape))))


def _advance(
    before: Any, place: Any, x: Any, alpha: Any, y: Any, times: Any, *, statistic: str, request: _run.Request,
    axis: int, is_variance: bool,
) -> Any:  # fmt: skip
    state, last_time = (None, None) if before is None else before
    request = copy.copy(request)
    request.constant = copy.copy(request.constant)
    request.constant.alpha, request.times = alpha, times
    with _threads.alone():
        result, after = _run.compute(statistic, request, x, x if is_variance else y, axis, state, last_time)
    if place is None or place[1][axis] == 0:
        return result, before
    if times is not None:
        last_time = times[-1] if times.ndim == 1 else times[(*(slice(None),) * axis, slice(-1, None))]
    return result, (after, last_time)

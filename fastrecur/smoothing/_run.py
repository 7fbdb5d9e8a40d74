"""One statistic, from plain arguments to its result: by a kernel, or by the formulas."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _weighted_run
from .._cpu import _weighted
from . import _formulas
from ._arguments import ALPHA, Constant, is_array
from ._arrays import Data, axis_of, check_constant, quiet
from ._formulas import Moments, Shares, State
from ._segments import Borders, begin_anew
from ._times import decays, in_units, steps, take_times


@dataclass
class Request:
    """What is asked of a statistic beside its data, and what the caller calls these."""

    constant: Constant
    times: Any
    adjust: bool
    ignore_na: bool
    min_periods: int
    bias: bool = False
    borders: Borders = Borders(None, None, None)
    name: str = "x"

    @property
    def kind(self) -> str:
        """How weights come about: see `_formulas`."""
        return "adjust" if self.adjust else "fixed" if self.times is None else "timed"


def compute(
    statistic: str, request: Request, x: Any, y: Any, axis: Any, state: Any = None, last_time: Any = None
) -> tuple[Any, Any]:
    """Return a statistic of ``x`` (and ``y``), in their library, and its state; of a correlation three states."""
    constant, least = request.constant, request.min_periods
    named = {request.name: x, **({} if y is None or y is x else {"y": y})}
    series = tuple(named)
    named |= {constant.name: constant.value, **constant.arrays}
    spans = named.pop("halflife", None) if constant.dates else None  # an array of timedeltas
    data = Data(tuple(named), tuple(named.values()), state or ())
    xp = data.xp
    if isinstance(state, State) and state.moments is None:  # a stream's, which may have moved from another library
        state = State(*map(data.beside, state[:3]))
    values = dict(zip(named, data.values, strict=True))
    for name in constant.arrays.keys() & values.keys():
        check_constant(data, name, values[name])
    # A number has no part in the result's dtype.
    dtype = data.dtype(*(v for name, v in values.items() if name != constant.name or name in constant.arrays))
    shape = data.broadcast(*([] if spans is None else [spans]))
    axis = axis_of(axis, shape, series[:1])
    both, seen, valid, count = [values[name] for name in series], None, None, None
    flags = request.borders.flags(shape, axis)
    with data.threads():
        gate = _gate(data, request, values, shape, axis, last_time, flags)
        if not data.by_kernel:
            both, gate = [xp.broadcast_to(data.wide(v), shape) for v in both], xp.broadcast_to(gate, shape)
        if flags is not None or not data.by_kernel or statistic == "corr":
            seen = functools.reduce(operator.and_, [xp.isfinite(xp.broadcast_to(v, shape)) for v in both])
        if flags is not None:
            count = None if state is None else (state[0] if statistic == "corr" else state).count
            gate, valid, count = begin_anew(data, flags, seen, gate, request.kind, least, axis, count)
            least = 0
        w = None
        if data.by_kernel:
            run = functools.partial(_by_kernel, request, gate, shape, axis, least)
        else:
            first = state[0] if statistic == "corr" and state is not None else state
            w = _formulas.shares(xp, seen, gate, request.kind, request.ignore_na, least, axis, first)
            run = functools.partial(_by_formulas, xp, w, axis, request.bias)
        if statistic == "corr":
            result, after = _correlation(xp, run, both, seen, state, w)
        else:
            result, after = run(statistic, both[0], None if y is None else both[-1], state, dtype)
    if valid is not None:
        result = _formulas.masked(xp, valid, result)
        states = tuple(part._replace(count=count) for part in (after if statistic == "corr" else (after,)))
        after = states if statistic == "corr" else states[0]
    if data.give is None:
        return data.narrow(result, dtype), after
    return data.give(result.astype(dtype, copy=False)), after


def _gate(
    data: Data, request: Request, values: Any, shape: tuple[int, ...], axis: int, last_time: Any, begins: Any
) -> Any:
    """Return each step's decay, or alpha itself where a sample weighs that much."""
    constant, times = request.constant, request.times
    value = values[constant.name]
    if constant.name != "alpha" or not data.by_kernel:
        value = data.wide(value)
    alpha = ALPHA[constant.name](data.xp, value)
    if times is None:
        if not request.adjust:
            return alpha
        return 1.0 - (np.asarray(alpha, np.float64) if data.by_kernel else alpha)
    halflife = constant.halflife if constant.dates else values.get("halflife", constant.halflife)
    if data.by_kernel:
        return decays(take_times(times), constant.dates, halflife, alpha, shape, axis, last_time, begins)
    is_tensor = data.xp.__name__ == "torch" and isinstance(times, data.xp.Tensor)
    times, xp, readable = take_times(times, is_tensor), np, True
    if is_tensor:
        times, xp, readable = data.beside(times, "times"), data.xp, data.at_hand
    times, halflife, last_time = in_units(times, halflife, constant.dates, last_time)
    gaps = steps(times, shape, axis, last_time, begins, xp, readable)
    if constant.dates:
        gaps, halflife = gaps / halflife, 1.0
    gaps = data.wide(gaps) if is_tensor else data.beside(np.asarray(gaps, np.float64))
    return (1.0 - alpha) ** (gaps / (data.wide(halflife) if is_array(halflife) else halflife))


_MEAN = (_weighted.WEIGHT, _weighted.COUNT, _weighted.MEAN)
_MOMENTS = (_weighted.ORIGIN, _weighted.ORIGIN_Y, _weighted.MEAN_Y, _weighted.COVARIANCE, _weighted.ROOM)


def _by_kernel(
    request: Request, gate: Any, shape: Any, axis: int, least: int, statistic: str, x: Any, y: Any, state: Any,
    dtype: Any,
) -> tuple[Any, State]:  # fmt: skip
    planes = [] if state is None else [*state[:3], *(state.moments or ())]
    result, after = _weighted_run.run(
        statistic, x, y, gate, shape, dtype, axis, request.kind, request.ignore_na, least, request.bias,
        dict(zip(_MEAN + _MOMENTS, planes, strict=False)),
    )  # fmt: skip
    moments = None if y is None else Moments(*(after[k] for k in _MOMENTS))
    weight, count, mean = (after[k] for k in _MEAN)
    return result, State(weight, count, mean, moments)


def _by_formulas(
    xp: Any, w: Shares, axis: int, bias: bool, statistic: str, x: Any, y: Any, state: Any, dtype: Any
) -> tuple[Any, State]:
    if y is None:
        result, last = _formulas.mean(xp, w, x, axis, state, statistic == "sum")
        return _formulas.masked(xp, w.valid, result), State(w.weight, w.count, last)
    result, room, after = _formulas.covariance(xp, w, x, y, axis, state)
    if statistic == "corr":
        return result, after
    valid = w.valid if bias else w.valid & (room > 0)
    result = result if bias else result / xp.where(valid, room, xp.ones_like(room))
    return _formulas.masked(xp, valid, result), after


def _correlation(xp: Any, run: Callable[..., Any], both: list[Any], seen: Any, state: Any, w: Any) -> tuple[Any, Any]:
    """Return the correlation of two series, or of one with itself, from their covariance and variances."""
    if w is None:  # for kernels, the same samples must be missing in both
        both = [_formulas.masked(xp, seen, v) for v in both]
    x, y, wide = both[0], both[-1], np.dtype(np.float64)  # what is divided may be small beyond float32 after a gap
    parts = zip(((x, y), (x, x), (y, y)), state or (None, None, None), strict=True)
    (result, *variances), after = zip(*(run("corr", *pair, before, wide) for pair, before in parts), strict=True)
    if w is None:
        with quiet(xp):
            result /= np.sqrt(variances[0]) * np.sqrt(variances[1])
        return result, after
    valid = w.valid & (variances[0] > 0) & (variances[1] > 0)
    sizes = [xp.sqrt(xp.where(valid, v, xp.ones_like(v))) for v in variances]
    return _formulas.masked(xp, valid, result / (sizes[0] * sizes[1])), after

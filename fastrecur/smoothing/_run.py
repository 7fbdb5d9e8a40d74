"""One statistic, from plain arguments to its result: by a kernel, or by the formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _weighted_run
from .._cpu import _weighted
from . import _formulas
from ._arguments import ALPHA, Constant, is_array
from ._arrays import Data, axis_of, check_constant
from ._formulas import Moments, State
from ._times import decays, steps, take_times, tensor_steps


class Request:
    """What is asked of a statistic beside its data."""

    def __init__(
        self, constant: Constant, times: Any, adjust: bool, ignore_na: bool, min_periods: int, bias: bool = False
    ) -> None:
        self.constant, self.times = constant, times
        self.adjust, self.ignore_na, self.min_periods, self.bias = adjust, ignore_na, min_periods, bias

    @property
    def kind(self) -> str:
        """How weights come about: see `_formulas`."""
        return "adjust" if self.adjust else "fixed" if self.times is None else "timed"


def compute(
    statistic: str, request: Request, x: Any, y: Any, axis: Any, state: Any = None, last_time: Any = None
) -> tuple[Any, Any]:
    """Return a statistic of ``x`` (and ``y``), in their library, and its state; of a correlation three states."""
    constant = request.constant
    named = {"x": x, constant.name: constant.value, **({} if y is None else {"y": y}), **constant.arrays}
    spans = named.pop("halflife", None) if constant.dates else None  # an array of timedeltas
    data = Data(tuple(named), tuple(named.values()), tuple(_leaves(state)))
    state = _map(data.beside, state)
    values = dict(zip(named, data.values, strict=True))
    for name in constant.arrays.keys() & values.keys():
        check_constant(data, name, values[name])
    # A number has no part in the result's dtype.
    dtype = data.dtype(*(v for name, v in values.items() if name != constant.name or name in constant.arrays))
    shape = data.broadcast(*([] if spans is None else [spans]))
    axis = axis_of(axis, shape, ("x",))
    x, y = values["x"], values.get("y")
    if data.give is not None:
        with data.threads():
            gate = _gate(data, request, values, shape, axis, last_time)
            return _by_kernel(data.give, statistic, request, x, y, gate, shape, dtype, axis, state)
    gate = _gate(data, request, values, shape, axis, last_time)
    return _by_formulas(data, statistic, request, x, y, gate, shape, dtype, axis, state)


def _gate(data: Data, request: Request, values: Any, shape: tuple[int, ...], axis: int, last_time: Any) -> Any:
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
        return decays(take_times(times), constant.dates, halflife, alpha, shape, axis, last_time)
    if data.xp.__name__ == "torch" and isinstance(times, data.xp.Tensor):
        gaps = tensor_steps(data.beside(times), constant.dates, shape, axis, last_time, data.at_hand)
    else:
        gaps = steps(take_times(times), constant.dates, shape, axis, last_time)
        if constant.dates:
            gaps, halflife = gaps / halflife, 1.0
        gaps = data.beside(np.asarray(gaps, np.float64))
    return (1.0 - alpha) ** (gaps / (data.wide(halflife) if is_array(halflife) else halflife))


_MEAN = (_weighted.WEIGHT, _weighted.COUNT, _weighted.MEAN)
_MOMENTS = (_weighted.ORIGIN, _weighted.ORIGIN_Y, _weighted.MEAN_Y, _weighted.COVARIANCE, _weighted.ROOM)


def _map(function: Callable[[Any], Any], state: Any) -> Any:
    """Return a state, or several, with a function of each of its arrays."""
    if state is None or not isinstance(state, tuple):
        return None if state is None else function(state)
    parts = [_map(function, part) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def _leaves(state: Any) -> list[Any]:
    found: list[Any] = []
    _map(found.append, state)
    return found


def _planes(state: State) -> dict[int, Any]:
    planes = dict(zip(_MEAN, state[:3], strict=True))
    return planes if state.moments is None else planes | dict(zip(_MOMENTS, state.moments, strict=True))


def _by_kernel(
    give: Callable[[np.ndarray], Any], statistic: str, request: Request, x: Any, y: Any, gate: Any, shape: Any,
    dtype: Any, axis: int, state: Any,
) -> tuple[Any, Any]:  # fmt: skip
    def run(statistic: str, x: Any, y: Any, state: Any, dtype: Any = dtype) -> tuple[Any, State]:
        result, planes = _weighted_run.run(
            statistic, x, y, gate, shape, dtype, axis, request.kind, request.ignore_na, request.min_periods,
            request.bias, None if state is None else _planes(state),
        )  # fmt: skip
        moments = Moments(*(planes[k] for k in _MOMENTS)) if statistic == "covary" else None
        weight, count, mean = (planes[k] for k in _MEAN)
        return result, State(weight, count, mean, moments)

    if statistic == "corr":
        there = np.isfinite(x) & np.isfinite(y)
        x, y = (np.where(there, v, v.dtype.type(np.nan)) for v in (x, y))
        parts = zip(((x, y), (x, x), (y, y)), state or (None, None, None), strict=True)
        wide = np.dtype(np.float64)  # what is divided may be small beyond float32 after a gap
        (result, *variances), last = zip(*(run("covary", *pair, before, wide) for pair, before in parts), strict=True)
        with np.errstate(all="ignore"):
            result /= np.sqrt(variances[0]) * np.sqrt(variances[1])
            return give(result.astype(dtype, copy=False)), last
    result, after = run(statistic, x, y, state)
    return give(result), after


def _by_formulas(
    data: Data, statistic: str, request: Request, x: Any, y: Any, gate: Any, shape: Any, dtype: Any, axis: int,
    state: Any,
) -> tuple[Any, Any]:  # fmt: skip
    xp = data.xp
    x = xp.broadcast_to(data.wide(x), shape)
    seen = xp.isfinite(x)
    if y is not None:
        y = xp.broadcast_to(data.wide(y), shape)
        seen = seen & xp.isfinite(y)
    gate = xp.broadcast_to(gate, shape)
    first, *others = state if statistic == "corr" and state is not None else (state, state, state)
    w = _formulas.shares(xp, seen, gate, request.kind, request.ignore_na, request.min_periods, axis, first)
    valid = w.valid
    after: Any
    if statistic in ("average", "sum"):
        result, last = (_formulas.mean if statistic == "average" else _formulas.total)(xp, w, x, axis, state)
        after = State(w.weight, w.count, last)
    elif statistic == "corr":
        found = [_formulas.covariance(xp, w, v, v, axis, s) for v, s in zip((x, y), others, strict=True)]
        variances = [variance for variance, _, _ in found]
        valid = valid & (variances[0] > 0) & (variances[1] > 0)
        one = xp.ones_like(x)
        sizes = [xp.sqrt(xp.where(valid, v, one)) for v in variances]
        result, _, last = _formulas.covariance(xp, w, x, y, axis, first)
        result, after = result / (sizes[0] * sizes[1]), (last, *(s for _, _, s in found))
    else:
        result, room, after = _formulas.covariance(xp, w, x, y, axis, state)
        if not request.bias:
            varies = room > 0
            result = result / xp.where(varies, room, xp.ones_like(room))
            valid = valid & varies
    return data.narrow(_formulas.masked(xp, valid, result), dtype), after

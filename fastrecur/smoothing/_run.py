"""One statistic, from plain arguments to its result: by a kernel, or by the formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _problem, _weighted_run
from . import _formulas
from ._arguments import Constant, elapsed, take_times
from ._arrays import Data, axis_of, check_alpha
from ._formulas import State


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
    statistic: str, request: Request, x: Any, y: Any, axis: Any, state: State | None = None, last_time: Any = None
) -> tuple[Any, State]:
    """Return a statistic of ``x`` (and ``y``), in their library, and the state of its mean."""
    alpha = request.constant.alpha
    names = ("x", "alpha") if y is None else ("x", "alpha", "y")
    data = Data(names, (x, alpha) if y is None else (x, alpha, y), state or ())
    state = None if state is None else State(*map(data.beside, state))
    x, alpha, *others = data.values
    y = others[0] if others else None
    shapes = [tuple(v.shape) for v in data.values]
    shape = _problem.broadcast_shape(names, shapes)
    axis = axis_of(axis, shape, ("x",))
    plain_alpha = isinstance(request.constant.alpha, (int, float))
    dtype = data.dtype(*(v for v in (x, None if plain_alpha else alpha, y) if v is not None))
    if not plain_alpha:
        check_alpha(data, alpha)
    gate = _gate(data, request, alpha, shape, axis, last_time)
    if data.give is not None:
        with data.threads():
            return _by_kernel(data.give, statistic, request, x, y, gate, shape, dtype, axis, state)
    return _by_formulas(data, statistic, request, x, y, gate, shape, dtype, axis, state)


def _gate(data: Data, request: Request, alpha: Any, shape: tuple[int, ...], axis: int, last_time: Any) -> Any:
    """Return each step's decay, or alpha itself where a sample weighs that much."""
    if request.times is not None:
        gaps = elapsed(take_times(request.times), request.constant, shape, axis, last_time)
        if data.by_kernel:
            return np.exp2(-gaps) if alpha.ndim == 0 and alpha == 0.5 else (1.0 - np.asarray(alpha, np.float64)) ** gaps
        return (1.0 - data.wide(alpha)) ** data.beside(gaps)
    if data.by_kernel:
        return 1.0 - np.asarray(alpha, np.float64) if request.adjust else alpha
    alpha = data.wide(alpha)
    return 1.0 - alpha if request.adjust else alpha


def _by_kernel(
    give: Callable[[np.ndarray], Any], statistic: str, request: Request, x: Any, y: Any, gate: Any, shape: Any,
    dtype: Any, axis: int, state: State | None,
) -> tuple[Any, State]:  # fmt: skip
    def run(statistic: str, x: Any, y: Any) -> Any:
        return _weighted_run.run(
            statistic, x, y, gate, shape, dtype, axis, request.kind, request.ignore_na, request.min_periods,
            request.bias, state,
        )  # fmt: skip

    if statistic == "corr":
        there = np.isfinite(x) & np.isfinite(y)
        x, y = (np.where(there, v, v.dtype.type(np.nan)) for v in (x, y))
        (result, last), (var_x, _), (var_y, _) = (run("covary", *pair) for pair in ((x, y), (x, x), (y, y)))
        with np.errstate(all="ignore"):
            result /= np.sqrt(var_x) * np.sqrt(var_y)
    else:
        result, last = run(statistic, x, y)
    return give(result), State(*last)


def _by_formulas(
    data: Data, statistic: str, request: Request, x: Any, y: Any, gate: Any, shape: Any, dtype: Any, axis: int,
    state: State | None,
) -> tuple[Any, State]:  # fmt: skip
    xp = data.xp
    x = xp.broadcast_to(data.wide(x), shape)
    seen = xp.isfinite(x)
    if y is not None:
        y = xp.broadcast_to(data.wide(y), shape)
        seen = seen & xp.isfinite(y)
    gate = xp.broadcast_to(gate, shape)
    w = _formulas.shares(xp, seen, gate, request.kind, request.ignore_na, request.min_periods, axis, state)
    valid, last = w.valid, None
    if statistic == "average":
        result, last = _formulas.mean(xp, w, x, axis, state)
    elif statistic == "sum":
        result = _formulas.total(xp, w, x, axis)
    elif statistic == "corr":
        variances = [_formulas.covariance(xp, w, v, v, axis)[0] for v in (x, y)]
        valid = valid & (variances[0] > 0) & (variances[1] > 0)
        one = xp.ones_like(x)
        sizes = [xp.sqrt(xp.where(valid, v, one)) for v in variances]
        result = _formulas.covariance(xp, w, x, y, axis)[0] / (sizes[0] * sizes[1])
    else:
        result, room = _formulas.covariance(xp, w, x, y, axis)
        if not request.bias:
            varies = room > 0
            result = result / xp.where(varies, room, xp.ones_like(room))
            valid = valid & varies
    return data.narrow(_formulas.masked(xp, valid, result), dtype), State(w.weight, w.count, last)

"""Holt and Winters' method, a level with its trend and seasons: arguments, states to start from, and forecasts."""

import functools
import sys
from typing import Any, NamedTuple

import numpy as np

from .. import _dispatch
from .._arguments import arrays, checks, messages as say
from .._arguments.arrays import at, join
from .._arguments.names import suggesting
from .._arguments.records import HOLT_WINTERS
from .._cpu.seasons import holt_winters as _run
from ..filters import _levels
from ..filters._levels import moved, wide
from ._frames import aligned, unwrap
from ._holt import beginnings, checked, is_readable, of_series

CONSTANTS = "alpha", "beta", "phi", "gamma"
_STATES = "level", "trend", "season"


class HoltWinters(NamedTuple):
    """What `holt_winters` returns, all of the library, type, shape and dtype of the data.

    Attributes
    ----------
    forecast : array
        What was forecast for each step from the one before it.
    level, trend, season : array
        The components after each step; zeros, or with ``seasonal="mul"`` ones, of what the model does not have.
    """

    forecast: Any
    level: Any
    trend: Any
    season: Any


class HoltWintersState(NamedTuple):
    """What series have reached after all steps, in float64: what `forecast` and a next call go on from.

    Attributes
    ----------
    level, trend : array
        With 1 in place of time's axis; ``trend`` is None if the model has none.
    season : array
        With the period in place of time's axis, that of the next step first; None if the model has none.
    phi : float or array
        What damps the trend.
    seasonal : str or None
        How seasons enter.
    axis : int
        The axis of time.
    """

    level: Any
    trend: Any
    season: Any
    phi: Any
    seasonal: str | None
    axis: int


class _Model(NamedTuple):
    period: int
    seasonal: str | None
    has_trend: bool


@suggesting
def holt_winters(
    x: Any, alpha: Any, beta: Any = None, gamma: Any = None, *, period: Any = None, seasonal: Any = "add",
    phi: Any = 1.0, level: Any = None, trend: Any = None, season: Any = None, axis: Any = 0, return_state: Any = False,
) -> Any:  # fmt: skip
    r"""Smooth a level, its trend and its seasons: Holt and Winters' method, damped by ``phi``.

    Each step is forecast from the one before it, and all three are corrected by the error:

    ``forecast[t] = level[t-1] + phi*trend[t-1] + season[t-m]``

    .. math:: \hat x_t &= l_{t-1} + \varphi b_{t-1} + s_{t-m} \\
              l_t &= \alpha (x_t - s_{t-m}) + (1 - \alpha)(l_{t-1} + \varphi b_{t-1}) \\
              b_t &= \beta (l_t - l_{t-1}) + (1 - \beta) \varphi b_{t-1} \\
              s_t &= \gamma (x_t - l_{t-1} - \varphi b_{t-1}) + (1 - \gamma) s_{t-m}

    Seasons that multiply (``seasonal="mul"``) do so in place of the sum, and divide in place of the differences with
    ``x``. Errors are those of `ewm_mean`.

    Parameters
    ----------
    x, axis
        The data and the axis of time, as for `ewm_mean`, float16 and bfloat16, too. Arrays in CPU memory, Dask arrays,
        or tensors of any device, of which only those in CPU memory are smoothed by a kernel; tables of pandas, polars
        and xarray.
    alpha, beta, gamma, phi : float or array_like
        The smoothing factors of the level, of the trend and of the season, and what damps the trend: numbers in [0, 1],
        or arrays that broadcast to the shape of ``x`` with 1 along `axis`. Without ``beta`` there is no trend, without
        ``gamma`` and ``period`` there are no seasons.
    period : int, optional
        How many steps later a season comes again, ``m``.
    seasonal : {"add", "mul", None}
        Whether seasons are added, multiply, which takes values above 0, or are not there.
    level, trend, season : float or array_like, optional
        The state before the first step: in the shape of ``x`` with 1, for ``season`` with `period`, in place of `axis`,
        or broadcast to that; a level and a trend also without that axis. By default statsmodels' "simple" start: the
        mean of the first period, by how much that of the second one differs, a step, and how far each value of the
        first is from the mean. Without seasons the first value, and by how much the next one differs, a step.
    return_state : bool
        Whether the state after all steps is returned, too. A call that is given its level, trend and season goes on
        from there: whole and parts agree to the bit.

    Returns
    -------
    HoltWinters
        ``forecast``, ``level``, ``trend`` and ``season``, each of the library, type, shape and dtype of ``x``.
    state : HoltWintersState
        Only with ``return_state``.

    Notes
    -----
    NaN and infinities are missing values: there the step predicts, and corrects nothing. The first period's are left
    out of the first state, in which their season is none; a series without a value there needs a ``level``.

    The numbers are those of statsmodels' ``ExponentialSmoothing``, ``gamma`` its ``smoothing_seasonal``. States are
    float64. Tensors have gradients of every order of all arguments; those of a device without kernels, and gradients of
    gradients, are computed step by step by torch's operators. There is no kernel for GPUs.

    References
    ----------
    .. [1] P. R. Winters, "Forecasting sales by exponentially weighted moving averages", Management Science 6(3), 1960.
    .. [2] R. J. Hyndman, G. Athanasopoulos, "Forecasting: principles and practice", 3rd edition, 2021, section 8.3.

    Examples
    --------
    >>> from fastrecur.smoothing import forecast, holt_winters
    >>> found, state = holt_winters(
    ...     [4.0, 8.0, 6.0, 10.0, 8.0, 12.0], 0.5, 0.2, 0.1, period=2, return_state=True
    ... )
    >>> found.forecast
    array([ 5.     ,  9.4    ,  5.36   , 10.464  ,  7.1136 , 12.27264])
    >>> forecast(state, 3).round(2)
    array([ 9.21, 13.79, 10.89])
    """
    numbers, axis, wrap = unwrap(x, axis)
    wants_state = checks.flag("return_state", return_state)
    model = model_of(period, seasonal, beta, gamma, trend, season)
    given = dict(zip((*CONSTANTS, *_STATES), (alpha, beta, phi, gamma, level, trend, season), strict=True))
    given = {name: aligned(x, v, name, axis) for name, v in given.items() if v is not None}
    given |= {name: of_series(v, numbers, axis) for name, v in given.items() if name in _STATES[:2]}
    if numbers is not x and arrays.any_tensor(numbers, *given.values()):
        raise TypeError(say.not_a_tensor("x", type(x)))
    if _dispatch.place(numbers, *given.values()) == "device":
        raise TypeError(say.seasons_gpu("x", type(x)))
    *found, last = _levels.call(_kind(model), numbers, {"beta": 0.0, "gamma": 0.0} | given, axis)
    result = HoltWinters(*map(wrap, found))
    return (result, _state(last, given["phi"], model, axis)) if wants_state else result


def forecast(state: HoltWintersState, steps: Any) -> Any:
    """Continue series from the state they have reached, as `holt_winters` does where all values are missing.

    ``level + (phi + phi**2 + ... + phi**n)*trend + season[n - 1 mod m]`` is the forecast of ``n`` steps later; seasons
    that multiply do so.

    Parameters
    ----------
    state : HoltWintersState
        What `holt_winters` returned.
    steps : int
        How many steps.

    Returns
    -------
    array
        Of the library of the state, in float64, with ``steps`` in place of time's axis.

    Examples
    --------
    >>> from fastrecur.smoothing import forecast, holt_winters
    >>> x = [1.0, 2.0, 3.0]
    >>> _, state = holt_winters(x, 0.5, 0.5, level=1.0, trend=1.0, return_state=True)
    >>> forecast(state, 2)
    array([3.640625, 4.375   ])
    """
    level, trend, season, phi, seasonal, axis = state
    where = _dispatch.place(level, trend, season, phi)
    xp = {"memory": np, "tensors": sys.modules.get("torch")}.get(where) or sys.modules["dask.array"]
    power, damped, found = 1.0, 0.0, []
    for n in range(checks.count("steps", steps)):
        power = power * phi
        damped = damped + power
        base = level if trend is None else level + damped * trend
        if seasonal is not None:
            place = n % season.shape[axis]
            own = at(season, axis, slice(place, place + 1))
            base = base * own if seasonal == "mul" else base + own
        found.append(base)
    return join(xp, found, axis)


def model_of(period: Any, seasonal: Any, beta: Any, gamma: Any, trend: Any, season: Any) -> _Model:
    if seasonal not in ("add", "mul", None):
        raise ValueError(say.seasons_kind(seasonal))
    if period is None and gamma is None and season is None:
        seasonal = None
    for name, value in {"period": period, "gamma": gamma}.items():
        if seasonal is not None and value is None:
            raise ValueError(say.seasons_missing(name, "gamma" if name == "period" and gamma is not None else "period"))
    for name, value in {"gamma": gamma, "season": season}.items():
        if seasonal is None and value is not None:
            raise ValueError(say.seasons_state(name, "seasonal"))
    if beta is None and trend is not None:
        raise ValueError(say.seasons_state("trend", "beta"))
    return _Model(1 if seasonal is None else checks.count("period", period), seasonal, beta is not None)


def _kind(model: _Model) -> Any:
    check, begin = functools.partial(_checked, model=model), functools.partial(prepare, model=model)
    return _levels.Levels(
        "holt_winters", 4, check, begin, _operands, functools.partial(_resume, multiply=model.seasonal == "mul"),
        _run, _last, _rows, anywhere=True,
    )  # fmt: skip


def _state(last: Any, phi: Any, model: _Model, axis: Any) -> HoltWintersState:
    axis = axis % last.ndim
    level, trend, season = (at(last, axis, slice(*ends)) for ends in ((0, 1), (1, 2), (2, None)))
    trend, season = trend if model.has_trend else None, season if model.seasonal else None
    return HoltWintersState(level, trend, season, phi, model.seasonal, axis)


def _last(xp: Any, last: Any, axis: int) -> Any:
    return moved(xp, last, 0, axis)


def _rows(first: Any, *_: Any) -> int:
    return int(first.shape[0])


def _operands(xp: Any, x: Any, axis: int, first: Any, constants: Any, multiply: bool) -> tuple[dict[str, Any], Any]:
    lanes, (states, planes) = [n for n in range(x.ndim) if n != axis], (-1, -2)  # axes of none of the result's
    return {"constants": (constants.rechunk({0: -1}), (planes, *lanes))}, (first.rechunk({0: -1}), (states, *lanes))


def _resume(state: Any, constants: Any, multiply: bool) -> tuple[Any, Any, bool]:
    return state, constants, multiply


def _checked(
    x: Any, given: dict[str, Any], axis: Any, readable: bool = False, *, model: _Model
) -> tuple[int, Any, Any]:
    axis, one, series = checked(x, given, axis, readable, HOLT_WINTERS, model.period)
    if model.seasonal == "mul" and readable and bool((x <= 0).any()):
        came = x[(x <= 0) & (x > -np.inf)]
        if len(came):
            raise ValueError(say.constant_domain("x", 'x > 0 where seasonal="mul"', float(came.min())))
    return axis, one, series


def prepare(xp: Any, x: Any, given: dict[str, Any], axis: Any, *, model: _Model) -> tuple[int, tuple[Any, Any, bool]]:
    """Return the axis, each series' first state, (2 + period, *series), its constants, and whether seasons multiply."""
    readable = is_readable(xp, x)
    axis, one, series = _checked(x, given, axis, readable, model=model)
    level, trend, season = (None if (v := given.get(name)) is None else wide(v) for name in _STATES)
    nothing = xp.zeros_like(wide(given["alpha"]).sum())
    trend = trend if model.has_trend else nothing
    season = season if model.seasonal else nothing
    if level is None or trend is None or season is None:
        found = _beginnings(xp, x, axis, model, readable)
        level, trend, season = (own if v is None else v for v, own in zip((level, trend, season), found, strict=True))
    constants = xp.stack([xp.broadcast_to(wide(given[name]), one).reshape(series) for name in CONSTANTS])
    season = xp.broadcast_to(season, (*one[:axis], model.period, *one[axis + 1 :]))
    states = [xp.broadcast_to(v, series)[None] for v in (level, trend)]
    return axis, (xp.concatenate([*states, moved(xp, season, axis, 0)]), constants, model.seasonal == "mul")


def _beginnings(xp: Any, x: Any, axis: int, model: _Model, readable: bool) -> tuple[Any, Any, Any]:
    """Return each series' first level and trend, without the axis, and seasons: of the values that are there."""
    if model.seasonal is None:
        first, slope, _ = beginnings(xp, x, axis, readable)
        return first, slope, None
    period = model.period
    if x.shape[axis] < 2 * period:
        raise ValueError(say.seasons_steps(2 * period, x.shape[axis]))
    one, two = (wide(at(x, axis, slice(k * period, (k + 1) * period))) for k in (0, 1))
    is_there = xp.isfinite(one)
    both = is_there & xp.isfinite(two)
    counts = is_there.sum(axis)
    with arrays.quiet(xp):
        level = xp.where(counts > 0, xp.where(is_there, one, 0.0).sum(axis) / counts.clip(1), np.nan)
        trend = xp.where(both, two - one, 0.0).sum(axis) / (period * both.sum(axis).clip(1))
        mean = xp.where(counts > 0, level, 1.0).reshape(*x.shape[:axis], 1, *x.shape[axis + 1 :])
        one = xp.where(is_there, one, mean)
        return level, trend, one / mean if model.seasonal == "mul" else one - mean

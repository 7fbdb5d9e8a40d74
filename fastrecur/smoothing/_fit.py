"""The factors and first states of Holt and Winters' method with the least squared errors, of all series at once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .. import _dispatch
from .._arguments import checks, messages as say
from .._arguments.names import suggesting
from .._cpu.machine import threads
from .._cpu.seasons import holt_winters as _run
from .._plan.filters import take
from ._frames import unwrap
from ._holt_winters import CONSTANTS, model_of, prepare

_ALPHA, _BETA, _PHI, _GAMMA, _LEVEL, _TREND, _SEASON = range(7)  # rows of parameters; seasons have one each
# Where a fit starts: the best of two small and of two large values of alpha, with these of beta and gamma.
_ALPHAS, _BETAS, _GAMMAS = ((0.05, 0.2), (0.5, 0.9)), (0.01, 0.1), (0.05, 0.2, 0.5)
_BOUNDS = {_ALPHA: (0.0, 1.0), _BETA: (0.0, 1.0), _GAMMA: (0.0, 1.0), _PHI: (0.8, 0.998)}
_LEAST = 1e-3  # of a level and of a season that multiplies, in means of the data
_STEP = 1e-6  # of a difference that stands for a derivative
_DAMPINGS = np.array([0.1, 1.0, 10.0])  # tried at once, times that of the round before
_ENOUGH, _NOTHING = 1e-8, 1e-20
_ROUNDS = 100
_BLOCK = 64  # series that are fitted together


class HoltWintersFit(NamedTuple):
    """What `fit_holt_winters` returns, each with 1 in place of time's axis, in float64.

    Attributes
    ----------
    alpha, beta, gamma, phi : array
        The factors; ``beta`` is None without a trend, ``gamma`` without seasons, and ``phi`` is 1 where nothing damps.
    level, trend, season : array
        The state before the first step, of ``season`` the period in place of time's axis; None of what is not there.
    sse : array
        The sum of the squared errors of all forecasts.
    converged : array of bool
        Whether the last round made it smaller by less than a 1e-8th part.
    period : int or None
        How many steps later a season comes again.
    seasonal : str or None
        How seasons enter.
    axis : int
        The axis of time.
    """

    alpha: Any
    beta: Any
    gamma: Any
    phi: Any
    level: Any
    trend: Any
    season: Any
    sse: Any
    converged: Any
    period: int | None
    seasonal: str | None
    axis: int

    @property
    def arguments(self) -> dict[str, Any]:
        """All that `holt_winters` is given beside the data, by name."""
        return {name: value for name, value in self._asdict().items() if name not in ("sse", "converged")}


@suggesting
def fit_holt_winters(
    x: Any, period: Any = None, *, seasonal: Any = "add", trend: Any = True, damped: Any = False, axis: Any = 0,
    callback: Callable[[int, int], object] | None = None,
) -> HoltWintersFit:  # fmt: skip
    r"""Fit Holt and Winters' method to many series: their factors and first states, by least squares.

    Of each series, the sum of the squared errors of `holt_winters` is made small:

    ``sse = sum((x[t] - forecast[t])**2)``

    .. math:: \min_{\alpha, \beta, \gamma, \varphi, l_0, b_0, s_0} \sum_t (x_t - \hat x_t)^2

    Parameters
    ----------
    x, axis
        The data and the axis of time, as for `holt_winters`: arrays in CPU memory, and tables of pandas, polars and
        xarray.
    period : int, optional
        How many steps later a season comes again; without it there are no seasons.
    seasonal : {"add", "mul", None}
        Whether seasons are added, multiply, which takes values above 0, or are not there.
    trend : bool
        Whether there is a trend.
    damped : bool
        Whether what damps the trend is fitted, too, from 0.8 to 0.998.
    callback : callable, optional
        Called as ``callback(done, total)`` with numbers of series, from the calling thread, as they are fitted.

    Returns
    -------
    HoltWintersFit
        For ``holt_winters(x, **fit.arguments)``.

    Notes
    -----
    Factors are from 0 to 1. Added seasons have the mean 0, those that multiply 1. Missing values have no
    errors; a series of nothing else has the level NaN. A sum of squares has several minima: each series starts from two
    places, the best of a few small factors and the best of a few large ones, with the first state of `holt_winters`,
    and the better result is returned.

    The method is that of Levenberg and Marquardt, of many series at once, with bounds by projection: errors are smooth
    in all parameters, of which there are more than a dozen, and it takes some 20 rounds where a simplex takes a
    thousand steps.

    References
    ----------
    .. [1] D. W. Marquardt, "An algorithm for least-squares estimation of nonlinear parameters", Journal of the Society
       for Industrial and Applied Mathematics 11(2), 1963.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrecur.smoothing import fit_holt_winters, forecast, holt_winters
    >>> t = np.arange(24)
    >>> x = 50.0 + 2.0*t + np.tile([9.0, -4.0, -8.0, 3.0], 6)
    >>> fit = fit_holt_winters(x, 4)
    >>> fit.season.round(3) + 0.0
    array([ 9., -4., -8.,  3.])
    >>> found, state = holt_winters(x, **fit.arguments, return_state=True)
    >>> forecast(state, 4).round(3)
    array([107.,  96.,  94., 107.])
    """
    numbers, axis, _ = unwrap(x, axis)
    trend, damped = checks.flag("trend", trend), checks.flag("damped", damped)
    if damped and not trend:
        raise ValueError(say.fit_damped())
    has_seasons = period is not None and seasonal is not None
    model = model_of(period, seasonal, 0.0 if trend else None, 0.0 if has_seasons else None, None, None)
    if _dispatch.place(numbers) != "memory":
        raise TypeError(say.fit_library("x", type(x)))
    values, _ = take("x", numbers)
    axis, (first, _, multiply) = prepare(np, values, dict.fromkeys(CONSTANTS, np.zeros(())), axis, model=model)
    lanes, first = first.shape[1:], first.reshape(len(first), -1)
    rows = np.moveaxis(values, axis, -1).reshape(first.shape[1], values.shape[axis])
    free = [_ALPHA, *[_BETA] * trend, *[_PHI] * damped, *[_GAMMA] * has_seasons, _LEVEL, *[_TREND] * trend]
    free += range(_SEASON, _SEASON + model.period * has_seasons)

    def fit(low: int) -> tuple[Any, ...]:
        part = slice(low, low + _BLOCK)
        with threads.alone(), np.errstate(all="ignore"):
            return _fit(np.ascontiguousarray(rows[part], np.float64), first[:, part], free, multiply)

    found, total = [], len(rows)
    with ThreadPoolExecutor(threads.team().size) as pool:
        for own in pool.map(fit, range(0, max(total, 1), _BLOCK)):
            found.append(own)
            if callback is not None:
                callback(min(len(found) * _BLOCK, total), total)
    p, sse, converged = (np.concatenate(parts, -1) for parts in zip(*found, strict=True))
    return _result(p.reshape(len(p), *lanes), sse.reshape(lanes), converged.reshape(lanes), axis, model)


def _result(p: Any, sse: Any, converged: Any, axis: int, model: Any) -> HoltWintersFit:
    alpha, beta, phi, gamma, level, trend, sse, converged = (np.expand_dims(v, axis) for v in (*p[:6], sse, converged))
    fit = HoltWintersFit(
        alpha, beta, gamma, phi, level, trend, np.ascontiguousarray(np.moveaxis(p[_SEASON:], 0, axis)), sse, converged,
        model.period, model.seasonal, axis,
    )  # fmt: skip
    if not model.has_trend:
        fit = fit._replace(beta=None, trend=None)
    return fit if model.seasonal else fit._replace(gamma=None, season=None, period=None)


def _fit(x: Any, first: Any, free: list[int], multiply: bool) -> tuple[Any, Any, Any]:
    """Return the parameters of series, (series, steps), their sums of squares and whether these have converged."""
    seen = np.isfinite(x)
    mean = np.where(seen, x, 0.0).sum(1) / seen.sum(1)
    away = np.sqrt(np.where(seen, (x - mean[:, None]) ** 2, 0.0).sum(1) / seen.sum(1))
    center, scale = (0 * mean, mean) if multiply else (mean, np.where(away > 0, away, 1.0))
    x = (x - center[:, None]) / scale[:, None]
    level = np.where(np.isfinite(first[0]), (first[0] - center) / scale, float(multiply))
    ends = np.concatenate([level[None], first[1:2] / scale, first[2:] if multiply else first[2:] / scale])
    low, high = (v[free] for v in _bounds(len(first) - 2, multiply))
    p = np.concatenate([_start(x, ends, free, multiply, alphas) for alphas in _ALPHAS], -1)
    p[free] = p[free].clip(low, high)
    p, sse, converged = _minimize(np.concatenate([x] * len(_ALPHAS)), p, free, multiply)
    sse = sse.reshape(len(_ALPHAS), -1)
    way, own = np.nan_to_num(sse, nan=np.inf).argmin(0), np.arange(len(x))
    p, converged = p.reshape(len(p), *sse.shape)[:, way, own], converged.reshape(sse.shape)[way, own]
    sse = sse[way, own]
    season = p[_SEASON:].mean(0)
    if multiply:
        p[_LEVEL:_SEASON], p[_SEASON:] = p[_LEVEL:_SEASON] * (scale * season), p[_SEASON:] / season
    else:
        p[_LEVEL], p[_SEASON:] = p[_LEVEL] + season, p[_SEASON:] - season
        p[_LEVEL:] *= scale
        p[_LEVEL] += center
    return p, sse * scale**2, converged & (seen.sum(1) > 0)


def _bounds(period: int, multiply: bool) -> tuple[Any, Any]:
    low = np.full((_SEASON + period, 1), -np.inf)
    high = -low
    for row, ends in _BOUNDS.items():
        low[row], high[row] = ends
    if multiply:
        low[_LEVEL] = low[_SEASON:] = _LEAST
    return low, high


def _start(x: Any, ends: Any, free: list[int], multiply: bool, alphas: tuple[float, ...]) -> Any:
    """Return for each series the best of a few factors, with the first state ``ends``."""
    grid = [
        (alpha, beta, _BOUNDS[_PHI][1] if _PHI in free else 1.0, gamma)
        for alpha in alphas
        for beta in (_BETAS if _BETA in free else (0.0,))
        for gamma in (_GAMMAS if _GAMMA in free else (0.0,))
    ]
    p = np.empty((4 + len(ends), len(grid), len(x)))
    p[:_LEVEL], p[_LEVEL:] = np.array(grid).T[:, :, None], ends[:, None]
    _, sse = _errors(x, p, multiply)
    return p[:, sse.argmin(0), np.arange(len(x))]


def _errors(x: Any, p: Any, multiply: bool) -> tuple[Any, Any]:
    """Return the errors of parameters (rows, ways, series), (ways, series, steps), and their sums of squares."""
    shape = (*p.shape[1:], x.shape[1])
    errors = np.empty(shape)
    unused = [as_strided(np.empty(shape[:2]), shape, (8 * shape[1], 8, 0)) for _ in range(3)]
    _run(np.broadcast_to(x, shape), p[_LEVEL:], p[:_LEVEL], multiply, 2, errors, *unused)
    errors -= x
    seen = np.isfinite(x)
    errors = errors if seen.all() else np.where(seen, errors, 0.0)
    sse = np.einsum("kbt,kbt->kb", errors, errors)
    return errors, np.where(np.isfinite(sse), sse, np.inf)


def _minimize(x: Any, p: Any, free: list[int], multiply: bool) -> tuple[Any, Any, Any]:
    """Return parameters from ``p`` on, their sums of squares, and whether these have converged."""
    low, high = (v[free] for v in _bounds(len(p) - _SEASON, multiply))
    errors, sse = (v[0] for v in _errors(x, p[:, None], multiply))
    damping, active, places = np.full(len(x), 1e-2), np.arange(len(x)), (free, np.arange(len(free)))
    results = p.copy(), sse.copy(), np.zeros(len(x), bool)
    for _ in range(_ROUNDS):
        ways = np.repeat(p[:, None], len(free), 1)
        ways[places] += _STEP
        slopes = (_errors(x, ways, multiply)[0] - errors).transpose(1, 0, 2) / _STEP
        dampings = damping * _DAMPINGS[:, None]
        steps = _steps(slopes, errors, p[free], low, high, dampings)
        ways = np.repeat(p[:, None], len(dampings), 1)
        ways[free] = (p[free][:, None] + steps).clip(low[:, None], high[:, None])
        tried, sums = _errors(x, ways, multiply)
        way, own = sums.argmin(0), np.arange(len(x))
        sums = sums[way, own]
        is_better, gain = sums < sse, sse - sums
        done = np.where(is_better, gain <= _ENOUGH * sse, (damping > 1 / _ENOUGH) | (sse <= _NOTHING))
        damping = np.where(is_better, dampings[way, own], 100 * damping).clip(_ENOUGH)
        p, sse = np.where(is_better, ways[:, way, own], p), np.where(is_better, sums, sse)
        errors = np.where(is_better[:, None], tried[way, own], errors)
        for whole, part in zip(results, (p, sse, done), strict=True):
            whole[..., active] = part
        active, damping, x, errors, sse, p = (
            v[..., ~done] if v is p else v[~done] for v in (active, damping, x, errors, sse, p)
        )
        if not len(active):
            break
    return results


def _steps(slopes: Any, errors: Any, p: Any, low: Any, high: Any, dampings: Any) -> Any:
    """Return damped Gauss-Newton steps, (parameters, dampings, series); what would leave its bounds stays there."""
    normal = slopes @ slopes.transpose(0, 2, 1)
    slope = (slopes @ errors[:, :, None])[..., 0]
    stays = (((p <= low) & (slope.T > 0)) | ((p >= high) & (slope.T < 0))).T
    own = np.diagonal(normal, axis1=1, axis2=2)
    own = np.where(stays | ~(own > _NOTHING), 1.0, own)
    normal = np.where(stays[:, :, None] | stays[:, None], 0.0, normal)
    damped = normal + np.eye(len(p)) * (dampings[..., None] * own + stays)[..., None]
    return -np.linalg.solve(damped, np.where(stays, 0.0, slope)[..., None])[..., 0].transpose(2, 0, 1)

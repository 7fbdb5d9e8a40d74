"""Holt's level and trend: arguments, and states to start from."""

from typing import Any

import numpy as np

from .. import _dispatch
from .._arguments import arrays, messages as say
from .._arguments.arrays import at
from .._arguments.names import suggesting
from .._arguments.records import HOLT
from .._cpu import levels
from .._plan.filters import check_levels
from ..filters import _levels
from ..filters._levels import wide
from ._frames import aligned, unwrap

_STATES = "level", "trend"


@suggesting
def holt(
    x: Any, alpha: Any, beta: Any, *, phi: Any = 1.0, level: Any = None, trend: Any = None, axis: Any = 0
) -> tuple[Any, Any]:
    r"""Smooth a level and its trend: Holt's linear method, damped by ``phi``.

    ``level[t] = alpha*x[t] + (1 - alpha)*(level[t-1] + phi*trend[t-1])``,
    ``trend[t] = beta*(level[t] - level[t-1]) + (1 - beta)*phi*trend[t-1]``

    .. math:: l_t = \alpha x_t + (1 - \alpha)(l_{t-1} + \varphi b_{t-1}), \quad
              b_t = \beta (l_t - l_{t-1}) + (1 - \beta) \varphi b_{t-1}

    Errors are those of `ewm_mean`.

    Parameters
    ----------
    x, axis
        The data and the axis of time, as for `ewm_mean`, float16 and bfloat16, and arrays on a GPU, too.
    alpha, beta, phi : float or array_like
        The smoothing factors of the level and of the trend, and what damps the trend: numbers in [0, 1], or arrays that
        broadcast to the shape of ``x`` with 1 along `axis`, one number for each series.
    level, trend : float or array_like, optional
        The state before the first step, in the shape of ``x`` without `axis` or with 1 there, or broadcast to that. By
        default the first value of each series, and by how much the next one differs from it.

    Returns
    -------
    level, trend : array
        Of the library, type, shape and dtype of ``x``. The forecast made at a step for ``n`` steps later is ``level +
        (phi + phi**2 + ... + phi**n)*trend``.

    Notes
    -----
    NaN and infinities are missing values: there the step predicts, ``level + phi*trend``, and corrects nothing. Before
    the first value that is not missing, results are NaN, unless ``level`` is given.

    The numbers are those of statsmodels' ``Holt`` with ``initialization_method="known"``, given its level and trend;
    its "simple" start is the default here. The state is in float64. Tensors have gradients of every order of all
    arguments: :doc:`/howto/holt` fits many series at once. On a GPU each series has a thread, and time is not cut, so a
    few long series leave most of it without work (not measured).

    References
    ----------
    .. [1] C. C. Holt, "Forecasting seasonals and trends by exponentially weighted moving averages", International
       Journal of Forecasting 20(1), 2004 (written in 1957).
    .. [2] E. S. Gardner, E. McKenzie, "Forecasting trends in time series", Management Science 31(10), 1985.

    Examples
    --------
    >>> from fastrecur.smoothing import holt
    >>> level, trend = holt([1.0, 2.0, 3.0, 8.0], 0.5, 0.5)
    >>> level
    array([1.5      , 2.125    , 2.90625  , 5.8203125])
    >>> trend
    array([0.75      , 0.6875    , 0.734375  , 1.82421875])
    """
    numbers, axis, wrap = unwrap(x, axis)
    if type(numbers) is np.ndarray and type(axis) is int and level is trend is None:
        constants = alpha, beta, phi
        are_plain = all(type(v) in (int, float) and 0 <= v <= 1 for v in constants)
        if are_plain and (known := levels.quick("holt", numbers, axis, *constants)):
            return wrap(known[0]), wrap(known[1])
    given = {"alpha": alpha, "beta": beta, "phi": phi, "level": level, "trend": trend}
    given = {name: aligned(x, v, name, axis) for name, v in given.items() if v is not None or name not in _STATES}
    given |= {name: of_series(v, numbers, axis) for name, v in given.items() if name in _STATES}
    if numbers is not x and arrays.any_tensor(numbers, *given.values()):
        raise TypeError(say.not_a_tensor("x", type(x)))
    found, slopes = _levels.call(_HOLT, numbers, given, axis)
    return wrap(found), wrap(slopes)


def of_series(state: Any, x: Any, axis: Any) -> Any:
    """Return a state with 1 along time, as a row of a frame is, without that axis."""
    rank, own = len(getattr(x, "shape", ())), list(getattr(state, "shape", ()))
    if len(own) == rank and isinstance(axis, int) and -rank <= axis < rank and own[axis] == 1:
        own.pop(axis)
        return state.reshape(own)
    return state


def _operands(xp: Any, x: Any, axis: int, k: Any, waits: Any) -> tuple[dict[str, Any], Any]:
    first = xp.concatenate([k[:2], xp.broadcast_to(xp.asarray(waits), k.shape[1:])[None]])
    lanes, (states, planes) = [n for n in range(x.ndim) if n != axis], (-1, -2)  # axes of none of the result's
    return {"k": (k[2:].rechunk({0: -1}), (planes, *lanes))}, (first.rechunk({0: -1}), (states, *lanes))


def _resume(state: Any, constants: Any) -> tuple[Any, Any]:
    return np.concatenate([state[:2], constants]), state[2]


def checked(
    x: Any, given: dict[str, Any], axis: Any, readable: bool = False, record: Any = HOLT, period: int = 1
) -> tuple[int, Any, Any]:
    """Return the axis, counted from the first, and the shapes of states with 1 there and without it.

    ``readable`` is whether numbers may be looked at; those of NumPy's arrays are in any case.
    """
    axis, one, series = check_levels(record, x, given, axis, period=period)
    for name, value in given.items():
        seen = record[name].kind == "constant" and (readable or isinstance(value, np.ndarray))
        if seen and not bool(((value >= 0) & (value <= 1)).all()):
            raise ValueError(say.constant_domain(name, f"0 <= {name} <= 1", value))
    return axis, one, series


def is_readable(xp: Any, x: Any) -> bool:
    return xp is np or (hasattr(x, "is_cpu") and x.is_cpu and _dispatch.tensors().no_modes_active())


def _states(xp: Any, x: Any, given: dict[str, Any], axis: Any) -> tuple[int, tuple[Any, Any]]:
    """Return the axis, each series' first state and constants, (5, *series), and how many steps it waits for."""
    readable = is_readable(xp, x)
    axis, one, series = checked(x, given, axis, readable)
    waits: Any = 0 if hasattr(x, "astype") else None
    own: list[Any] = [given.get(name) for name in _STATES]
    constants = [xp.broadcast_to(wide(given[name]), one).reshape(series) for name in ("alpha", "beta", "phi")]
    if any(v is None for v in own):
        first, slope, missing = beginnings(xp, x, axis, readable)
        waits = waits if missing is None or own[0] is not None else missing
        own = [found if v is None else v for v, found in zip(own, (first, slope), strict=True)]
    return axis, (xp.stack([*(xp.broadcast_to(wide(v), series) for v in own), *constants]), waits)


def beginnings(xp: Any, x: Any, axis: int, readable: bool) -> tuple[Any, Any, Any]:
    """Return each series' first value, by how much the next one differs, a step, and how many are missing before."""
    steps = x.shape[axis]
    two = wide(at(x, axis, slice(2)))  # at once: each view's gradient is as large as x
    if steps > 1 and readable and bool(xp.isfinite(two).all()):
        first, second = (at(two, axis, n) for n in (0, 1))
        return first, second - first, None
    if not steps:
        nothing = wide(x).sum(axis)
        return nothing, nothing, None
    seen = xp.isfinite(x).cumsum(axis)
    places = [(seen < n).sum(axis) for n in (1, 2)]
    first, second = (wide(xp.where(xp.isfinite(x) & (seen == n), x, 0).sum(axis)) for n in (1, 2))
    with arrays.quiet(xp):
        slope = (second - first) / (places[1] - places[0]).clip(1)
    return first, xp.where(places[1] < steps, slope, xp.zeros_like(slope)), places[0]


_HOLT = _levels.Levels("holt", 2, checked, _states, _operands, _resume, levels.holt, None)

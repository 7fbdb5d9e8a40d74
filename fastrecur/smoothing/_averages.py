"""Averages beside the statistics: without a lag, with gates that follow the data, and what sounds are divided by."""

import functools
import math
from typing import Any

import numpy as np

from .._arguments import checks, messages as say
from .._arguments.arrays import at, join, numbers, quiet, refuse_masked
from .._arguments.checks import is_array, number
from .._arguments.names import suggesting
from .._arguments.shapes import axis_of, broadcast_shape
from .._plan.problem import fits
from ..recurrence import forget_mult
from . import _kaufman
from ._arguments import ALPHA, Constant, arrays_of
from ._arrays import Data, check_constant, check_real
from ._frames import aligned, unwrap


@suggesting
def ewm_filtfilt(
    x: Any, *, com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None, axis: Any = 0
) -> Any:
    r"""Smooth forward and then in reverse, so that the result does not lag behind the data.

    ``y[t] = alpha*x[t] + (1 - alpha)*y[t-1]`` from ``y[0] = x[0]``, then
    ``z[t] = alpha*y[t] + (1 - alpha)*z[t+1]`` from ``z[T-1] = y[T-1]``

    .. math:: y_t = \alpha x_t + (1 - \alpha) y_{t-1}, \quad z_t = \alpha y_t + (1 - \alpha) z_{t+1},
              \quad y_0 = x_0, \quad z_{T-1} = y_{T-1}

    Parameters
    ----------
    x : array_like
        The data, as for `ewm_mean`, without missing values.
    com, span, halflife, alpha : float or array_like, optional
        The smoothing constant of both directions, exactly one: a center of mass, ``alpha = 1/(1 + com)``, a span,
        ``2/(span + 1)``, a half-life in steps, ``1 - 2**(-1/halflife)``, or the factor itself.
    axis : int, default 0
        The axis of time; for a DataArray also its name.

    Returns
    -------
    array
        Of the library, type, shape and labels of ``x``, and of a dtype as for `ewm_mean`.

    Raises
    ------
    ValueError, TypeError
        As `ewm_mean`, and ValueError for NaN and infinities, unless checking would wait for a device.

    Notes
    -----
    Each pass starts from its own first value. The results are those of
    ``scipy.signal.filtfilt([alpha], [1, alpha - 1], x, padlen=0)``. By default, scipy first extends the data by their
    mirror image at both ends; this function does not, so the last value is that of the forward mean, with its lag.
    Differentiable for tensors.

    Examples
    --------
    >>> from fastrecur.smoothing import ewm_filtfilt
    >>> ewm_filtfilt([0.0, 0.0, 8.0, 0.0, 0.0], alpha=0.5)
    array([0.6875, 1.375 , 2.75  , 1.5   , 1.    ])
    """
    constant = Constant(False, com, span, halflife, alpha)
    name = constant.name
    numbers, axis, wrap = unwrap(x, axis)
    data = Data(("x", name), (numbers, aligned(x, constant.value, name, axis)))
    values, gate = data.values
    shape = data.broadcast()
    axis = axis_of(axis, shape, ("x",))
    if data.at_hand:
        values = _finite(values, data.xp)
    if data.is_lazy:
        values = data.xp.map_blocks(_finite, values, dtype=values.dtype)  # asked when it is computed
    if constant.arrays:
        check_constant(data, name, gate)
        gate = ALPHA[name](data.xp, gate)
    else:
        gate = constant.value
    if data.xp.__name__ == "torch":
        values = data.narrow(values, data.dtype(values))
    if shape[axis]:
        full = data.xp.broadcast_to(values, shape)
        with data.threads():
            forward = forget_mult(gate, full, at(full, axis, 0), axis=axis)
            values = forget_mult(gate, forward, at(forward, axis, -1), axis=axis, reverse=True)
    return wrap(data.give(values))


def _finite(values: Any, xp: Any = np) -> Any:
    """Return finite values; raise for any other."""
    are_finite = xp.isfinite(values)
    if not bool(are_finite.all()):
        raise ValueError(say.filter_missing(values[~are_finite].reshape(-1)[0]))
    return values


@suggesting
def kama(x: Any, period: int = 10, fast: int = 2, slow: int = 30, *, axis: Any = 0) -> Any:
    r"""Return Kaufman's adaptive moving average: fast in a trend, slow in an oscillation.

    ``E[t] = abs(x[t] - x[t-n]) / sum(abs(x[s] - x[s-1]) for s in range(t-n+1, t+1))``,
    ``f[t] = (E[t]*(2/(fast+1) - 2/(slow+1)) + 2/(slow+1))**2``, ``y[t] = f[t]*x[t] + (1 - f[t])*y[t-1]``

    .. math:: E_t = \frac{|x_t - x_{t-n}|}{\sum_{s=t-n+1}^{t} |x_s - x_{s-1}|}, \quad
              f_t = \Big(E_t \big(\tfrac{2}{\text{fast}+1} - \tfrac{2}{\text{slow}+1}\big)
              + \tfrac{2}{\text{slow}+1}\Big)^2, \quad y_t = f_t x_t + (1 - f_t) y_{t-1}

    Errors are those of `ewm_mean`.

    Parameters
    ----------
    x, axis
        The data and the axis of time, as for `ewm_mean`.
    period : int, default 10
        The number of steps :math:`n` of the efficiency :math:`E`.
    fast, slow : int, default 2 and 30
        The spans of the gate at an efficiency of 1 and of 0.

    Returns
    -------
    array
        Of the library, type and shape of ``x``. NaN for the first ``period`` steps; the average starts from the value
        before the first result, :math:`y_{n-1} = x_{n-1}`. A NaN makes all later results NaN.

    Notes
    -----
    As in TA-Lib's ``KAMA``, with fixed ``fast`` and ``slow``. Where the data are constant, the efficiency is 1.

    The sum of a window is made of sums of shorter ones, in float64, and nothing is subtracted from it again. So it is
    exact to a few roundings however large the numbers were that have left the window: TA-Lib adds and subtracts, and
    keeps their rounding. The time of a step grows as the logarithm of ``period``.

    References
    ----------
    .. [1] P. J. Kaufman, "Trading Systems and Methods", 3rd ed., Wiley 1998, chapter 17.

    Examples
    --------
    >>> from fastrecur.smoothing import kama
    >>> kama([0.0, 0.0, 0.0, 4.0, 8.0, 8.0, 8.0], period=2).round(2)
    array([ nan,  nan, 0.  , 1.78, 4.54, 6.08, 6.93])
    """
    for name, value in (("period", period), ("fast", fast), ("slow", slow)):
        checks.count(name, value)
    numbers, axis, wrap = unwrap(x, axis)
    data = Data(("x",), (numbers,))
    xp, values = data.xp, data.values[0]
    axis = axis_of(axis, tuple(values.shape), ("x",))
    quick, calm = 2 / (fast + 1), 2 / (slow + 1)
    if data.by_kernel and values.shape[axis] > period:
        with data.threads():
            result = _kaufman.average(values, period, quick, calm, axis)
        return wrap(data.give(data.narrow(result, data.dtype(values))))
    wide = data.wide(values)
    result = xp.full_like(at(wide, axis, slice(period)), float("nan"))
    if wide.shape[axis] > period:
        options = {"period": period, "axis": axis}
        if data.is_lazy:
            of_chunks = {"depth": {axis: (period, 0)}, "boundary": "none", "dtype": np.float64}
            straight = xp.map_overlap(_kaufman.straightness, wide, xp=np, **options, **of_chunks)
        else:
            straight = _kaufman.straightness(wide, xp=xp, **options)
        gate, rest = (at(v, axis, slice(period, None)) for v in (straight * (quick - calm) + calm, wide))
        with data.threads():
            tail = forget_mult(gate**2, rest, at(wide, axis, period - 1), axis=axis)
        result = join(xp, [result, tail], axis)
        result = result.rechunk(wide.chunks) if data.is_lazy else result
    return wrap(data.give(data.narrow(result, data.dtype(values))))


@suggesting
def pcen(
    S: Any, *, sr: float = 22050, hop_length: int = 512, gain: Any = 0.98, bias: Any = 2, power: Any = 0.5,  # noqa: N803
    time_constant: Any = 0.4, eps: Any = 1e-6, b: Any = None, max_size: int = 1, ref: Any = None, axis: int = -1,
    max_axis: int | None = None, zi: Any = None, return_zf: bool = False,
) -> Any:  # fmt: skip
    r"""Normalize the energy of each channel of a spectrogram by its own recent mean (PCEN).

    ``M[t] = b*S[t] + (1 - b)*M[t-1]``, ``P[t] = (S[t]/(eps + M[t])**gain + bias)**power - bias**power``

    .. math:: M_t = b S_t + (1 - b) M_{t-1}, \qquad
              P_t = \Big(\frac{S_t}{(\varepsilon + M_t)^{\text{gain}}} + \text{bias}\Big)^{\text{power}}
              - \text{bias}^{\text{power}}

    The result has the library, type and shape of ``S``; errors are those of `ewm_mean`.

    Parameters
    ----------
    S : array_like
        Nonnegative magnitudes, with time on `axis`; otherwise as for `ewm_mean`.
    sr, hop_length : float
        The sampling rate of the sound and the samples between two columns of ``S``.
    gain, bias, power, eps : float or array_like
        The exponent of the normalization, the offset, the exponent of the compression (at 0 the result is
        :math:`\log(1 + S_t / (\varepsilon + M_t)^{\text{gain}})`), and the lower bound of the mean. An array, as the
        following may be, too, broadcasts against ``S``: one value for each band of ``(bands, T)`` is shaped
        ``(bands, 1)``. Arrays of ``bias`` and ``power`` must be greater than 0.
    time_constant : float or array_like
        The time constant of the mean, in seconds: with :math:`T` = ``time_constant*sr/hop_length``,
        :math:`b = (\sqrt{1 + 4T^2} - 1)/(2T^2)`.
    b : float or array_like, optional
        The gate of the mean itself, in [0, 1].
    max_size : int, default 1
        The mean is that of the greatest value of so many neighboring bands, as of
        ``scipy.ndimage.maximum_filter1d(S, max_size, axis=max_axis)``; at the borders of those that there are.
    ref : float or array_like, optional
        What the mean is made of, in place of ``S`` and of its greatest values; it broadcasts against ``S``.
    axis : int, default -1
        The axis of time.
    max_axis : int, optional
        The axis of bands for ``max_size``; for two dimensions the other one.
    zi : array_like, optional
        What the filter goes on from, as ``scipy.signal.lfilter`` has it, :math:`(1 - b) M_{-1}`: of the shape of ``S``
        with 1 in the place of time, or 1 elsewhere, too. By default :math:`1 - b`. With a `b` of 1 it is not used.
    return_zf : bool, default False
        Whether to return ``(P, zf)``: `zf` is the ``zi`` of the chunk that follows, of the dtype of the result.

    Raises
    ------
    ValueError
        As `ewm_mean`; for `max_size` above 1 in one dimension, or in more than two without `max_axis`; for a ``zi`` of
        another shape; and with `zi` or `return_zf` for a `b` or `time_constant` that varies in time.

    Notes
    -----
    Results, keywords and defaults are those of ``librosa.pcen``; the mean starts from 1.0. Differentiable for tensors,
    in ``S``, ``ref``, ``zi`` and in all parameters that are tensors: `fastrecur.torch.PCEN` trains them. Of values that
    are the greatest side by side, each gets a share of the gradient. NaN is greater than any number.

    References
    ----------
    .. [1] Y. Wang, P. Getreuer, T. Hughes, R. F. Lyon, R. A. Saurous, "Trainable frontend for robust and far-field
       keyword spotting", ICASSP 2017, arXiv:1607.05666, equations (1) and (2).

    Examples
    --------
    >>> from fastrecur.smoothing import pcen
    >>> pcen([1.0, 1.0, 100.0, 1.0], b=0.5).round(3)
    array([0.318, 0.318, 0.621, 0.015])
    >>> P, zf = pcen([1.0, 1.0], b=0.5, return_zf=True)
    >>> pcen([100.0, 1.0], b=0.5, zi=zf).round(3)
    array([0.621, 0.015])
    """
    parameters = {"gain": gain, "bias": bias, "power": power, "eps": eps, "time_constant": time_constant, "b": b}
    parameters = arrays_of(parameters)
    if b is None:
        del parameters["b"]
    for name, value in (("sr", sr), ("hop_length", hop_length), *parameters.items()):
        if not is_array(value):
            number(name, value, _RULES)
    numbers, axis, wrap = unwrap(S, axis, "S")
    given = parameters if ref is None else {"ref": ref, **parameters}
    arrays = {name: aligned(S, v, name, axis) for name, v in given.items() if name == "ref" or is_array(v)}
    start = arrays_of({"zi": zi})["zi"]
    data = Data(("S", *arrays), (numbers, *arrays.values()), () if start is None else (start,))
    values, *found = data.values
    shape = data.broadcast()
    axis = axis_of(axis, shape, ("S",)) - len(shape)
    dtype = data.dtype(*data.values)
    if not data.by_kernel:
        values = data.narrow(values, dtype)
    found = dict(zip(arrays, found, strict=True))
    heard = found.pop("ref", None)
    if heard is not None:
        heard = heard if data.by_kernel else data.narrow(heard, dtype)
        heard = _at_each_step(data.xp, heard, shape[axis], axis)
    for name, value in found.items():
        check_constant(data, name, value, _RULES | _RULES_OF_ARRAYS)
        parameters[name] = value
    heard = _greatest(data.xp, values, max_size, axis, max_axis) if heard is None else heard
    gate: Any = parameters.pop("b", None)
    time = parameters.pop("time_constant") * (sr / float(hop_length))
    if gate is None:
        gate = 2 / (1 + (1 + 4 * time * time) ** 0.5)
    gate = gate if is_array(gate) else float(gate)
    return_zf = checks.flag("return_zf", return_zf)
    varies = len(getattr(gate, "shape", ())) >= -axis and gate.shape[axis] != 1
    if varies and (return_zf or zi is not None):
        raise ValueError(say.stream_constant("time_constant" if b is None else "b", tuple(gate.shape)))
    first = 1.0 if start is None else _first_mean(data, start, gate, heard, axis)
    with data.threads():
        means = forget_mult(gate, heard, first, axis=axis, return_state=return_zf)
    smooth, last = means if return_zf else (means, None)
    values = [values, *(parameters[name] for name in ("gain", "bias", "power", "eps"))]
    if data.is_lazy:
        smooth = data.xp.broadcast_to(smooth, shape)
        values = [data.xp.broadcast_to(v, shape).rechunk(smooth.chunks) if is_array(v) else v for v in values]
        result = data.xp.map_blocks(functools.partial(_normalize, np), smooth, *values, dtype=dtype)
    else:
        result = _normalize(data.xp, smooth, *values)
    result = wrap(data.give(result))
    if last is None:
        return result
    last = last[(..., np.newaxis, *(slice(None),) * (-axis - 1))]
    return result, data.give(data.narrow((1 - gate) * last, dtype))


def _greatest(xp: Any, values: Any, size: Any, axis: int, max_axis: Any) -> Any:
    """Return the greatest of so many neighbors of each value, half of them before it; of all that there are."""
    if checks.count("max_size", size) == 1:
        return values
    dims = len(values.shape)
    if dims < 2 or (dims > 2 and max_axis is None):
        raise ValueError(say.max_axis(tuple(values.shape)))
    bands = axis_of((1 - axis) % 2 if max_axis is None else max_axis, tuple(values.shape), ("S",))
    count = values.shape[bands]
    before, after = (min(n, max(count - 1, 0)) for n in (size // 2, (size - 1) // 2))
    ends = [xp.full_like(at(values, bands, slice(n)), -math.inf) for n in (before, after)]
    found, width, size = join(xp, [ends[0], values, ends[1]], bands), 1, before + 1 + after
    while width < size:
        step = min(width, size - width)
        found = xp.maximum(at(found, bands, slice(step, None)), at(found, bands, slice(-step)))
        width += step
    return found.rechunk(values.chunks) if hasattr(values, "rechunk") else found


def _at_each_step(xp: Any, heard: Any, steps: int, axis: int) -> Any:
    """Return a reference that has all steps, also of one that broadcasts along time."""
    shape = [1] * (-axis - len(heard.shape)) + list(heard.shape)
    shape[axis] = steps
    return xp.broadcast_to(heard, tuple(shape))


def _first_mean(data: Any, zi: Any, gate: Any, heard: Any, axis: int) -> Any:
    """Return the mean before the first step, of what scipy's filter goes on from."""
    shape = list(broadcast_shape(("ref", "b"), [tuple(v.shape) for v in (heard, gate) if is_array(v)]))
    shape[axis] = 1
    if hasattr(zi, "columns"):  # of a frame, whose labels may be other than the data's
        raise TypeError(say.not_an_array("zi", type(zi)))
    came = tuple(getattr(zi, "shape", ()))
    if len(came) != len(shape) or not fits(came, tuple(shape)):
        raise ValueError(say.filter_state(came, tuple(shape)))
    refuse_masked("zi", zi)
    zi = numbers("zi", zi) if isinstance(zi, np.ndarray) else zi
    check_real("zi", zi)
    rest, xp = 1 - gate, data.xp
    rest = xp.where(rest == 0, xp.ones_like(rest), rest) if is_array(gate) else rest or 1.0
    return at(data.narrow(data.beside(zi, "zi") / rest, data.dtype(heard)), len(shape) + axis, 0)


_RULES = {
    "b": ("0 <= b <= 1", lambda value: (value >= 0) & (value <= 1)),
    **{name: (f"{name} >= 0", lambda value: value >= 0) for name in ("gain", "bias", "power")},
    **{name: (f"{name} > 0", lambda value: value > 0) for name in ("sr", "hop_length", "time_constant", "eps")},
}
# What the general formula holds for: its limits at 0 are formulas of their own.
_RULES_OF_ARRAYS = {name: (f"{name} > 0", lambda value: value > 0) for name in ("bias", "power")}


def _normalize(xp: Any, smooth: Any, values: Any, gain: Any, bias: Any, power: Any, eps: Any) -> Any:
    with quiet(xp):
        log = xp.log(eps) if is_array(eps) else math.log(eps)
        smooth = xp.exp(-gain * (log + xp.log1p(smooth / eps)))
        if not is_array(power) and power == 0:
            return xp.log1p(values * smooth)
        if not is_array(bias) and bias == 0:
            return xp.exp(power * (xp.log(values) + xp.log(smooth)))
        return bias**power * xp.expm1(power * xp.log1p(values * smooth / bias))

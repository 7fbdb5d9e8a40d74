"""The exponentially weighted statistics."""

from typing import Any

from .._arguments.names import suggesting
from ._covariance import compute_pairs
from ._run import compute


@suggesting
def ewm_mean(
    x: Any, *, com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None, times: Any = None,
    adjust: bool = True, ignore_na: bool = False, min_periods: int | None = 0, axis: Any = 0, offsets: Any = None,
    resets: Any = None, groups: Any = None,
) -> Any:  # fmt: skip
    r"""Return the exponentially weighted mean, as pandas' ``x.ewm(...).mean()``.

    With ``adjust=True`` it is the weighted average of all samples so far. The newest has the weight 1, and each older
    one :math:`d = 1 - \alpha` times the weight of the next one,

    ``y[t] = (x[t] + d*x[t-1] + d**2*x[t-2] + ...) / (1 + d + d**2 + ...)``

    .. math:: y_t = \frac{\sum_{k \ge 0} d^k x_{t-k}}{\sum_{k \ge 0} d^k},

    with ``adjust=False`` the recurrence ``y[t] = alpha*x[t] + (1 - alpha)*y[t-1]`` from ``y[0] = x[0]``.

    Parameters
    ----------
    x : array_like
        The data: an array of NumPy, PyTorch, CuPy, Dask or another library with the array API's namespace; a Series
        or a DataFrame of pandas or polars; or a DataArray of xarray. float32, float64, integers or bools. NaN and
        infinities are missing values, as in pandas.
    com, span, halflife, alpha : float or array_like, optional
        The smoothing constant: a center of mass, :math:`\alpha = 1/(1 + \text{com})`, a span,
        :math:`2/(\text{span} + 1)`, a half-life in steps, :math:`1 - 2^{-1/\text{halflife}}`, or the factor itself, in
        (0, 1]. An array has one for each series, each step or both, and broadcasts against ``x``; a pandas Series has
        the labels of the steps or of the columns. Exactly one must be given. With `times`, ``halflife`` is required, a
        number in their unit or a timedelta (or a string that ``pandas.Timedelta`` takes); another one may be given too,
        for the time of one half-life.
    times : array_like, optional
        The times of the samples, in the length of `axis` or in the shape of ``x``: dates or numbers, not decreasing.
        Strings, periods and time spans are refused. A sample decays by :math:`2^{-\Delta t/\text{halflife}}`.
    adjust : bool, default True
        Divide by the sum of the weights so far. If False, each sample has the weight ``alpha`` (with `times`, 1 minus
        the decay since the last one), relative to 1 for all samples before it.
    ignore_na : bool, default False
        Whether missing values are skipped when weights decay; if False, weights decay over a gap.
    min_periods : int, default 0
        The number of samples that a result requires.
    axis : int, default 0
        The axis of time; for a DataArray also its name.
    offsets : array_like of int, optional
        Where segments begin along `axis`, and the end; each starts with no weight, as a series of its own.
    resets : array_like of bool, optional
        True where a step begins anew, in the shape of one or more leading axes of the data, time among them.
    groups : array_like, optional
        A key for each step along `axis`, in any order: each group is a series of its own, as in
        ``df.groupby(keys).ewm(...)``. Results are in the order of the data, NaN where the key, or a part of a tuple, is
        missing (None, NaN). Not together with `offsets` and `resets`.

    Returns
    -------
    array
        Of the library and type of ``x``. The dtype is the promotion of ``x`` and of constants that are arrays; for
        integers it is float64 (torch's default dtype for tensors). At a missing value the last result is carried
        forward. The result is NaN before the first sample, and until there are ``min_periods`` samples.

    Raises
    ------
    ValueError
        If not exactly one constant is given, or if it is out of its domain; for `times` of the wrong length, with NaT
        or NaN, decreasing, or of another kind than ``halflife``; for shapes and an axis that do not match.
    TypeError
        For unsupported dtypes and types.

    See Also
    --------
    Ewm, ewm_filtfilt, fastrecur.forget_mult : The same for a stream, without a lag; the recurrence itself.

    Notes
    -----
    Arguments with labels are matched by them, others by position: see :doc:`/reference/smoothing`. Computed in float64,
    also for float32, whose results are float32 again, in a Series too (pandas returns float64). The numbers are those
    of pandas, except for ``alpha=0.5`` with ``adjust=False``, where pandas weights a sample after a gap as if ``times``
    had been given. Where pandas and the formula differ, the result follows the formula. NumPy arrays, and tensors that
    do not require grad, are read once by a kernel. Other arrays use `fastrecur.forget_mult` and
    `fastrecur.linear_recurrence`, so gradients reach ``x`` and the constant (`fastrecur.torch.Ewm` trains one). The
    gradient of a missing value is zero. Constants that are arrays are checked unless that would wait for a device.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrecur.smoothing import ewm_mean
    >>> ewm_mean([1.0, 2.0, 3.0, 4.0], alpha=0.5)
    array([1.        , 1.66666667, 2.42857143, 3.26666667])
    >>> ewm_mean([1.0, 2.0, 3.0, 4.0], alpha=0.5, adjust=False)
    array([1.   , 1.5  , 2.25 , 3.125])
    >>> ewm_mean([1.0, np.nan, 3.0], alpha=0.5)
    array([1. , 1. , 2.6])
    >>> ewm_mean([1.0, 2.0, 3.0], halflife=1.0, times=[0.0, 1.0, 3.0])
    array([1.        , 1.66666667, 2.63636364])
    >>> ewm_mean([1.0, 8.0, 3.0, 4.0], alpha=0.5, groups=["a", "b", "a", "b"])
    array([1.        , 8.        , 2.33333333, 5.33333333])
    """
    how = (com, span, halflife, alpha), times, adjust, ignore_na, min_periods
    return compute("average", x, None, axis, (offsets, resets, groups), *how)


@suggesting
def ewm_sum(
    x: Any, *, com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None, times: Any = None,
    adjust: bool = True, ignore_na: bool = False, min_periods: int | None = 0, axis: Any = 0, offsets: Any = None,
    resets: Any = None, groups: Any = None,
) -> Any:  # fmt: skip
    r"""Return the exponentially weighted sum, as pandas' ``x.ewm(...).sum()``.

    ``S[t] = (1 - alpha)*S[t-1] + x[t]``

    .. math:: S_t = (1 - \alpha) S_{t-1} + x_t

    `times`, which pandas' sum does not take, may be given. Errors are those of `ewm_mean`, whose page says more.

    Parameters
    ----------
    x : array_like
        The data, as for `ewm_mean`: an array, a tensor, a Series, a frame or a DataArray.
    com, span, halflife, alpha : float or array_like, optional
        The smoothing constant, exactly one: a center of mass, ``alpha = 1/(1 + com)``, a span, ``2/(span + 1)``, a
        half-life in steps, ``1 - 2**(-1/halflife)``, or the factor itself. With `times`, ``halflife`` is required.
    times : array_like, optional
        The times of the samples, not decreasing: a sample decays by ``2**(-dt/halflife)``.
    adjust : bool, default True
        Must be True, as in pandas; NotImplementedError is raised for False.
    ignore_na : bool, default False
        Whether the sum is unchanged at a missing value; if False, it decays.
    min_periods : int, default 0
        The number of samples that a result requires.
    axis : int, default 0
        The axis of time; for a DataArray also its name.
    offsets, resets, groups : array_like, optional
        Where series begin anew along `axis`: their offsets, flags of steps, or a key for each step.

    Returns
    -------
    array
        Of the library, type and labels of ``x``, and of a dtype as for `ewm_mean`. NaN until there are
        ``min_periods`` samples.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrecur.smoothing import ewm_sum
    >>> ewm_sum([4.0, np.nan, np.nan, 4.0], alpha=0.5)
    array([4. , 2. , 1. , 4.5])
    """
    how = (com, span, halflife, alpha), times, adjust, ignore_na, min_periods
    return compute("sum", x, None, axis, (offsets, resets, groups), *how)


@suggesting
def ewm_var(
    x: Any, *, com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None, times: Any = None,
    adjust: bool = True, ignore_na: bool = False, min_periods: int | None = 0, axis: Any = 0, offsets: Any = None,
    resets: Any = None, groups: Any = None, bias: bool = False,
) -> Any:  # fmt: skip
    r"""Return the exponentially weighted variance, as pandas' ``x.ewm(...).var()``.

    With the normalized weights :math:`w` of `ewm_mean` and its mean :math:`y`,

    ``v[t] = sum(w*(x - y[t])**2)``, unbiased ``v[t] / (1 - sum(w**2))``

    .. math:: v_t = \sum_s w_s (x_s - y_t)^2, \qquad \text{unbiased: } v_t \Big/ \Big(1 - \sum_s w_s^2\Big).

    Errors are those of `ewm_mean`, whose page says more.

    Parameters
    ----------
    x : array_like
        The data, as for `ewm_mean`: an array, a tensor, a Series, a frame or a DataArray.
    com, span, halflife, alpha : float or array_like, optional
        The smoothing constant, exactly one: a center of mass, ``alpha = 1/(1 + com)``, a span, ``2/(span + 1)``, a
        half-life in steps, ``1 - 2**(-1/halflife)``, or the factor itself. With `times`, ``halflife`` is required.
    times : array_like, optional
        The times of the samples, not decreasing: a sample decays by ``2**(-dt/halflife)``.
    adjust : bool, default True
        Divide by the sum of the weights so far. If False, a sample has the weight ``alpha``.
    ignore_na : bool, default False
        Whether missing values are skipped when weights decay; if False, weights decay over a gap.
    min_periods : int, default 0
        The number of samples that a result requires.
    axis : int, default 0
        The axis of time; for a DataArray also its name.
    offsets, resets, groups : array_like, optional
        Where series begin anew along `axis`: their offsets, flags of steps, or a key for each step.
    bias : bool, default False
        Leave out the correction for the bias.

    Returns
    -------
    array
        Of the library, type and labels of ``x``, and of a dtype as for `ewm_mean`. NaN until there are
        ``min_periods`` samples, and two unless ``bias``.

    Notes
    -----
    It is a recurrence of squared deviations, not a difference of two sums [1]_, so data far from zero lose no digits.
    The divisor is another, without a subtraction: it stays correct after a gap in which the divisor of pandas cancels.

    References
    ----------
    .. [1] B. P. Welford, "Note on a method for calculating corrected sums of squares and products", Technometrics 4
       (1962), 419-420; with weights: D. H. D. West, Communications of the ACM 22 (1979), 532-535.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrecur.smoothing import ewm_var
    >>> ewm_var(1e8 + np.array([1.0, 2.0, 4.0, 8.0]), alpha=0.5)
    array([        nan,  0.5       ,  2.5       , 11.07142857])
    """
    how = (com, span, halflife, alpha), times, adjust, ignore_na, min_periods, bias
    return compute("covary", x, x, axis, (offsets, resets, groups), *how)


@suggesting
def ewm_std(
    x: Any, *, com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None, times: Any = None,
    adjust: bool = True, ignore_na: bool = False, min_periods: int | None = 0, axis: Any = 0, offsets: Any = None,
    resets: Any = None, groups: Any = None, bias: bool = False,
) -> Any:  # fmt: skip
    """Return the exponentially weighted standard deviation, as pandas' ``x.ewm(...).std()``.

    It is the square root of `ewm_var`, ``ewm_var(x, ...)**0.5``. Errors are those of `ewm_mean`, whose page says more.

    Parameters
    ----------
    x : array_like
        The data, as for `ewm_mean`: an array, a tensor, a Series, a frame or a DataArray.
    com, span, halflife, alpha : float or array_like, optional
        The smoothing constant, exactly one: a center of mass, ``alpha = 1/(1 + com)``, a span, ``2/(span + 1)``, a
        half-life in steps, ``1 - 2**(-1/halflife)``, or the factor itself. With `times`, ``halflife`` is required.
    times : array_like, optional
        The times of the samples, not decreasing: a sample decays by ``2**(-dt/halflife)``.
    adjust : bool, default True
        Divide by the sum of the weights so far. If False, a sample has the weight ``alpha``.
    ignore_na : bool, default False
        Whether missing values are skipped when weights decay; if False, weights decay over a gap.
    min_periods : int, default 0
        The number of samples that a result requires.
    axis : int, default 0
        The axis of time; for a DataArray also its name.
    offsets, resets, groups : array_like, optional
        Where series begin anew along `axis`: their offsets, flags of steps, or a key for each step.
    bias : bool, default False
        Leave out the correction for the bias.

    Returns
    -------
    array
        Of the library, type and labels of ``x``, and of a dtype as for `ewm_mean`. NaN until there are
        ``min_periods`` samples, and two unless ``bias``. Where it is 0 its derivative is 0, as that of `torch.std`.

    Examples
    --------
    >>> from fastrecur.smoothing import ewm_std
    >>> ewm_std([1.0, 2.0, 4.0, 8.0], alpha=0.5)
    array([       nan, 0.70710678, 1.58113883, 3.32737563])
    """
    how = (com, span, halflife, alpha), times, adjust, ignore_na, min_periods, bias
    return compute("root", x, x, axis, (offsets, resets, groups), *how)


@suggesting
def ewm_cov(
    x: Any, y: Any = None, *, com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None,
    times: Any = None, adjust: bool = True, ignore_na: bool = False, min_periods: int | None = 0, axis: Any = 0,
    offsets: Any = None, resets: Any = None, groups: Any = None, bias: bool = False, pairwise: bool = False,
    at: Any = None,
) -> Any:  # fmt: skip
    r"""Return the exponentially weighted covariance, as pandas' ``x.ewm(...).cov(y)``.

    With the normalized weights ``w`` of `ewm_mean` and the means of both series,

    ``c[t] = sum(w*(x - x_mean[t])*(y - y_mean[t]))``, unbiased ``c[t] / (1 - sum(w**2))``

    .. math:: c_t = \sum_s w_s (x_s - \bar x_t)(y_s - \bar y_t), \qquad
              \text{unbiased: } c_t \Big/ \Big(1 - \sum_s w_s^2\Big)

    Errors are those of `ewm_mean`, whose page says more.

    Parameters
    ----------
    x, y : array_like
        The data, which broadcast against each other. A sample counts if both values are present. Labels are matched:
        columns and dimensions may be in any order, indexes and coordinates must be the same; a Series with a frame is
        taken with each of its columns.
    com, span, halflife, alpha : float or array_like, optional
        The smoothing constant, exactly one: a center of mass, ``alpha = 1/(1 + com)``, a span, ``2/(span + 1)``, a
        half-life in steps, ``1 - 2**(-1/halflife)``, or the factor itself. With `times`, ``halflife`` is required.
    times : array_like, optional
        The times of the samples, not decreasing: a sample decays by ``2**(-dt/halflife)``.
    adjust : bool, default True
        Divide by the sum of the weights so far. If False, a sample has the weight ``alpha``.
    ignore_na : bool, default False
        Whether missing values are skipped when weights decay; if False, weights decay over a gap.
    min_periods : int, default 0
        The number of samples that a result requires.
    axis : int, default 0
        The axis of time; for a DataArray also its name.
    offsets, resets, groups : array_like, optional
        Where series begin anew along `axis`: their offsets, flags of steps, or a key for each step.
    bias : bool, default False
        Leave out the correction for the bias.
    pairwise : bool, default False
        Return what all pairs of columns have, the last axis of ``x`` that is not time, as pandas does for a frame.
        There is no ``y`` then; the constant is a number, and `times` and `resets` have one value for each step.
    at : int, label or list of these, optional
        With ``pairwise``, the steps whose matrices are returned: positions, -1 the last one, or labels of a DataFrame's
        index. Others take no memory.

    Returns
    -------
    array
        Of the library, type and labels of ``x``, beside a Series those of a frame, and of a dtype as for `ewm_mean`.
        NaN until there are ``min_periods`` samples, and two unless ``bias``. With ``pairwise`` of N columns two axes of
        N in the columns' place, of (T, N) so (T, N, N), and (N, N) for one step of ``at``; of a DataFrame as pandas has
        it, rows of times and columns, and for one step a frame of columns and columns.

    Examples
    --------
    >>> from fastrecur.smoothing import ewm_cov
    >>> ewm_cov([1.0, 2.0, 4.0], [2.0, 1.0, 3.0], alpha=0.5)
    array([ nan, -0.5,  1.5])
    >>> ewm_cov([[1.0, 2.0], [2.0, 1.0], [4.0, 3.0]], alpha=0.5, pairwise=True, at=-1)
    array([[2.5       , 1.5       ],
           [1.5       , 1.35714286]])
    """
    how = (com, span, halflife, alpha), times, adjust, ignore_na, min_periods, bias
    if pairwise is not False or at is not None:
        return compute_pairs("covary", x, y, axis, pairwise, at, (offsets, resets, groups), *how)
    return compute("covary", x, y, axis, (offsets, resets, groups), *how)


@suggesting
def ewm_corr(
    x: Any, y: Any = None, *, com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None,
    times: Any = None, adjust: bool = True, ignore_na: bool = False, min_periods: int | None = 0, axis: Any = 0,
    offsets: Any = None, resets: Any = None, groups: Any = None, pairwise: bool = False, at: Any = None,
) -> Any:  # fmt: skip
    r"""Return the exponentially weighted correlation, as pandas' ``x.ewm(...).corr(y)``; NaN where a variance is zero.

    ``r[t] = cov[t](x, y) / sqrt(var[t](x)*var[t](y))``

    .. math:: r_t = \frac{\operatorname{cov}_t(x, y)}{\sqrt{\operatorname{var}_t(x) \operatorname{var}_t(y)}}

    Errors are those of `ewm_mean`, whose page says more.

    Parameters
    ----------
    x, y : array_like
        The data, as for `ewm_cov`.
    com, span, halflife, alpha : float or array_like, optional
        The smoothing constant, exactly one: a center of mass, ``alpha = 1/(1 + com)``, a span, ``2/(span + 1)``, a
        half-life in steps, ``1 - 2**(-1/halflife)``, or the factor itself. With `times`, ``halflife`` is required.
    times : array_like, optional
        The times of the samples, not decreasing: a sample decays by ``2**(-dt/halflife)``.
    adjust : bool, default True
        Divide by the sum of the weights so far. If False, a sample has the weight ``alpha``.
    ignore_na : bool, default False
        Whether missing values are skipped when weights decay; if False, weights decay over a gap.
    min_periods : int, default 0
        The number of samples that a result requires.
    axis : int, default 0
        The axis of time; for a DataArray also its name.
    offsets, resets, groups : array_like, optional
        Where series begin anew along `axis`: their offsets, flags of steps, or a key for each step.
    pairwise : bool, default False
        Return what all pairs of columns have, the last axis of ``x`` that is not time, as pandas does for a frame.
        There is no ``y`` then; the constant is a number, and `times` and `resets` have one value for each step.
    at : int, label or list of these, optional
        With ``pairwise``, the steps whose matrices are returned: positions, -1 the last one, or labels of a DataFrame's
        index. Others take no memory.

    Returns
    -------
    array
        Of the library, type and labels of ``x``, beside a Series those of a frame, and of a dtype as for `ewm_mean`.
        NaN until there are ``min_periods`` samples, and two. With ``pairwise`` in the form of `ewm_cov`.

    Examples
    --------
    >>> from fastrecur.smoothing import ewm_corr
    >>> ewm_corr([1.0, 2.0, 4.0], [2.0, 1.0, 3.0], alpha=0.5)
    array([        nan, -1.        ,  0.81434507])
    """
    how = (com, span, halflife, alpha), times, adjust, ignore_na, min_periods, True
    if pairwise is not False or at is not None:
        return compute_pairs("corr", x, y, axis, pairwise, at, (offsets, resets, groups), *how)
    return compute("corr", x, y, axis, (offsets, resets, groups), *how)

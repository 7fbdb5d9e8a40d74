"""pandas as the oracle, over its grid of parameters; its frames and those of others in and out."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import xarray as xr
from hypothesis import given, strategies as st

from fastrecur.smoothing import Ewm, ewm_corr, ewm_cov, ewm_filtfilt, ewm_mean, ewm_std, ewm_sum, ewm_var, kama, pcen

CONSTANTS = st.one_of(
    st.builds(dict, com=st.floats(0, 50)),
    st.builds(dict, span=st.floats(1, 50)),
    st.builds(dict, halflife=st.floats(0.1, 50)),
    st.builds(dict, alpha=st.floats(0.01, 1)),
)
GRID = {
    "constant": CONSTANTS,
    "adjust": st.booleans(),
    "ignore_na": st.booleans(),
    "min_periods": st.integers(0, 5),
    "steps": st.integers(1, 70),
    "lanes": st.sampled_from([1, 3, 17]),
    "missing": st.sampled_from([0.0, 0.2, 0.8]),
    "seed": st.integers(0, 2**32 - 1),
    "dtype": st.sampled_from([np.float64, np.float64, np.float32]),
}


def make(seed, steps, lanes, missing, dtype):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, steps, lanes)) + 3
    x[rng.random(x.shape) < missing] = np.nan
    x[rng.random(x.shape) < missing / 10] = np.inf
    return x.astype(dtype)


def alpha_of(constant):
    [(name, value)] = constant.items()
    formulas = {
        "com": lambda v: 1 / (1 + v),
        "span": lambda v: 2 / (v + 1),
        "halflife": lambda v: 1 - 0.5 ** (1 / v),
        "alpha": lambda v: v,
    }
    return formulas[name](value)


def divisors(seen, alpha, adjust, ignore_na):
    """1 less the sum of the squared weights, from all weights, as a sum over pairs; NaN before the second sample."""
    result = np.full(seen.shape, np.nan)
    for lane in range(seen.shape[1]):
        weights, now = np.zeros(0), np.nan
        for t, there in enumerate(seen[:, lane]):
            if there or not ignore_na:
                weights = weights * (1 - alpha)
            if there:
                weights = np.append(weights, 1.0 if adjust or not len(weights) else alpha)
                earlier = np.cumsum(weights) - weights
                now = 2 * (weights * earlier).sum() / weights.sum() ** 2
                now = now if len(weights) > 1 and now > 0 else np.nan
                weights = weights if adjust else weights / weights.sum()
            result[t, lane] = now
    return result


@pytest.mark.exhaustive
@given(**GRID)
def test_grid(constant, adjust, ignore_na, min_periods, steps, lanes, missing, seed, dtype):
    x, y = make(seed, steps, lanes, missing, dtype)
    options = {**constant, "adjust": adjust, "ignore_na": ignore_na, "min_periods": min_periods}
    frame, other = pd.DataFrame(x.astype(np.float64)), pd.DataFrame(y.astype(np.float64))
    ewm = frame.ewm(**options)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-10, "atol": 1e-11}

    def check(actual, expected):
        assert actual.dtype == dtype
        np.testing.assert_allclose(actual, expected.to_numpy(), **tolerance)

    # With alpha = 0.5 and adjust=False, pandas weights a sample after a gap as if times had been given.
    if adjust or abs(alpha_of(constant) - 0.5) > 1e-9:
        check(ewm_mean(x, **options), ewm.mean())
        np.testing.assert_allclose(ewm_mean(x.T, axis=1, **options).T, ewm.mean(), **tolerance)
    if adjust:
        check(ewm_sum(x, **options), ewm.sum())
    variance, unbiased = ewm_var(x, **options, bias=True), ewm_var(x, **options)
    check(variance, ewm.var(bias=True))
    np.testing.assert_allclose(ewm_std(x, **options) ** 2, unbiased, rtol=1e-5 if dtype == np.float32 else 1e-12)
    # pandas' own divisor is a difference, and after a gap nothing may be left of it.
    expected = ewm.var(bias=True).to_numpy() / divisors(np.isfinite(x), alpha_of(constant), adjust, ignore_na)
    np.testing.assert_allclose(unbiased, expected, **tolerance)
    covariance = pd.concat([frame[k].ewm(**options).cov(other[k], bias=True) for k in frame], axis=1)
    check(ewm_cov(x, y, **options, bias=True), covariance)


@pytest.mark.exhaustive
def test_the_whole_grid_without_gaps_in_the_unbiased(rng):
    x, y = rng.standard_normal((2, 60, 5))
    frame, other = pd.DataFrame(x), pd.DataFrame(y)
    for adjust in [True, False]:
        ewm = frame.ewm(span=9, adjust=adjust)
        np.testing.assert_allclose(ewm_var(x, span=9, adjust=adjust), ewm.var(), rtol=1e-10)
        np.testing.assert_allclose(ewm_std(x, span=9, adjust=adjust), ewm.std(), rtol=1e-10)
        for name, function in [("cov", ewm_cov), ("corr", ewm_corr)]:
            series = [getattr(frame[k].ewm(span=9, adjust=adjust), name)(other[k]) for k in frame]
            expected = pd.concat(series, axis=1).to_numpy()
            expected[0] = np.nan
            np.testing.assert_allclose(function(x, y, span=9, adjust=adjust), expected, rtol=1e-9, atol=1e-12)


@given(
    st.lists(st.integers(0, 10**7), min_size=1, max_size=50),
    st.booleans(), st.booleans(), st.integers(0, 3), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_times(gaps, adjust, ignore_na, min_periods, seed):
    [x, _] = make(seed, len(gaps), 2, 0.2, np.float64)
    times = pd.Timestamp("2020-01-01") + pd.to_timedelta(np.cumsum(gaps), "s")
    options = {"halflife": "2h", "adjust": adjust, "ignore_na": ignore_na, "min_periods": min_periods}
    expected = pd.DataFrame(x).ewm(times=times, **options).mean()
    np.testing.assert_allclose(ewm_mean(x, times=times, **options), expected, rtol=1e-9)
    zoned = times.tz_localize("Europe/Paris", nonexistent="shift_forward", ambiguous=True)
    if zoned.is_monotonic_increasing:
        ewm_mean(x, times=zoned, **options)
    numbers = np.cumsum(gaps) / 3600
    np.testing.assert_allclose(ewm_mean(x, times=numbers, **{**options, "halflife": 2.0}), expected, rtol=1e-9)


@pytest.mark.parametrize("shape", [(5000,), (5001, 2), (2, 5003)])
@pytest.mark.parametrize("adjust", [True, False])
def test_long_series(rng, shape, adjust, set_threads):
    axis = int(np.argmax(shape))
    x, y = rng.standard_normal((2, *shape)) + 5
    x[rng.random(shape) < 0.3] = np.nan
    at = [slice(None)] * len(shape)
    at[axis] = slice(1000, 1700)  # longer than a segment
    x[tuple(at)] = np.nan
    frame, other = (pd.DataFrame(np.moveaxis(v, axis, 0).reshape(max(shape), -1)) for v in (x, y))
    options = {"alpha": 0.02, "adjust": adjust, "min_periods": 3}
    back = np.moveaxis(np.empty(shape), axis, 0).shape
    checks = [
        (ewm_mean(x, axis=axis, **options), frame.ewm(**options).mean()),
        (ewm_var(x, axis=axis, **options, bias=True), frame.ewm(**options).var(bias=True)),
        (
            ewm_cov(x, y, axis=axis, **options, bias=True),
            pd.concat([frame[k].ewm(**options).cov(other[k], bias=True) for k in frame], axis=1),
        ),
    ]
    if adjust:
        checks.append((ewm_sum(x, axis=axis, **options), frame.ewm(**options).sum()))
    for actual, expected in checks:
        expected = np.moveaxis(expected.to_numpy().reshape(back), 0, axis)
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)
    set_threads(1)
    np.testing.assert_array_equal(ewm_mean(x, axis=axis, **options), checks[0][0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("adjust", [True, False])
@pytest.mark.parametrize("alpha", [0.9, 0.1, 0.02, 1e-4, 1.0])
@pytest.mark.parametrize("steps", [2048, 30000])
def test_long_complete_series(rng, dtype, adjust, alpha, steps):
    """Nothing is missing, or only far from the start."""
    x = (100 * rng.standard_normal(steps) + 10).astype(dtype)
    options = {"alpha": alpha, "adjust": adjust, "min_periods": 3}
    expected = pd.Series(x.astype(np.float64)).ewm(**options).mean().to_numpy()
    rtol = 1e-5 if dtype == np.float32 else 1e-10
    close = {"rtol": rtol, "atol": 100 * rtol}
    np.testing.assert_allclose(ewm_mean(x, **options), expected, **close)
    stream = Ewm(**options)
    parts = [stream.update(part) for part in np.split(x, [10, 2500]) if len(part)]
    np.testing.assert_allclose(np.concatenate(parts), expected, **close)
    if np.dtype(dtype).kind == "f":
        for special in [np.nan, np.inf]:
            x[-20] = special
            with_gap = x.astype(np.float64)
            with_gap[~np.isfinite(with_gap)] = np.nan
            expected = pd.Series(with_gap).ewm(**options).mean().to_numpy()
            np.testing.assert_allclose(ewm_mean(x, **options), expected, **close)


@pytest.mark.parametrize("statistic", ["mean", "var"])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_long_series_with_long_gaps(rng, statistic, alpha):
    """A gap takes the weight below the least number; the mean before it stands, and samples after it start anew."""
    x = rng.standard_normal(40000)
    x[5001:7000], x[20002:23000], x[30000] = np.nan, np.nan, np.nan
    x[np.arange(1, 9) * (40000 // 8) - 1] = np.nan  # the last step of each segment
    theirs = pd.Series(x).ewm(alpha=alpha)
    if statistic == "mean":
        actual, expected = ewm_mean(x, alpha=alpha), theirs.mean()
    else:
        actual, expected = ewm_var(x, alpha=alpha, bias=True), theirs.var(bias=True)
    np.testing.assert_allclose(actual, expected.to_numpy(), rtol=1e-9, atol=1e-12)


def test_long_series_with_one_sample_between_gaps():
    """The weights before and after it are numbers, and their product is none."""
    x = np.full(2048, np.nan)
    x[:21], x[320] = np.arange(21.0), 5.0
    actual = ewm_var(x, alpha=0.9)
    expected = ewm_var(np.repeat(x[:, np.newaxis], 8, 1), alpha=0.9)[:, 0]  # lanes enough not to be cut
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


def test_polars(rng):
    x = rng.standard_normal(200)
    x[rng.random(200) < 0.2] = np.nan
    series = pl.Series(x).fill_nan(None)
    for adjust in [True, False]:
        for ignore in [True, False]:
            expected = series.ewm_mean(alpha=0.3, adjust=adjust, ignore_nulls=ignore).to_numpy()
            actual = ewm_mean(x, alpha=0.3, adjust=adjust, ignore_na=ignore)
            # polars keeps null as null, where pandas repeats the last mean.
            seen = ~np.isnan(expected)
            np.testing.assert_allclose(actual[seen], expected[seen], rtol=1e-12)


def test_frames_in_the_same_type_out():
    x = np.arange(8.0)
    x[3] = np.nan
    index = pd.date_range("2024", periods=8, freq="h")
    series = pd.Series(x, index=index, name="s")
    pd.testing.assert_series_equal(ewm_mean(series, span=3), series.ewm(span=3).mean())
    frame = pd.DataFrame({"a": x, "b": x**2}, index=index)
    pd.testing.assert_frame_equal(ewm_var(frame, span=3), frame.ewm(span=3).var())
    pd.testing.assert_frame_equal(ewm_mean(frame, alpha=0.3, times=index, halflife="1h"), ewm_mean(
        frame, alpha=0.3, times=index, halflife=pd.Timedelta("1h")))  # fmt: skip
    nullable = series.astype("Float64")
    np.testing.assert_array_equal(ewm_mean(nullable, span=3).to_numpy(), ewm_mean(x, span=3))
    pd.testing.assert_series_equal(ewm_cov(series, series, span=3), ewm_var(series, span=3))
    with pytest.raises(ValueError, match="same index"):
        ewm_corr(series, series.iloc[::-1], span=3)
    table = pl.DataFrame({"a": x, "b": [None, *x[1:]]})
    result = ewm_mean(table, span=3)
    assert type(result) is pl.DataFrame
    assert result.columns == ["a", "b"]
    np.testing.assert_array_equal(result["a"].to_numpy(), ewm_mean(x, span=3))
    assert ewm_std(table["a"], span=3).name == "a"
    array = xr.DataArray(np.stack([x, x**2]), dims=("c", "time"), coords={"time": index}, name="n", attrs={"unit": "m"})
    result = ewm_mean(array, span=3, axis="time")
    np.testing.assert_array_equal(result.values, ewm_mean(array.values, span=3, axis=1))
    assert result.coords.equals(array.coords)
    assert (result.name, result.attrs, result.dims) == ("n", {"unit": "m"}, ("c", "time"))
    applied = xr.apply_ufunc(
        ewm_mean, array, kwargs={"span": 3, "axis": -1}, input_core_dims=[["time"]], output_core_dims=[["time"]]
    )
    np.testing.assert_array_equal(applied.values, result.values)
    with pytest.raises(ValueError, match="dimension"):
        ewm_mean(array, span=3, axis="x")
    filled = series.fillna(0)
    assert ewm_filtfilt(filled, span=3).index.equals(index)
    assert kama(filled, 2).name == "s"
    assert pcen(abs(filled), axis=0).index.equals(index)


def test_a_subclass_of_a_frame_stays_one():
    class Signal(pd.Series):
        @property
        def _constructor(self):
            return Signal

    assert type(ewm_mean(Signal([1.0, 2.0]), span=3)) is Signal

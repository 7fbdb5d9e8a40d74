"""Smoothing of Dask arrays: the numbers of one array, missing values and times included."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from compare import assert_close_lazy

from fastrecur import smoothing
from fastrecur.smoothing import _run

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 23


def lazy(values, steps=4):
    return da.from_array(values, (steps, 2)[: values.ndim])


@pytest.fixture
def series(rng):
    x, y = rng.standard_normal((2, STEPS, 3))
    x[rng.random(x.shape) < 0.3] = np.nan
    x[:6, 1], y[2, 0] = np.nan, np.nan
    return x, y


def weights(rng):
    seconds = np.cumsum(rng.integers(0, 3, STEPS))
    yield dict(alpha=0.3)
    yield dict(alpha=rng.uniform(0.05, 0.95, (STEPS, 3)))
    yield dict(alpha=rng.uniform(0.05, 0.95, 3))
    yield dict(halflife=2.0, times=seconds.astype("f8"))
    yield dict(halflife=np.timedelta64(2, "s"), times=np.datetime64("2026-01-01", "s") + seconds.astype("m8[s]"))
    yield dict(halflife=2.0, times=np.broadcast_to(seconds[:, np.newaxis], (STEPS, 3)).astype("f8"))
    yield dict(halflife=rng.uniform(1, 5, 3))
    yield dict(span=rng.uniform(1, 9, (STEPS, 3)))
    for _ in range(2):
        yield dict(halflife=rng.uniform(1, 5, 3), com=rng.uniform(1, 2, 3), times=seconds.astype("f8"))


@pytest.mark.sample(adjust=[True], kind=["offsets"])
@pytest.mark.parametrize("adjust", [False, True])
@pytest.mark.parametrize("kind", ["offsets", "resets", "own resets", "both", "lazy"])
def test_series_that_begin_anew(rng, series, adjust, kind):
    """Anywhere in chunks, in pairs too; a clock may go back there."""
    (x, y), flags, offsets = series, rng.random((STEPS, 3)) < 0.2, [0, 4, 4, 13, STEPS]
    borders = {
        "offsets": {"offsets": offsets}, "resets": {"resets": flags[:, 0]}, "own resets": {"resets": flags},
        "both": {"offsets": offsets, "resets": flags}, "lazy": {"resets": flags},
    }[kind]  # fmt: skip
    some = {name: da.from_array(v, (5, 2)) if kind == "lazy" else v for name, v in borders.items()}
    times = np.arange(STEPS, dtype="f8")
    times[13:] -= 12 * ("offsets" in borders)
    for weight in ({"alpha": 0.3}, {"halflife": 2.0, "times": times}):
        options = weight | {"adjust": adjust, "min_periods": 2}
        for name in ("mean", "var") + ("sum",) * adjust:
            function = getattr(smoothing, f"ewm_{name}")
            assert_close_lazy(function(lazy(x), **options, **some), function(x, **options, **borders), 1e-11)
        for name in ("cov", "corr"):
            function = getattr(smoothing, f"ewm_{name}")
            assert_close_lazy(
                function(lazy(x), lazy(y, 5), **options, **some), function(x, y, **options, **borders), 1e-11
            )


def test_resets_alone_are_lazy(series):
    flags = np.arange(STEPS) % 5 == 0
    expected = smoothing.ewm_mean(series[0], alpha=0.3, resets=flags)
    found = smoothing.ewm_mean(series[0], alpha=0.3, resets=da.from_array(flags, 6))
    assert_close_lazy(found, expected, 1e-11)
    data = xr.DataArray(lazy(series[0]), dims=("time", "site"))
    found = smoothing.ewm_mean(data, alpha=0.3, resets=xr.DataArray(da.from_array(flags, 6), dims="time"), axis="time")
    assert_close_lazy(found.data, expected, 1e-11)
    with pytest.raises(TypeError, match="`resets` must hold bools"):
        smoothing.ewm_mean(series[0], alpha=0.3, resets=da.zeros(STEPS))


KEYS = [None if k % 11 == 7 else "aba"[k % 3] if k < 9 else "cab"[k % 3] for k in range(STEPS)]


def times_of_groups(rng):
    """Times that go back from group to group."""
    times = np.empty(STEPS)
    for number, key in enumerate(set(KEYS)):
        own = [k for k in range(STEPS) if KEYS[k] == key]
        times[own] = np.cumsum(rng.integers(1, 4, len(own))) - 50 * number
    return times


@pytest.mark.exhaustive
@pytest.mark.parametrize("keys", [KEYS, np.array(KEYS, object), da.from_array(np.array(KEYS, object), 5)])
@pytest.mark.parametrize("adjust", [False, True])
def test_groups(rng, series, keys, adjust):
    """Each goes on from chunk to chunk, in any statistic, whatever the constant and the times are."""
    (x, y), times = series, times_of_groups(rng)
    for weight in (
        {"alpha": 0.3}, {"com": rng.uniform(1, 5, 3)}, {"halflife": 2.0, "times": times},
        {"alpha": rng.uniform(0.05, 0.95, (STEPS, 3)), "ignore_na": True},
        {"halflife": 2.0, "times": np.repeat(times[:, np.newaxis], 3, axis=1)},
        {"halflife": np.timedelta64(2, "s"), "times": np.datetime64("2026-01-01", "s") + times.astype("m8[s]")},
    ):  # fmt: skip
        options = weight | {"adjust": adjust, "min_periods": 2}
        some = {n: lazy(v, 5) if isinstance(v, np.ndarray) and v.ndim == 2 else v for n, v in options.items()}
        for name in ("mean", "std", "cov", "corr") + ("sum",) * adjust:
            function, pair = getattr(smoothing, f"ewm_{name}"), (x, y) if name in ("cov", "corr") else (x,)
            expected = function(*pair, groups=KEYS, **options)
            assert_close_lazy(function(*map(lazy, pair), groups=keys, **some), expected, 1e-11)


@pytest.mark.sample(axis=[-1, 0])
@pytest.mark.parametrize(("shape", "axis"), [((2, STEPS, 3), 1), ((3, STEPS), -1), ((STEPS,), 0)])
def test_groups_along_another_axis(rng, shape, axis):
    x, options = rng.standard_normal(shape), {"halflife": 2.0, "times": times_of_groups(rng), "axis": axis}
    found = smoothing.ewm_var(da.from_array(x, tuple(5 if n == STEPS else 2 for n in shape)), groups=KEYS, **options)
    assert_close_lazy(found, smoothing.ewm_var(x, groups=KEYS, **options), 1e-11)


def test_groups_cost_no_call_each(monkeypatch):
    """Those of as many steps in a chunk are series side by side."""
    x, keys, calls = np.arange(6000.0), np.arange(6000) % 1000, []
    found = smoothing.ewm_mean(da.from_array(x, 3000), alpha=0.3, groups=keys)
    wanted, at_once = smoothing.ewm_mean(x, alpha=0.3, groups=keys), _run.at_once
    monkeypatch.setattr(_run, "at_once", lambda *given: calls.append(1) or at_once(*given))
    np.testing.assert_allclose(found.compute(), wanted, rtol=1e-12)
    assert len(calls) == 2


def test_groups_are_lazy(series):
    """Keys too: neither are they computed early, nor is time brought into one chunk."""
    keys = da.from_array(np.array(KEYS, object), 6)
    expected = smoothing.ewm_mean(series[0], alpha=0.3, groups=KEYS)
    assert_close_lazy(smoothing.ewm_mean(series[0], alpha=0.3, groups=keys), expected, 1e-11)
    assert_close_lazy(smoothing.ewm_mean(lazy(series[0]), alpha=0.3, groups=xr.DataArray(keys)), expected, 1e-11)
    never = keys.map_blocks(lambda _: 1 / 0, dtype=object)
    assert smoothing.ewm_mean(lazy(series[0], 6), alpha=0.3, groups=never).chunks == lazy(series[0], 6).chunks
    for few in (keys[:5], KEYS[:5]):
        with pytest.raises(ValueError, match=r"`groups` must have a key for each of the 23 steps, got shape \(5,\)"):
            smoothing.ewm_mean(lazy(series[0]), alpha=0.3, groups=few)
    with pytest.raises(ValueError, match="`groups` must have known chunk sizes"):
        smoothing.ewm_mean(lazy(series[0]), alpha=0.3, groups=keys[keys != "a"])
    with pytest.raises(ValueError, match="`times` must not go backwards"):
        smoothing.ewm_mean(lazy(series[0]), halflife=1, times=np.arange(STEPS)[::-1], groups=keys).compute()


@pytest.mark.exhaustive
@pytest.mark.parametrize("ignore_na", [False, True])
@pytest.mark.parametrize("adjust", [False, True])
def test_statistics(rng, series, adjust, ignore_na):
    x, y = series
    for k, weight in enumerate(weights(rng)):
        plain = dict(weight, adjust=adjust, ignore_na=ignore_na, min_periods=3 * (k % 2))
        arrays = {n: v for n, v in plain.items() if isinstance(v, np.ndarray) and k % 2}
        some = plain | {n: da.from_array(v, 3) for n, v in arrays.items()}
        for name in ("mean", "var", "std") + ("sum",) * adjust:
            function = getattr(smoothing, f"ewm_{name}")
            assert_close_lazy(function(lazy(x), **some), function(x, **plain), 1e-11)
        for name in ("cov", "corr"):
            function = getattr(smoothing, f"ewm_{name}")
            assert_close_lazy(function(lazy(x), lazy(y, 5), **some), function(x, y, **plain), 1e-11)
    far = x + 1e8
    near = {"rtol": 1e-6, "atol": 1e-8}  # a sample's own rounding is 1e-8
    np.testing.assert_allclose(smoothing.ewm_var(lazy(far), alpha=0.3), smoothing.ewm_var(x, alpha=0.3), **near)
    single = x.astype("f4")
    assert_close_lazy(
        smoothing.ewm_mean(lazy(single, 3), alpha=0.3, axis=1), smoothing.ewm_mean(single, alpha=0.3, axis=1), 1e-6
    )


def test_tasks_a_chunk():
    x = da.ones((300, 2), chunks=(3, 1))
    y = smoothing.ewm_mean(x, alpha=0.1)
    assert len(dict(y.__dask_graph__())) <= 4 * x.npartitions


def test_filters(rng):
    x = rng.standard_normal((STEPS, 3))
    for alpha in (0.3, rng.uniform(0.1, 0.9, 3)):
        assert_close_lazy(smoothing.ewm_filtfilt(lazy(x), alpha=alpha), smoothing.ewm_filtfilt(x, alpha=alpha))
    for period in (1, 3, 7, 30):
        assert_close_lazy(smoothing.kama(lazy(x), period), smoothing.kama(x, period))
    gain = rng.uniform(0.5, 1, 3)
    for name, value in (("gain", gain), ("b", gain), ("power", gain)):
        expected = smoothing.pcen(x**2, axis=0, **{name: value})
        for own in (value, da.from_array(value, 2)):
            assert_close_lazy(smoothing.pcen(lazy(x**2), axis=0, **{name: own}), expected)
    halflife = rng.uniform(1, 9, 3)
    expected = smoothing.ewm_filtfilt(x, halflife=halflife)
    assert_close_lazy(smoothing.ewm_filtfilt(lazy(x), halflife=halflife), expected)
    for options in ({}, {"bias": 0}, {"power": 0}):
        assert_close_lazy(
            smoothing.pcen(lazy(x**2), b=0.1, axis=0, **options), smoothing.pcen(x**2, b=0.1, axis=0, **options)
        )


def test_labelled(series):
    data = xr.DataArray(series[0], dims=("time", "station"), coords={"station": list("abc")})
    expected = smoothing.ewm_mean(data, halflife=2, axis="time")
    actual = smoothing.ewm_mean(data.chunk(time=5), halflife=2, axis="time")
    assert isinstance(actual.data, da.Array)
    xr.testing.assert_allclose(actual.compute(), expected, rtol=1e-12)
    options = dict(input_core_dims=[["time"]], output_core_dims=[["time"]], kwargs=dict(halflife=2, axis=-1))
    for how, chunks in (("allowed", dict(time=5)), ("parallelized", dict(station=2))):
        done = xr.apply_ufunc(
            smoothing.ewm_mean, data.chunk(chunks), dask=how, output_dtypes=[data.dtype], **options
        ).transpose("time", "station")
        xr.testing.assert_allclose(done.compute(), expected, rtol=1e-12)


def test_errors(series):
    x, _ = series
    with pytest.raises(ValueError, match="`x` must be finite"):
        smoothing.ewm_filtfilt(lazy(x), alpha=0.5).compute()
    with pytest.raises(ValueError, match="`alpha` must satisfy"):
        smoothing.ewm_mean(lazy(x), alpha=np.full(3, 2.0))
    with pytest.raises(ValueError, match="`times` must not go backwards"):
        smoothing.ewm_mean(lazy(x), halflife=1.0, times=-np.arange(STEPS))
    with pytest.raises(ValueError, match="`times` must not go backwards"):
        smoothing.ewm_mean(lazy(x), halflife=1.0, times=da.from_array(-np.arange(STEPS), 1)).compute()
    with pytest.raises(ValueError, match="`times` must be the same length"):
        smoothing.ewm_mean(lazy(x), halflife=1.0, times=da.arange(4))
    with pytest.raises(ValueError, match="unknown on axis 0"):
        smoothing.ewm_mean(lazy(x)[lazy(x)[:, 0] > 0], alpha=0.5)
    with pytest.raises(TypeError, match="`x` must hold float32"):
        smoothing.ewm_mean(lazy(x).astype("c16"), alpha=0.5)
    with pytest.raises(TypeError, match="`S` must hold float32"):
        smoothing.pcen(lazy(x).astype("f2"))
    with pytest.raises(TypeError, match="in memory for a stream"):
        smoothing.Ewm(alpha=0.5).update(lazy(x))

"""Decays from times: the kernel's against NumPy's, what it refuses, and long series in chunks."""

import sys

import numpy as np
import pytest

from fastrecur._cpu import weighted_run
from fastrecur.smoothing import _times, ewm_mean, ewm_sum, ewm_var

SIZES = [weighted_run.LONG_TIMES, weighted_run.LONG_TIMES + 1, 5003, 70001]  # 70001: more than one thread


def times_of(rng, kind, size):
    """Return times of a kind, some of them equal, and a half-life."""
    seconds = np.cumsum(np.where(rng.random(size) < 0.2, 0, rng.exponential(1, size)))
    if kind == "dates":
        return np.datetime64("2026-01-01", "us") + (seconds * 1e6).astype("m8[us]"), np.timedelta64(13, "s")
    if kind == "dates before 1970":
        return np.datetime64("1900-01-01", "ns") + (seconds * 1e9).astype("m8[ns]"), np.timedelta64(13, "s")
    if kind == "steps of many units":
        return np.datetime64("2026-01-01") + seconds.astype("m8[7m]"), np.timedelta64(1, "h")
    return _times.take_times((seconds - 50).astype(kind)), 13.0


def decays_of(times, halflife, alpha=0.5, last=None):
    times, halflife, last = _times.in_units(times, halflife, times.dtype.kind == "M", last)
    return weighted_run.decays(times, _times.steps(times[:1], (1,), 0, last)[0], halflife, alpha)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["f8", "f4", "i8", "i4", "dates", "dates before 1970", "steps of many units"])
@pytest.mark.parametrize("alpha", [0.5, 0.03])
def test_against_numpy(rng, kind, alpha):
    for size in SIZES:
        times, halflife = times_of(rng, kind, size)
        for last in (None, times[0] - (times[9] - times[0])):
            found = decays_of(times, halflife, alpha, last)
            gaps = np.diff(times, prepend=times[:1] if last is None else last) / halflife
            np.testing.assert_allclose(found, (1 - alpha) ** gaps, rtol=2e-15 if kind != "f4" else 1e-6)
    strided = np.repeat(times, 2)[::2]
    np.testing.assert_array_equal(decays_of(strided, halflife, alpha, last), found)


@pytest.mark.parametrize("kind", [">f8", ">M8[s]"])
def test_other_byte_orders(rng, kind):
    """NumPy computes what no kernel takes."""
    times, x = np.cumsum(np.full(2000, 3)).astype(kind), rng.standard_normal(2000)
    halflife = np.timedelta64(3, "s") if times.dtype.kind == "M" else 3.0
    assert decays_of(times, halflife) is None
    expected = ewm_mean(x, halflife=1.0)
    np.testing.assert_allclose(ewm_mean(x, halflife=halflife, times=times), expected, rtol=1e-13)


def test_whole_half_lives_are_exact():
    times = np.cumsum(np.arange(2000.0) % 9) * 3
    np.testing.assert_array_equal(decays_of(times, 3.0)[1:], 2.0 ** -(np.arange(1, 2000) % 9))
    far = decays_of(np.arange(2000.0) * 1e6, 1.0)
    np.testing.assert_array_equal(far, [1.0] + [0.0] * 1999)


@pytest.mark.sample(kind=["f8", "dates"])
@pytest.mark.parametrize("kind", ["f8", "f4", "i8", "dates", "dates before 1970"])
@pytest.mark.parametrize("place", [0, 1, 17, 2500, 5001, 5002])
def test_bad_times_among_many(rng, kind, place):
    times, halflife = times_of(rng, kind, 5003)
    x = np.zeros(5003)
    if times.dtype.kind != "i":
        for bad in [np.datetime64("NaT")] if times.dtype.kind == "M" else [np.nan, np.inf, -np.inf]:
            broken = times.copy()
            broken[place] = bad
            with pytest.raises(ValueError, match="NaN"):
                ewm_mean(x, halflife=halflife, times=broken)
    if 0 < place:
        broken = times.copy()
        broken[place] = broken[place - 1] - (times[-1] - times[0])
        with pytest.raises(ValueError, match="backwards"):
            ewm_mean(x, halflife=halflife, times=broken)


def test_times_too_far_apart_for_integers():
    times = np.zeros(3000, np.int64)
    times[:7], times[7:] = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    expected = np.where(np.arange(3000) < 7, 1.0, 2.0 ** (-(2.0**64) / 1e19))
    found = ewm_sum(np.arange(3000.0) == 0, halflife=1e19, times=times)
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    np.testing.assert_array_equal(ewm_mean(np.arange(3000.0) > 6, halflife=1.0, times=times), np.arange(3000) > 6)


@pytest.fixture
def scanned(monkeypatch):
    """What was scanned in chunks: the last argument of each call is the number of steps of a warm-up."""
    noted, scan = [], weighted_run._walk_in_chunks
    monkeypatch.setattr(weighted_run, "_walk_in_chunks", lambda *how: noted.append(how[-1]) or scan(*how))
    return noted


@pytest.mark.parametrize("statistic", [ewm_mean, ewm_var])
@pytest.mark.parametrize("adjust", [True, False])
@pytest.mark.parametrize("ignore_na", [True, False])
def test_chunks(rng, set_threads, scanned, statistic, adjust, ignore_na):
    """A long series with times is scanned in chunks, and again where a chunk began from another state."""
    x, times = rng.standard_normal(70001), np.cumsum(rng.exponential(1, 70001))
    x[rng.random(x.shape) < 0.1] = np.nan
    x[20000:43000] = np.nan  # more than a chunk
    options = {"halflife": 5.0, "times": times, "adjust": adjust, "ignore_na": ignore_na}
    together = statistic(np.repeat(x[:, np.newaxis], 16, 1), **options)[:, 3]
    assert not scanned
    np.testing.assert_allclose(statistic(x, **options), together, rtol=1e-10, atol=1e-13)
    assert scanned
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        results.append(statistic(x, **options))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    slow = {**options, "halflife": 1e6}  # nothing is forgotten within a chunk
    before = len(scanned)
    together = statistic(np.repeat(x[:, np.newaxis], 16, 1), **slow)[:, 3]
    np.testing.assert_allclose(statistic(x, **slow), together, rtol=1e-9, atol=1e-13)
    assert len(scanned) == before


def test_factors_of_steps_in_chunks(rng, scanned):
    """So is one with a factor for each step."""
    x, alpha = rng.standard_normal(70001), rng.uniform(0.01, 1, 70001)
    for adjust in (True, False):
        together = ewm_mean(np.repeat(x[:, None], 16, 1), alpha=alpha[:, None], adjust=adjust)[:, 3]
        np.testing.assert_allclose(ewm_mean(x, alpha=alpha, adjust=adjust), together, rtol=1e-10, atol=1e-13)
    assert len(scanned) == 2


def test_a_string_where_pandas_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ValueError, match="must be a number or a timedelta without pandas, got"):
        ewm_mean(np.ones(2), halflife="1h", times=np.array([0, 1], "M8[s]"))

"""One series, and a few, of a notebook's size: calls by remembered layouts, and chunks that a kernel cuts by itself."""

import gc
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from fastrecur._cpu import weighted_run
from fastrecur._cpu.vectors.types import WIDTH
from fastrecur.smoothing import Ewm, ewm_cov, ewm_mean, ewm_std, ewm_sum, ewm_var

CUT, LONG = weighted_run.CUT_STEPS, weighted_run.LONG_SERIES
OF_PANDAS = {
    "mean": (ewm_mean, lambda ewm: ewm.mean()),
    "sum": (ewm_sum, lambda ewm: ewm.sum()),
    "var": (ewm_var, lambda ewm: ewm.var()),
    "std": (ewm_std, lambda ewm: ewm.std()),
}


def with_gaps(rng, steps, missing=0.1):
    x = 100 + rng.standard_normal(steps)
    x[rng.random(steps) < missing] = np.nan
    return x


def check(statistic, x, rtol=1e-10, **options):
    """Compare with pandas, whose variance of one sample that is followed by missing ones is 0 here and there."""
    ours, theirs = OF_PANDAS[statistic]
    actual, expected = ours(x, **options), theirs(pd.Series(x).ewm(**options)).to_numpy().copy()
    if statistic in ("var", "std"):
        expected[np.cumsum(np.isfinite(x)) < 2] = np.nan
    np.testing.assert_allclose(actual, expected, rtol=rtol)
    return actual


def step_by_step(x, alpha, ignore_na):
    """The mean by a loop in Python."""
    results, weight, mean = [], 0.0, np.nan
    for value in x:
        if np.isfinite(value):
            weight = weight * (1 - alpha) + 1
            mean = value if np.isnan(mean) else mean + (value - mean) / weight
        elif not ignore_na:
            weight *= 1 - alpha
        results.append(mean)
    return np.array(results)


@pytest.mark.parametrize("statistic", OF_PANDAS)
@pytest.mark.parametrize(
    "steps", [1, 2, 65, 1000, CUT - 1, CUT, CUT + 1, CUT + 15, 3 * CUT + 64, 1 << 14, LONG - 1, LONG]
)
def test_sizes(rng, statistic, steps):
    for missing, options in itertools.product(
        [0, 0.1, 0.7], [{"halflife": 2.3}, {"span": 300, "min_periods": 40}, {"com": 5, "ignore_na": True}]
    ):
        check(statistic, with_gaps(rng, steps, missing), **options)


@pytest.mark.sample(dtype=[np.float64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(65,), (65, 1), (65, 3), (65, 5), (65, 32), (65, 33), (5, 65), (CUT + 15,)])
def test_a_prepared_call_is_one_that_returns_states(rng, shape, dtype):
    """To the bit, in every order of memory; the second call as the first."""
    x = with_gaps(rng, shape).astype(dtype)
    axis = 1 if shape[0] == 5 else 0
    for data in (x, np.asfortranarray(x), x[::-1], np.repeat(x, 2, axis=-1)[..., ::2]):
        for options in ({"halflife": 2.3}, {"com": 5.0, "ignore_na": True}, {"span": 9, "adjust": False}):
            expected = Ewm(**options, axis=axis).update(data)
            for _ in range(2):
                actual = ewm_mean(data, **options, axis=axis)
                assert actual.dtype == dtype and actual.strides == expected.strides
                np.testing.assert_array_equal(actual, expected)


def test_which_calls_are_prepared(rng, monkeypatch):
    """Those of one native call: others take the same kernels by `run`."""
    noted, run = [], weighted_run.run
    monkeypatch.setattr(weighted_run, "run", lambda *how: noted.append(how) or run(*how))
    for shape, is_prepared in [((100,), 1), ((100, 32), 1), ((100, 33), 0), ((LONG - 1,), 1), ((LONG,), 0), ((0,), 0)]:
        x = rng.standard_normal(shape)
        ewm_mean(x, alpha=0.5)
        assert (not noted) == is_prepared, shape
        noted.clear()


@pytest.mark.sample(dtype=[np.float64], options=[{"adjust": False}])
@pytest.mark.parametrize("options", [{"adjust": False}, {"adjust": False, "ignore_na": True, "min_periods": 1000}])
@pytest.mark.parametrize("alpha", [1e-3, 0.03, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_that_do_not_add_up(rng, options, alpha, dtype):
    x = with_gaps(rng, 5000).astype(dtype)
    check("mean", x, rtol=1e-10 if dtype == np.float64 else 1e-6, alpha=alpha, **options)


@pytest.mark.parametrize("ignore_na", [True, False])
@pytest.mark.parametrize("statistic", ["mean", "var"])
@pytest.mark.parametrize("alpha", [0.3, 0.6])
def test_what_a_chunk_cannot_know_from_the_steps_before_it(rng, ignore_na, statistic, alpha):
    """Gaps at chunks' borders and over whole chunks, outliers, a first sample that comes late: each is walked again."""
    steps = 16 * WIDTH * 32 + 7
    length, first = steps // WIDTH, weighted_run.FIRST_STEPS
    gaps = [
        [slice(2 * length - 3, 2 * length + 3), slice(4 * length - 1, 4 * length), slice(5 * length, 5 * length + 1)],
        [slice(3 * length - 200, 3 * length), slice(7 * length, 9 * length), slice(steps - 9, steps)],
        [slice(0, 2 * length + 5)], [slice(0, first), slice(first + length - 90, first + length + 90)],
        [slice(0, steps - 2)], [slice(10, steps)],
    ]  # fmt: skip
    for missing in gaps:
        x = rng.standard_normal(steps)
        x[[length - 1, 6 * length - 2]] = 1e15, -1e9
        for gap in missing:
            x[gap] = np.nan
        options = {"alpha": alpha, "ignore_na": ignore_na}
        found = OF_PANDAS[statistic][0](x, **options)
        # Among others a series is walked from end to end.
        among = OF_PANDAS[statistic][0](np.repeat(x[:, np.newaxis], 5, 1), **options)[:, 2]
        scale = np.nanmax(np.abs(among), initial=0) if statistic == "var" else 0  # an outlier that is forgotten
        np.testing.assert_allclose(found, among, rtol=1e-10, atol=1e-20 * scale)
        if statistic == "mean":
            np.testing.assert_allclose(found, step_by_step(x, alpha, ignore_na), rtol=1e-7)


def test_chunks_as_short_as_their_warm_up(rng):
    """The longest half-lives at which a series is cut, and the first at which it is not."""
    length = CUT // WIDTH
    alphas = np.linspace(0.1, 0.4, 2000)
    windows = np.array([weighted_run._warm_up(1 - alpha) for alpha in alphas])
    x = with_gaps(rng, CUT, 0.3)
    for alpha in (alphas[windows <= length][0], alphas[windows > length][-1]):
        check("mean", x, alpha=alpha)
        check("mean", x, alpha=alpha, adjust=False)


@pytest.mark.parametrize("steps", [64, 1000, CUT, 20_000, LONG - 1])
def test_a_constant_stays_constant(steps):
    for value, halflife in itertools.product([0.1, -1e300, 3e-310], [0.3, 7.0, 400.0]):
        x = np.full(steps, value)
        x[1:-1:7] = np.nan
        assert (ewm_mean(x, halflife=halflife) == value).all()
        assert (ewm_mean(x, halflife=halflife, adjust=False) == value).all()
        assert (ewm_var(x, halflife=halflife)[2:] == 0).all()


@pytest.mark.parametrize("steps", [100, CUT + 3])
def test_means_of_the_largest_numbers(steps):
    x = np.where(np.arange(steps) % 2, 1.7e308, -1.7e308)
    found = ewm_mean(x, halflife=3.0)
    np.testing.assert_allclose(found, ewm_mean(x * 2.0**-10, halflife=3.0) * 2.0**10, rtol=1e-12)


def layouts(rng, steps):
    """One series and a few in all kinds of memory, and the axis of time."""
    for dtype in (np.float64, np.float32):
        table = rng.standard_normal((steps, 5)).astype(dtype)
        table[rng.random(table.shape) < 0.1] = np.nan
        for lanes in (1, 2, 3, 4):
            yield table[:, :lanes], 0
            yield np.ascontiguousarray(table[:, :lanes].T), 1
            yield np.asfortranarray(table[:, :lanes]), -2
        yield table[:, 3], 0
        yield table[::-1, 2], -1
        yield np.ascontiguousarray(table[:, 0]), 0
        yield table[:, :1].reshape(1, steps, 1), 1


@pytest.mark.exhaustive
@pytest.mark.parametrize("steps", [50, CUT + 70])
@pytest.mark.parametrize("statistic", ["mean", "std"])
def test_layouts_by_turns(rng, steps, statistic):
    """The fourth call of a kind is as the first one, whatever was between them, and whatever became of the memory."""
    ours, theirs = OF_PANDAS[statistic]
    given = list(layouts(rng, steps))
    firsts = [ours(x, halflife=2.0, axis=axis) for x, axis in given]
    for (x, axis), first in zip(given, firsts, strict=True):
        columns = np.moveaxis(x, axis, 0).reshape(steps, -1).astype(np.float64)
        expected = theirs(pd.DataFrame(columns).ewm(halflife=2.0)).to_numpy().copy()
        expected[np.isnan(np.moveaxis(first, axis, 0).reshape(steps, -1))] = np.nan
        found = np.moveaxis(first, axis, 0).reshape(steps, -1)
        rtol = 1e-10 if x.dtype == np.float64 else 1e-5
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol)
        assert first.dtype == x.dtype
    for _ in range(3):
        gc.collect()
        for (x, axis), first in zip(given, firsts, strict=True):
            again = x.copy(order="K") if x.flags.c_contiguous else x
            np.testing.assert_array_equal(ours(again, halflife=2.0, axis=axis), first)
            other = ours(again, halflife=9.0, axis=axis)  # of the same layout
            assert not np.array_equal(other, first, equal_nan=True)
            del again, other


def test_the_second_series_is_not_taken_for_the_first(rng):
    x, y = with_gaps(rng, 300), with_gaps(rng, 300)
    for _ in range(3):
        np.testing.assert_array_equal(ewm_cov(x, x, span=9), ewm_var(x, span=9))
        expected = pd.Series(x).ewm(span=9).cov(pd.Series(y))
        np.testing.assert_allclose(ewm_cov(x, y, span=9), expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(ewm_cov(x, x.copy(), span=9), ewm_cov(x, x, span=9))


def test_flags_are_not_taken_for_numbers(rng):
    """What is remembered of `adjust=True` is not for `adjust=1`, which is refused."""
    x = with_gaps(rng, 64)
    for _ in range(2):
        ewm_mean(x, alpha=0.3, adjust=True, axis=0, min_periods=1)
        for wrong in ({"adjust": 1}, {"ignore_na": 0}, {"axis": False}, {"min_periods": True}, {"axis": 1.0}):
            with pytest.raises(TypeError):
                ewm_mean(x, alpha=0.3, **wrong)
        for wrong in ({"alpha": 0.0}, {"alpha": np.nan}, {"span": 0.5}, {"halflife": 1.0, "alpha": 0.1}, {}):
            with pytest.raises(ValueError):
                ewm_mean(x, **wrong)
        with pytest.raises(ValueError):
            ewm_mean(x, alpha=0.3, axis=1)


def test_threads_at_once(rng):
    """Calls of one layout share nothing that they write to."""
    series = [with_gaps(rng, steps) for steps in (64, 64, 64, 1000, CUT + 5, CUT + 5, 20_000) for _ in range(2)]
    halflives = 1.0 + np.arange(len(series))

    def calls(k):
        return [ewm_mean(series[k], halflife=halflives[k]), ewm_var(series[k], halflife=halflives[k])]

    expected = [calls(k) for k in range(len(series))]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            for found, wanted in zip(pool.map(calls, range(len(series))), expected, strict=True):
                np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("steps", [1000, CUT + 1, LONG - 1])
def test_results_do_not_depend_on_threads(rng, set_threads, steps):
    x, found = with_gaps(rng, steps), []
    for count in (1, 2, 3):
        set_threads(count)
        found.append(ewm_var(x, halflife=3.0))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.sample(options=[{}, {"adjust": False}])
@pytest.mark.parametrize("options", [{}, {"adjust": False}, {"ignore_na": True, "min_periods": 70}])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_streams(rng, options, dtype):
    x = with_gaps(rng, 12_000).astype(dtype)
    cuts = [0, 0, 1, 2, 66, 66, 130, 1000, 1000 + CUT, 12_000]
    stream = Ewm(span=7, **options)
    found = [stream.update(x[low:high]) for low, high in itertools.pairwise(cuts)]
    np.testing.assert_allclose(
        np.concatenate(found), ewm_mean(x, span=7, **options), rtol=1e-10 if dtype == np.float64 else 1e-6
    )
    assert (int(stream.state.count), stream.state.steps) == (np.isfinite(x).sum(), 12_000)
    with pytest.raises(ValueError):
        stream.update(x[:64].reshape(8, 8))
    with pytest.raises(ValueError):
        stream.update(x[:2], times=[0.0, 1.0])


def test_a_stream_of_chunks_of_all_kinds(rng):
    """A chunk that is refused leaves the state as it was, and one of numbers may follow one with flags or a list."""
    x = with_gaps(rng, 300)
    stream = Ewm(alpha=0.2)
    parts = [stream.update(x[:100]), stream.update(list(x[100:150])), stream.update(pd.Series(x[150:200])).to_numpy()]
    before = stream.state
    with pytest.raises(TypeError):
        stream.update(x[200:] + 1j)
    assert stream.state is before
    parts.append(stream.update(x[200:]))
    np.testing.assert_allclose(np.concatenate(parts), ewm_mean(x, alpha=0.2), rtol=1e-12)
    begins = np.arange(100) == 50
    begun = [stream.update(x[:100], resets=begins), stream.update(x[100:])]
    np.testing.assert_allclose(begun[0][50:], ewm_mean(x[50:], alpha=0.2)[:50], rtol=1e-12)
    np.testing.assert_allclose(begun[1], ewm_mean(x[50:], alpha=0.2)[50:], rtol=1e-12)


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((100,), "walk_alone"), ((90, 3), "walk_alone"), ((90, 4), "walk"),
        ((CUT,), "walk_cut"), ((LONG - 1,), "walk_cut"), ((LONG,), "walk"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("statistic", [ewm_mean, ewm_var])
def test_a_call_needs_one_kernel(rng, monkeypatch, shape, wanted, statistic):
    """Each takes seconds to compile."""
    made, kernel = set(), weighted_run.kernel

    def noting(function, *how, **elements):
        made.add((function, how))
        return kernel(function, *how, **elements)

    monkeypatch.setattr(weighted_run, "kernel", noting)
    weighted_run._layout.cache_clear()
    x = rng.standard_normal(shape)
    x[rng.random(shape) < 0.1] = np.nan
    statistic(x, halflife=4.0)
    assert {function for function, _ in made} == {f"weighted.{wanted}"}
    assert len(made) == 1

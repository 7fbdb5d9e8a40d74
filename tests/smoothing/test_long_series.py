"""Few and long series, by whichever way is quick, against series walked beside each other from end to end."""

import itertools

import numpy as np
import pytest

from fastrecur._cpu import weighted_run
from fastrecur.smoothing import Ewm, ewm_corr, ewm_cov, ewm_mean, ewm_sum, ewm_var

pytestmark = pytest.mark.usefixtures("rows_of_any_length")

STATISTICS = {
    "mean": lambda x, y, **options: ewm_mean(x, **options),
    "sum": lambda x, y, **options: ewm_sum(x, **options),
    "var": lambda x, y, **options: ewm_var(x, **options),
    "biased var": lambda x, y, **options: ewm_var(x, bias=True, **options),
    "cov": ewm_cov,
}


def beside_others(statistic, x, y, axis=0, **options):
    """Walk a series as one of many, a step of all of them at a time."""
    options = {k: np.asarray(v)[:, np.newaxis] if k == "alpha" and np.ndim(v) else v for k, v in options.items()}
    x, y = (np.repeat(np.asarray(v)[:, np.newaxis], 16, 1) for v in (x, y))
    return STATISTICS[statistic](x, y, axis=0, **options)[:, 3]


def check(statistic, x, y, rtol=1e-10, **options):
    actual = STATISTICS[statistic](x, y, **options)
    expected = beside_others(statistic, x, y, **options)
    assert actual.dtype == expected.dtype
    scale = np.nanmax(np.abs(expected), initial=0)
    atol = rtol * scale * 1e-3 if np.isfinite(scale) else 0
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)
    return actual


@pytest.fixture
def walks(monkeypatch):
    """How many steps of how many series or chunks were walked at once, in order."""
    noted, run = [], weighted_run.Walk.run

    def noting(walk, operands, states):
        noted.append((walk.steps, walk.lanes))
        return run(walk, operands, states)

    monkeypatch.setattr(weighted_run.Walk, "run", noting)
    return noted


def behind_the_first(walks):
    """Leave out what is walked before a recurrence is tried: that is walked alone."""
    return walks[1:] if walks[0][1] == 1 else walks


@pytest.mark.sample(statistic=["mean"], missing=[0, 0.1], steps=[2063])
@pytest.mark.parametrize("steps", [2048, 2063, 5000, 70001])
@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("missing", [0, 0.1, 0.7])
def test_options(rng, steps, statistic, missing):
    x, y = rng.standard_normal((2, steps)) + 1
    for v in (x, y):
        v[rng.random(steps) < missing] = np.nan
    x[0], y[:3] = np.nan, np.nan
    ways = [True] if statistic == "sum" else [True, False]  # as in pandas
    for adjust, ignore_na, alpha in itertools.product(ways, [True, False], [0.2, 0.01, 1.0]):
        for least in [1, 0, 700] if alpha == 0.2 else [2]:
            check(statistic, x, y, alpha=alpha, adjust=adjust, ignore_na=ignore_na, min_periods=least)


@pytest.mark.sample(adjust=[True])
@pytest.mark.parametrize(
    ("statistic", "adjust"), [(s, a) for s in STATISTICS for a in [True, False] if a or s != "sum"]
)
def test_gates_that_change(rng, statistic, adjust):
    x, y = rng.standard_normal((2, 3001))
    x[rng.random(3001) < 0.2] = np.nan
    alpha = rng.uniform(0.01, 0.9, 3001)
    alpha[1000:1010] = 1
    check(statistic, x, y, alpha=alpha, adjust=adjust)
    times = np.cumsum(rng.exponential(1, 3001))
    check(statistic, x, y, halflife=3.0, times=times, adjust=adjust)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("statistic", ["mean", "cov"])
def test_layouts(rng, dtype, statistic):
    """Strided, reversed, and repeated samples; each of a few lanes."""
    x, y = rng.standard_normal((2, 4097, 3)).astype(dtype)
    x[rng.random(x.shape) < 0.1] = np.nan
    rtol = 1e-10 if dtype == np.float64 else 3e-5
    for cut in [np.s_[:, 0], np.s_[::-1, 1], np.s_[::2, 2]]:
        check(statistic, x[cut], y[cut], rtol, alpha=0.1)
    for k in range(3):
        together = STATISTICS[statistic](x, y, alpha=0.1, axis=0)
        np.testing.assert_array_equal(together[:, k], STATISTICS[statistic](x[:, k], y[:, k], alpha=0.1))
    same = np.broadcast_to(dtype(0.1), 4097)
    check(statistic, same, y[:, 0], rtol, alpha=0.1)
    check(statistic, x[:, 0], same, rtol, alpha=0.1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("missing", [0, 0.1])
def test_many_lanes(rng, dtype, missing):
    """Lanes of contiguous time; they are the same bits as each alone."""
    x = rng.standard_normal((20, 2500)).astype(dtype)
    x[rng.random(x.shape) < missing] = np.nan
    together = ewm_mean(x, alpha=0.05, axis=1)
    turned = ewm_mean(np.ascontiguousarray(x.T), alpha=0.05, axis=0).T
    np.testing.assert_allclose(together, turned, rtol=1e-10 if dtype == np.float64 else 3e-5, atol=1e-7)


@pytest.mark.parametrize("value", [0.1, 1e8 + 0.1, -1e-300, 1e300])
@pytest.mark.parametrize("adjust", [True, False])
@pytest.mark.parametrize("missing", [0, 0.3])
@pytest.mark.parametrize("alpha", [0.3, 0.001])
def test_constant_series_stay_constant(rng, value, adjust, missing, alpha):
    x = np.where(rng.random(30000) < missing, np.nan, value)
    x[0] = value
    options = {"alpha": alpha, "adjust": adjust}
    np.testing.assert_array_equal(ewm_mean(x, **options), value)
    np.testing.assert_array_equal(ewm_var(x, bias=True, **options), 0)


@pytest.mark.exhaustive
@pytest.mark.sample(statistic=["sum"])
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_what_overflows_ends(rng, walks, statistic, resets):
    """States that are infinite or NaN are alike, whatever chunks begin with: none is walked for ever."""
    options = {"resets": np.arange(70001) % 9000 == 0} if resets else {}
    for x in (np.full(70001, 1.7e308), rng.choice([-1e200, 1e200], 70001)):
        x[7] = 1e-200
        with np.errstate(all="ignore"):
            check(statistic, x, x, span=20, **options)
    assert len(walks) < 200


@pytest.mark.exhaustive
@pytest.mark.parametrize("segments", [1, 7, 200])
def test_levels_far_from_each_other_are_walked_once(rng, walks, segments):
    """Chunks count from one origin, or from that of their segment."""
    x = np.where(np.arange(70001) % 20000 < 10000, 1e9, 0) + rng.standard_normal(70001)
    ewm_var(x, span=20, offsets=[*np.arange(segments) * (70000 // segments), 70001])
    assert len(walks) <= 8


@pytest.mark.parametrize("statistic", ["mean", "sum", "biased var"])
def test_overflow(rng, statistic):
    x = rng.choice([-1.7e308, 1.7e308], 3000)
    x[rng.random(3000) < 0.1] = np.nan
    with np.errstate(all="ignore"):
        actual = STATISTICS[statistic](x, x, alpha=0.5)
        expected = beside_others(statistic, x, x, alpha=0.5)
    np.testing.assert_allclose(actual, expected, rtol=1e-10)
    if statistic == "mean":
        assert np.isfinite(actual[1:]).all()


@pytest.mark.parametrize("statistic", ["mean", "var", "cov"])
@pytest.mark.parametrize("missing", [0, 0.1])
def test_series_that_leave_where_they_began(rng, statistic, missing):
    """Means much smaller than where a series began lose no digits; variances of large numbers neither."""
    x, y = rng.standard_normal((2, 5000)) * 1e-3 + 1e3
    x[2100:] = 1e-9 * rng.standard_normal(2900)
    x[4000:] += np.arange(1000) * 1e5
    x[rng.random(5000) < missing] = np.nan
    actual = STATISTICS[statistic](x, y, alpha=0.5)
    expected = beside_others(statistic, x, y, alpha=0.5)
    if statistic == "mean":
        np.testing.assert_allclose(actual, expected, rtol=1e-10)
    else:
        np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_chunks(rng, statistic, walks, set_threads):
    """Few steps tell how a chunk starts; results do not depend on threads."""
    x, y = rng.standard_normal((2, 100_003)) + 3
    x[rng.random(len(x)) < 0.1] = np.nan
    results = []
    for threads in [1, 2, 3]:
        set_threads(threads)
        del walks[:]
        results.append(STATISTICS[statistic](x, y, alpha=0.1))
        (warm_up, chunks), (length, again), (rest, one) = behind_the_first(walks)
        assert (chunks, again, one) == (16, 16, 1)
        assert warm_up < 1100 and 6000 < length <= 6250 and rest < 16
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    check(statistic, x, y, alpha=0.1)


@pytest.mark.parametrize("statistic", ["sum", "var"])
def test_chunks_that_started_wrong(rng, statistic, walks):
    """What is so large that it is felt after all that the steps before a chunk tell."""
    x = rng.standard_normal(80_000) + 3
    x[8800], x[-1] = 1e120, np.nan
    actual = STATISTICS[statistic](x, x, alpha=0.1)
    length = behind_the_first(walks)[1][0]
    assert behind_the_first(walks)[1:3] == [(length, 16), (length, 1)]
    np.testing.assert_allclose(actual, beside_others(statistic, x, x, alpha=0.1), rtol=1e-10)


@pytest.mark.parametrize("gaps", [0, 1, 2])
@pytest.mark.parametrize("adjust", [True, False])
def test_chunks_behind_gaps(rng, adjust, gaps, walks):
    """Those that are not told enough, as gaps that are ignored forget nothing, are walked again, side by side."""
    x = rng.standard_normal(80_000)
    for k in range(gaps):
        x[10_000 * k + 8500 : 10_000 * k + 9999] = np.nan
    options = {"alpha": 0.1, "adjust": adjust, "min_periods": 5, "ignore_na": True}
    actual = STATISTICS["var"](x, x, **options)
    length = (80_000 - weighted_run.FIRST_STEPS) // 16
    assert walks[2:] == [(length, 16), (length, gaps)][: 1 + (gaps > 0)]
    np.testing.assert_allclose(actual, beside_others("var", x, x, **options), rtol=1e-10)


@pytest.mark.parametrize("least", [6000, 20_000])
def test_chunks_before_which_are_too_few_samples(rng, least, walks):
    x = rng.standard_normal(80_000)
    actual = STATISTICS["var"](x, x, alpha=0.1, min_periods=least)
    assert np.isnan(actual).sum() == least - 1
    length = (80_000 - weighted_run.FIRST_STEPS) // 16
    assert walks[2:] == [(length, 16), (length, (least - 1) // 5000)]
    np.testing.assert_allclose(actual, beside_others("var", x, x, alpha=0.1, min_periods=least), rtol=1e-10)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_slow_averages_are_not_cut(rng, statistic, walks):
    x, y = rng.standard_normal((2, 80_000))
    x[rng.random(len(x)) < 0.1] = np.nan
    actual = STATISTICS[statistic](x, y, halflife=3000)
    assert walks == [(80_000, 1)]
    expected = beside_others(statistic, x, y, halflife=3000)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("statistic", ["mean", "mean not adjusted", "sum"])
@pytest.mark.parametrize("shape", [(70_000,), (3, 20_000), (20_000, 3), (2000, 40)])
def test_plain_recurrences(rng, shape, statistic, dtype, walks, monkeypatch):
    """Where nothing is missing, a mean is a recurrence as soon as all samples count alike; so is a sum."""
    monkeypatch.setattr(weighted_run, "LARGE_TABLE", 0)
    weighted_run._layout.cache_clear()
    x, axis = rng.standard_normal(shape).astype(dtype) + 2, int(np.argmax(shape))
    function = ewm_sum if statistic == "sum" else ewm_mean
    options = {"alpha": 0.1, "axis": axis} | ({"adjust": False} if "not" in statistic else {})
    actual = function(x, **options)
    ((first, count),) = walks
    assert (count, first < 400) == (x.size // shape[axis], True)
    gap, steps = x.copy(), shape[axis]
    np.moveaxis(gap, axis, 0)[-1] = np.nan
    expected = function(gap, **options)
    assert len(walks) >= 3 and (count == 1 or walks[2] == (steps - first, count))  # one series goes on in chunks
    actual, expected = (np.moveaxis(v, axis, 0)[:-1] for v in (actual, expected))
    np.testing.assert_allclose(actual, expected, rtol=1e-12 if dtype == np.float64 else 1e-6, atol=1e-15)


def test_states_after_plain_recurrences(rng, walks):
    x = rng.standard_normal(180_000)
    stream = Ewm(alpha=0.1, min_periods=400)
    parts = [stream.update(part) for part in np.split(x, [80_000, 80_100, 160_000])]
    assert walks == [(400, 1), (100, 1), (400, 1), (20_000, 1)]  # what is as short is not worth another call
    assert stream.state.count == 180_000
    x[-1] = np.nan
    expected = ewm_mean(x, alpha=0.1, min_periods=400)
    np.testing.assert_allclose(np.concatenate(parts)[:-1], expected[:-1], rtol=1e-11, atol=1e-15)


def test_states_after_long_chunks(rng):
    x = rng.standard_normal(150_000) + 2
    x[rng.random(len(x)) < 0.1] = np.nan
    options = {"alpha": 0.1, "min_periods": 20}
    stream = Ewm(**options)
    parts = [stream.update(part) for part in np.split(x, [10, 70_000, 70_005, 140_001])]
    np.testing.assert_allclose(np.concatenate(parts), ewm_mean(x, **options), rtol=1e-10)
    assert stream.state.count == np.isfinite(x).sum()


@pytest.mark.parametrize("shape", [(2000,), (1500, 40), (40, 1500), (70, 30)])
def test_lanes_whose_first_sample_is_late(rng, shape):
    """Deviations are from the first sample that is there, wherever that is: data far from 0 lose no digits."""
    x = 1e9 + rng.standard_normal(shape)
    lanes = x.reshape(shape[0], -1)
    for k, lane in enumerate(lanes.T):
        lane[: [0, 1, 7, 8, 9, 10, 25, 60, len(lane) - 1, len(lane)][k % 10 if len(shape) > 1 else 7]] = np.nan
    actual = ewm_var(x, alpha=0.1, axis=0).reshape(lanes.shape)
    for k in range(lanes.shape[1]):
        first = np.isnan(lanes[:, k]).sum()
        expected = ewm_var(lanes[first:, k] - 1e9, alpha=0.1)
        np.testing.assert_allclose(actual[first:, k], expected, rtol=1e-9)
        assert np.isnan(actual[:first, k]).all()


@pytest.mark.exhaustive
@pytest.mark.parametrize("lanes", [1, 8, 31, 32])
@pytest.mark.parametrize("dtypes", [("f4", "f8"), ("f8", "f4"), ("f4", "i8"), ("?", "f4")])
def test_series_of_two_dtypes(rng, lanes, dtypes):
    x, y = ((3 * rng.standard_normal((lanes, 2500))).astype(dtype) for dtype in dtypes)
    for statistic in (ewm_cov, ewm_corr):
        for turned in (False, True):
            given = (x.T, y.T) if turned else (x, y)
            actual = statistic(*given, alpha=0.1, axis=0 if turned else 1)
            assert actual.dtype == np.float64
            expected = statistic(x.astype(float), y.astype(float), alpha=0.1, axis=1)
            np.testing.assert_allclose(actual.T if turned else actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.exhaustive
@pytest.mark.parametrize("lanes", [1, 8, 31, 32])
@pytest.mark.parametrize("gap", [60, 140, 400])
def test_float32_after_a_long_gap(rng, lanes, gap):
    """What a covariance is before it is divided is smaller than float32's smallest number then."""
    x, y = rng.standard_normal((2, lanes, 4096)).astype(np.float32) + np.float32(100)
    times = np.arange(4096.0)
    times[2000:] += gap
    x[:, 1000 : 1000 + gap] = np.nan
    for options in ({"alpha": 0.5}, {"halflife": 1.0, "times": times}):
        for statistic in (ewm_cov, ewm_corr, lambda x, y, **options: ewm_var(x, **options)):
            actual = statistic(x, y, axis=1, **options)
            expected = statistic(x.astype(float), y.astype(float), axis=1, **options)
            np.testing.assert_allclose(actual, expected.astype(np.float32), rtol=1e-5, atol=1e-6)

"""Statistics that begin anew: segments, resets and groups, against pandas' groupby."""

import sys

import numpy as np
import pytest

from fastrecur import smoothing

pd = pytest.importorskip("pandas")

ONE = "mean", "sum", "var", "std"
TWO = "cov", "corr"


def data(rng, steps, missing):
    x = rng.standard_normal(steps)
    if missing:
        x[rng.random(steps) < 0.3] = np.nan
    return x


def expected(statistic, x, y, keys, **options):
    """Each group by itself: pandas' numbers where nothing is missing (where its divisor may cancel), else our own."""
    found = np.full(len(x), np.nan)
    for key in set(keys):
        own = keys == key
        if np.isnan(x).any():
            found[own] = asked(statistic, x[own], y[own], **options)
        else:
            ewm, other = pd.Series(x[own]).ewm(**options), [pd.Series(y[own])] if statistic in TWO else []
            found[own] = getattr(ewm, statistic)(*other)
    return found


def asked(statistic, x, y, **options):
    return getattr(smoothing, f"ewm_{statistic}")(x, *([y] if statistic in TWO else []), **options)


@pytest.mark.parametrize("statistic", [*ONE, *TWO])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"span": 5},
        {"alpha": 0.3, "adjust": False},
        {"span": 4, "ignore_na": True, "min_periods": 3},
    ],
)
def test_groups_are_those_of_pandas(rng, statistic, missing, options):
    if statistic == "sum" and not options.get("adjust", True):
        pytest.skip("not defined")
    x, y, keys = data(rng, 200, missing), data(rng, 200, missing), rng.choice(["a", "b", "c", "d"], 200)
    wanted = expected(statistic, x, y, keys, **options)
    np.testing.assert_allclose(asked(statistic, x, y, groups=keys, **options), wanted, rtol=1e-9, atol=1e-12)
    # Sorted, the same are segments, and flags.
    order = np.argsort(keys, kind="stable")
    begins = np.concatenate([[True], keys[order][1:] != keys[order][:-1]])
    offsets = np.concatenate([np.flatnonzero(begins), [200]])
    for borders in ({"offsets": offsets}, {"resets": begins}):
        found = asked(statistic, x[order], y[order], **borders, **options)
        np.testing.assert_allclose(found, wanted[order], rtol=1e-9, atol=1e-12)


LONG = {"alpha": 0.2}, {"alpha": 0.4, "adjust": False, "min_periods": 5}, {"span": 9, "ignore_na": True}
SHAPES = ((70001,), 0, 1), ((70001, 3), 0, 1), ((3, 66000), 1, 2), ((300, 40), 0, 2), ((19, 200), 1, 2)


@pytest.mark.exhaustive
@pytest.mark.parametrize("statistic", [*ONE, *TWO])
@pytest.mark.parametrize(("shape", "axis", "dims"), SHAPES)
@pytest.mark.parametrize("mean", [7, 5000])
def test_segments_are_series_of_their_own(rng, statistic, shape, axis, dims, mean):
    """On every layout, however long they are: as the same statistic of each segment alone, gaps at borders and all."""
    x, y = (100 * rng.standard_normal(shape) + 5 for _ in "xy")
    x[rng.random(shape) < 0.1] = np.nan
    resets = rng.random(shape[:dims]) < 1 / mean
    flags = np.broadcast_to(resets.reshape(resets.shape + (1,) * (len(shape) - dims)), shape)
    x[flags & (rng.random(shape) < 0.3)] = np.inf  # which is missing
    flags = np.moveaxis(flags, axis, -1).reshape(-1, shape[axis])
    along = [np.moveaxis(v, axis, -1).reshape(-1, shape[axis]) for v in (x, y)]
    for options in LONG[: 1 if statistic == "sum" else None]:
        found = np.moveaxis(asked(statistic, x, y, axis=axis, resets=resets, **options), axis, -1).reshape(flags.shape)
        for k in range(0, len(found), 3):
            edges = [0, *np.flatnonzero(flags[k]), shape[axis]]
            for low, high in list(zip(edges, edges[1:], strict=False))[:: max(1, len(edges) // 50)]:
                alone = asked(statistic, *(np.ascontiguousarray(v[k, low:high]) for v in along), **options)
                np.testing.assert_allclose(found[k, low:high], alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("statistic", ["var", "std", *TWO])
@pytest.mark.parametrize("with_gradients", [False, True])
def test_groups_far_from_each_other_lose_nothing(rng, statistic, with_gradients):
    """A covariance is counted from a sample of its own group: a small one beside a large one has all its digits."""
    keys = np.arange(300) % 2
    x, y = (np.where(keys == 0, 1e9, 1e-3) * (1 + 1e-3 * rng.standard_normal(300)) for _ in "xy")
    given = [pytest.importorskip("torch").tensor(v, requires_grad=True) for v in (x, y)] if with_gradients else [x, y]
    found = asked(statistic, *given, span=5, groups=keys)
    for key in (0, 1):
        alone = asked(statistic, x[keys == key], y[keys == key], span=5)
        np.testing.assert_allclose((found.detach().numpy() if with_gradients else found)[keys == key], alone, rtol=1e-9)


@pytest.mark.parametrize("statistic", ["sum", "var", "cov"])
@pytest.mark.parametrize("as_tensors", [False, True])
def test_what_overflows_stays_in_its_segment(rng, statistic, as_tensors):
    x, y = rng.standard_normal((2, 40))
    x[:20] = y[:20] = 1.7e308 if statistic == "sum" else np.where(np.arange(20) % 2, 1e200, -1e200)
    given = [pytest.importorskip("torch").tensor(v, requires_grad=True) for v in (x, y)] if as_tensors else [x, y]
    with np.errstate(all="ignore"):
        found = asked(statistic, *given, span=5, offsets=[0, 20, 40])
    found = found.detach().numpy() if as_tensors else found
    assert not np.isfinite(found[10:20]).any()
    np.testing.assert_allclose(found[20:], asked(statistic, x[20:], y[20:], span=5), rtol=1e-9)


@pytest.mark.parametrize("dtype", ["i1", "u1", ">i2", "i8", "u8"])
def test_integers_near_each_other_are_groups_as_they_are(rng, dtype):
    info, choices = np.iinfo(dtype), np.arange(256)
    for first in (int(info.min), int(info.max) - 255):
        keys = np.array([first + int(n) for n in rng.choice(choices, 1000)], dtype)
        wanted = smoothing.ewm_mean(np.arange(1000.0), span=3, groups=[*map(str, keys)])
        for given in (keys, pd.Series(keys.astype(keys.dtype.newbyteorder("=")))):
            np.testing.assert_array_equal(smoothing.ewm_mean(np.arange(1000.0), span=3, groups=given), wanted)


@pytest.mark.exhaustive
@pytest.mark.parametrize("statistic", [*ONE, *TWO])
@pytest.mark.parametrize(("shape", "axis"), [((900, 3), 0), ((17, 900), 1), ((2, 900, 5), 1)])
@pytest.mark.parametrize("as_tensors", [False, True])
def test_groups_of_many_series(rng, statistic, shape, axis, as_tensors):
    """As the same statistic of each group alone; a step without a key has no result, and changes none."""
    x, y = rng.standard_normal((2, *shape))
    x[rng.random(shape) < 0.1] = np.nan
    keys = rng.integers(0, 40, 900).astype(float)
    keys[::7] = np.nan
    for options in LONG[: 1 if statistic == "sum" else None]:
        given = [pytest.importorskip("torch").tensor(v) for v in (x, y)] if as_tensors else [x, y]
        found = np.asarray(asked(statistic, *given, axis=axis, groups=keys, **options))
        assert np.isnan(found.take(np.flatnonzero(np.isnan(keys)), axis)).all()
        for key in range(40):
            own = np.flatnonzero(keys == key)
            alone = asked(statistic, x.take(own, axis), y.take(own, axis), axis=axis, **options)
            np.testing.assert_allclose(found.take(own, axis), alone, rtol=1e-9, atol=1e-12)


def test_flags_of_each_series(rng):
    x, resets = rng.standard_normal((60, 3)), rng.random((60, 3)) < 0.2
    found = smoothing.ewm_mean(x, span=5, resets=resets)
    for k in range(3):
        np.testing.assert_allclose(found[:, k], smoothing.ewm_mean(x[:, k], span=5, groups=np.cumsum(resets[:, k])))


def test_times_may_go_back_between_groups(rng):
    x, keys = rng.standard_normal(30), np.repeat([1, 0, 2], 10)
    times = np.tile(np.cumsum(rng.random(10)), 3)
    found = smoothing.ewm_mean(x, halflife=1.0, times=times, groups=keys)
    for key in range(3):
        own = keys == key
        np.testing.assert_allclose(found[own], smoothing.ewm_mean(x[own], halflife=1.0, times=times[own]))
    np.testing.assert_allclose(smoothing.ewm_mean(x, halflife=1.0, times=times, offsets=[0, 10, 20, 30]), found)


def test_missing_keys_have_no_result(rng):
    x = rng.standard_normal(6)
    found = smoothing.ewm_mean(x, span=3, groups=np.array([1, np.nan, 1, 2, np.nan, 2]))
    np.testing.assert_array_equal(np.isnan(found), [False, True, False, False, True, False])


def test_frames_keep_their_labels(rng):
    frame = pd.DataFrame(rng.standard_normal((20, 2)), columns=["a", "b"], index=np.arange(20) + 5)
    keys = rng.integers(0, 3, 20)
    found = smoothing.ewm_mean(frame, span=5, groups=keys)
    wanted = frame.groupby(keys).ewm(span=5).mean().droplevel(0).sort_index()
    pd.testing.assert_frame_equal(found, wanted)


def test_gradients(rng):
    torch = pytest.importorskip("torch")
    x, keys = torch.tensor(rng.standard_normal(12), requires_grad=True), rng.integers(0, 3, 12)
    found = smoothing.ewm_mean(x, span=5, groups=keys)
    np.testing.assert_allclose(found.detach(), smoothing.ewm_mean(x.detach().numpy(), span=5, groups=keys))
    found.sum().backward()
    for key in range(3):
        own = torch.tensor(x.detach().numpy()[keys == key], requires_grad=True)
        smoothing.ewm_mean(own, span=5).sum().backward()
        np.testing.assert_allclose(x.grad[keys == key], own.grad)


def test_a_stream_with_resets_is_the_whole(rng):
    x, resets = data(rng, 40, True), rng.random(40) < 0.2
    whole = smoothing.ewm_mean(x, span=5, resets=resets, min_periods=2)
    stream = smoothing.Ewm(span=5, min_periods=2)
    parts = [stream.update(x[k : k + 7], resets=resets[k : k + 7]) for k in range(0, 40, 7)]
    np.testing.assert_allclose(np.concatenate(parts), whole)
    with pytest.raises(ValueError, match="resets"):
        stream.merge(smoothing.Ewm(span=5, min_periods=2))


def test_errors():
    x = np.ones(5)
    with pytest.raises(ValueError, match="`groups` must be given without"):
        smoothing.ewm_mean(x, span=3, groups=[1] * 5, offsets=[0, 5])
    with pytest.raises(ValueError, match="`groups` must have a key for each of the 5 steps"):
        smoothing.ewm_mean(x, span=3, groups=[1] * 4)
    with pytest.raises(ValueError, match=r"`groups` must have a key for each of the 5 steps.*\(5, 1\)"):
        smoothing.ewm_mean(x, span=3, groups=pytest.importorskip("polars").DataFrame({"k": [1] * 5}))
    with pytest.raises(TypeError, match="`groups` must be keys"):
        smoothing.ewm_mean(x, span=3, groups=1)
    with pytest.raises(ValueError, match="`offsets` must begin with 0 and end with 5"):
        smoothing.ewm_mean(x, span=3, offsets=[0, 4])
    with pytest.raises(ValueError, match="`resets` must be shaped like"):
        smoothing.ewm_mean(x, span=3, resets=np.zeros(4, bool))


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        (["a", float("nan"), float("nan")], [1.0, np.nan, np.nan]),
        (["a", None, "a"], [1.0, np.nan, 7 / 3]),
        ([1, "1", 1], [1.0, 2.0, 7 / 3]),
        ([2**63, 2**63 + 1, 2**63], [1.0, 2.0, 7 / 3]),
    ],
)
@pytest.mark.parametrize("with_pandas", [True, False])
def test_keys_of_a_list_are_what_they_are(monkeypatch, with_pandas, keys, wanted):
    """NumPy would make one kind of them all: strings, or rounded numbers."""
    if not with_pandas:
        monkeypatch.delitem(sys.modules, "pandas", raising=False)
    np.testing.assert_allclose(smoothing.ewm_mean([1.0, 2.0, 3.0], alpha=0.5, groups=keys), wanted)


@pytest.mark.parametrize("keys", [[["a"], ["b"], ["a"]], [{}, 1, 2]])
def test_keys_that_are_none_are_refused_by_name(keys):
    with pytest.raises(TypeError, match="`groups` must be keys in one dimension, got list of (list|dict)"):
        smoothing.ewm_mean([1.0, 2.0, 3.0], alpha=0.5, groups=keys)

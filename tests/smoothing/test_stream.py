"""Streams: the whole call's numbers, however it is cut."""

import copy
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given, strategies as st

from fastrecur.smoothing import Ewm, ewm_mean


def data(steps, lanes=3):
    rng = np.random.default_rng(steps)
    x = rng.standard_normal((steps, lanes))
    x[rng.random(x.shape) < 0.3] = np.nan
    return x, np.cumsum(rng.integers(0, 3, steps))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_random_splits(sizes, adjust, ignore_na, timed, tensor):
    x, times = data(sum(sizes))
    options = {"adjust": adjust, "ignore_na": ignore_na, "min_periods": 2, "halflife": 2.0}
    whole = ewm_mean(x, **options, times=times if timed else None)
    stream, parts, at = Ewm(**options), [], 0
    for size in sizes:
        part = slice(at, at + size)
        chunk = torch.tensor(x[part], requires_grad=True) if tensor else x[part]
        result = stream.update(chunk, times[part] if timed else None)
        parts.append(result.detach().numpy() if tensor else result)
        at += size
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-12, atol=1e-14)
    assert stream.state.steps == sum(sizes)
    np.testing.assert_array_equal(np.asarray(stream.state.count.detach() if tensor else stream.state.count), (
        np.isfinite(x).sum(0)))  # fmt: skip


def test_long_chunks_and_other_axes():
    x, _ = data(9000, 1)
    stream = Ewm(alpha=0.01, axis=-1)
    parts = [stream.update(part.T) for part in np.split(x, [10, 5000, 5001])]
    np.testing.assert_allclose(np.concatenate(parts, 1), ewm_mean(x.T, alpha=0.01, axis=1), rtol=1e-11, atol=1e-13)
    single = Ewm(alpha=0.01)
    parts = [single.update(part) for part in np.split(x[:, 0], [4000])]
    np.testing.assert_allclose(np.concatenate(parts), ewm_mean(x[:, 0], alpha=0.01), rtol=1e-11, atol=1e-13)


def test_copies_are_apart():
    stream = Ewm(alpha=0.5)
    stream.update([1.0, 2.0])
    twins = copy.copy(stream), copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))
    expected = ewm_mean([1.0, 2.0, 3.0], alpha=0.5)[2:]
    np.testing.assert_allclose(stream.update([3.0]), expected)
    stream.update([100.0])
    for twin in twins:
        np.testing.assert_allclose(twin.update([3.0]), expected)


def test_reset_and_another_shape():
    stream = Ewm(alpha=0.5)
    assert stream.state is None
    stream.update(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"reset\(\)"):
        stream.update(np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"reset\(\)"):
        stream.update(np.ones(2))
    stream.reset()
    assert stream.update(np.ones((2, 4))).shape == (2, 4)
    assert "alpha=0.5" in repr(stream)


@pytest.mark.exhaustive
def test_chunks_with_and_without_gradients():
    """Tensors go through kernels or formulas, chunk by chunk; what is passed on are numbers, and gradients."""
    x = torch.tensor(data(9)[0])
    expected = ewm_mean(x, alpha=0.5)
    first = x[:4].clone().requires_grad_()
    stream = Ewm(alpha=0.5)
    parts = [stream.update(x[:2]), stream.update(first[2:]), stream.update(x[4:6])]
    with torch.no_grad():
        parts.append(stream.update(x[6:]))
    torch.testing.assert_close(torch.cat(parts), expected, equal_nan=True)
    alone = x[:6].clone().requires_grad_()
    (slope,) = torch.autograd.grad(ewm_mean(alone, alpha=0.5)[4:6].sum(), alone)
    (actual,) = torch.autograd.grad(parts[2].sum(), first)
    torch.testing.assert_close(actual[2:], slope[2:4])  # a chunk's gradient reaches the chunk before
    assert not parts[3].requires_grad


@pytest.mark.parametrize("adjust", [True, False])
@pytest.mark.parametrize("constants", [0.3, [0.2, 0.5, 0.7]])
def test_gradients_of_chunks_are_those_of_the_whole(adjust, constants):
    """In the first chunk a sample is missing, in the others none; in the second a series has its first sample."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(12, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    x[1, 0] = x[:3, 1] = torch.nan
    results = []
    for sizes in [[12], [3, 5, 4]]:
        leaf, alpha = (torch.as_tensor(v, dtype=torch.float64).clone().requires_grad_() for v in (x, constants))
        stream = Ewm(alpha=alpha, adjust=adjust)
        y = torch.cat([stream.update(part) for part in leaf.split(sizes)])
        results.append([y.detach(), *torch.autograd.grad((y * weight).nansum(), (leaf, alpha))])
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("library", [pd, pl])
def test_a_series_comes_back_as_one(library):
    values = [1.0, 2.0, float("nan"), 4.0, 8.0]
    stream, other = Ewm(alpha=0.5), Ewm(alpha=0.5)
    for part in (slice(0, 2), slice(2, 2), slice(2, 5)):
        chunk = library.Series(name="level", **{"data" if library is pd else "values": values[part]}, dtype=(
            np.float64 if library is pd else pl.Float64))  # fmt: skip
        if library is pd:
            chunk.index += part.start
        result = stream.update(chunk)
        assert type(result) is library.Series and result.name == "level"
        assert library is pl or result.index.equals(chunk.index)
        np.testing.assert_array_equal(result.to_numpy(), other.update(np.array(values[part])))
    assert stream.state == other.state


@pytest.mark.parametrize("library", [pd, pl])
def test_a_frame_comes_back_as_one(library):
    """Each column is a series, by its name, in the order of the first frame."""
    values = np.random.default_rng(2).standard_normal((7, 3))
    values[2, 1] = values[4, 0] = np.nan
    whole = library.DataFrame(dict(zip("abc", values.T, strict=True)))
    times = np.array([0.0, 1.0, 3.0, 3.5, 6.0, 7.0, 7.5])
    resets = np.arange(7) == 5
    stream, parts = Ewm(halflife=2.0), []
    for rows, order in [(slice(0, 2), "abc"), (slice(2, 2), "bca"), (slice(2, 5), "cab"), (slice(5, 7), "bac")]:
        chunk = whole[rows][list(order)]
        flags = library.DataFrame(dict.fromkeys("cba", resets[rows]))
        flags = flags.set_index(chunk.index) if library is pd else flags
        parts.append(stream.update(chunk, times[rows], flags))
        assert type(parts[-1]) is library.DataFrame and list(parts[-1].columns) == list("abc")
        assert library is pl or parts[-1].index.equals(chunk.index)
    expected = ewm_mean(values, halflife=2.0, times=times, resets=resets)
    np.testing.assert_allclose(np.concatenate([part.to_numpy() for part in parts]), expected, rtol=1e-12)
    for columns in ("ab", "abd", "abcd"):
        with pytest.raises(ValueError, match="`chunk` must have the columns of the stream, `a`, `b`, `c`, each once"):
            stream.update(library.DataFrame({name: [1.0] for name in columns}), [8.0])
    np.testing.assert_array_equal(stream.update(np.ones((1, 3)), [8.0]).shape, (1, 3))  # by position
    stream.reset()
    assert list(stream.update(whole[["b"]]).columns) == ["b"]


def test_frames_of_a_stream_and_what_they_stand_beside():
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 5.0]})
    alpha = pd.Series({"b": 0.5, "a": 1.0})
    with pytest.raises(ValueError, match="`chunk` must have the columns of the stream, `b`, `a`"):
        Ewm(alpha=alpha).update(frame.rename(columns={"a": "c"}))
    with pytest.raises(ValueError, match="`axis` of a stream must be 0 where a chunk is a frame, got 1"):
        Ewm(alpha=0.5, axis=1).update(frame)
    first, second = Ewm(alpha=0.5), Ewm(alpha=0.5)
    first.update(frame[:1])
    second.update(frame[1:])
    merged = first.merge(second)
    np.testing.assert_allclose(merged.update(frame), ewm_mean(pd.concat([frame, frame]), alpha=0.5)[2:], rtol=1e-14)
    second.reset()
    assert list(first.merge(second).update(frame[["b", "a"]]).columns) == ["a", "b"]
    second.update(frame[["b", "a"]])
    with pytest.raises(ValueError, match="merged only with the same columns, in one order"):
        first.merge(second)


@pytest.mark.parametrize(
    "given",
    [
        {"alpha": pd.Series({"c": 0.5, "a": 1.0, "b": 0.1})},
        {"span": pl.DataFrame({"c": [5.0], "a": [1.0], "b": [3.0]})},
        {"com": pl.DataFrame({"c": [0.5], "a": [0.0], "b": [3.0]})},
        {
            "halflife": pd.Series({"c": 500, "a": 1000, "b": 3000}).astype("timedelta64[ms]"),
            "alpha": pd.Series({"b": 0.9, "c": 0.5, "a": 0.1}),
        },
    ],
)
def test_columns_stand_as_in_the_first_frame_wherever_a_constant_has_them(given):
    """The result, the state and what is merged: each as in a call on the frame."""
    values, times = data(7)
    library = pl if "span" in given or "com" in given else pd
    whole = library.DataFrame(dict(zip("abc", values.T, strict=True)))
    when = {"times": times.astype("M8[s]")} if "halflife" in given else {}
    expected = ewm_mean(whole, **given, **when)
    stream, fresh = Ewm(**given), Ewm(**given)
    with pytest.raises(ValueError, match="`chunk` must have the columns of the stream"):
        stream.update(whole[["b", "a"]])  # which leaves no order behind
    parts = []
    for rows, order in [(slice(0, 2), "abc"), (slice(2, 4), "bca"), (slice(4, 7), "cab")]:
        own = {name: value[rows] for name, value in when.items()}
        parts.append(stream.merge(fresh).update(whole[rows][list(order)], **own))
        stream = fresh.merge(stream)
        np.testing.assert_array_equal(stream.update(whole[rows][list(order)], **own), parts[-1])
        assert list(parts[-1].columns) == list("abc")
    np.testing.assert_allclose(np.concatenate([part.to_numpy() for part in parts]), expected, rtol=1e-12)
    np.testing.assert_allclose(stream.state.mean, expected.to_numpy()[-1], rtol=1e-12)
    stream.reset()
    turned = ewm_mean(whole[["b", "c", "a"]], **given, **when)
    np.testing.assert_allclose(stream.update(whole[["b", "c", "a"]], **when), turned, rtol=1e-12)


def test_merged_streams_have_a_constant_of_labels_in_one_order():
    alpha = pd.Series({"b": 0.5, "a": 1.0})
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 5.0]})
    first, second, positions = (Ewm(alpha=alpha) for _ in range(3))
    first.update(frame)
    second.update(frame)
    merged = first.merge(second)
    expected = ewm_mean(pd.concat([frame] * 3, ignore_index=True), alpha=alpha)[4:]
    np.testing.assert_allclose(merged.update(frame), expected, rtol=1e-14)
    positions.update(frame[["b", "a"]].to_numpy())
    assert list(positions.update(frame).columns) == ["b", "a"]  # by position before, so as in the constant
    with pytest.raises(ValueError, match="merged only with the same columns, in one order"):
        first.merge(positions)
    assert first.merge(pickle.loads(pickle.dumps(second))).state == first.merge(second).state


@pytest.mark.parametrize(
    ("chunk", "error", "match"),
    [
        (pd.DataFrame({"a": ["b"]}), TypeError, "`chunk` must hold numbers only"),
        (pd.Series(["a"], dtype="str"), TypeError, "`chunk` must hold numbers only"),
        (pd.Series(["1"], dtype=object), TypeError, "`chunk` must hold numbers only"),
        (np.ones(3, np.complex128), TypeError, "`chunk` must hold float32"),
        (torch.ones(3, dtype=torch.float16), TypeError, "`chunk` must hold float32"),
        (["a"], TypeError, "`chunk` must"),
        (None, TypeError, "`chunk` must be an array, a list or a number, got NoneType"),
        ("a", TypeError, "`chunk` must be an array, a list or a number, got str"),
        (1.0, ValueError, "`chunk` must have at least one dimension"),
        (np.ones((2, 4)), ValueError, "`chunk` and `alpha` must broadcast"),
    ],
)
def test_what_is_wrong_with_a_chunk_is_said_of_it(chunk, error, match):
    stream = Ewm(alpha=np.full(3, 0.5) if np.ndim(chunk) == 2 and type(chunk) is np.ndarray else 0.5)
    with pytest.raises(error, match=match):
        stream.update(chunk)
    assert stream.state is None


def test_a_factor_for_each_lane():
    x, alpha = np.random.default_rng(0).standard_normal((6, 3)), np.array([0.1, 0.5, 1.0])
    stream = Ewm(alpha=alpha)
    parts = [stream.update(x[:2]), stream.update(x[2:])]
    np.testing.assert_allclose(np.concatenate(parts), ewm_mean(x, alpha=alpha), rtol=1e-14)
    with pytest.raises(ValueError, match="constant in time"):
        Ewm(alpha=np.array([[0.1], [0.2]])).update(np.ones((2, 1)))


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 5), st.booleans())
def test_merge(first, second, third, ignore_na):
    x, _ = data(first + second + third)
    a, b = Ewm(alpha=0.3, ignore_na=ignore_na), Ewm(alpha=0.3, ignore_na=ignore_na)
    a.update(x[:first])
    b.update(x[first : first + second])
    both = a.merge(b)
    rest = both.update(x[first + second :])
    np.testing.assert_allclose(rest, ewm_mean(x, alpha=0.3, ignore_na=ignore_na)[first + second :], rtol=1e-11)
    assert both.state.steps == len(x)


def test_merge_with_times_and_without_right():
    x, times = data(20)
    a, b = Ewm(halflife=2.0), Ewm(halflife=2.0)
    a.update(x[:8], times[:8])
    b.update(x[8:15], times[8:15])
    whole = ewm_mean(x, halflife=2.0, times=times)
    both = a.merge(b)
    np.testing.assert_allclose(both.update(x[15:], times[15:]), whole[15:], rtol=1e-12)
    assert Ewm(halflife=2.0).merge(a).state.steps == 8
    assert a.merge(Ewm(halflife=2.0)).state.steps == 8
    c = Ewm(halflife=2.0)
    c.update(x)
    for pair, match in [
        ((Ewm(alpha=0.5, adjust=False), Ewm(alpha=0.5, adjust=False)), "adjust=True"),
        ((Ewm(alpha=0.5), Ewm(alpha=0.4)), "made alike"),
        ((a, c), "times"),
    ]:
        with pytest.raises(ValueError, match=match):
            pair[0].merge(pair[1])


def test_merge_of_tensors():
    """The gradient of a factor goes through what merging makes of the first stream's weight."""
    x = torch.tensor(data(12)[0])
    for factor, wanted in ((0.3, False), (torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64), True)):
        factor = factor.requires_grad_() if wanted else factor
        first, second, whole = (Ewm(alpha=factor) for _ in range(3))
        first.update(x[:5]), second.update(x[5:])
        whole.update(x)
        merged = first.merge(second).state
        for one, other in ((merged.mean, whole.state.mean), (merged.weight, whole.state.weight)):
            np.testing.assert_allclose(*(v.detach() if wanted else v for v in (one, other)), rtol=1e-12)
        if wanted:
            slopes = (torch.autograd.grad(s.mean.sum(), factor)[0] for s in (merged, whole.state))
            torch.testing.assert_close(*slopes)


def test_merge_lane_by_lane():
    x, times = np.random.default_rng(0).standard_normal((6, 3, 1)), np.cumsum([[[1.0], [2.0], [4.0]]] * 6, 0)
    for options, axis, when in [
        ({"halflife": 2.0}, 0, times),
        ({"halflife": np.timedelta64(2, "s"), "alpha": np.array([[0.1], [0.5], [0.9]])}, 0, times.astype("M8[s]")),
        ({"alpha": np.array([[0.1], [0.5], [0.9]])}, 0, None),
        ({"alpha": [[0.1], [0.5], [0.9]]}, 0, None),
        ({"alpha": np.array([0.1])}, 1, None),
    ]:
        data, when = (None if v is None else np.moveaxis(v, 0, axis) for v in (x, when))
        parts = [None, None] if when is None else np.split(when, [4], axis)
        first, second, whole = (Ewm(**options, axis=axis) for _ in range(3))
        for stream, part, at in zip((first, second), np.split(data, [4], axis), parts, strict=True):
            stream.update(part, at)
        whole.update(data, when)
        both = first.merge(second).state
        assert both.mean.shape == both.weight.shape == (3, 1)
        np.testing.assert_allclose(both.mean, whole.state.mean, rtol=1e-12)
        np.testing.assert_allclose(both.weight, whole.state.weight, rtol=1e-12)


def test_merge_after_a_gap_that_left_no_weight():
    first, second = Ewm(alpha=1.0), Ewm(alpha=1.0)
    first.update([[1.0, 1.0, 1.0]])
    second.update([[5.0, np.nan, 4.0], [np.nan, np.nan, 3.0]])
    np.testing.assert_array_equal(first.merge(second).state.mean, [5, 1, 3])


def test_merge_of_streams_that_look_alike():
    alphas = np.full(2000, 0.3), np.full(2000, 0.3)  # too many to be printed
    alphas[1][1000] = 0.9
    for pair in [
        [Ewm(alpha=alpha) for alpha in alphas],
        [Ewm(alpha=0.5), Ewm(alpha=0.5, min_periods=3)],
        [Ewm(alpha=np.array([0.5])), Ewm(alpha=np.array([0.5 + 1e-12]))],
    ]:
        for stream in pair:
            stream.update(np.ones((1, 2000)))
        with pytest.raises(ValueError, match="made alike"):
            pair[0].merge(pair[1])
    twins = [Ewm(alpha=alphas[0].copy()) for _ in range(2)]
    for stream in twins:
        stream.update(np.ones((1, 2000)))
    assert twins[0].merge(twins[1]).state.steps == 2


def test_merge_of_a_state_with_times_that_no_halflife_explains():
    streams = [Ewm(alpha=0.5) for _ in range(2)]
    for stream in streams:
        stream.update([1.0])
        stream.state.last_time = np.float64(1.0)  # by hand
    with pytest.raises(ValueError, match="need a stream made with `halflife`"):
        streams[0].merge(streams[1])


@pytest.mark.parametrize("value", [np.array([1, 2]), 1.0, True, "2", None])
def test_counts_are_integers(value):
    with pytest.raises(TypeError, match="`axis` must be an integer, got"):
        Ewm(alpha=0.5, axis=value)
    if value is not None:
        with pytest.raises(TypeError, match="`min_periods` must be an integer, got"):
            Ewm(alpha=0.5, min_periods=value)


def test_more_samples_wanted_than_can_be_counted():
    assert np.isnan(Ewm(alpha=0.5, min_periods=2**70).update([1.0, 2.0])).all()
    assert np.isnan(ewm_mean([1.0, 2.0], alpha=0.5, min_periods=2**70)).all()


def test_times_with_every_chunk_or_with_none():
    stream = Ewm(halflife=2.0)
    stream.update([1.0], [0.0])
    with pytest.raises(ValueError, match="every chunk"):
        stream.update([1.0])
    with pytest.raises(ValueError, match="backwards"):
        stream.update([1.0], [-1.0])
    with pytest.raises(ValueError, match="halflife"):
        Ewm(alpha=0.5).update([1.0], [0.0])
    dated = Ewm(halflife=np.timedelta64(1, "s"))
    with pytest.raises(ValueError, match="timedelta"):
        dated.update([1.0])
    parts = [dated.update([1.0], np.array([0], "M8[s]")), dated.update([2.0], np.array([1], "M8[s]"))]
    np.testing.assert_allclose(np.concatenate(parts), ewm_mean([1.0, 2.0], alpha=0.5))

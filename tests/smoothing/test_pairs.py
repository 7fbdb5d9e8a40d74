"""Covariances and correlations of all pairs of columns: pandas is the oracle, and each pair's own call."""

import copy
import itertools
import pickle

import dask.array as da
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from fastrecur.smoothing import EwmCov, EwmCovState, ewm_corr, ewm_cov

FUNCTIONS = {"cov": ewm_cov, "corr": ewm_corr}
MISSING = {"none": 0.0, "some": 0.1, "rows": 0.3, "late": 0.5}


def table(steps, columns, missing, far=1e3):
    rng = np.random.default_rng(steps)
    x = far + rng.standard_normal((steps, columns))
    if missing == "rows":
        x[rng.random(steps) < MISSING[missing]] = np.nan
    elif missing == "late":
        x[: steps // 2, 0] = np.nan
    else:
        x[rng.random(x.shape) < MISSING[missing]] = np.nan
    return x


def alike(actual, expected, rtol=1e-12):
    """Assert that numbers are off by no more than ``rtol`` of the largest of them."""
    assert actual.shape == expected.shape
    size = np.nanmax(np.abs(expected), initial=0.0)
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * float(size))


def frame(x):
    index = pd.date_range("2026-01-01", periods=len(x), name="when")
    return pd.DataFrame(x, index=index, columns=list("abcdefg")[: x.shape[1]])


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_pandas(name, missing):
    for steps, columns, adjust, ignore_na, bias in itertools.product((1, 70), (1, 5), *[(False, True)] * 3):
        if missing == "some" and not (ignore_na or bias):
            continue  # where pandas' divisor cancels after a gap
        data = frame(table(steps, columns, missing))
        how = {"halflife": 5.0, "adjust": adjust, "ignore_na": ignore_na, "min_periods": 2 * bias}
        window, options = data.ewm(**how), {"bias": bias} if name == "cov" else {}
        wanted = getattr(window, name)(**options)
        pd.testing.assert_frame_equal(
            FUNCTIONS[name](data, pairwise=True, **how, **options), wanted, rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_some_steps_are_those_of_all(name, missing, dtype):
    x = table(150, 3, missing, far=1.0).astype(dtype)
    for adjust, ignore_na, with_times in itertools.product((False, True), repeat=3):
        how = {"halflife": 3.0, "adjust": adjust, "ignore_na": ignore_na, "pairwise": True}
        if with_times:
            how["times"] = np.cumsum(np.random.default_rng(0).integers(0, 3, len(x)))
        whole = FUNCTIONS[name](x, **how)
        assert whole.shape == (150, 3, 3) and whole.dtype == dtype
        rtol = 1e-6 if dtype == "f4" else 1e-10
        for at in ([0], [149, 3, 3, 70], -1, np.int64(5), []):
            own = whole[at] if np.ndim(at) == 0 or at else whole[:0]
            some = FUNCTIONS[name](x, at=at, **how)
            assert some.dtype == dtype
            alike(some, own, rtol)


def test_matrices_are_symmetric_and_have_no_negative_eigenvalue():
    for missing in MISSING:
        x = table(200, 7, missing)
        for matrices in (ewm_cov(x, com=9, pairwise=True), ewm_cov(x, com=9, pairwise=True, at=[20, 199])):
            np.testing.assert_array_equal(matrices, matrices.swapaxes(1, 2))
    assert np.linalg.eigvalsh(ewm_cov(table(200, 7, "none"), com=9, pairwise=True)[1:]).min() > -1e-12
    assert np.linalg.eigvalsh(ewm_cov(table(3, 7, "none"), com=9, pairwise=True, at=-1)).min() > -1e-12


def test_other_forms_of_numbers():
    x = np.random.default_rng(3).standard_normal((9, 2)).astype(">f4")
    for function in FUNCTIONS.values():
        for at in (None, -1):
            wanted = function(x.astype("f4"), com=3, pairwise=True, at=at)
            found = function(x, com=np.array(3.0), pairwise=True, at=at)
            assert found.dtype.isnative
            alike(found, wanted, 1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_any_axis(axis):
    x = np.random.default_rng(1).standard_normal((4, 5, 6))[::-1]
    last = 2 if axis in (0, 1) else 1
    own = x.shape[last]
    matrices = ewm_cov(x, alpha=0.3, axis=axis, pairwise=True)
    time = axis % 3 + (axis % 3 > last)
    for i, j in itertools.product(range(own), repeat=2):
        pair = ewm_cov(x.take(i, last), x.take(j, last), alpha=0.3, axis=min(axis % 3, 1))
        alike(np.moveaxis(matrices, (last, last + 1), (0, 1))[i, j], pair)
    alike(ewm_cov(x, alpha=0.3, axis=axis, pairwise=True, at=-1), matrices.take(-1, time))
    alike(ewm_cov(x, alpha=0.3, axis=axis, pairwise=True, at=[1, 3]), matrices.take([1, 3], time))


def test_where_series_begin_anew():
    x = table(60, 3, "some")
    offsets, keys = [0, 20, 21, 60], np.arange(60) % 2
    whole = ewm_cov(x, com=3, pairwise=True, offsets=offsets)
    for low, high in itertools.pairwise(offsets):
        alike(whole[low:high], ewm_cov(x[low:high], com=3, pairwise=True))
    alike(ewm_cov(x, com=3, pairwise=True, offsets=offsets, at=[19, 20, 59]), whole[[19, 20, 59]])
    resets = np.isin(np.arange(60), offsets)
    alike(ewm_cov(x, com=3, pairwise=True, resets=resets), whole)
    series = np.stack([x, x[::-1]])  # a batch, with time on either side of columns
    for given in (dict(offsets=offsets), dict(resets=resets)):
        wanted = np.stack([ewm_cov(each, com=3, pairwise=True, **given) for each in series])
        for batch, axis, time in ((series, 1, 1), (series.swapaxes(1, 2), 2, 3)):
            right = np.moveaxis(wanted, 1, time)
            alike(ewm_cov(batch, com=3, axis=axis, pairwise=True, **given), right)
            some = ewm_cov(batch, com=3, axis=axis, pairwise=True, at=[19, 20, 59], **given)
            alike(some, right.take([19, 20, 59], time))
    grouped = ewm_cov(x, com=3, pairwise=True, groups=keys)
    alike(grouped[1::2], ewm_cov(x[1::2], com=3, pairwise=True))


def test_frames():
    data = frame(table(40, 3, "some"))
    last = ewm_cov(data, com=3, pairwise=True, at=-1)
    pd.testing.assert_frame_equal(last, data.ewm(com=3).cov().loc[data.index[-1]], check_names=False)
    labels = data.index[[9, 39]]
    for at in (labels, [9, 39], [str(day.date()) for day in labels]):
        pd.testing.assert_frame_equal(ewm_corr(data, com=3, pairwise=True, at=at), data.ewm(com=3).corr().loc[labels])
    pd.testing.assert_frame_equal(ewm_cov(data, com=3, pairwise=True, at=labels[1]), last)
    many = data.set_index([data.index, np.arange(40)]).set_axis(
        pd.MultiIndex.from_product([["u"], list("abc")]), axis=1
    )
    found = ewm_cov(many, com=3, pairwise=True)
    assert found.index.nlevels == 4 and found.shape == (120, 3)
    alike(found.to_numpy(), data.ewm(com=3).cov().to_numpy(), 1e-10)


def test_tensors_and_dask():
    x = table(30, 3, "some", far=1.0)
    whole, some = ewm_cov(x, com=3, pairwise=True), ewm_cov(x, com=3, pairwise=True, at=[4, 29])
    for tensor in (torch.tensor(x), torch.tensor(x, requires_grad=True)):
        found = ewm_cov(tensor, com=3, pairwise=True, at=[4, 29])
        assert found.requires_grad == tensor.requires_grad
        alike(found.detach().numpy(), some)
        alike(ewm_cov(tensor, com=3, pairwise=True).detach().numpy(), whole)
    (wanted,) = torch.autograd.grad(ewm_cov(tensor, com=3, pairwise=True)[29].nansum(), tensor)
    (grad,) = torch.autograd.grad(ewm_cov(tensor, com=3, pairwise=True, at=-1).nansum(), tensor)
    alike(grad.numpy(), wanted.numpy(), 1e-10)
    lazy = da.from_array(x, chunks=(7, 2))
    alike(ewm_cov(lazy, com=3, pairwise=True).compute(), whole)
    alike(ewm_cov(lazy, com=3, pairwise=True, at=[4, 29]).compute(), some)


@pytest.mark.parametrize("how", [{}, {"times": np.arange(5.0) ** 2}], ids=["steps", "times"])
def test_a_constant_s_gradient_at_some_steps(how):
    """Also of data that are whole numbers, which have no gradient of their own."""
    x = torch.arange(15).reshape(5, 3) ** 2 % 7
    grads = []
    for at in ([4, 1, 0], None):
        halflife = torch.tensor(7.5, dtype=torch.float64, requires_grad=True)
        found = ewm_cov(x, halflife=halflife, pairwise=True, at=at, **how)
        found = found if at else found[[4, 1, 0]]
        grads += torch.autograd.grad(found.nansum(), halflife)
    assert grads[0] != 0
    torch.testing.assert_close(*grads, rtol=1e-10, atol=0)


@pytest.mark.parametrize("missing", MISSING)
def test_stream(missing):
    x, times = table(90, 4, missing), np.cumsum(np.arange(90) % 3)
    for how in ({"com": 3}, {"halflife": 2.0, "times": times}, {"com": 3, "adjust": False, "bias": True}):
        whole = ewm_cov(x, pairwise=True, **how)
        own = dict(how)
        when, stream, done = own.pop("times", None), EwmCov(**{k: v for k, v in how.items() if k != "times"}), 0
        for rows in (0, 1, 40, 2, 0, 47):
            piece = slice(done, done + rows)
            found = stream.update(x[piece], None if when is None else when[piece])
            done += rows
            if done:
                alike(found, whole[done - 1], 1e-10)
        again = pickle.loads(pickle.dumps(copy.deepcopy(stream)))
        assert type(again.state) is EwmCovState
        assert again.state == stream.state and stream.state.steps == 90
        assert again.state != EwmCov(com=3).state
        stream.reset()
        assert stream.state is None


def test_stream_of_frames_and_tensors():
    data = frame(table(50, 3, "some"))
    stream, whole = EwmCov(com=3), ewm_cov(data, com=3, pairwise=True, at=-1)
    stream.update(data[:20])
    pd.testing.assert_frame_equal(stream.update(data[20:][["c", "a", "b"]]), whole)
    with pytest.raises(ValueError, match="columns of the stream"):
        stream.update(data[["a", "b"]])
    x = torch.tensor(data.to_numpy(), requires_grad=True)
    stream = EwmCov(com=3)
    stream.update(x[:20])
    stream.update(x[:0])
    found = stream.update(x[20:])
    alike(found.detach().numpy(), whole.to_numpy(), 1e-10)
    assert repr(stream) == "EwmCov(com=3, adjust=True, ignore_na=False, min_periods=0, bias=False)"


X = np.ones((5, 2))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ewm_cov(X, com=1), TypeError, "`y` must be an array"),
        (lambda: ewm_cov(X, X, com=1, pairwise=True), ValueError, "`y` must not be given with `pairwise`"),
        (lambda: ewm_cov(X, X, com=1, at=-1), ValueError, "`at` must be given with pairwise=True"),
        (lambda: ewm_cov(X, com=[1, 2], pairwise=True), ValueError, "`com` must be a number for all pairs"),
        (lambda: ewm_cov(X[0], com=1, pairwise=True), ValueError, "two axes or more .* shape \\(2,\\)"),
        (
            lambda: ewm_cov(X, com=1, pairwise=True, resets=X > 1),
            ValueError,
            "`resets` must have one value for each step",
        ),
        (lambda: ewm_cov(X, com=1, pairwise=True, at=5), ValueError, "positions of 5 steps, got 5"),
        (lambda: ewm_cov(X, com=1, pairwise=True, at=[-6]), ValueError, "positions of 5 steps, got"),
        (lambda: ewm_cov(X, com=1, pairwise=True, at=1.5), TypeError, "`at` must be positions .* got 1.5"),
        (lambda: ewm_cov(X, com=1, pairwise=True, at=True), TypeError, "`at` must be positions"),
        (lambda: ewm_cov(X, com=1, pairwise=True, at=1, groups=[0] * 5), ValueError, "`at` and `groups`"),
        (
            lambda: ewm_cov(pd.DataFrame(X), com=1, pairwise=True, axis=1),
            TypeError,
            "pandas DataFrame \\(with `axis` 0\\)",
        ),
        (lambda: ewm_cov(pd.DataFrame(X), com=1, pairwise=True, at="2026"), ValueError, "labels of the index"),
        (lambda: ewm_cov(pl.DataFrame({"a": X[:, 0]}), com=1, pairwise=True), TypeError, "got polars.*DataFrame"),
        (
            lambda: ewm_cov(X, halflife=1, pairwise=True, times=[1, 2], at=0),
            ValueError,
            "`times` must be the same length",
        ),
        (lambda: ewm_cov(X, com=1, pairwise=1), TypeError, "`pairwise`"),
        (lambda: EwmCov(com=[1, 2]), ValueError, "`com` must be a number"),
        (lambda: EwmCov(com=1).update(X[0]), ValueError, "two axes"),
        (lambda: EwmCov(), ValueError, "one of"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_errors_of_a_stream():
    stream = EwmCov(halflife=1)
    stream.update(X)
    for chunk, times, words in ((X[:, :1], None, "shape of earlier chunks"), (X, np.arange(5), "with no chunk")):
        with pytest.raises(ValueError, match=words):
            stream.update(chunk, times)
    with pytest.raises(ValueError, match="halflife"):
        EwmCov(com=1).update(X, np.arange(5))


@pytest.mark.parametrize("at", [None, -1])
@pytest.mark.parametrize("function", [ewm_cov, ewm_corr])
def test_a_constant_s_dtype_counts_as_for_two_series(function, at):
    x = np.array([[1, 2], [2, 1], [4, 3]], np.float32)
    span = np.array(9.5)
    assert function(x, span=span, pairwise=True, at=at).dtype == function(x, x, span=span).dtype == np.float64
    assert function(x, span=9.5, pairwise=True, at=at).dtype == np.float32

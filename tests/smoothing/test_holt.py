"""Holt's level and trend beside a plain loop and statsmodels' numbers, any layout and dtype, and its gradients."""

import dask.array as da
import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import torch

from fastrecur._cpu.kernels.levels import plain_holt
from fastrecur.smoothing import holt

# statsmodels 0.15.0: Holt(X, initialization_method="known", initial_level=2.5, initial_trend=0.5, damped_trend=...)
# .fit(0.3, 0.2, damping_trend=..., optimized=False), its level and trend. Its "simple" start is the default here.
X = np.array([3.0, 5.0, 4.0, 7.0, 8.0, 6.0, 9.0, 12.0])
STATSMODELS = {
    1.0: (
        [3.0, 3.95, 4.378, 5.55492, 6.7654688, 7.08692483, 8.14672856, 9.83978746],
        [0.5, 0.59, 0.5576, 0.681464, 0.78728096, 0.69411597, 0.76725353, 0.9524146],
    ),
    0.9: (
        [2.965, 3.86089, 4.22098594, 5.32928356, 6.46785125, 6.71384938, 7.70886486, 9.34417996],
        [0.453, 0.505338, 0.43586255, 0.53548056, 0.61325954, 0.4907465, 0.55234057, 0.72474823],
    ),
}


def loop(x, alpha, beta, phi, level=None, trend=None, axis=0):
    """Return what `holt` does, of complete series or given states; other arguments are one for each series."""
    x = np.moveaxis(np.asarray(x, np.float64), axis, 0)
    found = np.empty((2, *x.shape))
    found[:, 0] = x[0] if level is None else level, x[1] - x[0] if trend is None else trend
    plain_holt(x, *found, alpha, beta, phi)
    return [np.moveaxis(v, 0, axis) for v in found]


def assert_close(ours, wanted, rtol=1e-13):
    for one, other in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * 10)


@pytest.mark.parametrize("phi", STATSMODELS)
def test_as_statsmodels(phi):
    assert_close(holt(X, 0.3, 0.2, phi=phi, level=2.5, trend=0.5), STATSMODELS[phi], 1e-8)
    assert_close(holt(X, 0.3, 0.2, phi=phi), holt(X, 0.3, 0.2, phi=phi, level=3.0, trend=2.0), 0)


@pytest.mark.sample(shape=[(430, 40), (33, 70)])
@pytest.mark.parametrize(("shape", "axis"), [((75,), 0), ((430, 40), 0), ((33, 70), -1), ((3, 71, 2), 1)])
def test_any_axis(rng, shape, axis):
    x, lanes = rng.standard_normal(shape), [*shape]
    lanes[axis] = 1
    constants = rng.random((3, *lanes))
    squeezed = [v.squeeze(axis) for v in constants]
    alpha, beta, phi = constants
    result = holt(x, alpha, beta, phi=phi, axis=axis)
    assert_close(result, loop(x, *squeezed, axis=axis))
    wide = np.repeat(x, 2, -1)[..., ::-2]
    assert_close(holt(np.flip(wide, -1), alpha, beta, phi=phi, axis=axis), result, 0)
    states = rng.standard_normal((2, *squeezed[0].shape))
    given = holt(x, 0.3, 0.2, level=states[0], trend=states[1], axis=axis)
    assert_close(given, loop(x, 0.3, 0.2, 1.0, *states, axis=axis))


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.int16, ">f8"])
def test_dtypes(rng, dtype):
    x = (rng.standard_normal((20, 17)) * 8).astype(dtype)
    result = holt(x, 0.3, 0.2)
    kind = np.dtype(dtype).newbyteorder("=") if np.dtype(dtype).kind in "fV" else np.dtype(np.float64)
    assert [v.dtype for v in result] == [kind] * 2
    assert_close((v.astype(np.float64) for v in result), loop(x, 0.3, 0.2, 1.0), 2 * float(ml_dtypes.finfo(kind).eps))


def test_missing_values_are_predicted():
    n = np.nan
    table = np.array([[n, 1.0, n, n], [2.0, n, n, n], [n, n, n, n], [6.0, 4.0, n, 5.0], [n, np.inf, n, n]])
    level, trend = holt(table, 0.5, 0.5, phi=0.9)
    for k, first in enumerate([1, 0, None, 3]):
        own = table[first:, k]
        assert np.isnan(level[:first, k]).all()
        if first is not None:
            slope = {1: 2.0, 0: 1.0, 3: 0.0}[first]  # by the steps between the first two
            assert_close((level[first:, k], trend[first:, k]), loop(own, 0.5, 0.5, 0.9, own[0], slope))
    assert_close(holt(table[:, 0], 0.5, 0.5, level=1.0, trend=0.0), loop(table[:, 0], 0.5, 0.5, 1.0, 1.0, 0.0))


def test_dask(rng):
    x, trend = rng.standard_normal((41, 5)), rng.standard_normal(5)
    x[:3, 1] = x[:, 3] = x[1:, 4] = x[9, 0] = np.nan
    lazy, beta = da.from_array(x, chunks=(7, 2)), da.full((1, 5), 0.2, chunks=3)
    for start in ({}, {"level": 1.0, "trend": trend}):
        found = holt(lazy, 0.3, beta, phi=0.9, **start)
        assert all(isinstance(v, da.Array) for v in found)
        assert_close((v.compute() for v in found), holt(x, 0.3, 0.2, phi=0.9, **start), 0)


def test_a_series_goes_on_from_its_state(rng):
    x = rng.standard_normal((30, 3))
    whole, first = holt(x, 0.3, 0.2), holt(x[:11], 0.3, 0.2)
    rest = holt(x[11:], 0.3, 0.2, level=first[0][-1], trend=first[1][-1])
    assert_close((np.concatenate(v) for v in zip(first, rest, strict=True)), whole, 0)


def test_short_and_labelled():
    assert [v.tolist() for v in holt([5.0], 0.3, 0.2)] == [[5.0], [0.0]]
    assert [v.shape for v in holt(np.zeros((0, 3)), 0.3, 0.2)] == [(0, 3)] * 2
    frame = pd.DataFrame({"a": X, "b": X[::-1]}, index=pd.date_range("2024", periods=8))
    level, trend = holt(frame, pd.Series({"b": 0.6, "a": 0.3}), 0.2)
    assert level.index is frame.index
    assert_close((level, trend), loop(frame, np.array([0.3, 0.6]), 0.2, 1.0))


@pytest.mark.parametrize("kind", ["array", "xarray", "polars"])
def test_a_row_of_a_table_is_a_state(kind):
    x = np.stack([X, X[::-1]], 1)
    table = {"array": np.asarray, "xarray": lambda v: pytest.importorskip("xarray").DataArray(v, dims=("t", "s")),
             "polars": lambda v: pytest.importorskip("polars").DataFrame(v)}[kind](x)  # fmt: skip
    last = slice(-1, None) if kind == "array" else -1
    level, trend = holt(table[:4], 0.3, 0.2)
    found = holt(table[4:], 0.3, 0.2, level=level[last], trend=trend[last])
    assert_close([np.asarray(v) for v in found], [v[4:] for v in holt(x, 0.3, 0.2)])


def test_digits_at_critical_damping():
    """Two equal poles near 1, beside extended precision."""
    alpha, x = 2e-4 - 1e-8, np.random.default_rng(0).standard_normal(20000).cumsum()
    beta = 1e-8 / alpha
    wanted = np.array([x, x], np.longdouble)
    wanted[:, 0] = x[0], x[1] - x[0]
    plain_holt(x.astype(np.longdouble), *wanted, *np.array([alpha, beta, 1.0], np.longdouble))
    for ours, other in zip(holt(x, alpha, beta), wanted, strict=True):
        assert abs(ours - other).max() < 1e-13 * abs(other).max()


@pytest.mark.parametrize("start", ["given", pytest.param("found", marks=pytest.mark.exhaustive)])
def test_gradients(rng, start):
    x, missing = torch.from_numpy(rng.standard_normal((9, 3))), torch.zeros(9, 3, dtype=bool)
    missing[0, 0] = missing[1, 1] = missing[5, 2] = missing[1, 0] = True
    operands = [x.requires_grad_(), *(torch.rand(n, dtype=torch.float64).requires_grad_() for n in [(3,), (), (1, 3)])]
    operands += [torch.rand(3, dtype=torch.float64).requires_grad_() for _ in range(2 * (start == "given"))]

    def call(x, alpha, beta, phi, level=None, trend=None):
        found = holt(torch.where(missing, torch.nan, x), alpha, beta, phi=phi, level=level, trend=trend)
        return [v.nan_to_num() for v in found]

    assert torch.autograd.gradcheck(call, operands)
    assert start == "given" or torch.autograd.gradgradcheck(call, operands, fast_mode=True)
    turned = [v.T.contiguous().T for v in operands[:1]] + operands[1:]
    for one, other in zip(call(*operands), call(*turned), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert_close((v.detach() for v in call(*operands)), (v.numpy() for v in call(*(v.detach() for v in operands))), 0)


@pytest.mark.parametrize(("shape", "axis"), [((430, 40), 0), ((40, 150), 1), ((150,), 0)])
@pytest.mark.sample(shape=[(430, 40)])
def test_gradients_of_many_steps(rng, shape, axis):
    """By several threads and chunks, beside autograd through a loop."""
    one = [*shape]
    one[axis] = 1
    x, weight = torch.from_numpy(rng.standard_normal((2, *shape)))
    operands = [x.requires_grad_(), *(torch.from_numpy(v).requires_grad_() for v in 0.1 + 0.9 * rng.random((3, *one)))]
    alpha, beta, phi = (v.squeeze(axis) for v in operands[1:])
    level, trend, total = x.select(axis, 0), x.select(axis, 1) - x.select(axis, 0), 0.0
    for value, w in zip(x.unbind(axis), weight.unbind(axis), strict=True):
        last, level = level, alpha * value + (1 - alpha) * (level + phi * trend)
        trend = beta * (level - last) + (1 - beta) * phi * trend
        total = total + (w * (level + 0.5 * trend)).sum()
    wanted = torch.autograd.grad(total, operands, retain_graph=True)
    found = holt(x, operands[1], operands[2], phi=operands[3], axis=axis)
    grads = torch.autograd.grad((weight * (found[0] + 0.5 * found[1])).sum(), operands)
    assert_close(grads, wanted, 1e-11)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: holt(pd.Series(X), torch.tensor(0.3), 0.2), TypeError, "`x` must be a tensor"),
        (lambda: holt(X, 1.5, 0.2), ValueError, "`alpha` must satisfy: 0 <= alpha <= 1"),
        (lambda: holt(torch.tensor(X), 0.5, torch.tensor(-1.0)), ValueError, "`beta` must satisfy"),
        (lambda: holt(X, X / 20, 0.2), ValueError, r"`alpha` must have the shape \(1,\)"),
        (lambda: holt(X, 0.5, 0.2, level=[1.0, 2.0]), ValueError, "`level` must be a number"),
        (lambda: holt(X + 1j, 0.5, 0.2), TypeError, "`x` must hold"),
        (lambda: holt(X, None, 0.2), TypeError, "`alpha`"),
        (lambda: holt(X, 0.5, 0.2, damping=0.9), TypeError, "damping"),
    ],
)
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call()

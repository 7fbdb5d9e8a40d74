"""Oracles that others wrote."""

import numpy as np
import pandas as pd
import pytest
import scipy.signal

import fastrecur


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("alpha", [0.9, 0.1, 0.01])
def test_lfilter(rng, axis, alpha):
    x = rng.standard_normal((300, 257))
    h0 = rng.standard_normal(x.shape[1 - axis])
    zi = np.expand_dims((1 - alpha) * h0, axis)
    expected, zf = scipy.signal.lfilter([alpha], [1, alpha - 1], x, axis=axis, zi=zi)
    h, last = fastrecur.forget_mult(alpha, x, h0, axis=axis, return_state=True)
    np.testing.assert_allclose(h, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose((1 - alpha) * last, np.squeeze(zf, axis), rtol=1e-12, atol=1e-14)
    h = fastrecur.linear_recurrence(1 - alpha, alpha * x, h0, axis=axis)
    np.testing.assert_allclose(h, expected, rtol=1e-12, atol=1e-14)
    backwards = scipy.signal.lfilter([1], [1, 0.5], np.flip(x, axis), axis=axis)
    h = fastrecur.linear_recurrence(-0.5, x, axis=axis, reverse=True)
    np.testing.assert_allclose(h, np.flip(backwards, axis), rtol=1e-12, atol=1e-14)


@pytest.mark.exhaustive
def test_complex_lfilter(rng):
    pole = 0.9 * np.exp(0.3j)
    b = rng.standard_normal((200, 3)) + 1j * rng.standard_normal((200, 3))
    expected = scipy.signal.lfilter([1], [1, -pole], b, axis=0)
    np.testing.assert_allclose(fastrecur.linear_recurrence(pole, b), expected, rtol=1e-12)


@pytest.mark.exhaustive
@pytest.mark.parametrize("shape", [(1000,), (100, 33), (5, 7, 300)])
def test_cumsum_and_cumprod(rng, shape):
    x = rng.integers(-1000, 1000, shape)
    for axis in range(len(shape)):
        np.testing.assert_array_equal(fastrecur.linear_recurrence(1, x, axis=axis), np.cumsum(x, axis))
        np.testing.assert_array_equal(
            fastrecur.linear_recurrence(1, x.astype(np.float32), axis=axis, reverse=True),
            np.flip(np.cumsum(np.flip(x, axis), axis), axis),
        )
        a = rng.uniform(0.9, 1.1, shape)
        np.testing.assert_allclose(fastrecur.linear_recurrence(a, 0, 1, axis=axis), np.cumprod(a, axis), rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.9, 0.1, 1e-3])
def test_pandas(rng, alpha):
    x = rng.standard_normal((2000, 4))
    expected = pd.DataFrame(x).ewm(alpha=alpha, adjust=False).mean().to_numpy()
    h = fastrecur.forget_mult(alpha, x, x[0])
    np.testing.assert_allclose(h, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(fastrecur.forget_mult(alpha, x[:, 0], x[0, 0]), expected[:, 0], rtol=1e-10, atol=1e-12)

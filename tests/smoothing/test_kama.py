"""Kaufman's average against a plain loop: any axis, layout and dtype, long windows, data of very different sizes."""

import math

import numpy as np
import pytest
import torch
from compare import assert_same_bits

from fastrecur.smoothing import kama


def loop(x, period, fast=2, slow=30):
    """Return the average of one series, each window's way added up without rounding."""
    result, state = np.full(len(x), np.nan), float(x[period - 1]) if len(x) >= period else np.nan
    quick, calm = 2 / (fast + 1), 2 / (slow + 1)
    values = [float(value) for value in x]
    for t in range(period, len(x)):
        way = math.fsum(abs(values[s] - values[s - 1]) for s in range(t - period + 1, t + 1))
        straight = min(1.0, abs(values[t] - values[t - period]) / way) if way else 1.0
        gate = (straight * (quick - calm) + calm) ** 2
        state += gate * (values[t] - state)
        result[t] = state
    return result


def loops(x, period, axis, **spans):
    return np.apply_along_axis(loop, axis, x.astype(np.float64), period, **spans).astype(x.dtype)


def check(x, period, axis=0, **spans):
    result = kama(x, period, axis=axis, **spans)
    assert result.dtype == x.dtype
    exact = 1e-12 if x.dtype == np.float64 else 2e-7
    np.testing.assert_allclose(result, loops(x, period, axis, **spans), rtol=exact, atol=exact)
    return result


@pytest.mark.sample(period=[7])
@pytest.mark.parametrize("period", [1, 2, 3, 7, 10, 16, 100])
def test_windows(rng, period):
    """Of every length, also where all that is left is less than a vector, or more than a block."""
    for steps in (period, period + 1, period + 5, 2 * period + 40, 3000):
        check(rng.standard_normal(steps).cumsum(), period)
    check(rng.standard_normal((period + 30, 5)).cumsum(0), period, fast=3, slow=9)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((50, 3), 0), ((3, 50), 1), ((2, 40, 5), 1), ((2, 3, 40), -1), ((30, 2, 17), 0), ((25, 2100), 0), ((40, 1), 0)],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_shapes(rng, shape, axis, dtype):
    check(rng.standard_normal(shape).cumsum(axis).astype(dtype), 7, axis)


def test_few_series_are_taken_at_once_if_windows_are_long(rng):
    for steps, series, period in ((700, 40, 600), (420, 100, 300)):
        x = rng.standard_normal((steps, series)).cumsum(0)
        result = kama(x, period)
        for k in (0, 15, 16, series - 1):
            np.testing.assert_allclose(result[:, k], loop(x[:, k], period), rtol=1e-12)


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "slice": lambda x: np.repeat(np.repeat(x, 2, -1), 3, 0)[::3, ..., ::2],
    "negative": lambda x: np.ascontiguousarray(x[::-1, ..., ::-1])[::-1, ..., ::-1],
    "broadcast": lambda x: np.broadcast_to(x[:, :1], x.shape),
    "foreign byte order": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "integers": lambda x: (10 * x).astype(np.int16),
}


def test_layouts_by_turns(rng):
    """The same numbers in any layout, read only, the second and fourth time, and nothing is written to what is read."""
    x = rng.standard_normal((40, 6, 5)).cumsum(0)
    laid = {name: lay(x) for name, lay in LAYOUTS.items()}
    for array in laid.values():
        array.flags.writeable = False
    kept = {name: np.array(array, np.float64, order="C") for name, array in laid.items()}
    wanted = {(name, axis): loops(array, 4, axis) for name, array in kept.items() for axis in (0, 1)}
    for _ in range(4):
        for (name, axis), result in wanted.items():
            np.testing.assert_allclose(kama(laid[name], 4, axis=axis), result, rtol=1e-12, atol=1e-12)
    for name, array in kept.items():
        np.testing.assert_array_equal(laid[name], array)


def test_a_large_number_that_has_left_the_window_is_forgotten():
    """A running sum would keep the rounding of 1e9, beside which the later steps are nothing."""
    ways = 1e-3 * np.array([0, 1, -1, 2, 1, 3, -2, 0.5, 0.25, 4, 3, 5, 1])
    for period in (2, 3, 5):
        x = np.concatenate([[0.0, 1e9, -1e9, 1e9], ways, [1e9], ways])
        for series in (x, np.stack([x, -x], 1), np.tile(x, (2, 1)).T.copy()):
            for start in range(4, 4 + len(ways) - period):
                # From a step on whose window has no large number, as if there had never been one.
                part = series[start:]
                gates = [_gates(v, period) for v in (series, part)]
                assert_same_bits(gates[0][start:][: len(ways) - period], gates[1][: len(ways) - period])
        check(x, period)


def _gates(x, period):
    """Return gates from averages of the same series: each is how far the average moves towards a sample."""
    from fastrecur.smoothing import _kaufman

    x = np.ascontiguousarray(x)
    gates = np.empty((len(x) - period, *x.shape[1:]))
    _kaufman._write_gates(x, gates, period, 2 / 3, 2 / 31, 0)
    return gates


@pytest.mark.parametrize("period", [1, 4, 10, 13])
def test_constant_data(period):
    """Where nothing moves, the efficiency is 1: after a jump the average comes near by the quickest gate."""
    x = np.r_[np.zeros(period), np.full(4 * period, 0.3)]
    result, quick = kama(x, period), (2 / 3) ** 2
    np.testing.assert_allclose(result[period:], 0.3 * (1 - (1 - quick) ** np.arange(1, 4 * period + 1)), rtol=1e-12)
    assert (kama(np.full((60, 3), 0.1), period)[period:] == 0.1).all()
    assert_same_bits(_gates(np.full(60, 1e300), period), np.full(60 - period, (2 / 3 - 2 / 31 + 2 / 31) ** 2))


def test_what_is_not_finite_and_formulas(rng):
    """The formulas, which tensors take that want a gradient, have the same bits, also of what is not finite."""
    special = np.array([0, -0.0, 1, 1, 1, np.nan, np.inf, -np.inf, 1e308, -1e308, 5e-324, 1e9, 1e-3])
    for period in (1, 2, 3, 6, 11):
        for pick in (special[:5], special):
            for shape in ((40,), (40, 3)):
                x = rng.choice(pick, shape)
                recorded = kama(torch.tensor(x).requires_grad_(), period)
                assert_same_bits(kama(x, period), recorded.detach().numpy())
    x = rng.standard_normal(50)
    x[20] = np.nan
    result = kama(x, 5)
    assert np.isfinite(result[5:20]).all() and np.isnan(result[20:]).all()
    x[20] = np.inf
    assert np.isfinite(kama(x, 5)[5:20]).all() and not np.isfinite(kama(x, 5)[20:]).any()


def test_threads_change_no_bit(rng, set_threads):
    for shape, axis in (((70_000,), 0), ((40_000, 2), 0), ((3, 20_000), 1)):
        x, found = rng.standard_normal(shape), []
        for threads in (1, 2):
            set_threads(threads)
            found.append(kama(x, axis=axis))
        assert_same_bits(*found)

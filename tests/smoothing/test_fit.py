"""Fits of Holt and Winters' method beside scipy's least squares, statsmodels' fits, and factors that made the data."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import least_squares

from fastrecur._cpu.kernels.seasons import plain
from fastrecur.smoothing import HoltWintersFit, fit_holt_winters, forecast, holt_winters

MODELS = [
    {"period": 4}, {"period": 4, "seasonal": "mul"}, {"period": 4, "damped": True}, {"period": 4, "trend": False}, {},
    {"damped": True}, {"trend": False}, {"period": 4, "trend": False, "seasonal": "mul"},
]  # fmt: skip
MODEL = pytest.mark.parametrize("model", MODELS, ids=lambda model: "-".join(map(str, model.values())) or "trend")


# statsmodels 0.15.0: the sums of squares of ExponentialSmoothing(x, trend="add", seasonal=..., damped_trend=...,
# seasonal_periods=12, initialization_method="estimated").fit(), of 48 steps that `draw` makes.
STATSMODELS = {
    ("add", False): 103.259852, ("add", True): 108.058271, ("mul", False): 110.861049, ("mul", True): 107.924117,
    (None, False): 7437.103208, (None, True): 7427.231544,
}  # fmt: skip


def draw(rng, steps, series, period=4, sigma=1.0, multiply=False):
    """Return series of the model's own errors, (steps, series), and alpha, beta and gamma that made them."""
    alpha, beta, gamma = rng.uniform([[0.1], [0.05], [0.05]], [[0.8], [0.3], [0.4]], (3, series))
    level, trend = 1000 + 10 * rng.standard_normal(series), rng.standard_normal(series) / 4
    season = 10 * rng.standard_normal((period, series))
    season = 1 + season / 100 if multiply else season
    x = np.empty((steps, series))
    for row, now in zip(x, np.resize(np.arange(period), steps), strict=True):
        base, error = level + trend, sigma * rng.standard_normal(series)
        row[:] = (base * season[now] if multiply else base + season[now]) + error
        if multiply:
            level, season[now] = base + alpha * error / season[now], season[now] + gamma * error / base
        else:
            level, season[now] = base + alpha * error, season[now] + gamma * error
        trend = trend + beta * (level - base)
    return x, (alpha, beta, gamma)


def sum_of_squares(x, fit):
    found = holt_winters(x, **fit.arguments)
    return np.where(np.isfinite(x), x - found.forecast, 0).__pow__(2).sum(fit.axis, keepdims=True)


@MODEL
def test_sums_are_those_of_the_model(rng, model):
    x, _ = draw(rng, 40, 5, multiply=model.get("seasonal") == "mul")
    fit = fit_holt_winters(x, **model)
    assert isinstance(fit, HoltWintersFit) and fit.converged.all()
    np.testing.assert_allclose(fit.sse, sum_of_squares(x, fit), rtol=1e-12)
    assert (fit.phi == 1).all() or (model.get("damped") and ((fit.phi >= 0.8) & (fit.phi <= 0.998)).all())
    assert (fit.beta is None) == (fit.trend is None) == (model.get("trend") is False)
    assert (fit.gamma is None) == (fit.season is None) == ("period" not in model)
    if fit.season is not None:
        np.testing.assert_allclose(fit.season.mean(0), model.get("seasonal") == "mul", rtol=1e-12, atol=1e-12)


@MODEL
def test_scipy_finds_nothing_better_nearby(rng, model):
    """From where a fit ended, with all parameters free within the same bounds, one series at a time."""
    multiply, trend, damped = model.get("seasonal") == "mul", model.get("trend", True), model.get("damped", False)
    x, _ = draw(rng, 40, 3, multiply=multiply)
    fit, seasons = fit_holt_winters(x, **model), "period" in model
    for k in range(3):

        def take(v, k=k):
            return np.zeros((0,)) if v is None else v[:, k]

        parts = [fit.alpha, fit.beta, fit.phi if damped else None, fit.gamma, fit.level, fit.trend, fit.season]
        low = [0.0] + [0.0] * trend + [0.8] * damped + [0.0] * seasons
        high = [1.0] + [1.0] * trend + [0.998] * damped + [1.0] * seasons
        factors = len(low)
        more = sum(map(len, map(take, parts))) - factors

        def errors(p, k=k, factors=factors):
            own = dict(zip(("alpha", *["beta"] * trend, *["phi"] * damped, *["gamma"] * seasons), p, strict=False))
            level, *rest = p[factors:]
            slope = rest.pop(0) if trend else 0.0
            season = np.array(rest) if seasons else np.zeros(1)
            constants = own["alpha"], own.get("beta", 0.0), own.get("phi", 1.0), own.get("gamma", 0.0)
            (found, *_), _ = plain(x[:, k], *constants, np.array(level), np.array(slope), season, multiply)
            return found - x[:, k]

        start = np.concatenate([take(v) for v in parts])
        bounds = [*low, *[-np.inf] * more], [*high, *[np.inf] * more]
        better = least_squares(errors, start, "3-point", bounds=bounds, x_scale="jac", max_nfev=30)
        assert fit.sse[0, k] <= 2 * better.cost * (1 + 1e-5)


@pytest.mark.parametrize("multiply", [False, True])
def test_near_what_made_the_data(multiply):
    """No worse than the factors that made the data, with the first state's own; medians near them."""
    rng = np.random.default_rng(7)
    x, made = draw(rng, 400, 24, sigma=0.1, multiply=multiply)
    fit = fit_holt_winters(x, 4, seasonal="mul" if multiply else "add")
    assert (fit.sse / len(x) < 1.2 * 0.1**2).all()
    for one, other in zip((fit.alpha, fit.beta, fit.gamma), made, strict=True):
        assert np.median(abs(one[0] - other)) < 0.06


def test_as_good_as_statsmodels():
    x, _ = draw(np.random.default_rng(3), 48, 1, 12, 2.0)
    for (seasonal, damped), theirs in STATSMODELS.items():
        fit = fit_holt_winters(x[:, 0], 12 if seasonal else None, seasonal=seasonal, damped=damped)
        assert fit.sse[0] <= theirs * (1 + 1e-7)


def test_any_axis_order_and_dtype(rng):
    x, _ = draw(rng, 30, 70)
    fit = fit_holt_winters(x, 4)
    turned = fit_holt_winters(x.T.reshape(7, 10, 30), 4, axis=-1)
    assert turned.axis == 2 and turned.alpha.shape == (7, 10, 1) and turned.season.shape == (7, 10, 4)
    for one, other in zip(fit[:9], turned[:9], strict=True):
        np.testing.assert_array_equal(one, np.moveaxis(other, -1, 0).reshape(one.shape))
    alone = fit_holt_winters(x[::-1][::-1, 5], 4)
    assert alone.alpha.shape == (1,) and alone.season.shape == (4,)
    np.testing.assert_allclose(alone.sse, fit.sse[:, 5], rtol=1e-9)
    single = fit_holt_winters(x.astype(np.float32), 4)
    np.testing.assert_allclose(single.sse, fit.sse, rtol=1e-3)
    assert single.alpha.dtype == np.float64
    large = fit_holt_winters(1e6 + 1e3 * x, 4)  # neither where nor how large they are matters
    np.testing.assert_allclose(large.sse / 1e6, fit.sse, rtol=1e-4)
    np.testing.assert_array_equal(fit_holt_winters(x.round().astype(int), 4).sse, fit_holt_winters(x.round(), 4).sse)


def test_missing_values(rng):
    x, _ = draw(rng, 40, 5)
    whole = x.copy()
    x[[1, 9], 0] = x[:4, 1] = x[:, 2] = x[20, 3] = np.nan
    x[21, 3] = np.inf
    given = x.copy()
    fit = fit_holt_winters(x, 4)
    np.testing.assert_array_equal(x, given)
    assert fit.converged[0].tolist() == [True, True, False, True, True]
    assert np.isnan(fit.level[0]).tolist() == [False, False, True, False, False]
    rest = [0, 1, 3, 4]
    np.testing.assert_allclose(fit.sse[:, rest], sum_of_squares(x, fit)[:, rest], rtol=1e-12)
    np.testing.assert_array_equal(fit.sse[:, 4], fit_holt_winters(whole, 4).sse[:, 4])


def test_exact_series():
    """What the model explains without errors, values that never change, and no series."""
    t = np.arange(24)
    x = 50.0 + 2.0 * t + np.tile([9.0, -4.0, -8.0, 3.0], 6)
    fit = fit_holt_winters(x, 4)
    assert fit.sse < 1e-12 and fit.converged
    _, state = holt_winters(x, **fit.arguments, return_state=True)
    np.testing.assert_allclose(forecast(state, 4), [107, 96, 94, 107], rtol=1e-6)
    for kind in ("add", "mul"):
        still = fit_holt_winters(np.full((24, 2), 3.0), 4, seasonal=kind)
        assert (still.sse == 0).all() and still.converged.all() and (still.level == 3).all()
    assert fit_holt_winters(np.zeros((24, 0)), 4).season.shape == (4, 0)
    assert fit_holt_winters([3.0]).sse == 0


def test_tables(rng):
    x, _ = draw(rng, 30, 3)
    frame = pd.DataFrame(x, columns=list("abc"))
    fit, found = fit_holt_winters(frame, 4), fit_holt_winters(x, 4)
    for one, other in zip(fit[:9], found[:9], strict=True):
        np.testing.assert_array_equal(one, other)
    pd.testing.assert_frame_equal(
        holt_winters(frame, **fit.arguments).forecast,
        pd.DataFrame(holt_winters(x, **found.arguments).forecast, columns=list("abc")),
    )
    np.testing.assert_array_equal(fit_holt_winters(frame["b"], 4).sse, fit_holt_winters(x[:, 1], 4).sse)


def test_callback(rng):
    x, _ = draw(rng, 12, 150)
    told = []
    fit_holt_winters(x, 4, callback=lambda done, total: told.append((done, total)))
    assert told == [(64, 150), (128, 150), (150, 150)]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_holt_winters(x, 4, callback=stop)
    assert fit_holt_winters(x[:, :3], 4).converged.shape == (1, 3)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"damped": 1}, TypeError, "`damped` must be True or False"),
        ({"trend": 0.5}, TypeError, "`trend` must be True or False"),
        ({"trend": False, "damped": True}, ValueError, "`damped=True` must have a trend, got `trend=False`"),
        ({"period": 30}, ValueError, "`x` must have two periods, 60 steps"),
        ({"period": 0}, ValueError, "`period` must be at least 1"),
        ({"seasonal": "multiplicative"}, ValueError, "`seasonal` must be"),
        ({"x": np.arange(-3.0, 40), "seasonal": "mul"}, ValueError, "`x` must satisfy: x > 0"),
        ({"axis": 2}, ValueError, "`axis`"),
        ({"x": np.ones(30) * 1j}, TypeError, "`x` must hold"),
        ({"x": torch.ones(30)}, TypeError, "`x` must be an array in CPU memory or a table, got torch.Tensor"),
        ({"seasnal": "add"}, TypeError, "did you mean `seasonal`"),
    ],
)
def test_errors(change, error, words):
    with pytest.raises(error, match=words):
        fit_holt_winters(**{"x": np.arange(1.0, 31), "period": 4} | change)

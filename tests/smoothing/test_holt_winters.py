"""Levels with seasons beside statsmodels' numbers and a plain loop, in any layout and dtype, and gradients."""

import dask.array as da
import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import repeated
import torch

from fastrecur._cpu import cost
from fastrecur._cpu.kernels.seasons import plain
from fastrecur.smoothing import HoltWinters, HoltWintersState, forecast, holt, holt_winters

# statsmodels 0.15.0: ExponentialSmoothing(X, trend="add", damped_trend=True, seasonal=..., seasonal_periods=3,
# initialization_method="known", initial_level=2.5, initial_trend=0.5, initial_seasonal=[0.9, 1.2, 1.1])
# .fit(0.3, 0.2, 0.1, damping_trend=0.9, optimized=False): its fittedvalues, level, trend and season.
X = np.array([3.0, 5.0, 4.0, 7.0, 8.0, 6.0, 9.0, 12.0])
START = {"phi": 0.9, "level": 2.5, "trend": 0.5, "season": [0.9, 1.2, 1.1]}
STATSMODELS = {
    "add": (
        [3.85, 4.2541, 4.7413386, 4.5210264756, 6.1165536133, 6.8875903465, 7.0196685858, 8.4459349103],
        [2.695, 3.27787, 3.41893702, 4.4497185329, 5.4069975293, 5.5954471025, 6.5508706576, 8.0492197986],
        [0.399, 0.403854, 0.318988284, 0.4358278671, 0.5052518636, 0.4014712564, 0.4801440156, 0.6453735194],
        [0.815, 1.27459, 1.02586614, 1.0628973524, 1.4629346387, 0.9371071054, 1.2609304939, 1.8183411476],
    ),
    "mul": (
        [2.655, 4.18884, 4.52443442, 3.9403624254, 7.1275252014, 7.0969359136, 6.4925418956, 9.7285154619],
        [3.065, 3.69349, 3.9700946309, 5.3288151733, 6.0407452804, 6.2247476253, 7.3739204212, 8.4072571388],
        [0.473, 0.466258, 0.3910266862, 0.5532833225, 0.5407500136, 0.4261404788, 0.5366557039, 0.5930594503],
        [0.9116949153, 1.223237746, 1.0872497243, 0.9824867795, 1.2382113038, 1.0704446794, 1.0204310004, 1.2671219618],
    ),
}
KINDS = pytest.mark.parametrize("kind", STATSMODELS)


def close(ours, wanted, rtol=1e-12):
    for one, other in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * 10)


def loop(x, constants, states, kind, axis=0):
    """Return what `holt_winters` does: constants are alpha, beta, phi and gamma, one for each series."""
    found, last = plain(np.moveaxis(x, axis, 0), *constants, *states, kind == "mul")
    return [np.moveaxis(v, 0, axis) for v in found], last


@KINDS
def test_as_statsmodels(kind):
    found = holt_winters(X, 0.3, 0.2, 0.1, period=3, seasonal=kind, **START)
    assert isinstance(found, HoltWinters)
    close(found, STATSMODELS[kind], 1e-9)


@KINDS
def test_start_as_statsmodels(kind):
    """The numbers are those of its ``_initialization_simple``."""
    season = {"add": [-1.0, 1.0, 0.0], "mul": [0.75, 1.25, 1.0]}[kind]
    close(
        holt_winters(X, 0.3, 0.2, 0.1, period=3, seasonal=kind),
        holt_winters(X, 0.3, 0.2, 0.1, period=3, seasonal=kind, level=4.0, trend=1.0, season=season), 1e-14,
    )  # fmt: skip


@KINDS
@pytest.mark.sample(shape=[(33, 70)])
@pytest.mark.parametrize(
    ("shape", "axis", "period"), [((75,), 0, 1), ((430, 40), 0, 12), ((33, 70), -1, 7), ((3, 71, 2), 1, 35)]
)
def test_any_axis(rng, kind, shape, axis, period):
    x, lanes = 1 + rng.random(shape), [*shape]
    lanes[axis] = 1
    constants = rng.random((4, *lanes))
    alpha, beta, phi, gamma = constants * 0.5
    first = 1 + rng.random((2 + period, *(n for k, n in enumerate(shape) if k != axis % len(shape))))
    states = {"level": first[0], "trend": first[1] / 10, "season": np.moveaxis(first[2:], 0, axis)}
    how = {"phi": phi, "period": period, "seasonal": kind, "axis": axis, "return_state": True}
    found, state = holt_winters(x, alpha, beta, gamma, **states, **how)
    squeezed = [v.squeeze(axis) for v in (alpha, beta, phi, gamma)]
    wanted, last = loop(x, squeezed, (first[0], first[1] / 10, first[2:]), kind, axis)
    close(found, wanted, 1e-11)
    close([v.squeeze(axis) for v in state[:2]], last[:2], 1e-11)
    close([np.moveaxis(state.season, axis, 0)], last[2:], 1e-11)
    wide = np.flip(np.repeat(x, 2, -1)[..., ::-2], -1)
    close(holt_winters(wide, alpha, beta, gamma, **states, **how)[0], found, 0)


@pytest.mark.exhaustive
@KINDS
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.int16, ">f8"])
def test_dtypes(rng, kind, dtype):
    x = (4 + rng.random((20, 17)) * 8).astype(dtype)
    result = holt_winters(x, 0.3, 0.2, 0.1, period=4, seasonal=kind)
    numpy_kind = np.dtype(dtype).newbyteorder("=") if np.dtype(dtype).kind in "fV" else np.dtype(np.float64)
    assert [v.dtype for v in result] == [numpy_kind] * 4
    wanted = holt_winters(x.astype(np.float64), 0.3, 0.2, 0.1, period=4, seasonal=kind)
    close((v.astype(np.float64) for v in result), wanted, 2 * float(ml_dtypes.finfo(numpy_kind).eps))


@KINDS
@pytest.mark.parametrize("cut", [1, 6, 11, 30])
def test_a_series_goes_on_from_its_state(rng, kind, cut):
    x, how = (1 + rng.random((30, 3))).astype(np.float32), {"period": 4, "seasonal": kind, "return_state": True}
    start = {"level": 1.5, "trend": 0.01, "season": 1 + rng.random((4, 1))}
    whole, end = holt_winters(x, 0.3, 0.2, 0.1, **start, **how)
    first, state = holt_winters(x[:cut], 0.3, 0.2, 0.1, **start, **how)
    rest, state = holt_winters(x[cut:], 0.3, 0.2, 0.1, level=state.level, trend=state.trend, season=state.season, **how)
    close((np.concatenate(v) for v in zip(first, rest, strict=True)), whole, 0)
    close(state[:3], end[:3], 0)


@KINDS
@pytest.mark.parametrize("axis", [0, 1])
def test_forecasts_are_those_of_missing_values(rng, kind, axis):
    x = 1 + rng.random((20, 20))
    phi = rng.random(20)[:, None] if axis else rng.random(20)
    how = {"period": 5, "seasonal": kind, "phi": phi, "axis": axis, "return_state": True}
    found, state = holt_winters(x, 0.3, 0.2, 0.1, **how)
    missing = np.full((20, 13) if axis else (13, 20), np.nan)
    wanted, _ = holt_winters(missing, 0.3, 0.2, 0.1, level=state.level, trend=state.trend, season=state.season, **how)
    close([forecast(state, 13)], [wanted.forecast], 1e-13)
    assert state.axis == axis and state.season.shape == ((20, 5) if axis else (5, 20))


def test_missing_values_are_predicted(rng):
    x = rng.standard_normal((24, 3))
    x[[1, 9], 0] = x[:4, 1] = x[7, 2] = np.nan
    x[20, 2] = np.inf
    found = holt_winters(x, 0.3, 0.2, 0.1, period=4)
    first = x[:4, 0][[0, 2, 3]]
    slope = ((x[4:8] - x[:4])[[0, 2, 3], 0] / 4).mean()
    season = np.where(np.isfinite(x[:4, 0]), x[:4, 0] - first.mean(), 0)
    start = np.array(first.mean()), np.array(slope), season
    close([v[:, 0] for v in found], loop(x[:, 0], (0.3, 0.2, 1.0, 0.1), start, "add")[0])
    assert np.isnan(found.level[:, 1]).all()  # of a period without values there is no mean
    assert np.isfinite(found.forecast[:, 2]).all()


def test_without_seasons_or_trend():
    found, state = holt_winters(X, 0.3, 0.2, phi=0.9, return_state=True)
    close((found.level, found.trend), holt(X, 0.3, 0.2, phi=0.9))
    assert isinstance(state, HoltWintersState) and state.season is state.seasonal is None and not found.season.any()
    close([found.forecast[1:]], [(found.level + 0.9 * found.trend)[:-1]], 1e-14)
    assert forecast(state, 2).tolist() == pytest.approx(
        [state.level[0] + 0.9 * state.trend[0], state.level[0] + (0.9 + 0.81) * state.trend[0]]
    )
    flat, state = holt_winters(X, 0.3, return_state=True)
    assert state.trend is None and not flat.trend.any()
    close([flat.level], [holt(X, 0.3, 0, trend=0)[0]])
    assert (forecast(state, 3) == flat.level[-1]).all()
    given, _ = holt_winters(X, 0.3, level=state.level, trend=state.trend, season=state.season, return_state=True)
    assert given.forecast[0] == flat.level[-1]


@KINDS
def test_dask(rng, kind):
    x = 1 + rng.random((41, 5))
    lazy, how = da.from_array(x, chunks=(7, 2)), {"period": 4, "seasonal": kind, "phi": 0.9, "return_state": True}
    for start in ({}, {"level": 1.0, "trend": np.full(5, 0.1), "season": np.ones((4, 5))}):
        found, state = holt_winters(lazy, 0.3, da.full((1, 5), 0.2, chunks=3), 0.1, **how, **start)
        wanted, end = holt_winters(x, 0.3, 0.2, 0.1, **how, **start)
        assert all(isinstance(v, da.Array) for v in (*found, *state[:3]))
        close((v.compute() for v in (*found, *state[:3])), (*wanted, *end[:3]), 1e-14)
        close([forecast(state, 6).compute()], [forecast(end, 6)], 1e-14)


def test_labelled():
    frame = pd.DataFrame({"a": X, "b": X[::-1]}, index=pd.date_range("2024", periods=8))
    found, state = holt_winters(frame, pd.Series({"b": 0.6, "a": 0.3}), 0.2, 0.1, period=3, return_state=True)
    assert found.season.index is frame.index
    close(found, holt_winters(frame.to_numpy(), [0.3, 0.6], 0.2, 0.1, period=3), 0)
    assert forecast(state, 4).shape == (4, 2)


@pytest.mark.exhaustive
@KINDS
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_streamed_results_are_the_same(rng, monkeypatch, kind, dtype):
    """At lines' beginnings, and at the addresses between that slices have; 70 series, which are vectors and a rest."""
    how, cases = {"period": 4, "seasonal": kind}, []
    for x, axis in ((1 + rng.random((33, 64)), 0), (1 + rng.random((70, 96)), 1), (1 + rng.random((3, 17, 32)), 1)):
        x = x.astype(dtype)
        cases += [(x, axis), (x[..., 1:], axis), (x.T, x.ndim - 1 - axis), (np.asfortranarray(x), axis)]
    wanted = [holt_winters(x, 0.3, 0.2, 0.1, axis=axis, **how) for x, axis in cases]
    monkeypatch.setattr(cost, "is_streamed", lambda _: True)
    repeated.forget()
    for (x, axis), own in zip(cases, wanted, strict=True):
        close(holt_winters(x, 0.3, 0.2, 0.1, axis=axis, **how), own, 0)
    repeated.forget()


def operands_of(rng, kind):
    x = torch.from_numpy(2 + rng.random((9, 3)))
    free = [torch.rand(n, dtype=torch.float64) for n in [(3,), (), (1, 3), (3,), (3,), (3,), (4, 3)]]
    return [v.requires_grad_() for v in (x, *free)]


def run(kind, x, alpha, beta, gamma, phi, level, trend, season):
    start = {"level": 2 + level, "trend": trend, "season": 1 + season}
    found, state = holt_winters(x, alpha, beta, gamma, phi=phi, period=4, seasonal=kind, **start, return_state=True)
    return *found, *state[:3], forecast(state, 5)


@KINDS
def test_gradients(rng, kind):
    torch.manual_seed(1)
    operands = operands_of(rng, kind)

    def call(*operands):
        return run(kind, *operands)

    assert torch.autograd.gradcheck(call, operands)
    assert torch.autograd.gradgradcheck(call, operands, fast_mode=True)
    missing = torch.zeros(9, 3, dtype=torch.bool)
    missing[1, 1] = missing[5, 2] = True
    assert torch.autograd.gradcheck(lambda x, *v: call(torch.where(missing, torch.nan, x), *v), operands)


@KINDS
def test_a_start_has_gradients(rng, kind):
    x = torch.from_numpy(2 + rng.random((9, 3))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: holt_winters(x, 0.3, 0.2, 0.1, period=4, seasonal=kind), [x])


@KINDS
def test_transforms_and_compilers(rng, kind):
    operands = [v.detach() for v in operands_of(rng, kind)]

    def call(*operands):
        return run(kind, *operands)

    wanted = call(*operands)
    close((v.numpy() for v in torch.compile(call, backend="aot_eager", fullgraph=True)(*operands)), wanted, 1e-12)
    both = [torch.stack([v, v / 2]) for v in operands]
    for k in (0, 1):
        each = (v[k] for v in torch.func.vmap(call)(*both))
        close((v.numpy() for v in each), (v.numpy() for v in call(*(v[k] for v in both))), 1e-12)
    rows = torch.func.vmap(lambda x: call(x, *operands[1:])[0])(both[0])
    close([rows[0].numpy()], [wanted[0].numpy()], 1e-12)

    def loss(*v):
        return call(*v)[0].square().sum()

    found = torch.func.grad(loss, argnums=tuple(range(8)))(*operands)
    own = [v.clone().requires_grad_() for v in operands]
    close((v.numpy() for v in found), (v.numpy() for v in torch.autograd.grad(loss(*own), own)), 1e-12)
    assert [v.shape for v in call(*(v.to("meta") for v in operands))] == [v.shape for v in wanted]


@KINDS
def test_kernel_s_gradients_are_those_of_its_steps(rng, kind):
    """In float32, with rows and columns in the order of memory, of all results at once and of one."""
    from fastrecur.torch._operator import levels

    x = torch.from_numpy((2 + rng.random((40, 37))).astype(np.float32))
    first, constants = torch.rand(9, 37, dtype=torch.float64) + 1, torch.rand(4, 37, dtype=torch.float64) / 2
    given = x, x.T.contiguous().T
    cotangents = [torch.randn_like(x) for _ in range(4)] + [torch.randn(9, 37, dtype=torch.float64)]
    for own in given:
        results = levels.holt_winters(own, first, constants, kind == "mul", 0)
        for grads in (cotangents, [cotangents[0].T.contiguous().T, *[None] * 4], [None] * 4 + cotangents[4:]):
            call = *grads, own, first, constants, *results[:4], kind == "mul", 0
            found = torch.ops.fastrecur.holt_winters_backward(*call)
            for one, other in zip(found, levels._seasons_adjoint(*call), strict=True):
                torch.testing.assert_close(one, other.to(one.dtype), rtol=2e-4, atol=2e-4)


def test_empty():
    for shape in [(0, 3), (5, 0)]:
        start = {"level": np.ones(shape[1]), "trend": 0.0, "season": np.zeros((4, 1))}
        found, state = holt_winters(np.zeros(shape), 0.3, 0.2, 0.1, period=4, **start, return_state=True)
        assert [v.shape for v in found] == [shape] * 4 and state.season.shape == (4, shape[1])
        x = torch.zeros(shape, requires_grad=True)
        found, state = holt_winters(x, 0.3, 0.2, 0.1, period=4, **start, return_state=True)
        (grad,) = torch.autograd.grad(state.level.sum() + found.forecast.sum(), x)
        assert grad.shape == shape


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"alpha": 1.5}, ValueError, "`alpha` must satisfy: 0 <= alpha <= 1"),
        ({"gamma": -0.1}, ValueError, "`gamma` must satisfy: 0 <= gamma <= 1"),
        ({"seasonal": "multiplicative"}, ValueError, "`seasonal` must be"),
        ({"period": None}, ValueError, "`period` must be given where `gamma` is"),
        ({"gamma": None}, ValueError, "`gamma` must be given where `period` is"),
        ({"seasonal": None}, ValueError, "`gamma` must not be given where `seasonal` is None"),
        ({"beta": None, "trend": 1.0}, ValueError, "`trend` must not be given where `beta` is None"),
        ({"period": 5}, ValueError, "`x` must have two periods, 10 steps"),
        ({"period": 0}, ValueError, "`period` must be at least 1"),
        ({"season": [1.0, 2.0]}, ValueError, "`season` must have the shape"),
        ({"x": X - 3, "seasonal": "mul"}, ValueError, "`x` must satisfy: x > 0"),
        ({"x": X + 1j}, TypeError, "`x`"),
        ({"return_state": 1}, TypeError, "`return_state`"),
    ],
)
def test_errors(change, error, words):
    given = {"x": X, "alpha": 0.3, "beta": 0.2, "gamma": 0.1, "period": 3} | change
    with pytest.raises(error, match=words):
        holt_winters(**given)
    with pytest.raises(ValueError, match="`steps` must be at least 1"):
        forecast(holt_winters(X, 0.3, return_state=True)[1], 0)

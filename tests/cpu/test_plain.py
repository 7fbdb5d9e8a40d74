"""The plain loops with which files of kernels begin, for readers: they compute what the kernels do."""

import numpy as np
import pytest

import fastrecur
from fastrecur import filters, returns, smoothing
from fastrecur._cpu import weighted_run
from fastrecur._cpu.kernels import (
    advantages,
    decays,
    kaufman,
    poles,
    pool,
    rows,
    sections,
    sections_back,
    selective,
    weighted,
)
from fastrecur._plan import problem
from fastrecur.smoothing import _kaufman as kaufman_run

CLOSE = {"rtol": 1e-12, "atol": 1e-13}
# Steps, series, axis, the order of gates in memory, and the traversal that takes these.
WAYS = {
    "wide": (9, 40, 0, "C", problem.ROWS),
    "narrow": (9, 5, 0, "C", problem.ROWS),
    "transpose8": (40, 20, 1, "C", problem.TRANSPOSE8),
    "packed": (40, 20, 0, "F", problem.PACKED),
    "scan": (5000, 1, 0, "C", problem.SCAN),
}


@pytest.mark.sample(rule=["forget_wide"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("name", "rule"), [("forget_mult", "forget_same"), ("forget_mult", "forget_wide"), ("linear_recurrence", "linear")]
)
def test_recurrences(rng, monkeypatch, forget_plans, way, name, rule):
    steps, series, axis, order, traversal = WAYS[way]
    a, (b, g) = rng.random((steps, series)), rng.standard_normal((2, steps, series))
    first, r = rng.standard_normal((2, series))
    dtype = np.float32 if rule == "forget_wide" else np.float64
    a, b, g, first, r = (v.astype(dtype) for v in (a, b, g, first, r))
    wide = [v.astype(np.float64) for v in (a, b, g, first, r)]
    h, states, to_a, to_b = np.empty_like(wide[0]), wide[3].copy(), *np.empty((2, steps, series))
    rows.plain(rule, *wide[:2], h, states)

    planned, plan = [], problem.Plan
    monkeypatch.setattr(problem, "Plan", lambda *args, **kw: planned.append(plan(*args, **kw)) or planned[-1])
    forget_plans()
    turned = [v.T.copy() if axis else v.copy(order if v is a else "C") for v in (a, b, g)]
    options = {"axis": axis}
    got, last = getattr(fastrecur, name)(*turned[:2], first, return_state=True, **options)
    grads = getattr(fastrecur, name + "_vjp")(turned[2], *turned[:2], got, first, grad_state=r, **options)
    assert [p.traversal for p in planned] == [traversal] * len(planned)
    assert planned

    close = CLOSE if dtype == np.float64 else {"rtol": 3e-7, "atol": 1e-6}
    np.testing.assert_allclose(got.T if axis else got, h, **close)
    np.testing.assert_allclose(last, states, **close)
    states = wide[4].copy()
    rows.plain_vjp(rule, wide[2], *wide[:2], h, wide[3], states, to_a, to_b)
    for grad, wanted in zip(grads, (to_a, to_b, states), strict=True):
        np.testing.assert_allclose(grad.T if axis and grad.ndim > 1 else grad, wanted, **close)


@pytest.mark.parametrize("options", [{"adjust": True}, {"adjust": False}, {"adjust": True, "ignore_na": True}])
def test_weighted_statistics(rng, options):
    x = rng.standard_normal((30, 20))
    x[rng.random(x.shape) < 0.2] = np.nan
    rule = " ".join(word for word, on in options.items() if on)
    means, variances = np.empty((2, *x.shape))
    weighted.plain(rule, x, np.float64(0.7 if options["adjust"] else 0.3), means, variances, 2)
    options = options | {"alpha": 0.3, "min_periods": 2, "axis": 0}
    np.testing.assert_allclose(smoothing.ewm_mean(x, **options), means, **CLOSE)
    np.testing.assert_allclose(smoothing.ewm_var(x, **options), variances, **CLOSE)


def test_pooling(rng):
    torch = pytest.importorskip("torch")
    from fastrecur.torch._rnn import pooling

    product, first = rng.standard_normal((7, 3, 3 * 20)), rng.standard_normal((3, 20))
    g, carry = rng.standard_normal((7, 3, 20)), first.copy()
    ours, c0 = (torch.tensor(v, requires_grad=True) for v in (product, first))
    h, last = pooling.pool(ours, c0)
    h.backward(torch.tensor(g))
    plain, states, to_product, r = np.empty(h.shape), np.empty(h.shape), np.empty(product.shape), np.zeros((3, 20))
    for t in range(len(product)):  # whose states are asked for, too
        pool.plain(product[t : t + 1], 0.0, 1.0, plain[t : t + 1], carry)
        states[t] = carry
    np.testing.assert_allclose(h.detach(), plain, **CLOSE)
    np.testing.assert_allclose(last.detach(), carry, **CLOSE)
    pool.plain_vjp(g, product, 1.0, states, first, r, to_product)
    np.testing.assert_allclose(ours.grad, to_product, **CLOSE)
    np.testing.assert_allclose(c0.grad, r, **CLOSE)


@pytest.mark.parametrize("series", [1, 5, 40])
def test_advantages(rng, series):
    rewards, values, ends = rng.random((12, series)), rng.random((13, series)), rng.random((12, series)) < 0.2
    same, flags, h = np.ones(rewards.shape), ends.astype(float), np.empty(rewards.shape)
    step = advantages.Step(rewards, values[:-1], same, same, 0.9 * same, 0.8 * same, flags, flags, same)
    advantages.plain(step, values[1:], h)
    np.testing.assert_allclose(returns.gae(rewards, values, 0.9, 0.8, ends), h, **CLOSE)


@pytest.mark.parametrize("period", [1, 7, 10])
def test_kaufman(rng, period):
    x = rng.standard_normal((40, 20))
    gates, got = np.empty((2, 40 - period, 20))
    kaufman.plain(x, gates, period, 0.1, 0.5)
    kaufman_run._write_gates(x, got, period, 0.6, 0.1, 0)
    np.testing.assert_allclose(got, gates, **CLOSE)


def test_decays(rng):
    times = np.cumsum(rng.random(100))
    wanted = np.ones(100)
    decays.plain(times, wanted, 3.0, np.log2(0.7))
    np.testing.assert_allclose(weighted_run.decays(times, 0.0, 3.0, 0.3), wanted, **CLOSE)


def test_selective_scan(rng):
    u, delta, z = rng.standard_normal((3, 9, 20)).astype(np.float32)
    (B, C), A, D = rng.standard_normal((2, 9, 3)), -rng.random((20, 3)), rng.standard_normal(20)
    A, B, C, D = (v.astype(np.float32) for v in (A, B, C, D))
    state, y = np.zeros((20, 3), np.float32), np.empty_like(u)
    selective.plain(u, delta, A, B, C, D, z, state, y)
    given = (u[None], delta[None], A, B[None], C[None], D, z[None])
    got = fastrecur.selective_scan(*given, delta_softplus=True, layout="bld", return_state=True)
    for actual, wanted in zip(got, (y, state), strict=True):
        np.testing.assert_allclose(actual[0], wanted, rtol=1e-5, atol=1e-6)


def assert_all_close(got, *wanted):
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)


def test_sections(rng):
    sos = np.array([[0.5, 0.3, -0.2, 1, -0.6, 0.2], [1, 0.2, 0, 1, 0.4, 0.1]])
    (x, g), z, adjoint = rng.standard_normal((2, 40, 3)), *rng.standard_normal((2, 2, 2, 3))
    zi, y, to_x, sums = z.copy(), np.empty_like(x), np.empty_like(x), np.zeros((5, 3))
    sections.plain(x, sos, z, y)
    assert_all_close(filters.sosfilt(sos, x, 0, zi), y, z)
    got = filters.sosfilt_vjp(g, sos[:1], x, x, zi[:1], axis=0, grad_zf=adjoint[:1])
    sections_back.plain(g, x, zi[0], sos[0], adjoint[0], to_x, sums)
    assert_all_close(got, np.insert(sums.sum(1), 3, 0)[None], to_x, adjoint[:1])


@pytest.mark.parametrize("order", [2, pytest.param(3, marks=pytest.mark.exhaustive)])
def test_poles(rng, order):
    (x, g), a = rng.standard_normal((2, 9, 3)), 0.3 * rng.standard_normal((9, order, 3))
    past, adjoint = rng.standard_normal((2, order, 3))
    zi, y, to_x, to_a, series_last = past.copy(), np.empty_like(x), np.empty_like(x), np.empty_like(a), a.swapaxes(1, 2)
    poles.plain(x, a, past, y)
    assert_all_close(filters.allpole(series_last, x, 0, zi), y, past)
    got = filters.allpole_vjp(g, series_last, x, y, zi, axis=0, grad_zf=adjoint)
    poles.plain_vjp(g, a, y, zi, adjoint, to_x, to_a)
    assert_all_close(got, to_a.swapaxes(1, 2), to_x, adjoint)

"""Gradients of tensors."""

import functools
import itertools

import numpy as np
import pytest
import torch

from fastrecur.smoothing import ewm_corr, ewm_cov, ewm_mean, ewm_std, ewm_sum, ewm_var


def tensors(seed=0, missing=True):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(7, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    if missing:
        x[0, 1] = x[2, 0] = x[3, 0] = x[4, 2] = float("nan")
    alpha = torch.rand(7, 3, dtype=torch.float64, generator=generator) * 0.8 + 0.1
    return x, y, alpha


def check(function, *inputs):
    """gradcheck, with what is missing held fixed and NaN results left out."""

    def finite(*values):
        result = function(*values)
        return torch.where(torch.isnan(result), torch.zeros_like(result), result)

    inputs = [v.clone().requires_grad_() for v in inputs]
    assert torch.autograd.gradcheck(finite, inputs)
    return torch.autograd.grad(finite(*inputs).sum(), inputs)


@pytest.mark.parametrize("adjust", [True, False])
@pytest.mark.parametrize("ignore_na", [True, False])
def test_mean(adjust, ignore_na):
    x, _, alpha = tensors()
    seen = ~torch.isnan(x)

    def mean(values, alpha):
        filled = torch.full_like(values, float("nan")).masked_scatter(seen, values[seen])
        return ewm_mean(filled, alpha=alpha, adjust=adjust, ignore_na=ignore_na)

    grad_x, grad_alpha = check(mean, torch.nan_to_num(x), alpha)
    assert (grad_x[~seen] == 0).all()
    assert torch.isfinite(grad_alpha).all()
    x.requires_grad_()
    ewm_mean(x, alpha=alpha, adjust=adjust, ignore_na=ignore_na).nansum().backward()
    assert (x.grad[~seen] == 0).all()
    torch.testing.assert_close(x.grad, grad_x)


def test_a_gap_s_gates_get_a_gradient():
    x = torch.tensor([1.0, float("nan"), 3.0], dtype=torch.float64)
    alpha = torch.full((3,), 0.5, dtype=torch.float64, requires_grad=True)
    ewm_mean(x, alpha=alpha, adjust=False)[2].backward()
    assert alpha.grad[1] != 0


@pytest.mark.parametrize("shape", [(), (7, 1), (4,), (7, 4)])
@pytest.mark.parametrize(
    ("statistic", "adjust"),
    [(ewm_sum, True), *itertools.product([ewm_mean, ewm_var, ewm_std, ewm_cov, ewm_corr], [True, False])],
)
@pytest.mark.parametrize("least", [0, 3])
def test_a_missing_sample_changes_nothing_in_other_series(statistic, adjust, shape, least):
    """Where nothing is missing there are no masks, and series share what they weigh."""
    generator = torch.Generator().manual_seed(1)
    whole, other = (torch.randn(7, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    alpha = torch.rand(shape, dtype=torch.float64, generator=generator) * 0.8 + 0.1
    missing = whole.clone()
    missing[4, 3] = float("nan")

    def results(x):
        inputs = [v.clone().requires_grad_() for v in (x, other, alpha)]
        pair = inputs[:2] if statistic in (ewm_cov, ewm_corr) else inputs[:1]
        y = statistic(*pair, alpha=inputs[2], adjust=adjust, min_periods=least)[:, :3]
        grads = torch.autograd.grad(y[3:].sum(), [*pair, inputs[2]])
        return [y.detach(), *(g[:, :3] if g.shape == x.shape else g[:3] if g.shape == (4,) else g for g in grads)]

    for got, expected in zip(results(whole), results(missing), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-13, equal_nan=True)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_a_deviation_of_zero_has_the_derivative_zero(alpha):
    """As that of `torch.std`: in a constant series, and where one sample has all the weight."""
    x = torch.full((6, 2), 3.0, dtype=torch.float64)
    x[3:, 1] = 5.0
    function = functools.partial(ewm_std, alpha=alpha, bias=True)
    moving = (ewm_var(x, alpha=alpha, bias=True) > 0).any().item()
    assert moving == (alpha < 1)
    wanted = torch.func.grad(lambda x: function(x[:, 1:])[3:].sum())(x) if moving else torch.zeros_like(x)
    (grad,) = torch.autograd.grad(function(x.requires_grad_()).sum(), x)
    torch.testing.assert_close(grad, wanted, rtol=1e-12, atol=0)
    whole, tangent = torch.func.jvp(function, (x.detach(),), (torch.ones_like(x),))
    assert tangent.abs().max() < 1e-12
    torch.testing.assert_close(whole, ewm_std(x.detach(), alpha=alpha, bias=True), rtol=1e-12, atol=0)


def test_times_and_alpha():
    x, _, alpha = tensors(missing=False)
    times = np.arange(7.0) ** 1.5
    check(lambda x, alpha: ewm_mean(x, alpha=alpha, halflife=2.0, times=times), x, alpha)


def test_a_learned_alpha_converges():
    """Of a series that was smoothed with one factor, that factor is found."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, generator=generator)
    target = ewm_mean(x, alpha=0.25)
    logit = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.Adam([logit], lr=0.1)
    for _ in range(100):
        loss = (ewm_mean(x, alpha=torch.sigmoid(logit)) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert abs(torch.sigmoid(logit).item() - 0.25) < 1e-2


@pytest.mark.parametrize("resets", [None, np.arange(40) % 10 == 0])
@pytest.mark.parametrize("adjust", [True, False])
def test_series_far_from_0_that_begin_with_a_missing_value(adjust, resets):
    x, y = np.random.default_rng(0).standard_normal((2, 40, 3)) + 1e8
    x[[0, 1, 10, 25, 30]] = np.nan
    how = {"alpha": 0.3, "adjust": adjust, "resets": resets}
    for statistic in (ewm_cov, ewm_corr):
        wanted = statistic(x, y, **how)
        found = statistic(torch.from_numpy(x).requires_grad_(), torch.from_numpy(y), **how)
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-10)
        constant = torch.tensor([[48.6, 1.7, 0.1]], dtype=torch.float64)  # which varies by nothing at all
        assert statistic(torch.from_numpy(x).requires_grad_(), constant, **how).nan_to_num().abs().max() == 0
    found = ewm_var(torch.from_numpy(x).requires_grad_(), **how).detach().numpy()
    np.testing.assert_allclose(found, ewm_var(x, **how), rtol=1e-10)

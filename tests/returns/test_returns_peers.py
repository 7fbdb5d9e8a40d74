"""The numbers of torchrl and rlax, where these are installed: neither is among the tests' requirements."""

import numpy as np
import pytest
import torch

from fastrecur import returns

STEPS, ENVIRONMENTS = 40, 3


@pytest.fixture
def rollout(rng):
    shape = STEPS, ENVIRONMENTS
    rewards, values, next_values, log_rhos = rng.standard_normal((4, *shape))
    return rewards, values, next_values, log_rhos, rng.random(shape) < 0.1, rng.random(shape) < 0.1


def test_torchrl(rollout):
    functional = pytest.importorskip("torchrl.objectives.value.functional", reason="torchrl is not installed")
    rewards, values, next_values, log_rhos, ends, cuts = rollout
    # torchrl's arrays are (environments, T, 1).
    own = [torch.tensor(np.moveaxis(v, 0, 1)[..., None]) for v in (values, next_values, rewards, ends | cuts, ends)]
    for function in (functional.generalized_advantage_estimate, functional.vec_generalized_advantage_estimate):
        advantages, _ = function(0.9, 0.8, *own)
        ours = returns.gae(rewards, values, 0.9, 0.8, ends, cuts, next_values=next_values)
        np.testing.assert_allclose(ours, advantages[..., 0].numpy().T, rtol=1e-6, atol=1e-6)
    # Its lambda returns know no other value of a state than that after the step before.
    longer = np.concatenate([values, next_values[-1:]])
    own[1] = torch.tensor(np.moveaxis(longer[1:], 0, 1)[..., None])
    targets = functional.vec_td_lambda_return_estimate(0.9, 0.8, *own[1:])
    ours = returns.lambda_returns(rewards, longer, 0.9, 0.8, ends, cuts)
    np.testing.assert_allclose(ours, targets[..., 0].numpy().T, rtol=1e-6, atol=1e-6)


def test_rlax(rollout):
    rlax = pytest.importorskip("rlax", reason="rlax is not installed")
    rewards, values, _, log_rhos, ends, _ = (np.asarray(v, np.float32) for v in rollout)
    last = np.ones(ENVIRONMENTS, np.float32)
    longer = np.concatenate([values, last[None]])
    discounts = np.float32(0.9) * (1 - ends)
    ours = (
        returns.gae(rewards, longer, 0.9, 0.8, ends),
        returns.lambda_returns(rewards, longer, 0.9, 0.8, ends),
        returns.discounted_returns(rewards, 0.9, ends, bootstrap=last),
        returns.vtrace(log_rhos, rewards, longer, 0.9, ends, lam=0.8, rho_clip=1.2)[0],
        *returns.vtrace(log_rhos, rewards, longer, 0.9, ends, pg_rho_clip=0.9),
    )
    for k in range(ENVIRONMENTS):
        r, v, d = rewards[:, k], longer[:, k], discounts[:, k]
        ratios = np.exp(log_rhos[:, k])
        # Its advantages mix lambda into the next step's target, which the paper does not: with lambda 1 they are alike.
        damped = rlax.vtrace_td_error_and_advantage(v[:-1], v[1:], r, d, ratios, 0.8, 1.2)
        plain = rlax.vtrace_td_error_and_advantage(v[:-1], v[1:], r, d, ratios, 1.0, 1.0, 0.9)
        theirs = (
            rlax.truncated_generalized_advantage_estimation(r, d, 0.8, v),
            rlax.lambda_returns(r, d, v[1:], 0.8),
            rlax.discounted_returns(r, d, v[1:]),
            damped.errors + v[:-1],
            plain.errors + v[:-1],
            plain.pg_advantage,
        )
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one[:, k], np.asarray(other), rtol=2e-5, atol=2e-5)

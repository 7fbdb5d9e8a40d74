"""PPO on CartPole: a policy that learns to balance a pole, and one that is trained without the recurrence.

Both are trained alike, with generalized advantage estimation: once with lambda = 0.95, and once with lambda = 0, which
leaves out the recurrence, so that an advantage looks one step ahead. Gymnasium's environments reset themselves in a
step of their own, which is no step of the policy: it is masked. Prints a short report and saves the learning curves:

    python examples/ppo.py [--seeds N] [--iterations N] [--output FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium
import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from fastrecur.returns import gae

ORANGE, BLUE = "#D55E00", "#0072B2"  # Okabe and Ito's, told apart with any color vision
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}

ENVIRONMENTS, STEPS, GAMMA = 32, 128, 0.99
EPOCHS, BATCHES, RATE, CLIP, ENTROPY = 4, 4, 2.5e-3, 0.2, 0.01
LAMBDAS = {0.95: "λ = 0.95", 0.0: "λ = 0: without the recurrence"}


class ActorCritic(nn.Module):
    """A policy's logits and a state's value."""

    def __init__(self, inputs: int, actions: int) -> None:
        super().__init__()
        self.actor, self.critic = (
            nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))
            for outputs in (actions, 1)
        )
        nn.init.zeros_(self.actor[-1].weight)

    def forward(self, observations: torch.Tensor) -> tuple[torch.distributions.Categorical, torch.Tensor]:
        return torch.distributions.Categorical(logits=self.actor(observations)), self.critic(observations).squeeze(-1)


class Rollouts:
    """Environments that go on from rollout to rollout, and the lengths of the episodes that ended in the last one."""

    def __init__(self, seed: int) -> None:
        self.environments = gymnasium.make_vec("CartPole-v1", ENVIRONMENTS, vectorization_mode="sync")
        self.now, _ = self.environments.reset(seed=seed)
        self.resets = np.zeros(ENVIRONMENTS, bool)  # who is reset in the next step
        self.lengths = np.zeros(ENVIRONMENTS, int)
        self.ended: list[int] = []

    @torch.no_grad()
    def collect(self, model: ActorCritic) -> dict[str, torch.Tensor]:
        """Take steps with a model's policy; observations and values are one more than steps."""
        kept: dict[str, list] = {name: [] for name in ("actions", "log_probs", "rewards", "ends", "cuts", "mask")}
        observations, self.ended = [self.now], []
        for _ in range(STEPS):
            policy, _ = model(torch.from_numpy(self.now))
            action = policy.sample()
            is_reset = self.resets
            self.now, reward, ends, cuts, _ = self.environments.step(action.numpy())
            self.resets = ends | cuts
            self.lengths = np.where(is_reset, 0, self.lengths + 1)
            self.ended += self.lengths[self.resets].tolist()
            observations.append(self.now)
            step = action, policy.log_prob(action), torch.tensor(reward, dtype=torch.float32), ends, cuts, ~is_reset
            for values, value in zip(kept.values(), step, strict=True):
                values.append(torch.as_tensor(value))
        record = {name: torch.stack(values) for name, values in kept.items()}
        record["observations"] = torch.from_numpy(np.stack(observations))
        record["values"] = model(record["observations"])[1]
        return record


def learn(model: ActorCritic, optimizer: torch.optim.Optimizer, record: dict[str, torch.Tensor], lam: float) -> None:
    """Improve a model by a rollout."""
    mask, values = record["mask"], record["values"]
    # The state after a step that ends an episode is recorded before the reset: so it is the next value of that step.
    advantages = gae(
        record["rewards"], values[:-1], GAMMA, lam, record["ends"], record["cuts"], next_values=values[1:], mask=mask
    )
    targets = (advantages + values[:-1])[mask]
    observations, actions, old = (record[name][mask] for name in ("observations_before", "actions", "log_probs"))
    advantages = advantages[mask]
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(actions)).chunk(BATCHES):
            policy, value = model(observations[batch])
            ratio = (policy.log_prob(actions[batch]) - old[batch]).exp()
            gain = torch.minimum(
                ratio * advantages[batch], ratio.clamp(1 - CLIP, 1 + CLIP) * advantages[batch]
            ).mean()  # fmt: skip
            loss = (value - targets[batch]).square().mean() / 2 - gain - ENTROPY * policy.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()


def train(seed: int, lam: float, iterations: int, progress: tqdm) -> list[float]:
    """Return the mean length of the episodes that ended in each rollout."""
    torch.manual_seed(seed)
    rollouts, model, curve = Rollouts(seed), ActorCritic(4, 2), []
    optimizer = torch.optim.Adam(model.parameters(), RATE, eps=1e-5)
    for k in range(iterations):
        optimizer.param_groups[0]["lr"] = RATE * (1 - k / iterations)
        record = rollouts.collect(model)
        record["observations_before"] = record["observations"][:-1]
        learn(model, optimizer, record, lam)
        curve.append(float(np.mean(rollouts.ended)) if rollouts.ended else curve[-1])
        progress.update()
        progress.set_postfix_str(f"seed {seed}, lambda {lam}: {curve[-1]:.0f} steps", refresh=False)
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=25, help="rollouts of 4096 steps")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # so small a network has nothing for a second one
    with tqdm(total=len(LAMBDAS) * options.seeds * options.iterations) as progress:
        curves = {
            lam: np.array([train(seed, lam, options.iterations, progress) for seed in range(options.seeds)])
            for lam in LAMBDAS
        }
    print(f"CartPole, {options.seeds} seeds, {options.iterations * STEPS * ENVIRONMENTS} steps each; "
          "an episode's length in the last tenth of the rollouts:")  # fmt: skip
    last = {lam: float(curve[:, -max(1, options.iterations // 10) :].mean()) for lam, curve in curves.items()}
    for lam, name in LAMBDAS.items():
        print(f"   {last[lam]:6.1f}  {name}")
    plot(options.output, curves)
    print(f"Saved {options.output}")
    if not last[0.95] > 1.5 * last[0.0]:
        raise SystemExit("the recurrence does not help here")


def plot(output: Path, curves: dict[float, np.ndarray]) -> None:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
        for (lam, curve), color in zip(curves.items(), (BLUE, ORANGE), strict=True):
            steps = np.arange(1, curve.shape[1] + 1) * STEPS * ENVIRONMENTS / 1000
            axes.plot(steps, curve.T, color=color, lw=0.8, alpha=0.35)
            axes.plot(steps, curve.mean(axis=0), color=color, lw=2.2, label=LAMBDAS[lam])
        axes.axhline(500, color="#555555", ls="--", lw=0.9, label="the longest there is")
        axes.set(xlabel="steps of the environment, in thousands", ylabel="steps", ylim=(0, 530))
        axes.set_title("PPO on CartPole: how long the pole is balanced")
        axes.legend(loc="upper left", bbox_to_anchor=(0.0, 0.92))
        figure.savefig(output, dpi=130)
        plt.close(figure)


if __name__ == "__main__":
    main()

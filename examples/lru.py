"""A linear recurrent unit identifies a vibrating system; it needs complex coefficients to do so.

A structure with three resonances is shaken by noise. A model of the form ``h[t] = a*h[t-1] + b*u[t]``, ``y[t] = Re(c .
h[t])`` learns its response; the coefficients ``a = exp(-exp(v) + i*w)`` are those of the linear recurrent unit [1]. The
ablation has real coefficients and twice as many states: real modes only decay, they cannot swing. Prints the part of
the test signal's variance that each model explains, and saves a chart, in about 10 s
on two cores:

    python examples/lru.py [--steps N] [--output FILE]

[1] A. Orvieto et al., "Resurrecting Recurrent Neural Networks for Long Sequences", ICML 2023, arXiv:2303.06349, section
3
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
import torch
from torch import nn
from tqdm import tqdm

from fastrecur import linear_recurrence

DECAY = torch.tensor([0.01, 0.02, 0.015])  # per step
FREQUENCY = torch.tensor([0.11, 0.35, 0.9])  # radians per step
WEIGHT = torch.tensor([1.0, 0.7, 0.5])
STATES, LENGTH = 12, 2048


def system(u: torch.Tensor) -> torch.Tensor:
    """The response of the structure to a shaking force."""
    a = torch.polar(torch.exp(-DECAY), FREQUENCY)
    return (linear_recurrence(a, u[:, None].to(a.dtype)) * WEIGHT).sum(-1).imag


class Unit(nn.Module):
    def __init__(self, states: int, *, swings: bool) -> None:
        super().__init__()
        self.log_decay = nn.Parameter(torch.linspace(-5.0, -2.0, states))
        self.frequency = nn.Parameter(torch.linspace(0.05, 1.2, states), requires_grad=swings)
        if not swings:
            self.frequency.data.zero_()
        self.weights = nn.Parameter(0.1 * torch.randn(states, 2))

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        decay = torch.exp(-self.log_decay.exp())
        a = torch.polar(decay, self.frequency)
        scale = torch.sqrt(1 - decay**2)  # states of equal size, as in the paper
        states = linear_recurrence(a, scale * u[:, None].to(a.dtype))
        return (states * torch.view_as_complex(self.weights)).sum(-1).real


def explained(model: nn.Module, u: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return 1 - ((model(u) - y).var() / y.var()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)  # the arrays are small
    u, test = torch.randn(LENGTH), torch.randn(LENGTH)
    y, scores, impulse = system(u), {}, torch.zeros(200)
    impulse[0] = 1.0
    responses = {"the system": system(impulse)}
    models = {"complex": Unit(STATES, swings=True), "real": Unit(2 * STATES, swings=False)}
    for name, model in models.items():
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
        for _ in tqdm(range(options.steps), desc=f"{name} coefficients"):
            loss = ((model(u) - y) ** 2).mean() / y.var()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        scores[name] = explained(model, test, system(test))
        responses[f"{name} coefficients"] = model(impulse).detach()

    print(f"Response of a system with {FREQUENCY.numel()} resonances to {LENGTH} steps of noise, not learned from")
    for name, model in models.items():
        print(f"   {name:8} coefficients, {model.log_decay.numel()} states: {scores[name]:6.1%} of the variance")
    plot(options.output, responses)
    print(f"Saved {options.output}")
    if not (scores["complex"] > 0.9 and scores["real"] < 0.6):
        raise SystemExit("complex coefficients make no difference")


def plot(output: Path, responses: dict[str, torch.Tensor]) -> None:
    figure, axes = plt.subplots(2, 1, figsize=(9, 5.5), layout="constrained", sharex=True, sharey=True)
    true = responses.pop("the system")
    for ax, (name, response), color in zip(axes, responses.items(), ("#0072B2", "#D55E00"), strict=True):
        ax.plot(true, color="#8A8A8A", lw=4, alpha=0.5, label="the system")
        ax.plot(response, color=color, lw=1.5, label=name)
        ax.set(ylabel="response")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, loc="upper right", ncols=2)
    axes[0].set_title("Response to a single stroke, learned from noise")
    axes[1].set_xlabel("step")
    figure.savefig(output, dpi=120)


if __name__ == "__main__":
    main()

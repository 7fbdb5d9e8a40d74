"""A minGRU remembers a marked symbol for a hundred steps; without its data-dependent gate it cannot.

Symbols arrive one by one, and a few of them are marked. At every step the network names the last marked one. The minGRU
[1] is a recurrence between two matrix products; gate and candidate are functions of the input alone, so that all steps
are computed at once. Two ablations are trained in the same way: a gate that is learned but constant (an exponential
moving average), and no memory at all. Prints the accuracies, also on sequences ten times as long as in training, and
saves a chart, in about 6 s on two cores:

    python examples/mingru.py [--steps N] [--output FILE]

[1] L. Feng, F. Tung, M. O. Ahmed, Y. Bengio, H. Hajimirsadeghi, "Were RNNs All We Needed?", arXiv:2410.01201, eq. (10)
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
import torch
from torch import nn
from tqdm import tqdm

from fastrecur import forget_mult

SYMBOLS, RATE = 8, 0.02  # one symbol of 50 is marked
LENGTH, BATCH, UNITS = 200, 16, 32


class Memory(nn.Module):
    """One layer: ``h[t] = z[t]*c[t] + (1 - z[t])*h[t-1]``, and a linear map of its state."""

    def __init__(self, gate: str) -> None:
        super().__init__()
        self.kind = gate
        self.candidate = nn.Linear(SYMBOLS + 1, UNITS)
        self.gate = nn.Linear(SYMBOLS + 1, UNITS)
        self.head = nn.Linear(UNITS, SYMBOLS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(T, B, SYMBOLS + 1) to (T, B, SYMBOLS)."""
        candidate = self.candidate(x)
        if self.kind == "none":
            return self.head(candidate.tanh())
        gate = self.gate(x) if self.kind == "data-dependent" else self.gate.bias
        return self.head(forget_mult(gate.sigmoid(), candidate).tanh())


def sequences(length: int, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs (symbol, one-hot, and mark) and the last marked symbol at each step, time first."""
    symbols = torch.randint(SYMBOLS, (length, BATCH), generator=draw)
    marked = torch.rand(length, BATCH, generator=draw) < RATE
    marked[0] = True
    last = torch.where(marked, torch.arange(length)[:, None], 0).cummax(0).values
    inputs = torch.cat([nn.functional.one_hot(symbols, SYMBOLS), marked[..., None]], -1).float()
    return inputs, symbols.gather(0, last)


def accuracy(model: Memory, length: int) -> float:
    inputs, target = sequences(length, torch.Generator().manual_seed(1))
    with torch.no_grad():
        return (model(inputs).argmax(-1) == target).double().mean().item()


def train(model: Memory, steps: int, name: str) -> list[float]:
    """Return the accuracy during training."""
    draw, curve = torch.Generator().manual_seed(0), []
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in tqdm(range(steps), desc=name):
        inputs, target = sequences(LENGTH, draw)
        loss = nn.functional.cross_entropy(model(inputs).flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 9:
            curve.append(accuracy(model, LENGTH))
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()

    torch.set_num_threads(1)  # the matrices are small
    curves, results = {}, {}
    for gate in ("data-dependent", "constant", "none"):
        torch.manual_seed(0)
        model = Memory(gate)
        curves[gate] = train(model, options.steps, f"gate: {gate}")
        results[gate] = accuracy(model, LENGTH), accuracy(model, 10 * LENGTH)
    print(f"Name the last marked of {SYMBOLS} symbols; one of {1 / RATE:.0f} is marked. Accuracy:")
    for gate, (same, longer) in results.items():
        print(f"   gate {gate:15} {same:6.1%} on {LENGTH} steps, {longer:6.1%} on {10 * LENGTH} steps")
    plot(options.output, curves)
    print(f"Saved {options.output}")
    if not (results["data-dependent"][1] > 0.9 and results["constant"][0] < 0.7 and results["none"][0] < 0.4):
        raise SystemExit("the gate makes no difference")


def plot(output: Path, curves: dict[str, list[float]]) -> None:
    figure, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for (gate, curve), color in zip(curves.items(), ("#0072B2", "#D55E00", "#8A8A8A"), strict=True):
        ax.plot(range(10, 10 * len(curve) + 1, 10), curve, color=color, lw=2, label=f"gate: {gate}")
    ax.axhline(1 / SYMBOLS, color="black", lw=0.8, ls=":", label="chance")
    ax.set(xlabel="step of the optimizer", ylabel="accuracy", ylim=(0, 1.02))
    ax.set_title("Name the last marked symbol, up to hundreds of steps ago")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="center right")
    figure.savefig(output, dpi=120)


if __name__ == "__main__":
    main()

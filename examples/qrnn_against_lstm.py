"""QRNNs and nn.LSTM as character models of Shakespeare: same seed, same steps, and equally many weights or units.

Prints a short report and saves a chart of the test loss by steps and by time:

    python examples/qrnn_against_lstm.py [--steps N] [--output FILE]
"""

from __future__ import annotations

import argparse
import bisect
import gzip
import math
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
import torch
from torch import nn
from tqdm import tqdm

from fastrecur.torch import QRNN

HERE = Path(__file__).resolve().parent
BLUE, GREEN, ORANGE = "#0072B2", "#009E73", "#D55E00"
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "legend.frameon": False}
BATCH, LENGTH = 32, 128  # characters of a step: number of passages, and their length
EMBEDDING, UNITS, LAYERS = 64, 192, 2
EVERY = 10  # steps between tests


class Letters(nn.Module):
    """Characters in, the logits of the next character out."""

    def __init__(self, rnn: nn.Module, kinds: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(kinds, EMBEDDING)
        self.rnn = rnn
        self.head = nn.Linear(rnn.hidden_size, kinds)

    def forward(self, letters: torch.Tensor, state=None):
        h, state = self.rnn(self.embedding(letters), state)
        return self.head(h), state


def read() -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return the plays as indices, for training and for the test, and the number of different characters."""
    text = gzip.open(HERE / "data" / "tinyshakespeare.txt.gz", "rt").read()
    kinds = sorted(set(text))
    number = {letter: k for k, letter in enumerate(kinds)}
    letters = torch.tensor([number[letter] for letter in text])
    cut = len(letters) * 19 // 20
    return letters[:cut], letters[cut:], len(kinds)


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def qrnn_of(weights: int, **options) -> QRNN:
    """Return the QRNN whose number of weights is closest to the given one."""

    def size_of(units: int) -> int:
        return size(QRNN(EMBEDDING, units, LAYERS, device="meta", **options))

    enough = bisect.bisect_left(range(1024), weights, lo=17, key=size_of)
    near = min(enough - 1, enough, key=lambda units: abs(size_of(units) - weights))
    return QRNN(EMBEDDING, near, LAYERS, **options)


def test_loss(model: Letters, letters: torch.Tensor) -> float:
    """Return the test loss in bits per character."""
    lanes = letters[: len(letters) // 64 * 64].view(64, -1).T
    model.eval()
    with torch.no_grad():
        logits, _ = model(lanes[:-1])
    model.train()
    return nn.functional.cross_entropy(logits.flatten(0, 1), lanes[1:].flatten()).item() / math.log(2)


def train(name: str, model: Letters, training: torch.Tensor, test: torch.Tensor, steps: int):
    """Return (step, seconds, bits per character in the test) during the training; the time excludes the test."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps, pct_start=0.1)
    draw = torch.Generator().manual_seed(0)
    curve, seconds = [(0, 0.0, test_loss(model, test))], 0.0
    for step in tqdm(range(1, steps + 1), desc=f"{name}, {size(model)} weights"):
        began = time.perf_counter()
        starts = torch.randint(len(training) - LENGTH - 1, (BATCH,), generator=draw)
        passages = torch.stack([training[k : k + LENGTH + 1] for k in starts], 1)
        logits, _ = model(passages[:-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), passages[1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        seconds += time.perf_counter() - began
        if step % EVERY == 0 or step == steps:
            curve.append((step, seconds, test_loss(model, test)))
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()

    training, test, kinds = read()
    weights = size(nn.LSTM(EMBEDDING, UNITS, LAYERS))
    networks = {
        "nn.LSTM": lambda: nn.LSTM(EMBEDDING, UNITS, LAYERS),
        "QRNN, equal weights": lambda: qrnn_of(weights, window=2),
        "QRNN, equal units": lambda: QRNN(EMBEDDING, UNITS, LAYERS, window=2),
    }
    curves = {}
    for name, network in networks.items():
        torch.manual_seed(0)
        curves[name] = train(name, Letters(network(), kinds), training, test, options.steps)

    print(f"Bits per character in the test after {options.steps} steps of {BATCH} x {LENGTH} characters:")
    _, lstm_seconds, wanted = curves["nn.LSTM"][-1]
    for name, curve in curves.items():
        _, seconds, bits = curve[-1]
        reached = [seconds for _, seconds, bits in curve if bits <= wanted]
        note = f"; where nn.LSTM ends, in {reached[0] / lstm_seconds:.2f} of its time" if reached else ""
        print(f"  {name:22} {bits:.3f} in {seconds:5.1f} s{note if name != 'nn.LSTM' else ''}")
    plot(options.output, curves)
    print(f"Saved {options.output}")


def plot(output: Path, curves) -> None:
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
        for (name, curve), colour in zip(curves.items(), (ORANGE, BLUE, GREEN), strict=True):
            steps, seconds, bits = zip(*curve, strict=True)
            left.plot(steps, bits, color=colour, label=name)
            right.plot(seconds, bits, color=colour, label=name)
        last = curves["nn.LSTM"][-1][2]
        low = min(bits for curve in curves.values() for _, _, bits in curve)
        for ax in (left, right):
            ax.axhline(last, color="black", lw=0.8, ls=":")
        left.set(xlabel="step of the optimizer", ylabel="bits per character in the test", ylim=(low - 0.1, last + 2))
        left.set_title("Shakespeare's characters, by steps")
        right.set(xlabel="seconds of training", title="and by time")
        left.legend()
        figure.savefig(output, dpi=130)
        plt.close(figure)


if __name__ == "__main__":
    main()

"""Figure 4 of the QRNN paper [1], with the numbers of your machine and of the paper.

Top: a training step of the paper's language model of PTB (two layers of 640 units, batches of 20 x 105 words, a
vocabulary of 10,000 words), split into the recurrent layers, the softmax and the overhead (the rest). Bottom: the speed
of a QRNN layer of 320 units in inference, relative to nn.LSTM. Prints both and saves a chart:

    python examples/figure4.py [--quick] [--output FILE]

It takes some minutes on two cores. `--quick` takes seconds: the model is smaller, and the times of its step do not
compare with the paper's.

[1] J. Bradbury, S. Merity, C. Xiong, R. Socher, "Quasi-Recurrent Neural Networks", ICLR 2017, arXiv:1611.01576
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LogNorm
from torch import nn
from tqdm import tqdm

from fastrecur.torch import QRNN, QRNNLayer

BLUE, GREY, ORANGE = "#0072B2", "#8A8A8A", "#D55E00"
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "legend.frameon": False}
PARTS = {"recurrent layers": BLUE, "softmax": ORANGE, "overhead": GREY}
REPEATS = 4
BATCHES, LENGTHS = (8, 16, 32, 64, 128, 256), (32, 64, 128, 256, 512)
# What the paper gives, for a GPU of its time: milliseconds of a step's parts, and times as fast as cuDNN's LSTM.
PAPER_STEP = {"LSTM (Chainer)": (359, 75, 45), "LSTM (cuDNN)": (171, 75, 45), "QRNN": (41, 75, 36)}
PAPER_GRID = np.array([
    [5.5, 8.8, 11.0, 12.4, 16.9],
    [5.5, 6.7, 7.8, 8.3, 10.8],
    [4.2, 4.5, 4.9, 4.9, 6.4],
    [3.0, 3.0, 3.0, 3.0, 3.7],
    [2.1, 1.9, 2.0, 2.0, 2.4],
    [1.4, 1.4, 1.3, 1.3, 1.3],
])  # fmt: skip


class PTB(nn.Module):
    """The paper's language model with given layers."""

    def __init__(self, rnn: nn.Module, words: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, rnn.input_size)
        self.rnn = rnn
        self.head = nn.Linear(rnn.hidden_size, words)
        self.dropout = nn.Dropout(0.5)

    def loss(self, h: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self.head(h).flatten(0, 1), following.flatten())

    def forward(self, words: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        h, _ = self.rnn(self.dropout(self.embedding(words)))
        return self.loss(self.dropout(h), following)


def step_parts(rnn: nn.Module, words: int, steps: int, device: torch.device, bar: tqdm) -> tuple[float, ...]:
    """Return the seconds of a training step's parts: the recurrent layers, the softmax, the rest."""
    model = PTB(rnn, words).to(device)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    text = torch.randint(words, (steps + 1, 20), device=device)
    h = torch.randn(steps, 20, rnn.input_size, device=device, requires_grad=True)
    weights = list(rnn.parameters())

    def layers() -> None:
        output, _ = rnn(h)
        torch.autograd.grad(output, [h, *weights], torch.ones_like(output))

    def softmax() -> None:
        torch.autograd.grad(model.loss(h, text[1:]), [h, *model.head.parameters()])

    def whole() -> None:
        optimiser.zero_grad()
        model(text[:-1], text[1:]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()

    taken = medians([layers, softmax, whole], REPEATS, device, bar)
    return taken[0], taken[1], max(0.0, taken[2] - taken[0] - taken[1])


def ratio(batch: int, steps: int, device: torch.device, bar: tqdm) -> float:
    """Return how many times as fast as nn.LSTM a QRNN layer of 320 units is, without gradients."""
    x = torch.randn(steps, batch, 320, device=device)
    layers = [QRNNLayer(320, 320, device=device), nn.LSTM(320, 320, device=device)]
    with torch.no_grad():
        own, lstm = medians([lambda: layers[0](x), lambda: layers[1](x)], REPEATS, device, bar)
    return lstm / own


def medians(calls: list[Callable[[], Any]], repeats: int, device: torch.device, bar: tqdm) -> list[float]:
    """Return the median seconds of each call, one after another in every repeat."""
    spent: list[list[float]] = [[] for _ in calls]
    for repeat in range(-1, repeats):
        for call, times in zip(calls, spent, strict=True):
            began = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if repeat >= 0:  # the first call also loads and compiles
                times.append(time.perf_counter() - began)
        bar.update()
    return [statistics.median(times) for times in spent]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds: a smaller model, and a part of the grid")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    units, words, steps = (64, 1000, 32) if options.quick else (640, 10_000, 105)
    batches, lengths = (BATCHES[:3], LENGTHS[:2]) if options.quick else (BATCHES, LENGTHS)

    torch.manual_seed(0)
    networks = {"nn.LSTM": nn.LSTM(units, units, 2, dropout=0.5), "QRNN": QRNN(units, units, 2, dropout=0.5, window=2)}
    parts, grid = {}, np.empty((len(batches), len(lengths)))
    with tqdm(total=(REPEATS + 1) * (len(networks) + grid.size), desc="measuring", unit="repeat") as bar:
        for name, rnn in networks.items():
            parts[name] = [1e3 * seconds for seconds in step_parts(rnn, words, steps, device, bar)]
        for place in np.ndindex(grid.shape):
            grid[place] = ratio(batches[place[0]], lengths[place[1]], device, bar)

    print(f"A training step of a language model, two layers of {units} units, 20 x {steps} words of {words}, ms ({on})")
    print(f"   {'':16}" + "".join(f"{part:>18}" for part in [*PARTS, "all"]))
    for name, spent in [*parts.items(), *((f"paper: {k}", v) for k, v in PAPER_STEP.items())]:
        print(f"   {name:22}{spent[0]:12.0f}" + "".join(f"{ms:18.0f}" for ms in [*spent[1:], sum(spent)]))
    if options.quick:
        print("   The paper's model is larger (--quick): these times do not compare with the paper's")
    print("How many times as fast as nn.LSTM a QRNN layer of 320 units is in inference: batch by length; (paper)")
    print(" " * 9 + "".join(f"{length:>14}" for length in lengths))
    for batch, row, paper in zip(batches, grid, PAPER_GRID, strict=False):
        print(f"{batch:9}" + "".join(f"{a:7.1f} ({b:4.1f})" for a, b in zip(row, paper, strict=False)))
    plot(options.output, parts, grid, on, f"{units} units, 20 x {steps} words")
    print(f"Saved {options.output}")


def plot(output: Path, parts, grid, on: str, model: str) -> None:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(10, 7.2), layout="constrained", height_ratios=[1, 2])
        stack(axes[0, 0], PAPER_STEP, "A training step in the paper (a GPU of 2016)")
        stack(axes[0, 1], parts, f"and here ({model})")
        axes[0, 1].legend(loc="upper right", ncols=3, bbox_to_anchor=(1, -0.2))
        heat(axes[1, 0], PAPER_GRID, "Times as fast as cuDNN's LSTM, in the paper")
        heat(axes[1, 1], grid, f"and as nn.LSTM here ({on})")
        axes[1, 0].set_ylabel("batch size")
        figure.savefig(output, dpi=110)
        plt.close(figure)


def stack(ax, parts, title: str) -> None:
    names, left = list(parts), np.zeros(len(parts))
    for k, (part, colour) in enumerate(PARTS.items()):
        width = np.array([parts[name][k] for name in names])
        ax.barh(names, width, left=left, color=colour, label=part)
        left += width
    for name, whole in zip(names, left, strict=True):
        ax.text(whole, name, f" {whole:.0f}", va="center")
    ax.invert_yaxis()
    ax.set(xlabel="ms", title=title, xlim=(0, 1.12 * left.max()))


def heat(ax, grid: np.ndarray, title: str) -> None:
    ax.imshow(grid, norm=LogNorm(1, 16), cmap="viridis", aspect="auto")
    for (i, j), value in np.ndenumerate(grid):
        ax.text(j, i, f"{value:.1f}x", ha="center", va="center", color="white" if value < 6 else "black")
    ax.set_xticks(range(grid.shape[1]), LENGTHS[: grid.shape[1]])
    ax.set_yticks(range(grid.shape[0]), BATCHES[: grid.shape[0]])
    ax.tick_params(length=0)
    ax.set(xlabel="sequence length", title=title)
    ax.spines[:].set_visible(False)


if __name__ == "__main__":
    main()

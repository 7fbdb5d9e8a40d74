"""A QRNN on all GPUs of a machine by nn.DataParallel; without a GPU the program runs on the CPU.

The example of torchqrnn with this name, for current torch. The network learns to repeat words with a delay; a chart
shows its loss, after about 4 s on two cores:

    python examples/multigpu_dataparallel.py [--steps N] [--output FILE]

For serious use, prefer DistributedDataParallel with one process per GPU; the module needs no change.
"""

from __future__ import annotations

import argparse
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

BLUE = "#0072B2"
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "legend.frameon": False}
WORDS, DELAY = 20, 3


class Model(nn.Module):
    def __init__(self, size: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, size)
        # The batch is axis 1, and so it is split there. States come and go with their part of the batch, on axis 1 too.
        self.rnn = nn.DataParallel(QRNN(size, size, num_layers=layers, window=2), dim=1)
        self.head = nn.Linear(size, WORDS)

    def forward(self, words: torch.Tensor, hidden: torch.Tensor | None = None):
        output, hidden = self.rnn(self.embedding(words), hidden)
        return self.head(output), hidden


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()

    torch.manual_seed(0)
    gpus = torch.cuda.device_count()
    device = torch.device("cuda" if gpus else "cpu")
    model = Model(options.size, layers=2).to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    began = time.perf_counter()
    where = f"{gpus} GPUs" if gpus else "on the CPU"
    losses = []
    bar = tqdm(range(options.steps), desc=where)
    for _ in bar:
        words = torch.randint(WORDS, (40, options.batch), device=device)
        logits, _ = model(words)
        loss = nn.functional.cross_entropy(logits[DELAY:].flatten(0, 1), words[:-DELAY].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
    right = (logits[DELAY:].argmax(-1) == words[:-DELAY]).double().mean()
    print(f"{right:.1%} of the words are correct after {time.perf_counter() - began:.1f} s")
    plot(options.output, losses, where)
    print(f"Saved {options.output}")


def plot(output: Path, losses: list[float], where: str) -> None:
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
        ax.axhline(math.log(WORDS), color="black", lw=0.8, ls=":", label="every word as likely")
        ax.plot(range(1, len(losses) + 1), losses, color=BLUE, lw=2, label=f"QRNN, {where}")
        ax.set(xlabel="step of the optimizer", ylabel="loss", ylim=(0, None))
        ax.set_title(f"Repeat the word of {DELAY} steps ago, of {WORDS} words")
        ax.legend()
        figure.savefig(output, dpi=130)
        plt.close(figure)


if __name__ == "__main__":
    main()

"""Speaker classification: a bidirectional QRNN and nn.GRU on packed sequences of many lengths.

Nine men say two Japanese vowels; each of 640 recordings is 7 to 29 steps of 12 numbers [1]. The networks have equally
many weights and are trained on the same 270 recordings with five seeds. One has no memory, as an ablation: it sees each
step alone, and the average over the steps. It does nearly as well, so the example shows packed sequences and the time
of training, not a need for memory (`mingru.py` does). Prints a short report and saves a chart, in
some minutes on two cores (`--seeds 1`: a fifth):

    python examples/speakers.py [--epochs N] [--seeds N] [--output FILE]

[1] M. Kudo, J. Toyama, M. Shimbo, "Multidimensional curve classification using passing-through regions", Pattern
Recognition Letters 20, 1999; the source and the license of the data are in data/README.md
"""

from __future__ import annotations

import argparse
import lzma
import statistics
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence
from tqdm import tqdm

from fastrecur.torch import QRNN

HERE = Path(__file__).resolve().parent
BLUE, ORANGE = "#0072B2", "#D55E00"
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "legend.frameon": False}
FEATURES, SPEAKERS = 12, 9
UNITS, LAYERS, BATCH = 64, 2, 27


class Speaker(nn.Module):
    """Packed recordings in, a score for each speaker out, from the mean of bidirectional outputs over the steps."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(2 * rnn.hidden_size, SPEAKERS)

    def forward(self, recordings: PackedSequence) -> Tensor:
        steps, lengths = pad_packed_sequence(self.rnn(recordings)[0])  # zeros after a recording's end
        return self.head(self.dropout(steps.sum(0) / lengths[:, None]))


class Frames(nn.Module):
    """The ablation: two layers on each step alone, with the interface of a bidirectional network."""

    def __init__(self, units: int, device: str = "cpu") -> None:
        super().__init__()
        self.hidden_size, wide = units, 2 * units
        sizes = (FEATURES, wide), (wide, wide)
        self.layers = nn.Sequential(*(part for a, b in sizes for part in (nn.Linear(a, b, device=device), nn.ReLU())))

    def forward(self, recordings: PackedSequence) -> tuple[PackedSequence, None]:
        return recordings._replace(data=self.layers(recordings.data)), None


def read() -> dict[str, tuple[list[Tensor], Tensor]]:
    """Return the recordings, (steps, 12) each, and their speakers, for training and for the test, as published."""
    parts: dict[str, tuple[list, list]] = {"train": ([], []), "test": ([], [])}
    for line in lzma.open(HERE / "data" / "japanese_vowels.txt.xz", "rt"):
        if line.startswith("t"):
            part, speaker = line.split()
            parts[part][0].append([])
            parts[part][1].append(int(speaker) - 1)
        else:
            parts[part][0][-1].append([float(number) for number in line.split()])
    return {part: ([torch.tensor(v) for v in x], torch.tensor(y)) for part, (x, y) in parts.items()}


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def qrnn(units: int, device: str = "cpu") -> QRNN:
    return QRNN(FEATURES, units, LAYERS, bidirectional=True, window=2, device=device)


def of_size(network, weights: int) -> nn.Module:
    """Return the network whose number of weights is closest to the given one."""
    return network(min(range(8, 256), key=lambda units: abs(size(network(units, "meta")) - weights)))


def accuracy(model: Speaker, recordings: PackedSequence, speakers: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        right = model(recordings).argmax(-1) == speakers
    model.train()
    return right.double().mean().item()


def train(model: Speaker, data, epochs: int, seed: int) -> list[tuple[float, float]]:
    """Return (seconds, test accuracy) after each epoch; the time excludes the test."""
    (x, y), (test_x, test_y) = data["train"], data["test"]
    test = pack_sequence(test_x, enforce_sorted=False)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=epochs * len(x) // BATCH)
    draw, seconds, curve = torch.Generator().manual_seed(seed), 0.0, []
    for _ in range(epochs):
        began = time.perf_counter()
        for some in torch.randperm(len(x), generator=draw).split(BATCH):
            scores = model(pack_sequence([x[k] for k in some], enforce_sorted=False))
            loss = nn.functional.cross_entropy(scores, y[some], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        seconds += time.perf_counter() - began
        curve.append((seconds, accuracy(model, test, test_y)))
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()

    data = read()
    weights = size(nn.GRU(FEATURES, UNITS, LAYERS, bidirectional=True))
    networks = {
        "nn.GRU": lambda: nn.GRU(FEATURES, UNITS, LAYERS, bidirectional=True),
        "QRNN": lambda: of_size(qrnn, weights),
        "no memory": lambda: of_size(Frames, weights),
    }
    curves: dict[str, list] = {name: [] for name in networks}
    with tqdm(total=options.seeds * len(networks), desc="training", unit="network") as bar:
        for seed in range(options.seeds):
            for name, network in networks.items():
                torch.manual_seed(seed)
                model = Speaker(network())
                curves[name].append(train(model, data, options.epochs, seed))
                bar.set_postfix(network=name, right=f"{curves[name][-1][-1][1]:.1%}")
                bar.update()

    print(f"Who speaks, of {SPEAKERS}: {len(data['test'][0])} recordings of the test, {options.seeds} first weights")
    for name, network in networks.items():
        seconds, right = zip(*(curve[-1] for curve in curves[name]), strict=True)
        spread = f"{min(right):.1%} to {max(right):.1%}"
        print(
            f"   {name:9} {size(network())} weights: {statistics.mean(right):.1%} right ({spread}), "
            f"{statistics.median(seconds):.1f} s of training"
        )
    plot(options.output, curves, data)
    print(f"Saved {options.output}")


def plot(output: Path, curves, data) -> None:
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", width_ratios=[3, 2])
        for (name, runs), colour in zip(curves.items(), (ORANGE, BLUE, "#8A8A8A"), strict=True):
            seconds, correct = np.median(runs, 0).T
            low, high = np.min(runs, 0)[:, 1], np.max(runs, 0)[:, 1]
            left.fill_between(seconds, 100 * (1 - high), 100 * (1 - low), color=colour, alpha=0.2, lw=0)
            left.plot(seconds, 100 * (1 - correct), color=colour, lw=2, label=name)
        left.set(xlabel="seconds of training", ylabel="errors in the test (%)", ylim=(0, None))
        left.set_title("Classification of nine speakers by training time")
        left.legend()
        lengths = [len(v) for part in data.values() for v in part[0]]
        right.hist(lengths, np.arange(6.5, 30), color="#8A8A8A", rwidth=0.9)
        valid = sum(lengths) / (len(lengths) * max(lengths))
        right.set(xlabel="steps", ylabel="recordings", title="Packed: no work in the padding")
        right.annotate(f"padded to {max(lengths)} steps,\n{1 - valid:.0%} would be padding", (0.97, 0.95), ha="right",
                       xycoords="axes fraction", va="top")  # fmt: skip
        figure.savefig(output, dpi=130)
        plt.close(figure)


if __name__ == "__main__":
    main()

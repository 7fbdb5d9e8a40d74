"""A minGRU, whose layers are the recurrence between two matrix products, trained on real glucose measurements.

The network [1] reads a week of measurements and forecasts 15 minutes ahead; the docstring of `learned_smoothing` has
the limits of this forecast. Prints a short report and saves a chart:

    python examples/mingru.py [--output FILE]

[1] L. Feng, F. Tung, M. O. Ahmed, Y. Bengio, H. Hajimirsadeghi, "Were RNNs All We Needed?", arXiv:2410.01201, eq. (10)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
import numpy as np
import torch
from learned_smoothing import is_test, plot_day, report, targets
from quickstart import BLUE, HERE, ORANGE, STYLE, read_glucose, steps_in_minutes
from torch import nn
from tqdm import tqdm

from fastrecur import forget_mult

SCALE = 40.0  # mg/dL


class MinGRU(nn.Module):
    """One layer: ``h[t] = z[t]*c[t] + (1 - z[t])*h[t-1]`` with gate and candidate from the input alone."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 2 * size)

    def forward(self, x: torch.Tensor, h0: torch.Tensor | None = None) -> torch.Tensor:
        """(T, B, inputs) to (T, B, size); all steps at once."""
        gate, candidate = self.linear(x).chunk(2, -1)
        return forget_mult(gate.sigmoid(), candidate, h0)


class Forecast(nn.Module):
    """Two minGRU layers with residual connections; the output is a change from the present value."""

    def __init__(self, inputs: int, size: int = 16) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, size)
        self.layers = nn.ModuleList([MinGRU(size, size), MinGRU(size, size)])
        self.head = nn.Linear(size, 1)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = x + self.dropout(layer(nn.functional.gelu(x)))
        return self.head(x).squeeze(-1)


def features(time: np.ndarray, x: np.ndarray) -> torch.Tensor:
    """The inputs of the network at each measurement, (T, 1, 5)."""
    minutes = steps_in_minutes(time)
    day = 2 * np.pi * (time - time.astype("M8[D]")).astype(np.float64) / (24 * 60)
    slope = np.clip(np.diff(x, prepend=x[:1]) / minutes, -4, 4)
    columns = [(x - 120) / SCALE, slope, np.log(minutes / 5), np.sin(day), np.cos(day)]
    return torch.tensor(np.stack(columns, -1)[:, None], dtype=torch.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    output = parser.parse_args().output
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the matrices are small

    time, glucose = read_glucose(HERE / "data" / "glucose.csv")
    target, known = targets(time, glucose)
    training, test = known & ~is_test(time), known & is_test(time)
    inputs, x = features(time, glucose), torch.from_numpy(glucose)
    target = torch.from_numpy(target)
    change, where = ((target - x) / SCALE).float(), torch.from_numpy(training)

    model = Forecast(inputs.shape[-1])
    steps = 200
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps)
    history = []
    for _ in tqdm(range(steps), desc=f"training {sum(p.numel() for p in model.parameters())} numbers"):
        loss = (model(inputs)[:, 0] - change)[where].abs().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        history.append(loss.item())
    model.eval()
    with torch.no_grad():
        forecast = x + SCALE * model(inputs)[:, 0].double()

    report("minGRU", x, forecast, target, training, test)
    plot(output, time, x, forecast, target, test, history)
    print(f"Saved {output}")


def plot(output, time, x, forecast, target, test, history) -> None:
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(10, 7), layout="constrained")
        panels = figure.subplot_mosaic([["day", "day"], ["loss", "error"]], height_ratios=[3, 2])
        top, left, right = (panels[k] for k in ("day", "loss", "error"))
        plot_day(top, "minGRU", time, x, forecast)
        left.semilogy(history, color="black", lw=1)
        left.set(xlabel="step of the optimiser", ylabel="loss", title="Training")
        error = [(v - target)[torch.from_numpy(test)].abs().numpy() for v in (x, forecast)]
        bins = np.linspace(0, 50, 26)
        right.hist(error[0], bins, color=ORANGE, alpha=0.5, label="as before")
        right.hist(error[1], bins, color=BLUE, alpha=0.5, label="minGRU")
        right.set(xlabel="absolute error in the test (mg/dL)", ylabel="forecasts", title="Errors on two days")
        right.legend()
        figure.savefig(output, dpi=130)
        plt.close(figure)


if __name__ == "__main__":
    main()

"""Smoothing constants learned by gradient descent, on a week of real glucose measurements.

The forecast for 15 minutes ahead is a smoothed level plus a multiple of a smoothed slope. Its three parameters are the
two smoothing constants and the factor of the slope; their gradients flow through the recurrences. Prints a short report
and saves a chart. The example shows how to learn such constants, not how well glucose can be forecast: horizon and test
days were chosen after seeing results, and at 30 minutes nothing beats the last measurement:

    python examples/learned_smoothing.py [--output FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
import numpy as np
import torch
from quickstart import BLUE, GREY, HERE, ORANGE, STYLE, read_glucose, steps_in_minutes
from tqdm import tqdm

from fastrecur.smoothing import ewm_mean

AHEAD = 15  # minutes
TEST_DAYS = 3, 6  # of the seven, counted from 0


class Trend(torch.nn.Module):
    """Level and slope, each an exponential average with its own time constant, for irregular times."""

    def __init__(self) -> None:
        super().__init__()
        self.log_minutes = torch.nn.Parameter(torch.tensor([20.0, 60.0], dtype=torch.float64).log())
        self.reach = torch.nn.Parameter(torch.tensor(0.0, dtype=torch.float64))  # minutes of slope to add

    def forward(self, x: torch.Tensor, minutes: torch.Tensor) -> torch.Tensor:
        """The forecast at each measurement."""
        level_gate, slope_gate = -torch.expm1(-minutes / self.log_minutes.exp()[:, None])
        slope = torch.diff(x, prepend=x[:1]) / minutes
        level = ewm_mean(x, alpha=level_gate, adjust=False)
        return level + self.reach * ewm_mean(slope, alpha=slope_gate, adjust=False)


def targets(time: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The value `AHEAD` minutes later, between two measurements, and where the sensor was on then."""
    later = time + np.timedelta64(AHEAD, "m")
    minutes = time.astype(np.float64)
    value = np.interp(later.astype(np.float64), minutes, x)
    after = np.minimum(np.searchsorted(time, later), len(time) - 1)
    return value, (np.diff(time, prepend=time[:1])[after].astype(int) <= 10) & (later <= time[-1])


def is_test(time: np.ndarray) -> np.ndarray:
    """Which measurements are on test days."""
    return np.isin((time - time[0].astype("M8[D]")) // np.timedelta64(1, "D"), TEST_DAYS)


def mean_error(error: torch.Tensor, where: np.ndarray) -> float:
    return error.detach()[torch.from_numpy(where)].abs().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    output = parser.parse_args().output

    time, glucose = read_glucose(HERE / "data" / "glucose.csv")
    target, known = targets(time, glucose)
    training, test = known & ~is_test(time), known & is_test(time)
    x, minutes, target = (torch.from_numpy(v) for v in (glucose, steps_in_minutes(time), target))

    model, where, history = Trend(), torch.from_numpy(training), []
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in tqdm(range(300), desc="fitting three numbers"):
        loss = (model(x, minutes) - target)[where].abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append([loss.item(), *model.log_minutes.exp().tolist(), model.reach.item()])
    forecast = model(x, minutes).detach()
    level, slope = model.log_minutes.exp().tolist()

    learned = f"level over {level:.1f} min, slope over {slope:.1f} min, followed for {model.reach.item():.1f} min"
    report("learned smoothing", x, forecast, target, training, test, f"learned: {learned}")
    plot(output, time, x, forecast, np.array(history))
    print(f"Saved {output}")


def report(name, x, forecast, target, training, test, *notes) -> None:
    """Print notes, and the errors of a forecast and of the last measurement."""
    print(f"Forecast of glucose {AHEAD} minutes ahead; {training.sum()} steps for training, {test.sum()} for the test.")
    for note in notes:
        print(f"   {note}")
    for method, value in [("stays as it is", x), (name, forecast)]:
        print(f"   {method:<20} error {mean_error(value - target, training):5.1f} mg/dL in training, "
              f"{mean_error(value - target, test):5.1f} mg/dL in the test")  # fmt: skip


def plot_day(panel, name, time, x, forecast) -> None:
    """Show measurements of a day and both forecasts."""
    then = time + np.timedelta64(AHEAD, "m")
    panel.plot(time, x, ".", ms=4, color=GREY, label="measurements")
    panel.plot(then, x, color=ORANGE, lw=1.3, label=f"forecast: as {AHEAD} minutes before")
    panel.plot(then, forecast, color=BLUE, lw=1.8, label=f"forecast: {name}")
    day = np.array(["2010-09-22T06", "2010-09-23T00"], "M8[m]")
    panel.set(xlim=day, ylim=(40, 280), ylabel="glucose (mg/dL)", title="A day that was not learned from")
    panel.xaxis.set_major_locator(matplotlib.dates.HourLocator(byhour=range(0, 24, 3)))
    panel.xaxis.set_major_formatter(matplotlib.dates.DateFormatter("%H:%M"))
    panel.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, -0.22))


def plot(output, time, x, forecast, history) -> None:
    with plt.rc_context(STYLE):
        figure, (top, bottom) = plt.subplots(2, 1, figsize=(10, 7), layout="constrained", height_ratios=[3, 2])
        plot_day(top, "learned smoothing", time, x, forecast)
        bottom.plot(history[:, 0], color="black", label="error in training (mg/dL)")
        bottom.plot(history[:, 1], color=ORANGE, label="time constant of the level (min)")
        bottom.plot(history[:, 2], color=BLUE, label="time constant of the slope (min)")
        bottom.plot(history[:, 3], color=GREY, label="reach of the slope (min)")
        bottom.set(xlabel="step of the optimiser", ylim=(0, None), xlim=(0, len(history)))
        bottom.set_title("Three numbers, learned through the recurrence")
        bottom.legend(ncols=2)
        figure.savefig(output, dpi=130)
        plt.close(figure)


if __name__ == "__main__":
    main()

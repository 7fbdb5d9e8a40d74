"""Sales of a thousand synthetic shops: level, trend and seasons fitted at once, and the next year forecast.

Each shop has a level and a trend that wander, and seasons of its own. `fit_holt_winters` finds the factors of
`holt_winters` from all years but the last, and `forecast` goes on from the state at their end. The last year is
compared with the forecasts, with those of factors that were guessed, and with the year before it. The intervals of
90 % are those of a model with additive errors, normally distributed (Hyndman et al., Forecasting with Exponential
Smoothing, 2008, chapter 6). They take the fitted factors for the true ones, so they hold somewhat fewer values. Prints
the mean absolute errors and how many values the intervals hold, and saves a picture, in about 3 s on two cores:

    python examples/seasons.py [--shops N] [--output FILE]
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

from fastrecur.smoothing import fit_holt_winters, forecast, holt_winters

MONTHS, YEARS = 12, 10


def sales(shops: int) -> np.ndarray:
    """Return the sales of each month, (months, shops), with factors and errors of each shop's own."""
    rng = np.random.default_rng(0)
    alpha, beta, gamma = rng.uniform(0.1, 0.6, shops), rng.uniform(0.0, 0.1, shops), rng.uniform(0.0, 0.3, shops)
    level, trend = rng.uniform(150, 250, shops), rng.normal(0.3, 0.5, shops)
    season = 25 * np.sin(2 * np.pi * (np.arange(MONTHS)[:, np.newaxis] / MONTHS + rng.uniform(0, 0.3, shops)))
    season[-1] += rng.uniform(20, 50, shops)  # December
    x = np.empty((YEARS * MONTHS, shops))
    for month, error in enumerate(rng.normal(0, 6, x.shape)):
        x[month] = level + trend + season[month % MONTHS] + error
        level, trend = level + trend + alpha * error, trend + alpha * beta * error
        season[month % MONTHS] += gamma * error
    return x


def spread(fit, known: int) -> np.ndarray:
    """Return the standard deviation of the error of each month ahead, (months, shops)."""
    ahead = np.arange(1, MONTHS)[:, np.newaxis]  # an error moves what is forecast so many months later
    moved = fit.alpha * (1 + ahead * fit.beta)
    fitted = 3 + 2 + MONTHS - 1  # factors, first level and trend, seasons about a mean
    variance = fit.sse / (known - fitted)
    return np.sqrt(variance * (1 + np.vstack([np.zeros_like(fit.alpha), np.cumsum(moved**2, 0)])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shops", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()

    x = sales(options.shops)
    known, last = x[:-MONTHS], x[-MONTHS:]
    with tqdm(total=options.shops, desc="shops") as bar:
        fit = fit_holt_winters(known, MONTHS, callback=lambda done, _: bar.update(done - bar.n))

    found, state = holt_winters(known, **fit.arguments, return_state=True)
    ahead, width = forecast(state, MONTHS), 1.645 * spread(fit, len(known))
    _, guess = holt_winters(known, 0.3, 0.1, 0.1, period=MONTHS, return_state=True)
    for name, other in [("fitted", ahead), ("guessed", forecast(guess, MONTHS)), ("a year ago", known[-MONTHS:])]:
        print(f"mean absolute error of the next year, {name}: {abs(last - other).mean():.1f}")
    held = (abs(last - ahead) <= width).mean(1)
    print(f"intervals of 90 % hold {100 * held.mean():.0f} % of the values")
    if not abs(last - ahead).mean() < abs(last - forecast(guess, MONTHS)).mean():
        raise SystemExit("factors that were fitted forecast worse than those that were guessed")

    figure, axes = plt.subplots(1, 3, figsize=(15, 4), width_ratios=[2.2, 1, 1], layout="constrained")
    month, later = np.arange(len(known)), np.arange(len(known), len(x))
    axes[0].plot(x[:, 0], color="0.4", linewidth=1, label="sales")
    axes[0].plot(month, found.level[:, 0], color="tab:green", label="level")
    axes[0].plot(later, ahead[:, 0], color="tab:blue", label="forecast")
    axes[0].fill_between(later, (ahead - width)[:, 0], (ahead + width)[:, 0], alpha=0.25, label="interval of 90 %")
    axes[0].set(title="one shop", xlabel="month", ylabel="sales")
    axes[0].legend(loc="upper right")
    axes[1].plot(fit.season[:, :8])
    axes[1].set(title="first seasons of eight shops", xlabel="month of the year")
    axes[2].plot(range(1, MONTHS + 1), 100 * held, marker=".")
    axes[2].axhline(90, color="0.5", linestyle="--")
    axes[2].set(title="values in their intervals, %", xlabel="months ahead", ylim=(50, 100))
    figure.savefig(options.output, dpi=120)
    print(f"saved {options.output}")


if __name__ == "__main__":
    main()

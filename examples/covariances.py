"""Covariances of fifty synthetic assets: the matrix of each month, and how a market's correlations tighten in a crash.

Assets of five sectors share a market and a sector's own moves; in the middle year the market moves three times as much,
so that all assets move together. `ewm_corr` with ``pairwise=True`` and ``at=`` makes the correlations of every month's
last day alone; an `EwmCov` is fed day by day, and gives the minimum-variance portfolio, which is compared with equal
weights on the days after. Prints the volatility of both, and saves a picture, in about 5 s on two cores:

    python examples/covariances.py [--days N] [--output FILE]
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

from fastrecur.smoothing import EwmCov, ewm_corr

ASSETS, SECTORS, MONTH, HALFLIFE = 50, 5, 21, 63.0


def returns(days: int) -> np.ndarray:
    """Return daily returns: a market, whose moves are large in the middle, sectors and each asset's own."""
    rng = np.random.default_rng(0)
    calm = np.where(abs(np.arange(days) / days - 0.5) < 1 / 6, 3.0, 1.0)[:, np.newaxis]
    market, sectors = rng.standard_normal((days, 1)) * calm, rng.standard_normal((days, SECTORS))
    exposure = rng.uniform(0.4, 1.6, ASSETS)
    own = rng.standard_normal((days, ASSETS)) * rng.uniform(0.8, 2.0, ASSETS)
    return 0.01 * (0.6 * market * exposure + 0.8 * np.repeat(sectors, ASSETS // SECTORS, axis=1) + own)


def least_variance(covariances: np.ndarray) -> np.ndarray:
    """The weights of the portfolio that varies least, after a ridge of a tenth of the mean variance."""
    ridge = 0.1 * np.trace(covariances) / ASSETS * np.eye(ASSETS)
    weights = np.linalg.solve(covariances + ridge, np.ones(ASSETS))
    return weights / weights.sum()


def network(axes: plt.Axes, correlations: np.ndarray, title: str) -> None:
    """Draw assets on a circle, and a line for each strong correlation."""
    angle = 2 * np.pi * np.arange(ASSETS) / ASSETS
    at = np.column_stack([np.cos(angle), np.sin(angle)])
    strong = np.argwhere(np.triu(correlations, 1) > 0.65)
    for i, j in strong:
        axes.plot(*at[[i, j]].T, color="tab:blue", alpha=0.35, linewidth=0.8)
    axes.scatter(*at.T, c=np.arange(ASSETS) // (ASSETS // SECTORS), cmap="tab10", s=18, zorder=2)
    axes.set(title=f"{title}\n{len(strong)} pairs above 0.65", xticks=[], yticks=[], aspect="equal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=int, default=756)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()

    x = returns(options.days)
    months = np.arange(3 * MONTH, options.days, MONTH)
    correlations = ewm_corr(x, halflife=HALFLIFE, pairwise=True, at=months)
    pairs = np.triu_indices(ASSETS, 1)
    mean = correlations[:, pairs[0], pairs[1]].mean(1)

    stream, earned = EwmCov(halflife=HALFLIFE), []
    for day in tqdm(range(options.days - 1), desc="days"):
        covariances = stream.update(x[day : day + 1])
        if day >= months[0]:
            earned.append((x[day + 1].mean(), least_variance(covariances) @ x[day + 1]))
    equal, least = 100 * np.sqrt(252) * np.std(earned, axis=0)
    print(f"volatility a year: equal weights {equal:.1f} %, least variance {least:.1f} %")
    print(f"mean correlation: {mean[0]:.2f} at first, {mean.max():.2f} at most, {mean[-1]:.2f} at last")

    figure, axes = plt.subplots(1, 4, figsize=(15, 4), width_ratios=[1, 1, 1, 1.3], layout="constrained")
    worst = int(mean.argmax())
    image = axes[0].imshow(correlations[worst], vmin=0, vmax=1, cmap="magma")
    axes[0].set(title=f"correlations, day {months[worst]}", xlabel="asset", ylabel="asset")
    figure.colorbar(image, ax=axes[0], shrink=0.8)
    network(axes[1], correlations[0], f"day {months[0]}")
    network(axes[2], correlations[worst], f"day {months[worst]}")
    axes[3].plot(months, mean, marker=".")
    axes[3].axvspan(options.days / 3, 2 * options.days / 3, color="0.9", label="large moves of the market")
    axes[3].set(title="mean correlation of all pairs", xlabel="day", ylim=(0, 1))
    axes[3].legend(loc="upper right")
    figure.savefig(options.output, dpi=120)
    print(f"saved {options.output}")


if __name__ == "__main__":
    main()

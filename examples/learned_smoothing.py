"""Smoothing factors learned by gradient descent: they find the Kalman filter's gains without being told the noise.

Each series is a random walk that is measured with noise. The best forecast of the next value is an exponential moving
average whose factor depends on the ratio of the two variances; the steady gain of the Kalman filter [1] has it in
closed form. Here the factors start at 0.3 and follow the gradient of the squared forecast error through `ewm_mean`.
Prints both, with the errors that a fixed factor makes, and saves a chart, in about
15 s on two cores:

    python examples/learned_smoothing.py [--steps N] [--output FILE]

[1] J. Durbin, S. J. Koopman, "Time Series Analysis by State Space Methods", 2nd edition, 2012, section 2.11
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.ticker import NullLocator
from tqdm import tqdm

from fastrecur.smoothing import ewm_mean

RATIOS = np.array([0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0])  # variance of a step of the walk / variance of the noise
LENGTH, SERIES, START = 2000, 16, 0.3  # 16 series of each ratio share a factor


def measurements() -> torch.Tensor:
    """Return random walks with noise: (steps, ratios, series)."""
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.standard_normal((LENGTH, RATIOS.size, SERIES)) * np.sqrt(RATIOS)[:, None], axis=0)
    return torch.from_numpy(walk + rng.standard_normal(walk.shape))


def kalman_gain(ratio: np.ndarray) -> np.ndarray:
    """The steady gain of the filter for a random walk with noise."""
    variance = (ratio + np.sqrt(ratio**2 + 4 * ratio)) / 2
    return variance / (variance + 1)


def forecast_error(x: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """The mean squared error of the forecast one step ahead, for each ratio."""
    forecast = ewm_mean(x, alpha=alpha[:, None], adjust=False)[:-1]
    return ((x[1:] - forecast)[100:] ** 2).mean((0, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()

    x, best, history = measurements(), kalman_gain(RATIOS), []
    logit = torch.full(RATIOS.shape, START, dtype=torch.float64).logit().requires_grad_()
    optimizer = torch.optim.Adam([logit], lr=0.1)
    for _ in tqdm(range(options.steps), desc=f"fitting {RATIOS.size} factors"):
        optimizer.zero_grad()
        forecast_error(x, logit.sigmoid()).log().sum().backward()
        optimizer.step()
        history.append(logit.sigmoid().tolist())
    learned = logit.sigmoid().detach()

    errors = [forecast_error(x, torch.as_tensor(a)) for a in (np.full(RATIOS.size, START), learned, best)]
    print(f"{SERIES} series of {LENGTH} steps for each ratio of variances; squared error of the next value")
    print(f"   {'ratio':>8}{'learned':>10}{'Kalman':>9}{f'error at {START}':>15}{'learned':>10}{'Kalman':>9}")
    for ratio, own, gain, *error in zip(RATIOS, learned.tolist(), best, *errors, strict=True):
        print(f"   {ratio:8g}{own:10.3f}{gain:9.3f}{error[0]:15.3f}{error[1]:10.3f}{error[2]:9.3f}")
    plot(options.output, np.array(history), best, [error.numpy() for error in errors])
    print(f"Saved {options.output}")
    if np.max(np.abs(learned.numpy() - best)) > 0.03:
        raise SystemExit("the learned factors are not the Kalman filter's")


def plot(output: Path, history: np.ndarray, best: np.ndarray, errors: list[np.ndarray]) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for k, color in enumerate(plt.cm.viridis(np.linspace(0, 0.9, best.size))):
        left.plot(history[:, k], color=color, lw=2, label=f"{RATIOS[k]:g}")
        left.axhline(best[k], color=color, lw=1, ls=":")
    left.set(xlabel="step of the optimizer", ylabel="smoothing factor", ylim=(0, 1))
    left.set_title("Learned (lines) and Kalman's (dotted)")
    left.legend(frameon=False, title="ratio", loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
    right.loglog(RATIOS, errors[0] / errors[2], "o-", color="#D55E00", label=f"fixed factor {START}")
    right.loglog(RATIOS, errors[1] / errors[2], "o-", color="#0072B2", label="learned")
    right.set(xlabel="variance of the walk / variance of the noise", title="Squared error, relative to Kalman's")
    right.legend(frameon=False)
    for axis, ticks in ((right.xaxis, RATIOS), (right.yaxis, np.arange(1, 1.5, 0.1).round(1))):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_minor_locator(NullLocator())
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(output, dpi=120)


if __name__ == "__main__":
    main()

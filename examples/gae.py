"""Generalized advantage estimation compared with a plain loop: the same numbers in less time.

A synthetic policy bets on the next move of a real glucose record, in 64 environments that start at different times of
the week. Its values are a smoothed reward. Nothing is learned: the arrays are those of a learner after a rollout.
Prints a short report and saves a chart:

    python examples/gae.py [--output FILE]
"""

from __future__ import annotations

import argparse
import time as clock
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
import numpy as np

from fastrecur.smoothing import ewm_mean, gae

HERE = Path(__file__).resolve().parent
BLUE, GREY, ORANGE = "#0072B2", "#8A8A8A", "#D55E00"
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "legend.frameon": False}
STEPS, ENVIRONMENTS, GAMMA = 2048, 64, 0.99


def rollout() -> tuple[np.ndarray, ...]:
    """Rewards, values with one more step, and where episodes were terminated or truncated."""
    glucose = np.loadtxt(HERE / "data" / "glucose.csv", delimiter=",", skiprows=1, usecols=1)
    rng = np.random.default_rng(0)
    places = (np.arange(STEPS)[:, None] + rng.integers(0, glucose.size, ENVIRONMENTS)) % (glucose.size - 1)
    rewards = np.sign(ewm_mean(np.diff(glucose), span=3))[places - 1] * np.diff(glucose)[places] / 10
    values = np.concatenate([ewm_mean(rewards, span=40), np.zeros((1, ENVIRONMENTS))])
    alarm = glucose > 240  # where it goes off, an episode ends
    terminated = (alarm & ~np.roll(alarm, 1))[places]
    truncated = np.zeros_like(terminated)
    truncated[255::256] = True
    return rewards, values, terminated, truncated


def plain_loop(rewards, values, terminated, truncated, gamma, lam):
    """The loop of many training scripts."""
    advantages, later = np.zeros_like(rewards), np.zeros(rewards.shape[1])
    for t in reversed(range(len(rewards))):
        error = rewards[t] + gamma * values[t + 1] * ~terminated[t] - values[t]
        later = error + gamma * lam * ~(terminated[t] | truncated[t]) * later
        advantages[t] = later
    return advantages


def seconds(function, *arguments) -> float:
    times = []
    for _ in range(15):
        began = clock.perf_counter()
        function(*arguments)
        times.append(clock.perf_counter() - began)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    output = parser.parse_args().output

    rewards, values, terminated, truncated = rollout()

    def fast(lam):
        return gae(rewards, values, GAMMA, lam, terminated, truncated)

    difference = np.max(np.abs(fast(0.95) - plain_loop(rewards, values, terminated, truncated, GAMMA, 0.95)))
    print(f"{STEPS} steps of {ENVIRONMENTS} environments, {terminated.sum()} terminated, {truncated.sum()} truncated")
    print(f"   gae and the loop differ by at most {difference:.0e}")
    if difference > 1e-9:
        raise SystemExit("gae does not give the loop's numbers")
    loop = seconds(plain_loop, rewards, values, terminated, truncated, GAMMA, 0.95)
    ours = seconds(fast, 0.95)
    print(f"   loop {loop * 1e3:.2f} ms, gae {ours * 1e3:.2f} ms: {loop / ours:.0f} times as fast")
    plot(output, rewards, values, terminated, truncated, fast)
    print(f"Saved {output}")


def plot(output, rewards, values, terminated, truncated, fast) -> None:
    lane = int(np.argmax(terminated[:400].any(axis=0)))
    part = slice(0, 400)
    with plt.rc_context(STYLE):
        figure, (top, bottom) = plt.subplots(2, 1, figsize=(10, 6), layout="constrained", sharex=True)
        top.bar(np.arange(400), rewards[part, lane], width=1.0, color=GREY, label="rewards")
        top.plot(values[part, lane], color="black", lw=1.2, label="values")
        top.set_title("One environment of a rollout")
        for lam, colour in [(0.0, GREY), (0.95, ORANGE), (1.0, BLUE)]:
            name = {0.0: "one step", 0.95: "λ = 0.95", 1.0: "λ = 1: the whole return"}[lam]
            bottom.plot(fast(lam)[part, lane], color=colour, lw=1.6, label=name)
        bottom.set(xlabel="step", title="Its advantages")
        for panel in (top, bottom):
            for kind, dashes in ((terminated, "-"), (truncated, "--")):
                for k, step in enumerate(np.flatnonzero(kind[part, lane])):
                    name = "terminated" if dashes == "-" else "truncated"
                    panel.axvline(
                        step, color="#555555", ls=dashes, lw=0.9, label=name if not k and panel is top else None
                    )
            panel.legend(ncols=4, loc="lower right", bbox_to_anchor=(1.0, 0.98))
        figure.savefig(output, dpi=130)
        plt.close(figure)


if __name__ == "__main__":
    main()

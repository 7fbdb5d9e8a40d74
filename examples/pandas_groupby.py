"""Groups of a pandas table, smoothed in one call: the numbers of `groupby(...).ewm(...)`, and chunks as they arrive.

A table of sensors has readings of different numbers and with gaps. pandas smooths group by group; here `groups=` takes
each row's sensor. Then the same table arrives in chunks of some steps, with a column for each sensor, and a stream
continues from its state. Prints the differences and the times, and saves a chart, in about 3 s on two cores:

    pip install '.[examples]' pandas
    python examples/pandas_groupby.py [--sensors N] [--output FILE]
"""

import argparse
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from fastrecur.smoothing import Ewm, ewm_mean

HALFLIFE = 20


def readings(sensors: int) -> pd.DataFrame:
    """Return a long table: sensor, step, value; sensors stop at different times, and some values are missing."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(300, 1000, sensors)
    sensor = np.repeat(np.arange(sensors), lengths)
    step = np.concatenate([np.arange(length) for length in lengths])
    value = np.sin(step / 60 + sensor) + 0.5 * rng.standard_normal(step.size)
    value[rng.random(step.size) < 0.1] = np.nan
    table = pd.DataFrame({"sensor": sensor, "step": step, "value": value})
    return table.sort_values(["step", "sensor"], ignore_index=True)  # in order of time, as a log is


def by_pandas(table: pd.DataFrame) -> pd.Series:
    return table.groupby("sensor")["value"].ewm(halflife=HALFLIFE).mean().droplevel(0).sort_index()


def in_one_call(table: pd.DataFrame) -> pd.Series:
    return ewm_mean(table["value"], halflife=HALFLIFE, groups=table["sensor"])


def in_chunks(table: pd.DataFrame, steps: int) -> np.ndarray:
    """The same from chunks of some steps each: the state is kept between them.

    Each sensor is a column; where it has stopped, values are missing and change nothing.
    """
    wide = table.pivot(index="step", columns="sensor", values="value").to_numpy()
    stream = Ewm(halflife=HALFLIFE)
    smooth = np.concatenate([stream.update(wide[k : k + steps]) for k in range(0, len(wide), steps)])
    return smooth[table["step"], table["sensor"]]


def seconds(function, *arguments) -> float:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sensors", type=int, default=500)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()

    table = readings(options.sensors)
    theirs, ours, chunks = by_pandas(table), in_one_call(table), in_chunks(table, 100)
    differences = [np.nanmax(np.abs(result - theirs)) for result in (ours, chunks)]
    same = all(np.array_equal(np.isnan(result), np.isnan(theirs)) for result in (ours, chunks))
    print(f"{len(table)} readings of {options.sensors} sensors, half-life {HALFLIFE} steps")
    print(
        f"   one call differs from pandas by at most {differences[0]:.0e}, chunks of 100 steps by {differences[1]:.0e}"
    )
    slow, fast = seconds(by_pandas, table), seconds(in_one_call, table)
    print(f"   pandas {slow * 1e3:.0f} ms, here {fast * 1e3:.0f} ms: {slow / fast:.1f} times as fast")
    plot(options.output, table.assign(smooth=ours))
    print(f"Saved {options.output}")
    if not same or max(differences) > 1e-12:
        raise SystemExit("the numbers are not pandas'")


def plot(output: Path, table: pd.DataFrame) -> None:
    figure, ax = plt.subplots(figsize=(9, 4.2), layout="constrained")
    for sensor, color in zip(range(3), ("#0072B2", "#D55E00", "#009E73"), strict=True):
        rows = table[table["sensor"] == sensor]
        ax.plot(rows["step"], rows["value"], ".", ms=2, color=color, alpha=0.4)
        ax.plot(rows["step"], rows["smooth"], color=color, lw=2, label=f"sensor {sensor}, {len(rows)} readings")
    ax.set(xlabel="step", ylabel="value", title="Three of the sensors, smoothed in one call")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, ncols=3)
    figure.savefig(output, dpi=120)


if __name__ == "__main__":
    main()

"""Irregular glucose readings with gaps: the mean in time, its spread, and smoothing without a lag.

A week of real measurements, one about every five minutes, with gaps. Prints a short report and saves a chart,
in about 2 s on two cores:

    python examples/smoothing.py [--output FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np

from fastrecur.smoothing import Ewm, ewm_filtfilt, ewm_mean, ewm_std

HERE = Path(__file__).resolve().parent
BLUE, GREEN, GREY, ORANGE = "#0072B2", "#009E73", "#8A8A8A", "#D55E00"
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "legend.frameon": False}
HALFLIFE = np.timedelta64(30, "m")


def read_glucose(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Time (datetime64, to the minute) and glucose (float64, mg/dL)."""
    columns = np.loadtxt(path, delimiter=",", skiprows=1, dtype=str, unpack=True)
    return columns[0].astype("datetime64[m]"), columns[1].astype(np.float64)


def lag_in_minutes(smooth: np.ndarray, x: np.ndarray) -> int:
    """The lag of `smooth` behind `x`: the shift of the best agreement."""
    errors = [np.mean((smooth[k:] - x[: x.size - k]) ** 2) for k in range(25)]
    return 5 * int(np.argmin(errors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    output = parser.parse_args().output

    time, x = read_glucose(HERE / "data" / "glucose.csv")
    steps = 6.0  # the half-life, if every step took five minutes
    by_time = ewm_mean(x, halflife=HALFLIFE, times=time)
    spread = ewm_std(x, halflife=HALFLIFE, times=time)
    by_step = ewm_mean(x, halflife=steps)
    both = ewm_filtfilt(x, halflife=steps)

    gaps = np.diff(time).astype(int)
    after = int(np.argmax(gaps)) + 1
    print(
        f"{x.size} glucose readings, half-life {HALFLIFE.astype(int)} minutes; the longest gap is {gaps.max()} minutes"
    )
    print(f"   first reading after it {x[after]:.0f}; mean in time {by_time[after]:.1f}, by steps {by_step[after]:.1f}")
    for name, curve in [("mean in time", by_time), ("forward and in reverse", both)]:
        print(f"   {name:<24} lags {lag_in_minutes(curve, x):3d} min")

    stream, parts = Ewm(halflife=HALFLIFE), []
    for day in np.split(np.arange(x.size), np.flatnonzero(np.diff(time.astype("M8[D]")).astype(int)) + 1):
        parts.append(stream.update(x[day], time[day]))
    error = np.max(np.abs(np.concatenate(parts) - by_time))
    print(f"   day by day, as a stream of {len(parts)} chunks: at most {error:.0e} mg/dL from the whole")
    if error > 1e-9:
        raise SystemExit("the stream does not give the whole's numbers")
    plot(output, time, x, by_time, spread, by_step, both, after)
    print(f"Saved {output}")


def plot(output, time, x, by_time, spread, by_step, both, after) -> None:
    with plt.rc_context(STYLE):
        figure, (top, bottom) = plt.subplots(2, 1, figsize=(10, 7.2), layout="constrained")
        first, last = time[after] - np.timedelta64(9, "h"), time[after] + np.timedelta64(9, "h")
        # A line through a gap would be an invention.
        broken = np.insert(np.diff(time).astype(int) > 20, 0, False)
        curve, band = np.where(broken, np.nan, by_time), np.where(broken, np.nan, spread)
        top.axvspan(time[after - 1], time[after], color=GREY, alpha=0.15, lw=0)
        top.annotate("sensor off", (time[after - 1], 1.0), (4, -12), ("data", "axes fraction"), "offset points",
                     color="#555555")  # fmt: skip
        top.fill_between(time, curve - band, curve + band, color=BLUE, alpha=0.2, lw=0, label="± one deviation")
        top.plot(time, x, ".", ms=5, color=GREY, label="readings")
        top.plot(time, by_step, color=ORANGE, lw=1.5, label="by steps: the gap counts as one")
        top.plot(time, curve, color=BLUE, lw=2, label="in time: half-life 30 minutes")
        shown = (time >= first) & (time <= last)
        room = 0.12 * np.ptp(x[shown])
        top.set(xlim=(first, last), ylim=(x[shown].min() - room, x[shown].max() + 2.5 * room), ylabel="mg/dL")
        top.set_title("After a gap, a mean in time has forgotten earlier values")
        top.legend(ncols=2, loc="upper right")

        day = np.array(["2010-09-17T06", "2010-09-18T00"], "M8[m]")
        bottom.plot(time, x, ".", ms=5, color=GREY, label="readings")
        bottom.plot(time, by_step, color=ORANGE, lw=1.5, label="forward: late at each turn")
        bottom.plot(time, both, color=GREEN, lw=2, label="ewm_filtfilt: forward and in reverse")
        bottom.set(xlim=day, ylim=(40, 250), ylabel="mg/dL", title="Zero phase: the two lags cancel")
        bottom.legend(loc="upper right")
        for panel in (top, bottom):
            panel.xaxis.set_major_locator(mdates.HourLocator(byhour=range(0, 24, 3)))
            panel.xaxis.set_major_formatter(mdates.DateFormatter("%a %H:%M"))
        figure.savefig(output, dpi=130)
        plt.close(figure)


if __name__ == "__main__":
    main()

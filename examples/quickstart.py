"""A week of real glucose measurements, smoothed with fastrecur.

Prints a short report and saves a picture, in about 3 s on two cores:

    python examples/quickstart.py [--output FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np

import fastrecur

HERE = Path(__file__).resolve().parent
MINUTES = 45.0  # time constant of the constant gate, and of the other one while glucose is steady
STEADY = 0.6  # mg/dL per minute: up to about this speed the data-dependent gate stays nearly shut

# Okabe and Ito's colours, told apart with any colour vision.
ORANGE, BLUE, GREEN, GREY = "#D55E00", "#0072B2", "#009E73", "#8A8A8A"
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "legend.frameon": False,
}


def read_glucose(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Time (datetime64, to the minute) and glucose (float64, mg/dL)."""
    columns = np.loadtxt(path, delimiter=",", skiprows=1, dtype=str, unpack=True)
    return columns[0].astype("datetime64[m]"), columns[1].astype(np.float64)


def steps_in_minutes(time: np.ndarray) -> np.ndarray:
    """How long before each measurement the last one was."""
    return np.diff(time, prepend=time[:1] - 5).astype(np.float64)


def speed_of(time: np.ndarray, x: np.ndarray) -> np.ndarray:
    """How fast glucose moves, in mg/dL per minute, averaged to remove jitter."""
    return np.abs(fastrecur.forget_mult(0.3, np.diff(x, prepend=x[:1]) / steps_in_minutes(time)))


def moving_gate(time: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """One gate for each measurement: open when glucose moves, or after a gap in the record."""
    return -np.expm1(-steps_in_minutes(time) / MINUTES * (1 + (speed / STEADY) ** 2))


def lag_in_minutes(smooth: np.ndarray, x: np.ndarray) -> int:
    """The lag of `smooth` behind `x`: the shift of the best agreement."""
    shifts = range(25)
    errors = [np.mean((smooth[k:] - x[: x.size - k]) ** 2) for k in shifts]
    return 5 * int(np.argmin(errors))


def report_curve(name: str, h: np.ndarray, x: np.ndarray, steady: np.ndarray) -> None:
    """One row of the report's table."""
    away = np.sqrt(np.mean((h - x) ** 2))
    jitter = np.median(np.abs(np.diff(h, 2)[steady[2:]]))  # the median: a few jumps of the sensor are no jitter
    print(f"   {name:<37}{lag_in_minutes(h, x):4d} min{jitter:13.2f} mg/dL{away:13.1f} mg/dL")


def main() -> None:
    """Compute, report, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE / "quickstart.png")
    output = parser.parse_args().output

    time, x = read_glucose(HERE / "data" / "glucose.csv")
    gap = np.diff(time).max().astype(int)
    print("fastrecur quickstart: h[t] = f[t]*x[t] + (1 - f[t])*h[t-1]")
    print(f"data: {x.size} glucose measurements, {time[0]} to {time[-1]},")
    print(f"      one about every 5 minutes, the longest gap {gap} minutes\n")

    # 1. A constant gate: a Python float is broadcast, h0 is the state before the first step.
    constant = float(-np.expm1(-5 / MINUTES))
    ema = fastrecur.forget_mult(constant, x, h0=x[0])

    # 2. A gate of its own for each step, made from the data.
    speed = speed_of(time, x)
    gate = moving_gate(time, speed)
    h = fastrecur.forget_mult(gate, x, h0=x[0])

    # 3. The reverse direction, run over the forward result: the two lags cancel.
    both = fastrecur.forget_mult(constant, ema, h0=ema[-1], reverse=True)

    # A constant gate that lags no more than the data-dependent one lets more of the jitter through.
    lag = lag_in_minutes(h, x)
    curves = ((f, fastrecur.forget_mult(f, x, h0=x[0])) for f in np.arange(constant, 1, 0.01))
    quick, open_wider = next((f, curve) for f, curve in curves if lag_in_minutes(curve, x) <= lag)

    steady = speed < STEADY
    print(f"{'1-3. Smoothed':<40}{'lag':>8}{'jitter at rest':>19}{'from the data':>19}")
    report_curve("the measurements themselves", x, x, steady)
    report_curve(f"constant gate, f = {constant:.3f}", ema, x, steady)
    report_curve("data-dependent gate", h, x, steady)
    report_curve(f"constant gate of that lag, f = {quick:.3f}", open_wider, x, steady)
    report_curve("constant gate, then in reverse", both, x, steady)

    # 4. A stream: the state after the first chunk is the next chunk's h0.
    cut = x.size // 2
    first, state = fastrecur.forget_mult(gate[:cut], x[:cut], h0=x[0], return_state=True)
    second, state = fastrecur.forget_mult(gate[cut:], x[cut:], h0=state, return_state=True)
    chunks = np.concatenate([first, second])
    ulps = np.max(np.abs(chunks - h) / np.spacing(np.abs(h)))
    print(f"\n4. Two chunks of {first.size} and {second.size} steps, the state carried over")
    print(
        f"   differ from the whole by at most {ulps:.0f} units in the last place; the last state is {state:.6f} mg/dL"
    )
    if not np.allclose(chunks, h, rtol=1e-14, atol=0):
        raise SystemExit("the chunks do not add up to the whole")

    # 5. Gradients of a loss by forget_mult_vjp, against a finite difference.
    def loss(f: np.ndarray, x: np.ndarray) -> float:
        return float(np.mean((fastrecur.forget_mult(f, x, h0=x[0])[:-1] - target) ** 2))

    target = x[1:].copy()  # the next measurement
    grad_h = np.append(2 * (h[:-1] - target) / target.size, 0.0)
    grad_f, grad_x, grad_h0 = fastrecur.forget_mult_vjp(grad_h, gate, x, h, x[0])
    grad_x[0] += grad_h0  # x[0] is also the first state
    rng = np.random.default_rng(0)
    df, dx = rng.normal(size=x.size), rng.normal(size=x.size)
    slope, eps = grad_f @ df + grad_x @ dx, 1e-6
    estimate = (loss(gate + eps * df, x + eps * dx) - loss(gate - eps * df, x - eps * dx)) / (2 * eps)
    error = abs(estimate / slope - 1)
    print(f"\n5. Slope of the squared one-step error along a random direction of {2 * x.size} inputs")
    print(f"   by forget_mult_vjp     {slope:.9f}")
    print(f"   by finite difference   {estimate:.9f}    relative difference {error:.0e}")
    if error > 1e-6:
        raise SystemExit("the gradient does not match the finite difference")

    # What one state is made of: the gradient of h[moment] with respect to every measurement.
    moment = int(np.searchsorted(time, np.datetime64("2010-09-17T22:00")))
    pick = np.zeros_like(x)
    pick[moment] = 1.0
    weights = {
        "constant gate": fastrecur.forget_mult_vjp(pick, constant, x, ema, x[0])[1],
        "data-dependent gate": fastrecur.forget_mult_vjp(pick, gate, x, h, x[0])[1],
    }

    draw(output, time, x, ema, h, both, constant, gate, moment, weights)
    print(f"\npicture: {output}")


def draw(output, time, x, ema, h, both, constant, gate, moment, weights) -> None:
    """Save the picture: the two smoothed curves, the gates, the reverse direction, the weights."""
    with plt.rc_context(STYLE | {"axes.titlesize": 11}):
        figure = plt.figure(figsize=(8.6, 8), layout="constrained")
        panels = figure.subplot_mosaic(
            [["signal", "signal"], ["gate", "gate"], ["reverse", "weights"]],
            height_ratios=[3.2, 1.1, 2.4],
        )
        top, middle, left, right = (panels[k] for k in ("signal", "gate", "reverse", "weights"))
        middle.sharex(top)

        top.axhspan(70, 180, color=GREEN, alpha=0.08, lw=0)
        label = {"xycoords": ("axes fraction", "data"), "color": GREEN, "ha": "right"}
        top.annotate("target range, 70 to 180", (0.995, 74), **label)
        top.plot(time, x, ".", ms=3.5, color=GREY, label="measurements")
        top.plot(time, ema, color=ORANGE, lw=1.8, label=f"constant gate, f = {constant:.3f}")
        top.plot(time, h, color=BLUE, lw=1.8, label="data-dependent gate")
        days = np.array(["2010-09-16T12", "2010-09-18T12"], "M8[m]")
        top.set(ylabel="glucose (mg/dL)", xlim=days, ylim=(40, 250))
        top.set_title("h[t] = f[t] x[t] + (1 - f[t]) h[t-1] on continuous glucose measurements")
        top.plot(time[moment], h[moment], "o", ms=9, mfc="none", mec="black", mew=1.4)
        top.legend(loc="upper right", ncols=3)
        top.tick_params(labelbottom=False)

        middle.fill_between(time, gate, step="mid", color=BLUE, alpha=0.35, lw=0)
        middle.axhline(constant, color=ORANGE, lw=1.8)
        middle.set(ylabel="gate f", ylim=(0, 1))
        middle.set_title("The gate opens while glucose moves and is nearly shut while it is steady")
        middle.xaxis.set_major_locator(mdates.HourLocator(byhour=range(0, 24, 6)))
        middle.xaxis.set_major_formatter(mdates.DateFormatter("%a %H:%M"))

        left.plot(time, x, ".", ms=3.5, color=GREY)
        left.plot(time, ema, color=ORANGE, lw=1.8, label="forward")
        left.plot(time, both, color=GREEN, lw=1.8, label="forward, then in reverse")
        day = np.array(["2010-09-17T06", "2010-09-18T00"], "M8[m]")
        left.set(ylabel="glucose (mg/dL)", xlim=day, ylim=(40, 250))
        left.set_title("Forward, then in reverse: no lag")
        left.legend(loc="upper right")
        left.xaxis.set_major_locator(mdates.HourLocator(byhour=range(0, 24, 3)))
        left.xaxis.set_major_formatter(mdates.DateFormatter("%H:%M"))

        hours = (time - time[moment]).astype(float) / 60
        for (name, weight), colour in zip(weights.items(), (ORANGE, BLUE), strict=True):
            right.fill_between(hours, weight, step="mid", color=colour, alpha=0.25, lw=0)
            right.step(hours, weight, where="mid", color=colour, lw=1.5, label=name)
        right.set(xlim=(-5, 0.1), ylim=(0, None), xlabel="hours before")
        right.set_ylabel("weight = d h[t] / d x[s]")
        right.set_title("What the circled state is made of")
        right.legend(loc="upper left")
        figure.savefig(output, dpi=130)
        plt.close(figure)


if __name__ == "__main__":
    main()

"""An equalizer and a compressor, learned by gradient from what they made of a recording.

The speech is real (0.9 s); the "after" is made here, by filters and a compressor whose settings the learners do not
see. The equalizer's learner has more bands than were used, all of them flat at first. Prints a short report and saves a
chart, in about 5 s on two cores:

    python examples/equalizer.py [--steps 100] [--output FILE]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
import numpy as np
import torch

from fastrecur.filters import follow, sosfilt

HERE = Path(__file__).resolve().parent
BLUE, ORANGE, GRAY = "#0072B2", "#D55E00", "#999999"
RATE = 8000
# Each band's frequency in Hz, gain in dB and quality; what the learner starts from has more bands, all of them flat.
BANDS = [(300.0, 8.0, 1.0), (1100.0, -10.0, 1.5), (2600.0, 9.0, 2.0)]
START = [(frequency, 0.0, 1.0) for frequency in (200.0, 500.0, 1000.0, 2000.0, 3000.0)]
# The threshold in dB, the ratio, and the times of attack and release in ms.
COMPRESSOR, COMPRESSOR_START = (-30.0, 4.0, 3.0, 80.0), (-20.0, 2.0, 10.0, 30.0)


def bands_to_sos(bands: torch.Tensor) -> torch.Tensor:
    """Peaking filters of the Audio EQ Cookbook: ``(bands, 3)`` to ``(bands, 6)``."""
    angle = 2 * math.pi * bands[:, 0] / RATE
    gain, width = 10 ** (bands[:, 1] / 40), angle.sin() / (2 * bands[:, 2])
    middle, first = -2 * angle.cos(), 1 + width / gain
    fields = 1 + width * gain, middle, 1 - width * gain, first, middle, 1 - width / gain
    return torch.stack([field / first for field in fields], -1)


def compress(x: torch.Tensor, settings: torch.Tensor) -> torch.Tensor:
    """Take away what the level has above a threshold, except a part of it: one over the ratio."""
    threshold, ratio, attack, release = settings
    above = (20 * x.abs().clamp(min=1e-4).log10() - threshold).clamp(min=0)
    rise, fall = (-torch.expm1(-1000 / (RATE * time)) for time in (attack, release))
    return x * 10 ** (-(1 - 1 / ratio) * follow(above, rise, fall) / 20)


def learn(make, free, target, steps):
    """Return how far results are from a target, in dB, at each evaluation; ``free`` is changed in place."""
    optimizer = torch.optim.LBFGS([free], max_iter=steps, tolerance_change=1e-14, line_search_fn="strong_wolfe")
    errors = []

    def closure():
        optimizer.zero_grad()
        loss = (make(free) - target).square().mean() / target.square().mean()
        loss.backward()
        errors.append(10 * math.log10(loss.item()))
        return loss

    optimizer.step(closure)
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()

    speech = torch.from_numpy(np.fromfile(HERE / "data" / "speech.raw", "<i2") / 2**15)
    # Of speech, most is low: the first difference has all frequencies.
    before = torch.diff(speech) / torch.diff(speech).abs().max()
    true_sos = bands_to_sos(torch.tensor(BANDS, dtype=torch.float64))
    start = torch.tensor(START, dtype=torch.float64)
    free = torch.stack([start[:, 0].log(), start[:, 1] / 10, start[:, 2].log()], -1).requires_grad_()

    def bands(free):
        return torch.stack([free[:, 0].exp().clamp(max=0.49 * RATE), 10 * free[:, 1], free[:, 2].exp()], -1)

    equalized = sosfilt(true_sos, before)
    errors = learn(lambda free: sosfilt(bands_to_sos(bands(free)), before), free, equalized, options.steps)
    found = bands(free.detach())
    print(f"{len(before) / RATE:.1f} s of speech at {RATE} Hz, {options.steps} steps of L-BFGS")
    print(f"   equalizer: error {errors[0]:.1f} dB before, {errors[-1]:.1f} dB after learning {len(START)} bands")

    settings = torch.tensor(COMPRESSOR, dtype=torch.float64)
    scale = torch.tensor([10.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    logs = torch.tensor(COMPRESSOR_START, dtype=torch.float64)
    knobs = torch.cat([logs[:1], logs[1:].log()]).div(scale).requires_grad_()

    def unscaled(knobs):
        return torch.cat([(knobs * scale)[:1], (knobs * scale)[1:].exp()])

    compressed = compress(before, settings)
    squeezed = learn(lambda knobs: compress(before, unscaled(knobs)), knobs, compressed, options.steps)
    learned = unscaled(knobs.detach())
    print(f"   compressor: error {squeezed[0]:.1f} dB before, {squeezed[-1]:.1f} dB after learning")
    for name, values in (("true", settings), ("learned", learned)):
        told = "threshold {:.1f} dB, ratio {:.2f}, attack {:.2f} ms, release {:.1f} ms".format(*values.tolist())
        print(f"      {name:8} {told}")
    plot(options.output, (true_sos, bands_to_sos(found)), (errors, squeezed), (before, compressed))
    print(f"Saved {options.output}")
    if max(errors[-1] - errors[0], squeezed[-1] - squeezed[0]) > -10:
        raise SystemExit("not learned")


def response(sos: torch.Tensor, frequencies: np.ndarray) -> np.ndarray:
    """A cascade's gain in dB at some frequencies."""
    z = np.exp(-2j * np.pi * frequencies / RATE)[:, None]
    b0, b1, b2, _, a1, a2 = sos.numpy().T
    return 20 * np.log10(abs((b0 + b1 * z + b2 * z**2) / (1 + a1 * z + a2 * z**2)).prod(-1))


def plot(output, filters, errors, signals) -> None:
    style = {"axes.titlelocation": "left", "axes.titleweight": "bold", "axes.spines.top": False}
    with plt.rc_context({**style, "axes.spines.right": False}):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
        frequencies = np.geomspace(60, 3900, 400)
        true, found = (response(sos, frequencies) for sos in filters)
        left.semilogx(frequencies, true, color=GRAY, linewidth=5, alpha=0.6, label="unknown equalizer")
        left.semilogx(frequencies, found, color=BLUE, label="learned")
        left.set(title="Gain, dB", xlabel="frequency, Hz", xticks=[100, 300, 1000, 3000])
        left.set_xticklabels([100, 300, 1000, 3000])
        left.legend(frameon=False)
        for own, color, name in zip(errors, (BLUE, ORANGE), ("equalizer", "compressor"), strict=True):
            middle.plot(own, color=color, label=name)
        middle.set(title="Error, dB", xlabel="evaluation", ylim=(-150, 15))
        middle.legend(frameon=False)
        time = np.arange(len(signals[0])) / RATE
        for signal, color, name in zip(signals, (GRAY, ORANGE), ("before", "compressed"), strict=True):
            envelope = follow(signal.abs().numpy(), 0.5, 0.005)
            right.plot(time, 20 * np.log10(np.maximum(envelope, 1e-3)), color=color, label=name)
        right.set(title="Envelope, dB", xlabel="seconds")
        right.legend(frameon=False)
        figure.savefig(output, dpi=150)
        plt.close(figure)


if __name__ == "__main__":
    main()

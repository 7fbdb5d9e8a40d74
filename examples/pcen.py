"""Speech in a noise that grows: a spectrogram in decibels, and normalised by each channel's own recent mean (PCEN).

The speech is real (0.9 s, repeated four times); the noise of a fan that comes nearer is added here. Prints a short report
and saves a picture:

    python examples/pcen.py [--output FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
import numpy as np

from fastrecur.smoothing import pcen

HERE = Path(__file__).resolve().parent
RATE, HOP, WINDOW, BANDS = 8000, 80, 256, 40
ORANGE, BLUE = "#D55E00", "#0072B2"


def mel_bands() -> np.ndarray:
    """Triangles over the bins of the spectrum, equally wide on the mel scale: ``(BANDS, bins)``."""
    mel = np.linspace(2595 * np.log10(1 + 60 / 700), 2595 * np.log10(1 + RATE / 2 / 700), BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    bins = np.arange(WINDOW // 2 + 1) * RATE / WINDOW
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.clip(np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)), 0, None)


def spectrogram(sound: np.ndarray) -> np.ndarray:
    """Magnitudes of the mel bands: ``(BANDS, columns)``."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP] * np.hanning(WINDOW)
    return mel_bands() @ np.abs(np.fft.rfft(frames)).T


def contrast(values: np.ndarray, speech: np.ndarray) -> float:
    """How far the loudest columns of the speech stand out of the softest, in the spread of these."""
    loud, soft = (values[:, part].mean(axis=0) for part in (speech > np.quantile(speech, 0.75), speech < 1e-9 + np.quantile(speech, 0.25)))  # fmt: skip
    return float((loud.mean() - soft.mean()) / soft.std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("pcen.png"))
    output = parser.parse_args().output

    speech = np.tile(np.fromfile(HERE / "data" / "speech.raw", "<i2") / 2**15, 4)
    seconds = np.arange(speech.size) / RATE
    noise = np.random.default_rng(0).standard_normal(speech.size)
    noise = np.convolve(noise, np.exp(-np.arange(40) / 8), "same") * 0.004 * np.exp(seconds)
    sound = (speech + noise) * 2**15

    energy = spectrogram(sound)
    decibels = 20 * np.log10(energy + 1)
    normal = pcen(energy, sr=RATE, hop_length=HOP, time_constant=0.2)
    loudness = spectrogram(speech * 2**15).mean(axis=0)
    columns = np.arange(energy.shape[1]) * HOP / RATE
    print(f"{speech.size / RATE:.1f} s of speech, {energy.shape[1]} columns of {BANDS} bands, a growing noise")
    for name, values in [("decibels", decibels), ("PCEN", normal)]:
        print(f"   {name:<9} speech stands {contrast(values, loudness):4.1f} deviations out of the pauses")
    plot(output, columns, loudness, decibels, normal)
    print(f"Saved {output}")


def plot(output, columns, loudness, decibels, normal) -> None:
    style = {"axes.titlelocation": "left", "axes.titleweight": "bold"}
    with plt.rc_context(style):
        figure, panels = plt.subplots(
            3, 1, figsize=(10, 7), layout="constrained", height_ratios=[3, 3, 1.6], sharex=True
        )
        titles = ["Decibels: the noise drowns the last words", "PCEN: each band against its own recent mean"]
        for panel, values, title in zip(panels, (decibels, normal), titles, strict=False):
            low, high = np.quantile(values, [0.02, 0.995])
            panel.pcolormesh(columns, np.arange(BANDS), values, cmap="magma", vmin=low, vmax=high, rasterized=True)
            panel.set(ylabel="mel band", title=title)
        for values, name, colour in [(decibels, "decibels", ORANGE), (normal, "PCEN", BLUE)]:
            mean = values.mean(axis=0)
            panels[2].plot(columns, (mean - mean.min()) / np.ptp(mean), color=colour, label=name)
        panels[2].fill_between(columns, loudness / loudness.max(), color="#CCCCCC", lw=0, label="the speech alone")
        panels[2].set(ylabel="mean, scaled", xlabel="seconds", xlim=(columns[0], columns[-1]))
        panels[2].set_title("Mean over the bands")
        panels[2].legend(ncols=3, frameon=False, loc="upper left")
        figure.savefig(output, dpi=130)
        plt.close(figure)


if __name__ == "__main__":
    main()

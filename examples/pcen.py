"""Speech in growing noise: a spectrogram in decibels, and normalized by the recent mean of each channel (PCEN).

The speech is real (0.9 s, repeated); the noise is synthetic. Prints a short report and saves a chart, in
about 1 s on two cores:

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
BLUE, ORANGE = "#0072B2", "#D55E00"
RATE, HOP, WINDOW, BANDS = 8000, 80, 256, 40


def mel_bands() -> np.ndarray:
    """Triangular filters on the bins of the spectrum, equally wide on the mel scale: ``(BANDS, bins)``."""
    mel = np.linspace(2595 * np.log10(1 + 60 / 700), 2595 * np.log10(1 + RATE / 2 / 700), BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    bins = np.arange(WINDOW // 2 + 1) * RATE / WINDOW
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.clip(np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)), 0, None)


def spectrogram(sound: np.ndarray) -> np.ndarray:
    """Magnitudes of the mel bands: ``(BANDS, columns)``."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP] * np.hanning(WINDOW)
    return mel_bands() @ np.abs(np.fft.rfft(frames)).T


def agreement(values: np.ndarray, loudness: np.ndarray) -> float:
    """The correlation of the mean over the bands with the loudness of the speech alone."""
    return float(np.corrcoef(values.mean(axis=0), loudness)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    output = parser.parse_args().output

    once = np.fromfile(HERE / "data" / "speech.raw", "<i2") / 2**15
    speech = np.tile(once, 5)
    seconds = np.arange(speech.size) / RATE
    noise = np.convolve(np.random.default_rng(0).standard_normal(speech.size), np.exp(-np.arange(40) / 8), "same")
    energy = spectrogram((speech + 0.002 * np.exp(seconds) * noise) * 2**15)
    decibels = 20 * np.log10(energy)
    normal = pcen(energy, sr=RATE, hop_length=HOP)
    ablated = pcen(energy, sr=RATE, hop_length=HOP, gain=0.0)  # compressed, and not divided by the recent mean
    loudness = spectrogram(speech * 2**15).mean(axis=0)
    # The mean of PCEN starts from 1.0: the first time around it only finds its level.
    first = once.size // HOP
    decibels, normal, ablated, loudness = (v[..., first:] for v in (decibels, normal, ablated, loudness))
    columns = np.arange(len(loudness)) * HOP / RATE
    print(f"{columns[-1]:.1f} s of speech, {len(columns)} columns of {BANDS} bands, a growing noise")
    scores = {
        name: agreement(values, loudness)
        for name, values in [("decibels", decibels), ("PCEN", normal), ("PCEN, gain 0", ablated)]
    }
    for name, score in scores.items():
        print(f"   mean over the bands, {name:13} correlation with the speech alone {score:.2f}")
    plot(output, columns, loudness, decibels, normal)
    print(f"Saved {output}")
    if scores["PCEN"] < 1.1 * max(scores["decibels"], scores["PCEN, gain 0"]):
        raise SystemExit("the normalization makes no difference")


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
        panels[2].set(ylabel="mean, scaled", xlabel="seconds", ylim=(0, 1.35), xlim=(columns[0], columns[-1]))
        panels[2].set_title("Mean over the bands")
        panels[2].legend(ncols=3, frameon=False, loc="upper left")
        figure.savefig(output, dpi=130)
        plt.close(figure)


if __name__ == "__main__":
    main()

"""Smooth a series that is larger than memory: Zarr in, Zarr out, chunk by chunk.

    pip install '.[examples,dask]' zarr
    python examples/out_of_core.py [--size MEGABYTES] [--output PICTURE]

A year of synthetic sensor readings with drift, daily cycles and noise. Dask reads a chunk, fastrecur continues from the
state of the previous chunk, Dask writes the result; nothing else is kept in memory.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import dask
import dask.array as da
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import zarr
from tqdm.dask import TqdmCallback

from fastrecur.smoothing import ewm_mean

BLUE, GREY = "#0072B2", "#8A8A8A"
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "legend.frameon": False}
CHUNK = 1_000_000  # 8 MB
DAYS = 365


def readings(first, steps, whole):
    day = np.arange(first, first + steps) * (DAYS / whole)
    noise = np.random.default_rng(first).standard_normal(steps)
    return 10 - 9 * np.cos(2 * np.pi * day / DAYS) + 4 * np.sin(2 * np.pi * day) + 3 * noise


def write(path, steps):
    series = zarr.create_array(path, shape=(steps,), chunks=(CHUNK,), dtype="f8")
    whole = da.map_blocks(_block, steps, chunks=da.empty(steps, chunks=CHUNK).chunks, dtype="f8", meta=np.empty(0))
    with TqdmCallback(desc="writing"):
        dask.persist(da.store(whole, series, lock=False, compute=False))


def _block(whole, block_info=None):
    first, last = block_info[None]["array-location"][0]
    return readings(first, last - first, whole)


def smooth(source, target, halflife):
    series = da.from_zarr(source)
    result = ewm_mean(series, halflife=halflife)
    out = zarr.create_array(target, shape=result.shape, chunks=result.chunksize, dtype="f8")
    with TqdmCallback(desc="smoothing"):
        # persist: with compute, all writing would have one end in common, and Dask would put it off to the last.
        dask.persist(da.store(result, out, lock=False, compute=False))


def draw(source, target, output):
    raw, smoothed = zarr.open_array(source), zarr.open_array(target)
    steps = raw.shape[0]
    spans = [(0, steps), (int(steps * 0.45), int(steps * (0.45 + 7 / DAYS)))]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", width_ratios=(2, 1))
        for ax, (first, last), width in zip(axes, spans, (0.5, 1.3), strict=True):
            picks = slice(first, last, max(1, (last - first) // 1200))
            day = np.arange(first, last, picks.step) * (DAYS / steps)
            ax.plot(day, raw[picks], ".", markersize=2, color=GREY, alpha=0.5, label="readings (some of them)")
            ax.plot(day, smoothed[picks], color=BLUE, lw=width, label="smoothed")
            ax.set_xlabel("day")
        axes[0].set_ylabel("reading")
        axes[0].set_title(f"A year: {steps / 1e6:.0f} million readings")
        axes[1].set_title("A week of it")
        axes[0].legend(markerscale=4, loc="upper right")
        figure.savefig(output, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=800, help="megabytes of the series")
    parser.add_argument("--folder", help="folder of the series; a temporary folder by default")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"), help="path of the chart")
    arguments = parser.parse_args()
    steps = max(20_000, int(arguments.size * 1e6) // 8)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder, dask.config.set(scheduler="threads"):
        source, target = str(Path(folder) / "readings.zarr"), str(Path(folder) / "smoothed.zarr")
        write(source, steps)
        start = time.perf_counter()
        smooth(source, target, halflife=steps / DAYS / 12)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        draw(source, target, arguments.output)
    print(
        f"smoothed {steps * 8 / 1e6:.0f} MB in {seconds:.1f} s ({steps * 8 / 1e6 / seconds:.0f} MB/s); "
        f"the process never had more than {peak:.0f} MB, of which Python and its libraries are about 250"
    )
    print(f"Saved {arguments.output}")


if __name__ == "__main__":
    main()

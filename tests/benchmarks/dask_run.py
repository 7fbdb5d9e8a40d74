"""Out of core: a Zarr series smoothed chunk by chunk, beside Dask's own reading and writing of it; graphs; two workers.

    python tests/benchmarks/dask_run.py [--quick] [--memory] [--json FILE] [--folder FOLDER]

Peaks are of one process with Dask's two threads, all that it imports included.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import report
import zarr
from tqdm import tqdm

from fastrecur import forget_mult
from fastrecur.smoothing import ewm_mean

CHUNK = 1_000_000  # 8 MB
HALFLIFE = 1e5


def make(path, steps):
    series = zarr.create_array(path, shape=(steps,), chunks=(CHUNK,), dtype="f8", compressors=None)
    rng = np.random.default_rng(0)
    for first in range(0, steps, CHUNK):
        series[first : first + CHUNK] = rng.standard_normal(min(CHUNK, steps - first))


def one(what, source, target):
    """Run one case in this process; print seconds, peak in MB and the worst difference from one call on a part."""
    x = da.from_zarr(source)
    y = ewm_mean(x, halflife=HALFLIFE) if what == "smooth" else x
    out = zarr.create_array(target, shape=x.shape, chunks=x.chunksize, dtype="f8", compressors=None, overwrite=True)
    start, own = time.perf_counter(), time.process_time()
    with dask.config.set(scheduler="threads", num_workers=2):
        dask.persist(da.store(y, out, lock=False, compute=False))
    seconds, own = time.perf_counter() - start, time.process_time() - own
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    part = slice(0, 3 * CHUNK)
    expected = zarr.open_array(source)[part]
    expected = ewm_mean(expected, halflife=HALFLIFE) if what == "smooth" else expected
    print(json.dumps([seconds, peak, float(np.abs(out[part] - expected).max()), own]))


def out_of_core(folder, steps, rounds):
    source, target = str(folder / "x.zarr"), str(folder / "y.zarr")
    make(source, steps)
    found = {"copy": [], "smooth": []}
    for _ in tqdm(range(rounds), desc="out of core", disable=None):
        for what, rows in found.items():
            command = [sys.executable, __file__, "--one", what, source, target]
            rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    times = {what: statistics.median(row[0] for row in rows) for what, rows in found.items()}
    ratios = [c[0] / s[0] for c, s in zip(found["copy"], found["smooth"], strict=True)]
    error = max(row[2] for row in found["smooth"])
    assert error < 1e-12, error
    return {
        "megabytes": steps * 8 / 1e6,
        "copy CPU s": statistics.median(row[3] for row in found["copy"]),
        "smooth CPU s": statistics.median(row[3] for row in found["smooth"]),
        "copy seconds": times["copy"],
        "smooth seconds": times["smooth"],
        "speed beside copy (median of pairs)": statistics.median(ratios),
        "speed beside copy (each pair)": [round(r, 2) for r in ratios],
        "copy peak MB": max(row[1] for row in found["copy"]),
        "smooth peak MB": max(row[1] for row in found["smooth"]),
        "worst difference": error,
    }


def graphs(sizes):
    """Build graphs of many small chunks: tasks a chunk, seconds, seconds to run one."""
    rows = []
    for chunks in tqdm(sizes, desc="graphs", disable=None):
        x = da.ones(10 * chunks, chunks=10)
        start = time.perf_counter()
        h = forget_mult(0.1, x)
        built = time.perf_counter() - start
        tasks = len(dict(h.__dask_graph__())) - chunks
        row = {"chunks": chunks, "tasks": tasks, "tasks a chunk": tasks / chunks, "build s": built}
        if chunks <= 10_000:
            start = time.perf_counter()
            h.compute(scheduler="sync")
            row["run ms a chunk"] = (time.perf_counter() - start) / chunks * 1e3
        rows.append(row)
    return rows


def two_workers(steps):
    """Return seconds for eight blocks of lanes on one and on two worker processes of one thread."""
    from distributed import Client, LocalCluster

    times = {}
    for workers in (1, 2):
        with LocalCluster(workers, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster:
            with Client(cluster) as client:
                x = da.random.default_rng(0).random((steps, 64), chunks=(steps // 8, 8)).persist()
                f = da.random.default_rng(1).random((steps, 64), chunks=(steps // 8, 8)).persist()
                client.submit(len, dask.compute(x.sum(), f.sum())).result()
                runs = []
                for _ in range(4):
                    start = time.perf_counter()
                    forget_mult(f, x).sum().compute()
                    runs.append(time.perf_counter() - start)
                times[workers] = statistics.median(runs[1:])
    return {"one worker s": times[1], "two workers s": times[2], "times as fast": times[1] / times[2]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the size, once")
    parser.add_argument("--memory", action="store_true", help="out of core only")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--folder", help="where to put the series (2 GB twice); a temporary folder if left out")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return one(*arguments.one)
    quick, began = arguments.quick, time.perf_counter()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = {"out of core": out_of_core(Path(folder), 25_000_000 if quick else 250_000_000, 1 if quick else 3)}
    if not arguments.memory:
        figures["graphs"] = graphs((10, 1000) if quick else (10, 1000, 100_000))
        figures["two workers"] = two_workers(8_000 if quick else 400_000)
    packages = "numpy", "numba", "dask", "distributed", "zarr"
    about = report.about(__file__, sys.argv[1:], 2, time.perf_counter() - began, packages)
    print(report.title(about))
    for name, value in figures.items():
        for row in value if isinstance(value, list) else [value]:
            print(f"{name}:", ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({**about, **figures}, indent=1))


if __name__ == "__main__":
    main()

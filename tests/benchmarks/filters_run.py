"""Measure filters beside scipy.signal's of the same dtype, and gradients beside the filter itself.

Measures the checkout that this file lies in. Results are compared with SciPy's first, and a row whose numbers differ
gets no ratio. Ratios are of the median of interleaved calls in one run, ours to the other's: below 1 is quicker. SciPy
has one thread.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import report
import scipy.signal
from tqdm import tqdm
from turns import medians

import fastrecur
from fastrecur.filters import allpole, lfilter, sosfilt, sosfilt_vjp, sosfiltfilt

# Shape, axis, and for 1 and 4 sections the limit and the goal of the ratio.
CASES = [
    ((100_000, 64), 0, (1 / 10, 1 / 25)),
    ((64, 100_000), -1, (1 / 5, 1 / 15)),
    ((16, 48_000), -1, (1 / 4, 1 / 10)),
    ((1_000_000,), -1, (1 / 2.5, 1 / 6)),
    ((64,), -1, (1, 1 / 2.5)),
    ((1000, 3), 0, (1, 1)),
    ((3, 20_000), -1, (1, 1)),
    ((7, 33, 500), 1, (1, 1)),
]
SECONDS = 0.2  # for the calls of a row, after the first of each


def row(what, shape, dtype, against, ours, other, marks=None, right=True):
    times = medians({"ours": ours, "other": other}, SECONDS, 3)
    ratio, mark = times["ours"] / times["other"], ""
    if marks:
        mark = "*" if ratio <= marks[1] else "+" if ratio <= marks[0] else "-"
    wanted = f"  limit {marks[0]:.2g}, goal {marks[1]:.2g}" if marks else ""
    name = np.dtype(dtype).name
    shown = f"{ratio:8.3f}" if right else "        "
    mark = mark if right else "WRONG"
    return f"{mark:2} {what:<34} {shape!s:<13} {name:<8} {1e3 * times['ours']:9.4f} ms, {shown} of {against}{wanted}"


def rows():
    rng = np.random.default_rng(0)
    for shape, axis, marks in tqdm(CASES, file=sys.stderr):
        for dtype in (np.float64, np.float32):
            x, lanes = rng.normal(size=shape).astype(dtype), [*shape]
            lanes[axis] = 2
            for sections in (1, 4):
                sos = scipy.signal.butter(2 * sections, 0.1, output="sos").astype(dtype)
                zi = np.zeros((sections, *lanes), dtype)
                y = [sosfilt(sos, x, axis, zi)[0], scipy.signal.sosfilt(sos, x, axis, zi)[0]]
                close = abs(y[0] - y[1]).max() <= 1e4 * np.finfo(dtype).eps * abs(y[1]).max()
                calls = [lambda f=f, s=sos, x=x, a=axis, z=zi: f(s, x, a, z) for f in (sosfilt, scipy.signal.sosfilt)]
                yield row(f"sosfilt, sections: {sections}", shape, dtype, "scipy", *calls, marks, close)
    x, shape = rng.normal(size=1_000_000), (1_000_000,)
    for sections in (1, 4):
        sos = scipy.signal.butter(2 * sections, 1e-4, output="sos")
        calls = [lambda f=f, s=sos: f(s, x) for f in (sosfilt, scipy.signal.sosfilt)]
        yield row(f"sosfilt at 1e-4, sections: {sections}", shape, np.float64, "scipy", *calls, (1, 1))
    x, shape = rng.normal(size=(100_000, 64)), (100_000, 64)
    b, a = scipy.signal.butter(4, 0.1)
    calls = [lambda f=f: f(b, a, x, 0) for f in (lfilter, scipy.signal.lfilter)]
    yield row("lfilter of order 4", shape, np.float64, "scipy", *calls, (1, 1))
    sos = scipy.signal.butter(4, 0.1, output="sos")
    calls = [lambda f=f: f(sos, x, 0) for f in (sosfiltfilt, scipy.signal.sosfiltfilt)]
    yield row("sosfiltfilt, sections: 2", shape, np.float64, "scipy", *calls, (1, 1))
    y = sosfilt(sos[:1], x, 0)
    calls = lambda: sosfilt_vjp(x, sos[:1], x, y, axis=0), lambda: sosfilt(sos[:1], x, 0)
    yield row("gradient of sosfilt, sections: 1", shape, np.float64, "sosfilt", *calls, (5, 3))
    x, shape = np.ascontiguousarray(x[:10_000].T), (64, 10_000)
    a = np.broadcast_to(np.array([-1.5, 0.7]), (*shape, 2)).copy()
    calls = lambda: allpole(a, x), lambda: allpole(a[0, 0], x)
    yield row("allpole 2, varying", shape, np.float64, "constant", *calls)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, help="write the report there, too")
    options = parser.parse_args()
    began, lines = time.perf_counter(), list(rows())
    packages = "numpy", "numba", "scipy"
    facts = report.about(
        __file__, sys.argv[1:], fastrecur.get_num_threads(), time.perf_counter() - began, packages
    )  # fmt: skip
    report.publish(facts, lines, options.output)


if __name__ == "__main__":
    main()

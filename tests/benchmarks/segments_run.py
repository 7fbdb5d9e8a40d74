"""What segments cost: ``python tests/benchmarks/segments_run.py --out docs/benchmarks_segments.txt``.

Each line is a ratio of minima, by turns in one process: the same call with borders over it without. Behind those stand
the ways around: a loop over segments, and multiplying coefficients by zero; and groups against pandas.
"""

import argparse
import datetime
import platform
import sys
import time

import numpy as np

import fastrecur
from fastrecur import smoothing

SHAPES = (20000, 640), (64, 100000), (100000, 64), (1000000,)
MUST = {100: 1.10, 8: 1.5}


def minima(calls, seconds):
    """Return the least time of each call, by turns."""
    least, began = dict.fromkeys(calls, float("inf")), time.perf_counter()
    for call in calls.values():
        call()
    rounds = 0
    while time.perf_counter() - began < seconds or rounds < 5:
        rounds += 1
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            least[name] = min(least[name], time.perf_counter() - start)
    return least


def borders(steps, mean, rng):
    """Return offsets of segments of so many steps on average, and flags of the same."""
    flags = rng.random(steps) < 1 / mean
    flags[0] = True
    return np.concatenate([np.flatnonzero(flags), [steps]]), flags


def ways(shape, axis, mean, rng):
    """Yield the names and options of what is measured."""
    steps = shape[axis]
    offsets, shared = borders(steps, mean, rng)
    yield "offsets", {"offsets": offsets}
    yield "resets (T,)", {"resets": shared if axis == 0 else shared[np.newaxis]}
    if len(shape) > 1:
        yield "resets of each lane", {"resets": rng.random(shape) < 1 / mean}


def rows(seconds, rng):
    for shape in SHAPES:
        f, x = rng.random(shape, np.float32), rng.standard_normal(shape, np.float32)
        for axis in range(len(shape)):
            h, out = fastrecur.forget_mult(f, x, axis=axis), np.empty_like(x)
            for mean in MUST:
                for name, options in ways(shape, axis, mean, rng):
                    for direction in ("forward", "gradient"):

                        def call(options, direction=direction, f=f, x=x, h=h, out=out, axis=axis):
                            if direction == "forward":
                                fastrecur.forget_mult(f, x, axis=axis, out=out, **options)
                            else:
                                fastrecur.forget_mult_vjp(x, f, x, h, axis=axis, **options)

                        least = minima(
                            {"with": lambda o=options, c=call: c(o), "without": lambda c=call: c({})}, seconds
                        )
                        ratio = least["with"] / least["without"]
                        yield shape, axis, direction, mean, name, least["without"], ratio


def around(seconds, rng):
    """Yield what the ways around cost, over the call with borders."""
    shape = 20000, 640
    a, b = rng.random(shape, np.float32), rng.standard_normal(shape, np.float32)
    offsets, flags = borders(shape[0], 100, rng)
    pairs = list(zip(offsets[:-1], offsets[1:], strict=True))
    calls = {
        "offsets": lambda: fastrecur.linear_recurrence(a, b, offsets=offsets),
        "a loop over segments": lambda: [fastrecur.linear_recurrence(a[i:k], b[i:k]) for i, k in pairs],
        "multiplying by zero": lambda: fastrecur.linear_recurrence(a * ~flags[:, None], b),
        "padding": lambda: _padded(a, b, pairs),
    }
    least = minima(calls, seconds)
    for name in list(calls)[1:]:
        yield f"{name}, linear_recurrence {shape}, segments of 100", least[name] / least["offsets"]
    try:
        import pandas as pd
    except ImportError:
        return
    keys, values = rng.integers(0, 1000, 1_000_000), rng.standard_normal(1_000_000)
    frame = pd.DataFrame({"x": values})
    least = minima(
        {
            "ours": lambda: smoothing.ewm_mean(values, span=20, groups=keys),
            "pandas": lambda: frame.groupby(keys).ewm(span=20).mean(),
        },
        4 * seconds,
    )
    yield "pandas' groupby.ewm.mean, 1e6 rows in 1,000 groups, unsorted", least["pandas"] / least["ours"]


def _padded(a, b, pairs):
    most = max(k - i for i, k in pairs)
    full = np.zeros((2, most, len(pairs), *a.shape[1:]), a.dtype)
    for n, (i, k) in enumerate(pairs):
        full[0, : k - i, n], full[1, : k - i, n] = a[i:k], b[i:k]
    return fastrecur.linear_recurrence(full[0], full[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3, help="of each line")
    parser.add_argument("--out", type=argparse.FileType("w"), default=sys.stdout)
    options = parser.parse_args()
    rng = np.random.default_rng(0)

    def say(line):
        print(line, file=options.out, flush=True)

    threads, machine = fastrecur.get_num_threads(), platform.processor() or platform.machine()
    say(f"fastrecur {fastrecur.__version__}, {machine}, NumPy {np.__version__}, {threads} threads")
    say(f"{datetime.date.today()}; float32, forget_mult; ratios of minima, by turns")
    say(f"{'shape':<16}{'axis':>5}  {'':<10}{'mean':>5}  {'borders':<22}{'ms without':>11}{'ratio':>8}")
    for shape, axis, direction, mean, name, took, ratio in rows(options.seconds, rng):
        judged = f"  must {MUST[mean]:.2f}{'' if ratio <= MUST[mean] else ' *'}"
        where = f"{shape!s:<16}{axis:>5}  {direction:<10}{mean:>5}  {name:<22}"
        say(f"{where}{took * 1e3:>11.2f}{ratio:>8.2f}{judged if options.out is sys.stdout else ''}")
    for name, ratio in around(options.seconds, rng):
        say(f"{name}: {ratio:.1f} times as long")


if __name__ == "__main__":
    main()

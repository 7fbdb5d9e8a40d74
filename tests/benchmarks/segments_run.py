"""What segments cost: ``python tests/benchmarks/segments_run.py --out docs/benchmarks_segments.txt``.

Each line is a ratio of minima, measured alternately in one process: the same call with borders over it without, both
with fresh results; with first states, over the same offsets without states. What users do without borders is measured
by ``segment_ways_run.py``.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import report
from turns import minima

import fastrecur
from fastrecur.smoothing import ewm_mean

SHAPES = (20000, 640), (64, 100000), (100000, 64), (1000000,)
MUST = {10_000: 1.10, 100: 1.10, 8: 1.5}
MUST_WITH_STATES = 1.2


def borders(steps, mean, rng):
    """Return offsets of segments of so many steps on average, and flags of the same."""
    flags = rng.random(steps) < 1 / mean
    flags[0] = True
    return np.concatenate([np.flatnonzero(flags), [steps]]), flags


def ways(shape, axis, mean, rng):
    """Yield the names and options of what is measured, and those of the call that it is compared with."""
    steps, lanes = shape[axis], shape[:axis] + shape[axis + 1 :]
    offsets, shared = borders(steps, mean, rng)
    yield "offsets", {"offsets": offsets}, {}
    states = rng.standard_normal((len(offsets) - 1, *lanes), np.float32)
    yield "offsets, h0", {"offsets": offsets, "h0": states}, {"offsets": offsets}
    yield "resets (T,)", {"resets": shared if axis == 0 else shared[np.newaxis]}, {}
    if len(shape) > 1:
        yield "resets of each series", {"resets": rng.random(shape) < 1 / mean}, {}


def rows(seconds, rng):
    for shape in SHAPES:
        f, x = rng.random(shape, np.float32), rng.standard_normal(shape, np.float32)
        gaps = np.where(rng.random(shape) < 0.1, np.float32("nan"), x)
        for axis in range(len(shape)):
            h = fastrecur.forget_mult(f, x, axis=axis)
            for mean in MUST:
                for name, options, others in ways(shape, axis, mean, rng):
                    for direction in ("forward", "reverse", "gradient", *["ewm_mean"] * ("h0" not in options)):

                        def call(options, direction=direction, f=f, x=x, h=h, gaps=gaps, axis=axis):
                            if direction in ("forward", "reverse"):
                                fastrecur.forget_mult(f, x, axis=axis, reverse=direction == "reverse", **options)
                            elif direction == "ewm_mean":
                                ewm_mean(gaps, alpha=0.1, axis=axis, **options)
                            else:
                                fastrecur.forget_mult_vjp(x, f, x, h, axis=axis, **options)

                        pair = {"with": lambda o=options, c=call: c(o), "without": lambda o=others, c=call: c(o)}
                        least = minima(pair, seconds, 5)
                        ratio = least["with"] / least["without"]
                        yield shape, axis, direction, mean, name, least["without"], ratio


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3, help="of each line")
    parser.add_argument("--out", type=Path, help="write the report there, too")
    options, began = parser.parse_args(), time.perf_counter()
    lines = [
        "float32: forget_mult both ways, its gradient, ewm_mean (10 % missing); ratios of minima, measured alternately",
        f"{'shape':<16}{'axis':>5}  {'':<10}{'mean':>6}  {'borders':<22}{'ms without':>11}{'ratio':>8}",
    ]
    for shape, axis, direction, mean, name, took, ratio in rows(options.seconds, np.random.default_rng(0)):
        where = f"{shape!s:<16}{axis:>5}  {direction:<10}{mean:>6}  {name:<22}"
        lines.append(f"{where}{took * 1e3:>11.2f}{ratio:>8.2f}")
        limit = MUST_WITH_STATES if "h0" in name else MUST[mean]
        outside = f"  limit {limit:.2f}" * (ratio > limit)
        print(lines[-1] + outside, file=sys.stderr, flush=True)
    facts = report.about(
        __file__, sys.argv[1:], fastrecur.get_num_threads(), time.perf_counter() - began, ("numpy", "numba")
    )
    report.publish(facts, lines, options.out)


if __name__ == "__main__":
    main()

"""Measure segments against what users do without them: pad, loop, multiply with zero, group in pandas.

    python tests/benchmarks/segment_ways_run.py [--output docs/benchmarks_segment_ways.txt]

Every way is first compared with a loop over the segments. Times are the shortest of interleaved calls in one run; a
ratio is the other way's time to that of `offsets`, `resets` or `groups`.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import report
from tqdm import tqdm
from turns import minima

from fastrecur import forget_mult, get_num_threads
from fastrecur.smoothing import ewm_mean

PACKAGES = "numpy", "numba", "pandas"


def packed(rng):
    """A packed batch: 400 sequences of 1 to 200 steps, 512 channels."""
    offsets = np.concatenate([[0], rng.integers(1, 201, 400).cumsum()])
    f = rng.random((offsets[-1], 512), np.float32)
    x = rng.standard_normal(f.shape, np.float32)
    pairs = list(zip(offsets, offsets[1:], strict=False))
    lengths = np.diff(offsets)

    def looped():
        return np.concatenate([forget_mult(f[i:j], x[i:j]) for i, j in pairs])

    def padded():
        wide = np.zeros((2, lengths.max(), len(lengths), 512), np.float32)
        for k, (i, j) in enumerate(pairs):
            wide[0, : j - i, k], wide[1, : j - i, k] = f[i:j], x[i:j]
        h = forget_mult(wide[0], wide[1])
        return np.concatenate([h[: j - i, k] for k, (i, j) in enumerate(pairs)])

    ways = {"offsets": lambda: forget_mult(f, x, offsets=offsets), "a call for each sequence": looped, "padded": padded}
    return f"packed batch, {len(lengths)} sequences, {f.shape}", ways, looped()


def rollouts(rng):
    """Rollouts: 2,048 steps of 64 environments, 128 channels, an episode ends every 100 steps."""
    shape = 2048, 64, 128
    f, x = rng.random(shape, np.float32), rng.standard_normal(shape, np.float32)
    resets = rng.random(shape[:2]) < 0.01

    def by_steps():
        h, state = np.empty_like(x), np.zeros(shape[1:], np.float32)
        for t in range(shape[0]):
            state = f[t] * x[t] + (1 - f[t]) * np.where(resets[t, :, None], np.float32(0), state)
            h[t] = state
        return h

    def with_zeros():
        go = ~resets[..., None]
        h = forget_mult(np.where(go, f, np.float32(1)), np.where(go, x, f * x))
        return h

    ways = {
        "resets": lambda: forget_mult(f, x, resets=resets),
        "a gate of 1 there": with_zeros,
        "step by step": by_steps,
    }
    return f"rollouts, {shape}", ways, by_steps()


def groups(rng):
    """A table: a million rows of a thousand groups, in random order."""
    import pandas as pd

    keys, x = rng.integers(0, 1000, 1_000_000), rng.standard_normal(1_000_000)
    table = pd.DataFrame({"key": keys, "x": x})

    def by_group():
        return table.groupby("key")["x"].ewm(span=20).mean()

    ways = {
        "groups": lambda: ewm_mean(x, span=20, groups=keys),
        "pandas, rows in order": lambda: in_order(by_group()),
        "pandas, group by group": by_group,
    }
    return "table, 1,000,000 rows, 1,000 groups", ways, in_order(by_group())


def in_order(result):
    """Return an array in the order of the rows, of what pandas has group by group."""
    return result.droplevel(0).sort_index().to_numpy() if hasattr(result, "droplevel") else result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--seconds", type=float, default=5, help="of each case")
    options = parser.parse_args()
    began, lines = time.perf_counter(), []
    for case in tqdm((packed, rollouts, groups)):
        title, ways, wanted = case(np.random.default_rng(0))
        for name, call in ways.items():
            np.testing.assert_allclose(in_order(call()), wanted, rtol=1e-4, atol=1e-5, err_msg=name)
        times = minima(ways, options.seconds, 5)
        first = times[next(iter(times))]
        lines.append(title)
        lines += [f"   {name:26} {1e3 * took:9.2f} ms {took / first:8.1f}" for name, took in times.items()]
    facts = report.about(__file__, sys.argv[1:], get_num_threads(), time.perf_counter() - began, PACKAGES)
    report.publish(facts, lines, options.output)


if __name__ == "__main__":
    main()

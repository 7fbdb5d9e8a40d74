"""Measure compiled calls of JAX's arrays against ``lax.scan`` and ``lax.associative_scan`` of the same recurrence.

The C library keeps what is freed, for all alike. Ratios are of medians of interleaved repeats in one run.
"""

import argparse
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import report
from jax import lax
from tqdm import tqdm
from turns import keep_memory, medians

import fastrecur

PACKAGES = "numpy", "numba", "jax", "jaxlib"
# Shapes, with limit and goal of a forward call and of a gradient against each.
LIMITS = {
    (64,): {}, (100_000, 64): {"lax.scan": ((1.5, 5), (2, 3)), "associative_scan": ((12, 50), (8, 20))},
    (1_000_000,): {"lax.scan": ((3, 8), (5, 12))}, (2048, 16, 512): {},
}  # fmt: skip


def scan(f, x):
    def step(h, fx):
        h = h + fx[0] * (fx[1] - h)
        return h, h

    return lax.scan(step, jnp.zeros(x.shape[1:], x.dtype), (f, x))[1]


def associative_scan(f, x):
    return lax.associative_scan(lambda one, two: (one[0] * two[0], two[0] * one[1] + two[1]), (1 - f, f * x))[1]


def gradient(function):
    return jax.grad(lambda f, x: (function(f, x) ** 2).sum() / 2, argnums=(0, 1))


def lines(shape, repeats):
    rng = np.random.default_rng(0)
    f, x = (jnp.asarray(v, jnp.float32) for v in rng.random((2, *shape)))
    functions = {"ours": fastrecur.forget_mult, "lax.scan": scan, "associative_scan": associative_scan}
    for k, (what, change) in enumerate({"forward": lambda g: g, "gradient": gradient}.items()):
        runs = {name: jax.jit(change(function)) for name, function in functions.items()}
        found, first = {}, {}
        for name, run in runs.items():
            began = time.perf_counter()
            found[name] = jax.block_until_ready(run(f, x))
            first[name] = time.perf_counter() - began
        calls = {name: lambda run=run: jax.block_until_ready(run(f, x)) for name, run in runs.items()}
        times = medians(calls, fewest=repeats if f.size > 1000 else 100 * repeats)
        for name in ("lax.scan", "associative_scan"):
            pairs = zip(*map(jax.tree.leaves, (found["ours"], found[name])), strict=True)
            right = all(np.allclose(one, other, rtol=1e-3, atol=1e-3) for one, other in pairs)
            ratio, limits = times[name] / times["ours"], LIMITS[shape].get(name)
            limit, goal = limits[k] if limits else (0, 0)
            mark = "WRONG" if not right else " " if not goal else "*" if ratio >= goal else "+-"[ratio < limit]
            target = f"limit {limit:g}, goal {goal:g}" * bool(goal)
            yield (f"{mark:2} {what:<8} {shape!s:<16} {times['ours'] * 1e3:8.3f} ms {ratio:7.2f}  {name:<16} "
                   f"first call {first['ours']:.2f} s, {first[name]:5.2f} s  {target}".rstrip())  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--output", type=Path, help="write the report there, too")
    options = parser.parse_args()
    keep_memory()
    for shape in LIMITS:  # kernels are compiled and kept before
        x = np.ones(shape, np.float32)
        fastrecur.forget_mult_vjp(x, x, x, fastrecur.forget_mult(x, x))
    began, found = time.perf_counter(), []
    for shape in tqdm(LIMITS, file=sys.stderr):
        found += lines(shape, 5 if options.quick else 11)
    seconds = time.perf_counter() - began
    facts = report.about(__file__, sys.argv[1:], fastrecur.get_num_threads(), seconds, PACKAGES)
    report.publish(facts, found, options.output)


if __name__ == "__main__":
    main()

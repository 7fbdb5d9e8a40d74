"""Measure returns against compiled loops, and against torch's and torchrl's forms where these are installed.

Measures the checkout that this file lies in. Every result is compared with a loop's first, and a row whose numbers
differ gets no ratio. Ratios are of the shortest of interleaved calls in one run, ours to the other's: below 1 is
quicker. A compiled loop runs on one thread, unmasked and with one discount, whatever is asked of ours.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numba
import numpy as np
import report
from tqdm import tqdm
from turns import minima

import fastrecur
from fastrecur.returns import gae, vtrace

GAMMA, LAM, TOKENS = 0.99, 0.95, 131_072
PACKAGES = "numpy", "numba", "torch", "torchrl"


@numba.njit
def loop_of_rows(rewards, values, ends, gamma, lam):
    """What a careful user compiles for (T, environments)."""
    out, later = np.empty_like(rewards), np.zeros(rewards.shape[1])
    for t in range(rewards.shape[0] - 1, -1, -1):
        for j in range(rewards.shape[1]):
            go = 0.0 if ends[t, j] else 1.0
            later[j] = rewards[t, j] + gamma * values[t + 1, j] * go - values[t, j] + gamma * lam * go * later[j]
            out[t, j] = later[j]
    return out


@numba.njit
def loop_of_series(rewards, values, ends, gamma, lam):
    """The same for (environments, T)."""
    out = np.empty_like(rewards)
    for j in range(rewards.shape[0]):
        later = 0.0
        for t in range(rewards.shape[1] - 1, -1, -1):
            go = 0.0 if ends[j, t] else 1.0
            later = rewards[j, t] + gamma * values[j, t + 1] * go - values[j, t] + gamma * lam * go * later
            out[j, t] = later
    return out


def record(shape, axis, dtype):
    rng = np.random.default_rng(0)
    longer = [n + (k == axis) for k, n in enumerate(shape)]
    return rng.standard_normal(shape).astype(dtype), rng.standard_normal(longer).astype(dtype), rng.random(shape) < 0.01


def others(rewards, values, ends, axis):
    """torch's loop over steps, and torchrl's function, as calls that give arrays of the rewards' shape."""
    try:
        import torch
    except ImportError:
        return
    tensors = [torch.from_numpy(np.moveaxis(v, axis, 0)) for v in (rewards, values, ends)]

    def torch_loop():
        r, v, done = tensors
        out, later, go = torch.empty_like(r), torch.zeros_like(r[0]), (~done).to(r.dtype)
        for t in reversed(range(len(r))):
            later = r[t] + GAMMA * v[t + 1] * go[t] - v[t] + GAMMA * LAM * go[t] * later
            out[t] = later
        return out

    yield "torch loop", torch_loop, lambda a: np.moveaxis(a.numpy(), 0, axis)
    try:
        from torchrl.objectives.value.functional import vec_generalized_advantage_estimate
    except ImportError:
        return
    r, v, done = (torch.from_numpy(np.moveaxis(a, axis, 1 if a.ndim > 1 else 0)) for a in (rewards, values, ends))
    r, v, done = (a.reshape(*((1,) * (a.ndim == 1)), *a.shape, 1) for a in (r, v, done))
    steps = r.shape[1]

    def vectorised():
        return vec_generalized_advantage_estimate(GAMMA, LAM, v[:, :steps], v[:, 1:], r, done, done)[0]

    def back(result):
        result = result.numpy()[..., 0]
        return np.moveaxis(result, 1, axis) if rewards.ndim > 1 else result[0]

    yield "torchrl, vectorised", vectorised, back


def rows_of(shape, axis, dtype, repeats, musts):
    rewards, values, ends = record(shape, axis, dtype)
    lead = (shape, axis) if len(shape) > 1 else ((1, *shape), 1)
    flat = [v.reshape(1, -1) if v.ndim == 1 else v for v in (rewards, values, ends)]
    loop = loop_of_rows if lead[1] == 0 else loop_of_series
    mask = np.repeat(np.random.default_rng(1).random(TOKENS // 256) < 0.7, 256) if shape == (TOKENS,) else None
    gamma, lam = np.full(shape, GAMMA, dtype), np.full(shape, LAM, dtype)
    calls = {
        "plain": lambda: gae(rewards, values, GAMMA, LAM, ends, axis=axis),
        "discounts of each step": lambda: gae(rewards, values, gamma, lam, ends, axis=axis),
        "compiled loop": lambda: loop(*flat, GAMMA, LAM),
    }
    if mask is not None:
        calls["masked, discounts of each step"] = lambda: gae(rewards, values, gamma, lam, ends, mask=mask, axis=axis)
    arrange = {}
    for name, call, back in others(rewards, values, ends, axis):
        calls[name], arrange[name] = call, back
    exact = calls["compiled loop"]().reshape(shape)
    right = {name: np.allclose(back(calls[name]()), exact, 1e-3, 1e-3) for name, back in arrange.items()}
    right["compiled loop"] = np.allclose(calls["plain"](), exact, 1e-3, 1e-3)
    slow = {name: calls.pop(name) for name in arrange}
    own = {"vtrace": lambda: vtrace(rewards, rewards, values, GAMMA, ends, axis=axis)}
    times = minima(calls, fewest=repeats) | minima(slow) | minima(own, fewest=3)
    for what in [name for name in (*calls, *own) if name != "compiled loop"]:
        for against in ["compiled loop", *slow] if what == "plain" else ["compiled loop"]:
            must, aim = musts.get((what, against), (None, None))
            yield {
                "what": what, "shape": shape, "axis": axis, "dtype": np.dtype(dtype).name, "ms": times[what] * 1e3,
                "against": against, "ratio": times[what] / times[against] if right[against] else None, "must": must,
                "aim": aim,
            }  # fmt: skip


CASES = [
    ((TOKENS,), 0, {("masked, discounts of each step", "compiled loop"): (1.5, 0.8)}),
    ((512, 4096), 0, {("plain", "compiled loop"): (1.0, 0.5)}),
    ((4096, 512), 1, {("plain", "compiled loop"): (1.0, 0.5)}),
    ((2048, 64), 0, {("plain", "compiled loop"): (1.0, 0.5)}),
    ((4096, 8), 0, {("plain", "compiled loop"): (2.0, 1.0)}),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--output", type=Path, help="write the report there, too")
    options = parser.parse_args()
    began, rows = time.perf_counter(), []
    for shape, axis, musts in tqdm(CASES, file=sys.stderr):
        rows += rows_of(shape, axis, np.float32, 20 if options.quick else 200, musts)
    facts = report.about(
        __file__, sys.argv[1:], fastrecur.get_num_threads(), time.perf_counter() - began, PACKAGES
    )  # fmt: skip
    lines = []
    for r in rows:
        judged = r["must"] is not None and r["ratio"] is not None
        mark = "WRONG" if r["ratio"] is None else ""
        if judged:
            mark = "*" if r["ratio"] <= r["aim"] else "+" if r["ratio"] <= r["must"] else "-"
        wanted = f"  limit {r['must']:g}, goal {r['aim']:g}" if judged else ""
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.4f}"
        lines.append(
            f"{mark:2} {r['what']:<31} {str(r['shape']):<13} {r['dtype']:<8} {r['ms']:8.3f} ms, {ratio:>8} of "
            f"{r['against']}{wanted}"
        )
    report.publish(facts, lines, options.output)
    if options.json:
        options.json.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

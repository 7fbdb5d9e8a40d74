"""Measure the selective scan against forms that write down the states of all steps, and against a loop in torch.

Measures the checkout that this file lies in. The composition makes decays and inputs of all states by torch's operators
and calls `linear_recurrence`; the loop is that of transformers' own Mamba (``slow_forward``), written out. Softplus and
the gate are left out of all. Every result is compared with the composition's first. Ratios are of medians of calls in
turn: how many times as fast ours is.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import report
import torch
from turns import medians

import fastrecur
from fastrecur import linear_recurrence, selective_scan

STATES = 16


def operands(batch, steps, channels):
    rng = np.random.default_rng(0)
    u, delta = rng.standard_normal((batch, steps, channels)), 0.1 * rng.random((batch, steps, channels))
    B, C = rng.standard_normal((2, batch, steps, STATES))
    A = -np.tile(np.arange(1.0, STATES + 1), (channels, 1))
    return [v.astype(np.float32) for v in (u, delta, A, B, C, np.ones(channels))]


def composition(u, delta, A, B, C, D):
    decays = torch.exp(delta[..., None] * A)
    h = linear_recurrence(decays, (delta * u)[..., None] * B[:, :, None], axis=1)
    return (h * C[:, :, None]).sum(-1) + D * u


def loop(u, delta, A, B, C, D):
    """What transformers' `MambaMixer.slow_forward` does, with its axes: (B, D, L)."""
    decays = torch.exp(A[None, :, None, :] * delta[:, :, :, None])
    added = delta[:, :, :, None] * B[:, None, :, :] * u[:, :, :, None]
    state, out = torch.zeros_like(decays[:, :, 0]), []
    for t in range(u.shape[2]):
        state = decays[:, :, t, :] * state + added[:, :, t, :]
        out.append(torch.matmul(state, C[:, t, :].unsqueeze(-1))[:, :, 0])
    return torch.stack(out, -1) + u * D[None, :, None]


def by_channels(*given):
    return selective_scan(*given, layout="bld")


def train(function, given):
    """A training step: outputs and all gradients."""
    leaves = [v.detach().requires_grad_() for v in given]
    function(*leaves).backward(torch.ones_like(given[0]))
    return [v.grad for v in leaves]


def peak(what, shape):
    """How many bytes a training step takes at most beside operands and gradients, in a process of its own."""
    command = [sys.executable, __file__, "--peak", what, "--shape", *map(str, shape)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=report.ROOT).stdout.split()[-1])


def run_peak(what, shape):
    torch.set_num_threads(fastrecur.get_num_threads())

    def step(given):
        return train({"ours": by_channels, "composition": composition}[what], [torch.from_numpy(v) for v in given])

    def resident(kind):
        return next(
            1024 * int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if kind in line
        )

    step(operands(1, 40, 32))  # what compilers keep
    given = operands(*shape)
    Path("/proc/self/clear_refs").write_text("5")  # the greatest so far is forgotten
    before = resident("VmRSS")
    kept = step(given)
    print(resident("VmHWM") - before - sum(v.nbytes for v in given))  # the gradients
    del kept


def first_call():
    """Seconds of the first call and of the first gradient, compiled anew, less those of the second ones."""
    code = (
        "import time, sys, numpy as np, fastrecur\n"
        "sys.path.insert(0, 'tests/benchmarks')\nimport selective_run as run\ngiven = run.operands(1, 64, 32)\n"
        "for call in fastrecur.selective_scan, lambda *all_, **o: fastrecur.selective_scan_vjp(all_[0], *all_, **o):\n"
        "    times = []\n    for _ in range(2):\n        began = time.perf_counter()\n"
        "        call(*given, layout='bld')\n        times.append(time.perf_counter() - began)\n"
        "    print(times[0] - times[1])\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "XDG_CACHE_HOME": folder, "PYTHONPATH": str(report.ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=report.ROOT, env=environment
        )
    return [float(line) for line in done.stdout.split()]


def of_shape(shape, seconds, musts):
    """Yield what was measured of operands of a shape; ``musts`` are what ratios must and should be."""
    given = operands(*shape)
    tensors = [torch.from_numpy(v) for v in given]
    turned = [np.ascontiguousarray(v.swapaxes(1, 2)) if v.ndim == 3 else v for v in given]
    out, turned_out, threads = np.empty_like(given[0]), np.empty_like(turned[0]), fastrecur.get_num_threads()
    ours, exact = selective_scan(*given, layout="bld"), composition(*tensors).numpy()
    for y in (ours, selective_scan(*turned).swapaxes(1, 2)):
        assert np.abs(y - exact).max() < 1e-5 * np.abs(exact).max()
    ways = {
        "bld": lambda: selective_scan(*given, layout="bld", out=out),
        "bdl": lambda: selective_scan(*turned, out=turned_out),
    }
    times = medians(ways, seconds / 2, 15) | medians({"composition": lambda: composition(*tensors)}, 1, 3)
    u, delta = (torch.from_numpy(v) for v in turned[:2])
    times |= medians({"loop": lambda: loop(u, delta, *tensors[2:])}, 1, 3)
    yield f"forward {shape}, N {STATES}", times["bld"] * 1e3, "ms", None
    yield "   of the composition", times["composition"] / times["bld"], "x", musts and (40, 80)
    yield "   of torch's loop", times["loop"] / times["bld"], "x", musts and (60, 60)
    yield "   layout bdl over bld", times["bdl"] / times["bld"], "of", musts and (1.3, 1.05)
    if not musts:
        return
    if threads > 1:
        fastrecur.set_num_threads(1)
        alone = medians({"bld": ways["bld"]}, 1, 9)["bld"]
        fastrecur.set_num_threads(threads)
        yield f"   {threads} threads over one", alone / times["bld"], "x", (1.7, 1.7)
    for grad, wanted in zip(train(by_channels, tensors), train(composition, tensors), strict=True):
        assert (grad - wanted).abs().max() < 1e-4 * wanted.abs().max()
    turned = [torch.from_numpy(v) for v in turned]
    steps = {"bld": lambda: train(by_channels, tensors), "bdl": lambda: train(selective_scan, turned)}
    times = medians(steps, seconds, 7) | medians({"composition": lambda: train(composition, tensors)}, 1, 2)
    yield f"training step {shape}, N {STATES}", times["bld"] * 1e3, "ms", None
    yield "   of the composition", times["composition"] / times["bld"], "x", (25, 50)
    yield "   layout bdl over bld", times["bdl"] / times["bld"], "of", None


def rows(quick):
    """Yield what was measured, in words: the figure, its unit, and what it must be and should be."""
    shape = (1, 512, 512) if quick else (1, 2048, 1536)
    yield from of_shape(shape, 4, True)
    yield from of_shape((8, shape[1] // 4, shape[2]), 2, False)
    shares = [peak(what, shape) for what in ("ours", "composition")]
    yield f"memory beside operands and gradients {shape}", shares[0] / 2**20, "MiB", None
    yield "   of the composition's", shares[0] / shares[1], "of", (0.2, 0.1)
    for what, own in zip(("first call, compiled", "first gradient, compiled"), first_call(), strict=True):
        yield what, own, "s", (3, 3)


def line(what, figure, unit, goals):
    """Return a line of the report; of shares and seconds, less is better."""
    if goals is None or goals is False:
        return f"   {what:<58}{figure:10.2f} {unit}"
    reached = [figure <= goal if unit in ("of", "s") else figure >= goal for goal in goals]
    mark = "*" if all(reached) else "+" if reached[0] else "-"
    return f"{mark}  {what:<58}{figure:10.2f} {unit:<4}   limit {goals[0]}, goal {goals[1]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller, to see that it runs")
    parser.add_argument("--output", type=Path, help="also write the report there")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--shape", nargs=3, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        run_peak(options.peak, options.shape)
        return
    torch.set_num_threads(fastrecur.get_num_threads())
    began, lines = time.perf_counter(), []
    for row in rows(options.quick):
        lines.append(line(*row))
        print(lines[-1], flush=True)
    seconds = time.perf_counter() - began
    facts = report.about(__file__, sys.argv[1:], fastrecur.get_num_threads(), seconds, report.TENSORS)
    text = "\n".join([report.title(facts), *lines])
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()

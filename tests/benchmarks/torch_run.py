"""Measure tensors: the cost of a short call and of its gradient, large ones against the memory, and memory taken.

Measures the checkout that this file lies in. What is timed is compared with a plain loop first, in a few lanes. Ratios
are of medians of interleaved repeats in one run.
"""

import argparse
import subprocess
import sys
import time

import numpy as np
import report
import torch
from tqdm import tqdm
from turns import medians
from yardsticks import Team, triad

from fastrecur import forget_mult

LARGE = [(20000, 640), (2048, 32, 64)]


def taken(functions, repeats, calls=1):
    """Return the median seconds of a call of each function."""
    return medians(dict(enumerate(functions)), fewest=repeats, at_once=calls).values()


def loop(f, x):
    h, states = torch.zeros_like(x[0]), []
    for t in range(len(x)):
        h = torch.lerp(h, x[t], f[t])
        states.append(h)
    return torch.stack(states)


def check(f, x, g):
    """Raise unless states and gradients are a plain loop's, in a few lanes."""

    def lanes(tensor):
        return tensor.detach().flatten(1)[:, ::97]

    h = forget_mult(f, x)
    found = h, *torch.autograd.grad(h, (f, x), g)
    few = [lanes(v).clone().requires_grad_() for v in (f, x)]
    h = loop(*few)
    for actual, expected in zip(found, (h, *torch.autograd.grad(h, few, lanes(g))), strict=True):
        torch.testing.assert_close(lanes(actual), expected.detach(), rtol=1e-4, atol=1e-4)


def short_rows(repeats):
    f, x = torch.rand(4, 4), torch.randn(4, 4)
    array_f, array_x = f.numpy(), x.numpy()
    fr, xr = (v.clone().requires_grad_() for v in (f, x))
    check(fr, xr, torch.ones_like(f))
    plain = [lambda: forget_mult(f, x), lambda: f * x, lambda: forget_mult(array_f, array_x)]
    ours, torchs, numpys = taken(plain, repeats, 2000)
    yield (
        f"16 elements, no gradient: {ours * 1e6:.2f} us (f*x: {torchs * 1e6:.2f}, arrays: {numpys * 1e6:.2f})",
        4.0,
        2.2,
    )

    def both(function):
        return lambda: torch.autograd.backward(function().sum())

    ours, torchs = taken([both(lambda: forget_mult(fr, xr)), both(lambda: xr * fr)], repeats, 300)
    yield (
        f"16 elements, forward and backward: {ours / torchs:.2f} of (x*f).sum()'s "
        f"({ours * 1e6:.1f} and {torchs * 1e6:.1f} us)"
    ), 1.5, 1.2  # fmt: skip


def large_rows(team, repeats):
    for shape in LARGE:
        f, x, g = torch.rand(shape), torch.randn(shape), torch.randn(shape)
        fr, xr = (v.clone().requires_grad_() for v in (f, x))
        check(fr, xr, g)
        h = forget_mult(fr, xr)
        flat_f, flat_x = (v.numpy().reshape(len(v), -1) for v in (f, x))
        out = np.zeros_like(flat_x)  # used again: a system may take longer for fresh memory than a triad does

        def floor(flat_f=flat_f, flat_x=flat_x, out=out):
            parts = [slice(*part) for part in team.ranges(len(out))]
            team.run(triad, [(flat_f[part], 0, flat_x[part], 0, out[part]) for part in parts])

        def forward(f=f, x=x):
            return forget_mult(f, x)

        def backward(h=h, fr=fr, xr=xr, g=g):
            return torch.autograd.grad(h, (fr, xr), g, retain_graph=True)

        least, ours, gradient = taken([floor, forward, backward], repeats)
        yield f"{shape} forward: {least / ours:.2f} of a triad's speed ({ours * 1e3:.2f} ms)", 0.85, 1.0
        # A gradient reads four arrays and writes two where the triad reads two and writes one.
        yield f"{shape} backward: {2 * least / gradient:.2f} of a triad's speed ({gradient * 1e3:.2f} ms)", 0.85, 1.0
    for shape in [(512, 8, 16), (512, 32, 64)]:
        operands = torch.rand(shape, requires_grad=True), torch.randn(shape, requires_grad=True)
        check(*operands, torch.ones(shape))
        plain = [v.detach() for v in operands]

        def both(function, operands=operands):
            return lambda: torch.autograd.grad(function(*operands).sum(), operands)

        slow, ours = taken([lambda plain=plain: loop(*plain), lambda plain=plain: forget_mult(*plain)], repeats, 10)
        yield f"{shape} forward: {slow / ours:.0f} times as fast as a loop of torch.lerp", 20, 50
        slow, ours = taken([both(loop), both(forget_mult)], max(3, repeats // 2), 3)
        yield f"{shape} forward and backward: {slow / ours:.0f} times as fast as that loop's", 20, 50


MEMORY = """
import torch
from fastrecur import forget_mult
shape = 4096, 4096
small = torch.rand(4, 4, requires_grad=True), torch.rand(4, 4)
forget_mult(*small).sum().backward()
f, x = (torch.rand(shape).requires_grad_() for _ in range(2))
big = torch.rand(64, 4096, requires_grad=True)
forget_mult(big, big.detach()).sum().backward()
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) << 10
before = peak()
forget_mult(f, x).backward(torch.ones(()).expand(shape))
print((peak() - before) / f.nbytes)
"""


def memory_row():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, cwd=report.ROOT, check=True)
    arrays = float(done.stdout)  # the result and two gradients are three
    return f"memory of forward and backward beyond operands, result and gradients: {(arrays - 3) / 3:+.1%}", 5, 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    repeats = 5 if parser.parse_args().quick else 15
    team = Team(torch.get_num_threads())
    rows, began = [], time.perf_counter()
    with tqdm(total=3, file=sys.stderr) as bar:
        for part in (lambda: short_rows(repeats), lambda: large_rows(team, repeats), lambda: [memory_row()]):
            rows += part()
            bar.update()
    seconds = time.perf_counter() - began
    print(report.title(report.about(__file__, sys.argv[1:], torch.get_num_threads(), seconds, report.TENSORS)))
    for text, must, aim in rows:
        print(f"  {text}; limit {must}, goal {aim}")


if __name__ == "__main__":
    main()

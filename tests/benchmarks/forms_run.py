"""What operands of unusual forms cost beside plain ones: ``python forms_run.py``.

Two million elements each, with the gate and the values of a form: broadcast, sliced, ragged, narrow, of two dtypes; a
million of complex numbers, by the linear recurrence. A form may move more or fewer bytes than plain arrays do, but none
should be many times as slow: what is, took a way that was not made for it. Every result is compared with the definition
first.
"""

import argparse
import sys
import time

import numpy as np
import report
from tqdm import tqdm
from turns import medians

import fastrecur
from fastrecur import reference

STEPS, LANES = 2048, 1024
COUNT = STEPS * LANES


def forms(rng):
    """Yield a name, the gate, the values, the axis and the other arguments; a name that begins a table is plain."""

    def full(*shape, dtype=np.float32):
        return rng.random(shape, np.float32).astype(dtype)

    for dtype in (np.float32, np.float64):
        a, b = full(STEPS, LANES, dtype=dtype), full(STEPS, LANES, dtype=dtype)
        name = np.dtype(dtype).name
        yield f"time first (2048, 1024), {name}", a, b, 0, {}
        yield "reverse", a, b, 0, {"reverse": True}
        yield "a gate per step", a[:, :1], b, 0, {}
        yield "a gate per series", a[:1], b, 0, {}
        yield "a value per step", a, b[:, :1], 0, {}
        yield "a value per series", a, b[:1], 0, {}
        yield "a gate per series, a value per step", a[:1], b[:, :1], 0, {}
        yield "a number for a value", a, 0.5, 0, {}
        yield "values upside down", a, b[::-1], 0, {}
        yield "values from right to left", a, b[:, ::-1], 0, {}
        yield "every other series", full(STEPS, 2 * LANES, dtype=dtype)[:, ::2], b, 0, {}
        yield "every fourth series", full(STEPS, 4 * LANES, dtype=dtype)[..., ::4], b, 0, {}
        yield "in Fortran's order", np.asfortranarray(a), np.asfortranarray(b), 0, {}
        yield "the gate in Fortran's order", np.asfortranarray(a), b, 0, {}
        yield "series of several lengths", a, b, 0, {"lengths": rng.integers(0, STEPS + 1, LANES)}
        for lanes in (1, 2, 3, 4, 8, 12, 16, 24, 40):
            a, b = full(COUNT // lanes, lanes, dtype=dtype), full(COUNT // lanes, lanes, dtype=dtype)
            yield f"(T, {lanes})", a, b, 0, {}
        for lanes in (1, 3, 8, 12, 40):
            shape = 2048 // lanes, 1024, lanes
            a, b = full(*shape, dtype=dtype), full(*shape, dtype=dtype)
            yield f"({shape[0]}, T, {lanes})", a, b, 1, {}
        wide = full(1024, 512, 4, dtype=dtype), full(1024, 512, 4, dtype=dtype)
        yield "(1024, 512, 3 of 4)", *(v[..., :3] for v in wide), 0, {}
        a, b = full(1024, STEPS, dtype=dtype), full(1024, STEPS, dtype=dtype)
        yield "time last (1024, 2048)", a, b, 1, {}
        yield "time last, a gate per step", a[:1], b, 1, {}
        yield "time last, a value per step", a, b[:1], 1, {}
        yield "time last, every other step", full(1024, 2 * STEPS, dtype=dtype)[:, ::2], b, 1, {}
        yield "time last, series of several lengths", a, b, 1, {"lengths": rng.integers(0, STEPS + 1, 1024)}
        yield "(N, 4), time last", full(COUNT // 4, 4, dtype=dtype), full(COUNT // 4, 4, dtype=dtype), 1, {}
        a, b = full(STEPS, LANES, dtype=dtype), full(STEPS, LANES, dtype=dtype)
        yield "the gate in float16", a.astype(np.float16), b, 0, {}
        yield "values of integers", a, (100 * b).astype(np.int32), 0, {}

    for dtype in (np.complex64, np.complex128):

        def numbers(*shape, dtype=dtype):
            return full(*shape, dtype=dtype) * np.exp(6.28j * full(*shape)).astype(dtype)  # no larger than 1

        a, b = numbers(1024, 1024), numbers(1024, 1024)
        yield f"time first (1024, 1024), {np.dtype(dtype).name}", a, b, 0, {}
        yield "a coefficient per series", a[:1], b, 0, {}
        yield "real coefficients", full(1024, 1024, dtype=b.real.dtype), b, 0, {}
        yield "every other series", numbers(1024, 2048)[:, ::2], b, 0, {}
        yield "in Fortran's order", np.asfortranarray(a), np.asfortranarray(b), 0, {}
        yield "series of several lengths", a, b, 0, {"lengths": rng.integers(0, 1025, 1024)}
        yield "(16, T, 64)", a.reshape(16, 1024, 64), b.reshape(16, 1024, 64), 1, {}
        for lanes in (1, 4, 10):
            steps = (1 << 20) // lanes
            yield f"(T, {lanes})", numbers(steps, lanes), numbers(steps, lanes), 0, {}
        yield "time last (1024, 1024)", a, b, 1, {}
        yield "time last, a coefficient per series", a[:, :1], b, 1, {}
        yield "(4, T), time last", a.reshape(4, -1), b.reshape(4, -1), 1, {}


def recurrence(module, x):
    """Return a module's function of values, and its gradient."""
    name = "linear_recurrence" if np.iscomplexobj(x) else "forget_mult"
    return getattr(module, name), getattr(module, name + "_vjp")


def is_right(f, x, axis, options, seed=0):
    """Return whether results of a form's first steps are the definition's, and their gradients."""
    cut = slice(None), slice(0, 40)
    few = [v if np.ndim(v) == 0 else v[tuple(cut[k == axis] for k in range(v.ndim))] for v in (f, x)]
    if "lengths" in options:
        options = options | {"lengths": np.minimum(options["lengths"], 40)}
    (ours, ours_vjp), (exact, exact_vjp) = (recurrence(module, x) for module in (fastrecur, reference))
    h, right = (function(*few, axis=axis, **options) for function in (ours, exact))
    g = np.random.default_rng(seed).standard_normal(h.shape).astype(h.dtype)
    grads, rights = (function(g, *few, h, axis=axis, **options)[:2] for function in (ours_vjp, exact_vjp))
    return all(
        np.allclose(value, wanted, rtol=2e-3 if value.dtype == np.float16 else 1e-4, atol=1e-4 * np.abs(wanted).max())
        for value, wanted in zip((h, *grads), (right, *rights), strict=True)
    )


def main(arguments):
    """Print a table: ns an element, and how many times the plain form's that is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.3, help="for each figure")
    parser.add_argument("--threads", type=int, help="fastrecur's")
    options, began = parser.parse_args(arguments), time.perf_counter()
    if options.threads:
        fastrecur.set_num_threads(options.threads)
    lines, plain, wrong = [], None, 0
    for name, f, x, axis, others in tqdm(list(forms(np.random.default_rng(0))), unit="form", file=sys.stderr):
        call, call_vjp = recurrence(fastrecur, x)
        h = call(f, x, axis=axis, **others)
        g = np.empty_like(h)
        g[...] = 1 - h / 2
        ones = np.broadcast_to(np.ones((), h.dtype), h.shape)
        calls = {
            "forward": lambda: call(f, x, axis=axis, **others),  # noqa: B023 - called at once
            "vjp": lambda: call_vjp(g, f, x, h, axis=axis, **others),  # noqa: B023
            "vjp of h.sum()": lambda: call_vjp(ones, f, x, h, axis=axis, **others),  # noqa: B023
        }  # fmt: skip
        took = medians(calls, len(calls) * options.seconds, 5, warm=True)
        cost = {kind: 1e9 * seconds / h.size for kind, seconds in took.items()}
        if plain is None or name.startswith("time first"):
            plain = cost
            lines.append(f"{'':40}" + "".join(f"{kind:>16}" for kind in cost))
        cells = [f"{cost[kind]:9.3f} {cost[kind] / plain[kind]:6.2f}" for kind in cost]
        if not is_right(f, x, axis, others):
            cells, wrong = ["   wrong"], wrong + 1
        lines.append(f"{name:40}" + "".join(cells))
    threads = fastrecur.get_num_threads()
    print(report.title(report.about(__file__, arguments, threads, time.perf_counter() - began)), end="\n\n")
    print("\n".join(lines))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

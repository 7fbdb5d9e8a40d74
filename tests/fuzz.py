"""Random calls, compared with the definition in float64, and again by their second and fourth call.

    python tests/fuzz.py --minutes 60 --seed 7

Arrays of random shape, dtype, layout and axis, with and without lengths, offsets, resets and states, forward and
gradients; the same as tensors, under hooks of saved tensors, modes and transforms; weighted statistics, filters
and selective scans against a loop.
A failure prints the case; the same seed gives the same cases.
"""

import argparse
import math
import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "arrays"), str(Path(__file__).parents[1])]

import layouts  # noqa: E402
import test_selective  # noqa: E402
from compare import check_forward, check_vjp  # noqa: E402
from repeated import numbers, same  # noqa: E402

import fastrecur  # noqa: E402
from fastrecur import filters, reference, smoothing  # noqa: E402

FUNCTIONS = "forget_mult", "linear_recurrence"
LAYOUTS = [layouts.c_order] * 4 + [layouts.fortran, layouts.negative_strides, layouts.unaligned, layouts.read_only]
AMONG_NAN = [layouts.gate_slice, layouts.every_other_lane]  # which integers have not
DTYPES = ["f4"] * 3 + ["f8"] * 3 + ["f2", "i4"]


class Case:
    """A random problem: operands, and options that are legal for them."""

    def __init__(self, rng, dtypes=DTYPES):
        self.rng, self.name = rng, rng.choice(FUNCTIONS)
        self.shape = self._shape()
        self.axis = int(rng.integers(-len(self.shape), len(self.shape)))
        axis = self.axis % len(self.shape)
        self.steps, self.lanes = self.shape[axis], self.shape[:axis] + self.shape[axis + 1 :]
        self.dtype = np.dtype(rng.choice(dtypes))
        self.gate, self.value = self.array(self.shape, 0.0, 1.0), self.array(self.shape, -1.0, 1.0)
        if rng.random() < 0.15:
            self.gate = float(rng.random())
        elif rng.random() < 0.2:  # broadcast along some axes
            self.gate = self.gate[tuple(slice(None, 1) if rng.random() < 0.5 else slice(None) for _ in self.shape)]
        self.options = {"axis": self.axis, "reverse": bool(rng.random() < 0.4)} | self._ends(axis)
        states = self.lanes
        if "offsets" in self.options:
            states = (len(self.options["offsets"]) - 1, *self.lanes)
        self.h0 = self.array(states, -1.0, 1.0) if rng.random() < 0.4 else None

    def _shape(self):
        rng = self.rng
        if rng.random() < 0.2:
            return (int(2 ** rng.uniform(0, 15)),)
        shape = tuple(int(2 ** rng.uniform(0, 8)) for _ in range(rng.integers(1, 4)))
        return shape if math.prod(shape) <= 60_000 else shape[:2]

    def array(self, shape, low, high):
        kept = self.rng.uniform(low, high, shape)
        array = np.asarray((kept * 9 if self.dtype.kind == "i" else kept).astype(self.dtype))
        ways = LAYOUTS + AMONG_NAN * (self.dtype.kind == "f")
        return ways[self.rng.integers(len(ways))](array) if array.ndim else array

    def _ends(self, axis):
        rng, kind = self.rng, self.rng.integers(6)
        if kind == 1 and self.lanes:
            return {"lengths": rng.integers(0, self.steps + 1, self.lanes[: rng.integers(1, len(self.lanes) + 1)])}
        ends = {}
        if kind in (2, 4):
            inner = np.sort(rng.integers(0, self.steps + 1, rng.integers(0, 6)))
            ends["offsets"] = np.concatenate([[0], inner, [self.steps]])
        if kind in (3, 4):
            ends["resets"] = rng.random(self.shape[: rng.integers(axis + 1, len(self.shape) + 1)]) < 0.2
        return ends

    def __repr__(self):
        """Return what a reader needs to write the call down."""
        forms = [getattr(v, "strides", v) for v in (self.gate, self.value, self.h0)]
        options = {k: v if np.ndim(v) == 0 else np.asarray(v).tolist()[:12] for k, v in self.options.items()}
        return f"{self.name} of {self.shape} {self.dtype}, strides or numbers {forms}, {options}"


def arrays(case):
    """A call in every way, its gradients, and the same again."""
    given = case.gate, case.value, case.h0
    first = numbers(check_forward(case.name, *given, **case.options))
    check_vjp(case.name, *given, rng=case.rng, **case.options)
    function = getattr(fastrecur, case.name)
    for _ in range(3):
        assert same(numbers(function(*given, **case.options))[0], first[0]), "another result at a later call"


def tensors(case):
    """The same as tensors: results and gradients are the arrays', whatever was in play in the calls between."""
    import torch

    function, options = getattr(fastrecur, case.name), dict(case.options)
    for name in ("lengths", "offsets", "resets"):
        if name in options and case.rng.random() < 0.5:
            options[name] = torch.from_numpy(np.array(options[name]))
    given = [
        v if v is None or type(v) is float else torch.from_numpy(np.array(v)) for v in (case.gate, case.value, case.h0)
    ]
    wide = [v if v is None or type(v) is float else np.asarray(v, np.float64) for v in (case.gate, case.value, case.h0)]
    h = getattr(reference, case.name)(*wide, **case.options)
    grads = getattr(reference, case.name + "_vjp")(np.ones(h.shape), *wide[:2], h, wide[2], **case.options)
    tolerance = {2: 3e-2, 4: 3e-5, 8: 1e-9}[case.dtype.itemsize]

    def check(got, wanted):
        size = max(1.0, float(np.abs(wanted).max(initial=0)))
        np.testing.assert_allclose(got.detach().double().numpy(), wanted, rtol=tolerance, atol=tolerance * size)

    hooks = [None, lambda t: t, lambda t: t.double(), lambda t: torch._neg_view(-t)]
    hooks = [hook and (lambda t, hook=hook: hook(t) if t.is_floating_point() else t) for hook in hooks]
    for pack in [*(hooks[k] for k in case.rng.permutation(len(hooks))), None, None]:
        leaves = [v.clone().requires_grad_() if isinstance(v, torch.Tensor) else v for v in given]
        with torch.autograd.graph.saved_tensors_hooks(pack or (lambda t: t), lambda t: t):
            result = function(*leaves, **options)
        check(result, h)
        wanted = [k for k, v in enumerate(leaves) if isinstance(v, torch.Tensor)]
        for k, grad in zip(wanted, torch.autograd.grad(result.sum(), [leaves[k] for k in wanted]), strict=True):
            check(grad, grads[k])
        check(function(*given, **options), h)
    constant = torch.func.grad(lambda s: (s * function(*given, **options)).sum())(
        torch.tensor(1.0, dtype=torch.float64)
    )
    check(constant / max(1, h.size), np.float64(h.sum() / max(1, h.size)))


def statistics(case):
    """Weighted statistics of one axis against a loop over the definition of their weights."""
    rng, x = case.rng, np.array(case.value, np.float64) + case.rng.choice([0.0, 1e6])
    x[rng.random(x.shape) < rng.choice([0.0, 0.0, 0.3])] = np.nan
    if case.steps > 400:
        x = x[(slice(None),) * (case.axis % x.ndim) + (slice(400),)]
    alpha, options = (
        float(rng.uniform(0.02, 1.0)),
        {"adjust": bool(rng.random() < 0.5), "ignore_na": bool(rng.random() < 0.5)},
    )
    options["min_periods"] = int(rng.integers(0, 4))
    by_time = np.moveaxis(x, case.axis, 0).reshape(x.shape[case.axis], -1)
    for function, power in ((smoothing.ewm_mean, 1), (smoothing.ewm_var, 2)):
        expected = np.stack([_weighted(one, alpha, power, **options) for one in by_time.T], 1)
        for _ in range(2):
            got = np.moveaxis(function(x, alpha=alpha, axis=case.axis, **options), case.axis, 0).reshape(by_time.shape)
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


def _signal(case):
    """Return a signal, its axis, options, the shape of one filter, one a series or one a step, and steps in order."""
    rng, x = case.rng, np.array(case.value, np.float64)
    axis, options = case.axis % x.ndim, {"reverse": case.options["reverse"]}
    x = x[(slice(None),) * axis + (slice(200),)]
    own = [(), x.shape[:axis] + x.shape[axis + 1 :], x.shape][rng.integers(3)] if x.ndim > 1 else ()
    return rng, x, axis, options, own, range(x.shape[axis])[:: -1 if options["reverse"] else 1]


def _each(coefficients, own, x, axis):
    """Return coefficients of each step and series, with time in front."""
    fields = coefficients.shape[len(own) :]
    spread = np.expand_dims(coefficients, axis) if len(own) == x.ndim - 1 > 0 else coefficients
    return np.moveaxis(np.broadcast_to(spread, (*x.shape, *fields)), axis, 0)


def sections(case):
    """Cascades of every kind against a loop in SciPy's form, and their gradient against differences."""
    rng, x, axis, options, own, steps = _signal(case)
    sos = rng.uniform(-0.49, 0.49, (*own, int(rng.choice([1, 2, 3, 5, 35])), 6))
    sos[..., 3] = 1
    zi = rng.standard_normal((sos.shape[-2], *x.shape[:axis], 2, *x.shape[axis + 1 :]))
    each, z = _each(sos, own, x, axis), np.moveaxis(zi, axis + 1, 1).copy()
    by_time, wanted = np.moveaxis(x, axis, 0), np.zeros(x.shape)
    for t in steps:
        v = by_time[t]
        for s in range(sos.shape[-2]):
            b0, b1, b2, _, a1, a2 = np.moveaxis(each[t, ..., s, :], -1, 0)
            w = b0 * v + z[s, 0]
            z[s], v = (b1 * v - a1 * w + z[s, 1], b2 * v - a2 * w), w
        np.moveaxis(wanted, axis, 0)[t] = v
    for _ in range(2):
        y, zf = filters.sosfilt(sos, x, axis, zi, **options)
        for one, other in ((y, wanted), (np.moveaxis(zf, axis + 1, 1), z)):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
    way = rng.standard_normal(sos.shape) * [1, 1, 1, 0, 1, 1]
    ends = [(filters.sosfilt(sos + s * way, x, axis, zi, **options)[0]).sum() for s in (1e-6, -1e-6)]
    grad = filters.sosfilt_vjp(np.ones_like(x), sos, x, y, zi, axis=axis, **options)[0]
    np.testing.assert_allclose((grad * way).sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-4, atol=1e-4 * (1 + x.size))


def filtered(case):
    """Poles of every kind against a loop, against `lfilter`, and their gradient against differences."""
    rng, x, axis, options, own, steps = _signal(case)
    order = int(rng.integers(1, 5))
    a = rng.uniform(-1, 1, (*own, order)) / order
    zi = rng.standard_normal((*x.shape[:axis], order, *x.shape[axis + 1 :]))
    each, by_time = _each(a, own, x, axis), np.moveaxis(x, axis, 0)
    past, wanted = list(np.moveaxis(zi, axis, 0)), np.zeros(x.shape)
    for t in steps:
        past = [by_time[t] - sum(each[t, ..., k] * past[k] for k in range(order)), *past[:-1]]
        np.moveaxis(wanted, axis, 0)[t] = past[0]
    for _ in range(2):
        y, zf = filters.allpole(a, x, axis, zi, **options)
        for one, other in ((y, wanted), (np.moveaxis(zf, axis, 0), np.array(past))):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
        if a.ndim <= x.ndim:  # the same by sections
            np.testing.assert_allclose(
                filters.allpole(a, x, axis, **options),
                filters.lfilter([1.0], np.concatenate([np.ones_like(a[..., :1]), a], -1), x, axis, **options),
                rtol=1e-9, atol=1e-9,
            )  # fmt: skip
    way = rng.standard_normal(a.shape)
    ends = [(filters.allpole(a + s * way, x, axis, zi, **options)[0]).sum() for s in (1e-6, -1e-6)]
    grad = filters.allpole_vjp(np.ones_like(x), a, x, y, zi, axis=axis, **options)[0]
    np.testing.assert_allclose((grad * way).sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-4, atol=1e-4 * (1 + x.size))


def scanned(case):
    """A selective scan and its gradients, of any layout and cut; and the outputs again."""
    rng, options = case.rng, {"reverse": case.options["reverse"]}
    batch, steps, channels, states = (int(2 ** rng.uniform(0, most)) for most in (2, 7, 6, 5))
    options |= {"layout": str(rng.choice(["bdl", "bld"])), "delta_softplus": bool(rng.random() < 0.5)}
    cut = rng.integers(5)
    if cut == 1:
        options["lengths"] = rng.integers(0, steps + 1, batch)
    if cut == 2:
        batch, options["offsets"] = 1, np.sort([0, steps, *rng.integers(0, steps + 1, rng.integers(0, 4))])
    if cut in (1, 3):
        options["resets"] = rng.random((batch, steps)) < 0.1
    form = {"maps": str(rng.choice(["steps", "groups", "constant"])), "dtype": str(rng.choice(["f4", "f8"]))}
    form |= {"layout": options["layout"], "rows": len(options.get("offsets", ())) - 1 if cut == 2 else None}
    given = test_selective.operands(rng, batch, steps, 2 * channels, states, **form)
    absent = {name: None for name in given._fields[5:] if rng.random() < 0.3}
    if not options["delta_softplus"]:  # steps of less than zero let states grow
        absent |= {"delta": abs(given.delta), "delta_bias": None}
    given = [v if v is None else LAYOUTS[rng.integers(len(LAYOUTS))](v) for v in given._replace(**absent)]
    given = test_selective.Operands(*given)
    test_selective.check_call(rng, given, **options)
    first = fastrecur.selective_scan(*given, **options)
    for _ in range(3):
        np.testing.assert_array_equal(fastrecur.selective_scan(*given, **options), first)


def _weighted(x, alpha, power, adjust, ignore_na, min_periods):
    weights, result = np.zeros(0), np.full(len(x), np.nan)
    seen = np.isfinite(x)
    for t in range(len(x)):
        if seen[t] or (not ignore_na and len(weights)):
            weights = weights * (1 - alpha)
        if seen[t]:
            new = 1.0 if adjust or not len(weights) else alpha
            weights = np.append(weights, new)
            if not adjust:
                weights = weights / weights.sum()
        values, count = x[: t + 1][seen[: t + 1]], int(seen[: t + 1].sum())
        if count < max(1, min_periods) or (power == 2 and count < 2):
            continue
        share = weights / weights.sum()
        mean = share @ (values - values[0])
        result[t] = mean + values[0]
        if power == 2:
            unbiased = 2 * share[1:] @ np.cumsum(share)[:-1]  # 1 minus the squares' sum, of which nothing cancels
            result[t] = share @ (values - values[0] - mean) ** 2 / unbiased
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    checks = [arrays, arrays, statistics, filtered, sections, scanned]
    try:
        import torch  # noqa: F401
        from tqdm import tqdm

        checks.append(tensors)
    except ImportError:
        tqdm = None
    warnings.simplefilter("error")
    end, count = time.monotonic() + 60 * asked.minutes, 0
    bar = tqdm and tqdm(total=round(60 * asked.minutes), unit="s", disable=not sys.stderr.isatty())
    while time.monotonic() < end:
        rng = np.random.default_rng([asked.seed, count])
        check = checks[count % len(checks)]
        case = Case(rng, [d for d in DTYPES if d != "i4"] if check is tensors else DTYPES)
        try:
            check(case)
        except Exception:
            print(f"\n--seed {asked.seed}, case {count}, {check.__name__}: {case}", file=sys.stderr)
            raise
        count += 1
        if bar:
            bar.update(min(bar.total, round(60 * asked.minutes - (end - time.monotonic()))) - bar.n)
    print(f"{count} random calls in {asked.minutes:g} minutes, seed {asked.seed}: all as the definition says")


if __name__ == "__main__":
    main()

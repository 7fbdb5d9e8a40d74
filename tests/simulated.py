"""Small problems for every kernel of the GPU; a script, run by test_simulated, in which kernels are Python."""

import itertools
import sys

import devices
import ml_dtypes
import numpy as np
import simulator
import tensors
import test_selective
import torch
from compare import check_both, check_forward, check_vjp

import fastrecur
from fastrecur import reference
from fastrecur._cuda import call, launch, plan
from fastrecur._cuda.kernels import catalog, descriptors
from fastrecur.filters import allpole, allpole_vjp, follow, lfilter, sosfilt, sosfilt_vjp, sosfiltfilt
from fastrecur.smoothing import holt
from fastrecur.torch._operator import levels
from fastrecur.torch._rnn import pooling as _pooling

RECURRENCES = ["forget_mult", "linear_recurrence"]
FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


def step_by_step(product, c0, keep, gated, reverse, lengths):
    """Pool as the definition says, in torch's operators."""
    z, f, *o = product.chunk(2 + gated, -1)
    f, c, h = f.sigmoid() * keep, c0, [None] * len(product)
    for t in reversed(range(len(product))) if reverse else range(len(product)):
        valid = (t < lengths)[:, None]
        c = torch.where(valid, f[t] * z[t].tanh() + (1 - f[t]) * c, c)
        h[t] = torch.where(valid, o[0][t].sigmoid() * c if gated else c, 0)
    return torch.stack(h), c


def pooling(driver):
    """A QRNN's pooling, of padded and of packed rows: two batches of steps and a rest."""
    tensors.place(driver, setattr)
    generator, launched = torch.Generator().manual_seed(0), set()
    random = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    for dtype, reverse, packed in itertools.product([torch.float32, torch.bfloat16], [False, True], [False, True]):
        gated = dtype == torch.float32
        steps, lengths = 18, torch.tensor([18, 9, 1] if packed else [18, 18, 18])
        product, c0 = random(steps, 3, (2 + gated) * 5).to(dtype), random(3, 5).to(dtype)
        keep = torch.randint(2, (steps, 3, 5), generator=generator).to(dtype) if gated else 0.7
        rows = (torch.arange(steps)[:, None] < lengths).flatten().nonzero().ravel()
        results = []
        for own in (True, False):
            p, c = (v.detach().clone() if own else v.double() for v in (product, c0))
            p.requires_grad_(), c.requires_grad_()
            if not own:
                h, last = step_by_step(p, c, keep.double() if gated else keep, gated, reverse, lengths)
            elif packed:
                options = {"output_gate": gated, "keep": keep.flatten(0, 1)[rows] if gated else keep}
                sizes = (torch.arange(steps)[:, None] < lengths).sum(1)
                h, last = _pooling.pool(p.flatten(0, 1)[rows], c, batch_sizes=sizes, reverse=reverse, **options)
            else:
                options = {"output_gate": gated, "keep": keep}
                h, last = _pooling.pool(p, c, reverse=reverse, **options)
            h = h if own and packed else h.flatten(0, 1)[rows]
            grads = torch.autograd.grad(h.square().sum() + last.square().sum(), (p, c))
            results.append([v.double() for v in (h, last, *grads)])
        bound = 1e-5 if dtype == torch.float32 else 5e-2
        torch.testing.assert_close(*results, rtol=bound, atol=bound)
        driver.seed += 1
        launched.update(entry[1] for entry in driver.log if entry[0] == "launch")
        driver.forget()
    return launched


def scan_selectively(cupy, rng):
    """A selective scan and its gradient in both layouts, with and without groups, in both directions."""
    launched = set()
    for layout, maps, reverse in [("bdl", "groups", False), ("bld", "constant", True)]:
        given = test_selective.operands(rng, 1, 9, 18, 5, layout=layout, maps=maps)
        options = {"layout": layout, "reverse": reverse, "delta_softplus": True}
        resets = np.array([[False] * 6 + [True, False, False]])
        own = {"resets": cupy.place(resets)}
        found = fastrecur.selective_scan(*map(cupy.place, given), **options, **own, return_state=True)
        expected = reference.selective_scan(*given, **options, resets=resets, return_state=True)
        found += fastrecur.selective_scan_vjp(cupy.place(given.u), *map(cupy.place, given), **options, **own)
        expected += reference.selective_scan_vjp(given.u, *given, **options, resets=resets)
        for own, other in zip(found, expected, strict=True):
            test_selective.check(own.host, other, np.float32)
        launched.update(entry[1] for entry in cupy.driver.log if entry[0] == "launch")
        cupy.driver.forget()
    return launched


def signals(rng):
    """Sections of second order, poles of third that vary in time, levels; along both axes, ragged and in reverse.

    Return calls, and what compiled code, of which the interpreter leaves nothing, says of them.
    """
    section = np.array([[0.2, 0.3, 0.1, 1.0, -1.4, 0.6]])
    sos, a = np.concatenate([section, section]), 0.3 * rng.standard_normal((35, 3, 3))
    x, lengths = rng.standard_normal((3, 35)).astype(np.float32), np.array([35, 0, 20])
    calls = [
        (sosfilt, sos, x, {"zi": rng.standard_normal((2, 3, 2)), "reverse": True, "lengths": lengths}),
        (allpole, a, x.T.copy(), {"zi": rng.standard_normal((3, 3)), "axis": 0, "lengths": lengths}),
    ]
    more = {"x": x, "y": x, "zi": np.ones((2, 3, 2)), "grad_zf": np.ones((2, 3, 2)), "lengths": lengths}
    calls += [(sosfilt_vjp, x[::-1].copy(), sos, more)]
    calls += [(allpole_vjp, x.T.copy(), a, {"x": x.T.copy(), "y": x.T.copy(), "zi": np.ones((3, 3)), "axis": 0})]
    calls += [(follow, x, rng.random((3, 35)), {"release": 0.1, "zi": rng.standard_normal((3, 1))})]
    calls += [(lfilter, np.array([0.2, 0.1]), np.array([2.0, -1.4, 0.6]), {"x": x, "return_state": True})]
    calls += [(holt, x, rng.random((3, 1)), {"beta": 0.2, "axis": 1})]
    calls += [(lambda *given, **options: [sosfiltfilt(*given, **options)], sos, x, {"padlen": 5})]
    return [(*call, call[0](*call[1:3], **call[3])) for call in calls]


def filter_signals(cupy, calls):
    """Make calls of arrays on the card."""
    launched = set()
    for function, *arguments, options, expected in calls:
        options = {name: cupy.place(v) if isinstance(v, np.ndarray) else v for name, v in options.items()}
        for own, other in zip(function(*map(cupy.place, arguments), **options), expected, strict=True):
            np.testing.assert_allclose(own.host, other, rtol=1e-6, atol=1e-6)
        launched.update(entry[1] for entry in cupy.driver.log if entry[0] == "launch")
        cupy.driver.forget()
    return launched


def gradient_of_holt():
    """Return arguments of Holt's gradient, along strided time, and what compiled code says of them."""
    x, k = torch.randn(34, 3).float(), torch.rand(5, 3).double()
    waits = torch.tensor([3, 0, 0])
    arguments = torch.randn(34, 3), None, x, k, waits, *levels._run_holt(x, k, waits, 0), 0
    return arguments, levels._run_holt_backward(*arguments)


def a_wait_without_end():
    """A block whose predecessor never starts traps: here both are told that theirs is the second tile."""
    take, most = simulator.Pointer.take_ticket, descriptors.MOST_LOOKS
    simulator.Pointer.take_ticket = lambda self: max(take(self), 1)
    descriptors.MOST_LOOKS = 20
    try:
        fastrecur.forget_mult(0.5, np.ones((140, 2), np.float32))
    except RuntimeError as error:
        assert "a trap" in str(error), error
    else:
        raise AssertionError("it did not wait")
    simulator.Pointer.take_ticket, descriptors.MOST_LOOKS = take, most


def main():
    calls, of_holt, driver = signals(np.random.default_rng(2)), gradient_of_holt(), simulator.Driver()
    cupy = sys.modules["cupy"] = devices.Cupy(driver)
    launch.driver = lambda: driver
    simulator.like_compiled_code(setattr)
    devices.run_on(cupy, setattr)
    choose, launched = plan.choose, set()
    rng = np.random.default_rng(0)

    def choose_by(chosen):
        plan.choose = chosen
        call._shortcuts.clear()
        plan.forward.cache_clear()
        plan.vjp.cache_clear()

    def check(name, shape, dtype, axis, reverse, gate=None, state=True, segments=None, **options):
        driver.seed += 1
        gate = rng.random(shape if gate is None else gate).astype(dtype)
        gate = gate if gate.ndim else float(gate)
        value = rng.standard_normal(shape).astype(dtype)
        states = np.delete(shape, axis) if segments is None else (segments, *np.delete(shape, axis))
        h0 = rng.standard_normal(states).astype(dtype) if state else None
        options |= {"axis": axis, "reverse": reverse}
        check_both(name, gate, value, h0, rng=rng, state=state, **options)
        launched.update(entry[1] for entry in driver.log if entry[0] == "launch")
        driver.forget()

    def integers(steps):
        """Elements that are never read 16 bytes at once."""
        x = rng.integers(-3, 3, (1, steps)).astype(np.int16)
        check_both("forget_mult", 0.25, x, rng=rng, axis=1, state=False)

    def closed_gates(shape, axis, most=0):
        """They keep the state, bit for bit; across threads of tiles within rounding."""
        f, x = rng.choice([0, 0, 0, 0.25], shape).astype(np.float32), rng.standard_normal(shape).astype(np.float32)
        h0 = rng.standard_normal(np.delete(shape, axis)).astype(np.float32)
        h = fastrecur.forget_mult(f, x, h0, axis=axis)
        before = np.concatenate([np.expand_dims(h0, axis), h.take(range(shape[axis] - 1), axis)], axis)
        np.testing.assert_allclose(h[f == 0], before[f == 0], rtol=0, atol=most)

    launched |= scan_selectively(cupy, np.random.default_rng(1))
    launched |= filter_signals(cupy, calls)
    integers(9)
    closed_gates((9, 40), 1)
    for k, (name, reverse, dtype) in enumerate(itertools.product(RECURRENCES, [False, True], FLOATS)):
        # One step and one lane past a batch, a warp, or what a group of threads takes.
        check(name, (17, 33), dtype, 0, reverse)
        check(name, (3, 17 + 16 * (k % 2)), dtype, 1, reverse)
    for name, axis in itertools.product(RECURRENCES, [0, 1]):
        for gate in [(), (1, 1), (9, 1), (1, 9), (9,)]:
            check(name, (9, 9), np.float32, axis, axis == 1, gate=gate, state=False)
        shape, resets = ((9, 5), np.arange(9) % 4 == 0) if axis == 0 else ((5, 9), np.arange(45).reshape(5, 9) % 4 == 0)
        for reverse in [False, True]:
            check(name, shape, np.float32, axis, reverse, lengths=np.array([0, 9, 5, 1, 8]))
            check(name, shape, np.float32, axis, reverse, lengths=np.array([0, 9, 5, 1, 8]), resets=resets)
            check(name, shape, np.float32, axis, reverse, segments=3, offsets=np.array([0, 4, 4, 9]))
    check("forget_mult", (3, 5, 4), np.float32, 1, True, gate=(5, 4), state=False)
    for dtype in [np.complex64, np.complex128]:
        a, b = (rng.standard_normal((2, 5, 4)) + 1j * rng.standard_normal((2, 5, 4))).astype(dtype)
        for axis in [0, 1]:
            check_both("linear_recurrence", a, b, 1.0, rng=rng, axis=axis)
        check_vjp("linear_recurrence", 0.5j, b, rng=rng, state=False)
    for axis in [0, 1]:
        gate = rng.random((9, 9)).astype(np.float32)
        check_both("forget_mult", gate, 0.5, rng=rng, axis=axis)
    # In tiles, of fewer threads and steps than on a card: with closed gates across their ends, and more than a window.
    plan.FEW_LANES = 2
    choose_by(devices.looking_back(choose))
    for name, reverse in itertools.product(RECURRENCES, [False, True]):
        check(name, (140, 2), np.float32, 0, reverse)
        check(name, (1, 4100), np.float32, 1, reverse)
    check("forget_mult", (70, 33), np.float64, 0, False)
    check("linear_recurrence", (1, 2052), np.float64, 1, True)
    check("linear_recurrence", (1500, 2), np.float64, 0, False)
    for axis, shape in [(0, (140, 2)), (1, (1, 4100))]:
        closed_gates(shape, axis, most=1e-6)
        check("forget_mult", shape, np.float32, axis, False, gate=(), state=False)
        x = rng.standard_normal(shape).astype(np.float32)
        check_vjp("linear_recurrence", x, 0.5, rng=rng, axis=axis, state=False)
        check_vjp("linear_recurrence", 0.5, x, rng=rng, axis=axis, state=False)
        # Half of it, over and over: what the sums make of an infinity is not what one step after another does.
        early, late = ((0, 5), (0, 4000)) if axis else ((5, 0), (100, 1))
        x[early] = np.inf

        def with_a_late_infinity(array, at=late):
            array = array.copy()
            array[at] = np.inf
            return array

        f = np.full(shape, 0.5, np.float32)
        with np.errstate(all="ignore"):
            check_forward("forget_mult", f, x, axis=axis)
            check_vjp("linear_recurrence", 1e-20, x, rng=rng, axis=axis, arrange=with_a_late_infinity, state=False)
            # A state of 0 stays 0, though the product of what it is multiplied by overflows.
            f, x = (array.swapaxes(0, axis) for array in (f, x))
            f[20], x[:], f[21:31] = 1, 0, 1e25
            check_forward("forget_mult", *(array.swapaxes(0, axis).copy() for array in (f, x)), axis=axis)
    a_wait_without_end()
    launched |= pooling(driver)
    torch.testing.assert_close(levels._holt_backward_on_gpu(*of_holt[0]), of_holt[1])
    launched.update(entry[1] for entry in driver.log if entry[0] == "launch")
    assert launched == {plan.CLEAR, *catalog.MAKERS}, set(catalog.MAKERS) - launched
    print("done")


if __name__ == "__main__":
    main()

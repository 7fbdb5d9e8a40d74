"""Small problems for every path; a script, run by test_interpreted without the compiler."""

import itertools

import ml_dtypes
import numpy as np
import pandas as pd
import test_follow
import test_holt
import test_selective
import torch
from compare import assert_close, check_both, check_forward, check_vjp
from thresholds import lower_thresholds

import fastrecur
from fastrecur import reference
from fastrecur._cpu import weighted_run
from fastrecur._plan import problem
from fastrecur.filters import allpole, allpole_vjp, lfilter, sosfilt, sosfilt_vjp
from fastrecur.returns import gae, vtrace
from fastrecur.smoothing import ewm_cov, ewm_mean, ewm_sum, ewm_var, kama
from fastrecur.torch._rnn import pooling

RECURRENCES = ["forget_mult", "linear_recurrence"]


def main():
    rng = np.random.default_rng(0)
    problem.NARROW_LEAST = 0

    def check(name, shape, dtype, axis, reverse, **options):
        gate = rng.random(shape).astype(dtype)
        value = rng.standard_normal(shape).astype(dtype)
        h0 = rng.standard_normal(np.delete(shape, axis)).astype(dtype)
        options |= {"axis": axis, "reverse": reverse}
        check_both(name, gate, value, h0, rng=rng, state=False, **options)
        check_both(name, 0.5, value, rng=rng, state=False, dtype=dtype, **options)

    for name, reverse in itertools.product(RECURRENCES, [False, True]):
        for dtype in [np.float32, np.float64][: 1 + reverse]:  # a dtype's directions differ by strides alone
            check(name, (5, 17), dtype, 0, reverse)
            check(name, (17, 5), dtype, 1, reverse)
            check(name, (5, 19), dtype, 1, reverse)
            check(name, (3, 5, 4), dtype, 1, reverse)
            check(name, (9,), dtype, 0, reverse)
            check(name, (5, 3), dtype, 0, reverse, lengths=[0, 2, 5])
            check(name, (5, 3, 9), dtype, 0, reverse, lengths=[0, 2, 5])
            check(name, (5, 35), dtype, 0, reverse)
            check(name, (5, 3, 35), dtype, 0, reverse, lengths=[0, 2, 5])
            check(name, (3, 5), dtype, 1, reverse, lengths=[0, 2, 5])
        borders(rng, name, reverse)
        for dtype in [np.float16, ml_dtypes.bfloat16]:
            check(name, (5, 4), dtype, 0, reverse)
            check(name, (4, 5), dtype, 1, reverse)
    # Long enough to be cut into blocks of time.
    check("forget_mult", (2100,), np.float32, 0, False)
    check("forget_mult", (2100,), np.float64, 0, True)
    check("linear_recurrence", (2, 2100), np.float32, 1, False)
    for dtype in [np.complex64, np.complex128]:
        for shape in [(5, 4), (9, 11)]:
            a, b = (rng.standard_normal((2, *shape)) + 1j * rng.standard_normal((2, *shape))).astype(dtype)
            for axis, gate in [(0, a), (1, a), (0, a[:1]), (1, a[:, :1])]:
                check_both("linear_recurrence", gate, b, 1.0, rng=rng, axis=axis)
    lanes_apart(rng)
    pool_both_ways()
    weigh(rng)
    follow_and_return(rng)
    scan_selectively(rng)
    follow_levels(rng)
    filter_both_ways(rng)
    lower_thresholds(setattr)
    lanes_apart(rng)
    for reverse in [False, True]:
        check("forget_mult", (3, 140), np.float32, 0, reverse)
        check("forget_mult", (3, 5, 17), np.float32, 1, reverse)
        check("forget_mult", (3, 5), np.float32, 0, reverse, lengths=[0, 2, 3, 1, 3])
        check("forget_mult", (40, 9), np.float64, 1, reverse)
        check("forget_mult", (9, 49), np.float32, 1, reverse)
    # Blocks shared among threads, with gates that are closed and a block that cannot be composed.
    f, x = rng.random(8300).astype(np.float32), rng.standard_normal(8300).astype(np.float32)
    f[rng.random(8300) < 0.1] = 0
    x[3000] = np.inf
    fastrecur.set_num_threads(2)
    assert_close(fastrecur.forget_mult(f, x), reference.forget_mult(f, x), np.float32)
    x[3000], f[5000] = 0, np.inf
    check_vjp("forget_mult", f, x, rng=rng, state=False)
    print("done")


def scan_selectively(rng):
    for layout, maps, reverse in [("bdl", "steps", False), ("bld", "constant", True)]:
        given = test_selective.operands(rng, 1, 9, 18, 5, layout=layout, maps=maps)
        options = {"layout": layout, "reverse": reverse, "delta_softplus": reverse, "resets": [[False] * 8 + [True]]}
        test_selective.check_call(rng, given._replace(z=given.z if reverse else None), **options)


def follow_levels(rng):
    for shape, axis in [((34, 3), 0), ((9, 34), 1)]:
        test_holt.test_any_axis(rng, shape, axis)
        test_follow.test_as_a_loop(rng, shape, axis, "steps")
    test_holt.test_missing_values_are_predicted()
    test_holt.test_gradients(rng, "found")
    test_follow.test_gradients("series")


def filter_both_ways(rng):
    """One filter and coefficients that vary give the same, in every layout; poles alone are a filter."""
    sos, poles, options = np.array([[1, 0, 0, 1, -0.6, 0.1]]), [-0.6, 0.1, 0.05], {"lengths": [36, 3, 0, *[36] * 14]}
    for axis in (0, 1):
        shape = (36, 17) if axis == 0 else (17, 36)
        x = rng.standard_normal(shape)
        for own, ends in itertools.product(((), (17,), shape), ({}, options)):
            y = sosfilt(sos * np.ones((*own, 1, 1)), x, axis, **ends)
            found = sosfilt_vjp(x, sos * np.ones((*own, 1, 1)), x, y, axis=axis, **ends)
            for order in (2, 3):
                a = poles[:order] * np.ones((*own, 1))
                one = lfilter([1], [1, *poles[:order]], x, axis, **ends)
                np.testing.assert_allclose(allpole(a, x, axis, **ends), one, atol=1e-12)
                grads = allpole_vjp(x, a, x, one, axis=axis, **ends)
                if order == 2:
                    np.testing.assert_allclose(one, y, atol=1e-12)
                    if own != shape:  # where they vary, the forms differ
                        np.testing.assert_allclose(grads[0], found[0][..., 0, 4:], atol=1e-10)
                    np.testing.assert_allclose(grads[1], found[1], atol=1e-10)
    x = rng.standard_normal(40)
    np.testing.assert_allclose(sosfilt(sos, x), lfilter([1], sos[0, 3:], x), atol=1e-12)


def borders(rng, name, reverse):
    """Begin anew in rows, series side by side and a long one: at offsets, at flags of all and of each, and at both."""
    for shape, axis in [((5, 17), 0), ((5, 3), 0), ((17, 5), 1), ((9, 24), 1), ((2100,), 0)]:
        gate, value = rng.random(shape).astype(np.float32), rng.standard_normal(shape).astype(np.float32)
        steps, options = shape[axis], {"axis": axis, "reverse": reverse}
        h0 = rng.standard_normal((3, *np.delete(shape, axis))).astype(np.float32)
        offsets, flags = [0, 3, 3, steps], rng.random(shape) < 0.2
        same = flags[:, :1] if axis == 0 < len(shape) - 1 else flags[:1]
        cuts = [(h0, {"offsets": offsets}), (h0[0], {"resets": flags}), (None, {"resets": same})]
        cuts.append((h0, {"offsets": offsets, "resets": flags}))
        for state, own in cuts[: 2 if steps > 1000 else 4]:
            check_both(name, gate, value, state, rng=rng, state=False, **options, **own)


def lanes_apart(rng):
    """Walk lanes that are apart in memory, stand in another order than steps, or end apart."""
    lengths = rng.integers(0, 10, 35)
    gate, value = rng.random((9, 35)).astype(np.float32), rng.standard_normal((9, 140)).astype(np.float32)
    along = np.asfortranarray(value)
    for a, b in [
        *((gate, value[:, ::n][:, :35]) for n in (2, 3, 4, -1, -2)),
        (gate, along[:, :35]),
        (gate[:, ::-1], along[::-1, :35]),
        (gate, np.repeat(along, 2, 0)[::2, :35]),
        (gate[:, :1], value[:, :105:3]),
        (gate[:1], along[:, 70::2]),
        (gate, value[:, :35]),
        (gate, value[:, :1]),
    ]:
        for reverse, ends in itertools.product([False, True], [None, lengths]):
            options = {"reverse": reverse, "lengths": ends}
            check_both("forget_mult", a, b, rng=rng, state=False, **options)
    a, b = gate[:, :16].astype(np.float64), value[:, 15::-1].astype(np.float64)
    check_both("linear_recurrence", a, b[:, ::-1], rng=rng, state=False)
    check_forward("forget_mult", gate[:, ::2].astype(np.float16)[:, ::-1], value[:, :18].astype(np.float16))


def pool_both_ways():
    """Pool by the kernels and by torch's operators."""
    for gated in (True, False):
        product = torch.randn(3, 2, (2 + gated) * 17, requires_grad=True)
        options = {"output_gate": gated, "keep": torch.randint(2, (3, 2, 17)) * 1.0}
        results = []
        for recurrence in (None, fastrecur.forget_mult):
            h, last = pooling.pool(product, torch.ones(2, 17), recurrence=recurrence, **options)
            results.append((h, last, *torch.autograd.grad(h.sum() + last.sum(), product)))
        torch.testing.assert_close(*results)


def weigh(rng):
    """Means and covariances of a few lanes, and of series long enough to be walked a vector of steps at a time."""
    weighted_run.CUT_STEPS, weighted_run.MANY_SAMPLES, weighted_run.cost.WEIGHTS["statistics"] = 2100, 2048, 1 << 8
    weighted_run.LARGE_TABLE = 2048
    for shape, axis in [((40, 3), 0), ((3, 40), 1), ((2100,), 0), ((16, 140), 1)]:
        x, y = rng.standard_normal((2, *shape))
        x[rng.random(shape) < 0.2] = np.nan
        if shape == (2100,):
            x[500:600] += 1e5  # some are near each other, and then far away: that block is walked step by step
        frame, other = (pd.DataFrame(np.moveaxis(v, axis, 0).reshape(shape[axis], -1)) for v in (x, y))
        for options in [{}, {"adjust": False}, {"ignore_na": True, "min_periods": 3}]:
            ewm = frame.ewm(alpha=0.4, **options)
            borders = np.arange(0, shape[axis] + 1, 20)
            keys = np.arange(shape[axis]) // 20
            begun = frame.groupby(keys).ewm(alpha=0.4, **options).mean().droplevel(0)
            checks = [
                (ewm_mean(x, alpha=0.4, axis=axis, offsets=borders, **options), begun),
                (ewm_mean(x, alpha=0.4, axis=axis, groups=keys, **options), begun),
                (ewm_mean(x, alpha=0.4, axis=axis, **options), ewm.mean()),
                (ewm_var(x, alpha=0.4, axis=axis, bias=True, **options), ewm.var(bias=True)),
                (ewm_cov(x, y, alpha=0.4, axis=axis, bias=True, **options), ewm.cov(other, pairwise=False, bias=True)),
            ]
            if not options:
                checks.append((ewm_sum(x, alpha=0.4, axis=axis), ewm.sum()))
            for actual, expected in checks:
                expected = expected.to_numpy().reshape(np.moveaxis(x, axis, 0).shape)
                np.testing.assert_allclose(actual, np.moveaxis(expected, 0, axis), rtol=1e-9, atol=1e-9)
    for times in (np.cumsum(rng.integers(0, 9, 1030)), np.cumsum(rng.exponential(2, 1030))):
        decays = weighted_run.decays(times, 0.0, 3.0, 0.5)
        np.testing.assert_allclose(decays[1:], 2.0 ** -(np.diff(times) / 3), rtol=1e-14)


def follow_and_return(rng):
    """Kaufman's average, against the formulas; advantages of few series at once, against each by itself."""
    for shape, axis, period in [((40, 3), 0, 5), ((3, 40), 1, 6), ((20, 17), 0, 1)]:
        x = rng.standard_normal(shape)
        recorded = kama(torch.tensor(x).requires_grad_(), period, axis=axis)
        np.testing.assert_array_equal(kama(x, period, axis=axis), recorded.detach())
    rewards, values = rng.standard_normal((6, 3)), rng.standard_normal((7, 3))
    ends, mask = rng.random((2, 6, 3)) < 0.3
    for given in (mask, None):
        rows = gae(rewards, values, 0.9, 0.8, ends, mask=given)
        for k in range(3):
            own = None if given is None else given[:, k]
            one = gae(rewards[:, k], values[:, k], 0.9, 0.8, ends[:, k], mask=own)
            np.testing.assert_array_equal(rows[:, k], one)
    targets, _ = vtrace(0.5 * rewards, rewards, values, 0.9, ends)
    for k in range(3):
        one, _ = vtrace(0.5 * rewards[:, k], rewards[:, k], values[:, k], 0.9, ends[:, k])
        np.testing.assert_array_equal(targets[:, k], one)


if __name__ == "__main__":
    main()

"""Threads that take chunks of time: the bits of one scan, whatever was forgotten."""

import functools
import itertools

import ml_dtypes
import numpy as np
import pytest
import torch
from compare import assert_same_bits, check_vjp
from layouts import guarded
from test_forward import RECURRENCES, operands
from thresholds import lower_thresholds

import fastrecur
from fastrecur import reference
from fastrecur._arguments.arrays import array_at
from fastrecur._cpu import bound, cost, time_chunks
from fastrecur._plan import layout, problem

FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
# Each dtype and each recurrence, though not each pair: every one is compiled anew.
KINDS = [
    *itertools.product(RECURRENCES, [np.float32, np.float64]),
    ("forget_mult", np.float16),
    ("linear_recurrence", ml_dtypes.bfloat16),
]


@pytest.fixture
def done(monkeypatch, forget_plans):
    """Small problems are cut as large ones are; what became of each, in order."""
    came = []

    real = time_chunks.RowChunks.scan

    def spy(chunks, *arguments):
        came.append(("vjp" if chunks._plan.gradients else "forward", real(chunks, *arguments)))
        return came[-1][1]

    for name, value in (("CHUNKED_BYTES", 0), ("WARM_UP_STEPS", (16, 1024)), ("WARM_UP_SHARE", 2)):
        monkeypatch.setattr(cost, name, value)
    monkeypatch.setattr(problem, "NARROW_LEAST", 0)
    monkeypatch.setattr(time_chunks.RowChunks, "scan", spy)
    monkeypatch.setattr(cost, "choose", functools.lru_cache(cost.choose.__wrapped__))
    forget_plans()
    return came


@pytest.fixture
def large(monkeypatch, done):
    """They are so in every other way."""
    lower_thresholds(monkeypatch.setattr)
    return done


def forgetting(rng, name, shape, dtype):
    """A gate by which a thousandth is left of a state at each step, and values."""
    gate = rng.uniform(0.999, 1, shape) if name == "forget_mult" else rng.uniform(-1e-3, 1e-3, shape)
    return gate.astype(dtype), rng.standard_normal(shape).astype(dtype)


def results_of(name, threads, set_threads, g, gate, value, h0, last, **options):
    recurrence, vjp = getattr(fastrecur, name), getattr(fastrecur, name + "_vjp")
    set_threads(threads)
    level = 0.999 if name == "forget_mult" else 1e-3
    h, state = recurrence(gate, value, h0, return_state=True, **options)
    plain = recurrence(gate, value, **options)
    number = recurrence(level, value, **options)
    grads = vjp(g, gate, value, h, h0, grad_state=last, **options)
    summed = vjp(g, level, value, h, h0, grad_state=last, **options), vjp(g, gate[7], value, h, h0, **options)
    return [h, state, plain, number, *grads, *vjp(g, gate, value, plain, **options)[:2], *summed[0], *summed[1][:2]]


@pytest.mark.sample(dtype=[np.float32], name=["forget_mult"])
@pytest.mark.parametrize(("name", "dtype"), KINDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_bits_are_those_of_one_walk(rng, both, done, set_threads, name, dtype, reverse):
    for _, steps, lanes in itertools.product(both(), [96, 131], [5, 16, 40, 130]):
        gate, value = forgetting(rng, name, (steps, lanes), dtype)
        g, h0, last = (rng.standard_normal(n).astype(dtype) for n in [(steps, lanes), lanes, lanes])
        alone = results_of(name, 1, set_threads, g, gate, value, h0, last, reverse=reverse)
        assert not done
        for threads in [2, 3]:
            for got, right in zip(
                results_of(name, threads, set_threads, g, gate, value, h0, last, reverse=reverse), alone, strict=True
            ):
                assert_same_bits(got, right)
            assert done == [("forward", True)] * 3 + [("vjp", True)] * 4
            done.clear()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_is_written_beside_results(rng, both, done, set_threads, dtype, reverse):
    """Wherever in a line they begin, up and down memory; what warm-ups wrote is gone."""
    size = np.dtype(dtype).itemsize
    for _, lanes, offset in itertools.product(both(), [16, 40], [0, size, 16]):
        gate, value = forgetting(rng, "forget_mult", (100, lanes), dtype)
        set_threads(1)
        wanted = fastrecur.forget_mult(gate, value, reverse=reverse)
        set_threads(2)
        alike, memory = guarded((100, lanes), dtype, offset)
        dense, memory_dense = guarded((1, 100 * lanes), dtype, offset)
        dense = dense.reshape(100, lanes)
        for out, around in [(alike, memory), (alike[::-1], memory), (dense, memory_dense), (dense[::-1], memory_dense)]:
            before, kept = around.copy(), out.copy()
            done.clear()
            assert fastrecur.forget_mult(gate, value, reverse=reverse, out=out) is out
            assert done == [("forward", True)]
            assert_same_bits(out.copy(), wanted)
            out[...] = kept
            np.testing.assert_array_equal(around, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gates_that_remember(rng, large, set_threads, dtype):
    """It is seen after the chunks were scanned; the next such problems are not tried."""
    gate = np.full((100, 140), 0.01, dtype)
    value, g = rng.standard_normal((2, 100, 140)).astype(dtype)

    def gradients():
        return [one for f in (gate, gate[0], 0.01) for one in fastrecur.forget_mult_vjp(g, f, value, h)[:2]]

    set_threads(1)
    h = fastrecur.forget_mult(gate, value)
    grads = gradients()
    set_threads(2)
    for tried in [True, *[False] * problem.PATIENCE, True]:
        assert_same_bits(fastrecur.forget_mult(gate, value), h)
        for got, right in zip(gradients(), grads, strict=True):
            assert_same_bits(got, right)
        assert large == ([("forward", False), *[("vjp", False)] * 3] if tried else [])
        large.clear()


@pytest.mark.sample(dtype=[np.float32, np.float64])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("threads", [2, 3])
def test_gates_that_no_longer_forget(rng, large, set_threads, dtype, reverse, threads):
    """Where a carry is no longer what was predicted, that is seen, and not tried again so soon."""
    forgets, value = forgetting(rng, "forget_mult", (140, 40), dtype)
    g = rng.standard_normal(value.shape).astype(dtype)
    remembers = np.full(value.shape, 0.01, dtype)

    def results(gate, h):
        for f in (gate, gate[0], float(gate[0, 0])):
            yield fastrecur.forget_mult(f, value, reverse=reverse)
            yield from fastrecur.forget_mult_vjp(g, f, value, h, reverse=reverse)[:2]

    for gate, are_predicted in [(forgets, True), (forgets, True), (remembers, False), (remembers, None)]:
        set_threads(1)
        h = fastrecur.forget_mult(gate, value, reverse=reverse)
        expected = list(results(gate, h))
        set_threads(threads)
        large.clear()
        for got, right in zip(results(gate, h), expected, strict=True):
            assert_same_bits(got, right)
        assert [done for _, done in large] == ([] if are_predicted is None else [are_predicted] * 6)


@pytest.mark.sample(dtype=[np.float32, np.float64])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("back", [False, True])
def test_a_warm_up_writes_one_row(rng, large, monkeypatch, set_threads, dtype, back):
    """Rows that are in the cache already take longer to be streamed to."""
    written, real = [], time_chunks.RowChunks.__init__

    def spy(chunks, *arguments):
        real(chunks, *arguments)
        run = chunks._warm_ups.run
        chunks._warm_ups.run = lambda team, threads, to: watch(lambda: run(team, threads, to), to)

    def watch(run, to):
        order = bound.ORDER["vjp" if back else "forward"]
        at = to[order.index(layout.TO_B if back else layout.H)]
        result = array_at(at, value.shape, np.dtype(dtype))
        result[...] = np.nan
        run()
        written.append((~np.isnan(result.astype(np.float32))).sum())

    gate, value = forgetting(rng, "forget_mult", (140, 64), dtype)
    g = rng.standard_normal(value.shape).astype(dtype)
    h = fastrecur.forget_mult(gate, value)
    monkeypatch.setattr(time_chunks.RowChunks, "__init__", spy)
    set_threads(2)
    if back:
        fastrecur.forget_mult_vjp(g, gate, value, h)
    else:
        fastrecur.forget_mult(gate, value, out=np.empty_like(value))
    assert written == [64]  # by the only one, before the second of two chunks


@pytest.mark.sample(dtype=[np.float32, np.float64])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("down", [False, True])
def test_rows_that_start_within_a_line(rng, large, forget_plans, set_threads, dtype, reverse, down):
    """Whole cache lines of such results cannot be streamed, and their neighbors are not written."""
    forgets, value = forgetting(rng, "forget_mult", (141, 64), dtype)
    h0 = rng.standard_normal(64).astype(dtype)
    remembers = np.full(value.shape, 0.01, dtype)
    itemsize = np.dtype(dtype).itemsize
    before = np.full(value.size + 200, 7, dtype)

    def place(offset):
        around = before.copy()
        start = (-around.ctypes.data // itemsize) % (64 // itemsize) + 32 // itemsize * offset
        out = around[start : start + value.size].reshape(value.shape)
        return around, out[::-1] if down else out, start

    forget_plans()
    for gate in (forgets, forgets, forgets, remembers):
        for f in (gate, float(gate[0, 0])):
            options = {"reverse": reverse, "return_state": True}
            x = value[::-1] if down else value
            f = f[::-1] if down and f is gate else f
            set_threads(1)
            expected, last = fastrecur.forget_mult(f, x, h0, **options)
            plain = fastrecur.forget_mult(f, x, reverse=reverse)
            set_threads(2)
            for offset in (1, 0):
                around, out, start = place(offset)
                _, state = fastrecur.forget_mult(f, x, h0, out=out, **options)
                assert_same_bits(out, expected)
                assert_same_bits(state, last)
                fastrecur.forget_mult(f, x, out=out, reverse=reverse)
                assert_same_bits(out, plain)
                around[start : start + value.size] = 7
                np.testing.assert_array_equal(around, before)
    assert large


@pytest.mark.parametrize("bad", [1e200, np.nan, np.inf])
@pytest.mark.parametrize("reverse", [False, True])
def test_what_came_before_a_warm_up(rng, large, forget_plans, set_threads, bad, reverse):
    """One lane's past is not forgotten, of which warm-ups know nothing: its chunks are scanned again."""
    gate, value = forgetting(rng, "forget_mult", (120, 40), np.float64)
    g = rng.standard_normal((120, 40))

    def gradients():
        return [
            one
            for f in (gate, gate[0], 0.9995)
            for one in fastrecur.forget_mult_vjp(cotangents, f, value, h, reverse=reverse)[:2]
        ]

    for at in [3, 45, 85, 116]:  # of three chunks of 40 steps, of which warm-ups take the last 20
        own, cotangents = value.copy(), g.copy()
        own[at, 7] = cotangents[119 - at, 7] = bad
        set_threads(1)
        h, last = fastrecur.forget_mult(gate, own, reverse=reverse, return_state=True)
        grads = gradients()
        set_threads(3)
        forget_plans()
        got, got_last = fastrecur.forget_mult(gate, own, reverse=reverse, return_state=True)
        assert_same_bits(got, h)
        assert_same_bits(got_last, last)
        for one, right in zip(gradients(), grads, strict=True):
            assert_same_bits(one, right)
        assert [direction for direction, _ in large] == ["forward", *["vjp"] * 3]
        large.clear()


@pytest.mark.sample(name=["forget_mult"], dtype=[np.float32])
@pytest.mark.parametrize(("name", "dtype"), KINDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_sums_over_time(rng, large, forget_plans, set_threads, name, dtype, reverse):
    """Of whatever parts they are made, where carries are predicted and where not, they are right."""
    for steps, lanes, threads in itertools.product([64, 131], [5, 16, 64], [1, 3]):
        set_threads(threads)
        gate, value = forgetting(rng, name, (steps, lanes), dtype)
        for kept in [gate, (0.02 * gate if name == "forget_mult" else 1 - gate).astype(dtype)]:
            forget_plans()
            for own in (kept[3], kept[3:4], kept[:1, :1], float(kept[0, 0]), kept[:, :1]):
                h0 = rng.standard_normal(lanes).astype(dtype)
                check_vjp(name, own, value, h0, rng=rng, dtype=dtype, reverse=reverse)
        assert set(large) == (set() if threads == 1 else {("vjp", True), ("vjp", False)})
        large.clear()


def test_more_threads_than_partial_sums(rng, large, set_threads):
    """Of these each chunk has at least one."""
    gate, value = forgetting(rng, "forget_mult", (1000, 32), np.float64)
    set_threads(1)
    right = fastrecur.forget_mult_vjp(value, gate[0], value, value)[:2]
    for threads in (15, 16, 17, 20, 40):
        set_threads(threads)
        for got, alone in zip(fastrecur.forget_mult_vjp(value, gate[0], value, value)[:2], right, strict=True):
            assert_same_bits(got, alone)
        assert large == ([("vjp", True)] if threads < 40 else [])
        large.clear()


@pytest.mark.exhaustive
def test_sums_do_not_depend_on_what_else_is_wanted(rng, monkeypatch):
    """Of which there is more or less to be moved."""
    real, seen = cost.sum_steps_of, []

    def spy(plan):
        if plan.gradients:
            seen.append(real(plan))
        return real(plan)

    monkeypatch.setattr(cost, "sum_steps_of", spy)
    gate, value = (torch.from_numpy(a) for a in forgetting(rng, "forget_mult", (5001, 160), np.float16))
    grads = []
    for is_wanted in (False, True):
        f = gate[0].clone().requires_grad_()
        fastrecur.forget_mult(f, value.clone().requires_grad_(is_wanted)).square().sum().backward()
        grads.append(f.grad.numpy())
    assert set(seen) == {313}
    assert_same_bits(*grads)


@pytest.mark.exhaustive
def test_which_problems_are_cut(rng, large, set_threads):
    """Not what is walked in place, has lanes of several lengths or gates whose gradient is a sum over lanes."""
    gate, value = forgetting(rng, "forget_mult", (100, 40), np.float64)
    set_threads(2)
    h = fastrecur.forget_mult(gate, value)
    assert large.pop() == ("forward", True)
    own = value.copy()
    assert_same_bits(fastrecur.forget_mult(gate, own, out=own), h)
    fastrecur.forget_mult(gate, value, lengths=np.full(40, 90))
    fastrecur.forget_mult_vjp(value, gate[:, :1], value, h)
    fastrecur.forget_mult_vjp(value, gate, value[:1], h)
    fastrecur.forget_mult(gate.reshape(100, 20, 2)[:, ::2], value.reshape(100, 20, 2)[:, ::2])
    fastrecur.linear_recurrence(gate + 0j, value)
    fastrecur.forget_mult(gate[:20], value[:20])
    assert not large


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "dtype"),  # of which the carry differs, or how a gate is turned into a factor
    [*(("forget_mult", dtype) for dtype in (np.float32, np.float64, np.float16)), ("linear_recurrence", np.float64)],
)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["offsets", "resets"])
def test_what_is_not_finite_in_a_long_series(rng, monkeypatch, forget_plans, set_threads, name, reverse, dtype, kind):
    """Its blocks are composed and shared among threads: NaN and infinities, wherever they are, stay in their segment.

    There they are what the definition says; others have the bits that they have without. Gates are open and closed at
    borders too.
    """
    lower_thresholds(monkeypatch.setattr)
    forget_plans()
    recurrence, vjp = getattr(fastrecur, name), getattr(fastrecur, name + "_vjp")
    for steps, mean in (2100, 20), (5003, 700):
        gate, value = operands(rng, (steps,), dtype)
        for end in (0, 1):
            gate[rng.random(steps) < 0.02] = end
        offsets = np.unique([0, *rng.integers(1, steps, steps // mean), steps])
        number = np.searchsorted(offsets, np.arange(steps), side="right") - 1
        flags = np.isin(np.arange(steps), offsets[1:-1])
        options = {"reverse": reverse, kind: offsets if kind == "offsets" else flags}
        grad_h = rng.standard_normal(steps).astype(dtype)

        def results(gate, value, grad_h, options=options):
            h = recurrence(gate, value, **options)
            return h, *vjp(grad_h, gate, value, h, **options)[:2]

        wide = [array.astype(np.float64) for array in (gate, value, grad_h)]
        for threads, bad, k in [(1, np.nan, 0), (2, np.inf, 0), (3, -np.inf, 1), (2, np.nan, 2), (1, np.inf, 2)]:
            set_threads(threads)
            whole, at = results(gate, value, grad_h), rng.integers(0, steps, 3)
            spoilt, exact = [gate.copy(), value.copy(), grad_h.copy()], [array.copy() for array in wide]
            spoilt[k][at] = exact[k][at] = bad
            changed, keep = results(*spoilt), ~np.isin(number, number[at])
            for one, other in zip(changed, whole, strict=True):
                assert_same_bits(one[keep], other[keep])
            with np.errstate(all="ignore"):
                h = getattr(reference, name)(*exact[:2], **options)
                grads = getattr(reference, name + "_vjp")(exact[2], *exact[:2], h, **options)
            for one, other in zip(changed, (h, *grads[:2]), strict=True):
                np.testing.assert_array_equal(np.isnan(one), np.isnan(other))
                np.testing.assert_array_equal(np.isinf(one), np.isinf(other))

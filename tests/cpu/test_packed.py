"""Lanes that are apart in memory, stand in another order than steps, or end apart: the bits of lanes that do not."""

import itertools
import os

import ml_dtypes
import numpy as np
import pytest
from compare import assert_same_bits, check_both, check_forward, check_nothing_beside, check_vjp
from layouts import guarded
from test_forward import RECURRENCES, operands
from test_transpose8 import plan_of
from thresholds import lower_thresholds

import fastrecur
from fastrecur._cpu.kernels.packing import EPOCH, FEW_SERIES, FEW_STEPS, MANY_SERIES, MANY_STEPS
from fastrecur._plan import problem

pytestmark = pytest.mark.usefixtures("rows_of_any_length")

FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
# Less than a vector, around one, a panel of few lanes, and one of many; and around a panel's steps.
SIZES = [
    (FEW_STEPS + 2, 8), (MANY_STEPS + 3, 13),
    (1, 16), (FEW_STEPS - 1, 17), (FEW_STEPS, 31), (FEW_STEPS + 1, 40), (MANY_STEPS + 9, FEW_SERIES + 1),
    (MANY_STEPS, FEW_SERIES), (2 * MANY_STEPS + 15, 33), (2 * FEW_STEPS, MANY_SERIES + 5), (3, 2 * MANY_SERIES + 16),
]  # fmt: skip


def every(n):
    """Lanes that are the n-th in memory, from the right if that is negative; what stands between them is no number."""

    def arrange(a):
        between = 77 if a.dtype.kind in "biu" else np.nan
        wide = np.full((len(a), abs(n) * (a.shape[1] - 1) + 1), between, a.dtype)[:, ::n]
        wide[...] = a
        return wide

    return arrange


def steps_near(n):
    """Steps that are the n-th in memory, each lane's in a row."""
    return lambda a: every(n)(np.ascontiguousarray(a.T)).T


def fields(a):
    """Numbers of records that begin at no multiple of their size."""
    records = np.zeros(a.shape, [("before", "i1"), ("number", a.dtype)])
    records["number"] = a
    return records["number"]


def in_order(a):
    return np.ascontiguousarray(a)


ARRANGEMENTS = [
    in_order, every(2), every(3), every(4), every(5), every(-1), every(-2), fields, steps_near(1), steps_near(-1),
    steps_near(2), steps_near(-2), steps_near(3),
]  # fmt: skip


def arranged_pairs():
    """Each arrangement of one operand beside contiguous ones of the other, and both in two."""
    for k, arrange in enumerate(ARRANGEMENTS[1:], start=1):
        yield arrange, in_order
        yield in_order, arrange
        yield arrange, ARRANGEMENTS[1 + k % (len(ARRANGEMENTS) - 1)]


@pytest.mark.sample(dtype=[np.float32, np.float64])
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_bits_are_those_of_neighbouring_lanes(rng, both, name, dtype, reverse):
    recurrence, vjp = getattr(fastrecur, name), getattr(fastrecur, name + "_vjp")
    cases = list(itertools.product(SIZES, arranged_pairs()))
    for way in both():
        for n in rng.choice(len(cases), 80, replace=False):
            (steps, lanes), arrange = cases[n]
            gate, value = operands(rng, (steps, lanes), dtype)
            g = rng.standard_normal((steps, lanes)).astype(dtype)
            h0, last = (rng.standard_normal(lanes).astype(dtype) for _ in range(2))
            h, h_last = recurrence(gate, value, h0, reverse=reverse, return_state=True)
            wanted = vjp(g, gate, value, h, h0, grad_state=last, reverse=reverse)
            a, b = (put(v) for put, v in zip(arrange, (gate, value), strict=True))
            got, got_last = recurrence(a, b, h0, reverse=reverse, return_state=True)
            assert_same_bits(np.ascontiguousarray(got), h)
            assert_same_bits(got_last, h_last)
            out = arrange[1](np.full_like(h, np.nan))
            assert recurrence(a, b, h0, reverse=reverse, out=out) is out
            assert_same_bits(np.ascontiguousarray(out), h)
            for g_now, h_now in [(g, h), (arrange[0](g), arrange[1](h)), (arrange[1](g), arrange[0](h))]:
                grads = vjp(g_now, a, b, h_now, h0, grad_state=last, reverse=reverse)
                for grad, right in zip(grads, wanted, strict=True):
                    assert_same_bits(np.ascontiguousarray(grad), right), way


@pytest.mark.sample(name=["forget_mult"])
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps_lanes", SIZES)
def test_lanes_that_end_apart(rng, both, name, reverse, steps_lanes):
    """Whatever stands past their ends; as lanes alone."""
    recurrence, vjp = getattr(fastrecur, name), getattr(fastrecur, name + "_vjp")
    steps, lanes = steps_lanes
    for _, dtype, arrange in itertools.product(both(), [np.float32, np.float64], [in_order, every(-1), steps_near(1)]):
        for lengths in [rng.integers(0, steps + 1, lanes), rng.choice([0, 1, steps], lanes), np.full(lanes, steps)]:
            gate, value = operands(rng, (steps, lanes), dtype)
            g, h0 = rng.standard_normal((steps, lanes)).astype(dtype), rng.standard_normal(lanes).astype(dtype)
            h = np.zeros((steps, lanes), dtype)
            past = np.arange(steps)[:, np.newaxis] >= lengths
            gate[past], value[past], g[past] = np.nan, np.nan, np.nan
            options = {"reverse": reverse, "lengths": lengths}
            got, last = recurrence(arrange(gate), arrange(value), h0, return_state=True, **options)
            grads = vjp(arrange(g), arrange(gate), arrange(value), arrange(np.where(past, np.nan, got)), h0, **options)
            for one in rng.choice(lanes, min(lanes, 40), replace=False):
                own = slice(0, lengths[one]), slice(one, one + 1)
                h[own], own_last = recurrence(
                    gate[own], value[own], h0[one : one + 1], reverse=reverse, return_state=True
                )
                assert_same_bits(np.ascontiguousarray(got[:, one]), h[:, one])
                assert_same_bits(last[one : one + 1], own_last)
                rights = vjp(g[own], gate[own], value[own], h[own], h0[one : one + 1], reverse=reverse)
                for grad, right in zip(grads[:2], rights, strict=False):
                    whole = np.zeros(steps, dtype)
                    whole[own[0]] = right[:, 0]
                    assert_same_bits(np.ascontiguousarray(grad[:, one]), whole)
                assert_same_bits(grads[2][one : one + 1], rights[2])


@pytest.mark.sample(name=["forget_mult"], dtype=[np.float32])
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("steps_lanes", [(FEW_STEPS + 3, 37), (MANY_STEPS + 5, 37), (FEW_STEPS + 3, MANY_SERIES + 9)])
def test_broadcast_operands(rng, both, name, dtype, steps_lanes):
    """One number for all lanes, for all steps, or both; beside operands whose lanes are apart or end so."""
    for _, arrange, reverse in itertools.product(both(), [every(2), steps_near(1)], [False, True]):
        gate, value = operands(rng, steps_lanes, dtype)
        lengths = rng.integers(0, steps_lanes[0] + 1, steps_lanes[1])
        whole = arrange(gate), arrange(value)
        for few in [
            lambda v: v[:1],
            lambda v: v[:, :1],
            lambda v: v[:1, :1],
            lambda v: v.flat[0],
            lambda v: v[:1, ::-1],
        ]:
            for a, b in [(whole[0], few(value)), (few(gate), whole[1])]:
                for options in [{}, {"lengths": lengths}]:
                    check_both(name, a, b, rng=rng, reverse=reverse, **options)
        for g in [gate[:, :1], gate[:1], gate.flat[0]]:
            check_vjp(name, *whole, rng=rng, grad_h=np.broadcast_to(g, gate.shape), reverse=reverse)


@pytest.mark.sample(dtype=[np.float32, np.float64])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_is_written_beside_results(rng, both, dtype, reverse):
    size = np.dtype(dtype).itemsize
    for _, (steps, lanes), offset in itertools.product(both(), SIZES, [0, size, 64 - size]):
        gate, value = operands(rng, (steps, lanes), dtype)
        wanted = fastrecur.forget_mult(gate, value, reverse=reverse)
        for shape, view_of in [
            ((steps, lanes), lambda out: out),
            ((steps, 2 * lanes), lambda out: out[:, ::2]),
            ((steps, lanes), lambda out: out[:, ::-1]),
            ((lanes, steps), lambda out: out.T),
        ]:
            whole, memory = guarded(shape, dtype, offset)
            check_nothing_beside("forget_mult", every(2)(gate), value, wanted, view_of(whole), memory, reverse=reverse)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "kinds", [(np.float16, np.float32), (bool, np.float64), (np.float32, np.int16), (np.uint8, int)]
)
def test_operands_of_several_dtypes(rng, both, kinds):
    for _, size, arrange in itertools.product(both(), SIZES[1:9:2], arranged_pairs()):
        numbers = rng.random(size) * 1.99, rng.standard_normal(size) * 9
        check_forward("forget_mult", *(put(v.astype(k)) for put, v, k in zip(arrange, numbers, kinds, strict=True)))


@pytest.mark.sample(name=["forget_mult"])
@pytest.mark.parametrize("name", RECURRENCES)
def test_lanes_of_several_axes_and_threads(rng, monkeypatch, set_threads, name):
    """Threads have some of the lanes, and begin within a row of them."""
    lower_thresholds(monkeypatch.setattr)
    gate, value = operands(rng, (21, 3, 5, 22), np.float32)
    results = []
    for threads in [1, 2, 5]:
        set_threads(threads)
        for layout in [lambda v: v[..., ::-1], lambda v: v[::-1, ::2, 1:, 3:]]:
            a, b = layout(gate), np.ascontiguousarray(layout(value))
            for one in [a, a[:, :1], a[..., :1]]:
                h = check_forward(name, one, b, axis=0)
                results.append((h, *check_vjp(name, one, b, rng=np.random.default_rng(0), axis=0)[:2]))
    for one, other in zip(results[6:], results, strict=False):
        for got, right in zip(one, other, strict=True):
            assert_same_bits(got, right)


@pytest.mark.sample(dtype=[np.float32, np.float64])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_lane_and_time(rng, dtype, bad):
    for lanes, lane in [(37, 3), (37, 30), (37, 36), (MANY_SERIES + 3, MANY_SERIES - 2)]:
        gate, value = operands(rng, (90, lanes), dtype)
        clean = fastrecur.forget_mult(every(2)(gate), value)
        value[50, lane] = bad
        h = fastrecur.forget_mult(every(2)(gate), value)
        assert_same_bits(np.delete(h, lane, 1), np.delete(clean, lane, 1))
        assert_same_bits(h[:50, lane], clean[:50, lane])
        assert not np.isfinite(h[50:, lane].astype(np.float64)).any()


@pytest.mark.parametrize("reverse", [False, True])
def test_in_place(rng, both, reverse):
    """Results where an operand stands; of lanes that fill no vector, some are worked out twice."""
    for _, (steps, lanes), arrange in itertools.product(both(), SIZES, arranged_pairs()):
        gate, value = operands(rng, (steps, lanes), np.float32)
        wanted = fastrecur.forget_mult(gate, value, reverse=reverse)
        for k in range(2):
            own = [put(v.copy()) for put, v in zip(arrange, (gate, value), strict=True)]
            fastrecur.forget_mult(*own, reverse=reverse, out=own[k])
            assert_same_bits(np.ascontiguousarray(own[k]), wanted)


@pytest.mark.exhaustive
@pytest.mark.parametrize("reverse", [False, True])
def test_more_steps_than_are_counted_exactly(rng, reverse):
    """Series that end around the steps from which valid ones are counted anew."""
    steps = EPOCH + 2 * MANY_STEPS + 3
    lengths = np.array([steps, 0, 1, EPOCH - 1, EPOCH, EPOCH + 1, EPOCH + MANY_STEPS, steps - 1, 70_000])
    value = rng.standard_normal((steps, len(lengths))).astype(np.float16)
    h0 = np.ones(len(lengths), np.float16)
    h, last = fastrecur.forget_mult(0.25, value, h0, lengths=lengths, reverse=reverse, return_state=True)
    grads = fastrecur.forget_mult_vjp(value, 0.25, value, h, h0, lengths=lengths, reverse=reverse)
    for series, length in enumerate(lengths):
        own = np.repeat(value[:length, series : series + 1], 2, 1)
        alone, end = fastrecur.forget_mult(0.25, own, h0[:2], reverse=reverse, return_state=True)
        rights = fastrecur.forget_mult_vjp(own, 0.25, own, alone, h0[:2], reverse=reverse)
        assert_same_bits(h[:length, series].copy(), alone[:, 0].copy())
        assert_same_bits(grads[1][:length, series].copy(), rights[1][:, 0].copy())
        assert not h[length:, series].any()
        assert not grads[1][length:, series].any()
        assert_same_bits(last[series : series + 1], end[:1])
        assert_same_bits(grads[2][series : series + 1], rights[2][:1])


@pytest.mark.sample(dtype=[np.float32])
@pytest.mark.parametrize(("name", "dtype"), [("forget_mult", np.float32), ("linear_recurrence", np.complex64)])
@pytest.mark.parametrize("shape", [(23, 3, 70), (7, 5, 9), (2, 3, 2, 140), (19, 2, 8)])
def test_few_series_that_follow_each_other(rng, both, name, dtype, shape):
    """Less than a vector of each group of series that end together, some in front of time and some behind it."""
    for _, axis, reverse in itertools.product(both(), [-1, 1], [False, True]):
        lengths = rng.integers(0, shape[axis] + 1, shape[0])
        gate, value = (rng.random(shape).astype(dtype) for _ in range(2))
        for a, b in [(gate, value), (gate[:, :1], value), (gate, value[..., ::-1]), (gate[..., :1], value)]:
            check_both(name, a, b, rng=rng, axis=axis, reverse=reverse, lengths=lengths)


def test_which_problems_are_packed():
    """Those whose series are neighbours in no operand, or not in all, or end apart; and complex ones along time."""
    x, packed = np.empty((77, 33), np.float32), problem.PACKED
    for a, b, h, options, expected in [
        (x, x[:, ::-1], None, {}, packed),
        (x, np.empty((77, 66), np.float32)[:, ::2], None, {}, packed),
        (np.asfortranarray(x), x, None, {}, packed),
        (x, x, np.empty((77, 66), np.float32)[:, ::2], {}, packed),
        (x, x, None, {"lengths": (33,)}, packed),
        (x[:, :7], x[:, 6::-1], None, {}, packed),
        (x.astype(np.complex64), x.astype(np.complex64)[:, ::-1], None, {}, packed),
        (x, x, None, {}, problem.ROWS),
        (np.asfortranarray(x), np.asfortranarray(x), None, {}, problem.TRANSPOSE8),
    ]:
        assert plan_of(a, b, h, axis=0, **options).traversal == expected


@pytest.mark.exhaustive
@pytest.mark.skipif(not hasattr(os, "fork"), reason="pages are protected as POSIX systems do")
def test_nothing_beside_operands_is_touched(run_python):
    """Operands and results between pages that may be neither read nor written: where these begin, or end."""
    script = """
import ctypes, itertools, mmap
import numpy as np
from compare import assert_same_bits
from test_packed import ARRANGEMENTS, FEW_STEPS, MANY_STEPS, in_order
from thresholds import lower_thresholds

import fastrecur

PAGE, kept = mmap.PAGESIZE, []


def between(view, at_end):
    low, high = np.lib.array_utils.byte_bounds(view)
    room = -(-(high - low) // PAGE) * PAGE
    memory = mmap.mmap(-1, room + 2 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    kept.append(memory)
    start = PAGE + (room - (high - low) if at_end else 0)
    first = view.__array_interface__["data"][0] - low
    array = np.ndarray(view.shape, view.dtype, memory, start + first, view.strides)
    array[...] = view
    for page in (address, address + PAGE + room):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), PAGE, 0) == 0
    return array


rng = np.random.default_rng(0)
sizes = [(5, 8), (MANY_STEPS + 1, 13), (1, 16), (3, 17), (FEW_STEPS + 1, 40), (MANY_STEPS + 9, 33)]
for at_end, arrange, (steps, lanes), reverse in itertools.product([0, 1], ARRANGEMENTS, sizes, [False, True]):
    for dtype in (np.float32, np.float64):
        gate, value, g = (rng.random((steps, lanes)).astype(dtype) for _ in range(3))
        h = fastrecur.forget_mult(gate, value, reverse=reverse)
        wanted = fastrecur.forget_mult_vjp(g, gate, value, h, reverse=reverse)[:2]
        for lengths in (None, np.full(lanes, steps), rng.integers(0, steps + 1, lanes)):
            a, b, g_own, h_own = (between(arrange(v), at_end) for v in (gate, value, g, h))
            out = between(arrange(np.zeros_like(h)), at_end)
            fastrecur.forget_mult(a, b, reverse=reverse, lengths=lengths, out=out)
            grads = fastrecur.forget_mult_vjp(g_own, a, b, h_own, reverse=reverse, lengths=lengths)[:2]
            if lengths is None or (lengths == steps).all():
                for got, right in zip((out, *grads), (h, *wanted), strict=True):
                    assert_same_bits(np.ascontiguousarray(got), right)
        few = between(arrange(gate)[:, ::-1][:, :7], at_end), between(np.ascontiguousarray(value[:, :7]), at_end)
        fastrecur.forget_mult(*few, reverse=reverse)
    kept.clear()
lower_thresholds(setattr)
for at_end, arrange in itertools.product([0, 1], ARRANGEMENTS):  # threads share rows of 22: some get parts of one
    gate, value = (between(arrange(rng.random((20, 66)).astype(np.float32)), at_end) for _ in range(2))
    fastrecur.set_num_threads(5)
    fastrecur.forget_mult(gate.reshape(20, 3, 22), value.reshape(20, 3, 22))
print("done")
"""
    assert run_python(script) == "done\n"


SMALL_STACKS = """
import threading
import numpy as np
import fastrecur

def work(axis, order):
    h = fastrecur.linear_recurrence(a.copy(order), b, axis=axis)
    fastrecur.linear_recurrence_vjp(h, a.copy(order), b, h, axis=axis)

ways = [(axis, order) for axis in (0, 1) for order in "CF"]
for dtype in np.complex128, np.float64:
    a, b = np.full((70, 300), 0.5, dtype), np.ones((70, 300), dtype)
    for way in ways:
        work(*way)  # which compiles kernels: the compiler needs more
    threading.stack_size(192 << 10)
    for way in ways:
        thread = threading.Thread(target=work, args=way)
        thread.start()
        thread.join()
    threading.stack_size(0)
"""


@pytest.mark.exhaustive
def test_threads_with_small_stacks(run_python):
    """Some systems give a thread 256 KiB or less; what does not fit there ends the process."""
    run_python(SMALL_STACKS)

"""Lanes that are neighbours, several steps at a time: the same bits as those of which each step is a neighbour."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from compare import assert_same_bits, check_both, check_forward, check_nothing_beside, check_vjp
from layouts import gate_slice, guarded
from test_forward import RECURRENCES, operands
from test_transpose8 import plan_of
from thresholds import lower_thresholds

import fastrecur
from fastrecur._plan import problem

pytestmark = pytest.mark.usefixtures("rows_of_any_length")

FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
STEPS = [1, 3, 4, 5, 8, 11, 38]  # fewer than four, four, and some that are left
ROWS = [(9,), (40,), (2100,), (3, 33), (5, 64), (2, 2080)]  # of a step; the long ones' states do not stay near


def lanes_first(array):
    return np.ascontiguousarray(np.moveaxis(array, 0, -1))


@pytest.mark.sample(dtype=[np.float32, np.float64])
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_bits_are_those_of_contiguous_time(rng, both, set_threads, name, dtype, reverse):
    recurrence = getattr(fastrecur, name)
    for _, steps, rows in itertools.product(both(), STEPS, ROWS):
        full, value = operands(rng, (steps, *rows), dtype)
        h0 = rng.standard_normal(rows).astype(dtype)
        options = {"reverse": reverse, "return_state": True}
        for gate in [full, full[(slice(None), *(slice(0, 1) for _ in rows))]]:  # a step's may be one for all lanes
            wanted, wanted_last = recurrence(lanes_first(gate), lanes_first(value), h0, axis=-1, **options)
            for threads in [1, 2]:
                set_threads(threads)
                h, last = recurrence(gate, value, h0, **options)
                assert_same_bits(lanes_first(h), wanted)
                assert_same_bits(last, wanted_last)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reverse", [False, True])
def test_lanes_of_several_lengths(rng, both, dtype, reverse):
    """Of rows that end apart, or all of them together, within four steps; and what is no step of theirs is zero."""
    for _, steps, rows in itertools.product(both(), [5, 38], [(3, 33), (2, 2080)]):
        gate, value = operands(rng, (steps, *rows), dtype)
        apart = rng.integers(0, steps + 1, rows[:1])
        for lengths in [apart, np.full(rows[:1], steps - 2), np.full(rows[:1], 4), np.zeros(rows[:1], int)]:
            wanted = fastrecur.forget_mult(
                lanes_first(gate), lanes_first(value), axis=-1, reverse=reverse, lengths=lengths
            )
            h = check_forward("forget_mult", gate, value, reverse=reverse, lengths=lengths)
            assert_same_bits(lanes_first(h), wanted)


@pytest.mark.sample(dtype=[np.float32, np.float64])
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_bits_of_gradients_are_those_of_contiguous_time(rng, both, set_threads, name, dtype, reverse):
    vjp = getattr(fastrecur, f"{name}_vjp")
    for _, steps, rows in itertools.product(both(), [1, 2, 5, 12], ROWS):
        gate, value = (gate_slice(operand) for operand in operands(rng, (steps, *rows), dtype))
        h0 = rng.standard_normal(rows).astype(dtype)
        h = getattr(fastrecur, name)(gate, value, h0, reverse=reverse)
        g = rng.standard_normal(h.shape).astype(dtype)
        wanted = vjp(*(lanes_first(v) for v in (g, gate, value, h)), h0, axis=-1, reverse=reverse)
        for threads in [1, 2]:
            set_threads(threads)
            *grads, grad_h0 = vjp(g, gate, value, h, h0, reverse=reverse)
            for grad, right in zip([*map(lanes_first, grads), grad_h0], wanted, strict=True):
                assert_same_bits(grad, right)


@pytest.mark.sample(dtypes=[(np.float32, np.float32)])
@pytest.mark.parametrize(
    "dtypes", [*zip(FLOATS, FLOATS, strict=True), (np.float16, np.float32), (np.float32, np.float16)]
)
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_of_rows(rng, both, dtypes, reverse):
    """Of a gate for each element, for each step, for each lane and for all; lanes that end apart; and two dtypes.

    Past the cache go lines, and those of two steps may begin with other lanes.
    """
    for _, steps, rows in itertools.product(both(), [1, 2, 5, 12], [(9,), (3, 9), (3, 75), (3, 80), (3, 2080)]):
        full, value = (
            gate_slice(operand.astype(dtype))
            for operand, dtype in zip(operands(rng, (steps, *rows), np.float32), dtypes, strict=True)
        )
        some = rng.integers(0, steps + 1, rows[:1])
        gates = [full, full[(slice(None), *(slice(0, 1) for _ in rows))], full[0], dtypes[0](0.25)]
        for gate in gates if dtypes[0] == dtypes[1] else gates[:2]:  # sums are of the carry's
            for lengths in [None, some, np.maximum(some, steps - 1)]:
                check_vjp("forget_mult", gate, value, rng=rng, reverse=reverse, lengths=lengths)


def of_steps(array):
    """One number for all lanes of a step."""
    return array[(slice(None), *(slice(0, 1) for _ in array.shape[1:]))]


@pytest.mark.sample(name=["forget_mult"], dtype=[np.float32])
@pytest.mark.parametrize(("name", "dtype"), [*itertools.product(RECURRENCES, FLOATS), ("linear_recurrence", "c8")])
@pytest.mark.parametrize("reverse", [False, True])
def test_one_value_for_all_lanes(rng, both, set_threads, name, dtype, reverse):
    """The bits are those of the same values written out."""
    recurrence = getattr(fastrecur, name)
    for _, steps, rows in itertools.product(both(), [1, 4, 11, 38], ROWS):
        gate, full = operands(rng, (steps, *rows), dtype)
        h0 = rng.standard_normal(rows).astype(dtype)
        for value, one_gate, threads in itertools.product([of_steps(full), full.flat[0]], [False, True], [1, 2]):
            set_threads(threads)
            lanes = gate[:1] if one_gate and np.ndim(value) else gate
            out_of_it = np.broadcast_to(value, full.shape).copy()
            wanted, wanted_last = recurrence(lanes, out_of_it, h0, reverse=reverse, return_state=True)
            h, last = recurrence(lanes, value, h0, reverse=reverse, return_state=True)
            assert_same_bits(h, wanted)
            assert_same_bits(last, wanted_last)


# Kernels for each dtype and for both recurrences, though not for each pair; the next test has the others.
@pytest.mark.sample(dtype=["f4"])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("forget_mult", "f4"), ("linear_recurrence", "f8"), ("forget_mult", "f2"), ("linear_recurrence", "c8")],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_of_one_value_for_all_lanes(rng, both, name, dtype, reverse):
    """They are sums over lanes, for each step, each part of the lanes or all; lanes end together and apart."""
    for _, steps, rows in itertools.product(both(), [1, 2, 5, 12], [(9,), (80,), (3, 75), (3, 2080)]):
        full, value = operands(rng, (steps, *rows), dtype)
        some = rng.integers(0, steps + 1, rows[:1])
        for gate, lengths in itertools.product([full, full[:1]], [None, some]):
            check_vjp(name, gate, of_steps(value), rng=rng, reverse=reverse, lengths=lengths)
        check_vjp(name, full, value[:1, ..., :1], rng=rng, reverse=reverse)
        check_vjp(name, full, value[..., :1], rng=rng, reverse=reverse)
        check_vjp(name, full, value.flat[0], rng=rng, reverse=reverse)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("linear_recurrence", "f4"), ("forget_mult", "f8"), ("linear_recurrence", "f2"), ("linear_recurrence", "c8")],
)
@pytest.mark.parametrize("axis", [0, -1])
def test_one_cotangent_for_many(rng, both, set_threads, name, dtype, axis):
    """As of a sum of all results, whose gradient is one number: the bits are those of the same written out."""
    vjp = getattr(fastrecur, f"{name}_vjp")
    for _, steps, rows in itertools.product(both(), [1, 5, 12], [(9,), (80,), (3, 75), (3, 2080)]):
        gate, value = (np.moveaxis(v, 0, axis).copy() for v in operands(rng, (steps, *rows), dtype))
        h = getattr(fastrecur, name)(gate, value, axis=axis)
        cotangents = rng.standard_normal(h.shape).astype(dtype)
        for some in [cotangents.flat[0], cotangents[:1], cotangents[..., :1]]:
            g = np.broadcast_to(some, h.shape)
            wanted = vjp(g.copy(), gate, value, h, axis=axis)
            for threads in [1, 2]:
                set_threads(threads)
                for grad, right in zip(vjp(g, gate, value, h, axis=axis)[:2], wanted[:2], strict=True):
                    assert_same_bits(grad, right)
            for one_gate in [gate.flat[0], np.moveaxis(np.moveaxis(gate, axis, 0)[:1], 0, axis)]:
                check_vjp(name, one_gate, value, rng=rng, axis=axis, grad_h=g)


@pytest.mark.sample(dtype=[np.float32, np.float64])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_is_written_beside_results(rng, both, dtype, reverse):
    """Whether all steps' lines begin with the same lanes, and so go together, or not; and up and down memory."""
    size = np.dtype(dtype).itemsize
    for _, steps, lanes, offset in itertools.product(both(), [7, 12], [40, 64, 2100], [0, size, 16]):
        gate, value = operands(rng, (steps, lanes), dtype)
        wanted = fastrecur.forget_mult(gate, value, reverse=reverse)
        alike, memory_alike = guarded((steps, lanes), dtype, offset)
        one_line, memory = guarded((1, steps * (lanes + 3)), dtype, offset)
        unlike = one_line[0].reshape(steps, lanes + 3)[:, :lanes]
        for out, around in [
            (alike, memory_alike),
            (alike[::-1], memory_alike),
            (unlike, memory),
            (unlike[::-1], memory),
        ]:
            check_nothing_beside("forget_mult", gate, value, wanted, out, around, reverse=reverse)


@pytest.mark.sample(name=["forget_mult"])
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("reverse", [False, True])
def test_gates_of_a_row_that_stand_a_row_apart(rng, both, set_threads, name, reverse):
    """One for all lanes of a step, but not one for all steps, beside results that begin within a line."""
    for _, threads, lanes in itertools.product(both(), [1, 2], [64, 160]):
        set_threads(threads)
        full, value = operands(rng, (40, lanes), np.float32)
        wanted = getattr(fastrecur, name)(full[:, :1].copy(), value, reverse=reverse)
        dense, _ = guarded((1, 40 * lanes), np.float32, 12)
        out = dense[0].reshape(40, lanes)
        for gate in [full[:, :1], np.broadcast_to(full[:, :1], full.shape)]:
            getattr(fastrecur, name)(gate, value, reverse=reverse, out=out)
            assert_same_bits(out.copy(), wanted)


def signature(array):
    return array.dtype, array.shape, array.strides


def test_the_problems_above_are_walked_by_rows():
    options = {"axis": 0, "reverse": False, "lengths": None, "weak_complex": False}
    for rows in ROWS:
        x = np.empty((38, *rows), np.float32)
        for value in [x, of_steps(x), x[:1, ..., :1]]:
            operands = signature(x), signature(value)
            plan = problem.forward("forget", ("f", "x", "h0"), *operands, None, None, **options)
            assert plan.traversal == problem.ROWS
            for g in [x, np.broadcast_to(x[:1, ..., :1], x.shape)]:
                names = "grad_h", "f", "x", "h"
                plan = problem.vjp("forget", names, (signature(g), *operands, signature(x), None, None), **options)
                assert plan.traversal == problem.ROWS


@pytest.mark.sample(name=["forget_mult"], dtype=[np.float32])
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lanes_of_several_axes_around_time(rng, monkeypatch, forget_plans, set_threads, name, dtype):
    """Walks that are repeated: no one stride takes from each row of lanes around time to the next."""
    recurrence, vjp = getattr(fastrecur, name), getattr(fastrecur, name + "_vjp")
    lower_thresholds(monkeypatch.setattr)
    monkeypatch.setattr(problem, "REPEATED", 1)
    forget_plans()
    for inner, reverse in itertools.product([3, 23, 64], [False, True]):
        shape, options = (3, 4, 2, 9, inner), {"axis": 3, "reverse": reverse}
        gate, value = operands(rng, shape, dtype)
        g, h0 = rng.standard_normal(shape).astype(dtype), rng.standard_normal((3, 4, 2, inner)).astype(dtype)
        turned = np.ascontiguousarray(value[:, ::-1])[:, ::-1]
        swapped = np.ascontiguousarray(gate.transpose(2, 0, 1, 3, 4)).transpose(1, 2, 0, 3, 4)
        h, last = recurrence(gate, value, h0, return_state=True, **options)
        wanted = vjp(g, gate, value, h, h0, grad_state=last, **options)
        for threads in [1, 2, 5]:
            set_threads(threads)
            for a, b in [(gate, turned), (swapped, value), (swapped, turned)]:
                plan = plan_of(a, b, family=name.split("_")[0], axis=3, reverse=reverse)
                assert plan.traversal == problem.ROWS
                assert len(plan.extra) > 1
                got, got_last = recurrence(a, b, h0, return_state=True, **options)
                assert_same_bits(np.ascontiguousarray(got), h)
                assert_same_bits(got_last, last)
                for grad, right in zip(vjp(g, a, b, got, h0, grad_state=last, **options), wanted, strict=True):
                    assert_same_bits(np.ascontiguousarray(grad), right)
        for few in [gate[:1], gate[:, :1], gate[:, :, :1], gate[:, :1, :, :1], gate[..., :1], gate[:1, :, :1, :, :1]]:
            for lengths in [None, rng.integers(0, 10, (3, 4)), rng.integers(0, 10, (3, 4, 2))]:
                check_both(name, few, turned, h0, rng=rng, lengths=lengths, **options)
                check_vjp(name, swapped, few, h0, rng=rng, lengths=lengths, **options)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("gate", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_steps_taken_together_that_are_not_finite(rng, dtype, gate):
    """Whichever of four steps that stay in registers has met an infinity."""
    for steps, k in [(8, k) for k in range(8)] + [(11, 9)]:
        value = rng.standard_normal((steps, 40)).astype(dtype)
        value[k, ::3], value[k, 1::5], value[-1, 2::7] = np.inf, np.nan, -np.inf
        h0 = rng.choice([0.5, np.inf, -np.inf], 40, p=[0.8, 0.1, 0.1]).astype(dtype)
        check_forward("forget_mult", gate, value, h0, dtype=dtype)
        in_place = value.copy()
        wanted = fastrecur.forget_mult(gate, lanes_first(value), h0, axis=-1)
        assert_same_bits(lanes_first(fastrecur.forget_mult(gate, in_place, h0, out=in_place)), wanted)

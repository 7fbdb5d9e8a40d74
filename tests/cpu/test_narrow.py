"""Rows of few lanes, whose number a kernel knows: the same bits as those of contiguous time."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from compare import assert_same_bits, check_both, check_forward, check_nothing_beside, check_vjp
from layouts import guarded
from test_forward import RECURRENCES, operands
from thresholds import lower_thresholds

import fastrecur
from fastrecur._cpu import cost
from fastrecur._plan import problem

FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
LANES = [2, 3, 5, 8, 16, 23, 31]
# A kernel is compiled for each number of lanes. How a row is read and written depends on that and the dtype, a step on
# the dtype and the recurrence: so each number of lanes is walked by one of both.
FORGET, LINEAR = RECURRENCES
KINDS = [
    *((np.float32, lanes, RECURRENCES[k % 2]) for k, lanes in enumerate(LANES)),
    *((np.float64, lanes, name) for lanes, name in [(2, LINEAR), (5, FORGET), (16, LINEAR), (31, FORGET)]),
    *((np.float16, lanes, FORGET) for lanes in [2, 12, 31]),
    *((ml_dtypes.bfloat16, lanes, LINEAR) for lanes in [3, 16, 23]),
]  # fmt: skip


@pytest.fixture(autouse=True)
def few_elements(monkeypatch, forget_plans):
    """Small problems are walked as larger ones are."""
    monkeypatch.setattr(problem, "NARROW_LEAST", 0)
    forget_plans()


def lanes_first(array, axis):
    return np.ascontiguousarray(np.moveaxis(array, axis, -1))


def shapes_of(lanes):
    """Shapes of which time is an axis, neighbours in memory so many lanes: alone, of each of several, and with gaps."""
    yield (13, lanes), 0, None
    yield (3, 13, lanes), 1, None
    yield (13, 3, lanes + 1), 0, lanes
    yield (2, 13, 3, lanes + 1), 1, lanes


def arrays(rng, shape, upto, dtype):
    return [v[..., :upto] for v in operands(rng, shape, dtype)]


@pytest.mark.sample(lanes=[5], dtype=[np.float32])
@pytest.mark.parametrize(("dtype", "lanes", "name"), KINDS)
def test_the_bits_are_those_of_contiguous_time(rng, set_threads, name, dtype, lanes):
    recurrence, vjp = (getattr(fastrecur, name + suffix) for suffix in ("", "_vjp"))
    for (shape, axis, upto), reverse in itertools.product(shapes_of(lanes), [False, True]):
        gate, value = arrays(rng, shape, upto, dtype)
        rows = tuple(np.delete(gate.shape, axis))
        h0, last = (rng.standard_normal(rows).astype(dtype) for _ in range(2))
        g = rng.standard_normal(gate.shape).astype(dtype)
        options = {"axis": -1, "reverse": reverse}
        gate_last, value_last, g_last = (lanes_first(v, axis) for v in (gate, value, g))
        wanted, wanted_state = recurrence(gate_last, value_last, h0, return_state=True, **options)
        wanted_grads = vjp(g_last, gate_last, value_last, wanted, h0, grad_state=last, **options)
        for threads in [1, 2]:
            set_threads(threads)
            options = {"axis": axis, "reverse": reverse}
            h, state = recurrence(gate, value, h0, return_state=True, **options)
            assert_same_bits(lanes_first(h, axis), wanted)
            assert_same_bits(state, wanted_state)
            *grads, grad_h0 = vjp(g, gate, value, h, h0, grad_state=last, **options)
            for grad, right in zip(grads, wanted_grads[:2], strict=True):
                assert_same_bits(lanes_first(grad, axis), right)
            assert_same_bits(grad_h0, wanted_grads[2])


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("dtype", "lanes", "name"),
    [
        (np.float32, 2, FORGET),
        (np.float32, 23, LINEAR),
        (np.float64, 5, FORGET),
        (np.float16, 5, LINEAR),
    ],
)
def test_broadcast_operands(rng, name, dtype, lanes):
    """One number for all lanes, for all steps, or both; a cotangent too; and lanes that end apart."""
    for (shape, axis, upto), reverse in itertools.product(shapes_of(lanes), [False, True]):
        gate, value = arrays(rng, shape, upto, dtype)
        first = [slice(0, 1) if k == axis else slice(None) for k in range(gate.ndim)]
        options = {"axis": axis, "reverse": reverse}
        gates, values = ([v, v[..., :1], v[tuple(first)], v.flat[0]] for v in (gate, value))
        for a, b in [*itertools.product(gates[:1], values), *itertools.product(gates, values[:1])]:
            check_both(name, a, b, rng=rng, state=False, **options)
        for g in [gate[..., :1], gate.flat[0]]:
            g = np.broadcast_to(g, gate.shape)
            check_vjp(name, gate, value, rng=rng, grad_h=g, **options)
            check_vjp(name, gates[3], value, rng=rng, grad_h=g, **options)
        if gate.ndim > 2:
            lengths = rng.integers(0, gate.shape[axis] + 1, 3 if axis == 0 else gate.shape[:1])
            h0 = rng.standard_normal(np.delete(gate.shape, axis)).astype(dtype)
            check_both(name, gate, value, h0, rng=rng, lengths=lengths, **options)
            check_vjp(name, gates[3], value, rng=rng, lengths=lengths, **options)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("dtype", "lanes"), [(np.float32, 8), (np.float64, 5)])
def test_threads_share_rows(rng, monkeypatch, set_threads, dtype, lanes):
    """One each, or more; or each of what stands around time."""
    lower_thresholds(monkeypatch.setattr)
    monkeypatch.setattr(cost, "PART_BYTES", 2)
    for shape, axis in [
        ((13, 2, lanes + 1), 0),
        ((13, 5, lanes + 1), 0),
        ((3, 13, lanes), 1),
        ((2, 13, 3, lanes + 1), 1),
    ]:
        gate, value = arrays(rng, shape, lanes, dtype)
        g = rng.standard_normal(gate.shape).astype(dtype)
        for a, lengths in itertools.product([gate, 0.25], [None, rng.integers(0, 14, shape[1 if axis == 0 else 0])]):
            results = []
            for threads in [1, 2, 5]:
                set_threads(threads)
                h = fastrecur.forget_mult(a, value, axis=axis, lengths=lengths)
                grads = fastrecur.forget_mult_vjp(g, a, value, h, axis=axis, lengths=lengths)[:2]
                results.append([h, *map(np.asarray, grads)])
            for other, (one, right) in itertools.product(results[1:], enumerate(results[0])):
                assert_same_bits(other[one], right)
            check_forward("forget_mult", a, value, dtype=dtype, axis=axis, lengths=lengths)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("dtype", "lanes", "name"),
    [(np.float32, 2, FORGET), (np.float32, 5, LINEAR), (np.float64, 5, FORGET), (np.float64, 5, LINEAR)],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_of_many_steps_are_summed_in_parts(rng, dtype, lanes, name, reverse):
    for steps in [511, 512, 513, 1025, 3000]:
        gate, value = operands(rng, (steps, lanes), dtype)
        for one in [gate[:1] / 2, dtype(0.25), gate[:, :1]]:
            check_vjp(name, one, value, rng=rng, reverse=reverse)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_is_written_beside_results(rng, dtype, reverse):
    kinds = [kind[1:] for kind in KINDS if kind[0] == dtype]
    for (lanes, name), gap in itertools.product(kinds, [0, 1]):
        gate, value = operands(rng, (11, lanes), dtype)
        wanted = getattr(fastrecur, name)(gate, value, reverse=reverse)
        whole, memory = guarded((11, lanes + gap), dtype, 0)
        check_nothing_beside(name, gate, value, wanted, whole[:, :lanes], memory, reverse=reverse)


def test_the_problems_above_have_kernels_of_their_own():
    options = {"reverse": False, "lengths": None, "weak_complex": False}
    for lanes in [*LANES, 32]:
        for shape, axis, upto in shapes_of(lanes):
            x = np.empty(shape, np.float32)[..., :upto]
            signature = x.dtype, x.shape, x.strides
            plan = problem.forward("forget", ("f", "x", "h0"), signature, signature, None, None, axis=axis, **options)
            assert plan.traversal == problem.ROWS
            assert bool(plan.narrow) == (lanes < problem.NARROW_ROW)

"""Both recurrences against the reference: sizes, operands, broadcasting."""

import itertools

import numpy as np
import pytest
from compare import check_forward

import fastrecur

pytestmark = pytest.mark.usefixtures("rows_of_any_length")

RECURRENCES = ["forget_mult", "linear_recurrence"]
SIZES = [1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65]


def operands(rng, shape, dtype):
    """A gate in [0, 1], which keeps either recurrence bounded, and values."""
    return rng.random(shape).astype(dtype), rng.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("reverse", [False, True])
def test_sizes_around_a_vector(rng, name, dtype, axis, reverse):
    for steps, lanes in itertools.product([1, 2, 3, 16, 33, 65], SIZES):
        shape = (steps, lanes) if axis == 0 else (lanes, steps)
        h0 = rng.standard_normal(lanes).astype(dtype)
        check_forward(name, *operands(rng, shape, dtype), h0, axis=axis, reverse=reverse)


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("dtype", "shape", "axis"),
    [
        # Wide enough for several tiles, several threads, and one lane more.
        (np.float32, (129, 4097), 0),
        (np.float32, (257, 1025), 0),
        (np.float64, (1025, 641), 0),
        (np.float32, (40, 65537), 0),
        (np.float32, (1025, 257), 1),
        (np.float64, (65, 4097), 1),
        (np.float32, (17, 4096), 1),
        (np.float32, (9, 129, 321), 1),
        (np.float64, (33, 257, 17), 1),
        (np.float64, (5, 64, 1025), 0),
        (np.float32, (7, 11, 2049), 2),
    ],
)
def test_one_past_a_tile(rng, name, dtype, shape, axis, reverse):
    h0 = rng.standard_normal(shape[:axis] + shape[axis + 1 :]).astype(dtype)
    check_forward(name, *operands(rng, shape, dtype), h0, axis=axis, reverse=reverse)


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("lanes", "steps"),
    [
        *itertools.product([1, 2], [1, 2047, 2048, 2049, 5000, 10000]),
        *((lanes, 2049) for lanes in range(3, 10)),
        (3, 10000),
        (8, 5000),
        (9, 10000),
    ],
)
def test_few_long_lanes(rng, name, dtype, lanes, steps):
    reverse = bool((lanes + steps) % 2)
    gate, value = operands(rng, (steps, lanes), dtype)
    h0 = rng.standard_normal(lanes).astype(dtype)
    check_forward(name, gate, value, h0, reverse=reverse)
    check_forward(name, gate.T.copy(), value.T.copy(), h0, axis=1, reverse=not reverse)


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_series(rng, name, dtype):
    for steps in [1, 2, 17, 1000, 30001]:
        gate, value = operands(rng, steps, dtype)
        for h0 in [None, dtype(2), 2.5, np.array(-1, dtype)]:
            check_forward(name, gate, value, h0)
            check_forward(name, gate, value, h0, axis=-1, reverse=True)


BROADCAST = {
    "a number": ((), (6, 5, 4)),
    "one gate": ((1,), (6, 5, 4)),
    "one gate in every axis": ((1, 1, 1), (6, 5, 4)),
    "a gate per channel": ((4,), (6, 5, 4)),
    "a gate per lane": ((5, 4), (6, 5, 4)),
    "a gate per step": ((6, 1, 1), (6, 5, 4)),
    "a gate per row": ((5, 1), (6, 5, 4)),
    "both ways": ((6, 1, 4), (5, 1)),
    "one value": ((6, 5, 4), ()),
    "values per channel": ((6, 5, 4), (4,)),
    "an outer product": ((6, 5, 1), (1, 1, 4)),
    "two vectors": ((6, 1), (4,)),
}


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", BROADCAST)
def test_broadcasting(rng, name, dtype, case):
    gate_shape, value_shape = BROADCAST[case]
    shape = np.broadcast_shapes(gate_shape, value_shape)
    gate = rng.random(gate_shape).astype(dtype)
    value = rng.standard_normal(value_shape).astype(dtype)
    for axis, reverse in itertools.product(range(-len(shape), len(shape)), [False, True]):
        lanes = [n for i, n in enumerate(shape) if i != axis % len(shape)]
        for h0_shape in [None, (), tuple(lanes), tuple(lanes[1:]), (*lanes[:-1], 1)]:
            h0 = None if h0_shape is None else rng.standard_normal(h0_shape).astype(dtype)
            check_forward(name, gate, value, h0, axis=axis, reverse=reverse)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(300, 2049), (20000,), (20000, 3), (50, 20, 65)])
def test_constant_gate(rng, dtype, shape):
    x = rng.standard_normal(shape).astype(dtype)
    for f in [0.1, 1, True, 0, dtype(0.25), rng.random(shape[-1:]).astype(dtype)]:
        if np.ndim(f) and len(shape) == 1:
            continue
        check_forward("forget_mult", f, x, 0.5)
        check_forward("forget_mult", f, x, axis=-1, reverse=True)


def test_decay_underflows_to_forgetting(rng):
    # Products of a chunk's factors underflow to 0 and to subnormal numbers; nothing else may.
    for scale in [1e-3, 1e-30, 1e-150]:
        a = scale * rng.random((5000, 2))
        check_forward("linear_recurrence", a, rng.standard_normal((5000, 2)), 1.0)


@pytest.mark.parametrize("name", RECURRENCES)
def test_results_own_their_memory(rng, name):
    gate, value = operands(rng, (4, 3), np.float32)
    h0 = np.ones(3, np.float32)
    for axis in [0, 1]:
        h = getattr(fastrecur, name)(gate, value, axis=axis)
        assert h.flags.c_contiguous
        assert h.flags.writeable
        for operand in [gate, value, h0]:
            assert not np.shares_memory(h, operand)

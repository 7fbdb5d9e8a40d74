"""Every axis, direction and stride."""

import itertools

import numpy as np
import pytest
from compare import assert_same_bits, check_both, check_forward, check_vjp
from layouts import FOREIGN, WRITEABLE, read_only
from test_forward import RECURRENCES, operands

import fastrecur
from fastrecur._plan import problem

pytestmark = pytest.mark.usefixtures("rows_of_any_length")

SHAPES = [(5, 6, 7), (40, 33, 17), (3, 1, 65), (1, 4, 3)]


def axes_and_directions(ndim=3):
    return itertools.product(range(ndim), [False, True])


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", WRITEABLE + FOREIGN)
def test_forward(rng, name, dtype, layout):
    for shape in SHAPES:
        gate, value = operands(rng, shape, dtype)
        for axis, reverse in axes_and_directions():
            lanes = shape[:axis] + shape[axis + 1 :]
            h0 = layout(rng.standard_normal(lanes).astype(dtype))
            options = {"axis": axis, "reverse": reverse, "dtype": dtype}
            plain = check_forward(name, gate, value, h0, **options)
            for arranged in [(layout(gate), value), (gate, layout(value))]:
                check_forward(name, *arranged, h0, **options)
            # The time axis is as long and the lanes are as many: the path may differ, and with it
            # the last bit, only where memory is walked in another order.
            both = check_forward(name, layout(gate), layout(value), h0, **options)
            np.testing.assert_allclose(both, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", WRITEABLE + FOREIGN)
def test_vjp(rng, name, dtype, layout):
    for shape in SHAPES[:2]:
        gate, value = operands(rng, shape, dtype)
        for axis, reverse in axes_and_directions():
            lanes = shape[:axis] + shape[axis + 1 :]
            h0 = layout(rng.standard_normal(lanes).astype(dtype))
            options = {"rng": rng, "axis": axis, "reverse": reverse, "dtype": dtype}
            check_vjp(name, layout(gate), layout(value), h0, arrange=layout, **options)
            check_vjp(name, gate, layout(value), h0, state=False, **options)


@pytest.mark.sample(name=["forget_mult"])
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("layout", WRITEABLE)
def test_out(rng, name, layout):
    for shape, dtype in itertools.product(SHAPES, [np.float32, np.float64]):
        gate, value = operands(rng, shape, dtype)
        for axis, reverse in axes_and_directions():
            out = layout(np.full(shape, np.nan, dtype))
            h = getattr(fastrecur, name)(gate, value, axis=axis, reverse=reverse, out=out)
            assert h is out
            plain = check_forward(name, gate, value, axis=axis, reverse=reverse)
            np.testing.assert_allclose(h, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lanes", [16, 33, 1025])
def test_gates_of_one_product(rng, dtype, lanes):
    product = rng.random((65, 3, 3 * lanes)).astype(dtype)
    x, f, _ = np.split(product, 3, axis=-1)
    for axis, reverse in axes_and_directions(2):
        check_both("forget_mult", f, x, rng=rng, axis=axis, reverse=reverse, state=False)


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lanes_far_apart_in_memory(rng, name, dtype):
    # Power-of-two strides between lanes, and rows of whole pages.
    gate, value = operands(rng, (130, 512), dtype)
    check_forward(name, gate, value, axis=1)
    check_forward(name, gate.T, value.T, axis=0)
    check_forward(name, gate[:, ::64], value[:, ::64], axis=0)
    check_vjp(name, gate, value, rng=rng, axis=1, state=False)


@pytest.mark.sample(name=["forget_mult"])
@pytest.mark.parametrize("name", RECURRENCES)
def test_broadcast_operands(rng, name):
    row, column = rng.random(7).astype(np.float32), rng.random((5, 1, 1)).astype(np.float32)
    gate = np.broadcast_to(row, (5, 6, 7))
    value = np.broadcast_to(column, (5, 6, 7))
    for axis, reverse in axes_and_directions():
        lanes = gate.shape[:axis] + gate.shape[axis + 1 :]
        h0 = np.broadcast_to(np.float32(0.5), lanes)
        check_both(name, gate, value, h0, rng=rng, axis=axis, reverse=reverse)


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3), (0, 0), (2, 3, 0)])
def test_nothing(rng, name, shape):
    gate, value = operands(rng, shape, np.float32)
    for axis, reverse in axes_and_directions(len(shape)):
        lanes = shape[:axis] + shape[axis + 1 :]
        h0 = rng.standard_normal(lanes).astype(np.float32)
        for start in [None, h0, 0.5]:
            check_forward(name, gate, value, start, axis=axis, reverse=reverse)
            check_forward(name, 0.5, value, start, axis=axis, reverse=reverse)
            check_vjp(name, gate, value, start, rng=rng, axis=axis, reverse=reverse)
        _, last = getattr(fastrecur, name)(gate, value, h0, axis=axis, reverse=reverse, return_state=True)
        if shape[axis] == 0:
            assert_same_bits(last, h0)
            assert not np.shares_memory(last, h0)


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("shape", [(1,), (1, 1), (1, 1, 1), (2, 1, 1, 3, 1), (2, 2, 2, 2, 2, 2)])
def test_any_number_of_axes(rng, name, shape):
    gate, value = operands(rng, shape, np.float64)
    for axis in range(-len(shape), len(shape)):
        check_forward(name, gate, value, axis=axis)
        check_vjp(name, gate, value, 1.0, rng=rng, axis=axis, reverse=True)


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("axes", [33, 62])
def test_as_many_axes_as_numpy_has(rng, name, axes):
    recurrence, vjp = getattr(fastrecur, name), getattr(fastrecur, name + "_vjp")
    gate, value = operands(rng, (5, 3), np.float64)
    many = (5, *[1] * (axes - 2), 3)
    h = recurrence(gate, value)
    assert_same_bits(recurrence(gate.reshape(many), value.reshape(many)), h.reshape(many))
    grads = vjp(h.reshape(many), gate.reshape(many), value.reshape(many), h.reshape(many))
    for got, wanted in zip(grads[:2], vjp(h, gate, value, h)[:2], strict=True):
        assert_same_bits(got, wanted.reshape(many))


@pytest.mark.sample(name=["forget_mult"])
@pytest.mark.parametrize("name", RECURRENCES)
def test_interleaved_operands(rng, name):
    # Gate and value share a buffer without sharing an element.
    both = rng.random((65, 33, 2)).astype(np.float32)
    for axis, reverse in axes_and_directions(2):
        check_both(name, both[..., 0], both[..., 1], rng=rng, axis=axis, reverse=reverse)


@pytest.mark.parametrize("name", RECURRENCES)
def test_one_array_as_every_operand(rng, name):
    a = read_only(rng.random((9, 9)))
    check_both(name, a, a, a[0], rng=rng)


def test_fresh_results_are_laid_out_as_numpy_does(rng):
    for _ in range(300):
        shape = tuple(int(n) for n in rng.integers(1, 4, rng.integers(1, 5)))
        array = np.empty(shape[::-1]).transpose(rng.permutation(len(shape)))
        array = array[tuple(slice(None, None, int(rng.choice([-1, 1, 2]))) for _ in shape)]
        expected = np.empty_like(array, np.float32)
        strides = problem.like(array.shape, expected.dtype, (array.shape, array.strides))
        assert all(a == b for n, a, b in zip(array.shape, strides, expected.strides, strict=True) if n > 1)
        assert problem.is_c_order(array.shape, strides) == expected.flags.c_contiguous
    # A result on a GPU may be larger than the host's memory.
    shape = (1 << 24, 1 << 24)
    strides = (8, 8 << 24)
    assert problem.like(shape, np.dtype(np.float32), (shape, strides)) == (4, 4 << 24)
    assert not problem.is_c_order(shape, strides)

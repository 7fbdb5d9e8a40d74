"""Every dtype, and what mixtures of them become."""

import enum
import itertools

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close, assert_same_bits, check_both, check_forward, check_vjp

import fastrecur
from fastrecur import reference

pytestmark = pytest.mark.usefixtures("rows_of_any_length")

BFLOAT16 = ml_dtypes.bfloat16
HALVES = [np.float16, BFLOAT16]
# Every combination of dtypes is compiled anew for every path: most tests here take one path, whose
# shapes are these.
ROWS = [((9, 5), 0), ((65, 33), 0), ((3, 17, 16), 1)]
COLUMNS = [((5, 9), 1), ((33, 65), 1)]
SERIES = [((3000, 2), 0)]


def numbers(rng, shape, dtype):
    """Numbers of either recurrence that exist in `dtype`."""
    dtype = np.dtype(dtype)
    if dtype.kind in "biu":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.kind == "c":
        return (0.7 * rng.standard_normal((2, *shape)).T @ [1, 1j]).T.astype(dtype)
    return rng.random(shape).astype(dtype)


@pytest.mark.sample(name=["forget_mult"], dtype=[BFLOAT16])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("name", "dtype", "shapes"),
    [
        ("forget_mult", np.float16, ROWS + COLUMNS + SERIES),
        ("forget_mult", BFLOAT16, ROWS),
        ("linear_recurrence", np.float16, ROWS),
    ],
)
def test_half_precisions(rng, name, dtype, shapes, reverse):
    for shape, axis in shapes:
        gate, value = numbers(rng, shape, dtype), numbers(rng, shape, dtype)
        h0 = numbers(rng, shape[:axis] + shape[axis + 1 :], dtype)
        options = {"axis": axis, "reverse": reverse}
        check_both(name, gate, value, h0, rng=rng, **options)
        check_vjp(name, gate[:1], value, h0[:1], rng=rng, **options)


@pytest.mark.sample(shape=[(1000, 33)])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("shape", "axis"), [((1000, 33), 0), ((3, 5000), 1)])
def test_half_precisions_are_rounded_once(rng, shape, axis, dtype):
    f, x = numbers(rng, shape, dtype), numbers(rng, shape, dtype) - dtype(0.5)
    h = fastrecur.forget_mult(f, x, axis=axis)
    wide = reference.forget_mult(f, x, axis=axis)
    assert_close(h, wide, dtype, ulp=0.5, magnitude=10.0)
    # Against the float32 computation itself: the same, but where it lies between two numbers.
    single = fastrecur.forget_mult(f.astype(np.float32), x.astype(np.float32), axis=axis)
    assert (h != single.astype(dtype)).mean() < 1e-2


@pytest.mark.exhaustive
def test_half_precisions_carry_what_they_cannot_hold():
    # A step adds less than half a unit in the last place of the state, again and again.
    ones, tiny = np.ones((2000, 1), np.float16), np.full((2000, 1), 2.0**-12, np.float16)
    h = fastrecur.linear_recurrence(ones, tiny, ones[0])
    assert h[-1] == np.float16(1 + 2000 / 4096)
    for dtype in HALVES:
        f, x = np.full(100000, 2.0**-12, dtype), np.full(100000, 2, dtype)
        assert fastrecur.forget_mult(f, x, dtype(1))[-1] == dtype(2)


@pytest.mark.exhaustive
def test_half_precisions_round_to_even():
    # A state half way between two numbers goes to the even one, subnormal and huge ones too.
    for dtype, eps in [(np.float16, 2.0**-10), (BFLOAT16, 2.0**-7)]:
        one = dtype(1)
        h = fastrecur.linear_recurrence(one, np.array([1, eps / 2, eps, eps, eps], dtype))
        expected = [1, 1, 1 + 2 * eps, 1 + 2 * eps, 1 + 4 * eps]
        assert h.astype(float).tolist() == expected
        info = ml_dtypes.finfo(dtype)
        tiny, top = np.array([info.smallest_subnormal, info.max], dtype)
        h = fastrecur.linear_recurrence(one, np.array([tiny] * 3))
        assert (h.astype(float) / float(tiny)).tolist() == [1, 2, 3]
        h = fastrecur.linear_recurrence(*np.array([[1, 0.5, 2, 2], [top, 0, 0, 0]], dtype))
        assert (h.astype(float) / float(top)).tolist() == [1, 0.5, 1, np.inf]


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("mixed", [False, True])
def test_subnormal_results_are_rounded_as_others(rng, dtype, axis, mixed):
    """Alone in a vector, among others, and where rounding makes them normal."""
    smallest = float(ml_dtypes.finfo(dtype).smallest_normal)
    gate, h0 = numbers(rng, 4099, dtype), (rng.uniform(-4, 4, 4099) * smallest).astype(dtype)
    if mixed:
        h0 = np.where(rng.random(4099) < 0.02, h0, rng.standard_normal(4099).astype(dtype))
    # Of one step, each result is a product, rounded.
    product = gate.astype(np.float32) * h0.astype(np.float32) + np.float32(0)
    assert (np.abs(product[product != 0]) < smallest).any()
    h = fastrecur.linear_recurrence(np.expand_dims(gate, axis), dtype(0), h0, axis=axis)
    np.testing.assert_array_equal(h.squeeze(axis).view(np.uint16), product.astype(dtype).view(np.uint16))


@pytest.mark.sample(axis=[0], dtype=[np.float16])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("axis", [0, 1])
def test_every_half_precision_number_passes(dtype, axis):
    # f == 1 gives x: widening and narrowing keep each of the 2**16, whatever their kind.
    x = np.arange(2**16, dtype=np.uint16).view(dtype).reshape(256, 256)
    with np.errstate(invalid="ignore"):
        x[~np.isfinite(x)] = 0
    assert_same_bits(np.abs(fastrecur.forget_mult(dtype(1), x, axis=axis)), np.abs(x))


@pytest.mark.sample(value=["b"])
@pytest.mark.parametrize(("gate", "value"), [("?", "b"), ("B", "h"), ("H", "i"), ("I", "q"), ("q", "Q"), ("b", "?")])
def test_integers_alone_are_float64(rng, gate, value):
    f, x = numbers(rng, (9, 5), gate), numbers(rng, (9, 5), value)
    check_forward("forget_mult", f, x, dtype=np.float64)
    if value == "i":
        check_vjp("forget_mult", f, x, np.ones(5, value), rng=rng, dtype=np.float64)
    info = np.iinfo(value) if value != "?" else None
    x = np.array([True, False] if info is None else [info.min, info.max, 0, 1], value)
    assert fastrecur.forget_mult(np.ones(len(x), gate), x).tolist() == x.astype(float).tolist()


MIXTURES = [
    # gate, value, first state, result
    ("d", "f", None, "d"),
    ("f", "f", "d", "d"),
    ("f", "e", "e", "f"),
    ("d", "h", None, "d"),
    ("f", "h", "b", "f"),
    ("h", "f", "?", "f"),
    ("f", "i", None, "d"),
    ("e", "b", None, "e"),
    ("?", "b", "f", "f"),
]


@pytest.mark.sample(gate=["f"], value=["e"])
@pytest.mark.parametrize(("gate", "value", "h0", "dtype"), MIXTURES)
def test_mixtures(rng, gate, value, h0, dtype):
    gate, value = numbers(rng, (9, 5), gate), numbers(rng, (9, 5), value)
    h0 = None if h0 is None else numbers(rng, (5,), h0)
    check_forward("forget_mult", gate, value, h0, dtype=dtype)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "gate", "value", "h0"),
    [("forget_mult", "d", "f", "f"), ("linear_recurrence", "f", "h", "?")],
)
def test_gradients_of_mixtures(rng, name, gate, value, h0):
    gate, value = numbers(rng, (9, 5), gate), numbers(rng, (9, 5), value)
    check_vjp(name, gate, value, numbers(rng, (5,), h0), rng=rng)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtypes", ["de", "ef"])
def test_cotangents_of_other_dtypes(rng, dtypes):
    f, x, grad_h, h = (rng.random((9, 5), np.float32) for _ in range(4))
    grad_h, h = grad_h.astype(dtypes[0]), h.astype(dtypes[1])
    grads = fastrecur.forget_mult_vjp(grad_h, f, x, h, 1, grad_state=grad_h[0])
    wide = reference.forget_mult_vjp(grad_h, f, x, h, 1, grad_state=grad_h[0])
    for grad, expected in zip(grads, wide, strict=True):
        assert_close(grad, expected, np.float32, magnitude=100.0)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("gate", "value"),
    [(np.float32, BFLOAT16), (BFLOAT16, np.float64), (np.bool_, BFLOAT16), (BFLOAT16, np.int8)],
)
def test_bfloat16_mixtures(rng, gate, value):
    dtype = np.result_type(gate, value)
    gate, value = numbers(rng, (9, 5), gate), numbers(rng, (9, 5), value)
    check_forward("forget_mult", gate, value, dtype=dtype)
    if dtype == np.float32:
        check_vjp("forget_mult", gate, value, rng=rng, dtype=dtype)


@pytest.mark.exhaustive
def test_bfloat16_and_float16(rng):
    try:
        dtype = np.result_type(BFLOAT16, np.float16)
    except TypeError:  # before ml_dtypes 0.7
        dtype = None
    gate, value = numbers(rng, (8, 6), BFLOAT16), numbers(rng, (8, 6), np.float16)
    if dtype is None:
        with pytest.raises(TypeError, match="must have dtypes with a common type"):
            fastrecur.forget_mult(gate, value)
    else:
        check_both("forget_mult", gate, value, rng=rng, dtype=dtype)


@pytest.mark.sample(dtype=[np.float32])
@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16, np.float32, np.float64])
def test_python_scalars_are_weak(rng, dtype):
    x = numbers(rng, (9, 5), dtype)
    for scalar in [True, 1, 0.5, 0]:
        for operands in [(scalar, x), (x, scalar), (x, x, scalar), (scalar, x, scalar)]:
            check_forward("forget_mult", *operands, dtype=dtype)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_python_float_is_used_in_the_precision_of_the_carry(rng, dtype):
    x = 100 + rng.standard_normal((1500, 8)).astype(dtype)
    # The float64 carry is no wider than its data: the roundings of the last 1/f steps add up.
    ulp = 32 if dtype is np.float64 else None
    for f in [0.1, 1e-3, 1 / 3]:
        check_forward("forget_mult", f, x, 99.9, ulp=ulp)
        check_forward("forget_mult", f, x.T.copy(), 99.9, axis=1, reverse=True, ulp=ulp)
        check_forward("linear_recurrence", 1 - f, x, 99.9, ulp=ulp)
        check_vjp("forget_mult", f, x, 99.9, rng=rng)
    # A NumPy scalar is an array: its own dtype promotes, and its own value counts.
    assert fastrecur.forget_mult(np.float64(0.1), x).dtype == np.float64
    check_forward("forget_mult", dtype(0.1), x)


def test_python_numbers_alone():
    assert fastrecur.forget_mult([1, 0.5, 0], [8, 4.0, 2]).tolist() == [8, 6, 6]
    assert fastrecur.linear_recurrence([2, 2.0], [1, 1.0], 10).tolist() == [21, 43]
    check_forward("forget_mult", 0.5, [[1.0, 2], [3, 4]], [5, 6], dtype=np.float64)
    grads = fastrecur.forget_mult_vjp([1.0, 1], 0.5, [8.0, 4], [4.0, 4], 0)
    assert [grad.tolist() for grad in grads] == [12, [0.75, 0.5], 0.75]
    assert all(grad.dtype == np.float64 for grad in grads)


COMPLEX = [
    ("F", "F", "F"),
    ("D", "D", "D"),
    ("f", "F", "F"),
    ("F", "f", "F"),
    ("d", "F", "D"),
]


@pytest.mark.sample(gate=["F"], value=["F"])
@pytest.mark.parametrize(("gate", "value", "dtype"), COMPLEX)
def test_complex_linear_recurrence(rng, gate, value, dtype):
    every = [*ROWS, *COLUMNS, ((3, 17, 5), 2), ((40, 1), 0), ((3000,), 0)]
    for shape, axis in every if gate == value else [((9, 17), 0)]:
        a, b = numbers(rng, shape, gate), numbers(rng, shape, value)
        lanes = shape[:axis] + shape[axis + 1 :]
        for h0, reverse in itertools.product([None, numbers(rng, lanes, dtype), 0.5], [False, True]):
            options = {"axis": axis, "reverse": reverse, "dtype": dtype}
            check_both("linear_recurrence", a, b, h0, rng=rng, **options)


@pytest.mark.exhaustive
def test_complex_lengths_and_broadcasting(rng):
    a, b = numbers(rng, (4,), "F"), numbers(rng, (9, 4), "F")
    for reverse in [False, True]:
        options = {"lengths": [0, 9, 3, 4], "reverse": reverse}
        check_both("linear_recurrence", a, b, 1.0, rng=rng, **options)
    check_both("linear_recurrence", 0.5 + 0.5j, b, rng=rng)


@pytest.mark.sample(kinds=["fFF"])
@pytest.mark.parametrize("kinds", ["fFF", "dDD"])
def test_complex_values_with_a_real_gate(rng, kinds):
    gate, value, dtype = kinds
    for shape, axis in [((9, 5), 0), ((5, 9), 1), ((65, 33), 0), ((3000,), 0)]:
        f, x = numbers(rng, shape, gate), numbers(rng, shape, value)
        h0 = numbers(rng, shape[:axis] + shape[axis + 1 :], dtype)
        for reverse in [False, True]:
            options = {"axis": axis, "reverse": reverse, "dtype": dtype}
            check_both("forget_mult", f, x, h0, rng=rng, **options)
            check_forward("forget_mult", 0.25, x, **options)


def test_kinds_of_python_numbers():
    class Level(enum.IntEnum):
        ONE = 1

    class Number(float):
        pass

    class Further(Number):
        pass

    x = np.ones(4, np.float32)
    assert fastrecur.forget_mult(Level.ONE, x).dtype == np.float32
    assert fastrecur.forget_mult(0.5, x, Further(0.5)).dtype == np.float32


@pytest.mark.exhaustive
def test_what_is_too_large_for_a_dtype_is_infinite_without_a_warning():
    h, last = fastrecur.linear_recurrence(1.0, np.full(3, 6e4, np.float16), return_state=True)
    assert np.isinf(h[1:]).all()
    assert np.isinf(last)
    fastrecur.linear_recurrence(1e300, np.ones(4, np.float16), 1e300)

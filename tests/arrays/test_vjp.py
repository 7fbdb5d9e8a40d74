"""The gradients of both recurrences against the reference: sizes, operands, broadcasting."""

import itertools

import numpy as np
import pytest
from compare import check_vjp
from test_forward import BROADCAST, RECURRENCES, SIZES, operands

import fastrecur

pytestmark = pytest.mark.usefixtures("rows_of_any_length")


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("reverse", [False, True])
def test_sizes_around_a_vector(rng, name, dtype, axis, reverse):
    for steps, lanes in itertools.product([1, 2, 16, 33], SIZES):
        shape = (steps, lanes) if axis == 0 else (lanes, steps)
        h0 = rng.standard_normal(lanes).astype(dtype)
        check_vjp(name, *operands(rng, shape, dtype), h0, rng=rng, axis=axis, reverse=reverse)


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("dtype", "shape", "axis"),
    [
        (np.float32, (129, 4097), 0),
        (np.float64, (257, 641), 0),
        (np.float32, (9, 65537), 0),
        (np.float32, (1025, 257), 1),
        (np.float64, (33, 2049), 1),
        (np.float32, (9, 129, 161), 1),
        (np.float64, (7, 11, 1025), 2),
    ],
)
def test_one_past_a_tile(rng, name, dtype, shape, axis, reverse):
    h0 = rng.standard_normal(shape[:axis] + shape[axis + 1 :]).astype(dtype)
    check_vjp(name, *operands(rng, shape, dtype), h0, rng=rng, axis=axis, reverse=reverse)


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("lanes", "steps"),
    [
        *((1, steps) for steps in [1, 2047, 2048, 2049, 5000, 10000]),
        *((lanes, 2049) for lanes in range(2, 10)),
        (3, 10000),
    ],
)
def test_few_long_lanes(rng, name, dtype, lanes, steps):
    reverse = bool((lanes + steps) % 2)
    gate, value = operands(rng, (steps, lanes), dtype)
    h0 = rng.standard_normal(lanes).astype(dtype)
    check_vjp(name, gate, value, h0, rng=rng, reverse=reverse)
    gate, value = gate.T.copy(), value.T.copy()
    check_vjp(name, gate, value, h0, rng=rng, axis=1, reverse=not reverse, state=False)


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_series(rng, name, dtype):
    for steps in [1, 2, 17, 1000]:
        gate, value = operands(rng, steps, dtype)
        for h0 in [None, dtype(2), 2.5, np.array(-1, dtype)]:
            check_vjp(name, gate, value, h0, rng=rng)
            check_vjp(name, gate, value, h0, rng=rng, axis=-1, reverse=True)


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", BROADCAST)
def test_broadcasting_sums(rng, name, dtype, case):
    gate_shape, value_shape = BROADCAST[case]
    shape = np.broadcast_shapes(gate_shape, value_shape)
    gate = rng.random(gate_shape).astype(dtype)
    value = rng.standard_normal(value_shape).astype(dtype)
    for axis, reverse in itertools.product(range(len(shape)), [False, True]):
        lanes = [n for i, n in enumerate(shape) if i != axis]
        for h0_shape in [None, (), tuple(lanes), tuple(lanes[1:]), (*lanes[:-1], 1)]:
            h0 = None if h0_shape is None else rng.standard_normal(h0_shape).astype(dtype)
            check_vjp(name, gate, value, h0, rng=rng, axis=axis, reverse=reverse, state=not axis)


@pytest.mark.sample(
    name=["forget_mult"], dtype=[np.float32], gate_shape=[(), (2049,), (300, 1), (300, 2049), (1, 65, 33)]
)
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("gate_shape", "value_shape", "h0_shape", "axis"),
    [
        ((), (300, 2049), (), 0),
        ((2049,), (300, 2049), (2049,), 0),
        ((300, 1), (300, 2049), (1,), 0),
        ((300, 2049), (), (1,), 0),
        ((), (20000,), (), 0),
        ((20000,), (), (), 0),
        ((), (3, 5000), (3,), 1),
        ((1, 1), (129, 1025), (129,), 1),
        ((1, 65, 33), (5, 65, 33), (33,), 1),
    ],
)
def test_sums_over_many(rng, name, dtype, gate_shape, value_shape, h0_shape, axis):
    gate = rng.random(gate_shape).astype(dtype)
    value = rng.standard_normal(value_shape).astype(dtype)
    h0 = rng.standard_normal(h0_shape).astype(dtype)
    check_vjp(name, gate, value, h0, rng=rng, axis=axis)
    check_vjp(name, gate, value, h0, rng=rng, axis=axis, reverse=True, state=False)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("scalar", [0.25, 1, True, np.float32(0.5)])
def test_gradient_of_a_number_is_zero_dimensional(rng, name, scalar):
    x = rng.standard_normal((5, 3)).astype(np.float32)
    grad, *_ = check_vjp(name, scalar, x, rng=rng)
    assert grad.shape == ()
    _, grad, _ = check_vjp(name, x, scalar, rng=rng)
    assert grad.shape == ()
    _, _, grad = check_vjp(name, x, x, scalar, rng=rng)
    assert grad.shape == ()


@pytest.mark.sample(dtype=[np.float32])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [*itertools.product(RECURRENCES, [np.float16, np.float32, np.float64]), ("linear_recurrence", np.complex64)],
)
@pytest.mark.parametrize("case", BROADCAST)
def test_calls_after_the_first(rng, name, dtype, case):
    """Short ones are remembered by their operands' forms: the next are of other numbers, as the sums over them are."""
    for axis, turn in itertools.product(range(len(np.broadcast_shapes(*BROADCAST[case]))), range(3)):
        gate, value = (rng.standard_normal(shape).astype(dtype) for shape in BROADCAST[case])
        if gate.shape == () and dtype == np.float64:
            gate = float(gate)
        gate = abs(gate) % 1 if name == "forget_mult" else gate
        grads = check_vjp(name, gate, value, rng=rng, axis=axis, state=False)
        assert [grad.shape for grad in grads[:2]] == [np.shape(gate), value.shape], turn


@pytest.mark.parametrize("name", RECURRENCES)
def test_gradients_own_their_memory(rng, name):
    gate, value = operands(rng, (4, 3), np.float32)
    h0, grad_h, grad_state = np.ones(3, np.float32), np.ones_like(gate), np.ones(3, np.float32)
    given = [grad_h, gate, value, getattr(fastrecur, name)(gate, value, h0), h0, grad_state]
    # Nothing flows through a lane of no steps or a series of none: a copy, not the cotangent.
    grads = [
        *getattr(fastrecur, name + "_vjp")(*given[:-1], grad_state=grad_state),
        *getattr(fastrecur, name + "_vjp")(*given[:-1], grad_state=grad_state, lengths=[0, 0, 0]),
        *getattr(fastrecur, name + "_vjp")(*(array[:0] for array in given[:-2]), h0, grad_state=grad_state),
    ]
    for grad, operand in itertools.product(grads, given):
        assert not np.shares_memory(grad, operand)
        assert grad.flags.writeable


def test_a_broadcast_gate_in_another_order_of_memory(rng):
    # The sums of a broadcast operand are laid out as that operand's shape, whatever the others' order is.
    f = rng.random((5, 64)).T
    x = rng.random((5, 3, 64)).transpose(1, 2, 0)
    check_vjp("forget_mult", f, x, rng=rng, axis=2)
    check_vjp("linear_recurrence", x, f, rng=rng, axis=2)
    whole = np.broadcast_to(rng.random((5, 3, 1)), (5, 3, 64))
    check_vjp("forget_mult", whole, rng.random((5, 3, 64)), rng=rng)

"""The oracle itself: examples computed by hand, and a loop over Python numbers."""

import numpy as np
import pytest

from fastrecur import reference

NAN = np.nan


def test_forget_mult_by_hand():
    h, last = reference.forget_mult([0.5, 0.25, 1, 0], [4, 8, 3, 9], 2, return_state=True)
    assert h.tolist() == [3, 4.25, 3, 3]
    assert last == 3
    h, last = reference.forget_mult([0.5, 0.25, 1, 0], [4, 8, 3, 9], 2, reverse=True, return_state=True)
    assert h.tolist() == [4.125, 4.25, 3, 2]
    assert last == 4.125


def test_linear_recurrence_by_hand():
    assert reference.linear_recurrence([2, 3, -1], [1, 0, 5], 10).tolist() == [21, 63, -58]
    assert reference.linear_recurrence(2, [1, 0, 5], reverse=True).tolist() == [21, 10, 5]
    assert reference.linear_recurrence(1j, [1, 1, 0]).tolist() == [1, 1 + 1j, -1 + 1j]


def test_padding_is_zero_and_never_read():
    x = [[1, 5], [2, NAN], [3, NAN]]
    h, last = reference.forget_mult(0.5, x, 4, lengths=[3, 1], return_state=True)
    assert h.tolist() == [[2.5, 4.5], [2.25, 0], [2.625, 0]]
    assert last.tolist() == [2.625, 4.5]
    h, last = reference.forget_mult(0.5, x, 4, lengths=[3, 1], reverse=True, return_state=True)
    assert h.tolist() == [[1.875, 4.5], [2.75, 0], [3.5, 0]]
    assert last.tolist() == [1.875, 4.5]


@pytest.mark.parametrize("reverse", [False, True])
def test_length_zero_keeps_the_state(reverse):
    x = np.full((3, 2), NAN)
    h, last = reference.linear_recurrence(x, x, [7, 8], lengths=0, reverse=reverse, return_state=True)
    assert not h.any()
    assert last.tolist() == [7, 8]
    grads = reference.linear_recurrence_vjp(x, x, x, x, [7, 8], lengths=0, reverse=reverse, grad_state=[1, 2])
    assert not grads[0].any()
    assert not grads[1].any()
    assert grads[2].tolist() == [1, 2]


def test_no_steps():
    h, last = reference.forget_mult(np.empty((0, 2)), 0.5, [1, 2], return_state=True)
    assert h.shape == (0, 2)
    assert last.tolist() == [1, 2]


def test_gradients_by_hand():
    # h1 = a1 h0 + b1, h2 = a2 h1 + b2; the loss is 3 h1 + 5 h2 + 7 h2 (as the last state).
    a, b, h0 = [2.0, 3.0], [4.0, 5.0], 6.0
    h = reference.linear_recurrence(a, b, h0)
    grads = reference.linear_recurrence_vjp([3, 5], a, b, h, h0, grad_state=7)
    assert grads[0].tolist() == [(3 + 3 * 12) * 6, 12 * 16]
    assert grads[1].tolist() == [3 + 3 * 12, 12]
    assert grads[2] == 2 * (3 + 3 * 12)
    assert reference.linear_recurrence_vjp([3, 5], a, b, h)[2] is None


def test_gradients_follow_the_conjugate_convention():
    # As torch.autograd.grad(a*h0 + b, (a, b, h0), g) does.
    a, b, h0, g = np.array([1 + 2j]), np.array([3 - 1j]), 2 - 3j, np.array([1 + 1j])
    h = reference.linear_recurrence(a, b, h0)
    grads = reference.linear_recurrence_vjp(g, a, b, h, h0)
    assert grads[0] == g * np.conj(h0)
    assert grads[1] == g
    assert grads[2] == g * np.conj(a)
    real = reference.linear_recurrence_vjp(g, a.real, b, h, h0)[0]
    assert real.dtype == np.float64
    assert real == (g * np.conj(h0)).real


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (np.float16, np.float64),
        (np.float32, np.float64),
        (np.int8, np.float64),
        (np.bool_, np.float64),
        (np.longdouble, np.longdouble),
        (np.complex64, np.complex128),
        (np.clongdouble, np.clongdouble),
    ],
)
def test_computing_precision(dtype, wide):
    operand = np.ones(3, dtype)
    h, last = reference.linear_recurrence(operand, operand, return_state=True)
    assert h.dtype == last.dtype == wide
    assert h.tolist() == [1, 2, 3]
    for grad in reference.linear_recurrence_vjp(operand, operand, operand, h, last):
        assert grad.dtype == wide


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
def test_is_the_loop_over_numbers(rng, axis, reverse, ragged):
    shape = (4, 3)
    f, x = rng.random(shape), rng.standard_normal(shape)
    n, lanes = shape[axis], shape[1 - axis % 2]
    h0 = rng.standard_normal(lanes)
    lengths = rng.integers(0, n + 1, lanes) if ragged else None
    h, last = reference.forget_mult(f, x, h0, axis=axis, reverse=reverse, lengths=lengths, return_state=True)
    for lane in range(lanes):
        lane_f, lane_x = (np.moveaxis(a, axis, 0)[:, lane].tolist() for a in (f, x))
        valid = n if lengths is None else lengths[lane]
        expected, state = [0.0] * n, float(h0[lane])
        for t in reversed(range(valid)) if reverse else range(valid):
            state = lane_f[t] * lane_x[t] + (1 - lane_f[t]) * state
            expected[t] = state
        assert np.moveaxis(h, axis, 0)[:, lane].tolist() == expected
        assert last[lane] == state


def test_a_step_in_no_segment_is_nan():
    h = reference.forget_mult(0.5, np.ones(6), offsets=[0, 3, 5])
    np.testing.assert_array_equal(h, [0.5, 0.75, 0.875, 0.5, 0.75, NAN])
    grads = reference.forget_mult_vjp(np.ones(6), np.full(6, 0.5), np.ones(6), h, offsets=[0, 3, 5])
    assert [int(np.isnan(grad).sum()) for grad in grads[:2]] == [1, 1]


@pytest.mark.parametrize("name", ["forget_mult", "linear_recurrence"])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["real", "complex", "real gate"])
def test_gradients_are_finite_differences(rng, name, axis, reverse, kind):
    def numbers(*shape, real=kind == "real"):
        return rng.standard_normal(shape) + (0 if real else 1j * rng.standard_normal(shape))

    gate, value, h0 = numbers(4, 1, real=kind != "complex"), numbers(3), numbers(1)
    options = {"axis": axis, "reverse": reverse, "lengths": rng.integers(0, 4, (4, 3)[1 - axis])}
    recurrence = getattr(reference, name)
    h, last = recurrence(gate, value, h0, return_state=True, **options)
    grad_h, grad_state = numbers(*h.shape), numbers(*last.shape)
    grads = getattr(reference, name + "_vjp")(grad_h, gate, value, h, h0, grad_state=grad_state, **options)

    def loss(*operands):
        h, last = recurrence(*operands, return_state=True, **options)
        return (np.vdot(grad_h, h) + np.vdot(grad_state, last)).real

    operands = [gate, value, h0]
    for i, grad in enumerate(grads):
        assert grad.shape == operands[i].shape
        for at in np.ndindex(grad.shape):
            for unit in [1, 1j] if np.iscomplexobj(operands[i]) else [1]:
                step = np.zeros_like(operands[i])
                step[at] = 1e-6 * unit
                up, down = (loss(*operands[:i], operands[i] + way * step, *operands[i + 1 :]) for way in (1, -1))
                derivative = (grad[at] * np.conj(unit)).real
                np.testing.assert_allclose((up - down) / 2e-6, derivative, rtol=1e-7, atol=1e-7)

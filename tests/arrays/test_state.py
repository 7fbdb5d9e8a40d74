"""The state that is returned continues a stream, and is nobody's view."""

import compare
import numpy as np
import pytest
from compare import assert_same_bits, forward_magnitudes
from test_forward import RECURRENCES, operands

import fastrecur
from fastrecur import reference


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(100, 5), (10000, 2), (10000,), (40, 1025)])
@pytest.mark.parametrize("reverse", [False, True])
def test_split_and_carry(rng, name, dtype, shape, reverse):
    gate, value = operands(rng, shape, dtype)
    h0 = rng.standard_normal(shape[1:]).astype(dtype)
    recurrence = getattr(fastrecur, name)
    whole, last = recurrence(gate, value, h0, reverse=reverse, return_state=True)
    size, size_last = forward_magnitudes(name, gate, value, h0, reverse=reverse)
    for cuts in [[1], [shape[0] // 3, shape[0] // 2], [0, shape[0] - 1, shape[0]]]:
        pieces, state = [], h0
        chunks = list(zip(np.split(gate, cuts), np.split(value, cuts), strict=True))
        for chunk in reversed(chunks) if reverse else chunks:
            h, state = recurrence(*chunk, state, reverse=reverse, return_state=True)
            pieces.append(h)
        joined = np.concatenate(pieces[::-1] if reverse else pieces)
        # Rounding the state on the way costs up to an ulp at the magnitudes in play.
        for actual, expected, at in [(joined, whole, size), (state, last, size_last)]:
            assert actual.dtype == dtype
            carry = compare.carry_of(dtype)
            ulp = np.spacing(at.astype(dtype)).astype(float) if carry != dtype else 0
            error = np.abs(actual.astype(float) - expected.astype(float))
            assert (error <= ulp + 16 * np.spacing(at.astype(carry)).astype(float)).all()


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_last_state_is_the_last_step(rng, name, axis, reverse):
    for shape in [(5, 6, 7), (3, 40, 65)]:
        gate, value = operands(rng, shape, np.float32)
        h, last = getattr(fastrecur, name)(gate, value, axis=axis, reverse=reverse, return_state=True)
        step = h.take(0 if reverse else -1, axis)
        assert_same_bits(last, step)
        assert last.flags.c_contiguous
        assert last.flags.owndata or last.base.size == last.size


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("shape", [(1,), (1, 3), (4, 3), (0, 3), (1, 1)])
def test_never_a_view(rng, name, shape):
    gate, value = operands(rng, shape, np.float32)
    h0 = np.full(shape[1:], 7, np.float32)
    for lengths in [None, np.zeros(shape[1:], int)]:
        h, last = getattr(fastrecur, name)(gate, value, h0, lengths=lengths, return_state=True)
        for other in [h, h0, gate, value]:
            assert not np.shares_memory(last, other)
        last[...] = -1
        assert (h0 == 7).all()
        assert not (h == -1).any()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_one_series_has_a_zero_dimensional_state(dtype):
    _, last = fastrecur.forget_mult(dtype(0.5), np.ones(3, dtype), return_state=True)
    assert type(last) is np.ndarray
    assert last.dtype == dtype
    assert last.shape == ()
    assert last == 0.875


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("h0_shape", [(), (1,), (3,), (1, 3), (4, 1), (1, 1), (4, 3)])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_broadcast_first_state(rng, name, h0_shape, steps):
    gate, value = operands(rng, (steps, 4, 3), np.float32)
    h0 = rng.standard_normal(h0_shape).astype(np.float32)
    h, last = getattr(fastrecur, name)(gate, value, h0, return_state=True)
    full, last_full = getattr(fastrecur, name)(gate, value, np.broadcast_to(h0, (4, 3)).copy(), return_state=True)
    assert_same_bits(h, full)
    assert_same_bits(last, last_full)


@pytest.mark.parametrize("name", RECURRENCES)
def test_gradient_of_a_split_stream(rng, name):
    # The cotangent of a chunk's last state is the next chunk's gradient of its first.
    recurrence, vjp = (getattr(fastrecur, n) for n in (name, name + "_vjp"))
    gate, value = operands(rng, (50, 5), np.float64)
    h0, grad_h = rng.standard_normal(5), rng.standard_normal((50, 5))
    h = recurrence(gate, value, h0)
    whole = getattr(reference, name + "_vjp")(grad_h, gate, value, h, h0)
    late = vjp(grad_h[20:], gate[20:], value[20:], h[20:], h[19])
    early = vjp(grad_h[:20], gate[:20], value[:20], h[:20], h0, grad_state=late[2])
    for i in (0, 1):
        np.testing.assert_allclose(np.concatenate([early[i], late[i]]), whole[i], rtol=1e-12)
    np.testing.assert_allclose(early[2], whole[2], rtol=1e-12)

"""Laws that hold for every shape, layout, direction and split, on cases that hypothesis finds."""

import numpy as np
import pytest
from compare import assert_same_bits, check_forward, check_vjp
from hypothesis import given, strategies as st
from layouts import FOREIGN, WRITEABLE
from test_forward import RECURRENCES

import fastrecur

SIDES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40])


@st.composite
def problems(draw, dtypes=(np.float32, np.float64)):
    """A recurrence's name, its operands and its options."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(dtypes))
    shape = tuple(draw(st.lists(SIDES, min_size=1, max_size=3)))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    lanes = list(shape)
    steps = lanes.pop(axis)

    def operand(sample, shape):
        layout = draw(st.sampled_from(WRITEABLE + FOREIGN))
        keep = draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
        shape = tuple(n if kept else 1 for n, kept in zip(shape, keep, strict=True))
        array = sample(shape).astype(dtype)
        return layout(array) if array.ndim >= 2 else array

    gate, value = operand(rng.random, shape), operand(rng.standard_normal, shape)
    # What both leave out would be a smaller problem than was drawn.
    if np.broadcast_shapes(gate.shape, value.shape) != shape:
        value = rng.standard_normal(shape).astype(dtype)
    options = {"axis": axis, "reverse": draw(st.booleans())}
    depth = draw(st.none() | st.integers(0, len(lanes)))
    if depth is not None and (depth or not lanes):
        options["lengths"] = rng.integers(0, steps + 1, lanes[:depth])
    h0 = draw(st.sampled_from([None, "full", "number"]))
    if h0 is not None:
        h0 = operand(rng.standard_normal, tuple(lanes)) if h0 == "full" else -0.75
    return draw(st.sampled_from(RECURRENCES)), gate, value, h0, options, rng


@given(problems())
def test_forward_is_the_reference(problem):
    name, gate, value, h0, options, _ = problem
    check_forward(name, gate, value, h0, **options)


@pytest.mark.exhaustive
@given(problems())
def test_vjp_is_the_reference(problem):
    name, gate, value, h0, options, rng = problem
    check_vjp(name, gate, value, h0, rng=rng, **options)


def full(gate, value, h0, options):
    """The operands in the shape of the result, and lengths in that of its lanes."""
    gate, value = (np.array(a) for a in np.broadcast_arrays(gate, value))
    lanes = list(value.shape)
    steps = lanes.pop(options["axis"])
    h0 = np.array(np.broadcast_to(0 if h0 is None else h0, lanes), value.dtype)
    lengths = np.asarray(options.get("lengths", steps))
    lengths = lengths.reshape(lengths.shape + (1,) * (len(lanes) - lengths.ndim))
    return gate, value, h0, np.broadcast_to(lengths, lanes)


@given(problems())
def test_reverse_is_flip(problem):
    name, gate, value, h0, options, _ = problem
    gate, value, h0, _ = full(gate, value, h0, options)
    axis = options["axis"]
    recurrence = getattr(fastrecur, name)
    forward, last = recurrence(gate, value, h0, axis=axis, return_state=True)
    flipped, last_flipped = recurrence(
        np.flip(gate, axis), np.flip(value, axis), h0, axis=axis, reverse=True, return_state=True
    )
    assert_same_bits(np.flip(flipped, axis), forward)
    assert_same_bits(last_flipped, last)


@given(problems(dtypes=[np.float64]), st.floats(-4, 4), st.floats(-4, 4))
def test_linear_in_value_and_state(problem, p, q):
    name, gate, value, h0, options, rng = problem
    gate, value, h0, _ = full(gate, value, h0, options)
    other, other_h0 = rng.standard_normal(value.shape), rng.standard_normal(h0.shape)
    recurrence = getattr(fastrecur, name)
    h = recurrence(gate, p * value + q * other, p * h0 + q * other_h0, **options)
    parts = (
        recurrence(gate, value, h0, **options),
        recurrence(gate, other, other_h0, **options),
    )
    np.testing.assert_allclose(h, p * parts[0] + q * parts[1], rtol=1e-10, atol=1e-10)


@given(problems(), st.data())
def test_causal(problem, data):
    """A step depends on nothing that comes after it in the direction of travel."""
    name, gate, value, h0, options, rng = problem
    gate, value, h0, _ = full(gate, value, h0, options)
    axis, reverse = options["axis"], options["reverse"]
    steps = value.shape[axis]
    at = data.draw(st.integers(0, steps - 1))
    recurrence = getattr(fastrecur, name)
    h = recurrence(gate, value, h0, **options)
    later = slice(0, at) if reverse else slice(at + 1, steps)
    for array in (gate, value):
        np.moveaxis(array, axis, 0)[later] = rng.choice([np.nan, 1e30, 0.5])
    changed = recurrence(gate, value, h0, **options)
    kept = slice(at, steps) if reverse else slice(0, at + 1)
    assert_same_bits(np.moveaxis(changed, axis, 0)[kept].copy(), np.moveaxis(h, axis, 0)[kept].copy())


@given(problems(), st.data())
def test_split_and_carry(problem, data):
    name, gate, value, h0, options, _ = problem
    gate, value, h0, lengths = full(gate, value, h0, options)
    axis, reverse = options["axis"], options["reverse"]
    steps = value.shape[axis]
    cut = data.draw(st.integers(0, steps))
    recurrence = getattr(fastrecur, name)
    options = {"axis": axis, "reverse": reverse, "return_state": True}
    h, last = recurrence(gate, value, h0, lengths=lengths, **options)
    parts = [
        (slice(0, cut), np.minimum(lengths, cut)),
        (slice(cut, steps), np.maximum(lengths - cut, 0)),
    ]
    pieces, state = [], h0
    for part, part_lengths in reversed(parts) if reverse else parts:
        chunk = (np.moveaxis(np.moveaxis(a, axis, 0)[part], 0, axis) for a in (gate, value))
        piece, state = recurrence(*chunk, state, lengths=part_lengths, **options)
        pieces.append(piece)
    joined = np.concatenate(pieces[::-1] if reverse else pieces, axis)
    tolerance = 1e-6 if h.dtype == np.float32 else 1e-14
    np.testing.assert_allclose(joined, h, rtol=tolerance, atol=4 * tolerance)
    np.testing.assert_allclose(state, last, rtol=tolerance, atol=4 * tolerance)


@pytest.mark.exhaustive
@given(problems(dtypes=[np.float64]))
def test_vjp_is_the_transpose_of_the_jacobian(problem):
    """<grad_h, J v> = <J^T grad_h, v>, the derivative along v being a central difference."""
    name, gate, value, h0, options, rng = problem
    h0 = 0.5 if h0 is None else h0
    recurrence = getattr(fastrecur, name)
    operands = [np.asarray(a, np.float64) for a in (gate, value, h0)]
    h, last = recurrence(*operands, return_state=True, **options)
    grad_h, grad_state = rng.standard_normal(h.shape), rng.standard_normal(last.shape)
    grads = getattr(fastrecur, name + "_vjp")(grad_h, *operands[:2], h, operands[2], grad_state=grad_state, **options)

    def loss(operands):
        h, last = recurrence(*operands, return_state=True, **options)
        return np.vdot(grad_h, h) + np.vdot(grad_state, last)

    for i, grad in enumerate(grads):
        direction = rng.standard_normal(operands[i].shape)
        losses = []
        for step in (1e-6, -1e-6):
            moved = list(operands)
            moved[i] = moved[i] + step * direction
            losses.append(loss(moved))
        expected = np.vdot(grad, direction)
        scale = np.abs(grad * direction).sum() + np.abs(grad_h).sum()
        assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(expected, abs=1e-6 * scale, rel=1e-6)


@pytest.mark.exhaustive
@given(problems())
def test_forget_mult_is_a_linear_recurrence(problem):
    _, f, x, h0, options, _ = problem
    h = fastrecur.forget_mult(f, x, h0, **options)
    other = fastrecur.linear_recurrence(1 - f, f * x, h0, **options)
    tolerance = 1e-4 if h.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(h, other, rtol=tolerance, atol=tolerance)


@pytest.mark.exhaustive
@given(problems())
def test_an_average_stays_between_its_terms(problem):
    _, f, x, h0, options, _ = problem
    options.pop("lengths", None)
    h = fastrecur.forget_mult(f, x, h0, **options)
    start = 0.0 if h0 is None else h0
    low = min(np.min(x), np.min(start))
    high = max(np.max(x), np.max(start))
    slack = 4 * np.spacing(np.abs(np.array([low, high], h.dtype)).max())
    assert (h >= low - slack).all()
    assert (h <= high + slack).all()

"""Ragged lanes: padding is zero, and nothing that stands there is read."""

import numpy as np
import pytest
from compare import assert_same_bits, check_both, check_forward, check_vjp
from test_forward import RECURRENCES, operands

import fastrecur

NAN = np.nan

# Shape, axis of time, shape of `lengths`.
CASES = [
    ((7,), 0, ()),
    ((7, 5), 0, (5,)),
    ((5, 7), 1, (5,)),
    ((7, 4, 3), 0, (4,)),
    ((4, 7, 3), 1, (4,)),
    ((4, 3, 7), 2, (4,)),
    ((7, 4, 3), 0, (4, 3)),
    ((4, 7, 3), 1, (4, 3)),
    ((4, 3, 7), 2, (4, 3)),
    ((4, 3, 7), -1, (4, 3)),
    ((7, 2, 3, 4), 0, (2, 3)),
    ((65, 33), 0, (33,)),
    ((33, 65), 1, (33,)),
    ((33, 17, 3), 0, (17,)),
    ((17, 65, 40), 1, (17,)),
    ((9, 1025), 0, (1025,)),
    ((2100, 3), 0, (3,)),
    ((2, 2100), 1, (2,)),
    ((2100,), 0, ()),
]


def padded(array, axis, lengths, fill=NAN):
    """A copy whose steps at and past `lengths` are `fill`."""
    array = array.copy()
    time_first = np.moveaxis(array, axis, 0)
    steps = np.arange(len(time_first)).reshape(-1, *[1] * (array.ndim - 1))
    lengths = np.asarray(lengths)
    lengths = lengths.reshape(lengths.shape + (1,) * (array.ndim - 1 - lengths.ndim))
    time_first[np.broadcast_to(steps >= lengths, time_first.shape)] = fill
    return array


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("shape", "axis", "lengths_shape"), CASES)
def test_ragged(rng, name, dtype, reverse, shape, axis, lengths_shape):
    steps = shape[axis]
    lanes = list(shape)
    del lanes[axis]
    h0 = rng.standard_normal(lanes).astype(dtype)
    for lengths in [
        rng.integers(0, steps + 1, lengths_shape),
        np.zeros(lengths_shape, int),
        np.full(lengths_shape, steps),
        rng.choice([0, 1, steps - 1, steps], lengths_shape),
    ]:
        options = {"axis": axis, "reverse": reverse, "lengths": lengths}
        gate, value = (padded(a, axis, lengths) for a in operands(rng, shape, dtype))
        h = check_forward(name, gate, value, h0, **options)
        assert_same_bits(h, padded(h, axis, lengths, 0))
        grads = check_vjp(
            name,
            gate,
            value,
            h0,
            rng=rng,
            arrange=lambda a, lengths=lengths: padded(a, axis, lengths),
            **options,
        )
        for grad in grads[:2]:
            assert_same_bits(grad, padded(grad, axis, lengths, 0))


@pytest.mark.sample(name=["forget_mult"])
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("garbage", [np.inf, -np.inf, 3e38])
def test_any_garbage_in_the_padding(rng, name, reverse, garbage):
    lengths = [2, 0, 5]
    gate, value = operands(rng, (5, 3), np.float32)
    clean = [padded(a, 0, lengths, 0) for a in (gate, value)]
    dirty = [padded(a, 0, lengths, garbage) for a in (gate, value)]
    options = {"reverse": reverse, "lengths": lengths}
    recurrence, vjp = (getattr(fastrecur, n) for n in (name, name + "_vjp"))
    h = recurrence(*clean, 1.0, **options)
    assert_same_bits(recurrence(*dirty, 1.0, **options), h)
    ones = np.ones_like(h)
    expected = vjp(ones, *clean, h, 1.0, **options)
    grads = vjp(padded(ones, 0, lengths, garbage), *dirty, h, 1.0, **options)
    for grad, other in zip(grads, expected, strict=True):
        assert_same_bits(np.asarray(grad), np.asarray(other))


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("gate_shape", "value_shape"), [((), (6, 4)), ((4,), (6, 1)), ((6, 1), ())])
def test_broadcast_operands(rng, name, reverse, gate_shape, value_shape):
    shape = np.broadcast_shapes(gate_shape, value_shape)
    gate, value = rng.random(gate_shape), rng.standard_normal(value_shape)
    options = {"reverse": reverse, "lengths": rng.integers(0, 7, shape[1])}
    check_both(name, gate, value, 1.5, rng=rng, **options)


@pytest.mark.parametrize("kind", [list, *(np.dtype(c).type for c in "bBhHiIlLqQ")])
def test_kinds_of_integers(rng, kind):
    gate, value = operands(rng, (6, 3), np.float32)
    lengths = [6, 0, 4]
    check_forward("forget_mult", gate, value, lengths=lengths if kind is list else np.array(lengths, kind))


def test_lengths_layouts(rng):
    gate, value = operands(rng, (6, 4, 3), np.float32)
    lengths = rng.integers(0, 7, (4, 3))
    wide = np.repeat(np.repeat(lengths, 2, 0), 2, 1)[::2, ::2]
    for arranged in [np.asfortranarray(lengths), wide, np.broadcast_to(lengths[:1, :1], (4, 3))]:
        for reverse in [False, True]:
            check_forward("forget_mult", gate, value, lengths=arranged, reverse=reverse)
    lengths.flags.writeable = False
    check_forward("forget_mult", gate, value, lengths=lengths)


@pytest.mark.parametrize("scalar", [0, 3, np.int64(3), np.array(3)])
def test_one_length_for_one_series(rng, scalar):
    check_forward("forget_mult", *operands(rng, 6, np.float32), lengths=scalar)
    check_forward("forget_mult", *operands(rng, 6, np.float32), lengths=scalar, reverse=True)


@pytest.mark.parametrize("shape", [(0, 3), (0, 0), (3, 0)])
def test_no_steps_or_no_lanes(rng, shape):
    lengths = np.zeros(shape[1], int)
    check_both("forget_mult", np.ones(shape), np.ones(shape), 1.0, rng=rng, lengths=lengths)


@pytest.mark.parametrize("reverse", [False, True])
def test_in_place(rng, reverse):
    lengths = [2, 0, 5]
    f, x = operands(rng, (5, 3), np.float32)
    expected = fastrecur.forget_mult(f, x, 1.0, lengths=lengths, reverse=reverse)
    x = padded(x, 0, lengths)
    fastrecur.forget_mult(f, x, 1.0, lengths=lengths, reverse=reverse, out=x)
    assert_same_bits(x, expected)

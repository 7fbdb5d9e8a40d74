"""How results are compared: with the wide reference, rounded once, at the magnitudes in play."""

import numpy as np

import fastrecur
from fastrecur import reference
from fastrecur._arguments.selective import Operands

# How far a state may drift from exact, in units in the last place of the precision that it is carried in.
CARRY_ULP = 16


def assert_close(actual, expected, dtype, *, ulp=None, magnitude=0.0):
    """Assert that the array `actual` is the wide array `expected` in `dtype`.

    Each value may be off by `ulp` units in the last place of the expected value (by default 1,
    and 0 in the widest dtypes) and by 16 in the last place of the carry at `magnitude`: the sum of
    the absolute summands the value was made of, and at least its own size. NaN and infinities must
    stand where they are expected.
    """
    dtype = np.dtype(dtype)
    assert type(actual) is np.ndarray
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    with np.errstate(over="ignore", under="ignore"):
        rounded = _real_pairs(expected.astype(dtype)).astype(np.float64)
    actual, wide = (_real_pairs(a).astype(np.float64) for a in (actual, expected))
    # A complex product is as exact as its modulus allows, not as each of its parts would.
    size = np.abs(expected).astype(np.float64)
    magnitude = np.fmax(size, np.asarray(magnitude, np.float64))
    if np.iscomplexobj(expected):
        size, magnitude = size[..., np.newaxis], magnitude[..., np.newaxis]

    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(actual[~finite], rounded[~finite])
    assert np.isfinite(actual[finite]).all()
    carry = carry_of(dtype)
    ulp = ulp if ulp is not None else int(carry != real_of(dtype))
    tolerance = ulp * _spacing(size, real_of(dtype)) + CARRY_ULP * _spacing(magnitude, carry)
    error = np.abs(actual[finite] - wide[finite])
    tolerance = np.broadcast_to(tolerance, wide.shape)[finite]
    if (error > tolerance).any():
        at = np.argmax(error / tolerance)
        raise AssertionError(
            f"{(error > tolerance).sum()} of {actual.size} values are off; the worst is "
            f"{actual[finite][at]!r}, not {wide[finite][at]!r}: {error[at]:.3g} where "
            f"{tolerance[at]:.3g} is allowed, at {np.argwhere(finite)[at].tolist()}"
        )


def assert_same_bits(actual, expected):
    """Assert that two arrays agree to the bit; a NaN may be any NaN."""
    assert type(actual) is type(expected) is np.ndarray
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    actual, expected = _real_pairs(actual), _real_pairs(expected)
    differ = (actual != expected) | (np.signbit(actual) != np.signbit(expected))
    differ &= ~(np.isnan(actual) & np.isnan(expected))
    assert not differ.any(), f"differ at {np.argwhere(differ)[:10].tolist()}"


def assert_close_lazy(actual, expected, rtol=1e-12):
    """Assert that a Dask array is lazy, knows its shape and dtype, and has the numbers of one in memory.

    They may be off by `rtol` of the largest of them.
    """
    import dask.array as da

    assert isinstance(actual, da.Array)
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    computed = actual.compute()
    assert type(computed) is type(expected) or np.isscalar(computed)
    assert (computed.dtype, computed.shape) == (expected.dtype, expected.shape)
    size = np.nanmax(np.abs(expected), initial=0.0)
    np.testing.assert_allclose(computed, expected, rtol=rtol, atol=rtol * float(size))


def check_forward(name, gate, value, h0=None, *, dtype=None, ulp=None, floor=0.0, **options):
    """Check one of the two recurrences in every way of calling it; return its result.

    `floor` is a magnitude that is in play whatever the summands of a state are.
    """
    recurrence = getattr(fastrecur, name)
    dtype = result_dtype(gate, value, h0) if dtype is None else np.dtype(dtype)
    wide, wide_last = getattr(reference, name)(*_exact(dtype, gate, value, h0), return_state=True, **options)
    size, size_last = (np.maximum(a, floor) for a in forward_magnitudes(name, gate, value, h0, **options))
    untouched = _snapshot(gate, value, h0)

    # Memory that was just given back full of NaN is what the next call is likely to be given.
    poisoned = np.full(wide.shape, np.nan, dtype)
    del poisoned
    h = recurrence(gate, value, h0, **options)
    assert_close(h, wide, dtype, ulp=ulp, magnitude=size)
    with_state, h_last = recurrence(gate, value, h0, return_state=True, **options)
    assert_same_bits(with_state, h)
    assert_close(h_last, wide_last, dtype, ulp=ulp, magnitude=size_last)
    out = np.full_like(h, np.nan)
    assert recurrence(gate, value, h0, out=out, **options) is out
    assert_same_bits(out, h)
    if out.strides != wide.strides:  # another layout may be another kernel's
        out = np.full(wide.shape, np.nan, dtype)
        assert recurrence(gate, value, h0, out=out, **options) is out
        assert_close(out, wide, dtype, ulp=ulp, magnitude=size)
    _assert_untouched(untouched, gate, value, h0)
    return h


def check_both(name, gate, value, h0=None, *, rng, state=True, **options):
    """Check a recurrence in every way of calling it, and its gradients."""
    check_forward(name, gate, value, h0, **options)
    check_vjp(name, gate, value, h0, rng=rng, state=state, **options)


def check_nothing_beside(name, gate, value, wanted, out, memory, **options):
    """Check that results in `out`, a view of some memory, are those wanted, and the rest of it is as it was.

    So it is with results in place of the values.
    """
    recurrence = getattr(fastrecur, name)
    kept, before = out.copy(), memory.copy()
    for own in (value, out):
        out[...] = value if own is out else kept
        assert recurrence(gate, own, out=out, **options) is out
        assert_same_bits(np.ascontiguousarray(out), wanted)
        out[...] = kept
        np.testing.assert_array_equal(memory, before)


def check_vjp(
    name, gate, value, h0=None, *, rng, dtype=None, ulp=None, arrange=None, state=True, grad_h=None, **options
):
    """Check the gradients for random cotangents, or those given, with and without one of the last state.

    `arrange` lays out the cotangent and the result, which are made here, as a test wants them.
    """
    vjp, vjp_reference = (getattr(module, name + "_vjp") for module in (fastrecur, reference))
    dtype = result_dtype(gate, value, h0) if dtype is None else np.dtype(dtype)
    wide, wide_last = getattr(reference, name)(gate, value, h0, return_state=True, **options)
    h = wide.astype(dtype)
    grad_h = random_like(rng, h) if grad_h is None else grad_h
    if arrange is not None:
        h, grad_h = arrange(h), arrange(grad_h)
    untouched = _snapshot(grad_h, gate, value, h, h0)
    for grad_state in [None, random_like(rng, wide_last.astype(dtype))][: 1 + state]:
        expected = vjp_reference(*_exact(dtype, grad_h, gate, value, h, h0), grad_state=grad_state, **options)
        sizes = vjp_magnitudes(name, grad_h, gate, value, h, h0, grad_state=grad_state, **options)
        np.full(h.shape, np.nan, dtype)
        grads = vjp(grad_h, gate, value, h, h0, grad_state=grad_state, **options)
        assert type(grads) is tuple
        assert len(grads) == 3
        for grad, wide, size, operand in zip(grads, expected, sizes, (gate, value, h0), strict=True):
            if operand is None:
                assert grad is None
            else:
                assert_close(grad, wide, gradient_dtype(operand, dtype), ulp=ulp, magnitude=size)
    _assert_untouched(untouched, grad_h, gate, value, h, h0)
    return grads


def result_dtype(*operands):
    """The dtype of a result: NumPy's promotion, and true division's float64 for integers."""
    given = [_weak_or_array(o) for o in operands if o is not None]
    # Numbers last: before two arrays of bfloat16 NumPy takes them for float32.
    dtype = np.result_type(*sorted(given, key=lambda o: not isinstance(o, np.ndarray)))
    return np.dtype(np.float64) if dtype.kind in "biu" else dtype.newbyteorder("=")


def gradient_dtype(operand, dtype):
    """The dtype of an operand's gradient: its own, if that can hold one."""
    if not isinstance(operand, (np.ndarray, np.generic)) or operand.dtype.kind in "biu":
        return dtype if np.iscomplexobj(operand) else real_of(dtype)
    return operand.dtype.newbyteorder("=")


def real_of(dtype):
    """The dtype of the real part."""
    return np.dtype({"F": np.float32, "D": np.float64}.get(np.dtype(dtype).char, dtype))


def carry_of(dtype):
    """The precision that the state of a recurrence in `dtype` is carried in."""
    return np.dtype(np.float32 if np.dtype(dtype).itemsize == 2 else np.float64)


def random_like(rng, array):
    """Standard normal numbers in the shape and dtype of `array`."""
    numbers = rng.standard_normal(array.shape)
    if np.iscomplexobj(array):
        numbers = numbers + 1j * rng.standard_normal(array.shape)
    return np.asarray(numbers).astype(array.dtype)


def forward_magnitudes(name, gate, value, h0, **options):
    """The sums of the absolute summands of every state and of the last."""
    decay, summand = _absolute(name, gate, value)
    h0 = None if h0 is None else _modulus(h0)
    return reference.linear_recurrence(decay, summand, h0, return_state=True, **options)


def vjp_magnitudes(name, grad_h, gate, value, h, h0, *, grad_state, **options):
    """The sums of the absolute summands of every gradient."""
    decay, summand = _absolute(name, gate, value)
    decay, summand = np.broadcast_arrays(decay, summand)
    grad_h, h = _modulus(grad_h), _modulus(h)
    state = None if grad_state is None else _modulus(grad_state)
    start = None if h0 is None else _modulus(h0)
    grad_gate, grad_value, grad_h0 = reference.linear_recurrence_vjp(
        grad_h, decay, summand, h, start, grad_state=state, **options
    )
    if name == "forget_mult":
        # Padding is 0 in grad_value, and may be NaN in the operands.
        valid = grad_value != 0
        with np.errstate(all="ignore"):
            grad_gate = grad_gate + np.where(valid, grad_value * _modulus(value), 0)
            grad_value = np.where(valid, grad_value * _modulus(gate), 0)
    grads = [_sum_to(grad_gate, np.shape(gate)), _sum_to(grad_value, np.shape(value)), grad_h0]
    return grads


def _exact(dtype, *operands):
    """Operands for the reference: where data and carry are float64, it must not be that too."""
    if carry_of(dtype) != real_of(dtype):
        return operands
    return [o if o is None else _wide(o, np.longdouble) for o in operands]


def _absolute(name, gate, value):
    """Moduli of what a step multiplies the state by and of what it adds."""
    with np.errstate(all="ignore"):
        if name == "linear_recurrence":
            return _modulus(gate), _modulus(value)
        return np.abs(1 - _wide(gate)), _modulus(gate) * _modulus(value)


def _wide(array, precision=np.float64):
    array = np.asarray(array)
    return array.astype(np.result_type(array, precision))


def _modulus(array):
    return np.abs(_wide(array))


def _sum_to(grad, shape):
    grad = grad.sum(axis=tuple(range(grad.ndim - len(shape))))
    return grad.sum(axis=tuple(i for i, n in enumerate(shape) if n != grad.shape[i]), keepdims=True)


def _spacing(size, dtype):
    """The unit in the last place of `dtype` at `size`."""
    if dtype.kind != "f":
        import ml_dtypes

        info = ml_dtypes.finfo(dtype)
    else:
        info = np.finfo(dtype)
    size = np.fmin(np.fmax(size, float(info.smallest_normal)), float(info.max))  # NaN is as small as can be
    return np.ldexp(float(info.eps), np.frexp(size)[1] - 1)


def _real_pairs(array):
    """A complex array as real pairs on a further axis; a real one as it is."""
    if not np.iscomplexobj(array):
        return array
    return np.stack([array.real, array.imag], axis=-1)


def _weak_or_array(operand):
    return operand if type(operand) in (bool, int, float, complex) else np.asarray(operand)


def _snapshot(*arrays):
    return [np.array(array) if isinstance(array, np.ndarray) else None for array in arrays]


def _assert_untouched(before, *arrays):
    for old, now in zip(before, arrays, strict=True):
        if old is not None:
            assert np.asarray(now).tobytes() == old.tobytes()


def selective_operands(
    rng, batch=2, steps=70, channels=40, states=5, *, layout="bdl", maps="steps", dtype=np.float32, rows=None
):
    """Return operands of a selective scan; groups are two, and ``rows`` series have a first state."""
    order = [0, 2, 1] if layout == "bdl" else [0, 1, 2]
    u, delta, z = (np.transpose(v, order) for v in rng.standard_normal((3, batch, steps, channels)))
    shape = {
        "steps": (batch, *((states, steps) if layout == "bdl" else (steps, states))),
        "groups": (batch, *((2, states, steps) if layout == "bdl" else (steps, 2, states))),
        "constant": (channels, states),
    }[maps]
    B, C = rng.standard_normal((2, *shape))
    D, bias = rng.standard_normal((2, channels))
    h0 = rng.standard_normal((rows or batch, channels, states))
    given = u, delta, -2 * rng.random((channels, states)), B, C, D, z, bias, h0
    return Operands(*(np.ascontiguousarray(v, dtype) for v in given))

"""Writing into the caller's array, in place, and beside others."""

import numpy as np
import pytest
from compare import assert_same_bits, check_forward
from layouts import WRITEABLE
from test_forward import RECURRENCES, operands

import fastrecur


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((9,), 0),
        ((9, 5), 0),
        ((9, 5), 1),
        ((40, 1025), 0),
        ((129, 65), 1),
        ((10000, 2), 0),
        ((2, 10000), 1),
        ((10000,), 0),
        ((5, 33, 17), 1),
        ((0, 3), 0),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_in_place(rng, name, dtype, shape, axis, reverse):
    recurrence = getattr(fastrecur, name)
    gate, value = operands(rng, shape, dtype)
    expected, last = recurrence(gate, value, 0.5, axis=axis, reverse=reverse, return_state=True)
    inplace = value.copy()
    h, last_inplace = recurrence(gate, inplace, 0.5, axis=axis, reverse=reverse, return_state=True, out=inplace)
    assert h is inplace
    assert_same_bits(inplace, expected)
    assert_same_bits(last_inplace, last)
    constant = value.copy()
    recurrence(0.25, constant, axis=axis, reverse=reverse, out=constant)
    assert_same_bits(constant, recurrence(0.25, value, axis=axis, reverse=reverse))


@pytest.mark.parametrize("layout", WRITEABLE)
def test_in_place_in_any_layout(rng, layout):
    for axis in range(3):
        f, x = operands(rng, (5, 6, 7), np.float32)
        expected = check_forward("forget_mult", f, x, axis=axis)
        x = layout(x)
        fastrecur.forget_mult(f, x, axis=axis, out=x)
        np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-6)


def test_in_place_through_another_view(rng):
    # The same elements in the same places, whatever object or equal stride says so.
    f, x = operands(rng, (1, 9, 1), np.float32)
    expected = fastrecur.forget_mult(f, x, axis=1)
    again = np.lib.stride_tricks.as_strided(x, strides=(4, 4, 400))
    fastrecur.forget_mult(f, x, axis=1, out=again)
    assert_same_bits(x, expected)


def overlapping():
    """Functions from a buffer of numbers to an `out` in it and the arguments it overlaps."""

    def shifted(buffer):
        return buffer[:-1], {"x": buffer[1:]}

    def shifted_back(buffer):
        return buffer[1:], {"x": buffer[:-1]}

    def shifted_gate(buffer):
        return buffer[1:], {"f": buffer[:-1], "x": np.ones((7, 4), np.float32)}

    def reversed_in_time(buffer):
        return buffer, {"x": buffer[::-1]}

    def shifted_lanes(buffer):
        return buffer[:, 1:], {"x": buffer[:, :-1]}

    def transposed(buffer):
        square = buffer[:4]
        return square, {"x": square.T}

    def broadcast_value(buffer):
        return buffer, {"x": buffer[:1]}

    def broadcast_gate(buffer):
        return buffer, {"f": buffer[3], "x": np.ones((8, 4), np.float32)}

    def strided(buffer):
        flat = buffer.reshape(-1)
        return flat[::2][:10], {"x": flat[:10]}

    return dict(locals())


@pytest.mark.parametrize("case", overlapping().values(), ids=overlapping())
def test_partly_overlapping(rng, case):
    buffer = rng.random((8, 4)).astype(np.float32)
    before = buffer.copy()
    out, arguments = case(buffer)
    with pytest.raises(ValueError, match="`out`"):
        fastrecur.forget_mult(**{"f": 0.5} | arguments, out=out)
    assert_same_bits(buffer, before)


@pytest.mark.parametrize(
    "out",
    [
        np.lib.stride_tricks.as_strided(np.zeros(4, np.float32), (8, 4), (0, 4)),
        np.lib.stride_tricks.as_strided(np.zeros(32, np.float32), (8, 4), (4, 4)),
        np.lib.stride_tricks.as_strided(np.zeros(32, np.float32), (8, 4), (8, 4)),
        np.lib.stride_tricks.as_strided(np.zeros(80, np.float32), (8, 4), (32, 16)),
    ],
    ids=["stride 0", "sliding", "half a row", "interleaved"],
)
def test_self_overlapping(out):
    with pytest.raises(ValueError, match="`out`"):
        fastrecur.forget_mult(0.5, np.ones((8, 4), np.float32), out=out)
    assert not out.any()


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("axis", [0, 1])
def test_neighbours_and_interleaved_views(rng, name, axis):
    recurrence = getattr(fastrecur, name)
    gate, value = operands(rng, (6, 4), np.float64)
    expected = recurrence(gate, value, axis=axis)

    def check(buffer, gate_at, value_at, out_at):
        buffer = buffer.copy()
        buffer[gate_at], buffer[value_at] = gate, value
        before = buffer.copy()
        recurrence(buffer[gate_at], buffer[value_at], axis=axis, out=buffer[out_at])
        assert_same_bits(np.array(buffer[out_at]), expected)
        buffer[out_at] = before[out_at]
        assert_same_bits(buffer, before)

    every = slice(None)
    for i, j, k in [(0, 1, 2), (2, 0, 1), (1, 2, 0)]:
        check(np.zeros((6, 4, 3)), *((every, every, n) for n in (i, j, k)))
        check(np.zeros((6, 12)), *((every, slice(4 * n, 4 * n + 4)) for n in (i, j, k)))
        check(np.zeros((6, 12)), *((every, slice(n, None, 3)) for n in (i, j, k)))
        check(np.zeros((18, 4)), *(slice(6 * n, 6 * n + 6) for n in (i, j, k)))
        check(np.zeros((18, 4)), *(slice(n, None, 3) for n in (i, j, k)))
    check(np.zeros((18, 4)), slice(0, 6), slice(6, 12), slice(17, 11, -1))


@pytest.mark.parametrize("row", [0, 1, 3, 6])
def test_first_state_in_the_output_s_buffer(rng, row):
    # A stream kept in one buffer: the state before it is the row above, or one that it replaces.
    f, x = operands(rng, (6, 4), np.float32)
    buffer = rng.random((7, 4)).astype(np.float32)
    expected = fastrecur.forget_mult(f, x, buffer[row].copy())
    fastrecur.forget_mult(f, x, buffer[row], out=buffer[1:])
    assert_same_bits(np.array(buffer[1:]), expected)


@pytest.mark.parametrize("layout", WRITEABLE)
def test_only_out_is_written(rng, layout):
    # What lies between the elements of a strided output keeps its bytes.
    for axis in range(3):
        f, x = operands(rng, (5, 6, 33), np.float32)
        out = layout(np.zeros((5, 6, 33), np.float32))
        base = out if out.base is None else out.base
        fastrecur.forget_mult(f, x, axis=axis, out=out)
        assert out.any()
        out[...] = 0
        assert not np.nan_to_num(base).any()


def test_out_of_another_shape_is_refused_even_if_it_broadcasts():
    with pytest.raises(ValueError, match="`out`"):
        fastrecur.forget_mult(0.5, np.ones((8, 4)), out=np.zeros((2, 8, 4)))
    with pytest.raises(ValueError, match="`out`"):
        fastrecur.forget_mult(0.5, np.ones((8, 1)), out=np.zeros((8, 4)))


def test_a_subclass_is_returned_itself(tmp_path):
    out = np.memmap(tmp_path / "h", np.float64, "w+", shape=(4,))
    assert fastrecur.forget_mult(0.5, np.ones(4), out=out) is out
    assert fastrecur.forget_mult(0.5, np.ones(4), out=out, return_state=True)[0] is out
    assert out.tolist() == [0.5, 0.75, 0.875, 0.9375]


def test_a_kind_of_call_seen_before_is_still_checked(rng):
    f, x = rng.random((2, 6, 5))
    buffer = np.empty((7, 5))
    expected = fastrecur.forget_mult(f, x)
    for out in (buffer[:6], buffer[1:]):
        assert fastrecur.forget_mult(f, x, out=out) is out
        assert_same_bits(out.copy(), expected)
    with pytest.raises(ValueError, match="`out`"):
        fastrecur.forget_mult(f, buffer[1:], out=buffer[:6])
    with pytest.raises(ValueError, match="`out`"):
        fastrecur.forget_mult(buffer[1:], x, out=buffer[:6])
    with pytest.raises(TypeError, match="`return_state`"):
        fastrecur.forget_mult(f, x, out=out, return_state=1)
    assert_same_bits(out.copy(), expected)  # nothing was written
    with pytest.raises(TypeError, match="dtype"):
        fastrecur.forget_mult(f, x, out=np.empty((6, 5), np.float32))

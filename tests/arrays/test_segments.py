"""Series that begin anew inside the axis of time: offsets and resets."""

import numpy as np
import pytest
from compare import assert_same_bits, check_both
from layouts import every_other_lane, gate_slice, negative_strides
from test_forward import RECURRENCES, operands
from thresholds import lower_thresholds

import fastrecur
from fastrecur import reference
from fastrecur._cpu import cost, time_chunks

# Shape, axis of time: rows, narrow rows, several rows, series of each kind, one series.
CASES = [
    ((7, 5), 0),
    ((5, 7), 1),
    ((7, 4, 3), 0),
    ((4, 7, 3), 1),
    ((4, 3, 7), -1),
    ((65, 40), 0),
    ((33, 130), 1),
    ((300, 3), 0),
    ((2, 2100), 1),
    ((2100,), 0),
]
KINDS = [(name, np.float32, *case) for name in RECURRENCES for case in [*CASES, ((3, 2100), 1)]]
KINDS += [("linear_recurrence", np.float64, *CASES[k]) for k in (5, 6)]
EACH = pytest.mark.parametrize("name", RECURRENCES)
BOTH_WAYS = pytest.mark.parametrize("reverse", [False, True])


@pytest.fixture
def large(monkeypatch, forget_plans):
    """Small problems are shared among threads as large ones are; returns what becomes of this, in order."""
    came, real = [], time_chunks.RowChunks.scan

    def spy(chunks, *arguments):
        came.extend(["chunks"] * (done := real(chunks, *arguments)))
        return done

    for name, value in (("CHUNKED_BYTES", 0), ("WARM_UP_STEPS", (16, 1024)), ("WARM_UP_SHARE", 2)):
        monkeypatch.setattr(cost, name, value)
    monkeypatch.setattr(time_chunks.RowChunks, "scan", spy)
    lower_thresholds(monkeypatch.setattr)
    forget_plans()
    return came


def some_offsets(rng, steps, count):
    """Borders of so many segments, some of them empty."""
    inner = np.sort(rng.integers(0, steps + 1, count - 1))
    return np.concatenate([[0], inner, [steps]])


def lanes_of(shape, axis):
    axis %= len(shape)
    return shape[:axis] + shape[axis + 1 :]


def some_resets(rng, shape, axis, share=0.2):
    """Flags in every shape that they may have for a result."""
    axis %= len(shape)
    for n in range(axis + 1, len(shape) + 1):
        yield rng.random(shape[:n]) < share
    yield rng.random((1,) * axis + (shape[axis],)) < share


def at_steps(array, axis, start, stop):
    return array[(slice(None),) * (axis % array.ndim) + (slice(start, stop),)]


@pytest.mark.sample(name=["forget_mult"])
@BOTH_WAYS
@pytest.mark.parametrize(("name", "dtype", "shape", "axis"), KINDS)
def test_offsets(rng, name, dtype, reverse, shape, axis):
    gate, value = operands(rng, shape, dtype)
    for count in (1, 3, 9):
        options = {"axis": axis, "reverse": reverse, "offsets": some_offsets(rng, shape[axis], count)}
        h0 = rng.standard_normal((count, *lanes_of(shape, axis))).astype(dtype)
        for state in (h0, None):
            check_both(name, gate, value, state, rng=rng, **options)


@pytest.mark.sample(name=["forget_mult"])
@BOTH_WAYS
@pytest.mark.parametrize(("name", "dtype", "shape", "axis"), KINDS)
def test_resets(rng, name, dtype, reverse, shape, axis):
    gate, value = operands(rng, shape, dtype)
    h0 = rng.standard_normal(lanes_of(shape, axis)).astype(dtype)
    for resets in some_resets(rng, shape, axis):
        beside = np.ones([n + 2 for n in resets.shape], bool)[(slice(1, -1),) * resets.ndim]
        beside[...] = resets  # flags beside those that are given are not read
        for state, flags in ((h0, beside), (None, resets)):
            options = {"axis": axis, "reverse": reverse, "resets": flags}
            check_both(name, gate, value, state, rng=rng, **options)


@pytest.mark.sample(name=["forget_mult"], reverse=[False], shape=[(7, 5), (33, 130), (2100,)])
@EACH
@BOTH_WAYS
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_resets_within_segments(rng, name, reverse, shape, axis):
    gate, value = operands(rng, shape, np.float32)
    h0 = rng.standard_normal((4, *lanes_of(shape, axis))).astype(np.float32)
    for resets in some_resets(rng, shape, axis):
        offsets = some_offsets(rng, shape[axis], 4)
        options = {"axis": axis, "reverse": reverse, "resets": resets, "offsets": offsets}
        check_both(name, gate, value, h0, rng=rng, **options)


@pytest.mark.sample(name=["forget_mult"])
@EACH
@BOTH_WAYS
@pytest.mark.parametrize(("shape", "axis"), [case for case in CASES if len(case[0]) > 1])
def test_resets_of_padded_series(rng, name, reverse, shape, axis):
    gate, value = operands(rng, shape, np.float32)
    lanes = lanes_of(shape, axis)
    h0 = rng.standard_normal(lanes).astype(np.float32)
    for resets in some_resets(rng, shape, axis):
        lengths = rng.integers(0, shape[axis] + 1, lanes[:1])
        options = {"axis": axis, "reverse": reverse, "resets": resets, "lengths": lengths}
        check_both(name, gate, value, h0, rng=rng, **options)


def test_reference_of_segments_is_each_alone(rng):
    """The definition itself is held to the definition without segments."""
    gate, value = operands(rng, (11, 3), np.float64)
    h0, offsets = rng.standard_normal((3, 3)), [0, 4, 4, 11]
    h, last = reference.forget_mult(gate, value, h0, offsets=offsets, return_state=True, reverse=True)
    for n, (start, stop) in enumerate([(0, 4), (4, 4), (4, 11)]):
        own, own_last = reference.forget_mult(
            gate[start:stop], value[start:stop], h0[n], return_state=True, reverse=True
        )
        assert_same_bits(h[start:stop], own)
        assert_same_bits(last[n], own_last)


@pytest.mark.sample(name=["forget_mult"])
@EACH
@BOTH_WAYS
@pytest.mark.parametrize("kind", ["offsets", "resets", "resets of each lane"])
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_nan_stops_at_borders(rng, name, reverse, shape, axis, kind):
    """NaN and infinities in a segment change no bit of any other, in values and gradients."""
    recurrence, vjp = getattr(fastrecur, name), getattr(fastrecur, name + "_vjp")
    gate, value = operands(rng, shape, np.float32)
    axis, steps = axis % len(shape), shape[axis]
    border = int(rng.integers(1, steps))
    flags = np.zeros(steps, bool)
    flags[border] = True
    if kind == "offsets":
        options = {"offsets": [0, border, steps]}
    else:
        shaped = flags.reshape((1,) * axis + (-1,) + (1,) * (len(shape) - axis - 1))
        options = {"resets": np.broadcast_to(shaped, shape).copy() if kind != "resets" else shaped}
    options |= {"axis": axis, "reverse": reverse}
    dirty = at_steps(np.arange(steps), 0, border, None) if reverse else np.arange(border)
    clean = at_steps(np.arange(steps), 0, 0, border) if reverse else np.arange(border, steps)
    grad_h = rng.standard_normal(shape).astype(np.float32)

    def results(value, gate, grad_h):
        h = recurrence(gate, value, **options)
        return h, *vjp(grad_h, gate, value, h, **options)[:2]

    whole = results(value, gate, grad_h)
    for bad in (np.nan, np.inf):
        spoilt = [a.copy() for a in (value, gate)]
        at = (slice(None),) * axis + (dirty[0 if reverse else -1],)
        for array in spoilt:
            array[at] = bad
        for one, other in zip(results(*spoilt, grad_h), whole, strict=True):
            assert_same_bits(np.take(one, clean, axis), np.take(other, clean, axis))
        spoilt = grad_h.copy()
        spoilt[(slice(None),) * axis + (clean[-1 if reverse else 0],)] = bad
        for one, other in zip(results(value, gate, spoilt), whole, strict=True):
            assert_same_bits(np.take(one, dirty, axis), np.take(other, dirty, axis))


@pytest.mark.exhaustive
@EACH
@BOTH_WAYS
@pytest.mark.parametrize("kind", ["offsets", "resets", "resets of each lane"])
@pytest.mark.parametrize(("shape", "axis"), [((65, 40), 0), ((9, 301), 1), ((2100,), 0), ((600, 40), 0)])
def test_nan_before_borders(rng, large, name, reverse, shape, axis, kind):
    """NaN at the last step of every other segment changes nothing but that step, and this segment's gradients."""
    recurrence, vjp = getattr(fastrecur, name), getattr(fastrecur, name + "_vjp")
    gate, value = operands(rng, shape, np.float32)
    steps = shape[axis]
    offsets = np.unique([0, *rng.integers(1, steps, steps // 12), steps])
    flags = np.isin(np.arange(steps), offsets[:-1]).reshape((1,) * axis + (-1,) + (1,) * (len(shape) - axis - 1))
    options = {"offsets": offsets} if kind == "offsets" else {"resets": flags}
    if kind == "resets of each lane":
        options = {"resets": np.broadcast_to(flags, shape).copy()}
    options |= {"axis": axis, "reverse": reverse}
    number = np.searchsorted(offsets, np.arange(steps), side="right") - 1  # of each step's segment
    own = np.arange(1, len(offsets) - 1, 2)
    last = offsets[own] if reverse else offsets[own + 1] - 1
    grad_h = rng.standard_normal(shape).astype(np.float32)

    def results(gate, value):
        h = recurrence(gate, value, **options)
        return h, *vjp(grad_h, gate, value, h, **options)[:2]

    whole = results(gate, value)
    for bad in (np.nan, np.inf):
        for k in range(2):
            spoilt = [gate.copy(), value.copy()]
            spoilt[k][(slice(None),) * axis + (last,)] = bad
            changed = results(*spoilt)
            keep = np.setdiff1d(np.arange(steps), last)
            assert_same_bits(np.take(changed[0], keep, axis), np.take(whole[0], keep, axis))
            for one, other in zip(changed[1:], whole[1:], strict=True):
                keep = np.flatnonzero(number % 2 == 0)
                assert_same_bits(np.take(one, keep, axis), np.take(other, keep, axis))


@pytest.mark.exhaustive
@EACH
@BOTH_WAYS
@pytest.mark.parametrize(("shape", "axis"), [*CASES, ((5003,), 0)])
def test_flags_that_are_not_set_change_no_bit(rng, large, name, reverse, shape, axis):
    recurrence, vjp = getattr(fastrecur, name), getattr(fastrecur, name + "_vjp")
    gate, value = operands(rng, shape, np.float64)
    results = []
    for resets in (None, np.zeros(shape, bool)):
        options = {"axis": axis, "reverse": reverse, "resets": resets}
        h = recurrence(gate, value, **options)
        results.append((h, *vjp(value, gate, value, h, **options)[:2]))
    for one, other in zip(*results, strict=True):
        assert_same_bits(one, other)


@pytest.mark.sample(shape=[(9, 40)], reverse=[True])
@BOTH_WAYS
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(("shape", "axis"), [((9, 40), 0), ((40, 9), 1), ((9,), 0)])
def test_a_coefficient_at_a_border_is_not_used(rng, reverse, bad, shape, axis):
    a, b = operands(rng, shape, np.float64)
    resets = np.zeros(9, bool)
    resets[4] = True
    at = (slice(None),) * axis + (3 if reverse else 4,)
    a[at] = bad
    options = {"axis": axis, "reverse": reverse, "resets": resets if axis == 0 else resets[np.newaxis]}
    h = fastrecur.linear_recurrence(a, b, **options)
    np.testing.assert_array_equal(h[at], b[at])
    grad_a, grad_b, _ = fastrecur.linear_recurrence_vjp(np.ones(shape), a, b, h, **options)
    assert (grad_a[at] == 0).all()
    assert np.isfinite(grad_a).all()
    assert np.isfinite(grad_b).all()


@pytest.mark.sample(name=["forget_mult"])
@EACH
@BOTH_WAYS
def test_chunk_after_chunk_is_the_whole(rng, name, reverse):
    recurrence = getattr(fastrecur, name)
    gate, value = operands(rng, (40, 6), np.float32)
    resets = rng.random((40, 6)) < 0.2
    resets[20] = [True, False] * 3
    whole, last = recurrence(gate, value, resets=resets, reverse=reverse, return_state=True)
    state, parts = None, [slice(0, 20), slice(20, 40)]
    near = {"rtol": 1e-7, "atol": 1e-7 * np.abs(whole).max()}  # the state between chunks is rounded
    for part in parts[::-1] if reverse else parts:
        h, state = recurrence(gate[part], value[part], state, resets=resets[part], reverse=reverse, return_state=True)
        np.testing.assert_allclose(h, whole[part], **near)
    np.testing.assert_allclose(state, last, **near)


@pytest.mark.sample(name=["forget_mult"])
@EACH
@BOTH_WAYS
@pytest.mark.parametrize("layout", [negative_strides, gate_slice, every_other_lane])
def test_layouts(rng, name, reverse, layout):
    for shape, axis in [((33, 40), 0), ((4, 33, 20), 1), ((20, 33), 1)]:
        gate, value = (layout(a) for a in operands(rng, shape, np.float32))
        lanes = lanes_of(shape, axis)
        options = {"axis": axis, "reverse": reverse}
        h0 = rng.standard_normal((3, *lanes)).astype(np.float32)
        check_both(name, gate, value, h0, rng=rng, offsets=some_offsets(rng, 33, 3), **options)
        resets = layout(rng.random(shape) < 0.2)
        check_both(name, gate, value, h0[0], rng=rng, resets=resets, **options)


@pytest.mark.sample(name=["forget_mult"], gate_shape=[(1, None)])
@EACH
@BOTH_WAYS
@pytest.mark.parametrize("gate_shape", [(), (1, None), (None, 1)])
def test_broadcast_gates(rng, name, reverse, gate_shape):
    gate, value = operands(rng, (33, 40), np.float32)
    gate = gate[tuple(slice(0, n) for n in gate_shape)] if gate_shape else 0.25
    h0 = rng.standard_normal((3, 40)).astype(np.float32)
    options = {"offsets": some_offsets(rng, 33, 3), "reverse": reverse}
    check_both(name, gate, value, h0, rng=rng, **options)
    options = {"resets": rng.random((33, 40)) < 0.1, "reverse": reverse}
    check_both(name, gate, value, h0[0], rng=rng, **options)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("forget_mult", np.float16),
        ("forget_mult", np.complex64),
        ("linear_recurrence", np.complex64),
        ("linear_recurrence", np.int64),
    ],
)
@BOTH_WAYS
def test_other_dtypes(rng, name, reverse, dtype):
    for shape, axis in [((20, 17), 0), ((5, 20), 1)][: 1 if dtype == np.int64 else 2]:
        gate, value = operands(rng, shape, np.float32 if dtype == np.int64 else np.dtype(dtype))
        if dtype == np.int64:
            value = rng.integers(-3, 4, shape)
        if np.iscomplexobj(gate) and name == "forget_mult":
            gate = gate.real.copy()
        h0 = rng.standard_normal((3, *lanes_of(shape, axis))).astype(value.dtype if dtype != np.int64 else gate.dtype)
        options = {"axis": axis, "reverse": reverse, "offsets": some_offsets(rng, 20, 3)}
        check_both(name, gate, value, h0, rng=rng, **options)
        options = {"axis": axis, "reverse": reverse, "resets": rng.random(shape) < 0.2}
        check_both(name, gate, value, h0[0], rng=rng, **options)


@pytest.mark.sample(shape=[(8, 2048)])
@BOTH_WAYS
@pytest.mark.parametrize(("shape", "axis"), [((2048, 8), 0), ((8, 2048), 1), ((2048, 3), 0), ((2, 1500, 3), 1)])
def test_offsets_of_a_call_that_was_seen_before(rng, reverse, shape, axis):
    """What is made of offsets lives until the kernel has read it: a large array's memory is given away at once."""
    gate, value = operands(rng, shape, np.float32)
    offsets = np.minimum([0, 5, 20, 40, shape[axis]], gate.shape[axis])
    options = {"axis": axis, "reverse": reverse, "offsets": offsets}
    for _ in range(3):
        check_both("forget_mult", gate * np.float32(0.1), value, None, rng=rng, **options)


@BOTH_WAYS
def test_in_place(rng, reverse):
    for shape, axis in [((33, 40), 0), ((20, 33), 1)]:
        gate, value = operands(rng, shape, np.float32)
        for options in ({"offsets": [0, 5, 5, 33]}, {"resets": rng.random(shape) < 0.2}):
            options = {"axis": axis, "reverse": reverse, **options}
            expected, own = fastrecur.forget_mult(gate, value, **options), value.copy()
            assert fastrecur.forget_mult(gate, own, out=own, **options) is own
            assert_same_bits(own, expected)


@BOTH_WAYS
@pytest.mark.parametrize("offsets", [[0], [0, 0, 0]])
def test_no_steps(reverse, offsets):
    count = len(offsets) - 1
    f, h0 = np.empty((0, 3)), np.arange(3.0 * count).reshape(count, 3)
    h, last = fastrecur.forget_mult(f, f, h0, offsets=offsets, reverse=reverse, return_state=True)
    assert h.shape == (0, 3)
    assert_same_bits(last, h0)
    grads = fastrecur.forget_mult_vjp(h, f, f, h, h0, offsets=offsets, reverse=reverse, grad_state=h0 + 1)
    assert_same_bits(grads[2], h0 + 1)
    for resets in (np.zeros(0, bool), []):
        assert fastrecur.forget_mult(f, f, resets=resets, reverse=reverse).shape == (0, 3)


def test_out_may_not_be_where_borders_are():
    numbers = np.zeros(24, np.uint8)
    flags, out = numbers[:3].view(bool), numbers.view(np.float64)
    for _ in range(2):
        with pytest.raises(ValueError, match="`out` must share no memory with `resets`"):
            fastrecur.forget_mult(np.full(3, 0.5), np.ones(3), resets=flags, out=out)
    offsets = np.array([0, 1, 2])
    with pytest.raises(ValueError, match="`out` must share no memory with `offsets`"):
        fastrecur.forget_mult(np.full(2, 0.5), np.ones(2), offsets=offsets, out=offsets[:2].view(np.float64))


@pytest.mark.exhaustive
@BOTH_WAYS
@pytest.mark.parametrize(("shape", "axis"), [((90, 100), 0), ((90, 100), 1), ((600, 40), 0), ((2100,), 0)])
@pytest.mark.parametrize("name", RECURRENCES)
def test_results_do_not_depend_on_threads(rng, large, set_threads, name, reverse, shape, axis):
    """Nor do those of a gate for all steps, whose gradient is a sum over them, in one way for both recurrences."""
    recurrence, vjp = getattr(fastrecur, name), getattr(fastrecur, name + "_vjp")
    full, value = operands(rng, shape, np.float32)
    for gate in (full, 0.25) if name == "forget_mult" else (full,):
        offsets = some_offsets(rng, shape[axis], 30)
        states = rng.standard_normal((30, *lanes_of(shape, axis))).astype(np.float32)
        for h0, own in (
            (None, {"offsets": offsets}),
            (states, {"offsets": offsets}),
            (None, {"resets": rng.random(shape) < 0.05}),
        ):
            own["reverse"], results = reverse, []
            for threads in (1, 2, 3):
                set_threads(threads)
                h = recurrence(gate, value, h0, axis=axis, **own)
                grads = vjp(value, gate, value, h, h0, axis=axis, grad_state=h0, **own)
                results.append([h, *map(np.asarray, grads[: 2 if h0 is None else 3])])
            for others in results[1:]:
                for one, other in zip(results[0], others, strict=True):
                    assert_same_bits(one, other)
    assert shape != (600, 40) or "chunks" in large


@pytest.mark.exhaustive
@EACH
@BOTH_WAYS
@pytest.mark.parametrize(
    ("dtype", "shape", "axis"),
    [
        (np.float32, (65, 40), 0),
        (np.float32, (65, 3), 0),
        (np.float32, (9, 301), 1),
        (np.float64, (9, 301), 1),
        (np.float16, (11, 300), 1),
        (np.float32, (4, 70, 3), 1),
        (np.complex64, (70, 20), 0),
        (np.complex64, (3, 70), 1),
    ],
)
def test_each_segment_has_the_bits_of_the_call_on_it_alone(rng, name, dtype, reverse, shape, axis):
    """Where steps are walked one after another; the same at the second call and at the fourth."""
    if name == "forget_mult" and dtype == np.complex64:
        pytest.skip("a gate is real")
    recurrence, vjp = getattr(fastrecur, name), getattr(fastrecur, name + "_vjp")
    gate, value = operands(rng, shape, np.dtype(dtype))
    steps, options = shape[axis], {"axis": axis, "reverse": reverse}
    # Some without steps, and of one step; at both ends, too.
    offsets = np.sort(np.minimum([0, 0, 1, 9, 9, 9, 10, 11, steps // 2, steps - 1, steps, steps], steps))
    h0 = rng.standard_normal((11, *lanes_of(shape, axis))).astype(dtype)
    grad_h, grad_state = operands(rng, shape, np.dtype(dtype))[1], h0[::-1].copy()
    for turn in range(4):
        h, last = recurrence(gate, value, h0, offsets=offsets, return_state=True, **options)
        grads = vjp(grad_h, gate, value, h, h0, offsets=offsets, grad_state=grad_state, **options)
        for n in range(11) if turn % 2 else ():
            own = [at_steps(array, axis, *offsets[n : n + 2]) for array in (grad_h, gate, value, h)]
            alone, alone_last = recurrence(own[1], own[2], h0[n], return_state=True, **options)
            assert_same_bits(own[3], alone)
            assert_same_bits(last[n], alone_last)
            alone = vjp(*own, h0[n], grad_state=grad_state[n], **options)
            for grad, one in zip((*(at_steps(g, axis, *offsets[n : n + 2]) for g in grads[:2]), grads[2][n]), alone,
                                 strict=True):  # fmt: skip
                assert_same_bits(grad, one)
        h0 = h0 + 1  # states are not remembered


@pytest.mark.sample(name=["forget_mult"])
@EACH
@BOTH_WAYS
@pytest.mark.parametrize(("shape", "axis"), [((65, 40), 0), ((65, 3), 0), ((9, 301), 1), ((2100,), 0), ((2, 2100), 1)])
def test_states_that_all_segments_share(rng, name, reverse, shape, axis):
    gate, value = operands(rng, shape, np.float32)
    lanes, options = lanes_of(shape, axis), {"axis": axis, "reverse": reverse}
    options["offsets"] = some_offsets(rng, shape[axis], 9)
    for state in ((), lanes, (1, *lanes), (9, *(1 for _ in lanes))):
        h0 = rng.standard_normal(state).astype(np.float32)
        check_both(name, gate, value, h0, rng=rng, **options)


@pytest.mark.sample(name=["forget_mult"])
@EACH
@BOTH_WAYS
@pytest.mark.parametrize(("shape", "axis"), [((65, 40), 0), ((65, 3), 0), ((9, 301), 1), ((2100,), 0), ((2, 2100), 1)])
def test_numbers_in_place_of_states(rng, name, reverse, shape, axis):
    """A number is the first state of each segment, or the cotangent of its last one."""
    gate, value = operands(rng, shape, np.float32)
    vjp, lanes = getattr(fastrecur, name + "_vjp"), lanes_of(shape, axis)
    options = {"axis": axis, "reverse": reverse, "offsets": some_offsets(rng, shape[axis], 9)}
    for h0 in (0.75, 2, True):
        check_both(name, gate, value, h0, rng=rng, **options)
    for h0 in (None, 0.75, np.full((9, *lanes), 0.75, np.float32)):
        h = getattr(fastrecur, name)(gate, value, h0, **options)
        full = np.full((9, *lanes), 0.5, np.float32)
        for by_number, by_array in zip(
            vjp(value, gate, value, h, h0, grad_state=0.5, **options),
            vjp(value, gate, value, h, h0, grad_state=full, **options),
            strict=True,
        ):
            assert (by_number is None) == (by_array is None)
            if by_array is not None:
                assert_same_bits(by_number, by_array)


@pytest.mark.exhaustive
@BOTH_WAYS
@pytest.mark.parametrize("steps", [3000, 40_000])
def test_a_constant_series_of_segments_stays_constant(rng, reverse, steps):
    """Of one long float64 series, whose steps are composed, too: where segments begin with it, and after a border."""
    flags = rng.random(steps) < 0.01
    flags[0] = True
    offsets = np.concatenate([np.flatnonzero(flags), [steps]])
    for constant in (1.1, -3.3, 7e5):
        for gate in (rng.random(steps), rng.random(steps) * 0.02, 0.3):
            value = np.full(steps, constant)
            h0 = np.full(len(offsets) - 1, constant)
            assert_same_bits(fastrecur.forget_mult(gate, value, h0, offsets=offsets, reverse=reverse), value)
            opened = np.broadcast_to(gate, steps).copy()
            opened[offsets[1:] - 1 if reverse else offsets[:-1]] = 1
            assert_same_bits(fastrecur.forget_mult(opened, value, resets=flags, reverse=reverse), value)


@pytest.mark.sample(name=["forget_mult"], reverse=[False])
@EACH
@BOTH_WAYS
def test_a_long_series_is_written_past_the_cache(rng, name, reverse, monkeypatch, forget_plans):
    """No bit depends on that."""
    recurrence, vjp = getattr(fastrecur, name), getattr(fastrecur, name + "_vjp")
    gate, value = operands(rng, (2304,), np.float32)
    resets, results = rng.random(2304) < 0.1, []
    for _ in range(2):
        h = recurrence(gate, value, resets=resets, reverse=reverse)
        results.append((h, *vjp(value, gate, value, h, resets=resets, reverse=reverse)[:2]))
        lower_thresholds(monkeypatch.setattr)
        forget_plans()
    for one, other in zip(*results, strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"offsets": [0, 5.0]}, TypeError, "`offsets` must be integers"),
        ({"offsets": [[0, 7]]}, ValueError, "`offsets` must be integers in one dimension"),
        ({"offsets": []}, TypeError, "`offsets` must be integers"),
        ({"offsets": 7}, ValueError, "`offsets` must be integers in one dimension"),
        ({"offsets": [1, 7]}, ValueError, "`offsets` must begin with 0 and end with 7"),
        ({"offsets": [0, 6]}, ValueError, "`offsets` must begin with 0 and end with 7"),
        ({"offsets": [0, 5, 3, 7]}, ValueError, "`offsets` must never descend, got 5 and then 3"),
        ({"offsets": np.array([0, 9, 7], np.uint8)}, ValueError, "never descend, got 9 and then 7"),
        ({"offsets": [0, 7], "lengths": [7] * 4}, ValueError, "`lengths` must be left out with `offsets`"),
        ({"offsets": [0, 3, 7], "h0": np.zeros((3, 4))}, ValueError, r"segments first\), \(2, 4\), .* got \(3, 4\)"),
        ({"resets": np.zeros(7)}, TypeError, "got dtype float64: pass `resets != 0`; positions are `offsets`"),
        ({"resets": np.zeros(6, bool)}, ValueError, "`resets` must be shaped like one or more leading axes"),
        ({"resets": np.zeros((7, 3), bool)}, ValueError, "`resets` must be shaped like"),
        ({"resets": np.zeros((7, 4, 1), bool)}, ValueError, "`resets` must be shaped like"),
        ({"resets": True}, ValueError, "`resets` must be shaped like"),
        ({"resets": np.zeros(4, bool), "axis": 1}, ValueError, "axis 1 among them"),
    ],
)
def test_errors(options, error, match):
    x = np.ones((7, 4))
    out, h0 = np.full((7, 4), 5.0), options.pop("h0", None)
    if options.get("axis"):
        x, out = x.T.copy(), out.T.copy()
    with pytest.raises(error, match=match):
        fastrecur.forget_mult(0.5, x, h0, out=out, **options)
    assert (out == 5).all()
    with pytest.raises(error, match=match):
        fastrecur.forget_mult_vjp(x, 0.5, x, x, h0, **options)

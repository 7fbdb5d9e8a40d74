"""What is promised about accuracy, exact ends, infinities and reproducibility, on every path."""

import math

import ml_dtypes
import numpy as np
import pytest
from compare import (
    assert_close,
    assert_same_bits,
    carry_of,
    check_both,
    check_forward,
    check_vjp,
)
from test_forward import RECURRENCES, operands

import fastrecur
from fastrecur._cpu import cost, time_chunks

# Shapes that between them take every path: rows of lanes, rows in tiles and on threads, time
# last in blocks of lanes, time in the middle, few lanes with time split, one series.
PATHS = {
    "rows": ((100, 33), 0),
    "wide rows": ((260, 4097), 0),
    "time last": ((65, 300), 1),
    "many, time last": ((1025, 1030), 1),
    "time in the middle": ((5, 100, 33), 1),
    "few lanes": ((3000, 5), 0),
    "few lanes, time last": ((5, 3000), 1),
    "one series": ((8001,), 0),
    "a long series": ((600000,), 0),
}
SMALL_PATHS = [path for path, (shape, _) in PATHS.items() if math.prod(shape) < 50000]


def lanes_of(shape, axis):
    return shape[:axis] + shape[axis + 1 :]


def every_path(paths=tuple(PATHS)):
    return pytest.mark.parametrize(("shape", "axis"), [PATHS[p] for p in paths], ids=paths)


def loop(f, x, h0):
    """One series, by Python's own float64 numbers."""
    h, state = [], h0
    for f_t, x_t in zip(f, x, strict=True):
        state = f_t * x_t + (1 - f_t) * state
        h.append(state)
    return np.array(h)


def check_long_series(f, x, h0, *, reverse, magnitude):
    """Check a series against `loop`: to walk one in NumPy, a step at a time, takes seconds."""
    sweep = slice(None, None, -1) if reverse else slice(None)
    wide = loop(f[sweep].tolist(), x[sweep].tolist(), float(h0))[sweep]
    h, last = fastrecur.forget_mult(f, x, h0, reverse=reverse, return_state=True)
    assert_close(h, wide, x.dtype, magnitude=magnitude)
    assert_same_bits(np.asarray(last), np.asarray(h[0 if reverse else -1]))
    assert_same_bits(fastrecur.forget_mult(f, x, h0, reverse=reverse, out=np.full_like(x, np.nan)), h)


@pytest.mark.sample(f=[1e-3])
@pytest.mark.parametrize("f", [1e-5, 1e-4, 1e-3, 0.1])
def test_a_million_steps(rng, f):
    x = (100 + rng.standard_normal(10**6)).astype(np.float32)
    f32 = np.float32(f)
    gates = np.full(10**6, f32)
    for expected, arguments in [
        (loop([f] * 10**6, x.tolist(), 100.0), [(f, x), (f, x[:, np.newaxis])]),
        (loop(gates.tolist(), x.tolist(), 100.0), [(f32, x), (gates, x)]),
    ]:
        for gate, values in arguments:
            h = fastrecur.forget_mult(gate, values, 100.0)
            assert h.dtype == np.float32
            assert abs(float(h.flat[-1]) - expected[-1]) <= 1e-5
            assert_close(h.reshape(-1), expected, np.float32)


@pytest.mark.sample(f=[1e-3])
@pytest.mark.parametrize("f", [1e-5, 1e-3, 0.1])
def test_a_million_steps_in_float64(rng, f):
    # No wider carry: the table's lerp row, 2**29 times smaller.
    x = 100 + rng.standard_normal(10**6)
    exact = np.longdouble(100)
    for value in x.astype(np.longdouble):
        exact = exact + np.longdouble(f) * (value - exact)
    for gate in [f, np.full(10**6, f)]:
        h = fastrecur.forget_mult(gate, x, 100.0)
        assert abs(h[-1] - exact) <= 2e-3 * 2.0**-29


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("f", [1e-5, 1e-4, 1e-3, "rounded"])  # 1e-6 * noise is lost in a float32 sum of 100
def test_a_million_steps_in_half_precision(rng, dtype, f):
    # A level 10 above the first state: a weight 1 - f rounded to float32 would be biased by 1e-3.
    x = (110 + rng.standard_normal(10**6)).astype(dtype)
    f = dtype(1e-5) if f == "rounded" else f
    expected = loop([float(f)] * 10**6, x.astype(float).tolist(), 100.0)
    h = fastrecur.forget_mult(f, x, 100.0)
    error = np.abs(h.astype(float) - expected) / float(np.spacing(dtype(100)))
    assert error.max() <= 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reverse", [False, True])
@every_path()
def test_random_gates(rng, dtype, reverse, shape, axis):
    if math.prod(shape) > 10**5 and dtype == np.float64 and reverse:
        pytest.skip("one direction of the large shapes will do")
    f, x = operands(rng, shape, dtype)
    x += dtype(100)
    h0 = 100 + rng.standard_normal(lanes_of(shape, axis)).astype(dtype)
    if len(shape) == 1:
        check_long_series(f, x, h0, reverse=reverse, magnitude=110.0)
    else:
        check_forward("forget_mult", f, x, h0, axis=axis, reverse=reverse)


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_path(["rows", "few lanes", "few lanes, time last", "one series"])
def test_gradients_for_gates_near_the_ends(rng, name, dtype, shape, axis):
    h0 = rng.standard_normal(lanes_of(shape, axis)).astype(dtype)
    for low, high in [(0, 1e-6), (0.999, 1), (0.5 - 1e-6, 0.5 + 1e-6)]:
        gate = rng.uniform(low, high, shape).astype(dtype)
        value = rng.standard_normal(shape).astype(dtype)
        # The longer the memory, the further float64 drifts: as the square root of its steps.
        memory = 1 / max(low, 1 / shape[axis]) if name == "forget_mult" else shape[axis]
        ulp = math.ceil(math.sqrt(memory)) if dtype == np.float64 else None
        check_vjp(name, gate, value, h0, rng=rng, axis=axis, ulp=ulp)
        check_forward(name, gate, value, h0, axis=axis, ulp=ulp, floor=4.0)


@pytest.mark.sample(dtype=[np.float32, np.float64])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("scale", [1.0, "largest"])
@every_path(SMALL_PATHS)
def test_exact_ends(rng, dtype, reverse, scale, shape, axis):
    # Gates of 0 and 1 among others, at values whose difference overflows.
    scale = float(np.finfo(dtype).max) if scale == "largest" else scale
    for share in [0.01, 0.5, 1.0]:
        f = rng.random(shape)
        end = rng.random(shape) < share
        f[end] = rng.integers(0, 2, shape)[end]
        f = f.astype(dtype)
        x = (scale * rng.uniform(0.5, 1, shape) * rng.choice([-1, 1], shape)).astype(dtype)
        h0 = (-scale * rng.uniform(0.5, 1, lanes_of(shape, axis))).astype(dtype)
        h, last = fastrecur.forget_mult(f, x, h0, axis=axis, reverse=reverse, return_state=True)
        assert np.isfinite(h).all()
        f, x, h = (np.moveaxis(a, axis, 0) for a in (f, x, h))
        if reverse:
            f, x, h = f[::-1], x[::-1], h[::-1]
        before = np.concatenate([h0[np.newaxis], h[:-1]])
        assert_same_bits(h[f == 1], x[f == 1])
        assert_same_bits(h[f == 0], before[f == 0])
        assert_same_bits(last, np.array(h[-1]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_path(["rows", "time last", "few lanes", "one series"])
def test_constant_exact_ends(rng, dtype, shape, axis):
    _, x = operands(rng, shape, dtype)
    x *= dtype(1e30)
    h0 = rng.standard_normal(lanes_of(shape, axis)).astype(dtype)
    for one in [1, 1.0, True, dtype(1), np.ones(shape[axis + 1 :], dtype)]:
        assert_same_bits(fastrecur.forget_mult(one, x, h0, axis=axis), x)
    for zero in [0, 0.0, False, dtype(0), np.zeros(shape[axis + 1 :], dtype)]:
        h = fastrecur.forget_mult(zero, x, h0, axis=axis)
        assert_same_bits(h, np.broadcast_to(np.expand_dims(h0, axis), shape).copy())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_path(SMALL_PATHS)
def test_a_closed_gate_hides_any_value(rng, dtype, shape, axis):
    # A chunk composed from its own first value must not let that value in where its gate is 0.
    f, x = operands(rng, shape, dtype)
    for hidden in [1e30, -1e35, float(np.finfo(dtype).max)]:
        closed = rng.random(shape) < 0.3
        f[closed] = 0
        x[closed] = hidden
        f[f < 1e-3] = 0
        check_forward("forget_mult", f, x, 0.5, axis=axis)
        check_vjp("forget_mult", f, np.where(closed, dtype(1), x), 0.5, rng=rng, axis=axis)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_path(SMALL_PATHS)
def test_a_nearly_closed_gate_weighs_as_it_should(rng, dtype, shape, axis):
    # Outliers of 1e20 behind gates of 1e-20, before and among ordinary steps, which reach 4.
    f, x = operands(rng, shape, dtype)
    outlier = rng.random(shape) < 0.2
    f[outlier] = 1e-20
    x[outlier] = rng.choice([-1e20, 1e20], shape)[outlier]
    check_forward("forget_mult", f, x, -1e20, axis=axis, floor=4.0)
    check_forward("forget_mult", f, x, -1e20, axis=axis, floor=4.0, reverse=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_path(SMALL_PATHS)
def test_cancellation(rng, dtype, shape, axis):
    # A huge state is forgotten at once, slowly, or cancelled by its opposite.
    f, x = operands(rng, shape, dtype)
    time_first_f, time_first_x = (np.moveaxis(a, axis, 0) for a in (f, x))
    steps = shape[axis]
    for at in [0, steps // 3, steps // 2, steps - 2]:
        time_first_x[at], time_first_f[at] = 1e30, 0.5
        time_first_f[at + 1] = 1
    check_forward("forget_mult", f, x, -1e30, axis=axis)
    time_first_f[steps // 2 + 1] = 0.5
    time_first_x[steps // 2 + 1] = -1e30
    check_forward("forget_mult", f, x, 1e30, axis=axis, reverse=True)
    check_forward("linear_recurrence", f, x, 1e30, axis=axis)
    check_forward("linear_recurrence", -f, x, 1e30, axis=axis)


@pytest.mark.sample(dtype=[np.float32, np.float64])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("reverse", [False, True])
@every_path()
def test_a_constant_series_stays_constant(rng, dtype, reverse, shape, axis):
    if math.prod(shape) > 10**5 and reverse:
        pytest.skip("one direction of the large shapes will do")
    lanes = lanes_of(shape, axis)
    for level in [rng.standard_normal(lanes), np.full(lanes, 0.1), np.full(lanes, 1e-4 / 3)]:
        level = level.astype(dtype)
        x = np.broadcast_to(np.expand_dims(level, axis), shape)
        # A number, and an array of the gate least kind to 1 - f.
        gates = [0.3, 1e-5] if np.dtype(dtype).kind == "f" else []
        for f in [*gates, *(np.asarray(g, dtype) for g in [1e-5, rng.random(shape) ** 20])]:
            h, last = fastrecur.forget_mult(f, x, level, axis=axis, reverse=reverse, return_state=True)
            assert_same_bits(h, x.copy())
            assert_same_bits(last, level)


SPECIAL = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reverse", [False, True])
@every_path(SMALL_PATHS)
def test_infinities_follow_the_definition(rng, name, dtype, reverse, shape, axis):
    f, x = operands(rng, shape, dtype)
    sparse = rng.random(shape) < 20 / math.prod(shape)
    h0 = rng.choice([0.5, np.inf, np.nan], lanes_of(shape, axis), p=[0.8, 0.1, 0.1]).astype(dtype)
    options = {"axis": axis, "reverse": reverse}
    for special in SPECIAL:
        odd_f, odd_x = (np.where(sparse, dtype(special), a) for a in (f, x))
        check_forward(name, f, odd_x, **options)
        check_forward(name, odd_f, x, **options)
        check_forward(name, f, x, h0, **options)
        check_vjp(name, odd_f, x, rng=rng, state=False, **options)
        check_vjp(name, f, odd_x, h0, rng=rng, **options)
        # And gates that let nothing through, or all: 0 * inf is NaN by the definition.
        ends = np.where(rng.random(shape) < 0.1, rng.integers(0, 2, shape), f).astype(dtype)
        check_forward(name, ends, odd_x, h0, **options)
        check_forward(name, 0.5, odd_x, h0, **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reverse", [False, True])
@every_path()
def test_infinities_under_gates_that_stay_closed(rng, dtype, reverse, shape, axis):
    """A state that is kept for long is no longer kept where 0 times a value is NaN."""
    f, x = operands(rng, shape, dtype)
    steps, gates, values = shape[axis], np.moveaxis(f, axis, 0), np.moveaxis(x, axis, 0)
    for first, special in [(0, np.nan), (steps // 3, np.inf), (steps - steps // 4, -np.inf)]:
        gates[first : first + steps // 4] = 0
        values[first + steps // 7] = special
        if len(shape) == 1:
            check_long_series(f, x, 0.0, reverse=reverse, magnitude=10.0)
        else:
            check_forward("forget_mult", f, x, axis=axis, reverse=reverse)
        values[first + steps // 7] = 1


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_path(["rows", "time last", "time in the middle", "few lanes", "few lanes, time last"])
def test_lanes_do_not_touch(rng, name, dtype, shape, axis):
    """Whatever stands in one lane, every other keeps its bits."""
    gate, value = operands(rng, shape, dtype)
    recurrence, vjp = (getattr(fastrecur, n) for n in (name, name + "_vjp"))
    h0 = rng.standard_normal(lanes_of(shape, axis)).astype(dtype)
    h = recurrence(gate, value, h0, axis=axis)
    grad_h = rng.standard_normal(shape).astype(dtype)
    grads = vjp(grad_h, gate, value, h, h0, axis=axis)
    lane_axis = len(shape) - 1 if axis == 0 else 0
    for lane in [0, shape[lane_axis] // 2, shape[lane_axis] - 1]:
        here = (slice(None),) * lane_axis + (lane,)
        for odd in [*SPECIAL, 0, 1e30, -7]:
            odd_gate, odd_value, odd_h, odd_grad = (a.copy() for a in (gate, value, h, grad_h))
            odd_gate[here] = odd_value[here] = odd_h[here] = odd_grad[here] = odd
            with np.errstate(all="ignore"):
                odd_results = [
                    recurrence(odd_gate, odd_value, h0, axis=axis),
                    *vjp(odd_grad, odd_gate, odd_value, odd_h, h0, axis=axis),
                ]
            for result, usual in zip(odd_results, [h, *grads], strict=True):
                along = lane_axis if result.ndim == len(shape) else lane_axis - (axis < lane_axis)
                assert_same_bits(np.delete(result, lane, along), np.delete(usual, lane, along))


@pytest.mark.sample(dtype=[np.float64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reverse", [False, True])
def test_gates_outside_zero_and_one(rng, dtype, reverse):
    for shape, axis in [((60, 33), 0), ((33, 60), 1), ((60,), 0)]:
        f = rng.uniform(-1, 2.5, shape).astype(dtype)
        x = rng.standard_normal(shape).astype(dtype)
        check_both("forget_mult", f, x, 1.0, rng=rng, axis=axis, reverse=reverse)
        check_forward("forget_mult", 2.5, x, 1.0, axis=axis, reverse=reverse)
        check_both("linear_recurrence", f, x, 1.0, rng=rng, axis=axis, reverse=reverse)


# Lanes and steps of the paths that split time.
SPLIT = [(1, 10000), (2, 5000), (5, 10000), (1, 300000)]


def sequential(name, gate, value, h0):
    """The answer of the recurrence as it is written, by Python's own float64 numbers."""
    h = np.empty(value.shape)
    for lane in range(value.shape[1]):
        state = h0
        for t, (a, b) in enumerate(zip(gate[:, lane].tolist(), value[:, lane].tolist(), strict=True)):
            h[t, lane] = state = a * b + (1 - a) * state if name == "forget_mult" else a * state + b
    return h


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("lanes", "steps"), SPLIT)
@pytest.mark.parametrize("growth", [2.0, -3.0, 1e30])
def test_where_composing_a_chunk_overflows(rng, dtype, lanes, steps, growth):
    # The products of a chunk's factors are infinite; the state, being zero, never sees them.
    a = np.full((steps, lanes), growth, dtype)
    b = np.zeros((steps, lanes), dtype)
    late = slice(steps - steps // 3, None)
    a[late], b[late] = operands(rng, b[late].shape, dtype)
    for name, gate in [("linear_recurrence", a), ("forget_mult", (1 - a).astype(dtype))]:
        wide = sequential(name, gate, b, 0.0)
        h = getattr(fastrecur, name)(gate, b)
        assert np.isfinite(h).all()
        assert_close(h, wide, dtype, magnitude=10.0)
        time_last = getattr(fastrecur, name)(gate.T.copy(), b.T.copy(), axis=1)
        assert_close(time_last.T, wide, dtype, magnitude=10.0)
        backwards = getattr(fastrecur, name)(gate[::-1], b[::-1], reverse=True)
        assert_close(backwards[::-1], wide, dtype, magnitude=10.0)


@pytest.mark.sample(lanes=[1, 2])
@pytest.mark.parametrize(("lanes", "steps"), SPLIT)
def test_where_a_chunk_grows_out_of_range_and_back(lanes, steps):
    # Finite all along: 1e-300 grows for 1900 steps, shrinks for 1900, and so on.
    a = np.where(np.arange(steps) // 1900 % 2, 0.5, 2.0)
    a[0] = 1
    a = np.repeat(a[:, np.newaxis], lanes, 1)
    b = np.zeros_like(a)
    expected = np.ldexp(1e-300, np.cumsum(np.log2(a).astype(int), 0))
    h = fastrecur.linear_recurrence(a, b, 1e-300)
    np.testing.assert_allclose(h, expected, rtol=1e-13)
    h = fastrecur.forget_mult(1 - a, b, 1e-300)
    np.testing.assert_allclose(h, expected, rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("lanes", "steps"), SPLIT)
@pytest.mark.parametrize("special", SPECIAL)
def test_what_is_not_finite_in_a_chunk(rng, dtype, lanes, steps, special):
    # An infinite state forgotten by a gate of one is NaN by the definition, and stays.
    gate, value = operands(rng, (steps, lanes), dtype)
    for at in [0, steps // 2 - 1, steps // 2, steps - 1] if steps < 10**5 else [steps // 2]:
        odd = value.copy()
        odd[at, 0] = special
        for name in RECURRENCES:
            wide = sequential(name, gate, odd, 1.0)
            h = getattr(fastrecur, name)(gate, odd, 1.0)
            assert_close(h, wide, dtype, magnitude=10.0)
        odd_gate = gate.copy()
        odd_gate[at, 0] = special
        h = fastrecur.forget_mult(odd_gate, value, 1.0)
        assert_close(h, sequential("forget_mult", odd_gate, value, 1.0), dtype, magnitude=10.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_state_beyond_the_output(dtype):
    # Stored as infinity where the dtype ends, while a wider carry goes on and comes back.
    top = float(np.finfo(dtype).max)
    a = np.array([1, 2, 0.25, 1], dtype)
    h = fastrecur.linear_recurrence(a, np.zeros(4, dtype), dtype(top))
    if carry_of(dtype) == dtype:
        assert h.tolist() == [top, np.inf, np.inf, np.inf]
    else:
        assert h.tolist() == [top, np.inf, top / 2, top / 2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gate", [1e-7, 1e-4, 0.03])
@every_path(["few lanes, time last", "one series"])
def test_gates_that_nearly_close_on_the_way(rng, dtype, gate, shape, axis):
    """What a block of steps weighs together is not 1 less a product of hundreds of rounded decays."""
    f, x = operands(rng, shape, dtype)
    f[..., 1150:] = gate
    check_forward("forget_mult", f, 100 * x, axis=axis)
    check_forward("forget_mult", f, 100 * x + 50, axis=axis)


@pytest.mark.sample(name=["forget_mult"], dtype=[np.float32])
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_path()
def test_same_bits_for_any_number_of_threads(rng, set_threads, name, dtype, shape, axis):
    if math.prod(shape) > 10**5 and dtype == np.float64:
        pytest.skip("one dtype of the large shapes will do")
    gate, value = operands(rng, shape, dtype)
    grad_h = rng.standard_normal(shape).astype(dtype)
    h0 = rng.standard_normal(lanes_of(shape, axis)).astype(dtype)
    recurrence, vjp = (getattr(fastrecur, n) for n in (name, name + "_vjp"))
    results = []
    for threads in [1, 2, 2, 1]:
        set_threads(threads)
        h = recurrence(gate, value, h0, axis=axis)
        constant = recurrence(0.25, value, axis=axis, reverse=True)
        grads = vjp(grad_h, gate, value, h, h0, axis=axis)
        # Sums over what was broadcast, too, are taken in one order.
        sums = vjp(grad_h, 0.25, value, constant, 0.5, axis=axis, reverse=True)
        results.append([h, constant, *grads, *sums])
    for other in results[1:]:
        for result, first in zip(other, results[0], strict=True):
            assert_same_bits(result, first)


@pytest.mark.sample(dtype=[np.float32], lanes=[()])
@pytest.mark.parametrize(
    ("dtype", "lanes"), [(np.float16, (3,)), (np.float32, ()), (np.float64, ()), (np.float64, (3,))]
)
@pytest.mark.parametrize(
    ("gates", "special", "are_predicted", "are_right"),
    [
        ("open", None, True, True),
        ("open", np.nan, True, False),
        ("open", np.inf, True, False),
        ("hard", None, True, True),
        ("nearly closed", None, False, None),
        ("closed or nearly", None, False, None),
        ("closed for long", None, False, None),
        ("closed for long", np.inf, False, None),
        ("too wide", None, False, None),
    ],
)
def test_where_threads_start(
    rng, monkeypatch, set_threads, forget_plans, dtype, lanes, gates, special, are_predicted, are_right
):  # fmt: skip
    """Threads that share one series start from predicted carries, if these are right to the bit."""
    monkeypatch.setattr(cost, "SERIAL_BYTES", 0)
    shape = (20000, *lanes)
    f, x = map(np.asfortranarray, operands(rng, shape, dtype))  # each lane's time is contiguous
    if gates == "hard":
        f = np.where(rng.random(shape) < 0.3, rng.integers(0, 2, shape), f).astype(dtype, order="F")
        for first in 512 * np.array([13, 19, 26]):  # where two threads meet, or three
            f[first : first + 3] = 0
    elif gates == "nearly closed":
        f *= dtype(1e-4)
    elif gates == "closed or nearly":  # each block follows another all the same
        f = np.where(rng.random(shape) < 0.3, 0, f * 1e-6).astype(dtype, order="F")
    elif gates == "closed for long":
        f[1000:19500] = 0
    elif gates == "too wide":
        f[1000:19500:50] = 2.5
    if special is not None:
        x[10] = x[-10] = special
    grad_h = x[::-1].copy(order="F")
    predicted, right = [], []

    def note(seen, function):
        def noting(*arguments):
            seen.append(function(*arguments))
            return seen[-1]

        return noting

    driver = time_chunks.ScanChunks
    monkeypatch.setattr(driver, "_scan_chunks", note(predicted, driver._scan_chunks))
    monkeypatch.setattr(time_chunks, "are_same", note(right, time_chunks.are_same))
    forget_plans()
    results = []
    for threads in [1, 2, 3]:
        set_threads(threads)
        with np.errstate(all="ignore"):
            h, last = fastrecur.forget_mult(f, x, 0.5, return_state=True)
            results.append([h, last, *fastrecur.forget_mult_vjp(grad_h, f, x, h, 0.5)])
            results[-1] += fastrecur.forget_mult_vjp(grad_h, 0.5, x, h, 0.5)
        if threads == 1:
            assert not predicted
        elif threads == 2:
            assert predicted == [are_predicted, are_predicted, True]
            assert are_right is None or right[0] is right[1] is are_right
        else:  # where carries were not predicted, that is not tried again so soon
            assert predicted[3:] == [True] * (3 if are_predicted else 1)
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            assert_same_bits(other, one)
    check_both("forget_mult", f, x, 0.5, rng=rng)


@pytest.mark.exhaustive
@pytest.mark.parametrize("f", [0.1, 1e-2, 1e-3, 1e-4])
def test_float64_carries_the_roundings_of_the_steps_it_remembers(rng, f):
    """Of all paths: twice the square root of how many these are, and 16, units in the last place."""
    steps = 10**5
    x = rng.random((steps, 16))  # all of one sign: nothing is lost
    gate = np.longdouble(f)
    exact, state = np.empty(x.shape, np.longdouble), np.zeros(16, np.longdouble)
    for t in range(steps):
        exact[t] = state = state + gate * (x[t] - state)
    bound = (16 + 2 * f**-0.5) * np.spacing(exact.astype(np.float64))
    paths = [fastrecur.forget_mult(f, x), fastrecur.forget_mult(f, x.T.copy(), axis=1).T]
    paths += [fastrecur.forget_mult(f, x[:, :n].copy()) for n in (1, 3)]
    chunks, state = [], None
    for chunk in np.split(x, 100):
        h, state = fastrecur.forget_mult(f, chunk, state, return_state=True)
        chunks.append(h)
    for h in [*paths, np.concatenate(chunks)]:
        lanes = slice(h.shape[1])
        assert (np.abs(h - exact[:, lanes]) <= bound[:, lanes]).all()


@pytest.mark.exhaustive
@pytest.mark.parametrize("largest", [np.finfo(np.float64).max, np.finfo(np.float64).max / 2])
def test_an_average_of_the_largest_numbers_is_one_of_them(rng, largest):
    """On the path that composes steps too, whose states in between are rounded otherwise."""
    for _ in range(20):
        x = rng.choice([largest, -largest], 2048)
        f = rng.choice([1, 0.5, 0.3, 0.1, 0.01, 0.999, 0.7], 2048)
        alone = fastrecur.forget_mult(f, x)
        among = fastrecur.forget_mult(f[:, np.newaxis], np.stack([x] * 16, 1))
        assert np.isfinite(alone).all()
        assert np.isfinite(among).all()
        np.testing.assert_allclose(alone, among[:, 0], rtol=0, atol=16 * np.spacing(largest / 2))


def test_an_infinity_within_a_segment_stays():
    # The composed state would be finite again: 1e308 * 4 * 1e-3.
    a, b = np.ones(2100), np.zeros(2100)
    a[[10, 20]] = 4, 1e-3
    h = fastrecur.linear_recurrence(a, b, 1e308)
    assert np.isinf(h[10:]).all()
    _, grad_b, _ = fastrecur.linear_recurrence_vjp(b, a[::-1].copy(), b, b, 0.0, grad_state=1e308)
    assert np.isinf(grad_b[:-12]).all()

"""The GPU's kernels: their real PTX, run on the CPU, against the reference."""

import itertools
import sys

import devices
import hypothesis
import layouts
import ml_dtypes
import numpy as np
import ptx_emulator
import pytest
from compare import assert_same_bits, check_both, check_forward, check_vjp
from hypothesis import strategies
from test_forward import BROADCAST, RECURRENCES, operands

import fastrecur
from fastrecur import reference
from fastrecur._cuda import launch as _launch, plan as _plan, run as _run

WAYS = [(0, False), (0, True), (1, False), (1, True)]  # the axis, and whether time is cut into tiles
FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


def longer(axis, is_cut):
    """How many times as long time must be for several tiles: where it is contiguous, all threads of a tile share it."""
    return 5 if axis and is_cut else 1


def launched(driver):
    return [entry[1] for entry in driver.log if entry[0] == "launch"]


@pytest.mark.sample(dtype=[np.float32], reverse=[True])
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reverse", [False, True])
def test_lanes(gpu, cut, rng, name, dtype, reverse):
    cut(False)
    for shape in [(1, 40), (15, 33), (16, 32), (17, 150), (33, 65), (40, 2, 37)]:
        h0 = rng.standard_normal(shape[1:]).astype(dtype)
        gate, value = operands(rng, shape, dtype)
        check_forward(name, gate, value, h0, reverse=reverse)
        assert set(launched(gpu)) == {"lanes"}
        gpu.forget()
        check_vjp(name, gate, value, h0, rng=rng, reverse=reverse)
        assert set(launched(gpu)) == {"lanes_vjp"}
        gpu.forget()


@pytest.mark.sample(dtype=[np.float32], reverse=[False])
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reverse", [False, True])
def test_contiguous_time(gpu, cut, rng, name, dtype, reverse):
    cut(False)
    for shape in [(1, 2), (3, 7), (9, 8), (5, 16), (40, 33), (2, 130), (3, 511), (1, 1031)]:
        h0 = rng.standard_normal(shape[0]).astype(dtype)
        gate, value = operands(rng, shape, dtype)
        check_forward(name, gate, value, h0, axis=1, reverse=reverse)
        assert set(launched(gpu)) == {"series"}
        gpu.forget()
        check_vjp(name, gate, value, h0, rng=rng, axis=1, reverse=reverse)
        assert set(launched(gpu)) == {"series_vjp"}
        gpu.forget()


SHARES = [0, 0.001, 0.1]  # of flags


@pytest.mark.exhaustive
@pytest.mark.parametrize("axis", [0, 1])
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(data=strategies.data())
def test_wherever_time_is_cut_the_bits_are_the_same(gpu, cut, axis, data):
    """For numbers of which nothing is rounded: whole ones, that are kept, replaced or turned round."""
    name = data.draw(strategies.sampled_from(RECURRENCES))
    steps = data.draw(strategies.integers(*[(130, 600), (4097, 9000)][axis]))
    lanes, reverse = data.draw(strategies.integers(*[(32, 70), (1, 3)][axis])), data.draw(strategies.booleans())
    rng, share = (
        np.random.default_rng(data.draw(strategies.integers(0, 1000))),
        data.draw(strategies.sampled_from(SHARES)),
    )
    gates = [0, 0, 0, 1] if name == "forget_mult" else [-1, 1, 1, 1, 0]
    gate = rng.choice(gates, (steps, lanes)).astype(np.float32)
    value, h0 = rng.integers(-2, 3, (steps, lanes)).astype(np.float32), rng.integers(-2, 3, lanes).astype(np.float32)
    results, options = [], {"axis": axis, "reverse": reverse}
    if share:
        options["resets"] = turned(axis, rng.random((steps, data.draw(strategies.sampled_from([1, lanes])))) < share)[0]
    for is_cut in (False, True):
        cut(is_cut)
        results.append(both(name, *turned(axis, gate, value), h0, **options))
        assert ("scan" in launched(gpu)) == is_cut
        gpu.forget()
    for got, right in zip(*results, strict=True):
        assert_same_bits(got, right)


# ---- The single-pass scan -------------------------------------------------------------------------------------------

SCANNED = [(name, dtype) for name in RECURRENCES for dtype in (np.float32, np.float64)]
SCANNED += list(zip(RECURRENCES, FLOATS[2:], strict=True))


@pytest.mark.exhaustive
@pytest.mark.sample(dtype=[np.float32], name=["forget_mult"], reverse=[False])
@pytest.mark.parametrize(("name", "dtype"), SCANNED)
@pytest.mark.parametrize("reverse", [False, True])
def test_tiles_of_contiguous_time(gpu, cut, rng, name, dtype, reverse):
    """Less than two tiles, one step more, and some."""
    cut(True)
    for shape in [(3, 4100), (2, 8191), (1, 8193), (2, 17000)]:
        h0 = rng.standard_normal(shape[0]).astype(dtype)
        gate, value = operands(rng, shape, dtype)
        check_forward(name, gate, value, h0, axis=1, reverse=reverse)
        assert set(launched(gpu)) == {"clear", "scan", "series"}
        gpu.forget()
        check_vjp(name, gate, value, h0, rng=rng, axis=1, reverse=reverse)
        assert set(launched(gpu)) == {"clear", "scan_vjp", "series_vjp"}
        gpu.forget()


@pytest.mark.exhaustive
@pytest.mark.sample(dtype=[np.float32], name=["forget_mult"], reverse=[False])
@pytest.mark.parametrize(("name", "dtype"), SCANNED)
@pytest.mark.parametrize("reverse", [False, True])
def test_tiles_of_lanes(gpu, cut, rng, name, dtype, reverse):
    """Series and steps of one tile and a bit, of many, and of less than a warp."""
    cut(True)
    for shape in [(129, 40), (1000, 33), (1700, 33), (300, 20, 3)]:
        h0 = rng.standard_normal(shape[1:]).astype(dtype)
        gate, value = operands(rng, shape, dtype)
        check_forward(name, gate, value, h0, reverse=reverse)
        assert set(launched(gpu)) == {"clear", "scan", "series"}
        gpu.forget()
        check_vjp(name, gate, value, h0, rng=rng, reverse=reverse)
        assert set(launched(gpu)) == {"clear", "scan_vjp", "series_vjp"}
        gpu.forget()


def turned(axis, *arrays):
    """Arrays of (time, lanes) with time along an axis, contiguous."""
    return [array if axis == 0 else array.T.copy() for array in arrays]


def back(axis, array):
    """An array with time along an axis as (time, lanes)."""
    return array if axis == 0 else array.T


def both(name, gate, value, h0, **options):
    """The bits of a call and its gradient."""
    h, last = getattr(fastrecur, name)(gate, value, h0, return_state=True, **options)
    grads = getattr(fastrecur, name + "_vjp")(value, gate, value, h, h0, **options)
    return [h, last, *grads]


@pytest.mark.exhaustive
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("dtype", "share"), [(np.float32, 0), (np.float64, 0), (np.float32, 0.001)])
@pytest.mark.parametrize(("name", "reverse"), [(RECURRENCES[0], False), (RECURRENCES[1], True)])
def test_whichever_tile_comes_first_the_bits_are_the_same(
    gpu, cut, monkeypatch, rng, name, reverse, dtype, axis, share
):
    """Those of one tile after another, each of which finds all that it looks for; of states that last, too."""
    steps, lanes = (35 * 128, 40) if axis == 0 else (35 * 2048, 2)
    gate, value = operands(rng, (steps, lanes), dtype)
    gate[:, lanes // 2 :] *= dtype(0.01)
    gate[::1000] = gate[100:200] = 0
    if name == "linear_recurrence":
        gate[:, lanes // 2 :] = 1 - gate[:, lanes // 2 :]
    h0 = rng.standard_normal(lanes).astype(dtype)
    gate, value = turned(axis, gate, value)
    options = {"axis": axis, "reverse": reverse}
    if share:
        options["resets"] = rng.random(gate.shape) < share
    cut(True)
    wanted = None
    for resident in [1, 5, 40]:
        monkeypatch.setattr(ptx_emulator, "RESIDENT", resident)
        gpu.seed += 1
        got = both(name, gate, value, h0, **options)
        assert {"scan", "scan_vjp"} <= set(launched(gpu))
        gpu.forget()
        wanted = wanted or got
        for one, right in zip(got, wanted, strict=True):
            assert_same_bits(one, right)


@pytest.mark.exhaustive
@pytest.mark.parametrize("axis", [0, 1])
def test_sums_over_time_in_tiles(gpu, cut, rng, axis):
    cut(True)
    x = rng.standard_normal((3, 4500) if axis else (300, 40)).astype(np.float32)
    gate = rng.random((3, 1) if axis else (1, 40)).astype(np.float32)
    check_vjp("forget_mult", gate, x, rng=rng, axis=axis)
    check_vjp("linear_recurrence", x * np.float32(0.3), gate, rng=rng, axis=axis, reverse=True)
    assert "scan_vjp" in launched(gpu)


@pytest.mark.exhaustive
@pytest.mark.parametrize("axis", [0, 1])
def test_tiles_are_read_once(gpu, cut, rng, axis):
    """One after another, so that what is looked for is there; and the fix-up pass reads flags only."""
    gpu.seed = 0
    cut(True)
    f, x = operands(rng, (4096, 64) if axis == 0 else (4, 1 << 16), np.float32)
    lanes = x.shape[1 - axis]
    h = fastrecur.forget_mult(f, x, axis=axis)
    moved = gpu.counts["scan", "loaded"] + gpu.counts["scan", "stored"]
    assert 12 * f.size <= moved <= 1.2 * 12 * f.size  # and status words, of which a tile looks at those of some tiles
    plain = [sum(gpu.counts.get((kernel, way), 0) for way in ("loaded", "stored")) for kernel in ("clear", "series")]
    assert sum(plain) <= 0.04 * 12 * f.size
    gpu.forget()
    fastrecur.forget_mult_vjp(x, f, x, h, axis=axis)
    moved = gpu.counts["scan_vjp", "loaded"] + gpu.counts["scan_vjp", "stored"]
    assert 24 * f.size <= moved + 4 * lanes <= 1.2 * 24 * f.size


@pytest.mark.exhaustive
def test_only_a_dirty_series_is_scanned_once_more(gpu, cut, rng):
    """Closed gates, NaN and infinities need no second scan; an overflow that is none, step after step, does."""
    cut(True)
    f, x = operands(rng, (500, 40), np.float32)
    f[100:400, 3], f[128, 4], x[200, 5], gpu.seed = 0, 0, np.nan, 0
    flags = 8 * 40 * 32  # each thread of a warp looks at the one of its series
    executed = []
    for late in (1, np.inf):
        gpu.forget()
        x[[3, 140], [8, 9]], f[300:, 8:10] = late, 0.5
        h = fastrecur.forget_mult(f, x)
        assert gpu.counts["series", "loaded"] == flags
        fastrecur.forget_mult_vjp(x, f, np.ones_like(x), np.zeros_like(x), reverse=True)
        assert gpu.counts["series_vjp", "loaded"] == flags
        executed.append(gpu.executed["scan"] + gpu.executed["scan_vjp"])
    assert executed[1] < 1.1 * executed[0]
    assert np.all(h[140:, 8:10] == np.inf)
    gpu.forget()
    f[250:262, 7], x[249:262, 7], f[249, 7] = 1e25, 0, 1
    fastrecur.forget_mult(f, x)
    assert gpu.counts["series", "loaded"] == flags + 8 * 500
    assert gpu.counts["series", "stored"] == 4 * 500


class LastBlock(devices.Driver):
    """A driver that runs a launch's last block alone."""

    def run(self, kernel, grid, threads, arguments, memory):
        special = ptx_emulator.SPECIAL
        special["%ctaid.x"] = f"({special['%ctaid.x']}+{grid[0] - 1}u)"
        try:
            run = ptx_emulator.PTXKernel(devices.ptx(kernel))
        finally:
            special["%ctaid.x"] = "B->at[0]"
        run.launch((1, *grid[1:]), threads, arguments, buffers=memory, seed=self.seed, race=self.race)
        return run


@pytest.mark.exhaustive
@pytest.mark.parametrize("back", [False, True])
def test_more_threads_than_32_bits_can_number(monkeypatch, rng, back):
    """As 2**27 lanes have, each of which a warp walks: here the last four, in memory that holds no others."""
    driver = LastBlock()
    monkeypatch.setattr(_launch, "driver", lambda: driver)
    lanes, steps = (1 << 27) + 4, 257
    x = rng.standard_normal((4, steps)).astype(np.float32)
    before = (lanes - 4) * x.strides[0]
    full = x.dtype, (lanes, steps), x.strides
    if back:
        h = fastrecur.forget_mult(0.25, x, axis=1)
        names = ("grad_h", "f", "x", "h")
        plan = _plan.vjp("forget", names, (full, None, full, full, None, None), 1, False, None)
        places = {"g": x, "b": x, "h": h, "to_b": devices.poisoned(x.shape, x.dtype)}
        wanted = fastrecur.forget_mult_vjp(x, 0.25, x, h, axis=1)[1]
    else:
        plan = _plan.forward("forget", ("f", "x", "h0"), None, full, None, None, 1, False, None)
        places = {"b": x, "h": devices.poisoned(x.shape, x.dtype)}
        wanted = fastrecur.forget_mult(0.25, x, axis=1)
    (launch,) = plan.launches
    assert launch.kernel == ("series_vjp" if back else "series")
    assert launch.grid[0] * launch.threads > 1 << 32
    got = places["to_b" if back else "h"]
    addresses = {name: driver.own(a).__array_interface__["data"][0] - before for name, a in places.items()}
    plan.finish, plan.scratch = (), {}  # one gate's gradient is not looked at
    total = driver.own(devices.poisoned(4, np.float32)).ctypes.data - (lanes - 4) * 4
    places = {"a": 0.25, "to_a": total, **addresses}
    _run.program(plan).run([places.get(name, 0) for name in plan.names], None, 0, 0)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("case", BROADCAST)
def test_broadcasting(gpu, rng, name, case):
    gate_shape, value_shape = BROADCAST[case]
    shape = np.broadcast_shapes(gate_shape, value_shape)
    gate = rng.random(gate_shape).astype(np.float32)
    value = rng.standard_normal(value_shape).astype(np.float32)
    gate, value = (a if a.ndim else float(a) for a in (gate, value))
    for axis, reverse in itertools.product(range(len(shape)), [False, True]):
        lanes = [n for i, n in enumerate(shape) if i != axis]
        for h0_shape in [None, tuple(lanes), tuple(lanes[1:])]:
            h0 = None if h0_shape is None else rng.standard_normal(h0_shape).astype(np.float32)
            check_both(name, gate, value, h0, rng=rng, axis=axis, reverse=reverse, state=not axis)
            gpu.forget()


@pytest.mark.sample(axis=[0], is_cut=[False])
@pytest.mark.parametrize(("axis", "is_cut"), WAYS)
def test_sums_over_time_and_lanes(gpu, cut, rng, axis, is_cut):
    cut(is_cut)
    for gate_shape in [(), (1, 1), (1, 40), (40, 1), (700, 1), (1, 700)]:
        shape = (700, 40) if axis == 0 else (40, 700 if not is_cut else 5000)
        gate_shape = tuple(shape[1] if n == 700 and axis else n for n in gate_shape)
        if any(n not in (1, m) for n, m in zip(gate_shape, shape, strict=False)):
            continue
        gate = rng.random(gate_shape).astype(np.float32)
        gate = gate if gate.ndim else float(gate)
        value = rng.standard_normal(shape).astype(np.float32)
        check_vjp("forget_mult", gate, value, rng=rng, axis=axis)
        check_vjp("linear_recurrence", value * np.float32(0.3), gate, rng=rng, axis=axis, reverse=True)
        gpu.forget()


@pytest.mark.exhaustive
def test_sums_keep_what_rounding_leaves_over(gpu, cut):
    """Ten thousand equal numbers, one after another, are off by thousands of roundings if it is dropped."""
    cut(False)
    for shape, axis in [((10000, 40), 0), ((3, 100000), 1)]:
        g = np.full(shape, 0.1, np.float32)
        _, grad_b, _ = fastrecur.linear_recurrence_vjp(g, np.zeros(shape, np.float32), 1.0, g, axis=axis)
        np.testing.assert_allclose(grad_b, np.float64(np.float32(0.1)) * g.size, rtol=2e-7)


@pytest.mark.exhaustive
def test_rows_that_start_anywhere(gpu, rng):
    """Rows that start at no multiple of 16 bytes, in each operand at another one."""
    f, x = (a[:, k : k + 1000] for k, a in enumerate(operands(rng, (4, 1003), np.float32), 1))
    for reverse in [False, True]:
        check_both("forget_mult", f, x, rng=rng, axis=1, reverse=reverse, state=False)


@pytest.mark.exhaustive
def test_sums_in_slices(gpu, rng):
    x = rng.standard_normal((33, 3000)).astype(np.float32)
    check_vjp("forget_mult", rng.random((33, 1)).astype(np.float32), x, rng=rng, state=False)
    assert launched(gpu).count("sums") == 1
    gpu.forget()
    check_vjp("forget_mult", rng.random((33, 1, 1)).astype(np.float32), x.reshape(33, 2, 1500), rng=rng, state=False)
    check_vjp("forget_mult", 0.25, rng.standard_normal((3, 70000)).astype(np.float32), rng=rng, state=False)
    assert launched(gpu).count("sums") == 3


@pytest.mark.sample(name=["forget_mult"], is_cut=[False])
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("axis", "is_cut"), WAYS)
def test_lengths(gpu, cut, rng, name, axis, reverse, is_cut):
    cut(is_cut)
    lanes, steps = 40, (300 if is_cut else 70) if axis == 0 else (5000 if is_cut else 600)
    shape = (steps, lanes) if axis == 0 else (lanes, steps)
    lengths = rng.integers(0, steps + 1, lanes)
    lengths[:8] = 0, steps, 1, 16, min(steps, 128), min(steps, 129), min(steps, 4096), min(steps, 4097)
    gate, value = operands(rng, shape, np.float32)
    inside = np.arange(steps) < lengths[:, np.newaxis]
    for array in (gate, value):
        array[~(inside.T if axis == 0 else inside)] = np.nan
    h0 = rng.standard_normal(lanes).astype(np.float32)
    for given in [lengths, lengths.astype(np.int32)][: 1 + (not is_cut and name == RECURRENCES[axis])]:
        check_both(name, gate, value, h0, rng=rng, axis=axis, reverse=reverse, lengths=given)


@pytest.mark.exhaustive
@pytest.mark.parametrize("layout", layouts.WRITEABLE)
def test_layouts(gpu, rng, layout):
    for name, shape in itertools.product(RECURRENCES, [(5, 6, 7), (3, 2, 40)]):
        gate, value = (layout(a) for a in operands(rng, shape, np.float32))
        for axis, reverse in itertools.product(range(3), [False, True]):
            check_forward(name, gate, value, axis=axis, reverse=reverse)
            check_vjp(name, gate, value, rng=rng, arrange=layout, axis=axis, reverse=reverse, state=False)
            gpu.forget()


@pytest.mark.exhaustive
def test_many_axes(gpu, rng):
    gate, value = (a[:, ::2, ::2, ::2, ::2] for a in operands(rng, (6, 6, 4, 4, 4), np.float32))
    for axis in range(5):
        check_both("forget_mult", gate, value, rng=rng, axis=axis, state=False)
        check_vjp("forget_mult", 0.5, value, rng=rng, axis=axis, state=False)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex(gpu, rng, dtype):
    shape = (20, 33)
    a, b = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape) for _ in range(2))
    a = (a / np.abs(a).max()).astype(dtype)
    b = b.astype(dtype)
    for axis in [0, 1]:
        check_both("linear_recurrence", a, b, 1.0, rng=rng, axis=axis)
        check_vjp("linear_recurrence", 0.5j, b, rng=rng, axis=axis, state=False)


@pytest.mark.exhaustive
def test_mixed_dtypes_and_integers(gpu, rng):
    gate, value = operands(rng, (20, 40), np.float16)
    check_forward("forget_mult", gate, value.astype(np.float32))
    for kind in [np.int16, np.uint8, bool]:
        check_forward("linear_recurrence", np.float32(0.5) * gate, rng.integers(0, 2, (20, 40)).astype(kind))
    check_forward("linear_recurrence", np.float32(0.5) * gate, rng.integers(-3, 3, (20, 40)).astype(np.int16))
    check_forward("forget_mult", gate.T.copy(), value.T.astype(np.float64), axis=1)
    check_vjp("forget_mult", gate.T.copy(), value.T.astype(np.float32), rng=rng, axis=1)
    check_vjp("forget_mult", gate.T.copy(), value.T.astype(np.float64), rng=rng, axis=1)
    check_vjp("linear_recurrence", gate.T.copy(), value.T.astype(np.float64), rng=rng, axis=1)
    check_forward("linear_recurrence", gate, value.astype(np.complex64), axis=1)


@pytest.mark.sample(dtype=[np.float32], is_cut=[False])
@pytest.mark.parametrize(("axis", "is_cut"), WAYS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_exact_ends(gpu, cut, rng, axis, is_cut, dtype):
    """Gates of 1 give x and gates of 0 keep the state, bit for bit; a constant series stays constant."""
    cut(is_cut)
    n = longer(axis, is_cut)
    steps, lanes = 1100 * n, 40
    x = rng.standard_normal((steps, lanes)).astype(dtype)
    f = rng.choice([0.0, 0.0, 0.0, 1.0, 0.25], (steps, lanes)).astype(dtype)
    f[:, 1], f[100 * n : 900 * n, 2], f[:, 3] = 0, 0, 1
    h0 = rng.standard_normal(lanes).astype(dtype)
    h = back(axis, fastrecur.forget_mult(*turned(axis, f, x), h0, axis=axis))
    before = np.concatenate([h0[np.newaxis], h[:-1]])
    assert_same_bits(h[f == 1], x[f == 1])
    if is_cut:  # in a thread to the bit; across threads within a few ulp at the magnitudes involved
        involved = reference.forget_mult(f.astype(np.float64), abs(x.astype(np.float64)), abs(h0.astype(np.float64)))
        ulp = np.spacing(involved.astype(dtype)).astype(np.float64)
        off = abs(h.astype(np.float64) - before.astype(np.float64))[f == 0]
        assert np.max(off / ulp[f == 0]) <= 4
        assert np.mean(off == 0) > 0.95
    else:
        assert_same_bits(h[f == 0], before[f == 0])
    constant = np.full((steps, lanes), rng.standard_normal(lanes).astype(dtype))
    gates = rng.random((steps, lanes)).astype(dtype)
    h, last = fastrecur.forget_mult(*turned(axis, gates, constant), constant[0].copy(), axis=axis, return_state=True)
    assert_same_bits(np.asarray(back(axis, h)), constant)
    assert_same_bits(last, constant[0])


@pytest.mark.exhaustive
@pytest.mark.parametrize(("axis", "is_cut"), WAYS)
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_not_finite(gpu, cut, rng, name, axis, is_cut):
    """Overflow, infinities and NaN come out as one step after another gives them, and stay in their lanes."""
    cut(is_cut)
    n = longer(axis, is_cut)
    steps, lanes = 1100 * n, 40
    f, x = (rng.random((steps, lanes)).astype(np.float32) for _ in range(2))
    f[:, 0] = 1e30 if name == "linear_recurrence" else -1e30
    f[200 * n : 210 * n, 1], f[215 * n, 1] = 1e30, 1
    x[300 * n, 2], x[400 * n, 3], f[500 * n, 4] = np.nan, np.inf, np.inf
    f[600 * n : 640 * n, 5] = 3e38
    # From a state of zero this stays zero, though the product of what it is multiplied by overflows.
    for series, t in zip(range(6, 10), [699, 695, 1000, 4090], strict=True):
        t = min(t, steps - 20)
        f[t, series], x[t : t + 11, series] = name == "forget_mult", 0
        f[t + 1 : t + 11, series] = 1e25
    arranged = turned(axis, f, x)
    h = getattr(fastrecur, name)(*arranged, axis=axis)
    assert_alike(back(axis, h), sequential(name, f, x))


def sequential(name, f, x):
    """float32 states, one step after another."""
    h, out = np.zeros(f.shape[1], np.float32), []
    for gate, value in zip(f, x, strict=True):
        one = np.float32(1)
        h = gate * value + (one - gate) * h if name == "forget_mult" else gate * h + value
        out.append(h)
    return np.array(out, np.float32)


def backwards(name, g, f, x, h):
    """float32 gradients, one step before another, from states of any kind."""
    one, r = np.float32(1), np.zeros(g.shape[1], np.float32)
    to_f, to_x = np.zeros_like(g), np.zeros_like(g)
    for t in reversed(range(len(g))):
        arrived, before = g[t] + r, h[t - 1] if t else np.zeros_like(r)
        if name == "forget_mult":
            to_f[t], to_x[t], r = arrived * (x[t] - before), f[t] * arrived, (one - f[t]) * arrived
        else:
            to_f[t], to_x[t], r = arrived * before, arrived, f[t] * arrived
    return to_f, to_x


def assert_alike(got, right):
    """What is not finite is to the bit, and nothing else is not finite."""
    finite = np.isfinite(right)
    assert_same_bits(got[~finite], right[~finite])
    assert np.isfinite(got[finite]).all()


@pytest.mark.exhaustive
@pytest.mark.parametrize(("axis", "is_cut"), WAYS)
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_gradients_that_are_not_finite(gpu, cut, rng, name, axis, is_cut):
    cut(is_cut)
    n = longer(axis, is_cut)
    steps, lanes = 1100 * n, 40
    g, f, x, h = (rng.random((steps, lanes)).astype(np.float32) for _ in range(4))
    g[300 * n, 0], g[1000 * n, 1], f[500 * n, 2], h[700 * n, 3], g[40, 4] = np.inf, np.nan, np.inf, np.nan, -np.inf
    # A cotangent of 0 stays 0, though the product of what it is multiplied by overflows.
    g[400:, 5:8] = 0
    f[440:460, 5], f[505:520, 6], f[2040 % steps : 2060 % steps, 7] = 1e25, 1e25, 1e25
    arranged = turned(axis, g, f, x, h)
    got = getattr(fastrecur, name + "_vjp")(*arranged, axis=axis)[:2]
    for grad, right in zip(got, backwards(name, g, f, x, h), strict=True):
        assert_alike(back(axis, grad), right)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("axis", "is_cut"), WAYS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_sums_over_time_that_are_not_finite(gpu, cut, rng, axis, is_cut):
    cut(is_cut)
    n = longer(axis, is_cut)
    steps, lanes = 1100 * n, 40
    g, a, h = (rng.random((steps, lanes)).astype(np.float32) for _ in range(3))
    g[300 * n, 0], g[1000 * n, 1], a[500 * n, 2] = np.inf, np.nan, np.inf
    g[400:, 5:8] = 0
    a[440:460, 5], a[505:520, 6], a[2040 % steps : 2060 % steps, 7] = 1e25, 1e25, 1e25
    b = rng.random((1, lanes)).astype(np.float32)
    arranged = turned(axis, g, a, b, h)
    got = fastrecur.linear_recurrence_vjp(*arranged, axis=axis)[1].ravel()
    right = backwards("linear_recurrence", g, a, np.broadcast_to(b, g.shape), h)[1].sum(0)
    assert_alike(got, right)
    finite = np.isfinite(right)
    np.testing.assert_allclose(got[finite], right[finite], rtol=1e-4)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("axis", "is_cut"), WAYS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_state_that_overflows_though_the_product_does_not(gpu, cut, rng, axis, is_cut):
    cut(is_cut)
    name = "linear_recurrence"
    a, b = (rng.random((1100 * longer(axis, is_cut), 40)).astype(np.float32) for _ in range(2))
    middle = 4096 if axis and is_cut else 512
    for lane, t in enumerate(range(middle - 17, middle + 23)):  # wherever a thread's steps, or a tile, begin
        b[t, lane], a[t + 1, lane], a[t + 2, lane] = 1e10, 1e30, 1e-30
    h = fastrecur.linear_recurrence(*turned(axis, a, b), axis=axis)
    assert_alike(back(axis, h), sequential(name, a, b))
    g, a = b[::-1].copy(), a[::-1].copy()
    got = fastrecur.linear_recurrence_vjp(*turned(axis, g, a, b, b), axis=axis)[:2]
    for grad, right in zip(got, backwards(name, g, a, b, b), strict=True):
        assert_alike(back(axis, grad), right)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("axis", "is_cut"), WAYS)
@pytest.mark.parametrize("gate", [0, 1, 0.3])
def test_the_last_state_is_the_last_result(gpu, cut, rng, axis, is_cut, gate):
    """Also where a lane ends within a tile, or a chunk."""
    cut(is_cut)
    for steps in [1040 * longer(axis, is_cut), 1100 * longer(axis, is_cut)]:
        f, x = operands(rng, (steps, 40), np.float32)
        f[-1] = gate
        arranged = turned(axis, f, x)
        h, last = fastrecur.forget_mult(*arranged, axis=axis, return_state=True)
        assert_same_bits(last, np.ascontiguousarray(h[-1] if axis == 0 else h[:, -1]))


@pytest.mark.exhaustive
def test_each_thread_of_a_tile_hands_on_what_rounding_leaves_over(gpu, cut):
    cut(True)
    g = np.ones((640, 40), np.float32)
    g[::8], g[7::8] = 1 << 26, -(1 << 26)
    g[3::64], g[58::64] = 1 << 26, -(1 << 26)  # of these the last of a tile's rows makes up for the first
    zeros, ones = np.zeros(g.shape, np.float32), np.ones((1, 40), np.float32)
    _, grad_b, _ = fastrecur.linear_recurrence_vjp(g, zeros, ones, g)
    assert "scan_vjp" in launched(gpu)
    np.testing.assert_array_equal(grad_b, g.astype(np.float64).sum(0)[np.newaxis])


@pytest.mark.exhaustive
def test_in_place(gpu, cut, rng):
    for axis, is_cut in WAYS:
        cut(is_cut)
        f, x = operands(rng, (1100, 40) if axis == 0 else (40, 5500), np.float32)
        expected = fastrecur.forget_mult(f, x, axis=axis)
        for target in (f, x):
            copies = {"f": f.copy(), "x": x.copy()}
            out = copies["f" if target is f else "x"]
            cupy = sys.modules["cupy"]
            placed = {k: cupy.place(v) for k, v in copies.items()}
            result = PLAIN(*placed.values(), axis=axis, out=placed["f" if target is f else "x"])
            assert result.host is out
            assert_same_bits(out, expected)


@pytest.mark.exhaustive
@pytest.mark.parametrize("is_cut", [False, True])
def test_a_first_state_in_the_place_of_results(gpu, cut, rng, is_cut):
    """It is read before anything is written there."""
    cut(is_cut)
    f, x = operands(rng, (40, 5500), np.float32)
    out = x.copy()
    expected = fastrecur.forget_mult(f, x, x[:, 7].copy(), axis=1)
    place = sys.modules["cupy"].place
    PLAIN(place(f), place(x), place(out[:, 7]), axis=1, out=place(out))
    assert_same_bits(out, expected)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("axis", "is_cut"), WAYS)
def test_infinities_under_gates_that_stay_closed(gpu, cut, rng, axis, is_cut):
    """A state that is kept for long is no longer kept where 0 times a value is NaN."""
    cut(is_cut)
    n = longer(axis, is_cut)
    f, x = operands(rng, (1100 * n, 4), np.float32)
    f[200 : 900 * n] = f[:20] = 0
    x[[3, 250, 600 * n, 900 * n - 1], range(4)] = np.nan, np.inf, -np.inf, np.nan
    f, x = turned(axis, f, x)
    check_forward("forget_mult", f, x, axis=axis)
    check_forward("forget_mult", f[:2].copy(), x[:2].copy(), axis=axis)


PLAIN = fastrecur.forget_mult


def test_nothing_to_walk(gpu, rng):
    for shape, h0 in [((0, 3), np.ones(3, np.float32)), ((3, 0), None), ((0, 3), 2.0), ((3, 0), 2.0)]:
        x = np.ones(shape, np.float32)
        for axis in [0, 1]:
            if isinstance(h0, np.ndarray) and axis == 1:
                continue
            h, last = fastrecur.forget_mult(0.5, x, h0, axis=axis, return_state=True)
            expected, expected_last = reference.forget_mult(0.5, x, h0, axis=axis, return_state=True)
            assert h.shape == expected.shape
            assert_same_bits(last, expected_last.astype(np.float32))
            grads = fastrecur.forget_mult_vjp(x, 0.5, x, h, h0, axis=axis, grad_state=last)
            wanted = reference.forget_mult_vjp(x, 0.5, x, h, h0, axis=axis, grad_state=last)
            for grad, right in zip(grads, wanted, strict=True):
                assert (grad is None) == (right is None)
                if grad is not None:
                    assert_same_bits(grad, right.astype(np.float32))


@pytest.mark.exhaustive
def test_million_steps(gpu):
    """The table in the explanation of numerics: a small constant gate, data far from zero."""
    steps = 1 << 20
    x = (100 + np.random.default_rng(0).standard_normal(steps)).astype(np.float32)
    h = fastrecur.forget_mult(np.float32(1e-5).item(), x)
    expected = reference.forget_mult(np.float64(np.float32(1e-5)), x)
    assert abs(h[-1] - expected[-1]) < 2e-3


@pytest.mark.exhaustive
@pytest.mark.parametrize(("shape", "axis", "gate"), [((2000, 3), 0, 1e-3), ((1, 16384), 1, 1e-4)])
def test_a_scan_keeps_the_digits_of_small_gates(gpu, cut, rng, shape, axis, gate):
    """A product of 1 - f, rounded at each combination, would be off by 30 and 127 ulp."""
    cut(True)
    f, x = np.full(shape, gate, np.float32), rng.random(shape).astype(np.float32)
    expected = reference.forget_mult(f.astype(np.float64), x.astype(np.float64), axis=axis)
    h = fastrecur.forget_mult(f, x, axis=axis)
    assert np.max(abs(h - expected) / np.spacing(expected.astype(np.float32))) <= 12


# ---- Bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1])
def test_each_operand_is_read_once_and_each_result_written_once(gpu, rng, axis):
    shape = (60, 64) if axis == 0 else (64, 1000)
    n, lanes = int(np.prod(shape)), 64
    f, x = operands(rng, shape, np.float32)
    h = fastrecur.forget_mult(f, x, axis=axis)
    kernel = "lanes" if axis == 0 else "series"
    assert gpu.counts == {(kernel, "loaded"): 8 * n, (kernel, "stored"): 4 * n}
    gpu.forget()
    fastrecur.forget_mult_vjp(x, f, x, h, axis=axis)
    kernel += "_vjp"
    # Of the states all but each lane's last; in a chunk one is asked for twice.
    chunks = 0 if axis == 0 else lanes * 4
    loaded, stored = gpu.counts[kernel, "loaded"], gpu.counts[kernel, "stored"]
    assert 16 * n - 4 * lanes <= loaded <= 16 * n + 4 * chunks
    assert stored == 8 * n


def test_a_gate_for_all_is_not_read(gpu, rng):
    x = rng.standard_normal((100, 64)).astype(np.float32)
    fastrecur.forget_mult(0.1, x)
    assert gpu.counts == {("lanes", "loaded"): 4 * x.size, ("lanes", "stored"): 4 * x.size}


def test_contiguous_time_is_moved_in_words_of_16_bytes(gpu, rng):
    """Also where lanes do not start at multiples of 16 bytes; at a lane's ends a few steps are moved one by one."""
    for steps, reverse in itertools.product([1000, 1001, 1003], [False, True]):
        gpu.forget()
        f, x = operands(rng, (8, steps), np.float32)
        fastrecur.forget_mult(f, x, axis=1, reverse=reverse)
        ends = 8 * 3 * 2 * 16
        assert gpu.accesses["series"] <= 3 * f.size / 4 + ends

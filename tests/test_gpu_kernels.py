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
from compare import assert_same_bits, check_forward, check_vjp
from hypothesis import strategies
from test_forward import BROADCAST, RECURRENCES, operands

import fastrecur
from fastrecur import reference
from fastrecur._cuda import _launch, _plan, _recurrence, _run

ONCE = _plan.ONCE
WAYS = [(0, 1), (0, 3), (0, ONCE), (1, 1), (1, 3), (1, ONCE)]  # axis and pieces
FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


@pytest.fixture
def gpu(monkeypatch):
    """A card that is not there; `fastrecur`'s functions run NumPy's arrays on it, as if they were CuPy's."""
    driver = devices.Driver()
    cupy = devices.Cupy(driver)
    monkeypatch.setattr(_launch, "driver", lambda: driver)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr("fastrecur._cuda._arrays._libraries", {})

    devices.run_on(cupy, monkeypatch.setattr)
    yield driver
    driver.forget()


@pytest.fixture
def in_pieces(monkeypatch):
    """Let short lanes be cut into pieces of time as long ones are, or, where time is contiguous, take one pass."""

    def cut(pieces):
        plain = choose

        def chosen(*arguments, **options):
            return plain(*arguments, **options | {"may_look_back": False})._replace(pieces=pieces)

        monkeypatch.setattr(_plan, "choose", devices.looking_back(choose) if pieces == ONCE else chosen)
        _recurrence._shortcuts.clear()
        _plan.forward.cache_clear()
        _plan.vjp.cache_clear()

    choose = _plan.choose
    yield cut
    _plan.forward.cache_clear()
    _plan.vjp.cache_clear()


def launched(driver):
    return [entry[1] for entry in driver.log if entry[0] == "launch"]


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reverse", [False, True])
def test_lanes(gpu, rng, name, dtype, reverse):
    for shape in [(1, 40), (15, 33), (16, 32), (17, 150), (33, 65), (40, 2, 37)]:
        h0 = rng.standard_normal(shape[1:]).astype(dtype)
        gate, value = operands(rng, shape, dtype)
        check_forward(name, gate, value, h0, reverse=reverse)
        assert set(launched(gpu)) == {"lanes"}
        gpu.forget()
        check_vjp(name, gate, value, h0, rng=rng, reverse=reverse)
        assert set(launched(gpu)) == {"lanes_vjp"}
        gpu.forget()


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reverse", [False, True])
def test_contiguous_time(gpu, rng, name, dtype, reverse):
    for shape in [(1, 2), (3, 7), (9, 8), (5, 16), (40, 33), (2, 130), (3, 511), (1, 1031)]:
        h0 = rng.standard_normal(shape[0]).astype(dtype)
        gate, value = operands(rng, shape, dtype)
        check_forward(name, gate, value, h0, axis=1, reverse=reverse)
        assert set(launched(gpu)) == {"series"}
        gpu.forget()
        check_vjp(name, gate, value, h0, rng=rng, axis=1, reverse=reverse)
        assert set(launched(gpu)) == {"series_vjp"}
        gpu.forget()


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("reverse", [False, True])
def test_pieces_of_contiguous_time(gpu, in_pieces, rng, name, dtype, reverse):
    in_pieces(4)
    for shape in [(3, 1500), (2, 2047), (1, 2049)]:
        h0 = rng.standard_normal(shape[0]).astype(dtype)
        gate, value = operands(rng, shape, dtype)
        check_forward(name, gate, value, h0, axis=1, reverse=reverse)
        assert {"summarise_series", "fold", "series", "mend"} <= set(launched(gpu))
        check_vjp(name, gate, value, h0, rng=rng, axis=1, reverse=reverse)
        gpu.forget()


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("pieces", [2, 5, 40])
def test_pieces_of_lanes(gpu, in_pieces, rng, name, dtype, pieces):
    in_pieces(pieces)
    for shape, reverse in itertools.product([(66, 40), (700, 33)], [False, True]):
        h0 = rng.standard_normal(shape[1]).astype(dtype)
        gate, value = operands(rng, shape, dtype)
        check_forward(name, gate, value, h0, reverse=reverse)
        check_vjp(name, gate, value, h0, rng=rng, reverse=reverse)
        gpu.forget()


@pytest.mark.parametrize("axis", [0, 1])
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(data=strategies.data())
def test_wherever_time_is_cut_the_bits_are_the_same(gpu, in_pieces, axis, data):
    """For numbers of which nothing is rounded: whole ones, that are kept, replaced or turned round."""
    name = data.draw(strategies.sampled_from(RECURRENCES))
    steps = data.draw(strategies.integers(*[(20, 200), (600, 3000)][axis]))
    lanes, reverse = data.draw(strategies.integers(2 - axis, 40 if axis == 0 else 3)), data.draw(strategies.booleans())
    pieces = data.draw(strategies.integers(2, 40))
    rng = np.random.default_rng(data.draw(strategies.integers(0, 1000)))
    gates = [0, 0, 0, 1] if name == "forget_mult" else [-1, 1, 1, 1, 0]
    gate = rng.choice(gates, (steps, lanes)).astype(np.float32)
    value, h0 = rng.integers(-2, 3, (steps, lanes)).astype(np.float32), rng.integers(-2, 3, lanes).astype(np.float32)
    results = []
    for count in (1, pieces):
        in_pieces(count)
        results.append(both(name, *turned(axis, gate, value), h0, reverse, axis=axis))
        hypothesis.assume(count == 1 or "fold" in launched(gpu))
        gpu.forget()
    for got, right in zip(*results, strict=True):
        assert_same_bits(got, right)


# ---- One pass over pieces that look back ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype"), list(zip([*RECURRENCES, *RECURRENCES], [np.float32, np.float32, *FLOATS[2:]], strict=True))
)
@pytest.mark.parametrize("reverse", [False, True])
def test_one_pass(gpu, in_pieces, rng, name, dtype, reverse):
    in_pieces(ONCE)
    for shape in [(3, 1500), (2, 2047), (1, 2049), (2, 17000)]:
        h0 = rng.standard_normal(shape[0]).astype(dtype)
        gate, value = operands(rng, shape, dtype)
        check_forward(name, gate, value, h0, axis=1, reverse=reverse)
        assert set(launched(gpu)) == {"clear", "once", "mend"}
        gpu.forget()
        check_vjp(name, gate, value, h0, rng=rng, axis=1, reverse=reverse)
        assert set(launched(gpu)) == {"clear", "once_vjp", "mend_back"}
        gpu.forget()


@pytest.mark.parametrize(
    ("name", "dtype"), list(zip([*RECURRENCES, *RECURRENCES], [np.float32, np.float32, *FLOATS[2:]], strict=True))
)
@pytest.mark.parametrize("reverse", [False, True])
def test_tiles(gpu, in_pieces, rng, name, dtype, reverse):
    """Lanes and steps of one tile and a bit, of many, and of less than a warp."""
    in_pieces(ONCE)
    for shape in [(129, 40), (1000, 33), (2600, 64), (300, 20, 3)]:
        h0 = rng.standard_normal(shape[1:]).astype(dtype)
        gate, value = operands(rng, shape, dtype)
        check_forward(name, gate, value, h0, reverse=reverse)
        assert set(launched(gpu)) == {"clear", "tiles", "mend"}
        gpu.forget()
        check_vjp(name, gate, value, h0, rng=rng, reverse=reverse)
        assert set(launched(gpu)) == {"clear", "tiles_vjp", "mend_back"}
        gpu.forget()


def turned(axis, *arrays):
    """Arrays of (time, lanes) with time along an axis, contiguous."""
    return [array if axis == 0 else array.T.copy() for array in arrays]


def back(axis, array):
    """An array with time along an axis as (time, lanes)."""
    return array if axis == 0 else array.T


def both(name, gate, value, h0, reverse, axis=1):
    """The bits of a call and its gradient."""
    h, last = getattr(fastrecur, name)(gate, value, h0, axis=axis, reverse=reverse, return_state=True)
    grads = getattr(fastrecur, name + "_vjp")(value, gate, value, h, h0, axis=axis, reverse=reverse)
    return [h, last, *grads]


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("reverse", [False, True])
def test_whoever_comes_first_the_bits_are_the_same(gpu, in_pieces, monkeypatch, rng, name, reverse):
    """And they are those of three phases that are cut where the one pass is."""
    shape = (2, 33 * 512)
    gate, value = operands(rng, shape, np.float32)
    h0 = rng.standard_normal(2).astype(np.float32)
    in_pieces(33 + 1)  # the first begins before the first step, so that packs of steps are aligned
    forward = getattr(fastrecur, name)(gate, value, h0, axis=1, reverse=reverse, return_state=True)
    in_pieces(66 + 1)
    wanted = [*forward, *getattr(fastrecur, name + "_vjp")(value, gate, value, forward[0], h0, axis=1, reverse=reverse)]
    assert "once" not in launched(gpu)
    in_pieces(ONCE)
    # After one look what is not there is computed again; or as many looks as on a card.
    for spins, resident in itertools.product([1, _plan.SPINS], [5, 30]):
        monkeypatch.setattr(_plan, "SPINS", spins)
        monkeypatch.setattr(ptx_emulator, "RESIDENT", resident)
        for _ in range(4):
            gpu.seed += 1
            _recurrence._shortcuts.clear()
            _plan.forward.cache_clear()
            _plan.vjp.cache_clear()
            for got, right in zip(both(name, gate, value, h0, reverse), wanted, strict=True):
                assert_same_bits(got, right)
            gpu.forget()


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("reverse", [False, True])
def test_whichever_tile_comes_first_the_bits_are_the_same(gpu, in_pieces, monkeypatch, rng, name, reverse):
    """Those of one tile after another, each of which finds all that it looks for; of states that last, too."""
    shape = (35 * 128, 40)
    gate, value = operands(rng, shape, np.float32)
    gate[:, 20:] *= np.float32(0.01)
    if name == "linear_recurrence":
        gate[:, 20:] = 1 - gate[:, 20:]
    h0 = rng.standard_normal(shape[1]).astype(np.float32)
    in_pieces(ONCE)
    wanted = None
    for spins, resident in [(_plan.SPINS, 1), (1, 5), (_plan.SPINS, 5), (1, 40), (_plan.SPINS, 40)]:
        monkeypatch.setattr(_plan, "SPINS", spins)
        monkeypatch.setattr(ptx_emulator, "RESIDENT", resident)
        gpu.seed += 1
        _recurrence._shortcuts.clear()
        _plan.forward.cache_clear()
        _plan.vjp.cache_clear()
        got = both(name, gate, value, h0, reverse, axis=0)
        assert {"tiles", "tiles_vjp"} <= set(launched(gpu))
        gpu.forget()
        wanted = wanted or got
        for one, right in zip(got, wanted, strict=True):
            assert_same_bits(one, right)


@pytest.mark.parametrize("axis", [0, 1])
def test_sums_over_time_in_one_pass(gpu, in_pieces, rng, axis):
    in_pieces(ONCE)
    x = rng.standard_normal((3, 1500) if axis else (300, 40)).astype(np.float32)
    gate = rng.random((3, 1) if axis else (1, 40)).astype(np.float32)
    check_vjp("forget_mult", gate, x, rng=rng, axis=axis)
    check_vjp("linear_recurrence", x * np.float32(0.3), gate, rng=rng, axis=axis, reverse=True)
    assert ("once_vjp" if axis else "tiles_vjp") in launched(gpu)


def test_one_pass_reads_once(gpu, in_pieces, rng):
    in_pieces(ONCE)
    f, x = operands(rng, (40, 4096), np.float32)
    h = fastrecur.forget_mult(f, x, axis=1)
    moved = gpu.counts["once", "loaded"] + gpu.counts["once", "stored"]
    assert 12 * f.size <= moved <= 1.2 * 12 * f.size  # and words, of which a piece looks at those of its group
    plain = [sum(gpu.counts.get((kernel, way), 0) for way in ("loaded", "stored")) for kernel in ("clear", "mend")]
    assert sum(plain) <= 0.03 * 12 * f.size
    gpu.forget()
    fastrecur.forget_mult_vjp(x, f, x, h, axis=1)
    moved = gpu.counts["once_vjp", "loaded"] + gpu.counts["once_vjp", "stored"]
    assert 24 * f.size <= moved + 4 * 40 <= 1.2 * 24 * f.size


def test_tiles_read_once(gpu, in_pieces, rng):
    """One after another, so that what is looked for is there."""
    gpu.seed = 0
    in_pieces(ONCE)
    f, x = operands(rng, (4096, 64), np.float32)
    h = fastrecur.forget_mult(f, x)
    moved = gpu.counts["tiles", "loaded"] + gpu.counts["tiles", "stored"]
    assert 12 * f.size <= moved <= 1.2 * 12 * f.size  # and words, of which a tile looks at those of 16 turns
    plain = [sum(gpu.counts.get((kernel, way), 0) for way in ("loaded", "stored")) for kernel in ("clear", "mend")]
    assert sum(plain) <= 0.04 * 12 * f.size
    gpu.forget()
    fastrecur.forget_mult_vjp(x, f, x, h)
    moved = gpu.counts["tiles_vjp", "loaded"] + gpu.counts["tiles_vjp", "stored"]
    assert 24 * f.size <= moved + 4 * 64 <= 1.2 * 24 * f.size


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
        plan = _plan.vjp("forget", names, full, None, full, full, None, None, 1, False, None)
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
    plan.finish, plan.temporaries = (), {}  # one gate's gradient is not looked at
    total = driver.own(devices.poisoned(4, np.float32)).ctypes.data - (lanes - 4) * 4
    _run.run(plan, {"a": 0.25, "to_a": total, **addresses}, None, 0, 0)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


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
            check_forward(name, gate, value, h0, axis=axis, reverse=reverse)
            check_vjp(name, gate, value, h0, rng=rng, axis=axis, reverse=reverse, state=not axis)
            gpu.forget()


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("axis", [0, 1])
def test_sums_over_time_and_lanes(gpu, in_pieces, rng, axis, pieces):
    in_pieces(pieces)
    for gate_shape in [(), (1, 1), (1, 40), (40, 1), (700, 1), (1, 700)]:
        shape = (700, 40) if axis == 0 else (40, 700)
        if any(n not in (1, m) for n, m in zip(gate_shape, shape, strict=False)):
            continue
        gate = rng.random(gate_shape).astype(np.float32)
        gate = gate if gate.ndim else float(gate)
        value = rng.standard_normal(shape).astype(np.float32)
        check_vjp("forget_mult", gate, value, rng=rng, axis=axis)
        check_vjp("linear_recurrence", value * np.float32(0.3), gate, rng=rng, axis=axis, reverse=True)
        gpu.forget()


def test_sums_keep_what_rounding_leaves_over(gpu, in_pieces):
    """Ten thousand equal numbers, one after another, are off by thousands of roundings if it is dropped."""
    in_pieces(1)
    for shape, axis in [((10000, 40), 0), ((3, 100000), 1)]:
        g = np.full(shape, 0.1, np.float32)
        _, grad_b, _ = fastrecur.linear_recurrence_vjp(g, np.zeros(shape, np.float32), 1.0, g, axis=axis)
        np.testing.assert_allclose(grad_b, np.float64(np.float32(0.1)) * g.size, rtol=2e-7)


def test_rows_that_start_anywhere(gpu, rng):
    """Rows that start at no multiple of 16 bytes, in each operand at another one."""
    f, x = (a[:, k : k + 1000] for k, a in enumerate(operands(rng, (4, 1003), np.float32), 1))
    for reverse in [False, True]:
        check_forward("forget_mult", f, x, axis=1, reverse=reverse)
        check_vjp("forget_mult", f, x, rng=rng, axis=1, reverse=reverse, state=False)


def test_sums_in_slices(gpu, rng):
    x = rng.standard_normal((33, 3000)).astype(np.float32)
    check_vjp("forget_mult", rng.random((33, 1)).astype(np.float32), x, rng=rng, state=False)
    assert launched(gpu).count("sums") == 1
    gpu.forget()
    check_vjp("forget_mult", rng.random((33, 1, 1)).astype(np.float32), x.reshape(33, 2, 1500), rng=rng, state=False)
    check_vjp("forget_mult", 0.25, rng.standard_normal((3, 70000)).astype(np.float32), rng=rng, state=False)
    assert launched(gpu).count("sums") == 3


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("axis", "pieces"), WAYS)
def test_lengths(gpu, in_pieces, rng, name, axis, reverse, pieces):
    in_pieces(pieces)
    lanes, steps = 40, 600 if axis else 300 if pieces == ONCE else 70
    shape = (steps, lanes) if axis == 0 else (lanes, steps)
    lengths = rng.integers(0, steps + 1, lanes)
    lengths[:6] = 0, steps, 1, 16, min(steps, 128), min(steps, 129)
    gate, value = operands(rng, shape, np.float32)
    inside = np.arange(steps) < lengths[:, np.newaxis]
    for array in (gate, value):
        array[~(inside.T if axis == 0 else inside)] = np.nan
    h0 = rng.standard_normal(lanes).astype(np.float32)
    for given in [lengths, lengths.astype(np.int32)][: 1 + (pieces == 1)]:
        check_forward(name, gate, value, h0, axis=axis, reverse=reverse, lengths=given)
        check_vjp(name, gate, value, h0, rng=rng, axis=axis, reverse=reverse, lengths=given)


@pytest.mark.parametrize("layout", layouts.WRITEABLE)
def test_layouts(gpu, rng, layout):
    for name, shape in itertools.product(RECURRENCES, [(5, 6, 7), (3, 2, 40)]):
        gate, value = (layout(a) for a in operands(rng, shape, np.float32))
        for axis, reverse in itertools.product(range(3), [False, True]):
            check_forward(name, gate, value, axis=axis, reverse=reverse)
            check_vjp(name, gate, value, rng=rng, arrange=layout, axis=axis, reverse=reverse, state=False)
            gpu.forget()


def test_many_axes(gpu, rng):
    gate, value = (a[:, ::2, ::2, ::2, ::2] for a in operands(rng, (6, 6, 4, 4, 4), np.float32))
    for axis in range(5):
        check_forward("forget_mult", gate, value, axis=axis)
        check_vjp("forget_mult", gate, value, rng=rng, axis=axis, state=False)
        check_vjp("forget_mult", 0.5, value, rng=rng, axis=axis, state=False)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex(gpu, rng, dtype):
    shape = (20, 33)
    a, b = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape) for _ in range(2))
    a = (a / np.abs(a).max()).astype(dtype)
    b = b.astype(dtype)
    for axis in [0, 1]:
        check_forward("linear_recurrence", a, b, 1.0, axis=axis)
        check_vjp("linear_recurrence", a, b, 1.0, rng=rng, axis=axis)
        check_vjp("linear_recurrence", 0.5j, b, rng=rng, axis=axis, state=False)


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


@pytest.mark.parametrize(("axis", "pieces"), WAYS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_exact_ends(gpu, in_pieces, rng, axis, pieces, dtype):
    """Gates of 1 give x and gates of 0 keep the state, bit for bit; a constant series stays constant."""
    in_pieces(pieces)
    steps, lanes = 1100, 40
    x = rng.standard_normal((steps, lanes)).astype(dtype)
    f = rng.choice([0.0, 0.0, 0.0, 1.0, 0.25], (steps, lanes)).astype(dtype)
    f[:, 1], f[100:900, 2], f[:, 3] = 0, 0, 1
    h0 = rng.standard_normal(lanes).astype(dtype)
    h = back(axis, fastrecur.forget_mult(*turned(axis, f, x), h0, axis=axis))
    before = np.concatenate([h0[np.newaxis], h[:-1]])
    assert_same_bits(h[f == 1], x[f == 1])
    assert_same_bits(h[f == 0], before[f == 0])
    constant = np.full((steps, lanes), rng.standard_normal(lanes).astype(dtype))
    gates = rng.random((steps, lanes)).astype(dtype)
    h, last = fastrecur.forget_mult(*turned(axis, gates, constant), constant[0].copy(), axis=axis, return_state=True)
    assert_same_bits(np.asarray(back(axis, h)), constant)
    assert_same_bits(last, constant[0])


@pytest.mark.parametrize(("axis", "pieces"), WAYS)
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_not_finite(gpu, in_pieces, rng, name, axis, pieces):
    """Overflow, infinities and NaN come out as one step after another gives them, and stay in their lanes."""
    in_pieces(pieces)
    steps, lanes = 1100, 40
    f, x = (rng.random((steps, lanes)).astype(np.float32) for _ in range(2))
    f[:, 0] = 1e30 if name == "linear_recurrence" else -1e30
    f[200:210, 1], f[215, 1] = 1e30, 1
    x[300, 2], x[400, 3], f[500, 4] = np.nan, np.inf, np.inf
    f[600:640, 5] = 3e38
    # From a state of zero this stays zero, though the product of what it is multiplied by overflows.
    f[699, 6:9], x[699:710, 6:9] = name == "forget_mult", 0
    f[700:710, 6:9] = 1e25
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


@pytest.mark.parametrize(("axis", "pieces"), WAYS)
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_gradients_that_are_not_finite(gpu, in_pieces, rng, name, axis, pieces):
    in_pieces(pieces)
    steps, lanes = 1100, 40
    g, f, x, h = (rng.random((steps, lanes)).astype(np.float32) for _ in range(4))
    g[300, 0], g[1000, 1], f[500, 2], h[700, 3], g[40, 4] = np.inf, np.nan, np.inf, np.nan, -np.inf
    # A cotangent of 0 stays 0, though the product of what it is multiplied by overflows.
    g[400:, 5:7] = 0
    f[440:460, 5], f[505:520, 6] = 1e25, 1e25
    arranged = turned(axis, g, f, x, h)
    got = getattr(fastrecur, name + "_vjp")(*arranged, axis=axis)[:2]
    for grad, right in zip(got, backwards(name, g, f, x, h), strict=True):
        assert_alike(back(axis, grad), right)


@pytest.mark.parametrize(("axis", "pieces"), WAYS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_sums_over_time_that_are_not_finite(gpu, in_pieces, rng, axis, pieces):
    in_pieces(pieces)
    steps, lanes = 1100, 40
    g, a, h = (rng.random((steps, lanes)).astype(np.float32) for _ in range(3))
    g[300, 0], g[1000, 1], a[500, 2] = np.inf, np.nan, np.inf
    g[400:, 5:7] = 0
    a[440:460, 5], a[505:520, 6] = 1e25, 1e25
    b = rng.random((1, lanes)).astype(np.float32)
    arranged = turned(axis, g, a, b, h)
    got = fastrecur.linear_recurrence_vjp(*arranged, axis=axis)[1].ravel()
    right = backwards("linear_recurrence", g, a, np.broadcast_to(b, g.shape), h)[1].sum(0)
    assert_alike(got, right)
    finite = np.isfinite(right)
    np.testing.assert_allclose(got[finite], right[finite], rtol=1e-4)


@pytest.mark.parametrize(("axis", "pieces"), WAYS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_state_that_overflows_though_the_product_does_not(gpu, in_pieces, rng, axis, pieces):
    in_pieces(pieces)
    name = "linear_recurrence"
    a, b = (rng.random((1100, 40)).astype(np.float32) for _ in range(2))
    for lane, t in enumerate(range(495, 535)):  # wherever a thread's steps begin
        b[t, lane], a[t + 1, lane], a[t + 2, lane] = 1e10, 1e30, 1e-30
    h = fastrecur.linear_recurrence(*turned(axis, a, b), axis=axis)
    assert_alike(back(axis, h), sequential(name, a, b))
    g, a = b[::-1].copy(), a[::-1].copy()
    got = fastrecur.linear_recurrence_vjp(*turned(axis, g, a, b, b), axis=axis)[:2]
    for grad, right in zip(got, backwards(name, g, a, b, b), strict=True):
        assert_alike(back(axis, grad), right)


@pytest.mark.parametrize(("axis", "pieces"), WAYS)
@pytest.mark.parametrize("gate", [0, 1, 0.3])
def test_the_last_state_is_the_last_result(gpu, in_pieces, rng, axis, pieces, gate):
    """Also where a lane ends within a tile, or a chunk."""
    in_pieces(pieces)
    for steps in [1040, 1100]:
        f, x = operands(rng, (steps, 40), np.float32)
        f[-1] = gate
        arranged = turned(axis, f, x)
        h, last = fastrecur.forget_mult(*arranged, axis=axis, return_state=True)
        assert_same_bits(last, np.ascontiguousarray(h[-1] if axis == 0 else h[:, -1]))


def test_each_thread_of_a_tile_hands_on_what_rounding_leaves_over(gpu, in_pieces):
    in_pieces(ONCE)
    g = np.ones((640, 40), np.float32)
    g[::8], g[7::8] = 1 << 26, -(1 << 26)
    g[3::64], g[58::64] = 1 << 26, -(1 << 26)  # of these the last of a tile's rows makes up for the first
    zeros, ones = np.zeros(g.shape, np.float32), np.ones((1, 40), np.float32)
    _, grad_b, _ = fastrecur.linear_recurrence_vjp(g, zeros, ones, g)
    assert "tiles_vjp" in launched(gpu)
    np.testing.assert_array_equal(grad_b, g.astype(np.float64).sum(0)[np.newaxis])


def test_in_place(gpu, in_pieces, rng):
    for axis, pieces in WAYS:
        in_pieces(pieces)
        f, x = operands(rng, (1100, 40) if axis == 0 else (40, 1100), np.float32)
        expected = fastrecur.forget_mult(f, x, axis=axis)
        for target in (f, x):
            copies = {"f": f.copy(), "x": x.copy()}
            out = copies["f" if target is f else "x"]
            cupy = sys.modules["cupy"]
            placed = {k: cupy.place(v) for k, v in copies.items()}
            result = PLAIN(*placed.values(), axis=axis, out=placed["f" if target is f else "x"])
            assert result.host is out
            assert_same_bits(out, expected)


@pytest.mark.parametrize("pieces", [1, 3, ONCE])
def test_a_first_state_in_the_place_of_results(gpu, in_pieces, rng, pieces):
    """It is read before anything is written there."""
    in_pieces(pieces)
    f, x = operands(rng, (40, 1100), np.float32)
    out = x.copy()
    expected = fastrecur.forget_mult(f, x, x[:, 7].copy(), axis=1)
    place = sys.modules["cupy"].place
    PLAIN(place(f), place(x), place(out[:, 7]), axis=1, out=place(out))
    assert_same_bits(out, expected)


@pytest.mark.parametrize(("axis", "pieces"), WAYS)
def test_infinities_under_gates_that_stay_closed(gpu, in_pieces, rng, axis, pieces):
    """A state that is kept for long is no longer kept where 0 times a value is NaN."""
    in_pieces(pieces)
    f, x = operands(rng, (1100, 4), np.float32)
    f[200:900] = f[:20] = 0
    x[[3, 250, 600, 899], range(4)] = np.nan, np.inf, -np.inf, np.nan
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


def test_million_steps(gpu):
    """The table in the explanation of numerics: a small constant gate, data far from zero."""
    steps = 1 << 20
    x = (100 + np.random.default_rng(0).standard_normal(steps)).astype(np.float32)
    h = fastrecur.forget_mult(np.float32(1e-5).item(), x)
    expected = reference.forget_mult(np.float64(np.float32(1e-5)), x)
    assert abs(h[-1] - expected[-1]) < 2e-3


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


@pytest.mark.parametrize("axis", [0, 1])
def test_pieces_read_twice(gpu, in_pieces, rng, axis):
    in_pieces(4)
    f, x = operands(rng, (4000, 40) if axis == 0 else (40, 4000), np.float32)
    fastrecur.forget_mult(f, x, axis=axis)
    moved = sum(gpu.counts.values())
    assert 20 * f.size <= moved <= 20.5 * f.size  # 5 words an element, and what is noted of every piece


def test_contiguous_time_is_moved_in_words_of_16_bytes(gpu, rng):
    """Also where lanes do not start at multiples of 16 bytes; at a lane's ends a few steps are moved one by one."""
    for steps, reverse in itertools.product([1000, 1001, 1003], [False, True]):
        gpu.forget()
        f, x = operands(rng, (8, steps), np.float32)
        fastrecur.forget_mult(f, x, axis=1, reverse=reverse)
        ends = 8 * 3 * 2 * 16
        assert gpu.accesses["series"] <= 3 * f.size / 4 + ends

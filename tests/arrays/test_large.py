"""What only large problems meet: several threads, results that are streamed."""

import itertools
import types

import numpy as np
import pytest
from compare import assert_same_bits, check_both, check_forward, check_vjp
from layouts import WRITEABLE, guarded
from test_forward import RECURRENCES, operands
from thresholds import lower_thresholds

import fastrecur
from fastrecur._cpu import cost


@pytest.mark.sample(axis=[0], reverse=[True])
@pytest.mark.parametrize(("shape", "axis"), [((3000, 1101), 0), ((1101, 3000), 1), ((3, 1000, 1101), 1)])
@pytest.mark.parametrize("reverse", [False, True])
def test_beyond_the_cache(rng, shape, axis, reverse):
    f, x = operands(rng, shape, np.float32)
    check_both("forget_mult", f, x, 0.5, rng=rng, axis=axis, reverse=reverse, state=False)
    check_forward("forget_mult", 0.1, x, axis=axis, reverse=reverse)


@pytest.fixture(params=[1, 2, 3])
def as_if_large(request, monkeypatch, set_threads):
    """Every problem is a large one, for so many threads."""
    lower_thresholds(monkeypatch.setattr)
    set_threads(request.param)


SHAPES = [
    ((5, 200), 0),
    ((3, 1025), 0),
    ((200, 5), 1),
    ((33, 70), 1),
    ((3, 5, 130), 1),
    ((7, 5, 33), 0),
    ((2, 3, 40), 2),
    ((9000, 5), 0),
    ((1, 9000), 1),
    ((9000,), 0),
]


@pytest.mark.exhaustive
@pytest.mark.sample(dtype=[np.float32])
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_small_problems_as_if_large(rng, monkeypatch, set_threads, name, dtype, shape, axis):
    """One thread and three give the bits of two, which are checked."""
    lower_thresholds(monkeypatch.setattr)
    recurrence, vjp = getattr(fastrecur, name), getattr(fastrecur, name + "_vjp")
    gate, value = operands(rng, shape, dtype)
    lanes = shape[:axis] + shape[axis + 1 :]
    h0, some = rng.standard_normal(lanes).astype(dtype), rng.integers(0, shape[axis] + 1, lanes[:1])
    for reverse, (a, first, lengths) in itertools.product(
        [False, True], [(gate, h0, None), (0.5, None, None), (gate, h0, some)]
    ):
        options = {"axis": axis, "reverse": reverse, "lengths": lengths}
        set_threads(2)
        h = check_forward(name, a, value, first, **options)
        check_vjp(name, a, value, first, rng=rng, state=lengths is not None, **options)
        grads = vjp(value, a, value, h, first, **options)
        for threads in [1, 3]:
            set_threads(threads)
            assert_same_bits(recurrence(a, value, first, **options), h)
            for grad, right in zip(vjp(value, a, value, h, first, **options), grads, strict=True):
                if right is not None:
                    assert_same_bits(np.asarray(grad), np.asarray(right))


@pytest.mark.usefixtures("as_if_large")
@pytest.mark.sample(layout=WRITEABLE[:1])
@pytest.mark.parametrize("layout", WRITEABLE)
def test_layouts_as_if_large(rng, layout):
    for (shape, axis), reverse in itertools.product(SHAPES[4:7], [False, True]):
        f, x = operands(rng, shape, np.float32)
        options = {"axis": axis, "reverse": reverse}
        check_forward("forget_mult", layout(f), layout(x), **options)
        check_vjp("forget_mult", layout(f), layout(x), rng=rng, arrange=layout, **options)
        out = layout(np.full(shape, np.nan, np.float32))
        fastrecur.forget_mult(f, x, out=out, **options)
        np.testing.assert_allclose(out, check_forward("forget_mult", f, x, **options), rtol=1e-6)
        inplace = layout(x)
        fastrecur.forget_mult(f, inplace, out=inplace, **options)
        np.testing.assert_allclose(inplace, out, rtol=1e-6)


@pytest.mark.usefixtures("as_if_large")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), [((4, 70), 0), ((70, 40), 1), ((5000,), 0)])
def test_an_output_at_any_address(rng, dtype, shape, axis):
    # Whole cache lines are written past the cache: not the neighbours' share of the first and last.
    f, x = operands(rng, shape, dtype)
    expected = fastrecur.forget_mult(f, x, axis=axis)
    for offset in range(64 // np.dtype(dtype).itemsize + 1):
        buffer = np.full(x.size + 64, 7, dtype)
        out = buffer[offset : offset + x.size].reshape(shape)
        fastrecur.forget_mult(f, x, axis=axis, out=out)
        assert_same_bits(np.array(out), expected)
        out[...] = 7
        assert (buffer == 7).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lanes", [128, 192, 1056])
def test_rows_from_line_to_line(rng, monkeypatch, set_threads, dtype, reverse, lanes):
    """Those of parts of rows are those of whole rows, with states and without."""
    (f, x), steps, size = operands(rng, (7, lanes), dtype), 7, np.dtype(dtype).itemsize
    expected = fastrecur.forget_mult(f, x, reverse=reverse)
    lower_thresholds(monkeypatch.setattr)
    for threads, offset in itertools.product([1, 2, 3], [size, 16, 64 - size]):
        set_threads(threads)
        for options in [{}, {"h0": 0.0}, {"return_state": True}]:
            memory = np.full(x.nbytes + 192, 0xA5, np.uint8)
            start = -memory.ctypes.data % 64 + offset
            out = memory[start : start + x.nbytes].view(dtype).reshape(steps, lanes)
            fastrecur.forget_mult(f, x, reverse=reverse, out=out, **options)
            assert_same_bits(out.copy(), expected)
            out.view(np.uint8)[...] = 0xA5
            assert (memory == 0xA5).all()


@pytest.mark.sample(name=["forget_mult"])
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_same_bits_as_if_large(rng, monkeypatch, set_threads, name, shape, axis):
    gate, value = operands(rng, shape, np.float32)
    plain = getattr(fastrecur, name)(gate, value, axis=axis)
    grads = getattr(fastrecur, name + "_vjp")(value, gate, value, plain, 1, axis=axis)
    lower_thresholds(monkeypatch.setattr)
    for threads in [1, 2, 3, 5]:
        set_threads(threads)
        large = getattr(fastrecur, name)(gate, value, axis=axis)
        assert_same_bits(large, plain)
        vjp = getattr(fastrecur, name + "_vjp")(value, gate, value, large, 1, axis=axis)
        for grad, expected in zip(vjp, grads, strict=True):
            assert_same_bits(grad, expected)


@pytest.mark.sample(name=["forget_mult"], shape=[(30, 512), (8, 3000)])
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize(("shape", "axis"), [*SHAPES, ((30, 512), 0), ((8, 3000), 1), ((8200, 32), 0)])
def test_same_bits_where_results_stay(rng, monkeypatch, set_threads, name, shape, axis):
    """Where a large problem's results go does not matter to them."""
    gate, value = operands(rng, shape, np.float32)
    numbers = {"axis": axis, "reverse": bool(shape[0] % 2)}
    plain = [getattr(fastrecur, name)(a, value, **numbers) for a in (gate, 0.5)]
    lower_thresholds(monkeypatch.setattr)
    monkeypatch.setattr(cost, "CHUNKED_BYTES", 0)
    monkeypatch.setattr(cost, "_streams", lambda plan, fills_lines, threads: False)
    for threads in [1, 2, 3]:
        set_threads(threads)
        for a, expected in zip((gate, 0.5), plain, strict=True):
            assert_same_bits(getattr(fastrecur, name)(a, value, **numbers), expected)
            out = np.full_like(value, np.nan)
            getattr(fastrecur, name)(a, value, out=out, **numbers)
            assert_same_bits(out, expected)


@pytest.mark.parametrize(("shape", "axis", "part"), [((100, 512), 0, 3), ((200, 250), 1, 1.5)])
def test_when_results_are_streamed(rng, monkeypatch, shape, axis, part):
    """From a third of the cache, of series one after the other two thirds; of a server's, by its processors."""
    f, x = operands(rng, shape, np.float64)

    def streams(cache=1 << 40, processors=1 << 20, gradient=False):
        ways, real = [], cost.choose.__wrapped__
        with monkeypatch.context() as patches:
            lower_thresholds(patches.setattr)
            patches.setattr(cost, "choose", lambda *a, **k: ways.append(real(*a, **k)) or ways[-1])
            patches.setattr(cost, "_cache_bytes", lambda: cache)
            patches.setattr(cost.os, "cpu_count", lambda: processors)
            h = fastrecur.forget_mult(f, x, axis=axis)
            if gradient:
                ways.clear()
                fastrecur.forget_mult_vjp(h, f, x, h, axis=axis)
        return ways[-1].streaming

    for gradient, moved in [(False, 3 * x.nbytes), (True, 6 * x.nbytes)]:
        assert streams(0.9 * part * moved, gradient=gradient)
        assert not streams(1.1 * part * moved, gradient=gradient)
        limits = "STREAMED_ROWS" if axis == 0 else "STREAMED_SERIES"
        monkeypatch.setattr(cost, limits, (getattr(cost, limits)[0], moved // 2))
        assert streams(processors=1, gradient=gradient)
        assert not streams(processors=2, gradient=gradient)


@pytest.mark.sample(gradient=[False])
@pytest.mark.parametrize("gradient", [False, True])
def test_few_long_series_are_written_in_place_whatever_their_size(rng, monkeypatch, gradient):
    f, x = operands(rng, (50000,), np.float64)
    ways, real = [], cost.choose.__wrapped__
    lower_thresholds(monkeypatch.setattr)
    monkeypatch.setattr(cost, "choose", lambda *a, **k: ways.append((a[0], real(*a, **k))) or ways[-1][1])
    monkeypatch.setattr(cost, "_cache_bytes", lambda: 1)
    h = fastrecur.forget_mult(f, x)
    if gradient:
        fastrecur.forget_mult_vjp(h, f, x, h)
    plan, way = ways[-1]
    assert plan.traversal == "scan" and way.streaming == 1 and not cost._streams(plan, True, 2)


@pytest.mark.parametrize(("threads", "lanes", "stay"), [(1, 4096, False), (2, 4096, True), (2, 1024, False)])
def test_long_rows_that_threads_share_stay_in_the_cache(rng, monkeypatch, set_threads, threads, lanes, stay):
    """Up to two thirds of it: each thread's part of a row is long."""
    f, x = operands(rng, (50, lanes), np.float64)
    set_threads(threads)
    ways, real = [], cost.choose.__wrapped__
    lower_thresholds(monkeypatch.setattr)
    monkeypatch.setattr(cost, "choose", lambda *a, **k: ways.append(real(*a, **k)) or ways[-1])
    monkeypatch.setattr(cost, "_cache_bytes", lambda: 6 * x.nbytes)
    monkeypatch.setattr(cost.os, "cpu_count", lambda: 1 << 20)
    h = fastrecur.forget_mult(f, x)
    assert bool(ways[-1].streaming) == (not stay)
    fastrecur.forget_mult_vjp(h, f, x, h)
    assert ways[-1].streaming


@pytest.mark.parametrize(
    ("sizes", "mb"), [(["48K", "32768K"], 32), (["64K", "8192K"], 8), (["64K", "1M"], 1), (["", "x"], 32), ([], 32)]
)
def test_what_the_system_says_of_the_caches(monkeypatch, tmp_path, sizes, mb):
    for index, size in enumerate(sizes):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    monkeypatch.setattr(cost, "CACHES", str(tmp_path))
    assert cost._cache_bytes.__wrapped__() == mb << 20


def test_what_macos_says_of_the_caches(monkeypatch):
    def sysctlbyname(name, value, size, *_):
        value._obj.value = {b"hw.perflevel0.l2cachesize": 12 << 20, b"hw.l2cachesize": 4 << 20}.get(name, 0)

    monkeypatch.setattr(cost, "CACHES", "nowhere")
    monkeypatch.setattr(cost.sys, "platform", "darwin")
    monkeypatch.setattr(cost.ctypes, "CDLL", lambda name: types.SimpleNamespace(sysctlbyname=sysctlbyname))
    assert cost._cache_bytes.__wrapped__() == 12 << 20


@pytest.mark.sample(shape=[(5, 200), (200, 5)])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [*SHAPES, ((40, 1024), 0), ((4, 50, 600), 1), ((5, 9001), 1)])
def test_sums_do_not_depend_on_threads(rng, monkeypatch, set_threads, shape, axis, reverse):
    lower_thresholds(monkeypatch.setattr)
    for name, gate in itertools.product(RECURRENCES, [0.3, 1e-5, np.full((1,) * len(shape), 0.7)]):
        g, x = rng.standard_normal((2, *shape))
        h = getattr(fastrecur, name)(gate, x, axis=axis, reverse=reverse)
        grads = []
        for threads in [1, 2, 3]:
            set_threads(threads)
            grads.append(getattr(fastrecur, name + "_vjp")(g, gate, x, h, axis=axis, reverse=reverse)[0])
        assert_same_bits(grads[1], grads[0])
        assert_same_bits(grads[2], grads[0])


@pytest.mark.sample(dtype=[np.float32])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("reverse", [False, True])
def test_series_past_the_cache(rng, monkeypatch, dtype, reverse):
    """The bits are those of series in the cache, and nothing is written beside them, wherever in a line they begin."""
    size, steps = np.dtype(dtype).itemsize, 2600
    gate, value = operands(rng, (3, steps), dtype)
    gate[:, 700:900:7], gate[:, 600:1200:11] = 0, 1
    for lengths in [None, np.array([2600, 517, 1030])]:
        options = {"axis": 1, "reverse": reverse, "lengths": lengths}
        wanted = check_forward("forget_mult", gate, value, **options)
        grads = fastrecur.forget_mult_vjp(value, gate, value, wanted, **options)
        with monkeypatch.context() as patched:
            lower_thresholds(patched.setattr)
            for offset in [0, size, 16, 64 - size]:
                out, memory = guarded((3, steps), dtype, offset)
                before = memory.copy()
                fastrecur.forget_mult(gate, value, out=out, **options)
                assert_same_bits(out.copy(), wanted)
                out.view(np.uint8)[...] = 0xA5
                np.testing.assert_array_equal(memory, before)
            for grad, right in zip(
                fastrecur.forget_mult_vjp(value, gate, value, wanted, **options)[:2], grads, strict=False
            ):
                assert_same_bits(grad, right)


def test_an_unaligned_result_past_the_cache(monkeypatch):
    lower_thresholds(monkeypatch.setattr)
    for start in [1, 4]:
        buffer = np.zeros(64 * 300 * 8 + 8, np.uint8)
        out = buffer[start : start + 64 * 300 * 8].view(np.float64).reshape(64, 300)
        assert fastrecur.forget_mult(0.5, np.ones((64, 300)), 1.0, out=out) is out
        assert (out == 1).all()


def test_sums_do_not_depend_on_where_memory_is(rng, monkeypatch):
    lower_thresholds(monkeypatch.setattr)
    x = rng.standard_normal((32, 256))
    h = fastrecur.forget_mult(0.3, x, axis=1)
    sums, kept = set(), []
    for size in rng.integers(1, 4000, 20):
        kept.append(np.empty(size))
        sums.add(float(fastrecur.forget_mult_vjp(x, 0.3, x, h, axis=1)[0]))
    assert len(sums) == 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("gate", ["full", "number", "by lane", "by step"])
@pytest.mark.parametrize(("shape", "axis"), [((9, 64), 0), ((5, 7, 96), 1), ((4, 33), 0), ((1, 64), 0)])
@pytest.mark.parametrize("long", [0, cost.STREAMED_ROW_BYTES])
def test_rows_that_start_within_a_line(rng, monkeypatch, dtype, gate, shape, axis, long):
    """Past the cache, rows are walked from line to line: the end of each joins the beginning of the next.

    Short ones go there only if they are whole lines.
    """
    lower_thresholds(monkeypatch.setattr)
    monkeypatch.setattr(cost, "STREAMED_ROW_BYTES", long)
    monkeypatch.setattr(cost, "STREAMED_NUMBERS", 0)
    steps = tuple(n if k >= axis else 1 for k, n in enumerate(shape[: axis + 1])) + (1,) * (len(shape) - axis - 1)
    f = 0.3 if gate == "number" else rng.random({"full": shape, "by lane": shape[-1:], "by step": steps}[gate])
    f = f if gate == "number" else f.astype(dtype)
    h0 = rng.standard_normal(np.delete(shape, axis)).astype(dtype)
    for reverse in (False, True):
        for step in (1, -1):
            x = rng.standard_normal(shape).astype(dtype)[::step]
            options = {"axis": axis, "reverse": reverse}
            expected = check_forward("forget_mult", f, x, h0, **options)
            _, expected_last = fastrecur.forget_mult(f, x, h0, return_state=True, **options)
            for offset in (0, 8, 16, 40):
                buffer = np.full(x.nbytes + 128, 0xFF, np.uint8)
                start = -buffer.ctypes.data % 64 + offset
                out = buffer[start : start + x.nbytes].view(dtype).reshape(shape)
                _, last = fastrecur.forget_mult(f, x, h0, out=out, return_state=True, **options)
                assert_same_bits(out, expected)
                assert_same_bits(last, expected_last)
                assert (buffer[:start] == 0xFF).all()
                assert (buffer[start + x.nbytes :] == 0xFF).all()

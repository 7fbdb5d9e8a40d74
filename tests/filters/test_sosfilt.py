"""`sosfilt` beside SciPy's, beside loops in extended precision, and beside itself: chunks, threads, libraries."""

import dask.array as da
import ml_dtypes
import numpy as np
import pytest
import repeated
import scipy.signal
import torch

from fastrecur._cpu import cost
from fastrecur._cpu.filter_run import FEW_SERIES
from fastrecur._cpu.filters import LONG_SERIES
from fastrecur._cpu.machine import allocate
from fastrecur.filters import sosfilt, sosfilt_vjp

DESIGNS = {
    "low": scipy.signal.butter(4, 0.2, output="sos"),
    "high": scipy.signal.butter(3, 0.7, "high", output="sos"),
    "band": scipy.signal.ellip(2, 1, 40, [0.3, 0.5], "band", output="sos"),
    "notch": scipy.signal.tf2sos(*scipy.signal.iirnotch(0.01, 30)),
    "moving": np.array([[0.5, 0.3, -0.2, 1, 0, 0]]),
    "unstable": np.array([[1, 0, 0, 1, -1.5, 1.1]]),
    "at -1": np.array([[1, 0.2, 0, 1, 1.98, 0.9802]]),
}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def state_like(x, sos, axis):
    shape = [*x.shape]
    shape[axis] = 2
    return noise(len(sos), *shape, seed=1)


def loop(sos, x, zi, dtype=np.float64):
    """Filter along the first axis in SciPy's form, with coefficients (*x.shape, sections, 6) or that broadcast."""
    sos = np.broadcast_to(sos, (*x.shape, *sos.shape[-2:])).astype(dtype)
    y, z = x.astype(dtype), np.array(zi, dtype)
    for t in range(len(x)):
        for s in range(sos.shape[-2]):
            b0, b1, b2, _, a1, a2 = np.moveaxis(sos[t, ..., s, :], -1, 0)
            v, y[t] = y[t].copy(), b0 * y[t] + z[s, 0]
            z[s] = b1 * v - a1 * y[t] + z[s, 1], b2 * v - a2 * y[t]
    return y, z


def assert_close(one, other, rtol=1e-11):
    other = np.asarray(other)
    assert one.shape == other.shape
    np.testing.assert_allclose(one, other, rtol=0, atol=rtol * max(abs(other).max(initial=0), 1e-30))


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((75,), 0), ((70, 3), 0), ((70, 40), 0), ((33, 70), -1), ((3, 71, 2), 1), ((0, 3), 0), ((1, 2), 0)],
)
def test_as_scipy(design, shape, axis):
    sos, x = DESIGNS[design], noise(*shape)
    zi = state_like(x, sos, axis)
    expected = scipy.signal.sosfilt(sos, x, axis, zi) if x.size else (x, zi)
    for ours, theirs in zip(sosfilt(sos, x, axis, zi), expected, strict=True):
        assert_close(ours, theirs)
    backward = sosfilt(sos, np.flip(x, axis), axis, zi, reverse=True)
    assert_close(np.flip(backward[0], axis), expected[0])
    assert_close(backward[1], expected[1])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.complex64, np.int16])
@pytest.mark.sample(dtype=[np.float32])
def test_dtypes(dtype):
    x, sos = (noise(20, 17) * 8).astype(dtype), DESIGNS["low"].astype(np.float32)
    y, zf = sosfilt(sos, x, return_state=True)
    wide = np.result_type(np.float64, dtype) if dtype != ml_dtypes.bfloat16 else np.dtype(np.float64)
    expected = scipy.signal.sosfilt(sos.astype(np.float64), x.astype(wide))
    kept = np.dtype(dtype).kind in "fcV"
    assert y.dtype == (dtype if kept else np.float64)
    assert zf.dtype == wide
    assert_close(y.astype(wide), expected, float(ml_dtypes.finfo(dtype).eps) if kept else 1e-11)


@pytest.mark.parametrize("kind", ["own", "varying"])
def test_coefficients_of_series_and_of_steps(kind):
    x = noise(40, 5)
    sos = DESIGNS["low"] * (1 + 0.02 * noise(*(x.shape if kind == "varying" else x.shape[1:]), 2, 6))
    sos[..., 3] = 1
    zi = state_like(x, sos[0] if kind == "own" else sos[0, 0], 0)
    for ours, theirs in zip(sosfilt(sos, x, 0, zi), loop(sos, x, zi), strict=True):
        assert_close(ours, theirs)
    wide, y = np.moveaxis(sos, 0, 1) if kind == "varying" else sos, loop(sos, x, zi)[0]
    assert_close(sosfilt(wide, x.T, zi=np.moveaxis(zi, 1, 2))[0].T, y)
    turned = np.flip(wide, 1) if kind == "varying" else wide
    assert_close(sosfilt(turned, np.flip(x.T, 1), zi=np.moveaxis(zi, 1, 2), reverse=True)[0].T, y[::-1])
    many = np.repeat(sos, 20, -2)  # whose coefficients of one step are more than a buffer holds
    assert_close(sosfilt(many, x, 0), loop(many, x, np.zeros((40, 2, 5)))[0], 1e-9)


@pytest.mark.parametrize("reverse", [False, True])
def test_lengths(reverse):
    x, sos, lengths = noise(3, 50) + 1j * reverse * noise(3, 50, seed=2), DESIGNS["low"], [50, 0, 37]
    x[2, 37:] = np.nan
    y, zf = sosfilt(sos, x, lengths=lengths, reverse=reverse, return_state=True)
    for k, length in enumerate(lengths):
        own, last = sosfilt(sos, x[k, :length], reverse=reverse, return_state=True)
        assert_close(y[k], np.concatenate([own, np.zeros(50 - length)]))
        assert_close(zf[:, k], last)


@pytest.mark.parametrize("series", [1, FEW_SERIES + 1])
@pytest.mark.parametrize(("order", "cutoff"), [(4, 0.1), (2, 1e-3), (2, 1e-4), (1, 1e-5)])
def test_a_long_series_is_right_to_the_last_digits(series, order, cutoff):
    """Cut with a warm-up, or taken by blocks, or step by step: beside SciPy's form in extended precision."""
    sos, x = scipy.signal.butter(order, cutoff, output="sos"), noise(LONG_SERIES + 5, series)
    y = sosfilt(sos, x, 0)
    expected, _ = loop(sos, x[:, :1], np.zeros((len(sos), 2, 1)), np.longdouble)
    assert_close(y[:, :1], expected, 1e-13 if order > 1 else 1e-14)
    assert_close(y[:, 0], sosfilt(sos, np.ascontiguousarray(x[:, 0])), 1e-13)
    single = sosfilt(sos, x[:, :1].astype(np.float32), 0)
    expected, _ = loop(sos, x[:, :1].astype(np.float32), np.zeros((len(sos), 2, 1)), np.longdouble)
    assert_close(single, expected, 1.2e-7)


def test_threads_and_places_change_no_bit(set_threads):
    sos, x = DESIGNS["low"], noise(LONG_SERIES, 20)
    set_threads(1)
    one = sosfilt(sos, x, 0)
    set_threads(3)
    np.testing.assert_array_equal(sosfilt(sos, x, 0), one)
    np.testing.assert_array_equal(sosfilt(sos, np.ascontiguousarray(x.T)).T, one)
    np.testing.assert_array_equal(sosfilt(sos, x[::-1], 0, reverse=True)[::-1], one)
    assert sosfilt(sos, x, 0, out=x) is x
    np.testing.assert_array_equal(x, one)


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2"])
@pytest.mark.sample(dtype=["f4"])
def test_streamed_results_are_the_same(monkeypatch, dtype):
    sos, cases = (
        DESIGNS["low"],
        [(noise(*n).astype(dtype), k) for n, k in (((70, 48), 0), ((16, 96), -1), ((9, 96), -1))],
    )
    expected = [sosfilt(sos, x, axis) for x, axis in cases]
    monkeypatch.setattr(cost, "is_streamed", lambda _: True)
    for (x, axis), y in zip(cases, expected, strict=True):
        for first in (0, 1):  # a cache line, or not
            out = allocate.zeros((x.size + 1,), x.dtype)[first : x.size + first].reshape(x.shape)
            repeated.forget()
            np.testing.assert_array_equal(sosfilt(sos, x, axis, out=out), y)
            np.testing.assert_array_equal(sosfilt(sos, x, axis, out=x.copy(order="F")), y)


def test_nan_stays_in_its_series_and_behind_it():
    for x in (noise(100, 3), noise(100, 20)):
        bad = x.copy()
        bad[50, 1], bad[60, 0] = np.nan, np.inf
        y = sosfilt(DESIGNS["low"], bad, 0)
        np.testing.assert_array_equal(np.isfinite(y), (np.arange(100)[:, None] < [60, 50, *[100] * (x.shape[1] - 2)]))
        np.testing.assert_array_equal(y[:50], sosfilt(DESIGNS["low"], x, 0)[:50])


@pytest.mark.parametrize("kind", ["", "own", "varying"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [40, 0, 33]])
@pytest.mark.sample(kind=["", "varying"])
def test_gradients_are_those_of_differences(kind, reverse, lengths):
    x, random = noise(40, 3), np.random.default_rng(3)
    lead = {"": (), "own": (3,), "varying": x.shape}[kind]
    sos = DESIGNS["low"] * (1 + 0.02 * random.normal(size=(*lead, 2, 6)))
    sos[..., 3] = 1
    zi, g, grad_zf = random.normal(size=(2, 2, 3)), random.normal(size=x.shape), random.normal(size=(2, 2, 3))
    options = {"axis": 0, "reverse": reverse, "lengths": lengths}

    def value(sos, x, zi):
        y, zf = sosfilt(sos, x, zi=zi, **options)
        return (y * g).sum() + (zf * grad_zf).sum()

    y, _ = sosfilt(sos, x, zi=zi, **options)
    grads, operands = sosfilt_vjp(g, sos, x, y, zi, grad_zf=grad_zf, **options), (sos, x, zi)
    assert not grads[0][..., 3].any()
    for k, (grad, operand) in enumerate(zip(grads, operands, strict=True)):
        way = random.normal(size=operand.shape)
        if k == 0:
            way[..., 3] = 0
        ends = [value(*(v + step * way if n == k else v for n, v in enumerate(operands))) for step in (1e-6, -1e-6)]
        np.testing.assert_allclose((grad * way).sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["", "own", "varying", "complex", "ragged", "reverse"])
@pytest.mark.sample(kind=["own", "ragged"])
def test_gradients_of_tensors_of_two_orders(kind):
    random = torch.Generator().manual_seed(0)
    dtype = torch.complex128 if kind == "complex" else torch.float64
    options = {"lengths": [5, 2]} if kind == "ragged" else {"reverse": kind == "reverse"}

    def make(*shape, dtype=dtype):
        return torch.randn(shape, dtype=dtype, generator=random).requires_grad_()

    fields = torch.from_numpy(DESIGNS["low"][:, [0, 1, 2, 4, 5]])
    lead = {"own": (2,), "varying": (5, 2)}.get(kind, ())
    fields = fields.expand(*lead, 2, 5).clone().requires_grad_()

    def run(x, fields, zi):
        one = torch.ones_like(fields[..., :1])
        return sosfilt(torch.cat([fields[..., :3], one, fields[..., 3:]], -1), x, 0, zi, **options)

    operands = make(5, 2), fields, make(2, 2, 2)
    assert torch.autograd.gradcheck(run, operands)
    assert torch.autograd.gradgradcheck(run, operands, fast_mode=True)


def test_tensors_are_compiled_mapped_and_of_half_precision():
    sos, x = torch.from_numpy(DESIGNS["low"]), torch.from_numpy(noise(30, 3))
    y, zf = sosfilt(sos, x, 0, return_state=True)
    assert_close(y.numpy(), sosfilt(sos.numpy(), x.numpy(), 0))
    mapped, last = torch.func.vmap(lambda x: sosfilt(sos, x, return_state=True), 1, (1, 2))(x)
    torch.testing.assert_close((mapped, last), (y, zf), rtol=0, atol=0)
    each = torch.func.vmap(torch.func.grad(lambda sos, x: sosfilt(sos, x).sum()), (None, 1))(sos, x)
    whole = torch.func.grad(lambda sos: sosfilt(sos, x, 0).sum())(sos)
    torch.testing.assert_close(each.sum(0), whole)
    half = sosfilt(sos, x.bfloat16(), 0)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), sosfilt(sos, x.bfloat16().double(), 0), rtol=2**-8, atol=0)
    for operator, rest in (("sosfilt", (x.clone().requires_grad_(), sos)), ("sosfilt_backward", (x, None, x, sos))):
        torch.library.opcheck(getattr(torch.ops.fastrecur, operator), (*rest, None, None, 0, False, False))


@pytest.mark.parametrize("reverse", [False, True])
def test_dask(reverse):
    sos, x, options = DESIGNS["low"], noise(50, 4), {"reverse": reverse, "lengths": [3, 50, 0, 20]}
    zi, lazy = state_like(x, sos, 0), da.from_array(x, chunks=(16, 2))
    for ours, whole in zip(sosfilt(sos, lazy, 0, zi, **options), sosfilt(sos, x, 0, zi, **options), strict=True):
        assert isinstance(ours, da.Array)
        assert_close(ours.compute(), whole)
    own = sos * np.ones((4, 1, 1))
    assert_close(sosfilt(own, lazy, 0, reverse=reverse).compute(), sosfilt(sos, x, 0, reverse=reverse))
    with pytest.raises(TypeError, match="got a Dask array"):
        sosfilt_vjp(lazy, sos, lazy, lazy, axis=0)


@pytest.mark.parametrize(
    ("error", "text", "change"),
    [
        (ValueError, "`sos` must have the shape", {"sos": np.ones((3, 3, 6))}),
        (ValueError, "`sos` must have 1", {"sos": 2 * DESIGNS["low"]}),
        (TypeError, "`sos` must be real", {"sos": 1j * DESIGNS["low"]}),
        (TypeError, "`x` must be an array", {"x": None}),
        (ValueError, "`zi` must have the shape", {"zi": np.ones((2, 2))}),
        (ValueError, "`axis` must be in", {"axis": 2}),
        (ValueError, "`lengths` must be in", {"lengths": [5, 90]}),
        (TypeError, "`reverse` must be", {"reverse": 1}),
        (ValueError, "`out` must have the result's shape", {"out": np.ones(3)}),
        (TypeError, "`out` must have the result's dtype", {"out": np.ones((9, 2), np.float32)}),
    ],
)
def test_errors(error, text, change):
    given = {"sos": DESIGNS["low"], "x": noise(9, 2), "axis": 0} | change
    with pytest.raises(error, match=text):
        sosfilt(**given)
    if "reverse" not in change and "x" not in change:
        names = "x", "sos", "zi", "out"
        given |= {name: torch.from_numpy(given[name]) for name in names if given.get(name) is not None}
        with pytest.raises(error, match=text):
            sosfilt(**given)

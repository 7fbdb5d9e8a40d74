"""`lfilter` and `sosfiltfilt` beside SciPy's, `allpole` beside a loop; their gradients."""

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.signal
import torch

from fastrecur.filters import allpole, allpole_vjp, lfilter, sosfilt, sosfilt_vjp, sosfiltfilt


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def assert_close(one, other, rtol=1e-12):
    assert one.shape == other.shape
    np.testing.assert_allclose(one, other, rtol=0, atol=rtol * max(abs(other).max(initial=0), 1e-30))


@pytest.mark.sample(order=[4], shape=[(70, 20)])
@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize(("shape", "axis"), [((40,), 0), ((70, 20), 0), ((3, 40), -1)])
def test_lfilter_as_scipy(order, shape, axis):
    (b, a), x, lanes = scipy.signal.butter(order, 0.3), noise(*shape), [*shape]
    b, a = 1.7 * b, 1.7 * a
    lanes[axis] = order
    zi = noise(*lanes, seed=1)
    for ours, theirs in zip(lfilter(b, a, x, axis, zi), scipy.signal.lfilter(b, a, x, axis, zi), strict=True):
        assert_close(ours, theirs)
    lazy = lfilter(b, a, da.from_array(x, chunks=17), axis, zi)
    assert_close(lazy[1].compute(), lfilter(b, a, x, axis, zi)[1])
    each = np.broadcast_to(a, (*[n for k, n in enumerate(shape) if k != axis % len(shape)], order + 1))
    varying = np.broadcast_to(b, (*shape, order + 1))
    assert_close(lfilter(varying, each, x, axis), scipy.signal.lfilter(b, a, x, axis))


def test_lfilter_without_poles_and_of_no_order():
    x, b = noise(50), noise(20)
    for a in ([2.0], 2):
        assert_close(lfilter(b, a, x), scipy.signal.lfilter(b, a, x))
    y, zf = lfilter([3.0], [2.0], x, return_state=True)
    assert_close(y, 1.5 * x)
    assert zf.shape == (0,)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", ">f8"])
def test_states_of_any_dtype(dtype):
    (b, a), x, zi = scipy.signal.butter(4, 0.3), noise(3, 40), np.arange(4.0).astype(dtype)[None]
    for ours, theirs in zip(lfilter(b, a, x, zi=zi), lfilter(b, a, x, zi=zi.astype(float)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    y, zf = allpole(a[1:], x, zi=zi)
    assert zf.dtype == np.float64
    given = allpole_vjp(x, a[1:], x, y, zi, grad_zf=zi), allpole_vjp(x, a[1:], x, y, zi * 1.0, grad_zf=zi * 1.0)
    for ours, theirs in zip(*given, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3 if dtype == "float16" else 1e-6)


def test_float32_coefficients_are_divided_in_float64():
    (b, a), x = scipy.signal.butter(5, 0.3), noise(3, 40)
    b, a = (1.7 * b).astype(np.float32), (1.7 * a).astype(np.float32)
    for own in (b, a, x), map(torch.from_numpy, (b, a, x)):
        assert_close(np.asarray(lfilter(*own)), scipy.signal.lfilter(b, a, x))


def test_complex_states_beside_real_cotangents():
    sos, x = scipy.signal.butter(2, 0.3, output="sos"), noise(20)
    zi, grad_zf = (noise(1, 2, seed=k) + 1j * noise(1, 2, seed=k + 1) for k in (1, 3))
    given = (sosfilt_vjp(g, sos, x, x, zi, grad_zf=grad_zf) for g in (x, x + 0j))
    for one, other in zip(*given, strict=True):
        np.testing.assert_array_equal(one, other)
    assert abs(sosfilt_vjp(x, sos, x, x, zi, grad_zf=grad_zf)[2].imag).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_gradients_beside_complex_states_have_the_signal_s_dtype(dtype):
    x, zi = noise(3, 9).astype(dtype), noise(3, 1) + 0j
    assert allpole_vjp(x, [0.3], x, allpole([0.3], x, zi=zi)[0], zi)[1].dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_complex_states_beside_small_tensors(dtype):
    """A signal of bfloat16 was read as bits."""
    x, zi = torch.from_numpy(noise(3, 9)).to(dtype).requires_grad_(), torch.from_numpy(noise(3, 1) + 1j)
    results = [allpole([0.3], v, zi=zi)[0] for v in (x, x.double())]
    found = [(y, *torch.autograd.grad(y.abs().sum(), x)) for y in results]
    torch.testing.assert_close(*found, rtol=1e-2, atol=1e-2, check_dtype=False)


@pytest.mark.parametrize("place", ["odd", "half", "strides"])
def test_states_beside_tensors_stand_anywhere(place):
    """torch's operators crash on elements that are not aligned, and it takes no such strides."""
    (b, a), x = scipy.signal.butter(1, 0.3), torch.from_numpy(noise(2, 9, 3) + 1j)
    raw, states = np.zeros(512, np.uint8), np.arange(6).reshape(2, 1, 3) + 0.5j
    aligned = raw[-raw.ctypes.data % 16 :]
    start, each = {"odd": (1, 16), "half": (8, 16), "strides": (0, 24)}[place]
    zi = np.ndarray((2, 1, 3), np.complex128, aligned, start, (3 * each, 3 * each, each))
    zi[:] = states
    for ours, wanted in zip(lfilter(b, a, x, 1, zi), lfilter(b, a, x.numpy(), 1, states), strict=True):
        assert_close(ours.numpy(), wanted)


@pytest.mark.parametrize("take", [np.array, torch.from_numpy])
def test_no_steps_hand_the_states_on_as_a_copy(take):
    zi, x = noise(1, 3), np.ones((2, 0))
    a, zi, x = map(take, (0.1 * noise(3, seed=1), zi, x))
    kept = [lfilter([1.0], [1.0, *a], x, zi=zi)[1], allpole(a, x, zi=zi)[1]]
    kept.append(allpole_vjp(x, a, x, x, zi, grad_zf=zi[[0, 0]])[2] / 2)  # the sum of both series'
    before = np.array(zi.tolist())
    for zf in kept:
        np.testing.assert_array_equal(zf[:2], np.broadcast_to(before, zf.shape))
        zf += 1.0  # which nothing else sees
    np.testing.assert_array_equal(zi, before)
    assert kept[0].shape == (2, 3)


LISTS = {
    "lfilter": lambda x: lfilter([0.1, 0.2, 0.3], [1.0, -0.3, 0.1], x, zi=[0.1, 0.7])[0],
    "allpole": lambda x: allpole([-0.3, 0.1], x, zi=[0.1, 0.7])[0],
    "sosfiltfilt": lambda x: sosfiltfilt([[0.1, 0.2, 0.3, 1.0, -0.3, 0.1]], x),
}


@pytest.mark.parametrize(("shape", "axis"), [((0,), 0), ((3, 0), 1), ((0, 3), 0), ((0, 3), 1), ((2, 0, 3), -1)])
@pytest.mark.parametrize("take", [np.asarray, torch.from_numpy, da.from_array])
@pytest.mark.parametrize("kind", ["one", "series", "steps"])
def test_no_numbers(kind, take, shape, axis):
    """No steps, or no series, of any kind of coefficients: an empty result, no warning."""
    lead = {"one": (), "series": np.delete(shape, axis), "steps": shape}[kind]
    sos = np.broadcast_to(scipy.signal.butter(4, 0.2, output="sos"), (*lead, 2, 6)).copy()
    x, a, is_lazy = take(np.zeros(shape)), np.full((*lead, 2), 0.25), take is da.from_array
    zi = np.full((2, *np.insert(np.delete(shape, axis), axis % len(shape), 2)), 0.5)
    if take is torch.from_numpy:
        sos, a, zi = map(take, (sos, a, zi))
        x.requires_grad_()
    y, zf = sosfilt(sos, x, axis, zi)
    if not shape[axis]:
        np.testing.assert_array_equal(zf.detach() if take is torch.from_numpy else zf, zi)
    results = [y, allpole(a, x, axis), lfilter(a, a, x, axis)]
    if not is_lazy:
        grads = sosfilt_vjp(x, sos, x, x, zi, axis=axis)
        assert [v.shape for v in grads] == [sos.shape, x.shape, zi.shape]
        assert [v.shape for v in allpole_vjp(x, a, x, x, axis=axis)[:2]] == [a.shape, x.shape]
        results += [] if kind == "steps" else [sosfiltfilt(sos, x, axis, padlen=0)]
    for result in results:
        assert result.shape == x.shape
        if isinstance(result, torch.Tensor):
            result.sum().backward()
            assert x.grad.shape == x.shape


@pytest.mark.parametrize("name", LISTS)
def test_lists_beside_tensors_have_all_digits(name):
    """They were rounded to torch's default dtype."""
    x = noise(50)
    assert_close(LISTS[name](torch.from_numpy(x)).numpy(), LISTS[name](x))


def test_what_is_filled_up_is_where_the_signal_is():
    """Zeros were in CPU memory, and a filter of a signal on a GPU failed."""
    x = torch.empty(20, device="meta")
    for b, a, zi in ((2.0, [1.0, 0.5], [0.1]), ([1.0, 0.2, 0.1, 0.3], [1.0, 0.5], [0.1, 0.2, 0.3])):
        assert all(v.is_meta for v in lfilter(b, a, x, zi=zi))


@pytest.mark.exhaustive
def test_lists_compiled():
    x = torch.from_numpy(noise(30))
    for call in (LISTS["lfilter"], LISTS["allpole"], lambda x: sosfilt([[0.1, 0.2, 0.3, 1.0, -0.3, 0.1]], x)):
        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), call(x), rtol=0, atol=0)


@pytest.mark.parametrize("padtype", ["odd", "even", "constant", None])
def test_sosfiltfilt_as_scipy(padtype):
    sos, x = scipy.signal.butter(3, 0.2, output="sos"), noise(50, 3)
    expected = scipy.signal.sosfiltfilt(sos, x, 0, padtype)
    assert_close(sosfiltfilt(sos, x, 0, padtype), expected)
    assert_close(sosfiltfilt(sos * np.ones((3, 1, 1)), x.T, padtype=padtype).T, expected)
    assert_close(sosfiltfilt(torch.from_numpy(sos), torch.from_numpy(x), 0, padtype).numpy(), expected)
    assert_close(sosfiltfilt(sos, x, 0, "even", 5), scipy.signal.sosfiltfilt(sos, x, 0, "even", 5))


def test_sosfiltfilt_without_numbers():
    """Of a tensor with no numbers that may be read, SciPy's `padlen` is not known; of lists beside one it is."""
    sos, x = scipy.signal.butter(3, 0.2, output="sos"), torch.empty(50, 3, device="meta")
    on_meta = torch.from_numpy(sos).to("meta")
    with pytest.raises(ValueError, match="`padlen` must be given beside `sos` on a GPU or meta.* is 15 where"):
        sosfiltfilt(on_meta, x, 0)
    for given in ((sos, {}), (sos.tolist(), {}), (on_meta, {"padlen": 5}), (on_meta, {"padtype": None})):
        y = sosfiltfilt(given[0], x, 0, **given[1])
        assert y.is_meta and y.shape == x.shape


@pytest.mark.parametrize("others", [[], [[1, 0, 0, 1, -0.5, 0.2]]])
def test_sosfiltfilt_with_a_pole_at_one(others):
    """There is no steady state: SciPy's error of arrays, NaN of tensors, which nobody reads."""
    x = noise(50)
    for sos in ([[1, 0, 0, 1, -1, 0], *others], [*others, [1, -1, 0, 1, -1.5, 0.5]]):
        with pytest.raises(ValueError, match="`sos` must have no pole at 1"):
            sosfiltfilt(sos, x)
        assert not sosfiltfilt(torch.tensor(sos).double(), torch.from_numpy(x)).isfinite().any()


@pytest.mark.parametrize("lengths", [None, 2000])
def test_a_filter_that_has_diverged_does_not_warn(lengths):
    sos, x = [[1, 0, 0, 1, -3, 0]], np.ones(2000)
    y, zf = sosfilt(sos, x, return_state=True, lengths=lengths)
    again = sosfilt(sos, x, zi=zf, lengths=lengths)[0]
    grads = allpole_vjp(x, [-3.0, 0.0], x, x)
    assert not any(np.isfinite(v).all() for v in (y, zf, again, *grads[:2]))


@pytest.mark.exhaustive
@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy])
def test_coefficients_in_float32_lose_no_digits(rng, library):
    """What is made of them, a quotient or a steady state, is in float64."""
    x, place = rng.standard_normal(3000).cumsum(), lambda v: library(np.asarray(v, np.float32))
    b, a = place([0.1, 0.2]), place([3.0, -2.9])
    wide = (np.asarray(v, float) for v in (b, a))
    assert_close(np.asarray(lfilter(b, a, library(x))), scipy.signal.lfilter(*wide, x))
    sos = place(scipy.signal.butter(4, 0.05, output="sos"))
    assert_close(np.asarray(sosfiltfilt(sos, library(x))), scipy.signal.sosfiltfilt(np.asarray(sos, float), x))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float16])
def test_the_ends_of_small_numbers_are_continued_in_wide_ones(dtype):
    sos, x = scipy.signal.butter(2, 0.2, output="sos"), torch.arange(40).reshape(40, 1) * 37 % 256
    x = (x * 250 if dtype == torch.float16 else x).to(dtype)
    expected = scipy.signal.sosfiltfilt(sos, x.double().numpy(), 0)
    found = sosfiltfilt(torch.from_numpy(sos), x, 0)
    assert found.dtype == (dtype if dtype.is_floating_point else torch.get_default_dtype())
    np.testing.assert_allclose(found.double(), expected, atol=abs(expected).max() * 1e-3)
    np.testing.assert_allclose(sosfiltfilt(sos, x.numpy(), 0).astype(float), expected, atol=abs(expected).max() * 1e-3)


def loop(a, x, past, lengths):
    """All poles along the first axis, of ``a`` (steps, series, order) and ``past`` (order, series)."""
    y, last = np.zeros_like(x), past.copy()
    for c, length in enumerate(lengths):
        history = [*past[:, c]]
        for t in range(length):
            y[t, c] = x[t, c] - np.dot(a[t, c], history)
            history = [y[t, c], *history[:-1]]
        last[:, c] = history
    return y, last


@pytest.mark.parametrize("kind", ["shared", "own", "varying"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.sample(order=[1, 2])
def test_allpole(kind, reverse, order):
    x, past, lengths = noise(9, 3), noise(order, 3, seed=1), [9, 0, 2]
    a = 0.3 * noise(*{"shared": (), "own": (3,), "varying": (9, 3)}[kind], order, seed=2)
    each = np.broadcast_to(a if kind != "own" else a[None], (9, 3, order))

    def turned(array):
        array = array.copy()
        for c, length in enumerate(lengths):
            array[:length, c] = array[:length, c][:: -1 if reverse else 1].copy()
        return array

    expected, last = loop(turned(each), turned(x), past, lengths)
    options = {"reverse": reverse, "lengths": lengths}
    y, zf = allpole(a, x, 0, past, **options)
    assert_close(y, turned(expected))
    assert_close(zf, last)
    assert_close(allpole(a, x.astype(np.float32), 0, past, **options)[1], last, 1e-6)
    lazy = allpole(a, da.from_array(x, chunks=4), 0, past, **options)
    assert_close(lazy[1].compute(), last)
    g, grad_zf = noise(9, 3, seed=3), noise(order, 3, seed=4)
    grads = allpole_vjp(g, a, x, y, past, axis=0, grad_zf=grad_zf, **options)
    tensors = [torch.from_numpy(v).requires_grad_() for v in (a, x, past)]
    own = allpole(tensors[0], tensors[1], 0, tensors[2], **options)
    wanted = torch.autograd.grad(own, tensors, [torch.from_numpy(v) for v in (g, grad_zf)])
    for grad, other in zip(grads, wanted, strict=True):
        assert_close(grad, other.numpy())
    again = allpole_vjp(torch.from_numpy(g), *tensors[:2], own[0], tensors[2], axis=0, **options)
    assert [v.shape for v in again] == [v.shape for v in wanted]


@pytest.mark.parametrize("shape", [(2,), (3, 2), (20, 3, 2)])
def test_coefficients_in_bfloat16(shape):
    """As bits they would be great numbers."""
    a, x = torch.from_numpy(0.3 * noise(*shape)).bfloat16(), torch.from_numpy(noise(20, 3)).requires_grad_()
    for given in (a, a[..., :1]):
        wanted = allpole(given.double(), x, 0)
        torch.testing.assert_close(allpole(given, x, 0), wanted, rtol=1e-12, atol=1e-12)
        grads = (torch.autograd.grad(y.sum(), x)[0] for y in (allpole(given, x, 0), wanted))
        torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", [np.flip, lambda a: a.astype(">f8")], ids=["backwards", "other byte order"])
def test_arrays_of_any_form_beside_tensors(form):
    a, zi, x = form(0.3 * noise(2)), form(noise(3, 2)), torch.from_numpy(noise(3, 20))
    for ours, wanted in zip(allpole(a, x, zi=zi), allpole(a, x.numpy(), zi=zi), strict=True):
        assert_close(ours.numpy(), wanted)


@pytest.mark.parametrize("reverse", [False, True])
def test_coefficients_that_descend_through_memory(reverse):
    a, x = 0.2 * noise(3, 40, 3), noise(3, 40)
    y = allpole(a, x, reverse=reverse)
    descending = np.flip(np.flip(a).copy())
    assert max(descending.strides) < 0
    np.testing.assert_array_equal(allpole(descending, x, reverse=reverse), y)
    given = (allpole_vjp(x, own, x, y, reverse=reverse)[:2] for own in (a, descending))
    for one, other in zip(*given, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["lfilter", "allpole", pytest.param("varying", marks=pytest.mark.exhaustive)])
def test_gradients_of_tensors(kind):
    random = torch.Generator().manual_seed(0)

    def make(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=random).requires_grad_()

    if kind == "lfilter":
        operands = make(4), (torch.tensor([1.2, 0.3, -0.2]).double()).requires_grad_(), make(6, 2), make(3, 2)
        call = lambda b, a, x, zi: lfilter(b, a, x, 0, zi)  # noqa: E731
    else:
        operands = make(*(5, 2) * (kind == "varying"), 2), make(5, 2), make(2, 2)
        call = lambda a, x, zi: allpole(a, x, 0, zi)  # noqa: E731
    assert torch.autograd.gradcheck(call, operands)
    assert torch.autograd.gradgradcheck(call, operands, fast_mode=True)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: lfilter([1.0], [0.0, 1.0], x), ValueError, "`a` must not begin with 0"),
        (lambda x: lfilter(np.ones((2, 3)), [1.0], x), ValueError, "`b` must have the shape"),
        (lambda x: lfilter([1.0], [1.0, 0.5, 0.1], x, zi=[1.0, 2.0, 3.0]), ValueError, "`zi` must have the shape"),
        (lambda x: allpole([], x), ValueError, "`a` must have the shape"),
        (lambda x: allpole([0.5j], x), TypeError, "`a` must be real"),
        (lambda x: lfilter([1.0, 2.0j], [1.0], torch.from_numpy(x)), TypeError, "`b` must be real"),
        (lambda x: sosfiltfilt(torch.ones(1, 6) * 1j, torch.from_numpy(x)), TypeError, "`sos` must be real"),
        (lambda x: allpole([0.5], x, zi=[1.0], out=np.empty(4)), ValueError, "`out` must have"),
        (lambda x: sosfiltfilt([[1, 0, 0, 1, 0.5, 0]], da.from_array(x)), TypeError, "`x` must be in memory"),
        (lambda x: allpole(np.ones((9, 99)), x), ValueError, "order 94"),
        (lambda x: sosfiltfilt([[1, 0, 0, 1, 0.5, 0]], x, padtype="none"), ValueError, "`padtype`"),
        (lambda x: sosfiltfilt([[1, 0, 0, 1, 0.5, 0]], x, padlen=9), ValueError, "`padlen`"),
        (lambda x: sosfilt(np.ones((0, 6)), x), ValueError, "`sos`"),
        (lambda x: allpole_vjp(x[:1], [0.5], x, x), ValueError, r"`grad_y` must have the shape \(9,\), got \(1,\)"),
        (lambda x: sosfiltfilt(np.ones((9, 1, 6)), x), ValueError, "must not vary in time"),
        (lambda x: sosfiltfilt([[1, 0, 0, 2, -1, 0]], x), ValueError, "`sos` must have 1"),
        (
            lambda x: sosfilt(np.ones((3, 5)), x),
            ValueError,
            r"shape \(sections, 6\) \(one filter\) or \(9, sections, 6\) \(one for each step\), or 1",
        ),
        (
            lambda x: sosfilt([[1, 0, 0, 1, 0, 0]], pd.Series(x)),
            TypeError,
            r"got pandas.*Series: pass its `to_numpy\(\)`$",
        ),
    ],
)
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call(noise(9))


def test_states_of_allpole_alone_are_tensors():
    x, zi = noise(3, 9), noise(3, 1)
    y, zf = allpole([0.3], x, zi=torch.from_numpy(zi))
    torch.testing.assert_close((y, zf), tuple(map(torch.from_numpy, allpole([0.3], x, zi=zi))))

"""The GPU's filters: their real PTX, run on the CPU, against the CPU's kernels."""

import itertools

import devices
import numpy as np
import pytest
import scipy.signal
from machine_code import together
from problems import filtering

from fastrecur.filters import allpole, allpole_vjp, follow, lfilter, sosfilt, sosfilt_vjp, sosfiltfilt
from fastrecur.smoothing import holt

SOS = scipy.signal.butter(4, 0.2, output="sos")
LENGTHS = np.arange(40) * 2 - 9


def check(cupy, function, *arguments, on_host=(), tolerance=1e-13, kernel="cascade", **options):
    """Compare a call of arrays on a card, but some of them, with one in memory: one launch, results alike."""
    quotient = ["quotient"] if function is lfilter else []
    place = lambda k, v: cupy.place(v) if isinstance(v, np.ndarray) and k not in on_host else v  # noqa: E731
    given = [place(k, v) for k, v in enumerate(arguments)]
    options |= {"return_state": True} if function is not holt else {}
    found = function(*given, **{name: place(name, v) for name, v in options.items()})
    assert [entry[1] for entry in cupy.driver.log if entry[0] == "launch"] == [*quotient, kernel]
    cupy.driver.forget()
    for actual, wanted in zip(found, function(*arguments, **options), strict=True):
        assert (actual.host.dtype, actual.host.shape) == (wanted.dtype, wanted.shape)
        bound = tolerance * np.nanmax(abs(wanted), initial=0)
        np.testing.assert_allclose(actual.host, wanted, rtol=0, atol=bound)


KINDS = [(np.float32, *rest) for rest in itertools.product(["shared", "own", "varying"], [1, 0], [True, False])]
KINDS += [(dtype, "shared", 1, True) for dtype in (np.float64, np.float16, np.complex64, np.int16)]
KINDS += [(np.complex64, kind, 0, True) for kind in ("own", "varying")]


@pytest.mark.sample(case=KINDS[:1])
@pytest.mark.parametrize("case", KINDS)
def test_sosfilt(cupy, rng, case):
    """Chunks and blocks with a rest, states, ragged series in reverse; one filter for all from the host."""
    dtype, kind, axis, is_cut = case
    x = (rng.standard_normal((70, 40)) * 8).astype(dtype) * (1 + 0.5j if dtype == np.complex64 else 1)
    x = x.astype(dtype) if axis == 0 else np.ascontiguousarray(x.astype(dtype).T)
    lead = {"shared": (), "own": (40,), "varying": x.shape}[kind]
    sos, states, options = SOS * (1 + 0.02 * rng.standard_normal((*lead, 2, 6))), [2, 40, 40], {}
    sos[..., 3], states[axis + 1] = 1, 2
    if is_cut:
        options = {"reverse": True, "lengths": LENGTHS.clip(0, 70), "zi": rng.standard_normal(states)}
        options["zi"] = options["zi"] + (0.5j if dtype == np.complex64 else 0)
    half = 1e-3 if dtype == np.float16 else 1e-6 if x.itemsize < 8 or dtype == np.complex64 else 1e-13
    check(cupy, sosfilt, sos, x, axis=axis, on_host=(0,) if not lead else (), tolerance=half, **options)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["shared", "own", "varying"])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_poles_alone(cupy, rng, order, kind):
    x, lead = rng.standard_normal((70, 40)), {"shared": (), "own": (40,), "varying": (70, 40)}[kind]
    a, past = 0.3 * rng.standard_normal((*lead, order)), rng.standard_normal((order, 40))
    check(cupy, allpole, a, x, axis=0, zi=past, reverse=order % 2 == 0, lengths=LENGTHS.clip(0, 70))


@pytest.mark.exhaustive
@pytest.mark.parametrize("on_host", [(0, 1), (0,), (1,), ()])
@pytest.mark.parametrize("order", [0, 1, 2, 4])
def test_polynomials(cupy, rng, order, on_host):
    (b, a), shape = scipy.signal.butter(order, 0.3) if order else ([3.0], 2.0), (3, 40, 2)
    x, zi = rng.standard_normal(shape), rng.standard_normal((3, order, 2))
    check(cupy, lfilter, np.array(b), np.array(a) * -2, x, axis=1, zi=zi, on_host=on_host)


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", ["series", "steps", "steps beside series", "series beside steps", "one beside steps"])
def test_polynomials_of_series_and_steps(cupy, rng, case):
    """Of two lengths, in the other layout; each is divided by its own first coefficient."""
    leads, (own, other) = {"series": (3, 2), "steps": (3, 40, 2), "one": ()}, (case.split(" beside ") * 2)[:2]
    b, a = (
        np.asfortranarray(polynomial * (1 + 0.02 * rng.standard_normal((*leads[kind], len(polynomial)))))
        for polynomial, kind in (([0.2, 0.3, 0.1, 0.05], own), ([2.0, -1.4, 0.6], other))
    )
    x, options = rng.standard_normal((3, 40, 2)), {"axis": 1, "zi": rng.standard_normal((3, 3, 2)), "reverse": True}
    check(cupy, lfilter, b, a, x, lengths=np.array([[40, 0], [9, 30], [1, 40]]), **options)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtypes", [(np.float32, np.float32), (np.float64, np.int32), (np.float16, np.float16)])
def test_dtypes_of_polynomials(cupy, rng, dtypes):
    """Quotients are those in memory, to the bit, so outputs are the same within the last digits."""
    b, a = (np.array(v).astype(dtype) for v, dtype in zip(([0.25, 0.5], [3.0, -1.0, 1.0]), dtypes, strict=True))
    x = rng.standard_normal((33, 70)).astype(np.complex64)
    check(cupy, lfilter, b, a, x, tolerance=1e-6)
    check(cupy, lfilter, b, a, x.real.astype(float))


@pytest.mark.exhaustive
def test_a_first_coefficient_of_zero_on_a_card(cupy):
    """Nobody looks at it: its series is not finite, others are as ever; nothing is copied."""
    a, x = np.array([[0.0, 1.0], [np.nan, 1.0], [2.0, 1.0]]), np.ones((3, 40))
    y = lfilter(cupy.place(np.array([1.0, 0.5])), cupy.place(a), cupy.place(x)).host
    assert not [entry for entry in cupy.driver.log if entry[0] == "upload"]
    assert not np.isfinite(y[:2]).any()
    np.testing.assert_allclose(y[2], scipy.signal.lfilter([1.0, 0.5], a[2], x[2]), rtol=1e-13)


@pytest.mark.exhaustive
@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize(
    "case",
    [
        (np.float32, "shared", 1),
        (np.float64, "own", 0),
        (np.float64, "varying", 1),
        (np.complex64, "shared", 0),
        (np.complex128, "own", 1),
        (np.complex64, "varying", 0),
    ],
)
@pytest.mark.parametrize("order", [None, 1, 2, 5])
def test_gradients(cupy, rng, order, case, is_cut):
    """Of sections, and of poles alone: broadcast coefficients and states get sums; ragged series in reverse."""
    dtype, kind, axis = case
    imaginary = 0.5j if np.dtype(dtype).kind == "c" else 0
    draw = lambda *shape: rng.standard_normal(shape) * (1 + imaginary)  # noqa: E731
    x, g = (np.ascontiguousarray((draw(33, 40) if axis == 0 else draw(40, 33)).astype(dtype)) for _ in range(2))
    lead = {"shared": (), "own": (40,), "varying": (x.shape[0], 1)}[kind]
    states = [40, 40]
    states[axis] = order or 2
    k = SOS * (1 + 0.02 * rng.standard_normal((*lead, 2, 6)))
    k[..., 3] = 1
    k, states = (0.3 * rng.standard_normal((*lead, order)), states) if order else (k, [2, *states])
    options = {"axis": axis}
    if is_cut:
        options |= {"reverse": True, "lengths": (LENGTHS // 2).clip(0, 33)}
    zi, last = draw(*states) if is_cut else draw(*(n if n < 40 else 1 for n in states)), draw(*states)
    forward, function = (allpole, allpole_vjp) if order else (sosfilt, sosfilt_vjp)
    y = forward(k, x, zi=zi, **options)[0]
    wanted = function(g, k, x, y, zi, grad_zf=last, **options)
    found = function(*map(cupy.place, (g, k, x, y, zi)), grad_zf=cupy.place(last), **options)
    for name, actual, expected in zip(("k", "x", "zi"), found, wanted, strict=True):
        assert (actual.host.dtype, actual.host.shape) == (expected.dtype, expected.shape)
        close = 1e-12 if expected.itemsize // (1 + (expected.dtype.kind == "c")) == 8 else 2e-6
        np.testing.assert_allclose(actual.host, expected, rtol=0, atol=close * abs(expected).max(), err_msg=name)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "case",
    [
        ("odd", np.float64, 0, None),
        ("even", np.float16, 1, 9),
        ("constant", np.complex64, 0, 40),
        ("odd", np.int16, 1, 3),
        (None, np.float32, 1, None),
        ("odd", np.complex128, 1, 0),
    ],
)
def test_sosfiltfilt(cupy, rng, case):
    """Ends are continued in the card's memory; one filter for all, one for each series, of the host or the card."""
    padtype, dtype, axis, padlen = case
    x = np.ascontiguousarray((rng.standard_normal((70, 40) if axis == 0 else (40, 70)) * 8).astype(dtype))
    x = x * np.array(1 + 0.5j, dtype) if x.dtype.kind == "c" else x
    sos = SOS if axis else np.stack([SOS, *[scipy.signal.butter(4, 0.3, output="sos")] * 39])
    wanted = sosfiltfilt(sos, x, axis, padtype, padlen)
    half = 1e-3 if dtype == np.float16 else 1e-6 if dtype in (np.float32, np.complex64) else 1e-13
    known = 15 if padlen is None else padlen  # what is found in the host's coefficients
    for given, steps in ((sos, padlen), (cupy.place(sos.copy()), known)):
        found = sosfiltfilt(given, cupy.place(x), axis, padtype, steps)
        assert (found.host.dtype, found.host.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_allclose(found.host, wanted, rtol=0, atol=half * abs(wanted).max())
    assert sosfiltfilt(SOS, cupy.place(np.ones((3, 0))), padlen=0).shape == (3, 0)


@pytest.mark.exhaustive
def test_sosfiltfilt_of_coefficients_on_a_card(cupy, rng):
    """Nobody looks at them, and nothing is copied; a pole at 1 leads to no steady state."""
    x = rng.standard_normal((3, 40))
    sos = np.stack([SOS, SOS, SOS])
    sos[1, 0, 4:] = -1.5, 0.5
    found = sosfiltfilt(cupy.place(sos), cupy.place(x), padtype=None).host
    assert not [entry for entry in cupy.driver.log if entry[0] == "upload"]
    wanted = sosfiltfilt(SOS, x[::2], padtype=None)
    np.testing.assert_allclose(found[::2], wanted, rtol=0, atol=1e-13 * abs(wanted).max())
    assert not np.isfinite(found[1]).any()


@pytest.mark.exhaustive
def test_digits_shapes_and_in_place(cupy, rng):
    """Poles near 1 and -1; one series; none; no steps, which leave the states; the input's own memory."""
    slow = np.concatenate([scipy.signal.butter(2, 1e-4, output="sos"), [[1, 0.2, 0, 1, 1.98, 0.9802]]])
    check(cupy, sosfilt, slow, rng.standard_normal(3000), on_host=(0,), tolerance=1e-12)
    for shape in ((0, 3), (9, 0)):
        sos, x = (cupy.place(np.ones((*shape, *more))) for more in ((2, 6), ()))
        y, zf = sosfilt(sos, x, 0, cupy.place(np.ones((2, 2, shape[1]))))
        assert y.shape == shape and (zf.host == 1).all()
        y, zf = follow(x, x, x, 0, cupy.place(np.ones((1, shape[1]))))
        assert y.shape == shape and (zf.host == 1).all()
    x = rng.standard_normal((3, 70))
    placed, expected = cupy.place(x), sosfilt(SOS, x)
    assert sosfilt(SOS, placed, out=placed) is placed
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-13)


@pytest.mark.exhaustive
@pytest.mark.parametrize("gates", ["numbers", "series", "steps"])
@pytest.mark.parametrize("axis", [1, 0])
def test_follow(cupy, rng, gates, axis):
    shape = (40, 70) if axis else (70, 40)
    one = (40, 1) if axis else (1, 40)
    own = {"series": one, "steps": shape}.get(gates, ())
    attack, release = (rng.random(own if gates == "steps" or k else ()) if own else 0.3 for k in (1, 0))
    x, options = rng.standard_normal(shape).astype(np.float32), {"axis": axis, "tolerance": 1e-6, "kernel": "follow"}
    check(cupy, follow, x, attack, release, zi=rng.standard_normal(one), **options)


@pytest.mark.exhaustive
@pytest.mark.parametrize("given", ["nothing", "level", "trend", "all"])
@pytest.mark.parametrize("axis", [0, 1])
def test_holt(cupy, rng, given, axis):
    """Series that begin late, twice, never, or have one value; an infinity is missing, too."""
    x, one = rng.standard_normal((70, 40)), np.ones((1, 40))
    x[:3, 2] = x[:2, 3] = x[3:5, 3] = x[:, 5] = x[1:, 6] = np.nan
    x[40, 7] = np.inf
    options = {"phi": 0.9, "axis": axis, "tolerance": 1e-6, "kernel": "holt"}
    options |= {name: rng.standard_normal(40) for name in ("level", "trend") if given in (name, "all")}
    x, one = (x.T.copy(), one.T) if axis else (x, one)
    check(cupy, holt, x.astype(np.float32), one * 0.3, 0.2, **options)


def test_errors(cupy):
    x, a, wide = (cupy.place(v) for v in (np.ones((4, 9), np.float32), np.ones((4, 2)), np.ones((4, 9))))
    for error, text, call in (
        (ValueError, "`sos` must have 1", lambda: sosfilt(2 * SOS, x)),
        (ValueError, "`sos` must have the shape", lambda: sosfilt(a, x)),
        (ValueError, "`a` must have the shape", lambda: allpole(np.ones((3, 2)), x)),
        (ValueError, "`zi` must have the shape", lambda: sosfilt(SOS, x, zi=a)),
        (TypeError, "`zi` must be complex", lambda: sosfilt(SOS, x, zi=np.ones((2, 4, 2), complex))),
        (TypeError, "`sos` must be real", lambda: sosfilt(cupy.place(SOS + 0j), x)),
        (TypeError, "`out` must have the result's dtype float32", lambda: sosfilt(SOS, x, out=wide)),
        (ValueError, "`out` must be `x` itself", lambda: sosfilt(SOS, x, out=cupy.place(x.host[:, ::-1]))),
        (TypeError, "`x`", lambda: sosfilt(cupy.place(SOS), x.host)),
        (TypeError, "`a` must be an array", lambda: allpole(None, x)),
        (TypeError, "`attack` must be an array", lambda: follow(x, None, 0.1)),
        (ValueError, "`a` must not begin with 0", lambda: lfilter(x, [0.0, 1.0], x)),
        (ValueError, "`b` must have the shape", lambda: lfilter(cupy.place(np.ones((3, 2))), a, x)),
        (TypeError, "`a` must be real", lambda: lfilter(a, cupy.place(np.ones(2, complex)), x)),
        (TypeError, "`b` must be an array", lambda: lfilter(None, a, x)),
        (TypeError, "`x` must be on the device that `a` is on", lambda: lfilter([1.0], a, x.host)),
        (ValueError, "`zi` must have the shape", lambda: lfilter(a, a, x, zi=a)),
        (ValueError, "`y` must have the shape", lambda: sosfilt_vjp(x, SOS, x, a)),
        (TypeError, "`grad_y` must be complex", lambda: sosfilt_vjp(cupy.place(np.ones((4, 9), complex)), SOS, x, x)),
        (ValueError, "`grad_zf` must have the shape", lambda: allpole_vjp(x, a, x, x, grad_zf=wide)),
        (TypeError, "`grad_y`", lambda: allpole_vjp(x.host, a, x, x)),
        (ValueError, "`padlen` must be given.* is 15 where no b2", lambda: sosfiltfilt(cupy.place(SOS), x)),
        (TypeError, "`x` must be on the device that `sos` is on", lambda: sosfiltfilt(cupy.place(SOS), x.host)),
        (ValueError, "`sos` must not vary in time", lambda: sosfiltfilt(cupy.place(np.ones((4, 9, 1, 6))), x)),
        (ValueError, "`padlen` must be less", lambda: sosfiltfilt(SOS, x)),
        (ValueError, "`sos` must have 1", lambda: sosfiltfilt(2 * SOS, x, padlen=2)),
        (ValueError, "no pole at 1", lambda: sosfiltfilt([[1, 0, 0, 1, -1, 0]], x, padlen=2)),
        (ValueError, "order 94 at most, got 95", lambda: allpole(np.ones((4, 9, 95)), x)),
        (ValueError, "order 94 at most, got 95", lambda: lfilter(np.ones((4, 9, 2)), np.ones(96), x)),
        (ValueError, "`attack` must have the shape", lambda: follow(x, a, 0.1)),
        (ValueError, "`level` must", lambda: holt(x, 0.1, 0.1, level=a)),
        (ValueError, "0 <= beta <= 1", lambda: holt(x, 0.1, 1.1)),
        (TypeError, "`out` must have the result's dtype float32", lambda: follow(x, 0.2, 0.1, out=wide)),
    ):
        with pytest.raises(error, match=text):
            call()
    assert not [entry for entry in cupy.driver.log if entry[0] == "launch"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("card", ["sm_75", "sm_80", "sm_90", "sm_120"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_machine_code(card, dtype):
    """All in registers up to order 12, and a batch of loads before the first is used; sums read one step at a time."""
    capability, every = (int(card[3:-1]), int(card[-1])), list(filtering(dtype))
    for kernel, code in zip(every, together(tuple(devices.ptx(k, capability) for k in every), card), strict=True):
        assert code.local == 0, kernel.key
        assert code.registers <= 128
        if kernel.key[0] != "lags" and dict(kernel.key[3]).get("order") == 2 and dtype != "f8":
            assert code.loads >= 8, kernel.key

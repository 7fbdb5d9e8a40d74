"""The selective scan and its gradient, against the definition in float64."""

import ml_dtypes
import numpy as np
import pytest
from compare import selective_operands as operands

from fastrecur import reference, selective_scan, selective_scan_vjp
from fastrecur._arguments.selective import Operands
from fastrecur._cpu.machine import threads as _threads
from fastrecur._steps import selective as steps

CLOSE = {np.dtype(np.float32): 6e-6, np.dtype(np.float64): 2e-14}  # of the largest number
SOFT = {"delta_softplus": True}


def check(actual, expected, dtype):
    assert actual.shape == expected.shape
    assert actual.dtype == dtype
    error = np.abs(actual - expected).max(initial=0)
    assert error <= CLOSE[np.dtype(dtype)] * np.abs(expected).max(initial=0), error


def check_call(rng, given, **options):
    """Compare results and gradients with the definition's."""
    dtype = given.u.dtype
    wanted = reference.selective_scan(*given, **options, return_state=True)
    for actual, expected in zip(selective_scan(*given, **options, return_state=True), wanted, strict=True):
        check(actual, expected, dtype)
    grad_y, grad_state = (rng.standard_normal(v.shape).astype(dtype) for v in wanted)
    wanted = reference.selective_scan_vjp(grad_y, *given, **options, grad_state=grad_state)
    grads = selective_scan_vjp(grad_y, *given, **options, grad_state=grad_state)
    for own, actual, expected in zip(given, grads, wanted, strict=True):
        if own is None:
            assert actual is None
            assert expected is None
        else:
            check(actual, expected, dtype)


@pytest.mark.sample(dtype=[np.float32], maps=["steps", "groups"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["bdl", "bld"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("maps", ["steps", "groups", "constant"])
@pytest.mark.parametrize("cut", ["", "lengths", "offsets", "resets", "lengths resets", "offsets resets"])
def test_options(rng, dtype, layout, reverse, maps, cut):
    batch, rows = (1, 4) if "offsets" in cut else (3, 3)
    given = operands(rng, batch, layout=layout, maps=maps, dtype=dtype, rows=rows)
    cuts = {"lengths": [70, 0, 33], "offsets": [0, 2, 2, 40, 70], "resets": rng.random((batch, 70)) < 0.1}
    cuts["resets"][0, 0] = True
    check_call(rng, given, **SOFT, layout=layout, reverse=reverse, **{name: cuts[name] for name in cut.split()})


@pytest.mark.sample(layout=["bld"], dtype=[np.float32])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["bdl", "bld"])
@pytest.mark.parametrize("others", ["one axis less", "one group", "constant"])
@pytest.mark.parametrize("name", ["B", "C"])
def test_maps_of_different_kinds(rng, dtype, layout, others, name):
    """B has a map for each group and C one for all of them, or the reverse."""
    given = operands(rng, 3, layout=layout, maps="groups", dtype=dtype)
    axis, whole = 1 if layout == "bdl" else 2, getattr(given, name)
    one = whole.take([0], axis) if others == "one group" else whole.take(0, axis)
    one = rng.standard_normal(given.A.shape).astype(dtype) if others == "constant" else one
    check_call(rng, given._replace(**{name: one}), **SOFT, layout=layout)


@pytest.mark.parametrize(
    ("length", "channels", "states"), [(1, 1, 1), (33, 17, 4), (2, 129, 9), pytest.param(40, 16, 256, id="most states")]
)
def test_sizes_without_options(rng, length, channels, states):
    given = operands(rng, 1, length, channels, states)
    check_call(rng, given._replace(D=None, z=None, delta_bias=None, h0=None, delta=abs(given.delta)))


def test_any_stride(rng):
    given = operands(rng, layout="bld")
    odd = {name: np.repeat(getattr(given, name), 2, -1)[..., ::2] for name in ("u", "B", "A", "h0")}
    odd["delta"] = given.delta[:, ::-1].copy()[:, ::-1]
    odd["C"] = np.broadcast_to(given.C[:1], given.C.shape)
    odd["z"] = given.z.view()
    odd["z"].flags.writeable = False
    given = given._replace(**odd)
    plain = Operands(*map(np.ascontiguousarray, given))
    for call in (selective_scan, lambda *all_, **options: selective_scan_vjp(all_[0], *all_, **options).u):
        np.testing.assert_array_equal(call(*given, layout="bld", **SOFT), call(*plain, layout="bld", **SOFT))


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("layout", ["bdl", "bld"])
@pytest.mark.parametrize("parameters", [np.float32, None])
def test_halves_are_float32_rounded_once(rng, dtype, layout, parameters):
    given = operands(rng, layout=layout)
    halves = Operands(*(v.astype(dtype if v.ndim > 2 else parameters or dtype) for v in given))
    halves = halves._replace(h0=given.h0)
    wide = Operands(*(v.astype(np.float32) for v in halves))
    y, state = selective_scan(*halves, layout=layout, **SOFT, return_state=True)
    wanted, wanted_state = selective_scan(*wide, layout=layout, **SOFT, return_state=True)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, wanted.astype(dtype))
    np.testing.assert_array_equal(state, wanted_state)
    grads = selective_scan_vjp(halves.u, *halves, layout=layout, **SOFT)
    for own, grad, wanted in zip(halves, grads, selective_scan_vjp(wide.u, *wide, layout=layout, **SOFT), strict=True):
        assert grad.dtype == own.dtype
        np.testing.assert_array_equal(grad, wanted.astype(own.dtype))


def test_bits_do_not_depend_on_threads(rng, monkeypatch):
    given, found = operands(rng, 2, 70, 150, 16), []
    for count in (1, 3):
        monkeypatch.setattr(_threads, "_threads", count)
        found.append((selective_scan(*given, **SOFT), *selective_scan_vjp(given.u, *given, **SOFT)))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("reverse", [False, True])
def test_chunks_continue_each_other(rng, reverse):
    given = operands(rng, layout="bld")
    options = SOFT | {"layout": "bld", "reverse": reverse, "return_state": True}
    resets = rng.random((2, 70)) < 0.1
    resets[:, 40] = True
    whole, last = selective_scan(*given, **options, resets=resets)
    parts, state = [], given.h0
    for low, high in [(0, 1), (1, 40), (40, 70)][:: -1 if reverse else 1]:
        own = {name: getattr(given, name)[:, low:high] for name in ("u", "delta", "B", "C", "z")}
        y, state = selective_scan(*given._replace(**own, h0=state), **options, resets=resets[:, low:high])
        parts.append(y)
    np.testing.assert_array_equal(np.concatenate(parts[:: -1 if reverse else 1], 1), whole)
    np.testing.assert_array_equal(state, last)


def test_what_is_not_finite_stays_in_its_channel(rng):
    given = operands(rng)
    y, touched = selective_scan(*given, **SOFT), np.isin(np.arange(40), [3, 4, 5, 6])
    grad = np.ones_like(y)
    grad_u = selective_scan_vjp(grad, *given, **SOFT).u
    given.u[0, 3, 5], given.delta[0, 4, 5], given.A[5, 0], given.A[6] = np.nan, np.inf, 1e30, 3
    bad, wanted = selective_scan(*given, **SOFT), reference.selective_scan(*given, **SOFT)
    np.testing.assert_array_equal(bad[:, ~touched], y[:, ~touched])
    np.testing.assert_array_equal(selective_scan_vjp(grad, *given, **SOFT).u[:, ~touched], grad_u[:, ~touched])
    with np.errstate(over="ignore"):
        found, wanted = (np.isfinite(np.delete(v.astype(np.float32), 6, 1)) for v in (bad, wanted))
    np.testing.assert_array_equal(found, wanted)
    assert not np.isfinite(bad[:, 6, -1]).any()


def test_steps_of_zero_keep_the_state(rng):
    given = operands(rng)
    given = given._replace(delta=np.zeros_like(given.delta), delta_bias=None)
    np.testing.assert_array_equal(selective_scan(*given, return_state=True)[1], given.h0)


def test_padding_is_not_read(rng):
    given, lengths = operands(rng), [70, 31]
    y, grads = selective_scan(*given, lengths=lengths), selective_scan_vjp(given.u, *given, lengths=lengths)
    for name in ("u", "delta", "B", "C", "z"):
        getattr(given, name)[1, :, 31:] = np.nan
    np.testing.assert_array_equal(selective_scan(*given, lengths=lengths), y)
    for one, other in zip(selective_scan_vjp(given.u, *given, lengths=lengths), grads, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not y[1, :, 31:].any()


def test_gradients_of_the_definition(rng):
    given, options = operands(rng, 1, 7, 4, 3, maps="groups", dtype=np.float64), {**SOFT, "reverse": True}
    y, state = reference.selective_scan(*given, **options, return_state=True)
    grad_y, grad_state = rng.standard_normal(y.shape), rng.standard_normal(state.shape)
    grads = reference.selective_scan_vjp(grad_y, *given, **options, grad_state=grad_state)

    def loss(name, change):
        moved = given._replace(**{name: getattr(given, name) + change})
        y, state = reference.selective_scan(*moved, **options, return_state=True)
        return (y * grad_y).sum() + (state * grad_state).sum()

    for name, grad in zip(Operands._fields, grads, strict=True):
        change = 1e-6 * rng.standard_normal(grad.shape)
        np.testing.assert_allclose((loss(name, change) - loss(name, -change)) / 2, (grad * change).sum(), rtol=1e-6)


@pytest.mark.parametrize(("batch", "length", "channels"), [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_nothing(rng, batch, length, channels):
    check_call(rng, operands(rng, batch, length, channels))


ONE = np.ones((1, 2, 3), np.float32)
WRONG = {
    "u": [(ONE[0], ValueError, r"`u` must have the shape \(B, D, L\)"), (None, TypeError, "`u` must be an array")],
    "delta": [(ONE[:, :, :2], ValueError, r"`delta` must have the shape \(1, 2, 3\), got \(1, 2, 2\)")],
    "A": [(np.ones((2, 4), complex), ValueError, "`A` must be real, as complex states are not supported yet")],
    "B": [
        (np.ones((1, 3, 4, 3), np.float32), ValueError, "`B` must have a number of groups that divides"),
        (ONE, ValueError, r"`B` must have the shape \(1, 4, 3\), \(1, G, 4, 3\) or \(2, 4\)"),
    ],
    "h0": [(ONE, ValueError, r"`h0` must have the shape \(1, 2, 4\)")],
    "layout": [
        ("dbl", ValueError, "`layout` must be 'bdl'"),
        ("bld", ValueError, "`A` must have a row for each of the 3 channels .*, got 2: those of layout=bdl"),
    ],
    "delta_softplus": [(1, TypeError, "`delta_softplus` must be True or False")],
    "lengths": [([4], ValueError, "`lengths` must be in 0..3"), ([1, 1], ValueError, r"`lengths` must have the shape")],
    "offsets": [([0, 2], ValueError, "`offsets` must begin with 0 and end with 3")],
    "resets": [([True], ValueError, r"`resets` must have the shape \(1, 3\)"), ([[1]], TypeError, "must hold bools")],
    "out": [
        (np.empty((1, 3, 2), np.float32), ValueError, "`out` must have the result's shape"),
        (np.empty((1, 2, 3)), TypeError, "`out` must have the result's dtype"),
        (np.broadcast_to(ONE[:1, :1], ONE.shape), ValueError, "read-only"),
        ([[[1.0] * 3] * 2], TypeError, "`out` must be an array"),
    ],
}


@pytest.mark.parametrize(
    ("name", "value", "error", "text"), [(k, *case) for k, cases in WRONG.items() for case in cases]
)
def test_errors(name, value, error, text):
    out = np.zeros_like(ONE)
    given = dict(zip("u delta A B C out".split(), (ONE, ONE, ONE[0, :, :1], *[ONE[:, :1]] * 2, out), strict=True))
    given |= {"A": np.ones((2, 4), np.float32), "B": np.ones((1, 4, 3), np.float32), "C": np.ones((2, 4), np.float32)}
    with pytest.raises(error, match=text):
        selective_scan(**given | {name: value})
    assert not out.any()


def test_out_that_is_read_elsewhere(rng):
    given, base = operands(rng, states=40), np.zeros((2, 40, 71), np.float32)
    with pytest.raises(ValueError, match="`out` must share no memory with `B`"):
        selective_scan(*given, out=given.B)
    with pytest.raises(ValueError, match="`out` must be `u` itself or share no memory"):
        selective_scan(*given._replace(u=base[..., 1:]), out=base[..., :-1])


def test_activations_and_powers():
    x = np.linspace(-40, 40, 20001)
    np.testing.assert_allclose(steps.softplus(x)[0], np.logaddexp(0, x), rtol=1e-14)
    np.testing.assert_allclose(steps.softplus(x)[1], 1 / (1 + np.exp(-x)), rtol=1e-14)
    np.testing.assert_allclose(steps.power(x), np.exp2(x), rtol=1e-15)
    x = x.astype(np.float32)
    exact = np.exp2(x.astype(np.float64))
    assert (np.abs(steps.power(x) - exact) <= 2 * np.spacing(exact.astype(np.float32))).all()

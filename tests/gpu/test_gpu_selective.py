"""The GPU's selective scan and its gradient: their real PTX, run on the CPU, against the definition."""

import ml_dtypes
import numpy as np
import pytest
from test_selective import SOFT, check, operands

from fastrecur import reference, selective_scan, selective_scan_vjp


def on_card(cupy, function, *given, **options):
    """Results, as NumPy's arrays, of a call of arrays on a card; and what it launched."""
    place = lambda v: cupy.place(v) if isinstance(v, np.ndarray) else v  # noqa: E731
    options = {name: place(value) for name, value in options.items()}
    results = [v and v.host for v in function(*map(place, given), **options)]
    launched = [entry[1] for entry in cupy.driver.log if entry[0] == "launch"]
    cupy.driver.forget()
    return results, launched


def check_scan(cupy, given, **options):
    """Compare results with the definition's."""
    found, launched = on_card(cupy, selective_scan, *given, **options, return_state=True)
    assert launched == ["selective"]
    for actual, expected in zip(found, reference.selective_scan(*given, **options, return_state=True), strict=True):
        check(actual, expected, given.u.dtype)


def check_gradients(cupy, rng, given, **options):
    """Compare gradients with the definition's."""
    states = len(options["offsets"]) - 1 if "offsets" in options else len(given.u), *given.A.shape
    grad_y, grad_state = (rng.standard_normal(shape).astype(given.u.dtype) for shape in (given.u.shape, states))
    found, launched = on_card(cupy, selective_scan_vjp, grad_y, *given, **options, grad_state=grad_state)
    assert launched[:2] == ["selective", "selective_vjp"]
    assert {*launched[2:]} == {"sums"}
    wanted = reference.selective_scan_vjp(grad_y, *given, **options, grad_state=grad_state)
    for actual, expected in zip(found, wanted, strict=True):
        if actual is None:
            assert expected is None
        else:
            check(actual, expected, given.u.dtype)


# Each layout, maps, and cut of a row; kernels of 16 states are those of which test_gpu_code looks at the code.
CASES = {
    "groups": (np.float32, 5, "bdl", "groups", "lengths resets"), "steps": (np.float32, 5, "bld", "steps", "offsets"),
    "constant": (np.float32, 5, "bld", "constant", ""), "resets": (np.float32, 5, "bdl", "constant", "resets"),
    "both": (np.float32, 5, "bld", "groups", "offsets resets"), "plain": (np.float32, 16, "bdl", "steps", "lengths"),
    "wide": (np.float64, 16, "bdl", "steps", ""), "wide groups": (np.float64, 5, "bld", "groups", "lengths resets"),
    "one group": (np.float32, 5, "bdl", "groups", ""),
}  # fmt: skip


def problem(rng, case, reverse, length=70, channels=40):
    """Return operands and options."""
    dtype, states, layout, maps, cut = CASES[case]
    batch, rows = (1, 4) if "offsets" in cut else (3, 3)
    given = operands(rng, batch, length, channels, states, layout=layout, maps=maps, dtype=dtype, rows=rows)
    if case == "both":  # what C has is for both groups
        given = given._replace(C=given.C[:, :, 0].copy())
    if case == "one group":  # as "both", with an axis for it
        given = given._replace(C=given.C[:, :1].copy())
    cuts = {"lengths": np.array([length, 0, length // 2]), "offsets": np.array([0, 2, 2, length - 9, length])}
    cuts["resets"] = rng.random((batch, length)) < 0.1
    cuts["resets"][0, 0] = True
    return given, SOFT | {"layout": layout, "reverse": reverse} | {name: cuts[name] for name in cut.split()}


@pytest.fixture
def interpreted(cupy, monkeypatch):
    """A card on which kernels are interpreted: those of a gradient take some seconds to compile."""
    import simulator

    simulator.like_compiled_code(monkeypatch.setattr)
    cupy.driver = simulator.Driver()
    monkeypatch.setattr("fastrecur._cuda.launch.driver", lambda: cupy.driver)
    return cupy


@pytest.mark.sample(case=["groups", "constant"])
@pytest.mark.parametrize("case", CASES)
def test_gradients_as_python(interpreted, rng, case):
    given, options = problem(rng, case, True, 18, 6)
    check_gradients(interpreted, rng, given, **options)


@pytest.mark.sample(case=["groups"])
@pytest.mark.parametrize("case", ["groups", "plain", "wide"])
def test_scan(cupy, rng, case):
    for reverse in (False, True):
        given, options = problem(rng, case, reverse)
        check_scan(cupy, given, **options)


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", ["groups", "constant", "plain", "wide"])
def test_gradients(cupy, rng, case):
    for reverse in (False, True):
        given, options = problem(rng, case, reverse)
        check_gradients(cupy, rng, given, **options)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_halves_and_sizes(cupy, rng, dtype):
    """Beside parameters in float32, and the most states."""
    given, names = operands(rng, 1, 5, 20, 256 if dtype == np.float16 else 16), ("u", "delta", "B", "C", "z")
    given = given._replace(**{name: getattr(given, name).astype(dtype) for name in names})
    wide = given._replace(**{name: getattr(given, name).astype(np.float32) for name in names})
    wanted = reference.selective_scan(*wide, **SOFT, return_state=True)
    wanted += reference.selective_scan_vjp(wide.u, *wide, **SOFT)
    found = on_card(cupy, selective_scan, *given, **SOFT, return_state=True)[0]
    found += on_card(cupy, selective_scan_vjp, given.u, *given, **SOFT)[0]
    check(found[1], wanted[1], np.float32)
    for own, actual, expected in zip((given.u, given.h0, *given), found, wanted, strict=True):
        assert actual.dtype == own.dtype
        bound = 1e-2 if own.dtype == dtype else 1e-5
        np.testing.assert_allclose(actual.astype(float), expected, bound, bound * abs(expected).max())


@pytest.mark.exhaustive
def test_as_for_many_channels(cupy, rng, monkeypatch):
    """Several states for each lane."""
    monkeypatch.setattr("fastrecur._cuda.plan.THREADS_WANTED", 0)
    given = operands(rng, 1, 37, 40, 16)
    check_scan(cupy, given, **SOFT)
    check_gradients(cupy, rng, given, **SOFT)


@pytest.mark.exhaustive
def test_without_what_may_be_missing(interpreted, rng):
    given = operands(rng, 2, 9, 5, 3)
    given = given._replace(D=None, z=None, delta_bias=None, h0=None, delta=abs(given.delta))
    check_scan(interpreted, given)
    check_gradients(interpreted, rng, given)
    given = operands(rng, 2, 9, 5, 3, dtype=np.float64)  # integers are float64; a gradient is laid out as its operand
    given = given._replace(u=np.arange(90).reshape(2, 5, 9) % 3, B=given.B.transpose(0, 2, 1).copy().transpose(0, 2, 1))
    grads, _ = on_card(interpreted, selective_scan_vjp, given.z, *given)
    for actual, wanted in zip(grads, reference.selective_scan_vjp(given.z, *given), strict=True):
        check(actual, wanted, np.float64)
    assert grads[3].strides == given.B.strides


@pytest.mark.exhaustive
@pytest.mark.parametrize(("batch", "length", "channels"), [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_nothing(interpreted, rng, batch, length, channels):
    given = operands(rng, batch, length, channels)
    for own, grad in zip(given, on_card(interpreted, selective_scan_vjp, given.u, *given)[0], strict=True):
        assert grad.shape == own.shape
        assert not grad.any()


def test_errors(cupy, rng):
    given = operands(rng, 1, 3, 2, 4)
    placed = [cupy.place(v) for v in given]
    with pytest.raises(ValueError, match=r"`grad_y` must have the shape \(1, 2, 3\)"):
        selective_scan_vjp(placed[2], *placed)
    with pytest.raises(ValueError, match="`A` must have at most 256 states a channel on a GPU, got 257"):
        selective_scan(*placed[:2], cupy.place(np.ones((2, 257), np.float32)), *[cupy.place(np.ones((2, 257)))] * 2)
    with pytest.raises(ValueError, match="`B` must have the shape"):
        selective_scan(*placed[:3], placed[0], *placed[4:])
    with pytest.raises(ValueError, match="`out` must be `delta` itself or share no memory"):
        selective_scan(*placed, out=cupy.place(given.delta[:, ::-1]))
    assert not cupy.driver.log

"""The GPU's selective scan: its real PTX, run on the CPU, against the definition."""

import ml_dtypes
import numpy as np
import pytest
from test_selective import SOFT, check, operands

from fastrecur import reference, selective_scan, selective_scan_vjp


def on_card(cupy, given, **options):
    """Results, as NumPy's arrays, of a call of arrays on a card."""
    place = lambda v: cupy.place(v) if isinstance(v, np.ndarray) else v  # noqa: E731
    options = {name: place(value) for name, value in options.items()}
    results = selective_scan(*map(place, given), **options, return_state=True)
    assert [entry[1] for entry in cupy.driver.log if entry[0] == "launch"] == ["selective"]
    cupy.driver.forget()
    return [result.host for result in results]


def check_call(cupy, given, **options):
    wanted = reference.selective_scan(*given, **options, return_state=True)
    for actual, expected in zip(on_card(cupy, given, **options), wanted, strict=True):
        check(actual, expected, given.u.dtype)


CUTS = ["", "lengths", "offsets", "resets", "lengths resets", "offsets resets"]


@pytest.mark.sample(dtype=[np.float32], maps=["groups"], layout=["bdl"], reverse=[True], cut=["lengths resets"])
@pytest.mark.parametrize("dtype", [np.float32])
@pytest.mark.parametrize("layout", ["bdl", "bld"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("maps", ["steps", "groups", "constant"])
@pytest.mark.parametrize("cut", CUTS)
def test_options(cupy, rng, dtype, layout, reverse, maps, cut):
    batch, rows = (1, 4) if "offsets" in cut else (3, 3)
    given = operands(rng, batch, layout=layout, maps=maps, dtype=dtype, rows=rows)
    cuts = {"lengths": np.array([70, 0, 33]), "offsets": np.array([0, 2, 2, 40, 70])}
    cuts["resets"] = rng.random((batch, 70)) < 0.1
    cuts["resets"][0, 0] = True
    check_call(cupy, given, **SOFT, layout=layout, reverse=reverse, **{name: cuts[name] for name in cut.split()})


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_halves_and_sizes(cupy, rng, dtype):
    """Beside parameters in float32, of one state and of the most."""
    given = operands(rng, 1, 5, 20, 256 if dtype == np.float16 else 1)
    given = given._replace(**{name: getattr(given, name).astype(dtype) for name in ("u", "delta", "B", "C", "z")})
    wide = given._replace(**{name: getattr(given, name).astype(np.float32) for name in ("u", "delta", "B", "C", "z")})
    wanted = reference.selective_scan(*wide, **SOFT, return_state=True)
    y, state = on_card(cupy, given, **SOFT)
    check(state, wanted[1], np.float32)
    assert y.dtype == dtype
    np.testing.assert_allclose(y.astype(float), wanted[0], rtol=1e-2, atol=1e-2)


def test_errors(cupy, rng):
    given = operands(rng, 1, 3, 2, 4)
    placed = [cupy.place(v) for v in given]
    with pytest.raises(TypeError, match="selective_scan_vjp must be in CPU memory"):
        selective_scan_vjp(placed[0], *placed)
    with pytest.raises(TypeError, match="`u` must hold float32, float16 or bfloat16 on a GPU"):
        selective_scan(cupy.place(given.u.astype(float)), *placed[1:])
    with pytest.raises(ValueError, match="`B` must have the shape"):
        selective_scan(*placed[:3], placed[0], *placed[4:])
    with pytest.raises(ValueError, match="`out` must be `delta` itself or share no memory"):
        selective_scan(*placed, out=cupy.place(given.delta[:, ::-1]))
    assert not cupy.driver.log


@pytest.mark.exhaustive
@pytest.mark.parametrize("states", [2, 16])
def test_as_for_many_channels(cupy, rng, monkeypatch, states):
    """Several states for each lane."""
    monkeypatch.setattr("fastrecur._cuda.plan.THREADS_WANTED", 0)
    check_call(cupy, operands(rng, 1, 37, 40, states), **SOFT)

"""Offsets and resets on Dask arrays: chunks cut anywhere change nothing."""

import dask.array as da
import numpy as np
import pytest
from compare import assert_close_lazy

import fastrecur

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPES = [((13,), 0), ((12, 3), 0), ((2, 12, 3), 1), ((3, 13), 1)]


def check(name, rng, shape, axis, size, **options):
    """Compare values, states and gradients with those of arrays in memory."""
    recurrence, vjp = getattr(fastrecur, name), getattr(fastrecur, name + "_vjp")
    lanes = shape[:axis] + shape[axis + 1 :]
    if "offsets" in options:
        lanes = (len(options["offsets"]) - 1, *lanes)
    # Of float32, for which the tests of arrays in memory have compiled the same kernels.
    a, b = rng.random(shape, np.float32), rng.standard_normal(shape, np.float32)
    lazy = dict(options)
    if isinstance(options.get("resets"), np.ndarray) and size != 5:
        lazy["resets"] = da.from_array(options["resets"], 4)
    states = (None, *(rng.standard_normal(n, np.float32) for n in (lanes, (1,) * len(lanes))))
    for h0 in states[:: 1 if size == 3 else 2]:
        own = None if h0 is None else da.from_array(h0, 2)
        arrays = da.from_array(a, size), da.from_array(b, size + 1)
        h, last = recurrence(a, b, h0, axis=axis, return_state=True, **options)
        lazy_h, lazy_last = recurrence(*arrays, own, axis=axis, return_state=True, **lazy)
        assert_close_lazy(lazy_h, h, 1e-6)
        assert_close_lazy(lazy_last, last, 1e-6)
        g, g_last = rng.standard_normal(shape, np.float32), rng.standard_normal(last.shape, np.float32)
        wanted = vjp(g, a, b, h, h0, axis=axis, grad_state=g_last, **options)
        found = vjp(da.from_array(g, size), *arrays, lazy_h, own, axis=axis, grad_state=g_last, **lazy)
        for one, other in zip(found, wanted, strict=True):
            assert (one is None) == (other is None)
            if other is not None:
                assert_close_lazy(one, other, 1e-5)


@pytest.mark.exhaustive
@pytest.mark.sample(name=["linear_recurrence"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["forget_mult", "linear_recurrence"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_chunks_change_nothing(rng, name, shape, axis, reverse):
    steps = shape[axis]
    some = np.sort(rng.integers(0, steps + 1, 4))
    for size in (3, 20) if name == "forget_mult" else (5,):
        for offsets in ([0, 3, 3, 4, 9, steps], [0, *some, steps, steps]):
            check(name, rng, shape, axis, size, offsets=offsets, reverse=reverse)
        for n in range(axis + 1, len(shape) + 1):
            check(name, rng, shape, axis, size, resets=rng.random(shape[:n]) < 0.3, reverse=reverse)


@pytest.mark.exhaustive
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["forget_mult", "linear_recurrence"])
def test_resets_with_offsets_and_with_lengths(rng, name, reverse):
    resets = rng.random((12, 3)) < 0.3
    resets[[0, 4, 6]] = True
    check(name, rng, (12, 3), 0, 4, offsets=[0, 4, 6, 12], resets=resets, reverse=reverse)
    check(name, rng, (12, 3), 0, 4, lengths=np.array([12, 5, 0]), resets=resets, reverse=reverse)
    check(name, rng, (2, 3, 12), 2, 4, lengths=np.array([12, 5]), resets=rng.random((2, 3, 12)) < 0.3, reverse=reverse)


def test_no_border_is_passed(rng):
    x = da.from_array(np.where(np.arange(12) == 5, np.nan, 1.0), 4)
    for options in ({"offsets": [0, 6, 12]}, {"resets": da.from_array(np.arange(12) == 6, 5)}):
        h = fastrecur.forget_mult(0.5, x, **options).compute()
        assert np.isnan(h).tolist() == [False] * 5 + [True] + [False] * 6


@pytest.mark.exhaustive
@pytest.mark.parametrize("size", [2, 3, 12])
def test_factors_at_a_border_are_not_used(size):
    """In reverse a border stands before a chunk's first step, and the factor in the chunk before it."""
    a, b = np.full((12, 3), 0.5), np.arange(36.0).reshape(12, 3) + 1
    resets, lengths = np.zeros((12, 3), bool), np.array([12, 12, 6])
    resets[6, :2] = resets[9, 0] = True
    a[5, :2] = np.nan, np.inf
    resets[6, 2] = True  # in the padding: the factor before it is used
    options = {"reverse": True, "resets": resets, "lengths": lengths}
    h0, g = np.array([1.0, 2.0, 3.0]), np.ones((12, 3))
    h = fastrecur.linear_recurrence(a, b, h0, **options)
    assert np.isfinite(h).all()
    arrays = [da.from_array(v, size) for v in (a, b)]
    assert_close_lazy(fastrecur.linear_recurrence(*arrays, h0, **options), h)
    g[5] = np.inf, np.inf, 1
    wanted = fastrecur.linear_recurrence_vjp(g, a, b, h, h0, **options)
    assert (wanted[0][5, :2] == 0).all()
    found = fastrecur.linear_recurrence_vjp(da.from_array(g, size), *arrays, da.from_array(h, size), h0, **options)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.compute(), other, rtol=1e-12)  # infinities among them


@pytest.mark.exhaustive
@pytest.mark.parametrize("factor", [0.5, np.float32(0.5), np.full((1, 2), 0.5, np.float32), np.inf])
def test_broadcast_factors_at_a_border_are_not_used(factor):
    b, g = np.arange(16, dtype=np.float32).reshape(8, 2), np.ones((8, 2), np.float32)
    resets = np.full((8, 2), factor is np.inf)
    resets[4] = True
    g[3, 0] = np.inf
    options = {"reverse": True, "resets": resets}
    h = fastrecur.linear_recurrence(factor, b, **options)
    lazy = fastrecur.linear_recurrence(factor, da.from_array(b, 4), **options)
    assert lazy.compute().dtype == lazy.dtype == np.float32
    np.testing.assert_array_equal(lazy.compute(), h)
    wanted = fastrecur.linear_recurrence_vjp(g, factor, b, h, **options)[0]
    found, *_ = fastrecur.linear_recurrence_vjp(da.from_array(g, 4), factor, da.from_array(b, 4), lazy, **options)
    np.testing.assert_allclose(found.compute(), wanted, rtol=1e-6)
    assert found.compute().dtype == found.dtype == wanted.dtype
    assert np.isfinite(wanted).any()


def test_what_is_refused(rng):
    x = da.ones((6, 2), chunks=3)
    with pytest.raises(ValueError, match="`offsets` must begin with 0 and end with 6"):
        fastrecur.forget_mult(0.5, x, offsets=[0, 5])
    with pytest.raises(TypeError, match="`resets` must hold bools"):
        fastrecur.forget_mult(0.5, x, resets=da.ones(6, chunks=3))
    with pytest.raises(ValueError, match="`resets` must be shaped"):
        fastrecur.forget_mult(0.5, x, resets=da.ones(5, dtype=bool, chunks=3))
    with pytest.raises(ValueError, match="`h0`"):
        fastrecur.forget_mult(0.5, x, np.ones((3, 2)), offsets=[0, 2, 6])

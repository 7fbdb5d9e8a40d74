"""`follow` beside a plain loop: any axis, gates of series and of steps, dtypes, chunks; and its gradients."""

import dask.array as da
import numpy as np
import pytest
import torch

from fastrecur import forget_mult
from fastrecur._cpu.kernels.levels import plain_follow
from fastrecur.filters import follow


def loop(x, attack, release, axis, zi=0.0):
    x = np.asarray(x, np.float64)
    x, attack, release, zi = (np.moveaxis(np.broadcast_to(v, x.shape), axis, 0) for v in (x, attack, release, zi))
    y = np.empty_like(x)
    plain_follow(x, y, attack, release, zi[0])
    return np.moveaxis(y, 0, axis)


@pytest.mark.sample(shape=[(430, 40), (33, 70)])
@pytest.mark.parametrize(("shape", "axis"), [((75,), 0), ((430, 40), 0), ((33, 70), -1), ((3, 71, 2), 1)])
@pytest.mark.parametrize("gates", ["numbers", "series", "steps"])
def test_as_a_loop(rng, shape, axis, gates):
    x, one = rng.standard_normal(shape), [*shape]
    one[axis] = 1
    own = {"numbers": (), "series": tuple(one), "steps": shape}[gates]
    attack, release, zi = rng.random(own), rng.random(own if gates == "steps" else ()), rng.standard_normal(one)
    np.testing.assert_allclose(follow(x, attack, release, axis), loop(x, attack, release, axis), rtol=1e-12, atol=1e-14)
    y, zf = follow(x, attack, release, axis, zi)
    np.testing.assert_allclose(y, loop(x, attack, release, axis, zi), rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(zf, np.take(y, [-1], axis))
    x, attack, release, zi = map(np.ascontiguousarray, (x, attack, release, zi))
    tensors = follow(*map(torch.from_numpy, (x, attack, release)), axis, torch.from_numpy(zi))
    np.testing.assert_array_equal(tensors[0].numpy(), y)
    np.testing.assert_array_equal(tensors[1].numpy(), zf)


def test_ends_and_ties(rng):
    x = rng.standard_normal((3, 64))
    np.testing.assert_array_equal(follow(x, 1.0, 1.0), x)
    np.testing.assert_array_equal(follow(x, 1.0, 0.0, zi=[[-9.0]])[0], np.maximum.accumulate(x, -1))
    assert follow([2.0, 2.0], 0.25, 0.5, zi=[2.0])[0].tolist() == [2.0, 2.0]
    assert np.isnan(follow([1.0, np.nan, 1.0], 0.5, 0.5)).tolist() == [False, True, True]


def test_dask(rng):
    x, attack, zi = rng.random((41, 5)), rng.random((41, 1)), rng.random((1, 5))
    lazy = follow(da.from_array(x, chunks=(7, 2)), da.from_array(attack, chunks=6), 0.1, 0, zi)
    for ours, whole in zip(lazy, follow(x, attack, 0.1, 0, zi), strict=True):
        assert isinstance(ours, da.Array)
        np.testing.assert_array_equal(ours.compute(), whole)


@pytest.mark.parametrize("gates", ["steps", pytest.param("series", marks=pytest.mark.exhaustive)])
def test_gradients(gates):
    random = torch.Generator().manual_seed(0)
    shapes = (7, 3), {"steps": (7, 3), "series": (3,)}[gates], (7, 1) if gates == "steps" else (), (1, 3)
    operands = [torch.rand(shape, dtype=torch.float64, generator=random).requires_grad_() for shape in shapes]
    call = lambda x, attack, release, zi: follow(x, attack, release, 0, zi)  # noqa: E731
    assert torch.autograd.gradcheck(call, operands)
    if gates == "series":
        assert torch.autograd.gradgradcheck(call, operands, fast_mode=True)
    x, attack, release, zi = operands
    y = call(*operands)[0]
    gate = torch.where(x > torch.cat([zi, y[:-1]]), attack, release)
    torch.testing.assert_close(forget_mult(gate, x, zi[0]), y)


def test_gradients_of_many_steps(rng):
    """By several threads and chunks, beside those of gates that are given for each step."""
    x, weight = torch.from_numpy(rng.standard_normal((2, 430, 40)))
    gates = [torch.from_numpy(v).requires_grad_() for v in (rng.random(40), rng.random(()))]
    operands, found = [x.requires_grad_(), *gates, torch.zeros(1, 40).double().requires_grad_()], []
    for own in (gates, [gate.expand(430, 40) for gate in gates]):
        y, last = follow(x, *own, 0, operands[3])
        found.append(torch.autograd.grad((y * weight).sum() + last.sum(), operands))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: follow(x, x[:3], 0.1), ValueError, "`attack` must have the shape"),
        (lambda x: follow(x, 0.1, 0.1, zi=[1.0, 2.0]), ValueError, "`zi` must have the shape"),
        (lambda x: follow(x + 1j, 0.1, 0.1), TypeError, "`x` must be real"),
        (lambda x: follow(x, 0.1, 0.1, out=np.empty(4)), ValueError, "`out` must have"),
        (lambda x: follow(da.from_array(x), 0.1, 0.1, out=x), TypeError, "`out`"),
        (lambda x: follow(x, None, 0.1), TypeError, "`attack`"),
    ],
)
def test_errors(rng, call, error, text):
    with pytest.raises(error, match=text):
        call(rng.standard_normal(9))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)])
def test_gradients_of_no_steps(shape):
    gates, x = (torch.full(shape, 0.5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    zi = torch.ones((1,) * len(shape), dtype=torch.float64, requires_grad=True)
    y, zf = follow(x, gates, gates, zi=zi)
    grads = torch.autograd.grad(y.sum() + zf.sum(), [x, gates, zi])
    assert [grad.shape for grad in grads] == [x.shape, gates.shape, zi.shape]
    assert grads[2].item() == zf.numel()

"""Tensors, other libraries' arrays and Dask arrays: NumPy's numbers, gradients, transforms, devices."""

import array_api_strict
import dask
import dask.array as da
import numpy as np
import pytest
import torch
from compare import assert_close_lazy, assert_same_bits
from rollouts import KINDS, call, with_next

from fastrecur import returns

FLOATS = "rewards", "values", "next_values", "gamma", "lam", "log_rhos", "bootstrap"


@pytest.fixture(params=[False, True], ids=["", "masked"])
def pair(record, rng, request):
    """A record without values of next states, and one with."""
    r = record((11, 3), masked=request.param, fractions=True)
    return r, with_next(r, rng)


def filled(r):
    return {
        k: np.nan_to_num(v, nan=0.5) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v for k, v in r.items()
    }


@pytest.mark.sample(dtype=[torch.float64], pair=[False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_tensors_are_numpy_s(pair, kind, dtype):
    """By the kernel where no gradient is wanted, to the bit; by formulas where one is."""

    def convert(array):
        tensor = torch.tensor(array)
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    for r in pair:
        ends = r["ends"]
        narrow = {k: v.astype(str(dtype)[6:]) if k in FLOATS and v is not None else v for k, v in r.items()}
        for one, plain, recorded in zip(
            call(kind, narrow), call(kind, r, convert),
            call(kind, r, lambda a, ends=ends: convert(a).requires_grad_(a.dtype.kind == "f" and a is not ends)),
            strict=True,
        ):  # fmt: skip
            assert plain.dtype == recorded.dtype == dtype and recorded.requires_grad and not plain.requires_grad
            if dtype == torch.float64:
                assert_same_bits(plain.numpy(), one)
            exact = dict(rtol=1e-12, atol=1e-12) if dtype == torch.float64 else dict(rtol=2e-6, atol=2e-6)
            np.testing.assert_allclose(plain.numpy(), one, **exact)
            np.testing.assert_allclose(recorded.detach().numpy(), one, **exact)


@pytest.mark.sample(pair=[False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_array_api(pair, kind):
    for r in pair:
        for one, other in zip(call(kind, r), call(kind, r, array_api_strict.asarray), strict=True):
            assert type(other) is type(array_api_strict.zeros(1))
            np.testing.assert_allclose(np.from_dlpack(other), one, rtol=1e-12, atol=1e-12)


@pytest.mark.exhaustive
@pytest.mark.sample(pair=[False])
@pytest.mark.parametrize("kind", KINDS)
def test_dask(pair, kind):
    for r in pair:
        expected = call(kind, r)
        with dask.config.set(scheduler="sync"):
            for steps in (4, 11):
                lazy = call(kind, r, lambda a, n=steps: da.from_array(a, (n, 2)[: a.ndim]) if len(a) > 3 else a)
                for one, other in zip(expected, lazy, strict=True):
                    assert_close_lazy(other, one, 1e-11)
            mixed = call(kind, r | {"rewards": da.from_array(r["rewards"], (3, 3))})
            assert_close_lazy(mixed[0], expected[0], 1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(pair, kind):
    """Of everything but flags, through everything; the second ones too."""
    for r in pair:
        r = filled(r)
        names = [name for name in FLOATS if r[name] is not None]

        def results(*values, r=r, names=names):
            given = r | dict(zip(names, values, strict=True))
            return call(kind, given, lambda a: a if isinstance(a, torch.Tensor) else torch.tensor(a))

        inputs = [torch.tensor(r[name], requires_grad=True) for name in names]
        used = [
            g is not None
            for g in torch.autograd.grad(sum(v.sum() for v in results(*inputs)), inputs, allow_unused=True)
        ]
        inputs = [v if u else v.detach() for v, u in zip(inputs, used, strict=True)]
        assert torch.autograd.gradcheck(results, inputs)
        few = [v if k < 2 else v.detach() for k, v in enumerate(inputs)]
        assert torch.autograd.gradgradcheck(results, few, fast_mode=True)


def test_a_discount_of_zero_has_its_gradient():
    gamma = torch.zeros((), dtype=torch.float64, requires_grad=True)
    returns.discounted_returns(torch.ones(3, dtype=torch.float64), gamma)[0].backward()
    assert gamma.grad == 1
    gamma.grad = None
    returns.gae(torch.ones(1), torch.tensor([0.0, 2.0]), gamma, 0.9, torch.zeros(1)).sum().backward()
    assert gamma.grad == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("filling", [7.0, np.inf, np.nan])
def test_what_is_behind_an_end_changes_no_gradient(record, rng, kind, filling):
    """To the bit: results and gradients before an episode's end, and of all but masked steps; those there are 0."""
    r = with_next(record((11, 3), masked=True), rng)
    r["ends"][5], r["mask"][5] = True, True
    for name in ("rewards", "values", "next_values", "log_rhos"):
        r[name][5] = 0.5
    found = []
    for value in (0.0, filling):
        tensors = {name: torch.tensor(r[name]) for name in FLOATS if name != "bootstrap"}
        for tensor in tensors.values():
            tensor[6:] = value
            tensor[~torch.tensor(r["mask"])] = value
            tensor.requires_grad_()
        results = call(kind, r | tensors | {"bootstrap": torch.full((3,), value)})
        sum(result[:6].square().sum() for result in results).backward()
        found.append([v.detach()[:6] for v in results] + [t.grad for t in tensors.values() if t.grad is not None])
    for one, other in zip(*found, strict=True):
        assert_same_bits(other.numpy() + 0.0, one.numpy() + 0.0)  # of zeros, the sign is left out
    for gradient in found[1][len(results) :]:
        assert (gradient[~torch.tensor(r["mask"])] == 0).all() and (gradient[6:] == 0).all()


# Without CUDA, torch's autograd aborts the process for fake tensors of such a device.
@pytest.mark.parametrize(("device", "gradients"), [("cuda", False), ("meta", False), ("meta", True)])
@pytest.mark.parametrize("kind", KINDS)
def test_another_device(fake_device, pair, kind, device, gradients):
    with fake_device(device):
        for r in pair:
            flags = {name: r[name] for name in ("ends", "cuts", "mask")}
            tensors = {
                k: torch.empty(v.shape, dtype=torch.float32, device=device, requires_grad=gradients)
                for k, v in r.items() if k in FLOATS and v is not None
            }  # fmt: skip
            for result in call(kind, r | tensors | flags | {"gamma": 0.9}):
                assert (result.device.type, result.shape, result.dtype) == (device, (11, 3), torch.float32)


@pytest.mark.exhaustive
def test_tensors_run_on_torch_s_threads(torch_teams, set_threads):
    x = torch.randn(512, 1024)
    set_threads(1)
    torch.set_num_threads(2)
    both = returns.gae(x, x, 0.9, 0.9, x > 1, next_values=x)
    assert set(torch_teams) == {2}
    torch.set_num_threads(1)
    one = returns.gae(x, x, 0.9, 0.9, x > 1, next_values=x)
    torch.testing.assert_close(both, one, rtol=0, atol=0)


def test_flags_of_the_other_byte_order_beside_a_gradient():
    rewards, ends = torch.ones(3, requires_grad=True), np.array([0.0, 1.0, 0.0])
    other = ends.astype(ends.dtype.newbyteorder())
    found, wanted = (returns.discounted_returns(rewards, 0.5, flags) for flags in (other, ends))
    torch.testing.assert_close(found, wanted)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_flags_of_any_kind_beside_a_gradient(kind):
    rewards, ends = torch.ones(3, requires_grad=True), kind([False, True, False])
    for function in [
        lambda r: returns.gae(r, torch.zeros(4), 0.5, 0.9, ends, ends, mask=ends),
        lambda r: returns.discounted_returns(r, 0.5, ends),
    ]:
        torch.testing.assert_close(function(rewards), function(rewards.detach()))


@pytest.mark.exhaustive
@pytest.mark.parametrize("convert", [np.array, torch.tensor, lambda x: torch.tensor(x, requires_grad=True)])
def test_returns_are_rounded_once(rng, convert):
    """A discount near 1 would not be what was given, in float32, if it were an array's."""
    rewards, values = rng.random(5000).astype(np.float32) + 100, rng.random(5001).astype(np.float32)
    done = np.zeros(5000, bool)
    done[1234] = True
    exact = (
        returns.discounted_returns(rewards.astype(float), 0.9999, done),
        returns.gae(rewards.astype(float), values, 0.9999, 0.999, done),
    )
    for result, expected in zip(
        (
            returns.discounted_returns(convert(rewards), 0.9999, done),
            returns.gae(convert(rewards), convert(values), 0.9999, 0.999, done),
        ),
        exact,
        strict=True,
    ):
        result = result.detach().numpy() if isinstance(result, torch.Tensor) else result
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected, rtol=2.0**-24)


@pytest.mark.parametrize("flags", [(False, 0.0), (np.zeros(5, bool), [False] * 5), (np.array(False), None)])
def test_flags_that_are_no_tensors_compile(flags):
    rewards, values = torch.rand(5), torch.rand(6)
    compiled = torch.compile(lambda r, v: returns.gae(r, v, 0.9, 0.9, *flags), backend="eager")
    torch.testing.assert_close(compiled(rewards, values), returns.gae(rewards, values, 0.9, 0.9, *flags))


def test_flags_that_are_lazily_negated():
    rewards, weights = torch.rand(5), torch.rand(5)
    found = returns.discounted_returns(rewards, 0.9, torch._neg_view(-weights))
    assert torch.equal(found, returns.discounted_returns(rewards, 0.9, weights))


def test_flags_of_another_byte_order_beside_tensors():
    done = np.array([0.0, 1.0, 0.0])
    wanted = returns.discounted_returns(np.ones(3), 0.5, done=done)
    found = returns.discounted_returns(torch.ones(3, requires_grad=True), 0.5, done=done.astype(">f8"))
    assert_same_bits(found.detach().numpy(), wanted.astype(np.float32))

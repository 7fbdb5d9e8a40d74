"""What a sceptical reader found: devices, empty problems, complex and ragged series under transforms."""

import numpy as np
import pytest
import torch
from compare import assert_close
from torch.func import grad, hessian, jacfwd, jacrev, vmap

from fastrecur import forget_mult, linear_recurrence, reference
from fastrecur.torch import ForgetMult


@pytest.mark.parametrize("name", ["lengths", "h0", "out", "f"])
def test_meta_tensors_beside_others(name):
    f, x = torch.rand(5, 3), torch.rand(5, 3)
    meta = {"lengths": torch.tensor([1, 2, 3], device="meta"), "out": torch.empty(5, 3, device="meta")}
    value = meta.get(name, torch.tensor(0.5, device="meta"))
    f = value if name == "f" else f
    with pytest.raises(ValueError, match="device"):
        forget_mult(f, x, **{} if name == "f" else {name: value})


def series(*shape):
    return torch.complex(torch.linspace(-1, 1, 24).reshape(shape), torch.linspace(0, 3, 24).reshape(shape))


@pytest.mark.parametrize("recurrence", [forget_mult, linear_recurrence])
def test_complex_series_with_a_real_gate_under_vmap(recurrence):
    z, gate = series(4, 6), torch.linspace(0.1, 0.9, 24).reshape(4, 6)
    expected = torch.stack([recurrence(g, s) for g, s in zip(gate, z, strict=True)])
    torch.testing.assert_close(vmap(recurrence)(gate, z), expected)
    one_gate = torch.stack([recurrence(gate[0], s) for s in z])
    torch.testing.assert_close(vmap(recurrence, in_dims=(None, 0))(gate[0], z), one_gate)

    def loss(x):
        return recurrence(0.5, x).abs().sum()

    torch.testing.assert_close(vmap(grad(loss))(z), torch.stack([grad(loss)(s) for s in z]))


@pytest.mark.parametrize("recurrence", [forget_mult, linear_recurrence])
def test_one_length_under_transforms(recurrence):
    x = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(4, 6)

    def ragged(series):
        return recurrence(0.5, series, lengths=2)

    torch.testing.assert_close(vmap(ragged)(x), torch.stack([ragged(s) for s in x]))
    whole = torch.autograd.functional.jacobian(ragged, x[0])
    torch.testing.assert_close(jacrev(ragged)(x[0]), whole)
    torch.testing.assert_close(jacfwd(ragged)(x[0]), whole)


@pytest.mark.parametrize(("gate_shape", "shape"), [((3,), (0, 3)), ((1, 3), (0, 3)), ((4, 1), (4, 0)), ((), (0, 3))])
def test_gradient_of_a_broadcast_gate_of_nothing(gate_shape, shape):
    f, x = torch.rand(gate_shape, requires_grad=True), torch.rand(shape, requires_grad=True)
    forget_mult(f, x).sum().backward()
    assert torch.equal(f.grad, torch.zeros(gate_shape))
    assert x.grad.shape == shape


def test_hessian_without_steps():
    f = torch.rand(0, 2)
    found = hessian(lambda h0: forget_mult(f, f, h0, return_state=True)[1].sum())(torch.rand(2))
    assert torch.equal(found, torch.zeros(2, 2))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int16])
def test_dtypes_of_lengths(dtype):
    f, x = torch.rand(5, 3), torch.rand(5, 3)
    lengths = torch.tensor([1, 2, 5])
    assert torch.equal(forget_mult(f, x, lengths=lengths.to(dtype)), forget_mult(f, x, lengths=lengths))


def test_mixed_libraries_are_named():
    with pytest.raises(TypeError, match="`x` from numpy, `out` from torch"):
        forget_mult(0.5, np.ones(3), out=torch.zeros(3))
    with pytest.raises(TypeError, match="`f` from numpy, `x` from torch"):
        forget_mult(np.ones(3), torch.zeros(3))


def test_a_number_for_forget_mult_s_gate():
    x, first = torch.rand(4, 2, 3), torch.rand(1, 2, 3)
    module = ForgetMult()
    assert torch.equal(module(torch.tensor(0.5), x, first), forget_mult(0.5, x, first[0]))


@pytest.mark.parametrize("lanes", [1, 256, 257])
@pytest.mark.parametrize("wants", [(True, True), (True, False), (False, True)])
def test_a_short_problem_again_and_again(rng, lanes, wants):
    """Each call starts from zeros, with more lanes than a prepared call has room for too."""
    for _ in range(3):
        f, x, g = (torch.from_numpy(rng.random((3, lanes))) for _ in range(3))
        for tensor, wanted in zip((f, x), wants, strict=True):
            tensor.requires_grad_(wanted)
        h = forget_mult(f, x)
        grads = torch.autograd.grad(h, [v for v in (f, x) if v.requires_grad], g)
        g, f, x, h = (v.detach().numpy() for v in (g, f, x, h))
        wide = reference.forget_mult(f, x)
        assert_close(h, wide, h.dtype)
        expected = [e for e, wanted in zip(reference.forget_mult_vjp(g, f, x, wide), wants, strict=False) if wanted]
        for one, other in zip(grads, expected, strict=True):
            assert_close(one.numpy(), other, h.dtype, magnitude=1)

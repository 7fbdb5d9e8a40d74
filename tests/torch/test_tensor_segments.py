"""Tensors whose series begin anew inside the axis of time."""

import numpy as np
import pytest
import torch
from torch.library import opcheck

import fastrecur.torch
from fastrecur import reference

CUTS = ["offsets", "resets", "both", "lengths"]


def cuts_of(kind, shape, axis):
    resets = torch.rand(shape[: axis + 2]) < 0.2
    return {
        "offsets": {"offsets": [0, 3, 3, 7]},
        "resets": {"resets": resets},
        "both": {"offsets": torch.tensor([0, 3, 3, 7]), "resets": resets},
        "lengths": {"resets": resets, "lengths": [7, 0, 4]},
    }[kind]


def given(kind, axis, dtype=torch.float64):
    shape = (7, 3) if axis == 0 else (3, 7)
    torch.manual_seed(0)
    f, x = torch.rand(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    states = (3, 3) if kind in ("offsets", "both") else (3,)
    return [v.requires_grad_() for v in (f, x, torch.randn(states, dtype=dtype))], cuts_of(kind, shape, axis)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["forget_mult", "linear_recurrence"])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", CUTS)
def test_derivatives(name, axis, reverse, kind):
    operands, cuts = given(kind, axis)
    plain = {k: np.asarray(v) for k, v in cuts.items()}

    def call(*operands):
        return getattr(fastrecur, name)(*operands, axis=axis, reverse=reverse, return_state=True, **cuts)

    found = call(*operands)
    arrays = [v.detach().numpy() for v in operands]
    wanted = getattr(reference, name)(*arrays, axis=axis, reverse=reverse, return_state=True, **plain)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.detach().numpy(), other, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(call, operands, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, operands, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("kind", CUTS)
def test_adjoint_is_that_of_arrays(kind):
    operands, cuts = given(kind, 0, torch.float32)
    f, x, h0 = (v.detach() for v in operands)
    h, last = fastrecur.forget_mult(f, x, h0, return_state=True, **cuts)
    found = fastrecur.forget_mult_vjp(h, f, x, h, h0, grad_state=last, **cuts)
    plain = {k: np.asarray(v) for k, v in cuts.items()}
    arrays = (v.numpy() for v in (h, f, x, h, h0))
    for one, other in zip(found, fastrecur.forget_mult_vjp(*arrays, grad_state=last.numpy(), **plain), strict=True):
        np.testing.assert_array_equal(one.numpy(), other)


@pytest.mark.exhaustive
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("reverse", [False, True])
def test_last_states_of_segments_that_begin_as_zeros(axis, reverse):
    (f, x, _), _ = given("offsets", axis)
    options = {"axis": axis, "reverse": reverse, "offsets": [0, 3, 3, 7], "return_state": True}
    found = fastrecur.forget_mult(f, x, **options)
    wanted = fastrecur.forget_mult(f.detach().numpy(), x.detach().numpy(), **options)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.detach().numpy(), other)
    (found[0].sum() + found[1].sum()).backward()
    grads = f.grad.clone(), x.grad.clone()
    f.grad = x.grad = None
    h, last = fastrecur.forget_mult(f, x, torch.zeros(3, 3, dtype=f.dtype), **options)
    (h.sum() + last.sum()).backward()
    for one, other in zip(grads, (f.grad, x.grad), strict=True):
        torch.testing.assert_close(one, other)


def test_vmap_over_lanes():
    (f, x, _), _ = given("resets", 0)
    offsets, resets = torch.tensor([0, 3, 7]), torch.rand(5, 7, 3) < 0.2
    many = torch.randn(5, 7, 3, dtype=torch.float64)
    found = torch.vmap(lambda x: fastrecur.forget_mult(f, x, offsets=offsets))(many)
    assert torch.equal(found, torch.stack([fastrecur.forget_mult(f, one, offsets=offsets) for one in many]))
    found = torch.vmap(lambda x, resets: fastrecur.forget_mult(f, x, resets=resets))(many, resets)
    wanted = [fastrecur.forget_mult(f, one, resets=own) for one, own in zip(many, resets, strict=True)]
    assert torch.equal(found, torch.stack(wanted))


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", CUTS)
def test_operators_are_what_they_claim(kind):
    operands, cuts = given(kind, 0)
    ends = [
        None if cuts.get(name) is None else torch.as_tensor(cuts[name]) for name in ("lengths", "offsets", "resets")
    ]
    a, b, h0 = operands
    forward, backward = (getattr(torch.ops.fastrecur, "forget_mult" + suffix).default for suffix in ("", "_backward"))
    opcheck(forward, (a, b, h0, *ends, 0, True, torch.float64))
    opcheck(backward, (b, a, b, b, h0, h0, *ends, 0, True, torch.float64, True, True, True))


@pytest.mark.exhaustive
def test_compiled_in_one_graph():
    def loss(f, x, offsets, resets):
        h, last = fastrecur.forget_mult(f, x, offsets=offsets, resets=resets, return_state=True)
        return h.square().sum() + last.sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for offsets in ([0, 3, 3, 7], [0, 7]):
        (f, x, _), cuts = given("both", 0)
        arguments = torch.tensor(offsets), cuts["resets"]
        found, wanted = compiled(f, x, *arguments), loss(f, x, *arguments)
        assert torch.equal(found, wanted)
        for one, other in zip(*(torch.autograd.grad(value, (f, x)) for value in (found, wanted)), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(("which", "is_complex"), [(0, False), (1, False), (2, False), (1, True)])
def test_gradient_of_one_operand(which, is_complex):
    operands, cuts = given("both", 0)
    operands = [v.detach() for v in operands]
    if is_complex:
        operands[1] = torch.complex(operands[1], 2 * operands[1])

    def call(value):
        return fastrecur.forget_mult(*operands[:which], value, *operands[which + 1 :], **cuts)

    assert torch.autograd.gradcheck(call, [operands[which].requires_grad_()])


def test_meta_and_fake_shapes():
    f, offsets = torch.empty(7, 3, device="meta"), torch.empty(4, dtype=torch.int64, device="meta")
    h, last = fastrecur.forget_mult(f, f, offsets=offsets, return_state=True)
    assert h.shape == (7, 3)
    assert last.shape == (3, 3)


@pytest.mark.exhaustive
def test_out_and_bfloat16():
    f, x = torch.rand(9, 4).bfloat16(), torch.randn(9, 4).bfloat16()
    wanted, out = fastrecur.forget_mult(f, x, offsets=[0, 4, 9]), torch.empty_like(x)
    assert fastrecur.forget_mult(f, x, offsets=[0, 4, 9], out=out) is out
    assert torch.equal(out, wanted)
    alone = torch.cat([fastrecur.forget_mult(f[:4], x[:4]), fastrecur.forget_mult(f[4:], x[4:])])
    assert torch.equal(wanted, alone)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"offsets": torch.tensor([0.0, 7.0])}, TypeError, "`offsets` must be integers"),
        ({"offsets": torch.tensor([[0, 7]])}, ValueError, "`offsets` must be integers in one dimension"),
        ({"offsets": torch.tensor([0, 6])}, ValueError, "`offsets` must begin with 0 and end with 7"),
        ({"resets": torch.zeros(7)}, TypeError, "`resets` must hold bools"),
        ({"resets": torch.zeros(6, dtype=torch.bool)}, ValueError, "`resets` must be shaped like"),
        ({"offsets": [0, 7], "h0": torch.zeros(2, 3)}, ValueError, "`h0` must have the shape"),
    ],
)
def test_errors(options, error, match):
    x, h0 = torch.ones(7, 3), options.pop("h0", None)
    with pytest.raises(error, match=match):
        fastrecur.forget_mult(0.5, x, h0, **options)


@pytest.mark.parametrize("name", ["offsets", "resets"])
def test_borders_on_another_device(name):
    borders = {"offsets": torch.tensor([0, 3]), "resets": torch.zeros(3, dtype=torch.bool)}[name]
    with pytest.raises(ValueError, match=f"`{name}` must be on the operands' device or on the CPU, got meta"):
        fastrecur.forget_mult(0.5, torch.ones(3), **{name: borders.to("meta")})


@pytest.mark.exhaustive
def test_numpy_flags_may_be_written_to_before_the_backward_pass():
    flags, x = np.array([False, False, True]), torch.ones(3, requires_grad=True)
    h = fastrecur.forget_mult(0.5, x, resets=flags)
    flags[:] = False
    h[2].backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.5]

"""torch.func and forward mode, alone and nested, against the same transform of a plain loop."""

import oracle
import pytest
import torch
from oracle import double, same
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

import fastrecur
from fastrecur import forget_mult, linear_recurrence, linear_recurrence_vjp

F, X, H0 = (double(*shape, grad=False) for shape in [(4, 3), (4, 3), (3,)])
BOTH = pytest.mark.parametrize("name", ["forget_mult", "linear_recurrence"])
REVERSE = pytest.mark.parametrize("reverse", [False, True])
LENGTHS = pytest.mark.parametrize("lengths", [None, torch.tensor([3, 0, 4])])


def loss(function, *operands, **options):
    return (function(*operands, **options) ** 2).sum()


TRANSFORMS = {
    "grad": lambda f: grad(lambda *v: loss(f, *v), argnums=(0, 1, 2))(F, X, H0),
    "grad of the gate": lambda f: grad(lambda v: loss(f, v, X, H0))(F),
    "vjp": lambda f: vjp(f, F, X, H0)[1](X),
    "jvp": lambda f: jvp(f, (F, X, H0), (X, F, 2 * H0)),
    "jvp of the gate": lambda f: jvp(lambda v: f(v, X, H0), (F,), (X,)),
    "jvp of the value": lambda f: jvp(lambda v: f(F, v), (X,), (F,)),
    "jvp of the state": lambda f: jvp(lambda v: f(F, X, v), (H0,), (2 * H0,)),
    "jacrev": lambda f: jacrev(f, argnums=(0, 1, 2))(F, X, H0),
    "jacfwd": lambda f: jacfwd(f, argnums=(0, 1, 2))(F, X, H0),
    "hessian": lambda f: hessian(lambda *v: loss(f, *v), argnums=(0, 1, 2))(F, X, H0),
    "jacrev of jacrev": lambda f: jacrev(jacrev(lambda v: loss(f, v, X, H0)))(F),
    "jacrev of jacfwd": lambda f: jacrev(jacfwd(lambda v: loss(f, v, X, H0)))(F),
    "jacfwd of jacfwd": lambda f: jacfwd(jacfwd(lambda v: loss(f, v, X, H0)))(F),
    "third, rrr": lambda f: jacrev(jacrev(jacrev(lambda v: loss(f, v, X, H0))))(F[:, :1]),
    "third, fff": lambda f: jacfwd(jacfwd(jacfwd(lambda v: loss(f, v, X, H0))))(F[:, :1]),
    "third, frf": lambda f: jacfwd(jacrev(jacfwd(lambda v: loss(f, v, X, H0))))(F[:, :1]),
    "third, ffr": lambda f: jacfwd(jacfwd(jacrev(lambda v: loss(f, v, X, H0))))(F[:, :1]),
    "linearize": lambda f: linearize(lambda v: f(v, X, H0), F)[1](X),
    "functional.jacobian": lambda f: torch.autograd.functional.jacobian(lambda v: f(v, X, H0), F, vectorize=True),
    "functional.hessian": lambda f: torch.autograd.functional.hessian(lambda v: loss(f, v, X, H0), F),
}


@BOTH
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")  # torch.func.linearize, of any function
@pytest.mark.parametrize("which", TRANSFORMS)
def test_transform(name, which):
    same(TRANSFORMS[which], getattr(fastrecur, name), getattr(oracle, name))


@BOTH
@REVERSE
@LENGTHS
@pytest.mark.parametrize("axis", [0, 1])
def test_both_modes_with_every_option(name, reverse, lengths, axis):
    f, x = (F, X) if axis == 0 else (F.T, X.T)

    def second_order(function):
        def total(f, x, h0):
            h, last = function(f, x, h0, axis=axis, reverse=reverse, lengths=lengths, return_state=True)
            return (h**2).sum() + (last**3).sum()

        gradients = grad(total, argnums=(0, 1, 2))
        return gradients(f, x, H0), jvp(gradients, (f, x, H0), (x, f, H0)), grad(lambda v: loss(gradients_of, v))(f)

    def gradients_of(v):
        return v

    same(second_order, getattr(fastrecur, name), getattr(oracle, name))


def test_pullback_of_a_gradient_inside_a_transform():
    """It runs when its own transform is over, with what that has saved."""
    h = linear_recurrence(F, X, H0)
    before, none = torch.cat([H0[None], h[:-1]]), torch.zeros_like(H0)[None]

    def outer(gradient):
        return grad(lambda v: vjp(gradient, v)[1](F)[0].square().sum())(F)

    def loop(a):
        return oracle.linear_recurrence(torch.cat([a[1:], none]), X, reverse=True) * before

    torch.testing.assert_close(outer(lambda a: linear_recurrence_vjp(X, a, X, h, H0)[0]), outer(loop))


IN_DIMS = [(1, 2, 0), (None, 2, 0), (1, None, None), (None, None, 0), (1, 2, None), (0, 0, 1)]


def batched(dims):
    shapes = [(4, 3), (4, 3), (3,)]
    return [
        double(*(shape[:dim] + (5,) + shape[dim:] if dim is not None else shape), grad=False)
        for shape, dim in zip(shapes, dims, strict=True)
    ]


@BOTH
@REVERSE
@pytest.mark.parametrize("dims", IN_DIMS)
def test_vmap(name, reverse, dims):
    operands = batched(dims)
    same(
        lambda f: vmap(lambda *v: f(*v, reverse=reverse, return_state=True), in_dims=dims)(*operands),
        getattr(fastrecur, name),
        getattr(oracle, name),
    )


@pytest.mark.parametrize("dims", IN_DIMS)
@pytest.mark.parametrize(
    "nest",
    {
        "per-sample gradients": lambda f, dims, v: vmap(grad(lambda *w: loss(f, *w), (0, 1, 2)), in_dims=dims)(*v),
        "grad of vmap": lambda f, dims, v: grad(lambda *w: loss(vmap(f, in_dims=dims), *w), (0, 1, 2))(*v),
        "grad of grad of vmap": lambda f, dims, v: grad(
            lambda *w: sum((g**2).sum() for g in grad(lambda *u: loss(vmap(f, in_dims=dims), *u), (0, 1, 2))(*w)),
            (0, 1, 2),
        )(*v),
        "jvp of vmap": lambda f, dims, v: jvp(vmap(f, in_dims=dims), tuple(v), tuple(v)),
        "vmap of jvp": lambda f, dims, v: vmap(lambda *w: jvp(f, w, w), in_dims=dims)(*v),
        "vmap of hessian": lambda f, dims, v: vmap(hessian(lambda *w: loss(f, *w)), in_dims=dims)(*v),
    }.items(),
    ids=lambda item: item[0],
)
def test_vmap_nested(dims, nest):
    operands = batched(dims)
    same(lambda f: nest[1](f, dims, operands), forget_mult, oracle.forget_mult)


def test_vmap_of_vmap():
    f, x = double(6, 5, 4, 3), double(5, 4, 6, 3)
    same(lambda m: vmap(vmap(m, in_dims=(0, 0)), in_dims=(1, 2))(f.transpose(0, 1), x), forget_mult, oracle.forget_mult)


@REVERSE
def test_vmap_over_lengths(reverse):
    f, x, lengths = double(5, 4, 3), double(5, 4, 3), torch.tensor([1, 4, 0, 2, 3])
    expected = forget_mult(f, x, axis=1, lengths=lengths, reverse=reverse)
    h = vmap(lambda f, x, n: forget_mult(f, x, lengths=n.expand(3), reverse=reverse))(f, x, lengths)
    torch.testing.assert_close(h, expected)
    h = vmap(lambda n: forget_mult(f[0], x[0], lengths=n.expand(3), reverse=reverse))(lengths)
    both = (v[:1].expand(5, 4, 3) for v in (f, x))
    torch.testing.assert_close(h, forget_mult(*both, axis=1, lengths=lengths, reverse=reverse))


def test_vmap_in_chunks():
    f, x = double(7, 4, 3), double(7, 4, 3)
    same(lambda m: vmap(m, chunk_size=2)(f, x), forget_mult, oracle.forget_mult)


def test_vmap_copies_no_operand():
    # The batch is one more lane axis, so the result has its memory in the operands' order.
    x = torch.rand(5, 4, 3)
    h = vmap(lambda x: forget_mult(0.5, x))(x)
    assert h.is_contiguous()
    h = vmap(lambda x: forget_mult(0.5, x), in_dims=1, out_dims=1)(x)
    assert h.is_contiguous()


def test_constants_that_want_a_gradient():
    # Plain tensors inside a transform, which autograd outside of it records.
    f, x = double(4, 3), double(4, 3, grad=False)
    for _ in range(2):
        same(
            lambda m: torch.autograd.grad(vmap(lambda v: v * m(f, x))(torch.arange(3.0).double()).sum(), f),
            forget_mult,
            oracle.forget_mult,
        )


def test_dual_tensors():
    import torch.autograd.forward_ad as forward_ad

    with forward_ad.dual_level():
        dual = forward_ad.make_dual(F, X)
        same(lambda f: forward_ad.unpack_dual(f(dual, X, H0)).tangent, forget_mult, oracle.forget_mult)
        # Forward over reverse.
        f = F.clone().requires_grad_()
        dual = forward_ad.make_dual(f, X)
        same(
            lambda m: forward_ad.unpack_dual(torch.autograd.grad(loss(m, dual, X), dual, create_graph=True)[0]).tangent,
            forget_mult,
            oracle.forget_mult,
        )


def test_complex_values():
    z = torch.randn(4, 3, dtype=torch.complex128)
    same(lambda f: jvp(lambda v: f(F, v), (z,), (1j * z,)), forget_mult, oracle.forget_mult)
    same(lambda f: grad(lambda v: f(F, v).abs().sum())(z), forget_mult, oracle.forget_mult)
    same(lambda f: vmap(lambda v: f(v, z))(torch.stack([z, 2 * z])), linear_recurrence, oracle.linear_recurrence)


def test_functional_call_of_a_module():
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 6).double()

        def forward(self, x):
            f, x = self.linear(x).chunk(2, -1)
            return forget_mult(f.sigmoid(), x)

    layer = Layer()
    parameters = dict(layer.named_parameters())
    samples = torch.randn(5, 4, 3).double()

    def sample_loss(parameters, x):
        return functional_call(layer, parameters, (x,)).square().sum()

    per_sample = vmap(grad(sample_loss), in_dims=(None, 0))(parameters, samples)
    layer(samples.movedim(0, 1)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(per_sample[name].sum(0), parameter.grad)

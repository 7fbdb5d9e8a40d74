"""What a compiler sees: Dynamo, inductor, export, fake and meta tensors."""

import io

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import fastrecur
import fastrecur.torch  # or the first call of a process would import it, and be no call that is remembered
from fastrecur import forget_mult, forget_mult_vjp, linear_recurrence

pytestmark = pytest.mark.usefixtures("fresh_compiler")

F, X, H0, C = torch.rand(5, 3, 4), torch.randn(5, 3, 4), torch.randn(3, 4), torch.randn(5, 3, 4, dtype=torch.complex64)
LENGTHS = torch.tensor([2, 5, 0])


def model(f, x, h0):
    h, last = forget_mult(f.sigmoid(), x, h0, return_state=True)
    return (2 * h).sum() + last.square().sum()


def check(function, *operands, **options):
    """Check a scalar function, compiled in one graph, and its gradients against itself."""
    operands = [v.clone().requires_grad_() for v in operands]
    compiled = torch.compile(function, fullgraph=True, **options)
    actual, expected = compiled(*operands), function(*operands)
    torch.testing.assert_close(actual, expected)
    gradients = torch.autograd.grad(actual, operands)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, operands))


@pytest.mark.exhaustive
@pytest.mark.parametrize("dynamic", [False, True])
def test_inductor(dynamic):
    check(model, F, X, H0, dynamic=dynamic)


CALLS = {
    "model": (model, F, X, H0),
    "number": (lambda x: forget_mult(0.1, x, axis=1, reverse=True).sum(), X),
    "constant value": (lambda f: forget_mult(f, X, H0).sum(), F),
    "constant gate": (lambda x: forget_mult(F, x, H0).sum(), X),
    "broadcast": (lambda f, x: linear_recurrence(f, x).sum(), F[:, :1], X[0]),
    "lengths": (lambda f, x: forget_mult(f, x, lengths=LENGTHS).sum(), F, X),
    "lengths in a list": (lambda f, x: forget_mult(f, x, lengths=[1, 2, 3]).sum(), F, X),
    "by hand": (lambda f, x: forget_mult_vjp(x, f, x, x)[0].sum(), F, X),
    "bfloat16": (lambda f, x: forget_mult(f, x).float().sum(), F.bfloat16(), X.bfloat16()),
    "complex": (lambda f, x: forget_mult(f, x).abs().sum(), F, C),
    "complex gate": (lambda a, b: linear_recurrence(a, b).abs().sum(), 0.3 * C, C),
}


@pytest.mark.sample(which=["model", "lengths"])
@pytest.mark.parametrize("which", CALLS)
def test_one_graph(which):
    check(*CALLS[which], backend="aot_eager")


def test_no_gradient_and_out():
    compiled = torch.compile(lambda f, x: forget_mult(f, x), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(F, X), forget_mult(F, X))
    compiled = torch.compile(lambda f, x, out: forget_mult(f, x, out=out), fullgraph=True, backend="aot_eager")
    out = torch.empty_like(X)
    assert torch.equal(compiled(F, X, out), forget_mult(F, X))
    assert torch.equal(out, forget_mult(F, X))


@pytest.mark.exhaustive
def test_one_graph_for_many_lengths():
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    for steps in [5, 7, 9, 33]:
        f, x = torch.rand(steps, 3, 4, requires_grad=True), torch.randn(steps, 3, 4)
        actual = compiled(f, x, H0)
        torch.testing.assert_close(actual, model(f, x, H0))
        actual.backward()
    assert counter.frame_count == 1


def test_a_graph_does_not_depend_on_what_is_remembered():
    counter = CompileCounter()
    compiled = torch.compile(lambda x: forget_mult(0.5, x), fullgraph=True, dynamic=True, backend=counter)
    for steps in [5, 7, 9]:
        x = torch.randn(steps, 3)
        assert torch.equal(forget_mult(0.5, x), compiled(x))
    assert len(fastrecur.torch._short_calls._known) >= 3
    assert counter.frame_count == 1


@pytest.mark.exhaustive
def test_double_backward_of_what_is_compiled():
    def penalty(f, x):
        (grad_f,) = torch.autograd.grad(forget_mult(f, x).square().sum(), f, create_graph=True)
        return grad_f.square().sum()

    compiled = torch.compile(forget_mult, fullgraph=True, backend="eager")
    f = F.clone().requires_grad_()
    (inner,) = torch.autograd.grad(compiled(f, X).square().sum(), f, create_graph=True)
    (actual,) = torch.autograd.grad(inner.square().sum(), f)
    torch.testing.assert_close(actual, torch.autograd.grad(penalty(f, X), f)[0])


def loss(f):
    return forget_mult(f, X).square().sum()


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "transform",
    {
        "grad": grad(loss),
        "jacrev": jacrev(lambda f: forget_mult(f, X)),
        "jvp": lambda f: jvp(loss, (f,), (X,)),
        "jacfwd": jacfwd(loss),
        "hessian": hessian(loss),
        "grad of grad": grad(lambda f: grad(loss)(f).square().sum()),
        "vmap": lambda f: vmap(lambda f: forget_mult(f, X))(torch.stack([f, 2 * f])),
        "vmap of grad": lambda f: vmap(grad(loss))(torch.stack([f, 2 * f])),
    }.items(),
    ids=lambda item: item[0],
)
def test_transforms_inside(transform):
    _, function = transform
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(F), function(F), rtol=1e-4, atol=1e-4)


@pytest.mark.exhaustive
def test_compiled_before_any_tensor_has_come(run_python):
    run_python(
        """
import warnings
warnings.simplefilter("ignore")
import torch, fastrecur
x = torch.ones(3)
compiled = torch.compile(lambda x: fastrecur.forget_mult(0.5, x), fullgraph=True, backend="eager")
assert compiled(x).tolist() == [0.5, 0.75, 0.875]
"""
    )


@pytest.mark.exhaustive
def test_exported_before_any_tensor_has_come(run_python):
    run_python(
        """
import warnings
warnings.simplefilter("ignore")
import torch, fastrecur
class Layer(torch.nn.Module):
    def forward(self, x):
        return fastrecur.forget_mult(0.5, x)
exported = torch.export.export(Layer(), (torch.ones(3),))
targets = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
assert not [name for name in targets if "promote" in name], targets
assert exported.module()(torch.ones(3)).tolist() == [0.5, 0.75, 0.875]
"""
    )


@pytest.mark.exhaustive
@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13),
    reason="AOTInductor of torch 2.6 takes no operator with a dtype among its arguments; between was not tried",
)
def test_ahead_of_time(tmp_path):
    exported = torch.export.export(Layer(), (F, X))
    package = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "layer.pt2"))
    torch.testing.assert_close(torch._inductor.aoti_load_package(package)(F, X), forget_mult(F, X, return_state=True))


class Layer(torch.nn.Module):
    def forward(self, f, x):
        return forget_mult(f, x, return_state=True)


@pytest.mark.sample(strict=[False], dynamic=[True])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_export(strict, dynamic):
    steps = {0: torch.export.Dim("steps", min=2, max=1000)} if dynamic else None
    exported = torch.export.export(Layer(), (F, X), strict=strict, dynamic_shapes=(steps, steps) if dynamic else None)
    assert "fastrecur.forget_mult.default" in {str(node.target) for node in exported.graph.nodes}
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    f, x = (torch.rand(9, 3, 4), torch.randn(9, 3, 4)) if dynamic else (F, X)
    for program in [exported, torch.export.load(file), exported.run_decompositions()]:
        torch.testing.assert_close(program.module()(f, x), forget_mult(f, x, return_state=True))
    # What was exported is still differentiable.
    f = f.clone().requires_grad_()
    (actual,) = torch.autograd.grad(exported.module()(f, x)[0].sum(), f)
    torch.testing.assert_close(actual, torch.autograd.grad(forget_mult(f, x).sum(), f)[0])


@pytest.mark.sample(name=["forget_mult"], wants=[True], reverse=[True])
@pytest.mark.parametrize("name", ["forget_mult", "linear_recurrence"])
@pytest.mark.parametrize("wants", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_operators_are_what_they_claim(name, wants, reverse):
    a, b, h0 = (v.double().requires_grad_(wants) for v in (F, X, H0))
    from torch.library import opcheck

    forward, backward = (getattr(torch.ops.fastrecur, name + suffix).default for suffix in ("", "_backward"))
    opcheck(forward, (a, b, h0, None, None, None, 0, reverse, torch.float64))
    opcheck(forward, (a, b, None, LENGTHS, None, None, 0, reverse, torch.float64))
    a_t, b_t = (v.detach().permute(1, 2, 0).requires_grad_(wants) for v in (a, b))
    opcheck(forward, (a_t, b_t, None, None, None, None, 2, reverse, torch.float64))
    arguments = (a, a, b, b, h0, h0, LENGTHS, None, None, 0, reverse, torch.float64)
    for wanted in [(True, True, True), (False, True, False)]:
        opcheck(backward, (*arguments, *wanted))


def test_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        f, x = torch.empty(5, 3), torch.empty(3, 5).T
        assert forget_mult(f, x, axis=1).stride() == x.stride()
    assert fastrecur.forget_mult(0.5, torch.ones(2)).tolist() == [0.5, 0.75]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_what_runs_an_operator_is_not_traced_behind_a_break_of_the_graph(backend):
    sos = np.array([[0.2, 0.1, 0.0, 1.0, -0.5, 0.2]], np.float32)[:, ::-1].copy()[:, ::-1]  # no tensor is one of these
    x = torch.linspace(-1, 1, 70)
    run = torch.compile(lambda sos, x: fastrecur.filters.sosfilt(sos, x), backend=backend)
    assert torch.equal(run(sos, x), fastrecur.filters.sosfilt(sos, x))

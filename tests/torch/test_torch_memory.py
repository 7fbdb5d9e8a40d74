"""Memory of large results that are dropped serves the next ones, and nothing that is still in use."""

import concurrent.futures

import pytest
import torch

from fastrecur import forget_mult, forget_mult_vjp
from fastrecur._cpu.machine import memory_pool
from fastrecur.torch import QRNNLayer
from fastrecur.torch._operator import tensors

pytestmark = [
    pytest.mark.skipif(not memory_pool.limit(), reason="nothing is kept by this interpreter"),
    pytest.mark.usefixtures("nothing_kept"),
]
SHAPE = 1100, 1000  # 4.4 MB of float32


def operands():
    return torch.rand(SHAPE), torch.randn(SHAPE)


def test_a_dropped_result_serves_the_next(free_memory):
    f, x = operands()
    h = forget_mult(f, x)
    expected, place = h.clone(), h.data_ptr()
    assert place % 64 == 0
    for _ in range(3):
        h.fill_(float("nan"))
        del h
        assert len(free_memory()) == 1
        h = forget_mult(f, x)
        assert not free_memory()
        assert h.data_ptr() == place
        assert torch.equal(h, expected)


def test_both_gradients(free_memory):
    f, x = (v.requires_grad_() for v in operands())
    g = torch.randn(SHAPE)
    h = forget_mult(f, x)
    with torch.no_grad():
        expected = [v.clone() for v in forget_mult_vjp(g, f, x, h)[:2]]
    for _ in range(2):
        grads = torch.autograd.grad(h, (f, x), g, retain_graph=True)
        assert not free_memory()
        for actual, wanted in zip(grads, expected, strict=True):
            assert torch.equal(actual, wanted)
            actual.fill_(float("nan"))
        del grads, actual
        assert len(free_memory()) == 2


@pytest.mark.sample(dtype=[torch.float64])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64])
def test_dtypes(dtype, free_memory):
    x = torch.randn(2200, 1000).to(dtype)
    h = forget_mult(0.5, x)
    expected = h.clone()
    h.fill_(0)
    del h
    assert free_memory()
    assert torch.equal(forget_mult(0.5, x), expected)


@pytest.mark.parametrize("refer", [lambda h: h[5:7], lambda h: h.T, lambda h: h.numpy(), lambda h: h.detach()])
def test_what_refers_to_memory_keeps_it_from_others(refer, free_memory):
    _, x = operands()
    h = forget_mult(0.5, x)
    other, before = refer(h), torch.as_tensor(refer(h)).clone()
    del h
    assert not free_memory()
    later = forget_mult(0.5, x + 1)
    assert later.data_ptr() != torch.as_tensor(other).data_ptr()
    assert torch.equal(torch.as_tensor(other), before)
    del other
    assert len(free_memory()) == 1


def test_what_a_graph_saves_is_in_use(free_memory):
    f, x = (v.requires_grad_() for v in operands())
    h = forget_mult(f, x)
    loss, place = (h * h).sum(), h.data_ptr()
    (expected,) = torch.autograd.grad(loss, f, retain_graph=True)
    expected = expected.clone()
    del h
    assert forget_mult(0.5, x.detach()).data_ptr() != place
    (actual,) = torch.autograd.grad(loss, f, retain_graph=True)
    assert torch.equal(actual, expected)
    loss.backward()
    del loss
    assert place in [start + -start % 64 for start in free_memory()]


def test_changes_in_place():
    f, x = operands()
    expected = forget_mult(f, x).add_(1)
    assert torch.equal(forget_mult(f, x) + 1, expected)
    h = forget_mult(f.requires_grad_(), x)
    h.mul_(2)  # read by the gradient
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.sum().backward()
    with torch.inference_mode():
        assert forget_mult(f, x).is_inference()
    assert not forget_mult(f.detach(), x).is_inference()


def test_training_step_after_step(free_memory):
    """A layer's results and gradients are the same bits whichever memory they stand in."""
    layer, x = QRNNLayer(160, 320), torch.randn(100, 64, 160)

    def step():
        layer.zero_grad()
        h, _ = layer(x)
        h.square().mean().backward()
        return [v.grad.clone() for v in layer.parameters()]

    expected = step()
    for _ in range(3):
        assert free_memory()
        assert all(map(torch.equal, step(), expected))


@pytest.mark.usefixtures("busy_collector")
def test_threads_and_the_garbage_collector():
    """Results and graphs that go at any moment, without the interpreter's lock too, are never two calls' at once."""
    f, g = operands()
    expected = []
    for k in range(4):
        h = forget_mult(f, g + k)
        expected.append((h.clone(), forget_mult_vjp(g, f, g + k, h)[0].clone()))

    def work(seed):
        for k in torch.randint(0, 4, (12,), generator=torch.Generator().manual_seed(seed)).tolist():
            gate = f.clone().requires_grad_()
            h = forget_mult(gate, g + k)
            cycle = [h]
            cycle.append(cycle)
            assert torch.equal(h, expected[k][0])
            h.backward(g)
            assert torch.equal(gate.grad, expected[k][1])

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "late",
    [
        "torch.late = forget_mult(0.5, x)",
        "torch.late = forget_mult(x, x).grad_fn",
        "torch.nn.late = torch.nn.Parameter(forget_mult(0.5, x))",
    ],
)
def test_the_interpreter_ends_in_silence(run_python, late):
    script = f"""
import torch
from fastrecur import forget_mult
x = torch.ones({SHAPE}, requires_grad=True)
{late}
del x
"""
    run = f"""
import subprocess, sys
print(subprocess.run([sys.executable, "-c", {script!r}], capture_output=True, text=True).stderr, end="")
"""
    assert run_python(run) == ""


def test_small_results_are_not_kept(free_memory):
    forget_mult(0.5, torch.ones(tensors.KEPT // 4 - 16))
    assert not free_memory()


def test_results_beyond_the_limit_are_torch_s_own(monkeypatch, free_memory):
    _, x = operands()
    monkeypatch.setattr(memory_pool, "limit", lambda: 4 * x.numel() - 1)
    assert forget_mult(0.5, x).untyped_storage().resizable()
    assert not free_memory()

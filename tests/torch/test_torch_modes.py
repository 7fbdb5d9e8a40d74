"""Modes, subclasses, threads and processes."""

import threading

import oracle
import pytest
import torch

from fastrecur import forget_mult, linear_recurrence
from fastrecur.torch import QRNN


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_keeps_what_agrees(dtype):
    f, x = torch.rand(5, 3).to(dtype).requires_grad_(), torch.randn(5, 3).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        h = forget_mult(f, x)
        assert h.dtype is dtype
        assert forget_mult(f, x.float()).dtype is torch.float32
        layer = torch.nn.Linear(3, 6)
        f, x = layer(x.float()).chunk(2, -1)
        forget_mult(f.sigmoid(), x).float().sum().backward()
        assert layer.weight.grad.dtype is torch.float32


def test_inference_mode():
    f, x = torch.rand(5, 3, requires_grad=True), torch.randn(5, 3)
    expected = forget_mult(f, x)
    with torch.inference_mode():
        h = forget_mult(f, x)
        assert h.is_inference()
        out = torch.empty(5, 3)
        assert torch.equal(forget_mult(f, x, out=out), expected)
    assert torch.equal(h, expected)


def test_no_grad():
    f = torch.rand(5, 3, requires_grad=True)
    with torch.no_grad():
        assert not forget_mult(f, f).requires_grad
        assert not forget_mult(f, f, return_state=True)[1].requires_grad


def test_deterministic_algorithms():
    f, x = torch.rand(100, 30, requires_grad=True), torch.randn(1, 30, requires_grad=True)
    first = torch.autograd.grad(forget_mult(f, x).sum(), (f, x))
    torch.use_deterministic_algorithms(True)
    try:
        again = torch.autograd.grad(forget_mult(f, x).sum(), (f, x))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


class Tagged(torch.Tensor):
    """A subclass that only asks for its own type back."""


class Counted(torch.Tensor):
    """A subclass that counts the operators which reach the dispatcher."""

    seen: list = []

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, requires_grad=inner.requires_grad
        )

    def __init__(self, inner):
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        cls.seen.append(str(func))
        unwrap = lambda v: v.inner if isinstance(v, cls) else v  # noqa: E731
        result = func(*map(unwrap, args), **(kwargs or {}))
        wrap = lambda v: cls(v) if isinstance(v, torch.Tensor) else v  # noqa: E731
        return tuple(map(wrap, result)) if isinstance(result, tuple) else wrap(result)


def test_subclasses():
    f, x = torch.rand(5, 3), torch.randn(5, 3)
    tagged = forget_mult(f, x.as_subclass(Tagged))
    assert type(tagged) is Tagged
    assert torch.equal(tagged.as_subclass(torch.Tensor), forget_mult(f, x))
    h = forget_mult(Counted(f), Counted(x))
    assert type(h) is Counted
    assert torch.equal(h.inner, forget_mult(f, x))
    assert Counted.seen == ["fastrecur.forget_mult.default"]


def test_parameters_are_tensors():
    f = torch.nn.Parameter(torch.rand(5, 3))
    h = forget_mult(f, torch.randn(5, 3))
    assert type(h) is torch.Tensor
    h.sum().backward()
    assert f.grad is not None


def test_modes_see_the_call():
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    functions, operators = [], []

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            functions.append(func)
            return func(*args, **(kwargs or {}))

    class Operators(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            operators.append(str(func))
            return func(*args, **(kwargs or {}))

    f, x = torch.rand(5, 3, requires_grad=True), torch.randn(5, 3)
    expected = forget_mult(f, x)
    with Functions():
        assert torch.equal(forget_mult(f, x), expected)
    assert forget_mult in functions
    with Operators():
        forget_mult(f, x).sum().backward()
    assert {"fastrecur.forget_mult.default", "fastrecur.forget_mult_backward.default"} <= set(operators)


def test_tracing_records_the_operator():
    import warnings

    forget_mult(torch.rand(5, 3), torch.randn(5, 3))  # the next call of its kind would take the shortest way
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit as a whole is deprecated
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # shapes are constants of a trace
        traced = torch.jit.trace(lambda f, x: forget_mult(f, x), (torch.rand(5, 3), torch.randn(5, 3)))
    f, x = torch.rand(5, 3), torch.randn(5, 3)
    assert torch.equal(traced(f, x), forget_mult(f, x))


def test_a_traced_network_returns_one_state():
    import warnings

    rnn, x = QRNN(5, 7, 2).eval(), torch.randn(6, 3, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(rnn, (x,))
    for came, expected in zip(traced(x), rnn(x), strict=True):
        torch.testing.assert_close(came, expected)


def test_several_threads():
    f, x = torch.rand(200, 300).double(), torch.randn(200, 300).double()
    expected = oracle.forget_mult(f, x)
    failures = []

    def work():
        try:
            for _ in range(10):
                own = f.clone().requires_grad_()
                h = forget_mult(own, x)
                torch.testing.assert_close(h, expected)
                h.sum().backward()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


class Smoothed(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, k):
        return forget_mult(0.5, torch.full((1000, 300), float(k)))[-1]


def test_workers_of_a_data_loader():
    Smoothed()[1]  # this process has used its threads before it forks
    loader = torch.utils.data.DataLoader(Smoothed(), num_workers=2, multiprocessing_context="fork", timeout=60)
    for k, state in enumerate(loader):
        torch.testing.assert_close(state, torch.full((1, 300), float(k)))


def test_shared_memory():
    x = torch.randn(5, 3).share_memory_()
    assert torch.equal(linear_recurrence(0.5, x), linear_recurrence(0.5, x.clone()))

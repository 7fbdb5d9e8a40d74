"""Tensors of a device without kernels here, but with torch's own: run by test_any_device.py in its own process."""

import oracle
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration
from torch.utils._pytree import tree_map_only

import fastrecur
from fastrecur import forget_mult, forget_mult_vjp, linear_recurrence
from fastrecur.smoothing import ewm_mean
from fastrecur.torch import QRNN
from fastrecur.torch._operator import ops

backend_registration._setup_privateuseone_for_python_backend("somewhere")
PLACE = torch.device("somewhere:0")
FAMILIES = {"forget_mult": "forget", "linear_recurrence": "linear"}


class Elsewhere(torch.Tensor):
    """A tensor there, whose operators are the CPU's; ours are those of any device."""

    seen: set = set()
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=PLACE
        )

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args, kwargs = tree_map_only(cls, lambda v: v.inner, (args, dict(kwargs or {})))
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        name = func.name().partition("::")[2]
        family = FAMILIES.get(name.removesuffix("_backward"))
        if family is not None:
            cls.seen.add(name)
            run = ops._vjp_composed if name.endswith("_backward") else ops._forward_composed
            func = ops.kernel(run, family)
        return tree_map_only(torch.Tensor, cls, func(*args, **kwargs))


def elsewhere(*tensors):
    return [Elsewhere(v.detach()).requires_grad_(v.requires_grad) for v in tensors]


def empty(size, dtype=None, **options):
    return Elsewhere(torch.empty(size, dtype=dtype))


def empty_strided(size, stride, dtype=None, **options):
    return Elsewhere(torch.empty_strided(size, stride, dtype=dtype))


library = torch.library.Library("aten", "IMPL")
library.impl("empty.memory_format", empty, "PrivateUse1")
library.impl("empty_strided", empty_strided, "PrivateUse1")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 0, 5])])
@pytest.mark.parametrize("axis", [0, 1])
def test_results_and_derivatives(name, reverse, lengths, axis):
    shape = (5, 3) if axis == 0 else (3, 5)
    operands = oracle.double(*shape), oracle.double(*shape), oracle.double(3)
    with torch.no_grad():
        operands[0][(slice(None),) * (1 - axis) + (0,)] = 1.5  # one series is composed of no pairs
    options = dict(axis=axis, reverse=reverse, lengths=lengths, return_state=True)
    results = []
    for function, given in (
        (getattr(oracle, name), operands), (getattr(fastrecur, name), elsewhere(*operands)),
    ):  # fmt: skip
        h, last = function(*given, **options)
        grads = torch.autograd.grad((h**2).sum() + (last**3).sum(), given, create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in grads), given)
        results.append((h, last, *grads, *second))
    for actual, expected in zip(results[1], results[0], strict=True):
        assert actual.device == PLACE
        torch.testing.assert_close(actual.inner.detach(), expected.detach(), rtol=1e-9, atol=1e-9)
    assert {name, name + "_backward"} <= Elsewhere.seen


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 64, 65])
@pytest.mark.parametrize("reverse", [False, True])
def test_numbers_of_steps(steps, reverse):
    f, x, h0 = torch.rand(steps, 2), torch.randn(steps, 2), torch.randn(2)
    options = dict(reverse=reverse, return_state=True)
    for actual, expected in zip(
        forget_mult(*elsewhere(f, x, h0), **options), forget_mult(f, x, h0, **options), strict=True
    ):
        torch.testing.assert_close(actual.inner, expected)


def test_gates_at_the_ends_and_what_is_not_finite():
    x = torch.randn(9, 6)
    f = torch.rand(9, 6)
    f[:, 0], f[:, 1], f[4, 2], x[3, 3], x[3, 4], x[:, 5] = 0, 1, 1, torch.nan, torch.inf, 3e38
    (h,) = (forget_mult(*elsewhere(f, x), torch.ones(())).inner,)
    torch.testing.assert_close(h, forget_mult(f, x, 1.0), equal_nan=True)
    assert torch.equal(h[:, 0], torch.ones(9))
    assert torch.equal(h[:, 1], x[:, 1])
    # Composed, these factors would overflow; one after another they do not.
    a, b = torch.full((3000, 1), 2.0), torch.zeros(3000, 1)
    assert torch.equal(linear_recurrence(*elsewhere(a, b)).inner, b)
    # Whatever is beside it, a series has the same bits.
    a = torch.rand(40, 2)
    alone = linear_recurrence(*elsewhere(a[:, :1], a[:, :1])).inner
    a[:, 1] += 1
    assert torch.equal(linear_recurrence(*elsewhere(a, a)).inner[:, :1], alone)


HALF, BRAIN, SINGLE, DOUBLE, INTEGER = torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32


@pytest.mark.parametrize(
    "first, second", [(HALF, HALF), (BRAIN, SINGLE), (HALF, BRAIN), (INTEGER, INTEGER), (SINGLE, DOUBLE)]
)
def test_dtypes_are_the_cpu_s(first, second):
    f, x = torch.ones(4, 3, dtype=first), torch.ones(4, 3, dtype=second)
    actual, expected = forget_mult(*elsewhere(f, x), 0.5), forget_mult(f, x, 0.5)
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual.inner, expected)


def test_fake_tensors():
    with FakeTensorMode():
        f, x, h0 = (torch.empty(s, device=PLACE, requires_grad=True) for s in ((3, 5), (3, 5), (3,)))
        lengths = torch.empty(3, device=PLACE, dtype=torch.int64)
        h, last = forget_mult(f, x, h0, axis=1, reverse=True, lengths=lengths, return_state=True)
        assert (h.device, h.shape, last.shape, h.dtype) == (PLACE, (3, 5), (3,), torch.float32)
        for grads in (
            torch.autograd.grad(h.sum() + last.sum(), (f, x, h0), retain_graph=True),
            forget_mult_vjp(h, f, x, h, h0, axis=1, lengths=lengths),
        ):
            for grad, operand in zip(grads, (f, x, h0), strict=True):
                assert (grad.shape, grad.device) == (operand.shape, PLACE)
        assert forget_mult(0.5, x.half()).dtype == torch.float16
        assert forget_mult(torch.tensor(0.5), x).device == PLACE


@pytest.mark.parametrize("options", [{}, dict(window=2), dict(bidirectional=True, output_gate=False)])
def test_a_network_is_moved_anywhere(options):
    rnn = QRNN(3, 4, 2, **options)
    x = torch.randn(7, 2, 3)
    expected, last = rnn(x)
    grads = torch.autograd.grad(expected.square().sum(), list(rnn.parameters()))
    moved = QRNN(3, 4, 2, **options)
    moved.load_state_dict(rnn.state_dict())
    moved = moved.to(PLACE)
    output, h_n = moved(x.to(PLACE))
    torch.testing.assert_close((output.inner, h_n.inner), (expected, last))
    for actual, right in zip(torch.autograd.grad(output.square().sum(), list(moved.parameters())), grads, strict=True):
        torch.testing.assert_close(actual.inner, right)
    if not options.get("bidirectional"):
        first, state = moved.step(x[0].to(PLACE), moved.initial_state(2))
        torch.testing.assert_close(first.inner.detach(), expected[0].detach())
        assert state.hidden.device == PLACE


def test_smoothing():
    x = torch.randn(9, 3)
    (there,) = elsewhere(x)
    torch.testing.assert_close(ewm_mean(there, alpha=0.1).inner, ewm_mean(x, alpha=0.1))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kind", ["offsets", "resets", "both", "lengths"])
def test_segments(kind, axis, reverse):
    shape = (7, 3) if axis == 0 else (3, 7)
    resets, offsets = torch.rand(shape) < 0.3, [0, 3, 3, 7]
    cuts = {
        "offsets": dict(offsets=offsets), "resets": dict(resets=resets),
        "both": dict(offsets=torch.tensor(offsets), resets=resets),
        "lengths": dict(resets=resets, lengths=torch.tensor([7, 0, 4])),
    }[kind]  # fmt: skip
    there = {name: Elsewhere(v) if isinstance(v, torch.Tensor) else v for name, v in cuts.items()}
    operands = oracle.double(*shape), oracle.double(*shape), oracle.double(*(3, 3)[: 1 + ("offsets" in cuts)])
    results = []
    for given, own in (operands, cuts), (elsewhere(*operands), there):
        h, last = forget_mult(*given, axis=axis, reverse=reverse, return_state=True, **own)
        grads = torch.autograd.grad((h**2).sum() + (last**3).sum(), given, create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in grads), given)
        results.append((h, last, *grads, *second))
    for actual, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(actual.inner.detach(), expected.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [dict(offsets=[0, 2, 2, 7]), dict(resets=torch.arange(14).reshape(7, 2) % 3 == 0)])
def test_a_network_takes_segments_anywhere(options):
    rnn = QRNN(3, 4, 2, window=2)
    x = torch.randn(7, 2, 3)[:, slice(None) if "resets" in options else 0]
    expected, last = rnn(x, **options)
    output, h_n = rnn.to(PLACE)(x.to(PLACE), **options)
    torch.testing.assert_close((output.inner, h_n.inner), (expected, last))


def test_smoothing_takes_segments():
    x = torch.randn(9, 3)
    (there,) = elsewhere(x)
    options = dict(alpha=0.1, resets=torch.arange(9) % 4 == 0)
    torch.testing.assert_close(ewm_mean(there, **options).inner, ewm_mean(x, **options))


def test_offsets_on_the_host_are_checked():
    f, x = elsewhere(torch.ones(4, 3), torch.ones(4, 3))
    for offsets, message in ([0, 3], "end with 4"), ([0, 3, 2, 4], "never descend"):
        with pytest.raises(ValueError, match=f"`offsets` must .*{message}"):
            forget_mult(f, x, offsets=offsets)


def test_devices_are_not_mixed():
    x = torch.ones(4, 3)
    with pytest.raises(ValueError, match="`f` on cpu.*`x` on somewhere"):
        forget_mult(x, *elsewhere(x))
    assert forget_mult(torch.tensor(0.5), *elsewhere(x)).device == PLACE  # numbers may be the CPU's, as in torch

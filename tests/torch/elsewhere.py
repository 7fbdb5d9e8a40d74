"""Tensors of a device without kernels here, but with torch's own: run by test_any_device.py in its own process."""

import oracle
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils import backend_registration
from torch.utils._pytree import tree_map_only

import fastrecur
from fastrecur import forget_mult, forget_mult_vjp, linear_recurrence, selective_scan
from fastrecur.smoothing import ewm_mean
from fastrecur.torch import QRNN
from fastrecur.torch._operator import modes

backend_registration._setup_privateuseone_for_python_backend("somewhere")
PLACE = torch.device("somewhere:0")
KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.PrivateUse1)


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
        if func.namespace == "fastrecur":
            cls.seen.add(func.name().partition("::")[2])
            return func.redispatch(KEYS, *args)
        args, kwargs = tree_map_only(cls, lambda v: v.inner, (args, dict(kwargs or {})))
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
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


@pytest.mark.parametrize("name", ["forget_mult", "linear_recurrence"])
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


@pytest.fixture(params=["plain", "of a class"])
def seen(request, monkeypatch):
    """Take tensors there for plain ones, as a real device's are; or as they are. Return the operators that they see."""
    if request.param == "plain":
        monkeypatch.setattr(modes, "PLAIN", (*modes.PLAIN, Elsewhere))
    monkeypatch.setattr(Elsewhere, "seen", seen := set())
    return seen


def network(dtype, place, **options):
    """Return the same network each time, in training, of weights that want gradients."""
    torch.manual_seed(1)
    return QRNN(3, 4, 2, dtype=dtype, **options).to(place)


def derivatives(rnn, x, hidden=None, **cuts):
    """Return what a network gives, and gradients, and gradients of these."""
    torch.manual_seed(2)  # of zoneout
    output, last = rnn(x, hidden, **cuts)
    output = getattr(output, "data", output)
    leaves = [v for v in (*rnn.parameters(), getattr(x, "data", x), hidden) if v is not None and v.requires_grad]
    grads = torch.autograd.grad(output.square().sum() + (last**3).sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in grads), leaves)
    return [(v.inner if type(v) is Elsewhere else v).detach() for v in (output, last, *grads, *second)]


RESETS = torch.arange(14).reshape(7, 2) % 3 == 0
CALLS = {
    "whole": ({}, {}), "window": (dict(window=2), {}), "zoneout": (dict(zoneout=0.4), {}), "packed": ({}, {}),
    "both directions": (dict(bidirectional=True, output_gate=False), {}),
    "all at once": (dict(bidirectional=True, zoneout=0.4, window=3), {}),
    "offsets": ({}, dict(offsets=[0, 2, 2, 7])), "resets": (dict(window=2), dict(resets=RESETS)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", CALLS)
def test_a_network_is_moved_anywhere(kind, dtype, seen):
    (options, cuts), results = CALLS[kind], []
    states = 2 * (1 + ("bidirectional" in options))
    given, hidden = torch.randn(7, 2, 3).to(dtype), torch.randn(states, 2, 4).to(dtype)
    if kind == "offsets":
        given, hidden = given[:, 0], torch.randn(2, 3, 4).to(dtype)
    for place in ("cpu", PLACE):
        x, h_0 = (v.to(place).detach().requires_grad_() for v in (given, hidden))
        if kind == "packed":
            packed = pack_padded_sequence(given, torch.tensor([4, 7]), enforce_sorted=False).to(place)
            x = PackedSequence(packed.data.detach().requires_grad_(), *packed[1:])
        results.append(derivatives(network(dtype, place, **options), x, h_0, **cuts))
    for actual, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(actual, expected, **(dict(rtol=0.1, atol=0.3) if dtype.itemsize < 4 else {}))
    assert ("qrnn_pool" in seen) == ("qrnn_pool_backward" in seen)


def test_a_network_steps_and_is_asked_for_no_gradient_anywhere(seen):
    rnn, x = network(None, "cpu").eval(), torch.randn(7, 2, 3)
    expected, (moved, there) = rnn(x)[0], (network(None, PLACE).eval(), x.to(PLACE))
    with torch.no_grad():
        torch.testing.assert_close(moved(there)[0].inner, expected)
    first, state = moved.step(there[0], moved.initial_state(2))
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


def test_smoothing_takes_segments():
    x = torch.randn(9, 3)
    (there,) = elsewhere(x)
    options = dict(alpha=0.1, resets=torch.arange(9) % 4 == 0)
    torch.testing.assert_close(ewm_mean(there, **options).inner, ewm_mean(x, **options))


SCANS = {
    "softplus": dict(delta_softplus=True), "reverse": dict(reverse=True), "offsets": dict(offsets=[0, 2, 2, 5]),
    "lengths": dict(lengths=[3, 0], reverse=True), "resets": dict(resets=(torch.arange(10) % 3 == 1).reshape(2, 5)),
}  # fmt: skip


@pytest.mark.parametrize("kind", SCANS)
@pytest.mark.parametrize("layout", ["bdl", "bld"])
@pytest.mark.parametrize("mixed", [False, True])
def test_selective_scans(kind, layout, mixed):
    """Of groups, with and without what may be left out; of operands of one dtype, and of each its own."""
    batch, states = (1, 3) if kind == "offsets" else (2, 2)
    shapes = [(batch, 4, 5), (batch, 4, 5), (4, 3), (batch, 2, 3, 5), (batch, 3, 5), (4,), (batch, 4, 5), (4,),
              (states, 4, 3)]  # fmt: skip
    whole = [0.5 * torch.randn(shape) for shape in shapes]
    whole[2] = -whole[2].abs()
    if layout == "bld":
        whole = [v.movedim(-1, 1).contiguous() if v.shape[-1] == 5 else v for v in whole]
    dtypes = (SINGLE, DOUBLE, BRAIN, SINGLE, BRAIN, DOUBLE, BRAIN, SINGLE, BRAIN) if mixed else 9 * (DOUBLE,)
    whole = [v.to(dtype) for v, dtype in zip(whole, dtypes, strict=True)]
    close = dict(rtol=0.05, atol=0.1) if mixed else dict(rtol=1e-9, atol=1e-9)
    for operands in (whole, whole[:5]):
        results = []
        for given in ([v.double() for v in operands], elsewhere(*operands)):
            given = [v.requires_grad_() for v in given]
            y, last = selective_scan(*given, **SCANS[kind], layout=layout, return_state=True)
            grads = torch.autograd.grad((y**2).sum() + (last**3).sum(), given, create_graph=True)
            second = torch.autograd.grad(sum((g.double() ** 2).sum() for g in grads), given)
            results.append((y, last, *grads, *second))
        dtypes = [v.dtype for v in (operands[0], operands[0], *operands, *operands)]
        for actual, expected, dtype in zip(*reversed(results), dtypes, strict=True):
            assert (actual.device, actual.dtype) == (PLACE, dtype)
            expected, scale = expected.detach(), max(1, float(expected.detach().abs().max()))
            torch.testing.assert_close(actual.inner.detach().double() / scale, expected / scale, **close)


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

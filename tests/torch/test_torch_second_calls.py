"""Tensors by their second and fourth call: under hooks, modes and transforms, of subclasses and modules."""

import math

import numpy as np
import pytest
import torch
from repeated import check_again, forget, numbers
from torch.utils._python_dispatch import TorchDispatchMode

import fastrecur
import fastrecur.torch
from fastrecur import returns, smoothing
from fastrecur.torch._operator import modes

FORGET, LINEAR = fastrecur.forget_mult, fastrecur.linear_recurrence
saved = torch.autograd.graph.saved_tensors_hooks


def tensors_of(*shapes, dtype=torch.float32):
    def make(number):
        generator = torch.Generator().manual_seed(number)
        return [torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]

    return make


def fill(operands, others):
    for own, other in zip(operands, others, strict=True):
        own.copy_(other)


def gradients(function, *operands, pack=None, cotangent=None, unpack=lambda t: t):
    """Return a function's result and its gradients, with hooks of saved tensors if there is one."""
    operands = [v.clone().requires_grad_() for v in operands]
    if pack is None:
        h = function(*operands)
    else:
        with saved(pack, unpack):
            h = function(*operands)
    return [h, *torch.autograd.grad(h, operands, torch.ones_like(h) if cotangent is None else cotangent)]


class Seen(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Own(torch.Tensor):
    pass


def with_constants(transform):
    """Return a call inside a transform that knows nothing of its operands."""
    return lambda f, x: transform(lambda s: (s * FORGET(f, x)).sum())(torch.tensor(2.0))


def in_mode(f, x):
    with Seen():
        return FORGET(f, x)


def profiled(f, x):
    with torch.profiler.profile():
        return FORGET(f, x)


def in_inference(f, x):
    with torch.inference_mode():
        return FORGET(f, x).clone()


def vmapped(f, x):
    return torch.vmap(lambda f, x: FORGET(f, x))(f.unsqueeze(0), x.unsqueeze(0))


CALLS = {
    "plain": FORGET,
    "a number": lambda f, x: FORGET(0.5, x),
    "gradients": lambda f, x: gradients(FORGET, f, x),
    "gradients of x": lambda f, x: gradients(lambda x: FORGET(f, x), x),
    "gradients of f": lambda f, x: gradients(lambda f: FORGET(f, x), f),
    "gradients with a number": lambda f, x: gradients(lambda x: LINEAR(0.5, x), x),
    "transposed cotangent": lambda f, x: gradients(FORGET, f, x, cotangent=x.t().contiguous().t()),
    "negative cotangent": lambda f, x: gradients(FORGET, f, x, cotangent=torch._neg_view(x)),
    "expanded cotangent": lambda f, x: gradients(FORGET, f, x, cotangent=x[0, 0].expand(x.shape)),
    "halves unpacked": lambda f, x: gradients(FORGET, f, x, pack=lambda t: t.half()),
    "doubles unpacked": lambda f, x: gradients(FORGET, f, x, pack=lambda t: t.double()),
    "negative unpacked": lambda f, x: gradients(FORGET, f, x, pack=lambda t: torch._neg_view(-t)),
    "strided unpacked": lambda f, x: gradients(FORGET, f, x, pack=lambda t: t.t().contiguous().t()),
    "subclass unpacked": lambda f, x: gradients(FORGET, f, x, pack=lambda t: t.as_subclass(Own)),
    "in a mode": in_mode,
    "profiled": profiled,
    "in inference mode": in_inference,
    "negative": lambda f, x: FORGET(f, torch._neg_view(x)),
    "negative gate": lambda f, x: FORGET(torch._neg_view(-f), x),
    "subclass": lambda f, x: FORGET(f.as_subclass(Own), x).as_subclass(torch.Tensor),
    "parameter": lambda f, x: FORGET(torch.nn.Parameter(f), x),
    "zeros without memory": lambda f, x: FORGET(f, torch._efficientzerotensor(x.shape)),
    "func.grad of constants": with_constants(torch.func.grad),
    "func.jacrev of constants": with_constants(torch.func.jacrev),
    "func.hessian of constants": with_constants(torch.func.hessian),
    "func.functionalize": with_constants(torch.func.functionalize),
    "vmap": vmapped,
    "func.grad": lambda f, x: torch.func.grad(lambda f: FORGET(f, x).sum())(f),
}
FORWARD = ["plain", "a number", "in a mode", "profiled", "in inference mode", "negative", "negative gate", "subclass",
           "parameter", "zeros without memory"]  # fmt: skip
BACKWARD = [name for name in CALLS if "gradients" in name or "cotangent" in name or "unpacked" in name]
TRANSFORMS = ["plain", "a number", "gradients", *[name for name in CALLS if "func" in name], "vmap"]
FEW = ["plain", "gradients", "negative cotangent", "halves unpacked", "in a mode", "func.grad of constants"]


@pytest.mark.sample(names=[FEW])
@pytest.mark.parametrize(
    "names", [FEW, FORWARD, BACKWARD, TRANSFORMS], ids=["few", "forward", "gradients", "transforms"]
)
def test_recurrences(names):
    """Whatever torch has in play beside one call takes no part in the next one of the same layout."""
    check_again({name: CALLS[name] for name in names}, tensors_of((50, 8), (50, 8)), fill)


def test_hooks_that_keep_the_numbers():
    """However they lay them out, gradients are those of none."""
    f, x = tensors_of((50, 8), (50, 8))(0)
    for name in ("negative unpacked", "strided unpacked", "doubles unpacked", "subclass unpacked"):
        torch.testing.assert_close(CALLS[name](f, x), CALLS["gradients"](f, x))


def test_what_hooks_unpack_is_what_a_gradient_is_of():
    """Against gradients of what was unpacked, told by the definition."""
    f, x = tensors_of((50, 8), (50, 8), dtype=torch.float32)(0)
    h = FORGET(f, x)
    right = fastrecur.reference.forget_mult_vjp(np.ones(h.shape), *(v.half().double().numpy() for v in (f, x, h)))
    forget()
    for pack in (None, lambda t: t.half(), None, lambda t: t.half()):
        for _ in range(3):
            grads = numbers(gradients(FORGET, f, x, pack=pack)[1:])
            whole = fastrecur.reference.forget_mult_vjp(np.ones(h.shape), *(v.double().numpy() for v in (f, x, h)))
            for grad, wanted in zip(grads, right if pack else whole, strict=False):
                np.testing.assert_allclose(grad, wanted, rtol=1e-3 if pack else 3e-6)


COMPLEX = {
    "plain": lambda a, b: LINEAR(a, b),
    "conjugated": lambda a, b: LINEAR(a.conj(), b),
    "conjugated values": lambda a, b: LINEAR(a, b.conj()),
    "an imaginary part": lambda a, b: FORGET(a.real, b.conj().imag),
    "gradients": lambda a, b: gradients(LINEAR, a, b),
    "gradients of a conjugate": lambda a, b: gradients(LINEAR, a, b, cotangent=b.conj()),
    "conjugates unpacked": lambda a, b: gradients(LINEAR, a, b, pack=lambda t: t.conj()),
}


@pytest.mark.exhaustive
def test_complex_recurrences():
    check_again(COMPLEX, tensors_of((30, 4), (30, 4), dtype=torch.complex64), fill)


OTHERS = {
    "float32": lambda f, x: FORGET(f, x),
    "float64": lambda f, x: FORGET(f.double(), x.double()),
    "mixed": lambda f, x: FORGET(f, x.double()),
    "bfloat16": lambda f, x: FORGET(f.bfloat16(), x.bfloat16()),
    "reverse": lambda f, x: FORGET(f, x, reverse=True),
    "the last axis": lambda f, x: FORGET(f, x, axis=-1),
    "a first state": lambda f, x: FORGET(f, x, f[0], return_state=True),
    "offsets": lambda f, x: FORGET(f, x, offsets=torch.tensor([0, 3, 20, len(x)])),
    "resets": lambda f, x: gradients(lambda f, x: FORGET(f, x, resets=x.detach()[:, 0] > 0.8), f, x),
    "lengths": lambda f, x: gradients(lambda f, x: FORGET(f, x, lengths=torch.arange(8)), f, x),
    "mean": lambda f, x: smoothing.ewm_mean(x, alpha=0.3),
    "mean, gradients": lambda f, x: gradients(lambda x: smoothing.ewm_mean(x, alpha=0.3), x),
    "gae": lambda f, x: returns.gae(x[:-1], x, 0.9, 0.95, f[:-1] > 0.9),
}


@pytest.mark.exhaustive
def test_other_calls():
    check_again(OTHERS, tensors_of((50, 8), (50, 8)), fill)


@pytest.mark.exhaustive
def test_large_results():
    """They stand in memory that was used before."""
    ways = {name: CALLS[name] for name in ("plain", "gradients", "in a mode")}
    check_again(ways, tensors_of((3000, 600), (3000, 600)), fill)


@pytest.mark.exhaustive
@pytest.mark.parametrize("options", [{}, {"window": 2, "output_gate": False}, {"bidirectional": True}], ids=str)
def test_qrnn(options):
    """A layer, trained and not, under hooks of every kind."""
    torch.manual_seed(0)
    rnn = fastrecur.torch.QRNN(6, 5, **options)
    packs = {"halves": lambda t: t.half().float(), "negative": lambda t: torch._neg_view(-t)}
    packs |= {"strided": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1)}
    packs |= {"negative states": lambda t: torch._neg_view(-t) if t.shape[-1] == 5 else t}
    packs |= {"strided states": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1) if t.shape[-1] == 5 else t}

    def train(x, pack=None):
        return gradients(lambda x: rnn(x)[0], x, pack=pack)

    def infer(x):
        with torch.no_grad():
            return rnn(x)

    (x,) = tensors_of((20, 3, 6))(0)
    for pack in list(packs.values())[1:]:  # the same numbers otherwise
        torch.testing.assert_close(train(x, pack), train(x))
    ways = {"trained": train, "inference": infer}
    ways |= {name: lambda x, pack=pack: train(x, pack) for name, pack in packs.items()}
    check_again(ways, tensors_of((20, 3, 6)), fill)


def test_torch_asks_for_one_thing():
    """Nothing has a key where any of what torch may have in play is there."""
    f, x = tensors_of((50, 8), (50, 8))(0)
    for v in (f, x):
        assert modes.key_of((), v, None, 0.5) is not None
    for v in (
        f.to("meta"),
        f.to_sparse(),
        f.as_subclass(Own),
        torch._neg_view(f),
        torch._efficientzerotensor(8),
        1,
        True,
    ):
        assert modes.key_of((), v) is None
    c = torch.zeros(3, dtype=torch.complex64)
    assert modes.key_of((), c) != modes.key_of((), c.real)
    assert modes.key_of((), c.conj()) is None
    keys = [modes.key_of((), v) for v in (f, f.t(), f[:10], f.double(), f[::2], f.clone().requires_grad_())]
    assert len(set(keys)) == len(keys)

    def inside(*_):
        assert modes.key_of((), f) is None
        return x.sum()

    torch.func.grad(lambda s: s * inside())(torch.tensor(1.0))
    torch.vmap(lambda s: s * inside())(torch.ones(3))
    with Seen():
        inside()
    with torch.autograd.forward_ad.dual_level():
        inside()
    with torch.overrides.TorchFunctionMode():
        assert modes.key_of((), f) is None
    with torch.device("cpu"):
        assert modes.key_of((), f) is not None


def test_an_out_where_borders_stand():
    """It is refused before anything is written, at every call."""
    memory = torch.zeros(400, dtype=torch.uint8)
    resets = memory[:50].view(torch.bool)
    resets[::7] = True
    x, before = torch.randn(50, dtype=torch.float64), memory.clone()
    for _ in range(4):
        with pytest.raises(ValueError, match="`out` must share no memory with `resets`"):
            FORGET(0.5, x, resets=resets, out=memory.view(torch.float64))
    assert torch.equal(memory, before)
    steps = 3000
    memory, x = torch.zeros(steps + 7, dtype=torch.float64), torch.randn(steps, dtype=torch.float64)
    whole, part = memory[:steps].view(torch.int64), memory.view(torch.int64)[4:9]
    for offsets, values in ((whole, [0] * (steps - 1) + [steps]), (part, [0, 10, 500, 2000, steps])):
        memory.zero_()
        offsets[:] = torch.tensor(values)
        before = memory.clone()
        for options in ({}, {"return_state": True}, {}, {"reverse": True}):
            with pytest.raises(ValueError, match="`out` must share no memory with `offsets`"):
                FORGET(0.5, x, offsets=offsets, out=memory[:steps], **options)
        assert torch.equal(memory, before)


FIRST_STATES = {
    "none": None,
    "its own": torch.rand(5),
    "float64": torch.rand(5, dtype=torch.float64),
    "broadcast": torch.rand(1),
    "without axes": torch.tensor(0.25),
    "a number": 0.25,
    "every other": torch.rand(10)[::2],
    "integers": torch.arange(5),
    "wants a gradient": torch.rand(5, requires_grad=True),
}


@pytest.mark.parametrize("kind", FIRST_STATES)
@pytest.mark.parametrize("lengths", [None, torch.tensor([7, 0, 3, 1, 6]), torch.tensor([2, 7, 0, 5, 5]).int()])
@pytest.mark.parametrize("number", [False, True])
def test_states_and_lengths_of_known_calls(kind, lengths, number):
    """Results, states and gradients of later calls are those of arrays; they share no memory with what was given."""
    f, x, h0 = 0.5 if number else torch.rand(7, 5), torch.randn(7, 5), FIRST_STATES[kind]
    state = h0.detach().numpy() if isinstance(h0, torch.Tensor) else h0
    state = np.float32(state) if kind == "integers" else state  # which promote as torch says
    wanted = FORGET(
        f if number else f.numpy(), x.numpy(), state, lengths=None if lengths is None else lengths.numpy(),
        return_state=True,
    )  # fmt: skip
    forget()
    for _ in range(4):
        h, last = FORGET(f, x, h0, lengths=lengths, return_state=True)
        alone = FORGET(f, x, h0, lengths=lengths)
        for result, right in zip((h, last, alone), (*wanted, wanted[0]), strict=True):
            assert result.requires_grad is (kind == "wants a gradient")
            np.testing.assert_array_equal(result.detach().numpy(), right)
            assert result.numpy(force=True).dtype == right.dtype
        if kind == "wants a gradient":
            (grad,) = torch.autograd.grad((h.sum() + last.sum()), h0)
            np.testing.assert_allclose(
                grad.numpy(),
                fastrecur.forget_mult_vjp(
                    np.ones_like(h.detach().numpy()), f if number else f.numpy(), x.numpy(), h.detach().numpy(), state,
                    lengths=None if lengths is None else lengths.numpy(), grad_state=np.ones(5, np.float32),
                )[2],
                rtol=1e-6,
            )  # fmt: skip
        last.detach().fill_(torch.nan)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_number_beyond_the_carry_is_infinite_in_known_calls_too(dtype):
    x = tensors_of((7, 5), dtype=dtype)(0)[0]
    for start in (1e39, -1e39, -math.inf):
        forget()
        results = [FORGET(0.5, x, start, return_state=True) for _ in range(3)]
        assert all(torch.equal(v, torch.full_like(v, math.copysign(math.inf, start))) for pair in results for v in pair)


def test_lengths_of_known_calls_are_checked():
    f, x = torch.rand(7, 5), torch.randn(7, 5)
    for _ in range(3):
        FORGET(f, x, lengths=torch.full((5,), 7))
    for wrong in (8, -1):
        with pytest.raises(ValueError, match=f"`lengths` must be in 0..7, .*got {wrong}"):
            FORGET(f, x, lengths=torch.full((5,), wrong))

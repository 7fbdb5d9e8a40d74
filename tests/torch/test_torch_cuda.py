"""The operators on a GPU that is not there: the PTX of real kernels, run on tensors that count as a device's."""

import pathlib

import devices
import pytest
import tensors
import torch
from repeated import forget
from tensors import STREAM
from torch.utils._python_dispatch import TorchDispatchMode

import fastrecur
from fastrecur._arguments.checks import Segments
from fastrecur.torch._operator import device_tensors, eager, modes, ops, tensors as _tensors


@pytest.fixture
def driver(monkeypatch):
    """A driver without a card, for which CPU tensors stand on device 0."""
    driver = devices.Driver()
    forget()
    tensors.place(driver, monkeypatch.setattr)
    yield driver
    forget()


def problem(dtype, gate_shape=(9, 5, 6)):
    generator = torch.Generator().manual_seed(0)
    f, x, h0 = (torch.rand(s, generator=generator).to(dtype) for s in (gate_shape, (9, 5, 6), (5, 6)))
    return f, x, h0


def launches(driver):
    return {entry[2:] for entry in driver.log if entry[0] == "launch"}


@pytest.mark.sample(dtype=[torch.float32], gate_shape=[(9, 5, 6)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("gate_shape", [(9, 5, 6), (6,), (9, 1, 1), ()])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, torch.tensor([9, 0, 4, 8, 1])])
def test_operators(driver, dtype, gate_shape, reverse, lengths):
    """They give what the CPU's give, in the same dtypes and layouts."""
    f, x, h0 = problem(dtype, gate_shape)
    arguments = "forget", f, x, h0, lengths, 0, reverse, dtype
    h, last = ops._forward_cuda(*arguments)
    expected, expected_last = ops._forward(*arguments)
    for actual, wanted in ((h, expected), (last, expected_last)):
        torch.testing.assert_close(actual, wanted)
        assert actual.stride() == wanted.stride()
    g, g_last = torch.ones_like(h), torch.ones_like(last)
    arguments = "forget", g, f, x, expected, h0, g_last, lengths, 0, reverse, dtype, True, True, True
    for actual, wanted in zip(ops._vjp_cuda(*arguments), ops._vjp(*arguments), strict=True):
        torch.testing.assert_close(actual, wanted)
        assert actual.stride() == wanted.stride()
    assert launches(driver) == {(0, STREAM)}


OFFSETS, RESETS = torch.tensor([0, 4, 4, 9]), torch.arange(45).view(9, 5) % 4 == 0
CUTS = {
    "offsets": Segments(None, OFFSETS, None),
    "resets": Segments(None, None, RESETS),
    "resets of padded series": Segments(torch.tensor([9, 0, 4, 8, 1]), None, RESETS[:, :1]),
    "both": Segments(None, OFFSETS.int(), RESETS),
}


@pytest.mark.sample(dtype=[torch.float32], family=["forget"], reverse=[False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("family", ["forget", "linear"])
def test_segments(driver, dtype, reverse, cuts, family):
    """Kernels read where series begin anew, in one launch: of torch's own operators there are none."""
    f, x, h0 = problem(dtype)
    h0 = torch.stack([h0, -h0, h0]) if CUTS[cuts].offsets is not None else h0
    first, rest = (*CUTS[cuts], 0, reverse, dtype), (True, True, True)
    results = []
    for run, vjp in ((ops._forward, ops._vjp), (ops._forward_cuda, ops._vjp_cuda)):
        h, last = ops.kernel(run, family, 3)(f, x, h0, *first)
        g, g_last = x * 3, torch.ones_like(last)
        results.append((h, last, *ops.kernel(vjp, family, 6)(g, f, x, h, h0, g_last, *first, *rest)))
    for wanted, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, wanted)
        assert actual.stride() == wanted.stride()
    launched = [entry[1] for entry in driver.log if entry[0] == "launch"]
    assert len(launched) == 2 and launched[1].endswith("_vjp")


def test_what_is_not_wanted_is_empty(driver):
    f, x, h0 = problem(torch.float32)
    h, _ = ops._forward("forget", f, x, None, None, 0, False, torch.float32)
    grads = ops._vjp_cuda("forget", h, f, x, h, None, None, None, 0, False, torch.float32, False, True, False)
    assert [grad.numel() for grad in grads] == [0, x.numel(), 0]


@pytest.mark.parametrize("layout", [lambda t: t.transpose(0, 1), lambda t: t.expand(4, *t.shape)])
def test_layouts(driver, layout):
    """Results are laid out as on fake tensors, or a compiled graph would read them wrongly."""
    f, x = (layout(t) for t in problem(torch.float32)[:2])
    h, _ = ops._forward_cuda("forget", f, x, None, None, 1, False, torch.float32)
    expected, _ = ops._forward_fake("forget", f, x, None, None, 1, False, torch.float32)
    torch.testing.assert_close(h, fastrecur.forget_mult(f, x, axis=1))
    assert h.stride() == expected.stride()


def test_addresses_that_are_no_multiples_of_the_size(driver):
    f, x, h0 = problem(torch.float32)
    shifted = torch.frombuffer(bytearray(b"\0\0" + x.numpy().tobytes()), dtype=torch.float32, offset=2).view_as(x)
    with pytest.raises(ValueError, match="`x` must be aligned on a GPU"):
        ops._forward_cuda("forget", f, shifted, h0, None, 0, False, torch.float32)
    assert not launches(driver)


def test_linear_recurrence_of_complex_tensors(driver):
    a, b = (torch.complex(t, t.flip(0)) / 2 for t in problem(torch.float32)[:2])
    arguments = "linear", a, b, None, None, 0, False, torch.complex64
    h, _ = ops._forward_cuda(*arguments)
    torch.testing.assert_close(h, ops._forward(*arguments)[0])
    arguments = "linear", h, a, b, h, None, None, None, 0, False, torch.complex64, True, True, False
    for actual, wanted in zip(ops._vjp_cuda(*arguments)[:2], ops._vjp(*arguments)[:2], strict=True):
        torch.testing.assert_close(actual, wanted)


def test_the_operators_are_cuda_s_too():
    for name in ("forget_mult", "linear_recurrence"):
        for suffix in ("", "_backward"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fastrecur::{name}{suffix}", "CUDA")
    assert _tensors.DTYPES  # the module that the operators take their dtypes from


@pytest.mark.exhaustive
def test_each_call_is_one_launch(run_python):
    """Tensors and other arrays by the ways they really go, up to where the driver would begin."""
    benchmarks = pathlib.Path(__file__).parents[1] / "benchmarks"
    printed = run_python(
        f"""
import sys, types
sys.path.append({str(benchmarks)!r})
sys.modules["tqdm"] = types.SimpleNamespace(tqdm=lambda cases, **options: cases)
import host_run
sys.exit(host_run.main(["--check"]))
"""
    )
    assert "interface" in printed
    assert "WRONG" not in printed


@pytest.fixture
def on_gpu(driver, monkeypatch):
    """Plain tensors are a GPU's; what the gradient's gradient is made of stays the CPU's."""
    monkeypatch.setattr(eager, "engine", lambda tensors, lengths: device_tensors)
    return driver


GIVEN = {
    "all": {},
    "a gate of a number": {"f": 0.25},
    "a broadcast gate": {"f": torch.linspace(0, 1, 6)},
    "a gate on the CPU": {"f": torch.tensor(0.25)},
    "one series' values": {"x": torch.arange(9.0)[:, None, None]},
    "no first state": {"h0": None},
    "a number as first state": {"h0": 0.5},
    "one first state": {"h0": torch.tensor([2.0])},
    "lengths": {"lengths": torch.tensor([9, 0, 4, 8, 1])},
    "other dtypes": {"f": torch.rand(9, 5, 6).half(), "h0": torch.rand(5, 6).double()},
    "nothing": {"f": torch.rand(0, 5, 6), "x": torch.rand(0, 5, 6)},
}


@pytest.mark.sample(given=["all", "no first state", "lengths"])
@pytest.mark.parametrize("wanted, used", [("f", (0,)), ("x", (0,)), ("x", (1,)), ("h0", (1,)), ("fxh0", (0, 1))])
@pytest.mark.parametrize("given", GIVEN)
def test_gradients(on_gpu, monkeypatch, given, wanted, used):
    """An operand's gradient is the CPU's, whichever others want one and whatever of the results is used."""
    f, x, h0 = problem(torch.float32)
    given = dict(f=f, x=x, h0=h0, lengths=None) | GIVEN[given]

    def run():
        operands = {name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in given.items()}
        leaves = [v for n, v in operands.items() if n in wanted and n and isinstance(v, torch.Tensor)]
        for leaf in leaves:
            leaf.requires_grad_()
        results = fastrecur.forget_mult(**operands, return_state=True)
        loss = sum(
            (results[k].float() * torch.linspace(-1, 1, results[k].numel()).view_as(results[k])).sum() for k in used
        )
        return results, (torch.autograd.grad(loss, leaves) if leaves else ())

    results, grads = run()
    forget()
    monkeypatch.setattr(eager, "engine", lambda tensors, lengths: _tensors)
    expected, expected_grads = run()
    for actual, right in zip((*results, *grads), (*expected, *expected_grads), strict=True):
        torch.testing.assert_close(actual, right)


@pytest.mark.sample(real=[0])
@pytest.mark.parametrize("real", range(3))
def test_the_gradient_of_a_real_operand_of_a_complex_recurrence(on_gpu, monkeypatch, real):
    operands = [torch.complex(v, v.flip(0)) / 2 for v in problem(torch.float32)]
    operands[real] = operands[real].real.clone()

    def run():
        leaves = [v.clone().requires_grad_() for v in operands]
        h = fastrecur.linear_recurrence(*leaves)
        return h, *torch.autograd.grad((h * h.detach()).abs().sum(), leaves)

    results = run()
    forget()
    monkeypatch.setattr(eager, "engine", lambda tensors, lengths: _tensors)
    for actual, right in zip(results, run(), strict=True):
        torch.testing.assert_close(actual, right)


def test_the_gradient_of_a_gradient(on_gpu, monkeypatch):
    """It goes through the dispatcher, over what an eager call has kept."""
    f, x, h0 = (v[:4, :2, :3].double().requires_grad_() for v in (*problem(torch.float32)[:2], torch.ones(1, 2, 3)))

    def run(f, x, h0):
        return fastrecur.forget_mult(f, x, h0[0], return_state=True)

    monkeypatch.setattr(eager, "engine", engine_of_first_order)
    assert torch.autograd.gradgradcheck(run, (f, x, h0))


def engine_of_first_order(tensors, lengths):
    """What `eager.engine` is where the dispatcher's levels are not in the way."""
    return device_tensors if modes.no_modes_active() else None


@pytest.mark.exhaustive
def test_conjugates_have_launches_of_their_own(run_python):
    """A conjugated tensor has the plain one's address, shape and strides."""
    here = pathlib.Path(__file__).parents[1]
    run_python(
        f"""
import sys, types
sys.path += [{str(here / "benchmarks")!r}, {str(here / "gpu_tools")!r}]
sys.modules["tqdm"] = types.SimpleNamespace(tqdm=None)
import torch, fastrecur, fastrecur.torch
torch.manual_seed(0)
g, a, b, h = (torch.randn(5, 3, dtype=torch.complex64) for _ in range(4))
def calls():
    for gate in (a, a.conj(), a, torch._neg_view(a), a):
        yield fastrecur.linear_recurrence(gate, b)
        yield from fastrecur.linear_recurrence_vjp(g, gate, b, h)[:2]
wanted = list(calls())
import host_run, devices, tensors
driver = devices.Driver()
kept = host_run.replace_torch()
own = tensors.place(driver, setattr)
for tensor in (g, a, b, h):
    own(tensor)
for _ in range(3):
    for result, right in zip(calls(), wanted, strict=True):
        torch.testing.assert_close(result, right)
assert sum(entry[0] == "launch" for entry in driver.log) >= 20
"""
    )


@pytest.mark.exhaustive
def test_what_is_remembered(run_python):
    """Calls of a kind seen before take short ways; a call that records takes no other's."""
    here = pathlib.Path(__file__).parents[1]
    run_python(
        f"""
import sys, types
sys.path += [{str(here / "benchmarks")!r}, {str(here / "gpu_tools")!r}]
sys.modules["tqdm"] = types.SimpleNamespace(tqdm=None)
import torch, fastrecur, fastrecur.torch
def calls(gate, dtype, own=lambda tensor: tensor):
    torch.manual_seed(0)
    f, x, g, state = torch.rand(5, 3), torch.randn(5, 3), torch.randn(5, 3), torch.rand(3)
    f, x, g, state = (own(v.to(dtype)) for v in (f, x, g, state))
    f = f if gate is None else gate
    results = []
    for round in range(3):
        for wanted, h0 in (
            ((), None), ((), state), ((x,), None), ((x, f), None), ((state,), state), ((x, f, state), state),
        ):
            wanted = [v for v in wanted if v is not gate]
            for return_state in (False, True):
                for v in wanted:
                    v.requires_grad_()
                h = fastrecur.forget_mult(f, x, h0, return_state=return_state)
                results += h if return_state else [h]
                with torch.no_grad():
                    results.append(fastrecur.forget_mult(f, x, h0))
                    # A state that looks like a gate, and a gate that looks like a state.
                    results += [fastrecur.forget_mult(0.5, x, state), fastrecur.forget_mult(state, x)]
                    results += [fastrecur.forget_mult(1, x, state), fastrecur.forget_mult(True, x)]
                h = h[0] if return_state else h
                assert h.requires_grad == bool(wanted)
                if wanted:
                    results += torch.autograd.grad(h, wanted, g)
                for v in wanted:
                    v.requires_grad_(False)
        if gate is None:
            h = results[0].detach()
            for given in ({{}}, {{"h0": state}}, {{"grad_state": state}}, {{"h0": state, "grad_state": h[0]}}):
                for round in range(2):
                    results += [v for v in fastrecur.forget_mult_vjp(g, f, x, h, **given) if v is not None]
            for name in ("h0", "grad_state"):
                grads = fastrecur.forget_mult_vjp(g, f, x, h, **{{name: state.clone().requires_grad_()}})
                assert grads[0].requires_grad
                results += [v.detach() for v in grads if v is not None]
    return results
KINDS = [(None, torch.float32), (0.25, torch.float32), (None, torch.bfloat16), (0.25, torch.bfloat16)]
expected = [calls(*kind) for kind in KINDS]
import host_run, devices, tensors
driver = devices.Driver()
kept = host_run.replace_torch()
own = tensors.place(driver, setattr)
for kind, right in zip(KINDS, expected):
    for k, (one, other) in enumerate(zip(calls(*kind, own), right, strict=True)):
        torch.testing.assert_close(one, other, msg=lambda m: f"result {{k}}: {{m}}")
assert sum(entry[0] == "launch" for entry in driver.log) >= 100
from fastrecur.torch import _short_calls
assert {{key[-1] for key in _short_calls._known}} == {{False, True}}
f, x, thin = torch.rand(5, 3), torch.randn(5, 3), torch.rand(5, 3).to_sparse()
for name, call in {{
    "f": lambda: fastrecur.forget_mult(thin, x),
    "x": lambda: fastrecur.forget_mult(f, thin),
    "h0": lambda: fastrecur.forget_mult(f, x, thin[0]),
    "grad_h": lambda: fastrecur.forget_mult_vjp(thin, f, x, x),
    "grad_state": lambda: fastrecur.forget_mult_vjp(x, f, x, x, grad_state=thin[0]),
}}.items():
    try:
        call()
    except TypeError as error:
        assert str(error).startswith("`" + name + "` must be a plain dense tensor"), error
    else:
        raise AssertionError(name)
"""
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("layout", ["bdl", "bld"])
def test_selective_scan(driver, layout):
    """The operators' kernels give what the CPU's give, in the same dtypes and layouts."""
    from fastrecur.torch._operator import selective

    u, delta, z, g = torch.randn(4, 2, 6, 6).bfloat16()
    A, B, C = -torch.rand(6, 3), *torch.randn(2, 2, 3, 6).bfloat16().movedim(2, 2 if layout == "bdl" else 3)
    ends = torch.tensor([6, 2]), None, None
    arguments = u, delta, A, B, C, torch.randn(6), z, torch.randn(6), torch.randn(2, 6, 3), *ends, True, layout, False
    back = g, torch.randn(2, 6, 3), *arguments, None, [True] * 8 + [False]
    for on_gpu, on_cpu, given in (
        (selective._on_gpu, selective._on_cpu, (*arguments, False)),
        (selective._vjp_on_gpu, selective._vjp_on_cpu, back),
    ):
        for actual, wanted in zip(on_gpu(*given), on_cpu(*given), strict=True):
            torch.testing.assert_close(actual, wanted)
            assert actual.stride() == wanted.stride()
        assert launches(driver) == {(0, STREAM)}
    for name in ("selective_scan", "selective_scan_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fastrecur::{name}", "CUDA")


FILTERS = ["shared", "own", "varying", "poles", "complex"]


def filter_operands(kind):
    """Return an operator's arguments without poles: a float32 signal (5, 33), coefficients, states and lengths."""
    rng = torch.Generator().manual_seed(0)
    random = lambda *shape: torch.randn(shape, generator=rng, dtype=torch.float64)  # noqa: E731
    x, lead = random(5, 33).float(), {"own": (5,), "varying": (5, 33), "poles": (5, 33)}.get(kind, ())
    sos, zi = 0.2 * random(*lead, 1 if kind == "poles" else 2, 3 if kind == "poles" else 6), random(2, 5, 2)
    if kind == "poles":
        zi = random(1, 5, 3)
    else:
        sos[..., 3] = 1
    lengths = torch.tensor([33, 0, 9, 30, 1])
    if kind == "complex":
        return torch.complex(x, x.flip(0)), sos, zi, lengths, 1, True
    return x, sos, zi, lengths, 1, kind == "own"


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", FILTERS)
def test_filters(driver, kind):
    """The operator's kernel gives what the CPU's gives, in the same dtypes and layouts."""
    from fastrecur.torch._operator import filters

    arguments = *filter_operands(kind), kind == "poles"
    for actual, wanted in zip(filters._on_gpu(*arguments), filters._run_forward(*arguments), strict=True):
        torch.testing.assert_close(actual, wanted)
        assert actual.stride() == wanted.stride()
    assert launches(driver) == {(0, STREAM)}
    assert torch._C._dispatch_has_kernel_for_dispatch_key("fastrecur::sosfilt_backward", "CUDA")


class Composed(TorchDispatchMode):
    """A mode, as a profiler's, in which a filter's gradient is a GPU's: nothing is conjugated there but by a copy."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        from fastrecur.torch._operator import filters

        if function is torch.ops.fastrecur.sosfilt_backward.default:
            function = filters.anywhere(filters._fake_backward, filters._adjoint)
        return function(*arguments, **(options or {}))


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("cut", [True, False])
def test_gradients_of_filters_are_composed(kind, cut):
    """Of filters, of which those on the CPU stand for a GPU's: what is in the padding reaches nothing."""
    from fastrecur.torch._operator import filters

    x, sos, zi, lengths, *scan = filter_operands(kind)
    g, grad_zf, poles = torch.randn_like(x), torch.randn_like(zi), kind == "poles"
    if cut:
        y = filters._run_forward(x, sos, zi, lengths, *scan, poles)[0] if poles else x.clone()
        y[torch.arange(33) >= lengths[:, None]] = 0 if poles else float("nan")
    else:
        y, lengths = x, None
    arguments = g, grad_zf, y, sos, zi, lengths, *scan, poles
    with Composed():
        found = torch.ops.fastrecur.sosfilt_backward(*arguments)
    for own, wanted in zip(found, filters._run_backward(*arguments), strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["varying", "poles"])
def test_gradients_of_filters_stay_on_the_device(fake_device, kind):
    from fastrecur.torch._operator import filters

    with fake_device("cuda"):
        fake = lambda v: getattr(v, "new_empty", lambda *_, **__: v)(getattr(v, "shape", ()), device="cuda")  # noqa: E731
        x, sos, zi, lengths, *scan = map(fake, filter_operands(kind))
        for own in (lengths, None):
            composed = filters._composed_poles if kind == "poles" else filters._composed
            grads = composed(x, zi, x, sos, zi, own, *scan)
            assert {grad.device.type for grad in grads} == {"cuda"}


@pytest.mark.exhaustive
def test_follow_and_holt(driver):
    """Operators and their gradients give what the CPU's give."""
    from fastrecur.torch._operator import levels

    def check(runs, *arguments):
        found, wanted = (run(*arguments) for run in runs)
        torch.testing.assert_close(found, wanted, equal_nan=True)
        return wanted

    x, gates, first = torch.randn(5, 33), (torch.rand(5, 33), torch.rand(())), torch.rand(5, dtype=torch.float64)
    y, last = check((levels._follow_on_gpu, levels._run_follow), x, *gates, first, 1)
    on_gpu = levels.anywhere(levels._fake_follow_backward, levels._follow_adjoint)
    check((on_gpu, levels._run_follow_backward), torch.randn_like(x), last, x, *gates, first, y, 1)
    x[0, :3] = x[1, 7] = float("nan")
    k, waits = torch.rand(5, 5, dtype=torch.float64), torch.tensor([3, 0, 0, 0, 33])
    found = check((levels._holt_on_gpu, levels._run_holt), x, k, waits, 1)
    for g in (torch.randn_like(x), None):
        check((levels._holt_backward_on_gpu, levels._run_holt_backward), g, torch.randn_like(x), x, k, waits, *found, 1)

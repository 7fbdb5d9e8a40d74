"""The operators on a GPU that is not there: the PTX of real kernels, run on tensors that count as a device's."""

import pathlib

import devices
import pytest
import tensors
import torch
from tensors import STREAM

import fastrecur
from fastrecur.torch import _ops, _tensors


@pytest.fixture
def driver(monkeypatch):
    """A driver without a card, for which CPU tensors stand on device 0."""
    driver = devices.Driver()
    tensors.place(driver, monkeypatch.setattr)
    return driver


def problem(dtype, gate_shape=(9, 5, 6)):
    generator = torch.Generator().manual_seed(0)
    f, x, h0 = (torch.rand(s, generator=generator).to(dtype) for s in (gate_shape, (9, 5, 6), (5, 6)))
    return f, x, h0


def launches(driver):
    return {entry[2:] for entry in driver.log if entry[0] == "launch"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("gate_shape", [(9, 5, 6), (6,), (9, 1, 1), ()])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, torch.tensor([9, 0, 4, 8, 1])])
def test_operators(driver, dtype, gate_shape, reverse, lengths):
    """They give what the CPU's give, in the same dtypes and layouts."""
    f, x, h0 = problem(dtype, gate_shape)
    arguments = "forget", f, x, h0, lengths, 0, reverse, dtype
    h, last = _ops._forward_cuda(*arguments)
    expected, expected_last = _ops._forward(*arguments)
    for actual, wanted in ((h, expected), (last, expected_last)):
        torch.testing.assert_close(actual, wanted)
        assert actual.stride() == wanted.stride()
    g, g_last = torch.ones_like(h), torch.ones_like(last)
    arguments = "forget", g, f, x, expected, h0, g_last, lengths, 0, reverse, dtype, True, True, True
    for actual, wanted in zip(_ops._vjp_cuda(*arguments), _ops._vjp(*arguments), strict=True):
        torch.testing.assert_close(actual, wanted)
        assert actual.stride() == wanted.stride()
    assert launches(driver) == {(0, STREAM)}


def test_what_is_not_wanted_is_empty(driver):
    f, x, h0 = problem(torch.float32)
    h, _ = _ops._forward("forget", f, x, None, None, 0, False, torch.float32)
    grads = _ops._vjp_cuda("forget", h, f, x, h, None, None, None, 0, False, torch.float32, False, True, False)
    assert [grad.numel() for grad in grads] == [0, x.numel(), 0]


@pytest.mark.parametrize("layout", [lambda t: t.transpose(0, 1), lambda t: t.expand(4, *t.shape)])
def test_layouts(driver, layout):
    """Results are laid out as on fake tensors, or a compiled graph would read them wrongly."""
    f, x = (layout(t) for t in problem(torch.float32)[:2])
    h, _ = _ops._forward_cuda("forget", f, x, None, None, 1, False, torch.float32)
    expected, _ = _ops._forward_fake("forget", f, x, None, None, 1, False, torch.float32)
    torch.testing.assert_close(h, fastrecur.forget_mult(f, x, axis=1))
    assert h.stride() == expected.stride()


def test_linear_recurrence_of_complex_tensors(driver):
    a, b = (torch.complex(t, t.flip(0)) / 2 for t in problem(torch.float32)[:2])
    arguments = "linear", a, b, None, None, 0, False, torch.complex64
    h, _ = _ops._forward_cuda(*arguments)
    torch.testing.assert_close(h, _ops._forward(*arguments)[0])
    arguments = "linear", h, a, b, h, None, None, None, 0, False, torch.complex64, True, True, False
    for actual, wanted in zip(_ops._vjp_cuda(*arguments)[:2], _ops._vjp(*arguments)[:2], strict=True):
        torch.testing.assert_close(actual, wanted)


def test_the_operators_are_cuda_s_too():
    for name in ("fastrecur::forward", "fastrecur::vjp"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")
    assert _tensors.DTYPES  # the module that the operators take their dtypes from


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

"""Devices that have no kernels here: a scan of torch's own operators, with the same rules and derivatives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastrecur.torch import _ops, _tensors

HERE = Path(__file__).parent


@pytest.mark.parametrize("key", ["MPS", "XPU", "HPU", "XLA", "PrivateUse1"])
def test_every_device_has_the_operators(key):
    for name in _ops.NAMES.values():
        for suffix in ("", "_backward"):
            operator = f"fastrecur::{name}{suffix}"
            assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(operator, key)
            assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(operator, "Autograd" + key)


def test_on_a_device_of_python_s():
    """In a process of its own: a device is registered for good."""
    if not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch has no devices of Python's")
    command = "-m", "pytest", "-p", "no:xdist", "-o", "addopts=", "--strict-markers", "-q", "elsewhere.py"
    done = subprocess.run(
        [sys.executable, *command], cwd=HERE, env=os.environ | {"PYTHONPATH": str(HERE.parents[1])},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("family", _ops.NAMES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2, 7, 8])
def test_the_operators_of_any_device_are_the_cpu_s(family, reverse, steps):
    a, b, g = (torch.rand(steps, 3, dtype=torch.float64) - shift for shift in (0, 0.5, 0.5))
    h0, g_last = torch.rand(2, 3, dtype=torch.float64)
    a[:, 1] += 0.7 * (family == "linear")  # a factor above 1 is composed with none
    for lengths in (None, torch.randint(0, steps + 1, (3,))):
        options = lengths, 0, reverse, torch.float64
        expected = _ops._forward(family, a, b, h0, *options)
        torch.testing.assert_close(_ops._forward_composed(family, a, b, h0, *options), expected)
        operands = g, a, b, expected[0], h0, g_last
        expected = _ops._vjp(family, *operands, *options, True, True, True)
        torch.testing.assert_close(_ops._vjp_composed(family, *operands, *options, True, True, True), expected)


def test_without_float64_numbers_are_carried_as_they_are(monkeypatch):
    wide = {(d, n): _tensors.wide(d, torch.device(n)) for d in (torch.float16, torch.float32) for n in ("cpu", "mps")}
    assert wide[torch.float32, "cpu"] is torch.float64
    assert {wide[torch.float16, "cpu"], wide[torch.float16, "mps"], wide[torch.float32, "mps"]} == {torch.float32}
    f, x = torch.rand(2, 1000, 3)
    options = None, None, 0, False, torch.float32
    expected = _ops._forward("forget", f, x, *options)
    monkeypatch.setattr(_tensors, "wide", lambda dtype, device: torch.float32)
    torch.testing.assert_close(_ops._forward_composed("forget", f, x, *options), expected)

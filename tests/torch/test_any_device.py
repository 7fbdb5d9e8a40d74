"""Devices that have no kernels here: a scan of torch's own operators, with the same rules and derivatives."""

import os
import subprocess
import sys
from pathlib import Path

import oracle
import pytest
import torch
from test_promises_of_tensors import Elsewhere

from fastrecur import selective_scan
from fastrecur._arguments.checks import Segments
from fastrecur.torch._operator import composed, ops, selective, tensors
from fastrecur.torch._rnn import ops as pooling

HERE = Path(__file__).parent
ELSEWHERE = torch._C.DispatchKeySet(torch._C.DispatchKey.PrivateUse1)


@pytest.mark.parametrize("key", ["MPS", "XPU", "HPU", "XLA", "PrivateUse1"])
def test_every_device_has_the_operators(key):
    families = zip(ops.FORWARD.values(), ops.VJP.values(), strict=True)
    for operators in (*families, (pooling.FORWARD, pooling.VJP, pooling.LAYER), (selective.SCAN, selective.VJP)):
        for operator in (v.name() for v in operators):
            assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(operator, key)
            assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(operator, "Autograd" + key)


@pytest.mark.exhaustive
def test_on_a_device_of_python_s():
    """In a process of its own: a device is registered for good."""
    if not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch has no devices of Python's")
    command = "-m", "pytest", "-p", "no:xdist", "-o", "addopts=", "--strict-markers", "-q", "elsewhere.py"
    done = subprocess.run(
        [sys.executable, *command], cwd=HERE, env=os.environ | {"PYTHONPATH": str(HERE.parents[1])},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.exhaustive
@pytest.mark.parametrize("family", ops.NAMES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2, 7, 8])
def test_the_operators_of_any_device_are_the_cpu_s(family, reverse, steps):
    a, b, g = (torch.rand(steps, 3, dtype=torch.float64) - shift for shift in (0, 0.5, 0.5))
    h0, g_last = torch.rand(2, 3, dtype=torch.float64)
    a[:, 1] += 0.7 * (family == "linear")  # a factor above 1 is composed with none
    some = torch.randint(0, steps + 1, (3,))
    resets = torch.rand(steps, 3) < 0.4
    offsets = torch.tensor([0, steps // 2, steps // 2, steps])
    states = torch.rand(2, 3, 3, dtype=torch.float64)
    cuts = [Segments(ends, None, flags) for ends in (None, some) for flags in (resets, resets[:, :1], resets[:, 0])]
    cuts += [Segments(None, offsets, flags) for flags in (None, resets)]
    for lengths in (None, some, *cuts):
        if type(lengths) is Segments and lengths.offsets is not None:
            h0, g_last = states
        options = lengths, 0, reverse, torch.float64
        expected = ops._forward(family, a, b, h0, *options)
        torch.testing.assert_close(composed.forward(family, a, b, h0, *options), expected)
        operands = g, a, b, expected[0], h0, g_last
        expected = ops._vjp(family, *operands, *options, True, True, True)
        torch.testing.assert_close(ops._adjoint(family, *operands, *options, True, True, True), expected)


@pytest.mark.sample(reverse=[True])
@pytest.mark.parametrize("reverse", [False, True])
def test_complex_gradients_under_a_mode(reverse):
    """Within one torch does not conjugate what a lazy view only marks."""
    a, b, g = torch.randn(3, 5, 2, dtype=torch.complex128)
    a, b = (v.requires_grad_() for v in (0.5 * a, b))
    h = oracle.linear_recurrence(a, b, reverse=reverse)
    options = None, None, None, 0, reverse, torch.complex128, True, True, False
    with Elsewhere():
        found = ops.VJP["linear"](g, *(v.detach() for v in (a, b, h)), None, None, *options)
    torch.testing.assert_close(found[:2], torch.autograd.grad(h, (a, b), g))


@pytest.mark.sample(family=["forget"])
@pytest.mark.parametrize("family", ops.NAMES)
@pytest.mark.parametrize("reverse", [False, True])
def test_what_is_not_finite_stays_in_its_segment(family, reverse):
    a, b = torch.rand(2, 9, 4, dtype=torch.float64)
    h0 = torch.rand(3, 4, dtype=torch.float64)
    a[3, 0], b[4, 1], a[3 + 2 * reverse, 2], h0[1, 3] = torch.nan, torch.inf, torch.inf, torch.nan
    cuts = Segments(None, torch.tensor([0, 3, 6, 9]), None)
    for segments in (cuts, Segments(None, None, torch.arange(9) % 3 == 0)):
        state = h0 if segments is cuts else h0[0]
        options = segments, 0, reverse, torch.float64
        expected = ops._forward(family, a, b, state, *options)
        h, last = composed.forward(family, a, b, state, *options)
        torch.testing.assert_close((h, last), expected, equal_nan=True)
        assert not torch.isfinite(h[3:6]).all()  # of `a` at a border only with a state there
        assert torch.isfinite(h[:3]).all() and torch.isfinite(h[6:]).all()
        operands = torch.ones_like(h), a, b, expected[0], state, torch.ones_like(expected[1])
        expected = ops._vjp(family, *operands, *options, True, True, True)
        actual = ops._adjoint(family, *operands, *options, True, True, True)
        torch.testing.assert_close(actual, expected, equal_nan=True)


def test_segments_on_any_device():
    """As operators take them: three tensors in place of lengths."""
    a, b, states = torch.rand(6, 3), torch.rand(6, 3), torch.rand(3, 3)
    ends, options = (None, torch.tensor([0, 2, 2, 6]), torch.arange(6) == 4), (0, False, torch.float32)
    h, last = ops.FORWARD["forget"].redispatch(ELSEWHERE, a, b, states, *ends, *options)
    expected = ops._forward("forget", a, b, states, Segments(*ends), *options)
    torch.testing.assert_close((h, last), expected)
    operands = h, a, b, h, states, last
    grads = ops.VJP["forget"].redispatch(ELSEWHERE, *operands, *ends, *options, True, False, True)
    expected = ops._vjp("forget", *operands, Segments(*ends), *options, True, False, True)
    torch.testing.assert_close(grads, expected)


def test_offsets_that_nobody_checks_read_nothing_else():
    """On another device than the host's they are taken as they are."""
    a, b = torch.rand(2, 6, 3)
    h0 = torch.rand(3, 3)
    offsets = torch.tensor([-5, 4, 2, 100]).expand(1, 4)[0]
    cuts = Segments(None, offsets, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composed.checks, "offsets_in_range", lambda offsets, steps: offsets)
        h, last = composed.forward("forget", a, b, h0, cuts, 0, False, torch.float32)
    assert h.shape == (6, 3)
    assert last.shape == (3, 3)


def test_without_float64_numbers_are_carried_as_they_are(monkeypatch):
    wide = {(d, n): tensors.wide(d, torch.device(n)) for d in (torch.float16, torch.float32) for n in ("cpu", "mps")}
    assert wide[torch.float32, "cpu"] is torch.float64
    assert {wide[torch.float16, "cpu"], wide[torch.float16, "mps"], wide[torch.float32, "mps"]} == {torch.float32}
    f, x = torch.rand(2, 1000, 3)
    options = None, None, 0, False, torch.float32
    expected = ops._forward("forget", f, x, *options)
    monkeypatch.setattr(tensors, "wide", lambda dtype, device: torch.float32)
    torch.testing.assert_close(composed.forward("forget", f, x, *options), expected, check_dtype=False)


def test_segments_of_a_scan_without_a_first_state():
    u, delta, B, C = torch.rand(4, 1, 3, 7).unbind(0)
    A, options = -torch.rand(3, 3), {"offsets": [0, 2, 7]}
    leaves = [v.clone().requires_grad_() for v in (u, delta, A, B, C)]
    expected = torch.autograd.grad(selective_scan(*leaves, **options).sum(), leaves)
    with Elsewhere():
        torch.testing.assert_close(torch.autograd.grad(selective_scan(*leaves, **options).sum(), leaves), expected)

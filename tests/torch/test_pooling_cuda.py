"""Pooling on a GPU that is not there: the PTX of real kernels, against the same composed of torch's operators."""

import itertools

import devices
import pytest
import tensors
import torch
from test_pooling import assert_alike, gradients, problem, wide

from fastrecur.torch import _pool, _pooling

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
STEPS = 19  # batches of steps and a rest
LENGTHS = torch.tensor([STEPS, 0, 8])


@pytest.fixture
def on_gpu(monkeypatch):
    """Return what runs a function with CPU tensors that count as a device's, and asks for the kernels it launched."""
    driver = devices.Driver()

    def run(function, *arguments, **options):
        with monkeypatch.context() as patches:
            tensors.place(driver, patches.setattr)
            result = gradients(function, *arguments, **options)
        assert [entry[1:] for entry in driver.log if entry[0] == "launch"] == [
            ("pool", 0, tensors.STREAM),
            ("pool_vjp", 0, tensors.STREAM),
        ]
        driver.log.clear()
        return result

    run.driver = driver
    return run


def check(on_gpu, functions, dtype, width, gated, keep, first, rows, **options):
    product, c0, keep = problem(dtype, width, gated, keep, first, STEPS, 3, rows)
    cotangents = torch.randn(*product.shape[:-1], width).to(dtype), torch.randn(3, width).to(dtype)
    options |= {"output_gate": gated}
    fused = on_gpu(functions[0], product, c0, keep, *cotangents, **options)
    composed = gradients(functions[1], *map(wide, (product, c0, keep, *cotangents)), **options)
    assert_alike(fused, composed, dtype)


PADDED = _pooling.pool, _pooling._composed
PACKED = _pooling.pool_packed, _pooling._composed_packed


@pytest.mark.parametrize("dtype", DTYPES)
def test_padded_rows(on_gpu, dtype):
    for width, reverse, keep, lengths in itertools.product((1, 45), (False, True), (None, 0.7, "mask"), (None, LENGTHS)):
        check(on_gpu, PADDED, dtype, width, True, keep, keep != 0.7, None, reverse=reverse, lengths=lengths)


def test_padded_rows_without_output_gates(on_gpu):
    for reverse, lengths in itertools.product((False, True), (None, LENGTHS)):
        check(on_gpu, PADDED, torch.float32, 45, False, 0.7, True, None, reverse=reverse, lengths=lengths)


@pytest.mark.parametrize(("dtype", "gated", "keep"), [(torch.float32, True, "mask"), (torch.bfloat16, False, 0.7)])
def test_packed_rows(on_gpu, dtype, gated, keep):
    for reverse, sizes in itertools.product((False, True), ([3] * 4 + [2] * 9 + [1] * 6, [3, 1], [3])):
        sizes = torch.tensor(sizes)
        options = {"reverse": reverse, "batch_sizes": sizes}
        check(on_gpu, PACKED, dtype, 45, gated, keep, True, int(sizes.sum()), **options)
    assert not on_gpu.driver.log


def test_lengths_out_of_range_are_kept_in_range(on_gpu):
    """They may be the device's own, which nobody looks at beforehand."""
    product, c0, _ = problem(torch.float32, 5, True, None, True, STEPS)
    cotangents = torch.randn(STEPS, 3, 5), torch.randn(3, 5)
    results = [
        on_gpu(_pooling.pool, product, c0, None, *cotangents, lengths=torch.tensor(lengths))
        for lengths in ([STEPS + 5, -4, 8], LENGTHS.tolist())
    ]
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_layouts(on_gpu):
    """Time in the middle, rows of a wider product, and a cotangent that is one number."""
    product, c0, keep = problem(torch.float32, 45, True, "mask", True, STEPS)
    cotangents = torch.ones(()).expand(STEPS, 3, 45), torch.ones(3, 45)
    expected = gradients(_pooling._composed, product, c0, keep, *cotangents)
    batch_first = lambda p, **options: _pooling.pool(p.transpose(0, 1).contiguous().transpose(0, 1), **options)  # noqa: E731
    wider = lambda p, **options: _pooling.pool(torch.nn.functional.pad(p, (5, 10))[..., 5:140], **options)  # noqa: E731
    for function in (batch_first, wider):
        fused = on_gpu(function, product, c0, keep, *cotangents)
        torch.testing.assert_close(fused, expected, rtol=1e-5, atol=1e-6)


def test_tables_are_copied_once(on_gpu, monkeypatch):
    """Forward and back ask for the same tables, and a padded batch for none: so it may be captured into a graph."""
    driver, log = on_gpu.driver, []
    monkeypatch.setattr(type(on_gpu.driver), "forget", lambda self: log.extend(self.log))
    product, c0, _ = problem(torch.float32, 5, True, None, True, packed_rows=6)
    with monkeypatch.context() as patches:
        tensors.place(driver, patches.setattr)
        h, _ = _pooling.pool_packed(product.requires_grad_(), torch.tensor([3, 2, 1]), c0)
        h.sum().backward()
        assert [entry[0] for entry in driver.log] == ["upload", "launch", "launch"]
        driver.log.clear()
        h, _ = _pooling.pool(product.detach().view(2, 3, 15).requires_grad_(), c0)
        h.sum().backward()
        assert [entry[0] for entry in driver.log] == ["launch", "launch"]


def test_one_gradient_through_the_last_states(on_gpu, monkeypatch):
    """No cotangent of the output: the kernel is given a number."""
    product, c0, _ = problem(torch.float32, 5, True, None, True, STEPS)
    grads = []
    for function in (_pooling.pool, _pooling._composed):
        with monkeypatch.context() as patches:
            if function is _pooling.pool:
                tensors.place(on_gpu.driver, patches.setattr)
            leaf = product.clone().requires_grad_()
            grads += torch.autograd.grad(function(leaf, c0)[1].sum(), leaf)
    torch.testing.assert_close(*grads)


def test_rows_beyond_two_gigabytes():
    """Offsets are made of 64 bits: a plan's strides, and what the kernels multiply them by."""
    from fastrecur._cuda import _pool_plan

    half = _pool.padded(3, 1, False)
    assert half.steps == 3
    plan = _pool_plan.plan(
        "pool", (("product", torch_dtype(), (1 << 33, 4)), ("keep", None, (0, 0)), ("h", torch_dtype(), (1 << 33, 4)),
        ("states", torch_dtype(), (0, 0))), 3, 1, 1, True, True, False,
    )  # fmt: skip
    assert plan.launches[0].values["product_time"] == -(1 << 33)
    assert plan.launches[0].time == "i8"


def torch_dtype():
    import numpy as np

    return np.dtype(np.float32)

"""Pooling on a GPU that is not there: the PTX of real kernels, against the same composed of torch's operators."""

import inspect
import itertools

import devices
import numpy as np
import pytest
import tensors
import torch
from test_pooling import assert_alike, by_operators, check_nan_at_a_border, cut_problem, cuts, gradients, problem, wide

from fastrecur._cuda import arrays, launch
from fastrecur.torch._rnn import pool, pooling

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
STEPS = 19  # batches of steps and a rest


@pytest.fixture
def on_gpu(monkeypatch):
    """Return what runs a function and its gradient with tensors that count as a device's, and asks for the launches."""
    driver = devices.Driver()

    def run(function, *arguments, **options):
        with monkeypatch.context() as patches:
            tensors.place(driver, patches.setattr)
            result = gradients(function, *arguments, **options)
        launches = [entry[1:] for entry in driver.log if entry[0] == "launch"]
        assert launches == [(name, 0, tensors.STREAM) for name in ("pool", "pool_vjp")]
        driver.log.clear()
        return result

    run.driver = driver
    return run


def check(on_gpu, dtype, width, gated, keep, first, rows, **options):
    product, c0, keep = problem(dtype, width, gated, keep, first, STEPS, 3, rows)
    cotangents = torch.randn(*product.shape[:-1], width).to(dtype), torch.randn(3, width).to(dtype)
    options |= {"output_gate": gated}
    fused = on_gpu(pooling.pool, product, c0, keep, *cotangents, **options)
    composed = gradients(by_operators, *map(wide, (product, c0, keep, *cotangents)), **options)
    assert_alike(fused, composed, dtype)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", DTYPES)
def test_padded_rows(on_gpu, dtype):
    for reverse in (False, True):
        check(on_gpu, dtype, 45, True, "mask", True, None, reverse=reverse)
        if dtype == torch.float32:
            check(on_gpu, dtype, 45, True, 0.7, False, None, reverse=reverse)
            check(on_gpu, dtype, 1, True, None, True, None, reverse=reverse)


@pytest.mark.exhaustive
def test_a_first_state_in_float32_beside_half_precision(on_gpu):
    product, c0, keep = problem(torch.bfloat16, 45, True, None, True, STEPS, 3, None)
    cotangents = torch.randn(STEPS, 3, 45).bfloat16(), torch.randn(3, 45)
    values = product, c0.float(), keep, *cotangents
    fused, composed = on_gpu(pooling.pool, *values), gradients(by_operators, *map(wide, values))
    assert [v.dtype for v in fused] == [torch.bfloat16, torch.float32] * 2  # of the product and of the state
    torch.testing.assert_close([v.double() for v in fused], composed, rtol=0.08, atol=0.008)


@pytest.mark.exhaustive
def test_padded_rows_without_output_gates(on_gpu):
    for reverse in (False, True):
        check(on_gpu, torch.float32, 45, False, 0.7, True, None, reverse=reverse)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("dtype", "gated", "keep"), [(torch.float32, True, 0.7), (torch.bfloat16, False, "mask")])
def test_packed_rows(on_gpu, dtype, gated, keep):
    for reverse, sizes in itertools.product((False, True), ([3] * 4 + [2] * 9 + [1] * 6, [3, 1], [3])):
        sizes = torch.tensor(sizes)
        options = {"reverse": reverse, "batch_sizes": sizes}
        check(on_gpu, dtype, 45, gated, keep, True, int(sizes.sum()), **options)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["offsets", "both", "resets", "one flag for all"])
def test_cut_rows(on_gpu, kind):
    for reverse, (dtype, gated, keep) in itertools.product(
        (False, True), [(torch.float32, True, 0.7), (torch.bfloat16, False, "mask")]
    ):
        cut = cuts(STEPS, 3)[kind]
        values = cut_problem(cut, dtype, 45, gated, keep, True, STEPS)
        options = {"reverse": reverse, "output_gate": gated, "cut": cut}
        fused = on_gpu(pooling.pool, *values, **options)
        assert_alike(fused, gradients(by_operators, *map(wide, values), **options), dtype)


@pytest.mark.exhaustive
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["offsets", "resets"])
def test_nan_at_a_border_changes_no_bit_beyond_it(on_gpu, kind, reverse):
    check_nan_at_a_border(on_gpu, kind, reverse)


@pytest.mark.exhaustive
def test_layouts(on_gpu):
    """Time in the middle, rows of a wider product, and a cotangent that is one number."""
    product, c0, keep = problem(torch.float32, 45, True, "mask", True, STEPS)
    cotangents = torch.ones(()).expand(STEPS, 3, 45), torch.ones(3, 45)
    expected = gradients(by_operators, product, c0, keep, *cotangents)
    batch_first = lambda p, **options: pooling.pool(p.transpose(0, 1).contiguous().transpose(0, 1), **options)  # noqa: E731
    wider = lambda p, **options: pooling.pool(torch.nn.functional.pad(p, (5, 10))[..., 5:140], **options)  # noqa: E731
    for function in (batch_first, wider):
        fused = on_gpu(function, product, c0, keep, *cotangents)
        torch.testing.assert_close(fused, expected, rtol=1e-5, atol=1e-6)


def test_tables_are_copied_once(on_gpu, monkeypatch):
    """Forward and back ask for the same tables, and a padded batch for none: so it may be captured into a graph."""
    driver = on_gpu.driver
    product, c0, _ = problem(torch.float32, 5, True, None, True, packed_rows=6)
    with monkeypatch.context() as patches:
        tensors.place(driver, patches.setattr)
        h, _ = pooling.pool(product.requires_grad_(), c0, batch_sizes=torch.tensor([3, 2, 1]))
        h.sum().backward()
        assert [entry[0] for entry in driver.log] == ["upload", "launch", "launch"]
        driver.log.clear()
        h, _ = pooling.pool(product.detach().view(2, 3, 15).requires_grad_(), c0)
        h.sum().backward()
        assert [entry[0] for entry in driver.log] == ["launch", "launch"]


def test_one_gradient_through_the_last_states(on_gpu, monkeypatch):
    """No cotangent of the output: the kernel is given a number."""
    product, c0, _ = problem(torch.float32, 5, True, None, True, STEPS)
    grads = []
    for function in (pooling.pool, by_operators):
        with monkeypatch.context() as patches:
            if function is pooling.pool:
                tensors.place(on_gpu.driver, patches.setattr)
            leaf = product.clone().requires_grad_()
            grads += torch.autograd.grad(function(leaf, c0)[1].sum(), leaf)
    torch.testing.assert_close(*grads)


@pytest.mark.exhaustive
@pytest.mark.parametrize("reverse", [False, True])
def test_offsets_beyond_two_gigabytes(on_gpu, reverse, tmp_path):
    """A page at each end of 6 GiB, of which nothing between is ever touched."""
    storage = torch.from_numpy(np.memmap(tmp_path / "far", np.float32, "w+", shape=3 << 29))
    product = storage.as_strided((2, 1, 9), (storage.numel() - 9, 9, 1))
    product.normal_()
    cotangents = torch.randn(2, 1, 3), torch.randn(1, 3)
    expected = gradients(by_operators, product, None, None, *cotangents, reverse=reverse)
    far = lambda p, **options: pooling.pool(FarAway.apply(p, product), **options)  # noqa: E731
    fused = on_gpu(far, product, None, None, *cotangents, reverse=reverse)
    torch.testing.assert_close(fused, expected)


class FarAway(torch.autograd.Function):
    """The same numbers where they stand far from each other."""

    @staticmethod
    def forward(ctx, near, far):
        return far.detach()

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def test_stand_ins_are_called_as_the_real_ones(monkeypatch):
    real = arrays.Torch
    tensors.place(devices.Driver(), monkeypatch.setattr)
    for stand_in, own in ((arrays.Torch, real), (devices.Driver, launch.CudaCore)):
        shared = [name for name in vars(stand_in) if not name.startswith("__") and callable(getattr(own, name, None))]
        assert {"upload", "is_capturing"} & set(shared)
        for name in shared:
            mine, its = (list(inspect.signature(getattr(kind, name)).parameters) for kind in (stand_in, own))
            assert mine == its, name


def test_tables_of_layouts(monkeypatch):
    """In the direction of travel, and lengths; put into the stream of the call, which must not be captured."""

    class Owner:
        @staticmethod
        def stream(device):
            return 7

        @staticmethod
        def upload(array, device, stream):
            assert (device, stream) == (0, 7)
            return torch.from_numpy(array)

    driver = devices.Driver()
    monkeypatch.setattr(launch, "driver", lambda: driver)
    for reverse, starts in ((False, [0, 2, 4]), (True, [4, 2, 0])):
        rows, lengths = pool.Layout(2, reverse, [2, 2, 1], True).on_gpu(Owner, 0)
        assert (rows.tolist(), lengths.tolist()) == (starts, [3, 2])
    driver.is_capturing = lambda device, stream: (device, stream) == (0, 7)
    with pytest.raises(RuntimeError, match="batch sizes"):
        pool.Layout(2, False, [2, 2, 1], True).on_gpu(Owner, 0)
    assert pool.padded(3, 2, False).on_gpu(Owner, 0) == (None, None)

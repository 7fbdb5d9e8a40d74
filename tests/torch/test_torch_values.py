"""Tensors in, tensors out: values, dtypes, layouts, `out=`, threads."""

import contextlib
import copy
import io

import numpy as np
import oracle
import pytest
import torch

import fastrecur
from fastrecur import forget_mult, forget_mult_vjp, linear_recurrence
from fastrecur._cpu.machine import memory_pool
from fastrecur.torch._operator import tensors

RECURRENCES = ["forget_mult", "linear_recurrence"]
HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_same_bits_as_for_arrays(name, axis, reverse):
    a, b = torch.rand(5, 6, 7), torch.randn(5, 6, 7)
    lanes = b.movedim(axis, 0)[0].shape
    h0 = torch.randn(lanes)
    lengths = torch.randint(0, b.shape[axis] + 1, lanes[:1])
    options = dict(axis=axis, reverse=reverse)
    h, h_last = getattr(fastrecur, name)(a, b, h0, lengths=lengths, return_state=True, **options)
    arrays = [v.numpy() for v in (a, b, h0)]
    expected, last = getattr(fastrecur, name)(*arrays, lengths=lengths.numpy(), return_state=True, **options)
    np.testing.assert_array_equal(h.numpy(), expected)
    np.testing.assert_array_equal(h_last.numpy(), last)
    g = torch.randn(5, 6, 7)
    grads = getattr(fastrecur, name + "_vjp")(g, a, b, h, h0, lengths=lengths, grad_state=h0, **options)
    wanted = getattr(fastrecur, name + "_vjp")(
        g.numpy(), arrays[0], arrays[1], expected, arrays[2], lengths=lengths.numpy(), grad_state=arrays[2], **options
    )
    for grad, want in zip(grads, wanted, strict=True):
        np.testing.assert_array_equal(grad.numpy(), want)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape", [(9, 33), (65, 3), (3000, 2)])
def test_halves_are_carried_in_float32(dtype, shape):
    f, x = torch.rand(shape).to(dtype), torch.randn(shape).to(dtype)
    h, last = forget_mult(f, x, return_state=True)
    assert h.dtype is last.dtype is dtype
    expected, wide_last = oracle.forget_mult(f, x, return_state=True)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(h.double(), expected, rtol=eps, atol=eps)
    torch.testing.assert_close(last.double(), wide_last, rtol=eps, atol=eps)


@pytest.mark.exhaustive
def test_bfloat16_needs_no_other_package(run_python):
    run_python(
        """
import sys, torch
sys.modules["ml_dtypes"] = None
from fastrecur import forget_mult
assert forget_mult(0.5, torch.ones(3, dtype=torch.bfloat16)).tolist() == [0.5, 0.75, 0.875]
"""
    )


DTYPES = [*HALVES, torch.float32, torch.float64, torch.int64, torch.bool]


@pytest.mark.parametrize("first", DTYPES)
@pytest.mark.parametrize("second", DTYPES)
def test_promotion_is_torch_s_own(first, second):
    # On meta tensors, which have dtypes and no numbers: each combination would be compiled.
    full, more, scalar = (
        torch.ones(shape, dtype=dtype, device="meta") for shape, dtype in [(3, first), (3, second), ((), second)]
    )
    for a, b in [(full, more), (scalar, full), (full, 0.5), (full, 1)]:
        expected = torch.result_type(a, b)
        if not expected.is_floating_point:
            expected = torch.get_default_dtype()
        assert linear_recurrence(a, b).dtype is expected
        assert linear_recurrence(b, a).dtype is expected


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "dtypes", [(torch.float16, torch.bfloat16), (torch.float64, torch.bfloat16), (torch.int16, torch.float32)]
)
def test_mixed_dtypes(dtypes):
    a, b = (torch.arange(1, 4).to(dtype) for dtype in dtypes)
    h = linear_recurrence(a, b)
    assert h.dtype is torch.result_type(a, b)
    torch.testing.assert_close(h.double(), oracle.linear_recurrence(a, b))


@pytest.mark.exhaustive
def test_promotion_of_complex_numbers():
    x = torch.ones(3)
    assert linear_recurrence(0.5j, x).dtype is torch.complex64
    assert linear_recurrence(x, 1j).dtype is torch.complex64
    assert forget_mult(x, x.double().to(torch.complex128)).dtype is torch.complex128
    torch.testing.assert_close(linear_recurrence(0.5j, x), oracle.linear_recurrence(0.5j, x).to(torch.complex64))


def test_default_dtype_is_what_integers_become():
    """Also where it was another when such a call was last made."""
    assert forget_mult(0.5, torch.tensor([1, 2])).dtype is torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert forget_mult(0.5, torch.tensor([1, 2])).dtype is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert forget_mult(0.5, torch.tensor([1, 2])).tolist() == [0.5, 1.25]


@pytest.mark.sample(dtype=[torch.float32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_number_is_a_tensor_without_dimensions(dtype):
    # Numbers are used in the precision of the carry, and so are float64 scalars.
    x = torch.randn(200).to(dtype)
    h = forget_mult(0.1, x)
    assert torch.equal(h, forget_mult(torch.tensor(0.1, dtype=torch.float64), x))
    assert torch.equal(h, forget_mult(np.float64(0.1), x))
    assert torch.equal(h, torch.vmap(lambda x: forget_mult(0.1, x))(x[None])[0])  # through the dispatcher
    assert forget_mult(torch.tensor([0.1]), x.double()).dtype is torch.float64


def test_operands_broadcast():
    f, x, h0 = torch.rand(4, 1, 3), torch.randn(2, 1), torch.randn(3)
    torch.testing.assert_close(forget_mult(f, x, h0).double(), oracle.forget_mult(f, x, h0))
    torch.testing.assert_close(forget_mult(0.25, x, 2.0).double(), oracle.forget_mult(0.25, x, 2.0))


def test_conjugates_and_negatives_are_resolved():
    # Torch only marks them; their memory holds other numbers.
    z = torch.randn(5, 3, dtype=torch.complex64)
    a = 0.5 * torch.randn(5, 3, dtype=torch.complex64)
    for _ in range(2):
        torch.testing.assert_close(linear_recurrence(a.conj(), z), linear_recurrence(a.conj().resolve_conj(), z))
        torch.testing.assert_close(linear_recurrence(a, z), oracle.linear_recurrence(a, z).to(torch.complex64))
    negative = z.conj().imag
    assert negative.is_neg()
    for _ in range(2):
        torch.testing.assert_close(forget_mult(0.5, negative), -forget_mult(0.5, z.imag))
        torch.testing.assert_close(forget_mult(0.5, z.imag), forget_mult(0.5, z.imag.clone()))


LAYOUTS = {
    "contiguous": lambda t: t.contiguous(),
    "transposed": lambda t: t.transpose(0, 2).contiguous().transpose(0, 2),
    "batch first": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "a gate of a product": lambda t: torch.cat([t, t, t], -1)[..., t.shape[-1] : 2 * t.shape[-1]],
    "every other": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "unaligned": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view_as(t),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_layouts(layout, axis):
    f, x = (LAYOUTS[layout](v) for v in (torch.rand(5, 6, 17), torch.randn(5, 6, 17)))
    h = forget_mult(f, x, axis=axis)
    torch.testing.assert_close(h.double(), oracle.forget_mult(f, x, axis=axis), rtol=1e-6, atol=1e-6)
    assert h.stride() == torch.mul(f, x).stride()


def test_no_steps_no_lanes():
    h0 = torch.randn(3)
    h, last = forget_mult(torch.ones(0, 3), torch.ones(0, 3), h0, return_state=True)
    assert h.shape == (0, 3)
    assert torch.equal(last, h0)
    assert last.data_ptr() != h0.data_ptr()
    assert forget_mult(0.5, torch.ones(4, 0)).shape == (4, 0)
    x = torch.ones(0, 3, requires_grad=True)
    grad_x, grad_h0 = torch.autograd.grad(forget_mult(0.5, x, h0.requires_grad_(), return_state=True)[1].sum(), (x, h0))
    assert grad_x.shape == (0, 3)
    assert grad_h0.tolist() == [1, 1, 1]


@pytest.mark.parametrize("shape", [(3, 4), (3, 1 << 19)])
def test_results_are_ordinary_tensors(shape):
    # Large ones stand in memory that is kept for others, and cannot be resized.
    h = forget_mult(0.5, torch.ones(shape))
    assert h.untyped_storage().nbytes() == h.nbytes
    assert not h._is_view()
    file = io.BytesIO()
    torch.save(h, file)
    file.seek(0)
    assert torch.equal(torch.load(file), h)
    assert torch.equal(copy.deepcopy(h), h)
    is_kept = h.nbytes >= tensors.KEPT and memory_pool.keeps(h.nbytes)
    assert h.untyped_storage().resizable() is not is_kept
    larger = torch.ones(4, shape[1])
    for enlarge in (lambda v: v.resize_(larger.shape), lambda v: torch.neg(larger, out=v.resize_(0))):
        with pytest.raises(RuntimeError, match="not resizable") if is_kept else contextlib.nullcontext():
            assert enlarge(forget_mult(0.5, torch.ones(shape))).shape == larger.shape
    h.add_(1)
    h.share_memory_()
    assert h.is_shared()


# ---- out= -----------------------------------------------------------------------------------------------------------


def test_out():
    f, x = torch.rand(5, 3), torch.randn(5, 3)
    expected = forget_mult(f, x)
    out = torch.full((3, 5), float("nan")).T
    assert forget_mult(f, x, out=out) is out
    assert torch.equal(out, expected)
    h, last = forget_mult(f, x, return_state=True, out=out)
    assert h is out
    assert torch.equal(last, expected[-1])
    assert forget_mult(f, x, out=x) is x
    assert torch.equal(x, expected)


def test_out_of_half_precision():
    x = torch.randn(5, 3).bfloat16()
    out = torch.empty_like(x)
    assert torch.equal(forget_mult(0.5, x, out=out), forget_mult(0.5, x))


def test_out_of_complex_numbers():
    z = torch.randn(5, 3, dtype=torch.complex64)
    out = torch.empty_like(z)
    assert torch.equal(forget_mult(0.5, z, out=out), forget_mult(0.5, z))
    assert torch.equal(linear_recurrence(0.5j, z, out=out), linear_recurrence(0.5j, z))


def test_out_is_seen_to_change():
    x = torch.randn(5, 3, requires_grad=True)
    y = x.exp()
    with torch.no_grad():
        version = y._version
        forget_mult(0.5, y, out=y)
    assert y._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_out_where_a_gradient_is_wanted():
    x = torch.randn(5, 3)
    words = "out=... arguments don't support automatic differentiation, but one of the arguments requires grad."
    for f, out in [(torch.rand(5, 3, requires_grad=True), x.clone()), (0.5, x.clone().requires_grad_())]:
        with pytest.raises(RuntimeError, match=words):
            forget_mult(f, x, out=out)
        with torch.no_grad():
            assert torch.equal(forget_mult(f, x, out=out), forget_mult(f, x))


def test_out_that_overlaps():
    x = torch.randn(6, 3)
    with pytest.raises(ValueError, match="`out`.*`x`"):
        forget_mult(0.5, x[:5], out=x[1:])
    with pytest.raises(ValueError, match="overlap itself"):
        forget_mult(0.5, x, out=torch.zeros(1, 3).expand(6, 3))
    wide = torch.zeros(6, 6)
    forget_mult(0.5, wide[:, ::2], out=wide[:, 1::2])  # neighbours share nothing


# ---- Threads --------------------------------------------------------------------------------------------------------


def test_torch_s_number_of_threads_rules(torch_teams, set_threads):
    f, x = torch.rand(64, 64, 512), torch.randn(64, 64, 512)
    set_threads(1)
    torch.set_num_threads(2)
    both = forget_mult(f, x, axis=1)
    torch.set_num_threads(1)
    set_threads(2)
    one = forget_mult(f, x, axis=1)
    assert torch_teams == [2, 1]
    assert torch.equal(both, one)


def test_numbers_in_the_gradient_by_hand():
    x = torch.randn(5)
    h = forget_mult(0.5, x, 2.0)
    grads = forget_mult_vjp(torch.ones(5), 0.5, x, h, 2.0)
    gate, h0 = torch.tensor(0.5, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    expected = torch.autograd.functional.vjp(oracle.forget_mult, (gate, x.double(), h0), torch.ones(5).double())[1]
    for grad, want in zip(grads, expected, strict=True):
        assert grad.dtype is torch.float32
        torch.testing.assert_close(grad.double(), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", HALVES)
def test_halves_beside_complex_numbers_are_complex64(dtype):
    a, b = torch.full((4,), 0.5, dtype=dtype), torch.arange(4)
    h = linear_recurrence(a, b, torch.tensor(1j, dtype=torch.complex128))
    assert h.dtype is torch.complex64
    assert torch.equal(h, linear_recurrence(a.float(), b, 1j))

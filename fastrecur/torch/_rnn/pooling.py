"""Pooling: from a layer's product to its states and its output. The layers above know nothing of how it is done.

Plain tensors go through the kernels that read the product once (`pool`), on the CPU and on a GPU, and so does their
gradient. Whatever torch must see step by step goes through torch's operators and `forget_mult`: so does the gradient's
gradient, of which this composition is the definition.
"""

import functools

import torch
from llvmlite import binding

from ...recurrence import forget_mult
from .._operator import internals, modes, tensors as _tensors
from .._operator.autograd import gradients_of
from . import pool as _pool

FEW_ROWS = 64  # for fewer, bringing the weight into oneDNN's hands costs more than its product saves


def pool(product, c0=None, *, batch_sizes=None, cut=None, output_gate=True, keep=None, reverse=False):
    """Pool a product of Z, F and O blocks, (T, B, 3H), or of Z and F, (T, B, 2H), without `output_gate`.

    ``c = forget_mult(sigmoid(F)*keep, tanh(Z), c0)``, ``h = sigmoid(O)*c``. ``keep`` is None, a number, or (T, B, H).
    Return h, (T, B, H), and the last state c, (B, H), in the dtype of ``c0`` if there is one: the product's, or
    float32 where that is in half precision. Rows that are packed, (N, ...), come with their ``batch_sizes``,
    as a `PackedSequence` has them: only valid steps are touched. ``cut``, a `Cut`, says where series begin anew.
    """
    if not _is_plain(product, c0, keep, cut=cut):
        sizes = {"batch_sizes": batch_sizes, "cut": cut}
        return _composed(product, c0, output_gate=output_gate, keep=keep, reverse=reverse, **sizes)
    return _Pool.apply(product, c0, keep, _pool.layout(product, batch_sizes, reverse, cut), output_gate)


def pool_step(product, c0=None, *, output_gate=True, keep=None):
    """Pool one step's product, (B, 3H) or (B, 2H); return h and c, (B, H), which do not share their memory."""
    is_mixed = c0 is not None and c0.dtype != product.dtype  # a cast to the same dtype takes a microsecond, too
    z, f, o = _gates(product.to(c0.dtype) if is_mixed else product, output_gate, keep)
    c = f * z if c0 is None else torch.lerp(c0, z, f)
    h = c.clone() if o is None else o * c
    return h.to(product.dtype) if is_mixed else h, c


def first_state(c0, dtype, may_be_wide):
    """Return a first state in a product's dtype, or as it is where it may be, and is, float32 beside half precision."""
    stays = c0 is None or c0.dtype == dtype or (may_be_wide and is_wide(c0.dtype, dtype))
    return c0 if stays else c0.to(dtype)


def is_wide(dtype, beside):
    """Return whether a dtype is the one that states of another are carried in, and not that one."""
    return dtype == torch.float32 and beside in (torch.float16, torch.bfloat16)


def _gates(product, output_gate, keep):
    """Return the candidates and the gates: that of the state, and the output's, None if there is none."""
    z, f, *o = product.chunk(3 if output_gate else 2, -1)
    f = f.sigmoid() if keep is None else f.sigmoid() * keep
    return z.tanh(), f, o[0].sigmoid() if output_gate else None


def layer_inference(
    source, weight, bias, c0=None, *, batch_sizes=None, cut=None, output_gate=True, keep=None, reverse=False
):
    """Return `pool` of the product of a layer's input with a plain weight, where no gradient is wanted."""
    # The product is made block by block of time, and each block is pooled while it is in the cache.
    columns = weight.shape[0]
    size = columns // (2 + output_gate)
    whole = _pool.layout(source, batch_sizes, reverse, cut)
    h = _tensors.empty((*source.shape[:-1], size), None, source.dtype)
    carry = _carry(source, c0, whole.batch, size)
    if h.numel() == 0:
        return h, carry.to(source.dtype if c0 is None else c0.dtype)
    product_of = product_with(weight, h.numel() // size, max(rows for _, _, rows in whole.blocks))
    for first, last, rows in reversed(whole.blocks) if reverse else whole.blocks:
        start = int(whole.starts[first])
        at = slice(start, last if batch_sizes is None else start + rows)
        product = product_of(source[at].reshape(rows, -1)).view(*source[at].shape[:-1], columns)
        _pool.forward(product, bias, keep, carry, h[at], None, whole.part(first, last), output_gate)
    return h, carry.to(source.dtype if c0 is None else c0.dtype)


class _Pool(torch.autograd.Function):
    """The kernels, of ``(product, c0, keep, layout, gated)``; to ``(h, c_last)``."""

    @staticmethod
    def forward(ctx, product, c0, keep, layout, gated):
        """Pool; keep the product and the states for the gradient, if one is wanted."""
        size = product.shape[-1] // (2 + gated)
        shape = *product.shape[:-1], size
        h = _empty(product, *shape)
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        states = _empty(product, *shape) if wanted and gated else None
        carry = _carry(product, c0, layout.batch, size)
        _pool.forward(product, None, keep, carry, h, states, layout, gated)
        ctx.set_materialize_grads(False)
        if wanted:
            is_mask = isinstance(keep, torch.Tensor)
            # The kernels read borders of the layout; here torch tells if they were changed.
            borders = layout.offsets, layout.resets
            ctx.save_for_backward(product, c0, states if gated else h, keep if is_mask else None, *borders)
            ctx.problem = None if is_mask else keep, layout, gated
        return h, carry.to(product.dtype if c0 is None else c0.dtype, copy=True)

    @staticmethod
    def backward(ctx, grad_h, grad_last):
        """Return the gradients of the product and of c0."""
        product, c0, states, mask, *_ = ctx.saved_tensors
        keep, layout, gated = ctx.problem
        keep = keep if mask is None else mask
        if grad_h is None and grad_last is None:
            return (None,) * 5
        # Hooks may have changed all of what was saved.
        tensors = product, c0, keep, grad_h, grad_last, states
        if torch.is_grad_enabled() or states.stride(-1) != 1 or not _is_plain(*tensors, cut=layout.cut):
            sizes = torch.from_numpy(layout.counts) if layout.packed else None
            options = {"batch_sizes": sizes, "output_gate": gated, "keep": keep, "reverse": layout.reverse}
            composed = functools.partial(_composed, cut=layout.cut, **options)
            grads = gradients_of(composed, (product, c0), ctx.needs_input_grad[:2], (grad_h, grad_last))
            return *grads, None, None, None
        size = states.shape[-1]
        carry = _carry(product, grad_last, layout.batch, size)
        first = product.new_zeros(layout.batch, size) if c0 is None else c0.to(product.dtype).contiguous()
        to_product = _empty(product, *product.shape)
        if grad_h is not None and (grad_h.stride(-1) != 1 or grad_h.dtype != product.dtype):
            grad_h = grad_h.to(product.dtype).contiguous()
        _pool.vjp(grad_h, product, keep, states, first, carry, to_product, layout, gated)
        return to_product, carry.to(c0.dtype) if ctx.needs_input_grad[1] else None, None, None, None


def _empty(like, *shape):
    if like.is_cpu:
        return _tensors.empty(shape, None, like.dtype)
    return torch.empty(shape, dtype=like.dtype, device=like.device)


def _carry(like, state, batch, size):
    """Return states, or cotangents of states, to be walked with: in a dtype of their own, and zeros for None."""
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    carry = torch.zeros(batch, size, dtype=wide, device=like.device)
    return carry if state is None else carry.copy_(state)


def _is_plain(product, c0, keep, *others, cut=None):
    """Return whether the kernels may read these tensors as they stand."""
    tensors = [v for v in (product, c0, keep, *others) if isinstance(v, torch.Tensor)]
    rows = [product, keep] if isinstance(keep, torch.Tensor) else [product]
    return (
        modes.no_modes_active()
        and all(modes.kernel_can_read(v, product.is_cuda) and v.dtype in _tensors.FLOATING for v in tensors)
        and all(v.stride(-1) == 1 and v.numel() for v in rows)
        and not (isinstance(keep, torch.Tensor) and keep.requires_grad)
        and all(modes.kernel_can_read(v, product.is_cuda) for v in cut or ())
    )


def _composed(
    product, c0=None, *, batch_sizes=None, cut=None, output_gate=True, keep=None, reverse=False, recurrence=None
):
    """Do what `pool` does, such that all of it has derivatives: with another recurrence perhaps, of padded rows."""
    recurrence = recurrence or (forget_mult if cut is None else cut.recurrence)
    lengths = None
    if batch_sizes is not None:
        is_valid = batch_sizes.unsqueeze(1) > torch.arange(int(batch_sizes[0]), device="cpu")
        lengths, lanes = is_valid.sum(0).to(product.device), tuple(is_valid.shape)
        product, keep = (
            v.new_zeros(*lanes, v.shape[-1]).index_put((is_valid,), v) if isinstance(v, torch.Tensor) else v
            for v in (product, keep)
        )
    z, f, o = _gates(product if c0 is None else product.to(c0.dtype), output_gate, keep)
    c, c_last = recurrence(f, z, c0, reverse=reverse, lengths=lengths, return_state=True)
    h = (c if o is None else o * c).to(product.dtype)
    return (h if lengths is None else h[is_valid]), c_last


@functools.cache
def prefers_onednn():
    """Return whether oneDNN's products of float32 are twice as quick as those that torch takes by itself."""
    # Torch's are MKL's, which runs AVX2 code on AMD's processors. From Zen 5 on these have units as wide as AVX-512's.
    generation = binding.get_host_cpu_name().removeprefix("znver")
    is_zen5 = generation.isdecimal() and int(generation) >= 5 and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return is_zen5 and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()


def product_with(weight, rows, most):
    """Return a function from some rows, ``most`` at once of so many, to their product, kept until its next call."""
    if rows >= FEW_ROWS and prefers_onednn() and weight.dtype == torch.float32 and torch.backends.mkldnn.enabled:
        packed = weight.detach().contiguous().to_mkldnn()
        return lambda part: torch.nn.functional.linear(part.contiguous().to_mkldnn(), packed).to_dense()
    buffer, turned = _tensors.empty((most, weight.shape[0]), None, weight.dtype), weight.t()

    def product(part):
        n = part.shape[0]
        return torch.mm(part, turned, out=buffer if n == most else buffer[:n])

    return product


def is_unhooked_linear(linear):
    """Return whether a module is a `torch.nn.Linear` and nothing else: its call may be left out."""
    return type(linear) is torch.nn.Linear and internals.is_unhooked(linear)


def is_inference(source, linear, c0, cut):
    """Return whether torch has nothing in play but numbers in CPU memory: no gradient, transform, mode or autocast."""
    weight, bias, dtype = linear.weight, linear.bias, source.dtype
    tensors = [v for v in (source, weight, bias) if v is not None]
    return (
        dtype in _tensors.FLOATING
        and modes.no_modes_active()
        and all(modes.kernel_can_read(tensor) and tensor.dtype is dtype for tensor in tensors)
        and (c0 is None or modes.kernel_can_read(c0) and (c0.dtype is dtype or is_wide(c0.dtype, dtype)))
        and all(map(modes.kernel_can_read, cut or ()))
        and (bias is None or bias.shape == weight.shape[:1] and bias.is_contiguous())
        and not (torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in (*tensors, c0)))
        and not torch.is_autocast_enabled("cpu")
    )

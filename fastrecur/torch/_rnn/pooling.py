"""Pooling: from a layer's product to its states and its output. The layers above know nothing of how it is done.

Plain tensors go through the kernels that read the product once (`pool`), on the CPU and on a GPU, and so does their
gradient. The compiler, modes and transforms see the same as an operator (`ops`). Tensors of other classes, of which
torch must see step by step, go through torch's operators and `forget_mult`.
"""

import torch

from ...recurrence import forget_mult
from .._operator import internals, modes, tensors as _tensors
from . import ops, pool as _pool, products


def pool(
    product, c0=None, *, batch_sizes=None, batch=None, cut=None, output_gate=True, keep=None, reverse=False,
    recurrence=None,
):  # fmt: skip
    """Pool a product of Z, F and O blocks, (T, B, 3H), or of Z and F, (T, B, 2H), without `output_gate`.

    ``c = forget_mult(sigmoid(F)*keep, tanh(Z), c0)``, ``h = sigmoid(O)*c``. ``keep`` is None, a number, or (T, B, H).
    Return h, (T, B, H), and the last state c, (B, H), in the dtype of ``c0`` if there is one: the product's, or
    float32 where that is in half precision. Rows that are packed, (N, ...), come with their ``batch_sizes``, as a
    `PackedSequence` has them, and perhaps with their number ``batch``: only valid steps are touched. ``cut``, a `Cut`,
    says where series begin anew. Another ``recurrence`` than this process's may take the place of `forget_mult`.
    """
    is_plain = recurrence is None and ops.is_plain(product, c0, keep, cut=cut)
    if is_plain and not (torch.is_grad_enabled() and (product.requires_grad or (c0 is not None and c0.requires_grad))):
        return ops.run(product, c0, keep, _pool.layout(product, batch_sizes, reverse, cut), output_gate, False)[:2]
    mask, *rest = ops.options_of(product, batch_sizes, cut, output_gate, keep, reverse, batch)
    if is_plain:
        return ops.Pool.apply(_pool.layout(product, batch_sizes, reverse, cut), product, c0, mask, rest)[:2]
    tensors = [v for v in (product, c0, mask, *(cut or ())) if v is not None]
    wants_mask = mask is not None and mask.requires_grad
    if not (recurrence or wants_mask) and product.dtype in _tensors.FLOATING and modes.operator_takes(tensors):
        return ops.FORWARD(product, c0, mask, *rest)[:2]
    return ops.composed(product, c0, mask, *rest, recurrence or forget_mult)[:2]


def pool_step(product, c0=None, *, output_gate=True, keep=None):
    """Pool one step's product, (B, 3H) or (B, 2H); return h and c, (B, H), which do not share their memory."""
    is_mixed = c0 is not None and c0.dtype != product.dtype  # a cast to the same dtype takes a microsecond, too
    z, f, o = ops.gates(product.to(c0.dtype) if is_mixed else product, output_gate, keep)
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


def is_unhooked_linear(linear):
    """Return whether a module is a `torch.nn.Linear` and nothing else: its call may be left out."""
    return type(linear) is torch.nn.Linear and internals.is_unhooked(linear)


def product_of(linear, source):
    """Return a layer's product: what its linear module returns, by the library that is quickest at it."""
    if is_unhooked_linear(linear) and products.takes(source, linear.weight, linear.bias):
        product = products.OPERATOR if modes.compiling() else products.Product.apply
        return product(source, linear.weight, linear.bias)
    return linear(source)


def is_inference(source, linear, c0, cut):
    """Return whether torch has nothing in play but numbers in CPU memory: no gradient, transform, mode or autocast.

    In a program that is compiled they will be; where it is exported, others look for the product.
    """
    weight, bias, dtype = linear.weight, linear.bias, source.dtype
    tensors = source, weight, bias, c0
    return (
        dtype in _tensors.FLOATING
        and modes.cpu_can_run(*tensors, *(cut or ()))
        and all(v is None or v.dtype is dtype for v in tensors[:3])
        and (c0 is None or c0.dtype is dtype or is_wide(c0.dtype, dtype))
        and (bias is None or bias.shape == weight.shape[:1] and bias.is_contiguous())
        and not (torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in tensors))
        and not torch.is_autocast_enabled("cpu")
    )


def layer_inference(
    source, weight, bias, c0=None, *, batch_sizes=None, batch=None, cut=None, output_gate=True, keep=None,
    reverse=False,
):  # fmt: skip
    """Return `pool` of the product of a layer's input with a plain weight, where no gradient is wanted."""
    if modes.compiling():
        options = ops.options_of(source, batch_sizes, cut, output_gate, keep, reverse, batch)
        return ops.LAYER(source, weight, bias, c0, *options)
    return ops.run_layer(source, weight, bias, c0, keep, _pool.layout(source, batch_sizes, reverse, cut), output_gate)

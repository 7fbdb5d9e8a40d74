"""Pooling as operators of torch: by kernels where there are some, and composed of torch's own where there are tangents.

An operator's arguments from ``c0`` on are those of `options_of`. The functions named ``run`` take addresses.
"""

import functools

import torch
from torch.nn.functional import linear

from ..._arguments import messages as say
from ...recurrence import forget_mult, forget_mult_vjp
from .._operator import autograd, internals, modes, tensors as _tensors
from . import pool as _pool
from .products import product_with
from .segments import Cut

_OPTIONS = (
    "Tensor? c0, Tensor? mask, float scale, Tensor? batch_sizes, Tensor? offsets, Tensor? resets, SymInt batch,"
    " bool output_gate, bool reverse"
)


def options_of(rows, batch_sizes, cut, output_gate, keep, reverse, batch=None):
    """Return an operator's arguments behind ``c0``, the last three of which are batch, output_gate and reverse."""
    mask, scale = (keep, 1.0) if isinstance(keep, torch.Tensor) else (None, 1.0 if keep is None else float(keep))
    if batch is None:
        batch = int(batch_sizes[0]) if batch_sizes is not None else cut.n_series(rows) if cut else rows.shape[1]
    return mask, scale, batch_sizes, *(cut or (None, None)), batch, output_gate, reverse


def _setting(rows, mask, scale, batch_sizes, offsets, resets, _batch, output_gate, reverse):
    """Return what zoneout multiplies gates by, the layout of rows, and whether there are output gates."""
    cut = None if offsets is None and resets is None else Cut(offsets, resets)
    return scale if mask is None else mask, _pool.layout(rows, batch_sizes, reverse, cut), output_gate


def gates(product, output_gate, keep=None):
    """Return the candidates and the gates: that of the state, and the output's, None if there is none."""
    z, f, *o = product.chunk(3 if output_gate else 2, -1)
    f = f.sigmoid() if keep is None else f.sigmoid() * keep
    return z.tanh(), f, o[0].sigmoid() if output_gate else None


def _empty(like, *shape):
    if like.is_cpu:
        return _tensors.empty(shape, None, like.dtype)
    return torch.empty(shape, dtype=like.dtype, device=like.device)


def _carry(like, state, batch, size):
    """Return states, or cotangents of states, to be walked with: in a dtype of their own, and zeros for None."""
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    if state is None:
        return torch.zeros(batch, size, dtype=wide, device=like.device)
    return state.to(wide, copy=True, memory_format=torch.contiguous_format)


def run(product, c0, keep, layout, gated, saves):
    """Return h, the last states, and all states if they are to be saved and are not h."""
    h = _empty(product, *product.shape[:-1], product.shape[-1] // (2 + gated))
    states = _empty(product, *h.shape) if saves and gated else None
    carry = _carry(product, c0, layout.batch, h.shape[-1])
    if h.numel():
        _pool.forward(product, None, keep, carry, h, states, layout, gated)
    return h, carry.to(product.dtype if c0 is None else c0.dtype), states


def run_vjp(grad_h, grad_last, product, states, c0, keep, layout, gated):
    """Return the gradients of the product and of c0."""
    size = states.shape[-1]
    carry = _carry(product, grad_last, layout.batch, size)
    first = product.new_zeros(layout.batch, size) if c0 is None else c0.to(product.dtype).contiguous()
    to_product = _empty(product, *product.shape)
    if grad_h is not None and (grad_h.stride(-1) != 1 or grad_h.dtype != product.dtype):
        grad_h = grad_h.to(product.dtype).contiguous()
    if product.numel():
        _pool.vjp(grad_h, product, keep, states, first, carry, to_product, layout, gated)
    return to_product, carry.to(product.dtype if c0 is None else c0.dtype)


def run_layer(source, weight, bias, c0, keep, layout, gated):
    """Return h and the last states of the product of a layer's input with its weight."""
    # The product is made block by block of time, and each block is pooled while it is in the cache.
    columns = weight.shape[0]
    h = _tensors.empty((*source.shape[:-1], columns // (2 + gated)), None, source.dtype)
    carry, blocks = _carry(source, c0, layout.batch, h.shape[-1]), layout.blocks if h.numel() else []
    product_of = product_with(weight, h.numel() // h.shape[-1], max(rows for _, _, rows in blocks)) if blocks else None
    for first, last, rows in reversed(blocks) if layout.reverse else blocks:
        start = int(layout.starts[first])
        at = slice(start, start + rows if layout.packed else last)
        product = product_of(source[at].reshape(rows, -1)).view(*source[at].shape[:-1], columns)
        _pool.forward(product, bias, keep, carry, h[at], None, layout.part(first, last), gated)
    return h, carry.to(source.dtype if c0 is None else c0.dtype)


def is_plain(product, c0, keep, *others, cut=None):
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


def composed(
    product, c0, mask, scale, batch_sizes, offsets, resets, batch, output_gate, reverse, recurrence=forget_mult
):
    """Do what the operator does, such that h and the last states have derivatives: by another recurrence perhaps."""
    dtype, keep = product.dtype, scale if mask is None else mask
    pad, unpad, first, options = _series(batch_sizes, offsets, resets, batch, product.device)
    z, f, o = gates(pad(product if c0 is None else product.to(c0.dtype)), output_gate, pad(keep))
    c, last = recurrence(f, z, first(c0), reverse=reverse, return_state=True, **options)
    h = unpad((c if o is None else o * c).to(dtype))
    states = unpad(c.detach().to(dtype)) if output_gate else h.new_empty(0)
    return h, last if offsets is None else last.squeeze(1), states


def _series(batch_sizes, offsets, resets, batch, device):
    """Return what makes (T, B, ...) of rows, what undoes it, and a recurrence's first states and its other options."""
    if batch_sizes is not None:
        is_valid = batch_sizes.unsqueeze(1) > torch.arange(batch, device="cpu")

        def pad(v):
            is_rows = isinstance(v, torch.Tensor)
            return v.new_zeros(*is_valid.shape, v.shape[-1]).index_put((is_valid,), v) if is_rows else v

        return pad, lambda v: v[is_valid], lambda c0: c0, {"lengths": is_valid.sum(0).to(device)}
    options = {"lengths": None} if offsets is None and resets is None else {"offsets": offsets, "resets": resets}
    return lambda v: v, lambda v: v, lambda c0: c0 if c0 is None or offsets is None else c0.unsqueeze(1), options


def _adjoint(grad_h, grad_last, product, states, c0, mask, scale, *options):
    """Do what the adjoint's operator does, of what has derivatives: the states are made anew, as they have some."""
    *cuts, batch, output_gate, reverse = options
    pad, unpad, first, options = _series(*cuts, batch, product.device)
    dtype, keep = (product if c0 is None else c0).dtype, pad(scale if mask is None else mask)
    z, f, o = gates(pad(product.to(dtype)), output_gate)
    c0 = first(product.new_zeros(batch, states.shape[-1]) if c0 is None else c0)
    c = forget_mult(f * keep, z, c0, reverse=reverse, **options)
    g = torch.zeros_like(c) if grad_h is None else pad(grad_h)
    grad_last = None if grad_last is None else first(grad_last)
    to_c = g if o is None else g * o
    to_f, to_z, to_c0 = forget_mult_vjp(to_c, f * keep, z, c, c0, reverse=reverse, grad_state=grad_last, **options)
    to_product = [to_z * (1 - z * z), to_f * keep * f * (1 - f)] + ([] if o is None else [g * c * o * (1 - o)])
    return unpad(torch.cat(to_product, -1).to(product.dtype)), to_c0 if cuts[1] is None else to_c0.squeeze(1)


def _layer_composed(source, weight, bias, *options):
    return FORWARD(linear(source, weight, bias), *options)[:2]


def _with_unit_strides(*rows):
    return (v if v is None or v.stride(-1) == 1 else v.contiguous() for v in rows)


def _check(layout, rows, size, **tensors):
    """Raise unless tensors have the shapes that kernels take for granted: of states of sequences, or of rows."""
    for name, tensor in tensors.items():
        wanted = (layout.batch, size) if name in ("c0", "grad_last") else (*rows.shape[:-1], size)
        if tensor is not None and tuple(tensor.shape) != wanted:
            raise ValueError(say.exact_shape(name, tensor.shape, wanted))


def _forward(product, c0, mask, *options):
    product, mask = _with_unit_strides(product, mask)
    keep, layout, gated = _setting(product, mask, *options)
    _check(layout, product, product.shape[-1] // (2 + gated), c0=c0, mask=mask)
    h, last, states = run(product, c0, keep, layout, gated, True)
    return h, last, h.new_empty(0) if states is None else states


def _vjp(grad_h, grad_last, product, states, c0, mask, *options):
    product, states, mask = _with_unit_strides(product, states, mask)
    keep, layout, gated = _setting(product, mask, *options)
    given = {"grad_h": grad_h, "grad_last": grad_last, "states": states, "c0": c0, "mask": mask}
    _check(layout, product, product.shape[-1] // (2 + gated), **given)
    return run_vjp(grad_h, grad_last, product, states, c0, keep, layout, gated)


def _layer(source, weight, bias, c0, mask, *options):
    if mask is not None:
        return _layer_composed(source, weight, bias, c0, mask, *options)
    keep, layout, gated = _setting(source, mask, *options)
    _check(layout, source, weight.shape[0] // (2 + gated), c0=c0)
    return run_layer(source, weight, bias, c0, keep, layout, gated)


def _forward_fake(product, c0, *options):
    *_, batch, output_gate, _ = options
    h = product.new_empty(*product.shape[:-1], product.shape[-1] // (2 + output_gate))
    last = (h if c0 is None else c0).new_empty(batch, h.shape[-1])
    return h, last, torch.empty_like(h) if output_gate else h.new_empty(0)


def _vjp_fake(grad_h, grad_last, product, states, c0, *options):
    return product.new_empty(product.shape), (product if c0 is None else c0).new_empty(options[-3], states.shape[-1])


def _layer_fake(source, weight, bias, *options):
    return _forward_fake(source.new_empty(*source.shape[:-1], weight.shape[0]), *options)[:2]


def _batch(batch_sizes):
    """Return a tensor without elements whose length is the number of packed sequences."""
    return batch_sizes.new_empty(int(batch_sizes[0]), 0)


def _batch_fake(batch_sizes):
    return batch_sizes.new_empty(internals.open_size(), 0)


class Pool(autograd.Rules):
    @classmethod
    def forward(cls, ctx, way, product, c0, mask, *rest):
        """Pool by addresses in an eager call, of which the ``way`` is the layout, and the rest in one argument."""
        if isinstance(way, tuple):
            return super().forward(ctx, way, product, c0, mask, *rest)
        scale, *_, output_gate, _ = rest = rest[0]
        output = run(product, c0, scale if mask is None else mask, way, output_gate, True)
        cls.keep(ctx, (product, c0, mask, *rest), output)
        ctx.layout = way
        return output

    @staticmethod
    def setup(ctx, inputs, output):
        """Keep the product and the states."""
        product, c0, mask, scale, *cuts, batch, output_gate, reverse = inputs
        ctx.layout, ctx.options = None, (scale, batch, output_gate, reverse)
        if output[2] is not None:
            ctx.mark_non_differentiable(output[2])
        # The kernels read borders of the layout; here torch tells if they were changed.
        ctx.save_for_backward(product, output[2 if output_gate else 0], c0, mask, *cuts)

    @staticmethod
    def gradients(ctx, needs, grad_h, grad_last, _=None):
        product, states, c0, mask, *cuts = ctx.saved_tensors
        (scale, *options), layout, tensors = ctx.options, ctx.layout, (grad_h, grad_last, product, states, c0)
        # Hooks may have changed all of what was saved.
        is_eager = layout is not None and not torch.is_grad_enabled() and states.stride(-1) == 1
        if is_eager and is_plain(product, c0, mask, grad_h, grad_last, states, cut=layout.cut):
            return run_vjp(*tensors, scale if mask is None else mask, layout, options[1])
        return VJP(*tensors, mask, scale, *cuts, *options)


def _vmap(takes, gives, operator, info, in_dims, *arguments):
    """Take the samples of a batch for more sequences: side by side, or with offsets one after the other.

    What an operator takes before its options, and gives, is rows (r) and states of sequences (s).
    """
    given, (mask, scale, batch_sizes, offsets, resets, batch, *rest) = arguments[: len(takes)], arguments[len(takes) :]
    dims, n, is_cut = in_dims[len(takes) :], info.batch_size, offsets is not None
    if dims[3] is not None:
        raise NotImplementedError(say.segments_batched())
    axes = {"r": int(batch_sizes is None and not is_cut), "s": 0}  # on which sequences stand

    def fold(tensor, dim, kind):
        if tensor is None:
            return None
        tensor = autograd.with_batch(tensor, dim, n, axes[kind] + (not is_cut))
        return tensor.flatten(axes[kind], axes[kind] + 1)

    def unfold(tensor, kind):
        axis = axes[kind]
        if tensor.dim() < 2:  # of states that are h
            return tensor, None
        own = tensor.shape[axis] // n
        return tensor.unflatten(axis, (n, own) if is_cut else (own, n)), axis + (not is_cut)

    given = [fold(*each) for each in zip(given, in_dims, takes, strict=False)]
    if is_cut:
        steps = next(v for v, kind in zip(given, takes, strict=True) if kind == "r" and v is not None).shape[0] // n
        starts = steps * torch.arange(n, device=offsets.device).unsqueeze(1)
        offsets = torch.cat([(starts + offsets[:-1]).flatten(), starts[-1] + offsets[-1:]])
    mask, resets = fold(mask, dims[0], "r"), fold(resets, dims[4], "r")
    batch_sizes = None if batch_sizes is None else batch_sizes * n
    results = operator(*given, mask, scale, batch_sizes, offsets, resets, batch * n, *rest)
    return tuple(zip(*map(unfold, results, gives), strict=True))


def _layer_vmap(_, info, in_dims, source, weight, bias, *options):
    source, weight, bias = (
        v if v is None else v.unsqueeze(0) if dim is None else v.movedim(dim, 0)
        for v, dim in zip((source, weight, bias), in_dims, strict=False)
    )
    product = source.flatten(1, -2) @ weight.mT + (0 if bias is None else bias.unsqueeze(1))
    product = product.unflatten(1, source.shape[1:-1])
    results, dims = _forward_vmap(FORWARD, info, (0, *in_dims[3:]), product, *options)
    return results[:2], dims[:2]


_forward_vmap = functools.partial(_vmap, "rs", "rsr")
FORWARD = autograd.operator(
    f"qrnn_pool(Tensor product, {_OPTIONS}) -> (Tensor, Tensor, Tensor)",
    _forward_fake, cpu=_forward, cuda=_forward, composed=composed, elsewhere=composed, rules=Pool,
    vmap=_forward_vmap,
)  # fmt: skip
VJP = autograd.operator(
    f"qrnn_pool_backward(Tensor? grad_h, Tensor? grad_last, Tensor product, Tensor states, {_OPTIONS})"
    " -> (Tensor, Tensor)",
    _vjp_fake, cpu=_vjp, cuda=_vjp, composed=_adjoint, elsewhere=_adjoint,
    vmap=functools.partial(_vmap, "rsrrs", "rs"),
)  # fmt: skip
LAYER = autograd.operator(
    f"qrnn_layer(Tensor source, Tensor weight, Tensor? bias, {_OPTIONS}) -> (Tensor, Tensor)",
    _layer_fake, cpu=_layer, cuda=_layer_composed, composed=_layer_composed,
    elsewhere=_layer_composed, vmap=_layer_vmap,
)  # fmt: skip
BATCH = autograd.define("packed_batch(Tensor batch_sizes) -> Tensor", _batch_fake, CPU=_batch)

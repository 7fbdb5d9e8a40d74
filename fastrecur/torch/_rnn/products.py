"""Products of a layer's input with its weight, by the library that is quickest at them."""

import functools
from typing import Any

import torch
from llvmlite import binding

from .._operator import autograd, internals, modes, tensors as _tensors

_linear = torch.nn.functional.linear
FEW_ROWS = 64  # for fewer, oneDNN's order of the weight costs more than its product saves
BLOCK = 512  # rows that are copied into oneDNN's order at once: more are often in memory that is new


@functools.cache
def prefers_onednn():
    """Return whether oneDNN's products of float32 are twice as quick as those that torch takes by itself."""
    # Torch's are MKL's, which runs AVX2 code on AMD's processors. From Zen 5 on these have units as wide as AVX-512's.
    generation = binding.get_host_cpu_name().removeprefix("znver")
    is_zen5 = generation.isdecimal() and int(generation) >= 5 and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return is_zen5 and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()


def _prefers_onednn():
    return prefers_onednn()


# To compilers it is a number: what `torch.compiler.assume_constant_result` does, which would import them here.
_prefers_onednn._dynamo_marked_constant = True  # type: ignore[attr-defined]


def takes(source, weight, bias):
    """Return whether a product that may be differentiated is one for `Product`."""
    return (
        internals.onednn_linear is not None
        and _prefers_onednn()
        and modes.cpu_can_run(source, weight, bias)  # before sizes are looked at, which may be symbols
        and (modes.compiling() or source.shape[:-1].numel() >= FEW_ROWS)  # a graph is for all sizes
        and torch.backends.mkldnn.enabled
        and all(v is None or v.dtype == torch.float32 for v in (source, weight, bias))
        and not torch.is_autocast_enabled("cpu")
    )


def _by_onednn(rows, weight, bias=None):
    flat = rows.reshape(-1, rows.shape[-1]).contiguous()
    weight = weight if weight.t().is_contiguous() else weight.contiguous()  # either is put in an order of its own
    return internals.onednn_linear(flat, weight, bias, "none", [], "").view(*rows.shape[:-1], -1)


def product_with(weight, rows, most):
    """Return a function from some rows, ``most`` at once of so many, to their product, kept until its next call."""
    is_wanted = rows >= FEW_ROWS and internals.onednn_linear is not None and prefers_onednn()
    if is_wanted and weight.dtype == torch.float32 and torch.backends.mkldnn.enabled:
        weight = weight.detach().contiguous()
        return lambda part: _by_onednn(part, weight)
    buffer, turned = _tensors.empty((most, weight.shape[0]), None, weight.dtype), weight.t()

    def product(part):
        n = part.shape[0]
        return torch.mm(part, turned, out=buffer if n == most else buffer[:n])

    return product


def _weights(grads, rows):
    return grads.t() @ rows


def _weights_by_onednn(grads, rows):
    if internals.onednn_weights is None or not rows.numel():
        return _weights(grads, rows)
    product = None
    for parts in zip(grads.split(BLOCK), rows.split(BLOCK), strict=True):
        part = internals.onednn_weights(*(v.contiguous().to_mkldnn() for v in parts), rows, False)[0]
        product = part if product is None else product.add_(part)
    return product


def _gradients(product, product_of_weights, saved, grad, needed):
    source, weight = saved
    rows, grads = (v.reshape(-1, v.shape[-1]) for v in (source, grad))
    return (
        product(grad, weight.t(), None) if needed[0] else None,
        product_of_weights(grads, rows) if needed[1] else None,
        grads.sum(0) if needed[2] else None,
    )


class Product(torch.autograd.Function):
    """A layer's product and its input's gradient by oneDNN; what is differentiated again is made of torch's own."""

    @staticmethod
    def forward(ctx, source, weight, bias):
        ctx.save_for_backward(source, weight)
        return _by_onednn(source, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        saved = ctx.saved_tensors
        can_read = all(map(modes.kernel_can_read, (*saved, grad)))
        is_plain = not torch.is_grad_enabled() and modes.no_modes_active() and can_read
        ways = (_by_onednn, _weights_by_onednn) if is_plain else (_linear, _weights)
        return _gradients(*ways, saved, grad, ctx.needs_input_grad)


# The same for the compiler: inductor cannot call oneDNN with a weight that changes, and warns of a Function.
def _operator(schema, run, sizes, gradients):
    """Define an operator of two tensors, and perhaps more, whose gradients are made of its first two."""
    operator = autograd.define(schema, lambda v, w, *_: v.new_empty(sizes(v, w)), CPU=run)
    torch.library.register_autograd(
        operator,
        lambda ctx, grad: gradients(ctx.saved_tensors, grad, ctx.needs_input_grad),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[:2]),
        lib=autograd.library,
    )
    return operator


WEIGHTS = _operator(
    "onednn_weights(Tensor grads, Tensor rows) -> Tensor",
    _weights_by_onednn,
    lambda grads, rows: (grads.shape[1], rows.shape[1]),
    lambda saved, grad, _: (saved[1] @ grad.t(), saved[0] @ grad),
)
OPERATOR: Any = _operator(
    "onednn_linear(Tensor source, Tensor weight, Tensor? bias) -> Tensor",
    _by_onednn,
    lambda v, weight: (*v.shape[:-1], weight.shape[0]),
    lambda saved, grad, needed: _gradients(OPERATOR, WEIGHTS, saved, grad, needed),
)

"""The product of a layer's input with a plain weight, where no gradient is wanted."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from llvmlite import binding
from torch import Tensor, nn
from torch.nn import functional

from . import _modes, _tensors, _torch_internals

FEW_ROWS = 64  # for fewer, bringing the weight into oneDNN's hands costs more than its product saves


@functools.cache
def prefers_onednn() -> bool:
    """Return whether oneDNN's products of float32 are twice as quick as those that torch takes by itself.

    Torch's are MKL's, which runs AVX2 code on AMD's processors. From Zen 5 on these have units as wide as AVX-512's.
    """
    generation: str = binding.get_host_cpu_name().removeprefix("znver")
    return (
        generation.isdecimal()
        and int(generation) >= 5
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and _has_both()
    )


def _has_both() -> bool:
    return bool(torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available())


def product_with(weight: Tensor, rows: int, most: int) -> Callable[[Tensor], Tensor]:
    """Return a function from some rows, ``most`` at once of so many, to their product, kept until its next call."""
    if rows >= FEW_ROWS and prefers_onednn() and weight.dtype == torch.float32 and torch.backends.mkldnn.enabled:
        packed = weight.detach().contiguous().to_mkldnn()
        return lambda part: functional.linear(part.contiguous().to_mkldnn(), packed).to_dense()
    buffer, turned = _tensors.empty((most, weight.shape[0]), None, weight.dtype), weight.t()

    def product(part: Tensor) -> Tensor:
        n = part.shape[0]
        return torch.mm(part, turned, out=buffer if n == most else buffer[:n])

    return product


def is_unhooked_linear(linear: nn.Module) -> bool:
    """Return whether a module is a `torch.nn.Linear` and nothing else: its call may be left out."""
    return type(linear) is nn.Linear and _torch_internals.is_unhooked(linear)


def is_inference(source: Tensor, linear: Any, c0: Tensor | None) -> bool:
    """Return whether torch has nothing in play but numbers in CPU memory: no gradient, transform, mode or autocast."""
    weight, bias, dtype = linear.weight, linear.bias, source.dtype
    tensors = [v for v in (source, weight, bias, c0) if v is not None]
    return (
        dtype in _tensors.FLOATING
        and _modes.no_modes_active()
        and all(_modes.kernel_can_read(tensor) and tensor.dtype is dtype for tensor in tensors)
        and (bias is None or bias.shape == weight.shape[:1] and bias.is_contiguous())
        and not (torch.is_grad_enabled() and any(v.requires_grad for v in tensors))
        and not torch.is_autocast_enabled("cpu")
    )

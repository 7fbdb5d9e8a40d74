"""Products of a layer's input with its weight, by the library that is quickest at them."""

import functools

import torch
from llvmlite import binding

from .._operator import tensors as _tensors

FEW_ROWS = 64  # for fewer, bringing the weight into oneDNN's hands costs more than its product saves


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

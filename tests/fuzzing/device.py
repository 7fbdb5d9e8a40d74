"""Tensors of a device without kernels, but with torch's own operators, the CPU's. It is registered for good."""

import contextlib
import functools

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from fastrecur.torch._operator import modes

KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.PrivateUse1)


class Elsewhere(torch.Tensor):
    """A tensor there; our operators are those that they have for any device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=place()[0]
        )

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func.namespace == "fastrecur":
            return func.redispatch(KEYS, *args, **(kwargs or {}))
        args, kwargs = tree_map_only(cls, lambda v: v.inner, (args, dict(kwargs or {})))
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        return tree_map_only(torch.Tensor, cls, func(*args, **kwargs))


class Mode(TorchDispatchMode):
    """A mode, as a profiler's, in which our operators are run on CPU tensors as on a device without kernels."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace != "fastrecur":
            return func(*args, **(kwargs or {}))
        if func.name() == "fastrecur::selective_scan":
            args = (*args[:-1], False)  # the CPU's kernels alone keep checkpoints
        return func.redispatch(KEYS, *args, **(kwargs or {}))


@contextlib.contextmanager
def plain(is_so):
    """Take tensors there for plain ones, as a real device's are, or for a class of somebody's."""
    kept = modes.PLAIN
    modes.PLAIN = (*kept, Elsewhere) if is_so else kept
    try:
        yield
    finally:
        modes.PLAIN = kept


@functools.cache
def place():
    """Return the device, which is registered before the first gradient is taken; None where torch has no such."""
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        return None
    backend_registration._setup_privateuseone_for_python_backend("somewhere")
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", lambda size, dtype=None, **_: Elsewhere(torch.empty(size, dtype=dtype)),
                 "PrivateUse1")  # fmt: skip
    library.impl("empty_strided", lambda size, stride, dtype=None, **_: Elsewhere(
        torch.empty_strided(size, stride, dtype=dtype)), "PrivateUse1")  # fmt: skip
    library.impl("_copy_from", _copy, "PrivateUse1")
    return torch.device("somewhere:0"), library  # which lasts as long as this


def _copy(source, to, non_blocking=False):
    """Copy from there, or to there."""
    source, inner = (v.inner if isinstance(v, Elsewhere) else v for v in (source, to))
    inner.copy_(source)
    return to


def moved(value):
    """Return a tensor there, a leaf that wants a gradient if it did."""
    if not isinstance(value, torch.Tensor):
        return value
    own = value.detach().resolve_neg().resolve_conj()  # as copies are; torch would not see the inner tensor's bits
    return Elsewhere(own).requires_grad_(value.requires_grad)

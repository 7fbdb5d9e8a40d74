"""Which adapter runs a call: the types of its operands say it.

There is an adapter for arrays in memory, for arrays on a GPU, for tensors and for Dask arrays. Each is imported when it
is first needed, and none imports this file. Libraries that the caller has not imported are not looked for.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from numpy import ndarray

from ._arguments import adapters, arrays, checks, messages as say
from ._cpu import host
from ._cpu.compiler import cache


def forward(
    family: str, names: tuple[str, ...], a: Any, b: Any, h0: Any, axis: Any, reverse: Any, lengths: Any,
    return_state: Any, out: Any,
) -> Any:  # fmt: skip
    """Run a recurrence; ``names`` are what the caller calls the operands."""
    if type(b) is ndarray:
        result = host.quick_forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out)
        if result is not None:
            return result
    elif type(b) in adapters.tensor_types and type(lengths) is not checks.Segments:
        return adapters.quick_forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out)
    adapter = _adapter((a, b, h0, out), lengths)
    return adapter.forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out)


def vjp(
    family: str, names: tuple[str, ...], g: Any, a: Any, b: Any, h: Any, h0: Any, axis: Any, reverse: Any,
    lengths: Any, grad_state: Any,
) -> Any:  # fmt: skip
    """Run a recurrence's adjoint; ``names`` are what the caller calls ``g, a, b, h``."""
    if type(b) is ndarray:
        result = host.quick_vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state)
        if result is not None:
            return result
    elif type(b) in adapters.tensor_types and type(lengths) is not checks.Segments:
        return adapters.quick_vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state)
    adapter = _adapter((g, a, b, h, h0, grad_state), lengths)
    return adapter.vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state)


def _adapter(operands: tuple[Any, ...], lengths: Any) -> ModuleType:
    """Return the adapter of a call; lengths may be on the host whatever the operands are."""
    if type(lengths) is checks.Segments:
        return _adapter(operands, None)
    if arrays.all_in_memory(*operands, lengths):
        return host
    if arrays.any_tensor(*operands):
        return tensor_adapter()
    if arrays.any_on_device(*operands):
        return _gpu()
    if arrays.any_lazy(*operands, lengths):
        from . import _dask

        return _dask
    return host


def selective(values: tuple[Any, ...], is_vjp: bool = False) -> ModuleType:
    """Return the adapter of a selective scan, or of its gradient, of all its arrays."""
    if arrays.any_tensor(*values):
        from .torch._operator import selective_call

        return selective_call
    for value in values:
        if arrays.any_on_device(value):
            return _selective_gpu()
        if arrays.any_lazy(value):
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise TypeError(say.scan_library("selective_scan_vjp" if is_vjp else "selective_scan", kind))
    return _selective_host()


def tensor_adapter() -> ModuleType:
    """Return the adapter for tensors, which also tells what torch has active, and of its threads."""
    from .torch._operator import call as _call  # at every call: torch's compiler does not follow a cache

    return _call


def tensor_filters() -> ModuleType:
    """Return the adapter for filters of tensors."""
    from .torch._operator import filters

    return filters


def tensor_levels() -> ModuleType:
    """Return the adapter for levels of tensors."""
    from .torch._operator import levels

    return levels


@functools.cache
def gpu_filters() -> ModuleType:
    """Return the adapter for filters of arrays on a GPU."""
    with cache.making:
        from ._cuda import filters

    return filters


@functools.cache
def gpu_levels() -> ModuleType:
    """Return the adapter for levels that follow arrays on a GPU."""
    with cache.making:
        from ._cuda import levels

    return levels


@functools.cache
def _selective_host() -> ModuleType:
    with cache.making:
        from ._cpu import selective as _selective

    return _selective


@functools.cache
def _selective_gpu() -> ModuleType:
    with cache.making:
        from ._cuda import selective as _selective

    return _selective


@functools.cache
def _gpu() -> ModuleType:
    with cache.making:
        from ._cuda import call as _recurrence

    return _recurrence

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
    if arrays.any_of_jax(*operands, *checks.parts(lengths)):
        return _jax()
    where = place(*operands)
    if where == "tensors":
        return tensors()
    if where == "device":
        return on_device()
    if where == "lazy" or arrays.any_lazy(lengths):
        from . import _dask

        return _dask
    return host


def place(*values: Any) -> str:
    """Return where a call's arrays belong: to "memory", "tensors", a "device" or what is "lazy"."""
    if arrays.all_in_memory(*values):
        return "memory"
    if arrays.any_tensor(*values):
        return "tensors"
    return "device" if arrays.any_on_device(*values) else "lazy" if arrays.any_lazy(*values) else "memory"


def selective(values: tuple[Any, ...], function: str) -> ModuleType:
    """Return the adapter of a selective scan, or of its gradient, of all its arrays."""
    where = place(*values)
    if where == "tensors":
        return tensors("selective")
    if where == "lazy":
        kind = next(type(value) for value in values if arrays.any_lazy(value))
        raise TypeError(say.scan_library(function, f"{kind.__module__}.{kind.__qualname__}"))
    return on_device("selective") if where == "device" else _selective()


def tensors(family: str = "recurrence") -> ModuleType:
    """Return a family's adapter for tensors; that of recurrences also tells what torch has active, and of its threads.

    It is imported at every call: torch's compiler does not follow a cache.
    """
    if family == "filters":
        from .torch._operator import filters

        return filters
    if family == "levels":
        from .torch._operator import levels

        return levels
    if family == "selective":
        from .torch._operator import selective_call

        return selective_call
    from .torch._operator import call

    return call


@functools.cache
def on_device(family: str = "recurrence") -> ModuleType:
    """Return a family's adapter for arrays on a GPU."""
    with cache.making:
        from ._cuda import call, filters, levels, selective
    return {"recurrence": call, "filters": filters, "levels": levels, "selective": selective}[family]


@functools.cache
def _jax() -> ModuleType:
    with cache.making:
        from . import _jax
    return _jax


@functools.cache
def _selective() -> ModuleType:
    with cache.making:
        from ._cpu import selective
    return selective

"""What torch does not document, in one place: each name is looked for, and what does without it is slower and right.

Where it cannot be told what torch has in play beside a call, every call goes through the dispatcher. Where a kernel of
the autograd keys cannot be made, gradients are recorded as for any custom operator: in backward mode alone.
"""

import importlib
import types
from typing import Any

import torch


def _find(name):
    """Return a thing of torch's by its name; None if this torch has it not."""
    module, _, own = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), own, None)
    except ImportError:
        return None


def _all(*things):
    return not any(thing is None for thing in things)


compiling = torch.compiler.is_dynamo_compiling
interpreter = _find("torch._C._functorch.peek_interpreter_stack")
dispatch_modes = _find("torch._C._len_torch_dispatch_stack")
function_modes = _find("torch._C._len_torch_function_stack")
function_mode = _find("torch._C._get_function_stack_at")
tracing = _find("torch._C._get_tracing_state")
DeviceContext = _find("torch.utils._device.DeviceContext")
backward_pass = _find("torch._C._current_graph_task_id") or (lambda: -1)
# Lets a named tuple be part of a program that torch.export saves.
register_namedtuple = _find("torch.utils._pytree._register_namedtuple") or (lambda kind, **name: None)
raw_stream = _find("torch._C._cuda_getCurrentRawStream")  # only where torch has CUDA

# Whether it can be told what torch has in play.
TELLS_MODES = _all(
    interpreter, dispatch_modes, function_modes, function_mode, tracing, DeviceContext,
    _find("torch.autograd.forward_ad._current_level"),
)  # fmt: skip
if not TELLS_MODES:
    interpreter, tracing = interpreter or (lambda: None), tracing or (lambda: None)
_forward_ad = torch.autograd.forward_ad if TELLS_MODES else types.SimpleNamespace(_current_level=-1)
_profiler: Any = torch.autograd.profiler
if not hasattr(_profiler, "_is_profiler_enabled"):
    _profiler = types.SimpleNamespace(_is_profiler_enabled=False)


def has_forward_level():
    return _forward_ad._current_level >= 0


def is_profiled():
    return _profiler._is_profiler_enabled


KernelFunction = _find("torch.autograd.function._SingleLevelFunction")
enable_one_level = _find("torch._functorch.utils.enable_single_level_autograd_function")
below_autograd = _find("torch._C._AutoDispatchBelowAutograd")
after_autograd = _find("torch._C._after_autograd_keyset")
with_forward_mode = _find("torch.autograd.forward_ad._set_fwd_grad_enabled")
_is_forward_mode = _find("torch._C._is_fwd_grad_enabled")
_unpack_dual = _find("torch._VF._unpack_dual")
HAS_KERNELS = TELLS_MODES and _all(
    KernelFunction, enable_one_level, below_autograd, after_autograd, with_forward_mode, _is_forward_mode, _unpack_dual
)
if not HAS_KERNELS:
    KernelFunction = torch.autograd.Function  # of which nothing is applied


def have_tangents(tensors):
    # The compiler enters levels unseen by `torch.autograd.forward_ad`, but inside a transform.
    may_have = (has_forward_level() or interpreter() is not None) and _is_forward_mode()
    return may_have and any(_unpack_dual(tensor, level=0)[1] is not None for tensor in tensors)


_unwrap_if_dead = _find("torch._C._functorch.unwrap_if_dead") or (lambda tensor: tensor)


def alive(tensor):
    """Return a tensor without the wrappers of transforms that are over: a pullback runs after the transform."""
    while tensor is not None and (inner := _unwrap_if_dead(tensor)) is not tensor:
        tensor = inner
    return tensor


def primal(tensor):
    """Return a tensor without its own tangent; torch itself leaves out the tangents of a function's tangents."""
    return None if tensor is None else _unpack_dual(tensor, level=0)[0]


_HOOKS = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
_everywhere = torch.nn.modules.module
_TELLS_HOOKS = all(hasattr(_everywhere, "_global" + name) for name in _HOOKS) and all(
    hasattr(torch.nn.Identity(), name) for name in (*_HOOKS, "_compiled_call_impl")
)


def is_unhooked(module):
    """Return whether a module's call is that of its class's `forward`, and nobody looks on."""
    return (
        _TELLS_HOOKS
        and "forward" not in module.__dict__
        and module._compiled_call_impl is None
        and not any(getattr(module, name) or getattr(_everywhere, "_global" + name) for name in _HOOKS)
    )


def is_replica(module):
    return getattr(module, "_is_replica", False)

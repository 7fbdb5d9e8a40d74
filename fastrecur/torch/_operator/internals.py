"""What torch does not document, in one place: each name is looked for, and there is another way where one is missing.

Where it cannot be told what torch has in play beside a call, every call goes through the dispatcher. Where a kernel of
the autograd keys cannot be made, gradients are recorded as for any custom operator: in backward mode alone.
"""

import contextlib
import importlib
import types
from typing import Any

import torch


def _find(*ways):
    """Return the first of some things that torch has, by their names, or by functions that return them; or None."""
    for way in ways:
        try:
            if callable(way):
                return way()
            module, _, own = way.rpartition(".")
            return getattr(importlib.import_module(module), own)
        except (ImportError, AttributeError):
            pass
    return None


def _all(*things):
    return not any(thing is None for thing in things)


compiling = torch.compiler.is_dynamo_compiling
# What is true if there is one of its kind.
interpreter = _find("torch._C._functorch.peek_interpreter_stack", "torch._C._are_functorch_transforms_active")
dispatch_modes = _find("torch._C._len_torch_dispatch_stack", "torch.utils._python_dispatch.is_in_torch_dispatch_mode")
function_modes = _find("torch._C._len_torch_function_stack", "torch._C._is_torch_function_mode_enabled")
function_mode = _find("torch._C._get_function_stack_at")
tracing = _find("torch._C._get_tracing_state", "torch.jit.is_tracing")
DeviceContext = _find("torch.utils._device.DeviceContext")
backward_pass = _find("torch._C._current_graph_task_id") or (lambda: -1)
# Lets a named tuple be part of a program that torch.export saves.
register_namedtuple = _find("torch.utils._pytree._register_namedtuple") or (lambda kind, **name: None)
onednn_linear = _find(lambda: torch.ops.mkldnn._linear_pointwise.default)  # of tensors in torch's own layout
onednn_weights = _find(lambda: torch.ops.aten.mkldnn_linear_backward_weights.default)  # of tensors in oneDNN's
raw_stream = _find("torch._C._cuda_getCurrentRawStream")  # only where torch has CUDA

TELLS_MODES = _all(interpreter, dispatch_modes, function_modes, tracing)  # what torch has in play
if not TELLS_MODES:
    interpreter, tracing = interpreter or (lambda: None), tracing or (lambda: None)
_forward_ad: Any = torch.autograd.forward_ad
_tells_levels, _probe = hasattr(_forward_ad, "_current_level"), torch.zeros(())
_profiler: Any = torch.autograd.profiler
if not hasattr(_profiler, "_is_profiler_enabled"):
    _profiler = types.SimpleNamespace(_is_profiler_enabled=False)


_eval_frame = _find("torch._C._dynamo.eval_frame")


def untraced(function: Any) -> Any:
    """Return what runs an operator, which torch's compiler never follows: what it calls is no part of a graph.

    Else, where a graph breaks before an operator, the compiler would take the operator's own code for the caller's.
    """
    with contextlib.suppress(AttributeError, TypeError):
        skip = _eval_frame._FrameAction.SKIP
        own = getattr(function, "func", getattr(function, "__func__", function))
        _eval_frame.set_code_exec_strategy(own.__code__, _eval_frame._FrameExecStrategy(skip, skip))
    return function


def has_forward_level():
    if _tells_levels:
        return _forward_ad._current_level >= 0
    try:
        _forward_ad.make_dual(_probe, _probe)
    except RuntimeError:  # there is none
        return False
    return True


def give_devices_alone():
    """Return whether all modes of functions only give new tensors a device, as torch.set_default_device does."""
    if function_mode is None or DeviceContext is None or function_modes() is True:
        return False
    return all(type(function_mode(k)) is DeviceContext for k in range(function_modes()))


def open_size():
    """Return a size of a fake result that a run will tell, also in a graph that may break."""
    context: Any = torch.library.get_ctx()
    shapes = getattr(context, "_shape_env", None)
    if shapes is None:
        return context.new_dynamic_size()  # which breaks it there
    size = shapes.create_unbacked_symint()
    torch._check(size >= 0)
    return size


def is_profiled():
    return _profiler._is_profiler_enabled


@contextlib.contextmanager
def _one_level():
    own: Any = torch._C._functorch
    before = own.get_single_level_autograd_function_allowed()
    own.set_single_level_autograd_function_allowed(True)
    try:
        yield
    finally:
        own.set_single_level_autograd_function_allowed(before)


@contextlib.contextmanager
def _forward_mode(is_enabled):
    before = torch._C._is_fwd_grad_enabled()
    torch._C._set_fwd_grad_enabled(is_enabled)
    try:
        yield
    finally:
        torch._C._set_fwd_grad_enabled(before)


def _exclude_autograd():
    key: Any = torch._C.DispatchKey
    keys = [torch._C.DispatchKeySet(k) for k in (key.AutogradFunctionality, key.AutogradOther)]
    return lambda: torch._C._ExcludeDispatchKeyGuard(keys[0] | keys[1])


KernelFunction = _find("torch.autograd.function._SingleLevelFunction", lambda: torch.autograd.Function.__base__)
enable_one_level = _find("torch._functorch.utils.enable_single_level_autograd_function", lambda: _one_level)
below_autograd = _find("torch._C._AutoDispatchBelowAutograd", _exclude_autograd)
after_autograd = _find(
    "torch._C._after_autograd_keyset",
    lambda: torch._C._dispatch_keyset_full_after(torch._C.DispatchKey.AutogradOther),
)
with_forward_mode = _find("torch.autograd.forward_ad._set_fwd_grad_enabled", lambda: _forward_mode)
_is_forward_mode = _find("torch._C._is_fwd_grad_enabled") or (lambda: True)
HAS_KERNELS = TELLS_MODES and _all(below_autograd, after_autograd)
if not HAS_KERNELS:
    KernelFunction = torch.autograd.Function  # of which nothing is applied


def have_tangents(tensors):
    # The compiler enters levels unseen by `torch.autograd.forward_ad`, but inside a transform.
    may_have = (has_forward_level() or interpreter()) and _is_forward_mode()
    return may_have and any(_forward_ad.unpack_dual(tensor, level=0).tangent is not None for tensor in tensors)


_unwrap_if_dead = _find("torch._C._functorch.unwrap_if_dead") or (lambda tensor: tensor)


def alive(tensor):
    """Return a tensor without the wrappers of transforms that are over: a pullback runs after the transform.

    A number, or None, is returned as it is.
    """
    while isinstance(tensor, torch.Tensor) and (inner := _unwrap_if_dead(tensor)) is not tensor:
        tensor = inner
    return tensor


def primal(tensor):
    """Return a tensor without its own tangent; torch itself leaves out the tangents of a function's tangents."""
    return None if tensor is None else _forward_ad.unpack_dual(tensor, level=0).primal


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

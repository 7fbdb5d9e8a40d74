"""What torch has in play beside a call: whether a kernel may read tensors by their addresses."""

import torch
from torch.autograd import forward_ad as _forward_ad
from torch.utils._device import DeviceContext as _DeviceContext

PLAIN = torch.Tensor, torch.nn.Parameter

interpreter = torch._C._functorch.peek_interpreter_stack
dispatch_modes = torch._C._len_torch_dispatch_stack
function_modes = torch._C._len_torch_function_stack
_function_mode = torch._C._get_function_stack_at
_tracing = torch._C._get_tracing_state
_backward_pass = torch._C._current_graph_task_id
_exporting = getattr(torch.compiler, "is_exporting", lambda: False)
compiling = torch.compiler.is_dynamo_compiling


def no_modes_active():
    """Return whether torch has nothing in play that must see operators: addresses may be used."""
    return (
        not compiling()
        and not dispatch_modes()
        and not (function_modes() and _any_mode_that_sees_operators())
        and interpreter() is None
        and _forward_ad._current_level < 0
        and _tracing() is None
    )


def _any_mode_that_sees_operators():
    """Return whether a mode does more than give new tensors a device, as torch.set_default_device does."""
    return any(type(_function_mode(k)) is not _DeviceContext for k in range(function_modes()))


def loses_attributes():
    """Return what would lose, or take twice, what a call keeps on its module; None if nothing does."""
    if _exporting():
        return "torch.export"
    if torch.compiler.is_compiling():
        return None
    if _tracing() is not None:
        return "torch.jit.trace"
    if interpreter() is not None:
        return "a transform of torch.func"
    return None if _backward_pass() == -1 else "the recomputation of a checkpoint"


def kernel_can_read(tensor, is_cuda=False):
    """Return whether a tensor's numbers stand in CPU memory, or a GPU's, as shape and strides say, and that is all."""
    return (
        tensor is None
        or type(tensor) in PLAIN
        and (tensor.is_cuda if is_cuda else tensor.is_cpu)
        and not tensor.is_neg()
        and not tensor.is_conj()
        and has_memory(tensor)
    )


def has_memory(tensor):
    """Return whether a tensor has an address."""
    try:
        return tensor.data_ptr() != 0 or tensor.numel() == 0
    except RuntimeError:  # a wrapper, of a transform that has no interpreter or is over
        return False


def is_overridden(*values):
    """Return whether a tensor's own class, or a mode, overrides torch's functions."""
    return not compiling() and torch.overrides.has_torch_function([v for v in values if isinstance(v, torch.Tensor)])

"""What torch has in play beside a call: whether a kernel may read tensors by their addresses."""

import contextlib

import torch

from . import internals
from .internals import compiling, dispatch_modes, function_modes, interpreter, tracing

PLAIN = _Tensor, _Parameter = torch.Tensor, torch.nn.Parameter

_grad_enabled = torch.is_grad_enabled
_exporting = getattr(torch.compiler, "is_exporting", lambda: False)
_COMPLEX = frozenset((torch.complex32, torch.complex64, torch.complex128))
_NO_EVENT = contextlib.nullcontext()


def no_modes_active():
    """Return whether torch has nothing in play that must see operators: addresses may be used."""
    return (
        internals.TELLS_MODES
        and not compiling()
        and not dispatch_modes()
        and not interpreter()
        and not internals.has_forward_level()
        and not tracing()
        and (not function_modes() or internals.give_devices_alone())
    )


def key_of(options, *operands):
    """Return what a call may be remembered by: all that a kernel reads of it but numbers and addresses.

    None where torch has anything in play that must see the call, and for operands that a kernel cannot read by their
    addresses. An operand is a tensor, a float or None. Last in a key is whether a gradient is recorded.
    """
    if not no_modes_active() or internals.is_profiled():
        return None
    key, wants = [options], False
    for value in operands:
        kind = type(value)
        if kind is _Tensor or kind is _Parameter:
            try:
                place, dtype = value.data_ptr(), value.dtype
                if not place or value.is_neg() or (dtype in _COMPLEX and value.is_conj()):
                    return None
                # Kernels of a GPU load as many bytes at once as an address is a multiple of.
                on = value.is_cpu or (value.device, place & 7)
                key.append((dtype, value.shape, value.is_contiguous() or value.stride(), on))
            except RuntimeError:  # no strides, or no memory
                return None
            if value.requires_grad:
                wants = True
        elif value is None or kind is float:
            key.append(kind)
        else:
            return None
    key.append(wants and _grad_enabled())
    return tuple(key)


def is_autocast_enabled(device):
    """Return whether autocast chooses dtypes on a device: torch raises for a kind that has no autocast, as meta."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def event(name):
    """Return what a profiler shows while a kernel runs that the dispatcher does not see."""
    return torch.profiler.record_function("fastrecur::" + name) if internals.is_profiled() else _NO_EVENT


def loses_attributes():
    """Return what would lose, or take twice, what a call keeps on its module; None if nothing does."""
    if _exporting():
        return "torch.export"
    if torch.compiler.is_compiling():
        return None
    if tracing():
        return "torch.jit.trace"
    if interpreter():
        return "a transform of torch.func"
    return None if internals.backward_pass() == -1 else "the recomputation of a checkpoint"


def kernel_can_read(tensor, is_cuda=False):
    """Return whether a tensor's numbers stand in CPU memory, or a GPU's, as shape and strides say, and that is all."""
    if tensor is None:
        return True
    if type(tensor) not in PLAIN or not (tensor.is_cuda if is_cuda else tensor.is_cpu):
        return False
    try:
        return not tensor.is_neg() and not tensor.is_conj() and (tensor.data_ptr() != 0 or tensor.numel() == 0)
    except RuntimeError:  # a wrapper, of a transform that has no interpreter or is over
        return False


def operator_takes(tensors):
    """Return whether tensors may be an operator's own: those of other classes may know torch's operators alone."""
    return all(type(v) in PLAIN or (torch.compiler.is_compiling() and type(v).__name__ != "DTensor") for v in tensors)


def cpu_can_run(*tensors):
    """Return whether kernels may run on tensors on a CPU: now, or in a program that is compiled to be run here."""
    if compiling() and not _exporting():
        return all(v is None or v.is_cpu and operator_takes([v]) for v in tensors)
    return no_modes_active() and all(map(kernel_can_read, tensors))


def is_overridden(*values):
    """Return whether a tensor's own class, or a mode, overrides torch's functions."""
    return not compiling() and torch.overrides.has_torch_function([v for v in values if isinstance(v, torch.Tensor)])


def hand_over(public, operands, options):
    """Let a subclass or mode that overrides torch's functions run a public one."""
    tensors = tuple(v for v in (*operands, *options.values()) if isinstance(v, torch.Tensor))
    return torch.overrides.handle_torch_function(public, tensors, *operands, **options)

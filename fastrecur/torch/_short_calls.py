"""Calls of kinds that were seen before, run at once: what everything depends on is looked up, and nothing is checked.

All others go to `_call`, and are remembered here.
"""

import torch

from .. import _adapters, _checks
from . import _call, _eager, _tensors
from ._modes import PLAIN, event, has_memory, no_modes_active
from ._ops import NAMES
from ._torch_internals import TELLS_MODES, in_short_call, interpreter, raw_stream

_grad_enabled = torch.is_grad_enabled

# Short problems of the CPU, launches on a GPU, and problems there whose gradient is recorded; each by all that its plan
# depends on.
_shorts: dict[tuple, _eager.Problem] = {}
_shorts_on_gpu: dict = {}
_problems_on_gpu: dict = {}
_MOST_SHORTS = 1024


def _keep(kept, key, value):
    if len(kept) >= _MOST_SHORTS:
        kept.clear()
    kept[key] = value


# ---- Forward --------------------------------------------------------------------------------------------------------


def forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out):
    """Run a recurrence whose second operand is a plain tensor, at once if its kind is known."""
    key = None
    if type(return_state) is bool and (h0 is None or type(h0) in PLAIN) and lengths is None and out is None:
        # Inside a transform of torch.func, plain tensors are constants, and others have no address; in a trace of
        # torch.jit, sizes are no numbers, and are in no key.
        try:
            if in_short_call() and type(axis) is int and type(reverse) is bool and not b.is_neg():
                at_b = b.data_ptr()
                if b.is_cpu:
                    if return_state or h0 is not None:
                        pass
                    elif type(a) in PLAIN:
                        if a.is_cpu and not a.is_neg():
                            at_a = a.data_ptr()
                            key = (
                                family, axis, reverse, b.dtype, b.shape, b.is_contiguous() or b.stride(), a.dtype,
                                a.shape, a.is_contiguous() or a.stride(),
                            )  # fmt: skip
                    elif type(a) is float:
                        at_a = 0
                        key = family, axis, reverse, b.dtype, b.shape, b.is_contiguous() or b.stride()
                elif b.is_cuda:
                    key, places, wants = _key_on_gpu((family, axis, reverse, return_state), a, b, h0)
                    if wants:
                        problem = _problems_on_gpu.get(key)
                        if problem is not None and interpreter() is None:
                            return _eager.apply(a, b, h0, None, problem)
                    elif key in _shorts_on_gpu:
                        shortcut, run = _shorts_on_gpu[key]
                        given = run(shortcut, places)
                        return tuple(given) if return_state else given[0]
        except RuntimeError:  # no strides, or no memory
            pass
        short = _shorts.get(key)
        if short is not None:
            if (not b.requires_grad and (not at_a or not a.requires_grad)) or not _grad_enabled():
                return short.forward(a, b, at_a, at_b)
            if (at_a or type(a) is float) and interpreter() is None:
                return short.apply(a, b)
        if b.is_cuda and _may_go_at_once(b, (a,), (h0,)):
            return _forward_on_gpu(family, names, a, b, h0, axis, reverse, return_state, key)
    result = _call.forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out)
    if key is not None:
        _remember(key, family, a, b, h0, axis, reverse, result[0] if return_state else result, return_state)
    return result


def _remember(key, family, a, b, h0, axis, reverse, h, return_state):
    """Remember a call that was checked."""
    axis %= h.dim()
    if b.is_cpu:
        short = _eager.short(family, a, b, axis, reverse, h.dtype) if no_modes_active() else None
        if short is not None:
            _keep(_shorts, key, short)
    elif h.dtype in _tensors.FLOATING:
        engine = _eager.engine((a, b) if h0 is None else (a, b, h0), None)
        if engine is not None:
            _keep(_problems_on_gpu, key, _eager.Problem(family, axis, reverse, h.dtype, return_state, engine))


# ---- On a GPU -------------------------------------------------------------------------------------------------------


def _may_go_at_once(b, operands, states):
    """Return whether a call on a GPU needs no promotion, no gradient and no dispatcher."""
    dtype = b.dtype
    wants = b.requires_grad
    for tensor in (*operands, *(state for state in states if state is not None)):
        if type(tensor) in PLAIN:
            if (
                not tensor.is_cuda or tensor.dtype is not dtype or not tensor.dim() or tensor.is_neg()
                or not has_memory(tensor)
            ):  # fmt: skip
                return False
            wants = wants or tensor.requires_grad
        elif type(tensor) is not float:
            return False
    return (
        dtype in _tensors.FLOATING
        and b.dim() > 0
        and not b.is_neg()
        and not (wants and _grad_enabled())
        and no_modes_active()
        and has_memory(b)
    )


def _key_on_gpu(options, *operands):
    """Return what a call of CUDA tensors depends on, their addresses, and whether a gradient is recorded.

    Without a key where they are not all plain. A number stands for its address.
    """
    key, places, wants = [*options], [], False
    for operand in operands:
        if operand is None:
            key.append(None)
            places.append(0)
        elif type(operand) is float:
            key.append(float)
            places.append(operand)
        elif type(operand) in PLAIN and operand.is_cuda and not operand.is_neg():
            key += operand.get_device(), operand.dtype, operand.size(), operand.stride()
            places.append(operand.data_ptr())
            wants = wants or operand.requires_grad
        else:
            return None, None, False
    return tuple(key), places, wants and _grad_enabled()


def _forward_on_gpu(family, names, a, b, h0, axis, reverse, return_state, key):
    """Run a recurrence of CUDA tensors, and remember how."""
    from .._cuda import _recurrence

    axis, reverse = _checks.axis(axis), _checks.flag("reverse", reverse)
    return_state = _checks.flag("return_state", return_state)
    with event(NAMES[family]):
        result = _recurrence.forward(family, names, a, b, h0, axis, reverse, None, return_state, None)
    shortcut = key and _recurrence.remembered((family, axis, reverse, return_state), a, b, h0)
    if shortcut:
        _keep(_shorts_on_gpu, key, shortcut)
    return result


def _vjp_on_gpu(family, names, g, a, b, h, h0, grad_state, axis, reverse, key):
    """Run a gradient of CUDA tensors, and remember how."""
    from .._cuda import _recurrence

    axis, reverse = _checks.axis(axis), _checks.flag("reverse", reverse)
    with event(NAMES[family] + "_backward"):
        grads = _recurrence.vjp(family, names, g, a, b, h, h0, axis, reverse, None, grad_state)
    shortcut = key and _recurrence.remembered((family, axis, reverse), g, a, b, h, h0, grad_state)
    if shortcut:
        _keep(_shorts_on_gpu, key, shortcut)
    return grads


# ---- The adjoint ----------------------------------------------------------------------------------------------------


def vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state):
    """Run an adjoint whose second operand is a plain tensor, at once if its kind is known: on a GPU."""
    if (
        b.is_cuda and type(g) in PLAIN and type(h) in PLAIN and lengths is None
        and (h0 is None or type(h0) in PLAIN) and (grad_state is None or type(grad_state) in PLAIN)
    ):  # fmt: skip
        # As in `forward`.
        key = found = None
        try:
            if type(a) in PLAIN and type(axis) is int and type(reverse) is bool and in_short_call():
                key, places, wants = _key_on_gpu((family, axis, reverse), g, a, b, h, h0, grad_state)
                found = None if wants else _shorts_on_gpu.get(key)
        except RuntimeError:  # no strides, or no memory
            pass
        if found is not None:
            shortcut, run = found
            return tuple(run(shortcut, places))
        if _may_go_at_once(b, (a, g, h), (h0, grad_state)):
            return _vjp_on_gpu(family, names, g, a, b, h, h0, grad_state, axis, reverse, key)
    return _call.vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state)


_adapters.tensor_types, _adapters.raw_stream = PLAIN, raw_stream
if TELLS_MODES:
    _adapters.quick_forward, _adapters.quick_vjp = forward, vjp
else:
    _adapters.quick_forward, _adapters.quick_vjp = _call.forward, _call.vjp

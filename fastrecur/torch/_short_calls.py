"""Calls of kinds that were seen before, run at once: what everything depends on is looked up, and nothing is checked.

All others go to `_call`, and are remembered here.
"""

import torch

from .. import _adapters, _checks
from . import _call, _eager, _tensors
from ._modes import PLAIN, event, has_memory, no_modes_active
from ._ops import NAMES
from ._torch_internals import TELLS_MODES, in_short_call, interpreter

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
                    key = _key_on_gpu(family, a, b, h0, axis, reverse, return_state)
                    result = None if key is None else _known_on_gpu(key, a, b, h0, return_state)
                    if result is not None:
                        return result
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


def _key_on_gpu(family, a, b, h0, axis, reverse, return_state):
    """Return what a call of CUDA tensors depends on; None where they are not all plain."""
    if type(a) is float:
        key = family, axis, reverse, return_state, b.dtype, b.size(), b.stride(), b.get_device()
    elif type(a) in PLAIN and a.is_cuda and not a.is_neg():
        key = (
            family, axis, reverse, return_state, b.dtype, b.size(), b.stride(), b.get_device(), a.dtype, a.size(),
            a.stride(), a.get_device(),
        )  # fmt: skip
    else:
        return None
    if h0 is None:
        return key
    if not h0.is_cuda or h0.is_neg():
        return None
    return *key, "h0", h0.dtype, h0.size(), h0.stride(), h0.get_device()


def _known_on_gpu(key, a, b, h0, return_state):
    """Return the result of a call whose kind is known by ``key``; None if it is not."""
    wants = b.requires_grad or (type(a) is not float and a.requires_grad) or (h0 is not None and h0.requires_grad)
    if wants and _grad_enabled():
        problem = _problems_on_gpu.get(key)
        return None if problem is None or interpreter() is not None else _eager.apply(a, b, h0, None, problem)
    known = _shorts_on_gpu.get(key)
    if known is None:
        return None
    shortcut, run = known
    places = [a if type(a) is float else a.data_ptr(), b.data_ptr()]
    if h0 is not None:
        places.append(h0.data_ptr())
    given = run(shortcut, places)
    return tuple(given) if return_state else given[0]


def _forward_on_gpu(family, names, a, b, h0, axis, reverse, return_state, key):
    """Run a recurrence of CUDA tensors, and remember how."""
    from .._cuda import _recurrence

    axis, reverse = _checks.axis(axis), _checks.flag("reverse", reverse)
    return_state = _checks.flag("return_state", return_state)
    with event(NAMES[family]):
        result = _recurrence.forward(family, names, a, b, h0, axis, reverse, None, return_state, None)
    shortcut = key and _recurrence.remembered(family, axis, reverse, return_state, a, b, h0)
    if shortcut:
        _keep(_shorts_on_gpu, key, shortcut)
    return result


def _vjp_key_on_gpu(family, axis, reverse, operands, states):
    """Return what a gradient of CUDA tensors depends on, and their addresses; None where they are not all plain."""
    recording, key, places = _grad_enabled(), [family, axis, reverse], []
    for tensor in (*operands, *states):
        if tensor is None:
            key.append(None)
            continue
        if not tensor.is_cuda or tensor.is_neg() or (recording and tensor.requires_grad):
            return None, None
        key += tensor.get_device(), tensor.dtype, tensor.size(), tensor.stride()
        places.append(tensor.data_ptr())
    return tuple(key), places


def _vjp_on_gpu(family, names, g, a, b, h, h0, grad_state, axis, reverse, key):
    """Run a gradient of CUDA tensors, and remember how."""
    from .._cuda import _recurrence

    axis, reverse = _checks.axis(axis), _checks.flag("reverse", reverse)
    with event(NAMES[family] + "_backward"):
        grads = _recurrence.vjp(family, names, g, a, b, h, h0, axis, reverse, None, grad_state)
    shortcut = key and _recurrence.remembered_vjp(family, axis, reverse, g, a, b, h, h0, grad_state)
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
                key, places = _vjp_key_on_gpu(family, axis, reverse, (g, a, b, h), (h0, grad_state))
                found = _shorts_on_gpu.get(key)
        except RuntimeError:  # no strides, or no memory
            pass
        if found is not None:
            shortcut, run = found
            return tuple(run(shortcut, places))
        if _may_go_at_once(b, (a, g, h), (h0, grad_state)):
            return _vjp_on_gpu(family, names, g, a, b, h, h0, grad_state, axis, reverse, key)
    return _call.vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state)


_adapters.tensor_types = PLAIN
if TELLS_MODES:
    _adapters.quick_forward, _adapters.quick_vjp = forward, vjp
else:
    _adapters.quick_forward, _adapters.quick_vjp = _call.forward, _call.vjp

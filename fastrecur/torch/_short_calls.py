"""Calls of kinds that were seen before, at once: nothing is checked. All others go to `_call`, and are remembered."""

import torch

from .. import _adapters, _host
from . import _call, _eager, _tensors
from ._modes import PLAIN, no_modes_active
from ._torch_internals import TELLS_MODES, in_short_call, interpreter, raw_stream

_grad_enabled = torch.is_grad_enabled

# Short problems of the CPU, launches on a GPU, and problems there whose gradient is recorded; each by all that its plan
# depends on.
_shorts: dict[tuple, tuple] = {}
_shorts_on_gpu: dict = {}
_problems_on_gpu: dict = {}


def forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out):
    """Run a recurrence whose second operand is a plain tensor, at once if its kind is known."""
    key = None
    if type(return_state) is bool and (h0 is None or type(h0) in PLAIN) and lengths is None and out is None:
        # Inside a transform of torch.func, plain tensors are constants, and others have no address; in a trace of
        # torch.jit, sizes are no numbers, and are in no key.
        try:
            if in_short_call() and type(axis) is int and type(reverse) is bool and not b.is_neg():
                at_b = b.data_ptr()
                if b.is_cpu and not return_state and h0 is None:
                    form = family, axis, reverse, b.dtype, b.shape, b.is_contiguous() or b.stride()
                    if type(a) is float:
                        key, at_a = form, 0
                    elif type(a) in PLAIN and a.is_cpu and not a.is_neg():
                        key, at_a = (*form, a.dtype, a.shape, a.is_contiguous() or a.stride()), a.data_ptr()
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
                return short[0](a, b, at_a, at_b)
            if (at_a or type(a) is float) and interpreter() is None:
                return short[1](a, b)
    result = _call.forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out)
    if key is not None:
        _remember(key, family, a, b, h0, axis, reverse, result[0] if return_state else result, return_state)
    return result


def _remember(key, family, a, b, h0, axis, reverse, h, return_state):
    axis %= h.dim()
    if b.is_cpu:
        short = _eager.short(family, a, b, axis, reverse, h.dtype) if no_modes_active() else None
        if short is not None:
            _host.keep(_shorts, key, short)
    elif h.dtype is b.dtype and h.dtype in _tensors.FLOATING:  # or torch's default dtype might be in it
        if h.requires_grad:
            engine = _eager.engine((a, b) if h0 is None else (a, b, h0), None)
            if engine is not None:
                _host.keep(_problems_on_gpu, key, (family, axis, reverse, h.dtype, return_state, engine))
        else:
            from .._cuda import _recurrence

            own = _tensors.DTYPES[h.dtype]
            shortcut = _recurrence.remembered((family, axis, reverse, return_state, own), a, b, h0)
            if shortcut:
                _host.keep(_shorts_on_gpu, key, shortcut)


def _key_on_gpu(options, *operands):
    """Return what a call of CUDA tensors depends on, their addresses, and whether a gradient is recorded."""
    # Without a key where they are not all plain. A number stands for its address.
    key, places, wants = [*options], [], False
    for operand in operands:
        if operand is None:
            key.append(None)
            places.append(0)
        elif type(operand) is float:
            key.append(float)
            places.append(operand)
        elif type(operand) in PLAIN and operand.is_cuda and not operand.is_neg():
            place = operand.data_ptr()
            # Whether it is a multiple of a number's size was found out for addresses that end alike.
            key += operand.get_device(), operand.dtype, operand.size(), operand.stride(), place & 7
            places.append(place)
            wants = wants or operand.requires_grad
        else:
            return None, None, False
    return tuple(key), places, wants and _grad_enabled()


def vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state):
    """Run an adjoint whose second operand is a plain tensor, at once if its kind is known: on a GPU."""
    key, operands = None, (g, a, b, h, h0, grad_state)
    if b.is_cuda and lengths is None and all(v is None or type(v) in PLAIN for v in operands):
        try:  # as in `forward`
            if type(axis) is int and type(reverse) is bool and in_short_call():
                key, places, wants = _key_on_gpu((family, axis, reverse), *operands)
                key = None if wants else key
                if key in _shorts_on_gpu:
                    shortcut, run = _shorts_on_gpu[key]
                    return tuple(run(shortcut, places))
        except RuntimeError:  # no strides, or no memory
            pass
    grads = _call.vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state)
    if key is not None and all(v is None or v.dtype is b.dtype for v in operands):
        from .._cuda import _recurrence

        axis %= max(a.dim(), b.dim())
        shortcut = _recurrence.remembered((family, axis, reverse, _tensors.DTYPES[b.dtype]), *operands)
        if shortcut:
            _host.keep(_shorts_on_gpu, key, shortcut)
    return grads


_adapters.tensor_types, _adapters.raw_stream = PLAIN, raw_stream
_adapters.quick_forward, _adapters.quick_vjp = (forward, vjp) if TELLS_MODES else (_call.forward, _call.vjp)

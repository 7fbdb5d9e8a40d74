"""Calls of kinds that were seen before, at once: nothing is checked. All others go to `call`, and are remembered."""

import torch

from ..._arguments import adapters
from ..._cpu import host
from . import call as _call, eager, tensors
from .internals import raw_stream
from .modes import PLAIN, key_of

# What runs a call, by its `key_of`: a kernel of the CPU, launches on a GPU, or an autograd function.
_known: dict = {}


def forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out):
    """Run a recurrence whose second operand is a plain tensor, at once if its kind is known."""
    key = None
    if out is None and type(axis) is int and type(reverse) is type(return_state) is bool:
        if lengths is None:
            key = key_of((family, axis, reverse, return_state), a, b, h0)
        elif b.is_cpu and type(lengths) in PLAIN:
            key = key_of((family, axis, reverse, return_state), a, b, h0, lengths)
        run = None if key is None else _known.get(key)  # a compiler that looked into `_known` would guard its length
        if run is not None:
            if lengths is not None:
                return run(a, b, h0, lengths)
            return run(a, b) if h0 is None else run(a, b, h0)
    result = _call.forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out)
    if key is not None:
        run = _runner(family, a, b, h0, lengths, axis, reverse, result[0] if return_state else result, return_state)
        if run is not None:
            host.keep(_known, key, run)
    return result


def _runner(family, a, b, h0, lengths, axis, reverse, h, return_state):
    """Return what runs a call like one whose states are ``h``; None if its kind is not remembered."""
    axis, dtype, short = axis % h.dim(), h.dtype, None
    runs = eager.engine([v for v in (a, b, h0) if isinstance(v, torch.Tensor)], lengths)
    if runs is None or dtype not in tensors.FLOATING:  # complex numbers with a real gate are run as pairs
        return None
    if runs is tensors:
        if b.dtype in tensors.INTEGERS and (tensors.is_number(a) or a.dtype in tensors.INTEGERS):
            return None  # torch's default dtype is in no key
        short = tensors.short_forward(family, a, b, h0, lengths, axis, reverse, dtype, return_state)
    elif dtype is not b.dtype:
        return None
    elif not h.requires_grad:
        return _launcher((family, axis, reverse, return_state, tensors.DTYPES[dtype]), return_state, a, b, h0)
    kind = eager.Call(runs, family, axis, reverse, dtype, return_state, (a, b, h0), short)
    return kind.record if h.requires_grad else kind.run


def _launcher(options, gives_all, *operands):
    """Return what launches a call like one on a GPU, of its operands, if it is remembered there."""
    from ..._cuda import call as _recurrence

    shortcut, count = _recurrence.remembered(options, *operands), len(operands)
    if shortcut is None:
        return None

    def run(*given):  # without a first state that is None
        places = [0 if v is None else v if type(v) is float else v.data_ptr() for v in given]
        places += [0] * (count - len(given))
        given = _recurrence.take_shortcut(shortcut, places)
        return tuple(given) if gives_all else given[0]

    return run


def vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state):
    """Run an adjoint whose second operand is a plain tensor, at once if its kind is known: on a GPU."""
    key, operands = None, (g, a, b, h, h0, grad_state)
    if b.is_cuda and lengths is None and type(axis) is int and type(reverse) is bool:
        key = key_of((family, axis, reverse), *operands)
        run = None if key is None else _known.get(key)
        if run is not None:
            return run(*operands)
    grads = _call.vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state)
    if key is not None and not key[-1] and all(v is None or getattr(v, "dtype", None) is b.dtype for v in operands):
        axis %= max(a.dim(), b.dim())
        run = _launcher((family, axis, reverse, tensors.DTYPES[b.dtype]), True, *operands)
        if run is not None:
            host.keep(_known, key, run)
    return grads


adapters.tensor_types, adapters.raw_stream = PLAIN, raw_stream
adapters.quick_forward, adapters.quick_vjp = forward, vjp

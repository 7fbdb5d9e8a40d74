"""A call with tensors, from its arguments to its result: check, choose the way, run.

There are three ways. Plain tensors, of the CPU or of a GPU, that want no gradient are run at once, by their addresses.
Those that want one go through the autograd functions of `_eager`, which do the same. Whatever else torch has in play (a
transform, a mode, a subclass, the compiler, tangents) goes through torch's dispatcher: `_autograd.forward`.
"""

import torch
from torch.autograd import forward_ad as _forward_ad

from .. import _adapters, _checks
from .. import _messages as say
from . import _arguments, _autograd, _eager, _tensors
from ._arguments import as_tensor, is_complex
from ._modes import (
    PLAIN,
    compiling,
    dispatch_modes,
    function_modes,
    has_memory,
    interpreter,
    is_overridden,
    kernel_can_read,
    no_modes_active,
)

_is_number = _tensors.is_number
_grad_enabled = torch.is_grad_enabled

# Calls of kinds seen before, by everything that a plan depends on: short problems of the CPU, launches on a GPU, and
# problems there whose gradient is recorded.
_shorts: dict[tuple, _eager.Problem] = {}
_shorts_on_gpu: dict = {}
_problems_on_gpu: dict = {}
_MOST_SHORTS = 1024


def _keep(kept, key, value):
    if len(kept) >= _MOST_SHORTS:
        kept.clear()
    kept[key] = value


# ---- Forward --------------------------------------------------------------------------------------------------------


def quick_forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out):
    """Run a recurrence whose second operand is a plain tensor, at once if its kind is known."""
    key = None
    if type(return_state) is bool and (h0 is None or type(h0) in PLAIN) and lengths is None and out is None:
        # What follows is `no_modes_active` and `kernel_can_read`, written out: a call on 16 elements has no time for
        # calls. Inside a transform of torch.func, plain tensors are constants, and others have no address; in a trace
        # of torch.jit, sizes are no numbers, and are in no key.
        try:
            if not (
                compiling() or dispatch_modes() or function_modes() or _forward_ad._current_level >= 0 or b.is_neg()
                or type(axis) is not int or type(reverse) is not bool
            ):  # fmt: skip
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
    return _forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out, key)


def forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out):
    """Run a recurrence; ``names`` are what the caller calls the operands."""
    return _forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out, None)


def _forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out, key):
    """Run a recurrence, and remember it by ``key``."""
    if type(b) in PLAIN and b.is_cuda and lengths is None and out is None and _may_go_at_once(b, (a,), (h0,)):
        return _forward_on_gpu(family, names, a, b, h0, axis, reverse, return_state, key)
    if is_overridden(a, b, h0, lengths, out):
        options = dict(axis=axis, reverse=reverse, lengths=lengths, return_state=return_state, out=out)
        return _overridden(_adapters.public[family][0], (a, b, h0), options)
    a, b, h0, out = _arguments.take((*names, "out"), a, b, h0, out)
    axis, reverse = _checks.axis(axis), _checks.flag("reverse", reverse)
    return_state = _checks.flag("return_state", return_state)
    _arguments.check_gate(family, names[0], a)
    dtype = _arguments.result_dtype(names, a, b, h0)
    shape, axis = _arguments.shape_and_axis(names[:2], a, b, axis)
    lengths = _arguments.lengths(lengths, shape, axis, (a, b))
    _arguments.check_state("h0", h0, shape, axis)
    if out is not None:
        _arguments.check_out(out, shape, dtype, ((names[0], a), (names[1], b), ("h0", h0)))
    if dtype.is_complex and not is_complex(a):
        h, h_last = _forward_pairs(family, a, b, h0, axis, reverse, lengths, dtype)
    elif out is not None and no_modes_active() and all(
        kernel_can_read(v) for v in (a, b, h0, lengths, out) if not _is_number(v)
    ):  # fmt: skip
        _arguments.check_overlap(out, ((names[0], a), (names[1], b)))
        _, h_last = _tensors.forward(family, a, b, h0, lengths, axis, reverse, dtype, return_state, out)
        if not out.is_inference():
            torch.autograd.graph.increment_version(out)
        return (out, h_last) if return_state else out
    else:
        h, h_last = _run_forward(family, a, b, h0, lengths, axis, reverse, dtype, return_state)
        if key is not None:
            _remember(key, family, a, b, h0, axis, reverse, dtype, return_state)
    if out is not None:
        h = out.copy_(h)
    return (h, h_last) if return_state else h


def _remember(key, family, a, b, h0, axis, reverse, dtype, return_state):
    """Remember a call that was checked."""
    if b.is_cpu:
        short = _eager.short(family, a, b, axis, reverse, dtype)
        if short is not None:
            _keep(_shorts, key, short)
    elif dtype in _tensors.FLOATING:
        engine = _eager.engine((a, b) if h0 is None else (a, b, h0), None)
        if engine is not None:
            _keep(_problems_on_gpu, key, _eager.Problem(family, axis, reverse, dtype, return_state, engine))


def _run_forward(family, a, b, h0, lengths, axis, reverse, dtype, return_state):
    tensors = [v for v in (a, b, h0) if isinstance(v, torch.Tensor)]
    engine = _eager.engine(tensors, lengths)
    if engine is None:
        a, b, h0 = (as_tensor(v, tensors[0]) for v in (a, b, h0))
        return _autograd.forward(family, a, b, h0, lengths, axis, reverse, dtype)
    if not _grad_enabled() or not any(v.requires_grad for v in tensors):
        return engine.forward(family, a, b, h0, lengths, axis, reverse, dtype, return_state)
    result = _eager.apply(a, b, h0, lengths, _eager.Problem(family, axis, reverse, dtype, return_state, engine))
    return result if return_state else (result, None)


def _forward_pairs(family, a, b, h0, axis, reverse, lengths, dtype):
    """Run a complex series whose gate is real: two real series."""
    pairs = [None if v is None else _arguments.pair(v, dtype, a, b) for v in (b, h0)]
    a = a if _is_number(a) else a.unsqueeze(-1)
    if lengths is not None and lengths.dim() == 0:
        lengths = lengths.expand(2)
    real = _tensors.REAL[dtype]
    h, h_last = _run_forward(family, a, *pairs, lengths, axis, reverse, real, True)
    return _arguments.joined(h), None if h_last is None else _arguments.joined(h_last)


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
    grads = _recurrence.vjp(family, names, g, a, b, h, h0, axis, reverse, None, grad_state)
    shortcut = key and _recurrence.remembered_vjp(family, axis, reverse, g, a, b, h, h0, grad_state)
    if shortcut:
        _keep(_shorts_on_gpu, key, shortcut)
    return grads


# ---- The adjoint ----------------------------------------------------------------------------------------------------


def quick_vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state):
    """Run an adjoint whose second operand is a plain tensor, at once if its kind is known: on a GPU."""
    if (
        b.is_cuda and type(g) in PLAIN and type(h) in PLAIN and lengths is None
        and (h0 is None or type(h0) in PLAIN) and (grad_state is None or type(grad_state) in PLAIN)
    ):  # fmt: skip
        # As in `quick_forward`.
        key = found = None
        try:
            if not (
                type(a) not in PLAIN or type(axis) is not int or type(reverse) is not bool
                or compiling() or dispatch_modes() or function_modes() or _forward_ad._current_level >= 0
            ):  # fmt: skip
                key, places = _vjp_key_on_gpu(family, axis, reverse, (g, a, b, h), (h0, grad_state))
                found = _shorts_on_gpu.get(key)
        except RuntimeError:  # no strides, or no memory
            pass
        if found is not None:
            shortcut, run = found
            return tuple(run(shortcut, places))
        if _may_go_at_once(b, (a, g, h), (h0, grad_state)):
            return _vjp_on_gpu(family, names, g, a, b, h, h0, grad_state, axis, reverse, key)
    return vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state)


def vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state):
    """Run a recurrence's adjoint; ``names`` are what the caller calls ``g, a, b, h``."""
    if is_overridden(g, a, b, h, h0, lengths, grad_state):
        options = dict(axis=axis, reverse=reverse, lengths=lengths, grad_state=grad_state)
        return _overridden(_adapters.public[family][1], (g, a, b, h, h0), options)
    g, a, b, h, h0, grad_state = _arguments.take((*names, "h0", "grad_state"), g, a, b, h, h0, grad_state)
    axis, reverse = _checks.axis(axis), _checks.flag("reverse", reverse)
    _arguments.check_gate(family, names[1], a)
    own = _arguments.result_dtype((*names[1:3], "h0"), a, b, h0)
    dtype = _arguments.result_dtype((*names, "h0", "grad_state"), g, a, b, h, h0, grad_state)
    for name, value in ((names[0], g), (names[3], h), ("grad_state", grad_state)):
        if value is not None and is_complex(value) and not own.is_complex:
            raise TypeError(say.complex_of_real(name, "complex" if _is_number(value) else value.dtype))
    shape, axis = _arguments.shape_and_axis(names[1:3], a, b, axis)
    lengths = _arguments.lengths(lengths, shape, axis, (a, b))
    _arguments.check_state("h0", h0, shape, axis)
    _arguments.check_state("grad_state", grad_state, shape, axis)
    for name, value in ((names[0], g), (names[3], h)):
        if not _arguments.fits(() if _is_number(value) else value.shape, shape):
            raise ValueError(say.operand_shape(name, value.shape, shape))
    operands = a, b, h0
    if dtype.is_complex and not is_complex(a):
        grads = _vjp_pairs(family, g, a, b, h, h0, axis, reverse, lengths, grad_state, dtype)
    else:
        grads = _run_vjp(family, g, a, b, h, h0, grad_state, lengths, axis, reverse, dtype, shape)
    return tuple(
        None if operand is None else grad.to(_tensors.gradient_dtype(operand, own))
        for grad, operand in zip(grads, operands, strict=True)
    )


def _run_vjp(family, g, a, b, h, h0, grad_state, lengths, axis, reverse, dtype, shape):
    wanted = True, True, h0 is not None
    tensors = [v for v in (g, a, b, h, h0, grad_state) if isinstance(v, torch.Tensor)]
    engine = _eager.engine(tensors, lengths)
    if engine is not None and not (_grad_enabled() and any(v.requires_grad for v in tensors)):
        return engine.vjp(family, g, a, b, h, h0, grad_state, lengths, axis, reverse, dtype, wanted)
    g, a, b, h, h0, grad_state = (as_tensor(v, tensors[0]) for v in (g, a, b, h, h0, grad_state))
    g, h = g.expand(shape), h.expand(shape)
    return _autograd.vjp(family, g, a, b, h, h0, grad_state, lengths, axis, reverse, dtype, *wanted)


def _vjp_pairs(family, g, a, b, h, h0, axis, reverse, lengths, grad_state, dtype):
    pairs = [None if v is None else _arguments.pair(v, dtype, a, b) for v in (g, b, h, h0, grad_state)]
    gate = a if _is_number(a) else a.unsqueeze(-1)
    if lengths is not None and lengths.dim() == 0:
        lengths = lengths.expand(2)
    g, pair_b, h, pair_h0, grad_state = pairs
    shape = torch.broadcast_shapes(() if _is_number(gate) else gate.shape, pair_b.shape)
    grads = _run_vjp(
        family, g, gate, pair_b, h, pair_h0, grad_state, lengths, axis, reverse, _tensors.REAL[dtype], shape
    )
    joined = [None if v is None else _arguments.joined(grad) for grad, v in zip(grads[1:], (b, h0), strict=True)]
    grad_b, grad_h0 = (
        grad if v is None or is_complex(v) else grad.real for grad, v in zip(joined, (b, h0), strict=True)
    )
    return grads[0] if _is_number(a) else grads[0].squeeze(-1), grad_b, grad_h0


def _overridden(public, operands, options):
    """Hand a call over to a subclass or mode that overrides torch's functions."""
    tensors = tuple(v for v in (*operands, *options.values()) if isinstance(v, torch.Tensor))
    return torch.overrides.handle_torch_function(public, tensors, *operands, **options)


_adapters.tensor_types, _adapters.quick_forward, _adapters.quick_vjp = PLAIN, quick_forward, quick_vjp

"""Eager calls: what runs plain tensors by their addresses, and the autograd functions of those that want a gradient."""

import torch
from torch.autograd import Function

from .._checks import Segments
from . import _tensors
from ._arguments import as_tensor
from ._autograd import recorded_vjp
from ._modes import PLAIN, event, kernel_can_read, no_modes_active
from ._ops import NAMES
from ._torch_internals import in_short_gradient

_is_number, reads = _tensors.is_number, _tensors.reads
_grad_enabled = torch.is_grad_enabled


def engine(tensors, lengths):
    """Return what runs tensors by their addresses; None where the dispatcher must have them."""
    if not no_modes_active() or not kernel_can_read(lengths) and not kernel_can_read(lengths, is_cuda=True):
        return None
    if all(map(kernel_can_read, tensors)):
        return _tensors if lengths is None or lengths.is_cpu else None
    if all(kernel_can_read(v, is_cuda=True) or (kernel_can_read(v) and not v.dim()) for v in tensors):
        from . import _device_tensors

        return _device_tensors
    return None


def gradients(problem, wanted, g, a, b, h, h0=None, grad_last=None, lengths=None):
    """Return the gradients of a, b and h0 that are wanted, by addresses if that may be; b may be its form."""
    family, axis, reverse, dtype, *_ = problem
    tensors = [v for v in (g, a, b, h, h0, grad_last) if isinstance(v, torch.Tensor)]
    runs = None
    if type(lengths) is not Segments and not (_grad_enabled() and any(v.requires_grad for v in tensors)):
        runs = engine(tensors, lengths)
    if runs is not None:
        with event(NAMES[family] + "_backward"):
            return runs.vjp(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, wanted)
    g, a, b, h, h0, grad_last = (as_tensor(v, tensors[0]) for v in (g, a, b, h, h0, grad_last))
    return recorded_vjp(problem[:4], g, a, b, h, h0, grad_last, lengths, wanted)


class Eager(Function):
    """A recurrence of plain tensors by their addresses; a gradient of its gradient goes through `_autograd.vjp`."""

    @staticmethod
    def forward(ctx, a, b, h0, lengths, problem):
        """Run the recurrence; keep what the gradients that are wanted read, and nothing else."""
        # The problem is family, axis, reverse, dtype, return_state and engine.
        family, axis, reverse, dtype, return_state, runs = problem
        with event(NAMES[family]):
            h, h_last = runs.forward(family, a, b, h0, lengths, axis, reverse, dtype, return_state)
        ctx.problem, ctx.numbers = problem, None
        ctx.b_form = b if _is_number(b) else _tensors.form(b)
        if _is_number(a) or _is_number(b) or _is_number(h0):
            ctx.numbers = tuple(v if _is_number(v) else None for v in (a, b, h0))
            a, b, h0 = (None if _is_number(v) else v for v in (a, b, h0))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*_tensors.to_save(family, ctx.needs_input_grad[:3], a, b, h, h0, lengths))
        return (h, h_last) if return_state else h

    @staticmethod
    def backward(ctx, grad_h, grad_last=None):
        if grad_h is None and grad_last is None:
            return (None,) * 5
        a, b, h, h0, lengths = ctx.saved_tensors
        if ctx.numbers is not None:
            a, b, h0 = (v if number is None else number for v, number in zip((a, b, h0), ctx.numbers, strict=True))
        b = ctx.b_form if b is None else b
        grads = gradients(ctx.problem, ctx.needs_input_grad[:3], grad_h, a, b, h, h0, grad_last, lengths)
        return *grads, None, None


apply = super(Function, Eager).apply  # Function.apply itself looks for transforms, which are not there


def short(family, a, b, axis, reverse, dtype):
    """Return what runs a short call of a and b, and others of its kind, without a gradient and with; or None."""
    # They are two tensors whose forms are known, or a number and one.
    if dtype.is_complex:  # or a conjugate would not be told from what it is made of
        return None
    if b.dtype in _tensors.INTEGERS and (_is_number(a) or a.dtype in _tensors.INTEGERS):
        return None  # torch's default dtype is in no key
    run_forward = _tensors.short_forward(family, a, b, axis, reverse, dtype)
    if run_forward is None:
        return None
    problem, number, vjps = (family, axis, reverse, dtype, False, _tensors), _is_number(a), {}

    class Short(Function):  # a class of each problem's own: what it knows need not be told in every call
        @staticmethod
        def forward(ctx, a, b):
            h = run_forward(a, b, 0 if number else a.data_ptr(), b.data_ptr())
            ctx.set_materialize_grads(False)
            needs_b, needs_h = reads(family, ctx.needs_input_grad)
            if number:
                ctx.number, a = a, None
            if not needs_b:
                ctx.b_form = _tensors.form(b)
            ctx.save_for_backward(a, b if needs_b else None, h if needs_h else None)
            return h

        @staticmethod
        def backward(ctx, g):
            if g is None:
                return None, None
            a, b, h = ctx.saved_tensors
            if number:
                a = ctx.number
            if not _grad_enabled() and type(g) in PLAIN and g.is_cpu and in_short_gradient():
                try:
                    # Hooks may have changed what was saved, so nothing is taken for granted but dtypes and shapes.
                    key = (
                        ctx.needs_input_grad, g.stride(), number or a.is_contiguous() or a.stride(),
                        h is None or h.is_contiguous() or h.stride(), b is None or b.is_contiguous() or b.stride(),
                    )  # fmt: skip
                    run = vjps.get(key)
                    if run is not None and not g.is_neg():
                        return run(g, a, b, h)
                    b = ctx.b_form if b is None else b
                    if key not in vjps and engine([v for v in (g, a, b, h) if isinstance(v, torch.Tensor)], None):
                        vjps[key] = _tensors.short_vjp(family, g, a, b, h, axis, reverse, dtype, key[0])
                except RuntimeError:  # no strides, or no memory
                    pass
            return gradients(problem, (*ctx.needs_input_grad, False), g, a, ctx.b_form if b is None else b, h)[:2]

    return run_forward, super(Function, Short).apply  # as `apply` above

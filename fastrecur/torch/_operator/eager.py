"""Eager calls: what runs plain tensors by their addresses, and the autograd function of those that want a gradient."""

import torch
from torch.autograd import Function

from ..._arguments.checks import Segments
from ..._cpu import host
from . import tensors as _tensors
from .arguments import as_tensor
from .modes import event, kernel_can_read, key_of, no_modes_active
from .ops import NAMES, recorded_vjp

_grad_enabled = torch.is_grad_enabled


def engine(tensors, lengths):
    """Return what runs tensors by their addresses; None where the dispatcher must have them."""
    if not no_modes_active() or not kernel_can_read(lengths) and not kernel_can_read(lengths, is_cuda=True):
        return None
    if all(map(kernel_can_read, tensors)):
        return _tensors if lengths is None or lengths.is_cpu else None
    if all(kernel_can_read(v, is_cuda=True) or (kernel_can_read(v) and not v.dim()) for v in tensors):
        from . import device_tensors

        return device_tensors
    return None


def gradients(problem, wanted, g, a, b, h, h0=None, grad_last=None, lengths=None):
    """Return the gradients of a, b and h0 that are wanted, by addresses if that may be; b may be its form."""
    family, axis, reverse, dtype = problem
    tensors = [v for v in (g, a, b, h, h0, grad_last) if isinstance(v, torch.Tensor)]
    runs = None
    if type(lengths) is not Segments and not (_grad_enabled() and any(v.requires_grad for v in tensors)):
        runs = engine(tensors, lengths)
    if runs is not None:
        with event(NAMES[family] + "_backward"):
            return runs.vjp(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, wanted)
    g, a, b, h, h0, grad_last = (as_tensor(v, tensors[0]) for v in (g, a, b, h, h0, grad_last))
    return recorded_vjp(problem, g, a, b, h, h0, grad_last, lengths, wanted)


class Call:
    """A kind of call: what runs those like it, of a, b, h0 and lengths, and what is known of their gradients."""

    def __init__(self, runs, family, axis, reverse, dtype, return_state, operands, run=None):
        self.problem, self.return_state = (family, axis, reverse, dtype), return_state
        self.are_numbers = [_tensors.is_number(v) for v in operands]  # of a, b and h0
        self.vjps = None if run is None else {}  # of short calls, by what they depend on
        self.run = run or self._run
        self._runs = runs

    def _run(self, a, b, h0=None, lengths=None):
        with event(NAMES[self.problem[0]]):
            family, *options = self.problem
            h, last = self._runs.forward(family, a, b, h0, lengths, *options, self.return_state)
        return (h, last) if self.return_state else h

    def record(self, a, b, h0=None, lengths=None):
        """Run a call, and record its gradient."""
        return _apply(a, b, h0, lengths, self)

    def short_vjp(self, key, wanted, g, a, b, h):
        """Return what runs the gradient of a short call, and remember it; None if it is not short, or not on a CPU."""
        family, *options = self.problem
        on_cpu = all(v.is_cpu for v in (g, a, h) if isinstance(v, torch.Tensor))
        run = _tensors.short_vjp(family, g, a, b, h, *options, wanted) if on_cpu else None
        host.keep(self.vjps, key, run)
        return run


class _Eager(Function):
    """A recurrence of plain tensors by their addresses; a gradient of its gradient goes through the dispatcher."""

    @staticmethod
    def forward(ctx, a, b, h0, lengths, call):
        """Run the recurrence; keep what the gradients that are wanted read, and nothing else."""
        ctx.call, needs, (a_is_number, b_is_number, h0_is_number) = call, ctx.needs_input_grad, call.are_numbers
        result = call.run(a, b, h0, lengths)
        needs_b, needs_h = _tensors.reads(call.problem[0], needs)
        if a_is_number:
            ctx.a, a = a, None
        if b_is_number:
            ctx.b, b = b, None
        elif not needs_b:
            ctx.b, b = _tensors.form(b), None
        if h0_is_number:
            ctx.h0, h0 = h0, None
        h = None if not needs_h else result[0] if call.return_state else result
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(a, b, h, h0 if needs_h or needs[2] else None, lengths)
        return result

    @staticmethod
    def backward(ctx, g, grad_last=None):
        if g is None and grad_last is None:
            return (None,) * 5
        (a, b, h, h0, lengths), call, wanted = ctx.saved_tensors, ctx.call, ctx.needs_input_grad[:3]
        a_is_number, _, h0_is_number = call.are_numbers
        a, b_or_form, h0 = ctx.a if a_is_number else a, ctx.b if b is None else b, ctx.h0 if h0_is_number else h0
        if call.vjps is not None and h0 is lengths is grad_last is None and not _grad_enabled():
            key = key_of(wanted, g, a, b, h)  # hooks may have changed all of what was saved
            run = None if key is None else call.vjps.get(key, call)
            if run is call:
                run = call.short_vjp(key, wanted, g, a, b_or_form, h)
            if run is not None:
                return *run(g, a, b, h), None, None, None
        return *gradients(call.problem, wanted, g, a, b_or_form, h, h0, grad_last, lengths), None, None


_apply = super(Function, _Eager).apply  # Function.apply itself looks for transforms, which are not there

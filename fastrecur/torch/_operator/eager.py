"""Eager calls: what runs plain tensors by their addresses, and the autograd functions of those that want a gradient."""

from collections import namedtuple

import torch
from torch.autograd import Function

from ..._arguments.checks import Segments
from ..._cpu import host
from . import tensors as _tensors
from .arguments import as_tensor
from .modes import event, kernel_can_read, key_of, no_modes_active
from .ops import NAMES, recorded_vjp

_is_number, reads = _tensors.is_number, _tensors.reads
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
    """A recurrence of plain tensors by their addresses; a gradient of its gradient goes through `autograd.vjp`."""

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


# What an autograd function runs in place of `tensors` where it is known.
_Short = namedtuple("_Short", "forward")


def short(family, a, b, h0, lengths, axis, reverse, dtype, return_state, is_recorded):
    """Return what runs a short call of a, b, h0 and lengths, and others of its kind; or None.

    Whether its gradient is recorded is part of its kind. Without h0 and lengths, what is returned takes neither.
    """
    # They are two tensors whose forms are known, or a number and one.
    if dtype.is_complex or (lengths is not None and not lengths.is_cpu):  # with a real gate it is run as pairs
        return None
    if b.dtype in _tensors.INTEGERS and (_is_number(a) or a.dtype in _tensors.INTEGERS):
        return None  # torch's default dtype is in no key
    run = _tensors.short_forward(family, a, b, h0, lengths, axis, reverse, dtype, return_state)
    if run is None or not is_recorded:
        return run
    if h0 is None and lengths is None and not return_state:
        return _recorded(run, family, _is_number(a), axis, reverse, dtype)

    def known(family, a, b, h0, lengths, *options):
        return run(a, b, h0, lengths) if return_state else (run(a, b, h0, lengths), None)

    problem = family, axis, reverse, dtype, return_state, _Short(known)
    return lambda a, b, h0=None, lengths=None: apply(a, b, h0, lengths, problem)


def _recorded(run_forward, family, number, axis, reverse, dtype):
    """Return what runs a short call and records its gradient; whether ``a`` is a number is known."""
    problem, vjps = (family, axis, reverse, dtype, False, _tensors), {}

    class Short(Function):  # a class of each problem's own: what it knows need not be told in every call
        @staticmethod
        def forward(ctx, a, b):
            h = run_forward(a, b)
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
            a = ctx.number if number else a
            # Hooks may have changed all of what was saved.
            key = None if _grad_enabled() else key_of(ctx.needs_input_grad, g, a, b, h)
            run = vjps.get(key)
            if run is not None:
                return run(g, a, b, h)
            b = ctx.b_form if b is None else b
            if key is not None and key not in vjps:
                on_cpu = all(v.is_cpu for v in (g, a, b, h) if isinstance(v, torch.Tensor))
                to = (family, g, a, b, h, axis, reverse, dtype, ctx.needs_input_grad)
                host.keep(vjps, key, _tensors.short_vjp(*to) if on_cpu else None)
            return gradients(problem, (*ctx.needs_input_grad, False), g, a, b, h)[:2]

    return super(Function, Short).apply  # as `apply` above

"""Eager calls: what runs plain tensors by their addresses, and the autograd functions of those that want a gradient."""

import torch
from torch.autograd import Function

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


class Problem:
    """What `Eager` is told beside operands; of a short problem also how to run it."""

    __slots__ = ("apply", "axis", "dtype", "engine", "family", "forward", "key", "return_state", "reverse", "vjps")

    def __init__(self, family, axis, reverse, dtype, return_state, engine=_tensors):
        self.family, self.axis, self.reverse, self.dtype = family, axis, reverse, dtype
        self.return_state, self.engine = return_state, engine
        self.key = family, axis, reverse, dtype
        self.forward, self.apply, self.vjps = None, None, {}

    def vjp(self, key, g, a, b, h):
        """Return how to run the gradient of a short problem, for more of its kind; None if that is not short."""
        wanted = key[0]
        run = _tensors.short_vjp(self.family, g, a, b, h, self.axis, self.reverse, self.dtype, wanted)
        self.vjps[key] = run
        return run


class Eager(Function):
    """A recurrence of plain tensors by their addresses; a gradient of its gradient goes through `_autograd.vjp`."""

    @staticmethod
    def forward(ctx, a, b, h0, lengths, problem):
        """Run the recurrence; keep what the gradients that are wanted read, and nothing else."""
        family = problem.family
        with event(NAMES[family]):
            h, h_last = problem.engine.forward(
                family, a, b, h0, lengths, problem.axis, problem.reverse, problem.dtype, problem.return_state
            )
        ctx.problem, ctx.numbers = problem, None
        ctx.b_form = b if _is_number(b) else _tensors.Form(b)
        if _is_number(a) or _is_number(b) or _is_number(h0):
            ctx.numbers = tuple(v if _is_number(v) else None for v in (a, b, h0))
            a, b, h0 = (None if _is_number(v) else v for v in (a, b, h0))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*_tensors.to_save(family, ctx.needs_input_grad[:3], a, b, h, h0, lengths))
        return (h, h_last) if problem.return_state else h

    @staticmethod
    def backward(ctx, grad_h, grad_last=None):
        """Return the gradients of a, b and h0."""
        wanted = ctx.needs_input_grad[:3]
        if grad_h is None and grad_last is None:
            return (None,) * 5
        a, b, h, h0, lengths = ctx.saved_tensors
        problem = ctx.problem
        family, axis, reverse, dtype = problem.family, problem.axis, problem.reverse, problem.dtype
        if ctx.numbers is not None:
            a, b, h0 = (v if number is None else number for v, number in zip((a, b, h0), ctx.numbers, strict=True))
        tensors = [v for v in (grad_h, a, b, h, h0, grad_last) if isinstance(v, torch.Tensor)]
        runs = None
        if not (_grad_enabled() and any(v.requires_grad for v in tensors)):
            runs = engine(tensors, lengths)
        if runs is not None:
            b = ctx.b_form if b is None else b
            with event(NAMES[family] + "_backward"):
                grads = runs.vjp(family, grad_h, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, wanted)
            return *grads, None, None
        a, b, h0 = (as_tensor(v, tensors[0]) for v in (a, b, h0))
        form = None if b is not None else (ctx.b_form.shape, ctx.b_form.dtype)
        grads = recorded_vjp(problem.key, grad_h, a, b, h, h0, grad_last, lengths, form, wanted)
        return *grads, None, None


apply = super(Function, Eager).apply  # Function.apply itself looks for transforms, which are not there


# ---- Short problems -------------------------------------------------------------------------------------------------


def short(family, a, b, axis, reverse, dtype):
    """Return a short problem that runs a call of a and b, and more of its kind; None if it is none."""
    if dtype.is_complex:  # or a conjugate would not be told from what it is made of
        return None
    if b.dtype in _tensors.INTEGERS and (_is_number(a) or a.dtype in _tensors.INTEGERS):
        return None  # torch's default dtype is in no key
    problem = Problem(family, axis, reverse, dtype, False)
    problem.forward = _tensors.short_forward(family, a, b, axis, reverse, dtype)
    if problem.forward is None:
        return None
    problem.apply = _short_function(problem, _is_number(a))
    return problem


def _short_function(problem, number):
    """Return the ``apply`` of `Eager` for a short problem: of two tensors whose forms are known, or a number and one.

    A class of each problem's own: what it knows need not be told in every call.
    """
    family, run_forward = problem.family, problem.forward
    last = None, None  # what ran the last gradient, by what it depends on

    class Short(Function):
        @staticmethod
        def forward(ctx, a, b):
            h = run_forward(a, b, 0 if number else a.data_ptr(), b.data_ptr())
            ctx.set_materialize_grads(False)
            needs_b, needs_h = reads(family, ctx.needs_input_grad)
            if number:
                ctx.number, a = a, None
            if not needs_b:
                ctx.b_form = _tensors.Form(b)
            ctx.save_for_backward(a, b if needs_b else None, h if needs_h else None)
            return h

        @staticmethod
        def backward(ctx, g):
            nonlocal last
            if g is None:
                return None, None
            a, b, h = ctx.saved_tensors
            if number:
                a = ctx.number
            if _grad_enabled() or type(g) not in PLAIN or not g.is_cpu or not in_short_gradient():
                return _short_vjp(problem, None, g, a, b, h, ctx)[0]
            key = None
            try:
                # Hooks may have changed what was saved, so nothing is taken for granted but dtypes and shapes.
                key = (
                    ctx.needs_input_grad, g.stride(), number or a.is_contiguous() or a.stride(),
                    h is None or h.is_contiguous() or h.stride(), b is None or b.is_contiguous() or b.stride(),
                )  # fmt: skip
                known, run = last
                if key != known:
                    run = problem.vjps.get(key)
                    last = key, run
                if run is not None and not g.is_neg():
                    return run(g, a, b, h)
            except RuntimeError:  # no strides, or no memory
                pass
            grads, run = _short_vjp(problem, key, g, a, b, h, ctx)
            if run is not None:
                last = key, run
            return grads

    return super(Function, Short).apply  # as `apply` above


def _short_vjp(problem, key, g, a, b, h, ctx):
    """Return the gradients of a short problem, and what runs more of their kind by ``key``; None if nothing does."""
    wanted = ctx.needs_input_grad
    tensors = [v for v in (g, a, b, h) if isinstance(v, torch.Tensor)]
    if key is not None and no_modes_active() and all(map(kernel_can_read, tensors)):
        b = ctx.b_form if b is None else b
        run = problem.vjp(key, g, a, b, h)
        if run is not None:
            return run(g, a, b, h), run
        grads = _tensors.vjp(
            problem.family, g, a, b, h, None, None, None, problem.axis, problem.reverse, problem.dtype, (*wanted, False)
        )
        return grads[:2], None
    form = None if b is not None else (ctx.b_form.shape, ctx.b_form.dtype)
    grads = recorded_vjp(problem.key, g, as_tensor(a, g), b, h, None, None, None, form, (*wanted, False))
    return grads[:2], None

"""From a public function's arguments, some of them tensors, to its result: check, choose the way, run.

There are three ways. Plain tensors, of the CPU or of a GPU, that want no gradient are run at once, by their addresses.
Those that want one go through `_Eager` or `_short`'s, autograd functions that do the same. Whatever else torch has in
play (a transform, a mode, a subclass, the compiler, tangents) goes through the dispatcher: `_autograd.forward`.
"""

import numpy as np
import torch
from torch.autograd import Function
from torch.autograd import forward_ad as _forward_ad

from .. import _arrays, _problem
from .. import _call as _arrays_call
from .. import _messages as say
from .._problem import FORGET, LINEAR
from . import _autograd, _tensors

PLAIN = torch.Tensor, torch.nn.Parameter
_PUBLIC = {FORGET: "forget_mult", LINEAR: "linear_recurrence"}

_grad_enabled = torch.is_grad_enabled
_interpreter = torch._C._functorch.peek_interpreter_stack
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_tracing = torch._C._get_tracing_state
_compiling = torch.compiler.is_dynamo_compiling


def _is_quiet():
    """Return whether torch has nothing in play that must see operators: addresses may be used."""
    return (
        not _compiling()
        and not _dispatch_modes()
        and not _function_modes()
        and _interpreter() is None
        and _forward_ad._current_level < 0
        and _tracing() is None
    )


def _is_plain(tensor, is_cuda=False):
    """Return whether a tensor's numbers stand in CPU memory, or a GPU's, as shape and strides say, and that is all."""
    return (
        tensor is None
        or type(tensor) in PLAIN
        and (tensor.is_cuda if is_cuda else tensor.is_cpu)
        and not tensor.is_neg()
        and not tensor.is_conj()
        and _has_memory(tensor)
    )


def _engine(tensors, lengths):
    """Return what runs tensors by their addresses; None where the dispatcher must have them."""
    if not _is_quiet() or not _is_plain(lengths) and not _is_plain(lengths, is_cuda=True):
        return None
    if all(map(_is_plain, tensors)):
        return _tensors if lengths is None or lengths.is_cpu else None
    if all(_is_plain(v, is_cuda=True) or (_is_plain(v) and not v.dim()) for v in tensors):
        from . import _device_tensors

        return _device_tensors
    return None


def _may_go_at_once(a, b, *others):
    """Return whether a call on a GPU needs no promotion, no gradient and no dispatcher."""
    dtype = b.dtype
    wants = b.requires_grad
    for tensor in (a, *others):
        if type(tensor) in PLAIN:
            if (
                not tensor.is_cuda or tensor.dtype is not dtype or not tensor.dim() or tensor.is_neg()
                or not _has_memory(tensor)
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
        and _is_quiet()
        and _has_memory(b)
    )


def _has_memory(tensor):
    try:
        return tensor.data_ptr() != 0 or tensor.numel() == 0
    except RuntimeError:  # a wrapper, of a transform that has no interpreter or is over
        return False


def forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out):
    """Run a recurrence of tensors; arguments as `fastrecur._call.forward` takes them."""
    key = gpu_key = None
    if (
        type(return_state) is bool and (h0 is None or type(h0) in PLAIN) and lengths is None and out is None
        and type(b) in PLAIN
    ):  # fmt: skip
        # What follows is `_is_quiet` and `_is_plain`, written out: a call on 16 elements has no time for calls.
        # Inside a transform of torch.func, plain tensors are constants, and others have no address; in a trace of
        # torch.jit, sizes are no numbers, and are in no key.
        try:
            if not (
                _compiling() or _dispatch_modes() or _function_modes() or _forward_ad._current_level >= 0 or b.is_neg()
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
                    if type(a) is float:
                        gpu_key = family, axis, reverse, return_state, b.dtype, b.size(), b.stride(), b.get_device()
                    elif type(a) in PLAIN and a.is_cuda and not a.is_neg():
                        gpu_key = (
                            family, axis, reverse, return_state, b.dtype, b.size(), b.stride(), b.get_device(), a.dtype,
                            a.size(), a.stride(), a.get_device(),
                        )  # fmt: skip
                    if gpu_key is not None and h0 is not None:
                        gpu_key = (*gpu_key, "h0", h0.dtype, h0.size(), h0.stride(), h0.get_device())
                        gpu_key = gpu_key if h0.is_cuda and not h0.is_neg() else None
                    if gpu_key is None:
                        pass
                    elif _grad_enabled() and (
                        b.requires_grad or (type(a) is not float and a.requires_grad)
                        or (h0 is not None and h0.requires_grad)
                    ):  # fmt: skip
                        problem = _problems_on_gpu.get(gpu_key)
                        if problem is not None and _interpreter() is None:
                            return _apply(a, b, h0, None, problem)
                    else:
                        on_gpu = _shorts_on_gpu.get(gpu_key)
                        if on_gpu is not None:
                            shortcut, run = on_gpu
                            places = [a if type(a) is float else a.data_ptr(), at_b]
                            if h0 is not None:
                                places.append(h0.data_ptr())
                            given = run(shortcut, places)
                            return tuple(given) if return_state else given[0]
        except RuntimeError:  # no strides, or no memory
            pass
        short = _shorts.get(key)
        if short is not None:
            if (not b.requires_grad and (not at_a or not a.requires_grad)) or not _grad_enabled():
                return short.forward(a, b, at_a, at_b)
            if (at_a or type(a) is float) and _interpreter() is None:
                return short.apply(a, b)
    if (
        type(b) in PLAIN and b.is_cuda and lengths is None and out is None
        and _may_go_at_once(a, b, *(() if h0 is None else (h0,)))
    ):  # fmt: skip
        from .._cuda import _call

        result = _call.forward(
            family, names, a, b, h0, _axis(axis), _flag("reverse", reverse), None,
            _flag("return_state", return_state), None,
        )  # fmt: skip
        shortcut = gpu_key and _call.remembered(family, axis, reverse, return_state, a, b, h0)
        if shortcut:
            _keep(_shorts_on_gpu, gpu_key, shortcut)
        return result
    given = a, b, h0, lengths, out
    if not _compiling() and torch.overrides.has_torch_function([v for v in given if isinstance(v, torch.Tensor)]):
        return _overridden(_PUBLIC[family], given, a, b, h0, axis, reverse, lengths, return_state, out)
    a, b, h0, out = _take((*names, "out"), a, b, h0, out)
    axis, reverse, return_state = _axis(axis), _flag("reverse", reverse), _flag("return_state", return_state)
    _check_gate(family, names[0], a)
    dtype = result_dtype(names, a, b, h0)
    shape, axis = _shape(names[:2], a, b, axis)
    lengths = _lengths(lengths, shape, axis, (a, b))
    _check_state("h0", h0, shape, axis)
    if out is not None:
        _check_out(out, shape, dtype, ((names[0], a), (names[1], b), ("h0", h0)))
    if dtype.is_complex and not _is_complex(a):
        h, h_last = _forward_pairs(family, names, a, b, h0, axis, reverse, lengths, dtype)
    elif out is not None and _is_quiet() and all(_is_plain(v) for v in (a, b, h0, lengths, out) if not _is_number(v)):
        _check_overlap(out, ((names[0], a), (names[1], b)))
        _, h_last = _tensors.forward(family, a, b, h0, lengths, axis, reverse, dtype, return_state, out)
        if not out.is_inference():
            torch.autograd.graph.increment_version(out)
        return (out, h_last) if return_state else out
    else:
        h, h_last = _run_forward(family, a, b, h0, lengths, axis, reverse, dtype, return_state)
        tensors = (a, b) if h0 is None else (a, b, h0)
        if key is not None:
            _remember(key, _Problem(family, axis, reverse, dtype, False), a, b)
        elif gpu_key is not None and dtype in _tensors.FLOATING and (engine := _engine(tensors, None)) is not None:
            _keep(_problems_on_gpu, gpu_key, _Problem(family, axis, reverse, dtype, return_state, engine))
    if out is not None:
        h = out.copy_(h)
    return (h, h_last) if return_state else h


def _run_forward(family, a, b, h0, lengths, axis, reverse, dtype, return_state):
    tensors = [v for v in (a, b, h0) if isinstance(v, torch.Tensor)]
    engine = _engine(tensors, lengths)
    if engine is None:
        a, b, h0 = (_as_tensor(v, tensors[0]) for v in (a, b, h0))
        return _autograd.forward(family, a, b, h0, lengths, axis, reverse, dtype)
    if not _grad_enabled() or not any(v.requires_grad for v in tensors):
        return engine.forward(family, a, b, h0, lengths, axis, reverse, dtype, return_state)
    result = _apply(a, b, h0, lengths, _Problem(family, axis, reverse, dtype, return_state, engine))
    return result if return_state else (result, None)


def _forward_pairs(family, names, a, b, h0, axis, reverse, lengths, dtype):
    """Run a complex series whose gate is real: two real series."""
    pairs = [None if v is None else _pair(v, dtype, a, b) for v in (b, h0)]
    a = a if _is_number(a) else a.unsqueeze(-1)
    if lengths is not None and lengths.dim() == 0:
        lengths = lengths.expand(2)
    real = _tensors.REAL[dtype]
    h, h_last = _run_forward(family, a, *pairs, lengths, axis, reverse, real, True)
    return _joined(h), None if h_last is None else _joined(h_last)


def _joined(pairs):
    """Return complex numbers of pairs: a view, but where a transform's batch stands behind them."""
    if pairs.stride(-1) == 1:
        return torch.view_as_complex(pairs)
    return torch.complex(pairs.select(-1, 0), pairs.select(-1, 1))


def _pair(value, dtype, *others):
    if _is_number(value):
        value = _as_tensor(value, next(v for v in others if not _is_number(v)))
    return torch.view_as_real(value.to(dtype).resolve_conj())


def vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state):
    """Run a recurrence's adjoint of tensors; arguments as `fastrecur._call.vjp` takes them."""
    if (
        type(b) in PLAIN and b.is_cuda and type(g) in PLAIN and type(h) in PLAIN and lengths is None
        and (h0 is None or type(h0) in PLAIN) and (grad_state is None or type(grad_state) in PLAIN)
    ):  # fmt: skip
        # As in `forward`.
        key = found = None
        states = [state for state in (h0, grad_state) if state is not None]
        try:
            if not (
                type(a) not in PLAIN or type(axis) is not int or type(reverse) is not bool
                or _compiling() or _dispatch_modes() or _function_modes() or _forward_ad._current_level >= 0
                or g.is_neg() or a.is_neg() or b.is_neg() or h.is_neg()
                or _grad_enabled() and (a.requires_grad or b.requires_grad or g.requires_grad or h.requires_grad)
            ):  # fmt: skip
                places = [g.data_ptr(), a.data_ptr(), b.data_ptr(), h.data_ptr()]
                key = (
                    family, axis, reverse, b.get_device(), b.dtype, b.size(), b.stride(),
                    g.get_device(), g.dtype, g.size(), g.stride(), a.get_device(), a.dtype, a.size(), a.stride(),
                    h.get_device(), h.dtype, h.size(), h.stride(), h0 is None,
                )  # fmt: skip
                for state in states:
                    if not state.is_cuda or state.is_neg() or (state.requires_grad and _grad_enabled()):
                        key = None
                        break
                    places.append(state.data_ptr())
                    key = *key, state.get_device(), state.dtype, state.size(), state.stride()
                found = _shorts_on_gpu.get(key)
        except RuntimeError:  # no strides, or no memory
            pass
        if found is not None:
            shortcut, run = found
            return tuple(run(shortcut, places))
        if _may_go_at_once(a, b, g, h, *states):
            return _vjp_on_gpu(family, names, g, a, b, h, h0, grad_state, axis, reverse, key)
    given = g, a, b, h, h0, lengths, grad_state
    if not _compiling() and torch.overrides.has_torch_function([v for v in given if isinstance(v, torch.Tensor)]):
        return _overridden(_PUBLIC[family] + "_vjp", given, g, a, b, h, h0, axis, reverse, lengths, grad_state)
    g, a, b, h, h0, grad_state = _take((*names, "h0", "grad_state"), g, a, b, h, h0, grad_state)
    axis, reverse = _axis(axis), _flag("reverse", reverse)
    _check_gate(family, names[1], a)
    own = result_dtype((*names[1:3], "h0"), a, b, h0)
    dtype = result_dtype((*names, "h0", "grad_state"), g, a, b, h, h0, grad_state)
    for name, value in ((names[0], g), (names[3], h), ("grad_state", grad_state)):
        if value is not None and _is_complex(value) and not own.is_complex:
            raise TypeError(say.complex_of_real(name, "complex" if _is_number(value) else value.dtype))
    shape, axis = _shape(names[1:3], a, b, axis)
    lengths = _lengths(lengths, shape, axis, (a, b))
    _check_state("h0", h0, shape, axis)
    _check_state("grad_state", grad_state, shape, axis)
    for name, value in ((names[0], g), (names[3], h)):
        if not _fits(() if _is_number(value) else value.shape, shape):
            raise ValueError(say.operand_shape(name, value.shape, shape))
    operands = a, b, h0
    if dtype.is_complex and not _is_complex(a):
        grads = _vjp_pairs(family, g, a, b, h, h0, axis, reverse, lengths, grad_state, dtype)
    else:
        grads = _run_vjp(family, g, a, b, h, h0, grad_state, lengths, axis, reverse, dtype, shape)
    return tuple(
        None if operand is None else grad.to(_tensors.gradient_dtype(operand, own))
        for grad, operand in zip(grads, operands, strict=True)
    )


def _vjp_on_gpu(family, names, g, a, b, h, h0, grad_state, axis, reverse, key):
    """Run a gradient of CUDA tensors, and remember how."""
    from .._cuda import _call

    axis, reverse = _axis(axis), _flag("reverse", reverse)
    grads = _call.vjp(family, names, g, a, b, h, h0, axis, reverse, None, grad_state)
    shortcut = key and _call.remembered_vjp(family, axis, reverse, g, a, b, h, h0, grad_state)
    if shortcut:
        _keep(_shorts_on_gpu, key, shortcut)
    return grads


def _run_vjp(family, g, a, b, h, h0, grad_state, lengths, axis, reverse, dtype, shape):
    wanted = True, True, h0 is not None
    tensors = [v for v in (g, a, b, h, h0, grad_state) if isinstance(v, torch.Tensor)]
    engine = _engine(tensors, lengths)
    if engine is not None and not (_grad_enabled() and any(v.requires_grad for v in tensors)):
        return engine.vjp(family, g, a, b, h, h0, grad_state, lengths, axis, reverse, dtype, wanted)
    g, a, b, h, h0, grad_state = (_as_tensor(v, tensors[0]) for v in (g, a, b, h, h0, grad_state))
    g, h = g.expand(shape), h.expand(shape)
    return _autograd.vjp(family, g, a, b, h, h0, grad_state, lengths, axis, reverse, dtype, *wanted)


def _vjp_pairs(family, g, a, b, h, h0, axis, reverse, lengths, grad_state, dtype):
    pairs = [None if v is None else _pair(v, dtype, a, b) for v in (g, b, h, h0, grad_state)]
    gate = a if _is_number(a) else a.unsqueeze(-1)
    if lengths is not None and lengths.dim() == 0:
        lengths = lengths.expand(2)
    g, pair_b, h, pair_h0, grad_state = pairs
    shape = torch.broadcast_shapes(() if _is_number(gate) else gate.shape, pair_b.shape)
    grads = _run_vjp(
        family, g, gate, pair_b, h, pair_h0, grad_state, lengths, axis, reverse, _tensors.REAL[dtype], shape
    )
    joined = [None if v is None else _joined(grad) for grad, v in zip(grads[1:], (b, h0), strict=True)]
    grad_b, grad_h0 = (
        grad if v is None or _is_complex(v) else grad.real for grad, v in zip(joined, (b, h0), strict=True)
    )
    return grads[0] if _is_number(a) else grads[0].squeeze(-1), grad_b, grad_h0


# ---- Eager autograd -------------------------------------------------------------------------------------------------


class _Problem:
    """What `_Eager` is told beside operands; of a short problem also how to run it."""

    __slots__ = ("apply", "axis", "dtype", "engine", "family", "forward", "return_state", "reverse", "vjps")

    def __init__(self, family, axis, reverse, dtype, return_state, engine=_tensors):
        self.family, self.axis, self.reverse, self.dtype = family, axis, reverse, dtype
        self.return_state, self.engine = return_state, engine
        self.forward, self.apply, self.vjps = None, None, {}

    def vjp(self, key, g, a, b, h):
        """Return how to run the gradient of a short problem, for more of its kind; None if that is not short."""
        wanted = key[0]
        run = _tensors.short_vjp(self.family, g, a, b, h, self.axis, self.reverse, self.dtype, wanted)
        self.vjps[key] = run
        return run


# Short problems, by everything that a plan depends on.
_shorts: dict[tuple, _Problem] = {}
_shorts_on_gpu: dict = {}
# Problems whose gradient is recorded, by the same: checked and promoted.
_problems_on_gpu: dict = {}
_MOST_SHORTS = 1024


def _keep(kept, key, value):
    if len(kept) >= _MOST_SHORTS:
        kept.clear()
    kept[key] = value


def _remember(key, problem, a, b):
    if problem.dtype.is_complex:  # or a conjugate would not be told from what it is made of
        return
    if b.dtype in _tensors.INTEGERS and (_is_number(a) or a.dtype in _tensors.INTEGERS):
        return  # torch's default dtype is not in the key
    problem.forward = _tensors.short_forward(problem.family, a, b, problem.axis, problem.reverse, problem.dtype)
    if problem.forward is not None:
        problem.apply = _short(problem, _is_number(a))
        _keep(_shorts, key, problem)


class _Eager(Function):
    """A recurrence of plain tensors by their addresses; a gradient of its gradient goes through `_autograd.vjp`."""

    @staticmethod
    def forward(ctx, a, b, h0, lengths, problem):
        family = problem.family
        h, h_last = problem.engine.forward(
            family, a, b, h0, lengths, problem.axis, problem.reverse, problem.dtype, problem.return_state
        )
        wanted = ctx.needs_input_grad[:3]
        needs_b, needs_h = _tensors.reads(family, wanted)
        ctx.problem, ctx.numbers = problem, None
        ctx.b_form = b if _is_number(b) else _tensors.Form(b)
        if _is_number(a) or _is_number(b) or _is_number(h0):
            ctx.numbers = tuple(v if _is_number(v) else None for v in (a, b, h0))
            a, b, h0 = (None if _is_number(v) else v for v in (a, b, h0))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            a, b if needs_b else None, h if needs_h else None, h0 if needs_h or wanted[2] else None, lengths
        )
        return (h, h_last) if problem.return_state else h

    @staticmethod
    def backward(ctx, grad_h, grad_last=None):
        wanted = ctx.needs_input_grad[:3]
        if grad_h is None and grad_last is None:
            return (None,) * 5
        a, b, h, h0, lengths = ctx.saved_tensors
        problem = ctx.problem
        family, axis, reverse, dtype = problem.family, problem.axis, problem.reverse, problem.dtype
        if ctx.numbers is not None:
            a, b, h0 = (v if number is None else number for v, number in zip((a, b, h0), ctx.numbers, strict=True))
        tensors = [v for v in (grad_h, a, b, h, h0, grad_last) if isinstance(v, torch.Tensor)]
        engine = None
        if not (_grad_enabled() and any(v.requires_grad for v in tensors)):
            engine = _engine(tensors, lengths)
        if engine is not None:
            b = ctx.b_form if b is None else b
            grads = engine.vjp(family, grad_h, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, wanted)
            return *grads, None, None
        a, b, h0 = (_as_tensor(v, tensors[0]) for v in (a, b, h0))
        if b is None:
            b = _autograd._nothing(a, ctx.b_form.shape, ctx.b_form.dtype)
        zeros = _autograd._nothing(a, torch.broadcast_shapes(a.shape, b.shape), dtype)
        grad_h, h = (zeros if v is None else v for v in (grad_h, h))
        grads = _autograd.vjp(family, grad_h, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, *wanted)
        return *(grad if is_wanted else None for grad, is_wanted in zip(grads, wanted, strict=True)), None, None


def _short(problem, number):
    """Return the ``apply`` of `_Eager` for a short problem: of two tensors whose forms are known, or a number and one.

    A class of each problem's own: what it knows need not be told in every call.
    """
    is_forget, run_forward = problem.family == FORGET, problem.forward
    last = None, None  # what ran the last gradient, by what it depends on

    class Short(Function):
        @staticmethod
        def forward(ctx, a, b):
            h = run_forward(a, b, 0 if number else a.data_ptr(), b.data_ptr())
            ctx.set_materialize_grads(False)
            if number:
                ctx.number = a
                ctx.save_for_backward(None, None, None)
                ctx.b_form = _tensors.Form(b)
            elif not a.requires_grad:
                ctx.save_for_backward(a, None, None)
                ctx.b_form = _tensors.Form(b)
            elif is_forget:
                ctx.save_for_backward(a, b, h)
            else:
                ctx.save_for_backward(a, None, h)
                ctx.b_form = _tensors.Form(b)
            return h

        @staticmethod
        def backward(ctx, g):
            nonlocal last
            if g is None:
                return None, None
            a, b, h = ctx.saved_tensors
            if number:
                a = ctx.number
            wanted = ctx.needs_input_grad
            if not _grad_enabled() and type(g) in PLAIN and g.is_cpu and not _dispatch_modes():
                try:
                    # Hooks may have changed what was saved, so nothing is taken for granted but dtypes and shapes.
                    key = (
                        wanted, g.stride(), number or a.is_contiguous() or a.stride(),
                        h is None or h.is_contiguous() or h.stride(), b is None or b.is_contiguous() or b.stride(),
                    )  # fmt: skip
                    known, run = last
                    if key != known:
                        run = problem.vjps.get(key)
                        last = key, run
                    if run is not None and _forward_ad._current_level < 0 and not g.is_neg():
                        return run(g, a, b, h)
                except RuntimeError:  # no strides, or no memory
                    pass
                tensors = [v for v in (g, a, b, h) if isinstance(v, torch.Tensor)]
                if _is_quiet() and all(map(_is_plain, tensors)):
                    b = ctx.b_form if b is None else b
                    run = problem.vjp(key, g, a, b, h)
                    if run is not None:
                        last = key, run
                        return run(g, a, b, h)
                    return _tensors.vjp(
                        problem.family, g, a, b, h, None, None, None, problem.axis, problem.reverse, problem.dtype,
                        (*wanted, False),
                    )[:2]  # fmt: skip
            a = _as_tensor(a, g)
            form = b if b is not None else ctx.b_form
            b = _autograd._nothing(a, form.shape, form.dtype) if b is None else b
            h = _autograd._nothing(a, g.shape, g.dtype) if h is None else h
            grads = _autograd.vjp(
                problem.family, g, a, b, h, None, None, None, problem.axis, problem.reverse, problem.dtype, *wanted,
                False,
            )  # fmt: skip
            return tuple(grad if is_wanted else None for grad, is_wanted in zip(grads, wanted, strict=False))

    return super(Function, Short).apply  # as `_apply` below


_apply = super(Function, _Eager).apply  # Function.apply itself looks for transforms, which are not there


# ---- Taking arguments -----------------------------------------------------------------------------------------------


_is_number = _tensors.is_number
_flag, _axis = _arrays_call._flag, _arrays_call._axis


def _is_complex(value):
    return type(value) is complex or (not _is_number(value) and value.is_complex())


def _overridden(name, given, *arguments):
    """Hand a call over to a subclass or mode that overrides torch's functions."""
    import fastrecur

    tensors = tuple(v for v in given if isinstance(v, torch.Tensor))
    options = {}
    if name.endswith("_vjp"):
        *arguments, axis, reverse, lengths, grad_state = arguments
        options = dict(axis=axis, reverse=reverse, lengths=lengths, grad_state=grad_state)
    else:
        *arguments, axis, reverse, lengths, return_state, out = arguments
        options = dict(axis=axis, reverse=reverse, lengths=lengths, return_state=return_state, out=out)
    return torch.overrides.handle_torch_function(getattr(fastrecur, name), tensors, *arguments, **options)


def _take(names, *values):
    """Return operands as tensors and Python numbers; raise for anything else."""
    taken, tensors = [], [(n, v) for n, v in zip(names, values, strict=True) if isinstance(v, torch.Tensor)]
    for name, value in zip(names, values, strict=True):
        if isinstance(value, torch.Tensor):
            _check_tensor(name, value)
        elif isinstance(value, np.generic) and name != "out":
            value = value.item()  # as torch takes them
        elif value is None:
            if name not in ("h0", "out", "grad_state"):
                raise TypeError(say.not_an_array(name, type(None)))
        elif name == "out":
            raise TypeError(say.out_type(type(value)))
        elif not _is_number(value):
            value = _take_number(name, value, tensors)
        if type(value) is int and not -(1 << 63) <= value < 1 << 63:
            raise ValueError(say.too_large_for_tensors(name))
        taken.append(value)
    if not tensors:
        raise TypeError(say.no_tensor())
    _check_devices(tensors)
    return taken


def _check_devices(tensors):
    """Raise unless tensors share a device for which there are kernels; beside a GPU's, numbers may be the CPU's."""
    placed = [(name, value.device) for name, value in tensors if value.dim() or not value.is_cpu]
    if placed:
        main, device = placed[0]
        for name, value in tensors:
            if value.device != device and (value.dim() or not value.is_cpu or device.type != "cuda"):
                raise ValueError(say.devices(main, device, name, value.device))
        _runs_on(main, device)


def _take_number(name, value, tensors):
    for number in (bool, int, float, complex):
        if isinstance(value, number):
            return number(value)
    if torch.compiler.is_compiling() and isinstance(value, (torch.SymInt, torch.SymFloat)):
        return value
    library = _arrays.library_of(value)
    raise TypeError(
        say.mixed([(name, library), *((of, "torch") for of, _ in tensors[:1])])
        if library
        else say.not_a_tensor(name, type(value))
    )


def _runs_on(name, device):
    """Raise unless there are kernels for a device. The one place that knows which devices there are."""
    if device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(say.device(name, device))


def _check_tensor(name, tensor):
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_quantized or _has_names(tensor):
        kind = (
            "a nested one" if tensor.is_nested
            else "a quantised one" if tensor.is_quantized
            else "a named one" if tensor.layout is torch.strided
            else f"layout {tensor.layout}"
        )  # fmt: skip
        raise TypeError(say.layout(name, kind))
    if tensor.dtype not in _tensors.DTYPES:
        raise TypeError(say.dtype(name, tensor.dtype))


def _check_gate(family, name, gate):
    if family == FORGET and _is_complex(gate):
        raise TypeError(say.complex_gate(name, "complex" if _is_number(gate) else gate.dtype))


def _has_names(tensor):
    # Newer versions of torch have no names, and the compilers of older ones do not take any.
    return type(tensor) in PLAIN and not torch.compiler.is_compiling() and any(getattr(tensor, "names", ()))


def result_dtype(names, *operands):
    """Return the dtype of a result: torch's promotion, integers alone to its default dtype."""
    full = scalar = number = None
    for value in operands:
        if value is None:
            continue
        if _is_number(value):
            own = _NUMBERS[type(value)]
            number = own if number is None else _promote(number, own)
        elif value.dim():
            full = value.dtype if full is None else _promote(full, value.dtype)
        else:
            scalar = value.dtype if scalar is None else _promote(scalar, value.dtype)
    if number is not None:
        if number.is_floating_point:
            number = torch.get_default_dtype()
        elif number.is_complex:
            number = _COMPLEX[torch.get_default_dtype()]
    dtype = _combine(_combine(full, scalar), number)
    if dtype in _tensors.INTEGERS:
        dtype = torch.get_default_dtype()
    if dtype not in _tensors.FLOATING and dtype not in _tensors.COMPLEX:
        given = [(name, v) for name, v in zip(names, operands, strict=True) if v is not None]
        raise TypeError(say.promotion([(name, type(v).__name__ if _is_number(v) else v.dtype) for name, v in given]))
    return dtype


_COMPLEX = {
    torch.float16: torch.complex32,
    torch.bfloat16: torch.complex64,
    torch.float32: torch.complex64,
    torch.float64: torch.complex128,
}
_NUMBERS = {bool: torch.bool, int: torch.int64, float: torch.float64, complex: torch.complex128}


def _combine(higher, lower):
    """Return the dtype of operands with dimensions and of such as have none, or of these and of numbers."""
    if higher is None or lower is None:
        return lower if higher is None else higher
    if higher.is_complex:
        return higher
    if higher.is_floating_point:
        return _COMPLEX[higher] if lower.is_complex else higher
    if higher is torch.bool or lower.is_floating_point or lower.is_complex:
        return _promote(higher, lower)
    return higher


def _is_double(dtype):
    return dtype is torch.float64 or dtype is torch.complex128


def _promote(one, other):
    """Return torch.promote_types, but of two integers any: exporters would take that for a part of the program."""
    if one is other or other in _tensors.INTEGERS:
        return one
    if one in _tensors.INTEGERS:
        return other
    if one.is_complex or other.is_complex:
        return torch.complex128 if _is_double(one) or _is_double(other) else torch.complex64
    if one.itemsize == other.itemsize:
        return torch.float32  # float16 and bfloat16
    return one if one.itemsize > other.itemsize else other


def _as_tensor(value, like):
    """Return a number as the tensor that stands for it beside others; a tensor and None as they are."""
    if not _is_number(value):
        return value
    dtype = torch.complex128 if type(value) is complex else torch.float64
    return torch.full((), value, dtype=dtype, device=like.device)


def _shape(names, a, b, axis):
    """Return the result's shape, and axis counted from its front."""
    if _is_number(a) or _is_number(b) or a.shape == b.shape:
        shape = b.shape if _is_number(a) else a.shape
        if _is_number(a) and _is_number(b):
            shape = ()
    else:
        try:
            shape = torch.broadcast_shapes(a.shape, b.shape)
        except RuntimeError:
            raise ValueError(say.broadcast(names, (a.shape, b.shape), axis)) from None
    return shape, _problem.normalise_axis(axis, shape, names)


def _fits(shape, into):
    return len(shape) <= len(into) and all(n in (1, m) for n, m in zip(reversed(shape), reversed(into), strict=False))


def _check_state(name, state, shape, axis):
    lanes = shape[:axis] + shape[axis + 1 :]
    if isinstance(state, torch.Tensor) and not _fits(state.shape, lanes):
        raise ValueError(say.state_shape(name, state.shape, lanes))


def _lengths(lengths, shape, axis, operands):
    """Return lengths as a tensor of integers that fits the lanes; they may be on the CPU whatever the operands are."""
    if lengths is None:
        return None
    if not isinstance(lengths, torch.Tensor):
        if isinstance(lengths, (np.ndarray, np.generic)):
            raise TypeError(say.mixed([("lengths", "numpy"), (None, "torch")]))
        try:
            lengths = torch.tensor(lengths, dtype=None if _holds_numbers(lengths) else torch.int64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(say.lengths_dtype(f"{type(lengths).__name__} ({error})")) from None
    if lengths.dtype not in _tensors.INTEGERS or lengths.dtype is torch.bool:
        raise TypeError(say.lengths_dtype(f"dtype {lengths.dtype}"))
    _check_tensor("lengths", lengths)
    if not lengths.is_cpu and not any(lengths.device == v.device for v in operands if not _is_number(v)):
        raise ValueError(say.lengths_device(lengths.device))
    lanes = shape[:axis] + shape[axis + 1 :]
    if lengths.shape != lanes[: lengths.dim()] or (not lengths.dim() and lanes):
        raise ValueError(say.lengths_shape(lengths.shape, lanes))
    return lengths


def _holds_numbers(value):
    return any(map(_holds_numbers, value)) if isinstance(value, (list, tuple)) else True


def _check_out(out, shape, dtype, operands):
    if _grad_enabled() and any(
        v.requires_grad for v in (out, *(v for _, v in operands)) if isinstance(v, torch.Tensor)
    ):
        raise RuntimeError(say.out_gradient())
    if out.shape != shape:
        raise ValueError(say.out_shape(out.shape, shape))
    if out.dtype != dtype:
        raise TypeError(say.out_dtype(out.dtype, dtype))


def _check_overlap(out, operands):
    place = _bytes(out)
    if _arrays.overlaps_itself(place):
        raise ValueError(say.out_self_overlap())
    for name, operand in operands:
        if _is_number(operand) or operand is out:
            continue
        other = _bytes(operand)
        if _arrays.overlap(place, other) and not _arrays.is_same_view(place, other):
            raise ValueError(say.out_overlap(name))


def _bytes(tensor):
    """Return a view of a tensor's memory in elements of its size."""
    tensor = tensor.detach()
    return (tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor).numpy()


_arrays_call._TENSORS, _arrays_call._forward_tensors, _arrays_call._vjp_tensors = PLAIN, forward, vjp

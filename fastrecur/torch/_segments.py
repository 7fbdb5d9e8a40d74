"""Tensors whose series begin anew inside the axis of time: the operators, their derivatives, and a call of them.

They stand beside those of `_ops`, whose arguments they have, and offsets and resets. A derivative is made of them as
those of `_autograd` are, with other neighbors: the state before a border is the segment's first one, or zero.
"""

from typing import Any, NamedTuple

import torch

from .. import _adapters, _checks, _problem, _run, _segments
from .. import _messages as say
from .._arrays import address
from .._problem import FORGET, LINEAR
from . import _arguments, _autograd, _ops, _team, _tensors
from ._arguments import as_tensor, is_complex
from ._autograd import _decay, _full, _like, _masked, _sum, _valid
from ._modes import is_overridden

_is_number = _tensors.is_number
_TAGS = (torch.Tag.pt2_compliant_tag,)

_ops.library.define(
    "forward_segments(str family, Tensor a, Tensor b, Tensor? h0, Tensor? lengths, Tensor? offsets, Tensor? resets,"
    " int axis, bool reverse, ScalarType dtype) -> (Tensor, Tensor)",
    tags=_TAGS,
)
_ops.library.define(
    "vjp_segments(str family, Tensor g, Tensor a, Tensor b, Tensor h, Tensor? h0, Tensor? grad_last, Tensor? lengths,"
    " Tensor? offsets, Tensor? resets, int axis, bool reverse, ScalarType dtype, bool want_a, bool want_b,"
    " bool want_h0) -> (Tensor, Tensor, Tensor)",
    tags=_TAGS,
)
_forward = torch.ops.fastrecur.forward_segments.default
_vjp = torch.ops.fastrecur.vjp_segments.default


class Cuts(NamedTuple):
    """Where series end and begin: tensors, or None."""

    lengths: Any
    offsets: Any
    resets: Any


def _lanes(shape, axis, cuts):
    """Return the shape of all states."""
    lanes = tuple(shape[:axis]) + tuple(shape[axis + 1 :])
    return lanes if cuts.offsets is None else (cuts.offsets.shape[0] - 1, *lanes)


# ---- On plain tensors of the CPU ------------------------------------------------------------------------------------


def _check(family, a, b, axis, reverse, cuts):
    signatures = (_tensors._signature(_tensors.form(v)) for v in (a, b))
    return _segments.check(_tensors.NAMES[family][:2], *signatures, {}, axis, reverse, _checks.Segments(*cuts))


def _state_signature(state):
    return None if state is None else (_tensors.DTYPES[state.dtype], ())  # its shape has been checked


def _states(plan, state, cuts):
    carry = _run._states(plan, None, cuts)
    if state is not None:
        torch.from_numpy(carry).copy_(state)
    return carry


def _run_forward(family, a, b, h0, lengths, offsets, resets, axis, reverse, dtype):
    cuts = _check(family, a, b, axis, reverse, Cuts(lengths, offsets, resets))
    shape = _tensors.result_shape(family, a, b)
    strides = _tensors.layout(shape, b, a)
    signatures = [_tensors._signature(form) for form in (_tensors.form(a), _tensors.form(b), (dtype, shape, strides))]
    plan = _problem.forward(
        family, _tensors.NAMES[family], *signatures[:2], _state_signature(h0), signatures[2], axis, reverse,
        None if lengths is None else tuple(lengths.shape), False, _tensors.DTYPES[dtype], cuts.signature,
    )  # fmt: skip
    h, carry = _tensors.empty(shape, strides, dtype), _states(plan, h0, cuts)
    if plan.traversal != "empty":
        ends = plan.full_lengths if cuts.lengths is None else cuts.lengths
        places = a.data_ptr(), b.data_ptr(), h.data_ptr(), address(carry), address(ends)
        _run.forward_at(plan, *places, 0, True, _team.team(), _run._marks(plan, cuts, False, True))
    cuts.clear_ends(carry)
    return h, _tensors._own(carry, carry.shape, dtype)


def _run_vjp(
    family, g, a, b, h, h0, grad_last, lengths, offsets, resets, axis, reverse, dtype, want_a, want_b, want_h0
):
    cuts, wanted = _check(family, a, b, axis, reverse, Cuts(lengths, offsets, resets)), (want_a, want_b)
    shape = _tensors.result_shape(family, a, b)
    layouts = [_tensors.layout(shape, v, h, g) if v.shape == shape else None for v in (a, b)]
    dtypes = [_tensors.gradient_dtype(v, dtype) for v in (a, b)]
    sized = zip(layouts, dtypes, strict=True)
    plan = _problem.vjp(
        family, ("grad_h", *_tensors.NAMES[family][:2], "h"),
        (*(_tensors._signature(_tensors.form(v)) for v in (g, a, b, h)), *map(_state_signature, (h0, grad_last))),
        axis, reverse, None if lengths is None else tuple(lengths.shape), False, _tensors.DTYPES[dtype], wanted,
        layouts=tuple(s and tuple(n * own.itemsize for n in s) for s, own in sized), flags=cuts.signature,
    )  # fmt: skip
    results = [
        _tensors.empty(shape, strides, own) if is_wanted and strides is not None else None
        for is_wanted, strides, own in zip(wanted, layouts, dtypes, strict=True)
    ]
    first, carry = None if h0 is None else _states(plan, h0, cuts), _states(plan, grad_last, cuts)
    cuts.clear_ends(carry)
    totals = [plan.zeros()[:0]] * 2
    if plan.traversal != "empty":
        ends = plan.full_lengths if cuts.lengths is None else cuts.lengths
        places = [v.data_ptr() for v in (g, a, b, h)]
        states = None if first is None else address(first), address(carry)
        to = [None if r is None else (r.data_ptr(), r.nbytes) for r in results]
        marks = _run._marks(plan, cuts, first is not None, True)
        totals = _run.vjp_at(plan, *places, *states, address(ends), to, _team.team(), marks)
    for k, operand in enumerate((a, b)):
        if not wanted[k]:
            results[k] = g.new_empty(0)
        elif results[k] is None and plan.traversal == "empty":
            results[k] = g.new_zeros(operand.shape, dtype=dtypes[k])
        elif results[k] is None:
            results[k] = _tensors._own(totals[k], operand.shape, dtypes[k])
    own = g.new_empty(0)
    if want_h0:
        own = _tensors._own(carry, h0.shape, _tensors.gradient_dtype(h0, dtype))
    return *results, own


def _forward_fake(family, a, b, h0, lengths, offsets, resets, axis, reverse, dtype):
    h, _ = _ops._forward_fake(family, a, b, h0, lengths, axis, reverse, dtype)
    return h, b.new_empty(_lanes(h.shape, axis, Cuts(lengths, offsets, resets)), dtype=dtype)


def _vjp_fake(family, g, a, b, h, h0, grad_last, lengths, offsets, resets, *rest):
    return _ops._vjp_fake(family, g, a, b, h, h0, grad_last, lengths, *rest)


# ---- Derivatives ----------------------------------------------------------------------------------------------------


class _Forward(_autograd._Rules):
    """A recurrence: ``(family, a, b, h0, lengths, offsets, resets, axis, reverse, dtype) -> (h, h_last)``."""

    operator = _forward

    @staticmethod
    def forward(ctx, way, *arguments):
        """Run the operator; keep all operands."""
        (keyset, has_tangents), (family, a, b, h0, *cuts, axis, reverse, dtype) = way, arguments
        h, h_last = _Forward.below(keyset, arguments)
        ctx.problem = family, axis, reverse, dtype
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(a, b, h, h0, *cuts)
        if has_tangents:
            ctx.save_for_forward(a, b, h, h0, *cuts)
        return h, h_last

    @staticmethod
    def backward(ctx, grad_h, grad_last):
        """Return the gradients of a, b and h0."""
        wanted = ctx.needs_input_grad[2:5]
        if (grad_h is None and grad_last is None) or not any(wanted):
            return (None,) * 11
        a, b, h, h0, *cuts = ctx.saved_tensors
        family, axis, reverse, dtype = ctx.problem
        g = _full(grad_h, h)
        grads = _vjp(family, g, a, b, h, h0, grad_last, *cuts, axis, reverse, dtype, *wanted)
        grads = (grad if is_wanted else None for grad, is_wanted in zip(grads, wanted, strict=True))
        return None, None, *grads, *(None,) * 6

    @staticmethod
    def jvp(ctx, _way, _family, a_dot, b_dot, h0_dot, *rest):
        """Return the tangents of h and h_last."""
        family, axis, reverse, dtype = ctx.problem
        a, b, h, h0, *cuts = map(_autograd._primal, ctx.saved_tensors)
        with torch.autograd.forward_ad._set_fwd_grad_enabled(True):
            source = _source(family, axis, reverse, a, b, h, h0, Cuts(*cuts), a_dot, b_dot)
            return _forward(LINEAR, _decay(family, a, dtype), source, h0_dot, *cuts, axis, reverse, dtype)


class _Vjp(_autograd._Rules):
    """A recurrence's adjoint: its gradient is that of `_autograd._Vjp`."""

    operator = _vjp

    @staticmethod
    def forward(ctx, way, *arguments):
        """Run the operator; keep all operands."""
        keyset, _ = way
        family, g, a, b, h, h0, grad_last, lengths, offsets, resets, axis, reverse, dtype, *wanted = arguments
        output = _Vjp.below(keyset, arguments)
        ctx.problem, ctx.wanted = (family, axis, reverse, dtype), tuple(wanted)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(grad for grad, is_wanted in zip(output, wanted, strict=True) if not is_wanted))
        ctx.save_for_backward(g, a, b, h, h0, grad_last, lengths, offsets, resets)
        return output

    @staticmethod
    def backward(ctx, v, u, w):
        """Return the gradients of g, a, b, h, h0 and grad_last."""
        g, a, b, h, h0, grad_last, *cuts = ctx.saved_tensors
        family, axis, reverse, dtype = ctx.problem
        v, u, w = (c if is_wanted else None for c, is_wanted in zip((v, u, w), ctx.wanted, strict=True))
        if v is None and u is None and w is None:
            return (None,) * 17
        _, _, for_g, for_a, for_b, for_h, for_h0, for_last, *_ = ctx.needs_input_grad
        q, cuts = _decay(family, a, dtype), Cuts(*cuts)
        source = _source(family, axis, reverse, a, b, h, h0, cuts, v, u)
        e, e_last = _forward(LINEAR, q, source, w, *cuts, axis, reverse, dtype)
        grad_q, d, _ = _vjp(LINEAR, g, q, source, e, w, grad_last, *cuts, axis, reverse, dtype, for_a, True, False)
        valid = _valid(h, cuts.lengths, axis)
        to_a = to_b = to_h = to_h0 = None
        if for_a:
            to_a = _like(-grad_q if family == FORGET else grad_q, a)
            if family == FORGET and u is not None:
                to_a = to_a + _like(_masked(u.conj() * d, valid), a)
        if v is not None and (for_b or for_h or for_h0):
            to_s = _masked(v.conj() * d, valid)
            to_b = _like(to_s, b) if for_b and family == FORGET else None
            to_before = -to_s if family == FORGET else to_s
            to_h, to_h0 = _to_before(to_before, h0, cuts, axis, reverse)
            to_h, to_h0 = _like(to_h, h) if for_h else None, _like(to_h0, h0) if for_h0 else None
        to_g, to_last = _like(e, g) if for_g else None, _like(e_last, grad_last) if for_last else None
        return None, None, to_g, to_a, to_b, to_h, to_h0, to_last, *(None,) * 9

    @staticmethod
    def jvp(ctx, *tangents):
        """Refuse: forward over reverse is not derived here."""
        raise NotImplementedError(say.segments_tangents())


def _by_lanes(flags, array):
    """Return what is shaped like leading axes of an array with as many axes as that."""
    return flags.reshape(tuple(flags.shape) + (1,) * (array.dim() - flags.dim()))


def _borders(array, cuts, axis, reverse):
    """Return, for each step, whether a segment's first state stands before it, and whether zero does."""
    steps, ndim = array.shape[axis], array.dim()
    time = (1,) * axis + (-1,) + (1,) * (ndim - axis - 1)
    index = torch.arange(steps, device=array.device)
    if cuts.offsets is None:
        first = (index == (steps - 1 if reverse else 0)).reshape(time)
        if reverse and cuts.lengths is not None:
            first = _autograd._steps(array, axis) == _autograd._ends(array, cuts.lengths, axis) - 1
    else:
        marks = torch.zeros(steps + 1, dtype=torch.bool, device=array.device)
        at = cuts.offsets[1:] if reverse else cuts.offsets[:-1]
        marks = marks.index_fill(0, at.to(torch.int64), True)
        first = (marks[1:] if reverse else marks[:-1]).reshape(time)
    fresh = torch.zeros_like(first)
    if cuts.resets is not None:
        fresh = _by_lanes(cuts.resets, array)
        if fresh.shape[axis] != steps:
            fresh = fresh.expand(tuple(steps if k == axis else n for k, n in enumerate(fresh.shape)))
        if reverse and steps:
            last = torch.zeros_like(fresh.narrow(axis, 0, 1))
            fresh = torch.cat([fresh.narrow(axis, 1, steps - 1), last], axis) & ~first
    return first & ~fresh, first | fresh


def _of_segments(offsets, steps):
    """Return each step's segment."""
    index = torch.arange(steps, device=offsets.device)
    return torch.searchsorted(offsets.to(torch.int64), index, right=True) - 1


def _before(h, h0, cuts, axis, reverse):
    """Return the state before each step, in the scan direction."""
    first, begins = _borders(h, cuts, axis, reverse)
    before = torch.where(begins, 0, _autograd._shifted(h, None, None, axis, reverse))
    if h0 is None:
        return before
    h0 = h0.to(h.dtype).expand(_lanes(h.shape, axis, cuts))
    if cuts.offsets is None:
        return torch.where(first, h0.unsqueeze(axis), before)
    own = h0.index_select(0, _of_segments(cuts.offsets, h.shape[axis])).movedim(0, axis)
    return torch.where(first, own, before)


def _to_before(grad, h0, cuts, axis, reverse):
    """Return the gradients of h and h0 of those of the states before all steps."""
    first, begins = _borders(grad, cuts, axis, reverse)
    to_h = _autograd._shifted(torch.where(begins, 0, grad), None, None, axis, not reverse)
    if h0 is None:
        return to_h, None
    own = torch.where(first, grad, 0)
    if cuts.offsets is None:
        return to_h, own.sum(axis)
    to_h0 = own.new_zeros(_lanes(grad.shape, axis, cuts))
    return to_h, to_h0.index_add(0, _of_segments(cuts.offsets, grad.shape[axis]), own.movedim(axis, 0))


def _source(family, axis, reverse, a, b, h, h0, cuts, v, u):
    """Return what drives the recurrence of tangents, as `_autograd._source_of` does."""
    source = None
    if u is not None:
        source = u * a if family == FORGET else u
    if v is not None:
        before = _before(h, h0, cuts, axis, reverse)
        source = _sum(source, v * (b - before if family == FORGET else before))
    return _full(source, h)


# ---- vmap -----------------------------------------------------------------------------------------------------------


def _cuts_with_batch(cuts, dims, a, b, axis, rank):
    """Return lengths, offsets and resets for lanes that have the batch behind them."""
    lengths, offsets, resets = cuts
    if dims[1] is not None:
        raise NotImplementedError(say.segments_batched())
    if dims[2] is not None:
        resets = resets.movedim(dims[2], -1)
        own = tuple(resets.shape)
        resets = resets.reshape(own[:-1] + (1,) * (rank - len(own) + 1) + own[-1:])
    return _autograd._lengths_with_batch(lengths, dims[0], a, b, axis, rank), offsets, resets


def _forward_vmap(info, in_dims, family, a, b, h0, lengths, offsets, resets, axis, reverse, dtype):
    """Take the batch for one more lane axis, the last."""
    rank = max(_autograd._rank(a, in_dims[1]), _autograd._rank(b, in_dims[2]))
    a, b, h0 = (_autograd._with_batch(v, dim) for v, dim in zip((a, b, h0), in_dims[1:4], strict=True))
    b = b.expand(b.shape[:-1] + (info.batch_size,))
    cuts = _cuts_with_batch((lengths, offsets, resets), in_dims[4:7], a, b, axis, rank)
    last = rank - 1 if offsets is None else rank
    return _forward(family, a, b, h0, *cuts, axis, reverse, dtype), (rank, last)


def _vjp_vmap(info, in_dims, *arguments):
    """Take the batch for one more lane axis, the last; each sample has gradients of its own."""
    family, g, a, b, h, h0, grad_last, lengths, offsets, resets, axis, reverse, dtype, *wanted = arguments
    operands, dims = (g, a, b, h, h0, grad_last), in_dims[1:7]
    rank = max(_autograd._rank(a, dims[1]), _autograd._rank(b, dims[2]))
    operands = (_autograd._with_batch(v, dim, info.batch_size) for v, dim in zip(operands, dims, strict=True))
    g, a, b, h, h0, grad_last = operands
    cuts = _cuts_with_batch((lengths, offsets, resets), in_dims[7:10], a, b, axis, rank)
    grads = _vjp(family, g, a, b, h, h0, grad_last, *cuts, axis, reverse, dtype, *wanted)
    return grads, tuple(v.dim() - 1 if is_wanted else None for v, is_wanted in zip((a, b, h0), wanted, strict=True))


for _rules, _kernel, _fake, _vmap in (
    (_Forward, _run_forward, _forward_fake, _forward_vmap),
    (_Vjp, _run_vjp, _vjp_fake, _vjp_vmap),
):
    _name = _rules.operator.name().partition(".")[0]
    _ops.library.impl(_rules.operator, _kernel, "CPU")
    torch.library.register_fake(_name, _fake, lib=_ops.library)
    _ops.library.impl(_rules.operator, _rules.run, "Autograd", with_keyset=True)
    torch.library.register_vmap(_name, _vmap, lib=_ops.library)


# ---- The adapter ----------------------------------------------------------------------------------------------------


def _take(segments, shape, axis, operands):
    """Return lengths, offsets and resets as tensors; raise for what they cannot be. Ranges are the operator's."""
    lengths, offsets, resets = segments
    like = next(v for v in operands if not _is_number(v))
    if not like.is_cpu and like.device.type != "meta":
        raise TypeError(say.segments_library("resets" if offsets is None else "offsets", "CUDA tensors"))
    if offsets is not None:
        if not isinstance(offsets, torch.Tensor):
            offsets = torch.from_numpy(_checks.offsets(offsets).astype("int64"))
        if offsets.dtype not in _tensors.INTEGERS or offsets.dtype is torch.bool:
            raise TypeError(say.offsets_kind(offsets.dtype, offsets.shape))
        if offsets.dim() != 1 or not offsets.shape[0]:
            raise ValueError(say.offsets_kind(offsets.dtype, offsets.shape))
    if resets is not None:
        if not isinstance(resets, torch.Tensor):
            resets = torch.from_numpy(_checks.resets(resets))
        if resets.dtype is not torch.bool:
            raise TypeError(say.resets_dtype(resets.dtype))
        came, wanted = resets.shape, shape[: resets.dim()]
        if not axis < len(came) <= len(shape) or any(n not in (1, m) for n, m in zip(came, wanted, strict=True)):
            raise ValueError(say.resets_shape(came, shape, axis))
    return Cuts(_arguments.lengths(lengths, shape, axis, operands), offsets, resets)


def _check_state(name, state, lanes):
    if isinstance(state, torch.Tensor) and not _arguments.fits(state.shape, lanes):
        raise ValueError(say.state_shape(name, state.shape, lanes))


def _paired(cuts):
    """Return cuts of pairs, along a last axis."""
    lengths = cuts.lengths
    return cuts._replace(lengths=lengths.expand(2)) if lengths is not None and not lengths.dim() else cuts


def forward(family, names, a, b, h0, axis, reverse, segments, return_state, out):
    """Run a recurrence; ``names`` are what the caller calls the operands."""
    if is_overridden(a, b, h0, out, *segments):
        options = dict(axis=axis, reverse=reverse, **segments._asdict(), return_state=return_state, out=out)
        return _overridden(_adapters.public[family][0], (a, b, h0), options)
    a, b, h0, out = _arguments.take((*names, "out"), a, b, h0, out)
    axis, reverse = _checks.axis(axis), _checks.flag("reverse", reverse)
    return_state = _checks.flag("return_state", return_state)
    _arguments.check_gate(family, names[0], a)
    dtype = _arguments.result_dtype(names, a, b, h0)
    shape, axis = _arguments.shape_and_axis(names[:2], a, b, axis)
    cuts = _take(segments, shape, axis, (a, b))
    _check_state("h0", h0, _lanes(shape, axis, cuts))
    if out is not None:
        _arguments.check_out(out, shape, dtype, ((names[0], a), (names[1], b), ("h0", h0)))
        _arguments.check_overlap(out, ((names[0], a), (names[1], b)))
    like = b if _is_number(a) else a
    if dtype.is_complex and not is_complex(a):
        pairs = [None if v is None else _arguments.pair(v, dtype, a, b) for v in (b, h0)]
        gate, real = a if _is_number(a) else a.unsqueeze(-1), _tensors.REAL[dtype]
        h, h_last = map(
            _arguments.joined, _forward(family, as_tensor(gate, like), *pairs, *_paired(cuts), axis, reverse, real)
        )
    else:
        a, b, h0 = (as_tensor(v, like) for v in (a, b, h0))
        h, h_last = _forward(family, a, b, h0, *cuts, axis, reverse, dtype)
    if out is not None:
        h = out.copy_(h)
    return (h, h_last) if return_state else h


def vjp(family, names, g, a, b, h, h0, axis, reverse, segments, grad_state):
    """Run a recurrence's adjoint; ``names`` are what the caller calls ``g, a, b, h``."""
    if is_overridden(g, a, b, h, h0, grad_state, *segments):
        options = dict(axis=axis, reverse=reverse, **segments._asdict(), grad_state=grad_state)
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
    cuts, operands = _take(segments, shape, axis, (a, b)), (a, b, h0)
    for name, value in (("h0", h0), ("grad_state", grad_state)):
        _check_state(name, value, _lanes(shape, axis, cuts))
    for name, value in ((names[0], g), (names[3], h)):
        if not _arguments.fits(() if _is_number(value) else value.shape, shape):
            raise ValueError(say.operand_shape(name, value.shape, shape))
    like = b if _is_number(a) else a
    is_paired = dtype.is_complex and not is_complex(a)
    if is_paired:
        gate = a if _is_number(a) else a.unsqueeze(-1)
        g, b, h, h0, grad_state = (
            None if v is None else _arguments.pair(v, dtype, a, b) for v in (g, b, h, h0, grad_state)
        )
        a, cuts, dtype, shape = gate, _paired(cuts), _tensors.REAL[dtype], (*shape, 2)
    g, a, b, h, h0, grad_state = (as_tensor(v, like) for v in (g, a, b, h, h0, grad_state))
    wanted = True, True, h0 is not None
    grads = _vjp(family, g.expand(shape), a, b, h.expand(shape), h0, grad_state, *cuts, axis, reverse, dtype, *wanted)
    if is_paired:
        joined = [None if v is None else _arguments.joined(v) for v in (*grads[1:2], grads[2] if wanted[2] else None)]
        grads = (grads[0].squeeze(-1) if grads[0].dim() else grads[0]), *joined
    return tuple(
        None if operand is None
        else (grad.real if grad.is_complex() and not is_complex(operand) else grad).to(
            _tensors.gradient_dtype(operand, own)
        )
        for grad, operand in zip(grads, operands, strict=True)
    )  # fmt: skip


def _overridden(public, operands, options):
    """Hand a call over to a subclass or mode that overrides torch's functions."""
    tensors = tuple(v for v in (*operands, *options.values()) if isinstance(v, torch.Tensor))
    return torch.overrides.handle_torch_function(public, tensors, *operands, **options)

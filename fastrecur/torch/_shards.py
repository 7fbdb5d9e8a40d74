"""A recurrence whose time is held in shards, one a rank: summaries, one exchange, and the scan of one's own shard.

In the scan direction a shard makes ``A*h + B`` of the state ``h`` that it is reached by. So every rank needs of the
others ``A`` and ``B`` alone: the ranks' summaries are a linear recurrence once more, over ranks, which each rank scans
for itself. Then it scans its shard from the state that reaches it. The gradient does the same against time.

A third result is the state ``h_in`` that reaches a rank. It is what makes the family closed: the gradient of the
gradient needs the state before a shard's first step, and what flows back through it belongs to the rank before. As a
cotangent of ``h_in`` it joins what that rank is told of its later ones anyway.
"""

import torch
from torch.autograd import Function

from .. import _checks
from .._cpu._scan import CANCELLED
from .._problem import LINEAR
from . import _arguments, _exchange, _ops, _tensors
from ._along_time import decay, lanes, like, masked, valid_steps
from ._autograd import Steps, nothing, source_of, through_steps
from ._exchange import BACKWARD, FORWARD

PIECES = 16  # that a long shard of few lanes is cut into, to be summarised side by side
LONG, FEW = 4096, 8

_OPTIONS = "int axis, bool reverse, ScalarType dtype, bool return_state, bool wants, str group"
_library = torch.library.Library("fastrecur", "FRAGMENT")
_library.define(
    f"shard(str family, Tensor a, Tensor b, Tensor? h0, Tensor? lengths, {_OPTIONS}) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "shard_backward(str family, Tensor g, Tensor a, Tensor b, Tensor h, Tensor h_in, Tensor? grad_last,"
    f" Tensor? grad_in, Tensor? lengths, {_OPTIONS}, bool want_a, bool want_b) -> (Tensor, Tensor, Tensor)"
)


# ---- Summaries ------------------------------------------------------------------------------------------------------


def summary(family, a, b, start, lengths, axis, reverse, dtype, back=False):
    """Return what a shard multiplies a state by, and what becomes of the state ``start``, in the carry's dtype.

    With ``back`` the states are cotangents, ``b`` holds those of the steps, and ``reverse`` is the adjoint's direction.
    """
    if not b.is_cpu:  # elsewhere nothing reads without writing
        return _composed_summary(family, a, b, start, lengths, axis, reverse, dtype, back)
    shape = torch.broadcast_shapes(a.shape, b.shape)
    steps = shape[axis] // PIECES
    lanes = shape[:axis] + shape[axis + 1 :]
    if lengths is not None or shape[axis] < LONG or lanes.numel() >= FEW:
        return _tensors.summary(family, a, b, start, lengths, axis, reverse, dtype, back)
    a, b = a.expand(shape), b.expand(shape)
    rest = shape[axis] - PIECES * steps
    cut, beyond = (rest, 0) if reverse else (0, PIECES * steps)
    pieces = [v.narrow(axis, cut, PIECES * steps).unflatten(axis, (PIECES, steps)).movedim(axis, 0) for v in (a, b)]
    products, ends = _tensors.summary(family, *pieces, None, None, axis + 1, reverse, dtype, back)
    states, unsound = compose(_back(products, back), ends, start, reverse)
    if unsound is not None:
        return _tensors.summary(family, a, b, start, None, axis, reverse, dtype, back)
    last = states[-1]
    tail = [v.narrow(axis, beyond, rest) for v in (a, b)]
    product, end = _tensors.summary(family, *tail, last, None, axis, reverse, dtype, back)
    return product * products.prod(0), end


def _back(products, back):
    return products.conj().resolve_conj() if back else products


def _composed_summary(family, a, b, start, lengths, axis, reverse, dtype, back):
    """Do what `summary` does, by torch's operators, which write as much as they read."""
    shape = torch.broadcast_shapes(a.shape, b.shape)
    wide, valid = _tensors.wide(dtype, b.device), valid_steps(b.expand(shape), lengths, axis)
    q = masked(decay(family, a, dtype).to(wide).expand(shape), valid, 1)
    if back:
        source = masked(b, valid) * q.conj()
        _, end = _ops.forward(LINEAR, q.conj().resolve_conj(), source, start, None, axis, reverse, wide)
    else:
        _, end = _ops.forward(family, a, b, start, lengths, axis, reverse, wide)
    return q.prod(axis), end


def compose(products, ends, start, reverse, known=()):
    """Return the state before and behind every rank, in the scan direction, and None or where to use none.

    They are of no use where a composed state is not finite or has cancelled: that rank's own scan might have gone
    another way. The ends of ranks whose places are ``known`` are such scans'.
    """
    states = [torch.zeros_like(ends[0]) if start is None else start.to(ends.dtype)]
    if reverse:
        products, ends = products.flip(0), ends.flip(0)
    for place, (product, end) in enumerate(zip(products, ends, strict=True)):
        states.append(end if place in known else torch.addcmul(end, product, states[-1]))
    states = torch.stack(states)
    if ends.is_cpu and bool(torch.isfinite(states).all()) and bool((products.abs() <= 1).all()):
        return states, None
    before, behind = states[:-1], states[1:]
    lost = (products.abs() > 1) & ((products * before).abs() > CANCELLED * behind.abs())
    unsound = ~before.isnan() & (lost | ~torch.isfinite(behind))
    unsound[list(known)] = False
    return states, unsound


def _reached(name, header, own, start, reverse, scan, needs_end):
    """Return the states before this rank and behind the last one, of what every rank makes of a state.

    ``own`` is this rank's product and end, then what is to be added up over the ranks to the start; without that the
    first rank has scanned from the start. Where composing is not sound, the ranks concerned scan one after another from
    the states that truly reach them, and tell.
    """
    place, size = _exchange.place_of(name, reverse)
    (products, ends, *starts), _ = _exchange.gather(name, header, *own)
    known = []
    if starts:
        start = starts[0].sum(0)
    else:
        known.append(0)
    while True:
        states, unsound = compose(products, ends, start, reverse, known)
        if unsound is None:
            break
        if not ends.is_cpu:  # to look there would be to wait for the GPU: what cannot be composed is NaN
            states[1:] = torch.where(unsound.cumsum(0) > 0, torch.nan, states[1:])
            break
        torn = unsound.reshape(size, -1).any(1).tolist()
        if True not in torn[: size if needs_end else -1]:
            break
        known.append(torn.index(True))
        end = scan(states[place]) if place == known[-1] else own[1]
        (_, told), _ = _exchange.gather(name, _exchange.again(header, len(known)), own[0], end)
        torn_rank = size - 1 - known[-1] if reverse else known[-1]
        ends[torn_rank] = told[torn_rank]
    return states[place], states[-1]


def _kernels(tensor):
    """Return the operators that scan a tensor; on the CPU the inside of them, to which nothing else would be added."""
    return (_ops._forward, _ops._vjp) if tensor.is_cpu else (_ops.forward, _ops.vjp)


# ---- Runs ----------------------------------------------------------------------------------------------------------


def _header(act, family, dtype, reverse, return_state, wants, lengths, shape, axis):
    flags = reverse | return_state << 1 | wants << 2 | (lengths is not None) << 3
    return _exchange.describe(act, family, dtype, flags, shape[:axis] + shape[axis + 1 :], shape[axis])


def _forward(family, a, b, h0, lengths, axis, reverse, dtype, return_state, wants, group):
    place, size = _exchange.place_of(group, reverse)
    shape, wide = torch.broadcast_shapes(a.shape, b.shape), _tensors.wide(dtype, b.device)
    lanes = shape[:axis] + shape[axis + 1 :]
    is_first, is_last = place == 0, place == size - 1
    h_in = b.new_zeros(lanes, dtype=wide)
    if is_first and h0 is not None:
        h_in.copy_(h0.expand(lanes))
    h_last = h_in
    if size > 1:

        def scan(start):
            return summary(family, a, b, start, lengths, axis, reverse, dtype)[1]

        own = [torch.zeros_like(h_in), torch.zeros_like(h_in)]
        if is_first:
            own[1] = scan(h_in)  # nothing reaches it that it does not know
        elif not is_last or return_state:
            own = summary(family, a, b, None, lengths, axis, reverse, dtype)
        header = _header(FORWARD, family, dtype, reverse, return_state, wants, lengths, shape, axis)
        before, h_last = _reached(group, header, own, None, reverse, scan, return_state)
        if not is_first:
            h_in = before.contiguous()
    h, own_last = _kernels(b)[0](family, a, b, h_in, lengths, axis, reverse, dtype)
    h_last = own_last if size == 1 else h_last.to(dtype, copy=True)
    return h, h_last, h_in


def _vjp(family, g, a, b, h, h_in, grad_last, grad_in, lengths, *options):
    axis, reverse, dtype, return_state, wants, group, *ab = options
    place, size = _exchange.place_of(group, reverse)
    is_first, is_last = place == 0, place == size - 1
    shape = h.shape
    arriving = h_in.new_zeros(h_in.shape)
    if return_state and grad_last is not None:
        arriving.copy_(grad_last)
    if size > 1:

        def scan(start):
            end = summary(family, a, g, start, lengths, axis, not reverse, dtype, True)[1]
            return end if grad_in is None else end + grad_in

        product, end = torch.zeros_like(h_in), torch.zeros_like(h_in)
        if is_last and not return_state:
            end = scan(None)
        elif not is_first:
            product, end = summary(family, a, g, None, lengths, axis, not reverse, dtype, True)
            product = _back(product, True)
            end = end if grad_in is None else end + grad_in
        header = _header(BACKWARD, family, dtype, reverse, return_state, wants, lengths, shape, axis)
        own = [product, end, *([arriving] if return_state else [])]
        arriving, _ = _reached(group, header, own, None, not reverse, scan, False)
    grad_a, grad_b, grad_first = _kernels(h)[1](
        family, g, a, b, h, h_in, arriving, lengths, axis, reverse, dtype, *ab, is_first
    )
    if not is_first:
        grad_first = torch.zeros_like(h_in)
    elif grad_in is not None:
        grad_first = grad_first + grad_in
    return grad_a, grad_b, grad_first


def _forward_fake(family, a, b, h0, lengths, axis, reverse, dtype, return_state, wants, group):
    h, h_last = _ops._forward_fake(family, a, b, h0, lengths, axis, reverse, dtype)
    return h, h_last, h_last.new_empty(h_last.shape, dtype=_tensors.wide(dtype, h.device))


def _vjp_fake(family, g, a, b, h, h_in, grad_last, grad_in, lengths, *options):
    axis, reverse, dtype, _, _, _, want_a, want_b = options
    return _ops._vjp_fake(family, g, a, b, h, h_in, grad_last, lengths, axis, reverse, dtype, want_a, want_b, True)


_library.impl("shard", _forward, "CompositeExplicitAutograd")
_library.impl("shard_backward", _vjp, "CompositeExplicitAutograd")
torch.library.register_fake("fastrecur::shard", _forward_fake, lib=_library)
torch.library.register_fake("fastrecur::shard_backward", _vjp_fake, lib=_library)
forward = torch.ops.fastrecur.shard.default
vjp = torch.ops.fastrecur.shard_backward.default


# ---- Derivatives ----------------------------------------------------------------------------------------------------


class Shard(Function):
    """``(a, b, h0, lengths, family, axis, reverse, dtype, return_state, wants, group) -> (h, h_last, h_in)``."""

    @staticmethod
    def forward(ctx, a, b, h0, lengths, family, *options):
        """Scan the shard."""
        h, h_last, h_in = forward(family, a, b, h0, lengths, *options)
        ctx.problem = family, options
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(a, b, h, h_in, h0, lengths)
        return h, h_last, h_in

    @staticmethod
    def backward(ctx, grad_h, grad_last, grad_in):
        """Return the gradients of a, b and h0. Every rank takes part, whatever of it is asked for."""
        a, b, h, h_in, h0, lengths = ctx.saved_tensors
        family, options = ctx.problem
        if grad_h is None:
            grad_h = nothing(h, h.shape, h.dtype)
        want_a, want_b, want_h0 = ctx.needs_input_grad[:3]
        grad_a, grad_b, grad_first = ShardVjp.apply(
            grad_h, a, b, h, h_in, grad_last, grad_in, lengths, family, want_a, want_b, *options
        )
        grad_h0 = like(grad_first, h0) if want_h0 else None
        return grad_a if want_a else None, grad_b if want_b else None, grad_h0, *(None,) * 8


class ShardVjp(Function):
    """The adjoint of `Shard`.

    ``(g, a, b, h, h_in, grad_last, grad_in, lengths, family, want_a, want_b, axis, reverse, dtype, return_state, wants,
    group) -> (grad_a, grad_b, grad_first)``, the last in all lanes, and zeros but where the scan begins.
    """

    @staticmethod
    def forward(ctx, g, a, b, h, h_in, grad_last, grad_in, lengths, family, want_a, want_b, *options):
        """Scan the shard against time."""
        grads = vjp(family, g, a, b, h, h_in, grad_last, grad_in, lengths, *options, want_a, want_b)
        ctx.problem = family, want_a, want_b, options
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(v for v, wanted in zip(grads[:2], (want_a, want_b), strict=True) if not wanted))
        ctx.save_for_backward(g, a, b, h, h_in, grad_last, grad_in, lengths)
        return grads

    @staticmethod
    def backward(ctx, v, u, w):
        """Do what `_autograd._Vjp.gradients` does, in whose letters this is written."""
        g, a, b, h, h_in, grad_last, grad_in, lengths = ctx.saved_tensors
        family, want_a, want_b, (axis, reverse, dtype, return_state, wants, group) = ctx.problem
        v, u = v if want_a else None, u if want_b else None
        for_g, for_a, for_b, for_h, for_in, for_last, for_grad_in = ctx.needs_input_grad[:7]
        q = decay(family, a, dtype)
        steps = Steps(family, axis, reverse, dtype, a, b, h, h_in, lengths)
        source = source_of(steps, v, u)
        options = axis, reverse, dtype, return_state, wants, group
        e, e_last, e_in = Shard.apply(q, source, w, lengths, LINEAR, *options)
        grad_q, d, _ = ShardVjp.apply(g, q, source, e, e_in, grad_last, grad_in, lengths, LINEAR, for_a, True, *options)
        through = through_steps(steps, v, u, grad_q, d, (for_a, for_b, for_h, for_in))
        to_g = like(e, g) if for_g else None
        to_last = like(e_last, grad_last) if for_last else None
        to_grad_in = like(e_in, grad_in) if for_grad_in else None
        return to_g, *through, to_last, to_grad_in, *(None,) * 10


# ---- Taking arguments -----------------------------------------------------------------------------------------------


def run(family, a, b, h0, axis, reverse, lengths, return_state, group):
    """Check arguments as `_call.forward` does, and run a recurrence of this rank's shard."""
    names = _tensors.NAMES[family]
    a, b, h0 = _arguments.take(names, a, b, h0)
    axis, reverse = _checks.axis(axis), _checks.flag("reverse", reverse)
    return_state = _checks.flag("return_state", return_state)
    _arguments.check_gate(family, names[0], a)
    dtype = _arguments.result_dtype(names, a, b, h0)
    shape, axis = _arguments.shape_and_axis(names[:2], a, b, axis)
    lengths = _arguments.lengths(lengths, shape, axis, (a, b))
    _arguments.check_state("h0", h0, lanes(shape, axis, lengths))
    is_pair = dtype.is_complex and not _arguments.is_complex(a)
    if is_pair:  # two real series
        b, h0 = (None if v is None else _arguments.pair(v, dtype, a, b) for v in (b, h0))
        a = a if _tensors.is_number(a) else a.unsqueeze(-1)
        lengths = lengths.expand(2) if lengths is not None and not lengths.dim() else lengths
        dtype = _tensors.REAL[dtype]
    tensors = [v for v in (a, b, h0) if isinstance(v, torch.Tensor)]
    a, b, h0 = (_arguments.as_tensor(v, tensors[0]) for v in (a, b, h0))
    wants = torch.is_grad_enabled() and any(v.requires_grad for v in tensors)
    h, h_last, _ = Shard.apply(a, b, h0, lengths, family, axis, reverse, dtype, return_state, wants, group)
    if is_pair:
        h, h_last = _arguments.joined(h), _arguments.joined(h_last)
    return (h, h_last) if return_state else h

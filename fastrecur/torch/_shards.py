"""A recurrence whose time is held in shards, one a rank: summaries, one exchange, and the scan of one's own shard.

In the scan direction a shard makes ``A*h + B`` of the state ``h`` that it is reached by. So every rank needs of the
others ``A`` and ``B`` alone: the ranks' summaries are a linear recurrence once more, over ranks, which each rank scans
for itself. Then it scans its shard from the state that reaches it. The gradient does the same against time.

A third result is the state ``h_in`` that reaches a rank, and a fourth operand, ``added``, joins what a rank hands on.
They make the family closed, for the gradient of each is the other: the gradient of the gradient needs the state before
a shard's first step, and what flows back through that belongs to the rank before.
"""

import torch
from torch.autograd import Function

from .._cpu._scan import CANCELLED
from .._problem import LINEAR
from . import _arguments, _exchange, _ops, _tensors
from ._along_time import adjoint, decay, like, masked, valid_steps
from ._autograd import nothing

PIECES = 16  # that a long shard of few lanes is cut into, to be summarised side by side
LONG, FEW = 4096, 8

_OPTIONS = "int axis, bool reverse, ScalarType dtype, bool return_state, bool wants, str group"
_library = torch.library.Library("fastrecur", "FRAGMENT")
_library.define(
    "shard(str family, Tensor a, Tensor b, Tensor? h0, Tensor? added, Tensor? lengths,"
    f" {_OPTIONS}) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "shard_backward(str family, Tensor g, Tensor a, Tensor b, Tensor h, Tensor h_in, Tensor? grad_last,"
    f" Tensor? grad_in, Tensor? lengths, {_OPTIONS}, bool want_a, bool want_b) -> (Tensor, Tensor, Tensor, Tensor)"
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
        family, a, b = LINEAR, q.conj().resolve_conj(), b * q.conj()
    return q.prod(axis), _ops.forward(family, a, b, start, lengths, axis, reverse, wide)[1]


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


def _reach(act, problem, b, added, start, lengths, options, needs_end):
    """Return the state that reaches this rank, and, if it `needs_end`, the one behind all of them.

    With an ``act``, what travels are cotangents against time, and the start is the sum of all ranks' starts. Where
    composing is not sound, the ranks concerned scan one after another from the states that truly reach them, and tell.
    """
    family, a, shape = problem
    axis, reverse, dtype, return_state, wants, group = options
    back = bool(act)
    towards = reverse != back
    place, size = _exchange.place_of(group, towards)
    if size == 1:
        return start, None

    def scan(start):
        product, end = summary(family, a, b, start, lengths, axis, towards, dtype, back)
        return _back(product, back), end if added is None else end + added

    own, is_shared = [torch.zeros_like(start)] * 2, back and return_state
    if place == 0 and not is_shared:
        own = [own[0], scan(start)[1]]  # nothing reaches it that it does not know
    elif place < size - 1 or needs_end:
        own = scan(None)
    lanes, flags = shape[:axis] + shape[axis + 1 :], {"reverse": reverse, "return_state": return_state}
    header = act + _exchange.describe(family, dtype, lanes, wants, **flags, lengths=lengths is not None)
    sent = [*own, start] if is_shared else own
    (products, ends, *starts), _ = _exchange.gather(group, header, shape[axis], *sent)
    known, total = ([], starts[0].sum(0)) if is_shared else ([0], None)
    while True:
        states, unsound = compose(products, ends, total, towards, known)
        if unsound is None:
            break
        if not ends.is_cpu:  # to look there would be to wait for the GPU: what cannot be composed is NaN
            states[1:] = torch.where(unsound.cumsum(0) > 0, torch.nan, states[1:])
            break
        invalid_ranks = unsound.reshape(size, -1).any(1).tolist()
        if True not in invalid_ranks[: size if needs_end else -1]:
            break
        known.append(invalid_ranks.index(True))
        end = scan(states[place])[1] if place == known[-1] else own[1]
        again = f"exchange {len(known) + 1} for {header}"
        (_, scanned), _ = _exchange.gather(group, again, shape[axis], own[0], end)
        rank = size - 1 - known[-1] if towards else known[-1]
        ends[rank] = scanned[rank]
    return start if place == 0 and not is_shared else states[place].contiguous(), states[-1]


# ---- Runs ----------------------------------------------------------------------------------------------------------


def _forward(family, a, b, h0, added, lengths, *options):
    axis, reverse, dtype, return_state, _, group = options
    shape, wide = torch.broadcast_shapes(a.shape, b.shape), _tensors.wide(dtype, b.device)
    h_in = b.new_zeros(shape[:axis] + shape[axis + 1 :], dtype=wide)
    if _exchange.place_of(group, reverse)[0] == 0 and h0 is not None:
        h_in.copy_(h0.expand(h_in.shape))
    h_in, end = _reach("", (family, a, shape), b, added, h_in, lengths, options, return_state)
    h, h_last = _ops.forward(family, a, b, h_in, lengths, axis, reverse, dtype)
    if end is not None:
        h_last = end.to(dtype, copy=True)
    elif added is not None:
        h_last = h_last + added.to(dtype)
    return h, h_last, h_in


def _vjp(family, g, a, b, h, h_in, grad_last, grad_in, lengths, *options):
    *options, want_a, want_b = options
    axis, reverse, dtype, return_state, _, group = options
    arriving = h_in.new_zeros(h_in.shape)
    if return_state and grad_last is not None:
        arriving.copy_(grad_last)
    problem = family, a, h.shape
    arriving, _ = _reach("the gradient of ", problem, g, grad_in, arriving, lengths, options, False)
    is_first = _exchange.place_of(group, reverse)[0] == 0
    grad_a, grad_b, grad_first = _ops.vjp(
        family, g, a, b, h, h_in, arriving, lengths, axis, reverse, dtype, want_a, want_b, is_first
    )
    if not is_first:
        grad_first = torch.zeros_like(h_in)
    elif grad_in is not None:
        grad_first = grad_first + grad_in
    return grad_a, grad_b, grad_first, arriving


def _forward_fake(family, a, b, h0, added, lengths, axis, reverse, dtype, *_):
    h, h_last = _ops._forward_fake(family, a, b, h0, lengths, axis, reverse, dtype)
    return h, h_last, h_last.new_empty(h_last.shape, dtype=_tensors.wide(dtype, h.device))


def _vjp_fake(family, g, a, b, h, h_in, grad_last, grad_in, lengths, axis, reverse, dtype, *options):
    grads = _ops._vjp_fake(family, g, a, b, h, h_in, grad_last, lengths, axis, reverse, dtype, *options[-2:], True)
    return *grads, torch.empty_like(h_in)


_library.impl("shard", _forward, "CompositeExplicitAutograd")
_library.impl("shard_backward", _vjp, "CompositeExplicitAutograd")
torch.library.register_fake("fastrecur::shard", _forward_fake, lib=_library)
torch.library.register_fake("fastrecur::shard_backward", _vjp_fake, lib=_library)


class Shard(Function):
    """``(a, b, h0, added, lengths, family, axis, reverse, dtype, return_state, wants, group) -> (h, h_last, h_in)``."""

    @staticmethod
    def forward(ctx, a, b, h0, added, lengths, family, *options):
        """Scan the shard."""
        h, h_last, h_in = torch.ops.fastrecur.shard.default(family, a, b, h0, added, lengths, *options)
        ctx.problem = family, options
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(a, b, h, h_in, h0, added, lengths)
        return h, h_last, h_in

    @staticmethod
    def backward(ctx, g, grad_last, grad_in):
        """Return the gradients of a, b, h0 and added. Every rank takes part, whatever of it is asked for."""
        a, b, h, h_in, h0, added, lengths = ctx.saved_tensors
        family, options = ctx.problem
        want_a, want_b, want_h0, want_added = ctx.needs_input_grad[:4]
        g = nothing(h, h.shape, h.dtype) if g is None else g
        saved, wanted = (g, a, b, h, h_in, grad_last, grad_in, lengths), (want_a, want_b)
        if torch.is_grad_enabled():
            grad_a, grad_b, grad_first, arriving = _differentiable_vjp(family, *saved, options, wanted)
        else:
            grad_a, grad_b, grad_first, arriving = torch.ops.fastrecur.shard_backward.default(
                family, *saved, *options, *wanted
            )
        grad_h0 = like(grad_first, h0) if want_h0 else None
        grad_added = like(arriving, added) if want_added else None
        return grad_a if want_a else None, grad_b if want_b else None, grad_h0, grad_added, *(None,) * 8


def _differentiable_vjp(family, g, a, b, h, h_in, grad_last, grad_in, lengths, options, wanted):
    """Do what `_vjp` does, made of `Shard` in the other direction."""
    axis, reverse, dtype, return_state, wants, group = options
    start = None
    if return_state:
        start = nothing(h, h_in.shape, h.dtype) if grad_last is None else grad_last
        start = _exchange.Sum.apply(group, start)

    arriving = None

    def run(q, source):
        nonlocal arriving
        options = axis, not reverse, dtype, True, wants, group
        e, last, arriving = Shard.apply(q, source, start, grad_in, lengths, LINEAR, *options)
        return e, last, arriving

    steps = family, axis, reverse, dtype, a, b, h, h_in, lengths
    grad_a, grad_b, grad_first = adjoint(steps, run, g, wanted)
    is_later = torch.tensor(_exchange.place_of(group, reverse)[0] > 0, device=h.device)
    grad_first = grad_first.masked_fill(is_later, 0)  # still to be differentiated, as it is for the first rank
    return grad_a, grad_b, grad_first, arriving


# ---- Taking arguments -----------------------------------------------------------------------------------------------


def run(family, a, b, h0, axis, reverse, lengths, return_state, group):
    """Check arguments as `_call.forward` does, and run a recurrence of this rank's shard."""
    call = _arguments.take_call(family, _tensors.NAMES[family], a, b, h0, None, axis, reverse, lengths, return_state)
    a, b, h0, _, axis, reverse, lengths, return_state, dtype, shape = call
    _arguments.check_state("h0", h0, shape[:axis] + shape[axis + 1 :])
    is_pair, a, b, h0, lengths, dtype = _arguments.as_pairs(a, b, h0, lengths, dtype)
    tensors = [v for v in (a, b, h0) if isinstance(v, torch.Tensor)]
    a, b, h0 = (_arguments.as_tensor(v, tensors[0]) for v in (a, b, h0))
    wants = torch.is_grad_enabled() and any(v.requires_grad for v in tensors)
    options = axis, reverse, dtype, return_state, wants, group
    h, h_last, _ = Shard.apply(a, b, h0, None, lengths, family, *options)
    if is_pair:
        h, h_last = _arguments.joined(h), _arguments.joined(h_last)
    return (h, h_last) if return_state else h

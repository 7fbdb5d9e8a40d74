"""A recurrence whose time is held in shards, one a rank: summaries, one exchange, and the scan of one's own shard.

The way is told in docs/howto/sequence_parallel.rst. A third result is the state ``h_in`` that reaches a rank, and a
fourth operand, ``added``, joins what a rank hands on. The gradient of each is the other, so the family is closed.

Where series begin anew in a shard, what arrives is not multiplied: such a rank tells that it is blocked, and what it
hands on is its own. Of segments with states of their own that of one at most goes on from rank to rank.
"""

import zlib
from collections import namedtuple

import torch
from torch.autograd import Function

from ..._arguments import checks
from ..._arguments.checks import Segments
from ..._plan.fields.scan import CANCELLED
from ..._plan.problem import LINEAR
from . import along_time, arguments, autograd, exchange, ops, tensors as _tensors
from .along_time import adjoint, decay, like, masked, resets_beside, valid_steps
from .autograd import nothing

PIECES = 16  # that a long shard of few lanes is cut into, to be summarised side by side
LONG, FEW = 4096, 8


# ---- Where series begin anew ----------------------------------------------------------------------------------------


class Part(namedtuple("Part", "lengths offsets resets steps group")):
    """Where series begin anew in this rank's part of time; offsets, those of the whole, count from its first step."""

    @property
    def ends(self):
        """What the operators take as lengths."""
        offsets = None if self.offsets is None else self.offsets.clamp(0, self.steps)
        return checks.split(self.lengths, offsets, self.resets)

    def crosses(self, right):
        """Return which segment goes on beyond the right or the left end."""
        edge = self.steps if right else 0
        return (self.offsets[:-1] < edge) & (edge < self.offsets[1:])

    def own(self, states, reverse):
        """Return first states in a direction, with zeros where they are other ranks'."""
        # A segment's is that of the rank that has its first step in this direction; without steps, that of rank 0.
        place, _ = exchange.place_of(self.group, reverse)
        if self.offsets is None:
            is_own = torch.full((), place == 0, dtype=torch.bool, device=states.device)
        else:
            begin, end, steps = self.offsets[:-1], self.offsets[1:], self.steps
            is_here = (0 < end) & (end <= steps) if reverse else (0 <= begin) & (begin < steps)
            is_own = torch.where(begin < end, is_here, exchange.place_of(self.group, False)[0] == 0)
        return torch.where(_beside(is_own, states), states, 0)

    def with_arrived(self, states, arrived, reverse):
        """Return first states in a direction, such that the one that has arrived is among them."""
        if self.offsets is None:
            return arrived
        return torch.where(_beside(self.crosses(reverse), states), 0 if arrived is None else arrived, states)

    def handing_on(self, a, b, resets, axis, reverse):
        """Return the stretch of a, b and resets that makes the state that is handed on, and the state's place."""
        # These are the steps of the segment that goes on beyond this part; None if there is none.
        if self.offsets is None:
            return (a, b, resets), ...
        a, b = torch.broadcast_tensors(a, b)
        segment = self.crosses(not reverse).nonzero().flatten().tolist()
        if not segment:
            return None, ...
        begin, end = self.ends.offsets[segment[0] : segment[0] + 2].tolist()
        return [v if v is None else v.narrow(axis, begin, end - begin) for v in (a, b, resets)], segment[0]


def _beside(flags, states):
    """Return flags of segments, or of all, beside states."""
    return flags.to(states.device).reshape((*flags.shape, *(1,) * (states.dim() - flags.dim())))


# ---- Summaries ------------------------------------------------------------------------------------------------------


def summary(family, a, b, start, lengths, axis, reverse, dtype, back=False):
    """Return what a shard multiplies a state by, and what becomes of the state ``start``, in the carry's dtype."""
    # With ``back`` states are cotangents, ``b`` holds those of the steps, and ``reverse`` is the adjoint's direction.
    if type(lengths) is Segments:
        return _cut_summary(family, a, b, start, lengths, axis, reverse, dtype, back)
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
    states, unsound = compose(products.conj() if back else products, ends, start, reverse)
    if bool(unsound.any()):
        return _tensors.summary(family, a, b, start, None, axis, reverse, dtype, back)
    last = states[-1]
    tail = [v.narrow(axis, beyond, rest) for v in (a, b)]
    product, end = _tensors.summary(family, *tail, last, None, axis, reverse, dtype, back)
    return product * products.prod(0), end


def _composed_summary(family, a, b, start, lengths, axis, reverse, dtype, back):
    """Do what `summary` does, by torch's operators, which write as much as they read."""
    shape = torch.broadcast_shapes(a.shape, b.shape)
    wide, valid = _tensors.wide(dtype, b.device), valid_steps(b.expand(shape), lengths, axis)
    q = masked(decay(family, a, dtype).to(wide).expand(shape), valid, 1)
    if back:
        family, a, b = LINEAR, q.conj().resolve_conj(), b * q.conj()
    return q.prod(axis), ops.forward(family, a, b, start, lengths, axis, reverse, wide)[1]


def _cut_summary(family, a, b, start, cuts, axis, reverse, dtype, back):
    """Do what `summary` does where there are resets, in b's rank, by the operators, which write as for the result."""
    # The product, of all steps or 0, is of no use for a lane with a flag. Where each has one, the steps before all
    # lanes' last flags are not read.
    (lengths, _, resets), shape = cuts, torch.broadcast_shapes(a.shape, b.shape)
    if b.is_cpu and resets.numel() and bool(resets.any(axis).all()):
        in_order = resets if reverse else resets.flip(axis)
        kept = 1 + int(in_order.to(torch.uint8).argmax(axis).max())
        begin = 0 if reverse else shape[axis] - kept
        a, b, resets = (v.narrow(axis, begin, kept) for v in (a.expand(shape), b.expand(shape), resets))
        lengths = None if lengths is None else (lengths - begin).clamp(0, kept)
        product = b.new_zeros(shape[:axis] + shape[axis + 1 :], dtype=_tensors.wide(dtype, b.device))
    else:
        product, _ = summary(family, a, b, start, lengths, axis, reverse, dtype, back)
    start = torch.zeros_like(product) if start is None else start
    cuts = Segments(lengths, None, resets)
    if not back:
        return product, ops.forward(family, a, b, start, cuts, axis, reverse, product.dtype)[1]
    h, wanted = nothing(b, torch.broadcast_shapes(a.shape, b.shape), dtype), (False, False, True)
    return product, ops.vjp(family, b, a, h, h, start, start, cuts, axis, not reverse, dtype, *wanted)[2]


def compose(products, ends, start, reverse, known=(), blocked=None):
    """Return the state before and behind every rank, in the scan direction, and where to use none."""
    # They are of no use where a composed state is not finite or has cancelled: that rank's own scan might have gone
    # another way. The ends of ranks whose places are ``known`` are such scans', so are those of what is ``blocked``.
    states = [torch.zeros_like(ends[0]) if start is None else start.to(ends.dtype)]
    blocked = torch.zeros_like(ends, dtype=torch.bool) if blocked is None else blocked
    if reverse:
        products, ends, blocked = products.flip(0), ends.flip(0), blocked.flip(0)
    for place, (product, end) in enumerate(zip(products, ends, strict=True)):
        through = end if place in known else torch.addcmul(end, product, states[-1])
        states.append(torch.where(blocked[place], end, through))
    states = torch.stack(states)
    before, behind = states[:-1], states[1:]
    lost = (products.abs() > 1) & ((products * before).abs() > CANCELLED * behind.abs())
    unsound = ~before.isnan() & ~blocked & (lost | ~torch.isfinite(behind))
    unsound[list(known)] = False
    return states, unsound


def _states_of_ranks(gathered, start, towards, known, needs_end, turn):
    """Return the state before and behind every rank, from all ranks' products, ends and what is blocked, if any is."""
    # Where composing is not sound, ranks take turns: ``turn`` scans from what truly reaches one, and tells.
    products, ends, *blocked = gathered
    while True:
        states, unsound = compose(products, ends, start, towards, known, *blocked)
        if not ends.is_cpu:  # to look there would be to wait for the GPU: what cannot be composed is NaN
            ends = torch.where(unsound.flip(0) if towards else unsound, torch.nan, ends)
            return compose(products, ends, start, towards, known, *blocked)[0]
        invalid_ranks = [bool(lanes.any()) for lanes in unsound]
        if True not in invalid_ranks[: None if needs_end else -1]:
            return states
        known.append(invalid_ranks.index(True))
        rank = len(ends) - 1 - known[-1] if towards else known[-1]
        ends[rank] = turn(known, states[known[-1]])[rank]


def _reach(act, problem, b, added, start, part, options, needs_end):
    """Return the states that reach this rank, and, if it `needs_end`, the one behind all of them."""
    # With an ``act``, what travels are cotangents against time, and the start is the sum of all ranks' starts.
    family, a, shape = problem
    axis, reverse, dtype, return_state, wants, group = options
    back = bool(act)
    towards = reverse != back
    place, size = exchange.place_of(group, towards)
    if size == 1:
        return start, None
    lanes, cuts = shape[:axis] + shape[axis + 1 :], part.ends
    own, blocked = [start.new_zeros(lanes)] * 2, torch.zeros(lanes, dtype=torch.bool, device=b.device)
    resets = None
    if part.resets is not None:
        resets = resets_beside(b.expand(shape), cuts, axis)
        blocked |= resets.any(axis)
    if part.offsets is not None:
        blocked |= not bool((part.crosses(False) & part.crosses(True)).any())
    stretch, row = part.handing_on(a, b, resets, axis, towards)

    def scan(arrived):
        if stretch is None:
            return own
        state = part.with_arrived(start, arrived, towards)
        state, borders = None if state is None else state[row], checks.split(part.lengths, None, stretch[2])
        product, end = summary(family, *stretch[:2], state, borders, axis, towards, dtype, back)
        product = product.conj().resolve_conj() if back else product
        return product, end if added is None else end + added[row]

    is_shared = back and return_state and part.offsets is None
    if place == 0 and not is_shared:
        own = [own[0], scan(start)[1]]  # nothing reaches it that it does not know
    elif place < size - 1 or needs_end:
        own = scan(None)
    flags = {"reverse": reverse, "return_state": return_state}
    flags |= {name: v is not None for name, v in zip(Part._fields[:3], part[:3], strict=True)}
    header = act + exchange.describe(family, dtype, lanes, wants, **flags)
    sent = [*own, *([start] if is_shared else []), *([blocked] if type(cuts) is Segments else [])]
    gathered, *_ = exchange.gather(group, header, shape[axis], *sent)
    known, total = ([], gathered.pop(2).sum(0)) if is_shared else ([0], None)

    def turn(known, arrived):
        end = scan(arrived)[1] if place == known[-1] else own[1]
        return exchange.gather(group, f"exchange {len(known) + 1} for {header}", shape[axis], own[0], end)[0][1]

    states = _states_of_ranks(gathered, total, towards, known, needs_end, turn)
    if place == 0 and not is_shared:
        return start, states[-1]
    return part.with_arrived(start, states[place].contiguous(), towards), states[-1]


def _forward(family, a, b, h0, added, lengths, offsets, resets, *options):
    axis, reverse, dtype, return_state, _, group = options
    shape, wide = torch.broadcast_shapes(a.shape, b.shape), _tensors.wide(dtype, b.device)
    part = Part(lengths, offsets, resets, shape[axis], group)
    h_in = b.new_zeros(along_time.lanes(shape, axis, part.ends), dtype=wide)
    if h0 is not None:
        h_in = part.own(h_in.copy_(h0.expand(h_in.shape)), reverse)
    has_own_end = return_state and offsets is None
    h_in, end = _reach("", (family, a, shape), b, added, h_in, part, options, has_own_end)
    h, h_last = ops.forward(family, a, b, h_in, part.ends, axis, reverse, dtype)
    if has_own_end and end is not None:
        return h, end.to(dtype, copy=True), h_in
    if added is not None:
        h_last = h_last + added.to(dtype)
    if offsets is not None and return_state:
        h_last = exchange.Sum.apply(group, part.own(h_last, not reverse))
    return h, h_last, h_in


def _vjp(family, g, a, b, h, h_in, grad_last, grad_in, lengths, offsets, resets, *options):
    *options, want_a, want_b = options
    axis, reverse, dtype, return_state, _, group = options
    part = Part(lengths, offsets, resets, h.shape[axis], group)
    arriving = h_in.new_zeros(h_in.shape)
    if return_state and grad_last is not None:
        arriving.copy_(grad_last)
    if return_state and offsets is not None:
        arriving = part.own(exchange.Sum.apply(group, arriving), not reverse)
    problem = family, a, h.shape
    arriving, _ = _reach("the gradient of ", problem, g, grad_in, arriving, part, options, False)
    grad_a, grad_b, grad_first = ops.vjp(
        family, g, a, b, h, h_in, arriving, part.ends, axis, reverse, dtype, want_a, want_b, True
    )
    return grad_a, grad_b, part.own(grad_first if grad_in is None else grad_first + grad_in, reverse), arriving


def _borders(offsets, first, steps, group):
    """Return offsets from this rank's first step on, and 0 for lanes that begin anew behind its last, 1 for others."""
    # ``first`` are those that do so at its first step. If ranks have come to differ, NaN for all.
    _, rank, _ = exchange.members(group)
    told = "where series begin anew"
    if offsets is not None:
        offsets = offsets.to("cpu", torch.int64).contiguous()
        told += f", at {len(offsets)} offsets, checksum {zlib.crc32(offsets.numpy()):08x}"
    (flags,), counts, agree = exchange.gather(group, told, steps, first, is_read=offsets is not None)
    kept = torch.ones_like(first, dtype=torch.float32)
    for theirs, n in zip(flags[rank + 1 :].flip(0), counts[rank + 1 :].flip(0), strict=True):
        kept = torch.where(n > 0, (~theirs).float(), kept)
    if offsets is None:
        kept = kept if agree is None else torch.where(agree, kept, torch.nan)
        return torch.empty(0, dtype=torch.int64, device="cpu"), kept
    counts = counts.tolist()
    offsets = torch.from_numpy(checks.offsets_in_range(offsets.numpy(), sum(counts))) - sum(counts[:rank])
    crosses = Part(None, offsets, None, steps, group).crosses(True)
    return offsets, kept if bool(crosses.any()) else torch.ones_like(kept)


def _forward_fake(family, a, b, h0, added, lengths, offsets, resets, axis, reverse, dtype, *_):
    ends = checks.split(lengths, offsets, resets)
    h, h_last = ops._forward_fake(family, a, b, h0, ends, axis, reverse, dtype)
    return h, h_last, h_last.new_empty(h_last.shape, dtype=_tensors.wide(dtype, h.device))


def _vjp_fake(family, g, a, b, h, h_in, grad_last, grad_in, *options):
    grads = ops._vjp_fake(family, g, a, b, h, h_in, grad_last, None, *options[3:6], *options[-2:], True)
    return *grads, torch.empty_like(h_in)


def _borders_fake(offsets, first, steps, group):
    return torch.empty(0 if offsets is None else offsets.shape, dtype=torch.int64, device="cpu"), first.float()


_OPTIONS = f"{ops.OPTIONS}, bool return_state, bool wants, str group"
_shard = autograd.define(
    f"shard(str family, Tensor a, Tensor b, Tensor? h0, Tensor? added, {_OPTIONS}) -> (Tensor, Tensor, Tensor)",
    _forward_fake, CompositeExplicitAutograd=_forward,
)  # fmt: skip
_shard_backward = autograd.define(
    "shard_backward(str family, Tensor g, Tensor a, Tensor b, Tensor h, Tensor h_in, Tensor? grad_last,"
    f" Tensor? grad_in, {_OPTIONS}, bool want_a, bool want_b) -> (Tensor, Tensor, Tensor, Tensor)",
    _vjp_fake, CompositeExplicitAutograd=_vjp,
)  # fmt: skip
_shard_borders = autograd.define(
    "shard_borders(Tensor? offsets, Tensor first, int steps, str group) -> (Tensor, Tensor)",
    _borders_fake, CompositeExplicitAutograd=_borders,
)  # fmt: skip


class Shard(Function):
    """``(a, b, h0, added, lengths, offsets, resets, family, axis, reverse, ..., group) -> (h, h_last, h_in)``."""

    @staticmethod
    def forward(ctx, a, b, h0, added, lengths, offsets, resets, family, *options):
        ends = lengths, offsets, resets
        h, h_last, h_in = _shard(family, a, b, h0, added, *ends, *options)
        ctx.problem = family, options
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(a, b, h, h_in, h0, added, *ends)
        return h, h_last, h_in

    @staticmethod
    def backward(ctx, g, grad_last, grad_in):
        """Return the gradients of a, b, h0 and added. Every rank takes part, whatever of it is asked for."""
        a, b, h, h_in, h0, added, *ends = ctx.saved_tensors
        family, options = ctx.problem
        want_a, want_b, want_h0, want_added = ctx.needs_input_grad[:4]
        g = nothing(h, h.shape, h.dtype) if g is None else g
        run = _differentiable_vjp if torch.is_grad_enabled() else _shard_backward
        operands = g, a, b, h, h_in, grad_last, grad_in
        grad_a, grad_b, grad_first, arriving = run(family, *operands, *ends, *options, want_a, want_b)
        grad_h0 = like(grad_first, h0) if want_h0 else None
        grad_added = like(arriving, added) if want_added else None
        return grad_a if want_a else None, grad_b if want_b else None, grad_h0, grad_added, *(None,) * 10


def _differentiable_vjp(family, g, a, b, h, h_in, grad_last, grad_in, *rest):
    """Do what `_vjp` does, made of `Shard` in the other direction."""
    *ends, axis, reverse, dtype, return_state, wants, group, want_a, want_b = rest
    part, start = Part(*ends, h.shape[axis], group), None
    if return_state:
        start = nothing(h, h_in.shape, h.dtype) if grad_last is None else grad_last
        start = exchange.Sum.apply(group, start)

    def run(q, source):
        options = axis, not reverse, dtype, True, wants, group
        return Shard.apply(q, source, start, grad_in, *ends, LINEAR, *options)

    steps = family, axis, reverse, dtype, a, b, h, h_in, part.ends
    grad_a, grad_b, grad_first, arriving = adjoint(steps, run, g, (want_a, want_b))
    # Where it is another rank's it is still to be differentiated, as it is there.
    return grad_a, grad_b, part.own(grad_first, reverse), arriving


def run(family, a, b, h0, axis, reverse, lengths, return_state, group):
    """Check arguments as `call.forward` does, and run a recurrence of this rank's shard."""
    call = arguments.take_call(family, _tensors.NAMES[family], a, b, h0, None, axis, reverse, lengths, return_state)
    a, b, h0, _, axis, reverse, ends, return_state, dtype, shape = call
    arguments.check_shapes({"h0": h0}, shape, along_time.lanes(shape, axis, ends))
    is_pair, a, ends, dtype, b, h0 = arguments.as_pairs(a, ends, dtype, b, h0)
    tensors = [v for v in (a, b, h0) if isinstance(v, torch.Tensor)]
    a, b, h0 = (arguments.as_tensor(v, tensors[0]) for v in (a, b, h0))
    wants = torch.is_grad_enabled() and any(v.requires_grad for v in tensors)
    a, ends = _placed(family, a, b, ends, axis, reverse, group)
    h, h_last, _ = Shard.apply(a, b, h0, None, *ends, family, axis, reverse, dtype, return_state, wants, group)
    if is_pair:
        h, h_last = arguments.joined(h), arguments.joined(h_last)
    return (h, h_last) if return_state else h


def _placed(family, a, b, cuts, axis, reverse, group):
    """Return a, and lengths, offsets and resets as `Part` has them."""
    # In reverse a flag at another rank's first step is at the border before it. There the factor is not used: it is 0.
    lengths, offsets, resets = checks.parts(cuts)
    full = b.expand(torch.broadcast_shapes(a.shape, b.shape))
    is_behind = resets is not None and family == LINEAR and reverse
    first = torch.zeros((), dtype=torch.bool, device=b.device)
    if is_behind:
        first = resets_beside(full, cuts, axis).narrow(axis, 0, min(1, full.shape[axis])).any(axis)
        first = first.expand(full.shape[:axis] + full.shape[axis + 1 :])
    elif offsets is None:
        return a, (lengths, offsets, resets)
    own_offsets, kept = _shard_borders(offsets, first, full.shape[axis], group)
    if is_behind and (torch.compiler.is_compiling() or not kept.is_cpu or bool((kept != 1).any())):
        reads, _ = along_time.borders(full, Segments(lengths, None, None), axis, True)
        a = torch.where(reads & (kept != 1).unsqueeze(axis), kept.unsqueeze(axis).to(a.dtype), a)
    return a, (lengths, None if offsets is None else own_offsets, resets)

"""Steps along time: which are valid, what stands before them, and where series begin anew.

In all of it ``lengths`` are those of lanes, or None, or what a call takes in their place where series begin anew:
`checks.Segments`. Then the state before a border is the segment's first one, or zero.
"""

import torch

from ..._arguments.checks import Segments, parts
from ..._plan.problem import LINEAR
from . import tensors


def lanes(shape, axis, lengths):
    """Return the shape of all states."""
    own = tuple(shape[:axis]) + tuple(shape[axis + 1 :])
    return (lengths.offsets.shape[0] - 1, *own) if type(lengths) is Segments and lengths.offsets is not None else own


def decay(family, a, dtype):
    """Return what a step multiplies the state by: ``1 - f`` exactly, or small gates would not forget."""
    return a if family == LINEAR else 1 - a.to(tensors.wide(dtype, a.device))


def steps_of(array, axis):
    """Return the numbers of the steps, along time."""
    steps = torch.arange(array.shape[axis], device=array.device)
    return steps.reshape((-1,) + (1,) * (array.dim() - 1 - axis))


def ends_of(array, lengths, axis):
    """Return each lane's length along the axes of an array."""
    rest = (1,) * (array.dim() - 1 - lengths.dim())
    return lengths.to(array.device).reshape(tuple(lengths.shape) + rest).unsqueeze(axis)


def valid_steps(array, lengths, axis):
    """Return which steps are; None: all."""
    lengths = lengths.lengths if type(lengths) is Segments else lengths
    return None if lengths is None else steps_of(array, axis) < ends_of(array, lengths, axis)


def masked(array, valid, other=0):
    """Return an array with another number for the steps that are not valid."""
    return array if valid is None else torch.where(valid, array, other)


def shifted(array, axis, reverse):
    """Return each step's neighbor before it in the scan direction, zeros for the first."""
    steps = array.shape[axis]
    if steps == 0:
        return array
    edge = torch.zeros_like(array.narrow(axis, 0, 1))
    body = array.narrow(axis, int(reverse), steps - 1)
    return torch.cat([body, edge] if reverse else [edge, body], axis)


def state_before(h, h0, lengths, axis, reverse):
    """Return the state before each step, in the scan direction."""
    cuts = parts(lengths)
    first, begins = borders(h, cuts, axis, reverse)
    before = torch.where(begins, 0, shifted(h, axis, reverse))
    if h0 is None:
        return before
    h0 = h0.to(h.dtype).expand(lanes(h.shape, axis, lengths))
    return torch.where(first, _of_segments(h0, h, cuts, axis), before)


def adjoint(steps, run, g, wanted):
    """Return the gradients of a and b that are wanted, that of h0 in all lanes, and the first states, of a recurrence.

    ``steps`` are what they are of: family, axis, reverse, dtype, a, b, the states h, h0, and lengths.
    What flows on from a step against the scan direction is ``e[t] = conj(q[t]) * (g[t] + e')``, with ``e'`` what has
    flown on to it: a linear recurrence in the other direction, without a shift. ``run`` takes its factors and sources;
    it returns its states, the last of them, and the first ones. All is differentiated as what it is made of.
    """
    family, axis, reverse, dtype, *operands, h0, lengths = steps
    valid = valid_steps(operands[-1], lengths, axis)
    a, b, h = (masked(v, valid) for v in operands)  # or its NaN would reach gradients of the gradients
    g, q = masked(g.expand(h.shape), valid), decay(family, a, dtype).conj_physical()
    e, last, first = run(q, q * g)
    d = g + state_before(e, first, lengths, axis, not reverse)
    grad_a = grad_b = None
    if wanted[0]:
        before = state_before(h, h0, lengths, axis, reverse)
        grad_a = d * (before if family == LINEAR else b - before).conj_physical()
        if family == LINEAR and type(lengths) is Segments:  # where the factor is not used, whatever flows on
            is_first, begins = borders(h, lengths, axis, reverse)
            grad_a = torch.where(begins & ~is_first, 0, grad_a)
        grad_a = like(masked(grad_a, valid), operands[0])
    if wanted[1]:
        grad_b = like(masked(d if family == LINEAR else d * a, valid), operands[1])
    return grad_a, grad_b, last, first


def like(grad, operand):
    """Return a gradient in its operand's shape and dtype."""
    if grad.is_complex() and not operand.is_complex():
        grad = grad.real
    return grad.sum_to_size(operand.shape).to(tensors.gradient_dtype(operand, grad.dtype))


def or_empty(g, grads):
    """Return gradients, for an operator, with an empty tensor in the place of None."""
    return tuple(g.new_empty(0) if grad is None else grad for grad in grads)


def _offsets(array, cuts, axis):
    """Return offsets beside an array, within it: on another device than the host's nobody has looked at them."""
    return cuts.offsets.to(array.device, torch.int64).clamp(0, array.shape[axis])


def resets_beside(array, cuts, axis):
    """Return resets beside an array, in its rank, along time in full; they do not count in the padding."""
    own = cuts.resets.to(array.device)
    own = own.reshape(tuple(own.shape) + (1,) * (array.dim() - own.dim()))
    own = own.expand(tuple(array.shape[axis] if k == axis else n for k, n in enumerate(own.shape)))
    valid = valid_steps(array, cuts, axis)
    return own if valid is None else own & valid


def borders(array, cuts, axis, reverse):
    """Return, for each step, whether a segment's first state stands before it, and whether that or zero does."""
    steps = array.shape[axis]
    if cuts.offsets is not None:
        at = _offsets(array, cuts, axis)
        edges = steps_of(array, axis) + int(reverse)  # of steps, in front of or behind which a segment may begin
        first = torch.searchsorted(at, edges, right=True) > torch.searchsorted(at, edges)
    elif reverse and cuts.lengths is not None:
        first = steps_of(array, axis) == ends_of(array, cuts.lengths, axis) - 1
    else:
        first = steps_of(array, axis) == (steps - 1 if reverse else 0)
    if cuts.resets is None:
        return first, first
    resets = resets_beside(array, cuts, axis)
    if reverse and steps:
        resets = shifted(resets, axis, True) & ~first
    return first & ~resets, first | resets


def _of_segments(states, array, cuts, axis):
    """Return each step's segment's state; one that stands for all steps where there are no segments."""
    if cuts.offsets is None:
        return states.unsqueeze(axis)
    steps, offsets = torch.arange(array.shape[axis], device=array.device), _offsets(array, cuts, axis)
    segments = (torch.searchsorted(offsets, steps, right=True) - 1).clamp(0, len(offsets) - 2)
    return states.index_select(0, segments).movedim(0, axis)


def with_first_states(family, q, c, h0, cuts, axis, reverse):
    """Return the sources of ``h = q*h + c`` with first states in them, and the steps that read no state before them."""
    first, begins = borders(c, cuts, axis, reverse)
    own = q * torch.where(first, _of_segments(h0, c, cuts, axis), 0)
    return torch.where(first if family == LINEAR else begins, c + own, c), begins


def last_states(h, h0, cuts, axis, reverse):
    """Return the states behind the last steps: of segments, or of the lanes of a call without offsets."""
    if not h.shape[axis]:
        return h0
    at, has_steps = 0 if reverse else -1, None
    if cuts.offsets is not None:
        offsets = _offsets(h, cuts, axis)
        begin, end = offsets[:-1], offsets[1:]
        at = (begin if reverse else end - 1).clamp(0, h.shape[axis] - 1)
        has_steps = (begin < end).reshape((-1,) + (1,) * (h.dim() - 1))
    elif cuts.lengths is not None:
        has_steps = ends_of(h, cuts.lengths, axis).squeeze(axis) > 0
    last = h.movedim(axis, 0)[at]
    if cuts.resets is not None and reverse:
        last = torch.where(resets_beside(h, cuts, axis).movedim(axis, 0)[at], 0, last)
    return last if has_steps is None else torch.where(has_steps, last, h0)

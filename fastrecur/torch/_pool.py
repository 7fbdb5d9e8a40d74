"""Run the QRNN's pooling on plain tensors, by addresses. Nothing here is recorded for a gradient."""

import copy
import functools

import numpy as np
import torch

from .. import _threads
from .._arrays import address, element
from .._cpu import _pool
from .._cpu._compile import kernel
from . import _team, _tensors

ROWS_AHEAD = 2  # rows that are asked for before their turn,
STEP_AHEAD = 128 << 10  # or a whole step, if a thread's share of it is no larger
SERIAL = 1 << 16  # elements of the product up to which one thread does it all


class Layout:
    """Where the steps of a batch's sequences stand, and in which direction they are walked.

    Attributes
    ----------
    starts, counts, lengths : ndarray of int64
        For each step the place of its first row in units of an operand's step, and how many sequences have it; for each
        sequence its length.
    rows : ndarray of int64
        These three, one after the other: what they are views of.
    given : Tensor or None
        The lengths as they came. Those on a GPU are known there alone.
    packed : bool
        Whether rows of all steps follow each other, so that the operands have no dimension for the batch.
    """

    def __init__(self, steps, batch, reverse, lengths=None, batch_sizes=None):
        self.steps, self.batch, self.reverse, self.packed = steps, batch, reverse, batch_sizes is not None
        self.given, self.tables = lengths, {}
        counts = np.array(batch_sizes, np.int64) if self.packed else np.full(steps, batch, np.int64)
        starts = np.cumsum(counts) - counts if self.packed else np.arange(steps, dtype=np.int64)
        self._set_rows(starts, counts, np.full(max(1, batch), steps, np.int64))
        if lengths is not None and lengths.is_cpu:
            self.lengths[:batch] = lengths.numpy()

    def _set_rows(self, starts, counts, lengths):
        self.rows = np.concatenate([starts, counts, lengths])
        self.starts, self.counts, self.lengths = np.split(self.rows, [self.steps, 2 * self.steps])

    def cut(self, first, last):
        """Return the layout of some steps alone, whose rows start at the first of them."""
        if (first, last) == (0, self.steps):
            return self
        if not self.packed and self.given is None:
            return padded(last - first, self.batch, self.reverse)
        part = copy.copy(self)
        part.tables = {}
        part.steps = last - first
        part._set_rows(self.starts[first:last] - self.starts[first], self.counts[first:last], self.lengths - first)
        return part

    def on_gpu(self, owner, device):
        """Return the rows of steps in the scan direction, and lengths, as tensors on a GPU; None where not needed.

        The copy does not wait for the GPU.
        """
        if not self.packed and self.given is None:
            return None, None
        if self.given is not None and _is_on_gpu(self.given):
            return None, self.given
        if device not in self.tables:
            rows, lengths = np.empty(0, np.int64), self.lengths[: self.batch]
            if self.packed:
                rows = self.starts[::-1] if self.reverse else self.starts
                lengths = np.searchsorted(-self.counts, -np.arange(self.batch))
            table = owner.upload(np.concatenate([rows, lengths]), device)
            self.tables[device] = table.split([len(rows), self.batch])
        rows, lengths = self.tables[device]
        return rows if self.packed else None, lengths

    def strides(self, tensor):
        """Return an operand's strides in bytes, of a step and of a sequence; of none, zeros."""
        if not isinstance(tensor, torch.Tensor):
            return 0, 0
        strides, size = tensor.stride(), tensor.element_size()
        return strides[0] * size, strides[0 if self.packed else 1] * size


@functools.lru_cache(1024)
def padded(steps, batch, reverse):
    """Return the layout of sequences that all have all steps."""
    return Layout(steps, batch, reverse)


def _is_on_gpu(tensor):
    return tensor.is_cuda


def _table(layout, parts, back, *operands, **fields):
    """Return a kernel's geometry: its last ``fields``, in their order; operands that it does not have are None."""
    strides = [n for operand in operands for n in layout.strides(operand)]
    product = operands[0]
    step, row = strides[:2]
    ahead = ROWS_AHEAD * row
    if not layout.packed and product.nbytes <= STEP_AHEAD * layout.steps * len(parts):
        ahead = step if layout.reverse == back else -step
    return np.array([layout.steps, layout.reverse, layout.batch, ahead, *fields.values(), *strides], np.int64)


def _parts(layout, size, elements, threads):
    """Cut a batch's sequences, or their channels if there are few or they end unevenly, for the threads there are."""
    if threads == 1 or elements < SERIAL:
        return [(0, layout.batch)], False
    if layout.batch >= threads and not layout.packed:
        return _threads.ranges(layout.batch, threads), False
    return [(64 * low, min(size, 64 * high)) for low, high in _threads.ranges(-(-size // 64), threads)], True


def _keep(keep, wide):
    """Return the address of zoneout's factor, its element, whether it differs from lane to lane, and its owner."""
    if isinstance(keep, torch.Tensor):
        return keep.data_ptr(), element(_tensors.DTYPES[keep.dtype]), True, keep
    number = np.array(1.0 if keep is None else keep, wide)
    return address(number), element(wide), False, number


def _kinds(dtype):
    wide = np.dtype("f8" if dtype == torch.float64 else "f4")
    return wide, element(wide), element(_tensors.DTYPES[dtype])


def forward(product, bias, keep, carry, h, states, layout, gated):
    """Pool a product into ``h``, and the states into ``states`` unless it is None; advance ``carry`` (batch, width).

    A bias is for the CPU, where a product is made block by block and never seen as a whole.
    """
    if _is_on_gpu(product):
        return _launch("pool", layout, gated, product=product, keep=keep, h=h, states=states, carry=carry)
    wide, wide_element, own = _kinds(product.dtype)
    size = carry.shape[-1]
    keep_at, keep_element, masked, owner = _keep(keep, wide)
    if bias is None:
        bias = torch.zeros(3 * size, dtype=product.dtype, device="cpu")
    call = kernel(
        _pool.forward, None, wide_element, product=own, bias=own, keep=keep_element, h=own, states=own
    )  # fmt: skip
    team = _team.team()
    parts, by_channels = _parts(layout, size, product.numel(), team.size)
    table = _table(
        layout, parts, False, product, owner, h, states, width=size, by_channels=by_channels, gated=gated,
        masked=masked, saves=states is not None, has_g=False,
    )  # fmt: skip
    head = (
        product.data_ptr(), bias.data_ptr(), keep_at, h.data_ptr(), (h if states is None else states).data_ptr(),
        carry.data_ptr(), address(layout.rows), address(table),
    )  # fmt: skip
    team.run([(call, *head, *part) for part in parts])


def vjp(g, product, keep, states, first, carry, to_product, layout, gated):
    """Write the product's cotangent; take ``carry`` from the last states' cotangent to the first states'."""
    if _is_on_gpu(product):
        g = 0.0 if g is None else g
        return _launch(
            "pool_vjp", layout, gated, g=g, product=product, keep=keep, states=states, first=first, carry=carry,
            to_product=to_product,
        )  # fmt: skip
    wide, wide_element, own = _kinds(product.dtype)
    size = carry.shape[-1]
    keep_at, keep_element, masked, owner = _keep(keep, wide)
    call = kernel(
        _pool.vjp, None, wide_element, g=own, product=own, keep=keep_element, states=own, first=own, to_product=own
    )
    team = _team.team()
    parts, by_channels = _parts(layout, size, product.numel(), team.size)
    table = _table(
        layout, parts, True, product, owner, None, states, g, to_product, width=size, by_channels=by_channels,
        gated=gated, masked=masked, saves=False, has_g=g is not None,
    )  # fmt: skip
    head = (
        (product if g is None else g).data_ptr(), product.data_ptr(), keep_at, states.data_ptr(), first.data_ptr(),
        carry.data_ptr(), to_product.data_ptr(), address(layout.rows), address(table),
    )  # fmt: skip
    team.run([(call, *head, *part) for part in parts])


def _launch(name, layout, gated, *, keep, carry, **operands):
    """Start a kernel in torch's current stream, after what is there and before what comes."""
    from .._cuda import _arrays, _pool_plan
    from .._cuda import _run as device_run

    _, owner, device = _arrays.take(("carry",), (carry,))
    rows, lengths = layout.on_gpu(owner, device)
    operands |= {"keep": 1.0 if keep is None else keep, "carry": carry, "rows": rows, "lengths": lengths}
    views, _, _ = _arrays.take(tuple(operands), tuple(operands.values()))
    places, known = {}, []
    for (label, operand), view in zip(operands.items(), views, strict=True):
        if not isinstance(operand, torch.Tensor):
            places[label] = 0 if operand is None else operand
            if operand is not None:
                known.append((label, None, (0, 0)))
            continue
        places[label] = view.pointer
        if label in ("first", "lengths"):
            known.append((label, view.dtype, (0, view.strides[0])))
        elif label not in ("carry", "rows"):
            known.append((label, view.dtype, layout.strides(operand)))
    plan = _pool_plan.plan(
        name, tuple(known), layout.steps, *carry.shape, bool(layout.reverse), bool(gated), layout.packed
    )  # fmt: skip
    device_run.run(plan, places, None, device, owner.stream(device))

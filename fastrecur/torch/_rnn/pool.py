"""Run the QRNN's pooling on plain tensors, by addresses. Nothing here is recorded for a gradient."""

import functools

import numpy as np
import torch

from ..._arguments import checks, messages as say
from ..._arguments.arrays import address, element
from ..._cpu import cost
from ..._cpu.compiler.compile import kernel
from ..._cpu.machine import threads as _threads
from ..._plan.fields import pool
from .._operator import team as _team, tensors

BLOCK = 1024  # rows of a product that are pooled while they are in the cache
ROWS_AHEAD = 2  # rows that are asked for before their turn,
STEP_AHEAD = 128 << 10  # or a whole step, if a thread's share of it is no larger

_filled = functools.lru_cache(256)(torch.full)  # what kernels read where there is no tensor


class Layout:
    """Where the steps of a batch's sequences stand, and in which direction they are scanned.

    ``starts`` and ``counts`` hold for each step the place of its first row in units of an operand's step, and how many
    sequences have it. Of ``packed`` ones the rows of all steps follow each other: there is no dimension for the batch.
    ``cut`` says where sequences begin anew, or is None; with offsets these are the sequences, and the batch is 1.
    """

    def __init__(self, batch, reverse, counts, packed, cut=None, firsts=0):
        self.batch, self.reverse, self.packed, self.cut, self.firsts = batch, reverse, packed, cut, firsts
        self.steps, self.counts, self.tables = len(counts), np.array(counts, np.int64), {}
        self.starts = np.cumsum(self.counts) - self.counts if packed else np.arange(self.steps)
        self.offsets, self.resets = cut or (None, None)
        self.axis = 0 if packed else 1 if self.offsets is None else None  # on which an operand's sequences stand

    @functools.cached_property
    def rows(self):
        """The starts, and for each step the first of its sequences and the one past the last, one after the other."""
        firsts = np.broadcast_to(self.firsts, self.steps)
        return np.concatenate([self.starts, firsts, firsts + self.counts])

    @functools.cached_property
    def blocks(self):
        """The steps ``(first, last)`` of each block of rows, and how many rows it has."""
        blocks, first, rows = [], 0, 0
        for step, size in enumerate(self.counts.tolist()):
            if rows and rows + size > BLOCK:
                blocks.append((first, step, rows))
                first, rows = step, 0
            rows += size
        return [*blocks, (first, self.steps, rows)]

    def part(self, first, last):
        """Return the layout of some steps alone, whose rows start at the first of them."""
        if not self.packed and self.cut is None:
            return padded(last - first, self.batch, self.reverse)
        cut = self.cut if self.resets is None else self.cut._replace(resets=self.resets[first:last])
        firsts = self.firsts if self.offsets is None else self.firsts[first:last]
        return Layout(self.batch, self.reverse, self.counts[first:last], self.packed, cut, firsts)

    def on_gpu(self, owner, device):
        """Return the rows of steps in the scan direction, and lengths, as tensors on a GPU; None where not needed."""
        # The copy does not wait for the GPU. A replay of a graph would copy what is there then, so that raises.
        from ..._cuda.launch import driver

        if not self.packed:
            return None, None
        if device not in self.tables:
            stream = owner.stream(device)
            if driver().is_capturing(device, stream):
                raise RuntimeError(say.gpu_capture_packed())
            rows = self.starts[::-1] if self.reverse else self.starts
            lengths = np.searchsorted(-self.counts, -np.arange(self.batch))
            table = owner.upload(np.concatenate([rows, lengths]), device, stream)
            self.tables[device] = table.split([len(rows), self.batch])
        return self.tables[device]


@functools.lru_cache(1024)
def padded(steps, batch, reverse):
    """Return the layout of sequences that all have all steps."""
    return Layout(batch, reverse, [batch] * steps, False)


def layout(rows, batch_sizes, reverse, cut=None):
    """Return the layout of rows, (T, B, ...), cut perhaps, or of packed ones, (N, ...), by their batch sizes."""
    if batch_sizes is not None:
        return Layout(int(batch_sizes[0]), reverse, batch_sizes.numpy(), True)
    if cut is None:
        return padded(*rows.shape[:2], reverse)
    firsts, counts = 0, np.broadcast_to(rows.shape[1], rows.shape[0])
    if cut.offsets is not None and rows.is_cpu:
        offsets = checks.offsets_in_range(cut.offsets.numpy(), rows.shape[0])
        firsts = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return Layout(cut.n_series(rows), reverse, counts, False, cut, firsts)


def _is_on_gpu(tensor):
    return tensor.is_cuda


def _parts(layout, size, elements, threads):
    """Cut a batch's sequences, or their channels if there are few or they end unevenly, for the threads there are."""
    if cost.threads("pooling", 8 * elements, threads) == 1:
        return [(0, layout.batch)], False
    if layout.batch >= threads and not layout.packed and layout.offsets is None:
        return _threads.ranges(layout.batch, threads), False
    return [(64 * low, min(size, 64 * high)) for low, high in _threads.ranges(-(-size // 64), threads)], True


def forward(product, bias, keep, carry, h, states, layout, gated):
    """Pool a product into ``h``, and the states into ``states`` unless it is None; advance ``carry`` (batch, width)."""
    # A bias is for the CPU, where a product is made block by block and never seen as a whole.
    if _is_on_gpu(product):
        return _launch("pool", layout, gated, product=product, keep=keep, h=h, states=states, carry=carry)
    if bias is None:
        bias = _filled(product.shape[-1:], 0.0, dtype=product.dtype, device="cpu")
    operands = {
        "product": product, "bias": bias, "keep": keep, "h": h, "states": states, "flags": layout.resets, "carry": carry
    }  # fmt: skip
    _run("pool.forward", operands, layout, gated)


def vjp(g, product, keep, states, first, carry, to_product, layout, gated):
    """Write the product's cotangent; take ``carry`` from the last states' cotangent to the first states'."""
    operands = {"g": g, "product": product, "keep": keep, "states": states, "first": first, "flags": layout.resets}
    operands |= {"carry": carry, "to_product": to_product}
    if _is_on_gpu(product):
        return _launch("pool_vjp", layout, gated, **operands | {"g": 0.0 if g is None else g})
    if layout.resets is not None:
        operands["first"] = torch.cat([first, torch.zeros_like(first[:1])])
    _run("pool.vjp", operands, layout, gated)


def _run(name, operands, layout, gated):
    """Run a kernel of operands, in its order, on the threads there are; None is not read."""
    team, (product, keep, carry) = _team.team(), (operands[name] for name in ("product", "keep", "carry"))
    parts, by_channels = _parts(layout, carry.shape[-1], product.numel(), team.size)
    by_steps = not layout.packed and product.nbytes <= STEP_AHEAD * layout.steps * len(parts)
    forms = tuple([(v.dtype, v.stride()) if isinstance(v, torch.Tensor) else None for v in operands.values()])
    head, options = (layout.steps, layout.reverse, layout.batch), (carry.shape[-1], by_channels, gated)
    call, table = _kernel(name, tuple(operands), forms, layout.axis, head, by_steps, options)
    if not isinstance(keep, torch.Tensor):
        operands["keep"] = _filled((), 1.0 if keep is None else keep, dtype=carry.dtype, device="cpu")
    places = [(product if v is None else v).data_ptr() for v in operands.values()]
    team.run([(call, *places, address(layout.rows), address(table), *part) for part in parts])


def _strides(form, axis):
    """Return an operand's strides in bytes, of a step and of a sequence, which stand on an axis; of none, zeros."""
    dtype, strides = form or (torch.bool, (0, 0))
    return strides[0] * dtype.itemsize, 0 if axis is None else strides[axis] * dtype.itemsize


@functools.lru_cache(1024)
def _kernel(name, names, forms, axis, head, by_steps, options):
    """Return a kernel and the table that it reads; what is no tensor is of the carry's dtype."""
    forms = dict(zip(names, forms, strict=True))
    elements = {key: element(tensors.DTYPES[(form or forms["carry"])[0]]) for key, form in forms.items()}
    step, row, *strides = [n for name in pool.STRIDED for n in _strides(forms.get(name), axis)]
    ahead = ROWS_AHEAD * row
    if by_steps:
        ahead = step if head[1] == (name == "pool.vjp") else -step
    has = [forms.get(name) is not None for name in ("keep", "states", "g", "flags")]
    table = np.array([*head, ahead, *options, *has, step, row, *strides], np.int64)
    return kernel(name, None, elements.pop("carry"), **elements), table


def _launch(name, layout, gated, *, keep, carry, flags=None, **operands):
    """Start a kernel in torch's current stream, after what is there and before what comes."""
    from ..._cuda import arrays, plan as _plan, run as device_run

    _, owner, device = arrays.take(("carry",), (carry,))
    rows, lengths = layout.on_gpu(owner, device)
    operands |= {"keep": 1.0 if keep is None else keep, "carry": carry, "rows": rows, "lengths": lengths}
    operands |= {"offsets": layout.offsets, "resets": layout.resets}
    views, _, _ = arrays.take(tuple(operands), tuple(operands.values()))
    places, known = {}, []
    for (label, operand), view in zip(operands.items(), views, strict=True):
        form = (operand.dtype, operand.stride()) if isinstance(operand, torch.Tensor) else None
        places[label] = view.pointer if form else 0 if operand is None else operand
        if operand is not None and label not in ("carry", "rows"):
            is_row = label in ("first", "lengths", "offsets")
            strides = (0, view.strides[0]) if is_row else _strides(form, layout.axis)
            known.append((label, view.dtype if form else None, strides))
    options = bool(layout.reverse), bool(gated), layout.packed
    plan = _plan.pool(name, tuple(known), layout.steps, *carry.shape, *options)
    device_run.program(plan).run([places.get(label, 0) for label in plan.names], None, device, owner.stream(device))

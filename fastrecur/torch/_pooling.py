"""Pooling: from a layer's product to its states and its output. The layers above know nothing of how it is done."""

from __future__ import annotations

import torch

from ..recurrence import forget_mult


def pool(product, c0=None, *, output_gate=True, keep=None, reverse=False, lengths=None):
    """Pool a product of Z, F and O blocks, (T, B, 3H), or of Z and F, (T, B, 2H), without `output_gate`.

    ``c = forget_mult(sigmoid(F)*keep, tanh(Z), c0)``, ``h = sigmoid(O)*c``. ``keep`` is None, a number, or (T, B, H).
    Return h, (T, B, H), zeros in the padding if there are ``lengths``, and the last valid state c, (B, H).
    """
    z, f, *o = product.chunk(3 if output_gate else 2, -1)
    f = f.sigmoid()
    if keep is not None:
        f = f * keep
    c, c_last = forget_mult(f, z.tanh(), c0, reverse=reverse, lengths=lengths, return_state=True)
    return (o[0].sigmoid() * c if output_gate else c), c_last


def pool_packed(product, batch_sizes, c0=None, *, output_gate=True, keep=None, reverse=False):
    """Pool a product of packed rows, (N, 3H), as a `PackedSequence` lays them out; ``keep`` may be (N, H).

    Steps of as many lanes as the step before are pooled together; only valid steps are touched. Return h, (N, H), and
    the last states, (B, H).
    """
    sizes, counts = torch.unique_consecutive(batch_sizes, return_counts=True)
    sizes, counts = sizes.tolist(), counts.tolist()
    rows = [size * count for size, count in zip(sizes, counts, strict=True)]
    is_mask = isinstance(keep, torch.Tensor)
    runs = list(zip(sizes, product.split(rows), keep.split(rows) if is_mask else [keep] * len(rows), strict=True))
    lanes = [size - after for size, after in zip(sizes, [*sizes[1:], 0], strict=True)]  # that end with each run
    joins = [None] * len(sizes) if c0 is None else list(c0.split(lanes[::-1]))[::-1]
    state, h, ended = (None if reverse else c0), [None] * len(runs), []
    for k in reversed(range(len(runs))) if reverse else range(len(runs)):
        size, part, kept = runs[k]
        if reverse:
            joining = product.new_zeros(lanes[k], product.shape[-1] // (2 + output_gate)) if c0 is None else joins[k]
            state = joining if state is None else torch.cat([state, joining])
        if is_mask:
            kept = kept.unflatten(0, (-1, size))
        run, state = pool(
            part.unflatten(0, (-1, size)), state, output_gate=output_gate, keep=kept, reverse=reverse
        )  # fmt: skip
        h[k] = run.flatten(0, 1)
        if not reverse:
            state, done = state.split([size - lanes[k], lanes[k]])
            ended.append(done)
    return torch.cat(h), state if reverse else torch.cat(ended[::-1])


def layer_inference(source, weight, bias, c0=None, *, batch_sizes=None, **options):
    """Pool the product of a layer's input with a plain weight, where no gradient is wanted."""
    product = torch.nn.functional.linear(source, weight, bias)
    if batch_sizes is not None:
        return pool_packed(product, batch_sizes, c0, **options)
    return pool(product, c0, **options)

"""What a step sees: its own input and those before it in the scan direction, side by side."""

import functools

import torch


def windows(rows, window, previous, reverse, keeps, packed=None, batch=None):
    """Return (T, B, window*I) of rows, (T, B, I), and, if it `keeps` them, the last ``window - 1`` rows."""
    # `previous`, (window - 1, B, I), stands before the first step in the scan direction; None is zeros. The rows of a
    # `PackedSequence`, (N, I), are told by it, and the batch.
    if window == 1:
        return rows, None
    if packed is not None:
        return _packed_windows(rows, window, previous, reverse, keeps, packed, batch)
    steps, before = rows.shape[0], window - 1
    if previous is None:
        previous = rows.new_zeros(before, *rows.shape[1:])
    table = torch.cat([rows, previous] if reverse else [previous, rows])
    shifted = [table[k : k + steps] for k in range(window)]  # in time order; the step's own input comes first
    source = torch.cat(shifted if reverse else shifted[::-1], -1)
    return source, (table[:before] if reverse else table[steps:]).clone() if keeps else None


def _packed_windows(rows, window, previous, reverse, keeps, packed, batch):
    """Do the same for packed rows; what is kept is in the batch's own order."""
    sizes, before = packed.batch_sizes, window - 1
    (steps,), count = sizes.shape, functools.partial(torch.arange, device="cpu")
    lanes, ends = count(batch), sizes.cumsum(0)
    time = torch.searchsorted(ends, count(rows.shape[0]), right=True)
    at = time, count(rows.shape[0]) - (ends - sizes)[time]  # the step and the sequence of each row
    if previous is None:
        previous = rows.new_zeros(before, batch, rows.shape[-1])
    elif packed.sorted_indices is not None:
        previous = previous.index_select(1, packed.sorted_indices)
    padded = rows.new_zeros(steps, *previous.shape[1:]).index_put(at, rows)
    # Behind each sequence's own end: there are its last inputs, or, in reverse, stand those before its first.
    beyond = (sizes.unsqueeze(1) > lanes).sum(0) + count(before).unsqueeze(1), lanes
    if reverse:
        table = torch.cat([padded, torch.zeros_like(previous)]).index_put(beyond, previous)
        padded, previous, last = table[:steps], table[steps:], table[:before]
    elif keeps:
        last = torch.cat([previous, padded])[beyond]
    source = windows(padded, window, previous, reverse, False)[0][at]
    if not keeps:
        return source, None
    return source, last.clone() if packed.unsorted_indices is None else last.index_select(1, packed.unsorted_indices)

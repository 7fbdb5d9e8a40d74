"""What a step sees: its own input and those before it in the scan direction, side by side."""

import torch


def windows(rows, window, previous, reverse, keeps, packed=None):
    """Return (T, B, window*I) of rows, (T, B, I), and, if it `keeps` them, the last ``window - 1`` for the next call.

    `previous`, (window - 1, B, I), stands before the first step in the scan direction; None is zeros. The rows of a
    `PackedSequence`, (N, I), are told by it.
    """
    if window == 1:
        return rows, None
    if packed is not None:
        return _packed_windows(rows, window, previous, reverse, keeps, packed)
    steps, before = rows.shape[0], window - 1
    if previous is None:
        previous = rows.new_zeros(before, *rows.shape[1:])
    table = torch.cat([rows, previous] if reverse else [previous, rows])
    shifted = [table[k : k + steps] for k in range(window)]  # in time order; the step's own input comes first
    source = torch.cat(shifted if reverse else shifted[::-1], -1)
    return source, (table[:before] if reverse else table[steps:]).clone() if keeps else None


def _packed_windows(rows, window, previous, reverse, keeps, packed):
    """Do the same for packed rows; what is kept is in the batch's own order."""
    batch_sizes, before = packed.batch_sizes, window - 1
    steps, lanes = len(batch_sizes), int(batch_sizes[0])
    starts = batch_sizes.cumsum(0) - batch_sizes
    lengths = (batch_sizes > torch.arange(lanes, device="cpu").unsqueeze(1)).sum(1)
    if previous is None:
        previous = rows.new_zeros(before, lanes, rows.shape[-1])
    elif packed.sorted_indices is not None:
        previous = previous.index_select(1, packed.sorted_indices)
    table = torch.cat([rows, previous.flatten(0, 1)])

    def place(step, lane):
        """Return where in the table a lane's input of a step is; steps outside 0..length are of `previous`."""
        outside = step - lengths[lane] if reverse else step + before
        is_inside = step < lengths[lane] if reverse else step >= 0
        return torch.where(
            is_inside, starts[step.clamp(0, steps - 1)] + lane, len(rows) + outside * lanes + lane
        )  # fmt: skip

    def taken(index, *shape):
        return table.index_select(0, index.to(rows.device).flatten()).reshape(*shape, -1)

    step = torch.arange(steps, device="cpu").repeat_interleave(batch_sizes)
    lane = torch.arange(len(rows), device="cpu") - starts[step]
    shifts = torch.arange(window, device="cpu") * (1 if reverse else -1)
    source = taken(place(step.unsqueeze(1) + shifts, lane.unsqueeze(1)), len(rows))
    if not keeps:
        return source, None
    lane, kept = torch.arange(lanes, device="cpu"), torch.arange(before, device="cpu").unsqueeze(1)
    last = taken(place(kept if reverse else kept + lengths - before, lane), before, lanes)
    if packed.unsorted_indices is not None:
        last = last.index_select(1, packed.unsorted_indices)
    return source, last

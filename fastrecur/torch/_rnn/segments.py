"""A QRNN on many series in one axis of time: where they begin anew is not looked at by the host."""

from collections import namedtuple

import numpy as np
import torch
from torch import Tensor

from ..._arguments import checks, messages as say
from .._operator import arguments


class Cut(namedtuple("Cut", "offsets resets")):
    """Where series begin anew in rows, (T, B, features): the batch's, or with offsets those of its one lane."""

    def n_series(self, rows):
        return rows.shape[1] if self.offsets is None else self.offsets.shape[0] - 1

    def windows(self, rows, window, previous, reverse, keeps):
        """Return what `windows` returns, with zeros beyond a border: a table's rows, the last of which is zeros."""
        if window == 1:
            return rows, None
        (steps, lanes, size), n, before = rows.shape, self.n_series(rows), window - 1
        previous = rows.new_zeros(before, n, size) if previous is None else previous.to(rows)
        table = torch.cat([rows.flatten(0, 1), previous.flatten(0, 1), rows.new_zeros(1, size)])
        time, series, k = (torch.arange(count, device=rows.device) for count in (steps, n, window))
        offsets = None if self.offsets is None else self.offsets.to(time).clamp(0, steps)
        flags = None if self.resets is None else self.resets.to(time)
        so_far = None if flags is None else torch.cat([flags[:1] * 0, flags.cumsum(0)])  # flags before each step

        def seen(step, own, now):
            """Return the rows of steps of some series that are seen where ``now`` steps are over."""
            begin, end = (0 * own, 0 * own + steps) if offsets is None else (offsets[own], offsets[own + 1])
            lane = own if offsets is None else 0 * own
            known = steps * lanes + (step - end if reverse else step - begin + before) * n + own
            places = torch.where((step >= begin) & (step < end), step * lanes + lane, known)
            if so_far is not None:
                is_beyond = so_far[(step + 1).clamp(begin, end), lane] != so_far[now, lane]
                places = places.masked_fill(is_beyond, table.shape[0] - 1)
            places = places.clamp(0, table.shape[0] - 1)  # wrong offsets are the recurrence's to refuse
            return table.index_select(0, places.flatten()).unflatten(0, places.shape)

        time = time.view(-1, 1, 1)
        own = series.view(-1, 1) if offsets is None else torch.searchsorted(offsets[1:], time, right=True)
        source = seen(time + k if reverse else time - k, own.clamp(max=n - 1), time + 1).flatten(2)
        if not keeps:
            return source, None
        edge = (0, steps)[not reverse] if offsets is None else (offsets[:-1] if reverse else offsets[1:])
        return source, seen(edge + (k[:-1] if reverse else k[:-1] - before).unsqueeze(1), series, edge)


def cut(module, input, rows, offsets, resets):
    """Return where a module's input, of rows (T, B, features), is cut; None if nowhere."""
    if offsets is None and resets is None:
        return None
    if not isinstance(input, Tensor):
        raise TypeError(say.rnn_segments_input("resets" if offsets is None else "offsets", type(input)))
    if offsets is not None and input.dim() != 2:
        raise ValueError(say.rnn_segments_input("offsets", tuple(input.shape)))
    flags = resets if resets is None or isinstance(resets, Tensor) else np.asarray(resets)
    turn = module.batch_first and flags is not None and flags.ndim == 2
    shape = rows.shape[1::-1] if turn else rows.shape[:2]
    _, offsets, resets = arguments.ends(checks.split(None, offsets, resets), shape, int(turn), (rows,))
    if resets is not None:
        resets = resets.T if turn else resets.reshape(*resets.shape, *(1,) * (2 - resets.dim()))
        resets = resets.expand(rows.shape[:2])
    return Cut(offsets, resets)

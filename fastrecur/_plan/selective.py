"""How a selective scan is cut: into chunks of time between the borders of series, and units of rows and channels."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .._arguments.selective import Options, Sizes

CHUNK = 32  # steps of which a tile of channels is in the nearest cache, and after which a gradient has a checkpoint
LANES = 16  # channels of a vector
LEAST, GROUP = 2, 8  # vectors of channels for which a chunk of B and C is read once, and its gradients are added up
FEW, UNITS = 4, 64  # parts of the work: at least, if none has fewer vectors; and about as many at most

# Columns of tables: of rows, the sequence and their chunks; of chunks, their first step in memory, how many there are
# and the number of the checkpoint before them, -1 where the state before them is zero.
BATCH, FIRST_CHUNK, STOP_CHUNK = range(3)
FIRST_STEP, STEPS, CHECKPOINT = range(3)


class Chunks(NamedTuple):
    """What is scanned, in scan order; rows are sequences, or segments."""

    rows: np.ndarray  # a table
    chunks: np.ndarray  # a table
    checkpoints: int  # how many there are
    cleared: np.ndarray  # which rows end in a border: the states that they hand on are zero


def cut(sizes: Sizes, options: Options) -> Chunks:
    """Return the chunks of a call."""
    if options.lengths is None and options.offsets is None and options.resets is None:
        whole: Chunks = _whole(sizes.batch, sizes.steps, options.reverse)
        return whole
    firsts, stops = np.zeros(sizes.rows, np.int64), np.full(sizes.rows, sizes.steps)
    if options.offsets is not None:
        firsts, stops = options.offsets[:-1], options.offsets[1:]
    elif options.lengths is not None:
        stops = options.lengths
    own: Chunks = _cut(firsts, stops, options.resets, options.reverse, options.offsets is None)
    return own


@functools.lru_cache(64)
def _whole(batch, steps, reverse):
    return _cut(np.zeros(batch, np.int64), np.full(batch, steps), None, reverse, True)


def _cut(firsts, stops, resets, reverse, by_batch):
    """Cut rows from their first steps to their last ones, where flags are set and into chunks."""
    row = np.flatnonzero(firsts < stops)
    first, begins = firsts[row], np.zeros(len(firsts), bool)
    if resets is not None:
        owner, flagged = np.nonzero(resets)
        if not by_batch:
            owner = np.searchsorted(firsts, flagged, side="right") - 1
        valid = flagged < stops[owner]
        owner, flagged = owner[valid], flagged[valid]
        at_first = flagged == firsts[owner]
        begins[owner[at_first]] = True
        row, first = np.concatenate([row, owner[~at_first]]), np.concatenate([first, flagged[~at_first]])
        order = np.lexsort((first, row))
        row, first = row[order], first[order]
    has_next = np.append(row[1:] == row[:-1], False)
    stop = np.where(has_next, np.append(first[1:], 0), stops[row])
    is_fresh = has_next if reverse else np.append(False, has_next[:-1]) | begins[row] & (first == firsts[row])
    counts = -(-(stop - first) // CHUNK)
    run = np.repeat(np.arange(len(row)), counts)
    k = np.arange(len(run)) - np.repeat(np.cumsum(counts) - counts, counts)
    at = first[run] + CHUNK * k
    fresh = is_fresh[run] & (k == (counts[run] - 1 if reverse else 0))
    chunks = np.stack([at, np.minimum(CHUNK, stop[run] - at), np.where(fresh, -1, np.cumsum(~fresh) - 1)], axis=1)
    per_row = np.bincount(row[run], minlength=len(firsts))
    ends = np.cumsum(per_row)
    starts = ends - per_row
    if reverse:
        chunks = chunks[(starts + ends - 1)[row[run]] - np.arange(len(run))]
    batch = np.arange(len(firsts)) if by_batch else np.zeros(len(firsts), np.int64)
    cleared = begins & reverse
    return Chunks(np.stack([batch, starts, ends], axis=1), chunks, int((~fresh).sum()), cleared)


class Units(NamedTuple):
    """Parts of the work: of rows, times groups of channels that share B and C, times groups of vectors of these."""

    parts: int
    groups: int
    subs: int
    per_group: int  # channels
    vectors: int  # of a group
    of_unit: int  # vectors, at most

    @property
    def size(self) -> int:
        return self.parts * self.groups * self.subs


def groups_of(b: Sequence[int], c: Sequence[int], layout: str) -> int:
    """Return the groups of channels, given the shapes of B and C."""
    return max([shape[1 if layout == "bdl" else 2] for shape in (b, c) if len(shape) == 4], default=1)


def kept_numbers(batch: int, steps: int, channels: int, states: int, groups: int) -> int:
    """Return how many numbers the checkpoints of sequences without borders have."""
    return batch * -(-steps // CHUNK) * groups * -(-(channels // groups) // LANES) * states * LANES


def units(sizes: Sizes, groups: int) -> Units:
    """Return the units of a call with so many groups: whatever the number of threads, as sums are over units."""
    per_group = sizes.channels // groups
    vectors = -(-per_group // LANES)
    subs = -(-vectors // min(GROUP, max(LEAST, sizes.rows * groups * vectors // FEW)))
    of_unit = -(-vectors // max(1, subs + subs % 2 * (subs > 1)))  # an even number of units, all of about one size
    subs = -(-vectors // max(1, of_unit))
    parts = min(sizes.rows, -(-UNITS // max(1, groups * subs)))
    return Units(parts, groups, subs, per_group, vectors, of_unit)

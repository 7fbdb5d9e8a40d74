"""Prepared calls: what a kind of call has come to, by all that a kernel reads of it but numbers and addresses."""

import numpy as np

from .._arguments.arrays import address
from .compiler import native
from .machine import threads as _threads

MOST_KEPT = 1024


def keep(kept, key, value):
    """Remember what a kind of call has come to; of too many, all are forgotten."""
    if len(kept) >= MOST_KEPT:
        kept.clear()
    kept[key] = value


def prepared(kernel, rows, given, owners, threads=1, scratch=(0, 0), releases=True):
    """Return what calls a kernel, of arrays or numbers in the places that are ``given`` among its arguments.

    ``rows`` are the arguments of its calls, which a team's threads share, with what is added to addresses in such
    places; ``owners`` live as long as what is returned. The rest is as for `native.prepared`, which one call becomes.
    """
    if len(rows) == 1 and native.is_native([(kernel,)]):
        return native.prepared(kernel, rows[0], given, *scratch, releases, owners)

    def run(*operands, owners=owners):
        place, words = scratch
        operands = [v if type(v) is int else np.asarray(v) for v in (*operands, np.zeros(words))]
        moved = {k: v if type(v) is int else address(v) for k, v in zip((*given, place), operands, strict=True)}
        calls = [(kernel, None, *(n + moved.get(k, 0) for k, n in enumerate(row[1:], 1))) for row in rows]
        _threads.team().run(calls, min(threads, len(calls)))

    return run

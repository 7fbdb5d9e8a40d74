"""The sizes from which a problem is large, made small: so that small problems go where it goes."""

import functools

from fastrecur._cpu import cost, host
from fastrecur._cpu.machine import allocate


def lower_thresholds(setattr):
    """Share every problem among threads and stream every result.

    `setattr` is Python's own or, to be undone afterwards, monkeypatch's.
    """
    for name in ("SERIAL_BYTES", "SERIAL_ROW_BYTES", "STREAMED_ROW_BYTES", "STREAMED_NUMBERS"):
        setattr(cost, name, 0)
    setattr(cost, "STREAMED_PART_BYTES", 64)
    setattr(cost, "ITEM_BYTES", 1)
    setattr(allocate, "LARGE", 0)  # results that are streamed begin with a line: sums are cut by lines
    setattr(cost, "_cache_bytes", lambda: 0)
    # What was remembered of calls, and of how threads share them, is not for large ones.
    setattr(host, "_shortcuts", {})
    setattr(cost, "choose", functools.lru_cache(cost.choose.__wrapped__))

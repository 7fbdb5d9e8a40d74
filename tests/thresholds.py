"""The sizes from which a problem is large, made small: so that small problems go where it goes."""

import functools

from fastrecur import _allocate, _cost, _host


def lower_thresholds(setattr):
    """Share every problem among threads and stream every result.

    `setattr` is Python's own or, to be undone afterwards, monkeypatch's.
    """
    for name in ("SERIAL_BYTES", "SERIAL_ROW_BYTES", "STREAMED_ROW_BYTES", "STREAMED_NUMBERS"):
        setattr(_cost, name, 0)
    setattr(_cost, "STREAMED_PART_BYTES", 64)
    setattr(_cost, "ITEM_BYTES", 1)
    setattr(_allocate, "LARGE", 0)  # results that are streamed begin with a line: sums are cut by lines
    setattr(_cost, "_cache_bytes", lambda: 0)
    # What was remembered of calls, and of how threads share them, is not for large ones.
    setattr(_host, "_shortcuts", {})
    setattr(_cost, "choose", functools.lru_cache(_cost.choose.__wrapped__))

"""The sizes from which a problem is large, made small: so that small problems go where it goes."""

import functools

from fastrecur import _host, _problem, _run


def lower_thresholds(setattr):
    """Share every problem among threads and write every result past the cache.

    `setattr` is Python's own or, to be undone afterwards, monkeypatch's.
    """
    setattr(_run, "SERIAL_BYTES", 0)
    setattr(_run, "SERIAL_ROWS", 0)
    setattr(_run, "LONG_PIECE", 64)
    setattr(_run, "BYPASS_ROW", 0)
    setattr(_run, "FRESH_BYTES", 0)
    setattr(_problem, "LARGE", 0)  # results that go past the cache begin with a line: sums are cut by lines
    setattr(_run, "_cache_bytes", lambda: 0)
    setattr(_run, "_staying_bytes", lambda: 0)
    # What was remembered of calls, and of how threads share them, is not for large ones.
    setattr(_host, "_shortcuts", {})
    setattr(_run, "_sharing", functools.lru_cache(_run._sharing.__wrapped__))
    setattr(_run, "_stretches", functools.lru_cache(_run._stretches.__wrapped__))
    setattr(_run, "_shifted", functools.lru_cache(_run._shifted.__wrapped__))

"""What computes a statistic: at once, or, of Dask arrays, chunk by chunk."""

from __future__ import annotations

from typing import Any

from .. import _arrays
from . import _run


def compute(
    statistic: str, request: _run.Request, x: Any, y: Any, axis: Any, state: Any = None, last_time: Any = None
) -> tuple[Any, Any]:
    """Return a statistic of ``x`` (and ``y``), in their library, and its state (None: of Dask arrays)."""
    if _arrays.any_lazy(x, y, request.times, *request.constant.arrays.values()):
        from . import _lazy

        return _lazy.compute(statistic, request, x, y, axis), None
    return _run.compute(statistic, request, x, y, axis, state, last_time)

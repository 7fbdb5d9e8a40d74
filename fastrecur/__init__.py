"""The forget-mult recurrence as one fast, exact, differentiable primitive for any array."""

from importlib import import_module as _import_module
from typing import Any as _Any

import numba as _numba  # noqa: F401  # the first call needs it: better to wait for it here

from . import reference
from ._config import show_config
from ._threads import get_num_threads, set_num_threads
from .recurrence import forget_mult, forget_mult_vjp, linear_recurrence, linear_recurrence_vjp

__all__ = [
    "__version__",
    "forget_mult",
    "forget_mult_vjp",
    "get_num_threads",
    "linear_recurrence",
    "linear_recurrence_vjp",
    "reference",
    "set_num_threads",
    "show_config",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> _Any:
    if name == "smoothing":
        return _import_module(".smoothing", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Recurrences of first order along any axis of any array, and their gradients.

`forget_mult` is an average whose weight may change at every step, ``h[t] = f[t]*x[t] + (1 - f[t])*h[t-1]``, and
`linear_recurrence` its general form, ``h[t] = a[t]*h[t-1] + b[t]``; `forget_mult_vjp` and `linear_recurrence_vjp` are
their gradients.

- `fastrecur.smoothing` has pandas' exponentially weighted statistics and more, for any array.
- `fastrecur.filters` has SciPy's filters of second order, with gradients.
- `fastrecur.returns` has reinforcement learning's returns and advantages.
- `fastrecur.torch` has modules for PyTorch, a QRNN among them; the functions here take tensors as they are.
- `fastrecur.reference` is the definition as a plain loop.
"""

import re as _re
import typing as _typing
from importlib import import_module as _import_module
from pathlib import Path as _Path

from . import reference
from ._config import __version__, show_config
from ._cpu.machine.threads import get_num_threads, set_num_threads
from .recurrence import forget_mult, forget_mult_vjp, linear_recurrence, linear_recurrence_vjp
from .selective import selective_scan, selective_scan_vjp

__all__ = [
    "__version__",
    "forget_mult",
    "forget_mult_vjp",
    "get_num_threads",
    "linear_recurrence",
    "linear_recurrence_vjp",
    "reference",
    "selective_scan",
    "selective_scan_vjp",
    "set_num_threads",
    "show_config",
]


def _home_of(name: str) -> str | None:
    """Return the public module that has a name, as its text says: importing one may take seconds."""
    top = _Path(__file__).parent
    for path in [] if name.startswith("_") else sorted(top.rglob("[!_]*/__init__.py")):
        if _re.search(rf'^__all__ = \[[^]]*"{_re.escape(name)}"', path.read_text("utf-8"), _re.MULTILINE):
            return ".".join(("fastrecur", *path.parent.relative_to(top).parts))
    return None


if _typing.TYPE_CHECKING:
    from . import filters as filters, returns as returns, smoothing as smoothing
else:  # of type checkers, it would take any name

    def __getattr__(name):
        if name in ("filters", "returns", "smoothing"):
            return _import_module(f".{name}", __name__)
        home = _home_of(name)
        advice = ": import fastrecur.torch first" if name == "torch" else f": it is in {home}" if home else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{advice}")

    def __dir__():
        return sorted({*globals(), "filters", "returns", "smoothing"})

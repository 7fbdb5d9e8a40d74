"""Keywords that a function does not have: the error names the one that the caller may have meant."""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from . import messages as say

_F = TypeVar("_F", bound=Callable[..., Any])
# What other libraries call an argument, where no spelling leads from one to the other.
_ELSEWHERE = {
    "dim": "axis",
    "tau": "halflife",
    **dict.fromkeys(("lamda", "lambda_", "lmbda", "gae_lambda"), "lam"),
    "discount": "gamma",
    **dict.fromkeys(("dones", "terminated"), "done"),
    "by": "groups",
    "lengths": "offsets",
    "cu_seqlens": "offsets",
}


def suggesting(function: _F) -> _F:
    """Return a function that raises with the nearest name for a keyword that it does not have."""
    names = _names(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError:
            if all(name in names for name in kwargs):
                raise
            raise refused(function, kwargs) from None

    return call  # type: ignore[return-value]


def closed(function: _F) -> _F:
    """Hide `**unknown` from the signature of a function that raises `refused`: it costs a call less than a wrapper."""
    signature = inspect.signature(function)
    shown = [parameter for name, parameter in signature.parameters.items() if name != "unknown"]
    function.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    return function


def refused(function: Callable[..., Any], given: Iterable[str]) -> TypeError:
    """Return the error for the first keyword that a function does not have."""
    names = _names(function)
    unknown = next(name for name in given if name not in names)
    return TypeError(say.unexpected(function.__qualname__.removesuffix(".__init__"), unknown, _advice(unknown, names)))


def _names(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(name for name in inspect.signature(function).parameters if name != "self")


def _advice(unknown: str, names: tuple[str, ...]) -> str:
    near = _ELSEWHERE.get(unknown, "")
    if near not in names:
        near = next(iter(difflib.get_close_matches(unknown, names, 1, 0.7)), "")
    return f"did you mean `{near}`?" if near else f"it has {', '.join(f'`{name}`' for name in names)}"

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
    "done": "terminated",
    "by": "groups",
    "lengths": "offsets",
    "cu_seqlens": "offsets",
}


def suggesting(function: _F) -> _F:
    """Return a function that raises with the names that a caller may have meant, where arguments do not fit it."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError:
            if (problem := _misfit(function, args, kwargs)) is None:
                raise
            raise problem from None

    return call  # type: ignore[return-value]


def _misfit(function: Callable[..., Any], args: Any, kwargs: Any) -> TypeError | None:
    """Return an error for arguments that do not fit a function; None if they do, or Python's own says all."""
    names = _names(function)
    if any(name not in names for name in kwargs):
        return refused(function, kwargs)
    parameters = inspect.signature(function).parameters.values()
    by_position = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    others = [f"{p.name}=" for p in parameters if p.kind is p.KEYWORD_ONLY]
    if others and len(args) > len(by_position):
        own = len(names) < len(parameters)  # self
        most, came = len(by_position) - own, len(args) - own
        return TypeError(say.by_position(_called(function), most, "" if most == 1 else "s", came, others[:4]))
    missing = [p.name for p in by_position[len(args) :] if p.default is p.empty and p.name not in kwargs]
    return TypeError(say.without_ends(_called(function))) if missing == ["terminated"] else None


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
    return TypeError(say.unexpected(_called(function), unknown, _advice(unknown, names)))


def _called(function: Callable[..., Any]) -> str:
    return function.__qualname__.removesuffix(".__init__")


def _names(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(name for name in inspect.signature(function).parameters if name != "self")


def _advice(unknown: str, names: tuple[str, ...]) -> str:
    near = _ELSEWHERE.get(unknown, "")
    near = near if near in names else _ELSEWHERE.get(near, "")
    if near not in names:
        near = next(iter(difflib.get_close_matches(unknown, names, 1, 0.7)), "")
    return f"did you mean `{near}`?" if near else f"it has {', '.join(f'`{name}`' for name in names)}"

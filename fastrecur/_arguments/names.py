"""Keywords that a function does not have: the error names the one that the caller may have meant."""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from . import messages as say

_F = TypeVar("_F", bound=Callable[..., Any])
# What other libraries call an argument, where no spelling leads from one to the other.
_ELSEWHERE = {"dim": "axis", "tau": "halflife", "lamda": "lam", "discount": "gamma", "dones": "done"}


def suggesting(function: _F) -> _F:
    """Return a function that raises with the nearest name for a keyword that it does not have."""
    names = tuple(name for name in inspect.signature(function).parameters if name != "self")

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError:
            unknown = next((name for name in kwargs if name not in names), None)
            if unknown is None:
                raise
            raise TypeError(
                say.unexpected(function.__qualname__.removesuffix(".__init__"), unknown, _advice(unknown, names))
            ) from None

    return call  # type: ignore[return-value]


def _advice(unknown: str, names: tuple[str, ...]) -> str:
    near = _ELSEWHERE.get(unknown, "")
    if near not in names:
        near = next(iter(difflib.get_close_matches(unknown, names, 1, 0.7)), "")
    return f"did you mean `{near}`?" if near else f"it has {', '.join(f'`{name}`' for name in names)}"

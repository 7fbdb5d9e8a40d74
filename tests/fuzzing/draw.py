"""Operands at random: what `records.py` says that an argument may be, in any form that it allows.

Two generators are at hand: ``traits`` draws what kernels are compiled for (dtypes, forms, which arguments are there),
and ``rng`` all else: sizes, numbers, memory. Many cases share their traits, so that a run spends its time on calls.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from layouts import laid_out

STEPS = [0, 1, 1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 70]
SERIES = [1, 1, 2, 2, 3, 4, 5, 6, 8, 17]
FORMS = ["full"] * 4 + ["ones", "dropped", "0-d", "number", "number", "list"]


def pick(rng, values):
    return values[int(rng.integers(len(values)))]


def chance(rng, probability):
    return bool(rng.random() < probability)


# ---- Operands -------------------------------------------------------------------------------------------------------


@dataclass
class Operand:
    """What an operand may be: ``shape`` in full, of which axes ``ones`` may be 1, and leading axes may be ``dropped``.

    ``fill`` returns numbers of a shape, from a generator.
    """

    shape: tuple[int, ...]
    fill: Callable[..., Any]
    dtypes: list[str]
    ones: tuple[int, ...] = ()
    dropped: bool = False
    number: bool = False
    zero_d: bool = False
    has_list: bool = True
    scale: int = 9  # of whole numbers
    optional: bool = False
    may_round: bool = True  # a number to a whole one
    may_repeat: bool = True  # its numbers, along any axis

    def draw(self, traits, rng):
        """Return a value for this operand."""
        form = pick(traits, FORMS)
        dtype = np.dtype(_bfloat16() if (name := pick(traits, self.dtypes)) == "bf" else name)
        if form == "number" and self.number:
            value = self.fill(rng, ())
            value = complex(value) if dtype.kind == "c" else float(np.real(value))
            return round(value.real) if self.may_round and chance(traits, 0.2) else value
        shape = list(self.shape)
        if form == "0-d" and self.zero_d:
            shape = []
        elif form in ("ones", "dropped"):
            for k in self.ones:
                shape[k] = 1 if chance(traits, 0.5) else shape[k]
            if form == "dropped" and self.dropped:
                del shape[: int(traits.integers(len(shape) + 1))]
        numbers = np.asarray(self.fill(rng, tuple(shape)))
        if dtype.kind in "iu":
            numbers = np.round(self.scale * numbers.real)
            numbers = numbers if dtype.kind == "i" else np.abs(numbers)
        elif dtype.kind == "b":
            numbers = numbers.real > 0.5
        elif dtype.kind != "c":
            numbers = numbers.real
        array = laid_out(numbers.astype(dtype), rng, self.may_repeat)
        if form == "list" and self.has_list and array.dtype.kind in "fib" and array.size:
            return array.tolist()
        return array

    def exact(self):
        """Return one that has its shape in full."""
        return replace(self, ones=(), dropped=False, number=False, zero_d=False, optional=False)


def _bfloat16():
    import ml_dtypes

    return ml_dtypes.bfloat16


def uniform(low, high, ends=0.0):
    """Return a fill of numbers in a range; some of them, at random, its ends."""

    def fill(rng, shape):
        numbers = rng.uniform(low, high, shape) + 1j * rng.uniform(-0.5, 0.5, shape)
        if ends and chance(rng, ends):
            numbers = np.where(rng.random(shape) < 0.2, rng.choice([low, high], shape), numbers)
        return numbers

    return fill


# ---- Calls ----------------------------------------------------------------------------------------------------------


@dataclass
class Call:
    """A call: what its operands may be, what they are, and other arguments."""

    name: str
    operands: dict[str, Operand]
    options: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    redraw: dict[str, Callable[..., Any]] = field(default_factory=dict)  # of options that may change

    def fill(self, traits, rng):
        """Draw every operand."""
        for name, operand in self.operands.items():
            absent = operand.optional and chance(traits, 0.5)
            self.given[name] = None if absent else operand.draw(traits, rng)
        return self

    def __repr__(self):
        """Return the call as one would write it down, with forms for the operands."""
        given = ", ".join(f"{name}={shown(v)}" for name, v in self.given.items() if v is not None)
        options = ", ".join(f"{name}={shown(v, 12)}" for name, v in self.options.items() if v is not None)
        return f"{self.name}({given}, {options})"


def shown(value, most=0):
    """Return the form of an operand, or its numbers where it is short."""
    if hasattr(value, "shape") and value.size <= most:
        return f"{np.asarray(value).tolist()}"
    if hasattr(value, "strides") and hasattr(value, "dtype"):
        access = "" if value.flags.writeable else ", read-only"
        return f"<{value.dtype.name} {value.shape}, strides {value.strides}{access}>"
    if isinstance(value, list):
        return f"<list {np.shape(value)}>"
    return repr(value)


def changed(call, traits, rng):
    """Return a call in which one thing is another one, what that is, and a function that undoes it."""
    fresh = replace(call, given=dict(call.given), options=dict(call.options))
    names = list(call.operands)
    name = pick(rng, names + list(call.redraw))
    if name in call.redraw:
        fresh.options[name] = call.redraw[name](traits, rng)
        return fresh, f"another {name}", lambda: None
    operand, old = call.operands[name], call.given[name]
    what = pick(rng, ["values", "array", "form", "presence"])
    if what == "values" and isinstance(old, np.ndarray) and old.flags.writeable and old.size:
        kept = old.copy()
        numbers = np.asarray(operand.fill(rng, old.shape))
        old[...] = (numbers if old.dtype.kind == "c" else numbers.real).astype(old.dtype)
        return fresh, f"other values in the same {name}", lambda: old.__setitem__(..., kept)
    if what == "presence" and operand.optional:
        fresh.given[name] = operand.draw(traits, rng) if old is None else None
        return fresh, f"{name} {'there' if old is None else 'left out'}", lambda: None
    if what == "array" and isinstance(old, np.ndarray):
        numbers = np.asarray(operand.fill(rng, old.shape))
        numbers = (numbers if old.dtype.kind == "c" else numbers.real).astype(old.dtype)
        fresh.given[name] = laid_out(numbers, rng)
        return fresh, f"another layout of {name}", lambda: None
    fresh.given[name] = operand.draw(traits, rng)
    return fresh, f"{name} in another form", lambda: None

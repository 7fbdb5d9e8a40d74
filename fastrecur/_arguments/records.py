"""What each argument of a family's functions may be: its arrays are taken, checked, drawn and tested by that.

`tests/records.py` says what the words mean, and has the records of what is not taken by them yet.
"""

from typing import Any, NamedTuple


class Argument(NamedTuple):
    """What an argument may be, beside an array of real numbers, or a tensor, of a shape.

    ``number`` says that it may be a Python number, ``complex`` that its numbers may be, ``host`` that it may be no
    tensor where others are, or be in CPU memory where others are not, and ``optional`` that it may be None.
    """

    kind: str
    shape: str = "one"
    number: bool = False
    complex: bool = False
    host: bool = False
    optional: bool = False


def named(names: str, *form: Any, **traits: Any) -> dict[str, Argument]:
    """Return one record for each of some names."""
    return {name: Argument(*form, **traits) for name in names.split()}


OUT = named("out", "out", "full", optional=True)
_BOTH, _FREE = {"number": True, "complex": True}, {"number": True, "host": True}
RECURRENCE = (
    named("f", "gate", "together", number=True) | named("a", "coefficients", "together", **_BOTH)
    | named("x b", "signal", "together", **_BOTH) | named("h0", "state", "series", **_BOTH, optional=True)
    | named("h", "result", "full", **_BOTH) | named("grad_h", "cotangent", "to full", **_BOTH)
    | named("grad_state", "cotangent of the state", "series", **_BOTH, optional=True) | OUT
)  # fmt: skip
SCAN = (
    named("u delta", "signal", "full") | named("z", "signal", "full", optional=True) | OUT
    | named("A", "coefficients", "D N") | named("B C", "coefficients", "maps")
    | named("D delta_bias", "coefficients", "D", optional=True) | named("h0", "state", "B D N", optional=True)
    | named("grad_y", "cotangent", "full") | named("grad_state", "cotangent of the state", "B D N", optional=True)
)  # fmt: skip
_HEARD = {"complex": True, "host": True}
FILTER = (
    named("sos", "polynomial", "sections", host=True) | named("a b", "polynomial", "polynomial", **_FREE)
    | named("x", "signal", "full", **_HEARD) | named("y", "result", "full", **_HEARD) | OUT
    | named("grad_y", "cotangent", "full", **_HEARD) | named("zi", "state", "states", **_HEARD, optional=True)
    | named("grad_zf", "cotangent of the state", "states", **_HEARD, optional=True)
)  # fmt: skip
FOLLOW = (
    named("x", "signal", "full", host=True) | named("attack release", "gate", "to full", **_FREE)
    | named("zi", "state", "one step", **_FREE, optional=True) | OUT
)  # fmt: skip
HOLT = (
    named("x", "signal", "full", host=True) | named("alpha beta phi", "constant", "one step", **_FREE)
    | named("level trend", "state", "series", **_FREE, optional=True)
)  # fmt: skip
HOLT_WINTERS = (
    HOLT | named("beta gamma", "constant", "one step", **_FREE, optional=True)
    | named("season", "state", "period", **_FREE, optional=True)
)  # fmt: skip

"""Which kernels there are, and from a kernel's name and what it is to be made for to its function and signature."""

import inspect

import numpy as np

from . import _lanes, _lookback, _pool, _series, _split, _sums, _tiles
from ._rules import RULES

# Parameters that are int32; times are int32 or int64; whatever ends in _lane holds three int64 strides.
_INT32 = frozenset(
    ("steps", "reverse", "piece_steps", "pieces", "lanes", "middles", "inners", "width", "results", "summands")
    + ("summed_middles", "summed_inners", "slice_size", "across", "sixteens")
)  # fmt: skip
_STRIDES = ("_lane", "_kept", "_summed")
_SCRATCH = frozenset(("summaries", "starts", "ends", "leads"))
_CARRIES = {"f4": np.float32, "f8": np.float64, "c8": np.complex64, "c16": np.complex128}

MAKERS = {
    "lanes": _lanes.forward,
    "lanes_vjp": _lanes.vjp,
    "series": _series.forward,
    "series_vjp": _series.vjp,
    "summarise_lanes": _split.summarise_lanes,
    "summarise_lanes_back": _split.summarise_lanes_back,
    "summarise_series": _split.summarise_series,
    "summarise_series_back": _split.summarise_series_back,
    "fold": _split.fold,
    "mend": _split.mend,
    "mend_back": _split.mend_back,
    "clear": _lookback.clear,
    "once": _lookback.forward,
    "once_vjp": _lookback.vjp,
    "tiles": _tiles.forward,
    "tiles_vjp": _tiles.vjp,
    "sums": _sums.sums,
    "pool": _pool.forward,
    "pool_vjp": _pool.vjp,
}
THREADS = {"sums": _sums.THREADS, "tiles": _tiles.THREADS, "tiles_vjp": _tiles.THREADS}
MOST_THREADS = 128


def blocks(name, rule, carry, options, elements, capability):
    """Return how many blocks a multiprocessor is to hold, which says how many registers a thread may have.

    Kernels that shuffle get the more, for before compute capability 9.0 each shuffle also has a path for a warp that
    has lost its step. With 6 blocks the assembler issues all loads of a float32 batch before it uses one, with 3 or 4
    it does not; in float64 it is the other way about. A test looks.
    """
    if capability[0] in (9, 10) and carry == "f4":
        # Cards that want more bytes on their way than fewer blocks would ask for.
        if name == "once":
            return 4
        if name == "pool_vjp" and not dict(options)["packed"]:
            return 7
    if rule == "linear" and dict(elements).get("g") in ("f2", "bf2"):
        # Three operands of 16 bits are few bytes a thread, and 6 blocks leave registers enough.
        if name == "once_vjp":
            return 6 if capability[0] in (9, 10) else 3
        if name == "tiles_vjp" and capability[0] in (9, 10):
            return 3
    if name in ("tiles", "tiles_vjp"):
        return 2 if capability[0] in (9, 10) else 1
    if name == "lanes":
        return 6 if carry == "f4" else 4
    return 4 if name in ("lanes_vjp", "summarise_lanes", "summarise_lanes_back", "pool", "pool_vjp") else 2


def make(cuda, name, rule, carry, options, elements=()):
    """Return a kernel's function.

    Parameters
    ----------
    cuda : module
        numba.cuda, or what stands in for it.
    name : str
        Of `MAKERS`.
    rule, carry : str
        The recurrence, and the element that is computed in.
    options : tuple
        Pairs of names and values, for what else the maker asks.
    elements : tuple
        Pairs of parameters and the elements behind their addresses.
    """
    kind = _CARRIES[carry]
    given = dict(options) | {"rule": RULES.get(rule), "zero": kind(0), "size": kind(0).itemsize}
    maker = MAKERS[name]
    if "packs" in given:
        given["packs"] = dict(given["packs"])
    # 16-bit numbers wait in registers as words, but those of a complex series.
    given["raws"] = {
        key: np.int32 if value in ("f2", "bf2") and carry in ("f4", "f8") else kind for key, value in elements
    }
    return maker(cuda, **{key: given[key] for key in inspect.signature(maker).parameters if key != "cuda"})


def signature(names, carry, elements, time):
    """Return the types of a kernel's parameters: as `_compiler.ptx` takes them.

    ``elements`` holds the element behind each operand's address, or ``"number"`` for one that is passed by value.
    """
    types = []
    for name in names:
        if name in _INT32:
            types.append("i4")
        elif name.endswith("_time"):
            types.append(time)
        elif name.endswith(_STRIDES):
            types.append("i8[3]")
        elif name == "target_slice":
            types.append("i8")
        elif name == "words":
            types.append("f4*")
        elif name in _SCRATCH:
            types.append(carry + "*")
        else:
            element = elements[name]
            types.append(carry if element == "number" else element + "*")
    return tuple(types)

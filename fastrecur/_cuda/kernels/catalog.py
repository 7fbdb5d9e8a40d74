"""Which kernels there are, and from a kernel's name and what it is to be made for to its function and signature."""

import inspect
from collections import namedtuple

import numpy as np

from ..._steps import recurrence
from . import filters, lanes, levels, look_back, operands, pool, scan, selective, selective_back, series, sums

# A recurrence: its step; that of deviations from an origin, and of weights, of which small ones need no care with
# 1 - f; its adjoint; what a step multiplies the state by; the first operand's value that leaves the state as it is,
# with 0 for the second; whether a constant series stays constant, and a closed gate repeats the state.
Rule = namedtuple("Rule", "step deviation adjoint decay closed is_average")

_FORGET = recurrence.forget_wide, recurrence.forget_adjoint, recurrence.forget_decay, 0.0, True
RULES = {
    "forget_wide": Rule(recurrence.forget_wide, *_FORGET),
    "forget_same": Rule(recurrence.forget_same, *_FORGET),
    "linear": Rule(
        recurrence.linear, recurrence.linear, recurrence.linear_adjoint, recurrence.linear_decay, 1.0, False
    ),
}

# Plain parameters that are int32; times are int32 or int64; whatever ends in _lane holds three int64 strides.
_INT32 = {*operands.Geometry._fields, *operands.Sizes._fields, "outers", "sections", "b_count", "a_count"}

MAKERS = {
    "lanes": lanes.forward,
    "lanes_vjp": lanes.vjp,
    "series": series.forward,
    "series_vjp": series.vjp,
    "scan": scan.forward,
    "scan_vjp": scan.vjp,
    "sums": sums.sums,
    "pool": pool.forward,
    "pool_vjp": pool.vjp,
    "selective": selective.forward,
    "cascade": filters.cascade,
    "lags": filters.lags,
    "quotient": filters.quotient,
    "follow": levels.follow,
    "holt": levels.holt,
    "holt_vjp": levels.holt_vjp,
    "selective_vjp": selective_back.vjp,
}
THREADS = {"sums": sums.THREADS, "scan": look_back.THREADS, "scan_vjp": look_back.THREADS}
THREADS |= dict.fromkeys(("cascade", "lags", "quotient", "follow", "holt", "holt_vjp"), filters.THREADS)
MOST_THREADS = 128


def blocks(name, rule, carry, options, elements, capability):
    """Return how many blocks a multiprocessor is to hold, which says how many registers a thread may have.

    With 6 blocks the assembler issues all loads of a float32 batch before it uses one, with 3 or 4 it does not; in
    float64 it is the other way about. Flags take registers: beside offsets there are not enough for 6. A test looks.
    """
    is_large = capability[0] in (9, 10)  # cards that want more bytes on their way than fewer blocks would ask for
    cuts = dict(options).get("cuts", ())
    if is_large and name == "pool_vjp" and carry == "f4" and not dict(options)["packed"] and "resets" not in cuts:
        return 6
    if is_large and not cuts and name == "scan_vjp" and rule == "linear" and dict(elements).get("g") in ("f2", "bf2"):
        return 3
    if name == "lanes" and "resets" in cuts and carry in ("f4", "f8"):
        return 4 if "offsets" in cuts else 6 if carry == "f4" else 5
    if name == "lanes":
        return 6 if carry == "f4" else 4
    if THREADS.get(name) == filters.THREADS:
        return 16
    if name.startswith("selective"):  # float64, a gradient, and eight states a thread: each doubles the registers
        return 2 if (carry == "f8") + (name == "selective_vjp") + (dict(options)["states"] > 128) > 1 else 4
    return 4 if name in ("lanes_vjp", "pool", "pool_vjp") else 2


def make(cuda, name, rule, carry, options, elements=()):
    """Return the function of a kernel of `MAKERS`.

    ``cuda`` is numba.cuda, or what stands in for it; ``carry`` the element that is computed in. ``options`` are pairs
    of names and values, for what else the maker asks; ``elements`` pairs of parameters and what is behind their
    addresses.
    """
    kind = np.dtype(carry).type
    given = dict(options) | {"rule": RULES.get(rule), "zero": kind(0), "size": kind(0).itemsize}
    maker = MAKERS[name]
    if "packs" in given:
        given["packs"] = dict(given["packs"])
    # 16-bit numbers wait in registers as words, but those of a complex series, and float32 as it is.
    narrow = {"f2": np.int32, "bf2": np.int32, "f4": np.float32} if carry in ("f4", "f8") else {}
    given["raws"] = {key: narrow.get(value, kind) for key, value in elements}
    return maker(cuda, **{key: given[key] for key in inspect.signature(maker).parameters if key != "cuda"})


def parameters(function, options):
    """Return the names of a kernel's plain parameters: none of ``cuts`` unless it is made for some."""
    names = [name for name in inspect.signature(function).parameters if name != "cuts" or dict(options)["cuts"]]
    return tuple(field for name in names for field in operands.fields(name))


def signature(names, carry, elements, time):
    """Return the types of a kernel's parameters: as `compile.ptx` takes them.

    ``elements`` holds the element behind each operand's address, or ``"number"`` for one that is passed by value.
    """
    types = []
    for name in names:
        if name in _INT32:
            types.append("i4")
        elif name.endswith("_time"):
            types.append(time)
        elif name.endswith(("_lane", "_kept", "_summed")):
            types.append("i8[3]")
        elif name == "target_slice" or name.endswith("_next"):
            types.append("i8")
        elif name == "descriptors":
            types.append("f4*")
        else:
            element = elements[name]
            types.append(carry if element == "number" else element + "*")
    return tuple(types)

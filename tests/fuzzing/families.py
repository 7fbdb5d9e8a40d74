"""Families of functions: how their operands are drawn from `records.py`, and what the results are.

A function that is described there and has no family here is compared with itself: with the same numbers in plain
arrays. `draw_call` is a function's way to a call, `expect` to its results.
"""

import inspect
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np
from records import function, record

from . import oracles
from .draw import SERIES, STEPS, Call, Operand, chance, pick, uniform
from .ways import tolerance_of

FLOATS = ["f8", "f8", "f8", "f4", "f4"]
FILLS = {
    "signal": uniform(-2.0, 2.0), "gate": uniform(0.0, 1.0, ends=0.3), "coefficients": uniform(-1.0, 1.0, ends=0.2),
    "constant": uniform(0.1, 0.9), "state": uniform(-2.0, 2.0), "cotangent": uniform(-1.0, 1.0),
    "cotangent of the state": uniform(-1.0, 1.0), "polynomial": uniform(-0.45, 0.45),
}  # fmt: skip


@dataclass
class Place:
    """The sizes that the operands of a call have together."""

    full: tuple[int, ...]
    axis: int
    sizes: dict[str, int] = field(default_factory=dict)  # of a scan: B, D, N; of a filter: sections, order
    segments: int | None = None
    layout: str = "bdl"

    @property
    def series(self):
        return self.full[: self.axis] + self.full[self.axis + 1 :]

    @property
    def steps(self):
        return self.full[self.axis]

    def with_axis(self, size):
        return (*self.full[: self.axis], size, *self.full[self.axis + 1 :])

    def forms(self, word, traits):
        """Return a shape of `records.SHAPES`, which of its axes may be 1, and whether leading ones may be left out."""
        states = self.series if self.segments is None else (self.segments, *self.series)
        lead = pick(traits, [(), self.series, self.full])
        free = {
            "together": self.full, "to full": self.full, "series": states, "one step": self.with_axis(1),
        }  # fmt: skip
        if word in free:
            return free[word], tuple(range(len(free[word]))), True
        sizes = self.sizes
        shapes = {"full": self.full, "a step more": self.with_axis(self.steps + 1), "one": ()}
        if word in shapes:
            return shapes[word], (), False
        if word == "period":
            return self.with_axis(sizes["period"]), tuple(range(len(self.full))), True
        if word in ("sections", "polynomial"):
            own = (sizes["sections"], 6) if word == "sections" else (sizes["order"],)
            return (*lead, *own), tuple(range(len(lead))), False
        if word in ("states", "states of sections"):
            own = self.with_axis(sizes["order"]) if word == "states" else (sizes["sections"], *self.with_axis(2))
            return own, tuple(range(len(own))), False
        batch = sizes["B"] if self.segments is None else self.segments
        of_scan = {"D N": ("D", "N"), "D": ("D",), "B D N": (batch, "D", "N")}
        if word in of_scan:
            return tuple(sizes.get(v, v) for v in of_scan[word]), (), False
        return self._map(traits), (), False  # of "maps"

    def _map(self, traits):
        batch, channels, states, steps = (*(self.sizes[k] for k in "BDN"), self.steps)
        kind = pick(traits, ["steps", "groups", "groups", "constant"])
        if kind == "constant":
            return channels, states
        groups = [pick(traits, [1, self.sizes["G"]])] if kind == "groups" else []
        return (batch, *groups, states, steps) if self.layout == "bdl" else (batch, steps, *groups, states)


def place(traits, rng, most=3):
    """Return a shape of any rank, and an axis in it."""
    rank = pick(traits, [1, 2, 2, 3][: most + 1])
    axis, shape = int(traits.integers(rank)), [pick(rng, SERIES) for _ in range(rank)]
    shape[axis] = pick(rng, STEPS)
    if chance(rng, 0.04):
        shape[int(rng.integers(rank))] = 0
    return Place(tuple(shape), axis)


def axis_option(traits, where):
    return where.axis - len(where.full) * chance(traits, 0.5)


def described(name, where, traits, rng, dtypes=FLOATS, is_complex=False, fills=None, leave=()):
    """Return a call with an operand for each argument that `records.py` has of this function; dtypes by name or all."""
    fills, parameters = fills or {}, inspect.signature(function(name)).parameters
    call = Call(name, {})
    for own, argument in record(name).arguments.items():
        if argument.kind not in FILLS or own in leave:
            continue
        shape, ones, dropped = where.forms(argument.shape, traits)
        kinds = dtypes.get(own, dtypes[""]) if isinstance(dtypes, dict) else dtypes
        if is_complex and argument.complex and chance(traits, 0.6):
            kinds = ["c16", "c8"]
        call.operands[own] = Operand(
            shape, fills.get(own, FILLS[argument.kind]), kinds, ones, dropped, argument.number,
            zero_d=argument.number, scale=9 if argument.kind in ("signal", "state") else 1,
            optional=parameters[own].default is None, may_repeat=argument.kind != "polynomial",
            may_round=argument.kind != "constant",
        )  # fmt: skip
    together = [own for own in call.operands if record(name).arguments[own].shape == "together"]
    if together:
        least = [own for own in together if not call.operands[own].optional]
        whole = pick(traits, least or together)
        call.operands[whole] = call.operands[whole].exact()
    return call


# ---- Where series end -----------------------------------------------------------------------------------------------


def draw_lengths(where):
    def draw(traits, rng):
        series = where.series
        shape = series[: int(traits.integers(1, len(series) + 1))] if series else ()
        lengths = rng.integers(0, where.steps + 1, shape)
        return lengths.astype(pick(traits, ["i8", "i4"])) if chance(traits, 0.8) or not shape else lengths.tolist()

    return draw


def draw_offsets(where):
    segments = where.segments

    def draw(traits, rng):
        inner = np.sort(rng.integers(0, where.steps + 1, segments - 1))
        offsets = np.concatenate([[0], inner, [where.steps]]).astype(pick(traits, ["i8", "i4"]))
        return offsets if chance(traits, 0.7) else offsets.tolist()

    return draw


def draw_resets(shape, axis):
    def draw(traits, rng):
        rank = int(traits.integers(axis + 1, len(shape) + 1))
        own = tuple(1 if k != axis and chance(traits, 0.2) else n for k, n in enumerate(shape[:rank]))
        resets = rng.random(own) < pick(rng, [0.0, 0.1, 0.3])
        return resets if chance(traits, 0.7) else np.repeat(resets, 2, -1)[..., ::2]

    return draw


def cut(call, where, traits, rng):
    """Draw lengths, offsets and resets, alone or together as they may be."""
    names, kind = record(call.name).arguments, pick(traits, ["", "", "lengths", "offsets", "resets", "both", "all"])
    draws = {}
    if kind in ("lengths", "all") and "lengths" in names and (where.series or kind == "lengths"):
        draws["lengths"] = draw_lengths(where)
    elif kind in ("offsets", "both") and "offsets" in names:
        where.segments = int(rng.integers(1, 5))
        draws["offsets"] = draw_offsets(where)
    if kind in ("resets", "both", "all") and "resets" in names:
        draws["resets"] = draw_resets(where.full, where.axis)
    call.redraw |= draws
    call.options |= {name: draw(traits, rng) for name, draw in draws.items()}


def other_way(traits, rng):
    return chance(rng, 0.5)


def reversible(call, traits):
    call.options["reverse"] = chance(traits, 0.4)
    call.redraw["reverse"] = other_way


# ---- Families -------------------------------------------------------------------------------------------------------


class Family:
    """Functions that are drawn alike. This one is of all that have an entry in `records.py` and no other family."""

    functions: tuple[str, ...] = ()
    ways: list[Any] = []  # in place of all
    has_gradients = True  # of tensors
    vjp_result = "y"

    def draw(self, name, traits, rng):
        where = place(traits, rng)
        call = described(name, where, traits, rng)
        call.options["axis"] = axis_option(traits, where)
        return call.fill(traits, rng)

    def expect(self, call, given):
        """Return the results for wide operands."""
        plain = {k: np.array(v, np.float64) if np.ndim(v) else v for k, v in given.items() if v is not None}
        plain = {k: float(v) if isinstance(v, np.ndarray | np.longdouble) and not np.ndim(v) else v
                 for k, v in plain.items()}  # fmt: skip
        found = function(call.name)(**plain, **call.options)
        return list(found) if isinstance(found, tuple) else [found]

    def tolerance(self, call):
        """Return how far off results may be whatever their dtype says."""
        return 0.0

    def dtypes(self, call):
        """Return the dtypes of the results for NumPy's arrays, as far as they are known."""
        return []

    def differentiable(self, call):
        """Return the operands that have a gradient."""
        return list(call.operands)


def of_signal(value):
    """Return the dtype of a result for a signal."""
    dtype = np.asarray(value).dtype.newbyteorder("=")
    return np.dtype(np.float64) if dtype.kind in "biu" else dtype


def axis_of(call, name):
    """Return the axis of time, counted from the first of an operand's."""
    return call.options["axis"] % np.ndim(call.given[name])


class Recurrences(Family):
    functions = ("forget_mult", "linear_recurrence")
    vjp_result = "h"

    def draw(self, name, traits, rng):
        where, half = place(traits, rng), pick(traits, ["f2", "bf"])
        call = Call(name, {})
        cut(call, where, traits, rng)
        dtypes = ["f8", "f8", "f4", "f4", half, "i4"]
        drawn = described(name, where, traits, rng, dtypes, chance(traits, 0.15))
        call.operands = drawn.operands
        call.options["axis"] = axis_option(traits, where)
        reversible(call, traits)
        if any("c16" in operand.dtypes for operand in call.operands.values()):  # bfloat16 promotes with none of them
            for operand in call.operands.values():
                operand.dtypes = [v for v in operand.dtypes if v != "bf"]
        return call.fill(traits, rng)

    def expect(self, call, given):
        options = dict(call.options)
        gate, value, h0 = given.values()
        axis = options.pop("axis") % max(gate.ndim, value.ndim)
        return oracles.recurrence(call.name, gate, value, h0, axis, **options)

    def dtypes(self, call):
        from compare import result_dtype

        return [result_dtype(*call.given.values())] * 2


class Scan(Family):
    functions = ("selective_scan",)

    def draw(self, name, traits, rng):
        sizes = {"B": pick(rng, [1, 1, 2, 3]), "D": 2 * pick(rng, [1, 2, 3, 4, 9]), "N": pick(rng, [1, 2, 3, 4, 7, 16])}
        steps, layout = pick(rng, STEPS), pick(traits, ["bdl", "bld"])
        if numba.config.DISABLE_JIT:  # a hundred steps of sixteen states would take minutes
            sizes["N"], sizes["D"] = min(sizes["N"], 4), min(sizes["D"], 6)
            steps = min(steps, 17)
        kind = pick(traits, ["", "o", "l", "r", "lr", "or"])  # which of offsets, lengths and resets there are
        sizes |= {"B": 1 if "o" in kind else sizes["B"], "G": pick(rng, [2, sizes["D"]])}
        full = (sizes["B"], sizes["D"], steps) if layout == "bdl" else (sizes["B"], steps, sizes["D"])
        where = Place(full, 2 if layout == "bdl" else 1, sizes, layout=layout)
        rows = Place((sizes["B"], steps), 1)
        rows.segments = where.segments = int(rng.integers(1, 5)) if "o" in kind else None
        is_soft, half = chance(traits, 0.5), pick(traits, ["f2", "bf"])
        fills = {"A": uniform(-2.0, 0.0), "delta": uniform(-2.0, 2.0) if is_soft else uniform(0.0, 1.5, ends=0.1)}
        call = described(name, where, traits, rng, ["f4", "f4", "f4", "f8", "f8", half], fills=fills)
        draws = {"lengths": draw_lengths(rows), "offsets": draw_offsets(rows), "resets": draw_resets(rows.full, 1)}
        call.redraw = {key: draw for key, draw in draws.items() if key[0] in kind}
        call.options = {key: draw(traits, rng) for key, draw in call.redraw.items()}
        call.options |= {"layout": layout, "delta_softplus": is_soft}
        reversible(call, traits)
        if not is_soft:  # steps of less than zero let states grow
            call.operands.pop("delta_bias")
        return call.fill(traits, rng)

    def expect(self, call, given):
        given, options = {"delta_bias": None} | given, dict(call.options)
        for name in ("lengths", "resets"):
            options[name] = None if options.get(name) is None else np.asarray(options[name])
        if options["resets"] is not None:
            channels = given["u"].shape
            batch, steps = (channels[0], channels[2]) if options["layout"] == "bdl" else channels[:2]
            options["resets"] = np.broadcast_to(options["resets"], (batch, steps))
        return oracles.selective_scan(**given, **options)

    def dtypes(self, call):
        y = of_signal(call.given["u"])
        return [y, np.dtype(np.float64 if y == np.float64 else np.float32)]


class Others(Family):
    """What has no oracle: the same numbers in plain arrays tell."""

    functions = ("smoothing.ewm_filtfilt", "smoothing.kama", "smoothing.pcen")
    has_gradients = False

    def draw(self, name, traits, rng):
        where, leave = place(traits, rng), ["com", "span", "halflife", "sr", "hop_length", "zi"]
        call = described(name, where, traits, rng, ["f8", "f8", "f4"], fills={"S": uniform(0.1, 2.0)}, leave=leave)
        for own in ("alpha", "ref"):
            if own in call.operands:
                call.operands[own].optional = False
        call.options["axis"] = axis_option(traits, where)
        return call.fill(traits, rng)

    def tolerance(self, call):
        """Return that of the dtype with the fewest digits, and room for a power of a small difference."""
        return 4 * max((tolerance_of(v.dtype) for v in call.given.values() if hasattr(v, "dtype")), default=1e-8)

"""Filters and levels."""

import numpy as np

from . import oracles, ways
from .draw import Call, chance, pick, uniform
from .families import FILLS, FLOATS, Family, Place, axis_of, axis_option, cut, described, of_signal, place, reversible


class Filters(Family):
    functions = ("filters.sosfilt", "filters.lfilter", "filters.allpole")

    ways = [way for way in ways.WAYS if way is not ways.without_kernels]  # other devices are refused

    def draw(self, name, traits, rng):
        where, half = place(traits, rng), pick(traits, ["f2", "bf"])
        where.sizes = {"sections": pick(rng, [1, 1, 2, 3, 7]), "order": pick(rng, [1, 2, 2, 3, 5])}
        floats = FLOATS if name == "filters.sosfilt" else [*FLOATS, half]
        dtypes = {"": ["f8", "f4", "f8", "i4"], "x": ["f8", "f8", "f4", "f4", half, "i4", "u1"]}
        dtypes |= {"a": floats, "b": floats, "sos": floats}
        call, is_complex = Call(name, {}), chance(traits, 0.4)
        cut(call, where, traits, rng)
        call.operands = self._operands(name, where, traits, rng, dtypes, is_complex)
        call.options["axis"] = axis_option(traits, where)
        reversible(call, traits)
        return call.fill(traits, rng)

    def _operands(self, name, where, traits, rng, dtypes, is_complex):
        order = where.sizes["order"]
        if name == "filters.lfilter":
            lead_order = pick(rng, [1, 2, 3, 5])
            where.sizes["order"] = max(order, lead_order) - 1
        fills = {"sos": _sections, "a": uniform(-0.9 / order, 0.9 / order), "b": uniform(-1.0, 1.0)}
        if name == "filters.lfilter":
            fills["a"] = _denominator
        operands = described(name, where, traits, rng, dtypes, is_complex, fills).operands
        if name == "filters.lfilter":
            for own, size in (("a", order), ("b", lead_order)):
                operands[own].shape = (*operands[own].shape[:-1], size)
        for own in ("a", "b"):
            if own in operands:  # a number has no axis for coefficients
                operands[own].number = operands[own].zero_d = False
        return operands

    def expect(self, call, given):
        options = dict(call.options) | {"axis": axis_of(call, "x")}
        if options.get("lengths") is not None:
            options["lengths"] = np.asarray(options["lengths"])
        return getattr(oracles, call.name.rpartition(".")[2])(**given, **options)

    def dtypes(self, call):
        y, zi = of_signal(call.given["x"]), call.given.get("zi")
        y = np.result_type(y, np.complex64) if np.iscomplexobj(zi) else y
        return [y, np.dtype(np.complex128 if y.kind == "c" else np.float64)]


def _sections(rng, shape):
    sos = rng.uniform(-0.49, 0.49, shape)
    sos[..., 3] = 1
    return sos


def _denominator(rng, shape):
    a = rng.uniform(-0.9, 0.9, shape) / shape[-1]
    lead = rng.choice([1.0, 0.6, -1.7])  # a division by the others rounds
    a[..., 0] = lead
    a[..., 1:] *= abs(lead)
    return a


class BothWays(Filters):
    functions = ("filters.sosfiltfilt",)

    def draw(self, name, traits, rng):
        where = place(traits, rng)
        if where.steps < 2:
            where.full = where.with_axis(17)
        where.sizes, lead = {"sections": pick(rng, [1, 2, 3])}, Place(where.full, where.axis)
        dtypes = {"": FLOATS, "x": ["f8", "f8", "f4", "f2", "bf", "i4", "u1"]}
        call = described(name, where, traits, rng, dtypes, chance(traits, 0.2), {"sos": _sections})
        sos = call.operands["sos"]
        while len(sos.shape) == len(lead.full) + 2 or (len(sos.shape) > 2 and len(lead.full) == 1):  # not in time
            sos.shape, sos.ones, _ = where.forms("sections", traits)
        call.options = {"axis": axis_option(traits, where), "padtype": pick(traits, ["odd", "even", "constant", None])}
        call.options["padlen"] = int(rng.integers(0, where.steps))
        return call.fill(traits, rng)

    def dtypes(self, call):
        return [of_signal(call.given["x"])]


class Levels(Family):
    functions = ("filters.follow", "smoothing.holt")
    ways = Filters.ways

    def draw(self, name, traits, rng):
        where = place(traits, rng)
        if name == "smoothing.holt" and chance(traits, 0.3):  # values are missing
            fills = {"x": _with_gaps(-2.0)}
        else:
            fills = {}
        half = pick(traits, ["f2", "bf"])
        dtypes = {"": FLOATS, "x": ["f8", "f8", "f4", "f4", half] + ["i4"] * (not fills)}
        fills |= {"alpha": FILLS["gate"], "beta": FILLS["gate"], "phi": FILLS["gate"]}
        call = described(name, where, traits, rng, dtypes, fills=fills)
        call.options["axis"] = axis_option(traits, where)
        return call.fill(traits, rng)

    def expect(self, call, given):
        return getattr(oracles, call.name.rpartition(".")[2])(**given, axis=axis_of(call, "x"))

    def dtypes(self, call):
        y = of_signal(call.given["x"])
        return [y, y if call.name == "smoothing.holt" else np.dtype(np.float64)]

    def differentiable(self, call):
        return [] if call.name == "filters.follow" and _meets(self, call) else list(call.operands)


class Seasons(Family):
    functions = ("smoothing.holt_winters",)

    def draw(self, name, traits, rng):
        where, kind, has_trend = place(traits, rng), pick(traits, ["add", "add", "mul", None]), chance(traits, 0.7)
        period = pick(rng, [1, 2, 3, 5, 12]) if kind else 1
        where.sizes, is_known = {"period": period}, chance(traits, 0.4)
        if kind and not is_known and where.steps < 2 * period:
            where.full = where.with_axis(2 * period + int(rng.integers(7)))
        x, lowest = ["f8", "f8", "f4", "f4", pick(traits, ["f2", "bf"])], 1.0 if kind == "mul" else -2.0
        fills = {
            "x": _with_gaps(lowest, None if is_known else where.axis) if chance(traits, 0.3) else uniform(lowest, 2.0),
            "phi": FILLS["gate"],
        }
        fills |= dict.fromkeys(("alpha", "beta", "gamma"), uniform(0.0, 0.3) if kind == "mul" else FILLS["gate"])
        if kind == "mul":  # what is divided by stays away from 0
            fills |= {"level": uniform(1.0, 2.0), "trend": uniform(0.0, 0.1), "season": uniform(0.7, 1.3)}
        floats = FLOATS if kind == "mul" else [*FLOATS, "i4"]
        call = described(name, where, traits, rng, {"": FLOATS, "x": x, "level": floats}, fills=fills)
        own = {"alpha", "level", *(("beta", "trend") if has_trend else ()), *(("gamma", "season") if kind else ())}
        for key in own:
            is_free = key in ("level", "season") or (key == "trend" and kind != "mul")
            call.operands[key].optional &= is_free and not is_known
        call.operands = {key: v for key, v in call.operands.items() if key in own | {"x", "phi"}}
        call.options = {"axis": axis_option(traits, where), "seasonal": kind} | ({"period": period} if kind else {})
        return call.fill(traits, rng)

    def expect(self, call, given):
        return oracles.holt_winters(**given, **call.options | {"axis": axis_of(call, "x")})

    def dtypes(self, call):
        rows = 1 + ("beta" in call.given) + ("gamma" in call.given)
        return [of_signal(call.given["x"])] * 4 + [np.dtype(np.float64)] * rows


def _meets(family, call):
    """Return whether a signal comes so near its envelope that a difference would see both of its branches."""
    given, axis = {name: oracles.wide(v) for name, v in call.given.items()}, axis_of(call, "x")
    if 0 in given["x"].shape:
        return False
    y = np.moveaxis(family.expect(call, given)[0], axis, 0)
    first = 0 if given["zi"] is None else np.moveaxis(np.broadcast_to(given["zi"], _one(y, axis)), axis, 0)
    before = np.concatenate([np.broadcast_to(first, (1, *y.shape[1:])), y[:-1]])
    x = np.moveaxis(np.broadcast_to(given["x"], np.moveaxis(y, 0, axis).shape), axis, 0)
    return bool((abs(x - before) < 1e-4).any())


def _one(by_time, axis):
    """Return the shape of states with 1 in place of time."""
    return (*by_time.shape[1 : axis + 1], 1, *by_time.shape[axis + 1 :])


def _with_gaps(low, starts_along=None):
    """Return a fill of which a third is missing, but not the first step along an axis."""

    def fill(rng, shape):
        numbers, missing = rng.uniform(low, 2.0, shape), rng.random(shape) < 0.3
        if starts_along is not None:
            missing &= np.indices(shape)[starts_along] > 0
        return np.where(missing, rng.choice([np.nan, np.inf]), numbers)

    return fill

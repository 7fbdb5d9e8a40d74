"""Statistics and returns: what is drawn for them beside operands, and what they are."""

import inspect

import numpy as np
from records import function, record

from . import oracles
from .draw import Call, Operand, chance, pick, uniform
from .families import FLOATS, Family, axis_option, cut, described, of_signal, place

CONSTANTS = {
    "alpha": (uniform(0.05, 0.95), lambda v: v), "com": (uniform(0.1, 10.0), lambda v: 1 / (1 + v)),
    "span": (uniform(1.2, 20.0), lambda v: 2 / (v + 1)),
    "halflife": (uniform(0.3, 10.0), lambda v: 1 - np.exp2(-1 / v)),
}  # fmt: skip


class Statistics(Family):
    functions = tuple(f"smoothing.ewm_{kind}" for kind in ("mean", "sum", "var", "std", "cov", "corr"))

    def draw(self, name, traits, rng, most=3):
        where = place(traits, rng, most)
        where.full = tuple(min(n, 4) for n in where.full)
        where.full = where.with_axis(pick(rng, [0, 1, 2, 3, 5, 8, 17, 33]))
        far, gaps = pick(rng, [0.0, 0.0, 50.0, 1e4]), pick(rng, [0.0, 0.2, 0.6]) * chance(traits, 0.6)

        def numbers(rng, shape):
            drawn = rng.uniform(-2.0, 2.0, shape) + far
            return np.where(rng.random(shape) < gaps, np.nan, drawn) if gaps else drawn

        call, kind = Call(name, {}), pick(traits, list(CONSTANTS))
        self._borders(call, where, traits, rng)
        if call.options.get("times") is not None:
            kind = "halflife"
        dtypes = {"": FLOATS, "x": FLOATS + ["i4", "b1"] * (not gaps)}
        leave = set(CONSTANTS) - {kind}
        fills = {"x": numbers, "y": numbers, kind: CONSTANTS[kind][0]}
        drawn = described(name, where, traits, rng, dtypes, fills=fills, leave=leave)
        call.operands = drawn.operands
        call.operands["x"] = call.operands["x"].exact()
        if "y" in call.operands:
            y = call.operands["y"]
            y.number = y.zero_d = y.optional = False
        constant = call.operands[kind]
        constant.optional = False
        if "times" in call.options:  # an array of half-lives is its own matter
            constant.shape, constant.ones, constant.dropped, constant.number = (), (), False, True
            constant.has_list = False
        elif constant.dropped:  # a list is no constant
            constant.has_list = False
        self._switches(call, name, traits, rng)
        call.options["axis"] = axis_option(traits, where)
        call.fill(traits, rng)
        if "times" in call.options:
            call.given[kind] = float(CONSTANTS[kind][0](rng, ()).real)
        return call

    def _borders(self, call, where, traits, rng):
        """Draw where series begin anew, and times."""
        kind, steps = pick(traits, ["", "", "cut", "groups"]), where.steps
        if kind == "cut":
            cut(call, where, traits, rng)
        elif kind == "groups":
            words = pick(traits, [np.arange(4), np.array(["b", "a", "d", "c"]), np.array([3, -1, 7, 5], "i2")])
            call.redraw["groups"] = lambda traits, rng: words[rng.integers(0, 4, steps)]
        if kind != "cut" and chance(traits, 0.25):
            call.redraw["times"] = lambda traits, rng: np.cumsum(rng.integers(0, 4, steps)).astype(float)
        where.segments = None
        for name in ("groups", "times"):
            if name in call.redraw:
                call.options[name] = call.redraw[name](traits, rng)

    def _switches(self, call, name, traits, rng):
        parameters = inspect.signature(function(name)).parameters
        for switch in ("adjust", "ignore_na", "bias"):
            fixed = (switch == "adjust" and "sum" in name) or (switch == "ignore_na" and "times" in call.options)
            if switch in parameters and not fixed:
                call.options[switch] = chance(traits, 0.5)
                call.redraw[switch] = lambda traits, rng: chance(rng, 0.5)
        call.options["min_periods"] = int(rng.integers(0, 4))

    def expect(self, call, given):
        options, given = dict(call.options), dict(given)
        x, y = given.pop("x"), given.pop("y", None)
        shape = x.shape if y is None else np.broadcast_shapes(x.shape, y.shape)
        axis = options.pop("axis") % x.ndim
        [(name, constant)] = given.items()
        labels = labels_of(shape, axis, *(options.pop(k, None) for k in ("offsets", "resets", "groups")))
        if options.get("times") is not None:
            options["halflife"] = constant
            options["times"] = np.reshape(options["times"], [-1 if k == axis else 1 for k in range(x.ndim)])
            constant = None
        else:
            constant = CONSTANTS[name][1](constant)
            shape = np.broadcast_shapes(shape, constant.shape)
            labels, x = np.broadcast_to(labels, shape), np.broadcast_to(x, shape)
        return oracles.statistic(call.name.rpartition("_")[2], x, y, constant, axis, labels, **options)

    def tolerance(self, call):
        """Return what numbers far from 0 lose."""
        return 1e-6 if call.name.endswith(("corr", "std")) else 2e-8

    def dtypes(self, call):
        arrays = [v for v in call.given.values() if isinstance(v, np.ndarray | list)]
        return [np.result_type(*map(of_signal, arrays))]

    def differentiable(self, call):
        """Return the operands; a standard deviation of 0 has no derivative."""
        return [] if call.name.endswith("std") and call.options["bias"] else list(call.operands)


def labels_of(shape, axis, offsets, resets, groups):
    """Return the number of the segment of each element."""
    steps, along = shape[axis], [-1 if k == axis else 1 for k in range(len(shape))]
    if groups is not None:
        numbers = np.unique(np.asarray(groups), return_inverse=True)[1]
        return np.broadcast_to(numbers.reshape(along), shape)
    flags = np.zeros(shape, bool)
    if offsets is not None:
        begins = np.zeros(steps, bool)
        begins[[low for low, high in zip(offsets, offsets[1:], strict=False) if low < high]] = True
        flags = flags | begins.reshape(along)
    if resets is not None:
        resets = np.asarray(resets)
        flags = flags | resets.reshape(resets.shape + (1,) * (len(shape) - resets.ndim))
    return np.cumsum(flags, axis)


class Pairs(Statistics):
    """Statistics of all pairs of columns, at each time or at some: those of the columns' own calls."""

    functions = ("smoothing.ewm_cov", "smoothing.ewm_corr")

    def draw(self, name, traits, rng, most=3):
        while True:
            call = super().draw(name, traits, rng, most)
            x, axis = call.operands["x"], call.options["axis"]
            if len(x.shape) > 1 and np.ndim(call.options.get("resets")) < 2:
                break
        del call.operands["y"], call.given["y"]
        [(kind, constant)] = [(kind, call.operands[kind]) for kind in CONSTANTS if kind in call.operands]
        constant.shape, constant.ones, constant.dropped, constant.number, constant.has_list = (), (), False, True, False
        call.given[kind] = float(np.real(CONSTANTS[kind][0](rng, ())))
        call.redraw.pop("resets", None)
        steps = x.shape[axis]
        at = [None, -1, rng.integers(0, max(1, steps), 3)]
        call.options |= {"pairwise": True, "at": pick(rng, at) if steps and "groups" not in call.options else None}
        return call

    def expect(self, call, given):
        x, axis, at = given["x"], call.options["axis"] % given["x"].ndim, call.options["at"]
        column = max(k for k in range(x.ndim) if k != axis)
        plain = {k: v for k, v in call.options.items() if k not in ("pairwise", "at")}
        own = Call(call.name, call.operands, plain | {"axis": axis + (axis > column)})
        one, other = np.expand_dims(x, column + 1), np.expand_dims(x, column)
        [whole] = super().expect(own, given | {"x": one, "y": other})
        return [whole if at is None else whole.take(at, axis + (axis > column))]


class Returns(Family):
    functions = tuple(f"returns.{kind}" for kind in ("discounted_returns", "gae", "lambda_returns", "vtrace"))

    def draw(self, name, traits, rng):
        where = place(traits, rng)
        if where.steps > 33:
            where.full = where.with_axis(33)
        dtypes = {"": FLOATS, "rewards": [*FLOATS, "i4"]}
        fills = {"log_rhos": uniform(-1.0, 1.0), "gamma": uniform(0.3, 1.0, ends=0.2)}
        has_next = chance(traits, 0.4)
        leave = ["rho_clip", "c_clip", "pg_rho_clip"] + ["next_values"] * (not has_next)
        call = described(name, where, traits, rng, dtypes, fills=fills, leave=leave)
        for own, argument in record(name).arguments.items():
            if argument.kind in ("flags", "mask"):
                call.operands[own] = self._flags(own, argument, where, traits)
        if has_next and "next_values" in call.operands:
            call.operands["values"].shape = where.full
            call.operands["next_values"].optional = False
        if name == "returns.vtrace":
            call.options |= {f"{k}_clip": float(pick(rng, [1.5, 0.9, np.inf])) for k in ("rho", "c", "pg_rho")}
        call.options["axis"] = axis_option(traits, where)
        return call.fill(traits, rng)

    def _flags(self, own, argument, where, traits):
        is_weight, share = own != "mask" and chance(traits, 0.2), 0.7 if own == "mask" else 0.2
        dtypes = ["b1"] if own == "mask" else ["f4", "f8"] if is_weight else ["b1", "b1", "f8", "f4", "u1", "i8"]

        def fill(rng, shape):
            return rng.random(shape) if is_weight else (rng.random(shape) < share).astype(float)

        shape, ones, dropped = where.forms(argument.shape, traits)
        return Operand(
            shape, fill, dtypes, ones, dropped, number=own != "mask", zero_d=True, scale=1,
            optional=own in ("done", "truncated", "mask"),
        )  # fmt: skip

    def expect(self, call, given):
        options, given = dict(call.options), dict(given)
        axis = options.pop("axis") % given["rewards"].ndim
        clips = tuple(options.values()) or (1.0, 1.0, 1.0)
        ends = given.pop("terminated", None) if "terminated" in given else given.pop("done")
        cuts, mask, lam = given.pop("truncated", None), given.pop("mask"), given.pop("lam", None)
        given = {k: v for k, v in given.items() if v is not None}
        given |= {"ends": 0.0 if ends is None else ends, "cuts": 0.0 if cuts is None else cuts}
        given |= {"lam": 1.0 if lam is None else lam, "mask": True if mask is None else mask != 0}
        return oracles.returns(call.name.rpartition(".")[2], **given, clips=clips, axis=axis)

    def dtypes(self, call):
        return [of_signal(call.given["rewards"])] * 2

    def differentiable(self, call):
        names = record(call.name).arguments
        return [own for own in call.operands if names[own].kind not in ("flags", "mask")]

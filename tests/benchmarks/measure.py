"""Time a case beside its yardsticks, and refuse a ratio where a result is wrong."""

import functools
import gc
import statistics
from dataclasses import asdict, dataclass

import checks
import numpy as np
import peers
import turns
import yardsticks
from cases import ALPHA
from data import Data, find_dtype

from fastrecur import forget_mult, forget_mult_vjp

SMALL_BYTES = 64 << 20  # what may stay in a cache is brought there by an untimed call first
CALLS_AT_ONCE = 200  # of those that are too short for the clock


@dataclass
class Row:
    """One line of the report: a case against one other. `ratio` is None where there is none."""

    group: str
    layout: str
    direction: str
    gate: str
    output: str
    dtype: str
    seconds: float | None = None
    gigabytes_per_second: float | None = None
    against: str = ""
    against_seconds: float | None = None
    ratio: float | None = None
    must: float | None = None
    aim: float | None = None
    repeats: int = 0
    problem: str = ""

    @property
    def name(self):
        parts = self.group, self.layout, self.direction, f"{self.gate} gate", self.output
        return ", ".join((*parts, self.dtype)) + (f", {self.against}" if self.against else "")

    @property
    def is_wrong(self):
        return self.problem.startswith("WRONG")

    @property
    def figure(self):
        """What is compared with `must`: the ratio, or microseconds."""
        return self.seconds * 1e6 if self.in_microseconds and self.seconds else self.ratio

    @property
    def in_microseconds(self):
        return self.against == ""

    @property
    def holds(self):
        if self.problem or self.figure is None:
            return None
        return self.figure <= self.must if self.in_microseconds else self.figure >= self.must

    def as_dict(self):
        return {**asdict(self), "unit": "us" if self.in_microseconds else "x", "holds": self.holds}


@dataclass(frozen=True)
class Effort:
    """How long to go on with one case."""

    seconds: float
    fewest: int
    most: int


class Bench:
    """Measures cases one after another; those that follow each other share their arrays."""

    def __init__(self, team, effort):
        self.team, self.effort = team, effort
        self._key, self._data = None, None

    def rows(self, case):
        """Return the report's lines for a case."""
        against = case.group.against
        measure = {
            "nothing": self._short,
            "peers": self._peers,
            "float32": self._half,
        }.get(against, self._streaming)
        try:
            return measure(case)
        except Exception as error:  # one broken case must not hide the others
            problem = f"WRONG: raised {type(error).__name__}: {error}"
            return [_row(case, against="" if against == "nothing" else against, problem=problem)]

    # ---- The kinds of comparison ----

    def _streaming(self, case):
        data = self._arrays(case.layout, case.dtype)
        ours, problem = self._ours(case, data)
        if case.group.against == "loop":
            yardstick, words, against = yardsticks.plain_loop(case, data), None, "plain loop"
        else:
            yardstick, words = yardsticks.streaming(self.team, case, data)
            against = case.group.against
        row = _row(case, against=against, problem=problem)
        times = self._interleave({"yardstick": yardstick, "ours": ours}, case, data)
        _put(row, case, data, times["ours"])
        row.against_seconds = statistics.median(times["yardstick"])
        if not self._is_right(case, data, ours):
            row.problem = row.problem or "WRONG after timing"
        # Words are what the two have to move: a gradient moves more than the triad.
        work = 1 if words is None else case.variant.words / words
        _compare(row, case.group.against, case, work * row.against_seconds / row.seconds)
        return [row]

    def _half(self, case):
        dtype = find_dtype(case.dtype)
        if dtype is None:
            return [_row(case, against="float32", problem="ml_dtypes is not installed")]
        wide, narrow = self._arrays(case.layout, case.dtype)
        ours, problem = self._ours(case, narrow)
        float32, _ = self._ours(case, wide)
        row = _row(case, against="float32", problem=problem)
        times = self._interleave({"float32": float32, "ours": ours}, case, narrow)
        _put(row, case, narrow, times["ours"])
        row.against_seconds = statistics.median(times["float32"])
        if not self._is_right(case, narrow, ours):
            row.problem = row.problem or "WRONG after timing"
        _compare(row, "float32", case, row.against_seconds / row.seconds)
        return [row]

    def _peers(self, case):
        data = self._arrays(case.layout, case.dtype)
        ours, problem = self._ours(case, data)
        calls, problems = {"ours": ours}, {}
        for name, prepare in peers.PEERS.items():
            try:
                calls[name], arrange = prepare(data.x, case.layout.axis)
            except ImportError:
                package = peers.PACKAGES.get(name, name)
                problems[name] = f"{package} is not installed"
                continue
            result = arrange(calls[name]()).astype(data.dtype, copy=False)
            right = checks.forward_is_right(
                self.team, data, "constant", result, from_first=name in peers.FROM_FIRST, ulps=1000
            )
            problems[name] = "" if right else "WRONG: the other library's result"
            del result
        times = self._interleave(calls, case, data)
        rows = []
        for name in peers.PEERS:
            row = _row(case, against=name, problem=problem or problems[name])
            _put(row, case, data, times["ours"])
            if name in times:
                row.against_seconds = statistics.median(times[name])
                _compare(row, name, case, row.against_seconds / row.seconds)
            rows.append(row)
        return rows

    def _short(self, case):
        data = self._arrays(case.layout, case.dtype)
        ours, problem = self._ours(case, data)
        row = _row(case, problem=problem)
        _put(row, case, data, self._times({"ours": ours}, at_once=CALLS_AT_ONCE)["ours"])
        row.must, row.aim = case.expected(case.variant.direction)
        return [row]

    # ---- Their parts ----

    def _arrays(self, layout, dtype):
        key = layout.base, layout.axis, layout.order, layout.gates, dtype
        if key != self._key:
            self._key = self._data = None  # free the last arrays before making new ones
            if dtype in ("float16", "bfloat16"):
                wide = Data(layout, "float32")
                self._data = wide, wide.narrowed(find_dtype(dtype))
            else:
                self._data = Data(layout, dtype)
            self._key = key
        return self._data

    def _ours(self, case, data):
        """Return fastrecur's call, compiled, and what is wrong with its result."""
        gate, axis = data.f if case.variant.gate == "full" else ALPHA, case.layout.axis
        if case.variant.direction == "vjp":
            forget_mult(gate, data.x, axis=axis, out=data.out)
            call = functools.partial(forget_mult_vjp, data.g, gate, data.x, data.out, axis=axis)
        elif case.variant.output == "fresh":
            call = functools.partial(forget_mult, gate, data.x, axis=axis)
        else:
            call = functools.partial(forget_mult, gate, data.x, axis=axis, out=data.out)
        return call, "" if self._is_right(case, data, call) else "WRONG"

    def _is_right(self, case, data, call):
        gate = case.variant.gate
        if case.variant.direction == "vjp":
            return checks.gradients_are_right(self.team, data, gate, data.out, call())
        data.out.fill(np.nan)  # what an earlier call left there must not pass for a result
        result = call()
        if case.variant.output == "out=" and result is not data.out:
            return False
        return checks.forward_is_right(self.team, data, gate, result)

    def _interleave(self, calls, case, data):
        """Return a list of times for each call. Results are freed outside the timed part, and nothing else is."""
        in_cache = case.variant.words * data.elements * data.dtype.itemsize < SMALL_BYTES
        gc.collect()
        gc.disable()
        try:
            return self._times(calls, warm=in_cache)
        finally:
            gc.enable()

    def _times(self, calls, **options):
        return turns.times(calls, self.effort.seconds, self.effort.fewest, self.effort.most, **options)


def _row(case, against="", problem=""):
    v = case.variant
    named = case.group.title, case.layout.name, v.direction, v.gate, v.output, case.dtype
    return Row(*named, against=against, problem=problem)


def _put(row, case, data, times):
    row.seconds = statistics.median(times)
    row.repeats = len(times)
    counted = case.variant.words * data.elements * data.dtype.itemsize
    row.gigabytes_per_second = counted / row.seconds / 1e9


def _compare(row, what, case, ratio):
    row.must, row.aim = case.expected(what)
    if not row.is_wrong:
        row.ratio = ratio

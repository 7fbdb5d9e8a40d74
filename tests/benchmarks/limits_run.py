"""What the memory gives to the rows that miss what they should reach: ``python limits_run.py``.

The triad's threads each walk a stretch of the arrays. fastrecur's share each step's lanes where there are too few
steps to be cut in time; a gradient has six arrays where the triad has three; and a recurrence takes its states from
step to step, in float64 whatever the data. Here plain loops do the first, the second, both, or all three: what they
reach, against the triad in the same run, is what can be expected of such a walk, and of the recurrence on it.
"""

import argparse
import functools
import sys
import time

import numpy as np
import report
from cases import ALPHA, GROUPS, Case, Variant
from measure import Bench, Effort
from numba import njit
from tqdm import tqdm
from turns import medians
from yardsticks import Team, plain_loop

import fastrecur

_kernel = njit(nogil=True, cache=True)


@_kernel
def three(f, f_at, x, x_at, h, rows, lanes):
    for t in range(h.shape[0]):
        for row in range(rows[0], rows[1]):
            to = h[t, row, lanes[0] : lanes[1]]
            gate = f[t, row, f_at + lanes[0] : f_at + lanes[1]]
            value = x[t, row, x_at + lanes[0] : x_at + lanes[1]]
            for i in range(to.size):
                to[i] = value[i] + gate[i] * value[i]


@_kernel
def two(f, x, x_at, h, rows, lanes):
    for t in range(h.shape[0]):
        for row in range(rows[0], rows[1]):
            to = h[t, row, lanes[0] : lanes[1]]
            value = x[t, row, x_at + lanes[0] : x_at + lanes[1]]
            for i in range(to.size):
                to[i] = value[i] + f * value[i]


@_kernel
def six(g, f, f_at, x, x_at, h, to_f, to_x, rows, lanes):
    for t in range(h.shape[0]):
        for row in range(rows[0], rows[1]):
            came = g[t, row, lanes[0] : lanes[1]]
            gate = f[t, row, f_at + lanes[0] : f_at + lanes[1]]
            value = x[t, row, x_at + lanes[0] : x_at + lanes[1]]
            state = h[t, row, lanes[0] : lanes[1]]
            first, second = to_f[t, row, lanes[0] : lanes[1]], to_x[t, row, lanes[0] : lanes[1]]
            for i in range(came.size):
                first[i] = came[i] * (value[i] - state[i])
                second[i] = came[i] * gate[i]


@_kernel
def four(g, f, x, x_at, h, to_x, rows, lanes):
    for t in range(h.shape[0]):
        for row in range(rows[0], rows[1]):
            came = g[t, row, lanes[0] : lanes[1]]
            value = x[t, row, x_at + lanes[0] : x_at + lanes[1]]
            state = h[t, row, lanes[0] : lanes[1]]
            second = to_x[t, row, lanes[0] : lanes[1]]
            for i in range(came.size):
                second[i] = came[i] * f + value[i] - state[i]


@_kernel
def forward_full(f, f_at, x, x_at, h, states, rows, lanes):
    for t in range(h.shape[0]):
        for row in range(rows[0], rows[1]):
            to, state = h[t, row, lanes[0] : lanes[1]], states[row, lanes[0] : lanes[1]]
            gate = f[t, row, f_at + lanes[0] : f_at + lanes[1]]
            value = x[t, row, x_at + lanes[0] : x_at + lanes[1]]
            for i in range(to.size):
                now = state[i] + gate[i] * (value[i] - state[i])
                state[i] = now
                to[i] = now


@_kernel
def forward_number(f, x, x_at, h, states, rows, lanes):
    f = np.float64(f)
    for t in range(h.shape[0]):
        for row in range(rows[0], rows[1]):
            to, state = h[t, row, lanes[0] : lanes[1]], states[row, lanes[0] : lanes[1]]
            value = x[t, row, x_at + lanes[0] : x_at + lanes[1]]
            for i in range(to.size):
                now = state[i] + f * (value[i] - state[i])
                state[i] = now
                to[i] = now


@_kernel
def vjp_full(g, f, f_at, x, x_at, h, to_f, to_x, states, rows, lanes):
    for t in range(h.shape[0] - 1, -1, -1):
        for row in range(rows[0], rows[1]):
            came, state = g[t, row, lanes[0] : lanes[1]], states[row, lanes[0] : lanes[1]]
            gate = f[t, row, f_at + lanes[0] : f_at + lanes[1]]
            value = x[t, row, x_at + lanes[0] : x_at + lanes[1]]
            before = h[max(t - 1, 0), row, lanes[0] : lanes[1]]
            first, second = to_f[t, row, lanes[0] : lanes[1]], to_x[t, row, lanes[0] : lanes[1]]
            for i in range(came.size):
                now = state[i] + came[i]
                first[i] = now * (value[i] - before[i])
                second[i] = now * gate[i]
                state[i] = now - now * gate[i]


@njit(nogil=True, cache=True, fastmath=True)  # a sum in any order, or it would not be vectorised
def vjp_number(g, f, x, x_at, h, to_x, states, rows, lanes):
    f, total = np.float64(f), 0.0
    for t in range(h.shape[0] - 1, -1, -1):
        for row in range(rows[0], rows[1]):
            came, state = g[t, row, lanes[0] : lanes[1]], states[row, lanes[0] : lanes[1]]
            value = x[t, row, x_at + lanes[0] : x_at + lanes[1]]
            before = h[max(t - 1, 0), row, lanes[0] : lanes[1]]
            second = to_x[t, row, lanes[0] : lanes[1]]
            for i in range(came.size):
                now = state[i] + came[i]
                total += now * (value[i] - before[i])
                second[i] = now * f
                state[i] = now - now * f
    return total


KERNELS = {
    "forward full": (three, forward_full, 3), "forward constant": (two, forward_number, 2),
    "vjp full": (six, vjp_full, 6), "vjp constant": (four, vjp_number, 4),
}  # fmt: skip


class Limits:
    """A case's arrays, and loops over them."""

    def __init__(self, case, data, team):
        self.case, self.data, self.team = case, data, team
        (x, x_at), (f, f_at) = (data.blocks[name] for name in "xf")
        shape = data.out.shape
        if len(shape) == 1:
            self.shape = len(data.out) // 1000, 1, 1000
        else:
            self.shape = shape if len(shape) == 3 else (shape[0], 1, shape[1])
        self.x, self.f = (v.reshape(*self.shape[:2], -1) for v in (x, f))
        self.at = x_at, f_at
        self.g, self.out = (data.blocks[name][0].reshape(self.shape) for name in ("g", "out"))
        self.to = np.zeros((2, *self.out.shape), data.dtype)
        self.gate = data.dtype.type(ALPHA)
        self.states = np.zeros(self.out.shape[1:])

    def loop(self, direction, shares_steps, has_states=False):
        """Return a call of all threads, and the words it moves; they share each step's lanes, or each has its steps."""
        steps, rows, lanes = self.out.shape
        if not shares_steps:
            parts = [(slice(*cut), (0, rows), (0, lanes)) for cut in self.team.ranges(steps)]
        elif rows > 1:
            parts = [(slice(None), cut, (0, lanes)) for cut in self.team.ranges(rows)]
        else:
            parts = [(slice(None), (0, 1), cut) for cut in self.team.ranges(lanes, step=64)]
        gate, (x_at, f_at) = self.case.variant.gate, self.at
        calls = []
        for cut, *where in parts:
            g, f, x, h = self.g[cut], self.f[cut], self.x[cut], self.out[cut]
            first, second = self.to[0][cut], self.to[1][cut]
            operands = (f, f_at, x, x_at) if gate == "full" else (self.gate, x, x_at)
            if direction == "vjp":
                results = (first, second) if gate == "full" else (second,)
                call = g, *operands, h, *results
            else:
                call = *operands, first
            calls.append((*call, self.states, *where) if has_states else (*call, *where))
        without, with_states, words = KERNELS[f"{direction} {gate}"]
        return functools.partial(self.team.run, with_states if has_states else without, calls), words


LAYOUTS = "(2048, 1024)", "(105, 12800)", "a gate of (105, 40, 3*640)", "(1000000,)"
NAMES = "triad", "shared", "words", "shared words", "with states", "fastrecur"


def row_of(case, bench, seconds):
    """Return a line of the table."""
    data = bench._arrays(case.layout, case.dtype)
    ours, problem = bench._ours(case, data)
    limits, direction = Limits(case, data, bench.team), case.variant.direction
    # A gradient stands beside the triad of a gate, whichever its own is.
    beside = Variant("forward", "full" if direction == "vjp" else case.variant.gate, case.variant.output)
    triad = Limits(Case(case.group, case.layout, case.dtype, beside), data, bench.team)
    calls = {
        "triad": triad.loop("forward", shares_steps=False),
        "shared": limits.loop("forward", shares_steps=True),
        "words": limits.loop(direction, shares_steps=False),
        "shared words": limits.loop(direction, shares_steps=True),
        "with states": limits.loop(direction, shares_steps=True, has_states=True),
        "fastrecur": (ours, case.variant.words),
    }
    if case.group.against == "loop":
        calls = {name: calls[name] for name in ("triad", "words", "fastrecur")}
        calls["plain loop"] = plain_loop(case, data), case.variant.words
    times = medians({name: call for name, (call, _) in calls.items()}, seconds, 7, warm=True)
    rate = {name: calls[name][1] * data.elements * data.dtype.itemsize / times[name] / 1e9 for name in calls}
    base = rate.get("plain loop", rate["triad"])
    v = case.variant
    label = f"{case.layout.name}, {v.direction}, {v.gate} gate, {case.dtype}"
    cells = [f"{rate[name]:8.1f} {rate[name] / base:5.2f}" if name in rate else f"{'':14}" for name in NAMES]
    return f"{label:56}" + "".join(cells) + problem


def main(arguments):
    """Print a table: what each walk moves, in GB/s, and the ratio to the triad; of one series, to a plain loop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each row")
    seconds, began = parser.parse_args(arguments).seconds, time.perf_counter()
    bench = Bench(Team(fastrecur.get_num_threads()), Effort(1, 1, 1))
    cases = [
        Case(group, layout, dtype, variant)
        for group in GROUPS
        for layout in group.layouts
        if layout.name in LAYOUTS and group.against in ("triad", "loop")
        for dtype in group.dtypes
        for variant in group.variants
        if variant.output == "fresh" and (len(layout.base) > 1 or variant.direction == "vjp")
    ]
    lines = [row_of(case, bench, seconds) for case in tqdm(cases, unit="row", file=sys.stderr)]
    print(report.title(report.about(__file__, arguments, bench.team.threads, time.perf_counter() - began)), end="\n\n")
    print(f"{'':56}" + "".join(f"{name:>14}" for name in NAMES))
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Print what the cost model of the kernels' choice predicts for the shapes that `run.py` times. Nothing is measured.

    python tests/gpu/predictions.py [--dtypes float32 float64 float16]

For each shape and direction: the least time at which the bytes can be moved, the kernel that is chosen and how many
tiles it cuts time into, what an uncut kernel and the single-pass scan should take, and the share of the least time in
what is chosen. Microseconds, for an H100 (3.0 TB/s) or another of `CARDS`; the choice is the same on all. Then, for
selective scans and filters of float32, the least time and from what to what they should take: see `expected`.
"""

import argparse
import pathlib
import sys
from typing import NamedTuple

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[2])]

import numpy as np  # noqa: E402

from fastrecur._arguments.shapes import c_strides  # noqa: E402
from fastrecur._cuda import plan  # noqa: E402

SHAPES = [
    ((105, 20, 640), 0), ((512, 64, 320), 0), ((512, 64, 1024), 0), ((2048, 32, 1024), 0), ((4096, 8, 16), 0),
    ((65536, 8, 64), 0), ((64, 1 << 20), 1), ((4096, 4096), 1), ((1, 10**6), 1), ((1, 1, 10**7), 2), ((10**6, 1), 1),
]  # fmt: skip


class Card(NamedTuple):
    """What the model reckons with of a card; not measured."""

    bytes_per_us: float  # of a copy
    processors: int  # of 128 lanes
    mhz: int
    double: int  # lanes that an instruction in float64 takes the place of

    @property
    def instructions_per_us(self):
        return self.processors * 128 * self.mhz


CARDS = {
    "A100": Card(1.4e6, 108, 1410, 4),
    "H100": Card(3.0e6, 132, 1755, 2),
    "B200": Card(6.5e6, 148, 1850, 2),
    "RTX 4090": Card(0.93e6, 128, 2520, 64),
}


class Counted(NamedTuple):
    """A call in float32 of kernels that do not cut time, and what `run.py` times of it."""

    instructions: float  # an element, those in float64, and bytes: counted by `tests/gpu_tools/table.py`
    doubles: float
    bytes: float
    waits: float  # of a thread for memory, a step: as the kernel's loops are written
    ahead: int  # bytes that a thread has on their way: docs/gpu_kernels.txt, sm_90
    threads: int  # of a series
    series: int
    steps: int


COUNTED = {
    "selective scan, 4 threads": Counted(821, 0, 23, 1 / 16, 24, 4, 8 * 2048, 1024),
    "selective scan, 4 threads gradient": Counted(3716, 0, 74, 3 / 16, 24, 4, 8 * 2048, 1024),
    "selective scan, 16 threads": Counted(1364, 0, 36, 1 / 32, 24, 16, 1536, 2048),
    "selective scan, 16 threads gradient": Counted(5260, 0, 105, 3 / 32, 24, 16, 1536, 2048),
    "two sections, parallel series": Counted(109, 15, 13, 4 / 32, 64, 1, 64, 100_000),
    "two sections, contiguous time": Counted(109, 15, 13, 4 / 32, 64, 1, 64, 100_000),
    "two sections, parallel series gradient": Counted(439, 40, 168, 2 + 12 / 32, 12, 1, 64, 10_000),
    "two sections, contiguous time gradient": Counted(427, 40, 168, 2 / 8 + 12 / 32, 12, 1, 64, 10_000),
}
CYCLES = 1, 4  # from one instruction of a warp to the next: where they need not wait, and where each waits for the last
# What would refute these, beside a time out of its range.
REFUTED = {
    "selective scan": "computed: instructions bound these, not bytes; refuted if a gradient takes less than 3 or more "
    "than 5 times its scan",
    "two sections": "computed: one warp's instructions and waits bound these, not bytes; refuted if the gradient in "
    "contiguous time, where one step of eight waits, takes more than 0.7 of that of parallel series",
}


def expected(name, card="H100"):
    """Return the least time of a counted call, and from what to what it should take.

    The bytes and the instructions of all threads take what `plan.overlapped` says of them; a thread alone takes its
    instructions in turn, and waits for memory.
    """
    counted, card = COUNTED[name], CARDS[card]
    elements = counted.series * counted.steps
    slots = counted.instructions + counted.doubles * (card.double - 1)
    work, least = elements * slots / card.instructions_per_us, elements * counted.bytes / card.bytes_per_us
    share = counted.series * counted.threads * counted.ahead / plan.IN_FLIGHT
    times = []
    for cycles in CYCLES:
        # A warp alone on its multiprocessor has at least two of its lanes in float64.
        slots = counted.instructions * cycles + counted.doubles * max(min(card.double, 16) - cycles, 0)
        alone = counted.steps * (slots / counted.threads / card.mhz + counted.waits * plan.BATCH_US)
        times.append(plan.overlapped(least, work, alone, share))
    return least, *times


def words(name):
    """Return what should be measured on an H100, in microseconds."""
    return "{1:.0f}-{2:.0f}".format(*expected(name))


def predicted(shape, axis, dtype, gradient, card="H100"):
    """Return the estimate of a call, and the least time."""
    found, choose, reckoned = [], plan.choose, (plan.BYTES_PER_US, plan.INSTRUCTIONS_PER_US)

    def recorded(*arguments):
        choice = choose(*arguments)  # the same on every card
        plan.BYTES_PER_US, plan.INSTRUCTIONS_PER_US = CARDS[card].bytes_per_us, CARDS[card].instructions_per_us
        estimate = plan.estimate(*arguments[:6], arguments[7])._replace(choice=choice)
        found.append((estimate, arguments[4] * arguments[0] * arguments[1] / plan.BYTES_PER_US))
        return choice

    dtype = np.dtype(dtype)
    full = dtype, shape, c_strides(shape, dtype.itemsize)
    plan.choose = recorded
    try:
        if gradient:
            plan.vjp.__wrapped__("forget", ("g", "f", "x", "h"), (*[full] * 4, None, None), axis, False, None)
        else:
            plan.forward.__wrapped__("forget", ("f", "x", "h0"), full, full, None, None, axis, False, None)
    finally:
        plan.choose, (plan.BYTES_PER_US, plan.INSTRUCTIONS_PER_US) = choose, reckoned
    (answer,) = found
    return answer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=["float32", "float64", "float16"])
    parser.add_argument("--card", default="H100", choices=CARDS)
    arguments = parser.parse_args()
    print(
        f"{'shape':<18}{'dtype':<9}{'':<10}{'least':>8}  {'kernel':<8}{'tiles':>6}{'uncut':>10}{'scan':>8}{'share':>7}"
    )
    for dtype in arguments.dtypes:
        for shape, axis in SHAPES:
            for gradient in (False, True):
                (choice, whole, scan), least = predicted(shape, axis, dtype, gradient, arguments.card)
                kernel, time = ("scan", scan) if choice.tiles > 1 else (choice.traversal, whole)
                print(
                    f"{','.join(map(str, shape)):<18}{dtype:<9}{'gradient' if gradient else 'forward':<10}{least:>8.1f}"
                    f"  {kernel:<8}{choice.tiles:>6}{whole:>10.1f}{scan:>8.1f}{least / time:>7.0%}"
                )
    print()
    for name, counted in COUNTED.items():
        least, low, high = expected(name, arguments.card)
        what = f"{name}: {counted.series} of {counted.steps} steps"
        print(f"{what:<68}{least:>8.1f}{low:>10.0f}-{high:.0f}")


if __name__ == "__main__":
    main()

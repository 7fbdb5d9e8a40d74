"""Print what the cost model of the kernels' choice predicts for the shapes that `run.py` times. Nothing is measured.

    python tests/gpu/predictions.py [--dtypes float32 float64 float16]

For each shape and direction: the least time at which the bytes can be moved, the kernel that is chosen and how many
tiles it cuts time into, what an uncut kernel and the single-pass scan should take, and the share of the least time in
what is chosen. Microseconds, for an H100 (3.0 TB/s) or another of `CARDS`; the choice is the same on all.
"""

import argparse
import pathlib
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[2])]

import numpy as np  # noqa: E402

from fastrecur._arguments.shapes import c_strides  # noqa: E402
from fastrecur._cuda import plan  # noqa: E402

SHAPES = [
    ((105, 20, 640), 0), ((512, 64, 320), 0), ((512, 64, 1024), 0), ((2048, 32, 1024), 0), ((4096, 8, 16), 0),
    ((65536, 8, 64), 0), ((64, 1 << 20), 1), ((4096, 4096), 1), ((1, 10**6), 1), ((1, 1, 10**7), 2), ((10**6, 1), 1),
]  # fmt: skip


# Bytes a card copies in a microsecond, and instructions of threads: multiprocessors, 128 lanes, MHz. Not measured.
CARDS = {
    "A100": (1.4e6, 108 * 128 * 1410),
    "H100": (3.0e6, 132 * 128 * 1755),
    "B200": (6.5e6, 148 * 128 * 1850),
    "RTX 4090": (0.93e6, 128 * 128 * 2520),
}


def predicted(shape, axis, dtype, gradient, card="H100"):
    """Return the estimate of a call, and the least time."""
    found, choose, reckoned = [], plan.choose, (plan.BYTES_PER_US, plan.INSTRUCTIONS_PER_US)

    def recorded(*arguments):
        choice = choose(*arguments)  # the same on every card
        plan.BYTES_PER_US, plan.INSTRUCTIONS_PER_US = CARDS[card]
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


if __name__ == "__main__":
    main()

"""``python -m fastrecur``: print what a report about a problem needs; with ``--compile``, make common kernels."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from . import forget_mult, forget_mult_vjp, show_config, smoothing
from ._arguments import notices
from ._cpu.compiler import cache

DTYPES = "float16", "float32", "float64"
# Shapes and axes of time: each has kernels of its own.
_LAYOUTS = {
    "one series": ((1_000_000,), 0),
    "one short series": ((1000,), 0),
    "time first": ((1000, 1000), 0),
    "time last": ((1000, 1000), 1),
    "few series": ((100_000, 4), 0),
}


def calls(dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield what is compiled, in words, and the call that compiles it."""
    for layout, (shape, axis) in _LAYOUTS.items():
        x = np.full(shape, 0.5, dtype)
        for gate, f in (("a number", 0.5), ("an array", x)):
            yield f"forget_mult, {layout}, f is {gate}", partial(forget_mult, f, x, axis=axis)
            yield f"forget_mult_vjp, {layout}, f is {gate}", partial(forget_mult_vjp, x, f, x, x, axis=axis)
        for statistic in (smoothing.ewm_mean, smoothing.ewm_std) if dtype != "float16" else ():
            yield f"{statistic.__name__}, {layout}", partial(statistic, x, alpha=0.5, axis=axis)


def make_kernels(dtypes: list[str]) -> None:
    """Compile the common kernels of these dtypes, and show how far that is."""
    work, began = [(f"{dtype}: {label}", call) for dtype in dtypes for label, call in calls(dtype)], time.monotonic()
    notices.hush()
    for done, (label, call) in enumerate(work):
        _show(f"{done:>3} of {len(work)}", done / len(work), label)
        call()
    _show(f"{len(work):>3} of {len(work)}", 1, "done\n")
    place = cache.folder()
    kept = 0 if place is None or not place.is_dir() else sum(1 for path in place.iterdir() if path.name != "lock")
    print(f"{time.monotonic() - began:.0f} s for {len(work)} calls, some of which share a kernel")
    print(f"{kept} kernels are kept in {place or 'no place: there is no home'}")


def _show(count: str, part: float, label: str) -> None:
    """Show how far the work is: a bar at a terminal, else a line for each call."""
    if sys.stderr.isatty():
        bar = f"\r{count} [{'#' * int(30 * part):<30}] {label}\033[K"
        print(bar, end="", file=sys.stderr, flush=True)
    else:
        print(count, label.strip(), file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m fastrecur", description="Print what a report of a problem needs.")
    parser.add_argument(
        "--compile", nargs="*", choices=DTYPES, metavar="DTYPE",
        help="compile the common kernels of these dtypes (float32 and float64 by default) into the cache instead: for "
        f"images and classrooms, where no first call shall wait; one of {', '.join(DTYPES)}",
    )  # fmt: skip
    asked = parser.parse_args(arguments).compile
    if asked is None:
        show_config()
    else:
        make_kernels(asked or ["float32", "float64"])


if __name__ == "__main__":
    main()

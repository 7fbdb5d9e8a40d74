"""``python -m fastrecur``: print what a report about a problem needs; make common kernels, or bundles of them."""

from __future__ import annotations

import argparse
import importlib.util
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from . import filters, returns, show_config, smoothing
from ._arguments import notices
from ._cpu.compiler import bundle, cache
from .recurrence import forget_mult, forget_mult_vjp, linear_recurrence, linear_recurrence_vjp
from .selective import selective_scan, selective_scan_vjp

DTYPES, DTYPES_OF_BUNDLE = ("float16", "float32", "float64"), ("float32", "float64")
# Shapes and axes of time: each has kernels of its own.
LAYOUTS = {
    "one series": ((1_000_000,), 0),
    "one short series": ((1000,), 0),
    "time first": ((1000, 1000), 0),
    "time last": ((1000, 1000), 1),
    "few series": ((100_000, 4), 0),
}

Calls = Iterator[tuple[str, Callable[[], Any]]]  # what is called, in words, and the call


def calls(dtype: str) -> Calls:
    """Yield the calls whose kernels are compiled for a user."""
    for layout, (shape, axis) in LAYOUTS.items():
        x = np.full(shape, 0.5, dtype)
        for gate, f in (("a number", 0.5), ("an array", x)):
            yield f"forget_mult, {layout}, f is {gate}", partial(forget_mult, f, x, axis=axis)
            yield f"forget_mult_vjp, {layout}, f is {gate}", partial(forget_mult_vjp, x, f, x, x, axis=axis)
        for statistic in (smoothing.ewm_mean, smoothing.ewm_std) if dtype != "float16" else ():
            yield f"{statistic.__name__}, {layout}", partial(statistic, x, alpha=0.5, axis=axis)


def calls_of_bundle(dtype: str) -> Calls:
    """Yield the calls whose kernels a bundle has."""
    yield from calls(dtype)
    for layout, (shape, axis) in LAYOUTS.items():
        x = np.full(shape, 0.5, dtype)
        yield f"linear_recurrence, {layout}", partial(linear_recurrence, x, x, axis=axis)
        yield f"linear_recurrence_vjp, {layout}", partial(linear_recurrence_vjp, x, x, x, x, axis=axis)
        yield from _filters(layout, x, axis)
    for shape in ((1000,), (1000, 8), (1000, 64)):
        yield from _returns(f"{shape[1:]}", np.full(shape, 0.5, dtype))
    u, B = np.full((2, 100, 64), 0.5, dtype), np.full((2, 100, 16), 0.5, dtype)
    given = u, u, np.full((64, 16), -0.5, dtype), B, B, np.ones(64, dtype)
    yield "selective_scan", partial(selective_scan, *given, layout="bld")
    yield "selective_scan_vjp", partial(selective_scan_vjp, u, *given, layout="bld")
    if importlib.util.find_spec("torch"):
        yield "QRNN", partial(_train, dtype)


def _filters(layout: str, x: Any, axis: int) -> Calls:
    sos = np.array([[1, 0.5, 0.2, 1, -0.5, 0.1]] * 2)
    yield f"sosfilt, {layout}", partial(filters.sosfilt, sos, x, axis)
    yield f"sosfilt_vjp, {layout}", partial(filters.sosfilt_vjp, x, sos, x, x, axis=axis)
    yield f"lfilter, {layout}", partial(filters.lfilter, sos[0, :3], sos[0, 3:], x, axis)


def _returns(layout: str, rewards: Any) -> Calls:
    values, flags = np.concatenate([rewards, rewards[:1]]), np.zeros(rewards.shape, bool)
    yield f"gae, {layout}", partial(returns.gae, rewards, values, 0.99, 0.95, flags)
    yield f"gae, {layout}, both flags", partial(returns.gae, rewards, values, 0.99, 0.95, flags, flags)
    yield f"discounted_returns, {layout}", partial(returns.discounted_returns, rewards, 0.99)
    yield f"discounted_returns, {layout}, flags", partial(returns.discounted_returns, rewards, 0.99, flags)


def _train(dtype: str) -> None:
    """Make a step of training of a QRNN."""
    import torch

    from .torch import QRNN

    layer = QRNN(8, 16, dtype=getattr(torch, dtype))
    y, _ = layer(torch.rand(12, 3, 8, dtype=getattr(torch, dtype)))
    y.sum().backward()


# ---- The command ----------------------------------------------------------------------------------------------------


def _progress(count: int) -> Callable[[int, str], None]:
    """Return what shows how much of some work is done, and a label: a bar at a terminal, else a line each."""

    def show(done: int, label: str) -> None:
        if sys.stderr.isatty():
            bar, end = f"[{'#' * (30 * done // count):<30}] ", "\n" if done == count else ""
            print(f"\r{done:>3} of {count} {bar}{label}\033[K", end=end, file=sys.stderr, flush=True)
        else:
            print(f"{done:>3} of {count} {label}", file=sys.stderr, flush=True)

    return show


def _kept() -> int:
    """Return how many kernels the cache has."""
    place = cache.folder()
    return 0 if place is None or not place.is_dir() else sum(1 for path in place.iterdir() if path.name != "lock")


def make_kernels(dtypes: list[str]) -> None:
    """Compile the common kernels of these dtypes, and show how far that is."""
    work = [(f"{dtype}: {label}", call) for dtype in dtypes for label, call in calls(dtype)]
    began, show = time.monotonic(), _progress(len(work))
    before = _kept()
    notices.hush()
    for done, (label, call) in enumerate(work):
        show(done, label)
        call()
    show(len(work), "done")
    place, kept = cache.folder(), _kept()
    print(f"{time.monotonic() - began:.0f} s for {len(work)} calls, some of which share a kernel")
    print(f"{kept} kernels are kept in {place or 'no place: there is no home'}, {max(0, kept - before)} of them new")


def make_bundles(processors: list[str], into: pathlib.Path) -> None:
    """Compile the kernels of a bundle for these processors, and show how far that is."""
    from ._cpu import bundling

    began = time.monotonic()
    calls = (call for dtype in DTYPES_OF_BUNDLE for _, call in calls_of_bundle(dtype))
    kernels = sorted({*bundling.kernels_of(calls), bundling.OF_TORCH}, key=str)
    count = (1 + len(kernels)) * len(processors)
    bundling.make(processors, into, kernels, _progress(count))
    print(f"{time.monotonic() - began:.0f} s")
    for path in (bundle.file_of(into, name) for name in processors):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m fastrecur", description="Print what a report of a problem needs.")
    parser.add_argument(
        "--compile", nargs="*", choices=DTYPES, metavar="DTYPE",
        help="compile the common kernels of these dtypes (float32 and float64 by default) into the cache instead: for "
        f"images and classrooms, where no first call shall wait; one of {', '.join(DTYPES)}",
    )  # fmt: skip
    parser.add_argument(
        "--bundle", action="store_true",
        help="compile more common kernels, of float32 and float64, for processors that this machine need not have "
        "instead, into a file for each, which a call reads before it looks into the cache; wheels have these files",
    )  # fmt: skip
    names = list(bundle.PROCESSORS)
    parser.add_argument(
        "--cpu", nargs="+", choices=names, metavar="CPU", default=names,
        help=f"with --bundle: for these processors, of {', '.join(names)}; all by default",
    )  # fmt: skip
    parser.add_argument(
        "--into", type=pathlib.Path, metavar="FOLDER", default=bundle.OWN,
        help="with --bundle: write the files there instead of into the package; FASTRECUR_BUNDLE names such a folder",
    )  # fmt: skip
    asked = parser.parse_args(arguments)
    try:
        if asked.bundle:
            make_bundles(asked.cpu, asked.into)
        elif asked.compile is not None:
            make_kernels(asked.compile or [*DTYPES_OF_BUNDLE])
        else:
            show_config()
    except KeyboardInterrupt:  # as shells know it; a traceback would be the compiler's
        sys.exit(130)


if __name__ == "__main__":
    main()

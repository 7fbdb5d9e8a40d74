"""``python -m fastrecur``: print what a report about a problem needs; make common kernels, or bundles of them."""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections.abc import Callable

from . import _common, show_config
from ._arguments import notices
from ._common import DTYPES
from ._cpu.compiler import bundle, cache


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
    work = [(f"{dtype}: {label}", call) for dtype in dtypes for label, call in _common.calls(dtype)]
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
    from . import _bundling

    began = time.monotonic()
    kernels = _bundling.common_kernels()
    count = (1 + len(kernels)) * len(processors)
    _bundling.make(processors, into, kernels, _progress(count))
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
            make_kernels(asked.compile or ["float32", "float64"])
        else:
            show_config()
    except KeyboardInterrupt:  # as shells know it; a traceback would be the compiler's
        sys.exit(130)


if __name__ == "__main__":
    main()

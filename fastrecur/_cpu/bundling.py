"""Make bundles: which kernels calls use, compiled for processors that this machine need not have."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import json
import operator
import os
import pathlib
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from typing import IO, Any, cast

import numpy as np

from .._arguments import messages as say
from .compiler import build, bundle, cache, compile as _compile, elsewhere, native, object_file, python
from .compiler.bundle import TRAMPOLINES, Kernel, Wanted
from .machine import threads

# What of the C library kernels may call; trampolines are given the rest (`native.py`).
KNOWN = {"memcpy", "memset", "memmove", *python.TRAMPOLINES, *native.THINGS}
OF_TORCH = Wanted("workers.team", None, None, ())  # which calls need where torch has several threads
_TEAM = 4  # threads, with which calls that are large use other kernels


@contextlib.contextmanager
def _noting() -> Iterator[dict[Wanted, None]]:
    """Note which kernels are called for, for the rest of this process, and let them do nothing."""
    wanted: dict[Wanted, None] = {}

    def note(kernel: Wanted) -> Kernel:
        wanted[kernel] = None
        _, count = build.signature_of(kernel, build.function_of(kernel.name))
        return Kernel(nothing, "nothing", count)

    nothing = object_file.of_nothing("nothing")
    before = _compile.code_of, threads.prewake
    _compile.code_of, threads.prewake = note, lambda threads: threads
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # of results that nothing was written to
            yield wanted
    finally:
        _compile.code_of, threads.prewake = before


def kernels_of(calls: Iterable[Callable[[], Any]]) -> list[Wanted]:
    """Return the kernels that calls use, in this process for the first time, on one thread and on several."""
    most = threads.get_num_threads()
    with _noting() as wanted:
        for call in calls:
            for count in (1, _TEAM):
                threads.set_num_threads(count)
                call()
    threads.set_num_threads(most)
    return sorted(wanted, key=str)


class _Compiler:
    """A process that compiles for a processor."""

    def __init__(self, processor: bundle.Processor) -> None:
        self._machine = processor.machine
        features = ",".join(f"+{name}" for name in (*processor.needs, *processor.has))
        script = pathlib.Path(elsewhere.__file__).read_text("utf-8")
        paths = str(cache.PACKAGE.parent), os.environ.get("PYTHONPATH")
        # A bundle is for processes that ask nothing of Numba.
        others = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", script, processor.machine, processor.name, features],
            env=others | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "FASTRECUR_NOTICES": "0"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def compile(self, wanted: Wanted) -> Kernel:
        """Return a kernel, of which is known that it can be loaded elsewhere."""
        given, taken = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        print(json.dumps(wanted), file=given, flush=True)
        answer = taken.readline()
        if not answer:
            raise RuntimeError(say.bundling(wanted.name))
        code, symbol, count = json.loads(answer)
        kernel = Kernel(base64.b64decode(code), symbol, count)
        missing = object_file.undefined(kernel.code) - KNOWN
        if missing:
            raise RuntimeError(say.bundled_kernel(wanted.name, ", ".join(sorted(missing))))
        far = object_file.relocations(kernel.code) - object_file.ANYWHERE[self._machine]
        if far:
            raise RuntimeError(say.bundled_relocations(wanted.name, sorted(far)))
        return kernel

    def close(self) -> None:
        self._process.communicate()


def _compiled(wanted: list[Wanted], processor: bundle.Processor) -> Iterator[tuple[Wanted, Kernel]]:
    """Yield kernels as they are compiled for a processor, by as many processes as a call may use threads."""
    own = threading.local()
    compilers: list[_Compiler] = []

    def begin() -> None:
        own.compiler = _Compiler(processor)
        compilers.append(own.compiler)

    def work(kernel: Wanted) -> tuple[Wanted, Kernel]:
        return kernel, own.compiler.compile(kernel)

    with concurrent.futures.ThreadPoolExecutor(threads.get_num_threads(), initializer=begin) as pool:
        try:
            yield from map(operator.methodcaller("result"), [pool.submit(work, kernel) for kernel in wanted])
        finally:
            pool.shutdown(cancel_futures=True)
            for compiler in compilers:
                compiler.close()


def make(processors: list[str], into: pathlib.Path, kernels: list[Wanted], show: Callable[[int, str], None]) -> None:
    """Write a bundle of kernels for each of some processors; ``show`` is told how many were compiled before which."""
    done = 0
    into.mkdir(parents=True, exist_ok=True)
    for name in processors:
        found = {}
        for kernel, made in _compiled([TRAMPOLINES, *kernels], bundle.PROCESSORS[name]):
            done, found[kernel] = done + 1, made
            show(done, f"{name}: {kernel.name}")
        versions = {package: metadata.version(package) for package in ("numba", "llvmlite")}
        bundle.write(bundle.file_of(into, name), name, found, **versions)

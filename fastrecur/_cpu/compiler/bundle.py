"""Machine code that came with the package: a bundle of common kernels, one file for each kind of processor.

A bundle needs neither Numba nor what it was made with; it must be of these sources, and of this system. It is checked
and never trusted: what is torn, or of another kind, is as if it were not there. Its head is one line of JSON behind its
own length and sum; it has the place and the sum of each kernel, under a name that stands for all that its code depends
on. Kernels stand behind it, one by one compressed, and are read when they are called for. So nothing is kept open.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import sys
import zlib
from typing import Any, NamedTuple

from llvmlite import binding

from ..._arguments.arrays import HEADER
from ..vectors.processor import host_features, is_usual
from . import cache

OWN = cache.PACKAGE / "_bundle"  # where bundles stand that came with the package
MAGIC = b"fastrecur kernels 1\n"
_AVX2 = "avx avx2 bmi bmi2 cx16 f16c fma lzcnt movbe popcnt sahf sse3 ssse3 sse4.1 sse4.2 xsave".split()
_AVX512 = "avx512f avx512bw avx512cd avx512dq avx512vl".split()


class Processor(NamedTuple):
    """A kind of processor: how its machine's name begins, its name in LLVM, what it must have, and has for sure."""

    machine: str
    name: str
    needs: tuple[str, ...]
    has: tuple[str, ...] = ()


# Of two that a machine is, the better one comes first.
PROCESSORS = {
    "x86-64-v4": Processor("x86_64", "x86-64-v4", (*_AVX2, *_AVX512)),
    "x86-64-v3": Processor("x86_64", "x86-64-v3", tuple(_AVX2)),
    "aarch64": Processor("aarch64", "generic", (), ("neon", "fp-armv8")),
}


class Wanted(NamedTuple):
    """A kernel: ``file.function``, below `_cpu/kernels`, and what is behind its addresses, by the arguments' names."""

    name: str
    rule: str | None
    carry: str | None
    elements: tuple[tuple[str, str], ...]

    @property
    def source(self) -> str:
        """The file that it stands in."""
        return f"_cpu/kernels/{self.name.partition('.')[0]}.py" if "." in self.name else f"_cpu/compiler/{self.name}.py"


TRAMPOLINES = Wanted("trampolines", None, None, ())  # which are no kernel, and have several functions


class Kernel(NamedTuple):
    """Machine code, the function in there, and how many arguments it takes."""

    code: bytes
    symbol: str
    arity: int


def name_of(wanted: Wanted) -> str:
    """Return the name of a kernel: it stands for what it is made of, and for how Python's objects begin here, too."""
    return hashlib.sha256(repr((*wanted, HEADER, cache.digest(wanted.source))).encode()).hexdigest()[:32]


def folder() -> pathlib.Path | None:
    """Return where bundles are looked for; None if they are not wanted."""
    chosen = os.environ.get("FASTRECUR_BUNDLE", "")
    if chosen == "0":
        return None
    return pathlib.Path(chosen).absolute() if chosen else OWN


def file_of(place: pathlib.Path, processor: str) -> pathlib.Path:
    return place / f"linux-{processor}.kernels"


def write(path: pathlib.Path, processor: str, kernels: dict[Wanted, Kernel], **made: Any) -> None:
    """Write a bundle of kernels for a processor; ``made`` says how it came to be."""
    head: dict[str, Any] = {"processor": processor, **made, "sources": {}, "kernels": {}}
    place, codes = 0, []
    for wanted, kernel in sorted(kernels.items(), key=str):
        name, source = name_of(wanted), wanted.source
        packed = zlib.compress(kernel.code, 9)
        sum_ = hashlib.sha256(packed).hexdigest()[:32]
        head["kernels"][name] = [place, len(packed), sum_, kernel.symbol, kernel.arity, source]
        head["sources"][source] = cache.digest(source)
        place += len(packed)
        codes.append(packed)
    text = json.dumps(head, separators=(",", ":")).encode() + b"\n"
    first = f"{len(text)} {hashlib.sha256(text).hexdigest()}\n".encode()
    cache.write(path, b"".join([MAGIC, first, text, *codes]), is_needed=True)


class Bundle:
    """A file of kernels, of which the head is read."""

    def __init__(self, path: pathlib.Path, head: dict[str, Any], start: int) -> None:
        self.path, self.head, self._start = path, head, start

    def find(self, name: str) -> Kernel | None:
        """Return the kernel of a name; None if it is not there, or torn."""
        place, size, sum_, symbol, count, _ = self.head["kernels"].get(name) or (0, 0, "", "", 0, "")
        with contextlib.suppress(OSError, zlib.error), self.path.open("rb") as file:
            file.seek(self._start + place)
            packed = file.read(size)
            if size and hashlib.sha256(packed).hexdigest()[:32] == sum_:
                return Kernel(zlib.decompress(packed), symbol, count)
        return None

    def describe(self) -> str:
        """Return what it is, for people."""
        sources, kernels = self.head["sources"], self.head["kernels"].values()
        known = {source for source, digest in sources.items() if cache.digest(source) == digest}
        usable = sum(source in known for *_, source in kernels)
        others = f"; {len(kernels) - usable} are of other sources, and not used" if usable < len(kernels) else ""
        return f"{self.head['processor']}, {usable} kernels in {self.path}{others}"


def read(path: pathlib.Path, processor: str) -> Bundle | None:
    """Return the bundle in a file; None if there is none, or it is no whole bundle for such a processor."""
    with contextlib.suppress(OSError, LookupError, TypeError, ValueError, AttributeError), path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return None
        length, _, sum_ = file.readline(100).decode().strip().partition(" ")
        text = file.read(int(length))
        if hashlib.sha256(text).hexdigest() == sum_:
            head = json.loads(text)
            if head["processor"] == processor and head["kernels"].keys() and head["sources"].keys():
                return Bundle(path, head, file.tell())
    return None


@functools.cache
def _found(place: pathlib.Path) -> Bundle | None:
    """Return the bundle in a folder that is best for this processor; None if there is none that it can run."""
    for name, processor in PROCESSORS.items():
        fits = binding.get_process_triple().startswith(processor.machine)
        if fits and all(host_features().get(feature) for feature in processor.needs):
            bundle = read(file_of(place, name), name)
            if bundle is not None:
                return bundle
    return None


def _current() -> Bundle | None:
    """Return the bundle that this process uses."""
    place = folder()
    is_right = sys.platform == "linux" and sys.implementation.name == "cpython" and is_usual()
    return None if place is None or not is_right else _found(place)


def find(wanted: Wanted) -> Kernel | None:
    """Return a kernel; None if no bundle has it that is of these sources."""
    bundle = _current()
    return bundle.find(name_of(wanted)) if bundle else None


def describe() -> str:
    """Return what a report about a problem needs to say."""
    if folder() is None:
        return "not wanted: FASTRECUR_BUNDLE=0"
    bundle = _current()
    return bundle.describe() if bundle else f"none for this processor in {folder()}"

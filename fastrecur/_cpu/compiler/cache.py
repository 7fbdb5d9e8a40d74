"""Compiled kernels on disk: where they are kept, under which name, and each whole or not at all."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pathlib
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec

from ..._arguments import notices

FORMAT = 3  # of what is kept: raised when files of older versions must not be read
SILENCE = 0.5  # seconds that a kernel may take to be compiled without a word
LONGEST_WAIT = 60  # seconds, for another process that makes a kernel: it may have been stopped
_BEGAN = time.time()  # about when this process imported the package


# Who makes a kernel, or imports what makes them, holds this: one thread at a time, and none while the process forks, or
# the child would wait for it for ever. Who waits for another process gives it up meanwhile, however often it is held.
making = threading.RLock()
_waiting = threading.Condition(making)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=making.acquire, after_in_parent=making.release, after_in_child=making.release)


def folder() -> pathlib.Path | None:
    """Return where compiled kernels are kept; None if there is no such place."""
    chosen = os.environ.get("FASTRECUR_CACHE_DIR")
    if chosen:
        return pathlib.Path(chosen).absolute()
    if sys.platform == "win32":
        home = os.environ.get("LOCALAPPDATA", "")
    else:
        home = os.environ.get("XDG_CACHE_HOME", "")
        home = home if os.path.isabs(home) else os.path.expanduser("~/.cache")
    return pathlib.Path(home) / "fastrecur" if os.path.isabs(home) else None


def describe() -> str:
    """Return what a report about a problem needs to say."""
    place = folder()
    if place is None:
        return "nowhere: there is no home"
    there = next(path for path in (place, *place.parents) if os.path.exists(path))
    if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
        return f"{place}, which cannot be written"
    unread = sum(not os.access(path, os.R_OK) for path in place.iterdir()) if there == place else 0
    return f"{place}, of which {unread} files cannot be read" if unread else str(place)


PACKAGE = pathlib.Path(__file__).parents[2]
# Files, and folders with what is in them, that GPU kernels are made of.
CUDA = "_steps", "_cuda", "_cpu/compiler/cache.py"
# Whatever a kernel of a processor is, it is compiled by these; and what they import that says nothing of its code.
COMPILES = ("_cpu/compiler/build.py",)
BESIDE = ("_arguments/", *(f"_cpu/compiler/{name}.py" for name in ("bundle", "cache", "compile", "native")))
_IMPORT = re.compile(r"^[ \t]*from (\.+)([\w.]*) import (\([^)]*\)|.*)$", re.MULTILINE)


@functools.cache
def digest(of: str, *packages: str) -> str:
    """Return a name for the sources of a kernel in a file, or of all kernels for GPUs, and for what compiles them."""
    text = f"{_sources(of)} {' '.join(f'{package} {_version(package)};' for package in packages)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sources(of: str) -> str:
    text = hashlib.sha256(str(FORMAT).encode())
    if not PACKAGE.is_dir():  # in an archive
        paths = [path for path in PACKAGE.parents if path.is_file()][:1]
    elif of == "cuda":
        places = [PACKAGE / name for name in CUDA]
        paths = [path for place in places for path in (place.rglob("*.py") if place.is_dir() else [place])]
    else:
        paths = [PACKAGE / name for name in sources_of(of)]
    for path in sorted(paths):
        text.update(path.read_bytes())
    if any(path.stat().st_ctime > _BEGAN for path in paths):
        # This process may have imported others than are written there now, and must not keep kernels under their name.
        text.update(os.urandom(16))
    return text.hexdigest()


def sources_of(name: str) -> set[str]:
    """Return the files that a kernel in a file is made of: that one, and what it and the compiler's import."""
    found: set[str] = set()
    left = {name, *COMPILES}
    while left:
        found |= left
        left = {file for name in left for file in _imported_by(name) if not file.startswith(BESIDE)} - found
    return found


@functools.cache
def _imported_by(name: str) -> frozenset[str]:
    """Return the files of the package that a file imports, as its text says: importing it may start the compiler."""
    here, found = name.split("/")[:-1], set()
    for dots, module, names in _IMPORT.findall((PACKAGE / name).read_text("utf-8")):
        place = [*here[: len(here) + 1 - len(dots)], *filter(None, module.split("."))]
        words = [[]] if _is_file(*place) else [[word] for word in re.findall(r"\w+", names)]
        found |= {"/".join([*place, *word]) + ".py" for word in words if _is_file(*place, *word)}
    return frozenset(found)


@functools.cache
def _is_file(*place: str) -> bool:
    return os.path.isfile(os.path.join(PACKAGE, *place) + ".py")


def _version(package: str) -> str:
    """Return a package's version, or none."""
    version = getattr(sys.modules.get(package), "__version__", None)
    if package == "numba":  # which is not imported to ask
        version = version or _written_version(package)
    if version is None:
        from importlib import metadata  # here, as it takes 30 ms

        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            version = "none"
    return str(version)


def _written_version(package: str) -> str | None:
    """Return a package's version as it stands in its file; None if it is not found there."""
    spec = find_spec(package)
    path = pathlib.Path(spec.origin if spec and spec.origin else "").parent / "_version.py"
    found = re.search(r'"version": "([^"]+)"', path.read_text("utf-8")) if path.is_file() else None
    return found[1] if found else None


def name_of(kind: str, *parts: object) -> str:
    """Return a file's name for everything that its content depends on; ``kind`` is for people."""
    return f"{kind}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"


def find(name: str) -> tuple[bytes, str] | None:
    """Return the code that is kept under a name, and the symbol to look for in it; None if it is not there, or torn."""
    place = folder()
    try:
        return None if place is None else unpack((place / name).read_bytes())
    except OSError:
        return None


def find_or_make(
    name: str, make: Callable[[], tuple[bytes, str]], what: Callable[[], str] | None = None
) -> tuple[bytes, str]:
    """Return what is kept under a name, or make it and keep it; of several processes that come first, one does.

    That ``what`` was made is said where people may wonder what they waited for.
    """
    kept = find(name)
    if kept is None:
        with _alone(name):
            kept = find(name)
            if kept is None:
                began = time.monotonic()
                kept = make()
                keep(name, *kept)
                if (seconds := time.monotonic() - began) > SILENCE:
                    place = folder() or "this process"
                    notices.compiled(what() if what else name, seconds, place)
    return kept


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """Let no other process make what has this name meanwhile, where the system can."""
    place, end = folder(), time.monotonic() + LONGEST_WAIT
    if place is None:
        yield
        return
    with contextlib.ExitStack() as held:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            place.mkdir(parents=True, exist_ok=True)
            file = held.enter_context((place / "lock").open("ab"))
            while time.monotonic() < end:
                with contextlib.suppress(BlockingIOError):
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(name[-12:], 16))  # a byte for each name
                    break
                with _waiting:
                    _waiting.wait(0.02)
        yield


def keep(name: str, code: bytes, symbol: str) -> None:
    place = folder()
    if place is not None:
        write(place / name, pack(code, symbol))


def write(path: pathlib.Path, content: bytes, is_needed: bool = False) -> None:
    """Write a file so that another process sees all of it or nothing; where none can be, go without if it may be."""
    aside = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content)  # with the rights that the user's files have
        os.replace(aside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        if is_needed or not isinstance(error, OSError):
            raise


def pack(code: bytes, symbol: str) -> bytes:
    """Return code and symbol as they are kept: with their sum, so that a torn file is seen."""
    body = symbol.encode() + b"\n" + code
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def unpack(kept: bytes) -> tuple[bytes, str] | None:
    """Return code and symbol from what was kept; None if it is not whole."""
    checksum, _, body = kept.partition(b"\n")
    if not body or hashlib.sha256(body).hexdigest().encode() != checksum:
        return None
    symbol, _, code = body.partition(b"\n")
    return code, symbol.decode()

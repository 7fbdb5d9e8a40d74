"""Compiled kernels on disk: where they are kept, under which name, and each whole or not at all."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import pathlib
import sys
import tempfile

FORMAT = 2  # of what is kept: raised when files of older versions must not be read


def folder() -> pathlib.Path:
    """Return where compiled kernels are kept."""
    chosen = os.environ.get("FASTRECUR_CACHE_DIR")
    if chosen:
        return pathlib.Path(chosen)
    if sys.platform == "win32":
        return pathlib.Path(os.environ.get("LOCALAPPDATA") or tempfile.gettempdir()) / "fastrecur"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(home) / "fastrecur"


def is_writable() -> bool:
    """Return whether kernels can be kept there, or the folder be made."""
    place = folder().absolute()
    there = next(path for path in (place, *place.parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK)


@functools.cache
def digest(place: pathlib.Path, *packages: str) -> str:
    """Return a name for the sources that the kernels in a folder are made of, and for what compiles them."""
    text = hashlib.sha256(str(FORMAT).encode())
    paths = [*place.glob("*.py"), place.parent / "_pooling.py", place.parent / "_steps.py"]
    if not place.is_dir():  # in an archive
        paths = [path for path in place.parents if path.is_file()][:1]
    for path in sorted(paths):
        text.update(path.read_bytes())
    for package in packages:
        try:
            text.update(f"{package} {importlib.metadata.version(package)};".encode())
        except importlib.metadata.PackageNotFoundError:
            text.update(f"{package} none;".encode())
    return text.hexdigest()[:16]


def name_of(kind: str, *parts: object) -> str:
    """Return a file's name for everything that its content depends on; ``kind`` is for people."""
    return f"{kind}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"


def find(name: str) -> tuple[bytes, str] | None:
    """Return the code that is kept under a name, and the symbol to look for in it; None if it is not there, or torn."""
    try:
        kept = (folder() / name).read_bytes()
    except OSError:
        return None
    return unpack(kept)


def keep(name: str, code: bytes, symbol: str) -> None:
    """Write a file so that another process sees all of it or nothing; where nothing can be written, go without."""
    path = folder() / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent)
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(pack(code, symbol))
        os.replace(aside, path)
    except OSError:
        os.unlink(aside)


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

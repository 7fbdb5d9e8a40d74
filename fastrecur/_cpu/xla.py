"""What XLA calls, by its foreign function interface: frames of pointers as arrays, and what runs a call of that name.

This is version 0.1 of the interface (xla/ffi/api/c_api.h), in which operands and results stand in C's order.
"""

import ast
import ctypes
import functools
import math
import pathlib
import re
from typing import Any

import ml_dtypes
import numpy as np

from .._arguments import messages as say

# All is read as words of 8 bytes, of which a C int takes the lower half. A frame is: size, extension, api, context,
# stage; three words of operands', results' and attributes' own, each a size, an extension, a count and two tables (of
# attributes three); a future. An api has the function that makes errors behind its version.
_API, _STAGE, _OPERANDS, _RESULTS, _TEXTS, _FRAME = 2, 4, 7, 12, 20, 21
_MAKE_ERROR, _EXECUTE, _METADATA = 6, 3, 1
_INVALID_ARGUMENT, _INTERNAL = 3, 13  # XLA's codes of errors
_NAMES = {
    1: "?", 2: "i1", 3: "i2", 4: "i4", 5: "i8", 6: "u1", 7: "u2", 8: "u4", 9: "u8", 10: "f2", 11: "f4", 12: "f8",
    15: "c8", 16: ml_dtypes.bfloat16, 18: "c16",
}  # fmt: skip
_DTYPES = {code: np.dtype(name) for code, name in _NAMES.items()}
runs: dict[str, Any] = {}  # by the name of a call: what takes its operands and results, as arrays, and its options
_make_error = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
_vector = functools.cache(ctypes.c_int64.__mul__)


def _words(place, count):
    return _vector(count).from_address(place)[:]


def _arrays_at(count, _, table):
    """Return arrays of buffers: each a size, an extension, a dtype, an address, a rank and a table of sizes."""
    found = []
    for buffer in _words(table, count):
        _, _, code, place, rank, sizes = _words(buffer, 6)
        shape, dtype = tuple(_words(sizes, rank)) if rank else (), _DTYPES[code & 0xFFFFFFFF]
        nbytes = math.prod(shape) * dtype.itemsize
        memory = (ctypes.c_char * nbytes).from_address(place) if nbytes else bytearray()
        found.append(np.ndarray(shape, dtype, memory))
    return found


@ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
def call(place):
    """Run a call of XLA's; return nothing, or an error of XLA's own."""
    frame = _words(place, _FRAME)
    try:
        if frame[1] and _words(frame[1], 4)[1] & 0xFFFFFFFF == _METADATA:
            # It asks for a version, behind 3 words of metadata: all of JAX fails with one that jaxlib does not take.
            version = (ctypes.c_int * 2).from_address(_words(frame[1], 4)[3] + 24)
            version[:] = [0, 1]
        elif frame[_STAGE] & 0xFFFFFFFF == _EXECUTE:
            run = _call_of(ctypes.string_at(*_words(_words(frame[_TEXTS], 1)[0], 2)))
            run(*(_arrays_at(*frame[k : k + 3]) for k in (_OPERANDS, _RESULTS)))
    except BaseException as error:  # whatever it is, XLA is to hand it on: no exception passes through C
        code = _INVALID_ARGUMENT if isinstance(error, (TypeError, ValueError)) else _INTERNAL
        message = ctypes.create_string_buffer(f"{type(error).__name__}: {error}".encode())
        own = _vector(4)(32, 0, ctypes.addressof(message), code)
        return _make_error(_words(frame[_API], _MAKE_ERROR + 1)[-1])(ctypes.addressof(own))
    return None


def check_version(headers):
    """Raise for an interface that differs in its first number, of which headers in a directory tell."""
    header = pathlib.Path(headers, "xla", "ffi", "api", "c_api.h")
    major = re.search(r"#define XLA_FFI_API_MAJOR (\d+)", header.read_text()) if header.exists() else None
    if major and major[1] != "0":
        raise ImportError(say.jax_version(major[1]))


@functools.lru_cache(1024)
def _call_of(text):
    """Return what runs a call, of the text that says what it is: the name, and options."""
    name, how = ast.literal_eval(text.decode())
    return lambda operands, results: runs[name](operands, results, **how)

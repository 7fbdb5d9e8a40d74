"""What is asked of Python's C interface and of the C library, by name, and whether it is there.

All of Python's names but `FASTCALL` are in its stable interface. Where one of `WORKERS` is missing (as on Windows),
calls run on one thread.
"""

import ctypes
import sys

# A call from Python: its arguments' numbers, errors, the lock that a kernel does without, None, and how Python is given
# a native function as something to call.
TRAMPOLINES = (
    "PyLong_AsLongLong", "PyErr_Occurred", "PyErr_Format", "PyEval_SaveThread", "PyEval_RestoreThread", "Py_IncRef",
    "PyCFunction_NewEx",
)  # fmt: skip
# A thread that runs no Python, and so is a real one where `threading` is replaced (gevent, eventlet) and goes on while
# the interpreter shuts down; the lock by which it sleeps; and how it waits.
WORKERS = (
    "PyThread_start_new_thread", "PyThread_allocate_lock", "PyThread_acquire_lock", "PyThread_release_lock",
    "sched_yield", "usleep", "clock_gettime",
)  # fmt: skip

FASTCALL = 0x80  # METH_FASTCALL: a function is given the address of its arguments, and their number


def addresses(names):
    """Return functions' addresses by name; nothing if one is missing, or this is not CPython."""
    found = {}
    for name in names if sys.implementation.name == "cpython" else ():
        try:
            library = ctypes.pythonapi if name.startswith("Py") else ctypes.CDLL(None)
            found[name] = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
        except (AttributeError, OSError, TypeError):
            return {}
    return found


def keep_for_ever(thing):
    """Return an object that is never freed, not even when the interpreter has shut down."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    return thing

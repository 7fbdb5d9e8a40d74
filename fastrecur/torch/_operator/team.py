"""The threads of torch itself, for kernels on tensors: torch's wait busily after each operator, others' would disturb.

Where torch was built without OpenMP, and in a forked child, which has none of the team's threads, kernels run on the
workers of `fastrecur._cpu.machine.threads`.
"""

import ctypes
import functools
import os
import pathlib

import numpy as np
import torch

from ..._arguments.arrays import address
from ..._cpu.compiler import native
from ..._cpu.machine import threads as _threads, workers

_PROCESS = os.getpid()


@functools.cache
def _openmp():
    """Return the OpenMP library's function that runs a team, or None."""
    library = pathlib.Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        # Symbols are looked up in what the library itself was linked with: this very OpenMP.
        parallel = ctypes.CDLL(str(library), mode=os.RTLD_NOLOAD | os.RTLD_LAZY).GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
    parallel.restype = None
    return parallel


def team():
    """Return the team for a run on tensors, of as many threads as torch's own operators may use."""
    return _threads.Team(torch.get_num_threads(), _run)


def _run(calls, threads=None):
    if not isinstance(calls, np.ndarray):
        calls = list(calls)
        threads = min(len(calls), len(calls) if threads is None else threads)
        if threads > 1 and native.is_native(calls):
            calls = native.table(calls)
    parallel = _openmp() if threads > 1 and isinstance(calls, np.ndarray) and os.getpid() == _PROCESS else None
    if parallel is None:
        return _threads.run(calls, threads)
    enter, row = workers.team_entry(calls)
    parallel(enter, address(row), threads, 0)

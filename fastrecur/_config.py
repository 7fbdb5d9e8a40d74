"""The version, and what a report about a problem needs: versions, threads, caches and devices, and what works."""

from __future__ import annotations

import functools
import os
import platform
import sys

import numpy as np

from ._cpu.compiler import bundle, cache
from ._cpu.machine import memory_pool, workers
from ._cpu.machine.threads import get_num_threads
from .recurrence import forget_mult

__all__ = ["show_config"]

__version__ = "0.1.0"

_PACKAGES = (
    "numpy", "numba", "llvmlite", "numba-cuda", "cuda-core", "cuda-bindings", "ml_dtypes", "cupy", "torch", "pandas",
    "polars", "xarray", "dask", "distributed", "zarr",
)  # fmt: skip
# One library under several names: of the CUDA that it was built for.
_WHEELS = {"cupy": ("cupy-cuda13x", "cupy-cuda12x")}
# Gates and candidates. The third state is what is left of a product when it is not rounded before it is added to.
_SMALL = np.array([1.0, 0.5, 0.25 + 2.0**-29]), np.array([8.0, 4.0, -18.0 + 24 * 2.0**-27])
_FUSED, _ROUNDED = 6 * 2.0**-54, 0.0
_VARIABLES = ("NUMBA_", "FASTRECUR_", "OMP_", "KMP_", "CUDA_VISIBLE_DEVICES", "NUMPY_MADVISE_HUGEPAGE")


def show_config() -> None:
    """Print versions, threads, the places of caches and the devices: what a report about a problem needs.

    ``python -m fastrecur`` prints the same.

    Examples
    --------
    >>> import fastrecur
    >>> fastrecur.show_config()  # doctest: +ELLIPSIS
    fastrecur ...
    """
    for name, value in _lines():
        print(f"{name:<14} {value}")


def _lines():
    yield "fastrecur", f"{__version__} in {os.path.dirname(__file__)}"
    yield "Python", f"{platform.python_version()} ({sys.implementation.name}) on {platform.platform()}"
    for package in _PACKAGES:
        yield package, _version(package)
    yield "processor", _attempt(_processor, "unknown")
    yield "threads", _threads()
    yield "CPU kernels", _attempt(_cpu)
    yield "GPU kernels", _attempt(_gpu, "do not work, which matters only to arrays on a GPU")
    yield "memory", _attempt(memory_pool.describe, "large results cannot be made")
    yield "cache", _attempt(cache.describe, "unknown")
    yield "bundle", _attempt(bundle.describe, "unknown")
    set_here = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)]
    yield "environment", ", ".join(set_here) or "nothing is set that matters here"


def _threads():
    most = f"{get_num_threads()} of {os.cpu_count()} processors"
    missing = "" if workers.can_hire() else "; calls on arrays take one: this system lacks what workers are made with"
    return most + missing


def _version(package):
    from importlib import metadata  # here, as it takes 30 ms

    for name in (package, *_WHEELS.get(package, ())):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return "not installed"


def _attempt(what, otherwise="do not work"):
    try:
        return what()
    except Exception as error:  # whatever it is, it is what the reader wants to know
        return f"{otherwise}: {error}"


def _cpu():
    return _verdict(forget_mult(*_SMALL))


def _verdict(h):
    if h.tolist() == [8.0, 6.0, _FUSED]:
        return "work"
    if h.tolist() == [8.0, 6.0, _ROUNDED]:
        return "work, without fused multiply-add: the processor, or NUMBA_CPU_NAME, is not known to have it"
    return f"give a wrong result: {h.tolist()}"


def _processor():
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    known = [name for name in ("avx2", "fma", "f16c", "avx512f", "neon", "sve") if features.get(name)]
    return f"{binding.get_host_cpu_name()} ({', '.join(known) or 'no vectors known'})"


def _gpu():
    from ._cuda import launch

    devices = launch.driver().describe()
    return "; ".join(f"{name}: {_attempt(functools.partial(_on_device, k))}" for k, name in enumerate(devices))


def _on_device(number):
    from ._cuda import arrays, launch

    launch.compiler()  # which a kernel that is on the disk does not need
    cuda = arrays.numba_cuda()
    with launch.driver().on(number, primary=True), cuda.gpus[number]:
        return _verdict(forget_mult(*map(cuda.to_device, _SMALL)).copy_to_host())

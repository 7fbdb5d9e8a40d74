"""The processor that kernels are compiled for, and what else the environment asks of Numba.

It is read as Numba reads it: a process that compiles nothing does without Numba, whose import takes half a second.
"""

import functools
import os
import sys

from llvmlite import binding

_FILE = ".numba_config.yaml"  # where Numba reads what it is asked for, too
# What machine code depends on, beside the processor; Numba reads it from variables whose names begin with NUMBA_.
_SETTINGS = "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "DEBUGINFO", "ENABLE_AVX"


def _asked(name):
    """Return what Numba is asked for under a name; None or a text that is empty if nothing is."""
    if "numba.core.config" in sys.modules or os.path.isfile(_FILE):
        from numba import config

        return getattr(config, name)
    return os.environ.get(f"NUMBA_{name}")


def _features():
    asked = _asked("CPU_FEATURES")
    return "" if asked is None and str(_asked("CPU_NAME")).lower() == "generic" else asked


def _is_host():
    return _asked("CPU_NAME") in (None, "", "host")


def is_interpreted():
    """Return whether kernels are not to be compiled, but run as Python."""
    try:
        return bool(int(_asked("DISABLE_JIT") or 0))
    except ValueError:  # Numba warns of such a text and compiles
        return False


def is_usual():
    """Return whether kernels are to be compiled for this processor, and as Numba compiles unless it is told to not."""
    others = any(os.environ.get(f"NUMBA_{name}") for name in _SETTINGS) or os.path.isfile(_FILE)
    return _is_host() and _features() is None and not others and not is_interpreted()


def circumstances():
    """Return what machine code depends on beside the kernel's source and the versions of what compiles it."""
    settings = [os.environ.get(f"NUMBA_{name}") for name in _SETTINGS]
    if os.path.isfile(_FILE):
        with open(_FILE, "rb") as file:
            settings.append(file.read())
    return binding.get_process_triple(), processor(), settings


def processor():
    """Return the name of the processor that kernels are compiled for, and its features as LLVM writes them."""
    features = _features()
    if features is None:
        features = ",".join(f"{'+' if on else '-'}{name}" for name, on in sorted(host_features().items()))
    return binding.get_host_cpu_name() if _is_host() else _asked("CPU_NAME"), features


@functools.cache
def host_features():
    """Return which features this processor has, as far as the system lets programs use them; none if nobody knows."""
    try:
        return dict(binding.get_host_cpu_features())
    except RuntimeError:
        return {}


def has(*features):
    """Return whether the processor that kernels are compiled for has some features, as far as that is known."""
    asked = _features()
    if asked is None:
        known = host_features() if _is_host() else {}
    else:
        known = {name[1:]: name.startswith("+") for name in asked.split(",") if name}
    return bool(known) and all(known.get(feature) for feature in features)

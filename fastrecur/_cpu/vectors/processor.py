"""The processor that kernels are compiled for."""

import functools

from llvmlite import binding
from numba import config


def processor():
    """Return the name of the processor that kernels are compiled for, and its features as LLVM writes them."""
    is_host = config.CPU_NAME in (None, "", "host")
    features = config.CPU_FEATURES
    if features is None:
        features = ",".join(f"{'+' if on else '-'}{name}" for name, on in sorted(_host_features().items()))
    return binding.get_host_cpu_name() if is_host else config.CPU_NAME, features


@functools.cache
def _host_features():
    try:
        return binding.get_host_cpu_features()
    except RuntimeError:
        return {}


def has(*features):
    """Return whether the processor that kernels are compiled for has some features, as far as that is known."""
    if config.CPU_NAME not in (None, "", "host") or config.CPU_FEATURES is not None:
        return False
    return bool(_host_features()) and all(_host_features().get(feature) for feature in features)

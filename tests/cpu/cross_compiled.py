"""Print kernels' assembly for the processor of ARM that ``PROCESSOR`` in the environment names; a script.

LLVM generates code for any processor. Numba and fastrecur ask which one they run on, and are told another one before
they are imported. Nothing that is compiled here can run.
"""

import json
import os
import platform
import sys

from llvmlite import binding

# What LLVM finds on Linux on such a machine; a processor's name says the rest.
FEATURES = {"fp-armv8": True, "neon": True, "crc": True, "lse": True}
SHAPES = {"rows": ((300, 200), 0), "transpose8": ((40, 600), 1), "scan": ((300_000,), 0)}


class Found(Exception):
    """A kernel that would be compiled now: its function and signature."""


def pretend(processor):
    """Tell what is imported later that this machine has a processor of ARM."""
    features = type(binding.get_host_cpu_features())(FEATURES)
    binding.initialize_native_target = binding.initialize_all_targets
    binding.initialize_native_asmprinter = binding.initialize_all_asmprinters
    binding.get_process_triple = binding.get_default_triple = lambda: "aarch64-unknown-linux-gnu"
    binding.get_host_cpu_name, binding.get_host_cpu_features = lambda: processor, lambda: features
    platform.machine = lambda: "aarch64"
    os.environ["NUMBA_NUM_THREADS"] = "1"  # workers would be compiled, too, and run


def assemblies():
    """Yield the name and the assembly of kernels of a forget-mult and of its gradient."""
    import numpy as np

    import fastrecur
    from fastrecur._cpu.compiler import build as _build
    from fastrecur._cpu.compiler.numba_internals import compiled

    def found(*arguments):
        raise Found(*arguments)

    _build.machine_code = found
    for name, (shape, axis) in SHAPES.items():
        x = np.zeros(shape, np.float32)
        for function, given in ("forget_mult", (x, x)), ("forget_mult_vjp", (x, x, x, x)):
            try:
                getattr(fastrecur, function)(*given, axis=axis)
            except Found as error:
                yield f"{name} {function}", next(iter(compiled(*error.args).inspect_asm().values()))


if __name__ == "__main__":
    pretend(os.environ["PROCESSOR"])
    json.dump(dict(assemblies()), sys.stdout)

"""Compile kernels for a processor that this machine need not have: a script, in a process of its own.

LLVM generates code for any processor. Numba and this package ask which one they run on, and are told another one before
they are imported. What is compiled here is not run. Each line of the input is a kernel, each line of the output its
machine code, its symbol and its number of arguments; both in JSON.
"""

import base64
import json
import os
import platform
import sys

from llvmlite import binding


def pretend(machine: str, name: str, features: str) -> None:
    """Tell what is imported later that this machine has some processor, of features in LLVM's words."""
    os.environ |= {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    if binding.get_process_triple().startswith(machine):
        return
    binding.initialize_native_target = binding.initialize_all_targets
    binding.initialize_native_asmprinter = binding.initialize_all_asmprinters
    binding.get_process_triple = binding.get_default_triple = lambda: f"{machine}-unknown-linux-gnu"
    binding.get_host_cpu_name, binding.get_host_cpu_features = lambda: name, type(binding.get_host_cpu_features())
    platform.machine = lambda: machine


def main() -> None:
    """Answer each line."""
    pretend(*sys.argv[1:])
    from fastrecur._cpu.compiler import bundle, compile as _compile, trampolines

    output, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed
    for line in sys.stdin:
        name, rule, carry, elements = json.loads(line)
        wanted = bundle.Wanted(name, rule, carry, tuple((key, element) for key, element in elements))
        is_kernel = wanted != bundle.TRAMPOLINES
        code, symbol, count = _compile.kept_or_made(wanted) if is_kernel else (trampolines.compiled(), "", 0)
        print(json.dumps([base64.b64encode(code).decode(), symbol, count]), file=output, flush=True)


if __name__ == "__main__":
    main()
    os._exit(0)  # what is compiled takes seconds to be freed

"""What the assembler makes of a kernel: registers, spills, and the instructions that matter, for any card."""

import functools
import os
import re
import struct
import subprocess
import tempfile
from collections import Counter
from typing import NamedTuple

from cuda import pathfinder
from cuda.core import Linker, ObjectCode

from fastrecur._cuda import launch


class Code(NamedTuple):
    """A kernel as machine code."""

    registers: int
    local: int  # bytes of local memory that a thread has
    shared: int  # bytes of shared memory that a block takes, with what CUDA reserves
    opcodes: Counter
    loads: int  # that are asked for before the first of them is used
    in_flight: int  # and their bytes
    text: str


def assembled(ptx, architecture):
    """Return the machine code of a kernel's PTX for an architecture such as ``sm_90``."""
    return together((ptx,), architecture)[0]


@functools.cache
def together(texts, architecture):
    """Return the machine code of several kernels: to take it apart once takes a fifth of the time."""
    objects = [
        ObjectCode.from_ptx(
            ptx.replace(launch.entry(ptx), f"kernel_{k}").replace("_cudapy_smem", f"shared_{k}").encode()
        )
        for k, ptx in enumerate(texts)
    ]
    linker = Linker(*objects, options=launch.linker_options(architecture, "-v"))
    code, log = bytes(linker.link("cubin").code), linker.get_info_log()
    with tempfile.NamedTemporaryFile(suffix=".cubin", delete=False) as file:
        file.write(code)
    try:
        tool = pathfinder.find_nvidia_binary_utility("nvdisasm")
        text = subprocess.run([tool, "-c", "-ndf", file.name], capture_output=True, text=True, check=True).stdout
    finally:
        os.unlink(file.name)
    logs = _parts(r"Compiling entry function 'kernel_(\d+)'", log)
    listings = _parts(r"\.section\s+\.text\.kernel_(\d+),", text)
    shared = _sections(code)
    return [_code(logs[k], listings[k], shared.get(f".nv.shared.kernel_{k}", 0)) for k in range(len(texts))]


def _parts(start, text):
    _, *parts = re.split(start, text)
    return {int(k): part for k, part in zip(parts[::2], parts[1::2], strict=True)}


def _sections(code):
    """Return the sizes of an ELF file's sections, by name."""
    (start,), (size, count, names) = struct.unpack_from("<Q", code, 0x28), struct.unpack_from("<3H", code, 0x3A)
    heads = [struct.unpack_from("<I20x2Q", code, start + k * size) for k in range(count)]
    text = code[heads[names][1] :]
    return {text[at : text.index(b"\0", at)].decode(): its for at, _, its in heads}


def _code(log, text, shared):
    registers = max(int(n) for n in re.findall(r"Used (\d+) registers", log))
    local = max(int(n) for n in re.findall(r"(\d+) bytes stack frame", log))
    instructions = re.findall(r"/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][\w.]*)([^;]*);", text)
    return Code(registers, local, shared, Counter(op for op, _ in instructions), *_longest_run(instructions), text)


def _size(opcode):
    for part, size in ((".128", 16), (".64", 8), (".U16", 2), (".S16", 2), (".U8", 1), (".S8", 1)):
        if part in opcode:
            return size
    return 4


def _longest_run(instructions):
    """Return how many loads, and bytes, are on their way when the first of them is waited for; the most bytes."""
    longest, pending, run, size = (0, 0), set(), 0, 0
    for opcode, operands in instructions:
        registers = [int(n) for n in re.findall(r"\bR(\d+)", operands)]
        if opcode.startswith("LDG"):
            if set(registers[1:]) & pending:
                pending, run, size = set(), 0, 0
            pending |= set(range(registers[0], registers[0] + max(1, _size(opcode) // 4)))
            run, size = run + 1, size + _size(opcode)
            longest = max(longest, (size, run))
        else:
            # The first operand is written, but where nothing is.
            used = registers if opcode.startswith(("ST", "ISETP", "FSETP", "DSETP")) else registers[1:]
            if set(used) & pending:
                pending, run, size = set(), 0, 0
    return longest[::-1]

"""What the assembler makes of a kernel: registers, spills, and the instructions that matter, for any card."""

import functools
import os
import re
import subprocess
import tempfile
from collections import Counter
from typing import NamedTuple

from cuda import pathfinder
from cuda.core import Linker, LinkerOptions, ObjectCode


class Code(NamedTuple):
    """A kernel as machine code."""

    registers: int
    stack: int
    opcodes: Counter
    run: int  # loads that are asked for before the first of them is used
    text: str


def _tool(name, *arguments):
    path = pathfinder.find_nvidia_binary_utility(name)
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


@functools.cache
def assembled(ptx, architecture):
    """Return the machine code of a kernel's PTX for an architecture such as ``sm_90``."""
    made = Linker(ObjectCode.from_ptx(ptx.encode()), options=LinkerOptions(arch=architecture)).link("cubin")
    with tempfile.NamedTemporaryFile(suffix=".cubin", delete=False) as file:
        file.write(bytes(made.code))
    try:
        usage = re.findall(r"REG:(\d+) STACK:(\d+)", _tool("cuobjdump", "-res-usage", file.name))
        text = _tool("nvdisasm", "-c", file.name)
    finally:
        os.unlink(file.name)
    registers, stack = max((int(r), int(s)) for r, s in usage)
    instructions = re.findall(r"/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][\w.]*)([^;]*);", text)
    return Code(registers, stack, Counter(op for op, _ in instructions), _longest_run(instructions), text)


def _longest_run(instructions):
    longest, pending, run = 0, set(), 0
    for opcode, operands in instructions:
        registers = [int(n) for n in re.findall(r"\bR(\d+)", operands)]
        if opcode.startswith("LDG"):
            width = 4 if ".128" in opcode else 2 if ".64" in opcode else 1
            if set(registers[1:]) & pending:
                pending, run = set(), 0
            pending |= set(range(registers[0], registers[0] + width))
            run += 1
            longest = max(longest, run)
        else:
            # The first operand is written, but where nothing is.
            used = registers if opcode.startswith(("ST", "ISETP", "FSETP", "DSETP")) else registers[1:]
            if set(used) & pending:
                pending, run = set(), 0
    return longest

"""What the compiler makes of kernels for processors of ARM, which have vectors of 128 bits: compiled, not run."""

import json
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.exhaustive  # a processor of another kind for a process of its own

LABEL = re.compile(r"(\.L\w+):")
BRANCH = re.compile(r"(?:b|b\.\w+|cbn?z|tbn?z)\s.*?(\.L\w+)$")
WHOLE = re.compile(r"(?:fml[as]|fn?mul|fadd|fsub)\s+v\d+\.(?:2d|4s)")
HALF_OR_ONE = re.compile(r"(?:f(?:mla|mls|mul|add|sub)\s+(?:v\d+\.2s|[ds]\d)|fn?m(?:add|sub)\s)")
FMA, CALL = re.compile(r"fmla\b"), re.compile(r"bl\s")
SPILL = re.compile(r"(?:ld|st)[a-z]*\s.*\bq\d+,.*\[sp\b")
# Of the instructions of a loop, how many move vectors to and from the stack at most, for want of registers. A vector of
# 16 float64 takes 8 of 32 registers; with AVX2 it takes 4 of 16, and the shares are 0.11 and 0.25 (transpose8), 0.30
# and 0.37 (scan).
SPILLS = {
    "rows forget_mult": 0.0,
    "rows forget_mult_vjp": 0.15,  # where gradients are summed, or of the first steps; none in the usual loops
    "transpose8 forget_mult": 0.10,
    "transpose8 forget_mult_vjp": 0.30,
    "scan forget_mult": 0.22,
    "scan forget_mult_vjp": 0.45,
}


def inner_loops(assembly):
    """Return the instructions of each loop that has none within, from its label to the branch back."""
    lines, labels, ends = [line.strip() for line in assembly.splitlines()], {}, {}
    for k, line in enumerate(lines):
        if label := LABEL.match(line):
            labels[label[1]] = k
        elif (branch := BRANCH.match(line)) and branch[1] in labels:
            ends[labels[branch[1]]] = k
    inner = [(s, e) for s, e in ends.items() if not any(s < other and ends[other] <= e for other in ends)]
    return [[line for line in lines[s : e + 1] if line and not line.startswith((".", "/"))] for s, e in inner]


def count(pattern, instructions):
    return sum(bool(pattern.match(line)) for line in instructions)


@pytest.mark.parametrize("processor", ["neoverse-n1", "neoverse-v1", "apple-m1"])
def test_loops_compute_by_whole_registers(run_python, processor):
    script = (Path(__file__).parent / "cross_compiled.py").read_text()
    kernels = json.loads(run_python(script, PROCESSOR=processor, FASTRECUR_CACHE_DIR="kernels"))
    assert list(kernels) == list(SPILLS)
    for name, assembly in kernels.items():
        called = set(re.findall(r"^\s+bl\s+(\S+)", assembly, re.MULTILINE))
        assert {function for function in called if "fastrecur" not in function} <= {"memcpy", "memset"}, name
        loops = [loop for loop in inner_loops(assembly) if count(WHOLE, loop) >= 8]
        assert loops, name
        for loop in loops:
            assert count(HALF_OR_ONE, loop) == count(CALL, loop) == 0, name
        spilled = [round(count(SPILL, loop) / len(loop), 2) for loop in loops]
        assert max(spilled) <= SPILLS[name], (name, spilled)
        assert not name.startswith("rows") or min(spilled) == 0, (name, spilled)
        assert name.endswith("vjp") or any(count(FMA, loop) for loop in loops), name

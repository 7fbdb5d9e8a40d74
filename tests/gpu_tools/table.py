"""What the assembler makes of every kernel, against what a card needs to copy at full rate. Computed, not measured.

    python tests/gpu_tools/table.py [--architectures sm_80 sm_90 ...] [--dtypes ...] [--json FILE]

A card copies at nine tenths of its rate or more once enough bytes are on their way in every multiprocessor. For each
kernel, dtype and architecture this prints the registers of a thread, its local memory, the loads that it asks for
before it uses the first and their bytes, how many threads a multiprocessor holds, how many bytes these have on their
way, and, for the cards of which it is known how many they need, from how many threads in all that is reached.

A second table has the PTX instructions that the emulator executes for an element, without ``mov``: on whole tiles, one
after another, so that nothing is waited for. Machine code has more for a division, and fewer for addresses. A third has
those of selective scans and of filters of float32, of a gradient all its kernels', how many compute in float64, and the
bytes that are loaded and stored.
"""

import argparse
import functools
import itertools
import json
import pathlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]
sys.path.append(str(HERE.parent / "benchmarks"))

import compare  # noqa: E402
import devices  # noqa: E402
import numpy as np  # noqa: E402
import problems  # noqa: E402
import ptx_emulator  # noqa: E402
import report  # noqa: E402
from machine_code import assembled  # noqa: E402
from tqdm import tqdm  # noqa: E402


class Card(NamedTuple):
    """An architecture, and the card that it is known of."""

    threads: int  # that a multiprocessor holds at most, blocks, and KiB of shared memory
    blocks: int
    shared: int
    name: str = ""
    processors: int = 0
    needs: int = 0  # bytes on their way in a multiprocessor


CARDS = {
    "sm_75": Card(1024, 16, 64),
    "sm_80": Card(2048, 32, 164, "A100", 108, 16 << 10),
    "sm_86": Card(1536, 16, 100),
    "sm_89": Card(1536, 24, 100),
    "sm_90": Card(2048, 32, 228, "H100", 132, 32 << 10),
    "sm_100": Card(2048, 32, 228),
    "sm_120": Card(1536, 24, 100),
}
REGISTERS = 1 << 16  # of a multiprocessor
PACKAGES = "numba", "numba-cuda", "cuda-core", "nvidia-nvjitlink", "nvidia-cuda-nvdisasm"
# As docs/explanation/gpu.rst has them.
COMPUTE = "selective", "selective_vjp", "cascade", "follow", "holt", "holt_vjp", "quotient"  # or have little to load
NAMES = {"lanes": "parallel series", "series": "contiguous time", "selective": "selective scan"}


class Row(NamedTuple):
    """A kernel on an architecture."""

    kernel: str
    recurrence: str
    dtype: str
    architecture: str
    registers: int
    local: int
    loads: int
    bytes: int
    threads: int
    kilobytes: float
    needed: int | None
    enough: bool | None


def row(ptx, kernel, recurrence, dtype, architecture):
    """Assemble a kernel; return its line."""
    return row_of(assembled(ptx, architecture), kernel, recurrence, dtype, architecture)


def row_of(code, kernel, recurrence, dtype, architecture):
    """Return the line of a kernel that is assembled."""
    card = CARDS[architecture]
    # Registers are given to warps, 256 at a time.
    warp = -(-32 * code.registers // 256) * 256
    blocks = min(REGISTERS // (warp * (kernel.threads // 32)), card.threads // kernel.threads, card.blocks)
    if code.shared:
        blocks = min(blocks, (card.shared << 10) // code.shared)
    threads = blocks * kernel.threads
    copies = card.needs and code.in_flight and kernel.name not in COMPUTE
    needed = -(-card.needs * card.processors // code.in_flight) if copies else None
    options = dict(kernel.key[3])
    what = ", contiguous time" * (options.get("across") == 1) + ", fix-up" * bool(options.get("is_fix_up"))
    what += ", states kept" * bool(options.get("keeps"))
    name, _, gradient = problems.label(kernel).partition("_")
    return Row(
        f"{NAMES.get(name, name)} {gradient}".strip() + what, recurrence, dtype, architecture,
        code.registers, code.local, code.loads, code.in_flight, threads, threads * code.in_flight / 1024, needed,
        None if needed is None else needed <= threads * card.processors,
    )  # fmt: skip


def capability(architecture):
    """Return an architecture's compute capability."""
    return int(architecture[3:-1]), int(architecture[-1])


def rows(architectures, dtypes, recurrences):
    """Return all lines."""
    kernels = [each for each in problems.all_kernels() if each[1] in recurrences and each[2] in dtypes]
    kernels = [each for each in kernels if each[1] != "filter" or each[2] == "float32"]  # others compute the same
    work = [(*each, architecture) for each in kernels for architecture in architectures]
    with ThreadPoolExecutor() as pool:
        # Only assembling is for several threads at once.
        futures = [
            pool.submit(row, devices.ptx(kernel, capability(architecture)), kernel, *rest, architecture)
            for kernel, *rest, architecture in tqdm(work, desc="kernels", file=sys.stderr)
        ]
        return [future.result() for future in futures]


COUNTED_OF = {"forget": "forget_mult", "linear": "linear_recurrence"}
# What is scanned so: shapes, axes, and whether time is cut.
COUNTED = {
    "parallel series": ((256, 128), 0, False),
    "contiguous time": ((8, 4096), 1, False),
    "scan": ((512, 64), 0, True),
    "scan, contiguous time": ((1, 16376), 1, True),
}


def emulated():
    """Let CuPy's stand-in have a driver that counts; return it."""
    from fastrecur._cuda import launch

    driver = devices.Driver(seed=0, race=False)
    launch.driver, sys.modules["cupy"] = lambda: driver, devices.Cupy(driver)
    return sys.modules["cupy"]


def executed(dtypes, recurrences):
    """Yield names of kernels, recurrences, dtypes, and instructions an element forward and backward."""
    import fastrecur
    from fastrecur._cuda import call, plan

    cupy, choose, rng = emulated(), plan.choose, np.random.default_rng(0)
    devices.run_on(cupy, setattr)
    for recurrence, dtype, (kernel, (shape, axis, is_cut)) in itertools.product(recurrences, dtypes, COUNTED.items()):
        uncut = lambda *arguments, **options: choose(*arguments, **options)._replace(tiles=1)  # noqa: E731
        plan.choose = devices.looking_back(choose) if is_cut else uncut
        plan.forward.cache_clear(), plan.vjp.cache_clear(), call._shortcuts.clear()
        name = COUNTED_OF[recurrence]
        gate, value = (rng.random(shape).astype(problems.DTYPES[dtype]) for _ in range(2))
        counts = []
        for function, operands in ((name, (gate, value)), (f"{name}_vjp", (value, gate, value, value))):
            cupy.driver.forget()
            getattr(fastrecur, function)(*operands, axis=axis)
            counts.append(sum(cupy.driver.executed.values()) / gate.size)
        yield kernel, recurrence, dtype, *counts


def calls(place):
    """Yield names of calls, how many threads a series is to have, its elements, and functions without arguments."""
    import fastrecur
    from fastrecur.filters import sosfilt, sosfilt_vjp

    rng = np.random.default_rng(0)
    for threads in (4, 16):
        own = list(compare.selective_operands(rng, batch=1, steps=64, channels=512, states=16))
        size, own = own[0].size, list(map(place, own))
        scan = functools.partial(fastrecur.selective_scan, *own, delta_softplus=True)
        back = functools.partial(fastrecur.selective_scan_vjp, own[0], *own, delta_softplus=True)
        for what, call in (("", scan), (" gradient", back)):
            yield f"selective scan, {threads} threads{what}", threads, size, call
    for what, shape, axis in (("parallel series", (512, 64), 0), ("contiguous time", (64, 512), 1)):
        x, y = (place(rng.random(shape, np.float32)) for _ in range(2))
        sos = place(np.ones((2, 6)))
        yield f"two sections, {what}", 1, 1 << 15, functools.partial(sosfilt, sos, x, axis)
        yield f"two sections, {what} gradient", 1, 1 << 15, functools.partial(sosfilt_vjp, x, sos, x, y, axis=axis)


def is_double(name):
    """Return whether an instruction takes float64's units."""
    op, *kinds = name.split(".")
    return "f64" in kinds and op not in ("mov", "ld", "st", "selp", "neg", "abs")


def counted(cupy):
    """Return, by the names of calls, instructions, those in float64, and bytes, of an element."""
    from fastrecur._cuda import plan, selective

    found, before = {}, (ptx_emulator.is_counted, plan.THREADS_WANTED)

    def forget():
        devices._programs.clear(), selective.plan.cache_clear(), selective.plan_vjp.cache_clear()

    def count(name, threads, size, call):
        plan.THREADS_WANTED = 512 * threads  # by which each of 512 channels gets as many
        forget()
        cupy.driver.counts, cupy.driver.executed = {}, {}
        call()
        found.setdefault(name, []).append(sum(cupy.driver.executed.values()) / size)
        return sum(cupy.driver.counts.values()) / size

    try:
        for ptx_emulator.is_counted in (is_double, before[0]):
            moved = {each[0]: count(*each) for each in calls(cupy.place)}
    finally:
        ptx_emulator.is_counted, plan.THREADS_WANTED = before
        forget()
    return {name: (instructions, doubles, moved[name]) for name, (doubles, instructions) in found.items()}


HEADER = (
    f"{'kernel':<29}{'recurrence':<12}{'dtype':<10}{'GPU':<8}{'registers':>9}{'local':>7}{'loads':>7}{'bytes':>7}"
    f"{'threads':>9}{'KB':>7}  90 % of the copy rate from"
)


def line(row):
    """Return a line as text."""
    card = CARDS[row.architecture]
    last = "" if row.needed is None else f"{row.needed} threads, {card.name}" + ("" if row.enough else ": NOT HELD")
    return (
        f"{row.kernel:<29}{row.recurrence:<12}{row.dtype:<10}{row.architecture:<8}{row.registers:>9}{row.local:>7}"
        f"{row.loads:>7}{row.bytes:>7}{row.threads:>9}{row.kilobytes:>7.0f}  {last}".rstrip()
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", nargs="+", default=list(CARDS), choices=CARDS)
    parser.add_argument("--dtypes", nargs="+", default=list(problems.DTYPES), choices=problems.DTYPES)
    parser.add_argument("--recurrences", nargs="+", default=[*COUNTED_OF, "qrnn", "filter", "mamba"])
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    began = time.perf_counter()
    found = rows(arguments.architectures, arguments.dtypes, arguments.recurrences)
    facts = report.about(__file__, sys.argv[1:], 1, time.perf_counter() - began, PACKAGES, "computed, not measured")
    print(report.title(facts), HEADER, sep="\n\n")
    for each in found:
        print(line(each))
    print(f"\n{'instructions an element':<29}{'recurrence':<12}{'dtype':<10}{'forward':>9}{'gradient':>10}")
    recurrences = [name for name in arguments.recurrences if name in COUNTED_OF]
    for kernel, recurrence, dtype, forward, gradient in executed(arguments.dtypes, recurrences):
        print(f"{kernel:<29}{recurrence:<12}{dtype:<10}{forward:>9.0f}{gradient:>10.0f}")
    print(f"\n{'an element of':<51}{'instructions':>12}{'float64':>10}{'bytes':>7}")
    for name, (instructions, doubles, moved) in counted(emulated()).items():
        print(f"{name:<51}{instructions:>12.0f}{doubles:>10.0f}{moved:>7.0f}")
    if arguments.json:
        arguments.json.write_text(json.dumps([each._asdict() for each in found], indent=1))


if __name__ == "__main__":
    main()

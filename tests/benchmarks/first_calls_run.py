"""What the first call of a kind costs, and the import: ``python first_calls_run.py``.

Every call is made by a process of its own that has imported fastrecur: once with nowhere to find a compiled kernel,
once where the first process left it. In two more processes a call of another kind comes before, which starts Numba and
the workers. Modules are kept as bytecode, as in an installed package.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report
from tqdm import tqdm

import fastrecur

MUST = {"empty": 3.0, "kept": 0.05}  # seconds
MOST = 1.2  # times what NumPy and numba take to import
IMPORTS = 15  # processes that import each
STATES = "forget_mult(f, x, axis={axis}{borders})"
GRADIENTS = "forget_mult_vjp(x, f, x, x, axis={axis}{borders})"
OF_COMPLEX = "linear_recurrence_vjp(x, f, x, x, axis={axis})"
LAYOUTS = {
    "one series": ((1_000_000,), 0),
    "time first": ((1000, 1000), 0),
    "time last": ((1000, 1000), 1),
    "time in the middle": ((64, 100, 100), 1),
    "few series": ((100_000, 4), 0),
    "16 elements": ((16,), 0),
}
BORDERS = {"offsets": ", offsets=offsets", "resets": ", resets=resets"}  # of segments of 100 steps
# A call beforehand of a kind that no row below is.
ANOTHER = "fastrecur.linear_recurrence(np.ones((40, 3), np.complex64), np.ones((40, 3), np.complex64))"
PROCESS = """
import time
import numpy as np
import fastrecur
shape, dtype, gate = {shape}, np.dtype({dtype!r}), {gate}
resets = np.arange(shape[{axis}]) % 100 == 0
offsets, resets = np.append(np.flatnonzero(resets), shape[{axis}]), resets.reshape((1,) * {axis} + (-1,))
x = np.full(shape, 0.5, dtype)
f = x if gate is None else gate
if {before}:
    {another}
began = time.perf_counter()
fastrecur.{call}
print(time.perf_counter() - began)
"""


IMPORTING = "import time; began = time.perf_counter(); import {names}; print(time.perf_counter() - began)"


def cases():
    """Yield a label, then shape, axis, dtype, gate (None: an array), the call and how series begin anew in it."""
    for name, (shape, axis) in LAYOUTS.items():
        for dtype in ("float32", "float64", "float16"):
            for gate in (None, 0.5):
                for call in (STATES, GRADIENTS):
                    yield f"{name}, {'vjp' if call == GRADIENTS else 'forward'}", shape, axis, dtype, gate, call, ""
        yield f"{name}, vjp", shape, axis, "complex128", None, OF_COMPLEX, ""
        for borders, argument in BORDERS.items() if name in ("one series", "time first", "time last") else ():
            for call in (STATES, GRADIENTS):
                label = f"{name}, {borders}, {'vjp' if call == GRADIENTS else 'forward'}"
                yield label, shape, axis, "float32", None, call, argument


def seconds_of(shape, axis, dtype, gate, call, borders, place, before):
    """Return how long a call takes in a new process that finds kernels, and leaves them, at a place."""
    call = call.format(axis=axis, borders=borders)
    text = PROCESS.format(shape=shape, axis=axis, dtype=dtype, gate=gate, before=before, another=ANOTHER, call=call)
    return printed_by(text, place)


def printed_by(text, place):
    """Return the number that a new process prints, which finds kernels, and leaves them, at a place."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment |= {
        "FASTRECUR_CACHE_DIR": str(place / "kernels"),
        "PYTHONPATH": str(Path(fastrecur.__file__).parents[1]),
        "PYTHONPYCACHEPREFIX": str(place.parent / "bytecode"),
    }
    ran = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, check=True)
    return float(ran.stdout)


def import_seconds(place):
    """Return the median time that NumPy and numba take to import, then fastrecur's with them, by turns."""
    texts = [IMPORTING.format(names=names) for names in ("numpy, numba", "fastrecur")]
    taken = [[printed_by(text, place) for text in texts] for _ in range(IMPORTS)]
    return [statistics.median(column) for column in zip(*taken, strict=True)]


def measure(case, times, root):
    """Return the medians: kernels nowhere; the same, another before; kernels kept; the same, another before."""
    found = {}
    for before in (False, True):
        empty, kept = [], []
        for _ in range(times):
            with tempfile.TemporaryDirectory(dir=root) as place:
                empty.append(seconds_of(*case, Path(place), before))
                kept.append(seconds_of(*case, Path(place), before))
        found["empty", before], found["kept", before] = statistics.median(empty), statistics.median(kept)
    return found


def main(arguments):
    """Print a table: seconds with kernels nowhere, milliseconds with kernels kept; first of all calls, and second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=1, help="processes for each figure; their median counts")
    parser.add_argument("--only", default="", help="rows whose label has this text")
    options, began = parser.parse_args(arguments), time.perf_counter()
    lines, held = [], 0
    chosen = [case for case in cases() if options.only in case[0]]
    with tempfile.TemporaryDirectory() as root:
        seconds_of((4,), 0, "float32", None, STATES, "", Path(root) / "warm", False)  # leaves the bytecode
        alone, ours = import_seconds(Path(root) / "warm")
        for label, *case in tqdm(chosen, unit="row", file=sys.stderr):
            found = measure(case, options.times, root)
            held += all(found[kind, False] <= limit for kind, limit in MUST.items())
            dtype, gate = case[2], "array" if case[3] is None else "number"
            figures = f"{found['empty', False]:8.2f} {found['empty', True]:8.2f}"
            figures += f" {1e3 * found['kept', False]:8.1f} {1e3 * found['kept', True]:8.1f}"
            lines.append(f"{label:38} {gate:8} {dtype:12}" + figures)
    facts = report.about(
        __file__, arguments, fastrecur.get_num_threads(), time.perf_counter() - began, ("numpy", "numba")
    )
    print(report.title(facts), end="\n\n")
    print(f"{'':60}{'compiled, s':^17} {'kept, ms':^17}")
    print(f"{'':38} {'gate':8} {'dtype':12}" + " ".join(f"{head:>8}" for head in ("first", "second") * 2))
    print("\n".join(lines))
    print(
        f"\nImporting fastrecur takes {ours:.3f} s, NumPy and numba alone {alone:.3f}: {ours / alone:.2f} times as "
        f"long, of {MOST} at the most (medians of {IMPORTS} processes, alternately)."
    )
    print(
        f"{held} of {len(chosen)} first calls within {MUST['empty']} s compiled and {1e3 * MUST['kept']:.0f} ms kept."
    )


if __name__ == "__main__":
    main(sys.argv[1:])

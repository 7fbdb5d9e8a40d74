"""Print a hash of the machine code of each kernel that a list of calls needs.

A change that only moves or renames must leave every line as it was: run it in two checkouts, on one machine with one
numba, and compare. Names of symbols take no part; instructions and constants do.

    python tests/machine_code.py > before.txt
"""

import hashlib
import os
import tempfile

os.environ["FASTRECUR_CACHE_DIR"] = tempfile.mkdtemp()  # or nothing would be compiled

import numpy as np  # noqa: E402
from llvmlite import binding  # noqa: E402

import fastrecur  # noqa: E402
from fastrecur import smoothing  # noqa: E402
from fastrecur._cpu import _compile  # noqa: E402

SECTIONS = b".text", b".ltext", b".rodata", b".lrodata"
# Time first and last, gates in another order, ragged, few lanes, one series.
SHAPES = {
    "rows": ((300, 200), 0),
    "narrow": ((3000, 5), 0),
    "one row": ((40, 6, 33), 0),
    "time last": ((40, 600), 1),
    "middle": ((7, 300, 40), 1),
    "series": ((300_000,), 0),
    "few long": ((3, 100_000), 1),
}
DTYPES = "f2", "f4", "f8", "c8"


def codes():
    """Yield ``(call, hash)`` for each kernel in the order in which calls ask for them."""
    make, found = _compile._machine_code, []

    def noted(*arguments):
        code, symbol = make(*arguments)
        sections = [(s.name() or b"", s.data()) for s in binding.ObjectFileRef.from_data(code).sections()]
        kept = [data for name, data in sections if name.startswith(SECTIONS)]
        found.append(hashlib.sha256(b"".join(kept)).hexdigest()[:16])
        return code, symbol

    _compile._machine_code = noted
    for name, call in calls():
        del found[:]
        call()
        for k, digest in enumerate(found):
            yield f"{name} {k}", digest


def calls():
    """Yield ``(name, function)``."""
    rng = np.random.default_rng(0)
    for dtype in DTYPES:
        for name, (shape, axis) in SHAPES.items():
            f, x = rng.random(shape).astype(dtype), rng.standard_normal(shape).astype(dtype)
            lengths = rng.integers(0, shape[axis], [n for k, n in enumerate(shape) if k != axis][:1])
            ways = {
                "": (f, x, None),
                "constant gate": (0.5, x, None),
                "other order": (f.copy("F"), x, None),
                "lengths": (f, x, lengths if len(shape) > 1 else shape[0] - 1),
            }
            for way, (gate, value, ends) in ways.items() if dtype == "f4" else [("", ways[""])]:

                def call(gate=gate, value=value, axis=axis, ends=ends):
                    h = fastrecur.linear_recurrence(gate, value, axis=axis, lengths=ends)
                    fastrecur.linear_recurrence_vjp(h, gate, value, h, axis=axis, lengths=ends)
                    if value.dtype.kind != "c":
                        h = fastrecur.forget_mult(gate, value, axis=axis, lengths=ends)
                        fastrecur.forget_mult_vjp(h, gate, value, h, axis=axis, lengths=ends)

                yield f"{dtype} {name} {way}", call
    for shape, axis in (((3000, 40), 0), ((40, 3000), 1), ((3000,), 0)):
        x = rng.standard_normal(shape)
        yield (
            f"ewm {shape}",
            lambda x=x, axis=axis: (
                smoothing.ewm_mean(x, span=5, axis=axis),
                smoothing.ewm_var(x, span=5, axis=axis),
                smoothing.ewm_mean(x, span=5, axis=axis, ignore_na=True),
            ),
        )


if __name__ == "__main__":
    for name, digest in codes():
        print(name, digest, sep=": ", flush=True)

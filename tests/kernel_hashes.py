"""Print a hash of the machine code of each kernel that a list of calls needs.

A change that only moves or renames must leave every line as it was: run it in two checkouts, on one machine with one
numba, and compare. Names of symbols take no part; instructions and constants do.

    python tests/kernel_hashes.py > before.txt
    python tests/kernel_hashes.py --against before.txt  # exits with 1 if lines differ
"""

import argparse
import difflib
import hashlib
import itertools
import os
import pathlib
import sys
import tempfile

os.environ["FASTRECUR_CACHE_DIR"] = tempfile.mkdtemp()  # or nothing would be compiled

import numpy as np  # noqa: E402
from llvmlite import binding  # noqa: E402

import fastrecur  # noqa: E402
from fastrecur import filters, smoothing  # noqa: E402
from fastrecur._cpu.compiler import build as _build  # noqa: E402

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


def codes(calls):
    """Yield ``(call, hash)`` for each kernel in the order in which calls ask for them."""
    make, found = _build.machine_code, []

    def noted(*arguments):
        code, symbol = make(*arguments)
        sections = [(s.name() or b"", s.data()) for s in binding.ObjectFileRef.from_data(code).sections()]
        kept = [data for name, data in sections if name.startswith(SECTIONS)]
        found.append(hashlib.sha256(b"".join(kept)).hexdigest()[:16])
        return code, symbol

    _build.machine_code = noted
    for name, call in calls:
        del found[:]
        call()
        for k, digest in enumerate(found):
            yield f"{name} {k}", digest


def recurrences(rng):
    """Yield ``(name, function)``, as the following do."""
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


def segments(rng):
    for shape, axis in ((300, 200), 0), ((40, 600), 1), ((3000, 5), 0), ((3000,), 0):
        f, x, flags = rng.random(shape), rng.standard_normal(shape), rng.random(shape) < 0.1

        def call(f=f, x=x, axis=axis, flags=flags):
            h = fastrecur.forget_mult(f, x, axis=axis, resets=flags)
            fastrecur.forget_mult_vjp(h, f, x, h, axis=axis, resets=flags)

        yield f"resets {shape} {axis}", call


def statistics(rng):
    for shape, axis in ((3000, 40), 0), ((40, 3000), 1), ((3000,), 0):
        x = rng.standard_normal(shape)

        def call(x=x, axis=axis):
            smoothing.ewm_mean(x, span=5, axis=axis)
            smoothing.ewm_var(x, span=5, axis=axis)
            smoothing.ewm_mean(x, span=5, axis=axis, ignore_na=True)
            smoothing.ewm_mean(x, span=5, axis=axis, adjust=False)
            smoothing.ewm_cov(x, x, span=5, axis=axis)

        yield f"ewm {shape}", call
    times = np.arange(300).astype("M8[s]")
    yield "ewm times", lambda: smoothing.ewm_mean(rng.random((300, 4)), halflife="1 s", times=times)


def returns(rng):
    r, v, done = rng.random((50, 8)), rng.random((51, 8)), rng.random((50, 8)) < 0.1
    yield "returns", lambda: fastrecur.returns.discounted_returns(r, 0.9, done)
    yield "advantages", lambda: fastrecur.returns.gae(r, v, 0.9, 0.9, done)
    yield "advantages float32", lambda: fastrecur.returns.gae(*(k.astype("f4") for k in (r, v)), 0.9, 0.9, done, done)


def of_filters(rng):
    for (shape, axis), kind, order in itertools.product(
        (((40, 20), 0), ((20, 40), 1), ((400,), 0)), ("", "varying"), (2, 3)
    ):
        x, own = rng.standard_normal(shape), shape if kind else ()
        a, sos = 0.1 * rng.standard_normal((*own, order)), np.ones((*own, 1, 6)) * [1, 0.5, 0.2, 1, -0.5, 0.1]

        def call(x=x, axis=axis, a=a, sos=sos):
            filters.allpole_vjp(x, a, x, filters.allpole(a, x, axis), axis=axis)
            if a.shape[-1] == 2:
                filters.sosfilt_vjp(x, sos, x, filters.sosfilt(sos, x, axis), axis=axis)
            else:
                filters.lfilter(a, [1.0, 0.2], x, axis)

        yield f"filters {shape} {kind} {order}", call


def selective(rng):
    u, B = rng.random((1, 9, 20)).astype("f4"), rng.random((1, 9, 4)).astype("f4")

    def call():
        y = fastrecur.selective_scan(u, u, -np.ones((20, 4), "f4"), B, B, layout="bld")
        fastrecur.selective_scan_vjp(y, u, u, -np.ones((20, 4), "f4"), B, B, layout="bld")

    yield "selective", call


def of_tensors(rng):
    """Poolings of a QRNN's product; what stretches of time on several ranks do to a state."""
    import torch

    from fastrecur.torch._operator import tensors
    from fastrecur.torch._rnn import pooling

    for dtype, gated in itertools.product((torch.float32, torch.float64), (True, False)):

        def pool(dtype=dtype, gated=gated):
            product = torch.rand(12, 3, (2 + gated) * 20, dtype=dtype, requires_grad=True)
            h, last = pooling.pool(product, output_gate=gated)
            (h.sum() + last.sum()).backward()

        yield f"pool {dtype} {gated}", pool
    for shape, axis in ((40, 33), 0), ((40, 33), 1):

        def summarise(shape=shape, axis=axis):
            a, b = (torch.rand(shape) for _ in range(2))
            for family, back in itertools.product(tensors.NAMES, (False, True)):
                tensors.summary(family, a, b, None, None, axis, False, torch.float32, back)

        yield f"summary {shape} {axis}", summarise


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=pathlib.Path, metavar="FILE", help="what this printed before")
    before = parser.parse_args().against
    rng = np.random.default_rng(0)
    calls = itertools.chain.from_iterable(
        f(rng) for f in (recurrences, segments, statistics, returns, of_filters, selective, of_tensors)
    )
    lines = []
    for name, digest in codes(calls):
        lines.append(f"{name}: {digest}")
        if before is None:
            print(lines[-1], flush=True)
    if before is not None:
        differing = list(difflib.unified_diff(before.read_text().splitlines(), lines, "before", "now", "", "", 0, ""))
        print(*differing, sep="\n")
        sys.exit(bool(differing))


if __name__ == "__main__":
    main()

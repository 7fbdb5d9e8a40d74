"""What is run on a card, in groups: each is a process of its own, so that one that crashes or hangs costs itself alone.

A group is a function of what it runs with (`Bench`). Predictions are computed, for an H100 and float32.
"""

import itertools
import sys
import time
from typing import NamedTuple

import correctness
import numpy as np

import fastrecur
from fastrecur._cuda import call as _call, launch, plan

BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
CACHE = 256 << 20  # bytes of operands that no card's cache holds at once
GROUPS: dict = {}


class Group(NamedTuple):
    """A group: what it is run by, for how long at most, and with which libraries."""

    function: object
    seconds: int
    libraries: tuple


def group(name, seconds=60, libraries=("torch", "cupy", "numba")):
    """Add a function to the groups, in the order in which they are run."""

    def add(function):
        GROUPS[name] = Group(function, seconds, libraries)
        return function

    return add


class Bench:
    """What a group runs with: an array library, a report, and whether shapes are to be small."""

    def __init__(self, library, report, tiny=False):
        self.lib, self.report, self.tiny = library, report, tiny

    def checks(self, results):
        """Write what was right and what was wrong of pairs of a name and what was off; return whether nothing was."""
        right = wrong = 0
        for what, off in results:
            if off is None:
                right += 1
            else:
                wrong += 1
                self.report.write("wrong", what=f"{self.lib.name} {what}", note=off[:2000])
        self.report.write("right", what=self.lib.name, count=right)
        return not wrong

    def shape(self, shape):
        """Return a shape, or a small one of as many axes in a rehearsal without a card."""
        return tuple(min(n, 40 if k == 0 else 33) for k, n in enumerate(shape)) if self.tiny else shape

    def timed(self, what, predicted, shape, axis=0, dtype="float32", gradient=False, caches=("warm",)):
        """Time a call, its result's allocation included; first compare some series with the CPU's result.

        A wrong result is reported, and not timed. ``caches``: ``"warm"`` for the same operands at every call,
        ``"cold"`` for others each time, more than a card's cache holds.
        """
        shape, lib = self.shape(shape), self.lib
        size = BYTES[dtype] * int(np.prod(shape))
        f, x = lib.random(shape, dtype), lib.random(shape, dtype)
        h = fastrecur.forget_mult(f, x, axis=axis)
        off = self.compare(f, x, h, axis, dtype, gradient)
        if off is not None:
            self.report.write("wrong", what=what, note=off)
            return
        for cache in caches:
            sets = [(f, x, h)]
            if cache == "cold":
                count = 2 if self.tiny else max(1, min(64, -(-CACHE // (3 * size))))
                sets += [
                    (lib.random(shape, dtype), lib.random(shape, dtype), lib.random(shape, dtype)) for _ in range(count)
                ]
            calls = [self.call(*each, axis, gradient) for each in sets]
            batch = 2 if self.tiny else max(len(calls), 64 if size < 1 << 24 else 8)
            calls = list(itertools.islice(itertools.cycle(calls), batch))
            for call in calls[:3]:
                call()
            name = what if len(caches) == 1 else f"{what}, {cache}"
            self.report.row(
                name, predicted, lambda calls=calls: lib.microseconds(calls), bytes_moved=(6 if gradient else 3) * size
            )

    def call(self, f, x, h, axis, gradient):
        """Return a call without arguments."""
        if gradient:
            return lambda: fastrecur.forget_mult_vjp(x, f, x, h, axis=axis)
        return lambda: fastrecur.forget_mult(f, x, axis=axis)

    def compare(self, f, x, h, axis, dtype, gradient):
        """Return what is off in some series, against the CPU; None if nothing."""
        index = [slice(None)] * len(f.shape)
        if any(n > 1 for k, n in enumerate(f.shape) if k != axis):
            other = max((k for k in range(len(f.shape)) if k != axis), key=lambda k: f.shape[k])
            index[other] = slice(0, 17) if self.lib.name == "numba" else slice(0, None, max(1, f.shape[other] // 16))
        pairs = [h] if not gradient else list(fastrecur.forget_mult_vjp(x, f, x, h, axis=axis)[:2])
        f, x, h, *found = (
            self.lib.get(a)[tuple(index)] if self.lib.name == "numba" else self.lib.get(a[tuple(index)])
            for a in (f, x, h, *pairs)
        )
        f, x, h = (a.astype(np.float64) for a in (f, x, h))
        if gradient:
            wanted = fastrecur.forget_mult_vjp(x, f, x, h, axis=axis)[:2]
        else:
            wanted = [fastrecur.forget_mult(f, x, axis=axis)]
        bound = {"float64": 1e-11, "float32": 1e-4, "float16": 1e-2, "bfloat16": 6e-2}[dtype]
        for got, right in zip(found, wanted, strict=True):
            got = got.astype(np.float64)
            if not np.allclose(got, right, rtol=bound, atol=bound):
                worst = np.nanmax(np.abs(got - right)) if np.isfinite(got).any() else np.nan
                return f"off by {worst:g} at most, {np.sum(~np.isfinite(got))} not finite, of {got.size}"
        return None


# ---- Other plans -----------------------------------------------------------------------------------------------------


def forget():
    """Forget which plans calls have had."""
    plan.forward.cache_clear()
    plan.vjp.cache_clear()
    _call._shortcuts.clear()
    if "fastrecur.torch._operator.short_calls" in sys.modules:
        sys.modules["fastrecur.torch._operator.short_calls"]._known.clear()


def replanned(call, **names):
    """Run with other values in `plan`, and nothing remembered."""
    before = {name: getattr(plan, name) for name in names}
    vars(plan).update(names)
    forget()
    try:
        return call()
    finally:
        vars(plan).update(before)
        forget()


def unsplit(call):
    """Run with time in one piece."""
    choose = plan.choose
    return replanned(call, choose=lambda *a, **k: choose(*a, **k)._replace(tiles=1))


# ---- Correctness -----------------------------------------------------------------------------------------------------


def cases(bench, part, parts=3):
    """Return a share of the problems; of a library that is not the first, and in a rehearsal, a few."""
    found = list(correctness.cases(bench.lib.name == "torch"))
    if bench.tiny:
        found = [case for case in found if np.prod(case.value) <= 3000][::6]
    return found[part::parts]


@group("segments", 90)
def segments(bench):
    """Offsets and resets: first, as their kernels are the newest."""
    found = list(correctness.segment_cases(bench.lib.name == "torch"))
    small = [case for case in found if np.prod(case.value) <= 3000][::12]
    bench.checks(correctness.correctness(bench.lib, small if bench.tiny else found))


for _part in range(3):

    @group(f"correctness {_part + 1}", 90)
    def _correctness(bench, part=_part):
        bench.checks(correctness.correctness(bench.lib, cases(bench, part)))


@group("correctness cupy", 60, ("cupy",))
def correctness_cupy(bench):
    """They share kernels: of what others' arrays do to them, a few problems are enough."""
    bench.checks(correctness.correctness(bench.lib, cases(bench, 0, 9)))


@group("correctness numba", 60, ("numba",))
def correctness_numba(bench):
    """As for CuPy."""
    bench.checks(correctness.correctness(bench.lib, cases(bench, 1, 9)))


@group("correctness pooling", 90, ("torch",))
def correctness_pooling(bench):
    """A QRNN's pooling, forward and backward."""
    bench.checks(correctness.pooling_correctness(bench.lib))


# ---- Times -----------------------------------------------------------------------------------------------------------


@group("ceilings", 60)
def ceilings(bench):
    """What a copy reaches on this card, which shares are of."""
    lib, n = bench.lib, 1 << 12 if bench.tiny else 1 << 28
    one, target = lib.random((n,)), lib.random((n,))
    bench.report.row(
        "copy", "3.0 TB/s", lambda: 8e-6 * n / lib.microseconds([lambda: lib.copy(target, one)] * 5), "TB/s"
    )
    if hasattr(lib, "add"):
        two = lib.random((n,))
        bench.report.row(
            "two reads, one write", "2.85-3.0 TB/s",
            lambda: 12e-6 * n / lib.microseconds([lambda: lib.add(target, one, two)] * 5), "TB/s",
        )  # fmt: skip


@group("small", 60)
def small(bench):
    """Shapes that a cache holds."""
    both = "warm", "cold"
    bench.timed("(105,20,640)", "7-9.5", (105, 20, 640), caches=both)
    bench.timed("(105,20,640) gradient", "12-15", (105, 20, 640), gradient=True, caches=both)
    bench.timed("(4096,8,16)", "10-13", (4096, 8, 16), caches=both)
    bench.timed("(4096,8,16) gradient", "12-16", (4096, 8, 16), gradient=True, caches=both)
    bench.timed("(512,64,320)", "56-70", (512, 64, 320), caches=both)
    bench.timed("(512,64,320) gradient", "105-120", (512, 64, 320), gradient=True, caches=both)
    for what, predicted, shape, gradient in [
        ("host time of a call", "8, 12 (cupy)", (105, 20, 640), False),
        ("host time of a gradient", "11, 15 (cupy)", (105, 20, 640), True),
        ("host time of a call with look-back", "under 1.8 calls", (40, 3000), False),
    ]:
        bench.report.row(what, predicted, lambda s=shape, g=gradient: host_time(bench, s, g))


def host_time(bench, shape, gradient):
    """Return what the host spends on a call that is queued, the driver's part included; the least of some rounds."""
    lib, shape = bench.lib, bench.shape(shape)
    f, x = lib.random(shape), lib.random(shape)
    call = bench.call(f, x, fastrecur.forget_mult(f, x), 0, gradient)
    spent = []
    for _ in range(2 if bench.tiny else 10):
        call()
        lib.synchronise()
        start = time.perf_counter()
        for _ in range(3 if bench.tiny else 100):
            call()
        spent.append((time.perf_counter() - start) / (3 if bench.tiny else 100))
    lib.synchronise()
    return 1e6 * min(spent)


@group("large", 90)
def large(bench):
    """Shapes that only memory's rate bounds."""
    for shape, forward, back in [((2048, 32, 1024), "275-315", "550-610"), ((512, 64, 1024), "138-148", "275-295")]:
        bench.timed(f"{shape}", forward, shape)
        bench.timed(f"{shape} gradient", back, shape, gradient=True)
    for dtype in ["float64", "float16"]:
        bench.timed(f"(512,64,1024) {dtype}", "twice, half", (512, 64, 1024), dtype=dtype)


@group("lanes", 60)
def lanes(bench):
    """How many series it takes to reach the rate, and what a step costs one warp."""
    unsplit(lambda: bench.timed("one warp, 4096 steps", "160-190", (4096, 32)))
    for n in [4096, 8192, 16384, 22528, 34816, 65536, 131072]:
        unsplit(lambda n=n: bench.timed(f"{n} lanes, 1024 steps", "90% at 22-34k", (1024, n)))


@group("long", 120)
def long(bench):
    """Few series of many steps."""
    for shape, axis, times in [((65536, 8, 64), 0, ("143-160", "286-320")), ((64, 1 << 20), 1, ("270-310", "540-620"))]:
        for gradient, predicted in zip((False, True), times, strict=True):
            what = f"{shape}{' time-contiguous' * axis}{' gradient' * gradient}, single pass"
            bench.timed(what, predicted, shape, axis, gradient=gradient)
    unsplit(lambda: bench.timed("(65536,8,64) unsplit", "2600-3300", (65536, 8, 64)))
    bench.timed("(4096,4096) time-contiguous", "70-78", (4096, 4096), 1)
    bench.timed("(4096,4096) time-contiguous gradient", "140-156", (4096, 4096), 1, gradient=True)
    bench.timed("one series of a million", "9-14", (1, 1000000), 1, caches=("warm", "cold"))
    bench.timed("one series of ten million", "130", (1, 10000000), 1)
    bench.timed("one series of ten million, gradient", "170", (1, 10000000), 1, gradient=True)


@group("launch bounds", 60)
def launch_bounds(bench):
    """How much longer a kernel takes whose assembler is not told how it is launched."""
    lib, shape, cubin = bench.lib, bench.shape((512, 65536)), launch.cubin

    def plain(kernel, capability):
        lines = kernel.ptx(capability).splitlines()
        return launch.assemble(
            "\n".join(line for line in lines if not line.strip().startswith((".maxn", ".minn"))), capability
        )

    def measure():
        f, x = lib.random(shape), lib.random(shape)
        calls = [lambda: fastrecur.forget_mult(f, x)] * 5
        calls[0]()
        told = lib.microseconds(calls)
        launch.cubin = plain
        launch.kernel.cache_clear()
        forget()
        try:
            calls[0]()
            return lib.microseconds(calls) / told
        finally:
            launch.cubin = cubin
            launch.kernel.cache_clear()
            forget()

    bench.report.row("launch bounds off / on", "1.5-1.9", measure, "x")

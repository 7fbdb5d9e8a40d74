"""What is run on a card, in groups: each is a process of its own, so that one that crashes or hangs costs itself alone.

A group is a function of what it runs with (`Bench`). Predictions are computed, for an H100 and float32.
"""

import itertools
import time
from typing import NamedTuple

import compare
import correctness
import needs
import numpy as np
import predictions
from needs import Row, forget, unsplit

import fastrecur
from fastrecur._cuda import launch
from fastrecur.filters import sosfilt, sosfilt_vjp

BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
CACHE = 256 << 20  # bytes of operands that no card's cache holds at once
GROUPS: dict = {}


# What is first says most; what is timed and what is right take turns. Groups that are not here come last.
ORDER = (
    "first", "repeats", "large", "scan", "sanitizer", "long", "lanes", "cut time", "correctness 1", "small", "order",
    "torch", "segments", "selective", "filters", "pooling", "correctness 2",
)  # fmt: skip


class Group(NamedTuple):
    """A group: what it is run by, for how long at most, with which libraries, and what is compiled for it before."""

    function: object
    seconds: int
    libraries: tuple
    kernels: object
    on_host: object


def group(name, seconds=40, libraries=("torch", "cupy", "numba"), rows=(), cases=list, kernels=tuple, host=()):
    """Add a function to the groups.

    It needs the kernels of some rows, of the problems that ``cases`` returns, and those that ``kernels`` returns; and
    of the CPU what these are compared with, and what functions with an argument in ``host`` compute.
    """

    def needed():
        yield from needs.of_rows(rows)
        yield from needs.of_cases(cases())
        yield from kernels()

    def on_host():
        yield from ((needs.use_host, row) for row in rows)
        yield from ((correctness.use_host, case) for case in cases())
        yield from host

    def add(function):
        GROUPS[name] = Group(function, seconds, libraries, needed, on_host)
        return function

    return add


def in_turn():
    """Return the names of the groups in the order in which they are run; what only other groups run is left out."""
    listed = [name for name, its in GROUPS.items() if "bare" not in its.libraries]
    return [*(name for name in ORDER if name in listed), *(name for name in listed if name not in ORDER)]


class Bench:
    """What a group runs with: an array library, a report, whether shapes are to be small, and options to hand on."""

    def __init__(self, library, report, tiny=False, more=()):
        self.lib, self.report, self.tiny, self.more = library, report, tiny, more

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

    def rows(self, rows):
        """Time calls."""
        for row in rows:
            (unsplit if row.unsplit else lambda call: call())(lambda row=row: self.timed(*row[:-1]))

    def timed(
        self, what, predicted, shape, axis=0, dtype="float32", gradient=False, caches=("warm",), name="forget_mult"
    ):  # fmt: skip
        """Time a call, its result's allocation included; first compare some series with the CPU's result.

        A wrong result is reported, and not timed. ``caches``: ``"warm"`` for the same operands at every call,
        ``"cold"`` for others each time, more than a card's cache holds.
        """
        shape, lib = self.shape(shape), self.lib
        size = BYTES[dtype] * int(np.prod(shape))
        f, x = lib.random(shape, dtype), lib.random(shape, dtype)
        h = getattr(fastrecur, name)(f, x, axis=axis)
        off = self.compare(f, x, h, axis, dtype, gradient, name)
        if off is not None:
            self.report.write("wrong", what=what, note=off)
            return
        for cache in caches:
            sets = [(f, x, h)]
            if cache == "cold":
                count = 2 if self.tiny else max(1, min(64, -(-CACHE // (3 * size))))
                sets += [tuple(lib.random(shape, dtype) for _ in range(3)) for _ in range(count)]
            calls = [self.call(*each, axis, gradient, name) for each in sets]
            batch = 2 if self.tiny else max(len(calls), 64 if size < 1 << 24 else 8)
            calls = list(itertools.islice(itertools.cycle(calls), batch))
            for call in calls[:3]:
                call()
            label = what if len(caches) == 1 else f"{what}, {cache}"
            self.report.row(
                label, predicted, lambda calls=calls: lib.microseconds(calls), bytes_moved=(6 if gradient else 3) * size
            )

    def row(self, what, predicted, call, moved):
        """Time any call that moves so many bytes."""

        def measure():
            call()
            return self.lib.microseconds([call] * 5)

        self.report.row(what, predicted, measure, bytes_moved=moved)

    def call(self, f, x, h, axis, gradient, name="forget_mult"):
        """Return a call without arguments."""
        if gradient:
            return lambda: getattr(fastrecur, name + "_vjp")(x, f, x, h, axis=axis)
        return lambda: getattr(fastrecur, name)(f, x, axis=axis)

    def compare(self, f, x, h, axis, dtype, gradient, name="forget_mult"):
        """Return what is off in some series, against the CPU; None if nothing."""
        index = [slice(None)] * len(f.shape)
        if any(n > 1 for k, n in enumerate(f.shape) if k != axis):
            other = max((k for k in range(len(f.shape)) if k != axis), key=lambda k: f.shape[k])
            index[other] = slice(0, 17) if self.lib.name == "numba" else slice(0, None, max(1, f.shape[other] // 16))
        pairs = [h] if not gradient else list(getattr(fastrecur, name + "_vjp")(x, f, x, h, axis=axis)[:2])
        f, x, h, *found = (
            self.lib.get(a)[tuple(index)] if self.lib.name == "numba" else self.lib.get(a[tuple(index)])
            for a in (f, x, h, *pairs)
        )
        f, x, h = (a.astype(np.float64) for a in (f, x, h))
        if gradient:
            wanted = getattr(fastrecur, name + "_vjp")(x, f, x, h, axis=axis)[:2]
        else:
            wanted = [getattr(fastrecur, name)(f, x, axis=axis)]
        bound = {"float64": 1e-11, "float32": 1e-4, "float16": 1e-2, "bfloat16": 6e-2}[dtype]
        for got, right in zip(found, wanted, strict=True):
            got = got.astype(np.float64)
            if not np.allclose(got, right, rtol=bound, atol=bound):
                worst = np.nanmax(np.abs(got - right)) if np.isfinite(got).any() else np.nan
                return f"off by {worst:g} at most, {np.sum(~np.isfinite(got))} not finite, of {got.size}"
        return None


# ---- First -----------------------------------------------------------------------------------------------------------

CUT = [
    correctness.Case("forget_mult", shape, shape, np.float32, axis, False)
    for shape, axis in (((64, 1 << 17), 1), ((65536, 64), 0))
]


def cut_kernels():
    """Return the kernels of what is compared with itself in one piece."""
    return [*needs.of_cases(CUT), *unsplit(lambda: needs.of_cases(CUT))]


def cut_time(bench, shape, axis, infinite=False):
    """Return what differs between a scan that is cut and one that is not, of numbers of which none is rounded."""
    shape, lib, rng = bench.shape(shape), bench.lib, np.random.default_rng(0)
    f, x, g = (rng.integers(low, low + n, shape).astype(np.float32) for low, n in ((0, 2), (-2, 5), (-2, 5)))
    if infinite:  # half of an infinity, over and over, is what no tile's summary says
        f, x = np.full_like(f, 0.5), np.zeros_like(x)
        x[(5, 0) if axis == 0 else (0, 5)] = np.inf
    f, x, g = (lib.put(v) for v in (f, x, g))

    def results():
        h = fastrecur.forget_mult(f, x, axis=axis)
        return [lib.get(v) for v in (h, *([] if infinite else fastrecur.forget_mult_vjp(g, f, x, h, axis=axis)[:2]))]

    pairs = zip(("h", "grad_f", "grad_x"), results(), unsplit(results), strict=False)
    return "; ".join(f"other bits of {n}" for n, a, b in pairs if not np.array_equal(a, b, equal_nan=True)) or None


COPY_ROW = Row("(2048,32,1024)", "275-315", (2048, 32, 1024))


def first_kernels():
    """Yield what is compared with itself in one piece, and what torch alone asks for."""
    yield from cut_kernels()
    yield from needs.of_pooling(1000)
    yield from needs.of_problems(correctness.selective_problems, 1000)
    yield from needs.of_problems(correctness.filter_problems, correctness.FEW_FILTERS)


FIRST_ON_HOST = (needs.use_pooling, 0), (needs.use_filters, correctness.FEW_FILTERS)


@group("first", 60, rows=[COPY_ROW], cases=lambda: correctness.FIRST, kernels=first_kernels, host=FIRST_ON_HOST)
def first(bench):
    """One right call a family, then what a copy reaches, which shares are of, and one large call."""
    bench.checks(correctness.correctness(bench.lib, correctness.FIRST))
    bench.checks((f"cut time {case.value}", cut_time(bench, case.value, case.axis)) for case in CUT)
    if bench.lib.name == "torch":
        bench.checks(correctness.pooling_correctness(bench.lib, 1000))
        bench.checks(correctness.compared(bench.lib, correctness.selective_problems(True, 1000)))
        bench.checks(correctness.compared(bench.lib, correctness.filter_problems(True, correctness.FEW_FILTERS)))
    ceilings(bench)
    bench.rows([COPY_ROW])


def ceilings(bench):
    """Time a copy, and a sum."""
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


# ---- Correctness -----------------------------------------------------------------------------------------------------


def all_cases(part, has_bfloat16=True):
    """Return problems: those whose time is cut, or a half of the others."""
    found = list(correctness.cases(has_bfloat16))
    cut = [any(kernel.name.startswith("scan") for kernel in correctness.kernels(case)) for case in found]
    if part == 0:
        return list(itertools.compress(found, cut))
    return [case for case, is_cut in zip(found, cut, strict=True) if not is_cut][part - 1 :: 2]


def some(bench, found, every=1):
    """Return problems, in a rehearsal a few small ones."""
    return [case for case in found if np.prod(case.value) <= 3000][::12] if bench.tiny else found[::every]


def is_torch(bench):
    return bench.lib.name == "torch"


for _part, _name in enumerate(["scan", "correctness 1", "correctness 2"]):

    @group(_name, 40, cases=lambda part=_part: all_cases(part))
    def _correctness(bench, part=_part):
        bench.checks(correctness.correctness(bench.lib, some(bench, all_cases(part, is_torch(bench)))))


@group("segments", 40, cases=lambda: list(correctness.segment_cases(True)))
def segments(bench):
    """Offsets and resets."""
    bench.checks(correctness.correctness(bench.lib, some(bench, list(correctness.segment_cases(is_torch(bench))))))


@group("pooling", 40, ("torch",), kernels=needs.of_pooling, host=[(needs.use_pooling, k) for k in range(40, 80)])
def pooling(bench):
    """A QRNN's pooling, forward and backward."""
    bench.checks(correctness.pooling_correctness(bench.lib))


# By how many threads a channel gets; the second fills no card.
SCANS = {4: dict(batch=8, steps=1024, channels=2048), 16: dict(batch=1, steps=2048, channels=1536)}


def scan_operands(sizes):
    return compare.selective_operands(np.random.default_rng(0), **sizes, states=16)


def scan_kernels():
    """Yield what is compared, and what is timed: of few steps, which are not in a kernel's name."""
    yield from needs.of_problems(correctness.selective_problems)
    for sizes in SCANS.values():
        own = scan_operands(sizes | {"steps": 64})
        yield from needs.of_calls(lambda own=own: [call() for call in scan_calls(needs.put_tensor, own)])


def scan_calls(put, own):
    """Return calls of a scan, and of its gradient."""
    own = list(map(put, own))
    return (
        lambda: fastrecur.selective_scan(*own, delta_softplus=True),
        lambda: fastrecur.selective_scan_vjp(own[0], *own, delta_softplus=True),
    )


@group("selective", 40, ("torch", "cupy"), kernels=scan_kernels)
def selective(bench):
    """Mamba's scan: right, and timed at a model's size."""
    bench.checks(correctness.compared(bench.lib, correctness.selective_problems(is_torch(bench))))
    for threads, sizes in SCANS.items():
        own = scan_operands(dict(batch=2, channels=32, steps=64) if bench.tiny else sizes)
        for what, moved, call in zip(("", " gradient"), (4, 7), scan_calls(bench.lib.put, own), strict=True):
            predicted = predictions.words(f"selective scan, {threads} threads{what}")
            label = f"selective scan {tuple(sizes.values())}, 16 states{what}"
            bench.row(label, predicted, call, moved * own.u.nbytes)
    bench.report.write("note", note=predictions.REFUTED["selective scan"])


SIGNALS = {"contiguous time": ((64, 100_000), 1), "parallel series": ((100_000, 64), 0)}


def filter_calls(put, x, axis):
    """Return calls of a filter of a long signal, and of its gradient of a tenth of the steps."""
    few = x[:, : x.shape[1] // 10] if axis else x[: x.shape[0] // 10]
    sos, x, few = map(put, (correctness.SECTIONS, x, np.ascontiguousarray(few)))
    return lambda: sosfilt(sos, x, axis), lambda: sosfilt_vjp(few, sos, few, few, axis=axis)


@group(
    "filters", 40, ("torch", "cupy"), host=[(needs.use_filters, slice(k, k + 1)) for k in range(20)],
    kernels=lambda: needs.of_problems(correctness.filter_problems),
)  # fmt: skip
def filters(bench):
    """Sections, poles, envelopes and Holt's levels, with gradients where the library has them; few long series."""
    bench.checks(correctness.compared(bench.lib, correctness.filter_problems(is_torch(bench))))
    for kind, (shape, axis) in SIGNALS.items():
        x = np.random.default_rng(0).random(bench.shape(shape), np.float32)

        def results(put, x=x, axis=axis):
            return [sosfilt(*map(put or compare._wide, (correctness.SECTIONS, x)), axis)]

        if bench.checks(correctness.compared(bench.lib, [(f"two sections, {kind}", 1e-5, results)])):
            calls = filter_calls(bench.lib.put, x, axis)
            for what, moved, call in zip(("", " gradient"), (2, 0.4), calls, strict=True):
                name = f"two sections, {kind}{what}"
                label = f"{name} {shape}{', a tenth of it' * bool(what)}"
                bench.row(label, predictions.words(name), call, moved * x.nbytes)
    bench.report.write("note", note=predictions.REFUTED["two sections"])


for _name, _part in (("cupy", 0), ("numba", 1)):

    @group(f"correctness {_name}", 40, (_name,))
    def _others(bench, part=_part):
        """They share kernels: of what others' arrays do to them, a few problems are enough."""
        cases = list(correctness.cases(False))[part:]
        bench.checks(correctness.correctness(bench.lib, some(bench, cases, 9)))


# ---- Times -----------------------------------------------------------------------------------------------------------

BOTH = "warm", "cold"
LARGE = [
    Row("(2048,32,1024) unsplit", "300-340", (2048, 32, 1024), unsplit=True),
    Row("(2048,32,1024) gradient", "550-610", (2048, 32, 1024), gradient=True),
    Row("(512,64,1024)", "138-148", (512, 64, 1024)),
    Row("(512,64,1024) gradient", "275-295", (512, 64, 1024), gradient=True),
    Row("(512,64,1024) float16", "half", (512, 64, 1024), dtype="float16"),
    Row("(512,64,1024) float64", "twice", (512, 64, 1024), dtype="float64"),
]
SMALL = [
    Row(f"{shape}{' gradient' * gradient}", times[gradient], shape, gradient=gradient, caches=BOTH)
    for shape, times in [
        ((105, 20, 640), ("7-9.5", "12-15")), ((4096, 8, 16), ("10-13", "12-16")),
        ((512, 64, 320), ("56-70", "105-120")),
    ]
    for gradient in (False, True)
]  # fmt: skip
LANES = [Row("one warp, 4096 steps", "160-190", (4096, 32), unsplit=True)]
LANES += [
    Row(f"{n} lanes, 1024 steps, {dtype}", f"90% at {at}k", (1024, n), dtype=dtype, unsplit=True)
    for dtype, at in (("float32", "22-39"), ("float16", 72))
    for n in (8192, 22528, 38912, 73728, 131072)
]
LONG = [
    Row(f"(64,2^20) {name[:6]} {dtype}", predicted, (64, 1 << 20), 1, dtype, name=name)
    for dtype, predicted in (("float32", "270-340"), ("float16", "135-340"))
    for name in correctness.NAMES
]
LONG += [
    Row("(64,2^20) gradient", "540-620", (64, 1 << 20), 1, gradient=True),
    Row("one series of ten million", "40-130", (1, 10**7), 1),
    Row("one series of ten million, gradient", "80-170", (1, 10**7), 1, gradient=True),
    Row("(65536,8,64)", "143-160", (65536, 8, 64)),
    Row("(65536,8,64) gradient", "286-320", (65536, 8, 64), gradient=True),
    Row("(65536,8,64) unsplit", "2600-3300", (65536, 8, 64), unsplit=True),
    Row("(4096,4096) time-contiguous", "70-78", (4096, 4096), 1),
    Row("(4096,4096) time-contiguous gradient", "140-156", (4096, 4096), 1, gradient=True),
    Row("one series of a million", "9-14", (1, 10**6), 1, caches=BOTH),
]


@group("large", 40, rows=LARGE)
def large(bench):
    """Shapes that only memory's rate bounds."""
    bench.rows(LARGE)


@group("lanes", 40, rows=LANES)
def lanes(bench):
    """How many series it takes to reach the rate, and what a step costs one warp."""
    bench.rows(LANES)


@group("long", 40, rows=LONG)
def long(bench):
    """Few series of many steps; and one infinity among them."""
    bench.rows(LONG)
    lib, shape = bench.lib, bench.shape((1, 10**7))
    f, x = lib.random(shape), np.zeros(shape, np.float32)

    def time_of(array):
        call = bench.call(f, lib.put(array), None, 1, False)
        call()
        return lib.microseconds([call] * 3)

    def ratio():
        none = time_of(x)
        x[0, shape[1] // 2] = np.inf
        return time_of(x) / none

    bench.report.row("one infinity in ten million / none", "under 3", ratio, "x")


@group("small", 40, rows=SMALL, kernels=lambda: needs.of_rows([Row("", "", (40, 3000))]))
def small(bench):
    """Shapes that a cache holds, and what the host takes for a call."""
    bench.rows(SMALL)
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


@group("launch bounds")
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

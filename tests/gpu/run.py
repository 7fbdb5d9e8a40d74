"""One command for a real card: correctness, then every prediction beside its measurement. See README.md."""

import argparse
import itertools
import json
import pathlib
import sys
import time
from typing import NamedTuple

import ml_dtypes
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import compare  # noqa: E402
from libraries import installed  # noqa: E402

import fastrecur  # noqa: E402
from fastrecur import reference  # noqa: E402
from fastrecur._cuda import _launch, _plan, _recurrence  # noqa: E402

BUDGET = 7.5 * 60
BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}


class Case(NamedTuple):
    """A problem: the shapes of its operands, () for a number, and how it is walked."""

    name: str
    gate: tuple
    value: tuple
    dtype: type
    axis: int
    reverse: bool
    state: tuple | None = None  # None: one for each lane
    lengths: bool = False  # whether lanes end early, and NaN stands behind

    def __str__(self):
        gate = "" if self.gate == self.value else f" gate {self.gate}"
        state = "" if self.state is None else f" state {self.state}"
        return (
            f"{self.name} {np.dtype(self.dtype).name} {self.value}{gate}{state} axis {self.axis} "
            f"reverse {self.reverse}{' lengths' * self.lengths}"
        )


NAMES, WAYS = ["forget_mult", "linear_recurrence"], [False, True]


def cases(bfloat16):
    """Yield problems for every kernel, dtype and direction."""
    dtypes = [np.float32, np.float64, np.float16] + [ml_dtypes.bfloat16] * bfloat16
    shapes = [((105, 12800), 0), ((33, 65), 0), ((40, 1031), 1), ((3, 70001), 1), ((9000, 130), 0), ((17, 5, 9), 1)]
    for (shape, axis), dtype, name, reverse in itertools.product(shapes, dtypes, NAMES, WAYS):
        yield Case(name, shape, shape, dtype, axis, reverse)
    # Gradients that are sums: over time, over lanes, over both; in one pass or two; of pieces; of a first state.
    for (gate, value, axis, state), name in itertools.product(
        [
            ((), (33, 65), 0, (1,)), ((65,), (33, 65), 0, None), ((33, 1), (33, 65), 0, (1,)),
            ((33, 65), (65,), 0, (1,)), ((), (40, 1031), 1, None), ((40, 1), (40, 1031), 1, (1,)),
            ((1031,), (40, 1031), 1, (1,)), ((5, 9), (17, 5, 9), 1, (9,)), ((17, 1, 1), (17, 5, 9), 1, (17, 1)),
            ((33, 1, 1), (33, 2, 1500), 0, None), ((), (9000, 130), 0, None), ((9000, 1), (9000, 130), 0, None),
            ((64, 1), (64, 20001), 1, (1,)), ((20001,), (64, 20001), 1, None),
        ],
        NAMES,
    ):  # fmt: skip
        yield Case(name, gate, value, np.float32, axis, name == "linear_recurrence", state)
    for dtype, (gate, axis) in itertools.product(dtypes[1:], [((65,), 0), ((33, 1), 0), ((33, 1), 1)]):
        yield Case("forget_mult", gate, (33, 65), dtype, axis, False)
    for (shape, axis), name, reverse in itertools.product(
        [((70, 40), 0), ((40, 600), 1), ((9000, 130), 0), ((64, 20001), 1)], NAMES, WAYS
    ):
        yield Case(name, shape, shape, np.float32, axis, reverse, lengths=True)
    for dtype, (gate, axis), reverse in itertools.product(
        [np.complex64, np.complex128], [((20, 33), 0), ((20, 33), 1), ((), 0), ((33,), 0)], WAYS
    ):
        yield Case("linear_recurrence", gate, (20, 33), dtype, axis, reverse)


def check(library, rng, case):
    """Compare a problem's results and gradients with the reference; raise where they are off."""

    def random(shape):
        if np.issubdtype(case.dtype, np.complexfloating):
            return (rng.standard_normal(shape) * np.exp(2j * np.pi * rng.random(shape))).astype(case.dtype)
        return rng.standard_normal(shape).astype(case.dtype)

    def put(operand):
        return library.put(operand) if isinstance(operand, np.ndarray) else operand

    name, dtype = case.name, np.dtype(case.dtype)
    shape = np.broadcast_shapes(case.gate, case.value)
    lanes = shape[: case.axis] + shape[case.axis + 1 :]
    # A gate that is small, and the same at every step, keeps the roundings of as many steps as it remembers.
    gate = rng.uniform(0.0 if case.gate == shape else 0.1, 1.0, case.gate)
    if dtype.kind == "c":
        gate = gate * np.exp(2j * np.pi * rng.random(case.gate))
    gate = gate.astype(dtype) if case.gate else gate.astype(dtype).item()
    value, state = random(case.value), random(lanes if case.state is None else case.state)
    options, on_device = {"axis": case.axis, "reverse": case.reverse}, {}
    if case.lengths:
        steps = shape[case.axis]
        lengths = rng.integers(0, steps + 1, lanes[0])
        lengths[:3] = 0, steps, 1
        inside = np.arange(steps) < lengths[:, np.newaxis]
        for operand in (gate, value):
            operand[~(inside if case.axis else inside.T)] = np.nan
        options["lengths"] = lengths
        on_device = {"lengths": lengths.tolist()}
    library.poison(value.size)
    operands = [put(a) for a in (gate, value, state)]
    h, last = getattr(fastrecur, name)(*operands, return_state=True, **options | on_device)
    wide, wide_last = getattr(reference, name)(gate, value, state, return_state=True, **options)
    size, size_last = compare.forward_magnitudes(name, gate, value, state, **options)
    compare.assert_close(library.get(h), wide, dtype, magnitude=size)
    compare.assert_close(library.get(last), wide_last, dtype, magnitude=size_last)
    if case.lengths:
        on_device = {"lengths": library.put(lengths)}  # where they are not looked at beforehand
    library.poison(value.size)
    cotangent, states = random(shape), library.get(h)
    got = getattr(fastrecur, name + "_vjp")(put(cotangent), *operands[:2], h, operands[2], **options | on_device)
    wanted = getattr(reference, name + "_vjp")(cotangent, gate, value, states, state, **options)
    sizes = compare.vjp_magnitudes(name, cotangent, gate, value, states, state, grad_state=None, **options)
    for grad, right, size, operand in zip(got, wanted, sizes, (gate, value, state), strict=True):
        compare.assert_close(library.get(grad), right, compare.gradient_dtype(operand, dtype), magnitude=size)


def correctness(library, problems):
    """Compare with the reference; return what was off."""
    compare.carry_of = lambda dtype: np.promote_types(compare.real_of(dtype), np.float32)
    rng, wrong = np.random.default_rng(0), []
    for case in problems:
        try:
            check(library, rng, case)
        except Exception as error:
            wrong.append(f"{library.name} {case}: {type(error).__name__}: {error}")
            print("WRONG", wrong[-1])
    return wrong


def pooling_correctness(library, device="cuda"):
    """Compare a QRNN's pooling, and its gradient, with the same composed in float64 on the CPU; return what was off."""
    import torch

    from fastrecur.torch import _pooling

    def results(dtype, place, pool, pool_packed):
        leaves = [v.to(place, dtype).requires_grad_() for v in (product, c0)]
        options = {"keep": keep.to(place, dtype) if masked else keep, "output_gate": gated, "reverse": reverse}
        h, last = pool_packed(leaves[0], sizes, leaves[1], **options) if packed else pool(*leaves, **options)
        cotangents = [v.to(place, dtype) for v in (grad_h, grad_last)]
        return [v.detach().cpu().double() for v in (h, last, *torch.autograd.grad((h, last), leaves, cotangents))]

    wrong, steps, batch, width = [], 67, 5, 300
    sizes = torch.arange(steps, 0, -1).clamp(max=batch)
    bounds = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 5e-3}
    for dtype, gated, reverse, masked, packed in itertools.product(bounds, *[(False, True)] * 4):
        rows = (int(sizes.sum()),) if packed else (steps, batch)
        product, c0, grad_h, grad_last = (
            torch.randn(shape).to(dtype)
            for shape in ((*rows, (2 + gated) * width), (batch, width), (*rows, width), (batch, width))
        )
        keep = torch.randint(2, (*rows, width)) if masked else 0.9
        here = f"pooling {dtype} gated {gated} reverse {reverse} masked {masked} packed {packed}"
        try:
            wanted = results(torch.float64, "cpu", _pooling._composed, _pooling._composed_packed)
            library.poison(product.numel())
            got = results(dtype, device, _pooling.pool, _pooling.pool_packed)
            torch.testing.assert_close(got, wanted, rtol=bounds[dtype], atol=bounds[dtype])
        except Exception as error:
            wrong.append(f"{here}: {type(error).__name__}: {error}")
            print("WRONG", wrong[-1])
    return wrong


class Report:
    """What was predicted and what was measured, line by line."""

    def __init__(self, card, started):
        self.card, self.rows, self.started = card, [], started
        self.peak = None  # the copy rate, bytes a microsecond

    def row(self, what, predicted, measure, unit="us", bytes_moved=None):
        """Measure, unless time is up; an error is a result too."""
        if time.monotonic() - self.started > BUDGET:
            measured, note = None, "time is up"
        else:
            try:
                measured, note = measure(), ""
            except Exception as error:
                measured, note = None, f"{type(error).__name__}: {error}"
        share = None
        if bytes_moved and measured and self.peak:
            share = bytes_moved / measured / self.peak
        self.rows.append(
            dict(what=what, predicted=predicted, measured=measured, unit=unit, share_of_copy_rate=share, note=note)
        )
        number = "-" if measured is None else f"{measured:.4g}"
        print(f"{what:<58} {predicted:>16} {number:>10} {unit:<5} {'' if share is None else f'{share:5.0%}'} {note}")
        return measured


def ceilings(report, lib):
    n = 1 << 28
    one, two, target = (lib.random((n,)) for _ in range(3))
    copied = report.row(
        "1 copy", "3.0 TB/s", lambda: 8e-6 * n / lib.microseconds(lambda: lib.copy(target, one)), "TB/s"
    )
    report.peak = copied and copied * 1e6
    report.row(
        "1 two reads, one write", "2.85-3.0 TB/s",
        lambda: 12e-6 * n / lib.microseconds(lambda: lib.add(target, one, two)), "TB/s",
    )  # fmt: skip


def timed(report, lib, what, predicted, shape, axis=0, dtype="float32", gradient=False):
    """Time a call, its results' allocation included, once warm."""

    def measure():
        f, x = lib.random(shape, dtype), lib.random(shape, dtype)
        h = fastrecur.forget_mult(f, x, axis=axis)
        call = (lambda: fastrecur.forget_mult_vjp(x, f, x, h, axis=axis)) if gradient else (
            lambda: fastrecur.forget_mult(f, x, axis=axis)
        )  # fmt: skip
        call()
        return lib.microseconds(call)

    words = 6 if gradient else 3
    return report.row(what, predicted, measure, bytes_moved=words * BYTES[dtype] * int(np.prod(shape)))


def forget():
    """Forget which plans calls have had."""
    _plan.forward.cache_clear()
    _plan.vjp.cache_clear()
    _recurrence._shortcuts.clear()
    if "fastrecur.torch._call" in sys.modules:
        sys.modules["fastrecur.torch._call"]._shorts_on_gpu.clear()


def replanned(call, **names):
    """Run with other values in `_plan`, and nothing remembered."""
    before = {name: getattr(_plan, name) for name in names}
    vars(_plan).update(names)
    forget()
    try:
        return call()
    finally:
        vars(_plan).update(before)
        forget()


def unsplit(call):
    """Run with time in one piece."""
    choose = _plan.choose
    return replanned(call, choose=lambda *a, **k: choose(*a, **k)._replace(tiles=1))


def without_bounds(lib):
    """Time the kernel as the assembler makes it when it is not told how it is launched."""
    cubin = _launch.cubin

    def plain(kernel, capability):
        ptx = "\n".join(
            li for li in kernel.ptx(capability).splitlines() if not li.strip().startswith((".maxn", ".minn"))
        )
        return _launch.assemble(ptx, capability)

    f, x = lib.random((512, 65536)), lib.random((512, 65536))
    fastrecur.forget_mult(f, x)
    told = lib.microseconds(lambda: fastrecur.forget_mult(f, x))
    _launch.cubin = plain
    _launch.kernel.cache_clear()
    forget()
    try:
        fastrecur.forget_mult(f, x)
        return lib.microseconds(lambda: fastrecur.forget_mult(f, x)) / told
    finally:
        _launch.cubin = cubin
        _launch.kernel.cache_clear()
        forget()


def host_time(lib):
    f, x = lib.random((105, 20, 640)), lib.random((105, 20, 640))
    for _ in range(100):
        fastrecur.forget_mult(f, x)
    lib.synchronise()
    start = time.perf_counter()
    for _ in range(1000):
        fastrecur.forget_mult(f, x)
    spent = time.perf_counter() - start
    lib.synchronise()
    return 1e3 * spent


def graph(lib, shape, axis):
    """Capture a call, replay it with changed inputs; return how many replays were right."""
    torch, right = lib.torch, 0
    f, x = lib.random(shape), lib.random(shape)
    fastrecur.forget_mult(f, x, axis=axis)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        h = fastrecur.forget_mult(f, x, axis=axis)
    for _ in range(100):
        x.copy_(lib.random(shape))
        captured.replay()
        right += bool((h == fastrecur.forget_mult(f, x, axis=axis)).all())
    return right


def repeats(lib, shape, axis):
    """Return how many of 100 repeats have the first one's bits."""
    f, x = lib.random(shape), lib.random(shape)
    first = lib.get(fastrecur.forget_mult(f, x, axis=axis))
    return sum(bool((lib.get(fastrecur.forget_mult(f, x, axis=axis)) == first).all()) for _ in range(100))


def side_stream(lib):
    """Work of the current stream is seen by a call in it, though the default stream is busy."""
    torch, right = lib.torch, 0
    stream = torch.cuda.Stream()
    for _ in range(20):
        with torch.cuda.stream(stream):
            x = torch.zeros(4096, 4096, device="cuda")
            for _ in range(10):
                x += 1
            h = fastrecur.forget_mult(1.0, x)
            right += int((h == 10).all().item())
    return right


def peers(report, lib):
    torch = lib.torch
    x = lib.random((105, 20, 640))
    for name in ("GRU", "LSTM"):
        model = getattr(torch.nn, name)(640, 640).cuda()
        report.row(f"10 cuDNN {name} (105,20,640), matrix products included", "-", lambda m=model: lib.microseconds(
            lambda: m(x)))  # fmt: skip

    def loop():
        f, h, states = lib.random((105, 20, 640)), torch.zeros(20, 640, device="cuda"), []
        for t in range(105):
            h = torch.lerp(h, x[t], f[t])
            states.append(h)
        return torch.stack(states)

    report.row("10 a loop of torch.lerp (105,20,640)", "-", lambda: lib.microseconds(loop))


def chart(report, path):
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return
    rows = [row for row in report.rows if row["share_of_copy_rate"]]
    figure, axes = plt.subplots(figsize=(9, 0.35 * len(rows) + 1.5), layout="constrained")
    axes.barh([row["what"] for row in rows], [row["share_of_copy_rate"] for row in rows])
    axes.axvline(1, color="black", lw=0.8)
    axes.invert_yaxis()
    axes.set_xlabel(f"share of the copy rate, {report.card}")
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="gpu.json")
    output = pathlib.Path(parser.parse_args().output)
    fastrecur.show_config()
    libraries = installed()
    if not libraries:
        sys.exit("no array library sees a card: install cupy or torch")
    lib, wrong, started = libraries[0], [], time.monotonic()
    print(f"\n{lib.card}\n")
    for each in libraries:
        # They share kernels: of what others' arrays do to them, every third problem is enough.
        wrong += correctness(each, list(cases(each.name == "torch"))[:: 1 if each is lib else 3])
        if each.name == "torch":
            wrong += pooling_correctness(each)
    report = Report(lib.card, started)
    report.rows.append(dict(what="0 correctness", wrong=wrong))
    if not wrong and hasattr(lib, "microseconds"):
        print(f"\n{'':<58} {'predicted, H100':>16} {'measured':>10}       of copy")
        ceilings(report, lib)
        report.row(
            "2 one warp, a step", "38-45 ns",
            lambda: 1000 / 4096 * unsplit(lambda: timed(report, lib, "2 one warp, 4096 steps", "160-190", (4096, 32))),
            "ns",
        )  # fmt: skip
        for lanes in [4096, 8192, 16384, 22528, 34816, 65536, 131072]:
            unsplit(lambda n=lanes: timed(report, lib, f"3 {n} lanes, 1024 steps", "90% at 22-34k", (1024, n)))
        for shape, forward, back in [((2048, 32, 1024), "275-295", "550-590"), ((512, 64, 1024), "138-148", "275-295")]:
            timed(report, lib, f"4 {shape}", forward, shape)
            timed(report, lib, f"4 {shape} gradient", back, shape, gradient=True)
        for dtype in ["float64", "float16"]:
            timed(report, lib, f"4 (512,64,1024) {dtype}", "twice, half", (512, 64, 1024), dtype=dtype)
        report.row("5 launch bounds off / on", "1.5-1.9", lambda: without_bounds(lib), "x")
        for gradient, scan in [(False, "143-160"), (True, "286-320")]:
            what = "6 (65536,8,64)" + " gradient" * gradient
            timed(report, lib, f"{what}, single pass", scan, (65536, 8, 64), gradient=gradient)
        unsplit(lambda: timed(report, lib, "6 (65536,8,64) unsplit", "2600-3300", (65536, 8, 64)))
        for gradient, scan in [(False, "270-310"), (True, "540-620")]:
            what = "6 time-contiguous (64,1048576)" + " gradient" * gradient
            timed(report, lib, f"{what}, single pass", scan, (64, 1 << 20), axis=1, gradient=gradient)
        timed(report, lib, "7 time-contiguous (4096,4096)", "70-78", (4096, 4096), axis=1)
        timed(report, lib, "7 time-contiguous (4096,4096) gradient", "140-156", (4096, 4096), axis=1, gradient=True)
        timed(report, lib, "7 one series of a million", "9-14", (1, 1000000), axis=1)
        timed(report, lib, "8 (105,20,640)", "7-9.5", (105, 20, 640))
        report.row("8 host time of a call", "8, 12 (cupy)", lambda: host_time(lib))
        for shape, axis in [((512, 4096), 0), ((64, 100001), 1), ((64, 1 << 20), 1), ((65536, 512), 0)]:
            report.row(f"9 repeats to the bit {shape}", "100", lambda s=shape, a=axis: repeats(lib, s, a), "")
        if lib.name == "torch":
            report.row("9 a stream of its own", "20", lambda: side_stream(lib), "")
            for shape, axis in [((105, 20, 640), 0), ((64, 1 << 17), 1)]:
                report.row(f"9 graph replays {shape}", "100", lambda s=shape, a=axis: graph(lib, s, a), "")
            peers(report, lib)
    chart(report, output.with_suffix(".png"))
    output.write_text(json.dumps(dict(card=lib.card, library=lib.name, rows=report.rows), indent=1))
    print(f"\n{output}" + (f"; {len(wrong)} WRONG" if wrong else ""))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

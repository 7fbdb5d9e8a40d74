"""Results against the reference: every kernel and dtype, gradients of what is broadcast, lengths, complex values."""

import itertools
import pathlib
import sys
from typing import NamedTuple

import numpy as np

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))

import compare  # noqa: E402

import fastrecur  # noqa: E402
from fastrecur import reference  # noqa: E402
from fastrecur._arguments import checks  # noqa: E402
from fastrecur._cuda import launch, plan as _plan  # noqa: E402
from fastrecur.filters import allpole, follow, lfilter, sosfilt  # noqa: E402
from fastrecur.smoothing import holt  # noqa: E402

try:
    from ml_dtypes import bfloat16
except ImportError:  # a card's machine may have little; its problems are then of three dtypes
    bfloat16 = None


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
    cuts: tuple = ()  # offsets, resets: where series begin anew, and NaN and infinities stand before

    def __str__(self):
        gate = "" if self.gate == self.value else f" gate {self.gate}"
        state = "" if self.state is None else f" state {self.state}"
        return (
            f"{self.name} {np.dtype(self.dtype).name} {self.value}{gate}{state} axis {self.axis} "
            f"reverse {self.reverse}{' lengths' * self.lengths}{''.join(f' {cut}' for cut in self.cuts)}"
        )


NAMES, WAYS = ["forget_mult", "linear_recurrence"], [False, True]


def _dtypes(has_bfloat16):
    return [np.float32, np.float64, np.float16] + [bfloat16] * (has_bfloat16 and bfloat16 is not None)


def cases(has_bfloat16):
    """Yield problems for every kernel, dtype and direction."""
    dtypes = _dtypes(has_bfloat16)
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


def segment_cases(has_bfloat16):
    """Yield problems whose series begin anew inside the axis of time; sums over time, of many segments, of states."""
    dtypes = _dtypes(has_bfloat16)
    both = [("offsets",), ("resets",), ("offsets", "resets")]
    shapes = [((105, 1280), 0), ((33, 65), 0), ((40, 150), 1), ((17, 5, 9), 1), ((190,), 0)]
    for (shape, axis), dtype, name, reverse in itertools.product(shapes, dtypes, NAMES, WAYS):
        for cuts in both if dtype == np.float32 else both[2:]:
            yield Case(name, shape, shape, dtype, axis, reverse, cuts=cuts)
    shared = [*(((40, 150), 1, dtype) for dtype in dtypes), ((9000, 130), 0, np.float32), ((64, 20001), 1, np.float32)]
    for (shape, axis, dtype), name, reverse in itertools.product(shared, NAMES, WAYS):
        yield Case(name, shape, shape, dtype, axis, reverse, cuts=("resets",))
    for (gate, axis, state), name, reverse, cuts in itertools.product(
        [((), 0, (1,)), ((33, 1), 1, None), ((65,), 0, None), ((65,), 0, (65,))], NAMES, WAYS, both
    ):
        yield Case(name, gate, (33, 65), np.float32, axis, reverse, state, cuts=cuts)
    for reverse, cuts in itertools.product(WAYS, both):
        yield Case("linear_recurrence", (20, 33), (20, 33), np.complex64, 0, reverse, cuts=cuts)
    for name, reverse in itertools.product(NAMES, WAYS):
        yield Case(name, (70, 40), (70, 40), np.float32, 0, reverse, lengths=True, cuts=("resets",))


# A call a family: by lanes, averaging and linear; in contiguous time; a gradient that is a sum; series that begin anew.
FIRST = [
    Case("forget_mult", (33, 65), (33, 65), np.float32, 0, False),
    Case("linear_recurrence", (33, 65), (33, 65), np.float32, 0, False),
    Case("forget_mult", (40, 150), (40, 150), np.float32, 1, False),
    Case("forget_mult", (), (33, 65), np.float32, 0, False, (1,)),
    Case("forget_mult", (33, 65), (33, 65), np.float32, 0, False, cuts=("offsets", "resets")),
]
STEPS = 200  # of a problem that the reference, step by step in Python, computes; others take seconds each


class Wide:
    """The reference's functions by the CPU's kernels, in float64 (tests compare these with it)."""

    def __getattr__(self, name):
        function = getattr(fastrecur, name)

        def wide(operand):
            return compare._wide(operand) if isinstance(operand, np.ndarray) else operand

        return lambda *operands, grad_state=None, **options: function(
            *map(wide, operands), **options, **({} if grad_state is None else {"grad_state": wide(grad_state)})
        )


class Host:
    """A library that puts arrays nowhere."""

    def put(self, array):
        return array

    get = put

    def poison(self, size):
        """Nothing."""


def use_host(case):
    """Compute a long problem as `check` does, so that the CPU's kernels for it are on disk."""
    if np.broadcast_shapes(case.gate, case.value)[case.axis] > STEPS:
        try:
            check(Host(), np.random.default_rng(0), case)
        except AssertionError:
            pass  # its bounds are those of a GPU's carry


def check(library, rng, case):
    """Compare a problem's results and gradients with the reference; raise where they are off."""
    steps = np.broadcast_shapes(case.gate, case.value)[case.axis]
    before, compare.reference = compare.reference, reference if steps <= STEPS else Wide()
    try:
        _check(library, rng, case, compare.reference)
    finally:
        compare.reference = before


def _check(library, rng, case, reference):

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
    value, options = random(case.value), {"axis": case.axis, "reverse": case.reverse}
    cuts = segments(rng, case, shape, [gate, value]) if case.cuts else {}
    states = (len(cuts["offsets"]) - 1, *lanes) if "offsets" in cuts else lanes
    state, options = random(states if case.state is None else case.state), options | cuts
    on_device = {name: cut.tolist() for name, cut in cuts.items()}
    if case.lengths:
        steps = shape[case.axis]
        lengths = rng.integers(0, steps + 1, lanes[0])
        lengths[:3] = 0, steps, 1
        inside = np.arange(steps) < lengths[:, np.newaxis]
        for operand in (gate, value):
            operand[~(inside if case.axis else inside.T)] = np.nan
        options["lengths"] = lengths
        on_device["lengths"] = lengths.tolist()
    library.poison(value.size)
    operands = [put(a) for a in (gate, value, state)]
    h, last = getattr(fastrecur, name)(*operands, return_state=True, **options | on_device)
    wide, wide_last = getattr(reference, name)(gate, value, state, return_state=True, **options)
    size, size_last = compare.forward_magnitudes(name, gate, value, state, **options)
    compare.assert_close(library.get(h), wide, dtype, magnitude=size)
    compare.assert_close(library.get(last), wide_last, dtype, magnitude=size_last)
    # Where they are not looked at beforehand.
    on_device = {name: library.put(options[name]) for name in on_device}
    library.poison(value.size)
    cotangent, states = random(shape), library.get(h)
    got = getattr(fastrecur, name + "_vjp")(put(cotangent), *operands[:2], h, operands[2], **options | on_device)
    wanted = getattr(reference, name + "_vjp")(cotangent, gate, value, states, state, **options)
    sizes = compare.vjp_magnitudes(name, cotangent, gate, value, states, state, grad_state=None, **options)
    for grad, right, size, operand in zip(got, wanted, sizes, (gate, value, state), strict=True):
        compare.assert_close(library.get(grad), right, compare.gradient_dtype(operand, dtype), magnitude=size)


def segments(rng, case, shape, operands):
    """Return offsets and resets; before most borders of all series, operands are spoilt."""
    steps, cuts = shape[case.axis], {}
    borders = np.sort(rng.integers(1, steps, 6))
    borders[1], borders[-1] = borders[0], steps  # an empty segment within, and one at the end
    if "offsets" in case.cuts:
        cuts["offsets"] = np.concatenate([[0], borders, [steps]])
    if "resets" in case.cuts:
        own = shape[: case.axis + 1 + (len(shape) > case.axis + 1)]
        cuts["resets"] = rng.random(own) < 0.1
        np.moveaxis(cuts["resets"], case.axis, 0)[borders[:-1]] = True
    for operand, bad in zip(operands, (np.inf, np.nan), strict=True):
        if isinstance(operand, np.ndarray) and operand.shape == shape and not case.lengths:
            at = borders[2:4] - (not case.reverse)
            np.moveaxis(operand, case.axis, 0)[at[at < steps]] = bad
    return cuts


def correctness(library, problems):
    """Compare with the reference; yield a problem's name and what was off, None for nothing."""
    compare.carry_of = lambda dtype: np.promote_types(compare.real_of(dtype), np.float32)
    rng = np.random.default_rng(0)
    for case in problems:
        try:
            check(library, rng, case)
        except Exception as error:
            yield str(case), f"{type(error).__name__}: {error}"
        else:
            yield str(case), None


def pooling_problems(every=1, begin=0):
    """Yield a QRNN's poolings, each so many-th: a name, dtype, and what computes results and gradients on a device."""
    import torch

    from fastrecur.torch._rnn import pooling
    from fastrecur.torch._rnn.segments import Cut

    def results(dtype, place, recurrence=None):
        leaves = [v.to(place, dtype).requires_grad_() for v in (product, c0)]
        options = {"keep": keep.to(place, dtype) if masked else keep, "output_gate": gated, "reverse": reverse}
        borders = {"offsets": offsets.to(place) if "offsets" in kind else None}
        borders["resets"] = flags[:, : rows[1]].to(place) if "resets" in kind else None
        options |= {"batch_sizes": sizes} if kind == "packed" else {} if kind == "padded" else {"cut": Cut(**borders)}
        h, last = pooling.pool(*leaves, recurrence=recurrence, **options)
        cotangents = [v.to(place, dtype) for v in (grad_h, grad_last)]
        return [v.detach().cpu().double() for v in (h, last, *torch.autograd.grad((h, last), leaves, cotangents))]

    steps, batch, width = 67, 5, 300
    sizes = torch.arange(steps, 0, -1).clamp(max=batch)
    dtypes = torch.float32, torch.float64, torch.bfloat16, torch.float16
    offsets, flags = torch.tensor([0, 0, 20, 21, 45, steps]), torch.rand(steps, batch) < 0.1
    kinds = "padded", "packed", "offsets", "resets", "offsets resets"
    problems = itertools.product(dtypes, *[(False, True)] * 3, kinds)
    for dtype, gated, reverse, masked, kind in itertools.islice(problems, begin, None, every):
        rows = (int(sizes.sum()),) if kind == "packed" else (steps, 1 if "offsets" in kind else batch)
        product, c0, grad_h, grad_last = (
            torch.randn(shape).to(dtype)
            for shape in ((*rows, (2 + gated) * width), (batch, width), (*rows, width), (batch, width))
        )
        keep = torch.randint(2, (*rows, width)) if masked else 0.9
        yield f"pooling {dtype} gated {gated} reverse {reverse} masked {masked} {kind}", dtype, results


def pooling_correctness(library, every=1):
    """Compare a QRNN's pooling and its gradient with the same composed in float64 on the CPU: as `correctness`."""
    import torch

    bounds = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 5e-3}
    for here, dtype, results in pooling_problems(every):
        try:
            wanted = results(torch.float64, "cpu", fastrecur.forget_mult)
            library.poison(1 << 17)
            torch.testing.assert_close(results(dtype, "cuda"), wanted, rtol=bounds[dtype], atol=bounds[dtype])
        except Exception as error:
            yield here, f"{type(error).__name__}: {error}"
        else:
            yield here, None


def compared(library, problems):
    """Compare what problems compute on a library's device with what is right: as `correctness`.

    A problem is its name, how far numbers may be off, and what returns its results: of arrays that a function has put
    somewhere, or, given None, those that are right.
    """
    for here, bound, results in problems:
        try:
            wanted = results(None)
            library.poison(1 << 17)
            for got, right in zip(results(library.put), wanted, strict=True):
                got, right = map(compare._wide, (library.get(got), right))
                np.testing.assert_allclose(got, right, rtol=0, atol=bound * np.nanmax(np.abs(right)))
        except Exception as error:
            yield here, f"{type(error).__name__}: {error}"
        else:
            yield here, None


BOUNDS = {"float64": 1e-11, "float32": 1e-5, "complex64": 1e-5, "float16": 1e-2, "bfloat16": 6e-2}


def selective_problems(has_bfloat16, every=1):
    """Yield selective scans, each so many-th, as `compared` takes them; with gradients in float32, and of some."""
    rng, ways = np.random.default_rng(0), ("bdl", "bld")
    dtypes = [dtype for dtype in _dtypes(has_bfloat16) if dtype != np.float64]
    cuts = {
        "": {},
        "offsets": {"offsets": np.array([0, 2, 2, 40, 70])},
        "resets": {"resets": rng.random((2, 70)) < 0.1},
    }
    problems = itertools.product(dtypes, ways, ("steps", "groups", "constant"), WAYS, cuts)
    for dtype, layout, maps, reverse, cut in itertools.islice(problems, 0, None, every):
        batch, rows = (1, 4) if cut == "offsets" else (2, 2)
        form = {"layout": layout, "maps": maps, "dtype": dtype, "rows": rows}
        given = compare.selective_operands(rng, batch, states=16, **form)
        options = {"delta_softplus": True, "layout": layout, "reverse": reverse}
        has_gradient = dtype == np.float32 or (maps, cut) == ("steps", "")
        name = f"selective {np.dtype(dtype)} {layout} {maps} reverse {reverse} {cut}"
        yield (
            name, BOUNDS[np.dtype(dtype).name],
            lambda put, own=(given, options, cuts[cut], has_gradient): _scanned(put, *own),
        )  # fmt: skip


def _scanned(put, given, options, cut, has_gradient):
    module = fastrecur if put else reference
    put = put or (lambda array: compare._wide(array) if array.dtype not in (bool, np.int64) else array)
    operands = list(map(put, given))
    options |= {name: put(end) for name, end in cut.items()}
    found = module.selective_scan(*operands, **options, return_state=True)
    return [*found, *(module.selective_scan_vjp(operands[0], *operands, **options) if has_gradient else ())]


SECTIONS = np.array([[0.2, 0.3, 0.1, 1.0, -1.4, 0.6], [1.0, 0.5, 0.25, 1.0, -0.9, 0.5]])


def _filters(rng, steps, count):
    """Return filters by name, and what they are given beside a signal, where time is the first axis."""
    near, states = 1 + 0.02 * rng.standard_normal((steps, count, 2, 6)), rng.standard_normal((2, 2, count))
    near[..., 3] = 1
    sections, poles = SECTIONS * near, 0.3 * rng.standard_normal((steps, count, 3))
    cut = {"reverse": True, "lengths": rng.integers(0, steps, count)}
    return {
        "sections": (sosfilt, {"sos": SECTIONS, "zi": states, **cut}),
        "gates": (follow, {"attack": 0.3, "release": 0.1}),
        "levels": (holt, {"alpha": rng.random((1, count)), "beta": 0.2, "phi": 0.9}),
        "sections of series": (sosfilt, {"sos": sections[0], "zi": states}),
        "sections of steps": (sosfilt, {"sos": sections, **cut}),
        "poles": (allpole, {"a": poles[0, 0], **cut}),
        "poles of steps": (allpole, {"a": poles, "zi": rng.standard_normal((3, count))}),
        "gates of series": (follow, {"attack": rng.random((1, count)), "release": 0.1}),
        "gates of steps": (follow, {"attack": 0.3, "release": rng.random((steps, count))}),
        "polynomials": (lfilter, {"b": np.array([0.2, 0.3]), "a": np.array([2.0, -1.4, 0.6]), **cut}),
    }


FEW_FILTERS = slice(0, 6, 2)  # one call a family


def filter_problems(is_torch, which=slice(None)):
    """Yield filters, and those of tensors with gradients, as `compared` takes them."""
    rng, steps, count = np.random.default_rng(0), 70, 40
    found, names = _filters(rng, steps, count), []
    for dtype in (np.float32, np.float64, np.complex64, *_dtypes(is_torch)[2:]):
        few = {np.float32: found, np.float64: [*found][3:6]}.get(dtype, ["sections", "levels"])
        few = [name for name in few if np.dtype(dtype).kind != "c" or found[name][0] is sosfilt]
        names += itertools.product([dtype], few, (0, 1))
    for dtype, name, axis in names[which]:
        function, given = found[name]
        x = rng.standard_normal((steps, count)) * (1 + 0.5j if np.dtype(dtype).kind == "c" else 1)
        if name == "levels":
            x[30:33, 3] = np.nan  # missing
        given = {"x": x.astype(dtype)} | given
        if axis == 1:  # and what has time, or 1 in its place, is turned, but for states
            for key, value in given.items():
                if np.ndim(value) > 1 and value.shape[:2] in ((steps, count), (1, count)):
                    given[key] = np.ascontiguousarray(np.swapaxes(value, 0, 1))
            given |= {"zi": np.ascontiguousarray(np.swapaxes(given["zi"], -1, -2))} if "zi" in given else {}
        yield (
            f"{name} {np.dtype(dtype)} axis {axis}", BOUNDS[np.dtype(dtype).name],
            lambda put, own=(function, given, axis, is_torch): _filtered(put, *own),
        )  # fmt: skip


def _filtered(put, function, given, axis, is_torch):
    if put is None:
        put = _put_wide if is_torch else compare._wide
    own = {name: put(v) if isinstance(v, np.ndarray) else v for name, v in given.items()}
    options = {} if function is holt else {"return_state": True}
    if not is_torch:
        return function(**own, axis=axis, **options)
    import torch

    leaves = [v.requires_grad_() for v in own.values() if isinstance(v, torch.Tensor) and not v.dtype == torch.int64]
    found = function(**own, axis=axis, **options)
    grads = torch.autograd.grad(found, leaves, [v.detach() for v in found])
    return [v.detach() for v in (*found, *grads)]


def _put_wide(array):
    import torch

    return torch.from_numpy(compare._wide(array) if array.dtype != np.int64 else array.copy())


def kernels(case):
    """Return the kernels of a problem and its gradient, of arrays in C order."""
    dtype = np.dtype(case.dtype)

    def signature(shape):
        strides = tuple(dtype.itemsize * int(np.prod(shape[k + 1 :])) for k in range(len(shape)))
        return dtype, shape, strides

    shape = np.broadcast_shapes(case.gate, case.value)
    lanes = shape[: case.axis] + shape[case.axis + 1 :]
    family, names = ("forget", ("f", "x")) if case.name == "forget_mult" else ("linear", ("a", "b"))
    is_complex = dtype.kind == "c" and not case.gate
    gate = signature(case.gate) if case.gate else (complex if is_complex else None)
    value, full = signature(case.value), signature(shape)
    state = signature(lanes if case.state is None else case.state)
    offsets = (np.dtype(np.int64), (8,), (8,)) if "offsets" in case.cuts else None
    resets = (np.dtype(bool), shape[: case.axis + 1], (1,) * (case.axis + 1)) if "resets" in case.cuts else None
    lengths = (np.dtype(np.int64), lanes[:1], (8,)) if case.lengths else None
    told = case.axis, case.reverse, checks.split(lengths, offsets, resets), is_complex
    plans = [
        _plan.forward(family, (*names, "h0"), gate, value, state, None, *told),
        _plan.vjp(family, ("grad_h", *names, "h"), (full, gate, value, full, state, None), *told),
    ]
    launches = [each for plan in plans for each in plan.launches if each.kernel != _plan.CLEAR]
    launches += [each for plan in plans for each in plan.finish]
    return {launch.kernel(s.kernel, s.rule, s.carry, s.options, s.elements, s.time) for s in launches}

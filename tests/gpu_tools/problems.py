"""One problem for every kernel of the GPU: what is walked, and along which axis."""

import itertools

import ml_dtypes
import numpy as np

from fastrecur._arguments import checks
from fastrecur._arguments.selective import Sizes
from fastrecur._arguments.shapes import c_strides
from fastrecur._cuda import filters, launch, plan as _plan, selective as _selective

FORGET, LINEAR = ("forget", ("f", "x")), ("linear", ("a", "b"))
DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
SHAPES = {
    "lanes": ((512, 131072), 0),
    "series": ((4096, 4096), 1),
    "tiles of lanes": ((65536, 512), 0),
    "tiles of series": ((64, 1 << 20), 1),
}


def kernels(dtype, family, case, total=False, cuts=()):
    """Return the kernels of a call and its gradient; ``total``: with one gate for all; ``cuts``: offsets, resets."""
    shape, axis = SHAPES[case]
    name, names = family
    dtype = np.dtype(dtype)
    full = dtype, shape, (shape[1] * dtype.itemsize, dtype.itemsize)
    gate = None if total else full
    lanes, segments = shape[1 - axis], 8
    state = dtype, (lanes,), (dtype.itemsize,)
    if "offsets" in cuts:
        state = dtype, (segments, lanes), (lanes * dtype.itemsize, dtype.itemsize)
    offsets, resets = (np.dtype(np.int64), (segments + 1,), (8,)), (np.dtype(bool), shape, (shape[1], 1))
    ends = [each if kind in cuts else None for kind, each in (("offsets", offsets), ("resets", resets))]
    ends = checks.split(None, *ends)
    plans = [
        _plan.forward(name, (*names, "h0"), gate, full, state, None, axis, False, ends),
        _plan.vjp(name, ("grad_h", *names, "h"), (full, gate, full, full, state, state), axis, False, ends),
    ]
    launches = [each for plan in plans for each in plan.launches if each.kernel != _plan.CLEAR]
    launches += [each for plan in plans for each in plan.finish]
    return [launch.Kernel(s.kernel, s.rule, s.carry, s.options, s.elements, s.time) for s in launches]


def pooling(dtype, gated=True, packed=False, masked=False, cuts=()):
    """Return the kernels of a QRNN's pooling and its gradient."""
    dtype = np.dtype(dtype)
    row = 64 * 640 * dtype.itemsize, 640 * dtype.itemsize
    keep = ("keep", dtype, row) if masked else ("keep", None, (0, 0))
    names = {"pool": ("product", "h", "states"), "pool_vjp": ("g", "product", "states", "first", "to_product")}
    kernels = []
    for name, operands in names.items():
        borders = {"offsets": (np.dtype(np.int64), (0, 8)), "resets": (np.dtype(bool), (64, 1))}
        operands = (*((operand, dtype, row) for operand in operands), keep, *((cut, *borders[cut]) for cut in cuts))
        made = _plan.pool(name, operands, 512, 64, 640, False, gated, packed).launches[0]
        kernels.append(
            launch.Kernel(made.kernel, made.rule, made.carry, made.options, made.elements, made.time)
        )  # fmt: skip
    return kernels


def label(kernel):
    """Return a kernel's name, with what tells it from others of that name."""
    options = dict(kernel.key[3])
    if "order" in options:
        return f"{kernel.name} {options['order']}" + " poles" * options["poles"] + " varying" * options["varies"]
    return kernel.name


def filtering(dtype, axes=(0, 1)):
    """Yield kernels of filters: of one section for all series and of one for each step, of poles, of levels."""
    dtype, shape = np.dtype(dtype), (512, 4096)
    x, wide = filters.Form(dtype, shape, c_strides(shape, dtype.itemsize)), np.dtype(np.float64)
    for axis in axes:
        for order, poles, lead in [(2, False, ()), (2, False, shape), (2, True, shape), (8, False, ()), (12, True, ())]:
            own = (*lead, 1, order if poles else 2 * (order + 1))
            sos = filters.Form(wide, own, c_strides(own, 8))
            forms = {"x": x, "sos": sos, "h0": None, "y": x}
            more = {"g": x, "to_x": x, "to_k": filters.Form(wide, (*shape, 1, 1), (8, 8, 8, 8))}
            for given in (forms, forms | more) if order < 8 else (forms,):
                made = filters.plan(tuple(given.items()), None, axis, False, poles, poles).launches[0]
                yield launch.Kernel(*made[:6])
        one = filters.Form(wide, (shape[0], 1) if axis else (1, shape[1]), (8, 8))
        k = dict.fromkeys(("level0", "trend0", "alpha", "beta", "phi"), one)
        results = {"waits": one, "y": x, "slope": x}
        for name, forms in (
            ("follow", {"attack": x, "release": x, "h0": one, "y": x, "last": one}),
            ("holt", k | results),
            ("holt_vjp", k | results | {"g": x, "g_slope": x, "to_x": x, "to_k": one}),
        ):
            made = filters.level_plan(name, tuple(({"x": x} | forms).items()), axis).launches[0]
            yield launch.Kernel(*made[:6])
    b, a, rows = (
        filters.Form(own, (512, n), c_strides((512, n), own.itemsize))
        for own, n in zip((dtype, wide, wide), (4, 3, 8), strict=True)
    )
    made = filters.level_plan("quotient", (("x", rows), ("b", b), ("a", a), ("y", rows)), 1).launches[0]
    yield launch.Kernel(*made[:6])


def scanning(dtype, states=16, layout="bdl", maps="steps", cuts=(), batch=2):
    """Return the kernels of a selective scan and its gradient: the scan, the same that keeps states, against time."""
    dtype, wide = np.dtype(dtype), np.dtype(np.float64 if dtype is np.float64 else np.float32)
    rows, batch, steps, channels = batch, 1 if "offsets" in cuts else batch, 2048, 1536

    def laid_out(shape, own=dtype):
        return own, shape, c_strides(shape, own.itemsize)

    timed = laid_out((batch, channels, steps) if layout == "bdl" else (batch, steps, channels))
    mapped = {
        "steps": (batch, states, steps) if layout == "bdl" else (batch, steps, states),
        "constant": (1536, states),
    }
    own, state = laid_out((channels,), wide), laid_out((rows, channels, states), wide)
    mapped, a = laid_out(mapped[maps]), laid_out((channels, states), wide)
    given, sizes = (
        (timed, timed, a, mapped, mapped, own, timed, own, state),
        Sizes(batch, steps, channels, states, rows),
    )
    offsets, resets = (np.dtype(np.int64), (rows + 1,), (8,)), (np.dtype(bool), (batch, steps), (steps, 1))
    ends = None, *(its if name in cuts else None for name, its in (("offsets", offsets), ("resets", resets)))
    known = given, ends, sizes, (True, layout, False)
    plans = _selective.plan(*known, timed), _selective.plan_vjp(*known, timed, state, given)
    launches = [each for plan in plans for each in plan.launches]
    return [launch.Kernel(s.kernel, s.rule, s.carry, s.options, s.elements, s.time) for s in launches]


def all_kernels():
    """Yield every kernel once for each recurrence and dtype that it is made for, with these."""
    for (recurrence, names), (dtype, kind) in itertools.product((FORGET, LINEAR), DTYPES.items()):
        seen = set()
        for case in SHAPES:
            for kernel in kernels(kind, (recurrence, names), case):
                made = kernel.name, dict(kernel.key[3]).get("across"), dict(kernel.key[3]).get("is_fix_up")
                if made not in seen:
                    seen.add(made)
                    yield kernel, recurrence, dtype
    for dtype, kind in DTYPES.items():
        for kernel in pooling(kind):
            yield kernel, "qrnn", dtype
        for kernel in filtering(kind, axes=(0,)):
            yield kernel, "filter", dtype
        for kernel in scanning(kind):
            yield kernel, "mamba", dtype

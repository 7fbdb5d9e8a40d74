"""Which kernels groups need: of problems by their shapes alone; where torch is asked, of calls that are only noted."""

import contextlib
import pathlib
import sys
from typing import NamedTuple

import correctness
import numpy as np

import fastrecur
from fastrecur._cuda import call as _call, plan

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "gpu_tools"))


class Row(NamedTuple):
    """A call that is timed: see `Bench.timed`."""

    what: str
    predicted: str
    shape: tuple
    axis: int = 0
    dtype: str = "float32"
    gradient: bool = False
    caches: tuple = ("warm",)
    name: str = "forget_mult"
    unsplit: bool = False


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


# ---- Kernels ---------------------------------------------------------------------------------------------------------


def in_order(found):
    """Return kernels without repetition, in an order that is the same every time."""
    return sorted(set(found), key=lambda kernel: repr(kernel.key))


def of_cases(cases):
    """Return the kernels of problems and their gradients."""
    return in_order(kernel for case in cases for kernel in correctness.kernels(case))


def of_rows(rows):
    """Return the kernels of what is timed."""
    found = []
    for row in rows:
        case = correctness.Case(row.name, row.shape, row.shape, np.dtype(row.dtype), row.axis, False)
        kernels = unsplit(lambda case=case: correctness.kernels(case)) if row.unsplit else correctness.kernels(case)
        found += [each for each in kernels if row.gradient or not each.name.endswith(("_vjp", "sums"))]
    return in_order(found)


def of_calls(*functions):
    """Return the kernels that functions launch, for which CPU tensors count as a GPU's; none without torch."""
    try:
        import tensors
    except ImportError:
        return []
    driver, before = Noted(), []

    def replace(owner, name, value):
        before.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [setattr(*each) for each in reversed(before)])
        tensors.place(driver, replace)
        stack.enter_context(tensors.OnGpu())
        for function in functions:
            function()
    return in_order(driver.kernels)


def of_pooling(every=1):
    """Return the kernels of a QRNN's pooling, as `pooling_correctness` asks for it."""
    return of_calls(lambda: [results(dtype, "cpu") for _, dtype, results in correctness.pooling_problems(every)])


def of_problems(make, *arguments):
    """Return the kernels of what `correctness.compared` takes, which a function makes of whether it is for torch."""
    return of_calls(lambda: [results(put_tensor) for *_, results in make(True, *arguments)])


def put_tensor(array):
    """Return a tensor, on the CPU."""
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(np.ascontiguousarray(array))


class Noted:
    """A driver that notes what it is to launch."""

    def __init__(self):
        self.kernels, self.memory, self.log = [], [], []

    def own(self, array, device=0):
        return array

    def start(self, launches, places, device, stream):
        self.kernels += [kernel for kernel, *_ in launches if kernel is not None]

    def is_capturing(self, device, stream):
        return False


def use_pooling(begin, every=1000):
    """Make the CPU's kernels with which poolings are compared; without torch none are."""
    with contextlib.suppress(ImportError):
        import torch

        for _, _, results in correctness.pooling_problems(every, begin):
            results(torch.float64, "cpu", fastrecur.forget_mult)


def use_filters(which):
    """Make the CPU's kernels with which some filters are compared; without torch none are."""
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401

        for *_, results in correctness.filter_problems(True, which):
            results(None)


def use_host(row):
    """Make the CPU's kernels with which some series of a row are compared."""
    steps = min(row.shape[row.axis], 100_000)
    f = np.full((steps, 17) if row.axis == 0 else (17, steps), 0.5)
    h = getattr(fastrecur, row.name)(f, f, axis=row.axis)
    if row.gradient:
        getattr(fastrecur, row.name + "_vjp")(f, f, f, h, axis=row.axis)

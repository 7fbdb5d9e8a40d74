"""Measure what a call on a GPU costs its host, the driver's own work left out. Needs no GPU.

Every call to the driver is replaced by one that does nothing. Tensors of the CPU stand for a GPU's: in the text of the
module that tells them apart, the two words for it are swapped. Other arrays are stand-ins in Python, slower than the
real ones in C. Launches are counted: a call that does not launch is wrong.
"""

import argparse
import inspect
import itertools
import json
import statistics
import sys
import time
import types
import warnings
from pathlib import Path

import numpy as np
import report
import torch
from tqdm import tqdm

import fastrecur
import fastrecur.torch
from fastrecur._cuda import arrays, launch, plan
from fastrecur.torch._operator import call as _call, device_tensors, eager, modes, ops, short_calls

SHAPE = 16, 32
MUST = {"tensors": (8.0, 4.0), "interface": (12.0, 6.0)}


class Driver(launch.CudaCore):
    """The way to a card, which ends where the driver would begin."""

    launches = 0

    def __init__(self):
        self.core = types.SimpleNamespace(launch=self.started)
        self.api = types.SimpleNamespace(
            cuCtxGetCurrent=lambda: (0, 5), cuCtxPushCurrent=lambda context: (0,), cuCtxPopCurrent=lambda: (0,),
            cuMemsetD32Async=self.filled, cuMemAllocAsync=lambda size, stream: (0, 256),
            cuMemFreeAsync=lambda address, stream: (0,), cuStreamIsCapturing=lambda stream: (0, 0),
            CUresult=types.SimpleNamespace(CUDA_ERROR_NOT_SUPPORTED=801),
        )  # fmt: skip
        self.contexts, self.queue, self.config = {0: 5}, lambda handle: self, lambda grid, threads: None

    def started(self, *arguments):
        Driver.launches += 1

    def filled(self, *arguments):
        Driver.launches += 1
        return (0,)

    def wait(self, other):
        pass

    def load(self, kernel, device, stream=0):
        kernel.loaded[device] = kernel
        return kernel

    def device_of(self, pointer):
        return 0


def replace_torch():
    """Let CPU tensors be a GPU's."""
    for module in (modes, eager, _call, short_calls):  # each as it imports the ones before it
        text = inspect.getsource(module)
        text = text.replace("is_cpu", "is_\0").replace("is_cuda", "is_cpu").replace("is_\0", "is_cuda")
        exec(compile(text, module.__file__, "exec"), vars(module))
    library = torch.library.Library("fastrecur", "IMPL")
    allowed = {"allow_override": True} if "allow_override" in inspect.signature(library.impl).parameters else {}
    for (family, name), (suffix, run, place) in itertools.product(
        ops.NAMES.items(), (("", ops._forward_cuda, 3), ("_backward", ops._vjp_cuda, 6))
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not allowed:  # of a torch that has no word for it
                torch.library._impls.discard(f"fastrecur/{name}{suffix}/CPU")
            library.impl(name + suffix, ops.kernel(run, family, place), "CPU", **allowed)
    device_tensors._on_host = lambda value: value
    device_tensors._lengths = lambda lengths: lengths
    arrays.is_on_device = lambda value: isinstance(value, (torch.Tensor, Interface))
    return library


class Torch(arrays.Torch):
    """Allocates on the CPU; the stream is the driver's to say."""

    def __init__(self, kind):
        super().__init__(kind)
        self.raw_stream = lambda device: 7
        self.library = types.SimpleNamespace(**vars(torch) | {"device": lambda kind, number: torch.device("cpu")})

    def view(self, name, array):
        return super().view(name, array)._replace(device=0)


class Interface:
    """An array known by its interface, built anew each time it is asked for, as CuPy's is."""

    def __init__(self, array):
        self.array, self.pointer = array, array.ctypes.data

    @property
    def __cuda_array_interface__(self):
        return {
            "shape": self.array.shape, "typestr": "<f4", "descr": [("", "<f4")], "strides": None, "version": 3,
            "data": (self.pointer, False), "stream": 1,
        }  # fmt: skip


class Allocator:
    """numba.cuda's part: hands out what it has."""

    def __init__(self):
        self.gpus, self.array = [self], Interface(np.empty(SHAPE, np.float32))

    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass

    def device_array(self, shape, dtype, strides=None, stream=0):
        return self.array


def microseconds(call, repeats, calls):
    """Return the median over repeats of a call's time, and how often it launched."""
    for _ in range(min(50, calls)):
        call()
    before = Driver.launches
    call()
    launched, taken = Driver.launches - before, []
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(calls):
            call()
        taken.append((time.perf_counter() - began) / calls)
    return 1e6 * statistics.median(taken), launched


LONG = 3000, 40  # whose time is cut: a call is several launches, as many as its plan says


def cases():
    """Yield a name, what is due (must, aim) or None, how many launches, and the call."""
    f, x = torch.rand(SHAPE), torch.randn(SHAPE)
    h = fastrecur.forget_mult(f, x)
    yield "tensors", MUST["tensors"], 1, lambda: fastrecur.forget_mult(f, x)
    yield "tensors, a number as gate", MUST["tensors"], 1, lambda: fastrecur.forget_mult(0.5, x)
    yield "tensors, return_state", MUST["tensors"], 1, lambda: fastrecur.forget_mult(f, x, return_state=True)
    yield "tensors, the gradient's function", MUST["tensors"], 1, lambda: fastrecur.forget_mult_vjp(x, f, x, h)
    state = torch.zeros(SHAPE[1:])
    yield "tensors, a first state", MUST["tensors"], 1, lambda: fastrecur.forget_mult(f, x, state)
    yield "tensors, its gradient's function", MUST["tensors"], 1, lambda: fastrecur.forget_mult_vjp(x, f, x, h, state)
    wanted = f.clone().requires_grad_()
    yield "tensors that require grad, forward", None, 1, lambda: fastrecur.forget_mult(wanted, x)
    ones = torch.ones(SHAPE)

    def both():
        fastrecur.forget_mult(wanted, x).backward(ones)

    yield "tensors that require grad, both directions", None, 2, both
    a, b = torch.rand(LONG), torch.randn(LONG)
    signature = np.dtype(np.float32), LONG, (4 * LONG[1], 4)
    several = len(plan.forward("forget", ("f", "x", "h0"), signature, signature, None, None, 0, False, None).launches)
    yield "tensors, look-back", None, several, lambda: fastrecur.forget_mult(a, b)
    p, q = Interface(np.zeros(SHAPE, np.float32)), Interface(np.zeros(SHAPE, np.float32))
    yield "interface", MUST["interface"], 1, lambda: fastrecur.forget_mult(p, q)
    c, d = Interface(np.zeros(LONG, np.float32)), Interface(np.zeros(LONG, np.float32))
    yield "interface, look-back", None, several, lambda: fastrecur.forget_mult(c, d)
    yield "interface, the gradient's function", MUST["interface"], 1, lambda: fastrecur.forget_mult_vjp(q, p, q, p)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there")
    parser.add_argument("--check", action="store_true", help="only count launches, of two calls of each kind")
    options = parser.parse_args(arguments)
    repeats, calls = (1, 1) if options.check else (5, 500) if options.quick else (31, 500)
    driver, allocator = Driver(), Allocator()
    launch.driver, arrays.numba_cuda, arrays.Torch = lambda: driver, lambda: allocator, Torch
    kept, rows, began = replace_torch(), [], time.perf_counter()
    for name, due, launches, call in tqdm(list(cases()), file=sys.stderr):
        spent, launched = microseconds(call, repeats, calls)
        must, aim = due or (None, None)
        rows.append(dict(case=name, microseconds=spent, must=must, aim=aim, is_wrong=launched != launches))
    given, seconds = sys.argv[1:] if arguments is None else arguments, time.perf_counter() - began
    about = report.about(__file__, given, fastrecur.get_num_threads(), seconds, report.TENSORS)
    print(f"{report.title(about)}\nmicroseconds a call")
    for row in rows:
        due = f"limit {row['must']:g}, goal {row['aim']:g}" if row["must"] else ""
        print(f"{row['case']:<44}{row['microseconds']:>7.2f}  {due}{'  WRONG' if row['is_wrong'] else ''}")
    if options.json:
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1))
    del kept
    return any(row["is_wrong"] for row in rows)


if __name__ == "__main__":
    sys.exit(main())

"""What a QRNN takes where it is compiled, exported, packed or cut, beside the same network called as it is.

Two layers of 256 units on a batch of 8, in inference and training, with a fresh program for each row. Every result, and
every gradient, is compared with the plain call's first. Ratios are of medians of interleaved repeats in one run: of the
way's time to the plain call's of the same input, but for rows of `offsets` and `resets` to the call without them. What
compiling itself takes is not in it.
"""

import argparse
import itertools
import sys
import tempfile
import time
import warnings

import report
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from tqdm import tqdm
from turns import medians

from fastrecur.torch import QRNN

STEPS, BATCH, UNITS = 128, 8, 256


def inputs(steps):
    """Yield what a network is given: a name, the input and the keyword arguments."""
    x, generator = torch.randn(steps, BATCH, UNITS), torch.Generator().manual_seed(1)
    lengths = torch.randint(1, steps + 1, (BATCH,), generator=generator)
    yield "padded", x, {}
    yield "PackedSequence", pack_padded_sequence(x, lengths, enforce_sorted=False), {}
    yield "PackedSequence, in order", pack_padded_sequence(x, lengths.sort(descending=True)[0]), {}
    rows = x.flatten(0, 1)
    yield "offsets", rows, {"offsets": torch.arange(0, len(rows) + 1, steps // 2)}
    yield "resets", x, {"resets": torch.rand(steps, BATCH, generator=generator) < 0.02}


def tensors(value):
    """Return the tensors of a call's results, of packed ones the rows."""
    if isinstance(value, PackedSequence):
        return [value.data]
    return [value] if isinstance(value, torch.Tensor) else [v for part in value for v in tensors(part)]


def training(call, parameters):
    """Return a step without a loss and an optimiser: the gradients of the weights."""

    def step():
        output = tensors(call())[0]
        return [output, *torch.autograd.grad(output, parameters, gradient)]

    with torch.no_grad():
        gradient = torch.randn(tensors(call())[0].shape, generator=torch.Generator().manual_seed(2))
    return step


def inference(call):
    def run():
        with torch.no_grad():
            return tensors(call())

    return run


def exported(model, x):
    """Return a program of AOTInductor."""
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        program = torch.export.export(model, (x,))
        package = torch._inductor.aoti_compile_and_package(program, package_path=f"{folder}/qrnn.pt2")
        return torch._inductor.aoti_load_package(package)


def ways(model, value, given, name, mode):
    """Return the calls of a network: as it is, compiled, exported, and without borders."""
    torch._dynamo.reset()  # or a program would be made for every size after some
    compiled = torch.compile(model, fullgraph=True)
    calls = {"eager": lambda: model(value, **given), "compiled": lambda: compiled(value, **given)}
    if given:
        calls["without"] = lambda: model(value)
    if (name, mode) == ("padded", "inference"):
        program = exported(model, value)
        calls["AOTInductor"] = lambda: program(value)
    parameters = list(model.parameters())
    return {k: inference(c) if mode == "inference" else training(c, parameters) for k, c in calls.items()}


def rows(options):
    """Yield the lines of the report."""
    for window in options.windows:
        model = QRNN(UNITS, UNITS, 2, window=window)
        for (name, value, given), mode in itertools.product(inputs(options.steps), ("inference", "training")):
            calls = ways(model, value, given, name, mode)
            expected = calls["eager"]()
            for way in calls.keys() - {"without"}:
                torch.testing.assert_close(calls[way](), expected, rtol=1e-4, atol=1e-4)
            took, case = medians(calls, options.seconds, 5, warm=True), f"{name}, window {window}, {mode}"
            for way in ("compiled", "AOTInductor"):
                if way in took:
                    yield line(case, way, took[way], "eager", took["eager"])
            if given:
                yield line(case, "eager", took["eager"], "without", took["without"])


def line(case, way, own, other, least):
    return f"  {case:46}{way:13}{own / least:6.2f} of {other:8}({own * 1e3:6.2f} and {least * 1e3:6.2f} ms)"


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    options, began = parser.parse_args(arguments), time.perf_counter()
    torch.manual_seed(0)
    warnings.simplefilter("ignore")  # what torch's compilers say of themselves
    lines = list(tqdm(rows(options), file=sys.stderr, unit="row", dynamic_ncols=True))
    about = report.about(
        __file__, arguments, torch.get_num_threads(), time.perf_counter() - began, report.TENSORS
    )  # fmt: skip
    print("\n".join([report.title(about), "", *lines]))


if __name__ == "__main__":
    main(sys.argv[1:])

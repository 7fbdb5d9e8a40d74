"""Measure the QRNN layer against nn.LSTM, nn.GRU and its own matrix product, over the grid of the paper's Figure 4.

Measures the checkout that this file lies in. Every cell's output, and its gradients, are compared with a plain loop in
float64 first; where they are wrong there is no ratio, and the exit status is 1. Ratios are of medians of interleaved
repeats in one run.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import report
import torch
import turns
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from tqdm import tqdm

from fastrecur.torch import QRNN, QRNNLayer
from fastrecur.torch._rnn.pool import BLOCK
from fastrecur.torch._rnn.pooling import pool

UNITS = 320
BATCHES, LENGTHS = (8, 16, 32, 64, 128, 256), (32, 64, 128, 256, 512)
QUICK_BATCHES, QUICK_LENGTHS = (8, 64, 256), (32, 128)
FEW_ROWS = 1024  # below, a call's fixed costs count
MODES = "inference", "training"
# Of the layer's time: the most to its product's, and the least of the others to it; required, and hoped for.
REQUIRED = {
    ("inference", "linear"): (1.20, 1.0), ("training", "linear"): (1.35, 1.15), ("inference", "LSTM"): (2.0, 2.5),
    ("inference", "GRU"): (2.0, 2.5), ("training", "LSTM"): (2.0, 3.0),
}  # fmt: skip
REQUIRED_OF_FEW_ROWS = 1.35
MEMORY, PACKED = (1.0, 0.7), (0.65, 0.55)


def main(arguments):
    options = parse(arguments)
    device, began = torch.device(options.device), time.perf_counter()
    torch.manual_seed(0)
    batches, lengths = (QUICK_BATCHES, QUICK_LENGTHS) if options.quick else (BATCHES, LENGTHS)
    cells = [Cell(f"{b} x {t}", (t, b, UNITS), layer_models, options) for b in batches for t in lengths]
    for window in (1, 2):
        cells.append(Cell(f"PTB, window {window}", (105, 20, 640), ptb_models, options, window=window))
    rows = []
    with tqdm(
        total=2 * len(cells) + (2 if options.quick else 3), unit="case", file=sys.stderr, dynamic_ncols=True
    ) as bar:
        for cell in cells:
            for mode in MODES:
                bar.set_description(f"{cell.name} {mode}")
                rows.append(cell.measure(mode, device))
                bar.update()
        bar.set_description("packed")
        packed = [packed_row(mode, device, options) for mode in MODES]
        bar.update()
        bar.set_description("memory")
        memory = []
        for name in ("PTB",) if options.quick else ("PTB", "layer"):
            memory.append(memory_row(name, options.device))
            bar.update()
    about = report.about(
        __file__, arguments, torch.get_num_threads(), time.perf_counter() - began, report.TENSORS,
        torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    )  # fmt: skip
    print(table(about, rows, packed, memory))
    if options.json:
        figures = {"about": about, "cells": rows, "packed": packed, "memory": memory}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.chart:
        import qrnn_chart

        qrnn_chart.draw(options.chart, rows, about)
    return 1 if any(row["error"] for row in rows) else 0


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="six cells of the grid, fewer repeats")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there")
    parser.add_argument("--chart", metavar="FILE", type=Path, help="draw the grid there (png, svg)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    return parser.parse_args(arguments)


def layer_models(device):
    own = QRNNLayer(UNITS, UNITS, device=device)
    return {
        "QRNN": own, "linear": own.linear, "LSTM": nn.LSTM(UNITS, UNITS, device=device),
        "GRU": nn.GRU(UNITS, UNITS, device=device),
    }  # fmt: skip


def ptb_models(device, window):
    own = QRNN(640, 640, 2, window=window, device=device)
    return {"QRNN": own, "LSTM": nn.LSTM(640, 640, 2, device=device), "GRU": nn.GRU(640, 640, 2, device=device)}


class Cell:
    """One shape, and what is measured at it."""

    def __init__(self, name, shape, models, options, **arguments):
        self.name, self.shape, self.models, self.options, self.arguments = name, shape, models, options, arguments

    def measure(self, mode, device):
        """Return the median seconds of each model, or what is wrong."""
        models = self.models(device, **self.arguments)
        x = torch.randn(self.shape, device=device, requires_grad=mode == "training")
        error = wrong(models["QRNN"], x)
        row = {"case": self.name, "steps": self.shape[0], "batch": self.shape[1], "mode": mode, "error": error}
        if error:
            return row
        step = inference if mode == "inference" else training
        calls = {name: step(model, x) for name, model in models.items()}
        if "linear" in models:
            calls["pooling"] = pooling(x, mode)
        return row | {"seconds": medians(calls, device, self.options.quick)}


def pooling(x, mode):
    """Return the pooling of a layer's products without their making: where a layer's time goes beside its product."""
    steps, batch = x.shape[:2]
    if mode == "training":
        return training(lambda product: pool(product)[0], torch.randn(steps, batch, 3 * UNITS, device=x.device))
    n = min(steps, max(1, BLOCK // batch)) if x.device.type == "cpu" else steps
    block, blocks = torch.randn(n, batch, 3 * UNITS, device=x.device), -(-steps // n)

    def run():
        with torch.no_grad():
            for _ in range(blocks):
                pool(block)

    return run


def inference(model, x):
    def run():
        with torch.no_grad():
            return model(x)

    return run


def training(model, x):
    """Return a step without its loss and optimiser: the gradients of the weights and of the input."""
    x = x.requires_grad_() if isinstance(x, torch.Tensor) else x
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    tensors = [x if isinstance(x, torch.Tensor) else x.data, *parameters]
    gradient = None

    def run():
        nonlocal gradient
        output = model(x)
        output = output[0] if isinstance(output, tuple) else output
        output = output if isinstance(output, torch.Tensor) else output.data
        if gradient is None:
            gradient = torch.randn_like(output)
        return torch.autograd.grad(output, tensors, gradient)

    return run


def medians(calls, device, quick):
    """Return median seconds of each call, each right after one of its own that is not timed."""
    budget, fewest = (1.0, 3) if quick else (6.0, 5)
    return turns.medians(calls, budget, fewest, 200, warm=True, wait=lambda: wait(device))


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def wrong(model, x):
    """Return what differs from a loop over the steps in float64, at the first and the last lane, or None."""
    few = x.detach()[:, [0, -1]]
    try:
        with torch.no_grad():
            output, state = model(x)
        wide, last = loop(model, few.double(), [p.detach().double() for p in model.parameters()])
        close(output[:, [0, -1]], wide)
        close(state[-1:, [0, -1]], last)
        gradient = torch.randn_like(wide)
        few.requires_grad_()
        doubles = [v.detach().double().requires_grad_() for v in (few, *model.parameters())]
        wide = torch.autograd.grad(loop(model, doubles[0], doubles[1:])[0], doubles, gradient)
        actual = torch.autograd.grad(model(few)[0], [few, *model.parameters()], gradient.float())
        for one, other in zip(actual, wide, strict=True):
            close(one, other)
    except AssertionError as error:
        return str(error)
    return None


def close(actual, wide):
    torch.testing.assert_close(actual.double(), wide, rtol=1e-3, atol=1e-5 * max(1, wide.abs().max().item()))


def loop(model, x, parameters):
    """Return the output and the last layer's last state, step by step."""
    layers = [model] if isinstance(model, QRNNLayer) else model.layers
    for k, layer in enumerate(layers):
        earlier = torch.cat([x.new_zeros(1, *x.shape[1:]), x[:-1]])
        source = torch.cat([x, earlier][: layer.window], -1)
        product = source @ parameters[2 * k].T + parameters[2 * k + 1]
        z, f, o = product.chunk(3, -1)
        z, f, c, states = z.tanh(), f.sigmoid(), torch.zeros_like(z[0]), []
        for t in range(len(z)):
            c = f[t] * z[t] + (1 - f[t]) * c
            states.append(c)
        x = o.sigmoid() * torch.stack(states)
    return x, c[None]


def packed_row(mode, device, options):
    """Measure packed lanes, of lengths uniform in 1..T, against the padded ones."""
    steps, lanes = (256, 32) if options.quick else (512, 64)
    layer, lstm = QRNN(UNITS, UNITS, device=device), nn.LSTM(UNITS, UNITS, device=device)
    lengths = torch.randint(1, steps + 1, (lanes,), generator=torch.Generator().manual_seed(1))
    x = torch.randn(steps, lanes, UNITS, device=device)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    if mode == "training":
        x.requires_grad_()
        packed.data.requires_grad_()
    step = inference if mode == "inference" else training
    calls = {
        "padded": step(layer, x), "packed": step(layer, packed), "LSTM padded": step(lstm, x),
        "LSTM packed": step(lstm, packed),
    }  # fmt: skip
    return {
        "mode": mode,
        "valid": lengths.sum().item() / x.shape[:2].numel(),
        "seconds": medians(calls, device, options.quick),
    }


# What a training step takes beyond the weights, in a process of its own.
STEP = """
import sys, torch
sys.path[:0] = [{root!r}, {root!r} + "/tests/benchmarks"]
from qrnn_run import layer_models, ptb_models, training
device = torch.device({device!r})
is_layer = {name!r} == "layer"
models, shape = (layer_models(device), (512, 64, 320)) if is_layer else (ptb_models(device, 2), (105, 20, 640))
model = models[{model!r}]
training(model, torch.randn(8, *shape[1:], device=device, requires_grad=True))()  # load what a step needs
step = training(model, torch.randn(shape, device=device, requires_grad=True))
def of_process(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) << 10
if device.type == "cuda":
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    print(torch.cuda.max_memory_allocated() - before)
else:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # let the high-water mark begin here
    before = of_process("VmRSS")
    step()
    print(of_process("VmHWM") - before)
"""


def memory_row(name, device):
    """Return the bytes that a training step of each model takes."""
    taken = {}
    for model in ("QRNN", "LSTM", "GRU"):
        script = STEP.format(root=str(report.ROOT), device=device, name=name, model=model)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        taken[model] = int(done.stdout)
    return {"case": {"layer": "64 x 512", "PTB": "PTB, window 2"}[name], "bytes": taken}


def table(about, rows, packed, memory):
    """Return the figures as text."""
    lines = [report.title(about), ""]
    for mode in MODES:
        lines.append(
            f"{mode}, float32, ms: batch x steps; pooling is without its product; ratios are the layer's time to its "
            "product's, and others' to the layer's"
        )
        lines.append(
            f"  {'':16}{'QRNN':>9}{'linear':>9}{'LSTM':>9}{'GRU':>9}{'pooling':>9}   "
            f"{'/linear':>8}{'LSTM/':>8}{'GRU/':>8}"
        )
        lines += [line(row) for row in rows if row["mode"] == mode]
        lines.append("")
    for (mode, name), (must, aim) in REQUIRED.items():
        lines.append(f"{mode} against {name}: {verdict(rows, mode, name)}; limit {must}, goal {aim}")
    for row in packed:
        t = row["seconds"]
        lines.append(
            f"packed, {row['valid']:.2f} of the steps valid, {row['mode']}: {t['packed'] / t['padded']:.2f} of the "
            f"padded time ({t['packed'] * 1e3:.1f} and {t['padded'] * 1e3:.1f} ms; nn.LSTM "
            f"{t['LSTM packed'] * 1e3:.1f} and {t['LSTM padded'] * 1e3:.1f} ms); limit {PACKED[0]}, goal {PACKED[1]}"
        )
    for row in memory:
        taken = {name: count / 2**20 for name, count in row["bytes"].items()}
        lines.append(
            f"peak memory of a training step, {row['case']}: {taken['QRNN'] / taken['LSTM']:.2f} of nn.LSTM's "
            f"({taken['QRNN']:.0f} and {taken['LSTM']:.0f} MiB; nn.GRU {taken['GRU']:.0f}); limit {MEMORY[0]}, goal "
            f"{MEMORY[1]}"
        )
    return "\n".join(lines)


def line(row):
    if row["error"]:
        return f"  {row['case']:16} WRONG: {row['error'].splitlines()[0]}"
    times = [row["seconds"].get(name) for name in ("QRNN", "linear", "LSTM", "GRU", "pooling")]
    own, linear, lstm, gru, _ = times
    ratios = [own / linear if linear else None, lstm / own, gru / own]
    text = "".join(f"{t * 1e3:9.2f}" if t else f"{'':9}" for t in times)
    return f"  {row['case']:16}{text}   " + "".join(f"{r:8.2f}" if r else f"{'':8}" for r in ratios)


def verdict(rows, mode, name):
    """Return the range of a ratio over the grid, and where it is outside its limit."""
    ratios = {}
    for row in rows:
        if row["mode"] == mode and not row["error"] and name in row["seconds"]:
            own, other = row["seconds"]["QRNN"], row["seconds"][name]
            ratios[row["case"]] = (own / other if name == "linear" else other / own), row["steps"] * row["batch"]
    must, _ = REQUIRED[mode, name]
    missed = []
    for case, (ratio, count) in ratios.items():
        limit = REQUIRED_OF_FEW_ROWS if (mode, name) == ("inference", "linear") and count < FEW_ROWS else must
        if (ratio > limit) if name == "linear" else (ratio < limit):
            missed.append(case)
    values = [ratio for ratio, _ in ratios.values()]
    return f"{min(values):.2f} to {max(values):.2f}" + (
        f", outside the limit at {', '.join(missed)}" if missed else ", all within the limit"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

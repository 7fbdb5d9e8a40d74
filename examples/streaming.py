"""A QRNN on a live stream: one `step` for each new sample gives the outputs of the whole sequence, in constant time.

The alternative is to run the network again on all that has arrived, which takes longer with every sample. Prints the
largest difference between the two and the time of a step, and saves a chart, in about 3 s on two cores:

    python examples/streaming.py [--samples N] [--output FILE]
"""

import argparse
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
import torch

from fastrecur.torch import QRNN

CHANNELS, UNITS = 8, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)  # the matrices are small
    rnn = QRNN(CHANNELS, UNITS, 2, window=2).eval()
    samples = torch.randn(options.samples, CHANNELS)
    lengths = sorted({max(2, options.samples * k // 20) for k in range(1, 21)})
    spent: list[float] = []
    again: list[float] = []
    with torch.no_grad():
        whole, _ = rnn(samples)
        state, outputs = rnn.initial_state(), []
        for sample in samples:
            began = time.perf_counter()
            output, state = rnn.step(sample, state)
            spent.append(time.perf_counter() - began)
            outputs.append(output)
        for length in lengths:
            times = []
            for _ in range(6):  # the first call may compile
                began = time.perf_counter()
                rnn(samples[:length])
                times.append(time.perf_counter() - began)
            again.append(min(times))

    difference = (torch.stack(outputs) - whole).abs().max().item()
    print(f"{options.samples} samples of {CHANNELS} channels, two layers of {UNITS} units")
    print(f"   steps and the whole sequence differ by at most {difference:.0e}")
    print(f"   time of a step {1e6 * min(spent):.0f} us; again from the first of "
          f"{lengths[-1]} samples {1e6 * again[-1]:.0f} us")  # fmt: skip
    plot(options.output, spent, lengths, again)
    print(f"Saved {options.output}")
    if difference > 1e-5:
        raise SystemExit("the steps do not give the whole sequence's outputs")


def plot(output: Path, spent: list[float], lengths: list[int], again: list[float]) -> None:
    figure, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
    blocks = [(a + b) // 2 for a, b in zip([0, *lengths], lengths, strict=False)]
    least = [min(spent[a:b]) for a, b in zip([0, *lengths], lengths, strict=False)]
    ax.plot(lengths, [1e3 * s for s in again], "o-", color="#D55E00", label="the network again on all samples")
    ax.plot(blocks, [1e3 * s for s in least], "o-", color="#0072B2", label="one step from the state")
    ax.set(xlabel="samples so far", ylabel="ms for the next output", yscale="log")
    ax.set_title("Time of one new output: the least of several")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    figure.savefig(output, dpi=120)


if __name__ == "__main__":
    main()

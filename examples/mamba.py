"""Mamba on a laptop: transformers' model learns Shakespeare's characters with fastrecur's selective scan.

A small Mamba [1] with random weights is trained for some steps, and a copy of it for as long by transformers' own loop
over the steps of a sequence. Then the trained one writes text, one character after another, by either. Prints the
losses, the time of a step, the characters a second and a sample, and saves a chart of the loss over time, in about a
minute on two cores:

    python examples/mamba.py [--steps N] [--length L] [--output FILE]

[1] A. Gu, T. Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv:2312.00752
"""

import argparse
import contextlib
import copy
import gzip
import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
import torch
import transformers
from tqdm import tqdm

from fastrecur.torch.mamba import patch_transformers

TEXT = Path(__file__).resolve().parent / "data" / "tinyshakespeare.txt.gz"
BATCH, WRITTEN = 8, 200
Step = tuple[float, float]  # the time since the first one began, and the loss
OURS, THEIRS = "fastrecur's scan", "transformers' loop"


def batches(text: torch.Tensor, length: int) -> Iterator[torch.Tensor]:
    """Yield batches of segments that begin anywhere in the text, the same ones in every run."""
    draw = torch.Generator().manual_seed(0)
    while True:
        starts = torch.randint(len(text) - length, (BATCH, 1), generator=draw)
        yield text[starts + torch.arange(length)]


def train(model: torch.nn.Module, data: Iterator[torch.Tensor], steps: int, seconds: float, name: str) -> list[Step]:
    """Train for some steps, or until the time is over; return its steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps + 1)
    curve, began = [], time.perf_counter()
    for _, tokens in zip(tqdm(range(steps), desc=name), data, strict=False):
        loss = model(tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        curve.append((time.perf_counter() - began, loss.item()))
        if curve[-1][0] > seconds:
            break
    return curve


def write(model: torch.nn.Module, prompt: torch.Tensor, count: int = WRITTEN) -> tuple[torch.Tensor, float]:
    """Return a sample, and how many characters a second were written."""
    torch.manual_seed(1)
    began = time.perf_counter()
    tokens = model.eval().generate(prompt, max_new_tokens=count, do_sample=True, temperature=0.8)
    return tokens[0], count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--length", type=int, default=192)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()

    transformers.utils.logging.set_verbosity_error()  # of what it has no kernels for
    letters = gzip.open(TEXT, "rt").read()
    characters = sorted(set(letters))
    index = {character: k for k, character in enumerate(characters)}
    text = torch.tensor([index[character] for character in letters])
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = transformers.MambaConfig(vocab_size=len(characters), hidden_size=128, num_hidden_layers=3, **ends)
    torch.manual_seed(0)
    model = transformers.MambaForCausalLM(config)
    models = {OURS: model, THEIRS: copy.deepcopy(model)}

    curves, speeds, samples, seconds = {}, {}, {}, float("inf")
    for name, model in models.items():
        with patch_transformers() if name == OURS else contextlib.nullcontext():
            if name == OURS:
                train(copy.deepcopy(model), batches(text, options.length), 1, seconds, "compile")
            curves[name] = train(model, batches(text, options.length), options.steps, seconds, name)
        seconds = curves[OURS][-1][0]
    for name in models:  # the model that has learned, by both
        with patch_transformers() if name == OURS else contextlib.nullcontext():
            write(models[OURS], text[:1, None], 2)
            samples[name], speeds[name] = write(models[OURS], text[:1, None])
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    batch = f"{BATCH} x {options.length}"
    print(f"A Mamba of {config.num_hidden_layers} layers, {size:.2f} M weights; {batch} characters a step")
    for name, curve in curves.items():
        steps, time_, last = len(curve), curve[-1][0], [loss for _, loss in curve[-5:]]
        print(
            f"   {name:18}: {steps:4} steps in {time_:5.1f} s, {time_ / steps * 1e3:6.0f} ms each; loss"
            f" {sum(last) / len(last):.2f}; writes {speeds[name]:4.0f} characters a second"
        )
    print("".join(characters[k] for k in samples[OURS]))
    plot(options.output, curves)
    print(f"Saved {options.output}")
    pairs = list(zip(curves[OURS], curves[THEIRS], strict=False))[:5]
    if not all(abs(ours - theirs) < 0.01 * theirs for (_, ours), (_, theirs) in pairs):
        raise SystemExit("the losses are not the same")
    if len(curves[THEIRS]) == options.steps:
        raise SystemExit("transformers' loop is as fast")


def plot(output: Path, curves: dict[str, list[Step]]) -> None:
    figure, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for (name, curve), color in zip(curves.items(), ("#0072B2", "#D55E00"), strict=True):
        seconds, losses = zip(*curve, strict=True)
        ax.plot(seconds, losses, ".-", ms=3, color=color, lw=1.2, label=f"{name}: {len(curve)} steps")
    ax.set(xlabel="seconds of training", ylabel="loss per character", xlim=(0, None))
    ax.set_title("A small Mamba learns Shakespeare's characters on a CPU")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    figure.savefig(output, dpi=120)


if __name__ == "__main__":
    main()

"""Measure the selective scan beside transformers' loop, and transformers' Mamba with it and without.

Measures the checkout that this file lies in. Results are compared first, and a row whose numbers differ gets no ratio.
Ratios are of the shortest of interleaved calls in one run, the other's to ours: how many times as fast. The models have
four layers, of 256 features and of 768 as mamba-130m, and random weights.
The C library keeps what is freed, for all alike: at 768 features it is most of the time of transformers' backward call
to get it from the system again.
"""

import argparse
import sys
import time
from pathlib import Path

import report
import torch
import transformers
from transformers.models.mamba.modeling_mamba import mamba_selective_scan
from turns import keep_memory, minima

from fastrecur.torch.mamba import patch_transformers, selective_scan_fn

PACKAGES = "numpy", "numba", "torch", "transformers"
CHANNELS, STATES = 1536, 16
WIDTHS = 256, 768
LOOP, OWN = "transformers' loop", "transformers' own"


def scan(steps, is_training, repeats):
    """Measure the function alone, without softplus, gate and bias: these cost all the same."""
    made = torch.Generator().manual_seed(0)
    u, delta, B, C = (torch.rand(1, n, steps, generator=made) for n in (CHANNELS, CHANNELS, STATES, STATES))
    A = -torch.arange(1.0, STATES + 1).repeat(CHANNELS, 1)
    operands = [v.requires_grad_(is_training) for v in (u, 0.1 * delta, A, B, C, torch.ones(CHANNELS))]

    def step(function):
        y = function(*operands)
        return torch.autograd.grad(y.sum(), operands)[0] if is_training else y

    calls = {"fastrecur": lambda: step(selective_scan_fn), LOOP: lambda: step(mamba_selective_scan)}
    return f"{'training step' if is_training else 'forward'}, (1, {CHANNELS}, {steps})", *compared(calls, LOOP, repeats)


def compared(calls, other, repeats):
    """Return seconds of ours, who the other is, its seconds, and whether both give the same."""
    gave = {name: call() for name, call in calls.items()}
    times = minima(calls, fewest=repeats)
    right = torch.allclose(gave["fastrecur"].float(), gave[other].float(), 1e-3, 1e-3)
    return times["fastrecur"], other, times[other], right


def models(width, repeats):
    """Measure transformers' model of so many features: a forward call, a training step, and tokens in decoding."""
    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=1000, hidden_size=width, num_hidden_layers=4, eos_token_id=None)
    model = transformers.MambaForCausalLM(config)
    tokens = torch.randint(0, 1000, (2, 256))

    def forward():
        with torch.no_grad():
            return model(tokens).logits

    def training():
        model.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        return model.lm_head.weight.grad.clone()

    def decoding():
        return model.generate(tokens[:1, :16], max_new_tokens=50, do_sample=False, pad_token_id=0)

    def ours(call):
        with patch_transformers():
            return call()

    for what, call in (("forward", forward), ("training step", training), ("50 tokens, decoding", decoding)):
        calls = {"fastrecur": lambda call=call: ours(call), OWN: call}
        yield f"model, {width} features, {what}", *compared(calls, OWN, repeats * (4 if call is decoding else 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--output", type=Path, help="write the report there, too")
    options = parser.parse_args()
    keep_memory()
    transformers.utils.logging.set_verbosity_error()
    began, repeats = time.perf_counter(), 1 if options.quick else 3
    rows = [scan(2048, False, repeats), scan(256, True, repeats)]
    rows += [row for width in WIDTHS for row in models(width, repeats)]
    facts = report.about(__file__, sys.argv[1:], torch.get_num_threads(), time.perf_counter() - began, PACKAGES)
    lines = []
    for what, seconds, other, others_seconds, right in rows:
        ratio = f"{others_seconds / seconds:7.1f} times as fast as" if right else "  WRONG numbers beside"
        lines.append(f"  {what:<41} {seconds * 1e3:9.2f} ms  {ratio}  {other:<18} {others_seconds * 1e3:10.2f} ms")
    report.publish(facts, lines, options.output)


if __name__ == "__main__":
    main()

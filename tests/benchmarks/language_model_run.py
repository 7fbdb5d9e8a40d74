"""Train QRNNs and LSTMs of equally many weights as models of Shakespeare's characters, by one recipe and budget.

Runs examples/language_model.py once for each network and seed, one after another, and reports the perplexity of the
validation against the time of training: where both end, and when the QRNN is where the LSTM ends (within 2 %, as the
paper has it). A run that was cut short goes on where it was: the checkpoints are kept in `--folder`.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "language_model.py"
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

import matplotlib  # noqa: E402

matplotlib.use("Agg")

import language_model as lm  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import report  # noqa: E402
import torch  # noqa: E402

COLOURS = {"lstm": lm.ORANGE, "qrnn": lm.BLUE}
NAMES = {"lstm": "nn.LSTM", "qrnn": "QRNN"}
BUDGET = ["--epochs", "6"]  # by which both learn
WITHIN = 1.02  # of the LSTM's perplexity: as good


def main(arguments):
    options = parse(arguments)
    began = time.perf_counter()
    options.folder.mkdir(parents=True, exist_ok=True)
    corpus = lm.read(None, "char")
    runs = {name: [] for name in NAMES}
    for name in NAMES:  # what is compiled is kept on the disk; it is no part of the training
        lm.Training(corpus, lm.parse(["--model", name])).learn()
    for seed in range(options.seeds):
        for name in NAMES:
            runs[name].append(run(name, seed, corpus, options))
    about = report.about(
        __file__, arguments, torch.get_num_threads(), time.perf_counter() - began, report.TENSORS,
        torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    )  # fmt: skip
    figures = {"about": about, "recipe": options.recipe, "runs": runs, "result": result(runs)}
    text = table(figures)
    print(text)
    if options.text:
        options.text.write_text(text + "\n")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.chart:
        draw(options.chart, figures)


def parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], epilog="what else is given goes to the example"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("language_model_runs"), help="of the checkpoints")
    parser.add_argument("--quick", action="store_true", help="a network of 30,000 weights, one epoch")
    parser.add_argument("--text", metavar="FILE", type=Path, help="write the table there too")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there")
    parser.add_argument("--chart", metavar="FILE", type=Path, help="draw them there (png, svg)")
    options, options.recipe = parser.parse_known_args(arguments)
    options.recipe = [*BUDGET, *options.recipe]
    if options.quick:
        options.recipe = ["--weights", "30000", "--batch", "64", "--every", "20", *options.recipe, "--epochs", "1"]
    return options


def run(name, seed, corpus, options):
    """Train a network, or go on with it; return its size, its curve and its losses."""
    checkpoint = (options.folder / f"{name}_{seed}.pt").resolve()
    command = [
        "--model", name, "--seed", str(seed), *options.recipe, "--checkpoint", str(checkpoint), "--resume",
        "--output", str(checkpoint.with_suffix(".png")), "--sample", "0",
    ]  # fmt: skip
    subprocess.run([sys.executable, str(EXAMPLE), *command], check=True, stdout=subprocess.DEVNULL)
    asked = lm.parse(command)
    training = lm.Training(corpus, asked)
    training.load(torch.load(checkpoint, map_location="cpu"))
    steps, seconds, losses, valid = zip(*training.curve, strict=True)
    return {
        "seed": seed, "weights": lm.size(training.model), "units": training.model.rnns[0].hidden_size
        if name == "qrnn" else training.model.rnns[0].module.hidden_size, "seconds": list(seconds),
        "steps": list(steps), "training": [math.exp(v) for v in losses], "validation": [math.exp(v) for v in valid],
        "test": math.exp(training.evaluate(training.test)), "averaged_from": training.averaged_from,
        "letters": training.epoch * (len(training.text) - 1) * asked.batch,
    }  # fmt: skip


def result(runs):
    """Return for each seed how the QRNN does beside the LSTM: its perplexity, its time, and its time to the LSTM's."""
    rows = []
    for own, lstm in zip(runs["qrnn"], runs["lstm"], strict=True):
        wanted = WITHIN * lstm["validation"][-1]
        rows.append({
            "seed": own["seed"],
            "perplexity": own["validation"][-1] / lstm["validation"][-1],
            "test": own["test"] / lstm["test"],
            "time": own["seconds"][-1] / lstm["seconds"][-1],
            "as_good": reached(own, wanted),
            "lstm_as_good": reached(lstm, wanted),
        })  # fmt: skip
    return rows


def reached(run, wanted):
    """Return the seconds after which a run was as good as wanted, or None."""
    return next((s for s, v in zip(run["seconds"], run["validation"], strict=True) if v <= wanted), None)


def table(figures):
    about, runs, rows = (figures[name] for name in ("about", "runs", "result"))
    lines = [report.title(about), ""]
    lines.append(
        f"  {'':8}{'seed':>5}{'units':>7}{'weights':>9}{'seconds':>9}{'chars/s':>11}{'validation':>12}{'test':>8}"
    )
    for name, all_of in runs.items():
        for run in all_of:
            lines.append(
                f"  {NAMES[name]:8}{run['seed']:5}{run['units']:7}{run['weights']:9}{run['seconds'][-1]:9.1f}"
                f"{run['letters'] / run['seconds'][-1]:11.0f}{run['validation'][-1]:12.3f}{run['test']:8.3f}"
            )
    lines += ["", "  validation and test: perplexity of a character, after as many characters read", ""]
    lines.append("The QRNN's to nn.LSTM's, and the seconds after which each was within 2 % of where nn.LSTM ends:")
    lines.append(f"  {'':8}{'seed':>5}{'validation':>12}{'test':>8}{'time':>8}{'QRNN':>10}{'nn.LSTM':>10}{'ratio':>8}")
    for row in rows:
        lines.append(
            f"  {'':8}{row['seed']:5}{row['perplexity']:12.3f}{row['test']:8.3f}{row['time']:8.2f}"
            f"{seconds(row['as_good']):>10}{seconds(row['lstm_as_good']):>10}{share(row):>8}"
        )
    lines += ["", verdict(rows)]
    return "\n".join(lines)


def seconds(value):
    return "never" if value is None else f"{value:.1f}"


def share(row):
    return "" if row["as_good"] is None else f"{row['as_good'] / row['lstm_as_good']:.2f}"


def verdict(rows):
    """Say what is left of the paper's claim."""
    quality, time = (statistics.mean(row[name] for row in rows) for name in ("perplexity", "time"))
    shares = [row["as_good"] / row["lstm_as_good"] for row in rows if row["as_good"] is not None]
    claim = len(shares) == len(rows) and max(shares) <= 0.5
    return (
        f"In the mean the QRNN ends at {quality:.3f} of nn.LSTM's perplexity, in {time:.2f} of its time.\n"
        f"Equal perplexity (within 2 %) in at most half the time, at every seed: {'' if claim else 'not '}reached"
    )


def draw(path, figures):
    runs, about = figures["runs"], figures["about"]
    with plt.rc_context(lm.STYLE):
        figure, ax = plt.subplots(figsize=(8, 4.8), layout="constrained")
        ends = []
        for name, all_of in runs.items():
            for k, run in enumerate(all_of):
                label = f"{NAMES[name]}, {run['units']} units, {run['weights']:,} weights" if k == 0 else None
                ax.plot(run["seconds"], run["validation"], color=COLOURS[name], lw=1.5, alpha=0.8, label=label)
                ax.plot(run["seconds"][-1], run["validation"][-1], "o", color=COLOURS[name], ms=5)
                ends.append(run["validation"][-1])
        level = statistics.mean(run["validation"][-1] for run in runs["lstm"])
        ax.axhspan(level / WITHIN, level * WITHIN, color=lm.ORANGE, alpha=0.12, lw=0)
        ax.annotate("within 2 % of where nn.LSTM ends", (0.01, level / WITHIN), (0, -3), ("axes fraction", "data"),
                    "offset points", va="top", color="#555555")  # fmt: skip
        ax.set(xlabel="seconds of training", ylabel="perplexity of a character in the validation", xlim=(0, None))
        ax.set_ylim(0.95 * min(ends), 1.7 * min(ends))
        ax.set_title(f"Shakespeare's characters: the same recipe and epochs, {len(runs['lstm'])} seeds")
        ax.text(1, -0.16, report.caption(about), fontsize=8,
                transform=ax.transAxes, ha="right", color="#555555")  # fmt: skip
        ax.legend()
        figure.savefig(path, dpi=120)
        plt.close(figure)


if __name__ == "__main__":
    main(sys.argv[1:])

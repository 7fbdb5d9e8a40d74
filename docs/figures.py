"""Write the figures of README and of the paper from the reports of the benchmarks: none is copied by hand.

    python docs/figures.py

Each report is the output of the command that its third line names; a test compares both texts with it.
"""

import re
from pathlib import Path

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
PAPER = DOCS / "paper" / "paper.md"
BEGIN, END = "<!-- figures:begin -->", "<!-- figures:end -->"


def rows(name):
    """Return a report's rows, each a list of columns without the mark."""
    lines = (DOCS / name).read_text().splitlines()
    return [re.split(r"\s{2,}", line[1:].strip()) for line in lines if line[:1] in "*+-" and line[1:2] == " "]


def about(name):
    """Return the machine and the date of a report."""
    lines = (DOCS / name).read_text().splitlines()
    return f"{lines[0].split(',')[0].replace('(R)', '').replace(' Processor', '')}, {lines[2][:10]}"


def span(figures):
    """Return the least and the largest of some figures, to two digits."""
    low, high = (f"{figure:.2g}" if figure < 10 else f"{figure:.0f}" for figure in (min(figures), max(figures)))
    return low if low == high else f"{low} to {high}"


def triad(layout, dtype):
    """Return ratios of forward runs into `out=` to the triad."""
    return [
        float(row[7])
        for row in rows("benchmarks.txt")
        if row[0] == layout and row[1] == "forward" and row[3:5] == ["out=", dtype] and row[8] == "triad"
    ]


def smoothing_rows():
    """Yield columns of the report of smoothing: statistic, shape, dtype, time, ratio, other library."""
    pattern = re.compile(r"[*+-]  (.*?)\s+(\(.*?\))\s+(float\d+)\s+([\d.]+ ms)\s+([\d.]+)  (\S+)")
    for line in (DOCS / "benchmarks_smoothing.txt").read_text().splitlines():
        if found := pattern.match(line):
            yield found.groups()


def smoothing(statistic, shapes, dtype):
    """Return how many times as fast as pandas a statistic is."""
    return span(
        [
            float(ratio)
            for name, shape, kind, _, ratio, other in smoothing_rows()
            if (name, kind, other) == (statistic, dtype, "pandas") and shape in shapes
        ]
    )


def qrnn():
    """Return how many times as fast as nn.LSTM a QRNN layer is: of windows 1 and 2, in inference and in training."""
    parts = (DOCS / "benchmarks_qrnn.txt").read_text().split("\ntraining, ")
    cells = r"  \d+ x ", "  PTB, window 2"
    return [
        span([float(line.split()[-2]) for line in part.splitlines() if re.match(cell, line)])
        for cell in cells
        for part in parts
    ]


def table():
    """Return README's table."""
    one, many = ["(1000000,)"], ["(100000, 64)", "(64, 100000)"]
    inference, training, inference_2, training_2 = qrnn()
    cells = [
        ("`forget_mult(f, x, out=out)`, (20000, 640), speed relative to a triad `h = x + f*x`",
         span(triad("(20000, 640)", "float32")), span(triad("(20000, 640)", "float64")), "benchmarks.txt"),
        ("`ewm_mean`, one series of 1e6 values, times as fast as pandas",
         smoothing("ewm_mean, complete", one, "float32"), smoothing("ewm_mean, complete", one, "float64"),
         "benchmarks_smoothing.txt"),
        ("`ewm_mean`, 64 series of 1e5 values, times as fast as pandas",
         smoothing("ewm_mean, complete", many, "float32"), smoothing("ewm_mean, complete", many, "float64"),
         "benchmarks_smoothing.txt"),
        ("`QRNN`, times as fast as `nn.LSTM` of equal hidden size, which has more weights: inference; training",
         f"{inference}; {training} (window 2: {inference_2}; {training_2})", "", "benchmarks_qrnn.txt"),
    ]  # fmt: skip
    lines = ["| | float32 | float64 | machine, date |", "|---|---|---|---|"]
    lines += [f"| {what} | {single} | {double} | {about(report)} |" for what, single, double, report in cells]
    return "\n".join(lines)


def sentences():
    """Return the paper's sentences about speed."""
    inference, training, *_ = qrnn()
    one = smoothing("ewm_mean, complete", ["(1000000,)"], "float64")
    return f"""The recurrence of float32 arrays runs at {span(triad("(20000, 640)", "float32"))} times the speed of a
multiply-add over the same arrays ({about("benchmarks.txt")}). An exponentially weighted mean of one series of $10^6$
float64 values is {one} times as fast as pandas ({about("benchmarks_smoothing.txt")}). A quasi-recurrent layer is
{inference} times as fast as PyTorch's LSTM of equal hidden size in inference, and {training} times in training
({about("benchmarks_qrnn.txt")}). All were measured on two cores."""


def written(text, figures):
    """Return a text with the figures of today's reports between its two marks."""
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{figures}\n{END}{rest.split(END)[1]}"


TEXTS = {README: table, PAPER: sentences}


if __name__ == "__main__":
    for path, figures in TEXTS.items():
        path.write_text(written(path.read_text(), figures()))

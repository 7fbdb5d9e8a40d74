"""Write the figures of README, the paper and four pages from the reports of the benchmarks: none is copied by hand.

    python docs/figures.py

Each report is the output of the command that its third line names; a test compares the texts with it.
"""

import re
import statistics
import textwrap
from pathlib import Path

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
PAPER = DOCS / "paper" / "paper.md"
HOW_TO = DOCS / "howto" / "language_model.rst"
MAMBA_PAGE = DOCS / "howto" / "mamba.rst"
INDEX = DOCS / "index.rst"
PAGE = DOCS / "benchmarks.rst"
MARKS = {".md": ("<!-- {}:begin -->\n", "<!-- {}:end -->"), ".rst": (".. {}:begin\n\n", "\n.. {}:end")}
LARGE, SMALLER, ONE = "(20000, 640)", "(2048, 1024)", ["(1000000,)"]
DTYPES = "float32", "float64"
MAMBA = "forward, (1, 1536, 2048)", "training step, (1, 1536, 256)"
MODEL = "forward", "training step", "50 tokens, decoding"
# What the report of smoothing calls small tables, and their shapes for some rows.
TABLES = {"a Series": ("a Series", "({},)"), "1 column": ("a small frame", "({}, 1)")}
TABLES |= {f"{count} columns": ("a small frame", f"({{}}, {count})") for count in (2, 3, 10)}


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
    """Return the ratios of forward runs into `out=` to the triad."""
    return span(
        [
            float(row[7])
            for row in rows("benchmarks.txt")
            if row[0] == layout and row[1] == "forward" and row[3:5] == ["out=", dtype] and row[8] == "triad"
        ]
    )


def smoothing(statistic, shapes, dtype, *others):
    """Return how many times as fast as other libraries a statistic is; nothing of shapes that are not in the report."""
    pattern = re.compile(r"[*+-]  (.*?)\s+(\(.*?\))\s+(float\d+)\s+[\d.]+ ms\s+([\d.]+)  (\S+)")
    found = [pattern.match(line) for line in (DOCS / "benchmarks_smoothing.txt").read_text().splitlines()]
    spans = []
    for other in others:
        wanted = [(statistic, shape, dtype, other) for shape in shapes]
        ratios = [float(row[4]) for row in found if row and (*row.group(1, 2, 3), row[5]) in wanted]
        spans += [span(ratios)] if ratios else []
    return "; ".join(spans)


def qrnn(mode, column=-2):
    """Return how many times as fast as nn.LSTM a layer is, over the grid, and the paper's network with window 2.

    The last column of the report has the same for nn.GRU.
    """
    parts = (DOCS / "benchmarks_qrnn.txt").read_text().split("\ntraining, ")
    lines = parts[mode == "training"].splitlines()
    return tuple(
        span([float(line.split()[column]) for line in lines if re.match(cells, line)])
        for cells in (r"  \d+ x ", "  PTB, window 2")
    )


def language_model():
    """Return columns of the report, a row for each seed: the QRNN's share of nn.LSTM's perplexity, and of its time."""
    row = re.compile(r" +(\d+) +(\d\.\d+) +(\d\.\d+) +(\d\.\d+) +\S+ +[\d.]+ *([\d.]*) *$")
    lines = (DOCS / "language_model.txt").read_text().splitlines()
    names = "seed", "validation", "test", "time", "time to be as good"
    return dict(
        zip(names, zip(*(found.groups() for line in lines if (found := row.match(line))), strict=True), strict=True)
    )


def mean(figures, digits=3):
    """Return the mean of figures."""
    return f"{statistics.mean(map(float, figures)):.{digits}f}"


def above(columns):
    """Return at which seeds the QRNN ends above nn.LSTM in the validation."""
    seeds = [seed for seed, share in zip(columns["seed"], columns["validation"], strict=True) if float(share) > 1]
    return f"at the seeds {listed(seeds)}" if len(seeds) > 1 else f"at seed {seeds[0]}" if seeds else "at no seed"


def listed(figures):
    """Return figures as words: 1, 2 and 3."""
    *first, last = figures
    return f"{', '.join(first)} and {last}" if first else last


def pairs():
    """Yield what is written before and after, the page about it, and how many times as fast that is."""
    gru = [qrnn(mode, column=-1)[0] for mode in ("inference", "training")]
    frames = [
        smoothing(f"ewm_mean, {what}", [shape], "float64", "pandas")
        for what, shape in (
            ("a Series", "(1000,)"), ("a frame", "(1000, 10)"),
            ("a frame", "(100000, 10)"), ("a frame, new process", "(100000, 10)"),
        )
    ]  # fmt: skip
    width = widths()[-1]
    models = model(width)
    yield (
        "`df.ewm(halflife=5).mean()`", "`ewm_mean(df, halflife=5)`", "howto/coming_from_pandas",
        f"{frames[0]} (a Series of 1,000); " * bool(frames[0])
        + f"{frames[1]} (10 columns of 1,000 rows); {' to '.join(filter(None, frames[2:]))} (of 100,000)",
    )  # fmt: skip
    yield "`torch.nn.GRU(320, 320)`", "`QRNN(320, 320)`", "howto/coming_from_rnn", f"{gru[0]}; training {gru[1]}"
    times = [span([float(row[3]) for row in jax_rows(what)]) for what in ("forward", "gradient")]
    yield (
        "`lax.associative_scan` of an average in JAX, on a CPU", "`forget_mult(f, x)`", "howto/jax",
        f"{times[0]}; gradients {times[1]} (100,000 values and more)",
    )  # fmt: skip
    yield (
        f"transformers' Mamba, {width} features, on a CPU", "`patch_transformers()` first", "howto/mamba",
        f"{models[0]}; training {models[1]}",
    )  # fmt: skip


def jax_rows(what):
    """Return what the report of JAX says of large arrays against ``lax.associative_scan``."""
    pattern = re.compile(rf". +{what} +(\(.*?\)) +([\d.]+ ms) +([\d.]+)  associative_scan")
    found = [pattern.match(line) for line in (DOCS / "benchmarks_jax.txt").read_text().splitlines()]
    return [(None, *row.groups()) for row in found if row and row[1] != "(64,)"]


def pairs_of_readme():
    """Return the pairs as README shows them."""
    lines = ["| before | now | times as fast |", "|---|---|---|"]
    for before, now, path, times in pairs():
        _, code, rest = now.split("`")
        lines.append(f"| {before} | [`{code}`](docs/{path}.rst){rest} | {times} |")
    return "\n".join([*lines, "", "Machines and dates: [Speed](#speed)."])


def pairs_of_site():
    """Return the pairs as the site's first page shows them."""
    rows = [["before", "now", "times as fast"]]
    for before, now, path, times in pairs():
        _, code, rest = now.split("`")
        rows.append([before.replace("`", "``"), f":doc:`{code} <{path}>`{rest}", times])
    return "\n".join([*listed_table(*rows[:1], rows[1:]), "", "Machines and dates: :doc:`benchmarks`."])


def table():
    """Return README's table, and where it was measured."""
    peers = "pandas", "polars", "numbagg"
    first = f"`forget_mult(f, x, out=out)`, {LARGE}, against a triad `h = x + f*x`"
    cells = [(first, [triad(LARGE, dtype) for dtype in DTYPES])]
    for what, statistic in ("`ewm_mean`, 1e6 values, against pandas; polars; numbagg", "complete"), (
        "10 % of them missing", "10 % missing",
    ):  # fmt: skip
        cells.append((what, [smoothing(f"ewm_mean, {statistic}", ONE, dtype, *peers) for dtype in DTYPES]))
    small = [smoothing("ewm_mean, complete", [f"({n},)"], "float64", "pandas") for n in (64, 1000, 16_000)]
    cells.append(("`ewm_mean`, arrays of 64; 1,000; 16,000, against pandas' Series", ["", "; ".join(small)]))
    for name, what, shape in (("a Series", *TABLES["a Series"]), ("frames of one column", *TABLES["1 column"])):
        figures = [smoothing(f"ewm_mean, {what}", [shape.format(n)], "float64", "pandas") for n in (64, 1000, 16_000)]
        cells += [(f"{name}, 64; 1,000; 16,000 rows", ["", "; ".join(figures)])] * all(figures)
    for mode in ("inference", "training"):
        grid, window = qrnn(mode)
        cells.append((f"`QRNN` layer, {mode}, against `nn.LSTM`", [f"{grid} (window 2: {window})", ""]))
    scan = "`selective_scan`, (1, 1536, 2048), against transformers' loop"
    cells.append((scan, [mamba(MAMBA[0], "transformers' loop"), ""]))
    lines = ["| times as fast | float32 | float64 |", "|---|---|---|"]
    lines += [f"| {what} | {' | '.join(figures)} |" for what, figures in cells]
    return "\n".join([*lines, "", prose(where())])


def where():
    """Yield README's sentence about the machines of its table."""
    dates = [about(f"benchmarks{name}.txt") for name in ("", "_smoothing", "_qrnn", "_mamba", "_jax")]
    (one, first), *others = (name.rsplit(", ", 1) for name in dates)
    assert {name for name, _ in others} == {one}, dates
    yield f"{one}, two cores, {listed(sorted({date for _, date in others}))} (row 1: {first})."


def paper():
    """Yield the paper's sentences about speed."""
    (inference, _), (training, _) = qrnn("inference"), qrnn("training")
    whole, gaps = ((f"ewm_mean, {values}", ONE, "float64") for values in ("complete", "10 % missing"))
    yield f"Into existing memory, the recurrence of float32 arrays of shape {LARGE} runs at {triad(LARGE, 'float32')}"
    yield f"times the speed of a multiply-add over the same arrays; of the smaller shape {SMALLER}, at"
    yield f"{triad(SMALLER, 'float32')} times ({about('benchmarks.txt')}). An exponentially weighted mean of one series"
    yield f"of $10^6$ float64 values is {smoothing(*whole, 'pandas')} times as fast as pandas and"
    yield f"{smoothing(*whole, 'numbagg')} times as fast as numbagg; with a tenth of the values missing,"
    yield f"{smoothing(*gaps, 'pandas')} and {smoothing(*gaps, 'numbagg')} times ({about('benchmarks_smoothing.txt')})."
    yield f"A quasi-recurrent layer is {inference} times as fast as PyTorch's LSTM of equal hidden size in"
    yield f"inference and {training} times in training ({about('benchmarks_qrnn.txt')})."
    yield "All were measured on two cores."


def how_to():
    """Yield the how-to's sentences about the QRNN and nn.LSTM."""
    columns = language_model()
    within = [share or "never" for share in columns["time to be as good"]]
    yield f"On average over {len(within)} seeds the QRNN takes {mean(columns['time'], 2)} of nn.LSTM's time, and ends"
    yield f"at {mean(columns['validation'])} of its perplexity on the validation set and at {mean(columns['test'])} on"
    yield f"the test set. In validation it ends above nn.LSTM {above(columns)}: the shares are"
    yield f"{listed(columns['validation'])}. In the test they are {listed(columns['test'])}. The time until the"
    yield f"validation is within 2 % of where nn.LSTM ends, as a share of nn.LSTM's own, is {listed(within)}."


def ratio(layout, direction, dtype, *others):
    """Return how many times as fast as others a recurrence is, with a gate of each kind: into `out=`, if it was."""
    spans = []
    for other in others:
        found = [row for row in rows("benchmarks.txt") if row[8:9] == [other] and row[4] == dtype]
        found = [row for row in found if row[:2] == [layout, direction]]
        into = [row for row in found if row[3] == "out="] or found
        spans.append(span([float(row[7]) for row in into]))
    return "; ".join(spans)


def of_returns(shape, other):
    """Return how many times as fast as a loop `gae` is: the report has the share of its time."""
    pattern = re.compile(r"[ *+-]  plain +(\(.*?\)) .* ms, +([\d.]+) of (\w+) loop")
    lines = map(pattern.match, (DOCS / "benchmarks_returns.txt").read_text().splitlines())
    return span([1 / float(row[2]) for row in lines if row and (row[1], row[3]) == (shape, other)] or [0])


def mamba(what, other):
    """Return how many times as fast as another the selective scan is, or a model with it."""
    pattern = re.compile(r"  (.*?)  +[\d.]+ ms +([\d.]+) times as fast as  (.*?)  +[\d.]+ ms")
    lines = map(pattern.match, (DOCS / "benchmarks_mamba.txt").read_text().splitlines())
    found = {(row[1], row[3]): float(row[2]) for row in lines if row}
    return span([found[what, other]])


def widths():
    """Return the numbers of features of the models that were measured."""
    found = re.findall(r"^  model, (\d+) features, forward ", (DOCS / "benchmarks_mamba.txt").read_text(), re.MULTILINE)
    return sorted(map(int, found))


def model(width):
    """Return how many times as fast transformers' Mamba is with the scan, in each way to use it."""
    return [mamba(f"model, {width} features, {what}", "transformers' own") for what in MODEL]


def mamba_page():
    """Yield the how-to's sentences about transformers' model."""
    yield "On 2 x 256 tokens a model of four layers is so many times as fast:"
    figures = "of {} features, {} forward, {} in training, {} in decoding".format
    yield f"{'; '.join(figures(width, *model(width)) for width in widths())} ({about('benchmarks_mamba.txt')})."


def ways():
    """Return what users do without borders and groups, and how many times as fast the calls are."""
    found: list[list[str]] = []
    for line in (DOCS / "benchmarks_segment_ways.txt").read_text().splitlines()[3:]:
        if not line.startswith(" "):
            what, own = line, ""
            continue
        way, _, times = re.split(r"\s{2,}", line.strip())
        if own:
            found.append([f"``{own}``, {what}", way, times])
        own = own or way
    return found


def page():
    """Yield the tables of the page of benchmarks, each with its place and date."""
    peers, all_of = ("pandas", "polars", "numbagg"), ("scipy lfilter", "pandas", "polars", "numbagg")
    many = ["(100000, 64)", "(64, 100000)"]
    yield from titled("Recurrences", "benchmarks.txt")
    forms = [
        (f"forward, {LARGE}", LARGE, "forward", ("triad",)),
        (f"gradient, {LARGE}", LARGE, "vjp", ("triad",)),
        (f"forward, {SMALLER}, which fits the cache", SMALLER, "forward", ("triad",)),
        ("forward, (64, 100000), time last", "(64, 100000)", "forward", ("triad",)),
        ("forward, one series of 1,000,000", ONE[0], "forward", ("plain loop",)),
        ("gradient, one series of 1,000,000", ONE[0], "vjp", ("plain loop",)),
        ("constant gate, one series of 1,000,000", ONE[0], "forward", all_of),
        ("constant gate, (100000, 64)", "(100000, 64), time first", "forward", all_of),
        ("constant gate, (64, 100000)", "(64, 100000), time last", "forward", all_of),
    ]
    yield from listed_table(
        ["", "times as fast as", *DTYPES],
        [
            [what, "; ".join(others), *(ratio(layout, direction, dtype, *others) for dtype in DTYPES)]
            for what, layout, direction, others in forms
        ],
    )
    yield from titled("Weighted statistics", "benchmarks_smoothing.txt")
    small = "float64", "pandas"
    statistics_of = [("ewm_mean, complete", peers), ("ewm_mean, 10 % missing", peers)]
    statistics_of += [(f"ewm_{name}, 10 % missing", peers[:1]) for name in ("var", "cov")]
    yield from listed_table(
        ["", "times as fast as", *DTYPES],
        [
            [f"``{name.partition(',')[0]}``{name.partition(',')[1]}{name.partition(',')[2]}, {what}", "; ".join(others)]
            + [smoothing(name, shapes, dtype, *others) for dtype in DTYPES]
            for name, others in statistics_of
            for what, shapes in (("one series", ONE), ("64 series", many))
        ]
        + [
            [
                f"``{name}``, {what}, an array of {steps:,}",
                "pandas",
                "",
                smoothing(f"{name}, {what}", [f"({steps},)"], *small),
            ]
            for name, what in (("ewm_mean", "complete"), ("ewm_mean", "10 % missing"), ("ewm_std", "complete"))
            for steps in (64, 1000, 16_000, 64_000)
        ]
        + [
            [f"``{name}``, {label}, {steps:,} rows", "pandas", "", figure]
            for name in ("ewm_mean", "ewm_std")
            for label, (what, shape) in TABLES.items()
            for steps in (64, 1000, 4000, 16_000)
            if (figure := smoothing(f"{name}, {what}", [shape.format(steps)], *small))
        ],
    )
    yield from titled("A QRNN layer", "benchmarks_qrnn.txt")
    yield from listed_table(
        ["float32", "times as fast as", "320 units", "the paper's network, window 2"],
        [[mode, "nn.LSTM", *qrnn(mode)] for mode in ("inference", "training")],
    )
    yield from titled("Advantages (GAE)", "benchmarks_returns.txt")
    shapes = "(131072,)", "(512, 4096)", "(4096, 512)", "(2048, 64)"
    yield from listed_table(
        ["float32", "times as fast as a compiled loop", "as torch's loop"],
        [[shape, *(of_returns(shape, other) for other in ("compiled", "torch"))] for shape in shapes],
    )
    yield from titled("Mamba", "benchmarks_mamba.txt")
    compared = [[f"selective scan, {what}", "transformers' loop", mamba(what, "transformers' loop")] for what in MAMBA]
    for width in widths():
        compared += [
            [f"transformers' model, {width} features, {what}", "transformers' own", times]
            for what, times in zip(MODEL, model(width), strict=True)
        ]
    yield from listed_table(["float32", "than", "times as fast"], compared)
    yield from titled("Borders and groups", "benchmarks_segment_ways.txt")
    yield from listed_table(["", "than", "times as fast"], ways())


def titled(title, report):
    """Yield the head of a section, and where its figures were measured."""
    yield from ["", title, "-" * len(title), "", f"{about(report)}.", ""]


def listed_table(head, cells):
    """Yield a table in reStructuredText, without columns to scroll to."""
    yield from [".. list-table::", "   :header-rows: 1", ""]
    for row in [head, *cells]:
        yield from [f"   {'*' if not k else ' '} - {cell}".rstrip() for k, cell in enumerate(row)]


def prose(sentences):
    """Return sentences as lines."""
    return textwrap.fill(" ".join(sentences), 120, break_long_words=False, break_on_hyphens=False)


def written(path, figures, mark="figures"):
    """Return a text with the figures of today's reports between its two marks."""
    begin, end = (text.format(mark) for text in MARKS[path.suffix])
    head, rest = path.read_text().split(begin)
    return f"{head}{begin}{figures}\n{end}{rest.split(end)[1]}"


TEXTS = {
    (README, "pairs"): pairs_of_readme,
    (INDEX, "pairs"): pairs_of_site,
    (README, "figures"): table,
    (PAPER, "figures"): lambda: prose(paper()),
    (HOW_TO, "figures"): lambda: prose(how_to()),
    (MAMBA_PAGE, "figures"): lambda: prose(mamba_page()),
    (PAGE, "figures"): lambda: "\n".join(page()).strip("\n"),
}


if __name__ == "__main__":
    for (path, mark), figures in TEXTS.items():
        path.write_text(written(path, figures(), mark))

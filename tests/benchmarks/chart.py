"""The figures as one picture: a panel for each comparison, a bar for each row of the table."""

import statistics

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402

# One hue a dtype; the lighter shade is a fresh output.
HUES = {"float32": "#2a6fbb", "float64": "#d9762b", "float16": "#3a9a6b", "bfloat16": "#8a63b5"}
WRONG = "#d0021b"
BAR = 0.8  # of the height of a line, shared by its bars
INCHES = 0.115  # a bar's height


def draw(path, rows, facts):
    """Draw the rows that have a figure; those that are wrong have none and are named instead."""
    panels = _panels(rows)
    pairs = [panels[k : k + 2] for k in range(0, len(panels), 2)]
    heights = [max(map(_height, pair)) for pair in pairs]
    with plt.rc_context({"font.size": 8.5, "font.family": "sans-serif", "svg.hashsalt": ""}):
        figure, axes = plt.subplots(
            len(pairs), 2, figsize=(12.5, sum(heights) + 1.3), squeeze=False,
            gridspec_kw={"height_ratios": heights}, layout="constrained",
        )  # fmt: skip
        for ax, panel in zip(axes.flat, panels, strict=False):
            _draw_panel(ax, panel)
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        _label(figure, rows, facts)
        figure.savefig(path, dpi=130)
        plt.close(figure)


def _height(panel):
    lines = panel.lines.values()
    return len(lines) * max(2, *map(len, lines), 0) * INCHES / BAR + 0.8


class Panel:
    """Lines of bars under one title and in one unit."""

    def __init__(self, title, unit, microseconds=False):
        self.title, self.unit, self.microseconds = title, unit, microseconds
        self.lines = {}


def _panels(rows):
    """Return the panels in the order of the table."""
    panels = {}
    for row in rows:
        key = _title(row)
        panel = panels.setdefault(key, Panel(*key, microseconds=row.in_microseconds))
        panel.lines.setdefault(_line(row), []).append(row)
    return list(panels.values())


def _title(row):
    """Return the title of a row's panel and the unit of its axis."""
    direction = {"forward": "Forward", "vjp": "Gradient"}[row.direction]
    gate = {"full": "gate array", "constant": "constant gate"}[row.gate]
    if row.in_microseconds:
        return "A call on 16 elements", "microseconds (less is better)"
    if row.group == "other libraries":
        return "Other libraries, constant gate", "times as fast"
    if row.group == "one series":
        return "One series of 1,000,000", "times as fast as a plain Numba loop"
    if row.group == "half precision":
        return f"Half precision, {row.layout}", "times as many elements a second as float32"
    if row.group == "float gate reads x only":
        return f"{direction}, {gate}, against a copy", "times as fast as a copy"
    return f"{direction}, {gate}", "times as fast as the triad"


def _line(row):
    what = {"forward": "forward", "vjp": "gradient"}[row.direction]
    if row.in_microseconds:
        return what
    if row.group == "other libraries":
        return f"{row.against}, {row.layout}"
    if row.group in ("one series", "half precision"):
        return f"{what}, " + {"full": "gate array", "constant": "constant gate"}[row.gate]
    return row.layout + (", time last" if row.group.startswith("time last") else "")


def _draw_panel(ax, panel):
    lines, microseconds = panel.lines, panel.microseconds
    figures = [row.figure for rows in lines.values() for row in rows if _is_shown(row)]
    far = max([*figures, 0.1])
    # Ratios to other libraries span orders of magnitude; the rest, but for a freak among them, are read from zero.
    logarithmic = not microseconds and statistics.median(figures or [0]) > 6
    start = 1.0 if logarithmic else 0.0
    if logarithmic:
        ax.set_xscale("log")
        ax.set_xlim(start, far * 1.5)
        ticks = [n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if n < far * 1.5]
        ax.set_xticks(ticks, [str(n) for n in ticks])
        ax.minorticks_off()
    else:
        # A freak of a busy machine must not squeeze everything else.
        ax.set_xlim(0, min(far, 2.5 * statistics.median(figures or [far])) * 1.12)
    for y, rows in enumerate(lines.values()):
        height = BAR / len(rows)
        for k, row in enumerate(rows):
            at = y - BAR / 2 + (k + 0.5) * height
            _draw_bar(ax, at, height, row, start)
    if not microseconds and not logarithmic:
        ax.axvline(1.0, color="#222222", lw=1.0, ls=":", zorder=3)  # as fast as what it is compared with
    ax.set_yticks(range(len(lines)), list(lines))
    ax.set_ylim(len(lines) - 0.45, -0.55)
    ax.set_title(panel.title, loc="left", fontsize=10, fontweight="bold")
    ax.set_xlabel(panel.unit, loc="left", fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="#e4e4e4", lw=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)


def _draw_bar(ax, at, height, row, start):
    if not _is_shown(row):
        text = "WRONG" if row.is_wrong else row.problem or "no figure"
        ax.annotate(text, (start, at), (3, 0), textcoords="offset points", va="center",
                    color=WRONG, fontsize=6.5)  # fmt: skip
        return
    # On a logarithmic axis that starts at 1 a slower result has no bar; its figure still shows.
    end = max(start, min(row.figure, ax.get_xlim()[1] / 1.1))
    ax.barh(at, end - start, height * 0.92, left=start, color=_colour(row))
    cut = "\u00bb " if row.figure > end else ""  # the bar goes on
    ax.annotate(
        f"{cut}{row.figure:.{0 if row.figure >= 9.95 else 2}f}", (end, at), (3, 0),
        textcoords="offset points", va="center", fontsize=6.5,
        color="#444444", bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.4}, zorder=4,
    )  # fmt: skip


def _is_shown(row):
    return not row.problem and row.figure is not None


def _colour(row):
    fresh_beside_out = row.output == "fresh" and row.direction == "forward"
    lighter = fresh_beside_out and row.group != "other libraries" and not row.in_microseconds
    rgb = matplotlib.colors.to_rgb(HUES[row.dtype])
    return tuple(0.55 + 0.45 * part for part in rgb) if lighter else rgb


def _label(figure, rows, facts):
    machine, versions = facts["machine"], facts["versions"]
    figure.suptitle(
        f"fastrecur {versions['fastrecur']} on {machine['cpu']}, {facts['threads']} threads, "
        f"{facts['date'][:10]}\n",
        x=0.01, ha="left", fontsize=12, fontweight="bold",
    )  # fmt: skip
    handles = [Patch(color=HUES[name], label=name) for name in HUES
               if any(row.dtype == name for row in rows)]  # fmt: skip
    handles += [
        Patch(color="#c9c9c9", label="lighter: a fresh output (else out=, or gradients)"),
        Line2D([], [], color="#222222", lw=1.0, ls=":", label="as fast as that"),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False)

"""What a run leaves behind: lines of JSON, one a result, written as they come; a text and a chart made of them."""

import json
import os
import time


class Report:
    """Appends results to a file, of which each line is whole, whoever is killed next."""

    def __init__(self, path, group=""):
        self.path, self.group = path, group

    def write(self, kind, **fields):
        """Append a line."""
        line = json.dumps({"kind": kind, "group": self.group, "at": round(time.time(), 2), **fields}) + "\n"
        with open(self.path, "a") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        print(text_of(json.loads(line)), flush=True)

    def row(self, what, predicted, measure, unit="us", bytes_moved=None):
        """Measure; an error is a result too. Return what was measured, None if nothing."""
        try:
            measured, note = measure(), ""
        except Exception as error:
            measured, note = None, f"{type(error).__name__}: {error}"[:500]
        self.write(
            "row", what=what, predicted=predicted, measured=measured, unit=unit, bytes=bytes_moved, note=note
        )  # fmt: skip
        return measured


def read(path):
    """Return the lines of a report; one that was cut off is left out."""
    rows = []
    with open(path) as file:
        for line in file:
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows


def copy_rate(rows):
    """Return the measured rate of a copy, bytes a microsecond; None if it was not measured."""
    found = [row["measured"] for row in rows if row.get("what") == "copy" and row.get("measured")]
    return found[-1] * 1e6 if found else None


def share(row, rate):
    """Return a row's share of the rate of a copy."""
    if not (rate and row.get("bytes") and row.get("measured")):
        return None
    return row["bytes"] / row["measured"] / rate


def text_of(row, rate=None):
    """Return a result as a line of text."""
    kind, part = row["kind"], share(row, rate)
    if kind == "row":
        number = "-" if row["measured"] is None else f"{row['measured']:.4g}"
        percent = "" if part is None else f"{part:5.0%}"
        line = f"{row['what']:<58} {row['predicted']:>16} {number:>10} {row['unit']:<6}{percent} {row['note']}"
    elif kind == "wrong":
        line = f"WRONG {row['what']}: {row['note']}"
    elif kind == "group":
        line = f"{'-' * 8} {row['group']}: {row['outcome']}, {row['seconds']:.0f} s"
    else:
        line = json.dumps({key: value for key, value in row.items() if key not in ("kind", "group", "at")})
    return line.rstrip()


def text(rows):
    """Return a report as text, and how many results were wrong."""
    rate = copy_rate(rows)
    lines = [text_of(row, rate) for row in rows if row["kind"] != "right"]
    wrong = sum(row["kind"] == "wrong" for row in rows)
    right = sum(row.get("count", 1) for row in rows if row["kind"] == "right")
    lines.append(f"{right} right, {wrong} WRONG")
    return "\n".join(lines) + "\n", wrong


def chart(rows, path):
    """Draw what share of a copy's rate was reached; return whether that could be."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return False
    rate = copy_rate(rows)
    bars = [(row["what"], share(row, rate)) for row in rows if row["kind"] == "row" and share(row, rate) is not None]
    if not bars:
        return False
    figure, axes = plt.subplots(figsize=(9, 0.35 * len(bars) + 1.5), layout="constrained")
    axes.barh(range(len(bars)), [part for _, part in bars])
    axes.set_yticks(range(len(bars)), [what for what, _ in bars])
    axes.axvline(1, color="black", lw=0.8)
    axes.invert_yaxis()
    card = next((row["card"] for row in rows if row.get("card")), "an unknown GPU")
    axes.set_xlabel(f"share of the copy rate, {card}")
    figure.savefig(path)
    plt.close(figure)
    return True

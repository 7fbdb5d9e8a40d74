"""Reports of benchmarks as readers see them: without the marks and columns for the project's own targets."""

import re

HEAD = re.compile(r" {2}limit +goal$")
TARGET = re.compile(
    r"(?:, outside the limit at [^;]*|, all within the limit)?;?\s+limit [\d.]+ ?\w*, goal [\d.]+ ?\w*$"
)
SUMMARY = re.compile(r"^\d+ of \d+ are within their limit .*?\(\*\)(?:\. )?")


SHARE = re.compile(r"([\d.]+)( of (?=\w+ loop)|(?=  forget_mult \(its time\)))")


def faster(share):
    """Return how many times as fast, of a share of another's time."""
    times = 1 / float(share[1])
    return f"{times:.{2 if times < 100 else 0}f}{' times as fast as ' * bool(share[2])}".rjust(len(share[0]))


def for_readers(text):
    """Return a report without its targets, and ratios in one direction: how many times as fast."""
    lines, end = [], None
    for line in text.split("\n"):
        if not line.strip():
            end = None
        elif head := HEAD.search(line):
            end = head.start()
        line = re.sub(r"^[*+-](?=  )", " ", line if end is None else line[:end].rstrip())
        line = SHARE.sub(faster, SUMMARY.sub("", TARGET.sub("", line)))
        lines.append(line.replace(" (its time)", ""))
    return "\n".join(lines)

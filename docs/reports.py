"""Reports of benchmarks as readers see them: without the marks and columns for the project's own targets."""

import re

HEAD = re.compile(r" {2}limit +goal$")
TARGET = re.compile(
    r"(?:, outside the limit at [^;]*|, all within the limit)?;?\s+limit [\d.]+ ?\w*, goal [\d.]+ ?\w*$"
)
SUMMARY = re.compile(r"^\d+ of \d+ are within their limit .*?\(\*\)(?:\. )?")


def for_readers(text):
    """Return a report without its targets."""
    lines, end = [], None
    for line in text.split("\n"):
        if not line.strip():
            end = None
        elif head := HEAD.search(line):
            end = head.start()
        line = re.sub(r"^[*+-](?=  )", " ", line if end is None else line[:end].rstrip())
        lines.append(SUMMARY.sub("", TARGET.sub("", line)))
    return "\n".join(lines)

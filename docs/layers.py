"""Draw the rooms of the package from ``layers.csv``, which a test checks: ``python docs/layers.py FILE``."""

import csv
import html
import sys
import textwrap
from pathlib import Path

TABLE = Path(__file__).with_name("layers.csv")
PACKAGE = TABLE.parents[1] / "fastrecur"
TITLES = (
    "The arithmetic of one step, and its definition; what a caller gave",
    "Plans: shapes, strides and dtypes name a kernel",
    "A processor: arrays in memory",
    "A GPU, in the same words",
    "Adapters: tensors, Dask arrays",
    "The public functions, and the dispatcher that finds an adapter",
    "Built on the public functions",
    "Public names",
)
COLOURS = ("#f3d9b1", "#d9e8f5", "#e1ecf7", "#e8f0f9", "#eff5fb", "#d6efd8", "#e4f5e5", "#f1faf1")
MONOSPACE = 'font-size="12" font-family="DejaVu Sans Mono, Menlo, Consolas, monospace"'


def lines_of(rooms):
    """Yield the rooms of a layer as lines of text, each with the files in it; files of their own share a line."""
    own = [room.removesuffix(".py") for room in rooms if not room.endswith("/")]
    files = {"": own} if own else {}
    for room in rooms:
        if room.endswith("/"):
            paths = sorted((PACKAGE / room).glob("*.py"))
            files[room] = [path.stem for path in paths if path.name != "__init__.py"] or ["__init__"]
    for room, names in files.items():
        for k, line in enumerate(textwrap.wrap(" · ".join(names), 70, break_on_hyphens=False)):
            yield "" if k else room, line


def draw():
    """Return the picture as SVG."""
    with TABLE.open() as file:
        rows = list(csv.reader(file))
    parts, top = [], 10
    for layer in reversed(range(len(TITLES))):
        lines = list(lines_of([name for number, name, _ in rows if int(number) == layer]))
        height = 36 + 17 * len(lines)
        middle = top + height / 2 + 7
        parts += [
            f'<rect x="10" y="{top}" width="720" height="{height}" fill="{COLOURS[layer]}" stroke="#5a6b7b"/>',
            f'<text x="24" y="{middle}" font-size="20" font-weight="bold" fill="#5a6b7b">{layer}</text>',
            f'<text x="56" y="{top + 21}" font-size="14" font-weight="bold">{html.escape(TITLES[layer])}</text>',
        ]
        parts += [
            f'<text x="{x}" y="{top + 40 + 17 * k}" {MONOSPACE} fill="#33475b">{text}</text>'
            for k, line in enumerate(lines)
            for x, text in zip((56, 200), line, strict=True)
        ]
        top += height
    arrow = f"M749 20 H751 V{top - 20} H757 L750 {top - 8} L743 {top - 20} H749 Z"
    said = f'<text transform="translate(768 {top / 2}) rotate(90)" text-anchor="middle" font-size="13" fill="#b5562b">'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 790 {top + 10}" role="img"'
            ' font-family="DejaVu Sans, Helvetica, Arial, sans-serif" fill="#1d2b38">',
            f'<rect width="790" height="{top + 10}" fill="#ffffff"/>',
            *parts,
            f'<path d="{arrow}" fill="#b5562b"/>',
            f"{said}a room imports only rooms that stand below it</text>",
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw())

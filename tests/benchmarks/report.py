"""The table on the terminal, the JSON file, and the machine they are about."""

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # scripts measure the checkout that they lie in

import fastrecur  # noqa: E402

ARRAYS = ("numpy", "numba", "ml_dtypes", "scipy", "pandas", "polars", "numbagg")
TENSORS = ("numpy", "numba", "torch")


def about(script, arguments, threads, seconds, packages=ARRAYS, device=None):
    """Return what a reader has to know to judge the figures; `device` is named where it is not the CPU."""
    return {
        "command": shlex.join(["python", Path(script).resolve().relative_to(ROOT).as_posix(), *arguments]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "threads": threads,
        "device": device,
        "machine": _machine(),
        "versions": {"python": platform.python_version(), "fastrecur": fastrecur.__version__, **versions_of(packages)},
    }


def _machine():
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every platform
        cores = os.cpu_count()
    return {"cpu": _cpu(), "cores": cores, "caches": _caches(), "os": f"{platform.system()} {platform.machine()}"}


def _cpu():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _caches():
    """Return the sizes of the first CPU's caches, as the kernel names them."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction":
            found[f"L{level}"] = size
    return found


def versions_of(packages):
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def write_json(path, rows, facts):
    figures = [row.as_dict() for row in rows]
    path.write_text(json.dumps({**facts, "rows": figures}, indent=1) + "\n")


# ---- The table ----

HEAD = ("", "layout", "direction", "gate", "output", "dtype", "ms", "GB/s", "ratio", "to", "limit",
        "goal")  # fmt: skip
RIGHT = {6, 7, 8, 10, 11}  # the columns of numbers


def table(rows, facts):
    """Return the whole report: a block for each group, then how many hold."""
    lines = [title(facts)]
    cells = [_cells(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(HEAD, *cells, strict=True)]
    group = None
    for row, texts in zip(rows, cells, strict=True):
        if row.group != group:
            group = row.group
            lines += ["", group, _line(HEAD, widths)]
        lines.append(_line(texts, widths))
    problems = [f"(!) {row.name}: {row.problem}" for row in rows if row.problem]
    lines += ["", *problems] if problems else []
    judged = [row for row in rows if row.holds is not None]
    lines += [
        "",
        f"{sum(row.holds for row in judged)} of {len(judged)} are within their limit (+), "
        f"{sum(_reaches_aim(row) for row in judged)} reach their goal (*). "
        f"Wrong results: {sum(row.is_wrong for row in rows)}.",
    ]
    return "\n".join(lines)


def title(facts):
    """Return the lines that every report begins with: the machine, versions, and when and how it was made."""
    machine, versions = facts["machine"], facts["versions"]
    caches = " ".join(f"{name} {size}" for name, size in machine["caches"].items())
    installed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {caches}, {machine['os']}\n{installed}\n"
        f"{facts['date']}, {_where(facts)}, {facts['seconds']} s: {facts['command']}"
    )


def publish(facts, lines, path=None):
    """Print a report of so many lines, and write it to a file, too."""
    text = "\n".join([title(facts), *lines])
    print(text)
    if path:
        path.write_text(text + "\n")


def caption(facts):
    """Return what a chart says of a run: where, and of which versions."""
    versions = facts["versions"]
    return f"{_where(facts)}; fastrecur {versions['fastrecur']}, torch {versions['torch']}"


def _where(facts):
    return facts["device"] or f"{facts['threads']} thread{'s' * (facts['threads'] > 1)}"


def _reaches_aim(row):
    return row.figure <= row.aim if row.in_microseconds else row.figure >= row.aim


def _cells(row):
    mark = "" if row.holds is None else "*" if _reaches_aim(row) else "+" if row.holds else "-"
    seconds, unit = row.seconds, " us" if row.in_microseconds else ""
    if row.is_wrong or seconds is None:
        numbers = ("", "", "WRONG" if row.is_wrong else "")
    else:
        ratio = "" if row.figure is None else f"{row.figure:.2f}{unit}"
        # So short a call says nothing about the memory.
        rate = "" if row.in_microseconds else f"{row.gigabytes_per_second:.1f}"
        numbers = (f"{seconds * 1e3:.4g}", rate, ratio)
    limits = ["" if limit is None else f"{limit:g}{unit}" for limit in (row.must, row.aim)]
    to = row.against + (" (!)" if row.problem else "")
    named = row.layout, row.direction, row.gate, row.output, row.dtype
    return (mark, *named, *numbers, to, *limits)


def _line(texts, widths):
    padded = [
        text.rjust(width) if k in RIGHT else text.ljust(width)
        for k, (text, width) in enumerate(zip(texts, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()

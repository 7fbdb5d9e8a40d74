"""Break the GPU's kernels line by line, and see that a test fails each time.

    python tests/gpu_tools/mutants.py [--only ticket begin ...]

Each mutant is a copy of the package with one line changed, in which some tests run; without a change these pass. The
look-back is broken in ways that only some orders of tiles show.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
KERNELS = "tests/gpu/test_gpu_kernels.py"
# What is broken: a file, a line and what it becomes.
OF_ORDER = {
    "none": None,
    # A block takes the tile of its own number, not the next: those that it waits for may never start.
    "ticket": ("look_back.py", "ticket[0] = gpu.take_ticket(descriptors)", "ticket[0] = gpu.block()"),
    # The state of every series is advanced from the earliest tile of any in the block.
    "begin": ("look_back.py", "state = select(first + k >= begin, after, state)", "state = after"),
    # A tile hands on the state before it in the place of the one after it.
    "publish": ("look_back.py", "at + STATE * further, onward)", "at + STATE * further, state)"),
    # The first tile does not publish its summary, since the state after it is known.
    "summary0": (
        "look_back.py",
        "            if writes:\n                at, further = locate",
        "            if writes and me.tile > 0:\n                at, further = locate",
    ),
}
_ENTER = "step(passed(flag, state), passed(flag, gate) if drops_gate else gate, value)"
_STOP = "end = min(max(gpu.load_int(cuts.at, at + cuts.next), begin), geometry.steps)"
OF_BORDERS = {
    "borders": None,
    # A border is ignored: by the state, by the state before a step of the gradient, by what flows on.
    "state": ("borders.py", "step(passed(flag, state), ", "step(state, "),
    "before": ("borders.py", "value, passed(flag, before))", "value, before)"),
    "onward": ("borders.py", "grad_b, passed(flag, onward)", "grad_b, onward"),
    "behind": ("borders.py", "if own.reverse != 0 and", "if own.reverse > 1 and"),
    # In reverse it stands a step further on; the first valid step has the flag of the padding.
    "shifted": ("lanes.py", "load_flags(own, t - geometry.reverse,", "load_flags(own, t,"),
    "shifted_back": ("lanes.py", "load_flags(own, t - 1 - geometry.reverse,", "load_flags(own, t - 1,"),
    "padding": ("lanes.py", "1, low + geometry.reverse, high", "1, low, high"),
    # Where threads share a series: the same, and a summary that lets what is before a border take part.
    "shifted_shared": ("borders.py", "load_flags(own, mine - own.reverse,", "load_flags(own, mine,"),
    "summary": ("summaries.py", "return second if is_anew(form, second.factor) else Summary", "return Summary"),
    "mark": ("summaries.py", "select(is_anew(form, first.factor), first", "select(False, first"),
    "rise": ("summaries.py", "select(begins, zero, rise)", "rise"),
    "advance": ("summaries.py", "select(is_anew(form, summary.factor), anew, after)", "after"),
    "held": ("series.py", " and flag_of(flags, j) == 0  #", "  #"),
    # A product with zero in the place of a choice.
    "product": ("borders.py", _ENTER, "step(passed(flag, state), gate, value)"),
    "product_back": ("borders.py", "return passed(flag, grad_a) if drops_gate else grad_a", "return grad_a"),
    # All segments have the states of the first, or steps past the last.
    "first_segment": ("operands.py", "else segment * step", "else 0 * step"),
    "range": ("operands.py", _STOP, "end = max(gpu.load_int(cuts.at, at + cuts.next), begin)"),
}


OF_SUMMARIES = {
    "summaries": None,
    # The lowest bit, which says that a factor is a loss, is lost; a loss, the decay less 1, is read as a decay.
    "tag": ("summaries.py", "gpu.tagged(loss, True)", "gpu.tagged(loss, False)"),
    "loss": (
        "summaries.py",
        "return is_loss, select(is_loss, factor + constant(1.0, factor), factor)",
        "return is_loss, factor",
    ),
    # All factors are decays, in which small gates have no digits; one of two is a loss, and both are taken for one.
    "digits": ("summaries.py", "tagged(lost < half, -lost, factor)", "tagged(False, -lost, factor)"),
    "one_loss": ("summaries.py", "tagged(is_loss_1 and is_loss_2 and", "tagged(is_loss_1 and"),
    # A summary is about the origin that it had.
    "origin": ("summaries.py", "moved = fma(loss, origin - summary.origin, summary.rise)", "moved = summary.rise"),
}
OF_SELECTIVE = {
    "selective": None,
    # Against time: a state before a border takes part; so does what flows on.
    "scan_before": (
        "selective_back.py",
        "before = select(starts_anew, zero, tiles.past[past])",
        "before = tiles.past[past]",
    ),
    "scan_onward": ("selective_back.py", "back.g[k] = select(starts_anew, zero, onward)", "back.g[k] = onward"),
    # A step has no slope of softplus; of C the states before a step are summed up.
    "scan_slope": ("selective_back.py", "exponents) * tiles.slopes[at]", "exponents)"),
    "scan_sum_c": ("selective_back.py", "j = high - i if reverse else i + 1", "j = high - 1 - i if reverse else i"),
}
OF_FILTERS = {
    "filters": None,
    # Against time a series ends where all do; each chunk's state is taken for SciPy's; the last's is not made one.
    "filter_reverse": ("filters.py", "stop - 1 - t if reverse != 0 and t < stop else t", "t"),
    "filter_form": ("filters.py", "if t == 0 or order < 2:", "if t >= 0:"),
    "filter_last": ("filters.py", "first, n == chunks - 1, t, high", "first, n == 0, t, high"),
    "level_wait": ("levels.py", "level, left = first, missing", "level, left = first, zero"),
}
# Which tests run, and what they find.
GROUPS = [
    ((KERNELS, "whichever and forget_mult-False-float32-0-0"), OF_ORDER),
    (
        (
            "tests/gpu/test_gpu_segments.py",
            "(gradients and shape0) or nan or not_used or are_none or every_shape or tiles",
        ),
        OF_BORDERS,
    ),
    ((KERNELS, "keeps_the_digits or (tiles_of_ and False-forget_mult-float32)"), OF_SUMMARIES),
    (("tests/gpu/test_gpu_selective.py", "as_python"), OF_SELECTIVE),
    (("tests/gpu/test_gpu_filters.py", "(sosfilt and case0]) or digits or (holt and nothing)"), OF_FILTERS),
]
ALL = {name: change for _, its in GROUPS for name, change in its.items()}


def command(name, *more):
    """Return what runs the tests of a mutant."""
    (file, chosen) = next(tests for tests, its in GROUPS if name in its)
    return [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:xdist",
        "-o",
        "addopts=",
        "-q",
        "-x",
        "--tb=line",
        file,
        "-k",
        chosen,
        *more,
    ]


def changed(name, place=ROOT):
    """Return a mutant's file and text; raise where the line that it changes is gone."""
    file, line, new = ALL[name]
    path = place / "fastrecur" / "_cuda" / "kernels" / file
    text = path.read_text()
    if text.count(line) != 1:
        raise ValueError(f"{name}: the line is there {text.count(line)} times")
    return path, text.replace(line, new)


def run(name):
    """Run the test on a mutant; return whether it fails, and its last lines."""
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        for part in ("fastrecur", "tests"):
            shutil.copytree(ROOT / part, place / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", place)
        # Who waits for ever is to be found out soon.
        waits = place / "fastrecur" / "_cuda" / "kernels" / "descriptors.py"
        waits.write_text(waits.read_text().replace("MOST_LOOKS = 1 << 20", "MOST_LOOKS = 1 << 12"))
        if ALL[name]:
            path, text = changed(name, place)
            path.write_text(text)
        environment = os.environ | {"PYTHONPATH": folder, "FASTRECUR_CACHE_DIR": str(place / "cache")}
        done = subprocess.run(command(name), cwd=place, env=environment, capture_output=True, text=True, timeout=3000)
    if " passed" not in done.stdout and "1 failed" not in done.stdout:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    why = next((line for line in done.stdout.splitlines() if "Error" in line), "")
    return "1 failed" in done.stdout, why


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ALL, default=list(ALL))
    wrong = 0
    for name in parser.parse_args().only:
        fails, why = run(name)
        wrong += fails != bool(ALL[name])
        print(f"{name}: {'caught: ' + why if fails else 'passes'}", flush=True)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())

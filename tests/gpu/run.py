"""One command for a real card: correctness, then every prediction beside its measurement. See README.md."""

import argparse
import concurrent.futures
import importlib.metadata
import os
import pathlib
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import behavior  # noqa: E402, F401 - adds its groups
import correctness  # noqa: E402
import groups  # noqa: E402
import libraries  # noqa: E402
from report import Report, chart, read, text  # noqa: E402

import fastrecur  # noqa: E402
from fastrecur._cuda import launch  # noqa: E402

BUDGET = 9 * 60  # seconds
PACKAGES = "numba", "numba-cuda", "cuda-core", "cuda-bindings", "nvidia-nvjitlink", "torch", "cupy-cuda13x", "numpy"


def said_by(*command):
    """Return what a command prints; None where it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def clocks():
    """Return the cards' clocks, temperature and power, as nvidia-smi says them."""
    fields = "index,clocks.sm,clocks.mem,temperature.gpu,power.draw,clocks_event_reasons.active"
    return said_by("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader")


def about(found):
    """Return what every report must say about where it comes from."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return dict(
        card=found[0].card, devices=launch.driver().describe(), libraries=[each.name for each in found],
        fastrecur=fastrecur.__version__, commit=said_by("git", "describe", "--always", "--dirty"), versions=versions,
        python=sys.version.split()[0], clocks=clocks(), seconds=time.time(),
    )  # fmt: skip


def run_group(name, options):
    """Run a group here: what its process does."""
    chosen = groups.GROUPS[name]
    allowed = [each for each in chosen.libraries if options.library in (None, each)]
    report = Report(options.output, name)
    found = libraries.installed(allowed)
    if not found:
        report.write("note", note=f"needs {' or '.join(chosen.libraries)}")
        return
    chosen.function(groups.Bench(found[0], report, options.tiny))


def start(name, options):
    """Run a group in a process of its own, which is ended with all that it has started when its time is up."""
    seconds = options.seconds or groups.GROUPS[name].seconds
    command = [sys.executable, *options.script, "--group", name, "--output", str(options.output)]
    command += ["--tiny"] * options.tiny + (["--library", options.library] if options.library else [])
    began = time.monotonic()
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(timeout=seconds)
        if code == 0:
            outcome = "done"
        else:
            outcome = f"crashed: {signal.Signals(-code).name if code < 0 else f'status {code}'}"
    except subprocess.TimeoutExpired:
        outcome = f"hung: ended after {seconds} s"
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    Report(options.output, name).write("group", outcome=outcome, seconds=time.monotonic() - began, clocks=clocks())


def compiled(key, capability):
    """Compile a kernel and keep it; return its name."""
    kernel = launch.kernel(*key)
    launch.cubin(kernel, capability)
    return kernel.name


def precompile(architecture, every=1):
    """Compile the kernels of all problems for an architecture, without a card, and keep them on disk."""
    capability = int(architecture[3:-1]), int(architecture[-1])
    cases = [*correctness.cases(True), *correctness.segment_cases(True)][::every]
    kernels = set().union(*(correctness.kernels(case) for case in cases))
    keys = [kernel.key for kernel in sorted(kernels, key=lambda kernel: repr(kernel.key))]
    began = time.monotonic()
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
        names = list(pool.map(compiled, keys, [capability] * len(keys)))
        list(pool.map(correctness.use_host, cases))
    print(f"{len(names)} kernels for {architecture} in {time.monotonic() - began:.0f} s")


def finish(path):
    """Write the text and the chart of a report; return how many results were wrong."""
    written, wrong = text(read(path))
    path.with_suffix(".txt").write_text(written)
    drawn = chart(read(path), path.with_suffix(".png"))
    print(f"\n{path.with_suffix('.txt')}" + (f", {path.with_suffix('.png')}" if drawn else "") + f": {wrong} WRONG")
    return wrong


def main(arguments=None, script=(str(HERE / "run.py"),)):
    """Run what the arguments say; return the status: whether anything was wrong, crashed or hung."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("gpu.jsonl"), help="lines of JSON")
    parser.add_argument(
        "--report", type=pathlib.Path, metavar="FILE", help="only make text and chart of a report again"
    )
    parser.add_argument("--precompile", metavar="sm_90", help="only compile and keep kernels; needs no card")
    parser.add_argument("--only", nargs="+", metavar="GROUP", help="groups to run, of: " + ", ".join(groups.GROUPS))
    parser.add_argument("--library", choices=libraries.KINDS, help="the only one to use")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds after which no group begins")
    parser.add_argument("--seconds", type=float, help="the most that a group may take, instead of its own")
    parser.add_argument("--tiny", action="store_true", help="small shapes: a rehearsal without a card")
    parser.add_argument("--every", type=int, default=1, help="of the problems to precompile, each so many-th")
    parser.add_argument("--group", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.script = script
    if options.report:
        return int(finish(options.report) > 0)
    if options.precompile:
        precompile(options.precompile, options.every)
        return 0
    if options.group:
        run_group(options.group, options)
        return 0
    found = libraries.installed([options.library] if options.library else libraries.KINDS)
    if not found:
        print("no array library sees a card: install torch, cupy or numba-cuda")
        return 2
    options.output.unlink(missing_ok=True)
    Report(options.output).write("about", **about(found))
    began = time.monotonic()
    for name in options.only or groups.GROUPS:
        if time.monotonic() - began > options.budget:
            Report(options.output, name).write("group", outcome="not begun: time is up", seconds=0.0)
            continue
        start(name, options)
    wrong = finish(options.output)
    return int(wrong > 0 or any(row["kind"] == "group" and row["outcome"] != "done" for row in read(options.output)))


if __name__ == "__main__":
    sys.exit(main())

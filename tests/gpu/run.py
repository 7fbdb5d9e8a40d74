"""One command for a real card: what is right and what it takes, most informative first. See README.md."""

import argparse
import concurrent.futures
import functools
import importlib.metadata
import importlib.util
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import behavior  # noqa: E402, F401 - adds its groups
import groups  # noqa: E402
import libraries  # noqa: E402
from bundle import Bundle  # noqa: E402
from report import Report, chart, read, text  # noqa: E402

import fastrecur  # noqa: E402
from fastrecur._cuda import launch  # noqa: E402

MINUTES = 400 / 60
LEAST = 5  # seconds that a group needs to say anything
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


def about(options):
    """Write what every report must say about where it comes from; end with status 2 where there is no card."""
    found = libraries.installed([options.library] if options.library else libraries.KINDS)
    if not found:
        print("no array library sees a card: install torch, cupy or numba-cuda")
        return 2
    versions, driver = {}, launch.driver()
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    Report(options.output).write(
        "about", card=found[0].card, capability=list(driver.core.Device(0).compute_capability),
        devices=driver.describe(), libraries=[each.name for each in found], fastrecur=fastrecur.__version__,
        commit=said_by("git", "describe", "--always", "--dirty"), versions=versions, python=sys.version.split()[0],
        bundle=options.bundle and str(options.bundle), clocks=clocks(), seconds=time.time(),
    )  # fmt: skip
    return 0


def run_group(name, options):
    """Run a group here: what its process does."""
    chosen = groups.GROUPS[name]
    allowed = [each for each in chosen.libraries if options.library in (None, each) or each == "bare"]
    report = Report(options.output, name)
    found = libraries.installed(allowed)
    if not found:
        report.write("note", note=f"needs {' or '.join(chosen.libraries)}")
        return 0
    counts = Bundle(options.bundle).use()
    try:
        chosen.function(groups.Bench(found[0], report, options.tiny, options.more))
    finally:
        report.write("kernels", **counts)
    return 0


def in_process(function, *arguments, seconds):
    """Run a function in a process of its own, ended with all that it has started when its time is up; say how it went.

    A fork has all imports, and costs no second; nothing here may touch the card, or it could not.
    """
    sys.stdout.flush()
    process, end = os.fork(), time.monotonic() + seconds
    if not process:
        os.setsid()
        code = 1
        try:
            code = function(*arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    try:
        done, status = os.waitpid(process, os.WNOHANG)
        while not done and time.monotonic() < end:
            time.sleep(0.02)
            done, status = os.waitpid(process, os.WNOHANG)
    finally:
        try:
            os.killpg(process, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    if not done:
        os.waitpid(process, 0)
        return f"hung: ended after {seconds:.0f} s"
    code = os.waitstatus_to_exitcode(status)
    return f"crashed: {signal.Signals(-code).name if code < 0 else f'status {code}'}" if code else "done"


# ---- Step 0 ----------------------------------------------------------------------------------------------------------


def compiled(key, capability):
    """Compile a kernel and keep it; return the processor's seconds."""
    began = time.process_time()
    launch.cubin(launch.kernel(*key), capability)
    return time.process_time() - began


def on_host(function, argument):
    """Compile what the CPU computes for comparison; return the processor's seconds."""
    began = time.process_time()
    function(argument)
    return time.process_time() - began


@functools.cache
def can_compile(report):
    """Return whether kernels can be compiled here; if not, say why in a report, or raise where there is none."""
    try:
        launch.compiler()  # which workers then have, as their process is a fork
    except RuntimeError as error:
        if report is None:
            raise
        report.write("note", note=str(error))
        return False
    return True


def step_0(capability, options, report=None):
    """Compile what groups need in their order, on all processors, and keep it; return the kernels.

    A group's line in the report says that all is there. What a bundle has is not compiled.
    """
    began, bundle, found, futures = time.monotonic(), Bundle(options.bundle if report else None), {}, {}

    def finished(waiting):
        """Report groups that have all; return the others."""
        while waiting and all(future.done() for future in waiting[0][1]):
            name, mine = waiting.pop(0)
            errors = [future.exception() for future in mine if future.exception()]
            if errors and report is None:
                raise errors[0]
            spent, wall = sum(f.result() for f in mine if not f.exception()), time.monotonic() - began
            line = dict(tasks=len(mine), processor_seconds=round(spent, 1), after=round(wall, 1))
            line |= {"failed": len(errors), "note": repr(errors[0])[:500]} if errors else {}
            report.write("compiled", name=name, **line) if report else print(f"{name}: {line}", flush=True)

    def wanted(name):
        """Submit a group's kernels, and what the CPU computes for it; yield futures."""
        for kernel in itertools.islice(groups.GROUPS[name].kernels(), 0, None, options.every):
            found[kernel.key] = kernel
            if kernel.key not in futures and not bundle.find(kernel, capability) and can_compile(report):
                futures[kernel.key] = pool.submit(compiled, kernel.key, capability)
                yield futures[kernel.key]
        for function, argument in itertools.islice(groups.GROUPS[name].on_host(), 0, None, options.every):
            yield pool.submit(on_host, function, argument)

    with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
        waiting = []
        for name in options.only or groups.in_turn():
            waiting.append((name, list(wanted(name))))
            finished(waiting)
        while waiting:
            concurrent.futures.wait(waiting[0][1])
            finished(waiting)
    return list(found.values())


def precompile(options):
    """Compile for architectures, without a card, on any machine; with a bundle, into that."""
    for architecture in options.precompile:
        capability, began = (int(architecture[3:-1]), int(architecture[-1])), time.monotonic()
        kernels = step_0(capability, options)
        print(f"{len(kernels)} kernels for {architecture} in {time.monotonic() - began:.0f} s")
        if options.bundle:
            path = Bundle(options.bundle).write(kernels, capability)
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def compiling(options):
    """Compile for the card of the report, as a process of its own does."""
    (capability,) = (tuple(row["capability"]) for row in read(options.output) if row["kind"] == "about")
    step_0(capability, options, Report(options.output))
    return 0


def wait_for(name, options, process, end):
    """Wait until all that a group needs is compiled, or nobody compiles, or its time is up."""
    while time.monotonic() < end and process.poll() is None:
        if any(row["kind"] == "compiled" and row["name"] == name for row in read(options.output)):
            return
        time.sleep(0.1)


def finish(path):
    """Write the text and the chart of a report; return how many results were wrong."""
    written, wrong = text(read(path))
    path.with_suffix(".txt").write_text(written)
    drawn = chart(read(path), path.with_suffix(".png"))
    print(f"\n{path.with_suffix('.txt')}" + (f", {path.with_suffix('.png')}" if drawn else "") + f": {wrong} WRONG")
    return wrong


def parsed(arguments):
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("gpu.jsonl"), help="lines of JSON")
    parser.add_argument(
        "--report", type=pathlib.Path, metavar="FILE", help="only make text and chart of a report again"
    )
    parser.add_argument("--bundle", type=pathlib.Path, metavar="FOLDER", help="compiled kernels to use, or to write")
    parser.add_argument("--precompile", nargs="+", metavar="sm_90", help="only compile and keep kernels; needs no card")
    parser.add_argument("--only", nargs="+", metavar="GROUP", help="groups to run, of: " + ", ".join(groups.in_turn()))
    parser.add_argument("--library", choices=libraries.KINDS, help="the only one to use")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="in all, 6.7 unless given")
    parser.add_argument("--tiny", action="store_true", help="small shapes: a rehearsal without a card")
    parser.add_argument("--every", type=int, default=1, help="compile beforehand each so many-th kernel only")
    parser.add_argument("--group", help=argparse.SUPPRESS)
    parser.add_argument("--compile", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.more = [f"--bundle={options.bundle.resolve()}"] if options.bundle else []
    return options


def run(options, script):
    """Run groups in turn, each for no longer than is left."""
    end = time.monotonic() + 60 * options.minutes
    command = [sys.executable, *script, "--compile", "--output", str(options.output), f"--every={options.every}"]
    command += [*options.more, *(["--only", *options.only] if options.only else [])]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            for name in options.only or groups.in_turn():
                began = time.monotonic()
                wait_for(name, options, process, min(end, began + 120))
                waited, left = time.monotonic() - began, end - time.monotonic()
                outcome = "not begun: time is up"
                if left >= LEAST:
                    seconds = min(left, groups.GROUPS[name].seconds * (10 if options.tiny else 1))
                    outcome = in_process(run_group, name, options, seconds=seconds)
                took = time.monotonic() - began - waited
                Report(options.output, name).write(
                    "group", outcome=outcome, seconds=took, waited=round(waited, 1), clocks=clocks()
                )
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass


def main(arguments=None, script=(str(HERE / "run.py"),)):
    """Run what the arguments say; return the status: whether anything was wrong, crashed or hung."""
    options = parsed(arguments)
    if options.report:
        return int(finish(options.report) > 0)
    if options.precompile:
        return precompile(options)
    if options.compile:
        return compiling(options)
    if options.group:
        return run_group(options.group, options)
    options.output.unlink(missing_ok=True)
    if importlib.util.find_spec("torch") and options.library in (None, "torch"):
        import torch  # noqa: F401 - once for all forks
    outcome = in_process(about, options, seconds=60)
    if outcome != "done":
        print(outcome)
        return 2
    run(options, script)
    wrong = finish(options.output)
    return int(wrong > 0 or any(row["kind"] == "group" and row["outcome"] != "done" for row in read(options.output)))


if __name__ == "__main__":
    sys.exit(main())

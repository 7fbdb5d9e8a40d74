"""Run some tests on an emulated ARM processor: ``python tests/aarch64.py``. Nobody needs to be root.

Debian's Python for ARM and wheels are fetched as apt and pip are configured here, into a folder that is kept. QEMU runs
them. What cannot be fetched is no failure: then it is said why nothing was run.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHON = "python3", "python3-minimal", "libpython3-stdlib", "libgcc-s1", "libstdc++6", "libgomp1"
WHEELS = "numba", "pytest", "hypothesis", "ml_dtypes"
PLATFORMS = [f"manylinux_{version}_aarch64" for version in ("2_28", "2_27", "2_17")] + ["manylinux2014_aarch64"]
CPU = "neoverse-n1"  # 128-bit vectors, no wider ones; and known to LLVM
LONGEST_UPDATE = 25  # seconds, for what apt calls an update: without a network it would try for minutes

# A kernel takes 10 to 40 s to compile there, hence few. Each traversal and its gradient, as plain loops compute it;
# sizes around vectors, the same bits in two traversals, each dtype; borders; weighted statistics, the selective scan;
# threads, fork, interrupts; the disk cache. For each of two processors those that take about half of the time.
TESTS = """
cpu/test_threads.py::test_fork
cpu/test_plain.py::test_recurrences[forget_mult-forget_wide-scan]
package/test_import.py::test_compiled_kernels_are_kept_and_used_again
cpu/test_plain.py::test_selective_scan
cpu/test_plain.py::test_recurrences[forget_mult-forget_same-transpose8]
arrays/test_dtypes.py::test_complex_linear_recurrence[F-f-F]
cpu/test_plain.py::test_decays
""".split(), """
cpu/test_plain.py::test_recurrences[forget_mult-forget_wide-wide]
arrays/test_vjp.py::test_sizes_around_a_vector[False-0-float32-forget_mult]
cpu/test_plain.py::test_recurrences[forget_mult-forget_wide-transpose8]
cpu/test_plain.py::test_recurrences[forget_mult-forget_wide-packed]
arrays/test_vjp.py::test_sizes_around_a_vector[False-1-float32-forget_mult]
cpu/test_narrow.py::test_the_bits_are_those_of_contiguous_time[float32-5-forget_mult]
cpu/test_transpose8.py::test_the_bits_are_those_of_neighbouring_lanes[False-float32-forget_mult]
cpu/test_threads.py::test_every_call_is_done_once_and_a_chain_in_order[64-2-workers]
cpu/test_transpose8.py::test_nothing_is_written_beside_results[False-float16]
cpu/test_transpose8.py::test_nothing_is_written_beside_results[False-bfloat16]
arrays/test_dtypes.py::test_every_half_precision_number_passes[0-float16]
arrays/test_segments.py::test_resets[forget_mult-float32-shape6-1-False]
cpu/test_plain.py::test_weighted_statistics[options0]
cpu/test_threads.py::test_interrupts
cpu/test_compile.py::test_type_of_kernels_as_numba_compiles_them
""".split()  # fmt: skip

# A line that Python runs as it starts: scripts of tests start `sys.executable`, which must be the emulator.
EMULATED = "import sys; sys.executable = {!r}\n"


class NotToBeHad(Exception):
    """There is nothing to run tests with."""


def apt(folder, architecture, *packages):
    """Unpack Debian's packages of an architecture, and what these depend on, into a folder."""
    state = folder.with_name(folder.name + ".apt")
    for name in ("lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    own = {
        "APT::Architecture": architecture, "APT::Architectures": architecture, "APT::Sandbox::User": "",
        "Dir::State": state, "Dir::State::lists": state / "lists", "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache", "Dir::Etc::preferences": "/dev/null", "Dir::Etc::preferencesparts": "/dev/null",
        "Debug::NoLocking": "1", "Acquire::Retries": "0",
    }  # fmt: skip
    command = ["apt-get", "-qq", *(word for name, value in own.items() for word in ("-o", f"{name}={value}"))]
    quietly([*command, "update"], most=LONGEST_UPDATE)
    quietly([*command, "-y", "--no-install-recommends", "--download-only", "install", *packages])
    for package in sorted((state / "cache/archives").glob("*.deb")):
        quietly(["dpkg-deb", "-x", package, folder])
    shutil.rmtree(state)


def quietly(command, most=300):
    """Run a command for so many seconds at most; raise what says why there is nothing to run tests with."""
    try:
        subprocess.run([*map(str, command)], timeout=most, check=True, capture_output=True, text=True)
    except OSError as error:
        raise NotToBeHad(f"{command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise NotToBeHad(f"{command[0]} took more than {most} s") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip().splitlines() or [f"exit status {error.returncode}"]
        raise NotToBeHad(f"{command[0]} failed: {said[-1]}") from error


def prepare(root):
    """Fetch what is missing; return the path of an emulated Python."""
    if platform.system() != "Linux" or not shutil.which("apt-get"):
        raise NotToBeHad("QEMU is used with Debian's packages, on Debian and what is made of it")
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64") or root / "qemu/usr/bin/qemu-aarch64"
    if not Path(emulator).exists():
        print("fetching QEMU", flush=True)
        own = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
        apt(root / "qemu", own, "qemu-user")
    system, script = root / "system", root / "python"
    if not (root / "complete").exists():
        print("fetching Python for ARM", flush=True)
        shutil.rmtree(system, ignore_errors=True)
        apt(system, "arm64", *PYTHON)
        if not (system / "lib").exists():
            (system / "lib").symlink_to("usr/lib")
        print("fetching wheels", flush=True)
        python, site = next(system.glob("usr/bin/python3.[0-9]*")), system / "usr/lib/python3/dist-packages"
        tags = [f"--platform={name}" for name in PLATFORMS]
        version = python.name.removeprefix("python")
        options = "--quiet", "--retries=1", "--only-binary=:all:", "--implementation=cp", f"--python-version={version}"
        quietly([sys.executable, "-m", "pip", "install", *options, *tags, "--target", site, *WHEELS])
        (site / "emulated.pth").write_text(EMULATED.format(str(script)))
        script.write_text(f'#!/bin/sh\nexec "{emulator}" -cpu {CPU} -L "{system}" "{python}" "$@"\n')
        script.chmod(0o755)
        (root / "complete").touch()
    return script


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--root", type=Path, default=cache / "fastrecur-aarch64", help="where everything is kept")
    parser.add_argument("tests", nargs="*", help="tests, from the folder of this file; else those named in it")
    given = parser.parse_args()
    root = given.root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    try:
        python = prepare(root)
    except NotToBeHad as error:
        print(f"not run on an emulated ARM processor: {error}")
        return 0
    environment = os.environ | {
        "PYTHONPATH": str(HERE.parent), "PYTHONPYCACHEPREFIX": str(root / "bytecode"), "PYTHONDONTWRITEBYTECODE": "",
        "FASTRECUR_CACHE_DIR": str(root / "kernels"), "NUMBA_NUM_THREADS": "2", "FASTRECUR_TEST_SECONDS": "1200",
    }  # fmt: skip
    shares = [share for share in (given.tests[::2], given.tests[1::2]) if share] or TESTS
    flags = "-o", "addopts=", "--strict-markers", "-v", "-p", "no:cacheprovider"
    command, began, used = [python, "-m", "pytest", *flags], time.monotonic(), sum(os.times()[2:4])
    running = [
        subprocess.Popen([*command, *(HERE / test for test in share)], cwd=HERE.parent, env=environment)
        for share in shares
    ]
    failed = sum(process.wait() != 0 for process in running)
    tried = list((root / "kernels").glob("linked-only-*"))  # `numba_internals` notes it
    if not given.tests and not tried:
        print("helpers of kernels are not linked only, as Numba is not what it is taken for")
        failed += 1
    wall, used = time.monotonic() - began, sum(os.times()[2:4]) - used
    print(f"{sum(map(len, shares))} tests as on {CPU}: {wall:.0f} s, {used:.0f} s of processors' time")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

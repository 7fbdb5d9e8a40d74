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

# A kernel takes 10 to 20 s to compile there, hence few: each traversal and its gradient, each dtype, borders; threads,
# fork, interrupts; that Numba's code is taken as it is meant; and the other families.
TESTS = """
arrays/test_forward.py::test_sizes_around_a_vector[False-0-float32-forget_mult]
arrays/test_vjp.py::test_sizes_around_a_vector[False-0-float32-forget_mult]
cpu/test_transpose8.py::test_nothing_is_written_beside_results[False-float32]
cpu/test_transpose8.py::test_nothing_is_written_beside_results[False-float64]
cpu/test_transpose8.py::test_nothing_is_written_beside_results[False-float16]
cpu/test_transpose8.py::test_nothing_is_written_beside_results[False-bfloat16]
arrays/test_dtypes.py::test_every_half_precision_number_passes[0-float16]
arrays/test_dtypes.py::test_complex_linear_recurrence[F-F-F]
arrays/test_segments.py::test_offsets[forget_mult-float32-shape0-0-False]
arrays/test_segments.py::test_offsets[forget_mult-float32-shape9-0-False]
arrays/test_segments.py::test_resets[forget_mult-float32-shape1-1-False]
cpu/test_threads.py::test_fork
cpu/test_threads.py::test_interrupts
cpu/test_compile.py::test_helpers_are_linked_into_kernels_only
arrays/test_selective.py::test_sizes_without_options
""".split()

# A script in the tests starts `sys.executable`, which must be the emulator; and processes share the folder of kernels.
SITE = """
import os, sys
sys.executable = os.environ["EMULATED_PYTHON"]
"""


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
        "Debug::NoLocking": "1",
    }  # fmt: skip
    command = ["apt-get", "-qq", *(word for name, value in own.items() for word in ("-o", f"{name}={value}"))]
    quietly([*command, "update"])
    quietly([*command, "-y", "--no-install-recommends", "--download-only", "install", *packages])
    for package in sorted((state / "cache/archives").glob("*.deb")):
        quietly(["dpkg-deb", "-x", package, folder])
    shutil.rmtree(state)


def quietly(command):
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise OSError(f"{command[0]} failed: {done.stdout.strip()[-500:]}")


def prepare(root):
    """Fetch what is missing; return the path of an emulated Python."""
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64") or root / "qemu/usr/bin/qemu-aarch64"
    if not Path(emulator).exists():
        print("fetching QEMU", flush=True)
        apt(root / "qemu", subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip(), "qemu-user")
    system, site = root / "system", root / "site"
    if not (root / "complete").exists():
        for folder in (system, site):
            shutil.rmtree(folder, ignore_errors=True)
        print("fetching Python for ARM", flush=True)
        apt(system, "arm64", *PYTHON)
        if not (system / "lib").exists():
            (system / "lib").symlink_to("usr/lib")
    python = next(system.glob("usr/bin/python3.[0-9]*"))
    if not (root / "complete").exists():
        print("fetching wheels", flush=True)
        tags = [f"--platform={name}" for name in PLATFORMS]
        version = python.name.removeprefix("python")
        quietly([sys.executable, "-m", "pip", "install", "--quiet", "--target", site, "--only-binary=:all:", *tags,
                 f"--python-version={version}", "--implementation=cp", *WHEELS])  # fmt: skip
        (site / "sitecustomize.py").write_text(SITE)
        (root / "complete").touch()
    script = root / "python"
    script.write_text(f'#!/bin/sh\nexec "{emulator}" -cpu {CPU} -L "{system}" "{python}" "$@"\n')
    script.chmod(0o755)
    return script


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--root", type=Path, default=cache / "fastrecur-aarch64", help="where everything is kept")
    parser.add_argument("tests", nargs="*", help="tests, from the folder of this file; else those named in it")
    given = parser.parse_args()
    root = given.root.resolve()
    try:
        if platform.system() != "Linux":
            raise OSError("QEMU emulates processes on Linux only")
        root.mkdir(parents=True, exist_ok=True)
        python = prepare(root)
    except (OSError, StopIteration, subprocess.CalledProcessError) as error:
        print(f"not run on an emulated ARM processor: {error}")
        return 0
    environment = os.environ | {
        "PYTHONPATH": f"{root / 'site'}{os.pathsep}{HERE.parent}", "EMULATED_PYTHON": str(python),
        "FASTRECUR_CACHE_DIR": str(root / "kernels"), "NUMBA_NUM_THREADS": "2",
        "PYTHONPYCACHEPREFIX": str(root / "bytecode"),
    }  # fmt: skip
    began = time.monotonic()
    tests = [str(HERE / test) for test in given.tests or TESTS]
    shares = [share for share in (tests[::2], tests[1::2]) if share]  # a process for each of two processors
    flags = "-o", "addopts=", "--strict-markers", "-v", "-p", "no:cacheprovider"
    command = [str(python), "-m", "pytest", *flags]
    running = [subprocess.Popen([*command, *share], cwd=HERE.parent, env=environment) for share in shares]
    failed = [process.wait() for process in running]
    load = os.getloadavg()[0]
    print(f"{len(tests)} tests as on {CPU}: {time.monotonic() - began:.0f} s, at a load of {load:.1f}")
    return max(map(abs, failed))


if __name__ == "__main__":
    sys.exit(main())

"""A CUDA driver without a card: `stub_driver.c`, built as libcuda.so.1, on which the real cuda.core and numba-cuda run.

    environment(devices=2)      what a process needs to find it: `LD_LIBRARY_PATH`, and how many cards of which kind
    log(), clear()              what the driver was asked for, line by line, in a process that uses it
    contexts()                  the devices of this thread's contexts, the current one first
    run_kernels()               from now on launches run the kernels' PTX, by `ptx_emulator`

The driver must be there before the process begins, as the loader reads `LD_LIBRARY_PATH` then.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import traceback

SOURCE = pathlib.Path(__file__).with_suffix(".c")
ILLEGAL_ADDRESS = 700


def why_not():
    """Why there can be no such driver here; None if there can."""
    if not sys.platform.startswith("linux"):
        return "the loader's environment variable is Linux's"
    if shutil.which(os.environ.get("CC", "cc")) is None:
        return "no C compiler, `cc` or $CC, that could build tests/gpu_tools/stub_driver.c"
    return None


@functools.cache
def folder():
    """Return where the driver stands, built unless it is there."""
    name = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    place = pathlib.Path(tempfile.gettempdir()) / f"fastrecur-driver-{os.getuid()}-{name}"
    if not (place / "libcuda.so.1").exists():
        place.mkdir(exist_ok=True)
        aside = place / f"{os.getpid()}.so"
        command = [os.environ.get("CC", "cc"), "-std=gnu11", "-O1", "-Wall", "-shared", "-fPIC", "-pthread"]
        command += ["-fvisibility=hidden", "-Wl,-soname,libcuda.so.1", "-o", str(aside), str(SOURCE)]
        subprocess.run(command, check=True)
        os.replace(aside, place / "libcuda.so.1")
        with contextlib.suppress(FileExistsError):
            (place / "libcuda.so").symlink_to("libcuda.so.1")
    return place


def environment(devices=1, capabilities="90", version=13000, pools=1):
    """Return what a process needs in its environment.

    ``capabilities`` are those of the devices, as in ``"90,80"``; ``version`` is the newest CUDA that the driver knows;
    ``pools`` says whether devices have memory that is ordered by streams.
    """
    places = [str(folder()), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    settings = {
        "STUB_DEVICES": devices,
        "STUB_CAPABILITIES": capabilities,
        "STUB_VERSION": version,
        "STUB_POOLS": pools,
    }
    return {"LD_LIBRARY_PATH": os.pathsep.join(places), **{name: str(value) for name, value in settings.items()}}


# ---- In a process that has it ---------------------------------------------------------------------------------------


@functools.cache
def library():
    """The driver that this process has loaded."""
    found = ctypes.CDLL("libcuda.so.1")
    found.stub_log.restype = ctypes.c_char_p
    return found


def log(*kinds):
    """What the driver was asked for: lines, as lists of words; of some kinds, or all."""
    lines = [line.split() for line in library().stub_log().decode().splitlines()]
    return [line for line in lines if not kinds or line[0] in kinds]


def clear():
    """Forget what the driver was asked for."""
    library().stub_clear_log()


def contexts():
    """The devices of this thread's contexts, the current one first."""
    return [library().stub_device(k) for k in range(library().stub_depth())]


class Buffer:
    """Memory of a device, for the emulator."""

    def __init__(self, start, size):
        self.nbytes, self.__array_interface__ = size, {"data": (start, False)}


def memory(device):
    """All memory of a device."""
    count = library().stub_memory(device, None, 0)
    pairs = (ctypes.c_uint64 * (2 * count))()
    library().stub_memory(device, pairs, count)
    return [Buffer(start, size) for start, size in zip(pairs[::2], pairs[1::2], strict=True)]


_RUNNER = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint32),
    ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_void_p,
)  # fmt: skip
_kept: list = []


def run_kernels(seed=1):
    """Let launches run kernels: code stays PTX, which the emulator runs; what it reports ends the process's work."""
    import ptx_emulator

    from fastrecur._cuda import launch

    programs: dict = {}

    def run(image, size, name, grid, block, parameters, device, stream):
        if ctypes.string_at(image, 4) == b"\x7fELF":
            return 0  # machine code, of another's kernel
        try:
            ptx = ctypes.string_at(image, size).rstrip(b"\0").decode()
            program = programs.get(ptx) or programs.setdefault(ptx, ptx_emulator.PTXKernel(ptx))
            arguments = [
                ptx_emulator.ARGUMENTS[kind].from_address(parameters[k]).value
                for k, (kind, _) in enumerate(program.parameters)
            ]
            program.launch(list(grid[:3]), list(block[:3]), arguments, buffers=memory(device), seed=seed)
        except BaseException:
            traceback.print_exc()
            return ILLEGAL_ADDRESS
        return 0

    launch.assemble = lambda ptx, capability: (ptx.encode() + b"\0", launch.entry(ptx))
    _kept.append(_RUNNER(run))
    library().stub_set_runner(_kept[-1])

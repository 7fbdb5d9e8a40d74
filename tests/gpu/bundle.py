"""Kernels that travel: machine code in a file for each capability, which cuda.core loads alone.

`FOLDER/sm_90-SOURCES.zip` holds cubins by kernel; SOURCES names what they are made of, so that those of another
checkout are not taken. Which numba and numba-cuda made them does not matter where they are loaded.
"""

import functools
import pathlib
import zipfile
from collections import Counter

from fastrecur._cpu.compiler import cache
from fastrecur._cuda import launch


class Bundle:
    """A folder of such files, or none."""

    def __init__(self, folder):
        self.folder = folder and pathlib.Path(folder)

    def path(self, capability):
        return self.folder / f"sm_{capability[0]}{capability[1]}-{cache.digest('cuda')}.zip"

    @functools.cache  # noqa: B019 - there is one bundle in a process
    def _opened(self, capability):
        there = self.folder is not None and self.path(capability).exists()
        return zipfile.ZipFile(self.path(capability)) if there else None

    def find(self, kernel, capability):
        """Return a kernel's code and its name in it; None if it is not there."""
        file = self._opened(capability)
        try:
            return file and cache.unpack(file.read(name(kernel)))
        except KeyError:
            return None

    def write(self, kernels, capability):
        """Write kernels that are compiled; return the file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(self.path(capability), "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
            for kernel in kernels:
                file.writestr(name(kernel), cache.pack(*launch.cubin(kernel, capability)))
        return self.path(capability)

    def use(self):
        """Let kernels come from here first; return a counter of where they come from."""
        counts, find_or_make, assemble = Counter(bundle=0, cache=0, compiled=0), launch.cubin, launch.assemble

        def cubin(kernel, capability):
            found = self.find(kernel, capability)
            counts["bundle" if found else "cache"] += 1
            return found or find_or_make(kernel, capability)

        def assembled(ptx, capability):
            counts.update(compiled=1, cache=-1)
            return assemble(ptx, capability)

        launch.cubin, launch.assemble = cubin, assembled
        return counts


def name(kernel):
    """Return what a kernel is called in a bundle."""
    return cache.name_of(kernel.name, kernel.key, kernel.signature, kernel.threads)

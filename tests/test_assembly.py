"""What the compiler must have made of a kernel's parts: no result would tell."""

import platform

import pytest
from numba import njit, types

from fastrecur._cpu._memory import HAS_AVX, HELPER, Pointer, load_vector, stream_vector, width

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not HAS_AVX, reason="the instructions are those of AVX"
)


@pytest.mark.parametrize(("element", "carry"), [("f2", "f4"), ("bf2", "f4"), ("f4", "f8"), ("f4", "f4"), ("f8", "f8")])
def test_vectors_are_stored_past_the_cache(element, carry):
    """A type of vector for which LLVM has no such store gets an ordinary one, which reads first what it overwrites."""

    @njit(**HELPER)
    def line(h, states):
        for j in range(0, 64, width(states)):
            stream_vector(h, j, load_vector(states, j, states))

    line.compile(types.none(Pointer(element), Pointer(carry)))
    (assembly,) = line.inspect_asm().values()
    stores = [row.strip() for row in assembly.splitlines() if "movnt" in row]
    assert stores
    assert all(store.startswith("vmovnt") and "%xmm" not in store for store in stores)

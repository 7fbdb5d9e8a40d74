"""What the compiler must have made of a kernel's parts: no result would tell."""

import platform

import pytest
from numba import types

from fastrecur._cpu.compiler.numba_internals import compiled
from fastrecur._cpu.kernels.operands import ONE, ZERO, Distance, Operand
from fastrecur._cpu.kernels.rows import Scan
from fastrecur._cpu.kernels.wide import Vectors, forward_vectors
from fastrecur._cpu.vectors.processor import has
from fastrecur._cpu.vectors.scalars import width
from fastrecur._cpu.vectors.transposes import collect_octet, load_octet, stack_lines, stream_lines
from fastrecur._cpu.vectors.types import HAS_AVX, Pointer, Rule
from fastrecur._cpu.vectors.vectors import load_vector, store_vector, stream_vector

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not HAS_AVX, reason="the instructions are those of AVX"
)


@pytest.mark.parametrize(("element", "carry"), [("f2", "f4"), ("bf2", "f4"), ("f4", "f8"), ("f4", "f4"), ("f8", "f8")])
def test_vectors_are_stored_past_the_cache(element, carry):
    """A type of vector for which LLVM has no such store gets an ordinary one, which reads first what it overwrites."""

    def line(h, states):
        for j in range(0, 64, width(states)):
            stream_vector(h, j, load_vector(states, j, states))

    assert_whole_registers(line, Pointer(element), Pointer(carry))


@pytest.mark.parametrize(("element", "carry"), [("f2", "f4"), ("bf2", "f4"), ("f4", "f8"), ("f8", "f8")])
def test_lines_of_octets_are_stored_past_the_cache(element, carry):
    def lines(x, h, offsets, states):
        kept = stack_lines(h)
        for octet in range(0, 64, 16):
            collect_octet(kept, octet, load_octet(x, offsets, states))
        stream_lines(kept, h, offsets)

    assert_whole_registers(lines, Pointer(element), Pointer(element), Pointer("i8"), Pointer(carry))


@pytest.mark.skipif(not has("prfchw"), reason="the processor asks for lines only to read them")
@pytest.mark.parametrize("past", [False, True])
def test_results_that_stay_are_asked_for(past):
    """Else a store to a row waits for the line that it goes to, and all that come behind it."""

    def row(rule, a, b, h, carry, vectors):
        x, y, out = Operand(a, ZERO, ZERO, ZERO), Operand(b, ZERO, ZERO, ZERO), Operand(h, ZERO, ZERO, ZERO)
        place, far = Vectors(ZERO, width(carry), vectors), Distance(ZERO, ZERO, ZERO)
        scan = Scan(vectors, ONE, past, ONE, far, far, x, False)
        forward_vectors(rule, ONE, x, y, out, ZERO, carry, past, place, scan)

    assembly = assembly_of(row, Rule("forget_same"), *[Pointer("f4")] * 4, types.int64)
    assert ("vmovnt" in assembly) == past
    assert ("prefetchw" in assembly) == (not past)


def assembly_of(function, *arguments):
    return next(iter(compiled(function, types.none(*arguments)).inspect_asm().values()))


def assert_whole_registers(function, *arguments):
    stores = [row.strip() for row in assembly_of(function, *arguments).splitlines() if "movnt" in row]
    assert stores
    assert all(store.startswith("vmovnt") and "%xmm" not in store for store in stores)


def test_vectors_for_which_no_register_is_left_stand_in_whole_lines():
    """Else some threads' stacks make a kernel slower than others'."""

    def many(x, h, states):
        values = (
            load_vector(x, 0, states), load_vector(x, 16, states), load_vector(x, 32, states),
            load_vector(x, 48, states), load_vector(x, 64, states), load_vector(x, 80, states),
            load_vector(x, 96, states), load_vector(x, 112, states), load_vector(x, 128, states),
            load_vector(x, 144, states), load_vector(x, 160, states), load_vector(x, 176, states),
            load_vector(x, 192, states), load_vector(x, 208, states), load_vector(x, 224, states),
            load_vector(x, 240, states), load_vector(x, 256, states), load_vector(x, 272, states),
        )  # fmt: skip
        for k in range(18):
            store_vector(h, 16 * k, values[17 - k])

    assembly = assembly_of(many, Pointer("f8"), Pointer("f8"), Pointer("f8"))
    put_aside = [row for row in assembly.splitlines() if "sp)" in row and ("%ymm" in row or "%zmm" in row)]
    assert put_aside
    assert not any("vmovup" in row for row in put_aside)

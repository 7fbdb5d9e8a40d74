"""Numbers behind addresses, one at a time; buffers on the stack; prefetches, fences."""

import numpy as np
from llvmlite import ir
from numba import types

from ..._plan.widths import LINE, OCTET, WIDTH
from .conversions import call_llvm, complex_number, narrow, resize, shuffle, widen
from .types import I1, I8, I32, I64, Address, Pointer, constant_of, first, primitive

# ---- What all loads and stores are made of ------------------------------------------------------------------------


def moved(builder, place, offset):
    return builder.gep(place, [ir.Constant(I64, offset) if isinstance(offset, int) else offset], source_etype=I8)


def scaled(builder, index, size):
    return builder.mul(index, ir.Constant(I64, size))


def element_at(builder, pointer, place, index):
    return moved(builder, place, scaled(builder, index, pointer.size))


def read(builder, place, kind, align=1):
    _align_stack(builder, kind)
    return builder.load(builder.bitcast(place, kind.as_pointer()), typ=kind, align=align)


def write(builder, value, place, align=1, streaming=False):
    """Store behind a pointer; past the cache if ``streaming``."""
    store = builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=align)
    _align_stack(builder, value.type)
    if streaming:
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(I32, 1)]))


def _align_stack(builder, kind):
    """Have the stack of a function that has vectors begin with a cache line.

    Else a vector for which there is no register left may stand in two lines, which LLVM sees too late to do anything
    about: how long that takes depends on where a thread's stack happens to be.
    """
    if isinstance(kind, ir.VectorType):
        builder.function.attributes.add("nounwind")  # where there is no other, llvmlite leaves out the next
        builder.function.attributes.alignstack = LINE


# ---- Load and store -----------------------------------------------------------------------------------------------


def _load(emitter, place, index, _):
    builder, (pointer, _, carry) = emitter.builder, emitter.kinds
    base = element_at(builder, pointer, place, index)
    if pointer.is_complex:
        parts = [read(builder, _part(builder, base, k, pointer), pointer.memory) for k in (0, 1)]
        real, imag = (resize(builder, part, carry.memory) for part in parts)
    else:
        raw = read(builder, base, pointer.memory)
        if pointer.element == carry.element:
            return raw
        real, imag = widen(builder, raw, pointer.element, carry.memory), ir.Constant(carry.memory, 0.0)
    return complex_number(builder, real, imag) if carry.is_complex else real


def _part(builder, base, k, pointer):
    return moved(builder, base, k * (pointer.size // 2))


@primitive(lambda pointer, index, carry: carry.value, _load)
def load(pointer, index, carry):
    return pointer.read(index, carry.dtype)


def _store(emitter, place, index, value):
    builder, (pointer, _, kind) = emitter.builder, emitter.kinds
    base = element_at(builder, pointer, place, index)
    if isinstance(kind, types.Complex):
        if pointer.is_complex:
            for k in (0, 1):
                part = resize(builder, builder.extract_value(value, k), pointer.memory)
                write(builder, part, _part(builder, base, k, pointer))
            return
        value = builder.extract_value(value, 0)  # the gradient of a real operand
    if pointer.category == "float":
        value = narrow(builder, value, pointer.element)
    elif value.type != pointer.memory:  # a flag
        value = builder.trunc(value, pointer.memory)
    write(builder, value, base)


@primitive(types.none, _store)
def store(pointer, index, value):
    if pointer.dtype.kind != "c" and isinstance(value, np.complexfloating):
        value = value.real
    pointer.write(index, value)


def _load_int(emitter, place, index):
    return read(emitter.builder, element_at(emitter.builder, emitter.kinds[0], place, index), I64, 8)


@primitive(types.int64, _load_int)
def load_int(pointer, index):
    return int(pointer.at(index)[0])


def _copy_number(emitter, target, at, source, index):
    # As it stands in memory; both are of one element.
    builder, (to, _, from_, _) = emitter.builder, emitter.kinds
    source = element_at(builder, from_, source, index)
    target = element_at(builder, to, target, at)
    kind = ir.VectorType(I64, 2) if to.size == 16 else ir.IntType(8 * to.size)
    write(builder, read(builder, source, kind), target)


@primitive(types.none, _copy_number)
def copy_number(target, at, source, index):
    target.at(at)[0] = source.at(index)[0]


def _copy_reversed(emitter, target, source):
    flags = read(emitter.builder, source, ir.VectorType(I8, WIDTH))
    write(emitter.builder, shuffle(emitter.builder, flags, flags, list(range(WIDTH))[::-1]), target)


@primitive(types.none, _copy_reversed)
def copy_reversed(target, source):
    """Copy as many flags as a vector has lanes, the last one first."""
    for k in range(WIDTH):
        copy_number(target, WIDTH - 1 - k, source, k)


@primitive(first, lambda emitter, place, offset: moved(emitter.builder, place, offset))
def shift(pointer, offset):
    return Address(pointer.address + int(offset), pointer.dtype, pointer.keep, pointer.lanes)


# ---- What is known of pointers, and whole numbers -----------------------------------------------------------------


@primitive(types.int64, constant_of(lambda pointer: pointer.size))
def itemsize(pointer):
    return pointer.dtype.itemsize


@primitive(types.int64, constant_of(lambda carry: carry.vector.count))
def width(carry):
    return getattr(carry, "lanes", None) or (OCTET if carry.dtype.kind == "c" else WIDTH)


@primitive(lambda carry: Pointer(carry.element, 1), lambda emitter, place: place)
def alone(carry):
    """Return a carry of vectors of one lane."""
    return Address(carry.address, carry.dtype, carry.keep, 1)


@primitive(lambda carry: Pointer(carry.element, OCTET), lambda emitter, place: place)
def octet(carry):
    """Return a carry of vectors of 8 lanes."""
    return Address(carry.address, carry.dtype, carry.keep, OCTET)


@primitive(lambda carry: Pointer(carry.element, 4 * WIDTH), lambda emitter, place: place)
def fourfold(carry):
    """Return a carry of vectors of four times as many lanes."""
    return Address(carry.address, carry.dtype, carry.keep, 4 * WIDTH)


@primitive(types.boolean, constant_of(lambda buffer, pointer: buffer == pointer, I1))
def is_same_kind(buffer, pointer):
    return buffer.dtype == pointer.dtype


@primitive(first, lambda emitter, buffer, place: place if emitter.kinds[0] == emitter.kinds[1] else buffer)
def in_place(buffer, pointer):
    return pointer if is_same_kind(buffer, pointer) else buffer


@primitive(types.int64, lambda e, place: e.builder.and_(e.builder.ptrtoint(place, I64), ir.Constant(I64, LINE - 1)))
def misalignment(pointer):
    return pointer.address & (LINE - 1)


def _chosen(comparison):
    return lambda e, a, b: e.builder.select(e.builder.icmp_signed(comparison, a, b), a, b)


# `min` and `max` of two whole numbers, which Numba compiles as functions.
@primitive(types.int64, _chosen("<"))
def minimum(a, b):
    return min(a, b)


@primitive(types.int64, _chosen(">"))
def maximum(a, b):
    return max(a, b)


# ---- Buffers on the stack -----------------------------------------------------------------------------------------


def stack_bytes(builder, size, align=LINE):
    """Return the address of so many bytes."""
    with builder.goto_entry_block():
        storage = builder.alloca(I8, size=ir.Constant(I64, size))
    storage.align = align
    return storage


def _stack(emitter, *arguments):
    return stack_bytes(emitter.builder, emitter.result.size * arguments[-1])


@primitive(lambda carry, count: carry, _stack, literal=True)
def stack(carry, count):
    """Return a buffer for what stands behind a pointer, as it stands there."""
    array = np.empty(count, carry.dtype)
    return Address(array.ctypes.data, carry.dtype, array)


def _kind_of(pointer, carry, count):
    own = pointer.element in ("f4", "f8") and not carry.is_complex
    return pointer if own else carry


@primitive(_kind_of, _stack, literal=True)
def stack_of(pointer, carry, count):
    """Return a buffer for what stands behind `pointer`: of its type, where kernels compute in its kind anyway.

    So a kernel may also read and write in place.
    """
    own = pointer.dtype in (np.float32, np.float64) and carry.dtype.kind != "c"
    return stack(pointer if own else carry, count)


@primitive(lambda n: Pointer("i8"), lambda e, n: stack_bytes(e.builder, 8 * n, align=8), literal=True)
def stack_ints(count):
    array = np.empty(count, np.int64)
    return Address(array.ctypes.data, np.int64, array)


@primitive(lambda n: Pointer("b1"), lambda e, n: stack_bytes(e.builder, n), literal=True)
def stack_flags(count):
    array = np.empty(count, bool)
    return Address(array.ctypes.data, np.dtype(bool), array)


# ---- Prefetches, fences -------------------------------------------------------------------------------------------


def prefetch_line(builder, place, for_write):
    how = (ir.Constant(I32, n) for n in (int(for_write), 3, 1))  # 3: to every level of the cache; 1: data
    call_llvm(builder, "llvm.prefetch.p0", ir.VoidType(), place, *how)


def _prefetching(for_write):
    """Return the emitter of a prefetch of the lines of a vector that stands so many bytes on."""

    def emit(emitter, place, index, distance):
        builder, pointer = emitter.builder, emitter.kinds[0]
        offset = builder.add(scaled(builder, index, pointer.size), distance)
        for line in range(0, (OCTET if pointer.is_complex else WIDTH) * pointer.size, LINE):
            prefetch_line(builder, moved(builder, place, builder.add(offset, ir.Constant(I64, line))), for_write)

    return emit


def no_prefetch(pointer, place, distance):
    """Do what a prefetch does in the interpreter."""


prefetch = primitive(types.none, _prefetching(for_write=False))(no_prefetch)
prefetch_for_write = primitive(types.none, _prefetching(for_write=True))(no_prefetch)


@primitive(types.none, lambda emitter: emitter.builder.fence("seq_cst"))
def fence():
    pass

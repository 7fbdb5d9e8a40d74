"""Blocks of 8 lanes by 8 steps, transposed between lanes that are contiguous in time and rows of lanes."""

import ctypes

import numpy as np
from llvmlite import ir
from numba import types

from ..._plan.widths import LINE, OCTET
from . import scalars
from .conversions import aggregate, narrow, shuffle, splat, widen
from .scalars import copy_number, load, load_int, moved, no_prefetch, read, scaled, shift, stack, store, write
from .types import F32, I32, I64, Vector, first, primitive
from .vectors import spread, truth


def _transpose8(builder, rows):
    """Turn 8 vectors of 8 into their transpose: swap blocks of 1, 2 and 4."""
    for d in (1, 2, 4):
        low = [c if not c & d else 8 + c - d for c in range(8)]
        high = [c + d if not c & d else 8 + c for c in range(8)]
        swapped = list(rows)
        for i in range(8):
            if not i & d:
                swapped[i] = shuffle(builder, rows[i], rows[i + d], low)
                swapped[i + d] = shuffle(builder, rows[i], rows[i + d], high)
        rows = swapped
    return rows


def _lane_offsets(builder, table):
    table = builder.bitcast(table, I64.as_pointer())
    places = (builder.gep(table, [ir.Constant(I64, lane)], source_etype=I64) for lane in range(OCTET))
    return [builder.load(place, typ=I64) for place in places]


# ---- Numbers as they stand in memory --------------------------------------------------------------------------------


def _copy_transposed8(emitter, target, to_row, source, row):
    builder, kind = emitter.builder, ir.VectorType(ir.IntType(8 * emitter.kinds[0].size), OCTET)
    rows = [read(builder, moved(builder, source, scaled(builder, row, k)), kind) for k in range(OCTET)]
    for k, numbers in enumerate(_transpose8(builder, rows)):
        write(builder, numbers, moved(builder, target, scaled(builder, to_row, k)))


@primitive(types.none, _copy_transposed8)
def copy_transposed8(target, to_row, source, row):
    """Copy 8 rows of 8 numbers; what is first in each becomes the first row."""
    for k in range(OCTET):
        for j in range(OCTET):
            copy_number(shift(target, k * to_row), j, shift(source, j * row), k)


# ---- Octets: 8 steps of 8 lanes in registers ----------------------------------------------------------------------


def _of_lanes(emitter, source, table, kind):
    """Return the number, or the vector of neighbouring ones, that each of 8 lanes has: of one of LLVM's types."""
    builder = emitter.builder
    return [read(builder, moved(builder, source, at), kind) for at in _lane_offsets(builder, table)]


def _load_octet(emitter, source, table, _):
    builder, (pointer, _, carry) = emitter.builder, emitter.kinds
    lanes = _of_lanes(emitter, source, table, ir.VectorType(pointer.memory, OCTET))
    rows = [widen(builder, row, pointer.element, carry.memory) for row in _transpose8(builder, lanes)]
    return aggregate(builder, ir.ArrayType(rows[0].type, OCTET), rows)


@primitive(lambda pointer, offsets, carry: types.UniTuple(Vector(carry.value, OCTET), OCTET), _load_octet)
def load_octet(pointer, offsets, carry):
    """Return the next 8 steps of 8 lanes, contiguous in time, as 8 vectors of lanes in the order of memory."""
    lanes = [shift(pointer, load_int(offsets, lane)) for lane in range(OCTET)]
    return tuple(np.array([load(lane, k, carry) for lane in lanes], carry.dtype) for k in range(OCTET))


def _row_of_lanes(emitter, source, table, kind):
    """Return a vector of the number that each of 8 lanes has, of one of LLVM's types."""
    row = ir.Constant(ir.VectorType(kind, OCTET), ir.Undefined)
    for lane, number in enumerate(_of_lanes(emitter, source, table, kind)):
        row = emitter.builder.insert_element(row, number, ir.Constant(I32, lane))
    return row


def _load_across(emitter, source, table, _):
    pointer, _, carry = emitter.kinds
    row = _row_of_lanes(emitter, source, table, pointer.memory)
    return widen(emitter.builder, row, pointer.element, carry.memory)


@primitive(lambda pointer, offsets, carry: Vector(carry.value, OCTET), _load_across)
def load_across(pointer, offsets, carry):
    """Return the next step of 8 lanes."""
    return np.array([load(shift(pointer, load_int(offsets, lane)), 0, carry) for lane in range(OCTET)], carry.dtype)


def _flags_of_octet(emitter, source, table, missing, _):
    builder = emitter.builder
    words = _row_of_lanes(emitter, source, table, I64)
    words = builder.lshr(words, spread(builder, builder.shl(missing, ir.Constant(I64, 3)), OCTET))
    bytes_ = (builder.and_(words, splat(0xFF << 8 * k, words.type)) for k in range(OCTET))  # of little-endian words
    masks = [truth(builder, byte, emitter.result.dtype) for byte in bytes_]
    return aggregate(builder, ir.ArrayType(masks[0].type, OCTET), masks)


@primitive(lambda p, offsets, missing, carry: types.UniTuple(Vector(carry.value, OCTET).mask, OCTET), _flags_of_octet)
def flags_of_octet(pointer, offsets, missing, carry):
    """Return which of 8 lanes' flags, a byte each, are set: of the next 8 steps in the order of memory.

    The first ``missing`` ones are left out; as many at the end are not set.
    """
    lanes = [shift(pointer, load_int(offsets, lane)) for lane in range(OCTET)]
    flags = [np.array([bool(load(lane, k, pointer)) for lane in lanes]) for k in range(missing, OCTET)]
    return (*flags, *[np.zeros(OCTET, bool)] * missing)


def _has_flags(emitter, place):
    return emitter.builder.icmp_unsigned("!=", read(emitter.builder, place, I64), ir.Constant(I64, 0))


@primitive(types.boolean, _has_flags)
def has_flags(pointer):
    """Return whether one of a lane's flags of the next 8 steps is set."""
    return any(bool(load(pointer, k, pointer)) for k in range(OCTET))


def _transposed_rows(builder, pointer, rows):
    rows = [narrow(builder, builder.extract_value(rows, k), pointer.element) for k in range(OCTET)]
    return _transpose8(builder, rows)


def _store_octet(emitter, target, table, rows):
    builder, pointer = emitter.builder, emitter.kinds[0]
    offsets = _lane_offsets(builder, table)
    for offset, row in zip(offsets, _transposed_rows(builder, pointer, rows), strict=True):
        write(builder, row, moved(builder, target, offset))


@primitive(types.none, _store_octet)
def store_octet(pointer, offsets, rows):
    """Store what `load_octet` loads."""
    for lane in range(OCTET):
        for k in range(OCTET):
            store(shift(pointer, load_int(offsets, lane)), k, rows[k][lane])


def _store_across(emitter, target, table, row):
    builder, row = emitter.builder, narrow(emitter.builder, row, emitter.kinds[0].element)
    for lane, offset in enumerate(_lane_offsets(builder, table)):
        write(builder, builder.extract_element(row, ir.Constant(I32, lane)), moved(builder, target, offset))


@primitive(types.none, _store_across)
def store_across(pointer, offsets, row):
    """Store what `load_across` loads."""
    for lane in range(OCTET):
        store(shift(pointer, load_int(offsets, lane)), 0, row[lane])


# Streaming stores take whole lines, which a processor puts together from parts only while there are few of them. So
# the lines of 8 lanes are collected from octets first.


@primitive(first, lambda emitter, _: scalars.stack_bytes(emitter.builder, OCTET * LINE))
def stack_lines(pointer):
    return stack(pointer, OCTET * LINE // pointer.dtype.itemsize)


def _collect_octet(emitter, place, offset, rows):
    builder, lines = emitter.builder, emitter.kinds[0]
    there = moved(builder, place, offset)
    for lane, row in enumerate(_transposed_rows(builder, lines, rows)):
        write(builder, row, moved(builder, there, LINE * lane), align=OCTET * lines.size)


@primitive(types.none, _collect_octet)
def collect_octet(lines, offset, rows):
    for lane in range(OCTET):
        for k in range(OCTET):
            store(shift(lines, LINE * lane + offset), k, rows[k][lane])


def _stream_lines(emitter, source, target, table):
    builder = emitter.builder
    for lane, offset in enumerate(_lane_offsets(builder, table)):
        line = read(builder, moved(builder, source, LINE * lane), ir.VectorType(F32, 16), align=LINE)
        write(builder, line, moved(builder, target, offset), align=LINE, streaming=True)


@primitive(types.none, _stream_lines)
def stream_lines(lines, pointer, offsets):
    for lane in range(OCTET):
        ctypes.memmove(pointer.address + load_int(offsets, lane), lines.address + LINE * lane, LINE)


def _prefetching_octet(for_write):
    """Return the emitter of a prefetch of the lines of 8 lanes that stand so many bytes on."""

    def emit(emitter, place, table, distance):
        there = moved(emitter.builder, place, distance)
        for offset in _lane_offsets(emitter.builder, table):
            scalars.prefetch_line(emitter.builder, moved(emitter.builder, there, offset), for_write)

    return emit


prefetch_octet = primitive(types.none, _prefetching_octet(for_write=False))(no_prefetch)
prefetch_octet_for_write = primitive(types.none, _prefetching_octet(for_write=True))(no_prefetch)

"""Vectors of neighbouring lanes: load and store them, streaming or not; permute, broadcast and add their lanes."""

import operator

import numpy as np
from llvmlite import ir
from numba import types

from ..._plan.widths import LINE, OCTET, WIDTH
from . import conversions
from .conversions import call_llvm, complex_of, halves, joined, narrow, numbers_of, shuffle, splat, widen
from .scalars import element_at, load, moved, read, store, width, write
from .types import F32, HAS_AVX, I8, I16, I32, Vector, first, llvm_type, primitive

# ---- Load and store -----------------------------------------------------------------------------------------------


def _load_vector(emitter, place, index, _):
    builder, (pointer, _, carry), vector = emitter.builder, emitter.kinds, emitter.result
    kind = ir.VectorType(pointer.memory, vector.count * (2 if pointer.is_complex else 1))
    raw = read(builder, element_at(builder, pointer, place, index), kind)
    if vector.is_complex:
        return complex_of(builder, raw, pointer, carry)
    return widen(builder, raw, pointer.element, carry.memory)


def _interpreted_load(pointer, index, carry, count):
    return np.array([load(pointer, index + k, carry) for k in range(count)], carry.dtype)


@primitive(lambda pointer, index, carry: carry.vector, _load_vector)
def load_vector(pointer, index, carry):
    return _interpreted_load(pointer, index, carry, width(carry))


@primitive(lambda pointer, index, carry: Vector(carry.value, OCTET), _load_vector)
def load_half_vector(pointer, index, carry):
    return _interpreted_load(pointer, index, carry, OCTET)


def truth(builder, numbers, kind):
    """Return a mask of the integers that are not zero; of complex lanes, for both of their parts."""
    lanes = llvm_type(kind)
    if lanes.count > numbers.type.count:
        numbers = shuffle(builder, numbers, numbers, 2 * list(range(numbers.type.count)))
    return builder.sext(builder.icmp_unsigned("!=", numbers, splat(0, numbers.type)), lanes)


def _load_mask(emitter, place, index, _):
    builder, (pointer, _, carry) = emitter.builder, emitter.kinds
    kind = ir.VectorType(I8, carry.vector.count)
    return truth(builder, read(builder, element_at(builder, pointer, place, index), kind), emitter.result)


@primitive(lambda pointer, index, carry: carry.vector.mask, _load_mask)
def load_mask(pointer, index, carry):
    """Return which of neighbouring flags are set."""
    return np.array([bool(load(pointer, index + k, pointer)) for k in range(width(carry))])


def _load_one_mask(emitter, place, _):
    flag = spread(emitter.builder, read(emitter.builder, place, I8), emitter.kinds[1].vector.count)
    return truth(emitter.builder, flag, emitter.result)


@primitive(lambda pointer, carry: carry.vector.mask, _load_one_mask)
def load_one_mask(pointer, carry):
    """Return a flag in all lanes."""
    return np.full(width(carry), bool(load(pointer, 0, pointer)))


def _gathering(way):
    """Return the emitter of a mask of lanes of which one of the n last in a direction is set, their own among these."""

    def emit(emitter, place, index, _, n):
        builder, pointer = emitter.builder, emitter.kinds[0]
        kind, reach = ir.VectorType(I8, WIDTH), 1
        flags, none = read(builder, element_at(builder, pointer, place, index), kind), splat(0, kind)
        while reach < n:
            places = [j - way * reach if 0 <= j - way * reach < WIDTH else WIDTH for j in range(WIDTH)]
            flags, reach = builder.or_(flags, shuffle(builder, flags, none, places)), 2 * reach
        return truth(builder, flags, emitter.result)

    return emit


def _interpreted_gathering(way):
    def gather(pointer, index, like, n):
        flags = np.array([bool(load(pointer, index + k, pointer)) for k in range(WIDTH)])[::way]
        return np.array([flags[max(j - n + 1, 0) : j + 1].any() for j in range(WIDTH)])[::way]

    return gather


def _mask_of(pointer, index, like, n):
    return like.mask


# Of neighbouring flags: in which lanes one of the n earlier, or later, is set, or their own.
any_earlier = primitive(_mask_of, _gathering(1), literal=True)(_interpreted_gathering(1))
any_later = primitive(_mask_of, _gathering(-1), literal=True)(_interpreted_gathering(-1))


def _storing(streaming):
    def emit(emitter, place, index, value):
        builder, (pointer, _, vector) = emitter.builder, emitter.kinds
        if vector.is_complex:
            value = numbers_of(builder, value, pointer)
        else:
            value = narrow(builder, value, pointer.element)
        place = element_at(builder, pointer, place, index)
        if streaming and not vector.is_complex:
            _stream(builder, value, place, pointer)
        else:
            write(builder, value, place)

    return emit


def _stream(builder, value, place, pointer):
    """Store a vector past the cache, to an aligned place, by whole registers: plain stores would read the line first.

    A narrowed vector would be stored as the halves that its registers were made of, and twice as many streaming stores
    take twice as long; and halves of precision by a plain store, for want of another. An empty assembly that the
    compiler does not look into keeps registers together and hides what is in them.
    """
    size = value.type.count * pointer.size
    parts = [value]
    if HAS_AVX and pointer.memory in (F32, I16) and size >= 32:
        kind = ir.VectorType(F32, 8)
        join = ir.InlineAsm(ir.FunctionType(kind, [kind]), "", "=x,0", side_effect=False)
        if size == LINE:
            parts = [shuffle(builder, value, value, list(range(k, k + 8))) for k in (0, 8)]
        parts = [builder.call(join, [builder.bitcast(part, kind)]) for part in parts]
    for k, part in enumerate(parts):
        there = moved(builder, place, 32 * k)
        write(builder, part, there, align=min(LINE, size) // len(parts), streaming=True)


def _interpreted_store(pointer, index, vector):
    for k, value in enumerate(vector):
        store(pointer, index + k, value)


store_vector = primitive(types.none, _storing(streaming=False))(_interpreted_store)
stream_vector = primitive(types.none, _storing(streaming=True))(_interpreted_store)


# ---- Permute, broadcast, add --------------------------------------------------------------------------------------


def spread(builder, number, count=WIDTH):
    undefined = ir.Constant(ir.VectorType(number.type, count), ir.Undefined)
    one = builder.insert_element(undefined, number, ir.Constant(I32, 0))
    return shuffle(builder, one, undefined, [0] * count)


def all_lanes(builder, vector, number):
    if not vector.is_complex:
        return spread(builder, number, vector.count)
    return joined(builder, *(spread(builder, builder.extract_value(number, k), vector.count) for k in (0, 1)))


def _broadcast(emitter, *arguments):
    return all_lanes(emitter.builder, emitter.result, arguments[-1])


@primitive(lambda value: Vector(value), _broadcast)
def broadcast(value):
    return np.full(width(value), value)


def _opaque_zero(emitter, _):
    kind = llvm_type(emitter.result).element
    name = f"llvm.arithmetic.fence.{'f32' if kind == F32 else 'f64'}"
    return spread(emitter.builder, call_llvm(emitter.builder, name, kind, ir.Constant(kind, 0.0)))


@primitive(first, _opaque_zero)
def opaque_zero(vector):
    """0 in all lanes, which the compiler is not told.

    With a known one it moves lanes by an expansion, which on some processors waits for what its register held before:
    the vectors of a loop would wait for each other.
    """
    return np.zeros_like(vector)


def _permuting(places):
    """Return the emitter of a vector of what stands at ``places(n)`` of one vector, or two, one behind the other."""

    def emit(emitter, vector, *others):
        second, n = others if len(others) == 2 else (vector, others[0] if others else 0)
        return shuffle(emitter.builder, vector, second, places(n))

    return emit


@primitive(first, _permuting(lambda n: list(range(WIDTH))[::-1]))
def reverse_lanes(vector):
    return vector[::-1]


@primitive(first, _permuting(lambda n: [n] * WIDTH), literal=True)
def broadcast_lane(vector, n):
    return np.full(WIDTH, vector[n])


@primitive(first, _permuting(lambda n: [j - n if j >= n else WIDTH + j for j in range(WIDTH)]), literal=True)
def earlier(vector, filling, n):
    return np.concatenate([np.broadcast_to(filling, WIDTH)[:n], vector[:-n]])


@primitive(first, _permuting(lambda n: [j + n if j + n < WIDTH else WIDTH + j for j in range(WIDTH)]), literal=True)
def later(vector, filling, n):
    return np.concatenate([vector[n:], np.broadcast_to(filling, WIDTH)[-n:]])


@primitive(lambda v, n: v.element, lambda e, v, n: e.builder.extract_element(v, ir.Constant(I32, n)), literal=True)
def lane_of(vector, n):
    return vector[n]


def _by_parts(emitter, vector, value, number_of):
    """Return the number that is made of a vector; of complex ones, of both parts by themselves."""
    if not vector.is_complex:
        return number_of(value)
    return conversions.complex_number(emitter.builder, *map(number_of, halves(emitter.builder, value)))


def _total(emitter, value):
    builder = emitter.builder

    def sum_of(vector):
        # Halves folded onto each other: a fixed order, and few roundings deep.
        while vector.type.count > 1:
            vector = builder.fadd(*halves(builder, vector))
        return builder.extract_element(vector, ir.Constant(I32, 0))

    return _by_parts(emitter, emitter.kinds[0], value, sum_of)


@primitive(lambda value: value.element, _total)
def total(vector):
    while len(vector) > 1:
        half = len(vector) // 2
        vector = vector[:half] + vector[half:]
    return vector[0]


def _totals(emitter, place, index, _):
    builder, (pointer, _, carry) = emitter.builder, emitter.kinds
    kind = llvm_type(carry.vector)
    rows = [read(builder, moved(builder, element_at(builder, pointer, place, index), k * WIDTH * pointer.size), kind)
            for k in range(WIDTH)]  # fmt: skip
    size = WIDTH  # of what is left of a row; the rows of two vectors are folded into one
    while size > 1:
        size //= 2
        low = [k for k in range(2 * WIDTH) if k % (2 * size) < size]
        rows = [
            builder.fadd(*(shuffle(builder, *pair, [k + high for k in low]) for high in (0, size)))
            for pair in zip(rows[::2], rows[1::2], strict=True)
        ]
    return rows[0]


@primitive(lambda pointer, index, carry: carry.vector, _totals)
def totals(pointer, index, carry):
    """Return the `total` of each of WIDTH vectors that follow each other, of the carry's type."""
    return np.array([total(_interpreted_load(pointer, index + k * WIDTH, carry, WIDTH)) for k in range(WIDTH)])


# ---- Fourfold vectors ---------------------------------------------------------------------------------------------
#
# Those of a `fourfold` carry, which the compiler takes apart into registers; of another carry they are plain ones.


def _joined_all(builder, vectors):
    while len(vectors) > 1:
        vectors = [joined(builder, *vectors[k : k + 2]) for k in range(0, len(vectors), 2)]
    return vectors[0]


def _copies(emitter, vector, _):
    return _joined_all(emitter.builder, [vector] * (llvm_type(emitter.result).count // WIDTH))


@primitive(lambda vector, carry: carry.vector, _copies)
def copies(vector, carry):
    """Return a vector of WIDTH lanes as often as one of the carry has room for it."""
    return np.tile(vector, width(carry) // WIDTH)


def _load_each(emitter, place, index, _):
    builder, pointer = emitter.builder, emitter.kinds[0]
    place, count = element_at(builder, pointer, place, index), llvm_type(emitter.result).count // WIDTH
    numbers = [read(builder, moved(builder, place, k * pointer.size), pointer.memory) for k in range(count)]
    return _joined_all(builder, [spread(builder, number) for number in numbers])


@primitive(lambda pointer, index, carry: carry.vector, _load_each)
def load_each(pointer, index, carry):
    """Return neighbouring numbers of the carry's type, each in WIDTH lanes."""
    return np.repeat(_interpreted_load(pointer, index, carry, width(carry) // WIDTH), WIDTH)


def _add_products(emitter, whole, a, b):
    builder, kind = emitter.builder, whole.type
    name = f"llvm.fmuladd.v{WIDTH}{'f32' if kind.element == F32 else 'f64'}"
    for k in range(0, a.type.count, WIDTH):
        parts = [shuffle(builder, v, v, list(range(k, k + WIDTH))) for v in (a, b)]
        whole = call_llvm(builder, name, kind, *parts, whole)
    return whole


@primitive(first, _add_products)
def add_products(whole, a, b):
    """Return a vector of WIDTH lanes and the products of as many lanes of others, added one after the other."""
    for k in range(0, len(a), WIDTH):
        whole = a[k : k + WIDTH] * b[k : k + WIDTH] + whole
    return whole


# ---- Short rows ---------------------------------------------------------------------------------------------------
#
# A row of so many lanes as its rule says, in a vector of the next power of two: the compiler takes others apart. Behind
# them stands the first one again, which is not written.


def _row_lanes(rule):
    return next(int(word.removeprefix("lanes_")) for word in rule.split() if word.startswith("lanes_"))


def _row_width(lanes):
    return 1 << (lanes - 1).bit_length()


def _row_places(lanes):
    return [k if k < lanes else 0 for k in range(_row_width(lanes))]


def _row_of(rule, *kinds):
    element = kinds[-1] if len(kinds) == 1 else kinds[-1].value
    return Vector(element, _row_width(_row_lanes(rule.rule)))


def _load_row(emitter, rule, place, _):
    builder, (rule, pointer, carry) = emitter.builder, emitter.kinds
    lanes = _row_lanes(rule.rule)
    kind = ir.VectorType(pointer.memory, lanes * (2 if pointer.is_complex else 1))
    raw = read(builder, place, kind)
    if emitter.result.is_complex:
        return complex_of(builder, raw, pointer, carry, _row_places(lanes))
    return widen(builder, shuffle(builder, raw, raw, _row_places(lanes)), pointer.element, carry.memory)


@primitive(_row_of, _load_row)
def load_row(rule, pointer, carry):
    lanes = _row_lanes(rule)
    return _interpreted_load(pointer, 0, carry, lanes)[_row_places(lanes)]


def _store_row(emitter, rule, place, value):
    builder, (rule, pointer, vector) = emitter.builder, emitter.kinds
    lanes = _row_lanes(rule.rule)
    if vector.is_complex:
        row = numbers_of(builder, value, pointer, lanes)
    else:
        whole = narrow(builder, value, pointer.element)
        row = shuffle(builder, whole, whole, list(range(lanes)))
    write(builder, row, place)


@primitive(types.none, _store_row)
def store_row(rule, pointer, vector):
    _interpreted_store(pointer, 0, vector[: _row_lanes(rule)])


@primitive(_row_of, _broadcast)
def broadcast_row(rule, value):
    return np.full(_row_width(_row_lanes(rule)), value)


def _folded(numbers, add):
    """Add neighbours, then their sums."""
    while len(numbers) > 1:
        pairs = [add(*numbers[k : k + 2]) for k in range(0, len(numbers) - 1, 2)]
        numbers = pairs + numbers[2 * len(pairs) :]
    return numbers[0]


def _row_total(emitter, rule, value):
    builder, (rule, vector) = emitter.builder, emitter.kinds

    def sum_of(row):
        numbers = [builder.extract_element(row, ir.Constant(I32, lane)) for lane in range(_row_lanes(rule.rule))]
        return _folded(numbers, builder.fadd)

    return _by_parts(emitter, vector, value, sum_of)


@primitive(lambda rule, value: value.element, _row_total)
def row_total(rule, vector):
    return _folded(list(vector[: _row_lanes(rule)]), operator.add)

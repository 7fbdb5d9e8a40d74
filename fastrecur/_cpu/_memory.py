"""Typed pointers for CPU kernels: load, store, transpose and stream whatever number stands in memory.

A kernel's arguments are addresses and integers. Its signature names the element type behind each address, so one
kernel serves every dtype, every layout and read-only data, and a call costs no array unboxing. Offsets between rows
and lanes are bytes (`shift`); the index of `load` and `store` counts elements. Values are converted on the way:
kernels compute in the *carry* type only.

With ``NUMBA_DISABLE_JIT=1`` the same names work on addresses in the interpreter, so kernels can be traced.
"""

import ctypes
import inspect
import operator
import platform

import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, config, types
from numba.extending import (
    NativeValue,
    intrinsic,
    lower_builtin,
    models,
    overload,
    register_model,
    type_callable,
    unbox,
)

from .. import _steps
from ._target import INLINE

INTERPRETED = bool(config.DISABLE_JIT)

WIDTH = 16  # lanes in a vector: a cache line of float32, and four registers of float64 on AVX2
OCTET = 8  # lanes and steps of a block that is transposed in registers
LINE = 64  # bytes of a cache line

_I8, _I16, _I32, _I64 = (ir.IntType(n) for n in (8, 16, 32, 64))
_F16, _F32, _F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()

# Element name -> (bytes, LLVM type in memory, class). The names are NumPy's, plus bf2 for bfloat16.
_ELEMENTS = {
    "f2": (2, _I16, "float"),
    "bf2": (2, _I16, "float"),
    "f4": (4, _F32, "float"),
    "f8": (8, _F64, "float"),
    "c8": (8, _F32, "complex"),
    "c16": (16, _F64, "complex"),
    "b1": (1, _I8, "unsigned"),
    **{f"i{n}": (n, ir.IntType(8 * n), "signed") for n in (1, 2, 4, 8)},
    **{f"u{n}": (n, ir.IntType(8 * n), "unsigned") for n in (1, 2, 4, 8)},
}


def _host_features():
    """Return what the processor for which kernels are compiled can do, as far as that is known."""
    if (config.CPU_NAME and config.CPU_NAME != "host") or config.CPU_FEATURES is not None:
        return {}
    try:
        return binding.get_host_cpu_features()
    except RuntimeError:
        return {}


_FEATURES = _host_features()
# LLVM lowers half <-> float to one instruction, or to a library call that may not exist at run time.
HARDWARE_HALF = bool(_FEATURES and (_FEATURES.get("f16c") or platform.machine() in ("aarch64", "arm64")))
HAS_AVX = bool(_FEATURES.get("avx"))
HAS_MASKS = bool(_FEATURES.get("avx512f"))  # a bit for each lane, in a register of its own
HAS_BFLOAT = HAS_MASKS and _FEATURES.get("avx512bf16") and _FEATURES.get("avx512dq")  # rounds to it


class Pointer(types.Type):
    """An address of elements of one type; unboxed from a Python int.

    ``scratch`` marks the kernels' own buffers, which no operand or result overlaps: the compiler may rely on that.
    """

    def __init__(self, element, scratch=False):
        self.element, self.scratch = element, scratch
        self.size, self.memory, self.category = _ELEMENTS[element]
        super().__init__(name=f"fastrecur.Pointer({element}{', scratch' if scratch else ''})")

    @property
    def value(self):
        """The Numba type of an element when this is a carry."""
        return {"f4": types.float32, "f8": types.float64, "c16": types.complex128, "i8": types.int64}[self.element]


class Rule(types.Type):
    """Which recurrence a kernel walks: a type, so that it is fixed when the kernel is compiled."""

    def __init__(self, rule):
        self.rule = rule
        super().__init__(name=f"fastrecur.Rule({rule})")


class Vector(types.Type):
    """Neighbouring lanes in the carry type, computed on together; of complex ones all real parts, then the others."""

    def __init__(self, element, count=None):
        self.element, self.count = element, count or (OCTET if element == types.complex128 else WIDTH)
        self.is_complex = element == types.complex128
        super().__init__(name=f"fastrecur.Vector({element} x {count})")


class Mask(types.Type):
    """The truth of a comparison of two vectors: integers as wide as the numbers, all ones or all zeros.

    Bits would be packed and unpacked again wherever the compiler keeps them in memory.
    """

    def __init__(self, element, count):
        self.element, self.count = element, count
        super().__init__(name=f"fastrecur.Mask({element} x {count})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        element = _F32 if fe_type.element == types.float32 else _F64
        super().__init__(manager, fe_type, ir.VectorType(element, fe_type.count * (1 + fe_type.is_complex)))


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, ir.VectorType(ir.IntType(fe_type.element.bitwidth), fe_type.count))


@register_model(Pointer)
class _PointerModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, _I8.as_pointer())


@register_model(Rule)
class _RuleModel(models.OpaqueModel):
    pass


@unbox(Pointer)
def _unbox_pointer(typ, obj, c):
    value = c.pyapi.long_as_voidptr(obj)
    return NativeValue(value, is_error=cgutils.is_not_null(c.builder, c.pyapi.err_occurred()))


@unbox(Rule)
def _unbox_rule(typ, obj, c):
    return NativeValue(c.context.get_dummy_value())


# ---- Conversions, on scalars and vectors alike --------------------------------------------------------------------


def _shaped(type_, like):
    return ir.VectorType(type_, like.count) if isinstance(like, ir.VectorType) else type_


def _splat(value, type_):
    if isinstance(type_, ir.VectorType):
        return ir.Constant(type_, [value] * type_.count)
    return ir.Constant(type_, value)


def _half_to_float(builder, bits):
    if HARDWARE_HALF:
        return builder.fpext(builder.bitcast(bits, _shaped(_F16, bits.type)), _shaped(_F32, bits.type))
    i32, f32 = _shaped(_I32, bits.type), _shaped(_F32, bits.type)
    wide = builder.zext(bits, i32)
    magnitude = builder.shl(builder.and_(wide, _splat(0x7FFF, i32)), _splat(13, i32))
    # Multiplying by 2**112 moves the exponent's bias and makes subnormal numbers normal, exactly.
    scaled = builder.fmul(builder.bitcast(magnitude, f32), _splat(2.0**112, f32))
    special = builder.icmp_unsigned(">=", magnitude, _splat(0x7C00 << 13, i32))
    finite_bits = builder.bitcast(scaled, i32)
    special_bits = builder.or_(magnitude, _splat(0x7F800000, i32))
    sign = builder.shl(builder.and_(wide, _splat(0x8000, i32)), _splat(16, i32))
    return builder.bitcast(builder.or_(builder.select(special, special_bits, finite_bits), sign), f32)


def _float_to_half(builder, value):
    i16 = _shaped(_I16, value.type)
    if HARDWARE_HALF:
        return builder.bitcast(builder.fptrunc(value, _shaped(_F16, value.type)), i16)
    i32, f32 = _shaped(_I32, value.type), _shaped(_F32, value.type)
    bits = builder.bitcast(value, i32)
    magnitude = builder.and_(bits, _splat(0x7FFFFFFF, i32))
    sign = builder.lshr(builder.and_(bits, _splat(0x80000000, i32)), _splat(16, i32))
    # Below 2**-14 the addition of 1/2 aligns the subnormal half's last bit with the float's and rounds to even.
    tiny_sum = builder.fadd(builder.bitcast(magnitude, f32), _splat(0.5, f32))
    tiny = builder.sub(builder.bitcast(tiny_sum, i32), _splat(0x3F000000, i32))
    odd = builder.and_(builder.lshr(magnitude, _splat(13, i32)), _splat(1, i32))
    rounded = builder.add(builder.add(magnitude, _splat(0xFFF - (112 << 23), i32)), odd)
    normal = builder.lshr(rounded, _splat(13, i32))
    finite = builder.select(builder.icmp_unsigned("<", magnitude, _splat(113 << 23, i32)), tiny, normal)
    is_nan = builder.icmp_unsigned(">", magnitude, _splat(0x7F800000, i32))
    special = builder.select(is_nan, _splat(0x7E00, i32), _splat(0x7C00, i32))
    # 65520 and above round to infinity.
    chosen = builder.select(builder.icmp_unsigned(">=", magnitude, _splat(0x477FF000, i32)), special, finite)
    return builder.trunc(builder.or_(chosen, sign), i16)


def _bfloat_to_float(builder, bits):
    i32 = _shaped(_I32, bits.type)
    return builder.bitcast(builder.shl(builder.zext(bits, i32), _splat(16, i32)), _shaped(_F32, bits.type))


def _float_to_bfloat(builder, value):
    if not HAS_BFLOAT or value.type != ir.VectorType(_F32, WIDTH):
        return _rounded_to_bfloat(builder, value)
    # The instruction takes subnormal numbers for 0: a vector that has some is rounded as others are.
    narrow, mask, subnormal = ir.VectorType(_I16, WIDTH), ir.IntType(WIDTH), ir.Constant(_I32, 0x20)
    fast = _ask_x86(builder, narrow, "avx512bf16.cvtneps2bf16", value)
    classes = _ask_x86(builder, ir.VectorType(ir.IntType(1), WIDTH), "avx512.fpclass.ps", value, subnormal)
    found, before = builder.bitcast(classes, mask), builder.block
    with builder.if_then(builder.icmp_unsigned("!=", found, ir.Constant(mask, 0)), likely=False):
        slow, there = _rounded_to_bfloat(builder, value), builder.block
    chosen = builder.phi(narrow)
    chosen.add_incoming(fast, before)
    chosen.add_incoming(slow, there)
    return chosen


def _ask_x86(builder, result, name, *arguments):
    """Call an instruction of 512 bits by its name in LLVM."""
    type_ = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, type_, f"llvm.x86.{name}.512")
    return builder.call(function, arguments)


def _rounded_to_bfloat(builder, value):
    i32 = _shaped(_I32, value.type)
    bits = builder.bitcast(value, i32)
    odd = builder.and_(builder.lshr(bits, _splat(16, i32)), _splat(1, i32))
    rounded = builder.add(builder.add(bits, _splat(0x7FFF, i32)), odd)
    quiet = builder.or_(bits, _splat(0x400000, i32))
    chosen = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
    return builder.trunc(builder.lshr(chosen, _splat(16, i32)), _shaped(_I16, value.type))


def _resize(builder, value, type_):
    target = _shaped(type_, value.type)
    if value.type == target:
        return value
    source = value.type.element if isinstance(value.type, ir.VectorType) else value.type
    return (builder.fpext if source == _F32 else builder.fptrunc)(value, target)


def _widen(builder, value, element, carry_type):
    """Convert a (vector of) real numbers as they stand in memory to the real carry type."""
    category = _ELEMENTS[element][2]
    if category == "signed":
        return builder.sitofp(value, _shaped(carry_type, value.type))
    if category == "unsigned":
        return builder.uitofp(value, _shaped(carry_type, value.type))
    if element == "f2":
        value = _half_to_float(builder, value)
    elif element == "bf2":
        value = _bfloat_to_float(builder, value)
    return _resize(builder, value, carry_type)


def _narrow(builder, value, element):
    """Convert a (vector of) real carry values to what stands in memory."""
    if element in ("f2", "bf2"):
        value = _resize(builder, value, _F32)
        return (_float_to_half if element == "f2" else _float_to_bfloat)(builder, value)
    return _resize(builder, value, _ELEMENTS[element][1])


def _address(builder, pointer, offset, type_):
    moved = builder.gep(pointer, [offset], source_etype=_I8)
    return builder.bitcast(moved, type_.as_pointer())


def _mark(instruction, builder, pointer):
    """Tell the compiler that scratch memory and the caller's memory never overlap."""
    module = builder.module
    domain = module.add_metadata(["fastrecur"])
    scope = module.add_metadata([module.add_metadata(["fastrecur.scratch", domain])])
    instruction.set_metadata("alias.scope" if pointer.scratch else "noalias", scope)
    if any(isinstance(value.type, ir.VectorType) for value in (instruction, *instruction.operands)):
        _align_stack(builder.function)
    return instruction


def _align_stack(function):
    """Have a function's stack begin with a cache line.

    Else a vector for which there is no register left may stand in two lines, which LLVM sees too late to do anything
    about: how long that takes depends on where a thread's stack happens to be.
    """
    function.attributes.add("nounwind")  # where there is no other, llvmlite leaves out the next
    function.attributes.alignstack = LINE


def _part(builder, base, k, pointer):
    return builder.gep(base, [ir.Constant(_I64, k)], source_etype=pointer.memory)


def _scaled(builder, index, size):
    return builder.mul(index, ir.Constant(_I64, size))


# ---- What kernels call --------------------------------------------------------------------------------------------


def _compiled_load(typingctx, pointer, index, carry):
    def codegen(context, builder, signature, args):
        carry_memory = carry.memory
        if pointer.category == "complex":
            base = _address(builder, args[0], _scaled(builder, args[1], pointer.size), pointer.memory)
            parts = [
                _mark(builder.load(_part(builder, base, k, pointer), typ=pointer.memory, align=1), builder, pointer)
                for k in (0, 1)
            ]
            real, imag = (_resize(builder, part, carry_memory) for part in parts)
        else:
            base = _address(builder, args[0], _scaled(builder, args[1], pointer.size), pointer.memory)
            raw = _mark(builder.load(base, typ=pointer.memory, align=1), builder, pointer)
            if pointer.element == carry.element:
                return raw
            real, imag = _widen(builder, raw, pointer.element, carry_memory), ir.Constant(carry_memory, 0.0)
        if carry.category != "complex":
            return real
        return _pack_complex(context, builder, carry, real, imag)

    return carry.value(pointer, types.int64, carry), codegen


def _pack_complex(context, builder, carry, real, imag):
    number = context.make_complex(builder, carry.value)
    number.real, number.imag = real, imag
    return number._getvalue()


def _compiled_store(typingctx, pointer, index, value):
    def codegen(context, builder, signature, args):
        stored = args[2]
        base = _address(builder, args[0], _scaled(builder, args[1], pointer.size), pointer.memory)
        if isinstance(value, types.Complex):
            number = context.make_complex(builder, value, stored)
            if pointer.category == "complex":
                for k, part in enumerate((number.real, number.imag)):
                    place = _part(builder, base, k, pointer)
                    _mark(builder.store(_resize(builder, part, pointer.memory), place, align=1), builder, pointer)
                return context.get_dummy_value()
            stored = number.real  # the gradient of a real operand
        if pointer.category == "float":
            stored = _narrow(builder, stored, pointer.element)
        _mark(builder.store(stored, base, align=1), builder, pointer)
        return context.get_dummy_value()

    return types.none(pointer, types.int64, value), codegen


def _compiled_shift(typingctx, pointer, offset):
    def codegen(context, builder, signature, args):
        return builder.gep(args[0], [args[1]], source_etype=_I8)

    return pointer(pointer, types.int64), codegen


def _choosing(operation):
    # `min` and `max` of two whole numbers, which Numba compiles as functions.
    def compiled(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return builder.select(builder.icmp_signed(operation, *args), *args)

        return types.int64(types.int64, types.int64), codegen

    return compiled


def _compiled_itemsize(typingctx, pointer):
    def codegen(context, builder, signature, args):
        return ir.Constant(_I64, pointer.size)

    return types.int64(pointer), codegen


def _compiled_misalignment(typingctx, pointer):
    def codegen(context, builder, signature, args):
        return builder.and_(builder.ptrtoint(args[0], _I64), ir.Constant(_I64, 63))

    return types.int64(pointer), codegen


def _compiled_is_same(typingctx, pointer, other):
    def codegen(context, builder, signature, args):
        return builder.icmp_unsigned("==", *(builder.ptrtoint(place, _I64) for place in args))

    return types.boolean(pointer, other), codegen


def _compiled_stack(typingctx, carry, count):
    # A buffer for what stands behind a pointer, as it stands there.
    if not isinstance(count, types.IntegerLiteral):
        return None

    def codegen(context, builder, signature, args):
        storage = cgutils.alloca_once(builder, _I8, size=ir.Constant(_I64, carry.size * count.literal_value))
        storage.align = 64
        return storage

    return carry(carry, count), codegen


def _in_kind(pointer, carry):
    return pointer.element in ("f4", "f8") and carry.category != "complex"


def _compiled_stack_like(typingctx, pointer, carry, count):
    # A buffer for what stands behind `pointer`: as it is, where the kernels compute in its kind anyway.
    if not isinstance(count, types.IntegerLiteral):
        return None
    buffer = Pointer(pointer.element if _in_kind(pointer, carry) else carry.element, scratch=True)

    def codegen(context, builder, signature, args):
        storage = cgutils.alloca_once(builder, _I8, size=ir.Constant(_I64, buffer.size * count.literal_value))
        storage.align = 64
        return storage

    return buffer(pointer, carry, count), codegen


def _compiled_stack_of(typingctx, pointer, carry, count):
    # The same with the pointer's own type, so that a kernel may also read and write in place.
    if not _in_kind(pointer, carry):
        return _compiled_stack_like(typingctx, pointer, carry, count)
    _, codegen = _compiled_stack_like(typingctx, pointer, carry, count)
    return pointer(pointer, carry, count), codegen


def _compiled_stack_wide(typingctx, pointer, carry, count):
    # A buffer of the carry's kind; with the pointer's own type if that is its kind too.
    kind = pointer if pointer.element == carry.element else carry
    made = _compiled_stack(typingctx, kind, count)
    return None if made is None else (kind(pointer, carry, count), made[1])


def _compiled_copy_number(typingctx, target, at, source, index):
    # As it stands in memory; both are of one element.
    def codegen(context, builder, signature, args):
        kind = ir.VectorType(_I64, 2) if target.size == 16 else ir.IntType(8 * target.size)
        from_ = _address(builder, args[2], _scaled(builder, args[3], source.size), kind)
        to = _address(builder, args[0], _scaled(builder, args[1], target.size), kind)
        raw = _mark(builder.load(from_, typ=kind, align=1), builder, source)
        _mark(builder.store(raw, to, align=1), builder, target)
        return context.get_dummy_value()

    return types.none(target, types.int64, source, types.int64), codegen


def _load_every(builder, pointer, source, offset, step, count):
    """Load so many numbers as they stand in memory, each ``step``-th from an offset on; nothing behind the last one."""
    kind = ir.VectorType(ir.IntType(8 * pointer.size), count)

    def load_from(first):
        place = builder.add(offset, ir.Constant(_I64, first * pointer.size))
        return _mark(builder.load(_address(builder, source, place, kind), typ=kind, align=1), builder, pointer)

    if step < 0:
        numbers = load_from(1 - count)
        return _shuffle(builder, numbers, numbers, list(range(count))[::-1])
    numbers, reach, known = load_from(0), count, range(0, count, step)  # those of the wanted ones that are loaded
    for _ in range(1, step):
        first = min(reach, (count - 1) * step + 1 - count)
        reach = first + count
        more = range(len(known) * step, min(reach, count * step), step)
        places = [*known, *(count + n - first for n in more)]
        numbers = _shuffle(builder, numbers, load_from(first), places + [0] * (count - len(places)))
        known = range(len(places))
    return numbers


def _compiled_copy_every(typingctx, target, at, source, way):
    # A vector of numbers as they stand in memory: each ``way``-th from the source on; -1: neighbours before it.
    if not isinstance(way, types.IntegerLiteral):
        return None

    def codegen(context, builder, signature, args):
        numbers = _load_every(builder, source, args[2], ir.Constant(_I64, 0), way.literal_value, WIDTH)
        to = _address(builder, args[0], _scaled(builder, args[1], target.size), numbers.type)
        _mark(builder.store(numbers, to, align=1), builder, target)
        return context.get_dummy_value()

    return types.none(target, types.int64, source, way), codegen


def _compiled_copy_turned(typingctx, target, to_row, source, row, way):
    # Eight rows of eight numbers as they stand in memory, each ``way``-th; what is first in each becomes the first row.
    if not isinstance(way, types.IntegerLiteral):
        return None

    def codegen(context, builder, signature, args):
        rows = [
            _load_every(builder, source, args[2], _scaled(builder, args[3], k), way.literal_value, OCTET)
            for k in range(OCTET)
        ]
        for k, turned in enumerate(_transpose8(builder, rows)):
            to = _address(builder, args[0], _scaled(builder, args[1], k), turned.type)
            _mark(builder.store(turned, to, align=1), builder, target)
        return context.get_dummy_value()

    return types.none(target, types.int64, source, types.int64, way), codegen


def _compiled_is_own_kind(typingctx, buffer, pointer):
    def codegen(context, builder, signature, args):
        return ir.Constant(ir.IntType(1), int(buffer == pointer))

    return types.boolean(buffer, pointer), codegen


def _compiled_in_place(typingctx, buffer, pointer):
    def codegen(context, builder, signature, args):
        return args[1 if buffer == pointer else 0]

    return buffer(buffer, pointer), codegen


def _compiled_stack_ints(typingctx, count):
    if not isinstance(count, types.IntegerLiteral):
        return None

    def codegen(context, builder, signature, args):
        return cgutils.alloca_once(builder, _I8, size=ir.Constant(_I64, 8 * count.literal_value))

    return Pointer("i8", scratch=True)(count), codegen


def _compiled_store_int(typingctx, pointer, index, value):
    return _compiled_store(typingctx, pointer, index, value)


def _compiled_load_int(typingctx, pointer, index):
    def codegen(context, builder, signature, args):
        base = _address(builder, args[0], _scaled(builder, args[1], 8), _I64)
        return _mark(builder.load(base, typ=_I64, align=8), builder, pointer)

    return types.int64(pointer, types.int64), codegen


def _halves(builder, vector):
    """Return the first and the second half of a vector: of complex numbers, the real and the imaginary parts."""
    half = vector.type.count // 2
    return [_shuffle(builder, vector, vector, list(range(k, k + half))) for k in (0, half)]


def _joined(builder, low, high):
    return _shuffle(builder, low, high, list(range(2 * low.type.count)))


def _complex_of(builder, raw, pointer, carry, lanes=None):
    """Return a vector of the complex carry from numbers as they stand in memory, of any kind: all, or some of them."""
    if pointer.category == "complex":
        lanes = range(raw.type.count // 2) if lanes is None else lanes
        parts = [2 * k + part for part in (0, 1) for k in lanes]
        return _resize(builder, _shuffle(builder, raw, raw, parts), carry.memory)
    real = raw if lanes is None else _shuffle(builder, raw, raw, list(lanes))
    real = _widen(builder, real, pointer.element, carry.memory)
    return _joined(builder, real, ir.Constant(real.type, [0.0] * real.type.count))


def _numbers_of(builder, vector, pointer, count=None):
    """Return numbers as they stand in memory, of any kind, from a vector of the complex carry: all, or so many."""
    half = vector.type.count // 2
    lanes = range(half if count is None else count)
    if pointer.category == "complex":
        parts = [k + part for k in lanes for part in (0, half)]
        return _shuffle(builder, *2 * [_resize(builder, vector, pointer.memory)], parts)
    # The gradient of a real operand is the real part.
    return _narrow(builder, _shuffle(builder, vector, vector, list(lanes)), pointer.element)


def _transpose8(builder, rows):
    """Turn 8 vectors of 8 into their transpose: swap blocks of 1, 2 and 4."""
    for d in (1, 2, 4):
        low = ir.Constant(ir.VectorType(_I32, 8), [c if not c & d else 8 + c - d for c in range(8)])
        high = ir.Constant(ir.VectorType(_I32, 8), [c + d if not c & d else 8 + c for c in range(8)])
        swapped = list(rows)
        for i in range(8):
            if not i & d:
                swapped[i] = builder.shuffle_vector(rows[i], rows[i + d], low)
                swapped[i + d] = builder.shuffle_vector(rows[i], rows[i + d], high)
        rows = swapped
    return rows


def _request(builder, place, for_write, locality=3):
    kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    # To read or write, how near to keep it (3: in every level of the cache), data.
    builder.call(function, [place, *(ir.Constant(_I32, n) for n in (int(for_write), locality, 1))])


def _shuffle(builder, low, high, places):
    return builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(_I32, len(places)), places))


def _gather_blocks(builder, pointer, source, offsets):
    """Yield ``(step, lane, vector)``: vectors of neighbouring lanes, of 8 steps that stand in memory lane by lane.

    Lanes that will stand in different halves of a register are joined by the load itself, which costs no shuffle;
    what remains is a transpose within halves.
    """

    def load(lane, step, count):
        kind = ir.VectorType(pointer.memory, count)
        place = builder.add(offsets[lane], ir.Constant(_I64, step * pointer.size))
        return _mark(builder.load(_address(builder, source, place, kind), typ=kind, align=1), builder, pointer)

    if pointer.memory == _F32:
        for step in (0, 4):
            a, b, c, d = (
                _shuffle(builder, load(lane, step, 4), load(lane + 4, step, 4), list(range(8))) for lane in range(4)
            )
            pairs = [
                _shuffle(builder, one, other, [k, k + 8, k + 1, k + 9, k + 4, k + 12, k + 5, k + 13])
                for one, other in ((a, b), (c, d))
                for k in (0, 2)
            ]
            for k, (one, other) in enumerate(((pairs[0], pairs[2]), (pairs[1], pairs[3]))):
                yield step + 2 * k, 0, _shuffle(builder, one, other, [0, 1, 8, 9, 4, 5, 12, 13])
                yield step + 2 * k + 1, 0, _shuffle(builder, one, other, [2, 3, 10, 11, 6, 7, 14, 15])
    elif pointer.memory == _F64:
        for step in range(0, 8, 2):
            for lane in (0, 4):
                even, odd = (
                    _shuffle(builder, load(lane + k, step, 2), load(lane + k + 2, step, 2), list(range(4)))
                    for k in (0, 1)
                )
                yield step, lane, _shuffle(builder, even, odd, [0, 4, 2, 6])
                yield step + 1, lane, _shuffle(builder, even, odd, [1, 5, 3, 7])
    else:
        for step, row in enumerate(_transpose8(builder, [load(lane, 0, 8) for lane in range(8)])):
            yield step, 0, row


def _wide_blocks(builder, pointer, carry, source, offsets):
    """Yield ``(step, lane, vector)`` as `_gather_blocks` does, as they stand in memory of the carry's kind."""
    if pointer.element == "c16":
        kind = ir.VectorType(_F64, 2)
        for lane, offset in enumerate(offsets):
            for step in range(8):
                place = builder.add(offset, ir.Constant(_I64, step * pointer.size))
                number = builder.load(_address(builder, source, place, kind), typ=kind, align=1)
                yield step, lane, _mark(number, builder, pointer)
    elif pointer.element == "c8":  # as if its 8 bytes were one number
        for step, lane, numbers in _gather_blocks(builder, Pointer("f8", pointer.scratch), source, offsets):
            parts = builder.bitcast(numbers, ir.VectorType(_F32, 2 * numbers.type.count))
            yield step, lane, _resize(builder, parts, carry.memory)
    else:
        for step, lane, numbers in _gather_blocks(builder, pointer, source, offsets):
            if carry.category == "complex":
                yield step, lane, _numbers_of(builder, _complex_of(builder, numbers, pointer, carry), carry)
            else:
                yield step, lane, _widen(builder, numbers, pointer.element, carry.memory)


def _blocks(builder, count, steps_in_line, ahead, request, one):
    """Run ``one`` for each of ``count`` blocks of 8 steps; ``request`` before a block that begins a line, if asked."""
    asked = builder.icmp_signed("!=", ahead, ir.Constant(_I64, 0))
    with cgutils.for_range(builder, count) as loop:
        first_of_line = ir.Constant(_I64, max(1, steps_in_line // 8) - 1)
        begins = builder.icmp_signed("==", builder.and_(loop.index, first_of_line), ir.Constant(_I64, 0))
        with builder.if_then(builder.and_(asked, begins)):
            request(loop.index)
        one(loop.index)


def _lane_offsets(builder, table):
    table = builder.bitcast(table, _I64.as_pointer())
    places = (builder.gep(table, [ir.Constant(_I64, lane)], source_etype=_I64) for lane in range(8))
    return [builder.load(place, typ=_I64) for place in places]


def _moved(builder, place, index, by):
    return builder.gep(place, [builder.mul(index, by)], source_etype=_I8)


def _compiled_load_blocks(typingctx, pointer, offsets, carry, row_bytes, count, step, row_step, ahead):
    # `count` times 8 steps of 8 lanes, contiguous in time, to 8 rows of the carry type. `offsets` place the lanes;
    # a block is `step` bytes from the one before it there and `row_step` here. What stands `ahead` is asked for
    # meanwhile, to the second level of the cache: in the first, lanes may fall on each other.
    def codegen(context, builder, signature, args):
        source, table, target, row_bytes, count, step, row_step, ahead = args
        lane_offsets = _lane_offsets(builder, table)

        def request(index):
            there = builder.gep(_moved(builder, source, index, step), [ahead], source_etype=_I8)
            for offset in lane_offsets:
                _request(builder, builder.gep(there, [offset], source_etype=_I8), False, 2)

        def one(index):
            from_, to = _moved(builder, source, index, step), _moved(builder, target, index, row_step)
            for k, lane, wide in _wide_blocks(builder, pointer, carry, from_, lane_offsets):
                place = builder.add(builder.mul(row_bytes, ir.Constant(_I64, k)), ir.Constant(_I64, lane * carry.size))
                _mark(builder.store(wide, _address(builder, to, place, wide.type), align=8), builder, carry)

        _blocks(builder, count, 64 // pointer.size, ahead, request, one)
        return context.get_dummy_value()

    numbers = [types.int64] * 5
    return types.none(pointer, offsets, carry, *numbers), codegen


def _store_blocks_codegen(pointer, carry, bypass):
    bypass = bypass and pointer.element != "c16"  # whose numbers are stored one by one: asked for then

    def codegen(context, builder, signature, args):
        source, row_bytes, target, table, count, step, row_step, ahead = args
        offsets = _lane_offsets(builder, table)
        wide = ir.VectorType(carry.memory, 16 if carry.category == "complex" else 8)

        def request(index):
            if not bypass:
                there = builder.gep(_moved(builder, target, index, step), [ahead], source_etype=_I8)
                for offset in offsets:
                    _request(builder, builder.gep(there, [offset], source_etype=_I8), True)

        def one(index):
            from_, to = _moved(builder, source, index, row_step), _moved(builder, target, index, step)
            rows = []
            for k in range(8):
                place = _address(builder, from_, builder.mul(row_bytes, ir.Constant(_I64, k)), wide)
                row = _mark(builder.load(place, typ=wide, align=8), builder, carry)
                if carry.category != "complex":
                    row = _narrow(builder, row, pointer.element)
                elif pointer.element == "c8":  # its 8 bytes as if they were one number
                    row = builder.bitcast(_resize(builder, row, _F32), ir.VectorType(_F64, 8))
                elif pointer.category != "complex":
                    row = _numbers_of(builder, _complex_of(builder, row, carry, carry), pointer)
                rows.append(row)
            if pointer.element == "c16":
                for lane, offset in enumerate(offsets):
                    for k, row in enumerate(rows):
                        number = _shuffle(builder, row, row, [2 * lane, 2 * lane + 1])
                        place = builder.add(offset, ir.Constant(_I64, k * pointer.size))
                        _mark(
                            builder.store(number, _address(builder, to, place, number.type), align=1), builder, pointer
                        )
                return
            for offset, row in zip(offsets, _transpose8(builder, rows), strict=True):
                place = _address(builder, to, offset, row.type)
                store = _mark(builder.store(row, place, align=8 * pointer.size if bypass else 1), builder, pointer)
                if bypass:
                    store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_I32, 1)]))

        _blocks(builder, count, 64 // pointer.size, ahead, request, one)
        return context.get_dummy_value()

    return codegen


def _compiled_store_blocks(typingctx, carry, row_bytes, pointer, offsets, count, step, row_step, ahead):
    # The reverse of load_blocks.
    signature = types.none(carry, types.int64, pointer, offsets, *[types.int64] * 4)
    return signature, _store_blocks_codegen(pointer, carry, bypass=False)


def _compiled_stream_blocks(typingctx, carry, row_bytes, pointer, offsets, count, step, row_step, ahead):
    # The same past the cache, to aligned places.
    signature = types.none(carry, types.int64, pointer, offsets, *[types.int64] * 4)
    return signature, _store_blocks_codegen(pointer, carry, bypass=True)


def _compiled_load_octet(typingctx, pointer, offsets, carry):
    # The next 8 steps of 8 lanes, contiguous in time, as 8 vectors of lanes in the order of memory.
    def codegen(context, builder, signature, args):
        parts = [[] for _ in range(OCTET)]
        for step, _, vector in _gather_blocks(builder, pointer, args[0], _lane_offsets(builder, args[1])):
            parts[step].append(_widen(builder, vector, pointer.element, carry.memory))
        rows = [row[0] if len(row) == 1 else _shuffle(builder, *row, list(range(OCTET))) for row in parts]
        return context.make_tuple(builder, signature.return_type, rows)

    return types.UniTuple(Vector(carry.value, OCTET), OCTET)(pointer, offsets, carry), codegen


def _turned_rows(builder, pointer, rows):
    rows = [_narrow(builder, builder.extract_value(rows, k), pointer.element) for k in range(OCTET)]
    return _transpose8(builder, rows)


def _compiled_store_octet(typingctx, pointer, offsets, rows):
    # The reverse of load_octet.
    def codegen(context, builder, signature, args):
        target, table, rows = args
        offsets = _lane_offsets(builder, table)
        for offset, row in zip(offsets, _turned_rows(builder, pointer, rows), strict=True):
            _mark(builder.store(row, _address(builder, target, offset, row.type), align=1), builder, pointer)
        return context.get_dummy_value()

    return types.none(pointer, offsets, rows), codegen


# Past the cache go whole lines, which a processor puts together from parts only while there are few of them. So the
# lines of 8 lanes are collected from octets first.


def _compiled_stack_lines(typingctx, pointer):
    def codegen(context, builder, signature, args):
        storage = cgutils.alloca_once(builder, _I8, size=ir.Constant(_I64, OCTET * 64))
        storage.align = 64
        return storage

    return Pointer(pointer.element, scratch=True)(pointer), codegen


def _compiled_collect_octet(typingctx, lines, offset, rows):
    def codegen(context, builder, signature, args):
        there = builder.gep(args[0], [args[1]], source_etype=_I8)
        for lane, row in enumerate(_turned_rows(builder, lines, args[2])):
            place = _address(builder, there, ir.Constant(_I64, 64 * lane), row.type)
            _mark(builder.store(row, place, align=OCTET * lines.size), builder, lines)
        return context.get_dummy_value()

    return types.none(lines, types.int64, rows), codegen


def _compiled_stream_lines(typingctx, lines, pointer, offsets):
    kind = ir.VectorType(_F32, 16)

    def codegen(context, builder, signature, args):
        for lane, offset in enumerate(_lane_offsets(builder, args[2])):
            place = _address(builder, args[0], ir.Constant(_I64, 64 * lane), kind)
            line = _mark(builder.load(place, typ=kind, align=64), builder, lines)
            store = builder.store(line, _address(builder, args[1], offset, kind), align=64)
            mark = builder.module.add_metadata([ir.Constant(_I32, 1)])
            _mark(store, builder, pointer).set_metadata("nontemporal", mark)
        return context.get_dummy_value()

    return types.none(lines, pointer, offsets), codegen


def _prefetching_octet(for_write):
    # Ask for the lines of 8 lanes that stand so many bytes ahead.
    def compiled(typingctx, pointer, offsets, ahead):
        def codegen(context, builder, signature, args):
            there = builder.gep(args[0], [args[2]], source_etype=_I8)
            for offset in _lane_offsets(builder, args[1]):
                _request(builder, builder.gep(there, [offset], source_etype=_I8), for_write)
            return context.get_dummy_value()

        return types.none(pointer, offsets, types.int64), codegen

    return compiled


def _vector_place(builder, pointer, place, index, count=WIDTH):
    return _address(builder, place, _scaled(builder, index, pointer.size), ir.VectorType(pointer.memory, count))


def _loading(count):
    # Load a vector of so many lanes; None: as many as there are in one of the carry's kind.
    def compiled(typingctx, pointer, index, carry):
        vector = Vector(carry.value, count)

        def codegen(context, builder, signature, args):
            parts = vector.count * (2 if pointer.category == "complex" else 1)
            place = _vector_place(builder, pointer, args[0], args[1], parts)
            raw = _mark(builder.load(place, typ=ir.VectorType(pointer.memory, parts), align=1), builder, pointer)
            if vector.is_complex:
                return _complex_of(builder, raw, pointer, carry)
            return _widen(builder, raw, pointer.element, carry.memory)

        return vector(pointer, types.int64, carry), codegen

    return compiled


def _prefetching(for_write):
    # Ask for the lines of a vector that stands so many bytes ahead.
    def compiled(typingctx, pointer, index, ahead):
        def codegen(context, builder, signature, args):
            offset = builder.add(_scaled(builder, args[1], pointer.size), args[2])
            for line in range(0, (OCTET if pointer.category == "complex" else WIDTH) * pointer.size, 64):
                place = builder.gep(args[0], [builder.add(offset, ir.Constant(_I64, line))], source_etype=_I8)
                _request(builder, place, for_write)
            return context.get_dummy_value()

        return types.none(pointer, types.int64, types.int64), codegen

    return compiled


def _spread(builder, number, count=WIDTH):
    undefined = ir.Constant(ir.VectorType(number.type, count), ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, count), [0] * count))


def _all_lanes(context, builder, vector, number):
    """Return a vector that has a number in all lanes."""
    if not vector.is_complex:
        return _spread(builder, number, vector.count)
    number = context.make_complex(builder, vector.element, number)
    return _joined(builder, *(_spread(builder, part, vector.count) for part in (number.real, number.imag)))


def _compiled_broadcast(typingctx, value):
    vector = Vector(value)
    return vector(value), lambda context, builder, signature, args: _all_lanes(context, builder, vector, args[0])


def _store_vector_codegen(pointer, vector, bypass):
    def codegen(context, builder, signature, args):
        if vector.is_complex:
            value = _numbers_of(builder, args[2], pointer)
        else:
            value = _narrow(builder, args[2], pointer.element)
        place = _vector_place(builder, pointer, args[0], args[1], value.type.count)
        if bypass and not vector.is_complex:
            _stream(builder, value, place, pointer)
        else:
            _mark(builder.store(value, place, align=1), builder, pointer)
        return context.get_dummy_value()

    return codegen


def _stream(builder, value, place, pointer):
    """Store a vector past the cache, to an aligned place, by whole registers.

    A narrowed vector would be stored as the halves that its registers were made of, and twice as many stores past the
    cache take twice as long; and halves of precision by a plain store, for want of another. An empty assembly that the
    compiler does not look into keeps registers together and hides what is in them.
    """
    size = value.type.count * pointer.size
    parts = [value]
    if HAS_AVX and pointer.memory in (_F32, _I16):
        kind = ir.VectorType(_F32, 8)
        join = ir.InlineAsm(ir.FunctionType(kind, [kind]), "", "=x,0", side_effect=False)
        if size == 64:
            halves = [ir.Constant(ir.VectorType(_I32, 8), list(range(k, k + 8))) for k in (0, 8)]
            parts = [builder.shuffle_vector(value, value, half) for half in halves]
        parts = [builder.call(join, [builder.bitcast(part, kind)]) for part in parts]
    for k, part in enumerate(parts):
        there = builder.gep(builder.bitcast(place, _I8.as_pointer()), [ir.Constant(_I64, 32 * k)], source_etype=_I8)
        store = builder.store(part, builder.bitcast(there, part.type.as_pointer()), align=min(64, size) // len(parts))
        _mark(store, builder, pointer).set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_I32, 1)]))


def _compiled_store_vector(typingctx, pointer, index, value):
    return types.none(pointer, types.int64, value), _store_vector_codegen(pointer, value, bypass=False)


def _compiled_stream_vector(typingctx, pointer, index, value):
    # Past the cache, to an aligned place: a plain store would first read the line that it overwrites.
    return types.none(pointer, types.int64, value), _store_vector_codegen(pointer, value, bypass=True)


# A row of so many lanes as its rule says, in a vector of the next power of two: the compiler takes others apart. Behind
# them stands the first one again, which is not written.


def _row_lanes(rule):
    return next(int(word.removeprefix("lanes_")) for word in rule.split() if word.startswith("lanes_"))


def _row_width(lanes):
    return 1 << (lanes - 1).bit_length()


def _compiled_load_row(typingctx, rule, pointer, carry):
    lanes = _row_lanes(rule.rule)
    vector = Vector(carry.value, _row_width(lanes))
    places = [k if k < lanes else 0 for k in range(vector.count)]

    def codegen(context, builder, signature, args):
        kind = ir.VectorType(pointer.memory, lanes * (2 if pointer.category == "complex" else 1))
        raw = _mark(builder.load(builder.bitcast(args[1], kind.as_pointer()), typ=kind, align=1), builder, pointer)
        if vector.is_complex:
            return _complex_of(builder, raw, pointer, carry, places)
        return _widen(builder, _shuffle(builder, raw, raw, places), pointer.element, carry.memory)

    return vector(rule, pointer, carry), codegen


def _compiled_store_row(typingctx, rule, pointer, value):
    lanes = _row_lanes(rule.rule)

    def codegen(context, builder, signature, args):
        if value.is_complex:
            row = _numbers_of(builder, args[2], pointer, lanes)
        else:
            whole = _narrow(builder, args[2], pointer.element)
            row = _shuffle(builder, whole, whole, list(range(lanes)))
        place = builder.bitcast(args[1], row.type.as_pointer())
        _mark(builder.store(row, place, align=1), builder, pointer)
        return context.get_dummy_value()

    return types.none(rule, pointer, value), codegen


def _compiled_spread_row(typingctx, rule, value):
    vector = Vector(value, _row_width(_row_lanes(rule.rule)))
    return vector(rule, value), lambda context, builder, signature, args: _all_lanes(context, builder, vector, args[1])


def _compiled_row_total(typingctx, rule, value):
    lanes = _row_lanes(rule.rule)

    def codegen(context, builder, signature, args):
        def sum_of(vector):
            numbers = [builder.extract_element(vector, ir.Constant(_I32, lane)) for lane in range(lanes)]
            return _folded(numbers, builder.fadd)

        return _in_parts(context, builder, value, args[1], sum_of)

    return value.element(rule, value), codegen


def _folded(numbers, add):
    """Add neighbours, then their sums."""
    while len(numbers) > 1:
        pairs = [add(*numbers[k : k + 2]) for k in range(0, len(numbers) - 1, 2)]
        numbers = pairs + numbers[2 * len(pairs) :]
    return numbers[0]


def _in_parts(context, builder, vector, value, number_of):
    """Return the number that is made of a vector; of complex ones, of both parts by themselves."""
    if not vector.is_complex:
        return number_of(value)
    number = context.make_complex(builder, vector.element)
    number.real, number.imag = (number_of(part) for part in _halves(builder, value))
    return number._getvalue()


def _compiled_total(typingctx, value):
    def codegen(context, builder, signature, args):
        def sum_of(vector):
            # Halves folded onto each other: a fixed order, and few roundings deep.
            while vector.type.count > 1:
                vector = builder.fadd(*_halves(builder, vector))
            return builder.extract_element(vector, ir.Constant(_I32, 0))

        return _in_parts(context, builder, value, args[0], sum_of)

    return value.element(value), codegen


def _moved_lanes(places):
    """Make an intrinsic of a vector and one that fills up: lane j is what stands at ``places(j, n)`` of both."""

    def compiled(typingctx, vector, filling, n):
        if not isinstance(n, types.IntegerLiteral):
            return None

        def codegen(context, builder, signature, args):
            return _shuffle(builder, args[0], args[1], [places(j, n.literal_value) for j in range(WIDTH)])

        return vector(vector, vector, n), codegen

    return compiled


_compiled_earlier = _moved_lanes(lambda j, n: j - n if j >= n else WIDTH + j)
_compiled_later = _moved_lanes(lambda j, n: j + n if j + n < WIDTH else WIDTH + j)


def _compiled_hidden_zero(typingctx, vector):
    # 0 in all lanes, which the compiler is not told. With a known one it moves lanes by an expansion, which on some
    # processors waits for what its register held before: the vectors of a loop would wait for each other.
    def codegen(context, builder, signature, args):
        kind = vector.element
        number = context.get_value_type(kind)
        name = f"llvm.arithmetic.fence.{'f32' if number == _F32 else 'f64'}"
        fence = cgutils.get_or_insert_function(builder.module, ir.FunctionType(number, [number]), name)
        return _spread(builder, builder.call(fence, [ir.Constant(number, 0.0)]))

    return vector(vector), codegen


def _compiled_turns(typingctx, count):
    # A number that the compiler is not told, or it writes out each turn of a loop of so many: it takes long over those.
    def codegen(context, builder, signature, args):
        return builder.asm(ir.FunctionType(_I64, [_I64]), "", "=r,0", args, side_effect=False)

    return types.int64(types.int64), codegen


def _compiled_turned(typingctx, vector):
    def codegen(context, builder, signature, args):
        return _shuffle(builder, args[0], args[0], list(range(WIDTH))[::-1])

    return vector(vector), codegen


def _compiled_spread_of(typingctx, vector, n):
    if not isinstance(n, types.IntegerLiteral):
        return None

    def codegen(context, builder, signature, args):
        return _shuffle(builder, args[0], args[0], [n.literal_value] * WIDTH)

    return vector(vector, n), codegen


def _compiled_lane_of(typingctx, vector, n):
    if not isinstance(n, types.IntegerLiteral):
        return None

    def codegen(context, builder, signature, args):
        return builder.extract_element(args[0], ir.Constant(_I32, n.literal_value))

    return vector.element(vector, n), codegen


def _compiled_width(typingctx, carry):
    def codegen(context, builder, signature, args):
        return ir.Constant(_I64, OCTET if carry.category == "complex" else WIDTH)

    return types.int64(carry), codegen


def _compiled_own_page(typingctx, pointer, offset):
    # Make the system provide the page now: 0 is written where 0 stands, and what others write there stays. (An atomic
    # "or 0" would do, but LLVM makes it a load, which gets no page of its own.)
    def codegen(context, builder, signature, args):
        place = builder.gep(args[0], [args[1]], source_etype=_I8)
        zero = ir.Constant(_I8, 0)
        builder.cmpxchg(builder.bitcast(place, _I8.as_pointer()), zero, zero, "monotonic", "monotonic")
        return context.get_dummy_value()

    return types.none(pointer, types.int64), codegen


def _compiled_fence(typingctx):
    def codegen(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), codegen


# ---- The same in the interpreter ----------------------------------------------------------------------------------


class Address:
    """A `Pointer` for the interpreter: an address, its element's NumPy dtype, and whatever must stay alive."""

    def __init__(self, address, dtype, keep=None):
        self.address, self.dtype, self.keep = address, np.dtype(dtype), keep

    def at(self, index):
        size = self.dtype.itemsize
        memory = (ctypes.c_char * size).from_address(self.address + int(index) * size)
        return np.frombuffer(memory, self.dtype)


def _interpreted_stack(carry, count):
    array = np.empty(count, carry.dtype)
    return Address(array.ctypes.data, carry.dtype, array)


def _interpreted_stack_like(pointer, carry, count):
    own = pointer.dtype in (np.float32, np.float64) and carry.dtype.kind != "c"
    return _interpreted_stack(pointer if own else carry, count)


def _interpreted_store(pointer, index, value):
    if pointer.dtype.kind != "c" and isinstance(value, np.complexfloating):
        value = value.real
    pointer.at(index)[0] = value


def _interpreted_copy_number(target, at, source, index):
    target.at(at)[0] = source.at(index)[0]


def _interpreted_copy_every(target, at, source, way):
    for j in range(WIDTH):
        _interpreted_copy_number(target, at + j, source, j * way)


def _interpreted_copy_turned(target, to_row, source, row, way):
    for k in range(OCTET):
        for j in range(OCTET):
            _interpreted_copy_number(shift(target, k * to_row), j, shift(source, j * row), k * way)


def _interpreted_load_blocks(pointer, offsets, carry, row_bytes, count, step, row_step, ahead):
    for block in range(count):
        source, target = shift(pointer, block * step), shift(carry, block * row_step)
        for lane in range(8):
            for k in range(8):
                value = load(shift(source, load_int(offsets, lane)), k, carry)
                store(shift(target, k * row_bytes), lane, value)


def _interpreted_store_blocks(carry, row_bytes, pointer, offsets, count, step, row_step, ahead):
    for block in range(count):
        source, target = shift(carry, block * row_step), shift(pointer, block * step)
        for lane in range(8):
            for k in range(8):
                store(shift(target, load_int(offsets, lane)), k, load(shift(source, k * row_bytes), lane, carry))


def _interpreted_load_octet(pointer, offsets, carry):
    lanes = [shift(pointer, load_int(offsets, lane)) for lane in range(OCTET)]
    return tuple(np.array([load(lane, k, carry) for lane in lanes], carry.dtype) for k in range(OCTET))


def _interpreted_store_octet(pointer, offsets, rows):
    for lane in range(OCTET):
        for k in range(OCTET):
            store(shift(pointer, load_int(offsets, lane)), k, rows[k][lane])


def _interpreted_collect_octet(lines, offset, rows):
    for lane in range(OCTET):
        for k in range(OCTET):
            store(shift(lines, 64 * lane + offset), k, rows[k][lane])


def _interpreted_stream_lines(lines, pointer, offsets):
    for lane in range(OCTET):
        ctypes.memmove(pointer.address + load_int(offsets, lane), lines.address + 64 * lane, 64)


def _interpreted_load_vector(pointer, index, carry, count=None):
    return np.array([load(pointer, index + k, carry) for k in range(count or width(carry))], carry.dtype)


def _interpreted_store_vector(pointer, index, vector):
    for k, value in enumerate(vector):
        store(pointer, index + k, value)


def _interpreted_load_row(rule, pointer, carry):
    lanes = _row_lanes(rule)
    return _interpreted_load_vector(pointer, 0, carry, lanes)[[k if k < lanes else 0 for k in range(_row_width(lanes))]]


def _interpreted_store_row(rule, pointer, vector):
    _interpreted_store_vector(pointer, 0, vector[: _row_lanes(rule)])


def _interpreted_row_total(rule, vector):
    return _folded(list(vector[: _row_lanes(rule)]), operator.add)


def _interpreted_earlier(vector, filling, n):
    return np.concatenate([np.broadcast_to(filling, WIDTH)[:n], vector[:-n]])


def _interpreted_later(vector, filling, n):
    return np.concatenate([vector[n:], np.broadcast_to(filling, WIDTH)[-n:]])


def _interpreted_total(vector):
    while len(vector) > 1:
        half = len(vector) // 2
        vector = vector[:half] + vector[half:]
    return vector[0]


if INTERPRETED:

    def load(pointer, index, carry):
        return pointer.at(index).astype(carry.dtype)[0]

    store = _interpreted_store
    stack = _interpreted_stack
    stack_like = stack_of = _interpreted_stack_like

    def stack_wide(pointer, carry, count):
        return stack(carry, count)

    copy_number, copy_turned = _interpreted_copy_number, _interpreted_copy_turned
    copy_every = _interpreted_copy_every
    load_blocks = _interpreted_load_blocks
    store_blocks = stream_blocks = _interpreted_store_blocks
    load_octet, store_octet = _interpreted_load_octet, _interpreted_store_octet
    collect_octet, stream_lines = _interpreted_collect_octet, _interpreted_stream_lines

    def stack_lines(pointer):
        return stack(pointer, OCTET * 64 // pointer.dtype.itemsize)

    load_vector = _interpreted_load_vector
    store_vector = stream_vector = _interpreted_store_vector
    load_row, store_row, row_total = _interpreted_load_row, _interpreted_store_row, _interpreted_row_total

    def spread_row(rule, value):
        return np.full(_row_width(_row_lanes(rule)), value)

    total = _interpreted_total
    earlier, later = _interpreted_earlier, _interpreted_later

    def load_half_vector(pointer, index, carry):
        return load_vector(pointer, index, carry, OCTET)

    def is_own_kind(buffer, pointer):
        return buffer.dtype == pointer.dtype

    def in_place(buffer, pointer):
        return pointer if is_own_kind(buffer, pointer) else buffer

    def turned(vector):
        return vector[::-1]

    def lane_of(vector, n):
        return vector[n]

    def spread_of(vector, n):
        return np.full(WIDTH, vector[n])

    def turns(count):
        return count

    def hidden_zero(vector):
        return np.zeros_like(vector)

    def broadcast(value):
        return np.full(width(value), value)

    def width(carry):
        return OCTET if carry.dtype.kind == "c" else WIDTH

    def shift(pointer, offset):
        return Address(pointer.address + int(offset), pointer.dtype, pointer.keep)

    def itemsize(pointer):
        return pointer.dtype.itemsize

    minimum, maximum = min, max

    def misalignment(pointer):
        return pointer.address & 63

    def is_same(pointer, other):
        return pointer.address == other.address

    def stack_ints(count):
        array = np.empty(count, np.int64)
        return Address(array.ctypes.data, np.int64, array)

    def store_int(pointer, index, value):
        pointer.at(index)[0] = value

    def load_int(pointer, index):
        return int(pointer.at(index)[0])

    def own_page(pointer, offset):
        pass

    def prefetch(pointer, index, ahead):
        pass

    prefetch_to_write = prefetch_octet = prefetch_octet_to_write = prefetch

    def fence():
        pass

else:
    load = intrinsic(_compiled_load)
    store = intrinsic(_compiled_store)
    shift = intrinsic(_compiled_shift)
    itemsize = intrinsic(_compiled_itemsize)
    minimum, maximum = intrinsic(_choosing("<")), intrinsic(_choosing(">"))
    misalignment = intrinsic(_compiled_misalignment)
    is_same = intrinsic(_compiled_is_same)
    stack = intrinsic(prefer_literal=True)(_compiled_stack)
    stack_like = intrinsic(prefer_literal=True)(_compiled_stack_like)
    stack_of = intrinsic(prefer_literal=True)(_compiled_stack_of)
    stack_wide = intrinsic(prefer_literal=True)(_compiled_stack_wide)
    copy_number = intrinsic(_compiled_copy_number)
    copy_every, copy_turned = map(intrinsic(prefer_literal=True), (_compiled_copy_every, _compiled_copy_turned))
    is_own_kind = intrinsic(_compiled_is_own_kind)
    in_place = intrinsic(_compiled_in_place)
    stack_ints = intrinsic(prefer_literal=True)(_compiled_stack_ints)
    load_int = intrinsic(_compiled_load_int)
    store_int = intrinsic(_compiled_store_int)
    load_blocks = intrinsic(_compiled_load_blocks)
    store_blocks = intrinsic(_compiled_store_blocks)
    stream_blocks = intrinsic(_compiled_stream_blocks)
    load_octet = intrinsic(_compiled_load_octet)
    store_octet = intrinsic(_compiled_store_octet)
    stack_lines = intrinsic(_compiled_stack_lines)
    collect_octet = intrinsic(_compiled_collect_octet)
    stream_lines = intrinsic(_compiled_stream_lines)
    prefetch_octet = intrinsic(_prefetching_octet(for_write=False))
    prefetch_octet_to_write = intrinsic(_prefetching_octet(for_write=True))
    load_vector = intrinsic(_loading(None))
    load_half_vector = intrinsic(_loading(OCTET))
    store_vector = intrinsic(_compiled_store_vector)
    stream_vector = intrinsic(_compiled_stream_vector)
    broadcast = intrinsic(_compiled_broadcast)
    load_row, store_row = intrinsic(_compiled_load_row), intrinsic(_compiled_store_row)
    spread_row, row_total = intrinsic(_compiled_spread_row), intrinsic(_compiled_row_total)
    total = intrinsic(_compiled_total)
    earlier = intrinsic(prefer_literal=True)(_compiled_earlier)
    later = intrinsic(prefer_literal=True)(_compiled_later)
    hidden_zero = intrinsic(_compiled_hidden_zero)
    turns = intrinsic(_compiled_turns)
    turned = intrinsic(_compiled_turned)
    spread_of = intrinsic(prefer_literal=True)(_compiled_spread_of)
    lane_of = intrinsic(prefer_literal=True)(_compiled_lane_of)
    width = intrinsic(_compiled_width)
    fence = intrinsic(_compiled_fence)
    own_page = intrinsic(_compiled_own_page)
    prefetch = intrinsic(_prefetching(for_write=False))
    prefetch_to_write = intrinsic(_prefetching(for_write=True))


# ---- The primitives of the steps, on scalars and vectors -----------------------------------------------------------


def _compiled_constant(typingctx, value, like):
    def codegen(context, builder, signature, args):
        is_vector = isinstance(like, Vector)
        number = context.cast(builder, args[0], types.float64, like.element if is_vector else like)
        return _all_lanes(context, builder, like, number) if is_vector else number

    return like(types.float64, like), codegen


def _compiled_fma(typingctx, a, b, c):
    def codegen(context, builder, signature, args):
        if not isinstance(a, Vector):
            return builder.fma(*args)
        if not a.is_complex:
            return _fused_vectors(builder, *args)
        (a_real, a_imag), (b_real, b_imag), (c_real, c_imag) = (_halves(builder, arg) for arg in args)
        real = _fused_vectors(builder, builder.fneg(a_imag), b_imag, _fused_vectors(builder, a_real, b_real, c_real))
        imag = _fused_vectors(builder, a_imag, b_real, _fused_vectors(builder, a_real, b_imag, c_imag))
        return _joined(builder, real, imag)

    return a(a, a, a), codegen


def _fused_vectors(builder, a, b, c):
    vector = a.type
    name = f"llvm.fma.v{vector.count}{'f32' if vector.element == _F32 else 'f64'}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
    return builder.call(function, [a, b, c])


def _compiled_product(typingctx, a, b):
    # Of complex vectors, each part rounded as Numba's product of two numbers is.
    def codegen(context, builder, signature, args):
        (a_real, a_imag), (b_real, b_imag) = (_halves(builder, arg) for arg in args)
        real = builder.fsub(builder.fmul(a_real, b_real), builder.fmul(a_imag, b_imag))
        imag = builder.fadd(builder.fmul(a_real, b_imag), builder.fmul(a_imag, b_real))
        return _joined(builder, real, imag)

    return a(a, a), codegen


def _compiled_conjugate(typingctx, a):
    def codegen(context, builder, signature, args):
        real, imag = _halves(builder, args[0])
        return _joined(builder, real, builder.fneg(imag))

    return a(a), codegen


def _compiled_select(typingctx, condition, yes, no):
    def codegen(context, builder, signature, args):
        chosen = args[0]
        if isinstance(condition, Mask):
            chosen = builder.icmp_signed("<", chosen, ir.Constant(chosen.type, [0] * condition.count))
        return builder.select(chosen, *args[1:])

    return yes(condition, yes, yes), codegen


def _binary(name):
    def compiled(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return getattr(builder, name)(*args)

        return a(a, a), codegen

    return compiled


def _comparison(operation):
    def compiled(typingctx, a, b):
        # Complex numbers by their real parts; the mask is that of both parts.
        element, count = (types.float64, 2 * a.count) if a.is_complex else (a.element, a.count)

        def codegen(context, builder, signature, args):
            numbers = [_joined(builder, *[_halves(builder, arg)[0]] * 2) if a.is_complex else arg for arg in args]
            bits = builder.fcmp_ordered(operation, *numbers)
            return builder.sext(bits, ir.VectorType(ir.IntType(element.bitwidth), count))

        return Mask(element, count)(a, a), codegen

    return compiled


def _compiled_negative(typingctx, a):
    def codegen(context, builder, signature, args):
        return builder.fneg(args[0])

    return a(a), codegen


def _compiled_everywhere(typingctx, condition):
    def codegen(context, builder, signature, args):
        # All lanes onto each other, where their bits are not together anyway, then the signs of what is left.
        vector, count = args[0], condition.count
        while count > 4 and not HAS_MASKS:
            count //= 2
            halves = [list(range(start, start + count)) for start in (0, count)]
            low, high = (
                builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(_I32, count), half)) for half in halves
            )
            vector = builder.and_(low, high)
        signs = builder.icmp_signed("<", vector, ir.Constant(vector.type, [0] * count))
        return builder.icmp_unsigned(
            "==", builder.bitcast(signs, ir.IntType(count)), ir.Constant(ir.IntType(count), -1)
        )

    return types.boolean(condition), codegen


def _compiled_magnitude(typingctx, a):
    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(args[0].type, [args[0].type])
        suffix = "f32" if (a.element if isinstance(a, Vector) else a) == types.float32 else "f64"
        name = f"llvm.fabs.v{a.count}{suffix}" if isinstance(a, Vector) else f"llvm.fabs.{suffix}"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)

    return a(a), codegen


def _compiled_nearest(typingctx, value):
    def codegen(context, builder, signature, args):
        kind = args[0].type
        suffix = "f32" if _is_single(value) else "f64"
        name = f"llvm.rint.v{value.count}{suffix}" if isinstance(value, Vector) else f"llvm.rint.{suffix}"
        return builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), name), args)

    return value(value), codegen


def _compiled_power_of_two(typingctx, n):
    def codegen(context, builder, signature, args):
        # Added to 1.5 times two to the mantissa's width, a whole number stands in the lowest bits.
        integer, mantissa, bias = (_I32, 23, 127) if _is_single(n) else (_I64, 52, 1023)
        kind = args[0].type
        integers = _shaped(integer, kind)
        bits = builder.bitcast(builder.fadd(args[0], _splat(1.5 * 2.0**mantissa, kind)), integers)
        exponent = builder.add(bits, _splat(bias, integers))
        return builder.bitcast(builder.shl(exponent, _splat(mantissa, integers)), kind)

    return n(n), codegen


def _is_single(value):
    return (value.element if isinstance(value, Vector) else value) == types.float32


def _compiled_same(typingctx, value):
    def codegen(context, builder, signature, args):
        return args[0]

    return value(value), codegen


def compiled_truth(value, *kinds):
    """Return what an intrinsic of some arguments writes whose answer is known when a kernel is compiled."""

    def codegen(context, builder, signature, args):
        return ir.Constant(ir.IntType(1), int(value))

    return types.boolean(*kinds), codegen


def implement(function, compiled, *formals):
    """Let calls of a function be the instructions of an intrinsic, where that takes the arguments' types.

    An overload is a function around the intrinsic, which takes Numba 10 ms to compile for every type.
    """

    @type_callable(function)
    def _type_of(context):
        def typer(*kinds):
            written = compiled(context, *kinds)
            return written and written[0]

        typer.pysig = inspect.signature(function)
        return typer

    @lower_builtin(function, *(formals or [types.VarArg(types.Any)]))
    def _lower(context, builder, signature, args):
        _, codegen = compiled(None, *signature.args)
        return codegen(context, builder, signature, args)


def _if(holds, compiled):
    """Return an intrinsic that takes only some types."""
    return lambda typingctx, *kinds: compiled(typingctx, *kinds) if holds(*kinds) else None


def _are_vectors(first, *others):
    return isinstance(first, Vector) and all(other == first for other in others)


def _compiled_times(typingctx, a, b):
    return (_compiled_product if a.is_complex else _binary("fmul"))(typingctx, a, b)


for _symbol, _compiled in (
    (operator.add, _binary("fadd")),
    (operator.sub, _binary("fsub")),
    (operator.mul, _compiled_times),
    (operator.truediv, _binary("fdiv")),
    (operator.lt, _comparison("<")),
    (operator.eq, _comparison("==")),
):
    implement(_symbol, _if(_are_vectors, _compiled), Vector, Vector)


def _is_real(value, *others):
    return not isinstance(value, types.Complex)


def _is_chosen_between(condition, yes, no):
    return isinstance(condition, Mask) or isinstance(yes, types.Float)


def _compiled_everywhere_of(typingctx, condition):
    return (_compiled_everywhere if isinstance(condition, Mask) else _compiled_same)(typingctx, condition)


def _compiled_conj(typingctx, value):
    return (_compiled_conjugate if isinstance(value, Vector) and value.is_complex else _compiled_same)(typingctx, value)


def _compiled_is_single(typingctx, value):
    return compiled_truth(_is_single(value), value)


implement(operator.neg, _if(_are_vectors, _compiled_negative), Vector)
implement(_steps.constant, _compiled_constant)
implement(_steps.select, _if(_is_chosen_between, _compiled_select))
implement(_steps.fma, _if(_is_real, _compiled_fma))
implement(_steps.everywhere, _compiled_everywhere_of)
implement(_steps.magnitude, _if(_is_real, _compiled_magnitude))
implement(_steps.conj, _if(_is_real, _compiled_conj))
implement(_steps.is_single, _compiled_is_single)
implement(_steps.nearest, _compiled_nearest)
implement(_steps.power_of_two, _compiled_power_of_two)
_fused = intrinsic(_compiled_fma)


@overload(_steps.fma, jit_options=INLINE)
def _complex_fma(a, b, c):
    if isinstance(a, types.Complex):

        def complex_fma(a, b, c):
            real = _fused(-a.imag, b.imag, _fused(a.real, b.real, c.real))
            imag = _fused(a.imag, b.real, _fused(a.real, b.imag, c.imag))
            return complex(real, imag)

        return complex_fma


@overload(_steps.magnitude, jit_options=INLINE)
def _complex_magnitude(value):
    if isinstance(value, types.Complex):
        return lambda value: abs(value)


@overload(_steps.conj, jit_options=INLINE)
def _complex_conj(value):
    if isinstance(value, types.Complex):
        return lambda value: complex(value.real, -value.imag)

"""Numbers as they stand in memory to numbers that kernels compute with, and back: on scalars and vectors alike."""

from llvmlite import ir

from .types import ELEMENTS, F16, F32, HARDWARE_HALF, I16, I32


def call_llvm(builder, name, result, *arguments, more=()):
    """Call an intrinsic of LLVM, or a function of C; ``more`` are arguments whose number that does not know."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments], var_arg=bool(more))
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, [*arguments, *more])


def shuffle(builder, low, high, places):
    """Return a vector of the elements at some places of two vectors, of which the second is counted on."""
    return builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, len(places)), places))


def shaped(type_, like):
    """Return a vector type of as many elements as another type has; the type itself if that is no vector's."""
    return ir.VectorType(type_, like.count) if isinstance(like, ir.VectorType) else type_


def aggregate(builder, type_, values):
    """Return a complex number or a tuple: a value of several."""
    whole = ir.Constant(type_, ir.Undefined)
    for k, value in enumerate(values):
        whole = builder.insert_value(whole, value, k)
    return whole


def complex_number(builder, real, imag):
    return aggregate(builder, ir.LiteralStructType([real.type] * 2), (real, imag))


def splat(value, type_):
    return ir.Constant(type_, [value] * type_.count if isinstance(type_, ir.VectorType) else value)


def _half_to_float(builder, bits):
    if HARDWARE_HALF:
        return builder.fpext(builder.bitcast(bits, shaped(F16, bits.type)), shaped(F32, bits.type))
    i32, f32 = shaped(I32, bits.type), shaped(F32, bits.type)
    wide = builder.zext(bits, i32)
    magnitude = builder.shl(builder.and_(wide, splat(0x7FFF, i32)), splat(13, i32))
    # Multiplying by 2**112 moves the exponent's bias and makes subnormal numbers normal, exactly.
    scaled = builder.fmul(builder.bitcast(magnitude, f32), splat(2.0**112, f32))
    special = builder.icmp_unsigned(">=", magnitude, splat(0x7C00 << 13, i32))
    finite_bits = builder.bitcast(scaled, i32)
    special_bits = builder.or_(magnitude, splat(0x7F800000, i32))
    sign = builder.shl(builder.and_(wide, splat(0x8000, i32)), splat(16, i32))
    return builder.bitcast(builder.or_(builder.select(special, special_bits, finite_bits), sign), f32)


def _float_to_half(builder, value):
    i16 = shaped(I16, value.type)
    if HARDWARE_HALF:
        return builder.bitcast(builder.fptrunc(value, shaped(F16, value.type)), i16)
    i32, f32 = shaped(I32, value.type), shaped(F32, value.type)
    bits = builder.bitcast(value, i32)
    magnitude = builder.and_(bits, splat(0x7FFFFFFF, i32))
    sign = builder.lshr(builder.and_(bits, splat(0x80000000, i32)), splat(16, i32))
    # Below 2**-14 the addition of 1/2 aligns the subnormal half's last bit with the float's and rounds to even.
    tiny_sum = builder.fadd(builder.bitcast(magnitude, f32), splat(0.5, f32))
    tiny = builder.sub(builder.bitcast(tiny_sum, i32), splat(0x3F000000, i32))
    odd = builder.and_(builder.lshr(magnitude, splat(13, i32)), splat(1, i32))
    rounded = builder.add(builder.add(magnitude, splat(0xFFF - (112 << 23), i32)), odd)
    normal = builder.lshr(rounded, splat(13, i32))
    finite = builder.select(builder.icmp_unsigned("<", magnitude, splat(113 << 23, i32)), tiny, normal)
    is_nan = builder.icmp_unsigned(">", magnitude, splat(0x7F800000, i32))
    special = builder.select(is_nan, splat(0x7E00, i32), splat(0x7C00, i32))
    # 65520 and above round to infinity.
    chosen = builder.select(builder.icmp_unsigned(">=", magnitude, splat(0x477FF000, i32)), special, finite)
    return builder.trunc(builder.or_(chosen, sign), i16)


def _bfloat_to_float(builder, bits):
    i32 = shaped(I32, bits.type)
    return builder.bitcast(builder.shl(builder.zext(bits, i32), splat(16, i32)), shaped(F32, bits.type))


def _float_to_bfloat(builder, value):
    i32 = shaped(I32, value.type)
    bits = builder.bitcast(value, i32)
    odd = builder.and_(builder.lshr(bits, splat(16, i32)), splat(1, i32))
    rounded = builder.add(builder.add(bits, splat(0x7FFF, i32)), odd)
    quiet = builder.or_(bits, splat(0x400000, i32))
    chosen = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
    return builder.trunc(builder.lshr(chosen, splat(16, i32)), shaped(I16, value.type))


def resize(builder, value, type_):
    """Convert (a vector of) float32 or float64 to one of these."""
    target = shaped(type_, value.type)
    if value.type == target:
        return value
    source = value.type.element if isinstance(value.type, ir.VectorType) else value.type
    return (builder.fpext if source == F32 else builder.fptrunc)(value, target)


def widen(builder, value, element, carry_type):
    """Convert (a vector of) real numbers as they stand in memory to the real carry type."""
    category = ELEMENTS[element][2]
    if category == "signed":
        return builder.sitofp(value, shaped(carry_type, value.type))
    if category == "unsigned":
        return builder.uitofp(value, shaped(carry_type, value.type))
    if element == "f2":
        value = _half_to_float(builder, value)
    elif element == "bf2":
        value = _bfloat_to_float(builder, value)
    return resize(builder, value, carry_type)


def narrow(builder, value, element):
    """Convert (a vector of) real carry values to what stands in memory."""
    if element in ("f2", "bf2"):
        value = resize(builder, value, F32)
        return (_float_to_half if element == "f2" else _float_to_bfloat)(builder, value)
    return resize(builder, value, ELEMENTS[element][1])


def halves(builder, vector):
    """Return the first and the second half of a vector: of complex numbers, the real and the imaginary parts."""
    half = vector.type.count // 2
    return [shuffle(builder, vector, vector, list(range(k, k + half))) for k in (0, half)]


def joined(builder, low, high):
    return shuffle(builder, low, high, list(range(2 * low.type.count)))


def complex_of(builder, raw, pointer, carry, lanes=None):
    """Return a vector of the complex carry from numbers as they stand in memory, of any kind: all, or some of them."""
    if pointer.is_complex:
        lanes = range(raw.type.count // 2) if lanes is None else lanes
        parts = [2 * k + part for part in (0, 1) for k in lanes]
        return resize(builder, shuffle(builder, raw, raw, parts), carry.memory)
    real = raw if lanes is None else shuffle(builder, raw, raw, list(lanes))
    real = widen(builder, real, pointer.element, carry.memory)
    return joined(builder, real, ir.Constant(real.type, [0.0] * real.type.count))


def numbers_of(builder, vector, pointer, count=None):
    """Return numbers as they stand in memory, of any kind, from a vector of the complex carry: all, or so many."""
    half = vector.type.count // 2
    lanes = range(half if count is None else count)
    if pointer.is_complex:
        parts = [k + part for k in lanes for part in (0, half)]
        return shuffle(builder, *2 * [resize(builder, vector, pointer.memory)], parts)
    # The gradient of a real operand is the real part.
    return narrow(builder, shuffle(builder, vector, vector, list(lanes)), pointer.element)

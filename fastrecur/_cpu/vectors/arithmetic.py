"""The primitives of the steps in compiled code, on scalars and vectors, and operators on vectors."""

import inspect
import operator

from llvmlite import ir
from numba import types
from numba.extending import lower_builtin, type_callable

from ..._steps import recurrence
from .conversions import call_llvm, complex_number, halves, joined, resize, shaped, splat
from .types import F32, F64, HAS_MASKS, I1, I32, I64, Mask, Vector, constant_of, first, llvm_type, writer
from .vectors import all_lanes


def implement(function, compiled, *formals):
    """Let calls of a function be the instructions of a `writer`, where that takes the arguments' types.

    An overload is a function around the instructions, which takes Numba 10 ms to compile for every type.
    """

    @type_callable(function)
    def _type_of(context):
        def typer(*kinds):
            written = compiled(context, *kinds)
            return written and written[0]

        typer.__signature__ = inspect.signature(function)
        return typer

    @lower_builtin(function, *(formals or [types.VarArg(types.Any)]))
    def _lower(context, builder, signature, args):
        _, codegen = compiled(None, *signature.args)
        return codegen(context, builder, signature, args)


def compiled_truth(holds):
    """Return a `writer` of what is known of arguments' types when a kernel is compiled."""
    return writer(types.boolean, constant_of(holds, I1))


def _is_single(value, *others):
    return (value.element if isinstance(value, Vector) else value) == types.float32


def _call(emitter, name, *values):
    """Call an intrinsic of LLVM for numbers or vectors of these."""
    kind = emitter.kinds[0]
    lanes = f"v{values[0].type.count}" if isinstance(kind, Vector) else ""
    suffix = f"{lanes}{'f32' if _is_single(kind) else 'f64'}"
    return call_llvm(emitter.builder, f"llvm.{name}.{suffix}", values[0].type, *values)


# ---- Operators on vectors -----------------------------------------------------------------------------------------


def _binary(name):
    return lambda emitter, a, b: getattr(emitter.builder, name)(a, b)


def _product(emitter, a, b):
    # Of complex vectors, each part rounded as Numba's product of two numbers is.
    builder = emitter.builder
    if not emitter.result.is_complex:
        return builder.fmul(a, b)
    (a_real, a_imag), (b_real, b_imag) = halves(builder, a), halves(builder, b)
    real = builder.fsub(builder.fmul(a_real, b_real), builder.fmul(a_imag, b_imag))
    imag = builder.fadd(builder.fmul(a_real, b_imag), builder.fmul(a_imag, b_real))
    return joined(builder, real, imag)


def _comparison(operation):
    def emit(emitter, a, b):
        if emitter.kinds[0].is_complex:
            a, b = (joined(emitter.builder, *[halves(emitter.builder, value)[0]] * 2) for value in (a, b))
        bits = emitter.builder.fcmp_ordered(operation, a, b)
        return emitter.builder.sext(bits, llvm_type(emitter.result))

    return emit


def _mask(a, b):
    return a.mask


def _if_vectors(result):
    def result_of(vector, *others):
        holds = isinstance(vector, Vector) and all(other == vector for other in others)
        return result(vector, *others) if holds else None

    return result_of


for _symbol, _result, _emit in (
    (operator.add, first, _binary("fadd")),
    (operator.sub, first, _binary("fsub")),
    (operator.mul, first, _product),
    (operator.truediv, first, _binary("fdiv")),
    (operator.lt, _mask, _comparison("<")),
    (operator.eq, _mask, _comparison("==")),
):
    implement(_symbol, writer(_if_vectors(_result), _emit), Vector, Vector)
implement(operator.neg, writer(_if_vectors(first), lambda emitter, a: emitter.builder.fneg(a)), Vector)


# ---- Primitives of the steps --------------------------------------------------------------------------------------


def _constant(emitter, value, _):
    builder, like = emitter.builder, emitter.result
    element = like.element if isinstance(like, Vector) else like
    number = resize(builder, value, F32 if element == types.float32 else F64)
    if isinstance(element, types.Complex):
        number = complex_number(builder, number, ir.Constant(F64, 0.0))
    return all_lanes(builder, like, number) if isinstance(like, Vector) else number


def _is_complex(kind):
    return kind.is_complex if isinstance(kind, Vector) else isinstance(kind, types.Complex)


def _parts(builder, value):
    if isinstance(value.type, ir.VectorType):
        return halves(builder, value)
    return [builder.extract_value(value, k) for k in (0, 1)]


def _of_parts(builder, real, imag):
    return (joined if isinstance(real.type, ir.VectorType) else complex_number)(builder, real, imag)


def _fma(emitter, a, b, c):
    # LLVM fuses this where the processor does, and else multiplies and adds: `llvm.fma` would call a function of libm.
    builder = emitter.builder
    if not _is_complex(emitter.result):
        return _call(emitter, "fmuladd", a, b, c)
    (a_real, a_imag), (b_real, b_imag), (c_real, c_imag) = (_parts(builder, v) for v in (a, b, c))
    real = _call(emitter, "fmuladd", builder.fneg(a_imag), b_imag, _call(emitter, "fmuladd", a_real, b_real, c_real))
    imag = _call(emitter, "fmuladd", a_imag, b_real, _call(emitter, "fmuladd", a_real, b_imag, c_imag))
    return _of_parts(builder, real, imag)


def _conj(emitter, value):
    if not _is_complex(emitter.result):
        return value
    real, imag = _parts(emitter.builder, value)
    return _of_parts(emitter.builder, real, emitter.builder.fneg(imag))


def _type_of_choice(condition, yes, no):
    return yes if isinstance(condition, (Mask, types.Boolean)) else None


def _select(emitter, chosen, yes, no):
    if isinstance(emitter.kinds[0], Mask):
        chosen = emitter.builder.icmp_signed("<", chosen, splat(0, chosen.type))
    return emitter.builder.select(chosen, yes, no)


def _everywhere(emitter, vector):
    builder, condition = emitter.builder, emitter.kinds[0]
    if not isinstance(condition, Mask):
        return vector
    # All lanes onto each other, where their bits are not together anyway, then the signs of what is left.
    count = condition.count
    while count > 4 and not HAS_MASKS:
        count //= 2
        vector = builder.and_(*halves(builder, vector))
    signs = builder.icmp_signed("<", vector, splat(0, vector.type))
    bits = ir.IntType(count)
    return builder.icmp_unsigned("==", builder.bitcast(signs, bits), ir.Constant(bits, -1))


def _all_finite(emitter, value):
    # Of all lanes' sum: a comparison less for each register.
    builder = emitter.builder
    while isinstance(value.type, ir.VectorType) and value.type.count > 4:
        value = builder.fadd(*halves(builder, value))
    holds = builder.fcmp_ordered("==", builder.fsub(value, value), splat(0.0, value.type))
    if not isinstance(value.type, ir.VectorType):
        return holds
    bits = ir.IntType(value.type.count)
    return builder.icmp_unsigned("==", builder.bitcast(holds, bits), ir.Constant(bits, -1))


def _power_of_two(emitter, n, less=0):
    # Added to 1.5 times two to the mantissa's width, a whole number stands in the lowest bits.
    builder = emitter.builder
    integer, mantissa, bias = (I32, 23, 127) if _is_single(emitter.result) else (I64, 52, 1023)
    integers = shaped(integer, n.type)
    bits = builder.bitcast(builder.fadd(n, splat(1.5 * 2.0**mantissa, n.type)), integers)
    exponent = builder.add(bits, splat(bias - less, integers))
    return builder.bitcast(builder.shl(exponent, splat(mantissa, integers)), n.type)


def _scaled(emitter, value, n):
    builder, size = emitter.builder, (32 if _is_single(emitter.result) else 64) * getattr(value.type, "count", 1)
    if not HAS_MASKS or size % 512:
        least, most = (-126.0, 128.0) if _is_single(emitter.result) else (-1022.0, 1024.0)
        for limit, is_beyond in ((least, "<"), (most, ">")):
            limit = splat(limit, n.type)
            n = builder.select(builder.fcmp_ordered(is_beyond, n, limit), limit, n)
        return builder.fmul(builder.fadd(value, value), _power_of_two(emitter, n, less=1))
    if size > 512:
        parts = zip(halves(builder, value), halves(builder, n), strict=True)
        return joined(builder, *(_scaled(emitter, *part) for part in parts))
    lanes = value.type.count
    name = f"llvm.x86.avx512.mask.scalef.p{'s' if lanes == 16 else 'd'}.512"
    mask, rounding = ir.Constant(ir.IntType(lanes), -1), ir.Constant(I32, 4)  # all lanes; as the processor rounds
    return call_llvm(builder, name, value.type, value, n, value, mask, rounding)


def _condition_type(condition):
    return types.boolean if isinstance(condition, Mask) else condition


implement(recurrence.constant, writer(lambda value, like: like if isinstance(value, types.Float) else None, _constant))
implement(recurrence.select, writer(_type_of_choice, _select))
implement(recurrence.fma, writer(first, _fma))
implement(recurrence.everywhere, writer(_condition_type, _everywhere))
implement(recurrence.all_finite, writer(types.boolean, _all_finite))
implement(recurrence.magnitude, writer(first, lambda emitter, value: _call(emitter, "fabs", value)))
implement(recurrence.conj, writer(first, _conj))
implement(recurrence.is_single, compiled_truth(_is_single))
implement(recurrence.nearest, writer(first, lambda emitter, value: _call(emitter, "rint", value)))
implement(recurrence.power_of_two, writer(first, _power_of_two))
implement(recurrence.scaled, writer(first, _scaled))

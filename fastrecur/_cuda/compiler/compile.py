"""From a kernel to PTX: the meaning of `device` and of the steps' stubs in code for GPUs.

Importing this imports numba.cuda. A process that finds its kernels in the cache never does.
"""

import inspect

from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.extending import models, register_model

from ..._cpu.compiler import cache
from ..._steps import levels, pooling, recurrence, sections, selective
from ..._steps.recurrence import constant, is_single, power_of_two, select
from ..kernels import device, operands
from .numba_cuda_internals import KNOWN, means, overload

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
_F16, _F32, _F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()

# Element name -> (bytes, LLVM type in memory, class), as in _cpu/vectors/types.py.
_ELEMENTS = {
    "f2": (2, _F16, "float"),
    "bf2": (2, _I16, "float"),
    "f4": (4, _F32, "float"),
    "f8": (8, _F64, "float"),
    "c8": (8, _F32, "complex"),
    "c16": (16, _F64, "complex"),
    "b1": (1, _I8, "unsigned"),
    **{f"i{n}": (n, ir.IntType(8 * n), "signed") for n in (1, 2, 4, 8)},
    **{f"u{n}": (n, ir.IntType(8 * n), "unsigned") for n in (1, 2, 4, 8)},
}
_PLAIN = {"f4": types.float32, "f8": types.float64, "c8": types.complex64, "c16": types.complex128}
_PLAIN |= {"i4": types.int32, "i8": types.int64, "i8[3]": types.UniTuple(types.int64, 3)}


class Pointer(types.Type):
    """An address of elements of one type; ``rounds`` says whether the card rounds to bfloat16 by itself."""

    def __init__(self, element, rounds=True):
        self.element, self.rounds = element, rounds
        self.size, self.memory, self.category = _ELEMENTS[element]
        self.is_small = element in ("f2", "bf2")
        super().__init__(name=f"fastrecur.cuda.Pointer({element}{'' if rounds else ', by hand'})")


@register_model(Pointer)
class _PointerModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, _I64)


# Each function below that is marked by `means` writes the instructions of a call: see `numba_cuda_internals.Call`.


def _offset(kind):
    return types.int32 if isinstance(kind, types.Integer) and kind.bitwidth <= 32 else types.int64


def _assembly(builder, text, constraints, result, *arguments, side_effect=True):
    kind = ir.FunctionType(result, [each.type for each in arguments])
    return builder.call(ir.InlineAsm(kind, text, constraints, side_effect=side_effect), arguments)


# ---- Memory ---------------------------------------------------------------------------------------------------------


def _place(builder, address, offset, type_):
    """Return an address and an offset as a pointer to global memory, address space 1: no load is generic."""
    offset = builder.sext(offset, _I64) if offset.type != _I64 else offset
    return builder.inttoptr(builder.add(address, offset), type_.as_pointer(1))


def _llvm(carry):
    return _F32 if carry in (types.float32, types.complex64) else _F64


def _resize(builder, value, target):
    if value.type == target:
        return value
    wider = value.type == _F16 or target == _F64
    return (builder.fpext if wider else builder.fptrunc)(value, target)


def _widen(builder, value, element, target):
    category = _ELEMENTS[element][2]
    if category == "signed":
        return builder.sitofp(value, target)
    if category == "unsigned":
        return builder.uitofp(value, target)
    if element == "bf2":
        value = builder.bitcast(builder.shl(builder.zext(value, _I32), ir.Constant(_I32, 16)), _F32)
    return _resize(builder, value, target)


def _narrow(builder, value, pointer):
    element = pointer.element
    if element == "f2":
        # From double, as filters carry, it rounds twice on the way.
        return builder.fptrunc(_resize(builder, value, _F32), _F16)
    if element == "bf2" and not pointer.rounds:
        bits = builder.bitcast(_resize(builder, value, _F32), _I32)
        odd = builder.and_(builder.lshr(bits, ir.Constant(_I32, 16)), ir.Constant(_I32, 1))
        rounded = builder.add(builder.add(bits, ir.Constant(_I32, 0x7FFF)), odd)
        quiet = builder.or_(bits, ir.Constant(_I32, 0x400000))
        chosen = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
        return builder.trunc(builder.lshr(chosen, ir.Constant(_I32, 16)), _I16)
    if element == "bf2":
        value = _resize(builder, value, _F32)
        return _assembly(builder, "cvt.rn.bf16.f32 $0, $1;", "=h,f", _I16, value, side_effect=False)
    return _resize(builder, value, _ELEMENTS[element][1])


def _part(builder, base, k):
    return builder.gep(base, [ir.Constant(_I32, k)])


def _complex(call, real, imag):
    number = call.context.make_complex(call.builder, call.returned)
    number.real, number.imag = real, imag
    return number._getvalue()


def _parts(builder, number):
    return [builder.extract_value(number, k) for k in (0, 1)]


def _negative(builder, value):
    return builder.fsub(ir.Constant(value.type, -0.0), value)  # the compiler takes no fneg


# An inline assembler's letter and type for a register.
_REGISTERS = {"i32": ("r", "b32"), "float": ("f", "f32"), "double": ("d", "f64")}


def _opaque(builder, value):
    """Return a value that the compiler knows nothing about: else it uses it where it is loaded, and waits there."""
    letter, bits = _REGISTERS[str(value.type)]
    return _assembly(builder, f"mov.{bits} $0, $1;", f"={letter},{letter}", value.type, value)


@means(device.load, lambda pointer, offset, like: like(pointer, _offset(offset), like))
def _load(call, address, offset, _):
    builder, pointer, kind = call.builder, call.kinds[0], call.returned
    if not isinstance(pointer, Pointer):
        return address
    base, target = _place(builder, address, offset, pointer.memory), _llvm(kind)
    if pointer.category == "complex":
        parts = [_resize(builder, builder.load(_part(builder, base, k)), target) for k in (0, 1)]
    else:
        parts = [_widen(builder, builder.load(base), pointer.element, target), ir.Constant(target, 0.0)]
    return _complex(call, *parts) if isinstance(kind, types.Complex) else parts[0]


def _raw(pointer, like):
    """Return the type of what is loaded, and waits to be made a number: a word if that is small."""
    if not isinstance(pointer, Pointer) or isinstance(like, types.Complex):
        return like
    return types.int32 if pointer.is_small else types.float32 if pointer.element == "f4" else like


@means(device.load_raw, lambda pointer, offset, like: _raw(pointer, like)(pointer, _offset(offset), like))
def _load_raw(call, address, offset, like):
    if call.returned != types.int32:
        return _load(call, address, offset, like)
    return call.builder.zext(call.builder.load(_place(call.builder, address, offset, _I16)), _I32)


@means(device.unpack, lambda pointer, raw, like: like(pointer, raw, like))
def _unpack(call, _, raw, like):
    builder, (pointer, _, like) = call.builder, call.kinds
    if isinstance(like, types.Complex) or not isinstance(pointer, Pointer):
        return raw
    value = _opaque(builder, raw)
    if not pointer.is_small:
        return _resize(builder, value, _llvm(like))
    half = builder.trunc(value, _I16)
    if pointer.element == "f2":
        half = builder.bitcast(half, _F16)
    return _widen(builder, half, pointer.element, _llvm(like))


@means(device.store, lambda pointer, offset, value: types.none(pointer, _offset(offset), value))
def _store(call, address, offset, value):
    builder, (pointer, _, kind) = call.builder, call.kinds
    base = _place(builder, address, offset, pointer.memory)
    if isinstance(kind, types.Complex):
        parts = _parts(builder, value)
        if pointer.category == "complex":
            for k, part in enumerate(parts):
                builder.store(_resize(builder, part, pointer.memory), _part(builder, base, k))
            return
        value = parts[0]  # the gradient of a real operand
    builder.store(_narrow(builder, value, pointer), base)


@means(device.load_int, lambda pointer, offset: types.int64(pointer, _offset(offset)))
def _load_int(call, address, offset):
    builder, pointer = call.builder, call.kinds[0]
    number = builder.load(_place(builder, address, offset, pointer.memory))
    extend = builder.sext if pointer.category == "signed" else builder.zext
    return number if pointer.size == 8 else extend(number, _I64)


@means(device.is_null, lambda pointer: types.boolean(pointer))
def _is_null(call, address):
    if not isinstance(call.kinds[0], Pointer):
        return ir.Constant(_I1, 0)
    return call.builder.icmp_unsigned("==", address, ir.Constant(_I64, 0))


# 16 bytes travel as four words and are cut to elements in registers.
_WORDS = ir.VectorType(_I32, 4)


@means(
    device.load_wide,
    lambda pointer, offset, like: types.UniTuple(like, 16 // pointer.size)(pointer, _offset(offset), like),
)
def _load_wide(call, address, offset, _):
    builder, (pointer, _, like) = call.builder, call.kinds
    words = builder.load(_place(builder, address, offset, _WORDS), align=16)
    if pointer.element == "bf2":
        # As two vectors of four, which the compiler would make of it, it would be two loads.
        values = []
        for k in range(4):
            word = builder.extract_element(words, ir.Constant(_I32, k))
            halves = builder.shl(word, ir.Constant(_I32, 16)), builder.and_(word, ir.Constant(_I32, 0xFFFF0000))
            values += [_resize(builder, builder.bitcast(half, _F32), _llvm(like)) for half in halves]
        return call.context.make_tuple(builder, call.returned, values)
    elements = builder.bitcast(words, ir.VectorType(pointer.memory, 16 // pointer.size))
    values = (builder.extract_element(elements, ir.Constant(_I32, k)) for k in range(16 // pointer.size))
    return call.context.make_tuple(
        builder, call.returned, [_widen(builder, value, pointer.element, _llvm(like)) for value in values]
    )


@means(device.store_wide, lambda pointer, offset, values: types.none(pointer, _offset(offset), values))
def _store_wide(call, address, offset, values):
    builder, pointer = call.builder, call.kinds[0]
    if pointer.element == "bf2":
        words = ir.Constant(_WORDS, ir.Undefined)
        for k in range(4):
            halves = (builder.extract_value(values, 2 * k + half) for half in (0, 1))
            low, high = (builder.zext(_narrow(builder, half, pointer), _I32) for half in halves)
            word = builder.or_(low, builder.shl(high, ir.Constant(_I32, 16)))
            words = builder.insert_element(words, word, ir.Constant(_I32, k))
    else:
        vector = ir.Constant(ir.VectorType(pointer.memory, 16 // pointer.size), ir.Undefined)
        for k in range(16 // pointer.size):
            value = _narrow(builder, builder.extract_value(values, k), pointer)
            vector = builder.insert_element(vector, value, ir.Constant(_I32, k))
        words = builder.bitcast(vector, _WORDS)
    builder.store(words, _place(builder, address, offset, _WORDS), align=16)


# What other blocks write while a kernel runs: a plain load in a loop would be made one before it.


@means(device.store_status, lambda pointer, offset, value: types.none(pointer, _offset(offset), value))
def _store_status(call, address, offset, value):
    builder, number = call.builder, call.kinds[2]
    address = builder.ptrtoint(_place(builder, address, offset, _I64), _I64)
    bits = builder.zext(builder.bitcast(value, ir.IntType(number.bitwidth)), _I64)
    for k in range(number.bitwidth // 32):
        half = builder.and_(builder.lshr(bits, ir.Constant(_I64, 32 * k)), ir.Constant(_I64, (1 << 32) - 1))
        word = builder.or_(half, ir.Constant(_I64, 1 << 32))
        place = builder.add(address, ir.Constant(_I64, 8 * k))
        _assembly(builder, "st.relaxed.gpu.global.b64 [$0], $1;", "l,l", ir.VoidType(), place, word)


@means(
    device.load_status,
    lambda pointer, offset, like: types.Tuple((types.boolean, like))(pointer, _offset(offset), like),
)
def _load_status(call, address, offset, _):
    builder, number, load = call.builder, call.kinds[2], "ld.relaxed.gpu.global.b64 $0, [$1];"
    address = builder.ptrtoint(_place(builder, address, offset, _I64), _I64)
    places = (builder.add(address, ir.Constant(_I64, 8 * k)) for k in range(number.bitwidth // 32))
    marks = bits = None
    for k, word in enumerate([_assembly(builder, load, "=l,l", _I64, place) for place in places]):
        mark = builder.lshr(word, ir.Constant(_I64, 32))
        half = builder.shl(builder.and_(word, ir.Constant(_I64, (1 << 32) - 1)), ir.Constant(_I64, 32 * k))
        marks, bits = (builder.and_(marks, mark), builder.or_(bits, half)) if k else (mark, half)
    is_there = builder.icmp_unsigned("!=", marks, ir.Constant(_I64, 0))
    value = builder.bitcast(builder.trunc(bits, ir.IntType(number.bitwidth)), _llvm(number))
    return call.context.make_tuple(builder, call.returned, [is_there, value])


# ---- Arithmetic -----------------------------------------------------------------------------------------------------


@means(recurrence.fma, lambda a, b, c: a(a, a, a))
def _fma(call, *numbers):
    builder = call.builder
    if not isinstance(call.kinds[0], types.Complex):
        return builder.fma(*numbers)
    (a, b), (c, d), (e, f) = (_parts(builder, number) for number in numbers)
    real = builder.fma(_negative(builder, b), d, builder.fma(a, c, e))
    return _complex(call, real, builder.fma(b, c, builder.fma(a, d, f)))


@means(recurrence.conj, lambda value: value(value))
def _conj(call, value):
    if not isinstance(call.kinds[0], types.Complex):
        return value
    real, imag = _parts(call.builder, value)
    return _complex(call, real, _negative(call.builder, imag))


@means(recurrence.nearest, lambda value: value(value))
def _nearest(call, value):
    # The compiler takes no llvm.rint.
    letter, bits = _REGISTERS[str(value.type)]
    text, registers = f"cvt.rni.{bits}.{bits} $0, $1;", f"={letter},{letter}"
    return _assembly(call.builder, text, registers, value.type, value, side_effect=False)


@means(recurrence.power_of_two, lambda n: n(n))
def _power_of_two(call, n):
    builder, kind = call.builder, n.type
    integer, mantissa, bias = (_I32, 23, 127) if kind == _F32 else (_I64, 52, 1023)
    # Added to 1.5 times two to the mantissa's width, a whole number stands in the lowest bits.
    bits = builder.bitcast(builder.fadd(n, ir.Constant(kind, 1.5 * 2.0**mantissa)), integer)
    exponent = builder.add(bits, ir.Constant(integer, bias))
    return builder.bitcast(builder.shl(exponent, ir.Constant(integer, mantissa)), kind)


def _bits(call, value):
    return call.builder.bitcast(value, ir.IntType(call.kinds[0].bitwidth))


def _with_lowest(builder, bits, lowest):
    return builder.or_(builder.and_(bits, ir.Constant(bits.type, -2)), builder.zext(lowest, bits.type))


# What is an instruction or two: types, and what writes it.
_INSTRUCTIONS = {
    recurrence.constant: (
        lambda value, like: like(value, like),
        lambda call, value, _: call.context.cast(call.builder, value, *call.kinds),
    ),
    recurrence.select: (
        lambda condition, yes, no: yes(types.boolean, yes, yes),
        lambda call, *arguments: call.builder.select(*arguments),
    ),
    device.shift: (
        lambda pointer, offset: pointer(pointer, types.int64),
        lambda call, place, by: call.builder.add(place, by) if isinstance(call.kinds[0], Pointer) else place,
    ),
    device.narrow: (
        lambda number: types.int32(types.Integer.from_bitwidth(number.bitwidth)),
        lambda call, number: number if number.type == _I32 else call.builder.trunc(number, _I32),
    ),
    device.anew: (lambda value: value(value), lambda call, value: _opaque(call.builder, value)),
    device.is_tagged: (lambda value: types.boolean(value), lambda call, its: call.builder.trunc(_bits(call, its), _I1)),
    device.tagged: (
        lambda value, tag: value(value, types.boolean),
        lambda call, value, tag: call.builder.bitcast(_with_lowest(call.builder, _bits(call, value), tag), value.type),
    ),
    device.divide: (lambda a, b: types.int32(types.int32, types.int32), lambda call, a, b: call.builder.udiv(a, b)),
    device.misalignment: (
        lambda pointer: types.int64(pointer),
        lambda call, address: call.builder.and_(address, ir.Constant(_I64, 15)),
    ),
    device.take_ticket: (
        lambda pointer: types.int32(pointer),
        lambda call, place: _assembly(
            call.builder, "atom.relaxed.gpu.global.add.u32 $0, [$1], 1;", "=r,l", _I32, place
        ),
    ),
    device.nap: (lambda: types.none(), lambda call: _assembly(call.builder, "nanosleep.u32 100;", "", ir.VoidType())),
    device.trap: (lambda: types.none(), lambda call: _assembly(call.builder, "trap;", "", ir.VoidType())),
}
for _function, (_signature, _write) in _INSTRUCTIONS.items():
    means(_function, _signature)(_write)


# ---- Functions that are others --------------------------------------------------------------------------------------


def _is_single(value):
    answer = value == types.float32
    return lambda value: answer


overload(recurrence.is_single, _is_single)


def _scaled(value, n):
    least = constant(-126.0, n) if is_single(n) else constant(-1022.0, n)
    most = constant(128.0, n) if is_single(n) else constant(1024.0, n)
    n = select(n < least, least, select(most < n, most, n))
    return (value + value) * power_of_two(n - constant(1.0, n))


_MEANINGS = {
    recurrence.scaled: _scaled,
    recurrence.all_finite: lambda value: False,  # two more instructions are cheaper than a branch at every step
    recurrence.magnitude: lambda value: abs(value),
    device.thread: lambda: cuda.threadIdx.x,
    device.block: lambda: cuda.blockIdx.x,
    device.block_row: lambda: cuda.blockIdx.y,
    device.block_threads: lambda: cuda.blockDim.x,
    device.barrier: lambda: cuda.syncthreads(),
    device.shuffle: lambda value, lane: cuda.shfl_sync(0xFFFFFFFF, value, lane),
    device.ballot: lambda condition: cuda.ballot_sync(0xFFFFFFFF, condition),
    device.highest: lambda bits: 31 - cuda.clz(device.narrow(bits)),
}


def _consider(function, meaning=None):
    """Let compiled code call a plain function, as it is or as another."""
    if function not in KNOWN:
        overload(function, lambda *arguments: meaning or function)


for _function, _meaning in _MEANINGS.items():
    _consider(_function, _meaning)
for _module in (recurrence, pooling, selective, sections, levels):
    for _function in vars(_module).values():
        if inspect.isfunction(_function):
            _consider(_function)


def ptx(function, signature, threads, blocks, capability):
    """Return the PTX of a kernel in the words of `device`.

    ``signature`` holds, for each plain parameter, as `operands.fields` has them, an element's name with a star (an
    address), a carry's name (a number) or ``i4``, ``i8``; what is not there is an empty tuple. A multiprocessor should
    hold so many ``blocks`` of ``threads``: without these the assembler saves registers by using each value before the
    next is asked for, which undoes the batches of loads. ``capability`` is what to compile for: `Kernel.target` of
    `launch`, not the card's own.
    """
    plain = {
        name: Pointer(its[:-1], its != "bf2*" or capability >= (8, 0)) if its.endswith("*") else _PLAIN[its]
        for name, its in signature.items()
    }
    arguments = [
        operands.assemble(name, plain, lambda group, parts: types.BaseTuple.from_types(tuple(parts), group))
        for name in inspect.signature(function).parameters
    ]
    with cache.making:
        for each in device.HELPERS:
            _consider(each)
        code, _ = cuda.compile(
            function, types.void(*arguments), device=False, abi="numba", cc=capability, output="ptx",
            launch_bounds=(threads, blocks),
        )  # fmt: skip
    return code

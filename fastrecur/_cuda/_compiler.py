"""From a kernel to PTX: the meaning of `_device` and of the steps' stubs in code for GPUs.

Importing this imports numba.cuda. A process that finds its kernels in the cache never does.
"""

import inspect

from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.extending import models, register_model

from .. import _cache, _pooling, _steps
from . import _device, _operands
from ._numba_cuda import KNOWN, means, overload

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
_F16, _F32, _F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()

# Element name -> (bytes, LLVM type in memory, class), as in _cpu/_types.py.
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
CARRIES = {"f4": types.float32, "f8": types.float64, "c8": types.complex64, "c16": types.complex128}


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


# Each function below that is marked by `means` takes the types of a call's arguments; it returns the call's signature
# and what generates its code.


def _assembly(builder, text, constraints, result, *arguments, side_effect=True):
    kind = ir.FunctionType(result, [each.type for each in arguments])
    return builder.call(ir.InlineAsm(kind, text, constraints, side_effect=side_effect), arguments)


def _passed(k, *kinds):
    """Return a call's meaning if it is its k-th argument."""
    return kinds[k](*kinds), lambda context, builder, signature, args: args[k]


# ---- Memory ---------------------------------------------------------------------------------------------------------


def _place(builder, args, type_):
    """Return an address and an offset as a pointer to global memory, address space 1: no load is generic."""
    offset = builder.sext(args[1], _I64) if args[1].type != _I64 else args[1]
    return builder.inttoptr(builder.add(args[0], offset), type_.as_pointer(1))


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
        # To half from double would round twice on the way: no carry of halves is that wide.
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


def _complex(context, builder, kind, real, imag):
    number = context.make_complex(builder, kind)
    number.real, number.imag = real, imag
    return number._getvalue()


def _negative(builder, value):
    return builder.fsub(ir.Constant(value.type, -0.0), value)  # the compiler takes no fneg


def _is_pointer(type_):
    return isinstance(type_, Pointer)


def _offset(type_):
    return types.int32 if isinstance(type_, types.Integer) and type_.bitwidth <= 32 else types.int64


# An inline assembler's letter and type for a register.
_REGISTERS = {"i32": ("r", "b32"), "float": ("f", "f32"), "double": ("d", "f64")}


def _opaque(builder, value):
    """Return a value that the compiler knows nothing about: else it uses it where it is loaded, and waits there."""
    letter, bits = _REGISTERS[str(value.type)]
    return _assembly(builder, f"mov.{bits} $0, $1;", f"={letter},{letter}", value.type, value)


@means(_device.load)
def _load(context, pointer, offset, like):
    if not _is_pointer(pointer):
        return _passed(0, pointer, offset, like)

    def codegen(context, builder, signature, args):
        target = _llvm(like)
        base = _place(builder, args, pointer.memory)
        if pointer.category == "complex":
            parts = [_resize(builder, builder.load(_part(builder, base, k)), target) for k in (0, 1)]
        else:
            parts = [_widen(builder, builder.load(base), pointer.element, target), ir.Constant(target, 0.0)]
        return _complex(context, builder, like, *parts) if isinstance(like, types.Complex) else parts[0]

    return like(pointer, _offset(offset), like), codegen


@means(_device.load_raw)
def _load_raw(context, pointer, offset, like):
    if not _is_pointer(pointer) or not pointer.is_small or isinstance(like, types.Complex):
        return _load(context, pointer, offset, like)

    def codegen(context, builder, signature, args):
        return builder.zext(builder.load(_place(builder, args, _I16)), _I32)

    return types.int32(pointer, _offset(offset), like), codegen


@means(_device.unpack)
def _unpack(context, pointer, raw, like):
    if isinstance(like, types.Complex) or not _is_pointer(pointer):
        return _passed(1, pointer, raw, like)

    def codegen(context, builder, signature, args):
        value = _opaque(builder, args[1])
        if not pointer.is_small:
            return value
        half = builder.trunc(value, _I16)
        if pointer.element == "f2":
            half = builder.bitcast(half, _F16)
        return _widen(builder, half, pointer.element, _llvm(like))

    return like(pointer, raw, like), codegen


@means(_device.anew)
def _anew(context, value):
    return value(value), lambda context, builder, signature, args: _opaque(builder, *args)


@means(_device.store)
def _store(context, pointer, offset, value):
    def codegen(context, builder, signature, args):
        base = _place(builder, args, pointer.memory)
        stored = args[2]
        if isinstance(value, types.Complex):
            number = context.make_complex(builder, value, stored)
            if pointer.category == "complex":
                for k, part in enumerate((number.real, number.imag)):
                    builder.store(_resize(builder, part, pointer.memory), _part(builder, base, k))
                return context.get_dummy_value()
            stored = number.real  # the gradient of a real operand
        builder.store(_narrow(builder, stored, pointer), base)
        return context.get_dummy_value()

    return types.none(pointer, _offset(offset), value), codegen


@means(_device.load_int)
def _load_int(context, pointer, offset):
    def codegen(context, builder, signature, args):
        number = builder.load(_place(builder, args, pointer.memory))
        extend = builder.sext if pointer.category == "signed" else builder.zext
        return number if pointer.size == 8 else extend(number, _I64)

    return types.int64(pointer, _offset(offset)), codegen


@means(_device.shift)
def _shift(context, pointer, offset):
    if not _is_pointer(pointer):
        return _passed(0, pointer, offset)
    return pointer(pointer, types.int64), lambda context, builder, signature, args: builder.add(*args)


@means(_device.is_null)
def _is_null(context, pointer):
    def codegen(context, builder, signature, args):
        null = ir.Constant(_I64, 0)
        return builder.icmp_unsigned("==", args[0], null) if _is_pointer(pointer) else ir.Constant(_I1, 0)

    return types.boolean(pointer), codegen


@means(_device.misalignment)
def _misalignment(context, pointer):
    return types.int64(pointer), lambda context, builder, signature, args: builder.and_(args[0], ir.Constant(_I64, 15))


# 16 bytes travel as four words and are cut to elements in registers.
_WORDS = ir.VectorType(_I32, 4)


@means(_device.load_wide)
def _load_wide(context, pointer, offset, like):
    n = 16 // pointer.size

    def codegen(context, builder, signature, args):
        words = builder.load(_place(builder, args, _WORDS), align=16)
        if pointer.element == "bf2":
            # As two vectors of four, which the compiler would make of it, it would be two loads.
            values = []
            for k in range(4):
                word = builder.extract_element(words, ir.Constant(_I32, k))
                halves = builder.shl(word, ir.Constant(_I32, 16)), builder.and_(word, ir.Constant(_I32, 0xFFFF0000))
                values += [_resize(builder, builder.bitcast(half, _F32), _llvm(like)) for half in halves]
            return context.make_tuple(builder, signature.return_type, values)
        elements = builder.bitcast(words, ir.VectorType(pointer.memory, n))
        values = [
            _widen(builder, builder.extract_element(elements, ir.Constant(_I32, k)), pointer.element, _llvm(like))
            for k in range(n)
        ]
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(like, n)(pointer, _offset(offset), like), codegen


@means(_device.store_wide)
def _store_wide(context, pointer, offset, values):
    n = 16 // pointer.size

    def codegen(context, builder, signature, args):
        if pointer.element == "bf2":
            words = ir.Constant(_WORDS, ir.Undefined)
            for k in range(4):
                low, high = (
                    builder.zext(_narrow(builder, builder.extract_value(args[2], 2 * k + half), pointer), _I32)
                    for half in (0, 1)
                )
                word = builder.or_(low, builder.shl(high, ir.Constant(_I32, 16)))
                words = builder.insert_element(words, word, ir.Constant(_I32, k))
            builder.store(words, _place(builder, args, _WORDS), align=16)
            return context.get_dummy_value()
        vector = ir.Constant(ir.VectorType(pointer.memory, n), ir.Undefined)
        for k in range(n):
            value = _narrow(builder, builder.extract_value(args[2], k), pointer)
            vector = builder.insert_element(vector, value, ir.Constant(_I32, k))
        words = builder.bitcast(vector, _WORDS)
        builder.store(words, _place(builder, args, _WORDS), align=16)
        return context.get_dummy_value()

    return types.none(pointer, _offset(offset), values), codegen


# What other blocks write while a kernel runs: a plain load in a loop would be made one before it.


def _words(number):
    """Return how many status words a number takes."""
    return number.bitwidth // 32


@means(_device.store_status)
def _store_status(context, pointer, offset, value):
    def codegen(context, builder, signature, args):
        address = builder.ptrtoint(_place(builder, args, _I64), _I64)
        bits = builder.zext(builder.bitcast(args[2], ir.IntType(value.bitwidth)), _I64)
        for k in range(_words(value)):
            half = builder.and_(builder.lshr(bits, ir.Constant(_I64, 32 * k)), ir.Constant(_I64, (1 << 32) - 1))
            word = builder.or_(half, ir.Constant(_I64, 1 << 32))
            place = builder.add(address, ir.Constant(_I64, 8 * k))
            _assembly(builder, "st.relaxed.gpu.global.b64 [$0], $1;", "l,l", ir.VoidType(), place, word)
        return context.get_dummy_value()

    return types.none(pointer, _offset(offset), value), codegen


@means(_device.load_status)
def _load_status(context, pointer, offset, like):
    def codegen(context, builder, signature, args):
        address, load = builder.ptrtoint(_place(builder, args, _I64), _I64), "ld.relaxed.gpu.global.b64 $0, [$1];"
        places = (builder.add(address, ir.Constant(_I64, 8 * k)) for k in range(_words(like)))
        words = [_assembly(builder, load, "=l,l", _I64, place) for place in places]
        marks = bits = None
        for k, word in enumerate(words):
            mark = builder.lshr(word, ir.Constant(_I64, 32))
            half = builder.shl(builder.and_(word, ir.Constant(_I64, (1 << 32) - 1)), ir.Constant(_I64, 32 * k))
            marks = mark if marks is None else builder.and_(marks, mark)
            bits = half if bits is None else builder.or_(bits, half)
        is_there = builder.icmp_unsigned("!=", marks, ir.Constant(_I64, 0))
        value = builder.bitcast(builder.trunc(bits, ir.IntType(like.bitwidth)), _llvm(like))
        return context.make_tuple(builder, signature.return_type, [is_there, value])

    return types.Tuple((types.boolean, like))(pointer, _offset(offset), like), codegen


@means(_device.take_ticket)
def _take_ticket(context, pointer):
    def codegen(context, builder, signature, args):
        return _assembly(builder, "atom.relaxed.gpu.global.add.u32 $0, [$1], 1;", "=r,l", _I32, *args)

    return types.int32(pointer), codegen


def _instruction(text):
    """Return a call's meaning if it is one instruction without operands."""

    def codegen(context, builder, signature, args):
        _assembly(builder, text, "", ir.VoidType())
        return context.get_dummy_value()

    return lambda context: (types.none(), codegen)


means(_device.nap)(_instruction("nanosleep.u32 100;"))
means(_device.trap)(_instruction("trap;"))


# ---- Arithmetic -----------------------------------------------------------------------------------------------------


@means(_steps.constant)
def _constant(context, value, like):
    def codegen(context, builder, signature, args):
        return context.cast(builder, args[0], value, like)

    return like(value, like), codegen


@means(_steps.fma)
def _fma(context, a, b, c):
    def codegen(context, builder, signature, args):
        if not isinstance(a, types.Complex):
            return builder.fma(*args)
        x, y, z = (context.make_complex(builder, a, each) for each in args)
        real = builder.fma(_negative(builder, x.imag), y.imag, builder.fma(x.real, y.real, z.real))
        imag = builder.fma(x.imag, y.real, builder.fma(x.real, y.imag, z.imag))
        return _complex(context, builder, a, real, imag)

    return a(a, a, a), codegen


@means(_steps.conj)
def _conj(context, value):
    if not isinstance(value, types.Complex):
        return _passed(0, value)

    def codegen(context, builder, signature, args):
        number = context.make_complex(builder, value, args[0])
        return _complex(context, builder, value, number.real, _negative(builder, number.imag))

    return value(value), codegen


@means(_steps.select)
def _select(context, condition, yes, no):
    return yes(types.boolean, yes, yes), lambda context, builder, signature, args: builder.select(*args)


@means(_steps.nearest)
def _nearest(context, value):
    def codegen(context, builder, signature, args):
        # The compiler takes no llvm.rint.
        kind = args[0].type
        letter, bits = _REGISTERS[str(kind)]
        return _assembly(
            builder, f"cvt.rni.{bits}.{bits} $0, $1;", f"={letter},{letter}", kind, *args, side_effect=False
        )

    return value(value), codegen


@means(_steps.power_of_two)
def _power_of_two(context, n):
    def codegen(context, builder, signature, args):
        kind = args[0].type
        integer, mantissa, bias = (_I32, 23, 127) if kind == _F32 else (_I64, 52, 1023)
        # Added to 1.5 times two to the mantissa's width, a whole number stands in the lowest bits.
        bits = builder.bitcast(builder.fadd(args[0], ir.Constant(kind, 1.5 * 2.0**mantissa)), integer)
        exponent = builder.add(bits, ir.Constant(integer, bias))
        return builder.bitcast(builder.shl(exponent, ir.Constant(integer, mantissa)), kind)

    return n(n), codegen


@means(_device.divide)
def _divide(context, a, b):
    return types.int32(types.int32, types.int32), lambda context, builder, signature, args: builder.udiv(*args)


@means(_device.narrow)
def _as_int32(context, number):
    def codegen(context, builder, signature, args):
        return args[0] if number.bitwidth == 32 else builder.trunc(args[0], _I32)

    return types.int32(types.Integer.from_bitwidth(number.bitwidth)), codegen


# ---- Functions that are others --------------------------------------------------------------------------------------


def _is_single(value):
    answer = value == types.float32
    return lambda value: answer


overload(_steps.is_single, _is_single)
_MEANINGS = {
    _steps.everywhere: lambda condition: False,  # two more instructions are cheaper than a branch at every step
    _steps.magnitude: lambda value: abs(value),
    _device.thread: lambda: cuda.threadIdx.x,
    _device.block: lambda: cuda.blockIdx.x,
    _device.block_row: lambda: cuda.blockIdx.y,
    _device.block_threads: lambda: cuda.blockDim.x,
    _device.barrier: lambda: cuda.syncthreads(),
    _device.shuffle: lambda value, lane: cuda.shfl_sync(0xFFFFFFFF, value, lane),
    _device.ballot: lambda condition: cuda.ballot_sync(0xFFFFFFFF, condition),
    _device.highest: lambda bits: 31 - cuda.clz(_device.narrow(bits)),
}


def _consider(function, meaning=None):
    """Let compiled code call a plain function, as it is or as another."""
    if function not in KNOWN:
        overload(function, lambda *arguments: meaning or function)


for _function, _meaning in _MEANINGS.items():
    _consider(_function, _meaning)
for _module in (_steps, _pooling):
    for _function in vars(_module).values():
        if inspect.isfunction(_function):
            _consider(_function)


def ptx(function, signature, threads, blocks, capability):
    """Return a kernel's PTX.

    Parameters
    ----------
    function : callable
        A kernel in the words of `_device`.
    signature : dict of str
        For each plain parameter, as `_operands.group` has them, an element's name with a star (an address), a carry's
        name (a number) or ``i4``, ``i8``. What is not there is an empty tuple.
    threads, blocks : int
        The size of a block, and how many a multiprocessor should hold: without these the assembler saves registers by
        using each value before the next is asked for, which undoes the batches of loads.
    capability : tuple of int
        What to compile for: `Kernel.target` of `_launch`, not the card's own.
    """
    arguments = []
    for name in inspect.signature(function).parameters:
        group, fields = _operands.group(name)
        given = tuple(_argument(signature[field], capability >= (8, 0)) for field in fields if field in signature)
        arguments.append(given[0] if group is None else types.BaseTuple.from_types(given, group if given else None))
    with _cache.making:
        for each in _device.HELPERS:
            _consider(each)
        code, _ = cuda.compile(
            function, types.void(*arguments), device=False, abi="numba", cc=capability, output="ptx",
            launch_bounds=(threads, blocks),
        )  # fmt: skip
    return code


def _argument(name, rounds):
    if name.endswith("*"):
        return Pointer(name[:-1], rounds or name != "bf2*")
    if name == "i8[3]":
        return types.UniTuple(types.int64, 3)
    return CARRIES.get(name) or {"i4": types.int32, "i8": types.int64}[name]

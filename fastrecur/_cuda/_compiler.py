"""From a kernel to PTX: the meaning of `_device` and of the steps' stubs in code for GPUs.

Importing this imports numba.cuda. A process that finds its kernels in the cache never does.
"""

import inspect

from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.extending import intrinsic, models, register_model

from .. import _cache, _pooling, _steps
from . import _device, _operands
from ._numba_cuda import overload as _overload

_I8, _I16, _I32, _I64 = (ir.IntType(n) for n in (8, 16, 32, 64))
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
        super().__init__(name=f"fastrecur.cuda.Pointer({element}{'' if rounds else ', by hand'})")


@register_model(Pointer)
class _PointerModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, _I64)


# ---- Memory ---------------------------------------------------------------------------------------------------------


def _place(builder, pointer, args, type_):
    address = builder.add(args[0], builder.sext(args[1], _I64) if args[1].type != _I64 else args[1])
    # Address space 1 is global memory: no generic loads.
    return builder.inttoptr(address, type_.as_pointer(1))


def _real(carry):
    return {types.complex64: types.float32, types.complex128: types.float64}.get(carry, carry)


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
        word = ir.FunctionType(_I16, [_F32])
        assembly = ir.InlineAsm(word, "cvt.rn.bf16.f32 $0, $1;", "=h,f", side_effect=False)
        return builder.call(assembly, [_resize(builder, value, _F32)])
    return _resize(builder, value, _ELEMENTS[element][1])


def _llvm(carry):
    return _F32 if _real(carry) == types.float32 else _F64


def _part(builder, base, k):
    return builder.gep(base, [ir.Constant(_I32, k)])


def _is_pointer(type_):
    return isinstance(type_, Pointer)


def _offset(type_):
    return types.int32 if isinstance(type_, types.Integer) and type_.bitwidth <= 32 else types.int64


@intrinsic
def _load(typingctx, pointer, offset, like):
    def codegen(context, builder, signature, args):
        target = _llvm(like)
        base = _place(builder, pointer, args, pointer.memory)
        if pointer.category == "complex":
            parts = [_resize(builder, builder.load(_part(builder, base, k)), target) for k in (0, 1)]
        else:
            parts = [_widen(builder, builder.load(base), pointer.element, target), ir.Constant(target, 0.0)]
        if not isinstance(like, types.Complex):
            return parts[0]
        number = context.make_complex(builder, like)
        number.real, number.imag = parts
        return number._getvalue()

    return like(pointer, _offset(offset), like), codegen


def _is_small(pointer):
    return pointer.element in ("f2", "bf2")


@intrinsic
def _load_word(typingctx, pointer, offset):
    def codegen(context, builder, signature, args):
        return builder.zext(builder.load(_place(builder, pointer, args, _I16)), _I32)

    return types.int32(pointer, _offset(offset)), codegen


@intrinsic
def _opaque(typingctx, value):
    """Return a value that the compiler knows nothing about: else it uses it where it is loaded, and waits there."""
    kind, letter, bits = {
        types.int32: (_I32, "r", "b32"), types.float32: (_F32, "f", "f32"), types.float64: (_F64, "d", "f64"),
    }[value]  # fmt: skip

    def codegen(context, builder, signature, args):
        move = ir.InlineAsm(
            ir.FunctionType(kind, [kind]), f"mov.{bits} $0, $1;", f"={letter},{letter}", side_effect=True
        )
        return builder.call(move, args)

    return value(value), codegen


@intrinsic
def _widened(typingctx, pointer, word, like):
    def codegen(context, builder, signature, args):
        half = builder.trunc(args[1], _I16)
        if pointer.element == "f2":
            half = builder.bitcast(half, _F16)
        return _widen(builder, half, pointer.element, _llvm(like))

    return like(pointer, types.int32, like), codegen


@intrinsic
def _store(typingctx, pointer, offset, value):
    def codegen(context, builder, signature, args):
        base = _place(builder, pointer, args, pointer.memory)
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


@intrinsic
def _load_int(typingctx, pointer, offset):
    def codegen(context, builder, signature, args):
        number = builder.load(_place(builder, pointer, args, pointer.memory))
        return number if pointer.size == 8 else (
            builder.sext if pointer.category == "signed" else builder.zext
        )(number, _I64)  # fmt: skip

    return types.int64(pointer, _offset(offset)), codegen


@intrinsic
def _shift(typingctx, pointer, offset):
    def codegen(context, builder, signature, args):
        return builder.add(args[0], args[1])

    return pointer(pointer, types.int64), codegen


@intrinsic
def _address(typingctx, pointer):
    def codegen(context, builder, signature, args):
        return args[0]

    return types.int64(pointer), codegen


def _wide_count(pointer):
    return 16 // pointer.size


# 16 bytes travel as four words and are cut to elements in registers.
_WORDS = ir.VectorType(_I32, 4)


@intrinsic
def _load_wide(typingctx, pointer, offset, like):
    n = _wide_count(pointer)

    def codegen(context, builder, signature, args):
        words = builder.load(_place(builder, pointer, args, _WORDS), align=16)
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


@intrinsic
def _store_wide(typingctx, pointer, offset, values):
    n = _wide_count(pointer)

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
            builder.store(words, _place(builder, pointer, args, _WORDS), align=16)
            return context.get_dummy_value()
        vector = ir.Constant(ir.VectorType(pointer.memory, n), ir.Undefined)
        for k in range(n):
            value = _narrow(builder, builder.extract_value(args[2], k), pointer)
            vector = builder.insert_element(vector, value, ir.Constant(_I32, k))
        words = builder.bitcast(vector, _WORDS)
        builder.store(words, _place(builder, pointer, args, _WORDS), align=16)
        return context.get_dummy_value()

    return types.none(pointer, _offset(offset), values), codegen


# What other blocks write while a kernel runs: a plain load in a loop would be made one before it.


def _words(number):
    """Return how many status words a number takes."""
    return number.bitwidth // 32


@intrinsic
def _store_status(typingctx, pointer, offset, value):
    def codegen(context, builder, signature, args):
        address = builder.ptrtoint(_place(builder, pointer, args, _I64), _I64)
        bits = builder.zext(builder.bitcast(args[2], ir.IntType(value.bitwidth)), _I64)
        kind = ir.FunctionType(ir.VoidType(), [_I64, _I64])
        store = ir.InlineAsm(kind, "st.relaxed.gpu.global.b64 [$0], $1;", "l,l", side_effect=True)
        for k in range(_words(value)):
            half = builder.and_(builder.lshr(bits, ir.Constant(_I64, 32 * k)), ir.Constant(_I64, (1 << 32) - 1))
            word = builder.or_(half, ir.Constant(_I64, 1 << 32))
            builder.call(store, [builder.add(address, ir.Constant(_I64, 8 * k)), word])
        return context.get_dummy_value()

    return types.none(pointer, _offset(offset), value), codegen


@intrinsic
def _load_status(typingctx, pointer, offset, like):
    def codegen(context, builder, signature, args):
        address = builder.ptrtoint(_place(builder, pointer, args, _I64), _I64)
        kind = ir.FunctionType(_I64, [_I64])
        load = ir.InlineAsm(kind, "ld.relaxed.gpu.global.b64 $0, [$1];", "=l,l", side_effect=True)
        words = [builder.call(load, [builder.add(address, ir.Constant(_I64, 8 * k))]) for k in range(_words(like))]
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


@intrinsic
def _take_ticket(typingctx, pointer):
    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(_I32, [_I64])
        assembly = ir.InlineAsm(kind, "atom.relaxed.gpu.global.add.u32 $0, [$1], 1;", "=r,l", side_effect=True)
        return builder.call(assembly, args)

    return types.int32(pointer), codegen


def _instruction(text):
    """Return an intrinsic that is one instruction without operands."""

    @intrinsic
    def issue(typingctx):
        def codegen(context, builder, signature, args):
            builder.call(ir.InlineAsm(ir.FunctionType(ir.VoidType(), []), text, "", side_effect=True), [])
            return context.get_dummy_value()

        return types.none(), codegen

    return issue


_nap, _trap = _instruction("nanosleep.u32 100;"), _instruction("trap;")


# ---- Arithmetic -----------------------------------------------------------------------------------------------------


@intrinsic
def _typed_constant(typingctx, value, like):
    def codegen(context, builder, signature, args):
        return context.cast(builder, args[0], value, like)

    return like(value, like), codegen


@intrinsic
def _fused(typingctx, a, b, c):
    def codegen(context, builder, signature, args):
        return builder.fma(*args)

    return a(a, b, c), codegen


@intrinsic
def _chosen(typingctx, condition, yes, no):
    def codegen(context, builder, signature, args):
        return builder.select(*args)

    return yes(types.boolean, yes, yes), codegen


@_overload(_steps.constant)
def _constant_of(value, like):
    return lambda value, like: _typed_constant(value, like)


@_overload(_steps.fma)
def _fma_of(a, b, c):
    if isinstance(a, types.Complex):
        return lambda a, b, c: _steps.constant(
            complex(
                _fused(-a.imag, b.imag, _fused(a.real, b.real, c.real)),
                _fused(a.imag, b.real, _fused(a.real, b.imag, c.imag)),
            ),
            c,
        )
    return lambda a, b, c: _fused(a, b, c)


@_overload(_steps.select)
def _select_of(condition, yes, no):
    return lambda condition, yes, no: _chosen(condition, yes, no)


@_overload(_steps.everywhere)
def _everywhere_of(condition):
    # Two more instructions are cheaper than a branch at every step.
    return lambda condition: False


@_overload(_steps.magnitude)
def _magnitude_of(value):
    return lambda value: abs(value)


@_overload(_steps.conj)
def _conj_of(value):
    if isinstance(value, types.Complex):
        return lambda value: _steps.constant(complex(value.real, -value.imag), value)
    return lambda value: value


@_overload(_steps.is_single)
def _is_single_of(value):
    answer = value == types.float32
    return lambda value: answer


@intrinsic
def _rounded(typingctx, value):
    def codegen(context, builder, signature, args):
        kind = args[0].type
        letter, bits = ("f", "f32") if kind == _F32 else ("d", "f64")
        # The compiler takes no llvm.rint.
        word = ir.FunctionType(kind, [kind])
        assembly = ir.InlineAsm(word, f"cvt.rni.{bits}.{bits} $0, $1;", f"={letter},{letter}", side_effect=False)
        return builder.call(assembly, args)

    return value(value), codegen


@_overload(_steps.nearest)
def _nearest_of(value):
    return lambda value: _rounded(value)


@intrinsic
def _raised(typingctx, n):
    def codegen(context, builder, signature, args):
        kind = args[0].type
        integer, mantissa, bias = (_I32, 23, 127) if kind == _F32 else (_I64, 52, 1023)
        # Added to 1.5 times two to the mantissa's width, a whole number stands in the lowest bits.
        bits = builder.bitcast(builder.fadd(args[0], ir.Constant(kind, 1.5 * 2.0**mantissa)), integer)
        exponent = builder.add(bits, ir.Constant(integer, bias))
        return builder.bitcast(builder.shl(exponent, ir.Constant(integer, mantissa)), kind)

    return n(n), codegen


@_overload(_steps.power_of_two)
def _power_of_two_of(n):
    return lambda n: _raised(n)


# ---- The device -----------------------------------------------------------------------------------------------------


@_overload(_device.thread)
def _thread_of():
    return lambda: cuda.threadIdx.x


@_overload(_device.block)
def _block_of():
    return lambda: cuda.blockIdx.x


@_overload(_device.block_row)
def _block_row_of():
    return lambda: cuda.blockIdx.y


@_overload(_device.block_threads)
def _block_threads_of():
    return lambda: cuda.blockDim.x


@_overload(_device.barrier)
def _barrier_of():
    return lambda: cuda.syncthreads()


@_overload(_device.shuffle)
def _shuffle_of(value, lane):
    return lambda value, lane: cuda.shfl_sync(0xFFFFFFFF, value, lane)


@_overload(_device.ballot)
def _ballot_of(condition):
    return lambda condition: cuda.ballot_sync(0xFFFFFFFF, condition)


@_overload(_device.highest)
def _highest_of(bits):
    return lambda bits: 31 - cuda.clz(_int32(bits))


@intrinsic
def _quotient(typingctx, a, b):
    def codegen(context, builder, signature, args):
        return builder.udiv(*args)

    return types.int32(types.int32, types.int32), codegen


@_overload(_device.divide)
def _divide_of(a, b):
    return lambda a, b: _quotient(a, b)


@intrinsic
def _int32(typingctx, number):
    def codegen(context, builder, signature, args):
        return args[0] if number.bitwidth == 32 else builder.trunc(args[0], _I32)

    return types.int32(types.Integer.from_bitwidth(number.bitwidth)), codegen


@_overload(_device.narrow)
def _narrow_of(number):
    return lambda number: _int32(number)


@_overload(_device.is_null)
def _is_null_of(pointer):
    if _is_pointer(pointer):
        return lambda pointer: _address(pointer) == 0
    return lambda pointer: False


@_overload(_device.shift)
def _shift_of(pointer, offset):
    if _is_pointer(pointer):
        return lambda pointer, offset: _shift(pointer, offset)
    return lambda pointer, offset: pointer


@_overload(_device.load)
def _load_of(pointer, offset, like):
    if _is_pointer(pointer):
        return lambda pointer, offset, like: _load(pointer, offset, like)
    return lambda pointer, offset, like: pointer


@_overload(_device.load_raw)
def _load_raw_of(pointer, offset, like):
    if not _is_pointer(pointer):
        return lambda pointer, offset, like: pointer
    if _is_small(pointer) and not isinstance(like, types.Complex):
        return lambda pointer, offset, like: _load_word(pointer, offset)
    return lambda pointer, offset, like: _load(pointer, offset, like)


@_overload(_device.unpack)
def _unpack_of(pointer, raw, like):
    if isinstance(like, types.Complex) or not _is_pointer(pointer):
        return lambda pointer, raw, like: raw
    if _is_small(pointer):
        return lambda pointer, raw, like: _widened(pointer, _opaque(raw), like)
    return lambda pointer, raw, like: _opaque(raw)


@_overload(_device.anew)
def _anew_of(value):
    return lambda value: _opaque(value)


@_overload(_device.store)
def _store_of(pointer, offset, value):
    return lambda pointer, offset, value: _store(pointer, offset, value)


@_overload(_device.load_int)
def _load_int_of(pointer, offset):
    return lambda pointer, offset: _load_int(pointer, offset)


@_overload(_device.misalignment)
def _misalignment_of(pointer):
    return lambda pointer: _address(pointer) & 15


@_overload(_device.load_wide)
def _load_wide_of(pointer, offset, like):
    return lambda pointer, offset, like: _load_wide(pointer, offset, like)


@_overload(_device.store_wide)
def _store_wide_of(pointer, offset, values):
    return lambda pointer, offset, values: _store_wide(pointer, offset, values)


@_overload(_device.store_status)
def _store_status_of(pointer, offset, value):
    return lambda pointer, offset, value: _store_status(pointer, offset, value)


@_overload(_device.load_status)
def _load_status_of(pointer, offset, like):
    return lambda pointer, offset, like: _load_status(pointer, offset, like)


@_overload(_device.take_ticket)
def _take_ticket_of(pointer):
    return lambda pointer: _take_ticket(pointer)


@_overload(_device.nap)
def _nap_of():
    return lambda: _nap()


@_overload(_device.trap)
def _trap_of():
    return lambda: _trap()


_CONSIDERED = set()


def _consider(function):
    """Let compiled code call a plain function."""
    if function not in _CONSIDERED:
        _CONSIDERED.add(function)
        _overload(function, strict=False)(lambda *arguments: function)


for _function in (
    _steps.forget_wide,
    _steps.forget_finite,
    _steps.is_finite,
    _steps.forget_same,
    _steps.forget_adjoint,
    _steps.forget_decay,
    _steps.linear,
    _steps.linear_adjoint,
    _steps.linear_decay,
    _pooling.exponential,
    _pooling.sigmoid,
    _pooling.tanh,
    _pooling.pool,
    _pooling.pool_adjoint,
    _pooling.put_out,
    _pooling.put_out_adjoint,
):
    _consider(_function)


def ptx(function, signature, threads, blocks, capability):
    """Return a kernel's PTX.

    Parameters
    ----------
    function : callable
        A kernel in the words of `_device`.
    signature : sequence of str
        For each plain parameter, as `_operands.group` has them, an element's name with a star (an address), a carry's
        name (a number) or ``i4``, ``i8``.
    threads, blocks : int
        The size of a block, and how many a multiprocessor should hold: without these the assembler saves registers by
        using each value before the next is asked for, which undoes the batches of loads.
    capability : tuple of int
        What to compile for: `Kernel.target` of `_launch`, not the card's own.
    """
    kinds = iter([_argument(name, capability >= (8, 0)) for name in signature])
    arguments = []
    for name in inspect.signature(function).parameters:
        group, fields = _operands.group(name)
        given = tuple(next(kinds) for _ in fields)
        arguments.append(given[0] if group is None else types.BaseTuple.from_types(given, group))
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

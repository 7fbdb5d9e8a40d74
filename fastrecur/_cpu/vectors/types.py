"""The types of kernels' arguments and numbers; how a primitive is declared, compiled and as Python for tests.

A kernel's arguments are addresses and integers. Its signature names the element type behind each address, so one
kernel serves every dtype, every layout and read-only data, and a call costs no array unboxing. Offsets between rows
and lanes are bytes (`shift`); the index of `load` and `store` counts elements. Values are converted on the way:
kernels compute in the *carry* type only.

With ``NUMBA_DISABLE_JIT=1`` the primitives work on addresses in the interpreter, so kernels can be traced.
"""

import ctypes
import inspect
from collections import namedtuple

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.extending import NativeValue, intrinsic, models, register_model, unbox

from ..._plan.widths import OCTET, WIDTH
from .processor import has, is_interpreted

INTERPRETED = is_interpreted()
BITS = np.dtype([("bfloat16", np.uint16)])  # of a bfloat16, for the interpreter: NumPy has none of its own

I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
NOTHING = ir.Constant(I8.as_pointer(), None)  # what Numba takes for None, and for types that are all that is known

# Element name -> (bytes, LLVM type in memory, class). The names are NumPy's, plus bf2 for bfloat16.
ELEMENTS = {
    "f2": (2, I16, "float"),
    "bf2": (2, I16, "float"),
    "f4": (4, F32, "float"),
    "f8": (8, F64, "float"),
    "c8": (8, F32, "complex"),
    "c16": (16, F64, "complex"),
    "b1": (1, I8, "unsigned"),
    **{f"i{n}": (n, ir.IntType(8 * n), "signed") for n in (1, 2, 4, 8)},
    **{f"u{n}": (n, ir.IntType(8 * n), "unsigned") for n in (1, 2, 4, 8)},
}

# LLVM lowers half <-> float to one instruction, or to a library call that may not exist at run time.
HARDWARE_HALF = has("f16c") or (has() and binding.get_process_triple().startswith(("aarch64", "arm64")))
HAS_AVX = has("avx")
HAS_MASKS = has("avx512f")  # a bit for each lane, in a register of its own


class Pointer(types.Type):
    """An address of elements of one type; unboxed from a Python int. A carry says how many ``lanes`` vectors have."""

    def __init__(self, element, lanes=None):
        self.element, self.lanes = element, lanes
        self.size, self.memory, self.category = ELEMENTS[element]
        self.is_complex = self.category == "complex"
        super().__init__(name=f"fastrecur.Pointer({element}, {lanes})")

    @property
    def value(self):
        """The Numba type of an element when this is a carry."""
        return {"f4": types.float32, "f8": types.float64, "c16": types.complex128, "i8": types.int64}[self.element]

    @property
    def vector(self):
        return Vector(self.value, self.lanes)


class Rule(types.Type):
    """Which recurrence a kernel computes: a type, so that it is fixed when the kernel is compiled."""

    def __init__(self, rule):
        self.rule = rule
        super().__init__(name=f"fastrecur.Rule({rule})")


class Vector(types.Type):
    """Neighbouring lanes in the carry type, computed on together; of complex ones all real parts, then the others."""

    def __init__(self, element, count=None):
        self.element, self.count = element, count or (OCTET if element == types.complex128 else WIDTH)
        self.is_complex = element == types.complex128
        super().__init__(name=f"fastrecur.Vector({element} x {count})")

    @property
    def mask(self):
        """The type of a comparison of two; complex numbers are compared by their real parts, for both parts."""
        return Mask(types.float64, 2 * self.count) if self.is_complex else Mask(self.element, self.count)


class Mask(types.Type):
    """The truth of a comparison of two vectors: integers as wide as the numbers, all ones or all zeros.

    Bits would be packed and unpacked again wherever the compiler keeps them in memory.
    """

    def __init__(self, element, count):
        self.element, self.count = element, count
        super().__init__(name=f"fastrecur.Mask({element} x {count})")


def llvm_type(kind):
    """Return what a value of one of these types is in compiled code."""
    if isinstance(kind, Pointer):
        return I8.as_pointer()
    if isinstance(kind, Mask):
        return ir.VectorType(ir.IntType(kind.element.bitwidth), kind.count)
    return ir.VectorType(F32 if kind.element == types.float32 else F64, kind.count * (1 + kind.is_complex))


@register_model(Vector)
@register_model(Mask)
@register_model(Pointer)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, llvm_type(fe_type))


register_model(Rule)(models.OpaqueModel)


# What follows is only for a wrapper that Python calls, which a Numba without `no_cpython_wrapper` compiles.
@unbox(Pointer)
def _unbox_pointer(typ, obj, c):
    return NativeValue(c.pyapi.long_as_voidptr(obj), is_error=c.pyapi.c_api_error())


@unbox(Rule)
def _unbox_rule(typ, obj, c):
    return NativeValue(NOTHING)


class Address:
    """A `Pointer` for the interpreter: an address, its element's NumPy dtype, and whatever must stay alive."""

    def __init__(self, address, dtype, keep=None, lanes=None):
        self.address, self.dtype, self.keep, self.lanes = address, np.dtype(dtype), keep, lanes

    def at(self, index):
        size = self.dtype.itemsize
        memory = (ctypes.c_char * size).from_address(self.address + int(index) * size)
        return np.frombuffer(memory, self.dtype)

    def read(self, index, dtype):
        """Return a number in a dtype."""
        found = self.at(index)
        if self.dtype == BITS:
            found = (found["bfloat16"].astype(np.uint32) << 16).view(np.float32)
        return found.astype(dtype)[0]

    def write(self, index, value):
        """Write a number, rounded to the nearest; of two, to the even one."""
        if self.dtype == BITS:
            bits = int(np.float32(value).view(np.uint32))
            is_nan = value != value
            value = (bits | 0x400000 if is_nan else bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        self.at(index)[0] = value


# Where a primitive's instructions are written: LLVM's builder, and the types of arguments and result.
Emitter = namedtuple("Emitter", "builder kinds result")


def writer(result, emit, literal=False):
    """Return a primitive as `numba.extending.intrinsic` takes it.

    ``result`` is the type of what it returns, or a function of the arguments' types that returns it, or None for types
    that the primitive does not take. ``emit(emitter, *values)`` writes the instructions. If ``literal``, the last
    argument is a number that is known when a kernel is compiled, and comes as that.
    """

    def compiled(typingctx, *kinds):
        returned = result if isinstance(result, types.Type) else result(*kinds)
        if returned is None or (literal and not isinstance(kinds[-1], types.IntegerLiteral)):
            return None

        def codegen(context, builder, signature, args):
            if literal:
                args = (*args[:-1], kinds[-1].literal_value)
            value = emit(Emitter(builder, kinds, returned), *args)
            return NOTHING if returned == types.none else value

        known = kinds[-1:] if literal else ()
        formals = [types.int64 if isinstance(k, types.Integer) else k for k in kinds[: len(kinds) - len(known)]]
        return returned(*formals, *known), codegen

    return compiled


def primitive(result, emit, literal=False):
    """Return a decorator of a primitive as Python: it stays that if kernels are not compiled. See `writer`."""

    def declare(twin):
        if INTERPRETED:
            return twin
        compiled = writer(result, emit, literal)
        context = inspect.Parameter("typingctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        compiled.__signature__ = inspect.Signature([context, *inspect.signature(twin).parameters.values()])
        return intrinsic(prefer_literal=literal)(compiled)

    return declare


def first(kind, *others):
    """Return the type of the first argument: for a primitive that returns one like it."""
    return kind


def constant_of(value, type_=I64):
    """Return an emitter's function of a primitive whose value is known when a kernel is compiled.

    ``value`` is a function of the arguments' types.
    """
    return lambda emitter, *args: ir.Constant(type_, int(value(*emitter.kinds)))

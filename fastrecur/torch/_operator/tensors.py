"""Run a problem on plain CPU tensors, by addresses alone: the inside of an operator, of which nothing is recorded."""

import functools
import math
from collections import namedtuple

import numpy as np
import torch

from ..._arguments import checks, shapes
from ..._arguments.arrays import BFLOAT16, address
from ..._arguments.checks import Segments
from ..._cpu import run as _run
from ..._cpu.machine import allocate as _allocate, memory_pool
from ..._plan import layout as _layout, problem, segments
from ..._plan.problem import FORGET
from . import team

NAMES = {problem.FORGET: ("f", "x", "h0"), problem.LINEAR: ("a", "b", "h0")}

FLOATING = {getattr(torch, n): np.dtype(n) for n in ("float16", "float32", "float64")} | {torch.bfloat16: BFLOAT16}
COMPLEX = {torch.complex64: np.dtype("c8"), torch.complex128: np.dtype("c16")}
WIDE = dict.fromkeys(FLOATING, torch.float64) | dict.fromkeys(COMPLEX, torch.complex128)  # as in `problem`
WIDE |= dict.fromkeys((torch.float16, torch.bfloat16), torch.float32)
REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}
INTEGERS = {
    getattr(torch, name): np.dtype(name)
    for name in ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
}
DTYPES = {**FLOATING, **COMPLEX, **INTEGERS}

KEPT = 4 << 20  # bytes of results that stand in the pool's memory; the C library keeps that of smaller ones itself


class Form(namedtuple("Form", "dtype shape strides")):
    """What a plan depends on of an operand: all of one whose values the gradient does not need."""

    def stride(self):
        return self.strides


def form(value):
    """Return an operand's form; one number for all of its kind; None for None."""
    if value is None or is_number(value):
        return value if value is None else 1j if type(value) is complex else 0.0
    return Form(value.dtype, value.shape, value.stride())


@functools.cache
def _has_float64(kind):
    if kind == "xpu" and torch.xpu.is_available():
        return bool(torch.xpu.get_device_properties().has_fp64)
    return kind != "mps"


def wide(dtype, device):
    """Return what states are carried in, on a device: without float64 float32 is carried as it is."""
    return WIDE[dtype] if dtype.itemsize < 4 or _has_float64(device.type) else dtype


def reads(family, wanted):
    """Return whether the gradients of a, b and h0 that are ``wanted`` need the values of b and of h."""
    return wanted[0] and family == FORGET, wanted[0]


def is_number(value):
    """Return whether an operand is a Python number, not a tensor."""
    return type(value) is float or type(value) is int or type(value) is complex or type(value) is bool


def result_shape(family, a, b):
    return shapes.broadcast_shape(NAMES[family][:2], [() if is_number(v) else tuple(v.shape) for v in (a, b)])


def _signature(value):
    """Return what a plan depends on, in NumPy's terms."""
    if value is None or is_number(value):
        return complex if type(value) is complex else None
    dtype = DTYPES[value.dtype]
    return dtype, tuple(value.shape), tuple(dtype.itemsize * stride for stride in value.stride())


def _state_signature(state, borders):
    """Return the same for states: without a shape where it has been checked, as there are some for each segment."""
    if state is None or is_number(state):
        return problem.state_number(state)
    dtype, shape, _ = _signature(state)
    return dtype, () if borders[0] else shape


def layout(shape, *prototypes):
    """Return the strides of a fresh result, in elements: those of torch's own operators."""
    # They follow the first prototype of the result's shape that is not expanded.
    found = next((tensor for tensor in prototypes if is_full(tensor, shape)), None)
    return _layout_like(tuple(shape), None if found is None else found.stride())


@functools.lru_cache(maxsize=1024)
def _layout_like(shape, strides):
    meta = torch.empty(shape, device="meta")
    return (meta if strides is None else torch.empty_like(meta.as_strided(shape, strides))).stride()


def is_full(tensor, shape):
    """Return whether a tensor has a shape without being expanded to it."""
    return tensor.shape == shape and not any(
        n > 1 and stride == 0 for n, stride in zip(shape, tensor.stride(), strict=True)
    )


@functools.lru_cache(maxsize=1024)
def _plan_forward(family, a, b, h0, out, ends, axis, reverse, dtype):
    """Return the plan of a forward run of forms, and the strides of a fresh result, in elements."""
    shape, (lengths_shape, borders) = result_shape(family, a, b), ends
    strides = layout(shape, *(v for v in (b, a) if not is_number(v))) if out is None else out.stride()
    to = DTYPES[dtype], shape if out is None else tuple(out.shape), tuple(dtype.itemsize * n for n in strides)
    plan = problem.forward(
        family, NAMES[family], _signature(a), _signature(b), _state_signature(h0, borders), to, axis, reverse,
        lengths_shape, False, DTYPES[dtype], borders,
    )  # fmt: skip
    return plan, strides


@functools.lru_cache(maxsize=1024)
def _plan_vjp(family, operands, ends, axis, reverse, dtype, wanted):
    """Return the plan of a gradient run of forms, and the strides of fresh gradients (None: summed or unwanted)."""
    # They are those of the results' cotangents, a, b and h, and the first states and the last ones' cotangents.
    g, a, b, h, *states = operands
    shape, (lengths_shape, borders) = result_shape(family, a, b), ends
    layouts = tuple(
        None if is_number(v) or v.shape != shape else layout(shape, *(p for p in (v, h, g) if not is_number(p)))
        for v in (a, b)
    )
    sizes = [0 if s is None else gradient_dtype(v, dtype).itemsize for v, s in zip((a, b), layouts, strict=True)]
    plan = problem.vjp(
        family, ("grad_h", *NAMES[family][:2], "h"),
        (*map(_signature, operands[:4]), *(_state_signature(state, borders) for state in states)),
        axis, reverse, lengths_shape, False, DTYPES[dtype], wanted[:2], reads(family, wanted),
        tuple(s and tuple(n * size for n in s) for s, size in zip(layouts, sizes, strict=True)), borders,
    )  # fmt: skip
    return plan, layouts


def gradient_dtype(operand, dtype):
    """Return a gradient's dtype: its operand's own; the result's for numbers and integers."""
    if is_number(operand) or operand.dtype in INTEGERS:
        return dtype if type(operand) is complex else REAL.get(dtype, dtype)
    return operand.dtype


def empty(shape, strides, dtype):
    """Allocate a dense tensor; a large one where a dropped result was, or its first touch costs more than all."""
    # Without strides, in C order.
    nbytes = math.prod(shape) * dtype.itemsize
    strides = layout(shape) if strides is None else strides
    if nbytes < KEPT or not memory_pool.keeps(nbytes):
        return torch.empty_strided(shape, strides, dtype=dtype, device="cpu")
    flat = torch.frombuffer(_allocate.aligned((nbytes,), _allocate.BYTE), dtype=dtype)
    # No view of anything, or torch would refuse changes in place.
    return flat.as_strided(shape, strides).detach()


def empty_like(tensor, dtype=None):
    """Allocate what `torch.empty_like` would, where `empty` does."""
    return empty(tensor.shape, torch.empty_like(tensor, device="meta").stride(), dtype or tensor.dtype)


def numpy_of(tensor):
    """Return a tensor's numbers as NumPy's array, bfloat16 as bits; what is no tensor as it is."""
    if not isinstance(tensor, torch.Tensor):
        return tensor
    tensor = tensor.detach().resolve_conj().resolve_neg()
    return (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).numpy()


def _own(array, shape, dtype):
    """Return a wide array's numbers, summed to a shape, in a tensor of its own."""
    tensor = torch.from_numpy(array)
    if not dtype.is_complex and tensor.is_complex():
        tensor = tensor.real
    return torch.empty(shape, dtype=dtype, device="cpu").copy_(tensor.sum_to_size(shape))


_TENSORS = _run.Library(
    lambda v: address(v) if type(v) is np.ndarray else v.data_ptr(),
    lambda h, axis: (h.movedim(axis, 0), h.new_empty),
    lambda states, given: (
        np.copyto(states, given, "unsafe")
        if is_number(given) and type(states) is np.ndarray
        else torch.as_tensor(states).copy_(torch.as_tensor(given))
    ),
    lambda total, dtype: np.asarray(total),
    team.team,
)

_WHOLE = None, ("", None)  # a plan's lengths and borders without any


def _ends(family, a, b, axis, reverse, lengths):
    """Return where series begin anew, checked, or None; lengths; and what a plan depends on of both."""
    if type(lengths) is not Segments:
        return None, lengths, _WHOLE if lengths is None else (tuple(lengths.shape), ("", None))
    cuts = segments.check(NAMES[family][:2], _signature(a), _signature(b), {}, axis, reverse, lengths)
    return cuts, cuts.lengths, (None if cuts.lengths is None else cuts.lengths.shape, cuts.signature)


def _in_range(lengths, plan):
    """Return lengths as contiguous int64; raise unless they are in range. None, or what was checked, as it is."""
    return checks.lengths_in_range(lengths.numpy(), plan.steps) if isinstance(lengths, torch.Tensor) else lengths


def forward(family, a, b, h0, lengths, axis, reverse, dtype, return_state, out=None):
    """Run a recurrence; return the states and, if asked for, the last one."""
    cuts, lengths, ends = _ends(family, a, b, axis, reverse, lengths)
    plan, strides = _plan_forward(family, *map(form, (a, b, h0, out)), ends, axis, reverse, dtype)
    h = empty(plan.shape, strides, dtype) if out is None else out
    _, last = _run.forward(plan, a, b, h0, _in_range(lengths, plan), h, return_state, cuts, _TENSORS)
    if not return_state or isinstance(last, torch.Tensor):
        return h, last if return_state else None
    return h, _own(last, last.shape, dtype)


def vjp(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, wanted):
    """Run a recurrence's adjoint; return the gradients of a, b and h0 that are wanted, None for the others."""
    # What is not read (see `reads`) may be None, for b a `Form`. ``g`` may be None too: zeros.
    cuts, lengths, ends = _ends(family, a, b, axis, reverse, lengths)
    if g is None:
        g = torch.zeros((), dtype=dtype, device="cpu").expand(result_shape(family, a, b))
    h = g if h is None else h
    forms = tuple(map(form, (g, a, b, h, h0, grad_last)))
    plan, layouts = _plan_vjp(family, forms, ends, axis, reverse, dtype, wanted)
    results = [
        empty(plan.shape, strides, gradient_dtype(v, dtype)) if is_wanted and strides is not None else None
        for v, is_wanted, strides in zip((a, b), wanted, layouts, strict=False)
    ]
    read = (v if is_read else g for v, is_read in zip((b, h), reads(family, wanted), strict=True))
    lengths = _in_range(lengths, plan)
    *grads, carry = _run.vjp(plan, g, a, *read, h0, grad_last, lengths, cuts, results, _TENSORS)
    return tuple(
        _own(grad, () if is_number(v) else v.shape, gradient_dtype(v, dtype)) if type(grad) is np.ndarray else grad
        for grad, v in zip((*grads, carry if wanted[2] else None), (a, b, h0), strict=True)
    )


def summary(family, a, b, start, lengths, axis, reverse, dtype, back):
    """Return what steps multiply a state by, and what becomes of ``start`` (None: zeros), in the carry's dtype."""
    # With ``back``, ``b`` holds cotangents of the states, and states are what flows on from them against time.
    lengths_shape = None if lengths is None else tuple(lengths.shape)
    plan = problem.summary(
        family, NAMES[family][:2], _signature(a), _signature(b), axis, reverse, lengths_shape, DTYPES[dtype]
    )
    lengths = plan.full_lengths if lengths is None else _in_range(lengths, plan)
    carry, products = (_run.states_of(plan, state, library=_TENSORS) for state in (start, 1.0))
    if plan.traversal != "empty":
        direction = "summary back" if back else "summary"
        places = a.data_ptr(), b.data_ptr(), address(carry), address(products), address(lengths)
        _run.summary_at(plan, direction, *places, team.team())
    return torch.from_numpy(products), torch.from_numpy(carry)


def short_forward(family, a, b, h0, lengths, axis, reverse, dtype, return_state):
    """Return a function for a short run of a kind, of a, b, h0 and lengths; None if it is not short."""
    ends = _WHOLE if lengths is None else (tuple(lengths.shape), _WHOLE[1])
    plan, strides = _plan_forward(family, *map(form, (a, b, h0)), None, ends, axis, reverse, dtype)
    if not _run.is_short(plan) or not plan.carry_c_order:
        return None
    has_states, has_lengths = h0 is not None or return_state, lengths is not None
    given = _layout.A, _layout.B, _layout.H, *[_layout.CARRY] * has_states, *[_layout.LENGTHS] * has_lengths
    call, number, wide = _run.short_call(plan, "forward", given), is_number(a), plan.wide
    allocate = _allocator(b, plan.shape, strides, dtype)
    converts = wide != np.float64  # a number; of float64 it is read where Python has it

    def run(a, b, _h0=None, _lengths=None):
        at_b, at_a = b.data_ptr(), a
        if not number:
            at_a = a.data_ptr()
        elif converts:
            at_a = _run.as_array(a, wide)
        h = allocate(b)
        call(at_a, at_b, h.data_ptr())
        return h

    lane_shape, carried, steps = plan.lane_shape, WIDE[dtype], plan.steps

    def run_with_ends(a, b, h0=None, lengths=None):
        places = []
        if has_states:
            carry = _first_states(h0, lane_shape, carried)
            places.append(carry.data_ptr())
        if has_lengths:
            lengths = checks.lengths_in_range(lengths.numpy(), steps)
            places.append(address(lengths))
        at_a = a.data_ptr() if not number else _run.as_array(a, wide) if converts else a
        h = allocate(b)
        call(at_a, b.data_ptr(), h.data_ptr(), *places)
        return (h, carry if carried is dtype else carry.to(dtype)) if return_state else h

    return run_with_ends if has_states or has_lengths else run


def _first_states(h0, shape, dtype):
    """Return states to be carried on, of a first one or of zeros."""
    if h0 is None:
        return torch.zeros(shape, dtype=dtype, device="cpu")
    carry = torch.empty(shape, dtype=dtype, device="cpu")
    if type(h0) is not float:
        return carry.copy_(h0.detach())
    # Beyond float32 a number is infinite; torch would raise.
    return carry.fill_(h0 if dtype is torch.float64 else float(_run.as_array(h0, np.float32)))


def _allocator(like, shape, strides, dtype):
    """Return the quickest way to a fresh tensor for a short run, given an operand of its form."""
    if isinstance(like, torch.Tensor) and (like.dtype, like.size(), like.stride()) == (dtype, shape, strides):
        return torch.empty_like
    return lambda _: torch.empty_strided(shape, strides, dtype=dtype, device="cpu")


def short_vjp(family, g, a, b, h, axis, reverse, dtype, wanted):
    """Return a function of g, a, b and h alone for a short run of their kind; None if it is not short."""
    want_a, want_b, *_ = wanted
    wanted = want_a, want_b, False
    forms = *map(form, (g, a, b, g if h is None else h)), None, None
    plan, layouts = _plan_vjp(family, forms, _WHOLE, axis, reverse, dtype, wanted)
    if not _run.is_short(plan) or not plan.carry_c_order:
        return None
    make_a, to_a, own_a = _maker(a, plan, 0, layouts[0], dtype)
    make_b, to_b, own_b = _maker(b, plan, 1, layouts[1], dtype)
    number, wide = is_number(a), plan.wide
    reads_b, reads_h = reads(family, wanted)
    to = [place for place, is_wanted in ((to_a, want_a), (to_b, want_b)) if is_wanted]
    call = _run.short_call(plan, "vjp", (_layout.G, _layout.A, _layout.B, _layout.H, *to))

    def run(g, a, b, h):
        at_g = g.data_ptr()  # also in place of what is not there, which would not be read for a result
        at_b, at_h = b.data_ptr() if reads_b else at_g, h.data_ptr() if reads_h else at_g
        at_a = _run.as_array(a, wide) if number else a.data_ptr()
        grad_a = make_a(a) if want_a else None
        grad_b = make_b(b) if want_b else None
        if want_a and want_b:
            call(at_g, at_a, at_b, at_h, grad_a.data_ptr(), grad_b.data_ptr())
        else:
            call(at_g, at_a, at_b, at_h, (grad_a if want_a else grad_b).data_ptr())
        # What is summed is so in the carry's dtype.
        return grad_a if own_a is None else grad_a.to(own_a), grad_b if own_b is None else grad_b.to(own_b)

    return run


def _maker(operand, plan, k, strides, dtype):
    """Return how a short run makes an operand's gradient: where from, as what a kernel takes it, and its dtype."""
    # The last is None where the gradient has it already.
    if plan.gradients[k] is None:
        return None, None, None
    own = gradient_dtype(operand, dtype)
    to, sums = ((_layout.TO_A, _layout.SUMS_A), (_layout.TO_B, _layout.SUMS_B))[k]
    if plan.gradients[k][2] is not None:
        return _allocator(None if type(operand) is Form else operand, plan.shape, strides, own), to, None
    shape, wide = operand.shape, WIDE[dtype]
    return lambda _: torch.zeros(shape, dtype=wide, device="cpu"), sums, None if own == wide else own

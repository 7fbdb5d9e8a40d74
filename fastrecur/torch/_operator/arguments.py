"""What a call takes: tensors and numbers, checked; the dtype and the shape of its result."""

import numpy as np
import torch

from ..._arguments import arrays, checks, messages as say, shapes as _shapes
from ..._plan import problem
from ..._plan.problem import FORGET
from . import tensors as _tensors
from .modes import PLAIN
from .tensors import is_number as _is_number, numpy_of


def is_complex(value):
    """Return whether an operand, a tensor or a number, is complex."""
    return type(value) is complex or (not _is_number(value) and value.is_complex())


def take_call(family, names, a, b, h0, out, axis, reverse, lengths, return_state):
    """Return a forward call's arguments, checked but for what a state or ``out`` must fit."""
    # They are a, b, h0, out, axis, reverse, lengths and return_state; and the result's dtype and shape.
    a, b, h0, out = take((*names, "out"), a, b, h0, out)
    axis, reverse = checks.axis(axis), checks.flag("reverse", reverse)
    return_state = checks.flag("return_state", return_state)
    check_gate(family, names[0], a)
    dtype = result_dtype(names, a, b, h0)
    shape, axis = shape_and_axis(names[:2], a, b, axis)
    lengths = ends(lengths, shape, axis, (a, b))
    return a, b, h0, out, axis, reverse, lengths, return_state, dtype, shape


def take(names, *values):
    """Return operands as tensors and Python numbers; raise for anything else."""
    taken, tensors = [], [(n, v) for n, v in zip(names, values, strict=True) if isinstance(v, torch.Tensor)]
    for name, value in zip(names, values, strict=True):
        if isinstance(value, torch.Tensor):
            check_tensor(name, value)
        elif isinstance(value, np.generic) and name != "out":
            value = value.item()  # as torch takes them
        elif value is None:
            if name not in ("h0", "out", "grad_state"):
                raise TypeError(say.not_an_array(name, type(None)))
        elif name == "out":
            raise TypeError(say.out_type(type(value)))
        elif not _is_number(value):
            value = _take_number(name, value, tensors)
        if type(value) is int and not -(1 << 63) <= value < 1 << 63:
            raise ValueError(say.too_large(name, "int64 or float64", 63))
        taken.append(value)
    if not tensors:
        raise TypeError(say.no_tensor())
    placed = [(name, value.device) for name, value in tensors if value.dim() or not value.is_cpu]  # or it is a number
    for name, device in placed:
        if device != placed[0][1]:
            raise ValueError(say.devices(*placed[0], name, device))
    return taken


def _take_number(name, value, tensors):
    for number in (bool, int, float, complex):
        if isinstance(value, number):
            return number(value)
    if torch.compiler.is_compiling() and isinstance(value, (torch.SymInt, torch.SymFloat)):
        return value
    library = arrays.library_of(value)
    raise TypeError(
        say.mixed([(name, library), *((of, "torch") for of, _ in tensors[:1])])
        if library
        else say.not_a_tensor(name, type(value))
    )


def check_tensor(name, tensor):
    # Newer versions of torch have no names, and the compilers of older ones do not take any.
    names = getattr(tensor, "names", ()) if type(tensor) in PLAIN and not torch.compiler.is_compiling() else ()
    kind = (
        "a nested one" if tensor.is_nested
        else "a quantized one" if tensor.is_quantized
        else f"layout {tensor.layout}" if tensor.layout is not torch.strided
        else "a named one" if any(names) else None
    )  # fmt: skip
    if kind is not None:
        raise TypeError(say.layout(name, kind))
    if tensor.dtype not in _tensors.DTYPES:
        raise TypeError(say.dtype(name, tensor.dtype))


def check_gate(family, name, gate):
    if family == FORGET and is_complex(gate):
        raise TypeError(say.complex_gate(name, "complex" if _is_number(gate) else gate.dtype))


def result_dtype(names, *operands):
    """Return the dtype of a result: torch's promotion, integers alone to its default dtype."""
    full, scalar, number, default = None, None, None, torch.get_default_dtype()
    for value in operands:
        if _is_number(value):
            own = _COMPLEX[default] if type(value) is complex else default if type(value) is float else torch.int64
            number = own if number is None or not number.is_complex and own is not torch.int64 else number
        elif value is not None and value.dim():
            full = _promote(full, value.dtype)
        elif value is not None:
            scalar = _promote(scalar, value.dtype)
    dtype = _combine(_combine(full, scalar), number)
    dtype = default if dtype in _tensors.INTEGERS else torch.complex64 if dtype is torch.complex32 else dtype
    if dtype not in _FLOATS:
        given = [(name, v) for name, v in zip(names, operands, strict=True) if v is not None]
        raise TypeError(say.promotion([(name, type(v).__name__ if _is_number(v) else v.dtype) for name, v in given]))
    return dtype


_COMPLEX = {real: own for own, real in _tensors.REAL.items()} | {torch.float16: torch.complex64}
_COMPLEX[torch.bfloat16] = torch.complex64
_FLOATS = _tensors.FLOATING | _tensors.COMPLEX


def _combine(higher, lower):
    """Return the dtype of operands with dimensions and of such as have none, or of these and of numbers."""
    if higher is None or lower is None or lower in _tensors.INTEGERS:
        return lower if higher is None else higher
    if higher in _tensors.INTEGERS:
        return lower
    return _COMPLEX[higher] if lower.is_complex and not higher.is_complex else higher


def _promote(one, other):
    """Return torch.promote_types, of two integers any: exporters would take that for a part of the program."""
    if one is None or other is None or other in _tensors.INTEGERS:
        return other if one is None else one
    if one is not other and one not in _tensors.INTEGERS and one.itemsize == other.itemsize:
        return torch.float32 if one.itemsize == 2 else torch.complex128  # of float64 and complex64
    return other if one in _tensors.INTEGERS or one.itemsize < other.itemsize else one


def as_tensor(value, like):
    """Return a number as the tensor that stands for it beside others; a tensor and None as they are."""
    if not _is_number(value):
        return value
    dtype = torch.complex128 if type(value) is complex else torch.float64
    if torch.compiler.is_compiling() or type(like) in PLAIN:
        return torch.full((), value, dtype=dtype, device=like.device)
    return like.new_full((), value, dtype=dtype)  # of its own kind


def shape_and_axis(names, a, b, axis):
    """Return the result's shape, and axis counted from its front."""
    shapes = [() if _is_number(v) else v.shape for v in (a, b)]
    try:
        shape = torch.broadcast_shapes(*shapes)
    except RuntimeError:
        raise ValueError(say.broadcast(names, shapes, axis)) from None
    return shape, _shapes.normalise_axis(axis, shape, names)


def check_shapes(values, shape, lane_shape):
    """Raise unless tensors, by their names, broadcast to a result's shape, and states to that of its lanes."""
    shapes = {name: (None, value.shape) for name, value in values.items() if isinstance(value, torch.Tensor)}
    problem.check_shapes(shapes, shape, lane_shape)


def ends(given, shape, axis, operands):
    """Return what a call takes as lengths, with offsets and resets or without, as tensors that fit its operands."""
    # They may be on the CPU whatever the operands are.
    found = []
    for name, value in zip(_TAKE, checks.parts(given), strict=True):
        if value is not None:
            value = torch.as_tensor(value) if torch.compiler.is_compiling() else value  # NumPy's dtypes break a graph
            value = _TAKE[name](value, shape, axis)
            if not value.is_cpu and all(_is_number(v) or value.device != v.device for v in operands):
                raise ValueError(say.ends_device(name, value.device))
        found.append(value)
    return checks.split(*found)


def _offsets(offsets, _shape, _axis):
    if not isinstance(offsets, torch.Tensor):
        copy = checks.on_host("offsets", offsets).astype(np.int64)  # a backward pass reads it later
        return torch.from_numpy(copy)
    is_integer = offsets.dtype in _tensors.INTEGERS and offsets.dtype is not torch.bool
    if not is_integer or offsets.dim() != 1 or not offsets.shape[0]:
        raise (ValueError if is_integer else TypeError)(say.offsets_kind(offsets.dtype, offsets.shape))
    return offsets


def _resets(resets, shape, axis):
    if not isinstance(resets, torch.Tensor):
        resets = torch.from_numpy(checks.on_host("resets", resets).copy())  # a backward pass reads them later
    if resets.dtype is not torch.bool:
        raise TypeError(say.resets_dtype(resets.dtype))
    checks.resets_shape(resets.shape, shape, axis)
    return resets


def _lengths(lengths, shape, axis):
    if isinstance(lengths, (np.ndarray, np.generic)):
        lengths = torch.from_numpy(checks.lengths_in_range(checks.on_host("lengths", lengths), shape[axis]))
    elif not isinstance(lengths, torch.Tensor):
        try:
            lengths = torch.tensor(lengths, device="cpu")
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(say.lengths_dtype(f"{type(lengths).__name__} ({error})")) from None
        lengths = lengths if lengths.numel() else lengths.long()  # an empty list is one of floats
    if lengths.dtype not in _tensors.INTEGERS or lengths.dtype is torch.bool:
        raise TypeError(say.lengths_dtype(f"dtype {lengths.dtype}"))
    check_tensor("lengths", lengths)
    problem.check_lengths_shape(lengths.shape, shape[:axis] + shape[axis + 1 :])
    return lengths


_TAKE = {"lengths": _lengths, "offsets": _offsets, "resets": _resets}


def check_out(out, shape, dtype, operands):
    """Raise unless ``out`` may take the result, given what torch knows of it."""
    if torch.is_grad_enabled() and any(
        v.requires_grad for v in (out, *(v for _, v in operands)) if isinstance(v, torch.Tensor)
    ):
        raise RuntimeError(say.out_gradient())
    checks.out_form(out.shape, out.dtype, shape, dtype)


def check_overlap(out, operands, lengths):
    """Raise unless ``out`` is an operand's own memory, or none of it, and none of offsets' and resets'."""
    place, cuts = numpy_of(out), checks.parts(lengths)  # lengths are copied
    if arrays.overlaps_itself(place):
        raise ValueError(say.out_self_overlap())
    ends = ("offsets", cuts.offsets), ("resets", cuts.resets)
    checks.out_memory(
        place, *([(name, numpy_of(v)) for name, v in pairs if v is not out] for pairs in (operands, ends))
    )


def as_pairs(a, lengths, dtype, *others):
    """Return whether a call is complex with a real gate, and the call as it is run: of parts, then, on a last axis."""
    if not dtype.is_complex or is_complex(a):
        return False, a, lengths, dtype, *others
    like = next(v for v in (a, *others) if isinstance(v, torch.Tensor))
    pairs = (v if v is None else torch.view_as_real(as_tensor(v, like).to(dtype).resolve_conj()) for v in others)
    own = checks.parts(lengths).lengths
    if own is not None and not own.dim():
        lengths = lengths._replace(lengths=own.expand(2)) if type(lengths) is checks.Segments else own.expand(2)
    return True, a if _is_number(a) else a.unsqueeze(-1), lengths, _tensors.REAL[dtype], *pairs


def joined(pairs):
    """Return complex numbers of pairs: a view, but where a transform's batch stands behind them."""
    if pairs.stride(-1) == 1:
        return torch.view_as_complex(pairs)
    return torch.complex(pairs.select(-1, 0), pairs.select(-1, 1))

"""What ``torch.onnx.export`` makes of the recurrences: ONNX's Scan."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .._arguments import messages as say
from .._plan.problem import FORGET, LINEAR
from ._operator import ops
from ._rnn import ops as pool

__all__ = ["translations"]

_Carry: Any = None  # what a state may be, in onnxscript's words, once that is imported


def translations() -> dict[Any, Callable[..., Any]]:
    """Return how the recurrences are translated: the ``custom_translation_table`` of ``torch.onnx.export``.

    There is a function of onnxscript for each of the library's operators. ImportError without the packages onnxscript
    and onnx, which torch's exporter needs itself.

    Notes
    -----
    The model has one Scan for each recurrence, along `axis` and in its direction. 16 bits are carried in float32, as
    everywhere. Sequences may have any length and batch size if they are exported with dynamic shapes. ONNX's operators
    take no complex numbers.

    Examples
    --------
    >>> import torch
    >>> from fastrecur.torch import QRNN
    >>> from fastrecur.torch.onnx import translations
    >>> program = torch.onnx.export(
    ...     QRNN(3, 4).eval(), (torch.randn(5, 2, 3),), dynamo=True, verbose=False,
    ...     custom_translation_table=translations())  # doctest: +SKIP
    >>> program.save("qrnn.onnx")  # doctest: +SKIP
    """
    import onnxscript  # noqa: F401 -- to say at once what is missing

    recurrences = {ops.FORWARD[family]: _translation(family) for family in (FORGET, LINEAR)}
    return {**recurrences, pool.FORWARD: _write_pooling}


@functools.cache
def _scan() -> Any:
    """Return ``h[t] = a[t]*h[t-1] + b[t]`` as a function of onnxscript, which reads the text below."""
    global _Carry
    from onnxscript import DOUBLE, FLOAT, graph, opset18 as op, script, values

    _Carry = TypeVar("_Carry", FLOAT, DOUBLE)

    @script(values.Opset("fastrecur", 1), default_opset=op)
    def linear_scan(  # type: ignore[no-untyped-def] # inputs have no annotation, attributes have one
        h0, a, b, axes: Sequence[int], directions: Sequence[int], axis: Sequence[int], direction: Sequence[int]
    ) -> tuple[_Carry, _Carry]:
        @graph()
        def step(h, a_t, b_t):  # type: ignore[no-untyped-def]
            new = a_t * h + b_t
            out = op.Identity(new)
            return new, out

        last, states = op.Scan(
            h0, a, b, body=step, num_scan_inputs=2, scan_input_axes=axes, scan_input_directions=directions,
            scan_output_axes=axis, scan_output_directions=direction,
        )  # fmt: skip
        return states, last

    return linear_scan


def _refuse(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise TypeError(say.segments_library(name, "ONNX"))


# Parameters of these are the operators' own; onnxscript takes those with a default for attributes.


def _translation(family: str) -> Callable[..., Any]:
    """Return what writes a recurrence as ONNX's nodes."""

    def write(
        a: Any, b: Any, h0: Any = None, lengths: Any = None, offsets: Any = None, resets: Any = None, axis: int = 0,
        reverse: bool = False, dtype: int = 1,
    ) -> Any:  # fmt: skip
        _refuse(offsets=offsets, resets=resets)
        return _write(family, max(len(a.shape), len(b.shape)), a, b, h0, lengths, axis, reverse, dtype)

    return write


def _write_pooling(
    product: Any, c0: Any = None, mask: Any = None, scale: float = 1.0, batch_sizes: Any = None, offsets: Any = None,
    resets: Any = None, batch: int = 0, output_gate: bool = True, reverse: bool = False,
) -> Any:  # fmt: skip
    _refuse(offsets=offsets, resets=resets, batch_sizes=batch_sizes)
    from onnxscript import opset18 as op

    keep = op.CastLike(op.Constant(value_float=scale) if mask is None else mask, product)
    blocks = op.Reshape(product, op.Constant(value_ints=[0, 0, 2 + output_gate, -1]))
    z, f, *o = (op.Gather(blocks, op.Constant(value_int=k), axis=2) for k in range(2 + output_gate))
    dtype = (product if c0 is None else c0).dtype
    c, last = _write(FORGET, 3, op.Mul(op.Sigmoid(f), keep), op.Tanh(z), c0, None, 0, reverse, dtype)
    h = op.CastLike(op.Mul(op.Sigmoid(o[0]), c) if o else c, product)
    return h, last, op.CastLike(c, product) if o else op.Constant(value_floats=[])


def _write(
    family: str, rank: int, a: Any, b: Any, h0: Any, lengths: Any, axis: int, reverse: bool, dtype: int
) -> tuple[Any, Any]:
    import onnx_ir
    from onnxscript import opset18 as op

    kind = onnx_ir.DataType(dtype)
    carry = kind if kind.itemsize >= 4 else onnx_ir.DataType.FLOAT
    lanes = [k for k in range(rank) if k != axis]
    a, b = (op.Cast(value, to=carry) for value in (a, b))
    zero, one = (op.Cast(op.Constant(value_float=value), to=carry) for value in (0.0, 1.0))
    if family == FORGET:
        a, b = op.Sub(one, a), op.Mul(a, b)
    a = op.Expand(a, op.Shape(b))  # to what both broadcast to
    b = op.Expand(b, op.Shape(a))
    first = zero if h0 is None else op.Cast(h0, to=carry)
    if lanes:
        first = op.Expand(first, op.Gather(op.Shape(b), op.Constant(value_ints=lanes)))
    valid = None
    if lengths is not None:
        steps = op.Gather(op.Shape(b), op.Constant(value_int=axis))
        step = op.Range(op.Constant(value_int=0), steps, op.Constant(value_int=1))
        if lanes:
            step = op.Unsqueeze(step, op.Constant(value_ints=lanes))
        missing = sorted([axis, *lanes[len(lengths.shape) :]])
        lengths = op.Unsqueeze(op.Cast(lengths, to=onnx_ir.DataType.INT64), op.Constant(value_ints=missing))
        valid = op.Less(step, lengths)
        a, b = op.Where(valid, a, one), op.Where(valid, b, zero)
    way = [int(reverse)]
    h, last = _scan()(first, a, b, axes=[axis, axis], directions=way * 2, axis=[axis], direction=way)
    if valid is not None:
        h = op.Where(valid, h, zero)
    return op.Cast(h, to=kind), op.Cast(last, to=kind)

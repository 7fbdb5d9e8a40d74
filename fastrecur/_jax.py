"""JAX arrays, eager and traced: the recurrences as primitives of JAX's, with their derivatives, which XLA calls.

There are three: a recurrence, its tangent, which is a linear recurrence, and its adjoint. XLA calls the first and the
last (`_cpu/xla.py`). All operands have the result's axes, so that a batch is one more axis in front.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ._arguments import arrays as _arrays, checks, messages as say, shapes
from ._cpu import host, xla
from ._plan import problem

# Which operands a call may have behind the first ones, in this order.
FIRST, _LAST, SPLITS = "h0", "grad_state", ("lengths", "offsets", "resets")

# ---- What runs a call: the kernels for arrays in memory -------------------------------------------------------------


def _split(given: tuple[str, ...], values: Any, steps: int) -> tuple[dict[str, Any], Any]:
    """Return operands behind the first by name, and what kernels take as lengths; out of range is cut."""
    if not given:
        return {}, None
    named = dict(zip(given, values, strict=False))
    lengths, offsets, resets = (named.get(name) for name in SPLITS)
    if lengths is not None:
        lengths = lengths.clip(0, steps)
    if offsets is not None:
        offsets = np.maximum.accumulate(offsets.clip(0, steps)).astype(np.int64)
        offsets[0], offsets[-1] = 0, steps
    return named, checks.split(lengths, offsets, resets)


def _run_forward(operands: Any, results: Any, family: str, axis: int, reverse: bool, given: Any) -> None:
    a, b, *rest = operands
    h, last = results
    named, lengths = _split(given, rest, h.shape[axis])
    call = family, _FORWARD[family], a, b, named.get(FIRST), axis, reverse, lengths, True, h
    found = host.quick_forward(*call)
    last[...] = (host.forward(*call) if found is None else found)[1]


def _run_adjoint(operands: Any, results: Any, family: str, axis: int, reverse: bool, given: Any) -> None:
    g, a, b, h, *rest = operands
    named, lengths = _split(given, rest, h.shape[axis])
    h0, g_last = (named.get(name) for name in (FIRST, _LAST))
    call = family, _ADJOINT[family], g, a, b, h, h0, axis, reverse, lengths, g_last
    for result, own in zip(results, host.vjp(*call, results=results[:2]), strict=False):
        if own is not result:
            result[...] = own


_FORWARD = {problem.FORGET: ("f", "x", "h0"), problem.LINEAR: ("a", "b", "h0")}
_ADJOINT = {problem.FORGET: ("grad_h", "f", "x", "h"), problem.LINEAR: ("grad_h", "a", "b", "h")}


def _primitive(name: str, run: Any, results: Any) -> Primitive:
    """Return a primitive that XLA calls, and that ``run`` runs at once on arrays whose numbers are there."""
    own = Primitive(f"fastrecur_{name}")
    own.multiple_results = True
    xla.runs[name] = run
    own.def_abstract_eval(lambda *operands, **how: [jax.core.ShapedArray(*kind) for kind in results(*operands, **how)])

    @own.def_impl
    def at_once(*operands: Any, **how: Any) -> Any:
        devices = {device for v in operands if hasattr(v, "devices") for device in v.devices()}
        if any(device.platform != "cpu" for device in devices):
            raise TypeError(say.jax_device(next(iter(devices)).platform))
        if len(devices) > 1:
            raise TypeError(say.jax_sharded(len(devices)))
        made = [np.empty(*kind) for kind in results(*operands, **how)]
        xla.runs[name]([np.asarray(v) for v in operands], made, **how)
        return [jax.device_put(v, next(iter(devices), None)) for v in made]

    def lower(ctx: Any, *operands: Any, **how: Any) -> Any:
        return jax.ffi.ffi_lowering(_target())(ctx, *operands, call=repr((name, how)))

    def refuse(ctx: Any, *operands: Any, **how: Any) -> Any:
        raise TypeError(say.jax_device(" or ".join(ctx.module_context.platforms)))

    mlir.register_lowering(own, refuse)
    mlir.register_lowering(own, lower, platform="cpu")
    return own


@functools.cache
def _target() -> str:
    """Tell XLA what it calls, when it is first needed; return the name."""
    xla.check_version(jax.ffi.include_dir())
    jax.ffi.register_ffi_target("fastrecur", jax.ffi.pycapsule(xla.call), platform="cpu")
    return "fastrecur"


# ---- Primitives and their derivatives -------------------------------------------------------------------------------


def _states(shape: tuple[int, ...], axis: int, given: Any, rest: Any) -> tuple[int, ...]:
    series = shape[:axis] + shape[axis + 1 :]
    offsets = dict(zip(given, rest, strict=False)).get("offsets")
    return series if offsets is None else (offsets.shape[0] - 1, *series)


def _results(a: Any, b: Any, *rest: Any, axis: int, given: Any, **_: Any) -> Any:
    shape, dtype = jnp.broadcast_shapes(a.shape, b.shape), jnp.promote_types(a.dtype, b.dtype)
    return (shape, dtype), (_states(shape, axis, given, rest), dtype)


def _gradients(g: Any, a: Any, b: Any, h: Any, *rest: Any, given: Any, **_: Any) -> Any:
    return [(v.shape, v.dtype) for v in (a, b, *(v for name, v in zip(given, rest, strict=False) if name == FIRST))]


recurrence = _primitive("forward", _run_forward, _results)
adjoint = _primitive("adjoint", _run_adjoint, _gradients)
tangent = Primitive("fastrecur_tangent")
tangent.multiple_results = True


@tangent.def_abstract_eval
def _tangent_results(a: Any, b: Any, h: Any, *rest: Any, axis: int, given: Any, **_: Any) -> Any:
    return [jax.core.ShapedArray(shape, h.dtype) for shape in (h.shape, _states(h.shape, axis, given, rest))]


@tangent.def_impl
def _tangent(*operands: Any, family: str, axis: int, reverse: bool, given: Any, moved: Any) -> Any:
    """Return the tangents of results, of those of some operands, whose names are ``moved``."""
    (a, b, h), rest, own = operands[:3], operands[3 : 3 + len(given)], operands[3 + len(given) :]
    named, moves = dict(zip(given, rest, strict=True)), dict(zip(moved, own, strict=True))
    h0, lengths = named.pop(FIRST, None), named.get("lengths")
    if lengths is not None:  # nothing behind a series' end is met, by derivatives of this neither
        inside = _times(h, axis) < _ends(lengths, h.ndim, axis)
        a, b, h = (jnp.where(inside, v, 0) for v in (a, b, h))
    before, added, is_forget = _before(h, h0, axis, reverse, named), jnp.zeros_like(h), family == problem.FORGET
    if "a" in moves:
        added += moves["a"] * (b - before if is_forget else before)
    if "b" in moves:
        added += a * moves["b"] if is_forget else moves["b"]
    if FIRST in moves:
        named = {FIRST: moves[FIRST].astype(h.dtype)} | named
    how = {"family": problem.LINEAR, "axis": axis, "reverse": reverse, "given": tuple(named)}
    return recurrence.bind(1 - a if is_forget else a, added, *named.values(), **how)


mlir.register_lowering(tangent, mlir.lower_fun(_tangent, multiple_results=True))


def _times(h: Any, axis: int) -> Any:
    return jnp.arange(h.shape[axis]).reshape([-1 if k == axis else 1 for k in range(h.ndim)])


def _ends(lengths: Any, ndim: int, axis: int) -> Any:
    """Return lengths, of leading axes but time's, with the axes of a result."""
    return jnp.expand_dims(lengths.reshape(lengths.shape + (1,) * (ndim - 1 - lengths.ndim)), axis)


def _before(h: Any, h0: Any, axis: int, reverse: bool, splits: dict[str, Any]) -> Any:
    """Return the state before each step, in scan order: 0 where a series begins without one."""
    steps, t = h.shape[axis], _times(h, axis)
    lengths, offsets, resets = (splits.get(name) for name in SPLITS)
    first = jnp.zeros((), h.dtype) if h0 is None else h0 if offsets is not None else jnp.expand_dims(h0, axis)
    begins, found = t == (steps - 1 if reverse else 0), jnp.roll(h, -1 if reverse else 1, axis)
    if lengths is not None and reverse:
        begins = t == _ends(lengths, h.ndim, axis) - 1
    if offsets is not None:
        own = jnp.searchsorted(offsets, jnp.arange(steps), side="right") - 1
        begins = t == (offsets[own + 1] - 1 if reverse else offsets[own]).reshape(t.shape)
        first = first if h0 is None else jnp.moveaxis(jnp.take(h0, own, axis=0), 0, axis)
    found = jnp.where(begins, first, found)
    if resets is None:
        return found
    resets = resets.reshape(resets.shape + (1,) * (h.ndim - resets.ndim))
    if reverse:  # the border behind a step; at a series' end its first state comes in
        resets = jnp.broadcast_to(resets, (*resets.shape[:axis], steps, *resets.shape[axis + 1 :]))
        resets = jnp.roll(resets, -1, axis) & ~begins
    return jnp.where(resets, 0, found)


def _recurrence_jvp(primals: Any, tangents: Any, **how: Any) -> Any:
    results, (a, b, *rest) = recurrence.bind(*primals, **how), primals
    named = zip(("a", "b", *how["given"]), tangents, strict=True)
    moves = {name: v for name, v in named if type(v) is not ad.Zero}
    return results, tangent.bind(a, b, results[0], *rest, *moves.values(), **how, moved=tuple(moves))


def _recurrence_transpose(cotangents: Any, a: Any, b: Any, *rest: Any, **how: Any) -> Any:
    """Turn a linear recurrence round that is linear in what it adds and in its first states."""
    moved = [name for name, v in zip(("b", *how["given"]), (b, *rest), strict=True) if ad.is_undefined_primal(v)]
    known = [_zeros(v) if ad.is_undefined_primal(v) else v for v in (b, *rest)]
    h = jnp.zeros(jnp.broadcast_shapes(a.shape, known[0].shape), cotangents[0].aval.dtype)
    found = _pulled(cotangents, a, known[0], h, *known[1:], **how)
    return [None, *(found[name] if name in moved else None for name in ("b", *how["given"]))]


def _zeros(primal: Any) -> Any:
    return jnp.zeros(primal.aval.shape, primal.aval.dtype)


def _pulled(cotangents: Any, a: Any, b: Any, h: Any, *rest: Any, given: Any, **how: Any) -> dict[str, Any]:
    """Return cotangents of operands by name; JAX's are not conjugate."""
    g, g_last = cotangents
    g, more = ad.instantiate_zeros(g).conj(), [] if type(g_last) is ad.Zero else [g_last.conj()]
    found = adjoint.bind(g, a, b, h, *rest, *more, given=(*given, *[_LAST] * len(more)), **how)
    return {name: v.conj() for name, v in zip(("a", "b", FIRST), found, strict=False)}


def _tangent_jvp(primals: Any, tangents: Any, **how: Any) -> Any:
    return _jvp_of(functools.partial(_tangent, **how), primals, tangents)


def _jvp_of(function: Any, primals: Any, tangents: Any) -> Any:
    """Return what a function makes of operands, and the tangents of that, of operands that are no integers."""
    places = [k for k, v in enumerate(primals) if jnp.issubdtype(v.dtype, jnp.inexact)]

    def run(*moving: Any) -> Any:
        own = dict(zip(places, moving, strict=True))
        return function(*(own.get(k, v) for k, v in enumerate(primals)))

    return jax.jvp(run, [primals[k] for k in places], [ad.instantiate_zeros(tangents[k]) for k in places])


def _tangent_transpose(cotangents: Any, *operands: Any, moved: Any, given: Any, **how: Any) -> Any:
    count, how = 3 + len(given), how | {"given": given}
    if not any(map(ad.is_undefined_primal, operands[:count])):
        found = _pulled(cotangents, *operands[:count], **how)
        return [None] * count + [found[name] for name in moved]
    # What a tangent's own tangent is made of: it is linear in other operands.
    places = [k for k, v in enumerate(operands) if ad.is_undefined_primal(v)]

    def run(*unknown: Any) -> Any:
        own = dict(zip(places, unknown, strict=True))
        return _tangent(*[own.get(k, v) for k, v in enumerate(operands)], moved=moved, **how)

    pull = jax.linear_transpose(run, *(_zeros(operands[k]) for k in places))
    pulled = dict(zip(places, pull([ad.instantiate_zeros(v) for v in cotangents]), strict=True))
    return [pulled.get(k) for k in range(len(operands))]


def _adjoint_jvp(primals: Any, tangents: Any, **how: Any) -> Any:
    """Move an adjoint: it is linear in its cotangents, and else the transpose of how tangents move."""
    results, names = adjoint.bind(*primals, **how), ("g", "a", "b", "h", *how["given"])
    named, moves = (dict(zip(names, v, strict=True)) for v in (primals, tangents))
    ends = [name for name in ("g", _LAST) if name in named]
    own = named | {name: ad.instantiate_zeros(moves[name]) for name in ends}
    found = adjoint.bind(*own.values(), **how)
    cotangents = [named.pop(name) for name in ends]
    given = tuple(name for name in how["given"] if name in named and name != _LAST)
    moved = ("a", "b", *[FIRST] * (FIRST in given))
    how = how | {"given": given, "moved": moved}

    def turned(*own: Any) -> Any:
        run = functools.partial(_tangent, **how)
        return _jvp_of(lambda *fixed: run(*fixed, *own), [*named.values()], [moves[name] for name in named])[1]

    if len(cotangents) == 1:
        cotangents.append(
            jnp.zeros(_states(named["h"].shape, how["axis"], given, [*named.values()][3:]), own["g"].dtype)
        )
    pull = jax.linear_transpose(turned, *(jnp.zeros_like(named[name]) for name in moved))
    more = pull([v.conj() for v in cotangents])
    return results, [one + other.conj() for one, other in zip(found, more, strict=True)]


def _adjoint_transpose(cotangents: Any, g: Any, *others: Any, given: Any, **how: Any) -> Any:
    """Turn an adjoint, which is linear in its cotangents, round: that is the tangent."""
    named = dict(zip(("a", "b", "h", *given), others, strict=True))
    is_last = named.pop(_LAST, None) is not None
    own = zip(("a", "b", FIRST), cotangents, strict=False)
    moves = {name: v.conj() for name, v in own if type(v) is not ad.Zero}
    given = tuple(name for name in given if name != _LAST)
    found = tangent.bind(*named.values(), *moves.values(), given=given, moved=tuple(moves), **how)
    return [found[0].conj(), *[None] * (len(named)), *[found[1].conj()] * is_last]


def _batched(primitive: Primitive, operands: Any, dims: Any, **how: Any) -> Any:
    """Run a call with one axis more in front; in states of segments, behind these."""
    given = how["given"]
    names = [*_WIDE[primitive], *given, *how.get("moved", ())]
    size = next(v.shape[d] for v, d in zip(operands, dims, strict=True) if d is not None)
    dim_of = dict(zip(names, dims, strict=False))
    if dim_of.get("offsets") is not None:
        raise NotImplementedError(say.jax_offsets())
    behind, found = int("offsets" in given), []
    # A recurrence's operands are broadcast where one has the batch; other calls have a gradient for each of it.
    copies = {"lengths", "b"} if dim_of["a"] is None and dim_of["b"] is None else {"lengths"}
    copies = copies if primitive is recurrence else {*names} - {"resets"}
    for name, v, d in zip(names, operands, dims, strict=True):
        at = behind if name in (FIRST, _LAST) else 0
        if d is not None:
            v = jnp.moveaxis(v, d, at)
        elif name != "offsets":
            v = jnp.expand_dims(v, at)
            v = jnp.repeat(v, size, at) if name in copies else v
        found.append(v)
    results = primitive.bind(*found, **how | {"axis": how["axis"] + 1})
    return results, ([0, 0, behind] if primitive is adjoint else [0, behind])[: len(results)]


_WIDE = {recurrence: ("a", "b"), tangent: ("a", "b", "h"), adjoint: ("g", "a", "b", "h")}
_JVPS = {recurrence: _recurrence_jvp, tangent: _tangent_jvp, adjoint: _adjoint_jvp}
_TRANSPOSES: dict[Primitive, Any] = {
    recurrence: _recurrence_transpose,
    tangent: _tangent_transpose,
    adjoint: _adjoint_transpose,
}
for _one in _WIDE:
    batching.primitive_batchers[_one] = functools.partial(_batched, _one)
    ad.primitive_jvps[_one], ad.primitive_transposes[_one] = _JVPS[_one], _TRANSPOSES[_one]


# ---- The adapter: arguments, and calls ------------------------------------------------------------------------------


def forward(
    family: str, names: Any, a: Any, b: Any, h0: Any, axis: Any, reverse: Any, lengths: Any, return_state: Any, out: Any
) -> Any:
    """Run a recurrence; ``names`` are what the caller calls the operands."""
    if out is not None:
        raise TypeError(say.jax_out())
    operands, how, _ = _prepared(family, names, {"a": a, "b": b, FIRST: h0}, axis, reverse, lengths)
    return_state = checks.flag("return_state", return_state)
    h, last = recurrence.bind(*operands, **how)
    return (h, last) if return_state else h


def vjp(
    family: str, names: Any, g: Any, a: Any, b: Any, h: Any, h0: Any, axis: Any, reverse: Any, lengths: Any,
    grad_state: Any,
) -> Any:  # fmt: skip
    """Run a recurrence's adjoint; ``names`` are what the caller calls ``g, a, b, h``."""
    given = {"a": a, "b": b, FIRST: h0, "g": g, "h": h, _LAST: grad_state}
    operands, how, own = _prepared(family, (*names[1:3], "h0", names[0], names[3]), given, axis, reverse, lengths)
    found = adjoint.bind(*operands, **how)
    grads = [_arrays.summed_to(v, shape) for v, shape in zip(found, own, strict=False)]
    return (*grads, None)[:3]


def _prepared(
    family: str, names: Any, given: dict[str, Any], axis: Any, reverse: Any, lengths: Any
) -> tuple[list[Any], dict[str, Any], Any]:
    """Return operands, with all the result's axes, what a primitive is told, and the shapes of a, b and h0."""
    reverse, names = checks.flag("reverse", reverse), dict(zip(given, names, strict=False)) | {_LAST: _LAST}
    values = _taken(names, given)
    a, b = values["a"], values["b"]
    if family == problem.FORGET and jnp.iscomplexobj(a):
        raise TypeError(say.complex_gate(names["a"], a.dtype))
    shape = shapes.broadcast_shape((names["a"], names["b"]), [a.shape, b.shape])
    axis = shapes.axis_of(axis, shape, (names["a"], names["b"]))
    splits = _splits(lengths, shape, axis)
    states = _states(shape, axis, tuple(splits), [*splits.values()])
    own = [v.shape for v in (a, b, values[FIRST]) if v is not None]
    for name, v in values.items():
        if v is not None and name in "ab":
            values[name] = v.reshape((1,) * (len(shape) - v.ndim) + v.shape)
        elif v is not None:
            is_state = name in (FIRST, _LAST)
            problem.check_fits(
                names[name], v.shape, states if is_state else shape, say.state_shape if is_state else say.same_shape
            )
            values[name] = jnp.broadcast_to(v, states if is_state else shape)
    more = {FIRST: values[FIRST], **splits, _LAST: values.get(_LAST)}
    more = {name: v for name, v in more.items() if v is not None}
    operands = [values[name] for name in ("g", "a", "b", "h") if name in values]
    return [*operands, *more.values()], {"family": family, "axis": axis, "reverse": reverse, "given": tuple(more)}, own


def _taken(names: dict[str, str], given: dict[str, Any]) -> dict[str, Any]:
    """Return operands as JAX's arrays of floating-point numbers; None as it is."""
    found = {}
    for name, value in given.items():
        if value is None and name not in (FIRST, _LAST):
            raise TypeError(say.not_an_array(names[name], type(None)))
        if value is not None and not isinstance(value, jax.Array):
            value, owner = _arrays.take(names[name], value)
            if owner.namespace is not None:
                raise TypeError(say.mixed([(names[name], owner.library), (None, "jax")]))
        found[name] = value
    dtype = jnp.result_type(*(v for v in found.values() if v is not None))
    if not jnp.issubdtype(dtype, jnp.inexact):
        dtype = jnp.result_type(float)
    if _arrays.element(np.dtype(dtype)) is None:
        raise TypeError(say.dtype(names["b"], dtype))
    real = jnp.finfo(dtype).dtype
    is_complex = {name: jnp.iscomplexobj(v) for name, v in found.items()}
    is_wide = any(is_complex[name] for name in ("a", "b", FIRST))
    wanted = {"b": is_wide and not is_complex["a"], "g": is_wide, "h": is_wide} | {
        name: own for name, own in is_complex.items() if name in ("a", FIRST, _LAST)
    }
    return {
        name: None if v is None else jnp.asarray(v, dtype if wanted[name] or is_complex[name] else real)
        for name, v in found.items()
    }


def _splits(lengths: Any, shape: tuple[int, ...], axis: int) -> dict[str, Any]:
    """Return what says where series end and begin, checked as far as it is no tracer."""
    found = {}
    for name, value in zip(SPLITS, checks.parts(lengths), strict=True):
        if value is None:
            continue
        if isinstance(value, jax.core.Tracer):
            checks.kind(name, np.dtype(value.dtype), value.shape)
        else:
            value = checks.on_host(name, np.asarray(value) if isinstance(value, jax.Array) else value)
            if name in checks.IN_RANGE:
                checks.IN_RANGE[name](value, shape[axis])
        if name == "lengths":
            problem.check_lengths_shape(value.shape, shape[:axis] + shape[axis + 1 :])
        if name == "resets":
            checks.resets_shape(value.shape, shape, axis)
        found[name] = jnp.asarray(value)
    return found

"""How a call is made: with arrays, and again, with tensors, under a mode, compiled. Each compares with the oracle."""

import inspect

import numpy as np
from layouts import laid_out
from promised import broken
from records import function, record
from repeated import numbers as copies, same

from .draw import Operand, chance, changed, pick, uniform
from .oracles import wide

TOLERANCE = {2: 3e-2, 4: 5e-5, 8: 1e-8}  # of a part of a number, by its bytes
EXACT = 1e-2  # of that, for results in float64: they are not compared with differences


def numbers(results):
    """Return copies of all arrays and tensors of a result, wherever they are."""
    return copies(results.inner if type(results).__name__ == "Elsewhere" else results)


class Mismatch(AssertionError):
    """What was returned is not what it has to be."""


def tolerance_of(dtype):
    dtype = np.dtype(dtype) if isinstance(dtype, type) else dtype
    is_complex = getattr(dtype, "kind", "") == "c" or getattr(dtype, "is_complex", False)
    return TOLERANCE[max(2, min(8, dtype.itemsize // (1 + is_complex)))]


def compare(what, got, want, tolerance):
    """Raise unless numbers are those wanted, at the size of the largest; NaN stands where NaN is wanted."""
    got, want = wide(got), np.asarray(want)
    if got.shape != want.shape:
        raise Mismatch(f"{what}: the shape {got.shape} in place of {want.shape}")
    finite = np.isfinite(want)
    tolerance *= EXACT if tolerance == TOLERANCE[8] else 1
    size = max(1.0, float(np.abs(want[finite]).max(initial=0)))
    with np.errstate(all="ignore"):
        right = np.where(finite, np.abs(got - want) <= tolerance * size, np.isnan(want) & np.isnan(got) | (got == want))
    if not right.all():
        at = tuple(np.argwhere(~right)[0].tolist())
        count = f"{(~right).sum()} of {right.size}"
        raise Mismatch(f"{what}: {got[at]} in place of {want[at]} at {at}; {count} differ")


def arguments(call, given, traits=None):
    """Return positional and named arguments for a call; operands that are None are left out."""
    given = {name: value for name, value in given.items() if value is not None} | call.options
    names, positional = list(inspect.signature(function(call.name)).parameters.values()), []
    if traits is None or not chance(traits, 0.25):
        for parameter in names:
            if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or parameter.name not in given:
                break
            positional.append(given.pop(parameter.name))
    return positional, given


def results_of(call, given, traits=None, run=None, **more):
    """Return what a call returns, as a list; ``run`` runs a function in place of Python."""
    positional, named = arguments(call, given, traits)
    names = inspect.signature(function(call.name)).parameters
    if "return_state" in names:
        named["return_state"] = True
    found = (run or function(call.name))(*positional, **named, **more)
    if isinstance(found, tuple) and isinstance(found[0], tuple):  # results, and a state of several
        return [v for v in (*found[0], *found[1][:3]) if v is not None]
    return list(found) if isinstance(found, tuple) else [found]


# ---- Arrays ---------------------------------------------------------------------------------------------------------


def check(family, call, given=None, traits=None):
    """Make a call and compare its results with the oracle's; return both."""
    given = call.given if given is None else given
    wanted = family.expect(call, {name: wide(v) for name, v in call.given.items()})
    found = results_of(call, given, traits)
    known = family.dtypes(call)
    for k, (got, want) in enumerate(zip(found, wanted, strict=True)):
        arrays = numbers(got)
        dtype = known[k] if known else arrays[0].dtype
        if known and arrays[0].dtype != dtype and isinstance(got, np.ndarray):
            raise Mismatch(f"result {k}: the dtype {arrays[0].dtype} in place of {dtype}")
        loosest = max(tolerance_of(dtype), tolerance_of(known[0]) if call.name == "selective_scan" else 0)
        loosest = max(loosest, tolerance_of(getattr(got, "dtype", dtype)), family.tolerance(call))
        compare(f"result {k}", arrays[0], want, loosest)
    return found, wanted


def cotangents(wanted, rng, dtypes=None):
    """Return random cotangents; 0 where a result is NaN."""
    drawn = []
    for want in wanted:
        g = rng.uniform(-1.0, 1.0, want.shape) + (1j * rng.uniform(-1, 1, want.shape) if np.iscomplexobj(want) else 0)
        drawn.append(np.where(np.isnan(want), 0, g))
    return drawn


def direction(value, rng):
    """Return a way to move an operand: all numbers, or one of them."""
    way = rng.uniform(-1.0, 1.0, value.shape) + (1j * rng.uniform(-1, 1, value.shape) if value.dtype.kind == "c" else 0)
    if value.size > 1 and chance(rng, 0.4):
        only = np.zeros(value.shape)
        only.flat[int(rng.integers(value.size))] = 1
        way = way * only
    return np.asarray(way)


def check_gradients(family, call, names, grads, gs, rng, base):
    """Compare the gradients of operands with differences of the oracle's results, along a direction each."""
    given = {name: wide(v) for name, v in call.given.items()}
    wide_g = [wide(g) for g in gs]
    size_g = sum(float((np.abs(g) ** 2).sum()) for g in wide_g) ** 0.5
    for name, grad in zip(names, grads, strict=True):
        loosest = max(base, tolerance_of(grad.dtype))
        value, grad = given[name], wide(numbers(grad)[0])
        if grad.shape != value.shape:
            raise Mismatch(f"gradient of {name}: the shape {grad.shape} in place of {value.shape}")
        if not np.isfinite(grad).all():
            raise Mismatch(f"gradient of {name}: {grad.size - np.isfinite(grad).sum()} numbers are not finite")
        way = direction(value, rng)
        if name == "sos":
            way[..., 3] = 0  # a0 has none
        got, size = float((np.conj(grad) * way).sum().real), float(np.abs(grad * way).sum())
        allowed, wanted = loosest * (size + size_g + 1e-3), []
        for step in map(np.longdouble, ("1e-6", "1e-7", "1e-5")):
            ends = [family.expect(call, given | {name: value + sign * step * way}) for sign in (1, -1)]
            with np.errstate(invalid="ignore"):
                parts = [np.conj(g) * (one - other) for g, one, other in zip(wide_g, *ends, strict=True)]
            wanted.append(sum(float(np.where(np.isfinite(p), p, 0).sum().real) for p in parts) / (2 * float(step)))
            if min(wanted) - allowed <= got <= max(wanted) + allowed:  # those of what rounding decides do not agree
                break
        else:
            raise Mismatch(f"gradient of {name}: {got} in place of {wanted} along a direction")


def cotangent(call, which, want, dtype, traits, rng):
    """Return a cotangent of a result in a form that it may have; it may be real where the result is complex."""
    kind = ("cotangent", "cotangent of the state")[which]
    argument = next(a for a in record(call.name + "_vjp").arguments.values() if a.kind == kind)
    is_free = argument.shape in ("to full", "series")
    dtypes = ["bf" if dtype.name == "bfloat16" else dtype.str]
    if dtype.kind == "c":
        dtypes.append(f"f{dtype.itemsize // 2}")
    return Operand(
        want.shape, uniform(-1.0, 1.0), dtypes, tuple(range(want.ndim)) if is_free else (), is_free, argument.number,
        zero_d=argument.number,
    ).draw(traits, rng)  # fmt: skip


def vjp_grads(family, call, found, gs):
    """Return the gradients that a function of arrays gives, by the names of operands."""
    own, (first, second) = record(call.name + "_vjp"), gs
    given = call.given | {family.vjp_result: found[0]}
    own_names = list(own.arguments)
    given |= {own_names[0]: first}
    last = next((n for n, a in own.arguments.items() if a.kind == "cotangent of the state"), None)
    if second is not None:
        given[last] = second
    names = [n for n in own_names if n in given and given[n] is not None]
    parameters = inspect.signature(function(call.name + "_vjp")).parameters
    positional = []
    for n in own_names:
        if n not in names or parameters[n].kind is not parameters[n].POSITIONAL_OR_KEYWORD or n in call.options:
            break
        positional.append(given[n])
    rest = {n: given[n] for n in names[len(positional) :]}
    options = {n: v for n, v in call.options.items() if n in parameters}
    grads = function(call.name + "_vjp")(*positional, **rest, **options)
    return {n: g for n, g in zip((v for v in own.results.values()), grads, strict=True)}


def check_vjp(family, call, found, wanted, traits, rng):
    """Compare a vector-Jacobian product of arrays, and the same again."""
    dtypes = [numbers(v)[0].dtype for v in found]
    given = [cotangent(call, 0, wanted[0], dtypes[0], traits, rng), None]
    if chance(rng, 0.5):
        given[1] = cotangent(call, 1, wanted[1], np.result_type(dtypes[1], np.float64), traits, rng)
    gs = [None if g is None else np.broadcast_to(wide(g), want.shape) for g, want in zip(given, wanted, strict=True)]
    grads = vjp_grads(family, call, found, given)
    names = [n for n in family.differentiable(call) if call.given[n] is not None]
    for n in call.operands:
        if call.given[n] is None and grads[n] is not None:
            raise Mismatch(f"gradient of {n}, which was not given: {grads[n]}")
        if n in names and isinstance(call.given[n], np.ndarray) and call.given[n].dtype.kind in "fc":
            if grads[n].dtype != call.given[n].dtype.newbyteorder("="):
                raise Mismatch(f"gradient of {n}: the dtype {grads[n].dtype} in place of {call.given[n].dtype}")
    used = [g for g in gs if g is not None]
    narrow = _OnlyFirst(family, len(used))
    check_gradients(narrow, call, names, [grads[n] for n in names], used, rng, tolerance_of(dtypes[0]))
    again = vjp_grads(family, call, found, given)
    for n in names:
        if not same(numbers(again[n])[0], numbers(grads[n])[0]):
            raise Mismatch(f"gradient of {n}: another one at a second call")


class _OnlyFirst:
    """A family of which only the first results count."""

    def __init__(self, family, count):
        self.family, self.count = family, count

    def expect(self, call, given):
        return self.family.expect(call, given)[: self.count]


def with_arrays(family, call, traits, rng):
    """Call, take gradients, call again; with one thing changed; again as at first. No operand is written to."""
    before = _bytes(call)
    found, wanted = check(family, call, traits=traits)
    if record(call.name).vjp:
        check_vjp(family, call, found, wanted, traits, rng)
    kept = [numbers(v)[0] for v in found]
    _again(call, kept, "a later call")
    if "out" in record(call.name).arguments:
        check_out(family, call, wanted, kept, rng)
    other, what, undo = changed(call, traits, rng)
    try:
        second, more = check(family, other, traits=traits)
        if record(call.name).vjp and chance(rng, 0.5):
            check_vjp(family, other, second, more, traits, rng)
        if what.startswith("other values"):
            undo()
        _again(call, kept, f"after {what}")
    except Exception as error:
        undo()
        raise type(error)(f"{error}; with {what}: {other}") from error
    undo()
    if _bytes(call) != before:
        raise Mismatch("an operand was written to")


def _bytes(call):
    return {n: v.tobytes() for n, v in call.given.items() if isinstance(v, np.ndarray)}


def _again(call, kept, when):
    for k, got in enumerate(results_of(call, call.given)):
        if not same(numbers(got)[0], kept[k]):
            raise Mismatch(f"result {k} is another one {when}: {numbers(got)[0]} in place of {kept[k]}")


def check_out(family, call, wanted, kept, rng):
    """Write into memory of some layout."""
    out = laid_out(np.zeros(wanted[0].shape, kept[0].dtype), rng)
    if not out.flags.writeable or not out.dtype.isnative or (not out.flags.aligned and out.size):
        return
    if results_of(call, call.given, out=out)[0] is not out:
        raise Mismatch("`out` is not what is returned")
    compare("result in `out`", numbers(out)[0], wanted[0], tolerance_of(kept[0].dtype))


# ---- Tensors --------------------------------------------------------------------------------------------------------


def tensor_of(value, rng):
    """Return a tensor of an array's numbers, of its strides or of some layout of torch's own; others as they are."""
    import torch

    if not isinstance(value, np.ndarray):
        return value
    value = value.astype(value.dtype.newbyteorder("=")) if not value.dtype.isnative else value
    is_brain = value.dtype.name == "bfloat16"
    value = value.astype(np.float32) if is_brain else value
    if value.ndim and value.flags.writeable and value.flags.aligned and min(value.strides) >= 0 and not is_brain:
        return torch.from_numpy(value) if chance(rng, 0.5) else torch.from_numpy(value.copy())
    tensor = torch.from_numpy(np.array(value, order="C"))
    tensor = tensor.bfloat16() if is_brain else tensor
    way = pick(rng, ["plain", "neg", "conj", "expand", "every other"])
    if way == "neg" and tensor.is_floating_point():
        return torch._neg_view(-tensor)
    if way == "conj" and tensor.is_complex():
        return tensor.conj().clone().conj()
    if way == "every other" and tensor.ndim:
        return torch.stack([tensor, tensor], -1)[..., 0]
    return tensor


def tensor_call(call, rng, others=True):
    """Return operands as tensors; other arguments may stay arrays where `records.py` says so."""
    arguments, given = record(call.name).arguments, {}
    for name, value in call.given.items():
        stays = (
            arguments[name].host
            and arguments[name].kind != "signal"
            and chance(rng, 0.6 if isinstance(value, list) else 0.2)
            and np.asarray(value).dtype.name != "bfloat16"
        )
        if isinstance(value, list) and not stays:
            value = np.array(value)
        given[name] = value if stays else tensor_of(value, rng)
    return given


def leaves_of(family, call, given, rng):
    """Return tensors of which some want a gradient, and the names of these."""
    import torch

    names = [
        n for n in family.differentiable(call)
        if isinstance(given[n], torch.Tensor) and (given[n].is_floating_point() or given[n].is_complex())
    ]  # fmt: skip
    wanted = [n for n in names if chance(rng, 0.7)] or names[:1]
    leaves = {n: given[n].detach().clone().requires_grad_() for n in wanted}
    return given | leaves, wanted


def check_tensors(family, call, traits, rng, run=None, is_plain=False, move=None):
    """Compare a call of tensors, and its gradients unless it is one without."""
    import torch

    given = tensor_call(call, rng)
    if not any(isinstance(v, torch.Tensor) for v in given.values()):
        return
    wanted = family.expect(call, {name: wide(v) for name, v in call.given.items()})
    names = []
    if not is_plain and family.has_gradients:
        given, names = leaves_of(family, call, given, rng)
    if move:
        given = {name: move(v) for name, v in given.items()}
    found = results_of(call, given, run=run)
    base = 0.0
    for k, (got, want) in enumerate(zip(found, wanted, strict=True)):
        base = max(base, tolerance_of(got.dtype))
        loosest = base if call.name == "selective_scan" else tolerance_of(got.dtype)
        loosest = max(loosest, family.tolerance(call), TOLERANCE[4] if _was_whole(call) else 0)
        compare(f"tensor {k}", numbers(got)[0], want, loosest)
    if not names or not any(got.requires_grad for got in found):
        if names and all(v.size for v in wanted):
            raise Mismatch(f"no gradient flows to {names}")
        return
    gs = [torch.from_numpy(np.asarray(g)).to(v.dtype) for g, v in zip(cotangents(wanted, rng), found, strict=True)]
    pairs = [(v, g) for v, g in zip(found, gs, strict=True) if v.requires_grad]
    outputs, gradients = zip(*pairs, strict=True)
    gradients = [move(g) if move else g for g in gradients]  # torch takes those of another device, and may fail on them
    grads = torch.autograd.grad(outputs, [given[n] for n in names], gradients, allow_unused=True)
    grads = [torch.zeros_like(given[n]) if g is None else g for n, g in zip(names, grads, strict=True)]
    used = [numbers(g)[0] for g in gs]
    check_gradients(family, call, names, grads, used, rng, base)


def _was_whole(call):
    return any(np.asarray(v).dtype.kind in "iub" for v in call.given.values() if v is not None and np.ndim(v))


def with_tensors(family, call, traits, rng):
    """Call without gradients and with them, in some order, and again with one thing changed."""
    other, what, undo = changed(call, traits, rng)
    undo()
    order = [(call, is_plain) for is_plain in (True, False, True)] + [(other, True), (other, False), (call, True)]
    if what.startswith("other values"):
        order = order[:3]
    for k in sorted(range(len(order)), key=lambda k: (k // 3, rng.random())):
        one, is_plain = order[k]
        try:
            check_tensors(family, one, traits, rng, is_plain=is_plain)
        except Exception as error:
            if one is other:
                raise type(error)(f"{error}; with {what}: {other}") from error
            raise


def without_kernels(family, call, traits, rng):
    """Call with tensors of a device that has no kernels."""
    from . import device

    if device.place() is None:  # not by this torch
        return with_tensors(family, call, traits, rng)
    if chance(rng, 0.3):
        with device.Mode():
            check_tensors(family, call, traits, rng)
        return
    with device.plain(chance(rng, 0.6)):
        check_tensors(family, call, traits, rng, is_plain=chance(rng, 0.3), move=device.moved)


def compiled(family, call, traits, rng):
    """Call in a function that torch compiles."""
    import torch

    torch._dynamo.reset()
    backend = pick(rng, ["eager", "aot_eager"])

    own = function(call.name)
    run = torch.compile(lambda *given, **named: own(*given, **named), backend=backend)
    check_tensors(family, call, traits, rng, run=run, is_plain=chance(rng, 0.3))


# ---- JAX arrays -----------------------------------------------------------------------------------------------------


def with_jax(family, call, traits, rng):
    """Call with JAX arrays, at once or compiled, and take gradients; with tensors what JAX cannot trace."""
    if ("traced", call.name) in broken() or call.name.count(".") > 1:
        return with_tensors(family, call, traits, rng)
    import jax

    jax.config.update("jax_enable_x64", True)
    arguments = record(call.name).arguments
    given = {n: _jax_array(v) if arguments[n].kind in KINDS or chance(rng, 0.5) else v for n, v in call.given.items()}
    wanted = family.expect(call, {name: wide(v) for name, v in call.given.items()})
    names = [
        n for n in family.differentiable(call)
        if isinstance(given[n], jax.Array) and jax.numpy.issubdtype(given[n].dtype, jax.numpy.inexact)
    ]  # fmt: skip
    if not any(isinstance(v, jax.Array) for v in given.values()):
        return

    def run(*values):
        return results_of(call, given | dict(zip(names, values, strict=True)))

    values = [given[n] for n in names]
    run = jax.jit(run) if chance(rng, 0.5) else run
    found, pull = jax.vjp(run, *values) if names and family.has_gradients else (run(*values), None)
    base = 0.0
    for k, (got, want) in enumerate(zip(found, wanted, strict=True)):
        loosest = tolerance_of(np.dtype(got.dtype))
        base = max(base, loosest, TOLERANCE[4] if _was_whole(call) else 0)
        compare(f"JAX array {k}", np.asarray(got), want, max(loosest, base, family.tolerance(call)))
    if pull is None:
        return
    gs = [jax.numpy.asarray(g, v.dtype) for g, v in zip(cotangents(wanted, rng), found, strict=True)]
    grads = [np.asarray(v).conj() for v in pull([g.conj() for g in gs])]
    check_gradients(family, call, names, grads, [np.asarray(g) for g in gs], rng, base)


KINDS = "signal", "gate", "coefficients", "state"


def _jax_array(value):
    import jax

    if isinstance(value, list):
        value = np.array(value)
    if not isinstance(value, np.ndarray):
        return value
    return jax.numpy.asarray(np.array(value, value.dtype.newbyteorder("=")))


WAYS = [with_arrays] * 12 + [with_tensors] * 6 + [without_kernels] * 4 + [compiled] + [with_jax] * 2

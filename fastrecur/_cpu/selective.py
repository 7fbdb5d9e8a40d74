"""A call of the selective scan with arrays in memory: take and check them, run it, hand results back.

Below `forward` and `vjp`, bfloat16 is the uint16 that it stands in memory as: NumPy has none of its own.
"""

import numpy as np

from .._arguments import arrays as _arrays, checks, shapes as _shapes
from .._arguments.arrays import address
from .._arguments.records import SCAN
from .._arguments.selective import MAPS, TIMED, Operands, by_time, check, check_out
from .._plan import selective as _plan
from .._plan.fields import selective as _kernels
from . import cost
from .compiler.compile import kernel
from .machine import allocate, threads as _threads

_BITS = np.dtype(np.uint16)  # of bfloat16


def forward(operands, options, return_state, out):
    """Run a scan; ``options`` are those of `_arguments.selective.check` as they were given."""
    return_state = checks.flag("return_state", return_state)
    arrays, owner = _arrays.take_all(SCAN, operands._asdict() | {"out": out})
    given, out = out, arrays.pop("out")
    sizes, options = check(arrays, *options)
    operands = Operands(**arrays)
    if out is not None:
        check_out(out, operands.u.dtype, operands, (("offsets", options.offsets), ("resets", options.resets)))
    y, state, _ = scan(_in_bits(operands), sizes, options, None if out is None else _bits(out))
    result = owner.give(y.view(operands.u.dtype)) if given is None else given
    return (result, owner.give(state)) if return_state else result


def vjp(grad_y, operands, options, grad_state):
    """Run a scan's adjoint."""
    named = {"grad_y": grad_y, **operands._asdict(), "grad_state": grad_state}
    arrays, owner = _arrays.take_all(SCAN, named)
    sizes, options = check(arrays, *options)
    grad_y, grad_state = arrays.pop("grad_y"), arrays.pop("grad_state")
    operands = Operands(**arrays)
    grads = scan_vjp(_bits(grad_y), _in_bits(operands), sizes, options, grad_state)
    return Operands(*[
        None if own is None else owner.give(_as(grad, own.dtype)) for grad, own in zip(grads, operands, strict=True)
    ])  # fmt: skip


def _as(grad, dtype):
    """Return a gradient in its operand's dtype, if it is not in bits already."""
    with np.errstate(all="ignore"):
        return grad.view(dtype) if grad.dtype == _BITS else grad.astype(dtype, copy=False)


def _bits(array):
    return array.view(_BITS) if _arrays.element(array.dtype) == "bf2" else array


def _in_bits(operands):
    """Return operands of which those that kernels read as they are have no bfloat16."""
    return operands._replace(**{
        name: _bits(array) for name, array in operands._asdict().items() if array is not None and name in TIMED + MAPS
    })  # fmt: skip


# ---- Run ------------------------------------------------------------------------------------------------------------


def scan(operands, sizes, options, out=None, keep=False, writes=True):
    """Return outputs, last states and, if they are kept, the states before chunks; `scan_vjp` takes these."""
    call = _Call(operands, sizes, options)
    states = call.states(operands.h0)
    y = out
    if y is None and writes:
        y = call.like(operands.u)
    checkpoints = call.empty((call.checkpoints if keep else 0,))
    timed = {"u": operands.u, "delta": operands.delta, "z": operands.z, "y": y}
    call.clear_padding(y)
    call.run("selective.forward", _kernels.FORWARD, timed, keep, states=states, checkpoints=checkpoints)
    states[call.chunks.cleared] = 0
    return y, states, checkpoints if keep else None


def scan_vjp(grad_y, operands, sizes, options, grad_state=None, checkpoints=None):
    """Return gradients: those of u, delta and z in the dtypes of these, all others in that of states."""
    call = _Call(operands, sizes, options)
    if checkpoints is None or checkpoints.size != call.checkpoints:
        checkpoints = scan(operands, sizes, options, keep=True, writes=False)[2]
    states = call.states(grad_state)
    states[call.chunks.cleared] = 0
    timed = {name: getattr(operands, name) for name in TIMED}
    grads = {name: array if array is None else call.like(array) for name, array in timed.items()}
    call.clear_padding(*grads.values())
    whole, parts = (sizes.channels, sizes.states), call.units.parts
    sums = {
        name: np.zeros((parts, *shape), call.wide)
        for name, shape in (("a", whole), ("skip", whole[:1]), ("bias", whole[:1]))
    }
    for name, array in call.maps.items():
        shape = (call.units.subs, sizes.batch, sizes.steps, call.groups, sizes.states)
        sums[name] = call.empty((parts, *whole) if array.ndim == 2 else shape)
        if options.lengths is not None or not len(call.chunks.chunks):
            sums[name].fill(0)
    results = {f"to_{name}": array for name, array in (grads | sums).items()}
    call.run(
        "selective_back.vjp", _kernels.BACKWARD,
        timed | {"g": grad_y} | {k: v for k, v in results.items() if k[3:] in TIMED},
        False, states=states, checkpoints=checkpoints, **{k: v for k, v in results.items() if k[3:] not in TIMED},
    )  # fmt: skip
    with np.errstate(all="ignore"):
        sums = {name: array.sum(0) for name, array in sums.items()}
    for name in MAPS:
        sums[name.lower()] = call.as_given(sums[name.lower()], name.lower(), getattr(operands, name).shape)
    own = Operands(
        grads["u"], grads["delta"], sums["a"], sums["b"], sums["c"], sums["skip"], grads["z"], sums["bias"], states
    )
    return Operands(*[None if given is None else grad for grad, given in zip(own, operands, strict=True)])


def _team(sizes):
    """Return who will run a call; workers wake up while it is prepared."""
    team, words = _threads.team(), sizes.batch * sizes.steps * sizes.channels * sizes.states
    team = team._replace(size=cost.threads("selective", 8 * words, team.size))
    return team._replace(size=_threads.prewake(team.size)) if team.run is _threads.run and team.size > 1 else team


class _Call:
    """What runs of a call have in common."""

    def __init__(self, operands, sizes, options):
        self.sizes, self.options, self.layout = sizes, options, options.layout
        self.wide = np.dtype(np.float64 if operands.u.dtype == np.float64 else np.float32)
        self.maps = {name.lower(): by_time(name, getattr(operands, name), self.layout) for name in MAPS}
        self.groups = max((array.shape[2] for array in self.maps.values() if array.ndim == 4), default=1)
        self.chunks, self.units, self.team = _plan.cut(sizes, options), _plan.units(sizes, self.groups), _team(sizes)
        self.checkpoints = self.chunks.checkpoints * self.groups * self.units.vectors * sizes.states * _plan.LANES
        self.parameters = {
            "a": np.ascontiguousarray(operands.A, self.wide), "skip": self._numbers(operands.D),
            "bias": self._numbers(operands.delta_bias),
        }  # fmt: skip

    def _numbers(self, array):
        if array is None:
            return np.zeros(self.sizes.channels, self.wide)
        return np.ascontiguousarray(array, self.wide)

    def empty(self, shape):
        return allocate.empty(shape, self.wide, _shapes.c_strides(shape, self.wide.itemsize))

    @staticmethod
    def like(array):
        """Return a new array, in memory as another one; in tests it is full of NaN, which bits are not."""
        shape, dtype = array.shape, np.dtype(np.float16) if array.dtype == _BITS else array.dtype
        return allocate.empty(shape, dtype, _shapes.like(shape, dtype, (shape, array.strides))).view(array.dtype)

    def as_given(self, grad, name, shape):
        """Return a gradient of b or c, which is (batch, step, group, state), with the axes of its operand."""
        if len(shape) > 2:
            if self.maps[name].shape[2] == 1:  # of all groups of the other one
                grad = grad.sum(2, keepdims=True)
            if self.layout == "bdl":
                grad = grad.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(grad).reshape(shape)

    def states(self, given):
        """Return new states of all rows, those given or zeros."""
        shape = self.sizes.rows, self.sizes.channels, self.sizes.states
        return np.zeros(shape, self.wide) if given is None else np.array(given, self.wide, order="C")

    def clear_padding(self, *arrays):
        """Make zeros of what no chunk has."""
        if self.options.lengths is not None:
            for array in arrays:
                if array is not None:
                    view = by_time("u", array, self.layout)
                    for sequence, length in zip(view, self.options.lengths.tolist(), strict=True):
                        sequence[length:] = 0

    def geometry(self, timed, keeps):
        sizes, units, options = self.sizes, self.units, self.options
        table = np.zeros(_kernels.FIELDS, np.int64)
        table[: _kernels.HEAD] = (
            sizes.states, sizes.channels, sizes.batch, sizes.steps, *units, sizes.rows, options.reverse,
            options.softplus, timed["z"] is not None, keeps, timed.get("y") is not None,
        )  # fmt: skip
        for k, name in enumerate(_kernels.TIMED):
            if timed.get(name) is not None:
                at = _kernels.HEAD + 3 * k
                table[at : at + 3] = by_time(name, timed[name], self.layout).strides
        for name, at in (("b", _kernels.B), ("c", _kernels.C)):
            array = self.maps[name]
            table[at : at + array.ndim] = array.strides
            if array.ndim == 4 and array.shape[2] == 1:
                table[at + 2] = 0  # of all groups of the other one
        return table

    def run(self, kernel_name, names, timed, keeps, **others):
        """Run a kernel on all units, given arrays by its names of them, None for what is not read or written."""
        if 0 in (self.sizes.channels, len(self.chunks.chunks)):
            return
        arrays = timed | self.maps | self.parameters | others | {"rows": self.chunks.rows, "chunks": self.chunks.chunks}
        arrays = {name: timed["u"] if array is None else array for name, array in arrays.items()}
        is_back = kernel_name == "selective_back.vjp"
        traits = [f"constant_{name}" for name, array in self.maps.items() if array.ndim == 2]
        traits += ["vjp"] * is_back
        elements = {
            name: "bf2" if array.dtype == _BITS else _arrays.element(array.dtype) for name, array in arrays.items()
        }
        call = kernel(kernel_name, " ".join(traits), _arrays.element(self.wide), **elements)
        # Units of long rows follow each other: threads take them in turn.
        items = min(self.units.size, 1 if self.team.size == 1 else 2 * self.team.size)
        numbers = _kernels.scratch_numbers(self.sizes.states, is_back)
        scratch = allocate.aligned((items, numbers), self.wide)
        geometry = self.geometry(timed, keeps)
        places = [address(arrays[name]) for name in names.split()[:-1]]
        self.team.run(
            [(call, None, *places, address(own), address(geometry), k, items) for k, own in enumerate(scratch)],
            self.team.size,
        )

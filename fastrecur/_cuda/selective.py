"""A selective scan of arrays on a GPU: look at them, plan one launch, put it in order with their streams.

A row is a sequence, or a segment. The plan depends on dtypes, shapes and strides alone, so the same call has the same
bits on every card.
"""

import functools

import numpy as np

from .._arguments import checks, messages as say, shapes as _shapes
from .._arguments.arrays import element
from .._arguments.selective import Operands, check_out, check_shapes
from . import plan as _plan
from .call import _ghost, _is_view, _signature, _take
from .kernels import selective as _kernel

# A kernel's parameters, by the operands' names; and those that are addresses of a launch, in their order.
_PARAMETERS = {"A": "a", "B": "b", "C": "c", "D": "skip", "delta_bias": "bias"}
_NAMES = "u", "delta", "a", "b", "c", "skip", "z", "bias", "h0", "y", "last", "lengths", "offsets", "resets"
_ENDS = {"lengths": np.dtype(np.int64), "offsets": np.dtype(np.int64), "resets": np.dtype(bool)}


def forward(operands, options, return_state, out):
    """Run a scan; ``options`` are those of `_arguments.selective.check` as they were given."""
    return_state = checks.flag("return_state", return_state)
    *options, lengths, offsets, resets = options
    names = (*Operands._fields, "out")
    views, ends, work = _take(None, names, (*operands, out), checks.split(lengths, offsets, resets))
    for name, value, view in zip(names, (*operands, out), views, strict=True):
        if not _is_view(view) and (view is not None or name in names[:5]):
            raise TypeError(say.not_an_array(name, type(value)))
        if view is not None and view.dtype.kind == "c":
            raise ValueError(say.scan_complex(name, view.dtype))
    *views, to = views
    views = Operands(*views)
    sizes, options = check_shapes(Operands(*[None if v is None else v.shape for v in views]), *options, *ends)
    if sizes.states > _kernel.MOST_STATES:
        raise ValueError(say.scan_states(sizes.states, _kernel.MOST_STATES))
    dtype = np.dtype(np.float64) if views.u.dtype.kind in "biu" else views.u.dtype
    if dtype == np.float64:
        raise TypeError(say.scan_wide(views.u.dtype))
    if to is not None:
        _check_out(to, dtype, views, ends)
    y, state = scan(views, sizes, options, ends, work, dtype, (out, to))
    return (y, state) if return_state else y


def _check_out(out, dtype, views, ends):
    """Raise unless ``out`` may be written to."""
    if out.dtype != dtype:
        raise TypeError(say.out_dtype(out.dtype, dtype))
    ghost = _ghost(out)
    rest = [(name, _ghost(view)) for name, view in ends._asdict().items() if _is_view(view)]
    check_out(ghost, ghost.dtype, Operands(*map(_ghost, views)), rest)


def scan(views, sizes, options, ends, work, dtype, given=(None, None)):
    """Return outputs and last states of operands' views; ``given`` is what the outputs go to, and its view, or None."""
    u, wide = views.u, np.dtype(np.float64 if dtype == np.float64 else np.float32)
    state, state_at = work.empty((sizes.rows, sizes.channels, sizes.states), wide)
    y, to = given
    strides = _shapes.like(u.shape, dtype, (u.shape, u.strides)) if to is None else to.strides
    y, y_at = work.empty(u.shape, dtype, strides) if to is None else (y, to.pointer)
    known = tuple(_signature(view) for view in views), (dtype, u.shape, strides), tuple(map(_signature, ends))
    places = {name: view.pointer for name, view in views._asdict().items() if view is not None}
    places = {_PARAMETERS.get(name, name): place for name, place in places.items()} | {"y": y_at, "last": state_at}
    if sizes.rows and sizes.channels:
        work.run(plan(*known, sizes, options), places | work.ends(ends, sizes.steps))
    return y, state


def from_tensors(arguments, y):
    """Run a scan of an operator's arguments, which were checked, into a tensor; return the last states."""
    count = len(Operands._fields)
    ends = checks.split(*arguments[count : count + 3])
    views, ends, work = _take(None, (*Operands._fields, "y"), (*arguments[:count], y), ends)
    *views, to = views
    views = Operands(*views)
    sizes, options = check_shapes(
        Operands(*[None if v is None else v.shape for v in views]), *arguments[count + 3 :], *ends
    )
    return scan(views, sizes, options, ends, work, to.dtype, (y, to))[1]


@functools.lru_cache(1024)
def plan(views, out, ends, sizes, options):
    """Return the plan of a scan, of operands and ends as ``(dtype, shape, strides)``, None for what is not there."""
    soft, layout, reverse = options
    carry, wide = _plan.carry_of(out[0]), np.dtype(_plan.carry_of(out[0]))
    given = {_PARAMETERS.get(name, name): its for name, its in zip(Operands._fields, views, strict=True)}
    given |= {"y": out, **dict(zip(_ENDS, ends, strict=True))}
    for name, its in given.items():
        if its is not None and any(stride % its[0].itemsize for stride in its[2]):
            raise ValueError(say.unaligned({own: label for label, own in _PARAMETERS.items()}.get(name, name)))
    elements = {name: element((its or [_ENDS.get(name, wide)])[0]) for name, its in given.items()} | {"last": carry}
    strides = {name: (0, 0, 0) if its is None else its[2] for name, its in given.items()}
    groups = max((its[1][1 if layout == "bdl" else 2] for its in map(given.get, "bc") if len(its[1]) == 4), default=1)
    state = np.dtype(carry).itemsize * sizes.states
    values = {"h0_lane": strides["h0"], "last_lane": (sizes.channels * state, state, np.dtype(carry).itemsize)}
    values |= {f"{name}_lane": (strides[name][0], 0, 0) for name in ("skip", "bias", "lengths")}
    in_time, constants = [], []
    for name in ("u", "delta", "z", "y"):
        values |= _places(name, strides[name] if layout == "bdl" else [strides[name][k] for k in (0, 2, 1)])
    for name in "bc":
        shape, own = given[name][1:]
        if len(shape) == 2:
            constants.append(name)
            values |= _places(name, (0, *own, 0))
            continue
        batch, group, state, time = (
            own
            if len(own) == 4 and layout == "bdl"
            else (
                [own[k] for k in ((0, 2, 3, 1) if len(own) == 4 else (0, 0, 1, 2) if layout == "bdl" else (0, 0, 2, 1))]
            )
        )
        is_one = len(shape) == 3 or shape[1 if layout == "bdl" else 2] == 1  # for all groups of the other
        values |= _places(name, (batch, 0 if is_one else group, state, time))
        in_time += [name] * (abs(time) < abs(state))
    values |= _places("a", (0, *strides["a"], 0))
    in_time += ["u"] * (abs(values["u_time"]) < abs(values["u_lane"][1]))
    cuts = tuple(name for name in _plan.CUTS if given[name] is not None)
    values |= dict.fromkeys(("outers", "h0_next", "last_next", "first_next", "tiles"), 0)
    values |= {"offsets_next": strides["offsets"][0], "resets_time": 0, "resets_lane": (0, 0, 0)}
    if given["resets"] is not None:
        batch, time = (0 if n == 1 else stride for n, stride in zip(*given["resets"][1:], strict=True))
        values |= {"resets_time": time, "resets_lane": (batch, 0, 0)}
    lanes = _kernel.lanes_of(sizes.states, sizes.rows * sizes.channels, _plan.THREADS_WANTED)
    per_group = sizes.channels // groups
    blocks = -(-per_group // (_kernel.THREADS // lanes))
    values |= dict(
        steps=sizes.steps, reverse=int(reverse), lanes=sizes.rows, middles=groups, inners=blocks, width=per_group
    )
    grid = sizes.rows * groups * blocks
    _plan._check_size(grid, sizes.steps)
    traits = dict(
        states=sizes.states, lanes=lanes, chunk=_kernel.chunk_of(sizes.states, lanes, np.dtype(carry).itemsize),
        soft=soft, by_time=tuple(in_time), constants=tuple(constants), cuts=cuts,
    )  # fmt: skip
    launch = _plan.Launch(
        "selective", "", carry, tuple(sorted(traits.items())), tuple(sorted(elements.items())), "i8", (grid, 1, 1),
        _kernel.THREADS, values,
    )  # fmt: skip
    return _plan.DevicePlan(None, carry, _NAMES, (launch,), ({},))


def _places(name, strides):
    """Return what a launch is told of an operand: the last of its strides is a step's."""
    *others, time = strides
    return {f"{name}_time": time, f"{name}_lane": (*others, *[0] * (3 - len(others)))}

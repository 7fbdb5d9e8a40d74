"""A selective scan of arrays on a GPU, or its gradient: look at them, plan, put it in order with their streams.

A row is a sequence, or a segment. The plan depends on dtypes, shapes and strides alone, so the same call has the same
bits on every card.
"""

import functools
import math

import numpy as np

from .._arguments import checks, messages as say, shapes as _shapes
from .._arguments.arrays import element
from .._arguments.records import SCAN
from .._arguments.selective import Operands, check_out, check_shapes
from . import plan as _plan
from .call import floats, ghost_of, ghost_of_out, is_view, place_of, result, signature_of, take_views
from .kernels import selective as _kernel

# A kernel's parameters, by the operands' names.
_PARAMETERS = dict(zip(Operands._fields, ("u", "delta", "a", "b", "c", "skip", "z", "bias", "h0"), strict=True))
_LABELS = {own: name for name, own in _PARAMETERS.items()}
# Where gradients go, in their order: parameters, and what sums are added up to.
_GRADIENTS = "to_u", "to_delta", "grad_a", "grad_b", "grad_c", "grad_skip", "to_z", "grad_bias", "first"
_ENDS = {"lengths": np.dtype(np.int64), "offsets": np.dtype(np.int64), "resets": np.dtype(bool)}
_TIMED = "to_u", "to_delta", "to_z"
# Addresses of a call, in their order; of a gradient ``y`` and ``last`` are what has come to these.
_NAMES = *_PARAMETERS.values(), "y", "last", *_ENDS, *_GRADIENTS


def has_kernels(states):
    """Return whether channels of so many states can be scanned."""
    return states <= _kernel.MOST_STATES


def forward(operands, options, return_state, out):
    """Run a scan; ``options`` are those of `_arguments.selective.check` as they were given."""
    return_state = checks.flag("return_state", return_state)
    views, (to,), known, work = _look(operands, options, out=out)
    dtype = floats(views.u.dtype)
    if to is not None:
        ghost, ends = ghost_of_out(to, dtype, known[0])
        check_out(ghost, ghost.dtype, Operands(*map(ghost_of, views)), ends)
    y, form, y_at = result(views.u, dtype, work, out, to)
    state = _scan(views, (form, y_at), known, work)
    return (y, state) if return_state else y


def vjp(grad_y, operands, options, grad_state):
    """Run a scan's adjoint."""
    views, (g, to_state), known, work = _look(operands, options, grad_y=grad_y, grad_state=grad_state)
    made = []
    for view in views:
        its = None if view is None else (view.shape, floats(view.dtype))
        strides = its and _shapes.like(*its, (view.shape, view.strides))
        made.append(its and (*work.empty(*its, strides), (its[1], its[0], strides)))
    _scan_vjp(views, g, to_state, [each and each[1:] for each in made], known, work)
    return Operands(*(each and each[0] for each in made))


def _look(operands, options, **more):
    """Return views of operands and of more, the call's ends, sizes and options, and its place."""
    *options, lengths, offsets, resets = options
    given = operands._asdict() | more
    taken, ends, work = take_views(None, tuple(given), tuple(given.values()), checks.split(lengths, offsets, resets))
    for (name, value), view in zip(given.items(), taken, strict=True):
        if not is_view(view) and (view is not None or not SCAN[name].optional):
            raise TypeError(say.not_an_array(name, type(value)))
    known = {name: view for name, view in zip(given, taken, strict=True) if name in SCAN and name != "out"}
    sizes, options = check_shapes(known, *options, *ends)
    if not has_kernels(sizes.states):
        raise ValueError(say.scan_states(_kernel.MOST_STATES, sizes.states))
    return Operands(*taken[: len(operands)]), taken[len(operands) :], (ends, sizes, options), work


def _scan(views, y, known, work):
    """Scan into what has a signature and an address; return the last states."""
    (ends, sizes, options), (y, y_at) = known, y
    last, last_at = work.empty((sizes.rows, sizes.channels, sizes.states), np.dtype(_plan.carry_of(y[0])))
    places = _places_of(views) | {"y": y_at, "last": last_at} | work.ends(ends, sizes.steps)
    work.run(plan(*_signatures(views, ends), sizes, options, y), places)
    return last


def _scan_vjp(views, g, grad_state, grads, known, work):
    """Scan against time into gradients, addresses and signatures; None for what is not given."""
    ends, sizes, options = known
    places = _places_of(views) | {"y": g.pointer, "last": place_of(grad_state)} | work.ends(ends, sizes.steps)
    places |= {name: grad[0] for name, grad in zip(_GRADIENTS, grads, strict=True) if grad}
    signatures = tuple(grad and grad[1] for grad in grads)
    given = sizes, options, g.signature, signature_of(grad_state), signatures
    work.run(plan_vjp(*_signatures(views, ends), *given), places)


def _places_of(views):
    return {_PARAMETERS[name]: place_of(view) for name, view in views._asdict().items()}


def _signatures(views, ends):
    return tuple(map(signature_of, views)), tuple(map(signature_of, ends))


def from_tensors(arguments, y):
    """Run a scan of an operator's arguments, which were checked, into a tensor; return the last states."""
    views, (to,), known, work = _look_again(arguments, y=y)
    return _scan(views, (to.signature, to.pointer), known, work)


def vjp_from_tensors(grad_y, grad_state, arguments, grads):
    """Run a scan's adjoint into a tensor for each operand that is given."""
    names = {name: grad for name, grad in zip(_GRADIENTS, grads, strict=True) if grad is not None}
    views, (g, to_state, *to), known, work = _look_again(arguments, grad_y=grad_y, grad_state=grad_state, **names)
    to = dict(zip(names, to, strict=True))
    made = [(to[name].pointer, to[name].signature) if name in to else None for name in _GRADIENTS]
    _scan_vjp(views, g, to_state, made, known, work)


def _look_again(arguments, **more):
    count = len(Operands._fields)
    return _look(Operands(*arguments[:count]), (*arguments[count + 3 :], *arguments[count : count + 3]), **more)


# ---- Plans ----------------------------------------------------------------------------------------------------------


@functools.lru_cache(1024)
def plan(views, ends, sizes, options, y):
    """Return the plan of a scan, of operands and ends as ``(dtype, shape, strides)``, None for what is not there."""
    call = _Call(views, ends, sizes, options, y)
    return _plan.DevicePlan(None, call.carry, _NAMES, call.launch("selective", keeps=False), ({},))


@functools.lru_cache(1024)
def plan_vjp(views, ends, sizes, options, g, grad_state, grads):
    """Return the plan of a scan's adjoint; ``grads`` are those of gradients."""
    call, finish, partials = _Call(views, ends, sizes, options, g, back=True), (), {}
    grads = dict(zip(_GRADIENTS, grads, strict=True))
    for name in _TIMED:
        call.put_timed(name, grads[name])
    for name, its in (("last", grad_state), ("first", grads["first"])):
        call.put(name, its, its[2] if its else ())
    scratch = {"kept": call.keep()}
    shapes = {"a": (sizes.channels, sizes.states), "skip": (sizes.channels,), "bias": (sizes.channels,)}
    for name in ("a", "b", "c", "skip", "bias"):
        target = grads["grad_" + name]
        parts, shape, own = call.put_sums(name, shapes.get(name), target)
        scratch["sum_" + name] = parts * math.prod(shape)
        if target is not None:
            dims = [(parts, math.prod(shape) * call.size, 0), *zip(shape, own, target[2], strict=True)]
            finish += _plan.sums(partials, "sum_" + name, "grad_" + name, dims, call.carry, element(target[0]))
    launches = call.launch("selective", keeps=True) + call.launch("selective_vjp")
    return _plan.DevicePlan(None, call.carry, _NAMES, launches, ({},), None, scratch | partials, finish)


class _Call:
    """What launches of a call have in common: elements behind kernels' parameters, numbers, traits."""

    def __init__(self, views, ends, sizes, options, y, back=False):
        (soft, self.layout, reverse), self.sizes = options, sizes
        self.carry = _plan.carry_of(floats(views[0][0]))
        self.wide, self.size = np.dtype(self.carry), np.dtype(self.carry).itemsize
        given = dict(zip(_PARAMETERS.values(), views, strict=True)) | {"y": y}
        self.groups = max((its[1][self.group_axis] for its in map(given.get, "bc") if len(its[1]) == 4), default=1)
        lanes = _kernel.lanes_of(sizes.states, sizes.rows * sizes.channels, _plan.THREADS_WANTED)
        self.chunk = _kernel.chunk_of(sizes.states, lanes, self.size, back)
        form = _kernel.form_of(sizes.states, lanes, self.chunk)
        width = sizes.channels // self.groups
        self.per, self.blocks = form.per, -(-width // form.channels)  # of a group of channels
        self.elements, self.constants = {"kept": self.carry}, ()
        self.values = dict(steps=sizes.steps, reverse=int(reverse), lanes=sizes.rows, middles=self.groups)
        self.values |= dict(inners=self.blocks, width=width, kept_lane=(0, 0, 0))
        for name in ("u", "delta", "z", "y"):
            self.put_timed(name, given[name])
        for name in ("a", "skip", "bias", "h0"):
            its = given[name]
            self.put(name, its, () if its is None else (0, *its[2]) if name == "a" else its[2])
        self.put("last", None, _shapes.c_strides((sizes.rows, sizes.channels, sizes.states), self.size))
        for name in "bc":
            self.put_map(name, given[name])
        inner = {"u": self.values["u_lane"][1], "b": self.values["b_lane"][2], "c": self.values["c_lane"][2]}
        in_time = tuple(name for name, stride in inner.items() if abs(self.values[name + "_time"]) < abs(stride))
        self.traits = dict(
            states=sizes.states, lanes=lanes, chunk=self.chunk, soft=soft, by_time=in_time, constants=self.constants,
            cuts=self.put_ends(dict(zip(_ENDS, ends, strict=True))),
        )  # fmt: skip

    @property
    def group_axis(self):
        return 1 if self.layout == "bdl" else 2

    def put(self, name, its, series, time=0):
        """Note what is behind an address and its strides; None is of the carry."""
        dtype, _, strides = its or (self.wide, (), ())
        if any(stride % dtype.itemsize for stride in strides):
            raise ValueError(say.unaligned(_LABELS.get(name, name)))
        self.elements[name] = element(dtype)
        self.values |= {name + "_lane": (*series, 0, 0, 0)[:3], name + "_time": time, name + "_next": 0}

    def put_timed(self, name, its):
        batch, *rest = its[2] if its else (0, 0, 0)
        channel, time = rest if self.layout == "bdl" else reversed(rest)
        self.put(name, its, (batch, channel), time)

    def put_map(self, name, its):
        if len(its[1]) == 2:
            self.constants += (name,)
            self.put(name, its, (0, *its[2]))
        else:
            series, time, _ = self.of_map(its[1], its[2], 0)
            self.put(name, its, series, time)

    def of_map(self, shape, strides, apart):
        """Return strides of the sequence, the group and the state, that of a step, and whether all share a group.

        What one group has for all is ``apart`` for these.
        """
        at = self.group_axis
        is_one = len(shape) == 3 or shape[at] == 1
        batch, *rest = strides if len(shape) == 4 else (*strides[:at], 0, *strides[at:])
        group, state, time = rest if self.layout == "bdl" else (*rest[1:], rest[0])
        return (batch, apart if is_one else group, state), time, is_one

    def put_ends(self, ends):
        """Note lengths, offsets and resets; return which of the latter there are."""
        _, shape, strides = ends["resets"] or (None, (1, 1), (0, 0))
        batch, time = (0 if n == 1 else stride for n, stride in zip(shape, strides, strict=True))
        for name, dtype in _ENDS.items():
            its = ends[name] or (dtype, (), (0,))
            self.put(name, its, (batch,) if name == "resets" else its[2], time * (name == "resets"))
        self.values["offsets_next"], self.has_offsets = self.values["offsets_lane"][0], ends["offsets"] is not None
        return tuple(name for name in _plan.CUTS if ends[name] is not None)

    def keep(self):
        """Note where states are kept: of rows, chunks, and blocks of channels; return how many."""
        of_block = self.per * _kernel.THREADS
        of_chunk = self.groups * self.blocks * of_block
        chunks = 1 if self.has_offsets else -(-self.sizes.steps // self.chunk)  # from a row to the next
        self.values["kept_lane"] = tuple(n * self.size for n in (chunks * of_chunk, of_chunk, of_block))
        return (self.sizes.rows * chunks + self.has_offsets * (self.sizes.steps // self.chunk)) * of_chunk

    def put_sums(self, name, shape, target):
        """Note where parts of a gradient go; return how many there are, their shape, and their strides.

        Each row has one, of B and C each block of channels, laid out as the gradient.
        """
        label = "sum_" + name
        if shape is None and len(target[1]) > 2:
            shape, size = target[1], target[0].itemsize
            own, whole = [stride // size * self.size for stride in target[2]], math.prod(shape) * self.size
            series, time, is_one = self.of_map(shape, own, self.blocks * whole)
            self.put(label, None, series, time)
            self.values[label + "_next"] = whole  # bytes
            return self.blocks * (self.groups if is_one else 1), shape, own
        shape = shape or target[1]
        row, *own = _shapes.c_strides((1, *shape), self.size)
        self.put(label, None, (row, *own))
        return self.sizes.rows, shape, own

    def launch(self, kernel, **traits):
        """Return the launches of a kernel: none of no channels."""
        grid = self.sizes.rows * self.groups * self.blocks
        _plan.check_size(grid, self.sizes.steps)
        options, elements = (tuple(sorted(its.items())) for its in (self.traits | traits, self.elements))
        launch = _plan.Launch(
            kernel, "", self.carry, options, elements, "i8", (grid, 1, 1), _kernel.THREADS, self.values
        )
        return (launch,) if grid else ()

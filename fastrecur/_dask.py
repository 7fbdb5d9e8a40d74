"""Dask arrays: one call of the library for each chunk, and along time the state from chunk to chunk.

Each chunk of a lane is given the state after the one before it. That is a plain graph of Dask's: nothing is computed
here, and nothing is known of a chunk but its shape and its library.
"""

import functools
import itertools
import operator
from collections import namedtuple

import dask
import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from ._arguments import arrays as _arrays, checks, messages as say, shapes
from ._cpu import host
from ._cpu.machine import threads
from ._plan import problem

SEGMENTS = -1  # the axis of states of segments, which is none of the result's, as no negative one is
# Layers of an array that is what a store holds, cut and cast at most: to read it again costs no computing.
STORED = {"from-zarr", "array", "getitem", "astype"}


class Operand(namedtuple("Operand", "value axes shifted", defaults=[(), None])):
    """A Dask array, or what every chunk is given as it is, and in which of the result's axes its own stand.

    Of one that is ``shifted``, by so many blocks of so many along an axis, another one takes part at the end.
    """

    def block(self, index):
        """Return the key of the block that takes part in a block of the result."""
        if not isinstance(self.value, da.Array):
            return self.value
        if self.shifted:
            blocks, count, axis, end = self.shifted
            if not 0 <= index[axis] + blocks < count:
                return end.block(index)
            index = (*index[:axis], index[axis] + blocks, *index[axis + 1 :])
        sizes = zip(self.axes, self.value.shape, strict=True)
        return (self.value.name, *(0 if size == 1 or k < 0 else index[k] for k, size in sizes))


def take(name, value):
    """Return an operand as a Dask array with known chunks, a plain array or a number; None as it is."""
    if isinstance(value, da.Array):
        for k, chunks in enumerate(value.chunks):
            if any(size != size for size in chunks):
                raise ValueError(say.unknown_chunks(name, k, value.shape))
        # A chunk without steps has no state, and the first of what is broadcast must hold the value.
        return value.rechunk(tuple(tuple(filter(None, chunks)) or (0,) for chunks in value.chunks))
    if _arrays.is_on_device(value):
        return value
    array, _ = _arrays.take(name, value)
    return array


def empty_like(value):
    """Return an array without elements of a value's library, dtype and number of dimensions; a number as it is."""
    if isinstance(value, da.Array):
        return da.utils.meta_from_array(value)
    return value[(slice(0, 0),) * value.ndim] if hasattr(value, "ndim") else value


def align(operands, shape):
    """Return the result's chunks, and the operands as Dask arrays that are chunked alike."""
    # As for Dask's own functions: where chunks differ, the result has the edges of all. Arrays in memory follow.
    arrays = {name: Operand(da.asarray(o.value), o.axes) for name, o in operands.items() if np.ndim(o.value)}
    found, aligned = da.unify_chunks(*itertools.chain.from_iterable(o[:2] for o in arrays.values()))
    chunks = tuple(found[k] if k in found and sum(found[k]) == n else (n,) for k, n in enumerate(shape))
    both = zip(arrays.items(), aligned, strict=True)
    return chunks, operands | {name: Operand(array, o.axes) for (name, o), array in both}


def last_axes(value, axes):
    """Return those of the result's axes in which an operand that broadcasts to them stands."""
    return tuple(axes[len(axes) - len(getattr(value, "shape", ())) :])


def along_time(name, step, shape, axis, operands, first=None, reverse=False, segments=None):
    """Return a walk with operands, in their order, and perhaps first states that are chunked alike, of a shape."""
    chunks, found = align({**operands, "first states": first or Operand(None)}, shape)
    first = found.pop("first states")
    return Walk(name, step, chunks, [*found.values()], axis, reverse, first, segments)


class Walk:
    """A walk along time, a chunk at a time: a graph of ``step(state, place, *blocks) -> (*results, state)``.

    ``place`` are the first step of the chunk and its shape. The first chunk is given ``first``, and every other what
    the one before it returned.
    """

    def __init__(self, name, step, chunks, operands, axis, reverse, first, segments=None):
        self.chunks, self.axis, self.segments, self.last = chunks, axis, segments, []
        self.name = f"walk-{name}-{tokenize(step, chunks, axis, reverse, *map(tuple, (*operands, first)))}"
        tasks, arrays = self._readings([o.value for o in (*operands, first) if isinstance(o.value, da.Array)])
        graph = {}
        starts = list(itertools.accumulate(chunks[axis], initial=0))
        order = range(len(chunks[axis]))[:: -1 if reverse else 1]
        for lane in itertools.product(*(range(len(c)) if k != axis else order[:1] for k, c in enumerate(chunks))):
            state = first.block(lane)
            for step_index in order:
                index = (*lane[:axis], step_index, *lane[axis + 1 :])
                place = (starts[step_index], tuple(c[k] for c, k in zip(chunks, index, strict=True)))
                blocks = [o.block(index) for o in operands]
                if tasks:
                    blocks = [tasks.get(block, block) if isinstance(block, tuple) else block for block in blocks]
                    # Dask puts what hangs from a root before the next root: without one it would walk to the end first.
                    root = (f"place-{self.name}", *index)
                    graph[root], place = (tuple, place), root
                graph[(self.name, *index)] = (step, state, place, *blocks)
                state = (f"state-{self.name}", *index)
                graph[state] = (operator.getitem, (self.name, *index), -1)
            self.last.append(index)
        self.layers = HighLevelGraph.from_collections(self.name, graph, dependencies=arrays)
        if tasks:  # what was put into the steps has taken its own dependencies along
            needed = set(dask.core.keys_in_tasks(self.layers.to_dict(), list(graph.values())))
            names = {name for name, layer in self.layers.layers.items() if name != self.name and needed & layer.keys()}
            self.layers = HighLevelGraph(self.layers.layers, {**self.layers.dependencies, self.name: names})

    def _readings(self, arrays):
        """Return the tasks that read what comes straight from a store, so that a chunk is read when it is walked."""
        # A scheduler that has a thread to spare would read all chunks while the first ones are walked. The arrays are
        # returned as well, those ones optimised by Dask: a block is one task there, or the alias of one.
        tasks, found, blocks = {}, [], [*map(len, self.chunks)]
        for value in arrays:
            layers = (name.removeprefix("original-").rpartition("-")[0] for name in value.dask.layers)
            is_ready = [*value.numblocks] == blocks and STORED.issuperset(layers)
            if is_ready and not dask.config.get("fastrecur.read-ahead", False):
                (value,) = dask.optimize(value)
                known = dict(value.dask)
                for key in itertools.product((value.name,), *map(range, value.numblocks)):
                    tasks[key] = known[key]
                    while hasattr(tasks[key], "target"):
                        tasks[key] = known[tasks[key].target]
            found.append(value)
        return tasks, found

    def chunks_of(self, k):
        """Return the chunks of what `result` returns; states of segments have one axis more."""
        if k >= 0:
            return self.chunks
        lanes = self.chunks[: self.axis] + self.chunks[self.axis + 1 :]
        return lanes if self.segments is None else ((self.segments,), *lanes)

    def result(self, label, k, meta, chunks=None):
        """Return the results in place ``k`` of the steps' tuples; of the states, in place -1, those after all steps."""
        name, cut = f"{label}{self.name.removeprefix('walk')}", self.axis if k == -1 else len(self.chunks)
        first = () if k >= 0 or self.segments is None else (0,)
        indices = self.last if k == -1 else itertools.product(*(range(len(c)) for c in self.chunks))
        layers, below = dict(self.layers.layers), dict(self.layers.dependencies)
        keys = {i: (name, *first, *i[:cut], *i[cut + 1 :]) for i in indices}
        layers[name] = {key: (operator.getitem, (self.name, *i), k) for i, key in keys.items()}
        below[name] = {self.name}
        chunks = self.chunks_of(k) if chunks is None else chunks
        return da.Array(HighLevelGraph(layers, below), name, chunks, meta=meta, dtype=meta.dtype)


STATES = "h0", "grad_state"


class _Problem:
    """The operands of a call, by their names, checked as those of any other: the same rules, the same messages."""

    def __init__(self, family, names, a, b, axis, reverse, ends, others):
        lengths, offsets, resets = checks.parts(ends)
        values = {name: take(name, value) for name, value in {names[0]: a, names[1]: b, **others}.items()}
        for name, value in values.items():
            if value is None and name not in STATES:
                raise TypeError(say.not_an_array(name, type(None)))
        forms = {name: None if value is None else (None, np.shape(value)) for name, value in values.items()}
        both = [forms.pop(name) for name in names[:2]]
        self.shape, self.axis = problem.checked_shape(names[:2], *both, {}, axis, None)
        self.offsets = self.segments = self.no_steps = None
        if offsets is not None:
            self.offsets = checks.offsets_in_range(checks.on_host("offsets", offsets), self.shape[self.axis])
            self.segments = len(self.offsets) - 1
            self.no_steps = checks.Segments(None, np.zeros(1, np.int64), None)
        self.lane_axes = [k for k in range(len(self.shape)) if k != self.axis]
        lanes = tuple(self.shape[k] for k in self.lane_axes)
        problem.check_shapes(forms, self.shape, lanes if offsets is None else (self.segments, *lanes))
        self.operands = {name: self._operand(name, value) for name, value in values.items()}
        self.metas = {name: empty_like(value) for name, value in values.items()}
        if ends is not lengths and _adapter(*self.metas.values()) is not host:
            raise TypeError(say.segments_library("resets" if offsets is None else "offsets", "Dask arrays on a GPU"))
        self.operands |= {"lengths": self._lengths(lengths), "resets": self._resets(resets)}
        self.unused = None
        if family == problem.LINEAR and reverse and resets is not None:
            self._without_unused(names[0], values[names[1]])
        self.chunks, self.operands = align(self.operands, self.shape)

    def _operand(self, name, value):
        if name not in STATES:
            return Operand(value, last_axes(value, range(len(self.shape))))
        if isinstance(value, da.Array) and value.ndim > len(self.lane_axes):
            value = value.rechunk({0: -1})  # every chunk of time is given the states of all segments
        return Operand(value, last_axes(value, [SEGMENTS, *self.lane_axes]))

    def _resets(self, resets):
        if resets is None:
            return Operand(None)
        resets = take("resets", resets) if isinstance(resets, da.Array) else checks.on_host("resets", resets)
        checks.kind("resets", resets.dtype, resets.shape)
        checks.resets_shape(resets.shape, self.shape, self.axis)
        return Operand(resets, tuple(range(resets.ndim)))

    def _without_unused(self, name, b):
        """Make factors 0 where a linear recurrence begins anew behind them in reverse: what they are is not used."""
        factor, lengths, flags = (self.operands[key].value for key in (name, "lengths", "resets"))
        is_number, is_adjoint = not hasattr(factor, "dtype"), "grad_state" in self.operands
        if is_number and np.isfinite(factor) and not is_adjoint:
            return
        rank, behind = len(self.shape), np.arange(1, self.shape[self.axis] + 1)  # the number of the step behind each
        counts = behind < self.shape[self.axis]
        if self.offsets is not None:  # a segment's factor is used: of its first state
            counts &= ~np.isin(behind, self.offsets)
        counts, behind = (v.reshape(-1, *(1,) * (rank - 1 - self.axis)) for v in (counts, behind))
        if lengths is not None:  # flags in the padding do not count
            longer = lengths[(..., *(None,) * (rank - 1 - lengths.ndim))]
            counts = counts & (behind < longer[(slice(None),) * self.axis + (None,)])
        flags = da.broadcast_to(da.asarray(flags)[(..., *(None,) * (rank - flags.ndim))], self.shape)
        self.unused = da.roll(flags, -1, self.axis).rechunk(flags.chunks) & counts
        if is_number and not is_adjoint and type(factor) is not complex and b.dtype.kind not in "biu":
            factor = np.asarray(factor, b.dtype)  # or results would be float64; a gradient is cast where it is summed
        factor = da.where(self.unused, 0, factor)
        self.operands[name] = Operand(factor, tuple(range(rank)))

    def _lengths(self, lengths):
        if lengths is None:
            return Operand(None)
        if isinstance(lengths, da.Array):
            lengths = take("lengths", lengths)
            checks.kind("lengths", lengths.dtype, lengths.shape)
        elif not _arrays.is_on_device(lengths):
            lengths = checks.lengths_in_range(checks.on_host("lengths", lengths), self.shape[self.axis])
        problem.check_lengths_shape(tuple(lengths.shape), tuple(self.shape[k] for k in self.lane_axes))
        return Operand(lengths, tuple(self.lane_axes[: len(lengths.shape)]))


# What every chunk of a recurrence is told beside its operands; ``steps`` are those of the whole.
_Recurrence = namedtuple("_Recurrence", "family names axis reverse steps offsets")


def _adapter(*blocks):
    """Return what runs a chunk: the blocks of a Dask array stand in memory, or on a GPU."""
    if _arrays.any_on_device(*blocks):
        from ._cuda import call

        return call
    return host


def _ends(place, lengths, resets, r):
    """Return what a chunk is told of lengths, offsets and resets; a segment that is not in it has no steps there."""
    start, steps = place[0], place[1][r.axis]
    if lengths is not None:
        lengths = lengths.astype(np.int64)
        if lengths.size and (lengths.min() < 0 or lengths.max() > r.steps):
            raise ValueError(say.lengths_range(int(lengths.min()), int(lengths.max()), r.steps))
        lengths = (lengths - start).clip(0, steps)
    if r.offsets is None and resets is None:
        return lengths
    return checks.Segments(lengths, None if r.offsets is None else (r.offsets - start).clip(0, steps), resets)


def _walk(state, place, a, b, lengths, resets, *, r):
    with threads.alone():
        lengths = _ends(place, lengths, resets, r)
        run = _adapter(a, b, state).forward
        return run(r.family, r.names, a, b, state, r.axis, r.reverse, lengths, True, None)


def forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out):
    """Return the graph of a recurrence; ``names`` are what the caller calls the operands."""
    axis, reverse = checks.axis(axis), checks.flag("reverse", reverse)
    return_state = checks.flag("return_state", return_state)
    if out is not None:
        raise TypeError(say.out_lazy())
    p = _Problem(family, names, a, b, axis, reverse, lengths, {"h0": h0})
    metas = [p.metas[name] for name in (*names[:2], "h0")]
    meta, last = _adapter(*metas).forward(family, names, *metas, p.axis, reverse, p.no_steps, True, None)
    r = _Recurrence(family, names, p.axis, reverse, p.shape[p.axis], p.offsets)
    blocks = [p.operands[name] for name in (*names[:2], "lengths", "resets")]
    walk = Walk(family, functools.partial(_walk, r=r), p.chunks, blocks, p.axis, reverse, p.operands["h0"], p.segments)
    h = walk.result("h", 0, meta)
    return (h, walk.result("last", -1, last)) if return_state else h


def _walk_back(carry, place, g, a, b, h, lengths, resets, before, h0, *, r):
    start, shape = place
    border = start + shape[r.axis] if r.reverse else start
    if border != (r.steps if r.reverse else 0):  # the chunk goes on from the edge of another
        before = _arrays.at(before, r.axis, 0)
        if r.reverse and lengths is not None and h0 is not None:
            # A lane that is shorter than this begins with its first state, and in the chunk before is all padding.
            longer = lengths.reshape(lengths.shape + (1,) * (before.ndim - lengths.ndim)) > border
            before = np.where(longer, before, h0).astype(before.dtype)
        if r.offsets is not None:
            before = _states_at(border, before, h0, r.offsets)
    with threads.alone():
        lengths = _ends(place, lengths, resets, r)
        run = _adapter(g, a, b, h, before, carry).vjp
        grads = run(r.family, r.names, g, a, b, h, before, r.axis, r.reverse, lengths, carry)
    # Where an operand is broadcast, a chunk has a part of its gradient: they are added up in the result's axes.
    axes = len(shape), len(shape), len(shape) - (r.offsets is None)
    return tuple(
        grad if grad is None else grad.reshape((1,) * (n - grad.ndim) + grad.shape)
        for n, grad in zip(axes, grads, strict=True)
    )  # fmt: skip


def _states_at(border, before, h0, offsets):
    """Return the states before all segments as a chunk sees them, one of which may have begun in another chunk."""
    states = np.zeros((len(offsets) - 1, *before.shape), before.dtype)
    if h0 is not None:
        states[...] = h0
    behind = int(np.searchsorted(offsets, border))
    if offsets[behind] != border:
        states[behind - 1] = before
    return states


def _edge(h, resets=None, *, axis, reverse):
    """Return the last step of a chunk, in the scan direction; in reverse, 0 where it begins anew."""
    edge = functools.partial(_arrays.at, axis=axis, index=slice(0, 1) if reverse else slice(-1, None))
    return edge(h) if resets is None else np.where(edge(resets), 0, edge(h)).astype(h.dtype)


def vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state):
    """Return the graph of a recurrence's adjoint; ``names`` are what the caller calls ``g, a, b, h``."""
    axis, reverse = checks.axis(axis), checks.flag("reverse", reverse)
    others = {names[0]: g, names[3]: h, "h0": h0, "grad_state": grad_state}
    p = _Problem(family, names[1:3], a, b, axis, reverse, lengths, others)
    axis, metas = p.axis, [p.metas[name] for name in (*names, "h0")]
    state_meta = p.metas["grad_state"]
    grads = _adapter(*metas, state_meta).vjp(family, names, *metas, axis, reverse, p.no_steps, state_meta)
    r = _Recurrence(family, names, axis, reverse, p.shape[axis], p.offsets)
    states, first, every = p.operands[names[3]].value, p.operands["h0"], tuple(range(len(p.shape)))
    if np.shape(states) != p.shape:
        states = da.broadcast_to(states, p.shape, p.chunks)
    chunks = tuple((1,) * len(c) if k == axis else c for k, c in enumerate(p.chunks))
    resets = p.operands["resets"]
    has_flags = reverse and resets.value is not None
    flags = [resets.value[(..., *(None,) * (len(every) - len(resets.axes)))]] if has_flags else []
    edges = da.map_blocks(_edge, states, *flags, axis=axis, reverse=reverse, dtype=states.dtype, chunks=chunks)
    before = Operand(edges, every, (1 if reverse else -1, len(p.chunks[axis]), axis, first))
    blocks = [*(p.operands[name] for name in names[:3]), Operand(states, every)]
    blocks += [p.operands["lengths"], p.operands["resets"], before, first]
    step = functools.partial(_walk_back, r=r)
    walk = Walk(f"{family}_vjp", step, p.chunks, blocks, axis, not reverse, p.operands["grad_state"], p.segments)
    found = []
    for label, k, v, meta in zip(("a", "b", "h0"), (0, 1, -1), (a, b, h0), grads, strict=True):
        is_cut, chunks = label == "a" and p.unused is not None, walk.chunks_of(k)
        shape = p.shape if is_cut else np.shape(v)  # where the operand was broadcast, chunks have parts of its gradient
        full = (1,) * (len(chunks) - len(shape)) + tuple(shape)
        own = tuple((1,) * len(c) if n == 1 and sum(c) != 1 else c for c, n in zip(chunks, full, strict=True))
        if v is not None:
            v = walk.result(f"grad_{label}", k, da.utils.meta_from_array(meta, len(chunks)), own)
            v = _summed_to(da.where(p.unused, 0, v) if is_cut else v, np.shape((a, b, h0)[k]))
        found.append(v)
    return tuple(found)


def _summed_to(parts, shape):
    """Return a gradient, added up over what its operand was broadcast to."""
    missing, dtype = parts.ndim - len(shape), parts.dtype
    broadcast = tuple(k for k, n in enumerate((1,) * missing + tuple(shape)) if n == 1 and parts.shape[k] != 1)
    if broadcast:
        parts = parts.sum(axis=broadcast, keepdims=True, dtype=shapes.wide_dtype(dtype)).astype(dtype)
    return parts[(0,) * missing]

"""Dask arrays: one call of the library for each chunk, and along time the state from chunk to chunk.

Each chunk of a lane is given the state after the one before it. That is a plain graph of Dask's: nothing is computed
here, and nothing is known of a chunk but its shape and its library.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from . import _arrays, _checks, _host, _problem, _shapes, _threads
from . import _messages as say

STORED = ("from-zarr", "array", "getitem", "astype")  # layers of an array that comes from a store


class Operand(NamedTuple):
    """A Dask array, or what every chunk is given as it is, and in which of the result's axes its own stand."""

    value: Any
    axes: tuple[int, ...] = ()

    def block(self, index: Sequence[int]) -> Any:
        """Return the key of the block that takes part in a block of the result."""
        if not isinstance(self.value, da.Array):
            return self.value
        sizes = zip(self.axes, self.value.shape, strict=True)
        return (self.value.name, *(0 if size == 1 else index[k] for k, size in sizes))


def take(name: str, value: Any) -> Any:
    """Return an operand as a Dask array with known chunks, a plain array or a number; None as it is."""
    if isinstance(value, da.Array):
        for k, chunks in enumerate(value.chunks):
            if any(size != size for size in chunks):
                raise ValueError(say.unknown_chunks(name, k, value.shape))
        # A block is found by its place, and one of what is broadcast is the first: it must hold the value.
        return value.rechunk({k: n for k, n in enumerate(value.shape) if n == 1 and value.numblocks[k] > 1})
    if _arrays.is_on_device(value):
        return value
    array, _ = _arrays.take(name, value)
    return array


def empty_like(value: Any) -> Any:
    """Return an array without elements of a value's library, dtype and number of dimensions; a number as it is."""
    if isinstance(value, da.Array):
        return da.utils.meta_from_array(value)
    return value[(slice(0, 0),) * value.ndim] if hasattr(value, "ndim") else value


def align(operands: dict[str, Operand], shape: tuple[int, ...]) -> tuple[tuple[Any, ...], dict[str, Operand]]:
    """Return the result's chunks, and the operands as Dask arrays that are chunked alike.

    As for Dask's own functions: where chunks differ, the result has the edges of all. Arrays in memory follow.
    """
    lazy = {name: o for name, o in operands.items() if isinstance(o.value, da.Array)}
    found, arrays = da.unify_chunks(*itertools.chain.from_iterable((o.value, o.axes) for o in lazy.values()))
    chunks = tuple(found[k] if k in found and sum(found[k]) == n else (n,) for k, n in enumerate(shape))
    result = dict(operands)
    for (name, operand), array in zip(lazy.items(), arrays, strict=True):
        result[name] = Operand(array, operand.axes)
    for name, (value, axes) in operands.items():
        if name not in lazy and np.ndim(value):
            own = tuple(chunks[k] if n != 1 else (1,) for k, n in zip(axes, value.shape, strict=True))
            result[name] = Operand(da.from_array(value, chunks=own), axes)
    return chunks, result


def last_axes(value: Any, axes: Sequence[int]) -> tuple[int, ...]:
    """Return those of the result's axes in which an operand that broadcasts to them stands."""
    return tuple(axes[len(axes) - len(getattr(value, "shape", ())) :])


def indices(chunks: Sequence[Any], axis: int, reverse: bool) -> Any:
    """Yield, for each block of the lanes, the blocks along time in the scan direction."""
    lanes = [range(len(c)) if k != axis else (0,) for k, c in enumerate(chunks)]
    steps = range(len(chunks[axis]))
    for index in itertools.product(*lanes):
        yield [(*index[:axis], k, *index[axis + 1 :]) for k in (reversed(steps) if reverse else steps)]


def starts_of(chunks: Sequence[int]) -> list[int]:
    """Return at which step each chunk begins."""
    return list(itertools.accumulate(chunks, initial=0))[:-1]


def is_stored(value: da.Array) -> bool:
    """Return whether an array is what a store holds, cut and cast at most: to read it again costs no computing."""
    return all(name.removeprefix("original-").rpartition("-")[0] in STORED for name in value.dask.layers)


def readings(value: da.Array) -> dict[Any, Any]:
    """Return the task, optimised by Dask, that makes each block of an array: no other of its tasks is left out."""
    known, whole = dict(dask.optimize(value)[0].dask), value.dask
    found = {}
    for key in itertools.product((value.name,), *map(range, value.numblocks)):
        task = key
        while task in known:
            needed = dask.core.get_dependencies(known, task)
            if hasattr(known[task], "func") or len(needed) != 1:
                break
            (task,) = needed  # what Dask fused has another name, and this one leads to it
        if all(name in whole for name in dask.core.get_dependencies(known, task)):
            found[key] = known[task]
    return found


class Walk:
    """A walk along time, a chunk at a time: a graph of ``step(state, place, *blocks) -> (*results, state)``.

    ``place`` are the first step of the chunk and its shape. The first chunk is given ``first``, and every other what
    the one before it returned.
    """

    def __init__(
        self,
        name: str,
        step: Callable[..., Any],
        chunks: tuple[Any, ...],
        operands: Sequence[Operand],
        axis: int,
        reverse: bool,
        first: Operand,
        *,
        link: Callable[[Walk, Sequence[int]], Any] | None = None,
        linked: Sequence[Operand] = (),
    ) -> None:
        """Make the graph; ``link`` may add a task beside a chunk, of ``linked`` operands: the step is given it last."""
        self.chunks, self.axis = chunks, axis
        everything = [*operands, first, *linked]
        self.name = f"{name}-{tokenize(step, chunks, axis, reverse, *map(tuple, everything))}"
        self.graph: dict[Any, Any] = {}
        starts, whole = starts_of(chunks[axis]), range(len(chunks))
        tasks = self._readings(operands)
        for way in indices(chunks, axis, reverse):
            state = first.block(way[0])
            for index in way:
                place: Any = (starts[index[axis]], tuple(chunks[k][index[k]] for k in whole))
                blocks = [o.block(index) for o in operands]
                if tasks:
                    blocks = [tasks.get(block, block) if isinstance(block, tuple) else block for block in blocks]
                    # Dask puts what hangs from a root before the next root: without one it would walk to the end first.
                    root = (f"place-{self.name}", *index)
                    self.graph[root], place = (_itself, place), root
                beside = () if link is None else (link(self, index),)
                self.graph[(f"walk-{self.name}", *index)] = (step, state, place, *blocks, *beside)
                state = (f"state-{self.name}", *index)
                self.graph[state] = (operator.getitem, (f"walk-{self.name}", *index), -1)
        self.last = [way[-1] for way in indices(chunks, axis, reverse)]
        arrays = [o.value for o in everything if isinstance(o.value, da.Array)]
        self.layers = HighLevelGraph.from_collections(f"walk-{self.name}", self.graph, dependencies=arrays)
        if tasks:  # what was put into the steps has taken its own dependencies along
            needed = dask.core.keys_in_tasks(self.layers.to_dict(), list(self.graph.values()))
            names = {key[0] if isinstance(key, tuple) else key for key in needed} - {f"walk-{self.name}"}
            below = {**self.layers.dependencies, f"walk-{self.name}": names & self.layers.layers.keys()}
            self.layers = HighLevelGraph(self.layers.layers, below)

    def _readings(self, operands: Sequence[Operand]) -> dict[Any, Any]:
        """Return the tasks that read what comes straight from a store: a chunk is then read when it is walked.

        A scheduler that has a thread to spare would read all chunks while the first ones are walked.
        """
        found: dict[Any, Any] = {}
        if not dask.config.get("fastrecur.read-ahead", False):
            blocks = tuple(map(len, self.chunks))
            for value, _ in operands:
                if isinstance(value, da.Array) and value.numblocks == blocks and is_stored(value):
                    found |= readings(value)
        return found

    def array(self, label: str, blocks: dict[Any, Any], chunks: tuple[Any, ...], meta: Any) -> da.Array:
        """Return a Dask array of what the walk computes."""
        name = f"{label}-{self.name}"
        graph = {(name, *index): task for index, task in blocks.items()}
        layers, below = dict(self.layers.layers), dict(self.layers.dependencies)
        layers[name], below[name] = graph, {f"walk-{self.name}"}
        return da.Array(HighLevelGraph(layers, below), name, chunks, meta=meta, dtype=meta.dtype)

    def result(self, label: str, k: int, meta: Any, chunks: tuple[Any, ...] | None = None) -> da.Array:
        """Return the results in place ``k`` of the steps' tuples as an array."""
        chunks = self.chunks if chunks is None else chunks
        places = itertools.product(*(range(len(c)) for c in self.chunks))
        blocks = {index: (operator.getitem, (f"walk-{self.name}", *index), k) for index in places}
        return self.array(label, blocks, chunks, meta)

    def state(self, label: str, meta: Any, chunks: tuple[Any, ...] | None = None) -> da.Array:
        """Return the states after the last steps as an array without the axis of time."""
        lanes = self.chunks[: self.axis] + self.chunks[self.axis + 1 :]
        blocks = {(*i[: self.axis], *i[self.axis + 1 :]): (_itself, (f"state-{self.name}", *i)) for i in self.last}
        return self.array(label, blocks, lanes if chunks is None else chunks, meta)


def _itself(value: Any) -> Any:
    return value


# ---- The recurrences ------------------------------------------------------------------------------------------------


class _Problem:
    """The operands of a call, checked as those of any other: the same rules, the same messages."""

    def __init__(self, names: Any, a: Any, b: Any, h0: Any, axis: int, lengths: Any, others: dict[str, Any]) -> None:
        a, b, h0 = take(names[0], a), take(names[1], b), take("h0", h0)
        for name, value in ((names[0], a), (names[1], b)):
            if value is None:
                raise TypeError(say.not_an_array(name, type(None)))
        self.shape = _shapes.broadcast_shape(names[:2], (np.shape(a), np.shape(b)), axis)
        self.axis = _shapes.normalise_axis(axis, self.shape, names[:2])
        self.lane_axes = [k for k in range(len(self.shape)) if k != self.axis]
        self.lanes = tuple(self.shape[k] for k in self.lane_axes)
        every = range(len(self.shape))
        self.operands = {"a": Operand(a, last_axes(a, every)), "b": Operand(b, last_axes(b, every))}
        self.operands["h0"] = self._state("h0", h0)
        for name, value in others.items():
            value = take(name, value)
            if name == "grad_state":
                self.operands[name] = self._state(name, value)
                continue
            if value is None:
                raise TypeError(say.not_an_array(name, type(None)))
            if not _problem.fits(np.shape(value), self.shape):
                raise ValueError(say.operand_shape(name, np.shape(value), self.shape))
            self.operands[name] = Operand(value, last_axes(value, every))
        self.operands["lengths"] = self._lengths(lengths)
        self.metas = {name: empty_like(o.value) for name, o in self.operands.items() if name != "lengths"}
        self.chunks, self.operands = align(self.operands, self.shape)

    def _state(self, name: str, value: Any) -> Operand:
        if value is not None and not _problem.fits(np.shape(value), self.lanes):
            raise ValueError(say.state_shape(name, np.shape(value), self.lanes))
        return Operand(value, last_axes(value, self.lane_axes))

    def _lengths(self, lengths: Any) -> Operand:
        if lengths is None:
            return Operand(None)
        steps = self.shape[self.axis]
        if isinstance(lengths, da.Array):
            lengths = take("lengths", lengths)
            if lengths.dtype.kind not in "iu":
                raise TypeError(say.lengths_dtype(f"dtype {lengths.dtype}"))
        elif not _arrays.is_on_device(lengths):
            lengths = _checks.lengths_in_range(_checks.lengths(lengths), steps)
        _problem.check_lengths_shape(tuple(lengths.shape), self.lanes)
        return Operand(lengths, tuple(self.lane_axes[: len(lengths.shape)]))


def _local(lengths: Any, start: int, steps: int, whole: int) -> Any:
    """Return how many steps of each lane are valid in a chunk, or None."""
    if lengths is None:
        return None
    lengths = lengths.astype(np.int64)
    if lengths.size and (lengths.min() < 0 or lengths.max() > whole):
        raise ValueError(say.lengths_range(int(lengths.min()), int(lengths.max()), whole))
    return (lengths - start).clip(0, steps)


class _Recurrence(NamedTuple):
    """What every chunk of a recurrence is told beside its operands; ``steps`` are those of the whole."""

    family: str
    names: Any
    axis: int
    reverse: bool
    steps: int


def _adapter(*blocks: Any) -> Any:
    """Return what runs a chunk: the blocks of a Dask array stand in memory, or on a GPU."""
    if _arrays.any_on_device(*blocks):
        from ._cuda import _recurrence

        return _recurrence
    return _host


def _walk(state: Any, place: Any, a: Any, b: Any, lengths: Any, *, r: _Recurrence) -> Any:
    start, shape = place
    with _threads.alone():
        lengths = _local(lengths, start, shape[r.axis], r.steps)
        run = _adapter(a, b, state).forward
        return run(r.family, r.names, a, b, state, r.axis, r.reverse, lengths, True, None)


def forward(
    family: str, names: Any, a: Any, b: Any, h0: Any, axis: Any, reverse: Any, lengths: Any, return_state: Any, out: Any
) -> Any:  # fmt: skip
    """Return the graph of a recurrence; ``names`` are what the caller calls the operands."""
    axis, reverse = _checks.axis(axis), _checks.flag("reverse", reverse)
    return_state = _checks.flag("return_state", return_state)
    if out is not None:
        raise TypeError(say.out_lazy())
    p = _Problem(names, a, b, h0, axis, lengths, {})
    meta_a, meta_b, meta_h0 = (p.metas[name] for name in ("a", "b", "h0"))
    run = _adapter(meta_a, meta_b, meta_h0).forward
    meta, last = run(family, names, meta_a, meta_b, meta_h0, p.axis, reverse, None, True, None)
    r = _Recurrence(family, names, p.axis, reverse, p.shape[p.axis])
    blocks = [p.operands[name] for name in ("a", "b", "lengths")]
    walk = Walk(family, functools.partial(_walk, r=r), p.chunks, blocks, p.axis, reverse, p.operands["h0"])
    h = walk.result("h", 0, meta)
    return (h, walk.state("last", last)) if return_state else h


def _walk_back(
    carry: Any, place: Any, g: Any, a: Any, b: Any, h: Any, lengths: Any, before: Any, *, r: _Recurrence
) -> Any:  # fmt: skip
    start, shape = place
    with _threads.alone():
        lengths = _local(lengths, start, shape[r.axis], r.steps)
        run = _adapter(g, a, b, h, before, carry).vjp
        grads = run(r.family, r.names, g, a, b, h, before, r.axis, r.reverse, lengths, carry)
    # Where an operand is broadcast, a chunk has a part of its gradient: they are added up in the result's axes.
    spread = (grad.reshape((1,) * (len(shape) - grad.ndim) + grad.shape) for grad in grads[:2])
    carry = grads[2]
    if carry is not None:
        carry = carry.reshape((1,) * (len(shape) - 1 - carry.ndim) + carry.shape)
    return (*spread, carry)


def _edge(h: Any, h0: Any, lengths: Any, *, axis: int, reverse: bool, at: int, lanes: tuple[int, ...]) -> Any:
    """Return the state with which a chunk begins: the last of the chunk before, of its states ``h``."""
    padded = h.reshape((1,) * (len(lanes) + 1 - h.ndim) + h.shape)
    state = padded[(slice(None),) * axis + (0 if reverse else -1,)]
    if reverse and lengths is not None and h0 is not None:
        # A lane that is shorter than this begins with its first state, and in the chunk before is all padding.
        lengths = lengths.reshape(lengths.shape + (1,) * (len(lanes) - lengths.ndim))
        state = np.where(
            lengths > at, state, np.asarray(h0, state.dtype) if np.isscalar(h0) else h0.astype(state.dtype)
        )
    return np.broadcast_to(state, lanes)


def vjp(
    family: str, names: Any, g: Any, a: Any, b: Any, h: Any, h0: Any, axis: Any, reverse: Any, lengths: Any,
    grad_state: Any,
) -> Any:  # fmt: skip
    """Return the graph of a recurrence's adjoint; ``names`` are what the caller calls ``g, a, b, h``."""
    axis, reverse = _checks.axis(axis), _checks.flag("reverse", reverse)
    p = _Problem(names[1:3], a, b, h0, axis, lengths, {names[0]: g, names[3]: h, "grad_state": grad_state})
    axis = p.axis
    order = (names[0], "a", "b", names[3])
    g_meta, a_meta, b_meta, h_meta = (p.metas[name] for name in order)
    state_meta = p.metas["grad_state"]
    metas = g_meta, a_meta, b_meta, h_meta, p.metas["h0"]
    grads = _adapter(*metas, state_meta).vjp(family, names, *metas, axis, reverse, None, state_meta)
    r = _Recurrence(family, names, axis, reverse, p.shape[axis])
    step = functools.partial(_walk_back, r=r)
    states, first, valid = (p.operands[name] for name in (names[3], "h0", "lengths"))
    starts, count = starts_of(p.chunks[axis]), len(p.chunks[axis])

    def edge(walk: Walk, index: Sequence[int]) -> Any:
        ago = 1 if reverse else -1
        at = index[axis] + ago  # the chunk before in the scan direction; one without steps has no state
        while 0 <= at < count and not p.chunks[axis][at]:
            at += ago
        if not 0 <= at < count:
            end = index[axis] == (count - 1 if reverse else 0)
            if end or first.value is None:
                return first.block(index)
            lanes = tuple(c[i] for k, (c, i) in enumerate(zip(p.chunks, index, strict=True)) if k != axis)
            key = (f"edge-{walk.name}", *index)  # empty chunks are to come, which would add up a broadcast state again
            walk.graph[key] = (np.broadcast_to, first.block(index), lanes)
            return key
        place = (*index[:axis], at, *index[axis + 1 :])
        lanes = tuple(c[i] for k, (c, i) in enumerate(zip(p.chunks, index, strict=True)) if k != axis)
        task = functools.partial(_edge, axis=axis, reverse=reverse, at=starts[at], lanes=lanes)
        key = (f"edge-{walk.name}", *index)
        walk.graph[key] = (task, states.block(place), first.block(index), valid.block(index))
        return key

    blocks = [*(p.operands[name] for name in order), valid]
    walk = Walk(
        f"{family}_vjp", step, p.chunks, blocks, axis, not reverse, p.operands["grad_state"], link=edge, linked=(first,)
    )  # fmt: skip
    shapes = {name: np.shape(value) for name, value in (("a", a), ("b", b), ("h0", h0))}
    every = tuple(range(len(p.shape)))
    grad_a, grad_b = (
        _gathered(functools.partial(walk.result, f"grad_{name}", k), p.chunks, every, shapes[name], grad)
        for k, (name, grad) in enumerate(zip("ab", grads[:2], strict=True))
    )
    if h0 is None:
        return grad_a, grad_b, None
    lanes = tuple(p.chunks[k] for k in p.lane_axes)
    return grad_a, grad_b, _gathered(
        functools.partial(walk.state, "grad_h0"), lanes, range(len(lanes)), shapes["h0"], grads[2]
    )  # fmt: skip


def _gathered(
    make: Callable[..., da.Array], chunks: Any, axes: Sequence[int], shape: tuple[int, ...], meta: Any
) -> Any:
    """Return an operand's gradient: the chunks' parts of it, added up over what it was broadcast to."""
    full = (1,) * (len(axes) - len(shape)) + tuple(shape)
    stretched = tuple(k for k, n in zip(axes, full, strict=True) if n == 1 and sum(chunks[k]) != 1)
    own = tuple((1,) * len(c) if k in stretched else c for k, c in enumerate(chunks))
    dtype = meta.dtype
    parts = make(da.utils.meta_from_array(meta, len(axes)), own)
    if stretched:
        parts = parts.sum(axis=stretched, keepdims=True, dtype=_shapes.wide_dtype(dtype)).astype(dtype)
    return parts[(0,) * (len(axes) - len(shape))]

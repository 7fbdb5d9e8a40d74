"""Statistics of pandas' frames and Series, whose labels are in any order, and of streams in chunks."""

import numpy as np
from records import function

from .draw import chance
from .oracles import wide
from .summaries import CONSTANTS, Statistics
from .ways import Mismatch, compare, tolerance_of


class Frames(Statistics):
    def __init__(self):
        self.ways = [labelled, labelled, streamed]

    def draw(self, name, traits, rng):
        call = super().draw(name, traits, rng, most=2)
        while np.ndim(call.given["x"]) > 2 or "resets" in call.options:
            call = super().draw(name, traits, rng, most=2)
        call.options["axis"] = 0
        call.given["x"] = np.array(call.given["x"], np.float64 if chance(traits, 0.7) else np.float32)
        if call.given.get("y") is not None:
            call.given["y"] = np.array(np.broadcast_to(call.given["y"], call.given["x"].shape), np.float64)
        columns = call.given["x"].shape[1:]
        for own in CONSTANTS.keys() & call.given.keys():  # a number, or one a column
            is_number = not columns or "times" in call.options or chance(traits, 0.4)
            call.given[own] = np.asarray(CONSTANTS[own][0](rng, () if is_number else columns)).real
            call.given[own] = float(call.given[own]) if is_number else call.given[own]
        rows = len(call.given["x"])
        for own in ("offsets", "groups", "times"):  # of this many steps
            if own == "offsets" and call.options.get(own) is not None:
                call.options[own] = [0, rows // 2, rows]
            elif call.options.get(own) is not None and len(call.options[own]) != rows:
                call.options[own] = np.sort(np.resize(call.options[own], rows))
        return call


def frame_of(array, rng, names, rows):
    """Return a frame or a Series with these labels; a frame's columns may be in another order."""
    import pandas

    if array.ndim == 1:
        return pandas.Series(array, index=rows)
    order = rng.permutation(len(names))
    return pandas.DataFrame(array, index=rows, columns=names)[[names[k] for k in order]]


def labelled(family, call, traits, rng):
    """Compare with arrays by labels, whatever their order."""
    import pandas

    x, options = call.given["x"], dict(call.options)
    wanted = family.expect(call, {name: wide(v) for name, v in call.given.items()})[0]
    rows = pandas.Index(rng.permutation(len(x)) * 7)
    names = [f"c{k}" for k in range(x.shape[1])] if x.ndim > 1 else []
    data = frame_of(x, rng, names, rows)
    given = [data] if call.given.get("y") is None else [data, frame_of(call.given["y"], rng, names, rows)]
    for own in CONSTANTS.keys() & call.given.keys():
        value = call.given[own]
        if isinstance(value, np.ndarray):
            value = frame_of(value[None], rng, names, [0]).iloc[0]
        options[own] = value
    if options.get("groups") is not None and chance(traits, 0.5):
        options["groups"] = pandas.Series(options["groups"], index=rows)
    before = data.copy()
    for _ in range(2):
        found = function(call.name)(*given, **options)
        if type(found) is not type(data) or not found.index.equals(data.index):
            raise Mismatch(f"labels of steps: {found.index} in place of {data.index}")
        if x.ndim > 1 and list(found.columns) != list(data.columns):
            raise Mismatch(f"columns: {list(found.columns)} in place of {list(data.columns)}")
        numbers = found[names].to_numpy() if x.ndim > 1 else found.to_numpy()
        compare("the statistic", numbers, wanted, max(tolerance_of(x.dtype), family.tolerance(call)))
    if not before.equals(data):
        raise Mismatch("the frame was written to")


def streamed(family, call, traits, rng):
    """Compare means of a stream, of arrays or frames, with those of the whole."""
    import pandas

    from fastrecur.smoothing import Ewm

    x, options = call.given["x"], dict(call.options)
    if options.pop("groups", None) is not None or options.pop("offsets", None) is not None:
        options = {k: v for k, v in options.items() if k not in ("groups", "offsets")}
    times, _ = options.pop("times", None), options.pop("bias", None)
    call.name, call.options = "smoothing.ewm_mean", options | ({} if times is None else {"times": times})
    call.given.pop("y", None)
    wanted = family.expect(call, {name: wide(v) for name, v in call.given.items()})[0]
    constants = {own: call.given[own] for own in CONSTANTS.keys() & call.given.keys()}
    names = [f"c{k}" for k in range(x.shape[1])] if x.ndim > 1 else []
    is_frame = bool(names) and chance(traits, 0.5)
    if is_frame:
        constants = {
            own: frame_of(v[None], rng, names, [0]).iloc[0] if isinstance(v, np.ndarray) else v
            for own, v in constants.items()
        }
    stream, ends = Ewm(**constants, **options), np.sort(rng.integers(0, len(x) + 1, int(rng.integers(0, 4))))
    for _ in range(2):
        stream.reset()
        parts = []
        for low, high in zip([0, *ends], [*ends, len(x)], strict=True):
            chunk = x[low:high].copy()
            given = pandas.DataFrame(chunk, columns=names)[pick_order(names, rng)] if is_frame else chunk
            part = stream.update(given, *([] if times is None else [times[low:high]]))
            if is_frame and not parts and list(part.columns) != list(given.columns):
                raise Mismatch(f"columns of a chunk: {list(part.columns)} in place of {list(given.columns)}")
            parts.append(part[names].to_numpy() if is_frame else np.array(part))
            chunk[...] = 1e300  # nothing of a chunk is read later
        compare("the stream", np.concatenate(parts), wanted, max(tolerance_of(x.dtype), family.tolerance(call)))


def pick_order(names, rng):
    return [names[k] for k in rng.permutation(len(names))]

"""Series, frames and labelled arrays of pandas, polars and xarray: their numbers, and results put back in their type.

None of these libraries is imported here: a value is told by its type, and what is called is its own methods.
"""

import sys

import numpy as np

from .._arguments import messages as say
from .._arguments.shapes import axis_of


def _kind(value):
    kind = type(value)
    if kind in (int, float, np.ndarray):  # torch's compiler does not follow a number's bases
        return "", ""
    for base in kind.__mro__:
        root = (base.__module__ or "").partition(".")[0]
        if root in ("pandas", "polars", "xarray") and base.__name__ in ("Series", "DataFrame", "DataArray"):
            return root, base.__name__
    return "", ""


def is_labelled(value):
    return bool(_kind(value)[0])


def is_series(value):
    return _kind(value)[1] == "Series"


def is_table(value):
    return _kind(value)[1] in ("Series", "DataFrame")


def is_table_of(value, library):
    return _kind(value) == (library, "DataFrame")


def names_of(value):
    """Return the names by which a value is matched with a frame's columns, in a list; None if it goes by position."""
    library, name = _kind(value)
    if name == "DataFrame":
        return list(value.columns)
    return list(value.index) if (library, name) == ("pandas", "Series") else None


def in_columns(frame, columns, axis, is_first):
    """Return the next frame of a stream with its columns in the stream's order, that of its first frame, and this.

    ``columns`` are None before the first frame if no constant has any. What is no frame is returned as it is.
    """
    if _kind(frame)[1] != "DataFrame":
        return frame, columns
    if axis not in (0, -2):
        raise ValueError(say.stream_axis(axis))
    own = names_of(frame)
    if columns is None or own == columns:
        return frame, own
    wanted = in_order("chunk", own, columns, "the stream")
    return (frame, own) if is_first else (frame[wanted], columns)


def unwrap(value, axis, called="x"):
    """Return a value's numbers, the axis as an integer, and what puts a result in the value's own type."""
    library, name = _kind(value)
    if not library:
        return value, axis, lambda result: result
    if isinstance(axis, str) and library == "xarray":
        if axis not in value.dims:
            raise ValueError(say.dimension(axis, value.dims))
        axis = value.dims.index(axis)
    numbers = value.data if library == "xarray" else _numbers(value, library, called)
    shape = numbers.shape

    def wrap(result):
        if result.shape != shape:
            raise ValueError(say.table_shape(called, shape, result.shape))
        if library == "xarray":
            return value.copy(data=result)
        if library == "pandas":  # nobody else has the memory of a result
            if name == "Series":
                return value._constructor(result, index=value.index, name=value.name, copy=False)
            return value._constructor(result, index=value.index, columns=value.columns, copy=False)
        if name == "Series":
            return type(value)(value.name, result)
        return type(value)(result, schema=value.columns, orient="row")

    return numbers, axis, wrap


def _numbers(value, library, called, hint=""):
    """Return numbers of pandas or polars; as float64 what is none to NumPy, a missing value as NaN."""
    try:
        if library == "pandas" and (numbers := np.asarray(value.to_numpy())).dtype.kind != "O":
            return numbers
        kinds = _dtypes(value)
        if library == "polars":
            if not all(kind.is_numeric() or str(kind) in ("Boolean", "Null") for kind in kinds):
                raise TypeError
            # Of small integers, polars would make float32 where one is missing.
            are_floats = all(kind.is_float() for kind in kinds)
            return np.asarray((value if are_floats else value.cast(sys.modules["polars"].Float64)).to_numpy())
        is_date = any(kind.kind in "Mm" for kind in kinds)  # which NumPy counts in nanoseconds
        if is_date or any(isinstance(v, str) for v in numbers.flat):  # of which NumPy would read numbers
            raise TypeError
        return np.asarray(value.to_numpy(dtype=np.float64, na_value=np.nan))
    except (TypeError, ValueError):
        kinds = _dtypes(value)
        for k, column in enumerate(value.columns if len(kinds) > 1 else ()):  # the first that has other values raises
            column_called = f"{called}[{column!r}]"
            _numbers(getattr(value, "iloc", value)[:, k], library, column_called, say.NUMBERS_OF[library])
        wrong = [kind for kind in kinds if getattr(kind, "kind", "?") in "Mm"] or kinds  # dates are numbers if alone
        raise TypeError(say.frame_values(called, type(value), wrong[0], hint=hint)) from None


def _dtypes(value):
    return [*value.dtypes] if hasattr(value, "columns") else [value.dtype]


def aligned(x, value, name, axis=0):
    """Return the numbers of a value such that they broadcast against those of ``x`` where their labels say."""
    # Columns and dimensions may come in another order; indexes must be the same. Without labels of both: by position.
    (library, kind), (own, own_kind) = _kind(x), _kind(value)
    if own and library not in ("", own):
        raise TypeError(say.labels_mixed(name, own, library))
    rows = [len(v) for v in (x, value) if isinstance(v, (list, tuple)) or _kind(v)[1] in ("Series", "DataFrame")]
    if name == "y" and (own or library) and len(set(rows)) > 1:
        raise ValueError(say.table_rows(*rows))
    if not own:
        return value
    if library == "xarray":
        return _aligned_array(x, value, name)
    is_beside_frame = (kind, own_kind) == ("DataFrame", "Series")
    if library == "pandas" and name != "y" and is_beside_frame:
        if value.index.is_unique and x.columns.is_unique and set(value.index) == set(x.columns):
            if len(value) and value.index.equals(x.index):  # an empty table has the same result by either
                raise ValueError(say.labels_of_both(name))
            return unwrap(value[x.columns], 0, name)[0]  # a factor for each column
        if not value.index.equals(x.index):
            raise ValueError(say.indexes("x", name, f"index, or `{name}` the columns of `x` as its index"))
    if library:
        value = _in_order(x, value, name)
    if (kind, own_kind) == ("Series", "DataFrame"):  # of factors: each column would give another result
        raise ValueError(say.labels_frame(name))
    if is_beside_frame and axis not in (0, -2):
        raise ValueError(say.labels_axis(name))
    numbers = unwrap(value, 0, name)[0]
    return numbers[:, np.newaxis] if is_beside_frame else numbers


def plain(value):
    """Return what a Series, a frame or a DataArray holds, as NumPy has it; others as they are."""
    return value.to_numpy() if is_labelled(value) else value


def along(x, value, name, axis, called="x"):
    """Return what there is one of for each step, or for each value, in the order of ``x`` where both have labels."""
    library, own = _kind(x)[0], _kind(value)[0]
    if own != library or not own:
        return value
    if library == "xarray":
        time = (x.dims[axis_of(axis, x.shape, (called,))],)
        if value.ndim == 1 and value.dims != time:
            raise ValueError(say.dimensions(name, value.dims, time))
        found = _aligned_array(x, value, name)
        return found if value.ndim > 1 or name == "resets" else value.data
    return _in_order(x, value, name, axis, called)


def _in_order(x, value, name, axis=0, called="x"):
    """Return a Series or a frame of the steps of another, with its columns in the order of that one."""
    wanted, came = (list(getattr(v, "columns", ())) for v in (x, value))
    is_turned = wanted and not came and axis in (1, -1)
    if _kind(x)[0] == "pandas" and not (x.columns if is_turned else x.index).equals(value.index):
        raise ValueError(say.indexes(called, name, "index, along this axis its columns" if is_turned else "index"))
    if wanted == came or not (wanted and came) or name == "groups":
        return value
    return value[in_order(name, came, wanted, "`x`")]


def in_order(name, came, wanted, of):
    """Return the columns ``of`` another if they are those that came, in some order; raise if they are not."""
    if len(set(wanted)) < len(wanted) or len(wanted) != len(came) or set(wanted) != set(came):
        raise ValueError(say.columns(name, came, wanted, of))
    return wanted


def _aligned_array(x, value, name):
    """Return a DataArray's numbers with its dimensions in another's order, 1 where it has none."""
    if not set(value.dims) <= set(x.dims):
        raise ValueError(say.dimensions(name, value.dims, x.dims))
    for dim in value.dims:
        is_known = dim in x.indexes and dim in value.indexes
        if x.sizes[dim] != value.sizes[dim] or (is_known and not x.indexes[dim].equals(value.indexes[dim])):
            raise ValueError(say.coordinates(name, dim))
    ordered = value.transpose(*(dim for dim in x.dims if dim in value.dims))
    return ordered.data[tuple(slice(None) if dim in value.dims else np.newaxis for dim in x.dims)]

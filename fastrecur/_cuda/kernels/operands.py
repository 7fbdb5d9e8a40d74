"""A kernel's operands as one value each, the numbers that all of them share, and where a series stands in them.

A launch passes an operand as its address (or a number), the bytes to the next step, and the strides of the series in
three dimensions from outside in. What has no time, such as a first state, has no time stride.
"""

from collections import namedtuple

from . import device as gpu

Operand = namedtuple("Operand", "at time series")
State = namedtuple("State", "at series")
# ``middles`` and ``inners`` are sizes of the series' dimensions; ``width`` are a group's threads.
Geometry = namedtuple("Geometry", "steps reverse lanes middles inners width tiles")
Index = namedtuple("Index", "outer middle inner")
Valid = namedtuple("Valid", "start stop")
# Where series begin anew: offsets, the bytes to the next one, the size of the outer dimension of series, the bytes to
# the next segment's states; flags, the bytes to the next step's, and those of series. A null address: none.
Cuts = namedtuple("Cuts", "at next outers h0 last first resets time series")
# Of filters: how many sections, and the bytes to a section's coefficients, to the next of these, and of states alike.
Cascade = namedtuple("Cascade", "count section field h0 h0_number last last_number")
Counts = namedtuple("Counts", "b a")  # of polynomials' coefficients

# Of sums: what is added up and to where, and strides of results, of summands and of slices of these.
Source = namedtuple("Source", "at kept summed")
Target = namedtuple("Target", "at kept slice")
Sizes = namedtuple("Sizes", "results middles inners summands summed_middles summed_inners slice_size across")

# Of a selective scan: what has a number for each step (``y`` is in a gradient what has come to it), what a model
# learns, and gradients of both; sums are parts, which are added up afterwards, those of B and C ``next`` bytes apart.
Timed = namedtuple("Timed", "u delta z y")
Weights = namedtuple("Weights", "a b c skip bias")
Grads = namedtuple("Grads", "to_u to_delta to_z")
Sums = namedtuple("Sums", "sum_a sum_b sum_c sum_skip sum_bias")
Part = namedtuple("Part", "at time series next")

_STATES = ("h0", "last", "first", "lengths", "skip", "bias", "kept", "sum_a", "sum_skip", "sum_bias")
_STATES += "level0", "trend0", "alpha", "beta", "phi", "waits"
_OPERANDS = ("g", "a", "b", "h", "to_a", "to_b", "product", "keep", "states", "to_product", *Timed._fields, "c")
_OPERANDS += *Grads._fields, "x", "sos", "attack", "release", "slope", "g_slope", "to_x", "to_k"
_CASCADE = "sections section_next field_next h0_next h0_number_next last_next last_number_next"
_CUTS = "offsets offsets_next outers h0_next last_next first_next resets resets_time resets_lane"
_GROUPS = {
    "geometry": (Geometry, Geometry._fields),
    "cuts": (Cuts, tuple(_CUTS.split())),
    "cascade": (Cascade, tuple(_CASCADE.split())),
    "counts": (Counts, ("b_count", "a_count")),
    "sizes": (Sizes, Sizes._fields),
    "source": (Source, ("source", "source_kept", "source_summed")),
    "target": (Target, ("target", "target_kept", "target_slice")),
    **{name: (State, (name, f"{name}_lane")) for name in _STATES},
    **{name: (Operand, (name, f"{name}_time", f"{name}_lane")) for name in _OPERANDS},
    **{name: (Part, (name, f"{name}_time", f"{name}_lane", f"{name}_next")) for name in ("sum_b", "sum_c")},
}
_NESTED = {"timed": Timed, "weights": Weights, "grads": Grads, "sums": Sums}


def fields(name):
    """Return the plain parameters that a kernel's parameter is passed as."""
    if name in _NESTED:
        return tuple(field for part in _NESTED[name]._fields for field in fields(part))
    return _GROUPS.get(name, (None, (name,)))[1]


def assemble(name, plain, make):
    """Return a kernel's parameter, by ``make(group, parts)``, of those plain ones that there are: of none a tuple."""
    if name in _NESTED:
        return make(_NESTED[name], [assemble(part, plain, make) for part in _NESTED[name]._fields])
    group, names = _GROUPS.get(name, (None, (name,)))
    parts = [plain[each] for each in names if each in plain]
    return parts[0] if group is None else make(group if parts else tuple, parts)


@gpu.helper
def offset(strides, index):
    """Return how many bytes from its operand's first series a series stands."""
    return index.outer * strides[0] + index.middle * strides[1] + index.inner * strides[2]


@gpu.helper
def split_index(series, middles, inners):
    row = gpu.divide(series, inners)
    outer = gpu.divide(row, middles)
    return Index(outer, row - outer * middles, series - row * inners)


@gpu.helper
def of_series(x, index, t):
    """Return an operand from step t of a series on."""
    return Operand(gpu.shift(x.at, offset(x.series, index) + t * x.time), x.time, x.series)


@gpu.helper
def later(x, steps):
    """Return an operand so many steps later."""
    return Operand(gpu.shift(x.at, steps * x.time), x.time, x.series)


@gpu.helper
def valid_steps(lengths, index, geometry):
    """Return the first valid step of a series in the direction of the scan, and the one past the last.

    Lengths on a device are not looked at beforehand, for that would stall the host: here they are kept in range.
    """
    start, stop = 0, geometry.steps
    if not gpu.is_null(lengths.at):
        length = min(max(gpu.load_int(lengths.at, offset(lengths.series, index)), 0), geometry.steps)
        if geometry.reverse:
            start = geometry.steps - length
        else:
            stop = length
    return Valid(gpu.narrow(start), gpu.narrow(stop))


@gpu.helper
def find_series(series, lengths, geometry):
    """Return whether there is such a series, where it stands, its valid steps, and how many it has: none if not."""
    is_there = series < geometry.lanes
    index = split_index(series if is_there else gpu.narrow(0), geometry.middles, geometry.inners)
    valid, steps = valid_steps(lengths, index, geometry), geometry.steps
    if not is_there:
        valid, steps = Valid(gpu.narrow(0), gpu.narrow(0)), gpu.narrow(0)
    return is_there, index, valid, steps


@gpu.helper
def of_segment(x, segment, step):
    """Return a segment's states, so many bytes behind those of the one before it; a null address stays one."""
    return State(gpu.shift(x.at, 0 if gpu.is_null(x.at) else segment * step), x.series)


@gpu.helper
def load_state(x, index, zero):
    """Return a series' state, zero where there is none."""
    state = zero
    if not gpu.is_null(x.at):
        state = gpu.load(x.at, offset(x.series, index), zero)
    return state


def finder(has_offsets):
    """Return the device function that finds a thread's series, or its segment of one."""

    @gpu.helper
    def find(series, lengths, cuts, geometry, h0, last, first):
        """Return where a series stands, its valid steps, those that the thread goes through, and its states."""
        index = split_index(series, geometry.middles, geometry.inners)
        valid, start, stop = valid_steps(lengths, index, geometry), 0, geometry.steps
        if has_offsets:
            segment = gpu.divide(index.outer, cuts.outers)  # segments are counted in the outer dimension
            index = Index(gpu.narrow(index.outer - segment * cuts.outers), index.middle, index.inner)
            h0, last = of_segment(h0, segment, cuts.h0), of_segment(last, segment, cuts.last)
            first, at = of_segment(first, segment, cuts.first), segment * cuts.next
            # In range, as lengths are.
            begin = min(max(gpu.load_int(cuts.at, at), 0), geometry.steps)
            end = min(max(gpu.load_int(cuts.at, at + cuts.next), begin), geometry.steps)
            if geometry.reverse:
                begin, end = geometry.steps - end, geometry.steps - begin
            start, stop = gpu.narrow(begin), gpu.narrow(end)
            valid = Valid(start, stop)
        return index, valid, start, stop, h0, last, first

    return find

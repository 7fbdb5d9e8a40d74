"""Every error message of the library: the argument in backticks, the rule, and what came.

Each is a function that returns the text. Its arguments are its template's fields in their order; where that is not the
order of the text, fields are the arguments' numbers.
"""

import string
import types


def _type(kind):
    return f"{kind.__module__}.{kind.__qualname__}" if kind.__module__ != "builtins" else kind.__qualname__


def _shown(value):
    if isinstance(value, (type, types.FunctionType)):
        return _type(value)
    if isinstance(value, (list, dict)) and all(isinstance(name, str) for name in value):
        return ", ".join(f"`{name}`" for name in value) or "none"
    return tuple(value) if isinstance(value, tuple) else value  # torch.Size has a text of its own


def _message(template):
    """Return the function that fills in a template, and adds a ``hint`` if it is given one."""
    names = dict.fromkeys(field for _, field, _, _ in string.Formatter().parse(template) if field)

    def message(*came, hint=""):
        shown = [*map(_shown, came)]
        return template.format(*shown, **dict(zip(names, shown, strict=True))) + hint

    return message


masked = _message(
    "`{name}` must not be a masked array: fill it (with NaN for fastrecur.smoothing), or pass its data and `lengths`"
)
subclass = _message("`{name}` must be a plain array, got {kind} with functions of its own: pass numpy.asarray of it")
too_large = _message("`{name}` must be a number that {dtypes} can hold, got an integer of more than {bits} bits")
ragged = _message("`{name}` must be a rectangular list of numbers, got one that NumPy cannot convert: {error}")
not_a_tensor = _message(
    "`{name}` must be a tensor or a number, as other operands are tensors, got {kind}: pass torch.as_tensor of it"
)
no_tensor = _message("at least one operand must be a tensor where `out`, `lengths` or a state is one")
devices = _message("all tensors must be on one device, got `{first}` on {device}, `{name}` on {other}")
no_torch = _message("fastrecur.torch needs PyTorch: pip install 'fastrecur[torch]', or '.[torch]' in a clone")
untraced = _message("`{name}` must be values that can be read: neither mapped by vmap nor traced by a compiler")
ends_device = _message("`{name}` must be on the operands' device or on the CPU, got {device}")
layout = _message("`{name}` must be a plain dense tensor (torch.strided, without names), got {kind}")
# Ends in torch's own words, so that a search finds it.
out_gradient = _message(
    "`out` cannot be given with operands that require grad: functions with out=... arguments don't support "
    "automatic differentiation, but one of the arguments requires grad."
)
gpu = _message("`{name}` must be in CPU memory, as the other arrays are, got {kind} on a GPU or another device")
compiled = _message(
    "fastrecur: compiled {what} in {seconds} s, kept in {place}: the first call of each dtype, layout and size waits. "
    "FASTRECUR_NOTICES=0 hides this line."
)
no_kernel = _message("the compiled kernel holds no function {symbol}")
kernel_type = _message("numba {version} compiles kernels to functions of a type that cannot be called here: {kind}")
kernel_parameters = _message("{kernel} has more than {most} parameters")
kernel_arguments = _message("a kernel takes {arity} arguments here, and {came} came")
bundling = _message("the kernel {name} was not compiled for a bundle: see above what its compiler says")
bundled_kernel = _message("the kernel {name} cannot be bundled: it calls {missing}, which not every process has")
bundled_relocations = _message("the kernel {name} cannot be bundled: it has relocations of the kinds {kinds}")
kernel_scratch = _message("a prepared call has room for {most} words of scratch memory, and {words} are required")
gpu_packages = _message(
    "arrays on a GPU need numba-cuda, and {missing} is missing: in a clone of fastrecur, pip install '.[cuda13]',"
    " or '.[cuda12]' for a driver older than 580"
)
gpu_compiler = _message(
    "arrays on a GPU need a numba-cuda that goes with numba, as 0.30.4 does with 0.61 to 0.68: "
    "{first} with {second} fails: {error}"
)
gpu_memory = _message("arrays on a GPU need free memory there, got: {error}")
gpu_forked = _message(
    "a process must not use a GPU that its parent used before it forked: start it by 'spawn' or 'forkserver', "
    "got: {error}"
)
gpu_failed = _message("the driver of the GPU must do what it is asked, got: {error}, perhaps of earlier work there")
gpu_driver = _message("arrays on a GPU need an NVIDIA driver that responds, got: {error}")
gpu_too_old = _message("arrays on a GPU need compute capability 7.5 or later, got {1}.{2} on device {0}")
complex_on_gpu = _message("`{name}` must be real on a GPU, where weighted averages are real: pass each part by itself")
bfloat16 = _message("`{name}` holds bfloat16, which needs the package ml_dtypes: pip install ml_dtypes")
host_and_device = _message("`{0}` must be on the device that `{2}` is on, a GPU, got {1} in CPU memory")
two_devices = _message("all arrays must be on one device, got `{0}` on device {1} and `{2}` on device {3}")
dlpack_alone = _message("`{name}` must be of a library with an array API namespace to allocate the result, got {kind}")
keep_memory = _message("{variable} must be a number of bytes, 0 to keep none, got {came!r}")
made_otherwise = _message(
    "{0} was asked for an array on device {2} with strides {1}, and made one on device {4} with strides {3}: pass "
    "arrays of a library that does, or `out`"
)
unaligned = _message("`{name}` must be aligned on a GPU: its strides must be multiples of its dtype's size")
misplaced = _message("`{0}` must be aligned on a GPU: its address must be a multiple of {2}, got {1:#x}")
too_many = _message("arrays on a GPU must have fewer than 2**31 series and steps, got {lanes} series of {steps} steps")
too_many_dimensions = _message("an operand on a GPU must be broadcast along fewer separate axes: copy it in full")
gpu_capture = _message(
    "a call that is captured into a CUDA graph must not allocate its results, for arrays of {library}: pass `out`, "
    "keep `lengths`, `offsets` and `resets` on the device, and capture no `return_state`, gradient or empty array"
)
gpu_capture_host = _message("a call captured into a CUDA graph must have `{name}` on the device, got it on the host")
gpu_capture_packed = _message("packed sequences must stay out of CUDA graphs: calls copy batch sizes to the device")
gpu_capture_unloaded = _message("a call captured into a CUDA graph must have its kernels loaded: make it once before")
simulated = _message("`{name}` must not be an array of Numba's simulator (NUMBA_ENABLE_CUDASIM): pass `copy_to_host()`")


def gpu_old_driver(needed, version):
    newer, other = ("580", ", or pip install '.[cuda12]'") if needed > 12 else ("525", "")
    return (
        f"arrays on a GPU need a driver for CUDA {needed}, which is {newer} or later, with the packages that are "
        f"installed, got one for CUDA {version}: update the driver{other}"
    )


def not_an_array(name, kind, smooths=False):
    """``smooths`` is whether `name` is the signal of a recurrence."""
    if "GroupBy" in kind.__name__:
        advice = ": pass the Series or frame itself, and `groups` to the functions of fastrecur.smoothing"
    elif kind.__module__.partition(".")[0] in ("pandas", "polars", "xarray"):
        is_table = kind.__name__ in ("Series", "DataFrame", "DataArray")  # which fastrecur.smoothing takes
        ways = {"LazyFrame": "its `collect()`", "Dataset": "one of its arrays", "DataTree": "one of its arrays"}
        expression = "the function to its `map_batches`, which calls it with a Series"
        own = {"to_numpy": "its `to_numpy()`", "map_batches": expression}
        way = ways.get(kind.__name__) or next((own[method] for method in own if hasattr(kind, method)), "")
        advice = f": pass {way}" * bool(way) + (
            ", or use fastrecur.smoothing, whose ewm_mean keeps the type" if is_table and smooths else ""
        )
    elif kind in (type(None), str):
        advice = ""
    else:
        advice = ": an array exports __array_interface__ or __dlpack__, and numpy.asarray makes one of much else"
    return f"`{name}` must be an array, a list or a number, got {_type(kind)}{advice}"


unreadable = _message("`{name}` must be an array that NumPy can read by {protocol}, got {kind}: {error}")


def dtype(name, came):
    advice = ": pass numpy.asarray(..., float) of it, with NaN for None, which fastrecur.smoothing skips"
    return (
        f"`{name}` must hold float16, bfloat16, float32, float64, complex64, complex128, integers or bools, "
        f"got dtype {came}{advice if str(came) == 'object' else ''}"
    )


def promotion(found):
    which, came = ", ".join(f"`{name}`" for name, _ in found), ", ".join(str(dtype) for _, dtype in found)
    return f"{which} must have dtypes with a common type, got {came}"


complex_gate = _message("`{name}` must be real, as the gate of a weighted average, got dtype {dtype}")
complex_of_real = _message("`{name}` must be real, as the operands are and so the result is, got dtype {dtype}")


def mixed(found):
    came = ", ".join(f"{f'`{name}`' if name else 'others'} from {library}" for name, library in found)
    ways = {"numpy": "torch.from_numpy makes a tensor of an array", "torch": "a tensor's `numpy()` is an array"}
    is_pair = {library for _, library in found} == ways.keys()
    return f"all arrays must come from one library, got {came}{': ' * is_pair}{', '.join(ways.values()) * is_pair}"


def broadcast(names, shapes, axis=None):
    names, shapes = zip(*((name, shape) for name, shape in zip(names, shapes, strict=True) if len(shape)), strict=True)
    which = " and ".join(f"`{name}`" for name in names)
    came = f"{which} must broadcast against each other, got shapes {' and '.join(str(tuple(s)) for s in shapes)}"
    for name, one, other in zip(names, shapes, shapes[::-1], strict=True) if axis is not None else ():
        if len(one) == 1 < len(other) and -len(other) <= axis < len(other) and one[0] == other[axis]:
            per_step = tuple(n if k == axis % len(other) else 1 for k, n in enumerate(other))
            return f"{came}: with a value for each step, `{name}` is shaped {per_step}"
    return came


def no_axis(names):
    one = "one of " * (len(names) > 1) + _shown(names)
    return f"{one} must have at least one dimension, to hold time, got numbers (0-d) only"


axis_range = _message("`axis` must be in {low}..{high} for a result of shape {shape}, got {axis}")
flag = _message("`{name}` must be True or False, got {kind}")


def state_shape(name, shape, lanes):
    if not lanes:
        return f"`{name}` must be a number or a 0-d array, as a single series has one state, got shape {tuple(shape)}"
    segments = " (with `offsets`, the segments first)" * (name in ("h0", "grad_state"))
    rule = f"the shape of the result without `axis`{segments}, {tuple(lanes)}, or broadcast to it"
    return f"`{name}` must have {rule}, got {tuple(shape)}"


exact_shape = _message("`{0}` must have the shape {2}, got {1}")
operand_shape = _message("`{0}` must have the shape of the result, {2}, or broadcast to it, got {1}")
lengths_dtype = _message("`lengths` must hold integers, got {came}")


def lengths_shape(shape, lanes):
    leading = f"shaped like one or more leading axes of {tuple(lanes)}, the result without `axis`"
    return f"`lengths` must be {leading if lanes else 'one integer for a single series'}, got shape {tuple(shape)}"


def lengths_range(low, high, steps):
    came = f"values from {low} to {high}" if low < high else low
    return f"`lengths` must be in 0..{steps}, the number of time steps, got {came}"


offsets_and_lengths = _message("`lengths` must be left out with `offsets`: what is packed has no padding")
offsets_kind = _message(
    "`offsets` must be integers in one dimension, one more than segments, got dtype {dtype} and shape {shape}"
)
offsets_ends = _message("`offsets` must begin with 0 and end with {2}, the number of time steps, got {0} and {1}")
offsets_order = _message("`offsets` must never descend, got {before} and then {after}")
resets_dtype = _message("`resets` must hold bools, got dtype {dtype}: pass `resets != 0`; positions are `offsets`")
resets_shape = _message(
    "`resets` must be shaped like one or more leading axes of the result, {1}, axis {2} among them (an axis of 1 is "
    "broadcast), got {0}"
)
segments_batched = _message("`offsets` must be the same for all samples of torch.vmap")
segments_library = _message("`{name}` has no kernels yet for {library}: pass each segment by itself")
out_type = _message("`out` must be an array of the operands' library, got {kind}")
out_shape = _message("`out` must have the result's shape {1}, got {0}")
out_dtype = _message("`out` must have the result's dtype {1}, got {0}")
out_read_only = _message("`out` must be writeable, got a read-only array")
out_overlap = _message(
    "`out` must be `{name}` itself or share no memory with it, got memory that it shares in another order or in part"
)
out_shared = _message("`out` must share no memory with `{name}`, which are read while results are written")
out_self_overlap = _message("`out` must not overlap itself, got an array with two indices for one place in memory")


# ---- Selective scan ------------------------------------------------------------------------------------------------

scan_other_layout = _message(
    "`A` must have a row for each of the {channels} channels of `u` with layout={layout}, got {rows}: "
    "those of layout={other}?"
)
scan_layout = _message("`layout` must be 'bdl' for (B, D, L) or 'bld' for (B, L, D), got {layout!r}")
scan_map = _message("`{name}` must have the shape {step}, {groups} or {constant}, got {came}")
scan_groups = _message("`{name}` must have a number of groups that divides the {channels} channels, got {came}")
scan_two_groups = _message("`B` and `C` must have equal numbers of groups, or one of them one, got {0} and {1}")
scan_offsets_batch = _message("`offsets` must come with a batch of 1, as segments follow each other in it, got {batch}")
scan_dtype = _message("`{name}` must hold float16, bfloat16, float32 or float64, got dtype {dtype}")
scan_complex = _message("`{name}` must be real, as complex states are not supported yet, got dtype {dtype}")
scan_tensor = _message("`{name}` must be a tensor, as other operands are, got {kind}")
scan_batched = _message("`lengths`, `offsets` and `resets` must be the same for all samples of vmap")
no_transformers = _message("patch_transformers needs transformers: pip install transformers")
transformers_moved = _message(
    "transformers {version} has no {name} that takes what fastrecur knows of: its functions stay, call those of "
    "fastrecur.torch.mamba in your model; versions 5.24 and some around it have it"
)
scan_library = _message(
    "all operands of {function} must be in CPU memory, as it has no kernels for {kind} yet: pass NumPy's arrays or "
    "tensors"
)
scan_states = _message("`A` must have at most {most} states a channel on a GPU, got {came}")


# ---- Networks -------------------------------------------------------------------------------------------------------

rnn_number = _message("`{name}` must be {rule}, got {came!r}")
rnn_dropout = _message(
    "`dropout` should be a number in range [0, 1] representing the probability of an element being zeroed, got "
    "{dropout!r}"
)
rnn_dropout_of_one_layer = _message(
    "`dropout` adds dropout after all but the last recurrent layer, so non-zero dropout expects num_layers "
    "greater than 1, but got dropout={dropout} and num_layers=1"
)
rnn_layers_options = _message("{names} must be left out with `layers`: they are given to the layers themselves")
rnn_layers_batch_first = _message("`layers` must be time first, got batch_first=True in layer {k}: give it to the QRNN")
rnn_layers_chain = _message("`layers` must fit one another: layer {0} must have input_size {2}, got {1}")
rnn_layer_kind = _message("`layers` must hold modules with an input_size and a hidden_size, got {1} as {0}")
rnn_product = _message("`{0}` must give {2} features, for the layer's hidden_size and gates, got {1}")
rnn_input_kind = _message("`input` must be a tensor or a PackedSequence, got {kind}")
rnn_input_dim = _message("`input` must be 2-D (unbatched) or 3-D: Expected input to be 2D or 3D, got {dims}D instead")
rnn_input_size = _message("`input`.size(-1) must be equal to input_size. Expected {1}, got {0}")
rnn_input_dtype = _message(
    "`input` must have the weights' dtype: input dtype ({0}) does not match weight dtype ({1}). Convert input: "
    "input.to({1})"
)
rnn_no_steps = _message("`input` must have at least one step: Expected sequence length to be larger than 0 in RNN")
rnn_packed_dim = _message("`input` must have 2 dimensions where it is packed, got {dims}")
rnn_hidden_type = _message("`{name}` must be a tensor, or a list of one for each layer and direction, got {kind}")
rnn_two_hidden = _message("`hidden` and `hx` are two names of one argument: give one of them")
rnn_segments_input = _message(
    "`input` must be a tensor, (T, batch, features) or (T, features) with `resets`, (total, features) with `offsets`, "
    "got {1} with `{0}`"
)
rnn_segments_saved = _message("`{name}` must be given without `save_prev_x`: give a state of `initial_state` instead")
rnn_hidden_dim = _message(
    "`{name}` must fit the input: For {un}batched {d}-D input, hidden should also be {d}-D but got {dims}-D tensor; "
    "with `offsets`, 3-D"
)
rnn_hidden_count = _message("`{0}` must have a state per layer and direction: Expected a list of {2}, got {1}")
rnn_hidden_sizes = _message("`{name}` must be a list of one state for each layer, of sizes {sizes}, got one tensor")
rnn_hidden_device = _message("`{0}` must be on the input's device, {2}, got one on {1}")
rnn_hidden_dtype = _message(
    "`{0}` must have the input's dtype {2}, except under autocast (in a QRNNState beside half precision, that or "
    "float32), got {1}"
)
rnn_previous = _message(
    "`{0}` holds the inputs before the first one and must fit the input: {2}, got {1}. Call reset() before another "
    "stream, or begin with initial_state()"
)
rnn_saved_lost = _message("`save_prev_x` must be off under {how}, which loses what is saved: pass a QRNNState on")
rnn_saved_bidirectional = _message("`save_prev_x` must be off with bidirectional=True: no input precedes reverse scans")
rnn_state_and_saved = _message("`hidden` must be no QRNNState where the module saves inputs: leave out save_prev_x")
rnn_state_layers = _message("`inputs` of a QRNNState must have one entry for each layer, {1}, got {0}")
rnn_state_window = _message(
    "`inputs` of a QRNNState must hold a tensor for a window above 1, and None for 1, got {came} for {window}"
)
rnn_state_kind = _message("`layers` must hold QRNNLayers where a QRNNState is passed, got {1} as {0}")
rnn_step_directions = _message("`step` must be asked of a module with one direction: bidirectional ones need all steps")
rnn_step_input = _message("`input` of a step must be a tensor, got {kind}")
rnn_step_dim = _message("`input` of a step must be 1-D (unbatched) or 2-D, without time, got {dims}-D")
rnn_step_state = _message("`state` must be a QRNNState, as `initial_state` makes one, got {kind}")
rnn_meta = _message(
    "`input` must be on the weights' device: they are on meta, which has no numbers, and it is on {device}. Make "
    "them with to_empty(device=...), and load or reset_parameters()"
)
weight_drop_module = _message("`module` must be a torch.nn.Module, got {kind}")
weight_drop_weights = _message("`weights` must be a list of the names of parameters, got {came!r}")
weight_drop_names = _message("`weights` must name parameters of the module, got {name!r}, which {module} has not")
ONE_STATE = ": a QRNN has one state, which is the cell's: of an LSTM's (h0, c0), pass `c0` alone"

TAKEN_APART = ": this is a QRNNState taken apart: `state.detach()` gives one without a gradient"


def rnn_hidden_shape(name, came, wanted, rows, hint=""):
    has_segments = len(wanted) == len(rows) == 3 and rows[1] != wanted[1]  # of `offsets`: rows are (total, 1, features)
    which = f"with `offsets` of {wanted[1]} segments, `{name}`" if has_segments else f"`{name}`"
    return f"{which} must fit the layers and the input: Expected hidden size {tuple(wanted)}, got {came}{hint}"


# ---- Smoothing ------------------------------------------------------------------------------------------------------

one_constant = _message("exactly one of `com`, `span`, `halflife` and `alpha` must be given, got {names}")
unexpected = _message("{0}() got an unexpected keyword argument {1!r}: {2}")
by_position = _message("{0}() takes {1} argument{2} by position, got {3}: name the others, as in {4}")
without_ends = _message("{0}() needs `terminated`: True where an episode ended with that step, False if none did")
constant_domain = _message("`{name}` must satisfy: {rule}, got {came}")
constant_type = _message("`{name}` must be a number, got {kind}")
constant_or_array = _message("`{name}` must be a number, a list, an array or a tensor, got {kind}")
halflife_type = _message("`halflife` must be a number, a timedelta, a string of one or an array, got {kind}")
halflife_no_pandas = _message("`halflife` must be a number or a timedelta without pandas, got {halflife!r}")
halflife_string = _message("`halflife` must be a string that pandas.Timedelta takes, got {halflife!r}: {error}")
halflife_without_times = _message("`halflife` can only be a timedelta where `times` are given, got {came!r}")
times_without_halflife = _message("`halflife` must be given with `times`, got {came}")
times_units = _message("`times` and `halflife` must be both dates or both numbers in one unit, got a mixture")
times_dtype = _message("`times` must hold datetime64 or real numbers, got {came}")
times_zones = _message("`times` must all have a time zone, or none")
times_shape = _message("`times` must be the same length as the time axis, ({1},), or of the data's shape, got {0}")
times_missing = _message("`times` must not hold NaT, NaN or infinities, got {time}")
times_order = _message("`times` must not go backwards, got {before} and then {after}")
times_range = _message("`times` must be in the range of {dtype}, in which they and the times before them are compared")
times_months = _message("`times` and `halflife` must both be in months or years, or neither, got units {1} and {0}")
no_numbers = _message("`{name}` must have numbers, got a tensor on the device meta, which has none")
times_gradient = _message("`times` must be constants, which have no gradient: give an `alpha` made from them instead")
groups_alone = _message("`groups` must be given without `offsets` and `resets`: groups are the segments")
KEYS = ": of several columns, pass frame.groupby(columns).ngroup() or pandas.MultiIndex.from_frame(frame[columns])"
NGROUP = ": pass its `ngroup()`"
key_of = _message(": pass the column itself, `{name}=frame[{column!r}]`")
groups_kind = _message("`groups` must be keys in one dimension, got {kind}")
groups_shape = _message("`groups` must have a key for each of the {1} steps, got shape {0}")
sum_adjust = _message("`adjust` must be True, as the sum is not defined otherwise, got False")
count_type = _message("`{name}` must be an integer, got {kind}")
at_least = _message("`{name}` must be at least {least}, got {came}")
real_dtype = _message("`{name}` must hold float32, float64, integers or bools, with NaN for None, got dtype {came}")
table_rows = _message("`y` must have as many rows as `x`, {0}, as one of them is a table, got {1}")
table_shape = _message("`{name}` must have the shape {2} of the result, which has its labels, got {1}: pass an array")
frame_values = _message("`{name}` must hold numbers only, got {2} in a {1}")
NUMBERS_OF = {
    "pandas": ": `frame.select_dtypes('number')` leaves such columns out",
    "polars": ": `frame.select(polars.selectors.numeric())` leaves such columns out",
}
namespace = _message("`{name}` must be an array of a library with the array API's namespace, got {kind}")
indexes = _message("`{name}` and `{other}` must have the same {which}: align them first")
columns = _message("`{0}` must have the columns of {3}, {2}, each once, in any order, got {1}")
labels_mixed = _message("`{0}` must come from the library of `x`, {2}, or have no labels, got one from {1}")
labels_frame = _message("`{name}` must be a Series, or an array, beside a Series")
labels_of_both = _message("`{name}` must be an array where its labels are those of the steps and of the columns of `x`")
labels_axis = _message("`axis` must be 0 where `x` is a frame and `{name}` a Series, which runs along the rows")
dimensions = _message("`{0}` must have dimensions of `x`, {2}, got {1}")
coordinates = _message("`x` and `{name}` must have the same coordinates along {dim!r}: align them first")
dimension = _message("`axis` must be a dimension of the data, {1}, got {0!r}")
stream_shape = _message("`chunk` must have the shape of earlier chunks except along `axis`, {1}, got {0}: call reset()")
stream_axis = _message("`axis` of a stream must be 0 where a chunk is a frame, got {axis}")
stream_constant = _message("`{name}` of a stream must be constant in time, a number or one a series, got shape {shape}")
stream_times = _message("`times` must be given with {which} chunk, as with the first one")
stream_halflife = _message("`times` need a stream made with `halflife`")
pairs_number = _message("`{name}` must be a number for all pairs of columns")
pairs_shape = _message("`x` must have two axes or more for all pairs of columns, got shape {shape}")
pairs_steps = _message("`{name}` must have one value for each step for all pairs of columns, got shape {shape}")
pairs_frame = _message("`x` must be an array or a pandas DataFrame (with `axis` 0) for all pairs, got {kind}")
pairs_groups = _message("`at` and `groups` must not be given together: take these times of the whole result")
pairs_at = _message("`at` must be positions of steps, or unique labels of a DataFrame's index, got {came}")
pairs_label = _message("`at` must be labels of the index of `x`, got {came}")
pairs_range = _message("`at` must be positions of {steps} steps, got {came}")
pairs_y = _message("`y` must not be given with `pairwise`: pass all columns as `x`")
pairs_only = _message("`at` must be given with pairwise=True alone")
merge = _message("two streams can be merged only {rule}")
merge_kind = _message("`later` must be an Ewm, got {kind}")
pcen_bands = _message("`S` must have {0} bands, on its last axis that is not time, and time is axis {2}, got shape {1}")
max_axis = _message("`max_size` must be 1 unless `S` has two dimensions, or more and a `max_axis`, got shape {came}")
filter_state = _message("`zi` must have the shape {1}, with 1 along `axis`, or 1 for some of these, got {0}")
filter_missing = _message("`x` must be finite, as a reverse pass skips no missing value, got {came}: fill it first")
filter_coefficients = _message("`{0}` must have the shape {2}, or 1 in place of an axis of `x`, got {1}")
filter_lead = _message("`a` must not begin with 0: its first coefficient divides all others")
filter_constant = _message("`sos` must not vary in time: what is filtered in both directions has one filter a series")
filter_padtype = _message("`padtype` must be 'odd', 'even', 'constant' or None, got {came!r}")
filter_padlen = _message("`padlen` must be less than the number of steps, {0}, and not negative, got {1}")
filter_padding = _message(
    "`padlen` must be given beside `sos` on a GPU or meta, which nobody reads: SciPy's is {0} where no b2 or a2 is 0"
)
filter_order = _message("filters whose coefficients vary in time must be of order {0} at most, got {1}")
filter_a0 = _message("`sos` must have 1 in its column 3, a0, of all sections: divide each section by it")
filter_real = _message("`{name}` must be real, got dtype {dtype}: filters have real coefficients here")
filter_settles = _message("`sos` must have no pole at 1 here: where 1 + a1 + a2 is 0, no state is a steady one")
filter_in_memory = _message("`x` must be in memory, got a Dask array: sosfilt, lfilter, allpole and follow take these")
filter_lazy = _message("gradients of filters are for arrays in memory and tensors, got a Dask array")
filter_device = _message("`{name}` must be in CPU memory or on a CUDA GPU: filters have no kernels for {device}")
follow_real = _message("`{name}` must be real, got dtype {dtype}: take the magnitude first")
filter_states = _message("`{name}` must be complex on a GPU if `x` is, and else real: it holds {state} beside {signal}")


def values_steps(came, steps, has_next):
    wanted = steps if has_next else steps + 1
    why = "with `next_values`" if has_next else "the value of the state after the last step is needed too"
    return f"`values` must have {wanted} steps along `axis` for {steps} rewards ({why}), got {came}"


same_shape = _message("`{0}` must have the shape {2}, or broadcast to it, got {1}")
discount_dtype = _message("`{name}` must hold numbers, got bools: those that mark the ends of episodes are `{flags}`")
flags_dtype = _message("`{name}` must hold bools, or numbers from 0 to 1, got dtype {came}")
flags_range = _message("`{name}` must be from 0 to 1, got {came}")
flags_gradient = _message("`{name}` must not require grad: no gradient is passed to flags; weigh `gamma` instead")
mask_dtype = _message("`{name}` must hold bools, got dtype {came}")


# ---- Groups of processes --------------------------------------------------------------------------------------------

no_distributed = _message("this build of torch has no torch.distributed")
no_processes = _message("torch.distributed must be initialized first: call torch.distributed.init_process_group")
group_type = _message("`group` must be a process group that this process is in, or None for all processes, got {kind}")
ranks_differ = _message("all ranks of `group` must make the same call, got on rank {0} {1}; on rank {2} {3}")
exchange_failed = _message(
    "the exchange of rank {rank} with the other ranks of `group` failed: one of them has died, came later than "
    "the group's timeout, or passed other shapes; the group cannot be used any more. The error was: {error}"
)
placements = _message("a DTensor must be sharded along `axis` over exactly one dimension of its mesh")
time_is_sharded = _message("a DTensor must not be sharded along `axis` here: use fastrecur.torch.distributed")
sequence_module = _message("`module` must be a QRNN or a QRNNLayer, got {kind}")
sequence_packed = _message("a PackedSequence cannot be sharded along time: pad it")


# ---- Dask -----------------------------------------------------------------------------------------------------------

unknown_chunks = _message("`{0}` must have known chunk sizes, got {2}, unknown on axis {1}: call compute_chunk_sizes()")
out_lazy = _message("`out` must be left out with Dask arrays: they are lazy, and cannot be written to")
lazy_stream = _message("`chunk` must be in memory for a stream, got a Dask array: pass all of it to ewm_mean")
seasons_missing = _message("`{name}` must be given where `{other}` is: seasons need both, or `seasonal=None`")
seasons_kind = _message('`seasonal` must be "add", "mul" or None, got {came!r}')
seasons_state = _message("`{name}` must not be given where `{other}` is None")
seasons_steps = _message("`x` must have two periods, {needed} steps, where the first state is not given, got {came}")
fit_damped = _message("`damped=True` must have a trend, got `trend=False`")
fit_library = _message("`{name}` must be an array in CPU memory or a table, got {kind}: fit its NumPy array")
seasons_gpu = _message("`{name}` must be in CPU memory, a Dask array or a tensor of any device, got {kind}")

# ---- JAX ------------------------------------------------------------------------------------------------------------

jax_device = _message("JAX arrays must be on a CPU, got {0}: elsewhere compose jax.lax.associative_scan, or move them")
jax_sharded = _message(
    "JAX arrays must be on one device outside of jax.jit, got {0}: use jax.shard_map along the batch"
)
jax_offsets = _message("`offsets` must be those of all of a batch under jax.vmap")
jax_traced = _message("`{0}` must not be traced by JAX here: this function has no primitive of JAX's, and runs at once")
jax_version = _message("jaxlib's foreign function interface must be of version 0, got {0}: use an older jax")
jax_out = _message("`out` must be left out with JAX arrays: they cannot be written to")

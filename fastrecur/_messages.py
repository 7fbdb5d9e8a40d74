"""Every error message of the library: the argument in backticks, the rule, and what came.

Each is a function that returns the text. A template's arguments are its fields, in the order in which they are in
it, or in the one that is given.
"""

import string
import types


def _type(kind):
    return f"{kind.__module__}.{kind.__qualname__}" if kind.__module__ != "builtins" else kind.__qualname__


def _shown(value):
    if isinstance(value, (type, types.FunctionType)):
        return _type(value)
    return tuple(value) if isinstance(value, tuple) else value  # torch.Size has a text of its own


def _message(template, order=""):
    """Return the function that fills in a template."""
    fields = [field for _, field, _, _ in string.Formatter().parse(template) if field]
    names = tuple(order.split()) or tuple(dict.fromkeys(fields))

    def message(*came):
        return template.format(**dict(zip(names, map(_shown, came), strict=True)))

    return message


masked = _message(
    "`{name}` must not be a masked array: fill it (with NaN for fastrecur.smoothing), or give a recurrence its "
    "data and `lengths`"
)
subclass = _message(
    "`{name}` must be a plain array, got {kind}, which overrides NumPy's functions: pass numpy.asarray of it and "
    "restore its mask or unit afterwards"
)
too_large = _message("`{name}` must be a number that float64 can hold, got an integer of more than 1023 bits")
too_large_for_tensors = _message(
    "`{name}` must be a number that int64 or float64 can hold, got an integer of more than 63 bits"
)
ragged = _message("`{name}` must be a rectangular list of numbers, got one that NumPy cannot convert: {error}")
not_a_tensor = _message("`{name}` must be a tensor or a number, as other operands are tensors, got {kind}")
no_tensor = _message("at least one operand must be a tensor where `out`, `lengths` or a state is one")
devices = _message("all tensors must be on one device, got `{first}` on {device}, `{name}` on {other}")
unreadable = _message("`{name}` must be values that can be read: neither mapped by vmap nor traced by a compiler")
ends_device = _message("`{name}` must be on the operands' device or on the CPU, got {device}")
layout = _message("`{name}` must be a plain dense tensor (torch.strided, without names), got {kind}")
# Ends in torch's own words, so that a search finds it.
out_gradient = _message(
    "`out` cannot be given with operands that require grad: functions with out=... arguments don't support "
    "automatic differentiation, but one of the arguments requires grad."
)
gpu = _message("`{name}` must be in CPU memory, as the other arrays are, got {kind} on a GPU or another device")
no_kernel = _message("the compiled kernel holds no function {symbol}")


kernel_parameters = _message("{kernel} has more than {most} parameters")


def kernel_arguments(count, came="%ld"):
    return f"a kernel takes {count} arguments here, and {came} came"


kernel_scratch = _message("a prepared call has room for {most} words of scratch memory, and {words} are required")
gpu_packages = _message(
    "arrays on a GPU need numba-cuda, and {missing} is missing: in a clone of fastrecur, pip install '.[cuda13]',"
    " or '.[cuda12]' for a driver older than 580"
)
gpu_driver = _message("arrays on a GPU need an NVIDIA driver that responds, got: {error}")


gpu_too_old = _message(
    "arrays on a GPU need compute capability 7.5 or later, got {capability[0]}.{capability[1]} on device {device}",
    "device capability",
)
complex_on_gpu = _message(
    "`{name}` must be real on a GPU: weighted averages of complex values run on the CPU only, or part by part"
)
bfloat16 = _message("`{name}` holds bfloat16, which needs the package ml_dtypes: pip install ml_dtypes")
host_and_device = _message(
    "`{name}` must be on the device that `{other}` is on, a GPU, got {kind} in CPU memory", "name kind other"
)
two_devices = _message(
    "all arrays must be on one device, got `{name}` on device {device} and `{other}` on device {second}"
)
dlpack_alone = _message(
    "`{name}` must come from a library with an array API namespace, which allocates the result, got {kind}"
)
keep_memory = _message("{variable} must be a number of bytes, 0 to keep none, got {came!r}")
made_otherwise = _message(
    "{library} was asked for an array on device {device} with strides {strides}, and made one on device "
    "{its_device} with strides {its_strides}: pass arrays of a library that does, or `out`",
    "library strides device its_strides its_device",
)
unaligned = _message("`{name}` must be aligned on a GPU: its strides must be multiples of its dtype's size")
misplaced = _message(
    "`{name}` must be aligned on a GPU: its address must be a multiple of {size}, got {address:#x}", "name address size"
)
too_many = _message(
    "an array on a GPU must have fewer than 2**31 series and steps, got {lanes} series of {steps} steps"
)
too_many_dimensions = _message(
    "an operand on a GPU must be broadcast along fewer separate axes: copy it to the result's shape"
)


def not_an_array(name, kind):
    if "GroupBy" in kind.__name__:
        advice = ": pass the Series or frame itself, and `groups` to the functions of fastrecur.smoothing"
    elif kind.__module__.partition(".")[0] in ("pandas", "polars", "xarray"):
        advice = ": pass its `to_numpy()`" + (
            ", or use fastrecur.smoothing, whose ewm_mean keeps the type" if name in ("x", "b") else ""
        )
    elif kind in (type(None), str):
        advice = ""
    else:
        advice = ": an array exports __array_interface__ or __dlpack__, and numpy.asarray makes one of much else"
    return f"`{name}` must be an array, a list or a number, got {_type(kind)}{advice}"


interface = _message("`{name}` must be an array that NumPy can read by its __array_interface__, got {kind}: {error}")
dlpack = _message("`{name}` must be an array that NumPy can read by DLPack, got {kind}: {error}")


def dtype(name, came):
    advice = ": pass numpy.asarray(..., float) of it; if values are missing, use fastrecur.smoothing, which skips NaN"
    return (
        f"`{name}` must hold float16, bfloat16, float32, float64, complex64, complex128, integers or bools, "
        f"got dtype {came}{advice if str(came) == 'object' else ''}"
    )


def promotion(found):
    which, came = ", ".join(f"`{name}`" for name, _ in found), ", ".join(str(dtype) for _, dtype in found)
    return f"{which} must have dtypes with a common type, got {came}"


complex_gate = _message(
    "`{name}` must be real: the gate of a weighted average has no complex kernel, got dtype {dtype}"
)
complex_of_real = _message("`{name}` must be real, as the operands are and so the result is, got dtype {dtype}")


def mixed(found):
    came = ", ".join(f"{f'`{name}`' if name else 'others'} from {library}" for name, library in found)
    return f"all arrays must come from one library, got {came}"


def broadcast(names, shapes, axis=None):
    which = " and ".join(f"`{name}`" for name in names)
    came = f"{which} must broadcast against each other, got shapes {' and '.join(str(tuple(s)) for s in shapes)}"
    for name, one, other in zip(names, shapes, shapes[::-1], strict=True) if axis is not None else ():
        if len(one) == 1 < len(other) and -len(other) <= axis < len(other) and one[0] == other[axis]:
            per_step = tuple(n if k == axis % len(other) else 1 for k, n in enumerate(other))
            return f"{came}: with a value for each step, `{name}` is shaped {per_step}"
    return came


def no_axis(names):
    which = " or ".join(f"`{name}`" for name in names)
    return f"{which} must have at least one dimension, to hold time, got numbers (0-d) only"


axis_type = _message("`axis` must be an integer, got {kind}")


def axis_range(axis, shape):
    return f"`axis` must be in {-len(shape)}..{len(shape) - 1} for a result of shape {tuple(shape)}, got {axis}"


flag = _message("`{name}` must be True or False, got {kind}")


def state_shape(name, shape, lanes):
    if not lanes:
        return f"`{name}` must be a number or a 0-d array, as a single series has one state, got shape {tuple(shape)}"
    return (
        f"`{name}` must have the shape of the result without `axis`, {tuple(lanes)}, or broadcast to it, "
        f"got {tuple(shape)}"
    )


operand_shape = _message(
    "`{name}` must have the shape of the result, {result}, or broadcast to it, got {shape}", "name shape result"
)
lengths_dtype = _message("`lengths` must hold integers, got {came}")


def lengths_shape(shape, lanes):
    if not lanes:
        rule = "must be one integer for a single series"
    else:
        rule = f"must be shaped like one or more leading axes of {tuple(lanes)}, the result without `axis`"
    return f"`lengths` {rule}, got shape {tuple(shape)}"


def lengths_range(low, high, steps):
    came = f"values from {low} to {high}" if low < high else low
    return f"`lengths` must be in 0..{steps}, the number of time steps, got {came}"


offsets_and_lengths = _message("`lengths` must be left out with `offsets`: what is packed has no padding")
offsets_kind = _message(
    "`offsets` must be integers in one dimension, one more than there are segments, got dtype {dtype} and shape {shape}"
)
offsets_ends = _message(
    "`offsets` must begin with 0 and end with {steps}, the number of time steps, got {first} and {last}",
    "first last steps",
)
offsets_order = _message("`offsets` must never descend, got {before} and then {after}")
resets_dtype = _message("`resets` must hold bools, got dtype {dtype}")
resets_shape = _message(
    "`resets` must be shaped like one or more leading axes of the result, {wanted}, axis {axis} among them (an axis of "
    "1 is broadcast), got {came}",
    "came wanted axis",
)
segments_batched = _message("`offsets` must be the same for all samples of torch.vmap")
segments_library = _message("`{name}` has no kernels yet for {library}: pass each segment by itself")


out_type = _message("`out` must be an array of the operands' library, got {kind}")
out_shape = _message("`out` must have the result's shape {wanted}, got {came}", "came wanted")
out_dtype = _message("`out` must have the result's dtype {wanted}, got {came}", "came wanted")
out_read_only = _message("`out` must be writeable, got a read-only array")
out_overlap = _message("`out` must be `{name}` itself or share no memory with it, got a partial overlap")
out_self_overlap = _message("`out` must not overlap itself, got an array with two indices for one place in memory")


# ---- Networks -------------------------------------------------------------------------------------------------------


rnn_number = _message("`{name}` must be {rule}, got {came!r}")
rnn_greater_than_zero = _message("`{name}` must be greater than zero, got {came}")
rnn_dropout = _message(
    "`dropout` should be a number in range [0, 1] representing the probability of an element being zeroed, got "
    "{dropout!r}"
)
rnn_dropout_of_one_layer = _message(
    "`dropout` adds dropout after all but the last recurrent layer, so non-zero dropout expects num_layers "
    "greater than 1, but got dropout={dropout} and num_layers=1"
)


def rnn_layers_options(names):
    which = ", ".join(f"`{name}`" for name in names)
    return f"{which} must be left out with `layers`: they are given to the layers themselves"


rnn_layers_batch_first = _message(
    "`layers` must be time first inside a QRNN, got batch_first=True in layer {k}: give `batch_first` to the QRNN"
)
rnn_layers_chain = _message(
    "`layers` must fit one another: layer {k} must have input_size {wanted}, got {came}", "k came wanted"
)
rnn_layer_kind = _message(
    "`layers` must hold modules with an input_size and a hidden_size, as QRNNLayer, got {kind} as {k}", "k kind"
)
rnn_product = _message(
    "`{name}` must give {wanted} features, for the layer's hidden_size and gates, got {came}", "name came wanted"
)
rnn_input_kind = _message("`input` must be a tensor or a PackedSequence, got {kind}")
rnn_input_dim = _message("`input` must be 2-D (unbatched) or 3-D: Expected input to be 2D or 3D, got {dims}D instead")
rnn_input_size = _message("`input`.size(-1) must be equal to input_size. Expected {wanted}, got {came}", "came wanted")
rnn_input_dtype = _message(
    "`input` must have the weights' dtype: input dtype ({came}) does not match weight dtype ({wanted}). Convert "
    "input: input.to({wanted}), or convert model: model.to({came})"
)
rnn_no_steps = _message("`input` must have at least one step: Expected sequence length to be larger than 0 in RNN")
rnn_packed_dim = _message("`input` must have 2 dimensions where it is packed, got {dims}")
rnn_hidden_type = _message("`hidden` must be a tensor, or a list of one for each layer and direction, got {kind}")
rnn_two_hidden = _message("`hidden` and `hx` are two names of one argument: give one of them")
rnn_segments_input = _message(
    "`input` must be a tensor, (T, batch, features) or (T, features) with `resets`, (total, features) with `offsets`, "
    "got {came} with `{name}`",
    "name came",
)
rnn_segments_saved = _message(
    "`{name}` must be given without `save_prev_x`: give a state of `initial_state` instead, which holds inputs too"
)


def rnn_hidden_dim(batched, dims):
    if batched:
        return f"`hidden` must fit the input: For batched 3-D input, hidden should also be 3-D but got {dims}-D tensor"
    return f"`hidden` must fit the input: For unbatched 2-D input, hidden should also be 2-D but got {dims}-D tensor"


def rnn_hidden_shape(came, wanted):
    return f"`hidden` must fit the layers and the input: Expected hidden size {tuple(wanted)}, got {list(came)}"


rnn_hidden_count = _message(
    "`hidden` must have one state for each layer and direction: Expected a list of {wanted}, got {came}", "came wanted"
)
rnn_hidden_sizes = _message(
    "`hidden` must be a list of one state for each layer where their sizes differ ({sizes}), got one tensor"
)
rnn_hidden_dtype = _message(
    "`hidden` must have the input's dtype {wanted}, but under autocast, got {came}", "came wanted"
)
rnn_previous = _message(
    "`{name}` holds the inputs before the first one and must fit the input: {wanted}, got {came}. Call reset() "
    "before another stream, or begin with initial_state()",
    "name came wanted",
)
rnn_replica = _message(
    "`save_prev_x` must be off under nn.DataParallel: a replica's saved inputs are lost after the call. Use "
    "DistributedDataParallel, or a window of 1"
)
rnn_saved_lost = _message(
    "`save_prev_x` keeps inputs on the module, where {how} loses them: leave it out, and pass a QRNNState "
    "(`initial_state`) from call to call"
)
rnn_saved_bidirectional = _message(
    "`save_prev_x` must be off with bidirectional=True: in the reverse direction, the saved inputs of one call do"
    " not precede those of the next"
)
rnn_state_and_saved = _message(
    "`hidden` must be no QRNNState where the module saves its inputs itself: set its save_prev_x to False, and "
    "pass the state from call to call"
)
rnn_state_layers = _message(
    "`inputs` of a QRNNState must have one entry for each layer, {wanted}, got {came}", "came wanted"
)


def rnn_state_window(window, is_none):
    came = "None" if is_none else "a tensor"
    return f"`inputs` of a QRNNState must hold a tensor for a window above 1, and None for 1, got {came} for {window}"


rnn_state_kind = _message("`layers` must hold QRNNLayers where a QRNNState is passed, got {kind} as {k}", "k kind")
rnn_step_directions = _message(
    "`step` must be asked of a module with one direction: bidirectional=True needs the whole input at once"
)
rnn_step_input = _message("`input` of a step must be a tensor, got {kind}")
rnn_step_dim = _message("`input` of a step must be 1-D (unbatched) or 2-D, without time, got {dims}-D")
rnn_step_state = _message("`state` must be a QRNNState, as `initial_state` makes one, got {kind}")
rnn_meta = _message(
    "`input` must be on the weights' device: they are on meta, which has no numbers, and it is on {device}. Make "
    "them with to_empty(device=...), and load or reset_parameters()"
)
weight_drop_names = _message("`weights` must name parameters of the module, got {name!r}, which {module} has not")


# ---- Smoothing ------------------------------------------------------------------------------------------------------


def one_constant(given):
    came = ", ".join(f"`{name}`" for name in given) or "none"
    return f"exactly one of `com`, `span`, `halflife` and `alpha` must be given, got {came}"


constant_domain = _message("`{name}` must satisfy: {rule}, got {came}")
constant_type = _message("`{name}` must be a number, got {kind}")
constant_or_array = _message("`{name}` must be a number, an array or a tensor, got {kind}")
halflife_type = _message("`halflife` must be a number, a timedelta, a string of one or an array, got {kind}")
halflife_string = _message("`halflife` must be a string that pandas.Timedelta takes, got {halflife!r}: {error}")
halflife_without_times = _message("`halflife` can only be a timedelta where `times` are given")
times_without_halflife = _message("`halflife` must be given with `times`")
times_units = _message(
    "`times` and `halflife` must be both dates (datetime64 and a timedelta) or both numbers in one unit, got a mixture"
)
times_dtype = _message("`times` must hold datetime64 or real numbers, got dtype {came}")
times_zones = _message("`times` must all have a time zone, or none")
times_shape = _message(
    "`times` must be the same length as the time axis, ({steps},), or have the data's shape, got {shape}", "shape steps"
)
times_missing = _message("`times` must not hold NaT, NaN or infinities")
times_order = _message("`times` must not go backwards")
no_numbers = _message("`{name}` must have numbers, got a tensor on the device meta, which has none")
times_gradient = _message(
    "`times` must be constants: no gradient can be passed to them; give an `alpha` made from them instead"
)
groups_alone = _message("`groups` must be given without `offsets` and `resets`: groups are the segments")
groups_kind = _message("`groups` must be keys in one dimension, got {kind}")
groups_shape = _message("`groups` must have a key for each of the {steps} steps, got shape {shape}", "shape steps")
groups_lazy = _message("`{name}` must be left out with Dask arrays: compute() them first, or pass groups one by one")
sum_adjust = _message("`adjust` must be True: the sum is not defined with adjust=False")
count_type = _message("`{name}` must be an integer, got {kind}")
at_least = _message("`{name}` must be at least {least}, got {came}")
real_dtype = _message("`{name}` must hold float32, float64, integers or bools, got dtype {came}")
frame_values = _message("`{name}` must hold numbers only, got a {kind} with others: select its columns first")
namespace = _message("`{name}` must be an array of a library with the array API's namespace, got {kind}")
indexes = _message("`x` and `{name}` must have the same index: align them first")
columns = _message(
    "`{name}` must have the columns of `x`, {wanted}, each once, in any order, got {came}: select them first",
    "name came wanted",
)
labels_mixed = _message(
    "`{name}` must come from the library of `x`, {wanted}, or have no labels, got one from {came}", "name came wanted"
)
labels_frame = _message("`{name}` must be a Series, or an array, beside a Series")
labels_of_both = _message("`{name}` must be an array where its labels are those of the steps and of the columns of `x`")
labels_axis = _message("`axis` must be 0 where `x` is a frame and `{name}` a Series, which runs along the rows")
dimensions = _message("`{name}` must have dimensions of `x`, {wanted}, got {came}", "name came wanted")
coordinates = _message("`x` and `{name}` must have the same coordinates along {dim!r}: align them first")
dimension = _message("`axis` must be a dimension of the data, {names}, got {axis!r}", "axis names")
stream_shape = _message(
    "`chunk` must have the shape of earlier chunks without `axis`, {wanted}, got {came}: call reset() first",
    "came wanted",
)
stream_constant = _message(
    "`{name}` of a stream must be constant in time, one number or one for each series, got shape {shape}"
)


def stream_times(had):
    return f"`times` must be given {'with every chunk' if had else 'with no chunk'}, as with the first one"


stream_halflife = _message("`times` need a stream made with `halflife`")
merge = _message("two streams can be merged only {rule}")
pcen_bands = _message(
    "`S` must have {bands} bands, on its last axis, or on the one before it where time (axis={axis}) is last, got "
    "shape {shape}",
    "bands shape axis",
)
filter_missing = _message("`x` must be finite: the reverse pass cannot skip missing values; fill them first")


def values_steps(came, steps, has_next):
    wanted = steps if has_next else steps + 1
    why = "with `next_values`" if has_next else "the value of the state after the last step is needed too"
    return f"`values` must have {wanted} steps along `axis` for {steps} rewards ({why}), got {came}"


same_shape = _message("`{name}` must have the shape {wanted}, or broadcast to it, got {shape}", "name shape wanted")
flags_dtype = _message("`{name}` must hold bools, or numbers from 0 to 1, got dtype {came}")
flags_range = _message("`terminated`, `truncated` and `done` must be from 0 to 1")
flags_gradient = _message(
    "`{name}` must not require grad: no gradient is passed to flags; weigh `gamma` instead, which has one"
)
mask_dtype = _message("`{name}` must hold bools, got dtype {came}")


# ---- Groups of processes --------------------------------------------------------------------------------------------


no_distributed = _message("this build of torch has no torch.distributed")
no_processes = _message("torch.distributed must be initialized first: call torch.distributed.init_process_group")
group_type = _message("`group` must be a process group that this process is in, or None for all processes, got {kind}")
ranks_differ = _message(
    "all ranks of `group` must make the same call, got on rank {rank} {mine}; on rank {other} {theirs}"
)
exchange_failed = _message(
    "the exchange of rank {rank} with the other ranks of `group` failed: one of them has died, came later than "
    "the group's timeout, or passed other shapes; the group cannot be used any more. The error was: {error}"
)
placements = _message("a DTensor must be sharded along `axis` over exactly one dimension of its mesh")
time_is_sharded = _message(
    "a DTensor must not be sharded along `axis` here: fastrecur.torch.distributed takes it, and no rank gets the whole"
)
sequence_module = _message("`module` must be a QRNN or a QRNNLayer, got {kind}")
sequence_packed = _message("a PackedSequence cannot be sharded along time: pad it")


# ---- Dask -----------------------------------------------------------------------------------------------------------


unknown_chunks = _message(
    "`{name}` must have known chunk sizes, got shape {shape}, unknown on axis {axis}: call compute_chunk_sizes() first",
    "name axis shape",
)
out_lazy = _message("`out` must be left out with Dask arrays: they are lazy, and cannot be written to")


lazy_stream = _message(
    "`chunk` must be in memory for a stream, got a Dask array: pass the whole array to ewm_mean instead"
)


def cuda_version(number):
    """Return a version of CUDA as people write it, from the driver's number for it."""
    return f"{number // 1000}.{number % 1000 // 10}"


def gpu_old_driver(needed, version):
    newer, other = ("580", ", or pip install '.[cuda12]'") if needed > 12 else ("525", "")
    return (
        f"arrays on a GPU need a driver for CUDA {needed}, which is {newer} or later, with the packages that are "
        f"installed, got one for CUDA {cuda_version(version)}: update the driver{other}"
    )


gpu_capture = _message(
    "a call that is captured into a CUDA graph must not allocate its results, for arrays of {library}: pass `out`, "
    "keep `lengths` on the device, and capture no `return_state`, no gradient and no empty array"
)
gpu_capture_unloaded = _message(
    "a call that is captured into a CUDA graph must have its kernels loaded: make the same call once before"
)
simulated = _message(
    "`{name}` must not be an array of Numba's simulator (NUMBA_ENABLE_CUDASIM), which no GPU holds: pass its "
    "`copy_to_host()`"
)

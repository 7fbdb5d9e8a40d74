"""Every error message of the library: the argument in backticks, the rule, and what came."""


def _type(kind):
    return f"{kind.__module__}.{kind.__qualname__}" if kind.__module__ != "builtins" else kind.__qualname__


def masked(name):
    return (
        f"`{name}` must not be a masked array: fill it (with NaN for fastrecur.smoothing), or give a recurrence its "
        "data and `lengths`"
    )


def subclass(name, kind):
    return (
        f"`{name}` must be a plain array, got {_type(kind)}, which overrides NumPy's functions: "
        "pass numpy.asarray of it and restore its mask or unit afterwards"
    )


def too_large(name):
    return f"`{name}` must be a number that float64 can hold, got an integer of more than 1023 bits"


def too_large_for_tensors(name):
    return f"`{name}` must be a number that int64 or float64 can hold, got an integer of more than 63 bits"


def ragged(name, error):
    return f"`{name}` must be a rectangular list of numbers, got one that NumPy cannot convert: {error}"


def not_a_tensor(name, kind):
    return f"`{name}` must be a tensor or a number, as other operands are tensors, got {_type(kind)}"


def no_tensor():
    return "at least one operand must be a tensor where `out`, `lengths` or a state is one"


def device(name, device):
    return f"`{name}` must be in CPU memory or on an NVIDIA GPU, got a tensor on {device}"


def devices(first, device, name, other):
    return f"all tensors must be on one device, got `{first}` on {device}, `{name}` on {other}"


def lengths_device(device):
    return f"`lengths` must be on the operands' device or on the CPU, got {device}"


def layout(name, kind):
    return f"`{name}` must be a plain dense tensor (torch.strided, without names), got {kind}"


def out_gradient():
    # Ends in torch's own words, so that a search finds it.
    return (
        "`out` cannot be given with operands that require grad: functions with out=... arguments don't support "
        "automatic differentiation, but one of the arguments requires grad."
    )


def gpu(name, kind):
    return f"`{name}` must be in CPU memory, as the other arrays are, got {_type(kind)} on a GPU or another device"


def no_kernel(symbol):
    return f"the compiled kernel holds no function {symbol}"


def kernel_parameters(kernel, most):
    return f"{kernel.__module__}.{kernel.__qualname__} has more than {most} parameters"


def kernel_arguments(count, came="%ld"):
    return f"a kernel takes {count} arguments here, and {came} came"


def kernel_scratch(most, words):
    return f"a prepared call has room for {most} words of scratch memory, and {words} are required"


def gpu_packages(missing):
    return (
        f"arrays on a GPU need numba-cuda, and {missing} is missing: in a clone of fastrecur, pip install "
        "'.[cuda13]', or '.[cuda12]' for a driver older than 580"
    )


def gpu_driver(error):
    return f"arrays on a GPU need an NVIDIA driver that responds, got: {error}"


def gpu_too_old(device, capability):
    return (
        f"arrays on a GPU need compute capability 7.5 or later, got {capability[0]}.{capability[1]} on device {device}"
    )


def complex_on_gpu(name):
    return f"`{name}` must be real on a GPU: weighted averages of complex values run on the CPU only, or part by part"


def bfloat16(name):
    return f"`{name}` holds bfloat16, which needs the package ml_dtypes: pip install ml_dtypes"


def host_and_device(name, kind, other):
    return f"`{name}` must be on the device that `{other}` is on, a GPU, got {_type(kind)} in CPU memory"


def two_devices(name, device, other, second):
    return f"all arrays must be on one device, got `{name}` on device {device} and `{other}` on device {second}"


def dlpack_alone(name, kind):
    return (
        f"`{name}` must come from a library with an array API namespace, which allocates the result, got {_type(kind)}"
    )


def threads_type(kind):
    return f"`n` must be an integer, got {_type(kind)}"


def threads_range(n):
    return f"`n` must be at least 1, got {n}"


def keep_memory(variable, came):
    return f"{variable} must be a number of bytes, 0 to keep none, got {came!r}"


def made_otherwise(library, strides, device, its_strides, its_device):
    return (
        f"{library} was asked for an array on device {device} with strides {strides}, and made one on device "
        f"{its_device} with strides {its_strides}: pass arrays of a library that does, or `out`"
    )


def unaligned(name):
    return f"`{name}` must be aligned on a GPU: its strides must be multiples of its dtype's size"


def misplaced(name, address, size):
    return f"`{name}` must be aligned on a GPU: its address must be a multiple of {size}, got {address:#x}"


def too_many(lanes, steps):
    return f"an array on a GPU must have fewer than 2**31 series and steps, got {lanes} series of {steps} steps"


def too_many_dimensions():
    return "an operand on a GPU must be broadcast along fewer separate axes: copy it to the result's shape"


def not_an_array(name, kind):
    if kind.__module__.partition(".")[0] in ("pandas", "polars", "xarray"):
        advice = ": pass its `to_numpy()`, or use fastrecur.smoothing, whose ewm_mean keeps the type"
    elif kind in (type(None), str):
        advice = ""
    else:
        advice = ": an array exports __array_interface__ or __dlpack__, and numpy.asarray makes one of much else"
    return f"`{name}` must be an array, a list or a number, got {_type(kind)}{advice}"


def interface(name, kind, error):
    return f"`{name}` must be an array that NumPy can read by its __array_interface__, got {_type(kind)}: {error}"


def dlpack(name, kind, error):
    return f"`{name}` must be an array that NumPy can read by DLPack, got {_type(kind)}: {error}"


def dtype(name, came):
    advice = ": pass numpy.asarray(..., float) of it; if values are missing, use fastrecur.smoothing, which skips NaN"
    return (
        f"`{name}` must hold float16, bfloat16, float32, float64, complex64, complex128, integers or bools, "
        f"got dtype {came}{advice if str(came) == 'object' else ''}"
    )


def promotion(found):
    which, came = ", ".join(f"`{name}`" for name, _ in found), ", ".join(str(dtype) for _, dtype in found)
    return f"{which} must have dtypes with a common type, got {came}"


def complex_gate(name, dtype):
    return f"`{name}` must be real: the gate of a weighted average has no complex kernel, got dtype {dtype}"


def complex_of_real(name, dtype):
    return f"`{name}` must be real, as the operands are and so the result is, got dtype {dtype}"


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


def axis_type(kind):
    return f"`axis` must be an integer, got {_type(kind)}"


def axis_range(axis, shape):
    return f"`axis` must be in {-len(shape)}..{len(shape) - 1} for a result of shape {tuple(shape)}, got {axis}"


def flag(name, kind):
    return f"`{name}` must be True or False, got {_type(kind)}"


def state_shape(name, shape, lanes):
    if not lanes:
        return f"`{name}` must be a number or a 0-d array, as a single series has one state, got shape {tuple(shape)}"
    return (
        f"`{name}` must have the shape of the result without `axis`, {tuple(lanes)}, or broadcast to it, "
        f"got {tuple(shape)}"
    )


def operand_shape(name, shape, result):
    return f"`{name}` must have the shape of the result, {tuple(result)}, or broadcast to it, got {tuple(shape)}"


def lengths_dtype(came):
    return f"`lengths` must hold integers, got {came}"


def lengths_shape(shape, lanes):
    if not lanes:
        rule = "must be one integer for a single series"
    else:
        rule = f"must be shaped like one or more leading axes of {tuple(lanes)}, the result without `axis`"
    return f"`lengths` {rule}, got shape {tuple(shape)}"


def lengths_range(low, high, steps):
    came = f"values from {low} to {high}" if low < high else low
    return f"`lengths` must be in 0..{steps}, the number of time steps, got {came}"


def out_type(kind):
    return f"`out` must be an array of the operands' library, got {_type(kind)}"


def out_shape(came, wanted):
    return f"`out` must have the result's shape {tuple(wanted)}, got {tuple(came)}"


def out_dtype(came, wanted):
    return f"`out` must have the result's dtype {wanted}, got {came}"


def out_read_only():
    return "`out` must be writeable, got a read-only array"


def out_overlap(name):
    return f"`out` must be `{name}` itself or share no memory with it, got a partial overlap"


def out_self_overlap():
    return "`out` must not overlap itself, got an array with two indices for one place in memory"


# ---- Networks -------------------------------------------------------------------------------------------------------


def rnn_number(name, rule, came):
    return f"`{name}` must be {rule}, got {came!r}"


def rnn_greater_than_zero(name, came):
    return f"`{name}` must be greater than zero, got {came}"


def rnn_dropout(dropout):
    return (
        "`dropout` should be a number in range [0, 1] representing the probability of an element being zeroed, "
        f"got {dropout!r}"
    )


def rnn_dropout_of_one_layer(dropout):
    return (
        "`dropout` adds dropout after all but the last recurrent layer, so non-zero dropout expects num_layers greater "
        f"than 1, but got dropout={dropout} and num_layers=1"
    )


def rnn_layers_options(names):
    which = ", ".join(f"`{name}`" for name in names)
    return f"{which} must be left out with `layers`: they are given to the layers themselves"


def rnn_layers_batch_first(k):
    return (
        f"`layers` must be time first inside a QRNN, got batch_first=True in layer {k}: give `batch_first` to the QRNN"
    )


def rnn_layers_chain(k, came, wanted):
    return f"`layers` must fit one another: layer {k} must have input_size {wanted}, got {came}"


def rnn_layer_kind(k, kind):
    return f"`layers` must hold modules with an input_size and a hidden_size, as QRNNLayer, got {_type(kind)} as {k}"


def rnn_product(name, came, wanted):
    return f"`{name}` must give {wanted} features, for the layer's hidden_size and gates, got {came}"


def rnn_input_kind(kind):
    return f"`input` must be a tensor or a PackedSequence, got {_type(kind)}"


def rnn_input_dim(dims):
    return f"`input` must be 2-D (unbatched) or 3-D: Expected input to be 2D or 3D, got {dims}D instead"


def rnn_input_size(came, wanted):
    return f"`input`.size(-1) must be equal to input_size. Expected {wanted}, got {came}"


def rnn_input_dtype(came, wanted):
    return (
        f"`input` must have the weights' dtype: input dtype ({came}) does not match weight dtype ({wanted}). Convert "
        f"input: input.to({wanted}), or convert model: model.to({came})"
    )


def rnn_no_steps():
    return "`input` must have at least one step: Expected sequence length to be larger than 0 in RNN"


def rnn_packed_dim(dims):
    return f"`input` must have 2 dimensions where it is packed, got {dims}"


def rnn_hidden_type(kind):
    return f"`hidden` must be a tensor, or a list of one for each layer and direction, got {_type(kind)}"


def rnn_two_hidden():
    return "`hidden` and `hx` are two names of one argument: give one of them"


def rnn_hidden_dim(batched, dims):
    if batched:
        return f"`hidden` must fit the input: For batched 3-D input, hidden should also be 3-D but got {dims}-D tensor"
    return f"`hidden` must fit the input: For unbatched 2-D input, hidden should also be 2-D but got {dims}-D tensor"


def rnn_hidden_shape(came, wanted):
    return f"`hidden` must fit the layers and the input: Expected hidden size {tuple(wanted)}, got {list(came)}"


def rnn_hidden_count(came, wanted):
    return f"`hidden` must have one state for each layer and direction: Expected a list of {wanted}, got {came}"


def rnn_hidden_sizes(sizes):
    return f"`hidden` must be a list of one state for each layer where their sizes differ ({sizes}), got one tensor"


def rnn_hidden_dtype(came, wanted):
    return f"`hidden` must have the input's dtype {wanted}, but under autocast, got {came}"


def rnn_previous(name, came, wanted):
    return (
        f"`{name}` holds the inputs before the first one and must fit the input: {wanted}, got {came}. Call reset() "
        "before another stream, or begin with initial_state()"
    )


def rnn_replica():
    return (
        "`save_prev_x` must be off under nn.DataParallel: a replica's saved inputs are lost after the call. Use "
        "DistributedDataParallel, or a window of 1"
    )


def rnn_saved_lost(how):
    return (
        f"`save_prev_x` keeps inputs on the module, where {how} loses them: leave it out, and pass a QRNNState "
        "(`initial_state`) from call to call"
    )


def rnn_saved_bidirectional():
    return (
        "`save_prev_x` must be off with bidirectional=True: in the reverse direction, the saved inputs of one call do "
        "not precede those of the next"
    )


def rnn_state_and_saved():
    return (
        "`hidden` must be no QRNNState where the module saves its inputs itself: set its save_prev_x to False, and "
        "pass the state from call to call"
    )


def rnn_state_layers(came, wanted):
    return f"`inputs` of a QRNNState must have one entry for each layer, {wanted}, got {came}"


def rnn_state_window(window, is_none):
    came = "None" if is_none else "a tensor"
    return f"`inputs` of a QRNNState must hold a tensor for a window above 1, and None for 1, got {came} for {window}"


def rnn_state_kind(k, kind):
    return f"`layers` must hold QRNNLayers where a QRNNState is passed, got {_type(kind)} as {k}"


def rnn_step_directions():
    return "`step` must be asked of a module with one direction: bidirectional=True needs the whole input at once"


def rnn_step_input(kind):
    return f"`input` of a step must be a tensor, got {_type(kind)}"


def rnn_step_dim(dims):
    return f"`input` of a step must be 1-D (unbatched) or 2-D, without time, got {dims}-D"


def rnn_step_state(kind):
    return f"`state` must be a QRNNState, as `initial_state` makes one, got {_type(kind)}"


def rnn_meta(device):
    return (
        f"`input` must be on the weights' device: they are on meta, which has no numbers, and it is on {device}. Make "
        "them with to_empty(device=...), and load or reset_parameters()"
    )


def weight_drop_names(name, module):
    return f"`weights` must name parameters of the module, got {name!r}, which {module} has not"


# ---- Smoothing ------------------------------------------------------------------------------------------------------


def one_constant(given):
    came = ", ".join(f"`{name}`" for name in given) or "none"
    return f"exactly one of `com`, `span`, `halflife` and `alpha` must be given, got {came}"


def constant_domain(name, rule, came):
    return f"`{name}` must satisfy: {rule}, got {came}"


def constant_type(name, kind):
    return f"`{name}` must be a number, got {_type(kind)}"


def halflife_type(kind):
    return f"`halflife` must be a number, a timedelta or a string of one, got {_type(kind)}"


def halflife_string(halflife, error):
    return f"`halflife` must be a string that pandas.Timedelta takes, got {halflife!r}: {error}"


def halflife_without_times():
    return "`halflife` can only be a timedelta where `times` are given"


def times_without_halflife():
    return "`halflife` must be given with `times`"


def times_units():
    return (
        "`times` and `halflife` must be both dates (datetime64 and a timedelta) or both numbers in one unit, "
        "got a mixture"
    )


def times_dtype(came):
    return f"`times` must hold datetime64 or real numbers, got dtype {came}"


def times_zones():
    return "`times` must all have a time zone, or none"


def times_shape(shape, steps):
    return f"`times` must be the same length as the time axis, ({steps},), or have the data's shape, got {tuple(shape)}"


def times_missing():
    return "`times` must not hold NaT, NaN or infinities"


def times_order():
    return "`times` must not go backwards"


def times_gradient():
    return "`times` must be constants: no gradient can be passed to them; give an `alpha` made from them instead"


def sum_adjust():
    return "`adjust` must be True: the sum is not defined with adjust=False"


def count_type(name, kind):
    return f"`{name}` must be an integer, got {_type(kind)}"


def at_least(name, least, came):
    return f"`{name}` must be at least {least}, got {came}"


def real_dtype(name, came):
    return f"`{name}` must hold float32, float64, integers or bools, got dtype {came}"


def frame_values(kind):
    return f"`x` must hold numbers only, got a {_type(kind)} with others: select its columns first"


def namespace(name, kind):
    return f"`{name}` must be an array of a library with the array API's namespace, got {_type(kind)}"


def indexes(name):
    return f"`x` and `{name}` must have the same index: align them first"


def columns(name, came, wanted):
    return f"`{name}` must have the columns of `x`, {wanted}, each once, in any order, got {came}: select them first"


def labels_mixed(name, came, wanted):
    return f"`{name}` must come from the library of `x`, {wanted}, or have no labels, got one from {came}"


def labels_frame(name):
    return f"`{name}` must be a Series, or an array, beside a Series"


def labels_of_both(name):
    return f"`{name}` must be an array where its labels are those of the steps and of the columns of `x`"


def labels_axis(name):
    return f"`axis` must be 0 where `x` is a frame and `{name}` a Series, which runs along the rows"


def dimensions(name, came, wanted):
    return f"`{name}` must have dimensions of `x`, {tuple(wanted)}, got {tuple(came)}"


def coordinates(name, dim):
    return f"`x` and `{name}` must have the same coordinates along {dim!r}: align them first"


def dimension(axis, names):
    return f"`axis` must be a dimension of the data, {tuple(names)}, got {axis!r}"


def stream_shape(came, wanted):
    return (
        f"`chunk` must have the shape of earlier chunks without `axis`, {tuple(wanted)}, got {tuple(came)}: "
        "call reset() first"
    )


def stream_alpha(shape):
    return f"`alpha` of a stream must be constant in time, one number or one for each series, got shape {tuple(shape)}"


def stream_times(had):
    return f"`times` must be given {'with every chunk' if had else 'with no chunk'}, as with the first one"


def stream_halflife():
    return "`times` need a stream made with `halflife`"


def merge(rule):
    return f"two streams can be merged only {rule}"


def filter_missing():
    return "`x` must be finite: the reverse pass cannot skip missing values; fill them first"


def values_steps(came, steps, has_next):
    wanted = steps if has_next else steps + 1
    why = "with `next_values`" if has_next else "the value of the state after the last step is needed too"
    return f"`values` must have {wanted} steps along `axis` for {steps} rewards ({why}), got {came}"


def same_shape(name, shape, wanted):
    return f"`{name}` must have the shape {tuple(wanted)}, or broadcast to it, got {tuple(shape)}"


def flags_dtype(name, came):
    return f"`{name}` must hold bools, or numbers that are 0 or 1, got dtype {came}"


# ---- Groups of processes --------------------------------------------------------------------------------------------


def no_distributed():
    return "this build of torch has no torch.distributed"


def no_processes():
    return "torch.distributed must be initialized first: call torch.distributed.init_process_group"


def group_type(kind):
    return f"`group` must be a process group that this process is in, or None for all processes, got {_type(kind)}"


def ranks_differ(rank, mine, other, theirs):
    return f"all ranks of `group` must make the same call, got on rank {rank} {mine}; on rank {other} {theirs}"


def exchange_failed(rank, error):
    return (
        f"the exchange of rank {rank} with the other ranks of `group` failed: one of them has died, came later than "
        f"the group's timeout, or passed other shapes; the group cannot be used any more. The error was: {error}"
    )


def placements():
    return "a DTensor must be sharded along `axis` over exactly one dimension of its mesh"


def sequence_module(kind):
    return f"`module` must be a QRNN or a QRNNLayer, got {_type(kind)}"


def sequence_packed():
    return "a PackedSequence cannot be sharded along time: pad it"


# ---- Dask -----------------------------------------------------------------------------------------------------------


def unknown_chunks(name, axis, shape):
    return (
        f"`{name}` must have known chunk sizes, got shape {tuple(shape)}, unknown on axis {axis}: "
        "call compute_chunk_sizes() first"
    )


def out_lazy():
    return "`out` must be left out with Dask arrays: they are lazy, and cannot be written to"


def scan_method(came, known):
    return f"Dask's configuration `fastrecur.scan` must be one of {', '.join(map(repr, known))}, got {came!r}"


def lazy_stream():
    return "`chunk` must be in memory for a stream, got a Dask array: pass the whole array to ewm_mean instead"


def scan_overflow():
    return (
        "the composed steps of a chunk overflow: set dask.config.set({'fastrecur.scan': 'sequential'}) to scan step by "
        "step"
    )

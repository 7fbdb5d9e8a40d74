"""The selective scan as the dispatcher sees it, and its derivatives: one operator, and one for its gradients.

Where there are no kernels, and for tangents and derivatives of gradients, it is composed of torch's own operators and a
linear recurrence, which writes the states of all steps to memory. All of these have derivatives.

A call that is recorded keeps checkpoints, the states before each chunk of steps, where shapes alone say how many there
are: as a result of the operator and an argument of the gradients'.
"""

import functools

import torch
from torch.nn.functional import silu, softplus

from ..._arguments import checks, messages as say
from ..._arguments.selective import MAPS, Operands, Options, Sizes
from ..._cpu import selective as host
from ..._cpu.machine import threads
from ..._plan import selective as plan
from ..._plan.problem import LINEAR
from . import autograd, ops, team, tensors as _tensors
from .along_time import valid_steps
from .autograd import Rules, nothing, operator, with_batch

OPERANDS = Operands._fields
_COUNT = len(OPERANDS)
_TAKES = ", ".join(
    [*(f"Tensor {name}" for name in OPERANDS[:5]), *(f"Tensor? {name}" for name in OPERANDS[5:])]
    + ["Tensor? lengths, Tensor? offsets, Tensor? resets, bool delta_softplus, str layout, bool reverse"]
)


def wide(u):
    """Return the dtype that states are carried in, and returned."""
    return torch.float64 if u.dtype is torch.float64 else torch.float32


def _keeps(lengths, offsets, resets, keep):
    return keep and lengths is None and offsets is None and resets is None


def _fake(u, delta, A, B, C, *rest):
    lengths, offsets, resets, _, layout, _, keep = rest[-7:]
    batch, kept = u.shape[0] if offsets is None else offsets.shape[0] - 1, 0
    if _keeps(lengths, offsets, resets, keep) and u.device.type == "cpu":
        steps, groups = u.shape[2 if layout == "bdl" else 1], plan.groups_of(B.shape, C.shape, layout)
        kept = plan.kept_numbers(batch, steps, *A.shape, groups)
    return ops.alike(u.shape, u.dtype, u), *(u.new_empty(n, dtype=wide(u)) for n in ((batch, *A.shape), (kept,)))


def _vjp_fake(grad_y, grad_state, *arguments):
    pairs = zip(arguments[:_COUNT], arguments[-1], strict=True)
    return tuple(ops.alike(v.shape, v.dtype, v) if is_wanted else grad_y.new_empty(0) for v, is_wanted in pairs)


class _Steps:
    """The scan, composed: all with time first, in the dtype that states are carried in. States are (L, B, D, N)."""

    def __init__(self, u, delta, A, B, C, D, z, delta_bias, h0, lengths, offsets, resets, is_soft, layout, reverse):
        self.dtype, self.time, self.is_soft, self.is_cut = wide(u), 1 if layout == "bld" else -1, is_soft, None
        self.is_cut = offsets is not None
        self.valid = None if lengths is None else valid_steps(self.first(u), lengths, 0).squeeze(-1)
        # What stands in the padding, NaN perhaps, must reach no gradient: it is zero from here on.
        self.u, delta, self.z = (None if v is None else self.masked(self.first(v)) for v in (u, delta, z))
        self.A, self.D, bias = (None if v is None else v.to(self.dtype) for v in (A, D, delta_bias))
        self.B, self.C = map(self.for_channels, (B, C))
        self.raw = delta if bias is None else delta + bias
        self.delta = softplus(self.raw) if is_soft else self.raw
        self.decay, self.h0 = torch.exp(self.delta.unsqueeze(-1) * self.A), self.states(h0)
        source = (self.delta * self.u).unsqueeze(-1) * self.B
        lengths = checks.split(lengths, offsets, None if resets is None else resets.t())
        self.options = lengths, 0, reverse, self.dtype
        self.h, last = ops.forward(LINEAR, self.decay, source, self.h0, *self.options)
        self.last = last.squeeze(1) if self.is_cut else last

    def first(self, v):
        return v.movedim(self.time, 0).to(self.dtype)

    def masked(self, v):
        if self.valid is None:
            return v
        return torch.where(self.valid.reshape(self.valid.shape + (1,) * (v.dim() - 2)), v, 0)

    def for_channels(self, v):
        """Return B or C for each channel, or one for all of them; a constant as it is."""
        if v.dim() == 2:
            return v.to(self.dtype)
        v = self.masked(self.first(v))
        return v.unsqueeze(2) if v.dim() == 3 else v.repeat_interleave(self.u.shape[2] // v.shape[2], 2)

    def like(self, grad, operand):
        """Return the gradient of what `for_channels` has made of B or C."""
        if operand.dim() == 2:
            return grad.sum((0, 1))
        groups = operand.shape[2 if self.time == 1 else 1] if operand.dim() == 4 else 1
        grad = grad.unflatten(2, (groups, -1)).sum(3)
        return (grad if operand.dim() == 4 else grad.squeeze(2)).movedim(0, self.time)

    def states(self, v):
        """Return states as the recurrence takes them: those of segments, of one batch, or those of a batch."""
        return None if v is None else v.to(self.dtype).unsqueeze(1) if self.is_cut else v.to(self.dtype)

    def output(self):
        y = (self.h * self.C).sum(-1)
        return y if self.D is None else y + self.u * self.D

    def gradients(self, grad_y, grad_state, B, C):
        g, grad_z, D = self.masked(self.first(grad_y)), None, 0 if self.D is None else self.D
        if self.z is not None:
            open_ = torch.sigmoid(self.z)
            grad_z = g * self.output() * open_ * (1 + self.z * (1 - open_))
            g = g * self.z * open_
        of_output, product = g.unsqueeze(-1), (self.delta * self.u).unsqueeze(-1)
        operands = of_output * self.C, self.decay, self.decay, self.h, self.h0, self.states(grad_state)
        wanted = True, True, self.h0 is not None  # it reads no source, for which the decay stands
        of_decay, of_source, grad_h0 = ops.vjp(LINEAR, *operands, *self.options, *wanted)
        of_exponent, of_product = of_decay * self.decay, (of_source * self.B).sum(-1)
        grad_delta = (of_exponent * self.A).sum(-1) + of_product * self.u
        if self.is_soft:  # above 20 torch's softplus is its argument
            grad_delta = torch.where(self.raw > 20, grad_delta, grad_delta * torch.sigmoid(self.raw))
        by_time = of_product * self.delta + g * D, grad_delta, grad_z
        grad_u, grad_delta, grad_z = (None if v is None else v.movedim(0, self.time) for v in by_time)
        return (
            grad_u, grad_delta, (of_exponent * self.delta.unsqueeze(-1)).sum((0, 1)), self.like(of_source * product, B),
            self.like(of_output * self.h, C), (g * self.u).sum((0, 1)), grad_z, by_time[1].sum((0, 1)),
            grad_h0 if self.h0 is None or not self.is_cut else grad_h0.squeeze(1),
        )  # fmt: skip


def composed(*arguments):
    steps, u = _Steps(*arguments[:-1]), arguments[0]
    y = steps.output() if steps.z is None else steps.output() * silu(steps.z)
    return steps.masked(y).movedim(0, steps.time).to(u.dtype), steps.last, u.new_empty(0, dtype=wide(u))


def composed_vjp(grad_y, grad_state, *arguments):
    *arguments, _, wanted = arguments
    grads = _Steps(*arguments).gradients(grad_y, grad_state, *arguments[3:5])
    return tuple(
        grad.to(v.dtype) if is_wanted else grad_y.new_empty(0)
        for grad, v, is_wanted in zip(grads, arguments[:_COUNT], wanted, strict=True)
    )


def _arrays(tensors, dtype):
    """Return tensors as kernels take arrays; what has no number for each step, in ``dtype``."""
    small = "A", "D", "delta_bias", "h0", "grad_state"
    return {k: _tensors.numpy_of(v if v is None or k not in small else v.to(dtype)) for k, v in tensors.items()}


def _call(arguments):
    """Return what kernels take of an operator's arguments: operands, sizes and options. Shapes were checked before."""
    (u, _, A, *_), (lengths, offsets, resets, is_soft, layout, reverse) = arguments[:_COUNT], arguments[_COUNT:]
    steps, channels = u.shape[:0:-1] if layout == "bdl" else u.shape[1:]
    lengths = lengths if lengths is None else checks.lengths_in_range(lengths.numpy(), steps)
    offsets = offsets if offsets is None else checks.offsets_in_range(offsets.numpy(), steps)
    sizes = Sizes(u.shape[0], steps, channels, A.shape[1], u.shape[0] if offsets is None else len(offsets) - 1)
    options = Options(is_soft, layout, reverse, lengths, offsets, resets if resets is None else resets.numpy())
    return Operands(**_arrays(dict(zip(OPERANDS, arguments, strict=False)), wide(u))), sizes, options


def _on_cpu(*arguments):
    *arguments, keep = arguments
    u, keep = arguments[0], _keeps(*arguments[_COUNT : _COUNT + 3], keep)
    y = _tensors.empty(u.shape, _tensors.layout(u.shape, u), u.dtype)
    with threads.lent(team.team()):
        _, state, kept = host.scan(*_call(arguments), _tensors.numpy_of(y), keep)
    return y, torch.from_numpy(state), torch.from_numpy(kept) if keep else u.new_empty(0, dtype=wide(u))


def _on_gpu(*arguments):
    from ..._cuda import selective as device

    if not device.has_kernels(arguments[2].shape[1]):
        return autograd.anywhere(_fake, composed)(*arguments)
    y = ops.alike(arguments[0].shape, arguments[0].dtype, arguments[0])
    return y, device.from_tensors(arguments[:-1], y), y.new_empty(0, dtype=wide(y))


def _vjp_on_gpu(grad_y, grad_state, *arguments):
    from ..._cuda import selective as device

    if not device.has_kernels(arguments[2].shape[1]):
        return autograd.anywhere(_vjp_fake, composed_vjp)(grad_y, grad_state, *arguments)
    *arguments, _, wanted = arguments
    grads = [None if v is None else ops.alike(v.shape, v.dtype, v) for v in arguments[:_COUNT]]
    device.vjp_from_tensors(grad_y, grad_state, arguments, grads)
    return tuple(grad if is_wanted else grad_y.new_empty(0) for grad, is_wanted in zip(grads, wanted, strict=True))


def _vjp_on_cpu(grad_y, grad_state, *arguments):
    *arguments, checkpoints, wanted = arguments
    given = _arrays({"grad_y": grad_y, "grad_state": grad_state}, wide(grad_y))
    kept = None if checkpoints is None else checkpoints.to(wide(arguments[0])).contiguous().numpy()
    with threads.lent(team.team()):
        grads = host.scan_vjp(given["grad_y"], *_call(arguments), given["grad_state"], kept)
    return tuple(
        _tensor(grad, v) if is_wanted else grad_y.new_empty(0)
        for grad, v, is_wanted in zip(grads, arguments[:_COUNT], wanted, strict=True)
    )


def _tensor(grad, operand):
    """Return a kernel's gradient as a tensor of its operand's dtype, laid out as torch's own operators would."""
    grad, strides = torch.from_numpy(grad), _tensors.layout(operand.shape, operand)
    grad = grad.view(torch.bfloat16) if grad.dtype is torch.uint16 else grad.to(operand.dtype)
    own = grad.stride() == strides
    return grad if own else torch.empty_strided(grad.shape, strides, dtype=grad.dtype).copy_(grad)


class _Scan(Rules):
    @classmethod
    def forward(cls, ctx, way, *arguments):
        return super().forward(ctx, way, *arguments[:-1], True)

    @staticmethod
    def setup(ctx, inputs, output):
        """Keep all operands, and checkpoints: the other states are computed anew."""
        ctx.options = inputs[-4:-1]
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(*inputs[:-4], output[2])

    @staticmethod
    def gradients(ctx, needs, grad_y, grad_state, _):
        *saved, checkpoints = ctx.saved_tensors
        grad_y = nothing(saved[0], saved[0].shape, saved[0].dtype) if grad_y is None else grad_y
        return VJP(grad_y, grad_state, *saved, *ctx.options, checkpoints, list(needs[:_COUNT]))


def _vmap(names, gives, wanted, unkept, operator, info, in_dims, *arguments):
    """Take the batch for so many times the channels, each sample's behind the last one's; of B and C for groups.

    Checkpoints would be those of other channels: none are kept.
    """
    count = len(names)
    if any(dim is not None for dim in in_dims[count : count + 3]):  # of lengths, offsets and resets
        raise NotImplementedError(say.scan_batched())
    of_channels = 2 if arguments[count + 4] == "bld" else 1
    axes = dict.fromkeys(("A", "D", "delta_bias"), 0) | {"h0": 1, "grad_state": 1}
    folded, has_groups = [], set()
    for name, v, dim in zip(names, arguments, in_dims, strict=False):
        if v is not None:
            rank = v.dim() - (dim is not None)
            axis = axes.setdefault(name, of_channels if rank > 2 else 0)
            v = with_batch(v, dim, info.batch_size, axis)
            if name in MAPS and rank == 3:
                has_groups.add(name)
            else:
                v = v.flatten(axis, axis + 1)
        folded.append(v)
    groups = {name: folded[names.index(name)].shape[of_channels] for name in MAPS if axes[name] == of_channels}
    most, repeats = max(groups.values(), default=1), {}
    for name, own in groups.items():
        if own < most:  # each sample's one group serves all groups of the sample's other map
            at, repeats[name] = names.index(name), (own, most // own)
            folded[at] = folded[at].repeat_interleave(most // own, of_channels)
    found, results, dims = operator(*folded, *unkept(arguments[count:])), [], []
    for name, v, is_wanted in zip(gives, found, wanted(arguments), strict=True):
        dims.append(axes[name] if is_wanted else None)
        if name in repeats and is_wanted:
            v = v.unflatten(of_channels, repeats[name]).sum(of_channels + 1)
        results.append(v if name in has_groups or not is_wanted else v.unflatten(axes[name], (info.batch_size, -1)))
    return tuple(results), tuple(dims)


_forward_vmap = functools.partial(
    _vmap, OPERANDS, ("u", "h0", "h0"), lambda _: (True, True, False), lambda v: (*v[:-1], False)
)
_vjp_vmap = functools.partial(
    _vmap, ("grad_y", "grad_state", *OPERANDS), OPERANDS, lambda v: v[-1], lambda v: (*v[:-2], None, v[-1])
)
SCAN = operator(
    f"selective_scan({_TAKES}, bool keep) -> (Tensor, Tensor, Tensor)",
    _fake, cpu=_on_cpu, cuda=_on_gpu, composed=composed, elsewhere=composed, rules=_Scan,
    vmap=_forward_vmap,
)  # fmt: skip
VJP = operator(
    f"selective_scan_backward(Tensor grad_y, Tensor? grad_state, {_TAKES}, Tensor? checkpoints, bool[] wanted)"
    f" -> ({', '.join(['Tensor'] * _COUNT)})",
    _vjp_fake, cpu=_vjp_on_cpu, cuda=_vjp_on_gpu, composed=composed_vjp, elsewhere=composed_vjp,
    vmap=_vjp_vmap,
)  # fmt: skip

"""The two recurrences as plain loops of torch's own operators: what results and derivatives are compared with."""

import torch


def forget_mult(f, x, h0=None, **options):
    return _loop(lambda h, f, x: f * x + (1 - f) * h, f, x, h0, **options)


def linear_recurrence(a, b, h0=None, **options):
    return _loop(lambda h, a, b: a * h + b, a, b, h0, **options)


def _loop(step, gate, value, h0, axis=0, reverse=False, lengths=None, return_state=False):
    shape = torch.broadcast_shapes(*(v.shape for v in (gate, value) if isinstance(v, torch.Tensor)))
    dtype = torch.complex128 if any(map(_is_complex, (gate, value, h0))) else torch.float64
    gate, value = (torch.as_tensor(v).to(dtype).expand(shape).movedim(axis, 0) for v in (gate, value))
    steps = len(value)
    h = torch.zeros((), dtype=dtype) if h0 is None else torch.as_tensor(h0).to(dtype)
    h = h.expand(shape[:axis] + shape[axis:][1:])
    out = [None] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        new = step(h, gate[t], value[t])
        if lengths is not None:
            is_valid = (t < torch.as_tensor(lengths)).reshape(lengths.shape + (1,) * (h.dim() - lengths.dim()))
            h = torch.where(is_valid, new, h)
            out[t] = torch.where(is_valid, new, 0)
        else:
            h = out[t] = new
    states = torch.stack(out).movedim(0, axis) if steps else torch.empty(shape, dtype=dtype)
    return (states, h) if return_state else states


def _is_complex(value):
    return isinstance(value, complex) or (isinstance(value, torch.Tensor) and value.is_complex())


def double(*shape, complex=False, grad=True):
    """Random numbers, smaller than one, that want a gradient."""
    dtype = torch.complex128 if complex else torch.float64
    return (0.5 * torch.randn(shape, dtype=dtype)).requires_grad_(grad)


def same(operation, ours, loop):
    """Assert that an operation on ours is what it is on the loop."""
    actual, expected = operation(ours), operation(loop)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)

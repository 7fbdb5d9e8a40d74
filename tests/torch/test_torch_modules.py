"""torchqrnn's module."""

import oracle
import pytest
import torch

from fastrecur.torch import ForgetMult


def test_forget_mult():
    f, x, h0 = torch.rand(5, 2, 3).requires_grad_(), torch.randn(5, 2, 3), torch.randn(2, 3)
    module = ForgetMult()
    assert not list(module.parameters())
    torch.testing.assert_close(module(f, x).double(), oracle.forget_mult(f, x))
    expected = oracle.forget_mult(f, x, h0)
    for state in [h0, h0[None]]:
        torch.testing.assert_close(module(f, x, state, use_cuda=False).double(), expected)
        torch.testing.assert_close(module(f, x, hidden_init=state).double(), expected)
    module(f, x).sum().backward()
    assert f.grad.shape == f.shape
    for error, state in ((ValueError, torch.ones(5, 3)), (TypeError, "a state")):
        with pytest.raises(error, match="`hidden_init` must"):
            module(f, x, state)

"""Bad input: an error of the right kind, which names the argument and the rule."""

import numpy as np
import pytest
import torch

from fastrecur.returns import discounted_returns, gae, lambda_returns, vtrace

X, V = [1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]
GRAD = torch.zeros(3, requires_grad=True)

CASES = [
    (TypeError, "`gamma`", lambda: discounted_returns(X, "1")),
    (ValueError, "`gamma` must have the shape", lambda: discounted_returns(X, [0.9, 0.8])),
    (TypeError, "`gamma` must hold numbers, got bools: those that mark the ends of episodes are `done`", lambda:
        discounted_returns(X, [False, True, False], 0.9)),
    (TypeError, "`gamma` must hold numbers, got bools: .* `terminated`", lambda:
        gae(torch.tensor(X), torch.tensor(V), torch.tensor([False, True, False]), 0.9, 0.8)),
    (TypeError, "`lam` must hold numbers, got bools", lambda: vtrace(X, X, V, 0.9, False, lam=np.zeros(3, bool))),
    (ValueError, "`done` must have the shape", lambda: discounted_returns(X, 0.9, [True, False])),
    (TypeError, "`done` must hold bools, or numbers from 0 to 1", lambda: discounted_returns(X, 0.9, ["a", "b", "c"])),
    (ValueError, "from 0 to 1", lambda: discounted_returns(X, 0.9, [0, 2, 0])),
    (ValueError, "from 0 to 1", lambda: discounted_returns(X, 0.9, [0.0, -0.5, 0])),
    (ValueError, "from 0 to 1", lambda: gae(torch.tensor(X), torch.tensor(V, requires_grad=True), 0.9, 0.9, [0, 2, 0])),
    (ValueError, "`bootstrap` must be a number", lambda: discounted_returns(X, 0.9, bootstrap=[1.0, 2.0])),
    (ValueError, "`bootstrap` must have the shape", lambda: discounted_returns([X, X], 0.9, bootstrap=[1.0, 2.0])),
    (TypeError, "`mask` must hold bools", lambda: discounted_returns(X, 0.9, mask=[1, 0, 1])),
    (TypeError, "`mask` must not be a masked array", lambda: discounted_returns(X, 0.9, mask=np.ma.array([True] * 3))),
    (ValueError, "`mask` must have the shape", lambda: discounted_returns(X, 0.9, mask=[True, False])),
    (TypeError, "`rewards`", lambda: discounted_returns(np.array(X, np.float16), 0.9)),
    (TypeError, "`rewards`", lambda: discounted_returns(np.array(X, complex), 0.9)),
    (ValueError, "`rewards`", lambda: discounted_returns(1.0, 0.9)),
    (ValueError, "`axis`", lambda: discounted_returns(X, 0.9, axis=1)),
    (TypeError, "`axis`", lambda: discounted_returns(X, 0.9, axis=True)),
    (TypeError, "`lam`", lambda: gae(X, V, 0.9, None, [0, 0, 0])),
    (ValueError, "`values` must have 4 steps", lambda: gae(X, X, 0.9, 0.9, [0, 0, 0])),
    (ValueError, "`values` must have 4 steps", lambda: lambda_returns(X, [V], 0.9, 0.9, [0, 0, 0])),
    (ValueError, "`values` must have 3 steps", lambda: gae(X, V, 0.9, 0.9, [0, 0, 0], next_values=X)),
    (ValueError, "`terminated`", lambda: gae(X, V, 0.9, 0.9, [0, 0])),
    (TypeError, "`terminated`", lambda: gae(X, V, 0.9, 0.9, None)),
    (TypeError, r"^gae\(\) needs `terminated`: True where .* False if none did$", lambda: gae(X, V, 0.9, 0.9)),
    (TypeError, r"^vtrace\(\) needs `terminated`", lambda: vtrace(X, X, V, 0.9, truncated=False)),
    (TypeError, "missing 2 required positional arguments: 'lam' and 'terminated'", lambda: gae(X, V, 0.9)),
    (TypeError, r"'done': did you mean `terminated`\?$", lambda: gae(X, V, 0.9, 0.9, done=False)),
    (TypeError, r"'dones': did you mean `terminated`\?$", lambda: gae(X, V, 0.9, 0.9, dones=False)),
    (TypeError, r"'dones': did you mean `done`\?$", lambda: discounted_returns(X, 0.9, dones=False)),
    (TypeError, "takes 3 arguments by position, got 4: name the others, as in `bootstrap=`", lambda:
        discounted_returns(X, 0.9, False, 1.0)),
    (ValueError, "`next_values`", lambda: gae(X, X, 0.9, 0.9, [0, 0, 0], next_values=X[:2])),
    (TypeError, "`terminated` must not require grad", lambda: gae(GRAD, torch.zeros(4), 0.9, 0.9, GRAD)),
    (TypeError, "`rewards` must be a tensor", lambda: gae(np.array(X), torch.zeros(4), 0.9, 0.9, False)),
    (ValueError, "one device", lambda: gae(GRAD, torch.zeros(4, device="meta"), 0.9, 0.9, False)),
    (TypeError, "`log_rhos`", lambda: vtrace(None, X, V, 0.9, False)),
    (ValueError, "`log_rhos`", lambda: vtrace([0.0, 0.0], X, V, 0.9, False)),
    (TypeError, "`rho_clip` must be a number", lambda: vtrace(X, X, V, 0.9, False, rho_clip=None)),
    (ValueError, "`c_clip` must satisfy", lambda: vtrace(X, X, V, 0.9, False, c_clip=-1.0)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "match", "call"), CASES, ids=range(len(CASES)))
def test_message(kind, match, call):
    with pytest.raises(kind, match=match):
        call()


def test_flags_of_masked_steps_are_not_looked_at():
    result = discounted_returns(X, 0.5, [0, 7, np.nan], mask=[True, False, False])
    np.testing.assert_array_equal(result, [1.0, 0.0, 0.0])


def test_flags_that_are_no_numbers():
    flags = np.array([0.0, np.nan, 0.0])
    with pytest.raises(ValueError, match="`done` must be from 0 to 1, got nan"):
        discounted_returns(np.ones(3), 0.9, flags)
    result = discounted_returns(np.ones(3), 0.9, flags, mask=[True, False, True])  # which is not read
    np.testing.assert_allclose(result, [1.9, 0.0, 1.0])


def test_a_mask_may_be_written_to_before_the_backward_pass():
    mask, rewards = np.array([True, True, False, True]), torch.ones(4, requires_grad=True)
    result = discounted_returns(rewards, 0.5, mask=mask)
    mask[:] = True
    result[0].backward()
    assert rewards.grad.tolist() == [1.0, 0.5, 0.0, 0.25]

"""JAX arrays, eager and traced: values beside the definition, derivatives of every order, transforms, errors."""

import concurrent.futures
import functools
import itertools

import numpy as np
import pytest

import fastrecur
from fastrecur import filters, reference, smoothing  # noqa: F401

jax = pytest.importorskip("jax")
jnp = jax.numpy
check_grads = pytest.importorskip("jax.test_util").check_grads

SPLITS = {
    "plain": {}, "lengths": {"lengths": [4, 0, 9]}, "offsets": {"offsets": [0, 3, 3, 8, 9]},
    "resets": {"resets": np.arange(9) % 4 == 0}, "own resets": {"resets": np.arange(27).reshape(9, 3) % 5 < 2},
    "both": {"lengths": [4, 0, 9], "resets": np.arange(9) % 3 == 1},
    "segments": {"offsets": [0, 3, 3, 8, 9], "resets": np.arange(9) % 4 == 1},
}  # fmt: skip
FAMILIES = pytest.mark.parametrize("family", ["forget_mult", "linear_recurrence"])
BOTH_WAYS = pytest.mark.parametrize("reverse", [False, True])


def operands(rng, family, split, dtype=np.float64):
    """Return a gate or coefficients, a signal, first states, and how they are split, with time first: (9, 3, 2)."""
    how = dict(SPLITS[split])
    a, b = rng.random((9, 3, 2)), rng.standard_normal((9, 3, 2))
    h0 = rng.standard_normal((4, 3, 2) if "offsets" in how else (3, 2))
    if np.dtype(dtype).kind == "c":
        b, h0 = b + 1j * b[::-1], h0 + 1j * h0[::-1]
        a = a if family == "forget_mult" else a * np.exp(1j * a)
    kind = np.zeros((), dtype).real.dtype
    return [v.astype(dtype if np.iscomplexobj(v) else kind) for v in (a, b, h0)], how


def close(ours, wanted, rtol=1e-12):
    for one, other in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(one, np.complex128), other, rtol=rtol, atol=rtol)


@FAMILIES
@BOTH_WAYS
@pytest.mark.parametrize("split", SPLITS)
def test_values_and_gradients(rng, family, reverse, split):
    """Eager and compiled; of the second call, too."""
    (a, b, h0), how = operands(rng, family, split)
    how |= {"reverse": reverse, "return_state": True}
    call = getattr(fastrecur, family)
    wanted = getattr(reference, family)(a, b, h0, **how)
    g = rng.standard_normal(wanted[0].shape), rng.standard_normal(wanted[1].shape)
    if "lengths" in how:  # what is behind a series' end is read by nobody
        behind = np.arange(9)[:, None] >= np.array(how["lengths"])
        a, b = (np.where(behind[..., None], np.nan, v) for v in (a, b))
    given = [jnp.asarray(v) for v in (a, b, h0)]
    own = functools.partial(call, **how)
    del how["return_state"]
    grads = getattr(fastrecur, f"{family}_vjp")(g[0], a, b, call(a, b, h0, **how), h0, grad_state=g[1], **how)
    for run in (own, jax.jit(own), jax.jit(own)):
        found, pull = jax.vjp(run, *given)
        assert all(isinstance(v, jax.Array) for v in found)
        close(found, wanted)
        close(pull(tuple(map(jnp.asarray, g))), grads)
    ours = getattr(fastrecur, f"{family}_vjp")(*map(jnp.asarray, (g[0], a, b, found[0], h0)), grad_state=g[1], **how)
    close(ours, grads)


@pytest.mark.exhaustive
@FAMILIES
@BOTH_WAYS
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("split", SPLITS)
def test_derivatives_of_every_order(rng, family, reverse, split, dtype):
    values, how = operands(rng, family, split, dtype)
    call = functools.partial(getattr(fastrecur, family), reverse=reverse, return_state=True, **how)
    check_grads(call, [jnp.asarray(v) for v in values], order=2, modes=["fwd", "rev"], eps=1e-4, rtol=1e-4, atol=1e-4)


@pytest.mark.exhaustive
@FAMILIES
@BOTH_WAYS
@pytest.mark.parametrize("split", SPLITS)
def test_batches(rng, family, reverse, split):
    """Of some operands and of all, at any axis, of gradients, too."""
    values, how = operands(rng, family, split)
    call = functools.partial(getattr(fastrecur, family), reverse=reverse, return_state=True, **how)
    values = [jnp.asarray(v) for v in values]

    def gradients(*values):
        return jax.grad(lambda *v: sum((r**2).sum() for r in call(*v)), argnums=(0, 1, 2))(*values)

    for axes in itertools.product((None, 0, 2), (None, 1), (None, 0)):
        if axes == (None,) * 3:
            continue
        given = [v if k is None else jnp.stack([v, v / 2, -v / 3], k) for v, k in zip(values, axes, strict=True)]
        for function in (call, gradients, lambda *v: jax.jvp(call, v, v)[1]):
            found = jax.jit(jax.vmap(function, axes))(*given)
            for k in range(3):
                one = [v if at is None else jnp.take(v, k, at) for v, at in zip(given, axes, strict=True)]
                close([v[k] for v in found], function(*one), 1e-11)

    def loss(*given):
        return sum((r**2).sum() for r in jax.vmap(call, (None, 0, None))(*given))

    given = values[0], jnp.stack([values[1]] * 2), values[2]
    wanted = [2 * v for v in gradients(*values)]
    found = jax.grad(loss, argnums=(0, 1, 2))(*given)
    close([found[0], found[1].sum(0), found[2]], wanted)


def test_batches_of_lengths_and_resets(rng):
    (a, b, h0), _ = operands(rng, "forget_mult", "plain")
    lengths, resets = rng.integers(0, 10, (4, 3)), rng.random((4, 9)) < 0.3
    found = jax.vmap(lambda n, r: fastrecur.forget_mult(jnp.asarray(a), b, h0, lengths=n, resets=r))(
        jnp.asarray(lengths), jnp.asarray(resets)
    )
    for k in range(4):
        close([found[k]], [fastrecur.forget_mult(a, b, h0, lengths=lengths[k], resets=resets[k])])
    with pytest.raises(NotImplementedError, match="`offsets` must be those of all"):
        jax.vmap(lambda o: fastrecur.forget_mult(a, b, offsets=o))(jnp.array([[0, 9], [0, 9]]))


@pytest.mark.parametrize("split", SPLITS)
def test_splits_are_traced(rng, split):
    (a, b, h0), how = operands(rng, "forget_mult", split)
    traced = jax.jit(lambda how, *v: fastrecur.forget_mult(*v, **how))
    close([traced({k: jnp.asarray(v) for k, v in how.items()}, a, b, h0)], [fastrecur.forget_mult(a, b, h0, **how)])


def test_traced_splits_end_where_they_are_out_of_range():
    x = jnp.arange(4.0)
    sums = jax.jit(lambda **how: fastrecur.linear_recurrence(1.0, x, **how))
    assert sums(lengths=jnp.array(9)).tolist() == [0, 1, 3, 6]
    assert sums(lengths=jnp.array(-1)).tolist() == [0, 0, 0, 0]
    assert sums(offsets=jnp.array([3, 2, 9])).tolist() == [0, 1, 3, 3]  # as [0, 3, 4]


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64", "complex128"])
@FAMILIES
def test_dtypes(rng, family, dtype):
    (a, b, h0), _ = operands(rng, family, "plain", np.complex128 if "complex" in dtype else np.float64)
    kind = jnp.dtype(dtype)
    real = jnp.finfo(kind).dtype
    given = [jnp.asarray(v, kind if jnp.iscomplexobj(v) else real) for v in (a, b, h0)]
    own = functools.partial(getattr(fastrecur, family), axis=-2)
    given[2] = jnp.zeros((9, 2), given[2].dtype)
    wanted = getattr(reference, family)(*(np.asarray(v, np.complex128) for v in given), axis=-2)
    for run in (own, jax.jit(own)):
        found, pull = jax.vjp(run, *given)
        assert found.dtype == kind
        close([found], [wanted], 4 * float(jnp.finfo(kind).eps))
        assert [v.dtype for v in pull(found)] == [v.dtype for v in given]


def test_kinds_of_operands(narrow):
    """Integers become floats, numbers are weak, NumPy's arrays stand beside; without x64 nothing warns."""
    n = jnp.arange(4)
    assert fastrecur.linear_recurrence(1, n).dtype == jnp.float64
    assert fastrecur.linear_recurrence(1.0, jnp.ones(4, jnp.float32)).dtype == jnp.float32
    assert fastrecur.forget_mult(np.full(4, 0.5), jnp.ones(4, jnp.float32)).dtype == jnp.float64
    assert fastrecur.linear_recurrence(0.5j, jnp.ones(2)).tolist() == [1, 1 + 0.5j]
    assert fastrecur.forget_mult(0.5, jnp.ones(2), 1j).tolist() == [0.5 + 0.5j, 0.75 + 0.25j]
    with narrow():
        assert fastrecur.linear_recurrence(1, jnp.arange(4)).dtype == jnp.float32
        assert fastrecur.forget_mult(np.full(4, 0.5), jnp.ones(4)).dtype == jnp.float32
        assert fastrecur.linear_recurrence(1.0, jnp.ones(3), lengths=2).tolist() == [1, 2, 0]
    assert fastrecur.forget_mult(0.5, np.ones((0, 3)), jnp.ones(3), return_state=True)[1].tolist() == [1, 1, 1]


def test_in_scans_and_checkpoints(rng):
    (a, b, h0), _ = operands(rng, "forget_mult", "plain")

    @jax.checkpoint
    def part(h, ab):
        out, last = fastrecur.forget_mult(*ab, h, return_state=True)
        return last, out

    def whole(a, b, h0):
        last, out = jax.lax.scan(part, h0, (a.reshape(3, 3, 3, 2), b.reshape(3, 3, 3, 2)))
        return out.reshape(9, 3, 2), last

    wanted, pull = jax.vjp(lambda *v: fastrecur.forget_mult(*v, return_state=True), a, b, h0)
    found, own = jax.vjp(jax.jit(whole), a, b, h0)
    close(found, wanted)
    close(own(wanted), pull(wanted))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"f": jnp.ones((2, 3))}, ValueError, "`f` and `x` must broadcast"),
        ({"f": jnp.ones(4) * 1j}, TypeError, "`f` must be real"),
        ({"f": None}, TypeError, "`f` must be an array"),
        ({"h0": jnp.ones(3)}, ValueError, "`h0` must"),
        ({"axis": 1}, ValueError, "`axis` must"),
        ({"lengths": 5}, ValueError, "`lengths` must be in 0..4"),
        ({"lengths": jnp.ones(())}, TypeError, "`lengths` must"),
        ({"offsets": [0, 3]}, ValueError, "`offsets` must"),
        ({"resets": jnp.zeros(3, bool)}, ValueError, "`resets` must"),
        ({"out": np.zeros(4)}, TypeError, "`out` must be left out"),
        ({"reverse": 1}, TypeError, "`reverse` must"),
        ({"return_state": jnp.ones(())}, TypeError, "`return_state` must"),
    ],
)
def test_errors(change, error, words):
    """The library's own, at once and when a call is traced."""
    given = {"f": 0.5, "x": jnp.ones(4)} | change
    with pytest.raises(error, match=words):
        fastrecur.forget_mult(**given)
    with pytest.raises(error, match=words):
        jax.jit(lambda x: fastrecur.forget_mult(**given | {"x": x}))(given["x"])


@pytest.mark.parametrize("name", ["filters.allpole", "smoothing.holt"])
def test_what_has_no_primitive_says_so_where_it_is_traced(name):
    room, function = name.split(".")
    call = getattr(getattr(fastrecur, room), function)
    run = functools.partial(call, [1, -0.5]) if room == "filters" else lambda x: call(x, 0.5, 0.5)
    with pytest.raises(TypeError, match="`x` must not be traced by JAX here"):
        jax.grad(lambda x: jax.tree.leaves(run(x))[0].sum())(jnp.ones(5))


def test_empty_results_are_compiled():
    for shape in [(0, 3), (3, 0)]:
        x = jnp.ones(shape)
        found, pull = jax.vjp(jax.jit(lambda x: fastrecur.forget_mult(0.5, x, return_state=True)), x)
        assert [v.shape for v in found] == [shape, shape[1:]]
        assert pull(found)[0].shape == shape


def test_a_standard_deviation_of_a_constant_series_has_the_derivative_0():
    found = jax.grad(lambda x: fastrecur.smoothing.ewm_std(x, alpha=0.5)[1:].sum())(jnp.ones(5))
    assert not found.any()


def test_strides_and_large_arrays(rng):
    """Several threads, streamed results, an axis that is not XLA's last, gradients written in place."""
    f, x = rng.random((2, 3000, 400))
    loss = jax.jit(jax.value_and_grad(lambda f, x: (fastrecur.forget_mult(f.T, x.T, axis=1) ** 2).sum(), (0, 1)))
    value, grads = loss(f, x)
    h = fastrecur.forget_mult(f, x)
    np.testing.assert_allclose(value, (h**2).sum(), rtol=1e-12)
    close(grads, fastrecur.forget_mult_vjp(2 * h, f, x, h)[:2], 1e-11)


def test_threads_and_cleared_caches(rng):
    """Compiled calls from several threads at once, asynchronous, and again with all of JAX's caches cleared."""
    f, x = (jnp.asarray(v) for v in rng.random((2, 500, 30)))
    wanted = fastrecur.forget_mult(np.asarray(f), np.asarray(x))
    run = jax.jit(lambda f, x: fastrecur.forget_mult(f, x))

    def many(_):
        found = [run(f, x) for _ in range(30)]
        return max(float(abs(v - wanted).max()) for v in found)

    for _ in range(2):
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert max(pool.map(many, range(8))) == 0
        jax.clear_caches()


def test_what_a_kernel_raises_is_raised_by_xla(monkeypatch):
    from fastrecur._cpu import xla

    def fail(*_, **how):
        raise ValueError("`x` is what it should not be")

    monkeypatch.setitem(xla.runs, "forward", fail)
    with pytest.raises(Exception, match="ValueError: `x` is what it should not be"):
        jax.jit(lambda x: fastrecur.forget_mult(0.25, x))(jnp.ones(11)).block_until_ready()
    monkeypatch.undo()
    assert jax.jit(lambda x: fastrecur.forget_mult(0.25, x))(jnp.ones(11))[0] == 0.25


@pytest.mark.exhaustive
def test_shards_of_a_batch(run_python):
    run_python(
        """
import jax, jax.numpy as jnp, numpy as np, pytest, fastrecur
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
try:
    from jax import shard_map
except ImportError:  # jax 0.6
    from jax.experimental.shard_map import shard_map
mesh = Mesh(np.array(jax.devices()), ("batch",))
x = jax.device_put(jnp.arange(24.0).reshape(6, 4), NamedSharding(mesh, P(None, "batch")))
assert len(x.devices()) == 2
with pytest.raises(TypeError, match="must be on one device outside of jax.jit, got 2: use jax.shard_map"):
    fastrecur.forget_mult(0.5, x)
how = {"mesh": mesh, "in_specs": P(None, "batch"), "out_specs": P(None, "batch")}
run = jax.jit(shard_map(lambda x: fastrecur.forget_mult(0.5, x), **how))
found = run(x)
assert len(found.devices()) == 2
np.testing.assert_allclose(found, fastrecur.forget_mult(0.5, np.asarray(x)))
np.testing.assert_allclose(jax.jit(lambda x: fastrecur.forget_mult(0.5, x))(x), found)
""",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )


@pytest.mark.exhaustive
def test_a_fork_and_an_interrupt(run_python):
    """A forked child computes with NumPy's arrays; an interrupt ends a call, and the next one is right."""
    run_python(
        """
import os, signal, warnings, jax, jax.numpy as jnp, numpy as np, fastrecur
from fastrecur._cpu import xla
x = jnp.ones(300)
run = jax.jit(lambda x: fastrecur.linear_recurrence(1.0, x))
assert run(x)[-1] == 300
warnings.simplefilter("ignore")
if (child := os.fork()) == 0:
    os._exit(int(fastrecur.linear_recurrence(1.0, np.ones(300))[-1] != 300))
assert os.waitpid(child, 0)[1] == 0
forward = xla.runs["forward"]
def interrupted(*call, **how):
    raise KeyboardInterrupt
xla.runs["forward"] = interrupted
try:
    run(x).block_until_ready()
    raise SystemExit("no error")
except Exception as error:
    assert "KeyboardInterrupt" in str(error)
xla.runs["forward"] = forward
assert run(x)[-1] == 300
"""
    )


def test_another_version_of_the_interface_is_refused_in_words(tmp_path):
    from fastrecur._cpu import xla

    (tmp_path / "xla/ffi/api").mkdir(parents=True)
    (tmp_path / "xla/ffi/api/c_api.h").write_text("#define XLA_FFI_API_MAJOR 1\n")
    with pytest.raises(ImportError, match="must be of version 0, got 1"):
        xla.check_version(str(tmp_path))


def test_other_libraries_are_refused():
    pytest.importorskip("torch.nn")
    import torch

    with pytest.raises(TypeError, match="torch"):
        fastrecur.forget_mult(torch.ones(3), jnp.ones(3))

"""The recurrences and their gradients on Dask arrays: any chunks, the numbers of one array."""

import dask
import dask.array as da
import numpy as np
import pytest
import torch
from compare import assert_close_lazy
from hypothesis import Phase, given, settings, strategies as st

import fastrecur
from fastrecur import forget_mult, forget_mult_vjp, linear_recurrence

pytestmark = pytest.mark.usefixtures("one_thread")


@st.composite
def chunks(draw, n):
    """Cut a number of steps into chunks, of which some may be empty."""
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=4)))
    return tuple(np.diff([0, *cuts, n]).tolist()) if n else (0,)


@st.composite
def problems(draw):
    shape = draw(st.sampled_from([(9,), (0,), (7, 3), (1, 4), (5, 1, 3), (2, 6, 3), (2, 3, 8)]))
    axis = draw(st.integers(0, len(shape) - 1))
    lanes = shape[:axis] + shape[axis + 1 :]
    rng = np.random.default_rng(draw(st.integers(0, 99)))

    def array(shape, low=-1.0):
        values = rng.uniform(low, 1.0, shape)
        if not values.ndim or draw(st.integers(0, 4)) == 0:
            return values, values if values.ndim else float(values)
        return values, da.from_array(values, tuple(draw(chunks(n)) for n in shape))

    def stretched(shape):
        return draw(st.sampled_from([shape, shape, tuple(n if k % 2 else 1 for k, n in enumerate(shape)), shape[1:]]))

    a = array(draw(st.sampled_from([shape, (), stretched(shape)])), 0.0)
    b = array(shape)
    h0 = draw(st.sampled_from([None, lanes, stretched(lanes)]))
    h0 = (None, None) if h0 is None else array(h0)
    if not any(isinstance(o[1], da.Array) for o in (a, b, h0)):
        b = b[0], da.from_array(b[0], tuple(draw(chunks(n)) for n in shape))
    lengths = None
    if draw(st.booleans()):
        lengths = np.asarray(
            rng.integers(0, shape[axis] + 1, lanes[: draw(st.integers(min(1, len(lanes)), len(lanes)))])
        )
    options = dict(axis=axis, reverse=draw(st.booleans()))
    return rng, a, b, h0, lengths, options


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["forget_mult", "linear_recurrence"])
@settings(max_examples=12, phases=[Phase.generate])  # what fails is small as it is
@given(problem=problems(), lazy_lengths=st.booleans())
def test_chunks_change_nothing(name, problem, lazy_lengths):
    rng, a, b, h0, lengths, options = problem
    recurrence, vjp = getattr(fastrecur, name), getattr(fastrecur, name + "_vjp")
    some = lengths if lengths is None or not lazy_lengths else da.from_array(lengths, 2)
    h, last = recurrence(a[0], b[0], h0[0], lengths=lengths, return_state=True, **options)
    lazy, lazy_last = recurrence(a[1], b[1], h0[1], lengths=some, return_state=True, **options)
    assert_close_lazy(lazy, h)
    assert_close_lazy(lazy_last, last)
    g, g_last = rng.standard_normal(h.shape), rng.standard_normal(last.shape)
    for state in (None, g_last):
        expected = vjp(g, a[0], b[0], h, h0[0], lengths=lengths, grad_state=state, **options)
        actual = vjp(da.from_array(g, 2), a[1], b[1], h, h0[1], lengths=some, grad_state=state, **options)
        for one, other in zip(actual, expected, strict=True):
            if other is None:
                assert one is None
            else:
                assert_close_lazy(one, other)


@pytest.mark.exhaustive
def test_dtypes(rng):
    for dtype, scale in (("f4", 1e-6), ("f8", 1e-12), ("c16", 1e-12)):
        x = (8 * rng.standard_normal((11, 3))).astype(dtype)
        if x.dtype.kind == "c":
            x = x + np.array(1j, x.dtype) * rng.standard_normal(x.shape).astype(x.real.dtype)
        f = rng.random((11, 1)).astype("f4" if dtype == "f4" else "f8")
        lazy = da.from_array(x, (4, 2)), da.from_array(f, (3, 1))
        h, last = forget_mult(f, x, return_state=True)
        lazy_h, lazy_last = forget_mult(lazy[1], lazy[0], return_state=True)
        assert_close_lazy(lazy_h, h, scale)
        assert_close_lazy(lazy_last, last, scale)
        assert_close_lazy(linear_recurrence(0.5, lazy[0]), linear_recurrence(0.5, x), scale)
        expected, actual = forget_mult_vjp(h, f, x, h), forget_mult_vjp(lazy_h, lazy[1], lazy[0], lazy_h)
        for one, other in zip(actual[:2], expected[:2], strict=True):
            assert_close_lazy(one, other, 4 * scale)
    a = rng.standard_normal(9) + 1j * rng.standard_normal(9)
    h = linear_recurrence(a, a)
    z = da.from_array(a, 4)
    assert_close_lazy(linear_recurrence(z, z), h)
    for one, other in zip(
        fastrecur.linear_recurrence_vjp(h, z, z, h)[:2],
        fastrecur.linear_recurrence_vjp(h, a, a, h)[:2],
        strict=True,
    ):
        assert_close_lazy(one, other)


def tasks(array):
    return len(dict(array.__dask_graph__()))


@pytest.mark.parametrize("chunks", [1, 10, 300])
def test_a_chunk_is_three_tasks(chunks):
    x = da.ones((2 * chunks, 2), chunks=(2, 1))
    own = tasks(x)
    h = forget_mult(0.5, x)
    assert tasks(h) - own <= 3 * x.npartitions
    assert tasks(forget_mult(0.5, x, return_state=True)[1]) - own <= 3 * x.npartitions + 2
    grads = forget_mult_vjp(x, x, x, x)
    assert len({**grads[0].__dask_graph__(), **grads[1].__dask_graph__()}) - own <= 5 * x.npartitions


def test_a_chunk_is_read_once(rng):
    reads = []
    x = rng.standard_normal((40, 2))

    def read(block, block_info=None):
        reads.append(block_info[0]["chunk-location"])
        return block

    lazy = da.from_array(x, (4, 1)).map_blocks(read, dtype=x.dtype, meta=np.empty((0, 0)))
    assert_close_lazy(forget_mult(0.5, lazy), forget_mult(0.5, x))
    assert len(reads) == lazy.npartitions


@pytest.mark.parametrize("ahead", [False, True])
def test_what_a_store_holds_is_read_in_turn(rng, ahead):
    x = rng.standard_normal(60)

    class Store:
        shape, dtype, ndim = x.shape, x.dtype, 1
        walked = []

        def __getitem__(self, index):
            if index[0].stop > index[0].start:  # Dask looks at the type of what comes
                self.walked.append(index[0].start)
            return x[index]

    with dask.config.set({"fastrecur.read-ahead": ahead}):
        lazy = da.from_array(Store(), 10)
        assert_close_lazy(forget_mult(0.1, lazy[:57]), forget_mult(0.1, x[:57]))
        assert Store.walked == [0, 10, 20, 30, 40, 50]
        (h,) = dask.optimize(forget_mult(0.1, lazy))
        assert any(key[0].startswith("array-") for key in dict(h.dask) if isinstance(key, tuple)) == ahead


def test_threads_and_names(rng):
    x = da.from_array(rng.standard_normal((50, 3)), (7, 2))
    same, other = forget_mult(0.5, x), forget_mult(0.25, x)
    assert same.name == forget_mult(0.5, x).name != other.name
    seen = []
    lazy = x.map_blocks(
        lambda b: (seen.append(fastrecur._cpu.machine.threads.team().size), b)[1], dtype=x.dtype, meta=np.empty((0, 0))
    )
    assert_close_lazy(forget_mult(0.5, lazy), same.compute())
    with dask.config.set(scheduler="threads"):
        assert_close_lazy(same, forget_mult(0.5, x.compute()))
    before = fastrecur._cpu.machine.threads.team().size
    with fastrecur._cpu.machine.threads.alone():
        assert fastrecur._cpu.machine.threads.team().size == 1
    assert fastrecur._cpu.machine.threads.team().size == before == seen[0]


def test_a_composed_chunk_beyond_all_numbers():
    a, b = np.full(4000, 2.0), np.zeros(4000)
    lazy = da.from_array(a, 2000), da.from_array(b, 2000)
    assert_close_lazy(linear_recurrence(*lazy), b)
    b[3] = np.nan
    h = linear_recurrence(a, b)
    np.testing.assert_array_equal(linear_recurrence(lazy[0], da.from_array(b, 2000)).compute(), h)


def test_errors(rng):
    x = da.from_array(rng.standard_normal((6, 2)), 2)
    with pytest.raises(ValueError, match=r"`x` must have known chunk sizes.*compute_chunk_sizes"):
        forget_mult(0.5, x[x[:, 0] > 0])
    with pytest.raises(TypeError, match="`out` must be left out with Dask"):
        forget_mult(0.5, x, out=np.empty((6, 2)))
    with pytest.raises(ValueError, match="`f` and `x` must broadcast"):
        forget_mult(x[:5], x)
    with pytest.raises(ValueError, match="`axis` must be in"):
        forget_mult(0.5, x, axis=2)
    with pytest.raises(ValueError, match="`h0` must have the shape"):
        forget_mult(0.5, x, np.ones(3))
    with pytest.raises(ValueError, match=r"`lengths` must be in 0\.\.6"):
        forget_mult(0.5, x, lengths=[7, 1])
    with pytest.raises(ValueError, match=r"`lengths` must be in 0\.\.6"):
        forget_mult(0.5, x, lengths=da.from_array(np.array([7, 1]), 1)).compute()
    with pytest.raises(TypeError, match="`lengths` must hold integers"):
        forget_mult(0.5, x, lengths=da.ones(2))
    with pytest.raises(TypeError, match="`x` must hold float16"):
        forget_mult(0.5, x.astype("M8[s]"))
    with pytest.raises(TypeError, match="`b` must be an array"):
        linear_recurrence(x, None)
    with pytest.raises(TypeError, match="`"):
        forget_mult(torch.tensor(0.5), x)
    with pytest.raises(ValueError, match="`grad_h` must have the shape of the result"):
        forget_mult_vjp(np.ones(5), x, x, x)
    with pytest.raises(TypeError, match="`h` must be an array"):
        forget_mult_vjp(x, x, x, None)


@pytest.mark.exhaustive
def test_dask_is_not_imported_for_others(run_python):
    run_python(
        """
import sys
import numpy as np
import fastrecur
from fastrecur.smoothing import ewm_mean
fastrecur.forget_mult([0.5], np.ones(3)), ewm_mean(np.ones(3), alpha=0.5)
assert "dask" not in sys.modules
"""
    )


@pytest.mark.parametrize("h0", [0.5, np.array([2.0]), np.array([[1.0]])[0], np.array([1.0, 2.0, 3.0])])
@pytest.mark.parametrize("steps", [(0, 5), (0, 0, 2, 3), (5, 0), (2, 0, 3)])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_broadcast_state_beside_empty_chunks(rng, h0, steps, reverse):
    """What is left of a filter has empty chunks; the state's gradient is added up over the lanes once."""
    f, x, g = rng.random((5, 3)), rng.standard_normal((5, 3)), rng.standard_normal((5, 3))
    h = forget_mult(f, x, h0, reverse=reverse)
    expected = forget_mult_vjp(g, f, x, h, h0, reverse=reverse)
    lazy = [da.from_array(v, chunks=(steps, (2, 1))) for v in (g, f, x, h)]
    for grad, right in zip(forget_mult_vjp(*lazy, h0, reverse=reverse), expected, strict=True):
        assert_close_lazy(grad, np.asarray(right))


def test_chunks_whose_products_are_beyond_all_numbers():
    """A state goes from chunk to chunk, and nothing is composed."""
    f, x = np.full((400, 2), -40.0), np.zeros((400, 2))
    a, h0 = np.array([1e200, 1e200, 1e-200, 1e-200, 1e-200, 1.0]), 1e-200
    for size, run in (
        (100, lambda chunks: forget_mult(da.from_array(f, chunks=chunks), da.from_array(x, chunks=chunks), 0.0)),
        (1, lambda chunks: linear_recurrence(da.from_array(a, chunks=chunks), 0.0, h0)),
    ):
        assert np.isfinite(run(size).compute()).all()


def test_lengths_alone_may_be_lazy(rng):
    x, lengths = rng.standard_normal((5, 3)), np.array([5, 0, 2])
    lazy = da.from_array(lengths, chunks=2)
    h = forget_mult(0.5, x, lengths=lengths)
    assert_close_lazy(forget_mult(0.5, x, lengths=lazy), h)
    assert_close_lazy(forget_mult_vjp(x, 0.5, x, h, lengths=lazy)[1], forget_mult_vjp(x, 0.5, x, h, lengths=lengths)[1])

"""Pairs go by their labels, as in pandas and xarray, or are refused: never by position where names say otherwise."""

import decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
import xarray as xr

from fastrecur.smoothing import Ewm, _frames, ewm_corr, ewm_cov, ewm_filtfilt, ewm_mean, ewm_std, ewm_sum, ewm_var

INDEX = pd.date_range("2024", periods=8, freq="h")
X, Y = np.random.default_rng(0).standard_normal((2, 8, 3))
FRAME = pd.DataFrame(X, INDEX, list("abc"))
OTHER = pd.DataFrame(Y, INDEX, list("abc"))
PAIRS = [ewm_cov, ewm_corr]


@pytest.mark.parametrize("statistic", PAIRS)
def test_columns_in_another_order(statistic):
    expected = statistic(FRAME, OTHER, span=3)
    pd.testing.assert_frame_equal(statistic(FRAME, OTHER[["c", "a", "b"]], span=3), expected)
    np.testing.assert_array_equal(expected, statistic(X, Y, span=3))
    theirs = pd.concat([getattr(FRAME[c].ewm(span=3), statistic.__name__[4:])(OTHER[c]) for c in FRAME], axis=1)
    np.testing.assert_allclose(expected[1:], theirs[1:])
    frames = pl.DataFrame(FRAME.to_dict("list")), pl.DataFrame(OTHER.to_dict("list"))
    result = statistic(frames[0], frames[1].select("b", "c", "a"), span=3)
    assert result.columns == ["a", "b", "c"]
    np.testing.assert_array_equal(result.to_numpy(), expected)


@pytest.mark.parametrize("statistic", PAIRS)
def test_a_frame_and_a_series(statistic):
    """As many columns as steps: by position, the series would have run along a row."""
    square = pd.DataFrame(np.random.default_rng(1).standard_normal((8, 8)), INDEX)
    for pair in [(square, OTHER["b"]), (OTHER["b"], square)]:
        result = statistic(*pair, span=3)
        for column in square:
            np.testing.assert_allclose(result[column], statistic(square[column], OTHER["b"], span=3), rtol=1e-12)
    table = pl.DataFrame({str(k): square[k].to_numpy() for k in square})
    result = statistic(table, pl.Series(OTHER["b"].to_numpy()), span=3)
    np.testing.assert_allclose(result["3"].to_numpy(), statistic(square[3], OTHER["b"], span=3), rtol=1e-12)


def test_dimensions_in_another_order():
    x = xr.DataArray(X, dims=("time", "c"), coords={"time": INDEX})
    y = xr.DataArray(Y, dims=("time", "c"), coords={"time": INDEX})
    expected = ewm_corr(x, y, span=3)
    xr.testing.assert_equal(ewm_corr(x, y.T, span=3), expected)
    xr.testing.assert_equal(ewm_corr(x.T, y, span=3, axis="time").T, expected)
    square = xr.DataArray(np.random.default_rng(1).standard_normal((8, 8)), dims=("time", "c"))
    one = xr.DataArray(Y[:, 0], dims="time")
    np.testing.assert_array_equal(ewm_cov(square, one, span=3)[:, 4], ewm_cov(square[:, 4], one, span=3))


def test_factors_with_labels():
    steps = pd.Series(np.linspace(0.1, 0.9, 8), INDEX)
    lanes = pd.Series([0.9, 0.5, 0.1], ["c", "b", "a"])
    for statistic in [ewm_mean, ewm_sum, ewm_var, ewm_std, lambda x, alpha: ewm_filtfilt(x, alpha=alpha)]:
        by_steps, by_lanes = statistic(FRAME, alpha=steps), statistic(FRAME, alpha=lanes)
        np.testing.assert_array_equal(by_steps, statistic(X, alpha=steps.to_numpy()[:, np.newaxis]))
        np.testing.assert_array_equal(by_lanes, statistic(X, alpha=np.array([0.1, 0.5, 0.9])))
        both = pd.DataFrame(np.outer(steps, [0.1, 0.5, 1.0]), INDEX, list("abc"))
        np.testing.assert_array_equal(
            statistic(FRAME, alpha=both[["b", "a", "c"]]), statistic(X, alpha=both.to_numpy())
        )
    for statistic in PAIRS:
        expected = statistic(X, Y[:, :1], alpha=steps.to_numpy()[:, np.newaxis])
        np.testing.assert_array_equal(statistic(FRAME, OTHER["a"], alpha=steps), expected)
        np.testing.assert_array_equal(statistic(OTHER["a"], FRAME, alpha=steps), expected)
    np.testing.assert_array_equal(ewm_mean(FRAME["a"], alpha=steps), ewm_mean(X[:, 0], alpha=steps.to_numpy()))
    np.testing.assert_array_equal(ewm_mean(X, alpha=lanes), ewm_mean(X, alpha=lanes.to_numpy()))
    assert Ewm(alpha=pd.Series([0.5, 0.1, 0.2])).update(X).shape == X.shape


@pytest.mark.parametrize("statistic", [ewm_mean, ewm_sum, ewm_var, ewm_std])
def test_factors_of_a_table_without_rows_and_columns(statistic):
    empty = pd.DataFrame(dtype=np.float64)
    pd.testing.assert_frame_equal(statistic(empty, halflife=pd.Series(dtype=np.float64)), statistic(empty, halflife=2))


SQUARE = pd.DataFrame(np.ones((3, 3)))
ARRAY = xr.DataArray(X, dims=("time", "c"), coords={"time": INDEX})


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "words"),
    [
        (FRAME, OTHER[["a", "b"]], {}, ValueError, "`y` must have the columns of `x`"),
        (FRAME, OTHER.rename(columns={"a": "d"}), {}, ValueError, "`y` must have the columns of `x`"),
        (FRAME[["a", "a"]], OTHER[["a", "b"]], {}, ValueError, "`y` must have the columns of `x`"),
        (FRAME, OTHER.iloc[::-1], {}, ValueError, "`x` and `y` must have the same index"),
        (FRAME, OTHER["a"].iloc[::-1], {}, ValueError, "`x` and `y` must have the same index"),
        (FRAME, OTHER["a"], {"axis": 1}, ValueError, "`axis` must be 0"),
        (FRAME, pl.Series(Y[:, 0]), {}, TypeError, "`y` must come from the library of `x`, pandas"),
        (ARRAY, ARRAY.rename(c="d"), {}, ValueError, "`y` must have dimensions of `x`"),
        (ARRAY, ARRAY[:4], {}, ValueError, "the same coordinates along 'time'"),
        (ARRAY, ARRAY[::-1], {}, ValueError, "the same coordinates along 'time'"),
        (ARRAY, ARRAY[:, :1], {}, ValueError, "the same coordinates along 'c'"),
        (FRAME, OTHER, {"alpha": pd.Series([0.5, 0.5])}, ValueError, "same index, or `alpha` the columns of `x`"),
        (FRAME["a"], OTHER["a"], {"alpha": abs(FRAME)}, ValueError, "`alpha` must be a Series"),
        (SQUARE, SQUARE, {"alpha": pd.Series([0.5] * 3)}, ValueError, "`alpha` must be an array where its labels"),
    ],
)
def test_what_does_not_belong_together(x, y, options, error, words):
    with pytest.raises(error, match=words):
        ewm_corr(x, y, **{"alpha": 0.5, **options})


def test_no_labels_beside_labels():
    np.testing.assert_array_equal(ewm_cov(FRAME, Y, span=3), ewm_cov(X, Y, span=3))
    np.testing.assert_array_equal(ewm_cov(X, OTHER, span=3), ewm_cov(X, Y, span=3))


@pytest.mark.parametrize("values", [[True, False, None, True], [decimal.Decimal("1.5"), None, decimal.Decimal("2")]])
def test_polars_bools_and_decimals(values):
    expected = ewm_mean(np.array([np.nan if v is None else float(v) for v in values]), span=3)
    series = pl.Series("s", values)
    np.testing.assert_array_equal(ewm_mean(series, span=3).to_numpy(), expected)
    result = ewm_mean(pl.DataFrame({"a": series, "b": [1] * len(values)}), span=3)
    np.testing.assert_array_equal(result["a"].to_numpy(), expected)
    assert result.columns == ["a", "b"]
    with pytest.raises(TypeError, match=r"`x\['b'\]` must hold numbers only, got String in .*selectors"):
        ewm_mean(pl.DataFrame({"a": series, "b": ["1"] * len(values)}), span=3)


def test_the_column_that_has_no_numbers():
    frame = pd.DataFrame({"a": [1.5, 2], "b": ["x", "y"], "c": pd.date_range("2026", periods=2)})
    with pytest.raises(TypeError, match=r"^`x\['b'\]` must hold numbers only, got (object|str) in .*select_dtypes"):
        ewm_mean(frame, span=3)
    with pytest.raises(TypeError, match=r"^`x` must hold numbers only, got (object|str) in a pandas\S+Series$"):
        ewm_mean(frame["b"], span=3)
    assert list(ewm_mean(frame.select_dtypes("number"), span=3).columns) == ["a"]
    with pytest.raises(TypeError, match="^`x` must hold numbers only, got datetime64"):
        ewm_mean(frame[["a", "c"]].set_axis(["a", "a"], axis=1), span=3)


def test_square_frames_of_polars_are_not_turned():
    x = np.arange(9.0).reshape(3, 3)
    table = pl.DataFrame(x, schema=["a", "b", "c"], orient="row")
    np.testing.assert_array_equal(ewm_mean(table, span=3).to_numpy(), ewm_mean(x, span=3))


def test_times_in_a_frame_go_by_column():
    x = pd.DataFrame({"a": [1.0, 2.0, 4.0], "b": [1.0, 2.0, 4.0]})
    times = pd.DataFrame({"a": [0.0, 1.0, 2.0], "b": [0.0, 5.0, 9.0]})
    expected = ewm_mean(x, halflife=2.0, times=times)
    pd.testing.assert_frame_equal(ewm_mean(x, halflife=2.0, times=times[["b", "a"]]), expected)
    with pytest.raises(ValueError, match="`x` and `times` must have the same index"):
        ewm_mean(x, halflife=2.0, times=times.set_axis([1, 2, 3]))
    with pytest.raises(ValueError, match="`times` must have the columns of `x`"):
        ewm_mean(x, halflife=2.0, times=times.rename(columns={"a": "c"}))


@pytest.mark.parametrize("values", [pd.date_range("2026", periods=3, tz="UTC"), pd.timedelta_range("1s", periods=3)])
def test_dates_are_no_data(values):
    frame = pd.DataFrame({"t": values, "v": [1.0, 2.0, 3.0]})
    for x in (frame, frame[["t"]], frame["t"]):
        with pytest.raises(TypeError):
            ewm_mean(x, span=3)


@pytest.mark.parametrize("x", [FRAME, FRAME["a"]], ids=["frame", "series"])
def test_a_result_s_memory_is_that_of_the_kernel_and_of_nobody_else(x):
    """pandas would copy what it is given: that took longer than the average itself."""
    numbers, _, wrap = _frames.unwrap(x, 0)
    result = np.full(numbers.shape, 2.0)
    assert np.shares_memory(wrap(result).to_numpy(), result)
    for function in (ewm_mean, ewm_std, ewm_filtfilt):
        for size in (len(x), 0):
            assert not np.shares_memory(function(x[:size], alpha=0.5).to_numpy(), x.to_numpy())


class OwnSeries(pd.Series):
    @property
    def _constructor(self):
        return OwnSeries


class OwnFrame(pd.DataFrame):
    @property
    def _constructor(self):
        return OwnFrame


@pytest.mark.parametrize("kind", [pd.Series, OwnSeries, pd.DataFrame, OwnFrame])
@pytest.mark.parametrize("dtype", ["float64", "float32", "Float64", "int64", "boolean", "double[pyarrow]", "mixed"])
def test_what_a_small_result_says_beside_its_numbers(kind, dtype):
    """Each call gives an object of its own; of the data it has the very labels, and nothing that says more of them."""
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    values = np.array([[1, 0], [0, 1], [1, 1], [0, 1]])
    index = pd.date_range("2026", periods=4, freq="h", name="when")
    if "Frame" in kind.__name__:
        x = kind(values, index, pd.Index(["a", "b"], name="which"))
        x = x.astype({"a": "float32", "b": "int8"} if dtype == "mixed" else dtype)
    else:
        x = kind(values[:, 0], index, name="a").astype("int16" if dtype == "mixed" else dtype)
    x.attrs["unit"] = "m"
    x.flags.allows_duplicate_labels = False
    expected = ewm_mean(x.to_numpy(np.float32 if dtype == "float32" else np.float64), span=3)
    for statistic in (ewm_mean, ewm_mean, ewm_std):
        first, second = statistic(x, span=3), statistic(x, span=3)
        assert type(first) is kind and first.index is x.index and first.index.freq == index.freq
        assert not first.attrs and first.flags.allows_duplicate_labels
        if "Frame" in kind.__name__:
            assert first.columns is x.columns
        else:
            assert first.name == "a"
        second[:] = 100.0
        if statistic is ewm_mean:
            np.testing.assert_allclose(first, expected, rtol=1e-6)

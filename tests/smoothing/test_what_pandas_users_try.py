"""What tables, keys and times of every kind give: right numbers, or an error that names the argument; never others."""

import datetime

import dask.array as da
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
import xarray as xr

from fastrecur.smoothing import Ewm, ewm_corr, ewm_cov, ewm_filtfilt, ewm_mean, ewm_var, kama, pcen

N = np.nan
X, X3 = np.array([1.0, 2.0, 4.0, 8.0]), np.array([1.0, 2.0, 3.0])
S = pd.Series(X)
TWO = [1.0, 5 / 3, 17 / 7]  # of X3, where a step is a half-life
NOW = 1_700_000_000_000_000_000
HOURS = pd.date_range("2024-01-01", periods=4, freq="h")
TABLE = pd.DataFrame({"k": [1, 1, 2, 2], "j": ["a", "b", "a", "a"], "x": X})
ARRAY = xr.DataArray(np.arange(9.0).reshape(3, 3), dims=("p", "time"), coords={"time": [0, 1, 2]})


def labelled(values, dim, **coords):
    return xr.DataArray(values, dims=(dim,), coords=coords)


@pytest.mark.parametrize("statistic", [ewm_cov, ewm_corr])
@pytest.mark.parametrize("x", [X, S, pl.Series(X), labelled(X, "t"), da.from_array(X), torch.tensor(X)])
def test_none_is_no_series(statistic, x):
    with pytest.raises(TypeError, match="`y` must be an array.*NoneType"):
        statistic(x, None, com=1)
    with pytest.raises(TypeError, match="`x` must be an array.*NoneType"):
        statistic(None, x, com=1)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("x", lambda: ewm_mean(None, com=1)),
        ("x", lambda: ewm_mean(None, com=1, groups=[1])),
        ("x", lambda: ewm_var(None, com=1)),
        ("x", lambda: ewm_filtfilt(None, com=1)),
        ("x", lambda: kama(None)),
        ("S", lambda: pcen(None)),
    ],
)
def test_none_is_no_data(name, call):
    with pytest.raises(TypeError, match=f"`{name}` must be an array.*NoneType"):
        call()


# Keys.

B = 2**53


@pytest.mark.parametrize(
    "keys",
    [
        pd.array([B, B + 1, None, B], dtype="Int64"),
        pd.Series([B, B + 1, None, B], dtype="Int64"),
        pl.Series([B, B + 1, None, B]),
        [B, B + 1, None, B],
        pd.Categorical(["a", "b", None, "a"]),
        pl.Series(["a", "b", None, "a"], dtype=pl.Categorical),
        np.array(["2024", "2025", "NaT", "2024"], "M8[s]"),
    ],
)
def test_keys_beside_missing_ones_are_what_they_are(keys):
    np.testing.assert_allclose(ewm_mean(X, com=1, groups=keys), [1, 2, N, 17 / 3])


PAIRS = [("a", N), ("a", 1), ("a", None), ("a", 1)]


@pytest.mark.parametrize("keys", [PAIRS, pd.MultiIndex.from_tuples(PAIRS), [("a", pd.NA), *PAIRS[1:]]])
def test_a_key_of_which_a_part_is_missing(keys):
    np.testing.assert_allclose(ewm_mean(X, com=1, groups=keys), [N, 2, N, 6])


def test_keys_of_several_columns():
    both = TABLE[["k", "j"]]
    expected = TABLE.groupby(["k", "j"])["x"].ewm(com=1).mean().droplevel([0, 1]).sort_index()
    for keys in (
        pd.MultiIndex.from_frame(both),
        TABLE.groupby(["k", "j"]).ngroup(),
        [*zip(TABLE.k, TABLE.j, strict=True)],
    ):
        np.testing.assert_allclose(ewm_mean(TABLE["x"], com=1, groups=keys), expected)
    for keys in (both, [TABLE["k"], TABLE["j"]]):
        with pytest.raises(ValueError, match=r"`groups`.*of several columns, pass frame.groupby\(columns\).ngroup\(\)"):
            ewm_mean(TABLE["x"], com=1, groups=keys)


def test_keys_that_are_a_groupby():
    by = TABLE.groupby("k")
    for keys in (by, by["x"]):
        with pytest.raises(TypeError, match=r"got pandas\S+GroupBy: pass its `ngroup\(\)`$"):
            ewm_mean(TABLE["x"], com=1, groups=keys)
    with pytest.raises(TypeError, match="got xarray[^:]*$"):
        ewm_mean(X, com=1, groups=ARRAY.groupby(ARRAY.dims[0]))
    with pytest.raises(ValueError, match=r"got shape \(2,\)$"):
        ewm_mean(X, com=1, groups=np.array([1, 2]))


@pytest.mark.parametrize("keys", [pl.Series([[1], [1], [2], [2]]), [(1, [2])] * 4])
def test_keys_without_a_hash(keys):
    with pytest.raises(
        TypeError, match="`groups` must be keys in one dimension, got (Series of ndarray|list of tuple)"
    ):
        ewm_mean(X, com=1, groups=keys)


def test_groups_along_the_columns():
    frame, keys = TABLE[["x", "k"]], pd.Series([1, 2], index=["x", "k"])
    np.testing.assert_array_equal(ewm_mean(frame, com=1, axis=1, groups=keys), frame)
    with pytest.raises(ValueError, match="`x` and `groups` must have the same index, along this axis its columns"):
        ewm_mean(frame, com=1, axis=1, groups=keys.set_axis([0, 1]))


# Times.

UNSIGNED = np.array([NOW, NOW + 100, NOW + 200], "u8")


@pytest.mark.parametrize(
    "times",
    [
        UNSIGNED,
        UNSIGNED + np.uint64(2**63),
        pl.Series(UNSIGNED),
        pd.Series(UNSIGNED, dtype="UInt64"),
        labelled(UNSIGNED, "t"),
        da.from_array(UNSIGNED, chunks=2),
        torch.tensor(UNSIGNED.astype("i8")).to(torch.uint64),
    ],
)
def test_unsigned_times_are_not_rounded(times):
    np.testing.assert_allclose(ewm_mean(X3, halflife=100, times=times), TWO)
    np.testing.assert_allclose(ewm_var(X3, halflife=100, times=times), ewm_var(X3, halflife=1.0))


def test_unsigned_times_of_chunks_and_tensors():
    stream, x = Ewm(halflife=100), torch.tensor(X3, requires_grad=True)
    parts = [stream.update(X3[k : k + 1], UNSIGNED[k : k + 1]) for k in range(3)]
    np.testing.assert_allclose(np.concatenate(parts), TWO)
    np.testing.assert_allclose(ewm_mean(da.from_array(X3, chunks=1), halflife=100, times=UNSIGNED), TWO)
    for times in (UNSIGNED, torch.tensor(UNSIGNED.astype("i8")).to(torch.uint64)):
        np.testing.assert_allclose(ewm_mean(x, halflife=100, times=times).detach(), TWO)
    with pytest.raises(ValueError, match="`times` must be in the range of float64"):
        stream.update([4.0], UNSIGNED[2:] + np.uint64(2**63))


LONG = np.timedelta64(290 * 365 * 86400 * 10**9, "ns")


def mean_after(years):
    days = (np.datetime64(years[1], "D") - np.datetime64(years[0], "D")).astype(float)
    weight = 0.5 ** (days / (290 * 365))
    return (weight + 2) / (weight + 1)


@pytest.mark.parametrize("years", [("1600", "2000"), ("1400", "2000")])
def test_spans_longer_than_nanoseconds_count(years):
    x, times = np.array([1.0, 2.0]), np.array(years, "M8[s]")
    for data in (x, torch.tensor(x, requires_grad=True), da.from_array(x, chunks=1)):
        result = ewm_mean(data, halflife=LONG, times=times)
        result = result.detach() if isinstance(data, torch.Tensor) else result
        np.testing.assert_allclose(result, [1, mean_after(years)])
    stream = Ewm(halflife=LONG)
    stream.update(x[:1], times[:1])
    with pytest.raises(ValueError, match=r"`times` must be in the range of datetime64\[ns\]"):
        stream.update(x[1:], times[1:].astype("M8[ns]"))
    np.testing.assert_allclose(stream.update(x[1:], times[1:]), mean_after(years))


def test_chunks_in_two_units():
    for units in (("s", "ns"), ("ns", "s")):
        stream = Ewm(halflife=LONG)
        stream.update([1.0], np.array(["1700"], f"M8[{units[0]}]"))
        result = stream.update([2.0], np.array(["2000"], f"M8[{units[1]}]"))
        np.testing.assert_allclose(result, mean_after(("1700", "2000")))


def test_a_list_of_dates_in_two_units():
    times = [pd.Timestamp("1600"), pd.Timestamp("2020-01-01") + pd.Timedelta(1, "ns")]
    with pytest.raises(ValueError, match=r"`times` must be in the range of datetime64\[ns\]"):
        ewm_mean([1.0, 2.0], halflife="1D", times=times)


def test_gaps_of_more_than_63_bits():
    ends = np.array([-(2**63), 2**63 - 1])
    np.testing.assert_allclose(ewm_mean([1.0, 2.0], halflife=2.0**64, times=ends), [1, 5 / 3])
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    np.testing.assert_allclose(ewm_mean(x, halflife=2.0**64, times=torch.tensor(ends)).detach(), [1, 5 / 3], rtol=1e-6)
    far = np.array(["1678", "2261"], "M8[ns]")
    np.testing.assert_allclose(ewm_mean([1.0, 2.0], halflife="1ns", times=far), [1, 2])


PERIODS = pd.period_range("2024-01-01", periods=4, freq="h")


@pytest.mark.parametrize(
    ("error", "words", "times"),
    [
        (ValueError, "datetime64 or real numbers, got Period", PERIODS),
        (ValueError, "datetime64 or real numbers, got Period", pd.Series(PERIODS)),
        (ValueError, "datetime64 or real numbers, got str", pd.Series(["1", "2", "3", "4"])),
        (ValueError, "datetime64 or real numbers, got str", pd.Series(["now"] * 4, dtype=object)),
        (ValueError, "datetime64 or real numbers, got str", pd.Series(["2024-01-01T00+02:00"] * 4)),
        (ValueError, "datetime64 or real numbers, got str", pd.Series(["01/02/2024"] * 4)),
        (ValueError, "datetime64 or real numbers, got time", pl.Series([datetime.time(1)] * 4)),
        (TypeError, "not be a masked array", np.ma.array([0, 1, 3, 4], mask=[0, 1, 0, 0])),
        (ValueError, "rectangular", [0, [1], 2, 3]),
        (ValueError, "datetime64 or real numbers, got NoneType, Timestamp", [*HOURS[:3], None]),
    ],
)
def test_what_are_no_times(error, words, times):
    with pytest.raises(error, match=f"`times` must .*{words}"):
        ewm_mean(X, halflife="1h", times=times)


def test_masked_keys():
    with pytest.raises(TypeError, match="`groups` must not be a masked array"):
        ewm_mean(X, com=1, groups=np.ma.array([1, 1, 2, 2], mask=[0, 1, 0, 0]))


def test_months():
    times = np.array(["2023-12", "2024-01", "2024-02"], "M8[M]")
    np.testing.assert_allclose(ewm_mean(X3, halflife=np.timedelta64(1, "M"), times=times), TWO)
    np.testing.assert_allclose(ewm_mean(X3, halflife=np.timedelta64(1, "Y"), times=times)[1], (2**-(1 / 12) + 2) / (
        2**-(1 / 12) + 1))  # fmt: skip
    for halflife in ("1D", np.timedelta64(1)):
        with pytest.raises(ValueError, match="`times` and `halflife` must both be in months"):
            ewm_mean(X3, halflife=halflife, times=times)


ZONED = HOURS.tz_localize("Europe/Berlin")


def in_polars(times):
    return pl.Series(times.tz_localize(None)).dt.replace_time_zone(None if times.tz is None else str(times.tz))


@pytest.mark.parametrize("convert", [lambda t: t, list, pd.Series, in_polars, lambda t: pd.Series(t, dtype=object)])
def test_a_stream_has_time_zones_or_none(convert):
    expected, parts = ewm_mean(X, halflife="1h", times=HOURS), [slice(0, 2), slice(2, 4)]
    for pair in ((HOURS, ZONED), (ZONED, HOURS)):
        stream, other = Ewm(halflife="1h"), Ewm(halflife="1h")
        stream.update(X[:2], convert(pair[0][:2]))
        with pytest.raises(ValueError, match="`times` must all have a time zone, or none"):
            stream.update(X[2:], convert(pair[1][2:]))
        other.update(X[2:], convert(pair[1][2:]))
        with pytest.raises(ValueError, match="`times` must all have a time zone, or none"):
            stream.merge(other)
        stream.reset()
        for times in pair:
            results = [stream.update(X[part], convert(times[part])) for part in parts]
            np.testing.assert_allclose(np.concatenate(results), expected)
            stream.reset()


# Labels.


@pytest.mark.parametrize("name", ["times", "groups", "resets"])
def test_labels_of_steps_are_those_of_the_data(name):
    """The same for all of them: labels where both have some, else the position."""
    values = [0.0, 1.0, 3.0] if name == "times" else [False, True, True]
    options = {"halflife": 1.0} if name == "times" else {"com": 1}
    expected = ewm_mean(ARRAY.to_numpy()[0], **options, **{name: np.array(values)})
    x, frame = ARRAY[0], pd.Series(ARRAY.to_numpy()[0])
    for given in (x.coords["time"].copy(data=values), labelled(values, "time"), np.array(values), pl.Series(values)):
        np.testing.assert_allclose(ewm_mean(x, **options, **{name: given}), expected)
        if name != "resets" or isinstance(given, xr.DataArray):  # without labels, in the shape of leading axes
            np.testing.assert_allclose(ewm_mean(ARRAY[[0]], **options, **{name: given}, axis="time")[0], expected)
    np.testing.assert_allclose(ewm_mean(frame, **options, **{name: pd.Series(values)}), expected)
    for given, words in [
        (labelled(values, "p"), f"`{name}` must have dimensions of `x`"),
        (labelled(values, "time", time=[2, 1, 0]), f"`x` and `{name}` must have the same coordinates"),
    ]:
        with pytest.raises(ValueError, match=words):
            ewm_mean(ARRAY, **options, **{name: given}, axis="time")
    with pytest.raises(ValueError, match=f"`x` and `{name}` must have the same index"):
        ewm_mean(frame, **options, **{name: pd.Series(values, index=[2, 1, 0])})
    stream = Ewm(**options)
    if name != "groups":
        with pytest.raises(ValueError, match=f"`chunk` and `{name}` must have the same index"):
            stream.update(frame, **{name: pd.Series(values, index=[2, 1, 0])})
        np.testing.assert_allclose(stream.update(frame, **{name: pd.Series(values)}), expected)


@pytest.mark.parametrize("library", [pd, pl])
def test_resets_and_offsets_in_a_series(library):
    flags, offsets = library.Series([False, False, True, False]), library.Series([0, 1, 4])
    np.testing.assert_allclose(ewm_mean(library.Series(X), com=1, resets=flags), [1, 5 / 3, 4, 20 / 3])
    np.testing.assert_allclose(ewm_mean(library.Series(X), com=1, resets=flags, offsets=offsets), [1, 2, 4, 20 / 3])
    with pytest.raises(TypeError, match="`resets` must hold bools"):
        ewm_mean(X, com=1, resets=library.Series([None, True, False, True]))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (pl.Series(X), pl.Series(X[:1])),
        (pl.Series(X), [1.0]),
        (S, [1.0]),
        ([1.0], S),
        (pl.DataFrame({"a": X}), pl.DataFrame({"a": X[:1]})),
        (pl.DataFrame({"a": X}), pl.Series(X[:1])),
        (S[:1], S),
    ],
)
@pytest.mark.parametrize("statistic", [ewm_cov, ewm_corr])
def test_tables_are_not_broadcast(statistic, x, y):
    with pytest.raises(ValueError, match="`y` must have as many rows as `x`"):
        statistic(x, y, com=1)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("x", lambda: ewm_cov(S[:1], X, com=1)),
        ("x", lambda: ewm_mean(S, alpha=np.full((4, 4), 0.5))),
        ("x", lambda: ewm_mean(pl.Series(X), alpha=np.full((4, 4), 0.5))),
        ("x", lambda: ewm_mean(ARRAY[0], alpha=np.full((3, 3), 0.5))),
        ("chunk", lambda: Ewm(alpha=np.full((1, 4), 0.5)).update(S)),
    ],
)
def test_results_that_have_no_labels(name, call):
    with pytest.raises(ValueError, match=f"`{name}` must have the shape .* of the result"):
        call()


# Values.


@pytest.mark.parametrize("kind", [pl.Int8, pl.UInt8, pl.Int16, pl.UInt16, pl.Int64, pl.Int128])
def test_small_integers_with_nulls_are_float64(kind):
    series, expected = pl.Series("a", [1, None, 3], dtype=kind), [1, 1, 2.6]
    for result in (ewm_mean(series, com=1), ewm_mean(series.to_frame(), com=1)["a"]):
        assert result.dtype == pl.Float64
        np.testing.assert_allclose(result, expected)
    assert ewm_mean(series.cast(pl.Float32), com=1).dtype == pl.Float32


def test_a_column_of_nulls_is_missing():
    np.testing.assert_array_equal(ewm_mean(pl.Series([None, None]), com=1), [N, N])


@pytest.mark.parametrize("name", ["com", "span", "halflife", "alpha"])
def test_constants_in_a_list(name):
    values = [0.5, 0.25, 1.0, 0.75] if name == "alpha" else [1, 2, 3, 4]
    expected = ewm_mean(X, **{name: np.array(values)})
    for given in (values, tuple(values)):
        np.testing.assert_array_equal(ewm_mean(X, **{name: given}), expected)
        np.testing.assert_array_equal(ewm_filtfilt(X, **{name: given}), ewm_filtfilt(X, **{name: np.array(values)}))
        np.testing.assert_array_equal(Ewm(**{name: given}).update([X])[0], X)
    np.testing.assert_array_equal(pcen(X, gain=[1, 0, 1, 0], b=0.5), pcen(X, gain=np.array([1, 0, 1, 0]), b=0.5))


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (TypeError, "`x` .*, got pandas.Index: pass its `to_numpy()`$", lambda: ewm_mean(pd.Index(X), com=1)),
        (TypeError, "`x` .*Array: pass its `to_numpy()`$", lambda: ewm_mean(pd.array([1, 2]), com=1)),
        (TypeError, "`x` .*LazyFrame: pass its `collect()`$", lambda: ewm_mean(pl.LazyFrame({"a": X}), com=1)),
        (TypeError, "`x` .*Expr: pass the function to its `map_batches`, which", lambda: ewm_mean(pl.col("a"), com=1)),
        (TypeError, "`x` .*Then: pass the function to its `map_batches`", lambda: ewm_mean(pl.when(1).then(2), com=1)),
        (TypeError, r"`groups` .*, got str: .*`groups=frame\['key'\]`$", lambda: ewm_mean(X, com=1, groups="key")),
        (TypeError, "`x` .*Dataset: pass one of its arrays$", lambda: ewm_mean(xr.Dataset({"a": ARRAY}), com=1)),
        (TypeError, "`x` must hold float32, .*, with NaN for None, got", lambda: ewm_mean([1, None, 3], com=1)),
        (TypeError, "`x` must hold float32, .*, got dtype datetime64", lambda: ewm_mean(HOURS.to_numpy(), com=1)),
        (TypeError, "`x` must hold float32, .*, got dtype <U1", lambda: ewm_mean(["1", "2"], com=1)),
        (TypeError, "`x` must hold numbers only, got Datetime", lambda: ewm_mean(pl.Series(HOURS), com=1)),
        (ValueError, "`halflife` must be a number that float64", lambda: ewm_mean(X, halflife=10**400)),
        (ValueError, "`halflife` must be a number that float64", lambda: ewm_mean(X, halflife=10**400, times=X)),
        (ValueError, "`com` must be a number that float64", lambda: Ewm(com=10**400)),
        (TypeError, "`later` must be an Ewm, got int", lambda: Ewm(com=1).merge(3)),
        (ValueError, "^`x` must have at least one dimension", lambda: ewm_mean(1.0, com=1)),
    ],
)  # fmt: skip
def test_messages(error, words, call):
    with pytest.raises(error, match=words.replace("()", r"\(\)")) as info:
        call()
    assert "fastrecur.smoothing" not in str(info.value)
    assert "float16" not in str(info.value)


def test_a_stream_shows_how_it_was_made():
    assert repr(Ewm(com=1, min_periods=3)) == "Ewm(com=1, adjust=True, ignore_na=False, min_periods=3, axis=0)"

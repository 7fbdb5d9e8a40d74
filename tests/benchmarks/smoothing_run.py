"""Measure smoothing against what people use today, and against the recurrence on the same data.

Measures the checkout that this file lies in. Every result is compared with the other library's first, and a row whose
numbers differ gets no ratio. Ratios are of medians of interleaved repeats in one run.
"""

import argparse
import json
import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np
import report
from peers import columns
from tqdm import tqdm
from turns import medians

import fastrecur
from fastrecur.smoothing import Ewm, ewm_cov, ewm_mean, ewm_std, ewm_var, kama

ALPHA = 0.1
SMALL = {64: (0.5, 2), 1000: (0.8, 2), 16_000: (1.5, 5), 64_000: (2, 6)}  # steps of one series: limit, goal
TABLES = 64, 1000, 4000, 16_000  # rows of a Series, and of frames of so many columns
COLUMNS = 1, 2, 3, 10
SHAPES = [((1_000_000,), 0), ((100_000, 64), 0), ((64, 100_000), 1)]


def peers(x, axis):
    """Calls for the mean of data with missing values, and what brings their results into the shape of ``x``."""

    def back(values):
        return values.reshape(x.shape) if x.ndim == 1 else np.moveaxis(values, 0, axis)

    import pandas

    frame = pandas.Series(x) if x.ndim == 1 else pandas.DataFrame(columns(x, axis))
    yield "pandas", lambda: frame.ewm(alpha=ALPHA).mean(), lambda r: back(r.to_numpy()), 4, 10
    import polars

    table = polars.DataFrame(columns(x, axis)).fill_nan(None)
    mean = polars.all().ewm_mean(alpha=ALPHA)
    yield "polars", lambda: table.select(mean), lambda r: back(r.to_numpy()), 4, 10
    import numbagg

    yield "numbagg", lambda: numbagg.move_exp_nanmean(x, alpha=ALPHA, axis=axis), lambda r: r, 1.5, 4


def agrees(ours, theirs, dtype):
    """Compare where the other has a number: polars has none at a missing value, numbagg repeats none."""
    there = np.isfinite(theirs)
    tolerance = 1e-3 if dtype == np.float32 else 1e-8
    return there.any() and np.allclose(ours[there], theirs[there], rtol=tolerance, atol=tolerance)


def mean_rows(shape, axis, dtype, repeats):
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    gaps = x.copy()
    gaps[np.random.default_rng(1).random(shape) < 0.1] = np.nan
    for label, data in (("complete", x), ("10 % missing", gaps)):
        calls = {"ours": lambda data=data: ewm_mean(data, alpha=ALPHA, axis=axis)}
        known = {name: (call, arrange, must, aim) for name, call, arrange, must, aim in peers(data, axis)}
        calls |= {name: call for name, (call, *_) in known.items()}
        if data is x:
            calls["forget_mult"] = lambda: fastrecur.forget_mult(ALPHA, x, axis=axis)
        result = calls["ours"]()
        right = {name: agrees(result, arrange(call()), dtype) for name, (call, arrange, *_) in known.items()}
        times = medians(calls, fewest=repeats)
        for name, (_, _, must, aim) in known.items():
            yield row(f"ewm_mean, {label}", shape, dtype, times, name, must, aim, right[name])
        if data is x:
            share = times["ours"] / times["forget_mult"]
            yield {
                "what": "ewm_mean, complete", "shape": shape, "dtype": np.dtype(dtype).name, "ms": times["ours"] * 1e3,
                "against": "forget_mult (its time)", "ratio": share, "must": 1.6, "aim": 1.2, "holds": share <= 1.6,
                "reaches": share <= 1.2, "right": True,
            }  # fmt: skip


def row(what, shape, dtype, times, against, must, aim, right):
    ratio = times[against] / times["ours"]
    return {
        "what": what, "shape": shape, "dtype": np.dtype(dtype).name, "ms": times["ours"] * 1e3, "against": against,
        "ratio": ratio if right else None, "must": must, "aim": aim, "holds": bool(right and ratio >= must),
        "reaches": bool(right and ratio >= aim), "right": bool(right),
    }  # fmt: skip


def spread_rows(shape, axis, dtype, repeats):
    import pandas

    x, y = np.random.default_rng(0).standard_normal((2, *shape)).astype(dtype)
    x[np.random.default_rng(1).random(shape) < 0.1] = np.nan
    wide = columns(x, axis), columns(y, axis)
    frames = [pandas.DataFrame(v) for v in wide]

    def back(frame):
        values = frame.to_numpy()
        return values.reshape(shape) if len(shape) == 1 else np.moveaxis(values, 0, axis)

    def covariance():
        return pandas.concat([frames[0][k].ewm(alpha=ALPHA).cov(frames[1][k]) for k in frames[0]], axis=1)

    for what, ours, theirs in (
        ("ewm_var, 10 % missing", lambda: ewm_var(x, alpha=ALPHA, axis=axis), lambda: frames[0].ewm(alpha=ALPHA).var()),
        ("ewm_cov, 10 % missing", lambda: ewm_cov(x, y, alpha=ALPHA, axis=axis), covariance),
    ):
        # pandas' 0 for one sample that is followed by missing ones is not ours.
        ours_now, theirs_now = ours(), back(theirs()).copy()
        theirs_now[np.isnan(ours_now)] = np.nan
        right = agrees(ours_now, theirs_now, dtype)
        times = medians({"ours": ours, "pandas": theirs}, fewest=max(3, repeats // 2))
        yield row(what, shape, dtype, times, "pandas", 4, 10, right)


def pairs_rows(shape, repeats):
    """Measure matrices of all pairs of columns at each time against pandas, and the last against NumPy's formula."""
    import pandas

    x = np.random.default_rng(0).standard_normal(shape)
    frame, how = pandas.DataFrame(x), {"halflife": 20.0}
    wide = np.random.default_rng(0).standard_normal((shape[0], 3 * shape[1]))
    weights = 0.5 ** (np.arange(shape[0])[::-1, np.newaxis] / how["halflife"])

    def product():
        w = weights / weights.sum()
        apart = wide - (w * wide).sum(0)
        return (w * apart).T @ apart / (1 - (w * w).sum())

    calls = {"ours": lambda: ewm_cov(frame, pairwise=True, **how), "pandas": lambda: frame.ewm(**how).cov()}
    right = agrees(*(call().to_numpy() for call in calls.values()), x.dtype)
    yield row("ewm_cov, pairwise", shape, x.dtype, medians(calls, fewest=max(3, repeats // 2)), "pandas", 15, 40, right)
    calls = {"ours": lambda: ewm_cov(wide, pairwise=True, at=-1, **how), "NumPy's product": product}
    right = agrees(*(call() for call in calls.values()), x.dtype)
    times = medians(calls, fewest=3 * repeats)
    yield row("ewm_cov, pairwise, at=-1", wide.shape, x.dtype, times, "NumPy's product", 0.8, 2, right)


def times_rows(shape, axis, dtype, repeats):
    """Irregular times; neither library has a variance of these, so that is held against their means."""
    import datetime

    import pandas
    import polars

    rng = np.random.default_rng(0)
    x, seconds = rng.standard_normal(shape).astype(dtype), np.cumsum(rng.exponential(1, shape))
    times = np.datetime64("2026-01-01", "us") + (seconds * 1e6).astype("m8[us]")
    halflife, series = np.timedelta64(10, "s"), pandas.Series(x)
    table = polars.DataFrame({"x": x, "times": times})
    by_time = polars.col("x").ewm_mean_by("times", half_life=datetime.timedelta(seconds=10))
    calls = {
        "ours": lambda: ewm_mean(x, halflife=halflife, times=times),
        "ours, var": lambda: ewm_var(x, halflife=halflife, times=times),
        "pandas": lambda: series.ewm(halflife="10s", times=times).mean(),
        "polars": lambda: table.select(by_time),
    }
    right = {
        "pandas": agrees(calls["ours"](), calls["pandas"]().to_numpy(), dtype),
        # polars weights a sample by the time since the one before it, as `adjust=False`.
        "polars": agrees(ewm_mean(x, halflife=halflife, times=times, adjust=False), calls["polars"]()["x"].to_numpy(),
                         dtype),
    }  # fmt: skip
    times_of = medians(calls, fewest=repeats)
    for what, ours in (("ewm_mean, times", "ours"), ("ewm_var, times", "ours, var")):
        for name, must, aim in (("polars", 2, 5), ("pandas", 4, 8)):
            label = name if ours == "ours" else f"{name} (its mean)"
            taken = {"ours": times_of[ours], label: times_of[name]}
            yield row(what, shape, dtype, taken, label, must, aim, right[name])


def kama_rows(steps, repeats):
    """TA-Lib's average has one period too, but one series of float64 and one thread."""
    try:
        import talib
    except ImportError:
        return
    x = np.random.default_rng(0).standard_normal(steps).cumsum()
    calls = {"ours": lambda: kama(x), "TA-Lib": lambda: talib.KAMA(x, timeperiod=10)}
    right = agrees(calls["ours"](), calls["TA-Lib"](), np.float64)
    yield row("kama", (steps,), np.float64, medians(calls, fewest=repeats), "TA-Lib", 0.5, 1, right)


def frame_rows(shape, repeats):
    """Tables in and out, with what is said of their labels: pandas' and polars' own against ours of the same type."""
    import pandas
    import polars

    frame = pandas.DataFrame(np.random.default_rng(0).standard_normal(shape))
    table = polars.DataFrame(frame.to_numpy())
    seconds = np.random.default_rng(1).exponential(1, len(frame)).cumsum()
    timed = {"halflife": "10s", "times": np.datetime64("2026-01-01", "us") + (seconds * 1e6).astype("m8[us]")}
    for what, name, ours, theirs in (
        ("", "pandas", lambda: ewm_mean(frame, alpha=ALPHA), lambda: frame.ewm(alpha=ALPHA).mean()),
        (", times", "pandas", lambda: ewm_mean(frame, **timed), lambda: frame.ewm(**timed).mean()),
        ("", "polars", lambda: ewm_mean(table, alpha=ALPHA), lambda: table.select(polars.all().ewm_mean(alpha=ALPHA))),
    ):
        right = agrees(ours().to_numpy(), theirs().to_numpy(), np.float64)
        times = medians({"ours": ours, name: theirs}, fewest=repeats)
        yield row(f"ewm_mean, a frame{what}", shape, np.float64, times, name, 1, 10, right)


def rows_of_a_new_process(shape, repeats):
    """What frames take where no larger memory was freed before.

    There the C library's malloc gives what pandas frees back to the system, so that each call of pandas waits for new
    pages. After larger arrays, as in the process of all other rows, it keeps them. fastrecur keeps its results' memory.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        rows = pool.apply(_frame_rows, (shape, repeats))
    return [r | {"what": f"{r['what']}, new process"} for r in rows if r["against"] == "pandas"]


def _frame_rows(*given):
    return list(frame_rows(*given))


def table_rows(steps, repeats):
    """A Series, and frames of few columns, against pandas: what a call costs beside its numbers."""
    import pandas

    values = np.random.default_rng(0).standard_normal((steps, max(COLUMNS)))
    tables = [("a Series", pandas.Series(values[:, 0]))]
    tables += [("a small frame", pandas.DataFrame(values[:, :count])) for count in COLUMNS]
    repeats *= max(8, 16_000 // steps)
    for what, table in tables:
        for name, ours, theirs in (
            ("ewm_mean", lambda x=table: ewm_mean(x, alpha=ALPHA), lambda x=table: x.ewm(alpha=ALPHA).mean()),
            ("ewm_std", lambda x=table: ewm_std(x, alpha=ALPHA), lambda x=table: x.ewm(alpha=ALPHA).std()),
        ):
            right = agrees(ours().to_numpy(), theirs().to_numpy(), np.float64)
            times = medians({"ours": ours, "pandas": theirs}, fewest=repeats)
            yield row(f"{name}, {what}", table.shape, np.float64, times, "pandas", 1, 1.5, right)


def small_rows(steps, repeats):
    """An array of a notebook's size against pandas' Series, and a chunk of a stream against pandas' whole call."""
    import pandas

    must, aim = SMALL[steps]
    x = np.random.default_rng(0).standard_normal(steps)
    gaps = x.copy()
    gaps[np.random.default_rng(1).random(steps) < 0.1] = np.nan
    series, with_gaps, stream = pandas.Series(x), pandas.Series(gaps), Ewm(alpha=ALPHA)
    repeats *= max(8, 16_000 // steps)
    for what, ours, theirs in (
        ("ewm_mean, complete", lambda: ewm_mean(x, alpha=ALPHA), lambda: series.ewm(alpha=ALPHA).mean()),
        ("ewm_mean, 10 % missing", lambda: ewm_mean(gaps, alpha=ALPHA), lambda: with_gaps.ewm(alpha=ALPHA).mean()),
        ("ewm_std, complete", lambda: ewm_std(x, alpha=ALPHA), lambda: series.ewm(alpha=ALPHA).std()),
    ):
        right = agrees(ours(), theirs().to_numpy(), np.float64)
        times = medians({"ours": ours, "pandas": theirs}, fewest=repeats)
        yield row(what, x.shape, x.dtype, times, "pandas", must, aim, right)
    if steps == min(SMALL):
        right = agrees(stream.update(x), series.ewm(alpha=ALPHA).mean().to_numpy(), np.float64)
        calls = {"ours": lambda: stream.update(x), "pandas (a whole call)": lambda: series.ewm(alpha=ALPHA).mean()}
        times = medians(calls, fewest=repeats)
        yield row("Ewm.update", x.shape, x.dtype, times, "pandas (a whole call)", 1, 2.5, right)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--only", default="", help="only what a function of this name measures, as times_rows")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    repeats = 5 if options.quick else 11
    began, rows = time.perf_counter(), []
    dtypes = np.float64, np.float32
    tasks = [(make, s, a, d, repeats) for s, a in SHAPES for d in dtypes for make in (mean_rows, spread_rows)]
    tasks += [(frame_rows, shape, repeats) for shape in ((1000, 10), (100_000, 10), (100_000, 64))]
    tasks.append((rows_of_a_new_process, (100_000, 10), repeats))
    tasks += [(small_rows, steps, repeats) for steps in SMALL]
    tasks += [(table_rows, steps, repeats) for steps in TABLES]
    tasks.append((pairs_rows, (5000, 100), repeats))
    tasks.append((times_rows, *SHAPES[0], np.float64, repeats))
    tasks += [(kama_rows, steps, 3 * repeats) for steps in (100_000, 1_000_000)]
    for make, *given in tqdm(tasks, file=sys.stderr):
        if options.only in make.__name__:
            rows += make(*given)
    facts = report.about(__file__, sys.argv[1:], fastrecur.get_num_threads(), time.perf_counter() - began)
    print(report.title(facts))
    for r in rows:
        mark = "WRONG" if not r["right"] else "*" if r["reaches"] else "+" if r["holds"] else "-"
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f}"
        print(
            f"{mark:2} {r['what']:<37} {str(r['shape']):<13} {r['dtype']:<8} {r['ms']:9.3f} ms {ratio:>8}  "
            f"{r['against']:<23} limit {r['must']:g}, goal {r['aim']:g}"
        )
    print(f"{sum(r['holds'] for r in rows)} of {len(rows)} are within their limit (+), "
          f"{sum(r['reaches'] for r in rows)} reach their goal (*)")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

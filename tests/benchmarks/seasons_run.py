"""Measure Holt and Winters' method against a compiled loop, and its fit against those of statsforecast and statsmodels.

Measures the checkout that this file lies in. ``pip install statsforecast`` asks for an older pandas than the other
benchmarks, so for an environment of its own. Smoothing is right where it is the loop's; a fit where its sum of squares
is no larger than the other's, but for rounding, in 95 % of all series.
"""

import argparse
import functools
import json
import multiprocessing
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numba
import numpy as np
import report
from tqdm import tqdm
from turns import keep_memory, medians

import fastrecur
from fastrecur.smoothing import fit_holt_winters, holt_winters

PACKAGES = "numpy", "numba", "scipy", "pandas", "statsmodels", "statsforecast"
PERIOD, STEPS, TOGETHER = 12, 120, 20  # series that another process is given at once
FACTORS = 0.3, 0.1, 0.2
FEW = 30  # series that statsmodels fits


@numba.njit
def loop(x, alpha, beta, gamma, first, results):
    """What a person would write: one series after the other, on one thread."""
    forecast, levels, trends, seasons = results
    period = first.shape[1] - 2
    for k in range(len(x)):
        level, trend, season = first[k, 0], first[k, 1], first[k, 2:].copy()
        for t in range(x.shape[1]):
            base, own = level + trend, season[t % period]
            forecast[k, t] = base + own
            before = level
            level = alpha * (x[k, t] - own) + (1 - alpha) * base
            trend = beta * (level - before) + (1 - beta) * trend
            season[t % period] = gamma * (x[k, t] - base) + (1 - gamma) * own
            levels[k, t], trends[k, t], seasons[k, t] = level, trend, season[t % period]


def draw(series):
    """Return monthly series of the model's own errors, (series, steps), of as many factors."""
    rng = np.random.default_rng(0)
    alpha, beta, gamma = rng.uniform([[0.1], [0.0], [0.0]], [[0.6], [0.1], [0.3]], (3, series))
    level, trend = rng.uniform(150, 250, series), rng.normal(0.3, 0.5, series)
    season = 25 * np.sin(2 * np.pi * (np.arange(PERIOD)[:, None] / PERIOD + rng.uniform(0, 0.3, series)))
    x = np.empty((series, STEPS))
    for t, error in enumerate(rng.normal(0, 6, (STEPS, series))):
        x[:, t] = level + trend + season[t % PERIOD] + error
        level = level + trend + alpha * error
        trend, season[t % PERIOD] = trend + alpha * beta * error, season[t % PERIOD] + gamma * error
    return x


def smoothing_rows(series, repeats):
    x = draw(series)
    season = x[:, :PERIOD] - x[:, :PERIOD].mean(1, keepdims=True)
    first = np.concatenate([x[:, :PERIOD].mean(1, keepdims=True), np.full((series, 1), 0.3), season], 1)

    def looped():
        results = [np.empty_like(x) for _ in range(4)]
        loop(x, *FACTORS, first, results)
        return results

    for axis in (1, 0):
        data, states = (np.ascontiguousarray(v.T) if axis == 0 else v for v in (x, first))
        level, trend, season = (np.take(states, range(*ends), axis) for ends in ((0, 1), (1, 2), (2, 2 + PERIOD)))
        ours = functools.partial(
            holt_winters, data, *FACTORS, period=PERIOD, level=level, trend=trend, season=season, axis=axis
        )
        right = all(
            np.allclose(np.moveaxis(one, axis, 1), other, rtol=1e-10)
            for one, other in zip(ours(), looped(), strict=True)
        )
        times = medians({"ours": ours, "loop": looped}, fewest=3 * repeats, warm=True)
        what, shape, (one, other) = f"holt_winters, axis={axis}", data.shape, times.values()
        yield row(what, shape, one, other, "a loop, 1 thread", 1.7, 2, right)


def row(what, shape, ours, theirs, against, must, aim, right, more=""):
    ratio = theirs / ours
    return {
        "what": what, "shape": shape, "ms": ours * 1e3, "against": against, "ratio": ratio if right else None,
        "must": must, "aim": aim, "holds": bool(right and ratio >= must), "reaches": bool(right and ratio >= aim),
        "right": bool(right), "more": more,
    }  # fmt: skip


def fitted_by_statsforecast(x):
    from statsforecast.models import AutoETS

    warnings.simplefilter("ignore")
    model = AutoETS(season_length=PERIOD, model="AAA", damped=False)
    return [float(np.square(model.fit(own).model_["residuals"]).sum()) for own in x]


def fitted_by_statsmodels(x):
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    warnings.simplefilter("ignore")
    return [ExponentialSmoothing(v, trend="add", seasonal="add", seasonal_periods=PERIOD).fit().sse for v in x]


def fit_rows(series, repeats):
    """The other's series are shared out to a process a core, which are there and warm; statsmodels has one."""
    x, cores = draw(series), fastrecur.get_num_threads()
    parts = [x[k : k + TOGETHER] for k in range(0, series, TOGETHER)]
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(fitted_by_statsforecast, [x[:2]] * cores))
        sums = {}

        def theirs():
            sums["theirs"] = np.concatenate(list(pool.map(fitted_by_statsforecast, parts)))

        def ours():
            sums["ours"] = fit_holt_winters(x, PERIOD, axis=1).sse[:, 0]

        times = medians({"ours": ours, "theirs": theirs}, fewest=max(3, repeats // 3))
    yield fit_row(x, sums["ours"], sums["theirs"], times["ours"], times["theirs"], "statsforecast, all cores", 1.5, 4)
    fitted_by_statsmodels(x[:1])
    began = time.perf_counter()
    others = np.array(fitted_by_statsmodels(x[:FEW]))
    taken = (time.perf_counter() - began) / FEW * series
    yield fit_row(x, sums["ours"][:FEW], others, times["ours"], taken, f"statsmodels (of {FEW})", 50, 200)


def fit_row(x, ours, theirs, seconds, taken, against, must, aim):
    quotient = ours / theirs
    share = (quotient <= 1 + 1e-6).mean()
    median, most = np.median(quotient), quotient.max()
    more = f"sum of squares no larger in {100 * share:.1f} %, {median:.3f} of theirs in the median, at most {most:.3f}"
    return row("fit_holt_winters", x.shape, seconds, taken, against, must, aim, share >= 0.95, more)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    keep_memory()
    repeats, began, rows = 5 if options.quick else 11, time.perf_counter(), []
    for make, series in tqdm([(smoothing_rows, 10_000), (fit_rows, 400)], file=sys.stderr):
        rows += make(series, repeats)
    threads, seconds = fastrecur.get_num_threads(), time.perf_counter() - began
    facts = report.about(__file__, sys.argv[1:], threads, seconds, PACKAGES)
    print(report.title(facts))
    for r in rows:
        mark = "WRONG" if not r["right"] else "*" if r["reaches"] else "+" if r["holds"] else "-"
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f}"
        print(f"{mark:2} {r['what']:<21} {str(r['shape']):<13} {r['ms']:9.3f} ms {ratio:>8}  {r['against']:<24} "
              f"limit {r['must']:g}, goal {r['aim']:g}")  # fmt: skip
        if r["more"]:
            print(f"   {r['more']}")
    if options.json:
        options.json.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

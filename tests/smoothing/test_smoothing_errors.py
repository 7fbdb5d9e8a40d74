"""Bad input: pandas' own errors for domains, and a message that names the argument."""

import datetime

import numpy as np
import pandas as pd
import pytest
import torch

from fastrecur.smoothing import Ewm, ewm_cov, ewm_filtfilt, ewm_mean, ewm_sum, kama, pcen
from fastrecur.torch import PCEN

X = [1.0, 2.0, 3.0]
ALPHA = torch.tensor(2.0, requires_grad=True)


@pytest.mark.parametrize(
    "options",
    [
        {"com": -1},
        {"span": 0.5},
        {"halflife": 0},
        {"alpha": 0},
        {"alpha": 1.5},
        {"alpha": -0.1},
        {},
        {"com": 1, "span": 3},
        {"halflife": 1, "alpha": 0.5},
        {"halflife": "1h"},
        {"halflife": datetime.timedelta(1)},
        {"times": [1, 2, 3], "alpha": 0.5},
    ],
)
def test_pandas_raises_too(options):
    with pytest.raises((ValueError, TypeError)) as theirs:
        pd.Series(X).ewm(**options).mean()
    with pytest.raises(theirs.type):
        ewm_mean(X, **options)


DAYS = np.array(["2020-01-01", "2020-01-02", "2020-01-03"], "M8[ns]")

CASES = [
    (ValueError, "`com`, `span`", lambda: ewm_mean(X, com=1, span=3)),
    (ValueError, "got none", lambda: ewm_mean(X)),
    (ValueError, "`alpha` must satisfy: 0 < alpha <= 1, got nan", lambda: ewm_mean(X, alpha=np.nan)),
    (ValueError, "`alpha` must satisfy", lambda: ewm_mean(X, alpha=np.array([0.5, 2.0, 0.1]))),
    (ValueError, "`alpha` must satisfy", lambda: ewm_mean(X, alpha=np.array([0.5, 0.0, 0.1]))),
    (ValueError, "`alpha` must satisfy", lambda: ewm_mean(torch.tensor(X), alpha=ALPHA)),
    (ValueError, "com < infinity, got inf", lambda: ewm_mean(X, com=np.inf)),
    (ValueError, "0 < halflife < infinity, got inf", lambda: ewm_mean(X, halflife=[1, np.inf, 1])),
    (TypeError, "`com` must be a number", lambda: ewm_mean(X, com="1")),
    (TypeError, "`span` must be a number", lambda: ewm_mean(X, span={1})),
    (TypeError, "`halflife`", lambda: ewm_mean(X, halflife={1.0}, times=X)),
    (ValueError, "pandas.Timedelta", lambda: ewm_mean(X, halflife="soon", times=DAYS)),
    (ValueError, "`halflife` must satisfy", lambda: ewm_mean(X, halflife=np.timedelta64("NaT"), times=DAYS)),
    (ValueError, "`halflife` must satisfy", lambda: ewm_mean(X, halflife=-1.0, times=X)),
    (ValueError, "same length", lambda: ewm_mean(X, halflife=1.0, times=[1.0, 2.0])),
    (ValueError, "got NaT", lambda: ewm_mean(X, halflife="1D", times=np.array([*DAYS[:2], "NaT"], "M8[ns]"))),
    (ValueError, "infinities, got nan", lambda: ewm_mean(X, halflife=1.0, times=[0.0, np.nan, 1.0])),
    (ValueError, "backwards, got 2.0 and then 1.0", lambda: ewm_mean(X, halflife=1.0, times=[0.0, 2.0, 1.0])),
    (ValueError, "backwards", lambda: ewm_mean(X, halflife="1D", times=DAYS[::-1])),
    (ValueError, "backwards", lambda: ewm_mean(X, halflife=1.0, times=np.array([2, 1, 3], np.uint8))),
    (ValueError, "mixture", lambda: ewm_mean(X, halflife=1.0, times=DAYS)),
    (ValueError, "mixture", lambda: ewm_mean(X, halflife="1D", times=X)),
    (ValueError, "must be given with `times`, got `span`", lambda: ewm_mean(X, span=3, times=X)),
    (ValueError, "dtype", lambda: ewm_mean(X, halflife=1.0, times=["a", "b", "c"])),
    (TypeError, "constants", lambda: ewm_mean(X, halflife=1.0, times=torch.tensor(X, requires_grad=True))),
    (ValueError, "`times` are given, got '1D'", lambda: ewm_mean(X, halflife="1D")),
    (NotImplementedError, "got False", lambda: ewm_sum(X, span=3, adjust=False)),
    (TypeError, r"^ewm_mean\(\) got an .* 'half_life': did you mean `halflife`", lambda: ewm_mean(X, half_life=2)),
    (TypeError, r"^Ewm\(\) got an .* 'dim': did you mean `axis`", lambda: Ewm(alpha=0.5, dim=0)),
    (TypeError, "'lengths': did you mean `offsets`", lambda: ewm_mean(X, alpha=0.5, lengths=[1])),
    (TypeError, r"^ewm_mean\(\) takes 1 .* got 2: name the others, as in `com=`, `span=`, `half", lambda:
        ewm_mean(X, 0.5)),
    (TypeError, r"^Ewm\(\) takes 0 .* by position, got 1: name the others, as in `com=`,", lambda: Ewm(0.5)),
    (TypeError, r"^kama\(\) takes 4 arguments by position, got 5: .* `axis=`$", lambda: kama(X, 1, 2, 3, 0)),
    (TypeError, r"^kama\(\) missing 1 required positional argument: 'x'$", lambda: kama()),
    (TypeError, r"str: pass the column itself, `times=frame\['t'\]`$", lambda: ewm_mean(X, halflife=1.0, times="t")),
    (TypeError, "`x`", lambda: ewm_mean(np.array(X, np.complex128), span=3)),
    (TypeError, "`x`", lambda: ewm_mean(np.array(X, np.float16), span=3)),
    (TypeError, "`x`", lambda: ewm_mean(["a", "b"], span=3)),
    (TypeError, "`x`", lambda: ewm_mean(None, span=3)),
    (TypeError, "`x`", lambda: ewm_mean(np.ma.array(X), span=3)),
    (TypeError, "`x`", lambda: ewm_mean(pd.Series(["a", "b"], dtype="str"), span=3)),
    (TypeError, "`S` must hold numbers", lambda: pcen(pd.Series(["a", "b"], dtype="str"))),
    (TypeError, "`x`", lambda: ewm_mean(torch.tensor(X, dtype=torch.float16), span=3)),
    (TypeError, "`alpha`", lambda: ewm_mean(torch.tensor(X), alpha=np.array(X) / 4)),
    (ValueError, "dimension", lambda: ewm_mean(1.0, span=3)),
    (ValueError, "`axis`", lambda: ewm_mean(X, span=3, axis=1)),
    (TypeError, "`axis`", lambda: ewm_mean(X, span=3, axis=0.0)),
    (TypeError, "`adjust`", lambda: ewm_mean(X, span=3, adjust=1)),
    (TypeError, "`min_periods`", lambda: ewm_mean(X, span=3, min_periods=1.5)),
    (ValueError, "broadcast", lambda: ewm_cov(X, [1.0, 2.0], span=3)),
    (ValueError, "finite, .*, got nan", lambda: ewm_filtfilt([1.0, np.nan], span=3)),
    (ValueError, "`alpha` must satisfy", lambda: ewm_filtfilt(X, alpha=np.array([2.0, 0.5, 0.5]))),
    (ValueError, "`alpha` must satisfy", lambda: ewm_filtfilt(torch.tensor(X), alpha=ALPHA)),
    (ValueError, "at least 1", lambda: kama(X, 0)),
    (TypeError, "`period`", lambda: kama(X, 1.0)),
    (ValueError, "`gain`", lambda: pcen(X, gain=-1)),
    (ValueError, "`sr`", lambda: pcen(X, sr=0)),
    (ValueError, "`b` must", lambda: pcen(X, b=2)),
    (ValueError, "got none", lambda: Ewm()),
    (ValueError, "`num_bands` must be at least 1, got 0", lambda: PCEN(0)),
]  # fmt: skip


def test_constants_that_are_remembered_are_looked_at_again():
    """Numbers that are equal may be refused all the same."""
    x = np.array(X)
    for data in (x, pd.Series(X)):
        for name in ("com", "span", "halflife", "alpha"):
            same = [np.asarray(ewm_mean(data, **{name: value})) for value in (1, 1.0, np.int8(1), np.float32(1), 1)]
            np.testing.assert_array_equal(same, same[:1] * 5)
            for value in (True, np.True_, 1j, "1", {1})[2 * (name == "alpha") :]:  # an alpha may be an array of bools
                with pytest.raises((TypeError, ValueError), match=f"`{name}`"):
                    ewm_mean(data, **{name: value})
        for options in ({"adjust": 1}, {"ignore_na": 0}, {"min_periods": True}, {"axis": False}):
            with pytest.raises(TypeError, match=f"`{next(iter(options))}` must be"):
                ewm_mean(data, alpha=1, **options)
        for _ in range(2):
            with pytest.raises(ValueError, match="0 < alpha <= 1, got 2"):
                ewm_mean(data, alpha=2)
    np.testing.assert_array_equal(ewm_mean(x, com=1), ewm_mean(x, alpha=0.5))
    np.testing.assert_array_equal(ewm_mean(x, span=1), ewm_mean(x, alpha=1.0))


@pytest.mark.parametrize(("kind", "match", "call"), CASES, ids=range(len(CASES)))
def test_message(kind, match, call):
    with pytest.raises(kind, match=match):
        call()

"""Exponentially weighted statistics and filters on the recurrence: pandas' names and numbers, for any array."""

from ._averages import ewm_filtfilt, kama, pcen
from ._covariance import EwmCov, EwmCovState
from ._fit import HoltWintersFit, fit_holt_winters
from ._holt import holt
from ._holt_winters import HoltWinters, HoltWintersState, forecast, holt_winters
from ._statistics import ewm_corr, ewm_cov, ewm_mean, ewm_std, ewm_sum, ewm_var
from ._stream import Ewm, EwmState

__all__ = [
    "Ewm",
    "EwmCov",
    "EwmCovState",
    "EwmState",
    "HoltWinters",
    "HoltWintersFit",
    "HoltWintersState",
    "ewm_corr",
    "ewm_cov",
    "ewm_filtfilt",
    "ewm_mean",
    "ewm_std",
    "ewm_sum",
    "ewm_var",
    "fit_holt_winters",
    "forecast",
    "holt",
    "holt_winters",
    "kama",
    "pcen",
]

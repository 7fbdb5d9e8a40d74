"""Types of the public names for type checkers: data give a result of their type."""

from typing import Any, Literal, overload

from numpy.typing import NDArray

from ..recurrence import _Data, _Plain
from ._covariance import EwmCov as EwmCov, EwmCovState as EwmCovState
from ._fit import HoltWintersFit as HoltWintersFit, fit_holt_winters as fit_holt_winters
from ._holt_winters import HoltWinters as HoltWinters, HoltWintersState as HoltWintersState, forecast as forecast
from ._stream import Ewm as Ewm, EwmState as EwmState

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

# fmt: off
@overload
def ewm_mean(
    x: _Plain, *,
    com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None,
    times: Any = None, adjust: bool = True, ignore_na: bool = False, min_periods: int | None = 0, axis: int | str = 0,
    offsets: Any = None, resets: Any = None, groups: Any = None,
) -> NDArray[Any]: ...
@overload
def ewm_mean(
    x: _Data, *,
    com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None,
    times: Any = None, adjust: bool = True, ignore_na: bool = False, min_periods: int | None = 0, axis: int | str = 0,
    offsets: Any = None, resets: Any = None, groups: Any = None,
) -> _Data: ...
@overload
def ewm_sum(
    x: _Plain, *,
    com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None,
    times: Any = None, adjust: bool = True, ignore_na: bool = False, min_periods: int | None = 0, axis: int | str = 0,
    offsets: Any = None, resets: Any = None, groups: Any = None,
) -> NDArray[Any]: ...
@overload
def ewm_sum(
    x: _Data, *,
    com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None,
    times: Any = None, adjust: bool = True, ignore_na: bool = False, min_periods: int | None = 0, axis: int | str = 0,
    offsets: Any = None, resets: Any = None, groups: Any = None,
) -> _Data: ...
@overload
def ewm_var(
    x: _Plain, *,
    com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None,
    times: Any = None, adjust: bool = True, ignore_na: bool = False, min_periods: int | None = 0, axis: int | str = 0,
    offsets: Any = None, resets: Any = None, groups: Any = None,
    bias: bool = False,
) -> NDArray[Any]: ...
@overload
def ewm_var(
    x: _Data, *,
    com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None,
    times: Any = None, adjust: bool = True, ignore_na: bool = False, min_periods: int | None = 0, axis: int | str = 0,
    offsets: Any = None, resets: Any = None, groups: Any = None,
    bias: bool = False,
) -> _Data: ...
@overload
def ewm_std(
    x: _Plain, *,
    com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None,
    times: Any = None, adjust: bool = True, ignore_na: bool = False, min_periods: int | None = 0, axis: int | str = 0,
    offsets: Any = None, resets: Any = None, groups: Any = None,
    bias: bool = False,
) -> NDArray[Any]: ...
@overload
def ewm_std(
    x: _Data, *,
    com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None,
    times: Any = None, adjust: bool = True, ignore_na: bool = False, min_periods: int | None = 0, axis: int | str = 0,
    offsets: Any = None, resets: Any = None, groups: Any = None,
    bias: bool = False,
) -> _Data: ...
@overload
def ewm_cov(
    x: _Plain, y: _Plain | None = None, *,
    com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None,
    times: Any = None, adjust: bool = True, ignore_na: bool = False, min_periods: int | None = 0, axis: int | str = 0,
    offsets: Any = None, resets: Any = None, groups: Any = None,
    bias: bool = False, pairwise: bool = False, at: Any = None,
) -> NDArray[Any]: ...
@overload
def ewm_cov(
    x: _Data, y: _Data | None = None, *,
    com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None,
    times: Any = None, adjust: bool = True, ignore_na: bool = False, min_periods: int | None = 0, axis: int | str = 0,
    offsets: Any = None, resets: Any = None, groups: Any = None,
    bias: bool = False, pairwise: bool = False, at: Any = None,
) -> _Data: ...
@overload
def ewm_corr(
    x: _Plain, y: _Plain | None = None, *,
    com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None,
    times: Any = None, adjust: bool = True, ignore_na: bool = False, min_periods: int | None = 0, axis: int | str = 0,
    offsets: Any = None, resets: Any = None, groups: Any = None,
    pairwise: bool = False, at: Any = None,
) -> NDArray[Any]: ...
@overload
def ewm_corr(
    x: _Data, y: _Data | None = None, *,
    com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None,
    times: Any = None, adjust: bool = True, ignore_na: bool = False, min_periods: int | None = 0, axis: int | str = 0,
    offsets: Any = None, resets: Any = None, groups: Any = None,
    pairwise: bool = False, at: Any = None,
) -> _Data: ...
@overload
def ewm_filtfilt(
    x: _Plain, *,
    com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None,
    axis: int | str = 0,
) -> NDArray[Any]: ...
@overload
def ewm_filtfilt(
    x: _Data, *,
    com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None,
    axis: int | str = 0,
) -> _Data: ...
@overload
def holt(
    x: _Plain, alpha: Any, beta: Any, *,
    phi: Any = 1.0, level: Any = None, trend: Any = None, axis: int | str = 0,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def holt(
    x: _Data, alpha: Any, beta: Any, *,
    phi: Any = 1.0, level: Any = None, trend: Any = None, axis: int | str = 0,
) -> tuple[_Data, _Data]: ...
@overload
def holt_winters(
    x: Any, alpha: Any, beta: Any = None, gamma: Any = None, *,
    period: int | None = None, seasonal: Literal["add", "mul"] | None = "add", phi: Any = 1.0,
    level: Any = None, trend: Any = None, season: Any = None, axis: int | str = 0, return_state: Literal[False] = False,
) -> HoltWinters: ...
@overload
def holt_winters(
    x: Any, alpha: Any, beta: Any = None, gamma: Any = None, *,
    period: int | None = None, seasonal: Literal["add", "mul"] | None = "add", phi: Any = 1.0,
    level: Any = None, trend: Any = None, season: Any = None, axis: int | str = 0, return_state: Literal[True],
) -> tuple[HoltWinters, HoltWintersState]: ...
@overload
def kama(
    x: _Plain, period: int = 10, fast: int = 2, slow: int = 30, *, axis: int | str = 0,
) -> NDArray[Any]: ...
@overload
def kama(
    x: _Data, period: int = 10, fast: int = 2, slow: int = 30, *, axis: int | str = 0,
) -> _Data: ...
@overload
def pcen(
    S: _Plain, *,
    sr: float = 22050, hop_length: int = 512, gain: Any = 0.98, bias: Any = 2, power: Any = 0.5,
    time_constant: Any = 0.4, eps: Any = 1e-6, b: Any = None, max_size: int = 1, ref: Any = None, axis: int = -1,
    max_axis: int | None = None, zi: Any = None, return_zf: Literal[False] = False,
) -> NDArray[Any]: ...
@overload
def pcen(
    S: _Plain, *,
    sr: float = 22050, hop_length: int = 512, gain: Any = 0.98, bias: Any = 2, power: Any = 0.5,
    time_constant: Any = 0.4, eps: Any = 1e-6, b: Any = None, max_size: int = 1, ref: Any = None, axis: int = -1,
    max_axis: int | None = None, zi: Any = None, return_zf: Literal[True],
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def pcen(
    S: _Data, *,
    sr: float = 22050, hop_length: int = 512, gain: Any = 0.98, bias: Any = 2, power: Any = 0.5,
    time_constant: Any = 0.4, eps: Any = 1e-6, b: Any = None, max_size: int = 1, ref: Any = None, axis: int = -1,
    max_axis: int | None = None, zi: Any = None, return_zf: Literal[False] = False,
) -> _Data: ...
@overload
def pcen(
    S: _Data, *,
    sr: float = 22050, hop_length: int = 512, gain: Any = 0.98, bias: Any = 2, power: Any = 0.5,
    time_constant: Any = 0.4, eps: Any = 1e-6, b: Any = None, max_size: int = 1, ref: Any = None, axis: int = -1,
    max_axis: int | None = None, zi: Any = None, return_zf: Literal[True],
) -> tuple[_Data, Any]: ...

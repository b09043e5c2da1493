"""Array types of the signal functions, and the one check they share."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from common.errors import SignalError

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
IntArray: TypeAlias = npt.NDArray[np.int64]


def finite_signal(signal: FloatArray, what: str) -> npt.NDArray[np.float64]:
    """Return a signal as float64 after checking that it is one-dimensional and finite.

    Parameters
    ----------
    signal : (n_samples,), any unit.
    what : name of the caller's step, for the error sentence.

    Raises
    ------
    SignalError
        If the array has another number of dimensions, or holds NaN or infinity.
    """
    values = one_lead(signal, what)
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise SignalError(
            f"{what}: {bad} of {values.size} samples are NaN or infinite; "
            "split the signal at its gaps first (client.data.ecg.filtering.spans)"
        )
    return values


def one_lead(signal: FloatArray, what: str) -> npt.NDArray[np.float64]:
    """Return a signal as float64 after checking that it is one-dimensional; NaN is allowed.

    Raises
    ------
    SignalError
        If the array has another number of dimensions.
    """
    values = np.asarray(signal, dtype=np.float64)
    if values.ndim != 1:
        raise SignalError(f"{what}: a signal has one dimension, got shape {values.shape}; pass one lead")
    return values


def positive_rate(rate_hz: float, what: str) -> float:
    """Return the sampling rate after checking that it is a positive number.

    Raises
    ------
    SignalError
        Otherwise.
    """
    if not (np.isfinite(rate_hz) and rate_hz > 0):
        raise SignalError(f"{what}: the sampling rate must be a positive number of Hz, got {rate_hz!r}")
    return float(rate_hz)

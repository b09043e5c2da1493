"""Random processes that more than one layer uses."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.signal import butter, lfilter

Array = npt.NDArray[np.float64]


def relaxing(rng: np.random.Generator, n: int, steps: float) -> Array:
    """Draw a stationary Gaussian process that forgets within ``steps``: float64 (n,), mean 0, variance 1."""
    keep = float(np.exp(-1.0 / steps))
    shocks = rng.standard_normal(n) * np.sqrt(1.0 - keep**2)
    shocks[0] /= np.sqrt(1.0 - keep**2)
    return np.asarray(lfilter([1.0], [1.0, -keep], shocks), np.float64)


@lru_cache(maxsize=32)
def sections(order: int, corner_hz: float | tuple[float, float], kind: str, rate_hz: float) -> Array:
    """Design a Butterworth filter as second-order sections, float64 (n_sections, 6), once for all uses."""
    return np.asarray(butter(order, corner_hz, kind, fs=rate_hz, output="sos"), np.float64)

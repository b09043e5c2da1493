"""A synthetic lead II whose R peaks are known exactly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from common.seeding import stream

Array = npt.NDArray[np.float64]
# Delay after R (s), amplitude (mV) and width (s) of P, Q, R, S and T.
WAVES = (
    (-0.16, 0.12, 0.020),
    (-0.028, -0.08, 0.008),
    (0.0, 1.0, 0.010),
    (0.028, -0.15, 0.010),
    (0.26, 0.25, 0.04),
)


@pytest.fixture
def make_ecg() -> Callable[..., Array]:
    def make(
        r_times: Array, length_s: float, rate_hz: float = 125.0, noise_mv: float = 0.01, p_waves: bool = True
    ) -> Array:
        time = np.arange(round(length_s * rate_hz)) / rate_hz
        signal = noise_mv * stream("synthetic ecg", length_s, rate_hz).standard_normal(len(time))
        for delay, amplitude, width in WAVES if p_waves else WAVES[1:]:
            for centre in np.asarray(r_times) + delay:
                a, b = np.searchsorted(time, [centre - 6 * width, centre + 6 * width])
                signal[a:b] += amplitude * np.exp(-0.5 * ((time[a:b] - centre) / width) ** 2)
        return signal

    return make


@pytest.fixture
def regular() -> Callable[..., Array]:
    """R times of a sinus rhythm: 20 ms of variation around a fixed RR interval."""

    def make(length_s: float, rr_s: float = 0.8, sd_s: float = 0.02) -> Array:
        n = int(length_s / rr_s) + 20
        rr = rr_s + sd_s * stream("regular", length_s, rr_s).standard_normal(n)
        times = 0.5 + np.cumsum(rr) - rr[0]
        return times[times < length_s - 0.7]

    return make


@pytest.fixture
def irregular() -> Callable[..., Array]:
    """R times as in atrial fibrillation: independent RR intervals, a quarter of the mean in spread."""

    def make(length_s: float, rr_s: float = 0.7) -> Array:
        rr = stream("irregular", length_s).gamma(16.0, rr_s / 16.0, int(2 * length_s / rr_s))
        times = 0.5 + np.cumsum(np.maximum(rr, 0.3))
        return times[times < length_s - 0.7]

    return make

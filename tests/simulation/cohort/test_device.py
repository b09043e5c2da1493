"""What the monitor does to a signal."""

from __future__ import annotations

import numpy as np
import pytest

from common.seeding import stream
from simulation.cohort import device
from simulation.cohort.rhythm import make_rhythm


@pytest.mark.parametrize(("gain", "baseline"), [(127, -64), (55, 0), (26, 16)])
def test_quantisation_error_is_at_most_half_a_unit(gain: int, baseline: int) -> None:
    signal = stream("q").uniform(-0.45, 0.9, 5000).astype(np.float32)
    samples = device.digitize(signal, gain, baseline)
    back = (samples.astype(float) - baseline) / gain
    assert np.abs(back - signal).max() <= 0.5 / gain + 1e-6


def test_missing_signal_is_marked_and_loud_signal_is_clipped() -> None:
    samples = device.digitize(np.array([np.nan, 9.0, -9.0, 0.0], np.float32), 127, -64)
    assert samples.tolist() == [-128, 127, -127, -64]


def test_the_largest_gain_that_fits_is_chosen() -> None:
    assert device.choose_gain(-0.3, 1.0, (55, 127, 83))[0] == 127
    assert device.choose_gain(-0.5, 1.9, (55, 127, 83))[0] == 83
    assert device.choose_gain(-2.0, 4.0, (55, 127, 83))[0] == 55


@pytest.mark.parametrize(("low", "high"), [(-0.3, 1.0), (-1.2, 0.2), (-0.5, 1.9)])
def test_a_signal_that_fits_is_not_clipped(low: float, high: float) -> None:
    gain, baseline = device.choose_gain(low, high, (127, 83, 55))
    ends = np.array([low, high]) * gain + baseline
    assert ends.min() > -127
    assert ends.max() < 127


def power(signal: np.ndarray[tuple[int], np.dtype[np.float32]], hz: float) -> float:
    spectrum = np.abs(np.fft.rfft(signal * np.hanning(len(signal)))) ** 2
    frequencies = np.fft.rfftfreq(len(signal), 1 / device.RATE_HZ)
    return float(spectrum[np.abs(frequencies - hz) < 0.2].sum())


@pytest.mark.parametrize("mains", [50, 60])
def test_hum_has_the_frequency_of_the_mains(mains: int) -> None:
    rhythm = make_rhythm(stream("n"), 60.0, 80.0)
    noise = device.noise(stream("n", mains), rhythm, 60 * device.RATE_HZ, 0.0005, mains)
    other = 110 - mains
    assert power(noise, mains) > 50 * power(noise, other)


def test_monitor_band_keeps_the_middle_and_loses_drift() -> None:
    time = np.arange(60 * device.RATE_HZ) / device.RATE_HZ

    def passed(hz: float) -> float:
        wave = np.sin(2 * np.pi * hz * time).astype(np.float32)
        return float(np.ptp(device.monitor_band(wave, (0.5, 40.0))[2000:-500]) / 2)

    assert passed(10.0) == pytest.approx(1.0, abs=0.03)
    assert passed(0.05) < 0.12
    assert passed(0.5) == pytest.approx(np.sqrt(0.5), abs=0.02)


def test_segments_are_in_order_and_hold_every_sample_once() -> None:
    rhythm = make_rhythm(stream("c"), 120.0, 80.0)
    n = 120 * device.RATE_HZ
    tiny = gain_changes = 0
    for i in range(80):
        signal = np.full(n, 0.25, np.float32)
        segments = device.cut(
            stream("cut", i), 500, {"II": (signal, (127, -64), (83, 0))}, [device.respiration(rhythm, n)]
        )
        assert segments[0].start == 500
        ends = [s.start + s.length for s in segments]
        assert ends[-1] == 500 + n
        assert all(later.start >= end for later, end in zip(segments[1:], ends, strict=False))
        leads = [c for s in segments for c in s.channels if c.name == "II"]
        for lead in leads:
            assert np.abs((lead.samples - float(lead.baseline)) / lead.gain - 0.25).max() <= 0.5 / lead.gain
        tiny += segments[0].length <= 16 * device.RATE_HZ and segments[0].channels[0].name == "RESP"
        gain_changes += len({lead.gain for lead in leads}) > 1
    assert tiny > 2
    assert gain_changes > 2


def test_movement_is_as_large_as_the_ecg() -> None:
    artefact = device.movement(stream("m"), 300 * device.RATE_HZ)
    moving = np.abs(artefact) > 0
    assert moving.mean() > 0.5
    assert artefact[moving].std() > 0.1

"""The filter keeps waves where they are, gaps never reach it, and any sampling rate becomes 125 Hz."""

from __future__ import annotations

import numpy as np
import pytest

from client.data.ecg.filtering import bandpass, half_taps, prepare, resample, spans
from common.config import SignalSettings
from common.errors import SignalError
from common.seeding import stream

SETTINGS = SignalSettings()


def gain_db(frequency_hz: float, rate_hz: float) -> float:
    n = round(20 * rate_hz) | 1
    impulse = np.zeros(n)
    impulse[n // 2] = 1.0
    response = bandpass(impulse, rate_hz, SETTINGS)
    phase = np.exp(-2j * np.pi * frequency_hz * (np.arange(n) - n // 2) / rate_hz)
    return 20 * np.log10(abs(response @ phase))


@pytest.mark.parametrize("rate_hz", [125.0, 360.0, 500.0])
@pytest.mark.parametrize(
    ("frequency_hz", "expected_db"),
    [(0.2, -28.0), (0.3, -18.0), (0.5, -6.0), (1.0, 0.0), (20.0, 0.0), (40.0, -6.0)],
)
def test_the_filter_has_the_published_response_at_every_rate(
    rate_hz: float, frequency_hz: float, expected_db: float
) -> None:
    assert gain_db(frequency_hz, rate_hz) == pytest.approx(expected_db, abs=1.0)


@pytest.mark.parametrize("mains_hz", [50.0, 60.0])
def test_mains_and_baseline_are_gone(mains_hz: float) -> None:
    assert gain_db(mains_hz, 125.0) < -65
    assert gain_db(0.0, 125.0) < -45


def test_the_filter_moves_nothing_in_time() -> None:
    noise = stream("filter symmetry").standard_normal(2001)
    there = bandpass(noise, 125.0, SETTINGS)
    back = bandpass(noise[::-1], 125.0, SETTINGS)[::-1]
    np.testing.assert_allclose(there, back, atol=1e-12)


def test_an_offset_disturbs_neither_end() -> None:
    assert np.abs(bandpass(np.full(2000, 3.0), 125.0, SETTINGS)).max() < 3.0 * 10 ** (-45 / 20)


def test_the_filter_is_linear() -> None:
    noise = stream("filter linearity").standard_normal(1500)
    np.testing.assert_allclose(
        bandpass(1e3 * noise, 125.0, SETTINGS), 1e3 * bandpass(noise, 125.0, SETTINGS), atol=1e-9
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_filter_refuses_what_is_not_finite(bad: float) -> None:
    signal = np.zeros(1000)
    signal[500] = bad
    with pytest.raises(SignalError, match="1 of 1000 samples"):
        bandpass(signal, 125.0, SETTINGS)


def test_the_filter_refuses_a_rate_that_cannot_carry_the_band() -> None:
    with pytest.raises(SignalError, match="above 80 Hz"):
        bandpass(np.zeros(1000), 80.0, SETTINGS)


@pytest.mark.parametrize("rate_hz", [128.0, 200.0, 249.89, 250.0, 360.0, 500.0])
def test_resampling_keeps_a_wave_in_shape_and_place(rate_hz: float) -> None:
    seconds = 600.0
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    resampled = resample(np.sin(2 * np.pi * 7.0 * time), rate_hz)
    expected = np.sin(2 * np.pi * 7.0 * np.arange(len(resampled)) / 125.0)
    assert abs(len(resampled) - seconds * 125) <= 1
    inner = slice(125, -125)
    # a tenth of a sample of drift would be 0.035
    np.testing.assert_allclose(resampled[inner], expected[inner], atol=0.04)
    assert resampled[:3] == pytest.approx(expected[:3], abs=0.1)


def test_resampling_to_the_same_rate_changes_nothing() -> None:
    signal = stream("same rate").standard_normal(100)
    np.testing.assert_array_equal(resample(signal, 125.0), signal)


def test_short_gaps_are_bridged_by_a_line_and_long_gaps_split() -> None:
    signal = np.arange(100.0)
    signal[10:15] = np.nan  # 0.5 s at 10 Hz: bridged
    signal[40:46] = np.nan  # 0.6 s: split
    found = spans(signal, 10.0, max_bridge_s=0.5)
    assert [(start, len(values)) for start, values in found] == [(0, 40), (46, 54)]
    np.testing.assert_allclose(found[0][1], np.arange(40.0))


def test_gaps_at_the_ends_are_never_bridged() -> None:
    signal = np.array([np.nan, 1.0, 2.0, np.nan])
    [(start, values)] = spans(signal, 125.0, max_bridge_s=0.5)
    assert start == 1
    np.testing.assert_array_equal(values, [1.0, 2.0])


def test_nothing_recorded_gives_no_span() -> None:
    assert spans(np.full(1000, np.nan), 125.0, 0.5) == []
    assert prepare(np.full(1000, np.nan), 125.0, SETTINGS) == []


def test_splitting_leaves_the_recording_as_it_was() -> None:
    signal = np.array([1.0, np.nan, 3.0])
    spans(signal, 125.0, 0.5)
    assert np.isnan(signal[1])


@pytest.mark.parametrize("rate_hz", [125.0, 360.0])
def test_the_sides_of_a_gap_are_dropped_and_the_ends_of_the_window_kept(rate_hz: float) -> None:
    n = round(60 * rate_hz)
    signal = stream("gap sides").standard_normal(n)
    signal[n // 3 : n // 2] = np.nan
    first, second = prepare(signal, rate_hz, SETTINGS)
    half_s = half_taps(rate_hz, SETTINGS) / rate_hz
    assert first.start_s == 0.0
    assert first.length_s == pytest.approx(20 - half_s, abs=0.02)
    assert second.start_s == pytest.approx(30 + half_s, abs=0.01)
    assert second.start_s + second.length_s == pytest.approx(60, abs=0.02)


def test_what_lies_beyond_a_gap_does_not_change_a_span() -> None:
    signal = stream("beyond").standard_normal(7500)
    signal[3000:3500] = np.nan
    other = signal.copy()
    other[3500:] *= 50
    np.testing.assert_array_equal(
        prepare(signal, 125.0, SETTINGS)[0].samples, prepare(other, 125.0, SETTINGS)[0].samples
    )


def test_a_span_shorter_than_the_filter_is_dropped() -> None:
    signal = np.full(7500, np.nan)
    signal[2000:2900] = stream("island").standard_normal(900)  # 7.2 s, of which 3.2 s lie inside
    assert prepare(signal, 125.0, SETTINGS) == []

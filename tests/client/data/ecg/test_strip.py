"""A window becomes beats, or one reason why not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from client.data.ecg.strip import beats_at, process_strip
from client.data.exclusion import Exclusion
from common.config import make_settings
from common.errors import SignalError
from common.seeding import stream

Array = npt.NDArray[np.float64]
Make = Callable[..., Array]

SETTINGS = make_settings()
LENIENT = make_settings(overrides={"quality": {"reject": False}})
LENGTH_S = 600.0


@pytest.fixture
def times(regular: Make) -> Array:
    return regular(LENGTH_S)


@pytest.fixture
def signal(make_ecg: Make, times: Array) -> Array:
    return make_ecg(times, LENGTH_S)


def test_a_clean_window_gives_its_beats_at_their_times(signal: Array, times: Array) -> None:
    strip = process_strip(signal, 125.0, SETTINGS)
    assert strip.exclusion is None
    assert strip.quality is not None
    assert strip.n_detected == len(times)
    assert len(strip.beats) >= 0.99 * len(times)
    assert strip.beats.dtype == np.float32
    assert strip.signal_s == LENGTH_S
    nearest = np.abs(strip.r_times_s[:, None] - times[None, :]).min(axis=1)
    assert nearest.max() < 0.012
    assert (np.argmax(strip.beats, axis=1) == 40).mean() > 0.95
    np.testing.assert_allclose(strip.rr_next_s[:-1], strip.rr_prev_s[1:])
    assert strip.quality.heart_rate_bpm == pytest.approx(75, abs=2)
    assert strip.quality.agreement > 0.97


@pytest.mark.parametrize("rate_hz", [249.89, 500.0])
def test_the_beats_do_not_depend_on_the_sampling_rate(make_ecg: Make, regular: Make, rate_hz: float) -> None:
    times = regular(330.0)
    at_125 = process_strip(make_ecg(times, 330.0, noise_mv=0.0), 125.0, SETTINGS)
    other = process_strip(make_ecg(times, 330.0, rate_hz, noise_mv=0.0), rate_hz, SETTINGS)
    assert abs(len(other.beats) - len(at_125.beats)) <= 1
    np.testing.assert_allclose(np.median(other.beats, axis=0), np.median(at_125.beats, axis=0), atol=0.05)


def test_a_gap_takes_its_beats_and_leaves_the_others(signal: Array, times: Array) -> None:
    whole = process_strip(signal, 125.0, SETTINGS)
    signal[25_000:30_000] = np.nan
    strip = process_strip(signal, 125.0, SETTINGS)
    assert strip.exclusion is None
    assert strip.signal_s == pytest.approx(LENGTH_S - 40 - 4)
    assert not ((strip.r_times_s > 198) & (strip.r_times_s < 242)).any()
    # no RR interval reaches across the gap
    assert np.nanmax(strip.rr_prev_s) < 1.0
    distance = np.abs(strip.r_times_s[:, None] - whole.r_times_s[None, :]).min(axis=1)
    assert np.percentile(distance, 98) < 1e-9
    assert distance.max() <= 0.016


def test_lead_off_recorded_as_a_flat_line_is_a_gap(signal: Array) -> None:
    signal[25_000:30_000] = 0.0
    strip = process_strip(signal, 125.0, SETTINGS)
    assert strip.exclusion is None
    assert strip.signal_s == pytest.approx(LENGTH_S - 40 - 4, abs=0.1)
    assert not ((strip.r_times_s > 198) & (strip.r_times_s < 242)).any()


def test_a_flat_window_is_a_flat_line_and_an_empty_one_is_too_little(signal: Array) -> None:
    assert process_strip(np.zeros(75_000), 125.0, SETTINGS).exclusion is Exclusion.FLAT_LINE
    assert process_strip(np.full(75_000, np.nan), 125.0, SETTINGS).exclusion is Exclusion.TOO_LITTLE_SIGNAL
    signal[30_000:] = np.nan  # four minutes
    short = process_strip(signal, 125.0, SETTINGS)
    assert short.exclusion is Exclusion.TOO_LITTLE_SIGNAL
    assert short.quality is None
    assert len(short.beats) == 0


def test_five_minutes_are_enough(signal: Array) -> None:
    assert process_strip(signal[:37_500], 125.0, SETTINGS).exclusion is None


def test_noise_is_excluded(signal: Array) -> None:
    noise = stream("strip of noise").standard_normal(75_000)
    strip = process_strip(noise, 125.0, SETTINGS)
    assert strip.exclusion in {Exclusion.DETECTORS_DISAGREE, Exclusion.BEATS_UNLIKE}
    assert strip.quality is not None
    assert len(strip.beats) == 0


def test_fibrillation_is_excluded(make_ecg: Make, irregular: Make) -> None:
    strip = process_strip(make_ecg(irregular(LENGTH_S), LENGTH_S, p_waves=False), 125.0, SETTINGS)
    assert strip.exclusion is Exclusion.ATRIAL_FIBRILLATION


def test_clipping_is_excluded(signal: Array) -> None:
    strip = process_strip(np.clip(signal, -0.05, 0.15), 125.0, SETTINGS)
    assert strip.exclusion is Exclusion.CLIPPED


def test_a_gain_that_was_read_wrong_is_excluded(signal: Array) -> None:
    assert process_strip(0.01 * signal, 125.0, SETTINGS).exclusion is Exclusion.AMPLITUDE_OUT_OF_RANGE
    assert process_strip(100 * signal, 125.0, SETTINGS).exclusion is Exclusion.AMPLITUDE_OUT_OF_RANGE


def test_too_few_beats_are_excluded(make_ecg: Make, regular: Make) -> None:
    settings = make_settings(overrides={"strip": {"min_signal_s": 60.0}})
    short = process_strip(make_ecg(regular(70.0), 70.0), 125.0, settings)
    assert short.exclusion is Exclusion.TOO_FEW_BEATS
    assert 80 < short.n_detected < 100


def test_beats_unlike_the_others_are_left_out(signal: Array, times: Array) -> None:
    rng = stream("ectopic beats")
    ectopic = rng.choice(len(times) - 2, 30, replace=False) + 1
    time = np.arange(len(signal)) / 125
    for r in times[ectopic]:
        signal += np.where(abs(time - r) < 0.3, -1.5 * np.exp(-0.5 * ((time - r - 0.05) / 0.04) ** 2), 0)
    strip = process_strip(signal, 125.0, SETTINGS)
    assert strip.exclusion is None
    for r in times[ectopic]:
        assert np.abs(strip.r_times_s - r).min() > 0.15
    assert len(strip.beats) > 0.85 * len(times)


def test_nothing_is_rejected_where_rejection_is_off(make_ecg: Make, irregular: Make) -> None:
    strip = process_strip(make_ecg(irregular(LENGTH_S), LENGTH_S, p_waves=False), 125.0, LENIENT)
    assert strip.exclusion is None
    assert strip.quality is not None
    assert strip.quality.sample_entropy > -1
    assert len(strip.beats) >= strip.n_detected - 2


def test_annotated_beats_are_cut_where_the_expert_put_them(make_ecg: Make, regular: Make) -> None:
    times = regular(60.0)
    rate_hz = 360.0
    r_samples = np.round(times * rate_hz).astype(np.int64)
    beats, kept = beats_at(make_ecg(times, 60.0, rate_hz), rate_hz, r_samples, SETTINGS)
    np.testing.assert_array_equal(kept, np.arange(len(times)))
    assert (np.abs(np.argmax(beats, axis=1) - 40) <= 1).all()


def test_annotated_beats_at_the_edges_and_in_gaps_are_dropped(make_ecg: Make, regular: Make) -> None:
    signal = make_ecg(regular(60.0), 60.0)
    signal[3000:3500] = np.nan
    beats, kept = beats_at(signal, 125.0, np.array([10, 1000, 3200, 3600, 5000, 7490]), SETTINGS)
    np.testing.assert_array_equal(kept, [1, 4])
    assert beats.shape == (2, 120)
    none, kept = beats_at(np.full(5000, np.nan), 125.0, np.array([100]), SETTINGS)
    assert none.shape == (0, 120)
    assert len(kept) == 0


def test_an_array_of_two_leads_and_a_rate_of_zero_are_refused(signal: Array) -> None:
    with pytest.raises(SignalError, match="one lead"):
        process_strip(np.stack([signal, signal]), 125.0, SETTINGS)
    with pytest.raises(SignalError, match="positive number of Hz"):
        process_strip(signal, 0.0, SETTINGS)
    signal[5] = np.inf
    with pytest.raises(SignalError, match="infinite"):
        process_strip(signal, 125.0, SETTINGS)


def test_a_lead_put_on_upside_down_gives_the_beats_upside_down(signal: Array) -> None:
    strip, inverted = process_strip(signal, 125.0, SETTINGS), process_strip(-signal, 125.0, SETTINGS)
    np.testing.assert_array_equal(inverted.r_times_s, strip.r_times_s)
    np.testing.assert_array_equal(inverted.beats, -strip.beats)


def test_the_recording_is_left_as_it_was(signal: Array) -> None:
    signal[25_000:30_000] = 0.0
    before = signal.copy()
    process_strip(signal, 125.0, SETTINGS)
    np.testing.assert_array_equal(signal, before)

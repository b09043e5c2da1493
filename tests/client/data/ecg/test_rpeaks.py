"""R peaks are where they are, whatever the gain, the side, the sampling rate or the neighbours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from client.data.ecg.filtering import bandpass, resample
from client.data.ecg.rpeaks import (
    agreement,
    before_t_waves,
    detect_r_peaks,
    match,
    past_p_waves,
    second_opinion,
    without_t_waves,
    without_tall_t_waves,
)
from common.config import SignalSettings
from common.errors import SignalError

Array = npt.NDArray[np.float64]
Make = Callable[..., Array]
TOLERANCE = 19  # 150 ms


def clean(signal: Array, rate_hz: float = 125.0) -> Array:
    return resample(bandpass(signal, rate_hz, SignalSettings()), rate_hz)


@pytest.fixture
def times(regular: Make) -> Array:
    return regular(60.0)


@pytest.fixture
def signal(make_ecg: Make, times: Array) -> Array:
    return clean(make_ecg(times, 60.0))


@pytest.mark.parametrize("rate_hz", [125.0, 128.0, 249.89, 360.0, 500.0])
def test_every_beat_is_found_within_a_sample_at_every_rate(
    make_ecg: Make, times: Array, rate_hz: float
) -> None:
    peaks = detect_r_peaks(clean(make_ecg(times, 60.0, rate_hz), rate_hz))
    assert match(peaks, times * 125, 1.5) == (len(times), len(times), len(times))


@pytest.mark.parametrize("gain", [1e-3, 1e3])
def test_gain_does_not_matter(signal: Array, gain: float) -> None:
    np.testing.assert_array_equal(detect_r_peaks(gain * signal), detect_r_peaks(signal))


def test_a_lead_put_on_upside_down_has_its_peaks_in_the_same_place(signal: Array) -> None:
    np.testing.assert_array_equal(detect_r_peaks(-signal), detect_r_peaks(signal))


def test_a_signal_that_starts_later_has_its_peaks_earlier(signal: Array) -> None:
    shift = 333
    later, whole = detect_r_peaks(signal[shift:]), detect_r_peaks(signal)
    assert len(later) > 60
    np.testing.assert_array_equal(later[2:-2] + shift, whole[len(whole) - len(later) + 2 : -2])


def test_a_flat_stretch_adds_nothing(signal: Array) -> None:
    flat = np.full(1250, signal[-1])
    np.testing.assert_array_equal(detect_r_peaks(np.concatenate([signal, flat])), detect_r_peaks(signal))


@pytest.mark.parametrize("detector", [detect_r_peaks, second_opinion])
def test_a_flat_signal_has_no_peaks(detector: Callable[[Array], Array]) -> None:
    assert len(detector(np.zeros(5000))) == 0
    assert len(detector(np.zeros(0))) == 0
    assert len(detector(np.arange(20.0))) == 0


@pytest.mark.parametrize("detector", [detect_r_peaks, second_opinion])
def test_a_gap_is_refused_with_a_hint(detector: Callable[[Array], Array], signal: Array) -> None:
    signal[100] = np.nan
    with pytest.raises(SignalError, match="split the signal at its gaps"):
        detector(signal)


def test_two_leads_at_once_are_refused(signal: Array) -> None:
    with pytest.raises(SignalError, match="one lead"):
        detect_r_peaks(np.stack([signal, signal]))


def test_a_tall_t_wave_is_no_beat(times: Array) -> None:
    """Severe hyperkalemia: T higher than R, but not as steep."""
    time = np.arange(7500) / 125
    tall = np.zeros(len(time))
    for r in times:
        tall += np.exp(-0.5 * ((time - r) / 0.012) ** 2) + 1.2 * np.exp(
            -0.5 * ((time - r - 0.3) / 0.045) ** 2
        )
    assert match(detect_r_peaks(clean(tall)), times * 125, 3)[1:] == (len(times), len(times))


@pytest.mark.parametrize(
    ("delay", "steepness", "dropped"), [(40, 0.4, True), (40, 0.6, False), (46, 0.4, False), (40, 1.5, False)]
)
def test_a_t_wave_is_early_and_less_than_half_as_steep(delay: int, steepness: float, dropped: bool) -> None:
    """360 ms are 45 samples: the rule of Pan and Tompkins. An early ectopic beat is steep."""
    signal = np.zeros(1000)
    complexes = np.array([300, 300 + delay, 700])
    for place, height in zip(complexes, (1.0, steepness, 1.0), strict=True):
        signal[place - 3 : place + 4] = height * np.hanning(7)
    assert (300 + delay not in without_t_waves(signal, complexes)) is dropped
    assert {300, 700} <= set(without_t_waves(signal, complexes))


# From 4 on, the second detector sees T waves and nothing else.
@pytest.mark.parametrize("height", [0.7, 1.0, 1.4, 4.0, 5.0])
def test_tall_t_waves_do_not_make_the_detectors_disagree(times: Array, height: float) -> None:
    """The sign of hyperkalemia must not be taken for noise, or the rule would throw the disease away."""
    time = np.arange(7500) / 125
    tall = np.zeros(len(time))
    for r in times:
        tall += 0.5 * np.exp(-0.5 * ((time - r) / 0.012) ** 2)
        tall += 0.5 * height * np.exp(-0.5 * ((time - r - 0.24) / 0.034) ** 2)
    signal = clean(tall)
    assert agreement(detect_r_peaks(signal), second_opinion(signal), TOLERANCE) > 0.95
    assert match(detect_r_peaks(signal), times * 125, 3)[0] >= len(times) - 1


def test_both_detectors_find_the_beats_of_a_clean_signal(signal: Array, times: Array) -> None:
    found, n_found, n_true = match(second_opinion(signal), times * 125, TOLERANCE)
    assert found >= n_true - 1
    assert n_found <= n_true + 1
    assert agreement(detect_r_peaks(signal), second_opinion(signal), TOLERANCE) > 0.95


def test_a_found_beat_counts_once() -> None:
    assert match([10.0], [9.0, 11.0], 5) == (1, 1, 2)
    assert match([9.0, 11.0], [10.0], 5) == (1, 2, 1)


def test_pairing_takes_the_neighbour_when_the_nearest_is_taken() -> None:
    assert match([0.0, 10.0], [8.0, 14.0], 8) == (2, 2, 2)


def test_the_tolerance_is_inclusive() -> None:
    assert match([0], [19], 19)[0] == 1
    assert match([0], [20], 19)[0] == 0


def test_agreement_is_matched_over_union() -> None:
    assert agreement([1, 100, 200], [1, 100, 300], 2) == 2 / 4
    assert agreement([5], [], 2) == 0
    assert np.isnan(agreement([], [], 2))


def pulses(places: Array, heights: Array, widths: Array, length: int = 6000) -> Array:
    """Return a signal of Gaussian pulses: places in samples, widths (one standard deviation) too."""
    signal, time = np.zeros(length), np.arange(length)
    for place, height, width in zip(places, heights, widths, strict=True):
        signal += height * np.exp(-0.5 * ((time - place) / width) ** 2)
    return signal


BEATS = np.arange(100, 5900, 73)


def test_tall_steep_t_waves_after_every_beat_are_dropped() -> None:
    """At 10 mEq/L: T twice as tall as R, 0.8 of its steepness, 240 ms later."""
    places = np.sort(np.concatenate([BEATS, BEATS + 30]))
    t_waves = np.arange(len(places)) % 2 == 1
    signal = pulses(places, np.where(t_waves, 1.6, 0.8), np.where(t_waves, 4.0, 1.6))
    np.testing.assert_array_equal(without_tall_t_waves(signal, places), BEATS)


def test_early_complexes_after_few_beats_are_kept() -> None:
    """Wide ectopic beats 300 ms after one beat in four."""
    ectopic = BEATS[::4] + 37
    places = np.sort(np.concatenate([BEATS, ectopic]))
    wide = np.isin(places, ectopic)
    signal = pulses(places, np.where(wide, 1.6, 0.8), np.where(wide, 4.0, 1.6))
    np.testing.assert_array_equal(without_tall_t_waves(signal, places), places)


def test_a_t_wave_found_alone_is_moved_to_its_complex() -> None:
    signal = pulses(
        np.concatenate([BEATS, BEATS + 30]),
        np.repeat([0.4, 1.7], len(BEATS)),
        np.repeat([1.6, 4.5], len(BEATS)),
    )
    moved = before_t_waves(signal, BEATS + 30)
    assert len(moved) == len(BEATS)
    assert np.abs(moved - BEATS).max() <= 2
    np.testing.assert_array_equal(before_t_waves(signal, BEATS), BEATS)
    both = np.sort(np.concatenate([BEATS, BEATS + 30]))
    np.testing.assert_array_equal(before_t_waves(signal, both), both)
    assert len(before_t_waves(signal, BEATS[:0])) == 0


@pytest.mark.parametrize(("delay", "height"), [(18, 0.4), (35, 0.1)])
def test_a_sharp_p_wave_before_a_wide_complex_is_not_its_complex(delay: int, height: float) -> None:
    """Hyperkalemia and pacing make complexes as wide as T waves; the wave before is near, or flat."""
    signal = pulses(
        np.concatenate([BEATS - delay, BEATS]),
        np.repeat([height, 1.0], len(BEATS)),
        np.repeat([2.5, 5.0], len(BEATS)),
    )
    np.testing.assert_array_equal(before_t_waves(signal, BEATS), BEATS)


def test_a_fast_heart_with_alternating_beats_keeps_them_all() -> None:
    """180 beats a minute, every other one a fifth smaller: each is as sharp as the last."""
    places = np.arange(100, 5900, 42)
    signal = pulses(places, np.where(np.arange(len(places)) % 2, 0.8, 1.0), np.full(len(places), 1.6))
    np.testing.assert_array_equal(without_tall_t_waves(signal, places), places)


def test_a_p_wave_is_moved_to_its_complex() -> None:
    signal = pulses(
        np.concatenate([BEATS - 21, BEATS]),
        np.repeat([0.2, 1.0], len(BEATS)),
        np.repeat([3.0, 1.6], len(BEATS)),
    )
    moved = past_p_waves(signal, BEATS - 21)
    assert len(moved) == len(BEATS)
    assert np.abs(moved - BEATS).max() <= 2
    both = past_p_waves(signal, np.sort(np.concatenate([BEATS - 21, BEATS])))
    assert len(both) == len(BEATS)
    np.testing.assert_array_equal(past_p_waves(signal, BEATS), BEATS)
    assert len(past_p_waves(signal, BEATS[:0])) == 0


def test_two_beats_of_about_the_same_steepness_stay_where_they_are() -> None:
    places = np.array([100, 125, 600, 622])
    signal = pulses(places, np.array([0.5, 1.0, 1.0, 0.4]), np.full(4, 1.6))
    np.testing.assert_array_equal(past_p_waves(signal, places), places)


def test_tall_p_waves_do_not_make_the_detectors_disagree(make_ecg: Make, regular: Make) -> None:
    times = regular(60.0, 1.2)
    signal = make_ecg(times, 60.0)
    time = np.arange(len(signal)) / 125
    for r in times:
        signal += 0.25 * np.exp(-0.5 * ((time - r + 0.17) / 0.02) ** 2)
    signal = clean(signal)
    assert agreement(detect_r_peaks(signal), second_opinion(signal), TOLERANCE) > 0.95
    assert match(detect_r_peaks(signal), times * 125, 3)[0] == len(times)

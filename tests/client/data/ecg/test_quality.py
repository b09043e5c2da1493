"""Quality is measured where it can be seen, and limits decide in a fixed order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from client.data.ecg.filtering import Span
from client.data.ecg.quality import (
    StripQuality,
    detector_agreement,
    flat_runs,
    kurtosis,
    raw_quality,
    reasons,
    template_correlation,
)
from client.data.ecg.rpeaks import detect_r_peaks
from client.data.exclusion import EXCLUSION_TEXT, Exclusion
from common.config import QualitySettings
from common.seeding import stream

LIMITS = QualitySettings()
GOOD = StripQuality(
    heart_rate_bpm=80.0,
    agreement=0.99,
    median_correlation=0.98,
    accepted_share=0.95,
    sample_entropy=-2.0,
    clipped_share=0.0,
    longest_flat_s=0.1,
    amplitude_mv=1.2,
    qrs_ms=90.0,
    pacing_suspected=False,
    kurtosis=20.0,
)


def shape() -> npt.NDArray[np.float64]:
    time = (np.arange(120) - 40) / 125
    return np.exp(-0.5 * (time / 0.012) ** 2) + 0.3 * np.exp(-0.5 * ((time - 0.26) / 0.04) ** 2)


def test_every_reason_has_a_sentence() -> None:
    assert set(EXCLUSION_TEXT) == set(Exclusion)
    assert all(text.endswith(".") for text in EXCLUSION_TEXT.values())
    assert all(len(reason) <= 32 for reason in Exclusion)


def test_alike_beats_correlate_whatever_their_size_and_noise_does_not() -> None:
    rng = stream("template")
    beats = np.tile(shape(), (20, 1)) * rng.uniform(0.5, 2, (20, 1)) + rng.normal(0, 0.01, (20, 120))
    beats[7] = rng.standard_normal(120)
    correlation = template_correlation(beats, 0.8)
    assert correlation[7] < 0.5
    assert np.delete(correlation, 7).min() > 0.8


def test_the_next_beat_inside_the_window_does_not_count_against_a_fast_heart() -> None:
    """At 130 a minute the next QRS lies inside the 120 samples, each time somewhere else."""
    beats = np.tile(shape(), (40, 1))
    for beat, place in zip(beats, stream("fast").integers(92, 105, 40), strict=True):
        beat[place - 3 : place + 4] += np.hanning(7)
    assert template_correlation(beats, 60 / 130).min() > 0.99
    assert (
        np.median(template_correlation(beats, 60 / 60)) < template_correlation(beats, 60 / 130).min() + 1e-9
    )


def test_flat_beats_correlate_with_nothing() -> None:
    np.testing.assert_array_equal(template_correlation(np.zeros((3, 120)), 0.8), [0, 0, 0])
    assert template_correlation(np.zeros((0, 120)), 0.8).shape == (0,)


def test_a_flat_line_is_a_long_run_not_a_large_share_of_equal_neighbours() -> None:
    coarse = np.repeat(stream("coarse").integers(-5, 5, 1000), 4).astype(
        float
    )  # three of four neighbours equal
    assert flat_runs(coarse, 125.0, 1.0) == []
    coarse[1000:1200] = 0.5
    assert flat_runs(coarse, 125.0, 1.0) == [(1000, 1200)]
    assert raw_quality(coarse, 125.0, 1.0).longest_flat_s == pytest.approx(1.6)
    assert raw_quality(coarse, 125.0, 1.0).flat_s == pytest.approx(1.6)


def test_a_gap_is_not_flat() -> None:
    signal = np.sin(np.arange(1000) / 10)
    signal[300:600] = np.nan
    assert flat_runs(signal, 125.0, 0.1) == []
    assert raw_quality(np.full(10, np.nan), 125.0, 1.0).longest_flat_s == 0


def test_clipping_is_a_run_at_a_limit_far_from_the_base_line() -> None:
    wave = np.sin(np.arange(5000) / 20) + 1e-3 * stream("clip").standard_normal(5000)
    assert raw_quality(wave, 125.0, 1.0).clipped_share == 0
    clipped = raw_quality(np.clip(wave, -0.9, 2), 125.0, 1.0).clipped_share
    assert clipped == pytest.approx(np.arccos(0.9) / np.pi, abs=0.02)


def test_a_base_line_at_the_smallest_value_is_not_clipped() -> None:
    """A coarse recorder: the base line takes two values, and rests on the lower for many samples."""
    coarse = np.repeat(np.tile([0.0, 1.0, 1.0], 400), 5)
    coarse[::100] = 26.0
    assert raw_quality(coarse, 125.0, 10.0).clipped_share == 0


def test_a_good_strip_has_no_reason() -> None:
    assert reasons(GOOD, LIMITS) == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"clipped_share": 0.02}, Exclusion.CLIPPED),
        ({"amplitude_mv": 0.05}, Exclusion.AMPLITUDE_OUT_OF_RANGE),
        ({"amplitude_mv": 6.0}, Exclusion.AMPLITUDE_OUT_OF_RANGE),
        ({"agreement": 0.89}, Exclusion.DETECTORS_DISAGREE),
        ({"heart_rate_bpm": 25.0}, Exclusion.HEART_RATE_OUT_OF_RANGE),
        ({"heart_rate_bpm": 190.0}, Exclusion.HEART_RATE_OUT_OF_RANGE),
        ({"accepted_share": 0.4}, Exclusion.BEATS_UNLIKE),
        ({"sample_entropy": -0.5}, Exclusion.ATRIAL_FIBRILLATION),
    ],
)
def test_each_limit_has_its_reason(change: dict[str, float], reason: Exclusion) -> None:
    assert reasons(replace(GOOD, **change), LIMITS) == (reason,)


def test_exactly_at_the_limit_is_allowed() -> None:
    at = replace(
        GOOD, agreement=0.9, accepted_share=0.5, sample_entropy=-1.0, amplitude_mv=0.1, clipped_share=0.01
    )
    assert reasons(at, LIMITS) == ()


def test_noise_is_called_noise_and_not_fibrillation() -> None:
    noise = replace(GOOD, agreement=0.4, accepted_share=0.1, sample_entropy=0.3)
    assert reasons(noise, LIMITS)[0] is Exclusion.DETECTORS_DISAGREE


def test_what_could_not_be_measured_excludes_nothing() -> None:
    assert reasons(replace(GOOD, agreement=np.nan, sample_entropy=np.nan), LIMITS) == ()


def test_wide_or_paced_complexes_are_never_a_reason() -> None:
    assert reasons(replace(GOOD, qrs_ms=200.0, pacing_suspected=True), LIMITS) == ()


def test_little_kurtosis_is_never_a_reason() -> None:
    """Wide complexes have little, and severe hyperkalemia makes complexes wide."""
    assert reasons(replace(GOOD, kurtosis=3.0), LIMITS) == ()


def test_kurtosis_by_hand() -> None:
    assert kurtosis([np.array([1.0, -1.0]), np.array([1.0, -1.0])]) == 1
    # One sample of four at 4, mean 1: fourth moment (81 + 3) / 4, variance (9 + 3) / 4.
    assert kurtosis([np.array([0.0, 0.0, 0.0, 4.0])]) == pytest.approx(21 / 9)
    assert kurtosis([stream("kurtosis").standard_normal(100_000)]) == pytest.approx(3, abs=0.1)


def test_a_flat_signal_has_no_kurtosis() -> None:
    assert np.isnan(kurtosis([]))
    assert np.isnan(kurtosis([np.zeros(0)]))
    assert np.isnan(kurtosis([np.ones(10)]))


def test_several_rules_can_fail_and_are_told_in_their_order() -> None:
    bad = replace(
        GOOD, sample_entropy=0.0, accepted_share=0.1, heart_rate_bpm=200.0, agreement=0.2, clipped_share=0.5
    )
    assert reasons(replace(bad, amplitude_mv=9.0), LIMITS) == (
        Exclusion.CLIPPED,
        Exclusion.AMPLITUDE_OUT_OF_RANGE,
        Exclusion.DETECTORS_DISAGREE,
        Exclusion.HEART_RATE_OUT_OF_RANGE,
        Exclusion.BEATS_UNLIKE,
        Exclusion.ATRIAL_FIBRILLATION,
    )


def test_a_passing_noise_in_the_middle_does_not_speak_for_the_strip(
    make_ecg: Callable[..., npt.NDArray[np.float64]], regular: Callable[..., npt.NDArray[np.float64]]
) -> None:
    signal = make_ecg(regular(600.0), 600.0)
    signal[33_750:41_250] += stream("passing noise").standard_normal(7_500)
    spans = [Span(0.0, signal.astype(np.float32))]
    peaks = [detect_r_peaks(signal)]
    assert detector_agreement(spans, peaks, 60.0) < 0.8
    assert detector_agreement(spans, peaks, 60.0, enough=0.9) > 0.95


def test_noise_throughout_is_noise_in_every_excerpt() -> None:
    signal = stream("noise throughout").standard_normal(75_000)
    spans, peaks = [Span(0.0, signal.astype(np.float32))], [detect_r_peaks(signal)]
    assert detector_agreement(spans, peaks, 60.0, enough=0.9) < 0.8


def test_without_a_span_there_is_no_agreement() -> None:
    assert np.isnan(detector_agreement([], [], 60.0, enough=0.9))

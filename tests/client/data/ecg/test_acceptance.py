"""Every detected beat is accepted, or has one reason why not; breathing and T waves are no reason."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from client.data.ecg.acceptance import (
    base_line_jumps,
    beat_rejections,
    count_rejections,
    holds_jump,
    qrs_amplitude,
    without_beats,
)
from client.data.ecg.filtering import bandpass
from client.data.exclusion import BEAT_REJECTION_TEXT, BeatRejection
from common.config import QualitySettings, SignalSettings
from common.seeding import stream

Array = npt.NDArray[np.float64]
LIMITS = QualitySettings()
EDGE, STEP, AMPLITUDE, UNLIKE = BeatRejection
TIME = np.arange(5000) / 125


def beat(height: float = 1.0) -> Array:
    time = (np.arange(120) - 40) / 125
    return height * np.exp(-0.5 * (time / 0.012) ** 2) + 0.3 * np.exp(-0.5 * ((time - 0.26) / 0.04) ** 2)


def judge(beats: Array, correlation: Array, has_step: npt.NDArray[np.bool_]) -> list[BeatRejection | None]:
    return beat_rejections(beats, correlation, has_step, LIMITS)


def test_every_reason_has_a_sentence() -> None:
    assert set(BEAT_REJECTION_TEXT) == set(BeatRejection)
    assert all(text.endswith(".") for text in BEAT_REJECTION_TEXT.values())


def test_the_amplitude_is_that_of_the_qrs_complex_alone() -> None:
    beats = np.zeros((1, 120))
    beats[0, [38, 42, 80]] = 1.0, -0.5, 9.0
    np.testing.assert_allclose(qrs_amplitude(beats), [1.5])


def test_each_rule_has_its_reason() -> None:
    beats = np.stack([beat(), beat(), beat(0.05), beat(7.0), beat()])
    correlation = np.array([0.99, 0.99, 0.99, 0.99, 0.89])
    has_step = np.array([False, True, False, False, False])
    assert judge(beats, correlation, has_step) == [None, STEP, AMPLITUDE, AMPLITUDE, UNLIKE]


def test_the_first_rule_that_fails_is_the_reason() -> None:
    beats = np.stack([beat(7.0), beat(7.0)])
    assert judge(beats, np.zeros(2), np.array([True, False])) == [STEP, AMPLITUDE]


def test_exactly_at_a_limit_is_allowed() -> None:
    beats = np.zeros((2, 120))
    beats[:, 40] = LIMITS.min_amplitude_mv, LIMITS.max_amplitude_mv
    at = np.full(2, LIMITS.min_beat_correlation)
    assert judge(beats, at, np.zeros(2, dtype=bool)) == [None, None]


def test_a_correlation_that_is_no_number_is_unlike() -> None:
    assert judge(beat()[None], np.array([np.nan]), np.zeros(1, dtype=bool)) == [UNLIKE]


def test_nothing_is_rejected_where_rejection_is_off() -> None:
    off = QualitySettings(reject=False)
    assert beat_rejections(beat(7.0)[None], np.zeros(1), np.ones(1, dtype=bool), off) == [None]


def test_rejections_are_counted_in_the_order_of_the_rules() -> None:
    counted = count_rejections([UNLIKE, None, EDGE, UNLIKE])
    assert list(counted.items()) == [(EDGE, 1), (UNLIKE, 2)]
    assert count_rejections([None, None]) == {}


def span_of(peaks: npt.NDArray[np.int64]) -> Array:
    signal = np.zeros(len(TIME))
    for peak in peaks:
        signal[peak - 40 : peak + 80] += beat()
    return signal


PEAKS = np.arange(100, 4900, 125)


def test_without_its_beats_a_signal_of_equal_beats_is_nothing() -> None:
    np.testing.assert_allclose(without_beats(span_of(PEAKS), PEAKS, beat()), 0, atol=1e-12)


def test_without_beats_works_for_hearts_so_fast_that_the_windows_overlap() -> None:
    peaks = np.arange(100, 4900, 50)
    short = beat()
    short[90:] = 0
    signal = np.zeros(len(TIME))
    for peak in peaks:
        signal[peak - 20 : peak + 30] = short[20:70]
    assert np.abs(without_beats(signal, peaks, short)[200:4700]).max() < 1e-12
    assert len(without_beats(signal, peaks[:0], short)) == len(signal)


def test_a_jump_is_found_where_it_is() -> None:
    rest = np.where(np.arange(1000) < 500, 0.0, 0.8)
    jumps = base_line_jumps(rest, 0.5)
    assert len(jumps) > 0
    assert (np.abs(jumps - 500) <= 3).all()
    np.testing.assert_array_equal(base_line_jumps(-rest, 0.5), jumps)
    assert len(base_line_jumps(0.5 * rest, 0.5)) == 0


@pytest.mark.parametrize(
    ("name", "wave"),
    [
        ("deep breathing", 1.0 * np.sin(2 * np.pi * 0.3 * TIME)),
        ("a cough", 1.5 * np.exp(-0.5 * ((TIME - 20) / 0.3) ** 2)),
        ("a spike", np.where(np.abs(TIME - 20) < 0.03, 3.0, 0.0)),
        ("a wide ectopic complex", 2.0 * np.exp(-0.5 * ((TIME - 20) / 0.035) ** 2)),
        ("a tall T wave", 1.2 * np.exp(-0.5 * ((TIME - 20) / 0.045) ** 2)),
        ("nothing", np.zeros(len(TIME))),
    ],
)
def test_what_is_slow_and_what_is_over_at_once_is_no_jump(name: str, wave: Array) -> None:
    assert len(base_line_jumps(bandpass(wave, 125.0, SignalSettings()), LIMITS.max_step_mv)) == 0, name


def test_a_jump_survives_the_filter() -> None:
    rest = bandpass(np.where(np.arange(5000) < 2500, 0.0, 1.0), 125.0, SignalSettings())
    jumps = base_line_jumps(rest, LIMITS.max_step_mv)
    assert len(jumps) > 0
    assert (np.abs(jumps - 2500) <= 4).all()


def test_noise_that_is_not_large_has_no_jump() -> None:
    assert len(base_line_jumps(0.1 * stream("jumps").standard_normal(50_000), LIMITS.max_step_mv)) == 0


def test_a_signal_shorter_than_the_search_has_no_jump() -> None:
    for length in (0, 1, 3, 4):
        assert len(base_line_jumps(np.zeros(length), 0.5)) == 0


def test_a_beat_holds_a_jump_inside_its_120_samples() -> None:
    peaks = np.array([100, 300])
    inside = {at: list(holds_jump(peaks, np.array([at]))) for at in (59, 60, 179, 180, 259, 260)}
    assert inside == {
        59: [False, False],
        60: [True, False],
        179: [True, False],
        180: [False, False],
        259: [False, False],
        260: [False, True],
    }
    assert not holds_jump(peaks, np.empty(0, dtype=np.int64)).any()

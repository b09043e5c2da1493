"""A beat is 120 samples with its R peak at index 40."""

from __future__ import annotations

import numpy as np

from client.data.ecg.beats import BEAT_SAMPLES, R_INDEX, RATE_HZ, cut_beats, rr_intervals


def test_a_beat_is_960_ms_with_320_ms_before_r() -> None:
    assert BEAT_SAMPLES / RATE_HZ == 0.96
    assert R_INDEX / RATE_HZ == 0.32


def test_the_r_peak_is_the_41st_sample() -> None:
    signal = np.arange(1000.0)
    beats, kept = cut_beats(signal, np.array([200, 500]))
    assert beats.shape == (2, 120)
    assert beats.dtype == np.float32
    np.testing.assert_array_equal(beats[:, 40], [200, 500])
    np.testing.assert_array_equal(beats[0], np.arange(160, 280))
    np.testing.assert_array_equal(kept, [0, 1])


def test_beats_that_leave_the_signal_are_dropped() -> None:
    signal = np.zeros(500)
    _, kept = cut_beats(signal, np.array([-5, 39, 40, 420, 421, 600]))
    np.testing.assert_array_equal(kept, [2, 3])


def test_no_peaks_give_no_beats() -> None:
    beats, kept = cut_beats(np.zeros(500), np.array([], dtype=np.int64))
    assert beats.shape == (0, 120)
    assert len(kept) == 0


def test_rr_before_and_after() -> None:
    before, after = rr_intervals(np.array([1.0, 1.8, 2.5]))
    np.testing.assert_allclose(before, [np.nan, 0.8, 0.7])
    np.testing.assert_allclose(after, [0.8, 0.7, np.nan])


def test_a_single_beat_has_no_rr() -> None:
    before, after = rr_intervals(np.array([1.0]))
    assert np.isnan(before).all()
    assert np.isnan(after).all()

"""Waves stand where and as high as their numbers say, at every sampling rate and in every rhythm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulation.cohort.ecg import MARGIN_S, Waves, add_waves, synthesize
from simulation.cohort.rhythm import ATRIAL, FIBRILLATING, PACED, SINUS, VENTRICULAR, Rhythm
from simulation.cohort.shape import Shape, seen_from

RATE = 125.0


def regular(interval_s: float, n: int = 40, kind: int = SINUS) -> Rhythm:
    times = -1.4 + interval_s * np.arange(n)
    return Rhythm(times, np.full(n, kind, np.int8), kind == FIBRILLATING, 0.25, 0.0)


SIMPLE = Shape(
    **{
        name: np.full(40, value)
        for name, value in {
            "rate": 60.0, "p": 0.1, "q": 0.0, "r": 1.0, "s": 0.0, "t": 0.3, "u": 0.0, "st": 0.0, "pr": 0.16,
            "qt": 0.40, "qrs_width": 0.012, "notch": 0.0, "s_width": 1.0, "p_width": 0.02, "t_width": 0.036,
            "t_asymmetry": 1.4, "sagging": 0.0, "ventricular": -1.0, "ventricular_width": 0.022,
            "ventricular_st": 0.08, "ventricular_t": 0.4, "spike": 0.0,
        }.items()
    }
)  # fmt: skip


def without(*names: str, **others: float) -> Shape:
    changed = dict.fromkeys(names, 0.0) | others
    return replace(SIMPLE, **{name: np.full(40, value) for name, value in changed.items()})


def test_r_peaks_stand_where_the_rhythm_says() -> None:
    rhythm = regular(1.0)
    signal = synthesize(without("t", "p"), rhythm, 20.0, 1000.0)
    for time in rhythm.within(20.0):
        at = round(time * 1000)
        assert np.argmax(signal[max(at - 200, 0) : at + 200]) == min(at, 200)


def test_pr_is_the_time_from_p_to_qrs() -> None:
    signal = synthesize(without("t", pr=0.20), regular(1.0), 20.0, 1000.0)
    at = round(3.6 * 1000)
    before = signal[at - 400 : at]
    onset_p = np.flatnonzero(before > 0.003)[0]
    # QRS begins about 45 ms before its peak.
    assert (400 - 45 - onset_p) / 1000 == pytest.approx(0.20, abs=0.012)


def test_t_comes_earlier_when_the_heart_beats_faster() -> None:
    def t_delay(interval: float) -> float:
        signal = synthesize(without("p"), regular(interval), 10.0, 500.0)
        start = round((-1.4 + 8 * interval) * 500)
        return float(np.argmax(signal[start + 50 : start + 200]))

    assert t_delay(1.0) > t_delay(0.7) > t_delay(0.5)


def test_qt_follows_the_heart_rate_with_a_lag() -> None:
    intervals = np.concatenate([np.full(200, 1.0), np.full(400, 0.6)])
    times = -1.4 + np.cumsum(intervals)
    rhythm = Rhythm(times, np.zeros(600, np.int8), False, 0.25, 0.0)
    row = Shape(**{name: np.full(600, value[0]) for name, value in vars(without("p")).items()})
    signal = synthesize(row, rhythm, float(times[-1]) - 2.0, 250.0)

    def delay(beat: int) -> float:
        at = round(times[beat] * 250)
        return float(np.argmax(signal[at + 25 : at + 110]) + 25) / 250

    assert delay(190) > delay(203) > delay(230) > delay(590)


def test_at_a_fast_rate_p_rides_on_t() -> None:
    rhythm = regular(60 / 135)
    signal = synthesize(SIMPLE, rhythm, 10.0, 500.0)
    at = round((-1.4 + 9 * 60 / 135) * 500)
    assert signal[at + 60 : at + 145].min() > 0.02  # no line between T and the next P


def test_sampling_rate_changes_nothing_but_the_grid() -> None:
    rhythm = regular(0.8)
    coarse, fine = (synthesize(SIMPLE, rhythm, 20.0, rate) for rate in (125.0, 500.0))
    np.testing.assert_allclose(coarse, fine[::4], atol=1e-3)
    assert len(synthesize(SIMPLE, rhythm, 20.0, 249.89)) == round(20 * 249.89)


def test_signal_is_proportional_to_its_amplitudes() -> None:
    double = replace(SIMPLE, p=2 * SIMPLE.p, r=2 * SIMPLE.r, t=2 * SIMPLE.t)
    once = synthesize(SIMPLE, regular(0.8), 20.0, RATE)
    np.testing.assert_allclose(synthesize(double, regular(0.8), 20.0, RATE), 2 * once, atol=1e-5)


def test_waves_are_gaussians_with_two_sides_and_add_up_where_they_overlap() -> None:
    n = round((3.0 + 2 * MARGIN_S) * 500)
    time = np.arange(n) / 500 - MARGIN_S
    waves = Waves(np.array([0.9, 1.0]), np.array([0.3, -0.2]), np.array([0.05, 0.02]), np.array([0.03, 0.04]))
    total = np.zeros(n, np.float32)
    add_waves(total, waves, 500.0)
    expected = np.zeros(n)
    for center, amplitude, left, right in zip(*waves, strict=True):
        side = np.where(time < center, left, right)
        expected += amplitude * np.exp(-0.5 * ((time - center) / side) ** 2)
    np.testing.assert_allclose(total, expected, atol=3e-4)
    outside = np.abs(time - 0.95) > 0.3
    assert np.abs(total[outside]).max() == 0.0


def test_waves_beyond_the_ends_are_left_out() -> None:
    total = np.zeros(round(2 * MARGIN_S * RATE), np.float32)
    add_waves(total, Waves(np.array([-9.0, 9.0]), np.ones(2), np.full(2, 0.1), np.full(2, 0.1)), RATE)
    assert not total.any()


def test_in_fibrillation_there_is_no_p_and_the_line_trembles() -> None:
    quiet = regular(1.0)
    trembling = regular(1.0, kind=FIBRILLATING)
    with_p = synthesize(without("t", "r"), quiet, 20.0, 500.0)
    waves = synthesize(without("t", "r"), trembling, 20.0, 500.0)
    assert with_p.max() > 0.09
    strength = np.abs(np.fft.rfft(waves * np.hanning(len(waves))))
    peak_hz = np.fft.rfftfreq(len(waves), 1 / 500)[np.argmax(strength)]
    assert 4.0 < peak_hz < 9.0
    assert 0.03 < np.ptp(waves) < 0.3


def test_a_ventricular_beat_is_wide_with_the_opposite_t_and_hides_a_p_on_time() -> None:
    kinds = np.zeros(40, np.int8)
    times = -1.4 + 0.9 * np.arange(40)
    kinds[10] = VENTRICULAR
    times[10] -= 0.35 * 0.9
    rhythm = Rhythm(times, kinds, False, 0.25, 0.0)
    alone = replace(without("t", "r", "u", rate=60 / 0.9), ventricular=np.full(40, 1e-9))
    signal = synthesize(
        replace(alone, ventricular_t=0 * alone.t, ventricular_st=0 * alone.t), rhythm, 20.0, 500.0
    )
    at = np.flatnonzero((signal[1:-1] > signal[:-2]) & (signal[1:-1] >= signal[2:]) & (signal[1:-1] > 0.05))
    # P waves march through: all intervals are those of the sinus node.
    np.testing.assert_allclose(np.diff(at) / 500, 0.9, atol=0.01)
    full = synthesize(SIMPLE, rhythm, 20.0, 500.0)
    begin = round(times[10] * 500)
    assert full[begin] < -0.8
    assert full[begin + 80 : begin + 220].max() > 0.3


def test_an_early_atrial_beat_has_a_smaller_p_and_its_own_narrow_qrs() -> None:
    kinds = np.zeros(40, np.int8)
    kinds[10] = ATRIAL
    times = -1.4 + 0.9 * np.arange(40)
    signal = synthesize(without("t"), Rhythm(times, kinds, False, 0.25, 0.0), 20.0, 500.0)
    p = [signal[round(t * 500) - 120 : round(t * 500) - 35].max() for t in times[8:13]]
    assert p[2] < 0.8 * p[1]
    r = [signal[round(t * 500)] for t in times[8:13]]
    assert min(r) > 0.9 * max(r)


def test_pacing_spikes_stand_out_at_a_high_rate_and_keep_their_area_at_a_low_one() -> None:
    paced = replace(SIMPLE, spike=np.full(40, 2.0))
    rhythm = regular(0.85, kind=PACED)
    for rate in (500.0, 1000.0, 250.0, 125.0):
        spikes = synthesize(paced, rhythm, 20.0, rate) - synthesize(SIMPLE, rhythm, 20.0, rate)
        per_beat = spikes.sum() / rate / len(rhythm.within(20.0))
        assert per_beat == pytest.approx(1.7 * 2.0 * 0.002, rel=0.08)
        assert spikes.max() == pytest.approx(2.0 * min(0.002 * rate, 1.0), rel=0.01)
    assert np.sum(spikes > 0) == pytest.approx(2 * len(rhythm.within(20.0)), abs=2)


def test_breathing_moves_amplitudes() -> None:
    signal = synthesize(SIMPLE, regular(0.8), 20.0, 1000.0)
    r = [signal[round(t * 1000)] for t in regular(0.8).within(20.0)]
    assert 0.05 < np.ptp(r) < 0.15


def test_other_leads_show_a_small_r_and_a_deep_s() -> None:
    for lead in ("V", "MCL1"):
        seen = seen_from(without(s=-0.2), lead)
        assert seen.r[0] < 0.6
        assert seen.s[0] <= -0.5
    assert seen_from(SIMPLE, "II") is SIMPLE

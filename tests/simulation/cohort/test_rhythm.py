"""Hearts beat as in sinus rhythm, with early beats, in fibrillation and with a pacemaker."""

from __future__ import annotations

import numpy as np
import pytest

from common.seeding import stream
from simulation.cohort.rhythm import (
    ATRIAL,
    FIBRILLATING,
    LEAD_IN_S,
    PACED,
    SINUS,
    VENTRICULAR,
    make_rhythm,
)


@pytest.mark.parametrize("rate", [45.0, 90.0, 140.0])
def test_rate_and_duration_are_kept(rate: float) -> None:
    rhythm = make_rhythm(stream("rate", rate), 600.0, rate)
    assert len(rhythm.within(600.0)) == pytest.approx(10 * rate, rel=0.02)
    assert -LEAD_IN_S <= rhythm.times[0] < 0.0 < 600.0 < rhythm.times[-1] < 600.0 + LEAD_IN_S
    assert (np.diff(rhythm.times) > 0).all()


def test_rate_follows_its_course() -> None:
    course = np.linspace(60.0, 120.0, 40)
    rhythm = make_rhythm(stream("course"), 600.0, course)
    first, last = rhythm.within(60.0), rhythm.times[rhythm.times > 540.0]
    assert 60.0 / np.diff(first).mean() == pytest.approx(63.0, rel=0.03)
    assert 60.0 / np.diff(last).mean() == pytest.approx(117.0, rel=0.03)


def test_sinus_rhythm_breathes() -> None:
    rhythm = make_rhythm(stream("breath"), 600.0, 80.0)
    interval = np.diff(rhythm.times)
    assert 0.005 < np.std(interval) / np.mean(interval) < 0.05
    middle = rhythm.times[:-1]
    turn = np.exp(2j * np.pi * rhythm.respiration_hz * middle)
    at_breathing = abs(np.mean((interval - interval.mean()) * turn))
    elsewhere = abs(np.mean((interval - interval.mean()) * np.exp(2j * np.pi * 0.157 * middle)))
    assert at_breathing > 2 * elsewhere


def test_fibrillation_is_irregular_without_memory() -> None:
    rhythm = make_rhythm(stream("af"), 1800.0, 90.0, fibrillation=True)
    interval = np.diff(rhythm.times)
    assert rhythm.fibrillation
    assert (rhythm.kinds == FIBRILLATING).all()
    assert np.std(interval) / np.mean(interval) > 0.17
    assert abs(np.corrcoef(interval[1:], interval[:-1])[0, 1]) < 0.1
    assert interval.min() > 0.39
    assert 60.0 / interval.mean() == pytest.approx(90.0, rel=0.04)


def test_a_paroxysm_begins_inside_a_stretch() -> None:
    begun = np.arange(41) >= 20
    rhythm = make_rhythm(stream("paroxysm"), 600.0, np.full(41, 80.0), fibrillation=begun)
    assert set(rhythm.kinds[rhythm.times < 280.0]) == {SINUS}
    assert set(rhythm.kinds[rhythm.times > 320.0]) == {FIBRILLATING}


@pytest.mark.parametrize("rate", [60.0, 75.0, 100.0])
def test_pause_after_a_ventricular_beat_is_fully_compensatory(rate: float) -> None:
    rhythm = make_rhythm(stream("pvc", rate), 1800.0, rate, ectopic_share=0.05)
    interval = np.diff(rhythm.times)
    at = np.flatnonzero(rhythm.kinds[1:-2] == VENTRICULAR) + 1
    at = at[rhythm.kinds[at + 1] == SINUS]
    assert len(at) > 10
    before, after = interval[at - 1], interval[at]
    assert (before > 0.40).all()
    assert (before < 0.85 * 60 / rate).all()
    np.testing.assert_allclose(before + after, 2 * 60 / rate, rtol=0.08)


def test_pause_after_an_early_atrial_beat_is_less_than_compensatory() -> None:
    rhythm = make_rhythm(stream("pac"), 3600.0, 75.0, ectopic_share=0.04)
    interval = np.diff(rhythm.times)
    at = np.flatnonzero(rhythm.kinds[1:-2] == ATRIAL) + 1
    at = at[rhythm.kinds[at + 1] == SINUS]
    assert len(at) > 30
    assert (interval[at - 1] < 0.88 * 0.8).all()
    assert np.median(interval[at]) >= 0.95 * 0.8
    assert np.median(interval[at - 1] + interval[at]) < 1.96 * 0.8


def test_early_beats_are_as_frequent_as_asked_and_never_two_in_a_row() -> None:
    rhythm = make_rhythm(stream("share"), 3600.0, 80.0, ectopic_share=0.05)
    early = rhythm.kinds != SINUS
    assert early.mean() == pytest.approx(0.05, abs=0.012)
    assert not (early[1:] & early[:-1]).any()
    assert np.mean(rhythm.kinds[early] == VENTRICULAR) == pytest.approx(1 / 3, abs=0.12)


def test_a_pacemaker_beats_at_its_rate() -> None:
    rhythm = make_rhythm(stream("paced"), 600.0, 70.0, ectopic_share=0.05, paced=True)
    assert (rhythm.kinds == PACED).all()
    np.testing.assert_allclose(np.diff(rhythm.times), 60 / 70, atol=1e-6)


@pytest.mark.parametrize("seconds", [1.0, 7.0])
def test_short_stretches_have_beats_around_them(seconds: float) -> None:
    for number in range(20):
        rhythm = make_rhythm(stream("short", number), seconds, 40.0, fibrillation=number % 2 == 1)
        assert rhythm.times[0] < 0.2
        assert len(rhythm.times) == len(rhythm.kinds) >= 2


def test_same_stream_same_beats() -> None:
    one, other = (make_rhythm(stream("same"), 60.0, 80.0, 0.1) for _ in range(2))
    np.testing.assert_array_equal(one.times, other.times)
    np.testing.assert_array_equal(one.kinds, other.kinds)

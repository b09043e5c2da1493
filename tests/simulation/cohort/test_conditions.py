"""Electrodes, posture, ischemia and fibrillation change over a stay as at the bedside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from common.seeding import stream
from simulation.cohort.conditions import Conditions, Effects, episodes, make_conditions
from simulation.cohort.parameters import Parameter
from simulation.cohort.patient import Patient, make_patient
from simulation.cohort.profile import PROFILES

DAY_S = 86400.0
WEEKS = 28 * 24.0


def patient(**changes: object) -> Patient:
    healthy = make_patient(PROFILES["north"], "usual", 1, stream("patient"))
    return replace(healthy, **({"rhythm": "sinus", "ischemia": False} | changes))  # type: ignore[arg-type]


def stays(n: int, hours: float = WEEKS, **changes: object) -> list[Conditions]:
    who = patient(**changes)
    return [make_conditions(stream("stay", i), who, 13 * 3600.0, hours) for i in range(n)]


@pytest.mark.parametrize(
    ("name", "deviation"),
    [
        ("rate", 8.0),
        ("pr", 0.006),
        ("qt", 0.010),
        ("st", 0.015),
        ("t_width", 0.07),
        ("t", np.hypot(0.12, 0.12)),  # posture and the day's electrodes
        ("r", np.hypot(0.12, 0.04)),
        ("p", np.hypot(0.15, 0.10)),
    ],
)
def test_strips_far_apart_differ_by_the_published_spread(name: str, deviation: float) -> None:
    hours = np.arange(0.0, WEEKS, 6.0) * 3600.0
    values = np.concatenate([getattr(c.at(hours), name) for c in stays(12)])
    if name in ("t_width", "t", "r", "p"):
        values = np.log(values)
    assert np.std(values) == pytest.approx(deviation, rel=0.1)
    assert np.mean(values) == pytest.approx(0.0, abs=0.15 * deviation)


def test_tone_forgets_within_hours_and_not_within_minutes() -> None:
    (stay,) = stays(1)
    minutes = stay.at(np.arange(0.0, WEEKS * 3600, 60.0))

    def correlation(values: npt.NDArray[np.float64], lag: int) -> float:
        return float(np.corrcoef(values[lag:], values[:-lag])[0, 1])

    # Time constants: an hour for autonomic tone, two for posture.
    assert correlation(minutes.rate, 60) == pytest.approx(np.exp(-1), abs=0.12)
    assert correlation(np.log(minutes.t_width), 120) == pytest.approx(np.exp(-1), abs=0.12)
    assert correlation(minutes.rate, 1) > 0.97
    assert abs(correlation(minutes.rate, 600)) < 0.15


def test_electrodes_are_placed_anew_each_morning_and_only_then() -> None:
    (stay,) = stays(1)
    first_morning = (24 - 13 + 6) * 3600.0  # the stay begins at 13:00
    s_wave = stay.at(np.arange(0.0, 10 * DAY_S, 600.0)).s  # nothing but electrodes moves it
    changes = np.flatnonzero(np.abs(np.diff(s_wave)) > 1e-6) * 600.0
    np.testing.assert_allclose(
        changes, first_morning - 600.0 + DAY_S * np.arange(10)[: len(changes)], atol=600
    )
    assert len(changes) == 10


def test_ischemia_takes_a_twentieth_of_all_time_and_only_in_coronary_disease() -> None:
    shares = [np.mean(c.grid[8] != 0.0) for c in stays(25, ischemia=True)]
    assert 0.35 * np.mean(shares) == pytest.approx(0.05, abs=0.012)  # 35 % have coronary disease
    assert all((c.grid[8] == 0.0).all() for c in stays(3))


def test_an_ischemic_episode_comes_and_goes_within_minutes_and_has_the_sign_of_its_vessel() -> None:
    for stay in stays(10, ischemia=True):
        shift = stay.at(np.arange(0.0, WEEKS * 3600, 60.0)).ischemia
        assert not ((shift > 0).any() and (shift < 0).any())
        assert np.abs(np.diff(shift)).max() < 0.25
    strongest = [np.abs(stay.grid[8]).max() for stay in stays(10, ischemia=True)]
    assert 0.1 < np.median(strongest) < 0.6


def test_paroxysms_last_hours_and_beat_faster() -> None:
    found = stays(25, rhythm="paroxysmal")
    assert np.mean([c.fibrillation.mean() for c in found]) == pytest.approx(0.35, abs=0.06)
    seconds = np.arange(0.0, WEEKS * 3600, 60.0)
    effects = [c.at(seconds) for c in found]
    inside = np.concatenate([e.rate[e.fibrillation] for e in effects])
    outside = np.concatenate([e.rate[~e.fibrillation] for e in effects])
    assert inside.mean() - outside.mean() == pytest.approx(18.0, abs=1.5)
    switches = np.mean([np.abs(np.diff(c.fibrillation.astype(int))).sum() for c in found])
    assert 50 < switches < 150  # two to five switches a day
    assert all(c.fibrillation.all() for c in stays(2, rhythm="fibrillation"))


def test_a_longer_stay_begins_like_a_shorter_one() -> None:
    who = patient(ischemia=True, rhythm="paroxysmal")
    short, long = (make_conditions(stream("same"), who, 0.0, hours) for hours in (20.0, 300.0))
    minutes = short.grid.shape[1]
    np.testing.assert_array_equal(short.grid, long.grid[:, :minutes])
    np.testing.assert_array_equal(short.fibrillation, long.fibrillation[:minutes])


def test_moments_may_be_asked_in_any_order_and_number() -> None:
    (stay,) = stays(1, ischemia=True)
    seconds = stream("moments").uniform(-5.0, WEEKS * 3600 + 60.0, 200)
    together = stay.at(seconds)
    for i in (0, 17, 199):
        alone = stay.at(seconds[i : i + 1])
        assert alone.t[0] == together.t[i]
        assert alone.ischemia[0] == together.ischemia[i]
    assert together.t.shape == (200,)
    # Before and after the stay its ends hold.
    assert stay.at(np.array([-100.0])).t[0] == stay.at(np.array([0.0])).t[0]
    assert np.isfinite(stay.at(np.array([1e9])).rate).all()


def test_no_effects_leave_the_beat_alone() -> None:
    nothing = Effects.none(3)
    for name in ("p", "q", "r", "s", "t", "t_width"):
        np.testing.assert_array_equal(getattr(nothing, name), 1.0)
    for name in ("rate", "st", "ischemia", "pr", "qt"):
        np.testing.assert_array_equal(getattr(nothing, name), 0.0)
    assert not nothing.fibrillation.any()


def test_episodes_fill_their_share_in_order() -> None:
    found = episodes(stream("episodes"), 400_000, 0.2, Parameter(60.0, 0.5, "min", "test"))
    starts, ends = np.array(found).T
    assert (starts[1:] > ends[:-1]).all()
    assert (ends - starts).sum() / 400_000 == pytest.approx(0.2, abs=0.02)
    assert np.median(ends - starts) == pytest.approx(60.0, rel=0.05)


def test_q_and_s_change_with_the_same_electrode_and_p_with_another() -> None:
    effects = [c.at(np.array([36.0 * 3600])) for c in stays(150)]
    p, q, s = (np.log([float(getattr(e, name)[0]) for e in effects]) for name in "pqs")
    np.testing.assert_allclose(q, s, rtol=1e-5)
    assert abs(np.corrcoef(p, s)[0, 1]) < 0.25

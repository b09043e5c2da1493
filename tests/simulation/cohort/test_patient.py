"""The cohort's patients have the diseases, rhythms and sensitivities that the profile and sources name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from common.seeding import stream
from simulation.cohort.patient import Patient, Role, make_beat, make_patient
from simulation.cohort.profile import PROFILES, CaseMix, SiteProfile

N = 1500


@cache
def patients(role: Role, site: str = "north") -> list[Patient]:
    return [make_patient(PROFILES[site], role, i, stream("many", role, i)) for i in range(N)]


def share(of: list[Patient], condition: Callable[[Patient], bool]) -> float:
    return float(np.mean([condition(p) for p in of]))


def test_the_profile_decides_who_is_treated() -> None:
    mix = PROFILES["harbor"].patients
    found = patients("usual", "harbor")
    assert share(found, lambda p: p.sex == "F") == pytest.approx(mix.female_share, abs=0.04)
    assert share(found, lambda p: p.ethnicity == "WHITE") == pytest.approx(mix.white_share, abs=0.04)
    black = share(found, lambda p: p.ethnicity == "BLACK/AFRICAN AMERICAN")
    assert black == pytest.approx(mix.black_share, abs=0.03)
    assert share(found, lambda p: p.paced) == pytest.approx(mix.paced_share, abs=0.015)
    fibrillation = share(found, lambda p: p.rhythm != "sinus")
    assert fibrillation == pytest.approx(mix.fibrillation_share, abs=0.025)
    assert np.mean([p.age for p in found]) == pytest.approx(mix.age_mean, abs=1.5)


def test_roles_have_their_kidneys() -> None:
    assert share(patients("dialysis"), lambda p: p.esrd) == 1.0
    assert share(patients("injury"), lambda p: p.aki and not p.esrd) == 1.0
    assert share(patients("usual"), lambda p: p.esrd) == 0.0
    assert share(patients("personal"), lambda p: p.esrd or p.aki) == 1.0
    assert not any(p.esrd and p.aki for p in patients("personal"))


def test_personal_patients_are_younger_and_their_strips_usable() -> None:
    personal = patients("personal")
    assert not any(p.paced or p.rhythm != "sinus" for p in personal)
    # Published: 50 against 64 years.
    younger = np.mean([p.age for p in patients("usual")]) - np.mean([p.age for p in personal])
    assert younger == pytest.approx(14.0, abs=2.0)


def test_hypertrophy_is_common_in_end_stage_renal_disease() -> None:
    assert share(patients("dialysis"), lambda p: p.lvh) == pytest.approx(0.45, abs=0.05)
    assert share(patients("usual"), lambda p: p.lvh) == pytest.approx(0.15, abs=0.04)
    assert 0.2 < share([p for p in patients("dialysis") if p.lvh], lambda p: p.strain) < 0.5


def test_sensitivity_to_potassium_has_the_published_mean() -> None:
    found = patients("dialysis") + patients("usual")

    def mean(name: str) -> float:
        return float(np.mean([getattr(p.sensitivity, name) for p in found]))

    assert mean("t_amplitude") == pytest.approx(0.33, rel=0.07)
    assert mean("t_width") == pytest.approx(0.13, rel=0.07)
    assert mean("pr") == pytest.approx(0.0163, rel=0.08)
    t = np.array([p.sensitivity.t_amplitude for p in found])
    assert np.std(t) / np.mean(t) == pytest.approx(0.65, abs=0.12)


def test_some_patients_hardly_respond_in_any_respect() -> None:
    found = patients("dialysis") + patients("usual")
    t = np.array([p.sensitivity.t_amplitude for p in found])
    width = np.array([p.sensitivity.t_width for p in found])
    weak = t < 0.3 * t.mean()
    assert 0.06 < weak.mean() < 0.25
    assert np.median(width[weak]) < 0.4 * np.median(width)
    assert (t > 0).all()


def test_diseases_shape_the_beat() -> None:
    def beats(n: int = 200, **disease: object) -> list[dict[str, float]]:
        return [vars(make_beat(stream("b", i), **disease)) for i in range(n)]  # type: ignore[arg-type]

    healthy = beats()

    def change(name: str, **disease: object) -> float:
        pairs = zip(healthy, beats(**disease), strict=True)
        return float(np.mean([sick[name] - well[name] for well, sick in pairs]))

    # The same stream draws the same person, so each difference is the disease alone.
    assert change("qtc", amiodarone=True) == pytest.approx(0.035)
    assert change("qtc", digoxin=True) == pytest.approx(-0.020)
    assert change("u", amiodarone=True) > 0.02
    assert change("st", digoxin=True) < -0.05
    assert change("rate", lvh=True) == 0.0
    assert np.mean([b["r"] for b in beats(lvh=True)]) / np.mean([b["r"] for b in healthy]) == pytest.approx(
        1.35
    )
    assert all(b["t"] < 0 for b in beats(lvh=True, strain=True))
    assert all(b["t"] < 0 and b["r"] > 0 for b in beats(block="left"))
    assert all(b["s"] < 0 and b["s_width"] > 2 for b in beats(block="right"))
    assert all(b["spike"] > 0 for b in beats(paced=True))
    assert all(b["spike"] == 0 for b in healthy)


def test_a_site_may_have_only_paced_or_only_fibrillating_patients() -> None:
    for mix, expected in (
        (CaseMix(paced_share=1.0, fibrillation_share=0.0), lambda p: p.paced),
        (CaseMix(fibrillation_share=1.0, paced_share=0.0), lambda p: p.rhythm != "sinus"),
        (CaseMix(fibrillation_share=0.0, paced_share=0.0), lambda p: p.rhythm == "sinus" and not p.paced),
    ):
        profile = SiteProfile(name="only", patients=mix)
        assert all(expected(make_patient(profile, "usual", i, stream("only", i))) for i in range(40))


def test_same_stream_same_patient() -> None:
    one, other = (make_patient(PROFILES["north"], "injury", 3, stream("same")) for _ in range(2))
    assert one == other
    assert one != make_patient(PROFILES["north"], "injury", 3, stream("another"))

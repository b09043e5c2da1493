"""The case mix of a synthetic site against the laboratory table of real patients, quantity by quantity.

The real table holds 100 patients. How far its own quantities would move with another 100 patients was
estimated by drawing patients again with replacement; no tolerance is wider than three such standard errors.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from common.seeding import stream
from simulation.cohort.labs import SERUM, WHOLE_BLOOD
from simulation.cohort.patient import Role
from simulation.cohort.profile import PROFILES, CohortSizes
from simulation.cohort.stay import PatientPlan, plan_patient

PATIENTS = 800  # many, so that the comparison is as uncertain as the real table and no more
SEED = 7


@dataclass(frozen=True)
class Result:
    """One potassium result: patient, ICU stay if any, hours, item, mEq/L."""

    patient: int
    stay: int | None
    hours: float
    item: int
    value: float


Results = Sequence[Result]


def natural_plans(site: str, patients: int, seed: int = SEED) -> Iterator[PatientPlan]:
    """Plan patients in the profile's own shares of roles."""
    profile = PROFILES[site]
    mix = profile.patients
    shares: dict[Role, float] = {
        "injury": mix.injury_share,
        "dialysis": mix.dialysis_share,
        "personal": mix.long_dialysis_share,
    }
    roles = [role for role, share in shares.items() for _ in range(round(patients * share))]
    roles += ["usual"] * (patients - len(roles))
    for number, role in enumerate(roles):
        yield plan_patient(profile, CohortSizes(), seed, 100 + number, number, role)


def simulated(plans: Sequence[PatientPlan]) -> list[Result]:
    return [
        Result(number, number if inside else None, draw.minute / 60, draw.item, draw.value)
        for number, plan in enumerate(plans)
        for inside, draws in ((True, plan.draws), (False, plan.outside))
        for draw in draws
        if draw.value is not None
    ]


def real(folder: Path) -> list[Result]:
    def table(name: str) -> list[dict[str, str]]:
        with (folder / f"{name}.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    stays: dict[str, list[tuple[int, datetime, datetime]]] = {}
    for row in table("ICUSTAYS"):
        span = datetime.fromisoformat(row["intime"]), datetime.fromisoformat(row["outtime"])
        stays.setdefault(row["subject_id"], []).append((int(row["icustay_id"]), *span))
    origin = datetime(2100, 1, 1)
    found = []
    for row in table("LABEVENTS"):
        if int(row["itemid"]) in (SERUM, WHOLE_BLOOD) and row["valuenum"]:
            when = datetime.fromisoformat(row["charttime"])
            within = [number for number, a, b in stays.get(row["subject_id"], []) if a <= when <= b]
            found.append(
                Result(
                    int(row["subject_id"]),
                    within[0] if within else None,
                    (when - origin).total_seconds() / 3600,
                    int(row["itemid"]),
                    float(row["valuenum"]),
                )
            )
    return found


def serum(results: Results) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([r.value for r in results if r.item == SERUM])


def by_stay(results: Results) -> list[list[Result]]:
    stays: dict[tuple[int, int], list[Result]] = {}
    for result in results:
        if result.stay is not None:
            stays.setdefault((result.patient, result.stay), []).append(result)
    return [sorted(stay, key=lambda r: r.hours) for stay in stays.values()]


def gaps(results: Results) -> list[float]:
    return [gap for stay in by_stay(results) for gap in np.diff([r.hours for r in stay])]


def stay_values(results: Results) -> list[list[float]]:
    return [[r.value for r in stay] for stay in by_stay(results) if len(stay) > 1]


def lag_one(results: Results) -> float:
    pairs = [pair for values in stay_values(results) for pair in pairwise(values)]
    return float(np.corrcoef(np.array(pairs).T)[0, 1])


def ever_high(results: Results) -> float:
    highest: dict[int, float] = {}
    for r in results:
        if r.item == SERUM:
            highest[r.patient] = max(highest.get(r.patient, 0.0), r.value)
    return float(np.mean(np.array(list(highest.values())) > 5.5))


def twin_spread(results: Results) -> float:
    """Half the central 68 % of serum minus the nearest whole blood of the same stay within half an hour."""
    found = []
    for stay in by_stay(results):
        tubes = [r for r in stay if r.item == SERUM]
        for gas in (r for r in stay if r.item == WHOLE_BLOOD):
            near = min(tubes, key=lambda r: abs(r.hours - gas.hours), default=None)
            if near is not None and abs(near.hours - gas.hours) <= 0.5:
                found.append(near.value - gas.value)
    low, high = np.percentile(found, (16, 84))
    return float(high - low) / 2


def percentile(share: float) -> Callable[[Results], float]:
    return lambda results: float(np.percentile(serum(results), share))


def interval(share: float) -> Callable[[Results], float]:
    return lambda results: float(np.percentile(gaps(results), share))


# quantity, how to measure it, tolerance
QUANTITIES: tuple[tuple[str, Callable[[Results], float], float], ...] = (
    ("serum potassium, mean, mEq/L", lambda r: float(np.mean(serum(r))), 0.12),
    ("SD", lambda r: float(np.std(serum(r))), 0.07),
    ("1st percentile", percentile(1), 0.25),
    ("5th percentile", percentile(5), 0.17),
    ("median", percentile(50), 0.15),
    ("95th percentile", percentile(95), 0.2),
    ("99th percentile", percentile(99), 0.35),
    ("share above 5.5", lambda r: float(np.mean(serum(r) > 5.5)), 0.011),
    ("share 5.1 to 5.5", lambda r: float(np.mean((serum(r) > 5.0) & (serum(r) <= 5.5))), 0.015),
    ("share below 3.5", lambda r: float(np.mean(serum(r) < 3.5)), 0.05),
    ("patients ever above 5.5", ever_high, 0.12),
    ("interval in the unit, 10 %, h", interval(10), 1.0),
    ("interval, 25 %, h", interval(25), 1.2),
    ("interval, median, h", interval(50), 1.6),
    ("interval, 75 %, h", interval(75), 2.6),
    ("interval, 90 %, h", interval(90), 2.9),
    ("draws per stay, median", lambda r: float(np.median([len(s) for s in by_stay(r)])), 1.2),
    ("within-stay SD, median", lambda r: float(np.median([np.std(v, ddof=1) for v in stay_values(r)])), 0.08),
    ("between-stay SD of means", lambda r: float(np.std([np.mean(v) for v in stay_values(r)])), 0.13),
    ("correlation with the last draw", lag_one, 0.15),
    ("serum minus whole blood, spread", twin_spread, 0.1),
)


@pytest.fixture(scope="module")
def north() -> list[PatientPlan]:
    return list(natural_plans("north", PATIENTS))


def test_the_natural_case_mix_has_the_marginals_of_real_patients(
    north: list[PatientPlan], real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, found = simulated(north), real(real_data / "mimic3_demo")
    rows = [(name, measure(found), measure(made), tolerance) for name, measure, tolerance in QUANTITIES]
    with capsys.disabled():
        print(f"\n{'quantity':36}{'real':>8}{'simulated':>11}{'tolerance':>11}")
        for name, theirs, ours, tolerance in rows:
            print(f"{name:36}{theirs:8.3f}{ours:11.3f}{tolerance:11.3f}")
    assert [name for name, theirs, ours, tolerance in rows if abs(ours - theirs) > tolerance] == []


def test_no_tolerance_is_wider_than_three_standard_errors_of_the_real_table(real_data: Path) -> None:
    found = real(real_data / "mimic3_demo")
    of: dict[int, list[Result]] = {}
    for result in found:
        of.setdefault(result.patient, []).append(result)
    patients, rng = sorted(of), stream("bootstrap")
    again: dict[str, list[float]] = {name: [] for name, *_ in QUANTITIES}
    for _ in range(60):
        chosen = rng.choice(patients, size=len(patients))
        renamed = [
            Result(number, r.stay, r.hours, r.item, r.value)
            for number, key in enumerate(chosen)
            for r in of[key]
        ]
        for name, measure, _ in QUANTITIES:
            again[name].append(measure(renamed))
    errors = {name: float(np.std(values)) for name, values in again.items()}
    wide = {
        name: (tolerance, errors[name])
        for name, _, tolerance in QUANTITIES
        # values are printed with one decimal: no quantile is known better than that
        if tolerance > max(3 * errors[name], 0.15 if "percentile" in name or name == "median" else 0.0)
    }
    assert wide == {}


@pytest.mark.parametrize(
    ("site", "least", "most"),
    [
        ("north", 0.01, 0.05),
        ("harbor", 0.01, 0.05),
        ("valley", 0.01, 0.05),
        ("river", 0.08, 0.12),
        ("island", 0.01, 0.05),
    ],
)
def test_hyperkalemia_is_as_common_as_its_site_makes_it(site: str, least: float, most: float) -> None:
    item = WHOLE_BLOOD if PROFILES[site].laboratory.whole_blood_only else SERUM
    values = [r.value for r in simulated(list(natural_plans(site, PATIENTS))) if r.item == item]
    assert least <= np.mean(np.array(values) > 5.5) <= most

"""What a site will hold: its patients are really planned, without their signals, and counted."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from simulation.cohort.labs import SERUM, Draw
from simulation.cohort.patient import Role
from simulation.cohort.profile import CohortSizes, SiteProfile
from simulation.cohort.site import role_counts, roles_of
from simulation.cohort.stay import PatientPlan, Stretch, label_of, plan_patient
from simulation.cohort.tables import patient_rows

LABELS = ("positive", "gap", "negative", "low")
SAME_MEASUREMENT_MIN = 30  # draws closer than this are one measurement for the cohort rules
PERSONAL_STRIPS = 8  # of each label, as the default cohort rules ask for
MOST_PLANNED, WITH_ROWS = 200, 4  # per site; per role


@dataclass(frozen=True)
class Forecast:
    """What a site will hold.

    Attributes
    ----------
    roles : patients by role; exact.
    planned : patients that were really planned; the rest is scaled up from them, role by role.
    draws, recorded_draws : potassium draws in the unit, and those with ECG.
    labels : recorded draws by LABELS; "low" is below 3.5 mEq/L.
    personal : patients with 8 strips or more of each label, before signal quality.
    ecg_h, lead_ii_h : hours of ECG, and those with lead II.
    stretches, records : unbroken pieces of ECG, and recordings.
    table_bytes : rows of the patients, uncompressed; from a few patients of each role.
    seconds : processor time for planning all patients and making their rows, s.
    """

    roles: dict[Role, int]
    planned: int
    draws: float = 0.0
    recorded_draws: float = 0.0
    labels: dict[str, float] = field(default_factory=dict)
    personal: float = 0.0
    ecg_h: float = 0.0
    lead_ii_h: float = 0.0
    stretches: float = 0.0
    records: float = 0.0
    table_bytes: float = 0.0
    seconds: float = 0.0

    @property
    def patients(self) -> int:
        """Patients in all."""
        return sum(self.roles.values())


def forecast(profile: SiteProfile, sizes: CohortSizes, seed: int, most: int = MOST_PLANNED) -> Forecast:
    """Plan patients without their signals and count.

    Parameters
    ----------
    profile, sizes, seed : as for ``write_site``.
    most : patients to plan; of a larger site, as many of each role as this allows, scaled up.

    Raises
    ------
    ConfigurationError
        If the site cannot be what is asked for.
    """
    counts = role_counts(profile, sizes)
    limit = sizes.patients if sizes.patients <= most else max(1, most // sum(c > 0 for c in counts.values()))
    planned: Counter[Role] = Counter()
    sums: dict[str, float] = defaultdict(float)
    for number, (subject, role) in enumerate(roles_of(profile, sizes, seed)):
        if planned[role] == limit:
            continue
        planned[role] += 1
        begun = time.process_time()
        plan = plan_patient(profile, sizes, seed, subject, number, role)
        found = _counted(plan) | {"seconds": time.process_time() - begun}
        for name, value in found.items():
            sums[name] += value * counts[role] / min(counts[role], limit)
        if planned[role] <= WITH_ROWS:
            begun = time.process_time()
            rows = patient_rows(plan)
            share = counts[role] / min(counts[role], limit, WITH_ROWS)
            sums["seconds"] += share * (time.process_time() - begun)
            sums["table_bytes"] += share * sum(len(line) + 8 for lines in rows.values() for line in lines)
    labels = {label: sums.pop(label) for label in LABELS}
    return Forecast(roles=counts, planned=planned.total(), labels=labels, **sums)


def usable_labels(plan: PatientPlan) -> Counter[str]:
    """Count a patient's strips by label as the cohort rules will, before signal quality and rhythm.

    Draws less than half an hour apart are one measurement, and none if their labels differ.
    """
    gas = plan.profile.laboratory.whole_blood_only
    draws = [
        draw
        for draw in plan.draws
        if draw.reading is not None and (draw.item == SERUM or gas) and _clean(plan, draw)
    ]
    counts: Counter[str] = Counter()
    for group in _measurements(draws):
        labels = {label_of(draw.reading) for draw in group}
        if len(labels) == 1:
            counts[labels.pop()] += 1
    return counts


def _measurements(draws: Iterable[Draw]) -> list[list[Draw]]:
    groups: list[list[Draw]] = []
    for draw in draws:
        if groups and draw.minute - groups[-1][-1].minute < SAME_MEASUREMENT_MIN:
            groups[-1].append(draw)
        else:
            groups.append([draw])
    return groups


def _clean(plan: PatientPlan, draw: Draw) -> bool:
    stretch = plan.stretch_of(draw)
    return stretch is not None and stretch.lead_ii and not stretch.noisy


def _counted(plan: PatientPlan) -> dict[str, float]:
    """Count what one planned patient adds to a site."""
    recorded = [draw for draw in plan.draws if plan.stretch_of(draw) is not None]
    counts: dict[str, float] = dict.fromkeys(LABELS, 0.0)
    for draw in recorded:
        if draw.reading is not None:
            label = label_of(draw.reading)
            counts["low" if label == "excluded" else label] += 1
    usable = usable_labels(plan)
    readable = plan.patient.rhythm != "fibrillation" and not plan.patient.paced
    enough = min(usable["positive"], usable["negative"]) >= PERSONAL_STRIPS
    return counts | {
        "draws": len(plan.draws),
        "recorded_draws": len(recorded),
        "personal": float(enough and readable),
        "ecg_h": _hours(plan.stretches),
        "lead_ii_h": _hours([stretch for stretch in plan.stretches if stretch.lead_ii]),
        "stretches": len(plan.stretches),
        "records": len({stretch.record for stretch in plan.stretches}),
    }


def _hours(stretches: Sequence[Stretch]) -> float:
    return sum(stretch.end_s - stretch.start_s for stretch in stretches) / 3600

"""What a site will hold: its patients are really planned, without their signals, and counted."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from common.errors import ConfigurationError
from simulation.cohort.labs import Draw, measurements
from simulation.cohort.layouts import layout_of
from simulation.cohort.patient import Role
from simulation.cohort.profile import CohortSizes, SiteProfile
from simulation.cohort.recording import leads_of, records_of, wiring_of
from simulation.cohort.site import role_counts, roles_of
from simulation.cohort.stay import PatientPlan, label_of, plan_patient

LABELS = ("positive", "gap", "negative", "low")
TRIED = 12  # personal patients that are planned until one is enough
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
    ecg_h : hours of ECG.
    lead_h, other_h : the same counted once for every lead, and hours of respiration and pulse, h.
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
    lead_h: float = 0.0
    other_h: float = 0.0
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
            rows = layout_of(profile).patient_rows(plan)
            share = counts[role] / min(counts[role], limit, WITH_ROWS)
            sums["seconds"] += share * (time.process_time() - begun)
            sums["table_bytes"] += share * sum(len(line) + 8 for lines in rows.values() for line in lines)
    labels = {label: sums.pop(label) for label in LABELS}
    return Forecast(roles=counts, planned=planned.total(), labels=labels, **sums)


#: What leaves a patient without strips to personalize on when it is high.
_TAKE_STRIPS = (
    "monitor.lead_ii_missing",
    "monitor.noisy_share",
    "patients.fibrillation_share",
    "patients.paced_share",
    "laboratory.draw_interval_h",
)


def check_personal(profile: SiteProfile, sizes: CohortSizes) -> None:
    """Refuse personal patients who were asked for at a site where none can be expected.

    Patients are planned until one has enough usable strips, mostly the first; no signal is made.

    Raises
    ------
    ConfigurationError
        If none of several has.
    """
    if not sizes.personal_patients:
        return
    wanted = min(PERSONAL_STRIPS, sizes.personal_strips)
    for number in range(1, TRIED + 1):
        if _is_personal(plan_patient(profile, sizes, 0, number, number, "personal"), wanted):
            return
    values = [f"{name} = {_value(profile, name):g}" for name in _TAKE_STRIPS]
    raise ConfigurationError(
        f"site {profile.name}: {sizes.personal_patients} personal patients, but none of {TRIED} planned ones "
        f"has {wanted} strips of each label with lead II, without movement and without a rhythm of its own "
        f"({', '.join(values)}); lower the highest of these, or ask for 0 personal patients"
    )


def usable_labels(plan: PatientPlan) -> Counter[str]:
    """Count a patient's strips by label as the cohort rules will, before signal quality and rhythm.

    Whole blood gives way to serum of the same time; draws less than half an hour apart whose labels differ
    are all left out; of those with the same label the first is kept, with or without ECG.
    """
    return Counter(label_of(draw.reading) for draw in measurements(plan.draws) if _clean(plan, draw))


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
    leads_s, others_s = 0, 0
    for record in records_of(plan):
        wiring = wiring_of(plan, record)
        leads_s += sum(stretch.seconds * len(leads_of(wiring, stretch)) for stretch in record.stretches)
        others_s += sum(stretch.seconds for stretch in record.stretches) * (wiring.respiration + wiring.pleth)
    return counts | {
        "draws": len(plan.draws),
        "recorded_draws": len(recorded),
        "personal": float(_is_personal(plan, PERSONAL_STRIPS)),
        "ecg_h": sum(stretch.seconds for stretch in plan.stretches) / 3600,
        "lead_h": leads_s / 3600,
        "other_h": others_s / 3600,
        "stretches": len(plan.stretches),
        "records": len({stretch.record for stretch in plan.stretches}),
    }


def _is_personal(plan: PatientPlan, strips: int) -> bool:
    """Tell whether a patient has enough strips of each label and a rhythm that can be read."""
    usable = usable_labels(plan)
    readable = plan.patient.rhythm != "fibrillation" and not plan.patient.paced
    return readable and min(usable["positive"], usable["negative"]) >= strips


def _value(profile: SiteProfile, name: str) -> float:
    section, _, key = name.partition(".")
    return float(getattr(getattr(profile, section), key))

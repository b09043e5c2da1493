"""How hard the synthetic cohort is: what a single feature of a strip knows about its label.

Reported, never asserted, and never a target: nothing in the generator is set to reach a number here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from client.data.sources.base import Stay as ClinicalStay
from client.data.sources.mimic3_waveforms import MatchedRecordings
from common.logs import stage
from common.metrics import auc
from common.seeding import stream
from common.workers import Workers, worker_processes
from simulation.cohort.labs import label_of
from simulation.cohort.profile import CohortSizes, SiteProfile
from simulation.cohort.proof.studies import Array, Flags, measure
from simulation.cohort.site import plan_site
from simulation.cohort.stay import PatientPlan
from simulation.cohort.watch import STRIP_S
from simulation.cohort.waveforms import write_waveforms

POSITIVE_SHARE = 0.5  # as in the source paper's generic set
LEAST_S = 120.0
RESAMPLES = 400
FEATURES: Mapping[str, str] = {
    "t_mv": "T amplitude",
    "t_over_r": "T/R",
    "t_slope": "T right slope",
    "slope_over_amplitude": "T slope/amplitude",
    "t_base_ms": "T width (narrow speaks for high potassium)",
    "pr_ms": "PR",
    "qrs_ms": "QRS duration",
    "rate_bpm": "heart rate (slow speaks for high potassium)",
}
NEGATIVE_FEATURES = ("t_base_ms", "rate_bpm")


@dataclass(frozen=True)
class Difficulty:
    """AUC of one feature over strips, one strip per patient, with a 95 % interval over patients."""

    feature: str
    auc: float
    low: float
    high: float
    positive: int
    negative: int


def run_difficulty(
    profile: SiteProfile, patients: int, seed: int, workers: Workers | None = None
) -> list[Difficulty]:
    """Write a case-control cohort, measure one strip of each patient, and score the features one by one.

    Labels are those of the true potassium when the blood was drawn; strips in the gap have none.

    Parameters
    ----------
    profile : the site.
    patients, seed : size and seed of the cohort; half of the patients have a hyperkalemic episode.
    workers : processes, None for this one.
    """
    sizes = CohortSizes(
        patients=patients, personal_patients=0, positive_share=POSITIVE_SHARE, window_hours=STRIP_S / 3600
    )
    found: dict[int, dict[str, float]] = {}
    with worker_processes(1) as here, stage("Measured difficulty", patients, "patient") as progress:
        for subject, row in (workers or here).each(partial(_measured, seed), plan_site(profile, sizes, seed)):
            found[subject] = row
            progress.advance()
    rows = [found[subject] for subject in sorted(found) if found[subject]]
    positive = np.array([row["positive"] for row in rows]) > 0
    rng = stream("proof", "difficulty", seed)
    out = []
    for name, title in FEATURES.items():
        sign = -1.0 if name in NEGATIVE_FEATURES else 1.0
        values = sign * np.array([row[name] for row in rows])
        known = np.isfinite(values)
        out.append(_scored(title, values[known], positive[known], rng))
    return out


def difficulty_table(found: list[Difficulty]) -> str:
    """Return the table as text."""
    lines = [f"{'one strip per patient, label by true potassium':<48} {'AUC (95 %)':<22} positive  negative"]
    for one in found:
        interval = f"{one.auc:.2f} ({one.low:.2f} to {one.high:.2f})"
        lines.append(f"{one.feature:<48} {interval:<22} {one.positive:8d}  {one.negative:8d}")
    return "\n".join(lines)


def _scored(title: str, values: Array, positive: Flags, rng: np.random.Generator) -> Difficulty:
    again = []
    for _ in range(RESAMPLES):
        chosen = rng.integers(0, len(values), len(values))
        again.append(auc(values[chosen], positive[chosen]))
    low, high = np.nanquantile(again, [0.025, 0.975])
    n = int(positive.sum())
    return Difficulty(title, auc(values, positive), float(low), float(high), n, len(positive) - n)


def _measured(seed: int, plan: PatientPlan) -> tuple[int, dict[str, float]]:
    """Return SUBJECT_ID and the features of one strip of a patient, nothing where none is usable."""
    subject = plan.patient.subject_id
    labels = {draw: label_of(draw.potassium) for draw in plan.draws if plan.stretch_of(draw) is not None}
    wanted = [draw for draw, label in labels.items() if label == "positive"] or [
        draw for draw, label in labels.items() if label == "negative"
    ]
    if not wanted:
        return subject, {}
    draw = wanted[int(stream("proof", "difficulty", seed, subject).integers(len(wanted)))]
    end = plan.stay.monitor_base + timedelta(minutes=draw.minute)
    with TemporaryDirectory(prefix="fedkalemia-difficulty-") as folder:
        records = write_waveforms(Path(folder), plan, 0)
        # The monitor's own dates: those that do not fit the stay are no question of physiology.
        stay = ClinicalStay(plan.stay.monitor_base, end)
        window = MatchedRecordings(Path(folder), records, [stay]).lead_ii(
            end - timedelta(seconds=STRIP_S), end
        )
    if window.exclusion is not None or np.isfinite(window.signal_mv).sum() < LEAST_S * window.rate_hz:
        return subject, {}
    found = measure(window.signal_mv, window.rate_hz)
    if not np.isfinite(found.rate_bpm):
        return subject, {}
    row = {name: float(getattr(found, name)) for name in FEATURES}
    return subject, row | {"positive": float(labels[draw] == "positive")}

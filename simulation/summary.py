"""``summary.json``: what a run found, for a researcher who has all sites on one machine.

Everything is computed from the site databases, so a hospital could recompute its part. The fields below
are the documentation of the file (docs/reference/summary.md is written from them).
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field

from client.learning.planning import PAPER
from client.learning.protocols import CONTROLS
from client.site import Site
from common.config import Section, Settings
from common.files import read_json
from common.metrics import Confusion, ScoreHistogram
from common.procedures import FLAGGED, LEARNING, SIMPLER, control_verdict, not_run
from simulation.estimates import Estimate, estimate, number
from simulation.tally import PatientTally, SiteTally, tally

__all__ = [
    "ControlFigures",
    "Estimate",
    "GenericFigures",
    "PatientFigures",
    "PersonalFigures",
    "RunSummary",
    "SiteSummary",
    "estimate",
    "number",
    "personal_figures",
    "summarize",
]

FORMAT = 2
WORSE_F1 = 0.05
#: Pairs of methods that are compared, the one declared before the run first.
PAIRS = (
    ("selected", "threshold"),
    ("selected", "generic"),
    ("threshold", "generic"),
    ("closed_form", "generic"),
    ("fine_tuned", "generic"),
    *(("selected", way) for way in SIMPLER),
)

Figures = dict[str, float | None]


class GenericFigures(Section):
    """The generic model on patients whose beats trained nothing."""

    patients: int = Field(description="Patients tested")
    strips: int = Field(description="Strips tested")
    beats: int = Field(description="Beats tested")
    beat_auc: float | None = Field(description="Area under the ROC curve over all beats (histogram)")
    beat_auc_error_bound: float | None = Field(description="How far the histogram can be off")
    beat_f1: float | None = Field(description="F1 of the positive label over all beats")
    beat_sensitivity: float | None = Field(description="Sensitivity over all beats")
    beat_specificity: float | None = Field(description="Specificity over all beats")
    beat_positive_predictivity: float | None = Field(description="Positive predictivity over all beats")
    strip_accuracy: float | None = Field(description="Share of strips whose majority vote is right")
    strip_sensitivity: float | None = Field(description="Sensitivity over strips")
    strip_specificity: float | None = Field(description="Specificity over strips")


class PatientFigures(Section):
    """One personal patient. The number is local to the site's database and says nothing outside it."""

    site: str = Field(description="Site name")
    patient: int = Field(description="Local number of the patient in the site database")
    fold: str = Field(description="Name of the federation that tested the patient")
    outcome: str = Field(description="personal, not_interleaved, or why there is no result")
    rounds: int = Field(description="Personalization rounds the patient's strips allowed")
    test_strips: int = Field(description="Strips in the test")
    test_beats: int = Field(description="Beats in the test")
    selected_method: str | None = Field(description="What the guard chose after the last round")
    methods: dict[str, dict[str, Figures]] = Field(
        description="method -> personalization round -> figure -> value on the patient's test strips"
    )


class ControlFigures(Section):
    """The whole procedure on labels that mean nothing."""

    patients: int = Field(description="Patients for whom the control could be computed")
    gain: dict[str, Estimate] = Field(description="figure -> selected less generic, at the last round")
    beat_auc: dict[str, Estimate] = Field(description="method that could learn -> beat AUC at the last round")
    flagged: bool = Field(description="Whether the lower 95 % bound of a beat AUC is above 0.5")


class PersonalFigures(Section):
    """Personal models on their patients' test strips; outcome personal only."""

    patients: int = Field(description="Patients with outcome personal")
    methods: dict[str, dict[str, dict[str, Estimate]]] = Field(
        description="method -> personalization round (0 is generic) -> figure -> mean over patients"
    )
    last: dict[str, dict[str, Estimate]] = Field(
        description="method -> figure -> mean over patients at each patient's last round"
    )
    difference: dict[str, dict[str, Estimate]] = Field(
        description="pair of methods -> figure -> paired difference at the last round; "
        "selected-threshold is the primary comparison, all others are exploratory"
    )
    paper: dict[str, dict[str, Estimate]] = Field(
        description="method -> figure -> mean under the source paper's protocol (a random quarter held out), "
        "over the same patients at each one's last round; published is its own learning rate and batch"
    )
    controls: dict[str, ControlFigures] = Field(
        description="control_permuted: labels of other days; control_days: two stretches of negative days"
    )
    selected: dict[str, int] = Field(description="method -> patients for whom the guard selected it")
    worse: list[dict[str, Any]] = Field(
        description="Patients whose selected model's beat F1 is more than .05 below the generic model's, "
        "with their numbers of test strips and test beats"
    )


class SiteSummary(Section):
    """One site."""

    counts: dict[str, Any] = Field(description="Patients, draws and strips by label or exclusion reason")
    cohort: dict[str, dict[str, int]] = Field(description="fold -> role and split -> patients")
    outcomes: dict[str, int] = Field(description="Personalization outcome -> patients")
    generic: GenericFigures | None
    personal: PersonalFigures
    report: str = Field(description="The site's page, relative to the run folder")


class RunSummary(Section):
    """The whole run."""

    format: int = Field(description="Version of this file's form")
    task: str = Field(description="hyperkalemia or ventricular")
    seed: int
    preset: str
    settings: dict[str, Any] = Field(description="Every setting of the run")
    settings_sha256: str
    versions: dict[str, str] = Field(description="Software versions")
    folds: dict[str, dict[str, Any]] = Field(
        description="Federation -> federated rounds, rule that chose the generic model and its hash, sites, "
        "failures by round"
    )
    sites: dict[str, SiteSummary]
    generic: GenericFigures | None = Field(description="All sites together")
    personal: PersonalFigures = Field(description="All sites together")
    patients: list[PatientFigures] = Field(description="Every personal patient")
    seconds: dict[str, float] = Field(description="Stage -> seconds in this invocation")
    peak_memory_mb: float = Field(description="Largest resident memory of any process, MB")
    pages: dict[str, str] = Field(description="Pages, relative to the run folder")
    not_run: list[str] = Field(description="What these settings leave out")
    notes: list[str] = Field(description="What a reader must know about the data")


def summarize(
    sites: Sequence[Site],
    settings: Settings,
    *,
    folds: Sequence[str],
    servers: Mapping[str, Path],
    pages: Mapping[str, str],
    seconds: Mapping[str, float],
    peak_memory_mb: float,
    notes: Sequence[str] = (),
) -> RunSummary:
    """Read every site database and the servers' histories into one summary."""
    tallies = [tally(site, folds) for site in sites]
    return RunSummary(
        format=FORMAT,
        task=settings.task,
        seed=settings.seed,
        preset=settings.preset,
        settings=settings.model_dump(mode="json"),
        settings_sha256=settings.digest(),
        versions=versions(),
        folds={name: _fold(folder) for name, folder in servers.items()},
        sites={entry.name: _site(entry, settings, pages[entry.name]) for entry in tallies},
        generic=_generic(tallies),
        personal=personal_figures(tallies, settings),
        patients=[_patient(p) for entry in tallies for p in entry.patients],
        seconds=dict(seconds),
        peak_memory_mb=peak_memory_mb,
        pages=dict(pages),
        not_run=list(not_run(settings.personalization)),
        notes=list(notes),
    )


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    names = ("fedkalemia", "flwr", "torch", "numpy", "scipy", "wfdb", "sleepecg", "sqlalchemy")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def _fold(folder: Path) -> dict[str, Any]:
    server = read_json(folder / "server.json")
    return {
        "federated_rounds": len(server["rounds"]),
        "selected": server["selected"],
        "failures": {
            str(entry["round"]): entry["failures"] for entry in server["rounds"] if entry["failures"]
        },
        "sites": server["sites"],
    }


def _site(entry: SiteTally, settings: Settings, page: str) -> SiteSummary:
    return SiteSummary(
        counts=entry.counts,
        cohort=entry.cohort,
        outcomes=entry.outcomes,
        generic=_generic([entry]),
        personal=personal_figures([entry], settings),
        report=page,
    )


def _generic(tallies: Sequence[SiteTally]) -> GenericFigures | None:
    tested = [entry.generic for entry in tallies if entry.generic is not None]
    if not tested:
        return None
    beat = sum((entry.beat for entry in tested), Confusion())
    strip = sum((entry.strip for entry in tested), Confusion())
    histogram = sum((entry.histogram for entry in tested), ScoreHistogram())
    return GenericFigures(
        patients=sum(entry.patients for entry in tested),
        strips=strip.total,
        beats=beat.total,
        beat_auc=number(histogram.auc),
        beat_auc_error_bound=number(histogram.auc_error_bound),
        beat_f1=number(beat.f1),
        beat_sensitivity=number(beat.sensitivity),
        beat_specificity=number(beat.specificity),
        beat_positive_predictivity=number(beat.positive_predictivity),
        strip_accuracy=number(strip.accuracy),
        strip_sensitivity=number(strip.sensitivity),
        strip_specificity=number(strip.specificity),
    )


def _patient(entry: PatientTally) -> PatientFigures:
    return PatientFigures(
        site=entry.site,
        patient=entry.patient,
        fold=entry.fold,
        outcome=entry.outcome,
        rounds=entry.rounds,
        test_strips=entry.test_strips,
        test_beats=entry.test_beats,
        selected_method=entry.selected_method,
        methods={
            method: {
                str(round_): {name: number(value) for name, value in figures.items()}
                for round_, figures in by_round.items()
            }
            for method, by_round in entry.methods.items()
        },
    )


def personal_figures(tallies: Sequence[SiteTally], settings: Settings) -> PersonalFigures:
    """Average over the personal patients of some sites, with what was run beside their results."""
    patients = [patient for entry in tallies for patient in entry.patients]
    tested = [patient for patient in patients if patient.outcome == "personal" and patient.methods]
    methods = sorted({method for patient in tested for method in patient.methods})
    last = {method: _last([patient.last(method) for patient in tested], settings) for method in methods}
    return PersonalFigures(
        patients=len(tested),
        methods={method: _by_round(tested, method, settings) for method in methods},
        last=last,
        difference={
            f"{a}-{b}": _last([patient.difference(a, b) for patient in tested], settings, lowest=-1.0)
            for a, b in PAIRS
            if a in methods and b in methods
        },
        paper=_paper(_beside(tallies, PAPER), tested, settings),
        controls={name: _control(found, settings) for name in CONTROLS if (found := _beside(tallies, name))},
        selected={
            method: sum(patient.selected_method == method for patient in tested)
            for method in sorted({p.selected_method for p in tested if p.selected_method})
        },
        worse=[
            {
                "site": patient.site,
                "patient": patient.patient,
                "generic_beat_f1": number(patient.last("generic")["beat_f1"]),
                "selected_beat_f1": number(patient.last("selected")["beat_f1"]),
                "test_strips": patient.test_strips,
                "test_beats": patient.test_beats,
            }
            for patient in tested
            if patient.difference("selected", "generic").get("beat_f1", 0.0) < -WORSE_F1
        ],
    )


def _beside(tallies: Sequence[SiteTally], protocol: str) -> list[PatientTally]:
    return [patient for entry in tallies for patient in entry.beside.get(protocol, []) if patient.methods]


def _paper(
    beside: Sequence[PatientTally], tested: Sequence[PatientTally], settings: Settings
) -> dict[str, dict[str, Estimate]]:
    """Average over the patients of the primary result, so that like is compared with like."""
    primary = {(patient.site, patient.fold, patient.patient) for patient in tested}
    same = [p for p in beside if (p.site, p.fold, p.patient) in primary]
    methods = sorted({method for patient in same for method in patient.methods})
    return {method: _last([patient.last(method) for patient in same], settings) for method in methods}


def _control(tested: Sequence[PatientTally], settings: Settings) -> ControlFigures:
    learned = [method for method in LEARNING if any(method in patient.methods for patient in tested)]
    auc = {
        method: _last([patient.last(method) for patient in tested], settings)["beat_auc"]
        for method in learned
    }
    return ControlFigures(
        patients=len(tested),
        gain=_last([patient.difference("selected", "generic") for patient in tested], settings, lowest=-1.0),
        beat_auc=auc,
        flagged=control_verdict(one.low for one in auc.values()) == FLAGGED,
    )


def _by_round(
    patients: Sequence[PatientTally], method: str, settings: Settings
) -> dict[str, dict[str, Estimate]]:
    rounds = sorted({round_ for patient in patients for round_ in patient.methods.get(method, {})})
    return {
        str(round_): _last(
            [p.methods[method][round_] for p in patients if round_ in p.methods.get(method, {})], settings
        )
        for round_ in rounds
    }


def _last(
    values: Sequence[Mapping[str, float]], settings: Settings, lowest: float = 0.0
) -> dict[str, Estimate]:
    names = sorted({name for figures in values for name in figures})
    return {
        name: estimate([figures.get(name, math.nan) for figures in values], settings, lowest)
        for name in names
    }

"""The journeys people ask for: synthetic hospitals, and real annotated recordings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import Settings, make_settings, merge, nearest
from common.errors import ConfigurationError, SourceError
from common.logs import stage
from simulation.cohort import PROFILES, CohortSizes, SiteProfile, write_site
from simulation.folds import PACED, Fold, chosen_split, deal_sites, standard_split, two_folds
from simulation.run import Journey, SiteSpec, fold_specs
from simulation.survey import Survey, survey_recordings
from simulation.workers import map_processes

SIZES: Mapping[str, CohortSizes] = {
    "quick": CohortSizes(),
    "standard": CohortSizes(generic_patients=120, personal_patients=12),
    "paper": CohortSizes(generic_patients=120, personal_patients=12),
}
SYNTHETIC_NOTE = (
    "synthetic patients from a simple generator: the numbers show that the parts work together, not how well "
    "hyperkalemia can be detected"
)


def synthetic_journey(
    out: Path, *, sites: int, seed: int, preset: str, overrides: Mapping[str, Any], workers: int
) -> Journey:
    """Plan a run on synthetic hospitals, which are written to ``out/hospitals`` first."""
    settings, changed = _settings("hyperkalemia", preset, seed, overrides)
    _check_sites(sites, settings)
    profiles = _profiles(sites)
    hospitals = {profile.name: out.resolve() / "hospitals" / profile.name for profile in profiles}
    jobs = [
        _SiteJob(
            hospitals[profile.name], profile, SIZES[preset], seed, out.resolve() / "truth" / profile.name
        )
        for profile in profiles
    ]
    return Journey(
        out=out,
        settings=settings,
        overrides=changed,
        sites=[
            SiteSpec(name, {"kind": "mimic3", "folder": str(folder)}, {"main": None})
            for name, folder in hospitals.items()
        ],
        prepare=_writer(jobs, workers),
        workers=workers,
        notes=[SYNTHETIC_NOTE],
    )


def mitbih_journey(
    out: Path,
    data: Path,
    *,
    sites: int,
    seed: int,
    preset: str,
    overrides: Mapping[str, Any],
    workers: int,
    split: str = "folds",
    train_records: Sequence[str] | None = None,
    test_records: Sequence[str] | None = None,
    detect: bool = False,
) -> Journey:
    """Plan a run on annotated recordings; sites are groups of patients.

    Raises
    ------
    SourceError
        If records are missing, or too few for the sites asked for.
    ConfigurationError
        For options that do not go together.
    """
    settings, changed = _settings("ventricular", preset, seed, overrides)
    _check_sites(sites, settings)
    survey = survey_recordings(data, settings, include_paced=train_records is not None)
    folds = _folds(survey, settings, split, train_records, test_records)
    used = {key for fold in folds for key in (*fold.train, *fold.test)}
    hands = deal_sites({k: survey.counts[k] for k in sorted(used)}, folds, sites, settings.cohort)
    records = {key: survey.records_of(key, folds) for key in used}
    return Journey(
        out=out,
        settings=settings,
        overrides=changed,
        sites=[
            fold_specs(
                f"site-{index + 1}",
                {
                    "kind": "mitbih",
                    "folder": str(data.resolve()),
                    "records": sorted(record for key in hand for record in records[key]),
                    "detect": detect,
                },
                folds,
                hand,
            )
            for index, hand in enumerate(hands)
        ],
        folds=[fold.name for fold in folds],
        workers=workers,
        notes=_notes(survey, folds, train_records),
    )


@dataclass(frozen=True)
class _SiteJob:
    folder: Path
    profile: SiteProfile
    sizes: CohortSizes
    seed: int
    truth: Path


def _settings(
    task: str, preset: str, seed: int, overrides: Mapping[str, Any]
) -> tuple[Settings, dict[str, Any]]:
    changed = merge({"seed": seed}, overrides)
    return make_settings(task, preset, changed), changed


def _check_sites(sites: int, settings: Settings) -> None:
    if sites < settings.federation.min_sites:
        raise ConfigurationError(
            f"--sites {sites} is below federation.min_sites = {settings.federation.min_sites}; raise "
            f"--sites, or use --set federation.min_sites={sites}"
        )


def _profiles(sites: int) -> list[SiteProfile]:
    """Return as many site profiles as asked for; the known ones come again under a numbered name."""
    known = list(PROFILES.values())
    return [
        known[index % len(known)].model_copy(
            update={
                "name": known[index % len(known)].name
                + (f"-{index // len(known) + 1}" * (index >= len(known)))
            }
        )
        for index in range(sites)
    ]


def _writer(jobs: Sequence[_SiteJob], workers: int) -> Callable[[], None]:
    def write() -> None:
        map_processes(_write_site, jobs, workers)

    return write


def _write_site(job: _SiteJob) -> None:
    total = job.sizes.generic_patients + job.sizes.personal_patients
    with stage(f"Writing hospital {job.profile.name}", total, "patient") as progress:
        done = 0

        def advance(now: int, _: int) -> None:
            nonlocal done
            progress.advance(now - done)
            done = now

        write_site(job.folder, job.profile, job.sizes, job.seed, progress=advance, truth=job.truth)


def _folds(
    survey: Survey,
    settings: Settings,
    split: str,
    train_records: Sequence[str] | None,
    test_records: Sequence[str] | None,
) -> tuple[Fold, ...]:
    if (train_records is None) != (test_records is None):
        raise ConfigurationError("--train-records and --test-records go together")
    if train_records is not None and test_records is not None:
        return (chosen_split(train_records, test_records, survey.records, survey.person),)
    if split == "ds1-ds2":
        return (standard_split(survey.records, survey.person),)
    if split == "folds":
        return two_folds(survey.counts, settings.cohort)
    raise ConfigurationError(f"unknown --split {split!r}{nearest(split, ['folds', 'ds1-ds2'])}")


def _notes(survey: Survey, folds: Sequence[Fold], train_records: Sequence[str] | None) -> list[str]:
    notes = []
    if left := sorted(set(PACED) & set(survey.present)) if train_records is None else []:
        notes.append(f"records with paced beats left out: {', '.join(left)}")
    if survey.without_lead:
        notes.append(f"records without lead MLII left out: {', '.join(survey.without_lead)}")
    used = {key for fold in folds for key in (*fold.train, *fold.test)}
    if not used:
        raise SourceError("no patient is left to train on")
    return notes

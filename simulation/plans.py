"""The journeys people ask for: synthetic hospitals, and real annotated recordings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.config import Settings, make_settings, merge, nearest
from common.errors import ConfigurationError, SourceError
from simulation.cohort.build import SITES, Hospital, built_in_sites, hospitals_in, site_orders, write_sites
from simulation.cohort.parts import SiteOrder
from simulation.cohort.profile import CohortSizes
from simulation.folds import PACED, Fold, chosen_split, deal_sites, standard_split, two_folds
from simulation.run import Journey, SiteSpec, fold_specs
from simulation.survey import Survey, survey_recordings

#: Case-control, as in the source paper, with windows little longer than a strip: a demo is small and quick.
_DEMO = CohortSizes(
    patients=80,
    personal_patients=8,
    positive_share=0.55,
    most_draws=4,
    window_hours=0.175,
    minutes_after=0.5,
)
_LARGER = _DEMO.model_copy(update={"patients": 512, "personal_patients": 12})
SIZES: Mapping[str, CohortSizes] = {"quick": _DEMO, "standard": _LARGER, "paper": _LARGER}
SYNTHETIC_NOTE = (
    "synthetic patients from published effect sizes: the numbers show how the method behaves on them, not "
    "how well hyperkalemia can be detected in people"
)


def synthetic_journey(
    out: Path,
    *,
    sites: int | None = None,
    seed: int,
    preset: str,
    overrides: Mapping[str, Any],
    workers: int,
    data: Path | None = None,
) -> Journey:
    """Plan a run on synthetic hospitals.

    Parameters
    ----------
    out : folder of the run.
    sites : hospitals that are written to ``out/hospitals`` first; None for three.
    data : folder of a ``cohort`` command, whose hospitals are used instead.

    Raises
    ------
    ConfigurationError
        For options that do not go together.
    StorageError
        If ``data`` holds no complete hospitals.
    """
    settings, changed = _settings("hyperkalemia", preset, seed, overrides)
    prepare: Callable[[], None] | None = None
    if data is None:
        _check_sites(SITES if sites is None else sites, settings)
        profiles = built_in_sites(SITES if sites is None else sites)
        # Nothing in a run may read the ground truth, which is an eighth of the work: 'cohort' writes it.
        orders = [
            replace(order, truth=None) for order in site_orders(profiles, SIZES[preset], seed, out.resolve())
        ]
        hospitals = [Hospital(order.profile, order.folder) for order in orders]
        prepare = _writer(orders, workers)
    elif sites is not None:
        raise ConfigurationError("--sites has no meaning with --data, whose hospitals are all used")
    else:
        hospitals = hospitals_in(data)
        if len(hospitals) < settings.federation.min_sites:
            raise ConfigurationError(
                f"the {len(hospitals)} of --data {data} are below federation.min_sites = "
                f"{settings.federation.min_sites}; write more hospitals, or use "
                f"--set federation.min_sites={len(hospitals)}"
            )
    return Journey(
        out=out,
        settings=settings,
        overrides=changed,
        sites=[SiteSpec(hospital.profile.name, hospital.source(), {"main": None}) for hospital in hospitals],
        prepare=prepare,
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


def _writer(orders: Sequence[SiteOrder], workers: int) -> Callable[[], None]:
    def write() -> None:
        write_sites(orders, workers)

    return write


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

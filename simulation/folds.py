"""Who trains and who is tested, on annotated recordings: patient folds and the standard sets.

All functions are pure. A patient is a person: records of one person are never on two sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.config import CohortSettings
from common.errors import SourceError

# The standard inter-patient split of the MIT-BIH Arrhythmia Database.
# fmt: off
# Source: de Chazal et al., IEEE Trans Biomed Eng 2004;51(7):1196-1206. The four records with
# paced beats (102, 104, 107, 217) belong to neither set (AAMI recommended practice).
DS1 = (
    "101", "106", "108", "109", "112", "114", "115", "116", "118", "119", "122",
    "124", "201", "203", "205", "207", "208", "209", "215", "220", "223", "230",
)
DS2 = (
    "100", "103", "105", "111", "113", "117", "121", "123", "200", "202", "210",
    "212", "213", "214", "219", "221", "222", "228", "231", "232", "233", "234",
)
PACED = ("102", "104", "107", "217")
# fmt: on


@dataclass(frozen=True)
class Counts:
    """How many strips of each label a patient has."""

    positive: int
    negative: int


@dataclass(frozen=True)
class Fold:
    """One direction: train the generic model on some patients, personalize and test on others.

    ``records`` are the only records used of these patients; empty for all of theirs.
    """

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    records: tuple[str, ...] = ()


def two_folds(counts: Mapping[str, Counts], cohort: CohortSettings) -> tuple[Fold, Fold]:
    """Split patients into two halves; each is tested once by a model trained on the other.

    Patients who qualify for personalization are dealt alternately in the order of their keys, then the
    others, so both halves have as many of each. The split depends on nothing else: not on a seed, not on
    the number of sites.
    """
    halves: tuple[list[str], list[str]] = ([], [])
    for keys in _strata(counts, cohort):
        for index, patient in enumerate(keys):
            halves[index % 2].append(patient)
    a, b = (tuple(sorted(half)) for half in halves)
    return Fold("fold-a", train=b, test=a), Fold("fold-b", train=a, test=b)


def standard_split(records: Sequence[str], person: Mapping[str, str]) -> Fold:
    """Train on DS1, test on DS2, without persons who are in both.

    Raises
    ------
    SourceError
        Naming the records that are missing.
    """
    if missing := sorted((set(DS1) | set(DS2)) - set(records)):
        raise SourceError(
            f"--split ds1-ds2 needs all 44 records of the two standard sets; missing: {', '.join(missing)}. "
            "Use --split folds, or name records with --train-records and --test-records"
        )
    return chosen_split(DS1, DS2, records, person)


def chosen_split(
    train: Sequence[str], test: Sequence[str], records: Sequence[str], person: Mapping[str, str]
) -> Fold:
    """Train on some records and test on others. A person with records on both sides only trains.

    Raises
    ------
    SourceError
        If a record is not in the folder, or a side is empty.
    """
    if unknown := sorted((set(train) | set(test)) - set(records)):
        raise SourceError(
            f"records {', '.join(unknown)} are not in the folder; present: {', '.join(records)}"
        )
    trained = {person[record] for record in train}
    tested = {person[record] for record in test} - trained
    if not trained or not tested:
        raise SourceError("--train-records and --test-records each need a patient the other does not have")
    return Fold(
        "main",
        train=tuple(sorted(trained)),
        test=tuple(sorted(tested)),
        records=tuple(sorted({*train, *(record for record in test if person[record] in tested)})),
    )


def deal_sites(
    counts: Mapping[str, Counts], folds: Sequence[Fold], sites: int, cohort: CohortSettings
) -> list[tuple[str, ...]]:
    """Deal patients to sites so that each site has patients of every fold and kind.

    Returns
    -------
    One tuple of patient keys per site.

    Raises
    ------
    SourceError
        If there are fewer patients than sites in a fold.
    """
    hands: list[list[str]] = [[] for _ in range(sites)]
    index = 0
    for fold in folds[:1]:
        for side in (fold.train, fold.test):
            if len(side) < sites:
                raise SourceError(
                    f"{len(fold.train)} patients to train on and {len(fold.test)} to test on cannot be "
                    f"shared among {sites} sites: each needs at least one of both; choose fewer sites with "
                    "--sites, or a folder with more records"
                )
            for keys in _strata({key: counts[key] for key in side}, cohort):
                for patient in keys:
                    hands[index % sites].append(patient)
                    index += 1
    return [tuple(sorted(hand)) for hand in hands]


def _strata(counts: Mapping[str, Counts], cohort: CohortSettings) -> tuple[list[str], list[str]]:
    """Patients who qualify for personalization, and the others; each in order."""
    personal = [
        key
        for key in sorted(counts)
        if counts[key].positive >= cohort.min_positive and counts[key].negative >= cohort.min_negative
    ]
    return personal, [key for key in sorted(counts) if key not in set(personal)]

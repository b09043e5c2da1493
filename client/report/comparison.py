"""Numbers over patients: means with intervals, and the comparison a report is judged by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from client.report.evidence import Evidence, Personal
from common.config import Settings
from common.intervals import Interval, mean_interval
from common.page import METHODS, FigureWords, headline
from common.seeding import stream

#: A patient whose figure is lower than the generic model's by more than this is named on the first screen.
WORSE_BY = 0.05
FITTED = ("threshold", "closed_form", "fine_tuned", "selected")


@dataclass(frozen=True)
class Summary:
    """Mean over patients of a figure or of a difference."""

    n: int
    mean: float
    interval: Interval | None


def summary(values: Sequence[float], *names: object) -> Summary:
    """Average over patients; the interval's random stream belongs to ``names``.

    Values that do not exist (NaN) do not count.
    """
    kept = [value for value in values if math.isfinite(value)]
    mean = math.fsum(kept) / len(kept) if kept else math.nan
    return Summary(len(kept), mean, mean_interval(kept, stream("report", *names)))


@dataclass(frozen=True)
class Comparison:
    """What the report is judged by: each method after the last round, and the two differences."""

    words: FigureWords
    patients: Sequence[Personal]
    methods: Mapping[str, Summary]
    over_threshold: Summary
    over_generic: Summary


def compare(evidence: Evidence, settings: Settings, site: str) -> Comparison:
    """Compare the selected model with the two simpler ones on the patients of the primary analysis."""
    words = headline(settings.task)
    patients = [one for one in evidence.personal if one.primary]

    def over(base: str) -> Summary:
        pairs = [one.last("selected", words.key) - one.last(base, words.key) for one in patients]
        return summary(pairs, settings.seed, site, words.key, "selected", base)

    return Comparison(
        words=words,
        patients=patients,
        methods={
            method: summary(
                [one.last(method, words.key) for one in patients], settings.seed, site, words.key, method
            )
            for method in METHODS
        },
        over_threshold=over("threshold"),
        over_generic=over("generic"),
    )


@dataclass(frozen=True)
class Loss:
    """A patient whose selected model is worse than the generic one: by how much, on how much."""

    patient: Personal
    headline: float
    beat_f1: float


def lost(one: Personal, key: str, base: str) -> float | None:
    """Return the change of a figure from ``base`` to the selected model where it is a loss to name.

    None for less than ``WORSE_BY``, or where a figure is missing. Rounding of stored figures must not decide.
    """
    change = one.last("selected", key) - one.last(base, key)
    return change if change < -WORSE_BY - 1e-9 else None


def worse_off(result: Comparison) -> list[Loss]:
    """Return the patients who lost more than ``WORSE_BY`` in the headline figure or in beat F1.

    Strip accuracy alone would overlook a loss that leaves every vote in place. Worst first.
    """

    def change(one: Personal, key: str) -> float:
        return one.last("selected", key) - one.last("generic", key)

    keys = (result.words.key, "beat_f1")
    worse = [
        Loss(one, *(change(one, key) for key in keys))
        for one in result.patients
        if any(lost(one, key, "generic") is not None for key in keys)
    ]
    return sorted(worse, key=lambda loss: (min(loss.headline, loss.beat_f1), loss.patient.patient))

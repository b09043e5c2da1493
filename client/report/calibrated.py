"""What a score is worth: tables of calibration, of alarms at the bedside, and of votes along the scale.

Everything here is at strip level and pooled over patients. The arithmetic is in
``client.learning.calibration``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import logit

from client.learning.calibration import (
    DECISIONS_PER_DAY,
    MIN_STRIPS_POOLED,
    POTASSIUM_EDGES,
    VoteBin,
    alarm_forecasts,
    calibration_error_by_chance,
    expected_calibration_error,
    pooled_brier,
    strip_probability,
    vote_correlation,
    votes_by_value,
)
from client.report.evidence import Generic
from client.report.reading_votes import Scored, ScoredStrips
from common.config import Settings
from common.metrics import Confusion, wilson
from common.page import METHODS, Table
from common.page.numbers import MISSING, SMALL_SAMPLE_NOTE, SPACE, count, decimal, percent, plural, share
from common.seeding import stream
from common.task import Label, Task

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: Prevalence of the sentence about the bedside.
BEDSIDE = 0.02
#: Quartiles of fewer votes are those votes again.
MIN_STRIPS_QUARTILES = 4


@dataclass(frozen=True)
class Group:
    """Strips that one kind of model was asked about.

    Attributes
    ----------
    method : ``generic``, ``threshold`` or ``selected``.
    personal : whether the strips are test strips of personal patients, not those of generic test patients.
    strips : what was said, strips in the gap included.
    """

    method: str
    personal: bool
    strips: Sequence[Scored]

    @property
    def title(self) -> str:
        """Model and patients, for a row or a panel."""
        model = "Selected models" if self.method == "selected" else METHODS[self.method].title
        return f"{model}, {'personal' if self.personal else 'test'} patients"

    @property
    def counted(self) -> list[Scored]:
        """Strips with a positive or negative label."""
        return [one for one in self.strips if one.vote.label != Label.GAP]

    @property
    def patients(self) -> int:
        """Patients behind the counted strips."""
        return len({one.vote.patient for one in self.counted})

    @property
    def positive(self) -> Bools:
        """Labels of the counted strips (n,)."""
        return np.array([one.vote.label == Label.POSITIVE for one in self.counted], bool)

    @property
    def confusion(self) -> Confusion:
        """Counted strips as called by vote."""
        called = np.array([one.vote.called for one in self.counted], bool)
        return Confusion.of(called, self.positive)

    @property
    def probability(self) -> Floats | None:
        """Probability of each counted strip (n,), corrected to the share of positives among them.

        None with fewer than 50 strips, with one label only, or where the training balance is not known.
        """
        counted, positive = self.counted, self.positive
        if len(counted) < MIN_STRIPS_POOLED or not 0 < positive.sum() < len(positive):
            return None
        trained = np.array([one.trained_share if one.trained_share else math.nan for one in counted])
        if np.isnan(trained).any():
            return None
        # Models of several balances are first brought to the same one.
        scores = np.array([one.vote.mean_logit for one in counted]) - logit(trained)
        return strip_probability(scores, 0.5, float(positive.mean()))


def groups(generic: Sequence[Generic], scored: ScoredStrips) -> list[Group]:
    """Return the groups of a report that hold strips: generic test patients first, then personal ones.

    Parameters
    ----------
    generic : the generic model of each run, on patients it was not trained on.
    scored : votes on personal patients, and the training balance of each run.
    """
    unseen = [Scored(vote, scored.trained.get(one.run)) for one in generic for vote in one.votes]
    found = [Group("generic", False, unseen)]
    found += [Group(method, True, own) for method, own in scored.personal.items()]
    return [group for group in found if group.counted]


def calibration_table(found: Sequence[Group]) -> Table:
    """Return how well probabilities agree with what happened, one row per group."""
    rows = []
    for group in found:
        positive, probability = group.positive, group.probability
        base = float(positive.mean())
        numbers = [MISSING] * 4
        if probability is not None:
            numbers = [
                decimal(pooled_brier(probability, positive), 3),
                decimal(base * (1 - base), 3),
                decimal(expected_calibration_error(probability, positive), 3),
                decimal(calibration_error_by_chance(probability), 3),
            ]
        rows.append([group.title, count(group.patients), count(len(positive)), percent(base), *numbers])
    missing = [group for group in found if group.probability is None]
    return Table(
        caption="Calibration of the probability of a strip, pooled over patients. Brier score: mean squared "
        "distance of probability and label, 0 is perfect; beside it what naming the share of positives for "
        "every strip would score. Calibration error: mean distance of the forecast from the share that was "
        "positive; beside it what chance alone gives a perfectly calibrated model with as many strips.",
        head=(
            "Model and patients",
            "Patients",
            "Strips",
            "Positive",
            "Brier score",
            "Naming the share",
            "Calibration error",
            "By chance",
        ),
        rows=rows,
        note="Probability of a strip: the sigmoid of its mean beat logit, moved from the balance of the "
        "training to the share of positives among these strips. "
        + " ".join(f"{group.title}: {_why_none(group)}." for group in missing),
        empty="No labelled strip was scored, so there is nothing to calibrate.",
        form="dense",
    )


def _why_none(group: Group) -> str:
    n = len(group.counted)
    if n < MIN_STRIPS_POOLED:
        return f"{plural(n, 'strip')}; below {MIN_STRIPS_POOLED} there are no figures of calibration"
    if not 0 < group.positive.sum() < n:
        return "strips of one label only, so there is nothing to calibrate against"
    return "labels weighed as they occur, and what they were in training is not known at this site"


def alarms_table(found: Sequence[Group], task: Task) -> Table:
    """Return what calling strips by vote would mean for one patient-day, by how frequent positives are."""
    rows: list[list[str]] = []
    strong: list[int] = []
    for group in _alarming(found, task):
        counts = group.confusion
        strong.append(len(rows))
        sensitivity, specificity = (
            share(right, right + wrong) for right, wrong in ((counts.tp, counts.fn), (counts.tn, counts.fp))
        )
        rows.append([group.title, f"sensitivity {sensitivity}", f"specificity {specificity}", ""])
        for one in alarm_forecasts(counts):
            point = one.point
            rows.append(
                [
                    f"  {percent(point.prevalence)} of strips positive",
                    _ranged([percent(value) for value in (point.predictive_value, *one.predictive_value)]),
                    _ranged([decimal(value, 1) for value in (point.per_day, *one.per_day)]),
                    _ranged([decimal(value, 1) for value in (point.false_per_day, *one.false_per_day)]),
                ]
            )
    return Table(
        caption=f"Alarms if a monitor gave one for every strip called positive: {DECISIONS_PER_DAY} "
        "decisions per patient-day, one every 10 minutes, by the share of strips that are positive.",
        head=("", "Alarms that are right", "Alarms per patient-day", "False alarms per patient-day"),
        rows=rows,
        strong=strong,
        note="In brackets: the range while sensitivity and specificity stay within their 95\u202f% Wilson "
        "intervals. Strips of one patient resemble each other, which makes every range too narrow. Strips "
        "in the gap between the labels are in neither share; at the bedside they occur and give alarms too.",
        empty="No model was tested on strips of both labels, so alarms cannot be foreseen."
        if task.quantity
        else "Strips of this task are sorted by the label of their beats, as no monitor would meet them: "
        "there is no forecast of alarms.",
        form="dense",
    )


def _alarming(found: Sequence[Group], task: Task) -> list[Group]:
    return [
        group
        for group in found
        if task.quantity and group.method != "threshold" and 0 < group.positive.sum() < len(group.counted)
    ]


def _ranged(written: Sequence[str]) -> str:
    point, low, high = written
    return f"{point} ({low.removesuffix(f'{SPACE}%')} to {high})" if point != MISSING else MISSING


def alarms_sentence(found: Sequence[Group], task: Task) -> str:
    """Say in plain words what alarms would mean at the bedside; empty where none can be foreseen.

    About the selected models if there are any, otherwise about the generic one.
    """
    shown = _alarming(found, task)
    if not shown:
        return ""
    group = shown[-1]
    (one,) = alarm_forecasts(group.confusion, (BEDSIDE,))
    point, most = one.point, one.false_per_day[1]
    model = "the selected models" if group.method == "selected" else "the generic model"
    right = (
        f"; one alarm in {decimal(1 / point.predictive_value, 0)} would be right"
        if point.predictive_value > 0
        else ""
    )
    return (
        f"At the bedside: if {percent(BEDSIDE)} of strips were positive, {model} would give "
        f"{_alarms(point.per_day)} alarms per patient-day, {_alarms(point.false_per_day)} of them "
        f"false{right}. With the number of strips tested here, {_alarms(most)} false alarms per "
        "patient-day cannot be ruled out, nor somewhat more: strips of one patient resemble each other."
    )


def _alarms(rate: float) -> str:
    """Write a rate with the digits it can bear."""
    return decimal(rate, 0 if rate >= 10 else 1)


def strips_right(strips: Confusion) -> str:
    """Write one patient's strips that were called right, with their Wilson interval.

    Returns
    -------
    ``9 of 12 (47 to 91 %)``, or a dash without strips.
    """
    if not strips.total:
        return MISSING
    right = strips.tp + strips.tn
    low, high = wilson(right, strips.total)
    return f"{count(right)} of {count(strips.total)} ({decimal(100 * low, 0)} to {percent(high)})"


def measured(found: Sequence[Group], task: Task) -> list[Group]:
    """Return the groups whose votes are shown along the scale; none for a task without a quantity."""
    return [
        group
        for group in found
        if task.quantity
        and (group.method == "selected" or not group.personal)
        and any(one.vote.value is not None for one in group.strips)
    ]


def votes_table(found: Sequence[Group], settings: Settings) -> Table:
    """Return votes along the scale of the measured quantity, strips in the gap included.

    Without rows for a task whose label is not a measurement.
    """
    task, label = settings.words, settings.label
    shown = measured(found, task)
    edges = sorted({*POTASSIUM_EDGES, label.negative_to, label.positive_above})
    columns = [votes_by_value(*_arrays(group), edges) for group in shown]
    rows = []
    for bins in zip(*columns, strict=True):
        if not any(one.n for one in bins):
            continue
        above, up_to = bins[0].above, bins[0].up_to
        between = above is not None and up_to is not None
        gap = between and label.negative_to <= above and up_to <= label.positive_above
        row = [_between(bins[0]) + (" *" if gap else "")]
        for one in bins:
            row += [f"{count(one.n)} ({count(one.patients)})", _quartiles(one).replace(" ", "\u00a0")]
        rows.append(row)
    return Table(
        caption=f"Votes by {task.quantity}: number of strips (of patients), and median (quartiles) over the "
        "strips of the share of beats called positive; above 50\u202f% a strip is called positive.",
        head=(
            f"{task.quantity}, {task.unit}",
            *(name for group in shown for name in (f"{group.title}: strips", "vote (quartiles)")),
        ),
        rows=rows,
        note=f"* {task.gap}: between the labels, never trained on and in no figure of accuracy."
        if task.gap
        else "",
        empty="No strip with a measured value was scored.",
        form="dense",
    )


def correlation_table(found: Sequence[Group], settings: Settings, site: str) -> Table:
    """Return the rank correlation of vote and measured quantity, over all strips and within patients."""
    task = settings.words
    rows = []
    for group in measured(found, task):
        names = ("report", settings.seed, site, "votes", group.method, group.personal)
        one = vote_correlation(*_arrays(group), stream(*names))
        interval = "too few"
        if one.interval is not None:
            # A t interval may leave the scale; what is shown does not.
            ends = [decimal(min(1.0, max(-1.0, end)), 2) for end in one.interval[:2]]
            mark = f"{SPACE}†" if "small sample" in one.interval.method else ""
            interval = f"{ends[0]} to {ends[1]}{mark}"
        rows.append(
            [
                group.title,
                count(one.n_strips),
                decimal(one.pooled, 2),
                f"{decimal(one.within, 2)} ({count(one.n_patients)})",
                interval,
                count(one.n_flat),
            ]
        )
    small = any("†" in row[4] for row in rows)
    return Table(
        caption=f"Spearman correlation of vote and {task.quantity}: over all strips, and within patients "
        "(mean over those with at least 5 strips; their number in brackets). Only within a patient does it "
        f"tell whether a model follows the patient’s {task.quantity}: between patients, whoever is sicker "
        "may look different.",
        head=(
            "Model and patients",
            "Strips",
            "Over all strips",
            "Within patients",
            "95\u202f% interval",
            "Patients with one vote only",
        ),
        rows=rows,
        note=SMALL_SAMPLE_NOTE if small else "",
        empty="No strip with a measured value was scored.",
        form="dense",
    )


def _arrays(group: Group) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    votes = [one.vote for one in group.strips]
    return (
        np.array([math.nan if vote.value is None else vote.value for vote in votes], float),
        np.array([vote.vote for vote in votes], float),
        np.array([vote.patient for vote in votes], np.int64),
    )


def _between(one: VoteBin) -> str:
    if one.above is None:
        return f"up to {decimal(one.up_to, 1)}"
    if one.up_to is None:
        return f"above {decimal(one.above, 1)}"
    return f"above {decimal(one.above, 1)} to {decimal(one.up_to, 1)}"


def _quartiles(one: VoteBin) -> str:
    if not one.n:
        return MISSING
    if one.n < MIN_STRIPS_QUARTILES:
        return percent(one.median)
    low, high = decimal(100 * one.lower_quartile, 0), percent(one.upper_quartile)
    return f"{percent(one.median)} ({low} to {high})"

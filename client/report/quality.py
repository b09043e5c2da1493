"""Data quality by label: what was recorded, what was clean enough, and whether labels differ in it.

A model that is shown clean strips of one label and noisy ones of the other can learn the noise. So every
figure stands once per label, and once as the difference between labels within the same patients.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from client.data.exclusion import BeatRejection, Exclusion
from client.report.comparison import Summary, summary
from client.report.evidence import Member
from client.report.reading_quality import StripSignal
from common.config import Settings
from common.page import Table
from common.page.numbers import (
    MISSING,
    SMALL_SAMPLE_NOTE,
    SPACE,
    count,
    decimal,
    median_iqr,
    percent,
    plural,
)
from common.task import Label

Pick = Callable[[StripSignal], float | None]
Test = Callable[[StripSignal], bool]

#: Reasons by the step at which a strip is lost; what is left is lead II and rhythm.
NOT_RECORDED = {Exclusion.NO_WAVEFORM, Exclusion.NO_CLINICAL_OVERLAP, Exclusion.UNREADABLE_SEGMENT}
SIGNAL = {
    Exclusion.TOO_LITTLE_SIGNAL,
    Exclusion.FLAT_LINE,
    Exclusion.CLIPPED,
    Exclusion.TOO_FEW_BEATS,
    Exclusion.AMPLITUDE_OUT_OF_RANGE,
    Exclusion.HEART_RATE_OUT_OF_RANGE,
    Exclusion.DETECTORS_DISAGREE,
    Exclusion.BEATS_UNLIKE,
}


@dataclass(frozen=True)
class Figure:
    """One figure of a strip and how it is written.

    Attributes
    ----------
    title : with its unit.
    pick : from a strip; None where it was not measured.
    digits : decimals.
    percent : a share, written as percent.
    """

    title: str
    pick: Pick
    digits: int = 0
    percent: bool = False


FIGURES = (
    Figure("Heart rate, per minute", lambda one: one.heart_rate_bpm),
    Figure("Lead II in the window", lambda one: one.signal_share, percent=True),
    Figure("Beats accepted of those found", lambda one: one.n_beats / max(one.n_detected, 1), percent=True),
    Figure("Agreement of R-peak detectors", lambda one: one.agreement, percent=True),
    Figure("QRS amplitude, mV", lambda one: one.amplitude_mv, 2),
    Figure("QRS duration, ms", lambda one: one.qrs_ms),
)
BEATS: Mapping[BeatRejection, str] = {
    BeatRejection.UNLIKE: "  unlike the median beat",
    BeatRejection.EDGE: "  at an edge or a gap",
    BeatRejection.STEP: "  jump of the base line",
    BeatRejection.AMPLITUDE: "  amplitude not real",
}
#: Smaller shares of beats are written as zero, so they have no row.
LEAST_SHARE = 0.0005


def steps_table(strips: Sequence[StripSignal], settings: Settings, site: str) -> Table:
    """Return the share of strips that pass each step, by label, with the difference within patients."""

    def leads(one: StripSignal) -> bool:
        return _recorded(one) and one.exclusion != Exclusion.LEAD_II_ABSENT

    def clean(one: StripSignal) -> bool:
        return leads(one) and one.exclusion not in SIGNAL

    def accepted(one: StripSignal) -> bool:
        return one.exclusion is None

    steps: list[tuple[str, Test, Test]] = [
        ("ECG recorded", lambda _: True, _recorded),
        ("  with lead II", _recorded, leads),
        ("  signal good enough", leads, clean),
        ("  rhythm regular enough", clean, accepted),
        ("Accepted, of those recorded", _recorded, accepted),
    ]
    rows = []
    for title, of, passes in steps:
        whole = [one for one in strips if of(one)]
        own = [[passes(one) for one in whole if one.label == label] for label in _labels(settings)]
        change = within_patients(whole, _as_number(passes), settings, site, title.strip())
        rows.append([title, *(_part(sum(kept), len(kept)) for kept in own), *_change(change, 0, True)])
    return _by_label(
        "Strips that pass each step, of those that passed the one before, by label. If one label is lost "
        "more often than the other, what is left of it is a choice of its cleaner strips.",
        rows if strips else [],
        settings,
    )


def signal_table(strips: Sequence[StripSignal], settings: Settings, site: str) -> Table:
    """Return the signal of the accepted strips by label, with the difference within patients."""
    kept = [one for one in strips if one.exclusion is None and one.n_beats > 0]
    labels = _labels(settings)
    rows = [
        ["Strips (patients)", *(_size([one for one in kept if one.label == name]) for name in labels), "", ""]
    ]
    for figure in FIGURES:
        scale = 100 if figure.percent else 1
        cells = []
        for label in labels:
            values = [v for one in kept if one.label == label and (v := figure.pick(one)) is not None]
            text = median_iqr([scale * value for value in values], figure.digits)
            cells.append(text.replace(")", f"{SPACE}%)") if figure.percent else text)
        if any(cell != MISSING for cell in cells):
            change = within_patients(kept, figure.pick, settings, site, figure.title)
            rows.append([figure.title, *cells, *_change(change, figure.digits, figure.percent)])
    pacing = [one for one in kept if one.pacing_suspected is not None]
    if pacing:
        own = [[one.pacing_suspected is True for one in pacing if one.label == label] for label in labels]
        rows.append(["Pacing suspected", *(_part(sum(known), len(known)) for known in own), "", ""])
    found = [max(sum(one.n_detected for one in kept if one.label == label), 1) for label in labels]
    left = [_rejected([one for one in kept if one.label == label]) for label in labels]
    shares = [[own.total() / n for own, n in zip(left, found, strict=True)]]
    shares += [[own[code] / n for own, n in zip(left, found, strict=True)] for code in BEATS]
    for title, parts in zip(("Beats left out", *BEATS.values()), shares, strict=True):
        if any(part >= LEAST_SHARE for part in parts):
            rows.append([title, *(percent(part, 1) for part in parts), "", ""])
    return _by_label(
        "Signal of the accepted strips, by label: median (quartiles) over strips, or share. Beats left out "
        "are shares of those found.",
        rows if kept else [],
        settings,
    )


def _by_label(caption: str, rows: Sequence[Sequence[str]], settings: Settings) -> Table:
    task = settings.words
    small = SMALL_SAMPLE_NOTE if any("†" in row[-1] for row in rows) else ""
    return Table(
        caption=caption,
        head=(
            "",
            *(task.word(label).capitalize() for label in _labels(settings)),
            f"{task.short_positive.capitalize()} − {task.short_negative}, same patients",
            "95\u202f% interval",
        ),
        rows=rows,
        note="Same patients: mean over those with strips of both labels (their number) of the mean of the "
        f"one label less that of the other. From the table strips of the site database. {small}".strip(),
        form="dense",
        empty="No strip is in the database.",
    )


def within_patients(
    strips: Sequence[StripSignal], pick: Pick, settings: Settings, site: str, title: str
) -> Summary:
    """Return the mean over patients with both labels of positive less negative strips, each a patient's mean.

    Parameters
    ----------
    strips : of any label; those in the gap are left aside.
    pick : figure of a strip, None where it was not measured.
    title : names the random stream of the interval.
    """
    values: dict[tuple[int, str], list[float]] = {}
    for one in strips:
        if (value := pick(one)) is not None:
            values.setdefault((one.patient, one.label), []).append(value)
    differences = [
        _mean(own) - _mean(values[patient, Label.NEGATIVE])
        for (patient, label), own in sorted(values.items())
        if label == Label.POSITIVE and (patient, Label.NEGATIVE) in values
    ]
    return summary(differences, settings.seed, site, "quality", title)


def quality_sentences(
    strips: Sequence[StripSignal], members: Sequence[Member], settings: Settings, site: str
) -> list[str]:
    """Say what a reader should know of the data: differences between labels, few patients, unknowns.

    Parameters
    ----------
    strips : of the site.
    members : patients of the cohort, for what is not known of them.
    """
    task = settings.words
    kept = [one for one in strips if one.exclusion is None and one.n_beats > 0]
    out = []
    taken = within_patients(strips, lambda one: float(_recorded(one)), settings, site, "ECG recorded")
    if task.quantity and _clear(taken):
        more = "more" if taken.mean > 0 else "less"
        out.append(
            f"An ECG was recorded {more} often before draws with {task.positive} than before draws with "
            f"{task.negative} of the same patients ({_written(taken, 100, 0, ' points')}): the share of "
            "positive strips in this report is not that of the ward."
        )
    recorded = [one for one in strips if _recorded(one)]
    title = "Accepted, of those recorded"
    accepted = within_patients(recorded, lambda one: float(one.exclusion is None), settings, site, title)
    if _clear(accepted):
        more = "more" if accepted.mean > 0 else "less"
        out.append(
            f"Recorded strips of {task.positive} pass the quality rules {more} often than strips of "
            f"{task.negative} of the same patients ({_written(accepted, 100, 0, ' points')})."
        )
    rate = within_patients(kept, lambda one: one.heart_rate_bpm, settings, site, FIGURES[0].title)
    if _clear(rate):
        way = "faster" if rate.mean > 0 else "slower"
        out.append(
            f"The heart is {way} in strips of {task.positive} than in those of {task.negative} of the same "
            f"patients ({_written(rate, 1, 1, ' per minute')}): a model may use that, and the baseline on "
            "heart rate alone shows how far it leads."
        )
    per = Counter(one.patient for one in kept)
    if per:
        numbers = sorted(per.values(), reverse=True)
        half = next(k for k in range(1, len(numbers) + 1) if 2 * sum(numbers[:k]) >= sum(numbers))
        out.append(
            f"{plural(len(per), 'patient')} have {median_iqr(numbers)} accepted strips each (median, "
            f"quartiles), at most {count(numbers[0])}; half of all strips are of {plural(half, 'patient')}."
        )
    people = {member.patient: member for member in members}.values()
    unknown = [
        f"{name} {percent(n / len(people))}"
        for name, key in (("sex", "sex"), ("age", "age"), ("height", "height_cm"), ("weight", "weight_kg"))
        if (n := sum(getattr(one, key) is None for one in people)) and (task.quantity or n < len(people))
    ]
    if unknown:
        out.append(f"Not known of the {plural(len(people), 'patient')} of the cohort: {', '.join(unknown)}.")
    return out


def _recorded(one: StripSignal) -> bool:
    return one.exclusion not in NOT_RECORDED


def _labels(settings: Settings) -> list[Label]:
    return [Label.POSITIVE, Label.NEGATIVE, *([Label.GAP] if settings.words.gap else [])]


def _as_number(test: Test) -> Pick:
    return lambda one: float(test(one))


def _part(part: int, whole: int) -> str:
    return f"{percent(part / whole)} of {count(whole)}" if whole else MISSING


def _size(strips: Sequence[StripSignal]) -> str:
    return f"{count(len(strips))} ({count(len({one.patient for one in strips}))})"


def _rejected(strips: Sequence[StripSignal]) -> Counter[str]:
    total: Counter[str] = Counter()
    for one in strips:
        total.update(one.rejected)
    return total


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _clear(change: Summary) -> bool:
    """Whether an interval lies on one side of zero."""
    return change.interval is not None and change.interval.low * change.interval.high > 0


def _change(change: Summary, digits: int, shares: bool) -> list[str]:
    """Write a difference and its interval as two cells; shares in points."""
    if not change.n:
        return [MISSING, MISSING]
    scale, unit = (100, " points") if shares else (1, "")
    mean = f"{decimal(scale * change.mean, digits, signed=True)}{unit} ({count(change.n)})"
    if change.interval is None:
        return [mean, "too few"]
    if change.interval.low == change.interval.high == 0:
        return [mean, "no difference"]
    ends = [scale * end for end in change.interval[:2]]
    if max(map(abs, ends)) < 10.0**-digits / 2:  # an interval of two zeros would say that there is none
        digits += 1
    low, high = (decimal(end, digits, signed=True) for end in ends)
    mark = f"{SPACE}†" if "small sample" in change.interval.method else ""
    return [mean, f"{low} to {high}{mark}"]


def _written(change: Summary, scale: float, digits: int, unit: str) -> str:
    assert change.interval is not None  # only clear differences are written
    low, high = (decimal(scale * end, digits, signed=True) for end in change.interval[:2])
    return (
        f"{decimal(scale * change.mean, digits, signed=True)}{unit}, 95{SPACE}% interval {low} to {high}, "
        f"{plural(change.n, 'patient')}"
    )

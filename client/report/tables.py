"""The tables of the site report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import stdev

from client.learning.comparisons import mann_whitney, paired
from client.report.comparison import FITTED, Comparison
from client.report.evidence import CohortEvidence, Evidence, Generic
from common.corrections import holm
from common.metrics import Confusion
from common.page import METHODS, FigureWords, Table
from common.page.numbers import (
    MISSING,
    SMALL_SAMPLE_NOTE,
    count,
    decimal,
    figure_difference,
    figure_value,
    interval_cell,
    share,
    short_digest,
)
from common.page.words import FIGURES
from common.seeding import stream
from common.task import Task


def generic_table(evidence: Evidence) -> Table:
    """Return the figures of the generic model on patients it was not trained on, one column per run."""
    shown = [one for one in evidence.generic if one.counted]
    several = len(evidence.generic) > 1

    def row(title: str, pick: Callable[[Generic], str]) -> list[str]:
        return [title, *(pick(one) for one in shown)]

    def ratio(part: int, whole: int) -> str:
        return share(part, whole, 1)

    rows = [
        row("Test patients", lambda one: count(one.patients)),
        row("Strip level", lambda one: _labels(one.strips)),
        row("  accuracy by vote", lambda one: ratio(one.strips.tp + one.strips.tn, one.strips.total)),
        row("  sensitivity", lambda one: ratio(one.strips.tp, one.strips.tp + one.strips.fn)),
        row("  specificity", lambda one: ratio(one.strips.tn, one.strips.tn + one.strips.fp)),
        row("Beat level", lambda one: _labels(one.beats)),
        row("  AUC", lambda one: decimal(one.histogram.auc, 3) if one.histogram else MISSING),
        row("  F1", lambda one: decimal(one.beats.f1 if one.beats.tp + one.beats.fn else None, 3)),
        row("  sensitivity", lambda one: ratio(one.beats.tp, one.beats.tp + one.beats.fn)),
        row("  specificity", lambda one: ratio(one.beats.tn, one.beats.tn + one.beats.fp)),
        row("  positive predictivity", lambda one: ratio(one.beats.tp, one.beats.tp + one.beats.fp)),
    ]  # fmt: skip
    return Table(
        caption="The generic model on test patients: none of them trained or chose it. "
        + ("Personal patients are among them. " if several else "")
        + "All beats and strips pooled; a strip is called positive when more than half of its beats are.",
        head=("", *(one.run if several else "Test patients" for one in shown)),
        rows=rows if shown else [],
        note="Beats of one patient resemble each other: the number of patients, not of beats, says how far "
        "these figures carry.",
        empty="The cohort has no generic test patients, so the generic model is judged only on the personal "
        "patients below, before their first personalization round.",
        form="narrow",
    )


def _labels(counts: Confusion) -> str:
    return f"{count(counts.tp + counts.fn)} positive, {count(counts.tn + counts.fp)} negative"


def confusion_table(evidence: Evidence, task: Task) -> Table:
    """Return the counts behind the figures of the generic model."""
    rows = []
    for one in evidence.generic:
        if not one.counted:
            continue
        where = f"{one.run}: " if len(evidence.generic) > 1 else ""
        for level, c in (("strips", one.strips), ("beats", one.beats)):
            rows.append([f"{where}{level}, {task.positive}", count(c.tp), count(c.fn)])
            rows.append([f"{where}{level}, {task.negative}", count(c.fp), count(c.tn)])
    return Table(
        caption="What the generic model called them.",
        head=("Label", f"called {task.short_positive}", f"called {task.short_negative}"),
        rows=rows,
        form="narrow",
    )


def rounds_table(result: Comparison) -> Table:
    """Return the mean over patients by method and personalization round."""
    words, patients = result.words, result.patients
    last = max((one.rounds for one in patients), default=0)
    rows = []
    for method in FITTED:
        cells = [METHODS[method].title]
        for round_ in range(last + 1):
            values = [one.figure(method, round_, words.key) for one in patients if one.rounds >= round_]
            kept = [value for value in values if math.isfinite(value)]
            cells.append(
                f"{figure_value(math.fsum(kept) / len(kept), words)} ({len(kept)})" if kept else MISSING
            )
        end = result.methods[method]
        cells.append(f"{figure_value(end.mean, words)} ({end.n})")
        cells.append(interval_cell(end.interval, words))
        rows.append(cells)
    return Table(
        caption=f"Mean {words.title} by personalization round (number of patients who reached the round in "
        "brackets). Round 0 is the generic model.",
        head=("Method", *(f"Round {r}" for r in range(last + 1)), "Last round of each", "95\u202f% interval"),
        rows=rows if patients else [],
        note=_small(rows),
        form="dense",
        empty="No patient was tested personally.",
    )


def _small(rows: Sequence[Sequence[str]]) -> str:
    return SMALL_SAMPLE_NOTE if any("†" in cell for row in rows for cell in row) else ""


#: Rows of the table of all figures, by level, in the order of the source paper.
LEVELS: Mapping[str, Sequence[tuple[str, FigureWords]]] = {
    "Strip level": (
        ("accuracy by vote", FIGURES["strip_accuracy"]),
        ("sensitivity", FIGURES["strip_sensitivity"]),
        ("specificity", FIGURES["strip_specificity"]),
        ("F1", FigureWords("strip_f1", "strip F1", False, 3)),
        ("AUC by mean logit", FIGURES["strip_auc"]),
    ),
    "Beat level": (
        ("accuracy", FIGURES["beat_accuracy"]),
        ("sensitivity", FIGURES["beat_sensitivity"]),
        ("specificity", FIGURES["beat_specificity"]),
        ("positive predictivity", FIGURES["beat_positive_predictivity"]),
        ("F1", FIGURES["beat_f1"]),
        ("AUC", FIGURES["beat_auc"]),
    ),
}


def figures_table(result: Comparison, seed: int, site: str) -> Table:
    """Return every figure of merit after the last round as the source paper gives it, by method.

    Beside the mean and standard deviation over patients stand two tests of the selected against the generic
    model: one of pairs, and the paper's, which takes them for different patients.
    """
    rows: list[list[str]] = []
    strong: list[int] = []
    tests: dict[int, float | None] = {}
    for level, figures in LEVELS.items():
        strong.append(len(rows))
        rows.append([level, *[""] * (len(METHODS) + 3)])
        for title, words in figures:
            values = {method: [one.last(method, words.key) for one in result.patients] for method in METHODS}
            numbers = sorted({sum(map(math.isfinite, own)) for own in values.values()})
            pair = paired(
                values["selected"],
                values["generic"],
                "selected",
                "generic",
                stream("report", seed, site, "as in the paper", words.key),
            )
            tests[len(rows)] = pair.p
            judged = " *" if words.key == result.words.key else ""
            rows.append(
                [
                    f"  {title}{judged}",
                    count(numbers[0]) + (f" to {count(numbers[-1])}" if len(numbers) > 1 else ""),
                    *(_mean_sd(own, words) for own in values.values()),
                    MISSING,
                    p_value(mann_whitney(values["selected"], values["generic"])),
                ]
            )
    for row, p in zip(tests, holm(list(tests.values())), strict=True):
        rows[row][-2] = p_value(p) + ("" if p is None else " ‡")
    return Table(
        caption="All figures after each patient’s last round as in the source paper: mean (standard "
        "deviation) over patients. The last two columns compare the selected with the generic model.",
        head=(
            "",
            "Patients",
            *(words.short for words in METHODS.values()),
            "P, pairs",
            "P, Mann-Whitney U",
        ),
        rows=rows if result.patients else [],
        strong=strong,
        note="* judged by. Figures of one patient rest on few strips; a figure that a patient does not have, "
        "such as the AUC of one label, is left out of the mean. P, pairs: Wilcoxon signed-rank over "
        "patients, ‡ exploratory, corrected by Holm within this table. Mann-Whitney U is the paper’s test, "
        "not corrected; it takes the same patients before and after for different ones. Only the difference "
        "to the own threshold was declared before the run.",
        form="dense",
        empty="No patient was tested personally.",
    )


def _mean_sd(values: Sequence[float], words: FigureWords) -> str:
    kept = [value for value in values if math.isfinite(value)]
    if not kept:
        return MISSING
    mean = figure_value(math.fsum(kept) / len(kept), words)
    return f"{mean} ({figure_value(stdev(kept), words)})" if len(kept) > 1 else mean


def p_value(p: float | None) -> str:
    """Write a p value with three decimals; a dash where the test could not be done."""
    if p is None:
        return MISSING
    return decimal(p, 3) if p >= 0.001 else "< 0.001"


def differences_table(result: Comparison) -> Table:
    """Return the paired differences: the declared one first."""
    words = result.words
    rows = [
        [
            f"Selected − {name}",
            kind,
            count(value.n),
            figure_difference(value.mean, words),
            interval_cell(value.interval, words, difference=True),
        ]
        for name, kind, value in (
            ("own threshold", "primary, declared before the run", result.over_threshold),
            ("generic model", "exploratory", result.over_generic),
        )
    ]
    return Table(
        caption=f"Paired differences in {words.title} after the last round, mean over patients.",
        head=("Difference", "Status", "Patients", "Mean", "95\u202f% interval"),
        rows=rows if result.patients else [],
        text=(1,),
        note=_small(rows),
        empty="No patient was tested personally.",
    )


def runs_table(evidence: CohortEvidence) -> Table:
    """List the runs behind the page."""
    return Table(
        caption="Runs in the site database this page was written from.",
        head=("Run", "Step", "Name", "Began (UTC)", "Seed", "Settings", "Data", "Model"),
        rows=[
            [
                str(run.id),
                run.kind,
                run.name,
                run.started,
                str(run.seed),
                short_digest(run.settings_sha256),
                short_digest(run.data_fingerprint),
                short_digest(run.model_sha256),
            ]
            for run in evidence.runs
        ],
        text=(1, 2, 3, 5, 6, 7),
        note="Hashes are shortened to 12 digits.",
    )

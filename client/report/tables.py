"""The tables of the site report."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from client.report.comparison import FITTED, Comparison, summary, worse_off
from client.report.evidence import CohortEvidence, Evidence, Generic, Personal
from client.report.wording import limit, outcome_text, short_outcome
from common.metrics import Confusion
from common.page import METHODS, Table
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
        caption="The generic model on test patients: none of them trained or chose it. With folds, "
        "personal patients are among them. All beats and strips pooled; a strip is called positive when more "
        "than half of its beats are.",
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


def figures_table(result: Comparison, seed: int, site: str) -> Table:
    """Return every figure of merit after the last round, mean over patients, by method."""
    rows = []
    for key, words in FIGURES.items():
        cells = [f"{words.title}{' *' if key == result.words.key else ''}"]
        for method in METHODS:
            value = summary([one.last(method, key) for one in result.patients], seed, site, key, method)
            cells.append(f"{figure_value(value.mean, words)} ({value.n})" if value.n else MISSING)
        rows.append(cells)
    return Table(
        caption="All figures after each patient’s last round: mean over patients "
        "(number of patients for whom "
        "the figure exists).",
        head=("Figure", *(words.title for words in METHODS.values())),
        rows=rows if result.patients else [],
        note="* judged by. Figures of one patient rest on few strips; only the mean over patients is "
        "compared, and only the difference to the own threshold was declared before the run. Everything else "
        "is exploratory.",
        empty="No patient was tested personally.",
    )


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


def patients_table(evidence: Evidence, result: Comparison) -> Table:
    """Return one row per patient: strips, outcome, every method's last round, and what was selected."""
    words = result.words
    worse = {id(loss.patient) for loss in worse_off(result)}
    several = len({one.run for one in evidence.personal}) > 1
    shown = evidence.personal
    rows: list[list[str]] = []
    marked: list[int] = []
    for one in shown:
        change = one.last("selected", words.key) - one.last("generic", words.key) if one.tested else math.nan
        if id(one) in worse:
            marked.append(len(rows))
        score = one.score("selected", one.rounds) if one.tested else None
        rows.append(
            [
                f"{one.patient}",
                *([one.run] if several else []),
                f"{one.train[0]} / {one.train[1]}",
                f"{one.test[0]} / {one.test[1]}",
                count(score.beats.total) if score else MISSING,
                f"{one.episodes[0]} / {one.episodes[1]}",
                *(
                    figure_value(one.last(method, words.key) if one.tested else None, words)
                    for method in METHODS
                ),
                figure_difference(change, words, unit=False) + (" ▼" if id(one) in worse else ""),
                _selected(one),
                short_outcome(one.outcome),
            ]
        )
    explained = [
        f"{short_outcome(code)}: {outcome_text(code)}"
        for code in sorted({one.outcome for one in shown} - {"personal"})
    ]
    notes = [f"▼ and shading: lost more than {limit(words)}, or more than 0.05 beat F1"] if marked else []
    return Table(
        caption=f"Every patient with enough strips of both labels: {words.title} after the last "
        "round, by method. Numbers "
        "of patients are this database’s own. Strips and episodes: positive / negative. Gain: selected − "
        "generic.",
        head=(
            "Patient",
            *(["Run"] if several else []),
            "Train strips",
            "Test strips",
            "Test beats",
            "Episodes",
            *(METHODS[method].short for method in METHODS),
            "Gain" + (", points" if words.percent else ""),
            "Chosen, round",
            "Outcome",
        ),
        rows=rows,
        text=tuple(range(len(rows[0]) - 2, len(rows[0]))) if rows else (),
        marked=marked,
        note="; ".join([*notes, *explained]),
        form="dense",
        empty="No patient of the frozen cohort has enough strips of both labels.",
    )


def _selected(one: Personal) -> str:
    if one.selected_method is None:
        return MISSING
    title = METHODS[one.selected_method].short if one.selected_method in METHODS else one.selected_method
    return f"{title}, {one.selected_round}" if one.selected_round else title


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

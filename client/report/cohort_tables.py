"""The tables of who is in, and who is not and why; each says which tables of the database it counts."""

from __future__ import annotations

from collections.abc import Sequence

from client.data.exclusion import BEAT_REJECTION_TEXT, EXCLUSION_TEXT
from client.database.queries import LabelCounts
from client.database.reviews import ACCEPTED
from client.report.evidence import CohortEvidence, Member
from client.report.table_one import Cell, Number, Part, Row, Spread, TableOne, make_table_one
from common.page import Table
from common.page.numbers import MISSING, count, decimal, percent, share
from common.task import Label, Task

SPLITS = ("train", "validation", "test")
#: What a rule of the cohort leaves out, for a table.
RULES = {
    "classes": "negative strips of patients with positive ones (cohort.classes is disjoint)",
    "balance": "surplus of the more frequent label (cohort.balance is strips)",
}


def flow_table(evidence: CohortEvidence, task: Task) -> Table:
    """Write the flowchart as a table: what is left at each step, and what was left out before it and why."""
    flow, steps = evidence.flow, evidence.flow.steps
    labels = [Label.POSITIVE, Label.NEGATIVE, *([Label.GAP] if task.gap else [])]
    rows: list[list[str]] = []
    strong: list[int] = []

    def line(title: str, patients: int | None, number: int | None, by: LabelCounts | None = None) -> None:
        cells = [MISSING if by is None else count(getattr(by, label)) for label in labels]
        counts = [MISSING if value is None else count(value) for value in (patients, number)]
        rows.append([title, *counts, *cells])

    def left(title: str, patients: int, number: int | None, by: LabelCounts | None = None) -> None:
        strong.append(len(rows))
        line(title, patients, number, by)

    left("Patients in the site’s files", steps.patients, None)
    if task.quantity:
        left("Blood draws", steps.draw_patients, steps.draws)
        for one in flow.draws_excluded:
            line(f"  left out: {reason(one.code)}", one.patients, one.number)
        left("Draws with a label", steps.labelled_patients, steps.labelled.total, steps.labelled)
        if (kept := flow.suspected_kept).number:
            line("  of these kept although hemolysis is suspected", kept.patients, kept.number, kept.labels)
    else:
        left("Strips", steps.strip_patients, steps.strips)
    for one in flow.strips_excluded:
        line(f"  left out: {reason(one.code)}", one.patients, one.number, one.labels)
    left("Strips accepted", steps.accepted_patients, steps.accepted.total, steps.accepted)
    if evidence.is_frozen:
        for one in flow.cohort_excluded:
            line(f"  left out: {RULES.get(one.code, one.code)}", one.patients, one.number, one.labels)
        for title, members in _cohort_lines(evidence.members):
            by = _labels_of(members)
            (line if title.startswith("  ") else left)(title, len(members), by.total, by)
    what = ", draws and strips" if task.quantity else " and strips"
    reported = flow.reported.number
    return Table(
        caption=f"Inclusion step by step: patients{what} at each step, and why others were left out. A "
        "patient may appear under several reasons.",
        head=("Step", "Patients", "Draws or strips" if task.quantity else "Strips",
              *(task.word(label).capitalize() for label in labels)),
        rows=rows,
        strong=strong,
        note="Counted from the tables patients, draws (label, exclusion, hemolysis), strips (exclusion, "
        "n_beats) and cohort_members of the site database. "
        + (f"The laboratory reports {count(reported)} draws as hemolyzed; they are left out, under the first "
        "reason that applies. " if reported else ""),
    )  # fmt: skip


def _cohort_lines(members: Sequence[Member]) -> list[tuple[str, list[Member]]]:
    runs = list(dict.fromkeys(member.run for member in members))
    out = []
    for run in runs:
        where = f", {run}" if len(runs) > 1 else ""
        own = [member for member in members if member.run == run]
        generic = [member for member in own if member.role == "generic"]
        out.append((f"Generic cohort{where}", generic))
        for split in SPLITS:
            if part := [member for member in generic if member.split == split]:
                out.append((f"  {split}", part))
        out.append((f"Personal cohort{where}", [member for member in own if member.role == "personal"]))
    return out


def _labels_of(members: Sequence[Member]) -> LabelCounts:
    return LabelCounts(**{str(label): sum(m.counts[label] for m in members) for label in Label})


def beats_table(evidence: CohortEvidence) -> Table:
    """Say what became of the beats of the accepted strips."""
    beats = evidence.flow.beats
    texts = {str(code): text.rstrip(".") for code, text in BEAT_REJECTION_TEXT.items()}
    rows = [["R peaks found", count(beats.found), MISSING]]
    rows += [
        [f"  left out: {_small(texts.get(code, code))}", count(n), percent(n / max(beats.found, 1), 1)]
        for code, n in beats.rejected.items()
    ]
    rows.append(["Beats accepted", count(beats.accepted), percent(beats.accepted / max(beats.found, 1), 1)])
    known = sum(beats.rejected.values()) + beats.accepted
    rest = beats.found - known
    if rest > 0:
        rows.insert(-1, ["  left out: reason not stored", count(rest), percent(rest / beats.found, 1)])
    return Table(
        caption="Beats of the accepted strips.",
        head=("", "Beats", "Share of those found"),
        rows=rows if beats.found else [],
        note="Sums of n_detected, n_beats and beats_rejected in the table strips.",
        form="narrow",
        empty="No strip was accepted, so there are no beats.",
    )


def reviews_table(evidence: CohortEvidence) -> Table:
    """Say what reviewers said about the strips they were shown, by what the software had said."""
    found = evidence.reviews
    rows = [
        [
            "accepted" if one.reason == ACCEPTED else reason(one.reason),
            one.reviewer,
            count(one.reviewed),
            count(one.patients),
            count(one.usable),
            count(one.unusable),
            count(one.unsure),
            share(one.as_software, one.judged),
        ]
        for one in (found.rows if found else ())
    ]
    return Table(
        caption="What reviewers said, looking at a random sample of strips. Verdicts are counted and change "
        "nothing: no strip comes in or goes out by them.",
        head=("What the software said", "Reviewer", "Strips", "Patients", "Usable", "Unusable", "Unsure",
              "As the software"),
        rows=rows,
        text=(1,),
        note="From the table reviews of the site database. Strips a reviewer was unsure about are in no "
        "share.",
        form="dense",
    )  # fmt: skip


def reason(code: str) -> str:
    """Return a reason for exclusion as the middle of a sentence."""
    texts = {str(key): text for key, text in EXCLUSION_TEXT.items()}
    return _small(texts.get(code, code.replace("_", " ")).rstrip("."))


def _small(sentence: str) -> str:
    """Begin a sentence in lower case, unless its first word is an abbreviation."""
    first = sentence.split(" ", 1)[0]
    return sentence if first.isupper() and len(first) > 1 else sentence[:1].lower() + sentence[1:]


def table_one(evidence: CohortEvidence, task: Task) -> Table:
    """Write Table 1: medians with quartiles, shares with counts, missing values counted."""
    made = make_table_one(evidence, task)
    folds = len({member.run for member in evidence.members})
    who = (
        "Patients and strips of the frozen cohort: the patients the generic model is trained and tested on, "
        "and those with enough strips of both labels for a model of their own. "
        if evidence.is_frozen
        else "Patients with an accepted strip, and these strips. "
    )
    note = "From the tables patients and strips of the site database."
    if folds > 1:
        note = (
            f"The {folds} folds are taken together: a patient who is generic in one fold and personal in "
            f"another is counted in both columns. {note}"
        )
    return Table(
        caption=who + "Median (quartiles), or share (number of known).",
        head=("", *made.columns),
        rows=[_written(row, made) for row in made.rows],
        note=note,
    )


def _written(row: Row, table: TableOne) -> list[str]:
    cells = [_cell(cell, row.digits) for cell in row.cells] or [""] * len(table.columns)
    return [f"  {row.title}" if row.indent else row.title, *cells]


def _cell(cell: Cell, digits: int) -> str:
    if isinstance(cell, Number):
        return count(cell.n)
    if isinstance(cell, Part):
        text = share(cell.n, cell.of)
        return f"{text}; {count(cell.missing)} missing" if cell.missing else text
    return _spread(cell, digits)


def _spread(cell: Spread, digits: int) -> str:
    if cell.median is None:
        return f"{count(cell.missing)} missing" if cell.missing else MISSING
    text = f"{decimal(cell.median, digits)} ({decimal(cell.low, digits)} to {decimal(cell.high, digits)})"
    return f"{text}; {count(cell.missing)} missing" if cell.missing else text

"""The tables of who is in the report, and who is not and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from client.data.exclusion import EXCLUSION_TEXT
from client.report.evidence import Evidence, Member
from common.page import Table
from common.page.numbers import count, median_iqr, share
from common.task import Label, Task


def exclusions(evidence: Evidence, task: Task) -> Table:
    """List why draws and strips were left out."""
    flow = evidence.flow
    groups = [("draw", flow.draws_excluded)] if task.quantity else []
    groups.append(("strip", flow.strips_excluded))
    rows = [
        [_reason(one.code), kind, count(one.number), count(one.patients)]
        for kind, excluded in groups
        for one in excluded
    ]
    return Table(
        caption="Reasons for exclusion. A patient may appear under several reasons.",
        head=("Reason", "What was left out", "Number", "Patients"),
        rows=rows,
        text=(1,),
        empty="Nothing was excluded.",
    )


def _reason(code: str) -> str:
    sentence: str = {str(key): text for key, text in EXCLUSION_TEXT.items()}.get(code, code.replace("_", " "))
    return sentence.rstrip(".")


def table_one(evidence: Evidence, task: Task) -> Table:
    """Compare the generic and the personal cohort; medians with quartiles, missing values counted."""
    first: dict[tuple[str, int], Member] = {}
    for member in evidence.members:
        first.setdefault((member.role, member.patient), member)
    groups = [
        [member for (role, _), member in first.items() if role == wanted]
        for wanted in ("generic", "personal")
    ]
    inside = [{member.patient for member in group} for group in groups]
    strips = [[strip for strip in evidence.strips if strip.patient in ids] for ids in inside]
    rows: list[list[str]] = [["Patients", *(count(len(group)) for group in groups)]]

    def numeric(title: str, pick: Callable[[Member], float | None], digits: int = 0) -> None:
        values = [[pick(member) for member in group] for group in groups]
        if any(value is not None for group in values for value in group):
            rows.append([title, *(_with_missing(group, digits) for group in values)])

    numeric("Age, years", lambda member: member.age)
    if any(member.sex for group in groups for member in group):
        rows.append(
            ["Male", *(_of_known([m.sex for m in group], "M") for group in groups)],
        )
    numeric("Height, cm", lambda member: member.height_cm)
    numeric("Weight, kg", lambda member: member.weight_kg)
    origins = sorted({m.ethnicity for group in groups for m in group if m.ethnicity})
    if origins:
        rows.append(["Ethnicity", *("" for _ in groups)])
        for origin in origins:
            numbers = [sum(m.ethnicity == origin for m in group) for group in groups]
            rows.append([f"  {origin}", *(share(k, len(g)) for k, g in zip(numbers, groups, strict=True))])
    for label in Label:
        if label == Label.GAP and task.gap is None:
            continue
        own = [[strip for strip in group if strip.label == label] for group in strips]
        rows.append([f"Strips, {task.word(label)}", *(count(len(group)) for group in own)])
        rows.append(
            ["  patients with such strips", *(count(len({s.patient for s in group})) for group in own)]
        )
        if task.quantity:
            values = [[s.value for s in group if s.value is not None] for group in own]
            rows.append([f"  {task.quantity}, {task.unit}", *(median_iqr(value, 1) for value in values)])
    rows.append(["Beats per strip", *(median_iqr([s.n_beats for s in group]) for group in strips)])
    rates = [[s.heart_rate_bpm for s in group if s.heart_rate_bpm is not None] for group in strips]
    if any(rates):
        rows.append(["Heart rate of a strip, per minute", *(median_iqr(group) for group in rates)])
    folds = len({member.run for member in evidence.members})
    return Table(
        caption="Patients and strips of the frozen cohort: the patients the generic model is trained and "
        "tested on, and those with enough strips of both labels for a model of "
        "their own. Median (quartiles), "
        "or share (number of known).",
        head=("", "Generic cohort", "Personal cohort"),
        rows=rows,
        note=(
            f"The {folds} folds are taken together: a patient who is generic in one fold and personal in "
            "another is counted in both columns."
            if folds > 1
            else ""
        ),
    )


def _with_missing(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    missing = len(values) - len(known)
    text = median_iqr(known, digits)
    return f"{text}; {missing} missing" if missing and values else text


def _of_known(values: Sequence[str | None], wanted: str) -> str:
    known = [value for value in values if value]
    text = share(sum(value == wanted for value in known), len(known))
    missing = len(values) - len(known)
    return f"{text}; {missing} missing" if missing else text

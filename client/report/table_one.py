"""Table 1: who the patients are: medians with quartiles, shares of what is known, and what is missing.

Patients and strips come from the database as they are; nothing is computed here but counts and quartiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from client.report.evidence import CohortEvidence, Member, StripRow
from common.page.numbers import quartiles
from common.task import Label, Task

#: Groups of the paper's Table 1, in its order; others follow by name, unknown comes last.
ORIGINS = ("White", "African American", "Hispanic", "Asian", "American Indian", "other")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Number:
    """A plain count."""

    n: int


@dataclass(frozen=True)
class Part:
    """``n`` of the ``of`` patients of whom it is known; ``missing`` are those of whom it is not."""

    n: int
    of: int
    missing: int = 0


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of ``n`` known values; ``missing`` values are not known."""

    n: int
    missing: int
    median: float | None
    low: float | None
    high: float | None


Cell = Number | Part | Spread


@dataclass(frozen=True)
class Row:
    """One row: its title, whether it belongs under the row before, and one cell for each column.

    ``digits`` are the decimals of a spread.
    """

    title: str
    cells: Sequence[Cell]
    indent: bool = False
    digits: int = 0


@dataclass(frozen=True)
class TableOne:
    """Columns and rows of Table 1."""

    columns: Sequence[str]
    rows: Sequence[Row]

    def as_json(self) -> dict[str, Any]:
        """Return it for a program: a spread has n, missing, median, low (first quartile), high (third)."""
        return {"columns": list(self.columns), "rows": [asdict(row) for row in self.rows]}


def describe(values: Sequence[float | None]) -> Spread:
    """Return median and quartiles of the known values, and how many are not known."""
    known = sum(value is not None for value in values)
    found = quartiles(values) or (None, None, None)
    return Spread(known, len(values) - known, *found)


def make_table_one(evidence: CohortEvidence, task: Task) -> TableOne:
    """Describe the generic and the personal cohort; before there is a cohort, everybody with a strip."""
    groups = _groups(evidence)
    people = list(groups.values())
    inside = [{member.patient for member in group} for group in people]
    strips = [[strip for strip in evidence.strips if strip.patient in ids] for ids in inside]
    rows = [Row("Patients", [Number(len(group)) for group in people])]
    rows += _spread("Age, years", people, lambda member: member.age)
    rows += _sex(people)
    rows += _spread("Height, cm", people, lambda member: member.height_cm)
    rows += _spread("Weight, kg", people, lambda member: member.weight_kg)
    rows += _origins(people)
    for label in Label:
        if label != Label.GAP or task.gap is not None:
            rows += _of_label([[s for s in group if s.label == label] for group in strips], label, task)
    rows.append(Row("Beats per strip", [describe([s.n_beats for s in group]) for group in strips]))
    rates = [describe([s.heart_rate_bpm for s in group]) for group in strips]
    if any(rate.n for rate in rates):
        rows.append(Row("Heart rate of a strip, per minute", rates))
    return TableOne(list(groups), rows)


def _groups(evidence: CohortEvidence) -> dict[str, list[Member]]:
    """Return the columns; a patient who has a role in several folds counts once in each column."""
    first: dict[tuple[str, int], Member] = {}
    for member in evidence.members:
        first.setdefault((member.role, member.patient), member)
    if not evidence.is_frozen:
        return {"With an accepted strip": list(first.values())}
    return {
        f"{role.capitalize()} cohort": [member for (own, _), member in first.items() if own == role]
        for role in ("generic", "personal")
    }


def _spread(
    title: str, groups: Sequence[Sequence[Member]], pick: Callable[[Member], float | None]
) -> list[Row]:
    cells = [describe([pick(member) for member in group]) for group in groups]
    return [Row(title, cells)] if any(cell.n for cell in cells) else []


def _sex(groups: Sequence[Sequence[Member]]) -> list[Row]:
    known = [[member.sex for member in group if member.sex] for group in groups]
    if not any(known):
        return []
    cells = [
        Part(own.count("M"), len(own), len(group) - len(own))
        for own, group in zip(known, groups, strict=True)
    ]
    return [Row("Male", cells)]


def _origins(groups: Sequence[Sequence[Member]]) -> list[Row]:
    found = {member.ethnicity for group in groups for member in group if member.ethnicity}
    if not found:
        return []
    order = [*(o for o in ORIGINS if o in found), *sorted(found - {*ORIGINS, UNKNOWN}), UNKNOWN]
    names = [[member.ethnicity or UNKNOWN for member in group] for group in groups]
    rows = [
        Row(name, [Part(own.count(name), len(own)) for own in names], indent=True)
        for name in order
        if any(name in own for own in names)
    ]
    return [Row("Ethnicity", []), *rows]


def _of_label(groups: Sequence[Sequence[StripRow]], label: Label, task: Task) -> list[Row]:
    rows = [
        Row(f"Strips, {task.word(label)}", [Number(len(own)) for own in groups]),
        Row("patients with such strips", [Number(len({s.patient for s in own})) for own in groups], True),
    ]
    if task.quantity:
        cells = [describe([s.value for s in own]) for own in groups]
        rows.append(Row(f"{task.quantity}, {task.unit}", cells, True, 1))
    return rows

"""Inclusion on its own, as soon as files are in: flowchart and Table 1 as a page, as text and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from client.report import cohort_tables, wording
from client.report.drawing import Drawing
from client.report.evidence import CohortEvidence
from client.report.table_one import make_table_one
from client.report.tables import runs_table
from client.site import Site
from common.files import write_atomic
from common.page import Note, Table, render

TEMPLATE = Path(__file__).parent / "inclusion.html"
#: Where the page of a site lies, beside its report.
PAGE = "inclusion.html"
#: Titles of rows are broken after so many letters on a terminal.
TITLE_WIDTH = 58
#: A caption is at least so wide, also above a narrow table.
CAPTION_WIDTH = 78


def write_page(site: Site, evidence: CohortEvidence, path: Path) -> None:
    """Write the page.

    Parameters
    ----------
    site : name and settings.
    evidence : what is known of it.
    path : of the page.

    Raises
    ------
    StorageError
        If the page cannot be written; an older page stays.
    """
    write_atomic(path, render(TEMPLATE, page_content(site, evidence)))


def page_content(site: Site, evidence: CohortEvidence) -> dict[str, Any]:
    """Return everything the template shows; equal evidence gives equal content."""
    task = site.settings.words
    return {
        "site": site.name,
        "task": task,
        "rule": wording.rule(site.settings),
        "cohort_rules": wording.cohort_rules(evidence),
        "notes": [Note("Note:", f"{note}.") for note in evidence.cohort_notes],
        "figure": Drawing(site.settings).flow(evidence),
        "tables": {
            "flow": cohort_tables.flow_table(evidence, task),
            "beats": cohort_tables.beats_table(evidence),
            "reviews": cohort_tables.reviews_table(evidence),
            "one": cohort_tables.table_one(evidence, task),
            "runs": runs_table(evidence),
        },
        "schema": evidence.schema_version,
    }


def as_text(site: Site, evidence: CohortEvidence) -> str:
    """Return the same tables for a terminal."""
    task = site.settings.words
    parts = [
        cohort_tables.flow_table(evidence, task),
        cohort_tables.beats_table(evidence),
        cohort_tables.table_one(evidence, task),
    ]
    notes = [f"note: {note}" for note in evidence.cohort_notes]
    return "\n\n".join([f"{site.name}: {part}" for part in notes] + ["\n".join(lines(t)) for t in parts])


def as_json(site: Site, evidence: CohortEvidence) -> dict[str, Any]:
    """Return the counts and Table 1 as values; nothing in it is about a single patient."""
    cohorts = [
        {"run": run, "role": role, "split": split, "patients": len(own)}
        | {label: sum(member.counts[label] for member in own) for label in ("positive", "negative", "gap")}
        for (run, role, split), own in _groups(evidence).items()
    ]
    return {
        "site": site.name,
        "inclusion": asdict(evidence.flow),
        "cohort": cohorts,
        "table_one": make_table_one(evidence, site.settings.words).as_json(),
        "notes": list(evidence.cohort_notes),
    }


def _groups(evidence: CohortEvidence) -> dict[tuple[str, str, str | None], list[Any]]:
    groups: dict[tuple[str, str, str | None], list[Any]] = {}
    for member in evidence.members if evidence.is_frozen else ():
        groups.setdefault((member.run, member.role, member.split), []).append(member)
    return groups


def lines(table: Table, width: int = TITLE_WIDTH) -> list[str]:
    """Write a table in letters of one width: titles to the left, broken where they are long, numbers right.

    Parameters
    ----------
    table : as for a page.
    width : longest title in one line.
    """
    if not table.rows:
        return [table.empty or table.caption]
    rows = [list(table.head), *(list(row) for row in table.rows)]
    sizes = [max(len(row[column]) for row in rows) for column in range(1, len(table.head))]
    first = min(width, max(len(row[0]) for row in rows))
    out = [*textwrap.wrap(table.caption, max(CAPTION_WIDTH, first + sum(sizes) + 2 * len(sizes))), ""]
    for row in rows:
        out += _row(row, first, sizes)
    return out


def _row(row: Sequence[str], first: int, sizes: Sequence[int]) -> list[str]:
    indent = "  " if row[0].startswith("  ") else ""
    title = textwrap.wrap(row[0].strip(), first, initial_indent=indent, subsequent_indent=indent + "  ") or [
        ""
    ]
    cells = "".join(f"  {cell:>{size}}" for cell, size in zip(row[1:], sizes, strict=True))
    return [*title[:-1], f"{title[-1]:<{first}}{cells}".rstrip()]

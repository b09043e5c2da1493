"""The numbers of a report for programs, beside the page: its tables as CSV, and everything as one JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from client.report.comparison import Comparison, Summary
from client.report.evidence import Evidence, Personal
from client.report.naming import PRIVATE
from client.report.patient_pages import Written
from common.files import write_atomic
from common.page import FIGURES, Table

FOLDER = "tables"
JSON_NAME = "report.json"
#: Version of the form of the JSON; a key that changes its meaning raises it.
JSON_FORM = 1
#: Raw values a row of ``results.csv`` has beside the figures of merit.
COUNTS = ("tp", "fp", "tn", "fn")


def write_beside(
    folder: Path,
    site: str,
    evidence: Evidence,
    result: Comparison,
    tables: Mapping[str, Table],
    written: Sequence[Written],
) -> list[Path]:
    """Write the tables and the JSON.

    Parameters
    ----------
    folder : of the report.
    site : its name.
    evidence, result : what the page was written from.
    tables : of the page, by name.
    written : the patients' pages.

    Returns
    -------
    The files, JSON first.

    Raises
    ------
    StorageError
        If a file cannot be written.
    """
    mode = None if evidence.naming.pseudonymous else PRIVATE
    everything = as_json(site, evidence, result, tables, written)
    files = {folder / JSON_NAME: json.dumps(everything, indent=1, allow_nan=False) + "\n"}
    for name, table in tables.items():
        if table.rows:
            files[folder / FOLDER / f"{name.replace('_', '-')}.csv"] = table_csv(table)
    files[folder / FOLDER / "results.csv"] = results_csv(evidence)
    for path, text in files.items():
        write_atomic(path, text, mode=mode)
    for old in sorted((folder / FOLDER).glob("*.csv")):
        if old not in files:
            old.unlink()
    return list(files)


def table_csv(table: Table) -> str:
    """Write a table as the page shows it; the first column titles the rows."""
    return _csv([table.head, *([cell.strip() for cell in row] for row in table.rows)])


def results_csv(evidence: Evidence) -> str:
    """Write every result of every patient: one row per protocol, method and round, with database rows."""
    head = ["patient", "row", "run", "protocol", "outcome", "method", "round", "chosen"]
    head += [f"{level}_{name}" for level in ("beat", "strip") for name in COUNTS] + list(FIGURES) + ["brier"]
    rows = [list(_result(evidence, one, key)) for one in _everybody(evidence) for key in sorted(one.scores)]
    return _csv([head, *rows])


def _everybody(evidence: Evidence) -> list[Personal]:
    everybody = [*evidence.personal, *evidence.beside, *evidence.controls]
    return sorted(everybody, key=lambda one: (evidence.naming.order(one.patient), one.run, one.protocol))


def _row(evidence: Evidence, one: Personal) -> int | None:
    """Return the database row, which in a pseudonymous copy would tell the order of the patients."""
    return None if evidence.naming.pseudonymous else one.row


def _result(evidence: Evidence, one: Personal, key: tuple[str, int]) -> Iterator[str]:
    score = one.scores[key]
    row = _row(evidence, one)
    yield from (evidence.naming.name(one.patient), "" if row is None else str(row))
    yield from (one.run, one.protocol, one.outcome)
    yield from (score.method, str(score.round), score.chosen or "")
    for counts in (score.beats, score.strips):
        yield from (str(getattr(counts, name)) for name in COUNTS)
    for name in (*FIGURES, "brier"):
        value = score.figure(name)
        yield repr(float(value)) if math.isfinite(value) else ""


def as_json(
    site: str,
    evidence: Evidence,
    result: Comparison,
    tables: Mapping[str, Table],
    written: Sequence[Written],
) -> dict[str, Any]:
    """Return everything a report shows, numbers as numbers; what does not exist is null."""
    name = evidence.naming.name
    return {
        "form": JSON_FORM,
        "site": site,
        "task": evidence.settings.get("task"),
        "pseudonymous": evidence.naming.pseudonymous,
        "unfinished": list(evidence.unfinished),
        "judged_by": result.words.key,
        "patients": len(result.patients),
        "methods": {method: _summary(value) for method, value in result.methods.items()},
        "selected_minus_threshold": _summary(result.over_threshold),
        "selected_minus_generic": _summary(result.over_generic),
        "runs": [
            {"run": run.id, "kind": run.kind, "name": run.name, "started": run.started, "seed": run.seed,
             "code_version": run.code_version, "settings_sha256": run.settings_sha256,
             "data_fingerprint": run.data_fingerprint, "model_sha256": run.model_sha256}
            for run in evidence.runs
        ],
        "personal": [
            {"patient": name(one.patient), "row": _row(evidence, one), "run": one.run,
             "protocol": one.protocol, "outcome": one.outcome, "rounds": one.rounds,
             "selected_method": one.selected_method,
             "train": list(one.train), "test": list(one.test), "episodes": list(one.episodes),
             "guard_as_good_as_best": one.guard,
             "last": {
                 method: {figure: _number(one.last(method, figure)) for figure in FIGURES}
                 for method in dict.fromkeys(method for method, _ in one.scores)
             }}
            for one in _everybody(evidence)
        ],
        "looked": {name(one.patient): one.looked.as_json() for one in written if one.looked},
        "pages": {name(one.patient): one.sha256 for one in written},
        "tables": {
            key: {"caption": table.caption, "head": list(table.head),
                  "rows": [list(row) for row in table.rows], "note": table.note}
            for key, table in tables.items() if table.rows
        },
        "settings": evidence.settings,
    }  # fmt: skip


def _summary(value: Summary) -> dict[str, Any]:
    interval = value.interval
    return {
        "n": value.n,
        "mean": _number(value.mean),
        "interval": [_number(interval.low), _number(interval.high)] if interval else None,
        "interval_method": interval.method if interval else None,
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _csv(rows: Sequence[Sequence[str]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([re.sub(r"\s+", " ", cell) for cell in row] for row in rows)
    return out.getvalue()

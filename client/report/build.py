"""Write the site report: read the database, draw, fill the template, put the page in place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from client.database.runs import SessionFactory, now, running
from client.database.tables import Report
from client.learning.explain import PatientExplanation
from client.report import cohort_tables, tables, validity, wording
from client.report.comparison import Comparison, compare
from client.report.drawing import Drawing
from client.report.evidence import Evidence, Personal
from client.report.example import choose, explain_example
from client.report.looking import attention_table
from client.report.reading import read_evidence
from client.site import Site
from common.config import Settings
from common.files import write_atomic
from common.logs import stage
from common.page import BASELINES, METHODS, render
from common.page.numbers import MISSING, decimal, short_digest

TEMPLATE = Path(__file__).parent / "report.html"


def build_report(site: Site, session_factory: SessionFactory, names: Sequence[str] = ("main",)) -> Path:
    """Write the site report from what the database knows.

    Parameters
    ----------
    site : settings and places.
    session_factory : of the site database.
    names : personalizations to put into one report, such as the folds of a journey; of each the latest
        finished one.

    Returns
    -------
    The page, ``site.report``.

    Raises
    ------
    DatabaseError
        If a personalization is missing; the sentence says what to run.
    StorageError
        If the page cannot be written; an older page stays.
    """
    with session_factory() as session:
        evidence = read_evidence(session, names)
    with (
        stage(f"Report of {site.name}", total=3, unit="part") as progress,
        running(session_factory, "report", site.settings, name=names[0]) as run,
    ):
        result = compare(evidence, site.settings, site.name)
        patient = choose(result)
        seen = explain_example(site, session_factory, evidence.run_ids, patient) if patient else None
        progress.advance(text="example patient explained")
        content = page_content(site.name, site.settings, evidence, result, patient, seen)
        progress.advance(text="figures drawn")
        page = render(TEMPLATE, content)
        write_atomic(site.report, page)
        digest = hashlib.sha256(page.encode()).hexdigest()
        run.details = {"personalization_runs": list(evidence.run_ids), "sha256": digest}
        _note(session_factory, site, run.id, digest)
        progress.advance(text="page written")
    return site.report


def _note(session_factory: SessionFactory, site: Site, run_id: int, digest: str) -> None:
    with session_factory() as session:
        path = site.report.relative_to(site.folder).as_posix()
        session.add(Report(run_id=run_id, path=path, sha256=digest, created_at=now()))
        session.commit()


def page_content(
    site: str,
    settings: Settings,
    evidence: Evidence,
    result: Comparison,
    patient: Personal | None,
    seen: PatientExplanation | None,
) -> dict[str, Any]:
    """Return everything the template shows; equal evidence gives equal content.

    Parameters
    ----------
    site : its name.
    settings : of the site.
    evidence, result : what the database knows, and the comparison made from it.
    patient, seen : the example, and what the models see in it; None where there is none.
    """
    draw = Drawing(settings)
    controls = validity.controls_of(evidence, result, settings.seed, site)
    return {
        "site": site,
        "task": settings.words,
        "asked": wording.asked(settings),
        "answer": wording.answer(result, evidence),
        "beside": wording.beside(result),
        "keys": wording.keys(result),
        "notes": [
            *wording.notes(result, evidence, settings),
            *validity.simpler_ways(result),
            *validity.few_episodes(result),
            *validity.control_notes(controls, result),
        ],
        "left_out": validity.left_out(settings),
        "rule": wording.rule(settings),
        "cohort_rules": wording.cohort_rules(evidence),
        "methods": list(METHODS.values()),
        "baselines": list(BASELINES.values()),
        "selection": wording.selection_sentence(evidence, result),
        "nobody": wording.why_nobody(evidence, settings),
        "figures": {
            "flow": draw.flow(evidence, evidence.personal),
            "scores": [shown for one in evidence.generic if (shown := draw.scores(one))],
            "votes": draw.votes(evidence.generic),
            "rounds": draw.rounds(result),
        },
        "tables": {
            "flow": cohort_tables.flow_table(evidence, settings.words),
            "beats": cohort_tables.beats_table(evidence),
            "reviews": cohort_tables.reviews_table(evidence),
            "one": cohort_tables.table_one(evidence, settings.words),
            "generic": tables.generic_table(evidence),
            "confusion": tables.confusion_table(evidence, settings.words),
            "rounds": tables.rounds_table(result),
            "differences": tables.differences_table(result),
            "figures": tables.figures_table(result, settings.seed, site),
            "baselines": validity.baselines_table(result, settings.seed, site),
            "protocols": validity.protocols_table(evidence, result, settings.seed, site),
            "controls": validity.controls_table(controls, result.words),
            "patients": tables.patients_table(evidence, result),
            "runs": tables.runs_table(evidence),
        },
        "example": {
            "text": wording.example(patient, result, seen) if patient else "",
            "figures": [draw.beats(seen, patient.patient), draw.beat_map(seen, patient.patient)]
            if patient and seen
            else [],
            "attention": attention_table(seen, settings.words) if patient and seen else None,
        },
        "facts": facts(settings, evidence),
        "settings": json.dumps(evidence.settings, indent=2, sort_keys=True, ensure_ascii=False),
    }


def facts(settings: Settings, evidence: Evidence) -> list[tuple[str, str]]:
    """Return where the numbers come from, beyond the table of runs."""
    generic = "; ".join(
        (f"{one.run}: " if len(evidence.generic) > 1 else "")
        + (f"federated round {one.round} of {one.rounds}, " if one.round is not None else "")
        + f"hash {short_digest(one.model_sha256)}"
        for one in evidence.generic
    )
    last = evidence.runs[-1] if evidence.runs else None
    return [
        ("Generic model", generic),
        ("Protocol", f"prospective, at least {decimal(settings.personalization.gap_s / 3600, 2)} h between "
         "the last training strip and the first test strip"),
        ("Software", f"fedkalemia {last.code_version}" if last else MISSING),
        ("Settings digest", last.settings_sha256 if last else MISSING),
        ("Seed", str(settings.seed)),
        ("Database schema", evidence.schema_version),
    ]  # fmt: skip

"""Write the site report: read the database, draw, fill the templates, put the pages in place."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from client.database.runs import SessionFactory, now, running
from client.database.tables import Report
from client.report import cohort_tables, looking, methods, tables, trusting, validity, wording
from client.report.beside import write_beside
from client.report.comparison import Comparison, compare
from client.report.drawing import Drawing
from client.report.evidence import Evidence, Personal
from client.report.example import choose
from client.report.naming import PRIVATE, own_names, pseudonyms
from client.report.patient_pages import FOLDER as PATIENTS
from client.report.patient_pages import Written, orders, write_pages
from client.report.patients_table import patients_table
from client.report.reading import read_evidence
from client.report.reading_votes import ScoredStrips
from client.site import Site
from common.config import Settings, validated
from common.errors import ConfigurationError
from common.files import storage_errors, write_atomic
from common.logs import say, stage
from common.page import BASELINES, METHODS, TABLES_SCRIPT, inline_script, render
from common.page.numbers import MISSING, plural, short_digest
from common.workers import Workers

TEMPLATE = Path(__file__).parent / "report.html"


def build_report(
    site: Site,
    session_factory: SessionFactory,
    names: Sequence[str] = ("main",),
    *,
    run: int | None = None,
    pseudonymous: bool = False,
    workers: Workers | None = None,
) -> Path:
    """Write the site report from what the database knows: its page, a page per patient, CSV and JSON.

    Parameters
    ----------
    site : settings and places.
    session_factory : of the site database.
    names : personalizations to put into one report, such as the folds of a journey; of each the latest
        finished one.
    run : number of one personalization run in place of ``names``.
    pseudonymous : write the copy that may be shown outside, beside the report.
    workers : processes that write patients' pages; in this process by default. The pages are the same.

    Returns
    -------
    The site's page, ``site.report`` or ``site.report_copy``.

    Raises
    ------
    DatabaseError
        If a personalization is missing; the sentence says what to run.
    StorageError
        If a page cannot be written; older pages stay.
    """
    path = site.report_copy if pseudonymous else site.report
    with session_factory() as session:
        naming = pseudonyms(session, site.folder) if pseudonymous else own_names(session)
        evidence = read_evidence(session, names, naming, run)
    result = compare(evidence, site.settings, site.name)
    patient = choose(result)
    wanted = orders(site, evidence, path.parent, patient)
    with (
        stage(f"Report of {site.name}", total=len(wanted) + 1, unit="page") as progress,
        running(session_factory, "report", site.settings, name=names[0]) as made,
    ):
        written = []
        for one in write_pages(wanted, session_factory, workers):
            written.append(one)
            progress.advance()
        _remove_others(path.parent / PATIENTS, {order.path for order in wanted})
        content = page_content(site.name, site.settings, evidence, result, patient, written)
        page = render(TEMPLATE, content)
        write_atomic(path, page, mode=None if pseudonymous else PRIVATE)
        write_beside(path.parent, site.name, evidence, result, content["tables"], written)
        digest = hashlib.sha256(page.encode()).hexdigest()
        made.details = {
            "personalization_runs": list(evidence.run_ids),
            "sha256": digest,
            "pages": {str(one.patient): one.sha256 for one in written},
            "looked": {str(one.patient): one.looked.as_json() for one in written if one.looked},
        }
        _note(session_factory, site, path, made.id, digest)
        progress.advance(text="page written")
    _tell_gone(written)
    return path


def _tell_gone(written: Sequence[Written]) -> None:
    """Say of how many patients nothing can be drawn, and why; their numbers come from the database."""
    if gone := [one.gone for one in written if one.gone]:
        say(
            f"note: no picture of what models look at for {plural(len(gone), 'patient')}; every number is "
            f"there. The first reason: {gone[0]}. Then run 'fedkalemia-site personalize' and 'report' again"
        )


def _remove_others(folder: Path, kept: set[Path]) -> None:
    """Remove pages of patients who are no longer in the report."""
    for old in folder.glob("*.html"):
        if old not in kept:
            with storage_errors(old):
                old.unlink()


def _note(session_factory: SessionFactory, site: Site, path: Path, run_id: int, digest: str) -> None:
    with session_factory() as session:
        relative = path.relative_to(site.folder).as_posix()
        session.add(Report(run_id=run_id, path=relative, sha256=digest, created_at=now()))
        session.commit()


def page_content(
    site: str,
    settings: Settings,
    evidence: Evidence,
    result: Comparison,
    patient: Personal | None,
    written: Sequence[Written],
) -> dict[str, Any]:
    """Return everything the template shows; equal evidence gives equal content.

    Parameters
    ----------
    site : its name.
    settings : of the site.
    evidence, result : what the database knows, and the comparison made from it.
    patient : the example; None where there is none.
    written : the patients' pages.
    """
    draw = Drawing(settings)
    seen = next((one.seen for one in written if one.seen is not None), None)
    looked = [one.looked for one in written if one.looked is not None]
    name = evidence.naming.name(patient.patient) if patient else ""
    pages = {one.patient: f"{PATIENTS}/{evidence.naming.page(one.patient)}" for one in written}
    controls = validity.controls_of(evidence, result, settings.seed, site)
    used, scored = _settings_of_run(evidence, settings), evidence.scored or ScoredStrips()
    # Figures are numbered as they are drawn: in the order of the page.
    figures = {
        "flow": draw.flow(evidence, evidence.personal),
        "scores": [shown for one in evidence.generic if (shown := draw.scores(one))],
        "votes": draw.votes(evidence.generic),
        "rounds": draw.rounds(result),
    }
    calibration = trusting.calibration(evidence, settings, site, draw)
    quality = trusting.data_quality(evidence, settings, site, draw)
    example = [draw.beats(seen, name), draw.beat_map(seen, name)] if patient and seen else []
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
        "baselines": [words for key, words in BASELINES.items() if _was_run(result, key)],
        "selection": wording.selection_sentence(evidence, result),
        "nobody": wording.why_nobody(evidence, settings),
        "figures": figures,
        "calibration": calibration,
        "quality": quality,
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
            "patients": patients_table(evidence, result, pages),
            "looking": looking.over_patients(looked, settings.words),
            "runs": tables.runs_table(evidence),
            "settings": methods.settings_table(used, scored),
            **calibration["tables"],
            **quality["tables"],
        },
        "example": {
            "text": wording.example(patient, name, result, seen) if patient else "",
            "page": pages.get(patient.patient, "") if patient else "",
            "figures": example,
        },
        "naming": evidence.naming,
        "script": inline_script(TABLES_SCRIPT),
        "facts": facts(settings, evidence),
        "methods_text": methods.methods_text(used, evidence.generic, scored),
    }


def _was_run(result: Comparison, method: str) -> bool:
    return any((method, one.rounds) in one.scores for one in result.patients)


def _settings_of_run(evidence: Evidence, now: Settings) -> Settings:
    """Return the settings the run was made with; those of today if this version no longer knows them."""
    try:
        return validated(Settings, evidence.settings, "settings of the run")
    except ConfigurationError:
        return now


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
        ("Protocol", f"prospective, at least {settings.personalization.gap_s / 3600:.3g} h between "
         "the last training strip and the first test strip"),
        ("Software", f"fedkalemia {last.code_version}" if last else MISSING),
        ("Settings digest", last.settings_sha256 if last else MISSING),
        ("Seed", str(settings.seed)),
        ("Database schema", evidence.schema_version),
    ]  # fmt: skip

"""Write a page per patient, several at once where there are worker processes.

Every page depends on its own patient alone: the same bytes come out in any order and from any number of
workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from client.database.runs import SessionFactory
from client.database.session import open_database, sessions
from client.database.tables import PersonalizationRun
from client.learning.beat_map import MAX_BEATS
from client.learning.explain import PatientExplanation, explain_patient
from client.report.evidence import Evidence, Personal
from client.report.looking import Looked, looked
from client.report.naming import PRIVATE, Naming
from client.report.patient_page import TEMPLATE, Subject, neighbours, page_content
from client.report.story import read_story
from client.site import Site
from common.errors import ModelError, StorageError
from common.files import write_atomic
from common.logs import site_log
from common.page import render
from common.workers import Workers

#: Folder of the pages, beside the site's page.
FOLDER = "patients"
GONE = (
    "The models or beats of this patient are no longer on the disk or were replaced; run "
    "'fedkalemia-site personalize' and 'report' again."
)
#: A map of fewer beats is found in a quarter of the time.
QUICK_BEATS = MAX_BEATS // 2


@dataclass(frozen=True)
class Order:
    """One page to write.

    Attributes
    ----------
    site, path : whose page, and where.
    naming : with this patient's name alone.
    personal, beside : the patient under the primary protocol and the paper's.
    neighbours : pages of the patients before and after.
    keep : whether to hand back what the models see, for the site's page.
    """

    site: Site
    path: Path
    naming: Naming
    personal: Personal
    beside: Personal | None
    neighbours: Mapping[str, str]
    keep: bool = False


@dataclass(frozen=True, eq=False)
class Written:
    """A page that was written, and what the models look at in that patient.

    Attributes
    ----------
    patient : row of the table patients.
    sha256 : of the page.
    looked : in numbers; None where there are no models.
    seen : all of it, where it was asked for.
    gone : why there is nothing to see although the patient was tested; empty where there is.
    """

    patient: int
    sha256: str
    looked: Looked | None
    seen: PatientExplanation | None = None
    gone: str = ""


def shown_patients(evidence: Evidence) -> list[Personal]:
    """Return who gets a page, in the order of their names: one row a patient, the tested one of several."""
    best: dict[int, Personal] = {}
    for one in evidence.personal:
        if one.patient not in best or (one.tested and not best[one.patient].tested):
            best[one.patient] = one
    return sorted(best.values(), key=lambda one: evidence.naming.order(one.patient))


def orders(site: Site, evidence: Evidence, folder: Path, example: Personal | None) -> list[Order]:
    """Return the pages to write.

    Parameters
    ----------
    site, evidence : whose patients.
    folder : of the report.
    example : the patient whose explanation the site's page shows.
    """
    shown = shown_patients(evidence)
    pages = [evidence.naming.page(one.patient) for one in shown]
    beside = {(one.patient, one.run): one for one in evidence.beside}
    return [
        Order(
            site=site,
            path=folder / FOLDER / page,
            naming=replace(evidence.naming, names={one.patient: evidence.naming.name(one.patient)}),
            personal=one,
            beside=beside.get((one.patient, one.run)),
            neighbours=neighbours(pages, index),
            keep=example is not None and example.row == one.row,
        )
        for index, (one, page) in enumerate(zip(shown, pages, strict=True))
    ]


def write_pages(
    wanted: Sequence[Order], session_factory: SessionFactory, workers: Workers | None = None
) -> Iterator[Written]:
    """Write pages, in order; with workers each opens the database for itself.

    Raises
    ------
    StorageError
        If a page cannot be written.
    """
    if workers is None or workers.count == 1:
        yield from map(partial(_write, session_factory), wanted)
    else:
        yield from workers.in_order(_in_worker, wanted)


def _in_worker(order: Order) -> Written:
    engine = open_database(order.site.database_url)
    try:
        return _write(sessions(engine), order)
    finally:
        engine.dispose()


def _write(session_factory: SessionFactory, order: Order) -> Written:
    settings = order.site.settings
    torch.set_num_threads(settings.threads)
    with threadpool_limits(settings.threads):  # small matrices: threads would wait for each other
        return _written(session_factory, order)


def _written(session_factory: SessionFactory, order: Order) -> Written:
    settings = order.site.settings
    seen, gone = None, ""
    with session_factory() as session:
        row = session.get_one(PersonalizationRun, order.personal.row)
        story = read_story(session, row)
        if order.personal.tested:
            beats = QUICK_BEATS if settings.personalization.depth == "quick" else MAX_BEATS
            try:
                seen = explain_patient(order.site, session, row, max_beats=beats)
            except (ModelError, StorageError) as error:
                site_log(order.site.log).warning("a patient's page without what models see: %s", error)
                gone = str(error)
    subject = Subject(order.personal, order.beside, story, seen, GONE if gone else "")
    content = page_content(order.site.name, settings, order.naming, subject, order.neighbours)
    page = render(TEMPLATE, content)
    write_atomic(order.path, page, mode=None if order.naming.pseudonymous else PRIVATE)
    return Written(
        patient=order.personal.patient,
        sha256=hashlib.sha256(page.encode()).hexdigest(),
        looked=looked(seen) if seen else None,
        seen=seen if order.keep else None,
        gone=gone,
    )

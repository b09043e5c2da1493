"""One patient, looked at closely: which one, and what the models see before and after."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from client.database.runs import SessionFactory
from client.database.tables import PersonalizationRun
from client.learning.explain import PatientExplanation, explain_patient
from client.report.comparison import Comparison
from client.report.evidence import Personal
from client.site import Site
from common.errors import ModelError, StorageError
from common.logs import site_log

#: Methods with weights of their own, so that there is something to see.
OWN_WEIGHTS = ("fine_tuned", "closed_form")


def choose(result: Comparison) -> Personal | None:
    """Return the patient with the median gain, among those whose selected model has weights of its own.

    The rule leaves no choice to whoever writes a report: neither the best patient nor the worst is shown.
    """
    key = result.words.key
    for methods in (OWN_WEIGHTS, None):
        group = [one for one in result.patients if methods is None or one.selected_method in methods]
        if group:
            return _median(group, key)
    return None


def _median(group: Sequence[Personal], key: str) -> Personal:
    ordered = sorted(
        group, key=lambda one: (one.last("selected", key) - one.last("generic", key), one.patient)
    )
    return ordered[(len(ordered) - 1) // 2]


def explain_example(
    site: Site, session_factory: SessionFactory, run_ids: Sequence[int], patient: Personal
) -> PatientExplanation | None:
    """Read the patient's beats and models; None where they are no longer on the disk.

    A report is worth having without its example. What was missing is in the site's log.
    """
    with session_factory() as session:
        row = session.scalars(
            select(PersonalizationRun).where(
                PersonalizationRun.run_id.in_(run_ids),
                PersonalizationRun.patient_id == patient.patient,
                PersonalizationRun.protocol == patient.protocol,
            )
        ).first()
        if row is None:
            return None
        try:
            return explain_patient(site, session, row)
        except (ModelError, StorageError) as error:
            site_log(site.log).warning("report without its example: %s", error)
            return None

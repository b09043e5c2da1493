"""All rows of one patient, out of the site database, and no bytes of them left in its files."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import Delete, Engine, Select, delete, func, or_, select, true
from sqlalchemy.orm import Session

from client.database.failures import place
from client.database.queries import TRAINED
from client.database.tables import (
    Base,
    CohortMember,
    Draw,
    FederatedRound,
    Model,
    Patient,
    PersonalizationRound,
    PersonalizationRun,
    Report,
    Review,
    Run,
    Strip,
    StripPrediction,
)
from common.errors import DatabaseError

#: Stands where a text named the patient.
REMOVED: Final = "(removed: it named a patient that was forgotten, or may have)"
#: Key of a run's details with the text of an error, which may quote a row.
ERROR: Final = "error"
#: With these words a database's error quotes a row, whosever it is.
PARAMETERS: Final = "[parameters:"
#: Where a cohort run lists the strips a rule left out, and a review run what was said of each.
LEFT_OUT, REVIEWED = "left_out", "strips"
#: Where a report run notes its pages and what models look at, by patient; the pages go, and so do these.
BY_PATIENT: Final = ("pages", "looked")
#: What a review run says of a strip that is gone; its number may be another strip's by now.
GONE: Final = "forgotten"
#: Score histograms of a run, kept at the site whole: of few patients they would be theirs.
HISTOGRAM: Final = "generic.histogram"


@dataclass(frozen=True)
class Beyond:
    """What left the site while the patient was in its cohorts, and cannot be called back.

    Attributes
    ----------
    weights : answers with weights that the patient's beats had trained.
    losses : answers with a validation loss to which the patient added.
    sums : personalizations whose answer counted the patient.
    models : generic models at this site that the patient helped to train or to choose.
    cohorts : names of the cohorts in which the patient trained or validated.
    """

    weights: int = 0
    losses: int = 0
    sums: int = 0
    models: int = 0
    cohorts: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return plain values for the tombstone."""
        return {**asdict(self), "cohorts": list(self.cohorts)}

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> Beyond:
        """Read back what ``as_json`` returned."""
        return cls(**{**values, "cohorts": tuple(values["cohorts"])})


def beyond_recall(session: Session, patient_id: int) -> Beyond:
    """Count what the patient took part in; to be asked before the rows are removed."""
    own = CohortMember.patient_id == patient_id
    answers = (
        select(FederatedRound.id)
        .join(Run, FederatedRound.run_id == Run.id)
        .join(CohortMember, CohortMember.run_id == Run.cohort_run_id)
        .where(own, CohortMember.role == "generic")
    )
    sent = select(Run.details).join(CohortMember, CohortMember.run_id == Run.cohort_run_id)
    trained = select(Run.cohort_run_id).join(CohortMember, CohortMember.run_id == Run.cohort_run_id)
    trained = trained.where(own, CohortMember.role == "generic", CohortMember.split.in_(TRAINED))
    names = select(Run.name).join(CohortMember, CohortMember.run_id == Run.id)
    names = names.where(own, CohortMember.role == "generic", CohortMember.split.in_(TRAINED))
    models = (
        select(Model.sha256)
        .join(Run, Model.run_id == Run.id)
        .where(Model.kind == "generic", Run.cohort_run_id.in_(trained))
        .distinct()
    )
    return Beyond(
        weights=_count(
            session,
            answers.where(CohortMember.split == "train", FederatedRound.returned_sha256.is_not(None)),
        ),
        losses=_count(
            session,
            answers.where(CohortMember.split == "validation", FederatedRound.validation_patients > 0),
        ),
        sums=sum(
            "sent" in details for details in session.scalars(sent.where(own, Run.kind == "personalization"))
        ),
        models=_count(session, models),
        cohorts=tuple(session.scalars(names.distinct().order_by(Run.name))),
    )


def remove_patient(session: Session, patient: Patient, min_cell: int) -> dict[str, int]:
    """Delete everything the database holds about a patient; the caller commits, once.

    Parameters
    ----------
    min_cell : score histograms of a run that has fewer other patients than this are removed as well.

    Returns
    -------
    Rows removed or changed, by table.
    """
    own = patient.id
    strips = select(Strip.id).where(Strip.patient_id == own)
    personal = select(PersonalizationRun.id).where(PersonalizationRun.patient_id == own)
    mine = or_(StripPrediction.strip_id.in_(strips), StripPrediction.personalization_run_id.in_(personal))
    scored = set(session.scalars(select(StripPrediction.run_id).where(mine).distinct()))
    strip_ids = frozenset(session.scalars(strips))
    rounds = PersonalizationRound.personalization_run_id.in_(personal)
    removed = {
        name: session.connection().execute(statement).rowcount
        for name, statement in _statements(own, mine, rounds, strips).items()
    }
    removed[Run.__tablename__] = _clean_runs(session, patient.source_key, strip_ids, scored, min_cell)
    session.delete(patient)
    session.flush()
    return {**removed, Patient.__tablename__: 1}


def compact(engine: Engine) -> None:
    """Rewrite the database's files, so that they hold no byte of a removed row.

    Raises
    ------
    DatabaseError
        If another process is in the way; nothing is lost then.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if connection.dialect.name == "sqlite":
            for statement in ("PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
                answer = connection.exec_driver_sql(statement)
                if answer.returns_rows and answer.one()[0]:
                    raise DatabaseError(
                        f"another process keeps the site database {place(engine.url)} open, so removed rows "
                        "may still be in its write-ahead file; stop it and run the same command again"
                    )
        else:
            for table in Base.metadata.sorted_tables:
                connection.exec_driver_sql(f'VACUUM (FULL) "{table.name}"')


def _statements(own: int, mine: Any, rounds: Any, strips: Any) -> dict[str, Delete]:
    """Return the deletions by table, in the order the foreign keys ask for.

    Pages were drawn from the rows as they were: their rows go with the files.
    """
    where = {
        StripPrediction: mine,
        PersonalizationRound: rounds,
        Model: Model.patient_id == own,
        PersonalizationRun: PersonalizationRun.patient_id == own,
        CohortMember: CohortMember.patient_id == own,
        Review: Review.strip_id.in_(strips),
        Strip: Strip.patient_id == own,
        Draw: Draw.patient_id == own,
        Report: true(),
    }
    return {table.__tablename__: delete(table).where(condition) for table, condition in where.items()}


def _clean_runs(
    session: Session, key: str, strip_ids: Collection[int], scored: Collection[int], min_cell: int
) -> int:
    """Take the patient out of what runs noted; return how many runs were changed."""
    # Names of files put a letter and zeros before a number: p010006.
    named = re.compile(rf"(?<![A-Za-z0-9])[A-Za-z]?0*{re.escape(key)}(?![A-Za-z0-9])")
    changed = 0
    for run in session.scalars(select(Run)):
        details = dict(run.details)
        if run.kind == "cohort" and LEFT_OUT in details:
            details[LEFT_OUT] = _without(details[LEFT_OUT], strip_ids)
        if run.kind == "review" and REVIEWED in details:
            ids = {str(strip) for strip in strip_ids}
            details[REVIEWED] = {
                strip: GONE if strip in ids else reason for strip, reason in details[REVIEWED].items()
            }
        if run.kind == "report":
            details = {name: value for name, value in details.items() if name not in BY_PATIENT}
        error = str(details.get(ERROR, ""))
        if PARAMETERS in error or named.search(error):
            details[ERROR] = REMOVED
        if run.id in scored and _patients_scored(session, run.id) < min_cell:
            details = {name: value for name, value in details.items() if not name.startswith(HISTOGRAM)}
        if details != run.details:
            run.details = details
            changed += 1
    session.flush()
    return changed


def _without(value: Any, strip_ids: Collection[int]) -> Any:
    if isinstance(value, dict):
        return {name: _without(item, strip_ids) for name, item in value.items()}
    return [item for item in value if item not in strip_ids] if isinstance(value, list) else value


def _patients_scored(session: Session, run_id: int) -> int:
    """Count the patients on whom the generic model of a run was tested."""
    query = select(func.count(Strip.patient_id.distinct())).join(
        StripPrediction, StripPrediction.strip_id == Strip.id
    )
    generic = (StripPrediction.run_id == run_id, StripPrediction.personalization_run_id.is_(None))
    return session.scalar(query.where(*generic)) or 0


def _count(session: Session, query: Select[Any]) -> int:
    return session.scalar(select(func.count()).select_from(query.subquery())) or 0

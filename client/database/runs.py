"""Runs: one row for every execution of a step, so that each number can be traced to what made it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from client.database.tables import Run
from common.config import Settings

Kind = Literal["ingest", "review", "cohort", "federation", "personalization", "report"]
Status = Literal["running", "finished", "failed", "interrupted"]
SessionFactory = Callable[[], Session]
MAX_ERROR_CHARACTERS = 1000


def now() -> datetime:
    """Return the time in UTC, without a zone, as the tables keep it."""
    return datetime.now(UTC).replace(tzinfo=None)


def code_version() -> str:
    """Return the version of the installed package."""
    try:
        return version("fedkalemia")
    except PackageNotFoundError:
        return "not installed"


def start_run(
    session: Session,
    kind: Kind,
    settings: Settings,
    *,
    name: str = "main",
    cohort_run_id: int | None = None,
    model_sha256: str | None = None,
    data_fingerprint: str | None = None,
) -> Run:
    """Add a run with status ``running`` and give it its number. The caller commits."""
    run = Run(
        kind=kind,
        name=name,
        status="running",
        started_at=now(),
        task=settings.task,
        code_version=code_version(),
        settings=settings.model_dump(mode="json"),
        settings_sha256=settings.digest(),
        seed=settings.seed,
        cohort_run_id=cohort_run_id,
        model_sha256=model_sha256,
        data_fingerprint=data_fingerprint,
        details={},
    )
    session.add(run)
    session.flush()
    return run


def finish_run(
    session: Session, run: Run, details: dict[str, Any] | None = None, *, status: Status = "finished"
) -> None:
    """End a run; ``details`` are laid over those it has. The caller commits."""
    stored = session.merge(run)
    stored.details = {**stored.details, **(details or {})}
    stored.status = status
    stored.finished_at = now()
    session.flush()


@contextmanager
def running(
    session_factory: SessionFactory,
    kind: Kind,
    settings: Settings,
    *,
    name: str = "main",
    cohort_run_id: int | None = None,
    model_sha256: str | None = None,
    data_fingerprint: str | None = None,
) -> Iterator[Run]:
    """Run a step whose row says how it ended: finished, failed or interrupted.

    The row is written at once and again at the end, in short transactions of its own, so that it is
    there whatever happens to the work in between. The run handed out belongs to no session: what is
    put into its ``details``, ``model_sha256``, ``data_fingerprint`` or ``cohort_run_id`` is stored at
    the end.
    """
    with session_factory() as session:
        run = start_run(
            session,
            kind,
            settings,
            name=name,
            cohort_run_id=cohort_run_id,
            model_sha256=model_sha256,
            data_fingerprint=data_fingerprint,
        )
        session.commit()
        session.refresh(run)
        session.expunge(run)
    try:
        yield run
    except BaseException as error:
        status: Status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        text = f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARACTERS]
        with suppress(Exception):  # the reason of the failure matters more than a row about it
            _end(session_factory, run, {"error": text}, status)
        raise
    _end(session_factory, run, {}, "finished")


def latest_run(
    session: Session, kind: Kind, name: str | None = None, status: Status | None = "finished"
) -> Run | None:
    """Return the newest run of a kind; with any name or status where None is given."""
    query = select(Run).where(Run.kind == kind).order_by(Run.id.desc()).limit(1)
    if name is not None:
        query = query.where(Run.name == name)
    if status is not None:
        query = query.where(Run.status == status)
    return session.scalars(query).first()


def _end(session_factory: SessionFactory, run: Run, details: dict[str, Any], status: Status) -> None:
    with session_factory() as session:
        stored = session.get_one(Run, run.id)
        for column in ("model_sha256", "data_fingerprint", "cohort_run_id"):
            setattr(stored, column, getattr(run, column))
        finish_run(session, stored, {**run.details, **details}, status=status)
        session.commit()

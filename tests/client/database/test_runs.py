"""Every execution leaves a row that says how it ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from client.database.runs import finish_run, latest_run, running, start_run
from client.database.session import create_database, sessions
from client.database.tables import Run
from common.config import make_settings
from common.errors import CohortError

Factory = sessionmaker[Session]
SETTINGS = make_settings("ventricular", overrides={"seed": 7})


def stored(factory: Factory) -> Run:
    with factory() as session:
        return session.scalars(select(Run)).one()


def test_a_run_is_there_while_it_works_and_finished_after(session_factory: Factory) -> None:
    with running(session_factory, "ingest", SETTINGS, name="fold-a", data_fingerprint="ab") as run:
        during = stored(session_factory)
        assert (during.id, during.status, during.finished_at) == (run.id, "running", None)
        run.details["strips"] = 3
        run.model_sha256 = "cd"
    after = stored(session_factory)
    assert (after.status, after.details, after.name) == ("finished", {"strips": 3}, "fold-a")
    assert (after.task, after.seed, after.settings_sha256) == ("ventricular", 7, SETTINGS.digest())
    assert (after.data_fingerprint, after.model_sha256) == ("ab", "cd")
    assert after.settings == SETTINGS.model_dump(mode="json")
    assert after.finished_at is not None
    assert after.finished_at >= after.started_at


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CohortError("empty"), "failed"),
        (ZeroDivisionError("x"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_a_run_that_breaks_says_so(session_factory: Factory, error: BaseException, status: str) -> None:
    def work() -> None:
        with running(session_factory, "cohort", SETTINGS) as run:
            run.details["patients"] = 2
            raise error

    with pytest.raises(type(error)):
        work()
    after = stored(session_factory)
    assert after.status == status
    assert after.details["patients"] == 2
    assert after.details["error"].startswith(type(error).__name__)


def test_the_work_and_the_run_do_not_wait_for_each_other(session_factory: Factory) -> None:
    """A step may hold a transaction open while the run row is written, and may fail inside it."""

    def work() -> None:
        with running(session_factory, "ingest", SETTINGS), session_factory.begin() as session:
            start_run(session, "report", SETTINGS)
            raise CohortError("x")

    with pytest.raises(CohortError):
        work()
    assert stored(session_factory).status == "failed"  # and the row of the broken transaction is gone


def test_the_latest_run_by_kind_name_and_status(session_factory: Factory) -> None:
    with session_factory() as session:
        for name in ("main", "other", "main"):
            finish_run(session, start_run(session, "cohort", SETTINGS, name=name), {"name": name})
        unfinished = start_run(session, "cohort", SETTINGS)
        session.commit()
        ids = list(session.scalars(select(Run.id).order_by(Run.id)))

        def latest(name: str | None = None, **status: None) -> int | None:
            run = latest_run(session, "cohort", name, **status)
            return None if run is None else run.id

        assert latest() == latest("main") == ids[2]
        assert latest("other") == ids[1]
        assert latest("main", status=None) == unfinished.id
        assert latest("third") is None
        assert latest_run(session, "report") is None


def test_the_reason_of_a_failure_is_not_hidden_by_a_database_that_is_gone(tmp_path: Path) -> None:
    engine = create_database(f"sqlite:///{tmp_path / 'site.sqlite'}")

    def work() -> None:
        with running(sessions(engine), "ingest", SETTINGS):
            engine.dispose()
            for file in tmp_path.iterdir():
                file.unlink()
            raise CohortError("the reason")

    with pytest.raises(CohortError, match="the reason"):
        work()
    engine.dispose()

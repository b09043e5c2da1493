"""All rows of one patient go, nobody else's do, and the database's files hold no byte of them afterwards."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session, sessionmaker

from client.database import failures
from client.database.removal import ERROR, GONE, REMOVED, Beyond, beyond_recall, compact, remove_patient
from client.database.runs import finish_run, now, start_run
from client.database.session import create_database, sessions
from client.database.tables import (
    Base,
    CohortMember,
    Draw,
    FederatedRound,
    Forgotten,
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
from common.config import make_settings
from common.errors import DatabaseError

Factory = sessionmaker[Session]
SETTINGS = make_settings("hyperkalemia")
KEYS = ("10001", "10002", "10003")
#: Texts that only rows of the second patient hold; its identifier is part of each.
MARK = "10002"
#: Tables with rows of a patient; a new one must be added here, to the removal and to ``fill``.
OF_PATIENTS = {
    Patient: 1, Draw: 3, Strip: 2, Review: 2, CohortMember: 1, PersonalizationRun: 1,
    PersonalizationRound: 2, StripPrediction: 3, Model: 1,
}  # fmt: skip


def fill(session: Session, *, histogram: bool = True) -> None:
    """Put three patients into every table that can hold one."""
    ingest = start_run(session, "ingest", SETTINGS)
    cohort = start_run(session, "cohort", SETTINGS)
    federation = start_run(session, "federation", SETTINGS, cohort_run_id=cohort.id)
    personal = start_run(session, "personalization", SETTINGS, cohort_run_id=cohort.id)
    failed = start_run(session, "personalization", SETTINGS, name="other")
    report = start_run(session, "report", SETTINGS)
    review = start_run(session, "review", SETTINGS, name="sheet")
    for round_ in (1, 2, 3):
        session.add(
            FederatedRound(
                run_id=federation.id, round=round_, received_sha256="a", seconds=1.0,
                returned_sha256="b" if round_ < 3 else None, validation_patients=1 if round_ > 1 else 0,
            )
        )  # fmt: skip
    session.add(Model(run_id=personal.id, kind="generic", sha256="f" * 64, path="m", architecture={}))
    session.add(Report(run_id=report.id, path="report/index.html", sha256="e" * 64, created_at=now()))
    strips: dict[str, list[int]] = {}
    for key, split in zip(KEYS, ("train", "train", "validation"), strict=True):
        strips[key] = patient(session, key, split, ingest.id, cohort.id, personal.id)
    finish_run(session, cohort, {"left_out": {"balance": [strips[key][0] for key in KEYS]}, "held_back": 0})
    finish_run(session, review, {"strips": {str(strips[key][1]): "accepted" for key in KEYS}})
    counts = {"generic.histogram.positive": [1, 2], "sent": {"cohort.train.patients": 2}}
    finish_run(session, personal, counts if histogram else {"sent": counts["sent"]})
    finish_run(session, failed, {"error": f"IntegrityError: key {MARK} is there"}, status="failed")
    finish_run(session, ingest, {"strips": {"positive": {"accepted": 10002}}})


def patient(session: Session, key: str, split: str, ingest: int, cohort: int, personal: int) -> list[int]:
    """Add one patient with rows in every table; return the numbers of the strips."""
    own = Patient(source_key=key, sex="F", ethnicity=f"group {key}", files_sha256=key * 5)
    session.add(own)
    session.flush()
    draws = [
        Draw(
            patient_id=own.id, run_id=ingest, source_row=f"row {key} {n}", printed=f"printed {key}",
            specimen_time=datetime(2100, 1, 1) + timedelta(days=int(key), hours=n), item="50971",
            specimen="serum", label="positive" if n < 2 else None, exclusion=None if n < 2 else "merged",
        )
        for n in range(3)
    ]  # fmt: skip
    session.add_all(draws)
    session.flush()
    draws[2].merged_into_id = draws[0].id
    strips = [
        Strip(
            patient_id=own.id, run_id=ingest, draw_id=draw.id, label="positive", start=draw.specimen_time,
            end=draw.specimen_time, record=f"p{key}/record", source=[{"file": f"p{key}.dat"}],
        )
        for draw in draws[:2]
    ]  # fmt: skip
    session.add_all(strips)
    session.flush()
    for strip in strips:
        session.add(
            Review(
                strip_id=strip.id, reviewer="ab", verdict="usable", comment=f"seen {key}",
                sheet_sha256="c" * 64, read_at=now(),
            )
        )  # fmt: skip
    session.add(
        CohortMember(
            run_id=cohort, patient_id=own.id, role="generic", split=split, n_positive=2, n_negative=0, n_gap=0
        )
    )
    run = PersonalizationRun(
        run_id=personal, patient_id=own.id, protocol="prospective", outcome="personal",
        generic_sha256="d" * 64, details={"pairs": [[strip.id for strip in strips]], "note": f"of {key}"},
    )  # fmt: skip
    session.add(run)
    session.flush()
    counts = dict.fromkeys(("tp", "fp", "tn", "fn", "strip_tp", "strip_fp", "strip_tn", "strip_fn"), 1)
    for round_ in (0, 1):
        session.add(
            PersonalizationRound(personalization_run_id=run.id, round=round_, method="generic", **counts)
        )
    for strip, belongs in ((strips[0], run.id), (strips[1], run.id), (strips[0], None)):
        session.add(
            StripPrediction(
                run_id=personal, personalization_run_id=belongs, strip_id=strip.id, round=0, n_beats=1,
                method="generic", purpose="guard" if belongs else "test", n_positive_beats=1, mean_logit=0.5,
            )
        )  # fmt: skip
    session.add(
        Model(
            run_id=personal, kind="personal", sha256="f" * 64, patient_id=own.id, architecture={},
            path=f"models/{key}.safetensors",
        )
    )  # fmt: skip
    session.flush()
    return [strip.id for strip in strips]


def remove(factory: Factory, key: str = MARK, min_cell: int = 1) -> dict[str, int]:
    with factory() as session:
        own = session.scalars(select(Patient).where(Patient.source_key == key)).one()
        removed = remove_patient(session, own, min_cell)
        session.commit()
    return removed


def counted(session: Session) -> dict[str, int]:
    return {
        name: session.scalar(select(func.count()).select_from(table)) or 0
        for name, table in Base.metadata.tables.items()
    }


@pytest.fixture
def filled(session_factory: Factory) -> Factory:
    with session_factory() as session:
        fill(session)
        session.commit()
    return session_factory


def test_every_row_of_the_patient_goes_and_no_other(filled: Factory) -> None:
    with filled() as session:
        before = counted(session)
    removed = remove(filled)
    with filled() as session:
        after = counted(session)
        left = set(session.scalars(select(Patient.source_key)))
        errors = [run.details.get(ERROR) for run in session.scalars(select(Run).where(Run.name == "other"))]
    own = {table.__tablename__: n for table, n in OF_PATIENTS.items()}
    assert {name: before[name] - after[name] for name in own} == own
    assert {name: removed[name] for name in own} == own
    assert left == {"10001", "10003"}
    assert MARK not in str(errors)
    assert before["reports"] - after["reports"] == removed["reports"] == 1
    unchanged = set(before) - set(own) - {"reports"}
    assert {name: after[name] for name in unchanged} == {name: before[name] for name in unchanged}


def test_every_table_that_leads_to_a_patient_is_known_here() -> None:
    """A new table with rows of patients must be added to the removal."""
    reached = {Patient.__table__}
    while True:
        more = {
            table
            for table in Base.metadata.tables.values()
            for key in table.foreign_keys
            if key.column.table in reached
        }
        if more <= reached:
            break
        reached |= more
    assert reached == {table.__table__ for table in OF_PATIENTS}


def test_lists_of_strips_lose_the_patients_own(filled: Factory) -> None:
    with filled() as session:
        query = select(Strip.id).join(Patient).where(Patient.source_key == MARK).order_by(Strip.id)
        own = list(session.scalars(query))
    removed = remove(filled)
    assert removed["runs"] == 3
    with filled() as session:
        details = {run.kind: run.details for run in session.scalars(select(Run).order_by(Run.id))}
        cohort, review = details["cohort"], details["review"]
        ingest = details["ingest"]
    assert len(cohort["left_out"]["balance"]) == 2
    assert not set(own) & set(cohort["left_out"]["balance"])
    assert review["strips"][str(own[1])] == GONE
    assert sorted(review["strips"].values()) == ["accepted", "accepted", GONE]
    assert ingest["strips"] == {"positive": {"accepted": 10002}}  # a count, not an identifier


@pytest.mark.parametrize(("min_cell", "kept"), [(2, True), (3, False)])
def test_a_score_histogram_of_too_few_other_patients_goes_too(
    filled: Factory, min_cell: int, kept: bool
) -> None:
    remove(filled, min_cell=min_cell)
    with filled() as session:
        details = session.scalars(
            select(Run.details).where(Run.kind == "personalization", Run.name == "main")
        ).one()
    assert ("generic.histogram.positive" in details) == kept
    assert details["sent"] == {"cohort.train.patients": 2}  # it was sent already, and is suppressed


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("10002", Beyond(weights=2, losses=0, sums=1, models=1, cohorts=("main",))),
        ("10003", Beyond(weights=0, losses=2, sums=1, models=1, cohorts=("main",))),
    ],
)
def test_what_left_is_counted_by_what_the_patient_was_used_for(
    filled: Factory, key: str, expected: Beyond
) -> None:
    """Of three rounds two were answered with weights, and two with a validation loss."""
    with filled() as session:
        own = session.scalars(select(Patient).where(Patient.source_key == key)).one()
        assert beyond_recall(session, own.id) == expected
        assert Beyond.of_json(expected.as_json()) == expected


def test_a_patient_of_no_cohort_took_part_in_nothing(filled: Factory) -> None:
    with filled() as session:
        own = Patient(source_key="10009")
        session.add(own)
        session.flush()
        assert beyond_recall(session, own.id) == Beyond()
        assert remove_patient(session, own, 1)["patients"] == 1


@pytest.mark.parametrize(
    ("error", "struck"),
    [
        ("row of patient 10002 is bad", True),
        ("IntegrityError: p01/p010002/p010002-2150-01-01-00-00 is there", True),
        ("IntegrityError: UNIQUE failed [parameters: (7, '2150-01-01 08:00:00')]", True),
        ("row 100021 is bad", False),
        ("110002 beats are lost", False),
    ],
)
def test_an_error_that_names_the_patient_is_struck_out_and_another_is_not(
    filled: Factory, error: str, struck: bool
) -> None:
    with filled() as session:
        run = start_run(session, "ingest", SETTINGS, name="failed")
        finish_run(session, run, {"error": error}, status="failed")
        session.commit()
    remove(filled)
    with filled() as session:
        stored = session.scalars(select(Run.details).where(Run.name == "failed")).one()["error"]
    assert (stored == REMOVED) == struck
    assert (stored == error) != struck


# --- bytes -----------------------------------------------------------------------------------------------


def holding(folder: Path, mark: bytes, skip: str = "") -> list[str]:
    """Name the files below a folder that hold some bytes."""
    files = (
        path for path in sorted(folder.rglob("*")) if path.is_file() and not (skip and skip in path.parts)
    )
    return [path.name for path in files if mark in path.read_bytes()]


@pytest.fixture
def sqlite(tmp_path: Path) -> Callable[[], tuple[Engine, Path]]:
    def make() -> tuple[Engine, Path]:
        folder = tmp_path / "db"
        engine = create_database(f"sqlite:///{folder / 'site.sqlite'}")
        with sessions(engine)() as session:
            fill(session)
            session.commit()
        return engine, folder

    return make


def test_no_byte_of_the_patient_is_left_in_the_files_of_sqlite(
    sqlite: Callable[[], tuple[Engine, Path]],
) -> None:
    engine, folder = sqlite()
    assert holding(folder, MARK.encode())
    day = f"{datetime(2100, 1, 1) + timedelta(days=int(MARK)):%Y-%m-%d}".encode()
    assert holding(folder, day)
    remove(sessions(engine))
    with sessions(engine)() as session:  # the number of a count in an ingest run is no identifier
        run = session.scalars(select(Run).where(Run.kind == "ingest")).one()
        run.details = {}
        session.commit()
    assert holding(folder, MARK.encode())  # deleted rows are still in the write-ahead file
    compact(engine)
    assert (holding(folder, MARK.encode()), holding(folder, day)) == ([], [])
    assert holding(folder, b"10001")
    with sessions(engine)() as session:
        assert counted(session)["patients"] == 2
    engine.dispose()


def test_a_reader_in_the_way_is_an_error_and_nothing_is_lost(
    sqlite: Callable[[], tuple[Engine, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, folder = sqlite()
    remove(sessions(engine))
    engine.dispose()
    monkeypatch.setattr("client.database.session.BUSY_TIMEOUT_S", 0.2)
    monkeypatch.setattr(failures, "BUSY_TIMEOUT_S", 0.2)
    impatient = create_database(f"sqlite:///{folder / 'site.sqlite'}")
    reader = sqlite3.connect(folder / "site.sqlite", isolation_level=None)
    reader.execute("begin")
    reader.execute("select count(*) from patients").fetchall()
    with sessions(impatient)() as session:
        session.add(Patient(source_key="later"))
        session.commit()
    with pytest.raises(DatabaseError, match=r"another process .* again"):
        compact(impatient)
    reader.execute("commit")
    reader.close()
    compact(impatient)
    assert not re.search(rb"printed 10002", (folder / "site.sqlite").read_bytes())
    impatient.dispose()


@pytest.mark.postgres
def test_no_byte_of_the_patient_is_left_in_the_tables_of_postgresql(
    request: pytest.FixtureRequest,
) -> None:
    """The server's write-ahead log is another matter: the hospital expires it."""
    server = request.getfixturevalue("postgres_server")
    with server.database() as url:
        engine = create_database(url)
        factory = sessions(engine)
        with factory() as session:
            fill(session)
            session.commit()
        server.sql("checkpoint")
        data = server.folder / "data"
        mark = b"printed 10002"
        assert holding(data / "base", mark)
        remove(factory)
        compact(engine)
        server.sql("checkpoint")
        assert holding(data / "base", mark) == []
        assert holding(data / "base", b"printed 10001")
        with factory() as session:
            assert counted(session)["patients"] == 2
            assert session.scalar(select(func.count(Forgotten.id))) == 0
        engine.dispose()

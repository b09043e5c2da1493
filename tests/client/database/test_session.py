"""Facts about the site database that hold on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import math
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event, inspect, make_url, select, text
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.orm import Session, sessionmaker

from client.database import session as database
from client.database.failures import place, without_secrets
from client.database.runs import start_run
from client.database.session import create_database, open_database, upgrade
from client.database.tables import Base, Draw, Patient, Strip
from common.config import make_settings
from common.errors import DatabaseError, StorageError

Factory = sessionmaker[Session]
NEXT = """
from alembic import op
import sqlalchemy as sa
revision, down_revision = "0004", "0003"
def upgrade():
    op.create_table("notes", sa.Column("id", sa.Integer(), primary_key=True))
    with op.batch_alter_table("patients") as table:
        table.add_column(sa.Column("blood_group", sa.String(3)))
{end}
"""


def statement(url: str, sql: str) -> None:
    engine = database._engine(url, must_exist=False)
    with engine.begin() as connection:
        connection.exec_driver_sql(sql)
    engine.dispose()


@pytest.fixture
def with_next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that lets the code know a schema version 0004."""

    def install(end: str = "") -> None:
        folder = tmp_path / "migrations"
        shutil.copytree(database.MIGRATIONS, folder, dirs_exist_ok=True)
        (folder / "versions" / "0004_next.py").write_text(NEXT.format(end=end))
        monkeypatch.setattr(database, "MIGRATIONS", folder)
        monkeypatch.setattr(database, "SCHEMA_VERSION", "0004")

    return install


class TestSchemaVersion:
    def test_a_created_database_can_be_opened(self, database_url: str) -> None:
        create_database(database_url).dispose()
        engine = open_database(database_url)
        assert set(inspect(engine).get_table_names()) == {*Base.metadata.tables, "alembic_version"}
        engine.dispose()

    def test_creating_again_keeps_the_rows(self, database_url: str) -> None:
        create_database(database_url).dispose()
        statement(database_url, "insert into patients (source_key) values ('a')")
        engine = create_database(database_url)
        with engine.connect() as connection:
            assert connection.scalar(select(Patient.source_key)) == "a"
        engine.dispose()

    def test_migrations_make_exactly_the_tables_of_the_code(self, database_url: str) -> None:
        engine = create_database(database_url)
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, Base.metadata) == []
            found = inspect(connection)
            for name, table in Base.metadata.tables.items():
                checks = {check["name"] for check in found.get_check_constraints(name)}
                expected = {c.name for c in table.constraints if type(c).__name__ == "CheckConstraint"}
                assert checks == expected, name
        engine.dispose()

    def test_the_code_needs_the_newest_migration(self) -> None:
        scripts = ScriptDirectory.from_config(database.migrations_config())
        assert scripts.get_heads() == [database.SCHEMA_VERSION]

    def test_names_fit_postgres(self) -> None:
        constraints = [c.name for table in Base.metadata.tables.values() for c in table.constraints]
        indexes = [index.name for table in Base.metadata.tables.values() for index in table.indexes]
        assert max(len(str(name)) for name in (*constraints, *indexes)) <= 63

    def test_no_tables_yet(self, database_url: str) -> None:
        statement(database_url, "create table other (id integer)")
        with pytest.raises(DatabaseError, match="has no tables yet; run 'fedkalemia-site ingest SITE'"):
            open_database(database_url)

    def test_tables_of_another_program(self, database_url: str) -> None:
        statement(database_url, "create table patients (id integer)")
        for attempt in (open_database, create_database, upgrade):
            with pytest.raises(DatabaseError, match=r"tables of another program.*needs version 0003"):
                attempt(database_url)

    def test_a_newer_database_is_left_alone(self, database_url: str) -> None:
        create_database(database_url).dispose()
        statement(database_url, "update alembic_version set version_num = '0009'")
        for attempt in (open_database, create_database, upgrade):
            with pytest.raises(DatabaseError, match=r"version 0009, this code needs 0003.*newer fedkalemia"):
                attempt(database_url)

    def test_an_older_database_is_named_with_the_command_and_upgraded_by_it(
        self, database_url: str, with_next_version: Callable[..., None]
    ) -> None:
        create_database(database_url).dispose()
        statement(database_url, "insert into patients (source_key) values ('a')")
        with_next_version()
        with pytest.raises(
            DatabaseError,
            match="version 0003, this code needs 0004; run 'fedkalemia-site database upgrade SITE'",
        ):
            open_database(database_url)
        assert upgrade(database_url) == "0003"
        engine = open_database(database_url)
        with engine.connect() as connection:
            assert connection.execute(text("select source_key, blood_group from patients")).all() == [
                ("a", None)
            ]
        engine.dispose()

    def test_an_upgrade_that_fails_changes_nothing(
        self, database_url: str, with_next_version: Callable[..., None]
    ) -> None:
        create_database(database_url).dispose()
        with_next_version(end="    raise RuntimeError('power cut')")
        with pytest.raises(RuntimeError, match="power cut"):
            upgrade(database_url)
        engine = database._engine(database_url, must_exist=True)
        with engine.connect() as connection:
            assert "notes" not in inspect(connection).get_table_names()
            assert connection.scalar(text("select version_num from alembic_version")) == "0003"
        engine.dispose()

    def test_upgrading_keeps_rows_that_point_at_a_rebuilt_table(
        self, database_url: str, with_next_version: Callable[..., None]
    ) -> None:
        engine = create_database(database_url)
        with Session(engine) as session, session.begin():
            run = start_run(session, "ingest", make_settings())
            patient = Patient(source_key="a")
            session.add(patient)
            session.flush()
            add_draw(session, patient.id, run.id)
        engine.dispose()
        with_next_version(
            end="    with op.batch_alter_table('patients') as table:\n"
            "        table.alter_column('blood_group', new_column_name='abo')"
        )
        upgrade(database_url)
        engine = open_database(database_url)
        with engine.connect() as connection:
            assert connection.scalar(text("select count(*) from draws")) == 1
        engine.dispose()

    def test_a_new_sqlite_file_that_another_process_holds_is_waited_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = sqlite3.connect(tmp_path / "new.db", isolation_level=None, check_same_thread=False)
        other.execute("begin immediate")  # then SQLite refuses another journal at once
        waits: list[float] = []

        def wait(seconds: float) -> None:
            waits.append(seconds)
            other.rollback()

        monkeypatch.setattr(database.time, "sleep", wait)
        create_database(f"sqlite:///{tmp_path / 'new.db'}").dispose()
        assert waits == [database.RETRY_S]
        other.close()

    def test_four_processes_at_once_make_one_database(self, database_url: str) -> None:
        code = (
            "import sys; import alembic.command; from client.database.session import create_database\n"
            "print('ready', flush=True); sys.stdin.readline(); create_database(sys.argv[1])"
        )
        pipe = subprocess.PIPE
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", code, database_url], stdin=pipe, stdout=pipe, stderr=pipe, text=True
            )
            for _ in range(4)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.communicate(timeout=120) for process in processes] == [("", "")] * 4
        open_database(database_url).dispose()

    @pytest.mark.postgres
    @pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
    def test_an_upgrade_waits_for_the_one_that_is_running(self, database_url: str) -> None:
        engine = database._engine(database_url, must_exist=False)
        waiting = text("select count(*) from pg_locks where locktype = 'advisory' and not granted")
        thread = threading.Thread(target=lambda: create_database(database_url).dispose())
        with engine.connect() as running, engine.connect() as watching:
            database._lock_for_migration(running)
            thread.start()
            while not watching.scalar(waiting):
                assert thread.is_alive(), "the upgrade did not wait"
                time.sleep(0.01)
            assert inspect(watching).get_table_names() == []
        thread.join()
        engine.dispose()
        open_database(database_url).dispose()

    def test_four_threads_at_once_make_one_database(self, database_url: str) -> None:
        failures: list[BaseException] = []

        def create() -> None:
            try:
                create_database(database_url).dispose()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=create) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        open_database(database_url).dispose()


def add_draw(session: Session, patient_id: int, run_id: int, **columns: object) -> Draw:
    values: dict[str, object] = {
        "source_row": "1",
        "specimen_time": datetime(2150, 1, 1),
        "item": "50971",
        "specimen": "serum",
        "label": "negative",
    }
    draw = Draw(patient_id=patient_id, run_id=run_id, **{**values, **columns})
    session.add(draw)
    session.flush()
    return draw


def add_patient(session: Session) -> tuple[int, int]:
    run = start_run(session, "ingest", make_settings(overrides={"seed": 2**62}))
    patient = Patient(source_key="a")
    session.add(patient)
    session.flush()
    return patient.id, run.id


class TestValues:
    @pytest.mark.parametrize("year", [1850, 2150, 2263, 9999])
    def test_shifted_dates_come_back_to_the_microsecond(self, session_factory: Factory, year: int) -> None:
        moment = datetime(year, 12, 31, 23, 59, 59, 123456)
        with session_factory() as session:
            add_draw(session, *add_patient(session), specimen_time=moment)
            session.commit()
        with session_factory() as session:
            assert session.scalar(select(Draw.specimen_time)) == moment

    def test_a_time_with_a_zone_is_refused(self, session_factory: Factory) -> None:
        with session_factory() as session, pytest.raises(StatementError, match="time with a zone"):
            add_draw(session, *add_patient(session), specimen_time=datetime(2150, 1, 1, tzinfo=UTC))

    def test_text_longer_than_its_column_is_refused(self, session_factory: Factory) -> None:
        with session_factory() as session, pytest.raises(StatementError, match="33 characters"):
            add_draw(session, *add_patient(session), item="x" * 33)

    def test_nan_is_null_and_numpy_numbers_are_numbers(self, session_factory: Factory) -> None:
        with session_factory() as session:
            patient, run = add_patient(session)
            add_draw(session, patient, run, source_row="nan", value=math.nan)
            add_draw(session, patient, run, source_row="numpy", value=np.float32(5.5))
            session.commit()
        with session_factory() as session:
            assert session.scalars(select(Draw.value).order_by(Draw.id)).all() == [None, 5.5]

    def test_quality_figures_that_are_not_numbers_become_null(self, session_factory: Factory) -> None:
        quality = {"agreement": np.float64(0.5), "entropy": math.nan, "rr_s": np.array([0.8, math.inf])}
        with session_factory() as session:
            patient, run = add_patient(session)
            moment = datetime(2150, 1, 1)
            session.add(
                Strip(
                    patient_id=patient, run_id=run, label="gap", start=moment, end=moment, quality=quality,
                    beat_offset=2**40,
                )
            )  # fmt: skip
            session.commit()
        with session_factory() as session:
            strip = session.scalars(select(Strip)).one()
            assert strip.quality == {"agreement": 0.5, "entropy": None, "rr_s": [0.8, None]}
            assert strip.beat_offset == 2**40

    @pytest.mark.parametrize(
        "columns",
        [
            {"label": "positive", "exclusion": "wrong_unit"},
            {"label": None, "exclusion": None},
            {"label": "hyper"},
            {"merged_into_id": 99},
            {"patient_id": 99},
        ],
    )
    def test_rows_that_contradict_themselves_are_refused(
        self, session_factory: Factory, columns: dict[str, object]
    ) -> None:
        with session_factory() as session:
            patient, run = add_patient(session)
            with pytest.raises(IntegrityError):
                add_draw(session, **{"patient_id": patient, "run_id": run, **columns})  # type: ignore[arg-type]

    def test_a_patient_has_one_split_or_none(self, session_factory: Factory) -> None:
        with session_factory() as session:
            session.add(Patient(source_key="a", split="development"))
            with pytest.raises(IntegrityError):
                session.flush()


class TestFailures:
    @pytest.mark.parametrize("attempt", [open_database, upgrade])
    def test_a_missing_file_is_not_made(self, attempt: Callable[[str], object], tmp_path: Path) -> None:
        path = tmp_path / "site.sqlite"
        with pytest.raises(DatabaseError, match=r"site\.sqlite; run 'fedkalemia-site ingest SITE' first"):
            attempt(f"sqlite:///{path}")
        assert not path.exists()

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        path = tmp_path / "site.sqlite"
        path.write_text("potassium " * 1000)
        with pytest.raises(DatabaseError, match="is not an SQLite database or is damaged"):
            open_database(f"sqlite:///{path}")
        assert path.read_text() == "potassium " * 1000

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "site").write_text("a file")
        with pytest.raises(StorageError, match="cannot make the folder"):
            create_database(f"sqlite:///{tmp_path / 'site' / 'site.sqlite'}")

    @pytest.mark.parametrize(
        "url",
        [
            "mysql://root:geheim@localhost/site",
            "geheim",
            "sqlite://",
            "postgresql://site:geheim@127.0.0.1:1/site",
            "postgresql://127.0.0.1:1/site?user=site&password=geheim",
        ],
    )
    def test_no_password_is_ever_shown(self, url: str) -> None:
        with pytest.raises(DatabaseError) as caught:
            open_database(url)
        assert "geheim" not in str(caught.value)

    def test_a_server_that_does_not_answer(self) -> None:
        with pytest.raises(DatabaseError, match=r"no connection to the site database 127\.0\.0\.1:1/site"):
            open_database("postgresql://site:geheim@127.0.0.1:1/site")

    @pytest.mark.postgres
    @pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
    def test_a_database_that_does_not_exist_on_the_server(self, database_url: str) -> None:
        with pytest.raises(DatabaseError, match="create the database and the role first"):
            open_database(database_url.replace("/site", "/other_site", 1))

    @pytest.mark.postgres
    @pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
    def test_the_scheme_of_other_tools_is_understood(self, database_url: str) -> None:
        create_database(database_url).dispose()
        open_database(database_url.replace("postgresql://", "postgres://")).dispose()

    @pytest.mark.postgres
    @pytest.mark.parametrize("session_factory", ["postgres"], indirect=True)
    def test_a_server_that_goes_away(self, session_factory: Factory) -> None:
        with session_factory() as session, pytest.raises(DatabaseError, match="no connection to the site"):
            session.execute(text("select pg_terminate_backend(pg_backend_pid())"))

    def test_a_database_that_cannot_be_written(self, session_factory: Factory) -> None:
        with session_factory() as session:
            sqlite = session.get_bind().dialect.name == "sqlite"
            read_only = "pragma query_only = on" if sqlite else "set transaction read only"
            session.execute(text(read_only))
            session.add(Patient(source_key="a"))
            with pytest.raises(StorageError, match=r"cannot be written|is read only"):
                session.flush()

    def test_a_full_disk(self, tmp_path: Path) -> None:
        engine = create_database(f"sqlite:///{tmp_path / 'site.sqlite'}")

        @event.listens_for(engine, "connect")
        def limit(connection: sqlite3.Connection, _record: object) -> None:
            pages = connection.execute("pragma page_count").fetchone()[0]
            connection.execute(f"pragma max_page_count = {pages}")

        engine.dispose()
        with Session(engine) as session:
            session.add_all(Patient(source_key=str(i), ethnicity="x" * 32) for i in range(1000))
            with pytest.raises(StorageError, match=r"the disk of .* is full; free some space"):
                session.flush()
            session.rollback()
            assert session.scalars(select(Patient)).all() == []
        engine.dispose()

    def test_a_second_writer_waits_for_the_first(self, session_factory: Factory) -> None:
        first_wrote, second_began = threading.Event(), threading.Event()

        def first() -> None:
            with session_factory() as session:
                session.add(Patient(source_key="first"))
                session.flush()
                first_wrote.set()
                second_began.wait(10)
                session.commit()

        thread = threading.Thread(target=first)
        thread.start()
        assert first_wrote.wait(10)
        with session_factory() as session:
            session.scalars(select(Patient)).all()  # what was read before does not spoil the waiting
            session.add(Patient(source_key="second"))
            second_began.set()
            session.commit()
        thread.join()
        with session_factory() as session:
            assert set(session.scalars(select(Patient.source_key))) == {"first", "second"}

    def test_waiting_ends(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0)
        engine = create_database(f"sqlite:///{tmp_path / 'site.sqlite'}")
        with Session(engine) as first, Session(engine) as second:
            first.add(Patient(source_key="a"))
            first.flush()
            second.add(Patient(source_key="b"))
            with pytest.raises(DatabaseError, match=r"another process has been writing.*wait until it ends"):
                second.flush()
        engine.dispose()

    def test_a_reader_does_not_hold_up_a_writer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0)
        engine = create_database(f"sqlite:///{tmp_path / 'site.sqlite'}")
        with engine.connect() as reader, Session(engine) as writer:
            reader.exec_driver_sql("begin")
            assert reader.execute(select(Patient.id)).all() == []
            writer.add(Patient(source_key="a"))
            writer.commit()
            assert reader.execute(select(Patient.id)).all() == []  # its own moment, until it ends
        engine.dispose()


def test_passwords_are_struck_out_of_the_first_line_of_what_a_driver_says() -> None:
    url = make_url("postgresql://site:geheim@host/site?sslpassword=topf")
    assert without_secrets(url, "refused: geheim or topf\nsecond line") == "refused: *** or ***"
    assert without_secrets(make_url("postgresql://host/site"), "refused") == "refused"
    assert place(url) == "host/site"

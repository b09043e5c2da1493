"""Opening the site database: SQLite by default, PostgreSQL by URL, always of the right schema version."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session, sessionmaker

from client.database.failures import BUSY_TIMEOUT_S, place, translate_failures
from client.database.tables import Base
from common.errors import DatabaseError, StorageError
from common.files import storage_errors

if TYPE_CHECKING:
    from alembic.config import Config

SCHEMA_VERSION = "0003"  # the newest file in migrations/versions; a test compares
MIGRATIONS = Path(__file__).parent / "migrations"
CONNECT_TIMEOUT_S = 10
#: Patients' data: the file of the database is for its owner only.
PRIVATE = 0o600
RETRY_S = 0.02  # between two tries to get a new SQLite file alone
_MIGRATION_LOCK = 0x6665646B  # any fixed number: two processes must ask PostgreSQL for the same lock
_ONE_AT_A_TIME = threading.Lock()  # Alembic keeps what it works on in a module: one thread at a time
_UPGRADE = "'fedkalemia-site database upgrade SITE'"
_INGEST = "'fedkalemia-site ingest SITE'"


class EmptyDatabaseError(DatabaseError):
    """The site database is within reach and holds nothing yet, or its file is still to be made."""


def open_database(url: str) -> Engine:
    """Open an existing site database.

    Parameters
    ----------
    url : ``sqlite:///PATH`` or ``postgresql://USER@HOST:PORT/DATABASE``.

    Raises
    ------
    EmptyDatabaseError
        If there is no database yet, or it has no tables.
    DatabaseError
        If it is unreachable, or of another schema version than this code needs.
    StorageError
        If it lies where it cannot be read or written.
    """
    engine = _engine(url, must_exist=True)
    try:
        with engine.connect() as connection:
            found = _version(connection)
        if found != SCHEMA_VERSION:
            kind = DatabaseError if found else EmptyDatabaseError
            raise kind(_version_sentence(engine.url, found))
    except BaseException:
        engine.dispose()
        raise
    return engine


def create_database(url: str) -> Engine:
    """Create the site database, or bring an existing one to the newest schema version, and open it.

    Nothing changes where the version is right already. On PostgreSQL the (empty) database itself must
    exist; its tables are made here.

    Raises
    ------
    DatabaseError, StorageError
        As ``open_database`` and ``upgrade``.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        folder = Path(str(parsed.database)).absolute().parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the folder {folder}: {error.strerror or error}") from None
        _make_private(Path(str(parsed.database)))
    _upgrade(_engine(url, must_exist=False))
    return open_database(url)


def upgrade(url: str) -> str:
    """Bring an existing database to the newest schema version, all of it or nothing.

    Returns
    -------
    str
        The version it had before; empty if it had no tables.

    Raises
    ------
    DatabaseError
        If the database is missing, unreachable, or was written by a newer or another program.
    """
    return _upgrade(_engine(url, must_exist=True))


def sessions(engine: Engine) -> sessionmaker[Session]:
    """Return the factory of sessions. Rows stay readable after a commit."""
    return sessionmaker(engine, expire_on_commit=False)


def migrations_config(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration, built here: no alembic.ini is needed at a site."""
    from alembic.config import Config  # here, because only a change of the schema needs it

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _make_private(path: Path) -> None:
    """Make an empty SQLite file that only its owner may read, where there is none.

    SQLite would make one that others may read, as most files may be. Its files beside it (``-wal``, ``-shm``)
    get the mode of this one.
    """
    with storage_errors(path), suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE))


def _parse(url: str) -> URL:
    allowed = "allowed: sqlite:///PATH or postgresql://USER@HOST:PORT/DATABASE"
    try:
        parsed = make_url(url)
    except ArgumentError:  # its text may hold the password
        raise DatabaseError(f"the database URL cannot be read; {allowed}") from None
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise DatabaseError(f"databases of kind {parsed.drivername!r} are not supported; {allowed}")
    if parsed.database in (None, "", ":memory:"):
        raise DatabaseError(f"a database in memory cannot be shared between commands; {allowed}")
    return parsed


def _engine(url: str, *, must_exist: bool) -> Engine:
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        if must_exist and not Path(str(parsed.database)).is_file():
            raise EmptyDatabaseError(f"there is no site database at {parsed.database}; run {_INGEST} first")
        engine = create_engine(
            parsed, json_serializer=_to_json, connect_args={"timeout": float(BUSY_TIMEOUT_S)}
        )
        event.listen(engine, "connect", _prepare_sqlite)
    else:
        options = {} if "connect_timeout" in parsed.query else {"connect_timeout": CONNECT_TIMEOUT_S}
        try:
            engine = create_engine(parsed, json_serializer=_to_json, connect_args=options, pool_pre_ping=True)
        except ModuleNotFoundError:
            raise DatabaseError(
                "a postgresql:// database needs psycopg; install it with 'pip install fedkalemia[postgres]'"
            ) from None
    translate_failures(engine)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    """Set what SQLite forgets with every connection. The waiting time comes first: the others may wait."""
    cursor = connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")
        _write_ahead(cursor)
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA secure_delete = ON")  # what is removed is overwritten, not only given free
    finally:
        cursor.close()


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    """Let readers go on while one process writes (WAL, kept in the file).

    Changing the journal of a new file needs it alone, and SQLite does not wait for that: of two processes
    that both hold a read lock and both ask for more, one is refused at once, whatever the busy timeout says.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # the low byte: without the subtype
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(RETRY_S)
        else:
            return


def _to_json(value: Any) -> str:
    return json.dumps(_plain(value), allow_nan=False, sort_keys=True)


def _plain(value: Any) -> Any:
    """Make a value plain JSON: NaN and infinity become null, which PostgreSQL would refuse."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _version(connection: Connection) -> str:
    """Return the schema version of a database: empty without tables, ``unknown`` for foreign tables."""
    tables = set(inspect(connection).get_table_names())
    if "alembic_version" in tables:
        found = connection.execute(text("select version_num from alembic_version")).scalars().all()
        if len(found) == 1:
            return str(found[0])
        if found:
            return "unknown"
        tables.discard("alembic_version")
    return "unknown" if tables & set(Base.metadata.tables) else ""


def _upgrade(engine: Engine) -> str:
    from alembic import command

    try:
        with _ONE_AT_A_TIME, engine.connect() as connection:
            _lock_for_migration(connection)
            found = _version(connection)
            if found and found not in _known_versions():
                raise DatabaseError(_version_sentence(engine.url, found))
            if found != _known_versions()[0]:
                command.upgrade(migrations_config(connection), "head")
            connection.commit()
    finally:
        engine.dispose()
    return found


def _lock_for_migration(connection: Connection) -> None:
    """Begin a transaction that holds the changes of the schema and keeps a second process waiting."""
    if connection.dialect.name == "sqlite":
        # Rebuilding a table drops it for a moment, which would delete the rows that point at it.
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # Python's driver begins none before DDL
    else:
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})


def _known_versions() -> list[str]:
    """Return the schema versions this code knows, newest first."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(migrations_config())
    return [script.revision for script in scripts.walk_revisions()]


def _version_sentence(url: URL, found: str) -> str:
    where = f"the site database {place(url)}"
    if not found:
        return f"{where} has no tables yet; run {_INGEST} first"
    if found == "unknown":
        return (
            f"{where} holds tables of another program or no single schema version; this code needs "
            f"version {SCHEMA_VERSION}; point the database URL at an empty database and run {_INGEST}"
        )
    sentence = f"{where} has schema version {found}, this code needs {SCHEMA_VERSION}"
    if found in _known_versions():
        return f"{sentence}; run {_UPGRADE}"
    return (
        f"{sentence} and does not know {found}: a newer fedkalemia wrote it; install that one, or a newer "
        f"one and run {_UPGRADE}"
    )

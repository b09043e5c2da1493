"""What a database driver reports, as sentences a person can act on.

Installed once per engine, so that every statement anywhere ends in the same words, whichever part of
the program ran it. Passwords never appear: only host, port and database name are taken from the URL.
"""

from __future__ import annotations

import sqlite3

from sqlalchemy import URL, Engine, event
from sqlalchemy.engine import ExceptionContext

from common.errors import DatabaseError, FedkalemiaError, StorageError

BUSY_TIMEOUT_S = 60
_PRIMARY_CODE = 0xFF  # SQLite's extended result codes keep the primary one in the low byte
_UNREADABLE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
_DISK_FULL = "53100"
_READ_ONLY = "25006"
_NO_DATABASE = "3D000"


def translate_failures(engine: Engine) -> None:
    """Make an engine raise the project's own errors where a person can do something about them.

    Constraint violations and programming errors stay what they are.
    """

    @event.listens_for(engine, "handle_error", retval=True)
    def translate(context: ExceptionContext) -> BaseException | None:
        error = context.original_exception
        if isinstance(error, sqlite3.Error):
            return _sqlite(engine.url, error)
        if engine.url.get_backend_name() == "postgresql":
            return _postgres(engine.url, error, connected=context.connection is not None)
        return None


def place(url: URL) -> str:
    """Name a database without its user, password or options."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    host = url.host or url.query.get("host", "localhost")
    port = f":{url.port}" if url.port else ""
    return f"{host}{port}/{url.database or ''}"


def without_secrets(url: URL, text: str) -> str:
    """Return the first line of a driver's message with every password of the URL struck out."""
    line = next(iter(text.strip().splitlines()), "")
    for secret in (url.password, *(v for k, v in url.query.items() if "pass" in k.lower())):
        if secret:
            line = line.replace(str(secret), "***")
    return line


def _sqlite(url: URL, error: sqlite3.Error) -> FedkalemiaError | None:
    code = getattr(error, "sqlite_errorcode", -1) & _PRIMARY_CODE
    where = f"the site database {place(url)}"
    if code == sqlite3.SQLITE_FULL:
        return StorageError(f"the disk of {where} is full; free some space and run the command again")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return StorageError(
            f"{where} or its folder cannot be written; make both writable for this user and run the "
            "command again"
        )
    if code == sqlite3.SQLITE_IOERR:
        return StorageError(f"{where} cannot be read or written ({error}); check the disk it is on")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DatabaseError(
            f"another process has been writing to {where} for {BUSY_TIMEOUT_S} s; wait until it ends and "
            "run the command again"
        )
    if code in _UNREADABLE:
        return DatabaseError(
            f"{place(url)} is not an SQLite database or is damaged; restore it from a backup, or move it "
            "away and run 'fedkalemia-site ingest SITE' again"
        )
    return None


def _postgres(url: URL, error: BaseException, connected: bool) -> FedkalemiaError | None:
    where, state = f"the site database {place(url)}", getattr(error, "sqlstate", None)
    if state == _DISK_FULL:
        return StorageError(f"the disk of {where} is full; free some space and run the command again")
    if state == _READ_ONLY:
        return StorageError(f"{where} is read only; connect to a server that accepts writing")
    if connected and not _lost(error, state):
        return None
    reason = without_secrets(url, str(error))
    if state == _NO_DATABASE or (not connected and "does not exist" in reason):
        advice = "create the database and the role first (createdb, createuser)"
    else:
        advice = "check that the server runs, and the address, role and password in the database URL"
    return DatabaseError(f"no connection to {where}: {reason or type(error).__name__}; {advice}")


def _lost(error: BaseException, state: str | None) -> bool:
    """Tell whether a connection that existed is gone (class 08, or the server is shutting down)."""
    if state is not None:
        return state.startswith("08") or state in {"57P01", "57P02", "57P03"}
    return type(error).__name__ == "OperationalError"

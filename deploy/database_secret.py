#!/opt/fedkalemia/bin/python
"""Make the password of a site's database, once: ``fedkalemia-database-secret FOLDER --host HOST``.

Writes ``database.password`` for PostgreSQL and ``database.url`` for the site's commands, both readable by the
container's user only. An existing password is kept: the database was made with it.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from pathlib import Path

PASSWORD_BYTES = 32


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def make_secret(folder: Path, host: str) -> str:
    """Write password and URL; return what was done."""
    password_file = folder / "database.password"
    kept = password_file.is_file()
    if not kept:
        write_private(password_file, secrets.token_hex(PASSWORD_BYTES))
    password = password_file.read_text(encoding="ascii")
    write_private(
        folder / "database.url", f"postgresql+psycopg://fedkalemia:{password}@{host}:5432/fedkalemia\n"
    )
    return "kept the database password" if kept else "made a database password"


def main() -> None:
    """Read the arguments and write the two files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="Folder of the secrets")
    parser.add_argument("--host", required=True, help="Name of the database's service")
    arguments = parser.parse_args()
    sys.stdout.write(make_secret(arguments.folder, arguments.host) + "\n")


if __name__ == "__main__":
    main()

"""What the executor checks before it says that it is ready."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from client.database.session import create_database
from client.gate import executor
from client.gate.folders import make_folders
from client.site import DATABASE_VARIABLE, load_site, write_site_file

COMMAND = Path(sys.executable).parent / "fedkalemia-site"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "north"
    write_site_file(made, name="north", source={"folder": "."}, settings={})
    make_folders(made, name="north")
    return made


def test_a_database_before_the_first_ingest_is_a_warning(
    folder: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(executor, "say", said.append)
    site = load_site(folder, {DATABASE_VARIABLE: database_url})
    threads = set(threading.enumerate())  # of other tests in this process
    executor.check_database(site)
    (line,) = said
    assert line.startswith("warning: ")
    assert "fedkalemia-site ingest" in line
    create_database(database_url).dispose()
    executor.check_database(site)
    assert said == [line]
    assert set(threading.enumerate()) <= threads  # the loop that follows forks: none of its own


def test_a_database_out_of_reach_ends_the_executor_with_a_sentence(folder: Path) -> None:
    pytest.importorskip("psycopg")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"postgresql://somebody@127.0.0.1:{closed.getsockname()[1]}/site"
        done = subprocess.run(
            [COMMAND, "executor", str(folder)],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, DATABASE_VARIABLE: url},
        )
    assert done.returncode == 2, done.stderr
    assert "ready" not in done.stdout
    assert "no connection to the site database" in done.stderr
    assert "Traceback" not in done.stderr

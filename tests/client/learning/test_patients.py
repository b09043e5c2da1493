"""Personalizing a site: the same rows and files for any number of processes, also after interruptions."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from client.database.session import open_database, sessions
from client.database.tables import Model, PersonalizationRound, PersonalizationRun, StripPrediction
from client.learning import patients as phase
from client.learning.patients import personalize_site
from client.site import Site
from common.weights import Weights
from common.workers import shared_workers

TABLES = (PersonalizationRun, PersonalizationRound, StripPrediction, Model)


def everything(site: Site) -> dict[str, Any]:
    """Read every row of a personalization and every file of the models.

    Whoever takes up the work writes the generic model's row anew: models have no numbers here.
    """
    engine = open_database(site.database_url)
    with sessions(engine)() as session:
        rows: dict[str, Any] = {
            table.__tablename__: [
                tuple(getattr(row, column.key) for column in table.__table__.columns)
                for row in session.scalars(select(table).order_by(table.id))
            ]
            for table in TABLES
        }
        rows["models"] = sorted(row[1:] for row in rows["models"])
    engine.dispose()
    files = {path.name: path.read_bytes() for path in site.models.rglob("*") if path.is_file()}
    return rows | {"files": files}


def at_write(number: int, then: Callable[[], None]) -> Callable[..., None]:
    """Return the function that writes a patient, which does something else instead of write ``number``."""
    real, calls = phase._keep_patient, []

    def keep(*values: Any) -> None:
        calls.append(values)
        if len(calls) == number:
            then()
        real(*values)

    return keep


def stop() -> None:
    raise KeyboardInterrupt


def test_neither_processes_nor_interruptions_change_a_row_or_a_byte(
    toy_site: Any, toy_weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process; two, stopped by Ctrl-C and begun again; one, killed, and finished by two others."""
    toy = toy_site.with_settings(personalization={"rounds": 2, "epochs": 1})

    def copy(name: str) -> Site:
        (tmp_path / name).mkdir()
        shutil.copytree(toy_site.site.beats, tmp_path / name / "beats")
        database = tmp_path / name / "site.sqlite"
        with (
            closing(sqlite3.connect(tmp_path / "site.sqlite")) as old,
            closing(sqlite3.connect(database)) as new,
        ):
            old.backup(new)
        site: Site = replace(toy.site, folder=tmp_path / name, database_url=f"sqlite:///{database}")
        return site

    whole, stopped, killed = (copy(name) for name in ("whole", "stopped", "killed"))
    personalize_site(whole, toy_weights, toy.run)
    expected = everything(whole)
    assert len(expected["personalization_runs"]) == 7, (
        "three patients, a protocol and a control; one unfitted"
    )

    # In the middle of the second patient.
    if not (child := os.fork()):
        phase._keep_patient = at_write(4, lambda: os.kill(os.getpid(), signal.SIGKILL))
        personalize_site(killed, toy_weights, toy.run)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(everything(killed)["personalization_runs"]) == 3

    with shared_workers(2):
        with monkeypatch.context() as patched:
            patched.setattr(phase, "_keep_patient", at_write(4, stop))
            with pytest.raises(KeyboardInterrupt):
                personalize_site(stopped, toy_weights, toy.run)
        assert len(everything(stopped)["personalization_runs"]) == 3
        for site in (stopped, killed):
            personalize_site(site, toy_weights, toy.run)
            assert everything(site) == expected

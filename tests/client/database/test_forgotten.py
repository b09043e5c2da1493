"""A forgotten patient is known by a digest alone."""

from __future__ import annotations

import hashlib
import json

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from client.database.forgotten import (
    find_tombstone,
    forgotten_filter,
    mark_finished,
    set_tombstone,
    tombstone,
    unfinished,
)
from client.database.tables import Forgotten

Factory = sessionmaker[Session]


def forget(factory: Factory, site_name: str, key: str, *beats: tuple[int, int], **details: int) -> None:
    with factory() as session:
        set_tombstone(session, site_name, key, details, beats)
        session.commit()


def finish(factory: Factory) -> None:
    with factory() as session:
        mark_finished(session)
        session.commit()


def test_the_digest_is_sha256_of_site_and_identifier() -> None:
    assert tombstone("north", "10006") == hashlib.sha256(b"north\x0010006").hexdigest()
    assert tombstone("north", "10006") != tombstone("south", "10006")
    assert tombstone("a", "bc") != tombstone("ab", "c")


def test_nobody_is_forgotten_in_a_new_database(session_factory: Factory) -> None:
    with session_factory() as session:
        assert not forgotten_filter(session)("10006")
        assert find_tombstone(session, "10006") is None


def test_only_the_forgotten_patient_is_kept_out(session_factory: Factory) -> None:
    forget(session_factory, "north", "10006", draws=3)
    with session_factory() as session:
        is_forgotten = forgotten_filter(session)
        assert [is_forgotten(key) for key in ("10006", "1000", "010006", "10007")] == [True] + [False] * 3


def test_a_site_that_was_renamed_does_not_bring_its_patients_back(session_factory: Factory) -> None:
    forget(session_factory, "north", "10006")
    forget(session_factory, "north-2", "10007")
    with session_factory() as session:
        is_forgotten = forgotten_filter(session)
        assert is_forgotten("10006")
        assert is_forgotten("10007")
        assert not is_forgotten("10008")


def test_the_tombstone_does_not_hold_the_identifier(session_factory: Factory) -> None:
    forget(session_factory, "north", "MRN-4711", draws=3)
    finish(session_factory)
    with session_factory() as session:
        row = session.scalars(select(Forgotten)).one()
    assert "4711" not in row.key_sha256 + json.dumps(row.details)
    assert row.details == {"site": "north", "draws": 3}


def test_a_patient_is_forgotten_unfinished_until_nothing_is_left(session_factory: Factory) -> None:
    with session_factory() as session:
        assert unfinished(session) is None
    forget(session_factory, "north", "10006", (20, 5), (30, 5))
    forget(session_factory, "north", "10007", (2, 1))
    with session_factory() as session:
        assert unfinished(session) == [(20, 5), (30, 5), (2, 1)]
    finish(session_factory)
    with session_factory() as session:
        assert unfinished(session) is None
        assert forgotten_filter(session)("10006")


def test_forgetting_again_keeps_one_tombstone_and_all_that_is_to_be_done(session_factory: Factory) -> None:
    forget(session_factory, "north", "10006", (0, 2), draws=3)
    forget(session_factory, "renamed", "10006", (9, 1), draws=1)
    with session_factory() as session:
        assert session.scalars(select(Forgotten)).one().details["site"] == "north"
        assert unfinished(session) == [(0, 2), (9, 1)]

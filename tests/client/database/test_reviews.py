"""What reviewers said about strips, counted."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

import pytest
from sqlalchemy.orm import Session, sessionmaker

from client.database.reviews import (
    ACCEPTED,
    READ,
    SHEET,
    VERDICTS,
    Said,
    cohens_kappa,
    counts,
    find_sheet,
    replace_verdicts,
    reviewers,
)
from client.database.runs import finish_run, start_run
from client.database.tables import Patient, Review, Strip
from client.review.counting import as_values, lines
from common.config import make_settings

DIGEST = "a" * 64
REASONS = {1: None, 2: None, 3: None, 4: None, 5: "flat_line", 6: "flat_line", 7: "clipped"}


@pytest.fixture
def filled(session_factory: sessionmaker[Session]) -> sessionmaker[Session]:
    """Store seven strips of three patients: four accepted, two flat, one clipped."""
    with session_factory() as session:
        run = start_run(session, "ingest", make_settings())
        session.add_all(Patient(id=n, source_key=f"p{n}") for n in (1, 2, 3))
        session.flush()
        for number, reason in REASONS.items():
            begin = datetime(2150, 3, 1) + timedelta(hours=number)
            session.add(
                Strip(
                    id=number, patient_id=1 + number % 3, run_id=run.id, label="negative", start=begin,
                    end=begin + timedelta(minutes=10), exclusion=reason, n_beats=0 if reason else 100,
                )
            )  # fmt: skip
        session.commit()
    return session_factory


def say(factory: sessionmaker[Session], reviewer: str, said: dict[int, str], digest: str = DIGEST) -> int:
    with factory() as session:
        verdicts = {strip: Said(verdict) for strip, verdict in said.items()}  # type: ignore[arg-type]
        replaced = replace_verdicts(session, reviewer, digest, verdicts, REASONS)
        session.commit()
        return replaced


def test_a_site_without_verdicts_has_empty_counts(filled: sessionmaker[Session]):
    with filled() as session:
        found = counts(session)
    assert (found.rows, found.agreements, found.pairs, dict(found.accepted_unusable)) == ([], [], [], {})
    assert list(lines(found))[-1].startswith("intervals are")


def test_verdicts_are_counted_by_reason_and_against_the_software(filled: sessionmaker[Session]):
    say(filled, "AB", {1: "usable", 2: "usable", 3: "unusable", 4: "unsure", 5: "unusable", 7: "usable"})
    with filled() as session:
        found = counts(session)
    accepted, clipped, flat = found.rows
    assert (accepted.reason, accepted.usable, accepted.unusable, accepted.unsure) == (ACCEPTED, 2, 1, 1)
    assert (accepted.reviewed, accepted.judged, accepted.patients) == (4, 3, 3)
    assert (clipped.reason, clipped.usable, clipped.as_software) == ("clipped", 1, 0)
    assert (flat.reason, flat.unusable, flat.as_software) == ("flat_line", 1, 1)
    # Two accepted strips usable and one flat one unusable, of five judged.
    (agreement,) = found.agreements
    assert (agreement.same, agreement.judged) == (3, 5)
    assert agreement.interval == pytest.approx((0.2307, 0.8824), abs=1e-3)  # Wilson, 3 of 5
    assert dict(found.accepted_unusable) == {3: ["AB"]}
    assert found.pairs == []


def test_two_reviewers_are_compared_on_the_strips_both_have_seen(filled: sessionmaker[Session]):
    say(filled, "AB", {1: "usable", 2: "usable", 3: "unusable", 5: "unusable", 6: "unusable"})
    say(filled, "CD", {1: "usable", 2: "unusable", 3: "unusable", 5: "unusable", 7: "unusable"})
    with filled() as session:
        found = counts(session)
    (pair,) = found.pairs
    assert (pair.reviewers, pair.strips, pair.same) == (("AB", "CD"), 4, 3)
    # Chance: AB says usable on 2 of 4, CD on 1 of 4: .5 * .25 + .5 * .75 = .5; kappa (.75 - .5) / .5.
    assert pair.kappa == pytest.approx(0.5)
    assert {row.reviewer for row in found.rows} == {"AB", "CD"}
    assert dict(found.accepted_unusable) == {2: ["CD"], 3: ["AB", "CD"]}
    text = "\n".join(lines(found))
    assert "AB and CD: same verdict on 3 of 4 strips both have seen; Cohen's kappa 0.50" in text
    assert "strip 3: AB, CD" in text


def test_kappa_by_hand():
    # Cohen 1960 in the form of every textbook: 20 + 15 agreed of 50, chance .5.
    table = {("usable", "usable"): 20, ("usable", "unusable"): 5, ("unusable", "usable"): 10}
    assert cohens_kappa({**table, ("unusable", "unusable"): 15}) == pytest.approx(0.4)
    assert cohens_kappa({("usable", "unusable"): 5, ("unusable", "usable"): 5}) == pytest.approx(-1.0)
    assert cohens_kappa({("usable", "usable"): 9}) is None
    assert cohens_kappa({}) is None


def test_a_share_of_nothing_is_no_number(filled: sessionmaker[Session]):
    say(filled, "AB", {1: "unsure"})
    with filled() as session:
        found = counts(session)
    (row,) = found.rows
    assert math.isnan(row.usable_interval[0])
    values = as_values(found)
    assert (values["reasons"][0]["share_usable"], values["reasons"][0]["interval"]) == (None, None)
    assert values["agreement_with_software"][0]["share"] is None
    assert "–" in "\n".join(lines(found))


def test_reading_again_replaces_own_verdicts_of_the_sheet_and_no_others(filled: sessionmaker[Session]):
    say(filled, "AB", {1: "usable", 2: "usable"})
    say(filled, "AB", {3: "usable"}, "b" * 64)
    say(filled, "CD", {1: "unsure"})
    assert say(filled, "AB", {1: "unusable", 3: "unusable"}) == 3
    with filled() as session:
        rows = {(row.reviewer, row.strip_id): row.verdict for row in session.query(Review)}
        assert reviewers(session) == ["AB", "CD"]
    assert rows == {("AB", 1): "unusable", ("AB", 3): "unusable", ("CD", 1): "unsure"}


def test_a_sheet_is_known_once_it_is_finished(filled: sessionmaker[Session]):
    with filled() as session:
        details = {"sheet_sha256": DIGEST, "strips": {"1": None, "5": "flat_line"}}
        run = start_run(session, "review", make_settings(), name=SHEET)
        finish_run(session, run, details, status="failed")
        other = start_run(session, "review", make_settings(), name=READ)
        finish_run(session, other, details)
        session.commit()
        assert find_sheet(session, DIGEST) is None
        finish_run(session, run, status="finished")
        session.commit()
        assert find_sheet(session, DIGEST) == {1: None, 5: "flat_line"}
        assert find_sheet(session, "c" * 64) is None


def test_the_words_of_a_verdict_are_those_the_table_takes(filled: sessionmaker[Session]):
    for verdict in VERDICTS:
        say(filled, verdict, {1: verdict})
    with filled() as session:
        assert {row.verdict for row in session.query(Review)} == set(VERDICTS)

"""Counts that can be checked by hand, on both engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import pytest
from sqlalchemy.orm import Session, sessionmaker

from client.database.queries import (
    LabelCounts,
    flowchart,
    latest_generic,
    members,
    patients_of_model,
    strip_exclusions,
    trained_patients,
)
from client.database.runs import start_run
from client.database.tables import CohortMember, Draw, FederatedRound, Model, Patient, Strip
from common.config import make_settings
from common.task import Label

Factory = sessionmaker[Session]
SETTINGS = make_settings()
DAY = datetime(2150, 3, 1)


class Site:
    """A database filled row by row."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.ingest = start_run(session, "ingest", SETTINGS).id
        self.minutes = 0

    def patient(self, key: str, **columns: object) -> int:
        patient = Patient(source_key=key, **columns)
        self.session.add(patient)
        self.session.flush()
        return patient.id

    def draw(self, patient: int, value: float, label: str | None, exclusion: str | None = None) -> int:
        self.minutes += 60
        draw = Draw(
            patient_id=patient, run_id=self.ingest, source_row=str(self.minutes), value=value, item="50971",
            specimen_time=DAY + timedelta(minutes=self.minutes), specimen="serum", label=label,
            exclusion=exclusion,
        )  # fmt: skip
        self.session.add(draw)
        self.session.flush()
        return draw.id

    def strip(
        self, patient: int, label: str, beats: int, exclusion: str | None = None, **more: object
    ) -> None:
        self.minutes += 60
        start = DAY + timedelta(minutes=self.minutes)
        self.session.add(
            Strip(
                patient_id=patient, run_id=self.ingest, label=label, start=start,
                end=start + timedelta(minutes=10), n_beats=beats, beat_offset=0 if beats else None,
                exclusion=exclusion, **more,
            )
        )  # fmt: skip
        self.session.flush()

    def cohort(self, rows: Sequence[tuple[int, str, str | None]], name: str = "main") -> int:
        run = start_run(self.session, "cohort", SETTINGS, name=name).id
        self.session.add_all(
            CohortMember(
                run_id=run, patient_id=patient, role=role, split=split, n_positive=2, n_negative=1, n_gap=0
            )
            for patient, role, split in rows
        )
        self.session.flush()
        return run


def small_site(session: Session) -> tuple[Site, int]:
    """Three patients: one complete, one left out on the way, one never drawn."""
    site = Site(session)
    a = site.patient("a", age=60.0, sex="F", ethnicity="white", weight_kg=70.0)
    b = site.patient("b", age=70.0, sex="M")
    site.patient("c")
    for value, label, beats, reason in (
        (6.0, "positive", 600, None),
        (6.4, "positive", 500, None),
        (4.0, "negative", 400, None),
        (5.2, "gap", 300, None),
        (4.1, "negative", 0, "no_waveform"),
    ):
        site.strip(a, label, beats, reason, draw_id=site.draw(a, value, label), value=value)
    site.draw(b, 3.0, None, "low_potassium")
    site.draw(b, 99.0, None, "implausible_value")
    site.draw(b, 3.1, None, "low_potassium")
    site.strip(b, "negative", 50, "too_few_beats", draw_id=site.draw(b, 4.2, "negative"), value=4.2)
    run = site.cohort([(a, "generic", "train")])
    return site, run


def test_every_draw_is_accounted_for(session_factory: Factory) -> None:
    with session_factory() as session:
        _, run = small_site(session)
        chart = flowchart(session, run)
    assert (chart.patients, chart.draws, chart.draw_patients) == (3, 9, 2)
    assert chart.draw_exclusions == {"low_potassium": 2, "implausible_value": 1}
    assert list(chart.draw_exclusions) == ["low_potassium", "implausible_value"]
    assert chart.labelled == LabelCounts(positive=2, negative=3, gap=1)
    assert chart.draws == sum(chart.draw_exclusions.values()) + chart.labelled.total
    assert (chart.labelled_patients, chart.strips, chart.strip_patients) == (2, 6, 2)
    assert chart.strip_exclusions == {"no_waveform": 1, "too_few_beats": 1}
    assert chart.accepted == LabelCounts(positive=2, negative=1, gap=1)
    assert chart.strips == sum(chart.strip_exclusions.values()) + chart.accepted.total
    assert (chart.accepted_patients, chart.accepted_beats) == (1, 1800)
    assert (chart.generic, chart.personal) == (1, 0)


def test_a_task_without_draws_starts_at_the_strips(session_factory: Factory) -> None:
    with session_factory() as session:
        site = Site(session)
        site.strip(site.patient("100"), "positive", 20)
        chart = flowchart(session)
    assert (chart.draws, chart.labelled.total, chart.strips, chart.accepted_beats) == (0, 0, 1, 20)
    assert chart.generic is None


def test_an_empty_database_counts_to_zero(session_factory: Factory) -> None:
    with session_factory() as session:
        chart = flowchart(session, 1)
        assert (chart.patients, chart.accepted_beats, chart.generic, chart.personal) == (0, 0, 0, 0)
        assert members(session, 1) == []


def test_reasons_by_label(session_factory: Factory) -> None:
    with session_factory() as session:
        small_site(session)
        assert strip_exclusions(session, Label.POSITIVE) == {}
        assert strip_exclusions(session, Label.NEGATIVE) == {"no_waveform": 1, "too_few_beats": 1}


def test_members_by_role_and_split(session_factory: Factory) -> None:
    with session_factory() as session:
        site, _ = small_site(session)
        run = site.cohort([(1, "generic", "test"), (2, "personal", None), (3, "personal", "test")])
        assert [m.patient_id for m in members(session, run)] == [1, 2, 3]
        assert [m.patient_id for m in members(session, run, roles=["personal"])] == [2, 3]
        assert [m.patient_id for m in members(session, run, splits=["test"])] == [1, 3]


def test_who_trained_a_generic_model(session_factory: Factory) -> None:
    with session_factory() as session:
        site, _ = small_site(session)
        first = site.cohort(
            [(1, "generic", "train"), (2, "generic", "validation"), (3, "generic", "test")], "a"
        )
        site.cohort([(3, "generic", "train")], "a")
        assert trained_patients(session, "a") == set()
        run = start_run(session, "federation", SETTINGS, name="a", cohort_run_id=first)
        run.status = "interrupted"
        session.flush()
        assert trained_patients(session, "a") == {1, 2}
        assert trained_patients(session, "b") == set()
        start_run(session, "federation", SETTINGS, name="a")  # which cohort, it does not say
        assert trained_patients(session, "a") == {1, 2, 3}
        assert trained_patients(session, "b") == set()


class TestWhoMadeAModel:
    """Federated round r receives what rounds 1 to r - 1 made; the database keeps the hash of what came in."""

    INITIAL, FIRST, SECOND = ("0" * 64, "1" * 64, "2" * 64)

    @staticmethod
    def federate(
        session: Session, cohort: int, received: dict[int, str], name: str = "main", made: str | None = None
    ) -> None:
        run = start_run(session, "federation", SETTINGS, name=name, cohort_run_id=cohort, model_sha256=made)
        session.add_all(
            FederatedRound(run_id=run.id, round=round_, received_sha256=digest, seconds=1.0)
            for round_, digest in received.items()
        )
        session.flush()

    @pytest.fixture
    def site(self, session_factory: Factory) -> Iterator[Site]:
        with session_factory() as session:
            small_site(session)
            yield Site(session)

    def test_those_who_trained_or_chose_it_under_any_name(self, site: Site) -> None:
        session = site.session
        first = site.cohort([(1, "generic", "train"), (2, "generic", "validation"), (3, "generic", "test")])
        self.federate(session, first, {1: self.INITIAL, 2: self.FIRST, 3: self.SECOND})
        second = site.cohort([(3, "generic", "train"), (1, "personal", "test")], "b")
        self.federate(session, second, {1: self.INITIAL, 2: "b" * 64}, "b")
        assert patients_of_model(session, self.FIRST) == {1, 2}
        assert patients_of_model(session, self.SECOND) == {1, 2}
        assert patients_of_model(session, "b" * 64) == {3}

    def test_nobody_made_the_weights_of_round_one_or_weights_from_elsewhere(self, site: Site) -> None:
        cohort = site.cohort([(1, "generic", "train")])
        self.federate(site.session, cohort, {1: self.INITIAL, 2: self.FIRST})
        assert patients_of_model(site.session, self.INITIAL) == set()
        assert patients_of_model(site.session, "f" * 64) == set()

    def test_swapped_lists_and_a_fresh_federation_part_the_two_models(self, site: Site) -> None:
        for patient, other, digest in ((1, 2, self.FIRST), (2, 1, self.SECOND)):
            cohort = site.cohort([(patient, "generic", "train"), (other, "personal", "test")])
            self.federate(site.session, cohort, {1: self.INITIAL, 2: digest})
        assert patients_of_model(site.session, self.FIRST) == {1}
        assert patients_of_model(site.session, self.SECOND) == {2}

    def test_a_federation_that_went_on_with_another_cohort_has_the_patients_of_both(self, site: Site) -> None:
        for patient, rounds in (
            (1, {1: self.INITIAL, 2: self.FIRST}),
            (2, {3: "3" * 64}),
            (3, {4: "4" * 64, 5: self.SECOND}),
        ):
            self.federate(site.session, site.cohort([(patient, "generic", "train")]), rounds)
        assert patients_of_model(site.session, self.FIRST) == {1}
        assert patients_of_model(site.session, self.SECOND) == {1, 2, 3}

    def test_a_site_that_missed_the_last_exchange_knows_the_model_its_federation_ended_with(
        self, site: Site
    ) -> None:
        self.federate(
            site.session, site.cohort([(1, "generic", "train")]), {1: self.INITIAL}, made=self.SECOND
        )
        assert patients_of_model(site.session, self.SECOND) == {1}


def test_the_generic_model_last_used_under_a_name(session_factory: Factory) -> None:
    with session_factory() as session:
        assert latest_generic(session, "a") is None
        for name, kind, path in (
            ("a", "generic", "one"), ("a", "generic", "two"), ("a", "personal", "own"), ("b", "generic", "b")
        ):  # fmt: skip
            run = start_run(session, "personalization", SETTINGS, name=name)
            session.add(Model(run_id=run.id, kind=kind, sha256="0" * 64, path=path, architecture={}))
        session.flush()
        assert latest_generic(session, "a") == "two"
        assert latest_generic(session, "c") is None

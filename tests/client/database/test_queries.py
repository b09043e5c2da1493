"""Counts that can be checked by hand, on both engines."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import Session, sessionmaker

from client.database.queries import (
    LabelCounts,
    cohort_counts,
    flowchart,
    mean_sd,
    members,
    spread,
    strip_exclusions,
    table_one,
    trained_patients,
)
from client.database.runs import start_run
from client.database.tables import CohortMember, Draw, Patient, Strip
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
        assert table_one(session, 1) == []
        assert members(session, 1) == []


def test_reasons_by_label(session_factory: Factory) -> None:
    with session_factory() as session:
        small_site(session)
        assert strip_exclusions(session, Label.POSITIVE) == {}
        assert strip_exclusions(session, Label.NEGATIVE) == {"no_waveform": 1, "too_few_beats": 1}


def test_table_one(session_factory: Factory) -> None:
    with session_factory() as session:
        site, _ = small_site(session)
        site.strip(2, "positive", 100)
        run = site.cohort([(1, "generic", "train"), (2, "personal", None), (3, "generic", "train")])
        train, personal = table_one(session, run)
        counts = cohort_counts(session, run)
    assert (train.name, train.patients, personal.name, personal.patients) == ("train", 2, "personal", 1)
    assert (train.age.median, train.age.known, train.age.missing) == (60.0, 1, 1)
    assert math.isnan(train.height_cm.median)
    assert train.height_cm.missing == 2
    assert train.sex == {"F": 1, "unknown": 1}
    assert train.ethnicity == {"unknown": 1, "white": 1}
    assert train.strips == LabelCounts(positive=2, negative=1, gap=1)
    assert train.beats == LabelCounts(positive=1100, negative=400, gap=300)
    assert train.values[Label.POSITIVE].mean == pytest.approx(6.2)
    assert train.values[Label.POSITIVE].sd == pytest.approx(math.sqrt(0.08))
    assert train.values[Label.NEGATIVE].n == 1
    assert math.isnan(train.values[Label.NEGATIVE].sd)
    assert personal.strips == LabelCounts(positive=1)
    assert personal.values[Label.POSITIVE].n == 0  # a label without a measurement has no value
    assert counts.patients == {"train": 2, "validation": 0, "test": 0, "personal": 1}
    assert counts.strips["train"] == LabelCounts(positive=4, negative=2)


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


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=30))
def test_quartiles_agree_with_the_standard_library(values: list[float | None]) -> None:
    known = [value for value in values if value is not None]
    found = spread(values)
    assert (found.known, found.missing) == (len(known), len(values) - len(known))
    if len(known) > 1:
        expected = statistics.quantiles(known, n=4, method="inclusive")
        assert (found.lower, found.median, found.upper) == pytest.approx(tuple(expected), rel=1e-6, abs=1e-6)
    elif known:
        assert (found.lower, found.median, found.upper) == (known[0],) * 3
    else:
        assert math.isnan(found.median)


def test_mean_and_standard_deviation() -> None:
    assert mean_sd([None, 2.0, 4.0, None]) == mean_sd([4.0, 2.0])
    assert mean_sd([2.0, 4.0]).sd == pytest.approx(math.sqrt(2))
    assert mean_sd([]).n == 0

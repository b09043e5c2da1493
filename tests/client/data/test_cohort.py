"""Freezing a cohort: facts about roles and splits, on SQLite and on PostgreSQL."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from client.data import cohort
from client.data.cohort import freeze_cohort
from client.data.cohort_summary import CohortSummary
from client.data.splits import Candidate
from client.database.runs import latest_run, start_run
from client.database.session import create_database, sessions
from client.database.tables import CohortMember, Draw, Patient, Run, Strip
from client.site import Site, SourceSettings
from common.config import make_settings
from common.errors import CohortError, ConfigurationError

Factory = sessionmaker[Session]
Counts = tuple[int, int, int]
START = datetime(2150, 1, 1)
HOUR = timedelta(hours=1)
PERSONAL = (8, 8, 1)
GENERIC = [*(((1, 2, 0)) for _ in range(10)), *((0, 3, 1) for _ in range(20))]


def site(**rules: object) -> Site:
    settings = make_settings(overrides={"cohort": rules, "seed": 5})
    return Site("north", Path("/nowhere"), settings, SourceSettings(folder="data"), "")


def add(factory: Factory, people: dict[str, Counts], exclusion: str | None = None) -> None:
    """Store strips (positive, negative, gap) of patients, after those they have."""
    with factory.begin() as session:
        run = start_run(session, "ingest", make_settings())
        for source, counts in people.items():
            patient = session.scalars(select(Patient).where(Patient.source_key == source)).one_or_none()
            if patient is None:
                patient = Patient(source_key=source)
                session.add(patient)
                session.flush()
            had = session.query(Strip).filter(Strip.patient_id == patient.id).count()
            labels = [
                label
                for label, n in zip(("positive", "negative", "gap"), counts, strict=True)
                for _ in range(n)
            ]
            for number, label in enumerate(labels, start=had):
                session.add(
                    Strip(
                        patient_id=patient.id, run_id=run.id, label=label, n_beats=100, beat_offset=0,
                        start=START + number * HOUR, end=START + (number + 0.1) * HOUR, exclusion=exclusion,
                    )
                )  # fmt: skip


def many(generic: Sequence[Counts] = GENERIC, personal: int = 2) -> dict[str, Counts]:
    people = {f"g{i:02d}": counts for i, counts in enumerate(generic)}
    return people | {f"p{i}": PERSONAL for i in range(personal)}


def placed(factory: Factory, run_id: int) -> dict[str, tuple[str, str | None]]:
    query = select(Patient.source_key, CohortMember.role, CohortMember.split).join(
        CohortMember, CohortMember.patient_id == Patient.id
    )
    with factory() as session:
        rows = session.execute(query.where(CohortMember.run_id == run_id)).all()
    assert len({source for source, _, _ in rows}) == len(rows)
    return {source: (role, split) for source, role, split in rows}


def federate(factory: Factory, summary: CohortSummary) -> None:
    with factory.begin() as session:
        start_run(session, "federation", make_settings(), name=summary.name, cohort_run_id=summary.run_id)


def test_roles_and_splits_of_a_site(session_factory: Factory) -> None:
    add(session_factory, many() | {"gap only": (0, 0, 5), "seven": (7, 30, 0)})
    add(session_factory, {"excluded": (9, 9, 0)}, exclusion="clipped")
    summary = freeze_cohort(site(), session_factory)
    where = placed(session_factory, summary.run_id)
    assert where.keys() == many().keys() | {"seven"}
    assert {source for source, (role, _) in where.items() if role == "personal"} == {"p0", "p1"}
    assert where["p0"] == ("personal", None)
    splits = Counter(split for role, split in where.values() if role == "generic")
    assert splits == {"train": summary.train, "validation": summary.validation, "test": summary.test}
    # 11 patients with positive strips (7 2 2), 20 without (12 4 4)
    assert (summary.train, summary.validation, summary.test) == (19, 6, 6)
    assert (summary.generic, summary.personal, summary.patients) == (31, 2, 33)
    assert (summary.positive_strips, summary.negative_strips, summary.gap_strips) == (
        10 + 7 + 16,
        20 + 60 + 30 + 16,
        22,
    )
    assert summary.notes == ()
    with session_factory() as session:
        run = latest_run(session, "cohort", "main")
        assert run is not None
        assert (run.id, run.data_fingerprint is not None) == (summary.run_id, True)
        stored = {p.source_key: p.split for p in session.scalars(select(Patient))}
    assert all(stored[source] == split for source, (role, split) in where.items() if role == "generic")
    assert stored["p0"] is stored["gap only"] is None


def test_the_order_of_patients_in_the_tables_does_not_matter(tmp_path: Path) -> None:
    answers = []
    for number in range(3):
        people = list(many().items())
        random.Random(number).shuffle(people)
        engine = create_database(f"sqlite:///{tmp_path / f'{number}.sqlite'}")
        add(sessions(engine), dict(people))
        summary = freeze_cohort(site(), sessions(engine))
        with sessions(engine)() as session:
            fingerprint = session.get_one(Run, summary.run_id).data_fingerprint
        answers.append((placed(sessions(engine), summary.run_id), fingerprint))
        engine.dispose()
    assert answers[0] == answers[1] == answers[2]


def test_new_patients_and_new_strips_move_nobody(session_factory: Factory) -> None:
    add(session_factory, many())
    before = placed(session_factory, freeze_cohort(site(), session_factory).run_id)
    add(session_factory, {f"new{i}": (i % 2, 2, 0) for i in range(13)} | {"g25": (3, 0, 0)})
    second = freeze_cohort(site(), session_factory)
    after = placed(session_factory, second.run_id)
    assert {source: after[source] for source in before} == before
    assert len(after) == len(before) + 13


def test_freezing_twice_is_freezing_once(session_factory: Factory) -> None:
    add(session_factory, many())
    first = freeze_cohort(site(), session_factory)
    again = freeze_cohort(site(), session_factory)
    assert (again.reused, again.run_id) == (True, first.run_id)
    assert again.sentence().startswith("unchanged cohort")
    changed = freeze_cohort(site(min_positive=9), session_factory)
    assert (changed.reused, changed.personal) == (False, 0)
    add(session_factory, {"g00": (0, 1, 0)})
    with_new_strip = freeze_cohort(site(), session_factory)
    assert with_new_strip.run_id > changed.run_id > first.run_id
    with session_factory() as session:
        latest = latest_run(session, "cohort", "main")
        assert latest is not None
        assert latest.id == with_new_strip.run_id


def test_two_names_share_the_stored_split(session_factory: Factory) -> None:
    add(session_factory, many())
    first, second = (freeze_cohort(site(), session_factory, name=name) for name in ("main", "other"))
    assert first.run_id != second.run_id
    assert placed(session_factory, first.run_id) == placed(session_factory, second.run_id)


def test_two_cohorts_frozen_at_once_agree(session_factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one process works out the splits, more patients come in and another process freezes them."""
    add(session_factory, many(personal=0))
    read = cohort._candidates
    answers: dict[str, CohortSummary] = {}

    def second() -> None:
        add(session_factory, {f"a{i}": (i % 2, 2, 0) for i in range(12)})
        answers["second"] = freeze_cohort(site(), session_factory, name="second")

    thread = threading.Thread(target=second)

    def read_and_be_overtaken(session: Session) -> list[Candidate]:
        found = read(session)
        if not thread.ident:
            thread.start()
            thread.join(1.0)  # the other one has to wait, so this runs out
        return found

    monkeypatch.setattr(cohort, "_candidates", read_and_be_overtaken)
    answers["first"] = freeze_cohort(site(), session_factory, name="first")
    thread.join()
    first, after = (placed(session_factory, answers[name].run_id) for name in ("first", "second"))
    assert (len(first), len(after)) == (30, 42)
    assert {source: after[source] for source in first} == first


class TestLaterDataMakeAPatientPersonal:
    """A patient gets enough strips only after a cohort was frozen."""

    @staticmethod
    def grown(factory: Factory, split: str, federated: bool) -> tuple[str, CohortSummary]:
        add(factory, many())
        first = freeze_cohort(site(), factory)
        if federated:
            federate(factory, first)
        source = next(s for s, where in placed(factory, first.run_id).items() if where == ("generic", split))
        add(factory, {source: (8, 8, 0)})
        return source, freeze_cohort(site(), factory)

    @pytest.mark.parametrize("split", ["train", "validation"])
    def test_who_trained_a_model_stays_generic(self, session_factory: Factory, split: str) -> None:
        source, summary = self.grown(session_factory, split, federated=True)
        assert placed(session_factory, summary.run_id)[source] == ("generic", split)
        assert summary.held_back == 1
        assert any("1 patients with enough strips stay generic" in note for note in summary.notes)

    def test_who_only_tested_a_model_may_be_personal(self, session_factory: Factory) -> None:
        source, summary = self.grown(session_factory, "test", federated=True)
        assert placed(session_factory, summary.run_id)[source] == ("personal", None)
        assert summary.held_back == 0

    def test_freezing_too_early_costs_no_personal_patient(self, session_factory: Factory) -> None:
        source, summary = self.grown(session_factory, "train", federated=False)
        assert placed(session_factory, summary.run_id)[source] == ("personal", None)
        federate(session_factory, summary)
        add(session_factory, {"new": (0, 1, 0)})
        third = freeze_cohort(site(), session_factory)
        assert placed(session_factory, third.run_id)[source] == ("personal", None)


class TestLists:
    TRAIN = ("g00", "g01", "g02", "g10", "g11", "p0")
    TEST = ("g03", "g12", "p1")

    def test_the_lists_decide(self, session_factory: Factory) -> None:
        add(session_factory, many())
        summary = freeze_cohort(
            site(split=(1, 0, 0)), session_factory, name="a", train_keys=self.TRAIN, test_keys=self.TEST
        )
        where = placed(session_factory, summary.run_id)
        assert {source for source, at in where.items() if at == ("generic", "train")} == set(self.TRAIN)
        assert where["p1"] == ("personal", "test")
        assert where["g03"] == where["g12"] == ("generic", "test")
        assert where.keys() == {*self.TRAIN, *self.TEST}
        assert (summary.train, summary.validation, summary.test, summary.personal) == (6, 0, 2, 1)

    def test_folds_swap_and_no_test_patient_is_ever_in_training(self, session_factory: Factory) -> None:
        add(session_factory, many())
        main = freeze_cohort(site(), session_factory)
        federate(session_factory, main)
        for name, train, test in (("a", self.TRAIN, self.TEST), ("b", self.TEST, self.TRAIN)):
            summary = freeze_cohort(site(), session_factory, name=name, train_keys=train, test_keys=test)
            federate(session_factory, summary)
            where = placed(session_factory, summary.run_id)
            assert {source for source, (_, split) in where.items() if split == "test"} == set(test)
            assert {s for s, (_, split) in where.items() if split in ("train", "validation")} == set(train)
            assert all(role == "generic" for role, split in where.values() if split != "test")
        assert placed(session_factory, main.run_id) == placed(
            session_factory, freeze_cohort(site(), session_factory).run_id
        )

    def test_swapped_lists_say_who_helped_to_make_the_model_before(self, session_factory: Factory) -> None:
        add(session_factory, many())
        first = freeze_cohort(site(), session_factory, train_keys=self.TRAIN, test_keys=self.TEST)
        assert not any("earlier generic model" in note for note in first.notes)
        federate(session_factory, first)
        swapped = freeze_cohort(site(), session_factory, train_keys=self.TEST, test_keys=[*self.TRAIN, "g20"])
        # The lists decide; personalization leaves these six out only if it is asked for that very model.
        assert placed(session_factory, swapped.run_id)["p0"] == ("personal", "test")
        assert any(note.startswith("6 patients of the test list helped to make") for note in swapped.notes)

    def test_validation_patients_come_from_the_training_list_and_stay(self, session_factory: Factory) -> None:
        add(session_factory, many())
        keys = sorted(many())
        train, test = keys[:15], keys[15:]
        first = freeze_cohort(site(split=(4, 1, 5)), session_factory, train_keys=train, test_keys=test)
        assert (first.train, first.validation) == (12, 3)
        before = placed(session_factory, first.run_id)
        second = freeze_cohort(
            site(split=(4, 1, 5)), session_factory, train_keys=[*train, *test[:5]], test_keys=test[5:]
        )
        after = placed(session_factory, second.run_id)
        assert all(after[source] == before[source] for source in train)
        assert (second.train, second.validation) == (16, 4)

    def test_the_lists_write_no_split_of_their_own(self, session_factory: Factory) -> None:
        add(session_factory, many())
        freeze_cohort(site(), session_factory, name="a", train_keys=self.TRAIN, test_keys=self.TEST)
        with session_factory() as session:
            assert set(session.scalars(select(Patient.split))) == {None}

    def test_a_patient_in_both_lists_is_refused(self, session_factory: Factory) -> None:
        add(session_factory, many())
        with pytest.raises(CohortError, match="1 patients are in both lists"):
            freeze_cohort(site(), session_factory, train_keys=["g00", "g01"], test_keys=["g00", "g02"])

    def test_keys_without_patients_or_strips_are_told(self, session_factory: Factory) -> None:
        add(session_factory, many() | {"gap only": (0, 0, 5)})
        summary = freeze_cohort(
            site(), session_factory, train_keys=[*self.TRAIN, "gap only"], test_keys=["p1", "?"]
        )
        assert "1 patients of the lists are not at this site" in summary.notes
        assert "1 patients of the lists have no accepted strips" in summary.notes

    def test_other_lists_are_another_cohort(self, session_factory: Factory) -> None:
        add(session_factory, many())
        first = freeze_cohort(site(), session_factory, train_keys=self.TRAIN, test_keys=self.TEST)
        same = freeze_cohort(site(), session_factory, train_keys=self.TRAIN[::-1], test_keys=self.TEST)
        other = freeze_cohort(site(), session_factory, train_keys=self.TRAIN, test_keys=self.TEST[1:])
        assert same.run_id == first.run_id != other.run_id


class TestNothingToLearnFrom:
    def test_an_empty_database(self, session_factory: Factory) -> None:
        with pytest.raises(CohortError, match=r"'north' is empty.*run 'fedkalemia-site ingest SITE' first"):
            freeze_cohort(site(), session_factory)
        with session_factory() as session:
            run = session.scalars(select(Run)).one()
            assert (run.kind, run.status) == ("cohort", "failed")
            assert session.scalars(select(CohortMember)).all() == []

    def test_everything_was_excluded(self, session_factory: Factory) -> None:
        add(session_factory, {"a": (2, 0, 0)}, exclusion="no_waveform")
        add(session_factory, {"b": (0, 1, 0)}, exclusion="clipped")
        with session_factory.begin() as session:
            moment = START - timedelta(days=1)
            session.add(
                Draw(
                    patient_id=1, run_id=1, source_row="1", specimen_time=moment, item="50971",
                    specimen="serum", exclusion="low_potassium",
                )
            )  # fmt: skip
        with pytest.raises(
            CohortError, match=r"draws left out: 1 low_potassium; strips left out: 2 no_waveform, 1 clipped"
        ):
            freeze_cohort(site(), session_factory)

    @pytest.mark.parametrize(("counts", "missing"), [((0, 3, 0), "positive"), ((3, 0, 0), "negative")])
    def test_one_label_only(self, session_factory: Factory, counts: Counts, missing: str) -> None:
        add(session_factory, {"a": counts})
        add(session_factory, {"b": (1, 1, 0)}, exclusion="too_few_beats")
        with pytest.raises(
            CohortError,
            match=rf"one label only: .* of 1 patients; {missing} strips left out: 1 too_few_beats",
        ):
            freeze_cohort(site(), session_factory)
        with session_factory() as session:
            assert set(session.scalars(select(Patient.split))) == {None}

    def test_lists_that_leave_one_label(self, session_factory: Factory) -> None:
        add(session_factory, many())
        with pytest.raises(CohortError, match=r"one label only.*name other patients in the lists"):
            freeze_cohort(site(), session_factory, train_keys=["g20"], test_keys=["g21"])

    def test_shares_are_checked_before_anything_is_stored(self, session_factory: Factory) -> None:
        with pytest.raises(ConfigurationError, match="split"):
            freeze_cohort(site(split=(0, 1, 1)), session_factory)
        with session_factory() as session:
            assert session.scalars(select(Run)).all() == []


def test_a_small_site_and_no_personal_patients_are_told(session_factory: Factory) -> None:
    add(session_factory, {"a": (1, 0, 0), **{f"b{i}": (0, 1, 0) for i in range(5)}})
    summary = freeze_cohort(site(), session_factory)
    assert summary.notes == (
        "only 1 generic patients with positive strips, fewer than 5: their split is coarse",
        "no personal patients: nobody has 8 positive and 8 negative strips",
    )
    assert all(note in summary.sentence() for note in summary.notes)

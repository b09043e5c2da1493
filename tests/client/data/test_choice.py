"""Which strips the generic cohort leaves out: facts about classes and balance, pure and frozen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session, sessionmaker

from client.data.choice import LeftOut, StripChoice, kept, leave_out
from client.data.cohort import freeze_cohort
from client.database.queries import members
from client.database.runs import start_run
from client.database.tables import CohortMember, Patient, Run, Strip
from client.learning.dataset import StripRef, cohort_strips, labelled
from client.site import Site, SourceSettings
from common.config import CohortSettings, make_settings
from common.errors import CohortError
from common.seeding import key

Factory = sessionmaker[Session]
Counts = tuple[int, int, int]
START = datetime(2150, 1, 1)
HOUR = timedelta(hours=1)
#: Positive, negative and gap strips: many with one label, some with both, two who are personal.
PEOPLE: dict[str, Counts] = {
    **{f"both{i:02d}": (1 + i % 3, 4, 1) for i in range(12)},
    **{f"negative{i:02d}": (0, 1 + i % 5, 0) for i in range(30)},
    **{f"personal{i}": (8, 9, 2) for i in range(2)},
}


def site(**rules: object) -> Site:
    settings = make_settings(overrides={"cohort": rules, "seed": 5})
    return Site("north", Path("/nowhere"), settings, SourceSettings(folder="data"), "")


def add(factory: Factory, people: dict[str, Counts]) -> None:
    """Store accepted strips of patients, after those they have."""
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
                name
                for name, n in zip(("positive", "negative", "gap"), counts, strict=True)
                for _ in range(n)
            ]
            session.add_all(
                Strip(
                    patient_id=patient.id, run_id=run.id, label=label, n_beats=100, beat_offset=0,
                    start=START + number * HOUR, end=START + (number + 0.1) * HOUR,
                )
                for number, label in enumerate(labels, start=had)
            )  # fmt: skip


def frozen_strips(factory: Factory, name: str = "main", **rules: object) -> list[StripRef]:
    summary = freeze_cohort(site(**rules), factory, name=name)
    with factory() as session:
        return cohort_strips(session, summary.run_id)


def read(factory: Factory, run_id: int, **asked: Sequence[str]) -> list[StripRef]:
    with factory() as session:
        return cohort_strips(session, run_id, **asked)


def names(strips: Sequence[StripRef]) -> set[tuple[int, datetime, str]]:
    return {(strip.patient_id, strip.start, str(strip.label)) for strip in strips}


def counts(strips: Sequence[StripRef]) -> Counter[str]:
    return Counter(str(strip.label) for strip in strips)


class TestDisjointClasses:
    def test_a_generic_patient_learned_from_has_strips_of_one_label(self, session_factory: Factory) -> None:
        add(session_factory, PEOPLE)
        summary = freeze_cohort(site(classes="disjoint"), session_factory)
        learned = labelled(
            read(session_factory, summary.run_id, roles=["generic"], splits=["train", "validation"])
        )
        by_patient: dict[int, set[str]] = {}
        for strip in learned:
            by_patient.setdefault(strip.patient_id, set()).add(str(strip.label))
        assert {len(own) for own in by_patient.values()} == {1}
        assert set().union(*by_patient.values()) == {"positive", "negative"}

    def test_who_has_a_positive_strip_is_a_positive_patient(self, session_factory: Factory) -> None:
        add(session_factory, PEOPLE)
        summary = freeze_cohort(site(classes="disjoint"), session_factory)
        with session_factory() as session:
            sources = {
                row.id: row.source_key for row in session.execute(select(Patient.id, Patient.source_key))
            }
            for member in members(session, summary.run_id, roles=["generic"], splits=["train", "validation"]):
                assert (member.n_positive > 0) == sources[member.patient_id].startswith("both")
                assert not (member.n_positive and member.n_negative)

    def test_test_and_personal_patients_keep_everything(self, session_factory: Factory) -> None:
        add(session_factory, PEOPLE)
        plain = freeze_cohort(site(), session_factory)
        chosen = freeze_cohort(site(classes="disjoint", balance="strips"), session_factory)
        for asked in ({"splits": ["test"]}, {"roles": ["personal"]}):
            all_strips = read(session_factory, plain.run_id, **asked)
            assert all_strips
            assert read(session_factory, chosen.run_id, **asked) == all_strips
        assert (plain.test, plain.personal) == (chosen.test, chosen.personal)


class TestBalance:
    @pytest.mark.parametrize("classes", ["both", "disjoint"])
    def test_train_and_validation_have_as_many_of_each_label(
        self, session_factory: Factory, classes: str
    ) -> None:
        add(session_factory, PEOPLE)
        summary = freeze_cohort(site(classes=classes, balance="strips"), session_factory)
        for split in ("train", "validation"):
            found = counts(read(session_factory, summary.run_id, roles=["generic"], splits=[split]))
            assert found["positive"] == found["negative"] > 0
        test = counts(read(session_factory, summary.run_id, roles=["generic"], splits=["test"]))
        assert test["negative"] > test["positive"] > 0

    def test_no_strip_of_the_rarer_label_is_left_out(self, session_factory: Factory) -> None:
        add(session_factory, PEOPLE)
        everything = frozen_strips(session_factory)
        balanced = frozen_strips(session_factory, "balanced", balance="strips")
        lost = names(everything) - names(balanced)
        assert {label for _, _, label in lost} == {"negative"}
        assert names(balanced) < names(everything)

    def test_a_split_with_one_label_is_left_as_it_is_and_told(self, session_factory: Factory) -> None:
        add(session_factory, {"a": (1, 0, 0), **{f"b{i}": (0, 1, 0) for i in range(5)}})
        summary = freeze_cohort(site(balance="strips"), session_factory)
        assert "validation has strips of one label only, so cohort.balance left it as it is" in summary.notes
        assert (
            counts(read(session_factory, summary.run_id, splits=["validation"]))["negative"]
            == summary.validation
        )


class TestWhatIsFrozen:
    RULES = ({}, {"balance": "strips"}, {"classes": "disjoint"}, {"classes": "disjoint", "balance": "strips"})

    @pytest.mark.parametrize("rules", RULES)
    def test_a_later_ingest_does_not_change_a_frozen_cohort(
        self, session_factory: Factory, rules: dict[str, str]
    ) -> None:
        add(session_factory, PEOPLE)
        summary = freeze_cohort(site(**rules), session_factory)
        before = read(session_factory, summary.run_id)
        add(session_factory, dict.fromkeys(PEOPLE, (2, 3, 1)) | {"new": (4, 4, 0)})
        assert read(session_factory, summary.run_id) == before

    @pytest.mark.parametrize("rules", RULES)
    def test_the_members_count_the_strips_that_are_in(
        self, session_factory: Factory, rules: dict[str, str]
    ) -> None:
        add(session_factory, PEOPLE)
        summary = freeze_cohort(site(**rules), session_factory)
        found = counts(read(session_factory, summary.run_id))
        assert found == {
            "positive": summary.positive_strips,
            "negative": summary.negative_strips,
            "gap": summary.gap_strips,
        }
        with session_factory() as session:
            details = session.get_one(Run, summary.run_id).details
        total = sum(sum(counts) for counts in PEOPLE.values())
        out = sum(len(strips) for strips in details["left_out"].values())
        assert found.total() + out == total - self.gaps_of_nonmembers(session_factory, summary.run_id)

    @staticmethod
    def gaps_of_nonmembers(factory: Factory, run_id: int) -> int:
        with factory() as session:
            inside = {m.patient_id for m in members(session, run_id)}
            gap = session.scalars(select(Strip.patient_id).where(Strip.label == "gap"))
            return sum(patient not in inside for patient in gap)

    def test_the_choice_is_the_same_again_and_depends_on_the_seed(self, session_factory: Factory) -> None:
        add(session_factory, PEOPLE)
        one = frozen_strips(session_factory, "one", balance="strips")
        again = frozen_strips(session_factory, "again", balance="strips")
        assert names(one) == names(again)
        settings = make_settings(overrides={"cohort": {"balance": "strips"}, "seed": 6})
        other = Site("north", Path("/nowhere"), settings, SourceSettings(folder="data"), "")
        summary = freeze_cohort(other, session_factory, name="other")
        assert names(read(session_factory, summary.run_id)) != names(one)

    def test_the_run_and_the_sentence_say_which_rules_were_used(self, session_factory: Factory) -> None:
        add(session_factory, PEOPLE)
        summary = freeze_cohort(site(classes="disjoint", balance="strips"), session_factory)
        with session_factory() as session:
            details = session.get_one(Run, summary.run_id).details
        assert (details["classes"], details["balance"]) == ("disjoint", "strips")
        for rule in ("classes", "balance"):
            assert f"{len(details['left_out'][rule])} strips left out by cohort.{rule}" in summary.sentence()
        assert "left out" not in freeze_cohort(site(), session_factory, name="plain").sentence()

    def test_strips_that_were_replaced_are_refused(self, session_factory: Factory) -> None:
        add(session_factory, PEOPLE)
        summary = freeze_cohort(site(), session_factory)
        with session_factory.begin() as session:
            gone = select(Strip.id).where(Strip.label == "positive").limit(1).scalar_subquery()
            session.execute(delete(Strip).where(Strip.id == gone))
        with pytest.raises(CohortError, match=r"1 of 44 patients .* other strips.*cohort SITE"):
            read(session_factory, summary.run_id)

    def test_a_new_strip_with_the_id_of_one_that_is_gone_is_not_in(self, session_factory: Factory) -> None:
        """SQLite hands out the highest id again; who forgets a patient must not let another strip in."""
        add(session_factory, PEOPLE | {"z": (1, 1, 0)})
        summary = freeze_cohort(site(), session_factory)
        with session_factory.begin() as session:
            gone = session.scalars(select(Patient.id).where(Patient.source_key == "z")).one()
            for table in (Strip, CohortMember):
                session.execute(delete(table).where(table.patient_id == gone))
            session.execute(delete(Patient).where(Patient.id == gone))
        before = read(session_factory, summary.run_id)
        add(session_factory, {"both00": (1, 0, 0)})
        assert read(session_factory, summary.run_id) == before

    def test_a_cohort_frozen_before_strips_were_noted_holds_all_of_them(
        self, session_factory: Factory
    ) -> None:
        add(session_factory, PEOPLE)
        summary = freeze_cohort(site(), session_factory)
        before = read(session_factory, summary.run_id)
        with session_factory.begin() as session:
            session.execute(update(Run).where(Run.id == summary.run_id).values(details={"notes": []}))
        assert read(session_factory, summary.run_id) == before


def choices(people: Sequence[tuple[int, int]]) -> list[StripChoice]:
    """Return strips of patients given by their positive and negative strips."""
    labels = [
        (patient, label, number)
        for patient, (positive, negative) in enumerate(people)
        for label, n in (("positive", positive), ("negative", negative))
        for number in range(n)
    ]
    return [
        StripChoice(number, patient, label, key("test", patient, label, place))
        for number, (patient, label, place) in enumerate(labels)
    ]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=12))
def test_balance_is_exact_and_takes_strips_evenly(people: list[tuple[int, int]]) -> None:
    strips = choices(people)
    rules = CohortSettings(balance="strips")
    out = leave_out(strips, dict.fromkeys(range(len(people)), "train"), rules)
    rest = [s for s in strips if s.strip_id not in out.strips]
    found = Counter(s.label for s in rest)
    if out.unbalanced or not strips:
        assert rest == strips
        return
    assert found["positive"] == found["negative"]
    had, has = (Counter((s.patient_id, s.label) for s in own) for own in (strips, rest))
    lost = {who: had[who] - has[who] for who in had}
    for patient, label in lost:
        # Nobody keeps two strips more than somebody who lost one.
        if lost[patient, label]:
            assert all(has[other, label] <= has[patient, label] + 1 for other, name in had if name == label)


def test_a_patient_with_nothing_else_keeps_its_strip_before_one_who_stays_anyway() -> None:
    strips = choices([(1, 3), (1, 3), (0, 3), (0, 3)])
    out = leave_out(strips, dict.fromkeys(range(4), "train"), CohortSettings(balance="strips"))
    rest = Counter(s.patient_id for s in strips if s.label == "negative" and s.strip_id not in out.strips)
    assert rest == {2: 1, 3: 1}


def test_the_queue_decides_which_strips_stay_not_their_order() -> None:
    strips = choices([(0, 9), (0, 9)])
    assert kept(strips, 5) == kept(strips[::-1], 5)
    assert len(kept(strips, 5)) == 5


def test_gap_strips_and_other_patients_are_not_looked_at() -> None:
    strips = [StripChoice(1, 1, "gap", 0), StripChoice(2, 2, "positive", 1), StripChoice(3, 2, "negative", 2)]
    assert leave_out(strips, {1: "train", 2: "test"}, CohortSettings(classes="disjoint")) == LeftOut()

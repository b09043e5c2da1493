"""Inclusion and Table 1 on their way out: exact where enough patients are behind, silent where not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from client.database.runs import start_run
from client.database.session import create_database, sessions
from client.database.tables import CohortMember, Draw, Patient, Run, Strip
from client.learning.differencing import Sizes
from client.learning.release import Release
from client.learning.release_cohort import cells, release_flow, release_steps, release_table_one, told_before
from common import protocol
from common.config import make_settings
from common.errors import ProtocolError
from common.metrics import Moments

DAY = datetime(2150, 3, 1)
SETTINGS = make_settings()


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """Return an empty site database with an ingest run (1)."""
    engine = create_database(f"sqlite:///{tmp_path / 'site.sqlite'}")
    with sessions(engine)() as own:
        start_run(own, "ingest", SETTINGS)
        yield own
    engine.dispose()


def patient(session: Session, number: int, draws: str = "++--", lost: str = "", **columns: Any) -> Patient:
    """Add a patient: a draw for each sign, and its strip; ``lost`` draws have no label."""
    person = Patient(source_key=f"p{number}", **columns)
    session.add(person)
    session.flush()
    labels = {"+": ("positive", 6.0), "-": ("negative", 4.0), "~": ("gap", 5.2)}
    for hour, sign in enumerate(draws + lost):
        label, value = labels.get(sign, (None, 3.0))
        draw = Draw(
            patient_id=person.id, run_id=1, source_row=str(hour), specimen_time=DAY + timedelta(hours=hour),
            value=value, item="50971", specimen="serum", label=label,
            exclusion=None if label else "low_potassium", hemolysis="suspected" if sign == "+" else None,
        )  # fmt: skip
        session.add(draw)
        session.flush()
        if label:
            session.add(
                Strip(
                    patient_id=person.id, run_id=1, draw_id=draw.id, label=label, value=value + number / 100,
                    start=draw.specimen_time - timedelta(minutes=10), end=draw.specimen_time, n_beats=500,
                    n_detected=520, beat_offset=0, heart_rate_bpm=60.0 + number,
                    beats_rejected={"unlike": 15, "edge": 5},
                )
            )  # fmt: skip
    session.flush()
    return person


def cohort(session: Session, generic: list[Patient], personal: list[Patient] = []) -> Run:  # noqa: B006
    run = start_run(session, "cohort", SETTINGS)
    for role, group in (("generic", generic), ("personal", personal)):
        session.add_all(
            CohortMember(
                run_id=run.id, patient_id=person.id, role=role, split="train" if role == "generic" else None,
                n_positive=2, n_negative=2, n_gap=0,
            )
            for person in group
        )  # fmt: skip
    session.flush()
    return run


def table_one(session: Session, run: Run, *known: set[int], min_cell: int = 5) -> dict[str, Any]:
    release, sizes = Release(min_cell), Sizes(min_cell)
    sizes.know(*known)
    release_table_one(release, session, run, sizes)
    return dict(release.flat())


def flow(session: Session, min_cell: int = 5) -> dict[str, Any]:
    release = Release(min_cell)
    release_flow(release, session)
    release_steps(release, session, Sizes(min_cell))
    return dict(release.flat())


def test_table_one_is_sent_as_sums_that_are_exact(session: Session) -> None:
    people = [
        patient(session, i, sex="FM"[i % 2], age=50.0 + i, weight_kg=70.0, ethnicity="White")
        for i in range(12)
    ]
    sent = table_one(session, cohort(session, people))
    assert sent["table-one.generic.patients"] == 12
    age = Moments.from_flat(sent, "table-one.generic.age")
    assert (age.n, age.mean) == (12, pytest.approx(55.5))
    assert sent["table-one.generic.age.missing"] == 0
    assert (sent["table-one.generic.sex.female"], sent["table-one.generic.sex.male"]) == (6, 6)
    assert sent["table-one.generic.ethnicity.white"] == 12
    potassium = Moments.from_flat(sent, "table-one.generic.potassium-positive")
    assert (potassium.n, potassium.mean) == (12, pytest.approx(6.0 + 5.5 / 100))
    assert Moments.from_flat(sent, "table-one.generic.heart-rate").mean == pytest.approx(65.5)
    # Nobody's height is known: that is about everybody.
    assert (sent["table-one.generic.height.n"], sent["table-one.generic.height.missing"]) == (0, 12)
    assert not any(key.startswith("table-one.personal") for key in sent)


def test_a_site_of_one_patient_leaks_nothing(session: Session) -> None:
    one = patient(session, 1, "++-~", lost="x", sex="F", age=91.4, height_cm=150.0, ethnicity="Asian")
    run = cohort(session, [one])
    sent = {**table_one(session, run), **flow(session)}
    assert {key: value for key, value in sent.items() if key != "suppressed" and value} == {}


def test_four_personal_patients_are_not_the_rest_of_anything(session: Session) -> None:
    """Generic patients are told; what would tell the four, such as all with strips, is not."""
    generic = [patient(session, i, sex="M", age=60.0) for i in range(20)]
    personal = [patient(session, 100 + i, sex="F", age=40.0) for i in range(4)]
    run = cohort(session, generic, personal)
    release, sizes = Release(5), Sizes(5)
    release_table_one(release, session, run, sizes)
    release_steps(release, session, sizes)
    sent = release.flat()
    assert sent["table-one.generic.patients"] == 20
    assert not any("personal" in key for key in sent)
    assert not any(key.startswith("flow.patients.") for key in sent)


def test_an_age_that_two_patients_lack_is_withheld_with_the_number_of_them(session: Session) -> None:
    people = [patient(session, i, age=None if i < 2 else 60.0, weight_kg=80.0) for i in range(12)]
    sent = table_one(session, cohort(session, people))
    assert not any(".age." in key for key in sent)
    assert sent["table-one.generic.weight.n"] == 12
    people += [patient(session, 20 + i, age=None) for i in range(5)]
    sent = table_one(session, cohort(session, people))
    assert (sent["table-one.generic.age.n"], sent["table-one.generic.age.missing"]) == (10, 7)


def test_two_figures_that_differ_by_two_patients_are_not_both_sent(session: Session) -> None:
    """Weight is known of everybody with a height and of two more."""
    people = [
        patient(session, i, weight_kg=80.0 if i < 14 else None, height_cm=170.0 if i < 12 else None)
        for i in range(20)
    ]
    sent = table_one(session, cohort(session, people))
    assert sent["table-one.generic.weight.n"] == 14
    assert not any(".height." in key for key in sent)


def test_who_has_both_labels_does_not_follow_from_who_has_each(session: Session) -> None:
    people = [patient(session, i, "+" if i < 10 else "-" if i >= 12 else "+-") for i in range(30)]
    sent = table_one(session, cohort(session, people))
    assert sent["table-one.generic.label.positive"] == 12
    assert "table-one.generic.label.negative" not in sent
    assert not any("potassium-negative" in key for key in sent)


def test_a_rare_group_takes_another_with_it(session: Session) -> None:
    origins = ["White"] * 20 + ["Asian"] * 2 + ["Hispanic"] * 7 + ["Klingon"] * 9
    people = [patient(session, i, ethnicity=origin) for i, origin in enumerate(origins)]
    sent = table_one(session, cohort(session, people))
    shown = {key.rsplit(".", 1)[1]: n for key, n in sent.items() if ".ethnicity." in key and n}
    assert shown == {"white": 20, "other": 9}


def test_two_patients_more_are_not_told_by_a_second_run(session: Session) -> None:
    people = [patient(session, i, age=60.0) for i in range(12)]
    first = cohort(session, people)
    asked = start_run(session, "personalization", SETTINGS, cohort_run_id=first.id)
    asked.details = {"sent": table_one(session, first)}
    people += [patient(session, 50 + i, age=20.0) for i in range(2)]
    second = cohort(session, people)
    later = start_run(session, "personalization", SETTINGS, cohort_run_id=second.id)
    session.flush()
    before = told_before(session, later)
    assert before == [{person.id for person in people[:12]}]
    assert not any("generic" in key for key in table_one(session, second, *before))
    assert told_before(session, asked) == []


def test_flow_counts_draws_strips_labels_and_beats(session: Session) -> None:
    for number in range(6):
        patient(session, number, "++-~", lost="x")
    sent = flow(session)
    assert (sent["flow.labelled"], sent["flow.low_potassium"], sent["flow.accepted"]) == (24, 6, 24)
    labels = {label: sent[f"flow.by-label.accepted.{label}"] for label in ("positive", "negative", "gap")}
    assert labels == {"positive": 12, "negative": 6, "gap": 6}
    assert sent["flow.suspected-kept"] == 12
    assert (sent["flow.beats.accepted"], sent["flow.beats.unlike"]) == (24 * 500, 24 * 15)
    assert {step: sent[f"flow.patients.{step}"] for step in ("files", "draws", "labelled", "accepted")} == {
        "files": 6, "draws": 6, "labelled": 6, "accepted": 6,
    }  # fmt: skip


def test_many_draws_of_few_patients_are_few_patients(session: Session) -> None:
    """Two reasons, four patients between them: their number does not follow from all draws."""
    for number in range(20):
        patient(session, number, "+-", lost="x" * 10 if number < 4 else "")
    sent = flow(session)
    assert "flow.low_potassium" not in sent
    assert "flow.labelled" not in sent  # all draws may be known from elsewhere
    assert not any(key.startswith("flow.by-label.labelled") for key in sent)
    assert sent["flow.accepted"] == 40


def test_strips_cannot_be_subtracted_from_draws(session: Session) -> None:
    """Three strips of three patients are lost: labelled less accepted would tell."""
    people = [patient(session, number, "+-") for number in range(20)]
    for person in people[:3]:
        session.refresh(person)
        strip = person.strips[0]
        strip.exclusion, strip.n_beats = "flat_line", 0
    session.flush()
    sent = flow(session)
    assert sent["flow.labelled"] == 40
    assert "flow.accepted" not in sent
    assert not any(key.startswith("flow.by-label.accepted") for key in sent)
    assert "flow.patients.accepted" in sent  # all twenty still have a strip


def test_cells_with_the_same_few_patients_behind_hide_a_third() -> None:
    release = Release(5)
    owner = {item: item % 4 for item in range(20)} | {item: item for item in range(20, 80)}
    groups = {"a": set(range(8)), "b": set(range(8, 20)), "c": set(range(20, 30)), "d": set(range(30, 80))}
    cells(release, "flow", groups, Sizes(5, owner))
    assert {key for key in release.flat() if key != "suppressed"} == {"flow.d"}


def test_everything_is_in_the_protocol(session: Session) -> None:
    people = [
        patient(
            session,
            i,
            "++--~",
            "x",
            sex="FM "[i % 3].strip() or None,
            age=50.0,
            height_cm=170.0,
            weight_kg=70.0,
        )
        for i in range(4)
    ]
    run = cohort(session, people[:2], people[2:])
    sent = {**table_one(session, run, min_cell=1), **flow(session, 1)}
    assert sum(key.startswith("table-one.") for key in sent) > 80
    protocol.check(protocol.reply(sent), protocol.PERSONALIZE, "reply")
    for name in ("table-one.generic.ethnicity.klingon", "table-one.ward.patients", "flow.patients.smith"):
        with pytest.raises(ProtocolError):
            protocol.check(protocol.reply({name: 1}), protocol.PERSONALIZE, "reply")

"""Calibration, alarms and votes as the report shows them, on strips one can count by hand."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy.orm import Session, sessionmaker

from client.database.runs import start_run
from client.database.tables import CohortMember, Patient, PersonalizationRun, Strip, StripPrediction
from client.report import calibrated
from client.report.calibrated import Group, groups
from client.report.evidence import Generic, StripVote
from client.report.reading_votes import Scored, ScoredStrips, read_scored
from common.config import make_settings
from common.metrics import Confusion, brier
from common.page.numbers import MISSING
from common.task import HYPERKALEMIA, VENTRICULAR

SETTINGS = make_settings()
DAY = datetime(2150, 3, 1)


def vote(
    patient: int, label: str, positive_beats: int, logit: float = 0.0, value: float | None = None
) -> Any:
    """Make a strip of ten beats."""
    return StripVote(patient, label, value, 10, positive_beats, logit)


def group(
    strips: list[StripVote], method: str = "selected", trained: float | None = 0.5, personal: bool = True
) -> Group:
    return Group(method, personal, tuple(Scored(one, trained) for one in strips))


def balanced(n: int, right: int) -> list[StripVote]:
    """Make n strips of each label, of which so many of each are called right, one patient per strip."""
    return [
        vote(number, label, 9 if (label == "positive") == (number < right) else 1,
             1.0 if (label == "positive") == (number < right) else -1.0)
        for label in ("positive", "negative")
        for number in range(n)
    ]  # fmt: skip


def plain(row: Any) -> list[str]:
    return [cell.replace("\u202f", " ").replace("\u00a0", " ") for cell in row]


# --- calibration ---


def test_below_fifty_strips_there_is_a_sentence_and_no_figure() -> None:
    table = calibrated.calibration_table([group(balanced(24, 20))])
    assert table.rows[0][4:] == [MISSING] * 4
    assert "48 strips; below 50 there are no figures of calibration." in table.note
    assert MISSING not in calibrated.calibration_table([group(balanced(25, 20))]).rows[0]


def test_a_model_trained_on_few_positives_is_corrected_before_it_is_judged() -> None:
    """Its logits are low everywhere by the odds of its training; the same strips, the same Brier score."""
    told = balanced(30, 24)
    shifted = [
        vote(one.patient, one.label, one.n_positive_beats, one.mean_logit + np.log(0.1 / 0.9)) for one in told
    ]
    (one,), (other,) = (
        calibrated.calibration_table([group(strips, trained=share)]).rows
        for strips, share in ((told, 0.5), (shifted, 0.1))
    )  # fmt: skip
    assert one == other
    expected = brier(1 / (1 + np.exp([-v.mean_logit for v in told])), [v.label == "positive" for v in told])
    assert one[4] == f"{expected:.3f}"
    assert one[5] == "0.250"


def test_an_unknown_training_balance_leaves_no_probability() -> None:
    unknown = group(balanced(30, 24), trained=None)
    assert unknown.probability is None
    assert "not known at this site" in calibrated.calibration_table([unknown]).note


def test_gap_strips_are_in_no_count() -> None:
    strips = [*balanced(30, 24), *(vote(99, "gap", 9, 5.0) for _ in range(20))]
    assert calibrated.calibration_table([group(strips)]).rows[0][1:4] == ["30", "60", "50\u202f%"]


# --- alarms ---


def test_alarms_are_those_of_sensitivity_and_specificity() -> None:
    table = calibrated.alarms_table([group(balanced(100, 90))], HYPERKALEMIA)
    assert plain(table.rows[0])[1:3] == ["sensitivity 90 % (90 of 100)", "specificity 90 % (90 of 100)"]
    one, two, five = (plain(row) for row in table.rows[1:])
    # 144 strips at 2 %: 2.88 positive, of which .9 are called; 141.12 negative, of which .1 are.
    assert two[2].startswith("16.7 (")
    assert two[3].startswith("14.1 (")
    assert two[1].startswith("16 % (")
    assert (one[0], five[0]) == ("  1 % of strips positive", "  5 % of strips positive")
    sentence = calibrated.alarms_sentence([group(balanced(100, 90))], HYPERKALEMIA).replace("\u202f", " ")
    assert "17 alarms per patient-day, 14 of them false; one alarm in 6 would be right" in sentence


def test_alarms_need_both_labels_and_a_task_a_monitor_could_meet() -> None:
    one_label = group([one for one in balanced(60, 50) if one.label == "positive"])
    assert not calibrated.alarms_table([one_label], HYPERKALEMIA).rows
    assert not calibrated.alarms_table([group(balanced(60, 50))], VENTRICULAR).rows
    assert "monitor" in calibrated.alarms_table([group(balanced(60, 50))], VENTRICULAR).empty
    assert calibrated.alarms_sentence([one_label], HYPERKALEMIA) == ""


def test_without_any_right_alarm_no_ratio_is_promised() -> None:
    assert "would be right" not in calibrated.alarms_sentence([group(balanced(60, 0))], HYPERKALEMIA)


@pytest.mark.parametrize(
    ("counts", "cell"),
    [(Confusion(tp=4, tn=5, fp=2, fn=1), "9 of 12 (47 to 91 %)"), (Confusion(tp=3), "3 of 3 (44 to 100 %)"),
     (Confusion(), MISSING)],
)  # fmt: skip
def test_a_patients_strips_have_wilsons_interval(counts: Confusion, cell: str) -> None:
    assert calibrated.strips_right(counts).replace("\u202f", " ") == cell


# --- votes by potassium ---


def rising(patients: int = 8) -> Group:
    """Give every patient the same six strips, whose votes follow the value."""
    values = (3.8, 4.6, 5.0, 5.3, 5.5, 6.2)
    labels = ("negative", "negative", "negative", "gap", "gap", "positive")
    return group(
        [
            vote(patient, label, n, 0.0, value)
            for patient in range(patients)
            for n, (value, label) in enumerate(zip(values, labels, strict=True))
        ]
    )


def test_votes_are_binned_with_the_gap_as_a_bin_of_its_own() -> None:
    table = calibrated.votes_table([rising()], SETTINGS)
    rows = {row[0]: plain(row)[1:] for row in table.rows}
    assert list(rows) == [
        "up to 4.0", "above 4.5 to 5.0", "above 5.0 to 5.5 *", "above 6.0 to 6.5",
    ]  # fmt: skip
    assert rows["above 5.0 to 5.5 *"] == ["16 (8)", "35 % (30 to 40 %)"]


def test_other_limits_of_the_labels_move_the_gap() -> None:
    settings = make_settings(overrides={"label": {"negative_to": 5.2}})
    names = [row[0] for row in calibrated.votes_table([rising()], settings).rows]
    assert "above 5.2 to 5.5 *" in names
    assert not any(name.startswith("above 5.0") and name.endswith("*") for name in names)


def test_correlation_within_patients_has_an_interval_over_patients() -> None:
    (row,) = calibrated.correlation_table([rising()], SETTINGS, "north").rows
    assert plain(row)[1:4] == ["48", "1.00", "1.00 (8)"]
    (few,) = calibrated.correlation_table([rising(5)], SETTINGS, "north").rows
    assert few[4] == "too few"


def test_a_task_without_a_quantity_has_no_votes_by_value() -> None:
    settings = make_settings("ventricular")
    assert not calibrated.votes_table([rising()], settings).rows
    assert not calibrated.correlation_table([rising()], settings, "north").rows


# --- reading ---


class Rows:
    """A database with one personal patient and votes of every kind."""

    def __init__(self, session: Session, balance: str, selected: str) -> None:
        self.session = session
        settings = make_settings(overrides={"training": {"balance": balance}})
        ingest = start_run(session, "ingest", settings)
        self.cohort = start_run(session, "cohort", settings)
        session.flush()
        start_run(session, "federation", settings, cohort_run_id=self.cohort.id)
        # The site's own file says otherwise; what the coordinator asked for decides.
        self.run = start_run(session, "personalization", make_settings(), cohort_run_id=self.cohort.id)
        session.flush()
        self.ingest, self.hours = ingest.id, 0
        self.patient = self.person("a")
        self.prospective = self.personalization("prospective", selected)
        self.paper = self.personalization("paper", selected)

    def person(self, key: str) -> int:
        patient = Patient(source_key=key)
        self.session.add(patient)
        self.session.flush()
        return patient.id

    def personalization(self, protocol: str, selected: str) -> int:
        row = PersonalizationRun(
            run_id=self.run.id, patient_id=self.patient, protocol=protocol, outcome="personal",
            generic_sha256="ab" * 32, rounds=3, selected_method=selected, selected_round=3,
        )  # fmt: skip
        self.session.add(row)
        self.session.flush()
        return row.id

    def strip(self, patient: int, label: str, n_beats: int = 10) -> int:
        self.hours += 1
        start = DAY + timedelta(hours=self.hours)
        row = Strip(
            patient_id=patient, run_id=self.ingest, label=label, value=6.0, start=start,
            end=start + timedelta(minutes=10), n_beats=n_beats, beat_offset=0,
        )  # fmt: skip
        self.session.add(row)
        self.session.flush()
        return row.id

    def predict(self, strip: int, row: int, method: str, round_: int, purpose: str, called: int) -> None:
        self.session.add(
            StripPrediction(
                run_id=self.run.id, personalization_run_id=row, strip_id=strip, method=method, round=round_,
                purpose=purpose, n_beats=10, n_positive_beats=called, mean_logit=0.5,
            )
        )  # fmt: skip


@pytest.mark.parametrize(("selected", "share"), [("closed_form", 0.5), ("generic", 0.2)])
def test_only_the_last_round_of_the_primary_protocol_is_read(
    session_factory: sessionmaker[Session], selected: str, share: float
) -> None:
    with session_factory() as session:
        rows = Rows(session, "natural", selected)
        test, gap = rows.strip(rows.patient, "positive"), rows.strip(rows.patient, "gap")
        for method in ("generic", "threshold", "closed_form", "selected"):
            rows.predict(test, rows.prospective, method, 3, "test", 7)
        rows.predict(gap, rows.prospective, "selected", 3, "gap", 4)
        rows.predict(test, rows.prospective, "selected", 2, "test", 1)
        rows.predict(test, rows.prospective, "selected", 2, "guard", 1)
        rows.predict(test, rows.paper, "selected", 3, "test", 1)
        # Training strips of this site: 20 positive beats of 100.
        trained = rows.person("b")
        rows.strip(trained, "positive", 20)
        rows.strip(trained, "negative", 80)
        rows.strip(trained, "gap", 500)
        session.add(
            CohortMember(
                run_id=rows.cohort.id, patient_id=trained, role="generic", split="train", n_positive=1,
                n_negative=1, n_gap=1,
            )
        )  # fmt: skip
        session.flush()
        read = read_scored(session, [rows.run.id])
    assert {method: [one.vote.n_positive_beats for one in own] for method, own in read.personal.items()} == {
        "generic": [7], "threshold": [7], "selected": [7, 4],
    }  # fmt: skip
    assert read.trained == {"main": 0.2}
    assert read.training["main"].balance == "natural"
    assert {one.trained_share for one in read.personal["selected"]} == {share}
    assert {one.trained_share for one in read.personal["threshold"]} == {0.5}


@pytest.mark.parametrize(("balance", "share"), [("strips", 0.5), ("natural", None)])
def test_balanced_training_needs_no_strips_to_be_known(
    session_factory: sessionmaker[Session], balance: str, share: float | None
) -> None:
    with session_factory() as session:
        rows = Rows(session, balance, "closed_form")
        assert read_scored(session, [rows.run.id]).trained == {"main": share}


def test_groups_are_the_test_patients_first_and_none_without_labelled_strips() -> None:
    generic = Generic("main", None, balanced(3, 2), None, None, 0, False, 0)
    told = [Scored(one, 0.5) for one in balanced(3, 2)]
    gap_only = [Scored(vote(1, "gap", 3), 0.5)]
    found = groups([generic], ScoredStrips({}, {"main": 0.5}, {"generic": gap_only, "selected": told}))
    assert [one.title for one in found] == [
        "Generic model, test patients", "Selected models, personal patients",
    ]  # fmt: skip

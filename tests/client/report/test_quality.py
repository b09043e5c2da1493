"""Data quality by label: shares that can be counted by hand, and differences within the same patients."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from client.data.exclusion import Exclusion
from client.database.runs import start_run
from client.database.tables import Patient, Strip
from client.report.curves import signal_by_label
from client.report.evidence import Member
from client.report.quality import NOT_RECORDED, SIGNAL, quality_sentences, signal_table, steps_table
from client.report.reading_quality import StripSignal, read_signals
from common.config import make_settings
from common.page.numbers import MISSING
from common.task import HYPERKALEMIA

SETTINGS = make_settings()


def strip(patient: int, label: str, rate: float | None = 80.0, exclusion: str | None = None) -> StripSignal:
    """Make a strip of 100 R peaks, 90 of them accepted."""
    kept = 0 if exclusion else 90
    return StripSignal(
        patient, label, exclusion, 0.95, rate, 100, kept, 1.0, 1.0, 90.0, False, {"unlike": 8, "edge": 2}
    )


def both(patients: int, faster: float) -> list[StripSignal]:
    """Give every patient two strips of each label; that of patient k is faster by ``faster`` + k / 10."""
    return [
        strip(k, label, 80.0 + (faster + k / 10 if label == "positive" else 0))
        for k in range(patients)
        for label in ("positive", "negative", "positive", "negative")
    ]


def row(table: Any, title: str) -> list[str]:
    (found,) = (row for row in table.rows if row[0] == title)
    return [cell.replace("\u202f", " ") for cell in found[1:]]


def test_each_step_counts_those_that_passed_the_one_before() -> None:
    codes = [None, None, "no_waveform", "lead_ii_absent", "clipped", "atrial_fibrillation"]
    strips = [strip(1, "positive", exclusion=code) for code in codes] + [strip(2, "negative")]
    table = steps_table(strips, SETTINGS, "north")
    assert row(table, "ECG recorded")[:3] == ["83 % of 6", "100 % of 1", MISSING]
    assert row(table, "  with lead II")[0] == "80 % of 5"
    assert row(table, "  signal good enough")[0] == "75 % of 4"
    assert row(table, "  rhythm regular enough")[0] == "67 % of 3"
    assert row(table, "Accepted, of those recorded")[0] == "40 % of 5"
    # No patient has strips of both labels.
    assert row(table, "ECG recorded")[3:] == [MISSING, MISSING]


def test_every_reason_of_a_strip_belongs_to_one_step() -> None:
    """A reason that a later version adds must be given a step, or its strips would pass them all."""
    of_strips = [
        code for code in Exclusion if list(Exclusion).index(code) >= list(Exclusion).index("no_waveform")
    ]
    placed = [*NOT_RECORDED, *SIGNAL, Exclusion.LEAD_II_ABSENT, Exclusion.ATRIAL_FIBRILLATION]
    assert sorted(placed) == sorted(of_strips)


def test_a_difference_is_taken_within_patients_and_each_counts_once() -> None:
    """Patient 0 has fifty more strips of a fast heart; the mean over patients hardly moves."""
    strips = [*both(8, 5.0), *(strip(0, "positive", 180.0) for _ in range(50)), strip(20, "positive", 200.0)]
    assert row(signal_table(both(8, 5.0), SETTINGS, "north"), "Heart rate, per minute")[3] == "+5 (8)"
    assert row(signal_table(strips, SETTINGS, "north"), "Heart rate, per minute")[3] == "+17 (8)"
    assert row(signal_table(both(5, 5.0), SETTINGS, "north"), "Heart rate, per minute")[4] == "too few"


def test_strips_that_were_not_accepted_or_measured_are_in_no_figure_of_the_signal() -> None:
    strips = [strip(1, "positive", 70.0), strip(1, "positive", None), strip(1, "positive", 170.0, "clipped")]
    table = signal_table(strips, SETTINGS, "north")
    assert row(table, "Heart rate, per minute")[0] == "70 (70 to 70)"
    assert row(table, "Strips (patients)")[0] == "2 (1)"
    assert row(table, "Beats left out")[0] == "10.0 %"
    assert row(table, "  unlike the median beat")[0] == "8.0 %"
    assert not any(cells[0].strip() == "jump of the base line" for cells in table.rows)


def test_differences_between_labels_are_said_only_where_they_are_clear() -> None:
    def said(faster: float, patients: int = 8) -> str:
        return " ".join(quality_sentences(both(patients, faster), [], SETTINGS, "north"))

    assert "The heart is faster in strips of hyperkalemia" in said(5.0)
    assert "The heart is slower" in said(-5.0)
    assert "The heart" not in said(-0.35)
    assert "The heart" not in said(5.0, patients=5)


def test_labels_lost_more_often_are_said() -> None:
    lost = [strip(k, "positive", None, "detectors_disagree") for k in range(7)]
    text = " ".join(quality_sentences([*both(8, 0), *lost], [], SETTINGS, "north"))
    assert "Recorded strips of hyperkalemia pass the quality rules less often" in text
    missed = [strip(k, "negative", None, "no_waveform") for k in range(7)]
    text = " ".join(quality_sentences([*both(8, 0), *missed], [], SETTINGS, "north"))
    assert "An ECG was recorded more often before draws with hyperkalemia" in text


def test_few_patients_with_most_strips_and_unknown_columns_are_said() -> None:
    strips = [*(strip(1, "negative") for _ in range(6)), strip(2, "negative"), strip(3, "positive")]
    member = Member(1, "main", "generic", "test", {}, "F", 60.0, None, None, 70.0, None)
    text = " ".join(quality_sentences(strips, [member, replace(member, patient=2, age=None)], SETTINGS, "x"))
    assert "at most 6; half of all strips are of 1 patient." in text
    assert "age 50\u202f%, height 100\u202f%." in text


def test_the_figure_needs_strips_of_both_labels() -> None:
    drawn = signal_by_label(both(4, 10.0), HYPERKALEMIA)
    assert drawn is not None
    assert "Heart rate: hyperkalemia 90, normokalemia 80" in drawn.text
    for axes in drawn.canvas.axes:
        for patch in axes.patches:
            assert sum(patch.get_data().values) == pytest.approx(1)
    assert signal_by_label([strip(1, "positive")], HYPERKALEMIA) is None


def test_what_was_stored_is_read_on_both_engines(session_factory: sessionmaker[Session]) -> None:
    start = datetime(2150, 3, 1)
    with session_factory() as session:
        ingest = start_run(session, "ingest", SETTINGS)
        patient = Patient(source_key="a")
        session.add(patient)
        session.flush()
        common: dict[str, Any] = {"patient_id": patient.id, "run_id": ingest.id}
        session.add(
            Strip(
                **common, label="positive", start=start, end=start + timedelta(seconds=600), signal_s=480.0,
                heart_rate_bpm=71.5, n_detected=700, n_beats=690, agreement=0.98,
                quality={"amplitude_mv": 1.5, "qrs_ms": 96.0, "pacing_suspected": True},
                beats_rejected={"unlike": 10},
            )
        )  # fmt: skip
        later = start + timedelta(days=1)
        session.add(Strip(**common, label="gap", start=later, end=later, exclusion="no_waveform"))
        session.flush()
        first, second = read_signals(session)
    assert first == StripSignal(
        patient.id, "positive", None, 0.8, 71.5, 700, 690, 0.98, 1.5, 96.0, True, {"unlike": 10}
    )
    assert (second.exclusion, second.signal_share, second.qrs_ms, second.rejected) == (
        "no_waveform",
        0.0,
        None,
        {},
    )

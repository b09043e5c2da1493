"""The rules that must hold from a hospital's files to a label: one test each, with the real reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from client.data.ingest import ingest
from client.data.labels import LabelledDraw, label_draws
from client.data.sources.mimic3 import Mimic3Source
from client.database.session import create_database, sessions
from client.database.tables import Draw, Strip
from client.site import Site
from common.config import LabelSettings
from common.errors import SourceError

T0 = datetime(2150, 3, 1, 8, 0)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
SODIUM, GLUCOSE = 50983, 50931


def source_of(hospital: Any) -> Mimic3Source:
    if not hospital.records:
        hospital.record(20, hospital.t0 - timedelta(days=60), [hospital.segment(1, {"V": np.zeros(125)})])
    hospital.write()
    items = [
        (50971, "Potassium", "Blood", "Chemistry"),
        (50822, "Potassium, Whole Blood", "Blood", "Blood Gas"),
    ]
    items += [(51097, "Potassium, Urine", "Urine", "Chemistry"), (50847, "Potassium, Ascites", "Ascites", "")]
    items += [(50833, "Potassium", "Other Body Fluid", "Blood Gas"), (SODIUM, "Sodium", "Blood", "Chemistry")]
    items += [(GLUCOSE, "Glucose", "Blood", "Chemistry"), (51084, "Glucose, Urine", "Urine", "Chemistry")]
    hospital.table("D_LABITEMS", "ITEMID,LABEL,FLUID,CATEGORY", items)
    return Mimic3Source(hospital.clinical, hospital.waveforms)


def draws_of(hospital: Any, **rules: Any) -> list[LabelledDraw]:
    source = source_of(hospital)
    return label_draws(source.measurements("20"), source.stays("20"), LabelSettings(**rules))


def outcomes(hospital: Any, **rules: Any) -> list[str]:
    return [str(draw.label or draw.exclusion) for draw in draws_of(hospital, **rules)]


def row(hospital: Any, time: datetime, value: Any, **more: Any) -> None:
    """Add a lab row of patient 20 in which every column may be chosen."""
    number = more.get("number", value)
    unit, flag = more.get("unit", "mEq/L"), more.get("flag", "")
    item = more.get("item", 50971)
    hospital.labs.append((len(hospital.labs) + 1, 20, 100_020, item, time, value, number, unit, flag))


@pytest.fixture
def patient(hospital: Any) -> Any:
    hospital.patient(20)
    return hospital


# --- labels ------------------------------------------------------------------------------------------------


def test_labels_come_from_the_numeric_value_and_unit_only_never_from_the_flag(patient: Any) -> None:
    row(patient, T0, 6.0, flag="")
    row(patient, T0 + HOUR, 4.0, flag="abnormal")
    row(patient, T0 + 2 * HOUR, 4.0, flag="delta")
    row(patient, T0 + 3 * HOUR, 4.0, number=6.0)
    row(patient, T0 + 4 * HOUR, 4.0, number="")
    row(patient, T0 + 5 * HOUR, 6.0, unit="mg/dL")
    assert outcomes(patient) == [
        "positive",
        "negative",
        "negative",
        "no_numeric_value",
        "no_numeric_value",
        "wrong_unit",
    ]
    assert [draw.measurement.flag for draw in draws_of(patient)] == ["", "abnormal", "delta", "", "", ""]


def test_a_millimole_per_litre_equals_a_milliequivalent_per_litre(patient: Any) -> None:
    for hours, unit in enumerate(("mEq/L", "mmol/L", "MEQ/L", "mmol/l")):
        row(patient, T0 + hours * HOUR, 5.6, unit=unit)
    assert [(draw.value, str(draw.label)) for draw in draws_of(patient)] == [(5.6, "positive")] * 4


def test_look_alike_items_are_refused_by_label_and_fluid(patient: Any) -> None:
    for item in (51097, 50847, 50833, SODIUM, 50971, 50822):
        row(patient, T0, 6.0, item=item)
    assert [draw.measurement.item for draw in draws_of(patient)] == ["50971", "50822"]


def test_an_item_number_is_worth_nothing_where_the_table_of_items_calls_it_something_else(
    patient: Any,
) -> None:
    row(patient, T0, 6.0)
    source_of(patient)
    items = [(50971, "Potassium, Urine", "Urine", "Chemistry"), (1, "Potassium", "Blood", "Chemistry")]
    patient.table("D_LABITEMS", "ITEMID,LABEL,FLUID,CATEGORY", items)
    with pytest.raises(SourceError, match="holds no row of the potassium items 1"):
        Mimic3Source(patient.clinical, patient.waveforms)


def test_censored_values_are_kept_as_censored(patient: Any) -> None:
    row(patient, T0, "GREATER THAN 10", number="")
    row(patient, T0 + HOUR, "<2.0", number="")
    row(patient, T0 + 2 * HOUR, "> 5.0", number="")
    found = [(draw.value, draw.censored, str(draw.label or draw.exclusion)) for draw in draws_of(patient)]
    assert found == [
        (10.0, "above", "positive"),
        (2.0, "below", "low_potassium"),
        (5.0, "above", "no_numeric_value"),
    ]


def test_values_outside_1_5_to_12_are_quarantined_with_their_value(patient: Any) -> None:
    for hours, value in enumerate((1.4, 1.5, 12, 12.1, 45, 0, -4)):
        row(patient, T0 + hours * 5 * HOUR, value)
    draws = draws_of(patient)
    assert [str(draw.label or draw.exclusion) for draw in draws] == [
        "implausible_value",
        "low_potassium",
        "positive",
        *["implausible_value"] * 4,
    ]
    assert [draw.value for draw in draws] == [1.4, 1.5, 12.0, 12.1, 45.0, 0.0, -4.0]


# --- hemolysis ---------------------------------------------------------------------------------------------


def test_a_laboratory_without_flags_suspects_by_the_panel_of_the_same_time(patient: Any) -> None:
    row(patient, T0, 6.0)
    row(patient, T0, 105, item=SODIUM)
    row(patient, T0 + 5 * HOUR, 6.0)
    row(patient, T0 + 5 * HOUR, 1200, item=GLUCOSE, unit="mg/dL")
    row(patient, T0 + 10 * HOUR, 6.0)
    row(patient, T0 + 10 * HOUR, 140, item=SODIUM)
    row(patient, T0 + 10 * HOUR, 1200, item=51084, unit="mg/dL")  # of urine
    row(patient, T0 + 10 * HOUR + MINUTE, 100, item=SODIUM)  # of another specimen
    row(patient, T0 + 15 * HOUR, 6.0)
    row(patient, T0 + 15 * HOUR, 1200, item=GLUCOSE, unit="mmol/L")  # of a unit that is not read
    assert [draw.measurement.hemolysis for draw in draws_of(patient)] == ["suspected"] * 2 + [None] * 2


def test_a_laboratory_without_flags_suspects_by_a_much_lower_repeat_within_four_hours(patient: Any) -> None:
    row(patient, T0, 6.5)
    row(patient, T0 + 4 * HOUR, 4.9)
    row(patient, T0 + 10 * HOUR, 6.5)
    row(patient, T0 + 10 * HOUR + 241 * MINUTE, 4.0)
    assert [draw.measurement.hemolysis for draw in draws_of(patient)] == ["suspected", None, None, None]


def test_a_suspicion_is_kept_by_default_and_excludes_if_the_settings_say_so(patient: Any) -> None:
    row(patient, T0, 6.5)
    row(patient, T0 + HOUR, 4.5)
    assert outcomes(patient) == ["positive", "negative"]
    assert outcomes(patient, suspected_hemolysis="exclude") == ["hemolysis_suspected", "negative"]


def test_a_result_that_reads_hemolyzed_is_reported_and_has_no_value(patient: Any) -> None:
    row(patient, T0, "HEMOLYZED", number="")
    (draw,) = draws_of(patient)
    assert (draw.measurement.hemolysis, str(draw.exclusion)) == ("reported", "no_numeric_value")


def test_panels_are_moved_by_the_clock_of_the_laboratory_like_potassium(patient: Any) -> None:
    row(patient, T0, 6.0)
    row(patient, T0, 105, item=SODIUM)
    source_of(patient)
    moved = Mimic3Source(patient.clinical, patient.waveforms, lab_clock_ahead_min=60)
    assert [m.hemolysis for m in moved.measurements("20")] == ["suspected"]


# --- draws close together ----------------------------------------------------------------------------------


def test_draws_less_than_half_an_hour_apart_are_merged_or_all_left_out(patient: Any) -> None:
    """Same label: the first stays. Different labels: none does. Serum before whole blood of the same time."""
    row(patient, T0, 6.0)
    row(patient, T0, 5.7, item=50822)
    row(patient, T0 + 29 * MINUTE, 6.1)
    row(patient, T0 + 30 * MINUTE, 6.2)
    row(patient, T0 + 5 * HOUR, 4.9)
    row(patient, T0 + 5 * HOUR + 10 * MINUTE, 5.1)
    draws = draws_of(patient)
    assert [str(draw.label or draw.exclusion) for draw in draws] == [
        "positive",
        "whole_blood_twin",
        "merged_into",
        "positive",
        "conflicting_draws",
        "conflicting_draws",
    ]
    assert [draw.merged_into for draw in draws] == [None, 0, 0, None, None, None]


# --- files -------------------------------------------------------------------------------------------------


def test_the_gap_label_keeps_its_beats(patient: Any, make_site: Callable[..., Site]) -> None:
    row(patient, T0, 5.3)
    ecg = patient.heartbeats(130)
    patient.record(20, T0 - timedelta(seconds=125), [patient.segment(130, {"II": ecg})])
    source_of(patient)
    site = make_site(patient.root, strip={"window_s": 120.0, "min_signal_s": 60.0, "min_beats": 30})
    factory = sessions(create_database(site.database_url))
    ingest(site, factory)
    with factory() as session:
        (strip,) = session.scalars(select(Strip))
        assert (strip.label, strip.exclusion) == ("gap", None)
        assert strip.n_beats > 100


@pytest.mark.parametrize("year", [2262, 2263, 2896, 9998])
def test_years_past_2262_work_from_the_files_to_the_database(
    hospital: Any, make_site: Callable[..., Site], year: int
) -> None:
    """Nanoseconds since 1970 in 64 bits end in April 2262; surrogate dates do not."""
    hospital.t0 = T0.replace(year=year)
    hospital.patient(20)
    row(hospital, hospital.t0, 6.1)
    ecg = hospital.heartbeats(130)
    hospital.record(20, hospital.t0 - timedelta(seconds=125), [hospital.segment(130, {"II": ecg})])
    source_of(hospital)
    site = make_site(hospital.root, strip={"window_s": 120.0, "min_signal_s": 60.0, "min_beats": 30})
    factory = sessions(create_database(site.database_url))
    ingest(site, factory)
    with factory() as session:
        ((draw, strip),) = session.execute(select(Draw, Strip).join(Strip, Strip.draw_id == Draw.id)).all()
        assert draw.specimen_time == strip.end == hospital.t0
        assert (strip.label, strip.exclusion) == ("positive", None)


@pytest.mark.parametrize("mangled", ["3/1/50 8:00", "44462.85", "01-MAR-2150", "2150-13-01 00:00:00"])
def test_excel_mangled_dates_are_refused_with_file_line_and_the_expected_form(
    patient: Any, mangled: str
) -> None:
    row(patient, T0, 4.0)
    row(patient, mangled, 4.0)  # type: ignore[arg-type]
    with pytest.raises(SourceError) as caught:
        source_of(patient)
    sentence = str(caught.value)
    for part in ("LABEVENTS.csv", "line 3", "2150-01-31 08:05:00"):
        assert part in sentence
    assert mangled not in sentence
    assert (caught.value.problem, caught.value.value) == ("bad-time", mangled)
    assert mangled in caught.value.told()


@pytest.mark.data
def test_the_real_demo_is_suspected_seldom_and_every_suspicion_has_its_reason(real_data: Any) -> None:
    """20 of 2,535 rows, each raised with a contaminated panel or much higher than a repeat."""
    from client.data.sources.mimic3_tables import ClinicalTables

    tables = ClinicalTables(real_data / "mimic3_demo")
    found = Counter(row.hemolysis for key in tables.keys for row in tables.measurements(key))
    assert found == {None: 2515, "suspected": 20}

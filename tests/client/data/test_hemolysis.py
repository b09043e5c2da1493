"""Who says that red cells broke in the tube, and when a rule suspects it."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from client.data.exclusion import Exclusion
from client.data.hemolysis import contaminated, reported, with_suspicions
from client.data.labels import label_draws
from client.data.sources.base import Hemolysis, Measurement, Specimen, Stay
from common.config import LabelSettings
from common.task import Label

T0 = datetime(2150, 3, 1, 8, 0)
STAYS = [Stay(T0 - timedelta(days=1), T0 + timedelta(days=5))]


def row(
    value: float | str,
    minutes: float = 0,
    *,
    unit: str = "mEq/L",
    specimen: Specimen = "serum",
    hemolysis: Hemolysis | None = None,
) -> Measurement:
    return Measurement(
        source_row=f"{minutes:08.2f}{specimen}",
        specimen_time=T0 + timedelta(minutes=minutes),
        text=value if isinstance(value, str) else f"{value:g}",
        number=None if isinstance(value, str) else value,
        unit=unit,
        item="50971",
        specimen=specimen,
        admitted=True,
        hemolysis=hemolysis,
    )


def suspicions(*rows: Measurement, contaminated_at: tuple[datetime, ...] = ()) -> list[str | None]:
    return [found.hemolysis for found in with_suspicions(rows, contaminated_at)]


@pytest.mark.parametrize(
    "text",
    [
        "HEMOLYSIS FALSELY ELEVATES THIS RESULT",
        "HEMOLYSIS FALSELY ELEVATES K.  NOT VERIFIED.",
        "moderately hemolyzed",
        "GROSSLY HEMOLYZED",
        "Slightly Hemolyzed specimen",
        "HEMOLYZED, NOT REPORTED",
        "SPECIMEN HEMOLYZED- NO RESULTS",
        "NOT RUN DUE TO HEMOLYSIS",
        "NO CLOT. GROSSLY HEMOLYZED",
        "no hemolysis in the first tube; second tube HEMOLYZED",
        "Haemolysed sample",
        "Hemolysis 2+",
    ],
)
def test_a_comment_that_says_hemolyzed_counts(text: str) -> None:
    assert reported(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "___",
        "Specimen not Hemolyzed",
        "NO HEMOLYSIS",
        "No visible hemolysis seen.",
        "not hemolyzed",
        "Not grossly hemolyzed",
        "non-hemolyzed",
        "NONHEMOLYZED",
        "no evidence of hemolysis",
        "without hemolysis",
        "HEMOLYSIS NOT PRESENT",
        "hemolysis: none",
        "Hemolysis: 0",
        "HEMOLYSIS INDEX 12",
        "Results are unreliable if specimen is hemolyzed",
        "hemolytic anemia",
        "LIPEMIC SPECIMEN",
    ],
)
def test_a_comment_that_denies_or_does_not_speak_of_hemolysis_does_not_count(text: str) -> None:
    assert not reported(text)


def test_a_panel_with_little_sodium_or_much_glucose_is_contaminated() -> None:
    assert contaminated(sodium=109.0)
    assert contaminated(glucose=1001.0)
    assert contaminated(sodium=140.0, glucose=1500.0)
    assert not contaminated(sodium=110.0, glucose=1000.0)
    assert not contaminated()


def test_a_raised_potassium_of_a_contaminated_specimen_is_suspected() -> None:
    assert suspicions(row(5.1), contaminated_at=(T0,)) == ["suspected"]
    assert suspicions(row(5.0), contaminated_at=(T0,)) == [None]  # an infusion does not hide in a normal one
    assert suspicions(row(6.0, 1), contaminated_at=(T0,)) == [None]  # another specimen


@pytest.mark.parametrize(
    ("later", "minutes", "outcome"),
    [
        (4.5, 240, "suspected"),
        (4.6, 240, None),  # lower by 1.5, not by more
        (4.5, 241, None),
        (4.5, 0, "suspected"),
        (7.7, 60, None),
        (1.4, 60, None),  # not a value that potassium can have
    ],
)
def test_a_repeat_within_four_hours_that_is_much_lower_makes_the_first_suspected(
    later: float, minutes: float, outcome: str | None
) -> None:
    assert suspicions(row(6.1), row(later, minutes, specimen="whole_blood")) == [outcome, None]


def test_a_value_beyond_the_scale_is_suspected_like_a_number_and_a_text_never() -> None:
    assert suspicions(row("GREATER THAN 10"), row(4.2, 60)) == ["suspected", None]
    assert suspicions(row("NOTDONE"), row(4.2, 60)) == [None, None]
    assert suspicions(row(60.0, unit="mg/dL"), row(4.2, 60)) == [None, None]


def test_what_the_laboratory_reports_stays_reported() -> None:
    assert suspicions(row(6.1, hemolysis="reported"), row(4.0, 60)) == ["reported", None]


def test_the_order_of_the_rows_is_nothing() -> None:
    rows = [row(6.1), row(4.4, 120), row(6.5, 180), row(4.1, 300)]
    straight = suspicions(*rows)
    assert straight == ["suspected", None, "suspected", None]
    assert suspicions(*rows[::-1]) == straight[::-1]


def test_a_draw_reported_as_hemolyzed_has_no_label_and_speaks_for_no_neighbour() -> None:
    draws = label_draws([row(6.1, hemolysis="reported"), row(4.0, 10)], STAYS, LabelSettings())
    assert [draw.exclusion for draw in draws] == [Exclusion.HEMOLYZED, None]
    assert (draws[0].measurement.hemolysis, draws[0].value, draws[1].label) == (
        "reported",
        6.1,
        Label.NEGATIVE,
    )


def test_a_suspected_draw_keeps_its_label_unless_the_settings_exclude_it() -> None:
    rows = [row(6.1, hemolysis="suspected"), row(4.0, 60)]
    kept = label_draws(rows, STAYS, LabelSettings())
    assert [draw.label for draw in kept] == [Label.POSITIVE, Label.NEGATIVE]
    assert kept[0].measurement.hemolysis == "suspected"
    left = label_draws(rows, STAYS, LabelSettings(suspected_hemolysis="exclude"))
    assert [draw.exclusion for draw in left] == [Exclusion.HEMOLYSIS_SUSPECTED, None]


def test_a_text_without_a_number_is_no_number_whatever_is_said_of_the_specimen() -> None:
    (draw,) = label_draws([row("HEMOLYZED", hemolysis="reported")], STAYS, LabelSettings())
    assert draw.exclusion is Exclusion.NO_NUMERIC_VALUE

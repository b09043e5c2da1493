"""From potassium rows to labels."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import pytest

from client.data.exclusion import Exclusion
from client.data.labels import LabelledDraw, label_draws
from client.data.sources.base import Measurement, Stay
from client.data.values import read_value
from common.config import LabelSettings
from common.task import Label

T0 = datetime(2150, 3, 1, 8, 0)
STAYS = [Stay(T0 - timedelta(days=1), T0 + timedelta(days=5))]
RULES = LabelSettings()


def row(
    value: float | str,
    minutes: float = 0,
    *,
    specimen: str = "serum",
    unit: str = "mEq/L",
    admitted: bool = True,
) -> Measurement:
    text = value if isinstance(value, str) else f"{value:.1f}"
    return Measurement(
        source_row=f"{minutes:08.2f}{specimen}",
        specimen_time=T0 + timedelta(minutes=minutes),
        text=text,
        number=None if isinstance(value, str) else value,
        unit=unit,
        item="50971",
        specimen=specimen,  # type: ignore[arg-type]
        admitted=admitted,
    )


def outcomes(*measurements: Measurement, rules: LabelSettings = RULES) -> list[str]:
    return [str(draw.label or draw.exclusion) for draw in label_draws(measurements, STAYS, rules)]


@pytest.mark.parametrize(
    ("potassium", "outcome"),
    [
        (3.4, "low_potassium"),
        (3.5, "negative"),
        (5.0, "negative"),
        (5.1, "gap"),
        (5.5, "gap"),
        (5.6, "positive"),
        (12.0, "positive"),
        (12.1, "implausible_value"),
        (1.5, "low_potassium"),
        (1.4, "implausible_value"),
        (45.0, "implausible_value"),
    ],
)
def test_the_limits_of_the_paper(potassium: float, outcome: str) -> None:
    assert outcomes(row(potassium)) == [outcome]


@pytest.mark.parametrize(
    ("text", "outcome", "value"),
    [
        ("GREATER THAN 10", "positive", 10.0),
        (">10", "positive", 10.0),
        ("greater than 10 mEq/L", "positive", 10.0),
        ("> 5.0", "no_numeric_value", 5.0),
        ("LESS THAN 2.0", "low_potassium", 2.0),
        ("<10", "no_numeric_value", 10.0),
        ("HEMOLYZED", "no_numeric_value", None),
        ("NOTDONE", "no_numeric_value", None),
        ("", "no_numeric_value", None),
        ("nan", "no_numeric_value", None),
        ("inf", "no_numeric_value", None),
    ],
)
def test_a_text_is_a_value_only_where_every_value_it_allows_has_one_label(
    text: str, outcome: str, value: float | None
) -> None:
    (draw,) = label_draws([row(text)], STAYS, RULES)
    assert (str(draw.label or draw.exclusion), draw.value) == (outcome, value)


def test_a_number_counts_only_where_print_and_column_agree() -> None:
    assert read_value("4.0", 4.0) == (4.0, None)
    assert read_value("4.0", 5.0) == (None, None)
    assert read_value("4.0", None) == (None, None)
    assert read_value("SEE COMMENTS", 4.0) == (None, None)


@pytest.mark.parametrize(
    ("unit", "outcome"),
    [
        ("mEq/L", "positive"),
        ("MEQ/L", "positive"),
        ("mmol/L", "positive"),
        ("mg/dL", "wrong_unit"),
        ("", "wrong_unit"),
    ],
)
def test_a_millimole_of_potassium_is_a_milliequivalent(unit: str, outcome: str) -> None:
    assert outcomes(row(6.1, unit=unit)) == [outcome]


def test_a_draw_outside_every_stay_counts_only_if_the_hospital_linked_it_to_an_admission() -> None:
    month = 30 * 24 * 60
    assert outcomes(row(4.0, month, admitted=False)) == ["not_in_stay"]
    assert outcomes(row(4.0, month, admitted=True)) == ["negative"]
    assert outcomes(row(4.0, -24 * 60 - 11 * 60, admitted=False)) == ["negative"]
    assert outcomes(row(4.0, -24 * 60 - 13 * 60, admitted=False)) == ["not_in_stay"]


def test_draws_less_than_half_an_hour_apart_with_one_label_are_one_measurement() -> None:
    draws = label_draws([row(6.0, 0), row(6.2, 29), row(6.4, 30)], STAYS, RULES)
    assert [d.exclusion for d in draws] == [None, Exclusion.MERGED_INTO, None]
    assert draws[1].merged_into == 0


def test_draws_close_in_time_with_different_labels_are_all_left_out() -> None:
    assert outcomes(row(4.8, 0), row(5.2, 10)) == ["conflicting_draws"] * 2
    assert outcomes(row(3.6, 0), row(3.4, 10)) == ["conflicting_draws"] * 2
    assert outcomes(row(4.8, 0), row(5.7, 30)) == ["negative", "positive"]
    assert outcomes(row(4.1, 0), row(4.2, 20), row(6.0, 40)) == ["negative", *["conflicting_draws"] * 2]


def test_serum_goes_before_whole_blood_of_the_same_time() -> None:
    assert outcomes(row(6.0, specimen="whole_blood"), row(4.0)) == ["negative", "whole_blood_twin"]
    assert outcomes(row(6.0, specimen="whole_blood"), row("HEMOLYZED")) == ["no_numeric_value", "positive"]
    assert outcomes(row(6.0, 5, specimen="whole_blood"), row(6.1)) == ["positive", "merged_into"]


def test_rows_of_the_same_time_are_one_measurement_even_without_merging() -> None:
    rules = LabelSettings(merge_s=0)
    twice = [
        row(4.0),
        Measurement(**{**{f: getattr(row(4.0), f) for f in Measurement.__slots__}, "source_row": "b"}),
    ]
    assert outcomes(*twice, rules=rules) == ["negative", "merged_into"]
    assert outcomes(row(4.0), row(6.0, 1), rules=rules) == ["negative", "positive"]


def facts(draws: list[LabelledDraw]) -> list[tuple[str, str]]:
    return [(d.measurement.source_row, str(d.label or d.exclusion)) for d in draws]


def test_every_draw_ends_with_a_label_or_a_reason_and_order_in_the_table_is_nothing() -> None:
    rng = random.Random(3)
    rows = [row(round(rng.uniform(1, 8), 1), 7 * i + rng.random()) for i in range(60)]
    shuffled = rng.sample(rows, len(rows))
    draws = label_draws(rows, STAYS, RULES)
    assert all((draw.label is None) != (draw.exclusion is None) for draw in draws)
    assert facts(draws) == facts(label_draws(shuffled, STAYS, RULES))
    kept = [d for d in draws if d.label is not None]
    for a in kept:
        for b in kept:
            apart = abs(a.measurement.specimen_time - b.measurement.specimen_time)
            assert a is b or apart >= timedelta(minutes=30)


def test_moving_every_clock_changes_no_label() -> None:
    measurements = [row(4.0, 0), row(6.0, 90), row(6.2, 100)]
    later = timedelta(days=365 * 700)
    moved = [
        Measurement(
            **{**{f: getattr(m, f) for f in Measurement.__slots__}, "specimen_time": m.specimen_time + later}
        )
        for m in measurements
    ]
    stays = [Stay(s.start + later, s.end + later) for s in STAYS]
    assert facts(label_draws(moved, stays, RULES)) == facts(label_draws(measurements, STAYS, RULES))


def test_gap_is_a_label_because_its_beats_are_kept() -> None:
    assert label_draws([row(5.3)], STAYS, RULES)[0].label is Label.GAP

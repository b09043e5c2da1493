"""Which rows of a laboratory table are new, changed or gone."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from client.data.exclusion import Exclusion
from client.data.labels import LabelledDraw, label_draws
from client.data.news import StoredDraw, beside_stored, compare
from client.data.sources.base import Measurement
from common.config import LabelSettings

T0 = datetime(2150, 3, 1, 8, 0)
RULES = LabelSettings()


def row(name: str, minutes: float, value: float) -> Measurement:
    time = T0 + timedelta(minutes=minutes)
    return Measurement(name, time, f"{value}", value, "mEq/L", "50971", "serum", True)


def labelled(*rows: Measurement) -> list[LabelledDraw]:
    return label_draws(rows, [], RULES)


def stored(draws: list[LabelledDraw], names: list[str] | None = None) -> list[StoredDraw]:
    return [
        StoredDraw(
            number,
            names[number - 1] if names else draw.measurement.source_row,
            draw.measurement.specimen_time,
            draw.measurement.item,
            draw.measurement.text,
            draw.measurement.unit,
            draw.value,
            draw.label,
            draw.exclusion,
        )
        for number, draw in enumerate(draws, start=1)
    ]


def test_the_same_rows_are_no_news() -> None:
    draws = labelled(row("1", 0, 4.0), row("2", 600, 6.0))
    news = compare(draws, stored(draws))
    assert (news.added, news.changed, news.outdated, news.gone) == ([], {}, {}, [])
    assert news.known == {0: 1, 1: 2}


def test_a_table_exported_again_with_other_row_numbers_is_no_news() -> None:
    draws = labelled(row("line 9", 0, 4.0), row("line 4", 600, 6.0), row("line 2", 900, 4.4))
    news = compare(draws, stored(draws, ["line 2", "line 3", "line 4"]))
    assert (news.added, news.changed, news.outdated, news.gone) == ([], {}, {}, [])
    assert news.known == {0: 1, 1: 2, 2: 3}


def test_a_row_of_another_value_is_changed_and_a_missing_one_is_gone() -> None:
    before = stored(labelled(row("1", 0, 4.0), row("2", 600, 6.0), row("3", 900, 4.2)))
    news = compare(labelled(row("1", 0, 4.0), row("2", 600, 4.6)), before)
    assert (news.added, news.changed, news.gone) == ([], {1: 2}, [3])


def test_a_row_twice_is_two_draws() -> None:
    draws = labelled(row("1", 0, 4.0), row("1", 0, 4.0))
    before = stored(draws, ["1", "1 (2)"])
    assert compare(draws, before).added == []
    assert compare(draws, before[:1]).added == [1]


def test_a_new_draw_near_a_stored_one_leaves_it_its_label() -> None:
    old = labelled(row("2", 20, 4.0))
    now = labelled(row("1", 0, 4.1), row("2", 20, 4.0))
    assert [draw.label for draw in now] == ["negative", None]  # what a fresh ingest would say
    before = stored(old)
    news = compare(now, before)
    assert (news.added, news.outdated) == ([0], {1: 1})
    draws = beside_stored(now, news, before, RULES.merge_s)
    assert (draws[0].label, draws[0].exclusion, draws[0].merged_into) == (None, Exclusion.MERGED_INTO, 1)
    other = labelled(row("1", 0, 6.1), row("2", 20, 4.0))
    news = compare(other, before)
    (first, _) = beside_stored(other, news, before, RULES.merge_s)
    assert first.exclusion is Exclusion.CONFLICTING_DRAWS


def test_rows_stored_before_the_printed_result_was_kept_are_known_by_name() -> None:
    draws = labelled(row("1", 0, 4.0))
    before = [replace(one, printed=None) for one in stored(draws)]
    news = compare(draws, before)
    assert (news.added, news.changed, news.known) == ([], {}, {0: 1})

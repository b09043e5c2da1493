"""The time axis of a patient: true within stays, short between them."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest

from client.report.timeline import DRAWN_GAP_H, LONG_GAP_H, MOST_TICKS, TimeAxis

START = datetime(2150, 3, 1, 9, 30)


def at(*hours: float) -> list[datetime]:
    return [START + timedelta(hours=hour) for hour in hours]


def test_without_long_gaps_places_are_hours() -> None:
    axis = TimeAxis.of(at(0, 5, 30, 30 + LONG_GAP_H))
    assert axis.places == pytest.approx([0, 5, 30, 30 + LONG_GAP_H])
    assert axis.breaks == ()


def test_a_long_gap_is_drawn_short_with_its_length() -> None:
    axis = TimeAxis.of(at(500, 0, 12, 506))
    assert axis.places == pytest.approx([0, 12, 12 + DRAWN_GAP_H, 18 + DRAWN_GAP_H])
    assert axis.breaks == ((12 + DRAWN_GAP_H / 2, 488),)
    assert axis.place(START + timedelta(hours=503)) == pytest.approx(15 + DRAWN_GAP_H)


@pytest.mark.parametrize(
    "hours", [(0.0, 0.4), (0.0, 3.0), (0.0, 40.0, 75.0), (0.0, 20.0, 900.0, 930.0, 5000.0), (0.0,)]
)
def test_ticks_are_few_apart_and_never_inside_a_gap_that_was_taken_out(hours: tuple[float, ...]) -> None:
    axis = TimeAxis.of(at(*hours))
    ticks = axis.ticks(START)
    assert 1 <= len(ticks) <= 2 * MOST_TICKS
    places = np.array([axis.place(tick) for tick in ticks])
    assert (np.diff(places) > 0).all()
    for tick in ticks:
        since = (tick - START) / timedelta(hours=1)
        assert any(begin - 1e-6 <= since <= end + 1e-6 for begin, end in axis._pieces()), (
            f"{tick} lies where nothing was measured"
        )

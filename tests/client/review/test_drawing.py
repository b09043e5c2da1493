"""Strips as drawings: what is where on the paper."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from client.data.ecg.filtering import Span
from client.data.exclusion import BeatRejection
from client.review import drawing
from client.review.cards import REJECTED
from client.review.excerpts import Excerpt
from client.review.paper import HEIGHTS, LANE, MARGIN, PER_S, Scale, paper, scale_for
from client.review.reading import Mark

RATE = 125.0
PLACE = Excerpt(20.0, "worst")
FULL = Scale(10.0, 250)


def ramp_and_pulse() -> np.ndarray:
    """Return a minute of nothing but a pulse of 1 mV and 0.2 s at 22 s."""
    signal = np.zeros(round(60 * RATE))
    signal[round(22 * RATE) : round(22.2 * RATE)] = 1.0
    return signal


def picture(
    signal: np.ndarray, marks: list[Mark] | None = None, rate: float = RATE, **more: object
) -> ET.Element:
    spans = more.pop("spans", [Span(0.0, signal.astype(np.float32))] if rate == RATE else [])
    svg = drawing.excerpt(
        signal, rate, spans, marks or [], PLACE, 2, more.pop("scale", FULL), "a strip", **more
    )  # type: ignore[arg-type]
    return ET.fromstring(str(svg))


def points(svg: ET.Element, name: str) -> list[np.ndarray]:
    """Absolute points of every line of a path."""
    found = [path for path in svg.iter("path") if path.get("class") == name]
    lines = []
    for path in found:
        for part in path.get("d", "").split("M")[1:]:
            numbers = np.array([float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", part)]).reshape(-1, 2)
            lines.append(np.cumsum(numbers, axis=0))
    return lines


def test_a_millivolt_is_ten_millimetres_and_a_second_twenty_five():
    (line,) = points(picture(ramp_and_pulse()), "clean")
    high = line[line[:, 1] == line[:, 1].min()]
    assert np.ptp(line[:, 1]) == 100  # tenths of a millimetre
    assert high[0, 0] == MARGIN + 2 * PER_S
    assert high[-1, 0] - high[0, 0] == pytest.approx(50, abs=2)


@pytest.mark.parametrize("gain", [10.0, 5.0, 2.5])
def test_the_calibration_pulse_is_a_millivolt_of_the_trace_beside_it(gain: float):
    svg = picture(ramp_and_pulse(), scale=Scale(gain, 250))
    (line,) = points(svg, "clean")
    pulse = next(path.get("d", "") for path in svg.iter("path") if path.get("class") == "pulse")
    assert f"v{-np.ptp(line[:, 1]):.0f}h50" in pulse


def test_what_was_not_recorded_breaks_the_line_and_is_hatched():
    signal = ramp_and_pulse()
    signal[round(24 * RATE) : round(26 * RATE)] = np.nan
    svg = picture(signal, spans=[Span(0.0, signal.astype(np.float32))])
    assert len(points(svg, "clean")) == len(points(svg, "raw")) == 2
    (hole,) = [rect for rect in svg.iter("rect") if rect.get("class") == "hole"]
    assert (hole.get("x"), hole.get("width")) == (str(MARGIN + 4 * PER_S), str(2 * PER_S))


def test_accepted_and_rejected_beats_differ_in_form_and_stand_above_their_r_peak():
    marks = [
        Mark(19.9),
        Mark(21.0),
        *(Mark(22.0 + n, reason) for n, reason in enumerate(BeatRejection)),
        Mark(29.0, other=True),
        Mark(30.0),
    ]
    svg = picture(ramp_and_pulse(), marks)
    accepted = [path.get("d", "") for path in svg.iter("path") if path.get("class") == "accepted"]
    letters = [text.text for text in svg.iter("text") if text.get("class") == "rejected"]
    assert len(accepted) == 1
    assert accepted[0].startswith(f"M{MARGIN + PER_S - 13} ")
    assert letters == [reason[0].upper() for reason in BeatRejection]
    assert len(set(letters)) == len(BeatRejection) == len(REJECTED)
    assert len(list(svg.iter("circle"))) == 1


def test_the_trace_stays_on_its_paper_however_large_it_is():
    signal = ramp_and_pulse() * 40
    (line,) = points(picture(signal), "clean")
    assert line[:, 1].min() >= LANE
    assert line[:, 1].max() <= LANE + FULL.height


def test_a_fast_recording_keeps_its_spikes():
    rate = 1000.0
    signal = np.zeros(round(60 * rate))
    signal[22_345] = 1.0  # a millisecond
    (line,) = points(picture(signal, rate=rate), "raw")
    assert np.ptp(line[:, 1]) == 100
    assert len(line) < 2 * 10 * RATE + 2


@pytest.mark.parametrize(
    ("peak_to_peak", "gain", "height"),
    [
        (0.3, 10.0, 150),
        (1.3, 10.0, 150),
        (1.6, 10.0, 200),
        (2.4, 10.0, 250),
        (3.6, 5.0, 200),
        (4.6, 5.0, 250),
        (9.0, 2.5, 250),
    ],
)
def test_the_paper_is_as_high_as_a_trace_needs_and_the_gain_falls_last(
    peak_to_peak: float, gain: float, height: int
):
    wave = peak_to_peak / 2 * np.sin(np.linspace(0, 60, 1250))
    assert scale_for([wave]) == Scale(gain, height)
    assert height in HEIGHTS


def test_one_artifact_does_not_make_the_beats_small():
    wave = np.sin(np.linspace(0, 60, 1250))
    wave[600:605] = 50.0
    assert scale_for([wave]).gain == 10.0
    assert scale_for([np.full(10, np.nan)]) == scale_for([]) == Scale(10.0, min(HEIGHTS))


def test_every_paper_a_drawing_refers_to_is_defined():
    defined = {group.get("id") for group in ET.fromstring(str(paper())).iter("g")}
    beats = 0.3 * np.random.default_rng(0).standard_normal((20, 120)).astype(np.float32)
    for height in HEIGHTS:
        svgs = [picture(ramp_and_pulse(), scale=Scale(10.0, height))]
        svgs.append(ET.fromstring(str(drawing.median_beat(beats, "beat"))))
        for use in (use for svg in svgs for use in svg.iter("use")):
            assert use.get("href", "").removeprefix("#") in defined


def test_an_overview_shows_the_whole_window_its_gaps_and_its_rejected_beats():
    signal = np.sin(np.arange(round(600 * RATE)))
    signal[: round(60 * RATE)] = np.nan
    marks = [Mark(100.0), Mark(300.0, BeatRejection.UNLIKE)]
    svg = ET.fromstring(str(drawing.overview(signal, RATE, marks, [Excerpt(295.0, "middle")], "x & y")))
    (hole,) = [rect for rect in svg.iter("rect") if rect.get("class") == "hole"]
    (ticks,) = [path.get("d", "") for path in svg.iter("path") if path.get("class") == "ticks"]
    assert hole.get("width") == "250"  # a tenth of the window
    assert ticks.startswith(f"M{MARGIN + 1250} ")
    assert ticks.count("M") == 1
    assert [text.text for text in svg.iter("text") if text.get("class") == "number"] == ["1"]
    assert svg.get("aria-label") == "x & y"


def test_a_blind_drawing_does_not_say_why_its_part_was_chosen():
    open_words = [text.text for text in picture(ramp_and_pulse()).iter("text")]
    blind_words = [text.text for text in picture(ramp_and_pulse(), named=False).iter("text")]
    assert open_words == ["2", "worst", "0:20"]
    assert blind_words == ["2", "0:20"]


def test_equal_strips_give_equal_drawings():
    assert ET.tostring(picture(ramp_and_pulse())) == ET.tostring(picture(ramp_and_pulse()))

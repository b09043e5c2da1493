"""Annotated recordings: persons, stretches, and strips of one class in one minute."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from client.data.annotated import annotated_strips, margin_s, minute_strips, pair_nearest
from client.data.ecg.strip import beats_at
from client.data.sources.base import Stretch
from client.data.sources.mitbih import MitbihSource
from common.config import make_settings
from common.errors import SourceError
from common.task import Label

SETTINGS = make_settings("ventricular")
RATE = 250.0


def stretch(minutes: int, beats: list[tuple[float, str]]) -> Stretch:
    """Return some minutes with a wave of one sample's height at each (second, symbol)."""
    samples = np.array([round(s * RATE) for s, _ in beats], dtype=np.int64)
    time = np.arange(round(minutes * 60 * RATE))
    signal = 0.001 * np.sin(time / 40)
    for sample in samples:
        signal += np.exp(-0.5 * ((time - sample) / 3) ** 2)
    return Stretch(
        record="x",
        start=datetime(2000, 1, 1),
        first_minute=0,
        n_minutes=minutes,
        lead_in=0,
        signal_mv=signal,
        rate_hz=RATE,
        r_samples=samples,
        symbols=np.array([symbol for _, symbol in beats]),
        has_lead=True,
    )


BEATS = [(2 + 0.8 * i, "NNNVNLEFR/AN"[i % 12]) for i in range(140)]


def test_a_strip_is_the_beats_of_one_class_in_one_minute() -> None:
    strips = list(minute_strips(stretch(2, BEATS), SETTINGS, detect=False))
    expected = Counter(
        (int(second // 60), "positive" if symbol in "VE" else "negative")
        for second, symbol in BEATS
        if symbol in "VENLRej"
    )
    found = {(strip.start.minute, str(strip.label)): strip.n_detected for strip in strips}
    assert found == dict(expected)
    assert all((s.end - s.start).total_seconds() == 60 and s.start.second == 0 for s in strips)
    assert all(len(strip.beats) == strip.n_detected for strip in strips if strip.start.minute == 0)


def test_every_beat_has_its_peak_in_the_middle_of_the_41st_sample() -> None:
    for strip in minute_strips(stretch(2, BEATS), SETTINGS, detect=False):
        assert (np.abs(np.argmax(strip.beats, axis=1) - 40) <= 1).all()


def test_fewer_than_three_beats_of_a_class_are_no_strip() -> None:
    beats = [(1 + 0.8 * i, "V" if i in (5, 6) else "N") for i in range(60)]
    assert {s.label for s in minute_strips(stretch(1, beats), SETTINGS, detect=False)} == {Label.NEGATIVE}
    beats[7] = (beats[7][0], "E")
    assert {s.label for s in minute_strips(stretch(1, beats), SETTINGS, detect=False)} == {
        Label.NEGATIVE,
        Label.POSITIVE,
    }


def test_beats_whose_window_leaves_the_record_do_not_make_a_strip() -> None:
    beats = [(0.1, "V"), (0.2, "V"), (5, "V"), *((6 + 0.8 * i, "N") for i in range(60))]
    strips = {s.label: s for s in minute_strips(stretch(1, beats), SETTINGS, detect=False)}
    assert strips[Label.POSITIVE].exclusion == "too_few_beats"
    assert len(strips[Label.POSITIVE].beats) == 0
    assert strips[Label.NEGATIVE].exclusion is None


def test_a_record_without_the_lead_keeps_its_strips_with_the_reason() -> None:
    without = replace(stretch(1, BEATS), has_lead=False, signal_mv=np.empty(0))
    strips = list(minute_strips(without, SETTINGS, detect=False))
    assert {strip.exclusion for strip in strips} == {"lead_ii_absent"}
    assert len(strips) == 2


def test_detected_beats_take_the_name_of_the_annotation_beside_them() -> None:
    rng = np.random.default_rng(0)
    exact = stretch(2, BEATS)
    shifted = replace(exact, r_samples=exact.r_samples + rng.integers(-20, 21, len(BEATS)))
    strips = list(minute_strips(shifted, SETTINGS, detect=True))
    assert sum(len(strip.beats) for strip in strips) > 0.95 * sum(strip.n_detected for strip in strips)
    assert all((np.argmax(strip.beats, axis=1) == 40).all() for strip in strips)


@pytest.mark.parametrize(
    ("found", "reference", "pairs"),
    [
        ([1.0, 2.0], [1.1, 2.1], [(0, 0), (1, 1)]),
        ([1.0, 1.1], [1.05], [(0, 0)]),
        ([1.0], [1.16], []),
        ([1.0, 5.0], [], []),
        ([], [1.0], []),
        ([0.5], [0.45, 0.5], [(0, 1)]),
    ],
)
def test_pairs_are_one_to_one_and_close(
    found: list[float], reference: list[float], pairs: list[tuple[int, int]]
) -> None:
    a, b = pair_nearest(np.array(found), np.array(reference), 0.15)
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == pairs


def test_a_folder_without_annotated_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        MitbihSource(tmp_path / "mitdb")
    (tmp_path / "100.hea").write_text("100 1 360 10\n")
    with pytest.raises(SourceError, match="no annotated record"):
        MitbihSource(tmp_path)


@pytest.fixture(scope="module")
def mitdb(real_data: Path) -> Path:
    return real_data / "mitdb"


@pytest.mark.data
def test_an_unknown_record_is_named_with_those_present(mitdb: Path) -> None:
    with pytest.raises(SourceError, match=r"no annotated record 100, 999; present: 101, 102, .* 230"):
        MitbihSource(mitdb, ["101", "100", "999"])


@pytest.mark.data
def test_persons_and_leads_of_the_real_records(mitdb: Path) -> None:
    source = MitbihSource(mitdb)
    assert len(source.keys()) == 26
    assert source.counts() == {"patients": 26, "waveform_records": 26, "records_without_lead_ii": 2}
    person = source.person("114")
    assert (person.sex, person.age) == ("F", 72.0)
    without = list(annotated_strips(source, "102", SETTINGS, detect=False))
    assert {strip.exclusion for strip in without} == {"lead_ii_absent"}


@pytest.mark.data
def test_two_records_of_one_person_never_overlap_in_time(real_data: Path, tmp_path: Path) -> None:
    for name, of in (("201", "201"), ("202", "203")):  # 202 is not among the files: another stands in
        for end in (".hea", ".dat", ".atr"):
            content = (real_data / "mitdb" / f"{of}{end}").read_bytes()
            (tmp_path / f"{name}{end}").write_bytes(content.replace(of.encode(), name.encode(), 3))
    source = MitbihSource(tmp_path)
    assert source.keys() == ["201"]
    strips = list(annotated_strips(source, "201", SETTINGS, detect=False))
    days = {strip.record: {s.start.date() for s in strips if s.record == strip.record} for strip in strips}
    assert {name: str(*dates) for name, dates in days.items()} == {"201": "2000-01-01", "202": "2000-01-02"}


@pytest.mark.data
def test_reading_ten_minutes_at_a_time_gives_the_beats_of_the_whole_record(mitdb: Path) -> None:
    source = MitbihSource(mitdb, ["114"])
    strips = list(annotated_strips(source, "114", SETTINGS, detect=False))
    parts = list(source.stretches("114", margin_s(SETTINGS)))
    assert len(parts) == 4
    header = source._header("114")
    assert header.channel("MLII") == 1
    signal = source._signal("114", header, 1, 0, 650_000)
    peaks, symbols = source._annotations("114")
    whole, kept = beats_at(signal, 360.0, peaks, SETTINGS)
    ventricular = np.isin(symbols[kept], ["V", "E"])
    pieces = np.concatenate([part.beats for part in strips if part.label is Label.POSITIVE])
    counts = Counter(peaks[np.isin(symbols, ["V", "E"])] // 21_600)
    enough = np.array([counts[minute] >= 3 for minute in peaks[kept] // 21_600])
    np.testing.assert_allclose(pieces, whole[ventricular & enough], atol=1e-5)


@pytest.mark.data
def test_nine_records_of_the_training_set_have_eight_strips_of_each_label(mitdb: Path) -> None:
    source = MitbihSource(mitdb)
    enough = []
    keys = source.keys()
    for key in keys:
        found = Counter(
            s.label for s in annotated_strips(source, key, SETTINGS, detect=False) if not s.exclusion
        )
        if min(found[Label.POSITIVE], found[Label.NEGATIVE]) >= 8:
            enough.append(key)
    paced = {"102", "104", "107", "217"}  # no part of that set
    enough = [key for key in enough if key not in paced]
    assert enough == ["106", "116", "119", "201", "203", "207", "208", "215", "223"]

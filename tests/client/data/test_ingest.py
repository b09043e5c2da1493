"""From a hospital's files to rows and beats."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from client.data.beatstore import BeatStore
from client.data.cohort import freeze_cohort
from client.data.ingest import ingest
from client.data.sources.base import Stay
from client.data.sources.mimic3 import Mimic3Source
from client.data.sources.mimic3_waveforms import MatchedRecordings
from client.database.session import create_database, sessions
from client.database.tables import Draw, Patient, Run, Strip
from client.site import Site
from common.errors import ConfigurationError, SourceError, StorageError
from common.logs import PlainReporter, use_reporter

T0 = datetime(2150, 3, 1, 8, 0)
HOUR = timedelta(hours=1)
# Windows of two minutes keep the tests quick; nothing else differs from the defaults.
SHORT = {"strip": {"window_s": 120.0, "min_signal_s": 60.0, "min_beats": 30}}

Factory = sessionmaker[Session]
MakeSite = Callable[..., Site]


def fill(hospital: Any) -> None:
    """Write three patients: one with usable ECG, one with another lead, one with damaged files."""
    t0 = hospital.t0
    for subject in (20, 101, 3000):
        hospital.patient(subject)
    values = (6.1, 4.0, 5.3, 4.4, 3.1)
    for number, value in enumerate(values):
        hospital.draw(20, t0 + number * HOUR, value)
        ecg = hospital.heartbeats(130, seed=number)
        hospital.record(20, t0 + number * HOUR - timedelta(seconds=125), [hospital.segment(130, {"II": ecg})])
    hospital.draw(20, t0 + timedelta(minutes=12), 6.0)
    hospital.draw(20, t0 + 20 * HOUR, 4.2)
    hospital.draw(20, t0 + timedelta(days=90), 4.2, linked=False)
    hospital.draw(101, t0, 4.1)
    hospital.record(101, t0 - HOUR, [hospital.segment(3700, {"MCL1": np.zeros(3700 * 125)})])
    for number, value in enumerate((6.3, 4.3)):
        hospital.draw(3000, t0 + number * HOUR, value)
    damaged = hospital.record(3000, t0 - HOUR, [hospital.segment(3700, {"II": np.zeros(3700 * 125)})])
    next((hospital.waveforms / damaged).parent.glob("*_0001.dat")).unlink()
    later = t0 + HOUR - timedelta(minutes=3)
    unreadable = hospital.record(3000, later, [hospital.segment(200, {"II": hospital.heartbeats(200)})])
    (hospital.waveforms / f"{unreadable}.hea").write_text("nonsense\n")
    hospital.write()


def content(factory: Factory, site: Site) -> tuple[list[Any], bytes]:
    """Return all rows without what names the run, and all bytes of the beat store."""
    with factory() as session:
        rows: list[Any] = [
            {c.name: getattr(row, c.key) for c in table.__table__.columns if c.name != "run_id"}
            for table in (Patient, Draw, Strip)
            for row in session.scalars(select(table).order_by(table.id))
        ]
    return rows, BeatStore(site.beats).path.read_bytes()


def fresh(site: Site) -> Factory:
    return sessions(create_database(site.database_url))


def test_every_draw_has_a_label_or_a_reason_and_every_labelled_draw_one_strip(
    hospital: Any, make_site: MakeSite, session_factory: Factory
) -> None:
    fill(hospital)
    site = make_site(hospital.root, **SHORT)
    result = ingest(site, session_factory)
    assert result.draws == {
        "gap": 1,
        "low_potassium": 1,
        "merged_into": 1,
        "negative": 5,
        "not_in_stay": 1,
        "positive": 2,
    }
    assert result.strips == {
        "gap": {"accepted": 1},
        "negative": {"accepted": 2, "lead_ii_absent": 1, "no_waveform": 2},
        "positive": {"accepted": 1, "unreadable_segment": 1},
    }
    assert (result.unreadable_segments, result.unreadable_records) == (1, 1)
    with session_factory() as session:
        draws = session.scalars(select(Draw)).all()
        assert len(draws) == len(hospital.labs)
        assert all((draw.label is None) != (draw.exclusion is None) for draw in draws)
        labelled = {draw.id: draw for draw in draws if draw.label is not None}
        strips = session.scalars(select(Strip).order_by(Strip.id)).all()
        assert {strip.draw_id for strip in strips} == set(labelled)
        (merged,) = [draw for draw in draws if draw.exclusion == "merged_into"]
        assert labelled[merged.merged_into_id or 0].specimen_time == T0
        for strip in strips:
            draw = labelled[strip.draw_id or 0]
            assert (strip.label, strip.value, strip.end) == (draw.label, draw.value, draw.specimen_time)
            assert strip.end - strip.start == timedelta(minutes=2)
            assert (strip.exclusion is None) == (strip.beat_offset is not None) == (strip.n_beats > 0)


def test_strips_fill_the_beat_store_without_gap_or_overlap(
    hospital: Any, make_site: MakeSite, session_factory: Factory
) -> None:
    fill(hospital)
    site = make_site(hospital.root, **SHORT)
    result = ingest(site, session_factory)
    store = BeatStore(site.beats)
    with session_factory() as session:
        strips = session.scalars(select(Strip).where(Strip.beat_offset.is_not(None)).order_by(Strip.id)).all()
    offset = 0
    for strip in strips:
        assert strip.beat_offset == offset
        beats = store.read(offset, strip.n_beats)
        assert np.abs(np.argmax(beats.mean(axis=0)) - 40) <= 1
        assert 0.7 < beats[:, 40].mean() < 1.1
        # 120 s at 78 beats a minute; those cut by the edges of the window are no beats.
        assert 148 <= strip.n_beats <= strip.n_detected <= 160
        assert strip.heart_rate_bpm == pytest.approx(60 / 0.77, rel=0.03)
        assert strip.quality["heart_rate_bpm"] == pytest.approx(strip.heart_rate_bpm, abs=0.1)
        offset += strip.n_beats
    assert offset == len(store) == result.beats


def test_the_run_says_what_was_read(hospital: Any, make_site: MakeSite, session_factory: Factory) -> None:
    fill(hospital)
    site = make_site(hospital.root, **SHORT)
    result = ingest(site, session_factory)
    with session_factory() as session:
        run = session.get_one(Run, result.run_id)
    assert (run.kind, run.status, run.settings["strip"]["window_s"]) == ("ingest", "finished", 120.0)
    source = Mimic3Source(hospital.clinical, hospital.waveforms)
    assert run.data_fingerprint == source.fingerprint()
    assert run.details["draws"] == result.draws
    assert run.details["strips"] == result.strips
    assert run.details["files"]["patients_with_waveforms"] == 3
    assert run.details["hours"] == pytest.approx(4 * 120 / 3600, abs=0.001)
    assert "3 patients (3 new), 11 draws, 8 strips" in result.sentence()
    hospital.draw(101, T0 + 9 * HOUR, 4.1)
    hospital.write()
    assert Mimic3Source(hospital.clinical, hospital.waveforms).fingerprint() != run.data_fingerprint


def test_a_second_ingest_changes_nothing(
    hospital: Any, make_site: MakeSite, session_factory: Factory
) -> None:
    fill(hospital)
    site = make_site(hospital.root, **SHORT)
    first = ingest(site, session_factory)
    before = content(session_factory, site)
    second = ingest(site, session_factory)
    assert content(session_factory, site) == before
    assert (second.new_patients, second.strips) == (0, first.strips)
    assert (second.unreadable_segments, second.unreadable_records) == (1, 1)


@pytest.mark.parametrize("patient", [0, 1, 2])
def test_an_interrupted_ingest_goes_on_and_ends_with_the_same_rows_and_bytes(
    hospital: Any, make_site: MakeSite, monkeypatch: pytest.MonkeyPatch, patient: int
) -> None:
    fill(hospital)
    whole, stopped = (make_site(hospital.root, name=name, **SHORT) for name in ("whole", "stopped"))
    expected = fresh(whole)
    ingest(whole, expected)
    factory, opened = fresh(stopped), 0
    lead_ii = MatchedRecordings.lead_ii

    def stop(self: MatchedRecordings, start: datetime, end: datetime) -> Any:
        nonlocal opened
        opened += 1
        if opened == (4, 6, 8)[patient]:
            raise KeyboardInterrupt
        return lead_ii(self, start, end)

    monkeypatch.setattr(MatchedRecordings, "lead_ii", stop)
    with pytest.raises(KeyboardInterrupt):
        ingest(stopped, factory)
    monkeypatch.undo()
    with factory() as session:
        assert len(session.scalars(select(Patient)).all()) == patient
        assert session.scalars(select(Run.status)).all() == ["interrupted"]
    with BeatStore(stopped.beats).path.open("ab") as file:  # as a killed process leaves it
        file.write(b"x" * 1000)
    result = ingest(stopped, factory)
    assert result.new_patients == 3 - patient
    assert content(factory, stopped) == content(expected, whole)
    assert (result.unreadable_segments, result.unreadable_records) == (1, 1)


def test_a_full_disk_is_said_and_the_next_ingest_goes_on(
    hospital: Any, make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(hospital)
    whole, full = (make_site(hospital.root, name=name, **SHORT) for name in ("whole", "full"))
    expected, factory = fresh(whole), fresh(full)
    ingest(whole, expected)
    written = 0

    def write(handle: int, data: bytes, place: int) -> int:
        nonlocal written
        if written > 100_000:
            raise OSError(28, "No space left on device")
        os.lseek(handle, place, os.SEEK_SET)
        n = os.write(handle, data)
        written += n
        return n

    monkeypatch.setattr(os, "pwrite", write)
    with pytest.raises(StorageError, match="disk full while writing"):
        ingest(full, factory)
    monkeypatch.undo()
    with factory() as session:
        assert session.scalars(select(Run.status)).all() == ["failed"]
        assert session.scalars(select(Strip)).all() == []
    assert BeatStore(full.beats).path.stat().st_size == 0
    ingest(full, factory)
    assert content(factory, full) == content(expected, whole)


def test_strips_made_with_other_settings_are_not_mixed(hospital: Any, make_site: MakeSite) -> None:
    fill(hospital)
    site = make_site(hospital.root, **SHORT)
    factory = fresh(site)
    ingest(site, factory)
    other = make_site(hospital.root, strip={**SHORT["strip"], "min_beats": 31})
    with pytest.raises(ConfigurationError, match=r"strip\.min_beats was 30 and is now 31"):
        freeze_cohort(other, factory)
    with pytest.raises(ConfigurationError, match=r"strip\.min_beats was 30 and is now 31.*fresh site folder"):
        ingest(other, factory)
    # What does not decide a strip may change.
    ingest(make_site(hospital.root, **SHORT, seed=5, training={"local_epochs": 2}), factory)


def test_beats_of_another_database_are_never_cut(hospital: Any, make_site: MakeSite) -> None:
    fill(hospital)
    site = make_site(hospital.root, **SHORT)
    ingest(site, fresh(site))
    size = BeatStore(site.beats).path.stat().st_size
    other = sessions(create_database(f"sqlite:///{site.folder / 'other.sqlite'}"))
    with pytest.raises(StorageError, match="beats of another database"):
        ingest(site, other)
    assert BeatStore(site.beats).path.stat().st_size == size


def test_neither_progress_nor_log_names_a_patient_or_a_date(hospital: Any, make_site: MakeSite) -> None:
    fill(hospital)
    site = make_site(hospital.root, **SHORT)
    shown = io.StringIO()
    use_reporter(PlainReporter(shown, every_s=0.0))
    try:
        ingest(site, fresh(site))
    finally:
        use_reporter(None)
    text = shown.getvalue() + site.log.read_text().split("WARNING ", 1)[1]
    assert "(3 patients)" in text
    assert "the record is left out" in text
    for word in ("3000", "p0", "2150", "101"):
        assert word not in text.replace(str(site.folder), "")


def test_a_century_later_the_beats_are_the_same(hospital: Any, make_site: MakeSite, tmp_path: Path) -> None:
    fill(hospital)
    later = type(hospital)(tmp_path / "later", t0=datetime(2896, 10, 10, 8, 0))
    fill(later)
    beats = []
    for name, data in (("now", hospital), ("then", later)):
        site = make_site(data.root, name=name, **SHORT)
        ingest(site, fresh(site))
        beats.append(BeatStore(site.beats).path.read_bytes())
    assert beats[0] == beats[1]
    assert len(beats[0]) > 100_000


def test_memory_does_not_grow_with_the_length_of_a_record(hospital: Any) -> None:
    peaks = []
    for subject, hours in ((20, 1), (21, 24)):
        parts = [hospital.segment(hours * 1800, {"II": np.zeros(hours * 1800 * 125)}) for _ in range(2)]
        name = hospital.record(subject, T0, parts)
        patient = MatchedRecordings(hospital.waveforms, [name], [Stay(T0, T0)])
        middle = T0 + timedelta(minutes=30 * hours)
        tracemalloc.start()
        window = patient.lead_ii(middle - timedelta(minutes=5), middle + timedelta(minutes=5))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert np.isfinite(window.signal_mv).all()
    assert peaks[1] < 1.2 * peaks[0]


def test_ingest_does_not_import_torch(hospital: Any, make_site: MakeSite) -> None:
    fill(hospital)
    site = make_site(hospital.root, **SHORT)
    (site.folder / "site.toml").write_text(
        f'[site]\nname = "north"\n[source]\nfolder = {json.dumps(str(hospital.root))}\n[settings.strip]\n'
        "window_s = 120.0\nmin_signal_s = 60.0\nmin_beats = 30\n"
    )
    program = (
        "import sys; from pathlib import Path; from client.site import load_site\n"
        "from client.data.ingest import ingest\n"
        "from client.database.session import create_database, sessions\n"
        "site = load_site(Path(sys.argv[1]))\n"
        "result = ingest(site, sessions(create_database(site.database_url)))\n"
        "print(result.new_patients, 'torch' in sys.modules, 'flwr' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(site.folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["3", "False", "False"]


def test_bad_roots_are_said_before_anything_is_written(hospital: Any, make_site: MakeSite) -> None:
    site = make_site(hospital.root / "nowhere")
    factory = fresh(site)
    with pytest.raises(SourceError, match=r"data root .* does not exist"):
        ingest(site, factory)
    hospital.patient(20)
    hospital.draw(20, T0, 4.0)
    hospital.write()
    with pytest.raises(SourceError, match="no waveform record"):
        ingest(make_site(hospital.root), factory)
    with pytest.raises(ConfigurationError, match="belongs to task 'ventricular'"):
        ingest(make_site(hospital.root, source={"kind": "mitbih"}), factory)
    assert not site.beats.exists()


@pytest.mark.data
@pytest.mark.parametrize("detect", [False, True])
def test_annotated_recordings_become_strips_without_draws(
    real_data: Path, make_site: MakeSite, detect: bool
) -> None:
    chosen = {"records": ("119", "102", "106"), "detect": detect}
    site = make_site(real_data / "mitdb", "mitbih", source=chosen)
    factory = fresh(site)
    result = ingest(site, factory)
    with factory() as session:
        strips = session.scalars(select(Strip)).all()
        keys = session.scalars(select(Patient.source_key).order_by(Patient.id)).all()
        assert session.scalars(select(Draw)).all() == []
    assert keys == ["102", "106", "119"]
    assert {strip.draw_id for strip in strips} == {strip.value for strip in strips} == {None}
    assert result.draws == {}
    assert result.strips["positive"]["accepted"] >= 16
    assert {s.exclusion for s in strips if s.record == "102"} == {"lead_ii_absent"}
    # Two half-hour records; minutes with both classes count once.
    assert 0.9 < result.hours <= 1.01
    # Of 3,800 beats in 106 and 119, nearly all are N or V.
    assert 3800 < result.beats < 4050
    with pytest.raises(ConfigurationError, match="detect was"):
        ingest(make_site(real_data / "mitdb", "mitbih", source={**chosen, "detect": not detect}), factory)

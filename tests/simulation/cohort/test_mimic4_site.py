"""A site in the MIMIC-IV layout holds what the same plans hold in the MIMIC-III layout."""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import wfdb
from sqlalchemy import select

from client.data.beatstore import BeatStore
from client.data.hemolysis import reported
from client.data.ingest import ingest
from client.data.sources.mimic3 import Mimic3Source
from client.data.sources.mimic4 import Mimic4Source
from client.database.session import create_database, sessions
from client.database.tables import Draw, Patient, Strip
from client.site import Site, SourceSettings
from common.config import make_settings
from common.errors import ConfigurationError
from simulation.cohort.build import sites_in_layout
from simulation.cohort.device import INVALID, Channel, Segment
from simulation.cohort.labs import SERUM
from simulation.cohort.layouts import in_layout
from simulation.cohort.mimic4_files import framed, write_flac
from simulation.cohort.mimic4_rows import COLUMNS, SUBJECTS
from simulation.cohort.profile import PROFILES, CohortSizes, LayoutName, SiteProfile
from simulation.cohort.site import plan_site, write_site
from simulation.cohort.stay import PatientPlan

SIZES = CohortSizes(
    patients=5, personal_patients=1, personal_strips=2, positive_share=0.75, most_draws=2, window_hours=0.2
)
SEED = 5
#: What became of each draw, by patient, time and item: label or reason, hemolysis, place of its beats.
Found = dict[tuple[int, datetime, str], tuple[Any, Any, Any]]
#: Monitors of 249.89 Hz and 16 bits, as MIMIC-IV has them, and a laboratory whose tubes break often.
BASE = PROFILES["river"].model_copy(
    update={
        "laboratory": PROFILES["river"].laboratory.model_copy(
            update={"hemolysed_share": 0.25, "hemolysed_text_share": 0.05}
        )
    }
)


@dataclass(frozen=True)
class Both:
    """One set of plans in two layouts."""

    earlier: Path
    later: Path
    truth: Path
    plans: tuple[PatientPlan, ...]

    @property
    def pairs(self) -> Iterator[tuple[str, str]]:
        for plan in self.plans:
            yield str(plan.patient.subject_id), str(plan.patient.subject_id + SUBJECTS)


def write(folder: Path, layout: LayoutName, truth: Path | None = None) -> tuple[Path, SiteProfile]:
    profile = in_layout(BASE, layout)
    write_site(folder, profile, SIZES, SEED, truth=truth)
    return folder, profile


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    root = tmp_path_factory.mktemp("layouts")
    earlier, _ = write(root / "mimic3", "mimic3")
    later, profile = write(root / "mimic4", "mimic4", root / "truth")
    return Both(earlier, later, root / "truth", tuple(plan_site(profile, SIZES, SEED)))


@pytest.fixture(scope="module")
def sources(both: Both) -> tuple[Mimic3Source, Mimic4Source]:
    return (
        Mimic3Source(both.earlier / "clinical", both.earlier / "waveforms"),
        Mimic4Source(both.later / "clinical", both.later / "waveforms"),
    )


def rows(folder: Path, table: str) -> list[dict[str, str]]:
    text = gzip.decompress((folder / "clinical" / f"{table}.csv.gz").read_bytes()).decode()
    return list(csv.DictReader(text.splitlines()))


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# --- the same plans, the same patients ------------------------------------------------------------------


def test_the_same_plans_and_seed_give_the_same_bytes(both: Both, tmp_path: Path) -> None:
    again, _ = write(tmp_path / "again", "mimic4")
    assert digests(again) == digests(both.later)


def test_every_draw_is_the_same_in_both_layouts(
    both: Both, sources: tuple[Mimic3Source, Mimic4Source]
) -> None:
    earlier, later = sources
    assert sorted(later.keys()) == sorted(new for _, new in both.pairs)
    for old, new in both.pairs:
        theirs, ours = earlier.measurements(old), later.measurements(new)
        for a, b in zip(theirs, ours, strict=True):
            assert (a.specimen_time, a.number, a.unit, a.item, a.specimen, a.admitted, a.flag) == (
                b.specimen_time,
                b.number,
                b.unit,
                b.item,
                b.specimen,
                b.admitted,
                b.flag,
            )
            assert b.text == ("___" if a.text == "HEMOLYZED" else a.text)
        assert earlier.stays(old) == later.stays(new)


def test_people_are_the_same_but_for_what_an_edition_rounds(
    both: Both, sources: tuple[Mimic3Source, Mimic4Source]
) -> None:
    for old, new in both.pairs:
        a, b = sources[0].person(old), sources[1].person(new)
        assert (a.sex, a.ethnicity) == (b.sex, b.ethnicity)
        assert a.age is not None
        assert b.age == pytest.approx(a.age, abs=2.0)  # whole years, counted by the calendar
        assert (a.height_cm is None) == (b.height_cm is None)
        if a.height_cm is not None:
            assert b.height_cm == pytest.approx(a.height_cm, abs=1.3)  # half an inch


def test_windows_hold_the_same_signal_at_the_same_time(
    both: Both, sources: tuple[Mimic3Source, Mimic4Source]
) -> None:
    compared = 0
    for old, new in both.pairs:
        theirs, ours = sources[0].opener(old)(), sources[1].opener(new)()
        for row in sources[1].measurements(new):
            start = row.specimen_time - timedelta(minutes=10)
            a, b = theirs.lead_ii(start, row.specimen_time), ours.lead_ii(start, row.specimen_time)
            assert a.exclusion == b.exclusion
            assert not a.damaged
            if a.exclusion is None:
                assert b.rate_hz == pytest.approx(249.89)
                there = np.isfinite(b.signal_mv)
                np.testing.assert_allclose(b.signal_mv[there], a.signal_mv[there], atol=1e-9)
                # Samples of a frame that two segments share belong to the first of them.
                assert np.isfinite(a.signal_mv).sum() - there.sum() <= 3 * len(b.pieces)
                compared += 1
        assert not ours.unreadable_records
    assert compared >= 8


# --- hemolysis ------------------------------------------------------------------------------------------


def test_the_laboratory_reports_hemolysis_of_serum_and_of_nothing_else(
    both: Both, sources: tuple[Mimic3Source, Mimic4Source]
) -> None:
    """A blood gas analyzer cannot see it; what the laboratory does not write is not known."""
    said: Counter[tuple[bool, bool]] = Counter()
    for plan, (_, new) in zip(both.plans, both.pairs, strict=True):
        truth = {(plan.charted(draw), str(draw.item)): draw for draw in (*plan.outside, *plan.draws)}
        for row in sources[1].measurements(new):
            draw = truth[row.specimen_time, row.item]
            broken = draw.hemolysed and (draw.item == SERUM or draw.value is None)
            said[broken, row.hemolysis == "reported"] += 1
    assert said[True, True] >= 5
    assert said[False, False] >= 20
    assert said[True, False] == said[False, True] == 0


def test_comments_deny_hemolysis_too(both: Both) -> None:
    comments = Counter(row["comments"] for row in rows(both.later, "hosp/labevents"))
    about = {text for text in comments if "HEMOLY" in text}
    assert any(reported(text) for text in about)
    assert {
        row["value"] for row in rows(both.later, "hosp/labevents") if "NOT PERFORMED" in row["comments"]
    } <= {"___"}


# --- ingest ---------------------------------------------------------------------------------------------


def ingested(folder: Path, data: Path, kind: str) -> tuple[Found, np.ndarray]:
    """Ingest a site; return what became of each draw, with the beats of those that have some."""
    folder.mkdir()
    site = Site(
        name="river",
        folder=folder,
        settings=make_settings("hyperkalemia"),
        source=SourceSettings.model_validate({"kind": kind, "folder": str(data)}),
        database_url=f"sqlite:///{folder / 'site.sqlite'}",
    )
    factory = sessions(create_database(site.database_url))
    ingest(site, factory)
    with factory() as session:
        found: Found = {}
        query = select(Draw, Patient, Strip).join(Patient, Draw.patient_id == Patient.id)
        query = query.outerjoin(Strip, Strip.draw_id == Draw.id).order_by(Draw.id)
        for draw, patient, strip in session.execute(query):
            key = (int(patient.source_key) % SUBJECTS, draw.specimen_time, draw.item)
            accepted = strip is not None and strip.exclusion is None
            found.setdefault(
                key,
                (
                    draw.label or draw.exclusion,
                    draw.hemolysis,
                    (strip.beat_offset, strip.n_beats) if accepted else strip and strip.exclusion,
                ),
            )
    with BeatStore(site.beats) as store:
        return found, np.array(store.read(0, len(store)))


def test_an_ingest_of_either_layout_finds_the_same_labels_and_nearly_the_same_beats(
    both: Both, tmp_path: Path
) -> None:
    theirs, beats3 = ingested(tmp_path / "three", both.earlier, "mimic3")
    ours, beats4 = ingested(tmp_path / "four", both.later, "mimic4")
    assert theirs.keys() == ours.keys()
    strips = excluded = 0
    for key, (outcome, hemolysis, strip) in ours.items():
        other, _, other_strip = theirs[key]
        if hemolysis == "reported":
            assert outcome in ("hemolyzed", "no_numeric_value", "implausible_value")
            excluded += outcome == "hemolyzed"
        elif outcome == other and isinstance(strip, tuple):
            assert isinstance(other_strip, tuple)
            (at4, n4), (at3, n3) = strip, other_strip
            assert abs(n4 - n3) <= 2
            mean3, mean4 = beats3[at3 : at3 + n3].mean(axis=0), beats4[at4 : at4 + n4].mean(axis=0)
            np.testing.assert_allclose(mean4, mean3, atol=0.01)  # mV
            strips += 1
    assert strips >= 3
    assert excluded >= 3
    # A hemolyzed neighbour speaks for nobody: what it changed in MIMIC-III is only near such a draw.
    reported_at = [(key[0], key[1]) for key, (_, hemolysis, _) in ours.items() if hemolysis == "reported"]
    for key, (outcome, hemolysis, _) in ours.items():
        if hemolysis is None and outcome != theirs[key][0]:
            near = (abs(when - key[1]) for subject, when in reported_at if subject == key[0])
            assert min(near) < timedelta(minutes=30)


# --- files ----------------------------------------------------------------------------------------------


def test_the_wfdb_package_reads_the_records_and_agrees(both: Both) -> None:
    record = sorted((both.later / "waveforms" / "waves").glob("p*/p*/*/*_0000.hea"))[0]
    name = str(record).removesuffix("_0000.hea")
    whole = wfdb.rdrecord(name, smooth_frames=False, m2s=True, channel_names=["II"])
    assert whole.fs == pytest.approx(62.4725)
    assert whole.counter_freq == pytest.approx(999.56)
    assert whole.samps_per_frame == [4]
    root = both.later / "waveforms"
    source = Mimic4Source(both.later / "clinical", root)
    (key,) = [str(int(part[1:])) for part in record.parts if part.startswith("p10") and len(part) == 9]
    start, n = whole.base_datetime, 30_000
    signal = whole.e_p_signal[0]
    first = int(np.flatnonzero(np.isfinite(signal))[0]) // 1000 * 1000
    begin = start + timedelta(seconds=(first - 0.5) / 249.89)
    window = source.opener(key)().lead_ii(begin, begin + timedelta(seconds=n / 249.89))
    np.testing.assert_allclose(window.signal_mv[: n - 2], signal[first : first + n - 2], atol=1e-9)


def test_tables_have_the_columns_of_the_edition_and_numbered_lab_rows(both: Both) -> None:
    for table, columns in COLUMNS.items():
        path = both.later / "clinical" / f"{table}.csv.gz"
        assert gzip.decompress(path.read_bytes()).decode().splitlines()[0] == ",".join(columns)
    labs = rows(both.later, "hosp/labevents")
    assert [int(row["labevent_id"]) for row in labs] == list(range(1, len(labs) + 1))
    assert all(row["storetime"] > row["charttime"] for row in labs)
    (first, *_) = rows(both.later, "hosp/patients")
    assert 10_000_000 < int(first["subject_id"]) < 20_000_000
    specimens: dict[str, set[str]] = {}
    for row in labs:
        specimens.setdefault(row["specimen_id"], set()).add(row["charttime"])
    assert all(len(times) == 1 for times in specimens.values())


def test_the_truth_names_the_records_of_the_layout(both: Both) -> None:
    draws = list(csv.DictReader((both.truth / "draws.csv").read_text().splitlines()))
    named = {row["record"] for row in draws if row["record"]}
    assert named
    for name in named:
        assert (both.later / "waveforms" / f"{name}.hea").is_file()
    assert {row["subject_id"] for row in draws} == {new for _, new in both.pairs}


def test_the_lists_name_every_record(both: Both) -> None:
    root = both.later / "waveforms"
    listed = {
        f"{folder}{record}"
        for folder in (root / "RECORDS").read_text().splitlines()
        for record in (root / folder / "RECORDS").read_text().splitlines()
    }
    there = {path.relative_to(root).as_posix() for path in root.glob("waves/p*/p*/*/*_0000.hea")}
    assert listed == {name.removesuffix("_0000.hea") for name in there}


# --- frames ---------------------------------------------------------------------------------------------


def segment(start: int, n: int) -> Segment:
    return Segment(start, (Channel("II", "mV", 200, 0, np.arange(1, n + 1, dtype=np.int16)),))


@pytest.mark.parametrize(
    ("start", "n", "free", "frame", "samples"),
    [
        (8, 4, 0, 2, [1, 2, 3, 4]),
        (9, 2, 0, 2, [INVALID[16], 1, 2, INVALID[16]]),
        (8, 5, 0, 2, [1, 2, 3, 4, 5, *[INVALID[16]] * 3]),
        (6, 6, 2, 2, [3, 4, 5, 6]),  # the frame of the first two samples is taken
        (7, 2, 2, 2, [2, *[INVALID[16]] * 3]),
    ],
)
def test_a_segment_lies_on_the_grid_of_frames_and_no_sample_moves(
    start: int, n: int, free: int, frame: int, samples: list[int]
) -> None:
    found = framed(segment(start, n), free)
    assert found is not None
    assert (found[0], found[1].start, found[1].channels[0].samples.tolist()) == (frame, 4 * frame, samples)


def test_a_segment_inside_a_taken_frame_is_left_out() -> None:
    assert framed(segment(5, 3), 2) is None


def test_flac_files_keep_every_number(tmp_path: Path) -> None:
    signals = [np.array([-32768, -1, 0, 1, 32767], np.int16), np.arange(5, dtype=np.int16)]
    write_flac(tmp_path / "x.dat", signals)
    read, _ = soundfile.read(tmp_path / "x.dat", dtype="int16", always_2d=True)
    np.testing.assert_array_equal(read, np.stack(signals, axis=1))


# --- profiles -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(PROFILES))
def test_every_built_in_site_can_be_written_in_this_layout(name: str) -> None:
    profile = in_layout(PROFILES[name], "mimic4")
    assert (profile.files.layout, profile.monitor.rate_hz, profile.monitor.bits) == ("mimic4", 249.89, 16)
    assert not profile.files.upper_case
    assert profile.patients == PROFILES[name].patients
    assert profile.laboratory == PROFILES[name].laboratory


def test_a_site_of_this_layout_with_other_monitors_is_refused() -> None:
    values = PROFILES["north"].model_dump(mode="json")
    values["files"]["layout"] = "mimic4"
    with pytest.raises(ValueError, match=r"'mimic4' stores monitor.rate_hz = 249\.89, not 125"):
        SiteProfile.model_validate(values)


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="unknown --layout 'mimic5'; allowed: mimic3, mimic4"):
        sites_in_layout([BASE], "mimic5")

"""The waveform folder has the matched subset's layout; the reference library and our own reader read it."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import wfdb

from client.data.exclusion import Exclusion
from client.data.sources.base import Stay
from client.data.sources.mimic3_waveforms import WaveformIndex
from simulation.cohort import device
from simulation.cohort.heart import heart_of, lead_signal
from simulation.cohort.profile import PROFILES, CohortSizes
from simulation.cohort.recording import Record, records_of, segments_of, signal_of, wiring_of
from simulation.cohort.stay import PatientPlan, Stretch, plan_patient
from simulation.cohort.waveforms import (
    checksum,
    patient_folder,
    record_name,
    record_path,
    write_indexes,
    write_waveforms,
)

SUBJECT, NUMBER = 878, 12
SIZES = CohortSizes(patients=1, personal_patients=1, personal_strips=2, window_hours=0.04)


@dataclass(frozen=True)
class Written:
    """One patient's waveforms and the plan behind them."""

    root: Path
    plan: PatientPlan
    records: tuple[Record, ...]
    paths: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return self.root / patient_folder(self.plan.patient.subject_id)

    def segments(self) -> Iterator[tuple[str, Record, Stretch, list[device.Segment]]]:
        """Yield the segments of every stretch again, as they were made."""
        for path, record in zip(self.paths, self.records, strict=True):
            wiring = wiring_of(self.plan, record)
            for stretch in record.stretches:
                heart = heart_of(self.plan, stretch)
                yield path, record, stretch, segments_of(self.plan, record, stretch, heart, wiring)


def plan_of(name: str, seed: int = 3, sizes: CohortSizes = SIZES) -> PatientPlan:
    """Plan a patient of a site; lead II is absent in one stretch."""
    plan = plan_patient(PROFILES[name], sizes, seed, SUBJECT, NUMBER, "personal")
    stretches = tuple(replace(s, noisy=False, lead_ii=s.index != 1) for s in plan.stretches)
    return replace(plan, stretches=stretches)


def write(root: Path, plan: PatientPlan) -> Written:
    paths = write_waveforms(root, plan, NUMBER)
    write_indexes(root, paths)
    return Written(root, plan, records_of(plan), tuple(paths))


@pytest.fixture(scope="module", params=list(PROFILES))
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write(tmp_path_factory.mktemp(request.param), plan_of(request.param))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> list[Written]:
    """Several patients of the site whose files are those of the real subset."""
    return [write(tmp_path_factory.mktemp(f"north{seed}"), plan_of("north", seed)) for seed in range(4, 9)]


# Every line of a header, as the real files have them.
CLOCK = r"[ \d]\d:\d\d:\d\d(\.\d{3})?"
PATTERNS = {
    "master": rf"(p\d{{6}}-\d{{4}}(-\d\d){{4}})/\d+ \d+ 125 \d+ {CLOCK} \d\d/\d\d/\d{{4}}",
    "layout reference": r"\d{7}_layout 0",
    "segment reference": r"\d{7}_\d{4} \d+",
    "gap": r"~ \d+",
    "comment": r"# Location: \w+",
    "layout": rf"\d{{7}}_layout \d+ 125 0 {CLOCK}",
    "layout signal": r"~ 0 [\d.]+(\(-?\d+\))?/\w+ 8 0 -128 0 0 \w+",
    "segment": rf"\d{{7}}_\d{{4}} \d+ 125 \d+ {CLOCK}",
    "segment signal": r"\d{7}_\d{4}\.dat 80 [\d.]+(\(-?\d+\))?/\w+ 8 0 -?\d+ -?\d+ 0 \w+",
}


def kinds_of_lines(folder: Path) -> set[str]:
    """Kinds of the lines of all waveform headers; every line must be of a kind."""
    seen = set()
    for path in (p for p in folder.rglob("*.hea") if not p.stem.endswith("n")):
        text = path.read_bytes().decode("ascii")
        assert text.endswith("\r\n")
        for line in text.removesuffix("\r\n").split("\r\n"):
            kinds = [name for name, pattern in PATTERNS.items() if re.fullmatch(pattern, line)]
            assert kinds, line
            seen |= set(kinds)
    return seen


def test_headers_have_only_lines_a_real_header_has(many: list[Written]) -> None:
    assert set().union(*(kinds_of_lines(one.folder) for one in many)) == set(PATTERNS)


@pytest.mark.data
def test_the_patterns_are_those_of_the_real_headers(real_data: Path) -> None:
    assert kinds_of_lines(real_data / "mimic_wfdb" / "p000878") == set(PATTERNS)


@pytest.mark.data
def test_headers_agree_with_real_ones_field_by_field(real_data: Path, many: list[Written]) -> None:
    """What is the same in every real header is the same here; what differs has the same form."""
    real = real_data / "mimic_wfdb" / "p000878"
    theirs = wfdb.rdheader(str(real / "p000878-2137-10-26-16-57"))
    for one in many:
        ours = wfdb.rdheader(str(one.root / one.paths[0]))
        for name in ("fs", "counter_freq", "base_counter", "layout"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert ours.seg_name[0].endswith("_layout")
        assert ours.seg_len[0] == theirs.seg_len[0] == 0
        assert ours.comments[0].startswith("Location: ")
        our_layout = wfdb.rdheader(str(one.folder / ours.seg_name[0]))
        their_layout = wfdb.rdheader(str(real / theirs.seg_name[0]))
        for ours_or_theirs in (our_layout, their_layout):
            assert set(ours_or_theirs.file_name) == {"~"}
            assert set(ours_or_theirs.fmt) == {"0"}
            assert ours_or_theirs.sig_len == 0
        for name in ("adc_res", "adc_zero", "init_value", "checksum", "block_size"):
            assert set(getattr(our_layout, name)) == set(getattr(their_layout, name)), name
        our_segment = wfdb.rdheader(str(one.folder / ours.seg_name[2]))
        their_segment = wfdb.rdheader(str(real / "3269321_0002"))
        for name in ("fmt", "adc_res", "adc_zero", "block_size", "byte_offset", "samps_per_frame", "skew"):
            assert set(getattr(our_segment, name)) == set(getattr(their_segment, name)), name
        assert our_segment.base_date is their_segment.base_date is None


@pytest.mark.data
def test_numerics_headers_look_like_the_real_ones(real_data: Path, many: list[Written]) -> None:
    first = r"\w[\d-]+n \d+ 0\.0166666666667/125 \d+ +[\d:]+\.\d{3} \d\d/\d\d/\d{4}"
    signal = r"\d{7}n\.dat 16 \d+/[\w%]+ 16 0 -?\d+ -?\d+ 0 \w+"
    for folder in (real_data / "mimic_wfdb" / "s00001", *(one.folder for one in many)):
        paths = list(folder.rglob("*n.hea"))
        assert paths
        for path in paths:
            head, *rest = path.read_text().splitlines()
            assert re.fullmatch(first, head)
            assert all(re.fullmatch(signal, line) or line.startswith("# ") for line in rest)


def test_index_files_name_what_is_there(written: Written) -> None:
    names = (written.root / "RECORDS-waveforms").read_text().splitlines()
    assert names == sorted(written.paths)
    assert all((written.root / f"{name}.hea").is_file() for name in names)
    assert (written.root / "RECORDS").read_text() == f"{patient_folder(SUBJECT)}/\n"
    numerics = (written.root / "RECORDS-numerics").read_text().splitlines()
    assert numerics == [f"{name}n" for name in names]
    assert all((written.root / f"{name}.hea").is_file() for name in numerics)


def test_a_folder_holds_headers_and_signals_and_nothing_else(written: Written) -> None:
    headers = {path.stem for path in written.folder.glob("*.hea")}
    signals = {path.stem for path in written.folder.glob("*.dat")}
    names = {path.rpartition("/")[2] for path in written.paths}
    layouts = {stem for stem in headers if stem.endswith("_layout")}
    assert {path.suffix for path in written.folder.iterdir()} == {".hea", ".dat"}
    assert headers - signals == names | {f"{name}n" for name in names} | layouts
    # A numerics signal is named by number, its header by date.
    assert signals - headers == {layout.replace("_layout", "n") for layout in layouts}


def test_gaps_and_segments_add_up_to_the_record(written: Written) -> None:
    """Also at 249.89 Hz, where a second is no whole number of samples."""
    rate = written.plan.profile.monitor.rate_hz
    for path, record in zip(written.paths, written.records, strict=True):
        header = wfdb.rdheader(str(written.root / path), rd_segments=True)
        assert header.layout == "variable"
        assert header.fs == rate
        assert header.base_datetime == record.start
        assert path.endswith(record_name(SUBJECT, header.base_datetime))
        assert sum(header.seg_len) == header.sig_len
        assert header.sig_len / rate == pytest.approx(record.seconds, abs=1 / rate)
        first = 0
        for name, length in zip(header.seg_name, header.seg_len, strict=True):
            if name != "~" and not name.endswith("_layout"):
                segment = wfdb.rdheader(str(written.folder / name))
                assert segment.fs == rate
                assert segment.sig_len == length
                # Segments give the time of day; a record may go on past midnight.
                expected = (header.base_datetime + timedelta(seconds=first / rate)).time()
                clock = [t.hour * 3600 + t.minute * 60 + t.second + t.microsecond / 1e6
                         for t in (segment.base_time, expected)]  # fmt: skip
                assert clock[0] == pytest.approx(clock[1], abs=0.001)
                size = (written.folder / f"{name}.dat").stat().st_size
                assert size == length * segment.n_sig * written.plan.profile.monitor.bits // 8
            first += length


def test_checksums_and_first_values_are_those_of_the_samples(written: Written) -> None:
    for path in written.folder.glob("*.hea"):
        header = wfdb.rdheader(str(path.with_suffix("")))
        if isinstance(header, wfdb.MultiRecord) or header.sig_len == 0:
            continue
        record = wfdb.rdrecord(str(path.with_suffix("")), physical=False)
        assert record.calc_checksum() == [value % 65536 for value in header.checksum]
        assert record.d_signal[0].tolist() == header.init_value


def test_checksum_is_a_signed_sixteen_bit_sum() -> None:
    assert checksum(np.array([1, 2, -4])) == -1
    assert checksum(np.full(40_000, 1)) == 40_000 - 65_536


def test_every_signal_reads_back_as_it_was_made(written: Written) -> None:
    bits = written.plan.profile.monitor.bits
    for path, record, stretch, segments in written.segments():
        names = {channel.name for segment in segments for channel in segment.channels}
        assert ("II" in names) == stretch.lead_ii
        assert names & {"II", "MCL1", "V"}
        # With some seconds before and after, which may belong to a gap or to another stretch.
        first = max(record.first_sample(stretch) - 250, 0)
        last = min(segments[-1].start + segments[-1].length + 250, record.length)
        read = wfdb.rdrecord(str(written.root / path), sampfrom=first, sampto=last)
        covered = np.zeros(last - first, bool)
        for segment in segments:
            place = slice(segment.start - first, segment.start - first + segment.length)
            assert not covered[place].any()
            covered[place] = True
            for channel in segment.channels:
                expected = (channel.samples.astype(float) - channel.baseline) / channel.gain
                expected[channel.samples == device.INVALID[bits]] = np.nan
                signal = read.p_signal[place, read.sig_name.index(channel.name)]
                np.testing.assert_allclose(signal, expected, atol=1e-9)
        for other in record.stretches:
            start = record.first_sample(other)
            end = start + round(other.seconds * record.rate_hz)
            covered[max(start - first, 0) : max(end - first, 0)] |= other is not stretch
        assert np.isnan(read.p_signal[~covered]).all()


def test_stored_samples_are_the_signal_within_half_a_unit(written: Written) -> None:
    """Where electrodes are on and the signal fits, which is nearly everywhere."""
    rate = written.plan.profile.monitor.rate_hz
    good = total = 0
    for _, record, stretch, segments in written.segments():
        if not stretch.lead_ii:
            continue
        signal = signal_of(written.plan, stretch)
        assert len(signal) == round(stretch.seconds * rate)
        for segment in segments:
            begin = segment.start - record.first_sample(stretch)
            for channel in (c for c in segment.channels if c.name == "II"):
                stored = (channel.samples.astype(float) - channel.baseline) / channel.gain
                error = np.abs(stored - signal[begin : begin + segment.length])
                good += int((error <= 0.5 / channel.gain + 1e-5).sum())
                total += len(error)
    assert good > 0.97 * total


def test_the_projects_own_reader_sees_the_same(written: Written) -> None:
    plan = written.plan
    index = WaveformIndex(written.root)
    assert index.patients == {str(SUBJECT)}
    reader = index.of(str(SUBJECT), [Stay(plan.stay.base, plan.stay.icu_out)])
    rate = plan.profile.monitor.rate_hz
    found = 0
    for path, record, stretch, _ in written.segments():
        start = plan.stay.base + timedelta(seconds=stretch.start_s + 10)
        end = plan.stay.base + timedelta(seconds=stretch.end_s - 10)
        window = reader.lead_ii(start, end)
        if not stretch.lead_ii:
            assert window.exclusion is Exclusion.LEAD_II_ABSENT
            continue
        assert window.rate_hz == rate
        assert window.record == path
        assert not window.damaged
        first = int(np.ceil((start - record.start).total_seconds() * rate - 1e-6))
        same = wfdb.rdrecord(
            str(written.root / path),
            sampfrom=first,
            sampto=first + len(window.signal_mv),
            channel_names=["II"],
        )
        np.testing.assert_allclose(window.signal_mv, same.p_signal[:, 0], atol=1e-9)
        found += 1
    assert found > 2
    assert reader.unreadable_records == []


def test_stored_beats_stand_where_the_heart_beats(written: Written) -> None:
    """At every rate, from the first stretch of a record to the last, days later."""
    plan, rate = written.plan, written.plan.profile.monitor.rate_hz
    checked = 0
    for path, record, stretch, _ in written.segments():
        if not stretch.lead_ii:
            continue
        heart = heart_of(plan, stretch)
        ideal = lead_signal(heart, "II", stretch.seconds, rate)
        first = record.first_sample(stretch)
        stored = wfdb.rdrecord(
            str(written.root / path), sampfrom=first, sampto=first + len(ideal), channel_names=["II"]
        ).p_signal[:, 0]
        beats = np.round(heart.rhythm.within(stretch.seconds)[3:-3] * rate).astype(int)
        near = np.arange(-round(0.15 * rate), round(0.15 * rate) + 1)
        seen = np.nanmedian(stored[beats[:, None] + near], axis=0)
        lags = np.arange(-round(0.04 * rate), round(0.04 * rate) + 1)
        alike = [
            np.corrcoef(seen, np.median(ideal[beats[:, None] + near - lag], axis=0))[0, 1] for lag in lags
        ]
        # The low pass of the monitor comes some milliseconds late.
        assert -0.5 / rate <= lags[np.argmax(alike)] / rate <= 0.008 + 0.5 / rate
        assert max(alike) > 0.8
        checked += 1
    assert checked > 2


def test_gains_differ_between_segments_of_one_record(many: list[Written]) -> None:
    changes = tiny = gaps = 0
    for one in many:
        for path in one.paths:
            header = wfdb.rdheader(str(one.root / path), rd_segments=True)
            names = [s for s in header.seg_name if s != "~" and not s.endswith("_layout")]
            segments = [wfdb.rdheader(str(one.folder / name)) for name in names]
            gains = {s.adc_gain[s.sig_name.index("II")] for s in segments if "II" in s.sig_name}
            assert gains <= set(PROFILES["north"].monitor.gains)
            changes += len(gains) > 1
            tiny += sum(s.sig_len < 16 * 125 for s in segments)
            gaps += "~" in header.seg_name
    assert changes > 2
    assert tiny > 2
    assert gaps > 4


def test_numerics_follow_the_heart(written: Written) -> None:
    for path, record in zip(written.paths, written.records, strict=True):
        read = wfdb.rdrecord(str(written.root / f"{path}n"))
        assert read.sig_len == max(record.seconds // 60, 1)
        assert read.fs == pytest.approx(1 / 60)
        assert read.base_datetime == record.start
        column = {name: read.p_signal[:, i] for i, name in enumerate(read.sig_name)}
        for stretch in record.stretches:
            middle = int(((stretch.start_s + stretch.end_s) / 2 - record.begin_s) // 60)
            rhythm = heart_of(written.plan, stretch).rhythm
            beats = 60 * len(rhythm.within(stretch.seconds)) / stretch.seconds
            if middle < read.sig_len:
                assert column["HR"][middle] == pytest.approx(beats, abs=15)
        assert np.nanmax(column["SpO2"]) <= 100
        assert np.isnan(column["NBPSys"]).mean() > 0.5 or read.sig_len < 15


def test_dates_that_do_not_fit_the_stay_are_only_the_monitors(tmp_path: Path) -> None:
    plan = plan_of("island")
    plan = replace(plan, stretches=plan.stretches[:1])
    off = replace(plan, stay=replace(plan.stay, monitor_base=plan.stay.base + timedelta(days=400)))
    here, there = write(tmp_path / "here", plan), write(tmp_path / "there", off)
    (a,), (b,) = here.records, there.records
    assert b.start - a.start == timedelta(days=400)
    stay = Stay(plan.stay.base, plan.stay.icu_out)
    end = b.start + timedelta(minutes=2)
    window = WaveformIndex(there.root).of(str(SUBJECT), [stay]).lead_ii(b.start, end)
    assert window.exclusion is Exclusion.NO_CLINICAL_OVERLAP
    signals = [sorted(one.folder.glob("*_*.dat")) for one in (here, there)]
    assert [p.read_bytes() for p in signals[0]] == [p.read_bytes() for p in signals[1]]


def test_records_of_a_stay_never_overlap_and_have_names_of_their_own() -> None:
    sizes = CohortSizes(patients=1, personal_patients=0, continuous=True)
    several = 0
    for subject in range(20, 45):
        plan = plan_patient(PROFILES["valley"], sizes, 1, subject, 0, "usual")
        records = records_of(plan)
        several += len(records) > 1
        assert len({record_path(plan, record) for record in records}) == len(records)
        assert {s for record in records for s in record.stretches} == set(plan.stretches)
        for record in records:
            assert record.begin_s <= record.stretches[0].start_s
            assert record.stretches[-1].end_s <= record.begin_s + record.seconds
        for record, later in pairwise(records):
            assert record.begin_s + record.seconds < later.begin_s
    assert several > 3


@pytest.mark.parametrize("name", ["north", "river"])
def test_the_same_plan_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    content = []
    for folder in ("a", "b"):
        one = write(tmp_path / folder, plan_of(name))
        content.append({path.name: path.read_bytes() for path in sorted(one.folder.iterdir())})
    assert content[0] == content[1]
    other = write(tmp_path / "c", plan_of(name, seed=99))
    assert {path.read_bytes() for path in other.folder.glob("*.dat")}.isdisjoint(content[0].values())


def test_memory_does_not_grow_with_the_length_of_a_stay(tmp_path: Path) -> None:
    """One stretch is in memory at a time."""
    plan = plan_of("island")
    base = plan.stretches[0]
    peaks = []
    for count in (1, 6):
        starts = range(300, 300 + 901 * count, 901)
        stretches = tuple(
            replace(base, index=i, start_s=start, end_s=start + 900, record=0)
            for i, start in enumerate(starts)
        )
        one = replace(plan, stretches=stretches)
        write_waveforms(tmp_path / "warm", one, 0)
        tracemalloc.start()
        write_waveforms(tmp_path / str(count), one, 0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]

"""A synthetic site in the VitalDB layout: cases without dates, read back by the site's own reader."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from client.data.exclusion import Exclusion
from client.data.ingest import ingest
from client.data.sources.vital_files import VitalLead, read_vital
from client.data.sources.vitaldb_source import VitaldbSource
from client.database.tables import Strip
from client.site import load_site, write_site_file
from common.config import validated
from common.errors import ConfigurationError
from simulation.cohort.layouts import in_layout
from simulation.cohort.profile import PROFILES, CohortSizes, SiteProfile
from simulation.cohort.recording import Record, signal_of
from simulation.cohort.site import plan_site, write_site
from simulation.cohort.stay import PatientPlan
from simulation.cohort.truth import read_beats
from simulation.cohort.vitaldb_files import LONGEST_CASE_S, case_number, case_path, cases_of
from simulation.cohort.vitaldb_rows import NAMES, REACH_S, patient_lines

SEED = 4
SIZES = CohortSizes(
    patients=4, personal_patients=1, personal_strips=3, positive_share=0.7, most_draws=2, window_hours=0.18
)
PROFILE = in_layout(PROFILES["north"], "vitaldb")


@dataclass(frozen=True)
class WrittenSite:
    """A written site, its truth, and the plans behind it."""

    folder: Path
    truth: Path
    plans: tuple[PatientPlan, ...]

    @property
    def waveforms(self) -> Path:
        return self.folder / "waveforms"

    def table(self, name: str) -> list[dict[str, str]]:
        with (self.folder / "clinical" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def cases(self) -> Iterator[tuple[PatientPlan, Record]]:
        for plan in self.plans:
            for case in cases_of(plan):
                yield plan, case

    def lead(self, plan: PatientPlan, case: Record) -> VitalLead | None:
        return read_vital(self.waveforms / f"{case_path(plan, case)}.vital")


def plain(profile: SiteProfile) -> SiteProfile:
    """Return the profile with lower-case tables that are not compressed."""
    return validated(
        SiteProfile,
        profile.model_dump(mode="json")
        | {"files": {"layout": "vitaldb", "upper_case": False, "compressed": False}},
        "test",
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> WrittenSite:
    root, profile = tmp_path_factory.mktemp("vitaldb"), plain(PROFILE)
    write_site(root / "site", profile, SIZES, SEED, truth=root / "truth")
    return WrittenSite(root / "site", root / "truth", tuple(plan_site(profile, SIZES, SEED)))


def test_there_are_two_tables_and_one_file_per_case_and_nothing_else(site: WrittenSite) -> None:
    tables = sorted(path.name for path in (site.folder / "clinical").iterdir())
    assert tables == ["clinical_data.csv", "lab_data.csv"]
    files = sorted(path.name for path in site.waveforms.iterdir())
    assert files == sorted(f"{case_path(plan, case)}.vital" for plan, case in site.cases())
    assert len(files) > len(site.plans)


def test_equal_sites_have_equal_bytes_whatever_the_workers(site: WrittenSite, tmp_path: Path) -> None:
    write_site(tmp_path, plain(PROFILE), SIZES, SEED, workers=2)

    def content(folder: Path) -> dict[str, bytes]:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}

    assert content(tmp_path) == content(site.folder)


def test_cases_are_short_apart_and_hold_every_stretch(site: WrittenSite) -> None:
    for plan in site.plans:
        cases = cases_of(plan)
        assert [s for case in cases for s in case.stretches] == list(plan.stretches)
        assert all(0 < case.seconds <= LONGEST_CASE_S + 60 for case in cases)
        ends = [case.begin_s + case.seconds for case in cases]
        assert all(case.begin_s >= end for case, end in zip(cases[1:], ends, strict=False))
    numbers = [case_number(plan, case.number) for plan, case in site.cases()]
    assert len(set(numbers)) == len(numbers)
    assert max(Counter(plan.patient.subject_id for plan, _ in site.cases()).values()) > 1


def test_the_tables_count_seconds_and_know_no_date(site: WrittenSite) -> None:
    rows = site.table("clinical_data")
    assert {row["casestart"] for row in rows} == {"0"}
    for row in rows:
        assert int(row["adm"]) < 0 < int(row["caseend"]) < int(row["dis"])
    years = {str(plan.stay.base.year) for plan in site.plans}
    text = (site.folder / "clinical" / "lab_data.csv").read_text(encoding="utf-8")
    assert not any(f"{year}-" in text for year in years)
    assert all(abs(int(row["dt"])) <= REACH_S for row in site.table("lab_data"))


def test_lab_names_are_those_of_the_data_set_and_potassium_is_k(site: WrittenSite) -> None:
    found = Counter(row["name"] for row in site.table("lab_data"))
    assert set(found) <= {"k", *NAMES.values()}
    assert {"k", "na", "cr", "gluc"} <= set(found)
    wanted = sum(
        1 + draw.duplicate
        for plan in site.plans
        for draw in (*plan.outside, *plan.draws)
        if draw.value is not None and _distance_s(plan, draw.minute) <= REACH_S
    )
    assert found["k"] == wanted


def _distance_s(plan: PatientPlan, minute: int) -> int:
    begins = [case.begin_s for case in cases_of(plan)] or [0]
    before = [begin for begin in begins if begin <= 60 * minute]
    return abs(60 * minute - (before[-1] if before else begins[0]))


def test_a_case_holds_what_the_monitor_showed_at_the_moment_it_showed_it(site: WrittenSite) -> None:
    compared = 0
    for plan, case in site.cases():
        lead = site.lead(plan, case)
        for stretch in case.stretches:
            if lead is None or not stretch.lead_ii:
                continue
            shown = signal_of(plan, stretch)
            first = case.first_sample(stretch)
            begin, stored = lead.between(first, first + len(shown))
            there = np.isfinite(stored)
            # Electrodes that come off are not in what the monitor shows.
            off = np.abs(stored - shown[begin - first : begin - first + len(stored)]) > 0.5 / 500 + 1e-4
            assert (off & there).mean() < 0.2
            compared += int((there & ~off).sum())
    assert compared > 500 * 600


def test_a_stretch_without_lead_ii_has_none_in_its_file(site: WrittenSite, tmp_path: Path) -> None:
    profile = validated(
        SiteProfile,
        plain(PROFILE).model_dump(mode="json")
        | {"monitor": PROFILE.monitor.model_dump(mode="json") | {"lead_ii_missing": 1.0}},
        "test",
    )
    sizes = CohortSizes(patients=1, personal_patients=0, window_hours=0.05, most_draws=1)
    write_site(tmp_path / "site", profile, sizes, 1)
    source = VitaldbSource(tmp_path / "site" / "clinical", tmp_path / "site" / "waveforms")
    (key,) = source.keys()
    patient = source.opener(key)()
    found = {
        patient.lead_ii(m.specimen_time - timedelta(minutes=2), m.specimen_time).exclusion
        for m in source.measurements(key)
    }
    assert Exclusion.LEAD_II_ABSENT in found
    assert found <= {Exclusion.LEAD_II_ABSENT, Exclusion.NO_WAVEFORM}


def test_the_truth_names_the_recordings_that_are_there(site: WrittenSite) -> None:
    files = sorted((site.truth / "beats").glob("*.npz"))
    names = {record for path in files for record, _ in read_beats(path)}
    assert names == {case_path(plan, case) for plan, case in site.cases()}


def test_rows_are_the_same_each_time_they_are_made(site: WrittenSite) -> None:
    assert all(patient_lines(plan) == patient_lines(plan) for plan in site.plans)


def test_a_patient_never_recorded_has_a_case_without_a_file() -> None:
    sizes = CohortSizes(patients=30, personal_patients=0, window_hours=0.05)
    for plan in plan_site(plain(PROFILE), sizes, 2):
        if not plan.stretches:
            (line,) = patient_lines(plan)["clinical_data"]
            assert line.split(",")[1] == str(plan.patient.subject_id)
            return
    pytest.fail("no such patient among thirty")


def test_monitors_of_another_rate_are_refused() -> None:
    values = PROFILES["north"].model_dump(mode="json")
    values["files"] |= {"layout": "vitaldb"}
    with pytest.raises(ConfigurationError, match=r"rate_hz = 500"):
        validated(SiteProfile, values, "test")


def test_the_site_goes_through_ingest_like_any_other(
    site: WrittenSite, tmp_path: Path, session_factory: sessionmaker[Session]
) -> None:
    write_site_file(
        tmp_path / "run",
        name="north",
        source={"kind": "vitaldb", "folder": str(site.folder)},
        settings={"task": "hyperkalemia", "preset": "standard"},
    )
    result = ingest(load_site(tmp_path / "run", {}), session_factory)
    assert (result.unreadable_segments, result.unreadable_records) == (0, 0)
    usable = sum(
        stretch is not None and stretch.lead_ii and not stretch.noisy
        for plan in site.plans
        for stretch in map(plan.stretch_of, plan.draws)
    )
    assert 0.4 * usable <= result.accepted_strips <= usable
    with session_factory() as session:
        strips = session.scalars(select(Strip).where(Strip.exclusion.is_(None))).all()
        assert {strip.rate_hz for strip in strips} == {500.0}
        assert {strip.label for strip in strips} >= {"positive", "negative"}
        for strip in strips:
            (piece,) = strip.source
            # The clock of a strip counts from the begin of its file: ten minutes end at the draw.
            midnight = strip.end.replace(month=1, day=1, hour=0, minute=0, second=0)
            assert piece["last"] == (strip.end - midnight).total_seconds() * 500

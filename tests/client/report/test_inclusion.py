"""Inclusion before and after a cohort is frozen: every number is recounted from the rows."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from sqlalchemy import func, select
from typer.testing import CliRunner

from client.cli import app
from client.data.cohort import freeze_cohort
from client.database.cohort_queries import inclusion, patients_at, people
from client.database.runs import finish_run, start_run
from client.database.session import create_database, open_database, sessions
from client.database.tables import Draw, Patient, Review, Strip
from client.report import cohort_tables
from client.report.inclusion import as_json, as_text, lines, write_page
from client.report.reading_cohort import read_cohort
from client.report.table_one import Number, Part, Spread, describe, make_table_one
from client.report.wording import cohort_rules
from client.site import Site, load_site, write_site_file
from common.errors import DatabaseError
from common.logs import PlainReporter, current_reporter, use_reporter
from common.page import Table

Make = Callable[..., Any]
DAY = datetime(2150, 3, 1)
#: Kalium in mEq/L, label or reason of the draw, hemolysis, reason of the strip.
DRAWS = (
    (6.1, "positive", None, None),
    (6.4, "positive", "suspected", None),
    (4.0, "negative", None, None),
    (4.4, "negative", None, "no_waveform"),
    (5.2, "gap", None, None),
    (7.9, "hemolyzed", "reported", None),
    (3.1, "low_potassium", "reported", None),
)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a site of 12 patients with seven draws each; every third has no age, every fourth no sex."""
    write_site_file(tmp_path / "site", name="north", source={"kind": "mimic3", "folder": "."}, settings={})
    site = load_site(tmp_path / "site", {})
    engine = create_database(site.database_url)
    with sessions(engine).begin() as session:
        run = start_run(session, "ingest", site.settings)
        for number in range(12):
            patient = Patient(
                source_key=f"secret-{number}", sex=None if number % 4 == 0 else "FM"[number % 2],
                age=None if number % 3 == 0 else 50.0 + number, ethnicity="White" if number % 2 else None,
            )  # fmt: skip
            session.add(patient)
            session.flush()
            for hour, (value, what, hemolysis, lost) in enumerate(DRAWS):
                end = DAY + timedelta(hours=hour)
                label = what if what in ("positive", "negative", "gap") else None
                draw = Draw(
                    patient_id=patient.id, run_id=run.id, source_row=str(hour), specimen_time=end,
                    value=value, item="50971", specimen="serum", label=label,
                    exclusion=None if label else what, hemolysis=hemolysis,
                )  # fmt: skip
                session.add(draw)
                session.flush()
                if label is None:
                    continue
                session.add(
                    Strip(
                        patient_id=patient.id, run_id=run.id, draw_id=draw.id, label=label, value=value,
                        start=end - timedelta(minutes=10), end=end, exclusion=lost,
                        n_beats=0 if lost else 500, n_detected=0 if lost else 530, beat_offset=0,
                        beats_rejected={} if lost else {"unlike": 20, "edge": 10},
                        heart_rate_bpm=None if lost else 60.0 + number,
                    )
                )  # fmt: skip
        finish_run(session, run)
    engine.dispose()
    return site


def evidence_of(site: Site) -> Any:
    engine = open_database(site.database_url)
    with sessions(engine)() as session:
        found = read_cohort(session, "main")
    engine.dispose()
    return found


def frozen(site: Site) -> Site:
    engine = open_database(site.database_url)
    freeze_cohort(site, sessions(engine))
    engine.dispose()
    return site


def rows_of(table: Table) -> dict[str, list[str]]:
    return {row[0].strip(): list(row[1:]) for row in table.rows}


def test_every_step_adds_up_with_what_was_left_out_before_it(site: Site) -> None:
    flow = evidence_of(site).flow
    assert (
        flow.steps.draws == 84 == flow.steps.labelled.total + sum(one.number for one in flow.draws_excluded)
    )
    assert (
        flow.steps.strips == 60 == flow.steps.accepted.total + sum(one.number for one in flow.strips_excluded)
    )
    assert [(one.code, one.number, one.patients, one.labels.negative) for one in flow.strips_excluded] == [
        ("no_waveform", 12, 12, 12)
    ]
    assert (flow.labelled_patients.positive, flow.accepted_patients.gap) == (12, 12)


def test_reported_and_suspected_hemolysis_are_counted(site: Site) -> None:
    flow = evidence_of(site).flow
    # Reported: left out, here once for that reason and once for another. Suspected: kept.
    assert (flow.reported.number, flow.reported.patients) == (24, 12)
    assert (flow.suspected_kept.number, flow.suspected_kept.labels.positive) == (12, 12)
    table = rows_of(cohort_tables.flow_table(evidence_of(site), site.settings.words))
    assert table["of these kept although hemolysis is suspected"] == ["12", "12", "12", "0", "0"]
    assert table["left out: the laboratory says that red cells broke in the specimen"][:2] == ["12", "12"]


def test_beats_are_summed_by_what_became_of_them(site: Site) -> None:
    beats = evidence_of(site).flow.beats
    assert (beats.found, beats.accepted, dict(beats.rejected)) == (
        48 * 530,
        48 * 500,
        {"unlike": 960, "edge": 480},
    )
    assert list(beats.rejected) == ["unlike", "edge"]
    table = rows_of(cohort_tables.beats_table(evidence_of(site)))
    assert table["Beats accepted"] == ["24,000", "94.3\u202f%"]


def test_the_flow_is_known_before_a_cohort_and_goes_on_to_it_after(site: Site) -> None:
    assert cohort_rules(evidence_of(site)) == ""
    before = cohort_tables.flow_table(evidence_of(site), site.settings.words)
    after = cohort_tables.flow_table(evidence_of(frozen(site)), site.settings.words)
    assert before.rows == after.rows[: len(before.rows)]
    more = {row[0].strip(): row[1:] for row in after.rows[len(before.rows) :]}
    assert more["Generic cohort"] == ["12", "48", "24", "12", "12"]
    assert sum(int(more[split][0]) for split in ("train", "validation", "test")) == 12


def test_table_one_has_medians_and_counts_what_is_missing(site: Site) -> None:
    made = make_table_one(evidence_of(site), site.settings.words)
    assert list(made.columns) == ["With an accepted strip"]
    cells = {row.title: row.cells for row in made.rows}
    ages = [50.0 + number for number in range(12) if number % 3]
    assert cells["Age, years"] == [describe([*ages, None, None, None, None])]
    assert cells["Age, years"][0].median == median(ages)
    assert (cells["Age, years"][0].n, cells["Age, years"][0].missing) == (8, 4)
    assert cells["Male"] == [Part(6, 9, 3)]
    assert (cells["White"], cells["unknown"]) == ([Part(6, 12)], [Part(6, 12)])
    assert cells["Strips, hyperkalemia"] == [Number(24)]
    assert cells["Heart rate of a strip, per minute"][0].n == 48
    assert "Height, cm" not in cells  # known of nobody


def test_unknown_values_are_in_no_quartile() -> None:
    assert describe([1.0, None, 3.0, 2.0, None]) == Spread(3, 2, 2.0, 1.5, 2.5)
    assert describe([None]) == Spread(0, 1, None, None, None)


def test_patients_at_a_step_are_among_those_of_the_step_before(site: Site) -> None:
    engine = open_database(site.database_url)
    with sessions(engine).begin() as session:
        session.add(Patient(source_key="never drawn"))
    with sessions(engine)() as session:
        at = patients_at(session)
        assert at["files"] > at["draws"] >= at["labelled"] >= at["accepted"]
        assert len(at["accepted"]) == inclusion(session).steps.accepted_patients
    engine.dispose()


def test_people_have_the_means_of_their_own_strips(site: Site) -> None:
    engine = open_database(frozen(site).database_url)
    with sessions(engine)() as session:
        everybody = people(session, 2)
        rates = session.execute(
            select(Strip.patient_id, func.avg(Strip.heart_rate_bpm)).group_by(Strip.patient_id)
        ).all()
    engine.dispose()
    assert {one.patient_id: one.heart_rate_bpm for one in everybody} == {row[0]: row[1] for row in rates}
    assert all(
        one.potassium == pytest.approx({"positive": 6.25, "negative": 4.0, "gap": 5.2}) for one in everybody
    )


def test_strips_a_rule_left_out_are_a_step_with_patients(tmp_path: Path, site: Site) -> None:
    settings = site.settings.model_copy(
        update={
            "cohort": site.settings.cohort.model_copy(update={"classes": "disjoint", "balance": "strips"})
        }
    )
    evidence = evidence_of(frozen(Site(**{**vars(site), "settings": settings})))
    (one,) = evidence.flow.cohort_excluded
    learned = [m for m in evidence.members if m.split in ("train", "validation")]
    assert one.code == "classes"
    assert one.labels.negative == one.number == one.patients == len(learned)
    table = rows_of(cohort_tables.flow_table(evidence, site.settings.words))
    assert table["Generic cohort"][3] == str(12 - one.number)
    assert "disjoint classes" in cohort_rules(evidence)
    assert "balanced" in cohort_rules(evidence)
    write_page(site, evidence, tmp_path / "page.html")
    assert cohort_rules(evidence) in (tmp_path / "page.html").read_text()


def test_an_empty_site_says_what_to_run(tmp_path: Path) -> None:
    write_site_file(tmp_path, name="north", source={"kind": "mimic3", "folder": "."}, settings={})
    site = load_site(tmp_path, {})
    create_database(site.database_url).dispose()
    with pytest.raises(DatabaseError, match="ingest SITE"):
        evidence_of(site)


def run(*words: str) -> str:
    """Return what the command tells."""
    out = io.StringIO()
    before = current_reporter()
    use_reporter(PlainReporter(out))
    try:
        done = CliRunner().invoke(app, ["inclusion", *words])
    finally:
        use_reporter(before)
    assert done.exit_code == 0
    return out.getvalue()


class TestCommand:
    def test_it_prints_the_tables_and_writes_the_page(self, site: Site) -> None:
        seen = " ".join(run(str(site.folder)).split())
        assert (site.folder / "report" / "inclusion.html").exists()
        assert "Draws with a label 12 60 24 24 12" in seen
        assert "next: fedkalemia-site cohort" in seen
        assert "4 missing" in seen

    def test_json_has_the_same_counts_and_writes_nothing(self, site: Site) -> None:
        told = json.loads(run(str(frozen(site).folder), "--json"))
        assert not (site.folder / "report").exists()
        assert told["inclusion"]["steps"]["accepted"] == {"positive": 24, "negative": 12, "gap": 12}
        assert sum(group["patients"] for group in told["cohort"]) == 12
        age = next(row for row in told["table_one"]["rows"] if row["title"] == "Age, years")
        assert (age["cells"][0]["n"], age["cells"][0]["missing"]) == (8, 4)

    def test_no_identifier_and_no_date_of_a_patient_is_in_any_form(self, site: Site, tmp_path: Path) -> None:
        evidence = evidence_of(frozen(site))
        write_page(site, evidence, tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text()
        for text in (page, as_text(site, evidence), json.dumps(as_json(site, evidence))):
            assert "secret" not in text
            assert "2150" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)

    def test_the_same_rows_give_the_same_page(self, site: Site, tmp_path: Path) -> None:
        for name in ("a", "b"):
            write_page(site, evidence_of(site), tmp_path / name)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_long_titles_are_broken_and_numbers_stand_below_each_other() -> None:
    table = Table("Caption.", ("", "Number"), [["a " * 40, "7"], ["  short", "1,234"]])
    written = lines(table, 20)
    assert max(map(len, written[2:])) == 20 + 2 + 6
    assert [line[-1] for line in written if line.rstrip().endswith(("7", "4"))] == ["7", "4"]


def test_a_report_shows_the_same_inclusion(fabricated: Make) -> None:
    made = fabricated(models=True)
    with made.sessions() as session:
        evidence = read_cohort(session, "main")
        reasons = Counter(session.scalars(select(Strip.exclusion).where(Strip.exclusion.is_not(None))))
    assert {one.code: one.number for one in evidence.flow.strips_excluded} == reasons
    assert evidence.is_frozen


def test_verdicts_of_reviewers_are_a_table_only_where_there_are_any(site: Site) -> None:
    assert cohort_tables.reviews_table(evidence_of(site)).rows == []
    engine = open_database(site.database_url)
    with sessions(engine).begin() as session:
        for number, verdict in enumerate(("usable", "usable", "unusable", "unsure")):
            lost = "no_waveform" if number == 2 else None
            strip = session.scalars(
                select(Strip.id).where(Strip.exclusion == lost if lost else Strip.exclusion.is_(None))
            ).all()[number]
            session.add(
                Review(
                    strip_id=strip, reviewer="AB", verdict=verdict, exclusion=lost, sheet_sha256="0" * 64,
                    read_at=DAY,
                )
            )  # fmt: skip
    engine.dispose()
    table = cohort_tables.reviews_table(evidence_of(site))
    assert [row[:3] for row in table.rows] == [
        ["accepted", "AB", "3"],
        ["no ECG was recorded in the window before the draw", "AB", "1"],
    ]
    assert [row[-1] for row in table.rows] == ["100\u202f% (2 of 2)", "100\u202f% (1 of 1)"]
    assert evidence_of(site).flow.steps.accepted.total == 48  # verdicts change nothing

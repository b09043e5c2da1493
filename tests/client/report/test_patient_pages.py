"""Pages of patients and the copies beside them: complete, traceable, and silent where they must be."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from client.database.runs import start_run
from client.database.session import open_database, sessions
from client.database.tables import (
    Patient,
    PersonalizationRound,
    PersonalizationRun,
    Run,
    Strip,
    StripPrediction,
)
from client.report.build import build_report
from client.report.evidence import Personal
from client.report.reading import read_evidence
from client.report.story import Story, read_story
from common.errors import DatabaseError
from common.page.numbers import percent
from common.workers import worker_processes
from tests.client.report.test_report import plain

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def written(fabricated: Make) -> Path:
    """Folder of the report of a site with three personal patients and their models."""
    made = fabricated(models=True, personal=3, generic=12)
    return build_report(made.site, made.sessions).parent


@pytest.fixture(scope="module")
def copied(fabricated: Make) -> Path:
    """Folder of the pseudonymous copy of the same site."""
    made = fabricated(models=True, personal=3, generic=12)
    return build_report(made.site, made.sessions, pseudonymous=True).parent


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def pages_of(fabricated: Make, folder: Path) -> list[tuple[Personal, Story, str]]:
    """Return the patients of the written report with their story and the text of their page."""
    made = fabricated(models=True, personal=3, generic=12)
    with made.sessions() as session:
        evidence = read_evidence(session, ("main",))
    told = {story.patient: story for story in stories(made)}
    return [
        (one, told[one.patient], plain((folder / "patients" / evidence.naming.page(one.patient)).read_text()))
        for one in evidence.personal
    ]


def stories(made: Any) -> list[Story]:
    with made.sessions() as session:
        rows = session.scalars(select(PersonalizationRun).order_by(PersonalizationRun.id))
        return [read_story(session, row) for row in rows]


def test_every_patient_has_a_page_the_report_leads_to_and_back(written: Path) -> None:
    index = (written / "index.html").read_text()
    links = re.findall(r'<a href="(patients/[^"]+)">', index)
    pages = {path.relative_to(written).as_posix() for path in (written / "patients").iterdir()}
    assert set(links) == pages
    assert len(pages) == 3
    for page in pages:
        text = (written / page).read_text()
        assert "../index.html" in text
        assert plain(text).count("Research use, not for clinical decisions.") == 2


def test_a_page_names_the_patient_and_only_this_one(fabricated: Make, written: Path) -> None:
    made = fabricated(models=True, personal=3, generic=12)
    with made.sessions() as session:
        keys = {row.id: row.source_key for row in session.scalars(select(Patient))}
    for path in (written / "patients").iterdir():
        text = path.read_text()
        named = {key for key in keys.values() if re.search(rf"\b{key}\b", text)}
        assert named == {keys[int(path.stem)]}


def test_reports_that_name_patients_are_for_their_owner_only(written: Path, copied: Path) -> None:
    assert all(path.stat().st_mode & 0o077 == 0 for path in written.rglob("*") if path.is_file())
    assert "must not leave the hospital" in (written / "index.html").read_text()
    assert "must not leave the hospital" not in (copied / "index.html").read_text()


def test_a_pseudonymous_copy_holds_no_identifier_and_no_date_anywhere(fabricated: Make, copied: Path) -> None:
    made = fabricated(models=True, personal=3, generic=12)
    with made.sessions() as session:
        dates = {f"{when:%Y-%m-%d}" for when in session.scalars(select(Strip.start))}
        years = {date[:4] for date in dates}
        folder = str(made.site.folder)
    for name, text in files(copied).items():
        assert "p0815" not in name + text  # every identifier and every record of this site begins so
        assert not [year for year in years if re.search(rf"\b{year}-\d\d", text)], name
        assert folder not in text
        assert not re.search(r"\d+ kg|\d+ cm", text), name


def test_pseudonyms_are_the_same_on_every_page_and_table(copied: Path) -> None:
    names = {path.stem for path in (copied / "patients").iterdir()}
    assert {row["patient"] for row in rows_of(copied / "tables" / "results.csv")} == names
    assert [row["Patient"] for row in rows_of(copied / "tables" / "patients.csv")] == sorted(names)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_numbers_of_a_copy_are_those_of_the_report(written: Path, copied: Path) -> None:
    own, other = (json.loads((folder / "report.json").read_text()) for folder in (written, copied))
    for key in ("methods", "selected_minus_threshold", "selected_minus_generic", "patients"):
        assert own[key] == other[key]
    assert {row["row"] for row in other["personal"]} == {None}
    assert None not in {row["row"] for row in own["personal"]}


def test_a_vote_is_always_from_before_the_strip_was_trained_on(fabricated: Make) -> None:
    made = fabricated(models=True, personal=3, generic=12)
    for story in stories(made):
        for strip in story.strips:
            for vote in strip.votes.values():
                if strip.use == "train":
                    assert vote.round == strip.pair - 1
        assert {strip.use for strip in story.strips} >= {"train", "test"}
        assert all(set(strip.votes) == {"generic", "selected"} for strip in story.of("test"))


def test_the_strips_of_a_page_are_those_of_the_database(fabricated: Make, written: Path) -> None:
    made = fabricated(models=True, personal=3, generic=12)
    story = stories(made)[0]
    page = (written / "patients" / f"{story.patient}.html").read_text()
    with made.sessions() as session:
        accepted = session.scalars(
            select(Strip).where(Strip.patient_id == story.patient, Strip.exclusion.is_(None))
        ).all()
        assert len(story.strips) == len(accepted) > 0
        for strip in accepted:
            assert f"<td>{strip.id} / {strip.draw_id}</td>" in page
        last = max(row for row in session.scalars(select(StripPrediction.round)))
        votes = session.scalars(
            select(StripPrediction).where(
                StripPrediction.personalization_run_id == story.row,
                StripPrediction.method == "selected",
                StripPrediction.purpose == "test",
            )
        ).all()
    assert 0 < len(votes) <= len(accepted)
    assert last > 0
    for vote in votes:
        assert percent(vote.n_positive_beats / vote.n_beats) in page


def test_results_are_those_of_the_database_row_by_row(fabricated: Make, written: Path) -> None:
    made = fabricated(models=True, personal=3, generic=12)
    rows = rows_of(written / "tables" / "results.csv")
    with made.sessions() as session:
        known = {
            (str(row.personalization_run_id), row.method, str(row.round)): row
            for row in session.scalars(select(PersonalizationRound))
        }
    assert {(row["row"], row["method"], row["round"]) for row in rows} == set(known)
    for row in rows:
        stored = known[row["row"], row["method"], row["round"]]
        assert int(row["strip_tp"]) == stored.strip_tp
        assert float(row["beat_auc"]) == stored.beat_auc


def test_tables_as_files_are_the_tables_of_the_page(written: Path) -> None:
    page = (written / "index.html").read_text()
    shown = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", page)
    cells = {re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", "", cell))).strip() for cell in shown}
    found = {path.stem: path for path in (written / "tables").glob("*.csv") if path.stem != "results"}
    assert len(found) > 12
    assert set(found) == {
        key.replace("_", "-") for key in json.loads((written / "report.json").read_text())["tables"]
    }
    for name, path in found.items():
        with path.open(newline="") as file:
            missing = {cell for row in csv.reader(file) for cell in row} - cells
        assert not missing, name


def test_files_are_the_same_when_written_again_by_worker_processes(fabricated: Make, copied: Path) -> None:
    made = fabricated(models=True, personal=3, generic=12)
    before = files(copied)
    engine = open_database(made.site.database_url)
    with worker_processes(2) as workers:
        build_report(made.site, sessions(engine), pseudonymous=True, workers=workers)
    assert files(copied) == before


def test_an_unfinished_run_is_reported_as_such(fabricated: Make) -> None:
    made = fabricated(personal=2, generic=8, seed=9)
    with made.sessions() as session:
        run = session.scalars(select(Run).where(Run.kind == "personalization")).one()
        run.status, number = "interrupted", run.id
        session.commit()
    page = build_report(made.site, made.sessions).read_text()
    assert f"personalization run {number} is interrupted. 2 of 2 personal patients are in" in plain(page)
    assert json.loads((made.site.report.parent / "report.json").read_text())["unfinished"]


def test_a_later_unfinished_run_does_not_hide_behind_the_finished_one(fabricated: Make) -> None:
    made = fabricated(personal=2, generic=8, seed=10)
    with made.sessions() as session:
        later = start_run(session, "personalization", made.site.settings)
        session.commit()
        evidence = read_evidence(session, ["main"])
    assert len(evidence.unfinished) == 1
    assert f"run {later.id}) is running" in evidence.unfinished[0]
    assert evidence.personal


def test_a_run_is_reported_by_its_number_and_an_unknown_one_is_refused(fabricated: Make) -> None:
    made = fabricated(personal=2, generic=8, seed=10)
    with made.sessions() as session:
        known = session.scalars(
            select(Run.id).where(Run.kind == "personalization", Run.status == "finished")
        ).one()
        assert list(read_evidence(session, ["main"], run=known).run_ids) == [known]
        with pytest.raises(DatabaseError, match=rf"run 4711 does not exist; personalization runs.*: {known}"):
            read_evidence(session, ["main"], run=4711)
        with pytest.raises(DatabaseError, match="run 1 is of kind ingest, not a personalization"):
            read_evidence(session, ["main"], run=1)


def test_a_patient_without_test_strips_has_a_page_that_says_why(fabricated: Make) -> None:
    made = fabricated(personal=2, generic=8, seed=12, outcome="too_few_strips")
    folder = build_report(made.site, made.sessions).parent
    pages = [path.read_text() for path in (folder / "patients").iterdir()]
    assert len(pages) == 2
    for page in pages:
        assert "No personal model: too few strips once training and test" in plain(page)
        assert len(re.findall("<figure>", page)) == 1  # what was measured, and nothing that was voted
        assert "Generic</th>" not in page
        assert "What was measured" in page
        assert not re.search(r"\b(nan|inf|None)\b", plain(page))


def test_pages_of_patients_who_left_the_report_go(fabricated: Make) -> None:
    made = fabricated(personal=2, generic=8, seed=12, outcome="too_few_strips")
    old = made.site.report.parent / "patients" / "999.html"
    old.parent.mkdir(parents=True, exist_ok=True)
    old.write_text("of somebody who was forgotten")
    build_report(made.site, made.sessions)
    assert not old.exists()


def test_nothing_on_a_page_is_nan_and_ids_are_unique(written: Path) -> None:
    for path in (written / "patients").iterdir():
        page = path.read_text()
        assert not re.search(r"\b(nan|inf|None)\b", plain(page))
        ids = re.findall(r'\sid="([^"]+)"', page)
        assert len(ids) == len(set(ids))
        figures = re.findall(r"<figure>.*?</figure>", page, re.DOTALL)
        assert len(figures) == 4
        assert all(re.search(r"<desc id=[^>]+>[^<]{20,}", figure) for figure in figures)


def test_the_answer_says_how_many_strips_of_each_label_were_called_right(
    fabricated: Make, written: Path
) -> None:
    tested = [(one, text) for one, _, text in pages_of(fabricated, written) if one.tested]
    assert tested
    for one, text in tested:
        score = one.score("selected", one.rounds)
        assert score is not None
        strips = score.strips
        assert (
            f"({strips.tp} of {one.test[0]} hyperkalemia, {strips.tn} of {one.test[1]} normokalemia)" in text
        )


def test_every_draw_of_a_page_is_an_accepted_strip_or_left_out_for_a_reason(
    fabricated: Make, written: Path
) -> None:
    for _, story, text in pages_of(fabricated, written):
        found = re.search(r"(\d+) draws?, ", text)
        assert found, text[:500]
        facts = text[text.index("What was measured") : text.index("Figure 1")]
        left = [int(n) for n in re.findall(r": (\d+)", facts[: facts.index(" Time ")])]
        assert int(found.group(1)) == len(story.draws) == len(story.strips) + sum(left)

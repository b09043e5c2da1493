"""A sheet of annotated recordings: real ones, with an expert's beats as marks."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from client.data.ingest import ingest
from client.data.sources import open_source
from client.database.session import create_database, sessions
from client.database.tables import Strip
from client.review.reading import load_rows, read_strips
from client.review.sheet import Order, make_sheet
from client.site import load_site, write_site_file

RECORDS = ["106", "201", "203"]
pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def annotated(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a site of three real records."""
    folder = tmp_path_factory.mktemp("mit") / "site"
    source = {"kind": "mitbih", "folder": str(real_data / "mitdb"), "records": RECORDS}
    write_site_file(folder, name="mit", source=source, settings={"task": "ventricular"})
    site = load_site(folder, environment={})
    engine = create_database(site.database_url)
    ingest(site, sessions(engine))
    engine.dispose()
    return folder


def test_marks_are_the_annotated_beats_of_the_strip(annotated: Path):
    site = load_site(annotated, environment={})
    engine = create_database(site.database_url)
    with sessions(engine)() as session:
        wanted = [row.id for row in session.scalars(select(Strip)) if row.id % 7 == 0]
        rows = load_rows(session, wanted)
    seen = list(read_strips(open_source(site), rows, site.settings))
    engine.dispose()
    assert [one.row.id for one in seen] == sorted(wanted)
    assert {one.row.record for one in seen} == set(RECORDS)
    for one in seen:
        own = [mark for mark in one.marks if not mark.other]
        assert not one.missing
        assert not one.notes  # the digest of the samples is that of ingest
        assert len(own) == one.row.n_detected
        assert len(one.signal_mv) == 60 * 360 or one.row.end.minute == 31
        assert all(0 <= mark.time_s < 60 for mark in one.marks)


def test_a_sheet_of_annotated_strips_names_its_marks(annotated: Path):
    site = load_site(annotated, environment={})
    engine = create_database(site.database_url)
    made = make_sheet(site, sessions(engine), Order(per_reason=4, seed=1))
    engine.dispose()
    page = made.page.read_text(encoding="utf-8")
    assert made.missing == 0
    assert "annotated beat of this strip" in page
    assert "ventricular beats" in page
    assert "mEq/L" not in page.split('<form id="verdicts"')[1]
    assert "Detectors agree" not in page

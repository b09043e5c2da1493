"""A contact sheet of a real site: what it shows, what it hides, what it survives."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, update

from client.data.exclusion import EXCLUSION_SHORT, Exclusion
from client.database.reviews import find_sheet
from client.database.runs import latest_run
from client.database.tables import Report, Run, Strip
from client.review import reading
from client.review.sheet import Made, Order, make_sheet
from client.site import load_site
from common.errors import CohortError, ConfigurationError
from common.files import write_atomic

SECRETS = ("p000020", "p000023", "2150", "8:00", "08:00", "3002001", "3002501")


def made(looked: Any, out: Path | None = None, **order: Any) -> tuple[Made, str]:
    """Make a sheet and return it with its page."""
    sheet = make_sheet(looked.site, looked.sessions, Order(**{"per_reason": 4, "seed": 3, **order}), out)
    return sheet, sheet.page.read_text(encoding="utf-8")


def cards(page: str) -> dict[int, str]:
    """Return the text of every strip of a page."""
    parts = page.split('<article class="card">')[1:]
    return {int(re.findall(r"<h3>Strip (\d+)</h3>", part)[0]): part.split("</article>")[0] for part in parts}


def words(part: str) -> str:
    """Return what a reader sees of a part of a page, without drawings."""
    return " ".join(html.unescape(re.sub(r"<svg.*?</svg>|<[^>]+>", " ", part, flags=re.DOTALL)).split())


def test_a_sheet_shows_every_reason_with_what_was_measured(looked: Any, sheet: Made):
    page = sheet.page.read_text(encoding="utf-8")
    shown = cards(page)
    rows = {row.id: row for row in looked.rows()}
    reasons = {rows[strip].exclusion for strip in shown}
    assert reasons == {None, "detectors_disagree", "flat_line", "too_little_signal"}
    assert sheet.strips == len(shown) == 24 + 2 + 1 + 1
    assert sheet.missing == 0
    for strip, part in shown.items():
        row, text = rows[strip], words(part)
        assert f"{row.value:.1f} mEq/L" in text
        assert "125 Hz" in text
        assert "80 per mV" in text
        for reason in row.reasons:
            assert EXCLUSION_SHORT[Exclusion(reason)] in text
        if row.exclusion is None:
            assert "✓" not in text  # drawn by the style, not written
            assert "accepted" in text
            assert f"{row.n_beats} of {row.n_detected}" in text
            assert f"{row.heart_rate_bpm:.0f} per min" in text
        for reason, n in row.beats_rejected.items():
            assert f"{n} {reason}" in text


def test_marks_on_a_sheet_are_the_beats_ingest_counted(looked: Any):
    row = next(row for row in looked.of(None) if row.beats_rejected.get("unlike"))
    with looked.sessions() as session:
        (seen,) = reading.read_strips(
            reading_source(looked), reading.load_rows(session, [row.id]), looked.site.settings
        )
    kept = [mark for mark in seen.marks if mark.rejected is None]
    assert len(kept) == row.n_beats == len(seen.beats)
    assert len(seen.marks) == row.n_detected
    assert sum(mark.rejected == "unlike" for mark in seen.marks) == row.beats_rejected["unlike"]
    # The noise is in the middle of the window, and so are the beats it spoils.
    assert {mark.rejected for mark in seen.marks if 56 < mark.time_s < 62} >= {"unlike"}


def reading_source(looked: Any) -> Any:
    from client.data.sources import open_source

    return open_source(looked.site)


def test_the_same_seed_gives_the_same_page(looked: Any, tmp_path: Path):
    first, page = made(looked, tmp_path / "a.html")
    again, same = made(looked, tmp_path / "b.html")
    other, another = made(looked, tmp_path / "c.html", seed=4)
    assert (page, first.digest) == (same, again.digest)
    assert first.digest != other.digest
    assert set(cards(page)) != set(cards(another))


def test_the_digest_covers_every_line_of_the_page(looked: Any, sheet: Made):
    page = sheet.page.read_text(encoding="utf-8")
    assert hashlib.sha256(page.replace(sheet.digest, "0" * 64).encode()).hexdigest() == sheet.digest
    with looked.sessions() as session:
        known = find_sheet(session, sheet.digest)
        run = latest_run(session, "review", "sheet")
        assert run is not None
        assert session.scalars(select(Report.path).where(Report.run_id == run.id)).one() == (
            "review/review.html"
        )
    rows = {row.id: row.exclusion for row in looked.rows()}
    assert known == {strip: rows[strip] for strip in cards(page)}


def test_a_sheet_names_no_patient_and_no_date(looked: Any):
    for order in ({}, {"blind": True}):
        sheet, page = made(looked, **order)
        readable = re.sub(r"<svg.*?</svg>|[0-9a-f]{64}", " ", page, flags=re.DOTALL)
        readable += " ".join(re.findall(r'aria-label="[^"]*"|<text[^>]*>[^<]*', page))
        for secret in SECRETS:
            assert secret not in readable
            assert secret not in sheet.verdicts.read_text()


def test_a_sheet_is_for_its_owner_only_and_says_so(looked: Any, sheet: Made):
    page = sheet.page.read_text(encoding="utf-8")
    for path in (sheet.page, sheet.verdicts):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "must not leave the hospital" in page
    assert "0600" in page


def test_a_blind_sheet_shows_the_signal_and_nothing_else(looked: Any):
    _, page = made(looked, blind=True)
    _, shown = made(looked)
    assert set(cards(page)) == set(cards(shown))
    assert list(cards(page)) != list(cards(shown))
    without_frame = page.split('<form id="verdicts"')[1].split("</form>")[0]
    hidden = ["kalemia", "mEq/L", "accepted", "rejected", "Heart rate", "agree", "worst", "Median"]
    hidden += [EXCLUSION_SHORT[reason] for reason in Exclusion] + [str(reason) for reason in Exclusion]
    for word in hidden:
        assert word not in without_frame, word
    assert 'class="ticks"' not in without_frame
    # What is drawn is drawn alike, whatever the software said.
    forms = {re.sub(r"\d+", "", " ".join(sorted(re.findall(r'class="([a-z ]+)"', part)))) for part in (
        part for strip, part in cards(page).items() if strip in {row.id for row in looked.of(None)}
    )}  # fmt: skip
    assert len(forms) == 1


def test_a_blind_order_is_not_that_of_the_reasons(looked: Any):
    _, page = made(looked, blind=True)
    rows = {row.id: row.exclusion for row in looked.rows()}
    bad = [place for place, strip in enumerate(cards(page)) if rows[strip]]
    assert bad != list(range(len(rows) - len(bad), len(rows)))
    assert bad != list(range(4, 8))


def test_only_its_own_script_may_run_and_nothing_is_loaded(looked: Any, sheet: Made):
    page = sheet.page.read_text(encoding="utf-8")
    policy = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)[0]
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe-inline" not in policy.split("script-src")[1]
    assert not re.findall(r"(?:src|href|action)=\"(?!#|data:)", page)


def test_the_file_for_verdicts_has_a_line_per_strip(looked: Any, sheet: Made):
    page = sheet.page.read_text(encoding="utf-8")
    with sheet.verdicts.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["strip"]) for line in lines] == list(cards(page))
    assert {(line["sheet"], line["verdict"], line["comment"]) for line in lines} == {(sheet.digest, "", "")}


def test_verdicts_that_were_written_are_never_overwritten(looked: Any):
    sheet, _ = made(looked)
    text = sheet.verdicts.read_text().replace(",,", ",usable,", 1)
    sheet.verdicts.write_text(text)
    with pytest.raises(ConfigurationError, match="holds verdicts"):
        made(looked, seed=9)
    assert sheet.verdicts.read_text() == text
    other, _ = made(looked, sheet.page.with_name("second.html"), seed=9)
    assert other.verdicts.name == "second.csv"


def test_a_page_that_ends_with_csv_would_be_overwritten_by_its_own_verdicts(looked: Any, tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"ends with \.html"):
        made(looked, tmp_path / "sheet.csv")


def test_a_damaged_file_costs_its_strip_and_not_the_sheet(looked: Any):
    gone, cut, empty = looked.of(None)[:3]
    looked.files_of(gone)[0].unlink()
    short = looked.files_of(cut)[0]
    short.write_bytes(short.read_bytes()[:40])
    looked.files_of(empty)[0].write_bytes(b"")
    sheet, page = made(looked, per_reason=30)
    shown = cards(page)
    assert sheet.missing == 3
    for row in (gone, cut, empty):
        assert "The file cannot be read any more." in words(shown[row.id])
    assert sum("cannot be read any more" in part for part in shown.values()) == 3


def test_a_changed_file_is_noticed(looked: Any):
    row = looked.of(None)[0]
    path = looked.files_of(row)[0]
    flat = np.full(len(path.read_bytes()), 108, dtype=np.uint8)  # a stored 0 mV
    flat.tofile(path)
    _, page = made(looked, per_reason=30)
    text = words(cards(page)[row.id])
    assert "The files have changed since ingest" in text
    assert "the software now says: flat line" in text
    assert "At ingest it said: accepted" in text


def test_a_patient_whose_files_are_gone_is_said(looked: Any):
    row = looked.of("flat_line")[0]
    with looked.sessions() as session:
        patient = session.get_one(Strip, row.id).patient
        patient.source_key = "999999"
        session.commit()
    sheet, page = made(looked)
    assert "The files hold nothing of this patient any more." in words(cards(page)[row.id])
    assert sheet.missing == sum("hold nothing" in part for part in cards(page).values())


def test_strips_without_lead_ii_can_be_asked_for(looked: Any):
    sheet, page = made(looked, reasons=("lead_ii_absent", "no_waveform"))
    assert sheet.strips == sheet.missing == 2
    assert all(
        "There is no lead II of this window, as at ingest." in words(part) for part in cards(page).values()
    )
    _, usual = made(looked)
    assert "Not on this sheet, because there is no lead II to look at: 2 strips" in words(usual)


def test_strips_of_an_older_version_are_shown_with_what_they_have(looked: Any):
    with looked.sessions() as session:
        session.execute(
            update(Strip).values(
                reasons=[], beats_rejected={}, source=[], rate_hz=None, agreement=None, signal_sha256=None
            )
        )
        session.commit()
    _, page = made(looked)
    row = looked.of("flat_line")[0]
    text = words(cards(page)[row.id])
    assert EXCLUSION_SHORT[Exclusion.FLAT_LINE] in text
    assert "80 per mV" in text
    assert "125 Hz" in text
    good = next(row for row in looked.of(None) if row.id in cards(page))
    assert "edge" in words(cards(page)[good.id])


def test_only_the_sample_is_read(looked: Any, monkeypatch: pytest.MonkeyPatch):
    opened: list[Any] = []
    real = reading.process_strip

    def counting(*given: Any) -> Any:
        opened.append(given)
        return real(*given)

    monkeypatch.setattr(reading, "process_strip", counting)
    made(looked, per_reason=2)
    assert len(opened) == 2 + 2 + 1 + 1


def test_other_settings_than_those_of_the_strips_are_refused(looked: Any):
    path = looked.site.folder / "site.toml"
    path.write_text(path.read_text().replace("min_beats = 30", "min_beats = 20"))
    looked = type(looked)(load_site(looked.site.folder, environment={}), looked.sessions)
    with pytest.raises(ConfigurationError, match=r"strip\.min_beats was 30 and is now 20"):
        made(looked)


def test_a_site_without_strips_has_no_sheet(looked: Any):
    with looked.sessions() as session:
        session.execute(Strip.__table__.delete())
        session.commit()
    with pytest.raises(CohortError, match="run: fedkalemia-site ingest"):
        made(looked)
    assert not (looked.site.folder / "review").exists()


def test_a_page_that_cannot_be_written_leaves_a_failed_run_and_no_sheet(
    looked: Any, monkeypatch: pytest.MonkeyPatch
):
    def full(path: Path, content: str, **more: Any) -> None:
        if path.suffix == ".csv":
            raise OSError(28, "No space left on device")
        write_atomic(path, content, **more)

    monkeypatch.setattr("client.review.sheet.write_atomic", full)
    with pytest.raises(OSError, match="No space"):
        made(looked)
    with looked.sessions() as session:
        run = session.scalars(select(Run).where(Run.kind == "review")).one()
        assert (run.status, "sheet_sha256" in run.details) == ("failed", False)


def test_the_command_says_what_it_wrote(looked: Any, run_site: Callable[..., Any]):
    code, out, err = run_site("review", "sheet", looked.site.folder, "--per-reason", "2", "--seed", "4")
    assert (code, err) == (0, "")
    assert "6 strips" in out
    assert "review.html" in out
    assert "must not leave the hospital" in out
    assert not re.search("|".join(SECRETS), out)


def test_an_unknown_reason_ends_with_exit_code_2(looked: Any, run_site: Callable[..., Any]):
    code, _, err = run_site("review", "sheet", looked.site.folder, "--reason", "flatline")
    assert code == 2
    assert "did you mean 'flat_line'" in err

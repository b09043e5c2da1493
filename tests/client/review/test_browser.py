"""A sheet in a real browser: verdicts are clicked, saved as a file, and read back in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select

from client.database.tables import Review
from client.review.sheet import Made
from client.review.verdicts import read_lines, read_verdicts

pytestmark = pytest.mark.browser


def choose(page: Page, strip: int, verdict: str) -> None:
    page.locator(f"fieldset[data-strip='{strip}'] input[value={verdict}]").click()


def comment(page: Page, strip: int, text: str) -> None:
    page.locator(f"fieldset[data-strip='{strip}'] input[type=text]").click()
    page.keyboard.insert_text(text)


def save(page: Page, folder: Path) -> Path:
    """Save the verdicts as a person would; return the file."""
    with page.expect_download() as started:
        page.locator("#save").click()
    path = folder / started.value.suggested_filename
    started.value.save_as(path)
    return path


def test_verdicts_that_are_clicked_come_back_into_the_database(
    seen: Any, looked: Any, sheet: Made, tmp_path: Path
) -> None:
    good, bad, odd = (looked.of(reason)[0].id for reason in (None, "flat_line", "detectors_disagree"))
    page = seen.page
    page.goto(sheet.page.as_uri())
    choose(page, good, "unusable")
    choose(page, good, "usable")  # a second thought
    choose(page, bad, "unusable")
    choose(page, odd, "unsure")
    comment(page, odd, 'only the end, "noise"; 3 beats, ü')
    assert page.locator("#told").text_content().startswith("3 of 28 strips")
    saved = save(page, tmp_path)
    assert saved.name == f"verdicts-{sheet.digest[:8]}.csv"
    assert len(list(read_lines(saved))) == 28
    assert page.locator("#told").text_content() == "3 of 28 strips have a verdict"
    told = read_verdicts(looked.site, looked.sessions, saved, "AB")
    assert (told.verdicts, told.open) == (3, 25)
    with looked.sessions() as session:
        said = {row.strip_id: (row.verdict, row.comment) for row in session.scalars(select(Review))}
    assert said == {
        good: ("usable", None),
        bad: ("unusable", None),
        odd: ("unsure", 'only the end, "noise"; 3 beats, ü'),
    }
    assert seen.said == []
    assert {url.split(":")[0] for url in seen.asked} <= {"file", "blob", "data"}


def test_a_comment_without_a_verdict_is_not_saved(
    seen: Any, looked: Any, sheet: Made, tmp_path: Path
) -> None:
    page, strip = seen.page, looked.of("flat_line")[0].id
    page.goto(sheet.page.as_uri())
    comment(page, strip, "what is this?")
    page.locator("#save").click()
    expect(page.locator("#told")).to_contain_text(f"Strip {strip} has a comment")
    choose(page, strip, "unsure")
    save(page, tmp_path)
    assert len(seen.saved) == 1  # the second time; files come in the order in which they were asked for


def test_no_other_script_runs_on_a_sheet(seen: Any, sheet: Made) -> None:
    page = sheet.page.read_text().replace("</main>", "<script>document.title = 'taken'</script></main>")
    sheet.page.write_text(page)
    seen.page.goto(sheet.page.as_uri())
    assert seen.page.title() != "taken"
    assert any("Content Security Policy" in text for text in seen.said)


@pytest.mark.parametrize("width", [1400, 420])
def test_a_sheet_fits_its_window(seen: Any, sheet: Made, width: int) -> None:
    seen.page.set_viewport_size({"width": width, "height": 900})
    seen.page.goto(sheet.page.as_uri())
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    assert seen.page.locator("svg.ecg").count() > 28 * 2


def test_a_sheet_prints_on_a4_with_several_strips_to_a_page(seen: Any, sheet: Made) -> None:
    seen.page.goto(sheet.page.as_uri())
    content = seen.page.pdf(prefer_css_page_size=True)
    pages = content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") + content.count(b"/Type /Page/")
    assert b"/MediaBox [0 0 594.95996 841.91998]" in content
    assert 28 / 4 <= pages <= 28 / 3 + 2

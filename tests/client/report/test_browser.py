"""Reports in a real browser: opened from the disk they ask for nothing, fit the window, sort and print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from client.report.build import build_report

A4_POINTS = b"/MediaBox [0 0 594.95996 841.91998]"
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def index(fabricated: Callable[..., Any]) -> Path:
    """Page of a site with three personal patients, their pages beside it."""
    made = fabricated(models=True, personal=3, generic=12)
    return build_report(made.site, made.sessions)


def a_patient(index: Path) -> Path:
    return sorted((index.parent / "patients").iterdir())[0]


@pytest.mark.parametrize("width", [1100, 400])
def test_pages_open_from_the_disk_fit_and_ask_for_nothing(seen: Any, index: Path, width: int) -> None:
    seen.page.set_viewport_size({"width": width, "height": 900})
    for path, figures in ((index, 8), (a_patient(index), 4)):
        seen.asked.clear()
        seen.page.goto(path.as_uri())
        assert seen.asked == [path.as_uri()]
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
        drawings = seen.page.locator("figure svg[role=img]")
        assert drawings.count() == figures
        for drawing in drawings.all():
            box = drawing.bounding_box()
            assert box is not None
            assert box["height"] > 100
    assert seen.said == []


def test_every_drawing_has_a_name_and_a_description_for_those_who_do_not_see_it(
    seen: Any, index: Path
) -> None:
    for path in (index, a_patient(index)):
        seen.page.goto(path.as_uri())
        for drawing in seen.page.locator("svg[role=img]").all():
            title, text = (drawing.get_attribute("aria-labelledby") or "").split()
            assert len(seen.page.locator(f"#{title}").text_content() or "") > 5
            assert len(seen.page.locator(f"#{text}").text_content() or "") > 20
        assert seen.page.locator("img:not([alt])").count() == 0


def test_the_way_to_a_patient_and_back(seen: Any, index: Path) -> None:
    seen.page.goto(index.as_uri())
    link = seen.page.locator("#patients tbody th a").first
    name = link.text_content()
    link.click()
    assert seen.page.locator("h1").text_content() == f"Patient {name}"
    seen.page.get_by_role("link", name="All patients").click()
    assert seen.page.url == f"{index.as_uri()}#patients"
    assert seen.said == []


def column(page: Page, number: int) -> list[str]:
    return page.locator(f"#patients tbody tr:visible > :nth-child({number})").all_text_contents()


def test_a_table_sorts_by_number_and_by_word_with_the_keyboard_too(seen: Any, index: Path) -> None:
    page = seen.page
    page.goto(index.as_uri())
    heads = page.locator("#patients thead th")
    right = heads.all_text_contents().index("Selected right") + 1
    before = column(page, 1)
    heads.nth(right - 1).get_by_role("button").click()
    numbers = [int(cell.split()[0]) if cell != "–" else None for cell in column(page, right)]
    known = [number for number in numbers if number is not None]
    assert known == sorted(known)
    assert heads.nth(right - 1).get_attribute("aria-sort") == "ascending"
    heads.nth(0).get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert column(page, 1) == sorted(before)
    page.keyboard.press("Enter")
    assert column(page, 1) == sorted(before, reverse=True)
    assert heads.nth(0).get_attribute("aria-sort") == "descending"
    assert page.locator("#patients th[aria-sort]").count() == 1


@pytest.mark.parametrize(
    ("cells", "ascending"),
    [
        (["1,200", "−3", "90", "–"], ["−3", "90", "1,200", "–"]),
        (["+4.5 ▼", "−0.5", "–", "+12.0"], ["−0.5", "+4.5 ▼", "+12.0", "–"]),
        (["10 of 12", "9 of 12", "–", "8 of 9"], ["8 of 9", "9 of 12", "10 of 12", "–"]),
    ],
)
def test_numbers_of_the_page_sort_by_value_and_missing_ones_last(
    seen: Any, index: Path, cells: list[str], ascending: list[str]
) -> None:
    """The table gets other cells in front of the browser; the script is the page's own."""
    page = seen.page
    page.goto(index.as_uri())
    page.evaluate(
        """cells => {
          const body = document.querySelector("#patients tbody"), row = body.rows[0];
          while (body.rows.length < cells.length) body.append(row.cloneNode(true));
          [...body.rows].forEach((own, n) => { own.cells[3].textContent = cells[n]; });
        }""",
        cells,
    )
    head = page.locator("#patients thead th").nth(3).get_by_role("button")
    head.click()
    assert column(page, 4) == ascending
    head.click()
    assert column(page, 4) == [*reversed(ascending[:-1]), ascending[-1]]


def test_a_table_shows_the_rows_that_are_asked_for(seen: Any, index: Path) -> None:
    page = seen.page
    page.goto(index.as_uri())
    names = column(page, 1)
    page.get_by_label("Show rows with").fill(names[1])
    assert column(page, 1) == [names[1]]
    assert page.locator(".search span").text_content() == f"1 of {len(names)} rows"
    page.get_by_label("Show rows with").fill("")
    assert column(page, 1) == names


def test_without_scripts_every_row_is_there_and_nothing_looks_like_a_button(
    browser: Browser, index: Path
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(index.as_uri())
    assert page.locator("#patients tbody tr").count() == 3
    assert page.locator("button, input").count() == 0
    context.close()


def test_a_page_runs_no_script_but_its_own(seen: Any, index: Path, tmp_path: Path) -> None:
    """Whatever a name or a comment of the site's files brings along stays text."""
    hostile = index.read_text().replace("</main>", "<script>document.title = 'taken'</script></main>")
    path = tmp_path / "index.html"
    path.write_text(hostile)
    seen.page.goto(path.as_uri())
    assert seen.page.title() != "taken"
    assert any("Content Security Policy" in text for text in seen.said)


@pytest.mark.parametrize("which", ["site", "patient"])
def test_pages_print_on_a4_within_the_paper(seen: Any, index: Path, which: str) -> None:
    page = seen.page
    page.goto((index if which == "site" else a_patient(index)).as_uri())
    content = page.pdf(prefer_css_page_size=True)
    assert content.startswith(b"%PDF")
    assert A4_POINTS in content
    sheets = content.count(b"/MediaBox")
    assert (8 if which == "site" else 3) <= sheets <= (24 if which == "site" else 9)
    # A4 less its margins is 180 mm wide: laid out at this width nothing is cut off on paper.
    page.emulate_media(media="print")
    page.set_viewport_size({"width": round(180 / 25.4 * 96), "height": 1000})
    assert page.evaluate("document.documentElement.scrollWidth") <= round(180 / 25.4 * 96)

"""A sheet in a real browser: verdicts are clicked, saved as a file, and read back in."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from client.database.tables import Review
from client.review.sheet import Made
from client.review.verdicts import read_lines, read_verdicts

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT_S = 90
POLL_S = 0.05
pytestmark = pytest.mark.browser


class Browser:
    """A headless Chromium that is told what to do through a pipe (Chrome DevTools Protocol)."""

    def __init__(self, program: str, folder: Path) -> None:
        self.downloads = folder / "downloads"
        self.downloads.mkdir()
        self._number = 0
        self.problems: list[str] = []
        self.asked: list[str] = []
        read_end, self._write = os.pipe()
        self._read, write_end = os.pipe()
        words = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-background-networking", f"--user-data-dir={folder / 'profile'}",
            "--remote-debugging-pipe", "--window-size=1400,1000", "about:blank",
        ]  # fmt: skip

        def as_three_and_four() -> None:
            # First out of the way of each other: one of them may be 3 or 4 already.
            down, up = os.dup(read_end), os.dup(write_end)
            os.dup2(down, 3)
            os.dup2(up, 4)

        self._process = subprocess.Popen(
            words,
            close_fds=False,
            preexec_fn=as_three_and_four,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(folder)},
        )
        os.close(read_end)
        os.close(write_end)
        self._left = b""
        self._session = ""
        target = next(one for one in self.tell("Target.getTargets")["targetInfos"] if one["type"] == "page")
        attached = self.tell("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        self.tell("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.tell(f"{domain}.enable")

    def tell(self, method: str, **given: Any) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": given}
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self._note(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            part = os.read(self._read, 1 << 20)
            assert part, "the browser has ended"
            self._left += part
        message, self._left = self._left.split(b"\0", 1)
        return dict(json.loads(message))

    def _note(self, event: dict[str, Any]) -> None:
        name, what = event.get("method"), event.get("params", {})
        if name == "Runtime.exceptionThrown":
            self.problems.append(str(what["exceptionDetails"].get("exception", what)))
        if name == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            self.problems.append(what["entry"]["text"])
        if name == "Network.requestWillBeSent":
            self.asked.append(what["request"]["url"])

    def open(self, page: Path) -> None:
        """Open a page and wait until it is there."""
        self.tell("Page.navigate", url=page.as_uri())
        self.until("document.readyState === 'complete' && document.getElementById('verdicts') !== null")

    def ask(self, expression: str) -> Any:
        """Return what an expression is worth on the page."""
        answer = self.tell("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until an expression holds."""
        end = time.monotonic() + WAIT_S
        while not self.ask(expression):
            assert time.monotonic() < end, expression
            time.sleep(POLL_S)

    def click(self, selector: str) -> None:
        """Press the mouse on an element, as a hand would."""
        x, y = self.ask(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect(); "
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.tell("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def write(self, text: str) -> None:
        """Type into the element that has the focus."""
        self.tell("Input.insertText", text=text)

    def saved(self) -> Path:
        """Wait for a file that was saved."""
        end = time.monotonic() + WAIT_S
        while True:
            found = [path for path in self.downloads.iterdir() if path.suffix == ".csv"]
            if found and found[0].stat().st_size:
                return found[0]
            assert time.monotonic() < end, "no file was saved"
            time.sleep(POLL_S)

    def printed(self) -> bytes:
        """Return the page as PDF."""
        return base64.b64decode(self.tell("Page.printToPDF", preferCSSPageSize=True)["data"])

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(timeout=WAIT_S)
        os.close(self._write)
        os.close(self._read)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """Start a Chromium of the test's own; skips where none is installed."""
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed: no page can be rendered")
    folder = tmp_path / "browser"
    folder.mkdir()
    started = Browser(program, folder)
    yield started
    started.close()


def choose(browser: Browser, strip: int, verdict: str) -> None:
    browser.click(f"fieldset[data-strip='{strip}'] input[value={verdict}]")


def test_verdicts_that_are_clicked_come_back_into_the_database(browser: Browser, looked: Any, sheet: Made):
    good, bad, odd = (looked.of(reason)[0].id for reason in (None, "flat_line", "detectors_disagree"))
    browser.open(sheet.page)
    choose(browser, good, "unusable")
    choose(browser, good, "usable")  # a second thought
    choose(browser, bad, "unusable")
    choose(browser, odd, "unsure")
    browser.click(f"fieldset[data-strip='{odd}'] input[type=text]")
    browser.write('only the end, "noise"; 3 beats, ü')
    assert browser.ask("document.getElementById('told').textContent").startswith("3 of 28 strips")
    browser.click("#save")
    saved = browser.saved()
    assert saved.name == f"verdicts-{sheet.digest[:8]}.csv"
    assert len(list(read_lines(saved))) == 28
    assert browser.ask("document.getElementById('told').textContent") == "3 of 28 strips have a verdict"
    told = read_verdicts(looked.site, looked.sessions, saved, "AB")
    assert (told.verdicts, told.open) == (3, 25)
    with looked.sessions() as session:
        said = {row.strip_id: (row.verdict, row.comment) for row in session.scalars(select(Review))}
    assert said == {
        good: ("usable", None),
        bad: ("unusable", None),
        odd: ("unsure", 'only the end, "noise"; 3 beats, ü'),
    }
    assert browser.problems == []
    assert {url.split(":")[0] for url in browser.asked} <= {"file", "blob", "data"}


def test_a_comment_without_a_verdict_is_not_saved(browser: Browser, looked: Any, sheet: Made):
    strip = looked.of("flat_line")[0].id
    browser.open(sheet.page)
    browser.click(f"fieldset[data-strip='{strip}'] input[type=text]")
    browser.write("what is this?")
    browser.click("#save")
    browser.until(f"document.getElementById('told').textContent.startsWith('Strip {strip} has a comment')")
    time.sleep(0.5)
    assert list(browser.downloads.iterdir()) == []


def test_no_other_script_runs_on_a_sheet(browser: Browser, sheet: Made):
    page = sheet.page.read_text().replace("</main>", "<script>document.title = 'taken'</script></main>")
    sheet.page.write_text(page)
    browser.open(sheet.page)
    assert browser.ask("document.title") != "taken"
    assert any("Content Security Policy" in problem for problem in browser.problems)


@pytest.mark.parametrize("width", [1400, 420])
def test_a_sheet_fits_its_window(browser: Browser, sheet: Made, width: int):
    browser.tell(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
    )
    browser.open(sheet.page)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask("document.querySelectorAll('svg.ecg').length") > 28 * 2


def test_a_sheet_prints_on_a4_with_several_strips_to_a_page(browser: Browser, sheet: Made):
    browser.open(sheet.page)
    content = browser.printed()
    pages = content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") + content.count(b"/Type /Page/")
    assert b"/MediaBox [0 0 594.95996 841.91998]" in content
    assert 28 / 4 <= pages <= 28 / 3 + 2

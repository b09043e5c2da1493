"""A report in a real browser: nothing is asked of the network, nothing overflows, it prints on A4."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from client.report.build import build_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
START_S = 60
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> str:
    """Path of a Chromium; tests that need it skip where there is none."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed: no page can be rendered")
    return found


@pytest.fixture(scope="module")
def served(fabricated: Callable[..., Any]) -> Iterator[tuple[str, list[str], Path]]:
    """Serve one report, and a frame that measures it at a width; remember what was asked for."""
    made = fabricated(models=True)
    path = build_report(made.site, made.sessions)
    page, asked = path.read_bytes(), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = FRAME if self.path.startswith("/frame") else page
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked, path
    server.shutdown()
    thread.join()
    server.server_close()


FRAME = b"""<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><body style="margin:0">
<iframe id="page" style="border:0;height:900px"></iframe><pre id="out"></pre><script>
const width = new URLSearchParams(location.search).get("width");
const frame = document.getElementById("page");
frame.style.width = width + "px";
frame.onload = () => {
  const inside = frame.contentDocument;
  document.getElementById("out").textContent = JSON.stringify({
    page: inside.documentElement.scrollWidth,
    figures: inside.querySelectorAll("figure svg[role=img]").length,
    scripts: inside.scripts.length,
    broken: inside.querySelectorAll("figure svg[role=img]:not([viewBox])").length,
  });
};
frame.src = "/report";
</script>"""


def run_browser(browser: str, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr", "--v=0", *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(tmp_path)}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=START_S, check=False, env=environment
    )


@pytest.mark.parametrize("width", [1100, 400])
def test_a_page_fits_its_window_and_asks_for_nothing(
    browser: str, served: tuple[str, list[str], Path], tmp_path: Path, width: int
) -> None:
    address, asked, _ = served
    asked.clear()
    ended = run_browser(
        browser, tmp_path, "--virtual-time-budget=5000", "--dump-dom", f"{address}/frame?width={width}"
    )
    found = json.loads(ended.stdout.split('<pre id="out">')[1].split("</pre>")[0])
    assert found["page"] <= width
    assert (found["figures"], found["scripts"], found["broken"]) == (6, 0, 0)
    assert sorted(asked) == [f"/frame?width={width}", "/report"]
    assert "CONSOLE" not in ended.stderr


def test_a_report_prints_on_a4(browser: str, served: tuple[str, list[str], Path], tmp_path: Path) -> None:
    pdf = tmp_path / "report.pdf"
    run_browser(browser, tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={pdf}", served[2].as_uri())
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    pages = content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") + content.count(b"/Type /Page/")
    assert 4 <= pages <= 12
    assert b"/MediaBox [0 0 594.95996 841.91998]" in content  # A4 in points

"""What left between two moments, as ``audit show`` tells it: only what the gate itself wrote."""

from __future__ import annotations

import io
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.gate.ledger import ledger_of, make_key, record
from client.gate.outgoing import entries, outgoing
from client.site import write_site_file
from common import protocol
from common.errors import LedgerError
from common.logs import PlainReporter, current_reporter, use_reporter

WHEN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a site folder from which three replies have left, a day apart."""
    source = {"kind": "mimic3", "folder": "."}
    write_site_file(tmp_path, name="north", source=source, settings={})
    make_key(tmp_path / "gate")
    for day in range(3):
        content = protocol.reply({"train-beats": 21 + day})
        when = WHEN + timedelta(days=day)
        record(ledger_of(tmp_path / "gate"), protocol.ROUND, 7 + day // 2, content, when)
    return tmp_path


def show(site: Path, *options: str) -> tuple[str, BaseException | None]:
    """Run ``audit show``; return what it says and what it ends with."""
    before, out = current_reporter(), io.StringIO()
    use_reporter(PlainReporter(out))
    try:
        done = CliRunner().invoke(app, ["audit", "show", str(site), *options])
    finally:
        use_reporter(before)
    return out.getvalue(), done.exception


def test_replies_are_counted_by_run_between_two_days(site: Path) -> None:
    shown = json.loads(show(site, "--json")[0])
    assert [(row["run"], row["replies"], row["keys"]) for row in shown["rows"]] == [
        (7, 2, {"metrics.train-beats": 2}),
        (8, 1, {"metrics.train-beats": 1}),
    ]
    from_the_second, _ = show(site, "--json", "--since", "2026-03-02T00:00+00:00")
    assert [row["replies"] for row in json.loads(from_the_second)["rows"]] == [1, 1]
    table, _ = show(site, "--values")
    assert "metrics.train-beats = 22 (int)" in table
    assert re.search(r"^all +3 +6$", table, re.MULTILINE)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"value":21', b'"value":99'), (b'"bytes":2,', b""), (b'"type":"train.round"', b'"type":"none"')],
)
def test_a_line_that_was_edited_is_not_shown_as_what_left(site: Path, old: bytes, new: bytes) -> None:
    path = site / "gate" / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(LedgerError, match="'fedkalemia-site audit verify' names it"):
        outgoing(entries(site / "gate"))
    said, ended = show(site)
    assert isinstance(ended, LedgerError)
    assert not said

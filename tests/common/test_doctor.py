"""A check-up shows one line per finding, a red one says what to do, and its exit code follows the worst."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.doctor import Check, attempt, clock, disk, expiry, health, lines, secret_file, show
from common.errors import FederationError, IdentityError
from common.identity import read_certificate, write_secret
from common.logs import PlainReporter, use_reporter
from server.coordinator import make_coordinator
from server.pki import init

NOW = datetime(2030, 1, 1, tzinfo=UTC)
OK, BAD = Check("disk", "ok", "fine"), Check("certificate", "failed", "expired", "renew it")


def test_a_red_line_carries_its_advice_and_the_lines_are_aligned() -> None:
    shown = list(lines([OK, BAD, Check("x", "not checked", "from here")]))
    assert [line.index(text) for line, text in zip(shown[:2], ("fine", "expired"), strict=True)] == [26, 26]
    assert shown[2].strip() == "-> renew it"
    assert shown[-1] == "1 ok, 0 warnings, 1 failed"


@pytest.mark.parametrize("state", ["warning", "failed"])
def test_nothing_is_wrong_without_advice(state: str) -> None:
    with pytest.raises(ValueError, match="must say what to do"):
        Check("disk", state, "full")  # type: ignore[arg-type]


def test_only_a_failure_ends_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    use_reporter(PlainReporter())
    try:
        assert show([OK, Check("a", "warning", "b", "c"), Check("d", "not checked", "e")]) == 0
        assert show([OK, BAD]) == 2
        capsys.readouterr()
        assert show([OK, BAD], as_json=True) == 2
        found = json.loads(capsys.readouterr().out)
    finally:
        use_reporter(None)
    assert found[1] == {"name": "certificate", "state": "failed", "text": "expired", "advice": "renew it"}


def test_an_error_of_a_check_is_a_red_line_and_the_others_go_on() -> None:
    def broken() -> Check:
        raise IdentityError("the key is gone")

    def unreadable() -> Check:
        raise PermissionError(13, "Permission denied", "pki/ca.crt")

    assert attempt("key", broken, "restore it") == [Check("key", "failed", "the key is gone", "restore it")]
    assert attempt("key", unreadable, "x")[0].text == "pki/ca.crt Permission denied"
    assert attempt("two", lambda: [OK, OK], "x") == [OK, OK]


def test_a_certificate_is_warned_about_30_days_ahead_and_red_once_it_ended(tmp_path: Path) -> None:
    home = make_coordinator(tmp_path / "home", ("localhost",))
    init(home, days=100, now=NOW)
    certificate = read_certificate(home.certificate)
    days = {0: "ok", 69: "ok", 71: "warning", 99: "warning", 101: "failed", -2: "failed"}
    for after, state in days.items():
        assert expiry("certificate", certificate, NOW + timedelta(days=after), "renew").state == state, after


def test_a_secret_that_others_may_read_is_red(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    assert secret_file("s", path, "make it").state == "failed"
    write_secret(path, b"x")
    assert secret_file("s", path, "make it").state == "ok"
    path.chmod(0o640)
    assert "chmod 600" in secret_file("s", path, "make it").advice
    path.write_bytes(b"")
    assert "empty" in secret_file("s", path, "make it").text


def test_the_disk_is_measured_against_both_limits(tmp_path: Path) -> None:
    assert disk(tmp_path, warn_gib=0, fail_gib=0).state == "ok"
    assert disk(tmp_path, warn_gib=1e9, fail_gib=0).state == "warning"
    assert disk(tmp_path / "not" / "there", warn_gib=1e9, fail_gib=1e9).state == "failed"


def test_a_clock_that_the_engine_would_refuse_is_red() -> None:
    # The engine takes signatures up to 5 s from the future and 305 s from the past.
    states = {0.0: "ok", 1.5: "ok", 3: "warning", 6: "failed", -3: "warning", -200: "warning", -310: "failed"}
    assert {ahead: clock(ahead).state for ahead in states} == states
    assert "ahead of" in clock(60).text
    assert "behind" in clock(-60).text


def test_a_port_where_something_else_listens_does_not_pass_for_the_server(tmp_path: Path) -> None:
    home = make_coordinator(tmp_path / "home", ("localhost",))
    init(home)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            health("127.0.0.1", port, home.authority)
    with pytest.raises(FederationError, match="does not answer"):
        health("no.such.host.invalid", 1, home.authority)

"""A check-up shows one line per finding, a red one says what to do, and its exit code follows the worst."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.doctor import Check, attempt, disk, expiry, lines, secret_file, show
from common.errors import IdentityError
from common.health import NoAnswerError, ask, clock
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
    assert shown[-1] == "1 ok, 0 warnings, 1 failed, 1 not checked"


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

    def knows() -> Check:
        raise IdentityError("ca.crt is missing; put it there")

    assert attempt("ca", knows, "") == [Check("ca", "failed", "ca.crt is missing", "put it there")]
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
    from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

    assert (SYSTEM_TIME_TOLERANCE, SYSTEM_TIME_TOLERANCE + TIMESTAMP_TOLERANCE) == (5, 305)
    states = {0.0: "ok", 1.5: "ok", 3: "warning", 6: "failed", -3: "warning", -300: "warning", -310: "failed"}
    assert {ahead: clock(ahead).state for ahead in states} == states
    assert "ahead of" in clock(60).text
    assert "behind" in clock(-60).text
    assert clock(None).state == "not checked"


def test_a_port_where_something_else_listens_does_not_pass_for_the_server(tmp_path: Path) -> None:
    home = make_coordinator(tmp_path / "home", ("localhost",))
    init(home)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(NoAnswerError, match=f"nothing listens on 127.0.0.1:{port}") as raised:
            ask("127.0.0.1", port, home.authority)
        assert raised.value.kind == "refused"
    with pytest.raises(NoAnswerError, match="the name is not known here") as raised:
        ask("no.such.host.invalid", 1, home.authority)
    assert raised.value.kind == "unreachable"


def test_states_are_coloured_on_a_terminal_only(tmp_path: Path) -> None:
    script = "from common.doctor import Check, show\nfrom common.logs import *\nimport sys\n"
    script += "use_reporter(reporter_for(sys.stdout))\n"
    script += "show([Check('a', 'ok', 'x'), Check('b', 'failed', '[red]y', 'z')])"
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    ours, theirs = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", script], stdout=theirs, env=environment, timeout=60, check=True)
        shown = os.read(ours, 10_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "\x1b[1;31mfailed" in shown
    assert "\x1b[32mok" in shown
    assert "[red]y" in shown
    plain = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, timeout=60)
    assert b"\x1b" not in plain.stdout

import io
import threading

import pytest
from rich.console import Console

from common.logs import (
    PlainReporter,
    TerminalReporter,
    current_reporter,
    duration,
    say,
    site_log,
    stage,
    use_reporter,
)


@pytest.fixture
def lines():
    out = io.StringIO()
    before = current_reporter()
    use_reporter(PlainReporter(out, every_s=0.0))
    yield lambda: out.getvalue().splitlines()
    use_reporter(before)


def test_plain_lines_say_stage_unit_time_left_and_how_it_stands(lines):
    with stage("Federated training", total=3, unit="federated round") as progress:
        for _ in range(3):
            progress.advance(text="validation loss 0.41")
    shown = lines()
    assert shown[0] == "Federated training (3 federated rounds) ..."
    assert shown[1].startswith("Federated training: federated round 1 of 3, about ")
    assert shown[1].endswith("validation loss 0.41")
    assert shown[-1].startswith("Federated training: done in ")


def test_a_stage_that_fails_says_stopped(lines):
    with pytest.raises(ValueError, match="broken"), stage("Reading hospital files"):
        raise ValueError("broken")
    assert lines()[-1].startswith("Reading hospital files: stopped")


def test_stages_of_several_sites_may_run_at_once(lines):
    def work(name: str) -> None:
        with stage(name, total=50) as progress:
            for _ in range(50):
                progress.advance()

    threads = [threading.Thread(target=work, args=(f"site-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(any(line.startswith(f"site-{n}: done") for line in lines()) for n in range(4))


def test_a_library_call_is_silent(capsys):
    use_reporter(None)
    with stage("quiet", total=1) as progress:
        progress.advance()
    say("nothing")
    assert capsys.readouterr().out == ""


def test_a_terminal_shows_a_bar_for_every_site_and_leaves_paths_whole():
    out = io.StringIO()
    before = current_reporter()
    use_reporter(TerminalReporter(Console(file=out, force_terminal=True, width=100)))
    try:
        with (
            stage("Reading the files of north", total=2) as north,
            stage("Reading the files of harbor") as harbor,
        ):
            north.advance(text="12 strips")
            harbor.advance()
        say("/a/long/path" * 12)
    finally:
        use_reporter(before)
    shown = out.getvalue()
    assert "Reading the files of north" in shown
    assert "Reading the files of harbor" in shown
    assert "12 strips" in shown
    assert "/a/long/path" * 12 in shown


def test_what_an_earlier_run_did_does_not_count_for_the_time_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("common.logs.time.monotonic", lambda: now[0])
    out, before = io.StringIO(), current_reporter()
    use_reporter(PlainReporter(out, every_s=0.0))
    try:
        with stage("Federated training", total=20, unit="federated round") as progress:
            progress.advance(15)
            now[0] += 60.0
            progress.advance()
    finally:
        use_reporter(before)
    assert "federated round 16 of 20, about 4 min 00 s left" in out.getvalue()


def test_a_log_on_a_full_disk_is_silent(tmp_path, capsys):
    log = site_log(tmp_path / "site.log")
    (tmp_path / "site.log").symlink_to("/dev/full")
    log.error("the disk is full")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0.4 s"), (12, "12 s"), (125, "2 min 05 s"), (4320, "1 h 12 min")]
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text

import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


def run(*words: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [str(BIN / words[0]), *words[1:]],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **variables},
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("command", ["fedkalemia-site", "fedkalemia-server", "fedkalemia-sim"])
def test_help_is_shown_and_names_the_commands(command):
    shown = run(command, "--help")
    assert shown.returncode == 0
    assert "Usage" in shown.stdout


def test_the_help_of_arguments_is_shown():
    """Some pairs of typer and click show options only."""
    done = run("fedkalemia-server", "site", "add", "--help")
    assert "made by 'pki init'" in done.stdout


def test_a_folder_named_like_a_room_in_the_working_directory_does_not_shadow_it(tmp_path):
    for room in ("common", "client", "server"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("raise SystemExit('the wrong package')\n")
    assert run("fedkalemia-server", "messages", cwd=tmp_path).returncode == 0


def test_a_shadowing_package_on_the_path_is_refused_by_name(tmp_path):
    (tmp_path / "simulation").mkdir()
    (tmp_path / "simulation" / "__init__.py").write_text("")
    shown = run("fedkalemia-server", "messages", PYTHONPATH=str(tmp_path))
    assert shown.returncode == 2
    assert "simulation" in shown.stderr
    assert "PYTHONPATH" in shown.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("fedkalemia-site", "ingest", "{tmp}"), "has no site.toml"),
        (("fedkalemia-sim", "run", "--source", "mitbih", "--out", "{tmp}/run"), "--data"),
        (("fedkalemia-sim", "run", "--source", "mimic", "--out", "{tmp}/run"), "allowed: mitbih, synthetic"),
        (("fedkalemia-sim", "run", "--source", "mitbih", "--data", "{tmp}", "--out", "{tmp}/run"), ".atr"),
        (("fedkalemia-sim", "settings", "--set", "sead=1"), "did you mean 'seed'"),
        (("fedkalemia-sim", "run", "--sauce", "x"), "No such option"),
    ],
)
def test_what_a_person_can_act_on_is_one_sentence_and_exit_code_2(command, tmp_path, words, says):
    shown = command(*(word.format(tmp=tmp_path) for word in words))
    assert shown.code == 2
    assert says in shown.err.replace("\n", " ")
    assert "Traceback" not in shown.err


def test_a_process_of_its_own_ends_as_well(tmp_path):
    shown = run("fedkalemia-site", "ingest", str(tmp_path))
    assert shown.returncode == 2
    assert "has no site.toml" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1


def test_ctrl_c_that_lands_in_a_finalizer_is_not_lost(tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(
        "import threading, typer\n"
        "from common import command\n"
        "app = typer.Typer(pretty_exceptions_enable=False)\n"
        "class Dropped:\n"
        "    def __del__(self):\n"
        "        raise KeyboardInterrupt\n"
        "@app.command()\n"
        "def main():\n"
        "    Dropped()\n"
        "    threading.Event().wait(3)\n"
        "    print('went on')\n"
        "command.run_app(app)\n"
    )
    shown = run("python", str(script))
    assert shown.returncode == 130
    assert "went on" not in shown.stdout
    assert "Stopped." in shown.stderr


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_command_that_is_told_to_stop_says_so_in_one_line(tmp_path, number, code):
    script = tmp_path / "told.py"
    script.write_text(
        "import signal, threading, typer\n"
        "from common import command\n"
        "app = typer.Typer(pretty_exceptions_enable=False)\n"
        "@app.command()\n"
        "def main():\n"
        "    try:\n"
        f"        signal.raise_signal(signal.{number})\n"
        "        threading.Event().wait(20)\n"
        "    finally:\n"
        "        print('cleaned up')\n"
        "command.run_app(app)\n"
    )
    shown = run("python", str(script))
    assert (shown.returncode, shown.stdout) == (code, "cleaned up\n")
    assert shown.stderr == "Stopped. Nothing is half-written; the same command goes on from here.\n"


def test_names_that_leave_the_site_folder_are_refused(command, tmp_path):
    site = tmp_path / "site"
    assert command("fedkalemia-site", "init", site, "--name", "a", "--data", tmp_path).code == 0
    shown = command("fedkalemia-site", "cohort", site, "--train", tmp_path / "nofile")
    assert shown.code == 2
    assert "run 'fedkalemia-site ingest" in shown.err
    assert command("fedkalemia-site", "cohort", site, "--name", "../../x").code == 2

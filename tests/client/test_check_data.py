"""``fedkalemia-site check-data``: what fits, what does not, in which file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from client.cli import app
from client.data.checking import MOST_KEPT, Findings, Level
from common.errors import ConfigurationError, SourceError
from common.logs import PlainReporter, use_reporter

MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def _silent_again() -> Iterator[None]:
    yield
    use_reporter(None)


def check(folder: Path, *options: str) -> tuple[int, str]:
    use_reporter(PlainReporter())  # what the command line does in ``main`` for a pipe
    result = CliRunner().invoke(app, ["check-data", str(folder), *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def found(folder: Path) -> tuple[int, dict[str, Any], dict[tuple[str, str], list[dict[str, Any]]]]:
    """Return exit code, the answer for programs, and its findings by level and kind."""
    code, text = check(folder, "--json")
    answer = json.loads(text)
    return code, answer, {(one["level"], one["kind"]): one["first"] for one in answer["findings"]}


def test_a_folder_in_which_all_fits(small_folder: Any) -> None:
    small_folder.write()
    before = sorted((path, path.stat().st_mtime_ns) for path in small_folder.root.rglob("*"))
    code, text = check(small_folder.root)
    assert code == 0
    assert "2 draws of 2 patients: 1 positive, 1 negative, 0 gap; excluded: none" in text
    assert "2 have a recording of lead II over the whole window before them, 0 over a part" in text
    assert "2 recordings with lead II, 0.3 h" in text
    assert text.endswith("can be ingested as source.kind = 'folder'\n")
    assert "warning" not in text
    assert sorted((path, path.stat().st_mtime_ns) for path in small_folder.root.rglob("*")) == before


def test_the_answer_for_programs_is_json_and_nothing_else(small_folder: Any) -> None:
    small_folder.write()
    code, answer, findings = found(small_folder.root)
    assert (code, answer["fits"], answer["layout"], findings) == (0, True, "folder", {})
    assert answer["draws_by_label"] == {"negative": 1, "positive": 1}
    assert answer["windows"] == {"whole": 2, "part": 0, "none": 0}


def test_every_wrong_line_is_named_at_once(small_folder: Any) -> None:
    path = small_folder.write()
    rows = [
        "p1,31.01.2050 08:00,4.1,mmol/L",
        "p1,2050-03-01 08:10:00,4,1,mmol/L",
        'p2,2050-03-01 08:10:00,"6,1",mmol/L',
        "p2,2050-03-01 08:10:00",
        "../p2,2050-03-01 08:10:00,5,mmol/L",
    ]
    path.write_text(path.read_text() + "\n".join(rows) + "\n")
    small_folder.table("patients", ("patient", "age"), [("p1", "64"), ("p2", "old")])
    small_folder.table("stays", ("patient", "start", "end"), [("p1", "2050-02-28", "2050-02-27")])
    code, answer, findings = found(small_folder.root)
    assert code == 2
    where = {
        (kind, one["file"], one["line"], one["value"])
        for (level, kind), first in findings.items()
        for one in first
        if level == "error"
    }
    assert where == {
        ("bad-time", "draws.csv", 4, "31.01.2050 08:00"),
        ("bad-csv", "draws.csv", 5, None),
        ("bad-number", "draws.csv", 6, "6,1"),
        ("short-row", "draws.csv", 7, None),
        ("bad-key", "draws.csv", 8, "../p2"),
        ("bad-number", "patients.csv", 3, "old"),
        ("bad-time", "stays.csv", 2, "2050-02-28 to 2050-02-27"),
    }
    assert answer["errors"] == 7
    text = check(small_folder.root)[1]
    assert "error: draws.csv, line 4: a time is not written like 2150-01-31 08:05:00" in text
    assert "(found '31.01.2050 08:00') [bad-time]" in text
    assert "7 errors: must be fixed before an ingest can run" in text


def test_of_very_many_wrong_lines_some_are_shown_and_all_are_counted(small_folder: Any) -> None:
    path = small_folder.write()
    path.write_text(path.read_text() + "p1,someday,4.1,mmol/L\n" * 1000)
    code, answer, findings = found(small_folder.root)
    assert (code, answer["errors"], len(findings["error", "bad-time"])) == (2, 1000, MOST_KEPT)
    assert f"error: and {1000 - MOST_KEPT} more like this [bad-time]" in check(small_folder.root)[1]


def test_what_an_ingest_excludes_is_told_beforehand(small_folder: Any) -> None:
    t0 = small_folder.t0
    small_folder.draw("p1", t0 + 60 * MINUTE, "pending")
    small_folder.draw("p1", t0 + 120 * MINUTE, 4.1, unit="mg/dL")
    small_folder.draw("p1", t0 + 180 * MINUTE, 41)
    small_folder.draw("p1", t0 + 240 * MINUTE, 3.1)
    small_folder.draw("p2", t0 + 10 * MINUTE, 6.1)
    small_folder.draws.append(("p2", "", 4.0, "mmol/L"))
    small_folder.write()
    code, answer, findings = found(small_folder.root)
    assert (code, answer["fits"]) == (0, True)
    lines = {kind: [(one["line"], one["value"]) for one in first] for (_, kind), first in findings.items()}
    assert lines == {
        "no-time": [(9, None)],
        "duplicate-draw": [(8, None)],
        "no_numeric_value": [(4, "pending")],
        "wrong_unit": [(5, "mg/dL")],
        "implausible_value": [(6, "41")],
    }
    assert answer["draws_by_label"] == {
        "implausible_value": 1,
        "low_potassium": 1,
        "merged_into": 1,
        "negative": 1,
        "no_numeric_value": 1,
        "positive": 1,
        "wrong_unit": 1,
    }


def test_patients_and_signals_are_compared_by_name(small_folder: Any) -> None:
    t0 = small_folder.t0
    small_folder.csv("P1", t0, np.zeros(250))
    small_folder.csv("p9", t0, np.zeros(250))
    small_folder.draw("p3", t0, 4.0)
    (small_folder.signals / "list.txt").write_text("?")
    (small_folder.folder("p1") / "trend.xlsx").write_text("?")
    small_folder.folder("p1/old")
    small_folder.write()
    code, answer, findings = found(small_folder.root)
    unknown = {one["file"]: one["text"] for one in findings["warning", "unknown-patient"]}
    assert set(unknown) == {"signals/P1", "signals/p9"}
    assert "'p1' is written otherwise" in unknown["signals/P1"]
    assert [one["value"] for one in findings["warning", "no-signals"]] == ["p3"]
    ignored = {one["file"] for one in findings["warning", "ignored-file"]}
    assert ignored == {"signals/list.txt", "signals/p1/trend.xlsx", "signals/p1/old"}
    assert (code, answer["windows"]) == (0, {"whole": 2, "part": 0, "none": 1})


def test_recordings_that_cannot_be_read_are_named_with_their_reason(small_folder: Any) -> None:
    t0 = small_folder.t0
    folder = small_folder.folder("p1")
    (folder / "no-start.hea").write_text("no-start 1 125 100\nno-start.dat 16 1000/mV 16 0 0 0 0 II\n")
    (folder / "damaged.hea").write_text("nonsense\n")
    (folder / "slow.csv").write_text("# start: 2050-03-01 08:00:00\n# rate_hz: 1\n# unit: mV\nII\n1\n")
    small_folder.edf("p1", t0 + 300 * MINUTE, np.zeros(1250), "lead-v", label="ECG V")
    overlapping = small_folder.csv("p2", t0 + 5 * MINUTE, np.zeros(12500), "b")
    gone = small_folder.wfdb("p2", t0 + 600 * MINUTE, np.zeros(12500), "gone")
    gone.with_suffix(".dat").unlink()
    cut = small_folder.edf("p2", t0 + 700 * MINUTE, np.zeros(12500), "cut")
    cut.write_bytes(cut.read_bytes()[:-9000])
    small_folder.write()
    code, answer, findings = found(small_folder.root)
    files = {
        one["file"].removeprefix("signals/"): (kind, one["text"])
        for (level, kind), first in findings.items()
        for one in first
    }
    assert {file: kind for file, (kind, _) in files.items()} == {
        "p1/no-start.hea": "bad-header",
        "p1/damaged.hea": "bad-header",
        "p1/slow.csv": "bad-number",
        "p1/lead-v.edf": "no-lead-ii",
        "p2/b.csv": "overlap",
        "p2/gone.hea": "bad-signal-file",
        "p2/cut.edf": "bad-signal-file",
    }
    assert "no start" in files["p1/no-start.hea"][1]
    assert "rate_hz" in files["p1/slow.csv"][1]
    assert "overlaps in time with p2/a.csv" in files[f"p2/{overlapping.name}"][1]
    assert "the last 0:00:30 of what the header promises are missing" in files["p2/cut.edf"][1]
    assert (code, answer["errors"]) == (0, 0)


def test_each_sample_of_a_csv_signal_is_looked_at(small_folder: Any) -> None:
    small_folder.write()
    path = small_folder.signals / "p1" / "a.csv"
    lines = path.read_text().splitlines()
    lines[1000], lines[70_000] = "0,5", "n/a"
    path.write_text("\n".join(lines) + "\n")
    code, _, findings = found(small_folder.root)
    assert code == 0
    told = [
        (kind, one["file"], one["line"], one["value"])
        for (_, kind), first in findings.items()
        for one in first
    ]
    assert told == [
        ("short-row", "signals/p1/a.csv", 1001, "0,5"),
        ("bad-number", "signals/p1/a.csv", 70_001, "n/a"),
    ]


def test_draws_are_counted_by_how_much_of_their_window_was_recorded(small_folder: Any) -> None:
    t0 = small_folder.t0
    small_folder.draw("p1", t0 + 14 * MINUTE, 4.1)
    small_folder.draws[-1] = ("p2", (t0 + 45 * MINUTE).isoformat(" "), 6.4, "mmol/L")
    small_folder.draw("p2", t0 + 85 * MINUTE, 6.4)
    small_folder.csv("p2", t0 + 40 * MINUTE, small_folder.lead_ii(240), "b")
    small_folder.write()
    _, answer, findings = found(small_folder.root)
    assert answer["windows"] == {"whole": 2, "part": 1, "none": 1}
    assert [one["line"] for one in findings["warning", "no_waveform"]] == [5]


def test_two_recordings_together_cover_a_window(plain_folder: Any) -> None:
    t0 = plain_folder.t0
    plain_folder.draw("p1", t0 + 10 * MINUTE, 4.1)
    plain_folder.wfdb("p1", t0, plain_folder.lead_ii(300), "a")
    plain_folder.edf("p1", t0 + 5 * MINUTE, plain_folder.lead_ii(300), "b")
    plain_folder.write()
    assert found(plain_folder.root)[1]["windows"] == {"whole": 1, "part": 0, "none": 0}


def test_clocks_that_never_meet_must_be_fixed(small_folder: Any) -> None:
    small_folder.draws = [(row[0], "2050-03-02 08:10:00", *row[2:]) for row in small_folder.draws]
    small_folder.write()
    code, _, findings = found(small_folder.root)
    assert code == 2
    assert "use one clock" in findings["error", "no-window"][0]["text"]


def test_stays_that_fit_nothing_are_told(small_folder: Any) -> None:
    t0 = small_folder.t0
    day = timedelta(days=1)
    small_folder.write()
    small_folder.table("stays", ("patient", "start", "end"), [("p1", t0 - 9 * day, t0 - 8 * day)])
    code, _, findings = found(small_folder.root)
    assert [one["value"] for one in findings["warning", "patient-not-listed"]] == ["p2"]
    assert [one["line"] for one in findings["warning", "not_in_stay"]] == [2, 3]
    assert [one["file"] for one in findings["warning", "no_clinical_overlap"]] == [
        "signals/p1/a.csv",
        "signals/p2/a.csv",
    ]
    assert code == 0


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "empty-table"),
        ("patient,time,potassium,unit\n", "no-draws"),
        ("patient,potassium,unit\np1,4.1,mmol/L\n", "missing-column"),
        ("patient;time;potassium;unit\np1;2050-03-01;4.1;mmol/L\n", "missing-column"),
        ("patient,time,potassium,unit\rp1,2050-03-01,4.1,mmol/L\r", "bad-csv"),
        ("p\x00a\x00t\x00\n", "bad-csv"),
    ],
)
def test_a_table_that_cannot_be_read_must_be_fixed(small_folder: Any, text: str, kind: str) -> None:
    small_folder.write().write_text(text)
    code, _, findings = found(small_folder.root)
    assert code == 2
    assert ("error", kind) in findings


def test_a_value_that_a_terminal_would_obey_is_written_out(small_folder: Any) -> None:
    small_folder.draw("p1", small_folder.t0, "\x1b[31m\x07")
    small_folder.write()
    text = check(small_folder.root)[1]
    assert "\x1b" not in text
    assert "\\x1b[31m" in text


def test_the_template_passes_its_own_check_and_explains_every_column(tmp_path: Path) -> None:
    folder = tmp_path / "example"
    code, text = check(folder, "--template")
    assert (code, f"next: fedkalemia-site check-data {folder}" in text) == (0, True)
    readme = (folder / "README.txt").read_text()
    for table in ("draws", "patients", "stays"):
        for column in (folder / f"{table}.csv").read_text().splitlines()[0].split(","):
            assert f"  {column}" in readme or f", {column}" in readme
    code, answer, findings = found(folder)
    assert (code, findings, answer["windows"]) == (0, {}, {"whole": 2, "part": 0, "none": 0})
    assert {path.suffix for path in (folder / "signals").rglob("*") if path.is_file()} == {
        ".csv",
        ".hea",
        ".dat",
    }


def test_a_template_never_takes_the_place_of_files(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("precious")
    with pytest.raises(ConfigurationError, match="name a folder that is not there yet"):
        check(tmp_path, "--template")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"]


def test_a_folder_that_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is no folder"):
        check(tmp_path / "nowhere")


def test_a_folder_of_no_known_layout_must_be_fixed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    code, text = check(tmp_path)
    assert code == 2
    assert "check-data --template DIR" in text


def test_findings_are_told_errors_first(tmp_path: Path) -> None:
    findings = Findings(tmp_path)
    findings.add(Level.WARNING, "b", "second")
    findings.error(
        SourceError(f"{tmp_path}/t.csv, line 7: first", problem="a"), Level.ERROR, tmp_path / "t.csv"
    )
    assert list(findings.lines()) == ["error: t.csv, line 7: first [a]", "warning: second [b]"]

"""From files to reports: the whole journey on real recordings and on small synthetic hospitals."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import ConfigurationError, SourceError
from common.page import METHODS
from common.task import TASKS
from simulation.closing import closing_text
from simulation.folds import DS2
from simulation.plans import mitbih_journey
from simulation.run import Journey, run_journey
from simulation.summary import RunSummary

METADATA = {"seconds", "peak_memory_mb"}
OF_POTASSIUM = re.compile("potassium|hyperkal|normokal|kalemia", re.IGNORECASE)
FIGURES = {"beat_auc", "beat_f1", "beat_sensitivity", "beat_positive_predictivity", "strip_accuracy"}


@contextmanager
def rows_of(site: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"file:{site / 'site.sqlite'}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        yield connection
    finally:
        connection.close()


def numbers(summary: RunSummary) -> dict[str, Any]:
    """Return what a run found, without how long it took."""
    found: dict[str, Any] = json.loads(summary.model_dump_json(exclude=METADATA))
    return found


def text_of(page: str) -> str:
    """Return all of a page on one line: what is read, and what tooltips and scripts hold."""
    return re.sub(r"\s+", " ", page)


# --- real recordings --------------------------------------------------------------------------------------

TRAIN, TEST = ["106", "114", "119", "201"], ["116", "124", "208", "223"]


def real_journey(out: Path, data: Path, **options: Any) -> Journey:
    overrides = {"federation": {"rounds": 2}, "personalization": {"rounds": 3, "epochs": 1}}
    chosen = {"train_records": TRAIN, "test_records": TEST, "workers": 1, "sites": 2} | options
    return mitbih_journey(out, data / "mitdb", seed=1, preset="standard", overrides=overrides, **chosen)


@pytest.fixture(scope="module")
def real_run(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Journey, RunSummary]:
    journey = real_journey(tmp_path_factory.mktemp("real") / "run", real_data)
    return journey, run_journey(journey)


@pytest.mark.data
def test_real_recordings_leave_a_summary_of_every_site_and_of_all(real_run):
    journey, returned = real_run
    stored = RunSummary.model_validate_json((journey.out / "summary.json").read_text())
    assert stored == returned
    assert set(stored.sites) == {"site-1", "site-2"}
    for part in (stored, *stored.sites.values()):
        assert part.generic is not None
        assert set(type(part.generic).model_fields) >= FIGURES
        assert all(getattr(part.generic, name) is not None for name in FIGURES)
        assert part.personal.patients > 0
        for by_round in part.personal.methods.values():
            assert by_round.keys() <= {"0", "1", "2", "3"}
            assert all(set(figures) >= FIGURES for figures in by_round.values())
    assert stored.generic.patients == sum(site.generic.patients for site in stored.sites.values()) == 4
    assert stored.personal.patients == sum(site.personal.patients for site in stored.sites.values())
    for entry in stored.patients:
        assert entry.outcome != "personal" or entry.methods.keys() >= METHODS.keys() | {
            "t_wave",
            "heart_rate",
        }
    assert stored.settings["federation"]["rounds"] == stored.folds["main"]["federated_rounds"] == 2
    assert set(stored.seconds) == {"ingest", "cohort", "federation_and_personalization", "reports"}
    assert stored.seed == 1
    assert stored.peak_memory_mb > 50
    assert "torch" in stored.versions


@pytest.mark.data
def test_figures_of_a_patient_follow_from_the_votes_in_the_sites_database(real_run):
    journey, summary = real_run
    query = """
        select s.label, p.n_beats, p.n_positive_beats from strip_predictions p
        join strips s on s.id = p.strip_id join personalization_runs r on r.id = p.personalization_run_id
        where r.protocol = 'prospective' and r.patient_id = ? and p.method = ? and p.round = ?
        and p.purpose = 'test'"""
    compared = 0
    for entry in (entry for entry in summary.patients if entry.outcome == "personal"):
        with rows_of(journey.out / "sites" / entry.site) as rows:
            for method, by_round in entry.methods.items():
                for round_, figures in by_round.items():
                    # Before the first round the generic model is what is selected, and stored as that.
                    stored = "selected" if (method, round_) == ("generic", "0") else method
                    votes = rows.execute(query, (entry.patient, stored, int(round_))).fetchall()
                    assert len(votes) == entry.test_strips
                    assert sum(vote["n_beats"] for vote in votes) == entry.test_beats
                    tp, fn, fp, right = 0, 0, 0, 0
                    for vote in votes:
                        yes, no = vote["n_positive_beats"], vote["n_beats"] - vote["n_positive_beats"]
                        positive = vote["label"] == "positive"
                        tp, fn = tp + positive * yes, fn + positive * no
                        fp += (not positive) * yes
                        right += (yes > no) == positive
                    assert figures["beat_f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn), abs=1e-6)
                    assert figures["beat_sensitivity"] == pytest.approx(tp / (tp + fn), abs=1e-6)
                    assert figures["strip_accuracy"] == pytest.approx(right / len(votes), abs=1e-6)
                    compared += 1
    assert compared >= 20


@pytest.mark.data
def test_nothing_a_person_reads_about_real_beats_speaks_of_potassium(real_run, capsys):
    journey, summary = real_run
    disclaimer = TASKS["ventricular"].disclaimer
    pages = [journey.out / page for page in summary.pages.values()]
    assert len(pages) == 3
    texts = [page.read_text() for page in pages] + [closing_text(journey.out, summary)]
    for text in texts:
        flat = text_of(text)
        assert disclaimer in flat
        assert OF_POTASSIUM.findall(re.sub("fed-?kalemia", "", flat.replace(disclaimer, ""))) == []


@pytest.mark.data
def test_the_same_command_again_finds_the_same_numbers_and_trains_nothing(real_run):
    journey, before = real_run
    kept = [*journey.out.glob("server/main/*"), *journey.out.glob("sites/*/models/**/*.safetensors")]
    kept += journey.out.glob("sites/*/beats/*")
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}
    assert len(digests) > 8
    assert numbers(run_journey(journey)) == numbers(before)
    assert {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept} == digests
    for site in journey.out.glob("sites/*"):
        with rows_of(site) as rows:
            runs = Counter(
                row["kind"] for row in rows.execute("select kind from runs where status='finished'")
            )
        assert runs["personalization"] == runs["federation"] == runs["cohort"] == 1


@pytest.mark.data
def test_other_settings_are_refused_in_the_folder_of_a_run(real_run, real_data):
    journey, _ = real_run
    with pytest.raises(ConfigurationError, match="other settings or sites; choose another --out"):
        run_journey(real_journey(journey.out, real_data, test_records=TEST[:2]))


@pytest.mark.data
def test_every_patient_of_the_two_folds_is_tested_exactly_once(real_data, tmp_path):
    journey = real_journey(tmp_path, real_data, train_records=None, test_records=None, sites=3, split="folds")
    assert list(journey.folds) == ["fold-a", "fold-b"]
    tested: Counter[str] = Counter()
    for spec in journey.sites:
        for train, test in spec.folds.values():
            assert not set(train) & set(test)
            tested.update(test)
    everybody = {path.stem for path in (real_data / "mitdb").glob("*.hea")} - {"102", "104", "107", "217"}
    assert tested == Counter(everybody)
    assert any("107, 217" in note for note in journey.notes)


@pytest.mark.data
def test_the_standard_sets_are_refused_with_the_names_of_the_missing_records(real_data, tmp_path):
    with pytest.raises(SourceError) as refused:
        real_journey(tmp_path, real_data, train_records=None, test_records=None, split="ds1-ds2")
    assert f"missing: {', '.join(DS2)}" in str(refused.value)
    assert not any(tmp_path.iterdir())


# --- synthetic hospitals ----------------------------------------------------------------------------------


def table(hospital: Path, name: str) -> list[dict[str, str]]:
    (path,) = (p for p in (hospital / "clinical").iterdir() if p.name.upper().startswith(f"{name}.CSV"))
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    return [{k.upper(): v for k, v in row.items()} for row in csv.DictReader(text.splitlines())]


def sites_of(out: Path) -> list[Path]:
    folders = sorted((out / "sites").iterdir())
    assert len(folders) == 2
    return folders


def test_hospital_files_become_reports_with_personal_patients_at_every_site(small_run):
    for name, site in small_run.summary.sites.items():
        assert site.outcomes == {"personal": 2}, name
        assert site.personal.patients == 2
        assert site.personal.methods.keys() == METHODS.keys() | {"t_wave", "heart_rate"}
        page = (small_run.out / site.report).read_text()
        assert name in page
        assert TASKS["hyperkalemia"].disclaimer in page
    assert (small_run.out / "summary.html").is_file()
    assert "synthetic patients" in " ".join(small_run.summary.notes)


def test_every_potassium_row_has_a_label_or_a_reason_and_every_label_a_strip_or_a_reason(small_run):
    for site in sites_of(small_run.out):
        lab = table(small_run.out / "hospitals" / site.name, "LABEVENTS")
        with rows_of(site) as rows:
            draws = rows.execute("select d.*, s.id strip, s.exclusion why, s.n_beats n from draws d "
                                 "left join strips s on s.draw_id = d.id").fetchall()  # fmt: skip
        assert len(draws) == sum(row["ITEMID"] in ("50971", "50822") for row in lab) > 50
        for draw in draws:
            assert (draw["label"] is None) != (draw["exclusion"] is None)
            assert (draw["strip"] is not None) == (draw["label"] is not None)
            if draw["strip"] is not None:
                assert (draw["n"] > 0) == (draw["why"] is None)


def test_no_patient_is_in_two_splits_and_unseen_means_unseen(small_run):
    for site in sites_of(small_run.out):
        with rows_of(site) as rows:
            members = rows.execute("select patient_id, role, split from cohort_members").fetchall()
            tested = rows.execute(
                "select distinct s.patient_id, p.personalization_run_id is not null personal, p.purpose "
                "from strip_predictions p join strips s on s.id = p.strip_id"
            ).fetchall()
        assert len({member["patient_id"] for member in members}) == len(members)
        place = {m["patient_id"]: m["split"] or m["role"] for m in members}
        assert {"train", "validation", "test", "personal"} == set(place.values())
        for row in tested:
            assert place[row["patient_id"]] == ("personal" if row["personal"] else "test")


def test_training_and_test_strips_of_a_personal_patient_are_apart_in_time(small_run):
    gap_s = small_run.summary.settings["personalization"]["gap_s"]
    assert gap_s == 6 * 3600
    query = """
        select r.patient_id, p.purpose, s.start, s.end, s.label from strip_predictions p
        join strips s on s.id = p.strip_id join personalization_runs r on r.id = p.personalization_run_id
        where r.outcome = 'personal' and r.protocol = 'prospective' and p.purpose in ('guard', 'test')"""
    for site in sites_of(small_run.out):
        with rows_of(site) as rows:
            strips = rows.execute(query).fetchall()
        for patient in {row["patient_id"] for row in strips}:
            own = [row for row in strips if row["patient_id"] == patient]
            trained = max(datetime.fromisoformat(row["end"]) for row in own if row["purpose"] == "guard")
            tested = min(datetime.fromisoformat(row["start"]) for row in own if row["purpose"] == "test")
            assert (tested - trained).total_seconds() >= gap_s
            assert {row["label"] for row in own} == {"positive", "negative"}


def test_other_beats_in_every_gap_strip_change_no_weight_and_no_result(small_run, tmp_path):
    """Nothing is trained, chosen or scored on gap strips."""
    from client.app import app as client_app
    from server.app import app as server_app
    from simulation.grid import run_in_process

    changed = 0
    for site in sites_of(small_run.out):
        shutil.copytree(site, tmp_path / "sites" / site.name)
        with rows_of(site) as rows:
            gaps = rows.execute("select beat_offset, n_beats from strips where label='gap' and n_beats > 0")
            places = gaps.fetchall()
        path = tmp_path / "sites" / site.name / "beats" / "beats.f32"
        beats = np.fromfile(path, "<f4").reshape(-1, 120)
        for place in places:
            beats[place["beat_offset"] :][: place["n_beats"]] = 9.0
            changed += place["n_beats"]
        path.write_bytes(beats.tobytes())
    assert changed > 500
    nodes = [{"site-folder": str(folder)} for folder in sites_of(tmp_path)]
    config = {"out": str(tmp_path / "server"), "settings": str(small_run.out / "settings.json")}
    run_in_process(server_app, client_app, nodes, config)
    again = json.loads((tmp_path / "server" / "server.json").read_text())
    first = json.loads((small_run.out / "server" / "main" / "server.json").read_text())
    assert again["selected"] == first["selected"]
    assert again["evaluations"] == first["evaluations"]
    for site, sums in first["personalize"].items():
        same = {name: value for name, value in sums.items() if name != "seconds"}
        assert {n: v for n, v in again["personalize"][site].items() if n != "seconds"} == same


def test_nothing_the_server_holds_names_a_patient_or_a_date(small_run, small_sim):
    hospitals = sorted((small_run.out / "hospitals").iterdir())
    subjects = {row["SUBJECT_ID"] for hospital in hospitals for row in table(hospital, "PATIENTS")}
    dates = {row["CHARTTIME"][:10] for hospital in hospitals for row in table(hospital, "LABEVENTS")}
    assert min(int(date[:4]) for date in dates) > 2050
    assert len(subjects) == small_sim.SITES * small_sim.SIZES.patients
    assert len(dates) > 50
    files = [path for path in (small_run.out / "server").rglob("*") if path.is_file()]
    files += [small_run.out / "summary.html"]
    assert {path.name for path in files} >= {"server.json", "best.safetensors", "last.safetensors"}
    # Short numbers occur in every text; a five-digit one between other characters than digits does not.
    long_enough = {subject for subject in subjects if len(subject) >= 5}
    assert len(long_enough) > 10
    for path in files:
        text = path.read_bytes().decode("latin-1")
        if path.suffix != ".safetensors":  # bytes of weights may look like anything
            words = set(re.findall(r"(?<![\d.])\d{5}(?![\d.])", text))
            assert words & long_enough == set(), path.name
        assert [date for date in dates if date in text] == [], path.name
        assert [s for s in subjects if f"p{int(s):06d}" in text] == [], path.name


def test_a_site_does_by_hand_what_it_did_in_the_run(small_run, small_sim, tmp_path, process, command):
    """init, ingest, cohort, personalize, report and status give the rows of the simulated site."""
    site, run = tmp_path / "north", small_run.out / "sites" / "north"
    hospital, model = small_run.out / "hospitals" / "north", small_run.out / "server/main/best.safetensors"
    chosen = [*small_sim.set_options(), "--set", f"seed={small_sim.SEED}", "--preset", "quick"]
    with rows_of(run) as rows:
        members = Counter(tuple(row) for row in rows.execute("select role, split from cohort_members"))
    frozen = (
        f"{sum(n for (role, _), n in members.items() if role == 'generic')} generic patients "
        f"({members['generic', 'train']} train, {members['generic', 'validation']} validation, "
        f"{members['generic', 'test']} test), 2 personal"
    )
    alone = ("--workers", 1)  # others need seconds to come up, and change nothing
    steps = [
        (("init", site, "--name", "north", "--data", hospital, *chosen), "fedkalemia-site ingest"),
        (("ingest", site, *alone), f"{small_sim.SIZES.patients} patients"),
        (("cohort", site), frozen),
        (("personalize", site, "--model", model, *alone), "fedkalemia-site report"),
        (("report", site, *alone), "index.html"),
        (("status", site), "personalization"),
    ]
    for words, says in steps:
        torch_takes_long_to_load = words[0] in ("personalize", "report")
        ended = (command if torch_takes_long_to_load else process)("fedkalemia-site", *words)
        assert (ended.code, ended.err) == (0, ""), words
        assert says in ended.out
    tables = (
        "select * from personalization_rounds order by id",
        "select patient_id, role, split, n_positive, n_negative, n_gap from cohort_members order by 1",
        "select strip_id, method, round, purpose, n_beats, n_positive_beats, mean_logit "
        "from strip_predictions order by id",
    )
    with rows_of(site) as by_hand, rows_of(run) as simulated:
        for query in tables:
            expected = [tuple(row) for row in simulated.execute(query)]
            assert [tuple(row) for row in by_hand.execute(query)] == expected
            assert expected
    page = (site / "report" / "index.html").read_text()
    assert TASKS["hyperkalemia"].disclaimer in page

"""Who is in a federation: sums over sites, silence where sites are silent, and no median anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client.data.exclusion import EXCLUSION_SHORT
from common.config import make_settings
from common.files import read_json, write_json
from common.metrics import Moments
from common.page.words import EXCLUDED
from common.protocol import DRAW_REASONS, STRIP_REASONS
from common.task import HYPERKALEMIA, VENTRICULAR
from server.state import STORY, Story
from server.summary import page_content, write_summary
from server.summary_cohort import Answers, flow_figure, inclusion_table, rules_sentence, table_one
from server.sums import Told, load

NORTH: dict[str, Any] = {
    "flow.labelled": 100, "flow.low_potassium": 20, "flow.accepted": 80, "flow.no_waveform": 20,
    "flow.by-label.labelled.positive": 30, "flow.by-label.labelled.negative": 70,
    "flow.by-label.labelled.gap": 0, "flow.by-label.accepted.positive": 25,
    "flow.by-label.accepted.negative": 55, "flow.by-label.accepted.gap": 0, "flow.suspected-kept": 6,
    "flow.patients.files": 40, "flow.patients.draws": 40, "flow.patients.labelled": 35,
    "flow.beats.accepted": 9000, "flow.beats.unlike": 1000,
    "table-one.generic.patients": 30, "table-one.generic.sex.male": 18, "table-one.generic.sex.female": 12,
    "table-one.generic.sex.unknown": 0, "table-one.generic.age.missing": 6,
    "table-one.generic.ethnicity.white": 25, "table-one.generic.label.positive": 14,
    **Moments.of([60.0 + i for i in range(24)]).as_flat("table-one.generic.age"),
    **Moments.of([6.0] * 14).as_flat("table-one.generic.potassium-positive"),
}  # fmt: skip
SOUTH: dict[str, Any] = {
    "flow.labelled": 50, "flow.accepted": 40, "flow.patients.files": 20,
    "table-one.generic.patients": 10, "table-one.personal.patients": 6,
    **Moments.of([50.0] * 10).as_flat("table-one.generic.age"), "table-one.generic.age.missing": 0,
}  # fmt: skip


def told(folder: Path, flats: dict[str, dict[str, Any]], name: str = "main", **cohort: str) -> Told:
    """Write what a federation leaves behind, with these answers, and read it."""
    settings = make_settings(overrides={"cohort": cohort})
    Story(settings, name, status="finished", sites=tuple(flats)).write(folder, None)
    write_json(folder / STORY, read_json(folder / STORY) | {"personalize": flats})
    return load(folder)


def rows(table: Any) -> dict[str, list[str]]:
    return {row[0].strip(): list(row[1:]) for row in table.rows}


def answers(**flats: dict[str, Any]) -> Answers:
    return Answers(flats)


def test_every_number_is_the_sum_of_the_sites_that_told_it() -> None:
    table = rows(inclusion_table(answers(north=NORTH, south=SOUTH), HYPERKALEMIA))
    assert table["Patients in the sites’ files"] == ["60", "–", "–", "–", "–", "2"]
    one = "[1 site]"
    assert table["Draws with a label"] == [f"35 {one}", "150", f"30 {one}", f"70 {one}", f"0 {one}", "2"]
    assert table["left out: low potassium"] == ["–", "20", "–", "–", "–", "1"]
    assert table["left out: no ECG recorded"][1] == "20"
    assert table["of these kept although hemolysis is suspected"][1] == "6"


def test_what_every_site_withheld_is_shown_as_too_few_patients_and_not_as_zero() -> None:
    table = rows(inclusion_table(answers(south=SOUTH), HYPERKALEMIA))
    assert table["Strips accepted"] == ["too few patients", "40", *["too few patients"] * 3, "1"]
    assert rows(table_one(answers(north=NORTH), HYPERKALEMIA, ["main"]))["Patients"][1] == "too few patients"


def test_table_one_shows_the_mean_of_all_patients_and_what_is_missing() -> None:
    table = table_one(answers(north=NORTH, south=SOUTH), HYPERKALEMIA, ["main"])
    everybody = Moments.of([60.0 + i for i in range(24)] + [50.0] * 10)
    cells = rows(table)
    assert cells["Age, years"][0] == f"{everybody.mean:.0f} ({everybody.sd:.0f}); 6 missing [2 sites]"
    assert cells["Patients"] == ["40 [2 sites]", "6 [1 site]"]
    assert cells["male"][0] == "18 [1 site]"
    potassium = [row[1] for row in table.rows if row[0] == "  potassium, mEq/L"]
    assert potassium == ["6.0 (0.0) [1 site]", "too few patients", "too few patients"]
    assert "Medians cannot be added" in table.note


def test_the_order_of_sites_does_not_matter() -> None:
    one = table_one(answers(north=NORTH, south=SOUTH), HYPERKALEMIA, ["main"])
    other = table_one(answers(south=SOUTH, north=NORTH), HYPERKALEMIA, ["main"])
    assert one == other


def test_a_patient_who_is_in_every_fold_is_counted_once(tmp_path: Path) -> None:
    folds = [told(tmp_path / name, {"north": NORTH}, name) for name in ("fold-a", "fold-b")]
    assert Answers.of(folds).sum("flow.labelled").value == 100
    assert "the first of each site" in page_content(folds)["tables"]["one"].caption


def test_beats_of_annotated_recordings_have_no_draws_and_no_potassium() -> None:
    table = inclusion_table(answers(north=NORTH), VENTRICULAR)
    assert not any("draw" in row[0].lower() for row in table.rows)
    assert not any("potassium" in row[0] for row in table_one(answers(north=NORTH), VENTRICULAR, ["a"]).rows)


def test_a_site_that_says_nothing_leaves_a_sentence_and_no_figure() -> None:
    silent = answers(north={"suppressed": 40})
    assert flow_figure(silent, HYPERKALEMIA, 1) is None
    assert inclusion_table(silent, HYPERKALEMIA).rows == []
    assert table_one(silent, HYPERKALEMIA, ["main"]).rows == []


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({}, ["both labels", "not balanced"]),
        ({"classes": "disjoint"}, ["disjoint classes"]),
        ({"balance": "strips"}, ["as many positive as negative"]),
    ],
)
def test_the_page_says_which_rules_chose_the_strips(
    tmp_path: Path, rules: dict[str, str], words: list[str]
) -> None:
    sentence = rules_sentence([told(tmp_path, {"north": NORTH}, **rules)])
    assert all(word in sentence for word in [*words, "Test and personal patients kept all"])


def test_the_words_of_reasons_are_those_of_the_sites() -> None:
    assert {str(code): words for code, words in EXCLUSION_SHORT.items()} == dict(EXCLUDED)
    assert {*DRAW_REASONS, *STRIP_REASONS} == set(EXCLUDED)


def test_the_page_has_the_section_with_its_figure_first(tmp_path: Path) -> None:
    told(tmp_path, {"north": NORTH, "south": SOUTH})
    write_summary([tmp_path], tmp_path / "summary.html")
    page = (tmp_path / "summary.html").read_text()
    assert "Who is in this federation" in page
    assert page.index("Figure 1.") < page.index("Federated training")
    assert "f1-flow" in page

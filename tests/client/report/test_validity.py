"""What could fool a reader: controls, simpler ways, protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from client.report import validity
from client.report.comparison import Comparison, compare
from client.report.evidence import Evidence, Personal, Score
from client.report.reading import read_evidence
from client.report.wording import beside, notes
from common.config import make_settings
from common.metrics import Confusion
from common.seeding import stream

Make = Callable[..., Any]
SEED, SITE = 0, "north"


@pytest.fixture(scope="module")
def evidence(fabricated: Make) -> Evidence:
    site = fabricated(models=True)
    with site.sessions() as session:
        return read_evidence(session, ("main",))


def person(number: int, protocol: str, aucs: dict[str, float], right: dict[str, int]) -> Personal:
    """Make a patient tested on ten strips after one round; ``right`` of them are called right."""

    def score(method: str, round_: int) -> Score:
        n = right.get(method, 5)
        stored = {"strip_accuracy": n / 10, "beat_auc": aucs.get(method, 0.5), "beat_f1": n / 10}
        return Score(method, round_, None, Confusion(), Confusion(tp=n, fn=10 - n), stored)

    methods = {*aucs, *right, "generic", "threshold", "closed_form", "fine_tuned", "selected"}
    scores = {(method, 1): score(method, 1) for method in methods} | {("generic", 0): score("generic", 0)}
    return Personal(
        patient=number, row=number, run="main", protocol=protocol, outcome="personal", train=(1, 1),
        test=(5, 5), episodes=(2, 2), rounds=1, selected_method="fine_tuned", selected_round=1, guard=None,
        scores=scores,
    )  # fmt: skip


def with_people(
    evidence: Evidence, personal: Sequence[Personal], controls: Sequence[Personal] = ()
) -> tuple[Evidence, Comparison]:
    made = replace(evidence, personal=personal, controls=controls)
    return made, compare(made, make_settings(), SITE)


def cells(table: Any, first: str) -> list[str]:
    (row,) = (row for row in table.rows if row[0] == first)
    return list(row)


@pytest.mark.parametrize(("auc", "flagged"), [(0.5, False), (0.7, True)])
def test_a_control_that_tells_meaningless_labels_apart_is_flagged(
    evidence: Evidence, auc: float, flagged: bool
) -> None:
    noise = stream("control").normal(0, 0.05, 12)
    control = [
        person(i, "control_permuted", {"fine_tuned": auc + noise[i]}, {"selected": 6}) for i in range(12)
    ]
    personal = [person(i, "prospective", {}, {"selected": 9}) for i in range(12)]
    made, result = with_people(evidence, personal, control)
    (found,) = validity.controls_of(made, result, SEED, SITE)
    assert (found.flagged, found.patients, found.tried) == (flagged, 12, 12)
    (note,) = validity.control_notes([found], result)
    assert note.title.endswith(" flagged." if flagged else "not flagged.")
    assert "+10.0 points" in note.text
    assert "against +40.0 points with the true labels" in note.text
    assert cells(validity.controls_table([found], result.words), "Labels of other days")[-1] == (
        "flagged" if flagged else "not flagged"
    )


def test_few_patients_of_a_control_have_no_interval_and_no_flag(evidence: Evidence) -> None:
    control = [person(i, "control_days", {"fine_tuned": 0.95}, {}) for i in range(4)]
    made, result = with_people(evidence, [], control)
    (found,) = validity.controls_of(made, result, SEED, SITE)
    assert not found.flagged
    assert found.verdict == "too few patients", "neither flagged nor not"
    assert validity.controls_table([found], result.words).rows[0][-1] == "too few patients"


def test_a_control_nobody_has_the_days_for_is_not_computable(evidence: Evidence) -> None:
    control = [replace(person(1, "control_days", {}, {}), rounds=0, scores={}, outcome="not_computable")]
    made, result = with_people(evidence, [], control)
    found = validity.controls_of(made, result, SEED, SITE)
    assert "not computable" in validity.control_notes(found, result)[0].title
    assert validity.controls_table(found, result.words).rows[0][-1] == "not computable"


def test_simpler_ways_that_do_as_well_are_on_the_first_screen(evidence: Evidence) -> None:
    right = {"selected": 7, "t_wave": 9, "heart_rate": 5}
    _, result = with_people(evidence, [person(i, "prospective", {}, right) for i in range(8)])
    (note,) = validity.simpler_ways(result)
    assert "T-wave features 90" in note.text.replace("\u202f", " ")
    assert "heart rate" not in note.text
    _, better = with_people(
        evidence, [person(i, "prospective", {}, right | {"selected": 10}) for i in range(8)]
    )
    assert validity.simpler_ways(better) == []


def test_the_declared_comparison_is_not_corrected_and_all_others_are(evidence: Evidence) -> None:
    rng = np.random.default_rng(3)
    people = [
        person(
            i, "prospective", {}, {"selected": int(rng.integers(6, 11)), "t_wave": int(rng.integers(4, 9))}
        )
        for i in range(12)
    ]
    _, result = with_people(evidence, people)
    table = validity.baselines_table(result, SEED, SITE)
    assert [row[0] for row in table.rows][-1] == "Selected model"
    assert "‡" not in cells(table, "Own threshold")[-1]
    assert all(
        cells(table, name)[-1].endswith("‡")
        for name in ("T-wave features", "Generic model", "Closed-form head", "Fine-tuned")
    )
    assert not any(row[0] in ("From scratch", "Heart rate alone") for row in table.rows)  # were not run
    better, equal, worse = (int(n) for n in cells(table, "T-wave features")[-2].split(" / "))
    assert better + equal + worse == 12


def test_protocols_stand_side_by_side_on_the_same_patients(evidence: Evidence) -> None:
    personal = [person(i, "prospective", {}, {"selected": 7}) for i in range(8)]
    apart = [replace(person(9, "prospective", {}, {"selected": 10}), outcome="not_interleaved")]
    paper = [person(i, "paper", {}, {"selected": 9, "published": 6}) for i in range(10)]
    made, result = with_people(evidence, [*personal, *apart])
    table = validity.protocols_table(replace(made, beside=paper), result, SEED, SITE)
    numbers = {
        row[0]: (row[1], row[6].replace("\u202f", " "), row[-1].replace("\u202f", " ")) for row in table.rows
    }
    assert numbers["Prospective: later strips, after a gap"][0] == "8"
    assert numbers["Prospective, labels in different periods"][0] == "1"
    assert numbers["Paper: a random quarter of the strips"] == ("10", "90 % (0 %)", "60 % (0 %)")
    assert numbers["Paper, patients of the primary result"][0] == "8"


def test_one_episode_of_a_label_is_named(evidence: Evidence) -> None:
    people = [person(i, "prospective", {}, {}) for i in range(6)]
    _, result = with_people(evidence, [replace(people[0], episodes=(1, 3)), *people[1:]])
    (note,) = validity.few_episodes(result)
    assert note.title.startswith("1 patient ")
    _, none = with_people(evidence, people)
    assert validity.few_episodes(none) == []


def test_what_was_not_run_is_said(fabricated: Make) -> None:
    assert validity.left_out(make_settings()) == ""
    assert "trained from scratch" in validity.left_out(make_settings(preset="quick"))


def test_a_patient_whose_own_threshold_did_better_is_named(evidence: Evidence) -> None:
    people = [person(i, "prospective", {}, {"selected": 8, "threshold": 7}) for i in range(7)]
    people.append(person(1, "prospective", {}, {"selected": 6, "threshold": 9}))
    made, result = with_people(evidence, people)
    found = [note for note in notes(result, made, make_settings()) if "own threshold" in note.title]
    assert [note.title for note in found] == ["1 patient worse off than with their own threshold:"]
    assert found[0].text.endswith("strip accuracy −30.0 points, on 10 test strips.")


def test_the_generic_model_stands_beside_whoever_always_says_the_commoner_label(evidence: Evidence) -> None:
    people = [
        replace(person(i, "prospective", {}, {"generic": 5}), test=(8, 2) if i % 2 else (3, 7))
        for i in range(8)
    ]
    _, result = with_people(evidence, people)
    text = beside(result).replace("\u202f", " ")
    assert "The generic model alone reached 50 %" in text
    assert text.endswith("commoner among a patient’s test strips would reach 75 %.")

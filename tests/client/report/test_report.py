"""The site report: what it says, what it never says, and that it says the same every time."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select, update

from client.database.tables import (
    FederatedRound,
    Patient,
    PersonalizationRound,
    PersonalizationRun,
    Report,
    Run,
)
from client.report.build import TEMPLATE, build_report, page_content
from client.report.cohort_tables import table_one
from client.report.comparison import compare, worse_off
from client.report.drawing import Drawing
from client.report.evidence import Evidence
from client.report.example import choose
from client.report.flow import chart
from client.report.patient_pages import orders, write_pages
from client.report.patients_table import patients_table
from client.report.reading import read_evidence
from client.report.tables import generic_table
from client.report.wording import answer, notes
from common.errors import DatabaseError
from common.logs import PlainReporter, current_reporter, use_reporter
from common.page import render
from common.page.numbers import MISSING, percent

Make = Callable[..., Any]


def plain(page: str) -> str:
    """Return what a reader sees, without figures and the settings."""
    body = re.sub(
        r"<style>.*?</style>|<script>.*?</script>|<details>.*?</details>|<head>.*?</head>",
        " ",
        page,
        flags=re.DOTALL,
    )
    return re.sub(r"[ \n]+", " ", re.sub(r"<[^>]+>", " ", body))


def site_page(made: Any, names: tuple[str, ...] = ("main",)) -> str:
    """Return the site's page; of the patients' pages only that of the example is written."""
    evidence, settings, name = evidence_of(made, names), made.site.settings, made.site.name
    result = compare(evidence, settings, name)
    patient = choose(result)
    wanted = orders(made.site, evidence, made.site.report.parent, patient)
    written = list(write_pages([order for order in wanted if order.keep], made.sessions))
    return render(TEMPLATE, page_content(name, settings, evidence, result, patient, written))


def evidence_of(site: Any, names: tuple[str, ...] = ("main",)) -> Evidence:
    with site.sessions() as session:
        return read_evidence(session, names)


@pytest.fixture(scope="module")
def hyperkalemia(fabricated: Make) -> str:
    return site_page(fabricated(models=True))


@pytest.fixture(scope="module")
def ventricular(fabricated: Make) -> str:
    made = fabricated(task="ventricular", names=("fold-a", "fold-b"), personal=10, generic=14)
    return site_page(made, ("fold-a", "fold-b"))


def test_a_report_on_beats_never_speaks_of_potassium_but_in_its_disclaimer(ventricular: str) -> None:
    sentence = "its numbers say nothing about potassium."
    seen = plain(ventricular)
    assert seen.count(sentence) == 2  # at the top and at the bottom
    rest = seen.replace(sentence, "").lower()
    for word in ("potassium", "kalemia", "meq", "blood draw"):
        assert word not in rest.replace("fedkalemia", "")


def test_a_report_on_potassium_never_speaks_of_ventricular_beats(hyperkalemia: str) -> None:
    assert "ventricular" not in plain(hyperkalemia).lower()


def test_the_disclaimer_is_at_the_top_and_at_the_bottom(hyperkalemia: str) -> None:
    seen = plain(hyperkalemia)
    first, last = seen.index("not for clinical decisions"), seen.rindex("not for clinical decisions")
    assert first < 200
    assert last > len(seen) - 200


def test_the_numbers_of_the_first_screen_are_means_over_patients(fabricated: Make, hyperkalemia: str) -> None:
    with fabricated(models=True).sessions() as session:
        rows = session.execute(
            select(PersonalizationRound.method, func.avg(PersonalizationRound.strip_accuracy))
            .join(PersonalizationRun)
            .where(
                PersonalizationRound.round == PersonalizationRun.rounds,
                PersonalizationRun.outcome == "personal",
            )
            .group_by(PersonalizationRound.method)
        )
        means = {method: float(mean) for method, mean in rows}
    first = plain(hyperkalemia).split("Before trusting")[0]
    assert percent(means["selected"]) in first
    assert percent(means["threshold"]) in first
    assert "7 patients" in first  # the eighth has its labels in different periods and is set apart
    assert "1 patient outside the primary result" in plain(hyperkalemia)


def test_the_same_database_gives_the_same_page(fabricated: Make, hyperkalemia: str) -> None:
    assert site_page(fabricated(models=True)) == hyperkalemia


def test_a_report_leaves_a_run_and_a_row_with_its_hash(fabricated: Make) -> None:
    made = fabricated(personal=0)
    path = build_report(made.site, made.sessions)
    with made.sessions() as session:
        row = session.scalars(select(Report).order_by(Report.id.desc())).first()
        run = session.get_one(Run, row.run_id)
    assert (made.site.folder / row.path) == path
    assert (run.kind, run.status, run.details["sha256"]) == ("report", "finished", row.sha256)


def test_without_personalization_the_error_names_the_next_command(fabricated: Make) -> None:
    made = fabricated(personal=4)
    with pytest.raises(
        DatabaseError, match=r"no personalization named 'elsewhere'.*named main: choose with --name"
    ):
        build_report(made.site, made.sessions, ("elsewhere",))


def test_without_personal_patients_the_page_says_so(fabricated: Make) -> None:
    seen = plain(site_page(fabricated(personal=0)))
    assert "No patient of this site could be tested personally" in seen
    assert "8 positive and 8 negative strips" in seen
    assert "by personalization round" not in seen


def test_fewer_than_six_patients_get_points_and_no_interval(fabricated: Make) -> None:
    seen = plain(site_page(fabricated(personal=4)))
    assert "Only 4 personal patients." in seen
    assert "Too few patients to say" in seen
    assert not re.search(r"95.% interval −?\+?\d", seen)


def test_folds_are_merged_into_one_comparison(fabricated: Make) -> None:
    made = fabricated(task="ventricular", names=("fold-a", "fold-b"), personal=10, generic=14)
    merged = compare(evidence_of(made, ("fold-a", "fold-b")), made.site.settings, "x")
    parts = [compare(evidence_of(made, (name,)), made.site.settings, "x") for name in ("fold-a", "fold-b")]
    assert merged.over_threshold.n == sum(part.over_threshold.n for part in parts) == 10
    total = sum(part.over_threshold.mean * part.over_threshold.n for part in parts)
    assert merged.over_threshold.mean == pytest.approx(total / 10)


def test_a_patient_who_lost_is_named_with_strips_and_beats(fabricated: Make) -> None:
    """One patient falls from all right to all wrong; the mean hardly moves, the first screen says it."""
    made = fabricated(personal=9, seed=11)
    with made.sessions() as session:
        row = session.scalars(
            select(PersonalizationRun).where(PersonalizationRun.outcome == "personal")
        ).first()
        patient = row.patient_id
        for method, right in (("generic", 1.0), ("selected", 0.0)):
            session.execute(
                update(PersonalizationRound)
                .where(
                    PersonalizationRound.personalization_run_id == row.id,
                    PersonalizationRound.method == method,
                )
                .values(strip_accuracy=right, beat_f1=right)
            )
        session.commit()
    evidence, settings = evidence_of(made), made.site.settings
    result = compare(evidence, settings, "x")
    assert patient in [loss.patient.patient for loss in worse_off(result)]
    texts = [note.text for note in notes(result, evidence, settings)]
    name = evidence.naming.name
    assert any(
        re.search(
            rf"{name(patient)}, strip accuracy −100.0 points, beat F1 −1.000, on 8 test strips \(3,200",
            t,
        )
        for t in texts
    )
    table = patients_table(evidence, result)
    assert [table.rows[index][0] for index in table.marked] == [
        name(number) for number in sorted(loss.patient.patient for loss in worse_off(result))
    ]


def test_an_answer_is_no_better_than_its_interval(fabricated: Make) -> None:
    made = fabricated(models=True)
    evidence = evidence_of(made)
    result = compare(evidence, made.site.settings, "x")
    better = replace(result, over_threshold=replace(result.over_threshold, interval=(0.01, 0.2, "t")))
    assert result.over_threshold.interval is not None
    assert result.over_threshold.interval.low < 0 < result.over_threshold.interval.high
    assert "not clearly better or worse" in answer(result, evidence)
    better.over_threshold.__dict__["interval"] = result.over_threshold.interval._replace(low=0.01)
    assert "did better than" in answer(better, evidence)


def test_table_one_counts_patients_once_and_shows_what_is_missing(fabricated: Make) -> None:
    made = fabricated(models=True)
    table = table_one(evidence_of(made), made.site.settings.words)
    cells = {row[0].strip(): row[1:] for row in table.rows}
    assert cells["Patients"] == ["40", "8"]
    with made.sessions() as session:
        missing = session.scalar(select(func.count()).where(Patient.height_cm.is_(None), Patient.id <= 40))
    assert f"{missing} missing" in cells["Height, cm"][0]


def test_the_example_is_the_patient_with_the_median_gain(fabricated: Make) -> None:
    made = fabricated(models=True)
    result = compare(evidence_of(made), made.site.settings, "x")
    shown = choose(result)
    assert shown is not None
    group = [one for one in result.patients if one.selected_method in ("fine_tuned", "closed_form")]
    gains = sorted(
        one.last("selected", "strip_accuracy") - one.last("generic", "strip_accuracy") for one in group
    )
    gain = shown.last("selected", "strip_accuracy") - shown.last("generic", "strip_accuracy")
    assert gain == gains[(len(gains) - 1) // 2]


def test_the_example_shows_beats_attention_and_map(hyperkalemia: str) -> None:
    seen = plain(hyperkalemia)
    assert "One patient, looked at closely" in seen
    assert "Grad-CAM" in seen
    assert "t-SNE" in seen
    assert re.search(r"purity 0\.\d\d", seen)


def test_missing_models_cost_what_they_look_at_and_not_the_report(fabricated: Make) -> None:
    made = fabricated(seed=5, personal=2)
    told, before = io.StringIO(), current_reporter()
    use_reporter(PlainReporter(told))
    try:
        path = build_report(made.site, made.sessions)
    finally:
        use_reporter(before)
    assert "no picture of what models look at for 2 patients; every number is there" in told.getvalue()
    assert "no longer on the disk" in plain(path.read_text())
    pages = sorted((path.parent / "patients").glob("*.html"))
    assert len(pages) == 2
    assert all(
        "models or beats of this patient are no longer on the disk" in plain(p.read_text()) for p in pages
    )
    assert made.site.log.read_text().count("a patient's page without what models see") == 2


def test_the_flowchart_accounts_for_every_draw_and_strip(fabricated: Make) -> None:
    made = fabricated(models=True)
    flow = evidence_of(made).flow
    assert flow.steps.draws == flow.steps.labelled.total + sum(one.number for one in flow.draws_excluded)
    assert flow.steps.strips == flow.steps.accepted.total + sum(one.number for one in flow.strips_excluded)


def test_nobody_disappears_between_two_steps_of_the_flowchart(fabricated: Make) -> None:
    made = fabricated(models=True)
    evidence = evidence_of(made)
    assert len(chart(evidence, made.site.settings.words)[0]) == 3  # everybody with strips is in the cohort
    fewer = replace(evidence, members=evidence.members[5:])
    last = chart(fewer, made.site.settings.words)[0][-1]
    assert last.box.lines == ["43 patients"]
    assert last.left_out is not None
    assert last.left_out.title == "Left out: 5 patients"


def test_without_stored_scores_there_is_a_dash_and_no_figure(fabricated: Make) -> None:
    made = fabricated(models=True)
    evidence = evidence_of(made)
    unknown = replace(evidence, generic=[replace(evidence.generic[0], histogram=None)])
    cells = {row[0].strip(): row[1] for row in generic_table(unknown).rows}
    assert cells["AUC"] == MISSING
    assert Drawing(made.site.settings).scores(unknown.generic[0]) is None


def test_every_figure_has_a_title_a_description_and_a_caption(hyperkalemia: str) -> None:
    figures = re.findall(r"<figure>.*?</figure>", hyperkalemia, re.DOTALL)
    assert len(figures) == 9
    for figure in figures:
        assert re.search(r"<title id=[^>]+>[^<]{5,}", figure)
        assert re.search(r"<desc id=[^>]+>[^<]{20,}", figure)
        assert re.search(r"<figcaption><b>Figure \d\.</b> .{30,}", figure, re.DOTALL)


def test_ids_on_a_page_are_unique(hyperkalemia: str) -> None:
    ids = re.findall(r'\sid="([^"]+)"', hyperkalemia)
    assert len(ids) == len(set(ids))


def test_no_number_on_the_page_is_nan(hyperkalemia: str, ventricular: str) -> None:
    for page in (hyperkalemia, ventricular):
        assert not re.search(r"\b(nan|inf|None)\b", plain(page))


def test_generic_figures_are_recounted_from_the_stored_votes(fabricated: Make) -> None:
    made = fabricated(models=True)
    generic = evidence_of(made).generic[0]
    assert generic.patients > 0
    assert generic.strips.total == len(generic.counted)
    assert generic.beats.total == sum(vote.n_beats for vote in generic.counted)
    assert generic.histogram is not None
    assert generic.beats.tp == int(np.sum(generic.histogram.positive[256:]))
    assert not math.isnan(generic.histogram.auc)


@pytest.mark.parametrize(
    ("rates", "decayed"),
    [
        ([1e-3 * 0.8**number for number in range(12)], True),
        ([1e-3 * 0.8**number for number in range(11)] + [1e-3 * 0.8**10], True),  # the least rate
        ([1e-3] * 6 + [5e-4] * 6, False),
        ([1e-3] * 12, False),
    ],
)
def test_the_schedule_is_known_also_where_the_site_only_validates(
    fabricated: Make, rates: list[float], decayed: bool
) -> None:
    with fabricated().sessions() as session:  # nothing is committed
        for row in session.scalars(select(FederatedRound).where(FederatedRound.round < 13)):
            row.learning_rate, row.train_beats = rates[row.round - 1], 0
        assert read_evidence(session, ("main",)).generic[0].decayed == decayed

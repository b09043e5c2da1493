"""The table of every patient: the way from the site's page to a patient's own."""

from __future__ import annotations

import math
from collections.abc import Mapping

from client.report.calibrated import strips_right
from client.report.comparison import Comparison, worse_off
from client.report.evidence import Evidence, Personal
from client.report.wording import limit, outcome_text, short_outcome
from common.page import METHODS, Table
from common.page.numbers import MISSING, figure_difference, figure_value


def patients_table(evidence: Evidence, result: Comparison, pages: Mapping[int, str] | None = None) -> Table:
    """Return one row per patient: strips, outcome, every method's last round, and what was selected.

    Parameters
    ----------
    evidence, result : of the site.
    pages : address of each patient's page, by patient.
    """
    words = result.words
    worse = {id(loss.patient) for loss in worse_off(result)}
    several = len({one.run for one in evidence.personal}) > 1
    shown = sorted(evidence.personal, key=lambda one: (evidence.naming.order(one.patient), one.run))
    rows: list[list[str]] = []
    marked: list[int] = []
    for one in shown:
        change = one.last("selected", words.key) - one.last("generic", words.key) if one.tested else math.nan
        if id(one) in worse:
            marked.append(len(rows))
        score = one.score("selected", one.rounds) if one.tested else None
        rows.append(
            [
                evidence.naming.name(one.patient),
                *([one.run] if several else []),
                f"{one.train[0]} / {one.train[1]}",
                f"{one.test[0]} / {one.test[1]}",
                f"{one.episodes[0]} / {one.episodes[1]}",
                *(
                    figure_value(one.last(method, words.key) if one.tested else None, words)
                    for method in METHODS
                ),
                strips_right(score.strips) if score else MISSING,
                figure_difference(change, words, unit=False) + (" ▼" if id(one) in worse else ""),
                _selected(one),
                short_outcome(one.outcome),
            ]
        )
    explained = [
        f"{short_outcome(code)}: {outcome_text(code)}"
        for code in sorted({one.outcome for one in shown} - {"personal"})
    ]
    notes = [f"▼ and shading: lost more than {limit(words)}, or more than 0.05 beat F1"] if marked else []
    return Table(
        caption=f"Every patient with enough strips of both labels: {words.title} after the last round, by "
        f"method. {'Patients are named by pseudonyms. ' if evidence.naming.pseudonymous else ''}"
        "Strips and episodes: positive / negative. Earlier strips: before the test; a round learns from one "
        "more of each label. Episodes: runs of strips of one label. Selected right: test strips the selected "
        "model calls right, with Wilson’s 95\u202f% interval. Gain: selected − generic."
        f"{' A name leads to the patient’s own page.' if pages else ''}",
        head=(
            "Patient",
            *(["Run"] if several else []),
            "Earlier strips",
            "Test strips",
            "Episodes",
            *(METHODS[method].short for method in METHODS),
            "Selected right",
            "Gain" + (", points" if words.percent else ""),
            "Chosen, round",
            "Outcome",
        ),
        rows=rows,
        text=tuple(range(len(rows[0]) - 2, len(rows[0]))) if rows else (),
        marked=marked,
        note="; ".join([*notes, *explained]),
        form="dense",
        links=[(pages or {}).get(one.patient, "") for one in shown],
        sortable=True,
        empty="No patient of the frozen cohort has enough strips of both labels.",
    )


def _selected(one: Personal) -> str:
    if one.selected_method is None:
        return MISSING
    title = METHODS[one.selected_method].short if one.selected_method in METHODS else one.selected_method
    return f"{title},\u00a0{one.selected_round}" if one.selected_round else title

"""The table behind the Grad-CAM figure: how much of what a model looks at lies on each wave."""

from __future__ import annotations

from collections.abc import Mapping

from client.learning.attention import P_START_MS, QRS_END_MS, QRS_START_MS, ST_T_END_MS, Attention, Wave
from client.learning.explain import PatientExplanation
from common.page import METHODS, Table
from common.page.numbers import decimal, percent
from common.task import Label, Task


def attention_table(seen: PatientExplanation, task: Task) -> Table:
    """Return the share of activation on P, QRS and ST-T, by label and stage, before and after.

    Parameters
    ----------
    seen : one patient's explanation.
    task : for the names of the labels.
    """
    rows: list[list[str]] = []
    strong: list[int] = []
    for label in (Label.POSITIVE, Label.NEGATIVE):
        strong.append(len(rows))
        (even, *_) = (by_label[label].even for by_label in seen.before.attention.values())
        rows.append([f"{task.word(label)}, if spread evenly", *_cells(even)])
        for stage, by_label in seen.before.attention.items():
            cells = _cells(by_label[label].share)
            if not seen.same_attention:
                after: Attention = seen.after.attention[stage][label]
                cells = [f"{one} → {two}" for one, two in zip(cells, _cells(after.share), strict=True)]
            rows.append([f"  {stage.replace('stage', 'stage ')}", *cells])
    then = "" if seen.same_attention else f" → selected ({METHODS[seen.method].noun})"
    ends = [decimal(value, 0) for value in (P_START_MS, QRS_START_MS, QRS_END_MS, ST_T_END_MS)]
    return Table(
        caption=f"Share of the activation (Grad-CAM) on each part of the beat: generic model{then}. The "
        "first line of a label is what activation without a preference would give.",
        head=("", *(str(wave) for wave in Wave), "elsewhere"),
        rows=rows,
        strong=strong,
        note=f"From the R peak: P {ends[0]} to {ends[1]} ms, QRS to {ends[2]} ms, ST-T to {ends[3]} ms, "
        "P and ST-T cut off at 0.4 RR before and 0.6 RR after it; elsewhere is what comes before and after, "
        "the neighbouring beats among it. Every cell of a stage sees some of its surroundings: what lies on "
        "one wave may be due to the next.",
        form="narrow",
    )


def _cells(share: Mapping[Wave, float]) -> list[str]:
    values = [share[wave] for wave in Wave]
    return [percent(value) for value in (*values, 1 - sum(values))]

"""What models look at, in numbers: of one patient, and over all patients of a site."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from client.learning.attention import P_START_MS, QRS_END_MS, QRS_START_MS, ST_T_END_MS, Attention, Wave
from client.learning.explain import PatientExplanation
from common.page import METHODS, Table
from common.page.numbers import decimal, percent, plural
from common.task import Label, Task


@dataclass(frozen=True)
class Looked:
    """What the generic and the selected model see in one patient's test strips.

    Attributes
    ----------
    method : how the selected model was fitted.
    purity, silhouette : of the map of beats, before and after.
    share : by stage, label and wave, part of the activation, before and after; NaN where there is none.
    even : by label and wave, what activation without a preference would give.
    """

    method: str
    purity: tuple[float, float]
    silhouette: tuple[float, float]
    share: Mapping[tuple[str, str, str], tuple[float, float]]
    even: Mapping[tuple[str, str], float]

    def as_json(self) -> dict[str, Any]:
        """Return the values with text for keys; what does not exist is None."""
        return {
            "method": self.method,
            "purity": [_known(value) for value in self.purity],
            "silhouette": [_known(value) for value in self.silhouette],
            "share": {" ".join(key): [_known(v) for v in values] for key, values in self.share.items()},
            "even": {" ".join(key): _known(value) for key, value in self.even.items()},
        }


def _known(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def looked(seen: PatientExplanation) -> Looked:
    """Return the numbers of one patient's explanation."""
    before, after = seen.before, seen.after
    share, even = {}, {}
    for stage, by_label in before.attention.items():
        for label, one in by_label.items():
            two = after.attention[stage][label]
            for wave in Wave:
                share[stage, str(label), str(wave)] = (one.share[wave], two.share[wave])
                even[str(label), str(wave)] = one.even[wave]
    return Looked(
        method=seen.method,
        purity=(before.beats.purity, after.beats.purity),
        silhouette=(before.beats.silhouette, after.beats.silhouette),
        share=share,
        even=even,
    )


def over_patients(everybody: Sequence[Looked], task: Task) -> Table:
    """Return what models look at, mean over patients, before and after.

    Parameters
    ----------
    everybody : one entry a patient.
    task : for the names of the labels.
    """
    rows: list[list[str]] = []
    strong: list[int] = []
    stages = list(dict.fromkeys(stage for one in everybody for stage, _, _ in one.share))
    for label in (Label.POSITIVE, Label.NEGATIVE):
        strong.append(len(rows))
        even = [_mean([one.even[label, wave] for one in everybody]) for wave in Wave]
        rows.append([f"{task.word(label)}, if spread evenly", *(percent(value) for value in even)])
        for stage in stages:
            cells = []
            for wave in Wave:
                means = _means([one.share[stage, label, wave] for one in everybody])
                cells.append(" → ".join(percent(value) for value in means))
            rows.append([f"  {stage.replace('stage', 'stage ')}", *cells])
    maps = "; ".join(
        f"{name} {' → '.join(decimal(value, 2) for value in _means(pairs))}"
        for name, pairs in (
            ("purity", [one.purity for one in everybody]),
            ("silhouette", [one.silhouette for one in everybody]),
        )
    )
    return Table(
        caption="Share of the activation (Grad-CAM) on each part of the beat, mean over "
        f"{plural(len(everybody), 'patient')} with a personal result: generic → selected model.",
        head=("", *(str(wave) for wave in Wave)),
        rows=rows if everybody else [],
        strong=strong,
        note=f"Beats of test strips as the last layer sees them, mean over patients: {maps} (purity 0.5 and "
        "silhouette 0: labels mixed; 1: apart). A threshold or a closed-form head leaves the map as it is. "
        "Every patient’s own page has the figures.",
        form="narrow",
        empty="No patient’s models and beats are on the disk.",
    )


def _means(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Average before and after over the patients who have both."""
    kept = [pair for pair in pairs if all(math.isfinite(value) for value in pair)]
    return _mean([before for before, _ in kept]), _mean([after for _, after in kept])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


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

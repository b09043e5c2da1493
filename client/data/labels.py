"""From potassium rows to labels: which draw is positive, negative or gap, and why another is neither.

Source: Chiu 2022, Methods, Patient Population; SCIENCE sections 1.3 and 9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

from client.data.exclusion import Exclusion
from client.data.sources.base import Measurement, Stay
from client.data.values import measured, read_value
from common.config import LabelSettings
from common.task import Label


@dataclass(frozen=True)
class LabelledDraw:
    """A potassium row with its label, or the reason why it has none.

    Attributes
    ----------
    measurement : the row.
    value : mEq/L; the bound where the value is censored; None where there is no number.
    censored : the true value lies above or below ``value``.
    label, exclusion : exactly one of them is set.
    merged_into : position of the draw that is used instead, in the list of the patient's draws.
    """

    measurement: Measurement
    value: float | None
    censored: Literal["above", "below"] | None = None
    label: Label | None = None
    exclusion: Exclusion | None = None
    merged_into: int | None = None


def label_draws(
    measurements: Sequence[Measurement], stays: Sequence[Stay], rules: LabelSettings
) -> list[LabelledDraw]:
    """Label all draws of one patient.

    Each row is judged for itself first: number, unit, plausible range, hemolysis, stay. A specimen that the
    laboratory reports as hemolyzed has no label; one that a rule suspects (``client.data.hemolysis``) has
    one, unless ``suspected_hemolysis`` says otherwise. Of what is left, whole blood gives way to serum of
    the same time. Draws less than 30 minutes apart (``merge_s``) whose labels differ are all left out; of
    those with the same label the first is kept.

    Parameters
    ----------
    measurements : the patient's rows, in any order.
    stays : the patient's admissions and intensive care stays.
    rules : limits of the labels.

    Returns
    -------
    list of `LabelledDraw` in order of specimen time, serum before whole blood.
    """
    ordered = sorted(measurements, key=lambda m: (m.specimen_time, m.specimen != "serum", m.source_row))
    draws = [_alone(measurement, stays, rules) for measurement in ordered]
    # Rows of the very same time are one measurement even where nothing else is merged.
    apart = max(timedelta(seconds=rules.merge_s), timedelta.resolution)
    _drop_twins(draws)
    _drop_conflicts(draws, apart)
    _merge(draws, apart)
    return draws


def _alone(measurement: Measurement, stays: Sequence[Stay], rules: LabelSettings) -> LabelledDraw:
    """Judge one row for itself."""
    value, censored = measured(measurement)
    if value is None:
        printed, censored = read_value(measurement.text, measurement.number)
        reason = Exclusion.NO_NUMERIC_VALUE if printed is None else Exclusion.WRONG_UNIT
        return LabelledDraw(measurement, printed, censored, exclusion=reason)
    draw = LabelledDraw(measurement, value, censored)
    time = measurement.specimen_time
    if not rules.plausible_from <= value <= rules.plausible_to:
        return replace(draw, exclusion=Exclusion.IMPLAUSIBLE_VALUE)
    if measurement.hemolysis == "reported":
        return replace(draw, exclusion=Exclusion.HEMOLYZED)
    if measurement.hemolysis == "suspected" and rules.suspected_hemolysis == "exclude":
        return replace(draw, exclusion=Exclusion.HEMOLYSIS_SUSPECTED)
    if not (measurement.admitted or any(stay.overlaps(time, time) for stay in stays)):
        return replace(draw, exclusion=Exclusion.NOT_IN_STAY)
    return _labelled(draw, value, rules)


def _labelled(draw: LabelledDraw, value: float, rules: LabelSettings) -> LabelledDraw:
    if draw.censored == "above":  # a label only where every value beyond the bound has it
        if value >= rules.positive_above:
            return replace(draw, label=Label.POSITIVE)
        return replace(draw, exclusion=Exclusion.NO_NUMERIC_VALUE)
    if draw.censored == "below":
        too_low = value <= rules.negative_from
        return replace(draw, exclusion=Exclusion.LOW_POTASSIUM if too_low else Exclusion.NO_NUMERIC_VALUE)
    if value < rules.negative_from:
        return replace(draw, exclusion=Exclusion.LOW_POTASSIUM)
    if value <= rules.negative_to:
        return replace(draw, label=Label.NEGATIVE)
    return replace(draw, label=Label.POSITIVE if value > rules.positive_above else Label.GAP)


def _counts(draw: LabelledDraw) -> bool:
    """Return whether a draw is a valid measurement that its neighbours must agree with."""
    return draw.label is not None or draw.exclusion is Exclusion.LOW_POTASSIUM


def _drop_twins(draws: list[LabelledDraw]) -> None:
    serum = {
        draw.measurement.specimen_time: index
        for index, draw in reversed(list(enumerate(draws)))
        if _counts(draw) and draw.measurement.specimen == "serum"
    }
    for index, draw in enumerate(draws):
        twin = serum.get(draw.measurement.specimen_time)
        if twin is not None and _counts(draw) and draw.measurement.specimen == "whole_blood":
            draws[index] = replace(draw, label=None, exclusion=Exclusion.WHOLE_BLOOD_TWIN, merged_into=twin)


def _drop_conflicts(draws: list[LabelledDraw], apart: timedelta) -> None:
    valid = [index for index, draw in enumerate(draws) if _counts(draw)]
    conflicting = set()
    for position, first in enumerate(valid):
        for second in valid[position + 1 :]:
            if _between(draws[first], draws[second]) >= apart:
                break
            if draws[first].label != draws[second].label:  # low potassium has none: it differs from all
                conflicting |= {first, second}
    for index in conflicting:
        draws[index] = replace(draws[index], label=None, exclusion=Exclusion.CONFLICTING_DRAWS)


def _merge(draws: list[LabelledDraw], apart: timedelta) -> None:
    kept: int | None = None
    for index, draw in enumerate(draws):
        if draw.label is None:
            continue
        if kept is not None and _between(draws[kept], draw) < apart:
            draws[index] = replace(draw, label=None, exclusion=Exclusion.MERGED_INTO, merged_into=kept)
        else:
            kept = index


def _between(first: LabelledDraw, second: LabelledDraw) -> timedelta:
    return second.measurement.specimen_time - first.measurement.specimen_time

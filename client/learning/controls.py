"""Negative controls: one patient's strips with other labels, so that there is nothing of potassium to learn.

What a personal model still gains on them it gains by telling days, electrodes or heart rates apart. Source:
SCIENCE section 1.4, point 2, and section 9, controls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from itertools import groupby

import numpy as np

from client.learning.dataset import StripRef, labelled
from common.task import Label

#: Fewest strips of each pseudo-label.
MIN_STRIPS = 8
#: Orders of days that are tried for one that changes a label; of two days every other one does.
TRIES = 100


def with_permuted_days(strips: Sequence[StripRef], generator: np.random.Generator) -> list[StripRef] | None:
    """Give the labels of each day to another day of the same patient.

    The days' sequences of labels are put in another order and laid over the strips in time order, so that
    neighbours still agree as often as they did, and there are as many strips of each label.

    Parameters
    ----------
    strips : of one patient, any order; gap strips are left out.
    generator : a named stream.

    Returns
    -------
    Strips with other labels; None where the order of the days seems to change none.
    """
    counted = labelled(sorted(strips, key=lambda strip: (strip.start, strip.label)))
    days = [[strip.label for strip in own] for _, own in groupby(counted, _day)]
    true = [strip.label for strip in counted]
    for _ in range(TRIES):
        other = [label for place in generator.permutation(len(days)) for label in days[place]]
        if other != true:
            return [replace(strip, label=label) for strip, label in zip(counted, other, strict=True)]
    return None


def with_two_stretches_of_days(strips: Sequence[StripRef], least: int = MIN_STRIPS) -> list[StripRef] | None:
    """Take the negative strips of two stretches of days for the two labels.

    The later days are called positive. The border is the change of day that divides the strips most evenly.

    Parameters
    ----------
    strips : of one patient, any order; only negative ones are used.
    least : strips on each side of the border.

    Returns
    -------
    Strips with pseudo-labels; None where no change of day leaves so many on both sides.
    """
    negative = sorted((s for s in strips if s.label == Label.NEGATIVE), key=lambda strip: strip.start)
    sizes = np.cumsum([len(list(own)) for _, own in groupby(negative, _day)])[:-1]
    fits = [int(size) for size in sizes if least <= size <= len(negative) - least]
    if not fits:
        return None
    border = min(fits, key=lambda size: abs(2 * size - len(negative)))
    return [
        replace(strip, label=Label.NEGATIVE if place < border else Label.POSITIVE)
        for place, strip in enumerate(negative)
    ]


def _day(strip: StripRef) -> date:
    return strip.start.date()

"""Which of one patient's strips train, in which order, and which test, by protocol.

``prospective`` respects time. One cut separates training from test for both labels, and nothing that is
trained on ends less than a gap before it: a model that only learned to tell one day from another gains
nothing here. ``paper`` is that of Chiu 2022: of each label a random quarter is held out, pairs come in random
order. Source: SCIENCE section 9, personal protocols.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import groupby

import numpy as np

from client.learning.dataset import StripRef, labelled
from common.config import PersonalizationSettings
from common.task import Label

PROSPECTIVE = "prospective"
PAPER = "paper"


class Outcome(StrEnum):
    """What became of a patient. Only ``PERSONAL`` enters the primary result.

    ``AFTER_COHORT`` is of patients who had not enough strips, or were not there at all, when the cohort was
    frozen; nobody but the site is told of them. ``NOT_COMPUTABLE`` is of controls alone: the patient's days
    cannot be given other labels.
    """

    PERSONAL = "personal"
    NOT_INTERLEAVED = "not_interleaved"
    TOO_FEW_STRIPS = "too_few_strips"
    ONE_LABEL = "one_label"
    TRAINED_GENERIC = "trained_generic"
    AFTER_COHORT = "after_cohort"
    NOT_COMPUTABLE = "not_computable"


#: Outcomes of patients for whom there are personal models.
PERSONALIZED = (Outcome.PERSONAL, Outcome.NOT_INTERLEAVED)

Pair = tuple[StripRef, StripRef]


@dataclass(frozen=True)
class Plan:
    """One patient's strips by their use.

    Attributes
    ----------
    outcome : ``NOT_INTERLEAVED`` where no cut in time leaves both labels on both sides: then each label is
        cut on its own, and the result is reported apart. Without pairs for the other outcomes.
    pairs : (positive, negative) training strips, in time order; pair r is added in personalization round r.
    test : labelled strips the models are scored on, sorted by start.
    gap : strips of the gap label after everything that is trained on; shown, never counted.
    cut : start of the first test strip, None unless ``PERSONAL``.
    n_train_positive, n_train_negative : strips that could be trained on; pairs use the first of them.
    episodes_positive, episodes_negative : runs of strips of one label that the other label does not
        interrupt. With one episode each, labels cannot be told from days.
    """

    outcome: Outcome
    pairs: tuple[Pair, ...] = ()
    test: tuple[StripRef, ...] = ()
    gap: tuple[StripRef, ...] = ()
    cut: datetime | None = None
    n_train_positive: int = 0
    n_train_negative: int = 0
    episodes_positive: int = 0
    episodes_negative: int = 0

    @property
    def n_test_positive(self) -> int:
        """Positive test strips."""
        return sum(strip.positive for strip in self.test)

    @property
    def n_test_negative(self) -> int:
        """Negative test strips."""
        return len(self.test) - self.n_test_positive


def plan_patient(strips: Sequence[StripRef], settings: PersonalizationSettings) -> Plan:
    """Divide one patient's strips by the ``prospective`` protocol.

    The cut is the latest time after which each label still has max(``min_test``, ceil(``test_share`` n))
    of its n strips. Every strip that starts at or after it is a test strip; strips that end at least
    ``gap_s`` before it may train; those in between are left out.

    Parameters
    ----------
    strips : of one patient, any order, any label.
    settings : ``test_share``, ``min_test``, ``gap_s``, ``rounds``.
    """
    strips = sorted(strips, key=lambda strip: (strip.start, strip.label))
    counted = labelled(strips)
    positive = [strip for strip in counted if strip.positive]
    negative = [strip for strip in counted if not strip.positive]
    runs = (episodes(counted, Label.POSITIVE), episodes(counted, Label.NEGATIVE))
    if not positive or not negative:
        return Plan(Outcome.ONE_LABEL, episodes_positive=runs[0], episodes_negative=runs[1])
    kept = [test_size(len(own), settings) for own in (positive, negative)]
    if kept[0] >= len(positive) or kept[1] >= len(negative):
        return Plan(Outcome.TOO_FEW_STRIPS, episodes_positive=runs[0], episodes_negative=runs[1])
    gap = timedelta(seconds=settings.gap_s)
    cut = min(positive[-kept[0]].start, negative[-kept[1]].start)
    test = [strip for strip in counted if strip.start >= cut]
    train = [strip for strip in counted if strip.end <= cut - gap]
    outcome = Outcome.PERSONAL
    if len({strip.label for strip in train}) < 2:
        outcome = Outcome.NOT_INTERLEAVED
        latest = {strip.strip_id for strip in positive[-kept[0] :] + negative[-kept[1] :]}
        test = [strip for strip in counted if strip.strip_id in latest]
        train = [strip for strip in counted if all(apart(strip, other, gap) for other in test)]
    train_positive = [strip for strip in train if strip.positive]
    train_negative = [strip for strip in train if not strip.positive]
    pairs = tuple(zip(train_positive, train_negative, strict=False))[: settings.rounds]
    if not pairs:
        return Plan(Outcome.TOO_FEW_STRIPS, episodes_positive=runs[0], episodes_negative=runs[1])
    last = max(strip.end for strip in train)
    return Plan(
        outcome=outcome,
        pairs=pairs,
        test=tuple(test),
        gap=tuple(s for s in strips if s.label == Label.GAP and s.start >= max(last + gap, cut)),
        cut=cut if outcome == Outcome.PERSONAL else None,
        n_train_positive=len(train_positive),
        n_train_negative=len(train_negative),
        episodes_positive=runs[0],
        episodes_negative=runs[1],
    )


def plan_randomly(
    strips: Sequence[StripRef], settings: PersonalizationSettings, generator: np.random.Generator
) -> Plan:
    """Divide one patient's strips by the ``paper`` protocol: at random, without separation in time.

    Of each label's n strips max(``min_test``, ceil(``test_share`` n)) are held out; the others are paired in
    random order. Source: Chiu 2022, Methods ("25 % of the potassium records of each patient").

    Parameters
    ----------
    strips : of one patient, any order, any label; gap strips are left aside.
    settings : ``test_share``, ``min_test``, ``rounds``.
    generator : a named stream.
    """
    counted = labelled(sorted(strips, key=lambda strip: (strip.start, strip.label)))
    runs = (episodes(counted, Label.POSITIVE), episodes(counted, Label.NEGATIVE))
    train: list[list[StripRef]] = []
    test: list[StripRef] = []
    for positive in (True, False):
        own = [strip for strip in counted if strip.positive == positive]
        shuffled = [own[place] for place in generator.permutation(len(own))]
        kept = test_size(len(own), settings)
        test += shuffled[:kept]
        train.append(shuffled[kept:])
    outcome = Outcome.PERSONAL
    if not all(runs):
        outcome = Outcome.ONE_LABEL
    elif not all(train):
        outcome = Outcome.TOO_FEW_STRIPS
    if outcome is not Outcome.PERSONAL:
        return Plan(outcome, episodes_positive=runs[0], episodes_negative=runs[1])
    return Plan(
        outcome=outcome,
        pairs=tuple(zip(*train, strict=False))[: settings.rounds],
        test=tuple(sorted(test, key=lambda strip: (strip.start, strip.label))),
        n_train_positive=len(train[0]),
        n_train_negative=len(train[1]),
        episodes_positive=runs[0],
        episodes_negative=runs[1],
    )


def test_size(n: int, settings: PersonalizationSettings) -> int:
    """Return how many of a label's n strips must be left for the test."""
    # A share such as 0.1 times 10 may exceed 1 by rounding alone.
    return max(settings.min_test, math.ceil(settings.test_share * n - 1e-9))


def episodes(strips: Sequence[StripRef], label: Label) -> int:
    """Count runs in time of strips of one label, uninterrupted by the other label."""
    counted = labelled(sorted(strips, key=lambda strip: (strip.start, strip.label)))
    return sum(own == label for own, _ in groupby(strip.label for strip in counted))


def apart(strip: StripRef, other: StripRef, gap: timedelta) -> bool:
    """Whether two strips are different and at least ``gap`` lies between them, whichever comes first."""
    return strip.strip_id != other.strip_id and (
        strip.end + gap <= other.start or other.end + gap <= strip.start
    )

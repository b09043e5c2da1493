"""What a strip's score is worth: probabilities, alarms a day, and votes along the potassium scale.

Source: SCIENCE section 9, calibration and alarms. Everything here is at strip level. Strips in the gap have
no label: they belong in ``votes_by_value`` and ``vote_correlation`` and nowhere else, so an alarm that meets
them at the bedside will be right and wrong about more strips than sensitivity and specificity know of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from scipy.stats import spearmanr

from common.errors import ConfigurationError, ModelError
from common.intervals import Interval, mean_interval, wilson
from common.metrics import Confusion, brier

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]

#: Fewer strips say nothing about calibration: below, there is no figure at all.
MIN_STRIPS_POOLED = 50
#: Bins of the reliability curve, fewer where a bin would hold less than ``MIN_STRIPS_PER_BIN`` strips.
MOST_BINS = 10
MIN_STRIPS_PER_BIN = 10

#: One decision per non-overlapping 10 minutes.
DECISIONS_PER_DAY = 144
#: Shares of positive strips for which alarms are stated; the training balance is far from any of them.
PREVALENCES = (0.01, 0.02, 0.05)

#: mEq/L. A bin holds its upper edge, so that the gap (5.0 < K ≤ 5.5) is exactly one of them.
POTASSIUM_EDGES = (4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0)
#: A rank correlation of fewer strips is not computed.
MIN_STRIPS_CORRELATED = 5


@dataclass(frozen=True)
class ReliabilityBin:
    """Strips of similar probability.

    Attributes
    ----------
    n, n_positive : strips, and those with a positive label.
    mean_probability : what was forecast.
    low, high : 95 % Wilson interval of ``share``, as if strips of one patient were independent; they are
        not, so it is too narrow where few patients fill the bin.
    """

    n: int
    n_positive: int
    mean_probability: float
    low: float
    high: float

    @property
    def share(self) -> float:
        """Share of strips with a positive label: what happened."""
        return self.n_positive / self.n


@dataclass(frozen=True)
class Alarms:
    """What calling strips positive means for one patient at a prevalence.

    Attributes
    ----------
    prevalence : share of strips that are positive.
    predictive_value : share of alarms that are right; NaN where there is no alarm.
    per_day, false_per_day : alarms in a patient-day, and the wrong ones among them.
    """

    prevalence: float
    predictive_value: float
    per_day: float
    false_per_day: float


@dataclass(frozen=True)
class AlarmForecast:
    """Alarms as counted strips let expect them, with the range of each figure.

    Attributes
    ----------
    point : from the observed sensitivity and specificity.
    predictive_value, per_day, false_per_day : lowest and highest value while sensitivity and specificity
        stay within their 95 % Wilson intervals. The first two move with both shares and are taken at the
        corner where both are off at once: wider than one interval of the figure itself would be. That
        strips of one patient resemble each other makes all three too narrow; the corners do not mend that.
    """

    point: Alarms
    predictive_value: tuple[float, float]
    per_day: tuple[float, float]
    false_per_day: tuple[float, float]


@dataclass(frozen=True)
class VoteBin:
    """Votes of strips whose draw fell between two values.

    Attributes
    ----------
    above, up_to : edges, the upper one belongs to the bin; None where it is open.
    n, patients : strips, and distinct patients among them.
    lower_quartile, median, upper_quartile : of the votes; NaN in an empty bin.
    """

    above: float | None
    up_to: float | None
    n: int
    patients: int
    lower_quartile: float
    median: float
    upper_quartile: float


@dataclass(frozen=True)
class VoteCorrelation:
    """Spearman correlation of vote and measured value.

    Attributes
    ----------
    n_strips, pooled : all strips, and the correlation over them. It mixes what differs between patients
        with what differs within them; its strips are not independent, so it has no interval.
    n_patients : patients with at least 5 strips and a correlation of their own.
    n_flat : patients with at least 5 strips but only one vote or one value: they have no correlation and
        are not in ``within``. A model that calls all strips of a patient the same ends here.
    within, interval : mean over ``n_patients`` of the correlation within the patient, and its interval.
    """

    n_strips: int
    pooled: float
    n_patients: int
    n_flat: int
    within: float
    interval: Interval | None


def strip_probability(mean_logit: Floats, trained_share: float, prevalence: float) -> Floats:
    """Return the probability of the positive label: the sigmoid of the mean beat logit, prior-corrected.

    A model that learned from balanced strips speaks as if every second strip were positive.

    Parameters
    ----------
    mean_logit : (n,), mean over the beats of each strip.
    trained_share : share of positives the model was trained with, 0.5 for balanced.
    prevalence : share of positives where the probability is used. To compare probabilities with labels,
        this is the share among the strips compared: at any other they would rightly not agree.

    Returns
    -------
    (n,)

    Raises
    ------
    ConfigurationError
        If a share is not above 0 and below 1.
    ModelError
        If a logit is NaN.
    """
    logits = np.asarray(mean_logit, float)
    if np.isnan(logits).any():
        raise ModelError("a score is NaN; the model's weights or its beats are not finite")
    shift = logit(_inside("prevalence", prevalence)) - logit(_inside("trained_share", trained_share))
    probability: Floats = expit(logits + shift)
    return probability


def pooled_brier(probability: Floats, positive: Bools) -> float | None:
    """Return the Brier score of strips (n,) pooled over patients; None below 50 strips."""
    return brier(probability, positive) if len(probability) >= MIN_STRIPS_POOLED else None


def reliability(probability: Floats, positive: Bools) -> tuple[ReliabilityBin, ...] | None:
    """Return the reliability curve, forecast against what happened, from low to high; None below 50 strips.

    Bins hold equal numbers of strips. Probabilities of a few percent are the rule here, and bins of equal
    width would put nearly all strips into the first and leave single ones in the rest. Equal probabilities
    share a bin, so that the order of the strips does not matter; with many of them bins are fewer.

    Parameters
    ----------
    probability : (n,), from ``strip_probability`` at the share of positives among these strips.
    positive : bool (n,)

    Raises
    ------
    ModelError
        If a probability is not between 0 and 1.
    """
    if len(probability) < MIN_STRIPS_POOLED:
        return None
    forecast, happened = np.asarray(probability, float), np.asarray(positive, bool)
    bins = []
    for members in _bins(forecast):
        n, k = len(members), int(np.count_nonzero(happened[members]))
        bins.append(ReliabilityBin(n, k, float(np.mean(forecast[members])), *wilson(k, n)))
    return tuple(bins)


def expected_calibration_error(probability: Floats, positive: Bools) -> float | None:
    """Return the mean distance of forecast and share over the bins of ``reliability``, weighted by strips.

    None below 50 strips. It is hardly ever 0: read it beside ``calibration_error_by_chance``.
    """
    bins = reliability(probability, positive)
    if bins is None:
        return None
    return math.fsum(one.n * abs(one.share - one.mean_probability) for one in bins) / len(probability)


def calibration_error_by_chance(probability: Floats) -> float | None:
    """Return the calibration error to expect if the probabilities (n,) were right; None below 50 strips.

    The share in a bin of ten strips misses a true forecast by chance alone. Exact: the number of positives
    in a bin is the sum of independent draws, one per strip.
    """
    if len(probability) < MIN_STRIPS_POOLED:
        return None
    forecast = np.asarray(probability, float)
    distance = []
    for members in _bins(forecast):
        chances = np.ones(1)  # of 0, 1, 2, ... positives
        for p in forecast[members]:
            chances = np.convolve(chances, (1 - p, p))
        distance.append(float(chances @ np.abs(np.arange(len(chances)) - forecast[members].sum())))
    return math.fsum(distance) / len(forecast)


def alarms(sensitivity: float, specificity: float, prevalence: float) -> Alarms:
    """Return what 144 decisions a day amount to; ConfigurationError if the prevalence is not in (0, 1)."""
    right = DECISIONS_PER_DAY * _inside("prevalence", prevalence) * sensitivity
    wrong = DECISIONS_PER_DAY * (1 - prevalence) * (1 - specificity)
    everything = right + wrong
    return Alarms(prevalence, right / everything if everything else math.nan, everything, wrong)


def alarm_forecasts(
    strips: Confusion, prevalences: Sequence[float] = PREVALENCES
) -> tuple[AlarmForecast, ...]:
    """Return alarms with their ranges, one forecast per prevalence, from strips called by vote.

    Figures are NaN if the strips lack a label they need.
    """
    sensitivity = wilson(strips.tp, strips.tp + strips.fn)
    specificity = wilson(strips.tn, strips.tn + strips.fp)

    def forecast(prevalence: float) -> AlarmForecast:
        worst, best = (alarms(sensitivity[end], specificity[end], prevalence) for end in (0, 1))
        quiet, loud = (alarms(sensitivity[end], specificity[1 - end], prevalence) for end in (0, 1))
        return AlarmForecast(
            point=alarms(strips.sensitivity, strips.specificity, prevalence),
            predictive_value=(worst.predictive_value, best.predictive_value),
            per_day=(quiet.per_day, loud.per_day),
            false_per_day=(quiet.false_per_day, loud.false_per_day),
        )

    return tuple(forecast(prevalence) for prevalence in prevalences)


def votes_by_value(
    values: Floats, votes: Floats, patients: Integers, edges: Sequence[float] = POTASSIUM_EDGES
) -> tuple[VoteBin, ...]:
    """Return the votes along the scale of the measured value, strips in the gap included.

    Parameters
    ----------
    values : (n,), of each strip's draw, mEq/L for potassium; strips without one (NaN) are left out.
    votes : (n,), share of beats called positive.
    patients : (n,), names the patient.
    edges : between bins, rising.

    Returns
    -------
    One bin more than edges, empty ones too, from low to high.
    """
    known = ~np.isnan(np.asarray(values, float))
    place = np.searchsorted(edges, np.asarray(values, float)[known], side="left")
    own, who = np.asarray(votes, float)[known], np.asarray(patients)[known]
    bins = []
    for index, (above, up_to) in enumerate(zip((None, *edges), (*edges, None), strict=True)):
        inside = place == index
        n = int(np.count_nonzero(inside))
        quartiles = np.quantile(own[inside], (0.25, 0.5, 0.75)) if n else np.full(3, math.nan)
        bins.append(VoteBin(above, up_to, n, len(np.unique(who[inside])), *map(float, quartiles)))
    return tuple(bins)


def vote_correlation(
    values: Floats, votes: Floats, patients: Integers, generator: np.random.Generator
) -> VoteCorrelation:
    """Correlate vote and measured value by rank, over all strips and within patients.

    Parameters
    ----------
    values, votes, patients : (n,), as in ``votes_by_value``.
    generator : a named stream, for the interval over patients.
    """
    known = ~np.isnan(np.asarray(values, float))
    value, vote = np.asarray(values, float)[known], np.asarray(votes, float)[known]
    who = np.asarray(patients)[known]
    within = [
        _spearman(value[who == patient], vote[who == patient])
        for patient, n in zip(*np.unique(who, return_counts=True), strict=True)
        if n >= MIN_STRIPS_CORRELATED
    ]
    kept = [one for one in within if not math.isnan(one)]
    return VoteCorrelation(
        n_strips=len(value),
        pooled=_spearman(value, vote),
        n_patients=len(kept),
        n_flat=len(within) - len(kept),
        within=math.fsum(kept) / len(kept) if kept else math.nan,
        interval=mean_interval(kept, generator),
    )


def _spearman(a: Floats, b: Floats) -> float:
    # Where one side never changes there is no order to compare.
    if len(a) < MIN_STRIPS_CORRELATED or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(spearmanr(a, b).statistic)


def _bins(probability: Floats) -> list[Integers]:
    """Return the strips of each bin, from low to high probability."""
    # Written so that NaN is refused as well.
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ModelError("a probability is not between 0 and 1; the model's weights or its beats are damaged")
    count = min(MOST_BINS, len(probability) // MIN_STRIPS_PER_BIN)
    # Edges are probabilities that occur: an interpolated one could part equal values by rounding.
    edges = np.quantile(probability, np.arange(1, count) / count, method="inverted_cdf")
    place = np.searchsorted(edges, probability, side="left")
    return [np.flatnonzero(place == index) for index in np.unique(place)]


def _inside(name: str, share: float) -> float:
    if not 0 < share < 1:
        raise ConfigurationError(f"{name} lies above 0 and below 1, got {share}")
    return share

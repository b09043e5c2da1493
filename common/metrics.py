"""Metrics that add up, so that a federated figure is the pooled figure.

A site sends sums and counts, never means: adding them at the server gives what one site with all the
patients would have computed. Each of these values adds with ``+``, starts from its default (all zero), and
travels as flat numbers (``as_flat``, ``from_flat``). Figures that do not exist, such as the AUC of one
label, are NaN. Plain functions on arrays follow below; intervals are in ``common.intervals``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import ModelError, ProtocolError
from common.intervals import (
    Interval,
    bootstrap_mean,
    mean_interval,
    stratified,
    student_interval,
    t_interval,
    wilson,
)

__all__ = [
    "Confusion",
    "Interval",
    "Moments",
    "PatientLoss",
    "ScoreHistogram",
    "auc",
    "bootstrap_mean",
    "brier",
    "log_loss_of_probability",
    "mean_interval",
    "stratified_interval",
    "t_interval",
    "wilson",
]

Flat = dict[str, int | float | list[int] | list[float]]
Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]

# Probabilities are kept this far from 0 and 1 in a log loss: one float32 sigmoid of exactly 1 would make
# the loss infinite.
SMALLEST_PROBABILITY = 1e-7

#: Logits are counted in this many bins; those beyond the edges fall into the outermost.
BINS = 512
EDGE = 16.0

#: Two means closer than this, of accuracies or of F1, are equally good to a reader.
AS_GOOD = 0.01


@dataclass(frozen=True)
class Confusion:
    """Counts of decisions against labels."""

    tp: int = 0
    fp: int = 0
    tn: int = 0
    fn: int = 0

    @classmethod
    def of(cls, called: Bools, positive: Bools) -> Confusion:
        """Count decisions: ``called`` positive or not, against the labels."""
        called, positive = np.asarray(called, bool), np.asarray(positive, bool)
        return cls(
            tp=int(np.sum(called & positive)),
            fp=int(np.sum(called & ~positive)),
            tn=int(np.sum(~called & ~positive)),
            fn=int(np.sum(~called & positive)),
        )

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.tp + other.tp, self.fp + other.fp, self.tn + other.tn, self.fn + other.fn)

    @property
    def total(self) -> int:
        """Number of decisions."""
        return self.tp + self.fp + self.tn + self.fn

    @property
    def accuracy(self) -> float:
        """Share of right decisions."""
        return _ratio(self.tp + self.tn, self.total)

    @property
    def sensitivity(self) -> float:
        """Share of the positives that were called positive."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float:
        """Share of the negatives that were called negative."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def positive_predictivity(self) -> float:
        """Share of those called positive that are."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def f1(self) -> float:
        """Harmonic mean of sensitivity and positive predictivity; zero if all positives are missed."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    def as_flat(self, prefix: str) -> Flat:
        """Return ``{prefix}.tp`` and so on."""
        return {f"{prefix}.{name}": getattr(self, name) for name in ("tp", "fp", "tn", "fn")}

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any], prefix: str) -> Confusion:
        """Undo ``as_flat``; ProtocolError if a key is missing."""
        return cls(*(int(_get(flat, f"{prefix}.{name}")) for name in ("tp", "fp", "tn", "fn")))


@dataclass(frozen=True)
class ScoreHistogram:
    """Logits counted in 512 equal bins between −16 and 16, per label.

    Attributes
    ----------
    positive, negative : counts per bin, from low to high logits; empty stands for all zero.
    """

    positive: tuple[int, ...] = ()
    negative: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("positive", "negative"):
            counts = getattr(self, name) or (0,) * BINS
            if len(counts) != BINS:
                raise ModelError(f"a score histogram has {BINS} bins, got {len(counts)}")
            object.__setattr__(self, name, tuple(counts))

    @classmethod
    def of(cls, logits: Floats, positive: Bools) -> ScoreHistogram:
        """Count finite logits (n,) with their labels (n,).

        Raises
        ------
        ModelError
            If a logit is NaN, which belongs in no bin.
        """
        logits, positive = np.asarray(logits, float), np.asarray(positive, bool)
        if np.isnan(logits).any():
            raise ModelError("a model answered NaN; its weights or its beats are not finite")
        inside = np.clip(logits, -EDGE, EDGE)
        bins = np.minimum(((inside + EDGE) * (BINS / (2 * EDGE))).astype(np.intp), BINS - 1)
        counts = [np.bincount(bins[mask], minlength=BINS).tolist() for mask in (positive, ~positive)]
        return cls(tuple(counts[0]), tuple(counts[1]))

    def __add__(self, other: ScoreHistogram) -> ScoreHistogram:
        return ScoreHistogram(
            tuple(a + b for a, b in zip(self.positive, other.positive, strict=True)),
            tuple(a + b for a, b in zip(self.negative, other.negative, strict=True)),
        )

    @property
    def auc(self) -> float:
        """Area under the ROC curve; pairs in one bin count one half."""
        positive, negative = np.array(self.positive, float), np.array(self.negative, float)
        below = np.cumsum(negative) - negative
        return _ratio(float(positive @ (below + negative / 2)), positive.sum() * negative.sum())

    @property
    def auc_error_bound(self) -> float:
        """How far ``auc`` can be from that of the logits themselves: half the share of pairs in one bin."""
        positive, negative = np.array(self.positive, float), np.array(self.negative, float)
        return _ratio(float(positive @ negative) / 2, positive.sum() * negative.sum())

    def as_flat(self, prefix: str) -> Flat:
        """Return ``{prefix}.positive`` and ``{prefix}.negative``, lists of counts."""
        return {f"{prefix}.positive": list(self.positive), f"{prefix}.negative": list(self.negative)}

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any], prefix: str) -> ScoreHistogram:
        """Undo ``as_flat``; ProtocolError if a key is missing or a list has another length."""
        counts = [_get(flat, f"{prefix}.{name}") for name in ("positive", "negative")]
        if any(len(values) != BINS for values in counts):
            raise ProtocolError(f"{prefix}: a score histogram has {BINS} bins")
        return cls(*(tuple(int(count) for count in values) for values in counts))


@dataclass(frozen=True)
class Moments:
    """Number, sum and sum of squares of per-patient values."""

    n: int = 0
    total: float = 0.0
    total_sq: float = 0.0

    @classmethod
    def of(cls, values: Iterable[float]) -> Moments:
        """Sum values; NaN (a figure the patient does not have) is left out."""
        kept = [float(value) for value in values if not math.isnan(value)]
        return cls(len(kept), math.fsum(kept), math.fsum(value * value for value in kept))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.total + other.total, self.total_sq + other.total_sq)

    @property
    def mean(self) -> float:
        """Mean over patients."""
        return _ratio(self.total, self.n)

    @property
    def variance(self) -> float:
        """Variance with n − 1; NaN for fewer than two patients."""
        # Equal values may leave a negative rest of rounding.
        return (
            _ratio(max(0.0, self.total_sq - self.total * self.mean), self.n - 1) if self.n > 1 else math.nan
        )

    @property
    def sd(self) -> float:
        """Standard deviation with n − 1."""
        return math.sqrt(self.variance)

    def interval(self, level: float = 0.95) -> Interval | None:
        """Return the interval of the mean by Student's t; None with fewer than 6 patients.

        Sums do not allow a bootstrap, so this is the interval above 20 patients as well.
        """
        error = math.sqrt(self.variance / self.n) if self.n > 1 else math.nan
        return student_interval(self.mean, error, self.n - 1, self.n, level=level)

    def as_flat(self, prefix: str) -> Flat:
        """Return ``{prefix}.n``, ``{prefix}.total`` and ``{prefix}.total-sq``."""
        return {f"{prefix}.n": self.n, f"{prefix}.total": self.total, f"{prefix}.total-sq": self.total_sq}

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any], prefix: str) -> Moments:
        """Undo ``as_flat``; ProtocolError if a key is missing."""
        n, total, total_sq = (_get(flat, f"{prefix}.{name}") for name in ("n", "total", "total-sq"))
        return cls(int(n), float(total), float(total_sq))


@dataclass(frozen=True)
class PatientLoss:
    """Sum over patients of each patient's mean beat loss, with the number of patients.

    A patient with ten times the beats weighs as much as any other. Source: SCIENCE section 9.
    """

    total: float = 0.0
    patients: int = 0

    @classmethod
    def of(cls, losses: Floats, patients: npt.NDArray[np.integer[Any]]) -> PatientLoss:
        """Average beat losses (n,) within each patient, then sum; ``patients`` (n,) names the patient."""
        _, index, counts = np.unique(patients, return_inverse=True, return_counts=True)
        sums = np.bincount(index, weights=np.asarray(losses, float), minlength=len(counts))
        return cls(math.fsum(sums / counts), len(counts))

    def __add__(self, other: PatientLoss) -> PatientLoss:
        return PatientLoss(self.total + other.total, self.patients + other.patients)

    @property
    def mean(self) -> float:
        """Mean over patients."""
        return _ratio(self.total, self.patients)

    def as_flat(self, prefix: str) -> Flat:
        """Return ``{prefix}-loss-total`` and ``{prefix}-patients``."""
        return {f"{prefix}-loss-total": self.total, f"{prefix}-patients": self.patients}

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any], prefix: str) -> PatientLoss:
        """Undo ``as_flat``; ProtocolError if a key is missing."""
        return cls(float(_get(flat, f"{prefix}-loss-total")), int(_get(flat, f"{prefix}-patients")))


def auc(scores: Floats, positive: Bools) -> float:
    """Return the area under the ROC curve: the share of pairs in right order, ties one half.

    Parameters
    ----------
    scores : (n,), higher speaks for positive; only their order matters.
    positive : bool (n,)

    Returns
    -------
    NaN if only one label is there.

    Raises
    ------
    ModelError
        If a score is NaN.
    """
    scores, positive = np.asarray(scores), np.asarray(positive, bool)
    if np.isnan(scores).any():
        raise ModelError("a score is NaN; the model's weights or its beats are not finite")
    above, below = scores[positive], np.sort(scores[~positive])
    # Beaten and tied negatives of each positive, twice and once: integers, so the sum is exact.
    beaten = np.searchsorted(below, above, "left").sum() + np.searchsorted(below, above, "right").sum()
    return _ratio(float(beaten), 2 * len(above) * len(below))


def brier(probability: Floats, positive: Bools) -> float:
    """Return the mean squared distance of probabilities (n,) from labels (n,); NaN for n = 0."""
    distance = np.asarray(probability, float) - np.asarray(positive, bool)
    return _ratio(float(distance @ distance), len(distance))


def log_loss_of_probability(probability: Floats, positive: Bools) -> npt.NDArray[np.float64]:
    """Return −log of the probability given to the label that holds, one value per item (n,), in nats.

    Probabilities are kept 1e-7 away from 0 and 1.
    """
    given = np.where(np.asarray(positive, bool), probability, 1 - np.asarray(probability, float))
    loss: npt.NDArray[np.float64] = -np.log(np.clip(given, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY))
    return loss


def stratified_interval(sites: Sequence[Moments], level: float = 0.95) -> Interval | None:
    """Return the interval of the mean over all patients, from the sums of each site.

    Sites without patients do not count. Sites with one patient have no variance of their own: they are
    taken together, or with the smallest other site, which can only widen the interval on average.

    Returns
    -------
    None with fewer than 6 patients in all.
    """
    strata = [site for site in sites if site.n > 1]
    single = sum((site for site in sites if site.n == 1), Moments())
    if single.n == 1 and strata:
        # Sums break ties, so that the answer does not depend on the order of the sites.
        strata.sort(key=lambda site: (site.n, site.total, site.total_sq))
        strata[0] += single
    elif single.n > 1:
        strata.append(single)
    return stratified([(site.n, site.mean, site.variance) for site in strata], level)[1]


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


def _get(flat: Mapping[str, Any], key: str) -> Any:
    if key not in flat:
        raise ProtocolError(f"the answer has no {key!r}")
    return flat[key]

"""Logistic regression on a few numbers per beat, fitted to one patient: the baselines a network has to beat.

``t_wave`` is fitted on the features of ``client.learning.waves``, ``heart_rate`` on the rate of the strip
alone. What they reach needs no network, and what the second one reaches is not the shape of the beat.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Features are not spread further than as if they differed by so much; in their own units, unless told.
SMALLEST_SCALE: Final = 1e-3
#: Per minute. With one strip of each label their rates always differ a little.
HEART_RATE_RESOLUTION: Final = 1.0

#: The loss is convex and small: Newton's method ends after some ten steps.
TOLERANCE: Final = 1e-8
MOST_STEPS: Final = 100


@dataclass(frozen=True, eq=False)
class FeatureModel:
    """Logistic regression on standardized features.

    Attributes
    ----------
    mean, scale : (k,) weighted mean and standard deviation of each feature over the training beats.
    weight : (k,) of the standardized features.
    bias : logit of a beat with average features.
    """

    mean: Floats
    scale: Floats
    weight: Floats
    bias: float

    def logits(self, features: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Return float32 (n,) for features (n, k); a missing value (NaN) is taken as the mean."""
        return (self._standardized(features) @ self.weight + self.bias).astype(np.float32)

    def _standardized(self, features: npt.NDArray[np.floating]) -> Floats:
        standardized: Floats = (np.asarray(features, np.float64) - self.mean) / self.scale
        return np.where(np.isnan(standardized), 0.0, standardized)


def fit_features(
    features: npt.NDArray[np.floating],
    positive: npt.NDArray[np.bool_],
    weights: Floats,
    penalty: float,
    smallest_scale: float | npt.ArrayLike = SMALLEST_SCALE,
) -> FeatureModel:
    """Fit a logistic regression with a ridge penalty to a patient's training beats.

    The loss is the weighted sum of the beats' log losses and half the penalty times the squared length of
    the weight. The bias is free, so with labels that weigh the same, features that tell nothing give logits
    of 0. The penalty keeps the weight finite where the features separate the labels. With one label only
    there is nothing to tell apart: all logits are 0. Nothing is random.

    Parameters
    ----------
    features : (n, k); NaN where a value is missing.
    positive, weights : (n,), one per beat; weights sum to the number of strips
        (``personalizers.beat_weights``), so a penalty of one weighs as much as one strip.
    penalty : above zero.
    smallest_scale : of every feature, or (k,) of each, in the units of the features: what differs by less is
        not blown up, as ``waves.T_WAVE_RESOLUTION`` and ``HEART_RATE_RESOLUTION``.
    """
    values, labels = np.asarray(features, np.float64), np.asarray(positive, bool)
    share = np.asarray(weights, np.float64)
    untrained = _scaling(values, share, np.asarray(smallest_scale, np.float64))
    if labels.all() or not labels.any():
        return untrained
    from sklearn.exceptions import ConvergenceWarning  # here, because it takes a second to import
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1 / penalty, solver="newton-cholesky", tol=TOLERANCE, max_iter=MOST_STEPS)
    with warnings.catch_warnings():
        # Where the first step is at the minimum but for rounding, a finer solver takes over, with a warning.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(untrained._standardized(values), labels, sample_weight=share)
    return FeatureModel(untrained.mean, untrained.scale, model.coef_[0], float(model.intercept_[0]))


def _scaling(values: Floats, share: Floats, smallest: Floats) -> FeatureModel:
    """Measure the features, each over the beats that have it; no weight yet."""
    known = ~np.isnan(values)
    filled, each = np.where(known, values, 0.0), share[:, None] * known
    total = np.maximum(each.sum(axis=0), np.finfo(np.float64).tiny)
    mean = (each * filled).sum(axis=0) / total
    spread = np.sqrt((each * (filled - mean) ** 2).sum(axis=0) / total)
    return FeatureModel(mean, np.maximum(spread, smallest), np.zeros(values.shape[1]), 0.0)

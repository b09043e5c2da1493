"""The guard: which of a patient's models to believe, decided on strips no model had seen.

Test, then train: before pair r + 1 is trained on, the models of round r are scored on it. That costs no
extra training and no strip, and it asks the question that matters at the bedside: is the model right about
the next strip? Source: SCIENCE section 9, guard (leave-one-strip-out with so few strips is a coin).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from client.learning.evaluation import StripScore
from common.metrics import AS_GOOD, log_loss_of_probability

#: Candidates from simple to complex.
METHODS = ("generic", "threshold", "closed_form", "fine_tuned")


def pair_loss(scores: Sequence[StripScore]) -> float:
    """Return the mean log loss of the strips' mean probabilities, nats."""
    probability = np.array([score.mean_probability for score in scores])
    positive = np.array([score.positive for score in scores], bool)
    return float(np.mean(log_loss_of_probability(probability, positive)))


def select(losses: Mapping[str, Sequence[float]], margin: float, min_pairs: int) -> str:
    """Choose a method from how it did on pairs it had not been trained on.

    From simple to complex, a method takes the place of the one chosen so far only if its summed loss is
    lower by more than the margin.

    Parameters
    ----------
    losses : by method, the loss on each scored pair, in the same order for all; candidates may be missing.
    margin : summed log loss, nats.
    min_pairs : with fewer scored pairs the generic model stays.
    """
    chosen = METHODS[0]
    if len(losses[chosen]) < min_pairs:
        return chosen
    for method in METHODS[1:]:
        if method in losses and sum(losses[method]) < sum(losses[chosen]) - margin:
            chosen = method
    return chosen


def as_good_as_best(selected: str, beat_f1: Mapping[str, float]) -> bool:
    """Whether the selected method's beat F1 on the test strips is that of the best, but for 0.01."""
    return beat_f1[selected] >= max(beat_f1.values()) - AS_GOOD

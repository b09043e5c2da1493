"""Learning rate, choice of the generic model and early stop: pure functions of the rounds so far.

Nothing here keeps state, so a federation that was interrupted and goes on decides as if it never stopped.

Validation is noisy: a few patients with odd beats can make any single federated round look best. Therefore
everything is judged on the median of three rounds, only rounds in which the same sites answered are compared,
and with too few validation patients nothing is judged at all: the learning rate decays on a fixed curve and
the last weights are taken. Source: SCIENCE section 9, Choosing the generic model; Chiu 2022 halves the rate
after 3 flat epochs and keeps the least validation loss.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from common.config import FederationSettings

BEST = "best of median-3 validation"
LAST_OF_DECAY = "last weights of a decaying schedule"
LAST_FEW_PATIENTS = "last weights; too few validation patients to choose by"
LAST_FEW_ROUNDS = "last weights; fewer than three rounds in which the same sites validated"

WINDOW = 3
#: A median must fall by this share of the lowest one to count as an improvement.
MIN_IMPROVEMENT = 1e-4
#: Lowest share of the first learning rate.
MIN_RATE_SHARE = 1e-3

Kind = Literal["plateau", "cosine"]


@dataclass(frozen=True)
class Evaluation:
    """Validation of one set of global weights, summed over the sites that have validation patients.

    Attributes
    ----------
    round : federated rounds behind the weights; 0 is before any training.
    loss_total : sum over patients of each patient's mean beat loss.
    patients, beats : how many the sum is over.
    sites : names of the sites in the sum, sorted.
    """

    round: int
    loss_total: float
    patients: int
    beats: int
    sites: tuple[str, ...]

    @property
    def loss(self) -> float | None:
        """Mean over patients; None without patients."""
        return self.loss_total / self.patients if self.patients else None


@dataclass(frozen=True)
class Selection:
    """Which weights became the generic model, and by which rule."""

    round: int
    rule: str
    loss: float | None
    patients: int


def kind(federation: FederationSettings, evaluations: Sequence[Evaluation]) -> Kind:
    """Return the schedule in force; ``auto`` is settled by the patients of the first evaluation."""
    if federation.schedule != "auto":
        return federation.schedule
    enough = bool(evaluations) and evaluations[0].patients >= federation.min_validation_patients
    return "plateau" if enough else "cosine"


def learning_rate(
    first: float, federation: FederationSettings, evaluations: Sequence[Evaluation], number: int
) -> float:
    """Return the learning rate of federated round ``number``.

    Parameters
    ----------
    first : rate of round 1, the same under every schedule.
    evaluations : those known when the round begins: of the weights of rounds 0 to ``number - 2``.
    number : 1 to ``federation.rounds``.
    """
    if kind(federation, evaluations) == "cosine":
        share = (1 + math.cos(math.pi * (number - 1) / federation.rounds)) / 2
    else:
        share = federation.plateau_factor ** _plateaus(evaluations, federation.plateau_rounds)
    return first * max(share, MIN_RATE_SHARE)


def medians(evaluations: Sequence[Evaluation]) -> list[float | None]:
    """Return, for each evaluation, the median loss of the last three by the same sites up to it.

    None where there were fewer than three, or no validation patients.
    """
    losses: dict[tuple[str, ...], list[float]] = defaultdict(list)
    out: list[float | None] = []
    for evaluation in evaluations:
        known = losses[evaluation.sites]
        if evaluation.loss is not None:
            known.append(evaluation.loss)
        full = evaluation.loss is not None and len(known) >= WINDOW
        out.append(median(known[-WINDOW:]) if full else None)
    return out


def best(evaluations: Sequence[Evaluation], min_patients: int) -> Evaluation | None:
    """Return the evaluation whose weights are the best known so far.

    Weights stand for the window of three rounds that ends with them, and only if their own loss is not above
    its median: a round that was worse than its neighbours is never chosen for their sake. Once another set
    of sites has answered more often than the one that made the choice, it judges from then on.
    """
    chosen: Evaluation | None = None
    lowest = math.inf
    seen: dict[tuple[str, ...], int] = defaultdict(int)
    for evaluation, smooth in zip(evaluations, medians(evaluations), strict=True):
        seen[evaluation.sites] += 1
        if smooth is None or evaluation.loss is None or evaluation.patients < min_patients:
            continue
        if evaluation.loss > smooth:
            continue
        same = chosen is None or chosen.sites == evaluation.sites
        better = smooth < lowest if same else seen[evaluation.sites] > seen[chosen.sites]  # type: ignore[union-attr]
        if better:
            chosen, lowest = evaluation, smooth
    return chosen


def select(federation: FederationSettings, evaluations: Sequence[Evaluation], last: int) -> Selection:
    """Choose the generic model after the last round, and name the rule."""
    chosen = best(evaluations, federation.min_validation_patients)
    if chosen is not None:
        return Selection(chosen.round, BEST, chosen.loss, chosen.patients)
    final = evaluations[-1] if evaluations else None
    patients = final.patients if final else 0
    if kind(federation, evaluations) == "cosine":
        rule = LAST_OF_DECAY
    else:
        few = patients < federation.min_validation_patients
        rule = LAST_FEW_PATIENTS if few else LAST_FEW_ROUNDS
    return Selection(last, rule, final.loss if final else None, patients)


def should_stop(federation: FederationSettings, evaluations: Sequence[Evaluation]) -> bool:
    """Say whether the plateau has lasted ``stop_rounds`` rounds; never under a fixed schedule."""
    if not federation.stop_rounds or kind(federation, evaluations) == "cosine":
        return False
    return _flat_rounds(evaluations)[-1] >= federation.stop_rounds if evaluations else False


def _flat_rounds(evaluations: Sequence[Evaluation]) -> list[int]:
    """Count, at each evaluation, the judged rounds since the median last fell."""
    lowest: dict[tuple[str, ...], float] = {}
    flat, out = 0, []
    for evaluation, smooth in zip(evaluations, medians(evaluations), strict=True):
        if smooth is not None:
            before = lowest.get(evaluation.sites, math.inf)
            improved = smooth < before * (1 - MIN_IMPROVEMENT)
            flat = 0 if improved else flat + 1
            lowest[evaluation.sites] = min(before, smooth)
        out.append(flat)
    return out


def _plateaus(evaluations: Sequence[Evaluation], length: int) -> int:
    """Count how often ``length`` judged rounds passed without improvement."""
    flat = _flat_rounds(evaluations)
    # A multiple of the length is reached once per judged round; a round that was not judged repeats it.
    return sum(
        now > 0 and now % length == 0 and now != before for before, now in zip([0, *flat], flat, strict=False)
    )

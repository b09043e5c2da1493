"""Two methods on the same patients: how much better, how sure, and tests that know their place.

Source: SCIENCE section 9, intervals and tests. The unit is the patient. One comparison is primary and was
declared before the run; all others are exploratory and go through ``holm`` together, without the primary
one. Patients are few and figures coarse (a quarter of a handful of strips), so ties are the rule: p values
take them into account.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import mannwhitneyu, rankdata

from common.errors import ModelError
from common.intervals import MIN_VALUES, Interval, mean_interval

#: Differences are compared to this many decimals: rounding of stored figures must not decide.
DECIMALS = 9


@dataclass(frozen=True)
class PairedDifference:
    """Figures of two methods on the same patients, first minus second.

    Attributes
    ----------
    first, second : names of the methods.
    n : patients with both figures.
    mean, sd : of the differences, SD with n − 1; NaN where there are too few patients.
    interval : of the mean; None with fewer than 6 patients.
    p : Wilcoxon signed-rank test, two-sided; None with fewer than 6 patients or without any difference.
    better, equal, worse : patients whose figure of the first method is higher, the same, lower.
    """

    first: str
    second: str
    n: int
    mean: float
    sd: float
    interval: Interval | None
    p: float | None
    better: int
    equal: int
    worse: int


def paired(
    values_a: Sequence[float],
    values_b: Sequence[float],
    first: str,
    second: str,
    generator: np.random.Generator,
) -> PairedDifference:
    """Compare two methods patient by patient.

    Parameters
    ----------
    values_a, values_b : one figure per patient, the same patients in the same order, higher is better; a
        patient who lacks one of them (NaN) is left out.
    first, second : names of the methods, for a and b.
    generator : a named stream, for the interval.

    Raises
    ------
    ModelError
        If the two do not hold the same number of patients.
    """
    a, b = np.asarray(values_a, float), np.asarray(values_b, float)
    if a.shape != b.shape:
        raise ModelError(f"{first} has figures of {a.size} patients, {second} of {b.size}: pairs need both")
    difference = (a - b)[~np.isnan(a - b)]
    n, rounded = len(difference), np.round(difference, DECIMALS)
    return PairedDifference(
        first=first,
        second=second,
        n=n,
        mean=math.fsum(difference) / n if n else math.nan,
        sd=float(np.std(difference, ddof=1)) if n > 1 else math.nan,
        interval=mean_interval(difference.tolist(), generator),
        p=_signed_rank(rounded) if n >= MIN_VALUES else None,
        better=int(np.count_nonzero(rounded > 0)),
        equal=int(np.count_nonzero(rounded == 0)),
        worse=int(np.count_nonzero(rounded < 0)),
    )


def mann_whitney(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return the two-sided p value of the Mann-Whitney U test, only as the paper's.

    The paper compared rounds with it as if their patients were not the same; ``paired`` is the test to
    believe. Exact without ties; with ties the normal approximation, corrected for them and for continuity.
    Which of its variants the paper used is not stated.

    Parameters
    ----------
    a, b : figures of two groups; NaN values are left out.

    Returns
    -------
    None with fewer than 6 values in a group, or if all values are the same.
    """
    groups = [np.round(np.asarray(group, float), DECIMALS) for group in (a, b)]
    left, right = (group[~np.isnan(group)] for group in groups)
    together = np.concatenate([left, right])
    if min(len(left), len(right)) < MIN_VALUES or np.ptp(together) == 0:
        return None
    ties = len(np.unique(together)) < len(together)
    return float(mannwhitneyu(left, right, method="asymptotic" if ties else "exact").pvalue)


def _signed_rank(differences: npt.NDArray[np.float64]) -> float | None:
    """Return the exact two-sided p value of the Wilcoxon signed-rank test; None without any difference.

    Zeros are left out, ties share their mean rank, and every assignment of signs to these ranks counts. SciPy
    has this distribution without ties only; its way with ties lists all 2ⁿ assignments or approximates.
    """
    moved = differences[differences != 0]
    if not len(moved):
        return None
    # Mean ranks end in .0 or .5: twice the rank is a whole number.
    ranks = np.rint(2 * rankdata(np.abs(moved))).astype(np.intp)
    chances = np.ones(1)  # that the ranks of positive differences sum to 0, 1, 2, ... halves
    for rank in ranks:
        grown = np.zeros(len(chances) + rank)
        grown[: len(chances)] = chances / 2
        grown[rank:] += chances / 2
        chances = grown
    observed = int(ranks[moved > 0].sum())
    tails = chances[: observed + 1].sum(), chances[observed:].sum()
    return min(1.0, 2 * float(min(tails)))

"""Intervals of means and shares where the unit is the patient.

Source: SCIENCE section 9, intervals and tests. With fewer than 6 patients there is a point and no interval;
up to 20 Student's t, marked as a small sample, because a percentile bootstrap of so few values is too
narrow; above 20 a bootstrap over patients where the values are at hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

MIN_VALUES = 6
SMALL_SAMPLE = 20
RESAMPLES = 2000


class Interval(NamedTuple):
    """A confidence interval and how it was made: ``t``, ``bootstrap``, ``stratified t``.

    ``, small sample`` is appended for 6 to 20 patients; such an interval is shown with a mark.
    """

    low: float
    high: float
    method: str


def student_interval(
    mean: float, error: float, freedom: float, n: int, method: str = "t", level: float = 0.95
) -> Interval | None:
    """Return mean ± t quantile × standard error, or None with fewer than 6 values.

    Parameters
    ----------
    mean, error : estimate and its standard error.
    freedom : degrees of freedom.
    n : number of values behind the estimate; decides whether there is an interval and a mark.
    method : name of the method.
    level : coverage.
    """
    if n < MIN_VALUES:
        return None
    half = float(stdtrit(freedom, (1 + level) / 2)) * error
    return Interval(mean - half, mean + half, method + (", small sample" if n <= SMALL_SAMPLE else ""))


def t_interval(values: Iterable[float], level: float = 0.95) -> Interval | None:
    """Return Student's interval of the mean of per-patient values; NaN values are left out."""
    kept = _finite(values)
    if len(kept) < MIN_VALUES:
        return None
    error = float(np.std(kept, ddof=1)) / math.sqrt(len(kept))
    return student_interval(float(np.mean(kept)), error, len(kept) - 1, len(kept), level=level)


def bootstrap_mean(
    values: Iterable[float],
    generator: np.random.Generator,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """Return the percentile interval of the mean over patients drawn with replacement.

    Parameters
    ----------
    values : one per patient; NaN values are left out. Their order does not matter.
    generator : a named stream.
    level : coverage.
    resamples : number of draws.
    """
    kept = np.sort(_finite(values))
    if len(kept) < MIN_VALUES:
        return None
    means = generator.choice(kept, size=(resamples, len(kept))).mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), "bootstrap")


def mean_interval(
    values: Iterable[float], generator: np.random.Generator, level: float = 0.95
) -> Interval | None:
    """Return the interval a report shows: none below 6 patients, t up to 20, bootstrap above."""
    kept = _finite(values)
    if len(kept) <= SMALL_SAMPLE:
        return t_interval(kept, level)
    return bootstrap_mean(kept, generator, level)


def wilson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a share of ``k`` in ``n``; NaN for n = 0.

    For strips of one patient: it never leaves 0 to 1 and has a width at k = 0 and k = n.
    """
    if n == 0:
        return math.nan, math.nan
    z = float(ndtri((1 + level) / 2))
    share = k / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the two terms are equal but for rounding.
    return (0.0 if k == 0 else center - half), (1.0 if k == n else center + half)


def stratified(
    strata: Sequence[tuple[int, float, float]], level: float = 0.95
) -> tuple[float, Interval | None]:
    """Return the mean over all patients and its interval from each site's n, mean and variance.

    Differences between sites do not widen the interval: the sites are given, the patients are the sample.
    Degrees of freedom by Welch and Satterthwaite.

    Parameters
    ----------
    strata : (n, mean, variance with n − 1) per site, each with n of at least 2.
    level : coverage.
    """
    total = sum(n for n, _, _ in strata)
    if total == 0:
        return math.nan, None
    mean = math.fsum(n * value for n, value, _ in strata) / total
    parts = [(n, (n / total) ** 2 * variance / n) for n, _, variance in strata]
    square = math.fsum(part for _, part in parts)
    spread = math.fsum(part * part / (n - 1) for n, part in parts if part > 0)
    freedom = square * square / spread if spread > 0 else total - len(parts)
    return mean, student_interval(mean, math.sqrt(square), freedom, total, "stratified t", level)


def _finite(values: Iterable[float]) -> list[float]:
    return [float(value) for value in values if not math.isnan(value)]

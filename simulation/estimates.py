"""Means over patients with their intervals, for ``summary.json``."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from common.config import Section, Settings
from common.intervals import mean_interval
from common.seeding import stream


class Estimate(Section):
    """A mean over patients with its interval."""

    n: int = Field(description="Patients behind the mean")
    mean: float | None = Field(description="Mean over patients; null without patients")
    sd: float | None = Field(description="Standard deviation over patients (n - 1)")
    low: float | None = Field(description="Lower end of the 95 % interval; null below 6 patients")
    high: float | None = Field(description="Upper end of the 95 % interval; null below 6 patients")
    method: str = Field(description="How the interval was made, and a mark for small samples")


def estimate(values: Sequence[float], settings: Settings, lowest: float = 0.0) -> Estimate:
    """Mean over patients with the interval the specification asks for; NaN values are left out.

    Every figure is a share: an interval ends where shares do, at ``lowest`` (-1 for differences) and 1.
    """
    kept = [value for value in values if not math.isnan(value)]
    mean = math.fsum(kept) / len(kept) if kept else math.nan
    spread = sum((value - mean) ** 2 for value in kept)
    interval = mean_interval(kept, stream(settings.seed, "interval"))
    return Estimate(
        n=len(kept),
        mean=number(mean),
        sd=number(math.sqrt(spread / (len(kept) - 1))) if len(kept) > 1 else None,
        low=number(max(interval.low, lowest)) if interval else None,
        high=number(min(interval.high, 1.0)) if interval else None,
        method=interval.method if interval else "none: fewer than 6 patients",
    )


def number(value: float | None) -> float | None:
    """Round for the file; None where there is no number."""
    return None if value is None or math.isnan(value) else round(float(value), 6)

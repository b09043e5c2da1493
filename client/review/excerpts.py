"""Which ten seconds of a strip are enlarged: the start, the middle and the worst part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Why = Literal["start", "middle", "worst"]

EXCERPT_S: Final = 10.0
#: Places that are compared for the worst part lie so far apart.
HOP_S: Final = 2.5
#: A place is worth looking at if so much of it was recorded; the start and the middle need more.
MIN_RECORDED: Final = 0.5
MIN_WHOLE: Final = 0.9


@dataclass(frozen=True)
class Excerpt:
    """Ten seconds of a strip.

    Attributes
    ----------
    start_s : from the start of the window.
    why : ``start``, ``middle`` or ``worst``: most rejected beats, the roughest signal among equals.
    """

    start_s: float
    why: Why

    @property
    def end_s(self) -> float:
        """End, seconds from the start of the window."""
        return self.start_s + EXCERPT_S


def choose(signal_mv: Floats, rate_hz: float, rejected_s: Sequence[float]) -> list[Excerpt]:
    """Choose the excerpts of a strip, in order of time and without overlap.

    Parameters
    ----------
    signal_mv : (n_samples,), mV as recorded, NaN where nothing was.
    rate_hz : sampling rate, Hz.
    rejected_s : (n,) times of the rejected beats, seconds from the start.

    Returns
    -------
    Up to three; fewer where little was recorded, none where nothing was.
    """
    recorded = np.isfinite(signal_mv)
    if not recorded.any():
        return []
    places = _places(len(signal_mv) / rate_hz)
    share = np.array([recorded[_part(place, rate_hz)].mean() for place in places])
    good = np.flatnonzero(share >= min(MIN_RECORDED, float(share.max())))
    whole = np.flatnonzero(share >= min(MIN_WHOLE, float(share.max())))
    middle = float(np.median(np.flatnonzero(recorded))) / rate_hz - EXCERPT_S / 2

    def badness(index: int) -> tuple[int, float, float]:
        place = float(places[index])
        return _count(rejected_s, place), _roughness(signal_mv[_part(place, rate_hz)]), -place

    orders: dict[Why, list[int]] = {
        "start": sorted(whole, key=lambda i: float(places[i])),
        "middle": sorted(whole, key=lambda i: abs(float(places[i]) - middle)),
        "worst": sorted(good, key=badness, reverse=True),
    }
    chosen: list[Excerpt] = []
    # Rejected beats come first: they must not be hidden by an excerpt that overlaps them.
    for why in ("worst", "start", "middle") if len(rejected_s) else orders:
        for index in orders[why]:
            place = float(places[index])
            if all(abs(place - one.start_s) >= EXCERPT_S for one in chosen):
                chosen.append(Excerpt(place, why))
                break
    return sorted(chosen, key=lambda one: one.start_s)


def _places(length_s: float) -> Floats:
    """Return the starts of all excerpts that are compared; the last one ends with the window."""
    last = max(0.0, length_s - EXCERPT_S)
    return np.unique(np.append(np.arange(0.0, last, HOP_S), last))


def _part(place: float, rate_hz: float) -> slice:
    first = round(place * rate_hz)
    return slice(first, first + round(EXCERPT_S * rate_hz))


def _count(times: Sequence[float], place: float) -> int:
    return sum(place <= time < place + EXCERPT_S for time in times)


def _roughness(part: Floats) -> float:
    """Return the median change from sample to sample: large in noise, hardly moved by QRS complexes."""
    steps = np.abs(np.diff(part))
    steps = steps[np.isfinite(steps)]
    return float(np.median(steps)) if len(steps) else 0.0

"""Spans of time in whole seconds: when the monitor runs, when lead II is on, when the patient moves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

Span = tuple[int, int]


def random_spans(rng: np.random.Generator, seconds: int, share: float, mean_s: float) -> list[Span]:
    """Spans of a random state that holds for ``share`` of the time.

    The state comes and goes by itself: lengths are exponential, and time zero is like any other moment.

    Parameters
    ----------
    rng : stream.
    seconds : length of the whole time, s.
    share : expected share of the time in the state, 0 to 1.
    mean_s : mean length of one span, s.

    Returns
    -------
    Spans (start, end) in order, within 0 to ``seconds``.
    """
    if share <= 0.0:
        return []
    if share >= 1.0:
        return [(0, seconds)]
    away_s = mean_s * (1.0 - share) / share
    inside = bool(rng.random() < share)
    now, found = 0.0, []
    while now < seconds:
        until = now + rng.exponential(mean_s if inside else away_s)
        if inside:
            found.append((round(now), min(round(until), seconds)))
        now, inside = until, not inside
    return [span for span in found if span[1] > span[0]]


def merged(spans: Iterable[Span], near_s: int = 0) -> list[Span]:
    """Join spans that overlap or lie at most ``near_s`` seconds apart."""
    out: list[Span] = []
    for start, end in sorted(spans):
        if out and start <= out[-1][1] + near_s:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((start, end))
    return out


def without(spans: Sequence[Span], holes: Iterable[Span]) -> list[Span]:
    """Take the holes out of the spans."""
    out = list(spans)
    for low, high in holes:
        cut: list[Span] = []
        for start, end in out:
            if high <= start or low >= end:
                cut.append((start, end))
                continue
            cut += [part for part in ((start, low), (high, end)) if part[1] > part[0]]
        out = cut
    return out


def touches(spans: Sequence[Span], start: int, end: int) -> bool:
    """Tell whether any of the spans holds a part of ``start`` to ``end``."""
    return any(low < end and high > start for low, high in spans)


def pieces(spans: Sequence[Span], edges: Iterable[int], longest_s: int) -> list[Span]:
    """Cut spans at edges and into pieces of at most ``longest_s``, with one second between neighbours."""
    marks = sorted(set(edges))
    out = []
    for start, end in spans:
        for stop in [*(mark for mark in marks if start < mark < end), end]:
            while start < stop:
                last = min(stop, start + longest_s)
                out.append((start, last))
                start = last + 1 if last < end else last
    return out

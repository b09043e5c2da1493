"""Strips as SVG on ECG paper: pure functions from arrays to markup, in the units of `client.review.paper`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from markupsafe import Markup, escape

from client.data.ecg.beats import BEAT_SAMPLES, R_INDEX, RATE_HZ
from client.data.ecg.filtering import Span
from client.review.excerpts import EXCERPT_S, Excerpt
from client.review.paper import (
    BEAT_WIDTH,
    LANE,
    MARGIN,
    OVERVIEW_HEIGHT,
    PER_S,
    WIDTH,
    Floats,
    Scale,
    paper_name,
    scale_for,
)
from client.review.reading import Mark

#: Columns of the envelope of a whole strip.
COLUMNS: Final = 500


def excerpt(
    signal_mv: Floats,
    rate_hz: float,
    spans: Sequence[Span],
    marks: Sequence[Mark],
    place: Excerpt,
    number: int,
    scale: Scale,
    words: str,
    *,
    named: bool = True,
) -> Markup:
    """Draw ten seconds: the signal as recorded, pale, and filtered, dark, with R peaks marked above.

    Parameters
    ----------
    signal_mv, rate_hz : the window as recorded, mV and Hz.
    spans : filtered.
    marks : R peaks to show; none on a blind sheet.
    place : which ten seconds.
    number : of the excerpt, as in the overview.
    scale : of all excerpts of the strip.
    words : what is seen, for those who do not see it.
    named : say why the excerpt was chosen.
    """
    height = scale.height
    first = round(place.start_s * rate_hz)
    raw = signal_mv[first : first + round(EXCERPT_S * rate_hz)]
    clean = filtered_part(spans, place.start_s, EXCERPT_S)
    shown = clean if np.isfinite(clean).any() else raw - np.nanmedian(raw)
    zero = LANE + scale.zero_line(shown)
    raw = raw - _offset(raw, rate_hz, clean)
    parts = [
        f'<rect class="sheet" x="{MARGIN}" y="{LANE}" width="{WIDTH}" height="{height}"/>',
        f'<use href="#{paper_name(WIDTH, height)}" x="{MARGIN}" y="{LANE}"/>',
        _missing(raw, rate_hz, EXCERPT_S, PER_S, LANE, height),
        _trace("raw", *_columns(raw, rate_hz, WIDTH / PER_S, RATE_HZ), scale, zero),
        _trace("clean", np.arange(len(clean)) / RATE_HZ, clean, scale, zero),
        _pulse(zero, scale),
        *_beside(number, [*([place.why] if named else []), clock(place.start_s)], LANE + height // 2),
        *(_mark(mark, place.start_s) for mark in marks if place.start_s <= mark.time_s < place.end_s),
    ]
    return _svg("ecg", MARGIN + WIDTH, LANE + height, words, parts)


def overview(
    signal_mv: Floats,
    rate_hz: float,
    marks: Sequence[Mark],
    places: Sequence[Excerpt],
    words: str,
) -> Markup:
    """Draw a whole window: the envelope of the recorded signal, where the excerpts lie, rejected beats.

    Parameters
    ----------
    signal_mv, rate_hz : the window as recorded, mV and Hz.
    marks : R peaks; only rejected ones are shown.
    places : the excerpts, numbered in order.
    words : what is seen, for those who do not see it.
    """
    length_s = len(signal_mv) / rate_hz
    per_s = WIDTH / length_s
    low, high = _limits(signal_mv)
    per_mv = OVERVIEW_HEIGHT / (high - low)
    top = LANE
    parts = [f'<rect class="sheet" x="{MARGIN}" y="{top}" width="{WIDTH}" height="{OVERVIEW_HEIGHT}"/>']
    parts.append(_missing(signal_mv, rate_hz, length_s, per_s, top, OVERVIEW_HEIGHT))
    for number, place in enumerate(places, start=1):
        x, width = MARGIN + place.start_s * per_s, min(EXCERPT_S, length_s) * per_s
        parts.append(
            f'<rect class="place" x="{x:.0f}" y="{top}" width="{width:.0f}" height="{OVERVIEW_HEIGHT}"/>'
            f'<text class="number" x="{x + width / 2:.0f}" y="{top - 12}">{number}</text>'
        )
    parts.append(_envelope(signal_mv, high, per_mv))
    ticks = [mark.time_s for mark in marks if mark.rejected is not None]
    below = top + OVERVIEW_HEIGHT + 6
    if ticks:
        path = "".join(f"M{MARGIN + time * per_s:.0f} {below}v20" for time in ticks)
        parts.append(f'<path class="ticks" d="{path}"/>')
    one = min(1.0, high - low) * per_mv
    middle = top + OVERVIEW_HEIGHT / 2
    parts.append(
        f'<path class="pulse" d="M{MARGIN - 16} {middle - one / 2:.0f}v{one:.0f}"/>'
        f'<text class="mv" x="{MARGIN - 24}" y="{middle + 10:.0f}">1 mV</text>'
    )
    step = 60 if length_s > 120 else 10
    for second in range(0, math.floor(length_s + 1e-6) + 1, step):
        x = MARGIN + second * per_s
        name = f"{second // 60} min" if step == 60 else f"{second} s"
        end = ' class="time last"' if x > MARGIN + WIDTH - 60 else ' class="time"'
        parts.append(f'<path class="tick" d="M{x:.0f} {below + 22}v8"/>')
        parts.append(f'<text{end} x="{x:.0f}" y="{below + 62}">{name}</text>')
    return _svg("ecg", MARGIN + WIDTH, below + 68, words, parts)


def median_beat(beats: Floats, words: str) -> Markup:
    """Draw the median of some beats with the half of them around it.

    Parameters
    ----------
    beats : (n_beats, 120), mV, R peak at index 40; at least one.
    words : what is seen, for those who do not see it.
    """
    low, middle, high = np.quantile(beats, [0.25, 0.5, 0.75], axis=0)
    scale = scale_for([low, middle, high])
    zero, height = scale.zero_line(middle), scale.height
    x = np.arange(BEAT_SAMPLES) / RATE_HZ * PER_S

    def points(values: Floats, order: slice = slice(None)) -> str:
        y = np.clip(zero - values * scale.per_mv, 0, height)
        return " ".join(f"{a:.0f} {b:.0f}" for a, b in zip(x[order], y[order], strict=True))

    r = R_INDEX / RATE_HZ * PER_S
    parts = [
        f'<rect class="sheet" width="{BEAT_WIDTH}" height="{height}"/>',
        f'<use href="#{paper_name(BEAT_WIDTH, height)}"/>',
        f'<path class="at-r" d="M{r:.0f} 0V{height}"/>',
        f'<path class="band" d="M{points(high)}L{points(low, slice(None, None, -1))}Z"/>',
        f'<path class="clean" d="M{points(middle)}"/>',
    ]
    return _svg("ecg", BEAT_WIDTH, height, words, parts)


def clock(seconds: float) -> str:
    """Write a time in a window as minutes and seconds: ``2:05``."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"


def filtered_part(spans: Sequence[Span], start_s: float, length_s: float) -> Floats:
    """Return the filtered signal of some seconds, NaN where there is none.

    Returns
    -------
    float64 (length_s * 125,), mV at 125 Hz.
    """
    out = np.full(round(length_s * RATE_HZ), np.nan)
    for span in spans:
        first = round((span.start_s - start_s) * RATE_HZ)
        a, b = max(first, 0), min(first + len(span.samples), len(out))
        if a < b:
            out[a:b] = span.samples[a - first : b - first]
    return out


def _columns(values: Floats, rate_hz: float, length_s: float, per_second: int) -> tuple[Floats, Floats]:
    """Thin out a signal to its smallest and largest sample per column, in the order they come in."""
    if rate_hz <= 2 * per_second:
        return np.arange(len(values)) / rate_hz, np.asarray(values, dtype=np.float64)
    edges = np.ceil(np.arange(round(length_s * per_second) + 1) * rate_hz / per_second).astype(int)
    kept: list[int] = []
    for a, b in pairwise(np.minimum(edges, len(values))):
        part = values[a:b]
        if np.isfinite(part).any():
            kept += sorted({a + int(np.nanargmin(part)), a + int(np.nanargmax(part))})
        elif b > a:
            kept.append(a)
    index = np.array(kept, dtype=int)
    return index / rate_hz, np.asarray(values, dtype=np.float64)[index]


def _trace(name: str, time_s: Floats, values: Floats, scale: Scale, zero: float) -> str:
    """Write a line as a path of relative whole numbers; it breaks where the values are NaN."""
    x = np.rint(MARGIN + time_s * PER_S)
    y = np.rint(np.clip(zero - values * scale.per_mv, LANE, LANE + scale.height))
    pieces = []
    known = np.isfinite(y)
    for run in np.split(np.arange(len(y)), np.flatnonzero(np.diff(known)) + 1):
        if not len(run) or not known[run[0]]:
            continue
        dx, dy = np.diff(x[run]).astype(int), np.diff(y[run]).astype(int)
        steps = "".join(f"{a}{b:+d} " if b < 0 else f"{a} {b} " for a, b in zip(dx, dy, strict=True))
        pieces.append(f"M{int(x[run[0]])} {int(y[run[0]])}l{steps.strip() or '1 0'}")
    return f'<path class="{name}" d="{"".join(pieces)}"/>' if pieces else ""


def _offset(raw: Floats, rate_hz: float, clean: Floats) -> float:
    """Return what the recorded signal lies above the filtered one, mV."""
    here = np.rint(np.arange(len(clean)) / RATE_HZ * rate_hz).astype(int)
    here = here[here < len(raw)]
    both = raw[here] - clean[: len(here)]
    known = both[np.isfinite(both)]
    if len(known):
        return float(np.median(known))
    rest = raw[np.isfinite(raw)]
    return float(np.median(rest)) if len(rest) else 0.0


def _limits(signal_mv: Floats) -> tuple[float, float]:
    """Return the range of an overview, mV: all but the rarest samples, at least 1 mV."""
    known = signal_mv[np.isfinite(signal_mv)]
    low, high = np.quantile(known, [0.001, 0.999]) if len(known) else (-0.5, 0.5)
    short = max(0.0, 1.0 - (high - low)) / 2
    return float(low - short), float(high + short)


def _envelope(signal_mv: Floats, high: float, per_mv: float) -> str:
    """Fill from the smallest to the largest sample of every column, at least a fifth of a millimetre."""
    runs: list[list[tuple[float, float, float]]] = [[]]
    for column, (a, b) in enumerate(pairwise(np.linspace(0, len(signal_mv), COLUMNS + 1).astype(int))):
        part = signal_mv[a:b]
        part = part[np.isfinite(part)]
        if not len(part):
            runs.append([])
            continue
        ends = np.clip((high - np.array([part.max(), part.min()])) * per_mv, 0, OVERVIEW_HEIGHT)
        top, bottom = (LANE + float(end) for end in ends)
        left = MARGIN + column * WIDTH / COLUMNS
        runs[-1] += [(x, top, max(bottom, top + 2)) for x in (left, left + WIDTH / COLUMNS)]
    path = []
    for run in filter(None, runs):
        above = " ".join(f"{x:.0f} {top:.0f}" for x, top, _ in run)
        below = " ".join(f"{x:.0f} {bottom:.0f}" for x, _, bottom in reversed(run))
        path.append(f"M{above} {below}Z")
    return f'<path class="envelope" d="{"".join(path)}"/>'


def _missing(signal: Floats, rate_hz: float, length_s: float, per_s: float, top: int, height: int) -> str:
    """Hatch what was not recorded, in stretches of a tenth of a second and more."""
    known = np.isfinite(signal)
    edges = np.flatnonzero(np.diff(np.concatenate([[True], known, [True]]).astype(np.int8)))
    holes = [(a / rate_hz, b / rate_hz) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    if len(signal) / rate_hz < length_s - 0.1:
        holes.append((len(signal) / rate_hz, length_s))
    return "".join(
        f'<rect class="hole" x="{MARGIN + a * per_s:.0f}" y="{top}" width="{(b - a) * per_s:.0f}" '
        f'height="{height}"/>'
        for a, b in holes
        if b - a >= 0.1
    )


def _beside(number: int, lines: Sequence[str], middle: int) -> Iterator[str]:
    """Write the number of an excerpt and some words left of it."""
    first = middle - 22 * len(lines) + 14
    yield f'<text class="number" x="55" y="{first}">{number}</text>'
    for place, line in enumerate(lines, start=1):
        yield f'<text class="when" x="55" y="{first + 42 * place}">{line}</text>'


def _pulse(zero: float, scale: Scale) -> str:
    """Draw the calibration pulse of 1 mV and 0.2 s, from 0 mV where there is room above."""
    base = float(np.clip(zero, LANE + scale.per_mv, LANE + scale.height))
    return (
        f'<path class="pulse" d="M{MARGIN - 90} {base:.0f}h10v{-scale.per_mv:.0f}h50v{scale.per_mv:.0f}h10"/>'
    )


def _mark(mark: Mark, start_s: float) -> str:
    x = MARGIN + (mark.time_s - start_s) * PER_S
    if mark.other:
        return f'<circle class="other" cx="{x:.0f}" cy="32" r="12"/>'
    if mark.rejected is None:
        return f'<path class="accepted" d="M{x - 13:.0f} 22h26l-13 24Z"/>'
    return f'<text class="rejected" x="{x:.0f}" y="48">{mark.rejected.value[0].upper()}</text>'


def _svg(kind: str, width: float, height: float, words: str, parts: Sequence[str]) -> Markup:
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{escape(words)}">{"".join(parts)}</svg>'
    )

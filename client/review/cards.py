"""One strip as a reviewer sees it: drawings, and beside them what the software measured and decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from markupsafe import Markup

from client.data.exclusion import BEAT_REJECTION_TEXT, EXCLUSION_SHORT, BeatRejection, Exclusion
from client.review import drawing, excerpts
from client.review.excerpts import Excerpt
from client.review.paper import GAINS, Floats, Scale, scale_for
from client.review.reading import Mark, Seen
from common.page.numbers import MISSING, count, decimal, percent, plural
from common.task import Task

#: A rejection in a few words; its first letter is the mark above the trace.
REJECTED: Final[Mapping[BeatRejection, str]] = {
    BeatRejection.EDGE: "edge",
    BeatRejection.STEP: "step",
    BeatRejection.AMPLITUDE: "amplitude",
    BeatRejection.UNLIKE: "unlike",
}


@dataclass(frozen=True)
class Card:
    """A strip on a sheet.

    Attributes
    ----------
    strip : its number in the site database.
    title : label and value; empty on a blind sheet.
    reasons : every rule it fails, in words; empty for accepted strips and on a blind sheet.
    facts : name and value with its unit.
    notes : what should be known before judging.
    missing : why there is nothing to draw; empty where there is.
    overview : the whole window; None where missing.
    pictures : the enlarged parts.
    beat, beat_words : the median beat and what it is the median of.
    gain : mm/mV of the enlarged parts, where it is not the usual one; else empty.
    """

    strip: int
    title: str
    reasons: Sequence[str]
    facts: Sequence[tuple[str, str]]
    notes: Sequence[str]
    missing: str = ""
    overview: Markup | None = None
    pictures: Sequence[Markup] = ()
    beat: Markup | None = None
    beat_words: str = ""
    gain: str = ""


def make_card(seen: Seen, task: Task, *, blind: bool) -> Card:
    """Draw a strip and say what is known of it.

    Parameters
    ----------
    seen : the strip with its signal.
    task : names the labels.
    blind : show the signal and nothing the software or the laboratory said about it.
    """
    row = seen.row
    notes = [*seen.notes] if blind else [*seen.notes, *([seen.disagreement] if seen.disagreement else [])]
    card = Card(
        strip=row.id,
        title="" if blind else label_words(seen, task),
        reasons=[] if blind else reason_words(seen),
        facts=recording_facts(seen) if blind else [*measured_facts(seen), *recording_facts(seen)],
        notes=notes,
    )
    marks = [] if blind else seen.marks
    if seen.missing or not len(seen.signal_mv):
        return replace(card, missing=seen.missing or "There is no signal in this window.")
    # Beats at an edge are cut off, not bad.
    rejected_s = [mark.time_s for mark in seen.marks if mark.rejected not in (None, BeatRejection.EDGE)]
    places = excerpts.choose(seen.signal_mv, seen.rate_hz, rejected_s)
    scale = scale_for([_shown(seen, place) for place in places])
    pictures = [_picture(number, seen, place, marks, scale, blind) for number, place in enumerate(places, 1)]
    beat = None if blind or not len(seen.beats) else _median_beat(seen)
    return replace(
        card,
        overview=drawing.overview(
            seen.signal_mv,
            seen.rate_hz,
            marks,
            places,
            f"Strip {row.id}: the whole window",
        ),
        pictures=pictures,
        beat=beat,
        beat_words="" if beat is None else _beat_words(seen),
        gain="" if scale.gain == GAINS[0] else f"{scale.gain:g} mm/mV",
    )


def label_words(seen: Seen, task: Task) -> str:
    """Return a strip's label, with the value behind it where there is one."""
    value = seen.row.value
    word = task.word(seen.row.label)
    if value is None or task.unit is None:
        return word
    return f"{word}, {decimal(value, 1)} {task.unit}"


def reason_words(seen: Seen) -> list[str]:
    """Return every rule a strip fails, in words; of strips stored before all were kept, the first."""
    codes = seen.row.reasons or ([seen.row.exclusion] if seen.row.exclusion else [])
    return [EXCLUSION_SHORT[Exclusion(code)] for code in codes]


def measured_facts(seen: Seen) -> list[tuple[str, str]]:
    """Return what the software measured at ingest, with units."""
    row, quality = seen.row, seen.row.quality
    agreement = row.agreement if row.agreement is not None else quality.get("agreement")
    used = (
        ("Beats found", f"{count(row.n_detected)}, none used" if row.n_detected else MISSING)
        if row.exclusion
        else ("Beats accepted", f"{count(row.n_beats)} of {count(row.n_detected)}")
    )
    facts = [
        ("Heart rate", _with_unit(row.heart_rate_bpm, 0, "per min")),
        ("Detectors agree", _share(agreement)),
        ("Beat correlation", decimal(quality.get("median_correlation"), 2)),
        used,
    ]
    if rejected := rejected_words(seen):
        facts.append(("Beats rejected", rejected))
    return [(name, value) for name, value in facts if value != MISSING]


def rejected_words(seen: Seen) -> str:
    """Return the rejected beats of a strip by reason; empty for none."""
    stored: Mapping[str, Any] = seen.row.beats_rejected
    if not stored:  # stored before beats were counted by reason: as read again
        stored = {}
        for mark in seen.marks:
            if mark.rejected is not None:
                stored = {**stored, mark.rejected: stored.get(mark.rejected, 0) + 1}
    parts = [
        f"{count(int(stored[reason]))} {word}" for reason, word in REJECTED.items() if stored.get(reason)
    ]
    return ", ".join(parts)


def recording_facts(seen: Seen) -> list[tuple[str, str]]:
    """Return how a strip was recorded; nothing here tells what the software thinks of it."""
    row = seen.row
    rate = row.rate_hz or seen.rate_hz
    pieces = row.source or [{"gain": piece.gain} for piece in seen.pieces]
    gains = sorted({piece["gain"] for piece in pieces if piece.get("gain")})
    gain = " and ".join(decimal(one, 0 if one >= 10 else 1) for one in gains[:3])
    return [
        ("Signal", f"{drawing.clock(row.signal_s)} of {seen.window_s / 60:g} min"),
        ("Sampling rate", _with_unit(rate or None, 2 if rate % 1 else 0, "Hz")),
        ("Gain", f"{gain} per mV" if gain else MISSING),
    ]


def legend(annotated: bool) -> list[tuple[str, str]]:
    """Return the marks above a trace and what they mean."""
    if annotated:
        return [("▼", "annotated beat of this strip"), ("○", "annotated beat that is not of this strip")]
    marks = [(word[0].upper(), BEAT_REJECTION_TEXT[reason]) for reason, word in REJECTED.items()]
    return [("▼", "An accepted beat."), *marks]


def _picture(
    number: int, seen: Seen, place: Excerpt, marks: Sequence[Mark], scale: Scale, blind: bool
) -> Markup:
    here = [mark for mark in marks if place.start_s <= mark.time_s < place.end_s and not mark.other]
    words = f"Strip {seen.row.id}, {drawing.clock(place.start_s)} to {drawing.clock(place.end_s)}"
    if not blind:
        rejected = sum(mark.rejected is not None for mark in here)
        words += f": {plural(len(here) - rejected, 'accepted beat')}, {rejected} rejected"
    return drawing.excerpt(
        seen.signal_mv, seen.rate_hz, seen.spans, marks, place, number, scale, words, named=not blind
    )


def _shown(seen: Seen, place: Excerpt) -> Floats:
    clean = drawing.filtered_part(seen.spans, place.start_s, excerpts.EXCERPT_S)
    if bool((clean == clean).any()):  # not all NaN
        return clean
    first = round(place.start_s * seen.rate_hz)
    return seen.signal_mv[first : first + round(excerpts.EXCERPT_S * seen.rate_hz)]


def _median_beat(seen: Seen) -> Markup:
    return drawing.median_beat(seen.beats, f"Strip {seen.row.id}, {_beat_words(seen)}")


def _beat_words(seen: Seen) -> str:
    kind = "accepted beat" if seen.has_accepted else "beat found"
    return f"Median of {plural(len(seen.beats), kind)}; band: half of them"


def _with_unit(value: float | None, digits: int, unit: str) -> str:
    text = decimal(value, digits)
    return text if text == MISSING else f"{text} {unit}"


def _share(value: Any) -> str:
    return percent(None if value is None else float(value))

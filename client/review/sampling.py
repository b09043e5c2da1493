"""Which strips a sheet shows: a random sample per reason, as even as can be over labels and patients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from client.data.exclusion import Exclusion
from client.database.reviews import ACCEPTED
from client.database.tables import LABELS, Strip
from common.config import nearest
from common.errors import ConfigurationError
from common.seeding import stream

#: Reasons of strips without a lead II: nothing can be drawn, so they are on a sheet only if asked for.
NOTHING_TO_SEE: Final = frozenset(
    {
        Exclusion.NO_WAVEFORM,
        Exclusion.NO_CLINICAL_OVERLAP,
        Exclusion.UNREADABLE_SEGMENT,
        Exclusion.LEAD_II_ABSENT,
    }
)
#: All reasons a strip can have, in the order of the journey; accepted comes first.
REASONS: Final = (ACCEPTED, *(str(reason) for reason in Exclusion))


@dataclass(frozen=True)
class Sample:
    """The strips of one sheet.

    Attributes
    ----------
    strips : reason -> numbers of the strips drawn, in order; reasons in the order of the journey.
    available : reason -> how many strips of that reason the site has, those left out included.
    """

    strips: Mapping[str, Sequence[int]]
    available: Mapping[str, int]

    @property
    def total(self) -> int:
        """Strips on the sheet."""
        return sum(len(strips) for strips in self.strips.values())

    @property
    def left_out(self) -> Mapping[str, int]:
        """Reasons of which the site has strips and the sheet shows none."""
        return {reason: n for reason, n in self.available.items() if reason not in self.strips}


def draw_sample(session: Session, seed: int, per_reason: int, reasons: Sequence[str] = ()) -> Sample:
    """Draw the strips of a sheet.

    Parameters
    ----------
    session : of the site database. Only numbers are read of the strips that are not drawn.
    seed : equal seeds and an equal database give an equal sample.
    per_reason : strips of each reason, fewer where there are not so many.
    reasons : codes; empty for accepted and every reason with a signal to look at.

    Raises
    ------
    ConfigurationError
        For a reason that is no code of a strip, or that no strip of this site has.
    """
    groups: dict[tuple[str, str], list[tuple[int, int]]] = {}
    query = select(Strip.exclusion, Strip.label, Strip.id, Strip.patient_id).order_by(Strip.id)
    for exclusion, label, strip, patient in session.execute(query):
        groups.setdefault((exclusion or ACCEPTED, label), []).append((strip, patient))
    available = Counter[str]()
    for (reason, _), members in groups.items():
        available[reason] += len(members)
    drawn: dict[str, Sequence[int]] = {}
    for reason in _asked(reasons, available):
        by_label = {
            label: _shuffled(groups[reason, label], seed, reason, label)
            for label in LABELS
            if (reason, label) in groups
        }
        drawn[reason] = take_evenly(by_label, per_reason)
    return Sample(drawn, {reason: available[reason] for reason in REASONS if available[reason]})


def take_evenly(by_label: Mapping[str, Sequence[int]], wanted: int) -> list[int]:
    """Take strips label by label in turn, until there are enough or none is left.

    Parameters
    ----------
    by_label : label -> strips in the order in which they are taken.
    wanted : how many in all.

    Returns
    -------
    Strips grouped by label, in the order of the labels given.
    """
    shares = dict.fromkeys(by_label, 0)
    while sum(shares.values()) < wanted:
        open_labels = [label for label, n in shares.items() if n < len(by_label[label])]
        if not open_labels:
            break
        for label in open_labels[: wanted - sum(shares.values())]:
            shares[label] += 1
    return [strip for label, n in shares.items() for strip in by_label[label][:n]]


def shuffle(strips: Sequence[int], seed: int) -> list[int]:
    """Return strips in a random order that tells nothing about their reason, for a blind sheet."""
    ordered = sorted(strips)
    return [ordered[index] for index in stream(seed, "review", "blind").permutation(len(ordered))]


def _shuffled(members: Iterable[tuple[int, int]], seed: int, reason: str, label: str) -> list[int]:
    """Put strips in random order, but a second one of a patient behind the first ones of all others.

    Strips of one patient are alike; so a sheet shows as many patients as it can.
    """
    rows = sorted(members)
    order = stream(seed, "review", reason, label).permutation(len(rows))
    before = Counter[int]()
    ranked: list[tuple[int, int, int]] = []
    for index in order:
        strip, patient = rows[index]
        ranked.append((before[patient], len(ranked), strip))
        before[patient] += 1
    return [strip for _, _, strip in sorted(ranked)]


def _asked(reasons: Sequence[str], available: Mapping[str, int]) -> list[str]:
    hidden = {str(reason) for reason in NOTHING_TO_SEE}
    for reason in reasons:
        if reason not in REASONS:
            raise ConfigurationError(f"--reason {reason!r} is no reason code{nearest(reason, REASONS)}")
        if not available.get(reason):
            present = ", ".join(code for code in REASONS if available.get(code)) or "none"
            raise ConfigurationError(
                f"no strip of this site has the reason {reason!r}; reasons of its strips: {present}"
            )
    chosen = set(reasons) or {reason for reason, n in available.items() if n} - hidden
    return [reason for reason in REASONS if reason in chosen]

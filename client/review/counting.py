"""What the reviewers said, as lines for a terminal and as values for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from client.database.reviews import ACCEPTED, ReasonCount, Reviews
from client.review.sampling import REASONS
from common.page.numbers import MISSING, SPACE, decimal, percent
from common.wording import plural

HEAD: Final = (
    "reason", "reviewed", "usable", "unusable", "unsure", "patients", "share usable", "95 % interval",
)  # fmt: skip
#: Columns of numbers, set flush right.
NUMBERS: Final = frozenset(range(1, 7))


def lines(reviews: Reviews) -> Iterator[str]:
    """Yield a table per reviewer, the agreement with the software and between reviewers, and what to look at.

    Parameters
    ----------
    reviews : as `client.database.reviews.counts` gives them, with at least one verdict.
    """
    for agreement in reviews.agreements:
        rows = in_order([row for row in reviews.rows if row.reviewer == agreement.reviewer])
        yield f"Reviewer {agreement.reviewer}"
        yield from _table(rows)
        yield (
            f"same as the software: {agreement.same} of {agreement.judged} "
            f"({_share(agreement.same, agreement.judged)}, 95 % interval {_interval(agreement.interval)})"
        )
        yield ""
    for pair in reviews.pairs:
        kappa = "not defined: both always say the same word" if pair.kappa is None else decimal(pair.kappa, 2)
        yield (
            f"{pair.reviewers[0]} and {pair.reviewers[1]}: same verdict on {pair.same} of "
            f"{plural(pair.strips, 'strip')} both have seen; Cohen's kappa {kappa}"
        )
    if reviews.accepted_unusable:
        yield "accepted strips that somebody calls unusable:"
        for strip, names in reviews.accepted_unusable.items():
            yield f"  strip {strip}: {', '.join(names)}"
    elif any(row.reason == ACCEPTED for row in reviews.rows):
        yield "no accepted strip is called unusable"
    yield "shares are over strips the reviewer was sure about; strips of one patient are alike, so the"
    yield "intervals are somewhat too narrow where there are fewer patients than strips"


def as_values(reviews: Reviews) -> dict[str, Any]:
    """Return the counts as plain JSON values; a share or interval that does not exist is null."""
    return {
        "reasons": [
            {
                "reviewer": row.reviewer,
                "reason": row.reason,
                "reviewed": row.reviewed,
                "usable": row.usable,
                "unusable": row.unusable,
                "unsure": row.unsure,
                "patients": row.patients,
                "share_usable": row.usable / row.judged if row.judged else None,
                "interval": _known(row.usable_interval),
            }
            for row in in_order(reviews.rows)
        ],
        "agreement_with_software": [
            {
                "reviewer": one.reviewer,
                "same": one.same,
                "judged": one.judged,
                "share": one.same / one.judged if one.judged else None,
                "interval": _known(one.interval),
            }
            for one in reviews.agreements
        ],
        "between_reviewers": [
            {"reviewers": list(pair.reviewers), "strips": pair.strips, "same": pair.same, "kappa": pair.kappa}
            for pair in reviews.pairs
        ],
        "accepted_called_unusable": [
            {"strip": strip, "reviewers": list(names)} for strip, names in reviews.accepted_unusable.items()
        ],
    }


def in_order(rows: Sequence[ReasonCount]) -> list[ReasonCount]:
    """Order rows by reviewer, then by reason: accepted first, then as the reasons are asked."""
    place = {reason: n for n, reason in enumerate(REASONS)}
    return sorted(rows, key=lambda row: (row.reviewer, place.get(row.reason, len(place)), row.reason))


def _table(rows: Sequence[ReasonCount]) -> Iterator[str]:
    cells = [
        (
            row.reason,
            str(row.reviewed),
            str(row.usable),
            str(row.unusable),
            str(row.unsure),
            str(row.patients),
            _share(row.usable, row.judged),
            _interval(row.usable_interval),
        )
        for row in rows
    ]
    widths = [max(len(line[n]) for line in (HEAD, *cells)) for n in range(len(HEAD))]
    for line in (HEAD, *cells):
        pairs = enumerate(zip(line, widths, strict=True))
        padded = [cell.rjust(w) if n in NUMBERS else cell.ljust(w) for n, (cell, w) in pairs]
        yield "  ".join(padded).rstrip()


def _share(part: int, whole: int) -> str:
    return percent(part / whole).replace(SPACE, " ") if whole else MISSING


def _interval(ends: tuple[float, float]) -> str:
    low, high = ends
    if math.isnan(low):
        return MISSING
    return f"{decimal(100 * low, 0)} to {percent(high)}".replace(SPACE, " ")


def _known(ends: tuple[float, float]) -> list[float] | None:
    return None if math.isnan(ends[0]) else list(ends)

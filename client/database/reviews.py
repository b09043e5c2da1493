"""What reviewers said about strips: the sheets they were given, their verdicts, and how often they agree.

A verdict is one person's about one strip. Strips are counted per reviewer and never added up over
reviewers: two people who look at one strip are not two strips.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, Literal, NamedTuple

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from client.database.runs import now
from client.database.tables import Review, Run, Strip
from common.intervals import wilson

Verdict = Literal["usable", "unusable", "unsure"]
VERDICTS: Final[tuple[Verdict, ...]] = ("usable", "unusable", "unsure")
#: Names of the two kinds of review runs: a sheet that was made, and verdicts that were read.
SHEET, READ = "sheet", "read"
#: Stands for a strip without an exclusion where reasons are listed.
ACCEPTED: Final = "accepted"


class Said(NamedTuple):
    """One verdict, as it came back."""

    verdict: Verdict
    comment: str | None = None


@dataclass(frozen=True)
class ReasonCount:
    """What one reviewer said about the strips of one reason.

    Attributes
    ----------
    reviewer : name or initials.
    reason : what the software had said when the sheet was made: ``accepted``, or why not.
    usable, unusable, unsure : strips by verdict.
    patients : different patients behind the strips.
    """

    reviewer: str
    reason: str
    usable: int
    unusable: int
    unsure: int
    patients: int

    @property
    def reviewed(self) -> int:
        """Strips with a verdict."""
        return self.usable + self.unusable + self.unsure

    @property
    def judged(self) -> int:
        """Strips the reviewer was sure about."""
        return self.usable + self.unusable

    @property
    def as_software(self) -> int:
        """Strips the reviewer saw as the software did: usable where accepted, else unusable."""
        return self.usable if self.reason == ACCEPTED else self.unusable

    @property
    def usable_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share of usable among the judged strips; NaN without any."""
        return wilson(self.usable, self.judged)


@dataclass(frozen=True)
class Agreement:
    """How often one reviewer and the software say the same about a strip; unsure is left out."""

    reviewer: str
    same: int
    judged: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share; NaN without judged strips."""
        return wilson(self.same, self.judged)


@dataclass(frozen=True)
class PairAgreement:
    """Two reviewers on the strips both have seen.

    Attributes
    ----------
    reviewers : their names, in order.
    strips : seen by both.
    same : with the same verdict of the three.
    kappa : Cohen's, over the three verdicts; None where both always say one and the same.
    """

    reviewers: tuple[str, str]
    strips: int
    same: int
    kappa: float | None


@dataclass(frozen=True)
class Reviews:
    """All verdicts of a site, counted.

    Attributes
    ----------
    rows : one per reviewer and reason, accepted first; the other reasons by name.
    agreements : one per reviewer.
    pairs : one for every two reviewers who have strips in common.
    accepted_unusable : number of every accepted strip that somebody called unusable, and who did.
    """

    rows: Sequence[ReasonCount]
    agreements: Sequence[Agreement]
    pairs: Sequence[PairAgreement]
    accepted_unusable: Mapping[int, Sequence[str]]


def counts(session: Session) -> Reviews:
    """Count the verdicts of all reviewers."""
    rows = _by_reason(session)
    names = sorted({row.reviewer for row in rows})
    given = {name: dict(_verdicts(session, name)) for name in names}
    agreements = []
    for name in names:
        own = [row for row in rows if row.reviewer == name]
        agreements.append(
            Agreement(name, sum(row.as_software for row in own), sum(row.judged for row in own))
        )
    pairs = [pair for a, b in combinations(names, 2) if (pair := _pair(a, b, given)) is not None]
    query = (
        select(Review.strip_id, Review.reviewer)
        .where(Review.exclusion.is_(None), Review.verdict == "unusable")
        .order_by(Review.strip_id, Review.reviewer)
    )
    unusable: dict[int, list[str]] = {}
    for strip, reviewer in session.execute(query):
        unusable.setdefault(strip, []).append(reviewer)
    return Reviews(rows, agreements, pairs, unusable)


def cohens_kappa(table: Mapping[tuple[str, str], int]) -> float | None:
    """Return Cohen's kappa: agreement beyond what two people with these habits would reach by chance.

    Parameters
    ----------
    table : number of strips by what the first and what the second reviewer said.

    Returns
    -------
    1 for full agreement, 0 for no more than chance; None without strips, or where both always say one
    and the same, so that chance alone agrees fully.

    Source: Cohen, Educ Psychol Meas 1960;20:37-46.
    """
    total = sum(table.values())
    if not total:
        return None
    first, second = Counter[str](), Counter[str]()
    for (a, b), n in table.items():
        first[a] += n
        second[b] += n
    observed = sum(n for (a, b), n in table.items() if a == b) / total
    chance = math.fsum(first[word] * second[word] for word in first) / total**2
    return None if chance == 1 else (observed - chance) / (1 - chance)


def find_sheet(session: Session, digest: str) -> dict[int, str | None] | None:
    """Return the strips of a sheet with what the software said of each, None if it was never made."""
    query = (
        select(Run.details)
        .where(Run.kind == "review", Run.name == SHEET, Run.status == "finished")
        .order_by(Run.id.desc())
    )
    for details in session.scalars(query):
        if details.get("sheet_sha256") == digest:
            return {int(strip): reason for strip, reason in details["strips"].items()}
    return None


def present_strips(session: Session, strips: Sequence[int]) -> set[int]:
    """Return which of some strips the database still holds."""
    return set(session.scalars(select(Strip.id).where(Strip.id.in_(strips))))


def reviewers(session: Session) -> list[str]:
    """Return everybody who has given a verdict, by name."""
    return list(session.scalars(select(Review.reviewer).distinct().order_by(Review.reviewer)))


def replace_verdicts(
    session: Session, reviewer: str, digest: str, said: Mapping[int, Said], reasons: Mapping[int, str | None]
) -> int:
    """Put a reviewer's verdicts in the place of those given before. The caller commits.

    All earlier verdicts of this reviewer on the same sheet go, and those on the same strips of other sheets.

    Parameters
    ----------
    reviewer : name or initials.
    digest : of the sheet.
    said : strip -> verdict.
    reasons : strip -> what the software said when the sheet was made, None for accepted.

    Returns
    -------
    Number of earlier verdicts that were replaced.
    """
    again = or_(Review.sheet_sha256 == digest, Review.strip_id.in_(sorted(said)))
    earlier = session.scalar(
        select(func.count()).select_from(Review).where(Review.reviewer == reviewer, again)
    )
    session.execute(delete(Review).where(Review.reviewer == reviewer, again))
    session.add_all(
        Review(
            strip_id=strip,
            reviewer=reviewer,
            verdict=one.verdict,
            comment=one.comment,
            exclusion=reasons[strip],
            sheet_sha256=digest,
            read_at=now(),
        )
        for strip, one in sorted(said.items())
    )
    session.flush()
    return earlier or 0


def _by_reason(session: Session) -> list[ReasonCount]:
    verdicts: dict[tuple[str, str | None], Counter[str]] = {}
    query = select(Review.reviewer, Review.exclusion, Review.verdict, func.count()).group_by(
        Review.reviewer, Review.exclusion, Review.verdict
    )
    for reviewer, reason, verdict, n in session.execute(query):
        verdicts.setdefault((reviewer, reason), Counter())[verdict] = n
    patients = {
        (reviewer, reason): n
        for reviewer, reason, n in session.execute(
            select(Review.reviewer, Review.exclusion, func.count(Strip.patient_id.distinct()))
            .join(Strip, Strip.id == Review.strip_id)
            .group_by(Review.reviewer, Review.exclusion)
        )
    }
    order = sorted(verdicts, key=lambda one: (one[0], one[1] is not None, one[1] or ""))
    return [
        ReasonCount(
            one[0],
            one[1] or ACCEPTED,
            verdicts[one]["usable"],
            verdicts[one]["unusable"],
            verdicts[one]["unsure"],
            patients[one],
        )
        for one in order
    ]


def _verdicts(session: Session, reviewer: str) -> list[tuple[int, str]]:
    query = select(Review.strip_id, Review.verdict).where(Review.reviewer == reviewer)
    return [(strip, verdict) for strip, verdict in session.execute(query.order_by(Review.strip_id))]


def _pair(a: str, b: str, given: Mapping[str, Mapping[int, str]]) -> PairAgreement | None:
    both = sorted(given[a].keys() & given[b].keys())
    if not both:
        return None
    table = Counter((given[a][strip], given[b][strip]) for strip in both)
    same = sum(n for (one, other), n in table.items() if one == other)
    return PairAgreement((a, b), len(both), same, cohens_kappa(table))

"""A frozen cohort in numbers, for the person who froze it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from client.database.queries import members
from client.database.tables import Run


@dataclass(frozen=True)
class CohortSummary:
    """A frozen cohort in numbers; the splits count generic patients.

    ``held_back`` patients have the strips of a personal patient but trained a generic model before.
    ``left_out`` strips are accepted and not in, by the rule that says so: ``classes`` or ``balance``.
    ``reused`` tells that nothing had changed and an earlier run stands.
    """

    run_id: int
    name: str
    generic: int
    personal: int
    train: int
    validation: int
    test: int
    positive_strips: int
    negative_strips: int
    gap_strips: int
    held_back: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    reused: bool = False
    notes: tuple[str, ...] = ()

    @property
    def patients(self) -> int:
        """Everybody in the cohort."""
        return self.generic + self.personal

    def sentence(self) -> str:
        """Say it to a person."""
        head = "unchanged cohort" if self.reused else "cohort"
        text = (
            f"{head} {self.name!r} (run {self.run_id}): {self.generic} generic patients "
            f"({self.train} train, {self.validation} validation, {self.test} test), {self.personal} "
            f"personal; strips: {self.positive_strips} positive, {self.negative_strips} negative, "
            f"{self.gap_strips} gap"
        )
        rules = [f"{n} strips left out by cohort.{rule}" for rule, n in self.left_out.items()]
        return "; ".join((text, *rules, *self.notes))


def summary(session: Session, run: Run) -> CohortSummary:
    """Count the members of a frozen cohort."""
    everybody = members(session, run.id)
    splits = Counter(m.split for m in everybody if m.role == "generic")
    return CohortSummary(
        run_id=run.id,
        name=run.name,
        generic=splits.total(),
        personal=len(everybody) - splits.total(),
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        positive_strips=sum(m.n_positive for m in everybody),
        negative_strips=sum(m.n_negative for m in everybody),
        gap_strips=sum(m.n_gap for m in everybody),
        held_back=int(run.details.get("held_back", 0)),
        left_out={rule: len(strips) for rule, strips in run.details.get("left_out", {}).items() if strips},
        notes=tuple(run.details.get("notes", ())),
    )

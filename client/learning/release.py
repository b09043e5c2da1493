"""What of a site's results may leave it: counts and sums over enough patients, nothing else.

The unit is the distinct patient. A cell with fewer patients than the site's smallest cell is withheld; where
a table would let it be computed from the others, the next smallest go with it. Nested groups (patients with
at least r rounds; the personal ones and those of the primary result) are not both counted where their
difference would be a small group. Zero is shown: it is about nobody. Source: ARCHITECTURE decision 6.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from client.learning.evaluation import (
    PATIENT_FIGURES,
    StripScore,
    beat_confusion,
    figures_by_patient,
    histogram,
    strip_confusion,
)
from client.learning.guard import METHODS
from common.metrics import Flat, Moments

#: Differences of two methods after the last round of each patient. The first is the primary comparison.
COMPARISONS = (
    ("selected", "threshold"),
    ("selected", "generic"),
    ("threshold", "generic"),
    ("closed_form", "generic"),
    ("fine_tuned", "generic"),
)

#: A patient is worse off where the selected model's beat F1 is lower than the generic model's by more.
WORSE_BY = 0.05

ALL_METHODS = (*METHODS, "selected")


@dataclass(frozen=True)
class PatientFigures:
    """One patient of the primary result.

    Attributes
    ----------
    by_round : figures by (personalization round, method).
    selected : the method the guard chose last.
    decided : whether the guard had enough scored pairs to choose.
    as_good_as_best : whether its choice was, on the test strips.
    """

    by_round: Mapping[tuple[int, str], Mapping[str, float]]
    selected: str
    decided: bool
    as_good_as_best: bool

    @property
    def rounds(self) -> int:
        """Rounds of this patient."""
        return max(round_ for round_, _ in self.by_round)

    def last(self, method: str) -> Mapping[str, float]:
        """Return a method's figures after this patient's last round."""
        return self.by_round[self.rounds, method]

    @property
    def worse(self) -> bool:
        """Whether the selected model is worse than the generic one."""
        return self.last("selected")["beat-f1"] < self.last("generic")["beat-f1"] - WORSE_BY


@dataclass
class Release:
    """Numbers on their way out; ``withheld`` counts those that stay.

    Parameters
    ----------
    min_cell : fewest distinct patients behind a number.
    """

    min_cell: int
    numbers: Flat = field(default_factory=dict)
    withheld: int = 0

    def table(self, prefix: str, patients: Mapping[str, int]) -> None:
        """Send a table that divides patients into cells."""
        self.cells(prefix, {name: (n, n) for name, n in patients.items()})

    def cells(
        self, prefix: str, cells: Mapping[str, tuple[int, int]], withheld: Collection[str] = ()
    ) -> None:
        """Send a table of counts, each given with the distinct patients behind it, but for those withheld."""
        patients = {name: behind for name, (_, behind) in cells.items()}
        shown = shown_cells(patients, self.min_cell, withheld)
        self.withheld += len(cells) - len(shown)
        self.numbers.update({f"{prefix}.{name}": cells[name][0] for name in shown})

    def share(self, key: str, whole: str, part: int, of: int) -> None:
        """Send a number of patients and the number they are counted among, or neither."""
        if len(shown_cells({"part": part, "rest": of - part}, self.min_cell)) < 2:
            self.withheld += 2
            return
        self.numbers[key] = part
        self.numbers[whole] = of

    def count(self, key: str, value: int, patients: int) -> None:
        """Send a count that comes from so many patients."""
        if 0 < patients < self.min_cell:
            self.withheld += 1
        else:
            self.numbers[key] = value

    def moments(self, prefix: str, values: Sequence[float]) -> None:
        """Send n, sum and sum of squares of per-patient values; NaN is a patient without the figure."""
        sums = Moments.of(values)
        missing = len(values) - sums.n
        if sums.n < self.min_cell or 0 < missing < self.min_cell:
            self.withheld += 1 if values else 0
        else:
            self.numbers.update(sums.as_flat(prefix))

    def generic(self, scores: Sequence[StripScore], counted: bool = True) -> None:
        """Send how the generic model does on unseen patients; how many they are only if ``counted``."""
        patients = [{s.patient_id for s in scores if s.positive == wanted} for wanted in (True, False)]
        for level, counts in (("beat", beat_confusion(scores)), ("strip", strip_confusion(scores))):
            for label, names in enumerate((("tp", "fn"), ("fp", "tn"))):
                for name in names:
                    self.count(f"generic.{level}.{name}", getattr(counts, name), len(patients[label]))
        if min(map(len, patients)) >= self.min_cell:
            self.numbers.update(histogram(scores).as_flat("generic.histogram"))
        else:
            self.withheld += 1
        if not counted:
            self.withheld += 1 + len(PATIENT_FIGURES)
            return
        own = list(figures_by_patient(scores).values())
        self.count("generic.patients", len(own), len(own))
        for name in PATIENT_FIGURES:
            self.moments(f"generic.patient.{name}", [values[name] for values in own])

    def personal(self, patients: Sequence[PatientFigures]) -> None:
        """Send the primary result: every method by round, last round, differences, choices."""
        last_sent = len(patients)
        sizes = {last_sent}
        for round_ in range(1 + max((patient.rounds for patient in patients), default=-1)):
            group = [patient for patient in patients if patient.rounds >= round_]
            if 0 < last_sent - len(group) < self.min_cell:
                # The sum of who is missing here would follow from the round before.
                self.withheld += len(ALL_METHODS) * len(PATIENT_FIGURES)
                continue
            last_sent = len(group)
            sizes.add(last_sent)
            for method in ALL_METHODS:
                own = [p.by_round[round_, method] for p in group if (round_, method) in p.by_round]
                for name in PATIENT_FIGURES if own else ():
                    self.moments(f"personal.{method}.{round_}.{name}", [values[name] for values in own])
        for name in PATIENT_FIGURES if patients else ():
            for method in ALL_METHODS:
                self.moments(f"last.{method}.{name}", [patient.last(method)[name] for patient in patients])
            for more, less in COMPARISONS:
                values = [patient.last(more)[name] - patient.last(less)[name] for patient in patients]
                self.moments(f"difference.{more}-{less}.{name}", values)
        self._choices(patients, sizes)

    def _choices(self, patients: Sequence[PatientFigures], sizes: Collection[int]) -> None:
        """Send what the guard chose; ``sizes`` are those of the groups by round that were sent."""
        chosen = {method: sum(patient.selected == method for patient in patients) for method in METHODS}
        self.table("selected", chosen)
        worse = sum(patient.worse for patient in patients)
        if len(shown_cells({"worse": worse, "other": len(patients) - worse}, self.min_cell)) == 2:
            self.numbers["worse-than-generic"] = worse
        else:
            self.withheld += 1
        decided = [patient for patient in patients if patient.decided]
        if any(0 < abs(size - len(decided)) < self.min_cell for size in sizes):
            # The guard decides from some round on: this would count the group a round was withheld for.
            self.withheld += 2
        else:
            self.share("guard.hits", "guard.decisions", sum(p.as_good_as_best for p in decided), len(decided))

    def flat(self) -> Flat:
        """Return what is sent."""
        return {**self.numbers, "suppressed": self.withheld}


def shown_cells(patients: Mapping[str, int], min_cell: int, withheld: Collection[str] = ()) -> frozenset[str]:
    """Return which cells of a table may be shown.

    Smaller cells, but for zero, are hidden. The next smallest join them until there are at least two, with
    ``min_cell`` patients or more between them: two cells that are known to hold two patients are known.

    Parameters
    ----------
    patients : distinct patients in each cell; the cells divide a group whose size others may know.
    min_cell : the smallest cell that may be shown.
    withheld : cells to hide whatever their size.
    """
    hidden = {name for name, n in patients.items() if n > 0 and (n < min_cell or name in withheld)}
    others = sorted((n, name) for name, n in patients.items() if n > 0 and name not in hidden)
    for _, name in others if hidden else ():
        if len(hidden) >= 2 and sum(patients[cell] for cell in hidden) >= min_cell:
            break
        hidden.add(name)
    return frozenset(patients) - hidden


def uncounted(groups: Mapping[str, AbstractSet[int]], min_cell: int) -> set[str]:
    """Return which groups of patients may not be counted, because a small group would follow.

    Parameters
    ----------
    groups : patients of each group, the most important first; a group that is too close to one before it,
        alone or together with another, gives way.
    min_cell : differences of fewer patients, but for none, are close.
    """
    sent: list[AbstractSet[int]] = []
    found: set[str] = set()
    for name, group in groups.items():
        unions = [group, *(group | other for other in sent if not group & other)]
        if any(0 < len(union ^ other) < min_cell for union in unions for other in sent):
            found.add(name)
        elif len(group) >= min_cell:
            sent.append(group)
    return found

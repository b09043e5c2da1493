"""What of a site's results may leave it: counts and sums over enough patients, nothing else.

The unit is the distinct patient. A cell with fewer patients than the site's smallest cell is withheld; where
a table would let it be computed from the others, the next smallest go with it. Nested groups (patients with
at least r rounds; the personal ones and those of the primary result; those who have a figure and those who
lack it) are not both counted where their difference would be a small group. Zero is shown: it is about
nobody. Source: ARCHITECTURE decision 6.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from client.learning.differencing import Group, Sizes
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
    """One patient under one protocol or control.

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

    def figure(self, method: str, name: str) -> float:
        """Return one figure of a method after the last round; NaN if the method was not run."""
        return self.by_round.get((self.rounds, method), {}).get(name, math.nan)

    @property
    def worse(self) -> bool:
        """Whether the selected model is worse than the generic one."""
        return self.last("selected")["beat-f1"] < self.last("generic")["beat-f1"] - WORSE_BY


@dataclass
class Release:
    """Numbers on their way out.

    Parameters
    ----------
    min_cell : fewest distinct patients behind a number.

    Attributes
    ----------
    numbers : what is sent so far.
    withheld : how many numbers stay.
    told : groups of personal patients that the numbers are about, beside all of the primary result.
    """

    min_cell: int
    numbers: Flat = field(default_factory=dict)
    withheld: int = 0
    told: list[Group] = field(default_factory=list)

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

    def over(self, prefix: str, values: Mapping[int, float], sizes: Sizes) -> None:
        """Send the moments of a figure of patients, if who has it may be told; NaN is a patient without."""
        known = {patient for patient, value in values.items() if not math.isnan(value)}
        if len(known) >= self.min_cell and sizes.tell(known):
            self.numbers.update(Moments.of(values.values()).as_flat(prefix))
        else:
            self.withheld += 1 if values else 0

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

    def personal(self, patients: Mapping[int, PatientFigures]) -> None:
        """Send the primary result: every method by round, last round, differences, choices.

        Parameters
        ----------
        patients : those of the primary result, by their number in the database.
        """
        groups = self._by_round(patients)
        sizes = Sizes(self.min_cell)
        # A figure that everybody has is about one of these; where some lack it, who has it is asked for.
        sizes.know(*(group for group in (patients.keys(), *groups.values()) if len(group) >= self.min_cell))
        for name in PATIENT_FIGURES if patients else ():
            for method in ALL_METHODS:
                values = {number: patient.figure(method, name) for number, patient in patients.items()}
                self.over(f"last.{method}.{name}", values, sizes)
            for more, less in COMPARISONS:
                values = differences(patients, more, less, name)
                self.over(f"difference.{more}-{less}.{name}", values, sizes)
            for round_, group in groups.items():
                for method in ALL_METHODS:
                    own = {p: patients[p].by_round.get((round_, method)) for p in sorted(group)}
                    values = {p: figures[name] for p, figures in own.items() if figures is not None}
                    self.over(f"personal.{method}.{round_}.{name}", values, sizes)
        self._choices(patients, groups)

    def _by_round(self, patients: Mapping[int, PatientFigures]) -> dict[int, AbstractSet[int]]:
        """Return who has each round, for the rounds that may be sent."""
        groups: dict[int, AbstractSet[int]] = {}
        last_sent: AbstractSet[int] = patients.keys()
        for round_ in range(1 + max((patient.rounds for patient in patients.values()), default=-1)):
            group = frozenset(p for p, patient in patients.items() if patient.rounds >= round_)
            if 0 < len(last_sent) - len(group) < self.min_cell:
                # The sum of who is missing here would follow from the round before.
                self.withheld += len(ALL_METHODS) * len(PATIENT_FIGURES)
                continue
            groups[round_] = last_sent = group
        self.told += [group for group in dict.fromkeys(map(frozenset, groups.values()))
                      if self.min_cell <= len(group) < len(patients)]  # fmt: skip
        return groups

    def _choices(
        self, patients: Mapping[int, PatientFigures], groups: Mapping[int, AbstractSet[int]]
    ) -> None:
        """Send what the guard chose; ``groups`` are those by round that were sent."""
        everybody = patients.values()
        chosen = {method: sum(patient.selected == method for patient in everybody) for method in METHODS}
        self.table("selected", chosen)
        worse = sum(patient.worse for patient in everybody)
        if len(shown_cells({"worse": worse, "other": len(patients) - worse}, self.min_cell)) == 2:
            self.numbers["worse-than-generic"] = worse
        else:
            self.withheld += 1
        decided = {p: patient for p, patient in patients.items() if patient.decided}
        sizes = {len(patients), *map(len, groups.values())}
        if any(0 < abs(size - len(decided)) < self.min_cell for size in sizes):
            # The guard decides from some round on: this would count the group a round was withheld for.
            self.withheld += 2
            return
        hits = sum(patient.as_good_as_best for patient in decided.values())
        self.share("guard.hits", "guard.decisions", hits, len(decided))
        if "guard.decisions" in self.numbers and self.min_cell <= len(decided) < len(patients):
            self.told.append(frozenset(decided))

    def flat(self) -> Flat:
        """Return what is sent."""
        return {**self.numbers, "suppressed": self.withheld}


def differences(patients: Mapping[int, PatientFigures], more: str, less: str, name: str) -> dict[int, float]:
    """Return a figure of one method minus that of another after each patient's last round, by patient."""
    return {
        number: patient.figure(more, name) - patient.figure(less, name)
        for number, patient in patients.items()
    }


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

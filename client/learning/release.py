"""What of a site's results may leave it: counts and sums over enough patients, nothing else.

The unit is the distinct patient. A cell with fewer patients than the site's smallest cell is withheld; where
a table would let it be computed from the others, the next smallest goes with it. Sums over nested groups
(patients with at least r rounds) are withheld where their difference would be a small group. Zero is shown:
it is about nobody. Source: ARCHITECTURE decision 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from client.learning.evaluation import (
    FIGURES,
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

    def cells(self, prefix: str, cells: Mapping[str, tuple[int, int]]) -> None:
        """Send a table of counts, each given with the distinct patients behind it."""
        shown = shown_cells({name: patients for name, (_, patients) in cells.items()}, self.min_cell)
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

    def generic(self, scores: Sequence[StripScore]) -> None:
        """Send how the generic model does on patients it has not seen."""
        patients = [{s.patient_id for s in scores if s.positive == wanted} for wanted in (True, False)]
        self.count("generic.patients", len(patients[0] | patients[1]), len(patients[0] | patients[1]))
        for level, counts in (("beat", beat_confusion(scores)), ("strip", strip_confusion(scores))):
            for label, names in enumerate((("tp", "fn"), ("fp", "tn"))):
                for name in names:
                    self.count(f"generic.{level}.{name}", getattr(counts, name), len(patients[label]))
        if min(map(len, patients)) >= self.min_cell:
            self.numbers.update(histogram(scores).as_flat("generic.histogram"))
        else:
            self.withheld += 1
        own = list(figures_by_patient(scores).values())
        for name in FIGURES:
            self.moments(f"generic.patient.{name}", [values[name] for values in own])

    def personal(self, patients: Sequence[PatientFigures]) -> None:
        """Send the primary result: every method by round, last round, differences, choices."""
        last_sent = len(patients)
        for round_ in range(1 + max((patient.rounds for patient in patients), default=-1)):
            group = [patient for patient in patients if patient.rounds >= round_]
            if 0 < last_sent - len(group) < self.min_cell:
                # The sum of who is missing here would follow from the round before.
                self.withheld += len(ALL_METHODS) * len(FIGURES)
                continue
            last_sent = len(group)
            for method in ALL_METHODS:
                own = [p.by_round[round_, method] for p in group if (round_, method) in p.by_round]
                for name in FIGURES if own else ():
                    self.moments(f"personal.{method}.{round_}.{name}", [values[name] for values in own])
        for name in FIGURES if patients else ():
            for method in ALL_METHODS:
                self.moments(f"last.{method}.{name}", [patient.last(method)[name] for patient in patients])
            for more, less in COMPARISONS:
                values = [patient.last(more)[name] - patient.last(less)[name] for patient in patients]
                self.moments(f"difference.{more}-{less}.{name}", values)
        self._choices(patients)

    def _choices(self, patients: Sequence[PatientFigures]) -> None:
        chosen = {method: sum(patient.selected == method for patient in patients) for method in METHODS}
        self.table("selected", chosen)
        worse = sum(patient.worse for patient in patients)
        if len(shown_cells({"worse": worse, "other": len(patients) - worse}, self.min_cell)) == 2:
            self.numbers["worse-than-generic"] = worse
        else:
            self.withheld += 1
        decided = [patient for patient in patients if patient.decided]
        self.share("guard.hits", "guard.decisions", sum(p.as_good_as_best for p in decided), len(decided))

    def flat(self) -> Flat:
        """Return what is sent."""
        return {**self.numbers, "suppressed": self.withheld}


def shown_cells(patients: Mapping[str, int], min_cell: int) -> frozenset[str]:
    """Return which cells of a table may be shown.

    Parameters
    ----------
    patients : distinct patients in each cell; the cells divide a group whose size others may know.
    min_cell : smaller cells, but for zero, are withheld; with exactly one of them the next smallest too.
    """
    small = [name for name, n in patients.items() if 0 < n < min_cell]
    shown = {name for name in patients if name not in small}
    if len(small) == 1:
        others = sorted((patients[name], name) for name in shown if patients[name] > 0)
        shown -= {name for _, name in others[:1]}
    return frozenset(shown)

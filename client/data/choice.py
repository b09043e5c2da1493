"""Which strips of the generic cohort a model may learn from, where the settings ask for fewer than all.

``cohort.classes = "disjoint"``: a patient contributes strips of one label. Who has a positive strip
contributes the positive ones, everybody else the negative ones. Source: Chiu 2022; its 721 patients with
hyperkalemia and 718 without are 1,439 in all, so no patient was in both groups.

``cohort.balance = "strips"``: within a split as many positive as negative strips. Surplus strips of the more
frequent label are left out, most from the patients who have most, and nobody is emptied while somebody else
still has two to give.

Both shape what is learned and what chooses the model, so they hold for train and validation. Test patients
and personal patients keep every strip: a model is judged at the prevalence and among the patients it would
meet. Gap strips are never learned from and stay where they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from client.database.queries import TRAINED
from common.config import CohortSettings
from common.task import Label


@dataclass(frozen=True)
class StripChoice:
    """An accepted strip that may be chosen.

    Attributes
    ----------
    strip_id, patient_id : database ids.
    label : positive, negative or gap.
    order : place in the queue, a hash of what the strip is: of the strips of one patient and label, those
        first in the queue stay.
    """

    strip_id: int
    patient_id: int
    label: str
    order: int


@dataclass(frozen=True)
class LeftOut:
    """Strips of generic patients that are accepted and not in the cohort.

    Attributes
    ----------
    classes, balance : ids of the strips each rule left out, ascending.
    unbalanced : splits that have strips of one label only, so that nothing could be balanced.
    """

    classes: tuple[int, ...] = ()
    balance: tuple[int, ...] = ()
    unbalanced: tuple[str, ...] = ()

    @property
    def strips(self) -> frozenset[int]:
        """All of them."""
        return frozenset((*self.classes, *self.balance))


def leave_out(strips: Sequence[StripChoice], splits: Mapping[int, str], rules: CohortSettings) -> LeftOut:
    """Decide which strips stay out of the cohort.

    Parameters
    ----------
    strips : accepted strips, in any order.
    splits : generic patient -> split; strips of other patients are not looked at.
    rules : of the cohort.
    """
    learned = [
        strip for strip in strips if splits.get(strip.patient_id) in TRAINED and strip.label != Label.GAP
    ]
    classes: set[int] = set()
    if rules.classes == "disjoint":
        positive = {strip.patient_id for strip in learned if strip.label == Label.POSITIVE}
        classes = {
            strip.strip_id
            for strip in learned
            if strip.label == Label.NEGATIVE and strip.patient_id in positive
        }
    balance: set[int] = set()
    unbalanced = []
    for split in TRAINED if rules.balance == "strips" else ():
        own = [s for s in learned if splits[s.patient_id] == split and s.strip_id not in classes]
        counts = Counter(strip.label for strip in own)
        few = min(counts[Label.POSITIVE], counts[Label.NEGATIVE])
        if not few:
            unbalanced += [split] if own else []
            continue
        much = Label.POSITIVE if counts[Label.POSITIVE] > few else Label.NEGATIVE
        safe = {strip.patient_id for strip in own if strip.label != much}
        surplus = [strip for strip in own if strip.label == much]
        balance |= {strip.strip_id for strip in surplus} - kept(surplus, few, safe)
    return LeftOut(tuple(sorted(classes)), tuple(sorted(balance)), tuple(unbalanced))


def kept(
    strips: Iterable[StripChoice], number: int, safe: frozenset[int] | set[int] = frozenset()
) -> set[int]:
    """Return the strips of one label that stay: ``number`` of them, as even over patients as can be.

    Patients take turns, each giving its next strip, until the number is reached. In the first turn those
    whose only strips these are come before ``safe`` ones, who stay in the cohort without; within a turn the
    queue decides, so that a strip more or less changes no more than it must.

    Parameters
    ----------
    strips : of one label.
    number : how many stay.
    safe : patients with strips of the other label.
    """
    queues: dict[int, list[StripChoice]] = {}
    for strip in sorted(strips, key=lambda strip: (strip.order, strip.strip_id)):
        queues.setdefault(strip.patient_id, []).append(strip)
    turns = [
        (turn, turn == 0 and strip.patient_id in safe, strip.order, strip.strip_id)
        for queue in queues.values()
        for turn, strip in enumerate(queue)
    ]
    return {strip_id for _, _, _, strip_id in sorted(turns)[:number]}

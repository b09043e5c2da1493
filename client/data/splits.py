"""Which split a patient goes to: a rule that fills 6:2:2 evenly and never moves anybody.

A hash alone would leave validation or test empty at a small site (one site in five with 10 patients), and
drawing lots anew would move patients when new ones arrive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from common.config import CohortSettings
from common.errors import ConfigurationError

SPLITS = ("train", "validation", "test")
MIN_STRATUM = 5


@dataclass(frozen=True)
class Candidate:
    """A patient with accepted strips, before roles and splits are given.

    Attributes
    ----------
    patient_id, source_key : of the patient.
    n_positive, n_negative, n_gap : accepted strips.
    split, stratum : as stored by an earlier cohort; None if never assigned.
    """

    patient_id: int
    source_key: str
    n_positive: int
    n_negative: int
    n_gap: int
    split: str | None = None
    stratum: str | None = None

    def enough(self, rules: CohortSettings) -> bool:
        """Whether the patient has the strips of a personal patient."""
        return self.n_positive >= rules.min_positive and self.n_negative >= rules.min_negative


def assign_splits(
    candidates: Sequence[Candidate], shares: Mapping[str, float], order: Callable[[str], int]
) -> dict[int, tuple[str, str]]:
    """Give a split to every patient that has none; those that have one keep it and count.

    Parameters
    ----------
    candidates : the generic patients.
    shares : split -> share, in the order in which ties are resolved.
    order : source key -> place in the queue.

    Returns
    -------
    dict
        Patient -> (split, stratum), of all candidates.
    """
    out, counts = {}, {stratum: Counter[str]() for stratum in ("positive", "negative")}
    queue = []
    for candidate in candidates:
        stratum = candidate.stratum or ("positive" if candidate.n_positive else "negative")
        if candidate.split is None:
            queue.append((order(candidate.source_key), candidate.source_key, candidate.patient_id, stratum))
        else:
            out[candidate.patient_id] = (candidate.split, stratum)
            counts[stratum][candidate.split] += 1
    for _, _, patient, stratum in sorted(queue):
        split = furthest_below(counts[stratum], shares)
        counts[stratum][split] += 1
        out[patient] = (split, stratum)
    return out


def furthest_below(counts: Mapping[str, int], shares: Mapping[str, float]) -> str:
    """Return the split that one more patient brings closest to the shares; the first one in a tie."""
    total, after = sum(shares.values()), sum(counts.values()) + 1
    possible = [split for split, share in shares.items() if share > 0]
    return max(possible, key=lambda split: shares[split] * after - counts.get(split, 0) * total)


def small_strata(splits: Mapping[int, tuple[str, str]]) -> list[str]:
    """Return a note for each label stratum with too few patients for a fine split."""
    sizes = Counter(stratum for _, stratum in splits.values())
    words = {"positive": "with positive strips", "negative": "without positive strips"}
    return [
        f"only {sizes[stratum]} generic patients {text}, fewer than {MIN_STRATUM}: their split is coarse"
        for stratum, text in words.items()
        if sizes[stratum] < MIN_STRATUM
    ]


def check_shares(shares: tuple[float, float, float]) -> None:
    """Refuse shares that cannot be used.

    Raises
    ------
    ConfigurationError
        If one is negative, or nothing is left to train on.
    """
    if min(shares) < 0 or shares[0] <= 0:
        raise ConfigurationError(
            f"cohort.split = {list(shares)}: train, validation and test need shares of at least 0, "
            "train more than 0, such as 6, 2, 2"
        )

"""Whether a small group would follow from numbers that are sent, by adding and subtracting them.

Each number that leaves counts (or sums over) a group: of patients, or of draws that belong to patients. Who
has several of them can add and subtract. With 40 in the cohort, 24 in training, 8 in validation and 5 in
test, three are personal patients, although nobody sent that number. So before a number leaves, it is asked
what would follow from it together with all that is known already.

What can be computed from sizes of groups are their linear combinations. Cut everybody into pieces that no
group divides; a group of whole pieces follows exactly if its indicator is a combination of the indicators of
what was sent. All such groups are found (not only differences of two), so nothing small is overlooked; they
are found before anything is sent, so that what gives way is the number that would complete the sum.

Numbers that are bounds, such as totals in the literature, and guesses about who is in a group are outside.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import numpy.typing as npt

Item = Hashable
Group = AbstractSet[Item]

#: More undecided pieces than this are not searched; the number then stays.
MOST_FREE = 14
EPSILON = 1e-9


@dataclass
class Sizes:
    """Groups whose sizes are known outside, and whether one more may be told.

    Parameters
    ----------
    min_cell : fewest distinct patients behind a number.
    owner : item -> patient; without it items are patients.
    known : groups that were told before.
    """

    min_cell: int
    owner: Mapping[Item, int] | None = None
    known: list[Group] = field(default_factory=list)
    _found: tuple[int, set[frozenset[Item]]] | None = field(default=None, repr=False)

    def patients(self, group: Group) -> int:
        """Return the distinct patients behind a group."""
        return len(group) if self.owner is None else len({self.owner[item] for item in group})

    def know(self, *groups: Group) -> None:
        """Note groups whose sizes are known, whatever follows from them."""
        self.known += [group for group in groups if group]

    def tell(self, group: Group) -> bool:
        """Note a group and say that it may be told; False if it is small or a small group would follow.

        An empty group is about nobody, and what is known already tells nothing new.
        """
        if not group or group in self.known:
            return True
        if self.patients(group) < self.min_cell:
            return False
        # What followed when the last group was told still does.
        same = self._found is not None and self._found[0] == len(self.known)
        before = self._found[1] if self._found is not None and same else self.small(self.known)
        if before is None or (after := self.small([*self.known, group])) is None or after - before:
            return False
        self.known.append(frozenset(group))
        self._found = (len(self.known), after)
        return True

    def small(self, groups: Sequence[Group]) -> set[frozenset[Item]] | None:
        """Return the small groups that follow from the sizes of these; None if too many could."""
        pieces, indicators = cut(groups)
        sizes = [self.patients(piece) for piece in pieces]
        order = sorted(range(len(pieces)), key=lambda i: (-sizes[i], i))
        pieces = [pieces[i] for i in order]
        rows, pivots = reduced(indicators[:, order])
        # A piece with enough patients is in no small group, so its pivot is not taken.
        free = [i for i, pivot in enumerate(pivots) if sizes[order[pivot]] < self.min_cell]
        if len(free) > MOST_FREE:
            return None
        choices = np.array(list(product((0.0, 1.0), repeat=len(free))))
        inside = choices @ rows[free] if free else np.zeros((1, len(pieces)))
        taken = np.abs(inside - 1) < EPSILON
        whole = taken.any(axis=1) & (taken | (np.abs(inside) < EPSILON)).all(axis=1)
        found = set()
        for chosen in np.unique(taken[whole], axis=0):
            union = frozenset().union(*(pieces[i] for i in np.flatnonzero(chosen)))
            if self.patients(union) < self.min_cell:
                found.add(union)
        return found


def cut(groups: Sequence[Group]) -> tuple[list[frozenset[Item]], npt.NDArray[np.float64]]:
    """Cut everybody into the pieces that no group divides.

    Returns
    -------
    pieces : disjoint; every group is a union of some.
    indicators : float64 (n_groups, n_pieces), 1 where a piece lies in a group.
    """
    signs: dict[Item, int] = {}
    for number, group in enumerate(groups):
        for item in group:
            signs[item] = signs.get(item, 0) | 1 << number
    pieces: dict[int, set[Item]] = {}
    for item, sign in signs.items():
        pieces.setdefault(sign, set()).add(item)
    indicators = np.array(
        [[sign >> number & 1 for sign in pieces] for number in range(len(groups))], dtype=np.float64
    ).reshape(len(groups), len(pieces))
    return [frozenset(piece) for piece in pieces.values()], indicators


def reduced(matrix: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], list[int]]:
    """Return the reduced row echelon form without zero rows, and the column of each row's pivot."""
    rows, pivots = matrix.copy(), list[int]()
    for column in range(rows.shape[1]):
        top = len(pivots)
        if top == len(rows):
            break
        best = top + int(np.argmax(np.abs(rows[top:, column])))
        if abs(rows[best, column]) < EPSILON:
            continue
        rows[[top, best]] = rows[[best, top]]
        rows[top] /= rows[top, column]
        others = np.arange(len(rows)) != top
        rows[others] -= np.outer(rows[others, column], rows[top])
        pivots.append(column)
    return rows[: len(pivots)], pivots

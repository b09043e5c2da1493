"""How often a suspicion of hemolysis is right: ``python benchmarks/hemolysis.py``.

Plans patients of each site profile, without any signal, and asks the rule of repeats (a value within 4 hours
that is lower by more than 1.5 mEq/L) about every potassium with a number. The truth is the generator's, so
the figures say how the rule behaves where potassium falls for other reasons too: dialysis and treatment lower
it as fast as a repeat of a broken specimen does. Contaminated panels are not generated.
"""

from __future__ import annotations

import argparse
from collections import Counter

from client.data.hemolysis import with_suspicions
from client.data.sources.base import Measurement
from simulation.cohort.clinical_parameters import POSITIVE_ABOVE
from simulation.cohort.labs import SERUM, WHOLE_BLOOD
from simulation.cohort.profile import PROFILES, CohortSizes, SiteProfile
from simulation.cohort.site import plan_site
from simulation.cohort.tables import LabRow, lab_rows


def main() -> None:
    """Print one line per profile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--profiles", nargs="+", default=list(PROFILES), help="site profiles to measure")
    parser.add_argument("--patients", type=int, default=400, help="patients per profile")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"draws above {POSITIVE_ABOVE:g} mEq/L, {options.patients} patients per profile")
    columns = ("profile", "draws", "hemolyzed", "suspected", "of them hemolyzed", "hemolyzed found")
    print("".join(f"{name:>19}" for name in columns))
    for name in options.profiles:
        found = counted(PROFILES[name], options.patients, options.seed)
        broken, suspected = found[True, True] + found[True, False], found[True, True] + found[False, True]
        right = found[True, True]
        cells = (name, sum(found.values()), broken, suspected, share(right, suspected), share(right, broken))
        print("".join(f"{cell:>19}" for cell in cells))


def counted(profile: SiteProfile, patients: int, seed: int) -> Counter[tuple[bool, bool]]:
    """Count the high draws of a site by (hemolyzed, suspected)."""
    found: Counter[tuple[bool, bool]] = Counter()
    for plan in plan_site(profile, CohortSizes(patients=patients), seed):
        rows = [row for row in lab_rows(plan) if row.item in (SERUM, WHOLE_BLOOD)]
        judged = with_suspicions([measurement(number, row) for number, row in enumerate(rows)])
        for row, draw in zip(rows, judged, strict=True):
            if row.number is not None and row.number > POSITIVE_ABOVE:
                found[row.draw.hemolysed, draw.hemolysis == "suspected"] += 1
    return found


def measurement(number: int, row: LabRow) -> Measurement:
    """Return a row as a reader would."""
    return Measurement(
        source_row=str(number),
        specimen_time=row.charted,
        text=row.text,
        number=row.number,
        unit=row.unit,
        item=str(row.item),
        specimen="serum" if row.item == SERUM else "whole_blood",
        admitted=row.hadm_id is not None,
    )


def share(part: int, whole: int) -> str:
    """Write a share in percent."""
    return f"{100 * part / whole:.0f} %" if whole else "-"


if __name__ == "__main__":
    main()

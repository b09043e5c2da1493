"""Are strips and beats of high potassium accepted like others: ``python benchmarks/acceptance.py``.

Tall T waves, wide complexes and lost P waves are what potassium does to an ECG. Rules for noise that reject
them would throw the disease away. A synthetic site in the MIMIC-III layout (half of the generic patients
cases, as many strips of each label as they have) is read as ingest reads it. Printed by potassium: the share
of the strips with enough signal that can be used, the share of the detected beats that pass the rules for
beats, and why strips are excluded. Which patients are noisy is a matter of chance, so there is no bar: read
the shares with their Wilson intervals (strips of one patient are not independent, the intervals are too
narrow).
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from client.data.labels import label_draws
from client.data.sources.mimic3 import Mimic3Source
from client.data.strips import FoundStrip, strip_of_draw
from common.config import make_settings
from common.intervals import wilson
from common.task import Label
from simulation.cohort.profile import PROFILES, CohortSizes
from simulation.cohort.site import write_site

# Name, label, above, up to and including, mEq/L.
GROUPS = (
    ("negative", Label.NEGATIVE, 0.0, 99.0),
    ("gap", Label.GAP, 0.0, 99.0),
    ("positive", Label.POSITIVE, 0.0, 99.0),
    ("  to 6.5", Label.POSITIVE, 0.0, 6.5),
    ("  to 7.5", Label.POSITIVE, 6.5, 7.5),
    ("  above 7.5", Label.POSITIVE, 7.5, 99.0),
)


def main() -> None:
    """Write a site, process its strips and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--patients", type=int, default=30, help="patients of the site")
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        strips = strips_of_site(Path(folder) / "site", options.patients, options.seed)
    print(f"{len(strips)} strips with signal of {options.patients} synthetic patients")
    print(f"{'potassium':12}{'strips':>8}{'usable':>9}{'95 %':>19}{'beats':>9}{'pass':>9}   strips excluded")
    for name, label, above, to in GROUPS:
        group = [s for s in strips if s.label is label and s.value is not None and above < s.value <= to]
        print(line(name, group))


def strips_of_site(folder: Path, patients: int, seed: int) -> list[FoundStrip]:
    """Write a synthetic site and return all its strips with signal."""
    sizes = CohortSizes(
        patients=patients, personal_patients=max(2, patients // 10), positive_share=0.5, window_hours=0.175
    )
    write_site(folder, PROFILES["north"], sizes, seed)
    source, settings = Mimic3Source(folder / "clinical", folder / "waveforms"), make_settings()
    found = []
    for key in list(source.keys()):
        draws = label_draws(source.measurements(key), source.stays(key), settings.label)
        recordings = source.opener(key)()
        for position, draw in enumerate(draws):
            if draw.label is not None:
                strip = strip_of_draw(draw, draw.label, position, recordings, settings)
                found += [strip] if strip.n_detected else []
    return found


def passing_share(strips: Sequence[FoundStrip]) -> float:
    """Return the share of the detected beats that pass the rules for beats, in usable strips or not."""
    detected = sum(strip.n_detected for strip in strips)
    rejected = sum(sum(strip.beats_rejected.values()) for strip in strips)
    return 1 - rejected / detected if detected else float("nan")


def line(name: str, strips: Sequence[FoundStrip]) -> str:
    """Write one line of the table."""
    reasons = Counter(str(strip.exclusion) for strip in strips if strip.exclusion is not None)
    why = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())
    usable, detected = sum(strip.exclusion is None for strip in strips), sum(s.n_detected for s in strips)
    low, high = wilson(usable, len(strips))
    share = usable / len(strips) if strips else float("nan")
    return (
        f"{name:12}{len(strips):8}{share:9.1%}{f'{low:.1%} to {high:.1%}':>19}"
        f"{detected:9}{passing_share(strips):9.1%}   {why}"
    )


if __name__ == "__main__":
    main()

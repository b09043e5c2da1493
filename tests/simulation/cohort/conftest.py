"""Two tiny sites, written once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

with warnings.catch_warnings():
    # The reference library uses something pandas has deprecated, once, while it is imported.
    warnings.simplefilter("ignore", DeprecationWarning)
    import wfdb  # noqa: F401

from simulation.cohort.profile import PROFILES, CohortSizes, SiteProfile
from simulation.cohort.site import SiteCounts, plan_site, write_site
from simulation.cohort.stay import PatientPlan

TINY = CohortSizes(
    patients=6, personal_patients=1, personal_strips=3, positive_share=0.6, most_draws=2, window_hours=0.05
)
SEED = 11


@dataclass(frozen=True)
class WrittenSite:
    """A written site, its ground truth, and the plans behind it."""

    profile: SiteProfile
    sizes: CohortSizes
    seed: int
    folder: Path
    truth: Path
    counts: SiteCounts
    plans: tuple[PatientPlan, ...]


def written(root: Path, name: str) -> WrittenSite:
    profile, folder, truth = PROFILES[name], root / "site", root / "truth"
    counts = write_site(folder, profile, TINY, SEED, truth=truth)
    return WrittenSite(profile, TINY, SEED, folder, truth, counts, tuple(plan_site(profile, TINY, SEED)))


@pytest.fixture(scope="session")
def north(tmp_path_factory: pytest.TempPathFactory) -> WrittenSite:
    """Write a site with upper-case compressed tables and turning-point monitors."""
    return written(tmp_path_factory.mktemp("north"), "north")


@pytest.fixture(scope="session")
def valley(tmp_path_factory: pytest.TempPathFactory) -> WrittenSite:
    """Write a site with lower-case plain tables and monitors of 500 Hz."""
    return written(tmp_path_factory.mktemp("valley"), "valley")


@pytest.fixture(scope="session")
def tables(north: WrittenSite) -> Path:
    return north.folder / "clinical"

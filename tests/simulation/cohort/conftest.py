"""Two tiny sites, written once."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

with warnings.catch_warnings():
    # The reference library uses something pandas has deprecated, once, while it is imported.
    warnings.simplefilter("ignore", DeprecationWarning)
    import wfdb  # noqa: F401

from simulation.cohort import PROFILES, CohortSizes, SiteTruth, write_site

TINY = CohortSizes(generic_patients=5, personal_patients=1, personal_strips=3, minutes_before=1.5)
SEED = 11


@pytest.fixture(scope="session")
def north(tmp_path_factory: pytest.TempPathFactory) -> SiteTruth:
    """Write a site with upper-case compressed tables; its truth is in ``folder.parent / "truth"``."""
    root = tmp_path_factory.mktemp("north")
    return write_site(root / "site", PROFILES["north"], TINY, SEED, truth=root / "truth")


@pytest.fixture(scope="session")
def valley(tmp_path_factory: pytest.TempPathFactory) -> SiteTruth:
    """Write a site with lower-case plain tables."""
    return write_site(tmp_path_factory.mktemp("valley") / "site", PROFILES["valley"], TINY, SEED)


@pytest.fixture(scope="session")
def tables(north: SiteTruth) -> Path:
    return north.folder / "clinical"

"""``fedkalemia-sim`` on hospitals small enough for a test; everything else is the real command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import simulation.plans
from simulation.cohort.profile import CohortSizes
from simulation.run import Journey

SEED = 3
SITES = 2
SIZES = CohortSizes(
    patients=14,
    personal_patients=2,
    positive_share=0.5,
    personal_strips=6,
    most_draws=4,
    window_hours=2 / 60,
    minutes_after=0.1,
)
#: Two-minute strips, a tiny network, few beats, and no minima that would hide a handful of patients.
OVERRIDES: Mapping[str, Any] = {
    "strip": {"window_s": 120.0, "min_signal_s": 60.0, "min_beats": 40},
    "model": {"width": 4},
    "training": {"beats_per_strip": 10},
    "federation": {"rounds": 2, "min_validation_patients": 2},
    "personalization": {"rounds": 2, "epochs": 1, "beats_per_strip": 10},
    "cohort": {"min_positive": 4, "min_negative": 4},
    "policy": {"min_training_patients": 1, "min_validation_patients": 1, "min_cell": 1},
}


def set_options(values: Mapping[str, Any] = OVERRIDES) -> list[str]:
    """Return settings as the options of a command line."""
    pairs = [(f"{section}.{key}", value) for section, own in values.items() for key, value in own.items()]
    return [word for name, value in pairs for word in ("--set", f"{name}={value}")]


def small_journey(out: Path, workers: int = 1) -> Journey:
    """Plan the run that this module is when it is started as a script with the options of ``options``."""
    simulation.plans.SIZES = {"quick": SIZES}
    return simulation.plans.synthetic_journey(
        out, sites=SITES, seed=SEED, preset="quick", overrides=OVERRIDES, workers=workers
    )


def options(out: Path) -> list[str]:
    """Return the command line of the same run, with a process per site."""
    chosen = ["--preset", "quick", "--sites", str(SITES), "--seed", str(SEED), "--workers", str(SITES)]
    return ["run", "--source", "synthetic", "--out", str(out), *chosen, *set_options()]


if __name__ == "__main__":
    from simulation.cli import main

    simulation.plans.SIZES = {"quick": SIZES}
    main()

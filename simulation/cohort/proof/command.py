"""``fedkalemia-sim physiology``: check against published studies, measured difficulty, figures."""

from __future__ import annotations

from pathlib import Path

from common.workers import worker_processes
from simulation.cohort.profile import PROFILES
from simulation.cohort.proof.check import check_table, run_check
from simulation.cohort.proof.difficulty import difficulty_table, run_difficulty

TABLES = "physiology.txt"


def physiology(patients: int, seed: int, out: Path | None, workers: int) -> str:
    """Run the check and measure how hard the cohort is, with the monitors of the first built-in site.

    Parameters
    ----------
    patients : patients of the paired study; the other simulated studies are sized by it.
    seed : of everything.
    out : folder for the figures and the tables; None to write nothing.
    workers : processes; they never change a number.

    Returns
    -------
    Both tables as text.
    """
    profile = next(iter(PROFILES.values()))
    with worker_processes(workers) as pool:
        findings = run_check(profile, patients, seed, pool)
        difficulty = run_difficulty(profile, 2 * patients, seed, pool)
    verdicts = [finding.verdict for finding in findings]
    text = "\n\n".join(
        [
            f"Simulated studies beside published ones, monitors of site {profile.name}, seed {seed}",
            check_table(findings),
            f"{verdicts.count('inside')} inside, {verdicts.count('at the edge')} at the edge, "
            f"{verdicts.count('outside')} outside; {verdicts.count('reported')} reported only",
            f"Measured difficulty: case-control cohort of {2 * patients} patients, single features",
            difficulty_table(difficulty),
        ]
    )
    if out is not None:
        from simulation.cohort.proof.figures import draw_all

        draw_all(out, list(PROFILES.values()), seed, findings)
        (out / TABLES).write_text(text + "\n", encoding="utf-8")
    return text

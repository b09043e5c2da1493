"""Simulated studies find what published ones found, measured on the files the monitor wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from common.workers import worker_processes
from simulation.cohort.profile import load_profile
from simulation.cohort.proof import check, studies, targets
from simulation.cohort.proof.check import Finding, check_table, derived, run_check

PATIENTS, SEED = 200, 7  # as on the page of the documentation
#: Half as many as there; still more than the published studies had. One strip per patient needs them all.
FEWER = {"paired": 0.5, "session": 0.25, "severe": 0.5}


@pytest.fixture(scope="module")
def findings() -> list[Finding]:
    with mock.patch.dict(check.SHARES, FEWER), worker_processes(2) as pool:
        return run_check(load_profile("north"), PATIENTS, SEED, pool)


def test_simulated_studies_find_what_published_ones_found(
    findings: list[Finding],
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    """Every quantity with a range is inside it."""
    with capsys.disabled():
        print(f"\n{check_table(findings)}")
    for finding in findings:
        record_property(finding.target.quantity, finding.value)
    asserted = [finding for finding in findings if finding.target.range is not None]
    assert len(asserted) == 14
    assert [finding.key for finding in asserted if finding.verdict != "inside"] == []


def test_within_patients_more_is_seen_than_between_them(findings: list[Finding]) -> None:
    """The reason for personal models: patients differ by more than potassium does."""
    value = {finding.key: finding.value for finding in findings}
    assert value["session_r_within"] > value["session_r"] > value["between_r"] > 0
    assert value["paired_t_high"] > 1.2 * value["paired_t_normal"]
    assert value["paired_pr_high"] > value["paired_pr_normal"]


def test_signs_of_severe_hyperkalemia_are_commoner_than_with_normal_potassium(
    findings: list[Finding],
) -> None:
    value = {finding.key: finding.value for finding in findings}
    for sign in ("wide", "peaked", "pr", "slow"):
        assert value[f"severe_{sign}"] > value[f"normal_{sign}"], sign


def test_ranges_are_those_of_the_published_sample_sizes() -> None:
    """Fisher's z for correlations: .33 in 32 patients is −.02 to .61; standard errors for means."""
    assert targets.correlation(0.333, 32) == pytest.approx((-0.018, 0.611), abs=0.002)
    assert targets.mean(0.27, 0.135, 32) == pytest.approx((0.2232, 0.3168), abs=1e-3)
    assert targets.deviation(0.45, 39) == pytest.approx((0.350, 0.550), abs=1e-3)
    assert targets.ratio(2.7, 2.0, 46, 82) == pytest.approx((1.127, 1.617), abs=2e-3)
    for target in targets.TARGETS.values():
        assert target.range is None or target.range[0] < target.range[1]
        assert target.range is None or target.why


def test_a_study_is_the_same_for_any_number_of_workers() -> None:
    profile = load_profile("north")
    alone = studies.run_study("paired", profile, 3, SEED)
    with worker_processes(2) as pool:
        shared = studies.run_study("paired", profile, 3, SEED, pool)
    for name, values in alone.items():
        np.testing.assert_array_equal(values, shared[name], err_msg=name)


def test_the_summary_of_a_study_is_right_on_numbers_one_can_check() -> None:
    potassium = np.array([[4.5, 6.0], [4.5, 6.5], [4.5, 7.0], [4.5, 7.5]])
    row = np.array([[0.2, 0.3], [0.2, 0.4], [0.2, 0.5], [-0.1, 0.2]])  # the last T is inverted at first
    ones = np.ones_like(row)
    table = derived(
        {
            "potassium": potassium,
            "t_mv": row,
            "r_mv": ones,
            "t_slope": 10 * row,
            "t_base_ms": 200 * ones - 20 * (potassium - 4.5),
            "pr_ms": np.array([[160.0, 180.0], [170.0, 190.0], [np.nan, 200.0], [np.nan, 200.0]]),
            "qt_ms": 400 * ones,
            "rate_bpm": 60 * ones,
        }
    )
    found = check.paired_summary(table)
    assert found["paired_t_normal"] == pytest.approx(0.2)
    assert found["paired_t_high"] == pytest.approx(0.4)
    assert found["paired_t_r"] == pytest.approx(1.0)
    assert found["paired_width_r"] == pytest.approx(-1.0)
    assert (found["paired_pr_normal"], found["paired_pr_high"]) == pytest.approx((165.0, 185.0))
    assert table["qtc_ms"] == pytest.approx(400.0)
    assert table["slope_over_amplitude"] == pytest.approx(10.0)


def test_figures_are_drawn_and_equal_for_equal_seeds(tmp_path: Path, findings: list[Finding]) -> None:
    from simulation.cohort.proof.figures import draw_all

    profiles = [load_profile("north"), load_profile("island")]
    first = draw_all(tmp_path / "a", profiles, SEED, findings)
    second = draw_all(tmp_path / "b", profiles, SEED, findings)
    assert len(first) == 6
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
        assert one.stat().st_size < 1_500_000

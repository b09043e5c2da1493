"""The posterior predictive check: what simulated studies find, beside what published ones found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from common.metrics import auc
from common.seeding import stream
from common.workers import Workers
from simulation.cohort.profile import SiteProfile
from simulation.cohort.proof.studies import Array, Flags, Table, run_study
from simulation.cohort.proof.targets import TARGETS, Target

HIGH = 5.5
GOOD_T_MV = 0.1
GOOD_T_OVER_R = 0.1  # below a tenth of R a T wave is called flat
LINE_AT_ZERO = -0.69  # mEq/L; potassium = 1.21 TS/A − .69 (Severi, Computing in Cardiology)
WIDE_QRS_MS, LONG_PR_MS, SLOW_BPM, PEAKED_MV = 120.0, 200.0, 60.0, 0.5
LONG_QTC_MS = (460.0, 450.0)  # women, men
# Strips per patient differ; these shares of the asked number of patients cost about the same time each.
SHARES = {"paired": 1.0, "session": 0.5, "predialysis": 5.0, "severe": 1.0}
RESAMPLES = 200


Verdict = Literal["inside", "at the edge", "outside", "reported"]


@dataclass(frozen=True)
class Finding:
    """One line of the check.

    Attributes
    ----------
    key, target : which published quantity.
    value : simulated.
    low, high : 95 % interval of ``value``, bootstrap over patients.
    patients : simulated patients with what is needed.
    """

    key: str
    target: Target
    value: float
    low: float
    high: float
    patients: int

    @property
    def verdict(self) -> Verdict:
        """Where the value lies.

        A simulated study is a sample as a published one is: a value outside the range whose own 95 % interval
        reaches into it is at the edge, not outside.
        """
        limits = self.target.range
        if limits is None:
            return "reported"
        if limits[0] <= self.value <= limits[1]:
            return "inside"
        return "at the edge" if self.low <= limits[1] and self.high >= limits[0] else "outside"


def run_check(
    profile: SiteProfile, patients: int, seed: int, workers: Workers | None = None
) -> list[Finding]:
    """Run all simulated studies and compare.

    Parameters
    ----------
    profile : monitors and laboratory.
    patients : pairs of the paired study; the others are sized by ``SHARES``.
    seed : of everything.
    workers : processes, None for this one; the result does not depend on them.

    Returns
    -------
    One finding per target, in their order.
    """
    found: dict[str, Finding] = {}
    for design, summary in SUMMARIES.items():
        table = run_study(design, profile, max(round(patients * SHARES[design]), 4), seed, workers)
        table = derived(table)
        values, n = summary(table), len(table["potassium"])
        rng = stream("proof", "bootstrap", design, seed)
        again = [summary(_rows(table, rng.integers(0, n, n))) for _ in range(RESAMPLES)]
        for name, value in values.items():
            low, high = np.nanquantile([one[name] for one in again], [0.025, 0.975])
            found[name] = Finding(name, TARGETS[name], value, float(low), float(high), n)
    return [found[name] for name in TARGETS]


def derived(table: Table) -> dict[str, Array]:
    """Add ratios, and QTc by Bazett, to the measured quantities."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return dict(table) | {
            "t_over_r": table["t_mv"] / table["r_mv"],
            "slope_over_amplitude": table["t_slope"] / table["t_mv"],
            "qtc_ms": table["qt_ms"] * np.sqrt(table["rate_bpm"] / 60.0),
        }


def paired_summary(table: Table) -> dict[str, float]:
    """Means and correlations of changes; T amplitude and width where T is upright at both visits."""
    t, width, pr = table["t_mv"], table["t_base_ms"], table["pr_ms"]
    change = np.diff(table["potassium"], axis=1)[:, 0]
    upright = (t > 0).all(axis=1)
    wide = upright & np.isfinite(width).all(axis=1)
    timed = np.isfinite(pr).all(axis=1)
    return {
        "paired_t_normal": float(t[upright, 0].mean()),
        "paired_t_high": float(t[upright, 1].mean()),
        "paired_t_r": pearson(change[upright], np.diff(t[upright], axis=1)[:, 0]),
        "paired_pr_normal": float(pr[timed, 0].mean()),
        "paired_pr_high": float(pr[timed, 1].mean()),
        "paired_width_ratio": float(width[wide, 1].mean() / width[wide, 0].mean()),
        "paired_width_r": pearson(change[wide], np.diff(width[wide], axis=1)[:, 0]),
    }


def session_summary(table: Table) -> dict[str, float]:
    """T slope/amplitude against potassium over all strips and inside sessions, and the published estimator.

    That is a line through potassium of −.69 mEq/L at a ratio of zero. Its slope, 1.21, holds in a unit of the
    ratio that is not stated; here the unit is such that the mean error is zero, as in that study.
    """
    x, potassium = table["slope_over_amplitude"], table["potassium"]
    # The published study measured leads with a good T; a flat one has no slope.
    good = (table["t_mv"] >= GOOD_T_MV) & (table["t_over_r"] >= GOOD_T_OVER_R)
    whole = np.isfinite(x).all(axis=1) & good.all(axis=1)
    x, potassium = x[whole], potassium[whole]
    estimate = (potassium.mean() - LINE_AT_ZERO) * x / x.mean() + LINE_AT_ZERO
    error = estimate - potassium
    strips = error.shape[1]
    within = error - error.mean(axis=1, keepdims=True)
    return {
        "session_r": pearson(x.ravel(), potassium.ravel()),
        "session_error": float(error.std()),
        "session_error_within": float(within.std() * np.sqrt(strips / (strips - 1))),
        "session_r_within": float(np.median([pearson(a, b) for a, b in zip(x, potassium, strict=True)])),
    }


def predialysis_summary(table: Table) -> dict[str, float]:
    """One strip per patient: T over R, T amplitude and QTc against potassium."""
    potassium, t_over_r, t = table["potassium"][:, 0], table["t_over_r"][:, 0], table["t_mv"][:, 0]
    measured = np.isfinite(t_over_r) & (table["r_mv"][:, 0] >= 0.1)
    high = potassium > HIGH
    upright = (t > 0) & (table["qrs_ms"][:, 0] < WIDE_QRS_MS)  # that study left out bundle branch block
    qtc, limit = table["qtc_ms"][:, 0], np.where(table["male"][:, 0] > 0, LONG_QTC_MS[1], LONG_QTC_MS[0])
    timed = np.isfinite(qtc)
    return {
        "between_auc": auc(t_over_r[measured], high[measured]),
        "between_r": pearson(t_over_r[measured], potassium[measured]),
        "between_t_ratio": float(t[upright & high].mean() / t[upright & ~high].mean()),
        "qtc_slope": float(np.polyfit(potassium[timed], qtc[timed], 1)[0]),
        "qtc_long": share(qtc >= limit, timed),
    }


def severe_summary(table: Table) -> dict[str, float]:
    """Shares of strips with each sign, % of those in which it can be measured."""
    out: dict[str, float] = {}
    for column, name in enumerate(("normal", "severe")):
        qrs, t, pr, rate = (table[key][:, column] for key in ("qrs_ms", "t_mv", "pr_ms", "rate_bpm"))
        out |= {
            f"{name}_wide": share(qrs > WIDE_QRS_MS, np.isfinite(qrs)),
            f"{name}_peaked": share(t > PEAKED_MV, np.isfinite(qrs)),
            f"{name}_pr": share(pr > LONG_PR_MS, np.isfinite(pr)),
            f"{name}_slow": share(rate < SLOW_BPM, np.isfinite(rate)),
        }
    return out


SUMMARIES: Mapping[str, Callable[[Table], dict[str, float]]] = {
    "paired": paired_summary,
    "session": session_summary,
    "predialysis": predialysis_summary,
    "severe": severe_summary,
}


def pearson(a: Array, b: Array) -> float:
    """Return Pearson's correlation of two (n,) arrays; NaN below three pairs."""
    return float(np.corrcoef(a, b)[0, 1]) if len(a) >= 3 else float("nan")


def share(found: Flags, measured: Flags) -> float:
    """Return the share of ``found`` among ``measured``, %; both bool (n,)."""
    return 100.0 * float((found & measured).sum()) / max(int(measured.sum()), 1)


def check_table(findings: list[Finding]) -> str:
    """Return the table of the check as text: quantity, published, range, simulated with its interval."""
    lines = [f"{'quantity':<74} {'published':<38} {'range':<17} {'simulated (95 %)':<26} verdict"]
    for one in findings:
        digits = 0 if one.target.unit in ("ms", "%") else 2
        limits = one.target.range
        band = f"{limits[0]:.{digits}f} to {limits[1]:.{digits}f}" if limits else "reported only"
        simulated = f"{one.value:.{digits}f} ({one.low:.{digits}f} to {one.high:.{digits}f})"
        unit = f", {one.target.unit}" if one.target.unit else ""
        verdict = "" if one.verdict == "reported" else one.verdict
        name = one.target.quantity + unit
        lines.append(f"{name:<74} {one.target.published:<38} {band:<17} {simulated:<26} {verdict}".rstrip())
    return "\n".join(lines)


def _rows(table: Table, index: npt.NDArray[np.int64]) -> dict[str, Array]:
    return {name: values[index] for name, values in table.items()}

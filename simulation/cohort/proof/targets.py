"""What published studies found, and the range in which the synthetic cohort has to be.

A published number is itself a sample: the range of a quantity is the 95 % interval that the published study's
own size gives it. Correlations: Fisher's z with the published number of patients (of sessions, where strips
of one session are not independent). Means without a published spread: the spread is taken as half the mean
for T amplitude, as the relative variability of QRS between people is .52 (Hoekema 1999), and as 25 ms for PR.
Standard deviations: the normal approximation with one observation per session. Where that cannot be done the
range is an assumption, and says so. Quantities without a range are reported, never asserted.

Source: SCIENCE section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

NORMAL_95 = 1.96
T_VARIATION = 0.5
PR_SD_MS = 25.0
PAIRS, SESSIONS = 32, 39

FISTULA = "32 hemodialysis patients, own ECG 3 to 6 months apart (best ECG criteria for hyperkalemia in HD)"
BETWEEN = "46 hyperkalemic against 82 normokalemic hemodialysis patients (same study)"
SEVERI = "39 hemodialysis sessions of 13 patients, 12 leads (Severi and Corsi, Computing in Cardiology)"
PALMIERI = "29 hemodialysis patients (Palmieri 2021), for another marker of T"
PAPPAL = "736 visits of 89 patients with end-stage renal disease, leads V2 to V4 (Pappal and Rafique)"
PACE = "330 hemodialysis patients, adjusted (Kim 2019, PACE)"
SIGNS = "38 patients above 7 mEq/L (170 with normal potassium in brackets; BMC Emerg Med 2019, 0247)"


@dataclass(frozen=True)
class Target:
    """One published quantity.

    Attributes
    ----------
    quantity, unit : what it is.
    published : the number as published, with what surrounds it.
    range : lowest and highest value the simulation may have; None where it is only reported.
    why : where the range comes from.
    source : the study.
    """

    quantity: str
    unit: str
    published: str
    range: tuple[float, float] | None
    why: str
    source: str


def correlation(r: float, n: int) -> tuple[float, float]:
    """95 % interval of a correlation of ``n`` independent pairs, by Fisher's z."""
    z, error = math.atanh(r), NORMAL_95 / math.sqrt(n - 3)
    return math.tanh(z - error), math.tanh(z + error)


def mean(value: float, sd: float, n: int) -> tuple[float, float]:
    """95 % interval of a mean."""
    error = NORMAL_95 * sd / math.sqrt(n)
    return value - error, value + error


def deviation(value: float, n: int) -> tuple[float, float]:
    """95 % interval of a standard deviation of ``n`` independent observations."""
    error = NORMAL_95 * value / math.sqrt(2 * n)
    return value - error, value + error


def ratio(first: float, second: float, n: int, m: int) -> tuple[float, float]:
    """95 % interval of a ratio of two means with the relative spread of T amplitude, on the log scale."""
    error = NORMAL_95 * T_VARIATION * math.sqrt(1 / n + 1 / m)
    return first / second * math.exp(-error), first / second * math.exp(error)


_T = "spread between people half the mean (assumption), n = 32"
_PR = "spread 25 ms (assumption), n = 32"
_Z = "Fisher's z, n = 32"

TARGETS: Mapping[str, Target] = {
    "paired_t_normal": Target(
        "T amplitude, normal potassium", "mV", "0.27", mean(0.27, T_VARIATION * 0.27, PAIRS), _T, FISTULA
    ),
    "paired_t_high": Target(
        "T amplitude, same patients, high potassium",
        "mV",
        "0.40",
        mean(0.40, T_VARIATION * 0.40, PAIRS),
        _T,
        FISTULA,
    ),
    "paired_t_r": Target(
        "r of change in T amplitude with change in potassium",
        "",
        "0.33",
        correlation(0.333, PAIRS),
        _Z,
        FISTULA,
    ),
    "paired_pr_normal": Target(
        "PR, normal potassium", "ms", "167", mean(167.0, PR_SD_MS, PAIRS), _PR, FISTULA
    ),
    "paired_pr_high": Target(
        "PR, same patients, high potassium", "ms", "188", mean(188.0, PR_SD_MS, PAIRS), _PR, FISTULA
    ),
    "paired_width_ratio": Target(
        "T width, high over normal potassium",
        "",
        "0.51 (2.1 against 4.1, unit unclear)",
        (0.0, 1.0),
        "sign only: how width was read, and in which unit, is not known",
        FISTULA,
    ),
    "paired_width_r": Target(
        "r of change in T width with change in potassium",
        "",
        "−0.43",
        correlation(-0.433, PAIRS),
        _Z,
        FISTULA,
    ),
    "session_r": Target(
        "r of T slope/amplitude with potassium, all strips",
        "",
        "0.63",
        correlation(0.63, SESSIONS),
        "Fisher's z, n = 39 sessions",
        SEVERI,
    ),
    "session_error": Target(
        "error of potassium from T slope/amplitude, SD",
        "mEq/L",
        "0.83",
        deviation(0.83, SESSIONS),
        "39 sessions",
        SEVERI,
    ),
    "session_error_within": Target(
        "the same without each session's mean error, SD",
        "mEq/L",
        "0.45",
        deviation(0.45, SESSIONS),
        "39 sessions",
        SEVERI,
    ),
    "session_r_within": Target(
        "r of T slope/amplitude with potassium inside a session, median",
        "",
        "≥ 0.87 (time-warped T, a better marker)",
        None,
        "another marker",
        PALMIERI,
    ),
    "between_auc": Target(
        "AUC of T/R for potassium above 5.5, between patients",
        "",
        "0.61 to 0.66 (V2 to V4)",
        (0.58, 0.68),
        "assumption: as for V2 to V4, a little wider; in lead II nobody measured it",
        PAPPAL,
    ),
    "between_r": Target(
        "r of T/R with potassium, between patients",
        "",
        "0.17 to 0.23 (V2 to V4)",
        (correlation(0.17, 736)[0], correlation(0.23, 736)[1]),
        "Fisher's z, n = 736; that lead II is like V2 to V4 is an assumption",
        PAPPAL,
    ),
    "between_t_ratio": Target(
        "T amplitude, patients from 5.5 over patients below",
        "",
        "1.35 (2.7 against 2.0 mm)",
        ratio(2.7, 2.0, 46, 82),
        "spread half the mean (assumption), n = 46 and 82",
        BETWEEN,
    ),
    "qtc_slope": Target(
        "QTc (Bazett) per mEq/L of potassium, between patients",
        "ms",
        "−9.9",
        (-18.2, -1.6),
        "published 95 % interval",
        PACE,
    ),
    "qtc_long": Target("QTc at least 460 ms (women), 450 ms (men)", "%", "47", None, "", PACE),
    "severe_wide": Target("QRS above 120 ms, potassium above 7", "%", "31.6 (8.2)", None, "", SIGNS),
    "severe_peaked": Target("T above 0.5 mV, potassium above 7", "%", "18.4 (4.7)", None, "", SIGNS),
    "severe_pr": Target("PR above 200 ms, potassium above 7", "%", "18.4 (7.1)", None, "", SIGNS),
    "severe_slow": Target("rate below 60, potassium above 7", "%", "18.4 (6.5)", None, "", SIGNS),
    "normal_wide": Target("QRS above 120 ms, normal potassium", "%", "8.2", None, "", SIGNS),
    "normal_peaked": Target("T above 0.5 mV, normal potassium", "%", "4.7", None, "", SIGNS),
    "normal_pr": Target("PR above 200 ms, normal potassium", "%", "7.1", None, "", SIGNS),
    "normal_slow": Target("rate below 60, normal potassium", "%", "6.5", None, "", SIGNS),
}

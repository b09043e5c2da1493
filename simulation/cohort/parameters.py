"""The numbers of the synthetic cohort, each with the place it comes from.

Nothing here is fitted to the accuracy of any classifier. "assumption" marks what no source states.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Parameter(NamedTuple):
    """One quantity that differs between patients, days or strips.

    Attributes
    ----------
    value : mean of a normal, median of a log-normal quantity, in ``unit``.
    spread : standard deviation; of the logarithm for log-normal quantities.
    unit : unit of ``value``.
    source : where the number comes from.
    """

    value: float
    spread: float
    unit: str
    source: str

    def normal(self, rng: np.random.Generator) -> float:
        """Draw a normal value."""
        return float(rng.normal(self.value, self.spread))

    def lognormal(self, rng: np.random.Generator) -> float:
        """Draw a log-normal value whose median is ``value``."""
        return float(self.value * np.exp(rng.normal(0.0, self.spread)))

    def factor(self, normal: float) -> float:
        """Multiplicative effect ``exp(spread · normal)`` of a standard normal number."""
        return float(np.exp(self.spread * normal))


_HD = "paired ECG of 32 hemodialysis patients, lead II: T .27 to .40 mV, PR 167 to 188 ms"
_HOEKEMA = "assumption; relative variability of QRS between people .52 (Hoekema 1999)"
_DEMO = "measured on the lab table of the MIMIC-III clinical demo 1.4"

# The beat of a patient at 4.2 mEq/L
R_AMPLITUDE = Parameter(0.80, 0.38, "mV", _HOEKEMA)
T_AMPLITUDE = Parameter(0.24, 0.48, "mV", "normokalemic lead II T of .20 to .27 mV; spread: assumption")
P_AMPLITUDE = Parameter(0.10, 0.35, "mV", "assumption")
Q_AMPLITUDE = Parameter(0.06, 0.60, "mV", "assumption")
S_AMPLITUDE = Parameter(0.15, 0.60, "mV", "assumption")
ST_LEVEL = Parameter(0.0, 0.03, "mV", "assumption")
PR_INTERVAL = Parameter(0.165, 0.022, "s", _HD)
QTC = Parameter(0.425, 0.026, "s", "assumption; Fridericia")
QRS_WIDTH = Parameter(0.0115, 0.12, "s", "assumption; sigma of the R wave")
T_WIDTH = Parameter(0.036, 0.14, "s", "session bias .70 mM of T slope/amplitude over 1.21 (Severi, CinC)")
T_ASYMMETRY = Parameter(1.45, 0.12, "", "assumption; left over right sigma of T")
HEART_RATE = Parameter(86.0, 14.0, "bpm", "assumption")
LVH_R_FACTOR = 1.35
STRAIN_T_FACTOR = -0.45
ECTOPIC_SHARE = Parameter(0.004, 1.2, "", "assumption; ectopic beats, at most a tenth")

# What one mEq/L of potassium does
REFERENCE_POTASSIUM = 4.2
ONSET_POTASSIUM = 5.5
SENSITIVITY_COMMON = Parameter(1.0, 0.45, "", "assumption; what one patient's effects share")
K_T_AMPLITUDE = Parameter(0.28, 0.40, "1/mM", f"{_HD}; r = .33 between change of K and of T")
K_T_WIDTH = Parameter(0.13, 0.30, "1/mM", "T slope/amplitude: 8 (pooled) to 17 % per mM (Severi, CinC)")
K_PR = Parameter(0.012, 0.50, "s/mM", _HD)
K_QRS = Parameter(0.05, 0.50, "1/mM", "width insensitive in dialysis (Bukhari 2022); wide in 32 % above 7")
K_P = Parameter(0.15, 0.50, "1/mM", "assumption; the P wave flattens")
K_QT = Parameter(0.008, 0.0, "s/mM", "QTc -9.9 ms per mM (dialysis, n = 330)")
K_RATE = 2.0  # bpm slower per mM above 5.5: assumption

# What changes from day to day (electrodes) and from strip to strip (posture, autonomic tone)
DAY_R = Parameter(1.0, 0.12, "", "assumption, below the 20 % day-to-day variation of R in V5")
DAY_T = Parameter(1.0, 0.12, "", "assumption, as for R")
DAY_QS = Parameter(1.0, 0.20, "", "assumption")
DAY_P = Parameter(1.0, 0.15, "", "assumption")
STRIP_R = Parameter(1.0, 0.04, "", "6 % minute-to-minute variation of R in V5")
STRIP_P = Parameter(1.0, 0.10, "", "assumption")
STRIP_T = Parameter(1.0, 0.12, "", "assumption; posture")
STRIP_T_WIDTH = Parameter(1.0, 0.07, "", "T slope/amplitude within a session: .45 mM (Severi, CinC)")
STRIP_PR = Parameter(0.0, 0.006, "s", "assumption")
STRIP_QT = Parameter(0.0, 0.010, "s", "assumption")
STRIP_ST = Parameter(0.0, 0.015, "mV", "assumption")
STRIP_RATE = Parameter(0.0, 8.0, "bpm", "assumption")
ISCHEMIA_SHARE = 0.05
ISCHEMIA_T = Parameter(0.0, 0.15, "mV", "assumption; T shift of an ischemic strip")
ISCHEMIA_ST_SHARE = 0.4

# Noise
MUSCLE = Parameter(0.018, 0.50, "mV", "assumption; real ICU strips are as bad or worse")
STRIP_MUSCLE = Parameter(1.0, 0.40, "", "assumption")
WANDER = Parameter(0.06, 0.50, "mV", "assumption; respiration and slow drift before the monitor's filter")
MAINS = Parameter(0.004, 0.60, "mV", "assumption")

# Potassium over time
USUAL_MEAN = Parameter(4.05, 0.50, "mM", _DEMO)
USUAL_SD = 0.39  # within a stay, measured on the demo tables
USUAL_HOURS = 4.0  # relaxation time: "a few hours", from the demo's lag-1 correlation of .59
EPISODE_SD = 0.20  # fluctuation on top of an episode's course: assumption
EPISODE_PEAK_SHAPE = 1.5  # peak = 5.55 + Gamma(1.5, .5): mean 6.3, as the source paper's positive strips
EPISODE_PEAK_SCALE = 0.5
PEAK_DWELL = 0.35  # the mean of a rise lies below its peak: peaks are this much higher, mM: assumption
SESSION_TROUGH = Parameter(3.65, 0.20, "mM", "assumption; after a dialysis session")
SESSION_PEAK = Parameter(6.65, 0.40, "mM", "assumption; label marginals 6.2 (.70) of the source paper")
SESSION_PEAK_RANGE = (6.2, 7.6)  # who peaks lower is dialysed less often: assumption
SESSION_PEAK_SD = 0.35  # from session to session: assumption
HALF_LIFE_H = (2.0, 4.0)  # decay after treatment: assumption

# Laboratory
ASSAY_SD = 0.10  # assumption
HEMOLYSED_SHARE = 0.03  # 3.6 % of emergency potassium specimens are rejected for it
HEMOLYSED_RISE = (0.3, 2.0)  # hemolysed "hyperkalemia" of 5.8 was 3.9 on repeat
WHOLE_BLOOD_DIFFERENCE = Parameter(-0.02, 0.25, "mM", f"{_DEMO}: serum minus whole blood .02, SD .32")
DRAW_INTERVAL_SIGMA = 0.72  # log-normal; intervals 2.7/5.4/8.6/13/23.4 h at 10/25/50/75/90 % in the demo
ABNORMAL_INTERVAL_FACTOR = 0.7  # sooner after an abnormal result: 4 to 8 h
TEXT_RESULT_SHARE = 0.004  # GREATER THAN 10: 1 of 2,535 in the demo; more here so that readers meet it
NO_ADMISSION_SHARE = 0.04  # draws inside the stay without HADM_ID; 19 % of all rows of the demo have none

"""The numbers of the synthetic cohort, each with the place it comes from.

Nothing here is fitted to the accuracy of any classifier. "assumption" marks what no source states.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Parameter(NamedTuple):
    """One quantity that differs between patients or changes over time.

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


_HD = "paired ECG of 32 hemodialysis patients, lead II: T .27 to .40 mV, PR 167 to 188 ms"
_HOEKEMA = "assumption; relative variability of QRS between people .52 (Hoekema 1999)"

# The beat of a patient at 4.2 mEq/L, lead II
R_AMPLITUDE = Parameter(0.80, 0.38, "mV", _HOEKEMA)
T_AMPLITUDE = Parameter(0.24, 0.48, "mV", f"{_HD}, of upright T; spread: assumption")
P_AMPLITUDE = Parameter(0.10, 0.35, "mV", "assumption")
Q_AMPLITUDE = Parameter(0.06, 0.60, "mV", "assumption")
S_AMPLITUDE = Parameter(0.15, 0.60, "mV", "assumption")
U_AMPLITUDE = Parameter(0.010, 0.50, "mV", "assumption; up to a tenth of T at slow rates")
ST_LEVEL = Parameter(0.0, 0.03, "mV", "assumption")
PR_INTERVAL = Parameter(0.165, 0.022, "s", f"{_HD}; spread: assumption")
QTC = Parameter(0.425, 0.026, "s", "assumption; Fridericia")
QRS_WIDTH = Parameter(0.0115, 0.12, "s", "assumption; sigma of the R wave, QRS 90 ms")
P_WIDTH = Parameter(0.021, 0.10, "s", "assumption; sigma of P, which lasts 100 ms")
# The bias of a session, .70 mM over 1.21 = 14 % of T slope/amplitude (Severi, CinC), holds a strip's 7 %.
T_WIDTH = Parameter(0.036, 0.12, "s", "session bias of T slope/amplitude, less a strip's (Severi, CinC)")
T_ASYMMETRY = Parameter(1.45, 0.12, "", "assumption; left over right sigma of T")
HEART_RATE = Parameter(86.0, 14.0, "bpm", "assumption")
ECTOPIC_SHARE = Parameter(0.004, 1.2, "", "assumption; early beats, at most a tenth")
MOST_ECTOPIC_SHARE = 0.1  # assumption
MUSCLE = Parameter(0.018, 0.50, "mV", "assumption; real ICU strips are as bad or worse")

RATE_RANGE, PR_RANGE = (36.0, 150.0), (0.10, 0.42)  # bpm, s; what is left out of the tails: assumption
T_LESS_PER_BPM = 0.004  # T is lower at faster rates: assumption
U_GONE_RATE, U_FADES_OVER = 100.0, 35.0  # bpm at which U is gone, and over which it fades: assumption

# Diseases and drugs: shares and effects are assumptions where no source is named
LVH_SHARE = {True: 0.45, False: 0.15}  # with and without ESRD
STRAIN_SHARE = 0.35  # of LVH
INVERTED_T_SHARE = 0.05  # strain pattern without LVH
BLOCK_SHARE = 0.08  # wide QRS in 8.2 % at normal potassium (BMC Emerg Med 2019)
LEFT_BLOCK_SHARE = 0.45  # of bundle branch blocks
AMIODARONE_SHARE = 0.08
DIGOXIN_SHARE = 0.05
CORONARY_SHARE = 0.35
PERMANENT_SHARE = 0.45  # of patients with atrial fibrillation: always in it
INJURY_SHARE = {"usual": 0.12, "injury": 1.0, "dialysis": 0.0, "personal": 1.0}  # of those without ESRD
ESRD_SHARE = {"usual": 0.0, "injury": 0.0, "dialysis": 1.0, "personal": 0.7}
PERSONAL_YEARS_YOUNGER = 14.0  # the source paper's personal patients: 50 years against 64
LVH_R_FACTOR = 1.35
STRAIN_T_FACTOR = -0.45
STRAIN_ST = -0.06
STRAIN_ASYMMETRY = 1.25  # slow descent, quick return
LEFT_BLOCK_WIDTH = 1.55
LEFT_BLOCK_NOTCH = Parameter(0.78, 0.20, "", "assumption; second summit of R over the first")
LEFT_BLOCK_T, LEFT_BLOCK_ST = -0.10, -0.04  # discordant, over the R wave: assumptions
RIGHT_BLOCK_S_WIDTH = 2.6
RIGHT_BLOCK_S = Parameter(0.30, 0.40, "mV", "assumption; broad slurred S")
AMIODARONE_T = 0.75
AMIODARONE_U = Parameter(0.030, 0.40, "mV", "assumption")
DIGOXIN_ST = Parameter(0.080, 0.35, "mV", "assumption; sagging ST, deepest halfway to T")
DIGOXIN_T = 0.75
QTC_ESRD, QTC_AMIODARONE, QTC_DIGOXIN, QTC_BLOCK = 0.015, 0.035, -0.020, 0.030  # s: assumptions
VENTRICULAR_AMPLITUDE = Parameter(1.15, 0.25, "mV", "assumption; main deflection of a ventricular beat")
VENTRICULAR_WIDTH = 0.0225  # sigma of its first summit, s: QRS about 150 ms; assumption
VENTRICULAR_T = -0.38  # discordant T over main deflection: assumption
VENTRICULAR_ST = -0.08  # assumption
VENTRICULAR_QT = 0.045  # longer than a conducted beat, s: assumption
NEGATIVE_ECTOPIC_SHARE = 0.4  # foci from which lead II sees a downward QRS: assumption
NEGATIVE_PACED_SHARE = 0.8  # the right ventricular apex activates away from lead II: assumption
PACING_SPIKE = Parameter(1.6, 0.50, "mV", "assumption; 2 ms, before the monitor's band")
PACING_SPIKE_S = 0.002
PACED_RATES = (60.0, 70.0, 70.0, 80.0, 90.0)  # programmed lower rates: assumption
FIBRILLATORY_WAVE = 0.55  # over the P wave of sinus rhythm: assumption

# What one mEq/L of potassium does
REFERENCE_POTASSIUM = 4.2
ONSET_POTASSIUM = 5.5
HYPOKALEMIA = 3.5  # below it U shows
HARDLY_SHARE = 0.10  # of patients whose ECG hardly follows potassium: assumption
HARDLY_FACTOR = 0.15  # of the sensitivity of the others: assumption
SENSITIVITY_COMMON = Parameter(1.0, 0.37, "", "assumption; what one patient's effects share")
K_T_AMPLITUDE = Parameter(0.33, 0.36, "1/mM", f"{_HD}, at 4.5 and 6.1 mM; r = .33 between changes")
K_T_WIDTH = Parameter(0.13, 0.27, "1/mM", "T slope/amplitude: 8 (pooled) to 17 % per mM (Severi, CinC)")
K_PR = Parameter(0.0163, 0.50, "s/mM", f"{_HD}, at 4.5 and 6.1 mM")
K_QRS = Parameter(0.05, 0.50, "1/mM", "width insensitive in dialysis (Bukhari 2022)")
K_P = Parameter(0.15, 0.50, "1/mM", "assumption; the P wave flattens")
K_QT = Parameter(0.003, 0.0, "s/mM", "T peak; with the narrower T QTc -9.9 ms per mM (dialysis, n = 330)")
PR_BELOW_ONSET, PR_ABOVE_ONSET = 0.5, 0.8  # shares of K_PR over the whole range, and above the onset
# PR grows no further: 18 % above 200 ms in patients above 7 mM (BMC Emerg Med 2019) leave no room for it.
PR_LAST_POTASSIUM = 6.5
K_RATE = 2.0  # bpm slower per mM above 5.5: assumption
SEVERE_POTASSIUM = 6.5
# Assumptions, chosen with the signs of an emergency department in view (BMC Emerg Med 2019): agreement with
# these two is no evidence. Above 7 mM QRS is wide in 31.6 % and the heart slow in 18.4 %, at normal potassium
# in 8.2 and 6.5 %. First-degree block (18.4 and 7.1 %) and peaked T (18.4 and 4.7 %) were not used, and come
# out too frequent above 7 mM: the paired dialysis ECG, which set PR and T, show stronger effects.
SEVERE_QRS = 2.0  # times K_QRS, per mM squared above 6.5
SEVERE_RATE = 8.0  # bpm slower per mM above 6.5
MOST_SLOWING = 22.0  # bpm; junctional and ventricular escape beats take over: assumption
T_PROPORTIONAL, T_SATURATION = 2.0, 1.5  # mM: T grows in proportion, then saturates: assumption
SINE_POTASSIUM, SINE_RANGE = 7.5, 1.8  # QRS and T begin to merge, and are one wave: assumption
P_LOSS_POTASSIUM, P_LOSS_RANGE = 7.0, 1.4  # P begins to vanish, and is lost: assumption
# The same, as factors of the sine wave at its full size: assumptions
SINE_T_WIDTH, SINE_S_WIDTH, SINE_R_LOSS = 1.2, 0.8, 0.25
SINE_S, SINE_T = 0.55, 0.35  # of R
P_BROADER = 0.12  # per mM above 5.5: assumption
T_SYMMETRY = 0.25  # the tented T is symmetric; per mM above 5.5: assumption
INVERTED_SHARE = 0.6  # of the growth of an upright T by which an inverted one loses depth: assumption
HYPOKALEMIA_U = 0.06  # mV of U per mM below 3.5: assumption
HYPOKALEMIA_ST = -0.025  # mV of ST per mM below 3.5: assumption

# What changes from day to day: electrodes are placed anew each morning
ELECTRODE_HOUR = 6.0  # assumption
DAY_R = Parameter(1.0, 0.12, "", "assumption, below the 20 % day-to-day variation of R in V5")
DAY_T = Parameter(1.0, 0.12, "", "assumption, as for R")
DAY_QS = Parameter(1.0, 0.20, "", "assumption")
DAY_P = Parameter(1.0, 0.15, "", "assumption")

# What changes within hours: posture and autonomic tone, as processes that forget with these time constants
STRIP_R = Parameter(1.0, 0.04, "", "6 % minute-to-minute variation of R in V5")
STRIP_P = Parameter(1.0, 0.10, "", "assumption")
STRIP_T = Parameter(1.0, 0.12, "", "assumption; posture")
STRIP_T_WIDTH = Parameter(1.0, 0.07, "", "T slope/amplitude within a session: .45 mM (Severi, CinC)")
STRIP_PR = Parameter(0.0, 0.006, "s", "assumption")
STRIP_QT = Parameter(0.0, 0.010, "s", "assumption")
STRIP_ST = Parameter(0.0, 0.015, "mV", "assumption")
STRIP_RATE = Parameter(0.0, 8.0, "bpm", "assumption")
POSTURE_MIN = 120.0  # time constant: patients are turned about every two hours; assumption
AUTONOMIC_MIN = 60.0  # time constant of rate, P and PR, QT: assumption
ISCHEMIA_SHARE = 0.05  # of the time of all patients: assumption
ISCHEMIA_T = Parameter(0.0, 0.15, "mV", "assumption; T shift of an ischemic episode")
ISCHEMIA_ST_SHARE = 0.4  # ST shift over T shift: assumption
ISCHEMIA_MIN = Parameter(60.0, 0.9, "min", "assumption; length of an episode, minutes to hours")
ISCHEMIA_RAMP_MIN = 8.0  # an episode comes and goes within this: assumption
PAROXYSM_SHARE = 0.35  # of the time of patients with paroxysmal atrial fibrillation: assumption
PAROXYSM_MIN = Parameter(180.0, 1.0, "min", "assumption; length of a paroxysm")
FIBRILLATION_RATE = 18.0  # bpm faster in a paroxysm: assumption

# Rhythm: no source gives these for intensive care
RESPIRATION_HZ = (0.20, 0.35)  # 12 to 21 breaths a minute
RESPIRATORY_ARRHYTHMIA = (0.008, 0.03)  # small, as in the critically ill: assumption
SLOW_ARRHYTHMIA = 0.012  # oscillation around 0.1 Hz: assumption
BEAT_JITTER = (0.012, 0.006)  # with and without memory: assumption
FIBRILLATION_SPREAD = (0.20, 0.28)  # coefficient of variation of RR: assumption
SHORTEST_RR_S = 0.40  # in fibrillation, but at most 0.65 of the mean interval: assumption
VENTRICULAR_AMONG_ECTOPIC = 1 / 3  # assumption
VENTRICULAR_COUPLING = (0.60, 0.70)  # of the RR interval, but not before 0.42 s: assumption
SHORTEST_COUPLING_S = 0.42
ATRIAL_COUPLING = (0.70, 0.80)  # assumption
ATRIAL_RETURN = (1.00, 1.20)  # less than a full compensatory pause: the sinus node is reset
BREATH_AMPLITUDE = 0.05  # of all amplitudes, with breathing: assumption
QT_LAG_BEATS = (4.0, 75.0)  # QT follows RR partly at once, fully after about two minutes: assumption
QT_FAST_SHARE = 0.3

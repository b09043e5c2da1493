"""The numbers of potassium courses, blood draws and intensive care stays, each with its source.

"demo" are the tables of the MIMIC-III clinical demo 1.4 (100 patients), measured in SCIENCE section 7; a test
compares what comes out with the same tables. "assumption" marks what no source states.
"""

from __future__ import annotations

from simulation.cohort.parameters import Parameter

_DEMO = "demo tables"

# What a reported potassium means, mEq/L: the source paper's labels. Clinicians act on the same limits.
NEGATIVE_FROM, NEGATIVE_TO, POSITIVE_ABOVE = 3.5, 5.0, 5.5

# Potassium over time
USUAL_MEAN = Parameter(
    3.98, 0.38, "mEq/L", f"{_DEMO}: 4.05 (.50) over stays, less what ill stays and few draws per stay add"
)
USUAL_MEAN_RANGE = (3.0, 5.1)  # a mean beyond is treated: assumption
USUAL_SD = Parameter(0.39, 0.25, "mEq/L", f"{_DEMO}: within-stay SD, median .39; spread: assumption")
USUAL_HOURS = 4.0  # relaxation time: "a few hours", from the demo's lag-1 correlation of .59
DRIFT_SD = 0.12  # slow part of the within-stay variation: demo, within-stay SD is larger in longer stays
DRIFT_HOURS = 48.0  # its relaxation time: assumption
TRANSIENT_EVERY_H = 300.0  # short rises in ordinary patients: replacement, transfusion, acidosis: assumption
TRANSIENT_SHARE = 0.03  # of draws outside the unit that meet one: assumption, same share of the time
TRANSIENT_SHAPE, TRANSIENT_SCALE = (
    2.5,
    0.42,
)  # gamma, mean 1.05 mEq/L; demo: 18 of 26 were above 5.5 just once
TRANSIENT_RISE_H = (1.0, 5.0)
EPISODE_SD = 0.20  # fluctuation on top of an episode's course: assumption
LOWEST, HIGHEST = 2.2, 9.5  # mEq/L; what one survives for hours

# Acute kidney injury
INJURY_BASE = Parameter(4.35, 0.35, "mEq/L", "assumption; impaired excretion")
INJURY_BASE_RANGE = (3.6, 4.9)
PEAK_FLOOR = 5.55  # peak = floor + Gamma(1.5, .5): mean 6.3, as the source paper's positive strips
PEAK_SHAPE, PEAK_SCALE = 1.5, 0.5
RISE_H = (12.0, 36.0)  # from baseline to peak: assumption
SUMMIT_SHARE = (0.05, 0.75)  # when, as a share of the stay; many are admitted for it: assumption
HALF_LIFE_H = (2.0, 4.0)  # decay after insulin, beta agonists, resin or dialysis: assumption
REBOUND_SHARE = 0.35  # potassium shifted into cells comes back: assumption
REBOUND_HEIGHT = (0.4, 0.9)  # of the first excess: assumption
REBOUND_AFTER_H = (6.0, 14.0)  # insulin acts for 4 to 6 h: assumption

# Intermittent hemodialysis
SESSION_TROUGH = Parameter(3.65, 0.20, "mEq/L", "assumption; at the end of a session")
SESSION_PEAK = Parameter(6.65, 0.40, "mEq/L", "assumption; source paper: positive strips 6.2 (.70)")
SESSION_PEAK_RANGE = (6.2, 7.6)  # who peaks lower is dialysed less often: assumption
ORDINARY_PEAK = Parameter(5.35, 0.65, "mEq/L", "assumption; predialysis potassium of most is 4.5 to 6")
ORDINARY_PEAK_RANGE = (4.3, 7.2)
SESSION_PEAK_SD = 0.35  # from session to session: assumption
SESSION_TROUGH_SD = 0.15  # from session to session: assumption
SESSION_LEAST_FALL = 0.3  # mEq/L by the end of a session: assumption
SESSION_FALL = ((1.0, 0.45), (2.5, 0.85))  # hours into a session, share of its fall by then: assumption
SESSION_HOURS = 4.0
SESSION_EVERY_H = 48.0
LONG_BREAK_SHARE = 0.2  # sessions after three days instead of two: thrice a week
SESSION_REBOUND = 0.2  # of the fall, after the session: assumption (cells refill plasma)
SESSION_REBOUND_H = 3.0  # within which it comes back: assumption

# When blood is drawn
FIRST_DRAW_H = 6.0  # mean from ICU entry to the first draw; demo: quartiles 2.1, 4.6, 9.0
PACE_SIGMA = 0.30  # log; some patients are drawn more often throughout: assumption
WAIT_SIGMA = 0.80  # log; demo intervals 2.7/5.4/8.6/13/23.4 h at 10/25/50/75/90 %
WAIT_FACTOR = 1.6  # ordered wait over resulting interval at the reference; others with its power
WAIT_EXPONENT = 1.2  # the morning round shortens long waits more than short ones
WAIT_REFERENCE_H = 8.6  # demo: median interval
MORNING_H, MORNING_SD = 2.8, 1.3  # morning round, clock hours; demo: 45 % of ICU draws between 1 and 5
MORNING_SHARE = 0.92  # mornings on which it happens: assumption
AFTER_HIGH = 0.5  # demo: serum again 7.2 h after more than 5.5, 10.9 h after normal values (medians)
AFTER_LOW = 0.75  # demo: 8.5 h after less than 3.5
RECOLLECT_SHARE = 0.7  # surprising hyperkalemia, or no result: blood is drawn again: assumption
RECOLLECT_H = (1.0, 4.0)
RECOLLECT_GAS_SHARE = 0.3  # by blood gas, which is quicker: assumption
BEFORE_SESSION_SHARE = 0.85  # sessions before which blood is drawn, 0.3 to 1.5 h: assumption
BEFORE_SESSION_H = (0.3, 1.5)
AFTER_SESSION_SHARE = 0.6  # after which it is drawn, 1 to 4 h: assumption
AFTER_SESSION_H = (1.0, 4.0)
SHORTEST_WAIT_H = 0.75
ROUNDED_SHARE = 0.5  # specimen times rounded to five minutes; demo: 56 % end in 0 or 5

# What the laboratory reports
HEMOLYSED_RISE = (0.3, 2.0)  # mEq/L; a hemolysed "hyperkalemia" of 5.8 was 3.9 on repeat
HEMOLYSED_SCALE = 0.5  # mostly mild: exponential within the range: assumption
WHOLE_BLOOD_DIFFERENCE = Parameter(-0.02, 0.10, "mEq/L", f"{_DEMO}: core of the differences .15")
# Diluted, from an infusion line, or hemolysed, which nobody sees in whole blood; demo: 7 of 53 pairs by 1
ODD_WHOLE_BLOOD_SHARE, ODD_WHOLE_BLOOD_SD = 0.06, 0.9
TWIN_MINUTES = 12.0  # mean from a serum draw to its blood-gas twin; demo: quartiles 7, 13, 29
BEYOND_SCALE_SHARE = 0.001  # contaminated specimen, GREATER THAN 10; demo: 1 of 2,535
DECOY_SHARE = 0.03  # potassium of another fluid with a draw; demo: 27 of 2,279
REFERENCE_SERUM, REFERENCE_WHOLE = (3.3, 5.3), (3.5, 5.3)  # demo: range of unflagged values

# Outside the unit
CLINIC_SHARE, CLINIC_VISITS = 0.44, 8.0  # demo: patients with clinic results, and their mean number
ELSEWHERE_SD = 0.38  # of one patient, days to months apart; demo: clinic results have an SD of .60 in all
WARD_SHARE = 0.8  # ward mornings with a draw: assumption
EARLIER_SHARE = 0.22  # demo: 129 admissions of 100 patients
EARLIER_DAYS = (3.0, 16.0)

# The stay
STAY_HOURS = Parameter(50.0, 0.98, "h", f"{_DEMO}: 0.8/1.2/2.1/4.3/11 days at 10/25/50/75/90 %")
STAY_RANGE_H = (12.0, 24.0 * 21)
LONGEST_STAY_H = 24.0 * 28
AFTER_LAST_DRAW_H = (4.0, 20.0)  # a long dialysis stay ends so long after the last draw
DIED_SHARE = 0.1  # assumption; of the demo's patients all have died at some time

# What is written in the admission and its discharge codes
CAREVUE_SHARE = 0.43  # stays charted in CareVue, the others in MetaVision; demo: 59 of 136
EMERGENCY_SHARE = 0.92  # demo: 119 of 129 admissions
CODED_SHARE = 0.9  # conditions that are there and coded (assumption)
FORMER_FIBRILLATION_SHARE = 0.15  # coded in patients without atrial fibrillation now (assumption)
INFARCTION_SHARE = 0.3  # of patients with ischemia, coded as infarction (assumption)
NAMED_HYPERKALEMIA_SHARE = 0.45  # hyperkalemia that is coded (assumption)
KIDNEY_HYPERTENSION_SHARE = 0.9  # of patients with ESRD (assumption)
HYPERTENSION_SHARE = 0.37  # demo: 36 of 97 patients without ESRD
DIABETES_SHARE = 0.28  # demo: 28 of 100 patients

# The monitor's day
LATE_SHARE = 1 / 30  # draws right after the monitor was switched on again: assumption
LATE_OFF_S, LATE_LEFT_S = 2400, (60, 240)
BREAK_EVERY_H = 60.0  # mean run of a recording: assumption
BREAK_S = (300, 3600)
LEAD_II_GONE_H = 3.0  # mean length of an absence of lead II: assumption
MOVEMENT_S = 1800.0  # mean length of a noisy episode: assumption
SHARE_SPREAD = 0.35  # of the recorded part of a stay, relative: assumption
MORE_DRAWS = 0.95  # case-control: 1 + Poisson(.95) draws with ECG, mean 1.9 as in the source paper
MOST_DRAWS = 4
DATES_OFF_DAYS = (180, 3650)

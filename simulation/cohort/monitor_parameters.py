"""The numbers of noise and of bedside monitors, each with its source.

"strips" are the real MIMIC bedside strips of s00001, p000878 and 3000003 (125 Hz, 8 bits): lead II and MCL1
hold 6 to 80 µV between .05 and .5 Hz, 4 to 12 µV between 40 and 60 Hz (about what rounding makes at their
gains), and second differences of 11 to 20 µV between QRS complexes where those are not rounded to zero.
"assumption" marks what no source states.
"""

from __future__ import annotations

from simulation.cohort.parameters import Parameter

# Muscle. A patient's own level is ``Patient.muscle_mv``; the same electrical density at every sampling rate.
MUSCLE_FROM_HZ = 20.0  # below, muscle is nearly silent
MUSCLE_WIDTH_HZ = 62.5  # white noise of that level in a record of 125 Hz has the density of muscle above
STRETCH_MUSCLE = Parameter(0.8, 0.40, "", "so that second differences are as in strips; spread: assumption")
TENSION = Parameter(1.0, 0.25, "", "assumption; slow rise and fall within a stretch")
TENSION_S = 12.0  # its relaxation time: assumption
BURST_EVERY_S = 180.0  # a patient who moves a little: assumption
BURST_S = (1.0, 4.0)
BURST_FACTOR = (2.0, 5.0)

# Baseline
BREATHING = Parameter(0.06, 0.70, "mV", "assumption; before the filter; median and range after it: strips")
BREATH_DEPTH = Parameter(1.0, 0.25, "", "assumption; one breath against another")
BREATH_DEPTH_S = 20.0
DRIFT = Parameter(0.07, 0.60, "mV", "assumption; 1/f, before the monitor's filter, see BREATHING")
DRIFT_TIMES_S = (0.3, 1.5, 8.0, 40.0)  # relaxation times whose sum is nearly 1/f from .004 to .5 Hz
JOLT_EVERY_S = 240.0  # an electrode is pulled: assumption
JOLT_S = (0.15, 0.7)
JOLT = Parameter(0.5, 0.60, "mV", "assumption; p000878 moves by 1 mV within a second")
JOLT_OFFSET_MV = 0.3  # by which the half-cell potential differs afterwards: assumption

# Mains
MAINS = Parameter(0.004, 0.60, "mV", "strips: at most 5 µV between 58 and 62 Hz; spread: assumption")
MAINS_DRIFT_HZ = 0.02  # standard deviation of the grid's frequency, as in large grids
MAINS_DRIFT_S = 60.0
MAINS_SWELL = Parameter(1.0, 0.30, "", "assumption; hands and cables move")
MAINS_SWELL_S = 25.0

# A restless patient, over most of a stretch
MOVEMENT_MV = (0.35, 0.9)  # standard deviation, as large as the ECG: assumption
MOVEMENT_BAND_HZ = (1.0, 12.0)
EFFORT = Parameter(1.0, 0.35, "", "assumption; waxing and waning of one movement")
EFFORT_S = 2.0
MOVING_S = (15.0, 60.0)
STILL_S = 8.0  # mean pause between movements

# Electrodes that come off
LEAD_OFF_PER_HOUR = 0.25  # assumption
LEAD_OFF_S = (2.0, 25.0)
LEAD_OFF_FLAT = 0.4  # share in which zero is stored, as for minutes in s00001; else samples are invalid
SETTLING_MV = 4.0  # standard deviation of the offset when it is back: beyond the rails of 8 bits
SETTLING_S = (0.3, 1.2)

# Bedside monitor
AMPLIFIER_MV = 5.0  # input range of the amplifier; wider than that is not stored: assumption
FILL = 0.85  # of the scale, by the ordinary extremes of a signal: assumption
COARSER = 0.3  # records for which the largest gain is not used: assumption; V of s00001 fills a twentieth
OTHER_GAIN = 0.5  # interruptions after which the gain is another one: assumption
INTERRUPTED = 1 / 6  # stretches that are interrupted: assumption; s00001 has 16 segments in a day
PAUSES_S = (0, 1, 5, 40)
TINY = 1 / 8  # stretches that begin with a segment of seconds; a third of the segments of p000878 are such
TINY_S = (1, 16)
SECOND_ECG_SHARE = 0.06  # of records; real ones have two leads mostly, here disk decides
MCL1_SHARE = 0.6  # of records whose other lead is MCL1, else V: assumption
RESPIRATION_SHARE = 0.08  # of records; see above
PLETH_SHARE = 0.05
PLETH_DELAY_S = 0.2  # from R to the foot at the finger: assumption

# Numerics: name, gain, units, usual value, standard deviation. HR and PULSE follow the beats.
NUMERICS = (
    ("HR", 10, "bpm", None, 0.8),
    ("PULSE", 10, "bpm", None, 1.5),
    ("RESP", 10, "pm", 18.0, 3.0),
    ("SpO2", 10, "%", 96.5, 1.2),
    ("NBPSys", 1, "mmHg", 122.0, 12.0),
    ("NBPDias", 1, "mmHg", 62.0, 8.0),
    ("NBPMean", 1, "mmHg", 81.0, 9.0),
)
CUFF_MIN = 15  # a cuff measures every quarter of an hour
PROBE_OFF = 0.02  # minutes without SpO2: assumption

# Records
LEAD_IN_S = (1, 60)  # the record starts before the first stored sample
LEAD_OUT_S = (0, 90)

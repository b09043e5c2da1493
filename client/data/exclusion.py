"""Why a draw or strip is not part of the cohort: fixed codes, and a sentence for the reader of each."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Exclusion(StrEnum):
    """Reason code stored with every excluded draw or strip; the flowchart counts by it.

    The order is the order of the journey: the draw itself, its waveform, the signal, the rhythm.
    """

    # the draw
    IMPLAUSIBLE_VALUE = "implausible_value"
    NO_NUMERIC_VALUE = "no_numeric_value"
    WRONG_UNIT = "wrong_unit"
    HEMOLYZED = "hemolyzed"
    HEMOLYSIS_SUSPECTED = "hemolysis_suspected"
    NOT_IN_STAY = "not_in_stay"
    WHOLE_BLOOD_TWIN = "whole_blood_twin"
    CONFLICTING_DRAWS = "conflicting_draws"
    MERGED_INTO = "merged_into"
    LOW_POTASSIUM = "low_potassium"
    # its waveform
    NO_WAVEFORM = "no_waveform"
    NO_CLINICAL_OVERLAP = "no_clinical_overlap"
    UNREADABLE_SEGMENT = "unreadable_segment"
    LEAD_II_ABSENT = "lead_ii_absent"
    # the signal
    TOO_LITTLE_SIGNAL = "too_little_signal"
    FLAT_LINE = "flat_line"
    CLIPPED = "clipped"
    TOO_FEW_BEATS = "too_few_beats"
    AMPLITUDE_OUT_OF_RANGE = "amplitude_out_of_range"
    HEART_RATE_OUT_OF_RANGE = "heart_rate_out_of_range"
    DETECTORS_DISAGREE = "detectors_disagree"
    BEATS_UNLIKE = "beats_unlike"
    # the rhythm
    ATRIAL_FIBRILLATION = "atrial_fibrillation"


EXCLUSION_TEXT: Mapping[Exclusion, str] = MappingProxyType(
    {
        Exclusion.IMPLAUSIBLE_VALUE: "The value is outside the range a potassium measurement can have.",
        Exclusion.NO_NUMERIC_VALUE: "The laboratory gave a text and no number.",
        Exclusion.WRONG_UNIT: "The unit is neither mEq/L nor mmol/L.",
        Exclusion.HEMOLYZED: "The laboratory says that red cells broke in the specimen.",
        Exclusion.HEMOLYSIS_SUSPECTED: "A rule suspects broken red cells or a contaminated specimen.",
        Exclusion.NOT_IN_STAY: "The draw lies outside every intensive care stay and admission.",
        Exclusion.WHOLE_BLOOD_TWIN: "A serum measurement of the same time is used instead.",
        Exclusion.CONFLICTING_DRAWS: "Draws close in time give different labels.",
        Exclusion.MERGED_INTO: "An earlier draw, close in time and of the same label, is used instead.",
        Exclusion.LOW_POTASSIUM: "The potassium is below the negative range.",
        Exclusion.NO_WAVEFORM: "No ECG was recorded in the window before the draw.",
        Exclusion.NO_CLINICAL_OVERLAP: "The dates of the waveform fit no stay of this patient.",
        Exclusion.UNREADABLE_SEGMENT: "A waveform file of the window is missing or damaged.",
        Exclusion.LEAD_II_ABSENT: "The window was recorded without lead II.",
        Exclusion.TOO_LITTLE_SIGNAL: "Too little of the window holds a signal.",
        Exclusion.FLAT_LINE: "The signal is constant for too much of the window.",
        Exclusion.CLIPPED: "The signal runs into the limits of the recorder.",
        Exclusion.TOO_FEW_BEATS: "Too few beats could be used.",
        Exclusion.AMPLITUDE_OUT_OF_RANGE: "The QRS complexes are too small or too large to be real.",
        Exclusion.HEART_RATE_OUT_OF_RANGE: "The heart rate is too low or too high to be real.",
        Exclusion.DETECTORS_DISAGREE: "Two R-peak detectors find different beats: noise.",
        Exclusion.BEATS_UNLIKE: "The beats do not resemble one another: noise or many ectopic beats.",
        Exclusion.ATRIAL_FIBRILLATION: "The RR intervals are as irregular as in atrial fibrillation.",
    }
)

# The same in a few words, for a box of a figure.
EXCLUSION_SHORT: Mapping[Exclusion, str] = MappingProxyType(
    {
        Exclusion.IMPLAUSIBLE_VALUE: "impossible value",
        Exclusion.NO_NUMERIC_VALUE: "text instead of a number",
        Exclusion.WRONG_UNIT: "another unit",
        Exclusion.HEMOLYZED: "hemolyzed specimen",
        Exclusion.HEMOLYSIS_SUSPECTED: "hemolysis suspected",
        Exclusion.NOT_IN_STAY: "outside every stay",
        Exclusion.WHOLE_BLOOD_TWIN: "twin of a serum measurement",
        Exclusion.CONFLICTING_DRAWS: "close draws that disagree",
        Exclusion.MERGED_INTO: "repeats of an earlier draw",
        Exclusion.LOW_POTASSIUM: "low potassium",
        Exclusion.NO_WAVEFORM: "no ECG recorded",
        Exclusion.NO_CLINICAL_OVERLAP: "waveform dates fit no stay",
        Exclusion.UNREADABLE_SEGMENT: "waveform missing or damaged",
        Exclusion.LEAD_II_ABSENT: "recorded without lead II",
        Exclusion.TOO_LITTLE_SIGNAL: "too little signal",
        Exclusion.FLAT_LINE: "flat line",
        Exclusion.CLIPPED: "clipped signal",
        Exclusion.TOO_FEW_BEATS: "too few beats",
        Exclusion.AMPLITUDE_OUT_OF_RANGE: "amplitude not real",
        Exclusion.HEART_RATE_OUT_OF_RANGE: "heart rate not real",
        Exclusion.DETECTORS_DISAGREE: "noise: R-peak detectors disagree",
        Exclusion.BEATS_UNLIKE: "noise: beats unlike one another",
        Exclusion.ATRIAL_FIBRILLATION: "rhythm as in atrial fibrillation",
    }
)


class BeatRejection(StrEnum):
    """Why a detected beat of a strip is not among its beats; each strip counts them by code."""

    EDGE = "edge"
    STEP = "step"
    AMPLITUDE = "amplitude"
    UNLIKE = "unlike"


BEAT_REJECTION_TEXT: Mapping[BeatRejection, str] = MappingProxyType(
    {
        BeatRejection.EDGE: "Its 120 samples reach over the window or into a gap.",
        BeatRejection.STEP: "The base line jumps inside its 120 samples.",
        BeatRejection.AMPLITUDE: "Its QRS complex is too small or too large to be real.",
        BeatRejection.UNLIKE: "It does not resemble the median beat of the strip.",
    }
)

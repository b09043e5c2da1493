"""Names of figures of merit and methods as a reader sees them, always with their level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class FigureWords:
    """How a figure of merit is named and written.

    Attributes
    ----------
    key : column of ``personalization_rounds``; with ``-`` for ``_`` it is the key on the wire.
    title : name with its level, ``beat`` or ``strip``.
    percent : written as percent, otherwise with decimals.
    digits : decimals.
    """

    key: str
    title: str
    percent: bool
    digits: int

    @property
    def wire(self) -> str:
        """The key on the wire."""
        return self.key.replace("_", "-")

    @property
    def heading(self) -> str:
        """The title at the start of a sentence."""
        return self.title[0].upper() + self.title[1:]


FIGURES: Mapping[str, FigureWords] = MappingProxyType(
    {
        words.key: words
        for words in (
            FigureWords("strip_accuracy", "strip accuracy", True, 0),
            FigureWords("strip_sensitivity", "strip sensitivity", True, 0),
            FigureWords("strip_specificity", "strip specificity", True, 0),
            FigureWords("strip_auc", "strip AUC, by mean logit", False, 3),
            FigureWords("beat_auc", "beat AUC", False, 3),
            FigureWords("beat_f1", "beat F1", False, 3),
            FigureWords("beat_accuracy", "beat accuracy", True, 1),
            FigureWords("beat_sensitivity", "beat sensitivity", True, 1),
            FigureWords("beat_specificity", "beat specificity", True, 1),
            FigureWords("beat_positive_predictivity", "beat positive predictivity", True, 1),
        )
    }
)


@dataclass(frozen=True)
class MethodWords:
    """How a way of fitting the model to a patient is named.

    Attributes
    ----------
    key : value in the database and on the wire.
    title : name at the start of a line; ``noun`` inside a sentence; ``short`` in a narrow column.
    saying : what it does.
    """

    key: str
    title: str
    short: str
    noun: str
    saying: str


METHODS: Mapping[str, MethodWords] = MappingProxyType(
    {
        words.key: words
        for words in (
            MethodWords(
                "generic",
                "Generic model",
                "Generic",
                "the generic model",
                "the same model for everybody, unchanged",
            ),
            MethodWords(
                "threshold",
                "Own threshold",
                "Threshold",
                "the generic model with a threshold per patient",
                "the generic model; only the threshold is the patient's own",
            ),
            MethodWords(
                "closed_form",
                "Closed-form head",
                "Closed-form",
                "the closed-form head",
                "the last layer is solved for the patient; all before it stays generic",
            ),
            MethodWords(
                "fine_tuned",
                "Fine-tuned",
                "Fine-tuned",
                "the fine-tuned model",
                "the last stages are trained on the patient; the first stay generic",
            ),
            MethodWords(
                "selected",
                "Selected model",
                "Selected",
                "the selected personal model",
                "what the guard chose for the patient, from training strips only",
            ),
        )
    }
)


#: Simpler ways on the same strips; the guard never chooses them. Their sums leave a site over the patients
#: of the primary result.
BASELINES: Mapping[str, MethodWords] = MappingProxyType(
    {
        words.key: words
        for words in (
            MethodWords(
                "heart_rate",
                "Heart rate alone",
                "Rate",
                "the heart rate alone",
                "a logistic regression on the strip's heart rate, fitted to the patient; it sees no waveform",
            ),
            MethodWords(
                "t_wave",
                "T-wave features",
                "T wave",
                "the T-wave features",
                "a logistic regression on the T wave's amplitude, right slope, slope over amplitude and "
                "height over R, fitted to the patient; no network",
            ),
            MethodWords(
                "scratch",
                "From scratch",
                "Scratch",
                "the network from scratch",
                "the same network with random weights, trained on the patient alone: what the generic model "
                "was worth",
            ),
        )
    }
)


def headline(task: str) -> FigureWords:
    """Return the figure a task is judged by.

    Ventricular beats are judged by beat F1: their strip accuracy is close to one for every method.
    """
    return FIGURES["beat_f1" if task == "ventricular" else "strip_accuracy"]


#: Reasons for exclusion in a few words, for pages of the server; a site's are in ``client.data.exclusion``.
EXCLUDED: Mapping[str, str] = MappingProxyType(
    {
        "implausible_value": "impossible value",
        "no_numeric_value": "text instead of a number",
        "wrong_unit": "another unit",
        "hemolyzed": "hemolyzed specimen",
        "hemolysis_suspected": "hemolysis suspected",
        "not_in_stay": "outside every stay",
        "whole_blood_twin": "twin of a serum measurement",
        "conflicting_draws": "close draws that disagree",
        "merged_into": "repeats of an earlier draw",
        "low_potassium": "low potassium",
        "no_waveform": "no ECG recorded",
        "no_clinical_overlap": "waveform dates fit no stay",
        "unreadable_segment": "waveform missing or damaged",
        "lead_ii_absent": "recorded without lead II",
        "too_little_signal": "too little signal",
        "flat_line": "flat line",
        "clipped": "clipped signal",
        "too_few_beats": "too few beats",
        "amplitude_out_of_range": "amplitude not real",
        "heart_rate_out_of_range": "heart rate not real",
        "detectors_disagree": "noise: R-peak detectors disagree",
        "beats_unlike": "noise: beats unlike one another",
        "atrial_fibrillation": "rhythm as in atrial fibrillation",
    }
)


def cohort_rule(classes: str, balance: str) -> str:
    """Say which strips the settings ``cohort.classes`` and ``cohort.balance`` choose."""
    who = (
        "each generic patient contributed strips of one label (disjoint classes)"
        if classes == "disjoint"
        else "each generic patient contributed strips of both labels"
    )
    how = (
        "with as many positive as negative strips in each split (balanced)"
        if balance == "strips"
        else "as they occur (not balanced)"
    )
    return f"For training and validation {who}, {how}. Test and personal patients kept all their strips."

"""The tasks: what a model tells apart, in which words, and with which presets.

Tables and code say positive, negative and gap. Texts take their words from here, so that a report on
real ventricular beats never speaks of potassium and the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Label(StrEnum):
    """Label of a strip. ``GAP`` strips keep their beats; they are never trained on or counted."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    GAP = "gap"


@dataclass(frozen=True)
class Task:
    """What a model tells apart, and the words a reader should see for it.

    Attributes
    ----------
    name : key used in settings, tables and on the command line.
    title : short title of reports.
    positive, negative, gap : what a strip of that label is called; ``gap`` is None where there is none.
    short_positive, short_negative : names for axes and narrow columns.
    quantity, unit : the measured quantity behind the label and its unit, None where the label is not a
        measurement.
    rule : one sentence that defines the labels.
    strip_rule : one sentence that defines a strip.
    disclaimer : printed on every report and page.
    presets : overrides of the default settings, by preset name; ``standard`` always exists.
    """

    name: str
    title: str
    positive: str
    negative: str
    gap: str | None
    short_positive: str
    short_negative: str
    quantity: str | None
    unit: str | None
    rule: str
    strip_rule: str
    disclaimer: str
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def word(self, label: Label | str) -> str:
        """Return the word a reader sees for a label."""
        words = {Label.POSITIVE: self.positive, Label.NEGATIVE: self.negative, Label.GAP: self.gap}
        return words[Label(label)] or str(label)


HYPERKALEMIA = Task(
    name="hyperkalemia",
    title="Hyperkalemia from the bedside ECG",
    positive="hyperkalemia",
    negative="normokalemia",
    gap="borderline potassium",
    short_positive="hyper",
    short_negative="normo",
    quantity="potassium",
    unit="mEq/L",
    rule="positive: potassium above 5.5 mEq/L; negative: 3.5 to 5.0 mEq/L; above 5.0 to 5.5 mEq/L: neither",
    strip_rule="the lead II ECG of the 10 minutes before a blood draw",
    disclaimer="Research use, not for clinical decisions.",
    presets={
        "standard": {},
        # The demo: small enough for a laptop, every part real.
        "quick": {
            "model": {"depth": 18, "width": 8, "stem": "small"},
            "training": {"beats_per_strip": 30},
            "federation": {"rounds": 10},
            "personalization": {"beats_per_strip": 40, "depth": "quick"},
        },
        # Chiu 2022 as far as it is stated: ResNet-50, Adam 5e-5, batch 1024, halved after 3 flat epochs.
        "paper": {
            "model": {"depth": 50, "width": 64, "stem": "paper"},
            "training": {
                "beats_per_strip": 200,
                "learning_rate": 5e-5,
                "batch_size": 1024,
                "local_epochs": 1,
            },
            "federation": {"rounds": 50},
        },
    },
)

VENTRICULAR = Task(
    name="ventricular",
    title="Ventricular beats in annotated ECG recordings",
    positive="ventricular beats",
    negative="normal beats",
    gap=None,
    short_positive="ventricular",
    short_negative="normal",
    quantity=None,
    unit=None,
    rule="positive: beats annotated V or E; negative: beats annotated N, L, R, e or j; others left out",
    strip_rule="the beats of one class in one minute of one patient, at least 3",
    disclaimer=(
        "Research use, not for clinical decisions. This run exercises the machinery on real annotated "
        "recordings; its numbers say nothing about potassium."
    ),
    presets={
        "standard": {
            "strip": {"window_s": 60.0, "min_signal_s": 0.0, "min_beats": 3},
            "quality": {"reject": False},
            # Fixed on the patients of fold A (docs/how-to/mitbih.md), never on those of fold B.
            "training": {"beats_per_strip": 20, "learning_rate": 1e-3, "balance": "natural"},
            "model": {"depth": 18, "width": 8, "stem": "small"},
            "federation": {"rounds": 12},
            "cohort": {"split": (1.0, 0.0, 0.0)},
            "personalization": {"gap_s": 60.0, "batch_size": 32, "penalty": 0.001},
            # The recordings are public: nothing has to be hidden from anybody.
            "policy": {"min_training_patients": 1, "min_validation_patients": 1, "min_cell": 1},
        },
    },
)

TASKS: Mapping[str, Task] = {task.name: task for task in (HYPERKALEMIA, VENTRICULAR)}

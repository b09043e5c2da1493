"""Scoring strips: the vote, and figures at beat level and at strip level.

A strip is called positive where more than half of its beats are (a tie is negative). Figures are computed
from logits; a beat is called positive above zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit
from torch import Tensor

from client.learning.dataset import Beats, BeatSource, StripRef, read_strip
from common.metrics import Confusion, PatientLoss, ScoreHistogram, auc, brier
from common.model import ResNet1d
from common.task import Label

Logits = npt.NDArray[np.float32]

#: Beats per forward pass where nothing is learned.
INFERENCE_BATCH = 256

#: Names of the figures of one patient or site, as in ``common.protocol``.
FIGURES = (
    "beat-auc",
    "beat-f1",
    "beat-sensitivity",
    "beat-specificity",
    "beat-positive-predictivity",
    "beat-accuracy",
    "strip-accuracy",
    "strip-sensitivity",
    "strip-specificity",
    "strip-auc",
    "brier",
)

#: Figures of one patient. The Brier score needs more strips than one patient has: it is stored and pooled.
PATIENT_FIGURES = tuple(name for name in FIGURES if name != "brier")


@dataclass(frozen=True, eq=False)
class StripScore:
    """What a model says about one strip.

    Attributes
    ----------
    strip_id, patient_id, label : of the strip.
    logits : float32 (n_beats,), positive speaks for the positive label.
    """

    strip_id: int
    patient_id: int
    label: Label
    logits: Logits

    @property
    def positive(self) -> bool:
        """Whether the strip's label is positive."""
        return self.label == Label.POSITIVE

    @property
    def n_beats(self) -> int:
        """Beats scored."""
        return len(self.logits)

    @property
    def n_positive_beats(self) -> int:
        """Beats called positive."""
        return int(np.count_nonzero(self.logits > 0))

    @property
    def mean_logit(self) -> float:
        """Mean over beats."""
        return float(np.mean(self.logits, dtype=np.float64))

    @property
    def vote(self) -> float:
        """Share of beats called positive."""
        return self.n_positive_beats / self.n_beats

    @property
    def called(self) -> bool:
        """Whether the vote calls the strip positive; a tie does not."""
        return 2 * self.n_positive_beats > self.n_beats

    @property
    def mean_probability(self) -> float:
        """Mean over beats of the probability of the positive label."""
        return float(np.mean(expit(self.logits.astype(np.float64))))


def score_strips(
    model: ResNet1d, strips: Sequence[StripRef], store: BeatSource, beats_per_strip: int = 0
) -> list[StripScore]:
    """Score strips with a model in evaluation mode; strips of any label, in the order given.

    Parameters
    ----------
    beats_per_strip : beats scored of each strip, evenly spread; 0 for all.
    """
    scores: list[StripScore] = []
    group: list[StripRef] = []
    parts: list[Beats] = []

    def flush() -> None:
        if not group:
            return
        logits = infer(model, np.concatenate(parts))
        edges = np.cumsum([len(part) for part in parts])[:-1]
        for strip, own in zip(group, np.split(logits, edges), strict=True):
            scores.append(StripScore(strip.strip_id, strip.patient_id, strip.label, own))
        group.clear()
        parts.clear()

    for strip in strips:
        group.append(strip)
        parts.append(read_strip(store, strip, beats_per_strip))
        if sum(map(len, parts)) >= INFERENCE_BATCH:
            flush()
    flush()
    return scores


def infer(model: ResNet1d, beats: Beats) -> Logits:
    """Return the logit of each beat (n, 120), computed in batches in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        parts: list[Tensor] = [model(part) for part in torch.split(torch.from_numpy(beats), INFERENCE_BATCH)]
    return np.concatenate([part.numpy() for part in parts]) if parts else np.empty(0, np.float32)


def embed(model: ResNet1d, beats: Beats) -> npt.NDArray[np.float32]:
    """Return what the head sees of each beat (n, 120), (n, features), in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        parts: list[Tensor] = [
            model.embed(part) for part in torch.split(torch.from_numpy(beats), INFERENCE_BATCH)
        ]
    return np.concatenate([part.numpy() for part in parts])


def beat_confusion(scores: Sequence[StripScore]) -> Confusion:
    """Count beats called positive or not against the label of their strip; gap strips do not count."""
    logits, positive = _beats(scores)
    return Confusion.of(logits > 0, positive)


def strip_confusion(scores: Sequence[StripScore]) -> Confusion:
    """Count strips by vote against their label; gap strips do not count."""
    kept = _counted(scores)
    return Confusion.of(
        np.array([score.called for score in kept], bool), np.array([score.positive for score in kept], bool)
    )


def histogram(scores: Sequence[StripScore]) -> ScoreHistogram:
    """Count beat logits per label in the bins that may leave the site."""
    return ScoreHistogram.of(*_beats(scores))


def patient_loss(scores: Sequence[StripScore]) -> PatientLoss:
    """Return the sum over patients of the mean beat loss, labels as they occur, nats."""
    logits, positive = _beats(scores)
    kept = _counted(scores)
    patients = np.repeat([score.patient_id for score in kept], [score.n_beats for score in kept])
    if not kept:
        return PatientLoss()
    return PatientLoss.of(np.logaddexp(0.0, np.where(positive, -logits, logits)), patients)


def figures(scores: Sequence[StripScore]) -> dict[str, float]:
    """Return every figure of ``FIGURES``; NaN where a figure does not exist.

    The Brier score is that of the strip's probability, the sigmoid of its mean logit.
    """
    kept = _counted(scores)
    logits, positive = _beats(scores)
    beat, strip = beat_confusion(scores), strip_confusion(scores)
    strip_positive = np.array([score.positive for score in kept], bool)
    mean_logit = np.array([score.mean_logit for score in kept], float)
    return figures_of(
        beat, strip, auc(logits, positive), auc(mean_logit, strip_positive),
        brier(expit(mean_logit), strip_positive),
    )  # fmt: skip


def figures_of(
    beat: Confusion, strip: Confusion, beat_auc: float, strip_auc: float, brier_score: float
) -> dict[str, float]:
    """Name the figures that follow from counts, and those that do not, as in ``FIGURES``."""
    return {
        "beat-auc": beat_auc,
        "beat-f1": beat.f1,
        "beat-sensitivity": beat.sensitivity,
        "beat-specificity": beat.specificity,
        "beat-positive-predictivity": beat.positive_predictivity,
        "beat-accuracy": beat.accuracy,
        "strip-accuracy": strip.accuracy,
        "strip-sensitivity": strip.sensitivity,
        "strip-specificity": strip.specificity,
        "strip-auc": strip_auc,
        "brier": brier_score,
    }


def figures_by_patient(scores: Sequence[StripScore]) -> dict[int, Mapping[str, float]]:
    """Return the figures of every patient; what needs both labels is NaN where one is absent."""
    patients = sorted({score.patient_id for score in scores})
    return {
        patient: figures([score for score in scores if score.patient_id == patient]) for patient in patients
    }


def optional(value: float) -> float | None:
    """Return a figure as a database column holds it: None where it does not exist."""
    return None if math.isnan(value) else value


def _counted(scores: Sequence[StripScore]) -> list[StripScore]:
    return [score for score in scores if score.label != Label.GAP]


def _beats(scores: Sequence[StripScore]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    kept = _counted(scores)
    logits = np.concatenate([np.empty(0, np.float32), *(score.logits for score in kept)])
    positive = np.repeat([score.positive for score in kept], [score.n_beats for score in kept])
    return logits.astype(np.float64), positive.astype(bool)

"""What a patient's strips are to each method: activations, embedding, features, beats; each computed once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from client.learning.dataset import Beats, BeatSource, StripRef, read_strip, spread
from client.learning.evaluation import INFERENCE_BATCH, StripScore, infer
from client.learning.feature_baselines import FeatureModel
from client.learning.personalizers import Head
from client.learning.protocols import T_WAVE
from client.learning.waves import t_wave_features
from common.config import PersonalizationSettings
from common.model import ResNet1d

#: Activations of one patient are kept up to this size; what is beyond is computed again when needed.
CACHE_BYTES = 256 * 1024**2

Embedding = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OnFeatures:
    """A model on the features of a baseline: ``t_wave`` or ``heart_rate``."""

    method: str
    model: FeatureModel


@dataclass(frozen=True)
class Whole:
    """A network that shares no stage with the generic model."""

    network: ResNet1d


#: A head on the generic embedding; a network behind the frozen stages; the baselines.
Fitted = Head | ResNet1d | OnFeatures | Whole


class Activations:
    """What the unchanging stages make of one patient's strips, computed once.

    Parameters
    ----------
    model : the generic model.
    store : where the beats are.
    settings : ``freeze_through`` and ``beats_per_strip``.
    cache_bytes : limit of what is kept.
    """

    def __init__(
        self,
        model: ResNet1d,
        store: BeatSource,
        settings: PersonalizationSettings,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._model, self._store, self._settings = model.eval(), store, settings
        self._left = cache_bytes
        self._hidden: dict[int, Tensor] = {}
        self._embedding: dict[int, Embedding] = {}
        self._features: dict[tuple[str, int], Floats] = {}

    def beats(self, strip: StripRef) -> Beats:
        """Return the beats used of a strip, (n_beats, 120) mV."""
        return read_strip(self._store, strip, self._settings.beats_per_strip)

    def hidden(self, strip: StripRef) -> Tensor:
        """Return the activations behind the last frozen stage, one row per beat."""
        if strip.strip_id in self._hidden:
            return self._hidden[strip.strip_id]
        beats = torch.from_numpy(self.beats(strip))
        # no_grad and not inference_mode: these are trained on.
        with torch.no_grad():
            parts = [
                self._model.prefix(part, self._settings.freeze_through)
                for part in torch.split(beats, INFERENCE_BATCH)
            ]
        hidden = torch.cat(parts)
        size = hidden.numel() * hidden.element_size()
        if size <= self._left:
            self._left -= size
            self._hidden[strip.strip_id] = hidden
        return hidden

    def embedding(self, strip: StripRef) -> Embedding:
        """Return the generic embedding (n_beats, features)."""
        if strip.strip_id not in self._embedding:
            after = self._settings.freeze_through
            with torch.no_grad():
                parts = [
                    self._model.embed(part, after)
                    for part in torch.split(self.hidden(strip), INFERENCE_BATCH)
                ]
            self._embedding[strip.strip_id] = torch.cat(parts).numpy()
        return self._embedding[strip.strip_id]

    def features(self, strip: StripRef, method: str) -> Floats:
        """Return the features of a baseline, (n_beats, k)."""
        if (method, strip.strip_id) not in self._features:
            rate = math.nan if strip.heart_rate_bpm is None else strip.heart_rate_bpm
            if method == T_WAVE:
                found = t_wave_features(self.beats(strip), rate)
            else:  # one number of a strip, the same for each of its beats
                found = np.full((len(spread(strip.n_beats, self._settings.beats_per_strip)), 1), rate)
            self._features[method, strip.strip_id] = found
        return self._features[method, strip.strip_id]

    def apply(self, model: Fitted, strips: Sequence[StripRef]) -> tuple[StripScore, ...]:
        """Score strips with whatever was fitted."""
        if isinstance(model, Head):
            return tuple(_score(strip, model.logits(self.embedding(strip))) for strip in strips)
        if isinstance(model, OnFeatures):
            features = [self.features(strip, model.method) for strip in strips]
            return tuple(_score(s, model.model.logits(own)) for s, own in zip(strips, features, strict=True))
        if isinstance(model, Whole):
            return tuple(_score(strip, infer(model.network, self.beats(strip))) for strip in strips)
        return self.score(model, strips)

    def score(self, model: ResNet1d, strips: Sequence[StripRef]) -> tuple[StripScore, ...]:
        """Score strips with a model that shares the frozen stages."""
        scores: list[StripScore] = []
        for group in self._groups(strips):
            hidden = [self.hidden(strip) for strip in group]
            with torch.inference_mode():
                parts = [
                    model.suffix(part, self._settings.freeze_through)
                    for part in torch.split(torch.cat(hidden), INFERENCE_BATCH)
                ]
            logits = torch.cat(parts).numpy()
            edges = np.cumsum([len(own) for own in hidden])[:-1]
            scores += [_score(strip, own) for strip, own in zip(group, np.split(logits, edges), strict=True)]
        return tuple(scores)

    def _groups(self, strips: Sequence[StripRef]) -> Iterator[list[StripRef]]:
        """Put short strips together, so that a forward pass is not a handful of beats."""
        group: list[StripRef] = []
        beats = 0
        for strip in strips:
            group.append(strip)
            beats += len(spread(strip.n_beats, self._settings.beats_per_strip))
            if beats >= INFERENCE_BATCH:
                yield group
                group, beats = [], 0
        if group:
            yield group


def _score(strip: StripRef, logits: npt.NDArray[np.float32]) -> StripScore:
    return StripScore(strip.strip_id, strip.patient_id, strip.label, logits)

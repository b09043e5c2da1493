"""Personalization of one patient: rounds of one more strip of each label, every method after every round.

The engine sees a model, a plan and beats; no database, no files. Each round restarts from the generic model
and trains on all pairs so far. Before a pair is trained on, the models of the round before are scored on it:
that is all the guard knows. Source: Chiu 2022, Methods (personalized model), with the ``prospective`` rules
of SCIENCE section 9.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from client.learning.dataset import BeatSource, StripRef, read_strip, spread
from client.learning.evaluation import INFERENCE_BATCH, StripScore
from client.learning.guard import METHODS, pair_loss, select
from client.learning.personalizers import Head, Scaling, beat_weights, fine_tune, fit_head, fit_threshold
from client.learning.planning import Plan
from common.config import PersonalizationSettings
from common.model import STAGES, ResNet1d

#: Activations of one patient are kept up to this size; what is beyond is computed again when needed.
CACHE_BYTES = 256 * 1024**2

Embedding = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MethodRound:
    """One method after one personalization round.

    Attributes
    ----------
    round : 0 is the generic model before any personal strip.
    method : generic, threshold, closed_form, fine_tuned or selected.
    chosen : for ``selected``, the method behind it.
    test : scores on the test strips.
    guard : scores on pair ``round + 1``, before it is trained on; empty after the last pair.
    gap : scores on gap strips, for generic and selected after the last round.
    train_beats : beats trained on.
    """

    round: int
    method: str
    test: tuple[StripScore, ...]
    guard: tuple[StripScore, ...] = ()
    gap: tuple[StripScore, ...] = ()
    chosen: str | None = None
    train_beats: int = 0

    @property
    def guard_loss(self) -> float | None:
        """Log loss on the next pair, None after the last."""
        return pair_loss(self.guard) if self.guard else None


@dataclass(frozen=True)
class PersonalResult:
    """What personalization of one patient computed.

    Attributes
    ----------
    rounds : every method after every round, in order.
    selected_method, selected_round : what the guard chose after the last round.
    guard_losses : by method, the loss on each pair the guard knew at the end.
    suffixes : by method, the arrays that make the generic model that of the last round, by name.
    """

    rounds: tuple[MethodRound, ...]
    selected_method: str
    selected_round: int
    guard_losses: Mapping[str, tuple[float, ...]]
    suffixes: Mapping[str, Mapping[str, npt.NDArray[np.float32]]] = field(default_factory=dict)

    def at(self, round_: int, method: str) -> MethodRound:
        """Return one method after one round."""
        return next(entry for entry in self.rounds if (entry.round, entry.method) == (round_, method))


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

    def hidden(self, strip: StripRef) -> Tensor:
        """Return the activations behind the last frozen stage, one row per beat."""
        if strip.strip_id in self._hidden:
            return self._hidden[strip.strip_id]
        beats = torch.from_numpy(read_strip(self._store, strip, self._settings.beats_per_strip))
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

    def score_head(self, head: Head, strips: Sequence[StripRef]) -> tuple[StripScore, ...]:
        """Score strips with a head on the generic embedding."""
        return tuple(_score(strip, head.logits(self.embedding(strip))) for strip in strips)

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


def personalize(
    generic: ResNet1d,
    plan: Plan,
    store: BeatSource,
    settings: PersonalizationSettings,
    scaling: Scaling,
    names: tuple[object, ...],
) -> PersonalResult:
    """Run all rounds and methods for one patient.

    Parameters
    ----------
    generic : is not changed.
    plan : with at least one pair; see ``client.learning.planning``.
    store : where the beats are.
    settings : of personalization.
    scaling : of the generic embedding.
    names : of the patient's random streams, such as ``(seed, "personalize", site, patient)``. The answer
        depends on nothing else: not on order, other patients or threads.
    """
    activations = Activations(generic, store, settings)
    start = Head.of(generic)
    losses: dict[str, list[float]] = {method: [] for method in METHODS}
    entries: list[MethodRound] = []
    models: dict[str, Head | ResNet1d] = {}
    for round_ in range(len(plan.pairs) + 1):
        strips = [strip for pair in plan.pairs[:round_] for strip in pair]
        coming = plan.pairs[round_] if round_ < len(plan.pairs) else ()
        gap = () if coming else plan.gap
        models = _fit(generic, start, strips, activations, settings, scaling, names, round_)
        beats = sum(len(activations.hidden(strip)) for strip in strips)
        results = {
            method: MethodRound(
                round=round_,
                method=method,
                test=_apply(activations, model, plan.test),
                guard=_apply(activations, model, coming),
                train_beats=0 if method == "generic" else beats,
            )
            for method, model in models.items()
        }
        chosen = select(losses, settings.guard_margin, settings.guard_pairs) if round_ else "generic"
        shown = {
            method: _apply(activations, models[method], gap) for method in dict.fromkeys(("generic", chosen))
        }
        for method, result in results.items():
            entries.append(_with_gap(result, shown["generic"] if method == "generic" else ()))
            if round_ and result.guard_loss is not None:
                losses[method].append(result.guard_loss)
        entries.append(_selected(results[chosen], shown[chosen]))
    return PersonalResult(
        rounds=tuple(entries),
        selected_method=entries[-1].chosen or "generic",
        selected_round=len(plan.pairs),
        guard_losses={method: tuple(values) for method, values in losses.items()},
        suffixes={
            method: suffix_of(model, settings) for method, model in models.items() if method != "generic"
        },
    )


def suffix_of(
    model: Head | ResNet1d, settings: PersonalizationSettings
) -> dict[str, npt.NDArray[np.float32]]:
    """Return what a personal model has of its own, by parameter name: its head, or all trained stages."""
    if isinstance(model, Head):
        return {
            "head.weight": model.weight[None].astype(np.float32),
            "head.bias": np.array([model.bias], np.float32),
        }
    frozen = STAGES[: STAGES.index(settings.freeze_through) + 1] if settings.freeze_through != "none" else ()
    return {
        name: parameter.detach().numpy().copy()
        for name, parameter in model.named_parameters()
        if name.split(".")[0] not in frozen
    }


def _fit(
    generic: ResNet1d,
    start: Head,
    strips: Sequence[StripRef],
    activations: Activations,
    settings: PersonalizationSettings,
    scaling: Scaling,
    names: tuple[object, ...],
    round_: int,
) -> dict[str, Head | ResNet1d]:
    """Fit every method to the pairs so far; before the first there is only the generic model."""
    if not strips:
        return {"generic": start}
    hidden = torch.cat([activations.hidden(strip) for strip in strips])
    embedding = np.concatenate([activations.embedding(strip) for strip in strips])
    sizes = [len(activations.embedding(strip)) for strip in strips]
    labels = [strip.positive for strip in strips]
    positive = np.repeat(np.array(labels), sizes)
    weights = beat_weights(sizes, labels, settings.balance)
    offset = fit_threshold(start.logits(embedding), positive, weights)
    after = settings.freeze_through
    return {
        "generic": start,
        "threshold": Head(start.weight, start.bias + offset),
        "closed_form": fit_head(embedding, positive, weights, start, scaling, settings.penalty),
        "fine_tuned": fine_tune(generic, hidden, after, positive, weights, settings, names, round_),
    }


def _apply(
    activations: Activations, model: Head | ResNet1d, strips: Sequence[StripRef]
) -> tuple[StripScore, ...]:
    if isinstance(model, Head):
        return activations.score_head(model, strips)
    return activations.score(model, strips)


def _with_gap(entry: MethodRound, gap: tuple[StripScore, ...]) -> MethodRound:
    return MethodRound(**{**vars(entry), "gap": gap})


def _selected(entry: MethodRound, gap: tuple[StripScore, ...]) -> MethodRound:
    return MethodRound(**{**vars(entry), "method": "selected", "chosen": entry.method, "gap": gap})


def _score(strip: StripRef, logits: npt.NDArray[np.float32]) -> StripScore:
    return StripScore(strip.strip_id, strip.patient_id, strip.label, logits)

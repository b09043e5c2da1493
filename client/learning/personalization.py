"""Personalization of one patient: rounds of one more strip of each label, every method after every round.

The engine sees a model, a plan and strips; no database, no files. Each round trains on all pairs so far, from
the generic model or from the round before. Before a pair is trained on, the models of the round before are
scored on it: that is all the guard knows. Source: Chiu 2022, Methods (personalized model), with the rules of
SCIENCE section 9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from client.learning.activations import Activations, Fitted, OnFeatures, Whole
from client.learning.dataset import StripRef
from client.learning.evaluation import StripScore
from client.learning.feature_baselines import HEART_RATE_RESOLUTION, fit_features
from client.learning.guard import METHODS, pair_loss, select
from client.learning.personalizers import (
    Head,
    Recipe,
    Scaling,
    beat_weights,
    fine_tune,
    fit_head,
    fit_threshold,
)
from client.learning.planning import PROSPECTIVE, Plan
from client.learning.protocols import HEART_RATE, PUBLISHED, SCRATCH, T_WAVE, Procedure
from client.learning.waves import T_WAVE_RESOLUTION
from common.config import PersonalizationSettings
from common.model import CUTS, STAGES, ResNet1d, build_model
from common.seeding import torch_stream

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

#: Differences of a feature below this are none.
SMALLEST: Mapping[str, float | tuple[float, ...]] = {
    T_WAVE: T_WAVE_RESOLUTION,
    HEART_RATE: HEART_RATE_RESOLUTION,
}


@dataclass(frozen=True)
class MethodRound:
    """One method after one personalization round.

    Attributes
    ----------
    round : 0 is the generic model before any personal strip.
    method : as in ``client.learning.protocols``, or selected.
    chosen : for ``selected``, the method behind it.
    test : scores on the test strips.
    guard : scores on pair ``round + 1``, before it is trained on; empty after the last, and for baselines.
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


def personalize(
    generic: ResNet1d,
    plan: Plan,
    activations: Activations,
    settings: PersonalizationSettings,
    procedure: Procedure,
    scaling: Scaling,
    names: tuple[object, ...],
) -> PersonalResult:
    """Run all rounds and methods of one protocol for one patient.

    Parameters
    ----------
    generic : is not changed.
    plan : with at least one pair; see ``client.learning.planning``.
    activations : of the patient's strips, from the same generic model.
    settings : of personalization.
    procedure : the protocol or control, with its methods.
    scaling : of the generic embedding.
    names : of the patient's random streams, such as ``(seed, "personalize", site, patient)``. The answer
        depends on nothing else: not on order, other patients or threads.
    """
    fitting = _Fitting(generic, activations, settings, procedure, scaling, names)
    losses: dict[str, list[float]] = {method: [] for method in METHODS if method in procedure.methods}
    entries: list[MethodRound] = []
    for round_ in range(len(plan.pairs) + 1):
        strips = [strip for pair in plan.pairs[:round_] for strip in pair]
        coming = plan.pairs[round_] if round_ < len(plan.pairs) else ()
        gap = () if coming else plan.gap
        models = fitting.round(strips, round_)
        beats = sum(len(activations.embedding(strip)) for strip in strips)
        results = {
            method: MethodRound(
                round=round_,
                method=method,
                test=activations.apply(model, plan.test),
                guard=activations.apply(model, coming) if method in METHODS else (),
                train_beats=0 if method == "generic" else beats,
            )
            for method, model in models.items()
        }
        chosen = select(losses, settings.guard_margin, settings.guard_pairs) if round_ else "generic"
        shown = {
            method: activations.apply(models[method], gap) for method in dict.fromkeys(("generic", chosen))
        }
        for method, result in results.items():
            entries.append(replace(result, gap=shown["generic"] if method == "generic" else ()))
            if round_ and result.guard_loss is not None:
                losses[method].append(result.guard_loss)
        entries.append(replace(results[chosen], method="selected", chosen=chosen, gap=shown[chosen]))
    return PersonalResult(
        rounds=tuple(entries),
        selected_method=entries[-1].chosen or "generic",
        selected_round=len(plan.pairs),
        guard_losses={method: tuple(values) for method, values in losses.items()},
        suffixes=fitting.suffixes() if procedure.keeps else {},
    )


class _Fitting:
    """The methods of one procedure, fitted round by round."""

    def __init__(
        self,
        generic: ResNet1d,
        activations: Activations,
        settings: PersonalizationSettings,
        procedure: Procedure,
        scaling: Scaling,
        names: tuple[object, ...],
    ) -> None:
        self._generic, self._activations, self._settings = generic, activations, settings
        self._procedure, self._scaling, self._names = procedure, scaling, names
        self._start = Head.of(generic)
        self._models: dict[str, Fitted] = {}

    def round(self, strips: Sequence[StripRef], round_: int) -> dict[str, Fitted]:
        """Fit every method to the pairs so far; before the first there is only the generic model."""
        if not strips:
            self._models = {"generic": self._start}
            return self._models
        sizes = [len(self._activations.embedding(strip)) for strip in strips]
        labels = [strip.positive for strip in strips]
        positive = np.repeat(np.array(labels), sizes)
        weights = beat_weights(sizes, labels, self._settings.balance)
        self._models = {
            method: self._fit(method, strips, positive, weights, round_) for method in self._procedure.methods
        }
        return self._models

    def _fit(
        self, method: str, strips: Sequence[StripRef], positive: Flags, weights: Floats, round_: int
    ) -> Fitted:
        if method == "generic":
            return self._start
        if method in ("threshold", "closed_form"):
            embedding = np.concatenate([self._activations.embedding(strip) for strip in strips])
            if method == "threshold":
                offset = fit_threshold(self._start.logits(embedding), positive, weights)
                return Head(self._start.weight, self._start.bias + offset)
            penalty = self._settings.penalty
            return fit_head(embedding, positive, weights, self._start, self._scaling, penalty)
        if method in (T_WAVE, HEART_RATE):
            features = np.concatenate([self._activations.features(strip, method) for strip in strips])
            penalty, least = self._settings.feature_penalty, SMALLEST[method]
            return OnFeatures(method, fit_features(features, positive, weights, penalty, least))
        if method == SCRATCH:
            return Whole(self._train_from_scratch(strips, positive, weights, round_))
        published = self._procedure.published
        recipe = published if method == PUBLISHED and published is not None else self._procedure.recipe
        before = self._models.get(method)
        goes_on = recipe.start == "continue" and isinstance(before, ResNet1d)
        hidden = torch.cat([self._activations.hidden(strip) for strip in strips])
        start = before if goes_on and isinstance(before, ResNet1d) else self._generic
        after = recipe.freeze_through
        return fine_tune(start, hidden, after, positive, weights, recipe, self._streams(method), round_)

    def _streams(self, method: str) -> tuple[object, ...]:
        """Name the random streams of a method; what the report answers by has the patient's alone."""
        more = [name for name in (self._procedure.name, method) if name not in (PROSPECTIVE, "fine_tuned")]
        return (*self._names, *more)

    def _train_from_scratch(
        self, strips: Sequence[StripRef], positive: Flags, weights: Floats, round_: int
    ) -> ResNet1d:
        """Train a network of the generic model's form that never saw another patient."""
        names = self._streams(SCRATCH)
        network = build_model(self._generic.settings, torch_stream(*names, "weights"))
        beats = torch.from_numpy(np.concatenate([self._activations.beats(strip) for strip in strips]))
        recipe = self._procedure.recipe.from_scratch()
        return fine_tune(network, beats, "none", positive, weights, recipe, names, round_)

    def suffixes(self) -> dict[str, dict[str, npt.NDArray[np.float32]]]:
        """Return what each personal model has of its own, by method and parameter name."""
        return {
            method: suffix_of(model, self._procedure.recipe)
            for method, model in self._models.items()
            if method in METHODS and method != "generic" and isinstance(model, Head | ResNet1d)
        }


def suffix_of(model: Head | ResNet1d, recipe: Recipe) -> dict[str, npt.NDArray[np.float32]]:
    """Return what a personal model has of its own, by name: its head, or the trained stages.

    Statistics of batch normalization are among them where they were trained.
    """
    if isinstance(model, Head):
        return {
            "head.weight": model.weight[None].astype(np.float32),
            "head.bias": np.array([model.bias], np.float32),
        }
    frozen = STAGES[: CUTS.index(recipe.freeze_through)]
    arrays: dict[str, Tensor] = dict(model.named_parameters())
    if recipe.statistics == "trained":
        arrays |= {name: values for name, values in model.named_buffers() if values.is_floating_point()}
    return {
        name: values.detach().numpy().copy()
        for name, values in arrays.items()
        if name.split(".")[0] not in frozen
    }

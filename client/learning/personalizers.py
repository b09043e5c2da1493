"""Three ways to fit the generic model to one patient, from simple to complex.

``threshold`` moves the offset of the logit. ``closed_form`` moves the head, by ridge regression on the
generic embedding, starting from the generic head. ``fine_tuned`` trains the last stages, as the paper does.
Each answers a change of the model's suffix; the stages before it never change.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from client.learning.training import batches
from common.config import PersonalizationSettings
from common.model import ResNet1d, freeze, frozen_statistics, replace_head
from common.seeding import stream, torch_stream

Floats: TypeAlias = npt.NDArray[np.float64]

#: The threshold moves the logit by at most this; only a single label would ask for more.
MAX_OFFSET = 20.0
BISECTIONS = 60

#: The closed-form head pulls the logits of a training beat to at least this, on the side of its label.
TARGET_LOGIT = 3.0

#: Features that hardly vary among generic beats are not blown up.
SMALLEST_SCALE = 1e-3


@dataclass(frozen=True)
class Head:
    """A linear head on the raw embedding: logit = embedding @ weight + bias."""

    weight: Floats
    bias: float

    @classmethod
    def of(cls, model: ResNet1d) -> Head:
        """Copy a model's head."""
        weight = model.head.weight.detach().numpy()[0].astype(np.float64)
        return cls(weight, float(model.head.bias.detach()[0]))

    def logits(self, embedding: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Return float32 (n,) for an embedding (n, features)."""
        return (embedding.astype(np.float64) @ self.weight + self.bias).astype(np.float32)


@dataclass(frozen=True)
class Recipe:
    """How stages are trained on one patient's beats.

    Attributes
    ----------
    freeze_through : last frozen stage.
    epochs, learning_rate, batch_size : of Adam.
    head : ``new`` for a fresh random one, drawn once; ``kept``.
    start : ``restart`` each round from the generic model, or ``continue`` from the round before.
    statistics : batch-norm statistics of the trained stages: ``frozen`` or ``trained``.
    """

    freeze_through: str
    epochs: int
    learning_rate: float
    batch_size: int
    head: str
    start: str
    statistics: str

    @classmethod
    def of(cls, settings: PersonalizationSettings, start: str, statistics: str) -> Recipe:
        """Take everything else from the settings."""
        return cls(
            freeze_through=settings.freeze_through,
            epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            batch_size=settings.batch_size,
            head=settings.head,
            start=start,
            statistics=statistics,
        )

    def at(self, learning_rate: float, batch_size: int) -> Recipe:
        """Return the same with another rate and batch."""
        return replace(self, learning_rate=learning_rate, batch_size=batch_size)

    def from_scratch(self) -> Recipe:
        """Return the same for a whole network that knows nothing yet."""
        return replace(self, freeze_through="none", head="kept", start="restart", statistics="trained")


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation of the embedding over generic training beats.

    Attributes
    ----------
    mean, scale : (features,)
    """

    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, embedding: npt.NDArray[np.floating]) -> Scaling:
        """Measure an embedding (n, features); of no beats at all, mean 0 and scale 1."""
        if not len(embedding):
            return cls(np.zeros(embedding.shape[1]), np.ones(embedding.shape[1]))
        values = embedding.astype(np.float64)
        return cls(values.mean(0), np.maximum(values.std(0), SMALLEST_SCALE))

    def apply(self, embedding: npt.NDArray[np.floating]) -> Floats:
        """Standardize (n, features)."""
        standardized: Floats = (embedding.astype(np.float64) - self.mean) / self.scale
        return standardized


def beat_weights(sizes: Sequence[int], positive: Sequence[bool], balance: str) -> Floats:
    """Return the weight of every beat of some strips; weights sum to the number of strips.

    Parameters
    ----------
    sizes : beats of each strip.
    positive : label of each strip.
    balance : ``labels``: each strip of a label weighs the same, and both labels weigh the same in all.
        ``natural``: every beat weighs the same.
    """
    counts, labels = np.asarray(sizes), np.asarray(positive, bool)
    if balance == "natural":
        weights = np.ones(counts.sum())
    else:
        share = np.where(labels, 0.5 / max(labels.sum(), 1), 0.5 / max((~labels).sum(), 1))
        weights = np.repeat(share / counts, counts)
    scaled: Floats = weights * (len(counts) / weights.sum())
    return scaled


def fit_threshold(
    logits: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_], weights: Floats
) -> float:
    """Return the offset of the logit with the least weighted log loss; the slope stays.

    The loss is convex in the offset and, with both labels, has one minimum: bisection on its slope finds it.

    Parameters
    ----------
    logits, positive, weights : (n,), one per beat.
    """
    values, target = np.asarray(logits, np.float64), np.asarray(positive, bool)
    low, high = -MAX_OFFSET, MAX_OFFSET
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if weights @ (expit(values + middle) - target) > 0:
            high = middle
        else:
            low = middle
    return (low + high) / 2


def fit_head(
    embedding: npt.NDArray[np.floating],
    positive: npt.NDArray[np.bool_],
    weights: Floats,
    generic: Head,
    scaling: Scaling,
    penalty: float,
) -> Head:
    """Solve for the head that fits a patient's beats and stays close to the generic head.

    Weighted ridge regression of what is missing to the target logit on the standardized embedding. The
    penalty is on the change of the head, so an infinite one answers the generic head; a penalty of one
    weighs as much as one strip.

    Parameters
    ----------
    embedding : (n, features), generic.
    positive, weights : (n,); weights sum to the number of strips.
    generic : the generic head.
    scaling : of the generic embedding.
    penalty : above zero.
    """
    features = embedding.shape[1]
    z = np.column_stack([scaling.apply(embedding) / np.sqrt(features), np.ones(len(embedding))])
    now = embedding.astype(np.float64) @ generic.weight + generic.bias
    # What is already right by more than the target is left alone.
    target = np.where(positive, np.maximum(now, TARGET_LOGIT), np.minimum(now, -TARGET_LOGIT))
    weighted = z * weights[:, None]
    change = np.linalg.solve(weighted.T @ z + penalty * np.eye(features + 1), weighted.T @ (target - now))
    moved = change[:-1] / np.sqrt(features) / scaling.scale
    return Head(generic.weight + moved, float(generic.bias + change[-1] - scaling.mean @ moved))


def fine_tune(
    start: ResNet1d,
    inputs: Tensor,
    after: str,
    positive: npt.NDArray[np.bool_],
    weights: Floats,
    recipe: Recipe,
    names: tuple[object, ...],
    round_: int,
) -> ResNet1d:
    """Train the stages behind ``freeze_through`` on one patient.

    Parameters
    ----------
    start : the generic model, or that of the round before; it is not changed.
    inputs : activations behind stage ``after``, one row per beat.
    after : ``freeze_through``, or an earlier stage (``none`` for beats): the same weights either way, only
        slower.
    positive, weights : (n,), one per beat.
    recipe : freezing, head, statistics, epochs, rate, batch.
    names : of the patient's random streams.
    round_ : the personalization round; a fresh head is the same in every round that restarts, the order of
        beats is not. A model that continues keeps the head it drew in its first round.

    Returns
    -------
    ResNet1d in evaluation mode.
    """
    model = deepcopy(start)
    freeze(model, recipe.freeze_through)
    if recipe.head == "new" and (recipe.start == "restart" or round_ == 1):
        replace_head(model, torch_stream(*names, "head"))
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=recipe.learning_rate, fused=True)
    target = torch.from_numpy(np.asarray(positive, np.float32))
    share = torch.from_numpy((weights / weights.mean()).astype(np.float32))
    with frozen_statistics(model) if recipe.statistics == "frozen" else nullcontext():
        model.train()
        for epoch in range(recipe.epochs):
            order = stream(*names, "order", round_, epoch).permutation(len(target))
            for batch in batches(order, recipe.batch_size):
                rows = torch.from_numpy(batch)
                optimizer.zero_grad()
                losses = binary_cross_entropy_with_logits(
                    model.suffix(inputs[rows], after), target[rows], reduction="none"
                )
                (losses * share[rows]).mean().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return model.eval()

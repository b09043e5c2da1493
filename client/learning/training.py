"""Local training of the generic model at one site.

One call is what a site does in one federated round: a few epochs of Adam from the weights it received. The
optimizer starts anew each time, so a site keeps no state between rounds, and every random choice comes from
a named stream: the same weights, strips and names give the same weights, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from client.learning.dataset import BeatSource, Rows, StripRef, check_both_labels, draw_rows, labelled
from common.config import TrainingSettings
from common.errors import ModelError
from common.model import ResNet1d
from common.seeding import stream
from common.weights import pack


@dataclass(frozen=True)
class TrainingOutcome:
    """Sums over the last epoch, and how far the weights moved.

    Attributes
    ----------
    loss_total : sum over beats of the beat's loss, as weighted in training, nats.
    beats, strips, patients : what an epoch saw.
    update_norm : Euclidean length of the change of the trainable weights.
    """

    loss_total: float
    beats: int
    strips: int
    patients: int
    update_norm: float


def train_generic(
    model: ResNet1d,
    strips: Sequence[StripRef],
    store: BeatSource,
    training: TrainingSettings,
    names: tuple[object, ...],
) -> TrainingOutcome:
    """Train a model in place on a site's training strips.

    Parameters
    ----------
    model : holds the weights to start from; ends in evaluation mode with the trained ones.
    strips : of the training patients; gap strips are left aside.
    store : where their beats are.
    training : rate, batch, epochs, beats per strip, balance.
    names : of the random stream, such as ``(seed, "train", site, round)``; the epoch is appended.

    Raises
    ------
    CohortError
        If one of the labels is absent.
    ModelError
        If the loss is no longer finite.
    """
    strips = labelled(strips)
    check_both_labels(strips, "training strips of this site")
    positive = np.array([strip.positive for strip in strips])
    before = pack(model).trainable
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
    )
    model.train()
    for epoch in range(training.local_epochs):
        generator = stream(*names, epoch)
        rows, owner = draw_rows(strips, training.beats_per_strip, generator)
        weights = beat_weights(strips, owner, training.balance)
        loss_total = 0.0
        for batch in batches(generator.permutation(len(rows)), training.batch_size):
            target = torch.from_numpy(positive[owner[batch]].astype(np.float32))
            optimizer.zero_grad()
            logits = model(torch.from_numpy(np.array(store.gather(rows[batch]), dtype=np.float32)))
            losses = binary_cross_entropy_with_logits(logits, target, reduction="none")
            total = (losses * torch.from_numpy(weights[batch])).sum()
            (total / len(batch)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss_total += float(total.detach())
    model.eval()
    if not np.isfinite(loss_total):
        raise ModelError(
            f"local training diverged at learning rate {training.learning_rate:g}; use a lower one"
        )
    change = pack(model).trainable.astype(np.float64) - before
    patients = len({strip.patient_id for strip in strips})
    return TrainingOutcome(loss_total, len(rows), len(strips), patients, float(np.linalg.norm(change)))


def beat_weights(strips: Sequence[StripRef], owner: Rows, balance: str) -> npt.NDArray[np.float32]:
    """Return the weight of every drawn beat in the loss; the mean is one.

    Parameters
    ----------
    strips : the strips drawn from.
    owner : (n_drawn,) index into ``strips``.
    balance : ``strips``: both labels weigh the same in all, each drawn beat of a label as much as the next.
        ``natural``: a drawn beat stands for the beats of its strip it was drawn from, so the labels weigh as
        often as they occur whatever number is drawn.
    """
    if balance == "strips":
        positive = np.array([strip.positive for strip in strips])[owner]
        share = positive.mean()
        weights = np.where(positive, 0.5 / share, 0.5 / (1 - share))
    else:
        drawn = np.bincount(owner, minlength=len(strips))
        weights = (np.array([strip.n_beats for strip in strips]) / np.maximum(drawn, 1))[owner]
        weights = weights / weights.mean()
    result: npt.NDArray[np.float32] = weights.astype(np.float32)
    return result


def batches(order: Rows, size: int) -> Iterator[Rows]:
    """Cut an order into batches; a last one of less than half the size joins the one before.

    A handful of beats would give batch normalization statistics of nothing.
    """
    count = max(1, round(len(order) / size))
    edges = [size * i for i in range(count)] + [len(order)]
    for start, end in pairwise(edges):
        yield order[start:end]

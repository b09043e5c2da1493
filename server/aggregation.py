"""Folding the sites' answers into the next global model.

Federated averaging (McMahan 2017) is a mean of the sites' weights, weighted by how much each trained. Answers
are added one by one, in the order of site names and in float64, so memory does not grow with the number of
sites and the result does not depend on who answered first.

The rule that turns the mean into the next global model is one of Flower's strategies. All strategies that
work on a mean (FedAvg, FedProx, FedAdam, FedYogi, FedAdagrad, FedAvgM) get it as one synthetic answer; for
FedAvg the mean is the result, bit for bit. Only the trainable vector goes through the strategy: running means
and variances of batch normalization are averaged and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, Strategy

from common.errors import FederationError
from common.weights import Weights

_COUNT = "num-examples"  # the key Flower's strategies weigh answers by


class WeightedMean:
    """A running mean of weights.

    A site weighs as many beats as it trained on: a beat drawn counts the same wherever it was recorded.
    """

    def __init__(self) -> None:
        self._trainable: npt.NDArray[np.float64] | None = None
        self._statistics: npt.NDArray[np.float64] | None = None
        self.weight = 0.0

    def add(self, weights: Weights, weight: float) -> None:
        """Add one site's weights; ``weight`` is positive, sizes and values were checked before."""
        if self._trainable is None or self._statistics is None:
            self._trainable = np.zeros(weights.trainable.size)
            self._statistics = np.zeros(weights.statistics.size)
        self._trainable += weights.trainable * np.float64(weight)
        self._statistics += weights.statistics * np.float64(weight)
        self.weight += weight

    def mean(self) -> Weights | None:
        """Return the mean as float32, or None if nothing was added."""
        if self._trainable is None or self._statistics is None:
            return None
        return Weights(
            (self._trainable / self.weight).astype(np.float32),
            (self._statistics / self.weight).astype(np.float32),
        )


def next_weights(number: int, mean: Weights, strategy: Strategy | None = None) -> Weights:
    """Let a Flower strategy turn the mean of federated round ``number`` into the next global weights."""
    strategy = strategy or FedAvg()
    arrays = ArrayRecord({"trainable": Array(mean.trainable)})
    answer = _Answer(RecordDict({"arrays": arrays, "metrics": MetricRecord({_COUNT: 1.0})}))
    with _quiet():
        result, _ = strategy.aggregate_train(number, [cast(Message, answer)])
    if result is None:
        raise FederationError(f"federated round {number}: the aggregation rule returned no weights")
    return Weights(np.asarray(result["trainable"].numpy(), dtype=np.float32), mean.statistics)


@dataclass
class _Answer:
    """What a strategy reads of a message. A real one can only be made inside a running Flower task."""

    content: RecordDict

    def has_error(self) -> bool:
        return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the strategy from logging "1 results": that is the mean, not the number of sites."""
    logger = logging.getLogger("flwr")

    def hide(record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO

    logger.addFilter(hide)
    try:
        yield
    finally:
        logger.removeFilter(hide)

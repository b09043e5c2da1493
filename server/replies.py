"""The answers to one message of a federated round, folded as they come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import RecordDict

from common import protocol
from common.errors import ModelError
from common.weights import WeightSchema
from server.aggregation import WeightedMean
from server.schedule import Evaluation
from server.state import Round


class Replies:
    """Mean of the weights, sums of the metrics, and who failed.

    Parameters
    ----------
    schema : what the weights of a usable answer look like.

    Attributes
    ----------
    mean : of the weights of all sites that trained.
    trained, answered : names of sites.
    failures : code by site.
    """

    def __init__(self, schema: WeightSchema) -> None:
        self._schema = schema
        self.mean = WeightedMean()
        self.trained: list[str] = []
        self.answered: list[str] = []
        self.failures: dict[str, str] = {}
        self._sums: dict[str, float] = {}
        self._validating: list[str] = []

    def add(self, site: str, content: RecordDict | None, failure: str | None, *, trains: bool) -> None:
        """Fold one answer; an unusable one is a failure of its site and of nobody else."""
        if content is None:
            self.failures[site] = failure or "site_error"
            return
        metrics = protocol.sums(content)
        if metrics.get("validation-patients", 0) > 0 and "validation-loss-total" not in metrics:
            self.failures[site] = "bad_reply"
            return
        if "weights" in content:
            beats = metrics.get("train-beats", 0)
            if not trains or beats <= 0 or "train-loss-total" not in metrics:
                self.failures[site] = "bad_reply"
                return
            try:
                weights = protocol.read_weights(content)
                self._schema.check(weights)
            except (ModelError, ValueError):
                self.failures[site] = "bad_weights"
                return
            self.mean.add(weights, beats)
            self.trained.append(site)
            self._add_sums(metrics, "train-")
        if metrics.get("validation-patients", 0) > 0:
            self._validating.append(site)
            self._add_sums(metrics, "validation-")
        self.answered.append(site)

    def _add_sums(self, metrics: Mapping[str, Any], prefix: str) -> None:
        for key, value in metrics.items():
            if key.startswith(prefix):
                self._sums[key] = self._sums.get(key, 0) + value

    def sentences(self) -> dict[str, str]:
        """Return the sentence of each failed site."""
        return sentences_of(self.failures)

    def evaluation(self, number: int) -> Evaluation:
        """Return the validation of the weights that were sent."""
        return Evaluation(
            round=number,
            loss_total=float(self._sums.get("validation-loss-total", 0.0)),
            patients=int(self._sums.get("validation-patients", 0)),
            beats=int(self._sums.get("validation-beats", 0)),
            sites=tuple(self._validating),
        )

    def summary(self, number: int, rate: float, asked: tuple[str, ...]) -> Round:
        """Return what the history keeps."""
        beats = int(self._sums.get("train-beats", 0))
        return Round(
            round=number,
            learning_rate=rate,
            asked=asked,
            trained=tuple(self.trained),
            answered=tuple(self.answered),
            failures=dict(self.failures),
            train_loss=self._sums.get("train-loss-total", 0.0) / beats if beats else None,
            train_patients=int(self._sums.get("train-patients", 0)),
            train_strips=int(self._sums.get("train-strips", 0)),
            train_beats=beats,
        )

    def sentence(self, sites: int) -> str:
        """Return how the round stands, for whoever watches."""
        evaluation = self.evaluation(0)
        answered = f"{len(self.answered)} of {sites} sites"
        if evaluation.loss is None:
            return f"no validation patients, {answered}"
        return f"validation loss {evaluation.loss:.3f} ({evaluation.patients} patients), {answered}"


def sentences_of(failures: Mapping[str, str]) -> dict[str, str]:
    """Return the fixed sentence of each site's failure code."""
    return {site: protocol.sentence(code) for site, code in failures.items()}

"""What a site allows, whatever the server asks: rules from the section ``policy`` of ``site.toml``.

Pure functions on the content of messages. They are applied in three places: by the site's app to every
request and reply, in simulation as in a deployment; by the executor to every request before any code is
chosen; and at the door to every reply, so that an approved bundle obeys them like the site's own code.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from client.learning.clipping import clip_update
from common.config import PolicySettings
from common.errors import ConfigurationError, MaintenanceError, ModelError, PolicyError, TaskError
from common.protocol import ALLOWED, EVALUATE, HELLO, PERSONALIZE, ROUND, failure_code

_ROUNDS = (ROUND, EVALUATE)
#: Answers of a personalization that count patients, by their first part; those of strips and beats are not
#: covered here, because how many patients are behind them does not travel.
_COUNTS_OF_PATIENTS = ("outcome.", "selected.", "worse-than-generic", "guard.")


@dataclass(frozen=True)
class Enforced:
    """A reply within the policy.

    Attributes
    ----------
    content : what may leave.
    notes : a sentence for the site's log for everything that was changed.
    """

    content: RecordDict
    notes: tuple[str, ...] = ()


def window(text: str) -> tuple[time, time] | None:
    """Read a daily window such as ``22:30-04:00``; None for an empty text.

    Raises
    ------
    ConfigurationError
        If it is not written like that.
    """
    if not text:
        return None
    try:
        start, end = (datetime.strptime(part, "%H:%M").time() for part in text.split("-"))
    except ValueError:
        raise ConfigurationError(
            f"policy.maintenance = {text!r} is no window; write it like 02:00-04:30"
        ) from None
    return start, end


def in_maintenance(policy: PolicySettings, now: datetime) -> bool:
    """Return whether a local time lies in the site's maintenance window.

    The window begins with its first minute and ends before its last, may cross midnight, and is the whole
    day if both are the same.
    """
    bounds = window(policy.maintenance)
    if bounds is None:
        return False
    (start, end), at = bounds, now.time()
    return start <= at < end if start < end else at >= start or at < end


def check_request(policy: PolicySettings, message_type: str, content: RecordDict, now: datetime) -> None:
    """Refuse a request that the policy does not allow.

    Parameters
    ----------
    policy : the site's own.
    message_type, content : the request; its form was checked by ``common.protocol.check``.
    now : local time.

    Raises
    ------
    TaskError
        For a message type that is not one of this federation's.
    MaintenanceError
        Inside the maintenance window, for everything but a hello: the coordinator may see who is there.
    PolicyError
        For a round beyond the last allowed one, or personalization where the site does it by itself only.
    """
    if message_type not in ALLOWED:
        raise TaskError(f"message type {message_type[:64]!r} is not one of this federation's")
    if message_type != HELLO and in_maintenance(policy, now):
        raise MaintenanceError(
            f"policy.maintenance = {policy.maintenance!r}: the site answers nothing but hello until it ends"
        )
    if message_type == PERSONALIZE and not policy.personalize:
        raise PolicyError("policy.personalize is false: this site personalizes by its own command only")
    if message_type in _ROUNDS:
        config = content.config_records["config"]
        asked = int(str(config["round"]))
        if config["train"] and asked > policy.max_rounds:
            raise PolicyError(
                f"federated round {asked} was asked for; policy.max_rounds is {policy.max_rounds}: raise it, "
                "or run fewer rounds"
            )


def clamp(policy: PolicySettings, message_type: str, content: RecordDict) -> RecordDict:
    """Return the request with what it may ask for: no more local epochs, no smaller batches than allowed."""
    if message_type not in _ROUNDS:
        return content
    config = content.config_records["config"]
    epochs = min(int(str(config["local-epochs"])), policy.max_local_epochs)
    batch = max(int(str(config["batch-size"])), policy.min_batch_size)
    within = {**config, "local-epochs": epochs, "batch-size": batch}
    return RecordDict({**content, "config": ConfigRecord(within)})


def enforce(policy: PolicySettings, message_type: str, request: RecordDict, reply: RecordDict) -> Enforced:
    """Return the reply with nothing in it that the policy keeps at home.

    Of a round: weights and training sums of fewer training patients than the policy asks for are left out,
    as are validation sums of fewer validation patients; an update longer than the largest norm is scaled
    down to it. Of a personalization: a count of fewer patients than the smallest cell refuses the reply as
    a whole, because leaving it out might not be enough.

    Parameters
    ----------
    policy : the site's own.
    message_type : of request and reply.
    request : what was asked, as it arrived.
    reply : what is about to leave; not changed. A failure stays as it is.

    Raises
    ------
    PolicyError, ModelError
    """
    if failure_code(reply) is not None or message_type == HELLO:
        return Enforced(reply)
    if message_type == PERSONALIZE:
        _check_cells(policy, reply)
        return Enforced(reply)
    metrics = dict(reply.metric_records["metrics"])
    weights = reply.array_records.get("weights")
    notes: list[str] = []
    if _count(metrics, "train-patients") < policy.min_training_patients:
        if weights is not None or any(map(_of_training, metrics)):
            notes.append(
                f"weights and training sums kept back: fewer than {policy.min_training_patients} training "
                "patients (policy.min_training_patients)"
            )
        weights = None
        metrics = {key: value for key, value in metrics.items() if not _of_training(key)}
    if _count(metrics, "validation-patients") < policy.min_validation_patients:
        if any(map(_of_validation, metrics)):
            notes.append(
                f"validation sums kept back: fewer than {policy.min_validation_patients} validation patients "
                "(policy.min_validation_patients)"
            )
        metrics = {key: value for key, value in metrics.items() if not _of_validation(key)}
    if weights is not None:
        weights, metrics["update-norm"], note = _clipped(policy, request, weights)
        notes += [note] if note else []
    content = RecordDict({"metrics": MetricRecord(metrics)})
    if weights is not None:
        content["weights"] = weights
    return Enforced(content, tuple(notes))


def _clipped(
    policy: PolicySettings, request: RecordDict, weights: ArrayRecord
) -> tuple[ArrayRecord, float, str | None]:
    received = request.array_records["weights"]["trainable"].numpy()
    clipped = clip_update(received, weights["trainable"].numpy(), policy.max_update_norm)
    if not np.isfinite(weights["statistics"].numpy()).all():
        raise ModelError("the trained weights hold values that are not finite; lower the learning rate")
    if not clipped.changed:
        return weights, clipped.norm, None
    parts = {"trainable": Array(clipped.trainable), "statistics": weights["statistics"]}
    return ArrayRecord(parts), clipped.norm, clipped.note


def _check_cells(policy: PolicySettings, reply: RecordDict) -> None:
    for key, value in reply.metric_records["metrics"].items():
        counts = key.endswith((".patients", ".n")) or key.startswith(_COUNTS_OF_PATIENTS)
        if counts and isinstance(value, int | float) and 0 < value < policy.min_cell:
            raise PolicyError(
                f"{key} counts fewer patients than policy.min_cell = {policy.min_cell}: nothing of this "
                "personalization leaves"
            )


def _count(metrics: dict[str, int | float | list[int] | list[float]], key: str) -> float:
    value = metrics.get(key, 0)
    return value if isinstance(value, int | float) else 0


def _of_training(key: str) -> bool:
    return key.startswith("train-") or key == "update-norm"


def _of_validation(key: str) -> bool:
    return key.startswith("validation-")

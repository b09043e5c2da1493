"""The rules of a site, as functions of a message's content."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from client.gate import policy
from client.learning.clipping import clip_update
from common import protocol
from common.config import ModelSettings, PolicySettings, TrainingSettings
from common.errors import ConfigurationError, MaintenanceError, ModelError, PolicyError, TaskError
from common.protocol import RoundPlan
from common.weights import Weights

NOON = datetime(2026, 3, 1, 12, 0)


def asked(
    round_: int = 1, *, train: bool = True, epochs: int = 1, weights: Weights | None = None
) -> RecordDict:
    training = TrainingSettings(local_epochs=epochs)
    plan = RoundPlan("main", 0, "ab" * 32, "cd" * 32, ModelSettings(), round_, train, training)
    return protocol.request(plan, flat(0.0))


def flat(value: float, size: int = 100) -> Weights:
    return Weights(np.full(size, value, np.float32), np.zeros(4, np.float32))


def answer(train: int, validation: int, weights: Weights | None, **more: float) -> RecordDict:
    sums = {
        "train-patients": train,
        "train-beats": 10 * train,
        "update-norm": 0.0,
        "validation-patients": validation,
        "validation-loss-total": 1.0,
        "seconds": 1.0,
    }
    return protocol.reply({**sums, **more}, weights)


@pytest.mark.parametrize(
    ("text", "hour", "minute", "closed"),
    [
        ("", 3, 0, False),
        ("02:00-04:30", 1, 59, False),
        ("02:00-04:30", 2, 0, True),
        ("02:00-04:30", 4, 29, True),
        ("02:00-04:30", 4, 30, False),
        ("22:30-04:00", 23, 0, True),
        ("22:30-04:00", 3, 59, True),
        ("22:30-04:00", 4, 0, False),
        ("22:30-04:00", 22, 29, False),
        ("00:00-00:00", 12, 0, True),
    ],
)
def test_a_maintenance_window_is_local_time_and_may_cross_midnight(
    text: str, hour: int, minute: int, closed: bool
) -> None:
    at = NOON.replace(hour=hour, minute=minute)
    assert policy.in_maintenance(PolicySettings(maintenance=text), at) is closed


@pytest.mark.parametrize("text", ["2-4", "25:00-26:00", "02:00", "02:00-04:00-06:00"])
def test_what_is_no_window_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigurationError, match="02:00-04:30"):
        policy.window(text)


def test_in_maintenance_everything_but_hello_is_refused() -> None:
    rules = PolicySettings(maintenance="11:00-13:00")
    for kind in (protocol.ROUND, protocol.EVALUATE, protocol.PERSONALIZE):
        with pytest.raises(MaintenanceError):
            policy.check_request(rules, kind, asked(), NOON)
    policy.check_request(rules, protocol.HELLO, RecordDict(), NOON)


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(TaskError):
        policy.check_request(PolicySettings(), "query.database", asked(), NOON)


def test_rounds_and_personalization_follow_the_policy() -> None:
    rules = PolicySettings(max_rounds=3, personalize=False)
    policy.check_request(rules, protocol.ROUND, asked(3), NOON)
    policy.check_request(rules, protocol.EVALUATE, asked(4, train=False), NOON)
    with pytest.raises(PolicyError, match=r"policy\.max_rounds"):
        policy.check_request(rules, protocol.ROUND, asked(4), NOON)
    with pytest.raises(PolicyError, match=r"policy\.personalize"):
        policy.check_request(rules, protocol.PERSONALIZE, asked(), NOON)


def test_local_epochs_are_cut_and_nothing_else_changes() -> None:
    content = asked(epochs=40)
    cut = policy.clamp(PolicySettings(max_local_epochs=3), protocol.ROUND, content)
    assert cut.config_records["config"]["local-epochs"] == 3
    assert content.config_records["config"]["local-epochs"] == 40
    assert {**cut.config_records["config"], "local-epochs": 40} == dict(content.config_records["config"])
    assert (
        policy.clamp(PolicySettings(), protocol.ROUND, asked()).config_records["config"]["local-epochs"] == 1
    )


def test_too_few_training_patients_send_no_weights_and_no_training_sums() -> None:
    rules = PolicySettings()
    enforced = policy.enforce(rules, protocol.ROUND, asked(), answer(19, 5, flat(0.1)))
    assert set(enforced.content) == {"metrics"}
    assert set(enforced.content.metric_records["metrics"]) == {
        "validation-patients", "validation-loss-total", "seconds"
    }  # fmt: skip
    assert "policy.min_training_patients" in enforced.notes[0]
    whole = policy.enforce(rules, protocol.ROUND, asked(), answer(20, 5, flat(0.1)))
    assert set(whole.content) == {"metrics", "weights"}
    assert whole.notes == ()


def test_weights_without_a_count_of_patients_do_not_leave() -> None:
    enforced = policy.enforce(
        PolicySettings(), protocol.ROUND, asked(), protocol.reply({"seconds": 1.0}, flat(0.1))
    )
    assert set(enforced.content) == {"metrics"}


def test_too_few_validation_patients_send_no_validation_sums() -> None:
    enforced = policy.enforce(PolicySettings(), protocol.ROUND, asked(), answer(20, 4, flat(0.1)))
    assert not [key for key in enforced.content.metric_records["metrics"] if key.startswith("validation")]
    assert "weights" in enforced.content


def test_an_update_is_clipped_and_its_norm_is_that_of_what_leaves() -> None:
    rules = PolicySettings(max_update_norm=2.0)
    said = answer(20, 5, flat(1.0), **{"update-norm": 0.5})  # the reply lies: the norm is 10
    enforced = policy.enforce(rules, protocol.ROUND, asked(), said)
    moved = protocol.read_weights(enforced.content).trainable
    assert moved.dtype == np.float32
    norm = float(np.linalg.norm(moved.astype(np.float64)))
    assert norm <= 2.0
    assert protocol.sums(enforced.content)["update-norm"] == pytest.approx(norm)
    assert norm == pytest.approx(2.0, rel=1e-5)
    assert enforced.notes == ("update norm 10 scaled down to 2 (policy.max_update_norm)",)
    protocol.check(enforced.content, protocol.ROUND, "reply")


def test_clipping_is_measured_from_what_arrived_and_done_once() -> None:
    rng = np.random.default_rng(1)
    received = (1000 * rng.normal(size=10_000)).astype(np.float32)
    returned = (received + rng.normal(size=10_000)).astype(np.float32)
    once = clip_update(received, returned, 3.0)
    assert once.changed
    assert once.norm <= 3.0
    again = clip_update(received, once.trainable, 3.0)
    assert not again.changed
    assert again.trainable is once.trainable


@pytest.mark.parametrize("size", [2.0**20, 2.0**40, 3e38])
def test_clipping_ends_however_coarsely_large_weights_round(size: float) -> None:
    """Between neighbours of float32 there may be no update short enough: then nothing of it leaves."""
    received = np.full(1000, size, np.float32)
    returned = np.nextafter(received, np.float32(0))
    clipped = clip_update(received, returned, 1e-3)
    assert clipped.norm == 0.0
    assert clipped.trainable.tobytes() == received.tobytes()
    some = clip_update(np.full(4, 2.0**20, np.float32), np.full(4, 2.0**20 + 100, np.float32), 10.0)
    assert 0 < some.norm <= 10.0


@pytest.mark.parametrize(
    "key", ["worse-than-generic", "guard.decisions", "outcome.personal", "selected.generic"]
)
def test_counts_of_fewer_patients_than_the_smallest_cell_keep_a_personalization_back(key: str) -> None:
    rules = PolicySettings(min_cell=5)
    with pytest.raises(PolicyError, match=r"policy\.min_cell = 5"):
        policy.enforce(rules, protocol.PERSONALIZE, asked(), protocol.reply({key: 4}))
    for shown in (0, 5):
        assert policy.enforce(rules, protocol.PERSONALIZE, asked(), protocol.reply({key: shown})).notes == ()


def test_batches_are_at_least_as_large_as_the_policy_says() -> None:
    content = asked()
    given = int(str(content.config_records["config"]["batch-size"]))
    for least, used in ((2, given), (given + 1, given + 1)):
        within = policy.clamp(PolicySettings(min_batch_size=least), protocol.ROUND, content)
        assert within.config_records["config"]["batch-size"] == used


def test_weights_that_are_not_finite_do_not_leave() -> None:
    for bad in (flat(np.nan), Weights(flat(0).trainable, np.full(4, np.inf, np.float32))):
        with pytest.raises(ModelError):
            policy.enforce(PolicySettings(), protocol.ROUND, asked(), answer(20, 5, bad))
    with pytest.raises(ModelError, match="another model"):
        policy.enforce(PolicySettings(), protocol.ROUND, asked(), answer(20, 5, flat(0.1, size=3)))


def test_a_count_below_the_smallest_cell_refuses_the_whole_personalization() -> None:
    for key in ("outcome.personal", "selected.generic", "generic.patients", "last.generic.beat-f1.n"):
        with pytest.raises(PolicyError, match=r"policy\.min_cell"):
            policy.enforce(PolicySettings(), protocol.PERSONALIZE, asked(), protocol.reply({key: 4}))
        for shown in (0, 5):
            policy.enforce(PolicySettings(), protocol.PERSONALIZE, asked(), protocol.reply({key: shown}))


def test_a_failure_passes_as_it_is() -> None:
    failed = protocol.failure("bad_cohort")
    assert policy.enforce(PolicySettings(), protocol.ROUND, asked(), failed).content is failed
    said = RecordDict({"config": ConfigRecord({"site": "north"})})
    assert policy.enforce(PolicySettings(), protocol.HELLO, RecordDict(), said).content is said

"""Every reply passes the door: nothing leaves that is not in the protocol, the policy and the ledger."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.gate import door
from client.gate.audit import verify
from client.gate.folders import make_folders
from client.gate.ledger import record
from client.site import Site, load_site
from common import protocol
from common.config import ModelSettings, TrainingSettings
from common.errors import LedgerError
from common.protocol import RoundPlan
from common.weights import Weights

SECRET = "patient 4711, Mrs Smith, 1961-03-02"


@pytest.fixture(autouse=True)
def task(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture(scope="module")
def made(tiny_site_factory: Callable[..., Site], tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tiny_site_factory(tmp_path_factory.mktemp("door") / "north", "north", cohort=False)
    make_folders(site.folder, name="north")
    return site.folder


@pytest.fixture
def site(made: Path, tmp_path: Path) -> Site:
    return load_site(Path(shutil.copytree(made, tmp_path / "north")), {})


def weights(value: float) -> Weights:
    return Weights(np.full(100, value, np.float32), np.zeros(4, np.float32))


def request(kind: str = protocol.ROUND) -> Message:
    plan = RoundPlan("main", 0, "ab" * 32, "cd" * 32, ModelSettings(), 1, True, TrainingSettings())
    return Message(protocol.request(plan, weights(0.0)), 2, kind)


def answer(value: float = 0.01, **more: Any) -> RecordDict:
    sums = {"train-patients": 20, "train-beats": 10, "update-norm": 0.1, "seconds": 1.0}
    return protocol.reply({**sums, **more}, weights(value))


def through(site: Site, content: RecordDict, kind: str = protocol.ROUND) -> RecordDict:
    asked = request(kind)
    return door.leave(site, asked, Message(content, reply_to=asked)).content


def text_of(content: RecordDict) -> bytes:
    return b"".join(record.deflate() for record in content.values())


def test_a_result_leaves_with_the_ledger_s_head(site: Site) -> None:
    first, second = through(site, answer()), through(site, answer())
    assert set(first) == {"metrics", "weights", "ledger"}
    protocol.check(first, protocol.ROUND, "reply")
    heads = [protocol.ledger_head(content) for content in (first, second)]
    assert [head[0] for head in heads if head] == [1, 2]
    assert heads[0] != heads[1]
    assert verify(site.gate_folder) == []


def test_an_error_of_the_engine_leaves_as_a_code(site: Site) -> None:
    asked = request()
    left = door.leave(site, asked, Message(Error(code=1, reason=SECRET), reply_to=asked))
    assert left.has_content()
    assert protocol.failure_code(left.content) == "site_error"
    assert SECRET.encode() not in text_of(left.content)
    assert SECRET not in site.log.read_text()


def records() -> dict[str, RecordDict]:
    plain = answer()
    nested = answer()
    nested["metrics"] = MetricRecord({**plain.metric_records["metrics"], "train-loss-total": [1.0, 2.0]})
    more = answer()
    more["extra"] = ConfigRecord({"note": SECRET})
    key = answer()
    key["metrics"] = MetricRecord({**plain.metric_records["metrics"], SECRET: 1})
    array = answer()
    array["weights"] = ArrayRecord({SECRET: Array(np.zeros(3, np.float32))})
    ledger = answer()
    ledger["ledger"] = ConfigRecord({"entries": 99, "head": "ab" * 32})
    failed = RecordDict({"failure": ConfigRecord({"code": SECRET})})
    return {"nested": nested, "record": more, "key": key, "array": array, "ledger": ledger, "code": failed}


@pytest.mark.parametrize("what", ["nested", "record", "key", "array", "ledger", "code"])
def test_what_is_not_in_the_protocol_leaves_as_bad_message(site: Site, what: str) -> None:
    left = through(site, records()[what])
    assert protocol.failure_code(left) == "bad_message"
    assert SECRET.encode() not in text_of(left)
    assert SECRET not in site.log.read_text()


def test_a_hello_says_only_what_is_known_here(site: Site) -> None:
    facts = {
        "site": "north",
        "protocol": protocol.VERSION,
        "software": protocol.software(),
        "task": site.settings.task,
        "preprocessing": site.settings.preprocessing_digest(),
    }
    assert protocol.failure_code(through(site, config(facts), protocol.HELLO)) is None
    for key, value in (("site", "mrs-smith-1961-03-02"), ("software", "9.9.9"), ("preprocessing", "ab" * 32)):
        left = through(site, config({**facts, key: value}), protocol.HELLO)
        assert protocol.failure_code(left) == "bad_message"


def config(values: dict[str, Any]) -> RecordDict:
    return RecordDict({"config": ConfigRecord(values)})


def test_a_message_of_an_unknown_type_is_answered_with_nothing_but_a_code(site: Site) -> None:
    left = through(site, protocol.failure("task_refused"), "query.database")
    assert protocol.failure_code(left) == "task_refused"
    assert protocol.failure_code(through(site, answer(), "query.database")) == "bad_message"


def test_the_policy_holds_at_the_door(site: Site) -> None:
    low = site.settings.policy.model_copy(update={"min_training_patients": 21, "max_update_norm": 1.0})
    strict = Site(
        **{**vars(site), "settings": site.settings.model_copy(update={"policy": low})},
    )
    assert set(through(strict, answer())) == {"metrics", "ledger"}
    assert "policy.min_training_patients" in site.log.read_text()
    left = through(strict, answer(5.0, **{"train-patients": 21}))
    moved = protocol.read_weights(left).trainable.astype(float)
    assert float(np.linalg.norm(moved)) <= 1.0
    diverged = through(strict, answer(np.inf, **{"train-patients": 21}))
    assert protocol.failure_code(diverged) == "bad_model"


def test_the_envelope_of_a_reply_is_not_used(site: Site) -> None:
    asked = request()
    reply = Message(answer(), reply_to=asked)
    reply.metadata.__dict__["_group_id"] = SECRET
    reply.metadata.__dict__["_message_type"] = "query.hello"
    left = door.leave(site, asked, reply)
    assert left.metadata.group_id == asked.metadata.group_id
    assert left.metadata.message_type == protocol.ROUND
    assert left.metadata.reply_to_message_id == asked.metadata.message_id


def test_a_fault_of_the_door_lets_nothing_through(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(door, "enforce", broken)
    left = through(site, answer())
    assert protocol.failure_code(left) == "site_error"
    assert SECRET not in site.log.read_text()


def test_without_its_ledger_nothing_leaves(site: Site) -> None:
    (site.gate_folder / "ledger.key").unlink()
    with pytest.raises(LedgerError):
        through(site, answer())


def test_a_reply_that_cannot_be_written_down_leaves_as_ledger_failed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(ledger: Any, kind: str, run: int, content: RecordDict, *more: Any) -> Any:
        if "weights" in content:
            raise LedgerError("no room for so long an entry")
        return record(ledger, kind, run, content, *more)

    monkeypatch.setattr(door, "record", full)
    left = through(site, answer())
    assert protocol.failure_code(left) == "ledger_failed"
    assert protocol.ledger_head(left) is not None

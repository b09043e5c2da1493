"""A site's answers: checked both ways, and no error text ever leaves the building."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.app import app
from client.learning import rounds
from client.site import Site
from common import protocol
from common.config import ModelSettings
from common.errors import StorageError
from common.model import build_model
from common.protocol import RoundPlan, RunPlan
from common.seeding import torch_stream
from common.weights import Weights, pack, schema_of

SECRET = "patient 4711, Mrs Smith, ward 9"


@pytest.fixture(autouse=True)
def task(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture(scope="module")
def made(tiny_site_factory: Callable[..., Site], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_site_factory(tmp_path_factory.mktemp("app") / "north", "north").folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """Copy the site, so that a test can break it."""
    return Path(shutil.copytree(made, tmp_path / "north"))


def weights_of(model: ModelSettings) -> tuple[Weights, str]:
    network = build_model(model, torch_stream("test"))
    return pack(network), schema_of(network).digest


def plan_for(site: Site, **changes: Any) -> tuple[RoundPlan, Weights]:
    weights, schema = weights_of(site.settings.model)
    values = {
        "name": "main",
        "seed": 0,
        "schema": schema,
        "preprocessing": site.settings.preprocessing_digest(),
        "model": site.settings.model,
        "round": 1,
        "train": True,
        "training": site.settings.training,
    }
    return RoundPlan(**{**values, **changes}), weights


def run_plan(plan: RoundPlan) -> RunPlan:
    return RunPlan(plan.name, plan.seed, plan.schema, plan.preprocessing, plan.model)


def ask(folder: Path | None, content: RecordDict, message_type: str) -> RecordDict:
    node = {} if folder is None else {"site-folder": str(folder)}
    context = Context(run_id=1, node_id=2, node_config=node, state=RecordDict(), run_config={})
    answer = app(Message(content, 2, message_type), context)
    return answer.content


def site_of(folder: Path) -> Site:
    from client.site import load_site

    return load_site(folder, {})


def hello() -> RecordDict:
    info = {"protocol": protocol.VERSION, "software": protocol.software()}
    return RecordDict({"config": ConfigRecord({**info})})


def test_hello_says_who_is_here_and_nothing_more(folder: Path) -> None:
    answer = dict(ask(folder, hello(), protocol.HELLO).config_records["config"])
    assert answer == {
        "site": "north",
        "protocol": protocol.VERSION,
        "software": protocol.software(),
        "task": "hyperkalemia",
        "preprocessing": site_of(folder).settings.preprocessing_digest(),
    }


def test_a_round_answers_trained_weights_and_sums(folder: Path) -> None:
    plan, weights = plan_for(site_of(folder))
    answer = ask(folder, protocol.request(plan, weights), protocol.ROUND)
    back = protocol.read_weights(answer)
    assert back.trainable.shape == weights.trainable.shape
    assert back.digest() != weights.digest()
    assert protocol.sums(answer)["train-beats"] > 0
    assert protocol.sums(answer)["validation-patients"] > 0


def test_evaluation_answers_no_weights(folder: Path) -> None:
    plan, weights = plan_for(site_of(folder), train=False)
    answer = ask(folder, protocol.request(plan, weights), protocol.EVALUATE)
    assert set(answer) == {"metrics"}


def test_the_same_question_gets_the_same_bytes(folder: Path) -> None:
    plan, weights = plan_for(site_of(folder))
    digests = {
        protocol.read_weights(ask(folder, protocol.request(plan, weights), protocol.ROUND)).digest()
        for _ in range(2)
    }
    assert len(digests) == 1


def changed_settings(folder: Path, line: str, new: str) -> None:
    path = folder / "site.toml"
    text = path.read_text()
    assert line in text
    path.write_text(text.replace(line, new))


def break_(what: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Break one thing about a site or a request; return changes of the plan."""

    def raising(*_: object) -> None:
        raise RuntimeError(SECRET)

    def full(*_: object) -> None:
        raise StorageError(f"disk full while writing {SECRET}")

    match what:
        case "raises":
            monkeypatch.setattr(rounds, "federated_round", raising)
        case "disk full":
            monkeypatch.setattr(rounds, "federated_round", full)
        case "no database":
            for path in folder.glob("site.sqlite*"):
                path.unlink()
        case "no cohort":
            return {"name": "other"}
        case "bad settings":
            changed_settings(folder, "beats_per_strip", "beat_per_strip")
        case "schema":
            return {"schema": "cd" * 32}
        case "model":
            return {"model": ModelSettings(depth=18, width=8)}
        case "preprocessing":
            return {"preprocessing": "cd" * 32}
    return {}


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("raises", "site_error"),
        ("disk full", "storage_failed"),
        ("no database", "bad_database"),
        ("no cohort", "bad_cohort"),
        ("bad settings", "bad_configuration"),
        ("schema", "bad_model"),
        ("model", "bad_model"),
        ("preprocessing", "other_preprocessing"),
    ],
)
def test_a_failure_leaves_as_a_code_and_its_text_stays_in_the_site_s_log(
    folder: Path, monkeypatch: pytest.MonkeyPatch, what: str, code: str
) -> None:
    plan, weights = plan_for(site_of(folder))
    plan, _ = plan_for(site_of(folder), **break_(what, folder, monkeypatch))
    answer = ask(folder, protocol.request(plan, weights), protocol.ROUND)
    assert dict(answer.config_records["failure"]) == {"code": code}
    assert set(answer) == {"failure"}
    assert SECRET.encode() not in b"".join(part.deflate() for part in answer.values())
    log = (folder / "site.log").read_text()
    assert "Traceback" in log
    # A sentence of ours is written down; the text of any other error may quote a row.
    assert (SECRET in log) == (what == "disk full")
    assert ("RuntimeError" in log) == (what == "raises")


@pytest.mark.parametrize("message_type", [protocol.ROUND, protocol.EVALUATE, protocol.PERSONALIZE])
def test_weights_that_are_not_numbers_are_refused(folder: Path, message_type: str) -> None:
    plan, weights = plan_for(site_of(folder))
    weights.trainable[3] = np.nan
    asked: RunPlan = run_plan(plan) if message_type == protocol.PERSONALIZE else plan
    answer = ask(folder, protocol.request(asked, weights), message_type)
    assert protocol.failure_code(answer) == "bad_model"


def test_an_answer_outside_the_protocol_does_not_leave(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chatty(*_: object) -> protocol.RoundReply:
        return protocol.RoundReply(None, {"train-beats": 3, SECRET: 1})

    monkeypatch.setattr(rounds, "federated_round", chatty)
    plan, weights = plan_for(site_of(folder))
    answer = ask(folder, protocol.request(plan, weights), protocol.ROUND)
    assert protocol.failure_code(answer) == "bad_message"


def test_a_request_outside_the_protocol_reaches_no_data(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the request was let in")

    monkeypatch.setattr(rounds, "federated_round", never)
    plan, weights = plan_for(site_of(folder))
    content = protocol.request(plan, weights)
    content.config_records["config"]["query"] = "select * from patients"
    assert protocol.failure_code(ask(folder, content, protocol.ROUND)) == "bad_message"


def test_a_site_may_forbid_personalization_from_outside(folder: Path) -> None:
    changed_settings(folder, "min_cell = 1", "min_cell = 1\npersonalize = false")
    plan, weights = plan_for(site_of(folder))
    answer = ask(folder, protocol.request(run_plan(plan), weights), protocol.PERSONALIZE)
    assert protocol.failure_code(answer) == "refused_by_policy"


def test_a_message_of_an_unknown_type_gets_a_code(folder: Path) -> None:
    answer = ask(folder, hello(), "query.database")
    assert protocol.failure_code(answer) == "task_refused"
    assert "not in the protocol" in (folder / "site.log").read_text()


def test_in_its_maintenance_window_a_site_only_says_hello(folder: Path) -> None:
    changed_settings(folder, "min_cell = 1", 'min_cell = 1\nmaintenance = "00:00-00:00"')
    plan, weights = plan_for(site_of(folder))
    answer = ask(folder, protocol.request(plan, weights), protocol.ROUND)
    assert protocol.failure_code(answer) == "maintenance"
    assert protocol.failure_code(ask(folder, hello(), protocol.HELLO)) is None


def test_rounds_beyond_the_last_allowed_one_are_refused(folder: Path) -> None:
    changed_settings(folder, "min_cell = 1", "min_cell = 1\nmax_rounds = 3")
    plan, weights = plan_for(site_of(folder), round=4)
    answer = ask(folder, protocol.request(plan, weights), protocol.ROUND)
    assert protocol.failure_code(answer) == "refused_by_policy"
    last, _ = plan_for(site_of(folder), round=4, train=False)
    assert protocol.failure_code(ask(folder, protocol.request(last, weights), protocol.EVALUATE)) is None


def test_local_epochs_are_cut_to_what_the_site_allows(folder: Path) -> None:
    changed_settings(folder, "min_cell = 1", "min_cell = 1\nmax_local_epochs = 1")
    digests = []
    for epochs in (1, 7):
        training = site_of(folder).settings.training.model_copy(update={"local_epochs": epochs})
        plan, weights = plan_for(site_of(folder), training=training)
        answer = ask(folder, protocol.request(plan, weights), protocol.ROUND)
        digests.append(protocol.read_weights(answer).digest())
    assert digests[0] == digests[1]


def test_an_update_longer_than_the_site_allows_is_scaled_down(folder: Path) -> None:
    plan, weights = plan_for(site_of(folder))
    free = ask(folder, protocol.request(plan, weights), protocol.ROUND)
    norm = protocol.sums(free)["update-norm"]
    changed_settings(folder, "min_cell = 1", f"min_cell = 1\nmax_update_norm = {norm / 4}")
    answer = ask(folder, protocol.request(plan, weights), protocol.ROUND)
    moved = protocol.read_weights(answer).trainable.astype(float) - weights.trainable
    whole = protocol.read_weights(free).trainable.astype(float) - weights.trainable
    np.testing.assert_allclose(moved, whole / 4, rtol=1e-3, atol=1e-7)
    assert float(np.linalg.norm(moved)) <= norm / 4
    assert protocol.sums(answer)["update-norm"] == pytest.approx(norm / 4, rel=1e-5)
    assert "scaled down" in (folder / "site.log").read_text()


def test_another_version_of_the_software_is_named_in_the_site_s_log(folder: Path) -> None:
    content = hello()
    content.config_records["config"]["software"] = "9.9.9"
    ask(folder, content, protocol.HELLO)
    log = (folder / "site.log").read_text()
    assert "9.9.9" in log
    assert protocol.software() in log


def test_personalization_answers_counts_and_sums(folder: Path) -> None:
    plan, weights = plan_for(site_of(folder))
    answer = ask(folder, protocol.request(run_plan(plan), weights), protocol.PERSONALIZE)
    assert set(answer) == {"metrics"}
    assert json.dumps(dict(answer.metric_records["metrics"]))


@pytest.mark.parametrize("place", [None, "nowhere"])
def test_a_node_without_a_site_answers_a_code_too(tmp_path: Path, place: str | None) -> None:
    answer = ask(None if place is None else tmp_path / place, hello(), protocol.HELLO)
    assert protocol.failure_code(answer) == "bad_configuration"


def test_ctrl_c_is_not_an_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rounds, "federated_round", stopped)
    plan, weights = plan_for(site_of(folder))
    with pytest.raises(KeyboardInterrupt):
        ask(folder, protocol.request(plan, weights), protocol.ROUND)
    assert "stopped by its operator" in (folder / "site.log").read_text()

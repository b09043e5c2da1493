"""The in-process grid: what of Flower it stands on, and that it behaves as a deployment would."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flwr.supercore.inflatable.inflatable_object as inflatable
import flwr.supercore.inflatable.inflatable_utils as inflating
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from client.app import app as client_app
from client.site import Site
from common.errors import ConfigurationError
from common.files import write_json
from server.app import app as server_app
from simulation import grid as module
from simulation.grid import InProcessGrid, NoAnswer, check_flower, run_in_process

Use = Callable[[Grid], Any]


def with_grid(use: Use, app: ClientApp, nodes: int = 2, **options: Any) -> Any:
    """Run ``use`` as a ServerApp's main and return what it returns."""
    results: list[Any] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        results.append(use(grid))

    run_in_process(server, app, [{"number": index} for index in range(nodes)], {}, **options)
    return results[0]


def echo(handler: Callable[[Message, Context], RecordDict]) -> ClientApp:
    app = ClientApp()

    @app.query("echo")
    def answer(message: Message, context: Context) -> Message:
        return Message(handler(message, context), reply_to=message)

    return app


def messages(grid: Grid, content: RecordDict | None = None) -> list[Message]:
    return [Message(content or RecordDict(), node, "query.echo", ttl=60) for node in grid.get_node_ids()]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("site-")]


# --- Flower's inside: an upgrade that moves one of these must fail here, not in the middle of a run --------


def test_flower_still_has_the_private_names_the_grid_uses() -> None:
    check_flower()
    assert {"_run_id", "_task_id", "_node_id"} <= set(vars(TaskIdentity))
    for function in (
        inflatable.get_all_nested_objects,
        inflatable.no_object_id_recompute,
        inflating.inflate_object_from_contents,
        Run.create_empty,
    ):
        assert callable(function)
    abstract = {"set_run", "run", "create_message", "get_node_ids", "push_messages", "pull_messages"}
    assert Grid.__abstractmethods__ == abstract | {"send_and_receive"}


def test_a_message_still_keeps_its_numbers_where_the_grid_writes_them() -> None:
    def use(grid: Grid) -> Any:
        (message,) = messages(grid)
        assert {"_run_id", "_message_id", "_reply_to_message_id"} <= set(vars(message.metadata))
        (message_id,) = grid.push_messages([message])
        assert message.metadata.message_id == message_id
        (reply,) = grid.pull_messages([message_id])
        return reply.metadata.reply_to_message_id == message_id, reply.metadata.src_node_id

    assert with_grid(use, echo(lambda message, context: message.content), 1) == (True, module.FIRST_NODE)


def test_a_missing_name_is_reported_with_the_versions_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(inflating, "inflate_object_from_contents")
    with pytest.raises(ConfigurationError, match=r"inflate_object_from_contents.*flwr >= 1\.41 and < 1\.43"):
        check_flower()


def test_the_identity_of_the_process_is_given_back() -> None:
    before = {name: getattr(TaskIdentity, name) for name in ("_run_id", "_task_id", "_node_id")}
    with_grid(lambda grid: None, echo(lambda message, context: message.content))
    assert {name: getattr(TaskIdentity, name) for name in before} == before


# --- like between machines --------------------------------------------------------------------------------


def test_a_site_shares_no_memory_with_the_server() -> None:
    seen: list[Any] = []

    def handler(message: Message, context: Context) -> RecordDict:
        seen.append(message.content)
        assert (
            message.content.array_records["weights"]["w"].data is not sent.array_records["weights"]["w"].data
        )
        message.content.config_records["config"]["n"] = 99
        return RecordDict({"metrics": MetricRecord({"list": [1, 2], "x": 0.1})})

    sent = RecordDict(
        {
            "config": ConfigRecord({"n": 1}),
            "weights": ArrayRecord({"w": Array(np.arange(3, dtype=np.float32))}),
        }
    )

    def use(grid: Grid) -> list[Message]:
        return list(grid.send_and_receive(messages(grid, sent), timeout=30))

    replies = with_grid(use, echo(handler))
    assert len(replies) == 2
    assert sent.config_records["config"]["n"] == 1
    assert dict(replies[0].content.metric_records["metrics"]) == {"list": [1, 2], "x": 0.1}


def test_what_flower_cannot_send_fails_here_too() -> None:
    def handler(message: Message, context: Context) -> RecordDict:
        return RecordDict({"config": ConfigRecord({"n": 2**70})})

    def use(grid: Grid) -> list[Message]:
        return list(grid.send_and_receive(messages(grid), timeout=30))

    assert all(reply.has_error() for reply in with_grid(use, echo(handler)))


def test_a_node_keeps_its_state_between_messages() -> None:
    def handler(message: Message, context: Context) -> RecordDict:
        count = context.state.config_records.get("n", ConfigRecord({"n": 0}))["n"]
        assert isinstance(count, int)
        context.state["n"] = ConfigRecord({"n": count + 1})
        return RecordDict({"config": ConfigRecord({"n": count + 1})})

    def use(grid: Grid) -> list[int]:
        for _ in range(3):
            replies = list(grid.send_and_receive(messages(grid), timeout=30))
        return [reply.content.config_records["config"]["n"] for reply in replies]  # type: ignore[misc]

    assert with_grid(use, echo(handler)) == [3, 3]


def test_a_failing_node_answers_an_error_and_a_silent_one_nothing() -> None:
    def before(node: int, message: Message) -> None:
        if node == module.FIRST_NODE:
            raise RuntimeError("the disk broke")
        if node == module.FIRST_NODE + 1:
            raise NoAnswer

    def use(grid: Grid) -> list[Message]:
        return list(grid.send_and_receive(messages(grid), timeout=30))

    replies = with_grid(use, echo(lambda message, context: message.content), 3, before=before)
    assert [reply.has_error() for reply in replies] == [True, False]


def test_an_exchange_ends_when_its_time_is_up() -> None:
    def use(grid: Grid) -> list[Message]:
        return list(grid.send_and_receive(messages(grid), timeout=0.1))

    def before(node: int, message: Message) -> None:
        while node == module.FIRST_NODE:
            time.sleep(0.01)

    assert with_grid(use, echo(lambda message, context: message.content), 1, before=before) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_sites_run_when_their_answer_is_asked_for_and_few_ahead(workers: int) -> None:
    ran: list[int] = []

    def handler(message: Message, context: Context) -> RecordDict:
        ran.append(context.node_id)
        return RecordDict()

    def use(grid: Grid) -> int:
        ids = list(grid.push_messages(messages(grid)))
        time.sleep(0.05)
        assert not ran
        while not list(grid.pull_messages(ids[:1])):
            pass
        time.sleep(0.05)
        return len(ran)

    assert 1 <= with_grid(use, echo(handler), 8, workers=workers) <= workers


def test_ctrl_c_in_the_server_ends_sites_that_still_compute() -> None:
    ended = threading.Event()
    begun = threading.Event()

    def handler(message: Message, context: Context) -> RecordDict:
        begun.set()
        try:
            while True:
                time.sleep(0.01)
        finally:
            ended.set()

    def use(grid: InProcessGrid) -> None:
        grid.pull_messages(grid.push_messages(messages(grid)))
        begun.wait()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with_grid(use, echo(handler), 1)  # type: ignore[arg-type]
    assert ended.is_set()


# --- the project's own apps -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three_sites(
    tiny_site_factory: Callable[..., Site], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[Site]]:
    folder = tmp_path_factory.mktemp("sites")
    rounds = {"federation": {"rounds": 2}}

    def make(where: str) -> list[Site]:
        return [
            tiny_site_factory(folder / where / name, name, generic=5, personal=1, settings=rounds)
            for name in ("north", "south", "west")
        ]

    return make


def federate(sites: list[Site], out: Path, **options: Any) -> tuple[bytes, dict[str, Any]]:
    write_json(out / "settings.json", sites[0].settings.model_dump(mode="json"))
    config = {"out": str(out), "settings": str(out / "settings.json"), "personalize": False}
    nodes = [{"site-folder": str(site.folder)} for site in sites]
    run_in_process(server_app, client_app, nodes, config, **options)
    return (out / "best.safetensors").read_bytes(), json.loads((out / "server.json").read_text())


def test_order_of_sites_and_number_of_workers_change_nothing(
    three_sites: Callable[[str], list[Site]], tmp_path: Path
) -> None:
    sites = three_sites("order")
    first, story = federate(sites, tmp_path / "one")
    other, _ = federate(sites[::-1], tmp_path / "two", workers=3)
    assert story["status"] == "finished"
    assert [entry["trained"] for entry in story["rounds"]] == [["north", "south", "west"]] * 2
    assert first == other


def test_a_site_without_a_cohort_is_named_and_the_others_go_on(
    three_sites: Callable[[str], list[Site]],
    tiny_site_factory: Callable[..., Site],
    tmp_path: Path,
) -> None:
    bare = tiny_site_factory(tmp_path / "east", "east", settings={"federation": {"rounds": 2}}, cohort=False)
    _, story = federate([*three_sites("bare"), bare], tmp_path / "out")
    assert [entry["failures"] for entry in story["rounds"]] == [{"east": "bad_cohort"}] * 2
    assert "no frozen cohort" in story["failure_sentences"]["bad_cohort"]

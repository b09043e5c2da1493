"""A node that was started again has forgotten its message: nobody waits for it until the time is over."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, cast

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from common import protocol
from server import exchange
from server.exchange import Restarts, ask

NORTH, SOUTH = 11, 12
LONG_S = 60.0


class Silent:
    """The engine's connection to nodes of which only some ever answer."""

    def __init__(self, answering: frozenset[int]) -> None:
        self.answering, self.sent = answering, dict[str, Message]()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        for number, message in enumerate(messages):
            self.sent[str(number)] = message
        return list(self.sent)

    def pull_messages(self, ids: Iterable[str]) -> list[Message]:
        asked = [self.sent[each] for each in ids]
        there = [message for message in asked if message.metadata.dst_node_id in self.answering]
        return [cast(Message, _Reply()) for _ in there]


class _Reply:
    """What the engine hands over for an answered message."""

    content = protocol.failure("bad_cohort")

    def has_error(self) -> bool:
        return False

    def has_content(self) -> bool:
        return False


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "RESTART_POLL_S", 0.02)
    monkeypatch.setattr(exchange, "RESTART_GRACE_S", 0.1)
    for name in ("_run_id", "_task_id", "_node_id"):  # messages can be made inside one of Flower's tasks only
        monkeypatch.setattr(TaskIdentity, name, 1)


def hello() -> RecordDict:
    config = ConfigRecord({"protocol": protocol.VERSION, "software": protocol.software()})
    return RecordDict({"config": config})


def asked(activations: Any, timeout_s: float = LONG_S) -> dict[str, str | None]:
    grid = cast(Grid, Silent(frozenset({SOUTH})))
    requests = {"north": (NORTH, hello()), "south": (SOUTH, hello())}
    answers = ask(grid, requests, protocol.HELLO, timeout_s, "hello", activations)
    return {answer.site: answer.failure for answer in answers}


def test_a_node_that_came_online_again_is_given_up_and_the_others_are_heard() -> None:
    times = iter(["one", "one", "two"])
    last = ["two"]
    began = time.monotonic()
    failures = asked(lambda: {NORTH: next(times, last[0]), SOUTH: "one"})
    assert failures == {"north": "unreachable", "south": "bad_cohort"}
    assert time.monotonic() - began < LONG_S / 2


def test_a_node_that_only_takes_long_is_waited_for_until_the_time_is_over() -> None:
    failures = asked(lambda: {NORTH: "one", SOUTH: "one"}, timeout_s=0.5)
    assert failures == {"north": "no_answer", "south": "bad_cohort"}


def test_an_engine_that_cannot_say_changes_nothing() -> None:
    answers = iter([{NORTH: "one"}, {}, {}, {NORTH: "one"}])
    assert asked(lambda: next(answers, {}), timeout_s=0.5)["north"] == "no_answer"
    assert asked(None, timeout_s=0.2)["north"] == "no_answer"


def test_a_node_is_given_time_to_fetch_what_still_waited_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "RESTART_POLL_S", 0.0)
    monkeypatch.setattr(exchange, "RESTART_GRACE_S", LONG_S)
    times = iter(["one"])
    restarts = Restarts(lambda: {NORTH: next(times, "two")})
    assert not restarts.forgot(NORTH)
    monkeypatch.setattr(exchange, "RESTART_GRACE_S", 0.0)
    assert restarts.forgot(NORTH)
    assert not restarts.forgot(SOUTH)

"""What can go wrong with one site's answer stays its own: started again, damaged, away."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, cast

import httpx
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
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


class Damaged(Silent):
    """The engine fails on the bytes that one node sent, as it does on a forged record."""

    def pull_messages(self, ids: Iterable[str]) -> list[Message]:
        asked = list(ids)
        if any(self.sent[each].metadata.dst_node_id == NORTH for each in asked):
            ArrayRecord.inflate(b"ArrayRecord  2\0[]", {})
        return super().pull_messages(asked)


class Away(Silent):
    """The engine itself is gone."""

    def pull_messages(self, ids: Iterable[str]) -> list[Message]:
        raise httpx.ConnectError("refused")


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


def asked(
    activations: Any, timeout_s: float = LONG_S, engine: type[Silent] = Silent
) -> dict[str, str | None]:
    grid = cast(Grid, engine(frozenset({SOUTH})))
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


def test_a_reply_that_cannot_even_be_read_is_a_failure_of_its_site_alone() -> None:
    with pytest.raises(AttributeError):
        ArrayRecord.inflate(b"ArrayRecord  2\0[]", {})
    assert asked(None, engine=Damaged) == {"north": "bad_reply", "south": "bad_cohort"}


def test_an_engine_that_is_gone_is_not_blamed_on_a_site() -> None:
    with pytest.raises(httpx.ConnectError):
        asked(None, engine=Away)


def test_the_engine_keeps_an_answer_for_longer_than_another_is_waited_for() -> None:
    # North never answers: when that is certain, what South has said long ago must still be there.
    engine = Silent(frozenset({SOUTH}))
    requests = {"north": (NORTH, hello()), "south": (SOUTH, hello())}
    list(ask(cast(Grid, engine), requests, protocol.HELLO, 0.2, "hello"))
    assert [message.metadata.ttl for message in engine.sent.values()] == [0.2 + exchange.FOLD_S] * 2

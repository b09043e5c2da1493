"""Registered sites: a node may only use its own name, the missing ones are named, their heads are kept."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from common import protocol
from common.config import Settings
from common.errors import FederationError
from common.logs import PlainReporter, current_reporter, use_reporter
from common.protocol import RoundPlan
from common.weights import Weights
from server.state import heads_of_runs
from simulation.grid import FIRST_NODE

Make = Callable[..., Any]
NAMES = {FIRST_NODE: "a", FIRST_NODE + 1: "bb", FIRST_NODE + 2: "ccc"}


@pytest.fixture
def shown() -> Iterator[io.StringIO]:
    """Return what whoever watches the server reads."""
    before, out = current_reporter(), io.StringIO()
    use_reporter(PlainReporter(out, every_s=0.0))
    yield out
    use_reporter(before)


def story(tmp_path: Path, out: str = "out") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((tmp_path / out / "server.json").read_text())
    return loaded


def test_registered_sites_take_part_under_their_names(
    federate: Make, settings_with: Make, tmp_path: Path
) -> None:
    federate(settings_with(), registered=NAMES)
    assert story(tmp_path)["sites"] == ["a", "bb", "ccc"]
    assert story(tmp_path)["refused"] == {}
    assert story(tmp_path)["absent"] == []


@pytest.mark.parametrize("nodes", [("a", "bb", "a"), ("bb", "bb", "ccc")])
def test_a_site_that_claims_another_s_name_is_refused_and_the_other_takes_part(
    federate: Make, settings_with: Make, tmp_path: Path, nodes: tuple[str, ...], shown: io.StringIO
) -> None:
    federate(settings_with(), nodes, registered=NAMES)
    told = story(tmp_path)
    wrong = next(position for position, name in enumerate(nodes) if name != NAMES[FIRST_NODE + position])
    registered, claimed = NAMES[FIRST_NODE + wrong], nodes[wrong]
    assert told["sites"] == sorted(set(NAMES.values()) - {registered})
    why = f"{protocol.sentence('name_refused')}: it says {claimed!r}, registered is {registered!r}"
    assert told["refused"] == {registered: why}
    assert f"not taking part: {registered}: {why}" in shown.getvalue()
    assert all(registered not in entry["answered"] for entry in told["rounds"])
    assert all(claimed in entry["answered"] for entry in told["rounds"])


def test_a_name_nobody_has_is_refused_too(federate: Make, settings_with: Make, tmp_path: Path) -> None:
    federate(settings_with(), ("a", "bb", "dddd"), registered=NAMES)
    assert story(tmp_path)["sites"] == ["a", "bb"]
    assert "it says 'dddd', registered is 'ccc'" in story(tmp_path)["refused"]["ccc"]


def test_a_node_nobody_registered_is_not_even_greeted(
    federate: Make, settings_with: Make, tmp_path: Path
) -> None:
    asked: set[int] = set()

    def note(node: int, message: Message) -> None:
        asked.add(node)

    names = {node: name for node, name in NAMES.items() if name != "ccc"}
    federate(settings_with(), registered=names, before=note)
    assert asked == {FIRST_NODE, FIRST_NODE + 1}
    assert "list of registered sites" in story(tmp_path)["refused"][f"node {FIRST_NODE + 2}"]


def test_missing_sites_are_named_and_the_others_go_on(
    federate: Make, settings_with: Make, tmp_path: Path, shown: io.StringIO
) -> None:
    names = {**NAMES, 7: "valley", 8: "river"}
    federate(settings_with(join_timeout_s=1.5, rounds=1), registered=names)
    lines = shown.getvalue().splitlines()
    assert "waiting for river, valley (3 of 5 registered sites connected), 0 s left" in lines
    assert any(line.startswith("going on without river, valley") for line in lines)
    assert story(tmp_path)["sites"] == ["a", "bb", "ccc"]
    assert story(tmp_path)["absent"] == ["river", "valley"]


def test_nobody_waits_when_all_registered_sites_are_there(
    federate: Make, settings_with: Make, shown: io.StringIO
) -> None:
    federate(settings_with(rounds=1), registered=NAMES)
    assert "waiting for" not in shown.getvalue()
    assert "asking a, bb, ccc to take part; an answer may take up to 5 s" in shown.getvalue()


def test_too_few_sites_name_the_missing_and_the_refused(
    federate: Make, settings_with: Make, tmp_path: Path
) -> None:
    names = {FIRST_NODE: "a", FIRST_NODE + 1: "bb", 7: "river"}
    with pytest.raises(FederationError) as raised:
        federate(settings_with(join_timeout_s=0.3), ("a", "a"), registered=names)
    sentence = str(raised.value)
    assert "1 of at least 2 sites" in sentence
    assert "not connected: river" in sentence
    assert "bb: the site calls itself by a name that was not registered" in sentence
    assert story(tmp_path)["failure"] == sentence
    assert story(tmp_path)["absent"] == ["river"]


def test_a_site_with_another_version_is_refused_and_both_versions_are_named(
    federate: Make, settings_with: Make, fake_client: Make, tmp_path: Path, shown: io.StringIO
) -> None:
    settings = settings_with(rounds=1)

    def older(site: str, info: dict[str, Any]) -> dict[str, Any]:
        return {**info, "software": "0.0.9"} if site == "bb" else info

    federate(settings, app=fake_client(settings, hello=older), registered=NAMES)
    told = story(tmp_path)
    assert told["sites"] == ["a", "ccc"]
    assert list(told["refused"]) == ["bb"]
    versions = f"protocol {protocol.VERSION} of software"
    why = f"runs {versions} 0.0.9, this server {versions} {protocol.software()}"
    assert told["refused"]["bb"].startswith(why)
    assert f"not taking part: bb: {why}; install the same version on both" in shown.getvalue()


def test_a_site_that_could_not_answer_hello_is_asked_again_in_the_next_round(
    federate: Make, settings_with: Make, fake_client: Make, tmp_path: Path, shown: io.StringIO
) -> None:
    settings: Settings = settings_with()
    asked = 0

    def asleep(site: str, content: RecordDict) -> RecordDict:
        nonlocal asked
        if site != "bb" or "config" not in content:
            return content
        asked += 1
        return protocol.failure("maintenance") if asked == 1 else content

    federate(settings, app=fake_client(settings, sealed=asleep), registered=NAMES)
    told = story(tmp_path)
    assert told["sites"] == ["a", "bb", "ccc"]
    assert told["refused"] == {}
    assert "bb: the site is in its maintenance window" in shown.getvalue()
    assert "bb is connected and takes part from now on" in shown.getvalue()


def test_a_failing_site_is_named_while_the_run_goes_on(
    federate: Make, settings_with: Make, fake_client: Make, answer_round: Make, shown: io.StringIO
) -> None:
    def full(site: str, plan: RoundPlan, weights: Weights) -> RecordDict:
        if site == "bb" and plan.round == 2:
            return protocol.failure("storage_failed")
        answer: RecordDict = answer_round(site, plan, weights)
        return answer

    settings = settings_with()
    federate(settings, app=fake_client(settings, full), registered=NAMES)
    assert "federated round 2, no use of: bb: the site's disk is full" in shown.getvalue()


# --- heads of the sites' ledgers --------------------------------------------------------------------------


def counting() -> Callable[[str, RecordDict], RecordDict]:
    """Attach a head to every reply, as a gate does: the number of replies of that site so far."""
    entries: dict[str, int] = {}

    def seal(site: str, content: RecordDict) -> RecordDict:
        entries[site] = entries.get(site, 0) + 1
        head = f"{entries[site]:x}".rjust(64, "0")
        content["ledger"] = ConfigRecord({"entries": entries[site], "head": head})
        return content

    return seal


def test_every_reply_s_ledger_head_is_kept_also_that_of_a_failure_and_over_an_interruption(
    federate: Make, settings_with: Make, fake_client: Make, answer_round: Make, tmp_path: Path
) -> None:
    settings, seal = settings_with(rounds=2), counting()

    def unwell(site: str, plan: RoundPlan, weights: Weights) -> RecordDict:
        if plan.round == 2:
            raise KeyboardInterrupt
        answer: RecordDict = answer_round(site, plan, weights)
        return protocol.failure("storage_failed") if site == "bb" else answer

    with pytest.raises(KeyboardInterrupt):
        federate(settings, app=fake_client(settings, unwell, sealed=seal), registered=NAMES)
    federate(settings, app=fake_client(settings, sealed=seal), registered=NAMES)
    heads = story(tmp_path)["ledgers"]
    assert sorted(heads) == ["a", "bb", "ccc"]
    steps = [(entry["step"], entry.get("round")) for entry in heads["bb"]]
    assert steps == [
        ("hello", None),
        ("round", 1),
        ("hello", None),
        ("round", 2),
        ("evaluate", 3),
        ("personalize", None),
    ]
    assert [entry["entries"] for entry in heads["bb"]] == [1, 2, 3, 4, 5, 6]
    assert heads["bb"][-1]["head"] == "6".rjust(64, "0")
    assert story(tmp_path)["ledger_warnings"] == {}


def test_sites_without_a_gate_have_no_heads(federate: Make, settings_with: Make, tmp_path: Path) -> None:
    federate(settings_with(rounds=1), registered=NAMES)
    assert story(tmp_path)["ledgers"] == {}
    assert story(tmp_path)["ledger_warnings"] == {}


def sealed_as(site: str, heads: list[tuple[int, str]]) -> Callable[[str, RecordDict], RecordDict]:
    """Attach these heads to the replies of one site, in this order."""
    left = iter(heads)

    def seal(of: str, content: RecordDict) -> RecordDict:
        if of == site:
            entries, letter = next(left)
            content["ledger"] = ConfigRecord({"entries": entries, "head": letter * 64})
        return content

    return seal


@pytest.mark.parametrize(
    ("heads", "what"),
    [
        ([(12, "a"), (3, "b"), (4, "c"), (5, "d")], "went back from entry 12 to 3"),
        ([(12, "a"), (12, "b"), (13, "c"), (14, "d")], "has another head at entry 12 than before"),
    ],
)
def test_a_ledger_that_does_not_fit_what_came_before_is_said_once_and_kept(
    federate: Make,
    settings_with: Make,
    fake_client: Make,
    tmp_path: Path,
    shown: io.StringIO,
    heads: list[tuple[int, str]],
    what: str,
) -> None:
    settings = settings_with(rounds=1)
    federate(settings, app=fake_client(settings, sealed=sealed_as("bb", heads)), registered=NAMES)
    warning = f"ledger of bb {what}: ask the site to run 'fedkalemia-site audit verify'"
    assert story(tmp_path)["ledger_warnings"] == {"bb": [warning]}
    assert shown.getvalue().count(warning) == 1
    assert story(tmp_path)["status"] == "finished"


def test_a_ledger_is_compared_with_the_heads_of_earlier_runs(
    federate: Make, settings_with: Make, fake_client: Make, tmp_path: Path
) -> None:
    settings, steps = settings_with(rounds=1), 4
    grown = [(entries, "a") for entries in range(1, 1 + steps)]
    federate(settings, app=fake_client(settings, sealed=sealed_as("bb", grown)), registered=NAMES, out="1/x")
    (tmp_path / "1" / "damaged").mkdir()
    (tmp_path / "1" / "damaged" / "server.json").write_text("{")
    known = heads_of_runs(tmp_path / "1")
    assert known == {"bb": (steps, "a" * 64)}
    cut = [(entries, "b") for entries in range(2, 2 + steps)]
    client = fake_client(settings, sealed=sealed_as("bb", cut))
    federate(settings, app=client, registered=NAMES, out="1/y", heads=known)
    (warning,) = story(tmp_path, "1/y")["ledger_warnings"]["bb"]
    assert f"went back from entry {steps} to 2" in warning
    assert heads_of_runs(tmp_path / "1") == {"bb": (1 + steps, "b" * 64)}
    assert heads_of_runs(tmp_path / "nowhere") == {}

"""A federation of three hospitals as it is run for real: what it computes, leaves behind, and lets out.

The deployment is a real one: our own commands, the authority of ``pki init``, the front end, node keys, and
at every site the executor, whose gate every message and every reply passes.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from client.gate.audit import anchors_of, verify
from common import protocol
from common.checkpoint import load_checkpoint
from common.generic import load_generic

pytestmark = pytest.mark.deployment


def rows(site: Any, statement: str) -> list[tuple[Any, ...]]:
    """Read from a site's database as it is now."""
    connection = sqlite3.connect(f"file:{site.folder / 'site.sqlite'}?mode=ro", uri=True)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def test_the_run_ends_with_its_true_status_and_says_so(whole: Any) -> None:
    assert whole.ended.code == 0, whole.ended.output
    assert "run main finished: the generic model is that of federated round" in whole.ended.output
    story = whole.ended.story
    assert story["status"] == "finished"
    assert [entry["answered"] for entry in story["rounds"]] == [sorted(whole.deployment.sites)] * 2
    shown = json.loads(whole.deployment.server("status", str(whole.deployment.home), "--json").output)
    assert shown["sites"] == dict.fromkeys(sorted(whole.deployment.sites), True)
    assert ("main", "finished:completed") in [(run["name"], run["status"]) for run in shown["runs"]]


# --- the same two apps over TLS between processes, and in one process: same weights, bit for bit -----------


def test_weights_over_tls_are_those_of_one_process(whole: Any) -> None:
    over_tls = whole.deployment.out()
    for kind in ("best", "last"):
        one, _ = load_checkpoint(whole.one / f"{kind}.safetensors")
        two, _ = load_checkpoint(over_tls / f"{kind}.safetensors")
        assert one.keys() == two.keys()
        assert all(one[key].tobytes() == two[key].tobytes() for key in one)
    digests = {load_generic(out / "best.safetensors").weights.digest() for out in (whole.one, over_tls)}
    assert len(digests) == 1


def test_evaluations_and_personal_sums_over_tls_are_those_of_one_process(whole: Any) -> None:
    one = json.loads((whole.one / "server.json").read_text())
    story = whole.ended.story
    assert story["evaluations"] == one["evaluations"]
    assert untimed(story["personalize"]) == untimed(one["personalize"])
    assert set(story["personalize"]) == set(whole.deployment.sites)


def untimed(personalize: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each site's sums without how long it took."""
    return {name: {k: v for k, v in sums.items() if k != "seconds"} for name, sums in personalize.items()}


# --- what it leaves behind, and what it lets out -----------------------------------------------------------


def test_every_ledger_verifies_and_agrees_with_what_the_coordinator_holds(whole: Any) -> None:
    anchors = whole.deployment.out() / "server.json"
    for name, site in whole.deployment.sites.items():
        held = whole.ended.story["ledgers"][name]
        steps = [entry["step"] for entry in held]
        assert steps == ["hello", "round", "round", "evaluate", "personalize"]
        heads = anchors_of(anchors, name)
        assert len(heads) == len(held)
        assert verify(site.gate_folder, heads) == []
        lines = (site.gate_folder / "ledger.jsonl").read_text().splitlines()
        assert len(lines) == held[-1]["entries"] == len(held)


def test_each_site_has_one_row_per_federated_round(whole: Any) -> None:
    for site in whole.deployment.sites.values():
        found = rows(
            site,
            "select round, count(*) from federated_rounds join runs on runs.id = run_id "
            "where name = 'main' group by round order by round",
        )
        assert found == [(1, 1), (2, 1), (3, 1)]  # two rounds, and the evaluation of their last weights


def test_the_bundle_of_a_run_is_seen_and_not_used(whole: Any) -> None:
    digest = re.search(r"bundle SHA-256 ([0-9a-f]{64})", whole.ended.output)
    assert digest is not None
    for name in whole.deployment.sites:
        log = whole.deployment.parts[f"executor-{name}"].text()
        assert f"bundle of SHA-256 {digest.group(1)}, not used" in log


def test_a_site_that_hangs_and_one_that_claims_the_name_of_another_cost_the_others_nothing(
    whole: Any, claimed: str
) -> None:
    # The first by name hangs: its answer is waited for to the end before the others' are fetched.
    executor = whole.deployment.parts["executor-harbor"]
    for name in whole.deployment.sites:
        whole.deployment.freeze(name, "hanging")
    executor.send(signal.SIGSTOP)
    try:
        ended = whole.deployment.run(
            *("--no-personalize", "--set", "federation.rounds=1", "--set", "federation.join_timeout_s=12"),
            *("--set", "federation.min_sites=1"),
            name="hanging",
        )
    finally:
        executor.send(signal.SIGCONT)
    assert ended.code == 0, ended.output
    assert ended.story["sites"] == ["north"]
    assert all(entry["answered"] == ["north"] for entry in ended.story["rounds"])
    # Under the name of the key that came, with the claim in the sentence.
    why = f"{protocol.sentence('name_refused')}: it says {claimed!r}, registered is 'valley'"
    assert ended.story["refused"] == {"harbor": protocol.sentence("no_answer"), "valley": why}
    assert f"valley: {why}" in ended.output


def test_no_identifier_crosses_the_wire_or_is_logged(whole: Any, harness: ModuleType, damaged: str) -> None:
    deployment = whole.deployment
    for name in deployment.sites:
        deployment.freeze(name, "damaged")
    ended = deployment.run("--set", "federation.rounds=1", name="damaged")
    # Where it goes wrong at a site, only a code leaves.
    assert {code for entry in ended.story["rounds"] for code in entry["failures"].values()} != set()
    assert all(set(entry["failures"]) == {damaged} for entry in ended.story["rounds"])

    search = harness.load("markers")
    sites = deployment.sites.values()
    assert search.markers().in_files([site.folder / "site.sqlite" for site in sites]), "sites are not marked"
    taps = [deployment.tap(name) for name in deployment.sites]
    assert all(tap.stat().st_size > 100_000 and b"query.hello" in tap.read_bytes() for tap in taps)
    logs = [deployment.logs_folder, *(site.log for site in sites), *(site.gate_folder for site in sites)]
    assert all(site.log.stat().st_size for site in sites)
    found = search.markers().in_files([*taps, deployment.home, *logs, *(site.node for site in sites)])
    assert not found, search.left_in(found)


@pytest.fixture
def damaged(whole: Any) -> Iterator[str]:
    """Take the beats of the site ``valley`` away, for one test."""
    beats: Path = whole.deployment.sites["valley"].beats
    away = beats.with_name("beats-away")
    beats.rename(away)
    yield "valley"
    if beats.is_dir():
        shutil.rmtree(beats)
    beats.unlink(missing_ok=True)
    away.rename(beats)


@pytest.fixture
def claimed(whole: Any) -> Iterator[str]:
    """Let the site ``valley`` call itself ``north``, for one test."""
    path: Path = whole.deployment.sites["valley"].folder / "site.toml"
    text = path.read_text()
    path.write_text(text.replace('name = "valley"', 'name = "north"'))
    assert path.read_text() != text
    yield "north"
    path.write_text(text)

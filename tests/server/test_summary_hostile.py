"""What a site, or a file that was changed, tries to bring onto the summary: none of it gets there."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from common import protocol, task
from common.config import make_settings
from common.errors import FedkalemiaError
from common.files import read_json, write_json
from common.metrics import Moments
from common.page import METHODS, render
from common.procedures import CONTROLS, HEADLINES, LEARNING, PAPER_METHODS, SIMPLER
from server.admission import OF_PATIENTS, admitted
from server.state import Story
from server.summary import TEMPLATE, page_content, write_summary
from server.sums import load

Make = Callable[..., Any]
SECRETS = (
    "p000123",
    "Mrs Smith",
    "2101-05-17",
    "/data/p00/p000123-2101-05-17-11-03.hea",
    "<script>alert(1)</script>",
)
MARKUP = '<img src="x" onerror="alert(1)">'


def honest(n: int = 8) -> dict[str, Any]:
    """Return an answer that tells something of everything the page has a place for."""
    sums = Moments.of([0.5 + i / 100 for i in range(n)])
    flat: dict[str, Any] = {"generic.patients": 12, "worse-than-generic": 0, "suppressed": 3}
    for figure in (*HEADLINES.values(), "beat-auc"):
        for way in (*METHODS, *SIMPLER):
            flat |= sums.as_flat(f"last.{way}.{figure}")
        for way in PAPER_METHODS:
            flat |= sums.as_flat(f"paper.{way}.{figure}")
    for figure in HEADLINES.values():
        for less in ("threshold", "generic", *SIMPLER):
            flat |= sums.as_flat(f"difference.selected-{less}.{figure}")
        for name in CONTROLS:
            flat |= sums.as_flat(f"control.{name}.gain.{figure}")
    for name in CONTROLS:
        for method in LEARNING:
            flat |= sums.as_flat(f"control.{name}.{method}.beat-auc")
    return flat


# --- messages -----------------------------------------------------------------------------------------------


def hostile_answers() -> Iterator[Callable[[], RecordDict]]:
    """Yield answers to personalization with something in every place that could hold it."""

    def metrics(**more: Any) -> RecordDict:
        return RecordDict({"metrics": MetricRecord({**honest(), **more.pop("own", {}), **more})})

    for secret in SECRETS:
        for key in (
            secret,
            f"flow.{secret}",
            f"last.{secret}.beat-auc.n",
            f"control.days.gain.beat-f1.n.{secret}",
        ):
            yield lambda key=key: metrics(own={key: 9})
        yield lambda secret=secret: RecordDict({"metrics": ConfigRecord({**honest(), "suppressed": secret})})
        yield lambda secret=secret: RecordDict({**metrics(), secret: MetricRecord({"seconds": 1.0})})
        yield lambda secret=secret: RecordDict({**metrics(), "config": ConfigRecord({"site": secret})})
        yield lambda secret=secret: RecordDict({"failure": ConfigRecord({"code": secret})})
        yield lambda secret=secret: RecordDict(
            {"failure": ConfigRecord({"code": "bad_cohort", "why": secret})}
        )
        yield lambda secret=secret: RecordDict(
            {**metrics(), "ledger": ConfigRecord({"entries": 3, "head": secret})}
        )
        yield lambda secret=secret: RecordDict(
            {**metrics(), "weights": ArrayRecord({secret: Array(np.zeros(3, np.float32))})}
        )
    coded = [ord(letter) for letter in SECRETS[0]]
    for value in (math.nan, math.inf, 1e30, [1.0], coded):
        yield lambda value=value: metrics(own={"paper.selected.beat-auc.total": value})
        yield lambda value=value: metrics(own={"control.permuted.gain.strip-accuracy.total-sq": value})
    yield lambda: metrics(own={"generic.histogram.positive": coded * protocol.MAX_LIST})


ANSWERS = list(hostile_answers())
HELLO = [
    {"site": SECRETS[1]},
    {"site": MARKUP},
    {"software": SECRETS[2]},
    {"software": MARKUP},
    {"task": SECRETS[0]},
    {"preprocessing": SECRETS[3]},
    {SECRETS[0]: "x"},
]
OLD, HONEST, RAISES = "old", "honest", "raises"


def test_nothing_a_site_tries_reaches_the_story_or_the_page_and_the_honest_one_does(
    federate: Make, settings_with: Make, fake_client: Make, tmp_path: Path, capfd: Any, caplog: Any
) -> None:
    names = [HONEST, OLD, RAISES, *(f"answer-{n}" for n in range(len(ANSWERS)))]
    hellos = [f"hello-{n}" for n in range(len(HELLO))]

    def personalize(site: str) -> RecordDict:
        if site == RAISES:
            raise ValueError(SECRETS[1])
        return protocol.reply(honest()) if site == HONEST else ANSWERS[int(site.split("-")[1])]()

    def hello(site: str, info: dict[str, Any]) -> dict[str, Any]:
        if site == OLD:
            return {**info, "protocol": protocol.VERSION - 1}
        return {**info, **HELLO[int(site.split("-")[1])]} if site in hellos else info

    app = fake_client(settings_with(rounds=1), personalize=personalize, hello=hello)
    federate(settings_with(rounds=1), (*names, *hellos), app=app)
    story = read_json(tmp_path / "out" / "server.json")
    assert list(story["personalize"]) == [HONEST]
    assert story["personalize"][HONEST] == honest()
    refused = {code for site, code in story["personalize_failures"].items() if site != RAISES}
    assert refused == {"bad_reply"}
    assert set(story["personalize_failures"]) == {*names} - {HONEST, OLD}
    assert len(story["refused"]) == 1 + len(HELLO)
    path = tmp_path / "summary.html"
    write_summary([tmp_path / "out"], path)
    page, said = path.read_text(), capfd.readouterr()
    for text in ((tmp_path / "out" / "server.json").read_text(), page, said.out, said.err, caplog.text):
        for secret in (*SECRETS, MARKUP):
            assert secret not in text
            assert json.dumps(secret)[1:-1] not in text
    # A site of the former version is told apart in a sentence, by name.
    versions = rf"{OLD} did not take part: runs protocol {protocol.VERSION - 1} of software .*"
    assert re.search(rf"{versions}this server protocol {protocol.VERSION} ", re.sub("<[^>]+>", "", page))


# --- files that were changed --------------------------------------------------------------------------------


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return the folder of a finished federation of two sites."""
    Story(make_settings(), "main", status="finished", sites=("north", "south")).write(tmp_path, None)
    story = read_json(tmp_path / "server.json")
    story["personalize"] = {"north": honest(), "south": honest(7)}
    story["personalize_failures"] = {"west": "bad_cohort"}
    story["refused"] = {"east": "is set up for another task", "node 00000000000000000012": "did not answer"}
    story["evaluations"] = [{"round": 0, "loss": 0.5, "patients": 30, "beats": 900, "sites": ["north"]}]
    story["rounds"] = [
        {
            "round": 1, "learning_rate": 1e-3, "asked": ["north", "south"], "trained": ["north"],
            "answered": ["north"], "failures": {"south": "no_answer"}, "train_loss": 0.4,
            "train_patients": 30, "train_strips": 90, "train_beats": 900, "seconds": 1.0,
        }
    ]  # fmt: skip
    chosen = {"round": 1, "rule": "last weights", "loss": 0.5, "patients": 30, "sha256": "ab" * 32}
    write_json(tmp_path / "server.json", story | {"selected": chosen, "schedule": "cosine"})
    return tmp_path


@pytest.mark.parametrize("text", [*SECRETS, MARKUP])
def test_a_changed_answer_or_name_makes_no_page_and_is_not_quoted(out: Path, text: str) -> None:
    story = read_json(out / "server.json")
    changes: list[dict[str, Any]] = [
        {"personalize": {"north": {**honest(), text: 1}}},
        {"personalize": {"north": {**honest(), "suppressed": text}}},
        {"personalize": {"north": {**honest(), "last.selected.beat-f1.n": math.nan}}},
        {"personalize": {"north": [text]}},
    ]
    if not protocol.SITE_NAME.fullmatch(text):  # one lower-case word may be the name of a site
        changes += [
            {"personalize": {text: honest()}},
            {"personalize_failures": {text: "bad_cohort"}},
            {"refused": {text: "why"}},
            {"sites": ["north", text]},
        ]
    for change in changes:
        (out / "server.json").write_text(json.dumps(story | change))  # not a number is written as well
        with pytest.raises(FedkalemiaError) as raised:
            write_summary([out], out / "summary.html")
        assert text not in str(raised.value)
        assert "run the federation again" in str(raised.value)
    assert not (out / "summary.html").exists()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every text in a story but its settings, which are validated."""
    if isinstance(value, dict):
        for key, own in value.items():
            if (*path, key) != ("settings",):
                yield from places(own, (*path, key))
    elif isinstance(value, list):
        for number, own in enumerate(value):
            yield from places(own, (*path, number))
    elif isinstance(value, str):
        yield path


def test_markup_in_any_text_of_a_story_is_refused_or_shown_as_text(out: Path) -> None:
    story = read_json(out / "server.json")
    found = list(places(story))
    assert len(found) > 15
    kept = copy.deepcopy(story)
    for path in found:
        changed = copy.deepcopy(story)
        for target in (changed, kept):
            inside = target
            for step in path[:-1]:
                inside = inside[step]
            before, inside[path[-1]] = inside[path[-1]], MARKUP
        write_json(out / "server.json", changed)
        try:
            load(out)
        except FedkalemiaError:
            inside[path[-1]] = before  # the last one is that of kept
    write_json(out / "server.json", kept)
    write_summary([out], out / "summary.html")
    page = (out / "summary.html").read_text()
    assert MARKUP not in page
    assert "&lt;img" in page, "what the server wrote itself is shown as text"


# --- numbers below the smallest cell ------------------------------------------------------------------------


def test_numbers_over_fewer_patients_than_the_runs_smallest_cell_are_not_shown(out: Path) -> None:
    story = read_json(out / "server.json")
    few = Moments.of([0.123456, 0.1, 0.2])
    for prefix in (
        "last.t_wave.strip-accuracy",
        "control.days.gain.strip-accuracy",
        "paper.published.beat-auc",
    ):
        story["personalize"]["south"] |= few.as_flat(prefix)
    story["personalize"]["south"]["table-one.personal.patients"] = 3
    write_json(out / "server.json", story)
    told = load(out)
    assert told.left_out("south") == 10
    content = page_content([told])
    (ways,) = [row for row in content["tables"]["ways"].rows if row[0] == "T-wave features"]
    assert ways[1:3] == ["8", "1"], "north alone"
    page = render(TEMPLATE, content)
    assert "Site south sent 10 numbers over fewer than 5 patients." in page
    assert "table-one" not in page


KEYS = st.sampled_from(
    [
        *honest(),
        "outcome.personal",
        "selected.generic",
        "guard.hits",
        "cohort.test.patients",
        "cohort.test.gap",
    ]
)


@given(st.dictionaries(KEYS, st.integers(0, 9)), st.integers(1, 6))
def test_what_is_admitted_counts_nobody_or_enough_and_is_unchanged(
    flat: dict[str, int], smallest: int
) -> None:
    shown = admitted(flat, smallest)
    assert shown.items() <= flat.items()
    for key, value in shown.items():
        if OF_PATIENTS.fullmatch(key) or key.endswith(".n"):
            assert value == 0 or value >= smallest
        if key.endswith(".total"):
            assert f"{key.removesuffix('total')}n" in shown or f"{key.removesuffix('total')}n" not in flat


# --- the page asks for nothing else -------------------------------------------------------------------------


class Listening(dict[str, Any]):
    """An answer that remembers which keys it was asked for."""

    asked: set[str] = set()  # noqa: RUF012

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


@pytest.mark.parametrize("name", sorted(task.TASKS))
def test_the_page_asks_for_no_key_that_the_protocol_does_not_list(out: Path, name: str) -> None:
    told = load(out)
    told = replace(told, settings=make_settings(name), answers={"north": Listening(honest())})
    Listening.asked.clear()
    page_content([told])
    listed = protocol.ALLOWED[protocol.PERSONALIZE]["reply"]["metrics"]
    assert len(Listening.asked) > 200
    unlisted = {key for key in Listening.asked if not any(re.fullmatch(pattern, key) for pattern in listed)}
    assert not unlisted

"""The round loop: who takes part, what a failing site does to others, and going on after an interruption."""

from __future__ import annotations

import gc
import json
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from common import protocol
from common.config import Settings
from common.errors import ConfigurationError, FederationError
from common.generic import load_generic
from common.protocol import RoundPlan
from common.weights import Weights
from server.federation import Federation, FederationResult
from simulation.grid import NoAnswer, run_in_process

SECRET = "patient 4711 of ward 9"

Make = Callable[..., Any]


def story(tmp_path: Path, out: str = "out") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((tmp_path / out / "server.json").read_text())
    return loaded


def bytes_of(tmp_path: Path, out: str = "out") -> tuple[bytes, bytes]:
    folder = tmp_path / out
    return (folder / "best.safetensors").read_bytes(), (folder / "last.safetensors").read_bytes()


def test_a_federation_leaves_a_generic_model_and_its_story(
    federate: Make, settings_with: Make, tmp_path: Path
) -> None:
    result: FederationResult = federate(settings_with())
    told = story(tmp_path)
    assert told["status"] == "finished"
    assert told["sites"] == ["a", "bb", "ccc"]
    assert [entry["round"] for entry in told["rounds"]] == [1, 2, 3, 4]
    assert [entry["round"] for entry in told["evaluations"]] == [0, 1, 2, 3, 4]
    assert told["evaluations"][0]["patients"] == 30
    assert told["selected"]["rule"] == "best of median-3 validation"
    assert told["personalize"] == {name: {"flow.accepted": 3} for name in ("a", "bb", "ccc")}
    saved = load_generic(tmp_path / "out" / "best.safetensors")
    assert saved.weights.digest() == result.model.weights.digest() == told["selected"]["sha256"]


def test_the_order_and_number_of_nodes_do_not_change_a_bit(
    federate: Make, settings_with: Make, tmp_path: Path
) -> None:
    settings = settings_with(fraction=0.6)
    federate(settings, ("a", "bb", "ccc", "dddd"), out="one")
    federate(settings, ("ccc", "dddd", "a", "bb"), out="two")
    federate(settings, ("bb", "a", "dddd", "ccc"), out="three", workers=3)
    assert bytes_of(tmp_path, "one") == bytes_of(tmp_path, "two") == bytes_of(tmp_path, "three")


def test_sampling_follows_the_seed_and_not_the_run(
    federate: Make, settings_with: Make, tmp_path: Path
) -> None:
    settings = settings_with(fraction=0.5, rounds=8)
    federate(settings, ("a", "bb", "ccc", "dddd"))
    asked = [tuple(entry["asked"]) for entry in story(tmp_path)["rounds"]]
    assert all(len(names) == 2 for names in asked)
    assert len(set(asked)) > 1
    assert all(entry["answered"] == ["a", "bb", "ccc", "dddd"] for entry in story(tmp_path)["rounds"])


@pytest.mark.parametrize("moment", [(1, "a"), (2, "ccc"), (4, "bb"), (5, "a")])
def test_an_interrupted_federation_ends_with_the_bytes_of_an_uninterrupted_one(
    federate: Make,
    settings_with: Make,
    fake_client: Make,
    answer_round: Make,
    tmp_path: Path,
    moment: tuple[int, str],
) -> None:
    settings: Settings = settings_with()
    federate(settings, out="whole")

    def stopping(site: str, plan: RoundPlan, weights: Weights) -> RecordDict:
        if (plan.round, site) == moment:
            raise KeyboardInterrupt
        answer: RecordDict = answer_round(site, plan, weights)
        return answer

    with pytest.raises(KeyboardInterrupt):
        federate(settings, app=fake_client(settings, stopping))
    assert story(tmp_path)["status"] == "interrupted"
    assert len(story(tmp_path)["rounds"]) == moment[0] - 1
    federate(settings)
    assert bytes_of(tmp_path) == bytes_of(tmp_path, "whole")
    assert story(tmp_path)["evaluations"] == story(tmp_path, "whole")["evaluations"]


def test_a_run_that_is_about_to_be_killed_says_first_that_it_was_stopped(
    federate: Make, settings_with: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine gives a stopped run five seconds, however busy the machine is."""
    settings = settings_with()
    begun: list[Federation] = []
    seen: list[str] = []
    take_up, train = Federation._take_up, Federation._round

    def remembered(self: Federation) -> bool:
        begun.append(self)
        return take_up(self)

    def stopped(self: Federation, progress: Any) -> None:
        train(self, progress)
        self.interrupted()
        seen.append(story(tmp_path)["status"])
        raise KeyboardInterrupt

    monkeypatch.setattr(Federation, "_take_up", remembered)
    with monkeypatch.context() as once:
        once.setattr(Federation, "_round", stopped)
        with pytest.raises(KeyboardInterrupt):
            federate(settings)
    assert seen == ["interrupted"]
    for _ in range(2):
        federate(settings)
        begun[-1].interrupted()  # as on the engine's way out of every run
        assert story(tmp_path)["status"] == "finished"


def test_a_finished_federation_is_returned_without_asking_anybody(
    federate: Make, settings_with: Make, tmp_path: Path
) -> None:
    settings = settings_with()
    first = federate(settings)
    before = (tmp_path / "out" / "server.json").read_bytes()

    def nobody(node: int, message: Message) -> None:
        raise AssertionError("a site was asked")

    again = federate(settings, before=nobody)
    assert again.model.weights.digest() == first.model.weights.digest()
    assert again.personalize == first.personalize
    assert (tmp_path / "out" / "server.json").read_bytes() == before


def test_only_sites_that_did_not_personalize_are_asked_again(
    federate: Make, settings_with: Make, fake_client: Make, tmp_path: Path
) -> None:
    settings = settings_with()
    asked: list[str] = []

    def first(site: str) -> RecordDict:
        return protocol.failure("bad_cohort") if site == "bb" else protocol.reply({"flow.accepted": 1})

    def second(site: str) -> RecordDict:
        asked.append(site)
        return protocol.reply({"flow.accepted": 2})

    federate(settings, app=fake_client(settings, personalize=first))
    assert story(tmp_path)["personalize_failures"] == {"bb": "bad_cohort"}
    federate(settings, app=fake_client(settings, personalize=second))
    assert asked == ["bb"]
    assert story(tmp_path)["personalize"]["bb"] == {"flow.accepted": 2}
    assert story(tmp_path)["personalize_failures"] == {}


def test_other_settings_in_the_same_folder_are_refused_and_fresh_starts_anew(
    federate: Make, settings_with: Make, tmp_path: Path
) -> None:
    federate(settings_with())
    with pytest.raises(ConfigurationError, match="other settings"):
        federate(settings_with(rounds=5))
    assert story(tmp_path)["status"] == "finished"
    federate(settings_with(rounds=5), fresh=True)
    assert len(story(tmp_path)["rounds"]) == 5


def test_an_early_stop_stays_one_even_if_the_last_weights_turn_out_better(
    federate: Make, settings_with: Make, fake_client: Make, answer_round: Make, tmp_path: Path
) -> None:
    settings = settings_with(rounds=12, stop_rounds=2)

    def flat(site: str, plan: RoundPlan, weights: Weights) -> RecordDict:
        answer: RecordDict = answer_round(site, plan, weights)
        answer.metric_records["metrics"]["validation-loss-total"] = 10.0 if plan.train else 1.0
        return answer

    federate(settings, app=fake_client(settings, flat))
    rounds, before = len(story(tmp_path)["rounds"]), bytes_of(tmp_path)
    assert rounds < 12
    (tmp_path / "out" / "server.json").unlink()
    federate(settings, app=fake_client(settings, flat))
    assert len(story(tmp_path)["rounds"]) == rounds
    assert bytes_of(tmp_path) == before


# --- failing sites ----------------------------------------------------------------------------------------


def broken(kind: str, answer_round: Make) -> Callable[[str, RoundPlan, Weights], RecordDict]:
    """Answers of which site ccc's are unusable in one way."""

    def round_(site: str, plan: RoundPlan, weights: Weights) -> RecordDict:
        answer: RecordDict = answer_round(site, plan, weights)
        if site != "ccc" or not plan.train:
            return answer
        moved = protocol.read_weights(answer)
        if kind == "nan":
            moved.trainable[7] = np.nan
        elif kind == "infinite statistics":
            moved.statistics[0] = np.inf
        elif kind == "wrong size":
            moved = Weights(moved.trainable[:-1], moved.statistics)
        elif kind == "raises":
            raise RuntimeError(SECRET)
        elif kind == "unknown key":
            return RecordDict({**answer, "metrics": type(answer.metric_records["metrics"])({"age": 81})})
        elif kind == "unknown record":
            return RecordDict({**answer, "note": ConfigRecord({"text": SECRET})})
        elif kind == "free text as code":
            return RecordDict({"failure": ConfigRecord({"code": SECRET})})
        elif kind == "code":
            return protocol.failure("bad_cohort")
        metrics = dict(answer.metric_records["metrics"])
        return protocol.reply(metrics, moved)  # type: ignore[arg-type]

    return round_


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("nan", "bad_weights"),
        ("infinite statistics", "bad_weights"),
        ("wrong size", "bad_weights"),
        ("raises", "unreachable"),
        ("unknown key", "bad_reply"),
        ("unknown record", "bad_reply"),
        ("free text as code", "bad_reply"),
        ("code", "bad_cohort"),
    ],
)
def test_an_unusable_answer_is_a_failure_of_its_site_only(
    federate: Make,
    settings_with: Make,
    fake_client: Make,
    answer_round: Make,
    tmp_path: Path,
    kind: str,
    code: str,
) -> None:
    settings = settings_with()
    result = federate(settings, app=fake_client(settings, broken(kind, answer_round)))
    told = story(tmp_path)
    assert [entry["failures"] for entry in told["rounds"]] == [{"ccc": code}] * 4
    assert told["failure_sentences"][code] == protocol.sentence(code)
    assert SECRET not in (tmp_path / "out" / "server.json").read_text()
    assert np.isfinite(result.model.weights.trainable).all()
    # the same as if the site had never been there, apart from its validation after the last round
    federate(settings, ("a", "bb"), out="without", personalize=False)
    assert told["rounds"][0]["train_beats"] == story(tmp_path, "without")["rounds"][0]["train_beats"]


def test_too_few_sites_end_the_run_with_every_site_s_sentence(
    federate: Make, settings_with: Make, fake_client: Make, answer_round: Make, tmp_path: Path
) -> None:
    settings = settings_with(min_sites=3)
    with pytest.raises(FederationError) as raised:
        federate(settings, app=fake_client(settings, broken("code", answer_round)))
    assert "2 of 3 sites answered, 3 must" in str(raised.value)
    assert f"ccc: {protocol.FAILURES['bad_cohort']}" in str(raised.value)
    told = story(tmp_path)
    assert told["status"] == "failed"
    assert told["failure"] == str(raised.value)


def test_a_silent_site_is_waited_for_no_longer_than_the_time_allowed(
    federate: Make, settings_with: Make, tmp_path: Path
) -> None:
    def silent(node: int, message: Message) -> None:
        if node == 1002 and message.metadata.message_type == protocol.ROUND:
            raise NoAnswer

    federate(settings_with(rounds=2, round_timeout_s=0.4), before=silent, personalize=False)
    assert [entry["failures"] for entry in story(tmp_path)["rounds"]] == [{"ccc": "no_answer"}] * 2


def test_a_round_in_which_nobody_trains_is_an_error_that_says_why(
    federate: Make, settings_with: Make, fake_client: Make
) -> None:
    settings = settings_with()

    def only_validates(site: str, plan: RoundPlan, weights: Weights) -> RecordDict:
        return protocol.reply({"validation-patients": 5, "validation-loss-total": 1.0})

    with pytest.raises(FederationError, match=r"no site trained.*its own policy"):
        federate(settings, app=fake_client(settings, only_validates))


def test_sites_without_validation_patients_still_train(
    federate: Make, settings_with: Make, fake_client: Make, answer_round: Make, tmp_path: Path
) -> None:
    settings = settings_with()

    def trains_only(site: str, plan: RoundPlan, weights: Weights) -> RecordDict:
        answer: RecordDict = answer_round(site, plan, weights)
        metrics = {k: v for k, v in protocol.sums(answer).items() if k.startswith("train-")}
        return protocol.reply(metrics, protocol.read_weights(answer) if plan.train else None)

    result = federate(settings, app=fake_client(settings, trains_only))
    assert result.selection.rule == "last weights of a decaying schedule"
    assert result.selection.round == 4
    rates = [entry["learning_rate"] for entry in story(tmp_path)["rounds"]]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]


# --- joining ----------------------------------------------------------------------------------------------


def test_two_nodes_with_one_name_are_refused(federate: Make, settings_with: Make) -> None:
    with pytest.raises(FederationError, match="two nodes call themselves 'bb'"):
        federate(settings_with(), ("a", "bb", "bb"))


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("protocol", 99, f"runs protocol 99 .* this server protocol {protocol.VERSION}"),
        ("software", "9.9.9", f"software 9.9.9, this server .* software {protocol.software()}"),
        ("task", "ventricular", "set up for the task ventricular, this run is hyperkalemia"),
        ("preprocessing", "ab" * 32, "prepares its beats with settings abababababab"),
    ],
)
def test_a_site_that_does_not_fit_is_refused_by_name(
    federate: Make,
    settings_with: Make,
    fake_client: Make,
    tmp_path: Path,
    key: str,
    value: object,
    sentence: str,
) -> None:
    settings = settings_with()

    def other(site: str, info: dict[str, Any]) -> dict[str, Any]:
        return {**info, key: value} if site == "bb" else info

    federate(settings, app=fake_client(settings, hello=other), personalize=False)
    told = story(tmp_path)
    assert told["sites"] == ["a", "ccc"]
    assert list(told["refused"]) == ["bb"]
    with pytest.raises(FederationError, match=f"bb: .*{sentence}"):
        federate(settings, ("a", "bb"), app=fake_client(settings, hello=other), out="few")


@pytest.mark.parametrize("name", ["Berlin", "a b", "x" * 40, "../../etc", SECRET])
def test_a_name_that_is_not_a_site_name_never_enters(
    federate: Make, settings_with: Make, fake_client: Make, tmp_path: Path, name: str
) -> None:
    settings = settings_with()

    def other(site: str, info: dict[str, Any]) -> dict[str, Any]:
        return {**info, "site": name} if site == "bb" else info

    federate(settings, app=fake_client(settings, hello=other), personalize=False)
    assert story(tmp_path)["sites"] == ["a", "ccc"]
    assert name not in (tmp_path / "out" / "server.json").read_text()


def test_no_site_at_all_says_what_to_check(federate: Make, settings_with: Make) -> None:
    with pytest.raises(FederationError, match=r"0 of at least 2 sites.*connected"):
        federate(settings_with(join_timeout_s=0.1), ())


# --- what it costs ----------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_number_of_sites(
    federate: Make, settings_with: Make, fake_client: Make
) -> None:
    settings = settings_with(rounds=1)
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"width": 16})})
    weights_bytes = 0

    def train(site: str, plan: RoundPlan, weights: Weights) -> RecordDict:
        nonlocal weights_bytes
        weights_bytes = weights.trainable.nbytes
        metrics = {"train-beats": 1, "train-loss-total": 0.5} if plan.train else {}
        return protocol.reply(metrics, weights if plan.train else None)

    def peak(sites: int) -> int:
        names = tuple("s" + "x" * n for n in range(sites))
        gc.collect()
        tracemalloc.start()
        federate(settings, names, app=fake_client(settings, train), out=f"{sites}", personalize=False)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    gc.disable()  # what is freed must be freed at once, not at the next collection
    try:
        peak(2)
        few, many = peak(4), peak(24)
    finally:
        gc.enable()
    assert many - few < 3 * weights_bytes


def test_ctrl_c_stops_sites_and_leaves_no_thread(
    federate: Make, settings_with: Make, fake_client: Make, tmp_path: Path
) -> None:
    settings = settings_with()
    ended = threading.Event()

    def endless(site: str, plan: RoundPlan, weights: Weights) -> RecordDict:
        if site == "bb":
            raise KeyboardInterrupt
        try:
            while True:
                time.sleep(0.01)
        finally:
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        federate(settings, ("bb", "ccc"), app=fake_client(settings, endless), workers=2)
    assert ended.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("site-")]
    assert story(tmp_path)["status"] == "interrupted"


# --- coming and going -------------------------------------------------------------------------------------


def moving(
    settings: Settings, out: Path, app: Any, names: list[str], present: Callable[[int], list[int]]
) -> dict[str, Any]:
    """Run a federation whose connected nodes (by position) depend on how often they were asked for."""
    server, asked = ServerApp(), 0

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        everyone = list(grid.get_node_ids())

        def get_node_ids() -> list[int]:
            nonlocal asked
            asked += 1
            return [everyone[position] for position in present(asked)]

        grid.get_node_ids = get_node_ids  # type: ignore[method-assign]
        Federation(grid, settings, out, "main", personalize=False).run()

    run_in_process(server, app, [{"name": name} for name in names], {})
    told: dict[str, Any] = json.loads((out / "server.json").read_text())
    return told


def test_a_site_that_comes_late_takes_part_and_one_that_leaves_is_not_waited_for(
    settings_with: Make, fake_client: Make, tmp_path: Path
) -> None:
    settings = settings_with()
    told = moving(
        settings,
        tmp_path,
        fake_client(settings),
        ["a", "bb", "ccc"],
        lambda asked: [0, 1] if asked <= 3 else [0, 1, 2] if asked == 4 else [1, 2],
    )
    answered = [entry["answered"] for entry in told["rounds"]]
    assert answered[:2] == [["a", "bb"], ["a", "bb", "ccc"]]
    assert answered[2:] == [["bb", "ccc"]] * 2


def test_a_late_comer_cannot_take_a_name_or_end_the_run(
    settings_with: Make, fake_client: Make, tmp_path: Path
) -> None:
    settings = settings_with()
    told = moving(
        settings,
        tmp_path,
        fake_client(settings),
        ["a", "bb", "bb"],
        lambda asked: [0, 1] if asked <= 3 else [0, 1, 2],
    )
    assert told["status"] == "finished"
    assert told["sites"] == ["a", "bb"]
    assert list(told["refused"].values()) == [f"{protocol.sentence('name_taken')} (bb)"]

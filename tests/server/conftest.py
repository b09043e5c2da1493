"""Sites without patients: ClientApps that answer from arithmetic, and the settings they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from common import protocol
from common.config import Settings, make_settings
from common.protocol import RoundPlan
from common.weights import Weights
from server.federation import Federation, FederationResult
from simulation.grid import run_in_process

SETTINGS: dict[str, Any] = {
    "model": {"depth": 18, "width": 4},
    "federation": {"rounds": 4, "min_sites": 2, "join_timeout_s": 5.0, "round_timeout_s": 20.0},
}


def settings_with(**federation: Any) -> Settings:
    """Small settings, with some of the federation section changed."""
    values = {**SETTINGS, "federation": {**SETTINGS["federation"], **federation}}
    return make_settings("hyperkalemia", "standard", values)


def answer_round(site: str, plan: RoundPlan, weights: Weights) -> RecordDict:
    """Move the weights by an amount that depends on site and round; the loss falls from round to round."""
    loss = 1.0 / (1 + plan.round) + 0.01 * len(site)
    metrics = {"validation-patients": 10, "validation-beats": 100, "validation-loss-total": 10 * loss}
    if not plan.train:
        return protocol.reply(metrics)
    step = np.random.default_rng([len(site), plan.round]).normal(size=weights.trainable.size)
    moved = Weights(
        (weights.trainable + 1e-3 * step).astype(np.float32), weights.statistics * np.float32(0.9)
    )
    beats = 100 * (1 + len(site))
    trained = {"train-patients": 5, "train-strips": 9, "train-beats": beats, "train-loss-total": 0.5 * beats}
    return protocol.reply({**metrics, **trained}, moved)


def fake_client(
    settings: Settings,
    round_: Callable[[str, RoundPlan, Weights], RecordDict] = answer_round,
    hello: Callable[[str, dict[str, Any]], dict[str, Any]] = lambda site, info: info,
    personalize: Callable[[str], RecordDict] = lambda site: protocol.reply({"flow.accepted": 3}),
    sealed: Callable[[str, RecordDict], RecordDict] = lambda site, content: content,
) -> ClientApp:
    """Make a ClientApp whose sites are named by their node configuration and know the settings.

    ``sealed`` gets every reply last, as the gate of a site does.
    """
    app = ClientApp()

    @app.query("hello")
    def _hello(message: Message, context: Context) -> Message:
        info = {
            "site": str(context.node_config["name"]),
            "protocol": protocol.VERSION,
            "software": protocol.software(),
            "task": settings.task,
            "preprocessing": settings.preprocessing_digest(),
        }
        site = str(context.node_config["name"])
        content = RecordDict({"config": ConfigRecord(hello(site, info))})
        return Message(sealed(site, content), reply_to=message)

    def _round(message: Message, context: Context) -> Message:
        plan = RoundPlan.from_config(message.content.config_records["config"])
        weights = protocol.read_weights(message.content)
        site = str(context.node_config["name"])
        return Message(sealed(site, round_(site, plan, weights)), reply_to=message)

    app.train("round")(_round)
    app.evaluate("round")(_round)

    @app.query("personalize")
    def _personalize(message: Message, context: Context) -> Message:
        site = str(context.node_config["name"])
        return Message(sealed(site, personalize(site)), reply_to=message)

    return app


Federate = Callable[..., FederationResult]


@pytest.fixture(name="settings_with")
def settings_with_fixture() -> Callable[..., Settings]:
    return settings_with


@pytest.fixture(name="fake_client")
def fake_client_fixture() -> Callable[..., ClientApp]:
    return fake_client


@pytest.fixture(name="answer_round")
def answer_round_fixture() -> Callable[..., RecordDict]:
    return answer_round


@pytest.fixture
def federate(tmp_path: Path) -> Federate:
    """Run a federation of fake sites in this process and return its result."""

    def run(
        settings: Settings,
        names: tuple[str, ...] = ("a", "bb", "ccc"),
        app: ClientApp | None = None,
        out: str = "out",
        before: Callable[[int, Message], None] | None = None,
        workers: int = 1,
        registered: Mapping[int, str] | None = None,
        **options: Any,
    ) -> FederationResult:
        results: list[FederationResult] = []
        server = ServerApp()

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            results.append(
                Federation(grid, settings, tmp_path / out, "main", names=registered, **options).run()
            )

        nodes = [{"name": name} for name in names]
        run_in_process(server, app or fake_client(settings), nodes, {}, workers=workers, before=before)
        return results[0]

    return run

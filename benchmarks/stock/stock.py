"""Federated averaging as Flower's own documentation shows it, on our model, data and local training.

A train and an evaluate message per round, the model as one array per layer, Flower's FedAvg, Flower's loop.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from common.config import Settings
from common.seeding import torch_stream

client = ClientApp()
server = ServerApp()


@server.main()
def average(grid: Grid, context: Context) -> None:
    """Run the rounds; leave the time at which each ended."""
    from common.model import build_model

    config = context.run_config
    settings, out, sites = settings_of(config), Path(str(config["out"])), int(config["sites"])
    initial = build_model(settings.model, torch_stream(settings.seed, "initial"))
    ends: list[float] = []

    def note(number: int, arrays: ArrayRecord) -> None:
        ends.append(time.time())
        out.with_suffix(".part").write_text(json.dumps(ends))

    FedAvg(min_train_nodes=sites, min_evaluate_nodes=sites, min_available_nodes=sites).start(
        grid, ArrayRecord(initial.state_dict()), num_rounds=int(config["rounds"]), evaluate_fn=note
    )
    out.with_suffix(".part").rename(out)


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train from the weights that arrived, with the steps our own site would take."""
    from client.learning.training import train_generic

    site, network, strips, store = prepared(message, context, "train")
    training = settings_of(context.run_config).training
    outcome = train_generic(network, strips, store, training, (0, "train", site, 1))
    metrics = MetricRecord({"num-examples": outcome.beats, "loss": outcome.loss_total / outcome.beats})
    arrays = ArrayRecord(network.state_dict())
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the validation strips with the weights that arrived."""
    from client.learning.evaluation import patient_loss, score_strips

    _, network, strips, store = prepared(message, context, "validation")
    beats = settings_of(context.run_config).training.beats_per_strip
    loss = patient_loss(score_strips(network, strips, store, beats))
    metrics = MetricRecord({"num-examples": loss.patients, "loss": loss.mean or 0.0})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def prepared(message: Message, context: Context, split: str):  # type: ignore[no-untyped-def]
    """Return the site's name, the network with the weights that arrived, the split's strips and the beats."""
    import torch

    from client.data.beatstore import BeatStore
    from client.learning.access import cohort_run, generic_strips, opened
    from client.site import load_site
    from common.model import build_model

    site = load_site(Path(str(context.node_config["site-folder"])))
    torch.set_num_threads(site.settings.threads)
    settings = settings_of(context.run_config)
    network = build_model(settings.model, torch_stream(settings.seed, "initial"))
    network.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    with opened(site) as factory, factory() as session:
        strips = generic_strips(site, session, cohort_run(session, site, "main"), split)
    return site.name, network, strips, BeatStore(site.beats)


def settings_of(config: Mapping[str, object]) -> Settings:
    """Read the settings both sides of the benchmark share."""
    return Settings.model_validate_json(Path(str(config["settings"])).read_text())

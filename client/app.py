"""The Flower ClientApp: a site's answers to the server, each a few lines.

The site's policy is applied to every request and every reply here, so that it holds in simulation as it does
in a deployment. Whatever goes wrong inside a handler, the server gets a code that stands for a fixed
sentence; what was wrong and where goes to the site's own log and nowhere else. Only what stops the process
itself (Ctrl-C, exit) passes through: an operator who stops a site must not see it go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.gate import policy
from client.gate.telling import told
from client.site import Site, load_site
from common import protocol
from common.errors import ConfigurationError, FedkalemiaError, TaskError
from common.logs import LOGGER, site_log
from common.protocol import RoundPlan, RunPlan
from common.workers import shared_workers

Handler = Callable[[Site, RecordDict], RecordDict]
Plan = TypeVar("Plan", bound=RunPlan)


class SiteApp(ClientApp):
    """A ClientApp that answers a message it has no handler for with a fixed code, not with an error text."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer one message."""
        if message.metadata.message_type in protocol.ALLOWED:
            return super().__call__(message, context)
        folder = Path(str(context.node_config.get("site-folder", "")))
        _log(folder).warning("refused a message of a type that is not in the protocol")
        return Message(protocol.failure(TaskError.code), reply_to=message)


app = SiteApp()


def answers(message_type: str) -> Callable[[Handler], Callable[[Message, Context], Message]]:
    """Turn a function of site and content into a handler that checks both ways and keeps errors at home."""

    def decorate(handler: Handler) -> Callable[[Message, Context], Message]:
        def handle(message: Message, context: Context) -> Message:
            return Message(_answer(message_type, handler, message, context), reply_to=message)

        return handle

    return decorate


def _answer(message_type: str, handler: Handler, message: Message, context: Context) -> RecordDict:
    folder = Path(str(context.node_config.get("site-folder", "")))
    began = time.monotonic()
    try:
        if "site-folder" not in context.node_config:
            raise ConfigurationError("the node configuration has no site-folder; start the node with one")
        protocol.check(message.content, message_type, "request")
        site = load_site(folder)
        rules = site.settings.policy
        policy.check_request(rules, message_type, message.content, datetime.now().astimezone())
        content = handler(site, policy.clamp(rules, message_type, message.content))
        protocol.check(content, message_type, "reply")
        enforced = policy.enforce(rules, message_type, message.content, content)
    except Exception as error:
        _log(folder).error("%s failed: %s", message_type, told(error))
        return protocol.failure(error.code if isinstance(error, FedkalemiaError) else "site_error")
    except BaseException:
        _log(folder).warning("%s stopped by its operator", message_type)
        raise
    for note in enforced.notes:
        _log(folder).warning("%s: %s", message_type, note)
    _log(folder).info("%s answered in %.1f s", message_type, time.monotonic() - began)
    return enforced.content


def _log(folder: Path) -> logging.Logger:
    """Return the site's log; without a site, this process's own, which stays on this machine too."""
    return site_log(folder.resolve() / "site.log") if (folder / "site.toml").is_file() else LOGGER


@app.query("hello")
@answers(protocol.HELLO)
def hello(site: Site, content: RecordDict) -> RecordDict:
    """Say who is here and what runs here; opens no database and loads no model."""
    asked = content.config_records["config"]
    other = (asked["software"], asked["protocol"])
    if other != (protocol.software(), protocol.VERSION):
        site_log(site.log).warning(
            "the coordinator runs version %s (protocol %s), this site %s (protocol %d); it will refuse this "
            "site until both are the same",
            *other,
            protocol.software(),
            protocol.VERSION,
        )
    return RecordDict(
        {
            "config": ConfigRecord(
                {
                    "site": site.name,
                    "protocol": protocol.VERSION,
                    "software": protocol.software(),
                    "task": site.settings.task,
                    "preprocessing": site.settings.preprocessing_digest(),
                }
            )
        }
    )


def federated_round(site: Site, content: RecordDict) -> RecordDict:
    """Validate the weights that arrived, train them if asked, answer both."""
    plan = _plan(site, content, RoundPlan)
    from client.learning import rounds

    answer = rounds.federated_round(site, protocol.read_weights(content), plan)
    return protocol.reply(answer.metrics, answer.weights)


app.train("round")(answers(protocol.ROUND)(federated_round))
app.evaluate("round")(answers(protocol.EVALUATE)(federated_round))


@app.query("personalize")
@answers(protocol.PERSONALIZE)
def personalize(site: Site, content: RecordDict) -> RecordDict:
    """Fit the weights that arrived to each personal patient; answer counts and sums only."""
    plan = _plan(site, content, RunPlan)
    from client.learning import rounds

    # Whoever runs several sites in one process has its own workers, which one site must not replace.
    with shared_workers(site.gate.workers) if site.gate.workers > 1 else nullcontext():
        metrics = rounds.personalize_site(site, protocol.read_weights(content), plan)
    return protocol.reply(metrics)


def _plan(site: Site, content: RecordDict, kind: type[Plan]) -> Plan:
    """Read the plan of a message and get ready to compute."""
    import torch  # only here: saying hello must stay quick

    torch.set_num_threads(site.settings.threads)
    return kind.from_config(content.config_records["config"])

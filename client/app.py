"""The Flower ClientApp: a site's answers to the server, each a few lines.

Whatever goes wrong inside a handler, the server gets a code that stands for a fixed sentence; the full text
goes to the site's own log and nowhere else. Only what stops the process itself (Ctrl-C, exit) passes through:
an operator who stops a site must not see it go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.site import Site, load_site
from common import protocol
from common.errors import ConfigurationError, FedkalemiaError, PolicyError
from common.logs import LOGGER, site_log
from common.protocol import RoundPlan, RunPlan

Handler = Callable[[Site, RecordDict], RecordDict]
Plan = TypeVar("Plan", bound=RunPlan)

app = ClientApp()


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
        content = handler(site, message.content)
        protocol.check(content, message_type, "reply")
    except Exception as error:
        _log(folder).exception("%s failed", message_type)
        return protocol.failure(error.code if isinstance(error, FedkalemiaError) else "site_error")
    except BaseException:
        _log(folder).warning("%s stopped by its operator", message_type)
        raise
    _log(folder).info("%s answered in %.1f s", message_type, time.monotonic() - began)
    return content


def _log(folder: Path) -> logging.Logger:
    """Return the site's log; without a site, this process's own, which stays on this machine too."""
    return site_log(folder.resolve() / "site.log") if (folder / "site.toml").is_file() else LOGGER


@app.query("hello")
@answers(protocol.HELLO)
def hello(site: Site, content: RecordDict) -> RecordDict:
    """Say who is here and what runs here; opens no database and loads no model."""
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
    if not site.settings.policy.personalize:
        raise PolicyError("policy.personalize is false: this site personalizes by its own command only")
    from client.learning import rounds

    return protocol.reply(rounds.personalize_site(site, protocol.read_weights(content), plan))


def _plan(site: Site, content: RecordDict, kind: type[Plan]) -> Plan:
    """Read the plan of a message and get ready to compute."""
    import torch  # only here: saying hello must stay quick

    torch.set_num_threads(site.settings.threads)
    return kind.from_config(content.config_records["config"])

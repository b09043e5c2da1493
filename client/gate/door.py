"""The one function that every reply of a site passes before it leaves.

Whatever answered (this installation's app, an approved bundle, or the engine itself with an error text), what
leaves is made here: only what the protocol lists and the policy allows, written down in the ledger first. The
reply's own envelope is never used: the new one is made from the request.
"""

from __future__ import annotations

from datetime import datetime

from flwr.app import ConfigRecord, Message, RecordDict

from client.gate.ledger import Ledger, ledger_of, record
from client.gate.policy import enforce
from client.site import Site
from common.errors import FedkalemiaError, LedgerError, ProtocolError
from common.logs import site_log
from common.protocol import ALLOWED, HELLO, VERSION, check, failure, failure_code, software


def leave(site: Site, message: Message, reply: Message) -> Message:
    """Return the reply that may leave the site.

    Parameters
    ----------
    site : whose policy, ledger and log are used.
    message : the request, with the content that arrived.
    reply : what answered it, content or error. None of it leaves that is not in the protocol.

    Returns
    -------
    A reply that carries the ledger's head. In place of one that may not leave, it carries a failure code:
    ``bad_message`` for what is not in the protocol, ``site_error`` for an error text of the engine, the
    policy's own code for what it forbids, ``ledger_failed`` where the whole reply could not be written down.

    Raises
    ------
    LedgerError
        If not even a failure can be written down. Then nothing may leave.
    """
    kind, log = message.metadata.message_type, site_log(site.log)
    try:
        content = _allowed(site, message, reply)
    except FedkalemiaError as error:
        log.error("%s: the reply does not leave: %s", _shown(kind), error)
        content = failure(error.code)
    except Exception as error:  # a fault of the door itself must not let anything through
        log.error("%s: the reply does not leave: the door failed with %s", _shown(kind), type(error).__name__)
        content = failure("site_error")
    ledger = ledger_of(site.gate_folder)
    try:
        left = _written(ledger, message, content)
    except LedgerError as error:
        log.error("%s: the reply does not leave: %s", _shown(kind), error)
        left = _written(ledger, message, failure(LedgerError.code))
    code = failure_code(left)
    log.info("%s of run %s left: %s", _shown(kind), message.metadata.run_id, code or "a result")
    return Message(left, reply_to=message)


def _allowed(site: Site, message: Message, reply: Message) -> RecordDict:
    """Return the part of a reply that may leave, before the ledger's head is in it."""
    kind = message.metadata.message_type
    if not reply.has_content():
        code = reply.error.code if reply.has_error() else 0
        site_log(site.log).error("%s: the engine answered with its error %d", _shown(kind), code)
        return failure("site_error")
    content = reply.content
    if "ledger" in content:
        raise ProtocolError("a reply brings a ledger head of its own; only the gate writes one")
    # Of a message that is not in the protocol nothing but a failure can leave.
    check(content, kind if kind in ALLOWED else HELLO, "reply")
    if kind not in ALLOWED and failure_code(content) is None:
        raise ProtocolError("a message that is not in the protocol was answered with a result")
    if kind == HELLO and failure_code(content) is None:
        _check_hello(site, content)
    enforced = enforce(site.settings.policy, kind, message.content, content)
    for note in enforced.notes:
        site_log(site.log).warning("%s: %s", _shown(kind), note)
    check(enforced.content, kind if kind in ALLOWED else HELLO, "reply")
    return enforced.content


def _check_hello(site: Site, content: RecordDict) -> None:
    """Refuse a hello that says anything but what is known here: texts could carry something else."""
    expected = {
        "site": site.name,
        "protocol": VERSION,
        "software": software(),
        "task": site.settings.task,
        "preprocessing": site.settings.preprocessing_digest(),
    }
    if dict(content.config_records["config"]) != expected:
        raise ProtocolError("the answer to a hello says something else than this site's name and versions")


def _written(ledger: Ledger, message: Message, content: RecordDict) -> RecordDict:
    """Write a reply down and return it with the ledger's new head."""
    data = message.metadata
    # The type comes from outside and may be any text; the ledger holds it only if it is known.
    kind = data.message_type if data.message_type in ALLOWED else "unknown"
    head = record(ledger, kind, data.run_id, content, datetime.now().astimezone(), data.message_id)
    seal = ConfigRecord({"entries": head.entries, "head": head.digest})
    return RecordDict({**content, "ledger": seal})


def _shown(message_type: str) -> str:
    return message_type if message_type in ALLOWED else "a message of an unknown type"
